"""How well the nearest embeddings of a query show the query's concept."""

from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._distances import RowDistances, nearest_rows, show_rows
from .._validation import average_concepts, check_embeddings, encode_concepts
from .._warnings import warn_user

_PARAMETERS = {
    "X": ["array-like"],
    "y": ["array-like"],
    "metric": [str, callable],
    "average": [StrOptions({"macro", "micro"}), None],
    "groups": ["array-like", None],
    "verbose": ["verbose"],
}
_PARAMETERS_AT_K = {**_PARAMETERS, "k": [Interval(Integral, 1, None, closed="left")]}


@validate_params(_PARAMETERS_AT_K, prefer_skip_nested_validation=True)
def precision_at_k(X, y, k=10, *, metric="cosine", average="macro", groups=None, verbose=0):
    """Share of a query's k nearest rows that show its concept.

    Every row is the query once, and is left out of its own ranking by index, so that its
    duplicates stay. This is what the paper prints as "mAP@k"; the measure usually called so is
    :func:`mean_average_precision_at_k`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    k : int, default=10
        Neighbors of a query, below n_samples; the paper reports 1, 5, 10, 20, 30 and 40.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances` but "precomputed", those for
        booleans, and "seuclidean" and "mahalanobis", which change with the rows compared.
        Distances that agree to 12 digits are ties, which go to the lower row number.
    average : {"macro", "micro", None}, default="macro"
        "macro": mean over concepts of the mean over their queries; "micro": mean over all
        queries; None: one value per concept.
    groups : array-like of shape (n_samples,), default=None
        Group of each row, such as its image or video sequence. Rows of a query's own group are left
        out of its ranking, since they may be nearly the same picture.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        Concepts come in the order of ``np.unique(y)``. A concept with m rows, m <= k, can't exceed
        ``(m - 1) / k``; a concept with one row has 0.0. With groups, a concept that only one group
        holds has nothing to find: NaN, left out of the averages, with a warning.

    Raises
    ------
    ValueError
        If k is not below the number of rows, or a query has fewer than k rows in other groups, or
        X, y and groups do not fit.

    Notes
    -----
    Retrieval as in Mikriukov, Schwalbe and Bade (IJCV 2025).

    Examples
    --------
    >>> from sklearn_loce.metrics import precision_at_k
    >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
    >>> precision_at_k(X, ["car", "car", "tree", "tree"], k=1)
    1.0
    """
    return _retrieve(X, y, groups, metric, average, _precision, k, verbose)


@validate_params(_PARAMETERS_AT_K, prefer_skip_nested_validation=True)
def mean_average_precision_at_k(
    X, y, k=10, *, metric="cosine", average="macro", groups=None, verbose=0
):
    """Mean average precision over the k nearest rows of each query (the standard definition).

    A query's average precision is the sum, over the ranks r <= k that hold a relevant row, of the
    precision among the r nearest, divided by ``min(R, k)`` with R relevant rows in all. A row is
    relevant where it shows the query's concept; the query itself is left out by index.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    k : int, default=10
        Neighbors of a query, below n_samples.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances` but "precomputed", those for
        booleans, and "seuclidean" and "mahalanobis", which change with the rows compared.
        Distances that agree to 12 digits are ties, which go to the lower row number.
    average : {"macro", "micro", None}, default="macro"
        "macro": mean over concepts of the mean over their queries; "micro": mean over all
        queries; None: one value per concept.
    groups : array-like of shape (n_samples,), default=None
        Group of each row, such as its image or video sequence. Rows of a query's own group are left
        out of its ranking, since they may be nearly the same picture.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        Concepts come in the order of ``np.unique(y)``. A concept with one row has no relevant row:
        NaN, left out of the averages (which are NaN where every concept has one row). With groups,
        the same holds for a concept that only one group holds, with a warning.

    Raises
    ------
    ValueError
        If k is not below the number of rows, or a query has fewer than k rows in other groups, or
        X, y and groups do not fit.

    Notes
    -----
    Manning, Raghavan and Schütze, *Introduction to Information Retrieval* (2008), section 8.4.

    Examples
    --------
    >>> from sklearn_loce.metrics import mean_average_precision_at_k
    >>> X = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]]
    >>> mean_average_precision_at_k(X, ["car", "tree", "car", "tree"], k=3, average=None)
    array([0.5       , 0.41666667])
    """
    return _retrieve(X, y, groups, metric, average, _average_precision, k, verbose)


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def r_precision(X, y, *, metric="cosine", average="macro", groups=None, verbose=0):
    """Share of a query's R nearest rows that show its concept, with R relevant rows in all.

    Every query is judged at the depth at which a perfect ranking would be complete, so concepts
    of different sizes compare.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances` but "precomputed", those for
        booleans, and "seuclidean" and "mahalanobis", which change with the rows compared.
        Distances that agree to 12 digits are ties, which go to the lower row number.
    average : {"macro", "micro", None}, default="macro"
        "macro": mean over concepts of the mean over their queries; "micro": mean over all
        queries; None: one value per concept.
    groups : array-like of shape (n_samples,), default=None
        Group of each row, such as its image or video sequence. Rows of a query's own group are left
        out of its ranking, since they may be nearly the same picture.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        Concepts come in the order of ``np.unique(y)``. A concept with one row has no relevant row:
        NaN, left out of the averages (which are NaN where every concept has one row). With groups,
        the same holds for a concept that only one group holds, with a warning.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or X, y and groups do not fit.

    Notes
    -----
    Manning, Raghavan and Schütze, *Introduction to Information Retrieval* (2008), section 8.4.

    Examples
    --------
    >>> from sklearn_loce.metrics import r_precision
    >>> X = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]]
    >>> r_precision(X, ["car", "tree", "car", "tree"])
    0.0
    """
    return _retrieve(X, y, groups, metric, average, _precision, None, verbose)


def _precision(relevant, n_relevant):
    """Share of relevant rows, for one ranking per row of `relevant`."""
    return relevant.mean(axis=1)


def _average_precision(relevant, n_relevant):
    """Average precision, for one ranking per row of `relevant`; NaN where nothing is relevant."""
    k = relevant.shape[1]
    precisions = np.cumsum(relevant, axis=1) / np.arange(1, k + 1)
    best = np.where(n_relevant > 0, np.minimum(n_relevant, k), np.nan)
    return (precisions * relevant).sum(axis=1) / best


def _retrieve(X, y, groups, metric, average, judge, k, verbose):
    """Average a judgment of every query's ranking, at depth `k` or at its relevant rows."""
    X, concepts, codes = check_embeddings(X, y)
    if len(X) < 2:
        raise ValueError("A query needs other rows to find, and X has 1; pass at least 2 rows.")
    if k is not None and k >= len(X):
        raise ValueError(
            f"k={k} neighbors of a query need at least {k + 1} rows, and X has {len(X)}; choose "
            "a smaller k or pass more rows."
        )
    # Without groups, a query leaves out itself alone.
    owners = np.arange(len(X)) if groups is None else _check_groups(groups, X, k)
    n_own = pd.Series(codes).groupby([codes, owners]).transform("size").to_numpy()
    n_relevant = np.bincount(codes)[codes] - n_own
    with show_rows(len(X), verbose) as bar:
        values = _judge_queries(RowDistances(X, metric, bar), codes, owners, n_relevant, judge, k)
    if groups is not None:
        values[n_relevant == 0] = np.nan
        _warn_of_lone_groups(concepts[np.unique(codes[n_relevant == 0])])
    if average == "micro":
        return average_concepts(values, "macro")
    means = [
        values[codes == code].mean() if np.isfinite(values[codes == code]).all() else np.nan
        for code in range(len(concepts))
    ]
    return average_concepts(np.array(means), average)


def _check_groups(groups, X, k):
    """Give the numbers of groups, each of which must leave its queries `k` rows of others."""
    names, owners = encode_concepts(groups, "groups")
    check_consistent_length(X, owners)
    left = len(X) - np.bincount(owners)
    fewest, needed = left.argmin(), k or 1
    if left[fewest] < needed:
        way_out = "choose a smaller k" if left[fewest] else "pass rows of more groups"
        raise ValueError(
            f"A query of the group {names[fewest]!r} has {left[fewest]} rows in other groups, and "
            f"needs {needed}; {way_out}."
        )
    return owners


def _warn_of_lone_groups(concepts):
    if len(concepts):
        warn_user(
            f"All rows of {', '.join(map(repr, concepts.tolist()))} are of one group each, so that "
            "there is nothing to find in others: NaN, left out of averages."
        )


def _judge_queries(space, codes, owners, n_relevant, judge, k):
    """Judge the ranking of every query, by the depth of rankings within a chunk of distances."""
    depths = n_relevant if k is None else np.full(len(codes), k)

    def reduce(D, start):
        queries = np.arange(start, start + len(D))
        D[owners[queries][:, np.newaxis] == owners] = np.inf
        values = np.full(len(D), np.nan)
        for depth in np.setdiff1d(depths[queries], 0):
            rows = queries[depths[queries] == depth]
            part = D if len(rows) == len(D) else D[rows - start]  # which is a large copy
            ranking = nearest_rows(space, part, rows, depth)
            relevant = codes[ranking] == codes[rows][:, np.newaxis]
            values[rows - start] = judge(relevant, n_relevant[rows])
        return values

    return np.concatenate(list(space.chunks(reduce)))
