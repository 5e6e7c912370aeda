"""Load tables of samples from JSON files of labelme."""

import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from sklearn.utils._param_validation import validate_params

from .._samples.images import READ_ERRORS, size_of_image
from .._warnings import warn_user
from ._folders import Names, files_by_name
from ._instances import Instance, make_frame
from ._labelme_shapes import NO_AREA, fill_shapes, read_shapes
from ._runs import merge_masks
from ._table import TABLE_CONSTRAINTS, as_bunch, choose, locate, read_json


@dataclass(frozen=True)
class _File:
    """One file: its path, its name in the folder without the suffix, and its image."""

    path: Path
    name: str
    image: str
    claimed_size: tuple
    has_image: bool
    shapes: list


def _read_content(path):
    """Read a file, and check that it has the format of labelme."""
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    parts = (("imagePath", str), ("shapes", list))
    lacking = [key for key, kind in parts if not isinstance(content.get(key), kind)]
    if lacking:
        raise ValueError(f"{path} is not in labelme's format: it lacks {lacking}.")
    return content


def _locate_image(path, name, image_path, folder, image_dir):
    """Return the path of an image, from the file or by its name in ``image_dir``."""
    # Files from Windows have backslashes. The rules of Windows accept slashes, too.
    image_path, subfolder = PureWindowsPath(image_path), os.path.dirname(name)
    if image_dir is not None:
        return locate(image_dir, os.path.join(subfolder, image_path.name), path)
    try:
        return locate(folder, os.path.join(subfolder, image_path.as_posix()), path)
    except ValueError as error:
        raise ValueError(f"{error} Or pass the folder of the images as image_dir.") from error


def _read_file(path, name, folder, image_dir):
    """Read a file without its embedded image."""
    content = _read_content(path)
    return _File(
        path,
        name,
        _locate_image(path, name, content["imagePath"], folder, image_dir),
        (content.get("imageHeight"), content.get("imageWidth")),
        bool(content.get("imageData")),
        read_shapes(path, content["shapes"]),
    )


def _check_images(files):
    """Raise an error if two files have the same image, because one may be a copy."""
    seen = {}
    for file in files:
        other = seen.setdefault(os.path.abspath(file.image), file)
        if other is not file:
            raise ValueError(f"{other.path} and {file.path} are both of the image {file.image!r}.")


def _size_of(file):
    """Return (height, width) of an image, which must equal the size in its file."""
    try:
        size = tuple(size_of_image(file.image))
    except FileNotFoundError as error:
        within = " The JSON file contains it, in base64 as 'imageData'." if file.has_image else ""
        raise FileNotFoundError(
            f"{file.path}: the image {file.image!r} does not exist; pass the folder of the images "
            f"as image_dir.{within}"
        ) from error
    except READ_ERRORS as error:
        raise ValueError(f"{file.path}: {file.image!r} can't be read: {error}") from error
    if any(c not in (None, n) for c, n in zip(file.claimed_size, size, strict=True)):
        raise ValueError(
            f"{file.path} is of an image {file.claimed_size}, but {file.image!r} is {size} "
            "(height, width)."
        )
    return size


def _make_instance(file, shapes, size, masks):
    """Join the shapes of one instance, with the fields of the first shape."""
    numbers = [shape.number for shape in shapes]
    return Instance(
        file.image,
        file.name,
        shapes[0].label,
        size,
        mask=merge_masks([masks[number] for number in numbers]),
        annotation_id=f"{file.name}.json:{','.join(map(str, numbers))}",
        fields=shapes[0].entry,
    )


def _read_instances(file, chosen):
    """Return the objects of one image."""
    shapes = [s for s in file.shapes if s.label in chosen and s.kind not in NO_AREA]
    if not shapes:
        return []
    size, groups = _size_of(file), {}
    masks = fill_shapes(shapes, size, file.path)
    for shape in shapes:
        groups.setdefault(shape.instance, []).append(shape)
    return [_make_instance(file, group, size, masks) for group in groups.values()]


def _warn_without_area(files, chosen):
    """Warn of shapes without an area."""
    left_out = [
        f"{file.name}.json:{shape.number}"
        for file in files
        for shape in file.shapes
        if shape.label in chosen and shape.kind in NO_AREA
    ]
    if left_out:
        warn_user(
            f"{len(left_out)} shapes are points or lines, which have no area, and are left out, "
            f"such as {left_out[:5]}."
        )


@validate_params(
    {
        "folder": [str, os.PathLike],
        "image_dir": [str, os.PathLike, None],
        **TABLE_CONSTRAINTS,
    },
    prefer_skip_nested_validation=True,
)
def load_labelme(
    folder,
    image_dir=None,
    *,
    categories=None,
    merge_instances=True,
    min_area=0,
    mask="segmentation",
    keep=(),
    return_X_y=False,
):
    """Load a table of samples from a folder of labelme's JSON files.

    The folder is searched recursively. Files may be from labelme or X-AnyLabeling, with polygons,
    rectangles (also oriented ones), circles and masks. Shapes with the same label and ``group_id``
    form one instance. Only the sizes of images are read.

    Parameters
    ----------
    folder : str or path
        Folder of the JSON files.
    image_dir : str or path, default=None
        Folder of the images, with the same subfolders. Then only the file name in ``imagePath`` is
        used. ``None`` means that ``imagePath`` is relative to the JSON file. The images must then
        be inside ``folder``.
    categories : list of str, default=None
        Names of the labels to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether to merge the instances of a concept in an image into one row, as in the paper.
        Otherwise each instance is a row.
    min_area : int or float, default=0
        Minimum area of a mask. An int is a number of pixels, and a float in [0, 1] is a share of
        the image. Rows with smaller masks are omitted.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The shape itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields of the shapes to keep, such as "flags", "description", "group_id" or
        "shape_type". A group has the fields of its first shape. Each becomes a column. For
        merged instances, its cells are tuples with one value per instance.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        The table, with the attributes of :func:`load_coco`. Rows are sorted by file and label.
        ``image_id`` is the name of the JSON file with its subfolders. ``annotation_id`` is
        "FILE.json:NUMBER", with the position in ``shapes``, counted from 0, or
        "FILE.json:NUMBER,NUMBER" for a group.
    (data, target) : tuple if ``return_X_y`` is True
        The table and the concepts.

    Raises
    ------
    FileNotFoundError
        If the folder is missing or has no JSON file, or an image is missing.
    ValueError
        If a file has another format, a shape has an unknown type or cannot be read, an image is
        outside the folder, has another size than in its file, or has two files, a category is
        unknown, or nothing is left to load. The message names file and shape.

    Warns
    -----
    UserWarning
        If points or lines are omitted, because they have no area.

    See Also
    --------
    load_coco : Annotations in COCO format.
    load_yolo : Folders in YOLO format.

    Notes
    -----
    As in COCO, coordinates refer to corners of pixels: a rectangle from (2, 1) to (5, 3) covers
    three columns and two rows. The export of labelme itself covers one pixel more to the right and
    below.

    If images are only in ``imageData`` of the JSON files, write them to files once::

        for path in Path(folder).rglob("*.json"):
            content = json.loads(path.read_text())
            path.with_name(content["imagePath"]).write_bytes(b64decode(content["imageData"]))

    References
    ----------
    .. [1] https://github.com/wkentaro/labelme

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sklearn_loce.datasets import load_labelme
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (8, 6)).save(folder / "a.png")
    >>> _ = (folder / "a.json").write_text(json.dumps({
    ...     "imagePath": "a.png", "imageHeight": 6, "imageWidth": 8, "shapes": [
    ...         {"label": "car", "shape_type": "rectangle", "points": [[0, 0], [4, 3]]}]}))
    >>> table = load_labelme(folder)
    >>> table.data[["concept", "image_id", "area", "annotation_id"]]
      concept image_id  area annotation_id
    0     car        a  0.25  (a.json:0,)
    """
    paths = files_by_name(folder, Names("", ".json"), "file")
    files = [_read_file(path, name, folder, image_dir) for name, path in paths.items()]
    _check_images(files)
    labels = sorted({shape.label for file in files for shape in file.shapes})
    chosen = choose(categories, dict(zip(labels, labels, strict=True)), folder)
    _warn_without_area(files, chosen)
    frame = make_frame(
        (_read_instances(file, chosen) for file in files),
        chosen,
        keep=keep,
        merge_instances=merge_instances,
        mask=mask,
        min_area=min_area,
        source=folder,
    )
    return as_bunch(frame, chosen, folder, return_X_y=return_X_y)
