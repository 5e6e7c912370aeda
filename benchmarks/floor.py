"""The optimisation against the least that its steps need, done by torch's fastest calls."""

import statistics
from functools import partial

import torch

from benchmarks.inputs import MASK_SIZE, N_STEPS, SETTINGS, draw, targets_of, zeros
from benchmarks.measure import in_turn
from benchmarks.report import Column, Section, Table
from sklearn_loce._bilinear import bilinear_matrix
from sklearn_loce._optimization import solve_rows

_TEXT = """\
The floor is what no solver of this kind can leave out: 50 times, for every sample, one sigmoid
of 100 x 100 pixels, the two separable upsampling products and their adjoints, and two passes
over the activations. These are torch calls on tensors that are allocated beforehand; no loss, no
AdamW, no autograd. It is run with one sample at a time, with eight, and with all {samples}, and
the fastest counts. Ours is the optimisation alone, on masks that are ready; the resizing of
masks from 200 x 300 pixels is the last column."""


def allocate_floor(activations):
    """Give a function that runs all steps of the floor for a batch, and gives the gradient."""
    n, n_channels, height, width = activations.shape
    grids = activations.reshape(n, n_channels, height * width)
    weights = torch.full((n, 1, n_channels), 1e-3)
    down = bilinear_matrix(height, MASK_SIZE[0], torch.float32, "cpu")
    right = bilinear_matrix(width, MASK_SIZE[1], torch.float32, "cpu")
    left, up = right.T.contiguous(), down.T.contiguous()
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


def compare(name, shape, options):
    """Give the row of a layer."""
    activations, masks = draw(shape, options.samples)
    targets = targets_of(masks)
    batches = {n: activations.split(n) for n in sorted({1, min(8, options.samples), len(masks)})}
    sides = {
        n: partial(_run_all, [allocate_floor(part) for part in parts])
        for n, parts in batches.items()
    }
    sides["ours"] = partial(solve_rows, list(activations), targets, zeros(shape), SETTINGS)
    sides["resize"] = partial(targets_of, masks)
    for warm_up in (sides["ours"], sides["resize"]):
        warm_up()
    times = in_turn(sides, options.repeats)
    medians = {side: statistics.median(runs) for side, runs in times.items()}
    best = min(batches, key=medians.get)
    ratio = statistics.median(
        ours / min(floors)
        for ours, *floors in zip(times["ours"], *(times[n] for n in batches), strict=True)
    )
    floor, ours, resize = (
        medians[side] / options.samples * 1e3 for side in (best, "ours", "resize")
    )
    return [name, str(shape), floor, best, ours, ratio, resize]


def run(options):
    """Measure the section."""
    columns = [
        Column("layer"),
        Column("shape"),
        Column("floor, ms/LoCE", 3),
        Column("samples at once", 0),
        Column("ours, ms/LoCE", 3),
        Column("ours / floor", 2, better="lower"),
        Column("mask resize, ms/LoCE", 3),
    ]
    rows = [compare(name, shape, options) for name, shape in options.shapes.items()]
    text = _TEXT.format(samples=options.samples)
    return Section("Distance to the floor", text, [Table("Per layer", columns, rows)])
