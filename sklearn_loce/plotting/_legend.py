"""The legend of a display."""

from ._names import literal, shorten


def add_legend(ax, handles, **kwargs):
    """Put a legend below axes, in as many columns as have room.

    Parameters
    ----------
    ax : matplotlib Axes
        Axes with labeled artists.
    handles : list of artists
        What to name, by their labels.
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
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties
    from matplotlib.transforms import ScaledTranslation

    width, below = _room(ax)
    # In points, as the axes become smaller with the legend, and their names do not.
    shift = ScaledTranslation(0, -below / 72, ax.figure.dpi_scale_trans)
    # Axes of the user's may have another font size than those of paper_style.
    font_size = FontProperties(size=rcParams["legend.fontsize"]).get_size_in_points()
    names = _legend_names(handles, width / font_size)
    longest = max(map(len, names), default=1)
    # A name's characters, its marker and the gap to the next.
    columns = int(width / (font_size * (0.58 * longest + 3.6)))
    style = {"frameon": False, "handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.2}
    legend = ax.legend(
        handles,
        # Matplotlib leaves names out that begin with "_", as some data sets' do.
        [name.lstrip("_") or "-" for name in names],
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=ax.transAxes + shift,
        ncols=max(1, min(len(handles), columns)),
        borderaxespad=0.3,
        **(style | kwargs),
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend


def _legend_names(handles, n_ems):
    names = [str(handle.get_label()).replace(r"\$", "$") for handle in handles]
    return [literal(name) for name in shorten(names, max(12, int((n_ems - 7) / 0.6)))]


def _room(ax):
    """Width of axes, and height of their ticks and label below them, in points."""
    ax.figure.canvas.figure.draw_without_rendering()
    box = ax.get_window_extent()
    names = ax.xaxis.get_tightbbox(ax.figure.canvas.get_renderer())
    below = box.y0 - names.y0 if names else 0.0
    return box.width * 72 / ax.figure.dpi, below * 72 / ax.figure.dpi
