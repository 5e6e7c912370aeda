"""Retrieval: measures of how often the nearest embeddings show the concept of a query."""

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
    """Compute the share of a query's k nearest rows that show its concept.

    Every row is the query once. It is excluded from its own ranking by index, so duplicates stay.
    The paper calls this measure "mAP@k". The measure that usually has this name is
    :func:`mean_average_precision_at_k`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    k : int, default=10
        Number of neighbors of a query, below n_samples. The paper reports 1, 5, 10, 20, 30 and 40.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
        Distances that agree to 12 digits are ties; the lower row number comes first.
    average : {"macro", "micro", None}, default="macro"
        "macro" averages over the queries of each concept, and then over concepts. "micro" averages
        over all queries. None returns one value per concept.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of the query's own group are
        excluded from its ranking, because they may be nearly the same picture. With `exclude`, the
        values that it compares.
    exclude : float or callable, default=None
        Rule that replaces the comparison of groups. A number is a window of frames. Then `groups`
        contains frame numbers, or sequences and frame numbers in two columns. Rows of the query's
        sequence within this window are excluded. A callable such as ``lambda a, b: abs(a - b) <=
        30`` is called for blocks of queries. Its arguments are the groups of queries (n_queries, 1)
        and candidates (1, n_candidates), with a last axis if there are several columns. It returns
        booleans (n_queries, n_candidates).
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        The precision; concepts in the order of ``np.unique(y)``. A concept with m <= k rows has a
        precision of at most ``(m - 1) / k``. You get a warning if no concept can reach 1. A concept
        with one row has 0.0. With groups, a query is NaN if all other rows of its concept are
        excluded. It does not enter averages, and you get a warning.

    Raises
    ------
    ValueError
        If k is not below the number of rows, a query has fewer than k rows in other groups, X, y
        and groups differ in length, or `exclude` does not match the groups.

    See Also
    --------
    mean_average_precision_at_k : Precision that rewards early ranks.
    r_precision : Precision at the number of relevant rows.
    sklearn_loce.plotting.RetrievalDisplay : Draw queries and their neighbors.

    Notes
    -----
    This is the retrieval of Mikriukov, Schwalbe and Bade (IJCV 2025).

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
    """Compute the mean average precision over the k nearest rows of each query.

    This is the standard definition. A row is relevant if it shows the query's concept. The query
    itself is excluded by index. The average precision of a query sums the precision among its r
    nearest rows over all ranks r <= k of relevant rows. The sum is divided by ``min(R, k)``, where
    R is the number of relevant rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    k : int, default=10
        Number of neighbors of a query, below n_samples.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
        Distances that agree to 12 digits are ties; the lower row number comes first.
    average : {"macro", "micro", None}, default="macro"
        "macro" averages over the queries of each concept, and then over concepts. "micro" averages
        over all queries. None returns one value per concept.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of the query's own group are
        excluded from its ranking, because they may be nearly the same picture. With `exclude`, the
        values that it compares.
    exclude : float or callable, default=None
        Rule that replaces the comparison of groups. A number is a window of frames. Then `groups`
        contains frame numbers, or sequences and frame numbers in two columns. Rows of the query's
        sequence within this window are excluded. A callable such as ``lambda a, b: abs(a - b) <=
        30`` is called for blocks of queries. Its arguments are the groups of queries (n_queries, 1)
        and candidates (1, n_candidates), with a last axis if there are several columns. It returns
        booleans (n_queries, n_candidates).
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        The score; concepts in the order of ``np.unique(y)``. A concept with one row has no relevant
        row, so its value is NaN and does not enter averages. If all concepts have one row, averages
        are NaN. With groups, the same is true for a query if all other rows of its concept are
        excluded; you get a warning.

    Raises
    ------
    ValueError
        If k is not below the number of rows, a query has fewer than k rows in other groups, X, y
        and groups differ in length, or `exclude` does not match the groups.

    See Also
    --------
    precision_at_k : Precision at a fixed depth.
    r_precision : Precision at the number of relevant rows.

    Notes
    -----
    The definition is that of Manning, Raghavan and Schütze, *Introduction to Information Retrieval*
    (2008), section 8.4.

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
    """Compute the share of a query's R nearest rows that show its concept, of R relevant rows.

    At this depth, a perfect ranking would be complete. So concepts of different sizes are
    comparable.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Concept of each row.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
        Distances that agree to 12 digits are ties; the lower row number comes first.
    average : {"macro", "micro", None}, default="macro"
        "macro" averages over the queries of each concept, and then over concepts. "micro" averages
        over all queries. None returns one value per concept.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of the query's own group are
        excluded from its ranking, because they may be nearly the same picture. With `exclude`, the
        values that it compares.
    exclude : float or callable, default=None
        Rule that replaces the comparison of groups. A number is a window of frames. Then `groups`
        contains frame numbers, or sequences and frame numbers in two columns. Rows of the query's
        sequence within this window are excluded. A callable such as ``lambda a, b: abs(a - b) <=
        30`` is called for blocks of queries. Its arguments are the groups of queries (n_queries, 1)
        and candidates (1, n_candidates), with a last axis if there are several columns. It returns
        booleans (n_queries, n_candidates).
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Returns
    -------
    float or ndarray of shape (n_concepts,), dtype float64
        The score; concepts in the order of ``np.unique(y)``. A concept with one row has no relevant
        row, so its value is NaN and does not enter averages. If all concepts have one row, averages
        are NaN. With groups, the same is true for a query if all other rows of its concept are
        excluded; you get a warning.

    Raises
    ------
    ValueError
        If there are fewer than two rows, X, y and groups differ in length, or `exclude` does not
        match the groups.

    See Also
    --------
    precision_at_k : Precision at a fixed depth.
    mean_average_precision_at_k : Precision that rewards early ranks.

    Notes
    -----
    The definition is that of Manning, Raghavan and Schütze, *Introduction to Information Retrieval*
    (2008), section 8.4.

    Examples
    --------
    >>> from sklearn_loce.metrics import r_precision
    >>> X = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]]
    >>> r_precision(X, ["car", "tree", "car", "tree"])
    0.0
    """
    return _retrieve(X, y, (groups, exclude), metric, average, share_relevant, None, verbose)


def share_relevant(relevant, n_relevant):
    """Compute the share of relevant rows, for one ranking per row of `relevant`."""
    return relevant.mean(axis=1)


def _average_precision(relevant, n_relevant):
    """Compute the average precision of each ranking; NaN without relevant rows."""
    k = relevant.shape[1]
    precisions = np.cumsum(relevant, axis=1) / np.arange(1, k + 1)
    best = np.where(n_relevant > 0, np.minimum(n_relevant, k), np.nan)
    return (precisions * relevant).sum(axis=1) / best


def _retrieve(X, y, excluded, metric, average, judge, k, verbose):
    """Judge the ranking of every query at depth `k` or at its relevant rows, and average."""
    groups, exclude = excluded
    X, y, groups = match_rows(X=X, y=y, groups=groups)
    X, concepts, codes = check_embeddings(X, y)
    if len(X) < 2:
        raise ValueError("A query needs other rows to find, but X has 1; pass at least 2 rows.")
    exclusion = read_exclusion(len(X), groups, exclude)
    n_left, n_relevant = exclusion.count(codes)
    exclusion.check_candidates(n_left, k or 1)
    if judge is share_relevant and k is not None and k > n_relevant.max():
        warn_user(
            f"No query has more than {n_relevant.max()} rows of its concept to find, so precision "
            f"at k={k} can't reach 1; choose a smaller k."
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
    """Set the depth of queries without relevant rows to 0, with a warning.

    With groups, a precision of 0 would be misleading, because it depends on the exclusion.
    """
    lone = n_relevant == 0
    if lone.any():
        names = ", ".join(map(repr, concepts[np.unique(codes[lone])].tolist()))
        warn_user(
            f"{lone.sum()} queries have nothing to find, because all other rows of their concept "
            f"belong to their group or are excluded: rows of {names}. They are NaN and do not "
            "enter averages."
        )
    return np.where(lone, 0, depths)


def judge_queries(space, codes, exclusion, depths, n_relevant, judge, shape=()):
    """Judge the ranking of every query to its depth, by values of `shape`; NaN at depth 0."""
    values = np.full((len(codes), *shape), np.nan)

    def use(rows, ranking, _):
        values[rows] = judge(codes[ranking] == codes[rows][:, np.newaxis], n_relevant[rows])

    rank_candidates(space, exclusion, depths, use)
    return values


def average_queries(values, codes, n_concepts):
    """Average over the queries of each concept without NaN: (n_concepts,)."""
    return np.array(
        [average_concepts(values[codes == code], "macro") for code in range(n_concepts)]
    )


def rank_candidates(space, exclusion, depths, use):
    """Call ``use(rows, ranking, held)`` with the nearest candidates of all rows, chunk by chunk.

    Rows of a chunk are sorted by their depth. `held` are distances in the units of chunks.
    """

    def reduce(D, start):
        queries = np.arange(start, start + len(D))
        for part, mask in exclusion.masks(queries):
            D[part][mask] = np.inf
        for depth in np.setdiff1d(depths[queries], 0):
            rows = queries[depths[queries] == depth]
            part = D if len(rows) == len(D) else D[rows - start]  # a large copy
            ranking = nearest_rows(space, part, rows, depth)
            use(rows, ranking, np.take_along_axis(part, ranking, axis=1))

    for _ in space.chunks(reduce):
        pass
