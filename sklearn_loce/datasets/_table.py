"""Common parts of the loaders: parameters, files and the Bunch of a table."""

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions

from .._samples.masks import compress_rle, read_mask
from ._shapes import SHAPES

# Constraints of the parameters of all loaders, for validate_params.
TABLE_CONSTRAINTS = {
    "categories": ["array-like", None],
    "merge_instances": ["boolean"],
    "min_area": [
        Interval(Integral, 0, None, closed="left"),
        Interval(Real, 0, 1, closed="both"),
    ],
    "mask": [StrOptions(set(SHAPES))],
    "keep": ["array-like"],
    "return_X_y": ["boolean"],
}


def read_json(path):
    """Read a JSON file. Raise an error if it is cut off, nested too deeply or not in UTF-8."""
    with open(path, encoding="utf-8-sig") as file:
        try:
            return json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a whole JSON file in UTF-8: {error}") from error


def locate(folder, name, source):
    """Return the path of a file of a dataset, which must be inside its folder.

    Links inside the folder are followed, because the user created them, not the dataset.

    Raises
    ------
    ValueError
        If ``name`` is not a string, leads out of the folder, is empty or is a folder.
    """
    if not isinstance(name, str) or "\0" in name:
        raise ValueError(f"{source}: a file name must be a string without NUL, got {name!r}.")
    path, root = os.path.join(folder, name), os.path.abspath(folder)
    if not Path(os.path.abspath(path)).is_relative_to(root):
        raise ValueError(
            f"{source}: the file {name!r} is outside {root!r}. If you trust it, pass a folder "
            "that contains all of its files."
        )
    if name.endswith("/") or os.path.isdir(path):
        raise ValueError(f"{source}: {name!r} names a folder, {root!r} or one in it, not a file.")
    return path


def choose(categories, names, source):
    """Return the chosen categories as {id: name}, in the order of ``names``."""
    if categories is None:
        return names
    for wanted in categories:
        if wanted not in names.values():
            close = get_close_matches(str(wanted), names.values(), n=3, cutoff=0.4)
            raise ValueError(
                f"{source} has no category {wanted!r}. Close names: {close}; all: "
                f"{list(dict.fromkeys(names.values()))}."
            )
    return {key: name for key, name in names.items() if name in categories}


def as_names(class_names, ignore=()):
    """Convert class names to {id: name}, and compare them with the ignored ids."""
    names = dict(class_names if isinstance(class_names, Mapping) else enumerate(class_names))
    wrong = [key for key in (*names, *ignore) if not isinstance(key, Integral)]
    if wrong:
        raise ValueError(f"class_names and ignore must have integer ids, got {wrong[:5]}.")
    both = sorted(set(names) & set(ignore))
    if both:
        raise ValueError(f"The ids {both} are both in class_names and in ignore.")
    return {int(key): str(name) for key, name in names.items()}


def encode(mask):
    """Convert a boolean mask to compressed RLE. Column order is fastest."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def as_rle(mask):
    """Convert a mask in any form of the table of samples to compressed RLE."""
    return compress_rle(mask) if isinstance(mask, dict) else encode(read_mask(mask))


def _describe(frame, names, source):
    counts = frame["concept"].value_counts()
    lines = [f"  {name}: {counts.get(name, 0)}" for name in names]
    n_images = frame["image_id"].nunique()
    return "\n".join(
        [f"{len(frame)} image-concept pairs of {n_images} images from {source}", *lines]
    )


def as_bunch(frame, target_names, source, *, return_X_y):
    """Wrap a table in a Bunch, as the loaders of scikit-learn do."""
    target = frame["concept"].to_numpy(dtype=object)
    if return_X_y:
        return frame, target
    return Bunch(
        data=frame,
        target=target,
        groups=frame["image_id"].to_numpy(),
        target_names=list(target_names),
        DESCR=_describe(frame, target_names, source),
    )
