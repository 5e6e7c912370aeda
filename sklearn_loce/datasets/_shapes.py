"""Coarse shapes instead of a segmentation, as a cheaper annotation would have them."""

import numpy as np
from pycocotools import mask as coco_mask

from ._runs import encode_columns


def _fill_rectangle(left, top, width, height, size):
    return encode_columns(left, np.full(width, top), np.full(width, top + height), size)


def _fill_ellipse(left, top, width, height, size):
    """Fill the ellipse inscribed in a rectangle. Pixels count by their center."""
    above, below = _skip_outside(height, width)
    return encode_columns(left, top + above, top + height - below, size)


def _skip_outside(height, width):
    """Count each column's pixels above and below the ellipse in a rectangle, as (2, width)."""
    rows, columns = ((np.arange(n) + 0.5) / max(n, 1) * 2 - 1 for n in (height, width))
    half = (height + 1) // 2
    # Distances from the top and from the bottom to the middle, where the search ends.
    squares = np.full((2, half + 1), -np.inf)
    squares[:, :half] = rows[:half] ** 2, rows[::-1][:half] ** 2
    side = np.array([[0], [1]])
    low, high = np.zeros((2, width), dtype=int), np.full((2, width), half)
    for _ in range(half.bit_length()):
        middle = (low + high) // 2
        inside = squares[side, middle] + columns**2 <= 1
        low, high = np.where(inside, low, middle + 1), np.where(inside, middle, high)
    return high


def check_box(box):
    """Return a box as an array. Raise an error unless it has four finite numbers."""
    try:
        numbers = np.asarray(box)
    except ValueError:  # lists of several lengths
        numbers = np.array(None)
    if numbers.shape != (4,) or numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"a box must be four finite numbers, got {box!r:.100}")
    return numbers.astype(float)


def _round_box(box, size):
    """Return left, top, width and height of the pixels of a box, as in pycocotools."""
    numbers = check_box(box)
    start, end = numbers[:2], numbers[:2] + np.maximum(numbers[2:], 0)
    limits = np.array(size[::-1])
    # pycocotools rounds to fifths of a pixel. A column counts from the middle of its fifths on,
    # and a row if its center is inside.
    start, end = (np.trunc(5 * np.clip(c, -1, limits + 1) + 0.5) for c in (start, end))
    left, right = np.ceil((start[0] - 2) / 5), np.floor((end[0] - 3) / 5) + 1
    top, bottom = np.ceil((np.array([start[1], end[1]]) + 0.5) / 5 - 0.5)
    left, right = np.clip([left, right], 0, size[1]).astype(int).tolist()
    top, bottom = np.clip([top, bottom], 0, size[0]).astype(int).tolist()
    is_empty = left >= right or top >= bottom
    return (0, 0, 0, 0) if is_empty else (left, top, right - left, bottom - top)


def draw_mask(shape, rle):
    """Return a mask in one of ``SHAPES``: the mask itself, or a shape in its bounding rectangle."""
    if shape == "segmentation":
        return rle
    return _FILLS[shape](*coco_mask.toBbox(rle).astype(int).tolist(), rle["size"])


def draw_box(shape, box, size):
    """Fill a shape in a box (left, top, width, height) without tracing its outline.

    Raises
    ------
    ValueError
        If the box is not four finite numbers.
    """
    return _FILLS[shape](*_round_box(box, size), size)


_FILLS = {"rectangle": _fill_rectangle, "ellipse": _fill_ellipse}
SHAPES = ("segmentation", *_FILLS)
