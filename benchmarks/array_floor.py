"""Time and memory of the metrics in chunks, compared with dense NumPy in the same run.

Run from the repository's root: ``python -m benchmarks.array_floor [--rows 20000] [--repeats 3]``.
Each figure is the median over the repeats; memory is the largest growth of the process's resident
set. Both versions must agree, and the chunks stay below 1 GB, or the run fails. Figures of one run
are in benchmarks/README.md.
"""

import argparse
import threading
import time
from statistics import median

import numpy as np
import psutil

from sklearn_loce.metrics import category_separation, overlap_ratio, precision_at_k


class PeakMemory:
    """Measure the growth of the resident set inside a ``with`` block, in MiB."""

    def __enter__(self):
        self.process = psutil.Process()
        self.start = self.process.memory_info().rss
        self.peak = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        """Read the resident set until the block ends."""
        while not self.done.wait(0.002):
            grown = self.process.memory_info().rss - self.start
            self.peak = max(self.peak, grown / 2**20)

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()


def dense_distances(X):
    squares = (X**2).sum(axis=1)
    D = np.sqrt(np.maximum(squares[:, np.newaxis] + squares - 2 * X @ X.T, 0))
    np.fill_diagonal(D, 0)
    return D


def dense_separation(X, y):
    D = dense_distances(X)
    values = []
    for concept in np.unique(y):
        own = y == concept
        n = own.sum()
        values.append(D[np.ix_(own, ~own)].min() / (D[np.ix_(own, own)].sum() / (n * (n - 1))))
    return float(np.mean(values))


def dense_overlap(X, y):
    D = dense_distances(X)
    np.fill_diagonal(D, np.inf)
    concepts = np.unique(y)
    nearest = np.array([D[:, y == concept].min(axis=1) for concept in concepts]).T
    own = nearest[np.arange(len(y)), np.searchsorted(concepts, y)]
    return np.array([(nearest < own[:, np.newaxis])[y == c].mean(axis=0) for c in concepts])


def dense_precision(X, y):
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    # If both factors are one array, NumPy calls SYRK, which crashed in OpenBLAS at 20,000 rows.
    similarity = unit @ unit.copy().T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argpartition(similarity, -10, axis=1)[:, -10:]
    hits = (y[nearest] == y[:, np.newaxis]).mean(axis=1)
    return float(np.mean([hits[y == concept].mean() for concept in np.unique(y)]))


# Maximum growth of the memory during a metric, in bytes.
MOST_MEMORY = 10**9

CASES = {
    "overlap_ratio": (overlap_ratio, dense_overlap),
    "category_separation": (category_separation, dense_separation),
    "precision_at_k, k=10": (precision_at_k, dense_precision),
}


def measure(function, *args):
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = function(*args)
        seconds = time.perf_counter() - start
    return result, seconds, memory.peak


def make_embeddings(n_rows, n_features, n_concepts):
    rng = np.random.RandomState(0)
    y = rng.randint(n_concepts, size=n_rows)
    centers = 0.3 * rng.normal(size=(n_concepts, n_features))
    return rng.normal(size=(n_rows, n_features)) + centers[y], y


def compare(X, y, repeats):
    print(f"{'':24}{'chunks':>20}{'dense':>20}{'time ratio':>12}{'memory ratio':>14}")
    for name, functions in CASES.items():
        runs = [[measure(function, X, y) for function in functions] for _ in range(repeats)]
        np.testing.assert_allclose(runs[0][0][0], runs[0][1][0], rtol=1e-6)
        seconds = np.array([[run[1] for run in pair] for pair in runs])
        memory = np.array([[run[2] for run in pair] for pair in runs])
        if memory[:, 0].max() * 2**20 > MOST_MEMORY:
            raise SystemExit(f"{name} took {memory[:, 0].max():.0f} MiB, more than 1 GB.")
        cells = [f"{median(seconds[:, i]):.1f} s, {median(memory[:, i]):.0f} MiB" for i in range(2)]
        speedup = median(seconds[:, 1] / seconds[:, 0])
        saving = median(memory[:, 1] / np.maximum(memory[:, 0], 1))
        print(f"{name:24}{cells[0]:>20}{cells[1]:>20}{speedup:>11.2f}x{saving:>13.1f}x", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--concepts", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    X, y = make_embeddings(options.rows, options.features, options.concepts)
    print(f"{options.rows} x {options.features}, {options.concepts} concepts, float64")
    compare(X, y, options.repeats)


if __name__ == "__main__":
    main()
