"""Make, fill and merge masks as runs of pixels by columns, without the whole image."""

import numpy as np
from pycocotools import mask as coco_mask

# One merge reads all runs once per mask. A tree of small merges reads them once per level.
_MERGED_AT_ONCE = 8


def encode_runs(starts, ends, size):
    """Convert runs of foreground to compressed RLE.

    Parameters
    ----------
    starts, ends : ndarray of shape (n,), int
        Positions in the pixels of the image in column order, ascending, without empty runs.
    size : (int, int)
        Height and width of the image.
    """
    bounds = np.empty(2 * len(starts) + 2, dtype=np.int64)
    bounds[0], bounds[-1] = 0, size[0] * size[1]
    bounds[1:-1:2], bounds[2:-1:2] = starts, ends
    # Adjacent runs have no bound between them.
    touching = 2 * np.flatnonzero(starts[1:] == ends[:-1]) + 2
    if len(touching):
        bounds = np.delete(bounds, [touching, touching + 1])
    counts = (bounds[1:] - bounds[:-1]).tolist()
    counts = counts[:-1] if counts[-1] == 0 else counts
    return coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)


def encode_columns(left, tops, bottoms, size):
    """Encode one run of rows per column, starting at column ``left``. Runs may be empty."""
    offsets = np.arange(left, left + len(tops)) * size[0]
    filled = tops < bottoms
    return encode_runs((offsets + tops)[filled], (offsets + bottoms)[filled], size)


def encode_labels(labels, left=0, width=None):
    """Encode each number of an index image, as {number: compressed RLE}.

    Parameters
    ----------
    labels : ndarray of shape (height, n_columns), int
    left, width : int, default=0, None
        First column in the image, and the width of the image. ``None`` means all columns.
    """
    size = labels.shape[0], width or labels.shape[1]
    pixels = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(pixels, prepend=~pixels[:1]))
    ends = np.append(starts[1:], len(pixels)) + left * size[0]
    numbers, ranks = np.unique(pixels[starts], return_inverse=True)
    order = np.argsort(ranks, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(ranks))[:-1])
    starts = starts + left * size[0]
    return {
        number: encode_runs(starts[part], ends[part], size)
        for number, part in zip(numbers.tolist(), parts, strict=True)
    }


def merge_masks(rles):
    """Return the union of masks of the same size as compressed RLE."""
    while len(rles) > 1:
        rles = [
            coco_mask.merge(rles[i : i + _MERGED_AT_ONCE])
            for i in range(0, len(rles), _MERGED_AT_ONCE)
        ]
    return rles[0]
