from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from sklearn_loce.metrics import (
    cluster_composition,
    mask_iou,
    penalized_purity_score,
    purity_score,
)

from . import brute_force


@pytest.mark.parametrize("n_clusters", [1, 4, 30])
@pytest.mark.parametrize("noise", [False, True])
def test_purity_follows_its_definition(n_clusters, noise):
    rng = np.random.RandomState(n_clusters)
    y, labels = rng.choice(["bus", "car", "sky"], 50), rng.randint(n_clusters, size=50)
    labels[:7] = -1 if noise else 0
    purity = brute_force.purity(y.tolist(), labels.tolist())
    assert purity_score(y, labels) == pytest.approx(purity)
    found = len(set(labels) - {-1})
    assert penalized_purity_score(y, labels) == pytest.approx(purity - found / 50)


def test_labels_may_be_strings():
    assert purity_score(["a", "a", "b"], ["one", "one", "one"]) == pytest.approx(2 / 3)


def test_noise_only_gives_zero():
    assert purity_score([0, 1], [-1, -1]) == 0.0
    assert penalized_purity_score([0, 1], [-1, -1]) == 0.0
    assert cluster_composition([0, 1], [-1, -1]).shape == (0, 2)


def test_the_penalty_lowers_the_score_of_many_small_clusters():
    y = np.repeat(["bus", "car"], 10)
    shattered, right = np.arange(20), np.repeat([0, 1], 10)
    assert purity_score(y, shattered) == purity_score(y, right) == 1.0
    assert penalized_purity_score(y, shattered) == 0.0
    assert penalized_purity_score(y, right) == pytest.approx(0.9)


def test_the_composition_equals_a_cross_table():
    rng = np.random.RandomState(0)
    y, labels = rng.choice(["bus", "car", "sky"], 50), rng.randint(-1, 4, size=50)
    kept = labels != -1
    expected = pd.crosstab(labels[kept], y[kept])
    found = cluster_composition(y, labels, normalize=False)
    assert_allclose(found, expected)
    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.columns.tolist() == ["bus", "car", "sky"]
    assert_allclose(cluster_composition(y, labels), expected.div(expected.sum(axis=1), axis=0))


@pytest.mark.parametrize("function", [purity_score, penalized_purity_score, cluster_composition])
class TestBadLabels:
    def test_inconsistent_lengths_raise_an_error(self, function):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            function(["car", "bus"], [0, 1, 1])

    def test_empty_input_raises_an_error(self, function):
        with pytest.raises(ValueError, match="y and labels are empty"):
            function([], [])

    @pytest.mark.parametrize("label", [b"car", ("car",), Path("car")])
    def test_missing_labels_raise_an_error(self, function, label):
        y = np.empty(2, dtype=object)
        y[:] = [label, label]
        with pytest.raises(ValueError, match=f"y contains .*{type(label).__name__} .argument must"):
            function(y, [0, 1])

    def test_labels_of_mixed_types_raise_an_error(self, function):
        with pytest.raises(ValueError, match="labels mixes types"):
            function(["car", "bus"], [0, "one"])

    def test_missing_values_raise_an_error(self, function):
        with pytest.raises(ValueError, match="y has no label in row 0"):
            function([None, "bus"], [0, 1])


def test_iou_follows_its_definition():
    rng = np.random.RandomState(0)
    first, second = rng.rand(6, 5, 7) > 0.6, rng.rand(6, 5, 7) > 0.4
    first[0] = second[0] = False
    first[1] = False
    second[2] = first[2]
    expected = [brute_force.mask_iou(a, b) for a, b in zip(first, second, strict=True)]
    assert_allclose(mask_iou(first, second), expected)
    assert_allclose(mask_iou(first.astype(np.uint8), second.astype(float)), expected)
    single = mask_iou(first[3], second[3])
    assert isinstance(single, float)
    assert single == pytest.approx(expected[3])


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_iou_of_empty_masks_follows_its_documentation(value):
    empty = np.zeros((3, 3), dtype=bool)
    assert_allclose(mask_iou(empty, empty, zero_division=value), value)
    assert mask_iou(empty, ~empty) == 0.0


def test_soft_masks_raise_an_error():
    with pytest.raises(ValueError, match="masks_pred is not binary"):
        mask_iou(np.ones((2, 2)), np.full((2, 2), 0.7))
    with pytest.raises(ValueError, match="masks_true is not binary"):
        mask_iou(np.full((2, 2), np.nan), np.ones((2, 2)))


def test_masks_of_different_shapes_raise_an_error():
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 3\)"):
        mask_iou(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        mask_iou(np.ones(4), np.ones(4))
