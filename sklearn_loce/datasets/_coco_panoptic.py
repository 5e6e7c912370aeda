"""Load tables of samples from panoptic annotations in COCO format."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.utils._param_validation import StrOptions, validate_params

from .._samples.images import READ_ERRORS, open_image
from .._samples.masks import empty_rle
from ._coco import check_images
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
from ._index_images import distinct
from ._instances import Instance, make_frame
from ._runs import encode_labels
from ._table import TABLE_CONSTRAINTS, as_bunch, locate

_NO_SEGMENT = 0
_PLACES = np.array([1, 256, 65536], dtype=np.uint32)


def _read_segment_ids(path, size):
    """Read a PNG as ids of segments (height, width), R + 256 G + 65536 B."""
    try:
        with open_image(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The segments {path} do not exist.") from error
    except READ_ERRORS as error:
        raise ValueError(f"{path} can't be read as an image: {error}") from error
    if mode != "RGB":
        raise ValueError(
            f"{path} is an image of mode {mode}, but the colors of segments are of mode RGB: "
            "the id is R + 256 G + 65536 B."
        )
    if pixels.shape[:2] != size:
        raise ValueError(f"{path} is {pixels.shape[:2]}, but its image is {size} (height, width).")
    return pixels @ _PLACES


def _check_annotation(annotation, name, source):
    """Raise an error unless an annotation has a file and segments with distinct ids."""
    keys = {"image_id": ID, "file_name": object, "segments_info": object}
    check_entry(annotation, keys, name, source)
    if not isinstance(annotation["segments_info"], list | tuple):
        raise ValueError(  # noqa: TRY004 - the file is at fault, not the caller's type
            f"{source}: {name} has segments_info that is not a list."
        )
    for i, segment in enumerate(annotation["segments_info"]):
        part = f"segments_info[{i}] of {name}"
        if not isinstance(segment, dict):
            raise ValueError(f"{source}: {part} is not an object.")  # noqa: TRY004 - as above
        check_entry(segment, {"id": int, "category_id": ID}, part, source)
    uses = Counter(segment["id"] for segment in annotation["segments_info"])
    repeated = [key for key, n in uses.items() if n > 1]
    if repeated:
        raise ValueError(f"{source}: {name} has several segments of the ids {repeated[:5]}.")


def _choose_annotations(content, concepts, categories, crowd, source):
    """Return {image id: (annotation, its chosen segments)} without images that have none."""
    chosen, found = {}, set()
    for i, annotation in enumerate(content["annotations"]):
        _check_annotation(annotation, f"annotations[{i}]", source)
        key = annotation["image_id"]
        segments = [
            segment
            for segment in annotation["segments_info"]
            if not (crowd == "drop" and segment.get("iscrowd", 0))
        ]
        found.update(segment["category_id"] for segment in segments)
        segments = [segment for segment in segments if segment["category_id"] in concepts]
        if segments and key in chosen:
            raise ValueError(
                f"{source}: the image {key!r} has several annotations, "
                f"{chosen[key][0]['file_name']!r} and {annotation['file_name']!r}."
            )
        if segments:
            chosen[key] = annotation, segments
    if categories is None:
        check_known("category_id", found, concepts, source)
    return chosen


def _read_instances(image, annotation, segments, concepts, location, path):
    """Return the objects of one image in the order of the file."""
    size = tuple(image_size(image))
    ids = _read_segment_ids(path, size)
    known = {segment["id"] for segment in annotation["segments_info"]}
    unknown = sorted({*distinct(ids).tolist()} - known - {_NO_SEGMENT})
    if unknown:
        raise ValueError(
            f"{path} has the ids {unknown[:5]} ({len(unknown)} in all), which segments_info does "
            "not list."
        )
    masks = encode_labels(ids)
    empty = empty_rle(size)
    return [
        Instance(
            location,
            image["id"],
            concepts[segment["category_id"]],
            size,
            mask=masks.get(segment["id"], empty),
            annotation_id=segment["id"],
            fields=segment,
        )
        for segment in segments
    ]


@validate_params(
    {
        "annotation_file": [str, os.PathLike],
        "image_dir": [str, os.PathLike],
        "segment_dir": [str, os.PathLike, None],
        "crowd": [StrOptions({"keep", "drop"})],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def load_coco_panoptic(
    annotation_file,
    image_dir,
    segment_dir=None,
    *,
    categories=None,
    merge_instances=True,
    crowd="keep",
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Load a table of samples from panoptic annotations in COCO format.

    Each image has a PNG file whose colors are ids of segments: R + 256 G + 65536 B. A JSON file
    contains the category of each id. Pixels with the id 0 belong to no segment. The images
    themselves are not opened.

    Parameters
    ----------
    annotation_file : str or path
        JSON file with ``images``, ``categories`` and ``annotations``. Each annotation has the
        ``file_name`` of a PNG and ``segments_info``.
    image_dir : str or path
        Folder of all images.
    segment_dir : str or path, default=None
        Folder of the PNG files. ``None`` uses the folder beside ``annotation_file`` with the same
        name, without the ending, as in the published archive of COCO.
    categories : list of str, default=None
        Names of the categories to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the segments of a concept in an image into one row, as in the paper.
        Otherwise each segment is a row.
    crowd : {"keep", "drop"}, default="keep"
        Whether to keep segments whose ``iscrowd`` is 1.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The mask itself, the bounding rectangle of each segment, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields of ``segments_info`` to keep, such as "iscrowd". Each becomes a column.
        For merged segments, its cells are tuples with one value per segment.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`; ``annotation_id``
        is the id of the segment, which other images may use, too.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If a file or folder is missing, or the folder has none of the images.
    ValueError
        If the file is not in this format, a PNG cannot be read, differs from its image in size or
        has an id without entry in ``segments_info``, a segment covers no pixel, a category is
        unknown, or nothing is left to load. The message names the file.

    See Also
    --------
    load_coco : Polygons, run-length encodings and boxes in COCO format.

    References
    ----------
    .. [1] A. Kirillov et al., "Panoptic Segmentation", CVPR, 2019.
       https://cocodataset.org/#format-data

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_coco_panoptic
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 6)).save(folder / "a.jpg")
    >>> colors = np.zeros((6, 8, 3), dtype=np.uint8)
    >>> colors[:3, :4] = 7, 1, 0
    >>> (folder / "val").mkdir()
    >>> Image.fromarray(colors).save(folder / "val" / "a.png")
    >>> _ = (folder / "val.json").write_text(json.dumps({
    ...     "images": [{"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}],
    ...     "categories": [{"id": 3, "name": "sky", "isthing": 0}],
    ...     "annotations": [{"image_id": 1, "file_name": "a.png",
    ...                      "segments_info": [{"id": 263, "category_id": 3}]}]}))
    >>> load_coco_panoptic(folder / "val.json", folder).data[["concept", "annotation_id", "area"]]
      concept annotation_id  area
    0     sky        (263,)  0.25
    """
    content, image_dir, source = read_source(annotation_file, image_dir)
    segment_dir = Path(annotation_file).with_suffix("") if segment_dir is None else segment_dir
    concepts = choose_concepts(content, categories, source)
    chosen = _choose_annotations(content, concepts, categories, crowd, source)
    images = choose_images(content, chosen, source)
    frame = make_frame(
        (
            _read_instances(
                image,
                *chosen[key],
                concepts,
                image_path(image, image_dir, source),
                locate(segment_dir, chosen[key][0]["file_name"], source),
            )
            for key, image in images.items()
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
