"""Exact quantiles of more distances than fit into memory."""

import numpy as np

from .._distances import find_chunk_memory

_BITS = 16
_SIGN = np.uint64(2**63)


def quantile_between(space, rows, columns, quantile):
    """Find a quantile of the distances of all pairs of disjoint `rows` and `columns`."""

    def read():
        return (D.ravel() for _, D in space.blocks(rows, columns))

    return _stream_quantile(read, len(rows) * len(columns), quantile)


def quantile_within(space, rows, quantile):
    """Find a quantile of the distances of all pairs of these rows, which are sorted."""

    def read():
        return (D[rows > held[:, np.newaxis]] for held, D in space.blocks(rows, rows))

    return _stream_quantile(read, len(rows) * (len(rows) - 1) // 2, quantile)


def _stream_quantile(read, count, quantile):
    """Find the quantile of ``np.quantile`` for `count` values that `read()` yields in chunks.

    If the values do not fit into memory, they are counted by their bits in several passes.
    """
    if count <= _most_held():
        return float(np.quantile(np.concatenate(list(read())), quantile))
    position = quantile * (count - 1)
    rank = int(np.floor(position))
    first = _select(read, rank)
    share = position - rank
    if share == 0:
        return first
    counts, above = zip(*((np.sum(v <= first), _least(v[v > first])) for v in read()), strict=True)
    second = first if sum(counts) > rank + 1 else min(above)
    return float(first + (second - first) * share)


def _most_held():
    return find_chunk_memory() * 2**20 / 8


def _least(values):
    return values.min(initial=np.inf)


def _select(read, rank):
    """Find the value at a rank by its highest bits, until the rest fits into memory."""
    prefix, n_below = 0, 0
    for shift in range(64 - _BITS, -1, -_BITS):
        counts = sum(_count_digits(v, prefix, shift) for v in read())
        totals = n_below + np.cumsum(counts)
        digit = int(np.searchsorted(totals, rank, side="right"))
        n_below = int(totals[digit] - counts[digit])
        prefix = (prefix << _BITS) | digit
        if counts[digit] <= _most_held():
            break
    else:
        return float(_unsort(np.array([prefix], dtype=np.uint64))[0])
    alike = [_sort_keys(v)[_sort_keys(v) >> np.uint64(shift) == prefix] for v in read()]
    inside = np.partition(np.concatenate(alike), rank - n_below)
    return float(_unsort(inside[rank - n_below : rank - n_below + 1])[0])


def _count_digits(values, prefix, shift):
    """Count the next digit of the keys that start with `prefix`: (2 ** _BITS,)."""
    keys = _sort_keys(values) >> np.uint64(shift)
    digits = keys[keys >> np.uint64(_BITS) == prefix] & np.uint64(2**_BITS - 1)
    return np.bincount(digits.astype(np.intp), minlength=2**_BITS)


def _sort_keys(values):
    """Map finite values to integers in the same order."""
    bits = np.ascontiguousarray(values + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _unsort(keys):
    """Invert :func:`_sort_keys`."""
    return np.where(keys & _SIGN, keys & ~_SIGN, ~keys).view(np.float64)
