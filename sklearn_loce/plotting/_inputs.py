"""What displays of images ask of embeddings, tables and concepts."""

import numpy as np
from sklearn.utils.validation import check_array

from .._samples.table import as_samples
from .._validation import match_rows, uniform_labels


def check_inputs(embeddings, samples, y, **columns):
    """Check that embeddings, table and concepts are of the same rows, and match them.

    Parameters
    ----------
    embeddings : array-like of shape (n_samples, n_features)
        A row that is not finite is one that failed.
    samples : DataFrame or list of (image, mask) pairs
    y : array-like of shape (n_samples,) or None
        None takes the column ``concept`` of the table.
    **columns : array-like of n_samples rows, or None
        What else there is of each row, by name.

    Returns
    -------
    embeddings : ndarray of shape (n_samples, n_features), dtype float64
        All is in the order of the embeddings.
    samples : DataFrame
    names : ndarray of shape (n_samples,), or None
        Concepts.
    kept : ndarray of shape (n_finite,), dtype intp
        Positions of the rows that did not fail.
    *columns : array-like of n_samples rows, or None

    Raises
    ------
    ValueError, TypeError
        If lengths differ, rows can't be matched, every row failed, or the table or the concepts are
        unusable.
    """
    samples = as_samples(samples)
    given = {"embeddings": embeddings, "samples": samples, "y": y, **columns}
    embeddings, samples, y, *found = match_rows(**given)
    X = check_array(embeddings, dtype=np.float64, ensure_all_finite=False, input_name="embeddings")
    check_lengths(len(samples), embeddings=X, **columns)
    kept = np.flatnonzero(np.isfinite(X).all(axis=1))
    if not kept.size:
        raise ValueError(
            f"None of the {len(X)} rows of the embeddings is finite: all of them failed; see "
            "evaluate(X) of the transformer for the causes."
        )
    return X, samples, concept_names(y, samples), kept, *found


def concept_names(y, samples):
    """Give the concept of each row, or None where none is known.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or None
        None takes the column ``concept`` of the table.
    samples : DataFrame

    Returns
    -------
    ndarray of shape (n_samples,), or None

    Raises
    ------
    ValueError
        If the lengths differ, or concepts are missing or mix types.
    """
    if y is None:
        if "concept" not in samples:
            return None
        y = samples["concept"]
    check_lengths(len(samples), y=y)
    return uniform_labels(y)


def check_lengths(n_samples, **columns):
    """Raise unless columns have one value per sample.

    Parameters
    ----------
    n_samples : int
    **columns : sized
        By name; None is passed over.

    Raises
    ------
    ValueError
        If a length differs.
    """
    for name, column in columns.items():
        if column is not None and len(column) != n_samples:
            raise ValueError(
                f"{name} has {len(column)} row(s), and the table of samples has {n_samples}; pass "
                "the same rows of both."
            )


def choose(values, known, name):
    """Give the values of a parameter that chooses among those known; all of them for None.

    Parameters
    ----------
    values : array-like or None
    known : list
    name : str
        Of the parameter, as "clusters".

    Returns
    -------
    list

    Raises
    ------
    ValueError
        If a value is unknown, or there is none.
    """
    if values is None:
        return known
    values = np.asarray(values).ravel().tolist()
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        which = f"holds {unknown[0]!r}" if unknown else "is empty"
        raise ValueError(f"{name} {which}, and those with rows to show are {known}.")
    return values
