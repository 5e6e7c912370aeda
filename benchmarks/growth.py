"""How time and memory grow with the size of a task."""

import os
import statistics
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.inputs import OBJECTIVE, draw, optimize_paper_loces, targets_of
from benchmarks.measure import has_memory_counters, in_own_process, in_turn, peak_memory, slope
from benchmarks.report import Column, Section, Table
from sklearn_loce import LoCETransformer, TorchModel

SIZE = (240, 320)
_N_FILES = 16  # of different content; the others are links to them
_TEXT = """\
The exponent of growth is the slope of a straight line through the logarithms of sizes and
values. An exponent of 1 means proportional growth. *Doubled* is the factor for twice the size: 2
to the power of the exponent.

For rows, concepts and layers, the section times `transform` with `memory=False` on a network of
eight small convolutions and images of 240 x 320 pixels. These times include the pass of the
network. More concepts or layers of one image share its pass, so the time grows more slowly than
their number. For channels, height and width, the section times the optimization alone.

Peak memory is the whole resident set of a process that transforms image files. Each size has its
own process."""


def build_network(n_layers=8, n_channels=16):
    """Build a network of small convolutions, the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(3, n_channels, 3, stride=8, padding=1)
        convolutions = [
            nn.Conv2d(n_channels, n_channels, 3, padding=1) for _ in range(n_layers - 1)
        ]
        return nn.Sequential(first, *convolutions).eval()


def _box(k):
    mask = np.zeros(SIZE, dtype=bool)
    left, top = 10 * (k % 16), 5 * (k % 24)
    mask[top : top + 100, left : left + 120] = True
    return mask


def draw_pairs(n_images, n_concepts):
    """Draw images in memory with box masks."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(n_images)]
    return [(image, _box(k)) for image in images for k in range(n_concepts)]


def make_transform(pairs, layers):
    how = {"objective": OBJECTIVE, "memory": False}
    loce = LoCETransformer(TorchModel(build_network), layers, **how).fit(pairs)
    return partial(loce.transform, pairs)


def of_rows(n_rows, options):
    return make_transform(draw_pairs(n_rows, 1), ["7"])


def of_concepts(n_concepts, options):
    return make_transform(draw_pairs(options.images, n_concepts), ["7"])


def of_layers(n_layers, options):
    # Take the last layers, so that the pass is the same for all.
    return make_transform(
        draw_pairs(options.images, 1), [str(8 - k) for k in range(n_layers, 0, -1)]
    )


def of_grid(shape, options):
    activations, masks = draw(shape, options.samples)
    return partial(optimize_paper_loces, activations, targets_of(masks))


def of_channels(n_channels, options):
    return of_grid((n_channels, 16, 16), options)


def of_resolution(side, options):
    return of_grid((64, side, side), options)


FACTORS = {
    "rows": of_rows,
    "concepts per image": of_concepts,
    "layers": of_layers,
    "channels": of_channels,
    "height and width": of_resolution,
}


def _row(name, sizes, values, digits):
    exponent = slope(sizes, values)
    listed = ", ".join(f"{value:.{digits}f}" for value in values)
    return [name, ", ".join(map(str, sizes)), listed, exponent, 2**exponent]


def grow(name, options):
    """Return the row for the growth of the time."""
    sizes = options.sizes[name]
    tasks = {size: FACTORS[name](size, options) for size in sizes}
    for task in tasks.values():
        task()
    times = in_turn(tasks, options.repeats)
    return _row(name, sizes, [statistics.median(times[size]) * 1e3 for size in sizes], 1)


def write_files(folder, n_images):
    """Write images and one mask, and return the pairs of their paths."""
    rng, mask = np.random.default_rng(0), Path(folder, "mask.png")
    Image.fromarray(_box(0)).save(mask)
    paths = [Path(folder, f"{k}.jpg") for k in range(n_images)]
    for k, path in enumerate(paths):
        if k < _N_FILES:
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
        else:
            os.link(paths[k % _N_FILES], path)
    return [(str(path), str(mask)) for path in paths]


def peak_of_rows(pairs):
    """Transform image files in a new process, and return the peak resident set in MB."""
    make_transform(pairs, ["7"])()
    return peak_memory()


def grow_memory(options):
    """Return the row of peak memory by number of rows, and the MB per 1,000 more rows."""
    sizes = options.sizes["rows"]
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_files(folder, max(sizes))
        peaks = [in_own_process(peak_of_rows, pairs[:size]) for size in sizes]
    return [*_row("rows", sizes, peaks, 0), float(np.polyfit(sizes, peaks, 1)[0] * 1000)]


def run(options):
    """Measure the section."""

    def columns(values):
        names = [Column("growing"), Column("sizes"), Column(values)]
        return [*names, Column("exponent"), Column("doubled", better="lower")]

    tables = []
    if has_memory_counters():
        more = Column("MB per 1,000 rows", 1)
        tables = [Table("Peak memory", [*columns("MB"), more], [grow_memory(options)])]
    rows = [grow(name, options) for name in FACTORS]
    return Section("Growth", _TEXT, [Table("Time", columns("ms"), rows), *tables])
