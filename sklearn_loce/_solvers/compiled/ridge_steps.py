"""Losses of the objectives with a ridge, and their slopes at the layer's resolution, compiled.

Arrays are flat, lines padded by zeros to whole vectors, as in ``_adamw_steps``.
"""

from typing import NamedTuple

import numpy as np

from .adamw_steps import _exp_minus_abs, _resample_lines
from .jit import jit
from .simd import LANES, fma, load, splat, store, total, where_positive

KINDS = ("logistic", "jaccard", "dice")
LOGISTIC, JACCARD, _ = range(3)

_F = np.float32
_ZERO, _ONE, _TWO = _F(0), _F(1), _F(2)

# A row's numbers begin by the constants of its objective: factors of concept and background, area
# of the mask, and what lines' padding adds to the area of projections.
CONCEPT, BACKGROUND, AREA, PADDING, N_CONSTANTS = 0, 1, 2, 3, 4


class Problem(NamedTuple):
    """What the rows of a walk have in common."""

    kind: int
    tol: np.float32
    max_iter: int
    n_channels: int
    n_pixels: int
    stride: int
    n_lines: int
    n_columns: int
    n_mask_lines: int
    lines: tuple
    widening: tuple
    narrowing: tuple


class Room(NamedTuple):
    """Where a walk takes place; all flat, and per row one after the other."""

    channels: np.ndarray
    ridge: np.ndarray
    targets: np.ndarray
    wide: np.ndarray
    wide_slope: np.ndarray
    slopes: np.ndarray
    records: np.ndarray
    numbers: np.ndarray


@jit
def _projection(x):
    e = _exp_minus_abs(x)
    return where_positive(x, splat(_ONE), e) / (e + splat(_ONE))


@jit
def _overlap(wide, targets, at, lines, width):
    """Sum projections, and projections inside the mask, over all pixels."""
    starts, share = lines
    area = shared = splat(_ZERO)
    for i in range(len(starts) - 1):
        for j in range(i * width, (i + 1) * width, LANES):
            upper = load(wide, j)
            step = load(wide, j + width) - upper
            for r in range(starts[i], starts[i + 1]):
                p = _projection(fma(splat(share[r]), step, upper))
                area = area + p
                shared = fma(load(targets, at + r * width + j - i * width), p, shared)
    return total(shared), total(area)


@jit
def _pull_back(kind, wide, targets, at, factors, lines, width, out):
    """Take dL/d(widened grid); each of its lines lies above ``starts`` mask lines.

    A pixel's slope is, for the logistic loss, P (first t + second (1 - t)) - first t, and else
    P (1 - P) (first t + second).
    """
    starts, share = lines
    first, second = splat(factors[0]), splat(factors[1])
    for j in range(0, width, LANES):
        store(out, j, splat(_ZERO))
    for i in range(len(starts) - 1):
        for j in range(i * width, (i + 1) * width, LANES):
            upper = load(wide, j)
            step = load(wide, j + width) - upper
            above, below = load(out, j), splat(_ZERO)
            for r in range(starts[i], starts[i + 1]):
                f = splat(share[r])
                p = _projection(fma(f, step, upper))
                t = load(targets, at + r * width + j - i * width)
                if kind == LOGISTIC:
                    concept = first * t
                    slope = p * fma(splat(_ZERO) - second, t, concept + second) - concept
                else:
                    slope = fma(first, t, second) * (p - p * p)
                below = fma(f, slope, below)
                above = above + fma(splat(_ZERO) - f, slope, slope)
            store(out, j, above)
            store(out, j + width, below)


@jit
def _factors(kind, shared, area, numbers, n):
    """Give the two factors of ``_pull_back``, and the loss where it is not convex."""
    if kind == LOGISTIC:
        return (numbers[n + CONCEPT], numbers[n + BACKGROUND]), _ZERO
    whole = numbers[n + AREA] + (area - numbers[n + PADDING])
    if kind == JACCARD:
        whole -= shared
        square = whole * whole
        return (-(whole + shared) / square, shared / square), _ONE - shared / whole
    return (-_TWO / whole, _TWO * shared / (whole * whole)), _ONE - _TWO * shared / whole


@jit
def look(problem, room, k, map_, constants):
    """Bring the slopes by a map of a row to the layer's resolution; give the loss."""
    width, wide = problem.widening.n_columns, room.wide
    n_lines, n_columns, stride = problem.n_lines, problem.n_columns, problem.stride
    at = k * problem.n_mask_lines * width
    _resample_lines(room.records, map_, n_columns, n_lines, problem.widening, wide, 0, width)
    shared = area = _ZERO
    if problem.kind != LOGISTIC:
        shared, area = _overlap(wide, room.targets, at, problem.lines, width)
    factors, loss = _factors(problem.kind, shared, area, room.numbers, constants)
    _pull_back(problem.kind, wide, room.targets, at, factors, problem.lines, width, room.wide_slope)
    _resample_lines(
        room.wide_slope, 0, width, n_lines, problem.narrowing, room.slopes, k * stride, n_columns
    )
    return loss
