"""The optimization compared with the minimum that its steps need in torch's fastest calls."""

import statistics
from functools import partial

import torch
from torch.nn import functional

from benchmarks.inputs import MASK_SIZE, N_STEPS, draw, optimize_paper_loces, targets_of
from benchmarks.measure import in_turn, one_thread_each
from benchmarks.report import Column, Section, Table

_TEXT = """\
No solver of this kind can omit the work of the floor. For each sample and each of 50 steps, this
work is one sigmoid of 100 x 100 pixels, the two separable upsampling products and their
adjoints, and two passes over the activations. The floor consists of torch calls on preallocated
tensors, without loss, AdamW or autograd. It runs with one sample at a time, with eight, and with
all {samples}, both on all threads of torch and spread over as many Python threads with one
thread of torch each. The fastest of these counts.

*Ours* is `optimize_loces` with masks resized beforehand. It includes the checks of the input."""


def _upsampling(size_in, size_out):
    """Return bilinear upsampling of one axis as a matrix (size_in, size_out)."""
    return functional.interpolate(torch.eye(size_in)[None], size=size_out, mode="linear")[0]


def allocate_floor(activations):
    """Return a function that runs all steps of the floor for a batch and returns the gradient."""
    n, n_channels, height, width = activations.shape
    grids = activations.reshape(n, n_channels, height * width)
    weights = torch.full((n, 1, n_channels), 1e-3)
    up, left = _upsampling(height, MASK_SIZE[0]), _upsampling(width, MASK_SIZE[1])
    down, right = up.T.contiguous(), left.T.contiguous()
    small = torch.empty(n, height, width)
    wide = torch.empty(n, height, MASK_SIZE[1])
    full = torch.empty(n, *MASK_SIZE)
    gradient = torch.empty(n, n_channels, 1)

    def run_floor():
        for _ in range(N_STEPS):
            torch.bmm(weights, grids, out=small.view(n, 1, -1))
            torch.matmul(small, left, out=wide)
            torch.matmul(down, wide, out=full)
            torch.sigmoid(full, out=full)
            torch.matmul(up, full, out=wide)
            torch.matmul(wide, right, out=small)
            torch.bmm(grids, small.view(n, -1, 1), out=gradient)
        return gradient

    return run_floor


def _run_all(functions):
    for function in functions:
        function()


def _spread(functions, n_threads):
    with one_thread_each(n_threads) as pool:
        list(pool.map(lambda function: function(), functions))


def ways_to_run(activations):
    """Return {name: function} of the ways to process a batch; the fastest is the floor."""
    n_samples, n_threads = len(activations), torch.get_num_threads()
    ways = {}
    for size in sorted({1, min(8, n_samples), n_samples}):
        parts = [allocate_floor(part) for part in activations.split(size)]
        ways[f"{size}"] = partial(_run_all, parts)
        if n_threads > 1 and len(parts) > 1:
            ways[f"{size} per thread"] = partial(_spread, parts, n_threads)
    return ways


def compare(name, shape, options):
    """Return the row of a layer."""
    activations, masks = draw(shape, options.samples)
    ways = ways_to_run(activations)
    sides = {**ways, "ours": partial(optimize_paper_loces, activations, targets_of(masks))}
    sides["ours"]()
    times = in_turn(sides, options.repeats)
    medians = {side: statistics.median(runs) for side, runs in times.items()}
    best = min(ways, key=medians.get)
    ratio = statistics.median(
        ours / min(floors)
        for ours, *floors in zip(times["ours"], *(times[way] for way in ways), strict=True)
    )
    floor, ours = (medians[side] / options.samples * 1e3 for side in (best, "ours"))
    return [name, str(shape), floor, best, ours, ratio]


def run(options):
    """Measure the section."""
    columns = [
        Column("layer"),
        Column("shape"),
        Column("floor, ms/LoCE", 3),
        Column("samples at once"),
        Column("ours, ms/LoCE", 3),
        Column("ours / floor", 2, better="lower"),
    ]
    rows = [compare(name, shape, options) for name, shape in options.shapes.items()]
    text = _TEXT.format(samples=options.samples)
    return Section("Distance to the floor", text, [Table("Per layer", columns, rows)])
