"""Models of Hugging Face and timm, with random weights, find a patch where it is planted."""

from functools import cache

import pytest
import torch
from torchvision.transforms import v2

from sklearn_loce import ActivationExtractor
from sklearn_loce._network.preprocess import make_transform, make_view
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

pytestmark = pytest.mark.slow

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
def test_token_models_find_the_patch(name):
    build, layer, preprocess, cell = TOKEN_MODELS[name]
    network = forget_positions(seeded(build))
    found = look_for_patches(network, layer, cell, preprocess=preprocess, max_iter=100)
    # One token too many in front would move the projection by a cell.
    check(found, max_cells=1.0 if "swin" in name else 0.5)


def test_a_timm_resnet_finds_the_patch():
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
def test_detr_finds_the_patch(layer, stride, how):
    def cell(image):
        scale = min(192 / min(image), SIDE / max(image))
        return stride / scale, stride / scale

    processor = detr_processor(**how)
    found = look_for_patches(detr(), layer, cell, preprocess=processor, max_iter=100)
    check(found)


def test_the_model_gets_a_mask_of_the_padding():
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


def test_processors_return_their_usual_pixels():
    image, _ = plant(*PLACES[0])
    processor = transformers.ViTImageProcessor()
    view = make_view(image, make_transform(processor))
    expected = processor(images=image, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(view.image, expected)


@pytest.mark.parametrize(
    ("build", "layer", "side"),
    [
        (huggingface_vit, "layers.1", 128),
        (timm_of("vit_tiny_patch16_224", depth=1), "blocks.0", 224),
    ],
)
def test_a_wrong_size_for_a_model_with_one_size_raises_a_clear_error(build, layer, side):
    match = rf"built for images of {side} x {side} and got 90 x 142.*v2\.Resize"
    with pytest.raises(ValueError, match=match):
        look_for_patches(seeded(build), layer, 16, preprocess=NORMALIZE)


def yolos(**how):
    config = transformers.YolosConfig(
        image_size=[96, 96], patch_size=16, num_detection_tokens=9, intermediate_size=32, **TOKENS
    )
    return transformers.YolosForObjectDetection(config)


@pytest.mark.parametrize("size", [(96, 96), (64, 160), (112, 80)])
def test_detection_tokens_of_yolos_are_removed(size):
    # Nine detection tokens behind one class token and the grid: 36 + 10 cells could be others.
    layers = ["vit.embeddings.patch_embeddings.projection", "vit.encoder.layer.1"]
    grids = ActivationExtractor(seeded(yolos), layers)(torch.rand(1, 3, *size))
    for grid in grids.values():
        assert grid.shape == (1, 64, size[0] // 16, size[1] // 16)
    with pytest.raises(LayoutError, match="learned tokens, such as queries"):
        ActivationExtractor(seeded(yolos), "class_labels_classifier")(torch.rand(1, 3, *size))


def test_the_error_names_multiples_of_the_patch_size():
    network = timm.create_model("vit_tiny_patch16_224", depth=1, dynamic_img_size=True)
    with pytest.raises(ValueError, match="sides are multiples of its patches of 16 x 16"):
        ActivationExtractor(network, "blocks.0")(torch.rand(1, 3, 90, 142))


def test_mixing_over_places_raises_an_error():
    network = timm.models.MlpMixer(patch_size=32, num_blocks=1, embed_dim=196)
    with pytest.raises(LayoutError, match="mixes over places"):
        ActivationExtractor(network, "blocks.0.mlp_tokens.fc2")(torch.rand(1, 3, 224, 224))
    grid = ActivationExtractor(network, "blocks.0")(torch.rand(1, 3, 224, 224))["blocks.0"]
    assert grid.shape == (1, 196, 7, 7)


def masked_autoencoder():
    config = transformers.ViTMAEConfig(image_size=64, decoder_num_hidden_layers=1, **TOKENS)
    return transformers.ViTMAEModel(config)


def hiera():
    return timm.create_model("hiera_tiny_224", img_size=64, stages=(1, 1, 1, 1), embed_dim=16)


def huggingface_hiera():
    config = transformers.HieraConfig(image_size=[64, 64], embed_dim=16, depths=[1, 1, 1, 1])
    return transformers.HieraModel(config)


def mobilevit():
    network = timm.create_model("mobilevitv2_050")
    return calibrate(network)


UNORDERED = {
    "mask units of timm": (hiera, "blocks.0", squashed(64), cell_of(64, 4)),
    "mask units": (huggingface_hiera, "encoder.stages.0.layers.0", squashed(64), cell_of(64, 4)),
    "pixels of patches": (mobilevit, "stages.2.1.transformer.0", squashed(256), cell_of(256, 8)),
}


@pytest.mark.parametrize("name", UNORDERED)
def test_tokens_in_another_order_are_sorted_into_a_grid(name):
    build, layer, preprocess, cell = UNORDERED[name]
    network = forget_positions(seeded(build))
    check(look_for_patches(network, layer, cell, preprocess=preprocess, max_iter=100), shape=False)


def group_vit():
    sizes = {"depths": [1, 1, 1], "num_hidden_layers": 3, "intermediate_size": 64}
    config = transformers.GroupViTVisionConfig(hidden_size=32, num_attention_heads=4, **sizes)
    return transformers.GroupViTVisionModel(config)


def perceiver():
    config = transformers.PerceiverConfig(
        num_latents=64,
        d_latents=32,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_cross_attention_heads=1,
    )
    return transformers.PerceiverForImageClassificationConvProcessing(config)


CHOSEN, LEARNED = "selected, merged or sorted", "learned tokens, such as queries"


@pytest.mark.parametrize(
    ("build", "layer", "side", "why"),
    [
        (masked_autoencoder, "layers.0", 64, CHOSEN),
        (group_vit, "vision_model.encoder.stages.2", 224, LEARNED),  # 8 groups
        (group_vit, "vision_model.encoder.stages.1.downsample", 224, LEARNED),
        (perceiver, "perceiver.encoder.self_attends.0", 224, LEARNED),  # 64 latents
        (timm_of("cait_xxs24_224", depth=1), "blocks_token_only.0", 224, LEARNED),
        (timm_of("xcit_nano_12_p16_224", depth=1), "cls_attn_blocks.0.attn", 224, LEARNED),
        # 25 queries would be 5 x 5 cells.
        (build_detr, "model.decoder.layers.0", 160, LEARNED),
        (build_detr, "model.decoder", 160, LEARNED),
        (build_detr, "class_labels_classifier", 160, LEARNED),
    ],
)
def test_errors_explain_tokens_that_are_not_places(build, layer, side, why):
    with pytest.raises(LayoutError, match=why):
        ActivationExtractor(seeded(build), layer)(torch.rand(1, 3, side, side))


def test_the_error_for_a_model_with_text_input_suggests_forward():
    vision = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        vision_config={**vision, "num_attention_heads": 2},
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    network = transformers.CLIPModel(config)
    with pytest.raises(ValueError, match=r"CLIPModel failed .*TorchModel\(network, forward="):
        ActivationExtractor(network, "vision_model.encoder.layers.0")(torch.rand(1, 3, 32, 32))
