"""
==============================
Your own images and your model
==============================

How do you get LoCEs from a folder of images, a folder of masks and a network of your own? You need
a table with the columns ``image`` and ``mask``, a handle on the network, and the name of a layer.
This example shows all three, and the errors that you may meet.
"""

# %%
# A folder of images and masks
# ----------------------------
# For this example, we write scenes to a temporary folder, in two common ways: one PNG per image and
# concept, named after both, and one PNG per image with a number per concept.

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.mask import decode

from sklearn_loce.datasets import make_scenes

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
for name in ("images", "masks", "labels"):
    (folder / name).mkdir()
scenes = make_scenes(n_samples=24, random_state=0)
numbers = {concept: number for number, concept in enumerate(scenes.target_names, start=1)}
for image_id, rows in scenes.data.groupby("image_id"):
    name = f"scene{image_id:03d}"
    labels = np.zeros(rows["image"].iloc[0].shape[:2], dtype=np.uint8)
    for concept, mask in zip(rows["concept"], rows["mask"].map(decode), strict=True):
        Image.fromarray(255 * mask).save(folder / "masks" / f"{name}-{concept}.png")
        labels[mask > 0] = numbers[concept]
    Image.fromarray(labels).save(folder / "labels" / f"{name}.png")
    Image.fromarray(rows["image"].iloc[0]).save(folder / "images" / f"{name}.jpg", quality=95)
files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("scene000*"))
print(*files, sep="\n")

# %%
# The table
# ---------
# The table has one row per image-concept pair. You can pass paths: images and masks are read when
# they are needed. A mask may contain one value besides 0, here 255. All other columns are free:
# displays use ``concept``, and ``GroupKFold`` uses ``scene``.

import pandas as pd

paths = pd.Series(sorted((folder / "masks").glob("*.png")))
data = paths.map(lambda path: path.stem).str.extract(r"(?P<scene>.+)-(?P<concept>.+)")
data["image"] = [str(folder / "images" / f"{scene}.jpg") for scene in data["scene"]]
data["mask"] = paths.map(str)
print(data[["scene", "concept"]].head(3).to_string())
print(f"{len(data)} rows, {data['concept'].nunique()} concepts")

# %%
# Merged or single instances
# --------------------------
# :func:`~sklearn_loce.datasets.load_masks` reads masks with a number per concept, as in Cityscapes
# or ADE20K. Its parameter ``palette`` reads masks with a color per concept, as in CamVid.
#
# By default, all cars of an image are one row, as in the paper. With ``merge_instances=False``,
# each car is a row. If no file numbers the instances, connected regions count as instances. That is
# a guess: two cars that touch are one region, and a car behind a pole is two. Polygons separate
# instances: :func:`~sklearn_loce.datasets.load_coco`, :func:`~sklearn_loce.datasets.load_yolo` and
# :func:`~sklearn_loce.datasets.load_labelme` read them.

from sklearn_loce.datasets import load_masks

names = {number: concept for concept, number in numbers.items()}
how = {"ignore": [0], "categories": ["car"], "min_area": 40}
merged = load_masks(folder / "images", folder / "labels", names, **how)
single = load_masks(folder / "images", folder / "labels", names, merge_instances=False, **how)
print(f"{len(merged.data)} rows with all cars of an image, {len(single.data)} with one region each")

# %%
# The model
# ---------
# Any ``torch.nn.Module`` works. This one cuts the image into patches and mixes them with attention,
# as a vision transformer does. Its first axis is that of tokens, as in much code of this kind. Its
# weights are random, so this part shows only the steps, no results of a trained network.

import torch
from torch import nn


class PatchNet(nn.Module):
    """Patches of 8 x 8 pixels, two blocks of attention, one class token in front."""

    def __init__(self, n_channels=96, n_classes=8):
        super().__init__()
        self.patches = nn.Conv2d(3, n_channels, kernel_size=8, stride=8)
        self.token = nn.Parameter(torch.zeros(1, 1, n_channels))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(n_channels, nhead=4, dim_feedforward=192, dropout=0.0)
            for _ in range(2)
        )
        self.head = nn.Linear(n_channels, n_classes)

    def forward(self, images):
        """Class scores (n_images, n_classes) of images (n_images, 3, height, width)."""
        tokens = self.patches(images).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.token.expand(-1, len(images), -1), tokens])
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[0])


def build_model():
    """Build the network; load your weights here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PatchNet()


# %%
# ``TorchModel`` takes the module, or a function that builds it. Worker processes call the function,
# so they do not receive the weights. ``list_layers`` passes one image and lists the layers; the
# table shows only the upper levels.

from sklearn_loce import LoCETransformer, TorchModel, list_layers

model = TorchModel(build_model)
layers = list_layers(model, (120, 160))
print(layers[layers["name"].str.count(r"\.") < 2][["name", "output_shape"]].to_string())

# %%
# Preprocessing
# -------------
# A transform of ``torchvision.transforms.v2`` is applied to the image and its masks together, so
# they still match after a resize, a pad or a crop. Use the transform that the network was trained
# with.

from torchvision.transforms import v2

preprocess = v2.Compose(
    [
        v2.Resize((120, 160)),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25]),
    ]
)

# %%
# Tokens become a grid
# --------------------
# The output of ``patches`` is a grid (n_images, n_channels, height, width). The blocks have tokens,
# with the class token first and images on the second axis. The first pass is traced from the pixels
# to the layer, so each token gets its place in the image, and the class token is left out. The
# class scores of ``head`` have no places, so they raise an error.

from textwrap import fill

loce = LoCETransformer(model, "head", preprocess=preprocess)
try:
    loce.fit(data)
except ValueError as error:
    print(fill(f"{type(error).__name__}: {error}", width=96))

# %%
# ``reshape_transform`` is for networks that cannot be traced. It gets the raw output and returns a
# grid: here 15 x 20 patches of 8 pixels, without the class token. Both ways give the same vectors.


def tokens_to_grid(tokens):
    """Turn (n_tokens, n_images, n_channels) into (n_images, n_channels, height, width)."""
    _, n_images, n_channels = tokens.shape
    return tokens[1:].permute(1, 2, 0).reshape(n_images, n_channels, 15, 20)


settings = {"preprocess": preprocess, "objective": "logistic"}
on_patches = LoCETransformer(model, "patches", **settings)
on_blocks = LoCETransformer(model, "blocks.1", **settings)
for name, transformer in {"patches": on_patches, "blocks.1": on_blocks}.items():
    embeddings = transformer.fit_transform(data)
    first = transformer.get_feature_names_out()[0]
    iou = transformer.evaluate(data)["iou"].mean()
    print(f"{name}: {embeddings.shape}, first feature {first}, mean IoU {iou:.2f}")
reshaped = LoCETransformer(model, "blocks.1", reshape_transform=tokens_to_grid, **settings)
print("equal:", np.array_equal(reshaped.fit_transform(data), on_blocks.transform(data)))

# %%
# Other errors
# ------------
# An error names the row and the way out. With ``on_error="nan"``, a long run continues: rows that
# fail become rows of NaN, and a warning lists them.

empty, small = np.zeros((120, 160), dtype=bool), np.ones((60, 80), dtype=bool)
broken = {
    "no such layer": ("patch", data),
    "no such column": ("patches", data.drop(columns="mask")),
    "no such file": ("patches", data.replace(data["image"].iloc[0], str(folder / "lost.jpg"))),
    "an empty mask": ("patches", [(data["image"].iloc[0], empty)]),
    "a mask of another size": ("patches", [(data["image"].iloc[0], small)]),
}
for what, (layer, table) in broken.items():
    try:
        LoCETransformer(model, layer, preprocess=preprocess).fit_transform(table)
    except (ValueError, FileNotFoundError) as error:
        told = f"{type(error).__name__}: {str(error).replace(str(folder), 'folder')}"
        print(what, fill(told, 96, initial_indent="    ", subsequent_indent="    "), sep="\n")

# %%
# The projections
# ---------------
# The picture shows the rows of one image, with LoCEs of ``blocks.1``. A patch of 8 x 8 pixels is
# the finest detail of a projection here.

from sklearn_loce.plotting import ProjectionDisplay

scene = data[data["scene"] == "scene000"]
display = ProjectionDisplay.from_estimator(on_blocks, scene, n_cols=4)

# %%
# The picture shows all cars of an image as one row, and each car as its own row. The cosines below
# compare the merged LoCE with those of its parts, and the parts with each other.

pairs = single.data.groupby("image_id").filter(lambda rows: len(rows) == 2)
first = pairs["image_id"].iloc[0]
cars = pd.concat(
    [
        merged.data[merged.data["image_id"] == first].assign(concept="all cars"),
        pairs[pairs["image_id"] == first].assign(concept=["one car", "the other"]),
    ]
)
display = ProjectionDisplay.from_estimator(on_blocks, cars)
vectors = on_blocks.transform(cars)

from sklearn.metrics.pairwise import cosine_similarity

print(pd.DataFrame(cosine_similarity(vectors), cars["concept"], cars["concept"]).round(2))
temporary.cleanup()

# %%
# .. admonition:: On COCO with pretrained weights
#
#    One call makes the table from annotations in COCO's format, merged or with
#    ``merge_instances=False``. Weights of torchvision contain their preprocessing, and the tokens
#    of its vision transformers need no ``reshape_transform``::
#
#        from functools import partial
#        from torchvision.models import ViT_B_16_Weights, vit_b_16
#        from sklearn_loce.datasets import load_coco
#
#        coco = load_coco("instances_val2017.json", "val2017", categories=["car", "bus"],
#                         min_area=0.02)
#        weights = ViT_B_16_Weights.IMAGENET1K_V1
#        model = TorchModel(partial(vit_b_16, weights=weights))
#        loce = LoCETransformer(model, "encoder.layers.encoder_layer_8", preprocess=weights)
#        embeddings = loce.fit_transform(coco.data)
