"""The rows behind tiles, as a table to export, and captions taken from it."""

from itertools import repeat

import numpy as np

from .._samples.images import PATH
from .._samples.table import cell_values, is_missing
from ._drawing import fit_text, format_number

_WIDTH = 0.85  # of a tile, as digits, of which ids consist, are wider than the mean letter


def describe_tiles(samples, positions, concepts=None, **own):
    """Make the table of a display's tiles.

    Parameters
    ----------
    samples : DataFrame
        The table of samples.
    positions : array-like of int
        Position of each tile's row.
    concepts : ndarray of shape (n_samples,), default=None
        Concept of every row, as the display shows it. None leaves the column of the samples.
    **own : array-like
        What the display knows of each tile, by name; a column of that name gives way.

    Returns
    -------
    DataFrame
        One line per tile, with the index of its row: ``position``, what the display knows, and the
        columns of the samples but ``mask``, and ``image`` where it is no path.

    Examples
    --------
    >>> from sklearn_loce.datasets import make_scenes
    >>> from sklearn_loce.plotting._captions import describe_tiles
    >>> X = make_scenes(1, random_state=0).data
    >>> describe_tiles(X, [5, 0], score=[-0.9, -0.2]).drop(columns="area")
       position  score concept  image_id annotation_id
    5         5   -0.9     bus         0         0:bus
    0         0   -0.2     sky         0         0:sky
    """
    positions = np.asarray(positions, dtype=np.intp)
    own = {"position": positions, **own}
    if concepts is not None:
        own["concept"] = concepts[positions]
    table = samples.iloc[positions]
    hidden = {"mask", *own} & set(table.columns)
    if not all(isinstance(image, PATH) for image in table["image"]):
        hidden.add("image")
    table = table.drop(columns=list(hidden))
    for place, (name, values) in enumerate(own.items()):
        table.insert(place, name, values)
    return table


def choose_captions(captions, table):
    """Check the columns that captions are taken from.

    Parameters
    ----------
    captions : str, list of str or None
    table : DataFrame or None
        Of :func:`describe_tiles`.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there is no table, or it lacks a column.
    """
    if captions is None:
        return []
    names, known = np.atleast_1d(captions).tolist(), [] if table is None else list(table)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"captions holds {unknown[0]!r}, and the columns of table are {known}.")
    return names


def read_captions(names, table):
    """Iterate over the tiles; give the texts of each one's caption.

    Parameters
    ----------
    names : list of str
        Columns, as of :func:`choose_captions`.
    table : DataFrame or None

    Returns
    -------
    iterator of list of str

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_loce.plotting._captions import read_captions
    >>> table = pd.DataFrame({"annotation_id": [(7, 9), (8,)], "score": [0.91234, None]})
    >>> list(read_captions(["annotation_id", "score"], table))
    [['7, 9', '0.912'], ['8', 'none']]
    """
    if not names:
        return repeat([])
    rows = table[names].itertuples(index=False, name=None)
    return ([_write(cell) for cell in row] for row in rows)


def _write(cell):
    return ", ".join(map(_write_value, cell_values(cell)))


def _write_value(value):
    if is_missing(value):
        return "none"
    if not isinstance(value, float | np.floating):
        return str(value)
    # Ids are floats where some are missing.
    return str(int(value)) if value.is_integer() else format_number(value)


def write_below(ax, texts, captions, **style):
    """Write lines below a tile, each cut off at the tile's width.

    Parameters
    ----------
    ax : Axes
    texts : list of str
        What the display says, as it is to be drawn.
    captions : list of str
    **style : dict
        For ``Axes.set_xlabel``.
    """
    fitted = [fit_text(ax, caption, n_lines=1, n_tiles=_WIDTH) for caption in captions]
    lines = [*texts, *fitted]
    if lines:
        ax.set_xlabel("\n".join(lines), **style)
