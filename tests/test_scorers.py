import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.metrics import (
    category_separation,
    get_scorer,
    get_scorer_names,
    make_cluster_scorer,
    make_embedding_scorer,
    mean_average_precision_at_k,
    penalized_purity_score,
    precision_at_k,
    purity_score,
    r_precision,
)
from sklearn_loce.mixture import ConceptGaussianMixture

from .embeddings import planted_parts


class CountingScaler(TransformerMixin, BaseEstimator):
    """Scale nothing, and count the calls."""

    calls = 0

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        type(self).calls += 1
        return X


@pytest.fixture
def planted():
    return planted_parts(n_rows=20)


EXPECTED = {
    "separation": category_separation,
    "silhouette": silhouette_score,
    "r_precision": r_precision,
    "precision_at_1": lambda X, y: precision_at_k(X, y, k=1),
    "precision_at_5": lambda X, y: precision_at_k(X, y, k=5),
    "precision_at_10": lambda X, y: precision_at_k(X, y, k=10),
    "mean_average_precision_at_5": lambda X, y: mean_average_precision_at_k(X, y, k=5),
    "mean_average_precision_at_10": lambda X, y: mean_average_precision_at_k(X, y, k=10),
    "robust_separation": lambda X, y: category_separation(X, y, quantile=0.05),
}
EXPECTED_OF_CLUSTERS = {
    "purity": purity_score,
    "penalized_purity": penalized_purity_score,
    "neg_n_clusters": lambda y, labels: -len(set(labels) - {-1}),
}


# Tested in test_layer_comparison.py, as they need a network.
OF_EVALUATIONS = ["heldout_iou", "iou", "iou_gain"]


def test_every_scorer_is_listed_and_tested():
    assert get_scorer_names() == sorted([*EXPECTED, *EXPECTED_OF_CLUSTERS, *OF_EVALUATIONS])


@pytest.mark.parametrize("name", EXPECTED)
def test_embedding_scorers_score_the_output_of_the_transformer(name, planted):
    X, y, _ = planted
    pca = PCA(2).fit(X)
    expected = pytest.approx(EXPECTED[name](pca.transform(X), y))
    assert get_scorer(name)(pca, X, y) == expected
    assert get_scorer(name)(make_pipeline(StandardScaler(with_std=False), pca).fit(X), X, y) == (
        expected
    )


@pytest.mark.parametrize("last", [KMeans(4, random_state=0), ConceptGaussianMixture(3)])
@pytest.mark.parametrize("name", ["separation", "precision_at_5"])
def test_embedding_scorers_score_the_input_of_a_clusterer(name, last, planted):
    X, y, _ = planted
    pipeline = make_pipeline(PCA(2), last).fit(X)
    assert get_scorer(name)(pipeline, X, y) == pytest.approx(
        EXPECTED[name](pipeline[:-1].transform(X), y)
    )


def test_a_pipeline_of_a_clusterer_alone_scores_the_rows(planted):
    X, y, _ = planted
    pipeline = make_pipeline(KMeans(3, random_state=0)).fit(X)
    assert get_scorer("precision_at_5")(pipeline, X, y) == precision_at_k(X, y, k=5)


@pytest.mark.parametrize("name", EXPECTED_OF_CLUSTERS)
@pytest.mark.parametrize("last", [KMeans(4, random_state=0), ConceptGaussianMixture(4)])
def test_cluster_scorers_score_predictions(name, last, planted):
    X, y, _ = planted
    expected = EXPECTED_OF_CLUSTERS[name]
    last = clone(last).fit(X)
    assert get_scorer(name)(last, X, y) == expected(y, last.predict(X))
    pipeline = make_pipeline(PCA(2), clone(last)).fit(X)
    assert get_scorer(name)(pipeline, X, y) == expected(y, pipeline.predict(X))


@pytest.mark.parametrize("name", [*EXPECTED, *EXPECTED_OF_CLUSTERS])
def test_scorers_can_be_pickled_and_have_a_repr(name, planted):
    X, y, _ = planted
    pipeline = make_pipeline(PCA(2), KMeans(3, random_state=0)).fit(X)
    scorer = get_scorer(name)
    assert pickle.loads(pickle.dumps(scorer))(pipeline, X, y) == scorer(pipeline, X, y)
    assert "ConceptScorer(" in repr(scorer)


def test_multi_metric_scoring_transforms_once(planted):
    X, y, _ = planted
    pipeline = make_pipeline(CountingScaler(), KMeans(3, random_state=0)).fit(X)
    CountingScaler.calls = 0
    names = ["separation", "precision_at_5", "purity", "penalized_purity"]
    scores = get_scorer(names)(pipeline, X, y)
    assert CountingScaler.calls == 1
    assert scores == {name: get_scorer(name)(pipeline, X, y) for name in names}


@pytest.mark.parametrize(
    "scoring",
    [
        get_scorer(["separation", "purity"]),
        {name: get_scorer(name) for name in ("separation", "purity")},
    ],
    ids=["one callable", "dict"],
)
def test_a_grid_search_accepts_two_scorers(scoring, planted):
    X, y, _ = planted
    pipeline = Pipeline(
        [("pca", PCA(random_state=0)), ("mixture", ConceptGaussianMixture(6, random_state=0))]
    )
    search = GridSearchCV(
        pipeline,
        {"pca__n_components": [1, 3]},
        scoring=scoring,
        refit="purity",
        cv=GroupKFold(3),
        error_score="raise",
    )
    search.fit(X, y, groups=np.arange(len(X)) % 30)
    for name in ("separation", "purity"):
        assert np.isfinite(search.cv_results_[f"mean_test_{name}"]).all()
    assert search.best_params_ == {"pca__n_components": 3}


def test_the_penalty_lowers_the_score_of_many_small_clusters(planted):
    X, y, _ = planted
    grid = {"size": [1, 0.2, 0.9], "normalize": [False]}
    best = {}
    for name in ("purity", "penalized_purity"):
        search = GridSearchCV(
            ConceptAgglomerative(criterion="size"),
            grid,
            scoring=get_scorer(name),
            cv=StratifiedKFold(3, shuffle=True, random_state=0),
            error_score="raise",
        )
        best[name] = search.fit(X, y).best_params_["size"]
    assert best == {"purity": 1, "penalized_purity": 0.2}


def test_separation_excludes_concepts_without_a_finite_value():
    X = [[0.0], [0.0], [4.0], [5.0], [9.0]]
    y = ["same", "same", "car", "car", "alone"]
    scaler = StandardScaler(with_std=False).fit(X)
    assert get_scorer("separation")(scaler, X, y) == pytest.approx(4.0)
    assert np.isnan(get_scorer("separation")(scaler, X[::2], y[::2]))


def test_custom_scorers_are_possible(planted):
    X, y, _ = planted
    pca, kmeans = PCA(2).fit(X), KMeans(3, random_state=0).fit(X)
    scorer = make_embedding_scorer(precision_at_k, k=3, metric="euclidean", greater_is_better=False)
    assert scorer(pca, X, y) == -precision_at_k(pca.transform(X), y, k=3, metric="euclidean")
    assert "k=3" in repr(scorer)
    assert make_cluster_scorer(purity_score)(kmeans, X, y) == purity_score(y, kmeans.labels_)


def test_a_search_is_scored_by_its_best_estimator(planted):
    X, y, _ = planted
    grid = {"pca__n_components": [2]}
    pipeline = Pipeline([("pca", PCA()), ("kmeans", KMeans(4, random_state=0, n_init=1))])
    search = GridSearchCV(pipeline, grid, cv=StratifiedKFold(3)).fit(X, y)
    best = search.best_estimator_
    for name in ("precision_at_5", "silhouette", "purity"):
        assert get_scorer(name)(search, X, y) == get_scorer(name)(best, X, y)
    expected = precision_at_k(best[:-1].transform(X), y, k=5)
    assert get_scorer("precision_at_5")(search, X, y) == expected


def test_a_clusterer_has_the_same_score_alone_and_in_a_pipeline(planted):
    X, y, _ = planted
    alone = KMeans(3, random_state=0, n_init=1).fit(X)
    for name in ("silhouette", "purity"):
        expected = get_scorer(name)(make_pipeline(alone), X, y)
        assert get_scorer(name)(alone, X, y) == expected


class TestBadUse:
    @pytest.mark.parametrize("scoring", [None, [], ()])
    def test_an_empty_list_of_names_raises_an_error(self, scoring):
        with pytest.raises(ValueError, match="has no scorer"):
            get_scorer(scoring)

    def test_silhouette_of_bad_labels_raises_an_error(self, planted):
        X = planted[0][:4]
        scaler = StandardScaler().fit(X)
        with pytest.raises(ValueError, match="mixes types"):
            get_scorer("silhouette")(scaler, X, ["car", 1, "car", 1])
        with pytest.raises(ValueError, match="no label in row 1"):
            get_scorer("silhouette")(scaler, X, ["car", None, "bus", "car"])

    def test_an_unknown_name_raises_an_error(self):
        with pytest.raises(ValueError, match="did you mean 'purity'"):
            get_scorer("purty")
        with pytest.raises(ValueError, match="is not a scorer"):
            get_scorer(["purity", "???"])

    @pytest.mark.parametrize("name", ["separation", "purity"])
    def test_missing_labels_raise_an_error(self, name, planted):
        pipeline = make_pipeline(PCA(2), KMeans(3)).fit(planted[0])
        with pytest.raises(ValueError, match="y is None"):
            get_scorer(name)(pipeline, planted[0])

    @pytest.mark.parametrize(
        ("name", "model", "missing"),
        [
            ("separation", AgglomerativeClustering(), "AgglomerativeClustering has no transform"),
            ("purity", PCA(2), "PCA has no predict"),
        ],
    )
    def test_errors_name_what_a_model_lacks(self, name, model, missing, planted):
        X, y, _ = planted
        with pytest.raises(TypeError, match=missing):
            get_scorer(name)(clone(model).fit(X), X, y)


def _of_two_sequences():
    """Return rows whose nearest rows are right in their own sequence, and wrong in the other."""
    X = np.array([[0.0], [0.01], [1.0], [1.01], [0.2], [0.21], [1.2], [1.21]])
    return X, ["car"] * 2 + ["tree"] * 2 + ["tree"] * 2 + ["car"] * 2, np.repeat([1, 2], 4)


def test_groups_are_passed_to_measures_that_accept_them():
    X, y, groups = _of_two_sequences()
    scorer = make_embedding_scorer(precision_at_k, k=1, metric="euclidean")
    estimator = CountingScaler().fit(X)
    assert scorer(estimator, X, y) == 1.0
    assert scorer(estimator, X, y, groups=groups) == 0.0
    both = get_scorer(["precision_at_1", "separation"])
    found = both(estimator, X + [0, 1.0] * np.ones((8, 2)), y, groups=groups)
    assert found["separation"] == both(estimator, X + [0, 1.0] * np.ones((8, 2)), y)["separation"]


def test_searches_route_groups_under_another_name():
    X, y, sequences = _of_two_sequences()
    X, y, sequences = np.tile(X, (2, 1)), y * 2, np.tile(sequences, 2)
    frames = np.repeat([0, 1], 8)
    with config_context(enable_metadata_routing=True):
        scorer = make_embedding_scorer(precision_at_k, k=1, metric="euclidean")
        scorer.set_score_request(groups="sequences")
        search = GridSearchCV(
            CountingScaler(), {}, scoring=scorer, cv=GroupKFold(2), error_score="raise"
        )
        search.fit(X, y, groups=frames, sequences=sequences)
    assert search.best_score_ == 0.0


def test_a_request_applies_only_to_its_scorer():
    with config_context(enable_metadata_routing=True):
        asked = get_scorer("precision_at_1").set_score_request(groups=True)
    assert str(asked.get_metadata_routing()) == "{'score': {'groups': True}}"
    assert str(get_scorer("precision_at_1").get_metadata_routing()) == "{'score': {'groups': None}}"


def test_impossible_requests_raise_errors():
    with pytest.raises(RuntimeError, match="enable_metadata_routing=True"):
        get_scorer("precision_at_1").set_score_request(groups=True)
    with (
        config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match=r"separation.* takes no groups"),
    ):
        get_scorer("separation").set_score_request(groups=True)
    for scorer in (get_scorer("purity"), get_scorer(["purity", "neg_n_clusters"])):
        with pytest.raises(ValueError, match=r"purity.* takes no groups"):
            scorer(KMeans(2).fit(np.eye(2)), np.eye(2), [0, 1], groups=[0, 1])


def test_a_window_of_frames_is_passed_to_every_fold():
    X, y, sequences = _of_two_sequences()
    days = np.repeat(["first", "second"], 8)
    shots = pd.DataFrame({"day": days, "frame": np.tile(sequences, 2)})
    X, y = np.tile(X, (2, 1)), y * 2
    scorer = make_embedding_scorer(precision_at_k, k=1, metric="euclidean", exclude=0)
    with config_context(enable_metadata_routing=True):
        scorer.set_score_request(groups="shots")
        search = GridSearchCV(
            CountingScaler(), {}, scoring=scorer, cv=GroupKFold(2), error_score="raise"
        )
        order = np.random.RandomState(0).permutation(16)
        y = np.array(y)[order]
        search.fit(X[order], y, groups=days[order], shots=shots.iloc[order])
    assert search.best_score_ == 0.0
    with pytest.raises(ValueError, match="exclude=0 compares the groups"):
        scorer(CountingScaler().fit(X), X, y)
