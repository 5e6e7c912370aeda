"""
=======================================
First LoCEs: do sub-concepts come back?
=======================================

Do the LoCEs of one concept fall into its sub-concepts? This example computes LoCEs for a set of
scenes and answers that with a clusterer of scikit-learn. It is a good first example to read.

A Local Concept Embedding (LoCE) is the vector of a 1x1 filter. It is optimized so that its
projection onto the activations of a layer matches the mask of one concept in one image. So each
image-concept pair gets a vector, and a concept becomes a set of vectors.

The package's scenes have a known answer: six of eight concepts have two planted sub-concepts, for
example near and far cars, or red and green buses. The network was trained to separate the
concepts, without labels of sub-concepts.
"""

# %%
# Scenes and a network
# --------------------
# ``scenes.data`` is a table with one row per image-concept pair and the columns ``image``, ``mask``
# and ``concept``. The network comes with the package.

from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=120, random_state=0)
model = load_scene_model()
print(f"{len(scenes.data)} image-concept pairs in 120 scenes")

# %%
# One vector per row
# ------------------
# ``TorchModel`` lets all clones of the transformer share the network. ``features.2`` is a middle
# layer: deep enough to represent objects, early enough to represent their colors.

from sklearn_loce import LoCETransformer, TorchModel

loce = LoCETransformer(TorchModel(model), layer="features.2")
embeddings = loce.fit_transform(scenes.data)
print(f"LoCEs: {embeddings.shape[0]} rows, {embeddings.shape[1]} channels")

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table, the network and the layer change::
#
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        scenes = fetch_coco_val2017(categories=["car", "bus", "train", "dog"], min_area=0.02)
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        model = TorchModel(mobilenet_v3_large(weights=weights))
#        loce = LoCETransformer(model, layer="features.14", preprocess=weights)
#
#    The download has 1.1 GB. For your own annotations in COCO's format, use ``load_coco``. There
#    are no planted sub-concepts to compare with.

# %%
# How well do they match their masks?
# -----------------------------------
# ``evaluate`` compares the projection of each LoCE with its mask by intersection over union (IoU).

quality = loce.evaluate(scenes.data, embeddings)
iou = quality["iou"].groupby(scenes.target).agg(["mean", "std", "count"])
print("\nIoU of projection and mask, per concept")
print(iou.round(2).to_string(index_names=False))
print(f"mean IoU {quality['iou'].mean():.2f}, failed LoCEs {quality['failed'].sum()}")

# %%
# Do the planted sub-concepts come back?
# --------------------------------------
# One pipeline leads from the table to cluster labels: LoCEs, their directions (vectors of length
# 1), channels with equal variance, two clusters. ``pipeline.fit_predict(scenes.data)`` runs all
# steps. The LoCEs are known already, so only the later steps run here, for one concept at a time.
# The adjusted Rand index compares the clusters with the planted sub-concepts: 1 is perfect, 0 is
# chance.

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
# Which concepts does the layer confuse?
# --------------------------------------
# Car and taxi were made to be confused: they differ only in a small sign on the roof. The overlap
# of two concepts is the share of LoCEs that are closer to a LoCE of the other concept than to any
# other of their own. These pairs have the largest overlap.

from sklearn_loce.metrics import confused_concepts

pairs = confused_concepts(embeddings, scenes.target).head(3)
print("\nOverlap of concepts")
for pair in pairs.itertuples():
    print(f"{pair.concept_a:<6}and {pair.concept_b:<6}{pair.overlap:5.2f}")

# %%
# Another objective
# -----------------
# The LoCEs above minimize the default, ``objective="logistic"``: a logistic regression of the
# pixels of the mask, with a ridge and a single optimum. The objective of the paper is
# ``objective="net2vec"``. It takes 50 steps of AdamW, which can leave stray pixels in the
# projection. :ref:`sphx_glr_auto_examples_plot_sub_concepts.py` compares the two further.

from sklearn.base import clone

net2vec = clone(loce).set_params(objective="net2vec")
stepped = net2vec.fit_transform(scenes.data)
print("\nMean IoU by objective")
print(f"logistic  {quality['iou'].mean():.2f}")
print(f"net2vec   {net2vec.evaluate(scenes.data, stepped)['iou'].mean():.2f}")

# %%
# A picture
# ---------
# The picture shows the row of median IoU for each planted sub-concept. The top of each tile is the
# image with the outline of the mask. The bottom is the projection of the LoCE, as probabilities,
# with the same outline.

from sklearn_loce.plotting import ProjectionDisplay

by_iou = quality["iou"].to_numpy().argsort()
concepts = ["sky", "tree", "house", "bus", "car", "taxi"]
kinds = [sorted(set(scenes.sub_concepts[scenes.target == concept])) for concept in concepts]
rows = []
for sub_concept in [first for first, _ in kinds] + [second for _, second in kinds]:
    ranked = by_iou[scenes.sub_concepts[by_iou] == sub_concept]
    rows.append(ranked[len(ranked) // 2])
display = ProjectionDisplay.from_estimator(
    loce, scenes.data, embeddings, y=scenes.sub_concepts, rows=rows, n_cols=len(concepts)
)
display.figure_.savefig("first_loces.png", dpi=190)
print("\nPicture written to first_loces.png")
