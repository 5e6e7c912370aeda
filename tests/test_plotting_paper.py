"""Every display at the widths of a paper: texts do not overlap, and nothing is cut off."""

import io
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.text import Text
from PIL import Image

from sklearn_loce import MaskedMeanTransformer, TorchModel
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.metrics import compare_layers
from sklearn_loce.outliers import label_issues
from sklearn_loce.plotting import (
    CentroidDistanceDisplay,
    ChannelDisplay,
    ClusterGalleryDisplay,
    ConceptMapDisplay,
    DendrogramDisplay,
    LabelIssuesDisplay,
    LayerComparisonDisplay,
    OutlierDisplay,
    OverlapDisplay,
    PrecisionAtKDisplay,
    ProjectionDisplay,
    RetrievalDisplay,
    SegmentationDisplay,
    SeparationDisplay,
)
from sklearn_loce.plotting._style import PAPER_STYLE

pytestmark = [
    pytest.mark.usefixtures("no_figure_stays"),
    pytest.mark.filterwarnings("ignore:.*(can't be judged|leaves out)"),
]
PAGE_HEIGHT = 9.05


def read_shape(image):
    if hasattr(image, "shape"):
        return image.shape[:2]
    with Image.open(image) as picture:
        return picture.size[::-1]


class Drawer:
    """Stands for a transformer and a segmenter: draws a ramp from left to right."""

    threshold = 0.5

    def __init__(self, concepts=()):
        self.concepts_ = np.array(concepts)

    def project(self, X, embeddings=None, *, layer=None, threshold=0.5):
        shapes = [read_shape(image) for image in X["image"]]
        return [np.tile(np.linspace(0.9, 0.1, w, dtype=np.float32), (h, 1)) for h, w in shapes]

    def segment(self, images):
        raise AssertionError("not asked for")

    def predict_proba(self, X):
        maps = self.project(X)
        return [np.roll(own, 7 * i, axis=1) for i, own in enumerate(maps)]


def make_synthetic():
    """Make vectors and a table of 80 concepts with names as long as those of COCO and longer."""
    rng, rows = np.random.default_rng(0), []
    words = ["sports ball", "traffic light", "cup", "dining_table--round"]
    for i in range(480):
        mask = np.zeros((24, 32), dtype=bool)
        mask[4 : 6 + i % 12, 5 : 8 + i % 9] = True
        image = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        rows.append((image, mask, f"{words[i % 4]} {i % 80}", i))
    centers = 1.5 * rng.normal(size=(80, 16))
    vectors = centers[np.arange(480) % 80] + rng.normal(size=(480, 16))
    return vectors, pd.DataFrame(rows, columns=["image", "mask", "concept", "image_id"])


@pytest.fixture(scope="module")
def make_rows(request):
    """Vectors and table of each kind of data, made when they are first needed."""
    made = {}

    def make(name):
        if name not in made:
            if name == "scenes":
                X = make_scenes(9, random_state=0).data
                network, layer = TorchModel(load_scene_model), "features.5"
            elif name == "camvid":
                X = request.getfixturevalue("camvid_frames").reset_index(drop=True)
                network, layer = request.getfixturevalue("camvid_network"), "backbone.13"
            if name == "synthetic":
                made[name] = make_synthetic()
            else:
                made[name] = MaskedMeanTransformer(network, layer).fit_transform(X), X
        return made[name]

    return make


def draw_map(X, s, **how):
    how = {"embedding": "pca", "random_state": 0, "mixture": None} | how
    return ConceptMapDisplay.from_embeddings(X, s["concept"], **how)


def draw_tree(X, s, **how):
    clusterer = ConceptAgglomerative(criterion="size", size=12)
    return DendrogramDisplay.from_embeddings(X, s["concept"], clusterer=clusterer, **how)


def draw_channels(X, s, **how):
    return ChannelDisplay.from_embeddings(X, s["concept"], group=s["concept"].iloc[0], **how)


def draw_projections(X, s, **how):
    return ProjectionDisplay.from_estimator(Drawer(), s, X, rows=range(8), **how)


def draw_segmentation(X, s, **how):
    concepts = np.unique(s["concept"])[:24]
    return SegmentationDisplay.from_estimator(Drawer(concepts), s["image"].tolist()[:4], **how)


def draw_retrieval(X, s, **how):
    return RetrievalDisplay.from_embeddings(X, s, queries=[0, 1], projector=Drawer(), **how)


def draw_gallery(X, s, **how):
    labels = np.arange(len(X)) % 3
    return ClusterGalleryDisplay.from_embeddings(X, s, labels, projector=Drawer(), **how)


def draw_outliers(X, s, **how):
    own = {"concepts": np.unique(s["concept"])[:3]} if "ax" in how else {}
    return OutlierDisplay.from_embeddings(X, s, projector=Drawer(), **own, **how)


def draw_issues(X, s, **how):
    issues = label_issues(X, s["concept"], k=3)
    return LabelIssuesDisplay.from_issues(issues, s, n_rows=8, **how)


def draw_precision(X, s, **how):
    return PrecisionAtKDisplay.from_embeddings(X, s["concept"], k=[1, 5, 10], **how)


def make_layers(X, names):
    rng = np.random.RandomState(0)
    return {name: X + i * X.std() * rng.normal(size=X.shape) for i, name in enumerate(names)}


def draw_precision_of_layers(X, s, **how):
    layers = make_layers(X, [f"VGG16, features.{i}" for i in range(4)])
    return PrecisionAtKDisplay.from_embeddings(layers, s["concept"], k=[1, 5, 10], **how)


def compare(metric, **own):
    def draw(X, s, **how):
        tables, sample = {}, {"n_repeats": 3, "rows_per_concept": 3, "random_state": 0}
        for model in ("VGG16 with batch normalization", "DETR"):
            layers = make_layers(X, [f"backbone.features.{i}" for i in range(3)])
            iou = {name: np.linspace(0, 1, len(X)) ** (i + 1) for i, name in enumerate(layers)}
            tables[model] = compare_layers(layers, s["concept"], iou=iou, k=2, **sample)
        return LayerComparisonDisplay.from_table(tables, metric, **own, **how)

    return draw


def of_concepts(display, **own):
    return lambda X, s, **how: display.from_embeddings(X, s["concept"], **own, **how)


def with_options(draw, **own):
    return lambda X, s, **how: draw(X, s, **own, **how)


DISPLAYS = {
    "map": draw_map,
    "map with names": with_options(draw_map, legend="on map"),
    "map with regions": with_options(draw_map, mixture="auto", regions=True),
    "separation": of_concepts(SeparationDisplay),
    "overlap": of_concepts(OverlapDisplay),
    "centroids": of_concepts(CentroidDistanceDisplay, tree=True),
    "dendrogram": draw_tree,
    "channels": draw_channels,
    "probability": draw_projections,
    "errors": with_options(draw_projections, kind="errors"),
    "segmentation": draw_segmentation,
    "retrieval": draw_retrieval,
    "gallery": draw_gallery,
    "outliers": draw_outliers,
    "issues": draw_issues,
    "precision": draw_precision,
    "precision of layers": draw_precision_of_layers,
    "precision and its spread": compare("precision_at_2"),
    "purity and clusters": compare(["purity", "n_clusters"]),
    "IoU, failures, differences": compare(["iou", "failed_share"], kind="difference"),
}
DATA = ("scenes", "camvid", "synthetic")
WIDTHS = {"own": None, "column": 3.3, "page": 6.9}
STYLES = {"light": "default", "dark": "dark_background"}
IN_GIVEN_AXES = ("errors", "retrieval", "overlap", "IoU, failures, differences")


def is_quick(display, *case):
    return display in IN_GIVEN_AXES and case == ("scenes", "column", "light")


def list_cases():
    for case in [(d, a, w, s) for d in DISPLAYS for a in DATA for w in WIDTHS for s in STYLES]:
        # A mixture per concept needs minutes for 80 of them.
        if case[:2] != ("map with regions", "synthetic"):
            yield pytest.param(*case, marks=[] if is_quick(*case) else pytest.mark.slow)


@pytest.mark.parametrize(("display", "data", "width", "style"), [*list_cases()])
def test_a_figure_is_complete_and_its_texts_do_not_overlap(display, data, width, style, make_rows):
    figure = draw_figure(display, data, width, style, make_rows)
    assert width != "own" or figure.get_figheight() <= PAGE_HEIGHT
    check_border(save(figure), 0 if style == "dark" else 255)
    check_texts(figure)


def draw_figure(display, data, width, style, make_rows):
    rows = make_rows(data)
    with plt.style.context(STYLES[style]):
        if WIDTHS[width] is None:
            return DISPLAYS[display](*rows).figure_
        with plt.rc_context(PAPER_STYLE):
            size = WIDTHS[width], 4 + 4 * (data == "synthetic")
            figure, ax = plt.subplots(figsize=size, layout="constrained")
            DISPLAYS[display](*rows, ax=ax)
            return figure


def save(figure):
    """Save a figure for the first time, as an array of shape (height, width, 3)."""
    file = io.BytesIO()
    figure.savefig(file, dpi="figure")  # at which texts are measured afterwards
    return np.asarray(Image.open(file).convert("RGB"))


def check_border(picture, ground):
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == ground).all()


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


def measure_corners(text):
    """Measure the corners of the box around a text, which may be slanted, in pixels."""
    middle, angle = np.mean(text.get_window_extent().get_points(), axis=0), text.get_rotation()
    text.set_rotation(0)
    half = text.get_window_extent().size / 2
    text.set_rotation(angle)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return middle + (half * [[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ [[cos, sin], [-sin, cos]]


def measure_gap(one, other):
    """Measure how far two convex shapes lie apart along the best of the sides' normals."""
    sides = np.concatenate([np.roll(shape, -1, axis=0) - shape for shape in (one, other)])
    normals = np.column_stack([-sides[:, 1], sides[:, 0]]) / np.linalg.norm(sides, axis=1)[:, None]
    first, second = one @ normals.T, other @ normals.T
    gaps = np.maximum(
        first.min(axis=0) - second.max(axis=0), second.min(axis=0) - first.max(axis=0)
    )
    return gaps.max()


def check_texts(figure):
    """Check that all texts lie in the figure, and none on another."""
    corners = {text: measure_corners(text) for text in list_texts(figure)}
    assert corners
    for text, shape in corners.items():
        assert (shape >= -1).all(), text
        assert (shape <= figure.bbox.size + 1).all(), text
    for one, other in combinations(corners, 2):
        assert measure_gap(corners[one], corners[other]) > -1, (one, other)


@pytest.mark.parametrize("display", ["map", "overlap", "dendrogram", "channels", "precision"])
def test_a_figure_has_the_size_of_rcparams(display, make_rows):
    with plt.rc_context({"figure.figsize": (6.9, 5.0)}):
        figure = DISPLAYS[display](*make_rows("scenes")).figure_
    assert figure.get_size_inches() == pytest.approx((6.9, 5.0))
    check_border(save(figure), 255)
    check_texts(figure)


@pytest.mark.slow
def test_figures_of_many_rows_are_no_higher_than_a_page():
    X, s = make_synthetic()
    labels = np.arange(len(X)) % 30
    gallery = ClusterGalleryDisplay.from_embeddings(X, s, labels)
    projections = ProjectionDisplay.from_estimator(Drawer(), s[:40], X[:40])
    for display in (gallery, projections):
        assert display.figure_.get_figheight() <= PAGE_HEIGHT
    with pytest.raises(ValueError, match="41 rows, which are too many"):
        ProjectionDisplay.from_estimator(Drawer(), s[:41], X[:41])


@pytest.mark.parametrize("n_letters", [3, 9, 20])
@pytest.mark.parametrize("size", [(2.2, 2.0), (3.3, 2.5), (6.9, 2.5)])
def test_a_legend_of_24_names_fits_into_small_axes(size, n_letters):
    names = [f"{'abcdefghij' * 2}"[: n_letters - 2] + f"{i:02}" for i in range(24)]
    values = np.tile(np.linspace(0.2, 0.9, 24)[:, None], 2)
    with plt.rc_context(PAPER_STYLE):
        figure, ax = plt.subplots(figsize=size, layout="constrained")
        PrecisionAtKDisplay(values, k=[1, 5], chance=[0.1] * 24, concepts=names).plot(ax=ax)
    check_border(save(figure), 255)
    check_texts(figure)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(set(shown)) == len(shown) == 26


def test_no_two_of_25_concepts_look_the_same():
    names = [f"concept {i}" for i in range(25)]
    X, y = np.random.default_rng(0).normal(size=(150, 2)), np.repeat(names, 6)
    shown = ConceptMapDisplay.from_embeddings(X, y, mixture=None).scatter_.values()
    marks = {(*p.get_facecolor()[0], p.get_paths()[0].vertices.tobytes()) for p in shown}
    strip = DendrogramDisplay.from_embeddings(X, y).strip_.values()
    colors = {tuple(part.get_facecolor()[0]) for part in strip}
    lines = PrecisionAtKDisplay.from_embeddings(X, y, k=[1]).line_[:24]
    curves = {(line.get_color(), line.get_marker()) for line in lines}
    assert (len(marks), len(colors)) == (25, 25)
    assert len(curves) == 1  # more than 24 curves are gray
    some = np.repeat(names[:24], 6)
    lines = PrecisionAtKDisplay.from_embeddings(X[:144], some, k=[1]).line_
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 24
