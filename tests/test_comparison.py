import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.metrics import (
    category_separation,
    compare_layers,
    compare_similarity,
    confused_concepts,
    linear_cka,
    overlap_ratio,
    pairwise_separation,
    pairwise_silhouette,
    precision_at_k,
    purity_score,
    rank_layers,
    sub_concepts,
)
from sklearn_loce.mixture import ConceptGaussianMixture

from . import brute_force
from .embeddings import planted_parts

COLUMNS = [
    *("layer", "metric", "mean", "std", "n_repeats", "n_rows", "rank"),
    *("difference", "difference_low", "difference_high"),
]
METRICS = ["separation", "purity", "n_clusters", "precision_at_5", "failed_share"]


@pytest.fixture
def confusable():
    """Bus and truck overlap, car is near, sky is far."""
    rng = np.random.RandomState(0)
    centers = np.array([[20.0, 0, 0], [26, 0, 0], [0, 90, 0], [20.5, 0.5, 0]])
    y = np.repeat(["bus", "car", "sky", "truck"], 40)
    return rng.normal(size=(160, 3)) + np.repeat(centers, 40, axis=0), y


def test_the_planted_pair_is_the_most_confused(confusable):
    X, y = confusable
    pairs = confused_concepts(
        X,
        y,
        clusters=ConceptAgglomerative(),
        components=ConceptGaussianMixture(6, min_weight=0.05, random_state=0),
    )
    assert len(pairs) == 6
    top = pairs.iloc[0]
    assert (top.concept_a, top.concept_b) == ("bus", "truck")
    assert top.overlap > 0.3
    assert top.mixed_cluster_share > 0.3
    assert top.mixed_component_share > 0.9
    assert pairs.overlap.is_monotonic_decreasing
    sky = pairs[(pairs.concept_a == "sky") | (pairs.concept_b == "sky")]
    columns = ["overlap", "mixed_clusters", "mixed_cluster_share", "mixed_components"]
    assert (sky[columns] == 0).all(axis=None)


def test_a_pair_has_the_metrics_of_its_concepts(confusable):
    X, y = confusable
    pairs = confused_concepts(X, y, metric="cityblock").set_index(["concept_a", "concept_b"])
    overlap = overlap_ratio(X, y, metric="cityblock")
    concepts = ["bus", "car", "sky", "truck"]
    for (a, b), row in pairs.iterrows():
        i, j = concepts.index(a), concepts.index(b)
        assert row.overlap_a == overlap[i, j]
        assert row.overlap_b == overlap[j, i]
        assert row.overlap == (overlap[i, j] + overlap[j, i]) / 2
        assert row.separation == pairwise_separation(X, y, metric="cityblock")[i, j]
        assert row.silhouette == pairwise_silhouette(X, y, metric="cityblock")[i, j]
    assert not [column for column in pairs if column.startswith("mixed")]


def test_mixed_clusters_equal_a_count_by_hand():
    X = np.arange(12.0)[:, np.newaxis]
    y = ["a"] * 5 + ["b"] * 5 + ["c"] * 2
    labels = [0, 0, 0, 1, -1, 0, 1, 1, 1, 1, 2, 2]
    pairs = confused_concepts(X, y, clusters=labels, min_share=0.2).set_index(
        ["concept_a", "concept_b"]
    )
    # Cluster 0 holds aaab, cluster 1 abbbb: both mix a and b, with 9 of the 10 rows.
    assert pairs.loc[("a", "b"), "mixed_clusters"] == 2
    assert pairs.loc[("a", "b"), "mixed_cluster_share"] == pytest.approx(0.9)
    assert pairs.loc[("a", "c"), "mixed_clusters"] == 0
    fewer = confused_concepts(X, y, clusters=labels, min_share=0.25)
    assert fewer.mixed_clusters.max() == 1


def test_concepts_with_one_row_are_ranked_by_the_other_direction():
    X = [[0.0], [1.0], [0.4], [50.0]]
    pairs = confused_concepts(X, ["a", "a", "b", "c"])
    assert (pairs.concept_a[0], pairs.concept_b[0]) == ("a", "b")
    assert pairs.overlap[0] == 1.0
    assert np.isnan(pairs.overlap.iloc[-1])


def test_sub_concepts_report_the_planted_parts():
    X, y, parts = planted_parts(n_rows=30)
    report = sub_concepts(X, y, ConceptAgglomerative(), metric="euclidean", n_rows=2)
    assert report.concept.tolist() == ["bus", "bus", "car", "car", "sky", "sky"]
    assert (report["size"] == 30).all()
    assert_allclose(report.share, 0.5)
    assert_allclose(report.purity, 1.0)
    for row in report.itertuples():
        part = parts[row.typical[0]]
        inside = np.flatnonzero(parts == part)
        means = [np.linalg.norm(X[inside] - X[i], axis=1).sum() / 29 for i in inside]
        ranking = inside[np.argsort(means)]
        assert row.typical == tuple(ranking[:2])
        assert row.atypical == tuple(ranking[::-1][:2])
        assert row.spread == pytest.approx(np.mean(means))


def test_sub_concepts_of_one_concept_may_include_noise():
    X = np.arange(7.0)[:, np.newaxis]
    y = ["car"] * 5 + ["bus"] * 2
    report = sub_concepts(X, y, [0, 0, 1, -1, 0, 1, 1], concept="car", metric="euclidean")
    assert report.cluster.tolist() == [0, 1]
    assert report["size"].tolist() == [3, 1]
    assert report.share.tolist() == [0.6, 0.2]
    assert report.purity.tolist() == [1.0, pytest.approx(1 / 3)]
    assert report.typical.tolist() == [(1, 0, 4), (2,)]
    assert np.isnan(report.spread[1])
    assert sub_concepts(X, y, [-1] * 7).empty


def test_sub_concepts_may_come_from_a_mixture():
    X, y, _ = planted_parts(n_rows=30)
    report = sub_concepts(X, y, ConceptGaussianMixture(random_state=0))
    assert report.groupby("concept").size().tolist() == [2, 2, 2]
    assert (report["size"] == 30).all()


class TestBadConfusionInput:
    def test_one_concept_raises_an_error(self):
        with pytest.raises(ValueError, match="At least 2 concepts"):
            confused_concepts(np.eye(3), ["car"] * 3)

    @pytest.mark.parametrize("name", ["clusters", "components"])
    def test_inconsistent_lengths_raise_an_error(self, name):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            confused_concepts(np.eye(3), ["car", "car", "bus"], **{name: [0, 1]})
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            sub_concepts(np.eye(3), ["car", "car", "bus"], [0, 1])
        with pytest.raises(ValueError, match=f"{name} has no label in row 0"):
            confused_concepts(np.eye(2), ["car", "bus"], **{name: [np.nan, 0]})

    @pytest.mark.parametrize("min_share", [0, 0.6, -0.1])
    def test_an_invalid_min_share_raises_an_error(self, min_share):
        with pytest.raises(ValueError, match="'min_share' parameter"):
            confused_concepts(np.eye(3), [0, 0, 1], min_share=min_share)

    def test_an_unknown_concept_raises_an_error(self):
        with pytest.raises(ValueError, match="concept='sky' does not occur in y"):
            sub_concepts(np.eye(3), ["car", "car", "bus"], [0, 0, 1], concept="sky")


@pytest.fixture
def layers():
    """A layer that separates concepts, and one of noise."""
    X, y, _ = planted_parts(n_rows=15)
    return {"good": X, "noise": np.random.RandomState(1).normal(size=X.shape)}, y


def test_the_table_has_one_row_per_layer_and_metric(layers):
    layers, y = layers
    table = compare_layers(layers, y, k=5, n_repeats=6, random_state=0)
    assert table.columns.tolist() == COLUMNS
    assert not table.duplicated(["layer", "metric"]).any()
    assert set(zip(table.layer, table.metric, strict=True)) == {
        (layer, metric) for layer in layers for metric in METRICS
    }
    assert (table.n_repeats == 6).all()
    assert (table.n_rows == 3 * 24).all()
    means = table.pivot_table("mean", "metric", "layer")
    assert means.loc["precision_at_5", "good"] > 0.99 > means.loc["precision_at_5", "noise"]
    assert means.loc["n_clusters", "good"] == 6
    stds = table.pivot_table("std", "metric", "layer")
    assert 0 < stds.loc["precision_at_5", "noise"] < 0.2


def test_repeats_are_seeded(layers):
    layers, y = layers
    first, again, other = (
        compare_layers(layers, y, k=5, n_repeats=3, random_state=seed) for seed in (0, 0, 1)
    )
    assert_frame_equal(first, again)
    assert not first["mean"].equals(other["mean"])


def test_a_draw_of_all_rows_gives_the_metrics_of_all_rows(layers):
    layers, y = layers
    clusterer = KMeans(4, random_state=0, n_init=1)
    table = compare_layers(
        layers, y, k=5, clusterer=clusterer, n_repeats=2, rows_per_concept=30, random_state=0
    )
    found = table.set_index(["layer", "metric"])
    for name, X in layers.items():
        labels = clusterer.fit_predict(X)
        assert found.loc[(name, "purity"), "mean"] == pytest.approx(purity_score(y, labels))
        assert found.loc[(name, "n_clusters"), "mean"] == 4
        expected = precision_at_k(X, y, k=5)
        assert found.loc[(name, "precision_at_5"), "mean"] == pytest.approx(expected)
        assert found.loc[(name, "precision_at_5"), "std"] == pytest.approx(0, abs=1e-12)


def test_only_rows_that_are_finite_in_all_layers_are_compared(layers):
    layers, y = layers
    layers["noise"][:9] = np.nan
    table = compare_layers(layers, y, k=5, n_repeats=2, rows_per_concept=21, random_state=0)
    cut = {name: X[9:] for name, X in layers.items()}
    expected = compare_layers(cut, y[9:], k=5, n_repeats=2, rows_per_concept=21, random_state=0)
    shared = table.metric != "failed_share"
    # 9 of the 30 rows of the first concept failed, so 21 rows remain.
    assert_allclose(
        table[shared & (table.layer == "good")]["n_rows"],
        expected[shared & (expected.layer == "good")]["n_rows"],
    )
    layers["noise"][y == "bus"] = np.nan
    with pytest.raises(ValueError, match=r"Concept 'bus' has 0 rows .* a draw needs 2"):
        compare_layers(layers, y, k=5, rows_per_concept=22)


def test_failures_and_iou_are_listed(layers):
    layers, y = layers
    layers["noise"][:9] = np.nan
    iou = {"good": np.linspace(0.0, 1.0, len(y)), "noise": np.full(len(y), 0.5)}
    iou["noise"][:9], iou["noise"][9:12] = np.nan, 0.0
    table = compare_layers(
        layers, y, iou=iou, k=5, n_repeats=40, rows_per_concept=20, random_state=0
    ).set_index(["layer", "metric"])["mean"]
    # Rows 0 to 11 are one concept's: 12 of its 30 rows, as in a draw of 20 of 60 on average.
    assert table["noise", "failed_share"] == pytest.approx(12 / 90, abs=0.02)
    assert table["noise", "iou"] == pytest.approx(0.5 * 78 / 90, abs=0.02)
    assert table["good", "iou"] == pytest.approx(0.5, abs=0.03)
    assert table["good", "failed_share"] == pytest.approx(1 / 90, abs=0.01)


def test_groups_are_drawn_whole(layers):
    """Each of two groups fills a draw, so a draw is one of them."""
    layers, y = layers
    groups = pd.Series(y).groupby(y).cumcount().to_numpy() % 2
    with pytest.warns(UserWarning, match=r"fewer than 5 rows to find.* of 12 draws: 'bus' \(12\)"):
        table = compare_layers(
            layers, y, groups=groups, k=5, n_repeats=12, rows_per_concept=15, random_state=0
        ).set_index(["layer", "metric"])
    halves = [category_separation(layers["noise"][groups == g], y[groups == g]) for g in (0, 1)]
    row = table.loc[("noise", "separation")]
    share = (row["mean"] - halves[0]) / (halves[1] - halves[0])
    assert 0 < share < 1
    assert share * 12 == pytest.approx(round(share * 12))
    assert np.isnan(table.loc[("noise", "precision_at_5"), "mean"])


@pytest.mark.parametrize(
    "how",
    [
        {"groups": np.arange(90) % 6},
        {"groups": np.arange(90), "exclude": 2},
        {"groups": pd.DataFrame({"a": np.arange(90) % 2, "b": np.arange(90)}), "exclude": 4},
    ],
    ids=["groups", "window", "window in two sequences"],
)
def test_precision_excludes_the_group_of_the_query(layers, how):
    layers, y = layers
    values = np.asarray(how["groups"]).reshape(90, -1)

    def is_out(i, j):
        near = abs(values[i, -1] - values[j, -1]) <= how.get("exclude", 0)
        return near and values[i, 0] == values[j, 0] if values.shape[1] == 2 else near

    table = compare_layers(layers, y, k=5, n_repeats=2, rows_per_concept=30, **how)
    found = table.set_index(["layer", "metric"])["mean"]
    for name, X in layers.items():
        expected = brute_force.retrieval(X, y, "cosine", brute_force.precision_at(5), is_out=is_out)
        assert found[name, "precision_at_5"] == pytest.approx(expected.mean())


def test_precision_excludes_concepts_with_too_few_rows(layers):
    """Perfectly separable blobs of any size have precision 1."""
    X, y = np.repeat(np.eye(3), [20, 20, 4], axis=0), np.repeat(["bus", "car", "sky"], [20, 20, 4])
    for rows_per_concept in (12, 100):
        with pytest.warns(UserWarning, match=r"fewer than 10 rows.* of 3 draws: 'sky' \(3\)\. Cho"):
            table = compare_layers(
                {"one": X + 0.001 * np.random.RandomState(0).normal(size=X.shape)},
                y,
                rows_per_concept=rows_per_concept,
                n_repeats=3,
            )
        found = table.set_index("metric")
        assert found.loc["precision_at_10", "mean"] == 1.0
        # At most the requested number of rows per concept, or all if it has fewer.
        assert found.loc["purity", "n_rows"] == 4 + 2 * min(20, rows_per_concept)
    # One group holds all buses, so other groups have no relevant rows.
    groups = np.where(y == "bus", 0, np.arange(44))
    with pytest.warns(UserWarning, match=r"of 1 draws: 'bus' \(1\), 'sky' \(1\)"):
        table = compare_layers({"one": X}, y, groups=groups, n_repeats=1, rows_per_concept=20)
    assert table.set_index("metric").loc["precision_at_10", "mean"] == 1.0
    with pytest.warns(UserWarning, match=r"'bus' \(2\), 'car' \(2\), 'sky' \(2\)"):
        table = compare_layers({"one": X}, y, n_repeats=2)
    assert np.isnan(table.set_index("metric").loc["precision_at_10", "mean"])


def test_layers_are_ranked_and_compared_within_draws(layers):
    layers, y = layers
    layers = {"noise": layers["noise"], "good": layers["good"], "twin": layers["good"]}
    iou = {"noise": np.full(90, 0.9), "good": np.full(90, 0.5), "twin": np.full(90, 0.7)}
    options = {"iou": iou, "k": 5, "n_repeats": 8, "random_state": 0}
    table = compare_layers(layers, y, **options)
    found = table.set_index(["layer", "metric"])
    ranks = rank_layers(table)
    assert ranks["layer"].tolist() == ["twin", "noise", "good"]
    by_layer = ranks.set_index("layer")
    for metric in ("purity", "precision_at_5"):
        assert by_layer[metric].tolist() == [1.5, 3.0, 1.5]
    # Concepts of two parts each are not better separated than noise.
    assert by_layer["separation"].tolist() == [2.5, 1.0, 2.5]
    assert by_layer["iou"].tolist() == [2.0, 1.0, 3.0]
    assert by_layer["failed_share"].tolist() == [2.0] * 3
    assert by_layer["rank_sum"].tolist() == [9.5, 10.0, 10.5]
    assert "n_clusters" not in by_layer
    assert rank_layers(table, ["iou"])["layer"].tolist() == ["noise", "twin", "good"]
    # The twin has the same values in every draw, so its difference is exactly zero.
    columns = ["difference", "difference_low", "difference_high"]
    assert found.loc[("twin", "purity"), columns].tolist() == [0.0] * 3
    for metric, best in (("purity", "good"), ("iou", "noise")):
        means = found["mean"].xs(metric, level="metric")
        assert_allclose(found["difference"].xs(metric, level="metric"), means - means[best])
    to_noise = compare_layers(layers, y, reference="noise", **options)
    found = to_noise.set_index(["layer", "metric"]).loc[("good", "purity")]
    assert 0 < found["difference_low"] < found["difference"] < found["difference_high"]


def test_intervals_require_different_draws(layers):
    layers, y = layers
    for how in ({"n_repeats": 1}, {"n_repeats": 3, "rows_per_concept": 30}):
        table = compare_layers(layers, y, k=5, random_state=0, **how)
        assert table[["difference_low", "difference_high"]].isna().all(axis=None)
        assert table["difference"].notna().all()


class _OneCluster(ClusterMixin, BaseEstimator):
    def fit_predict(self, X, y=None):
        return np.zeros(len(X), dtype=int)


@pytest.mark.slow
def test_intervals_cover_the_difference_in_other_samples_of_images():
    found = []
    for seed in range(40):
        rng = np.random.RandomState(seed)
        images = np.repeat(np.arange(20), 6)
        y = np.tile(np.repeat([0, 1], 3), 20)
        X = np.eye(2)[y] + 0.5 * rng.normal(size=(20, 2, 2))[images, y]
        other = X + 0.4 * rng.normal(size=(20, 2, 2))[images, y]
        iou = {name: rng.uniform(0.4, 0.8, size=20)[images] for name in ("one", "other")}
        table = compare_layers(
            {"one": X, "other": other},
            y,
            groups=images,
            iou=iou,
            clusterer=_OneCluster(),
            k=3,
            n_repeats=20,
            rows_per_concept=0.5,
            reference="one",
            random_state=seed,
        )
        found.append(table[table.layer == "other"].set_index("metric"))
    found = pd.concat(found)
    for metric, widest in (("iou", 1.3), ("precision_at_3", 2.0)):
        rows = found.loc[metric]
        truth, spread = rows["difference"].mean(), rows["difference"].std()
        inside = (rows["difference_low"] <= truth) & (truth <= rows["difference_high"])
        assert inside.mean() >= 0.9
        width = (rows["difference_high"] - rows["difference_low"]).mean() / (2 * 1.96)
        assert 0.9 * spread < width < widest * spread


def test_rows_are_matched_by_index(layers):
    layers, y = layers
    names = [f"row {i}" for i in range(len(y))]
    order = np.random.RandomState(0).permutation(len(y))
    tables = {
        "good": pd.DataFrame(layers["good"], index=names),
        "noise": pd.DataFrame(layers["noise"], index=names).iloc[order][:80],
    }
    y = pd.Series(y, index=names)
    kept = np.sort(order[:80])
    plain = {name: X[kept] for name, X in layers.items()}
    options = {"k": 5, "n_repeats": 3, "random_state": 0}
    iou = {"good": pd.Series(0.7, index=names), "noise": pd.Series(0.2, index=names[::-1])}
    plain_iou = {"good": np.full(80, 0.7), "noise": np.full(80, 0.2)}
    groups = np.arange(len(y)) // 2
    assert_frame_equal(
        compare_layers(tables, y, iou=iou, groups=groups, **options),
        compare_layers(plain, y.iloc[kept], iou=plain_iou, groups=groups[kept], **options),
    )
    similar = compare_similarity(tables)
    assert similar.n_rows[0] == 80
    assert similar.linear_cka[0] == pytest.approx(linear_cka(plain["good"], plain["noise"]))


def test_cka_follows_its_definition():
    rng = np.random.RandomState(0)
    X, Y = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    for A, B in [(X, Y), (X[:4], Y[:4]), (rng.normal(size=(6, 40)), rng.normal(size=(6, 9)))]:
        n = len(A)
        center = np.eye(n) - 1 / n
        K, L = center @ A @ A.T @ center, center @ B @ B.T @ center
        expected = np.trace(K @ L) / np.sqrt(np.trace(K @ K) * np.trace(L @ L))
        assert linear_cka(A, B) == pytest.approx(expected)
        assert linear_cka(B, A) == pytest.approx(expected)


def test_cka_ignores_rotation_scale_and_offset():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(30, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert linear_cka(X, 3 * X @ rotation + 7) == pytest.approx(1.0)
    assert np.isnan(linear_cka(X, np.ones((30, 2))))


class TestBadComparisonInput:
    def test_inconsistent_lengths_raise_an_error(self, layers):
        layers, y = layers
        with pytest.raises(ValueError, match="noise has 89 rows and y has 90"):
            compare_layers(layers | {"noise": layers["noise"][1:]}, y)
        with pytest.raises(ValueError, match="groups has 1 rows"):
            compare_layers(layers, y, groups=[0])
        table = compare_layers(layers, y, k=5, n_repeats=1)
        with pytest.raises(ValueError, match="no metric 'iou'; it has"):
            rank_layers(table, ["iou"])
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            linear_cka(np.eye(3), np.eye(4))

    def test_a_comparison_without_layers_raises_an_error(self, layers):
        with pytest.raises(ValueError, match="layers is empty"):
            compare_layers({}, layers[1])
        with pytest.raises(ValueError, match="layers is empty"):
            compare_similarity({})

    def test_iou_of_other_layers_raises_an_error(self, layers):
        layers, y = layers
        with pytest.raises(ValueError, match="iou has the layers"):
            compare_layers(layers, y, iou={"good": np.ones(len(y))})

    def test_inconsistent_indexes_raise_an_error(self, layers):
        layers, y = layers
        tables = {name: pd.DataFrame(X) for name, X in layers.items()}
        with pytest.raises(ValueError, match="a common index"):
            compare_layers(tables, pd.Series(y, index=np.arange(len(y)) + 1000))
        with pytest.raises(ValueError, match="an index repeats"):
            compare_layers(tables, pd.Series(y, index=np.zeros(len(y))))

    def test_one_concept_raises_an_error(self, layers):
        layers, y = layers
        with pytest.raises(ValueError, match="At least 2 concepts"):
            compare_layers(layers, ["car"] * len(y))

    @pytest.mark.parametrize(
        ("parameters", "match"),
        [
            ({"reference": "bad"}, "reference='bad' is not a layer; choose from"),
            ({"exclude": 3}, "exclude=3 compares the groups of rows, but groups is None"),
            ({"n_repeats": 0}, "'n_repeats' parameter"),
            ({"rows_per_concept": -3}, "'rows_per_concept' parameter"),
            ({"rows_per_concept": 1.5}, "'rows_per_concept' parameter"),
        ],
    )
    def test_invalid_parameters_raise_errors(self, layers, parameters, match):
        with pytest.raises(ValueError, match=match):
            compare_layers(*layers, **parameters)


@pytest.mark.parametrize(
    "mixture",
    [
        ConceptGaussianMixture(random_state=0),
        make_pipeline(PCA(2), ConceptGaussianMixture(random_state=0)),
    ],
    ids=["mixture", "pipeline"],
)
def test_clusters_of_noise_are_not_pure(mixture):
    X, y = np.random.RandomState(0).normal(size=(90, 3)), np.repeat(["bus", "car", "sky"], 30)
    options = {"n_repeats": 2, "random_state": 0}
    table = compare_layers({"noise": X}, y, clusterer=mixture, **options)
    assert table.set_index("metric").loc["purity", "mean"] < 0.6
    pairs = confused_concepts(X, y, clusters=mixture, components=mixture)
    assert pairs.mixed_cluster_share.min() > 0.5
    assert pairs.mixed_component_share.min() > 0.5


def test_different_orders_beside_arrays_raise_an_error(layers):
    layers, y = layers
    tables = {name: pd.DataFrame(X) for name, X in layers.items()}
    tables["noise"] = tables["noise"].iloc[::-1]
    with pytest.raises(ValueError, match=r"embeddings of .noise. have the .* but y has"):
        compare_layers(tables, y)
    match = "the same labels in another order, but .* has no such labels"
    with pytest.raises(ValueError, match=match):
        compare_layers({"good": tables["good"], "plain": layers["good"]}, pd.Series(y)[::-1])
    with pytest.raises(ValueError, match=match):
        compare_layers(layers, pd.Series(y), groups=pd.Series(y)[::-1])
    with pytest.raises(ValueError, match=match):
        compare_similarity({**tables, "plain": layers["good"]})


@pytest.mark.parametrize("n_features", [3, 40])
def test_cka_handles_constant_tiny_and_huge_layers(n_features):
    rng = np.random.RandomState(0)
    X, Y = rng.normal(size=(20, n_features)), rng.normal(size=(20, 30))
    assert np.isnan(linear_cka(np.full((20, n_features), 0.1), Y))
    assert np.isnan(linear_cka(Y, np.zeros((20, n_features))))
    expected = linear_cka(X, Y)
    for scale in (1e-100, 1e100, 1e-300, 1e300):
        assert linear_cka(X * scale, Y) == pytest.approx(expected)
    for seed in range(20):
        A = np.random.RandomState(seed).normal(size=(7, n_features))
        assert linear_cka(A, 3 * A) <= 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(90, np.inf), r"iou of 'good' has inf; values must be in \[0, 1\]"),
        (np.full(90, -0.5), "iou of 'good' has -0.5"),
        (np.full(90, "high"), "iou of 'good' has values that are not numbers"),
        (np.ones((90, 2)), r"iou of 'good' has shape \(90, 2\)"),
    ],
)
def test_invalid_iou_raises_an_error(layers, values, message):
    layers, y = layers
    with pytest.raises(ValueError, match=message):
        compare_layers({"good": layers["good"]}, y, iou={"good": values})


def test_iou_with_missing_rows_raises_an_error(layers):
    layers, y = layers
    table, iou = pd.DataFrame(layers["good"]), pd.Series(np.ones(80))
    with pytest.raises(ValueError, match=r"iou of 'good' has no row 80 \(10 in all"):
        compare_layers({"good": table}, pd.Series(y), iou={"good": iou})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([np.eye(3)], "'layers' parameter of compare_similarity"),
        ({"a": np.eye(3), "b": np.eye(4)}, "inconsistent numbers of samples"),
        ({"a": np.eye(3)}, r"layers has \['a'\]; pass at least two"),
        ({"a": np.eye(3), "b": np.full((3, 3), np.nan)}, "0 rows are finite in every layer"),
    ],
)
def test_bad_similarity_input_raises_an_error(layers, message):
    with pytest.raises(ValueError, match=message):
        compare_similarity(layers)
