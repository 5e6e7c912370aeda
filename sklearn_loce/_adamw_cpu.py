"""The exact AdamW solver for one sample on the CPU, compiled.

A step is one walk over the activations: while a channel lies in the first-level cache its gradient
is taken, its weight is updated, and its share of the next projection is added. The map at mask
size is never held either; it lives one line at a time. As one thread does one sample from start to
end, a sample's vector can't depend on the batch, the order or the number of threads.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit

from ._bilinear import bilinear_taps

SLOPE_KINDS = {"constant": 0, "difference": 1, "sign": 2}

_OPTIONS = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}


def _jit(function):
    try:
        return njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        # No folder that numba could write the compiled code to: compile in every process.
        return njit(**_OPTIONS)(function)


_F = np.float32
_ONE, _HALF = _F(1), _F(0.5)
# Beyond this, exp(-|x|) and its square run into denormal numbers, which are 100 times slower.
_SATURATED = _F(-60)
# The square of a smaller gradient is denormal too, and lost beside AdamW's epsilon in any case.
_NEGLIGIBLE = _F(1e-17)
_LOG2_E = _F(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
# Minimax coefficients of exp on [-ln(2) / 2, ln(2) / 2], from the Cephes library.
_EXP_COEFFICIENTS = (
    _F(1.9875691500e-4),
    _F(1.3981999507e-3),
    _F(8.3334519073e-3),
    _F(4.1665795894e-2),
    _F(1.6666665459e-1),
    _F(5.0000001201e-1),
)


@_jit
def _exp_minus_abs(x, power, power_bits, out):
    """Write exp(-|x|) to ``out``; a polynomial, so that the loop is vectorised."""
    c0, c1, c2, c3, c4, c5 = _EXP_COEFFICIENTS
    for j in range(x.shape[0]):
        t = max(-abs(x[j]), _SATURATED)
        k = math.floor(t * _LOG2_E + _HALF)
        power_bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
        t = t - k * _LN2_HIGH - k * _LN2_LOW
        poly = ((((c0 * t + c1) * t + c2) * t + c3) * t + c4) * t + c5
        out[j] = poly * t * t + t + _ONE
    for j in range(x.shape[0]):
        out[j] *= power[j]


@_jit
def _slopes(kind, x, e, held, scale, out):
    """Write dL/dx of one line, from e = exp(-|x|), so that sigmoid'(x) = e / (1 + e)^2."""
    for j in range(x.shape[0]):
        rim = e[j] / ((_ONE + e[j]) * (_ONE + e[j]))
        if kind == 0:
            out[j] = held[j] * rim
        else:
            far = _ONE if x[j] >= 0 else e[j]
            difference = far / (_ONE + e[j]) - held[j]
            if kind == 2:
                difference = np.sign(difference)
            out[j] = scale * difference * rim


@_jit
def _widen(grid, left, right, share, out):
    for i in range(grid.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = (_ONE - share[j]) * grid[i, left[j]] + share[j] * grid[i, right[j]]


@_jit
def _narrow(wide, starts, share, out):
    """Apply the adjoint of ``_widen``; ``starts[c]`` is the first column with c to its left."""
    last = out.shape[1] - 1
    for i in range(out.shape[0]):
        carry = _F(0)
        for c in range(last + 1):
            here, carried = carry, _F(0)
            for j in range(starts[c], starts[c + 1]):
                here += (_ONE - share[j]) * wide[i, j]
                carried += share[j] * wide[i, j]
            out[i, c] = here
            carry = carried
        out[i, last] += carry


@_jit
def _pull_back(kind, wide, held, scale, rows, out):
    """Take dL/d(widened grid), holding no more than one line of the map at mask size."""
    upper, lower, share = rows
    n_columns = held.shape[1]
    x, e = np.empty(n_columns, _F), np.empty(n_columns, _F)
    slope, power = np.empty(n_columns, _F), np.empty(n_columns, _F)
    power_bits = power.view(np.int32)
    out[:] = 0
    for r in range(held.shape[0]):
        a, b, f = upper[r], lower[r], share[r]
        for j in range(n_columns):
            x[j] = (_ONE - f) * wide[a, j] + f * wide[b, j]
        _exp_minus_abs(x, power, power_bits, e)
        _slopes(kind, x, e, held[r], scale, slope)
        for j in range(n_columns):
            out[a, j] += (_ONE - f) * slope[j]
        for j in range(n_columns):
            out[b, j] += f * slope[j]


@_jit
def _dot_four(activations, slope, c, out):
    """Take the gradient of four channels; together they read the slope once."""
    a0, a1, a2, a3 = activations[c], activations[c + 1], activations[c + 2], activations[c + 3]
    g0, g1, g2, g3 = _F(0), _F(0), _F(0), _F(0)
    for i in range(slope.shape[0]):
        s = slope[i]
        g0 += a0[i] * s
        g1 += a1[i] * s
        g2 += a2[i] * s
        g3 += a3[i] * s
    out[0], out[1], out[2], out[3] = g0, g1, g2, g3


@_jit
def _add_four(activations, weights, c, projection):
    """Add the share of four channels; together they write the projection once."""
    a0, a1, a2, a3 = activations[c], activations[c + 1], activations[c + 2], activations[c + 3]
    w0, w1, w2, w3 = weights[c], weights[c + 1], weights[c + 2], weights[c + 3]
    for i in range(projection.shape[0]):
        projection[i] += w0 * a0[i] + w1 * a1[i] + w2 * a2[i] + w3 * a3[i]


@_jit
def _step(g, c, schedule, state):
    """Move one weight as torch's AdamW does."""
    weights, mean, square = state
    step, correction, decay, one_minus_beta1, beta2, one_minus_beta2, eps = schedule
    mean[c] += one_minus_beta1 * (g - mean[c])
    notable = g if abs(g) > _NEGLIGIBLE else _F(0)
    square[c] = beta2 * square[c] + one_minus_beta2 * notable * notable
    weights[c] *= decay
    weights[c] -= step * mean[c] / (math.sqrt(square[c]) * correction + eps)


@_jit
def _update(activations, slope, penalty, schedule, state, projection):
    """One AdamW step of every channel, and the projection with the new weights."""
    weights, gradient = state[0], np.empty(4, _F)
    inverse_norm = _F(0)
    if penalty > 0:
        total = _F(0)
        for c in range(weights.shape[0]):
            total += weights[c] * weights[c]
        if total > 0:
            inverse_norm = _ONE / math.sqrt(total)
    projection[:] = 0
    n_channels = activations.shape[0]
    whole = n_channels - n_channels % 4
    for c in range(0, whole, 4):
        _dot_four(activations, slope, c, gradient)
        for k in range(4):
            g = gradient[k] + penalty * (np.sign(weights[c + k]) + weights[c + k] * inverse_norm)
            _step(g, c + k, schedule, state)
        _add_four(activations, weights, c, projection)
    for c in range(whole, n_channels):
        g = penalty * (np.sign(weights[c]) + weights[c] * inverse_norm)
        for i in range(slope.shape[0]):
            g += activations[c, i] * slope[i]
        _step(g, c, schedule, state)
        for i in range(slope.shape[0]):
            projection[i] += weights[c] * activations[c, i]


@_jit
def _solve(kind, activations, held, scale, penalty, rows, columns, schedules, weights):
    """Run every step for one sample; ``weights`` holds the start and becomes the LoCE."""
    left, right, share, starts = columns
    n_channels, height, width = activations.shape
    channels = activations.reshape(n_channels, height * width)
    grid = np.zeros((height, width), _F)
    projection = grid.reshape(height * width)
    wide = np.empty((height, held.shape[1]), _F)
    wide_slope = np.empty((height, held.shape[1]), _F)
    slope = np.empty((height, width), _F)
    state = (weights, np.zeros(n_channels, _F), np.zeros(n_channels, _F))
    for c in range(n_channels):
        for i in range(height * width):
            projection[i] += weights[c] * channels[c, i]
    for schedule in schedules:
        _widen(grid, left, right, share, wide)
        _pull_back(kind, wide, held, scale, rows, wide_slope)
        _narrow(wide_slope, starts, share, slope)
        _update(channels, slope.reshape(height * width), penalty, schedule, state, projection)


def _schedules(settings):
    """One line per step, of the shape that ``_update`` unpacks."""
    k = np.arange(1, settings.max_iter + 1, dtype=np.float64)[:, None]
    beta1, beta2 = settings.betas
    varying = [settings.learning_rate / (1 - beta1**k), 1 / np.sqrt(1 - beta2**k)]
    decay = 1 - settings.learning_rate * settings.weight_decay
    fixed = [decay, 1 - beta1, beta2, 1 - beta2, settings.eps]
    return np.hstack([*varying, np.broadcast_to(fixed, (len(k), len(fixed)))]).astype(_F)


def solve_on_cpu(activations, held, start, settings, n_threads=None):
    """Optimise the samples, one per thread at a time.

    Parameters
    ----------
    activations : sequence of ndarray of shape (n_channels, height, width), float32
        One array per sample; samples of one image may share theirs. Sizes may differ.
    held : ndarray of shape (n_samples, n_rows, n_columns), float32
        What the objective's slope needs to know of every mask pixel.
    start : ndarray of shape (n_channels,)
    settings : Settings
    n_threads : int, default=None
        ``None`` means as many as torch has.

    Returns
    -------
    ndarray of shape (n_samples, n_channels), float32
    """
    objective = settings.objective
    if any(sample.shape[0] != len(start) for sample in activations):
        raise ValueError(f"Every sample must have the {len(start)} channels of the start.")
    weights = np.tile(start.astype(_F), (len(activations), 1))
    kind, schedules = SLOPE_KINDS[objective.slope], _schedules(settings)
    scale = _F(objective.slope_scale / held[0].size)
    penalty = _F(objective.penalty / len(start))

    def solve(i):
        sample = np.ascontiguousarray(activations[i])
        upper, lower, share = bilinear_taps(sample.shape[1], held.shape[1])
        left, right, column_share = bilinear_taps(sample.shape[2], held.shape[2])
        starts = np.searchsorted(left, np.arange(sample.shape[2] + 1))
        rows = (upper, lower, share.astype(_F))
        columns = (left, right, column_share.astype(_F), starts)
        _solve(kind, sample, held[i], scale, penalty, rows, columns, schedules, weights[i])

    with ThreadPoolExecutor(min(n_threads or torch.get_num_threads(), len(activations))) as pool:
        list(pool.map(solve, range(len(activations))))
    return weights
