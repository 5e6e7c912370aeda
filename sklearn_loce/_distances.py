"""Distances between all rows in chunks, so that memory grows with n and not with its square.

Euclidean and cosine distances are computed by matrix products. These are fast, but have rounding
noise in proportion to the squared norms of the rows. If this noise could change a result (a nearest
row, a rank, a small term of a sum), the distance is computed again from the difference of the two
rows. So results are those of exact distances. In tight groups that are far apart, most distances
are within the noise, and the product saves no time.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from sklearn import get_config
from sklearn.metrics import pairwise_distances_chunked
from sklearn.metrics.pairwise import PAIRWISE_BOOLEAN_FUNCTIONS
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from ._validation import check_range

# Megabytes per chunk: large enough for a fast matrix product, small enough for any laptop.
CHUNK_MEMORY = 128

# Distances that differ by less than this share are ties, and so are directions, in radians.
RESOLUTION = 1e-12

_SYNONYMS = {"l2": "euclidean", "nan_euclidean": "euclidean"}
_DATA_DEPENDENT = ("mahalanobis", "seuclidean")
# Terms of a sum are exact to at least seven digits.
_TERM_PRECISION = 1e-7
# Maximum number of differences in memory.
_MAX_DIFFERENCES = 2**19


def find_chunk_memory():
    """Return the megabytes of distances that a chunk may use."""
    return min(get_config()["working_memory"], CHUNK_MEMORY)


def show_rows(n_rows, verbose):
    """Open a progress bar over rows. It is hidden if `verbose` is false."""
    return tqdm(total=n_rows, unit="row", disable=not verbose)


@dataclass
class RowDistances:
    """Distances between the rows of one matrix, float64, in chunks.

    Chunks contain squared Euclidean distances for the Euclidean metric. For the cosine metric, they
    contain squared distances of unit rows, which are twice the cosine distances. Neither needs a
    root to be ranked. `bar` is a progress bar over rows.
    """

    X: np.ndarray
    metric: object
    bar: object = None
    _product: str | None = field(init=False)
    _rows: np.ndarray = field(init=False, repr=False)
    _scale: np.ndarray = field(init=False, repr=False)
    _zero: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        self.bar = show_rows(0, False) if self.bar is None else self.bar
        name = self.metric if isinstance(self.metric, str) else None
        _check_metric(name)
        self._product = _SYNONYMS.get(name, name)
        self._zero = np.zeros(len(self.X), dtype=bool)
        if self._product == "cosine":
            self._zero = ~self.X.any(axis=1)
            self.X = unit_rows(self.X)
        check_range(self.X)
        if self._product in ("euclidean", "cosine"):
            # A common offset costs digits. The median, unlike the mean, ignores a single far row.
            self._rows = self.X - np.median(self.X, axis=0)
            self._scale = np.einsum("ij,ij->i", self._rows, self._rows)
        else:
            self._product, self._rows, self._scale = None, self.X, np.zeros(len(self.X))

    def chunks(self, reduce):
        """Yield ``reduce(D, start)`` for chunks ``D`` (n_chunk, n_samples) of the distances."""
        every = np.arange(len(self.X))

        def reduce_checked(D, start):
            self._correct(D, every[start : start + len(D)], every)
            reduced = reduce(D, start)
            self.bar.update(len(D))
            return reduced

        return self._chunk(self._rows, None, reduce_func=reduce_checked)

    def blocks(self, rows, columns):
        """Yield row numbers and their finished distances to `columns`, chunk by chunk."""
        done = 0
        for D in self._chunk(self._rows[rows], self._rows[columns]):
            held = rows[done : done + len(D)]
            done += len(D)
            self._correct(D, held, columns)
            self.bar.update(len(D))
            yield held, self.finish(D, held, columns)

    def _chunk(self, X, Y, **kwargs):
        if self._product:
            kwargs["squared"] = True
        return pairwise_distances_chunked(
            X,
            Y,
            metric="euclidean" if self._product else self.metric,
            working_memory=find_chunk_memory(),
            **kwargs,
        )

    def _correct(self, D, rows, columns):
        """Set distances of zero rows to 1. Raise an error if a distance is not finite."""
        if self._product:
            D[:, self._zero[columns]] = 2.0
            zero = np.flatnonzero(self._zero[rows])
            D[zero] = np.where(rows[zero, np.newaxis] == columns, 0.0, 2.0)
        elif not np.isfinite(D).all():
            i, j = np.argwhere(~np.isfinite(D))[0]
            raise ValueError(
                f"metric={self.metric!r} returns {D[i, j]} for two rows of X, {self.X[rows[i]]} "
                f"and {self.X[columns[j]]}; drop such rows, or choose a metric that accepts them."
            )

    def noise(self, rows, distances):
        """Bound the rounding noise in differences of two distances of a chunk.

        The bound of each row holds for its distances of at most `distances`.
        """
        if self._product is None:
            return np.zeros(len(rows))
        # The error of a product of n terms is at most n * eps * (|a|^2 + |b|^2) / 2, and the
        # norm of b is at most that of a plus the distance of the two.
        share = 2 * (self.X.shape[1] + 8) * np.finfo(np.float64).eps
        directions = RESOLUTION**2 if self._product == "cosine" else 0.0
        return directions + share * (3 * self._scale[rows] + 2 * distances)

    def finish(self, D, rows, columns):
        """Convert a chunk into distances in place, and compute small ones exactly."""
        if self._product:
            blurred = self.noise(rows, 0.0) / _TERM_PRECISION
            i, j = np.nonzero(blurred[:, np.newaxis] >= D)
            D[i, j] = self._squared(rows[i], columns[j])
        return self._rescale(D)

    def _rescale(self, D):
        """Convert values of a chunk into distances in place."""
        if self._product == "cosine":
            D *= 0.5
        return np.sqrt(D, out=D) if self._product == "euclidean" else D

    def between(self, first, second, chunk_values):
        """Compute distances of rows paired by index, without the noise of the matrix product.

        `chunk_values` are the same distances in a chunk, which are exact for all other metrics.
        """
        return self._rescale(self._squared(first, second)) if self._product else chunk_values

    def _squared(self, first, second):
        """Compute distances of paired rows in the units of chunks, from the differences of rows."""
        squared = np.empty(len(first))
        step = max(1, _MAX_DIFFERENCES // self.X.shape[1])
        for start in range(0, len(first), step):
            pairs = slice(start, start + step)
            gap = self.X[first[pairs]] - self.X[second[pairs]]
            squared[pairs] = np.einsum("ij,ij->i", gap, gap)
        if self._product == "cosine":
            squared[squared < RESOLUTION**2] = 0.0
            squared[(self._zero[first] | self._zero[second]) & (first != second)] = 2.0
        return squared


def _check_metric(name):
    """Raise an error for metrics that depend on more than two rows of numbers."""
    if name == "precomputed":
        raise ValueError(
            "metric='precomputed' is not supported: pass the embeddings and a metric's name."
        )
    if name in _DATA_DEPENDENT:
        raise ValueError(
            f"metric={name!r} is not supported: it changes with the rows compared. Scale X once, "
            "with StandardScaler or PCA(whiten=True), and use metric='euclidean'."
        )
    if name in PAIRWISE_BOOLEAN_FUNCTIONS:
        raise ValueError(
            f"metric={name!r} compares booleans, but embeddings are numbers; use 'euclidean', "
            "'cosine' or 'cityblock'."
        )


def unit_rows(X):
    """Divide rows by their lengths, for rows of any length. Rows of zeros do not change."""
    # normalize treats very short rows as zeros.
    largest = np.abs(X).max(axis=1, keepdims=True)
    return normalize(X / np.where(largest > 0, largest, 1.0))


def tie_tolerance(distances, metric):
    """Return the largest difference of two such distances that is still a tie."""
    if isinstance(metric, str) and metric == "cosine":
        # A small cosine distance is half the square of the angle.
        return RESOLUTION * (distances + np.sqrt(2 * distances))
    return RESOLUTION * np.abs(distances)


def extremes_by_concept(X, codes, n_concepts, metric, *, farthest=False, bar=None):
    """Find the distance of every row to the nearest row of every concept: (n_rows, n_concepts).

    The row itself is excluded by its index, so duplicates count. The distance is infinite if a
    concept has no other row. `farthest` adds a second matrix with the farthest rows, and minus
    infinity instead.
    """
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(n_concepts + 1))
    space = RowDistances(X[order], metric, bar)
    signs = (1, -1)[: 1 + farthest]

    def reduce(D, start):
        return tuple(_search_concepts(space, D, start, bounds, sign) for sign in signs)

    found = [np.empty((len(X), n_concepts)) for _ in signs]
    for result, chunks in zip(found, zip(*space.chunks(reduce), strict=True), strict=True):
        result[order] = np.concatenate(chunks)
    return found if farthest else found[0]


def _search_concepts(space, D, start, bounds, sign):
    """Find the nearest (sign 1) or farthest (-1) distance in each concept's columns of a chunk."""
    rows = np.arange(start, start + len(D))
    never, pick, keep = (np.inf, np.min, np.minimum) if sign > 0 else (-np.inf, np.max, np.maximum)
    D[rows - start, rows] = never
    values = np.full((len(D), len(bounds) - 1), never)
    for concept, (first, last) in enumerate(pairwise(bounds)):
        block = D[:, first:last]
        best = pick(block, axis=1)
        bound = best + sign * space.noise(rows, np.maximum(best, 0.0))
        i, j = np.nonzero(sign * bound[:, np.newaxis] >= (block if sign > 0 else -block))
        i, j = i[i + start != j + first], j[i + start != j + first]
        keep.at(values[:, concept], i, space.between(rows[i], first + j, block[i, j]))
    return values


def sums_by_concept(X, codes, n_concepts, metric, *, bar=None):
    """Sum every row's distances to the rows of every concept: (n_rows, n_concepts)."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(n_concepts))
    space = RowDistances(X[order], metric, bar)

    def reduce(D, start):
        rows = np.arange(start, start + len(D))
        D[rows - start, rows] = 0.0
        return np.add.reduceat(space.finish(D, rows, np.arange(len(X))), starts, axis=1)

    result = np.empty((len(X), n_concepts))
    result[order] = np.concatenate(list(space.chunks(reduce)))
    return result


def sums_within_concept(X, codes, n_concepts, metric, *, bar=None):
    """Sum every row's distances to the rows of its own concept."""
    sums = np.empty(len(X))
    for concept in range(n_concepts):
        rows = np.flatnonzero(codes == concept)
        alike = np.zeros(len(rows), dtype=np.intp)
        sums[rows] = sums_by_concept(X[rows], alike, 1, metric, bar=bar)[:, 0]
    return sums


def nearest_rows(space, D, rows, k):
    """Rank the `k` nearest columns of every row of a chunk: (n_rows, k), nearest first.

    `D` is infinite for columns that are not candidates. Among ties, the lower column comes first.
    """
    bound = _bound_kth(D, k)
    # Ties with the k-th value are candidates, too, because the lower column comes first.
    bound = bound + space.noise(rows, bound) + 4 * tie_tolerance(bound, space.metric)
    i, columns = np.nonzero(bound[:, np.newaxis] >= D)
    distances = space.between(rows[i], columns, D[i, columns])
    order = np.lexsort((distances, i))
    i, columns, distances = i[order], columns[order], distances[order]
    apart = np.diff(distances) > tie_tolerance(distances[1:], space.metric)
    tied = np.concatenate([[0], np.cumsum(apart | (np.diff(i) > 0))])
    columns = columns[np.lexsort((columns, tied))]
    firsts = np.searchsorted(i, np.arange(len(D)))
    return columns[firsts[:, np.newaxis] + np.arange(k)]


def _bound_kth(D, k):
    """Compute a tight upper bound of the k-th smallest value of every row."""
    width = D.shape[1] // (16 * k)
    if width < 2:
        return np.partition(D, k - 1, axis=1)[:, k - 1]
    # The minima of blocks contain k values of the row, and there are fewer blocks than columns.
    blocks = D[:, : D.shape[1] // width * width].reshape(len(D), -1, width)
    bound = np.partition(blocks.min(axis=2), k - 1, axis=1)[:, k - 1]
    # Columns that are not candidates may fill whole blocks.
    open_rows = np.isinf(bound)
    bound[open_rows] = np.partition(D[open_rows], k - 1, axis=1)[:, k - 1]
    return bound
