"""Run all experiments on all networks, in the order of their dependencies."""

from functools import partial
from hashlib import blake2b
from numbers import Integral
from os import PathLike
from pathlib import Path

import pandas as pd
from sklearn.utils._param_validation import Interval, validate_params
from tqdm.auto import tqdm

from .._network.handle import digest_model
from .._samples.table import as_samples, group_by_image
from .._store.keys import sample_digests
from .._warnings import warn_user
from . import _figures
from ._experiments import (
    ALL,
    CLUSTERINGS,
    Case,
    make_map,
    measure_draws,
    measure_mixtures,
    measure_noise,
    measure_optimization,
    measure_retrieval,
    measure_segmentation,
    measure_separation,
    measure_shapes,
    put_first,
    rank_layers_by_iou,
)
from ._results import Results

_NEEDED = ("image", "mask", "concept", "image_id")
_EXPERIMENTS = {
    "draws": measure_draws,
    "retrieval": measure_retrieval,
    "separation": measure_separation,
    "shapes": measure_shapes,
    "noise": measure_noise,
    "map": make_map,
}
_FIGURES = {
    "precision": _figures.draw_precision,
    "separation": _figures.draw_separation,
    "overlap": _figures.draw_overlap,
}
# Tables and figures of one network, and of all networks.
_N_STEPS = len(_EXPERIMENTS) + len(_FIGURES) + len(CLUSTERINGS) + 5
_N_JOINED = len(_EXPERIMENTS) + 8


@validate_params(
    {
        "X": "no_validation",
        "networks": [dict],
        "out": [str, PathLike],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "rows_per_concept": [Interval(Integral, 2, None, closed="left")],
        "device": "no_validation",
        "n_jobs": "no_validation",
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=False,
)
def reproduce(
    X, networks, out, *, n_draws=50, rows_per_concept=100, device=None, n_jobs=None, verbose=1
):
    """Repeat the paper's experiments, and write their tables and figures.

    The LoCEs have the settings of the paper, ``objective="net2vec"`` and ``preprocess="paper"``.
    The folder keeps LoCEs, tables and figures, so the same call continues after an interruption.

    Parameters
    ----------
    X : DataFrame
        The table of samples, with the columns ``image``, ``mask``, ``concept`` and ``image_id``, as
        in :func:`~sklearn_loce.datasets.load_coco`.
    networks : dict of str to Network
        Networks by name. The folder of a network has its name.
    out : str or path
        Folder for the results.
    n_draws : int, default=50
        Number of draws in the comparison of layers.
    rows_per_concept : int, default=100
        Maximum number of rows of a concept in draws, maps and trees, and in the experiments with
        shapes, noise and segmentation. Optimization, retrieval and separation use all rows.
    device : str or torch.device, default=None
        Device of :class:`~sklearn_loce.LoCETransformer`.
    n_jobs : int, default=None
        Number of workers of :class:`~sklearn_loce.LoCETransformer`.
    verbose : int, default=1
        With 1 or more, show progress bars.

    Returns
    -------
    dict of str to DataFrame
        The tables of all networks by name, which are also in ``out``:

        - "optimization": failed LoCEs and IoU by layer and concept;
        - "layers": layers ranked by failures, by mean IoU and by both;
        - "draws": results of :func:`~sklearn_loce.metrics.compare_layers` on balanced draws, with
          purity and number of clusters of the relaxed and the strict clustering;
        - "retrieval": precision at 1 to 40 neighbors;
        - "separation": separation and overlap of pairs of concepts;
        - "mixtures": Gaussians after UMAP, per concept and without labels;
        - "shapes": optimization with rectangles and ellipses;
        - "noise": optimization under noise;
        - "segmentation": GloCE and Net2Vec on unseen images, at the best layer of each network.

    Raises
    ------
    ValueError
        If X lacks a column or is too small, there is no network, a number is out of range, or the
        folder has tables of other settings.
    RuntimeError
        If a network cannot be built.

    Warns
    -----
    UserWarning
        If concepts with a single row are omitted.

    See Also
    --------
    Network : A network and its layers.
    sklearn_loce.metrics.compare_layers : The comparison of layers alone.

    Notes
    -----
    The paper is Mikriukov, Schwalbe and Bade, *Local Concept Embeddings for Analysis of Concept
    Distributions in Vision DNN Feature Spaces*, IJCV, 2025.

    Examples
    --------
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.paper import Network, reproduce
    >>> networks = {"scenes": Network(load_scene_model, ("features.2", "features.5"))}
    >>> tables = reproduce(make_scenes(40).data, networks, "paper")  # doctest: +SKIP
    """
    if not networks:
        raise ValueError("networks is empty; pass one, as in {'scenes': Network(build, layers)}.")
    samples = _check_samples(X)
    models = {name: network.open(name) for name, network in networks.items()}
    others = {"memory": Path(out, "store"), "device": device, "n_jobs": n_jobs, "verbose": verbose}
    digest, parts = _digest(samples), {}
    with tqdm(
        total=_N_STEPS * len(networks) + _N_JOINED, unit="result", disable=not verbose
    ) as bar:
        for name, model in models.items():
            layers = tuple(networks[name].layers)
            case = Case(model, layers, samples, n_draws, rows_per_concept, others)
            results = Results(Path(out, name), _settings(case, digest), bar)
            parts[name] = run_network(case, results)
        return join_networks(parts, Results(out, bar=bar))


def _check_samples(X):
    samples = as_samples(X).reset_index(drop=True)
    if absent := [name for name in _NEEDED if name not in samples]:
        raise ValueError(f"X lacks the columns {absent}; the loaders of datasets return them.")
    counts = samples["concept"].value_counts()
    if ALL in counts:
        raise ValueError(f"The name {ALL!r} means all concepts in tables; rename this concept.")
    rare = counts[counts < 2]
    if len(counts) - len(rare) < 2:
        raise ValueError(
            "Two concepts are needed with at least two rows each, but there are "
            f"{counts.to_dict()}. Add images."
        )
    if len(rare):
        warn_user(f"Concepts with one row are left out: {sorted(rare.index)}.")
    return samples[~samples["concept"].isin(rare.index)].reset_index(drop=True)


def _settings(case, digest):
    """Return the settings that determine the tables of a network."""
    return {
        "samples": digest,
        "weights": digest_model(case.model).hex(),
        "layers": list(case.layers),
        "n_draws": case.n_draws,
        "rows_per_concept": case.n_rows,
    }


def _digest(samples):
    """Digest the content of all images and masks, and the concepts."""
    digest = blake2b(digest_size=16)
    for rows in group_by_image(samples):
        for i, found in zip(rows, sample_digests(samples, rows), strict=True):
            digest.update(repr((int(i), samples["concept"].iloc[i], found)).encode())
    return digest.hexdigest()


def run_network(case, results):
    """Compute the tables and figures of one network, and return the tables."""
    tables = {"optimization": results.table("optimization", partial(measure_optimization, case))}
    ranked = partial(rank_layers_by_iou, tables["optimization"])
    tables["layers"] = results.table("layers", ranked)
    best = tables["layers"]["layer"].iloc[0]
    for name, measure in _EXPERIMENTS.items():
        tables[name] = results.table(name, partial(measure, case))
    tables["mixtures"] = results.table("mixtures", partial(measure_mixtures, tables["map"]))
    segment = partial(measure_segmentation, case, best)
    tables["segmentation"] = results.table("segmentation", segment)
    results.figure("map", partial(_figures.draw_map, tables["map"], best))
    for name, draw in _FIGURES.items():
        results.figure(name, partial(draw, case, best))
    for name, clusterer in CLUSTERINGS.items():
        results.figure(f"tree_{name}", partial(_figures.draw_tree, case, best, clusterer))
    return tables


def join_networks(parts, results):
    """Write joint tables of all networks, and figures that compare networks."""
    names = next(iter(parts.values()))
    joined = {
        name: pd.concat([p[name].assign(network=k) for k, p in parts.items()]) for name in names
    }
    tables = {name: put_first(table, "network") for name, table in joined.items() if name != "map"}
    for name, table in tables.items():
        results.table(name, lambda table=table: table)
    best = {name: part["layers"]["layer"].iloc[0] for name, part in parts.items()}
    iou, draws = (
        _figures.compare_iou(tables["optimization"]),
        _figures.compare_draws(tables["draws"]),
    )
    results.figure("iou", partial(_figures.draw_layers, iou, "IoU"))
    for metric in ("purity", "n_clusters"):
        results.figure(metric, partial(_figures.draw_layers, draws, metric))
    results.figure("noise", partial(_figures.draw_noise, tables["noise"], best))
    results.figure("segmentation", partial(_figures.draw_segmentation, tables["segmentation"]))
    return tables
