"""Bilinear resampling along one axis, as in torch with ``align_corners=False``."""

from functools import lru_cache

import numpy as np
import torch


@lru_cache(maxsize=256)
def bilinear_taps(size_in, size_out):
    """Return the two neighbors of every output position, and the weight of the second."""
    position = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
    position = np.clip(position, 0, size_in - 1)
    first = np.floor(position).astype(np.int64)
    taps = first, np.minimum(first + 1, size_in - 1), position - first
    for array in taps:
        array.flags.writeable = False
    return taps


def resample_axis(array, axis, size):
    """Resample one axis of an array of shape (..., height, width); the dtype stays the same."""
    first, second, share = bilinear_taps(array.shape[axis], size)
    share = share.astype(array.dtype).reshape(-1, *[1] * (array.ndim - 1 - axis))
    first, second = (array.take(taps, axis) for taps in (first, second))
    return first + share * (second - first)


@lru_cache(maxsize=256)
def bilinear_matrix(size_in, size_out, dtype, device):
    """Return the (size_out, size_in) matrix of the same resampling, as a tensor."""
    first, second, share = bilinear_taps(size_in, size_out)
    matrix = np.zeros((size_out, size_in))
    lines = np.arange(size_out)
    np.add.at(matrix, (lines, first), 1 - share)
    np.add.at(matrix, (lines, second), share)
    return torch.from_numpy(matrix).to(dtype=dtype, device=device)
