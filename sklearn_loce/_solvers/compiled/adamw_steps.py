"""The steps of the exact AdamW solver on the CPU, compiled; ``_adamw_cpu`` lays out what they read.

The rows of one image share its activations, so they are solved together. A step is one walk over
the activations: while a few channels lie in the first-level cache their gradients are taken, their
weights are updated, and their share of the next projection is added, for one row after the other.
The map at mask size is never held; it lives in registers.

Arrays are flat. Channels and pixels are padded by zeros to whole vectors, which changes no sum.
"""

import numpy as np

from .jit import jit
from .simd import (
    LANES,
    floor,
    fma,
    load,
    magnitude,
    power_of_two,
    root,
    splat,
    store,
    total,
    where_positive,
)

KINDS = ("net2vec", "mse", "mae")


_F = np.float32
_ZERO, _HALF, _ONE = _F(0), _F(0.5), _F(1)
# Beyond this, exp(-|x|) and its square run into denormal numbers, which are 100 times slower.
_SATURATED = _F(60)
# The square of a smaller gradient is denormal too, and lost beside AdamW's epsilon in any case.
_NEGLIGIBLE = _F(1e-17)
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
# Minimax coefficients of exp on [-ln(2) / 2, ln(2) / 2], from the Cephes library.
_C0, _C1, _C2 = _F(1.9875691500e-4), _F(1.3981999507e-3), _F(8.3334519073e-3)
_C3, _C4, _C5 = _F(4.1665795894e-2), _F(1.6666665459e-1), _F(5.0000001201e-1)


@jit
def _exp_minus_abs(x):
    size = magnitude(x)
    t = splat(_ZERO) - where_positive(size - splat(_SATURATED), splat(_SATURATED), size)
    k = floor(fma(t, splat(_LOG2_E), splat(_HALF)))
    t = fma(k, splat(-_LN2_LOW), fma(k, splat(-_LN2_HIGH), t))
    series = fma(splat(_C0), t, splat(_C1))
    series = fma(series, t, splat(_C2))
    series = fma(series, t, splat(_C3))
    series = fma(series, t, splat(_C4))
    series = fma(series, t, splat(_C5))
    return fma(series, t * t, t + splat(_ONE)) * power_of_two(k)


@jit
def _sign(x):
    one, zero = splat(_ONE), splat(_ZERO)
    return where_positive(x, one, where_positive(zero - x, zero - one, zero))


@jit
def _pixel_slopes(kind, x, held, scale):
    """Give dL/dx, from e = exp(-|x|), so that sigmoid'(x) = e / (1 + e)^2."""
    e = _exp_minus_abs(x)
    above = e + splat(_ONE)
    if kind == 0:
        return held * e / (above * above)
    difference = where_positive(x, splat(_ONE), e) / above - held
    if kind == 2:
        difference = _sign(difference)
    return splat(scale) * difference * e / (above * above)


@jit
def _resample_lines(source, at, width, n_lines, resampling, target, to, stride):
    """Resample lines of ``width`` numbers, four lines at a time.

    What is written may run over a line's end by zeros: they come before the next line's numbers,
    so vectors are done from the last to the first.
    """
    matrix, n_columns, first, stop = resampling
    for i in range(0, n_lines, 4):
        start = at + i * width
        for v in range(len(first) - 1, -1, -1):
            a = b = c = d = splat(_ZERO)
            for k in range(first[v], stop[v]):
                weights = load(matrix, k * n_columns + v * LANES)
                a = fma(splat(source[start + k]), weights, a)
                b = fma(splat(source[start + width + k]), weights, b)
                c = fma(splat(source[start + 2 * width + k]), weights, c)
                d = fma(splat(source[start + 3 * width + k]), weights, d)
            out = to + i * stride + v * LANES
            store(target, out, a)
            store(target, out + stride, b)
            store(target, out + 2 * stride, c)
            store(target, out + 3 * stride, d)


@jit
def _pull_back(kind, wide, held, at, scale, lines, width, out):
    """Take dL/d(widened grid) of one row; each of its lines lies above ``starts`` mask lines."""
    starts, share = lines
    n_lines = len(starts) - 1
    for j in range(0, width, LANES):
        store(out, j, splat(_ZERO))
    for i in range(n_lines):
        for j in range(i * width, (i + 1) * width, LANES):
            upper = load(wide, j)
            step = load(wide, j + width) - upper
            above, below = load(out, j), splat(_ZERO)
            for r in range(starts[i], starts[i + 1]):
                f = splat(share[r])
                target = load(held, at + r * width + j - i * width)
                slope = _pixel_slopes(kind, fma(f, step, upper), target, scale)
                below = fma(f, slope, below)
                above = above + fma(splat(_ZERO) - f, slope, slope)
            store(out, j, above)
            store(out, j + width, below)


@jit
def _take_gradients(activations, at, n_pixels, slope, start, gradient, to):
    """Multiply eight channels by a slope."""
    a = b = c = d = e = f = g = h = splat(_ZERO)
    for i in range(0, n_pixels, LANES):
        s, j = load(slope, start + i), at + i
        a = fma(load(activations, j), s, a)
        b = fma(load(activations, j + n_pixels), s, b)
        c = fma(load(activations, j + 2 * n_pixels), s, c)
        d = fma(load(activations, j + 3 * n_pixels), s, d)
        e = fma(load(activations, j + 4 * n_pixels), s, e)
        f = fma(load(activations, j + 5 * n_pixels), s, f)
        g = fma(load(activations, j + 6 * n_pixels), s, g)
        h = fma(load(activations, j + 7 * n_pixels), s, h)
    gradient[to], gradient[to + 1], gradient[to + 2] = total(a), total(b), total(c)
    gradient[to + 3], gradient[to + 4], gradient[to + 5] = total(d), total(e), total(f)
    gradient[to + 6], gradient[to + 7] = total(g), total(h)


@jit
def _add_channels(activations, at, n_pixels, weights, c, projection, to):
    """Add the share of eight channels to a projection, even and odd ones apart."""
    w0, w1, w2 = splat(weights[c]), splat(weights[c + 1]), splat(weights[c + 2])
    w3, w4, w5 = splat(weights[c + 3]), splat(weights[c + 4]), splat(weights[c + 5])
    w6, w7 = splat(weights[c + 6]), splat(weights[c + 7])
    for i in range(0, n_pixels, LANES):
        j = at + i
        even = fma(w0, load(activations, j), load(projection, to + i))
        odd = w1 * load(activations, j + n_pixels)
        even = fma(w2, load(activations, j + 2 * n_pixels), even)
        odd = fma(w3, load(activations, j + 3 * n_pixels), odd)
        even = fma(w4, load(activations, j + 4 * n_pixels), even)
        odd = fma(w5, load(activations, j + 5 * n_pixels), odd)
        even = fma(w6, load(activations, j + 6 * n_pixels), even)
        odd = fma(w7, load(activations, j + 7 * n_pixels), odd)
        store(projection, to + i, even + odd)


@jit
def _inverse_norm(weights, start, n_channels):
    squares = splat(_ZERO)
    for c in range(start, start + n_channels, LANES):
        squares = fma(load(weights, c), load(weights, c), squares)
    length = total(squares)
    return _ONE / np.sqrt(length) if length > 0 else _ZERO


@jit
def _move(gradient, penalty, inverse_norm, schedule, state, c):
    """Move ``LANES`` weights as torch's AdamW does."""
    weights, mean, square = state
    step, correction, decay, one_minus_beta1, beta2, one_minus_beta2, eps = schedule
    w, g = load(weights, c), load(gradient, 0)
    if penalty > 0:
        g = fma(splat(penalty), fma(splat(inverse_norm), w, _sign(w)), g)
    m = load(mean, c)
    m = fma(splat(one_minus_beta1), g - m, m)
    g = where_positive(magnitude(g) - splat(_NEGLIGIBLE), g, splat(_ZERO))
    q = fma(splat(beta2), load(square, c), splat(one_minus_beta2) * g * g)
    w = splat(decay) * w - splat(step) * m / fma(root(q), splat(correction), splat(eps))
    store(mean, c, m)
    store(square, c, q)
    store(weights, c, w)


@jit
def _update(activations, sizes, slopes, penalty, schedule, state, projections):
    """One AdamW step of every row, and the projections with the new weights."""
    n_rows, n_channels, n_pixels, stride = sizes
    gradient, norms = np.empty(LANES, _F), np.zeros(n_rows, _F)
    for k in range(n_rows):
        if penalty > 0:
            norms[k] = _inverse_norm(state[0], k * n_channels, n_channels)
        for i in range(k * stride, k * stride + n_pixels, LANES):
            store(projections, i, splat(_ZERO))
    for c in range(0, n_channels, LANES):
        for k in range(n_rows):
            start, of_row = k * stride, k * n_channels + c
            for b in range(0, LANES, 8):
                at = (c + b) * n_pixels
                _take_gradients(activations, at, n_pixels, slopes, start, gradient, b)
            _move(gradient, penalty, norms[k], schedule, state, of_row)
            # The other way round, since the last channels are still in the first-level cache.
            for b in range(LANES - 8, -1, -8):
                at = (c + b) * n_pixels
                _add_channels(activations, at, n_pixels, state[0], of_row + b, projections, start)


@jit
def _lay_out(kind, grid, targets, rows, start, sizes, width, room):
    """Pad what is solved to whole vectors, in the room that ``_adamw_cpu`` has sized."""
    n_rows, n_channels, n_pixels, _ = sizes
    for array in room:
        array[:] = 0
    channels, held, weights = room[:3]
    for c in range(len(grid)):
        channels[c * n_pixels : c * n_pixels + grid[c].size] = grid[c].ravel()
    map_size = targets.shape[1] * width
    for k in range(n_rows):
        weights[k * n_channels : k * n_channels + len(start)] = start
        target = targets[rows[k]]
        share = (target > 0).sum() / target.size
        for i in range(len(target)):
            at = k * map_size + i * width
            for j in range(target.shape[1]):
                t = target[i, j]
                held[at + j] = share - t if kind == 0 else t


@jit
def solve_walk(
    kind, grid, targets, rows, start, sizes, scale, penalty, geometry, schedules, room, embeddings
):
    """Run every step for rows that share a grid of activations, and write their LoCEs."""
    n_rows, n_channels, n_pixels, stride = sizes
    lines, widening, narrowing = geometry
    (n_lines, n_columns), width = grid.shape[1:], widening.n_columns
    _lay_out(kind, grid, targets, rows, start, sizes, width, room)
    channels, held, weights, mean, square, wide, wide_slope, slopes, projections = room
    state = (weights, mean, square)
    for k in range(n_rows):
        for c in range(0, n_channels, 8):
            at, of_row = c * n_pixels, k * n_channels + c
            _add_channels(channels, at, n_pixels, weights, of_row, projections, k * stride)
    for i in range(len(schedules)):
        for k in range(n_rows):
            at, to = k * stride, k * targets.shape[1] * width
            _resample_lines(projections, at, n_columns, n_lines, widening, wide, 0, width)
            _pull_back(kind, wide, held, to, scale, lines, width, wide_slope)
            _resample_lines(wide_slope, 0, width, n_lines, narrowing, slopes, at, n_columns)
        _update(channels, sizes, slopes, penalty, schedules[i], state, projections)
    for k in range(n_rows):
        embeddings[rows[k]] = weights[k * n_channels : k * n_channels + len(start)]
