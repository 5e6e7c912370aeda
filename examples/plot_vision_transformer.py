"""
=============================
LoCEs of a vision transformer
=============================

Can a vision transformer (ViT) have LoCEs, although it has no feature maps? Its blocks pass on a
list of tokens: one per patch of the image, and a class token in front. This example turns tokens
into a grid and compares the LoCEs of each block with those of a convolutional network.
"""

# %%
# A small ViT
# -----------
# The package has no pretrained ViT, so we train torchvision's ``VisionTransformer`` for a few
# seconds. It takes images of 96 x 96 pixels in patches of 8 x 8, which makes 144 tokens. The scenes
# have 120 x 160 pixels. They are resized without a crop, which would cut concepts away.

import torch
from torchvision.models import VisionTransformer
from torchvision.transforms import v2

from sklearn_loce.datasets import load_scene_model, make_scenes

torch.set_num_threads(1)  # the thread count changes the last bits of the training
preprocess = v2.Compose([v2.Resize((96, 96)), v2.ToDtype(torch.float32, scale=True)])
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    vit = VisionTransformer(
        image_size=96, patch_size=8, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128
    )
    vit.heads = torch.nn.Linear(64, 9)

# %%
# The ViT learns which share of a patch each of the eight concepts covers. The background is the
# ninth class.

import numpy as np
from pycocotools.mask import decode
from torch.nn import functional
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.tv_tensors import Image

train = make_scenes(n_samples=160, random_state=1)
concepts = list(train.target_names)
pictures = train.data.groupby("image_id")["image"].first()
images = torch.stack([preprocess(Image(picture.transpose(2, 0, 1))) for picture in pictures])
shares = torch.zeros(len(images), 9, 12, 12)
for row in train.data.itertuples():
    mask = torch.from_numpy(decode(row.mask)).float()[None]
    label = 1 + concepts.index(row.concept)
    shares[row.image_id, label] = functional.adaptive_avg_pool2d(mask, 12)[0]
shares[:, 0] = 1 - shares.sum(dim=1)

n_steps = 120
encode = create_feature_extractor(vit, {"encoder": "tokens"})
optimizer = torch.optim.AdamW(vit.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=n_steps)
generator = torch.Generator().manual_seed(0)
rarity = shares.mean(dim=(0, 2, 3)).rsqrt()
for _ in range(n_steps):
    batch = torch.randint(len(images), (16,), generator=generator)
    scores = vit.heads(encode(images[batch])["tokens"][:, 1:])
    loss = functional.cross_entropy(scores.mT, shares[batch].flatten(2), weight=rarity)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
vit.eval().requires_grad_(False)
right = vit.heads(encode(images)["tokens"][:, 1:]).argmax(2) == shares.flatten(2).argmax(1)
print(
    f"patches of which the largest class is found: {right.float().mean():.0%}, in training scenes"
)

# %%
# Tokens become a grid
# --------------------
# ``list_layers`` shows the output of the blocks: 145 tokens for 144 patches. The first pass is
# traced, operation by operation, from the pixels to each layer. So every token gets the place of
# its patch, in any order, and the class token, which has no place, is left out. For networks that
# cannot be traced, pass a ``reshape_transform``. For this ViT, it is the function below; both give
# the same grid.

from sklearn_loce import ActivationExtractor, list_layers


def drop_class_token(tokens):
    """Make (n_images, 145, n_channels) a grid (n_images, n_channels, 12, 12)."""
    return tokens[:, 1:].mT.unflatten(2, (12, 12))


blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(4)]
layers = list_layers(vit, (96, 96))
print(layers[layers["name"].isin(["conv_proj", *blocks])].to_string(index=False))
read = ActivationExtractor(vit, blocks)(images[:1])
reshaped = ActivationExtractor(vit, blocks, reshape_transform=drop_class_token)(images[:1])
print("grid:", tuple(read[blocks[0]].shape))
print("equal:", all(torch.equal(read[block], reshaped[block]) for block in blocks))

# %%
# LoCEs of every block
# --------------------
# One forward pass per image gives all blocks. The scenes are new, and the convolutional network of
# the package embeds the same scenes.

from sklearn_loce import LoCETransformer, TorchModel

test = make_scenes(n_samples=30, random_state=0)
loces = {
    "ViT": LoCETransformer(TorchModel(vit), ["conv_proj", *blocks], preprocess=preprocess),
    "convolutional": LoCETransformer(
        TorchModel(load_scene_model()), [f"features.{i}" for i in range(6)]
    ),
}
quality = {name: loce.fit(test.data).evaluate(test.data) for name, loce in loces.items()}

# %%
# IoU by layer
# ------------
# Points are the mean IoU of the masks of a scene, and bars are the standard deviation over scenes.
# The embedded patches alone contain little more than color. One block is enough to mix each patch
# with its surroundings. More blocks do not improve the LoCEs of this ViT: its last block serves the
# class scores. All of its layers stay below the middle layers of the convolutional network.

from sklearn_loce.plotting import LayerComparisonDisplay


def by_layer(rows):
    """Mean and deviation over scenes of the mean IoU of a scene, per layer."""
    rows = rows.assign(scene=np.repeat(test.groups, rows["layer"].nunique()))
    rows["layer"] = rows["layer"].str.replace("encoder.layers.encoder_layer_", "block ")
    iou = rows.groupby(["layer", "scene"], sort=False)["iou"].mean()
    return iou.groupby("layer", sort=False).agg(["mean", "std"]).reset_index().assign(metric="IoU")


display = LayerComparisonDisplay.from_table(
    {name: by_layer(rows) for name, rows in quality.items()}, "IoU"
)

# %%
# Is it the network, or the grid?
# -------------------------------
# A grid of 12 x 12 cannot show fine outlines. For comparison, we average each mask over the cells
# of a grid and upsample these averages: 12 x 12 for the ViT, 15 x 20 for ``features.4``. LoCEs do
# better, because the size of a logit is free and that of an average is not. The two grids differ by
# more than the two networks, so most of the gap is due to the grid.

import pandas as pd

from sklearn_loce.metrics import mask_iou


def iou_of_grid(mask, size):
    """IoU of a mask and of its averages over the cells of a grid."""
    cells = functional.adaptive_avg_pool2d(torch.from_numpy(mask).float()[None, None], size)
    shown = functional.interpolate(cells, size=mask.shape, mode="bilinear")[0, 0] > 0.5
    return mask_iou(mask.astype(bool), shown.numpy())


masks = [decode(mask) for mask in test.data["mask"]]
table = pd.DataFrame(
    {
        "ViT, block 1": quality["ViT"].query("layer == @blocks[1]")["iou"],
        "12 x 12 grid": [iou_of_grid(mask, (12, 12)) for mask in masks],
        "features.4": quality["convolutional"].query("layer == 'features.4'")["iou"],
        "15 x 20 grid": [iou_of_grid(mask, (15, 20)) for mask in masks],
    }
)
means = table.groupby(test.target).mean()
means.loc["mean of all"] = table.mean()
print(means.round(2).to_string())

# %%
# Projections of both networks
# ----------------------------
# The picture shows one scene in both networks: the image with the outlines of its masks, and below
# it the projections of the LoCEs.

import matplotlib.pyplot as plt

from sklearn_loce.plotting import ProjectionDisplay

scene = test.data[test.groups == 0]
figure = plt.figure(figsize=(7, 5), layout="constrained")
shown = {"ViT": blocks[1], "convolutional": "features.4"}
for part, (name, layer) in zip(figure.subfigures(2, 1), shown.items(), strict=True):
    loce = loces[name].set_params(layer=layer).fit(scene)
    axes = part.subplots(2, len(scene))
    ProjectionDisplay.from_estimator(loce, scene, n_cols=len(scene), ax=axes)
    part.suptitle(f"{name}, {layer.replace('encoder.layers.encoder_layer_', 'block ')}")


# %%
# .. admonition:: On COCO with pretrained weights
#
#    Weights of torchvision contain their size, mean and standard deviation. Pass them as
#    ``preprocess``; the center crop is left out::
#
#        from torchvision.models import ViT_B_16_Weights, vit_b_16
#
#        from sklearn_loce.datasets import fetch_coco_val2017
#
#        weights = ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1
#        test = fetch_coco_val2017(categories=["car", "bus", "truck"])
#        blocks = [f"encoder.layers.encoder_layer_{i}" for i in range(12)]
#        loce = LoCETransformer(TorchModel(vit_b_16(weights=weights)), blocks, preprocess=weights)
#
#    These weights take 384 x 384 pixels and have a grid of 24 x 24. For models of Hugging Face and
#    timm, pass their image processor or transform as ``preprocess``.
