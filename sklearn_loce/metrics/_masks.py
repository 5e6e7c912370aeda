"""Agreement of masks."""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval, Options, validate_params


@validate_params(
    {
        "masks_true": ["array-like"],
        "masks_pred": ["array-like"],
        "zero_division": [Interval(Real, 0, 1, closed="both"), Options(Real, {np.nan})],
    },
    prefer_skip_nested_validation=True,
)
def mask_iou(masks_true, masks_pred, *, zero_division=0.0):
    """Compute the intersection over union of each pair of binary masks.

    Parameters
    ----------
    masks_true, masks_pred : array-like of shape (n_masks, height, width) or (height, width)
        Masks of equal shape, boolean or with the values 0 and 1.
    zero_division : float, default=0.0
        Value in [0, 1] or NaN for two empty masks.

    Returns
    -------
    ndarray of shape (n_masks,), dtype float64, or float
        One IoU per pair, or a float for a single pair. A LoCE with IoU 0 is called "failed".

    Raises
    ------
    ValueError
        If the shapes differ, or a mask is not binary.

    See Also
    --------
    sklearn.metrics.jaccard_score : The same measure on flat label vectors.

    Notes
    -----
    The Jaccard index (Jaccard, 1901) of the masks' pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.metrics import mask_iou
    >>> mask_iou(np.array([[1, 1], [0, 0]]), np.array([[1, 0], [1, 0]]))
    0.3333333333333333
    """
    truth, prediction = _binary(masks_true, "masks_true"), _binary(masks_pred, "masks_pred")
    if truth.shape != prediction.shape or truth.ndim not in (2, 3):
        raise ValueError(
            "Masks must share one shape, (n_masks, height, width) or (height, width): masks_true "
            f"has {truth.shape}, masks_pred has {prediction.shape}."
        )
    intersection = np.count_nonzero(truth & prediction, axis=(-2, -1))
    union = np.count_nonzero(truth | prediction, axis=(-2, -1))
    iou = np.full(np.shape(union), zero_division, dtype=np.float64)
    np.divide(intersection, union, out=iou, where=np.asarray(union) > 0)
    return iou if truth.ndim == 3 else float(iou)


def _binary(masks, name):
    """Read masks as booleans, and raise an error for soft masks."""
    masks = np.asarray(masks)
    if masks.dtype == bool:
        return masks
    ones = masks == 1
    if not np.all(ones | (masks == 0)):
        raise ValueError(f"{name} is not binary; compare it with a threshold first, as in > 0.5.")
    return ones
