"""Displays of images, layers and retrieval at the widths of a paper: nothing is cut or overlaps."""

import io
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sklearn_loce.datasets import make_scenes
from sklearn_loce.metrics import compare_layers
from sklearn_loce.outliers import label_issues
from sklearn_loce.plotting import (
    ClusterGalleryDisplay,
    LabelIssuesDisplay,
    LayerComparisonDisplay,
    OutlierDisplay,
    PrecisionAtKDisplay,
    ProjectionDisplay,
    RetrievalDisplay,
)
from sklearn_loce.plotting._style import PAPER_STYLE

from .test_plotting_images import texts_of

pytestmark = [
    pytest.mark.usefixtures("no_figure_stays"),
    pytest.mark.filterwarnings("ignore:.*(can't be judged|leaves out)"),
]
ROWS_PER_CONCEPT = 6


class Projector:
    """Draws the left half of each image."""

    def project(self, X, embeddings=None, *, layer=None, threshold=0.5):
        shapes = [read_shape(image) for image in X["image"]]
        return [np.tile(np.linspace(0.9, 0.1, w, dtype=np.float32), (h, 1)) for h, w in shapes]


def read_shape(image):
    if not isinstance(image, str):
        return image.shape[:2]
    with Image.open(image) as picture:
        return picture.size[::-1]


def draw_many():
    """Draw a table of 80 concepts with names as long as those of COCO and longer."""
    rng, rows = np.random.default_rng(0), []
    for i in range(80 * ROWS_PER_CONCEPT):
        mask = np.zeros((24, 32), dtype=bool)
        mask[4 : 6 + i % 12, 5 : 8 + i % 9] = True
        image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        concept = i % 80
        name = f"{['sports ball', 'traffic light', 'cup', 'dining_table--round'][i % 4]} {concept}"
        rows.append((image, mask, name, i))
    return pd.DataFrame(rows, columns=["image", "mask", "concept", "image_id"])


@pytest.fixture(scope="module")
def tables(request):
    made = {}

    def make(name):
        if name not in made:
            if name == "camvid":
                table = request.getfixturevalue("camvid").data
            else:
                table = draw_many() if name == "80" else make_scenes(9, random_state=0).data
            counts = table.groupby("concept").cumcount()
            table = table[counts < ROWS_PER_CONCEPT].reset_index(drop=True)
            table["image"] = [str(i) if not hasattr(i, "shape") else i for i in table["image"]]
            made[name] = table, embed(table)
        return made[name]

    return make


def embed(table, seed=0):
    """Draw vectors that are near those of their concept."""
    rng = np.random.RandomState(seed)
    concepts, codes = np.unique(table["concept"], return_inverse=True)
    centers = rng.normal(size=(len(concepts), 8))
    return centers[codes] + 0.7 * rng.normal(size=(len(codes), 8))


def project(kind):
    return lambda X, V, **how: ProjectionDisplay.from_estimator(
        Projector(), X, V, rows=range(8), kind=kind, **how
    )


def retrieve(X, V, **how):
    return RetrievalDisplay.from_embeddings(V, X, queries=[0, 1], projector=Projector(), **how)


def gather(X, V, **how):
    labels = np.arange(len(X)) % 3
    return ClusterGalleryDisplay.from_embeddings(V, X, labels, projector=Projector(), **how)


def find_outliers(X, V, **how):
    concepts = X["concept"].unique()[:3]
    how = {"show": "projection", "projector": Projector(), "concepts": concepts} | how
    return OutlierDisplay.from_embeddings(V, X, **how)


def find_issues(X, V, **how):
    return LabelIssuesDisplay.from_issues(label_issues(V, X["concept"], k=3), X, n_rows=8, **how)


def rank(X, V, **how):
    return PrecisionAtKDisplay.from_embeddings(V, X["concept"], k=[1, 5, 10], **how)


def rank_layers(X, V, **how):
    layers = {f"VGG16, features.{i}": embed(X, i) for i in range(4)}
    return PrecisionAtKDisplay.from_embeddings(layers, X["concept"], k=[1, 5, 10], **how)


def compare(metric, **own):
    def draw(X, V, **how):
        tables = {}
        for model in ("VGG16 with batch normalization", "DETR"):
            layers = {f"backbone.features.{i}": embed(X, i) for i in range(3)}
            iou = {name: np.linspace(0, 1, len(X)) ** (i + 1) for i, name in enumerate(layers)}
            tables[model] = compare_layers(
                layers, X["concept"], iou=iou, k=3, n_repeats=3, rows_per_concept=3, random_state=0
            )
        return LayerComparisonDisplay.from_table(tables, metric, **own, **how)

    return draw


DISPLAYS = {
    "probability": project("probability"),
    "errors": project("errors"),
    "retrieval": retrieve,
    "gallery": gather,
    "outliers": find_outliers,
    "issues": find_issues,
    "precision": rank,
    "precision of layers": rank_layers,
    "precision and its spread": compare("precision_at_3"),
    "purity and clusters": compare(["purity", "n_clusters"]),
    "IoU, failures, differences": compare(["iou", "failed_share"], kind="difference"),
}
WIDTHS = {"own": None, "column": 3.3, "page": 6.9}
QUICK = ("errors", "retrieval", "precision of layers", "IoU, failures, differences")
CASES = [
    pytest.param(
        *(display, data, width),
        marks=[]
        if (data, width) == ("scenes", "column") and display in QUICK
        else pytest.mark.slow,
    )
    for display in DISPLAYS
    for data in ("scenes", "80", "camvid")
    for width in WIDTHS
]


@pytest.mark.parametrize(("display", "data", "width"), CASES)
def test_nothing_is_cut_or_overlaps(display, data, width, tables):
    if WIDTHS[width] is None:
        figure = DISPLAYS[display](*tables(data)).figure_
    else:
        with plt.rc_context(PAPER_STYLE):
            size = WIDTHS[width], 4 + 4 * (data == "80")
            figure, ax = plt.subplots(figsize=size, layout="constrained")
            DISPLAYS[display](*tables(data), ax=ax)
    check_background(figure)
    figure.draw_without_rendering()
    check_texts(figure)


def check_background(figure):
    """Check that what is drawn ends before the figure does, as it is saved first."""
    file = io.BytesIO()
    figure.savefig(file, dpi=300)
    pixels = np.asarray(Image.open(file).convert("RGB"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()


def check_texts(figure):
    """Check that all texts lie in the figure, and none on another."""
    texts = [text for ax in figure.axes for text in texts_of(ax)]
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    texts += [text for legend in legends for text in legend.get_texts()]
    texts = [text for text in texts if text.get_text().strip()]
    assert texts
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    for (text, box), (other, other_box) in combinations(zip(texts, boxes, strict=True), 2):
        width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        if text.get_rotation() == other.get_rotation() == 40:  # names of layers, which are parallel
            gap = abs(box.x1 - other_box.x1) * np.sin(np.radians(40))
            assert gap > text.get_size() * figure.dpi / 72, (text, other)
        else:
            assert min(width, height) <= 1, (text, other)
