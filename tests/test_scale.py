"""The code of docs/scale.md as printed, on its own and on planted data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_coco, load_scene_model, make_scenes
from sklearn_loce.metrics import precision_at_k

from .conftest import make_small_network
from .dataset_trees import make_coco_tree
from .pages import run_blocks

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
FACTS = ["concept", "image_id", "area"]


def _need(*modules):
    for module in modules:
        pytest.importorskip(module, reason=f"needs {module}, of the extra 'scale'")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names that the code of the page defines."""
    _need("pyarrow", "faiss")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run_blocks(PAGE, {})


@pytest.fixture(scope="module")
def direct():
    """The result of one call for all parts."""
    table = make_scenes(60, random_state=0).data
    loce = LoCETransformer(TorchModel(load_scene_model), "features.3")
    return table, loce.set_output(transform="pandas").fit_transform(table)


def test_parts_equal_the_result_of_one_call(page, direct):
    table, X = direct
    pd.testing.assert_frame_equal(page["loces"], table[FACTS].join(X))
    assert set(page["X"].dtypes) == {np.dtype(np.float32)}
    assert page["concepts"].columns.tolist() == ["concept"]


def test_an_interrupted_run_continues(page, tmp_path, monkeypatch):
    """Complete parts stay unchanged, and an incomplete part is computed again."""
    monkeypatch.chdir(tmp_path)
    names = run_blocks(PAGE, {}, "begun")
    files = sorted(names["folder"].iterdir())
    before = [file.read_bytes() for file in files]
    files[1].rename(files[1].with_name("_00001"))
    (names["folder"] / "_00001").write_bytes(before[1][:100])
    assert len(pd.read_parquet(names["folder"])) < len(names["table"])
    run_blocks(PAGE, names, "begun")
    assert [file.read_bytes() for file in sorted(names["folder"].iterdir())] == before


def test_pieces_and_the_mapped_matrix_equal_the_files(page):
    in_order = page["X"].loc[page["concepts"].index].to_numpy()
    np.testing.assert_array_equal(page["mapped"], in_order)
    assert isinstance(page["mapped"], np.memmap)


def test_neighbors_of_the_page_are_nearly_exact(page):
    exact = precision_at_k(page["X"], page["y"], k=10)
    assert page["approximate"] == pytest.approx(exact, abs=0.02)
    assert page["by_cells"] == pytest.approx(exact, abs=0.02)
    others = KNeighborsClassifier(10, metric="cosine")
    X, y, train, test = (page[name] for name in ("X", "y", "train", "test"))
    accuracy = others.fit(X.iloc[train], y.iloc[train]).score(X.iloc[test], y.iloc[test])
    assert page["accuracy"] == pytest.approx(accuracy, abs=0.03)


def test_the_graph_of_cells_is_valid_for_scikit_learn(page):
    graph, y = page["graph"], page["y"]
    classifier = KNeighborsClassifier(5, metric="precomputed").fit(graph, y)
    assert classifier.score(graph, y) > 0.9


def test_a_table_with_masks_is_read_back(tmp_path):
    """Paths and run lengths are stored, and give the same LoCEs."""
    _need("pyarrow")
    table = load_coco(make_coco_tree(tmp_path), tmp_path).data
    for seed, file in enumerate(table["image"].unique()):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    loce = LoCETransformer(TorchModel(make_small_network()), "2")
    X = loce.set_output(transform="pandas").fit_transform(table)
    table.join(X).to_parquet(tmp_path / "all.parquet", index=True)
    back = pd.read_parquet(tmp_path / "all.parquet")
    pd.testing.assert_frame_equal(back[X.columns], X)
    pd.testing.assert_frame_equal(loce.transform(back), X)


def _planted(n_rows, n_channels=16, n_clusters=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_clusters, n_rows)
    centers = 10 * rng.normal(size=(n_clusters, n_channels))
    X = centers[labels] + rng.normal(size=(n_rows, n_channels))
    return X.astype(np.float32), labels


def _cosine_neighbours(X, k):
    """Rank all rows by cosines in float64, without the row itself."""
    unit = X.astype(np.float64)
    unit /= np.sqrt((unit**2).sum(axis=1, keepdims=True))
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1)[:, :k]


def _recall(found, exact):
    shares = [len(set(f) & set(e)) / len(e) for f, e in zip(found, exact, strict=True)]
    return np.mean(shares)


def test_nearest_neighbor_descent_finds_planted_neighbors():
    from pynndescent import PyNNDescentTransformer

    X, labels = _planted(4000)
    names = {"X": pd.DataFrame(X), "y": labels, "np": np, "pd": pd}
    names["PyNNDescentTransformer"] = PyNNDescentTransformer
    run_blocks(PAGE, names, "search = PyNNDescent")
    found = names["graph"].indices.reshape(len(X), -1)
    assert _recall(found, _cosine_neighbours(X, 10)) > 0.95
    assert names["approximate"] == pytest.approx(precision_at_k(X, labels, k=10), abs=0.005)


def test_cells_contain_planted_neighbors():
    _need("faiss")
    X, labels = _planted(4000)
    names = {"X": pd.DataFrame(X), "y": labels, "np": np, "precision": lambda neighbors, y: y}
    run_blocks(PAGE, names, "import faiss")
    assert _recall(names["neighbors"], _cosine_neighbours(X, 10)) > 0.95


def test_clusters_equal_planted_parts(tmp_path):
    _need("pyarrow")
    X, labels = _planted(4000)
    channels = [f"layer[{i}]" for i in range(X.shape[1])]
    for part in range(4):
        frame = pd.DataFrame(X[part::4], columns=channels)
        frame.to_parquet(tmp_path / f"{part:05}.parquet", row_group_size=300)
    names = {"folder": tmp_path, "channels": channels, "np": np}
    run_blocks(PAGE, names, "def batches")
    run_blocks(PAGE, names, "MiniBatchKMeans(")
    truth = np.concatenate([labels[part::4] for part in range(4)])
    # Twelve centers for six clusters: no cell may contain two clusters.
    pairs = pd.crosstab(names["labels"], truth).to_numpy()
    assert (pairs.max(axis=1) / pairs.sum(axis=1)).min() > 0.99


def test_incremental_pca_of_parts_explains_as_much_as_pca(tmp_path):
    _need("pyarrow")
    X, _ = _planted(4000, n_channels=40, n_clusters=30)
    channels = [f"layer[{i}]" for i in range(X.shape[1])]
    for part in range(4):
        frame = pd.DataFrame(X[part::4], columns=channels)
        frame.to_parquet(tmp_path / f"{part:05}.parquet")
    names = {"folder": tmp_path, "channels": channels, "IncrementalPCA": IncrementalPCA}
    run_blocks(PAGE, names, "def batches")
    run_blocks(PAGE, names, "ipca = ")
    full = PCA(16).fit(X).explained_variance_ratio_.sum()
    assert names["ipca"].explained_variance_ratio_.sum() == pytest.approx(full, abs=2e-3)


def test_density_clusters_of_a_sample_extend_to_the_rest():
    """There are more rows than the sample; planted noise belongs to no cluster."""
    X, labels = _planted(11_000)
    noise = np.random.default_rng(1).uniform(-40, 40, size=(200, X.shape[1])).astype(np.float32)
    X, labels = np.r_[X, noise], np.r_[labels, np.full(200, -1)]
    names = {"X": pd.DataFrame(X), "np": np, "pca": PCA(5, random_state=0).fit(X)}
    run_blocks(PAGE, names, "HDBSCAN(")
    inside = labels >= 0
    assert adjusted_rand_score(labels[inside], names["labels"][inside]) > 0.95
    assert np.mean(names["labels"][~inside] == -1) > 0.9
    assert names["labels"][inside].max() == 5
