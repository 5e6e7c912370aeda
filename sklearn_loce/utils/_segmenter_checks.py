"""Checks of estimators that predict masks of concepts in unseen images."""

import numpy as np
import pandas as pd
from sklearn.base import clone

from .._samples.images import read_image
from .._samples.masks import read_mask
from ._checks import assert_raises, assert_same_rows, fit_clone, fit_result, require


def check_masks_not_needed(estimator, samples):
    """Prediction reads images and concepts, but neither masks nor other columns."""
    fitted = fit_clone(estimator, samples.assign(area=0.5))
    assert_same_rows(
        fitted.predict(samples[["concept", "image"]]), fit_result(estimator, samples), "masks"
    )


def check_predicted_masks(estimator, samples):
    """Predictions are masks in the size of the images, where ``predict_proba`` exceeds 0.5."""
    fitted = fit_clone(estimator, samples)
    masks, maps = fitted.predict(samples), fitted.predict_proba(samples)
    for image, mask, probabilities in zip(samples["image"], masks, maps, strict=True):
        require(mask.dtype == bool, f"A mask is {mask.dtype}, not bool.")
        require(mask.shape == read_image(image).shape[:2], f"A mask is of shape {mask.shape}.")
        require(probabilities.dtype == np.float32, f"A map is {probabilities.dtype}, not float32.")
        require(0 <= probabilities.min() <= probabilities.max() <= 1, "A probability leaves [0, 1]")
        np.testing.assert_array_equal(mask, probabilities > estimator.get_params()["threshold"])


def check_score_is_mean_iou(estimator, samples):
    """``score`` and ``evaluate`` return the IoU of the masks of ``predict``."""
    fitted = fit_clone(estimator, samples)
    drawn, true = fitted.predict(samples), [read_mask(mask) for mask in samples["mask"]]
    iou = [(d & t).sum() / (d | t).sum() for d, t in zip(drawn, true, strict=True)]
    frame = fitted.evaluate(samples)
    pd.testing.assert_index_equal(frame.index, samples.index)
    np.testing.assert_allclose(frame["iou"], iou)
    np.testing.assert_allclose(fitted.score(samples), np.mean(iou))


def check_concepts_by_y(estimator, samples):
    """Concepts may be passed as y, with or without a column."""
    y, bare = samples["concept"].to_numpy(), samples[["image", "mask"]]
    fitted = clone(estimator).fit(bare, y)
    assert_same_rows(fitted.predict(samples), fit_result(estimator, samples), "y")
    np.testing.assert_equal(fitted.score(bare, y), fitted.score(samples))
    pairs = list(zip(samples["image"], samples["mask"], strict=True))
    np.testing.assert_equal(clone(estimator).fit(pairs, y).score(pairs, y), fitted.score(samples))
    assert_raises(ValueError, clone(estimator).fit, bare)
    assert_raises(ValueError, clone(estimator).fit, samples, y[1:])


def check_unknown_concepts(estimator, samples):
    """A concept that was not in fit raises an error."""
    fitted = fit_clone(estimator, samples)
    unknown = samples.assign(concept="no such concept")
    for method in (fitted.predict, fitted.score):
        assert_raises(ValueError, method, unknown)


SEGMENTER_CHECKS = (
    check_masks_not_needed,
    check_predicted_masks,
    check_score_is_mean_iou,
    check_concepts_by_y,
    check_unknown_concepts,
)
