"""Tables of samples from the JSON files of labelme."""

import base64
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image
from sklearn.utils._param_validation import validate_params

from .._samples.images import READ_ERRORS, size_of_image
from .._samples.masks import read_mask
from .._warnings import warn_user
from ._index_masks import _files_by_name
from ._instances import Instance, make_frame
from ._outlines import fill_polygons
from ._runs import encode_columns, encode_runs, merge_masks
from ._table import TABLE_CONSTRAINTS, as_bunch, choose, locate

_NO_AREA = ("point", "points", "line", "linestrip")
# Those of four corners are X-AnyLabeling's, and of labelme from version 6 on.
_POLYGONS = ("polygon", "rectangle", "oriented_rectangle", "rotation")
_FARTHEST = 1e9
_LONGEST_ENCODINGS = 1 << 27  # bytes of the circles and masks of one image


@dataclass(frozen=True)
class _Shape:
    """One shape of a file: its place, what the file says of it, and its points."""

    number: int
    entry: dict
    points: np.ndarray

    @property
    def label(self):
        """What the shape is called."""
        return self.entry["label"]

    @property
    def kind(self):
        """Polygon, circle, ...; the first versions knew polygons only."""
        return self.entry.get("shape_type") or "polygon"

    @property
    def instance(self):
        """What shapes of one instance have in common: the label and the group."""
        group = self.entry.get("group_id")
        return self.label, ("shape", self.number) if group is None else ("group", group)


@dataclass(frozen=True)
class _File:
    """One file: its path, that in the folder without the suffix, and the image it is of."""

    path: Path
    name: str
    image: str
    claimed_size: tuple
    has_image: bool
    shapes: list


def _read_points(points):
    try:
        array = np.array(points, dtype=float)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    # A comparison with NaN is False, too.
    if array.ndim != 2 or array.shape[1] != 2 or not (np.abs(array) < _FARTHEST).all():
        raise ValueError(
            f"points must be pairs of finite numbers below {_FARTHEST:.0e}, got {str(points)[:80]}"
        )
    return array


def _check_entry(entry):
    """Check what is read of a shape, and give its points."""
    lacking = [k for k in ("label", "points") if not isinstance(entry, dict) or k not in entry]
    if lacking:
        raise ValueError(f"it lacks {lacking}")
    for key, kinds in (
        ("label", str),
        ("group_id", int | str | None),
        ("shape_type", str | None),
    ):
        if not isinstance(entry.get(key), kinds):
            raise ValueError(f"{key} is {entry[key]!r}")  # noqa: TRY004 - the file is at fault
    return _read_points(entry["points"])


def _at(path, number):
    return f"{path}: shapes[{number}]"


def _read_each(read, numbered, path):
    """Call a function on each shape; an error says on which."""
    results = []
    for number, shape in numbered:
        try:
            results.append(read(shape))
        except ValueError as error:
            raise ValueError(f"{_at(path, number)} can't be read: {error}.") from error
    return results


def _read_shapes(path, entries):
    points = _read_each(_check_entry, enumerate(entries), path)
    return [_Shape(number, entry, points[number]) for number, entry in enumerate(entries)]


def _read_json(path):
    """Read a file's content, and check that it is labelme's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a whole JSON file in UTF-8: {error}") from error
    content = content if isinstance(content, dict) else {}
    parts = (("imagePath", str), ("shapes", list))
    lacking = [key for key, kind in parts if not isinstance(content.get(key), kind)]
    if lacking:
        raise ValueError(f"{path} is not in labelme's format: it lacks {lacking}.")
    return content


def _locate_image(path, name, image_path, folder, image_dir):
    """Give the path of an image: as the file has it, or by its name in ``image_dir``."""
    # Windows writes backslashes; its rules read slashes, too.
    image_path, subfolder = PureWindowsPath(image_path), os.path.dirname(name)
    if image_dir is not None:
        return locate(image_dir, os.path.join(subfolder, image_path.name), path)
    try:
        return locate(folder, os.path.join(subfolder, image_path.as_posix()), path)
    except ValueError as error:
        raise ValueError(f"{error} Or name the folder of the images by image_dir.") from error


def _read_file(path, name, folder, image_dir):
    """Read a file, without the image that it may hold."""
    content = _read_json(path)
    return _File(
        path,
        name,
        _locate_image(path, name, content["imagePath"], folder, image_dir),
        (content.get("imageHeight"), content.get("imageWidth")),
        bool(content.get("imageData")),
        _read_shapes(path, content["shapes"]),
    )


def _check_images(files):
    """Raise where two files are of one image: a copy has the path of its original."""
    seen = {}
    for file in files:
        other = seen.setdefault(os.path.abspath(file.image), file)
        if other is not file:
            raise ValueError(f"{other.path} and {file.path} are both of the image {file.image!r}.")


def _size_of(file):
    """Give (height, width) of an image, which must be that of the annotated one."""
    try:
        size = tuple(size_of_image(file.image))
    except FileNotFoundError as error:
        within = " The JSON file holds it, in base64 as 'imageData'." if file.has_image else ""
        raise FileNotFoundError(
            f"{file.path}: the image {file.image!r} does not exist; name the folder of the images "
            f"by image_dir.{within}"
        ) from error
    except READ_ERRORS as error:
        raise ValueError(f"{file.path}: {file.image!r} can't be read: {error}") from error
    if any(c not in (None, n) for c, n in zip(file.claimed_size, size, strict=True)):
        raise ValueError(
            f"{file.path} is of an image {file.claimed_size}, but {file.image!r} is {size} "
            "(height, width)."
        )
    return size


def _check_count(shape, *wanted):
    if len(shape.points) not in wanted:
        raise ValueError(
            f"a {shape.kind} has {' or '.join(map(str, wanted))} points, got {len(shape.points)}"
        )


def _outline_of(shape):
    """Give the corners of a polygon, or of a rectangle by two opposite corners or all four."""
    if shape.kind == "rectangle":
        _check_count(shape, 2, 4)
        if len(shape.points) == 2:
            (x, y), (to_x, to_y) = shape.points
            return np.array([[x, y], [to_x, y], [to_x, to_y], [x, to_y]])
    if len(shape.points) < 3:
        raise ValueError(f"a polygon has three points or more, got {len(shape.points)}")
    return shape.points


def _fill_circle(shape, size):
    """Fill a circle by its center and a point on it; pixels count by their center."""
    _check_count(shape, 2)
    (x, y), radius = shape.points[0], np.hypot(*(shape.points[1] - shape.points[0]))
    left, right = np.clip([x - radius, x + radius + 1], 0, size[1]).astype(int)
    squares = radius**2 - (np.arange(left, right) + 0.5 - x) ** 2
    # Of columns beside the circle, the end comes before the start.
    half = np.where(squares < 0, -1, np.sqrt(np.maximum(squares, 0)))
    ends = np.ceil(y - half - 0.5), np.floor(y + half + 0.5)
    return encode_columns(left, *np.clip(ends, 0, size[0]).astype(int), size)


def _decode_png(text, size):
    """Decode a mask of known size; a PNG of another could have any number of pixels."""
    if not isinstance(text, str):
        raise ValueError(  # noqa: TRY004 - the file is at fault
            f"its mask must be a PNG in base64, got {type(text).__name__}"
        )
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
            found = image.size[::-1]
            mask = read_mask(image) if found == size else None
    except READ_ERRORS as error:
        raise ValueError(f"its mask can't be read as a PNG in base64: {error}") from error
    if mask is None:
        raise ValueError(f"its mask is {found}, but its points span {size} (height, width)")
    return mask


def _fill_mask(shape, size):
    """Put the mask of a box in its place; both corners of the box are pixels of it."""
    _check_count(shape, 2)
    left, top, right, bottom = shape.points.ravel().astype(int).tolist()
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise ValueError(f"the box of its mask {shape.points.tolist()} is not in the image {size}")
    mask = _decode_png(shape.entry.get("mask"), (bottom - top + 1, right - left + 1))
    # A row of background below each column, so that no run reaches into the next.
    padded = np.zeros((mask.shape[0] + 1, mask.shape[1]), dtype=np.int8, order="F")
    padded[:-1] = mask
    edges = np.flatnonzero(np.diff(padded.ravel(order="F"), prepend=np.int8(0)))
    columns, rows = np.divmod(edges, len(padded))
    pixels = (columns + left) * size[0] + rows + top
    return encode_runs(pixels[::2], pixels[1::2], size)


_FILLS = {"circle": _fill_circle, "mask": _fill_mask}


def _check_kind(shape):
    if shape.kind not in (*_POLYGONS, *_FILLS):
        raise ValueError(
            f"the shape_type {shape.kind!r} is none of {[*_POLYGONS, *_FILLS, *_NO_AREA]}"
        )


def _fill_others(numbered, size, path):
    """Fill circles and masks, which may ask for as many runs as the image has columns each."""
    masks, length = [], 0
    for number, shape in numbered:
        masks += _read_each(lambda s: _FILLS[s.kind](s, size), [(number, shape)], path)
        length += len(masks[-1]["counts"])
        if length > _LONGEST_ENCODINGS:
            raise ValueError(
                f"{_at(path, number)}: the circles and masks of the image take more than "
                f"{_LONGEST_ENCODINGS >> 20} MiB; load fewer categories."
            )
    return masks


def _fill(shapes, size, path):
    """Give {number of a shape: compressed RLE}."""
    numbered = [(shape.number, shape) for shape in shapes]
    _read_each(_check_kind, numbered, path)
    others = [(number, shape) for number, shape in numbered if shape.kind in _FILLS]
    masks = _fill_others(others, size, path)
    polygons = [(number, shape) for number, shape in numbered if shape.kind in _POLYGONS]
    outlines = _read_each(_outline_of, polygons, path)
    masks += fill_polygons(outlines, size, lambda i: _at(path, polygons[i][0]))
    return dict(zip([number for number, _ in others + polygons], masks, strict=True))


def _make_instance(file, shapes, size, masks):
    """Join the shapes of one instance; what is kept of it is the first's."""
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
    """Give the objects of one image."""
    shapes = [s for s in file.shapes if s.label in chosen and s.kind not in _NO_AREA]
    if not shapes:
        return []
    size, groups = _size_of(file), {}
    masks = _fill(shapes, size, file.path)
    for shape in shapes:
        groups.setdefault(shape.instance, []).append(shape)
    return [_make_instance(file, group, size, masks) for group in groups.values()]


def _warn_without_area(files, chosen):
    """Tell of shapes that cover nothing."""
    left_out = [
        f"{file.name}.json:{shape.number}"
        for file in files
        for shape in file.shapes
        if shape.label in chosen and shape.kind in _NO_AREA
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

    The folder is searched with all that is in it. Polygons, rectangles (of two or four corners,
    oriented ones too), circles and masks are read, and X-AnyLabeling's files of this format. Shapes
    of one label and one ``group_id`` are one instance. Of images only the size is read.

    Parameters
    ----------
    folder : str or path
        Folder of the JSON files.
    image_dir : str or path, default=None
        Folder of the images, with the same subfolders; of a file's ``imagePath`` only the name
        counts. ``None`` follows ``imagePath`` from the JSON file on; such images must lie in
        ``folder``.
    categories : list of str, default=None
        Names of the labels to load; ``None`` loads all.
    merge_instances : bool, default=True
        Whether the instances of a concept in an image become one row (the paper's way) or stay
        one row each.
    min_area : int or float, default=0
        Rows with smaller masks are left out: pixels where it is an int, the share of the image in
        [0, 1] where it is a float.
    mask : {"segmentation", "rectangle", "ellipse"}, default="segmentation"
        The shape itself, the bounding rectangle of each instance, or the ellipse inscribed in it.
    keep : list of str, default=()
        Further fields of the shapes to keep, such as "flags", "description", "group_id" or
        "shape_type"; of a group those of its first shape. Each becomes a column; where instances
        are merged, a tuple with one value per instance.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    data : Bunch
        As :func:`load_coco` gives it, rows sorted by file and label; ``image_id`` is the JSON
        file's name with its subfolders, and ``annotation_id`` is "FILE.json:NUMBER", with the place
        in ``shapes``, counted from 0, or "FILE.json:NUMBER,NUMBER" of a group.
    (data, target) : tuple if ``return_X_y`` is True

    Raises
    ------
    FileNotFoundError
        If the folder is missing or has no JSON file, or an image is missing.
    ValueError
        If a file is not labelme's, a shape is of an unknown type or can't be read, an image lies
        outside of the folder, is not of the size that the file claims or has two files, a category
        is unknown, or nothing is left to load. The message names file and shape.

    Warns
    -----
    UserWarning
        If points or lines, which have no area, are left out.

    See Also
    --------
    load_coco : Annotations in COCO format.
    load_yolo : Folders in YOLO format.

    Notes
    -----
    Coordinates are those of pixels' corners, as in COCO: a rectangle from (2, 1) to (5, 3) covers
    three columns and two rows. labelme's own export draws the rim as well, one pixel more to the
    right and below.

    Images that are only in the JSON files, as ``imageData``, must be written once::

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
    paths = _files_by_name(folder, (".json",), "file")
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
