import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models, transforms, tv_tensors
from torchvision.transforms import v2

from sklearn_loce._network.preprocess import JointTransform, make_transform, make_view


def _scene(height, width, top, left, size=12):
    """Draw a white square on black, and its mask."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + size, left : left + size] = True
    image[mask] = 255
    return image, mask


def _view(preprocess, image):
    return make_view(image, make_transform(preprocess))


def test_none_only_scales_pixels():
    image, mask = _scene(30, 40, 5, 20)
    image[0, 0] = [51, 102, 204]
    view = _view(None, image)
    np.testing.assert_allclose(view.image.permute(1, 2, 0), image / np.float32(255), rtol=1e-6)
    assert view.see(mask) is mask
    assert view.affine is None


def test_weights_are_used_without_the_center_crop():
    weights = models.MobileNet_V3_Large_Weights.IMAGENET1K_V2
    preset = weights.transforms()
    image, _ = _scene(300, 600, 20, 10)
    view = _view(weights, image)
    side = preset.resize_size[0]
    assert view.image.shape == (3, side, 2 * side)
    assert view.affine is None
    corner = (0 - np.array(preset.mean)) / preset.std
    np.testing.assert_allclose(view.image[:, -1, -1], corner, rtol=1e-5)
    for same in (preset, weights.transforms):
        assert torch.equal(_view(same, image).image, view.image)


def test_weights_for_segmentation_and_detection_are_used():
    image, _ = _scene(120, 160, 20, 10)
    segmentation = models.segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT
    assert _view(segmentation, image).image.shape == (3, 520, 693)
    detection = models.detection.SSD300_VGG16_Weights.DEFAULT
    assert torch.equal(_view(detection, image).image, _view(None, image).image)


def test_weights_must_be_a_member_of_the_enum():
    with pytest.raises(TypeError, match="MobileNet_V3_Large_Weights must be a member"):
        make_transform(models.MobileNet_V3_Large_Weights)


def test_weights_for_other_tasks_raise_an_error():
    with pytest.raises(ValueError, match="VideoClassification is not for single images"):
        make_transform(models.video.R3D_18_Weights.DEFAULT)


@pytest.mark.parametrize(
    "transform",
    [
        v2.Resize((60, 100)),
        v2.Resize(48),
        v2.RandomHorizontalFlip(1.0),
        v2.Pad([10, 20, 30, 4]),
        v2.CenterCrop((70, 80)),
        v2.Compose([v2.Resize((100, 140)), v2.CenterCrop(90), v2.Pad(8)]),
        v2.RandomAffine((20, 20), translate=(0, 0), scale=(1.2, 1.2)),
    ],
)
def test_image_and_mask_move_together_and_are_mapped_back(transform):
    image, mask = _scene(90, 120, 30, 40, size=24)
    view = _view(transform, image)
    seen = view.image[0].numpy() > 0.5
    if not view.full_frame:
        overlap = np.count_nonzero(seen & view.see(mask)) / np.count_nonzero(seen | view.see(mask))
        assert overlap > 0.8
    back = view.to_original(torch.from_numpy(view.see(mask)[None]).float())[0].numpy() > 0.5
    rows, columns = np.nonzero(back)
    assert abs(rows.mean() - 41.5) < 1
    assert abs(columns.mean() - 51.5) < 1
    assert back.sum() == pytest.approx(24**2, rel=0.15)


def test_cropped_pixels_have_probability_zero():
    image, _ = _scene(90, 120, 40, 50)
    view = _view(v2.CenterCrop((40, 60)), image)
    back = view.to_original(torch.ones(1, 40, 60))[0]
    expected = torch.zeros(90, 120, dtype=torch.bool)
    expected[25:65, 30:90] = True
    assert torch.equal(back > 0.5, expected)


def test_maps_of_any_resolution_are_mapped_back_to_the_image():
    image, _ = _scene(90, 120, 40, 50)
    view = _view(v2.Resize((45, 200)), image)
    assert view.affine is None
    assert view.to_original(torch.zeros(3, 100, 100)).shape == (3, 90, 120)


def test_integers_are_scaled_after_the_users_transform():
    image, _ = _scene(30, 40, 5, 20)
    assert _view(v2.Resize((15, 20)), image).image.max() == 1


def test_the_input_stays_unchanged():
    image, _ = _scene(30, 40, 5, 20)
    image.flags.writeable = False
    before = image.copy()
    _view(v2.Lambda(lambda x: x.clone().mul_(0)), image)
    np.testing.assert_array_equal(image, before)


FIRST_VERSIONS = {
    "torchvision": [
        transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
    ],
    "squashed": [transforms.Resize((224, 300)), transforms.ToTensor()],
    "pixels alone": [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)],
}


@pytest.mark.parametrize("name", FIRST_VERSIONS)
def test_settings_of_first_version_transforms_are_read_without_the_crop(name):
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    steps = FIRST_VERSIONS[name]
    view = _view(transforms.Compose(steps), image)
    whole = [step for step in steps if not isinstance(step, transforms.CenterCrop)]
    expected = transforms.Compose(whole)(Image.fromarray(image))
    # Pillow rounds to whole levels between the two directions of a resize.
    torch.testing.assert_close(view.image, expected, rtol=0, atol=0.02)
    assert view.full_frame


def test_settings_of_timm_transforms_are_read():
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", depth=1)
    config = timm.data.resolve_data_config({}, model=network)
    transform = timm.data.create_transform(**config)
    image, _ = _scene(300, 600, 20, 10)
    view = _view(transform, image)
    assert view.image.shape == (3, 248, 496)
    torch.testing.assert_close(view.image.min(), torch.tensor(-1.0))
    # A network with one size gets this size.
    view = make_view(image, make_transform(transform, network))
    assert view.image.shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([transforms.RandomResizedCrop(224), transforms.ToTensor()], "RandomResizedCrop"),
        ([transforms.Resize(256), transforms.Resize(224)], "Resize"),
        ([transforms.Resize(256, max_size=300), transforms.ToTensor()], "max_size"),
    ],
)
def test_errors_name_unreadable_settings_of_first_version_transforms(steps, name):
    with pytest.raises(ValueError, match=rf"one Normalize, but it has {name}.*transforms\.v2"):
        make_transform(transforms.Compose(steps))


@pytest.mark.parametrize(
    ("transform", "match"),
    [
        (lambda image: image, "must be a torchvision.transforms.v2 transform"),
        (lambda image, mask: image, "must return the two tensors"),
        (lambda image, mask: (image[:, ::2], mask), "image and masks at one size"),
        (lambda image, mask: (image[:1], mask), "keep three channels"),
    ],
)
def test_errors_name_transforms_that_do_not_move_both(transform, match):
    image, _ = _scene(30, 40, 5, 20)
    with pytest.raises(ValueError, match=match):
        _view(transform, image)


def test_projections_cannot_be_mapped_back_through_nonaffine_transforms():
    image, mask = _scene(90, 120, 40, 50)
    torch.manual_seed(0)
    view = _view(v2.RandomPerspective(0.9, p=1.0), image)
    assert view.see(mask).shape == mask.shape
    with pytest.raises(ValueError, match="not affine"):
        view.to_original(torch.zeros(1, 100, 100))


@pytest.mark.parametrize("size", [(45, 200), (360, 480), (22, 30), (11, 17), (90, 120)])
def test_masks_keep_their_resolution_if_the_frame_is_kept(size):
    image, mask = _scene(90, 120, 40, 50)
    view = _view(v2.Resize(size), image)
    assert view.full_frame
    assert view.see(mask) is mask


def test_small_movements_are_detected():
    image, _ = _scene(90, 120, 40, 50)
    assert not _view(v2.RandomAffine((1, 1)), image).full_frame
    assert not _view(v2.ElasticTransform(30.0), image).full_frame
    assert not _view(v2.RandomHorizontalFlip(1.0), image).full_frame
    assert not _view(v2.CenterCrop((86, 120)), image).full_frame
    assert not _view(v2.Pad([0, 0, 2, 0]), image).full_frame


def test_random_transforms_depend_only_on_the_image_and_the_seed():
    image, _ = _scene(90, 120, 40, 50)
    transform = make_transform(v2.RandomAffine(45))
    state = torch.get_rng_state()
    first = make_view(image, transform, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(make_view(image, transform, seed=3).image, first.image)
    assert not torch.equal(make_view(image, transform, seed=4).image, first.image)


class Shifted(v2.Normalize):
    """Moves pixels, unlike the transform that it derives from."""

    def forward(self, *parts):
        return tuple(part.roll(1, -1) for part in parts)


@pytest.mark.parametrize(
    ("preprocess", "is_pointwise"),
    [
        (v2.Normalize([0.5], [0.5]), True),
        (v2.Compose([v2.ToImage(), v2.Compose([v2.ToDtype(torch.float32, scale=True)])]), True),
        (nn.Sequential(v2.Identity(), v2.ToDtype(torch.float32, scale=True)), True),
        (v2.Compose([v2.ToDtype(torch.float32), v2.RandomHorizontalFlip(1.0)]), False),
        (Shifted([0.5], [0.5]), False),
        (v2.ColorJitter(0.5), False),
    ],
)
def test_positions_are_measured_unless_the_transform_is_pointwise(preprocess, is_pointwise):
    assert make_transform(preprocess).full_frame is is_pointwise


def test_a_pointwise_transform_gives_the_result_of_a_measured_one():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.4], [0.2])])
    known, measured = make_transform(transform), JointTransform(transform, full_frame=False)
    views = [make_view(image, way) for way in (known, measured)]
    torch.testing.assert_close(views[0].image, views[1].image, rtol=0, atol=0)
    expected = (torch.from_numpy(image).permute(2, 0, 1) / 255 - 0.4) / 0.2
    torch.testing.assert_close(views[0].image, expected)
    assert all(view.full_frame for view in views)


def test_the_error_names_a_pointwise_transform_that_fails():
    image = np.zeros((6, 7, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"preprocess=Normalize.*failed on an image"):
        make_view(image, make_transform(v2.Normalize([0.5], [0.5])))


@pytest.mark.parametrize("fill", [0, 0.4, 0.5, 1, 17, 114, 255])
def test_padding_has_no_position(fill):
    image, mask = np.zeros((6, 7, 3), dtype=np.uint8), np.zeros((6, 7), dtype=bool)
    mask[0, 0] = True
    view = _view(v2.Pad([2, 3, 1, 1], fill=fill), image)
    expected = np.zeros((10, 10), dtype=bool)
    expected[3, 2] = True
    np.testing.assert_array_equal(view.see(mask), expected)
    assert view.shown.sum() == 6 * 7
    assert view.shown[3:9, 2:9].all()


def test_the_error_names_dtypes_that_cannot_hold_positions():
    image, mask = np.zeros((6, 7, 3), dtype=np.uint8), np.ones((6, 7), dtype=bool)
    narrow = v2.ToDtype({tv_tensors.Mask: torch.uint8, "others": None})
    with pytest.raises(ValueError, match=r"turns masks into torch.uint8.*Leave the dtype"):
        _view(v2.Compose([v2.RandomHorizontalFlip(1.0), narrow]), image)
    wide = v2.ToDtype({tv_tensors.Mask: torch.int64, "others": None})
    mask[:, 0] = False
    view = _view(v2.Compose([v2.RandomHorizontalFlip(1.0), wide]), image)
    np.testing.assert_array_equal(view.see(mask), mask[:, ::-1])
