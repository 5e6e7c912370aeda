import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.cluster.hierarchy import fcluster, linkage, to_tree
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from benchmarks.measure import has_memory_counters, in_own_process, memory_growth
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.metrics import cluster_composition, purity_score

from .embeddings import planted_parts


def cut_by_recursion(X, y, is_cluster, method="ward"):
    """Sets of rows, by the definition: from the root down."""
    found = []

    def walk(node):
        rows = node.pre_order()
        if is_cluster(node, [y[row] for row in rows]):
            found.append(frozenset(rows))
        else:
            walk(node.left)
            walk(node.right)

    walk(to_tree(linkage(X, method)))
    return set(found)


def clusters_of(labels):
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.fixture
def mixed():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(80, 3)) + 2 * rng.normal(size=(4, 3))[np.arange(80) % 4]
    return X, rng.choice(["bus", "car", "sky"], 80, p=[0.6, 0.3, 0.1])


@pytest.mark.parametrize(("purity", "size"), [(0.8, 0.05), (0.9, 0.025), (0.7, 3), (1.0, 1)])
def test_adaptive_cut_follows_its_definition(mixed, purity, size):
    X, y = mixed
    most = size if isinstance(size, int) else size * len(X)

    def is_cluster(node, concepts):
        majority = max(concepts.count(concept) for concept in set(concepts))
        return len(concepts) <= most or majority / len(concepts) >= purity

    model = ConceptAgglomerative(purity=purity, size=size).fit(X, y)
    expected = cut_by_recursion(X, y, is_cluster)
    assert clusters_of(model.labels_) == expected
    assert 1 < len(expected) < len(X)


@pytest.mark.parametrize("size", [1, 7, 0.1, 0.29, 80])
def test_size_cut_follows_its_definition(mixed, size):
    X, y = mixed
    most = size if isinstance(size, int) else size * len(X)
    model = ConceptAgglomerative(criterion="size", size=size).fit(X)
    expected = cut_by_recursion(X, y, lambda node, concepts: len(concepts) <= most)
    assert clusters_of(model.labels_) == expected


@pytest.mark.parametrize("method", ["ward", "complete", "average"])
@pytest.mark.parametrize("threshold", [0.0, 1.3, 5.0, 1e6])
def test_the_distance_cut_equals_that_of_scipy(mixed, method, threshold):
    X, _ = mixed
    model = ConceptAgglomerative(
        linkage=method, criterion="distance", distance_threshold=threshold
    ).fit(X)
    expected = fcluster(linkage(X, method), threshold, criterion="distance")
    assert clusters_of(model.labels_) == clusters_of(expected)


def test_a_share_equal_to_a_count_includes_it():
    X = np.array([[0.0], [0.1]] + [[50.0 * i] for i in range(1, 99)])
    model = ConceptAgglomerative(criterion="size", size=0.02).fit(X)
    assert model.labels_[0] == model.labels_[1]


def test_attributes_of_a_cluster_follow_their_definition(mixed):
    X, y = mixed
    model = ConceptAgglomerative().fit(X, y)
    assert model.n_clusters_ == len(np.unique(model.labels_))
    assert np.all(np.diff(np.bincount(model.labels_)) <= 0)
    assert model.concepts_.tolist() == ["bus", "car", "sky"]
    assert_allclose(model.cluster_concept_proba_, cluster_composition(y, model.labels_))
    assert model.purity_ == pytest.approx(purity_score(y, model.labels_))
    assert model.linkage_matrix_.shape == (79, 4)
    for label in range(model.n_clusters_):
        rows = X[model.labels_ == label]
        expected = np.mean([row / np.sqrt((row**2).sum()) for row in rows], axis=0)
        assert_allclose(model.cluster_centers_[label], expected)
    raw = ConceptAgglomerative(normalize=False).fit(X, y)
    assert_allclose(raw.cluster_centers_[0], X[raw.labels_ == 0].mean(axis=0))


@pytest.mark.parametrize("method", ["ward", "average", "complete"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_parts_are_recovered(method, seed):
    X, y, parts = planted_parts(seed=seed)
    model = ConceptAgglomerative(linkage=method).fit(X, y)
    assert adjusted_rand_score(parts, model.labels_) >= 0.95
    assert model.n_clusters_ == 6


def test_a_pure_node_is_never_split():
    X, parts = make_blobs([20] * 3, centers=[[0, 0], [9, 0], [90, 0]], random_state=0)
    y = np.array(["car", "car", "sky"])[parts]
    assert ConceptAgglomerative().fit(X, y).n_clusters_ == 2


@pytest.mark.parametrize("assign", ["centroid", "neighbors"])
@pytest.mark.parametrize(
    "metric",
    ["l2", "cityblock", "manhattan", "l1", "cosine", "chebyshev", "canberra", "braycurtis"],
)
def test_every_metric_fits_and_predicts(mixed, metric, assign):
    X, y = mixed
    model = ConceptAgglomerative(linkage="average", metric=metric, assign=assign).fit(X, y)
    synonyms = {"l2": "euclidean", "l1": "cityblock", "manhattan": "cityblock"}
    expected = linkage(X, "average", synonyms.get(metric, metric))
    assert_allclose(model.linkage_matrix_[:, 2:], expected[:, 2:], rtol=1e-9)
    assert set(model.predict(X)) <= set(range(model.n_clusters_))


def test_ward_accepts_the_synonym_of_its_metric(mixed):
    model = ConceptAgglomerative(metric="l2").fit(*mixed)
    assert_array_equal(model.labels_, ConceptAgglomerative().fit(*mixed).labels_)


def test_rows_of_one_direction_form_one_cluster_at_distance_zero():
    X = np.repeat(np.random.RandomState(0).normal(size=(3, 5)), 4, axis=0)
    X *= np.tile([1.0, 3.0, 0.7, 1e-3], 3)[:, np.newaxis]
    model = ConceptAgglomerative(
        linkage="average", metric="cosine", criterion="distance", distance_threshold=0.0
    ).fit(X)
    assert model.n_clusters_ == 3


def test_a_vote_among_many_clusters_does_not_warn(mixed):
    model = ConceptAgglomerative(criterion="size", size=1, assign="neighbors", n_neighbors=1)
    assert_array_equal(model.fit(mixed[0]).predict(mixed[0]), model.labels_)


def test_one_pure_concept_stays_one_cluster(mixed):
    X, _ = mixed
    model = ConceptAgglomerative().fit(X, ["car"] * len(X))
    assert model.n_clusters_ == 1
    assert model.purity_ == 1.0


def test_new_rows_get_the_cluster_of_the_nearest_centroid(mixed):
    X, y = mixed
    new = np.random.RandomState(1).normal(size=(20, 3))
    model = ConceptAgglomerative().fit(X, y)
    scaled = new / np.linalg.norm(new, axis=1, keepdims=True)
    distances = np.linalg.norm(scaled[:, np.newaxis] - model.cluster_centers_, axis=2)
    assert_array_equal(model.predict(new), distances.argmin(axis=1))
    proba = model.predict_proba(new)
    assert_array_equal(proba.argmax(axis=1), model.predict(new))
    assert_allclose(proba.sum(axis=1), 1)
    assert_allclose(
        model.predict_concept_proba(new), model.cluster_concept_proba_[model.predict(new)]
    )


def test_cosine_centroids_are_means_of_unit_vectors(mixed):
    X, y = mixed
    model = ConceptAgglomerative(linkage="average", metric="cosine").fit(X, y)
    cosines = normalize(X) @ normalize(model.cluster_centers_).T
    assert_array_equal(model.predict(X), cosines.argmax(axis=1))


def test_new_rows_get_the_cluster_of_most_neighbors(mixed):
    X, y = mixed
    new = np.random.RandomState(1).normal(size=(20, 3))
    model = ConceptAgglomerative(assign="neighbors", n_neighbors=7).fit(X, y)
    voters = KNeighborsClassifier(7).fit(X, model.labels_)
    assert_array_equal(model.predict(new), voters.predict(new))
    assert_allclose(model.predict_proba(new), voters.predict_proba(new))
    expected = voters.predict_proba(new) @ model.cluster_concept_proba_
    assert_allclose(model.predict_concept_proba(new), expected)


@pytest.mark.parametrize("assign", ["centroid", "neighbors"])
def test_planted_parts_are_predicted(assign):
    X, y, parts = planted_parts()
    model = ConceptAgglomerative(assign=assign, normalize=False).fit(X[::2], y[::2])
    assert adjusted_rand_score(parts[1::2], model.predict(X[1::2])) >= 0.95


def test_a_deep_tree_needs_no_recursion():
    X = 1.5 ** np.arange(1500, dtype=float)[:, np.newaxis] / 1.5**750
    model = ConceptAgglomerative(linkage="single", criterion="size", size=1).fit(X)
    assert model.n_clusters_ == 1500


@pytest.mark.parametrize("order", range(4))
def test_rows_without_a_direction_are_far_from_all(order):
    X = np.vstack([np.eye(3), np.eye(3), np.zeros((3, 3))])
    X = X[np.random.RandomState(order).permutation(9)]
    model = ConceptAgglomerative(
        linkage="average", metric="cosine", criterion="distance", distance_threshold=0.5
    ).fit(X)
    assert model.n_clusters_ == 6
    # Rows of equal direction are joined at 0, and all others at 1.
    assert_allclose(model.linkage_matrix_[:, 2], [0, 0, 0, 1, 1, 1, 1, 1], atol=1e-12)


def peak_of_fit(linkage, metric, n_rows):
    X = np.random.RandomState(0).normal(size=(n_rows, 4))
    X[::7] = 0.0
    model = ConceptAgglomerative(criterion="size", linkage=linkage, metric=metric)
    return memory_growth(lambda: model.fit(X)) * 2**20


@pytest.mark.slow
@pytest.mark.skipif(not has_memory_counters(), reason="needs Linux")
@pytest.mark.parametrize(
    ("linkage", "metric", "bytes_each"),
    [("ward", "euclidean", 8), ("average", "cosine", 8), ("single", "cosine", 4.5)],
)
def test_memory_equals_that_in_the_docstring(linkage, metric, bytes_each):
    peak = in_own_process(peak_of_fit, linkage, metric, 4000)
    assert peak == pytest.approx(bytes_each * 4000 * 3999, rel=0.1)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs sysconf")
@pytest.mark.parametrize("linkage", ["ward", "single"])
def test_too_little_memory_causes_a_warning(linkage):
    """The warning precedes the distances: as an error, it ends the fit at once."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    X = np.zeros((int(1.1 * np.sqrt(memory / 4.5)), 1))
    model = ConceptAgglomerative(criterion="size", linkage=linkage)
    with pytest.raises(RuntimeWarning, match=rf"The tree of {len(X):,} rows needs .* machine has"):
        model.fit(X)


def test_a_fit_without_labels_removes_earlier_labels(mixed):
    X, y = mixed
    model = ConceptAgglomerative(criterion="size").fit(X, y)
    assert model.predict_concept_proba(X).shape == (80, 3)
    model.fit(X)
    for name in ("concepts_", "cluster_concept_proba_", "purity_"):
        assert not hasattr(model, name)
    with pytest.raises(AttributeError, match="No concepts are known"):
        model.predict_concept_proba(X)


class TestBadInput:
    @pytest.mark.parametrize("method", ["fit", "fit_predict"])
    def test_missing_labels_raise_an_error(self, mixed, method):
        with pytest.raises(ValueError, match='criterion="adaptive" requires y to be passed'):
            getattr(ConceptAgglomerative(), method)(mixed[0])

    @pytest.mark.parametrize(
        ("parameters", "match"),
        [
            *(({"size": size}, "'size' parameter") for size in (-1, 0, 0.0, 1.0, 2.5, -0.1)),
            *(({"purity": purity}, "'purity' parameter") for purity in (0, -0.5, 1.01)),
            ({"criterion": "distance"}, "needs a distance_threshold"),
            ({"distance_threshold": -1.0}, "'distance_threshold' parameter"),
            ({"metric": "cosine"}, '"ward" needs metric="euclidean", got .*cosine'),
            *(
                ({"linkage": "average", "metric": name}, f"'metric' parameter .* Got '{name}'")
                for name in ("seuclidean", "mahalanobis", "jaccard", "euclidian")
            ),
            (
                {"assign": "neighbors", "n_neighbors": 81},
                "n_neighbors=81 is larger than n_samples=80",
            ),
        ],
    )
    def test_invalid_parameters_raise_errors(self, mixed, parameters, match):
        with pytest.raises(ValueError, match=match):
            ConceptAgglomerative(**parameters).fit(*mixed)

    def test_overflow_raises_an_error(self):
        with pytest.raises(ValueError, match="whose squares overflow"):
            ConceptAgglomerative().fit([[0.0], [1e160]], ["car", "bus"])

    def test_invalid_labels_raise_errors(self, mixed):
        X, y = mixed
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            ConceptAgglomerative().fit(X, y[1:])
        with pytest.raises(ValueError, match="mixes types"):
            ConceptAgglomerative().fit(X, [*y[1:], 3])
        with pytest.raises(ValueError, match="no label in row 79"):
            ConceptAgglomerative().fit(X, [*y[1:], None])
