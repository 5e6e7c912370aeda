"""The part of the study on a recommended setting: chosen on one half of the frames.

The other half tests the choice. Each driving sequence is cut in two by time, so that both halves
hold all sequences: each half needs neighbors in other sequences. Candidates are single layers and
joined layers. Joined layers beside the average of the activations under the mask are compared with
them, but are not candidates, because an average is not projected.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.preprocessing import normalize

from benchmarks.measure import threads
from benchmarks.segmentation import NORMALIZE, sequence_of
from benchmarks.study_scores import draw_frames, interval, macro_by_draw, mean_by_draw
from benchmarks.study_small import precision_of_rows
from sklearn_loce import Joined, LoCETransformer, MaskedMeanTransformer

DEFAULT = 1e-4
ALPHAS = (3e-5, DEFAULT, 1e-3, 3e-3)
WEIGHTS = (0.5, 0.7, 1.0)  # of a unit average beside a unit LoCE
BACKGROUNDS = ("keep", "subtract")
BAR = 0.04  # of IoU, above the best single layer
HALVES = ("chosen", "told")


def halve(samples):
    """Say which rows are of the later half of their sequence's frames."""
    frames = pd.Series(samples["image"].unique())
    sequence = sequence_of(pd.DataFrame({"image": frames}))
    place = frames.groupby(sequence).rank(method="first")
    later = place > place.groupby(sequence).transform("max") / 2
    return samples["image"].map(dict(zip(frames, later, strict=True))).to_numpy()


def list_places(layers, alpha):
    """List single and joined layers that are tried with an ``alpha``."""
    some = [Joined(*few) for n in range(2, len(layers)) for few in combinations(layers, n)]
    every = [*layers, *some] if alpha in (DEFAULT, 1e-3) else []
    return [*every, Joined(*layers)]


def embed_candidates(model, layers, samples):
    """Return vectors and IoU, with the best bias, by (alpha, layer)."""
    found = {}
    for alpha in ALPHAS:
        places = list_places(layers, alpha)
        how = {"preprocess": NORMALIZE, "memory": False, "on_empty": "nan"}
        loce = LoCETransformer(model, places, alpha=alpha, **how).fit(samples)
        X = loce.transform(samples)
        iou = loce.evaluate(samples, X, bias="best")["iou"].to_numpy()
        spaces = np.split(X, np.cumsum(loce.n_channels_)[:-1], axis=1)
        for k, layer in enumerate(loce.layers_):
            found[alpha, layer] = spaces[k], iou[k :: len(places)]
    return found


def embed_means(model, layers, samples):
    """Return standardized averages at the joined layers, by what becomes of the background."""
    how = {"preprocess": NORMALIZE, "memory": False, "standardize": True}
    return {
        background: MaskedMeanTransformer(
            model, Joined(*layers), background=background, **how
        ).fit_transform(samples)
        for background in BACKGROUNDS
    }


def put_beside(X, means, weight):
    """Concatenate unit vectors and ``weight`` times unit averages."""
    return np.hstack([normalize(X), weight * normalize(means)])


def list_candidates(vectors, means):
    """Return (alpha, layer, average, weight), vectors and IoU of all candidates."""
    every = max((layer for _, layer in vectors), key=lambda layer: layer.count("+"))
    for (alpha, layer), (X, iou) in vectors.items():
        yield (alpha, layer, "none", 0.0), X, iou
        if layer != every:
            continue
        for name, average in means.items():
            for weight in WEIGHTS:
                yield (alpha, layer, name, weight), put_beside(X, average, weight), iou


def measure_halves(samples, candidates):
    """Return IoU and precision of each row, among rows of its half, by candidate."""
    later, found = halve(samples), {}
    y, sequences = samples["concept"].to_numpy(), sequence_of(samples).to_numpy()
    for name, X, iou in candidates:
        precision = np.empty(len(samples))
        for half in (~later, later):
            precision[half] = precision_of_rows(X[half], y[half], sequences[half])
        found[name] = {"IoU": iou, "P@10": precision}
    return found


def draw_half(samples, values, half):
    """Return each candidate's means in each draw of a half's frames."""
    rows = samples[half]
    frames = pd.factorize(rows["image"])[0]
    counts = draw_frames(frames.max() + 1)
    return {
        name: {
            "IoU": mean_by_draw(found["IoU"][half], frames, counts),
            "P@10": macro_by_draw(found["P@10"][half], rows["concept"], frames, counts),
        }
        for name, found in values.items()
    }


def is_single(name):
    """Say whether a candidate is a single layer with the defaults."""
    alpha, layer, average, _ = name
    return alpha == DEFAULT and "+" not in layer and average == "none"


def best_single(draws, measure):
    """Return the draws of the best single layer with the defaults."""
    return max((d[measure] for name, d in draws.items() if is_single(name)), key=lambda d: d[0])


def choose(draws):
    """Choose the candidate of the highest precision whose IoU comes up to the bar."""
    least = best_single(draws, "IoU")[0] + BAR
    alone = [name for name in draws if name[2] == "none"]
    able = [name for name in alone if draws[name]["IoU"][0] >= least]
    return max(able or alone, key=lambda name: draws[name]["P@10"][0])


def compare_with_single(draws, name):
    """Return how far a candidate is above the best single layer, with intervals over frames."""
    return {
        measure: interval(draws[name][measure] - best_single(draws, measure))
        for measure in ("IoU", "P@10")
    }


def describe_choice(samples, values):
    """Choose on each half, and compare on the other."""
    later = halve(samples)
    draws = [draw_half(samples, values, half) for half in (~later, later)]
    candidates = [
        {
            "setting": name,
            **{
                half: {measure: value[0] for measure, value in d[name].items()}
                for half, d in zip(HALVES, draws, strict=True)
            },
            "above single": compare_with_single(draws[1], name),
        }
        for name in values
    ]
    chosen = [choose(d) for d in draws]
    return {
        "candidates": candidates,
        "chosen": [
            {"setting": name, "above single": compare_with_single(other, name)}
            for name, other in zip(chosen, draws[::-1], strict=True)
        ],
    }


def measure_choice(options, samples, model):
    """Embed all candidates, choose and compare."""
    with threads(1):
        vectors = embed_candidates(model, options.layers, samples)
        means = embed_means(model, options.layers, samples)
    return describe_choice(samples, measure_halves(samples, list_candidates(vectors, means)))
