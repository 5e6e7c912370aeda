"""Scorers and comparisons of estimators by the projections of their vectors."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from sklearn_loce import Joined, LoCETransformer, MaskedMeanTransformer, TorchModel
from sklearn_loce.metrics import (
    category_separation,
    compare_layers,
    get_scorer,
    precision_at_k,
    rank_layers,
)

from .counting import Counting, draw_table

LAYERS = ["body.0", "body.4"]
# Some masks overlap with themselves turned upside down.
pytestmark = pytest.mark.filterwarnings("ignore:.* values of gain", "ignore:iou_gain leaves out")
COLUMNS = {"iou": "iou", "heldout_iou": "heldout_iou", "iou_gain": "gain"}


@pytest.fixture
def table():
    return draw_table(6)


def empty(table, i):
    """Empty the mask of a row."""
    masks = [np.zeros_like(m) if k == i else m for k, m in enumerate(table["mask"])]
    return table.assign(mask=masks)


def make(layer="body.2", kind=LoCETransformer, **how):
    how = {"memory": False} | ({"mask_size": (24, 32)} if kind is LoCETransformer else {}) | how
    return kind(TorchModel(Counting().eval()), layer, **how)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", [LoCETransformer, MaskedMeanTransformer])
def test_scorers_equal_means_of_evaluate(name, kind, table):
    loce = make(kind=kind).fit(table)
    expected = np.nanmean(loce.evaluate(table, cv=2)[COLUMNS[name]])
    scorer = pickle.loads(pickle.dumps(get_scorer(name)))
    pipeline = make_pipeline(loce, PCA(2), KMeans(2, n_init=1)).fit(table)
    search = GridSearchCV(loce, {"layer": ["body.2"]}, cv=2).fit(table)
    for estimator in (loce, pipeline, search):
        assert scorer(estimator, table) == pytest.approx(expected)


def test_scores_exclude_failed_rows(table):
    table = empty(table, 3)
    loce = make(on_empty="nan").fit(table)
    kept = table.drop(index=3)
    for name in COLUMNS:
        assert get_scorer(name)(loce, table) == pytest.approx(get_scorer(name)(loce, kept))


@pytest.mark.parametrize("output", ["default", "pandas"])
@pytest.mark.parametrize("memory", [False, None])
def test_images_pass_once_for_several_scorers(memory, output, table):
    loce = make(memory=memory)
    pipeline = make_pipeline(loce, Normalizer()).set_output(transform=output)
    pipeline.fit(table.iloc[:2])
    network = loce.model.module
    before = network.n_images
    names = ["precision_at_1", "heldout_iou", "iou_gain", "separation", "iou"]
    scores = get_scorer(names)(pipeline, table, table["concept"])
    assert network.n_images - before == table["image_id"].nunique()
    assert list(scores) == names
    assert scores == pytest.approx(
        {name: get_scorer(name)(pipeline, table, table["concept"]) for name in names}
    )


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
def test_estimators_without_evaluate_raise_an_error(names):
    X = np.random.RandomState(0).normal(size=(8, 3))
    for estimator in (PCA(2), make_pipeline(Normalizer(), PCA(2))):
        with pytest.raises(TypeError, match=r"has no evaluate of vectors.*LoCETransformer"):
            get_scorer(names)(estimator.fit(X), X, [0, 1] * 4)


def test_scorers_of_evaluations_refuse_groups(table):
    for scorer in (get_scorer("iou"), get_scorer(["iou", "heldout_iou"])):
        with pytest.raises(ValueError, match="takes no groups"):
            scorer(make().fit(table), table, groups=table["image_id"])


def test_evaluate_returns_the_vectors_of_the_same_pass(table):
    loce = make(LAYERS, append_bias=True).fit(table)
    counter = loce.model.module.counter
    counter.n = 0
    frame, vectors = loce.evaluate(table, return_embeddings=True)
    assert counter.n == 6
    np.testing.assert_array_equal(vectors, loce.transform(table))
    pd.testing.assert_frame_equal(frame, loce.evaluate(table))


# Layers of an estimator

SPACES = {
    "body.0": ["body.0"],
    "body.0+body.4": [Joined("body.0", "body.4")],
    "body.4, body.0": ["body.4", "body.0"],
}
GIVEN = ["body.0", Joined("body.0", "body.4"), ["body.4", "body.0"]]
ALL_ROWS = {"rows_per_concept": 100, "n_repeats": 2, "k": 2, "random_state": 0}


def means_of(table):
    return table.set_index(["layer", "metric"])["mean"]


@pytest.mark.parametrize("kind", [LoCETransformer, MaskedMeanTransformer])
def test_layers_of_an_estimator_are_measured_in_one_pass(kind, table):
    loce = make("body.6", kind)
    loce.model.module.counter.n = 0
    found = means_of(compare_layers(loce, table, layers=GIVEN, groups="image_id", **ALL_ROWS))
    assert loce.model.module.counter.n == 6
    assert loce.layer == "body.6"
    assert not hasattr(loce, "layers_")
    concepts = table["concept"].to_numpy()
    for name, layers in SPACES.items():
        own = [make(layer, kind).fit(table) for layer in layers]
        X = np.hstack([one.transform(table) for one in own])
        evaluation = pd.concat([one.evaluate(table, cv=2) for one in own])
        for metric, column in COLUMNS.items():
            assert found[name, metric] == pytest.approx(evaluation[column].mean(), abs=1e-6)
        assert found[name, "failed_share"] == (evaluation["iou"] == 0).mean()
        expected = precision_at_k(X, concepts, k=2, groups=table["image_id"])
        assert found[name, "precision_at_2"] == pytest.approx(expected)
        expected = np.mean(category_separation(X, concepts))
        assert found[name, "separation"] == pytest.approx(expected, rel=1e-4)


def test_a_comparison_of_an_estimator_equals_that_of_its_vectors_and_evaluations(table):
    how = {"rows_per_concept": 0.5, "n_repeats": 4, "k": 1, "random_state": 0}
    groups = table["image_id"].to_numpy()
    loce = make(LAYERS).fit(table)
    found = compare_layers(
        loce, table, "concept", layers=LAYERS, groups=groups, reference="body.0", **how
    )
    spaces = {layer: make(layer).fit_transform(table) for layer in LAYERS}
    iou = dict(list(loce.evaluate(table, cv=2).groupby("layer")))
    expected = compare_layers(
        spaces, table["concept"], groups=groups, iou=iou, reference="body.0", **how
    )
    pd.testing.assert_frame_equal(found, expected)
    assert set(rank_layers(found)["layer"]) == set(LAYERS)


def test_only_requested_metrics_are_measured(table):
    y = np.array(["left", "right"])[table["image_id"] % 2]
    how = {"layers": LAYERS, "n_repeats": 2, "random_state": 0}
    found = compare_layers(make(), table, y, metrics=["heldout_iou", "purity"], **how)
    assert set(found["metric"]) == {"heldout_iou", "purity"}
    everything = compare_layers(make(), table, y, k=2, **how)
    rows = everything[everything["metric"].isin(["heldout_iou", "purity"])]
    pd.testing.assert_frame_equal(found, rows.reset_index(drop=True))
    paired = list(zip(table["image"], table["mask"], strict=True))
    again = compare_layers(make(), paired, y, metrics=["heldout_iou", "purity"], **how)
    pd.testing.assert_frame_equal(found, again)


def test_all_values_of_a_row_are_in_the_same_draws():
    rng = np.random.RandomState(0)
    y, X = np.repeat(["bus", "car"], 20), rng.normal(size=(40, 3))
    iou = {name: rng.uniform(0.3, 1, size=40) for name in ("a", "b")}
    tables = {
        name: pd.DataFrame({"iou": v, "heldout_iou": v / 2, "gain": v - 0.9})
        for name, v in iou.items()
    }
    table = compare_layers({"a": X, "b": X}, y, iou=tables, k=3, n_repeats=5, random_state=0)
    found = table.set_index(["metric", "layer"])[["mean", "difference_low", "difference_high"]]
    np.testing.assert_allclose(found.loc["heldout_iou"], found.loc["iou"] / 2)
    np.testing.assert_allclose(found.loc["iou_gain"], found.loc["iou"] - [0.9, 0, 0], atol=1e-12)
    alone = compare_layers({"a": X, "b": X}, y, iou=iou, k=3, n_repeats=5, random_state=0)
    pd.testing.assert_frame_equal(
        alone, table[~table["metric"].isin(["heldout_iou", "iou_gain"])].reset_index(drop=True)
    )


def test_rows_without_a_gain_are_excluded_in_all_layers():
    rng = np.random.RandomState(0)
    y, X = np.repeat(["bus", "car"], 20), rng.normal(size=(40, 3))
    gain = {name: rng.uniform(-1, 1, size=40) for name in ("a", "b", "none")}
    gain["a"][:3], gain["b"][[2, 30]], gain["none"][:] = np.nan, np.nan, np.nan
    iou = {name: pd.DataFrame({"iou": 0.5, "gain": own}, range(40)) for name, own in gain.items()}
    how = {"metrics": ["iou_gain", "iou"], **ALL_ROWS}
    with pytest.warns(
        UserWarning, match=r"iou_gain leaves out 4 of 40 .*'a' \(3\), 'b' \(2\), 'no"
    ):
        found = means_of(compare_layers(dict.fromkeys(gain, X), y, iou=iou, **how))
    kept = np.delete(np.arange(40), [0, 1, 2, 30])
    for name in ("a", "b"):
        assert found[name, "iou_gain"] == pytest.approx(gain[name][kept].mean())
    assert np.isnan(found["none", "iou_gain"])


def test_failed_rows_are_counted(table):
    table = empty(table, 2)
    loce = make(on_empty="nan")
    with pytest.warns(UserWarning, match="heldout_iou leaves out 1 of 12 rows"):
        found = means_of(compare_layers(loce, table, layers=LAYERS, **ALL_ROWS))
    kept = compare_layers(loce, table.drop(index=2), layers=LAYERS, **ALL_ROWS)
    for layer in LAYERS:
        assert found[layer, "failed_share"] >= 1 / 12
        assert found[layer, "iou"] == pytest.approx(means_of(kept)[layer, "iou"] * 11 / 12)
        for metric in ("heldout_iou", "separation"):
            assert found[layer, metric] == pytest.approx(means_of(kept)[layer, metric])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"layers": None}, "layers=None has 0, but a comparison needs two or more"),
        ({"layers": ["body.0"]}, r"layers=\['body.0'\] has 1"),
        ({"layers": ["body.0", "body.0"]}, "has 1, but a comparison"),
        ({"layers": "body.0"}, "'layers' parameter of compare_layers"),
        ({"layers": ["body.0", "head"]}, "head"),
        ({"metrics": ["precision_at_3"]}, "metrics has 'precision_at_3'; choose from"),
        ({"metrics": ["gain", "iou"]}, "metrics has 'gain'; choose from"),
        ({"groups": "sequence"}, r"groups='sequence' is not a column of X, which has \['image'"),
        ({"y": "category"}, "y='category' is not a column of X"),
        ({"y": ["car"] * 11}, "inconsistent numbers of samples"),
        ({"groups": np.arange(3)}, "inconsistent numbers of samples"),
        ({"reference": "body.2"}, r"reference='body.2' is not a layer; choose from \['body.0'"),
        ({"iou": {"body.0": np.ones(12)}}, "leave it out"),
        ({"y": ["car"] * 12}, "At least 2 concepts are needed"),
        ({"y": ["car"] * 5 + ["bus"] * 6 + ["tram"]}, r"\['tram'\] have 1; drop them"),
        ({"groups": "concept", "exclude": 2}, "A window needs frame numbers"),
        ({"exclude": 2}, "groups is None"),
    ],
)
def test_bad_input_raises_errors_before_images_pass(how, message, table):
    loce = make()
    with pytest.raises(ValueError, match=message):
        compare_layers(loce, table, **{"layers": LAYERS} | how)
    assert loce.model.module.counter.n == 0


def test_invalid_layers_and_iou_of_embeddings_raise_errors():
    X, y = np.eye(4), ["bus", "bus", "car", "car"]
    with pytest.raises(ValueError, match=r"layers=\['b'\] needs an estimator"):
        compare_layers({"a": X}, y, layers=["b"])
    with pytest.raises(ValueError, match=r"metrics has 'iou_gain'.*or iou"):
        compare_layers({"a": X}, y, metrics=["iou_gain"])
    tables = {"a": pd.DataFrame({"iou": [0.5] * 4, "gain": 0}), "b": pd.DataFrame({"iou": [1] * 4})}
    with pytest.raises(ValueError, match=r"iou of 'b' has no column 'gain' but \['iou'\]"):
        compare_layers({"a": X, "b": X}, y, iou=tables)
    with pytest.raises(ValueError, match=r"gain of 'a' has -2.0; values must be in \[-1, 1\]"):
        compare_layers({"a": X}, y, iou={"a": tables["a"] - [0, 2]})
    with pytest.raises(ValueError, match="'spaces' parameter of compare_layers"):
        compare_layers(PCA(2), X, y, layers=["a", "b"])
    with pytest.raises(ValueError, match="y='concept' is not a column of X"):
        compare_layers({"a": X}, pd.DataFrame(X))
