"""Models of Hugging Face and timm, with random weights, find a patch where it is planted."""

from functools import cache

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from sklearn_loce import ActivationExtractor
from sklearn_loce._preprocessing import make_transform, make_view
from sklearn_loce.exceptions import LayoutError

from .planted import (
    NORMALIZE,
    PLACES,
    calibrate,
    check,
    forget_positions,
    look_for_patches,
    plant,
    seeded,
)

transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

TOKENS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def squashed(side):
    return v2.Compose([v2.Resize((side, side)), NORMALIZE])


def cell_of(side, stride):
    return lambda image: tuple(stride * n / side for n in image)


def build_detr(backbone="resnet18"):
    """Build DETR with the backbone of the original, and a small transformer."""
    sizes = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_layers": 1}
    config = transformers.DetrConfig(
        use_timm_backbone=True,
        backbone=backbone,
        use_pretrained_backbone=False,
        d_model=64,
        encoder_layers=6,
        num_queries=25,
        **sizes,
    )
    return transformers.DetrForObjectDetection(config)


@cache
def detr():
    network = seeded(build_detr)
    calibrate(network)
    return network


def huggingface_vit():
    return transformers.ViTModel(transformers.ViTConfig(image_size=128, patch_size=8, **TOKENS))


def dinov2():
    config = transformers.Dinov2WithRegistersConfig(image_size=112, patch_size=14, **TOKENS)
    return transformers.Dinov2WithRegistersModel(config)


def huggingface_swin():
    config = transformers.SwinConfig(
        image_size=128, embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    return transformers.SwinModel(config)


def timm_of(name, **how):
    return lambda: timm.create_model(name, pretrained=False, **how)


TOKEN_MODELS = {
    "vit": (huggingface_vit, "layers.1", squashed(128), cell_of(128, 8)),
    "dinov2 with registers": (
        dinov2,
        "encoder.layer.1",
        v2.Compose([v2.Resize((168, 252)), NORMALIZE]),
        lambda image: (14 * image[0] / 168, 14 * image[1] / 252),
    ),
    "swin tuple": (huggingface_swin, "encoder.layers.0.blocks.0", NORMALIZE, 4),
    "swin stage": (huggingface_swin, "encoder.layers.0", NORMALIZE, 8),
    "timm vit": (
        timm_of("vit_tiny_patch16_224", depth=2, img_size=224),
        "blocks.1",
        squashed(224),
        cell_of(224, 16),
    ),
    "timm vit with registers": (
        timm_of("vit_small_patch14_reg4_dinov2", depth=2, img_size=168),
        "blocks.1",
        squashed(168),
        cell_of(168, 14),
    ),
    "timm distilled": (
        timm_of("deit_tiny_distilled_patch16_224", depth=2),
        "blocks.1",
        squashed(224),
        cell_of(224, 16),
    ),
    "timm swin": (
        timm_of("swin_tiny_patch4_window7_224", img_size=128, window_size=4, depths=(1, 1, 1, 1)),
        "layers.1.blocks.0",
        squashed(128),
        cell_of(128, 8),
    ),
}


@pytest.mark.parametrize("name", TOKEN_MODELS)
def test_token_models(name):
    build, layer, preprocess, cell = TOKEN_MODELS[name]
    network = forget_positions(seeded(build))
    found = look_for_patches(network, layer, cell, preprocess=preprocess, max_iter=100)
    # One token in front too many would move the projection by a cell.
    check(found, max_cells=1.0 if "swin" in name else 0.5)


def test_timm_resnet():
    network = seeded(timm_of("resnet18", zero_init_last=False))
    calibrate(network)
    check(look_for_patches(network, "layer1.1.bn2", 4, preprocess=NORMALIZE, max_iter=100))


SIDE = 320
PADDING = {"height": SIDE, "width": SIDE}


def detr_processor(**how):
    size = {"shortest_edge": 192, "longest_edge": SIDE}
    return transformers.DetrImageProcessor(size=size, **how)


@pytest.mark.parametrize("how", [{}, {"pad_size": PADDING}], ids=["unpadded", "padded"])
@pytest.mark.parametrize(
    ("layer", "stride"),
    [
        ("model.backbone.model.layer3", 16),
        ("model.input_projection", 32),
        ("model.encoder.layers.1", 32),
        ("model.encoder.layers.5", 32),
    ],
)
def test_detr(layer, stride, how):
    def cell(image):
        scale = min(192 / min(image), SIDE / max(image))
        return stride / scale, stride / scale

    processor = detr_processor(**how)
    found = look_for_patches(detr(), layer, cell, preprocess=processor, max_iter=100)
    check(found)


def test_levels_of_a_backbone_are_named():
    with pytest.raises(LayoutError, match=r"4 ways: \[0\]\[0\]: 40 x 40 cells"):
        ActivationExtractor(detr(), "model.backbone")(torch.zeros(1, 3, 160, 160))


@pytest.mark.parametrize(
    "layer", ["model.decoder.layers.0", "model.decoder", "class_labels_classifier"]
)
def test_queries_of_a_decoder_are_no_places(layer):
    # 25 queries would be 5 x 5 cells of an image of 160 x 160 pixels.
    with pytest.raises(LayoutError, match="25 tokens are queries of a decoder"):
        ActivationExtractor(detr(), layer)(torch.zeros(1, 3, 160, 160))


def test_padding_is_told_to_the_model():
    seen = {}

    def keep(module, args, kwargs):
        seen.update(kwargs)

    handle = detr().register_forward_pre_hook(keep, with_kwargs=True)
    try:
        look_for_patches(
            detr(),
            "model.input_projection",
            32,
            places=PLACES[:1],
            preprocess=detr_processor(pad_size=PADDING),
        )
    finally:
        handle.remove()
    rows, columns = (seen["pixel_mask"][0].any(axis).sum() for axis in (1, 0))
    assert (rows, columns) == (192, 302)


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(),
        transformers.BitImageProcessor(
            size={"shortest_edge": 128}, crop_size={"height": 112, "width": 112}
        ),
        transformers.ConvNextImageProcessor(size={"shortest_edge": 128}),
        transformers.ViTImageProcessorPil(),
        detr_processor(),
        detr_processor(pad_size=PADDING),
    ],
    ids=lambda processor: type(processor).__name__,
)
@pytest.mark.parametrize("place", PLACES[:2])
def test_processors_move_masks_with_their_images(processor, place):
    image, mask = plant(*place)
    image[mask] = 255
    image[~mask] = 0
    view = make_view(image, mask[None], make_transform(processor))
    seen = view.image[0].numpy()
    bright = seen > (seen.max() + seen.min()) / 2
    rows, columns = ((np.arange(n) + 0.5) / n for n in bright.shape)
    expected = view.masks[0]
    own_rows, own_columns = ((np.arange(n) + 0.5) / n for n in expected.shape)
    for axis, (shares, own) in enumerate([(rows, own_rows), (columns, own_columns)]):
        assert shares[bright.any(1 - axis)].mean() == pytest.approx(
            own[expected.any(1 - axis)].mean(), abs=0.01
        )
    back = view.to_original(torch.from_numpy(view.masks).float())[0].numpy() > 0.5
    if not isinstance(processor, transformers.ConvNextImageProcessor):  # it always crops
        assert np.abs(np.argwhere(back).mean(0) - np.argwhere(mask).mean(0)).max() < 1


def test_processors_give_the_pixels_that_they_give():
    image, mask = plant(*PLACES[0])
    processor = transformers.ViTImageProcessor()
    view = make_view(image, mask[None], make_transform(processor))
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(view.image, expected)


def test_windows_are_not_images():
    with pytest.raises(LayoutError, match=r"batch of 64 for 1 image\(s\), as window attention"):
        ActivationExtractor(seeded(huggingface_swin), "encoder.layers.0.blocks.0.attention")(
            torch.zeros(1, 3, 128, 128)
        )


@pytest.mark.parametrize(
    ("build", "layer", "side"),
    [
        (huggingface_vit, "layers.1", 128),
        (timm_of("vit_tiny_patch16_224", depth=1), "blocks.0", 224),
    ],
)
def test_one_size_only_is_a_clear_error(build, layer, side):
    match = rf"built for images of {side} x {side} and got 90 x 142 .*v2\.Resize"
    with pytest.raises(ValueError, match=match):
        look_for_patches(seeded(build), layer, 16, preprocess=NORMALIZE)
