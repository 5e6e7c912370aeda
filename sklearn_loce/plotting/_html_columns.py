"""Further columns of the concept map in the browser."""

import os
from numbers import Real

import numpy as np
import pandas as pd

from .._samples.table import ANNOTATION, cell_values, is_missing
from ._html_page import as_text, mark_styles, rounded

_SHOWN_ANYWAY = ("image", "mask", "concept", "image_id")
_MOST_LETTERS = 200  # of a row on average, unless a column is requested by name
_DIGITS = 6


def describe_columns(samples, columns=None):
    """Encode further columns as numbers or texts, annotation ids first.

    Parameters
    ----------
    samples : DataFrame
    columns : list of str, default=None
        See :func:`to_html`.

    Returns
    -------
    list of dict
        The ``name`` of each column, with its numbers as ``values`` (None if missing), or with its
        distinct texts as ``names``, their ``styles`` and the ``codes`` of rows.

    Raises
    ------
    ValueError
        If a column is missing or cannot be written as text.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_loce.plotting._html_columns import describe_columns
    >>> table = pd.DataFrame({"annotation_id": [(7, 9), (8,), (8,)], "score": [0.5, None, 1]})
    >>> ids, scores = describe_columns(table)
    >>> ids["codes"], ids["names"]
    ([0, 1, 1], ['7, 9', '8'])
    >>> scores
    {'name': 'score', 'values': [0.5, None, 1.0]}
    """
    known = {name: column for name, column in samples.items() if name not in _SHOWN_ANYWAY}
    if columns is None:
        most = dict.fromkeys(known, _MOST_LETTERS) | {ANNOTATION: np.inf}
        written = {name: _write_column(column, most[name]) for name, column in known.items()}
        first = sorted(written, key=lambda name: name != ANNOTATION)
        texts = {name: written[name] for name in first if written[name] is not None}
    else:
        texts = {name: _take(name, known) for name in columns}
    return [_encode(name, known[name], texts[name]) for name in texts]


def _take(name, known):
    """Return the texts of a requested column."""
    if name not in known:
        raise ValueError(f"columns contains {name!r}, but the further columns are {list(known)}.")
    texts = _write_column(known[name])
    if texts is None:
        raise ValueError(
            f"columns contains {name!r}, whose values are not all texts, numbers or tuples of "
            "these."
        )
    return texts


def _encode(name, column, texts):
    values = None if name == ANNOTATION else _read_numbers(column)
    if values is not None:
        return {"name": as_text(name), "values": values}
    codes, names = pd.factorize(np.array(texts, dtype=object), sort=True)
    styles = mark_styles(len(names))
    return {
        "name": as_text(name),
        "codes": codes.tolist(),
        "names": names.tolist(),
        "styles": styles,
    }


def _read_numbers(column):
    """Return a column of single numbers, or None if it has other values or too large numbers."""
    cells = [cell_values(cell) for cell in column]
    if any(len(cell) != 1 for cell in cells):
        return None
    values = [None if is_missing(value) else value for (value,) in cells]
    numbers = [value for value in values if value is not None]
    if not all(isinstance(n, Real) and not isinstance(n, bool | np.bool_) for n in numbers):
        return None
    numbers = np.array([np.nan if value is None else value for value in values], dtype=float)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite) or np.abs(finite).max() >= 2**53:  # the largest integer of a browser
        return None
    is_whole = (finite == np.rint(finite)).all()
    return rounded(numbers, 17 if is_whole else _DIGITS)


def _write_column(column, most=np.inf):
    """Write the cells of a column as texts.

    Return None if cells contain other objects, or have more than ``most`` letters on average.
    """
    cells, most = [cell_values(cell) for cell in column], most * len(column)
    values = (value for cell in cells for value in cell)
    if not all(pd.api.types.is_scalar(value) or isinstance(value, os.PathLike) for value in values):
        return None
    if sum(map(len, cells)) > most:  # vectors, which are slow to write
        return None
    texts = [", ".join(map(_write, cell)) for cell in cells]
    return texts if sum(map(len, texts)) <= most else None


def _write(value):
    """Write a value. A missing value becomes an empty text."""
    if is_missing(value):
        return ""
    if not isinstance(value, float | np.floating):
        return as_text(value)
    # pandas stores integer ids as floats if some are missing.
    return str(int(value)) if value.is_integer() else f"{value:.6g}"
