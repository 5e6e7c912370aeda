"""The objectives with a bias and a ridge, whose LoCE is an optimum and not where steps end.

With z = up(sum_c v_c A_c) + b, P = sigmoid(z), the mask t, and ||A_i|| the norm of the activations
in cell i of the n cells, all three minimise

    loss(z, t) + alpha / 2 * s * ||v||^2,        s = 1 / n sum_i ||A_i||^2,

over v and the intercept b. The scale s is the image's own, so that a row depends on that row alone;
with it, the projection is the same for activations of any scale, and one alpha asks for the same
smoothness of layers of any size: ``s ||v||^2 / n_channels`` is about the variance of the logits.

Where a LoCE redraws its own mask, it has another bias, under which z > 0 comes closest to that
mask: a logistic regression's own boundary is where errors on both sides weigh the same, which
spills over the edge of what is small.

Solvers see it in other coordinates: activations less their mean over cells, divided by sqrt(s), and
as a further channel, free of the ridge, ones, whose weight is the bias. The optimum is the same,
for the mean only moves the bias; but all directions then curve alike, by alpha to alpha + 1/4, and
a few steps of L-BFGS do.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .bilinear import resample_axis

LOGISTIC, JACCARD, DICE = 0, 1, 2
KINDS = {"logistic": LOGISTIC, "jaccard": JACCARD, "dice": DICE}
DEFAULT_MAX_ITER = 500

# What follows a vector, once it is solved: the norm relative as ``tol`` is.
FACTS = ("intercept", "n_iter", "gradient_norm")
N_FACTS = len(FACTS)
INTERCEPT, N_ITER, GRADIENT_NORM = range(-N_FACTS, 0)

# How the weight of all pixels of a class together grows with their number.
CLASS_WEIGHTS = {"balanced": 0.0, "sqrt": 0.5, None: 1.0}

# Pairs of steps and gradient differences that L-BFGS remembers.
MEMORY = 8
# A step is long enough if it leaves at most this share of the slope, or turns it round to at most
# that one: the approximate Wolfe conditions of Hager and Zhang (SIAM J. Optim. 16, 2005), which ask
# for slopes where differences of losses drown in rounding.
SHORT, LONG = 0.9, 0.8
# Where the loss is not convex, it may not rise by more than rounding, either.
RISE = 1e-6
MAX_TRIALS = 20
# What a logistic gradient counts by at least. Its weights sum to 1 and its channels have norm 1, so
# that it is about 0.2 at zero; where mask and activations have nothing in common, and both classes
# weigh the same, there is nothing at zero but rounding, a share of which is never reached.
LEAST_UNIT = 0.01


@dataclass(frozen=True)
class RidgeSettings:
    """What the solver needs to know.

    Parameters
    ----------
    objective : {"logistic", "jaccard", "dice"}
    alpha : float
        Strength of the ridge.
    tol : float
        Of the gradient's norm, relative to that at v = 0, b = 0, or ``LEAST_UNIT``.
    max_iter : int
    class_weight : {"sqrt", "balanced"} or None
        Of the logistic loss.
    """

    objective: str
    alpha: float
    tol: float
    max_iter: int
    class_weight: str | None

    n_facts = N_FACTS
    advice = "bring the activations to a smaller scale"

    @property
    def kind(self):
        """The objective's number."""
        return KINDS[self.objective]


class Shares(NamedTuple):
    """Factors of the concept's and of the background's part in the logistic loss, (n_rows,)."""

    concept: np.ndarray
    background: np.ndarray


def balance(targets, class_weight):
    """Weigh the pixels of concept and background, so that all weights sum to 1.

    A class of the share q gets in total ``q^p / (q^p + (1 - q)^p)``, with p = 0 for "balanced", 1/2
    for "sqrt" and 1 for ``None``; a pixel of a soft mask belongs to both classes in part. Where a
    mask leaves nothing to one of them, the loss has no minimum: both factors are then 0, and the
    LoCE is zero.

    Parameters
    ----------
    targets : array-like of shape (n_rows, H, W)
    class_weight : {"sqrt", "balanced"} or None

    Returns
    -------
    Shares
    """
    inside = np.asarray(targets, dtype=np.float64).mean((1, 2))
    shares = np.stack([inside, 1 - inside])
    has_both = (shares > 0).all(0)
    totals = shares ** CLASS_WEIGHTS[class_weight]
    areas = np.where(has_both, shares, 1) * np.size(targets[0])
    return Shares(*np.where(has_both, totals / totals.sum(0) / areas, 0))


def redrawing_bias(logits, target):
    """Give the bias with which a map's positive part comes closest to a mask.

    Of all thresholds, it is that of the largest Jaccard index of the pixels above it with the mask,
    a soft mask's counted in part; halfway to the next pixel.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_columns)
    target : ndarray of shape (n_rows, n_columns)

    Returns
    -------
    float
        For an empty mask, one with which nothing is positive.
    """
    order = np.argsort(logits, axis=None)[::-1]
    falling, shared = logits.ravel()[order], np.cumsum(target.ravel()[order], dtype=np.float64)
    if not shared[-1] > 0:
        return -float(falling[0]) - 1
    union = shared[-1] + np.arange(1, len(order) + 1) - shared
    below = np.append(falling[1:], falling[-1] - 1)
    best = np.argmax(np.where(below < falling, shared / union, -1))
    return -(float(falling[best]) + float(below[best])) / 2


def redrawing_biases(maps, targets):
    """Give this bias for each of some maps at the layer's resolution.

    Parameters
    ----------
    maps : ndarray of shape (n_rows, height, width)
    targets : ndarray of shape (n_rows, H, W)

    Returns
    -------
    list of float
    """
    for axis in (1, 2):
        maps = resample_axis(maps, axis, targets.shape[axis])
    return [redrawing_bias(*pair) for pair in zip(maps, targets, strict=True)]
