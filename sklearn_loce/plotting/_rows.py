"""The rows that a display is made from: embeddings, and the concept of each."""

import numpy as np
from sklearn.utils import check_array, check_consistent_length

from .._validation import match_rows, uniform_labels
from ..metrics._scorers import Responses


def embed(estimator, X, **columns):
    """Transform rows by a fitted transformer, or by what stands before a pipeline's clusterer.

    Parameters
    ----------
    estimator : estimator
        Fitted transformer, Pipeline or search, as the scorers take it. A clusterer or mixture
        alone leaves the rows as they are.
    X : array-like or DataFrame
        Rows as the estimator takes them.
    **columns : array-like of n_samples rows, or None
        What else there is of each row, by name.

    Returns
    -------
    embeddings : ndarray or DataFrame of shape (n_samples, n_features)
    *columns : array-like of n_samples rows, or None
        In the order of X.

    Raises
    ------
    TypeError
        If the estimator makes no embeddings.
    ValueError
        If rows can't be matched.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_loce.plotting._rows import embed
    >>> X = [[0.0], [2.0]]
    >>> embeddings, y = embed(StandardScaler().fit(X), X, y=["car", "bus"])
    >>> embeddings.tolist()
    [[-1.0], [1.0]]
    """
    X, *columns = match_rows(X=X, **columns)
    return Responses(estimator, X).embeddings, *columns


def last_step(estimator):
    """Take the last step of a Pipeline, or of the best one that a search found.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    estimator

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import Normalizer, StandardScaler
    >>> from sklearn_loce.plotting._rows import last_step
    >>> last_step(make_pipeline(StandardScaler(), Normalizer()))
    Normalizer()
    """
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def finite_rows(X, y=None):
    """Leave out the rows whose LoCE failed.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. A row that is not finite is a failed one.
    y : array-like of shape (n_samples,), default=None
        Concept of each row.

    Returns
    -------
    X : ndarray of shape (n_finite, n_features), dtype float64
    y : ndarray of shape (n_finite,), or None
    kept : ndarray of shape (n_finite,), dtype intp
        Positions of these rows.
    n_failed : int

    Raises
    ------
    ValueError
        If lengths differ, rows can't be matched, labels are missing or mix types, or no row is
        finite.

    Examples
    --------
    >>> from sklearn_loce.plotting._rows import finite_rows
    >>> finite_rows([[1.0], [float("nan")]], ["car", "bus"])
    (array([[1.]]), array(['car'], dtype='<U3'), array([0]), 1)
    """
    X, y = match_rows(X=X, y=y)
    X = check_array(X, dtype=np.float64, ensure_all_finite=False, input_name="X")
    y = None if y is None else uniform_labels(y)
    check_consistent_length(X, y)
    kept = np.flatnonzero(np.isfinite(X).all(axis=1))
    if not kept.size:
        raise ValueError(
            f"None of the {len(X)} rows of X is finite: all their LoCEs failed; choose another "
            "layer, or see evaluate(X) for the causes."
        )
    return X[kept], None if y is None else y[kept], kept, len(X) - len(kept)
