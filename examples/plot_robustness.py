"""
=================================
How much noise do LoCEs tolerate?
=================================

How much does the embedding of a concept change if the camera is a little worse? We add noise to the
images, keep the masks, and embed every row again by three methods: LoCEs of the paper's objective,
LoCEs of the logistic objective, and the mean of the activations under the mask.

Noise may harm three things: how well the projection matches the mask, whether its nearest neighbors
show its concept, and its direction compared with that of the clean image.
"""

# %%
# Scenes and noise
# ----------------
# The noise of :mod:`sklearn_loce.corruptions` is a ``preprocess`` like any other. The pixels of an
# image seed its noise: each image has the same pattern at every level, only stronger. The network
# was trained on nearly clean scenes.

from sklearn_loce.corruptions import GaussianNoise
from sklearn_loce.datasets import make_scenes

scenes = make_scenes(n_samples=24, random_state=0)
levels = [0, 5, 10, 20, 40]
print(f"{len(scenes.data)} rows, noise of {levels} percent of the range from black to white")

# %%
import matplotlib.pyplot as plt
import torch

image = torch.from_numpy(scenes.data["image"].iloc[0]).permute(2, 0, 1)
figure, axes = plt.subplots(1, len(levels), figsize=(7.6, 1.4), layout="constrained")
for ax, level in zip(axes, levels, strict=True):
    ax.imshow(GaussianNoise(level)(image).permute(1, 2, 0))
    ax.set_title(f"{level} %")
    ax.set_axis_off()

# %%
# Embed every row at every level
# ------------------------------
# ``evaluate`` reuses the vectors that ``fit_transform`` has just computed.

import pandas as pd
from sklearn.base import clone
from sklearn.metrics.pairwise import paired_cosine_distances

from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel
from sklearn_loce.datasets import load_scene_model
from sklearn_loce.metrics import precision_at_k

loce = LoCETransformer(TorchModel(load_scene_model()), "features.4", objective="net2vec")
methods = {
    "net2vec": loce,
    "logistic, alpha=1e-4": clone(loce).set_params(objective="logistic", alpha=1e-4),
    "logistic, alpha=1e-2": clone(loce).set_params(objective="logistic", alpha=1e-2),
    "masked mean": MaskedMeanTransformer(loce.model, loce.layer),
}
embeddings, records = {}, []
for name, method in methods.items():
    for level in levels:
        embedder = clone(method).set_params(preprocess=GaussianNoise(level))
        embeddings[name, level] = embedder.fit_transform(scenes.data)
        distances = paired_cosine_distances(embeddings[name, 0], embeddings[name, level])
        record = {
            "method": name,
            "noise": level,
            "IoU": embedder.evaluate(scenes.data)["iou"].mean(),
            "precision at 5": precision_at_k(embeddings[name, level], scenes.target, k=5),
            "cosine": 1 - distances.mean(),
        }
        records.append(record)
results = pd.DataFrame(records).pivot_table(index="noise", columns="method")
results = results.reindex(columns=list(methods), level="method")
print(results.round(2).T.to_string())

# %%
# How to read a cosine
# --------------------
# You cannot compare cosines of two methods directly: most activations are positive, so their means
# point in similar directions anyway. The cosines between clean rows of the same concept, and of
# different concepts, are a baseline for each method.

import numpy as np
from sklearn.metrics.pairwise import cosine_similarity

same = scenes.target[:, None] == scenes.target
others = ~np.eye(len(same), dtype=bool)
clean = {name: cosine_similarity(embeddings[name, 0]) for name in methods}
baseline = pd.DataFrame(
    {
        "same concept": {name: cosines[same & others].mean() for name, cosines in clean.items()},
        "different concepts": {name: cosines[~same].mean() for name, cosines in clean.items()},
    }
)
print(baseline.round(2).to_string())

# %%
# Does the clean vector still work?
# ---------------------------------
# A LoCE of the noisy image may match the mask by other channels. A stricter test projects the LoCE
# of the clean image onto the noisy activations, as one would with a concept vector learned once.

results["IoU", "net2vec, clean vectors"] = [
    clone(loce)
    .set_params(preprocess=GaussianNoise(level))
    .fit(scenes.data)
    .evaluate(scenes.data, embeddings["net2vec", 0])["iou"]
    .mean()
    for level in levels
]
print(results["IoU"].round(2).T.to_string())

# %%
# Three curves of noise
# ---------------------
# Projections of LoCEs of noisy images still match their masks, although the direction of these
# LoCEs changes a lot. Logistic LoCEs with a weak ridge match best. LoCEs of clean images match
# less and less. In retrieval, the methods are close together: there, noise harms the activations
# themselves.

colors = dict(zip(methods, ["#0072B2", "#D55E00", "#009E73", "#CC79A7"], strict=True))
colors["net2vec, clean vectors"] = colors["net2vec"]
figure, axes = plt.subplots(3, 1, figsize=(6.4, 8.4), layout="constrained", sharex=True)
for ax, measure in zip(axes, ["IoU", "precision at 5", "cosine"], strict=True):
    results[measure].plot(ax=ax, marker="o", color=colors, legend=False)
    ax.set(ylabel=measure, xlabel="noise (percent)", xticks=levels)
    ax.grid(axis="y", linewidth=0.4)
axes[2].set_ylabel("cosine to the clean vector")
axes[0].lines[-1].set_linestyle("--")
axes[0].legend(fontsize="small")
_ = axes[2].legend(fontsize="small")

# %%
# Projections under noise
# -----------------------
# These are the rows of one scene with 20 % noise. The first picture shows LoCEs of the noisy image,
# and the second shows LoCEs of the clean image.

from sklearn_loce.plotting import ProjectionDisplay

clean_scene = scenes.data[scenes.groups == 0]
noisy_image = GaussianNoise(20)(image).permute(1, 2, 0).numpy()
noisy_scene = clean_scene.assign(image=[noisy_image] * len(clean_scene))
loce.fit(noisy_scene)
titles = {"LoCEs of the noisy image": None, "LoCEs of the clean image": clean_scene}
for title, table in titles.items():
    vectors = None if table is None else loce.transform(table)
    display = ProjectionDisplay.from_estimator(loce, noisy_scene, vectors, n_cols=4)
    display.figure_.suptitle(title, fontsize="medium")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Normalize after the noise, because noise is a share of the range from black to white::
#
#        from torchvision.models import ResNet50_Weights, resnet50
#        from torchvision.transforms import v2
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        coco = fetch_coco_val2017(categories=["car", "bus", "cat", "dog"], min_area=0.02)
#        weights = ResNet50_Weights.IMAGENET1K_V2
#        loce = LoCETransformer(TorchModel(resnet50(weights=weights)), "layer3", n_jobs=-1)
#        scale = v2.ToDtype(torch.float32, scale=True)
#        normalize = v2.Normalize(weights.transforms().mean, weights.transforms().std)
#        embedder = clone(loce).set_params(
#            preprocess=v2.Compose([GaussianNoise(level), scale, normalize])
#        )
#
#    Use ``coco.data`` and ``coco.target`` instead of those of the scenes. COCO's images differ in
#    size, so add a ``v2.Resize`` at the front for one scale.
