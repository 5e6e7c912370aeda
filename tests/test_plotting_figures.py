"""Figures as they go into a paper: texts are whole and apart, and nothing is cut at the border."""

import io
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.text import Text

from sklearn_loce import MaskedMeanTransformer, TorchModel
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.plotting import (
    CentroidDistanceDisplay,
    ChannelDisplay,
    ConceptMapDisplay,
    DendrogramDisplay,
    OutlierDisplay,
    OverlapDisplay,
    SeparationDisplay,
)

pytestmark = pytest.mark.usefixtures("no_figure_stays")


@pytest.fixture(scope="module")
def scenes():
    """Eight concepts."""
    X = make_scenes(12, random_state=0).data
    return MaskedMeanTransformer(TorchModel(load_scene_model), "features.5").fit_transform(X), X


@pytest.fixture(scope="module")
def synthetic():
    """Eighty concepts, with names as long as those of COCO."""
    rng = np.random.default_rng(0)
    names = [f"{'thing' if i % 3 else 'baseball glove'} {i}" for i in range(80)]
    centers = 3 * rng.normal(size=(80, 16))
    X = np.repeat(centers, 8, axis=0) + rng.normal(size=(640, 16))
    image, mask = np.full((6, 8, 3), 120, dtype=np.uint8), np.eye(6, 8, dtype=bool)
    y = np.repeat(names, 8)
    return X, pd.DataFrame({"image": [image] * 640, "mask": [mask] * 640, "concept": y})


@pytest.fixture(scope="module")
def driving(camvid_frames, camvid_network):
    """Eleven concepts."""
    means = MaskedMeanTransformer(camvid_network, "backbone.13")
    return means.fit_transform(camvid_frames), camvid_frames.reset_index(drop=True)


def make_map(X, samples, **kwargs):
    y = samples["concept"]
    return ConceptMapDisplay.from_embeddings(X, y, embedding="pca", random_state=0, **kwargs)


DISPLAYS = {
    "map": lambda X, s: make_map(X, s, mixture=None),
    "names": lambda X, s: make_map(X, s, mixture=None, legend="on map"),
    "regions": lambda X, s: make_map(X, s, regions=True),
    "separation": lambda X, s: SeparationDisplay.from_embeddings(X, s["concept"]),
    "overlap": lambda X, s: OverlapDisplay.from_embeddings(X, s["concept"]),
    "centroids": lambda X, s: CentroidDistanceDisplay.from_embeddings(X, s["concept"], tree=True),
    "dendrogram": lambda X, s: DendrogramDisplay.from_embeddings(
        X, s["concept"], clusterer=ConceptAgglomerative(criterion="size", size=12)
    ),
    "channels": lambda X, s: ChannelDisplay.from_embeddings(
        X, s["concept"], group=s["concept"].iloc[0]
    ),
    "outliers": lambda X, s: OutlierDisplay.from_embeddings(X, s),
}


def save(figure):
    """Save a figure once, as a picture of shape (height, width, 3)."""
    figure.savefig(file := io.BytesIO(), format="png", dpi=150)
    file.seek(0)
    return plt.imread(file)[:, :, :3]


def is_slanted(text):
    return text.get_rotation() % 90 != 0


def check_texts(figure):
    """Texts lie in the figure, and none on another."""
    figure.canvas.draw()
    boxes = {text: text.get_window_extent() for text in list_texts(figure)}
    width, height = figure.bbox.size
    for text, box in boxes.items():
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for one, other in combinations(boxes, 2):
        # The boxes of slanted names overlap, and their letters do not.
        if not (is_slanted(one) and is_slanted(other)):
            a, b = boxes[one], boxes[other]
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, (one, other)


def list_texts(figure):
    """List the texts that are drawn: not those of ticks beyond the ends of an axis."""
    beyond = set()
    for axis in figure.findobj(Axis):
        drawn = axis._update_ticks() if axis.axes.axison else []
        ticks = [*axis.majorTicks, *axis.minorTicks]
        beyond |= {text for t in ticks if t not in drawn for text in (t.label1, t.label2)}
        beyond |= set() if axis.axes.axison else {axis.label}
    texts = figure.findobj(lambda t: isinstance(t, Text) and t.get_visible() and t not in beyond)
    return [text for text in texts if text.get_text().strip()]


def check_border(picture, ground):
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all(np.abs(edge - ground).max() < 0.01 for edge in edges)


def check(name, rows, style="default", size=None):
    X, samples = rows
    with plt.style.context(style):
        if size is not None:
            plt.rcParams["figure.figsize"] = size
        display = DISPLAYS[name](X, samples)
    figure = display.figure_
    assert figure.get_figheight() <= 9.05
    if size is not None and name != "outliers":
        assert figure.get_size_inches() == pytest.approx(size)
    check_border(save(figure), 0.0 if style == "dark_background" else 1.0)
    check_texts(figure)


@pytest.mark.parametrize("name", DISPLAYS)
def test_a_figure_of_eight_concepts_is_whole(scenes, name):
    check(name, scenes)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISPLAYS)
def test_a_figure_as_wide_as_a_page_is_whole(scenes, name):
    check(name, scenes, size=(6.9, 5.0))


@pytest.mark.slow
@pytest.mark.parametrize("style", ["default", "dark_background"])
@pytest.mark.parametrize("name", DISPLAYS)
def test_a_figure_of_eleven_concepts_is_whole(driving, name, style):
    check(name, driving, style)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DISPLAYS if name != "regions"])
def test_a_figure_of_eighty_concepts_is_whole(synthetic, name):
    check(name, synthetic)
