"""
=================================================
Retrieval and outliers: which images are similar?
=================================================

Which images are similar in a layer, and which rows do not fit their concept? The nearest LoCEs of
a LoCE answer the first question (retrieval). A LoCE far from all others of its concept answers the
second (outliers).

Here we know which outliers to expect, because we plant two kinds of annotation errors in a table of
scenes: wrong names and masks at the wrong place. For wrong names alone,
:ref:`sphx_glr_auto_examples_plot_find_wrong_labels.py` has a sharper tool.
"""

# %%
# Scenes with errors
# ------------------
# In every concept, two rows get the name of another concept, and two rows get the mirror image of
# their mask. The table is a data frame of pandas, so you change it with pandas.

import numpy as np
from pycocotools.mask import decode, encode

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_scene_model, make_scenes

scenes = make_scenes(n_samples=100, random_state=0)
data, error = scenes.data.copy(), np.full(len(scenes.data), "none", dtype=object)
rng = np.random.RandomState(0)
for concept in scenes.target_names:
    rows = rng.choice(np.flatnonzero(scenes.target == concept), 4, replace=False)
    error[rows[:2]], error[rows[2:]] = "name", "mask"
    others = [other for other in scenes.target_names if other != concept]
    data.loc[rows[:2], "concept"] = rng.choice(others, 2)
    for row in rows[2:]:
        mask = decode(data.at[row, "mask"])[:, ::-1]
        data.at[row, "mask"] = encode(np.asfortranarray(mask))
print(
    f"{len(data)} rows, {(error == 'name').sum()} wrong names, {(error == 'mask').sum()} mirrored"
)

# %%
# LoCEs of an early and a late layer
# ----------------------------------

model = TorchModel(load_scene_model())
loce = LoCETransformer(model, layer="features.5")
embeddings = loce.fit_transform(data)
shallow = LoCETransformer(model, layer="features.1").fit(data)
early = shallow.transform(data)

# %%
# .. admonition:: On COCO with pretrained weights
#
#    Only the table, the network and the layers change, and nothing is planted::
#
#        from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        data = fetch_coco_val2017(categories=["car", "bus", "cat", "dog"], min_area=0.02).data
#        weights = MobileNet_V3_Large_Weights.IMAGENET1K_V2
#        model = TorchModel(mobilenet_v3_large(weights=weights))
#        loce = LoCETransformer(model, layer="features.14", preprocess=weights)
#
#    The download has 1.1 GB. For your own annotations in COCO's format, use ``load_coco``.

# %%
# How good is retrieval?
# ----------------------
# Every row is the query once. Precision at k is the share of its k nearest rows that show the same
# concept. Car and taxi, which were made to be confused, have the lowest precision, most of all in
# the early layer. The planted errors count here: a wrong name is a wrong hit for the query and for
# its neighbors.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import PrecisionAtKDisplay

figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.6), sharey=True, layout="constrained")
for ax, layer, X in zip(axes, ["features.1", "features.5"], [early, embeddings], strict=True):
    PrecisionAtKDisplay.from_embeddings(X, data["concept"], k=[1, 5, 10, 20, 30, 40], ax=ax)
    ax.set_title(layer)

# %%
# Queries and their matches
# -------------------------
# The picture shows the nearest and the farthest rows of one car, one house and one tree, by cosine
# distance in the early layer. A dashed frame marks a nearest row with another name than the query.
# The orange area is the projection of the LoCE of each row, and the white line is its mask.

from sklearn_loce.plotting import RetrievalDisplay

fine = error == "none"
queries = [np.flatnonzero(fine & (scenes.target == name))[1] for name in ("car", "house", "tree")]
RetrievalDisplay.from_embeddings(
    early, data, queries=queries, n_best=5, n_worst=2, projector=shallow
)

# %%
# Outliers
# --------
# The detector scores each row by its mean distance from the other rows of its concept. Here it
# calls 5 % of every concept outliers. It does not use the planted errors.

from sklearn_loce.outliers import ConceptOutlierDetector

detector = ConceptOutlierDetector(contamination=0.05)
is_outlier = detector.fit_predict(embeddings, data["concept"]) == -1

# %%
# Dots are rows, and crosses are outliers. The tiles below are the most and the least outlying rows
# of three concepts, with the outlines of their masks.

from sklearn_loce.plotting import OutlierDisplay

OutlierDisplay.from_estimator(
    detector, embeddings, data, concepts=["bus", "house", "tree"], n_most=5, n_least=2
)

# %%
# Which errors are found?
# -----------------------
# The IoU of the projection is another sign of errors, and it needs no other rows. It cannot detect
# a wrong name, because the name does not change the projection. We compare both scores by the area
# under the ROC curve, for each kind of error against the rows without error: 1 is perfect, 0.5 is
# chance.

from sklearn.metrics import roc_auc_score

iou = loce.evaluate(data, embeddings)["iou"].to_numpy()
scores = {"distance": detector.training_scores_, "IoU": iou}
for kind in ("name", "mask"):
    rows = fine | (error == kind)
    print(f"\nwrong {kind}: {is_outlier[error == kind].sum()} of {(error == kind).sum()} found")
    for name, score in scores.items():
        auc = roc_auc_score(error[rows] == kind, -score[rows])
        print(f"  area under the ROC curve of the {name}: {auc:.2f}")
print(f"\nfalse alarms: {is_outlier[fine].sum()} of {fine.sum()} rows without error")

# %%
# What was missed
# ---------------
# These rows have an error but are no outliers. The car is large and in the middle of the
# image, so its mirrored mask still covers much of it. The other objects are small and also
# near the middle. The colors show hits, misses and spilled pixels of the projection.

from sklearn_loce.plotting import ProjectionDisplay

missed = np.flatnonzero((error != "none") & ~is_outlier)
for row in missed:
    print(f"row {row}: {scenes.target[row]}, called {data.at[row, 'concept']}, wrong {error[row]}")
ProjectionDisplay.from_estimator(
    loce, data, embeddings, rows=missed, n_cols=len(missed), kind="errors"
)

plt.show()
