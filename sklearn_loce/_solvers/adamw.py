"""The exact AdamW solver as batched torch operations, for any device and dtype.

Tensors have two axes of rows: images, and the rows of one image, which share its activations.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from .._warnings import warn_user
from .project import Grid, resampling_matrices

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
# Bounds the maps at mask size that are held at once; beyond it, a larger batch is no faster.
_CHUNK = 256


def covered_share(targets, weights=None):
    """Give the share of pixels with t > 0 of each row, by weight if there are any."""
    if weights is None:
        return (targets > 0).mean((1, 2), dtype=np.float64)
    return (weights * (targets > 0)).sum((1, 2), dtype=np.float64) / weights.sum((1, 2))


def _penalty_slope(weights):
    norms = weights.norm(dim=-1, keepdim=True)
    # The norm's subgradient at the origin is 0, as in torch.
    return (weights.sign() + weights / torch.where(norms > 0, norms, 1)) / weights.shape[-1]


def _gradient(grid, weights, projections, terms, objective):
    slopes = objective.pixel_slopes(projections, *terms)
    gradient = grid.pull_back(slopes * (projections - projections**2))
    if objective.penalty:
        gradient += objective.penalty * _penalty_slope(weights)
    return gradient


def project_and_differentiate(activations, weights, terms, objective):
    """Give the projections (n, H, W), and each row's gradient of its own loss (n, C).

    Activations (n, C, h, w), weights (n, C) and the objective's ``slope_terms``, each (n, H, W),
    are tensors.
    """
    grid = Grid(activations, *resampling_matrices(activations, terms[0].shape[1:]))
    weights = weights.unsqueeze(1)
    projections = grid.draw(weights).sigmoid_()
    terms = [term.unsqueeze(1) for term in terms]
    gradient = _gradient(grid, weights, projections, terms, objective)
    return projections.squeeze(1), gradient.squeeze(1)


@dataclass(frozen=True)
class _Steps:
    """Every step for images of one size; it holds all tensors that are not inputs."""

    start: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    objective: object

    def __call__(self, activations, *terms):
        """Solve for activations (n_images, C, h, w) and terms (n_images, n_rows, H, W)."""
        grid, rate = Grid(activations, self.rows, self.columns), self.objective.learning_rate
        weights = self.start.expand(*terms[0].shape[:2], -1).clone()
        mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
        beta1, beta2 = BETAS
        for k in range(1, self.objective.max_iter + 1):
            projections = grid.draw(weights).sigmoid_()
            gradient = _gradient(grid, weights, projections, terms, self.objective)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = (square.sqrt() / (1 - beta2**k) ** 0.5).add_(EPS)
            weights.mul_(1 - rate * WEIGHT_DECAY)
            weights.addcdiv_(mean, scale, value=-rate / (1 - beta1**k))
        return weights


def _is_on_gpu(tensor):
    return tensor.device.type == "cuda"


class Recording:
    """Every operation of a function on tensors, launched by a GPU as one.

    The inputs' first axes may be shorter when the recording is played. The function is kept, for a
    GPU goes on to read the tensors that it holds.
    """

    _one_at_a_time = Lock()

    def __init__(self, function, inputs):
        self.function, self.inputs = function, [tensor.clone() for tensor in inputs]
        self.device = inputs[0].device
        with torch.cuda.device(self.device), self._one_at_a_time:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                function(*self.inputs)  # what is only set up once may not be recorded
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            # The network may run on the same device, from another thread.
            how = {"stream": aside, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self.graph, **how):
                self.output = function(*self.inputs)

    def play(self, inputs):
        """Run what was recorded on inputs that are no longer than those of the recording."""
        with torch.cuda.device(self.device):
            for mine, theirs in zip(self.inputs, inputs, strict=True):
                mine[: len(theirs)].copy_(theirs)
            self.graph.replay()
            return self.output[: len(inputs[0])].clone()


class Recorder:
    """Runs functions on tensors; on a GPU from the second time on as one launch.

    A step is a dozen small operations, and their launches take longer than they do. What can't be
    recorded runs as it is. Of recordings, each of which has memory of its own, the latest are kept.
    """

    MOST = 8

    def __init__(self):
        self._seen, self._refused = set(), set()
        self._recordings = OrderedDict()

    def clear(self):
        """Forget all recordings, which frees their memory."""
        self._recordings.clear()
        self._seen.clear()

    def run(self, key, function, inputs):
        """Run a function that ``key`` stands for, together with the inputs' shapes per image."""
        first = inputs[0]
        key = key, first.dtype, first.device, *(tensor.shape[1:] for tensor in inputs)
        if not _is_on_gpu(first) or key in self._refused:
            return function(*inputs)
        if key not in self._seen:
            self._seen.add(key)
            return function(*inputs)
        recording = self._recordings.get(key)
        if recording is None or len(recording.inputs[0]) < len(first):
            recording = self._record(key, function, inputs)
        return function(*inputs) if recording is None else recording.play(inputs)

    def _record(self, key, function, inputs):
        self._recordings.pop(key, None)
        while len(self._recordings) >= self.MOST:
            self._recordings.popitem(last=False)
        try:
            self._recordings[key] = Recording(function, inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refused.add(key)
            warn_user(
                f"The steps can't be recorded on {inputs[0].device}, and are launched one by one, "
                f"which is slower: {error}"
            )
        return self._recordings.get(key)


@torch.no_grad()
def solve_with_torch(activations, images, targets, weights, start, objective, recorder=None):
    """Optimize the rows, those of images of one size and one number of rows together.

    The arguments are those of ``AdamWObjective.solve``; ``images`` lists the rows that share
    activations. The result is an array (n_rows, n_channels).
    """
    like = {"dtype": activations[0].dtype, "device": activations[0].device}
    recorder, key = recorder or Recorder(), (objective, start.tobytes())
    start = torch.as_tensor(start, **like)
    vectors = torch.empty(len(activations), len(start), dtype=like["dtype"])
    for rows in _chunks(activations, images):
        stack = torch.stack([activations[some[0]] for some in rows])
        own = None if weights is None else weights[rows.ravel()].astype(np.float64)
        terms = objective.slope_terms(targets[rows.ravel()].astype(np.float64), own)
        terms = [torch.as_tensor(term, **like).unflatten(0, rows.shape) for term in terms]
        steps = _Steps(start, *resampling_matrices(stack, targets.shape[1:]), objective)
        vectors[rows.ravel()] = recorder.run(key, steps, (stack, *terms)).flatten(0, 1).cpu()
    return vectors.numpy()


def _chunks(activations, images):
    """Yield the rows of images that can be stacked, as arrays (n_images, n_rows)."""
    # On the CPU one row at a time: MKL picks its kernel by the alignment of each matrix of a batch,
    # and torch computes the last few numbers of a tensor by another sigmoid than the others.
    chunk = _CHUNK if _is_on_gpu(activations[0]) else 1
    alike = {}
    for rows in images:
        for part in np.split(rows, range(chunk, len(rows), chunk)):
            alike.setdefault((activations[rows[0]].shape, len(part)), []).append(part)
    for (_, n_rows), parts in alike.items():
        stack, most = np.stack(parts), chunk // n_rows
        yield from np.split(stack, range(most, len(stack), most))
