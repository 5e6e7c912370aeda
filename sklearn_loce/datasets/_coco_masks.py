"""Read segmentations of COCO files: polygons and run-length encodings in common forms."""

from collections.abc import Mapping

import numpy as np
from pycocotools import mask as coco_mask

from .._samples.masks import check_n_pixels, compress_rle, empty_rle, rle_size
from ._runs import merge_masks
from ._shapes import check_box

# Pixels along the outline of a polygon. pycocotools needs 40 bytes per pixel.
_LONGEST_OUTLINE = 1 << 20
# Pixels along all outlines of an image. pycocotools needs 0.1 microseconds per pixel.
_LONGEST_OUTLINES = 1 << 27
_FORMS = (
    "a segmentation must be a list of polygons of finite numbers, [[x1, y1, x2, y2, x3, y3, ...], "
    "...], or a run-length encoding, {'size': [height, width], 'counts': ...}"
)


def read_masks(annotations, size, where):
    """Convert the segmentations of an image to compressed RLE.

    Parameters
    ----------
    annotations : list of Mapping
    size : list of int
        Height and width of the image.
    where : callable
        Function that returns the name of an annotation for messages.

    Returns
    -------
    list of dict or None
        None if only the box of an object is known. An object without a polygon and with an empty
        box has an empty mask.
    """
    parsed, total = [], 0
    for annotation in annotations:
        try:
            check_n_pixels(size)
            parsed.append(_parse(annotation))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{where(annotation)} can't be read: {error}") from error
        total += sum(length for _, length in parsed[-1][1])
        if total > _LONGEST_OUTLINES:
            raise ValueError(
                f"{where(annotation)} can't be read: the outlines of the polygons in its image are "
                f"longer than the limit of {_LONGEST_OUTLINES} pixels together"
            )
    return [_draw(a, *p, size, where) for a, p in zip(annotations, parsed, strict=True)]


def fill_polygons(outlines, size, where):
    """Fill outlines, and return one mask per outline.

    Parameters
    ----------
    outlines : list of ndarray of shape (n, 2)
        x and y of at least three corners in pixels.
    size : (int, int)
        Height and width of the image.
    where : callable
        ``where(i)`` names outline i in messages.

    Returns
    -------
    list of dict
        Compressed RLE.

    Raises
    ------
    ValueError
        If an outline, or all outlines of the image together, are too long.
    """
    annotations = [{"segmentation": [corners], "at": i} for i, corners in enumerate(outlines)]
    return read_masks(annotations, list(size), lambda annotation: where(annotation["at"]))


def _draw(annotation, rles, polygons, size, where):
    """Convert parsed segmentations to compressed RLE, or None if there is only a box."""
    if polygons:
        flat = [corners.ravel().tolist() for corners, _ in polygons]
        return merge_masks(coco_mask.frPyObjects(flat, *size))
    try:
        if rles:
            return merge_masks([_compress(rle, size) for rle in rles])
        return None if _has_extent(annotation) else empty_rle(size)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where(annotation)} can't be read: {error}") from error


def _has_extent(annotation):
    """Return whether an object without a mask has a box of positive size."""
    if not _is_missing(annotation.get("bbox")):
        return min(check_box(annotation["bbox"])[2:]) > 0
    if "segmentation" not in annotation:
        raise ValueError("it has neither a 'segmentation' nor a 'bbox'")
    return False


def _compress(rle, size):
    """Compress an RLE, whose size must equal that of its image."""
    if list(rle_size(rle)) != size:
        raise ValueError(
            f"it is a mask of {list(rle['size'])}, but its image is {size} (height, width)."
        )
    counts = rle["counts"]
    if isinstance(counts, str) and counts.startswith("b'"):
        # str(bytes) doubles backslashes. Run lengths never contain quotes.
        counts = counts[2:].removesuffix("'").replace("\\\\", "\\")
    return compress_rle({"size": size, "counts": counts})


def _parse(annotation):
    """Return the RLEs of a segmentation, and its polygons as [(corners, length of the outline)].

    A list of numbers or of pairs is a single polygon, because a polygon has more than one corner.
    """
    segmentation = annotation.get("segmentation")
    if _is_missing(segmentation):
        return [], []
    if isinstance(segmentation, Mapping):
        return [segmentation], []
    if not _is_sequence(segmentation):
        raise ValueError(f"{_FORMS}; got {_show(segmentation)}")
    if all(isinstance(part, Mapping) and "counts" in part for part in segmentation):
        return list(segmentation), []
    is_one = not any(map(_is_sequence, segmentation)) or all(map(_is_pair, segmentation))
    outlines = [_read_corners(part) for part in ([segmentation] if is_one else segmentation)]
    return [], [(c, _measure_outline(c)) for c in outlines if len(c) >= 3]


def _is_missing(value):
    return value is None or (
        isinstance(value, Mapping | list | tuple | np.ndarray) and not len(value)
    )


def _is_sequence(value):
    return isinstance(value, list | tuple | np.ndarray)


def _is_pair(value):
    return _is_sequence(value) and len(value) == 2 and not any(map(_is_sequence, value))


def _read_corners(polygon):
    """Convert a polygon, flat or of pairs, to an array of shape (n, 2)."""
    try:
        corners = np.asarray(polygon)
    except ValueError:  # rows of different lengths
        corners = np.array(None)
    is_flat = corners.ndim == 1 and corners.size % 2 == 0
    is_known = is_flat or (corners.ndim == 2 and corners.shape[1] == 2)
    if not is_known or corners.dtype.kind not in "iuf" or not np.isfinite(corners).all():
        raise ValueError(f"{_FORMS}; got the polygon {_show(polygon)}")
    return corners.reshape(-1, 2).astype(float)


def _show(value):
    length = f", of length {len(value)}" if _is_sequence(value) else ""
    return f"{value!r:.80}{length}"


def _measure_outline(corners):
    """Measure an outline. Raise an error if it is too long for pycocotools."""
    length = np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum()
    if np.abs(corners).max() > _LONGEST_OUTLINE or length > _LONGEST_OUTLINE:
        raise ValueError(
            f"the outline of a polygon is {length:.3g} pixels long and reaches "
            f"{np.abs(corners).max():.3g}; at most {_LONGEST_OUTLINE} pixels are possible"
        )
    return length
