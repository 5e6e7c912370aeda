"""The part of the study on real sub-concepts: whether clusters within a concept find them.

Three kinds of sub-concepts need no labels: the driving sequence; near and far (the third with the
largest and the third with the smallest masks); left and right (the outer thirds by the center of
the mask). Clusters within the concept are compared with these.
"""

import numpy as np
import pandas as pd
from pycocotools.mask import decode
from sklearn.cluster import HDBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from benchmarks.measure import threads
from benchmarks.segmentation import NORMALIZE, sequence_of
from benchmarks.study_choice import put_beside
from sklearn_loce import Joined, LoCETransformer, MaskedMeanTransformer

SETTINGS = {
    "paper": {"objective": "net2vec"},
    "logistic": {"objective": "logistic"},
    "logistic, 1e-3": {"objective": "logistic", "alpha": 1e-3},
}
SINGLE = ("backbone.13", "backbone.16")
WEIGHT = 0.5  # of an average beside a LoCE
LEAST = 8  # rows of each side, or the concept is left out
KINDS = ("sequence", "near and far", "left and right")


def outer_thirds(values):
    """Say which rows are in the lower third (0) and the upper third (1); NaN in between."""
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    return np.select([values < low, values > high], [0.0, 1.0], default=np.nan)


def center(mask):
    """Return the column of a mask's center of mass, as a share of the width."""
    weights = decode(mask).sum(axis=0)
    return weights @ np.arange(len(weights)) / weights.sum() / len(weights)


def list_tasks(samples):
    """Return (kind, rows, labels) of all concepts, whose rows differ by what ``kind`` says."""
    sequence = pd.factorize(sequence_of(samples))[0].astype(float)
    columns = samples["mask"].map(center).to_numpy()
    for concept in samples["concept"].unique():
        rows = np.flatnonzero(samples["concept"] == concept)
        sides = (sequence[rows], outer_thirds(samples["area"].to_numpy()[rows]))
        for kind, side in zip(KINDS, (*sides, outer_thirds(columns[rows])), strict=True):
            known = np.isfinite(side)
            _, counts = np.unique(side[known], return_counts=True)
            if len(counts) > 1 and counts.min() >= LEAST:
                yield kind, rows[known], side[known]


def cluster(X, n_clusters):
    """Cluster directions in two ways; rows that HDBSCAN calls noise are one cluster."""
    X = normalize(X)
    return {
        "Ward": AgglomerativeClustering(n_clusters).fit_predict(X),
        "HDBSCAN": HDBSCAN(min_cluster_size=LEAST, copy=True).fit_predict(X),
    }


def recover(X, tasks):
    """Return the adjusted Rand index by kind and clusterer, mean over concepts."""
    scores = {}
    for kind, rows, side in tasks:
        for name, labels in cluster(X[rows], len(np.unique(side))).items():
            scores.setdefault(f"{kind}, {name}", []).append(adjusted_rand_score(side, labels))
    found = {name: float(np.mean(values)) for name, values in sorted(scores.items())}
    ways = {
        way: [v for name, v in found.items() if name.endswith(way)] for way in ("Ward", "HDBSCAN")
    }
    return found | {f"mean, {way}": float(np.mean(values)) for way, values in ways.items()}


def list_spaces(model, layers, samples):
    """Return vectors by layer and setting: single layers, and all of them joined."""
    places = [*(layer for layer in SINGLE if layer in layers), Joined(*layers)]
    how = {"preprocess": NORMALIZE, "memory": False}
    embedders = {
        name: LoCETransformer(model, places, on_empty="nan", **how, **parameters)
        for name, parameters in SETTINGS.items()
    }
    embedders["masked mean"] = MaskedMeanTransformer(model, places, **how)
    embedders["masked mean, standardized"] = MaskedMeanTransformer(
        model, places, standardize=True, **how
    )
    spaces = {}
    for name, embedder in embedders.items():
        X = embedder.fit_transform(samples)
        ends = np.cumsum(embedder.n_channels_)[:-1]
        for layer, space in zip(embedder.layers_, np.split(X, ends, axis=1), strict=True):
            spaces.setdefault(layer, {})[name] = space
    for found in spaces.values():
        average = found["masked mean, standardized"]
        found[f"logistic, {WEIGHT} average beside it"] = put_beside(
            found["logistic"], average, WEIGHT
        )
    return spaces


def measure_parts(options, samples, model):
    """Return the recovery of real sub-concepts by layer and setting, and the number of tasks."""
    tasks = list(list_tasks(samples))
    with threads(1):
        spaces = list_spaces(model, options.layers, samples)
    counts = pd.Series([kind for kind, *_ in tasks]).value_counts().to_dict()
    found = {
        layer: {name: recover(X, tasks) for name, X in by_setting.items()}
        for layer, by_setting in spaces.items()
    }
    return {"tasks": counts, "layers": found}
