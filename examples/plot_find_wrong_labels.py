"""
=================
Find wrong labels
=================

Which annotations of a data set have a wrong label, and how do you correct the file? An object with
the wrong label looks like the objects of another concept, so its LoCE is near theirs.
:func:`~sklearn_loce.outliers.label_issues` ranks all rows by this, suggests a concept for each, and
gives the id of the annotation.
"""

# %%
# A file with wrong labels
# ------------------------
# We write scenes as a data set in COCO's format: a folder of images and a file of annotations.
# Twelve annotations get another category at random. With your own data, skip this step.

import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sklearn_loce.datasets import make_scenes, to_coco

scenes, folder = make_scenes(n_samples=100, random_state=0).data, Path(tempfile.mkdtemp())
for image_id, image in scenes.groupby("image_id")["image"].first().items():
    Image.fromarray(image).save(folder / f"{image_id}.png")
scenes["image"] = [folder / f"{image_id}.png" for image_id in scenes["image_id"]]
# The scenes' own ids would reveal the concepts.
content = to_coco(scenes.drop(columns="annotation_id"), image_dir=folder)

rng, truth = np.random.RandomState(0), {}
categories = [category["id"] for category in content["categories"]]
for annotation in rng.choice(content["annotations"], 12, replace=False):
    truth[annotation["id"]] = annotation["category_id"]
    others = np.setdiff1d(categories, annotation["category_id"])
    annotation["category_id"] = int(rng.choice(others))

file = folder / "annotations.json"
_ = file.write_text(json.dumps(content))

# %%
# Rank all labels
# ---------------
# With ``merge_instances=False``, every annotation is a row, and ``annotation_id`` is its id. If
# instances are merged, it is a tuple, and ``issues.explode("annotation_id")`` gives each id a row.
# With ``groups``, a row is compared only with rows of other images. For a video, pass the sequences
# as groups: neighboring frames are nearly the same picture and may share an error.

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import load_coco, load_scene_model
from sklearn_loce.outliers import label_issues

X = load_coco(file, folder, merge_instances=False).data
embeddings = LoCETransformer(TorchModel(load_scene_model()), layer="features.5").fit_transform(X)
issues = label_issues(
    embeddings, X["concept"], groups=X["image_id"], annotation_ids=X["annotation_id"]
)
issues.head(15).round(2)

# %%
# The confidence is above 0 if another concept is nearer than the given one. That alone is no error:
# the layer confuses car and taxi, which differ by a small sign on the roof. But then the confidence
# is low.

first = issues["annotation_id"].iloc[: len(truth)]
print(f"{(issues['confidence'] > 0).sum()} of {len(issues)} rows are nearer to another concept")
print(f"{first.isin(list(truth)).sum()} of {len(truth)} wrong labels are the first {len(truth)}")

# %%
# Look at the first rows
# ----------------------
# The title of each tile is the given and the suggested concept. The text below is the confidence
# and the id of the annotation.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import LabelIssuesDisplay

LabelIssuesDisplay.from_issues(issues, X, n_rows=16)

# %%
# Correct the file
# ----------------
# You change annotations by their ids. Here we accept all suggestions with a confidence above 0.5.
# To reject some suggestions, drop their ids, as in ``confirmed.drop([15])``.

confirmed = issues[issues["confidence"] > 0.5].set_index("annotation_id")["suggested"]

content = json.loads(file.read_text())
ids = {category["name"]: category["id"] for category in content["categories"]}
for annotation in content["annotations"]:
    if annotation["id"] in confirmed:
        annotation["category_id"] = ids[confirmed[annotation["id"]]]
_ = file.write_text(json.dumps(content))

# %%
# Here the truth is known. Exactly the wrong labels were changed, so now all labels are right.

mended = {a["id"]: a["category_id"] for a in content["annotations"] if a["id"] in confirmed}
print(f"{len(mended)} labels were changed. All are right now: {mended == truth}")
plt.show()
