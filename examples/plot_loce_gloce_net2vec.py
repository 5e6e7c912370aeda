"""
=================================================
Segmenting unseen images: LoCE, GloCE and Net2Vec
=================================================

Can one vector per concept segment images that it has never seen? A LoCE belongs to one concept in
one image, on whose mask it was optimized. There are two ways to one vector per concept:

- **GloCE** averages the LoCEs of the training images.
- **Net2Vec** optimizes a single vector on all training images at once, with the same objective.

We fit both on some scenes and compare their masks on held-out scenes, concept by concept. The LoCE
of each held-out row is a reference and no competitor: it was optimized on the mask itself.
"""

# %%
# Training scenes and held-out scenes
# -----------------------------------
# The table has one row per image-concept pair: image, mask, concept. The network comes with the
# package. ``features.5`` is its last layer before the class scores. All vectors minimize the
# objective of the paper, which Net2Vec needs.

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

train = make_scenes(n_samples=40, random_state=0).data
test = make_scenes(n_samples=20, random_state=1).data
loce = LoCETransformer(TorchModel(load_scene_model()), layer="features.5", objective="net2vec")
print(f"{len(train)} image-concept pairs to fit on, {len(test)} held out")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the tables, the network and the layer change::
#
#        from sklearn.model_selection import GroupShuffleSplit
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        coco = fetch_coco_val2017(categories=["car", "bus", "train", "dog"], min_area=0.02)
#        split = GroupShuffleSplit(test_size=0.3, random_state=0)
#        folds = next(split.split(coco.data, groups=coco.groups))
#        train, test = (coco.data.iloc[rows] for rows in folds)
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        model = TorchModel(mobilenet_v3_large(weights=weights))
#        loce = LoCETransformer(
#            model, layer="features.14", preprocess=weights, objective="net2vec"
#        )
#
#    The download has 1.1 GB. For your own annotations in COCO's format, use ``load_coco``.

# %%
# Two segmenters
# --------------
# Both take the transformer as a parameter, with its network, layer and objective. ``fit`` needs
# masks; ``predict`` needs only images and the names of concepts.

from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter

gloce = ConceptSegmenter(loce).fit(train)
net2vec = Net2VecSegmenter(loce, random_state=0).fit(train)
masks = gloce.predict(test[["image", "concept"]])
print(f"{len(masks)} masks, the first of {masks[0].shape[0]} x {masks[0].shape[1]} pixels")

# %%
# IoU per concept on held-out scenes
# ----------------------------------

import pandas as pd

embeddings = loce.fit(test).transform(test)
iou = pd.DataFrame(
    {
        "LoCE": loce.evaluate(test, embeddings)["iou"],
        "GloCE": gloce.evaluate(test)["iou"],
        "Net2Vec": net2vec.evaluate(test)["iou"],
    }
)
means = iou.groupby(test["concept"]).mean().sort_values("LoCE", ascending=False)
print("\nMean IoU on held-out scenes")
print(means.round(2).to_string(index_names=False))
print("mean of all rows: " + ", ".join(f"{name} {value:.2f}" for name, value in iou.mean().items()))

# %%
# A vector of many scenes can be better than the LoCE of the image itself, as it is for cars: the
# objective is not the IoU, and the few pixels of a small object leave a LoCE much freedom. The mean
# over scenes removes this freedom.
#
# How much do the two agree?
# --------------------------
# Averaging and joint optimization give nearly the same directions, and so similar masks.

from sklearn.metrics.pairwise import paired_cosine_distances

cosines = 1 - paired_cosine_distances(gloce.embeddings_, net2vec.embeddings_)
overlap = pd.Series(
    [
        (one & other).sum() / max((one | other).sum(), 1)
        for one, other in zip(masks, net2vec.predict(test), strict=True)
    ],
    index=test.index,
)
print("\nGloCE and Net2Vec: cosine of the vectors, IoU of their masks")
for concept, cosine in zip(gloce.concepts_, cosines, strict=True):
    print(f"{concept:<6}{cosine:6.2f}{overlap[test['concept'] == concept].mean():6.2f}")

# %%
# The masks
# ---------
# The picture shows the held-out row with the median IoU of GloCE, for six concepts. The top of each
# tile is the image with the outline of the mask. The bottom is the projection, with probabilities
# from 0 (dark blue) to 1 (yellow).

import matplotlib.pyplot as plt

from sklearn_loce.plotting import ProjectionDisplay

by_iou = iou["GloCE"].to_numpy().argsort()
rows = []
for concept in ["sky", "road", "tree", "house", "bus", "car"]:
    ranked = by_iou[test["concept"].to_numpy()[by_iou] == concept]
    rows.append(ranked[len(ranked) // 2])

figure = plt.figure(figsize=(7.6, 7.2), layout="constrained")
parts = figure.subfigures(3, 1)
for part, estimator, name in zip(parts, [loce, gloce, net2vec], iou.columns, strict=True):
    part.suptitle(name + " (has seen these masks)" * (estimator is loce), fontweight="bold")
    vectors = embeddings if estimator is loce else None
    ProjectionDisplay.from_estimator(
        estimator, test, vectors, rows=rows, n_cols=6, colorbar=False, ax=part.subplots()
    )

# %%
# The scores
# ----------

figure, ax = plt.subplots(figsize=(7.6, 2.8), layout="constrained")
means.plot.bar(ax=ax, rot=0, width=0.75, color=["0.72", "#0072B2", "#E69F00"])
ax.set(xlabel="", ylabel="mean IoU, held out", ylim=(0, 1))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(ncols=3, loc="upper right", frameon=False)
plt.show()
