"""Check scikit-learn's conventions for estimators whose X is a table of samples.

The checks of scikit-learn pass numeric arrays, and skip nearly all tests of an estimator that needs
images and masks. The checks in this module test the same conventions: those of all estimators, and
those of transformers (``transform`` returns LoCEs) or of segmenters (``predict`` returns masks).
"""

from functools import partial

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.utils._param_validation import StrOptions, validate_params

from .._samples.table import as_samples
from ._checks import COMMON_CHECKS, TRANSFORMER_CHECKS, inner_prefix
from ._segmenter_checks import SEGMENTER_CHECKS

__all__ = ["loce_checks", "parametrize_with_loce_checks"]

_CHECKS = {
    "transformer": COMMON_CHECKS + TRANSFORMER_CHECKS,
    "segmenter": COMMON_CHECKS + SEGMENTER_CHECKS,
}


def _default_samples():
    """Draw five rows with rectangles on three images of noise, which differ in size."""
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


@validate_params(
    {"samples": [None, "array-like"], "kind": [StrOptions(set(_CHECKS))]},
    prefer_skip_nested_validation=True,
)
def loce_checks(samples=None, *, kind="transformer"):
    """List the checks as functions of an estimator.

    Parameters
    ----------
    samples : DataFrame, default=None
        Table for the checks. Segmenters read its column ``concept``. ``None`` draws five rows on
        three images of two sizes.
    kind : {"transformer", "segmenter"}, default="transformer"
        Kind of the estimator: ``transform`` returns LoCEs, or ``predict`` returns masks.

    Returns
    -------
    list of callable
        Functions that accept an unfitted estimator and raise an ``AssertionError`` if the check
        fails.

    See Also
    --------
    parametrize_with_loce_checks : Run the checks with pytest.
    sklearn.utils.estimator_checks.check_estimator : Checks for estimators on arrays.

    Examples
    --------
    >>> from sklearn_loce.utils.estimator_checks import loce_checks
    >>> [check.__name__ for check in loce_checks()][:2]
    ['check_clone_shares_weights', 'check_params_roundtrip']
    """
    samples = _default_samples() if samples is None else as_samples(samples)
    return [_with_samples(check, samples) for check in _CHECKS[kind]]


def _with_samples(check, samples):
    bound = partial(_run_check, check, samples=samples)
    bound.__name__ = check.__name__
    bound.__doc__ = check.__doc__
    return bound


def _run_check(check, estimator, samples):
    """Run a check without a store, because a second result would be a copy of the first."""
    name = f"{inner_prefix(estimator)}memory"
    if name in estimator.get_params():
        estimator = clone(estimator).set_params(**{name: False})
    check(estimator, samples)


def parametrize_with_loce_checks(estimators, *, samples=None, expected_failed_checks=None):
    """Return a pytest decorator that runs each check on each estimator.

    Parameters
    ----------
    estimators : list of estimators
        Unfitted estimators whose X is the table of samples. They need a parameter ``model`` with a
        TorchModel, or a parameter with a transformer that has one. Estimators without ``transform``
        are checked as segmenters.
    samples : DataFrame, default=None
        Table for the checks, see :func:`loce_checks`.
    expected_failed_checks : callable, default=None
        Function of an estimator that returns a dict of check names and reasons. These checks are
        marked as strict expected failures.

    Returns
    -------
    pytest.MarkDecorator
        A decorator that parametrizes ``estimator`` and ``check``.

    See Also
    --------
    loce_checks : The checks as a list.
    sklearn.utils.estimator_checks.parametrize_with_checks : The same for estimators on arrays.

    Examples
    --------
    >>> from sklearn_loce.utils.estimator_checks import parametrize_with_loce_checks
    >>> @parametrize_with_loce_checks([])
    ... def test_estimators(estimator, check):
    ...     check(estimator)
    """
    import pytest  # a test tool that is not a dependency

    cases = []
    for estimator in estimators:
        reasons = expected_failed_checks(estimator) if expected_failed_checks else {}
        kind = "transformer" if hasattr(estimator, "transform") else "segmenter"
        for check in loce_checks(samples, kind=kind):
            reason = reasons.get(check.__name__)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            case_id = f"{type(estimator).__name__}-{check.__name__}"
            cases.append(pytest.param(estimator, check, marks=marks, id=case_id))
    return pytest.mark.parametrize(("estimator", "check"), cases)
