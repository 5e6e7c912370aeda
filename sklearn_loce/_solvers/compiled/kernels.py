"""The operations, the memory layout and the threads that both compiled solvers share.

Zeros pad channels, pixels and lines to whole vectors, which does not change any sum. The map at
mask size exists only in registers.

One thread solves all rows that share activations, from start to end. The operations of a row and
their order do not depend on the rows beside it. So a vector cannot depend on the batch, the order
or the number of threads.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numba.core import config

from ..resize import bilinear_matrix, bilinear_taps, resample_axis
from .simd import (
    LANES,
    floor,
    fma,
    jit,
    load,
    magnitude,
    power_of_two,
    splat,
    store,
    total,
    where_positive,
)

# Slopes dL/dx of a pixel with the logit x, P = sigmoid(x), the mask t, and two factors f and g.
AFFINE = 0  # (f t + g) P (1 - P)
DIFFERENCE = 1  # f (P - t) P (1 - P)
SIGN = 2  # f sign(P - t) P (1 - P)
LOGISTIC = 3  # (f t + g (1 - t)) P - f t
OVERLAP = 4  # as AFFINE, with P (1 - P) = P - P^2

_F = np.float32
_ZERO, _HALF, _ONE = _F(0), _F(0.5), _F(1)
# Beyond this, exp(-|x|) and its square are denormal numbers, which are 100 times slower.
_SATURATED = _F(60)
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
# Minimax coefficients of exp on [-ln(2) / 2, ln(2) / 2], from the Cephes library.
_C0, _C1, _C2 = _F(1.9875691500e-4), _F(1.3981999507e-3), _F(8.3334519073e-3)
_C3, _C4, _C5 = _F(4.1665795894e-2), _F(1.6666665459e-1), _F(5.0000001201e-1)


_CACHE_LINE = 64  # bytes
# Maximum number of rows solved together. With more rows, their maps would displace the activations
# from the second-level cache.
_MOST_ROWS = 16


class Resampling(NamedTuple):
    """A matrix (size_in, size_out) that acts on lines, and the lines that each vector needs."""

    matrix: np.ndarray
    first: np.ndarray
    stop: np.ndarray


class Geometry(NamedTuple):
    """Positions of a grid in a mask: mask lines below each grid line, their shares, columns."""

    starts: np.ndarray
    share: np.ndarray
    widening: Resampling
    narrowing: Resampling


def aligned_zeros(shape):
    """Return a float32 array of zeros that starts at a cache line."""
    size = math.prod(shape)
    flat = np.zeros(size + _CACHE_LINE // 4, dtype=np.float32)
    start = -flat.ctypes.data % _CACHE_LINE // 4
    return flat[start : start + size].reshape(shape)


def padded(size, multiple=LANES):
    """Return the next multiple."""
    return -(-size // multiple) * multiple


def _resampling(matrix):
    lines = aligned_zeros((len(matrix), padded(matrix.shape[1])))
    lines[:, : matrix.shape[1]] = matrix
    used = lines.reshape(len(matrix), -1, LANES).any(2)
    return Resampling(lines, used.argmax(0), len(matrix) - used[::-1].argmax(0))


@lru_cache(maxsize=64)
def geometry_of(size, mask_size):
    """Return the Geometry of a grid and a mask of these sizes."""
    columns = bilinear_matrix(size[1], mask_size[1], torch.float32, "cpu").numpy()
    upper, _, share = bilinear_taps(size[0], mask_size[0])
    starts = np.searchsorted(upper, np.arange(size[0] + 1))
    return Geometry(starts, share.astype(np.float32), _resampling(columns.T), _resampling(columns))


def shrink(grid, mask_size):
    """Resample axes that are longer than the mask; bilinear resampling is linear."""
    for axis, (size, target) in enumerate(zip(grid.shape[1:], mask_size, strict=True), 1):
        if size > target:
            grid = resample_axis(grid, axis, target)
    return grid


def pad_pixels(targets):
    """Pad the lines of masks or weights (n_rows, H, W); ``None`` stays ``None``."""
    if targets is None:
        return None
    out = aligned_zeros((*targets.shape[:2], padded(targets.shape[2])))
    out[:, :, : targets.shape[2]] = targets
    return out


def map_length(n_lines, n_columns):
    """Return the memory for a map of the layer's size, with what is written beyond its end."""
    return padded(padded(n_lines, 4) * n_columns + LANES)


def wide_shape(n_lines, geometry):
    """Return the shape of a grid with lines as long as the mask's, plus one last line."""
    return 1, (padded(n_lines, 4) + 1) * geometry.widening.matrix.shape[1]


def solve_images(solve, activations, images, n_channels, n_threads):
    """Call ``solve`` in threads, for each grid of activations and the rows that share it.

    ``images`` lists the rows that share activations. ``n_threads=None`` uses as many threads as
    torch.
    """
    if config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the solver for float32 on the CPU only runs compiled. "
            "Unset it, or pass activations of float64."
        )
    if any(len(grid) != n_channels for grid in activations):
        raise ValueError(f"Every sample must have the {n_channels} channels of the start.")
    n_threads = n_threads or torch.get_num_threads()
    most = min(_MOST_ROWS, -(-len(activations) // n_threads))
    parts = [rows[i : i + most] for rows in images for i in range(0, len(rows), most)]

    def solve_part(rows):
        # An overflow needs no warning: the caller refuses vectors that are not finite.
        with np.errstate(invalid="ignore"):
            solve(activations[rows[0]], rows)

    if min(n_threads, len(parts)) == 1:
        for rows in parts:
            solve_part(rows)
        return
    # Compiled code releases the GIL.
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(solve_part, parts))


@jit
def exp_minus_abs(x):
    """Return exp(-|x|), of at least exp(-60)."""
    size = magnitude(x)
    t = splat(_ZERO) - where_positive(size - splat(_SATURATED), splat(_SATURATED), size)
    k = floor(fma(t, splat(_LOG2_E), splat(_HALF)))
    # ln(2) in two parts. The first has few bits, so the remainder is exact.
    t = fma(k, splat(-_LN2_LOW), fma(k, splat(-_LN2_HIGH), t))
    series = fma(splat(_C0), t, splat(_C1))
    series = fma(series, t, splat(_C2))
    series = fma(series, t, splat(_C3))
    series = fma(series, t, splat(_C4))
    series = fma(series, t, splat(_C5))
    return fma(series, t * t, t + splat(_ONE)) * power_of_two(k)


@jit
def sign(x):
    """Return the signs of a vector, 0 for 0."""
    one, zero = splat(_ONE), splat(_ZERO)
    return where_positive(x, one, where_positive(zero - x, zero - one, zero))


@jit
def pixel_slopes(kind, x, t, first, second):
    """Return dL/dx; with e = exp(-|x|), P (1 - P) is e / (1 + e)^2 without cancellation."""
    e = exp_minus_abs(x)
    above = e + splat(_ONE)
    if kind == AFFINE:
        return fma(first, t, second) * e / (above * above)
    p = where_positive(x, splat(_ONE), e) / above
    if kind == LOGISTIC:
        concept = first * t
        return p * fma(splat(_ZERO) - second, t, concept + second) - concept
    if kind == OVERLAP:  # keep this rounding: without convexity, it decides the minimum
        return fma(first, t, second) * (p - p * p)
    difference = p - t
    if kind == SIGN:
        difference = sign(difference)
    return first * difference * e / (above * above)


@jit
def resample_lines(source, row, start, width, n_lines, resampling, target, to, begin, stride):
    """Resample lines of a row, ``width`` numbers each, four lines at a time.

    A vector may write zeros beyond the end of a line. The numbers of the next line must overwrite
    these zeros, so the vectors run from the last to the first.
    """
    matrix, first, stop = resampling
    for i in range(0, n_lines, 4):
        at = start + i * width
        for v in range(len(first) - 1, -1, -1):
            a = b = c = d = splat(_ZERO)
            for k in range(first[v], stop[v]):
                weights = load(matrix, (k, v * LANES))
                a = fma(splat(source[row, at + k]), weights, a)
                b = fma(splat(source[row, at + width + k]), weights, b)
                c = fma(splat(source[row, at + 2 * width + k]), weights, c)
                d = fma(splat(source[row, at + 3 * width + k]), weights, d)
            out = begin + i * stride + v * LANES
            store(target, (to, out), a)
            store(target, (to, out + stride), b)
            store(target, (to, out + 2 * stride), c)
            store(target, (to, out + 3 * stride), d)


@jit
def pull_back(kind, wide, targets, weights, k, factors, geometry, out):
    """Compute dL/d(widened grid) of row k; each of its lines lies above ``starts`` mask lines.

    ``weights`` of pixels are padded as targets are, or ``None``; numba then omits the branch.
    """
    starts, share, width = geometry.starts, geometry.share, targets.shape[2]
    first, second = splat(factors[0]), splat(factors[1])
    for j in range(0, width, LANES):
        store(out, (0, j), splat(_ZERO))
    for i in range(len(starts) - 1):
        for j in range(0, width, LANES):
            at = i * width + j
            upper = load(wide, (0, at))
            step = load(wide, (0, at + width)) - upper
            above, below = load(out, (0, at)), splat(_ZERO)
            for r in range(starts[i], starts[i + 1]):
                f = splat(share[r])
                t = load(targets, (k, r, j))
                slope = pixel_slopes(kind, fma(f, step, upper), t, first, second)
                if weights is not None:
                    slope = slope * load(weights, (k, r, j))
                below = fma(f, slope, below)
                above = above + fma(splat(_ZERO) - f, slope, slope)
            store(out, (0, at), above)
            store(out, (0, at + width), below)


@jit
def write_gradients(channels, c, slopes, rows, gradient, lines, at):
    """Multiply eight channels by the slopes of rows; the results go to these lines of ``gradient``.

    Two rows at a time halve the reads of the channels. The sums of a row are the same alone.
    """
    for i in range(0, len(rows) - 1, 2):
        for b in (0, 4):
            _write_two(channels, c + b, slopes, rows[i : i + 2], gradient, lines[i : i + 2], at + b)
    if len(rows) % 2:
        _write_one(channels, c, slopes, rows[len(rows) - 1], gradient, lines[len(rows) - 1], at)


@jit
def _write_two(channels, c, slopes, rows, gradient, lines, at):
    """Multiply four channels by the slopes of two rows."""
    first, second = rows
    p = q = r = s = t = u = v = w = splat(_ZERO)
    for i in range(0, channels.shape[1], LANES):
        x, y = load(slopes, (first, i)), load(slopes, (second, i))
        a, b = load(channels, (c, i)), load(channels, (c + 1, i))
        d, e = load(channels, (c + 2, i)), load(channels, (c + 3, i))
        p, t = fma(a, x, p), fma(a, y, t)
        q, u = fma(b, x, q), fma(b, y, u)
        r, v = fma(d, x, r), fma(d, y, v)
        s, w = fma(e, x, s), fma(e, y, w)
    first, second = lines
    gradient[first, at], gradient[first, at + 1] = total(p), total(q)
    gradient[first, at + 2], gradient[first, at + 3] = total(r), total(s)
    gradient[second, at], gradient[second, at + 1] = total(t), total(u)
    gradient[second, at + 2], gradient[second, at + 3] = total(v), total(w)


@jit
def _write_one(channels, c, slopes, k, gradient, row, at):
    """Multiply eight channels by the slopes of one row."""
    p = q = r = s = t = u = v = w = splat(_ZERO)
    for i in range(0, channels.shape[1], LANES):
        x = load(slopes, (k, i))
        p = fma(load(channels, (c, i)), x, p)
        q = fma(load(channels, (c + 1, i)), x, q)
        r = fma(load(channels, (c + 2, i)), x, r)
        s = fma(load(channels, (c + 3, i)), x, s)
        t = fma(load(channels, (c + 4, i)), x, t)
        u = fma(load(channels, (c + 5, i)), x, u)
        v = fma(load(channels, (c + 6, i)), x, v)
        w = fma(load(channels, (c + 7, i)), x, w)
    gradient[row, at], gradient[row, at + 1] = total(p), total(q)
    gradient[row, at + 2], gradient[row, at + 3] = total(r), total(s)
    gradient[row, at + 4], gradient[row, at + 5] = total(t), total(u)
    gradient[row, at + 6], gradient[row, at + 7] = total(v), total(w)


@jit
def add_channels(channels, c, weights, rows, maps, lines, begin):
    """Add the shares of eight channels to the maps in these lines, two rows at a time.

    The lines ``rows`` of ``weights`` begin with the weights of all channels. Even and odd channels
    are summed separately.
    """
    for i in range(0, len(rows) - 1, 2):
        _add_to_two(channels, c, weights, rows[i : i + 2], maps, lines[i : i + 2], begin)
    if len(rows) % 2:
        _add_to_one(channels, c, weights, rows[len(rows) - 1], maps, lines[len(rows) - 1], begin)


@jit
def _weights_of_eight(weights, row, c):
    """Repeat the weights of eight channels, each in a vector."""
    w0, w1, w2 = splat(weights[row, c]), splat(weights[row, c + 1]), splat(weights[row, c + 2])
    w3, w4, w5 = splat(weights[row, c + 3]), splat(weights[row, c + 4]), splat(weights[row, c + 5])
    return w0, w1, w2, w3, w4, w5, splat(weights[row, c + 6]), splat(weights[row, c + 7])


@jit
def _add_to_two(channels, c, weights, rows, maps, lines, begin):
    a0, a1, a2, a3, a4, a5, a6, a7 = _weights_of_eight(weights, rows[0], c)
    b0, b1, b2, b3, b4, b5, b6, b7 = _weights_of_eight(weights, rows[1], c)
    first, second = lines
    for i in range(0, channels.shape[1], LANES):
        x, y = load(channels, (c, i)), load(channels, (c + 1, i))
        even, odd = fma(a0, x, load(maps, (first, begin + i))), a1 * y
        other_even, other_odd = fma(b0, x, load(maps, (second, begin + i))), b1 * y
        x, y = load(channels, (c + 2, i)), load(channels, (c + 3, i))
        even, odd = fma(a2, x, even), fma(a3, y, odd)
        other_even, other_odd = fma(b2, x, other_even), fma(b3, y, other_odd)
        x, y = load(channels, (c + 4, i)), load(channels, (c + 5, i))
        even, odd = fma(a4, x, even), fma(a5, y, odd)
        other_even, other_odd = fma(b4, x, other_even), fma(b5, y, other_odd)
        x, y = load(channels, (c + 6, i)), load(channels, (c + 7, i))
        even, odd = fma(a6, x, even), fma(a7, y, odd)
        other_even, other_odd = fma(b6, x, other_even), fma(b7, y, other_odd)
        store(maps, (first, begin + i), even + odd)
        store(maps, (second, begin + i), other_even + other_odd)


@jit
def _add_to_one(channels, c, weights, row, maps, to, begin):
    w0, w1, w2, w3, w4, w5, w6, w7 = _weights_of_eight(weights, row, c)
    for i in range(0, channels.shape[1], LANES):
        even = fma(w0, load(channels, (c, i)), load(maps, (to, begin + i)))
        odd = w1 * load(channels, (c + 1, i))
        even = fma(w2, load(channels, (c + 2, i)), even)
        odd = fma(w3, load(channels, (c + 3, i)), odd)
        even = fma(w4, load(channels, (c + 4, i)), even)
        odd = fma(w5, load(channels, (c + 5, i)), odd)
        even = fma(w6, load(channels, (c + 6, i)), even)
        odd = fma(w7, load(channels, (c + 7, i)), odd)
        store(maps, (to, begin + i), even + odd)
