"""Layers and models side by side, on the rows that all of them have."""

from dataclasses import dataclass
from itertools import combinations
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, validate_params
from tqdm.auto import tqdm

from .._validation import encode_concepts
from ._clusters import fit_clusters, purity_score
from ._retrieval import precision_at_k
from ._scorers import finite_separation, n_clusters


@validate_params(
    {
        "layers": [dict],
        "y": ["array-like"],
        "groups": ["array-like", None],
        "iou": [dict, None],
        "clusterer": [HasMethods("fit_predict"), None],
        "k": [Interval(Integral, 1, None, closed="left")],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "rows_per_concept": [
            Interval(Integral, 2, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def compare_layers(
    layers,
    y,
    *,
    groups=None,
    iou=None,
    clusterer=None,
    k=10,
    n_repeats=50,
    rows_per_concept=0.8,
    random_state=None,
    verbose=0,
):
    """Compare embeddings of the same rows from several layers or models.

    Each repeat draws the same number of rows of every concept, the same rows for every layer, and
    measures each layer on them.

    Parameters
    ----------
    layers : dict of str to array-like of shape (n_samples, n_features)
        Embeddings by layer or model. A row that is not finite is a failed one.
    y : array-like of shape (n_samples,)
        Concept of each row. Where y is a Series and every layer a DataFrame, rows are matched by
        index, and only those that all layers have are used; else by position, and indexes that
        are there must agree.
    groups : array-like of shape (n_samples,), default=None
        Image of each row. Draws then take whole groups one after the other, so that their
        standard deviation is that between images, not between rows of one image.
    iou : dict of str to array-like of shape (n_samples,), default=None
        IoU of each row's projection by layer, in [0, 1], matched as the rows are. NaN counts as 0.
    clusterer : clusterer, default=None
        Unfitted, with `fit_predict`; clones are fitted on each draw, and on its concepts only
        where the clusterer's tags say that it requires y. None means ``ConceptAgglomerative()``,
        the paper's relaxed setting, which does.
    k : int, default=10
        Neighbors of precision at k.
    n_repeats : int, default=50
        Number of draws; the paper repeats 50 times.
    rows_per_concept : int or float, default=0.8
        Rows of every concept in a draw: a number, or with a float a share of the rows of the
        smallest concept, at least 2.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws; a clusterer has its own.
    verbose : int, default=0
        With 1 or more, a progress bar over the layers of all draws.

    Returns
    -------
    DataFrame
        One row per layer and metric: `layer`, `metric`, `mean` and `std` over the repeats (NaN for
        a single one), `n_repeats`, and `n_rows` in a draw. The metrics:

        - "separation": mean :func:`category_separation` of the concepts that have a finite one;
        - "purity", "n_clusters": :func:`purity_score` and number of the clusters;
        - "precision_at_k", with the number for k: :func:`precision_at_k`;
        - "failed_share": share of rows that are not finite or, where `iou` is given, have IoU 0;
        - "mean_iou": where `iou` is given.

        The first four are measured on rows that are finite in every layer, the last two on draws
        from all rows.

    Raises
    ------
    ValueError
        If lengths or indexes differ, layers share no rows, an IoU is out of range, fewer than two
        concepts are left, or a concept has fewer rows than a draw needs.

    Notes
    -----
    The comparison of layers of Mikriukov, Schwalbe and Bade (IJCV 2025): samples common to all
    models, repeated draws, failures and mean IoU next to the geometry of the embeddings.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.metrics import compare_layers
    >>> X, y = load_iris(return_X_y=True)
    >>> layers = {"sepals": X[:, :2], "petals": X[:, 2:]}
    >>> table = compare_layers(layers, y, n_repeats=5, random_state=0)
    >>> table.pivot(index="layer", columns="metric", values="mean")["precision_at_10"].round(2)
    layer
    petals    0.71
    sepals    0.65
    Name: precision_at_10, dtype: float64
    """
    rows = _align(layers, y, groups, iou)
    clusterer = _default_clusterer() if clusterer is None else clusterer
    finite, every = np.flatnonzero(rows.finite), np.arange(len(rows.codes))
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_repeats)
    runs = [(seed, name) for seed in seeds for name in rows.layers]
    records = []
    for seed, name in tqdm(runs, unit="layer", disable=not verbose):
        measured = _draw(rows, finite, rows_per_concept, seed)
        values = _measure(rows.layers[name][measured], rows.codes[measured], clusterer, k)
        records += [(name, metric, value, len(measured)) for metric, value in values.items()]
        counted = _draw(rows, every, rows_per_concept, seed)
        values = _measure_failures(rows, name, counted)
        records += [(name, metric, value, len(counted)) for metric, value in values.items()]
    return _summarize(records)


def linear_cka(X, Y):
    """Linear centered kernel alignment of two embeddings of the same rows.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings, finite.
    Y : array-like of shape (n_samples, n_other_features)
        Other embeddings of the same rows.

    Returns
    -------
    float
        In [0, 1]; 1 where one is the other up to rotation, scale and offset. NaN where all rows
        of one of them coincide up to rounding.

    Raises
    ------
    ValueError
        If the numbers of rows differ.

    Notes
    -----
    Kornblith, Norouzi, Lee and Hinton, *Similarity of Neural Network Representations Revisited*,
    ICML 2019, equation 3 with linear kernels.

    Examples
    --------
    >>> from sklearn_loce.metrics import linear_cka
    >>> X = [[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]]
    >>> round(linear_cka(X, [[-b, a] for a, b in X]), 6)
    1.0
    """
    X, Y = (check_array(A, dtype=np.float64, ensure_min_samples=2) for A in (X, Y))
    check_consistent_length(X, Y)
    X, Y = _center(X), _center(Y)
    if X is None or Y is None:
        return float("nan")
    if len(X) < min(X.shape[1], Y.shape[1]):
        X, Y = X @ X.T, Y @ Y.T
        cross, own = np.vdot(X, Y), np.linalg.norm(X) * np.linalg.norm(Y)
    else:
        cross = np.linalg.norm(X.T @ Y) ** 2
        own = np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)
    return float(np.clip(cross / own, 0.0, 1.0))


def _center(X):
    """Center and scale to norm 1; None where all rows coincide up to rounding."""
    largest = np.abs(X).max()
    if largest == 0:
        return None
    X = X / largest
    X = X - X.mean(axis=0)
    if np.abs(X).max() <= 8 * np.finfo(np.float64).eps:
        return None
    return X / np.linalg.norm(X)


@validate_params({"layers": [dict]}, prefer_skip_nested_validation=True)
def compare_similarity(layers):
    """Linear CKA of every pair of layers or models.

    Parameters
    ----------
    layers : dict of str to array-like of shape (n_samples, n_features)
        Embeddings by layer or model, matched by index where all are DataFrames, else by position.
        Rows that are not finite in every layer are left out.

    Returns
    -------
    DataFrame
        One row per pair: `layer_a`, `layer_b`, `linear_cka`, `n_rows`.

    Raises
    ------
    ValueError
        If lengths or indexes differ, there are fewer than two layers, or fewer than two rows are
        finite in all of them.

    Notes
    -----
    See :func:`linear_cka`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.metrics import compare_similarity
    >>> X, _ = load_iris(return_X_y=True)
    >>> compare_similarity({"sepals": X[:, :2], "petals": X[:, 2:]}).round(2)
      layer_a layer_b  linear_cka  n_rows
    0  sepals  petals        0.77     150
    """
    _check_layers(layers)
    first = next(iter(layers.values()))
    if len(layers) < 2:
        raise ValueError(f"layers holds {list(layers)}; pass at least two to compare.")
    if all(isinstance(X, pd.DataFrame) for X in layers.values()):
        rows = _align(layers, pd.Series("", index=first.index))
    else:
        check_consistent_length(*layers.values())
        _check_indexes_agree(layers.values())
        rows = _align({name: np.asarray(X) for name, X in layers.items()}, [""] * len(first))
    finite = {name: X[rows.finite] for name, X in rows.layers.items()}
    if rows.finite.sum() < 2:
        raise ValueError(
            f"{rows.finite.sum()} rows are finite in every layer, and two are needed; leave out "
            "the layer that fails."
        )
    return pd.DataFrame(
        [
            (a, b, linear_cka(finite[a], finite[b]), len(finite[a]))
            for a, b in combinations(finite, 2)
        ],
        columns=["layer_a", "layer_b", "linear_cka", "n_rows"],
    )


@dataclass
class _Rows:
    """Rows that all layers have, in one order."""

    layers: dict
    concepts: np.ndarray
    codes: np.ndarray
    groups: np.ndarray
    iou: dict | None

    @property
    def finite(self):
        """Whether each row is finite in every layer: (n_rows,)."""
        return np.all([np.isfinite(X).all(axis=1) for X in self.layers.values()], axis=0)


def _align(layers, y, groups=None, iou=None):
    """Match the rows of all layers, by index where all have one, else by position."""
    _check_layers(layers)
    if iou is not None and set(iou) != set(layers):
        raise ValueError(f"iou has the layers {list(iou)}, embeddings have {list(layers)}.")
    others = [] if groups is None else [groups]
    index = _common_index(layers, y, [*others, *(iou or {}).values()])
    concepts, codes = encode_concepts(_pick(y, "y", y, index))
    if groups is None:
        groups = np.arange(len(codes))
    else:
        groups = encode_concepts(_pick(groups, "groups", y, index), name="groups")[1]
    matrices = {name: _matrix(_pick(X, name, y, index), name) for name, X in layers.items()}
    if iou is not None:
        iou = {name: _read_iou(iou[name], f"iou of {name!r}", y, index) for name in iou}
    return _Rows(matrices, concepts, codes, groups, iou)


def _check_layers(layers):
    if not layers:
        raise ValueError("layers is empty; pass embeddings by name, as in {'features.9': X}.")


def _common_index(layers, y, others):
    """Labels of the rows that y and all layers have, or None where positions count."""
    tables = [y, *layers.values()]
    if not all(isinstance(table, pd.Series | pd.DataFrame) for table in tables):
        _check_indexes_agree([*tables, *others])
        return None
    index = y.index
    for table in tables:
        if not table.index.is_unique:
            raise ValueError("Rows are matched by index, and an index repeats; call reset_index.")
        index = index.intersection(table.index, sort=False)
    if index.empty:
        raise ValueError("The layers share no row: their indexes have nothing in common.")
    return index


def _check_indexes_agree(tables):
    """Refuse to match by position what has different indexes."""
    found = [table.index for table in tables if isinstance(table, pd.Series | pd.DataFrame)]
    if any(not index.equals(found[0]) for index in found):
        raise ValueError(
            "Some inputs have no index and those of others differ, so rows can't be matched; pass "
            "y as a Series and every layer as a DataFrame, or arrays throughout."
        )


def _pick(values, name, y, index):
    """Take the common rows of what is matched by index, or by position with y."""
    if index is not None and isinstance(values, pd.Series | pd.DataFrame):
        if (absent := index.difference(values.index)).size:
            raise ValueError(f"{name} has no row {absent[0]!r} ({absent.size} in all are absent).")
        if not values.index.is_unique:
            raise ValueError(f"The index of {name} repeats; rows can't be matched by it.")
        return values.loc[index].to_numpy()
    if len(values) != len(y):
        raise ValueError(
            f"{name} has {len(values)} rows and y has {len(y)}: inconsistent numbers of samples. "
            "To match rows by index, pass y as a Series and every layer as a DataFrame."
        )
    return values if index is None else np.asarray(values)[y.index.get_indexer(index)]


def _read_iou(values, name, y, index):
    """Read one layer's IoUs; NaN is a failed projection."""
    values = _pick(values, name, y, index)
    try:
        iou = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} holds what is no number: {values!r}.") from error
    if iou.ndim != 1:
        raise ValueError(f"{name} has shape {iou.shape}; pass one IoU per row: (n_samples,).")
    if (bad := iou[(iou < 0) | (iou > 1)]).size:
        raise ValueError(f"{name} holds {bad[0]}; IoUs lie in [0, 1], and NaN counts as 0.")
    return np.nan_to_num(iou)


def _matrix(X, name):
    """Read one layer's embeddings; failed rows may hold NaN."""
    return check_array(X, dtype=np.float64, ensure_all_finite=False, input_name=name)


def _draw(rows, candidates, rows_per_concept, seed):
    """Draw the same number of rows of every concept, whole groups one after the other."""
    codes = rows.codes[candidates]
    counts = np.bincount(codes, minlength=len(rows.concepts))
    size = rows_per_concept
    if not isinstance(size, Integral):
        size = max(2, int(size * counts.min()))
    if size > counts.min():
        concept = rows.concepts.tolist()[counts.argmin()]
        raise ValueError(
            f"Concept {concept!r} has {counts.min()} rows that are finite in every layer, and a "
            f"draw needs {size}; drop the concept, or the layer that fails."
        )
    rng = np.random.RandomState(seed)
    turn = rng.permutation(rows.groups.max() + 1)[rows.groups[candidates]]
    order = rng.permutation(len(candidates))
    order = order[np.argsort(turn[order], kind="stable")]
    chosen = [order[codes[order] == code][:size] for code in range(len(rows.concepts))]
    return candidates[np.sort(np.concatenate(chosen))]


def _default_clusterer():
    # The clusterer's module reads this package, so it can't be imported with it.
    from sklearn_loce.cluster import ConceptAgglomerative

    return ConceptAgglomerative()


def _measure(X, codes, clusterer, k):
    """Measure one layer on one draw."""
    labels = fit_clusters(clusterer, X, codes)
    return {
        "separation": finite_separation(X, codes),
        "purity": purity_score(codes, labels),
        "n_clusters": n_clusters(codes, labels),
        f"precision_at_{k}": precision_at_k(X, codes, k=k),
    }


def _measure_failures(rows, name, drawn):
    """Count one layer's failed rows in one draw."""
    failed = ~np.isfinite(rows.layers[name][drawn]).all(axis=1)
    if rows.iou is None:
        return {"failed_share": failed.mean()}
    iou = rows.iou[name][drawn]
    return {"failed_share": (failed | (iou == 0)).mean(), "mean_iou": iou.mean()}


def _summarize(records):
    """Average over the repeats: one row per layer and metric."""
    table = pd.DataFrame(records, columns=["layer", "metric", "value", "n_rows"])
    grouped = table.groupby(["layer", "metric"], sort=False)
    return grouped.agg(
        mean=("value", "mean"),
        std=("value", "std"),
        n_repeats=("value", "size"),
        n_rows=("n_rows", "first"),
    ).reset_index()
