"""What the loaders share: the columns of the table, its filters and the Bunch around it."""

import os
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions

from ._shapes import SHAPES

COLUMNS = ("image", "mask", "concept", "image_id", "area", "n_instances")

# The parameters that every loader has, as validate_params wants them.
TABLE_CONSTRAINTS = {
    "categories": ["array-like", None],
    "merge_instances": ["boolean"],
    "min_area": [
        Interval(Integral, 0, None, closed="left"),
        Interval(Real, 0, 1, closed="both"),
    ],
    "mask": [StrOptions(set(SHAPES))],
    "return_X_y": ["boolean"],
}


def locate(folder, name, source):
    """Give the path of a file that a dataset names, which must lie in its folder.

    Links inside the folder are followed: they are the user's, not the dataset's.

    Raises
    ------
    ValueError
        If ``name`` is no string, or leads out of the folder.
    """
    if not isinstance(name, str) or "\0" in name:
        raise ValueError(f"{source}: a file name must be a string without NUL, got {name!r}.")
    path, root = os.path.join(folder, name), os.path.abspath(folder)
    if not Path(os.path.abspath(path)).is_relative_to(root):
        raise ValueError(
            f"{source}: the file {name!r} lies outside of {root!r}. If you trust it, name a folder "
            "that holds all of its files."
        )
    return path


def choose(categories, names, source):
    """Give the chosen categories as {id: name}, in the order of ``names``."""
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


def encode(mask):
    """Bring a boolean mask to compressed RLE; fastest where it is in column order."""
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def make_row(image, image_id, concept, masks, ids):
    """Merge the masks of a row; ``ids`` say in error messages where they come from."""
    rle = coco_mask.merge(masks)
    pixels = int(coco_mask.area(rle))
    return {
        "image": image,
        "mask": rle,
        "concept": concept,
        "image_id": image_id,
        "area": pixels / (rle["size"][0] * rle["size"][1]),
        "n_instances": len(masks),
        "pixels": pixels,
        "ids": ids,
    }


def _drop_small(frame, min_area, source):
    """Leave out masks below ``min_area``; an empty one that would stay is an error."""
    measure = "pixels" if isinstance(min_area, Integral) else "area"
    frame = frame[frame[measure] >= min_area]
    empty = frame.loc[frame["pixels"] == 0, "ids"].sum() or []
    if empty:
        raise ValueError(
            f"{source}: the annotations {empty[:5]} cover no pixel ({len(empty)} in all); "
            "min_area=1 leaves them out."
        )
    return frame


def make_frame(rows, min_area, source, extra=()):
    """Put rows into a table, in their order.

    Parameters
    ----------
    rows : list of dict
        From ``make_row``.
    min_area : int or float
        Pixels or share of the image.
    source : str or path
        What messages call the origin.
    extra : sequence of str, default=()
        Columns beside those that all loaders have.

    Returns
    -------
    DataFrame

    Raises
    ------
    ValueError
        If a mask is empty or no row is left.
    """
    columns = [*COLUMNS, *extra]
    frame = _drop_small(pd.DataFrame(rows, columns=[*columns, "pixels", "ids"]), min_area, source)
    if frame.empty:
        raise ValueError(f"{source}: no annotation is left to load; widen categories or min_area.")
    return frame[columns].reset_index(drop=True)


def _describe(frame, names, source):
    counts = frame["concept"].value_counts()
    lines = [f"  {name}: {counts.get(name, 0)}" for name in names]
    n_images = frame["image_id"].nunique()
    return "\n".join(
        [f"{len(frame)} image-concept pairs of {n_images} images from {source}", *lines]
    )


def as_bunch(frame, target_names, source, *, return_X_y):
    """Wrap a table the way scikit-learn's loaders do."""
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
