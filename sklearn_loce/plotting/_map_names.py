"""Names on a map."""

import numpy as np

from ._legend import add_legend
from ._style import SMALL_FONT_SIZE, find_ground

_AIR = 1.5  # points around a name
_MOST_PLACES = 200  # candidates for a name


def find_places(coordinates, names):
    """List candidate places of names: their rows, the most central first.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)
    names : ndarray of shape (n_samples,)
        Name of each row.

    Returns
    -------
    dict of name to ndarray of shape (n_places, 2)
        Names with many rows first.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._map_names import find_places
    >>> X = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    >>> places = find_places(X, np.array(["car", "car", "car", "bus"]))
    >>> list(places), places["car"].tolist()
    (['car', 'bus'], [[1.0, 0.0], [0.0, 0.0], [4.0, 0.0]])
    """
    found, counts = np.unique(names, return_counts=True)
    places = {}
    for name in found[np.argsort(-counts, kind="stable")].tolist():
        own = coordinates[names == name]
        distances = np.linalg.norm(own - np.median(own, axis=0), axis=1)
        order = np.argsort(distances, kind="stable")
        places[name] = own[order[:: -(-len(own) // _MOST_PLACES)]]
    return places


def write_names(ax, places, texts):
    """Write names that do not touch each other, and omit the others.

    Parameters
    ----------
    ax : matplotlib Axes
    places : dict of name to array-like of shape (n_places, 2)
        Candidate places. The first names are written first.
    texts : dict of name to str
        Texts of the names.

    Returns
    -------
    dict of name to matplotlib Text
    """
    ax.figure.canvas.figure.draw_without_rendering()
    frame, taken, written = ax.get_window_extent(), [], {}
    for name, candidates in places.items():
        text = write_name(ax, candidates[0], texts[name])
        half = text.get_window_extent().size / 2 + _AIR * ax.figure.dpi / 72
        for place, middle in zip(candidates, ax.transData.transform(candidates), strict=True):
            low, high = middle - half, middle + half
            inside = (low >= frame.p0).all() and (high <= frame.p1).all()
            if inside and all((low > other[1]).any() or (high < other[0]).any() for other in taken):
                text.set_position(place)
                taken.append((low, high))
                written[name] = text
                break
        else:
            text.remove()
    return written


def name_on_map(ax, places, handles, texts, **legend_kw):
    """Write names on a map, and add a legend of the names that do not fit.

    Parameters
    ----------
    ax : matplotlib Axes
    places : dict of name to array-like of shape (n_places, 2)
    handles : dict of name to artist
        Artists for the legend.
    texts : dict of name to str
    **legend_kw : dict
        Passed to :func:`add_legend`.

    Returns
    -------
    dict of name to matplotlib Text
    """
    left = []
    while True:
        # A legend makes the map smaller, so that fewer names fit.
        if left:
            add_legend(ax, [handles[name] for name in handles if name in left], **legend_kw)
        shown = {name: own for name, own in places.items() if name not in left}
        written = write_names(ax, shown, texts)
        missing = shown.keys() - written.keys()
        if not missing:
            return written
        left += missing
        for text in written.values():
            text.remove()


def write_name(ax, place, text):
    """Write a name with a halo in the color of the background, so that it is legible on any mark.

    Parameters
    ----------
    ax : matplotlib Axes
    place : array-like of shape (2,)
    text : str

    Returns
    -------
    matplotlib Text
    """
    from matplotlib.patheffects import withStroke

    look = {"fontsize": SMALL_FONT_SIZE, "fontweight": "bold"}
    look |= {"path_effects": [withStroke(linewidth=2, foreground=find_ground(ax))]}
    return ax.text(*place, text, ha="center", va="center", zorder=4, **look)
