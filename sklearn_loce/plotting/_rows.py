"""Embeddings and concepts of the rows of a display."""

import numpy as np
from sklearn.utils import check_array, check_consistent_length

from .._validation import match_rows, uniform_labels
from ..metrics._scorers import Responses


def embed(estimator, X, **columns):
    """Transform rows by a fitted transformer, or by a Pipeline without its final clusterer.

    Parameters
    ----------
    estimator : estimator
        Fitted transformer, Pipeline or search, as in scorers. A clusterer or mixture alone returns
        the rows unchanged.
    X : array-like or DataFrame
        Rows as the estimator takes them.
    **columns : array-like of n_samples rows, or None
        Further values of each row, by name.

    Returns
    -------
    embeddings : ndarray or DataFrame of shape (n_samples, n_features)
    *columns : array-like of n_samples rows, or None
        Values in the order of X.

    Raises
    ------
    TypeError
        If the estimator cannot transform rows.
    ValueError
        If rows cannot be matched.

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
    """Return the last step of a Pipeline, or of the best Pipeline of a search.

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
    """Remove the rows whose LoCE failed.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. Rows that failed are not finite.
    y : array-like of shape (n_samples,), default=None
        Concept of each row.

    Returns
    -------
    X : ndarray of shape (n_finite, n_features), dtype float64
    y : ndarray of shape (n_finite,), or None
    kept : ndarray of shape (n_finite,), dtype intp
        Positions of the finite rows.
    n_failed : int

    Raises
    ------
    ValueError
        If lengths differ, rows cannot be matched, labels are missing or of mixed types, or no row
        is finite.

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
            "layer, or call evaluate(X) to see the causes."
        )
    return X[kept], None if y is None else y[kept], kept, len(X) - len(kept)
