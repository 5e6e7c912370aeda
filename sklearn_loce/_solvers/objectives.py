"""What a LoCE minimises, and the constants of the solver that minimises it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .ridge import DEFAULT_MAX_ITER, KINDS, RidgeSettings


@dataclass(frozen=True)
class Objective:
    """What a LoCE minimises: a sum over mask pixels, plus a penalty on the vector.

    Parameters
    ----------
    slope : {"constant", "difference", "sign"}
        dL/dP of one pixel is what is held of it, or its difference to that, or the sign of it.
    slope_scale : float
        Factor of the last two, to be divided by the number of pixels.
    hold : callable
        Targets (n, H, W) to what the slope needs of every pixel.
    pixel_loss : callable
        (projections, targets, held), each (n, H, W), to the loss of each pixel.
    penalty : float
        Factor of ``(||v||_1 + ||v||_2) / n_channels``.
    """

    slope: str
    slope_scale: float
    hold: Callable
    pixel_loss: Callable
    penalty: float


def _balanced_weight(target):
    """Give dL/dP of Net2Vec's pseudo-BCE, which does not depend on P.

    With a the background's share it is (1 - a) (1 - t) - a t, and that is (1 - a) - t.
    """
    return (target > 0).mean((1, 2), dtype=np.float64, keepdims=True) - target


def _pseudo_bce(projection, target, held):
    background = 1 - (target > 0).double().mean((1, 2), keepdim=True)
    return held * projection - (1 - background) * (1 - target)


def _squared_error(projection, target, held):
    return (projection - held) ** 2 / target[0].numel()


def _absolute_error(projection, target, held):
    return (projection - held).abs() / target[0].numel()


def _unchanged(target):
    return target


OBJECTIVES = {
    "net2vec": Objective("constant", 1.0, _balanced_weight, _pseudo_bce, penalty=0.0),
    "mse": Objective("difference", 2.0, _unchanged, _squared_error, penalty=1.0),
    "mae": Objective("sign", 1.0, _unchanged, _absolute_error, penalty=1.0),
}


@dataclass(frozen=True)
class Settings:
    """What the solver needs to know: the objective and AdamW's constants."""

    objective: Objective
    learning_rate: float
    max_iter: int
    betas: tuple = (0.9, 0.999)
    weight_decay: float = 0.01
    eps: float = 1e-8

    n_facts = 0

    @property
    def advice(self):
        """What helps where a vector does not stay finite."""
        return (
            f"learning_rate={self.learning_rate} may be too high: lower it, or bring the "
            "activations to a smaller scale"
        )


SOLVERS = ("auto", "adamw", "lbfgs")
ALL_OBJECTIVES = (*OBJECTIVES, *KINDS)


def make_settings(objective, solver, *, learning_rate, max_iter, alpha, tol, class_weight):
    """Give Settings or RidgeSettings, whichever the objective is solved with.

    Raises
    ------
    ValueError
        If the solver is not the objective's.
    """
    fitting = "lbfgs" if objective in KINDS else "adamw"
    if solver not in ("auto", fitting):
        raise ValueError(
            f"objective={objective!r} is solved by {fitting!r}, not by solver={solver!r}. Leave "
            "solver='auto', or choose an objective of "
            f"{sorted(OBJECTIVES if solver == 'adamw' else KINDS)}."
        )
    if objective in OBJECTIVES:
        return Settings(OBJECTIVES[objective], learning_rate, 50 if max_iter is None else max_iter)
    weights = class_weight if objective == "logistic" else None
    return RidgeSettings(objective, alpha, tol, max_iter or DEFAULT_MAX_ITER, weights)


def losses(projections, targets, embeddings, objective):
    """Give the loss of each row, as a float64 tensor of shape (n_rows,)."""
    targets, projections = torch.from_numpy(targets).double(), projections.double()
    held = torch.from_numpy(objective.hold(targets.numpy()))
    loss = objective.pixel_loss(projections, targets, held).sum((1, 2))
    embeddings = embeddings.double()
    norms = embeddings.abs().sum(1) + embeddings.norm(dim=1)
    return loss + objective.penalty * norms / embeddings.shape[1]
