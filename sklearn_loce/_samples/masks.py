"""Read and check concept masks."""

from functools import lru_cache

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from .images import PATH, open_image

_COUNT_LIMIT = 1 << 32  # pycocotools counts pixels in 32 bits
_LONGEST_NUMBER = 7  # characters of such a count in a compressed RLE


def rle_size(rle):
    """Return the (height, width) of a COCO run-length encoding, if it is plausible."""
    if not {"size", "counts"} <= rle.keys():
        raise ValueError(f"A mask RLE needs the keys 'size' and 'counts', got {sorted(rle)}.")
    try:
        size = tuple(map(int, rle["size"]))
        is_whole = len(size) == 2 and size == tuple(rle["size"]) and min(size) >= 1
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"the size of a mask RLE must be two positive integers, got {rle['size']!r}"
        )
    check_n_pixels(size)
    return size


def check_n_pixels(size):
    """Raise an error if a mask is larger than the largest image that Pillow opens."""
    limit = _COUNT_LIMIT - 1
    if Image.MAX_IMAGE_PIXELS is not None:
        limit = min(limit, 2 * Image.MAX_IMAGE_PIXELS)
    if size[0] * size[1] > limit:
        raise ValueError(
            f"a mask of {size[0]} x {size[1]} pixels is larger than the limit of {limit} pixels, "
            "which PIL.Image.MAX_IMAGE_PIXELS sets (twice its value, as for images)"
        )


def compress_rle(rle):
    """Convert a COCO run-length encoding to its compressed form, with ``counts`` as bytes.

    An implausible size, or runs that do not fill it exactly, raise an error.
    """
    size, counts = rle_size(rle), rle["counts"]
    is_text = isinstance(counts, str | bytes)
    # Check before reading: a mask has at most one run per pixel, and an empty first run.
    longest = (size[0] * size[1] + 1) * (_LONGEST_NUMBER if is_text else 1)
    if hasattr(counts, "__len__") and len(counts) > longest:
        raise ValueError(
            f"a mask RLE of size {size[0]} x {size[1]} can't have counts of length {len(counts)}"
        )
    if is_text:
        counts = counts.encode("ascii") if isinstance(counts, str) else counts
        _check_text(counts, size)
        return {"size": list(size), "counts": counts}
    runs = np.asarray(counts)
    _check_runs(runs, size)
    return coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)


def empty_rle(size):
    """Return the compressed encoding of a mask without foreground."""
    return compress_rle({"size": size, "counts": [size[0] * size[1]]})


@lru_cache(maxsize=2**14)
def _check_text(text, size):
    """Check compressed run lengths, because pycocotools reads out of bounds if they are wrong.

    A number is a sequence of characters with five bits each, lowest bits first. The sixth bit is
    set if another character follows. From the fourth number on, the value is the difference to the
    number before the previous one.
    """
    characters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((characters & 32) == 0)
    is_foreign = len(characters) == 0 or characters.min() < 0 or characters.max() > 63
    if is_foreign or len(ends) == 0 or ends[-1] != len(characters) - 1:
        raise ValueError("a compressed mask RLE is cut off or has invalid characters")
    starts = np.r_[0, ends[:-1] + 1]
    place = np.arange(len(characters)) - np.repeat(starts, ends - starts + 1)
    if place.max() > 10:
        raise ValueError("a compressed mask RLE has a number that is too large")
    runs = np.add.reduceat((characters & 31) << (5 * place), starts)
    negative = (characters[ends] & 16) != 0
    runs -= np.where(negative, 1 << (5 * (place[ends] + 1)), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    _check_runs(runs, size)


def _check_runs(runs, size):
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or runs.min(initial=0) < 0:
        raise ValueError("the counts of a mask RLE must be integers of at least 0")
    n_pixels, longest = size[0] * size[1], runs.max(initial=0)
    # A sum of longer runs could overflow to the right number.
    if longest > n_pixels or runs.sum() != n_pixels:
        total = f"a run of {longest}" if longest > n_pixels else runs.sum()
        raise ValueError(
            f"the counts of a mask RLE of size {size[0]} x {size[1]} must sum to "
            f"{n_pixels}, got {total}"
        )


def size_of_mask(mask):
    """Return (height, width) of a mask, without decoding run-length encodings and files."""
    if isinstance(mask, dict):
        return rle_size(mask)
    if isinstance(mask, PATH):
        with open_image(mask) as opened:
            return opened.size[::-1]
    if isinstance(mask, Image.Image):
        return mask.size[::-1]
    shape = () if isinstance(mask, list) else np.shape(mask)
    return shape if len(shape) == 2 else read_mask(mask).shape


def has_foreground(mask):
    """Return whether a mask has foreground, without decoding run-length encodings."""
    if isinstance(mask, dict):
        return bool(coco_mask.area(compress_rle(mask)) > 0)
    return bool(read_mask(mask).any())


def read_mask(mask):
    """Read a mask of the table of samples as a 2-D array of bool.

    A mask is a COCO RLE, an array or image whose non-zero pixels are the concept, or its file. In
    palette images, index 0 is the background.
    """
    if isinstance(mask, dict):
        return coco_mask.decode(compress_rle(mask)).view(bool)
    if isinstance(mask, PATH):
        with open_image(mask) as image:
            return read_mask(image)
    if isinstance(mask, list) and _has_polygons(mask):
        raise ValueError(
            "polygons are not a mask; read annotations with polygons by load_coco, or convert them "
            "by frPyObjects and merge of pycocotools.mask"
        )
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        is_colored = isinstance(mask, Image.Image) and array.ndim == 3
        hint = " Save it with one, as by image.convert('L')." if is_colored else ""
        raise ValueError(
            "A mask must be a COCO RLE dict, a 2-D array or the path of an image with one channel, "
            f"got {type(mask).__name__} of shape {array.shape} and dtype {array.dtype}.{hint}"
        )
    foreground = array != 0
    values = array[foreground]
    if values.size and (values != values[0]).any():
        raise ValueError(
            "A mask may have one value besides 0, but this mask has more. Threshold a soft mask "
            "first, as in mask > 0.5. Select one label of an image of labels, as in labels == 3."
        )
    return foreground


def _has_polygons(mask):
    """Return whether lists are polygons of COCO, not the rows of an array."""
    if not mask or not all(isinstance(row, list) for row in mask):
        return False
    if len(mask) == 1:
        return any(value not in (0, 1) for value in mask[0])
    return len({len(row) for row in mask}) > 1


def intersection_over_union(first, second):
    """Return the IoU of two boolean masks, or 0 if both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0
