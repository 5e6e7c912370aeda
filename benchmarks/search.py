"""Costs and savings of stores and workers, end to end.

Run ``python -m benchmarks.search``. A MobileNetV3-Large with random weights sees noise of 360 x 480
pixels in JPEG files, each with four masks. All that is compared runs in one process, in turn; the
figures are medians, the ratios medians of those of the single runs. Peak memory is measured in a
process of its own for each size.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from torchvision.models import mobilenet_v3_large

from sklearn_loce import LoCETransformer, TorchModel

LAYERS = ["features.4", "features.7", "features.10", "features.13"]
SETTINGS = {"n_neighbors": [1, 3, 5]}
SIZE = (360, 480)


def build_network():
    """Build the network, the same in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return mobilenet_v3_large(weights=None).eval()


def write_table(folder, n_images, n_concepts=4):
    """Write images, and return the table of samples."""
    rng, rows = np.random.default_rng(0), []
    for image_id in range(n_images):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = Path(folder, f"{image_id}.jpg")
        Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
        for concept in range(n_concepts):
            left, top = (int(n) for n in rng.integers(0, 200, 2))
            box = [[left, top, left + 150, top, left + 150, top + 120, left, top + 120]]
            mask = coco_mask.frPyObjects(box, *SIZE)[0]
            rows.append((str(path), mask, str(concept), image_id))
    return pd.DataFrame(rows, columns=["image", "mask", "concept", "image_id"])


def make(**how):
    plain = {"model": TorchModel(build_network), "layer": LAYERS, "objective": "net2vec"}
    return LoCETransformer(**plain | how)


def seconds(function, *arguments, **how):
    start = time.perf_counter()
    function(*arguments, **how)
    return time.perf_counter() - start


def search_over(estimator, grid, X, table):
    folds = GroupKFold(3)
    found = GridSearchCV(estimator, grid, cv=folds, refit=False, error_score="raise")
    return found.fit(X, table["concept"], groups=table["image_id"])


def whole_search(table, memory):
    """Fill a store in one pass, and search four layers and three settings in three folds."""
    loce = make(memory=memory).precompute(table, LAYERS)
    grid = {f"kneighborsclassifier__{name}": values for name, values in SETTINGS.items()}
    grid["locetransformer__layer"] = LAYERS
    search_over(make_pipeline(loce, KNeighborsClassifier()), grid, table, table)


def fits_alone(table, parts):
    """Run the same fits on computed vectors."""
    for X in parts:
        search_over(KNeighborsClassifier(), SETTINGS, X, table)


def compare_search(table, folder, repeats):
    """Return the time of a search divided by that of one transform at all layers and the fits."""
    ratios = []
    for k in range(repeats):
        loce = make(memory=False)
        start = time.perf_counter()
        X = loce.fit_transform(table)
        transform = time.perf_counter() - start
        fits = seconds(fits_alone, table, np.split(X, np.cumsum(loce.n_channels_)[:-1], axis=1))
        whole = seconds(whole_search, table, Path(folder, f"store {k}"))
        ratios.append((transform, fits, whole, whole / (transform + fits)))
    return [statistics.median(column) for column in zip(*ratios, strict=True)]


def compare_calls(table, first, second, repeats):
    """Return the seconds of ``fit_transform`` with two sets of parameters, and their ratio."""
    runs = [
        [seconds(make(**how).fit_transform, table) for how in (first, second)]
        for _ in range(repeats)
    ]
    one, other = zip(*runs, strict=True)
    ratio = statistics.median(a / b for a, b in runs)
    return statistics.median(one), statistics.median(other), ratio


def _peak(folder, n_images, queue):
    table = write_table(folder, n_images)
    make(layer="features.7", memory=False).fit(table).transform(table)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def peak_memory(folder, n_images):
    """Return the peak resident set in MB of embedding images with four masks each."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(folder, n_images, queue))
    process.start()
    peak = queue.get()
    process.join()
    return peak


def main():
    """Print all tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    repeats = arguments.repeats
    with tempfile.TemporaryDirectory() as folder:
        # Measure this first, because a child starts from the peak of its parent.
        small, large = peak_memory(folder, 25), peak_memory(folder, 500)
        print(f"Peak memory: {small:.0f} MB for 100 rows, {large:.0f} MB for 2,000 rows")
        table = write_table(folder, arguments.images)
        print(f"\n{len(table)} rows on {arguments.images} images, medians of {repeats} runs\n")
        transform, fits, whole, ratio = compare_search(table, folder, repeats)
        print(f"Search: transform {transform:.1f} s, fits {fits:.2f} s, ", end="")
        print(f"precompute and search {whole:.1f} s; ratio {ratio:.2f}")
        for name, first, second in (
            ("default store to none", {}, {"memory": False}),
            ("2 workers to none", {"memory": False, "n_jobs": 2}, {"memory": False}),
        ):
            one, other, ratio = compare_calls(table, first, second, repeats)
            print(f"{name}: {one:.2f} s to {other:.2f} s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
