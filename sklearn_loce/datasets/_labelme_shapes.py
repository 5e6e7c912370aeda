"""Shapes of labelme: checked, and filled as masks."""

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
# Those of four corners are X-AnyLabeling's, and of labelme from version 6 on.
_POLYGONS = ("polygon", "rectangle", "oriented_rectangle", "rotation")
# What is read of a shape besides its points; the first versions have labels only.
_ENTRY = (
    ("label", str, "a string"),
    ("group_id", int | str | None, "an integer"),
    ("shape_type", str | None, "a string"),
)
_FARTHEST = 1e9
_LONGEST_ENCODINGS = 1 << 27  # bytes of the circles and masks of one image


@dataclass(frozen=True)
class Shape:
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
    for key, types, kind in _ENTRY:
        if not isinstance(entry.get(key), types):
            raise ValueError(  # noqa: TRY004 - the file is at fault, not the caller's type
                f"{key} must be {kind}, got {entry[key]!r}"
            )
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


def read_shapes(path, entries):
    """Bring the shapes of a file to Shape; an error names the file and the shape.

    Parameters
    ----------
    path : path
    entries : list
        What the file has as ``shapes``.

    Returns
    -------
    list of Shape

    Raises
    ------
    ValueError
        If a shape lacks a part, or has one of another kind.
    """
    points = _read_each(_check_entry, enumerate(entries), path)
    return [Shape(number, entry, points[number]) for number, entry in enumerate(entries)]


def _check_count(shape, *wanted):
    if len(shape.points) not in wanted:
        raise ValueError(
            f"a {shape.kind} has {' or '.join(map(str, wanted))} points, got {len(shape.points)}"
        )


def _outline_of(shape):
    """Return the corners of a polygon, or of a rectangle by two opposite corners or all four."""
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
            f"the shape_type {shape.kind!r} is none of {[*_POLYGONS, *_FILLS, *NO_AREA]}"
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


def fill_shapes(shapes, size, path):
    """Fill the shapes of an image.

    Parameters
    ----------
    shapes : list of Shape
    size : (int, int)
        Height and width of the image.
    path : path
        The shapes' file, for messages.

    Returns
    -------
    dict
        {number of a shape: compressed RLE}.

    Raises
    ------
    ValueError
        If a shape is of an unknown type, has too few points or cannot be drawn.
    """
    numbered = [(shape.number, shape) for shape in shapes]
    _read_each(_check_kind, numbered, path)
    others = [(number, shape) for number, shape in numbered if shape.kind in _FILLS]
    masks = _fill_others(others, size, path)
    polygons = [(number, shape) for number, shape in numbered if shape.kind in _POLYGONS]
    outlines = _read_each(_outline_of, polygons, path)
    masks += fill_polygons(outlines, size, lambda i: _at(path, polygons[i][0]))
    return dict(zip([number for number, _ in others + polygons], masks, strict=True))
