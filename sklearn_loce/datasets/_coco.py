"""Tables of samples from annotations in COCO format."""

import json
import os
from collections import Counter
from pathlib import Path

from sklearn.utils._param_validation import StrOptions, validate_params

from .._warnings import warn_user
from ._coco_file import (
    ID,
    check_entry,
    check_known,
    choose_concepts,
    choose_images,
    image_path,
    image_size,
    read_source,
)
from ._coco_masks import read_masks
from ._instances import Instance, make_frame
from ._table import TABLE_CONSTRAINTS, as_bunch

_ANNOTATION = {"image_id": ID, "id": ID | None}


def _choose_annotations(content, concepts, categories, crowd, source):
    """Return the annotations of the chosen concepts; exact repeats count once."""
    named = []
    for i, annotation in enumerate(content["annotations"]):
        check_entry(annotation, {"category_id": ID}, f"annotations[{i}]", source)
        if not (crowd == "drop" and annotation.get("iscrowd", 0)):
            named.append((i, annotation))
    if categories is None:
        check_known("category_id", {a["category_id"] for _, a in named}, concepts, source)
    chosen = [(i, a) for i, a in named if a["category_id"] in concepts]
    for i, annotation in chosen:
        check_entry({"id": None, **annotation}, _ANNOTATION, f"annotations[{i}]", source)
    return _drop_repeats([annotation for _, annotation in chosen], source)


def _drop_repeats(annotations, source):
    """Omit exact repeats, and warn of them and of other annotations with the same id."""
    uses = Counter(annotation.get("id") for annotation in annotations)
    shared = {key for key, n in uses.items() if n > 1 and key is not None}
    contents, kept, repeated = set(), [], []
    for annotation in annotations:
        is_repeat = False
        if annotation.get("id") in shared:
            content = json.dumps(annotation, sort_keys=True, default=_as_plain)
            is_repeat = content in contents
            contents.add(content)
        (repeated if is_repeat else kept).append(annotation)
    _warn_shared(repeated, [a for a in kept if a.get("id") in shared], source)
    return kept


def _as_plain(value):
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _warn_shared(repeated, sharing, source):
    if repeated:
        ids = list(dict.fromkeys(annotation["id"] for annotation in repeated))
        warn_user(
            f"{source}: {len(repeated)} annotations repeat another one and are left out, such as "
            f"{ids[:5]}."
        )
    ids = [key for key, n in Counter(annotation["id"] for annotation in sharing).items() if n > 1]
    if ids:
        warn_user(
            f"{source}: {len(ids)} ids are used for several annotations, such as {ids[:5]}. All "
            "are loaded, but their annotation_id is ambiguous."
        )


def _read_instances(image, annotations, concepts, folder, source):
    """Return the objects of one image, in the file's order."""
    location, size = image_path(image, folder, source), image_size(image)
    masks = read_masks(annotations, size, lambda a: f"{source}: annotation {a.get('id')!r}")
    return [
        Instance(
            location,
            image["id"],
            concepts[annotation["category_id"]],
            tuple(size),
            mask=mask,
            box=annotation.get("bbox"),
            **_identify(annotation),
        )
        for annotation, mask in zip(annotations, masks, strict=True)
    ]


def _identify(annotation):
    """Return an annotation's id and fields, or those that ``to_coco`` has kept of a merged row."""
    merged = annotation.get("merged")
    if (
        isinstance(merged, list)
        and merged
        and all(isinstance(m, dict) and "id" in m for m in merged)
    ):
        return {"annotation_id": tuple(m["id"] for m in merged), "fields": tuple(merged)}
    return {"annotation_id": annotation.get("id"), "fields": annotation}


def _group_by_image(annotations, images):
    """Return pairs of an image and its annotations, in the order of the file."""
    groups = {key: [] for key in images}
    for annotation in annotations:
        groups[annotation["image_id"]].append(annotation)
    return [(images[key], group) for key, group in groups.items()]


def check_images(frame, source, image_dir):
    """Raise an error if a folder has none of the images of a table."""
    if not Path(image_dir).is_dir():
        raise FileNotFoundError(f"The folder {str(image_dir)!r} does not exist.")
    if not any(os.path.exists(image) for image in frame["image"].unique()):
        raise FileNotFoundError(
            f"{str(image_dir)!r} has none of the images of {source}, such as "
            f"{frame['image'].iloc[0]!r}."
        )


@validate_params(
    {
        "annotation_file": "no_validation",
        "image_dir": [str, os.PathLike, None],
        "crowd": [StrOptions({"keep", "drop"})],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def load_coco(
    annotation_file,
    image_dir=None,
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

    The annotation file is read once, and images are not opened. Polygons and run-length encodings
    become compressed run-length encodings, equal to ``annToMask`` of pycocotools.

    Parameters
    ----------
    annotation_file : str, path, dict or CocoDetection
        JSON file with ``images``, ``categories`` and ``annotations``, the content of such a file,
        or a dataset of torchvision or pycocotools.
    image_dir : str or path, default=None
        Folder of all images. ``file_name`` is relative to it. ``None`` uses the folder of a
        ``CocoDetection``. LVIS v1 has a ``coco_url`` instead of a name. The last part of the URL is
        the file name, or the last two parts if this file exists.
    categories : list of str, default=None
        Names of the categories to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row, as in the paper.
        Otherwise each instance is a row.
    crowd : {"keep", "drop"}, default="keep"
        Whether to keep annotations whose ``iscrowd`` is 1.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
        Instances without ``segmentation`` use their ``bbox`` for the latter two.
    keep : list of str, default=()
        Further fields of the annotations to keep, such as "score". Each becomes a column. For
        merged instances, its cells are tuples with one value per instance. Missing values are None,
        or NaN in a column of numbers.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes

        - ``data``: DataFrame with one row per image-concept pair and the columns ``image`` (path),
          ``mask`` (RLE dict), ``concept``, ``image_id``, ``area`` (share of the image),
          ``n_instances``, ``annotation_id`` (a tuple for merged instances) and the fields of
          ``keep``;
        - ``target``: ndarray of shape (n_samples,), the concepts;
        - ``groups``: ndarray of shape (n_samples,), the image ids, for ``GroupKFold``;
        - ``target_names``: list of str, the loaded categories in the order of the file;
        - ``DESCR``: str, a description.

    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If the file or the folder is missing, or the folder has none of the images.
    ValueError
        If the file is not in COCO format, ids are unknown or repeated, a category is unknown, an
        annotation cannot be read or covers no pixel, no annotation has a mask, an image is outside
        ``image_dir``, a mask is larger than the largest image of Pillow, or nothing is left to
        load. The message names the file. Errors in annotations of other categories are ignored.

    Warns
    -----
    UserWarning
        If annotations have a box but no mask and ``mask`` is "segmentation", because they are
        omitted. If an annotation is repeated, because it counts once. If other annotations share an
        id.

    See Also
    --------
    load_coco_panoptic : Panoptic annotations with PNG files.
    to_coco : Write a table as a file in this format.

    Notes
    -----
    Flat polygons, polygons of pairs and run-length encodings in a list are read, too. An object
    without a polygon or a box of positive size covers no pixel. If the size of an image differs
    from its entry, the estimator that reads the image raises an error.

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
    content, image_dir, source = read_source(annotation_file, image_dir)
    concepts = choose_concepts(content, categories, source)
    annotations = _choose_annotations(content, concepts, categories, crowd, source)
    images = choose_images(content, {a["image_id"] for a in annotations}, source)
    frame = make_frame(
        (
            _read_instances(image, group, concepts, image_dir, source)
            for image, group in _group_by_image(annotations, images)
        ),
        concepts.values(),
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=source,
    )
    check_images(frame, source, image_dir)
    return as_bunch(frame, dict.fromkeys(concepts.values()), source, return_X_y=return_X_y)
