"""Tables of samples from annotations in COCO format."""

import json
import os
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._masks import compress_rle
from ._shapes import SHAPES

_COLUMNS = ["image", "mask", "concept", "image_id", "area", "n_instances"]


def _read_annotations(path):
    """Read and check the file: the three tables are there, and no id dangles."""
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not a whole JSON file: {error}") from error
    tables = ("images", "categories", "annotations")
    missing = [t for t in tables if not isinstance(content, dict) or t not in content]
    if missing:
        raise ValueError(f"{path} is not in COCO format: it lacks {missing}.")
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for key, known in (("image_id", images), ("category_id", names)):
        dangling = sorted({a[key] for a in content["annotations"]} - known.keys())
        if dangling:
            raise ValueError(
                f"{path}: annotations point to {len(dangling)} unknown {key}(s): {dangling[:5]}."
            )
    return images, names, content["annotations"]


def _choose(categories, names, path):
    """Give the chosen categories as {id: name}, in the file's order."""
    if categories is None:
        return names
    for wanted in categories:
        if wanted not in names.values():
            close = get_close_matches(str(wanted), names.values(), n=3, cutoff=0.4)
            raise ValueError(
                f"{path} has no category {wanted!r}. Close names: {close}; all: "
                f"{list(names.values())}."
            )
    return {key: name for key, name in names.items() if name in categories}


def _annotation_mask(annotation, image, path):
    """Bring one annotation's segmentation to compressed RLE."""
    size = [int(image["height"]), int(image["width"])]
    where = f"{path}: annotation {annotation.get('id')!r}"
    try:
        segmentation = annotation["segmentation"]
        # No polygon at all is a zero-size object: one without extent is told apart by its area.
        segmentation = segmentation or {"size": size, "counts": [size[0] * size[1]]}
        if isinstance(segmentation, dict):
            rle = compress_rle(segmentation)
        else:
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    except Exception as error:
        raise ValueError(f"{where} can't be read: {error!r}") from error
    if list(rle["size"]) != size:
        raise ValueError(
            f"{where} is a mask of {rle['size']}, but its image is {size} (height, width)."
        )
    return rle


def _group(annotations, chosen, *, merge_instances, crowd):
    """Collect the annotations that share a row, rows in the order of their first annotation."""
    rows = {}
    for position, annotation in enumerate(annotations):
        if annotation["category_id"] not in chosen:
            continue
        if crowd == "drop" and annotation.get("iscrowd", 0):
            continue
        key = (annotation["image_id"], annotation["category_id"])
        rows.setdefault(key if merge_instances else (*key, position), []).append(annotation)
    return rows


def _make_row(key, annotations, images, names, image_dir, draw, path):
    image = images[key[0]]
    masks = [draw(_annotation_mask(a, image, path)) for a in annotations]
    rle = coco_mask.merge(masks)
    pixels = int(coco_mask.area(rle))
    return {
        "image": os.path.join(image_dir, image["file_name"]),
        "mask": rle,
        "concept": names[key[1]],
        "image_id": key[0],
        "area": pixels / (rle["size"][0] * rle["size"][1]),
        "n_instances": len(annotations),
        "pixels": pixels,
        "ids": [a.get("id") for a in annotations],
    }


def _drop_small(frame, min_area, path):
    """Leave out masks below ``min_area``; an empty one that would stay is an error."""
    measure = "pixels" if isinstance(min_area, Integral) else "area"
    frame = frame[frame[measure] >= min_area]
    empty = frame.loc[frame["pixels"] == 0, "ids"].sum() or []
    if empty:
        raise ValueError(
            f"{path}: the annotations {empty[:5]} cover no pixel ({len(empty)} in all); "
            "min_area=1 leaves them out."
        )
    return frame


def _describe(path, frame, names):
    counts = frame["concept"].value_counts()
    lines = [f"  {name}: {counts.get(name, 0)}" for name in names]
    head = f"{len(frame)} image-concept pairs of {frame['image_id'].nunique()} images from {path}"
    return "\n".join([head, *lines])


@validate_params(
    {
        "annotation_file": [str, os.PathLike],
        "image_dir": [str, os.PathLike],
        "categories": ["array-like", None],
        "merge_instances": ["boolean"],
        "crowd": [StrOptions({"keep", "drop"})],
        "min_area": [
            Interval(Integral, 0, None, closed="left"),
            Interval(Real, 0, 1, closed="both"),
        ],
        "mask": [StrOptions(set(SHAPES))],
        "return_X_y": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def load_coco(
    annotation_file,
    image_dir,
    *,
    categories=None,
    merge_instances=True,
    crowd="keep",
    min_area=0,
    mask="segmentation",
    return_X_y=False,
):
    """Load a table of samples from annotations in COCO format.

    The annotation file is read once; images are not opened. Polygons, uncompressed and compressed
    run-length encodings are all kept as compressed ones.

    Parameters
    ----------
    annotation_file : str or path
        JSON file with ``images``, ``categories`` and ``annotations``.
    image_dir : str or path
        Folder to which the images' ``file_name`` is relative.
    categories : list of str, default=None
        Names of the categories to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether the instances of a concept in an image become one row (the paper's way) or stay
        one row each.
    crowd : {"keep", "drop"}, default="keep"
        What to do with annotations whose ``iscrowd`` is 1.
    min_area : int or float, default=0
        Rows with smaller masks are left out: pixels where it is an int, the share of the image in
        [0, 1] where it is a float.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        With the attributes

        - ``data``: DataFrame with one row per image-concept pair and the columns ``image`` (path),
          ``mask`` (RLE dict), ``concept``, ``image_id``, ``area`` (share of the image) and
          ``n_instances``;
        - ``target``: ndarray of shape (n_samples,), the concepts;
        - ``groups``: ndarray of shape (n_samples,), the image ids, for ``GroupKFold``;
        - ``target_names``: list of str, the loaded categories in the file's order;
        - ``DESCR``: str.

    (data, target) : tuple if ``return_X_y`` is True

    Raises
    ------
    FileNotFoundError
        If the file or the folder is missing, or the folder has none of the images.
    ValueError
        If the file is no COCO file, ids dangle, a category is unknown, an annotation can't be read
        or covers no pixel, or nothing is left to load. The message names the file.

    References
    ----------
    .. [1] https://cocodataset.org/#format-data

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_coco
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 6)).save(folder / "a.png")
    >>> _ = (folder / "a.json").write_text(json.dumps({
    ...     "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}],
    ...     "categories": [{"id": 3, "name": "car"}],
    ...     "annotations": [{"id": 7, "image_id": 1, "category_id": 3,
    ...                      "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]]}]}))
    >>> load_coco(folder / "a.json", folder).data[["concept", "image_id", "area"]]
      concept  image_id  area
    0     car         1  0.25
    """
    images, names, annotations = _read_annotations(annotation_file)
    chosen = _choose(categories, names, annotation_file)
    groups = _group(annotations, chosen, merge_instances=merge_instances, crowd=crowd)
    rows = [
        _make_row(key, members, images, names, image_dir, SHAPES[mask], annotation_file)
        for key, members in groups.items()
    ]
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, "pixels", "ids"])
    frame = _in_file_order(_drop_small(frame, min_area, annotation_file), images, names)
    _check_some(frame, annotation_file, image_dir)
    target = frame["concept"].to_numpy(dtype=object)
    if return_X_y:
        return frame, target
    return Bunch(
        data=frame,
        target=target,
        groups=frame["image_id"].to_numpy(),
        target_names=list(chosen.values()),
        DESCR=_describe(annotation_file, frame, chosen.values()),
    )


def _in_file_order(frame, images, names):
    """Sort rows by image, then by category, both as the file lists them."""
    image_rank = frame["image_id"].map({key: rank for rank, key in enumerate(images)})
    concept_rank = frame["concept"].map({name: rank for rank, name in enumerate(names.values())})
    order = np.lexsort([concept_rank, image_rank])
    return frame.iloc[order][_COLUMNS].reset_index(drop=True)


def _check_some(frame, path, image_dir):
    if frame.empty:
        raise ValueError(f"{path}: no annotation is left to load; widen categories or min_area.")
    if not Path(image_dir).is_dir():
        raise FileNotFoundError(f"The folder {str(image_dir)!r} does not exist.")
    if not any(os.path.exists(image) for image in frame["image"].unique()):
        raise FileNotFoundError(
            f"{str(image_dir)!r} has none of the images of {path}, such as "
            f"{frame['image'].iloc[0]!r}."
        )
