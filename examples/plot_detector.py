"""
================================
LoCEs of a detector's detections
================================

Which detections of a detector are wrong? A detector gives boxes, names and scores. Each detection
gets a LoCE with its box as the mask. We ask whether its neighbors among the LoCEs of annotated
objects separate true from false detections, and whether they do so better than the detector's own
score.
"""

# %%
# A small detector
# ----------------
# The package has no pretrained detector. So torchvision's ``FCOS`` uses the features of the
# package's network, and its head is trained for a few seconds to find buses, cars and taxis. A car
# and a taxi differ only by a small sign on the roof, so there will be mistakes. This is a toy: it
# shows the method, not the quality of real detectors.

import torch
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from sklearn_loce.datasets import load_scene_model

torch.set_num_threads(1)  # the thread count changes the last bits of the training
names = ["background", "bus", "car", "taxi"]
backbone = load_scene_model().features
backbone.out_channels = 96
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    detector = FCOS(
        backbone,
        num_classes=len(names),
        min_size=120,
        max_size=160,
        image_mean=[0, 0, 0],
        image_std=[1, 1, 1],
        anchor_generator=AnchorGenerator(sizes=((16,),), aspect_ratios=((1.0,),)),
        head=FCOSHead(96, num_anchors=1, num_classes=len(names), num_convs=1),
        score_thresh=0.15,
    )

# %%
# A mask in the table contains all objects of a concept, but a detector needs one box per object.
# Cars of a scene are in lanes of their own, so each connected part of a mask is an object.

import numpy as np
from pycocotools.mask import decode
from scipy.ndimage import find_objects, label

from sklearn_loce.datasets import make_scenes


def annotate(scenes):
    """Return images (height, width, 3), and the boxes and labels of their vehicles."""
    pictures = scenes.data.groupby("image_id")["image"].first()
    boxes, labels = ([[] for _ in pictures] for _ in range(2))
    for row in scenes.data[scenes.data["concept"].isin(names)].itertuples():
        for rows, columns in find_objects(label(decode(row.mask))[0]):
            if min(rows.stop - rows.start, columns.stop - columns.start) >= 6:
                boxes[row.image_id].append([columns.start, rows.start, columns.stop, rows.stop])
                labels[row.image_id].append(names.index(row.concept))
    targets = [
        {
            "boxes": torch.tensor(b, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(k, dtype=torch.int64),
        }
        for b, k in zip(boxes, labels, strict=True)
    ]
    return list(pictures), targets


def as_tensors(pictures):
    """Scale images to [0, 1], channels first."""
    return [torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture in pictures]


pictures, targets = annotate(make_scenes(n_samples=160, random_state=1))
images = as_tensors(pictures)
n_steps = 90
detector.train()
backbone.eval().requires_grad_(False)
optimizer = torch.optim.AdamW(detector.head.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=n_steps)
generator = torch.Generator().manual_seed(0)
for _ in range(n_steps):
    batch = torch.randint(len(images), (8,), generator=generator).tolist()
    losses = detector([images[i] for i in batch], [targets[i] for i in batch])
    optimizer.zero_grad()
    sum(losses.values()).backward()
    optimizer.step()
    schedule.step()
detector.eval().requires_grad_(False)
print(", ".join(f"{name} {value.item():.2f}" for name, value in losses.items()))

# %%
# Detections become a table
# -------------------------
# ``from_detections`` reads the outputs and the targets of torchvision's detectors. They have boxes
# and no masks: ``mask="rectangle"`` makes masks of the boxes, and ``merge_instances=False`` keeps
# one row per box.

from sklearn_loce.datasets import from_detections

how = {"class_names": names, "mask": "rectangle", "merge_instances": False}
annotated = from_detections(pictures, targets, **how)
test_pictures, test_targets = annotate(make_scenes(n_samples=100, random_state=0))
outputs = detector(as_tensors(test_pictures))
found = from_detections(test_pictures, outputs, **how)

# %%
# A detection is true if it overlaps an annotated box of its concept with an IoU of at least 0.5. If
# it overlaps a box of another concept that much, its name is wrong. Otherwise its place is wrong.

import pandas as pd
from torchvision.ops import box_iou


def judge(output, target):
    """Judge detections, in the order of the table's rows, which is by label."""
    hits = box_iou(output["boxes"], target["boxes"]) >= 0.5
    same = output["labels"][:, None] == target["labels"]
    true, somewhere = (hits & same).any(dim=1), hits.any(dim=1)
    verdict = np.select([true, somewhere], ["true", "wrong name"], "wrong place")
    return verdict[output["labels"].argsort(stable=True)]


pairs = zip(outputs, test_targets, strict=True)
verdict = np.concatenate([judge(*pair) for pair in pairs])
print(pd.crosstab(found.target, verdict, rownames=["detected as"], colnames=[None]).to_string())

# %%
# LoCEs of boxes
# --------------
# The detector pads images of 120 x 160 to 128 x 160. LoCETransformer reads this from the detector's
# own transform and pads masks in the same way. The layer is the one that the head classifies.

from sklearn_loce import LoCETransformer, TorchModel

loce = LoCETransformer(TorchModel(detector), layer="backbone.4")
references = loce.fit_transform(annotated.data)
embeddings = loce.transform(found.data)
print(f"{len(references)} LoCEs of annotated boxes, {len(embeddings)} of detections")

# %%
# True or false?
# --------------
# The annotated LoCEs give two measures for each detection:
#
# - **Agreement** is the share of the 15 nearest LoCEs that show the concept of the detection.
# - **Nearness** is the mean cosine with the five nearest LoCEs of its concept.
#
# The area under the ROC curve is the chance that a true detection gets a higher value than a false
# one: 1 is perfect, 0.5 is chance.

from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

classifier = KNeighborsClassifier(n_neighbors=15, metric="cosine")
shares = classifier.fit(references, annotated.target).predict_proba(embeddings)
agreement = shares[np.arange(len(found.target)), classifier.classes_.searchsorted(found.target)]

nearness = np.empty(len(found.target))
for concept in classifier.classes_:
    nearest = NearestNeighbors(n_neighbors=5, metric="cosine")
    nearest.fit(references[annotated.target == concept])
    rows = found.target == concept
    nearness[rows] = 1 - nearest.kneighbors(embeddings[rows])[0].mean(axis=1)

score = found.data["score"].to_numpy()
measures = {
    "detector's score": score,
    "agreement": agreement,
    "nearness": nearness,
    "product of the three": score * agreement * nearness,
}
areas = pd.DataFrame(index=measures, columns=["wrong name", "wrong place"], dtype=float)
for kind in areas:
    rows = np.isin(verdict, ["true", kind])
    for name, measure in measures.items():
        areas.loc[name, kind] = roc_auc_score(verdict[rows] == "true", measure[rows])
print("Area under the ROC curve, true detections against those with a")
print(areas.round(2).to_string())

# %%
# The neighbors reveal wrong names, although they use only the detector's own features and some
# annotated boxes. Agreement is a weaker sign of wrong places: the LoCE of half a car still
# resembles those of cars. Nearness is a better sign, and it needs no false detections. The
# detector's score adds other information: all three together find wrong places best, and wrong
# names nearly as well as agreement does.

import matplotlib.pyplot as plt
from sklearn.metrics import RocCurveDisplay

figure, ax = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
for name, measure in measures.items():
    RocCurveDisplay.from_predictions(verdict == "true", measure, name=name, ax=ax)
ax.set(xlabel="share of false detections kept", ylabel="share of true detections kept")

# %%
# High scores with a low agreement
# --------------------------------
# These are the four detections with the highest scores among those with an agreement below one
# half. The nearest annotated boxes follow: a solid frame has the name of the detection, a dashed
# frame another name.

from sklearn_loce.plotting import RetrievalDisplay

doubtful = np.flatnonzero(agreement < 0.5)
doubtful = doubtful[np.argsort(-score[doubtful])][:4]
for row in doubtful:
    print(f"detected as {found.target[row]}, score {score[row]:.2f}: {verdict[row]}")
display = RetrievalDisplay.from_embeddings(
    references,
    annotated.data,
    queries=found.data.iloc[doubtful],
    query_embeddings=embeddings[doubtful],
    n_best=5,
    n_worst=0,
    crop=True,
)


# %%
# .. admonition:: On COCO with pretrained weights
#
#    The weights of a pretrained detector name its classes; COCO's annotations are the reference::
#
#        from torchvision.io import decode_image
#        from torchvision.models.detection import FCOS_ResNet50_FPN_Weights, fcos_resnet50_fpn
#
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        weights = FCOS_ResNet50_FPN_Weights.COCO_V1
#        detector = fcos_resnet50_fpn(weights=weights).eval()
#        annotated = fetch_coco_val2017(
#            categories=["car", "bus", "truck"], mask="rectangle", merge_instances=False
#        )
#        paths = list(annotated.data["image"].unique())
#        outputs = [detector([decode_image(path, "RGB") / 255])[0] for path in paths]
#        found = from_detections(
#            paths, outputs, class_names=weights.meta["categories"],
#            categories=["car", "bus", "truck"], min_score=0.3,
#            mask="rectangle", merge_instances=False,
#        )
#        loce = LoCETransformer(TorchModel(detector), layer="backbone.body.layer3")
#
#    The detector normalizes and resizes inside, so ``preprocess`` stays ``None``. Detections and
#    their neighbors should come from different images. A Mask R-CNN also gives masks: leave out
#    ``mask="rectangle"`` on both sides.
