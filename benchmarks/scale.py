"""Time, memory and accuracy of the recipes of docs/scale.md.

Run from the repository's root: ``python -m benchmarks.scale [--rows 100000] [--channels 256]
[--steps files neighbors ...]``. Rows are float32 and planted: concepts of two clusters each, every
cluster flat (16 directions) with some noise in all directions. Each step runs in a process of its
own and reads the rows from files; memory is the largest growth of the process's resident set while
it runs, beyond what it was given, and pages of memory-mapped files count. For figures of one core
set OMP_NUM_THREADS and NUMBA_NUM_THREADS to 1. Figures of one run are in benchmarks/README.md.
"""

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.cluster import HDBSCAN, KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from .array_floor import PeakMemory

N_CLUSTERS = 40
N_DIRECTIONS = 16
N_NEIGHBORS = 10
N_QUERIES = 2000
ROW_GROUP = 16_384
PARQUET = {"compression": None, "use_dictionary": ["concept"], "row_group_size": ROW_GROUP}


def plant(path, n_rows, n_channels):
    """Write ``X.npy`` piece by piece, and the table of clusters and concepts."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(N_CLUSTERS, n_channels)).astype(np.float32)
    shape = (N_CLUSTERS, N_DIRECTIONS, n_channels)
    spread = rng.normal(size=shape).astype(np.float32) / np.sqrt(N_DIRECTIONS)
    clusters = rng.integers(0, N_CLUSTERS, n_rows)
    X = np.lib.format.open_memmap(path / "X.npy", "w+", np.float32, (n_rows, n_channels))
    for start in range(0, n_rows, ROW_GROUP):
        X[start : start + ROW_GROUP] = _draw(
            rng, clusters[start : start + ROW_GROUP], centers, spread
        )
    X.flush()
    concepts = np.array([f"concept {i // 2}" for i in range(N_CLUSTERS)])[clusters]
    pd.DataFrame({"concept": concepts, "cluster": clusters}).to_parquet(path / "table.parquet")


def _draw(rng, clusters, centers, spread):
    X = 0.3 * rng.standard_normal((len(clusters), centers.shape[1]), dtype=np.float32)
    for cluster in np.unique(clusters):
        rows = np.flatnonzero(clusters == cluster)
        weights = rng.standard_normal((len(rows), N_DIRECTIONS), dtype=np.float32)
        X[rows] += centers[cluster] + weights @ spread[cluster]
    return X


def measure(name, function, *arguments):
    """Run a function; print its time and memory, and return its result and time."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = function(*arguments)
        seconds = time.perf_counter() - start
    print(f"  {name:<44} {seconds:9.2f} s {memory.peak:9.0f} MiB", flush=True)
    return result, seconds


def clusters_of(path):
    return pd.read_parquet(path / "table.parquet")["cluster"].to_numpy()


def as_frame(path):
    X = np.load(path / "X.npy")
    names = [f"layer[{i}]" for i in range(X.shape[1])]
    table = pd.read_parquet(path / "table.parquet")
    return pd.concat([table, pd.DataFrame(X, columns=names)], axis=1)


def row_groups(path):
    """Read the vectors one row group at a time."""
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path / "columns.parquet")
    names = [name for name in file.schema_arrow.names if name.startswith("layer[")]
    for i in range(file.num_row_groups):
        yield file.read_row_group(i, columns=names).to_pandas().to_numpy()


def write_list(frame, file):
    """Write the vectors as one column of lists of fixed size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    X = frame.filter(like="layer[").to_numpy()
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    table = pa.Table.from_pandas(frame[["concept", "cluster"]]).append_column("loce", lists)
    pq.write_table(table, file, **PARQUET)


def read_list(file):
    import pyarrow.parquet as pq

    lists = pq.read_table(file, columns=["loce"])["loce"].combine_chunks()
    return lists.flatten().to_numpy().reshape(len(lists), -1)


def write_columns(frame, file):
    frame.to_parquet(file, **PARQUET)


def read_columns(file):
    return pd.read_parquet(file).filter(like="layer[").to_numpy()


def read_some(file):
    mapped = np.load(file, mmap_mode="r")
    return np.array(mapped[:: len(mapped) // 1000])


def read_concepts(file):
    return pd.read_parquet(file, columns=["concept"])


WRITERS = {
    "columns, to_parquet as it is": ("plain.parquet", pd.DataFrame.to_parquet),
    "columns, not compressed": ("columns.parquet", write_columns),
    "one list column, not compressed": ("list.parquet", write_list),
    ".npy": ("copy.npy", lambda frame, file: np.save(file, frame.filter(like="layer["))),
}
READERS = {
    "columns, to_parquet as it is": ("plain.parquet", read_columns),
    "columns, not compressed": ("columns.parquet", read_columns),
    "one list column, not compressed": ("list.parquet", read_list),
    ".npy": ("copy.npy", np.load),
    "1,000 rows of mapped .npy": ("copy.npy", read_some),
    "the concepts only": ("columns.parquet", read_concepts),
}


def write(path, name):
    file, writer = WRITERS[name]
    measure(f"write {name}", writer, as_frame(path), path / file)
    print(f"  {'':<44} {(path / file).stat().st_size / 2**20:9.1f} MiB on disk")


def read(path, name):
    file, reader = READERS[name]
    back, _ = measure(f"read {name}", reader, path / file)
    if len(back) > 1001 and not isinstance(back, pd.DataFrame):
        np.testing.assert_array_equal(back, np.load(path / "X.npy"))


def neighbors(path):
    X = np.load(path / "X.npy")
    # For unit vectors, the Euclidean distance ranks like the cosine, and is faster.
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    queries = np.random.default_rng(1).choice(len(X), N_QUERIES, replace=False)
    exact, seconds = None, np.inf
    for name, search in {"scikit-learn": _brute, "faiss, Flat": _faiss_flat}.items():
        exact, taken = measure(f"exact {name}, {N_QUERIES} queries", search, X, X[queries])
        taken *= len(X) / N_QUERIES
        seconds = min(taken, seconds)
        print(f"  exact {name}, all rows: {taken:.0f} s by proportion")
    measure("PyNNDescent(10), compiling", _nndescent, X[:2000], 10)
    for name, search, setting in (
        ("PyNNDescent(10)", _nndescent, 10),
        ("PyNNDescent(30)", _nndescent, 30),
        ("faiss, IVF, nprobe=16", _faiss_ivf, 16),
        ("faiss, IVF, nprobe=64", _faiss_ivf, 64),
    ):
        found, taken = measure(name, search, X, setting)
        recall = recall_of(exact, found[queries], queries)
        print(f"  recall@{N_NEIGHBORS} {recall:.3f}, best exact / {name}: {seconds / taken:.1f}")


def _brute(X, queries):
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1, algorithm="brute").fit(X)
    return search.kneighbors(queries, return_distance=False)


def _faiss_flat(X, queries):
    import faiss

    index = faiss.IndexFlatIP(X.shape[1])
    index.add(X)
    return index.search(queries, N_NEIGHBORS + 1)[1]


def recall_of(exact, found, queries):
    """Return the share of the true neighbors that were found, without the query itself."""
    shares = [
        len(({*e} - {q}) & {*f[: N_NEIGHBORS + 1]}) / len({*e} - {q})
        for e, f, q in zip(exact.tolist(), found.tolist(), queries.tolist(), strict=True)
    ]
    return np.mean(shares)


def _nndescent(X, n_neighbors):
    """Return the neighbors of each row from near to far, including the row itself."""
    from pynndescent import PyNNDescentTransformer

    search = PyNNDescentTransformer(n_neighbors=n_neighbors, metric="cosine", random_state=0)
    return search.fit_transform(X).indices.reshape(len(X), -1)


def _faiss_ivf(X, n_probe):
    import faiss

    n_cells = int(4 * np.sqrt(len(X)))
    index = faiss.index_factory(X.shape[1], f"IVF{n_cells},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(X[:: max(1, len(X) // (50 * n_cells))])
    index.add(X)
    index.nprobe = n_probe
    return index.search(X, N_NEIGHBORS + 1)[1]


def clusters(path):
    truth, X = clusters_of(path), np.load(path / "X.npy")
    settings = {"n_clusters": N_CLUSTERS, "random_state": 0}
    full, full_s = measure("KMeans, n_init=3", KMeans(n_init=3, **settings).fit_predict, X)
    del X
    mini, mini_s = measure("MiniBatchKMeans over row groups", _minibatch, path, settings)
    print(
        f"  ARI with the planted clusters: KMeans {adjusted_rand_score(truth, full):.3f}, "
        f"MiniBatchKMeans {adjusted_rand_score(truth, mini):.3f}; with each other "
        f"{adjusted_rand_score(full, mini):.3f}; KMeans / MiniBatchKMeans: {full_s / mini_s:.1f}"
    )


def _minibatch(path, settings):
    model = MiniBatchKMeans(**settings)
    for X in row_groups(path):
        model.partial_fit(X)
    return np.concatenate([model.predict(X) for X in row_groups(path)])


def reduce(path):
    X = np.load(path / "X.npy")
    full, full_s = measure("PCA(50)", PCA(50, random_state=0).fit, X)
    del X
    parts, parts_s = measure("IncrementalPCA(50) over row groups", _incremental, path)
    shares = [p.explained_variance_ratio_.sum() for p in (full, parts)]
    print(
        f"  explained variance {shares[0]:.4f} and {shares[1]:.4f}; "
        f"PCA / IncrementalPCA: {full_s / parts_s:.1f}"
    )


def _incremental(path):
    model = IncrementalPCA(50)
    for X in row_groups(path):
        if len(X) >= model.n_components:
            model.partial_fit(X)
    return model


def density(path):
    X, truth = np.load(path / "X.npy"), clusters_of(path)
    sample = np.random.default_rng(2).choice(len(X), 10_000, replace=False)
    pca = PCA(50, random_state=0).fit(X[sample])
    Z, _ = measure("PCA(50) of all rows", pca.transform, X)
    del X
    model = HDBSCAN(min_cluster_size=50, copy=True)
    small, _ = measure("HDBSCAN of 10,000 rows", model.fit_predict, Z[sample])
    inside = sample[small >= 0]
    nearest = KNeighborsClassifier(5).fit(Z[inside], small[small >= 0])
    labels, _ = measure("nearest clusters of all rows", nearest.predict, Z)
    print(
        f"  {small.max() + 1} clusters of {N_CLUSTERS}, {np.mean(small < 0):.3f} of the sample are "
        f"noise; ARI of all rows with the planted clusters {adjusted_rand_score(truth, labels):.3f}"
    )


# Each of these runs in its own process.
STEPS = {
    "files": [
        *(partial(write, name=name) for name in WRITERS),
        *(partial(read, name=name) for name in READERS),
    ],
    "neighbors": [neighbors],
    "clusters": [clusters],
    "reduce": [reduce],
    "density": [density],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        plant(path, arguments.rows, arguments.channels)
        if {"clusters", "reduce"} & set(arguments.steps):
            as_frame(path).to_parquet(path / "columns.parquet", **PARQUET)
        for name in arguments.steps:
            print(f"{name}, {arguments.rows} x {arguments.channels}", flush=True)
            context = multiprocessing.get_context("spawn")
            for step in STEPS[name]:
                with ProcessPoolExecutor(1, mp_context=context) as pool:
                    pool.submit(step, path).result()


if __name__ == "__main__":
    main()
