"""Check shapes of labelme, and fill them as masks."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .._samples.images import READ_ERRORS
from .._samples.masks import read_mask
from ._coco_masks import fill_polygons
from ._runs import encode_columns, encode_runs

NO_AREA = ("point", "points", "line", "linestrip")
# X-AnyLabeling, and labelme since version 6, write rectangles with four corners.
_POLYGONS = ("polygon", "rectangle", "oriented_rectangle", "rotation")
# Fields of a shape besides its points. Early versions have labels only.
_ENTRY = (
    ("label", str, "a string"),
    ("group_id", int | str | None, "an integer"),
    ("shape_type", str | None, "a string"),
)
_FARTHEST = 1e9
_LONGEST_ENCODINGS = 1 << 27  # bytes of the circles and masks of one image


@dataclass(frozen=True)
class Shape:
    """One shape of a file: its position, its entry and its points."""

    number: int
    entry: dict
    points: np.ndarray

    @property
    def label(self):
        """The label of the shape."""
        return self.entry["label"]

    @property
    def kind(self):
        """The type of the shape. Early versions have polygons only."""
        return self.entry.get("shape_type") or "polygon"

    @property
    def instance(self):
        """Label and group, which all shapes of an instance share."""
        group = self.entry.get("group_id")
        return self.label, ("shape", self.number) if group is None else ("group", group)


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
    """Check the fields of a shape, and return its points."""
    lacking = [k for k in ("label", "points") if not isinstance(entry, dict) or k not in entry]
    if lacking:
        raise ValueError(f"it lacks {lacking}")
    for key, types, kind in _ENTRY:
        if not isinstance(entry.get(key), types):
            raise ValueError(  # noqa: TRY004 - the file is at fault, not the caller's type
                f"{key} must be {kind}, got {entry[key]!r}"
            )
    return _read_points(entry["points"])


def _at(path, number):
    return f"{path}: shapes[{number}]"


def _read_each(read, numbered, path):
    """Call a function on each shape. Errors name the shape."""
    results = []
    for number, shape in numbered:
        try:
            results.append(read(shape))
        except ValueError as error:
            raise ValueError(f"{_at(path, number)} can't be read: {error}.") from error
    return results


def read_shapes(path, entries):
    """Convert the shapes of a file. Errors name the file and the shape.

    Parameters
    ----------
    path : path
    entries : list
        The list ``shapes`` of the file.

    Returns
    -------
    list of Shape

    Raises
    ------
    ValueError
        If a shape lacks a field, or a field has a wrong type.
    """
    points = _read_each(_check_entry, enumerate(entries), path)
    return [Shape(number, entry, points[number]) for number, entry in enumerate(entries)]


def _check_count(shape, *wanted):
    if len(shape.points) not in wanted:
        raise ValueError(
            f"a {shape.kind} has {' or '.join(map(str, wanted))} points, got {len(shape.points)}"
        )


def _outline_of(shape):
    """Return the corners of a polygon, or of a rectangle with two or four corners."""
    if shape.kind == "rectangle":
        _check_count(shape, 2, 4)
        if len(shape.points) == 2:
            (x, y), (to_x, to_y) = shape.points
            return np.array([[x, y], [to_x, y], [to_x, to_y], [x, to_y]])
    if len(shape.points) < 3:
        raise ValueError(f"a polygon has three points or more, got {len(shape.points)}")
    return shape.points


def _fill_circle(shape, size):
    """Fill a circle by its center and a point on it. Pixels count by their center."""
    _check_count(shape, 2)
    (x, y), radius = shape.points[0], np.hypot(*(shape.points[1] - shape.points[0]))
    left, right = np.clip([x - radius, x + radius + 1], 0, size[1]).astype(int)
    squares = radius**2 - (np.arange(left, right) + 0.5 - x) ** 2
    # In columns beside the circle, the end precedes the start.
    half = np.where(squares < 0, -1, np.sqrt(np.maximum(squares, 0)))
    ends = np.ceil(y - half - 0.5), np.floor(y + half + 0.5)
    return encode_columns(left, *np.clip(ends, 0, size[0]).astype(int), size)


def _decode_png(text, size):
    """Decode a mask of known size. Another size is an error, as it could be huge."""
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
    """Place the mask of a box. Both corners of the box are pixels of it."""
    _check_count(shape, 2)
    left, top, right, bottom = shape.points.ravel().astype(int).tolist()
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise ValueError(f"the box of its mask {shape.points.tolist()} is not in the image {size}")
    mask = _decode_png(shape.entry.get("mask"), (bottom - top + 1, right - left + 1))
    # A row of background below each column ends every run.
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
            f"the shape_type {shape.kind!r} is none of {[*_POLYGONS, *_FILLS, *NO_AREA]}"
        )


def _fill_others(numbered, size, path):
    """Fill circles and masks, each of which may need one run per column."""
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


def fill_shapes(shapes, size, path):
    """Fill the shapes of an image.

    Parameters
    ----------
    shapes : list of Shape
    size : (int, int)
        Height and width of the image.
    path : path
        The file of the shapes, for messages.

    Returns
    -------
    dict
        {number of a shape: compressed RLE}.

    Raises
    ------
    ValueError
        If a shape has an unknown type or too few points, or cannot be filled.
    """
    numbered = [(shape.number, shape) for shape in shapes]
    _read_each(_check_kind, numbered, path)
    others = [(number, shape) for number, shape in numbered if shape.kind in _FILLS]
    masks = _fill_others(others, size, path)
    polygons = [(number, shape) for number, shape in numbered if shape.kind in _POLYGONS]
    outlines = _read_each(_outline_of, polygons, path)
    masks += fill_polygons(outlines, size, lambda i: _at(path, polygons[i][0]))
    return dict(zip([number for number, _ in others + polygons], masks, strict=True))
