"""Style of all displays: colors, markers, fonts and figures."""

from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np
from sklearn.utils._optional_dependencies import check_matplotlib_support

# Inches: a column of a two-column paper.
COLUMN_WIDTH = 3.3
PAGE_WIDTH = 6.9  # both columns

PAGE_HEIGHT = 9.0

# Points. Text is smaller than the second size only if it would not fit.
FONT_SIZE = 8
SMALL_FONT_SIZE = 7

PAPER_STYLE = {
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "figure.titlesize": FONT_SIZE,
    "xtick.labelsize": SMALL_FONT_SIZE,
    "ytick.labelsize": SMALL_FONT_SIZE,
    "legend.fontsize": SMALL_FONT_SIZE,
    "legend.title_fontsize": SMALL_FONT_SIZE,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "savefig.dpi": 300,
}

# The colors of Okabe and Ito, with dark gray instead of black, and without yellow, which is
# invisible on white. Then three colors that are distinct for color-blind readers. Then the colors
# of colorcet's "glasbey_dark", in its order, that differ enough from all before.
COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333"),
    *("#AA2266", "#2222AA", "#8C564B"),
    *("#D60000", "#8C3BFF", "#018700", "#6B004F", "#573B00", "#005659", "#15E18C", "#BCB6FF"),
    *("#BF03B8", "#645472", "#FF7752", "#8EBA00", "#5E7B87", "#60383B", "#8287FF", "#380000"),
)
# Distinct at 4 points. Their number has no common divisor with that of the colors, so that pairs of
# color and marker repeat late.
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "*", "<", ">", "d")

# Keywords for the color of a whole artist, and for colors of its parts.
_WHOLE_COLORS = frozenset({"color", "c"})
_COLOR_KEYWORDS = _WHOLE_COLORS | {"edgecolor", "facecolor"}

# For artists that belong to no concept.
GRAY = "#767676"

_PASSES = 3  # of a layout
LIGHT = 0.18  # luminance above which black has more contrast than white
_CONTRAST = 3  # that WCAG 2 requires of graphics


def concept_styles(names, palette=None):
    """Assign a color and a marker to every concept.

    The first 26 concepts have distinct colors, and the first eleven have distinct markers. The
    first 286 concepts have distinct pairs of color and marker.

    Parameters
    ----------
    names : iterable of hashable
        Concepts, in the order of their styles. ``np.unique(y)`` gives the same styles in all
        displays of the same concepts.
    palette : dict or sequence, default=None
        Palette as in the displays. A dict maps a concept, or a tuple of concepts, to a color. Other
        concepts get unused colors. A sequence lists all concepts of a study in the order of their
        styles, so that a part of them keeps its styles.

    Returns
    -------
    dict of name to (str, str)
        Color, as ``"#rrggbb"``, and marker, in the order of `names`.

    Raises
    ------
    TypeError
        If the palette is neither a dict nor a sequence of concepts.
    ValueError
        If the palette has none of the concepts, or a color is unknown.

    Notes
    -----
    Seven colors are those of M. Okabe and K. Ito, "Color Universal Design", 2008. Sixteen colors
    are those of "glasbey_dark" of colorcet 3.2, after C. Glasbey et al., "Color displays for
    categorical images", Color Research and Application, 2007.

    Examples
    --------
    >>> from sklearn_loce.plotting._style import concept_styles
    >>> concept_styles(["bus", "car"])
    {'bus': ('#0072B2', 'o'), 'car': ('#D55E00', 's')}
    >>> concept_styles(["car"], palette=["bus", "car"])
    {'car': ('#D55E00', 's')}
    >>> concept_styles(["bus", "car", "sky"], {("bus", "car"): "#0072B2"})
    {'bus': ('#0072B2', 'o'), 'car': ('#0072B2', 's'), 'sky': ('#D55E00', '^')}
    """
    shown = dict.fromkeys(names)
    order, given = _read_palette(palette, list(shown))
    order = list(dict.fromkeys([*order, *shown]))
    left = [color for color in COLORS if color not in given.values()] or COLORS
    dealt = [name for name in order if name not in given]
    colors = given | {name: left[i % len(left)] for i, name in enumerate(dealt)}
    return {
        name: (colors[name], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(order)
        if name in shown
    }


def _read_palette(palette, names):
    """Return the concepts of a palette in its order, and its colors of concepts."""
    if palette is None:
        return [], {}
    if isinstance(palette, str) or not hasattr(palette, "__iter__"):
        raise TypeError(
            f"palette={palette!r} is not a palette; pass a dict of concepts to colors, or a list "
            "of all concepts."
        )
    given = {}
    if isinstance(palette, Mapping):
        from matplotlib.colors import to_hex

        for key, color in palette.items():
            for name in key if isinstance(key, tuple) else [key]:
                given[name] = to_hex(color).upper()
    order = list(given) if isinstance(palette, Mapping) else np.asarray(palette).tolist()
    if not set(order) & set(names):
        raise ValueError(f"palette has none of the concepts {names}; it contains {order}.")
    return order, given


def even_size(marker):
    """Compute the factor by which a marker must be larger to have the area of a disk.

    Parameters
    ----------
    marker : str
        Marker with a face.

    Returns
    -------
    float
        Factor for the size of ``Axes.scatter``.

    Examples
    --------
    >>> from sklearn_loce.plotting._style import even_size
    >>> [round(even_size(marker), 2) for marker in "os^"]
    [1.0, 0.79, 1.57]
    """
    from matplotlib.markers import MarkerStyle

    mark = MarkerStyle(marker)
    (corners,) = mark.get_path().transformed(mark.get_transform()).to_polygons()
    x, y = corners.T
    area = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
    return float(np.round(np.pi / 4 / area, 2))


def find_ground(ax):
    """Return the color behind axes, which is that of the figure if the axes are transparent.

    Parameters
    ----------
    ax : matplotlib Axes

    Returns
    -------
    color

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce.plotting._style import find_ground
    >>> figure, ax = plt.subplots(facecolor="gray")
    >>> ax.set_facecolor("none")
    >>> [round(part, 2) for part in find_ground(ax)]
    [0.5, 0.5, 0.5, 1.0]
    >>> plt.close(figure)
    """
    from matplotlib.colors import to_rgba

    grounds = [part.get_facecolor() for part in (ax, ax.figure)]
    return next((color for color in grounds if to_rgba(color)[3] > 0), "white")


def lighten(ax, color):
    """Lighten a color until it is visible in dark axes.

    Parameters
    ----------
    ax : matplotlib Axes
    color : color

    Returns
    -------
    color
        The same color if the background is light, or dark enough for it.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce.plotting._style import lighten
    >>> figure, (light, dark) = plt.subplots(2)
    >>> dark.set_facecolor("black")
    >>> [lighten(ax, "#333333") for ax in (light, dark)]
    ['#333333', '#6A6A6A']
    >>> plt.close(figure)
    """
    from matplotlib.colors import to_hex, to_rgb

    ground = measure_luminance(find_ground(ax))
    while ground < LIGHT and measure_luminance(color) + 0.05 < _CONTRAST * (ground + 0.05):
        color = to_hex(0.9 * np.array(to_rgb(color)) + 0.1).upper()
    return color


def measure_luminance(color):
    """Measure the relative luminance of WCAG 2.

    Parameters
    ----------
    color : color

    Returns
    -------
    float
        Luminance from 0 (black) to 1 (white).

    Examples
    --------
    >>> from sklearn_loce.plotting._style import measure_luminance
    >>> round(float(measure_luminance("#00ff00")), 4)
    0.7152
    """
    from matplotlib.colors import to_rgb

    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@contextmanager
def paper_style():
    """Set fonts and lines for a paper column within a context.

    Yields
    ------
    None

    Examples
    --------
    >>> import matplotlib as mpl
    >>> from sklearn_loce.plotting._style import paper_style
    >>> with paper_style():
    ...     mpl.rcParams["xtick.labelsize"]
    7.0
    """
    import matplotlib as mpl

    with mpl.rc_context(PAPER_STYLE):
        yield
        # The first figure of a notebook turns the interactive mode on. The context would undo it.
        interactive = mpl.is_interactive()
    mpl.interactive(interactive)


def new_figure(width=COLUMN_WIDTH, height=2.5):
    """Open a figure with a constrained layout, whose text stays text in PDF and SVG files.

    Parameters
    ----------
    width, height : float
        Inches.

    Returns
    -------
    PaperFigure
        Figure that pyplot can show and close.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce.plotting._style import new_figure
    >>> figure = new_figure(height=2)
    >>> figure.get_size_inches()
    array([3.3, 2. ])
    >>> plt.close(figure)
    """
    import matplotlib.pyplot as plt

    from ._figure import PaperFigure

    return plt.figure(figsize=(width, height), FigureClass=PaperFigure, layout="constrained")


@contextmanager
def open_axes(display, ax=None, *, width=COLUMN_WIDTH, height=2.5):
    """Set `ax_` and `figure_` of a display. New figures have the paper style.

    Parameters
    ----------
    display : object
        Display whose attributes are set.
    ax : matplotlib Axes, default=None
        Axes to draw into, in the current style. None opens a figure.
    width, height : float
        Inches of a new figure, whose height is then fitted to its content. A size in
        ``rcParams["figure.figsize"]`` other than the default takes precedence.

    Yields
    ------
    matplotlib Axes
        `ax`, or the axes of the new figure, which is closed if drawing fails.

    Raises
    ------
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from types import SimpleNamespace
    >>> from sklearn_loce.plotting._style import open_axes
    >>> display = SimpleNamespace()
    >>> with open_axes(display) as ax:
    ...     _ = ax.set_xlabel("k")
    >>> display.ax_.xaxis.label.get_size()
    8.0
    >>> plt.close(display.figure_)
    """
    check_matplotlib_support(f"{type(display).__name__}.plot")
    if ax is not None:
        display.ax_, display.figure_ = ax, ax.figure
        yield ax
        return
    import matplotlib.pyplot as plt

    given = list(plt.rcParams["figure.figsize"])
    is_free = given == list(plt.rcParamsDefault["figure.figsize"])
    with paper_style():
        figure = new_figure(width, height) if is_free else new_figure(*given)
        try:
            display.ax_, display.figure_ = figure.add_subplot(), figure
            yield display.ax_
            if is_free:
                fit_height(figure)
        except BaseException:
            plt.close(figure)
            raise


def fit_height(figure):
    """Fit the height of a figure to its content, and apply its layout.

    Parameters
    ----------
    figure : PaperFigure
        Figure of :func:`new_figure`.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce.plotting._style import fit_height, new_figure
    >>> figure = new_figure(width=3, height=9)
    >>> _ = figure.add_subplot(aspect="equal")
    >>> fit_height(figure)
    >>> bool(figure.get_figheight() < 3.1)
    True
    >>> plt.close(figure)
    """
    _settle(figure)
    padding = 2 * figure.get_layout_engine().get()["h_pad"]
    figure.set_figheight(figure.get_tightbbox().height + padding)
    _settle(figure)


def _settle(figure):
    """Apply the layout repeatedly, because it changes ticks, which change the layout."""
    for _ in range(_PASSES):
        figure.draw_without_rendering()


def merge_style(artist, defaults, given=None):
    """Merge keywords of the user with defaults, and resolve aliases.

    Parameters
    ----------
    artist : type
        Class that defines the aliases, such as :class:`matplotlib.lines.Line2D`.
    defaults : dict
        Default keywords.
    given : dict, default=None
        Keywords of the user, which take precedence. `color` and `c` also replace the colors of
        edges and faces.

    Returns
    -------
    dict
        Keywords without aliases.

    Raises
    ------
    TypeError
        If a keyword and its alias are both given.

    Examples
    --------
    >>> from matplotlib.lines import Line2D
    >>> from sklearn_loce.plotting._style import merge_style
    >>> merge_style(Line2D, {"linewidth": 1}, {"lw": 2})
    {'linewidth': 2}
    """
    from matplotlib.cbook import normalize_kwargs

    ours, theirs = normalize_kwargs(defaults, artist), normalize_kwargs(given or {}, artist)
    if not _WHOLE_COLORS.isdisjoint(theirs):
        # Otherwise our colors would take precedence, or Matplotlib would warn.
        ours = {name: value for name, value in ours.items() if name not in _COLOR_KEYWORDS}
    return ours | theirs
