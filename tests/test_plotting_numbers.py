"""Heat maps, precision at k and layers: stored numbers, and what is drawn of them."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_loce.metrics import compare_layers, get_scorer, precision_at_k
from sklearn_loce.plotting import (
    CentroidDistanceDisplay,
    LayerComparisonDisplay,
    OverlapDisplay,
    PrecisionAtKDisplay,
    SeparationDisplay,
)
from sklearn_loce.plotting._style import concept_styles

from . import brute_force

pytestmark = pytest.mark.usefixtures("no_figure_stays")


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = np.repeat(["bus", "car", "taxi"], (9, 12, 7))
    return rng.normal(size=(28, 4)) + 2 * (y == "bus")[:, np.newaxis], y


def centroid_distances(X, y, metric):
    means = [X[y == name].mean(axis=0) for name in np.unique(y)]
    return np.array([[np.sqrt(((a - b) ** 2).sum()) for b in means] for a in means])


@pytest.mark.parametrize(
    ("display", "name", "brute"),
    [
        (SeparationDisplay, "separation", brute_force.pairwise_separation),
        (OverlapDisplay, "overlap", brute_force.overlap_ratio),
        (CentroidDistanceDisplay, "distances", centroid_distances),
    ],
)
def test_heat_maps_show_the_matrix(rows, display, name, brute):
    X, y = rows
    kw = {"metric": "euclidean", "order": ["taxi", "bus", "car"]}
    shown = display.from_embeddings(np.vstack([X, [[np.nan] * 4]]), [*y, "car"], **kw)
    expected = brute(X, y, "euclidean")
    assert shown.n_failed == 1
    np.testing.assert_allclose(getattr(shown, name), expected, atol=1e-12)
    assert shown.order_.tolist() == [2, 0, 1]
    image, drawn = shown.im_.get_array(), expected[np.ix_([2, 0, 1], [2, 0, 1])]
    # What is symmetric is drawn once.
    cells = ~np.eye(3, dtype=bool) if name == "overlap" else np.tri(3, k=-1, dtype=bool)
    np.testing.assert_array_equal(np.ma.getmaskarray(image), ~cells)
    np.testing.assert_allclose(image[cells], drawn[cells], atol=1e-12)
    for i, j in np.argwhere(cells):
        text = shown.text_[shown.order_[i], shown.order_[j]]
        assert float(text.get_text()) == pytest.approx(drawn[i, j], abs=0.005)
        assert text.get_position() == (j, i)
        assert name == "overlap" or text is shown.text_[shown.order_[j], shown.order_[i]]
    assert all(shown.text_[i, i] is None for i in range(3))
    for axis in (shown.ax_.xaxis, shown.ax_.yaxis):
        assert [text.get_text() for text in axis.get_ticklabels()] == ["taxi", "bus", "car"]


def test_similar_concepts_are_neighbors_and_colors_span_the_values():
    X = np.array([0.0, 0.2, 10.0, 10.2, 1.0, 1.2, 11.0, 11.4])[:, None]
    y = np.repeat(["a", "b", "c", "d"], 2)
    shown = CentroidDistanceDisplay.from_embeddings(X, y, metric="euclidean", tree=True)
    places = shown.order_.tolist()
    assert {frozenset(places[:2]), frozenset(places[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    assert shown.im_.get_clim() == pytest.approx((1.0, 11.1))
    (tree,) = [ax for ax in shown.ax_.child_axes if ax.collections and not ax.axison]
    assert len(tree.collections[0].get_segments()) == 3
    assert shown.plot(order=None).order_.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="tree=True needs at least two concepts"):
        shown.plot(order=None, tree=True)
    with pytest.raises(ValueError, match=r"order=\[.a., .b.\] must contain each of the concepts"):
        shown.plot(order=["a", "b"])


@pytest.mark.slow
def test_names_fit_their_cells():
    matrix = np.random.default_rng(0).random((80, 80))
    shown = OverlapDisplay(matrix, concepts=[f"concept {i}" for i in range(80)]).plot()
    assert shown.figure_.get_figwidth() == 6.9
    shown.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in shown.ax_.get_yticklabels()]
    assert all(low.y1 <= high.y0 + 1 for high, low in pairwise(boxes))
    assert 4 < shown.ax_.get_yticklabels()[0].get_size() < 7


@pytest.mark.parametrize(
    "display",
    [SeparationDisplay, OverlapDisplay, CentroidDistanceDisplay, PrecisionAtKDisplay],
)
def test_from_estimator_equals_from_embeddings(rows, display):
    X, y = rows
    pipeline = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    ours = display.from_estimator(pipeline, X, y)
    theirs = display.from_embeddings(pipeline.transform(X), y)
    name = next(iter(vars(ours)))
    np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_concept_with_one_row_has_no_overlap(rows):
    X, y = rows
    shown = OverlapDisplay.from_embeddings(X[:22], y[:22])
    assert [text.get_text() for text in shown.text_[2, :2]] == ["-", "-"]
    place = shown.order_.tolist().index(2)
    assert np.ma.getmaskarray(shown.im_.get_array())[place].all()


@pytest.mark.parametrize(("n_concepts", "width"), [(1, 3.3), (2, 3.3), (9, 3.3), (20, 6.9)])
def test_values_are_legible_with_few_concepts_and_with_many(n_concepts, width):
    rng = np.random.default_rng(0)
    names = [f"concept {i}" for i in range(n_concepts)]
    shown = OverlapDisplay(rng.random((n_concepts, n_concepts)), concepts=names).plot()
    assert shown.figure_.get_figwidth() == width
    if n_concepts == 1:
        assert shown.text_ is None
        return
    boxes = [t.get_window_extent() for t in shown.text_.flat if t is not None]
    cell = shown.ax_.get_window_extent().height / n_concepts
    assert max(max(box.size) for box in boxes) < cell
    assert {t.get_size() for t in shown.text_.flat if t is not None} == {7}


def test_values_that_do_not_fit_are_omitted_unless_they_have_a_font_size():
    figure, ax = plt.subplots(figsize=(1.5, 1.5))
    display = OverlapDisplay(np.full((20, 20), 0.25), concepts=range(20))
    assert display.plot(ax=ax).text_ is None
    assert len(ax.texts) == 0
    assert display.plot(ax=ax, text_kw={"fontsize": 3}).text_[0, 1].get_text() == ".25"
    assert display.ax_ is ax
    assert display.figure_ is figure


def test_values_contrast_with_their_cells():
    shown = OverlapDisplay([[0, 1.0], [0.02, 0]], concepts=["a", "b"]).plot(values_format=".3f")
    texts = {shown.text_[0, 1], shown.text_[1, 0]}
    assert {(t.get_text(), t.get_color()) for t in texts} == {
        ("1.000", "white"),
        ("0.020", "black"),
    }


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3))])
def test_a_matrix_of_another_shape_raises(matrix):
    with pytest.raises(ValueError, match="one row and one column per concept"):
        SeparationDisplay(matrix, concepts=["a", "b"]).plot()


def test_failed_rows_only_raise():
    with pytest.raises(ValueError, match="None of the 2 rows of X is finite"):
        SeparationDisplay.from_embeddings([[np.nan], [np.inf]], ["a", "b"])


def test_a_single_concept_raises():
    with pytest.raises(ValueError, match="At least 2 concepts"):
        SeparationDisplay.from_embeddings([[0.0], [1.0]], ["a", "a"])


def test_precision_curves_equal_brute_force(rows):
    X, y = rows
    shown = PrecisionAtKDisplay.from_embeddings(X, y, k=[10, 1, 3])
    judges = [brute_force.precision_at(k) for k in (1, 3, 10)]
    expected = np.transpose([brute_force.retrieval(X, y, "cosine", judge) for judge in judges])
    np.testing.assert_allclose(shown.precision, expected)
    np.testing.assert_allclose(shown.chance, [8 / 27, 11 / 27, 6 / 27])
    for line, values in zip(shown.line_, expected, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), [1, 3, 10])
        np.testing.assert_allclose(line.get_ydata(), values)
    np.testing.assert_allclose(shown.mean_line_.get_ydata(), expected.mean(axis=0))
    np.testing.assert_allclose(shown.chance_line_.get_ydata(), 25 / 81)
    styles = concept_styles(sorted(set(y)))
    assert [(line.get_color(), line.get_marker()) for line in shown.line_] == [*styles.values()]


@pytest.mark.parametrize("exclude", [None, 2])
def test_precision_curves_leave_out_the_group_of_the_query(rows, exclude):
    X, y = rows
    groups = np.random.default_rng(1).integers(9, size=28)
    groups[y == "taxi"] = 3
    failed = np.vstack([X, [[np.nan] * 4]]), [*y, "car"]
    with pytest.warns(UserWarning, match=r"7 queries have nothing to find.*rows of 'taxi'"):
        shown = PrecisionAtKDisplay.from_embeddings(
            *failed, k=[1, 5], groups=[*groups, 8], exclude=exclude
        )

    def is_out(i, j):
        return abs(groups[i] - groups[j]) <= (exclude or 0)

    judges = [brute_force.precision_at(k) for k in (1, 5)]
    expected = [brute_force.retrieval(X, y, "cosine", judge, is_out=is_out) for judge in judges]
    np.testing.assert_allclose(shown.precision, np.transpose(expected))
    shares = [[y[j] == y[i] for j in range(28) if not is_out(i, j)] for i in range(28)]
    chance = [np.mean([np.mean(shares[i]) for i in np.flatnonzero(y == c)]) for c in ("bus", "car")]
    np.testing.assert_allclose(shown.chance, [*chance, np.nan])
    np.testing.assert_allclose(shown.mean_line_.get_ydata(), np.nanmean(expected, axis=1))
    np.testing.assert_allclose(shown.chance_line_.get_ydata(), np.mean(chance))


def test_chance_equals_the_precision_of_noise():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b"], (300, 100))
    shown = PrecisionAtKDisplay.from_embeddings(rng.normal(size=(400, 30)), y, k=[40])
    np.testing.assert_allclose(shown.precision[:, 0].mean(), shown.chance.mean(), atol=0.03)


@pytest.mark.parametrize("n_concepts", [1, 20])
def test_precision_of_one_concept_and_of_twenty(n_concepts):
    y = [f"concept {i % n_concepts}" for i in range(60)]
    shown = PrecisionAtKDisplay.from_embeddings(np.random.default_rng(0).normal(size=(60, 3)), y)
    assert shown.k.tolist() == [1, 5, 10, 20, 30, 40]
    assert (shown.mean_line_ is None) == (n_concepts == 1)
    names = [text.get_text() for text in shown.ax_.get_legend().get_texts()]
    assert names == [*sorted(set(y)), *["mean"] * (n_concepts > 1), "chance"]
    axis = shown.ax_.xaxis.get_tightbbox(shown.figure_.canvas.get_renderer())
    legend = shown.ax_.get_legend().get_window_extent()
    assert legend.y1 <= axis.y0 + 1
    assert shown.figure_.bbox.x0 <= legend.x0 < legend.x1 <= shown.figure_.bbox.x1


def test_precision_of_many_concepts_has_no_names():
    y = [f"concept {i % 25}" for i in range(100)]
    shown = PrecisionAtKDisplay.from_embeddings(np.random.default_rng(0).normal(size=(100, 3)), y)
    names = [text.get_text() for text in shown.ax_.get_legend().get_texts()]
    assert names == ["one of 25", "mean", "chance"]
    assert len(shown.line_) == 25


def test_too_large_k_raises(rows):
    with pytest.raises(ValueError, match="k=28 neighbors"):
        PrecisionAtKDisplay.from_embeddings(*rows, k=[28])
    with pytest.raises(ValueError, match=r"k=.0, 3. must contain numbers of at least 1"):
        PrecisionAtKDisplay.from_embeddings(*rows, k=[3, 0])
    with pytest.raises(ValueError, match="group 0 has 14 rows in other groups, but needs 15"):
        PrecisionAtKDisplay.from_embeddings(*rows, k=[15], groups=np.arange(28) % 2)


def table(**columns):
    return pd.DataFrame({"metric": "purity", "std": [0.1, 0.2], "mean": [0.5, 0.7], **columns})


def test_layers_of_several_models():
    tables = {"vgg": table(layer=["f.1", "f.2"]), "vit": table(layer=["f.2", "e.3"], std=np.nan)}
    shown = LayerComparisonDisplay.from_table(tables, "purity")
    names = [text.get_text() for text in shown.ax_.get_xticklabels()]
    assert names == ["f.1", "f.2", "e.3"]
    first, second = shown.errorbar_
    np.testing.assert_array_equal(first.lines[0].get_ydata(), [0.5, 0.7])
    np.testing.assert_array_equal(first.lines[0].get_xdata().round(), [0, 1])
    np.testing.assert_array_equal(second.lines[0].get_xdata().round(), [1, 2])
    ends = [segment[:, 1].tolist() for segment in first.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.6], [0.5, 0.9]])
    assert [text.get_text() for text in shown.ax_.get_legend().get_texts()] == ["vgg", "vit"]
    assert shown.ax_.get_ylabel() == "purity"


def compared():
    """Compare three layers of two models on the same draws."""
    rng, y = np.random.RandomState(0), np.repeat(["bus", "car", "sky"], 12)
    centers = 2 * np.eye(3)[np.unique(y, return_inverse=True)[1]]
    tables = {}
    for model, strength in (("vgg", 0.5), ("vit", 1.5)):
        spaces = {f"f.{i}": (i + strength) * centers + rng.normal(size=(36, 3)) for i in range(3)}
        iou = {name: rng.uniform(size=36) for name in spaces}
        tables[model] = compare_layers(
            spaces, y, iou=iou, k=5, n_repeats=6, rows_per_concept=6, random_state=0
        )
    return tables


def test_several_metrics_have_panels():
    tables, metrics = compared(), ["purity", "n_clusters", "failed_share"]
    shown = LayerComparisonDisplay.from_table(tables, metrics)
    drawn = iter(shown.errorbar_)
    for ax, metric, label in zip(
        shown.axes_, metrics, ["purity", "number of clusters", "share of failed rows"], strict=True
    ):
        assert " ".join(ax.get_ylabel().split()) == label
        for model, found in tables.items():
            container, rows = next(drawn), found[found["metric"] == metric]
            assert container.get_label() == model
            np.testing.assert_array_equal(container.lines[0].get_ydata(), rows["mean"])
            ends = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
            np.testing.assert_allclose(np.diff(ends)[:, 0], 2 * rows["std"])
    assert [ax.get_legend() is None for ax in shown.axes_] == [True, True, False]
    assert shown.axes_[-1].get_xlabel() == "layer\nbars: one standard deviation over draws"
    given, axes = plt.subplots(3)
    assert shown.plot(ax=axes).figure_ is given
    assert shown.ax_ is None
    with pytest.raises(ValueError, match="ax contains 2 Axes, but 3 are needed"):
        shown.plot(ax=axes[:2])
    plt.close("all")


def test_differences_have_their_intervals_and_reference():
    tables = compared()
    shown = LayerComparisonDisplay.from_table(tables, "precision_at_5", kind="difference")
    for container, found in zip(shown.errorbar_, tables.values(), strict=True):
        rows = found[found["metric"] == "precision_at_5"]
        np.testing.assert_array_equal(container.lines[0].get_ydata(), rows["difference"])
        ends = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
        np.testing.assert_allclose(ends, rows[["difference_low", "difference_high"]])
    assert shown.ax_.get_xlabel() == "layer\nbars: intervals of 95 %"
    alone = LayerComparisonDisplay.from_table(tables["vit"], "iou", kind="difference")
    rows = tables["vit"].query("metric == 'iou'")
    reference = rows.loc[rows["rank"] == 1, "layer"].item()
    assert " ".join(alone.ax_.get_ylabel().split()) == f"mean IoU, minus that of {reference}"
    with pytest.raises(ValueError, match=r"needs at least one row, and .*difference_low"):
        LayerComparisonDisplay(table(layer=["a", "b"], model="")).plot(kind="difference")
    with pytest.raises(ValueError, match="kind='median' is not 'mean' or 'difference'"):
        alone.plot(kind="median")


def test_a_model_has_one_color_in_all_displays_of_a_figure():
    tables = {name: table(layer=["a", "b"]) for name in ("vgg", "vit", "detr")}
    figure, axes = plt.subplots(3, layout="constrained")
    seen = {}
    for ax, names in zip(axes, (["vgg", "vit"], ["vit", "detr"], ["detr", "vgg"]), strict=True):
        some = {name: tables[name] for name in names}
        shown = LayerComparisonDisplay.from_table(some, "purity", ax=ax)
        texts = [text.get_text() for text in ax.get_legend().get_texts()]
        assert texts == names
        for container in shown.errorbar_:
            color = container.lines[0].get_color()
            assert seen.setdefault(container.get_label(), color) == color
    assert len(set(seen.values())) == 3
    assert len(figure.axes) == 3


def test_precision_of_layers_equals_that_of_each_layer(rows):
    X, y = rows
    X = np.asarray(X, dtype=float)
    other = np.random.RandomState(0).normal(size=X.shape)
    other[3] = np.nan
    groups = np.arange(len(y)) // 2
    how = {"k": [1, 5], "groups": groups}
    shown = PrecisionAtKDisplay.from_embeddings({"late": X, "early": other}, y, **how)
    kept = np.isfinite(X).all(axis=1) & np.isfinite(other).all(axis=1)
    assert shown.n_failed == (~kept).sum()
    assert shown.spaces == ["late", "early"]
    for i, space in enumerate((X, other)):
        for j, k in enumerate([1, 5]):
            expected = precision_at_k(
                space[kept], np.asarray(y)[kept], k=k, average=None, groups=groups[kept]
            )
            np.testing.assert_array_equal(shown.precision[i, :, j], expected)
            assert shown.line_[i].get_ydata()[j] == pytest.approx(np.mean(expected))
            places = shown.band_[i].get_paths()[0].vertices
            ends = places[places[:, 0] == k, 1]
            spread = np.std(expected, ddof=1)
            assert ends.max() == pytest.approx(np.mean(expected) + spread)
            assert ends.min() == pytest.approx(np.mean(expected) - spread)
    texts = [text.get_text() for text in shown.ax_.get_legend().get_texts()]
    assert texts == ["late", "early", "chance"]
    with pytest.raises(ValueError, match=r"precision has shape \(2, .*needs 2 axes"):
        PrecisionAtKDisplay(shown.precision, k=[1, 5], chance=[], concepts=[]).plot()


def test_layers_of_a_search(rows):
    X, y = rows
    search = GridSearchCV(
        make_pipeline(StandardScaler(), PCA()),
        {"pca__n_components": [1, 2], "pca__whiten": [False, True]},
        scoring=get_scorer(["separation", "precision_at_5"]),
        refit="separation",
        cv=2,
    ).fit(X, y)
    shown = LayerComparisonDisplay.from_search(
        search, layer="pca__n_components", metric="precision_at_5"
    )
    means = search.cv_results_["mean_test_precision_at_5"].reshape(2, 2)
    stds = search.cv_results_["std_test_precision_at_5"].reshape(2, 2)
    best = means.argmax(axis=1)
    np.testing.assert_array_equal(shown.scores["mean"], means[[0, 1], best])
    np.testing.assert_array_equal(shown.scores["std"], stds[[0, 1], best])
    with pytest.raises(ValueError, match="0 parameters of the search have the name layer"):
        LayerComparisonDisplay.from_search(search)
    with pytest.raises(ValueError, match=r"no 'mean_test_score'; it has .*mean_test_separation"):
        LayerComparisonDisplay.from_search(search, layer="pca__n_components")


@pytest.mark.parametrize(
    ("metric", "label"),
    [
        ("mean_iou", "mean IoU"),
        ("heldout_iou", "held-out IoU"),
        ("iou_gain", "IoU gain"),
        ("iou", "mean IoU"),
        ("failed_share", "share of failed rows"),
        ("n_clusters", "number of clusters"),
        ("r_precision", "R-precision"),
        ("precision_at_10", "precision at 10"),
        ("previous", "previous"),
    ],
)
def test_metrics_have_readable_names(metric, label):
    shown = LayerComparisonDisplay.from_table(table(layer=["a", "b"], metric=metric), metric)
    assert shown.ax_.get_ylabel() == label


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (table(layer=["a", "b"], metric="iou"), "no metric 'purity'; it has 'iou'"),
        (table(), "no column 'layer'"),
        (table(layer=["a", "a"]), "'a' of model '' more than once"),
    ],
)
def test_tables_without_the_metric_raise(given, message):
    with pytest.raises(ValueError, match=message):
        LayerComparisonDisplay.from_table(given, "purity")
    assert plt.get_fignums() == []


def test_styles_of_the_user_take_precedence(rows):
    shown = PrecisionAtKDisplay.from_embeddings(*rows, k=[1, 2], line_kw={"c": "red", "lw": 3})
    assert {(to_hex(line.get_color()), line.get_linewidth()) for line in shown.line_} == {
        ("#ff0000", 3)
    }
