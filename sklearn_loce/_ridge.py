"""The objectives with a bias and a ridge, whose LoCE is an optimum and not where steps end.

With z = up(sum_c v_c A_c) + b, P = sigmoid(z), the mask t, and ||A_i|| the norm of the activations
in cell i of the n cells, all three minimise

    loss(z, t) + alpha / 2 * s * ||v||^2,        s = 1 / n sum_i ||A_i||^2,

over v and b. The scale s is the image's own, so that a row depends on that row alone; with it, the
projection is the same for activations of any scale, and one alpha asks for the same smoothness of
layers of any size: ``s ||v||^2 / n_channels`` is about the variance of the logits.

Solvers see it in other coordinates: activations less their mean over cells, divided by sqrt(s), and
as a further channel, free of the ridge, ones, whose weight is the bias. The optimum is the same,
for the mean only moves the bias; but all directions then curve alike, by alpha to alpha + 1/4, and
a few steps of L-BFGS do.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LOGISTIC, JACCARD, DICE = 0, 1, 2
KINDS = {"logistic": LOGISTIC, "jaccard": JACCARD, "dice": DICE}
DEFAULT_MAX_ITER = 500

# What follows a vector, once it is solved: the norm relative as ``tol`` is.
FACTS = ("bias", "n_iter", "gradient_norm")
N_FACTS = len(FACTS)

# Pairs of steps and gradient differences that L-BFGS remembers.
MEMORY = 8
# A step is long enough if it leaves at most this share of the slope, or turns it round to at most
# that one: the approximate Wolfe conditions of Hager and Zhang (SIAM J. Optim. 16, 2005), which ask
# for slopes where differences of losses drown in rounding.
SHORT, LONG = 0.9, 0.8
# Where the loss is not convex, it may not rise by more than rounding, either.
RISE = 1e-6
MAX_TRIALS = 20


@dataclass(frozen=True)
class RidgeSettings:
    """What the solver needs to know.

    Parameters
    ----------
    objective : {"logistic", "jaccard", "dice"}
    alpha : float
        Strength of the ridge.
    tol : float
        Of the gradient's norm, relative to that at v = 0, b = 0.
    max_iter : int
    """

    objective: str
    alpha: float
    tol: float
    max_iter: int

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


def balance(targets):
    """Weigh concept and background by each other's share, so that all weights sum to 1.

    Where a mask leaves no weight to one side, the loss has no minimum: both factors are then 0,
    and the LoCE is zero.
    """
    targets = np.asarray(targets, dtype=np.float64)
    foreground = (targets > 0).mean((1, 2))
    inside, outside = targets.sum((1, 2)), (1 - targets).sum((1, 2))
    concept, background = (1 - foreground) * inside, foreground * outside
    has_both = (concept > 0) & (background > 0)
    total = np.where(has_both, concept + background, 1)
    return Shares(
        np.where(has_both, (1 - foreground) / total, 0), np.where(has_both, foreground / total, 0)
    )
