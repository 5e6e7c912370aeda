"""What the concept map in the browser tells of each row besides concept and image."""

import os

import numpy as np
import pandas as pd

from .._samples.table import ANNOTATION, cell_values, is_missing
from ._html_page import as_text

_SHOWN_ANYWAY = ("image", "mask", "concept", "image_id")
_MOST_LETTERS = 200  # of a row on average, in a column that nobody asked for


def describe_columns(samples, columns=None):
    """Give the texts of further columns, annotation ids first.

    Parameters
    ----------
    samples : DataFrame
    columns : list of str, default=None
        See :func:`to_html`.

    Returns
    -------
    list of dict
        The ``name`` of each column, its different texts as ``names``, and the ``codes`` of rows.

    Raises
    ------
    ValueError
        If a column is missing, or holds what is no text.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_loce.plotting._html_columns import describe_columns
    >>> table = pd.DataFrame({"annotation_id": [(7, 9), (8,), (8,)], "polygon": [{}, {}, {}]})
    >>> describe_columns(table)
    [{'name': 'annotation_id', 'codes': [0, 1, 1], 'names': ['7, 9', '8']}]
    """
    known = {name: column for name, column in samples.items() if name not in _SHOWN_ANYWAY}
    if columns is None:
        most = dict.fromkeys(known, _MOST_LETTERS) | {ANNOTATION: np.inf}
        written = {name: _write_column(column, most[name]) for name, column in known.items()}
        first = sorted(written, key=lambda name: name != ANNOTATION)
        return [_encode(name, written[name]) for name in first if written[name] is not None]
    return [_encode(name, _take(name, known)) for name in columns]


def _take(name, known):
    """Give the texts of a column that was asked for."""
    if name not in known:
        raise ValueError(f"columns holds {name!r}, and the further columns are {list(known)}.")
    texts = _write_column(known[name])
    if texts is None:
        raise ValueError(
            f"columns holds {name!r}, whose values are not all texts, numbers or tuples of these."
        )
    return texts


def _encode(name, texts):
    codes, names = pd.factorize(np.array(texts, dtype=object))
    return {"name": as_text(name), "codes": codes.tolist(), "names": names.tolist()}


def _write_column(column, most=np.inf):
    """Write the cells of a column; give None where they hold more than texts and numbers.

    Also where they have more than ``most`` letters on average.
    """
    cells, most = [cell_values(cell) for cell in column], most * len(column)
    values = (value for cell in cells for value in cell)
    if not all(pd.api.types.is_scalar(value) or isinstance(value, os.PathLike) for value in values):
        return None
    if sum(map(len, cells)) > most:  # vectors, which take long to write
        return None
    texts = [", ".join(map(_write, cell)) for cell in cells]
    return texts if sum(map(len, texts)) <= most else None


def _write(value):
    """Write a value; what is missing is the empty text."""
    if is_missing(value):
        return ""
    if not isinstance(value, float | np.floating):
        return as_text(value)
    # Ids are floats where some are missing.
    return str(int(value)) if value.is_integer() else f"{value:.6g}"
