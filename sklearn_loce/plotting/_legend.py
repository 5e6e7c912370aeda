"""Legends that fit below axes and figures."""

from math import ceil

from ._names import literal, shorten

_LETTER = 0.58  # mean width of a letter over the font's size
_MARK = 3.6  # the same of a marker with the gap to the next name
_LINE = 1.45  # distance between two lines over the font's size
_FEWEST = 12  # letters, however narrow the axes are
_SMALLEST = 4  # points
_SHARE = 0.5  # of the height of axes, that their legend may take
_LOOK = {"frameon": False, "handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.2}


def add_legend(ax, handles, **kwargs):
    """Put a legend below axes, in as many columns as fit.

    Names that would take more than half of the height of the axes are shortened and get a smaller
    font.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes with labeled artists.
    handles : list of artists
        Artists to name, by their labels.
    **kwargs : dict
        Passed to :meth:`matplotlib.axes.Axes.legend`.

    Returns
    -------
    matplotlib Legend

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce.plotting._legend import add_legend
    >>> figure, ax = plt.subplots()
    >>> lines = ax.plot([0, 1], label="car")
    >>> [text.get_text() for text in add_legend(ax, lines).get_texts()]
    ['car']
    >>> plt.close(figure)
    """
    from matplotlib.transforms import ScaledTranslation

    width, height, below = _measure_room(ax)
    # In points, because the axes shrink when the legend takes its room, and their names do not.
    shift = ScaledTranslation(0, -below / 72, ax.figure.dpi_scale_trans)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 0.3}
    place["bbox_transform"] = ax.transAxes + shift
    return _draw(ax, handles, (width, _SHARE * height), place | kwargs)


def add_figure_legend(figure, handles, **kwargs):
    """Put a legend below all axes of a figure with a constrained layout.

    Parameters
    ----------
    figure : matplotlib Figure or SubFigure
    handles : list of artists
        Artists to name, by their labels.
    **kwargs : dict
        Passed to :meth:`matplotlib.figure.Figure.legend`.

    Returns
    -------
    matplotlib Legend
    """
    room = figure.bbox.size * 72 / figure.dpi
    place = {"loc": "outside lower center", "borderaxespad": 0.3}
    return _draw(figure, handles, room, place | kwargs)


def _draw(parent, handles, room, style):
    """Draw a legend with the font, the names and the columns that fit into a room in points."""
    labels = [str(handle.get_label()).replace(r"\$", "$") for handle in handles]
    size, n_columns, names = _fit(labels, *room)
    # Matplotlib omits names that begin with "_", which some data sets have.
    visible = [name.lstrip("_") or "-" for name in names]
    look = _LOOK | {"fontsize": size, "ncols": n_columns}
    legend = parent.legend(handles=handles, labels=visible, **(look | style))
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend


def _fit(labels, width, height):
    """Choose font size, columns and names: the largest font with which all lines fit."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    # The user's axes may have another font size than those of paper_style.
    largest = FontProperties(size=rcParams["legend.fontsize"]).get_size_in_points()
    longest = max(map(len, labels), default=1)
    for tenths in range(10, 0, -1):
        size = max(largest * tenths / 10, min(_SMALLEST, largest))
        ems = width / size
        n_lines = max(1, int(height / (_LINE * size)))
        natural = int(ems / (_LETTER * longest + _MARK))
        n_columns = max(1, min(len(labels), natural))
        if n_columns * n_lines < len(labels):  # shorter names allow more columns
            n_columns = ceil(len(labels) / n_lines)
        n_letters = int((ems / n_columns - _MARK) / _LETTER)
        if n_letters >= min(_FEWEST, longest) or n_columns == 1 or size <= _SMALLEST:
            break
    names = shorten(labels, max(_FEWEST, n_letters))
    return size, n_columns, [literal(name) for name in names]


def _measure_room(ax):
    """Measure axes, and the ticks and the label below them, in points."""
    ax.figure.canvas.figure.draw_without_rendering()
    box = ax.get_window_extent()
    names = ax.xaxis.get_tightbbox(ax.figure.canvas.get_renderer())
    below = box.y0 - names.y0 if names else 0.0
    return [length * 72 / ax.figure.dpi for length in (box.width, box.height, below)]
