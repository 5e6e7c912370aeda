"""The part of the study on small objects: which remedies help if a mask covers only a few cells.

A projection may match a small mask because the layer represents the object, or because a filter of
many channels matches nearly any small shape. So the same shapes are measured at random places
without the concept, too. Only the difference belongs to the object.
"""

import time
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from pycocotools.mask import decode
from scipy.signal import fftconvolve
from sklearn.metrics.pairwise import cosine_similarity
from torchvision.transforms import v2

from benchmarks.measure import threads
from benchmarks.segmentation import NORMALIZE, sequence_of
from sklearn_loce import ActivationExtractor, Joined, LoCETransformer
from sklearn_loce.datasets import crop_samples

CONCEPTS = ("bicyclist", "pedestrian", "pole", "sign")
LAYER = "backbone.13"  # whose cells count
MOST_CELLS = 4
MASK_LAYERS = ((LAYER,), ("backbone.4", LAYER))
MASK_SIZES = ((100, 100), (200, 200))  # the default first
ENLARGED = 2
K = 10
WHOLE, LARGE, CROP = "whole image", "whole image, twice as large", "crop, as large as the image"


@dataclass(frozen=True)
class Way:
    """One way to embed small objects.

    Parameters
    ----------
    objective : str
    layers : tuple of str
        Joined if there are several.
    shown : str
        What the network sees.
    """

    objective: str
    layers: tuple
    shown: str = WHOLE

    def embedder(self, model, size, **others):
        """Make the transformer, for images of ``size``; with other parameters, if given."""
        layer = Joined(*self.layers) if len(self.layers) > 1 else self.layers[0]
        preprocess = NORMALIZE
        if self.shown != WHOLE:
            scale = ENLARGED if self.shown == LARGE else 1
            resize = v2.Resize([scale * n for n in size])
            preprocess = v2.Compose([resize, *NORMALIZE.transforms])
        how = {"objective": self.objective, "preprocess": preprocess, "memory": False}
        return LoCETransformer(model, layer, **how, **others)


def list_ways():
    """List all ways, the paper's first."""
    single, joined = (LAYER,), ("backbone.4", LAYER)
    return [
        Way("net2vec", single),
        Way("logistic", single),
        Way("logistic", ("backbone.16",)),
        Way("logistic", joined),
        Way("logistic", ("backbone.4", "backbone.16")),
        Way("logistic", ("backbone.4", "backbone.9", LAYER, "backbone.16")),
        Way("logistic", single, LARGE),
        Way("logistic", ("backbone.16",), LARGE),
        Way("logistic", joined, LARGE),
        Way("logistic", single, CROP),
    ]


def precision_of_rows(X, y, groups, k=K):
    """Return each row's share of its concept among its nearest rows, by cosine, of other groups."""
    y, groups = np.asarray(y), np.asarray(groups)
    similarity = cosine_similarity(X)
    similarity[groups[:, None] == groups] = -np.inf
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return (y[nearest] == y[:, None]).mean(axis=1)


def mean_of_concepts(values, y):
    """Average over the rows of each concept, then over concepts."""
    return float(pd.Series(values).groupby(np.asarray(y)).mean().mean())


def free_places(mask):
    """Say where the upper left corner of a mask's box may be moved without touching the mask.

    Returns
    -------
    shape : ndarray of shape (box_height, box_width), bool
    is_free : ndarray of shape (height - box_height + 1, width - box_width + 1), bool
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    shape = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    overlap = fftconvolve(mask.astype(float), shape[::-1, ::-1].astype(float), mode="valid")
    return shape, overlap < 0.5


def move_mask(mask, rng):
    """Put a mask's shape at a random place free of it; ``None`` if no such place exists."""
    shape, is_free = free_places(mask)
    places = np.argwhere(is_free)
    if not len(places):
        return None
    top, left = rng.choice(places)
    moved = np.zeros_like(mask)
    moved[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return moved


def move_masks(samples, random_state=0):
    """Move all masks; rows that can't be moved are left out."""
    rng = np.random.default_rng(random_state)
    moved = [move_mask(decode(mask).astype(bool), rng) for mask in samples["mask"]]
    samples = samples.assign(mask=moved)
    return samples[samples["mask"].notna()]


def embed_rows(embedder, samples):
    """Return vectors, the IoU of each row with the best bias, and the CPU time per row in ms."""
    embedder.fit_transform(samples[:1])  # compiles
    start = time.process_time()
    X = embedder.fit_transform(samples)
    took = time.process_time() - start
    iou = embedder.evaluate(samples, X, bias="best")["iou"].to_numpy()
    return X, iou, 1000 * took / len(samples)


def measure_way(way, model, size, samples, small, moved, **others):
    """Measure a way on small objects and, where it sees whole images, on all rows.

    The moved masks are rows of one table with the others, which share the images' passes.
    """
    sees_all = way.shown != CROP
    shown = samples if sees_all else small
    table = pd.concat([shown, moved], ignore_index=True)
    embedder = way.embedder(model, size, **others)
    X, iou, took = embed_rows(embedder, table if sees_all else crop_samples(table))
    drawn, control = pd.Series(iou[: len(shown)], shown.index), iou[len(shown) :]
    found = {
        "IoU": drawn[small.index].mean(),
        "IoU, moved": control.mean(),
        "gain": (drawn[moved.index].to_numpy() - control).mean(),
    }
    if sees_all:
        found["IoU, all"] = drawn.mean()
        found |= find_neighbours(X[: len(shown)], samples, samples.index.isin(small.index))
    return found | {"ms per row": took}


def find_neighbours(X, samples, is_small):
    """Return the precision of small rows' neighbors of other sequences, and of all rows'."""
    precision = precision_of_rows(X, samples["concept"], sequence_of(samples))
    everywhere = mean_of_concepts(precision, samples["concept"])
    return {"P@10": precision[is_small].mean(), "P@10, all": everywhere}


def find_small(samples, model, size):
    """Return the rows of small objects, of fewer cells than the bound."""
    image = NORMALIZE(v2.functional.to_image(np.zeros((*size, 3), dtype=np.uint8)))
    n_cells = ActivationExtractor(model, LAYER)(image[None])[LAYER].shape[2:].numel()
    is_small = samples["area"] * n_cells < MOST_CELLS
    return samples[is_small & samples["concept"].isin(CONCEPTS)]


def load_rows(samples, model):
    """Return the size of the images, all rows, those of small objects, and these moved."""
    samples = samples.reset_index(drop=True)
    size = samples["mask"][0]["size"]
    small = find_small(samples, model, size)
    return size, samples, small, move_masks(small)


def measure_small(options, samples, model):
    """Measure all ways; a list of dicts."""
    size, samples, small, moved = load_rows(samples, model)
    facts = {"rows": len(samples), "small": len(small), "moved": len(moved)}
    with threads(1):
        ways = [
            asdict(way) | {"quality": measure_way(way, model, size, samples, small, moved)}
            for way in list_ways()
        ]
    return facts | {"ways": ways}


def measure_masks(options, samples, model):
    """Measure finer masks, up to the image's own size, on one layer and on two; a list of dicts."""
    size, *rows = load_rows(samples, model)
    found = []
    with threads(1):
        for layers in MASK_LAYERS:
            for mask_size in (*MASK_SIZES, tuple(size)):
                way = Way("logistic", layers)
                quality = measure_way(way, model, size, *rows, mask_size=mask_size)
                found.append({"layers": layers, "mask_size": mask_size, "quality": quality})
    return found
