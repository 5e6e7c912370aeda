"""The array floor on real LoCEs: generated scenes with planted sub-concepts, and CamVid."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.datasets import load_scene_model, make_scenes
from sklearn_loce.metrics import (
    compare_layers,
    confused_concepts,
    get_scorer,
    precision_at_k,
    sub_concepts,
)
from sklearn_loce.mixture import ConceptGaussianMixture

# The early layer encodes textures, and the deep one distance (as size in the image). Layers and
# numbers of dimensions are those of the paper's objective.
PLANTED = {
    "sky": "features.2",
    "tree": "features.2",
    "house": "features.2",
    "bus": "features.2",
    "car": "features.5",
    "taxi": "features.5",
}
N_DIMENSIONS = {"features.2": 4, "features.5": 2}


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(100, random_state=0)


@pytest.fixture(scope="module")
def scene_layers(scenes):
    """LoCEs of the scenes by layer, with the index of the table."""
    loce = LoCETransformer(TorchModel(load_scene_model), list(N_DIMENSIONS), objective="net2vec")
    table = loce.set_output(transform="pandas").fit_transform(scenes.data)
    return {name: table.filter(like=f"{name}[") for name in N_DIMENSIONS}


@pytest.mark.parametrize("layer", N_DIMENSIONS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_planted_pair_is_the_most_confused(scenes, scene_layers, layer, metric):
    pairs = confused_concepts(
        scene_layers[layer], scenes.target, metric=metric, clusters=ConceptAgglomerative()
    )
    top = pairs.iloc[0]
    assert {top.concept_a, top.concept_b} == {"car", "taxi"}
    assert top.overlap > 0
    assert top.mixed_clusters >= 1
    assert (pairs.overlap[1:] < top.overlap).all()


@pytest.mark.slow
@pytest.mark.parametrize("concept", PLANTED)
def test_planted_sub_concepts_are_recovered(scenes, scene_layers, concept):
    layer = PLANTED[concept]
    rows = np.flatnonzero(scenes.target == concept)
    X, planted = scene_layers[layer].iloc[rows], scenes.sub_concepts[rows]
    mixture = make_pipeline(
        Normalizer(),
        PCA(N_DIMENSIONS[layer], random_state=0),
        ConceptGaussianMixture(n_init=3, random_state=0),
    )
    labels = mixture.fit_predict(X)
    assert adjusted_rand_score(planted, labels) >= 0.95
    report = sub_concepts(X, scenes.target[rows], labels, n_rows=5)
    for row in report.itertuples():
        assert len(set(planted[list(row.typical)])) == 1


def test_layers_of_the_scene_model_are_compared(scenes, scene_layers):
    y = pd.Series(scenes.target, index=scenes.data.index)
    table = compare_layers(scene_layers, y, groups=scenes.groups, n_repeats=5, k=10, random_state=0)
    assert len(table) == 2 * 5
    means = table.pivot_table("mean", "metric", "layer")
    assert (means.loc["precision_at_10"] > 0.8).all()
    assert means.loc["precision_at_10", "features.5"] > means.loc["precision_at_10", "features.2"]
    assert (table["std"] > 0)[table.metric == "separation"].all()


@pytest.fixture(scope="module")
def frames(camvid_frames):
    """Twenty frames of the concepts that fill more than a few cells."""
    kept = camvid_frames["image_id"].isin(camvid_frames["image_id"].unique()[:20])
    names = ["building", "car", "road", "sky", "tree"]
    return camvid_frames[kept & camvid_frames["concept"].isin(names)]


@pytest.mark.slow
def test_a_camvid_grid_search_compares_layers_with_two_scorers(camvid_network, frames):
    pipeline = Pipeline(
        [
            ("loce", LoCETransformer(camvid_network, "backbone.9")),
            ("norm", Normalizer()),
            ("pca", PCA(4, random_state=0)),
            ("mixture", ConceptGaussianMixture(8, per_concept=False, random_state=0)),
        ]
    )
    y, groups = frames["concept"].to_numpy(), frames["image_id"].to_numpy()
    layers, folds = ["backbone.4", "backbone.13"], GroupKFold(2)
    search = GridSearchCV(
        pipeline,
        {"loce__layer": layers},
        scoring=get_scorer(["precision_at_5", "penalized_purity"]),
        refit="precision_at_5",
        cv=folds,
        error_score="raise",
    )
    search.fit(frames, y, groups=groups)
    results = pd.DataFrame(search.cv_results_)
    for name in ("precision_at_5", "penalized_purity"):
        scores = results[f"mean_test_{name}"]
        assert scores.between(0, 1).all()
        assert scores.nunique() == 2
    precision = []
    for layer in layers:
        rows = pipeline[:2].set_params(loce__layer=layer).fit_transform(frames)
        for train, test in folds.split(rows, groups=groups):
            reduced = PCA(4, random_state=0).fit(rows[train]).transform(rows[test])
            precision.append(precision_at_k(reduced, y[test], k=5))
    expected = np.reshape(precision, (2, 2)).mean(1)
    np.testing.assert_allclose(results["mean_test_precision_at_5"], expected, atol=1e-6)
    assert search.best_params_ == {"loce__layer": layers[expected.argmax()]}
    assert search.best_score_ > 0.6
