"""The optimization on a GPU, compared with the limit of the GPU."""

import statistics
from functools import partial

import numpy as np
import torch

from benchmarks.inputs import MASK_SIZE, N_STEPS, OBJECTIVE, draw, optimize_paper_loces, targets_of
from benchmarks.measure import in_turn, seconds
from benchmarks.report import Column, Section, Table
from sklearn_loce._solvers.adamw import Recorder
from sklearn_loce._solvers.objectives import make_objective

# Private names: no public call keeps the recording of the steps from batch to batch.
_OBJECTIVE = make_objective(OBJECTIVE, max_iter=N_STEPS)
_TITLE = "GPU"
_TEXT = """\
This section counts LoCEs per second on a GPU, with {samples} samples at once and activations on
the GPU.

- *All* is `optimize_loces` with masks of 200 x 300 pixels, which are resized on the CPU.
- *Ours* is the optimization alone, with masks resized beforehand. Its steps are recorded and
  launched as one.
- *Roofline* is the upper limit from the larger of two times: the time to read every activation
  once, at the bandwidth of a large copy, and the time for the operations of all 50 steps, at the
  rate of a large product of float32 matrices. Both rates are measured in the same run."""
_BYTES = 2**30
_SIDE = 8192  # of the matrices
_WARM_UPS = 3


def synchronized(function):
    """Wrap a function so that it waits for the GPU."""

    def run_and_wait():
        function()
        torch.cuda.synchronize()

    return run_and_wait


def _fastest(function):
    function = synchronized(function)
    return min(seconds(function) for _ in range(10))


def bandwidth():
    """Measure bytes per second; a copy reads and writes each byte."""
    source = torch.ones(_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    return 2 * _BYTES / _fastest(partial(target.copy_, source))


def peak_rate():
    """Measure floating-point operations per second."""
    a = torch.ones(_SIDE, _SIDE, device="cuda")
    out = torch.empty_like(a)
    return 2 * _SIDE**3 / _fastest(partial(torch.mm, a, a, out=out))


def operations(shape):
    """Count the floating-point operations of one LoCE.

    A step multiplies and adds every activation twice; upsampling, one axis after the other, and its
    adjoint multiply and add twice per number, and a sigmoid with its slope takes about ten.
    """
    n_channels, height, width = shape
    upsampling = height * MASK_SIZE[1] + MASK_SIZE[0] * MASK_SIZE[1]
    sigmoid = 10 * MASK_SIZE[0] * MASK_SIZE[1]
    return N_STEPS * (4 * n_channels * height * width + 8 * upsampling + sigmoid)


def roofline(shape, bytes_per_second, operations_per_second):
    """Return the maximum number of LoCEs per second."""
    read = 4 * shape[0] * shape[1] * shape[2] / bytes_per_second
    return 1 / max(read, operations(shape) / operations_per_second)


def compare(name, shape, options, rates):
    """Return the row of a layer."""
    activations, masks = draw(shape, options.samples)
    activations = activations.cuda()
    grids, targets = list(activations), targets_of(masks).numpy()
    solve = partial(_OBJECTIVE.solve, recorder=Recorder())  # kept, as from batch to batch
    sides = {
        "all": synchronized(partial(optimize_paper_loces, activations, masks)),
        "ours": synchronized(partial(solve, grids, targets, np.zeros(shape[0]))),
    }
    for _ in range(_WARM_UPS):
        in_turn(sides, 1)
    times = in_turn(sides, options.repeats)
    whole, ours = (options.samples / statistics.median(times[side]) for side in sides)
    best = roofline(shape, *rates)
    return [name, str(shape), whole, ours, best, ours / best]


def run(options):
    """Measure the section."""
    text = _TEXT.format(samples=options.samples)
    if not torch.cuda.is_available():
        return Section(_TITLE, text, skipped="torch finds no CUDA device.")
    rates = bandwidth(), peak_rate()
    columns = [
        Column("layer"),
        Column("shape"),
        Column("all, LoCE/s", 0),
        Column("ours, LoCE/s", 0),
        Column("roofline, LoCE/s", 0),
        Column("ours / roofline", 3, better="higher"),
    ]
    device = torch.cuda.get_device_name()
    text += f"\n\n{device}: {rates[0] / 1e9:.0f} GB/s, {rates[1] / 1e12:.1f} TFLOP/s."
    rows = [compare(name, shape, options, rates) for name, shape in options.shapes.items()]
    return Section(_TITLE, text, [Table("Per layer", columns, rows)])
