"""Distances between all rows, chunk by chunk: memory grows with n, never with n squared.

Euclidean and cosine distances come from matrix products, which are fast but leave rounding
noise of about 1e-8 of a row's norm. Where a single distance decides (the nearest row of a
concept), it is computed again from the rows' difference; where distances are ranked or summed,
noise below ``TIE_TOLERANCE`` is recognised as such. So duplicates are at distance 0 exactly.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from sklearn import get_config
from sklearn.metrics import pairwise_distances_chunked
from sklearn.preprocessing import normalize

# Megabytes per chunk: large enough for a fast matrix product, small enough for any laptop.
CHUNK_MEMORY = 128
TIE_TOLERANCE = 1e-13

# Rounding puts the same direction this far apart at most, as a squared distance of unit rows.
_SAME_DIRECTION = (4 * np.finfo(np.float64).eps) ** 2


@dataclass
class RowDistances:
    """Distances between the rows of one matrix.

    Chunks hold squared Euclidean distances for the Euclidean metric, and those of unit rows for
    the cosine one, which is half of them: neither needs a root to be ranked.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), dtype float64
        Rows.
    metric : str or callable
        Any metric of :func:`sklearn.metrics.pairwise_distances` but "precomputed".
    """

    X: np.ndarray
    metric: object
    _product: str | None = field(init=False)
    _rows: np.ndarray = field(init=False, repr=False)
    _scale: np.ndarray = field(init=False, repr=False)
    _zero: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        name = self.metric if isinstance(self.metric, str) else None
        if name == "precomputed":
            raise ValueError(
                "metric='precomputed' is not supported: pass the embeddings and a metric's name."
            )
        self._product = {"l2": "euclidean"}.get(name, name)
        self._zero = np.zeros(len(self.X), dtype=bool)
        if self._product == "cosine":
            self._zero = ~self.X.any(axis=1)
            self.X = normalize(self.X)
        if self._product in ("euclidean", "cosine"):
            # A common offset would cost digits in the matrix product, and changes no distance.
            self._rows = self.X - self.X.mean(axis=0)
            self._scale = np.einsum("ij,ij->i", self._rows, self._rows)
        else:
            self._product, self._rows, self._scale = None, self.X, np.zeros(len(self.X))

    def chunks(self, reduce):
        """Yield ``reduce(D, start)`` for chunks ``D`` (n_chunk, n_samples) of the distances."""
        every = np.arange(len(self.X))

        def reduce_with_zeros(D, start):
            self._put_zeros_apart(D, every[start : start + len(D)], every)
            return reduce(D, start)

        return self._chunk(self._rows, None, reduce_func=reduce_with_zeros)

    def blocks(self, rows, columns):
        """Yield row numbers and their finished distances to `columns`, chunk by chunk.

        Parameters
        ----------
        rows, columns : ndarray of shape (n_rows,) and (n_columns,), dtype intp
            Row numbers.

        Yields
        ------
        chunk_rows : ndarray of shape (n_chunk,), dtype intp
        distances : ndarray of shape (n_chunk, n_columns), dtype float64
        """
        done = 0
        for D in self._chunk(self._rows[rows], self._rows[columns]):
            held = rows[done : done + len(D)]
            done += len(D)
            self._put_zeros_apart(D, held, columns)
            yield held, self.finish(D, held)

    def _chunk(self, X, Y, **kwargs):
        if self._product:
            kwargs["squared"] = True
        return pairwise_distances_chunked(
            X,
            Y,
            metric="euclidean" if self._product else self.metric,
            working_memory=min(get_config()["working_memory"], CHUNK_MEMORY),
            **kwargs,
        )

    def _put_zeros_apart(self, D, rows, columns):
        """Give rows without a direction distance 1 from every row, as scikit-learn does."""
        D[:, self._zero[columns]] = 2.0
        D[self._zero[rows]] = 2.0

    def tolerance(self, rows, distances):
        """Size of the rounding noise in distances as the chunks hold them.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), dtype intp
            Row numbers.
        distances : ndarray of shape (n_rows,) or float
            One distance of each row.

        Returns
        -------
        ndarray of shape (n_rows,)
        """
        return TIE_TOLERANCE * (self._scale[rows] + distances)

    def finish(self, D, rows):
        """Turn a chunk of these rows into distances, in place, with rounding noise set to 0."""
        noise = self.tolerance(rows, 0.0)
        D[noise[:, np.newaxis] >= D] = 0.0
        if self._product == "cosine":
            D *= 0.5
        return np.sqrt(D, out=D) if self._product == "euclidean" else D

    def between(self, first, second, chunk_values):
        """Distances of rows paired by index, free of the noise of the matrix product.

        Parameters
        ----------
        first, second : ndarray of shape (n_pairs,), dtype intp
            Row numbers.
        chunk_values : ndarray of shape (n_pairs,)
            The same distances as a chunk held them, which are exact for all other metrics.

        Returns
        -------
        ndarray of shape (n_pairs,)
        """
        if self._product is None:
            return chunk_values
        gap = self.X[first] - self.X[second]
        squared = np.einsum("ij,ij->i", gap, gap)
        if self._product == "euclidean":
            return np.sqrt(squared)
        squared[squared < _SAME_DIRECTION] = 0.0
        return np.where(self._zero[first] | self._zero[second], 1.0, 0.5 * squared)


def extremes_by_concept(X, codes, n_concepts, metric, *, farthest=False):
    """Distance of every row to the nearest, and to the farthest, row of every concept.

    The row itself is left out by its index, so that a duplicate still counts.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), dtype float64
    codes : ndarray of shape (n_samples,), dtype intp
        Concept number of each row; every number below `n_concepts` occurs.
    n_concepts : int
    metric : str or callable
    farthest : bool, default=False
        Whether to look for the farthest rows too.

    Returns
    -------
    nearest : ndarray of shape (n_samples, n_concepts), dtype float64
        Infinite where a concept has no row but the row itself.
    farthest : ndarray of shape (n_samples, n_concepts), dtype float64
        Minus infinite there; only where asked for.
    """
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(n_concepts + 1))
    space = RowDistances(X[order], metric)
    searches = [(np.argmin, np.inf), (np.argmax, -np.inf)][: 1 + farthest]

    def reduce(D, start):
        return tuple(_search_concepts(space, D, start, bounds, *search) for search in searches)

    found = [np.empty((len(X), n_concepts)) for _ in searches]
    for result, chunks in zip(found, zip(*space.chunks(reduce), strict=True), strict=True):
        result[order] = np.concatenate(chunks)
    return found if farthest else found[0]


def _search_concepts(space, D, start, bounds, pick, never):
    """Search each concept's columns of a chunk for the distance that `pick` points at."""
    rows = np.arange(start, start + len(D))
    D[rows - start, rows] = never
    values = np.empty((len(D), len(bounds) - 1))
    for concept, (first, last) in enumerate(pairwise(bounds)):
        found = first + pick(D[:, first:last], axis=1)
        exact = space.between(rows, found, D[rows - start, found])
        values[:, concept] = np.where(found == rows, never, exact)
    return values


def sums_by_concept(X, codes, n_concepts, metric):
    """Sum of every row's distances to the rows of every concept.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), dtype float64
    codes : ndarray of shape (n_samples,), dtype intp
        Concept number of each row; every number below `n_concepts` occurs.
    n_concepts : int
    metric : str or callable

    Returns
    -------
    ndarray of shape (n_samples, n_concepts), dtype float64
    """
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(n_concepts))
    space = RowDistances(X[order], metric)

    def reduce(D, start):
        rows = np.arange(start, start + len(D))
        D[rows - start, rows] = 0.0
        return np.add.reduceat(space.finish(D, rows), starts, axis=1)

    result = np.empty((len(X), n_concepts))
    result[order] = np.concatenate(list(space.chunks(reduce)))
    return result


def sums_within_concept(X, codes, n_concepts, metric):
    """Sum of every row's distances to the rows of its own concept.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), dtype float64
    codes : ndarray of shape (n_samples,), dtype intp
        Concept number of each row; every number below `n_concepts` occurs.
    n_concepts : int
    metric : str or callable

    Returns
    -------
    ndarray of shape (n_samples,), dtype float64
    """
    sums = np.empty(len(X))
    for concept in range(n_concepts):
        rows = np.flatnonzero(codes == concept)
        alike = np.zeros(len(rows), dtype=np.intp)
        sums[rows] = sums_by_concept(X[rows], alike, 1, metric)[:, 0]
    return sums


def nearest_rows(D, k, tolerance):
    """Rank the `k` nearest columns of every row; ties go to the lower column.

    Parameters
    ----------
    D : ndarray of shape (n_rows, n_columns)
        Distances; infinite where a column is no candidate.
    k : int
        At most the number of candidates of a row.
    tolerance : callable
        Maps the k-th smallest distance of each row, shape (n_rows,), to the difference up to
        which two distances of that row are ties.

    Returns
    -------
    ndarray of shape (n_rows, k), dtype intp
        Columns, nearest first.
    """
    bound = _bound_kth(D, k)
    rows, columns = np.nonzero((bound + tolerance(bound))[:, np.newaxis] >= D)
    order = np.lexsort((D[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    distances = D[rows, columns]
    counts = np.bincount(rows, minlength=len(D))
    firsts = np.cumsum(counts) - counts
    noise = tolerance(distances[firsts + k - 1])
    apart = (np.diff(distances) > noise[rows[1:]]) | (np.diff(rows) > 0)
    tied = np.concatenate([[0], np.cumsum(apart)])
    columns = columns[np.lexsort((columns, tied))]
    return columns[firsts[:, np.newaxis] + np.arange(k)]


def _bound_kth(D, k):
    """Bound the k-th smallest value of every row from above, closely."""
    width = D.shape[1] // (16 * k)
    if width < 2:
        return np.partition(D, k - 1, axis=1)[:, k - 1]
    # The smallest values of k blocks are k values, and blocks are far fewer than columns.
    blocks = D[:, : D.shape[1] // width * width].reshape(len(D), -1, width)
    return np.partition(blocks.min(axis=2), k - 1, axis=1)[:, k - 1]
