"""Resizing of masks to the size at which LoCEs are optimized, and bilinear resampling of maps."""

from functools import lru_cache
from numbers import Integral

import numpy as np
import torch
from scipy import ndimage, sparse
from torch.nn.functional import interpolate

from .compiled.simd import jit

_LONGEST_SIDE = 1 << 15  # pixels; beyond, the blur takes minutes
_TRUNCATE = 4.0  # standard deviations at which SciPy and scikit-image truncate the blur
_BLOCK = 1 << 20  # numbers in memory at a time

# Arguments of torch's interpolation. "gaussian" is implemented here.
_INTERPOLATIONS = {
    "area": {"mode": "area"},
    "nearest": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "antialias": True},
}
MASK_RESIZE = ("gaussian", *_INTERPOLATIONS)


def check_mask_size(size):
    """Raise unless ``size`` is two positive integers."""
    if len(size) != 2 or any(not isinstance(n, Integral) or n < 1 for n in size):
        raise ValueError(
            f"mask_size must be two positive integers (n_rows, n_columns), got {size}."
        )


@lru_cache(maxsize=64)
def _gaussian_matrix(size_in, size_out):
    """Return blur and interpolation along one axis, a sparse array of shape (size_out, size_in)."""
    if size_in > _LONGEST_SIDE:
        raise ValueError(
            f"a mask with a side of {size_in} pixels can't be resized by method 'gaussian', "
            f"which takes up to {_LONGEST_SIDE}; shrink the image first, or choose 'area'"
        )
    sigma = max(0.0, (size_in / size_out - 1) / 2)
    step = max(1, _BLOCK // size_in)
    zoom = (size_out / size_in, 1)
    blocks = []
    reach = int(_TRUNCATE * sigma + 0.5) + 1
    for start in range(0, size_in, step):
        # Blur the columns start to stop of a unit matrix; they are zero outside a window.
        stop = min(start + step, size_in)
        window = slice(max(0, start - reach), min(size_in, stop + reach))
        lines = np.zeros((size_in, stop - start))
        lines[np.arange(start, stop), np.arange(stop - start)] = 1
        if sigma > 0:
            how = {"axis": 0, "mode": "mirror", "truncate": _TRUNCATE}
            lines[window] = ndimage.gaussian_filter1d(lines[window], sigma, **how)
        block = ndimage.zoom(lines, zoom, order=1, mode="mirror", grid_mode=True)
        blocks.append(sparse.csc_array(block))
    return sparse.hstack(blocks, format="csr")


@jit
def _write_transposed_product(indptr, indices, data, dense, out):
    """Write (matrix @ dense).T, for a sparse matrix (n, m) in CSR form and an array (m, k).

    SciPy's product copies the mask to float64 and also copies the result, which takes longer than
    the sums. Two transposed products in a row resample both axes line by line.
    """
    line = np.empty(dense.shape[1])
    for i in range(len(indptr) - 1):
        line[:] = 0
        for k in range(indptr[i], indptr[i + 1]):
            source, weight = dense[indices[k]], data[k]
            for j in range(len(line)):
                line[j] += weight * source[j]
        for j in range(len(line)):
            out[j, i] = line[j]


def _resize_gaussian(mask, size):
    rows = _gaussian_matrix(mask.shape[0], size[0])
    columns = _gaussian_matrix(mask.shape[1], size[1])
    turned, resized = np.empty((mask.shape[1], size[0])), np.empty(size)
    dense = mask if mask.dtype in (bool, np.uint8, np.float32) else mask.astype(np.float64)
    dense = np.ascontiguousarray(dense)
    for matrix, out in ((rows, turned), (columns, resized)):
        _write_transposed_product(matrix.indptr, matrix.indices, matrix.data, dense, out)
        dense = out
    return np.clip(resized, mask.min(), mask.max(), out=resized)


def resize_masks(masks, size, method="gaussian"):
    """Resample masks of any sizes with values in [0, 1] to (n_masks, *size), float32.

    "gaussian" is the published method; it equals ``skimage.transform.resize`` of a float image. The
    other methods are torch's; "bilinear" uses antialiasing.
    """
    resized = np.empty((len(masks), *size), dtype=np.float32)
    for mask, out in zip(map(np.asarray, masks), resized, strict=True):
        if method == "gaussian":
            out[:] = _resize_gaussian(mask, tuple(size))
        else:
            stack = torch.from_numpy(mask.astype(np.float64))[None, None]
            out[:] = interpolate(stack, size=tuple(size), **_INTERPOLATIONS[method])[0, 0]
    return resized


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
