"""Tables of samples from annotations in COCO format."""

import json
import os
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from sklearn.utils._param_validation import StrOptions, validate_params

from .._samples.masks import check_n_pixels, compress_rle, rle_size
from ._instances import Instance, make_frame
from ._table import TABLE_CONSTRAINTS, as_bunch, choose, locate

# What is read of each entry; without it the entry is of no use.
_KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id"),
}

_NAMING = {"images": ("id",), "categories": ("id", "name"), "annotations": _KEYS["annotations"]}
# Pixels along the outline of a polygon; pycocotools takes 40 bytes for each.
_LONGEST_OUTLINE = 1 << 20


def _check_entries(content, path):
    """Raise unless each of the three tables is a list of objects with the keys that are read."""
    missing = [t for t in _KEYS if not isinstance(content, dict) or t not in content]
    if missing:
        raise ValueError(f"{path} is not in COCO format: it lacks {missing}.")
    for table, keys in _KEYS.items():
        if not isinstance(content[table], list):
            raise ValueError(  # noqa: TRY004 - the file is at fault, not the caller's type
                f"{path} is not in COCO format: {table!r} is not a list."
            )
        for i, entry in enumerate(content[table]):
            lacking = [k for k in keys if not isinstance(entry, dict) or k not in entry]
            if lacking:
                name = entry.get("id") if isinstance(entry, dict) else None
                raise ValueError(f"{path}: {table}[{i}] (id {name!r}) lacks {lacking}.")


def _check_ids(content, path):
    """Raise unless ids are numbers or strings, and names are strings."""
    for table, keys in _NAMING.items():
        for i, entry in enumerate(content[table]):
            for key in keys:
                if not isinstance(entry[key], str if key == "name" else int | float | str):
                    kind = "string" if key == "name" else "number or string"
                    found = {key: entry[key]}
                    raise ValueError(  # noqa: TRY004 - as above
                        f"{path}: {table}[{i}] has {found}; a {kind} is expected."
                    )


def _read_annotations(path):
    """Read and check the file: the three tables are there, and no id dangles."""
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a whole JSON file: {error}") from error
    _check_entries(content, path)
    _check_ids(content, path)
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    for key, known in (("image_id", images), ("category_id", names)):
        dangling = sorted({a[key] for a in content["annotations"]} - known.keys(), key=str)
        if dangling:
            raise ValueError(
                f"{path}: annotations point to {len(dangling)} unknown {key}(s): {dangling[:5]}."
            )
    return images, names, content["annotations"]


def _image_size(image, path):
    """Give [height, width] as the file has it."""
    try:
        size = [int(image["height"]), int(image["width"])]
    except (TypeError, ValueError, OverflowError):
        size = [0, 0]
    if min(size) < 1:
        raise ValueError(
            f"{path}: the image {image['file_name']!r} has height {image['height']!r} and width "
            f"{image['width']!r}; both must be positive integers."
        )
    return size


def _read_polygons(polygons):
    """Keep the polygons that enclose something; raise where pycocotools would fill anything."""
    kept = []
    for polygon in polygons:
        corners = np.asarray(polygon, dtype=float)
        if corners.ndim != 1 or corners.size % 2 or not np.isfinite(corners).all():
            raise ValueError(
                "a polygon must be a flat list x1, y1, x2, y2, ... of finite numbers, got "
                f"{corners.size} numbers that start with {polygon[:6]}"
            )
        if corners.size >= 6:
            _check_outline(corners.reshape(-1, 2))
            kept.append(polygon)
    return kept


def _check_outline(corners):
    """Refuse what pycocotools would walk for minutes, or past the range of its integers."""
    steps = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1)
    if np.abs(corners).max() > _LONGEST_OUTLINE or steps.sum() > _LONGEST_OUTLINE:
        raise ValueError(
            f"the outline of a polygon is {steps.sum():.3g} pixels long and reaches "
            f"{np.abs(corners).max():.3g}; at most {_LONGEST_OUTLINE} pixels can be drawn"
        )


def _annotation_mask(annotation, image, path):
    """Bring one annotation's segmentation to compressed RLE."""
    size = _image_size(image, path)
    where = f"{path}: annotation {annotation.get('id')!r}"
    # No polygon at all is a zero-size object: one without extent is told apart by its area.
    empty = {"size": size, "counts": [size[0] * size[1]]}
    if "segmentation" not in annotation:
        raise ValueError(f"{where} lacks a 'segmentation'; boxes alone are no masks.")
    try:
        check_n_pixels(size)
        rle = _encode(annotation["segmentation"] or empty, size, empty)
    except Exception as error:
        raise ValueError(f"{where} can't be read: {error}") from error
    return rle


def _encode(segmentation, size, empty):
    """Bring polygons or an RLE to compressed RLE."""
    if not isinstance(segmentation, dict):
        segmentation = _read_polygons(segmentation) or empty
    if not isinstance(segmentation, dict):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if list(rle_size(segmentation)) != size:
        raise ValueError(
            f"it is a mask of {segmentation['size']}, but its image is {size} (height, width)."
        )
    return compress_rle(segmentation)


def _read_instances(image, annotations, names, folder, path):
    """Give the objects of one image, in the file's order."""
    location = locate(folder, image["file_name"], path)
    return [
        Instance(
            location,
            image["id"],
            names[annotation["category_id"]],
            tuple(_image_size(image, path)),
            mask=_annotation_mask(annotation, image, path),
            annotation_id=annotation.get("id"),
            fields=annotation,
        )
        for annotation in annotations
    ]


def _group_by_image(annotations, images, chosen, crowd):
    """Give {image id: its annotations} for the images that have some, in the file's order."""
    groups = {key: [] for key in images}
    for annotation in annotations:
        is_crowd = crowd == "drop" and annotation.get("iscrowd", 0)
        if annotation["category_id"] in chosen and not is_crowd:
            groups[annotation["image_id"]].append(annotation)
    return {key: group for key, group in groups.items() if group}


def _check_images(frame, path, image_dir):
    if not Path(image_dir).is_dir():
        raise FileNotFoundError(f"The folder {str(image_dir)!r} does not exist.")
    if not any(os.path.exists(image) for image in frame["image"].unique()):
        raise FileNotFoundError(
            f"{str(image_dir)!r} has none of the images of {path}, such as "
            f"{frame['image'].iloc[0]!r}."
        )


@validate_params(
    {
        "annotation_file": [str, os.PathLike],
        "image_dir": [str, os.PathLike],
        "crowd": [StrOptions({"keep", "drop"})],
        **TABLE_CONSTRAINTS,
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
    keep=(),
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
        Folder to which the images' ``file_name`` is relative. All images must lie in it.
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
    keep : list of str, default=()
        Further fields of the annotations to keep, such as "score". Each becomes a column; where
        instances are merged, a tuple with one value per instance. None (NaN in a column of
        numbers) stands where an annotation lacks the field.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        With the attributes

        - ``data``: DataFrame with one row per image-concept pair and the columns ``image`` (path),
          ``mask`` (RLE dict), ``concept``, ``image_id``, ``area`` (share of the image),
          ``n_instances``, ``annotation_id`` (a tuple where instances are merged) and what ``keep``
          names;
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
        or covers no pixel, an image lies outside of ``image_dir``, a mask is larger than the images
        that Pillow opens, or nothing is left to load. The message names the file.

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
    chosen = choose(categories, names, annotation_file)
    groups = _group_by_image(annotations, images, chosen, crowd)
    frame = make_frame(
        (
            _read_instances(images[k], g, names, image_dir, annotation_file)
            for k, g in groups.items()
        ),
        chosen.values(),
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=annotation_file,
    )
    _check_images(frame, annotation_file, image_dir)
    return as_bunch(frame, chosen.values(), annotation_file, return_X_y=return_X_y)
