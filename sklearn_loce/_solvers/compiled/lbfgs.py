"""L-BFGS for float32 on the CPU.

A record describes a direction: its weights, one per channel, and their map at the resolution of the
layer. All operations of L-BFGS on weights are linear, so whole records are added. A trial along a
line then passes over the pixels of the mask, not over the channels. Each iteration reads the
channels once for all rows of the image. While a few channels are in the first-level cache, the
iteration computes their gradients and the map of these gradients.
"""

from typing import NamedTuple

import numpy as np

from ..lbfgs import LEAST_UNIT, LONG, MAX_TRIALS, MEMORY, RISE, SHORT, balance
from .kernels import (
    LOGISTIC,
    OVERLAP,
    Geometry,
    add_channels,
    aligned_zeros,
    exp_minus_abs,
    geometry_of,
    map_length,
    pad_pixels,
    padded,
    pull_back,
    resample_lines,
    shrink,
    solve_images,
    wide_shape,
    write_gradients,
)
from .simd import LANES, fma, jit, load, splat, store, total, where_positive

_KINDS = ("logistic", "jaccard", "dice")
_JACCARD = _KINDS.index("jaccard")

_F = np.float32
_ZERO, _ONE, _TWO, _HALF = _F(0), _F(1), _F(2), _F(0.5)
_SHORT, _LONG, _RISE = _F(SHORT), _F(LONG), _F(RISE)
_LEAST_UNIT = _F(LEAST_UNIT)
_LEAST, _MOST, _FARTHER = _F(0.1), _F(0.9), _F(4)

_BLOCK = 4096  # number of squares that are summed as float32
_FAINT = 1e-30  # below this sum, single squares may be too small for float32

# Records of a row: its point, its gradient, its direction, and a trial. The pairs of L-BFGS follow,
# each with a step and the resulting change of the gradient.
_POINT, _GRADIENT, _DIRECTION, _TRIAL, _PAIRS = 0, 1, 2, 3, 4
_N_RECORDS = _PAIRS + 2 * MEMORY
# Numbers of a row: factors of concept and background, area of the mask, area that the padding of
# lines adds to projections, loss without the ridge, number of stored pairs, scale of the inverse
# Hessian, number of iterations, norm of the gradient, and its unit. For each pair, the inverse
# product and its share in the direction follow.
_CONCEPT, _BACKGROUND, _AREA, _PADDING = 0, 1, 2, 3
_LOSS, _STORED, _SCALE, _N_ITER, _NORM, _UNIT, _INVERSES = range(4, 11)
_SHARES = _INVERSES + MEMORY
_N_NUMBERS = _SHARES + MEMORY


class _Problem(NamedTuple):
    """Rows that share activations, and the arrays in which they are solved."""

    kind: int
    tol: np.float32
    max_iter: int
    size: tuple  # of the grid
    geometry: Geometry
    channels: np.ndarray
    ridge: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None
    wide: np.ndarray
    wide_slope: np.ndarray
    slopes: np.ndarray
    records: np.ndarray
    numbers: np.ndarray


def solve(activations, images, targets, weights, start, objective, n_threads=None):
    """Optimize the rows as ``solve_ridge_with_torch`` does, for float32 arrays.

    ``images`` lists the rows that share activations.
    """
    vectors = np.empty((len(activations), len(start)), dtype=np.float32)
    facts = np.empty((3, len(activations)), dtype=np.float32)

    def solve_rows(grid, rows):
        root = _root_mean_square(np.ascontiguousarray(grid).reshape(1, -1), len(grid))
        grid = shrink(grid, targets.shape[1:])
        own = None if weights is None else weights[rows]
        problem = _lay_out(grid, targets[rows], own, objective)
        means = _scale_channels(problem.channels, grid.reshape(len(grid), -1), root)
        scaled = np.append(start * root, means @ (start * root)).astype(np.float32)
        _minimize(problem, scaled)
        points = problem.records[_POINT::_N_RECORDS, : len(scaled)]
        found = points[:, :-1].astype(np.float64)
        vectors[rows] = found / root
        # Sum the products of each row separately: a matrix product could depend on other rows.
        facts[0, rows] = points[:, -1] - (found * means).sum(1).astype(np.float32)
        facts[1, rows] = problem.numbers[:, _N_ITER]
        facts[2, rows] = problem.numbers[:, _NORM] / problem.numbers[:, _UNIT]

    solve_images(solve_rows, activations, images, len(start), n_threads)
    return vectors, *facts


def _lay_out(grid, targets, weights, objective):
    """Return the problem of rows that share a grid, with channels that are still zero."""
    geometry = geometry_of(grid.shape[1:], targets.shape[1:])
    n_rows, n_channels = len(targets), padded(len(grid) + 1)
    length = map_length(*grid.shape[1:])
    ridge = aligned_zeros((1, n_channels))
    ridge[0, : len(grid)] = objective.alpha
    masks, numbers = pad_pixels(targets), aligned_zeros((n_rows, _N_NUMBERS))
    if objective.is_convex:
        numbers[:, :2] = balance(targets, objective.class_weight, weights).T
    weighted = targets if weights is None else weights * targets
    numbers[:, _AREA] = weighted.sum((1, 2), dtype=np.float64)
    if weights is None:
        # In the padding of lines, logits are 0 and projections are 0.5.
        numbers[:, _PADDING] = targets.shape[1] * (masks.shape[2] - targets.shape[2]) / 2
    return _Problem(
        kind=_KINDS.index(objective.name),
        tol=np.float32(objective.tol),
        max_iter=objective.max_iter,
        size=grid.shape[1:],
        geometry=geometry,
        channels=aligned_zeros((n_channels, padded(grid[0].size))),
        ridge=ridge,
        targets=masks,
        weights=pad_pixels(weights),
        wide=aligned_zeros(wide_shape(grid.shape[1], geometry)),
        wide_slope=aligned_zeros(wide_shape(grid.shape[1], geometry)),
        slopes=aligned_zeros((n_rows, length)),
        records=aligned_zeros((n_rows * _N_RECORDS, n_channels + length)),
        numbers=numbers,
    )


@jit
def _root_mean_square(flat, n_channels):
    """Return the root mean square norm of the cells' activations; 1 if it is 0."""
    size, squares = flat.size, 0.0
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        products, whole = splat(_ZERO), stop - (stop - start) % LANES
        for i in range(start, whole, LANES):
            products = fma(load(flat, (0, i)), load(flat, (0, i)), products)
        squares += total(products)
        for i in range(whole, stop):
            squares += flat[0, i] * flat[0, i]
    if not _FAINT < squares < np.inf:  # squares are outside the range of float32, or all zero
        squares = 0.0
        for i in range(size):
            squares += np.float64(flat[0, i]) * np.float64(flat[0, i])
    return np.sqrt(squares * n_channels / size) if squares > 0 else 1.0


@jit
def _scale_channels(channels, cells, root):
    """Write the scaled and centered cells, and a channel of ones; return the means."""
    (n_channels, n_cells), inverse = cells.shape, _F(1 / root)
    means = np.empty(n_channels, _F)
    for c in range(n_channels):
        sums = splat(_ZERO)
        channels[c, :n_cells] = cells[c]
        for i in range(0, channels.shape[1], LANES):
            sums = sums + load(channels, (c, i))
        means[c] = total(sums) / n_cells * inverse
        for i in range(n_cells):
            channels[c, i] = channels[c, i] * inverse - means[c]
    channels[n_channels, :n_cells] = 1
    return means


@jit
def _dot(a, row, b, other, start, size):
    """Return the dot product of a line's first ``size`` numbers and another's from ``start``."""
    even = odd = splat(_ZERO)
    for i in range(0, size - LANES, 2 * LANES):
        even = fma(load(a, (row, i)), load(b, (other, start + i)), even)
        odd = fma(load(a, (row, i + LANES)), load(b, (other, start + i + LANES)), odd)
    if size // LANES % 2:
        i = size - LANES
        even = fma(load(a, (row, i)), load(b, (other, start + i)), even)
    return total(even + odd)


@jit
def _ridge_dot(problem, row, other):
    """Return the dot product of the weights of two records, with the ridge as weight."""
    ridge, records, products = problem.ridge, problem.records, splat(_ZERO)
    for c in range(0, ridge.shape[1], LANES):
        weights = load(ridge, (0, c)) * load(records, (row, c))
        products = fma(weights, load(records, (other, c)), products)
    return total(products)


@jit
def _combine(factor, records, row, other, to, begin):
    """Write a record times ``factor`` plus another, from ``begin`` on."""
    f = splat(factor)
    for i in range(begin, records.shape[1], LANES):
        store(records, (to, i), fma(f, load(records, (row, i)), load(records, (other, i))))


@jit
def _add(factor, records, row, to):
    _combine(factor, records, row, to, to, 0)


@jit
def _scale(factor, records, row, to):
    f = splat(factor)
    for i in range(0, records.shape[1], LANES):
        store(records, (to, i), f * load(records, (row, i)))


@jit
def _map_slope(problem, k, row):
    """Return the slope of the loss of row k along a record, from the map of the record."""
    n_channels, n_pixels = problem.channels.shape
    return _dot(problem.slopes, k, problem.records, row, n_channels, n_pixels)


@jit
def _overlap(problem, weights, k):
    """Return the sums of projections over all pixels and over the mask."""
    (starts, share), targets, wide = problem.geometry[:2], problem.targets, problem.wide
    width, area, shared = targets.shape[2], splat(_ZERO), splat(_ZERO)
    for i in range(len(starts) - 1):
        for j in range(0, width, LANES):
            upper = load(wide, (0, i * width + j))
            step = load(wide, (0, i * width + j + width)) - upper
            for r in range(starts[i], starts[i + 1]):
                x = fma(splat(share[r]), step, upper)
                e = exp_minus_abs(x)
                p = where_positive(x, splat(_ONE), e) / (e + splat(_ONE))
                if weights is not None:
                    p = p * load(weights, (k, r, j))
                area = area + p
                shared = fma(load(targets, (k, r, j)), p, shared)
    return total(shared), total(area)


@jit
def _slope_factors(problem, k):
    """Return the kind and the factors of the pixels' slopes, and the loss if it is not convex."""
    kind, numbers = problem.kind, problem.numbers
    if kind == 0:
        return LOGISTIC, (numbers[k, _CONCEPT], numbers[k, _BACKGROUND]), _ZERO
    shared, area = _overlap(problem, problem.weights, k)
    whole = numbers[k, _AREA] + (area - numbers[k, _PADDING])
    if kind == _JACCARD:
        whole -= shared
        square = whole * whole
        return OVERLAP, (-(whole + shared) / square, shared / square), _ONE - shared / whole
    return OVERLAP, (-_TWO / whole, _TWO * shared / (whole * whole)), _ONE - _TWO * shared / whole


@jit
def _evaluate(problem, k, row):
    """Resample the slopes at a record's map to the layer's resolution; return the loss."""
    (n_lines, n_columns), n_channels = problem.size, len(problem.channels)
    width, wide, slope = problem.targets.shape[2], problem.wide, problem.wide_slope
    geometry, records, slopes = problem.geometry, problem.records, problem.slopes
    widening, narrowing = geometry.widening, geometry.narrowing
    resample_lines(records, row, n_channels, n_columns, n_lines, widening, wide, 0, 0, width)
    kind, factors, loss = _slope_factors(problem, k)
    pull_back(kind, wide, problem.targets, problem.weights, k, factors, geometry, slope)
    resample_lines(slope, 0, 0, width, n_lines, narrowing, slopes, k, 0, n_columns)
    return loss


@jit
def _next_step(t, trial, low, low_slope, high):
    """Return a step beyond ``low`` and, if it is finite, before ``high``."""
    if high == np.inf:
        return _FARTHER * t
    share = _HALF
    # If the slope changed its sign, its zero is in between, about at the secant's zero.
    if t == high and trial > 0:
        share = min(max(low_slope / (low_slope - trial), _LEAST), _MOST)
    return low + share * (high - low)


@jit
def _search(problem, k):
    """Find a step along the direction that is neither too short nor too long."""
    records, numbers, first = problem.records, problem.numbers, k * _N_RECORDS
    point, direction, trial = first + _POINT, first + _DIRECTION, first + _TRIAL
    linear = _ridge_dot(problem, point, direction)
    square = _ridge_dot(problem, direction, direction)
    start, before = linear + _map_slope(problem, k, direction), numbers[k, _LOSS]
    t, low, low_slope, high = _ONE, _ZERO, start, _F(np.inf)
    if not start < 0:
        return _ZERO
    for trials in range(MAX_TRIALS + 1):
        # Combine only the maps: a trial does not need its weights.
        _combine(t, records, direction, point, trial, len(problem.channels))
        loss = _evaluate(problem, k, trial)
        slope = linear + t * square + _map_slope(problem, k, direction)
        rise = loss - before + t * (linear + _HALF * t * square)
        if trials == MAX_TRIALS:  # no step was right; evaluate slopes and loss of the final step
            break
        # A convex loss needs only slopes. They stay exact where rounding hides changes of the loss.
        if slope > -_LONG * start or (problem.kind > 0 and rise > _RISE):
            high = t
        elif slope < _SHORT * start:
            low, low_slope = t, slope
        else:
            break
        t = _next_step(t, slope, low, low_slope, high)
    numbers[k, _LOSS] = loss
    return t


@jit
def _set_direction(problem, k):
    """Set the descent direction by the inverse Hessian's estimate (Nocedal's two loops)."""
    records, numbers, n_channels = problem.records, problem.numbers, len(problem.channels)
    pairs, direction = k * _N_RECORDS + _PAIRS, k * _N_RECORDS + _DIRECTION
    _scale(-_ONE, records, k * _N_RECORDS + _GRADIENT, direction)
    stored = int(numbers[k, _STORED])
    first = max(0, stored - MEMORY)
    for i in range(stored - 1, first - 1, -1):
        slot = i % MEMORY
        step = pairs + 2 * slot
        share = numbers[k, _INVERSES + slot] * _dot(
            records, step, records, direction, 0, n_channels
        )
        numbers[k, _SHARES + slot] = share
        _add(-share, records, step + 1, direction)
    if stored > 0:
        _scale(numbers[k, _SCALE], records, direction, direction)
    for i in range(first, stored):
        slot = i % MEMORY
        step = pairs + 2 * slot
        product = _dot(records, step + 1, records, direction, 0, n_channels)
        share = numbers[k, _SHARES + slot] - numbers[k, _INVERSES + slot] * product
        _add(share, records, step, direction)


@jit
def _latest_step(problem, k):
    """Return the record of the next pair's step; the record of the gradient's change follows."""
    return k * _N_RECORDS + _PAIRS + 2 * (int(problem.numbers[k, _STORED]) % MEMORY)


@jit
def _move(problem, k):
    """Move a row along its direction, and begin the resulting pair."""
    first, records = k * _N_RECORDS, problem.records
    t, step = _search(problem, k), _latest_step(problem, k)
    _scale(t, records, first + _DIRECTION, step)
    _scale(-_ONE, records, first + _GRADIENT, step + 1)
    _add(_ONE, records, step, first + _POINT)
    problem.numbers[k, _N_ITER] += _ONE


@jit
def _complete_pair(problem, k):
    """Complete the pair with the gradient at the new point of the row."""
    records, numbers, n_channels = problem.records, problem.numbers, len(problem.channels)
    step, slot = _latest_step(problem, k), int(numbers[k, _STORED]) % MEMORY
    _add(_ONE, records, k * _N_RECORDS + _GRADIENT, step + 1)
    product = _dot(records, step, records, step + 1, 0, n_channels)
    # Without positive curvature along the step, the estimate would not stay positive definite.
    if product > 0:
        numbers[k, _INVERSES + slot] = _ONE / product
        numbers[k, _SCALE] = product / _dot(records, step + 1, records, step + 1, 0, n_channels)
        numbers[k, _STORED] += _ONE
    else:  # it has overwritten the oldest pair, which must not count any more
        numbers[k, _INVERSES + slot] = _ZERO


@jit
def _compute_gradients(problem, active):
    """Compute the gradients of rows from their slopes, with their maps and norms."""
    channels, records, ridge, slopes = (
        problem.channels,
        problem.records,
        problem.ridge,
        problem.slopes,
    )
    n_channels = len(channels)
    gradients = active * _N_RECORDS + _GRADIENT
    for gradient in gradients:
        for i in range(n_channels, records.shape[1], LANES):
            store(records, (gradient, i), splat(_ZERO))
    for c in range(0, n_channels, LANES):
        # Eight channels serve all rows while they are in the first-level cache.
        for b in range(0, LANES, 8):
            write_gradients(channels, c + b, slopes, active, records, gradients, c + b)
        for k in active:
            point, gradient = k * _N_RECORDS + _POINT, k * _N_RECORDS + _GRADIENT
            pulled = fma(
                load(ridge, (0, c)), load(records, (point, c)), load(records, (gradient, c))
            )
            store(records, (gradient, c), pulled)
        # Reverse the order, because the last channels are still in the cache.
        for b in range(LANES - 8, -1, -8):
            add_channels(channels, c + b, records, gradients, records, gradients, n_channels)
    for k in active:
        gradient = k * _N_RECORDS + _GRADIENT
        square = _dot(records, gradient, records, gradient, 0, n_channels)
        problem.numbers[k, _NORM] = np.sqrt(square)


@jit
def _begin(problem, start):
    """Evaluate all rows at zero, for the units of their gradients, and at the start."""
    channels, records, numbers = problem.channels, problem.records, problem.numbers
    rows = np.arange(len(numbers))
    for again in range(2):
        for k in rows:
            numbers[k, _LOSS] = _evaluate(problem, k, k * _N_RECORDS + _POINT)
        _compute_gradients(problem, rows)
        for k in rows:
            if not again:
                norm = numbers[k, _NORM]
                if problem.kind == 0:
                    norm = max(norm, _LEAST_UNIT)
                numbers[k, _UNIT] = norm if norm > 0 else _ONE
        if again or not start.any():
            return
        points = rows * _N_RECORDS + _POINT
        for point in points:
            records[point, : len(start)] = start
        for c in range(0, len(channels), 8):
            add_channels(channels, c, records, points, records, points, len(channels))


@jit
def _unfinished(problem, active):
    """Return the rows whose gradient norm is above the tolerance."""
    numbers, left, count = problem.numbers, np.empty(len(active), np.int64), 0
    for k in active:
        # Without convexity, the gradient at zero is as small as the mask, and may grow a
        # hundredfold. So its unit is the largest norm so far.
        if problem.kind > 0:
            numbers[k, _UNIT] = max(numbers[k, _UNIT], numbers[k, _NORM])
        if numbers[k, _NORM] > problem.tol * numbers[k, _UNIT]:
            left[count] = k
            count += 1
    return left[:count]


@jit
def _minimize(problem, start):
    """Minimize the losses of rows that share activations, in their points and numbers."""
    _begin(problem, start)
    active = np.arange(len(problem.numbers))
    for _ in range(problem.max_iter):
        active = _unfinished(problem, active)
        if len(active) == 0:
            break
        for k in active:
            _set_direction(problem, k)
            _move(problem, k)
        _compute_gradients(problem, active)
        for k in active:
            _complete_pair(problem, k)
