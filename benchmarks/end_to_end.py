"""``transform`` on driving scenes against the network alone, and against the published way."""

import copy
import statistics
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from benchmarks.cpu_split import split
from benchmarks.inputs import MASK_SIZE, Options
from benchmarks.measure import in_turn, median_ratio, threads
from benchmarks.plain import plain_loces
from benchmarks.report import Column, Section, Table
from benchmarks.segmentation import NORMALIZE, load_network
from sklearn_loce import LoCETransformer
from sklearn_loce._samples.masks import read_mask
from sklearn_loce._solvers.resize import resize_masks
from sklearn_loce.datasets import load_coco

_TITLE = "End to end"
_TEXT = """\
`transform` with `memory=False` and otherwise default settings: {images} CamVid scenes of 480 x
360 pixels, all concepts of each, {rows} rows, LR-ASPP MobileNetV3-Large, layers {layers}.

*Forward* is the network alone, cut off after the deepest layer, one image at a time, images
ready in memory; on all threads of torch, {threads}, and on one, of which the faster counts in
each run. *Decoding* is opening and normalising the image files, and decoding the masks. *Plain,
per row* is how the published code goes about it: for every row the image is read, and passed
through the whole network, twice; every channel is upsampled, weighed and summed, 50 steps, one
row at a time. It is measured on {plain_rows} rows, both layers from the same passes, which
favours it.

Processor time is counted by thread, in a run in which the solver has one; parts overlap on
several processors, so that the wall time is less than their sum."""


@dataclass(frozen=True)
class Subject:
    """What is run: the network, the table of samples, and the same data ready in memory.

    Parameters
    ----------
    model : TorchModel
    network : torch.nn.Module
        Cut off after the deepest layer.
    table : DataFrame
    images : list of Tensor of shape (1, 3, height, width)
    options : Options
    """

    model: object
    network: nn.Module
    table: pd.DataFrame
    images: list
    options: Options


def what_is_missing(options):
    """Say what the section needs and is not there, or give ``None``."""
    missing = [path.name for path in (options.camvid, options.weights) if not path.exists()]
    return f"it needs {' and '.join(missing)}, which are not there." if missing else None


def read_tensor(path):
    """Read and normalise an image, (1, 3, height, width)."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return NORMALIZE(torch.from_numpy(pixels.copy()).permute(2, 0, 1))[None]


def prepare(options):
    """Load network and scenes; the scenes are spread over the driving sequences."""
    model = load_network(options.weights)
    deepest = max(int(layer.removeprefix("backbone.")) for layer in options.layers)
    network = nn.Sequential(*list(model.module.backbone.children())[: deepest + 1])
    table = load_coco(options.camvid / "annotations.json", options.camvid / "images").data
    frames = table["image_id"].unique()
    step = max(1, len(frames) // options.images)
    table = table[table["image_id"].isin(frames[::step][: options.images])]
    images = [read_tensor(path) for path in table["image"].unique()]
    return Subject(model, network, table, images, options)


def pass_images(network, images, n_threads):
    with torch.inference_mode(), threads(n_threads):
        for image in images:
            network(image)


def read_images(table):
    for path in table["image"].unique():
        read_tensor(path)


def read_masks(table):
    for mask in table["mask"]:
        read_mask(mask)


def plain_row(module, layers, path, mask):
    """Do one row as the published code does: read and pass the image, twice, and upsample."""
    taken = {}

    def keep(name, layer, args, output):
        taken[name] = output.clone()

    handles = [
        module.get_submodule(layer).register_forward_hook(partial(keep, layer)) for layer in layers
    ]
    try:
        with torch.no_grad():
            for _ in range(2):
                module(read_tensor(path))
    finally:
        for handle in handles:
            handle.remove()
    target = torch.from_numpy(resize_masks([read_mask(mask)], MASK_SIZE))
    return [plain_loces(taken[layer], target, form="product")[0] for layer in layers]


def plain_rows(subject):
    layers, module = subject.options.layers, subject.model.module
    rows = subject.table.iloc[:: max(1, len(subject.table) // subject.options.plain_rows)]
    rows = rows.iloc[: subject.options.plain_rows]
    return [
        torch.cat(plain_row(module, layers, path, mask))
        for path, mask in zip(rows["image"], rows["mask"], strict=True)
    ]


def make_transform(subject):
    loce = LoCETransformer(
        subject.model, list(subject.options.layers), preprocess=NORMALIZE, memory=False
    )
    loce.fit(subject.table)
    return partial(loce.transform, subject.table)


def compare(subject, transform):
    """Give the tables of times and of ratios."""
    options, n_rows, n_images = subject.options, len(subject.table), len(subject.images)
    n_plain = min(options.plain_rows, n_rows)
    n_threads = torch.get_num_threads()
    many, one = (f"forward, threads: {n}" for n in (n_threads, 1))
    images, masks, plain = "decoding images", "decoding masks", "plain, per row"
    sides = {
        "transform": transform,
        many: partial(pass_images, subject.network, subject.images, n_threads),
        one: partial(pass_images, subject.network, subject.images, 1),
        images: partial(read_images, subject.table),
        masks: partial(read_masks, subject.table),
        plain: partial(plain_rows, subject),
    }
    pass_images(subject.network, subject.images[:1], n_threads)
    times = in_turn(sides, options.repeats, {plain: 3})
    times[plain] = [run / n_plain * n_rows for run in times[plain]]
    needed = [
        min(forward) + sum(decoding)
        for *forward, a, b in zip(
            *(times[side] for side in (many, one, images, masks)), strict=True
        )
        for decoding in [(a, b)]
    ]
    medians = {side: statistics.median(times[side]) for side in sides}
    rows = [[side, t, t / n_images * 1e3, t / n_rows * 1e3] for side, t in medians.items()]
    ratios = [
        n_rows / medians["transform"],
        median_ratio(times["transform"], needed),
        median_ratio(times[plain], times["transform"]),
    ]
    return rows, ratios


def split_cpu(transform, repeats):
    """Give the rows of where processor time goes, medians."""
    runs = [split(transform) for _ in range(repeats)]
    medians = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    return [[part, t, 100 * t / medians["all"]] for part, t in medians.items()]


def _pass_batches(network, images, size):
    with torch.inference_mode():
        for batch in images.split(size):
            network(batch)


def compare_batches(subject, n_threads):
    """Give the rows of ms per image, by batch size, in both memory formats."""
    formats = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    n_images = min(len(subject.images), max(subject.options.batch_sizes))
    images = torch.cat(subject.images[:n_images])
    sides = {}
    for name, kind in formats.items():
        network = copy.deepcopy(subject.network).to(memory_format=kind)
        for size in subject.options.batch_sizes:
            own = images.to(memory_format=kind)
            sides[size, name] = partial(_pass_batches, network, own, size)
    with threads(n_threads):
        for side in sides.values():
            side()
        times = in_turn(sides, subject.options.repeats)
    per_image = {side: statistics.median(runs) / n_images * 1e3 for side, runs in times.items()}
    return [
        [str(size), *(per_image[size, name] for name in formats)]
        for size in subject.options.batch_sizes
    ]


def run(options):
    """Measure the section."""
    reason = what_is_missing(options)
    if reason is not None:
        return Section(_TITLE, "`transform` on CamVid scenes.", skipped=reason)
    subject = prepare(options)
    transform = make_transform(subject)
    transform()
    text = _TEXT.format(
        images=len(subject.images),
        rows=len(subject.table),
        layers=" and ".join(f"`{layer}`" for layer in options.layers),
        threads=torch.get_num_threads(),
        plain_rows=min(options.plain_rows, len(subject.table)),
    )
    return Section(_TITLE, text, list(_tables(subject, transform)))


def _tables(subject, transform):
    times, ratios = compare(subject, transform)
    ratio_columns = [
        Column("scenes"),
        Column("rows/s", 1),
        Column("transform / (forward + decoding)", better="lower"),
        Column("plain, per row / transform", 1, better="higher"),
    ]
    yield Table("Ratios", ratio_columns, [["CamVid", *ratios]])
    columns = [Column("what"), Column("s", 3), Column("ms/image", 1), Column("ms/row", 2)]
    yield Table("Times", columns, times)
    columns = [Column("part"), Column("s", 3), Column("% of all", 0)]
    yield Table(
        "Processor time of `transform`", columns, split_cpu(transform, subject.options.repeats)
    )
    columns = [Column("batch size"), Column("contiguous", 1), Column("channels last", 1)]
    for n_threads in sorted({1, torch.get_num_threads()}):
        title = f"Forward by batch size, ms/image, threads: {n_threads}"
        yield Table(title, columns, compare_batches(subject, n_threads))
