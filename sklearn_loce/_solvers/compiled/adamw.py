"""AdamW for float32 on the CPU.

The rows of one image share its activations, so they are solved together. A step reads the
activations once. While a few channels are in the first-level cache, the step computes their
gradients, updates their weights, and adds their share of the next projection, two rows at a time.
"""

import numpy as np

from ..adamw import BETAS, EPS, WEIGHT_DECAY, covered_share
from .kernels import (
    AFFINE,
    DIFFERENCE,
    SIGN,
    add_channels,
    aligned_zeros,
    geometry_of,
    map_length,
    pad_pixels,
    padded,
    pull_back,
    resample_lines,
    shrink,
    sign,
    solve_images,
    wide_shape,
    write_gradients,
)
from .simd import (
    LANES,
    fma,
    jit,
    load,
    magnitude,
    root,
    splat,
    store,
    total,
    where_positive,
)

_F = np.float32
_ZERO, _ONE = _F(0), _F(1)
# The square of a smaller gradient is denormal, and negligible beside AdamW's epsilon.
_NEGLIGIBLE = _F(1e-17)


def solve(activations, images, targets, weights, start, objective, n_threads=None):
    """Optimize the rows as ``solve_with_torch`` does, for float32 arrays."""
    vectors = np.empty((len(activations), len(start)), dtype=np.float32)
    schedule, penalty = _schedule(objective), _F(objective.penalty / len(start))

    def solve_rows(grid, rows):
        grid = shrink(grid, targets.shape[1:])
        geometry = geometry_of(grid.shape[1:], targets.shape[1:])
        channels = aligned_zeros((padded(len(grid)), padded(grid[0].size)))
        channels[: len(grid), : grid[0].size] = grid.reshape(len(grid), -1)
        vector = aligned_zeros((len(rows), len(channels)))
        vector[:, : len(start)] = start
        own = None if weights is None else weights[rows]
        kind, factors = _pixel_terms(objective, targets[rows], own)
        pixels = pad_pixels(targets[rows]), pad_pixels(own)
        maps = aligned_zeros((2, len(rows), map_length(*grid.shape[1:])))
        wide = aligned_zeros((2, *wide_shape(grid.shape[1], geometry)))
        _run_steps(
            (kind, penalty, *pixels, factors, geometry, grid.shape[1:]),
            channels,
            (vector, aligned_zeros(vector.shape), aligned_zeros(vector.shape)),
            (maps[0], maps[1], wide[0], wide[1]),
            schedule,
        )
        vectors[rows] = vector[:, : len(start)]

    solve_images(solve_rows, activations, images, len(start), n_threads)
    return vectors


def _schedule(objective):
    """Return the constants, one line per step, in the order in which ``_move`` unpacks them."""
    k = np.arange(1, objective.max_iter + 1, dtype=np.float64)[:, None]
    (beta1, beta2), rate = BETAS, objective.learning_rate
    varying = [rate / (1 - beta1**k), 1 / np.sqrt(1 - beta2**k)]
    fixed = [1 - rate * WEIGHT_DECAY, 1 - beta1, beta2, 1 - beta2, EPS]
    return np.hstack([*varying, np.broadcast_to(fixed, (len(k), len(fixed)))]).astype(_F)


def _pixel_terms(objective, targets, weights):
    """Return the kind of the objective's slopes, and their factors (n_rows, 2)."""
    factors = np.zeros((len(targets), 2), dtype=_F)
    if objective.name == "net2vec":
        factors[:, 0], factors[:, 1] = -1, covered_share(targets, weights)
        return AFFINE, factors
    size = targets[0].size if weights is None else weights.sum((1, 2), dtype=np.float64)
    factors[:, 0] = (2 if objective.name == "mse" else 1) / size
    return (DIFFERENCE if objective.name == "mse" else SIGN), factors


@jit
def _inverse_norm(weights, k):
    squares = splat(_ZERO)
    for c in range(0, weights.shape[1], LANES):
        squares = fma(load(weights, (k, c)), load(weights, (k, c)), squares)
    length = total(squares)
    return _ONE / np.sqrt(length) if length > 0 else _ZERO


@jit
def _move(gradient, penalty, inverse_norm, constants, state, k, c):
    """Move ``LANES`` weights as torch's AdamW does."""
    weights, mean, square = state
    step, correction, decay, one_minus_beta1, beta2, one_minus_beta2, eps = constants
    w, g = load(weights, (k, c)), load(gradient, (k, 0))
    if penalty > 0:
        g = fma(splat(penalty), fma(splat(inverse_norm), w, sign(w)), g)
    m = load(mean, (k, c))
    m = fma(splat(one_minus_beta1), g - m, m)
    g = where_positive(magnitude(g) - splat(_NEGLIGIBLE), g, splat(_ZERO))
    q = fma(splat(beta2), load(square, (k, c)), splat(one_minus_beta2) * g * g)
    w = splat(decay) * w - splat(step) * m / fma(root(q), splat(correction), splat(eps))
    store(mean, (k, c), m)
    store(square, (k, c), q)
    store(weights, (k, c), w)


@jit
def _update(penalty, channels, state, slopes, projections, constants):
    """Make one step of every row, and project the new weights."""
    rows, gradient = np.arange(len(slopes)), np.empty((len(slopes), LANES), _F)
    norms = np.zeros(len(rows), _F)
    for k in rows:
        if penalty > 0:
            norms[k] = _inverse_norm(state[0], k)
        for i in range(0, channels.shape[1], LANES):
            store(projections, (k, i), splat(_ZERO))
    for c in range(0, len(channels), LANES):
        # Eight channels serve all rows while they are in the first-level cache.
        for b in range(0, LANES, 8):
            write_gradients(channels, c + b, slopes, rows, gradient, rows, b)
        for k in rows:
            _move(gradient, penalty, norms[k], constants, state, k, c)
        # Reverse the order, because the last channels are still in the cache.
        for b in range(LANES - 8, -1, -8):
            add_channels(channels, c + b, state[0], rows, projections, rows, 0)


@jit
def _run_steps(problem, channels, state, maps, schedule):
    """Make all steps for rows that share a grid; afterward, ``state`` contains the LoCEs."""
    kind, penalty, targets, pixel_weights, factors, geometry, (n_lines, n_columns) = problem
    projections, slopes, wide, wide_slope = maps
    width, widening, narrowing = targets.shape[2], geometry.widening, geometry.narrowing
    rows = np.arange(len(targets))
    for c in range(0, len(channels), 8):
        add_channels(channels, c, state[0], rows, projections, rows, 0)
    for i in range(len(schedule)):
        for k in rows:
            resample_lines(projections, k, 0, n_columns, n_lines, widening, wide, 0, 0, width)
            pull_back(kind, wide, targets, pixel_weights, k, factors[k], geometry, wide_slope)
            resample_lines(wide_slope, 0, 0, width, n_lines, narrowing, slopes, k, 0, n_columns)
        _update(penalty, channels, state, slopes, projections, schedule[i])
