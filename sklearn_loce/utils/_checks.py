"""Checks of all estimators on tables of samples, and of transformers."""

import copy
import io
import pickle
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from .._network.handle import TorchModel, as_module, device_of
from .._network.identity import digest_network
from .._samples.images import read_image
from .._samples.table import object_array


def fit_clone(estimator, samples):
    return clone(estimator).fit(samples)


def _result(fitted, samples):
    """Return the main result of the estimator: an array of LoCEs or a list of masks."""
    if not hasattr(fitted, "transform"):
        return fitted.predict(samples)
    return fitted.set_output(transform="default").transform(samples)


def fit_result(estimator, samples):
    return _result(fit_clone(estimator, samples), samples)


def inner_prefix(estimator):
    """Return the prefix of the parameters of the transformer, which may be empty."""
    keys = [k for k, v in estimator.get_params().items() if isinstance(v, TorchModel | nn.Module)]
    return keys[0].removesuffix("model")


def _model_of(estimator):
    return estimator.get_params()[f"{inner_prefix(estimator)}model"]


def require(condition, message):
    if not condition:
        raise AssertionError(message)


def assert_same_rows(rows, expected, what):
    require(len(rows) == len(expected), f"{len(rows)} rows became {len(expected)} by {what}.")
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, other, f"A row's result depends on {what}.")


def check_clone_shares_weights(estimator, samples):
    """A clone of an estimator with a handle uses the same module."""
    copied = clone(estimator)
    ours, theirs = _model_of(copied), _model_of(estimator)
    require(ours is not theirs, "The clone contains the original's handle.")
    require(
        as_module(ours) is as_module(theirs),
        "The clone copied the weights; wrap the module in a TorchModel.",
    )


def check_params_roundtrip(estimator, samples):
    """get_params returns the values of __init__, and set_params accepts them."""
    params = estimator.get_params(deep=False)
    rebuilt = type(estimator)(**params)
    for name, value in params.items():
        require(getattr(rebuilt, name) is value, f"__init__ changes the parameter {name!r}.")
    rebuilt.set_params(**params)
    require(
        all(rebuilt.get_params(deep=False)[name] is value for name, value in params.items()),
        "set_params does not store what get_params gave.",
    )


def check_params_unchanged(estimator, samples):
    """Fit, transform and predict do not change the parameters."""
    copied = clone(estimator)
    before = dict(copied.get_params())
    _result(copied.fit(samples), samples)
    after = copied.get_params()
    changed = [name for name, value in before.items() if after[name] is not value]
    require(not changed, f"The parameters {changed} change by use.")


def check_pickle(estimator, samples):
    """A pickled estimator returns the same rows."""
    fitted = fit_clone(estimator, samples)
    restored = pickle.loads(pickle.dumps(fitted))
    assert_same_rows(_result(restored, samples), _result(fitted, samples), "pickling")


def check_fit_idempotent(estimator, samples):
    """A second fit returns the same result."""
    fitted = fit_clone(estimator, samples)
    first = _result(fitted, samples)
    assert_same_rows(_result(fitted.fit(samples), samples), first, "an earlier fit")


def check_fit_transform(estimator, samples):
    """fit_transform equals fit followed by transform."""
    assert_same_rows(
        clone(estimator).fit_transform(samples), fit_result(estimator, samples), "fit_transform"
    )


def check_table_untouched(estimator, samples):
    """The table of the caller and its pixels do not change."""
    before = copy.deepcopy(samples)
    fit_result(estimator, samples)
    pd.testing.assert_index_equal(samples.index, before.index)
    require(list(samples.columns) == list(before.columns), "The table's columns changed.")
    for column in ("image", "mask"):
        for now, then in zip(samples[column], before[column], strict=True):
            np.testing.assert_array_equal(now, then)


def _module_state(module):
    return {
        "weights": digest_network(module),
        "modes": [child.training for child in module.modules()],
        "hooks": [len(child._forward_hooks) for child in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "gradients": [p.grad is None for p in module.parameters()],
        "device": device_of(module),
    }


def check_module_untouched(estimator, samples):
    """The module of the user does not change: mode, hooks, device, weights, gradients."""
    fitted = clone(estimator)
    module = as_module(_model_of(fitted))
    modes = [child.training for child in module.modules()]
    try:
        module.train()
        before = _module_state(module)
        _result(fitted.fit(samples), samples)
        require(_module_state(module) == before, "The module has changed.")
        broken = samples.assign(image=["no such file"] * len(samples))
        for use in (fitted.fit, partial(_result, fitted)):
            assert_raises(FileNotFoundError, use, broken)
        require(_module_state(module) == before, "An error left traces on the module.")
    finally:
        for child, training in zip(module.modules(), modes, strict=True):
            child.training = training


def assert_raises(expected, function, *args):
    try:
        function(*args)
    except expected:
        return
    raise AssertionError(f"{function} did not raise {expected.__name__}.")


def check_subset_invariance(estimator, samples):
    """The result of a row does not depend on other rows."""
    fitted = fit_clone(estimator, samples)
    alone = [_result(fitted, samples.iloc[[i]])[0] for i in range(len(samples))]
    assert_same_rows(alone, _result(fitted, samples), "the rows beside it")


def check_order_invariance(estimator, samples):
    """A permutation of the rows permutes the result."""
    fitted = fit_clone(estimator, samples)
    order = np.random.default_rng(0).permutation(len(samples))
    whole = _result(fitted, samples)
    assert_same_rows(_result(fitted, samples.iloc[order]), [whole[i] for i in order], "the order")


def check_duplicates(estimator, samples):
    """Equal rows have the same result."""
    fitted = fit_clone(estimator, samples)
    twice = _result(fitted, pd.concat([samples, samples]))
    assert_same_rows(twice, 2 * list(_result(fitted, samples)), "its duplicates")


def check_batch_size_invariance(estimator, samples):
    """The ``batch_size`` of the transformer does not change results."""
    whole = fit_result(estimator, samples)
    for batch_size in (1, 2, len(samples) + 1):
        other = clone(estimator).set_params(**{f"{inner_prefix(estimator)}batch_size": batch_size})
        assert_same_rows(fit_result(other, samples), whole, f"batch_size={batch_size}")


def check_unfitted(estimator, samples):
    """Before fit, every method that needs it raises NotFittedError."""
    for method in ("transform", "predict", "evaluate", "score", "get_feature_names_out"):
        function = getattr(clone(estimator), method, None)
        if function is not None:
            assert_raises(NotFittedError, function, samples)


def check_set_output_pandas(estimator, samples):
    """``set_output`` returns a DataFrame with the index of the table and feature names."""
    fitted = fit_clone(estimator, samples)
    plain = fitted.transform(samples)
    frame = fitted.set_output(transform="pandas").transform(samples)
    pd.testing.assert_index_equal(frame.index, samples.index)
    require(list(frame.columns) == list(fitted.get_feature_names_out()), "Columns are misnamed.")
    np.testing.assert_array_equal(frame.to_numpy(), plain)


def check_output(estimator, samples):
    """The result is a finite float32 array with a name for each column."""
    fitted = fit_clone(estimator, samples)
    embeddings = fitted.transform(samples)
    names = fitted.get_feature_names_out()
    require(embeddings.dtype == np.float32, f"dtype is {embeddings.dtype}, not float32.")
    require(embeddings.shape == (len(samples), len(names)), f"shape is {embeddings.shape}.")
    require(len(set(names)) == len(names), "Feature names repeat.")
    require(np.isfinite(embeddings).all(), "The result contains NaN or infinity.")


def check_one_row(estimator, samples):
    """One row suffices to fit and to transform."""
    require(len(fit_result(estimator, samples.iloc[[0]])) == 1, "One row does not give one row.")


def check_no_rows(estimator, samples):
    """An empty table raises an error that names the problem."""
    assert_raises(ValueError, clone(estimator).fit, samples.iloc[:0])
    assert_raises(ValueError, _result, fit_clone(estimator, samples), samples.iloc[:0])


def check_pairs(estimator, samples):
    """A list of (image, mask) pairs has the same result as the table."""
    pairs = list(zip(samples["image"], samples["mask"], strict=True))
    assert_same_rows(
        fit_clone(estimator, samples).transform(pairs), fit_result(estimator, samples), "X"
    )


def check_readonly_arrays(estimator, samples):
    """Read-only pixels, such as memory maps of joblib, are accepted."""
    frozen = copy.deepcopy(samples)
    for column in ("image", "mask"):
        for value in frozen[column]:
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
    assert_same_rows(fit_result(estimator, frozen), fit_result(estimator, samples), "writing")


def check_image_kinds(estimator, samples):
    """Arrays, PIL images and PNG files with the same pixels have the same rows."""
    fitted = fit_clone(estimator, samples)
    whole = _result(fitted, samples)
    pictures = [Image.fromarray(read_image(image)) for image in samples["image"]]
    decoded = [Image.open(_png(picture)) for picture in pictures]
    for images, what in ((pictures, "PIL"), (decoded, "PNG")):
        assert_same_rows(_result(fitted, samples.assign(image=object_array(images))), whole, what)


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    buffer.seek(0)
    return buffer


def check_extra_columns(estimator, samples):
    """Other columns do not change the result, before and after fit."""
    fitted = fit_clone(estimator, samples.assign(area=0.5))
    assert_same_rows(
        fitted.transform(samples[["mask", "image"]]),
        fit_result(estimator, samples),
        "further columns",
    )


COMMON_CHECKS = (
    check_clone_shares_weights,
    check_params_roundtrip,
    check_params_unchanged,
    check_pickle,
    check_fit_idempotent,
    check_table_untouched,
    check_module_untouched,
    check_subset_invariance,
    check_order_invariance,
    check_duplicates,
    check_batch_size_invariance,
    check_unfitted,
    check_one_row,
    check_no_rows,
    check_readonly_arrays,
    check_image_kinds,
)
TRANSFORMER_CHECKS = (
    check_fit_transform,
    check_set_output_pandas,
    check_output,
    check_pairs,
    check_extra_columns,
)
