"""
=======================================
Comparing networks: what training makes
=======================================

A LoCE is fitted to its mask, whatever the network has learned. So how much of what we see in LoCEs
comes from training, and how much does the architecture give for nothing?

We compare three networks of one architecture, layer by layer: with random weights, after a few
steps of training, and trained to the end. All are measured on the same rows, on repeated draws.
"""

# %%
# Three networks
# --------------
# The trained network comes with the package. Drawing its weights anew gives the random one, and
# thirty steps on drawn scenes the third: each pixel is to be given its concept.

# sphinx_gallery_thumbnail_number = 1
import torch
from pycocotools.mask import decode
from torch.nn.functional import cross_entropy

from sklearn_loce.datasets import load_scene_model, make_scenes


def draw_weights(model, seed):
    """Draw all weights of a network anew."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model


def train(model, scenes, n_epochs, batch_size=8):
    """Train a network to label pixels with their concepts; 0 is what belongs to none."""
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
# Random weights make small activations, and the paper's objective takes steps of a fixed size, so
# its result depends on that scale. The logistic objective is solved to its optimum, and its ridge
# means the same at all scales, so it is the fairer one here. (``standardize=True`` is another way.)
#
# Several layers are computed in one pass and come side by side; ``n_channels_`` gives their widths.

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
# Repeated draws
# --------------
# ``compare_layers`` draws the same number of rows of every concept again and again, the same rows
# for every layer, and measures each draw. With ``groups`` it draws images, so that the standard
# deviation is one over images, and precision leaves out neighbors in the query's own image. The
# seed is the same for all networks, and so are the draws. Layers of a single network need no
# arrays: ``compare_layers(loce, X, layers=layers)`` passes the images.

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
# IoU, precision and separation rise with training, at every layer, but not from nothing. On
# activations of random weights LoCEs redraw part of their masks and retrieve far better than
# chance, which is below 0.2: color and place in the image get through. That is the floor from
# which to judge a network.

from sklearn_loce.plotting import LayerComparisonDisplay

metrics = ["iou", "heldout_iou", "precision_at_10", "separation"]
display = LayerComparisonDisplay.from_table(tables, metrics)

# %%
# Precision over the number of neighbors, of the deepest layer of each network. A band is as wide as
# the concepts differ.

from sklearn_loce.plotting import PrecisionAtKDisplay

display = PrecisionAtKDisplay.from_embeddings(
    {name: embeddings[name]["features.5"] for name in models}, scenes.target, groups=scenes.groups
)

# %%
# How alike are the networks?
# ---------------------------
# Vectors of two networks can't be compared channel by channel. Linear CKA asks whether they lay out
# the rows alike, up to rotation and scale. Even random weights agree with the trained ones to some
# degree, so a value of CKA means little without that of a random network beside it.

from sklearn_loce.metrics import compare_similarity

pairs = pd.concat(
    compare_similarity({name: embeddings[name][layer] for name in models}).assign(layer=layer)
    for layer in layers
)
with_trained = pairs[pairs["layer_b"] == "trained"].assign(std=np.nan)
scores = with_trained.rename(columns={"layer_a": "model", "linear_cka": "mean"})
display = LayerComparisonDisplay(scores, metric="linear CKA\nwith the trained network").plot()

# %%
# Which concepts does training pull apart?
# ----------------------------------------
# Separation is the smallest distance between rows of two concepts over the largest distance in
# their union; ``quantile`` keeps single rows from deciding. Training pulls nearly all pairs far
# apart. Car and taxi, which differ in a small sign on the roof only, stay closest.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import SeparationDisplay

figure, axes = plt.subplots(1, 2, figsize=(9.4, 4.6), layout="constrained")
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
# What random weights draw
# ------------------------
# The rows of one scene, by LoCEs of ``features.5`` of both networks.

from sklearn_loce.plotting import ProjectionDisplay

for name in ("random weights", "trained"):
    loce = LoCETransformer(TorchModel(models[name]), "features.5", objective="logistic", alpha=1e-3)
    scene = scenes.data[scenes.groups == 0]
    display = ProjectionDisplay.from_estimator(loce.fit(scene), scene, n_cols=4)
    display.figure_.suptitle(name, fontsize="medium")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Networks of other architectures have other layers, shown side by side in the picture.
#    Rows are matched by position, so all networks get the same table::
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
#    ``coco.data``, ``coco.target`` and ``coco.groups`` take the place of those of the scenes; use
#    ``n_repeats=50`` as the paper does.
