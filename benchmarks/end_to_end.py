"""``transform`` on driving scenes against the network alone, and against the published way."""

import copy
import statistics
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from benchmarks.inputs import OBJECTIVE, Options, targets_of
from benchmarks.measure import in_turn, median_ratio, one_thread_each, threads
from benchmarks.plain import plain_loces
from benchmarks.report import Column, Section, Table
from benchmarks.segmentation import NORMALIZE, load_network
from sklearn_loce import LoCETransformer
from sklearn_loce.datasets import load_coco

_TITLE = "End to end"
_PLAIN, _FASTEST = "plain, per row", "fastest bare forward"
_TEXT = """\
This section times `transform` with `objective="net2vec"` and `memory=False` on {images} CamVid
scenes of 480 x 360 pixels with all their concepts, {rows} rows. The network is LR-ASPP
MobileNetV3-Large with the layers {layers}.

- *Forward* is the pass of the network alone, one image at a time, with images in memory. It
  stops after the deepest layer. It runs on all threads of torch ({threads}) and on one thread;
  the faster one counts in each run.
- *Decoding* opens and normalizes the image files and decodes the masks.
- *Fastest bare forward* makes the same passes in the fastest way of each run. The ways are
  batches of several sizes on all threads of torch, and one image at a time on as many Python
  threads. Each Python thread has a replica of the network that shares its weights, and one
  thread of torch. Memory formats are contiguous and channels last.
- *Plain, per row* works as the published code does. For every row, it reads the image and passes
  it through the whole network, twice. It then upsamples, weights and sums every channel in 50
  steps, one row at a time. It runs on {plain_rows} rows. Both layers use the same passes, which
  favors it.

No pass computes gradients, and batch normalization is in evaluation mode."""
_FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Subject:
    """The network, the table of samples, and the same data in memory.

    Parameters
    ----------
    model : TorchModel
    network : torch.nn.Module
        Cut off after the deepest layer, in evaluation mode.
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
    """Return the missing requirement of the section, or ``None``."""
    missing = [path.name for path in (options.camvid, options.weights) if not path.exists()]
    return f"it needs {' and '.join(missing)}, which are missing." if missing else None


def read_tensor(path):
    """Read and normalize an image, (1, 3, height, width)."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return NORMALIZE(torch.from_numpy(pixels.copy()).permute(2, 0, 1))[None]


def prepare(options):
    """Load the network, and scenes of all driving sequences."""
    model = load_network(options.weights)
    deepest = max(int(layer.removeprefix("backbone.")) for layer in options.layers)
    network = nn.Sequential(*list(model.module.backbone.children())[: deepest + 1])
    table = load_coco(options.camvid / "annotations.json", options.camvid / "images").data
    frames = table["image_id"].unique()
    step = max(1, len(frames) // options.images)
    table = table[table["image_id"].isin(frames[::step][: options.images])]
    images = [read_tensor(path) for path in table["image"].unique()]
    return Subject(model, network, table, images, options)


def pass_batches(network, batches):
    with torch.inference_mode():
        for batch in batches:
            network(batch)


def pass_on(n_threads, network, images):
    with threads(n_threads):
        pass_batches(network, images)


def decode_images(table):
    for path in table["image"].unique():
        read_tensor(path)


def decode_masks(table):
    for mask in table["mask"]:
        coco_mask.decode(mask)


def plain_row(module, layers, path, mask):
    """Embed one row as the published code does: read and pass the image twice, and upsample."""
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
    target = targets_of([coco_mask.decode(mask)])
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
    how = {"preprocess": NORMALIZE, "objective": OBJECTIVE, "memory": False}
    loce = LoCETransformer(subject.model, list(subject.options.layers), **how)
    loce.fit(subject.table)
    return partial(loce.transform, subject.table)


def pass_by_replicas(replicas, parts):
    with one_thread_each(len(replicas)) as pool:
        list(pool.map(pass_batches, replicas, parts))


def share_weights(network):
    """Copy a network whose copy has the same weights and buffers."""
    shared = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in shared})


def bare_ways(subject):
    """Return {(method, memory format): function}, the methods that pass all images."""
    n_threads = torch.get_num_threads()
    ways = {}
    for name, kind in _FORMATS.items():
        network = copy.deepcopy(subject.network).to(memory_format=kind)
        images = torch.cat(subject.images).contiguous(memory_format=kind)
        for size in subject.options.batch_sizes:
            how = f"batches of {size}, {n_threads} threads of torch"
            ways[how, name] = partial(pass_batches, network, images.split(size))
        replicas = [share_weights(network) for _ in range(n_threads)]
        parts = [images.split(1)[k::n_threads] for k in range(n_threads)]
        how = f"{n_threads} replicas, 1 thread each"
        ways[how, name] = partial(pass_by_replicas, replicas, parts)
    return ways


def measure(subject, transform):
    """Return the seconds of all runs by side, and of the bare forward pass by method."""
    options, n_threads = subject.options, torch.get_num_threads()
    ways = bare_ways(subject)
    forward = {
        f"forward, threads: {n}": partial(pass_on, n, subject.network, subject.images)
        for n in sorted({1, n_threads}, reverse=True)
    }
    sides = {
        "transform": transform,
        **forward,
        "decoding images": partial(decode_images, subject.table),
        "decoding masks": partial(decode_masks, subject.table),
        **ways,
        _PLAIN: partial(plain_rows, subject),
    }
    pass_batches(subject.network, subject.images[:1])
    times = in_turn(sides, options.repeats, {_PLAIN: 3})
    n_plain = min(options.plain_rows, len(subject.table))
    times[_PLAIN] = [run / n_plain * len(subject.table) for run in times[_PLAIN]]
    passes = zip(*(times[side] for side in forward), strict=True)
    decoding = zip(times["decoding images"], times["decoding masks"], strict=True)
    times["forward + decoding"] = [
        min(run) + sum(rest) for run, rest in zip(passes, decoding, strict=True)
    ]
    bare = {way: times.pop(way) for way in ways}
    times[_FASTEST] = [min(runs) for runs in zip(*bare.values(), strict=True)]
    return times, bare


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
    times, bare = measure(subject, transform)
    n_rows, n_images = len(subject.table), len(subject.images)
    medians = {side: statistics.median(runs) for side, runs in times.items()}
    ratio_columns = [
        Column("scenes"),
        Column("rows/s", 1),
        Column("transform / (forward + decoding)", better="lower"),
        Column("transform / fastest bare forward", better="lower"),
        Column("plain, per row / transform", 1, better="higher"),
    ]
    ratios = [
        n_rows / medians["transform"],
        median_ratio(times["transform"], times["forward + decoding"]),
        median_ratio(times["transform"], times[_FASTEST]),
        median_ratio(times[_PLAIN], times["transform"]),
    ]
    yield Table("Ratios", ratio_columns, [["CamVid", *ratios]])
    columns = [Column("what"), Column("s", 3), Column("ms/image", 1), Column("ms/row", 2)]
    rows = [[side, t, t / n_images * 1e3, t / n_rows * 1e3] for side, t in medians.items()]
    yield Table("Times", columns, rows)
    columns = [Column("how"), *(Column(name, 1) for name in _FORMATS)]
    per_image = {way: statistics.median(runs) / n_images * 1e3 for way, runs in bare.items()}
    hows = dict.fromkeys(how for how, _ in bare)
    rows = [[how, *(per_image[how, name] for name in _FORMATS)] for how in hows]
    yield Table("Bare forward, ms/image", columns, rows)
