"""Comparison of layers and models on the same rows."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, validate_params
from tqdm.auto import tqdm

from .._distances import RowDistances
from .._validation import (
    as_pandas,
    average_concepts,
    check_n_concepts,
    encode_concepts,
    match_rows,
)
from .._warnings import warn_user
from . import _exclusion
from ._clusters import fit_clusters, purity_score
from ._exclusion import Exclusion, read_exclusion
from ._layers import evaluate_layers, name_members, name_space, read_column
from ._retrieval import average_queries, judge_queries, share_relevant
from ._rows import OF_PROJECTIONS, align
from ._scorers import finite_separation, n_clusters

_OF_SPACES = ("separation", "purity", "n_clusters")
# Metrics for which lower is better.
_LESS_IS_BETTER = ("n_clusters", "failed_share")
# Half-width of a 95 % interval in standard errors.
_INTERVAL = 1.96


@validate_params(
    {
        "spaces": [dict, HasMethods(["evaluate", "get_feature_names_out", "set_params"])],
        "X": "no_validation",
        "y": ["array-like", str, None],
        "layers": [list, tuple, None],
        "metrics": ["array-like", None],
        **_exclusion.PARAMETERS,
        "groups": ["array-like", str, None],
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
    spaces,
    X,
    y=None,
    *,
    layers=None,
    metrics=None,
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
    """Compare layers of a network, or embeddings of the same rows from several models.

    Each repeat draws rows of every concept, and measures all layers on the same rows.

    Parameters
    ----------
    spaces : estimator, or dict of str to array-like of shape (n_samples, n_features)
        LoCETransformer or MaskedMeanTransformer, fitted or not, or embeddings by layer or model. A
        clone of an estimator is fitted with all `layers`, so each image passes once. Rows that are
        not finite count as failed.
    X : DataFrame, or array-like of shape (n_samples,)
        The table of samples. Embeddings do not need it: ``compare_layers(spaces, y)``.
    y : array-like of shape (n_samples,) or str, default=None
        Concept of each row, or the column of X that contains them; None means "concept". If y is a
        Series and all embeddings are DataFrames, rows are matched by index, and only rows of all
        layers are used. Otherwise rows are matched by position, and indexes with the same labels
        must have the same order.
    layers : list of str, Joined or lists of these, default=None
        Two or more layers of an estimator. A list among them is one space: the vectors of its
        layers are concatenated, and their IoUs are averaged.
    metrics : array-like of str, default=None
        Metrics to measure, see below; None means all. With "heldout_iou" and "iou_gain", an
        estimator optimizes four vectors per row and layer, and otherwise one.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), or str, default=None
        Image or video sequence of each row, or the column of X that contains them. With groups, a
        draw takes whole groups, so the standard deviation is between images. Rows of the query's
        own group do not count for precision.
    exclude : float or callable, default=None
        Rule that replaces the comparison of groups in precision, as in :func:`precision_at_k`. With
        frame numbers as `groups`, a number is a window. Draws take whole frames.
    iou : dict of str to array-like of shape (n_samples,) or DataFrame, default=None
        IoU of each row's projection by layer, in [0, 1], only with embeddings. A DataFrame is a
        result of ``evaluate``, with the columns `iou`, `heldout_iou` and `gain`.
    clusterer : clusterer, default=None
        Unfitted clusterer with `fit_predict`. A clone is fitted on each draw, with concepts only if
        its tags require y. None means ``ConceptAgglomerative()``, the relaxed setting of the paper.
    k : int, default=10
        Number of neighbors in precision at k.
    n_repeats : int, default=50
        Number of draws. The paper repeats 50 times.
    rows_per_concept : int or float, default=0.8
        Rows of every concept in a draw. An int is the maximum number of rows of a concept; the
        paper draws up to 100. A float is a share of the rows of the smallest concept, at least 2,
        so all concepts have the same number of rows.
    reference : str, default=None
        Layer that the others are compared with. None means the best layer by each metric.
    random_state : int, RandomState instance or None, default=None
        Seed for the draws. A clusterer has its own seed.
    verbose : int, default=0
        With 1 or more, show a progress bar over the layers of all draws.

    Returns
    -------
    DataFrame
        One row per layer and metric: `layer`, `metric`; `mean` and `std` over the repeats (NaN for
        a single repeat); `n_repeats`; `n_rows` in a draw; `rank` of the mean among the layers, 1
        for the best; and `difference`, the mean difference to the reference layer in the same
        draws, with a 95 % interval from `difference_low` to `difference_high`. The metrics are:

        - "separation": mean :func:`category_separation` over concepts with a finite value;
        - "purity", "n_clusters": :func:`purity_score` and number of the clusters;
        - "precision_at_k", with the number for k: :func:`precision_at_k` over queries with at least
          k rows of their concept to find. If a concept has no such query in a draw, it is omitted,
          with a warning. The value is NaN if all concepts are omitted;
        - "failed_share": share of rows that are not finite or have a known IoU of 0;
        - "iou", "heldout_iou", "iou_gain": means of ``evaluate(X, cv=2)``, if they are known. An
          IoU of NaN counts as 0. If a row has no held-out IoU or gain in a layer, it is omitted in
          all layers, with a warning. A layer without any value has NaN.

        The first four are measured on rows that are finite in every layer. The others are measured
        on draws from all rows. For "n_clusters" and "failed_share", lower is better.

    Raises
    ------
    ValueError
        If lengths or indexes differ, layers share no rows, an IoU is out of range, there are fewer
        than two concepts, a concept has fewer than two rows, `reference` is not a layer, a metric
        is unknown, X lacks a column, or an estimator is passed with fewer than two layers or with
        `iou`.
    FileNotFoundError, TypeError, RuntimeError, StoreError
        As in ``evaluate`` of the estimator. With ``on_error="nan"``, failed rows are counted.

    Warns
    -----
    UserWarning
        If concepts or rows are omitted.

    See Also
    --------
    rank_layers : The best layer by each metric, and by the sum of ranks.
    sklearn_loce.plotting.LayerComparisonDisplay : Draw the table.

    Notes
    -----
    The comparison follows Mikriukov, Schwalbe and Bade (IJCV 2025). It uses common samples and
    repeated draws, and combines failures and mean IoU with the geometry of the embeddings.

    The intervals estimate how much differences would change with other images, or with other rows
    without groups. They use the delete-d jackknife of Shao and Wu, *A General Theory for Jackknife
    Variance Estimation* (Annals of Statistics, 1989). Draws without replacement vary less than
    samples of images: for b of n rows of a concept, the ratio is ``1/b - 1/n`` to ``1/n``. So the
    variance of the paired differences over the repeats is multiplied by the ratio of the sums of
    ``1/n`` and of ``1/b - 1/n`` over concepts. An interval has a half-width of 1.96 standard
    errors. It is NaN for a single repeat, and for draws of all rows. Half of the rows and 50
    repeats are a good choice. Intervals of means such as the IoU have the nominal coverage.
    Intervals of precision and separation are wider, so they are conservative.

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

    The next example compares layers of a network.

    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.metrics import rank_layers
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.1")
    >>> table = compare_layers(
    ...     loce,
    ...     make_scenes(8, random_state=0).data,
    ...     layers=["features.1", "features.5"],
    ...     metrics=["heldout_iou", "separation"],
    ...     groups="image_id",
    ...     n_repeats=5,
    ...     random_state=0,
    ... )
    >>> rank_layers(table)["layer"].tolist()
    ['features.5', 'features.1']
    """
    known = [*_OF_SPACES, f"precision_at_{k}", "failed_share", *OF_PROJECTIONS]
    wanted = _check_metrics(metrics, known)
    members = name_members(spaces, layers)
    reference = None if reference is None else name_space(reference)
    if reference not in [None, *members]:
        raise ValueError(f"reference={reference!r} is not a layer; choose from {list(members)}.")
    rows = _read_rows(spaces, X, y, members, groups, exclude, iou, wanted)
    known = [name for name in known if name not in OF_PROJECTIONS or name in rows.projections]
    wanted = _check_metrics(metrics, known)
    for name in wanted.intersection(rows.projections):
        rows.projections[name] = _share_rows(rows.projections[name], name)
    clusterer = _default_clusterer() if clusterer is None else clusterer
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_repeats)
    records, short = [], np.zeros(len(rows.concepts), dtype=int)
    with tqdm(total=len(seeds) * len(rows.layers), unit="layer", disable=not verbose) as bar:
        for repeat, seed in enumerate(seeds):
            measured, counted = _draw_twice(rows, rows_per_concept, seed)
            short += (measured.most_to_find < k) & (f"precision_at_{k}" in wanted)
            for name in rows.layers:
                values = _measure_space(rows, name, measured, clusterer, k, wanted)
                means = _measure_projections(rows, name, counted.rows, wanted)
                for draw, found in ((measured, values), (counted, means)):
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
        Result of :func:`compare_layers`.
    metrics : array-like of str, default=None
        Metrics to rank by. None means all metrics of the table except "n_clusters", because few
        clusters are good only if they are pure.

    Returns
    -------
    DataFrame
        One row per layer, sorted by `rank_sum`. The columns are `layer`, one column of ranks per
        metric, with 1 for the best, and `rank_sum`. Layers with the same mean have the mean of
        their ranks. A layer whose mean is NaN is last.

    Raises
    ------
    ValueError
        If a metric is not in the table.

    See Also
    --------
    compare_layers : The table, with intervals of the layers' differences.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) choose a layer in this way, because no single metric
    decides.

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
class _Draw:
    """Rows of a draw, and the rows that queries exclude."""

    rows: np.ndarray
    codes: np.ndarray
    exclusion: Exclusion
    scale: float  # from a variance over draws to a variance over samples of images

    @cached_property
    def n_relevant(self):
        """Number of rows of its concept that each query can find: (n_rows,)."""
        return self.exclusion.count(self.codes)[1]

    @property
    def most_to_find(self):
        """Largest number of rows that a query of each concept can find: (n_concepts,)."""
        return pd.Series(self.n_relevant).groupby(self.codes).max().to_numpy()


def _draw_twice(rows, rows_per_concept, seed):
    """Draw from the rows that are finite in every layer, and from all rows."""
    finite, every = np.flatnonzero(rows.finite), np.arange(len(rows.codes))
    return [_draw(rows, candidates, rows_per_concept, seed) for candidates in (finite, every)]


def _draw(rows, candidates, rows_per_concept, seed):
    """Draw rows of every concept in whole groups."""
    codes = rows.codes[candidates]
    counts = np.bincount(codes, minlength=len(rows.concepts))
    if counts.min() < 2:
        concept = rows.concepts.tolist()[counts.argmin()]
        raise ValueError(
            f"Concept {concept!r} has {counts.min()} rows that are finite in every layer, but a "
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
    """Return the ratio of the variances over samples of rows and over draws from one sample."""
    left_out = (1 / drawn - 1 / counts).sum()
    return (1 / counts).sum() / left_out if left_out > 0 else float("nan")


def _warn_of_short_concepts(concepts, short, n_repeats, k):
    """Warn of concepts whose queries have fewer than `k` rows to find in some draws."""
    if short.any():
        named = [f"{name!r} ({n})" for name, n in zip(concepts.tolist(), short, strict=True) if n]
        warn_user(
            f"Precision at k={k} leaves out concepts with fewer than {k} rows to find in other "
            f"groups. Numbers of such draws, out of {n_repeats} draws: {', '.join(named)}. "
            "Choose a smaller k or larger rows_per_concept, or pass more rows."
        )


def _default_clusterer():
    # An import at the top would be circular.
    from sklearn_loce.cluster import ConceptAgglomerative

    return ConceptAgglomerative()


def _read_rows(spaces, X, y, members, groups, exclude, iou, wanted):
    """Match the rows of all layers, after the evaluation of an estimator."""
    X = as_pandas(X) if hasattr(X, "columns") else X
    if y is None and isinstance(spaces, dict) and not isinstance(X, pd.DataFrame):
        X, y = None, X
    y = read_column(X, "concept" if y is None else y, "y")
    groups = read_column(X, groups, "groups")
    if not isinstance(spaces, dict):
        # Check before all images pass, which may take hours.
        check_consistent_length(X, y, groups)
        X, y, groups = match_rows(X=X, y=y, groups=groups)
        _check_draws(y, groups, exclude)
        spaces, iou = evaluate_layers(spaces, X, members, iou, wanted)
    return align(spaces, y, groups, exclude, iou)


def _check_draws(y, groups, exclude):
    """Raise an error if the rows allow no draws, before their vectors are known."""
    concepts, codes = encode_concepts(y)
    check_n_concepts(concepts, 2)
    counts = np.bincount(codes)
    if counts.min() < 2:
        lone = concepts[counts < 2].tolist()
        raise ValueError(f"A draw needs 2 rows of a concept, but {lone} have 1; drop them.")
    read_exclusion(len(codes), groups, exclude)


def _check_metrics(metrics, known):
    """Return the requested metrics, or all known metrics."""
    wanted = set(known if metrics is None else metrics)
    if unknown := sorted(wanted.difference(known)):
        raise ValueError(
            f"metrics has {unknown[0]!r}; choose from {known}. The name of precision contains k. "
            "IoUs need an estimator or iou."
        )
    return wanted


def _share_rows(values, metric):
    """Omit a row in all layers if it lacks a value in a layer with other values."""
    lacking = {name: np.isnan(own) for name, own in values.items()}
    some = [own for own in lacking.values() if not own.all()]
    left_out = np.any(some, axis=0) if some else np.zeros(0, dtype=bool)
    if any(own.any() for own in lacking.values()):
        counts = [f"{name!r} ({own.sum()})" for name, own in lacking.items() if own.any()]
        warn_user(
            f"{metric} leaves out {left_out.sum()} of {len(next(iter(values.values())))} rows. "
            f"Numbers of rows without a value, by layer: {', '.join(counts)}."
        )
    return {name: np.where(left_out, np.nan, own) if some else own for name, own in values.items()}


def _measure_space(rows, name, draw, clusterer, k, wanted):
    """Measure the embeddings of one layer on one draw."""
    X, codes = rows.layers[name][draw.rows], draw.codes
    clusters = wanted & {"purity", "n_clusters"}
    labels = fit_clusters(clusterer, X, codes) if clusters else None
    measures = {
        "separation": lambda: finite_separation(X, codes),
        "purity": lambda: purity_score(codes, labels),
        "n_clusters": lambda: n_clusters(codes, labels),
        f"precision_at_{k}": lambda: _measure_precision(X, draw, k),
    }
    return {metric: measure() for metric, measure in measures.items() if metric in wanted}


def _measure_precision(X, draw, k):
    """Average precision at k over the queries that can reach 1, and over concepts."""
    depths = np.where(draw.n_relevant >= k, k, 0)
    space = RowDistances(X, "cosine")
    values = judge_queries(
        space, draw.codes, draw.exclusion, depths, draw.n_relevant, share_relevant
    )
    return average_concepts(average_queries(values, draw.codes, draw.codes.max() + 1), "macro")


def _measure_projections(rows, name, drawn, wanted):
    """Compute the share of failed rows of one layer in one draw, and means of its projections."""
    failed = ~np.isfinite(rows.layers[name][drawn]).all(axis=1)
    values = {metric: own[name][drawn] for metric, own in rows.projections.items()}
    if "iou" in values:
        failed |= values["iou"] == 0
    found = {"failed_share": failed.mean()}
    found |= {metric: pd.Series(own).mean() for metric, own in values.items()}
    return {metric: value for metric, value in found.items() if metric in wanted}


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
    """Rank the layers by one metric, and average differences within draws."""
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
