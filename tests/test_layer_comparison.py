"""Scorers and comparisons of estimators by the masks that their vectors redraw."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel
from sklearn_loce.metrics import get_scorer

from .counting import Counting, draw_table

LAYERS = ["body.0", "body.4"]
COLUMNS = {"iou": "iou", "heldout_iou": "heldout_iou", "iou_gain": "gain"}


@pytest.fixture
def table():
    """Six images of two concepts; no mask covers half of its own image turned upside down."""
    return draw_table(6)


def make(layer="body.2", kind=LoCETransformer, **how):
    how = {"memory": False} | ({"mask_size": (24, 32)} if kind is LoCETransformer else {}) | how
    return kind(TorchModel(Counting().eval()), layer, **how)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", [LoCETransformer, MaskedMeanTransformer])
@pytest.mark.filterwarnings("ignore:.* values of gain")
def test_scorers_are_means_of_what_evaluate_gives(name, kind, table):
    loce = make(kind=kind).fit(table)
    expected = np.nanmean(loce.evaluate(table, cv=2)[COLUMNS[name]])
    scorer = pickle.loads(pickle.dumps(get_scorer(name)))
    pipeline = make_pipeline(loce, PCA(2), KMeans(2, n_init=1)).fit(table)
    search = GridSearchCV(loce, {"layer": ["body.2"]}, cv=2).fit(table)
    for estimator in (loce, pipeline, search):
        assert scorer(estimator, table) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.* values of gain")
def test_rows_that_fail_are_left_out_of_scores(table):
    table.loc[3, "mask"] = np.zeros((24, 32), bool)
    loce = make(on_empty="nan").fit(table)
    kept = table.drop(index=3)
    for name in COLUMNS:
        assert get_scorer(name)(loce, table) == pytest.approx(get_scorer(name)(loce, kept))


@pytest.mark.filterwarnings("ignore:.* values of gain")
@pytest.mark.parametrize("output", ["default", "pandas"])
def test_several_scorers_share_one_transform_and_one_evaluation(output, table, monkeypatch):
    calls = []
    for method in ("transform", "evaluate"):
        original = getattr(LoCETransformer, method)

        def count(self, *args, method=method, original=original, **how):
            calls.append(method)
            return original(self, *args, **how)

        monkeypatch.setattr(LoCETransformer, method, count)
    pipeline = make_pipeline(make(), Normalizer()).set_output(transform=output)
    pipeline.fit(table)
    calls.clear()
    names = ["heldout_iou", "precision_at_1", "iou_gain", "separation", "iou"]
    scores = get_scorer(names)(pipeline, table, table["concept"])
    assert sorted(calls) == ["evaluate", "transform"]
    assert list(scores) == names
    assert scores == pytest.approx(
        {name: get_scorer(name)(pipeline, table, table["concept"]) for name in names}
    )


@pytest.mark.filterwarnings("ignore:.* values of gain")
def test_searches_choose_by_the_held_out_iou(table):
    scoring = get_scorer(["heldout_iou", "iou", "precision_at_1"])
    grid, folds = {"layer": LAYERS}, GroupKFold(3)
    search = GridSearchCV(
        make(), grid, scoring=scoring, refit="heldout_iou", cv=folds, error_score="raise"
    ).fit(table, table["concept"], groups=table["image_id"])
    own = GridSearchCV(make(), grid, cv=folds).fit(table, groups=table["image_id"])
    np.testing.assert_allclose(
        search.cv_results_["mean_test_heldout_iou"], own.cv_results_["mean_test_score"]
    )
    assert search.best_params_ == own.best_params_
    found = cross_validate(make(), table, scoring=get_scorer("iou"), cv=3, error_score="raise")
    assert len(found["test_score"]) == 3


@pytest.mark.parametrize("names", ["heldout_iou", ["heldout_iou", "separation"]])
def test_estimators_without_an_evaluation_are_refused(names):
    X = np.random.RandomState(0).normal(size=(8, 3))
    for estimator in (PCA(2), make_pipeline(Normalizer(), PCA(2))):
        with pytest.raises(TypeError, match=r"has no evaluate of vectors.*LoCETransformer"):
            get_scorer(names)(estimator.fit(X), X, [0, 1] * 4)


def test_scores_of_evaluations_take_no_groups(table):
    for scorer in (get_scorer("iou"), get_scorer(["iou", "heldout_iou"])):
        with pytest.raises(ValueError, match="takes no groups"):
            scorer(make().fit(table), table, groups=table["image_id"])


def test_an_evaluation_gives_the_vectors_in_the_same_pass(table):
    loce = make(LAYERS, append_bias=True).fit(table)
    counter = loce.model.module.counter
    counter.n = 0
    frame, vectors = loce.evaluate(table, return_embeddings=True)
    assert counter.n == 6
    np.testing.assert_array_equal(vectors, loce.transform(table))
    pd.testing.assert_frame_equal(frame, loce.evaluate(table))
