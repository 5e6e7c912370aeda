"""Names that are longer than figures have room for."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sklearn_loce.plotting import (
    ChannelDisplay,
    DendrogramDisplay,
    LayerComparisonDisplay,
    OverlapDisplay,
    PrecisionAtKDisplay,
    SeparationDisplay,
)
from sklearn_loce.plotting._names import shorten

pytestmark = pytest.mark.usefixtures("no_figure_stays")

LONG = [f"object--vehicle--{name}_with_a_very_long_hierarchical/name" for name in ("bus", "car")]


@pytest.mark.parametrize(
    ("names", "most"),
    [(LONG, 12), ([*LONG, "mean"], 42), ([f"features.13.block.3[{i}]" for i in range(30)], 14)],
)
def test_short_names_are_distinct(names, most):
    short = shorten(names, most)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= most


def test_names_that_fit_are_unchanged():
    assert shorten(["car", 7, "car"], 3) == ["car", "7", "car"]


def test_names_that_differ_only_in_the_middle_are_unchanged():
    names = [f"{'a' * 20}{name}{'b' * 20}" for name in ("x", "y")] + ["another"]
    assert shorten(names, 12) == names


def display_of(kind):
    X = np.random.default_rng(0).normal(size=(12, 4))
    if kind is LayerComparisonDisplay:
        table = pd.DataFrame({"model": "m", "layer": LONG, "mean": 0.5, "std": 0.1})
        return kind(table).plot()
    if kind is ChannelDisplay:
        names = [f"module.backbone.features.13.block.3.conv[{i}]" for i in range(4)]
        return kind.from_embeddings(X, LONG * 6, group=LONG[0], feature_names=names)
    return kind.from_embeddings(X, LONG * 6)


@pytest.mark.parametrize(
    "kind",
    [
        ChannelDisplay,
        DendrogramDisplay,
        LayerComparisonDisplay,
        OverlapDisplay,
        PrecisionAtKDisplay,
        SeparationDisplay,
    ],
)
def test_long_names_stay_inside_the_figure_and_leave_room(kind):
    display = display_of(kind)  # a layout without room would warn
    figure, width = display.figure_, display.figure_.bbox.width
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert 0 < box.x0 < box.x1 < width
    assert display.ax_.get_window_extent().width > 0.25 * width


def test_black_lines_are_white_on_dark_figures():
    X = np.random.default_rng(0).normal(size=(12, 4))
    with plt.style.context("dark_background"):
        display = PrecisionAtKDisplay.from_embeddings(X, ["bus", "car"] * 6)
    assert display.mean_line_.get_color() == "white"
