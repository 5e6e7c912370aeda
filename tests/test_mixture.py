import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.utils import UnsupervisedUMAP

from .embeddings import planted_parts


@pytest.fixture
def blobs():
    """Two large groups and a light one of outliers, which the mixture drops."""
    X, groups = make_blobs(
        [60, 50, 8], centers=[[0, 0], [12, 0], [6, 14]], cluster_std=0.8, random_state=0
    )
    return X, groups


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
def test_without_labels_the_mixture_has_the_lowest_bic(covariance_type):
    X, _ = make_blobs(150, centers=3, random_state=2)
    options = {"covariance_type": covariance_type, "random_state": 0}
    plain = [GaussianMixture(k, **options).fit(X) for k in range(1, 6)]
    best = plain[int(np.argmin([mixture.bic(X) for mixture in plain]))]
    model = ConceptGaussianMixture(5, min_weight=0.0, **options).fit(X)
    assert_allclose(model.bic_curves_[0], [mixture.bic(X) for mixture in plain])
    assert model.n_components_ == best.n_components
    assert_allclose(model.means_, best.means_)
    assert_allclose(model.covariances_, best.covariances_)
    assert_allclose(model.score_samples(X), best.score_samples(X))
    assert_allclose(model.predict_proba(X), best.predict_proba(X), atol=1e-12)
    assert_array_equal(model.predict(X), best.predict(X))
    assert_array_equal(model.labels_, best.predict(X))
    assert model.bic(X) == pytest.approx(best.bic(X))
    assert model.score(X) == pytest.approx(best.score(X))
    for found, expected in zip(model.sample(20), best.sample(20), strict=True):
        assert_array_equal(found, expected)


def test_light_components_are_dropped_and_their_rows_marked(blobs):
    X, groups = blobs
    model = ConceptGaussianMixture(5, random_state=0).fit(X)
    assert model.mixtures_[0].n_components == 3
    assert model.n_components_ == 2
    assert_array_equal(model.labels_ == -1, groups == 2)
    assert_array_equal(model.predict(X), model.labels_)
    assert adjusted_rand_score(groups, model.labels_) == 1.0
    assert model.weights_.sum() == pytest.approx(1)
    assert_allclose(np.sort(model.weights_), [50 / 110, 60 / 110], rtol=1e-3)
    assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert set(model.sample(200)[1]) == {0, 1}


def test_the_heaviest_component_is_never_dropped(blobs):
    model = ConceptGaussianMixture(5, min_weight=0.99, random_state=0).fit(blobs[0])
    assert model.n_components_ == 1
    assert set(model.labels_) == {-1, 0}


def test_the_density_equals_that_of_its_components():
    X, y, _ = planted_parts()
    model = ConceptGaussianMixture(3, random_state=0).fit(X[:, :2], y)
    rows = X[::7, :2]
    logs = np.array(
        [
            np.log(weight) + multivariate_normal(mean, covariance).logpdf(rows)
            for weight, mean, covariance in zip(
                model.weights_, model.means_, model.covariances_, strict=True
            )
        ]
    ).T
    assert_allclose(model.score_samples(rows), logsumexp(logs, axis=1))
    assert_allclose(
        model.predict_proba(rows), np.exp(logs - logsumexp(logs, axis=1, keepdims=True)), atol=1e-9
    )
    n_parameters = model.n_components_ * (2 + 3 + 1) - 1
    expected = -2 * logsumexp(logs, axis=1).sum() + n_parameters * np.log(len(rows))
    assert model.bic(rows) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_planted_parts_are_recovered(seed):
    X, y, parts = planted_parts(seed=seed)
    model = ConceptGaussianMixture(random_state=0).fit(X, y)
    assert adjusted_rand_score(parts, model.labels_) >= 0.95
    assert adjusted_rand_score(parts, model.predict(X)) >= 0.95
    assert model.component_concepts_.tolist() == ["bus", "bus", "car", "car", "sky", "sky"]
    assert model.concepts_.tolist() == ["bus", "car", "sky"]
    assert_allclose(model.concept_weights_, 1 / 3)
    assert [mixture.n_components for mixture in model.mixtures_] == [2, 2, 2]
    assert_array_equal(np.nanargmin(model.bic_curves_, axis=1), 1)
    # Without labels, one mixture finds the same six groups.
    alone = ConceptGaussianMixture(8, min_weight=0.05, n_init=3, random_state=0).fit(X)
    assert adjusted_rand_score(parts, alone.labels_) >= 0.95


def test_labels_are_components_of_the_same_concept():
    """If two concepts overlap, predict cannot separate them, but labels_ do."""
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(80, 2)), np.repeat(["bus", "car"], 40)
    model = ConceptGaussianMixture(2, random_state=0).fit(X, y)
    kept = model.labels_ >= 0
    assert_array_equal(model.component_concepts_[model.labels_[kept]], y[kept])


def test_labels_may_be_ignored():
    X, y, _ = planted_parts()
    ignoring = ConceptGaussianMixture(per_concept=False, random_state=0).fit(X, y)
    without = ConceptGaussianMixture(random_state=0).fit(X)
    assert_array_equal(ignoring.labels_, without.labels_)
    assert not hasattr(ignoring, "component_concepts_")


def test_a_fit_without_labels_removes_earlier_labels():
    X, y, _ = planted_parts()
    model = ConceptGaussianMixture(random_state=0).fit(X, y).fit(X)
    assert not hasattr(model, "concepts_")
    assert not hasattr(model, "component_concepts_")
    assert len(model.mixtures_) == 1


def test_a_concept_with_one_row_gets_one_component_at_this_row():
    X = np.random.RandomState(0).normal(size=(21, 2))
    y = ["car"] * 20 + ["bus"]
    model = ConceptGaussianMixture(2, reg_covar=1e-3, random_state=0).fit(X, y)
    assert model.component_concepts_[0] == "bus"
    assert_allclose(model.means_[0], X[-1])
    assert_allclose(model.covariances_[0], 1e-3 * np.eye(2), atol=1e-12)
    assert model.weights_[0] == pytest.approx(1 / 21)
    assert model.labels_[-1] == 0


def test_components_do_not_outnumber_distinct_rows():
    X = np.repeat([[0.0, 0.0], [5.0, 5.0]], 10, axis=0)
    model = ConceptGaussianMixture(5, random_state=0).fit(X)
    assert model.n_components_ == 2
    assert np.isnan(model.bic_curves_[0, 2:]).all()
    same = ConceptGaussianMixture(5).fit(np.ones((6, 2)))
    assert same.n_components_ == 1


def test_the_mixture_works_after_pca():
    X, y, parts = planted_parts()
    pipeline = make_pipeline(PCA(3), ConceptGaussianMixture(random_state=0)).fit(X, y)
    assert adjusted_rand_score(parts, pipeline.predict(X)) >= 0.95
    assert adjusted_rand_score(parts, pipeline.fit_predict(X, y)) >= 0.95


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:'force_all_finite' was renamed:FutureWarning")  # umap's
def test_the_mixture_works_after_umap():
    X, y, parts = planted_parts()
    reducer = UnsupervisedUMAP(n_neighbors=15, init="pca", random_state=0, n_jobs=1)
    pipeline = make_pipeline(reducer, ConceptGaussianMixture(n_init=3, random_state=0)).fit(X, y)
    assert adjusted_rand_score(parts, pipeline[-1].labels_) >= 0.95
    assert adjusted_rand_score(parts, pipeline.predict(X)) >= 0.95


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("n_rows", [2, 3, 5, 8, 10, 15])
def test_a_small_concept_is_not_split(n_rows, covariance_type):
    for seed in range(5):
        X = np.random.RandomState(seed).normal(size=(n_rows, 2))
        model = ConceptGaussianMixture(covariance_type=covariance_type, random_state=0).fit(X)
        assert model.n_components_ == 1


@pytest.mark.parametrize("noise", [1e-15, 1e-12, 1e-9])
def test_components_do_not_outnumber_clusters_of_nearly_equal_rows(noise):
    rng = np.random.RandomState(0)
    places = rng.normal(size=(2, 3))
    X = np.repeat(places, 30, axis=0) + noise * rng.normal(size=(60, 3))
    assert ConceptGaussianMixture(random_state=0).fit(X).n_components_ == 2


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_components", 0),
            ("min_weight", -0.1),
            ("min_weight", 1.0),
            ("reg_covar", -1.0),
            ("rows_per_component", 0),
        ],
    )
    def test_invalid_parameters_raise_errors(self, name, value):
        with pytest.raises(ValueError, match=f"'{name}' parameter"):
            ConceptGaussianMixture(**{name: value}).fit(np.eye(3))

    def test_invalid_labels_raise_errors(self):
        X = np.eye(3)
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            ConceptGaussianMixture().fit(X, [0, 1])
        with pytest.raises(ValueError, match="mixes types"):
            ConceptGaussianMixture().fit(X, ["car", "car", 1])

    def test_overflow_raises_an_error(self):
        with pytest.raises(ValueError, match="whose squares overflow"):
            ConceptGaussianMixture().fit([[0.0], [1e160]])

    def test_too_many_requested_samples_raise_an_error(self):
        model = ConceptGaussianMixture(1).fit(np.eye(3))
        with pytest.raises(ValueError, match="n_samples"):
            model.sample(0)


@pytest.mark.parametrize("n_rows", [10, 20])
def test_without_a_bound_only_bic_chooses(n_rows):
    X = np.random.default_rng(n_rows).normal(size=(n_rows, 2))
    bics = [GaussianMixture(n, random_state=0).fit(X).bic(X) for n in range(1, 6)]
    free = ConceptGaussianMixture(rows_per_component=1, min_weight=0, random_state=0).fit(X)
    np.testing.assert_allclose(free.bic_curves_[0], bics)
    assert free.n_components_ == np.argmin(bics) + 1
    few = ConceptGaussianMixture(rows_per_component=n_rows // 2, random_state=0).fit(X)
    assert np.isfinite(few.bic_curves_[0]).sum() == 2
