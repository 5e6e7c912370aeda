"""
=============================================
Distributions: which concepts are kept apart?
=============================================

One LoCE per image turns a concept into a distribution of vectors. Where the distributions of two
concepts overlap, the network's layer does not tell them apart. Which pairs are confused, and does
a deeper layer put it right?

The answer is known here. In the drawn scenes, car and taxi are the one pair made to be confused:
both are the same drawing in the same paints, and a small sign on the roof makes a taxi.
"""

# %%
# LoCEs of two layers
# -------------------
# ``features.1`` is an early layer of the small network, ``features.5`` its last before the class
# scores. One transformer embeds both in one forward pass per image, and puts the vectors of the
# layers side by side.

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
#    The download has 1.1 GB. For annotations of your own in COCO's format there is ``load_coco``.

# %%
# Overlap
# -------
# Row A, column B: the share of A's vectors that lie closer to a vector of B than to any other of
# A. All colors share one scale, so that layers compare. Each LoCE sees only its own image, so the
# overlap is the layer's, not a classifier's.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import OverlapDisplay

figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for ax, (layer, embeddings) in zip(axes, layers.items(), strict=True):
    OverlapDisplay.from_embeddings(embeddings, scenes.target, metric="cosine", ax=ax)
    ax.set_title(layer)

# %%
# The pairs, ranked
# -----------------
# ``confused_concepts`` ranks all pairs by overlap. Given a clusterer, it also gives the share of
# a pair's rows lies in clusters that hold a good part of both. Here the tree is cut where 80 % of
# a cluster's rows show one concept, the paper's relaxed setting.

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
# Overlap is 0 for most pairs, and then says nothing about how far apart they are. Separation does:
# the smallest distance between rows of two concepts, relative to the largest. Car and taxi stay
# close in both layers: it takes two rows to lie side by side.

from sklearn_loce.plotting import SeparationDisplay

figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
for ax, (layer, embeddings) in zip(axes, layers.items(), strict=True):
    SeparationDisplay.from_embeddings(
        embeddings, scenes.target, metric="cosine", order=None, ax=ax, im_kw={"vmin": 0, "vmax": 1}
    )
    ax.set_title(layer)

# %%
# Purity
# ------
# How pure are clusters that were found without labels? More clusters are purer as a rule, and
# purity is 1 where every row is a cluster of its own. So it is read over their number.

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
# UMAP brings the vectors into a plane, and a Gaussian mixture per concept, of one or two components
# as BIC decides, is fitted there, as in the paper. The background is the concept that the mixtures
# find the most probable. In the early layer several concepts are two islands each, one for each
# sub-concept, and car and taxi share theirs. In the late one those islands have grown together,
# and car and taxi have some of their own. Read overlap from the heat maps, not from here:
# distances between islands mean little after UMAP.

from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.plotting import ConceptMapDisplay
from sklearn_loce.utils import UnsupervisedUMAP

umap = UnsupervisedUMAP(n_neighbors=100, min_dist=0.99, n_jobs=1, random_state=0)
mixture = ConceptGaussianMixture(max_components=2, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
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

# sphinx_gallery_thumbnail_number = 4
plt.show()
