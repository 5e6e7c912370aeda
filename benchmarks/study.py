"""The study of settings: IoU, retrieval and stability of the vectors.

Run ``python -m benchmarks.study``. It needs the CamVid scenes and the network trained on them, and
writes all numbers to ``benchmarks/study.json``. The page ``docs/study.md`` shows them. The scenes
that come with the package give the planted truth. ``--only`` measures some parts again.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pycocotools.mask import decode
from scipy.ndimage import binary_dilation
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler, normalize
from torchvision.transforms import v2

from benchmarks.measure import in_turn, median_ratio, threads
from benchmarks.segmentation import NORMALIZE, SHARED, WEIGHTS, load_network, sequence_of
from benchmarks.study_choice import measure_choice
from benchmarks.study_page import MASKED_MEAN, PAPER, RECOMMENDED, RESULTS, load_results
from benchmarks.study_parts import measure_parts
from benchmarks.study_scores import measure_scores
from benchmarks.study_small import measure_masks, measure_small
from sklearn_loce import (
    ActivationExtractor,
    Joined,
    LoCETransformer,
    MaskedMeanTransformer,
    TorchModel,
    optimize_loces,
)
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.corruptions import GaussianNoise
from sklearn_loce.datasets import load_coco, load_scene_model, make_scenes
from sklearn_loce.metrics import category_separation, precision_at_k, purity_score

LAYERS = ("backbone.4", "backbone.9", "backbone.13", "backbone.16")
SCENE_LAYERS = ("features.1", "features.2", "features.3", "features.4", "features.5")
SETTINGS = {  # parameters of LoCETransformer
    PAPER: {"objective": "net2vec"},
    "logistic": {"objective": "logistic"},
    "logistic, 3e-4": {"objective": "logistic", "alpha": 3e-4},
    "logistic, 1e-3": {"objective": "logistic", "alpha": 1e-3},
    "logistic, balanced": {"objective": "logistic", "class_weight": "balanced"},
    "logistic, unweighted": {"objective": "logistic", "class_weight": None},
    "logistic, standardized": {"objective": "logistic", "standardize": True},
    "jaccard": {"objective": "jaccard"},
    "jaccard, 1e-3": {"objective": "jaccard", "alpha": 1e-3},
    "dice, 1e-3": {"objective": "dice", "alpha": 1e-3},
}
MEANS = {  # parameters of MaskedMeanTransformer
    MASKED_MEAN: {},
    f"{MASKED_MEAN}, standardized": {"standardize": True},
    f"{MASKED_MEAN}, less background": {"background": "subtract"},
    f"{MASKED_MEAN}, both": {"standardize": True, "background": "subtract"},
}
JOINED = (PAPER, *MEANS, "logistic", "logistic, 1e-3")  # all layers joined, too
CHANGED = (PAPER, MASKED_MEAN, "logistic", "logistic, 1e-3")
NOISE = 5  # percent
DILATION = 2  # pixels
QUALITY = 50  # of JPEG
SMALLER = (270, 360)  # pixels, of 360 x 480
RESIZERS = ("area", "bilinear", "nearest")
TOLERANCES = (1e-4, 1e-6)  # the default first
OPTIMUM = 1e-10  # the tolerance to which optima are solved
K = 10
N_DRAWS = 3


def list_settings():
    """List the settings in the order of the tables."""
    return [PAPER, *MEANS, *(name for name in SETTINGS if name != PAPER)]


def make_embedder(setting, model, layers, **others):
    """Make the transformer of a setting; nothing is kept, so that all of it is computed."""
    others = {"memory": False, "on_empty": "nan", **others}
    if setting in MEANS:
        return MaskedMeanTransformer(model, layers, **MEANS[setting], **others)
    return LoCETransformer(model, layers, **SETTINGS[setting], **others)


def split_by_layer(embedder, X):
    """Return the vectors of each layer by its name."""
    ends = np.cumsum(embedder.n_channels_)[:-1]
    return dict(zip(embedder.layers_, np.split(X, ends, axis=1), strict=True))


def describe_space(X, samples):
    """Measure how the concepts lie in an embedding space, by cosine."""
    y = samples["concept"].to_numpy()
    clusters = ConceptAgglomerative(criterion="size").fit_predict(normalize(X))
    return {
        "P@10": precision_at_k(X, y, K, groups=sequence_of(samples)),
        "silhouette": silhouette_score(X, y, metric="cosine"),
        "separation": category_separation(X, y, metric="cosine", quantile=0.05),
        "purity": purity_score(y, clusters),
        "clusters": len(np.unique(clusters)),
    }


def dilate_masks(samples, n_pixels=DILATION):
    """Let every mask grow by some pixels."""
    masks = [binary_dilation(decode(m), iterations=n_pixels) for m in samples["mask"]]
    return samples.assign(mask=masks)


def make_disturbed(setting, model, layers):
    """Return transformers and changes of masks, by what they disturb."""
    make = partial(make_embedder, setting, model, layers)
    disturbed = {
        f"noise of {NOISE} %": (make(preprocess=see(GaussianNoise(NOISE)), random_state=0), None),
        f"masks {DILATION} px wider": (make(preprocess=NORMALIZE), dilate_masks),
    }
    if setting in SETTINGS:
        for method in RESIZERS:
            embedder = make(preprocess=NORMALIZE, mask_resize=method)
            disturbed[f"resize by {method}"] = (embedder, None)
    return disturbed


def make_changed(setting, model, layers):
    """Return transformers of images that are compressed, smaller or flipped, masks with them."""
    changes = {
        f"JPEG of quality {QUALITY}": v2.JPEG(QUALITY),
        "images at 3/4 of their size": v2.Resize(SMALLER),
        "images flipped": v2.RandomHorizontalFlip(1.0),
    }
    make = partial(make_embedder, setting, model, layers)
    return {name: (make(preprocess=see(change)), None) for name, change in changes.items()}


def see(change):
    """Let a change come before the normalization."""
    return v2.Compose([change, *NORMALIZE.transforms])


def compare_vectors(before, disturbed, samples):
    """Return median and lowest tenth of the cosine of vectors before and after a disturbance.

    And how many rows are lost, because their masks are empty once they are resized.
    """
    found = {layer: {} for layer in before}
    for name, (embedder, change) in disturbed.items():
        # Masks change after the fit; noise is in the preprocessing, and scales learn it, too.
        embedder.fit(samples)
        moved = embedder.transform(samples if change is None else change(samples))
        for layer, X in split_by_layer(embedder, moved).items():
            kept = np.isfinite(X).all(axis=1)
            cosine = 1 - paired_cosine_distances(before[layer][kept], X[kept])
            found[layer][name] = [np.median(cosine), np.quantile(cosine, 0.1), (~kept).sum()]
    return found


def measure_stability(options, samples, model, make=make_disturbed, settings=None):
    """Say how still vectors hold at single layers, by setting and layer."""
    layers, found = list(options.layers), {}
    for setting in options.settings if settings is None else settings:
        embedder = make_embedder(setting, model, layers, preprocess=NORMALIZE).fit(samples)
        before = split_by_layer(embedder, embedder.transform(samples))
        found[setting] = compare_vectors(before, make(setting, model, layers), samples)
    return found


def measure_setting(setting, model, layers, samples):
    """Measure space and IoU, with the best bias, of one setting at all layers."""
    if setting in JOINED and len(layers) > 1:
        layers = [*layers, Joined(*layers)]
    embedder = make_embedder(setting, model, layers, preprocess=NORMALIZE).fit(samples)
    X, results = embedder.transform(samples), {}
    iou = embedder.evaluate(samples, X, bias="best")["iou"].to_numpy()
    for k, (layer, space) in enumerate(split_by_layer(embedder, X).items()):
        drawn = pd.Series(iou[k :: len(layers)])
        results[layer] = {
            "quality": {"IoU": drawn.mean(), **describe_space(space, samples)},
            "concepts": drawn.groupby(samples["concept"].to_numpy()).mean().to_dict(),
        }
    return results


def measure_quality(options, samples, model):
    """Measure all settings at all layers; by setting, then by layer."""
    layers = list(options.layers)
    return {name: measure_setting(name, model, layers, samples) for name in options.settings}


def thin_out(samples, n_images):
    """Return the rows of images at equal steps, ``n_images`` or some more."""
    images = samples["image"].unique()
    return samples[samples["image"].isin(images[:: max(1, len(images) // n_images)])]


def load_work(samples, model, layers):
    """Return what is to be optimized at each layer: activations and masks, image by image."""
    extract = ActivationExtractor(model, list(layers))
    work = {layer: [] for layer in layers}
    for path, rows in samples.groupby("image", sort=False):
        pixels = NORMALIZE(v2.functional.to_image(Image.open(path).convert("RGB")))[None]
        masks = [decode(mask) for mask in rows["mask"]]
        for layer, grid in extract(pixels).items():
            work[layer].append((grid.expand(len(masks), -1, -1, -1), masks))
    return work


def measure_cost(options, samples, model):
    """Return each setting's seconds over those of the paper's 50 steps, at the same layer.

    The optimization alone, resizing of masks included, on one thread, in seconds of the processor;
    runs in turn, and of the ratios of single runs the median.
    """
    work = load_work(thin_out(samples, options.images), model, options.layers)
    with threads(1):
        return {layer: compare_cost(batches, options.repeats) for layer, batches in work.items()}


def compare_cost(batches, repeats):
    """Time all settings on the activations of some images; ratios, and the paper's ms per row."""

    def embed(parameters):
        for grid, masks in batches:
            optimize_loces(grid, masks, **parameters)

    sides = {
        name: partial(embed, parameters)
        for name, parameters in SETTINGS.items()
        if "standardize" not in parameters
    }
    times = in_turn(sides, repeats, clock=time.process_time)
    n_rows = sum(len(masks) for _, masks in batches)
    ratios = {name: median_ratio(took, times[PAPER]) for name, took in times.items()}
    return {"ms per row": 1000 * float(np.median(times[PAPER])) / n_rows, **ratios}


def measure_evaluation(options, samples, model):
    """Return the CPU time of `evaluate(cv=2)` and `score`, divided by that of `evaluate`."""
    some = thin_out(samples, options.images)
    how = {"preprocess": NORMALIZE, "memory": False, "on_empty": "nan"}
    found = {}
    with threads(1):
        for layer in options.layers:
            for name in (PAPER, "logistic", "jaccard"):
                loce = LoCETransformer(model, layer, **how, **SETTINGS[name]).fit(some)
                found.setdefault(layer, {})[name] = compare_evaluation(loce, some, options.repeats)
    return found


def compare_evaluation(loce, samples, repeats):
    """Time evaluations in turn; ratios to the plain one."""
    sides = {
        "evaluate": partial(loce.evaluate, samples),
        "evaluate, cv=2": partial(loce.evaluate, samples, cv=2),
        "score": partial(loce.score, samples),
    }
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of masks that stay put
        loce.evaluate(samples, cv=2)  # compiles
        times = in_turn(sides, repeats, clock=time.process_time)
    plain = times.pop("evaluate")
    return {name: median_ratio(took, plain) for name, took in times.items()}


def measure_convergence(options, samples, model):
    """Say how far the vectors are from the optimum, and which rows do not converge, by layer.

    Distances are measured on some images, rows that do not converge are counted on all.
    """
    some = thin_out(samples, options.images)
    with threads(1):
        near, work = (load_work(rows, model, options.layers) for rows in (some, samples))
        layers = {
            layer: measure_distances(near[layer]) | {"unconverged": count_by_setting(work[layer])}
            for layer in options.layers
        }
    counts = {"frames": samples, "compared frames": some}
    facts = {name: rows["image"].nunique() for name, rows in counts.items()}
    return facts | {"rows": len(samples), "compared rows": len(some), "layers": layers}


def measure_distances(batches):
    """Compare the recommended setting's vectors with the optimum, which is solved in float64.

    Distances are relative to the optimum's length: by tolerance the median and the largest. With
    them the largest gradient norm of an optimum, by which one sees that it is one.
    """
    solve = partial(optimize_loces, **SETTINGS[RECOMMENDED])
    distances, norms = {tol: [] for tol in TOLERANCES}, []
    for grid, masks in batches:
        optimum, info = solve(grid.double(), masks, tol=OPTIMUM, return_info=True)
        norms += info.gradient_norm.tolist()
        for tol, found in distances.items():
            away = (solve(grid, masks, tol=tol) - optimum).norm(dim=1)
            found += (away / optimum.norm(dim=1)).tolist()
    spread = {
        np.format_float_scientific(tol, trim="-", exp_digits=1): [np.median(found), np.max(found)]
        for tol, found in distances.items()
    }
    return {"distance": spread, "gradient norm": max(norms)}


def count_by_setting(batches):
    """Count the rows that do not converge, by setting of those that are solved to the end."""
    return {
        name: count_unconverged(batches, parameters)
        for name, parameters in SETTINGS.items()
        if name != PAPER and "standardize" not in parameters
    }


def count_unconverged(batches, parameters):
    """Count the rows whose gradient is larger at the end than the default tolerance."""
    n_rows = 0
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # they are counted
        for grid, masks in batches:
            how = {**parameters, "tol": TOLERANCES[0], "return_info": True}
            _, info = optimize_loces(grid, masks, **how)
            n_rows += int((info.gradient_norm > TOLERANCES[0]).sum())
    return n_rows


def make_clusterers():
    """Return two ways to look for two sub-concepts, by direction and by standardized direction."""
    means = partial(KMeans, 2, n_init=10, random_state=0)
    return {
        "directions": make_pipeline(Normalizer(), means()),
        "standardized directions": make_pipeline(Normalizer(), StandardScaler(), means()),
    }


def recover_sub_concepts(X, scenes, clusterer):
    """Return the adjusted Rand index of two clusters with what was planted, mean over concepts."""
    scores = []
    for concept in scenes.target_names:
        rows = scenes.target == concept
        planted = scenes.sub_concepts[rows]
        if len(set(planted)) == 2:
            scores.append(adjusted_rand_score(planted, clusterer.fit_predict(X[rows])))
    return float(np.mean(scores))


def measure_scenes(options, samples, model):
    """Return the recovery of planted sub-concepts, by clusterer, setting and layer."""
    draws = [make_scenes(options.scenes, random_state=seed) for seed in range(N_DRAWS)]
    model = TorchModel(load_scene_model())
    found = {name: {} for name in make_clusterers()}
    for setting in list_settings():
        embedder = make_embedder(setting, model, list(SCENE_LAYERS))
        spaces = [split_by_layer(embedder.fit(s.data), embedder.transform(s.data)) for s in draws]
        for name, clusterer in make_clusterers().items():
            found[name][setting] = {
                layer: np.mean(
                    [
                        recover_sub_concepts(space[layer], scenes, clusterer)
                        for space, scenes in zip(spaces, draws, strict=True)
                    ]
                )
                for layer in SCENE_LAYERS
            }
    return found


PARTS = {
    "quality": measure_quality,
    "stability": measure_stability,
    "changes": partial(measure_stability, make=make_changed, settings=CHANGED),
    "cost": measure_cost,
    "evaluation": measure_evaluation,
    "convergence": measure_convergence,
    "scenes": measure_scenes,
    "small": measure_small,
    "masks": measure_masks,
    "scores": measure_scores,
    "choice": measure_choice,
    "parts": measure_parts,
}


BY_SETTING = ("quality", "stability")


def as_number(value):
    """Let json write NumPy's numbers."""
    return value.item()


def read_options(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, default=SHARED / "camvid")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS))
    parser.add_argument("--settings", nargs="+", choices=list_settings(), default=list_settings())
    parser.add_argument("--frames", type=int, help="of all sequences together; default all")
    parser.add_argument("--images", type=int, default=10, help="that are timed and have optima")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def load_samples(options):
    """Load the rows, of all frames or of some that are spread over the sequences."""
    samples = load_coco(options.camvid / "annotations.json", options.camvid / "images").data
    if options.frames is None:
        return samples
    images = samples["image"].unique()
    chosen = images[np.linspace(0, len(images) - 1, options.frames).astype(int)]
    return samples[samples["image"].isin(chosen)]


def main(arguments=None):
    options = read_options(arguments)
    samples, model = load_samples(options), load_network(options.weights)
    results = {}
    if options.results.is_file():
        results = load_results(options.results)
    for name in options.only:
        found = PARTS[name](options, samples, model)
        if name in BY_SETTING:  # of those that were not measured again, the numbers stay
            known = results.get(name, {}) | found
            found = {setting: known[setting] for setting in list_settings() if setting in known}
        results[name] = found
        text = json.dumps(results, indent=1, default=as_number)
        options.results.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
