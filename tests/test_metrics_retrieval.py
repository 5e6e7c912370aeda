import tracemalloc
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn import config_context

from sklearn_loce.metrics import (
    mean_average_precision_at_k,
    precision_at_k,
    r_precision,
)

from . import brute_force
from .embeddings import CASES

JUDGES = {
    "precision at 1": (partial(precision_at_k, k=1), brute_force.precision_at(1)),
    "precision at 5": (partial(precision_at_k, k=5), brute_force.precision_at(5)),
    "average precision at 1": (
        partial(mean_average_precision_at_k, k=1),
        brute_force.average_precision_at(1),
    ),
    "average precision at 5": (
        partial(mean_average_precision_at_k, k=5),
        brute_force.average_precision_at(5),
    ),
    "average precision at 8": (
        partial(mean_average_precision_at_k, k=8),
        brute_force.average_precision_at(8),
    ),
    "r-precision": (r_precision, brute_force.r_precision),
}


_few_to_find = pytest.mark.filterwarnings("ignore:No query has more than:UserWarning")


@_few_to_find
@pytest.mark.parametrize("memory", [1e-3, 128])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cityblock"])
@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("case", CASES)
def test_values_follow_their_definition(case, judge, metric, memory):
    X, y = CASES[case]()
    function, definition = JUDGES[judge]
    expected = brute_force.retrieval(X, y, metric, definition)
    with config_context(working_memory=memory):
        assert_allclose(function(X, y, metric=metric, average=None), expected)
    assert_allclose(function(X, y, metric=metric), np.nanmean(expected))
    counts = np.array([len(rows) for rows in brute_force.rows_of(y).values()])
    defined = ~np.isnan(expected)
    assert_allclose(
        function(X, y, metric=metric, average="micro"),
        np.average(expected[defined], weights=counts[defined]),
    )


@_few_to_find
@pytest.mark.parametrize("k", [1, 7, 60, 300])
def test_ranking_among_many_ties_equals_a_full_sort(k):
    rng = np.random.RandomState(k)
    X, y = rng.randint(200, size=(400, 1)).astype(float), rng.randint(3, size=400)
    D = np.abs(X - X.T)
    np.fill_diagonal(D, np.inf)
    nearest = np.argsort(D, axis=1, kind="stable")[:, :k]
    expected = np.mean(y[nearest] == y[:, np.newaxis])
    found = precision_at_k(X, y, k=k, metric="cityblock", average="micro")
    assert found == pytest.approx(expected)


def test_a_query_is_excluded_by_index_and_its_duplicates_are_not():
    X = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert precision_at_k(X, ["car", "car", "sky", "sky"], k=1) == 1.0
    assert precision_at_k(X, ["car", "sky", "car", "sky"], k=1) == 0.0


def test_ties_are_resolved_by_row_number():
    X = [[0.0], [1.0], [-1.0], [5.0]]
    y = ["car", "car", "sky", "sky"]
    assert precision_at_k(X[:1] + X[1:], y, k=1, metric="euclidean", average=None)[0] == 1.0
    swapped = [X[0], X[2], X[1], X[3]]
    y = ["car", "sky", "car", "sky"]
    assert precision_at_k(swapped, y, k=1, metric="euclidean", average=None)[0] == 0.5


def test_rows_of_one_direction_are_ties_under_cosine():
    X = np.outer(np.arange(1, 11), [0.3, 0.7, 0.1])
    y = np.repeat(["a", "b"], 5)
    # Every ranking follows the row numbers: the first three others are of concept a.
    assert_allclose(precision_at_k(X, y, k=3, average=None), [1.0, 0.0])


def test_one_row_raises_an_error():
    for function in (precision_at_k, r_precision):
        with pytest.raises(ValueError, match="other rows to find, but X has 1"):
            function([[1.0]], ["car"])


def test_concepts_with_fewer_rows_than_k_cannot_reach_one():
    X = np.eye(4)[[0, 0, 0, 1, 1]]
    y = ["car", "car", "car", "sky", "sky"]
    with pytest.warns(UserWarning, match=r"more than 2 rows .* precision at k=4 can't reach 1"):
        assert_allclose(precision_at_k(X, y, k=4, average=None), [2 / 4, 1 / 4])
    assert_allclose(mean_average_precision_at_k(X, y, k=4, average=None), [1.0, 1.0])


def test_nothing_is_found_if_every_concept_has_one_row():
    X, y = np.eye(3), ["bus", "car", "sky"]
    with pytest.warns(UserWarning, match=r"more than 0 rows .* precision at k=1 can't reach 1"):
        assert precision_at_k(X, y, k=1) == 0.0
    assert np.isnan(mean_average_precision_at_k(X, y, k=1))
    assert np.isnan(r_precision(X, y))


def test_one_concept_is_always_found():
    X = np.random.RandomState(0).normal(size=(5, 2))
    assert precision_at_k(X, ["car"] * 5, k=3) == 1.0
    assert mean_average_precision_at_k(X, ["car"] * 5, k=3) == 1.0
    assert r_precision(X, ["car"] * 5) == 1.0


@pytest.mark.parametrize("function", [precision_at_k, mean_average_precision_at_k])
class TestBadK:
    @pytest.mark.parametrize("k", [0, -1, 2.5])
    def test_invalid_k_raises_an_error(self, function, k):
        with pytest.raises(ValueError, match="'k' parameter"):
            function(np.eye(3), [0, 0, 1], k=k)

    def test_k_must_be_less_than_the_number_of_rows(self, function):
        with pytest.raises(ValueError, match=r"k=3 .* at least 4 rows, but X has 3"):
            function(np.eye(3), [0, 0, 1], k=3)


def _draw_sequences(n_rows, n_groups):
    """Draw rows of three concepts, with near duplicates within each group."""
    rng = np.random.RandomState(n_groups)
    y, groups = rng.randint(3, size=n_rows), np.sort(rng.randint(n_groups, size=n_rows))
    centers, twins = rng.normal(size=(3, 4)), rng.normal(size=(n_groups, 3, 4))
    return centers[y] + 2 * twins[groups, y] + 0.01 * rng.normal(size=(n_rows, 4)), y, groups


@pytest.mark.parametrize("n_groups", [2, 5, 30])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cityblock"])
@pytest.mark.parametrize("judge", JUDGES)
def test_rows_of_the_same_group_are_excluded(judge, metric, n_groups):
    X, y, groups = _draw_sequences(80, n_groups)
    function, definition = JUDGES[judge]
    expected = brute_force.retrieval(X, y, metric, definition, groups)
    names = np.array([f"sequence {g}" for g in groups])
    for memory in (1e-3, 128):
        with config_context(working_memory=memory):
            found = function(X, y, metric=metric, groups=names, average=None)
        assert_allclose(found, expected)


def test_a_query_of_a_large_group_finds_the_few_other_rows():
    # Distances are searched in blocks of columns, most of which hold no candidate here.
    X, y, _ = _draw_sequences(400, 2)
    y[396:] = [0, 1, 2, 0]
    groups = np.arange(400) >= 396
    definition = brute_force.precision_at(3)
    expected = brute_force.retrieval(X, y, "euclidean", definition, groups)
    found = precision_at_k(X, y, k=3, metric="euclidean", groups=groups, average=None)
    assert_allclose(found, expected)


def test_one_group_per_row_changes_nothing():
    X, y, _ = _draw_sequences(60, 5)
    for function in (precision_at_k, mean_average_precision_at_k, r_precision):
        assert function(X, y, groups=np.arange(60)) == function(X, y)


def test_near_duplicates_in_a_group_do_not_raise_the_score():
    one, other = [[1.0, 0.0], [1.0, 0.01]], [[0.0, 1.0], [0.01, 1.0]]
    # Cars of the first sequence look like trees of the second.
    X, y, groups = one + other + other + one, ["car", "car", "tree", "tree"] * 2, [1] * 4 + [2] * 4
    X = X + 0.1 * np.repeat([[0, 0], [1, 1]], 4, axis=0)
    assert precision_at_k(X, y, k=1) == 1.0
    assert precision_at_k(X, y, k=1, groups=groups) == 0.0


@pytest.mark.parametrize(
    "function",
    [partial(precision_at_k, k=1), partial(mean_average_precision_at_k, k=1), r_precision],
)
def test_a_concept_in_one_group_is_excluded(function):
    X, y = np.eye(3)[[0, 0, 1, 1]], ["car", "car", "sky", "sky"]
    with pytest.warns(UserWarning, match="2 queries have nothing to find.*rows of .sky."):
        found = function(X, y, groups=[1, 2, 2, 2], average=None)
    assert_allclose(found, [1.0, np.nan])
    with pytest.warns(UserWarning, match="'sky'"):
        assert function(X, y, groups=[1, 2, 2, 2]) == 1.0
    with pytest.warns(UserWarning, match="'sky'"):
        assert function(X, y, groups=[1, 2, 2, 2], average="micro") == 1.0


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([1, 2], "inconsistent numbers of samples"),
        ([1, 2, None, 2], "groups has no label in row 2"),
        ([1, 1, 1, 1], "the group .*1.* has 0 rows in other groups, but needs 2; pass rows of"),
        ([1, 1, 1, 2], "the group .*1.* has 1 rows in other groups, but needs 2; choose a smaller"),
        ([[1], [2, 3]], "groups"),
        (np.eye(4), r"groups has shape \(4, 4\), but only exclude compares several columns"),
        (np.ones((4, 1, 2)), r"groups should be a 1d array, got .* shape \(4, 1, 2\)"),
    ],
)
def test_invalid_groups_raise_errors(groups, match):
    with pytest.raises(ValueError, match=match):
        precision_at_k(np.eye(4), ["car", "car", "sky", "sky"], k=2, groups=groups)


def _draw_video(n_rows):
    """Draw rows of three concepts from two sequences; rows near in time are similar."""
    rng = np.random.RandomState(0)
    y, sequences = rng.randint(3, size=n_rows), rng.randint(2, size=n_rows)
    frames = rng.randint(60, size=n_rows)
    drift = np.column_stack([np.sin(frames / 9), np.cos(frames / 9), sequences])
    return np.eye(3)[y] + drift + 0.05 * rng.normal(size=(n_rows, 3)), y, sequences, frames


def _exclusions():
    _, _, sequences, frames = _draw_video(80)
    names = np.array(["day", "night"])[sequences]
    shots = pd.DataFrame({"sequence": names, "frame": frames})

    def near(i, j):
        return abs(frames[i] - frames[j]) <= 7

    def near_in_sequence(i, j):
        return sequences[i] == sequences[j] and near(i, j)

    return {
        "window": (frames, 7, near),
        "window of a sequence": (shots, 7, near_in_sequence),
        "whole sequence": (shots, np.inf, lambda i, j: sequences[i] == sequences[j]),
        "no frame but the query's": (frames, 0, lambda i, j: frames[i] == frames[j]),
        "callable": (frames, lambda a, b: abs(a - b) <= 7, near),
        "callable of columns": (
            shots,
            lambda a, b: (a[..., 0] == b[..., 0]) & (abs(a[..., 1] - b[..., 1]) <= 7).astype(bool),
            near_in_sequence,
        ),
        "callable that tells before from after": (
            frames,
            lambda a, b: (b > a + 20) | (abs(a - b) <= 1),
            lambda i, j: i == j or frames[j] > frames[i] + 20 or abs(frames[i] - frames[j]) <= 1,
        ),
    }


@pytest.mark.filterwarnings("ignore:.* queries have nothing to find:UserWarning")
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "cityblock"])
@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("name", _exclusions())
def test_excluded_rows_are_not_ranked(name, judge, metric):
    X, y, _, _ = _draw_video(80)
    groups, exclude, is_out = _exclusions()[name]
    function, definition = JUDGES[judge]
    expected = brute_force.retrieval(X, y, metric, definition, is_out=is_out)
    assert not np.isnan(expected).any()
    for memory in (1e-3, 128):
        with config_context(working_memory=memory):
            found = function(X, y, metric=metric, groups=groups, exclude=exclude, average=None)
        assert_allclose(found, expected)


def test_a_callable_is_called_for_small_blocks():
    X, y = np.random.RandomState(0).normal(size=(3000, 2)), np.arange(3000) % 3
    sizes = []

    def near(a, b):
        sizes.append(a.size * b.size)
        return abs(a - b) <= 30

    tracemalloc.start()
    with config_context(working_memory=4):
        found = precision_at_k(X, y, groups=np.arange(3000), exclude=near)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All distances at once would take 72 MB.
    assert peak < 24e6
    assert max(sizes) < 3000 * 3000 / 50
    assert found == precision_at_k(X, y, groups=np.arange(3000), exclude=30)


def test_queries_without_relevant_rows_are_excluded():
    X, y = [[0.0], [1.0], [2.0], [3.0], [3.5]], ["car", "car", "car", "sky", "sky"]
    frames = [0, 5, 10, 20, 9]
    with pytest.warns(
        UserWarning, match=r"1 queries have nothing to find.*rows of 'car'\. They are NaN"
    ):
        found = precision_at_k(X, y, 1, metric="euclidean", groups=frames, exclude=7, average=None)
    # Frame 0 finds the car of frame 10, and frame 10 finds the sky of frame 20.
    assert_allclose(found, [0.5, 1.0])


@pytest.mark.parametrize(
    ("groups", "exclude", "match"),
    [
        (None, 3, "exclude=3 compares the groups of rows, but groups is None"),
        ([1, 2, 3, 4], -1, "'exclude' parameter"),
        ([1, 2, 3, 4], np.nan, "'exclude' parameter"),
        (list("abcd"), 3, "needs frame numbers, but groups has 'a'"),
        (np.arange(4).astype("M8[ns]"), 3, "needs frame numbers, but groups has '1970-01-01T"),
        (pd.Series(list("aaaa"), dtype=object), lambda a, b: a == b, "group 'a' has 0 rows in"),
        (np.ones((4, 2)), np.equal, r"returned an array of shape \(4, 4, 2\)"),
        (np.ones((4, 3)), 3, r"groups has shape \(4, 3\)"),
        ([1, 2, np.nan, 4], 3, "groups has no label in row 2"),
        ([1, 2, np.nan, 4], lambda a, b: a == b, "groups has no label in row 2"),
        ([1, 2, 3], 3, "inconsistent numbers of samples"),
        ([1, 2, 3], lambda a, b: a == b, "inconsistent numbers of samples"),
        ([1, 2, 3, 4], 9, "group .*1.* has 0 rows in other groups, but needs 1"),
        ([1, 2, 3, 4], lambda a, b: abs(a - b), "returned an array of shape .* and type int"),
        ([1, 2, 3, 4], lambda a, b: a > 2, r"shape \(4, 1\) and type bool for 4 queries and 4"),
    ],
)
def test_invalid_exclusions_raise_errors(groups, exclude, match):
    with pytest.raises(ValueError, match=match):
        r_precision(np.eye(4), ["car", "car", "sky", "sky"], groups=groups, exclude=exclude)


def test_groups_are_matched_by_index():
    X, y = np.eye(4), pd.Series(["car", "car", "sky", "sky"], index=list("abcd"))
    groups = pd.Series([1, 2, 1, 2], index=list("abcd"))
    assert precision_at_k(X, y, 1, groups=groups) == precision_at_k(X, y, 1, groups=[1, 2, 1, 2])
    table = pd.DataFrame(X, index=y.index)
    assert precision_at_k(table, y, 1, groups=groups[::-1]) == precision_at_k(
        X, y, 1, groups=groups
    )
    with pytest.raises(
        ValueError, match=r"indexes of y and groups have .* but X has no such labels"
    ):
        precision_at_k(X, y, 1, groups=groups[::-1])
