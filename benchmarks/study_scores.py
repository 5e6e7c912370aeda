"""The part of the study on scores: which score agrees with retrieval across networks and layers.

A good score predicts retrieval without neighbors. So networks, layers and settings are ranked by
each score and by precision at 10 across sequences. Networks with random weights have as many
channels and cells as the trained network, but have learned nothing.
"""

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from benchmarks.measure import threads
from benchmarks.segmentation import NORMALIZE, sequence_of
from benchmarks.study_small import precision_of_rows
from sklearn_loce import Joined, LoCETransformer, TorchModel

TRAINED = "trained"
SEEDS = (0, 1)  # of random weights
SETTINGS = {
    "paper": {"objective": "net2vec"},
    "logistic": {"objective": "logistic"},
    "logistic, 1e-3": {"objective": "logistic", "alpha": 1e-3},
}
DEFAULT = "logistic"
STEP = 3  # every third frame is scored; neighbors are of all frames
N_DRAWS = 1000
LEVEL = 0.95
PRECISION = "P@10"
HELD_OUT, GAIN, PLAIN = "held-out IoU", "gain", "IoU"
SCORES = (HELD_OUT, f"{HELD_OUT}, best", f"{GAIN}, best", f"{PLAIN}, best", f"{PLAIN}, plain")


def random_network(seed):
    """Make a network of the trained one's architecture, with random weights."""
    torch.manual_seed(seed)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)
    return TorchModel(network.eval())


def load_networks(model):
    """Return the trained network and those with random weights, by name."""
    return {TRAINED: model} | {f"random {seed}": random_network(seed) for seed in SEEDS}


def score_rows(model, layers, parameters, samples):
    """Return scores and precision of some rows at all layers; one row per sample and layer.

    The score of the package draws with the bias that the objective draws with, the paper's with
    none. "best" is the best bias, "plain" none for the paper's objective, its own for the others.
    """
    how = {"preprocess": NORMALIZE, "memory": False, "on_empty": "nan", **parameters}
    loce = LoCETransformer(model, layers, **how).fit(samples)
    X, some = loce.transform(samples), find_some(samples)
    drawn, given = samples[some], X[some]
    found = loce.evaluate(drawn, given, cv=2)
    is_paper = parameters["objective"] == "net2vec"
    best = loce.evaluate(drawn, given, cv=2, bias="best") if is_paper else found
    plain = found if is_paper else loce.evaluate(drawn, given, bias="own")
    ends = np.cumsum(loce.n_channels_)[:-1]
    precision = [
        precision_of_rows(space, samples["concept"], sequence_of(samples))[some]
        for space in np.split(X, ends, axis=1)
    ]
    values = {
        PRECISION: np.column_stack(precision).ravel(),
        HELD_OUT: found["heldout_iou"],
        f"{HELD_OUT}, best": best["heldout_iou"],
        f"{GAIN}, best": best["gain"],
        f"{PLAIN}, best": best["iou"],
        f"{PLAIN}, plain": plain["iou"],
    }
    about = drawn.loc[found.index, ["image", "concept"]].reset_index(drop=True)
    values = {name: np.asarray(column) for name, column in values.items()}
    return about.assign(layer=found["layer"].to_numpy(), **values)


def find_some(samples):
    """Say which rows are of every third frame."""
    return samples["image"].isin(samples["image"].unique()[::STEP]).to_numpy()


def score_networks(networks, layers, samples):
    """Score all networks, settings and layers; of the trained one all layers joined, too."""
    joined = [Joined(*layers)] if len(layers) > 1 else []
    with threads(1):
        return pd.concat(
            score_rows(
                model, [*layers, *(joined if name == TRAINED else [])], parameters, samples
            ).assign(network=name, setting=setting)
            for name, model in networks.items()
            for setting, parameters in SETTINGS.items()
        )


def draw_frames(n_frames, n_draws=N_DRAWS, random_state=0):
    """Draw frames with replacement; how often each is drawn, (1 + n_draws, n_frames).

    The first draw holds each frame once: what is computed of it is the estimate itself.
    """
    rng = np.random.default_rng(random_state)
    counts = rng.multinomial(n_frames, np.full(n_frames, 1 / n_frames), size=n_draws)
    return np.concatenate([np.ones((1, n_frames), dtype=int), counts])


def mean_by_draw(values, frames, counts):
    """Return the mean of rows in each draw of frames; NaN is left out."""
    values, frames = np.asarray(values, dtype=float), np.asarray(frames)
    known, n_frames = np.isfinite(values), counts.shape[1]
    sums = np.bincount(frames[known], values[known], minlength=n_frames)
    with np.errstate(invalid="ignore"):  # a draw may hold no row
        return counts @ sums / (counts @ np.bincount(frames[known], minlength=n_frames))


def macro_by_draw(values, concepts, frames, counts):
    """Return the mean over concepts of their rows' means, in each draw of frames."""
    values, frames, concepts = map(np.asarray, (values, frames, concepts))
    means = [
        mean_by_draw(values[concepts == c], frames[concepts == c], counts)
        for c in np.unique(concepts)
    ]
    return np.nanmean(means, axis=0)


def interval(draws):
    """Return the estimate, which is the first draw, and the interval over the others."""
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return [draws[0], *np.nanquantile(draws[1:], tails)]


def rank_correlation(first, second):
    """Spearman's, of the columns of two arrays (n_draws, n_places), draw by draw."""
    ranks = [rankdata(values, axis=1) for values in (first, second)]
    first, second = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    norms = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return (first * second).sum(axis=1) / norms


def summarize_draws(rows, counts):
    """Return each score and the precision in each draw, by (network, setting, layer)."""
    rows = rows.assign(frame=pd.factorize(rows["image"])[0])
    places, draws = [], {name: [] for name in (PRECISION, *SCORES)}
    for place, group in rows.groupby(["network", "setting", "layer"], sort=False):
        places.append(place)
        draws[PRECISION].append(
            macro_by_draw(group[PRECISION], group["concept"], group["frame"], counts)
        )
        for name in SCORES:
            draws[name].append(mean_by_draw(group[name], group["frame"], counts))
    return places, {name: np.transpose(columns) for name, columns in draws.items()}


def correlate(places, draws, chosen):
    """Return the rank correlation of each score with precision over some places."""
    some = [k for k, place in enumerate(places) if chosen(*place)]
    return {
        name: interval(rank_correlation(draws[name][:, some], draws[PRECISION][:, some]))
        for name in SCORES
    }


def compare_default(places, draws):
    """Return the gain of the default over random weights and the paper's setting, by layer."""
    index, found = {place: k for k, place in enumerate(places)}, {}
    for place in places:
        network, setting, layer = place
        is_random, is_paper = network != TRAINED, setting == "paper"
        if is_random == is_paper or setting not in (DEFAULT, "paper"):
            continue
        ours, theirs = index[TRAINED, DEFAULT, layer], index[place]
        found.setdefault(layer, {})["paper" if is_paper else network] = {
            name: interval(draws[name][:, ours] - draws[name][:, theirs])
            for name in (f"{HELD_OUT}, best", f"{PLAIN}, best", PRECISION)
        }
    return found


def pick_layers(places, draws):
    """Return the layer of the trained network that each score picks, and its precision.

    By setting; among single layers, and among these and all of them joined.
    """
    found = []
    for setting in SETTINGS:
        for among, most in {"single": 0, "joined, too": len(places)}.items():
            some = [
                k
                for k, (network, its, layer) in enumerate(places)
                if (network, its) == (TRAINED, setting) and layer.count("+") <= most
            ]
            precision = draws[PRECISION][0, some]
            best = {name: int(np.argmax(draws[name][0, some])) for name in SCORES}
            picks = {name: [places[some[k]][2], precision[k]] for name, k in best.items()}
            about = {"setting": setting, "among": among, "best": precision.max()}
            found.append(about | {"picks": picks})
    return found


def describe_scores(rows, n_draws=N_DRAWS):
    """Summarize the rows of all networks, settings and layers."""
    n_frames = rows["image"].nunique()
    places, draws = summarize_draws(rows, draw_frames(n_frames, n_draws))
    chosen = {
        "all networks": lambda network, setting, layer: True,
        "all networks, default setting": lambda network, setting, layer: setting == DEFAULT,
        "trained network": lambda network, setting, layer: network == TRAINED,
    }
    return {
        "frames": n_frames,
        "places": [
            dict(zip(("network", "setting", "layer"), place, strict=True))
            | {"values": {name: values[0, k] for name, values in draws.items()}}
            for k, place in enumerate(places)
        ],
        "correlation": {name: correlate(places, draws, of) for name, of in chosen.items()},
        "default above": compare_default(places, draws),
        "picks": pick_layers(places, draws),
    }


def measure_scores(options, samples, model):
    """Score networks, settings and layers, and give the summary."""
    return describe_scores(score_networks(load_networks(model), options.layers, samples))
