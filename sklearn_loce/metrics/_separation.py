"""Separation and overlap of concepts in an embedding space."""

from itertools import combinations
from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from tqdm.auto import tqdm

from .._distances import (
    RowDistances,
    extremes_by_concept,
    show_rows,
    sums_by_concept,
    sums_within_concept,
    tie_tolerance,
)
from .._validation import average_concepts, check_embeddings
from ._quantiles import quantile_between, quantile_within

# The published code adds this to the largest distance, to avoid a division by zero.
REFERENCE_EPSILON = 1e-6

_PARAMETERS = {
    "X": ["array-like"],
    "y": ["array-like"],
    "metric": [str, callable],
    "verbose": ["verbose"],
}
_QUANTILE = {"quantile": [Interval(Real, 0, 1, closed="left")]}


@validate_params(
    {**_PARAMETERS, **_QUANTILE, "average": [StrOptions({"macro"}), None]},
    prefer_skip_nested_validation=True,
)
def category_separation(X, y, *, metric="euclidean", quantile=0.0, average="macro", verbose=0):
    """Compute the distance of a concept to the nearest other concept, relative to its spread.

    The separation of a concept is the ratio of two distances: the smallest distance from one of its
    rows to a foreign row, and the mean distance between two of its own rows. If it exceeds 1, all
    foreign rows are farther away than the average row of the concept.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row; at least two concepts.
    metric : str or callable, default="euclidean"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
    quantile : float in [0, 1), default=0.0
        Numerator of the ratio: this quantile of the distances between rows of the concept and
        foreign rows. With 0.0, the minimum of the published code, one outlier decides the result.
        With 0.05, outliers of up to about one row in twenty do not matter.
    average : {"macro", None}, default="macro"
        Whether to average over concepts. None returns one value per concept.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows, or over the concepts with a `quantile`.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        The separation; concepts in the order of ``np.unique(y)``. A concept with one row has no
        spread, so its value is NaN and does not enter the mean. If all concepts have one row, the
        mean is NaN. If all rows of a concept coincide, its value is infinite, or 0.0 if a foreign
        row coincides with them.

    Raises
    ------
    ValueError
        If there are fewer than two concepts, or X and y differ in length.

    See Also
    --------
    pairwise_separation : Separation of each pair of concepts.
    overlap_ratio : Share of rows that lie nearer to another concept.

    Notes
    -----
    With ``quantile=0``, this is the "category separation" of Mikriukov, Schwalbe and Bade (IJCV
    2025).

    Examples
    --------
    >>> from sklearn_loce.metrics import category_separation
    >>> X = [[0.0], [1.0], [4.0], [5.0]]
    >>> y = ["car", "car", "bus", "bus"]
    >>> category_separation(X, y)
    3.0
    """
    X, concepts, codes = check_embeddings(X, y, min_concepts=2)
    with show_rows(len(X), verbose) as bar:
        spread = _mean_within(X, codes, len(concepts), metric, bar)
    if quantile == 0:
        with show_rows(len(X), verbose) as bar:
            nearest = extremes_by_concept(X, codes, len(concepts), metric, bar=bar)
        nearest[np.arange(len(X)), codes] = np.inf
        gaps = [nearest[codes == code].min() for code in range(len(concepts))]
    else:
        space = RowDistances(X, metric)
        gaps = [
            quantile_between(
                space, np.flatnonzero(codes == a), np.flatnonzero(codes != a), quantile
            )
            for a in tqdm(range(len(concepts)), unit="concept", disable=not verbose)
        ]
    return average_concepts(_ratio(np.array(gaps), spread), average)


def _mean_within(X, codes, n_concepts, metric, bar):
    """Average the distances between two rows of each concept; NaN for a concept with one row."""
    counts = np.bincount(codes)
    sums = sums_within_concept(X, codes, n_concepts, metric, bar=bar)
    totals = np.bincount(codes, weights=sums)
    pairs = np.where(counts > 1, counts * (counts - 1), 1)
    return np.where(counts > 1, totals / pairs, np.nan)


def _ratio(above, below):
    """Divide, with 0 / 0 = 0 and x / 0 = inf."""
    limits = np.where(above > 0, np.inf, 0.0)
    return np.divide(above, below, out=limits, where=below != 0)


@validate_params({**_PARAMETERS, **_QUANTILE}, prefer_skip_nested_validation=True)
def pairwise_separation(X, y, *, metric="euclidean", quantile=0.0, verbose=0):
    """Compute the smallest distance of two concepts, relative to the largest in their union.

    For concepts A and B, this is ``min d(i in A, j in B) / (max d(i, j in A or B) + 1e-6)``.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row; at least two concepts.
    metric : str or callable, default="euclidean"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
    quantile : float in [0, 1), default=0.0
        This quantile of the distances between A and B is divided by the ``1 - quantile`` quantile
        of all distances in the union. With 0.0, the minimum and maximum of the published code, one
        outlier decides the result. With 0.05, outliers of up to about one row in twenty do not
        matter.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows, or over pairs of concepts with a
        `quantile`.

    Returns
    -------
    ndarray of shape (n_concepts, n_concepts), dtype float64
        Symmetric matrix with a diagonal of 0; concepts in the order of ``np.unique(y)``. With
        ``quantile=0``, values are in [0, 1).

    Raises
    ------
    ValueError
        If there are fewer than two concepts, or X and y differ in length.

    See Also
    --------
    pairwise_silhouette : A separation in which all rows count.
    sklearn_loce.plotting.SeparationDisplay : Draw the matrix.

    Notes
    -----
    With ``quantile=0``, this is the separation matrix of Mikriukov, Schwalbe and Bade (IJCV 2025).

    Examples
    --------
    >>> from sklearn_loce.metrics import pairwise_separation
    >>> X = [[0.0], [1.0], [4.0], [5.0]]
    >>> pairwise_separation(X, ["car", "car", "bus", "bus"]).round(3)
    array([[0. , 0.6],
           [0.6, 0. ]])
    """
    X, concepts, codes = check_embeddings(X, y, min_concepts=2)
    if quantile == 0:
        gaps, widths = _extremes(X, codes, len(concepts), metric, verbose)
    else:
        gaps, widths = _quantiles(X, codes, len(concepts), metric, quantile, verbose)
    matrix = gaps / (widths + REFERENCE_EPSILON)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def _extremes(X, codes, n_concepts, metric, verbose):
    """Find the smallest distance between two concepts, and the largest in their union."""
    with show_rows(len(X), verbose) as bar:
        nearest, farthest = extremes_by_concept(
            X, codes, n_concepts, metric, farthest=True, bar=bar
        )
    gaps, widths = np.full((2, n_concepts, n_concepts), np.inf)
    np.minimum.at(gaps, codes, nearest)
    widths *= -1
    np.maximum.at(widths, codes, farthest)
    # A row without others of its concept has no distance inside it.
    inside = np.maximum(widths.diagonal(), 0.0)
    np.fill_diagonal(gaps, 0.0)
    return gaps, np.maximum(widths, np.maximum.outer(inside, inside))


def _quantiles(X, codes, n_concepts, metric, quantile, verbose):
    """Compute a lower quantile of distances between two concepts, an upper one in their union."""
    space = RowDistances(X, metric)
    gaps, widths = np.zeros((2, n_concepts, n_concepts))
    pairs = list(combinations(range(n_concepts), 2))
    for a, b in tqdm(pairs, unit="pair", disable=not verbose):
        rows = [np.flatnonzero(codes == code) for code in (a, b)]
        gaps[a, b] = gaps[b, a] = quantile_between(space, *rows, quantile)
        union = np.sort(np.concatenate(rows))
        widths[a, b] = widths[b, a] = quantile_within(space, union, 1 - quantile)
    return gaps, widths


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def overlap_ratio(X, y, *, metric="euclidean", verbose=0):
    """Compute the share of a concept's rows that are closer to another concept.

    Entry (A, B) is the share of rows of A whose nearest row of B is strictly closer than their
    nearest other row of A. The row itself is excluded by its index, so duplicates count.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row; at least two concepts.
    metric : str or callable, default="euclidean"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Returns
    -------
    ndarray of shape (n_concepts, n_concepts), dtype float64
        Rows are the concepts A, and columns the concepts B, in the order of ``np.unique(y)``. The
        matrix is not symmetric, and its diagonal is 0. If concept A has a single row, its entries
        are NaN off the diagonal.

    Raises
    ------
    ValueError
        If there are fewer than two concepts, or X and y differ in length.

    See Also
    --------
    confused_concepts : Pairs of concepts, ranked by overlap.
    sklearn_loce.plotting.OverlapDisplay : Draw the matrix.

    Notes
    -----
    This is the overlap ratio ("A poisoned by B") of Mikriukov, Schwalbe and Bade (IJCV 2025).

    Examples
    --------
    >>> from sklearn_loce.metrics import overlap_ratio
    >>> X = [[0.0], [1.0], [4.0], [1.5], [9.0]]
    >>> overlap_ratio(X, ["car", "car", "car", "truck", "truck"]).round(3)
    array([[0.   , 0.667],
           [1.   , 0.   ]])
    """
    X, concepts, codes = check_embeddings(X, y, min_concepts=2)
    with show_rows(len(X), verbose) as bar:
        nearest = extremes_by_concept(X, codes, len(concepts), metric, bar=bar)
    own = nearest[np.arange(len(X)), codes]
    counts = np.bincount(codes)
    closer = np.zeros((len(concepts), len(concepts)))
    # Nearest rows at the same distance are ties, also after rounding.
    ties = tie_tolerance(np.where(np.isfinite(own), own, 0.0), metric)
    np.add.at(closer, codes, nearest < (own - ties)[:, np.newaxis])
    matrix = np.where(counts > 1, 1.0, np.nan)[:, np.newaxis] * closer / counts[:, np.newaxis]
    np.fill_diagonal(matrix, 0.0)
    return matrix


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def pairwise_silhouette(X, y, *, metric="euclidean", verbose=0):
    """Compute the mean silhouette of each pair of concepts, without the other concepts.

    All rows have equal influence. In :func:`pairwise_separation`, one pair of rows decides the
    result.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row; at least two concepts.
    metric : str or callable, default="euclidean"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Returns
    -------
    ndarray of shape (n_concepts, n_concepts), dtype float64
        Symmetric matrix in [-1, 1] with a diagonal of 0; concepts in the order of
        ``np.unique(y)``. As in scikit-learn, the silhouette of a row is 0 if it is the only row of
        its concept, or if its distances are all 0.

    Raises
    ------
    ValueError
        If there are fewer than two concepts, or X and y differ in length.

    See Also
    --------
    sklearn.metrics.silhouette_score : The silhouette of all concepts together.
    pairwise_separation : The gap between two concepts.

    Notes
    -----
    This is the silhouette of Rousseeuw (1987), computed on the rows of two concepts.

    Examples
    --------
    >>> from sklearn_loce.metrics import pairwise_silhouette
    >>> X = [[0.0], [1.0], [4.0], [5.0]]
    >>> pairwise_silhouette(X, ["car", "car", "bus", "bus"]).round(3)
    array([[0.   , 0.746],
           [0.746, 0.   ]])
    """
    X, concepts, codes = check_embeddings(X, y, min_concepts=2)
    with show_rows(len(X), verbose) as bar:
        sums = sums_by_concept(X, codes, len(concepts), metric, bar=bar)
    counts = np.bincount(codes)
    own = sums[np.arange(len(X)), codes] / np.maximum(counts[codes] - 1, 1)
    means = sums / counts
    larger = np.maximum(means, own[:, np.newaxis])
    silhouettes = np.divide(
        means - own[:, np.newaxis], larger, out=np.zeros_like(means), where=larger > 0
    )
    silhouettes[counts[codes] == 1] = 0.0
    totals = np.zeros((len(concepts), len(concepts)))
    np.add.at(totals, codes, silhouettes)
    matrix = (totals + totals.T) / (counts[:, np.newaxis] + counts)
    np.fill_diagonal(matrix, 0.0)
    return matrix
