import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_loce.outliers import ConceptOutlierDetector

from . import brute_force
from .embeddings import CASES, planted_parts


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "cityblock"])
@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("labeled", [True, False])
def test_scores_follow_their_definition(case, aggregate, metric, labeled):
    X, y = CASES[case]()
    y = y if labeled else np.zeros(len(y), dtype=int)
    D = brute_force.matrix(X, metric)
    expected = np.zeros(len(X))
    for i in range(len(X)):
        others = [D[i, j] for j in range(len(X)) if j != i and y[j] == y[i]]
        expected[i] = sum(others) / (max(len(others), 1) if aggregate == "mean" else 1)
    model = ConceptOutlierDetector(aggregate=aggregate, metric=metric)
    model.fit(X, y if labeled else None)
    assert_allclose(model.training_scores_, -expected, rtol=1e-6, atol=1e-7)


def test_planted_outliers_are_found():
    X, y, parts = planted_parts(n_rows=50)
    X, y = X[parts < 3], y[parts < 3]
    odd = [3, 60, 120]
    X[odd] = -X[odd]
    model = ConceptOutlierDetector(contamination=0.02)
    found = np.flatnonzero(model.fit_predict(X, y) == -1)
    assert_array_equal(found, odd)
    assert_array_equal(model.concepts_, ["bus", "car", "sky"])
    assert model.offset_.shape == (3,)
    # The same rows are outliers to predict, with or without their concept.
    assert_array_equal(model.predict(X, y), model.labels_)
    assert set(odd) <= set(np.flatnonzero(model.predict(X) == -1))


def test_without_a_concept_the_nearest_one_counts():
    X, y, parts = planted_parts(n_rows=50)
    X, y = X[parts < 3], y[parts < 3]
    model = ConceptOutlierDetector().fit(X, y)
    by_concept = [
        model.decision_function(X, np.full(len(X), concept)) for concept in ("bus", "car", "sky")
    ]
    assert_allclose(model.decision_function(X), np.max(by_concept, axis=0))
    assert model.predict(X[:1], ["bus"]) == 1
    assert model.predict(X[:1], ["sky"]) == -1


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_training_rows_keep_their_scores(aggregate, metric):
    X, y = CASES["random"]()
    model = ConceptOutlierDetector(aggregate=aggregate, metric=metric).fit(X, y)
    assert_allclose(model.score_samples(X, y), model.training_scores_)
    assert_allclose(
        model.decision_function(X, y),
        model.training_scores_ - model.offset_[np.searchsorted(model.concepts_, y)],
    )
    assert_array_equal(model.predict(X, y), model.labels_)


def test_sum_and_mean_flag_the_same_rows():
    X, y = CASES["random"]()
    found = [
        ConceptOutlierDetector(aggregate=aggregate, contamination=0.2).fit_predict(X, y)
        for aggregate in ("sum", "mean")
    ]
    assert_array_equal(*found)
    assert (found[0] == -1).any()


@pytest.mark.parametrize("case", ["all the same", "collapsed concepts"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_rows_are_not_outliers(case, metric):
    X, y = CASES[case]()
    model = ConceptOutlierDetector(metric=metric).fit(X, y)
    assert (model.labels_ == 1).all()
    assert (model.predict(X, y) == 1).all()


def test_rows_of_one_direction_are_not_outliers():
    X = np.outer(np.arange(1, 11), [0.3, 0.7, 0.1])
    assert (ConceptOutlierDetector().fit_predict(X) == 1).all()


def test_the_only_row_of_a_concept_is_not_an_outlier():
    X, y = CASES["one row in a concept"]()
    assert ConceptOutlierDetector().fit_predict(X, y)[6] == 1


def test_the_training_matrix_is_copied():
    X, y = CASES["random"]()
    model = ConceptOutlierDetector().fit(X, y)
    before = model.score_samples(X[:3].copy(), y[:3])
    X[5:] = 0.0
    assert_allclose(model.score_samples(X[:3], y[:3]), before)


class TestBadInput:
    @pytest.mark.parametrize("contamination", [0, -0.1, 0.6])
    def test_an_invalid_contamination_raises_an_error(self, contamination):
        with pytest.raises(ValueError, match="'contamination' parameter"):
            ConceptOutlierDetector(contamination=contamination).fit(np.eye(3))

    def test_invalid_labels_raise_errors(self):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            ConceptOutlierDetector().fit(np.eye(3), [0, 1])
        with pytest.raises(ValueError, match="mixes types"):
            ConceptOutlierDetector().fit(np.eye(3), ["car", "car", 1])

    def test_invalid_labels_of_predict_raise_errors(self):
        X = np.eye(3)
        with pytest.raises(ValueError, match="fit had no concepts"):
            ConceptOutlierDetector().fit(X).predict(X, ["car"] * 3)
        model = ConceptOutlierDetector().fit(X, ["car", "car", "bus"])
        with pytest.raises(ValueError, match="y contains 'sky', but the concepts of fit were"):
            model.predict(X[:2], ["car", "sky"])
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            model.predict(X, ["car"])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_new_rows_get_the_scores_of_equal_training_rows(metric):
    X, y = CASES["rows of zeros"]()
    new = np.random.RandomState(9).normal(size=(6, 5))
    D = brute_force.matrix(np.vstack([X, new]), metric)[31:, :31]
    for concept in ("bus", "car", "sky"):
        own = y == concept
        model = ConceptOutlierDetector(metric=metric).fit(X, y)
        means = -D[:, own].mean(axis=1)
        assert_allclose(model.score_samples(new, [concept] * 6), means)
        model.set_params(aggregate="sum").fit(X, y)
        assert_allclose(model.score_samples(new, [concept] * 6), (own.sum() - 1) * means)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_training_row_without_a_direction_keeps_its_score(metric):
    X, _ = CASES["rows of zeros"]()
    model = ConceptOutlierDetector(metric=metric).fit(X)
    assert_allclose(model.score_samples(X), model.training_scores_)


def test_new_inliers_are_flagged_as_often_as_training_rows():
    shares = []
    for seed in range(200):
        X = np.random.RandomState(seed).normal(size=(40, 8))
        model = ConceptOutlierDetector(metric="euclidean", contamination=0.2).fit(X[:20])
        shares.append(np.mean(model.predict(X[20:]) == -1))
    assert np.mean(shares) == pytest.approx(0.2, abs=0.05)
