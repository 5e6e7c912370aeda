"""Displays of images: projections, clusters, retrieval and outliers."""

import io
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import FunctionTransformer

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.outliers import ConceptOutlierDetector, label_issues
from sklearn_loce.plotting import (
    ClusterGalleryDisplay,
    LabelIssuesDisplay,
    OutlierDisplay,
    ProjectionDisplay,
    RetrievalDisplay,
)
from sklearn_loce.plotting._drawing import RIGHT, WRONG
from sklearn_loce.plotting._style import COLORS
from sklearn_loce.segmentation import ConceptSegmenter

from . import brute_force

pytestmark = pytest.mark.usefixtures("no_figure_stays")

LONG = "object--vehicle_with_a_very_long_hierarchical/name"


@pytest.fixture
def samples(tmp_path):
    """26 rows on 13 images: paths, PIL images and arrays, with masks of each kind."""
    rng, rows = np.random.default_rng(0), []
    for i in range(26):
        if i % 2 == 0:
            pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
            image = [pixels, Image.fromarray(pixels), tmp_path / f"{i}.png"][i // 2 % 3]
        mask = np.zeros((24, 32), dtype=bool)
        mask[5 : 8 + i // 2, 6 : 10 + i // 2] = True
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        rows.append((image, rle if i % 3 else mask, ["bus", "car", "sky"][i % 3]))
    return pd.DataFrame(rows, columns=["image", "mask", "concept"])


@pytest.fixture
def embeddings(samples):
    """Two groups of directions per concept; row 4 failed."""
    rng = np.random.RandomState(0)
    centres = rng.normal(size=(6, 5))
    X = centres[np.arange(26) % 6] + 0.4 * rng.normal(size=(26, 5))
    X[4] = np.nan
    return X


def mean_distances(X, rows):
    """Mean distance of each of these rows to the others, by the definition."""
    means = np.nanmean(brute_force.matrix(X[rows], "cosine"), axis=1)
    return dict(zip(rows, means, strict=True))


class Projector:
    """Stands for a transformer: projects what it is told."""

    def __init__(self, projections):
        self.projections = projections
        self.calls = []

    def project(self, X, embeddings=None, *, layer=None, threshold=0.5):
        self.calls.append((list(X.index), embeddings, layer, threshold))
        return [self.projections[i] for i in X.index]


@pytest.fixture
def projector(samples):
    rng = np.random.RandomState(0)
    return Projector([rng.uniform(size=(24, 32)).astype(np.float32) for _ in range(26)])


def test_iou_equals_evaluate():
    X = make_scenes(2, random_state=0).data
    loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
    vectors = loce.fit_transform(X)
    rows = [0, 5, 8]
    display = ProjectionDisplay.from_estimator(loce, X, vectors, rows=rows, tile_size=40)
    expected = loce.evaluate(X, vectors)["iou"].to_numpy()[rows]
    np.testing.assert_allclose(display.iou, expected)
    assert [image.shape for image in display.images] == [(30, 40, 3)] * 3
    assert [title(ax) for ax in display.axes_[0]] == [
        f"{X.concept[row]}\nIoU {iou:.2f}" for row, iou in zip(rows, expected, strict=True)
    ]


def test_segmenters_project_concepts_with_their_threshold():
    X = make_scenes(2, random_state=0).data
    loce = LoCETransformer(TorchModel(load_scene_model), "features.2", append_bias=False)
    segmenter = ConceptSegmenter(loce, threshold=0.3).fit(X)
    display = ProjectionDisplay.from_estimator(segmenter, X, rows=[1, 2], kind="mask")
    np.testing.assert_allclose(display.iou, segmenter.evaluate(X)["iou"].iloc[[1, 2]])
    assert display.threshold == 0.3
    with pytest.raises(ValueError, match="its own vectors"):
        ProjectionDisplay.from_estimator(segmenter, X, np.zeros((len(X), 3)))


def title(ax):
    return ax.get_title()


def mask_of(samples, i):
    mask = samples["mask"][i]
    return coco_mask.decode(mask).astype(bool) if isinstance(mask, dict) else mask


def test_projections_are_drawn_below_their_images(samples, projector):
    vectors = np.arange(52.0).reshape(26, 2)
    rows = [7, 2, 11, 3, 25]
    display = ProjectionDisplay.from_estimator(
        projector, samples, vectors, rows=rows, n_cols=2, layer="b"
    )
    ((asked, given, layer, threshold),) = projector.calls
    assert (asked, layer, threshold) == (rows, "b", None)
    np.testing.assert_array_equal(given, vectors[rows])
    assert display.axes_.shape == (6, 2)
    for k, row in enumerate(rows):
        mask, drawn = mask_of(samples, row), projector.projections[row]
        upper = display.axes_[2 * (k // 2), k % 2]
        lower = display.axes_[2 * (k // 2) + 1, k % 2]
        np.testing.assert_array_equal(lower.get_images()[0].get_array(), drawn)
        both = sum(m and p > 0.5 for m, p in zip(mask.ravel(), drawn.ravel(), strict=True))
        either = sum(m or p > 0.5 for m, p in zip(mask.ravel(), drawn.ravel(), strict=True))
        assert display.iou[k] == both / either
        for ax in (upper, lower):
            points = np.concatenate([path.vertices for path in ax.collections[0].get_paths()])
            inside = np.argwhere(mask)[:, ::-1]
            np.testing.assert_array_equal(points.min(axis=0), inside.min(axis=0) - 0.5)
            np.testing.assert_array_equal(points.max(axis=0), inside.max(axis=0) + 0.5)
    assert not display.axes_[4, 1].axison
    assert display.colorbar_ is not None


def test_projections_are_tinted(samples, projector):
    display = ProjectionDisplay.from_estimator(projector, samples, rows=3, kind="mask")
    shown = np.asarray(display.axes_[1, 0].get_images()[0].get_array())
    is_colored = (shown != shown[:, :, :1]).any(axis=2)
    np.testing.assert_array_equal(is_colored, projector.projections[3] > 0.5)
    assert display.colorbar_ is None


def test_errors_are_counted_and_tinted_as_hit_missed_and_spilled(samples, projector):
    rows = [3, 7, 20]
    display = ProjectionDisplay.from_estimator(projector, samples, rows=rows, kind="errors")
    for k, row in enumerate(rows):
        mask, drawn = mask_of(samples, row), projector.projections[row] > 0.5
        parts = mask & drawn, mask & ~drawn, drawn & ~mask
        counts = display.table[["n_hit", "n_missed", "n_spilled"]].iloc[k]
        assert counts.tolist() == [part.sum() for part in parts]
        assert display.iou[k] == counts.iloc[0] / counts.sum()
        shown = np.asarray(display.axes_[1, k].get_images()[0].get_array(), dtype=float)
        gray = display.images[k].mean(axis=2, keepdims=True)
        assert (shown == gray.round()).all(axis=2)[~(mask | drawn)].all()
        # The share of the picture that is left tells each pixel's color apart.
        for part, color in zip(parts, ("#56B4E9", "#D55E00", "#F0E442"), strict=True):
            tints = (shown - 0.35 * gray)[part] / 0.65
            np.testing.assert_allclose(
                tints, np.broadcast_to(255 * np.array(to_rgb(color)), tints.shape), atol=1
            )
    names = [text.get_text() for text in display.colorbar_.ax.get_xticklabels()]
    assert names == ["hit", "missed", "spilled"]


def test_a_line_marks_the_threshold(samples, projector):
    projector.threshold = 0.6
    display = ProjectionDisplay.from_estimator(projector, samples, rows=[3, 7])
    pixels = np.argwhere(np.ones((24, 32)))[:, ::-1]
    for row, lines in zip([3, 7], display.levels_, strict=True):
        inside = [path.contains_points(pixels) for path in lines.get_paths()]
        expected = projector.projections[row] > 0.6
        np.testing.assert_array_equal(np.sum(inside, axis=0) % 2, expected.ravel())
    assert [text.get_text() for text in display.colorbar_.ax.get_xticklabels()] == [
        "0.0",
        "0.6",
        "1.0",
    ]


def test_outlines_of_thin_masks_are_thinner(samples, projector):
    thick, thin = np.zeros((2, 24, 32), dtype=bool)
    thick[4:20, 4:28], thin[4:20, 10:11] = True, True
    samples["mask"] = [thick, thin] * 13
    display = ProjectionDisplay.from_estimator(projector, samples, rows=range(4), kind="mask")
    wide, narrow = (lines.get_linewidths()[0] for lines in display.outlines_[:4:2])
    assert narrow < 0.5 * wide
    display.plot(kind="mask", contour_kw={"linewidths": 2})
    assert {lines.get_linewidths()[0] for lines in display.outlines_} == {2}
    plt.close(display.figure_)


def test_failed_rows_have_no_projection(samples, projector):
    projector.projections[1] = None
    projector.projections[2] = np.full((24, 32), np.nan, dtype=np.float32)
    samples.loc[1, "image"] = "missing.png"
    display = ProjectionDisplay.from_estimator(projector, samples, rows=[0, 1, 2])
    assert np.isfinite(display.iou).tolist() == [True, False, False]
    assert [title(ax).split("\n")[1] for ax in display.axes_[0, 1:]] == ["no IoU"] * 2
    assert [ax.texts[0].get_text() for ax in display.axes_[1, 1:]] == ["none"] * 2


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"rows": [26]}, ValueError, "rows contains 26"),
        ({"rows": []}, ValueError, "rows is empty"),
        ({"y": ["car"]}, ValueError, "y has 1 row"),
        ({"embeddings": np.zeros((2, 3))}, ValueError, "embeddings has 2 row"),
        ({"kind": "contour"}, ValueError, "'kind' parameter"),
    ],
)
def test_invalid_projections_raise(samples, projector, how, error, message):
    with pytest.raises(error, match=message):
        ProjectionDisplay.from_estimator(projector, samples, **how)
    assert plt.get_fignums() == []


def test_estimators_without_projections_raise(samples):
    with pytest.raises(TypeError, match="PCA cannot project"):
        ProjectionDisplay.from_estimator(PCA(), samples)
    with pytest.raises(ValueError, match="104 rows, which are too many"):
        ProjectionDisplay.from_estimator(PCA(), pd.concat([samples] * 4))


def test_galleries_show_medoids_first(samples, embeddings):
    labels = np.arange(26) % 4
    labels[3] = -1
    display = ClusterGalleryDisplay.from_embeddings(
        embeddings, samples, labels, clusters=[2, 0], n_tiles=3
    )
    assert display.clusters == [2, 0]
    for line, cluster in enumerate(display.clusters):
        members = [i for i in range(26) if labels[i] == cluster and i != 4]
        expected = mean_distances(embeddings, members)
        order = sorted(members, key=expected.get)[:3]
        assert display.rows[line].tolist() == order
        np.testing.assert_allclose(display.distances[line], [expected[i] for i in order])
        assert display.sizes[line] == len(members)
        shares = samples["concept"][members].value_counts(normalize=True)
        for concept in ("bus", "car", "sky"):
            assert display.composition.loc[cluster, concept] == pytest.approx(
                shares.get(concept, 0)
            )
        for ax, row in zip(display.axes_[line], order, strict=True):
            assert ax.get_xlabel() == samples["concept"][row]
    assert set(display.tiles) == {int(i) for rows in display.rows for i in rows}
    heading = display.axes_[0, 0].texts[0].get_text()
    assert heading.startswith("Cluster 2: 6 rows, ")


def test_pure_clusters_have_one_name(samples, embeddings):
    labels = samples["concept"].map({"bus": 0, "car": 1, "sky": 2})
    display = ClusterGalleryDisplay.from_embeddings(embeddings, samples, labels, clusters=[1])
    assert display.axes_[0, 0].texts[0].get_text() == "Cluster 1: 8 rows, 100% car"
    assert [ax.get_xlabel() for ax in display.axes_[0]] == [""] * 6


def test_bars_show_the_composition_of_clusters(samples, embeddings):
    labels = np.arange(26) % 2
    palette = {"bus": "#123456"}
    display = ClusterGalleryDisplay.from_embeddings(embeddings, samples, labels, palette=palette)
    kept = np.delete(np.arange(26), 4)
    styles = {"bus": "#123456", "car": COLORS[0], "sky": COLORS[1]}
    for cluster, bars in enumerate(display.bars_):
        members = kept[labels[kept] == cluster]
        shares = samples["concept"][members].value_counts(normalize=True)
        length = sum(bar.get_width() for bar in bars)
        found = {to_hex(bar.get_facecolor()).upper(): bar.get_width() / length for bar in bars[:-1]}
        assert found == pytest.approx({styles[name].upper(): v for name, v in shares.items()})
        assert bars[-1].get_width() == pytest.approx(0, abs=1e-9)  # other concepts
    names = [text.get_text() for text in display.legend_.get_texts()]
    assert names == ["bus", "car", "sky"]
    plain = display.plot(legend=False)
    assert plain.legend_ is None
    without = samples.drop(columns="concept")
    assert ClusterGalleryDisplay.from_embeddings(embeddings, without, labels).bars_ == []


def test_only_the_largest_of_many_clusters_are_shown(samples, embeddings):
    labels = np.r_[np.arange(10), [9, 2, 4, 5, 6, 7], [1] * 10]
    display = ClusterGalleryDisplay.from_embeddings(embeddings, samples, labels, n_tiles=1)
    assert display.clusters == [1, 2, 5, 6, 7, 9]  # row 4 failed


def test_clusters_are_predicted_for_rows_that_did_not_fail(samples, embeddings):
    kept = np.delete(np.arange(26), 4)
    clusterer = KMeans(3, n_init=2, random_state=0).fit(embeddings[kept])
    display = ClusterGalleryDisplay.from_estimator(clusterer, embeddings, samples)
    np.testing.assert_array_equal(display.sizes, np.bincount(clusterer.labels_))
    with pytest.raises(TypeError, match=r"from_embeddings\(X, samples, estimator.labels_\)"):
        ClusterGalleryDisplay.from_estimator(AgglomerativeClustering(), embeddings, samples)


def test_invalid_clusters_raise(samples, embeddings):
    labels = np.zeros(26, dtype=int)
    with pytest.raises(ValueError, match=r"clusters contains 7, .* are \[0\]"):
        ClusterGalleryDisplay.from_embeddings(embeddings, samples, labels, clusters=[7])
    with pytest.raises(ValueError, match=r"labels has 3 row\(s\)"):
        ClusterGalleryDisplay.from_embeddings(embeddings, samples, labels[:3])
    missing = np.where(np.arange(26) == 2, np.nan, labels)
    with pytest.raises(ValueError, match="labels has no label in row 2"):
        ClusterGalleryDisplay.from_embeddings(embeddings, samples, missing)
    with pytest.raises(ValueError, match="have the label -1"):
        ClusterGalleryDisplay.from_embeddings(embeddings, samples, labels - 1)
    with pytest.raises(ValueError, match="None of the 26 rows"):
        ClusterGalleryDisplay.from_embeddings(np.full((26, 2), np.nan), samples, labels)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_matches_are_the_nearest_and_farthest_rows(samples, embeddings, metric):
    embeddings[9] = embeddings[3]  # a duplicate of a query
    queries, kept = [3, 20], [i for i in range(26) if i != 4]
    matrix = brute_force.matrix(embeddings[kept], metric)
    display = RetrievalDisplay.from_embeddings(
        embeddings, samples, queries=queries, n_best=3, n_worst=2, metric=metric
    )
    for line, query in enumerate(queries):
        distances = dict(zip(kept, matrix[kept.index(query)], strict=True))
        del distances[query]
        order = sorted(distances, key=lambda i: (round(distances[i], 12), i))
        expected = order[:3] + order[-2:]
        assert display.matches[line].tolist() == expected
        np.testing.assert_allclose(
            display.distances[line], [distances[i] for i in expected], atol=1e-12
        )
        right = [samples["concept"][i] == samples["concept"][query] for i in expected]
        assert display.relevant[line].tolist() == right
        assert display.matches[0, 0] == 9


@pytest.mark.parametrize("exclude", [None, 4, lambda a, b: abs(a - b) <= 4])
def test_matches_belong_to_other_groups(samples, embeddings, exclude):
    groups = samples.index.to_series() if exclude else samples.index.to_series() // 2
    kept = [i for i in range(26) if i != 4]
    display = RetrievalDisplay.from_embeddings(
        embeddings, samples, queries=[3, 20], n_best=3, n_worst=2, groups=groups, exclude=exclude
    )
    rankings = brute_force.candidates(
        embeddings[kept],
        "cosine",
        is_out=lambda i, j: abs(groups[kept[i]] - groups[kept[j]]) <= (4 if exclude else 0),
    )
    for line, query in enumerate([3, 20]):
        order = [kept[j] for j in rankings[kept.index(query)]]
        assert display.matches[line].tolist() == order[:3] + order[-2:]


def test_right_and_wrong_matches_look_different(samples, embeddings):
    display = RetrievalDisplay.from_embeddings(embeddings, samples, queries=[0, 1, 2])
    assert 0 < display.relevant.sum() < display.relevant.size
    assert display.frames_[:, 5:].tolist() == [[None] * 2] * 3
    for line, right in np.argwhere(display.relevant[:, :4] | True):
        is_right = display.relevant[line, right]
        frame, ax = display.frames_[line, right + 1], display.axes_[line, right + 1]
        style = RIGHT if is_right else WRONG
        assert to_hex(frame.get_edgecolor()) == style["edgecolor"].lower()
        assert frame.get_linestyle() == style["linestyle"]
        assert title(ax)[0] == ("✓" if is_right else "✗")
        assert samples["concept"][display.matches[line, right]] in title(ax)
    for line, far in np.argwhere(display.relevant[:, 4:] | True):
        assert title(display.axes_[line, far + 5])[0] not in "✓✗"
    assert [title(ax) for ax in display.axes_[:, 0]] == ["bus", "car", "sky"]


def test_without_concepts_there_are_no_frames(samples, embeddings):
    display = RetrievalDisplay.from_embeddings(
        embeddings, samples[["image", "mask"]], queries=5, n_worst=0
    )
    assert display.relevant is None
    assert [frame is None for frame in display.frames_[0]] == [False, *[True] * 4]
    assert title(display.axes_[0, 1]).startswith(f"row {display.matches[0, 0]}\n")


def test_transformers_embed_tables(samples, embeddings):
    embed = FunctionTransformer(lambda table: embeddings[table.index])
    display = RetrievalDisplay.from_estimator(embed, samples, queries=5)
    expected = RetrievalDisplay.from_embeddings(embeddings, samples, queries=5)
    np.testing.assert_array_equal(display.matches, expected.matches)
    with pytest.raises(TypeError, match="has no transform"):
        RetrievalDisplay.from_estimator(AgglomerativeClustering(), samples, queries=5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"queries": 4}, "queries contains 4, whose embedding is not finite"),
        ({"queries": 26}, "queries contains 26"),
        ({"queries": []}, "at least one query"),
        ({"queries": 0, "n_best": 25, "n_worst": 0}, "25 other rows, but there are 24"),
        ({"queries": 6, "n_best": 7, "groups": [1] * 20 + [2] * 6}, "query 6 has 6 rows in other"),
        ({"queries": 6, "groups": [1] * 26}, "query 6 has no row to find: groups or exclude"),
        ({"queries": 0, "groups": [1] * 20}, "groups has 20 row"),
        ({"queries": 0, "groups": pd.Series(range(26))[::-1]}, "indexes of samples and groups"),
    ],
)
def test_invalid_queries_raise(samples, embeddings, how, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RetrievalDisplay.from_embeddings(embeddings, samples, **how)


def test_the_metric_is_named_once(samples, embeddings):
    for how, name in (({}, "cosine"), ({"metric": "euclidean"}, "euclidean")):
        display = RetrievalDisplay.from_embeddings(embeddings, samples, queries=[0, 1], **how)
        headings = [ax.get_title() for ax in display.figure_.axes if ax not in display.axes_]
        assert [heading for heading in headings if heading] == [
            *("query", f"nearest ({name} distance)", "farthest")
        ]


@pytest.mark.parametrize("exclude", [None, 4])
def test_queries_from_another_table_match_their_copies(samples, embeddings, exclude):
    inside, outside = samples.drop(index=[3, 20]), samples.loc[[3, 20]]
    X, own, frames = np.delete(embeddings, [3, 20], axis=0), embeddings[[3, 20]], np.arange(26)
    groups = {
        "groups": np.delete(frames, [3, 20]) // (1 if exclude else 2),
        "query_groups": np.array([3, 20]) // (1 if exclude else 2),
        "exclude": exclude,
    }
    display = RetrievalDisplay.from_embeddings(
        X, inside, queries=outside, query_embeddings=own, **groups
    )
    expected = RetrievalDisplay.from_embeddings(
        embeddings,
        samples,
        queries=[3, 20],
        n_best=5,
        groups=frames // (1 if exclude else 2),
        exclude=exclude,
    )
    assert display.queries.tolist() == [24, 25]
    for line, (query, other) in enumerate([(3, 20), (20, 3)]):
        found = inside.index[display.matches[line]].tolist()
        assert found[:4] == [i for i in expected.matches[line] if i != other][:4]
        assert display.names[24 + line] == samples["concept"][query]
        right = [samples["concept"][i] == samples["concept"][query] for i in found]
        assert display.relevant[line].tolist() == right
        assert display.table.index[7 * line : 7 * line + 7].tolist() == [query, *found]
    embed = FunctionTransformer(lambda table: embeddings[table.index])
    again = RetrievalDisplay.from_estimator(embed, inside, queries=outside, **groups)
    np.testing.assert_array_equal(again.matches, display.matches)


def test_queries_from_another_table_may_lack_concepts(samples, embeddings):
    outside = samples.loc[[3], ["image", "mask"]]
    how = {"queries": outside, "query_embeddings": embeddings[[3]]}
    display = RetrievalDisplay.from_embeddings(embeddings, samples, **how)
    assert display.relevant is None
    assert display.matches[0, 0] == 3
    assert title(display.axes_[0, 0]) == "row 26"
    assert title(display.axes_[0, 1]).startswith("bus\n")
    display = RetrievalDisplay.from_embeddings(embeddings, samples[["image", "mask"]], **how)
    assert display.names is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"query_embeddings": None}, "A table of queries needs embeddings"),
        ({"query_embeddings": np.ones((1, 4))}, "has 4 features, but embeddings has 5"),
        ({"groups": np.arange(26)}, "needs groups and query_groups, or none"),
        ({"query_groups": [1]}, "needs groups and query_groups, or none"),
        ({"queries": 3}, "query_groups are those of a table of queries"),
    ],
)
def test_invalid_tables_of_queries_raise(samples, embeddings, how, message):
    given = {"queries": samples.loc[[3]], "query_embeddings": embeddings[[3]]} | how
    with pytest.raises(ValueError, match=message):
        RetrievalDisplay.from_embeddings(embeddings, samples, **given)


def test_outliers_are_the_farthest_rows_of_their_concept(samples, embeddings):
    display = OutlierDisplay.from_embeddings(
        embeddings, samples, contamination=0.2, n_most=3, n_least=2
    )
    assert display.concepts == ["bus", "car", "sky"]
    assert np.isnan(display.scores).tolist() == [i == 4 for i in range(26)]
    for line, concept in enumerate(display.concepts):
        rows = [i for i in range(26) if samples["concept"][i] == concept and i != 4]
        expected = mean_distances(embeddings, rows)
        order = sorted(rows, key=expected.get, reverse=True)
        assert display.members[line].tolist() == order
        np.testing.assert_allclose(display.scores[order], [-expected[i] for i in order], rtol=1e-6)
        cut = np.quantile([-expected[i] for i in rows], 0.2)
        assert display.thresholds[line] == pytest.approx(cut, rel=1e-5)
        shown = order[:3] + order[:-3:-1]
        for ax, frame, row in zip(display.axes_[line], display.frames_[line], shown, strict=True):
            is_outlier = -expected[row] < cut
            assert (
                to_hex(frame.get_edgecolor())
                == (WRONG if is_outlier else RIGHT)["edgecolor"].lower()
            )
            assert frame.get_linestyle() == (WRONG if is_outlier else RIGHT)["linestyle"]
            assert ax.get_xlabel().startswith("✗") == is_outlier
            image = np.asarray(ax.get_images()[0].get_array())
            np.testing.assert_array_equal(image, display.tiles[row].image)


def test_scores_and_thresholds_are_drawn(samples, embeddings):
    display = OutlierDisplay.from_embeddings(embeddings, samples, contamination=0.2)
    drawn = [a for a in display.chart_ax_.collections if isinstance(a, PathCollection)]
    points = np.concatenate([artist.get_offsets() for artist in drawn])
    lines = [a.get_segments()[0] for a in display.chart_ax_.collections if a not in drawn]
    np.testing.assert_array_equal([line[0, 0] for line in lines], -display.thresholds)
    expected = np.sort(-display.scores[~np.isnan(display.scores)])
    np.testing.assert_allclose(np.sort(points[:, 0]), expected)
    assert [t.get_text() for t in display.chart_ax_.get_yticklabels()] == display.concepts
    for score, height in points:
        assert -score in display.scores[display.members[round(height)]]


def test_detectors_of_all_kinds_are_shown(samples, embeddings):
    kept = np.delete(np.arange(26), 4)
    X, table = embeddings[kept], samples.iloc[kept]
    y = table["concept"].to_numpy()
    own = ConceptOutlierDetector(contamination=0.1).fit(X, y)
    display = OutlierDisplay.from_estimator(own, embeddings, samples, concepts=["sky", "bus"])
    np.testing.assert_allclose(display.scores[kept], own.training_scores_, rtol=1e-6)
    np.testing.assert_array_equal(display.thresholds, own.offset_[[2, 0]])
    forest = IsolationForest(random_state=0).fit(X)
    display = OutlierDisplay.from_estimator(forest, embeddings, samples[["image", "mask"]])
    np.testing.assert_array_equal(display.scores[kept], forest.score_samples(X))
    assert display.concepts == [None]
    assert display.thresholds == [-0.5]
    lof = LocalOutlierFactor(5).fit(X)
    display = OutlierDisplay.from_estimator(lof, embeddings, samples)
    np.testing.assert_array_equal(display.scores[kept], lof.negative_outlier_factor_)
    with pytest.raises(TypeError, match="cannot score these 10 rows"):
        OutlierDisplay.from_estimator(lof, X[:10], table[:10])
    with pytest.raises(TypeError, match="KMeans has no offset_"):
        OutlierDisplay.from_estimator(KMeans(2, n_init=1).fit(X), X, table)
    with pytest.raises(ValueError, match="was fitted with concepts; pass y"):
        OutlierDisplay.from_estimator(own, X, table[["image", "mask"]])
    with pytest.raises(ValueError, match="concepts contains 'tram'"):
        OutlierDisplay.from_embeddings(X, table, concepts=["tram"])


def test_tiles_of_missing_rows_are_empty(samples, embeddings):
    y = np.array(["many"] * 24 + ["few"] * 2)
    display = OutlierDisplay.from_embeddings(embeddings, samples, y, n_most=4, n_least=2)
    assert [frame is not None for frame in display.frames_[0]] == [True, True, *[False] * 4]


def find_issues(samples, embeddings, y=None):
    """Rank the labels of all rows but 4, which failed."""
    kept = np.delete(np.arange(26), 4)
    y = samples["concept"] if y is None else pd.Series(y)
    ids = [(row, 900100184613) if row % 2 else row for row in kept]
    return label_issues(embeddings[kept], y.iloc[kept], k=3, annotation_ids=ids)


@pytest.mark.parametrize("labeled", [True, False])
def test_issues_show_the_values_of_their_table(samples, embeddings, labeled):
    # By label where the table of samples has the labels, else by position.
    table = (
        samples if labeled else samples.drop(index=4).set_axis(list("abcdefghijklmnopqrstuvwxy"))
    )
    issues = find_issues(samples, embeddings)
    display = LabelIssuesDisplay.from_issues(issues, table, n_rows=7)
    pd.testing.assert_frame_equal(display.issues, issues.iloc[:7])
    assert display.axes_.shape == (2, 4)
    assert not display.axes_[1, 3].axison
    assert {(issue.suggested != issue.given) for issue in issues.iloc[:7].itertuples()} == {0, 1}
    for ax, tile, frame, issue in zip(
        display.axes_.flat, display.tiles, display.frames_, issues.itertuples(), strict=False
    ):
        is_wrong = issue.suggested != issue.given
        given, suggested = ax.get_title().split("\n")
        assert given == "✗\N{NO-BREAK SPACE}" * is_wrong + str(issue.given)
        assert suggested == f"→ {issue.suggested}"
        confidence, name = ax.get_xlabel().split("\n")
        assert float(confidence.replace("\N{MINUS SIGN}", "-")) == pytest.approx(
            issue.confidence, rel=6e-3
        )
        ids = issue.annotation_id
        assert name == (f"{ids[0]},…" if isinstance(ids, tuple) else str(ids))
        assert frame.get_linestyle() == (WRONG if is_wrong else RIGHT)["linestyle"]
        np.testing.assert_array_equal(tile.mask > 0.5, mask_of(samples, issue.Index))
        np.testing.assert_array_equal(ax.get_images()[0].get_array(), tile.image)


def test_issues_are_shown_with_projections(samples, embeddings, projector):
    issues = find_issues(samples, embeddings)
    how = {"embeddings": embeddings, "projector": projector, "n_rows": 3}
    display = LabelIssuesDisplay.from_issues(issues, samples, **how)
    rows = sorted(issues.index[:3])
    ((asked, vectors, _, _),) = projector.calls
    assert asked == rows
    np.testing.assert_array_equal(vectors, embeddings[rows])
    for tile, row in zip(display.tiles, issues.index, strict=False):
        np.testing.assert_array_equal(tile.projection > 0.5, projector.projections[row] > 0.5)
    assert len(display.outlines_) == 6
    assert len(display.plot(show="projection").outlines_) == 3
    plain = LabelIssuesDisplay.from_issues(issues, samples, n_rows=3)
    assert len(plain.outlines_) == 3
    with pytest.raises(ValueError, match="show='both' needs projections"):
        plain.plot(show="both")


def test_rows_without_confidence_are_labeled(samples, embeddings):
    with pytest.warns(UserWarning, match="can't be judged"):
        issues = find_issues(samples, embeddings, ["tram", *["bus", "car"] * 12, "bus"])
    display = LabelIssuesDisplay.from_issues(issues.iloc[-1:], samples)
    assert display.axes_[0, 0].get_xlabel() == "not judged\n0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda issues: issues.drop(columns="given"), r"issues lacks \['given'\]"),
        (lambda issues: issues.iloc[:0], "issues has no rows"),
        (lambda issues: issues.rename({25: "x"}), "samples has no row 'x' of the issues"),
        (lambda issues: issues.assign(row=26), r"issues\['row'\] contains 26"),
    ],
)
def test_invalid_tables_of_issues_raise(samples, embeddings, change, message):
    issues = change(find_issues(samples, embeddings))
    with pytest.raises(ValueError, match=message):
        LabelIssuesDisplay.from_issues(issues, samples, n_rows=25)
    assert plt.get_fignums() == []


def show_tiles(kind, samples, embeddings, **how):
    """Make a display of a few tiles."""
    if kind is ClusterGalleryDisplay:
        return kind.from_embeddings(embeddings, samples, np.arange(26) % 2, n_tiles=2, **how)
    if kind is RetrievalDisplay:
        return kind.from_embeddings(embeddings, samples, queries=[0], n_best=2, n_worst=1, **how)
    return kind.from_embeddings(embeddings, samples, n_most=1, n_least=1, **how)


@pytest.mark.parametrize("kind", [ClusterGalleryDisplay, RetrievalDisplay, OutlierDisplay])
def test_tiles_show_mask_projection_or_both(kind, samples, embeddings, projector):
    display = show_tiles(kind, samples, embeddings, projector=projector)
    ((asked, given, _, threshold),) = projector.calls
    assert asked == sorted(display.tiles)
    assert threshold is None
    np.testing.assert_array_equal(given, embeddings[asked])
    n_tiles = len(display.table)
    assert len(display.outlines_) == 2 * n_tiles
    for row, tile in display.tiles.items():
        np.testing.assert_array_equal(tile.projection, projector.projections[row] > 0.5)
    row, ax = display.table["position"].iloc[0], display.axes_[0, 0]
    shown = np.asarray(ax.get_images()[0].get_array())
    changed = (shown != display.tiles[row].image).any(axis=2)
    np.testing.assert_array_equal(changed, projector.projections[row] > 0.5)
    for show in ("mask", "projection"):
        plt.close(display.figure_)
        display.plot(show=show)
        assert len(display.outlines_) == n_tiles
        shown = np.asarray(display.axes_[0, 0].get_images()[0].get_array())
        assert (shown == display.tiles[row].image).all() == (show == "mask")


@pytest.mark.parametrize("kind", [ClusterGalleryDisplay, RetrievalDisplay, OutlierDisplay])
@pytest.mark.parametrize(
    ("show", "message"), [("both", "show='both' needs projections"), ("masks", "is not 'mask'")]
)
def test_tiles_without_projections_show_none(kind, show, message, samples, embeddings):
    with pytest.raises(ValueError, match=message):
        show_tiles(kind, samples, embeddings, show=show)
    assert plt.get_fignums() == []


def test_transformers_and_segmenters_project_tiles():
    X = make_scenes(2, random_state=0).data
    loce = LoCETransformer(TorchModel(load_scene_model), "features.2", append_bias=False).fit(X)
    how = {"queries": [0], "n_best": 2, "n_worst": 0, "tile_size": 160}
    display = RetrievalDisplay.from_estimator(loce, X, show="both", **how)
    drawn = loce.project(X, loce.transform(X))
    for row, tile in display.tiles.items():
        np.testing.assert_array_equal(tile.projection, drawn[row])
    segmenter = ConceptSegmenter(loce, threshold=0.3).fit(X)
    display = RetrievalDisplay.from_estimator(loce, X, projector=segmenter, **how)
    drawn = segmenter.predict(X)
    for row, tile in display.tiles.items():
        np.testing.assert_array_equal(tile.projection, drawn[row])


def test_samples_in_an_ambiguous_order_raise(samples, embeddings):
    kept = np.isfinite(embeddings).all(axis=1)
    samples = samples[kept].reset_index(drop=True)
    issues = label_issues(embeddings[kept], samples["concept"].to_numpy(), k=3)
    shuffled = samples.iloc[::-1]
    with pytest.raises(ValueError, match=r"contains 0 to 24 in another order.*reset_index"):
        LabelIssuesDisplay.from_issues(issues, shuffled)
    # Labels that are no positions tell the rows.
    named = issues.set_axis(issues["row"].map("row {}".format))
    found = LabelIssuesDisplay.from_issues(named, shuffled.rename("row {}".format))
    expected = LabelIssuesDisplay.from_issues(issues, samples)
    for tile, own in zip(found.tiles, expected.tiles, strict=True):
        np.testing.assert_array_equal(tile.mask, own.mask)


def display_of(kind, samples, embeddings, projector, y=None, **how):
    """Make a display of 20 rows or of one, with names of any length."""
    if kind is ProjectionDisplay:
        return kind.from_estimator(projector, samples, y=y, rows=how.pop("rows", range(20)), **how)
    if kind is ClusterGalleryDisplay:
        return kind.from_embeddings(embeddings, samples, np.arange(26) % 4, y, **how)
    if kind is LabelIssuesDisplay:
        return kind.from_issues(find_issues(samples, embeddings, y), samples, **how)
    if kind is RetrievalDisplay:
        how = {"queries": [0, 1, 2]} | how
    return kind.from_embeddings(embeddings, samples, y, **how)


KINDS = [
    *(ProjectionDisplay, ClusterGalleryDisplay, RetrievalDisplay),
    *(OutlierDisplay, LabelIssuesDisplay),
]
LEAST = {
    ProjectionDisplay: {"rows": 1},
    ClusterGalleryDisplay: {"clusters": [1], "n_tiles": 1},
    RetrievalDisplay: {"queries": 1, "n_best": 1, "n_worst": 0},
    OutlierDisplay: {"n_most": 1, "n_least": 0},
    LabelIssuesDisplay: {"n_rows": 1},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("size", [pytest.param("many", marks=pytest.mark.slow), "least"])
@pytest.mark.parametrize("prefix", ["", LONG], ids=["short", "long"])
def test_texts_are_large_and_do_not_overlap(kind, size, prefix, samples, embeddings, projector):
    y = prefix + samples["concept"]
    how = LEAST[kind] if size == "least" else {}
    display = display_of(kind, samples, embeddings, projector, y, **how)
    figure = display.figure_
    figure.canvas.draw()
    texts = [text for ax in figure.axes for text in texts_of(ax) if text.get_text().strip()]
    assert {text.get_size() for text in texts} <= {7, 8}
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.width + 1, text
        assert box.y1 <= figure.bbox.height + 1, text
    for (text, box), (other, other_box) in combinations(boxes, 2):
        overlap = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert min(overlap, height) <= 1.5, (text, other)


def texts_of(ax):
    """All texts that are drawn with an axes."""
    yield from [ax.title, *ax.texts]
    if not ax.axison:
        return
    for axis in (ax.xaxis, ax.yaxis):
        yield axis.label
        low, high = sorted(axis.get_view_interval())
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False):
            if low <= place <= high:
                yield label


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_displays_are_saved_with_text_as_text(kind, suffix, samples, embeddings, projector):
    display = display_of(kind, samples, embeddings, projector, **LEAST[kind])
    file = io.BytesIO()
    display.figure_.savefig(file, format=suffix)
    content = file.getvalue()
    assert len(content) < 1_000_000
    if suffix == "png":
        width = display.figure_.get_size_inches()[0]
        assert Image.open(file).width == pytest.approx(300 * width, abs=1)
    if suffix == "svg":
        assert content.count(b"</text>") > 1
        assert b"<image " in content
    if suffix == "pdf":
        assert b"/Type3" not in content
        assert b"/FontFile2" in content


@every_kind
def test_displays_draw_into_given_axes(kind, samples, embeddings, projector):
    display = display_of(kind, samples, embeddings, projector, **LEAST[kind])
    assert plt.get_fignums() == [display.figure_.number]
    figure, ax = plt.subplots(figsize=(4, 4), layout="constrained")
    assert display.plot(ax=ax) is display
    assert display.ax_ is ax
    assert display.figure_ is figure
    assert all(tile.figure is figure for tile in display.axes_.ravel())
    chart = [display.chart_ax_] if kind is OutlierDisplay else []
    again = [*chart, *display.axes_.ravel()]
    for tile in again:
        tile.clear()
    display.plot(ax=again)
    assert display.ax_ is None
    assert display.figure_ is figure
    with pytest.raises(ValueError, match="Another display already uses this ax"):
        display.plot(ax=ax)
    with pytest.raises(ValueError, match=f"contains {len(again) + 1} Axes, but {len(again)} are"):
        display.plot(ax=[*again, ax])
    with pytest.raises(ValueError, match="not part of a grid"):
        display.plot(ax=figure.add_axes((0, 0, 1, 1)))
    assert len(plt.get_fignums()) == 2


def test_texts_between_tiles_do_not_overlap_without_a_layout(samples, embeddings):
    _, ax = plt.subplots(figsize=(8, 8))
    names = np.arange(26) % 8
    display = OutlierDisplay.from_embeddings(embeddings, samples, names, ax=ax, n_most=1)
    display.figure_.canvas.draw()
    for above, below in zip(display.axes_[:-1, 0], display.axes_[1:, 0], strict=True):
        (heading,) = below.texts
        score = above.xaxis.label.get_window_extent()
        assert heading.get_window_extent().y1 < score.y0


@pytest.mark.parametrize("height", [4, 14])
def test_texts_below_the_chart_fit_without_a_layout(samples, embeddings, height):
    figure, ax = plt.subplots(figsize=(7, height))
    display = OutlierDisplay.from_embeddings(embeddings, samples, ax=ax)
    figure.canvas.draw()
    label = display.chart_ax_.xaxis.label.get_window_extent()
    headings = [ax.title for ax in figure.axes if ax.get_title() == "most outlying"]
    (top,) = (heading.get_window_extent().y1 for heading in headings)
    points = (label.y0 - top) * 72 / figure.dpi
    assert 0 < points < 15
