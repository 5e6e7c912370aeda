"""
=======================================
First LoCEs: do sub-concepts come back?
=======================================

A Local Concept Embedding (LoCE) is the 1x1 filter that, put on the activations of a network's
layer, best redraws the mask of one concept in one image. Every pair of image and concept gets a
vector, so a concept becomes a cloud of points, and structure inside a concept can be looked for
with the tools of scikit-learn.

Here the structure is known. The scenes are drawn, with two sub-concepts planted in six of eight
concepts: near and far cars, red and green buses, and so on. The network was trained to tell the
concepts apart and never saw a sub-concept's label. We compute one LoCE for every concept in every
scene, and see whether clusters inside a concept are the planted sub-concepts.
"""

# %%
# Scenes and a network
# --------------------
# ``scenes.data`` is a table with one row per image-concept pair: image, mask, concept. The network
# comes with the package.

from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=120, random_state=0)
model = load_scene_model()
print(f"{len(scenes.data)} image-concept pairs in 120 scenes")

# %%
# One vector per row
# ------------------
# ``TorchModel`` lets clones of the transformer share the network. ``features.2`` is a middle layer:
# deep enough to see objects, early enough to see their colours.

from sklearn_loce import LoCETransformer, TorchModel

loce = LoCETransformer(TorchModel(model), layer="features.2")
embeddings = loce.fit_transform(scenes.data)
print(f"LoCEs: {embeddings.shape[0]} rows, {embeddings.shape[1]} channels")

# %%
# How well do they redraw their masks?
# ------------------------------------
# The projection of each LoCE is compared with its mask by intersection over union (IoU).

quality = loce.evaluate(scenes.data, embeddings)
iou = quality["iou"].groupby(scenes.target).agg(["mean", "std", "count"])
print("\nIoU of projection and mask, per concept")
print(iou.round(2).to_string(index_names=False))
print(f"mean IoU {quality['iou'].mean():.2f}, failed LoCEs {quality['failed'].sum()}")

# %%
# Do the planted sub-concepts come back?
# --------------------------------------
# One pipeline leads from the table to cluster labels: LoCEs, their directions (vectors of length
# 1), every channel on the same scale, two clusters. ``pipeline.fit_predict(scenes.data)`` runs all
# of it; as the LoCEs are there already, the steps behind them will do. They are fitted to one
# concept at a time. The adjusted Rand index compares the clusters with what was planted: 1 is
# perfect, 0 is chance.

from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

pipeline = make_pipeline(
    loce, Normalizer(), StandardScaler(), KMeans(n_clusters=2, n_init=10, random_state=0)
)
print("\nPlanted sub-concepts found again (adjusted Rand index)")
for concept in scenes.target_names:
    rows = scenes.target == concept
    planted = scenes.sub_concepts[rows]
    if len(set(planted)) == 2:
        found = pipeline[1:].fit_predict(embeddings[rows])
        score = adjusted_rand_score(planted, found)
        print(f"{concept:<6}{score:5.2f}   {' | '.join(sorted(set(planted)))}")

# %%
# Which concepts does the network mix up?
# ---------------------------------------
# Car and taxi were made to be confused: only a small sign on the roof tells them apart. For every
# LoCE we ask whether the nearest one stands for another concept.

from sklearn.neighbors import NearestNeighbors

neighbours = NearestNeighbors(n_neighbors=1).fit(embeddings).kneighbors(return_distance=False)[:, 0]
print("\nNearest LoCE belongs to another concept")
for concept in scenes.target_names:
    nearest = scenes.target[neighbours[scenes.target == concept]]
    for other in sorted(set(nearest) - {concept}):
        print(f"{concept:<6}-> {other:<6}{(nearest == other).mean():5.0%}")

# %%
# A picture
# ---------
# For each planted sub-concept, the row of median IoU: the image with the outline of its mask, and
# below it the probabilities that the LoCE projects, with the same outline.

import matplotlib.pyplot as plt
from pycocotools.mask import decode


def median_row(sub_concept):
    """Position of the row whose IoU is the median of its sub-concept."""
    rows = (scenes.sub_concepts == sub_concept).nonzero()[0]
    return rows[quality["iou"].to_numpy()[rows].argsort()[len(rows) // 2]]


def draw_tile(ax, picture, mask, title, **style):
    """Show a picture with the outline of a mask, white on black."""
    ax.imshow(picture, **style)
    for colour, width in (("black", 2.6), ("white", 1.3)):
        ax.contour(mask, levels=[0.5], colors=colour, linewidths=width)
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()


concepts = ["sky", "tree", "house", "bus", "car", "taxi"]
figure, axes = plt.subplots(4, 6, figsize=(13.2, 7.6), layout="constrained")
for column, concept in enumerate(concepts):
    for half, sub_concept in enumerate(sorted(set(scenes.sub_concepts[scenes.target == concept]))):
        row = median_row(sub_concept)
        sample = scenes.data.iloc[[row]]
        mask = decode(sample["mask"].iloc[0])
        projection = loce.project(sample, embeddings[[row]], threshold=None)[0]
        top, bottom = axes[2 * half, column], axes[2 * half + 1, column]
        draw_tile(top, sample["image"].iloc[0], mask, sub_concept.replace("/", ": "))
        title = f"LoCE, IoU {quality['iou'].iloc[row]:.2f}"
        draw_tile(bottom, projection, mask, title, cmap="viridis", vmin=0, vmax=1)

figure.colorbar(
    axes[1, 0].images[0], ax=axes, shrink=0.5, label="projected probability of the concept"
)
figure.suptitle("Masks (white outline) and what one vector per mask makes of the activations")
figure.savefig("first_loces.png", dpi=110)
print("\nPicture written to first_loces.png")
