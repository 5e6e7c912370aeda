"""L-BFGS in torch for the objectives with a ridge, for any device and dtype.

The solver transforms the activations so that few steps are enough. It subtracts their mean over
cells, divides by the root of s, and adds a channel of ones, whose weight is the bias. This weight
has no ridge. The optimum stays the same, because the mean only shifts the bias. But the curvature
is then similar in all directions: alpha to alpha + 1/4 with the logistic loss.
"""

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from torch.nn.functional import softplus

from .._network.grids import root_mean_squares
from .project import Grid, resampling_matrices

OVERLAPS = ("jaccard", "dice")  # losses that are not convex

# The total weight of a class grows with this power of its number of pixels.
CLASS_WEIGHTS = {"balanced": 0.0, "sqrt": 0.5, None: 1.0}

# Number of pairs of steps and gradient differences that L-BFGS keeps.
MEMORY = 8
# The approximate Wolfe conditions of Hager and Zhang (SIAM J. Optim. 16, 2005). A step must reduce
# the slope to at most the share SHORT, or reverse it to at most the share LONG. The conditions use
# slopes, because rounding hides small differences of losses.
SHORT, LONG = 0.9, 0.8
# A loss that is not convex must not rise by more than rounding, either.
RISE = 1e-6
MAX_TRIALS = 20
# Smallest unit of a logistic gradient. Its weights sum to 1 and its channels have norm 1, so at
# zero it is about 0.2. If the mask has nothing in common with the activations, and both classes
# have the same weight, the gradient at zero is only rounding. No share of that can be reached.
LEAST_UNIT = 0.01

_CHUNK = 64  # rows that are solved together on a GPU
_BEYOND, _FAR = 10.0, 40.0  # logits


def balance(targets, class_weight, weights=None):
    """Weigh the pixels of concept and background, so that all weights sum to 1.

    A class with the share q has the total weight ``q^p / (q^p + (1 - q)^p)``, with p = 0 for
    "balanced", 1/2 for "sqrt" and 1 for ``None``. A pixel of a soft mask belongs to both classes in
    part. If a mask leaves one class empty, the loss has no minimum; both factors are then 0, and
    the LoCE is zero. If there are ``weights`` (n_rows, H, W), the shares are weighted. The result
    (2, n_rows) contains the factors of concept and background in the logistic loss.
    """
    targets = np.asarray(targets, dtype=np.float64)
    total, inside = targets[0].size, targets.mean((1, 2))
    if weights is not None:
        total = weights.sum((1, 2), dtype=np.float64)
        inside = (weights * targets).sum((1, 2)) / total
    shares = np.stack([inside, 1 - inside])
    has_both = (shares > 0).all(0)
    totals = shares ** CLASS_WEIGHTS[class_weight]
    areas = np.where(has_both, shares, 1) * total
    return np.where(has_both, totals / totals.sum(0) / areas, 0)


def _dot(a, b):
    return (a * b).sum(1)


def _column(values):
    return values[:, None]


class PixelLoss:
    """The loss without the ridge, as a function of the logits of every mask pixel."""

    def __init__(self, objective, targets, weights, dtype, device):
        self.name, self.is_convex = objective.name, objective.is_convex
        like = {"dtype": dtype, "device": device}
        plain = torch.as_tensor(targets, **like).flatten(1)
        self.weights = torch.ones_like(plain)
        if weights is not None:
            self.weights = torch.as_tensor(weights, **like).flatten(1)
        self.targets = self.weights * plain
        if self.is_convex:
            factors = balance(targets, objective.class_weight, weights)
            concept, background = torch.as_tensor(factors, **like)
            self.positive = _column(concept) * self.targets
            self.negative = _column(background) * (self.weights - self.targets)

    def losses(self, logits):
        """Return the losses (n_rows,) without the ridge, for logits (n_rows, n_pixels)."""
        if self.is_convex:
            positive = _dot(self.positive, softplus(-logits))
            return positive + _dot(self.negative, softplus(logits))
        shared, whole = self._overlap(logits.sigmoid())
        return 1 - (2 if self.name == "dice" else 1) * shared / whole

    def slopes(self, logits):
        """Return the losses' slopes dL/dz, (n_rows, n_pixels)."""
        projections = logits.sigmoid()
        if self.is_convex:
            return (self.positive + self.negative) * projections - self.positive
        shared, whole = self._overlap(projections)
        # Derivatives by P of 1 - shared / whole with whole = sum(t) + sum(P) - shared (Jaccard),
        # and of 1 - 2 shared / whole with whole = sum(t) + sum(P) (Dice).
        inner = shared + whole if self.name == "jaccard" else 2 * whole
        outer = shared if self.name == "jaccard" else 2 * shared
        slopes = self.weights * _column(outer) - self.targets * _column(inner)
        slopes = slopes / _column(whole**2)
        return slopes * projections * (1 - projections)

    def _overlap(self, projections):
        """Return the soft intersection, and the soft union or the sum of both areas."""
        shared = _dot(self.targets, projections)
        whole = self.targets.sum(1) + _dot(self.weights, projections)
        return shared, whole - shared if self.name == "jaccard" else whole


class _Scaled:
    """Activations (n_rows, n_channels, height, width) in the coordinates of the solver."""

    def __init__(self, activations, mask_size):
        self.root = _column(root_mean_squares(activations))
        self.mean = activations.mean((2, 3)) / self.root
        scaled = activations / self.root[..., None, None] - self.mean[..., None, None]
        channels = torch.cat([scaled, torch.ones_like(scaled[:, :1])], dim=1)
        self.grid = Grid(channels, *resampling_matrices(activations, mask_size))
        self.mask_size = mask_size

    def logits(self, weights):
        """Return the maps at mask size, (n_rows, n_pixels)."""
        return self.grid.compute_logits(weights.unsqueeze(1)).flatten(1)

    def gradient(self, slopes):
        """Apply the adjoint: slopes (n_rows, n_pixels) to gradients (n_rows, n_channels + 1)."""
        return self.grid.pull_back(slopes.view(-1, 1, *self.mask_size)).squeeze(1)

    def scale(self, vectors, bias):
        """Transform vectors and biases to the coordinates of the solver."""
        vectors = vectors * self.root
        return torch.cat([vectors, _column(bias + _dot(self.mean, vectors))], dim=1)

    def unscale(self, weights):
        """Transform back to vectors and biases (n_rows,)."""
        vectors = weights[:, :-1]
        return vectors / self.root, weights[:, -1] - _dot(self.mean, vectors)


class _Memory:
    """The pairs of L-BFGS. Pairs of rows that did not move have no effect."""

    def __init__(self):
        self.pairs = []

    def add(self, step, change):
        product = _dot(step, change)
        # Without positive curvature along the step, the estimate would not stay positive definite.
        moved = product > 0
        inverse = torch.where(moved, 1 / torch.where(moved, product, 1), 0)
        self.pairs = [*self.pairs[1 - MEMORY :], (step, change, inverse)]
        size = _dot(change, change)
        # The curvature along the latest step is the scale of the inverse Hessian's first estimate.
        scale = torch.where(moved, product / torch.where(moved, size, 1), 0)
        previous = getattr(self, "scale", scale)
        self.scale = torch.where(moved, scale, previous)

    def direction(self, gradient):
        """Return the descent direction by the inverse Hessian's estimate (Nocedal's two loops)."""
        if not self.pairs:
            return -gradient
        rest, shares = gradient.clone(), []
        for step, change, inverse in reversed(self.pairs):
            shares.append(inverse * _dot(step, rest))
            rest -= _column(shares[-1]) * change
        rest *= _column(torch.where(self.scale > 0, self.scale, 1))
        for (step, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            rest += _column(share - inverse * _dot(change, rest)) * step
        return -rest


class _Line:
    """The loss of each row along its search direction."""

    def __init__(self, pixels, ridge, point, direction, logits, towards):
        # The map is linear in the weights, so a trial passes over pixels only, not over channels.
        self.pixels, self.logits, self.towards = pixels, logits, towards
        self.linear = _dot(ridge * point, direction)
        self.square = _dot(ridge * direction, direction)

    def evaluate(self, t):
        """Return the slopes along the line, and the changes of the loss."""
        logits = self.logits + _column(t) * self.towards
        slope = _dot(self.pixels.slopes(logits), self.towards) + self.linear + t * self.square
        if self.pixels.is_convex:  # the search needs only slopes
            return slope, torch.zeros_like(slope)
        return slope, self.pixels.losses(logits) + t * (self.linear + t * self.square / 2)


def search_line(evaluate, slope, before):
    """Return for each row a step that is neither too short nor too long.

    ``evaluate(t)`` gives slopes along the line, and losses, of which ``before`` are those at 0.
    """
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    low_slope, t = slope, torch.ones_like(slope)
    is_open = slope < 0
    for _ in range(MAX_TRIALS):
        now, value = evaluate(t)
        too_long = is_open & ((now > -LONG * slope) | (value > before + RISE))
        too_short = is_open & ~too_long & (now < SHORT * slope)
        is_open = too_long | too_short
        if not is_open.any():
            break
        high = torch.where(too_long, t, high)
        # If the slope changed its sign, its zero is in between, about at the secant's zero.
        secant = low_slope / (low_slope - now)
        share = torch.where(now > 0, secant.clamp(0.1, 0.9), 0.5)
        inside = low + share * (high - low)
        low = torch.where(too_short, t, low)
        low_slope = torch.where(too_short, now, low_slope)
        beyond = torch.where(high.isinf(), 4 * t, (low + high) / 2)
        t = torch.where(too_long, inside, torch.where(too_short, beyond, t))
    return torch.where(slope < 0, t, 0)


class _Stack:
    """Rows of one size, whose maps are kept from step to step."""

    def __init__(self, scaled, pixels, ridge):
        self.scaled, self.pixels, self.ridge = scaled, pixels, ridge

    def begin(self, weights):
        """Go to these weights, (n_rows, n_channels + 1); return the gradients."""
        self.logits = self.scaled.logits(weights)
        return self._differentiate(weights)

    def step(self, weights, direction, gradient):
        """Go along a direction; return the step of each row, and the gradients there."""
        towards = self.scaled.logits(direction)
        line = _Line(self.pixels, self.ridge, weights, direction, self.logits, towards)
        slope = _dot(direction, gradient)
        t = search_line(line.evaluate, slope, line.evaluate(torch.zeros_like(slope))[1])
        self.logits = self.logits + _column(t) * towards
        return t, self._differentiate(weights + _column(t) * direction)

    def _differentiate(self, weights):
        return self.scaled.gradient(self.pixels.slopes(self.logits)) + self.ridge * weights


def make_ridge(weights, objective):
    """Return the factor of each weight, (n_rows, n_channels + 1): the bias is free."""
    ridge = torch.full_like(weights, objective.alpha)
    ridge[:, -1] = 0
    return ridge


def minimize(problem, weights, objective):
    """Return the weights of each row, its number of iterations, and its relative gradient norm.

    ``problem`` has the methods ``begin`` and ``step`` of ``_Stack``.
    """
    memory, n_iter = _Memory(), torch.zeros_like(weights[:, 0])
    # The unit of a gradient is the gradient at zero, whatever the start.
    unit = problem.begin(torch.zeros_like(weights)).norm(dim=1)
    if objective.is_convex:
        unit = unit.clamp(min=LEAST_UNIT)
    unit = torch.where(unit > 0, unit, 1)
    gradient = problem.begin(weights)
    for _ in range(objective.max_iter):
        norm = gradient.norm(dim=1)
        # Without convexity, the gradient at zero is as small as the mask, and may grow later.
        unit = unit if objective.is_convex else torch.maximum(unit, norm)
        active = norm > objective.tol * unit
        if not active.any():
            break
        n_iter += active
        direction = memory.direction(gradient) * _column(active)
        t, after = problem.step(weights, direction, gradient)
        weights = weights + _column(t) * direction
        memory.add(_column(t) * direction, after - gradient)
        gradient = after
    return weights, n_iter, gradient.norm(dim=1) / unit


def _solve_chunk(activations, targets, weights, start, objective):
    like = {"dtype": activations.dtype, "device": activations.device}
    scaled = _Scaled(activations, targets.shape[1:])
    pixels = PixelLoss(objective, targets, weights, **like)
    start = torch.as_tensor(start, **like).expand(len(activations), -1)
    point = scaled.scale(start, torch.zeros(len(start), **like))
    problem = _Stack(scaled, pixels, make_ridge(point, objective))
    point, n_iter, norm = minimize(problem, point, objective)
    vectors, intercept = scaled.unscale(point)
    return vectors, torch.stack([intercept, n_iter, norm])


@torch.no_grad()
def solve_ridge_with_torch(activations, targets, weights, start, objective):
    """Optimize the rows; rows of one size are solved together.

    The parameters are those of ``solve``. The results are arrays: vectors (n_rows, n_channels),
    and intercept, n_iter and gradient_norm (n_rows,).
    """
    dtype = activations[0].dtype
    vectors = torch.empty(len(activations), len(start), dtype=dtype)
    facts = torch.empty(3, len(activations), dtype=dtype)
    shapes = np.array([tuple(grid.shape) for grid in activations])
    # The CPU solves one row at a time: see ``_chunks`` in adamw.py.
    most = _CHUNK if activations[0].device.type == "cuda" else 1
    for shape in np.unique(shapes, axis=0):
        rows = np.flatnonzero((shapes == shape).all(1))
        for chunk in np.split(rows, range(most, len(rows), most)):
            stack = torch.stack([activations[i] for i in chunk])
            own = None if weights is None else weights[chunk]
            solved = _solve_chunk(stack, targets[chunk], own, start, objective)
            vectors[chunk], facts[:, chunk] = (part.cpu() for part in solved)
    return vectors.numpy(), *facts.numpy()


def best_intercept(pixels, logits):
    """Find the intercept that minimizes the loss of one row.

    ``logits`` (1, n_pixels) are without intercept. An empty mask gets 0, because its loss does not
    depend on the intercept or has no minimum.
    """
    if not pixels.targets.any():
        return 0.0
    if pixels.is_convex:
        ends = -logits.max().item() - _FAR, _FAR - logits.min().item()
        return brentq(lambda b: pixels.slopes(logits + b).sum().item(), *ends, xtol=1e-6)
    return _best_of_minima(pixels, logits)


def _best_of_minima(pixels, logits):
    """Try thresholds between the logits, and a little beyond them; refine the best one."""

    def loss(intercept):
        return pixels.losses(logits + intercept).item()

    quantiles = np.quantile(logits.numpy(), np.linspace(0, 1, 33))
    ends = [quantiles[0] - _BEYOND, quantiles[-1] + _BEYOND]
    tried = -np.unique([*quantiles, *ends])[::-1]
    best = int(np.argmin([loss(intercept) for intercept in tried]))
    bounds = tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)]
    return minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x
