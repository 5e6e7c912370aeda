"""The rows that a display is made from: embeddings, and the concept of each."""

import numpy as np
from sklearn.utils import check_array, check_consistent_length

from .._validation import uniform_labels
from ..metrics._scorers import Responses


def embed(estimator, X):
    """Transform rows by a fitted transformer, or by what stands before a pipeline's clusterer.

    Parameters
    ----------
    estimator : estimator
        Fitted transformer, Pipeline or search, as the scorers take it. A clusterer or mixture
        alone leaves the rows as they are.
    X : array-like or DataFrame
        Rows as the estimator takes them.

    Returns
    -------
    ndarray or DataFrame of shape (n_samples, n_features)

    Raises
    ------
    TypeError
        If the estimator makes no embeddings.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_loce.plotting._rows import embed
    >>> X = [[0.0], [2.0]]
    >>> embed(StandardScaler().fit(X), X).tolist()
    [[-1.0], [1.0]]
    """
    return Responses(estimator, X).embeddings


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


def finite_rows(X, *columns):
    """Leave out the rows whose LoCE failed.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. A row that is not finite is a failed one.
    *columns : array-like of shape (n_samples,)
        What else there is of each row, such as its concept.

    Returns
    -------
    X : ndarray of shape (n_finite, n_features), dtype float64
    *columns : ndarray of shape (n_finite,)
    n_failed : int

    Raises
    ------
    ValueError
        If lengths differ, labels are missing or mix types, or no row is finite.

    Examples
    --------
    >>> from sklearn_loce.plotting._rows import finite_rows
    >>> finite_rows([[1.0], [float("nan")]], ["car", "bus"])
    (array([[1.]]), array(['car'], dtype='<U3'), 1)
    """
    X = check_array(X, dtype=np.float64, ensure_all_finite=False, input_name="X")
    columns = [uniform_labels(column) for column in columns]
    check_consistent_length(X, *columns)
    finite = np.isfinite(X).all(axis=1)
    if not finite.any():
        raise ValueError(
            f"None of the {len(X)} rows of X is finite: all their LoCEs failed; choose another "
            "layer, or see evaluate(X) for the causes."
        )
    return X[finite], *(column[finite] for column in columns), int((~finite).sum())
