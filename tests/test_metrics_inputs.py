"""Inputs, progress and memory of all metrics of distances."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context

from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.metrics import (
    category_separation,
    compare_layers,
    confused_concepts,
    mean_average_precision_at_k,
    overlap_ratio,
    pairwise_separation,
    pairwise_silhouette,
    precision_at_k,
    r_precision,
)
from sklearn_loce.outliers import ConceptOutlierDetector

from .embeddings import CASES


def precision_at_1(X, y, **options):
    return precision_at_k(X, y, k=1, **options)


def average_precision_at_1(X, y, **options):
    return mean_average_precision_at_k(X, y, k=1, **options)


FUNCTIONS = [
    category_separation,
    pairwise_separation,
    overlap_ratio,
    pairwise_silhouette,
    precision_at_1,
    average_precision_at_1,
    r_precision,
]


def gives(value):
    def metric(a, b):
        return value if a[0] + b[0] == 3 else abs(a[0] - b[0])

    return metric


ROWS, Y = [[0.0], [1.0], [2.0]], ["car", "bus", "bus"]
BAD = {
    "NaN": ([[0.0], [np.nan], [1.0]], Y, "euclidean"),
    "inconsistent numbers of samples": (ROWS, Y[1:], "euclidean"),
    "mixes types": (ROWS, ["car", 1, 2.5], "euclidean"),
    "no label in row 1": (ROWS, ["car", None, "bus"], "euclidean"),
    r"no label in row 2 \(1 in all": (ROWS, ["car", "car", np.nan], "euclidean"),
    "euclidian": (ROWS, Y, "euclidian"),
    "'precomputed' is not supported": (np.eye(3), Y, "precomputed"),
    "'seuclidean' is not supported.*StandardScaler": (ROWS, Y, "seuclidean"),
    "'mahalanobis' is not supported": (ROWS, Y, "mahalanobis"),
    "metric='jaccard' compares booleans": (ROWS, Y, "jaccard"),
    "metric='yule' compares booleans": (ROWS, Y, "yule"),
    "metric.* returns nan for two rows": (ROWS, Y, gives(np.nan)),
    "metric.* returns inf for two rows": (ROWS, Y, gives(np.inf)),
    r"as large as 2e\+160, whose squares overflow": ([[0.0], [1e160], [-2e160]], Y, "euclidean"),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_bad_input_raises_errors(function, message):
    X, y, metric = BAD[message]
    with pytest.raises(ValueError, match=message):
        function(X, y, metric=metric)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_metric_may_be_a_callable(function):
    X, y = CASES["random"]()

    def by_hand(a, b):
        return np.abs(a - b).sum()

    assert_array_equal(function(X, y, metric=by_hand), function(X, y, metric="cityblock"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_memory_is_linear_in_the_number_of_rows(function):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(4000, 8)), rng.randint(5, size=4000)
    tracemalloc.start()
    with config_context(working_memory=4):
        function(X, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All distances at once would take 128 MB.
    assert peak < 32e6


def compare_two_layers(X, y, **options):
    layers = {"one": X, "other": X[:, ::-1]}
    return compare_layers(layers, y, n_repeats=3, k=2, random_state=0, **options).to_numpy()


def separation_quantile(X, y, **options):
    return pairwise_separation(X, y, quantile=0.1, **options)


def category_quantile(X, y, **options):
    return category_separation(X, y, quantile=0.1, **options)


def detect_outliers(X, y, **options):
    return ConceptOutlierDetector(**options).fit(X, y).score_samples(X, y)


TOTALS = {
    **dict.fromkeys(FUNCTIONS, "31/31"),
    compare_two_layers: "6/6",
    separation_quantile: "3/3",
    category_quantile: "3/3",
    detect_outliers: "31/31",
    confused_concepts: "31/31",
}


@pytest.mark.parametrize("function", TOTALS)
def test_verbose_shows_progress(function, capsys):
    X, y = CASES["random"]()
    quiet = function(X, y)
    assert capsys.readouterr().err == ""
    assert_array_equal(function(X, y, verbose=1), quiet)
    output = capsys.readouterr()
    assert f"100%|██████████| {TOTALS[function]}" in output.err
    assert output.out == ""


def test_clustering_prints_its_memory(capsys):
    X, y = np.random.RandomState(0).normal(size=(1001, 2)), np.arange(1001) % 3
    ConceptAgglomerative(verbose=1).fit(X, y)
    assert "The tree of 1,001 rows needs 0.00801 GB of memory." in capsys.readouterr().err
