"""Our checks on LoCETransformer, and scikit-learn's checks on the numeric core."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel, optimize_loces
from sklearn_loce.utils.estimator_checks import loce_checks, parametrize_with_loce_checks

from .conftest import make_small_network

MODEL = TorchModel(make_small_network)


@parametrize_with_loce_checks(
    [
        LoCETransformer(MODEL, "2"),
        LoCETransformer(
            MODEL, ["0", "5"], objective="mse", init="normal", random_state=0, max_iter=5
        ),
        LoCETransformer(TorchModel(make_small_network()), "4", mask_resize="area"),
        LoCETransformer(MODEL, ["2", "5"], objective="logistic", append_bias=True),
        LoCETransformer(MODEL, "4", objective="jaccard", standardize=True),
        MaskedMeanTransformer(MODEL, ["0", "4"]),
        MaskedMeanTransformer(MODEL, "2", standardize=True),
    ]
)
def test_transformers_pass_our_checks(estimator, check):
    check(estimator)


def test_all_our_checks_ran():
    assert len(loce_checks()) == 21


class Forgetful(LoCETransformer):
    """Violates one convention: rows depend on other rows."""

    def transform(self, X):
        rows = super().transform(X)
        return rows - rows.mean(axis=0)


def test_the_checks_can_fail():
    checks = {check.__name__: check for check in loce_checks()}
    estimator = Forgetful(MODEL, "2")
    with pytest.raises(AssertionError, match="depends on the rows beside it"):
        checks["check_subset_invariance"](estimator)
    with pytest.raises(AssertionError, match="copied the weights"):
        checks["check_clone_shares_weights"](LoCETransformer(make_small_network(), "2"))


def test_expected_failures_are_marked_with_their_reason():
    mark = parametrize_with_loce_checks(
        [LoCETransformer(MODEL, "2")],
        expected_failed_checks=lambda estimator: {"check_pickle": "for the test"},
    )
    marked = [case for case in mark.args[1] if case.marks]
    assert [case.id for case in marked] == ["LoCETransformer-check_pickle"]
    assert marked[0].marks[0].kwargs == {"reason": "for the test", "strict": True}


class FlattenedLoCE(TransformerMixin, BaseEstimator):
    """Runs the checks of scikit-learn on the numeric core.

    A row is read as one line of cells; its values, their squares and a constant are the
    activations, and the cells above the row's mean are the mask.
    """

    def __init__(self, objective="logistic"):
        self.objective = objective

    def fit(self, X, y=None):
        validate_data(self, X)
        self.n_channels_ = 3
        return self

    def transform(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        X = X / np.abs(X).max(axis=1, keepdims=True).clip(min=1e-12)
        activations = np.stack([X, X**2, np.ones_like(X)], axis=1)[:, :, None]
        masks = (X.mean(axis=1, keepdims=True) - 1e-12 <= X)[:, None].astype(float)
        embeddings = optimize_loces(
            torch.from_numpy(activations), masks, mask_size=(1, 20), objective=self.objective
        )
        return embeddings.numpy()


class FlattenedLoCE32(FlattenedLoCE):
    """The same with the compiled solver."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def transform(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float32)
        cells = np.stack([np.tanh(X), np.ones_like(X)], axis=1)[:, :, None]
        masks = (X.mean(axis=1, keepdims=True) - 1e-6 <= X)[:, None].astype(float)
        embeddings = optimize_loces(
            torch.from_numpy(cells), masks, mask_size=(1, 20), objective=self.objective
        )
        return embeddings.numpy()


@pytest.mark.slow
@parametrize_with_checks(
    [kind(name) for kind in (FlattenedLoCE, FlattenedLoCE32) for name in ("logistic", "net2vec")]
)
def test_the_numeric_core_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_checks_of_scikit_learn_are_not_empty():
    names = {check.func.__name__ for _, check in estimator_checks_generator(FlattenedLoCE())}
    assert len(names) > 30
    assert {"check_methods_subset_invariance", "check_methods_sample_order_invariance"} <= names


def test_transformers_pass_the_checks_of_scikit_learn_for_tables():
    with pytest.warns(SkipTestWarning, match="Can't test estimator LoCETransformer"):
        checks = list(estimator_checks_generator(LoCETransformer(MODEL, "2")))
    assert checks
    for estimator, check in checks:
        check(estimator)


def test_builder_models_survive_partial_builders(boxes):
    estimator = LoCETransformer(TorchModel(partial(make_small_network)), "2")
    assert estimator.fit_transform(boxes).shape == (5, 12)
