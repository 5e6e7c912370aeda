"""Table of the rows that tiles show, and captions read from its columns."""

from itertools import repeat

import numpy as np

from .._samples.images import PATH
from .._samples.table import cell_values, is_missing
from ._drawing import fit_text, format_number

_WIDTH = 0.85  # of a tile; ids consist of digits, which are wider than the mean letter


def describe_tiles(samples, positions, concepts=None, **own):
    """Describe the tiles of a display in a table.

    Parameters
    ----------
    samples : DataFrame
        The table of samples.
    positions : array-like of int
        Position of each tile's row.
    concepts : ndarray of shape (n_samples,), default=None
        Concept of every row. None keeps the column of the samples.
    **own : array-like
        Further columns, by name. They replace columns of the samples with the same name.

    Returns
    -------
    DataFrame
        One line per tile, with the index of its row: ``position``, the further columns, and the
        columns of the samples without ``mask``, and without ``image`` unless it contains paths.

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
    """Check the names of the columns that captions show.

    Parameters
    ----------
    captions : str, list of str or None
    table : DataFrame or None
        Table of :func:`describe_tiles`.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If there is no table, or a column is missing.
    """
    if captions is None:
        return []
    names, known = np.atleast_1d(captions).tolist(), [] if table is None else list(table)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"captions contains {unknown[0]!r}, and the columns of table are {known}.")
    return names


def read_captions(names, table):
    """Iterate over the tiles and yield the lines of each caption.

    Parameters
    ----------
    names : list of str
        Columns, from :func:`choose_captions`.
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
    # pandas stores integer ids as floats if some are missing.
    return str(int(value)) if value.is_integer() else format_number(value)


def write_below(ax, texts, captions, **style):
    """Write lines below a tile and cut them off at the width of the tile.

    Parameters
    ----------
    ax : Axes
    texts : list of str
        Lines that are written as they are.
    captions : list of str
        Lines that are cut off.
    **style : dict
        Passed to ``Axes.set_xlabel``.
    """
    fitted = [fit_text(ax, caption, n_lines=1, n_tiles=_WIDTH) for caption in captions]
    lines = [*texts, *fitted]
    if lines:
        ax.set_xlabel("\n".join(lines), **style)
