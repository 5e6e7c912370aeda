"""L-BFGS for the objectives with a ridge, compiled; ``_lbfgs_cpu`` lays out what it reads.

A record is what is known of a direction: its weights, one per channel, and the map that these
draw at the layer's resolution. All that L-BFGS does to weights is linear, so records are added
whole, and a trial along a line costs a pass over the mask's pixels, not over the channels. The
channels are walked once per iteration, for all rows of the image: while a few of them lie in the
first-level cache, their gradients are taken and drawn.

A row sees the same operations in the same order whoever shares its walk. Arrays are flat, channels
and pixels padded by zeros to whole vectors, as in ``_adamw_steps``.
"""

import numpy as np

from ..lbfgs import LEAST_UNIT, LONG, MAX_TRIALS, MEMORY, RISE, SHORT
from .adamw_steps import _add_channels, _take_gradients
from .jit import jit
from .ridge_steps import LOGISTIC, N_CONSTANTS, look
from .simd import LANES, fma, load, splat, store, total

_F = np.float32
_ZERO, _ONE, _HALF = _F(0), _F(1), _F(0.5)
_SHORT, _LONG, _RISE = _F(SHORT), _F(LONG), _F(RISE)
_LEAST_UNIT = _F(LEAST_UNIT)
_LEAST, _MOST, _FARTHER = _F(0.1), _F(0.9), _F(4)

_BLOCK = 4096  # numbers whose squares are summed as float32
_FAINT = 1e-30  # sum of squares some of which may be too small for float32

# Records of a row: where it stands, its gradient, its direction, a trial; then the pairs of L-BFGS,
# a step and the gradient's change by it.
_POINT, _GRADIENT, _DIRECTION, _TRIAL, _PAIRS = 0, 1, 2, 3, 4
N_RECORDS = _PAIRS + 2 * MEMORY
# Numbers of a row, after its objective's constants: its loss without the ridge; pairs stored, scale
# of the inverse Hessian, iterations, norm of the gradient now and the one it counts by; and of each
# pair the inverse product, and its share in the direction.
_LOSS, _STORED, _SCALE, _N_ITER, _NORM, _UNIT, _INVERSES = range(N_CONSTANTS, N_CONSTANTS + 7)
_SHARES = _INVERSES + MEMORY
N_NUMBERS = _SHARES + MEMORY


@jit
def _dot(a, at, b, to, size):
    even = odd = splat(_ZERO)
    for i in range(0, size - LANES, 2 * LANES):
        even = fma(load(a, at + i), load(b, to + i), even)
        odd = fma(load(a, at + i + LANES), load(b, to + i + LANES), odd)
    if size // LANES % 2:
        i = size - LANES
        even = fma(load(a, at + i), load(b, to + i), even)
    return total(even + odd)


@jit
def _add(factor, records, at, to, size):
    f = splat(factor)
    for i in range(0, size, LANES):
        store(records, to + i, fma(f, load(records, at + i), load(records, to + i)))


@jit
def _weighted_dot(weights, records, at, to, size):
    products = splat(_ZERO)
    for i in range(0, size, LANES):
        products = fma(load(weights, i) * load(records, at + i), load(records, to + i), products)
    return total(products)


@jit
def _combine(records, at, factor, to, out, size):
    """Write one part plus ``factor`` times another."""
    f = splat(factor)
    for i in range(0, size, LANES):
        store(records, out + i, fma(f, load(records, to + i), load(records, at + i)))


@jit
def _scale(factor, records, at, to, size):
    f = splat(factor)
    for i in range(0, size, LANES):
        store(records, to + i, f * load(records, at + i))


@jit
def _next_step(t, trial, low, low_slope, high):
    """Give a step beyond ``low`` and, if there is one, before ``high``."""
    if high == np.inf:
        return _FARTHER * t
    share = _HALF
    if t == high and trial > 0:
        share = min(max(low_slope / (low_slope - trial), _LEAST), _MOST)
    return low + share * (high - low)


@jit
def _search(problem, room, k):
    """Find a step along the direction that is neither too short nor too long."""
    n_channels, length = problem.n_channels, problem.n_channels + problem.stride
    base, records = k * N_RECORDS * length, room.records
    point, direction = base + _POINT * length, base + _DIRECTION * length
    trial, map_ = base + _TRIAL * length + n_channels, direction + n_channels
    linear = _weighted_dot(room.ridge, records, point, direction, n_channels)
    square = _weighted_dot(room.ridge, records, direction, direction, n_channels)
    at, before = k * problem.stride, room.numbers[k * N_NUMBERS + _LOSS]
    start = linear + _dot(room.slopes, at, records, map_, problem.n_pixels)
    t, low, low_slope, high = _ONE, _ZERO, start, _F(np.inf)
    if not start < 0:
        return _ZERO
    for trials in range(MAX_TRIALS + 1):
        _combine(records, point + n_channels, t, map_, trial, problem.stride)
        loss = look(problem, room, k, trial, k * N_NUMBERS)
        slope = linear + t * square + _dot(room.slopes, at, records, map_, problem.n_pixels)
        rise = loss - before + t * (linear + _HALF * t * square)
        if trials == MAX_TRIALS:  # none was right: slopes and loss are those of the step to be made
            break
        if slope > -_LONG * start or (problem.kind != LOGISTIC and rise > _RISE):
            high = t
        elif slope < _SHORT * start:
            low, low_slope = t, slope
        else:
            break
        t = _next_step(t, slope, low, low_slope, high)
    room.numbers[k * N_NUMBERS + _LOSS] = loss
    return t


@jit
def _aim(problem, room, k):
    """Go down the gradient by the inverse Hessian's estimate (Nocedal's two loops)."""
    n_channels, length = problem.n_channels, problem.n_channels + problem.stride
    records, numbers, n = room.records, room.numbers, k * N_NUMBERS
    base = k * N_RECORDS * length
    pairs, direction = base + _PAIRS * length, base + _DIRECTION * length
    _scale(-_ONE, records, base + _GRADIENT * length, direction, length)
    stored = int(numbers[n + _STORED])
    first = max(0, stored - MEMORY)
    for i in range(stored - 1, first - 1, -1):
        slot = i % MEMORY
        step = pairs + 2 * slot * length
        share = numbers[n + _INVERSES + slot] * _dot(records, step, records, direction, n_channels)
        numbers[n + _SHARES + slot] = share
        _add(-share, records, step + length, direction, length)
    if stored > 0:
        _scale(numbers[n + _SCALE], records, direction, direction, length)
    for i in range(first, stored):
        slot = i % MEMORY
        step = pairs + 2 * slot * length
        product = _dot(records, step + length, records, direction, n_channels)
        share = numbers[n + _SHARES + slot] - numbers[n + _INVERSES + slot] * product
        _add(share, records, step, direction, length)


@jit
def _move(problem, room, k):
    """Move a row along its direction, and begin the pair that this gives."""
    length = problem.n_channels + problem.stride
    base, records, n = k * N_RECORDS * length, room.records, k * N_NUMBERS
    t = _search(problem, room, k)
    step = base + (_PAIRS + 2 * (int(room.numbers[n + _STORED]) % MEMORY)) * length
    _scale(t, records, base + _DIRECTION * length, step, length)
    _scale(-_ONE, records, base + _GRADIENT * length, step + length, length)
    _add(_ONE, records, step, base + _POINT * length, length)
    room.numbers[n + _N_ITER] += _ONE


@jit
def _remember(problem, room, k):
    """End the pair, with the gradient where the row has moved to."""
    n_channels, length = problem.n_channels, problem.n_channels + problem.stride
    base, records, n = k * N_RECORDS * length, room.records, k * N_NUMBERS
    numbers = room.numbers
    slot = int(numbers[n + _STORED]) % MEMORY
    step = base + (_PAIRS + 2 * slot) * length
    change = step + length
    _add(_ONE, records, base + _GRADIENT * length, change, length)
    product = _dot(records, step, records, change, n_channels)
    if product > 0:
        numbers[n + _INVERSES + slot] = _ONE / product
        numbers[n + _SCALE] = product / _dot(records, change, records, change, n_channels)
        numbers[n + _STORED] += _ONE
    else:  # has taken the place of the oldest pair, which must not count any more
        numbers[n + _INVERSES + slot] = _ZERO


@jit
def _take_all_gradients(problem, room, active):
    """Take the gradients of rows by their slopes, and draw them."""
    n_channels, n_pixels, stride = problem.n_channels, problem.n_pixels, problem.stride
    length, records, channels = n_channels + stride, room.records, room.channels
    for k in active:
        map_ = (k * N_RECORDS + _GRADIENT) * length + n_channels
        for i in range(map_, map_ + stride, LANES):
            store(records, i, splat(_ZERO))
    for c in range(0, n_channels, LANES):
        for k in active:
            point, gradient = k * N_RECORDS * length, (k * N_RECORDS + _GRADIENT) * length
            of_row, map_ = gradient + c, gradient + n_channels
            for b in range(0, LANES, 8):
                at = (c + b) * n_pixels
                _take_gradients(
                    channels, at, n_pixels, room.slopes, k * stride, records, of_row + b
                )
            pulled = fma(load(room.ridge, c), load(records, point + c), load(records, of_row))
            store(records, of_row, pulled)
            # The other way round, since the last channels are still in the first-level cache.
            for b in range(LANES - 8, -1, -8):
                at = (c + b) * n_pixels
                _add_channels(channels, at, n_pixels, records, of_row + b, records, map_)
    for k in active:
        gradient = (k * N_RECORDS + _GRADIENT) * length
        square = _dot(records, gradient, records, gradient, n_channels)
        room.numbers[k * N_NUMBERS + _NORM] = np.sqrt(square)


@jit
def _raise_units(problem, room, active):
    """Let gradients count by the largest on the way, where losses are not convex.

    Theirs at zero is as small as the mask, and may grow a hundredfold.
    """
    for k in active:
        n = k * N_NUMBERS
        if problem.kind != LOGISTIC:
            room.numbers[n + _UNIT] = max(room.numbers[n + _UNIT], room.numbers[n + _NORM])


@jit
def _start(problem, room, start, n_rows):
    """Evaluate all rows at zero, whose gradients are the unit, and at the start."""
    n_channels, length = problem.n_channels, problem.n_channels + problem.stride
    everyone = np.arange(n_rows)
    for again in range(2):
        for k in range(n_rows):
            point, n = (k * N_RECORDS + _POINT) * length, k * N_NUMBERS
            room.numbers[n + _LOSS] = look(problem, room, k, point + n_channels, n)
        _take_all_gradients(problem, room, everyone)
        for k in range(n_rows):
            n = k * N_NUMBERS
            if not again:
                norm = room.numbers[n + _NORM]
                if problem.kind == LOGISTIC:
                    norm = max(norm, _LEAST_UNIT)
                room.numbers[n + _UNIT] = norm if norm > 0 else _ONE
        if again or not start.any():
            return
        for k in range(n_rows):
            point = (k * N_RECORDS + _POINT) * length
            room.records[point : point + len(start)] = start
            for c in range(0, n_channels, 8):
                at = c * problem.n_pixels
                _add_channels(
                    room.channels,
                    at,
                    problem.n_pixels,
                    room.records,
                    point + c,
                    room.records,
                    point + n_channels,
                )


@jit
def minimise_walk(problem, room, start, rows, vectors, facts):
    """Minimise rows that share activations, and write weights and facts."""
    n_rows, length = len(rows), problem.n_channels + problem.stride
    _start(problem, room, start, n_rows)
    active = np.arange(n_rows)
    for _ in range(problem.max_iter):
        _raise_units(problem, room, active)
        active = _unfinished(problem, room, active)
        if len(active) == 0:
            break
        for k in active:
            _aim(problem, room, k)
            _move(problem, room, k)
        _take_all_gradients(problem, room, active)
        for k in active:
            _remember(problem, room, k)
    for k in range(n_rows):
        point, n, width = k * N_RECORDS * length, k * N_NUMBERS, len(start) - 1
        vectors[rows[k]] = room.records[point : point + width]
        facts[0, rows[k]] = room.records[point + width]
        facts[1, rows[k]] = room.numbers[n + _N_ITER]
        facts[2, rows[k]] = room.numbers[n + _NORM] / room.numbers[n + _UNIT]


@jit
def _unfinished(problem, room, active):
    left = np.empty(len(active), np.int64)
    count = 0
    for k in active:
        n = k * N_NUMBERS
        if room.numbers[n + _NORM] > problem.tol * room.numbers[n + _UNIT]:
            left[count] = k
            count += 1
    return left[:count]


@jit
def root_mean_square(grid):
    """Give the root of the mean over cells of the squared norm of their activations; 1 for 0."""
    flat, squares = grid.ravel(), 0.0
    for start in range(0, len(flat), _BLOCK):
        stop = min(start + _BLOCK, len(flat))
        products, whole = splat(_ZERO), stop - (stop - start) % LANES
        for i in range(start, whole, LANES):
            products = fma(load(flat, i), load(flat, i), products)
        squares += total(products)
        for i in range(whole, stop):
            squares += flat[i] * flat[i]
    if not _FAINT < squares < np.inf:  # squares of float32 have left its range, or are all zero
        squares = 0.0
        for x in flat:
            squares += np.float64(x) * np.float64(x)
    return np.sqrt(squares / grid[0].size) if squares > 0 else 1.0


@jit
def scale_grid(grid, root, n_pixels, channels):
    """Write a grid, divided by a root and centred, and a channel of ones; give its means.

    Channels are padded to ``n_pixels``.
    """
    n_channels, n_cells = len(grid), grid[0].size
    channels[:] = 0
    inverse, means = _F(1 / root), np.empty(n_channels, _F)
    for c in range(n_channels):
        at = c * n_pixels
        channels[at : at + n_cells] = grid[c].ravel()
        sums = splat(_ZERO)
        for i in range(at, at + n_pixels, LANES):
            sums = sums + load(channels, i)
        means[c] = total(sums) / n_cells * inverse
        for i in range(at, at + n_cells):
            channels[i] = channels[i] * inverse - means[c]
    channels[n_channels * n_pixels : n_channels * n_pixels + n_cells] = 1
    return means
