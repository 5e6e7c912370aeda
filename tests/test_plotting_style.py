"""Styles and figures that all displays share."""

import io
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from sklearn_loce.plotting import (
    ChannelDisplay,
    ConceptMapDisplay,
    DendrogramDisplay,
    LayerComparisonDisplay,
    PrecisionAtKDisplay,
    SeparationDisplay,
    _style,
)
from sklearn_loce.plotting._style import concept_styles, lighten, open_axes

pytestmark = pytest.mark.usefixtures("no_figure_stays")

# Machado, Oliveira and Fernandes, 2009, severity 1.0; they apply to linear RGB.
SEEN_AS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def as_seen(colors, matrix):
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colors]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(matrix), 0, 1)
    return rgb2lab(
        np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    )


# About 2 is just noticeable; 10 is told apart at a glance. Of many colors, color-blind eyes tell
# only the first apart at a glance.
@pytest.mark.parametrize(("n_colors", "apart"), [(10, 10), (26, 3)])
@pytest.mark.parametrize("eyes", SEEN_AS)
def test_colors_are_distinct(eyes, n_colors, apart):
    lab = as_seen([*_style.COLORS[:n_colors], "#ffffff"], SEEN_AS[eyes])
    first, second = np.triu_indices(len(lab), 1)
    least = deltaE_ciede2000(lab[first], lab[second]).min()
    assert least > (10 if eyes == "normal" else apart)


def contrast(first, second):
    """Return the contrast ratio of WCAG 2, for which 3 is enough for a line."""
    rgb = np.array([to_rgb(first), to_rgb(second)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def best_contrast(line):
    """Paint a line, and give the best contrast to the background across its middle."""
    figure, ax = line.figure, line.axes
    figure.set_dpi(300)
    figure.canvas.draw()
    painted = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3] / 255
    x, y = np.rint(ax.transData.transform(line.get_xydata().mean(axis=0))).astype(int)
    return max(contrast(color, ax.get_facecolor()) for color in painted[y - 5 : y + 6, x])


@pytest.mark.slow
def test_all_colors_are_visible_on_a_dark_background():
    names = [f"m{i}" for i in range(len(_style.COLORS))]
    values = np.linspace(0.1, 0.9, len(names))
    table = [(m, k, value, 0.0) for m, value in zip(names, values, strict=True) for k in "ab"]
    table = pd.DataFrame(table, columns=["model", "layer", "mean", "std"])
    precision = np.repeat(values[:, None], 2, axis=1)
    with plt.style.context("dark_background"):
        layers = LayerComparisonDisplay(table).plot()
        some = {"chance": [0.0] * 24, "concepts": names[:24]}  # more of them are gray
        curves = PrecisionAtKDisplay(precision[:24], k=[1, 5], **some).plot()
        points = ConceptMapDisplay(np.arange(52.0).reshape(26, 2), names).plot().scatter_
    for lines in ([bar[0] for bar in layers.errorbar_], curves.line_):
        assert len({line.get_color() for line in lines}) == len(lines)
        assert min(map(best_contrast, lines)) > 3
    assert min(contrast(part.get_facecolor()[0, :3], "black") for part in points.values()) > 2.9


def test_colors_are_lightened_for_the_background_that_is_visible():
    figure, ax = plt.subplots()
    ax.set_facecolor("none")
    assert lighten(ax, "black") == "black"
    figure.set_facecolor("#101010")
    assert contrast(lighten(ax, "black"), "#101010") > 3
    assert lighten(ax, "white") == "white"


@pytest.mark.parametrize("n_concepts", [1, 10, 25, 286])
def test_no_two_concepts_look_the_same(n_concepts):
    styles = concept_styles(range(n_concepts))
    assert list(styles) == list(range(n_concepts))
    assert len(set(styles.values())) == n_concepts
    colors, markers = zip(*styles.values(), strict=True)
    assert len(set(colors)) == min(n_concepts, len(_style.COLORS))
    assert len(set(markers)) == min(n_concepts, len(_style.MARKERS))


def test_a_palette_keeps_the_styles_of_a_part_of_the_concepts():
    every = concept_styles(range(40))
    assert concept_styles([7, 33], palette=np.arange(40)) == {n: every[n] for n in (7, 33)}


def test_a_palette_gives_colors_to_concepts_and_groups():
    palette = {("bus", "car"): "red", "sky": _style.COLORS[0], "sea": "#123456"}
    styles = concept_styles(["bus", "car", "sky", "tree"], palette)
    colors, markers = zip(*styles.values(), strict=True)
    # The color that is taken is not dealt again.
    assert colors == ("#FF0000", "#FF0000", _style.COLORS[0], _style.COLORS[1])
    assert len(set(markers)) == 4


@pytest.mark.parametrize(
    ("palette", "error", "message"),
    [
        ("tab10", TypeError, "palette='tab10' is not a palette; pass a dict"),
        ({"cow": "red"}, ValueError, r"none of the concepts \[.bus.\]; it contains \[.cow.\]"),
        ({"bus": "blurple"}, ValueError, "blurple"),
    ],
)
def test_an_invalid_palette_raises(palette, error, message):
    with pytest.raises(error, match=message):
        concept_styles(["bus"], palette)


def test_displays_take_a_palette():
    X, y = np.random.default_rng(0).normal(size=(12, 2)), np.array(["bus", "car", "sky"] * 4)
    kept = y != "car"
    kw = {"palette": ["bus", "car", "sky"]}
    shown = ConceptMapDisplay.from_embeddings(X[kept], y[kept], mixture=None, **kw)
    assert to_hex(shown.scatter_["sky"].get_facecolors()[0]).upper() == _style.COLORS[2]
    tree = DendrogramDisplay.from_embeddings(X[kept], y[kept], **kw)
    assert to_hex(tree.strip_["sky"].get_facecolor()[0]).upper() == _style.COLORS[2]
    curves = {"precision": np.ones((2, 2)), "k": [1, 5], "chance": [0, 0]}
    both = PrecisionAtKDisplay(**curves, concepts=["car", "sky"]).plot(**kw).line_
    every = concept_styles(kw["palette"])
    assert [(line.get_color(), line.get_marker()) for line in both] == [every["car"], every["sky"]]
    with pytest.raises(ValueError, match="palette needs concepts; pass y"):
        ConceptMapDisplay(X).plot(palette={"car": "red"})
    table = pd.DataFrame({"model": ["car", "sky"], "layer": "a", "mean": 0.5, "std": 0.1})
    models = LayerComparisonDisplay(table).plot(**kw).errorbar_
    assert [bar[0].get_color() for bar in models] == [every["car"][0], every["sky"][0]]
    tree = DendrogramDisplay([[0, 1, 1.0, 2]], [0, 4]).plot(palette={4: "red"})
    assert [to_hex(bar.get_facecolor()) for bar in tree.bars_] == ["#0072b2", "#ff0000"]


def test_a_new_figure_has_the_width_of_a_column_and_legible_fonts():
    with open_axes(SimpleNamespace()) as ax:
        ax.set(title="t", xlabel="x", ylabel="y")
        ax.plot([0, 1], label="car")
        texts = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels()]
        texts += ax.legend().get_texts()
    assert ax.figure.get_size_inches()[0] == 3.3
    assert {text.get_size() for text in texts} == {7, 8}


def test_given_axes_keep_their_style():
    figure, ax = plt.subplots()
    display = SimpleNamespace()
    with open_axes(display, ax) as opened:
        assert opened is ax
        assert plt.rcParams["font.size"] == plt.rcParamsDefault["font.size"]
    assert display.ax_ is ax
    assert display.figure_ is figure


def test_a_figure_is_closed_if_drawing_fails():
    before = plt.get_fignums()
    with pytest.raises(ValueError, match="bad"), open_axes(SimpleNamespace()):
        raise ValueError("bad")
    assert plt.get_fignums() == before


@pytest.mark.parametrize("save", ["figure", "pyplot"])
def test_text_is_saved_as_text(save):
    display, file = SimpleNamespace(), io.StringIO()
    with open_axes(display) as ax:
        ax.set_title("traffic light")
    (display.figure_ if save == "figure" else plt).savefig(file, format="svg")
    assert ">traffic light</text>" in file.getvalue()


@pytest.mark.parametrize("display", [DendrogramDisplay, SeparationDisplay, ConceptMapDisplay])
def test_displays_draw_into_a_part_of_a_figure(display):
    X = np.random.default_rng(0).normal(size=(12, 2))
    part = plt.figure(layout="constrained").subfigures(1, 2)[0]
    shown = display.from_embeddings(X, ["bus", "car", "sky"] * 4, ax=part.subplots())
    assert shown.figure_ is part


# Mathematics that is none, a name that legends would leave out, and signs of LaTeX.
SIGNS = ["$x_$", "_background_", "50 % & {$a$}"]


def test_special_characters_in_names_are_drawn_unchanged():
    X = np.random.default_rng(0).normal(size=(12, 2))
    table = pd.DataFrame({"model": SIGNS[1], "layer": SIGNS, "mean": 0.5, "std": 0.1})
    table = pd.concat([table, table.assign(model="_other")])
    displays = [
        *(d.from_embeddings(X, SIGNS * 4) for d in (DendrogramDisplay, SeparationDisplay)),
        *(d.from_embeddings(X, SIGNS * 4) for d in (ConceptMapDisplay, PrecisionAtKDisplay)),
        ChannelDisplay.from_embeddings(np.eye(3), feature_names=SIGNS),
        LayerComparisonDisplay(table).plot(),
    ]
    for shown in displays:
        shown.figure_.savefig(file := io.StringIO(), format="svg")
        texts = {text.strip() for text in ElementTree.fromstring(file.getvalue()).itertext()}
        assert {*SIGNS} <= texts
    assert "_other" in texts


def test_the_interactive_mode_of_a_notebook_lasts(monkeypatch):
    """The inline backend turns it on at the first figure, and shows figures only then."""
    was, new_figure = plt.isinteractive(), plt.figure

    def figure(*args, **kwargs):
        plt.ion()
        return new_figure(*args, **kwargs)

    plt.ioff()
    monkeypatch.setattr(plt, "figure", figure)
    DendrogramDisplay.from_embeddings(np.eye(4), list("aabb"))
    interactive = plt.isinteractive()
    plt.interactive(was)
    assert interactive
