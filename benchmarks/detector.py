"""Faster R-CNN: ``transform`` at a layer of its backbone against the full forward pass.

Run ``python -m benchmarks.detector``. Both sides run in one process, in turn, on the same images of
480 x 640 pixels with one mask each; the ratio is the median of those of the single runs.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from benchmarks.measure import threads
from sklearn_loce import LoCETransformer, TorchModel

LAYERS = ("backbone.body.layer1", "backbone.body.layer3", "backbone.fpn.layer_blocks.0")
SIZE = (480, 640)


def draw(n_images, seed=0):
    """Draw images of noise, each with the mask of a box."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(SIZE, dtype=bool)
    mask[100:300, 200:400] = True
    return [(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), mask) for _ in range(n_images)]


def run_full(network, samples):
    """Detect, as a user without an early stop does to compute activations.

    On one thread, as ``transform`` runs the network, so that the ratio is that of the work.
    """
    with torch.no_grad(), threads(1):
        for image, _ in samples:
            network([torch.from_numpy(image).permute(2, 0, 1) / 255])


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare(network, layer, samples, repeats):
    """Return the median milliseconds per image of both sides, and the median ratio."""
    how = {"objective": "net2vec", "memory": False}
    loce = LoCETransformer(TorchModel(network), layer, **how).fit(samples)
    loce.transform(samples[:1])
    runs = [
        (seconds(run_full, network, samples), seconds(loce.transform, samples))
        for _ in range(repeats)
    ]
    full, ours = zip(*runs, strict=True)
    ratio = statistics.median(f / o for f, o in runs)
    return *(statistics.median(side) / len(samples) * 1e3 for side in (full, ours)), ratio


def main():
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    network = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    samples = draw(arguments.images)
    how = f"{arguments.images} images, medians of {arguments.repeats} runs"
    print(f"{how}, torch {torch.__version__}")
    print("\n| layer | full forward, ms/image | transform, ms/image | ratio |\n|---|---|---|---|")
    for layer in LAYERS:
        full, ours, ratio = compare(network, layer, samples, arguments.repeats)
        print(f"| {layer} | {full:.0f} | {ours:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
