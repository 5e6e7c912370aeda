"""How well the nearest embeddings of a query show the query's concept."""

from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._distances import RowDistances, nearest_rows, show_rows
from .._validation import average_concepts, check_embeddings, match_rows
from .._warnings import warn_user
from . import _exclusion
from ._exclusion import read_exclusion

_PARAMETERS = {
    "X": ["array-like"],
    "y": ["array-like"],
    "metric": [str, callable],
    "average": [StrOptions({"macro", "micro"}), None],
    **_exclusion.PARAMETERS,
    "verbose": ["verbose"],
}
_PARAMETERS_AT_K = {**_PARAMETERS, "k": [Interval(Integral, 1, None, closed="left")]}


@validate_params(_PARAMETERS_AT_K, prefer_skip_nested_validation=True)
def precision_at_k(
    X, y, k=10, *, metric="cosine", average="macro", groups=None, exclude=None, verbose=0
):
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
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of a query's own group are left
        out of its ranking, since they may be nearly the same picture. With `exclude`, what that
        compares.
    exclude : float or callable, default=None
        Which rows are left out of a query's ranking, instead of those of its group. A number is a
        window of frames: `groups` are frame numbers, or sequences and frame numbers in two columns,
        and rows of the query's sequence at most this far away are left out. A callable gets the
        groups of queries (n_queries, 1) and of candidates (1, n_candidates), with a last axis of
        columns where there are several, and gives booleans (n_queries, n_candidates), as
        ``lambda a, b: abs(a - b) <= 30``; it is called for blocks of queries.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        Concepts come in the order of ``np.unique(y)``. A concept with m rows, m <= k, can't exceed
        ``(m - 1) / k``, with a warning where no concept can reach 1; a concept with one row has
        0.0. With groups, a query has nothing to find where all rows of its concept are left out:
        NaN, left out of the averages, with a warning.

    Raises
    ------
    ValueError
        If k is not below the number of rows, or a query has fewer than k rows in other groups, or
        X, y and groups do not fit, or `exclude` does not fit the groups.

    See Also
    --------
    mean_average_precision_at_k : Precision that rewards early ranks.
    r_precision : Precision at the number of relevant rows.
    sklearn_loce.plotting.RetrievalDisplay : Draw queries and their neighbors.

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
    return _retrieve(X, y, (groups, exclude), metric, average, share_relevant, k, verbose)


@validate_params(_PARAMETERS_AT_K, prefer_skip_nested_validation=True)
def mean_average_precision_at_k(
    X, y, k=10, *, metric="cosine", average="macro", groups=None, exclude=None, verbose=0
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
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of a query's own group are left
        out of its ranking, since they may be nearly the same picture. With `exclude`, what that
        compares.
    exclude : float or callable, default=None
        Which rows are left out of a query's ranking, instead of those of its group. A number is a
        window of frames: `groups` are frame numbers, or sequences and frame numbers in two columns,
        and rows of the query's sequence at most this far away are left out. A callable gets the
        groups of queries (n_queries, 1) and of candidates (1, n_candidates), with a last axis of
        columns where there are several, and gives booleans (n_queries, n_candidates), as
        ``lambda a, b: abs(a - b) <= 30``; it is called for blocks of queries.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        Concepts come in the order of ``np.unique(y)``. A concept with one row has no relevant row:
        NaN, left out of the averages (which are NaN where every concept has one row). With groups,
        the same holds for a query whose concept's other rows are all left out, with a warning.

    Raises
    ------
    ValueError
        If k is not below the number of rows, or a query has fewer than k rows in other groups, or
        X, y and groups do not fit, or `exclude` does not fit the groups.

    See Also
    --------
    precision_at_k : Precision at a fixed depth.
    r_precision : Precision at the number of relevant rows.

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
    return _retrieve(X, y, (groups, exclude), metric, average, _average_precision, k, verbose)


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def r_precision(X, y, *, metric="cosine", average="macro", groups=None, exclude=None, verbose=0):
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
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of a query's own group are left
        out of its ranking, since they may be nearly the same picture. With `exclude`, what that
        compares.
    exclude : float or callable, default=None
        Which rows are left out of a query's ranking, instead of those of its group. A number is a
        window of frames: `groups` are frame numbers, or sequences and frame numbers in two columns,
        and rows of the query's sequence at most this far away are left out. A callable gets the
        groups of queries (n_queries, 1) and of candidates (1, n_candidates), with a last axis of
        columns where there are several, and gives booleans (n_queries, n_candidates), as
        ``lambda a, b: abs(a - b) <= 30``; it is called for blocks of queries.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        Concepts come in the order of ``np.unique(y)``. A concept with one row has no relevant row:
        NaN, left out of the averages (which are NaN where every concept has one row). With groups,
        the same holds for a query whose concept's other rows are all left out, with a warning.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or X, y and groups do not fit, or
        `exclude` does not fit the groups.

    See Also
    --------
    precision_at_k : Precision at a fixed depth.
    mean_average_precision_at_k : Precision that rewards early ranks.

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
    return _retrieve(X, y, (groups, exclude), metric, average, share_relevant, None, verbose)


def share_relevant(relevant, n_relevant):
    """Share of relevant rows, for one ranking per row of `relevant`."""
    return relevant.mean(axis=1)


def _average_precision(relevant, n_relevant):
    """Average precision, for one ranking per row of `relevant`; NaN where nothing is relevant."""
    k = relevant.shape[1]
    precisions = np.cumsum(relevant, axis=1) / np.arange(1, k + 1)
    best = np.where(n_relevant > 0, np.minimum(n_relevant, k), np.nan)
    return (precisions * relevant).sum(axis=1) / best


def _retrieve(X, y, excluded, metric, average, judge, k, verbose):
    """Average a judgment of every query's ranking, at depth `k` or at its relevant rows."""
    groups, exclude = excluded
    X, y, groups = match_rows(X=X, y=y, groups=groups)
    X, concepts, codes = check_embeddings(X, y)
    if len(X) < 2:
        raise ValueError("A query needs other rows to find, and X has 1; pass at least 2 rows.")
    exclusion = read_exclusion(len(X), groups, exclude)
    n_left, n_relevant = exclusion.count(codes)
    exclusion.check_candidates(n_left, k or 1)
    if judge is share_relevant and k is not None and k > n_relevant.max():
        warn_user(
            f"No query has more than {n_relevant.max()} rows of its concept to find, so that its "
            f"precision at k={k} can't reach 1; choose a smaller k."
        )
    depths = n_relevant if k is None else np.full(len(X), k)
    if groups is not None:
        depths = leave_out_lone_queries(depths, n_relevant, concepts, codes)
    with show_rows(len(X), verbose) as bar:
        space = RowDistances(X, metric, bar)
        values = judge_queries(space, codes, exclusion, depths, n_relevant, judge)
    if average == "micro":
        return average_concepts(values, "macro")
    return average_concepts(average_queries(values, codes, len(concepts)), average)


def leave_out_lone_queries(depths, n_relevant, concepts, codes):
    """Set the depth of queries with nothing to find to 0, with a warning.

    Where groups are left out, precision 0 of such a query would be a made-up value.
    """
    lone = n_relevant == 0
    if lone.any():
        names = ", ".join(map(repr, concepts[np.unique(codes[lone])].tolist()))
        warn_user(
            f"{lone.sum()} queries have nothing to find, as all other rows of their concept are of "
            f"their group or excluded: rows of {names}. NaN, left out of averages."
        )
    return np.where(lone, 0, depths)


def judge_queries(space, codes, exclusion, depths, n_relevant, judge, shape=()):
    """Judge the ranking of every query down to its depth, by values of `shape`; NaN at depth 0."""
    values = np.full((len(codes), *shape), np.nan)

    def use(rows, ranking, _):
        values[rows] = judge(codes[ranking] == codes[rows][:, np.newaxis], n_relevant[rows])

    rank_candidates(space, exclusion, depths, use)
    return values


def average_queries(values, codes, n_concepts):
    """Average over the queries of each concept, NaN left out: (n_concepts,)."""
    return np.array(
        [average_concepts(values[codes == code], "macro") for code in range(n_concepts)]
    )


def rank_candidates(space, exclusion, depths, use):
    """Call ``use(rows, ranking, held)`` with the nearest candidates of all rows, chunk by chunk.

    Rows of a chunk come by their depth; `held` are distances as `space` holds them.
    """

    def reduce(D, start):
        queries = np.arange(start, start + len(D))
        for part, mask in exclusion.masks(queries):
            D[part][mask] = np.inf
        for depth in np.setdiff1d(depths[queries], 0):
            rows = queries[depths[queries] == depth]
            part = D if len(rows) == len(D) else D[rows - start]  # which is a large copy
            ranking = nearest_rows(space, part, rows, depth)
            use(rows, ranking, np.take_along_axis(part, ranking, axis=1))

    for _ in space.chunks(reduce):
        pass
