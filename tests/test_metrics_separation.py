import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import pdist
from sklearn import config_context
from sklearn.datasets import make_blobs
from sklearn.metrics import silhouette_score

from sklearn_loce.metrics import (
    category_separation,
    overlap_ratio,
    pairwise_separation,
    pairwise_silhouette,
)

from . import brute_force
from .embeddings import CASES

METRICS = ["euclidean", "cosine", "cityblock"]
FUNCTIONS = [category_separation, pairwise_separation, overlap_ratio, pairwise_silhouette]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


@pytest.fixture(params=[1e-3, 128], ids=["a few rows at a time", "all rows at once"])
def chunk(request):
    with config_context(working_memory=request.param):
        yield


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("metric", METRICS)
class TestDefinitions:
    def test_category_separation_equals_loops(self, case, metric):
        found = category_separation(*case, metric=metric, average=None)
        expected = brute_force.category_separation(*case, metric)
        assert_allclose(found, expected, rtol=1e-7, atol=1e-12)

    def test_pairwise_separation_equals_loops(self, case, metric):
        expected = brute_force.pairwise_separation(*case, metric)
        assert_allclose(pairwise_separation(*case, metric=metric), expected, rtol=1e-7, atol=1e-9)

    def test_overlap_ratio_equals_loops(self, case, metric):
        assert_array_equal(
            overlap_ratio(*case, metric=metric), brute_force.overlap_ratio(*case, metric)
        )

    def test_pairwise_silhouette_equals_loops(self, case, metric):
        expected = brute_force.pairwise_silhouette(*case, metric)
        assert_allclose(pairwise_silhouette(*case, metric=metric), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("quantile", [0.05, 0.5])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "one row in a concept"])
def test_quantiles_follow_their_definition(name, metric, quantile):
    X, y = CASES[name]()
    assert_allclose(
        category_separation(X, y, quantile=quantile, average=None, metric=metric),
        brute_force.robust_category_separation(X, y, metric, quantile),
        rtol=1e-7,
    )
    assert_allclose(
        pairwise_separation(X, y, quantile=quantile, metric=metric),
        brute_force.robust_pairwise_separation(X, y, metric, quantile),
        rtol=1e-7,
        atol=1e-9,
    )


def test_one_outlier_changes_the_minimum_and_not_the_quantile():
    X, y = make_blobs([60, 60], n_features=4, centers=[[0] * 4, [30] * 4], random_state=0)
    spoilt = X.copy()
    spoilt[np.flatnonzero(y == 0)[0]] = X[y == 1].mean(axis=0)
    assert pairwise_separation(X, y)[0, 1] > 0.7
    assert pairwise_separation(spoilt, y)[0, 1] < 0.02
    clean, robust = (pairwise_separation(A, y, quantile=0.1)[0, 1] for A in (X, spoilt))
    assert robust == pytest.approx(clean, rel=0.02)
    clean, robust = (category_separation(A, y, quantile=0.1, average=None)[1] for A in (X, spoilt))
    assert robust == pytest.approx(clean, rel=0.02)
    clean, robust = (pairwise_silhouette(A, y)[0, 1] for A in (X, spoilt))
    assert robust == pytest.approx(clean, abs=0.1)


GAPS = {
    "continuous": np.random.RandomState(0).exponential(size=400),
    "ties": np.random.RandomState(0).randint(5, size=400).astype(float),
    "far outlier": np.append(np.random.RandomState(0).rand(399), 1e12),
    "close ties": np.repeat([1.0, np.nextafter(1.0, 2.0)], 200),
    "zeros and tiny": np.append(np.zeros(200), np.linspace(1e-300, 2, 200)),
}


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.05, 0.5, 0.77])
@pytest.mark.parametrize("kind", GAPS)
def test_quantiles_of_many_distances_are_exact(quantile, kind):
    gaps = GAPS[kind]
    X, y = np.r_[0.0, 0.0, gaps][:, np.newaxis], np.repeat(["here", "there"], [2, 400])
    widest = np.quantile(pdist(X, "cityblock"), 1 - quantile)
    # The distances of only one row fit into this memory.
    with config_context(working_memory=402 * 8 / 2**20):
        found = pairwise_separation(X, y, metric="cityblock", quantile=quantile)
    expected = np.quantile(np.tile(gaps, 2), quantile) / (widest + 1e-6)
    assert found[0, 1] == pytest.approx(expected, rel=1e-14)


def test_rows_of_one_direction_are_equal_under_cosine():
    X, y = np.outer(np.arange(1, 11), [0.3, 0.7, 0.1]), np.repeat(["a", "b"], 5)
    assert pairwise_silhouette(X, y, metric="cosine")[0, 1] == 0.0
    assert overlap_ratio(X, y, metric="cosine").max() == 0.0
    apart = np.vstack([X, np.outer(np.arange(1, 6), [0.3, -0.7, 0.1])])
    labels = np.repeat(["ab", "c"], [10, 5])
    assert np.isinf(category_separation(apart, labels, metric="cosine", average=None)).all()


@pytest.mark.parametrize("factor", [1e-200, 1e140, 1e250])
def test_cosine_ignores_lengths(factor):
    X, y = CASES["random"]()
    for function in FUNCTIONS:
        expected = function(X, y, metric="cosine")
        assert_allclose(function(X * factor, y, metric="cosine"), expected, rtol=1e-9)


def test_silhouette_of_a_pair_equals_that_of_scikit_learn():
    X, y = CASES["random"]()
    kept = np.isin(y, ["bus", "sky"])
    expected = silhouette_score(X[kept], y[kept])
    assert pairwise_silhouette(X, y)[0, 2] == pytest.approx(expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_order_of_rows_does_not_matter(function):
    X, y = CASES["random"]()
    order = np.random.RandomState(0).permutation(len(X))
    assert_allclose(function(X[order], y[order]), function(X, y))


def test_the_macro_average_excludes_a_concept_with_one_row():
    X, y = CASES["one row in a concept"]()
    values = category_separation(X, y, average=None)
    assert np.isnan(values[1])
    assert category_separation(X, y) == pytest.approx((values[0] + values[2]) / 2)


def test_concepts_with_one_row_each_have_no_separation():
    assert np.isnan(category_separation([[0.0], [1.0]], ["a", "b"]))
    assert_allclose(pairwise_separation([[0.0], [1.0]], ["a", "b"])[0, 1], 1 / (1 + 1e-6))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_concept_raises_an_error(function):
    with pytest.raises(ValueError, match=r"At least 2 concepts .* has 1 \('car'\)"):
        function([[0.0], [1.0]], ["car", "car"])


@pytest.mark.parametrize("function", [category_separation, pairwise_separation])
@pytest.mark.parametrize("quantile", [-0.1, 1.0, "half"])
def test_a_quantile_out_of_range_raises_an_error(function, quantile):
    with pytest.raises(ValueError, match="quantile"):
        function([[0.0], [1.0]], ["car", "bus"], quantile=quantile)
