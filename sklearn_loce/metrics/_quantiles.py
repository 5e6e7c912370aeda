"""Exact quantiles of distances that are too many to be held at once."""

import numpy as np

# Distances held at once (128 MB); more are counted in passes that narrow the range down.
MAX_HELD = 2**24
_N_BINS = 2**12


def quantile_between(space, rows, columns, quantile):
    """Find a quantile of the distances of all pairs of `rows` and `columns`.

    Parameters
    ----------
    space : RowDistances
    rows, columns : ndarray of shape (n_rows,) and (n_columns,), dtype intp
        Disjoint row numbers.
    quantile : float in [0, 1]

    Returns
    -------
    float
    """

    def read():
        return (D.ravel() for _, D in space.blocks(rows, columns))

    return stream_quantile(read, len(rows) * len(columns), quantile)


def quantile_within(space, rows, quantile):
    """Find a quantile of the distances of all pairs of two of these rows.

    Parameters
    ----------
    space : RowDistances
    rows : ndarray of shape (n_rows,), dtype intp
        Row numbers, ascending, at least two.
    quantile : float in [0, 1]

    Returns
    -------
    float
    """

    def read():
        return (D[rows > held[:, np.newaxis]] for held, D in space.blocks(rows, rows))

    return stream_quantile(read, len(rows) * (len(rows) - 1) // 2, quantile)


def stream_quantile(read, count, quantile):
    """Find the linearly interpolated quantile of values that come in chunks.

    Parameters
    ----------
    read : callable
        Returns an iterator over chunks, 1-D arrays; called once per pass.
    count : int
        Number of values in all chunks together.
    quantile : float in [0, 1]

    Returns
    -------
    float
        As ``np.quantile`` of all values.
    """
    if count <= MAX_HELD:
        return float(np.quantile(np.concatenate(list(read())), quantile))
    position = quantile * (count - 1)
    ranks = int(np.floor(position)), int(np.ceil(position))
    low, high, n_below, n_inside = _narrow(read, count, ranks)
    if n_inside > MAX_HELD:
        return float(low)
    inside = np.sort(np.concatenate([v[(v >= low) & (v <= high)] for v in read()]))
    first, second = (inside[rank - n_below] for rank in ranks)
    return float(first + (second - first) * (position - ranks[0]))


def _narrow(read, count, ranks):
    """Narrow the range around two neighbouring ranks until its values can be held, or are equal.

    Returns its ends, both included, and the numbers of values below and inside it.
    """
    extremes = [(values.min(), values.max()) for values in read() if values.size]
    low, high = min(a for a, _ in extremes), max(b for _, b in extremes)
    n_below, n_inside, smallest = 0, count, 1e-30 * (high - low)
    # Values closer together than this differ by rounding only.
    while n_inside > MAX_HELD and high - low > max(1e-13 * high, smallest):
        histograms = [np.histogram(v, _N_BINS, (low, high)) for v in read()]
        counts, edges = sum(h for h, _ in histograms), histograms[0][1]
        totals = n_below + np.cumsum(counts)
        first, last = np.searchsorted(totals, ranks, side="right")
        n_below = totals[first] - counts[first]
        n_inside = totals[last] - n_below
        # All bins but the last leave out their right edge.
        low = edges[first]
        high = edges[last + 1] if last == _N_BINS - 1 else np.nextafter(edges[last + 1], low)
    return low, high, n_below, n_inside
