"""``optimize_loces`` against the plain formulation: time and peak memory.

Run ``python -m benchmarks.solver``. Both sides run in one process, in turn, so that the ratios hold
on a noisy machine; peak memory is measured in a process of its own for each side.
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import torch
from torch.nn import functional

from benchmarks.plain import plain_loces
from sklearn_loce import optimize_loces
from sklearn_loce._masks import resize_masks

SHAPES = ((160, 15, 20), (256, 25, 34), (768, 14, 14))
MEMORY_SHAPE = (960, 23, 30)
N_SAMPLES = 64
MASK_SIZE = (100, 100)


def draw(shape, n_samples=N_SAMPLES, seed=0):
    """Draw rectified random activations and blob-shaped masks of 200 x 300 pixels."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(n_samples, *shape, generator=generator).relu_()
    coarse = torch.rand(n_samples, 1, 6, 8, generator=generator)
    masks = functional.interpolate(coarse, size=(200, 300), mode="bicubic")[:, 0] > 0.6
    return activations, masks.float()


def run_plain(activations, masks):
    targets = torch.from_numpy(resize_masks(masks.numpy(), MASK_SIZE))
    return plain_loces(activations, targets)


SIDES = {"plain": run_plain, "sklearn_loce": optimize_loces}


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def compare_time(shape, repeats):
    """Give the median milliseconds per LoCE of both sides, and the median of the ratios."""
    data = draw(shape)
    optimize_loces(*draw(shape, n_samples=1))  # compiles, or reads the compiled code
    runs = [(seconds(run_plain, *data), seconds(optimize_loces, *data)) for _ in range(repeats)]
    plain, ours = zip(*runs, strict=True)
    ratio = statistics.median(p / o for p, o in runs)
    per_loce = [statistics.median(side) / N_SAMPLES * 1e3 for side in (plain, ours)]
    return *per_loce, ratio


def _grow(side, queue):
    data = draw(MEMORY_SHAPE)
    SIDES[side](*draw((4, 3, 3), n_samples=2))  # loads what is loaded once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    SIDES[side](*data)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def peak_memory(side):
    """Give the MB by which the peak grows over the inputs, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_grow, args=(side, queue))
    process.start()
    grown = queue.get()
    process.join()
    return grown / 1024


def main():
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    # First, since a child starts from the peak that its parent has reached.
    plain, ours = peak_memory("plain"), peak_memory("sklearn_loce")
    print(f"| peak at {MEMORY_SHAPE} | plain, MB | sklearn_loce, MB | ratio |\n|---|---|---|---|")
    print(f"| over the inputs | {plain:.0f} | {ours:.1f} | {plain / max(ours, 0.1):.0f} |")
    print(f"\n{N_SAMPLES} samples, medians of {repeats} runs, torch {torch.__version__}")
    print("\n| shape | plain, ms/LoCE | sklearn_loce, ms/LoCE | ratio |\n|---|---|---|---|")
    for shape in SHAPES:
        plain, ours, ratio = compare_time(shape, repeats)
        print(f"| {shape} | {plain:.1f} | {ours:.2f} | {ratio:.0f} |")


if __name__ == "__main__":
    main()
