"""Page of the concept map: a Bokeh plot and own controls, without external files."""

import base64
import hashlib
import json
import os
import re
from importlib import resources
from uuid import uuid4

import numpy as np

from ._style import concept_styles

# Bokeh's names of Matplotlib's markers, with sizes at which all look equally large. Bokeh has no
# filled cross, no sideways triangles and no thin diamond; other shapes replace these.
BOKEH_MARKERS = {
    "o": ("circle", 8),
    "s": ("square", 7.5),
    "^": ("triangle", 8.5),
    "D": ("diamond", 10.5),
    "v": ("inverted_triangle", 8.5),
    "X": ("square_pin", 9),
    "P": ("plus", 9.5),
    "*": ("star", 11.5),
    "<": ("hex", 8.5),
    ">": ("triangle_pin", 10),
    "d": ("circle_dot", 9),
}
STYLE_COLUMNS = ("color", "marker", "size")
SCRIPTS = ("rows.js", "fields.js", "map.js")  # in this order, after Bokeh's script


MOST_STYLES = 200  # of a column; more names repeat them


def mark_styles(n_names):
    """List color, marker and size of each name."""
    styles = concept_styles(range(min(n_names, MOST_STYLES))).values()
    return [[color, *BOKEH_MARKERS[marker]] for color, marker in styles]


def number_colors():
    """List the colors of numbers from low to high, all visible on white and on black."""
    from bokeh.palettes import Viridis256

    return list(Viridis256[24:232:4])


def require_bokeh():
    """Raise an ImportError that names the extra if Bokeh is not installed."""
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'to_html needs Bokeh. Install it with: pip install "sklearn-loce[html]"'
        ) from error


def build_plot(coordinates, groups):
    """Build the map of points from numbers and styles, without texts of the table.

    Parameters
    ----------
    coordinates : ndarray of shape (n_points, 2)
    groups : dict
        The ``codes`` of points, and the ``styles`` (color, marker, size) of codes.

    Returns
    -------
    bokeh.plotting.figure
        Its sources have the names "points", "near", "links" and "name places". The filter "shown"
        selects points. The script of the page sets the colors of lines and background.
    """
    from bokeh.models import CDSView, ColumnDataSource, IndexFilter, Range1d
    from bokeh.plotting import figure

    plot = figure(
        name="map",
        sizing_mode="stretch_both",
        toolbar_location=None,
        tools="wheel_zoom",
        active_scroll="wheel_zoom",
        x_range=Range1d(0, 1),
        y_range=Range1d(0, 1),
        x_axis_location=None,
        y_axis_location=None,
        min_border=0,
        outline_line_color=None,
        lod_threshold=None,
    )
    plot.grid.visible = False
    styles = zip(*(groups["styles"][code] for code in groups["codes"]), strict=True)
    columns = {"x": coordinates[:, 0], "y": coordinates[:, 1]}
    columns |= dict(zip(STYLE_COLUMNS, styles, strict=True))
    points = ColumnDataSource(columns, name="points")
    shown = CDSView(filter=IndexFilter(name="shown"))
    _add_links(plot)
    renderer = plot.scatter(
        **_mark(fill_alpha=0.85, line_width=0.5),
        name="marks",
        source=points,
        view=shown,
        nonselection_fill_alpha=0.28,
        nonselection_line_alpha=0.3,
    )
    _add_near(plot)
    _add_names(plot)
    _add_tools(plot, renderer)
    return plot


def _mark(**style):
    fields = {"x": "x", "y": "y", "size": "size", "fill_color": "color"}
    return {**fields, "marker": {"field": "marker"}, **style}


def _add_links(plot):
    """Add lines from the selected point to its neighbors."""
    from bokeh.models import ColumnDataSource

    source = ColumnDataSource({"x0": [], "y0": [], "x1": [], "y1": []}, name="links")
    line = {"line_alpha": 0.35, "line_width": 1, "name": "link lines"}
    plot.segment("x0", "y0", "x1", "y1", source=source, **line)


def _add_near(plot):
    """Add the selected point and its neighbors above all other points."""
    from bokeh.models import ColumnDataSource

    empty = {name: [] for name in ("x", "y", *STYLE_COLUMNS)}
    source = ColumnDataSource(empty, name="near")
    look = {"line_width": 1.4, "level": "overlay"}  # above the names
    plot.scatter(**_mark(**look), name="near marks", source=source)


def _add_names(plot):
    """Add the names, which the script of the page places."""
    from bokeh.models import ColumnDataSource, LabelSet

    source = ColumnDataSource({"x": [], "y": [], "text": [], "dy": []}, name="name places")
    look = {
        "text_font_size": "12px",
        "text_font": {"value": "sans-serif"},
        "text_font_style": "bold",
    }
    look |= {"text_align": "center", "text_baseline": "middle", "background_fill_alpha": 0.7}
    plot.add_layout(LabelSet(y_offset={"field": "dy"}, source=source, name="labels", **look))


def _add_tools(plot, renderer):
    from bokeh.models import BoxSelectTool, HoverTool, LassoSelectTool, PanTool, SaveTool, TapTool

    marks = {"renderers": [renderer]}
    plot.add_tools(
        HoverTool(name="hover", tooltips=None, **marks),
        TapTool(mode="replace", **marks),
        PanTool(name="pan"),
        BoxSelectTool(name="box", **marks),
        LassoSelectTool(name="lasso", continuous=False, **marks),
        SaveTool(name="save", filename="map"),
    )


def plot_json(plot):
    """Write a plot as JSON for BokehJS, with the same text for equal plots.

    Bokeh counts the models of a process, so their ids are replaced.
    """
    from bokeh.embed import json_item

    numbers = {}
    text = json.dumps(json_item(plot), separators=(",", ":"))

    def renumber(match):
        return f'"p{numbers.setdefault(match[0], len(numbers))}"'

    return re.sub(r'"p\d+"', renumber, re.sub(r'"id":"[0-9a-f-]{36}"', '"id":"map"', text))


def script_safe(text):
    """Escape JSON so that no text in it can end the surrounding script element."""
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
    return re.sub("[<>&]", lambda match: escapes[match[0]], text)


def _asset(name):
    return resources.files(__package__).joinpath("html", name).read_text(encoding="utf-8")


def _hash(script):
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def render_page(title, plot, payload):
    """Assemble the page.

    Parameters
    ----------
    title : str
    plot : bokeh.plotting.figure
    payload : dict
        Data that the scripts in ``html`` read.

    Returns
    -------
    str
        HTML with all scripts, styles and pictures. Its security policy allows these scripts only
        and forbids requests.
    """
    from bokeh.resources import Resources
    from jinja2 import Environment
    from markupsafe import Markup

    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    scripts = [Markup(f"\n{script}\n") for script in (library, *map(_asset, SCRIPTS))]
    page = Environment(autoescape=True, keep_trailing_newline=True).from_string(_asset("map.html"))
    return page.render(
        title=title,
        policy=Markup(" ".join(map(_hash, scripts))),
        style=Markup(_asset("map.css")),
        scripts=scripts,
        plot=Markup(script_safe(plot_json(plot))),
        payload=Markup(script_safe(json.dumps(payload, separators=(",", ":"), allow_nan=False))),
    )


def write_whole(path, text):
    """Write a text file completely or not at all."""
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        with open(part, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def as_text(value):
    """Convert a label or file name to text, and replace bytes that are not UTF-8."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")


def rounded(values, digits=4):
    """Round numbers to significant digits. Values that are not finite become None."""
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values)
    return [
        float(f"{value:.{digits}g}") if ok else None
        for value, ok in zip(values, finite, strict=True)
    ]
