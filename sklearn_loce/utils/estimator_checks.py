"""Checks for estimators whose X is the table of samples.

scikit-learn's own battery feeds numeric arrays and runs next to nothing on an estimator that takes
a table of images and masks. These checks hold such an estimator to the same promises.
"""

import copy
import io
import pickle
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from .._masks import read_mask
from .._model import as_module, device_of, fingerprint
from .._samples import as_samples, read_image

__all__ = ["loce_checks", "parametrize_with_loce_checks"]


def _default_samples():
    """Draw a few rectangles on noise: three images of different sizes, five rows."""
    rng = np.random.default_rng(0)
    rows = []
    for image_id, (height, width) in enumerate([(48, 64), (64, 48), (48, 64)]):
        image = rng.integers(0, 128, (height, width, 3), dtype=np.uint8)
        for concept, corner in (("box", 8), ("bar", 24))[: 2 - image_id // 2]:
            mask = np.zeros((height, width), dtype=bool)
            mask[corner : corner + 16, corner - 4 : corner + 20] = True
            image[mask] += np.uint8(60 + corner)
            rows.append((image, mask, concept, image_id))
    index = [f"r{i}" for i in range(len(rows))]
    return pd.DataFrame(rows, columns=["image", "mask", "concept", "image_id"], index=index)


def _fitted(estimator, samples):
    return clone(estimator).fit(samples)


def _embed(estimator, samples):
    return _fitted(estimator, samples).set_output(transform="default").transform(samples)


def _assert(condition, message):
    if not condition:
        raise AssertionError(message)


def _assert_same_rows(rows, expected, what):
    np.testing.assert_array_equal(rows, expected, err_msg=f"A row's result depends on {what}.")


def check_clone_shares_weights(estimator, samples):
    """A clone of an estimator that holds a handle uses the same module."""
    copied = clone(estimator)
    _assert(copied.model is not estimator.model, "The clone holds the original's handle.")
    _assert(
        as_module(copied.model) is as_module(estimator.model),
        "The clone copied the weights; hold the module by a TorchModel.",
    )


def check_params_roundtrip(estimator, samples):
    """get_params gives what __init__ stored, and set_params takes it back."""
    params = estimator.get_params()
    rebuilt = type(estimator)(**params)
    for name, value in params.items():
        _assert(getattr(rebuilt, name) is value, f"__init__ changes the parameter {name!r}.")
    rebuilt.set_params(**params)
    _assert(
        all(rebuilt.get_params()[name] is value for name, value in params.items()),
        "set_params does not store what get_params gave.",
    )


def check_params_unchanged(estimator, samples):
    """Fit and transform leave the parameters alone."""
    copied = clone(estimator)
    before = dict(copied.get_params())
    copied.fit(samples).transform(samples)
    after = copied.get_params()
    changed = [name for name, value in before.items() if after[name] is not value]
    _assert(not changed, f"fit or transform changes the parameters {changed}.")


def check_pickle(estimator, samples):
    """A pickled estimator gives the same rows."""
    fitted = _fitted(estimator, samples)
    restored = pickle.loads(pickle.dumps(fitted))
    _assert_same_rows(restored.transform(samples), fitted.transform(samples), "pickling")


def check_fit_idempotent(estimator, samples):
    """Fitting twice is fitting once."""
    fitted = _fitted(estimator, samples)
    first = fitted.transform(samples)
    _assert_same_rows(fitted.fit(samples).transform(samples), first, "an earlier fit")


def check_fit_transform(estimator, samples):
    """fit_transform is fit and then transform."""
    _assert_same_rows(
        clone(estimator).fit_transform(samples), _embed(estimator, samples), "fit_transform"
    )


def check_table_untouched(estimator, samples):
    """The caller's table and its pixels are not written to."""
    before = copy.deepcopy(samples)
    _fitted(estimator, samples).transform(samples)
    pd.testing.assert_index_equal(samples.index, before.index)
    _assert(list(samples.columns) == list(before.columns), "The table's columns changed.")
    for column in ("image", "mask"):
        for now, then in zip(samples[column], before[column], strict=True):
            np.testing.assert_array_equal(now, then)


def _module_state(module):
    return {
        "weights": fingerprint(module),
        "modes": [child.training for child in module.modules()],
        "hooks": [len(child._forward_hooks) for child in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "gradients": [p.grad is None for p in module.parameters()],
        "device": device_of(module),
    }


def check_module_untouched(estimator, samples):
    """The user's module comes back as it was: mode, hooks, device, weights, gradients."""
    fitted = clone(estimator)
    module = as_module(fitted.model)
    modes = [child.training for child in module.modules()]
    try:
        module.train()
        before = _module_state(module)
        fitted.fit(samples).transform(samples)
        _assert(_module_state(module) == before, "The module did not come back as it was.")
        broken = samples.assign(image=["no such file"] * len(samples))
        _assert_raises(FileNotFoundError, fitted.transform, broken)
        _assert(_module_state(module) == before, "An error left traces on the module.")
    finally:
        for child, training in zip(module.modules(), modes, strict=True):
            child.training = training


def _assert_raises(expected, function, *args):
    try:
        function(*args)
    except expected:
        return
    raise AssertionError(f"{function} did not raise {expected.__name__}.")


def check_subset_invariance(estimator, samples):
    """A row's result is the same alone and among others."""
    fitted = _fitted(estimator, samples)
    whole = fitted.transform(samples)
    alone = np.vstack([fitted.transform(samples.iloc[[i]]) for i in range(len(samples))])
    _assert_same_rows(alone, whole, "the rows beside it")


def check_order_invariance(estimator, samples):
    """A permutation of the rows permutes the result."""
    fitted = _fitted(estimator, samples)
    order = np.random.default_rng(0).permutation(len(samples))
    whole = fitted.transform(samples)
    _assert_same_rows(fitted.transform(samples.iloc[order]), whole[order], "the order")


def check_duplicates(estimator, samples):
    """A row that stands twice gives the same result twice."""
    fitted = _fitted(estimator, samples)
    twice = fitted.transform(pd.concat([samples, samples]))
    whole = fitted.transform(samples)
    _assert_same_rows(twice, np.vstack([whole, whole]), "its duplicates")


def check_batch_size_invariance(estimator, samples):
    """``batch_size`` is about memory, not about results."""
    whole = _embed(estimator, samples)
    for batch_size in (1, 2, len(samples) + 1):
        other = clone(estimator).set_params(batch_size=batch_size)
        _assert_same_rows(_embed(other, samples), whole, f"batch_size={batch_size}")


def check_unfitted(estimator, samples):
    """Before fit, every method that needs it says so."""
    for method in ("transform", "score", "get_feature_names_out"):
        function = getattr(clone(estimator), method, None)
        if function is not None:
            _assert_raises(NotFittedError, function, samples)


def check_set_output_pandas(estimator, samples):
    """``set_output`` gives a DataFrame with the table's index and the names of the features."""
    fitted = _fitted(estimator, samples)
    plain = fitted.transform(samples)
    frame = fitted.set_output(transform="pandas").transform(samples)
    pd.testing.assert_index_equal(frame.index, samples.index)
    _assert(list(frame.columns) == list(fitted.get_feature_names_out()), "Columns are misnamed.")
    np.testing.assert_array_equal(frame.to_numpy(), plain)


def check_output(estimator, samples):
    """The result is a finite float32 array with a name for each column."""
    fitted = _fitted(estimator, samples)
    embeddings = fitted.transform(samples)
    names = fitted.get_feature_names_out()
    _assert(embeddings.dtype == np.float32, f"dtype is {embeddings.dtype}, not float32.")
    _assert(embeddings.shape == (len(samples), len(names)), f"shape is {embeddings.shape}.")
    _assert(len(set(names)) == len(names), "Feature names repeat.")
    _assert(np.isfinite(embeddings).all(), "The result holds NaN or infinity.")


def check_one_row(estimator, samples):
    """One row is enough, to fit and to transform."""
    _assert(len(_embed(estimator, samples.iloc[[0]])) == 1, "One row does not give one row.")


def check_no_rows(estimator, samples):
    """An empty table is an error that says so."""
    _assert_raises(ValueError, clone(estimator).fit, samples.iloc[:0])
    _assert_raises(ValueError, _fitted(estimator, samples).transform, samples.iloc[:0])


def check_pairs(estimator, samples):
    """A list of (image, mask) pairs gives what the table gives."""
    pairs = list(zip(samples["image"], samples["mask"], strict=True))
    _assert_same_rows(_fitted(estimator, samples).transform(pairs), _embed(estimator, samples), "X")


def check_readonly_arrays(estimator, samples):
    """Read-only pixels, as joblib's memory maps are, will do."""
    frozen = copy.deepcopy(samples)
    for column in ("image", "mask"):
        for value in frozen[column]:
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
    _assert_same_rows(_embed(estimator, frozen), _embed(estimator, samples), "write access")


def check_image_kinds(estimator, samples):
    """Arrays, PIL images and PNG files of the same pixels give the same rows."""
    whole = _embed(estimator, samples)
    fitted = _fitted(estimator, samples)
    pictures = [Image.fromarray(read_image(image)) for image in samples["image"]]
    masks = [read_mask(mask) for mask in samples["mask"]]
    _assert_same_rows(fitted.transform(list(zip(pictures, masks, strict=True))), whole, "PIL")
    decoded = [Image.open(_png(picture)) for picture in pictures]
    _assert_same_rows(fitted.transform(list(zip(decoded, masks, strict=True))), whole, "PNG")


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    buffer.seek(0)
    return buffer


def check_extra_columns(estimator, samples):
    """Columns that are not asked for make no difference, before and after fit."""
    fitted = _fitted(estimator, samples.assign(area=0.5))
    _assert_same_rows(
        fitted.transform(samples[["mask", "image"]]), _embed(estimator, samples), "further columns"
    )


_CHECKS = (
    check_clone_shares_weights,
    check_params_roundtrip,
    check_params_unchanged,
    check_pickle,
    check_fit_idempotent,
    check_fit_transform,
    check_table_untouched,
    check_module_untouched,
    check_subset_invariance,
    check_order_invariance,
    check_duplicates,
    check_batch_size_invariance,
    check_unfitted,
    check_set_output_pandas,
    check_output,
    check_one_row,
    check_no_rows,
    check_pairs,
    check_readonly_arrays,
    check_image_kinds,
    check_extra_columns,
)


def loce_checks(samples=None):
    """List the checks, ready to be called with an estimator.

    Parameters
    ----------
    samples : DataFrame, default=None
        The table to check with. ``None`` draws five rows on three images of two sizes.

    Returns
    -------
    list of callable
        Each takes an unfitted estimator and raises ``AssertionError`` where a promise is broken.

    Examples
    --------
    >>> from sklearn_loce.utils.estimator_checks import loce_checks
    >>> [check.__name__ for check in loce_checks()][:2]
    ['check_clone_shares_weights', 'check_params_roundtrip']
    """
    samples = _default_samples() if samples is None else as_samples(samples)
    return [_with_samples(check, samples) for check in _CHECKS]


def _with_samples(check, samples):
    bound = partial(check, samples=samples)
    bound.__name__ = check.__name__
    bound.__doc__ = check.__doc__
    return bound


def parametrize_with_loce_checks(estimators, *, samples=None, expected_failed_checks=None):
    """Make a pytest decorator that runs each check on each estimator.

    Parameters
    ----------
    estimators : list of estimators
        Unfitted, with the table of samples as X and a parameter ``model`` that is a TorchModel.
    samples : DataFrame, default=None
        The table to check with; see :func:`loce_checks`.
    expected_failed_checks : callable, default=None
        Takes an estimator and returns a dict of check names and reasons; these are marked as
        strict expected failures.

    Returns
    -------
    pytest.MarkDecorator
        Parametrizes ``estimator`` and ``check``.

    Examples
    --------
    >>> from sklearn_loce.utils.estimator_checks import parametrize_with_loce_checks
    >>> @parametrize_with_loce_checks([])
    ... def test_estimators(estimator, check):
    ...     check(estimator)
    """
    import pytest  # a test tool, which users of the library need not have

    cases = []
    for estimator in estimators:
        reasons = expected_failed_checks(estimator) if expected_failed_checks else {}
        for check in loce_checks(samples):
            reason = reasons.get(check.__name__)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            case_id = f"{type(estimator).__name__}-{check.__name__}"
            cases.append(pytest.param(estimator, check, marks=marks, id=case_id))
    return pytest.mark.parametrize(("estimator", "check"), cases)
