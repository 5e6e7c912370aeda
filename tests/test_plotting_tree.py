"""Dendrograms: links, clusters, purity and the concepts below."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy.cluster.hierarchy import dendrogram, linkage
from sklearn.cluster import KMeans

from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.plotting import DendrogramDisplay
from sklearn_loce.plotting._style import GRAY, concept_styles
from sklearn_loce.plotting._tree import link_positions

pytestmark = pytest.mark.usefixtures("no_figure_stays")


@pytest.fixture
def rows():
    rng = np.random.default_rng(1)
    y = np.repeat(["bus", "car", "taxi"], (20, 25, 15))
    return rng.normal(size=(60, 3)) + 3 * (y == "bus")[:, np.newaxis], y


@pytest.mark.parametrize("method", ["ward", "single", "average"])
def test_links_match_scipy(rows, method):
    tree = linkage(rows[0], method)
    leaves, links = link_positions(tree)
    theirs = dendrogram(tree, no_plot=True)
    assert leaves.tolist() == theirs["leaves"]
    # SciPy puts leaves at 5, 15, 25, ...
    drawn = np.stack([(np.array(theirs["icoord"]) - 5) / 10, theirs["dcoord"]], axis=2)
    ours, drawn = (np.round(corners.reshape(-1, 8), 9) for corners in (links, drawn))
    assert sorted(ours.tolist()) == sorted(drawn.tolist())


def test_trees_that_are_too_deep_for_scipy():
    tree = linkage(np.cumsum(np.linspace(1, 2, 3000))[:, np.newaxis], "single")
    with pytest.raises(RecursionError):
        dendrogram(tree, no_plot=True)
    leaves, links = link_positions(tree)
    assert sorted(leaves) == list(range(3000))
    assert links[:, 1, 1].tolist() == tree[:, 2].tolist()


def test_links_have_the_colors_of_their_clusters(rows):
    X, y = rows
    model = ConceptAgglomerative(size=5).fit(X, y)
    shown = DendrogramDisplay.from_estimator(model, X, y)
    below = [{i} for i in range(60)]
    colors = {name: color for name, (color, _) in concept_styles(np.unique(y)).items()}
    for link, (left, right) in enumerate(model.linkage_matrix_[:, :2].astype(int)):
        below.append(below[left] | below[right])
        clusters = {model.labels_[leaf] for leaf in below[-1]}
        drawn = to_hex(shown.links_.get_colors()[link]).upper()
        if len(clusters) > 1:
            assert drawn == GRAY.upper()
        else:
            names, counts = np.unique(y[model.labels_ == clusters.pop()], return_counts=True)
            assert drawn == colors[names[counts.argmax()]]


def test_the_height_of_bars_is_the_purity(rows):
    X, y = rows
    shown = DendrogramDisplay.from_embeddings(X, y, clusterer=ConceptAgglomerative(size=9))
    ordered = np.array(shown.labels)[shown.leaves_]
    top = max(bar.get_height() for bar in shown.bars_) / shown.purity_.max()
    assert len(shown.bars_) == len(shown.purity_)
    for bar in shown.bars_:
        leaves = shown.leaves_[round(bar.get_x() + 0.5) :][: round(bar.get_width())]
        names, counts = np.unique(y[leaves], return_counts=True)
        assert bar.get_height() / top == pytest.approx(counts.max() / counts.sum())
        (cluster,) = set(np.array(shown.labels)[leaves])
        assert shown.purity_[cluster] == pytest.approx(counts.max() / counts.sum())
        assert to_hex(bar.get_facecolor()).upper() in {
            concept_styles(np.unique(y))[name][0] for name in names
        }
    for cluster, text in shown.text_.items():
        assert text.get_text() == str(cluster)
        assert np.flatnonzero(ordered == cluster).mean() == pytest.approx(text.get_position()[0])


def test_every_leaf_is_marked_in_the_row_of_its_concept(rows):
    X, y = rows
    shown = DendrogramDisplay.from_embeddings(X, y)
    marked = {}
    for name, spans in shown.strip_.items():
        for path in spans.get_paths():
            box = path.get_extents()
            for place in range(round(box.x0 + 0.5), round(box.x1 + 0.5)):
                marked.setdefault(int(shown.leaves_[place]), []).append(name)
    assert marked == {i: [name] for i, name in enumerate(y)}
    names = [text.get_text() for text in shown.ax_.get_yticklabels()]
    assert names[-4:] == ["purity\n(0 to 1)", *shown.strip_]


def test_without_concepts_clusters_have_different_colors(rows):
    model = ConceptAgglomerative(criterion="size", size=15).fit(rows[0])
    shown = DendrogramDisplay.from_estimator(model, rows[0])
    assert shown.purity_ is None
    assert shown.strip_ == {}
    assert len({to_hex(bar.get_facecolor()) for bar in shown.bars_}) == model.n_clusters_


@pytest.mark.parametrize("n_concepts", [1, 20])
def test_trees_of_one_and_twenty_concepts(n_concepts):
    X = np.random.default_rng(0).normal(size=(100, 3))
    y = [f"concept {i % n_concepts}" for i in range(100)]
    shown = DendrogramDisplay.from_embeddings(X, y)
    assert len(shown.strip_) == n_concepts
    rows = [tick.get_window_extent() for tick in shown.ax_.get_yticklabels()[-n_concepts:]]
    assert all(upper.y0 >= lower.y1 - 2 for upper, lower in pairwise(rows))
    numbers = [text.get_window_extent() for text in shown.text_.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(numbers) for b in numbers[:i])


def test_failed_rows_are_left_out(rows):
    X, y = rows
    shown = DendrogramDisplay.from_embeddings(np.vstack([X, [[np.nan] * 3]]), [*y, "bus"])
    assert shown.n_failed == 1
    assert len(shown.leaves_) == 60


def test_the_axis_label_does_not_overlap_ticks_in_given_axes(rows):
    figure, ax = plt.subplots()
    shown = DendrogramDisplay.from_embeddings(*rows, ax=ax)
    figure.draw_without_rendering()
    name = ax.yaxis.label.get_window_extent()
    numbers = [t for t in ax.get_yticklabels() if t.get_text().replace(".", "").isdigit()]
    assert len(numbers) > 2
    assert all(name.x1 < number.get_window_extent().x0 for number in numbers)
    assert shown.figure_ is figure


def test_styles_of_the_user_take_precedence(rows):
    shown = DendrogramDisplay.from_embeddings(
        *rows, links_kw={"colors": "red"}, text_kw={"size": 4}
    )
    assert {to_hex(color) for color in shown.links_.get_colors()} == {"#ff0000"}
    assert {text.get_fontsize() for text in shown.text_.values()} == {4}


def test_invalid_trees_raise(rows):
    X = rows[0]
    model = KMeans(2, random_state=0, n_init=1).fit(X)
    with pytest.raises(TypeError, match="KMeans has no linkage_matrix_"):
        DendrogramDisplay.from_estimator(model, X)
    tree = linkage(X)
    with pytest.raises(ValueError, match="60 leaves, but labels has 59"):
        DendrogramDisplay(tree, np.zeros(59, dtype=int)).plot()
    with pytest.raises(ValueError, match="60 leaves, but y has 2"):
        DendrogramDisplay(tree, np.zeros(60, dtype=int), y=["a", "b"]).plot()
    assert plt.get_fignums() == []


def test_links_above_noise_have_no_cluster():
    tree = linkage([[0.0], [1.0], [5.0]])
    shown = DendrogramDisplay(tree, [0, 0, -1], y=["a", "a", "b"]).plot()
    assert len(shown.bars_) == 1
    assert list(shown.text_) == [0]
