"""Objectives: the losses that LoCEs minimize, with the resizing of masks and the solvers."""

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from .._warnings import warn_user
from .adamw import covered_share, solve_with_torch
from .compiled import adamw as compiled_adamw
from .compiled import lbfgs as compiled_lbfgs
from .lbfgs import OVERLAPS, PixelLoss, best_intercept, solve_ridge_with_torch
from .project import compute_logits
from .resize import check_mask_size, resize_masks
from .solution import Solution

ADAMW_OBJECTIVES = ("net2vec", "mse", "mae")  # solved by AdamW with a fixed number of steps
LBFGS_OBJECTIVES = ("logistic", *OVERLAPS)  # solved by L-BFGS until it converges
OBJECTIVES = (*ADAMW_OBJECTIVES, *LBFGS_OBJECTIVES)
READ_BY = {  # parameters that only some objectives use: the default, and these objectives
    "learning_rate": (0.1, ADAMW_OBJECTIVES),
    "alpha": (1e-4, LBFGS_OBJECTIVES),
    "tol": (1e-4, LBFGS_OBJECTIVES),
    "class_weight": ("sqrt", ("logistic",)),
    "append_bias": (False, LBFGS_OBJECTIVES),
}


def check_read(objective, **parameters):
    """Raise an error if a parameter that the objective does not use differs from its default."""
    for name, value in parameters.items():
        default, readers = READ_BY[name]
        if objective not in readers and value != default:
            *most, last = map(repr, sorted(readers))
            others = f"{', '.join(most)} or {last}" if most else last
            raise ValueError(
                f"{name}={value!r} is not used by objective={objective!r}; leave it out, or choose "
                f"{others}."
            )


def make_objective(
    name,
    *,
    learning_rate=0.1,
    max_iter=None,
    alpha=1e-4,
    tol=1e-4,
    class_weight="sqrt",
    mask_size=(100, 100),
    mask_resize="gaussian",
):
    """Return the objective of this name; the parameters are those of ``optimize_loces``."""
    check_read(name, learning_rate=learning_rate, alpha=alpha, tol=tol, class_weight=class_weight)
    check_mask_size(mask_size)
    size = tuple(int(n) for n in mask_size)
    if name in ADAMW_OBJECTIVES:
        max_iter = 50 if max_iter is None else int(max_iter)
        return AdamWObjective(name, max_iter, size, mask_resize, float(learning_rate))
    weights = class_weight if name == "logistic" else None
    max_iter = 500 if max_iter is None else int(max_iter)
    return LBFGSObjective(name, max_iter, size, mask_resize, float(alpha), float(tol), weights)


def warn_unconverged(gradient_norm, objective):
    """Warn the user of rows whose gradient norm (n_rows, n_layers) is above the tolerance."""
    n_rows = np.count_nonzero((gradient_norm > objective.tol).any(1))
    if n_rows:
        warn_user(
            f"{n_rows} of {len(gradient_norm)} rows did not converge to tol={objective.tol} in "
            f"max_iter={objective.max_iter} iterations. Raise max_iter, alpha or tol.",
            ConvergenceWarning,
        )


def group_by_grid(activations):
    """Group the rows that share activations; list of arrays of int."""
    groups = {}
    for i, grid in enumerate(activations):
        groups.setdefault((grid.data_ptr(), grid.shape, grid.stride()), []).append(i)
    return [np.array(rows) for rows in groups.values()]


def _as_compiled_input(activations):
    """Return arrays for the compiled solvers, or ``None`` if these solvers do not apply."""
    if activations[0].device.type == "cpu" and activations[0].dtype == torch.float32:
        return [grid.detach().numpy() for grid in activations]
    return None


@dataclass(frozen=True)
class _Objective:
    """The part of an objective that does not depend on the solver."""

    name: str
    max_iter: int
    mask_size: tuple
    mask_resize: str

    def targets(self, masks):
        """Resize masks; (n_rows, H, W), float32."""
        return resize_masks(masks, self.mask_size, self.mask_resize)

    def projection_target(self, target):
        """Return a target at the size at which projections are compared with it."""
        return target

    def control_target(self, target, grid_size):
        """Return the target of a vector that is fitted to weighted pixels."""
        return target

    def key(self):
        """Return the settings that the vectors depend on; plain values."""
        facts = asdict(self)
        facts["objective"] = facts.pop("name")
        return facts | {"mask_size": list(self.mask_size)}


@dataclass(frozen=True)
class AdamWObjective(_Objective):
    """A published loss, minimized by a fixed number of AdamW steps.

    Let P = sigmoid(up(sum_c v_c A_c)) be the projection, t the mask, and a the share of pixels with
    t = 0. The losses are

    - "net2vec": ``-sum(a t P + (1 - a) (1 - t) (1 - P))``;
    - "mse", "mae": the mean of ``(P - t)^2`` or ``|P - t|``, plus (||v||_1 + ||v||_2) / n_channels.

    The parameters are those of ``optimize_loces``.
    """

    learning_rate: float

    has_bias: ClassVar[bool] = False
    default_bias: ClassVar[str] = "none"

    @property
    def advice(self):
        """Advice for the user if a vector does not stay finite."""
        return (
            f"learning_rate={self.learning_rate} may be too high: lower it, or bring the "
            "activations to a smaller scale"
        )

    @property
    def penalty(self):
        """Factor of (||v||_1 + ||v||_2) / n_channels."""
        return 0.0 if self.name == "net2vec" else 1.0

    def solve(self, activations, targets, start, *, weights=None, n_threads=1, recorder=None):
        """Optimize one vector per row and return a Solution.

        Parameters
        ----------
        activations : sequence of Tensor of shape (n_channels, height, width)
            One per row, all of one dtype and on one device. Rows of one image may share a tensor.
        targets : ndarray of shape (n_rows, H, W), float32
        start : ndarray of shape (n_channels,)
        weights : ndarray of shape (n_rows, H, W), float32, default=None
            Weights of the pixels. ``None`` means 1.
        n_threads : int or None, default=1
            Number of threads for float32 on the CPU. ``None`` uses as many as torch. The result
            does not depend on it.
        recorder : Recorder, default=None
            Recorder for a GPU, which the caller keeps between batches.
        """
        images, arrays = group_by_grid(activations), _as_compiled_input(activations)
        if arrays is not None:
            pixels = arrays, images, targets, weights
            return Solution(compiled_adamw.solve(*pixels, start, self, n_threads))
        pixels = activations, images, targets, weights
        return Solution(solve_with_torch(*pixels, start, self, recorder))

    def slope_terms(self, targets, weights=None):
        """Return the arrays (n_rows, H, W) from which ``pixel_slopes`` computes dL/dP.

        For "net2vec", the only array is dL/dP itself times the weights of the pixels; it equals
        (1 - a) (1 - t) - a t = (1 - a) - t. For the other losses, the arrays are the mask and, if
        there are weights, the weights divided by their sum.
        """
        if self.name != "net2vec":
            if weights is None:
                return [targets]
            return [targets, weights / weights.sum((1, 2), keepdims=True)]
        slopes = covered_share(targets, weights)[:, None, None] - targets
        return [slopes if weights is None else weights * slopes]

    def pixel_slopes(self, projections, terms, shares=None):
        """Return dL/dP for tensors (..., H, W), from the arrays of ``slope_terms``."""
        if self.name == "net2vec":
            return terms
        if shares is None:
            shares = 1 / (terms.shape[-2] * terms.shape[-1])
        difference = projections - terms
        return difference.sign() * shares if self.name == "mae" else difference * (2 * shares)

    def losses(self, projections, targets, vectors):
        """Return the loss of each row, (n_rows,), float64, for projections (n_rows, H, W)."""
        targets, projections = torch.from_numpy(targets).double(), projections.double()
        if self.name == "net2vec":
            background = (targets <= 0).double().mean((1, 2), keepdim=True)
            hit = background * targets * projections
            loss = -(hit + (1 - background) * (1 - targets) * (1 - projections)).sum((1, 2))
        else:
            difference = projections - targets
            errors = difference.abs() if self.name == "mae" else difference**2
            loss = errors.mean((1, 2))
        norms = vectors.double().abs().sum(1) + vectors.double().norm(dim=1)
        return loss + self.penalty * norms / vectors.shape[1]

    def loss(self, grid, vector, target, intercept=None):
        """Return the loss of a vector on one row, with a tensor (C, h, w) and a target (H, W)."""
        projection = compute_logits(grid, vector, target.shape).sigmoid()
        vectors = torch.from_numpy(np.asarray(vector, dtype=np.float64))[None]
        return self.losses(projection[None], target[None], vectors).item()


@dataclass(frozen=True)
class LBFGSObjective(_Objective):
    """A loss with a bias and a ridge, minimized by L-BFGS until it converges.

    Let z = up(sum_c v_c A_c) + b, P = sigmoid(z), t the mask, and ||A_i|| the norm of the
    activations in cell i of n cells. The LoCE minimizes

        loss(z, t) + alpha / 2 * s * ||v||^2,        s = 1 / n sum_i ||A_i||^2,

    over v and the intercept b. The scale s is computed per image, so a row depends on that row
    alone. Because of s, the scale of the activations does not change the projection, and one alpha
    means the same smoothness for layers of any size: ``s ||v||^2 / n_channels`` is about the
    variance of the logits.

    The parameters are those of ``optimize_loces``.
    """

    alpha: float
    tol: float
    class_weight: str | None

    has_bias: ClassVar[bool] = True
    default_bias: ClassVar[str] = "best"
    advice: ClassVar[str] = "bring the activations to a smaller scale"

    @property
    def is_convex(self):
        """Whether the loss has exactly one optimum."""
        return self.name not in OVERLAPS

    def solve(self, activations, targets, start, *, weights=None, n_threads=1, recorder=None):
        """Optimize one vector per row as ``AdamWObjective.solve``, without ``recorder``."""
        images, arrays = group_by_grid(activations), _as_compiled_input(activations)
        if arrays is not None:
            pixels = arrays, images, targets, weights
            facts = compiled_lbfgs.solve(*pixels, start, self, n_threads)
        else:
            facts = solve_ridge_with_torch(activations, targets, weights, start, self)
        solution = Solution(*facts)
        # If sums overflow, there is no gradient, and the vector is still the start.
        solution.vectors[np.isnan(solution.gradient_norm)] = np.nan
        return solution

    def loss(self, grid, vector, target, intercept=None):
        """Return the loss of a vector on one row; ``None`` uses the intercept that minimizes it."""
        pixels, logits = self._read(grid, vector, target)
        if intercept is None:
            intercept = best_intercept(pixels, logits)
        loss = pixels.losses(logits + float(intercept)).item()
        scale = grid.detach().double().square().sum().item() / grid[0].numel()
        return loss + self.alpha / 2 * scale * float((np.asarray(vector, np.float64) ** 2).sum())

    def fit_intercept(self, grid, vector, target):
        """Return the intercept that minimizes the loss of a vector on one row."""
        return best_intercept(*self._read(grid, vector, target))

    def _read(self, grid, vector, target):
        pixels = PixelLoss(self, target[None], None, torch.float64, "cpu")
        return pixels, compute_logits(grid, vector, target.shape).reshape(1, -1)
