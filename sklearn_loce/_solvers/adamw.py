"""The AdamW solver in torch, for any device and dtype.

Tensors have two leading axes: images, and the rows of each image, which share its activations.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch

from .._warnings import warn_user
from .project import Grid, resampling_matrices

BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
# Bounds the number of maps at mask size in memory. Larger batches are no faster.
_CHUNK = 256


def covered_share(targets, weights=None):
    """Return the share of pixels with t > 0 of each row, weighted if there are weights."""
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
    """Return the projections (n, H, W), and the gradient of each row's own loss (n, C).

    The inputs are tensors: activations (n, C, h, w), weights (n, C) and the ``slope_terms`` of the
    objective, each (n, H, W).
    """
    grid = Grid(activations, *resampling_matrices(activations, terms[0].shape[1:]))
    weights = weights.unsqueeze(1)
    projections = grid.compute_logits(weights).sigmoid_()
    terms = [term.unsqueeze(1) for term in terms]
    gradient = _gradient(grid, weights, projections, terms, objective)
    return projections.squeeze(1), gradient.squeeze(1)


@dataclass(frozen=True)
class _Steps:
    """All steps for images of one size, and all tensors except the inputs."""

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
            projections = grid.compute_logits(weights).sigmoid_()
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
    """All operations of a function on tensors, which a GPU runs in one launch.

    When the recording is played, the first axes of the inputs may be shorter. The recording keeps
    the function, because the GPU still reads the tensors of the function.
    """

    _one_at_a_time = Lock()

    def __init__(self, function, inputs):
        self.function, self.inputs = function, [tensor.clone() for tensor in inputs]
        self.device = inputs[0].device
        with torch.cuda.device(self.device), self._one_at_a_time:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                function(*self.inputs)  # one-time setup must not be recorded
            torch.cuda.current_stream().wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            # The network may run on the same device, from another thread.
            how = {"stream": aside, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self.graph, **how):
                self.output = function(*self.inputs)

    def play(self, inputs):
        """Run the recorded operations on inputs that are not longer than the recorded inputs."""
        with torch.cuda.device(self.device):
            for mine, theirs in zip(self.inputs, inputs, strict=True):
                mine[: len(theirs)].copy_(theirs)
            self.graph.replay()
            return self.output[: len(inputs[0])].clone()


class Recorder:
    """Runs functions on tensors; on a GPU, a function is recorded and launched as one.

    A step has a dozen small operations, and their launches take longer than the operations. The
    first call of a function is not recorded. A function that cannot be recorded runs normally. Each
    recording has its own memory, so only the latest recordings are kept.
    """

    MOST = 8

    def __init__(self):
        self._seen, self._refused = set(), set()
        self._recordings = OrderedDict()

    def clear(self):
        """Delete all recordings and free their memory."""
        self._recordings.clear()
        self._seen.clear()

    def run(self, key, function, inputs):
        """Run a function; ``key`` and the shapes of the inputs per image identify it."""
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
                f"The steps can't be recorded on {inputs[0].device}. They are launched one by one, "
                f"which is slower: {error}"
            )
        return self._recordings.get(key)


@torch.no_grad()
def solve_with_torch(activations, images, targets, weights, start, objective, recorder=None):
    """Optimize the rows; images with the same size and number of rows are solved together.

    The parameters are those of ``AdamWObjective.solve``. ``images`` lists the rows that share
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
    # The CPU solves one row at a time, so that a row does not depend on the batch: MKL chooses its
    # kernel by the alignment of each matrix of a batch, and torch uses a different sigmoid for the
    # last few numbers of a tensor.
    chunk = _CHUNK if _is_on_gpu(activations[0]) else 1
    alike = {}
    for rows in images:
        for part in np.split(rows, range(chunk, len(rows), chunk)):
            alike.setdefault((activations[rows[0]].shape, len(part)), []).append(part)
    for (_, n_rows), parts in alike.items():
        stack, most = np.stack(parts), chunk // n_rows
        yield from np.split(stack, range(most, len(stack), most))
