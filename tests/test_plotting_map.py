"""Concept maps and channels."""

import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.plotting import ChannelDisplay, ConceptMapDisplay

pytestmark = pytest.mark.usefixtures("no_figure_stays")


@pytest.fixture
def rows():
    X, parts = make_blobs([30] * 4, n_features=2, random_state=3)
    return X @ [[2.0, 0.5], [0.0, 1.0]], np.array(["bus", "car", "car", "tree"])[parts]


def axes_of(ellipse):
    """Half axes of an ellipse as a matrix whose columns are vectors in the plane."""
    angle = np.radians(ellipse.angle)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn * [ellipse.width / 2, ellipse.height / 2]


@pytest.mark.parametrize(
    "mixture",
    [
        "auto",
        *(
            GaussianMixture(3, covariance_type=t, random_state=0)
            for t in ("full", "tied", "diag", "spherical")
        ),
    ],
)
def test_ellipses_match_the_covariances(rows, mixture):
    X, y = rows
    shown = ConceptMapDisplay.from_embeddings(X, y, mixture=mixture, random_state=0)
    assert len(shown.ellipses_) == len(shown.means) > 2
    for ellipse, mean, covariance in zip(
        shown.ellipses_, shown.means, shown.covariances, strict=True
    ):
        half = axes_of(ellipse)
        # A covariance is the sum over its axes of vector times vector.
        np.testing.assert_allclose(half @ half.T / 4, covariance, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ellipse.center, mean)
        lengths = sorted(2 * np.sqrt(np.linalg.eigvalsh(covariance)))
        np.testing.assert_allclose(sorted([ellipse.width / 2, ellipse.height / 2]), lengths)


def test_points_match_the_rows_of_each_concept(rows):
    X, y = rows
    X = np.vstack([X, [[np.nan, 0.0]]])
    shown = ConceptMapDisplay.from_embeddings(X, [*y, "car"], mixture=None)
    assert shown.n_failed == 1
    assert list(shown.scatter_) == ["bus", "car", "tree"]
    for name, points in shown.scatter_.items():
        np.testing.assert_array_equal(points.get_offsets(), X[:-1][y == name])
    assert shown.ellipses_ == []
    assert shown.im_ is None


@pytest.mark.parametrize("name", ["c", "color"])
def test_a_color_of_the_user_applies_to_all_marks(rows, name):
    X, y = rows
    shown = ConceptMapDisplay.from_embeddings(X, y, mixture=None, scatter_kw={name: "red"})
    for points in shown.scatter_.values():
        assert [to_hex(color) for color in points.get_facecolors()] == ["#ff0000"]
    shown = ChannelDisplay.from_embeddings(X, y, group="car", reference_kw={name: "red"})
    assert [to_hex(color) for color in shown.reference_.get_edgecolors()] == ["#ff0000"]


def test_regions_have_the_largest_density(rows):
    X, y = rows
    shown = ConceptMapDisplay.from_embeddings(X, y, regions=True, random_state=0)
    model = ConceptGaussianMixture(random_state=0).fit(X, y)
    n_rows, n_columns = shown.regions.shape
    left, right, bottom, top = shown.extent
    for i, j in np.random.default_rng(0).integers((n_rows, n_columns), size=(50, 2)):
        place = (
            left + (j + 0.5) * (right - left) / n_columns,
            bottom + (i + 0.5) * (top - bottom) / n_rows,
        )
        density = pd.Series(0.0, index=np.unique(y))
        for weight, mean, covariance, name in zip(
            model.weights_, model.means_, model.covariances_, model.component_concepts_, strict=True
        ):
            density[name] += weight * multivariate_normal.pdf(place, mean, covariance)
        if density.nlargest(2).iloc[1] < 0.99 * density.max():
            assert shown.regions[i, j] == density.idxmax()
    assert shown.im_.get_extent() == list(shown.extent)


def test_components_without_concepts_are_numbered(rows):
    mixture = ConceptGaussianMixture(per_concept=False, random_state=0)
    shown = ConceptMapDisplay.from_embeddings(*rows, mixture=mixture, regions=True)
    assert shown.component_concepts is None
    assert shown.component_names == list(range(len(shown.means)))
    for i, (text, concept) in enumerate(zip(shown.text_, shown.component_majorities, strict=True)):
        assert text.get_text() == f"{i} {concept}"
        # Its concept is that of most rows near its mean.
        near = np.argsort(np.linalg.norm(rows[0] - shown.means[i], axis=1))[:9]
        names, counts = np.unique(rows[1][near], return_counts=True)
        assert names[counts.argmax()] == concept
    assert set(np.unique(shown.regions)) <= set(range(len(shown.means)))


def test_labels_define_gaussians(rows):
    X, y = rows
    labels = np.where(y == "car", 0, np.where(y == "bus", 1, -1))
    labels[-1] = 7
    shown = ConceptMapDisplay.from_embeddings(X, y, mixture=labels.tolist())
    assert len(shown.ellipses_) == 2
    assert shown.component_majorities == ["car", "bus"]
    # A concept that has no room is left out.
    assert [text.get_text() for text in shown.text_] == ["0 car", "1"]
    inside = X[labels == 0]
    np.testing.assert_allclose(shown.means[0], inside.mean(axis=0))
    centred = inside - inside.mean(axis=0)
    np.testing.assert_allclose(shown.covariances[0], centred.T @ centred / len(inside))


def test_a_pipeline_shows_its_fitted_mixture(rows):
    X, y = rows
    X = np.column_stack([X, X**2])
    pipeline = make_pipeline(StandardScaler(), PCA(2), ConceptGaussianMixture(random_state=0))
    pipeline.fit(X, y)
    shown = ConceptMapDisplay.from_estimator(pipeline, X, y)
    np.testing.assert_allclose(shown.coordinates, pipeline[:-1].transform(X))
    np.testing.assert_array_equal(shown.means, pipeline[-1].means_)


@pytest.mark.parametrize("embedding", ["pca", PCA(2)])
def test_coordinates_come_from_the_embedding(rows, embedding):
    X = np.column_stack([rows[0], rows[0] ** 2])
    shown = ConceptMapDisplay.from_embeddings(X, rows[1], embedding=embedding, mixture=None)
    np.testing.assert_allclose(np.abs(shown.coordinates), np.abs(PCA(2).fit_transform(X)))
    given = ConceptMapDisplay.from_embeddings(X, rows[1], embedding=shown.coordinates, mixture=None)
    np.testing.assert_array_equal(given.coordinates, shown.coordinates)


@pytest.mark.slow
def test_umap_is_reproducible(rows):
    X = np.column_stack([rows[0], rows[0] ** 2])
    given = {"mixture": None, "random_state": 0}
    maps = [ConceptMapDisplay.from_embeddings(X, rows[1], **given) for _ in range(2)]
    np.testing.assert_array_equal(maps[0].coordinates, maps[1].coordinates)
    assert maps[0].axis_names == ("UMAP 1", "UMAP 2")
    spread = maps[0].coordinates.var(axis=0)
    assert spread[0] > spread[1]


@pytest.mark.parametrize(
    ("X", "embedding", "message"),
    [
        (
            [[1.0, 2.0, 3.0]],
            "pca",
            "'pca' needs at least 2 finite rows and 2 features, got 1 and 3",
        ),
        ([[1.0], [2.0], [3.0]], "pca", "'pca' needs .*, got 3 and 1; pass more rows"),
        ([[1.0, 2.0, 3.0]], None, "'umap' needs at least 3 finite rows and 1 feature, got 1 and 3"),
        ([[1.0, 2.0]] * 2, "umap", "'umap' needs .*, got 2 and 2; pass more rows, or coordinates"),
        ([[1.0, 2.0]] * 6, "pca", "'pca' needs different rows, but the 6 finite rows are equal"),
        ([[1.0, 2.0, 3.0]] * 6, "umap", "'umap' needs different rows, .* pass other rows"),
    ],
)
def test_too_few_or_equal_rows_raise(X, embedding, message):
    with pytest.raises(ValueError, match=message):
        ConceptMapDisplay.from_embeddings(X, embedding=embedding, mixture=None)


@pytest.mark.parametrize(("n_rows", "embedding"), [(2, "pca"), (3, "umap")])
def test_a_map_of_the_fewest_rows(n_rows, embedding):
    X = np.random.default_rng(0).normal(size=(n_rows, 4))
    shown = ConceptMapDisplay.from_embeddings(X, embedding=embedding, mixture=None, random_state=0)
    assert shown.coordinates.shape == (n_rows, 2)
    assert np.isfinite(shown.coordinates).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"embedding": "tsne"}, "embedding='tsne' is not"),
        ({"embedding": np.zeros((3, 2))}, "two per row"),
        ({"embedding": PCA(1)}, "two per row"),
        ({"mixture": "gmm"}, "mixture='gmm' is not"),
        ({"mixture": [0, 1]}, "inconsistent numbers of samples"),
        ({"mixture": None, "regions": True}, "regions=True needs a mixture"),
        ({"mixture": PCA(1)}, "PCA has no means_ and covariances_"),
    ],
)
def test_invalid_maps_raise(rows, given, message):
    with pytest.raises(ValueError, match=message):
        ConceptMapDisplay.from_embeddings(*rows, **given)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("n_concepts", [None, 1, 20])
def test_maps_of_no_one_and_twenty_concepts(n_concepts):
    X = np.random.default_rng(0).normal(size=(200, 2))
    y = None if n_concepts is None else [f"concept {i % n_concepts}" for i in range(200)]
    shown = ConceptMapDisplay.from_embeddings(X, y, random_state=0)
    assert len(shown.scatter_) == (n_concepts or 1)
    if n_concepts is None:
        assert shown.ax_.get_legend() is None
        return
    legend = shown.ax_.get_legend().get_window_extent()
    assert len(shown.ax_.get_legend().get_texts()) == n_concepts
    assert shown.figure_.bbox.x0 <= legend.x0 < legend.x1 <= shown.figure_.bbox.x1
    looks = {
        (*p.get_facecolor()[0], p.get_paths()[0].vertices.tobytes())
        for p in shown.scatter_.values()
    }
    assert len(looks) == n_concepts


def test_channels_are_sorted_by_their_median(rows):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 30)), np.repeat(["car", "sky"], 20)
    names = [f"f[{i}]" for i in range(30)]
    shown = ChannelDisplay.from_embeddings(
        X, y, group="car", feature_names=names, normalized=False, n_channels=4
    )
    medians = [float(np.median(X[:20, i])) for i in range(30)]
    order = sorted(range(30), key=lambda i: -abs(medians[i]))[:4]
    assert shown.channels_.tolist() == order
    assert [t.get_text() for t in shown.ax_.get_yticklabels()] == [names[i] for i in order]
    drawn = [line.get_xdata() for line in shown.boxes_["medians"]]
    np.testing.assert_allclose(drawn, np.repeat([medians[i] for i in order], 2).reshape(4, 2))
    others = [np.median(X[20:, i]) for i in order]
    np.testing.assert_allclose(shown.reference_.get_offsets()[:, 0], others)
    assert sum(shown.histogram_.get_data()[0]) == pytest.approx(1.0)


def test_channels_have_the_feature_names_of_the_estimator(rows):
    X, y = rows
    model = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    shown = ChannelDisplay.from_estimator(model, X, y, group="tree")
    assert list(shown.feature_names) == ["pca0", "pca1"]
    frame = pd.DataFrame(X, columns=["a", "b"])
    whole = ChannelDisplay.from_embeddings(frame)
    assert list(whole.feature_names) == ["a", "b"]
    assert whole.reference_ is None
    np.testing.assert_allclose(np.linalg.norm(whole.weights, axis=1), 1)


def test_a_group_without_rows_raises(rows):
    with pytest.raises(ValueError, match=r"group='ship' has no finite row; y contains \['bus'"):
        ChannelDisplay.from_embeddings(*rows, group="ship")


@pytest.mark.parametrize("display", [ConceptMapDisplay, ChannelDisplay])
@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_text_stays_text_and_dense_points_become_an_image(display, kind):
    X = np.random.default_rng(0).normal(size=(2001, 2))
    given = {"mixture": None} if display is ConceptMapDisplay else {}
    shown = display.from_embeddings(X, ["traffic light"] * 2001, **given)
    ax = plt.figure().add_subplot()
    assert shown.plot(ax=ax).ax_ is ax
    shown = shown.plot()
    file = io.BytesIO()
    shown.figure_.savefig(file, format=kind)
    content = file.getvalue()
    assert len(content) < 400_000
    if kind == "svg":
        name = b"traffic light" if display is ConceptMapDisplay else b"weight"
        assert b"<text" in content
        assert name in content
        assert (b"<image" in content) == (display is ConceptMapDisplay)
    else:
        assert b"/Type3" not in content


def test_names_on_the_map_do_not_overlap_and_the_others_are_in_the_legend():
    rng = np.random.default_rng(0)
    y = np.repeat([f"concept {i}" for i in range(24)], 8)
    shown = ConceptMapDisplay(rng.normal(size=(len(y), 2)), y).plot(legend="on map")
    legend = shown.ax_.get_legend()
    below = {text.get_text() for text in legend.get_texts()}
    assert 3 < len(shown.names_) < 24
    assert below | set(shown.names_) == set(y)
    assert not below & set(shown.names_)
    boxes = [text.get_window_extent() for text in shown.names_.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    for name, text in shown.names_.items():
        assert (text.get_position() == shown.coordinates[y == name]).all(axis=1).any()
    with pytest.raises(ValueError, match="legend='under' is not True"):
        shown.plot(legend="under")


def test_regions_fade_away_from_the_rows(rows):
    X, y = rows
    shown = ConceptMapDisplay.from_embeddings(X, y, regions=True, random_state=0)
    left, right, bottom, top = shown.extent
    opacity = shown.im_.get_array()[:, :, 3]
    n_rows, n_columns = opacity.shape
    x = np.floor((X[:, 0] - left) / (right - left) * n_columns).astype(int)
    z = np.floor((X[:, 1] - bottom) / (top - bottom) * n_rows).astype(int)
    assert (opacity[z, x] == 1).all()
    assert opacity[[0, -1]].max() == opacity[:, [0, -1]].max() == 0


def test_marks_are_of_one_size():
    figure, ax = plt.subplots()
    figure.set_dpi(300)
    X, y = [[i, 0] for i in range(11)], range(11)
    shown = ConceptMapDisplay(X, y).plot(ax=ax, legend=False, scatter_kw={"linewidths": 0})
    ax.set(xlim=(-1, 11), ylim=(-1, 1))
    figure.canvas.draw()
    ink = 1 - np.asarray(figure.canvas.buffer_rgba())[:, :, :3].min(axis=2) / 255
    edges = np.rint(ax.transData.transform([(i - 0.5, 0) for i in range(12)])[:, 0]).astype(int)
    middle = figure.bbox.height - ax.transData.transform((0, 0))[1]
    band = ink[int(middle) - 40 : int(middle) + 40]
    marks = [band[:, a:b] for a, b in pairwise(edges)]
    areas = [mark.sum() / mark.max() for mark in marks]
    assert len(shown.scatter_) == 11
    # Pixels cost some; of one size for matplotlib, they differ by a factor of 3.
    assert max(areas) < 1.3 * min(areas)


@pytest.mark.parametrize("layout", ["constrained", "compressed", "tight"])
def test_a_map_is_complete_in_the_first_saved_file(rows, layout):
    figure, ax = plt.subplots(figsize=(6.9, 6.9), layout=layout)
    ConceptMapDisplay(*rows).plot(ax=ax)
    ax.set_title("a title\nin two lines")
    figure.savefig(file := io.BytesIO(), format="png")
    file.seek(0)
    picture = plt.imread(file)[:, :, :3]
    edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
    assert all((edge == 1).all() for edge in edges)
