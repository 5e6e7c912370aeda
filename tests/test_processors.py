"""The geometry of Hugging Face's image processors is measured."""

import numpy as np
import pytest
import torch

from sklearn_loce._network.preprocess import make_transform, make_view

from .planted import PLACES, plant

transformers = pytest.importorskip("transformers")


class Mirrored(transformers.ViTImageProcessor):
    def __call__(self, images, **how):
        return super().__call__(images.flip(-1), **how)


class Turned(transformers.ViTImageProcessor):
    def __call__(self, images, **how):
        return super().__call__(images.mT, **how)


class Bent(transformers.ViTImageProcessor):
    def __call__(self, images, **how):
        height = images.shape[-2]
        rows = (torch.arange(height) / height) ** 3 * height
        return super().__call__(images[:, rows.long()], **how)


class Several(transformers.ViTImageProcessor):
    def __call__(self, images, **how):
        return super().__call__([images, images], **how)


def padded(side=96, padding=160):
    return transformers.DetrImageProcessor(
        size={"shortest_edge": side, "longest_edge": padding},
        pad_size={"height": padding, "width": padding},
    )


PROCESSORS = {
    "squashed": transformers.ViTImageProcessor(),
    "Pillow": transformers.ViTImageProcessorPil(),
    "center crop": transformers.BitImageProcessor(
        size={"shortest_edge": 128}, crop_size={"height": 112, "width": 112}
    ),
    "channels flipped": transformers.MobileViTImageProcessor(),
    "integers where not normalized": transformers.EfficientNetImageProcessor(),
    "warps from 384 on": transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "resized": transformers.DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}),
    "padded": padded(),
}


def look(processor, place, model=None):
    """Return a view of a white patch on black."""
    image, mask = plant(*place)
    image[mask], image[~mask] = 255, 0
    return make_view(image, make_transform(processor, model)), mask


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("place", [*PLACES[:3], (40, 30, 0, 20, 12, 10)])
def test_masks_move_with_their_images(name, place):
    view, mask = look(PROCESSORS[name], place)
    seen = view.image.mean(0).numpy()
    bright = seen > (seen.max() + seen.min()) / 2
    for axis in (0, 1):
        shares = [
            np.flatnonzero(part.any(1 - axis)).mean() / part.shape[axis] + 0.5 / part.shape[axis]
            for part in (bright, view.see(mask))
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.01)
    back = view.to_original(torch.from_numpy(view.see(mask)[None]).float())[0].numpy() > 0.5
    assert np.abs(np.argwhere(back).mean(0) - np.argwhere(mask).mean(0)).max() < 1


@pytest.mark.parametrize("name", [name for name in PROCESSORS if name != "padded"])
@pytest.mark.parametrize("place", [(90, 142, 12, 10, 42, 38), (700, 500, 12, 10, 42, 38)])
def test_a_plain_resize_is_recognized(name, place):
    # Only for exact edges do masks keep their own resolution.
    assert look(PROCESSORS[name], place)[0].full_frame


@pytest.mark.parametrize(
    ("processor", "place"),
    [
        (transformers.ViTImageProcessor(resample=0), (30, 40, 3, 4, 9, 9)),  # blocks of 7 pixels
        (transformers.DetrImageProcessor(), (500, 700, 12, 10, 42, 38)),  # 4 pixels per level
    ],
)
def test_coarse_levels_are_not_mistaken_for_other_geometry(processor, place):
    assert look(processor, place)[0].full_frame


def test_padding_is_found_to_the_pixel():
    view, _ = look(padded(), (90, 142, 12, 10, 42, 38))
    assert view.shown.sum() == 96 * round(142 * 96 / 90)
    assert view.shown[:96, :151].all()


@pytest.mark.parametrize("kind", [Mirrored, Turned, Bent])
def test_other_geometry_raises_an_error(kind):
    with pytest.raises(ValueError, match=rf"preprocess={kind.__name__} .* more than resize, pad"):
        look(kind(), PLACES[0])


def test_errors_of_processors_differ_from_those_of_transforms():
    with pytest.raises(ValueError, match=r"one image of one, but makes pixel_values \(2, 3"):
        look(Several(), PLACES[0])


def test_a_crop_is_disabled_if_possible():
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64})
    plain = processor(images=plant(80, 80, 0, 0, 9, 9)[0], return_tensors="pt", crop_pct=1.0)
    view, mask = look(processor, (80, 80, 0, 0, 16, 16))
    assert view.image.shape == plain["pixel_values"].shape[1:]
    assert view.full_frame
    assert view.see(mask)[:16, :16].all()


def test_a_crop_that_cannot_be_disabled_raises_an_error_with_a_remedy():
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 224})
    match = r"ConvNextImageProcessor .*crops images of 90 x 142 pixels.*'shortest_edge': 384"
    with pytest.raises(ValueError, match=match):
        look(processor, PLACES[0])


def test_processors_resize_to_the_only_size_of_a_network():
    config = transformers.CLIPVisionConfig(
        image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    network = transformers.CLIPVisionModel(config)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    assert look(processor, PLACES[0])[0].image.shape == (3, 64, 100)
    view, _ = look(processor, PLACES[0], network)
    assert view.image.shape == (3, 64, 64)
    assert view.full_frame
