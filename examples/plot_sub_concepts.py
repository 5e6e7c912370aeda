"""
======================================
Sub-concepts: what hides in a concept?
======================================

Does a network split a concept into kinds that have no labels? To annotators, every house is one
concept. To a network, brick and plaster houses may be two. Such sub-concepts appear as clusters
among the LoCEs of one concept.

On real images nobody labels them. The package's scenes have two planted sub-concepts in each of six
concepts. So we can ask which clusterers find them, in which layer, and whether the objective
matters.
"""

# %%
# LoCEs by two objectives
# -----------------------
# "net2vec" is the objective of the paper, 50 steps of AdamW. "logistic" is a logistic regression of
# the pixels of the mask, with a ridge and a single optimum. One forward pass embeds all layers of
# the network.

import numpy as np
from sklearn.preprocessing import normalize

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=100, random_state=0)
rows = ~np.isin(scenes.target, ["road", "grass"])  # without sub-concepts
data, y, planted = scenes.data[rows], scenes.target[rows], scenes.sub_concepts[rows]

model, layers = TorchModel(load_scene_model()), [f"features.{i}" for i in range(1, 6)]
directions = {}
for objective in ("net2vec", "logistic"):
    loce = LoCETransformer(model, layers, objective=objective).fit(data)
    parts = np.split(loce.transform(data), np.cumsum(loce.n_channels_)[:-1], axis=1)
    for layer, part in zip(layers, parts, strict=True):
        directions[objective, layer] = normalize(part)
print(f"{len(data)} rows, {len(layers)} layers, {len(directions)} sets of LoCEs")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table, the network and the layers change::
#
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        coco = fetch_coco_val2017(categories=["car", "bus", "train", "boat"], min_area=0.02)
#        data, y = coco.data, coco.target
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        model = TorchModel(mobilenet_v3_large(weights=weights))
#        layers = ["features.6", "features.11", "features.14"]
#        loce = LoCETransformer(model, layers, preprocess=weights).fit(data)
#
#    The download has 1.1 GB. COCO has no planted sub-concepts: pass ``y`` instead of ``planted``,
#    and judge clusters by their pictures.

# %%
# A tree without labels
# ---------------------
# The tree has all rows of a middle layer. It is cut where a branch has at most 12 % of them, one
# and a half times the average share of one of twelve sub-concepts. The tree does not use concepts
# or sub-concepts; the strips below it show the planted ones.
#
# Most sub-concepts have a branch of their own. Near cars and near taxis share a branch, and so do
# far ones: in this layer, the distance is a larger difference than the sign on the roof. A search
# inside each concept would not find such a sub-concept.

import matplotlib.pyplot as plt

from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.plotting import DendrogramDisplay

X = directions["net2vec", "features.2"]
tree = ConceptAgglomerative(criterion="size", size=0.12).fit(X)
DendrogramDisplay.from_estimator(tree, X, planted)

# %%
# What the clusters show
# ----------------------
# A cluster has no name, so look at its most central rows. The picture shows all clusters with cars,
# taxis and buses.

from sklearn_loce.plotting import ClusterGalleryDisplay

vehicles = np.unique(tree.labels_[np.isin(y, ["bus", "car", "taxi"])])
ClusterGalleryDisplay.from_embeddings(X, data, tree.labels_, clusters=vehicles, n_tiles=5)

# %%
# The channels of a sub-concept
# -----------------------------
# Which channels differ between brick and plaster houses? The picture shows the largest weights of
# each kind, among houses alone. If a gray mark is outside the box, the other kind differs in this
# channel.

from sklearn_loce.plotting import ChannelDisplay

houses = y == "house"
figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
for ax, group in zip(axes, np.unique(planted[houses]), strict=True):
    ChannelDisplay.from_embeddings(X[houses], planted[houses], group=group, n_channels=8, ax=ax)

# %%
# Mixtures after UMAP
# -------------------
# The paper maps the vectors to the plane with UMAP and fits a Gaussian mixture to each concept
# there. BIC chooses the number of components. BIC judges the map and not the vectors: with more
# neighbors, UMAP closes gaps inside small concepts; with fewer, it tears concepts into more pieces
# than were planted. Here BIC chooses too few components. A concept with one component has the index
# 0, although the tree has found both sub-concepts in the same vectors.

from sklearn.metrics import adjusted_rand_score

from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.plotting import ConceptMapDisplay
from sklearn_loce.utils import UnsupervisedUMAP

plane = UnsupervisedUMAP(n_neighbors=50, min_dist=0.9, n_jobs=1, random_state=0).fit_transform(X)
mixture = ConceptGaussianMixture(max_components=4, random_state=0).fit(plane, y)
ConceptMapDisplay.from_embeddings(X, y, embedding=plane, mixture=mixture)


def rand_index(labels, concept):
    """Compare the clusters of one concept's rows with the planted ones."""
    return adjusted_rand_score(planted[y == concept], labels[y == concept])


print("        mixture: components, adjusted Rand index      tree: adjusted Rand index")
for concept in np.unique(y):
    n_components = (mixture.component_concepts_ == concept).sum()
    scores = [rand_index(labels, concept) for labels in (mixture.labels_, tree.labels_)]
    print(f"{concept:<8}{n_components:19}{scores[0]:23.2f}{scores[1]:31.2f}")

# %%
# Which layer, which objective?
# -----------------------------
# Ward's linkage finds two clusters inside each concept. The adjusted Rand index compares them with
# the planted sub-concepts: 1 is perfect, 0 is chance. Points are means over concepts. Bars show how
# the means vary if a random fifth of the scenes is left out.

import pandas as pd
from sklearn.cluster import AgglomerativeClustering
from sklearn.model_selection import GroupShuffleSplit

splits = GroupShuffleSplit(n_splits=5, test_size=0.2, random_state=0)
samples = [kept for kept, _ in splits.split(data, groups=data["image_id"])]
ward = AgglomerativeClustering(n_clusters=2)
records = []
for (objective, layer), Z in directions.items():
    for sample, kept in enumerate(samples):
        for concept in np.unique(y):
            own = kept[y[kept] == concept]
            score = adjusted_rand_score(planted[own], ward.fit_predict(Z[own]))
            records.append((objective, layer, sample, concept, score))
table = pd.DataFrame(records, columns=["model", "layer", "sample", "concept", "score"])
print(table.pivot_table("score", ["model", "layer"], "concept").round(2).to_string())

# %%
# The colors of sky, houses and buses are lost on the way to the last layer. Near and far differ in
# size, and this difference stays. The difference in the shape of trees becomes smaller. A
# network that is trained to separate concepts does not need the color of a bus. So if you find no
# sub-concept, it may be missing in the layer and not in the images. In most layers, "logistic"
# finds more than the paper's objective in the same activations.

from sklearn_loce.plotting import LayerComparisonDisplay

means = table.groupby(["model", "layer", "sample"], sort=False)["score"].mean()
summary = means.groupby(["model", "layer"], sort=False).agg(["mean", "std"]).reset_index()
LayerComparisonDisplay(summary, metric="adjusted Rand index").plot()

plt.show()
