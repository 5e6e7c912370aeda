"""
=====================================================
Segmenting unseen images: LoCE, GloCE and Net2Vec
=====================================================

A LoCE redraws the mask of one concept in the one image it was optimised on. Can one vector per
concept draw masks in images that it has never seen? There are two ways to get such a vector.
**GloCE** averages the LoCEs of the training images, each of which stands alone. **Net2Vec**
optimises a single vector over all training images at once, with the same objective.

We fit both on drawn scenes and compare their masks on scenes held out, concept by concept. The LoCE
of each held-out row stands beside them as a yardstick. It has seen the mask that it redraws, so it
is no competitor.
"""

# %%
# Scenes to learn from, and scenes to be asked about
# --------------------------------------------------
# ``data`` is a table with one row per image-concept pair: image, mask, concept. The network comes
# with the package. ``features.5`` is its last layer before the class scores.

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

train = make_scenes(n_samples=40, random_state=0).data
test = make_scenes(n_samples=20, random_state=1).data
loce = LoCETransformer(TorchModel(load_scene_model()), layer="features.5")
print(f"{len(train)} image-concept pairs to fit on, {len(test)} held out")

# %%
# Two segmenters
# --------------
# Both take the transformer as a parameter: it says which network, layer and objective. ``fit``
# needs masks; ``predict`` needs images and the names of concepts alone.

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
# A vector that many scenes agree on can beat the LoCE of the very image, as it does for cars: the
# objective is not the IoU, and the few pixels of a small object leave a LoCE much freedom, which
# the mean over scenes takes away.
#
# How much do the two agree?
# --------------------------
# Averaging and optimising arrive at nearly the same directions, and so at much the same masks.

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
# A picture
# ---------
# Above, for five concepts, the held-out row on which GloCE is at its median: the image, and what
# the three vectors make of it, with the outline of the mask. Below, the mean IoU of every concept.

import matplotlib.pyplot as plt
from pycocotools.mask import decode


def median_row(concept):
    """Position of the row whose IoU under GloCE is the median of its concept."""
    rows = (test["concept"] == concept).to_numpy().nonzero()[0]
    return rows[iou["GloCE"].to_numpy()[rows].argsort()[len(rows) // 2]]


def draw_tile(ax, picture, mask, title, **style):
    """Show a picture with the outline of a mask, white on black."""
    ax.imshow(picture, **style)
    for colour, width in (("black", 2.6), ("white", 1.3)):
        ax.contour(mask, levels=[0.5], colors=colour, linewidths=width)
    ax.set_title(title, fontsize=10)
    ax.set(xticks=[], yticks=[])


def draw_column(axes, concept):
    """Show one row of the table: its image, and the probabilities by the three methods."""
    row = median_row(concept)
    sample = test.iloc[[row]]
    mask = decode(sample["mask"].iloc[0])
    maps = {
        "LoCE": loce.project(sample, embeddings[[row]], threshold=None)[0],
        "GloCE": gloce.predict_proba(sample)[0],
        "Net2Vec": net2vec.predict_proba(sample)[0],
    }
    draw_tile(axes[0], sample["image"].iloc[0], mask, concept)
    for ax, (method, probabilities) in zip(axes[1:], maps.items(), strict=True):
        title = f"IoU {iou[method].iloc[row]:.2f}"
        draw_tile(ax, probabilities, mask, title, cmap="viridis", vmin=0, vmax=1)


concepts = ["sky", "tree", "house", "bus", "car"]
figure = plt.figure(figsize=(12, 10.6), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[3.6, 1])
axes = above.subplots(4, len(concepts))
for column, concept in zip(axes.T, concepts, strict=True):
    draw_column(column, concept)
labels = ("held-out image", "LoCE\n(has seen this mask)", "GloCE", "Net2Vec")
for ax, label in zip(axes[:, 0], labels, strict=True):
    ax.set_ylabel(label, fontsize=11)
above.colorbar(
    axes[1, 0].images[0], ax=axes, shrink=0.5, label="projected probability of the concept"
)
above.suptitle("One vector per concept, on images that it has never seen (white: the true mask)")

bars = below.subplots()
means.plot.bar(ax=bars, rot=0, width=0.75, color=["0.72", "#31688e", "#e08214"])
bars.set(xlabel="", ylabel="mean IoU, held out", ylim=(0, 1))
bars.spines[["top", "right"]].set_visible(False)
bars.legend(ncols=3, loc="upper right", frameon=False)
figure.savefig("loce_gloce_net2vec.png", dpi=110)
print("\nPicture written to loce_gloce_net2vec.png")
