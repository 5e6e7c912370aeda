"""Layers and models side by side, on the rows that all of them have."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, validate_params
from tqdm.auto import tqdm

from .._distances import RowDistances
from .._validation import average_concepts, check_indexes, encode_concepts
from .._warnings import warn_user
from . import _exclusion
from ._clusters import fit_clusters, purity_score
from ._exclusion import Exclusion, read_exclusion
from ._retrieval import average_queries, judge_queries, share_relevant
from ._scorers import finite_separation, n_clusters

# Metrics of which less is better.
_LESS_IS_BETTER = ("n_clusters", "failed_share")
# Standard errors on either side of a mean that make an interval of 95 %.
_INTERVAL = 1.96


@validate_params(
    {
        "layers": [dict],
        "y": ["array-like"],
        **_exclusion.PARAMETERS,
        "iou": [dict, None],
        "clusterer": [HasMethods("fit_predict"), None],
        "k": [Interval(Integral, 1, None, closed="left")],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "rows_per_concept": [
            Interval(Integral, 2, None, closed="left"),
            Interval(Real, 0, 1, closed="neither"),
        ],
        "reference": "no_validation",
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
    exclude=None,
    iou=None,
    clusterer=None,
    k=10,
    n_repeats=50,
    rows_per_concept=0.8,
    reference=None,
    random_state=None,
    verbose=0,
):
    """Compare embeddings of the same rows from several layers or models.

    Each repeat draws rows of every concept, the same rows for every layer, and measures each layer
    on them.

    Parameters
    ----------
    layers : dict of str to array-like of shape (n_samples, n_features)
        Embeddings by layer or model. A row that is not finite is a failed one.
    y : array-like of shape (n_samples,)
        Concept of each row. Where y is a Series and every layer a DataFrame, rows are matched by
        index, and only those that all layers have are used; else by position, and indexes that
        are there must agree.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Image or video sequence of each row. Draws then take whole groups one after the other, so
        that their standard deviation is that between images, not between rows of one image; and
        precision leaves rows of the query's own group out of its ranking.
    exclude : float or callable, default=None
        Which rows are left out of a query's ranking, instead of those of its group, as in
        :func:`precision_at_k`: with frame numbers as `groups`, a window. Draws take whole frames.
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
        Rows of every concept in a draw. An int is the most rows of a concept, all of them where it
        has fewer; the paper draws up to 100. A float is a share of the rows of the smallest
        concept, at least 2, so that all concepts have the same number.
    reference : str, default=None
        Layer from which the others differ in the result; None means the best by each metric.
    random_state : int, RandomState instance or None, default=None
        Seeds the draws; a clusterer has its own.
    verbose : int, default=0
        With 1 or more, a progress bar over the layers of all draws.

    Returns
    -------
    DataFrame
        One row per layer and metric: `layer`, `metric`, `mean` and `std` over the repeats (NaN for
        a single one), `n_repeats`, `n_rows` in a draw; `rank` of the mean among the layers, 1 for
        the best; and `difference`, the mean of the differences from the reference layer in the same
        draws, with an interval of 95 % from `difference_low` to `difference_high`. The metrics:

        - "separation": mean :func:`category_separation` of the concepts that have a finite one;
        - "purity", "n_clusters": :func:`purity_score` and number of the clusters;
        - "precision_at_k", with the number for k: :func:`precision_at_k` over the queries that have
          k rows of their concept to find. A concept without such queries in a draw is left out,
          with a warning; NaN where every concept is;
        - "failed_share": share of rows that are not finite or, where `iou` is given, have IoU 0;
        - "mean_iou": where `iou` is given.

        The first four are measured on rows that are finite in every layer, the last two on draws
        from all rows. Fewer clusters and failed rows are better.

    Raises
    ------
    ValueError
        If lengths or indexes differ, layers share no rows, an IoU is out of range, fewer than two
        concepts are left, a concept has fewer than two rows, or `reference` is no layer.

    See Also
    --------
    rank_layers : The best layer by each metric, and by the sum of ranks.

    Notes
    -----
    The comparison of layers of Mikriukov, Schwalbe and Bade (IJCV 2025): samples common to all
    models, repeated draws, failures and mean IoU next to the geometry of the embeddings.

    Intervals say how far differences would change with other images (rows, without groups), by the
    delete-d jackknife of Shao and Wu, *A General Theory for Jackknife Variance Estimation* (Annals
    of Statistics, 1989). Draws without replacement vary less than samples of images do: with b of n
    rows of a concept, as ``1/b - 1/n`` to ``1/n``. The variance of the paired differences over the
    repeats is multiplied by the ratio of the sums of ``1/n`` and of ``1/b - 1/n`` over concepts,
    and an interval is 1.96 roots of it on either side. It is NaN for a single repeat, and for draws
    of all rows; half of the rows and 50 repeats are a good choice. Intervals of means, as of IoU,
    hold what they say; those of precision and separation are wider, so they err on the safe side.

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
    rows = align_rows(layers, y, groups, exclude, iou)
    if reference is not None and reference not in rows.layers:
        raise ValueError(f"reference={reference!r} is no layer; choose from {list(rows.layers)}.")
    clusterer = _default_clusterer() if clusterer is None else clusterer
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_repeats)
    records, short = [], np.zeros(len(rows.concepts), dtype=int)
    with tqdm(total=len(seeds) * len(rows.layers), unit="layer", disable=not verbose) as bar:
        for repeat, seed in enumerate(seeds):
            measured, counted = _draw_twice(rows, rows_per_concept, seed)
            short += measured.most_to_find < k
            for name in rows.layers:
                values = _measure(rows, name, measured, clusterer, k)
                failures = _measure_failures(rows, name, counted.rows)
                for draw, found in ((measured, values), (counted, failures)):
                    common = (repeat, len(draw.rows), draw.scale)
                    records += [(name, metric, value, *common) for metric, value in found.items()]
                bar.update()
    _warn_of_short_concepts(rows.concepts, short, n_repeats, k)
    return _summarize(pd.DataFrame(records, columns=_RECORD), reference)


@validate_params(
    {"table": [pd.DataFrame], "metrics": ["array-like", None]}, prefer_skip_nested_validation=True
)
def rank_layers(table, metrics=None):
    """Rank layers by several metrics, and by the sum of these ranks.

    Parameters
    ----------
    table : DataFrame
        As :func:`compare_layers` gives it.
    metrics : array-like of str, default=None
        Metrics to rank by; None means all of the table but "n_clusters", as few clusters are good
        only where they are pure.

    Returns
    -------
    DataFrame
        One row per layer, the best by rank sum first: `layer`, a column of ranks by each metric, 1
        for the best, and `rank_sum`. Layers with the same mean share their ranks' mean; one whose
        mean is NaN is last.

    Raises
    ------
    ValueError
        If a metric is not in the table.

    See Also
    --------
    compare_layers : The table, with intervals of the layers' differences.

    Notes
    -----
    The choice of a layer of Mikriukov, Schwalbe and Bade (IJCV 2025): no metric has the last word.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.metrics import compare_layers, rank_layers
    >>> X, y = load_iris(return_X_y=True)
    >>> layers = {"sepals": X[:, :2], "petals": X[:, 2:]}
    >>> table = compare_layers(layers, y, n_repeats=5, random_state=0)
    >>> rank_layers(table, ["precision_at_10", "separation"])
        layer  precision_at_10  separation  rank_sum
    0  petals              1.0         1.0       2.0
    1  sepals              2.0         2.0       4.0
    """
    known = list(dict.fromkeys(table["metric"]))
    if metrics is None:
        metrics = [name for name in known if name != "n_clusters"]
    if absent := [name for name in metrics if name not in known]:
        raise ValueError(f"The table has no metric {absent[0]!r}; it has {known}.")
    ranks = table.pivot_table("rank", "layer", "metric", sort=False)[metrics]
    ranks = ranks.rename_axis(columns=None)
    ranks["rank_sum"] = ranks.sum(axis=1)
    return ranks.sort_values("rank_sum", kind="stable").reset_index()


@dataclass
class _Rows:
    """Rows that all layers have, in one order."""

    layers: dict
    concepts: np.ndarray
    codes: np.ndarray
    exclusion: Exclusion
    iou: dict | None

    @property
    def finite(self):
        """Whether each row is finite in every layer: (n_rows,)."""
        return np.all([np.isfinite(X).all(axis=1) for X in self.layers.values()], axis=0)


@dataclass
class _Draw:
    """Rows that were drawn, and which of them queries leave out."""

    rows: np.ndarray
    codes: np.ndarray
    exclusion: Exclusion
    scale: float  # of a variance over draws, to make it one over samples of images

    @cached_property
    def n_relevant(self):
        """Rows of its concept that each query can find: (n_rows,)."""
        return self.exclusion.count(self.codes)[1]

    @property
    def most_to_find(self):
        """Most rows that a query of each concept can find: (n_concepts,)."""
        return pd.Series(self.n_relevant).groupby(self.codes).max().to_numpy()


def align_rows(layers, y, groups=None, exclude=None, iou=None):
    """Match the rows of all layers, by index where all have one, else by position."""
    check_layers(layers)
    if iou is not None and set(iou) != set(layers):
        raise ValueError(f"iou has the layers {list(iou)}, embeddings have {list(layers)}.")
    iou_tables = {f"iou of {name!r}": values for name, values in (iou or {}).items()}
    index = _common_index(layers, y, {"groups": groups, **iou_tables})
    concepts, codes = encode_concepts(_pick(y, "y", y, index))
    if groups is not None:
        groups = _pick(groups, "groups", y, index)
    exclusion = read_exclusion(len(codes), groups, exclude)
    matrices = {name: _matrix(_pick(X, name, y, index), name) for name, X in layers.items()}
    if iou is not None:
        iou = {name: _read_iou(iou[name], f"iou of {name!r}", y, index) for name in iou}
    return _Rows(matrices, concepts, codes, exclusion, iou)


def check_layers(layers):
    if not layers:
        raise ValueError("layers is empty; pass embeddings by name, as in {'features.9': X}.")


def _common_index(layers, y, others):
    """Labels of the rows that y and all layers have, or None where positions count."""
    tables = [y, *layers.values()]
    if not all(isinstance(table, pd.Series | pd.DataFrame) for table in tables):
        check_indexes({"y": y, **layers, **others})
        return None
    index = y.index
    for table in tables:
        if not table.index.is_unique:
            raise ValueError("Rows are matched by index, and an index repeats; call reset_index.")
        index = index.intersection(table.index, sort=False)
    if index.empty:
        raise ValueError("The layers share no row: their indexes have nothing in common.")
    return index


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


def _draw_twice(rows, rows_per_concept, seed):
    """Draw from the rows that are finite in every layer, and from all."""
    finite, every = np.flatnonzero(rows.finite), np.arange(len(rows.codes))
    return [_draw(rows, candidates, rows_per_concept, seed) for candidates in (finite, every)]


def _draw(rows, candidates, rows_per_concept, seed):
    """Draw rows of every concept, whole groups one after the other."""
    codes = rows.codes[candidates]
    counts = np.bincount(codes, minlength=len(rows.concepts))
    if counts.min() < 2:
        concept = rows.concepts.tolist()[counts.argmin()]
        raise ValueError(
            f"Concept {concept!r} has {counts.min()} rows that are finite in every layer, and a "
            "draw needs 2; drop the concept, or the layer that fails."
        )
    size = rows_per_concept
    if not isinstance(size, Integral):
        size = max(2, int(size * counts.min()))
    rng = np.random.RandomState(seed)
    numbers = rows.exclusion.number_groups()
    turn = rng.permutation(numbers.max() + 1)[numbers[candidates]]
    order = rng.permutation(len(candidates))
    order = order[np.argsort(turn[order], kind="stable")]
    chosen = [order[codes[order] == code][:size] for code in range(len(rows.concepts))]
    drawn = candidates[np.sort(np.concatenate(chosen))]
    scale = _scale_variance(counts, np.minimum(size, counts))
    return _Draw(drawn, rows.codes[drawn], rows.exclusion.take(drawn), scale)


def _scale_variance(counts, drawn):
    """Find the ratio of the variance over samples of rows to that over draws from one sample."""
    left_out = (1 / drawn - 1 / counts).sum()
    return (1 / counts).sum() / left_out if left_out > 0 else float("nan")


def _warn_of_short_concepts(concepts, short, n_repeats, k):
    """Warn of concepts of which no query had `k` rows to find in some draws."""
    if short.any():
        named = [f"{name!r} ({n})" for name, n in zip(concepts.tolist(), short, strict=True) if n]
        warn_user(
            f"Precision at k={k} leaves out concepts with fewer than {k} rows to find, in other "
            f"groups if there are any, in these many of {n_repeats} draws: {', '.join(named)}; "
            "choose a smaller k, larger rows_per_concept, or pass more rows."
        )


def _default_clusterer():
    # The clusterer's module reads this package, so it can't be imported with it.
    from sklearn_loce.cluster import ConceptAgglomerative

    return ConceptAgglomerative()


def _measure(rows, name, draw, clusterer, k):
    """Measure one layer on one draw."""
    X, codes = rows.layers[name][draw.rows], draw.codes
    labels = fit_clusters(clusterer, X, codes)
    return {
        "separation": finite_separation(X, codes),
        "purity": purity_score(codes, labels),
        "n_clusters": n_clusters(codes, labels),
        f"precision_at_{k}": _measure_precision(X, draw, k),
    }


def _measure_precision(X, draw, k):
    """Average precision at k over the queries that can reach 1, concept by concept."""
    depths = np.where(draw.n_relevant >= k, k, 0)
    space = RowDistances(X, "cosine")
    values = judge_queries(
        space, draw.codes, draw.exclusion, depths, draw.n_relevant, share_relevant
    )
    return average_concepts(average_queries(values, draw.codes, draw.codes.max() + 1), "macro")


def _measure_failures(rows, name, drawn):
    """Count one layer's failed rows in one draw."""
    failed = ~np.isfinite(rows.layers[name][drawn]).all(axis=1)
    if rows.iou is None:
        return {"failed_share": failed.mean()}
    iou = rows.iou[name][drawn]
    return {"failed_share": (failed | (iou == 0)).mean(), "mean_iou": iou.mean()}


_RECORD = ["layer", "metric", "value", "repeat", "n_rows", "scale"]


def _summarize(records, reference):
    """Average over the repeats: one row per layer and metric."""
    grouped = records.groupby(["layer", "metric"], sort=False)
    table = grouped.agg(
        mean=("value", "mean"),
        std=("value", "std"),
        n_repeats=("value", "size"),
        n_rows=("n_rows", "first"),
    )
    parts = [
        _compare_draws(draws, metric, reference)
        for metric, draws in records.groupby("metric", sort=False)
    ]
    return table.join(pd.concat(parts)).reset_index()


def _compare_draws(records, metric, reference):
    """Rank the layers by one metric, and take differences within draws."""
    draws = records.pivot_table("value", "repeat", "layer", dropna=False, sort=False)
    loss = draws.mean() * (1 if metric in _LESS_IS_BETTER else -1)
    if reference is None:
        reference = loss.index[np.argmin(loss.fillna(np.inf))]
    differences = draws.sub(draws[reference], axis=0)
    margin = _INTERVAL * np.sqrt(records["scale"].iloc[0] * differences.var())
    found = {
        "rank": loss.rank(na_option="bottom"),
        "difference": differences.mean(),
        "difference_low": differences.mean() - margin,
        "difference_high": differences.mean() + margin,
    }
    table = pd.DataFrame(found).assign(metric=metric)
    return table.set_index("metric", append=True)
