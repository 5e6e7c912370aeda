"""
=============================================
Distributions: which concepts are kept apart?
=============================================

Which concepts does a layer confuse, and does a deeper layer separate them? The LoCEs of a concept
form a distribution, and a layer confuses two concepts if their distributions overlap.

In the package's scenes, the answer is known. Car and taxi are the one pair that was made to be
confused: both are the same drawing in the same colors, and a taxi has a small sign on its roof.
"""

# %%
# LoCEs of two layers
# -------------------
# ``features.1`` is an early layer of the small network, and ``features.5`` is its last layer before
# the class scores. One transformer embeds both in one forward pass per image and concatenates
# their vectors.

import numpy as np

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=100, random_state=0)
loce = LoCETransformer(TorchModel(load_scene_model()), layer=["features.1", "features.5"])
both = loce.fit_transform(scenes.data)
parts = np.split(both, np.cumsum(loce.n_channels_)[:-1], axis=1)
layers = dict(zip(loce.layers_, parts, strict=True))
for layer, embeddings in layers.items():
    print(f"{layer}: {embeddings.shape[0]} LoCEs of {embeddings.shape[1]} channels")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table, the network and the layers change::
#
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        concepts = ["car", "bus", "truck", "train", "motorcycle", "bicycle"]
#        scenes = fetch_coco_val2017(categories=concepts, min_area=0.02)
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        loce = LoCETransformer(
#            TorchModel(mobilenet_v3_large(weights=weights)),
#            layer=["features.6", "features.14"],
#            preprocess=weights,
#        )
#
#    The download has 1.1 GB. For your own annotations in COCO's format, use ``load_coco``.

# %%
# Overlap
# -------
# The cell in row A and column B is the share of A's vectors that are closer to a vector of B than
# to any other vector of A. All cells share one color scale, so you can compare layers. Each LoCE
# uses only its own image, so the overlap belongs to the layer and not to a classifier.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import OverlapDisplay

figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.7), layout="constrained")
for ax, (layer, embeddings) in zip(axes, layers.items(), strict=True):
    OverlapDisplay.from_embeddings(
        embeddings, scenes.target, metric="cosine", ax=ax, im_kw={"vmin": 0, "vmax": 0.4}
    )
    ax.set_title(layer)

# %%
# The pairs, ranked
# -----------------
# ``confused_concepts`` ranks all pairs by overlap. With a clusterer, it also gives the share of
# rows of a pair that lie in clusters with a good part of both. Here the tree is cut where 80 % of
# the rows of a cluster show one concept, the relaxed setting of the paper.

from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.metrics import confused_concepts

for layer, embeddings in layers.items():
    pairs = confused_concepts(
        embeddings, scenes.target, clusters=ConceptAgglomerative(purity=0.8), metric="cosine"
    )
    columns = ["concept_a", "concept_b", "overlap", "separation", "mixed_cluster_share"]
    print(f"\n{layer}: the three most confused pairs")
    print(pairs[columns].head(3).round(2).to_string(index=False))

# %%
# Separation
# ----------
# The overlap of most pairs is 0, so it does not show how far apart they are. Separation does: it is
# the smallest distance between rows of two concepts, relative to the largest. Car and taxi stay
# close in both layers. Two rows side by side are enough for that.

from sklearn_loce.plotting import SeparationDisplay

figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.7), layout="constrained")
for ax, (layer, embeddings) in zip(axes, layers.items(), strict=True):
    SeparationDisplay.from_embeddings(
        embeddings, scenes.target, metric="cosine", order=None, ax=ax, im_kw={"vmin": 0, "vmax": 1}
    )
    ax.set_title(layer)

# %%
# Purity
# ------
# How pure are clusters that were found without labels? Purity usually rises with the number of
# clusters, and it is 1 if every row is its own cluster. So the curve shows purity over the number
# of clusters.

from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from sklearn_loce.metrics import purity_score

n_clusters = np.arange(2, 25, 2)
figure, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
for (layer, embeddings), marker in zip(layers.items(), "os", strict=True):
    directions = normalize(embeddings)
    purity = [
        purity_score(scenes.target, KMeans(n, n_init=3, random_state=0).fit_predict(directions))
        for n in n_clusters
    ]
    ax.plot(n_clusters, purity, marker=marker, label=layer)
ax.axvline(len(scenes.target_names), color="0.6", linestyle=":", label="number of concepts")
ax.set(xlabel="k-means clusters", ylabel="purity", ylim=(None, 1.02))
ax.legend(frameon=False)

# %%
# The map
# -------
# UMAP maps the vectors to the plane. As in the paper, a Gaussian mixture is fitted there to each
# concept, with one or two components by BIC. The background color is the most probable concept. In
# the early layer, several concepts have two islands, one per sub-concept, and car and taxi share
# theirs. In the late layer, these islands have merged, and car and taxi have some of their own. To
# judge overlap, use the heat maps: distances between islands mean little after UMAP.

from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.plotting import ConceptMapDisplay
from sklearn_loce.utils import UnsupervisedUMAP

umap = UnsupervisedUMAP(n_neighbors=100, min_dist=0.99, n_jobs=1, random_state=0)
mixture = ConceptGaussianMixture(max_components=2, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.7), layout="constrained")
for ax, (layer, embeddings) in zip(axes, layers.items(), strict=True):
    ConceptMapDisplay.from_embeddings(
        normalize(embeddings),
        scenes.target,
        embedding=umap,
        mixture=mixture,
        regions=True,
        ax=ax,
    )
    ax.set_title(layer)

plt.show()
