"""``optimize_loces`` compared with two plain formulations, at the shapes of the paper's layers."""

import statistics
from functools import partial

import torch
from torch.nn.functional import cosine_similarity

from benchmarks.inputs import draw, optimize_paper_loces, targets_of
from benchmarks.measure import in_turn, median_ratio
from benchmarks.plain import plain_loces
from benchmarks.report import Column, Section, Table

CONCEPTS_PER_IMAGE = 11
_CHECKED = 4  # samples that are compared with the plain formulation in float64
_LARGE = 4 * 10**8  # bytes of upsampled channels, beyond which the plain product takes minutes
_TEXT = """\
This section compares `optimize_loces(objective="net2vec")` and the plain formulation. The
plain formulation upsamples every channel to 100 x 100 and takes 50 steps with autograd and
`torch.optim.AdamW`. All {samples} samples are in one batch. The time of `optimize_loces`
includes the resizing of masks from 200 x 300 pixels; the plain formulation gets resized masks.

- *Product* weights and sums the upsampled channels as the published implementation does:
  `(upsampled * weights).sum(1)`.
- *Matmul* is the fastest plain formulation: one `einsum`.
- *Cosine* is the lowest cosine of {checked} samples with the plain formulation in float64.

Ratios are plain / ours. The plain formulations run at most three times. *Product* runs once if
its channels need more than 0.4 GB.

In the second table, {concepts} samples share the activations of one image, as the concepts of
one image do. Their masks are resized beforehand."""


def sides_of(activations, masks, **how):
    """Return {side: function}; each optimizes these samples."""
    targets = targets_of(masks)
    plain = partial(plain_loces, activations, targets, **how)
    return {
        "product": partial(plain, form="product"),
        "matmul": partial(plain, form="matmul"),
        "ours": partial(optimize_paper_loces, activations, masks, **how),
    }


def worst_cosine(activations, masks, embeddings, n_samples=_CHECKED):
    """Compare the first vectors with those of the plain formulation in float64, one at a time."""
    targets = targets_of(masks[:n_samples]).double()
    expected = [
        plain_loces(activations[[i]].double(), targets[[i]])[0] for i in range(len(targets))
    ]
    ours = embeddings[: len(targets)].double()
    return cosine_similarity(ours, torch.stack(expected)).min().item()


def _at_most(shape, n_samples):
    upsampled = n_samples * shape[0] * 100 * 100 * 4
    return {"product": 1 if upsampled > _LARGE else 3, "matmul": 3}


def compare(name, shape, options):
    """Return the row of a layer in the first table."""
    data = draw(shape, options.samples)
    cosine = worst_cosine(*data, optimize_paper_loces(*data))  # compiles, too
    sides = sides_of(*data)
    times = in_turn(sides, options.repeats, _at_most(shape, options.samples))
    per_loce = [statistics.median(times[side]) / options.samples * 1e3 for side in sides]
    ratios = [median_ratio(times[side], times["ours"]) for side in ("product", "matmul")]
    return [name, str(shape), *per_loce, *ratios, cosine]


def _optimize_images(images, targets):
    for activations, masks in zip(images, targets, strict=True):
        optimize_paper_loces(activations, masks)


def compare_shared(name, shape, options):
    """Return the row of a layer in the second table."""
    activations, masks = draw(shape, options.samples)
    own, targets = (data.split(CONCEPTS_PER_IMAGE) for data in (activations, targets_of(masks)))
    shared = [image[:1].expand_as(image) for image in own]
    sides = {
        name: partial(_optimize_images, images, targets)
        for name, images in (("own", own), ("shared", shared))
    }
    sides["own"]()
    times = in_turn(sides, options.repeats)
    per_loce = [statistics.median(times[side]) / options.samples * 1e3 for side in sides]
    return [name, str(shape), *per_loce, median_ratio(times["own"], times["shared"])]


def run(options):
    """Measure the section."""
    columns = [
        Column("layer"),
        Column("shape"),
        Column("product, ms/LoCE", 1),
        Column("matmul, ms/LoCE", 1),
        Column("ours, ms/LoCE", 3),
        Column("product / ours", 1, better="higher"),
        Column("matmul / ours", 1, better="higher"),
        Column("cosine", 6),
    ]
    shared = [
        Column("layer"),
        Column("shape"),
        Column("own activations, ms/LoCE", 3),
        Column("shared, ms/LoCE", 3),
        Column("own / shared", 2, better="higher"),
    ]
    rows = [compare(name, shape, options) for name, shape in options.shapes.items()]
    shared_rows = [compare_shared(name, shape, options) for name, shape in options.shapes.items()]
    text = _TEXT.format(samples=options.samples, checked=_CHECKED, concepts=CONCEPTS_PER_IMAGE)
    tables = [
        Table("One image per sample", columns, rows),
        Table(f"{CONCEPTS_PER_IMAGE} concepts of one image", shared, shared_rows),
    ]
    return Section("Solver", text, tables)
