"""
===========================================
Comparing networks: what does training add?
===========================================

How much of a LoCE comes from training, and how much from the architecture alone? A LoCE is
optimized on its mask with any weights, so compare with random weights.

We compare three networks of one architecture, layer by layer: with random weights, after a few
steps of training, and fully trained. All are measured on the same rows, with repeated samples of
the images.
"""

# %%
# Three networks
# --------------
# The trained network comes with the package. The other two start from new random weights; one of
# them is trained for thirty steps to label each pixel with its concept.

import torch
from pycocotools.mask import decode
from torch.nn.functional import cross_entropy

from sklearn_loce.datasets import load_scene_model, make_scenes


def draw_weights(model, seed):
    """Return a network new random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model


def train(model, scenes, n_epochs, batch_size=8):
    """Train a network to label pixels with their concepts; 0 is the background."""
    classes = ["none", *scenes.target_names]
    images, labels = [], []
    for _, rows in scenes.data.groupby("image_id"):
        images.append(torch.from_numpy(rows["image"].iloc[0]).permute(2, 0, 1) / 255)
        masks = [classes.index(c) * decode(m) for c, m in rows[["concept", "mask"]].to_numpy()]
        labels.append(torch.from_numpy(sum(masks)).long())
    images, labels = torch.stack(images), torch.stack(labels)
    optimizer = torch.optim.AdamW(model.train().requires_grad_(True).parameters(), lr=3e-3)
    for _ in range(n_epochs):
        for batch in torch.arange(len(images)).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


models = {
    "random weights": draw_weights(load_scene_model(), seed=0),
    "30 steps": train(draw_weights(load_scene_model(), seed=0), make_scenes(80, random_state=1), 3),
    "trained": load_scene_model(),
}

# %%
# The same rows in every network and layer
# ----------------------------------------
# Random weights give small activations. The paper's objective takes steps of a fixed size, so its
# result depends on that scale. The logistic objective is solved to its optimum, and its ridge has
# the same effect at all scales, so it is the fairer choice. (``standardize=True`` is another.)
#
# All layers are computed in one pass and concatenated; ``n_channels_`` gives their widths.

import numpy as np

from sklearn_loce import LoCETransformer, TorchModel

scenes = make_scenes(n_samples=32, random_state=0)
layers = ["features.1", "features.2", "features.3", "features.4", "features.5"]
embeddings, iou = {}, {}
for name, model in models.items():
    loce = LoCETransformer(TorchModel(model), layers, alpha=1e-3).fit(scenes.data)
    quality, vectors = loce.evaluate(scenes.data, cv=2, flip=False, return_embeddings=True)
    parts = np.split(vectors, np.cumsum(loce.n_channels_)[:-1], axis=1)
    embeddings[name] = dict(zip(layers, parts, strict=True))
    iou[name] = dict(list(quality.groupby("layer")))

# %%
# Repeated samples
# ----------------
# ``compare_layers`` samples the same number of rows of every concept again and again, the same rows
# for every layer. With ``groups``, it samples images: the standard deviation is then that of
# images, and precision leaves out neighbors in the image of the query. All networks use the same
# seed, so they use the same samples. Layers of a single network need no arrays:
# ``compare_layers(loce, X, layers=layers)`` embeds the images.

import pandas as pd

from sklearn_loce.metrics import compare_layers

tables = {
    name: compare_layers(
        embeddings[name],
        scenes.target,
        groups=scenes.groups,
        iou=iou[name],
        n_repeats=20,
        random_state=0,
    )
    for name in models
}
deepest = pd.concat(tables, names=["network"]).query("layer == 'features.5'")
print("Means at features.5")
print(deepest.pivot_table(index="network", columns="metric", values="mean").round(2).to_string())

# %%
# IoU, precision and separation rise with training at every layer, but do not start from nothing.
# With random weights, projections match part of their masks, and LoCEs retrieve far better than
# chance, which is below 0.2, because color and position pass through. Judge a network against this
# floor.

from sklearn_loce.plotting import LayerComparisonDisplay

metrics = ["iou", "heldout_iou", "precision_at_10", "separation"]
display = LayerComparisonDisplay.from_table(tables, metrics)

# %%
# The curves show precision over the number of neighbors, for the deepest layer of each network. The
# width of a band is the standard deviation over concepts.

from sklearn_loce.plotting import PrecisionAtKDisplay

display = PrecisionAtKDisplay.from_embeddings(
    {name: embeddings[name]["features.5"] for name in models}, scenes.target, groups=scenes.groups
)

# %%
# How similar are the networks?
# -----------------------------
# You cannot compare vectors of two networks channel by channel. Linear CKA measures whether two
# networks arrange the rows in the same way, up to rotation and scale. Even random weights agree
# with the trained ones to some degree, so read a CKA next to that of a random network.

from sklearn_loce.metrics import compare_similarity

pairs = pd.concat(
    compare_similarity({name: embeddings[name][layer] for name in models}).assign(layer=layer)
    for layer in layers
)
with_trained = pairs[pairs["layer_b"] == "trained"].assign(std=np.nan)
scores = with_trained.rename(columns={"layer_a": "model", "linear_cka": "mean"})
display = LayerComparisonDisplay(scores, metric="linear CKA\nwith the trained network").plot()

# %%
# Which concepts does training separate?
# --------------------------------------
# Separation is the smallest distance between rows of two concepts over the largest distance in
# their union. With ``quantile``, single rows do not decide. Training separates nearly all pairs.
# Car and taxi, which differ only in a small sign on the roof, stay closest.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import SeparationDisplay

figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.8), layout="constrained")
for ax, name in zip(axes, ["random weights", "trained"], strict=True):
    SeparationDisplay.from_embeddings(
        embeddings[name]["features.5"],
        scenes.target,
        quantile=0.05,
        order=None,
        ax=ax,
        colorbar=ax is axes[-1],
        im_kw={"vmin": 0, "vmax": 1},
    )
    ax.set_title(name)

# %%
# Projections with random weights
# -------------------------------
# The picture shows the rows of one scene, with the LoCEs of ``features.5`` of both networks.

from sklearn_loce.plotting import ProjectionDisplay

for name in ("random weights", "trained"):
    loce = LoCETransformer(TorchModel(models[name]), "features.5", objective="logistic", alpha=1e-3)
    scene = scenes.data[scenes.groups == 0]
    display = ProjectionDisplay.from_estimator(loce.fit(scene), scene, n_cols=4)
    display.figure_.suptitle(name, fontsize="medium")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Networks of other architectures have other layers, which the picture shows side by side. Rows
#    are matched by position, so pass the same table to all networks::
#
#        from torchvision import models as zoo
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        coco = fetch_coco_val2017(categories=["car", "bus", "cat", "dog"], min_area=0.02)
#        vgg, resnet = zoo.VGG16_Weights.IMAGENET1K_V1, zoo.ResNet50_Weights.IMAGENET1K_V2
#        transformers = {
#            "VGG16": LoCETransformer(
#                TorchModel(zoo.vgg16(weights=vgg)), ["features.21", "features.28"], preprocess=vgg
#            ),
#            "ResNet-50": LoCETransformer(
#                TorchModel(zoo.resnet50(weights=resnet)), ["layer3", "layer4"], preprocess=resnet
#            ),
#        }
#
#    Use ``coco.data``, ``coco.target`` and ``coco.groups`` instead of those of the scenes, and
#    ``n_repeats=50`` as in the paper.
