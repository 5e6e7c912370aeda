import copy
import pickle
import re
from functools import partial

import pytest
import torch
from sklearn.base import clone
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision import models
from torchvision.models import detection

from sklearn_loce import ActivationExtractor, LoCETransformer, TorchModel, list_layers
from sklearn_loce._network.preprocess import View, make_transform, make_view
from sklearn_loce.exceptions import LayoutError

from .conftest import make_small_network
from .planted import PLACES, centroid, plant

DETECTOR = partial(
    detection.fasterrcnn_mobilenet_v3_large_320_fpn,
    weights=None,
    weights_backbone=None,
    min_size=96,
    max_size=160,
    rpn_pre_nms_top_n_test=10,
    box_detections_per_img=2,
)


@pytest.fixture(scope="module")
def detector():
    return DETECTOR()


@pytest.mark.parametrize("size", [(90, 142), (131, 97), (64, 64), (50, 200)])
def test_the_frame_of_a_detector_equals_the_input_of_its_first_layer(detector, size):
    seen = []
    handle = detector.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        with ActivationExtractor(detector, "backbone.body.0") as extract:
            frame = extract.frame(size)
            extract(torch.ones(1, 3, *size))
    finally:
        handle.remove()
    assert frame.size == seen[0].shape[-2:]
    bright = (seen[0][0] != 0).any(0)
    assert bright[: frame.content[0], : frame.content[1]].all()
    assert bright.sum() == frame.content[0] * frame.content[1]


def test_a_detector_in_training_mode_is_measured_in_evaluation_mode(detector):
    detector.transform.min_size = (48, 96)
    detector.train()
    try:
        frames = {ActivationExtractor(detector, "backbone.body.0").frame((90, 90)) for _ in "12345"}
        assert {frame.content for frame in frames} == {(96, 96)}
        assert detector.training
        assert detector.transform.training
    finally:
        detector.transform.min_size = (96,)
        detector.eval()


def test_masks_are_padded_as_the_image_is():
    _, mask = plant(*PLACES[1])
    frame = ActivationExtractor(DETECTOR(), "backbone.body.0").frame((90, 142))
    padded = View(torch.zeros(3, 90, 142), (90, 142)).within(frame)
    seen = padded.see(mask)
    shares = centroid(seen) / seen.shape
    expected = centroid(mask) / mask.shape * frame.content / frame.size
    assert shares == pytest.approx(expected, abs=0.005)
    back = padded.to_original(torch.from_numpy(seen[None]).float())[0].numpy() > 0.5
    assert centroid(back) == pytest.approx(centroid(mask), abs=0.6)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("roi_heads.box_head.fc7", "regions of interest"),
        ("roi_heads.box_roi_pool", "regions of interest"),
        ("backbone", r"can be read in 3 ways: \['0'\]: .* cells"),
        # It returns no tensor. The computation of its frame before the pass must not run its hook.
        ("transform", "object of type ImageList"),
    ],
)
def test_detector_layers_without_a_grid_raise_errors_with_the_reason(detector, layer, match):
    with pytest.raises(LayoutError, match=match):
        ActivationExtractor(detector, layer)(torch.rand(1, 3, 90, 142))


def test_list_layers_lists_the_layers_of_a_detector(detector):
    table = list_layers(detector, (90, 142)).set_index("name")
    assert table.loc["backbone.body.0", "output_shape"] == (1, 16, 48, 80)
    assert table.loc["backbone", "output_shape"].startswith("a dict of '0': a tensor of shape")


class Keyword(nn.Module):
    """Takes its input by name only, doubled and padded to the right."""

    def __init__(self):
        super().__init__()
        self.body = make_small_network()

    def forward(self, *, x):
        return self.body(x)


def call_keyword(module, images):
    return module(x=images)


class Padding:
    """Pads to twice the width, and declares this in its frame."""

    def __call__(self, module, images):
        return module(x=nn.functional.pad(images, (0, images.shape[-1])))

    def frame(self, module, size):
        return (size[0], 2 * size[1]), size


def test_forward_calls_a_network_with_another_signature(boxes):
    model = TorchModel(Keyword(), forward=call_keyword)
    embeddings = LoCETransformer(model, "body.2").fit_transform(boxes)
    plain = LoCETransformer(make_small_network(), "2").fit_transform(boxes)
    assert (embeddings == plain).all()
    assert "body.2" in set(list_layers(model, (16, 16))["name"])


def test_forward_may_define_its_frame():
    image, mask = plant(*PLACES[0])
    model = TorchModel(Keyword(), forward=Padding())
    loce = LoCETransformer(model, "body.3", objective="net2vec", max_iter=100).fit([(image, mask)])
    assert loce.score([(image, mask)]) > 0.5


def test_clones_and_pickles_keep_forward():
    model = TorchModel(make_small_network, forward=call_keyword)
    assert clone(model).forward is call_keyword
    assert pickle.loads(pickle.dumps(model)).forward is call_keyword
    with pytest.raises(TypeError, match="forward must be called as"):
        TorchModel(make_small_network, forward=3)


class Wrapped(nn.Module):
    """Hides a detector, so that it is not recognized."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(list(x))


def call_with_list(module, images):
    return module(list(images))


@pytest.mark.parametrize(
    ("wrap", "layer"),
    [
        (Wrapped, "inner.backbone.body.0"),
        (nn.DataParallel, "module.backbone.body.0"),
        (partial(TorchModel, forward=call_with_list), "backbone.body.0"),
    ],
    ids=["module", "DataParallel", "forward"],
)
def test_resizing_and_padding_inside_the_network_raise_an_error(detector, wrap, layer):
    match = "sees 96 x 160 pixels, of which 96 x 151 are the image.*forward=.*method frame"
    with pytest.raises(LayoutError, match=match):
        ActivationExtractor(wrap(detector), layer)(torch.rand(1, 3, 90, 142))


class Before(nn.Module):
    """Changes the image before its first layer."""

    def __init__(self, first):
        super().__init__()
        self.first, self.conv = first, nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(self.first(x))


@pytest.mark.parametrize(
    "first",
    [nn.ZeroPad2d((0, 8, 0, 0)), nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d(9))],
)
def test_padding_inside_the_network_raises_an_error(first):
    with pytest.raises(LayoutError, match="resizes or pads images itself"):
        ActivationExtractor(Before(first), "conv")(torch.rand(1, 3, 32, 48))


def test_a_network_that_only_resizes_keeps_the_whole_image():
    network = Before(nn.Upsample(size=(64, 80), mode="bilinear"))
    images = torch.rand(1, 3, 32, 48)
    grid = ActivationExtractor(network, "conv")(images)["conv"]
    assert torch.equal(grid, network(images).detach())


class Picture(nn.Module):
    """An autoencoder whose output is an image of half the size."""

    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Conv2d(3, 3, 4, 4), nn.Upsample(scale_factor=2)

    def forward(self, x):
        return self.out(self.body(x))


@pytest.mark.parametrize(
    ("network", "layer", "shape"),
    [
        (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 1)), "1", (1, 8, 22, 36)),
        (nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 8, 7)), "1", (1, 8, 88, 144)),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 8, 8)), "1", (1, 8, 11, 18)),
        (Picture(), "out", (1, 3, 44, 72)),
    ],
    ids=["space to depth", "padding layer", "normalization", "image out"],
)
def test_other_first_layers_are_not_mistaken_for_resizing(network, layer, shape):
    grid = ActivationExtractor(network, layer)(torch.rand(1, 3, 88, 144))[layer]
    assert grid.shape == shape


@pytest.mark.parametrize(
    "frame",
    [
        None,
        (90, 142),
        (1, 2, 3),
        ((64, 64), (90, 142)),
        ((90, 142), (0, 142)),
        ((90.0, 142.0), (90, 142)),
    ],
)
def test_an_invalid_frame_raises_a_clear_error(frame):
    class Wrong(Padding):
        def frame(self, module, size):
            return frame

    with pytest.raises(ValueError, match=r"frame must give two pairs of positive integers.*; got"):
        ActivationExtractor(TorchModel(Keyword(), forward=Wrong()), "body.2").frame((90, 142))


class WantsDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4)

    def forward(self, batch):
        return {"maps": self.conv(batch.get("image"))}


def test_the_error_for_networks_without_tensor_input_suggests_forward():
    with pytest.raises(ValueError, match=r"no attribute 'get'\)?.*TorchModel\(network, forward="):
        ActivationExtractor(WantsDict(), "conv")(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"TorchModel\(network, forward="):
        list_layers(WantsDict(), (16, 16))


class Copied(nn.Module):
    """Runs a copy of its layers that is not a submodule, as some wrappers of detectors do."""

    def __init__(self):
        super().__init__()
        self.layers = make_small_network()
        self.hidden = [copy.deepcopy(self.layers)]

    def forward(self, x):
        return self.hidden[0](x)


def test_the_error_for_a_network_that_runs_a_copy_suggests_the_inner_module():
    match = "No layer of Copied ran, although the pass succeeded.*Pass the inner module"
    with pytest.raises(LayoutError, match=match):
        ActivationExtractor(Copied(), "layers.2")(torch.rand(1, 3, 16, 16))
    with pytest.raises(LayoutError, match=match):
        list_layers(Copied(), (16, 16))


def test_a_layer_that_does_not_run_is_named():
    network = nn.Sequential(make_small_network())
    network.spare = nn.Identity()
    network.forward = network[0].forward
    with pytest.raises(LayoutError, match=r"layers \['spare'\] did not run.*list_layers"):
        ActivationExtractor(network, "spare")(torch.rand(1, 3, 16, 16))


def _scripted():
    return torch.jit.trace(make_small_network().eval(), torch.rand(1, 3, 16, 16))


def _exported():
    return torch.export.export(make_small_network().eval(), (torch.rand(1, 3, 16, 16),))


def _quantized():
    layer = torch.ao.nn.quantized.Conv2d(3, 4, 3)
    return nn.Sequential(torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8), layer)


@pytest.mark.filterwarnings("ignore:.*(deprecated|torch.jit)")
@pytest.mark.parametrize(
    ("build", "layer", "match"),
    [
        (_scripted, "2", r"network is scripted \(torch.jit\).*pass the module that was scripted"),
        (lambda: nn.Sequential(_scripted()), "0.2", "module '0' is scripted"),
        (lambda: _exported().module(), "2", r"is an exported program.*torch\.export\.unflatten"),
        (_quantized, "1", "module '1' is statically quantized.*quantize it dynamically"),
    ],
    ids=["traced", "traced child", "exported", "quantized"],
)
def test_errors_for_modules_without_hooks_name_their_kind_and_a_remedy(build, layer, match):
    with pytest.raises(ValueError, match=match):
        ActivationExtractor(build(), layer)


class Spectral(nn.Module):
    """Convolutions whose weights are computed, and a head with as many channels as an image."""

    def __init__(self):
        super().__init__()
        self.a, self.head = (spectral_norm(nn.Conv2d(*n, 3, 2, 1)) for n in ((3, 8), (8, 3)))
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x):
        return self.up(self.head(self.a(x)))


def _unflattened():
    program = torch.export.export(Spectral().eval(), (torch.rand(1, 3, 64, 96),))
    try:
        return torch.export.unflatten(program)
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} cannot unflatten this program: {error}")


@pytest.mark.parametrize("build", [Spectral, _unflattened])
def test_computed_weights_and_exported_layers_are_not_mistaken_for_resizing(build):
    grids = ActivationExtractor(build(), ["a", "up"])(torch.rand(1, 3, 64, 96))
    assert [grid.shape[1:] for grid in grids.values()] == [(8, 32, 48), (3, 32, 48)]


@pytest.mark.parametrize("n_channels", [1, 4])
def test_the_error_for_other_numbers_of_channels_suggests_a_forward_that_works(n_channels):
    network = nn.Sequential(nn.Conv2d(n_channels, 4, 3), nn.ReLU())
    images = torch.rand(1, 3, 16, 16)
    match = rf"takes images with {n_channels} channels?, and images here have 3.*TorchModel\("
    with pytest.raises(ValueError, match=match) as caught:
        ActivationExtractor(network, "1")(images)
    call = re.search(r"TorchModel\(network, forward=.*\)\)?\)", str(caught.value))[0]
    model = eval(call, {"TorchModel": TorchModel, "torch": torch, "network": network})
    assert ActivationExtractor(model, "1")(images)["1"].shape == (1, 4, 14, 14)


class UNet(nn.Module):
    """Halves five times, doubles, and joins: sides must be multiples of 32."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(n, 4, 3, 2, 1) for n in (3, 4, 4, 4, 4))
        self.up = nn.ModuleList(nn.ConvTranspose2d(4, 4, 2, 2) for _ in range(4))
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        maps = []
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        for layer, skip in zip(self.up, maps[-2::-1], strict=True):
            x = layer(x) + skip
        return self.out(x)


def test_the_error_suggests_a_size_that_the_network_accepts():
    match = r"failed on images of 90 x 142, and takes 96 x 160, whose sides are multiples of 32"
    with pytest.raises(ValueError, match=match):
        ActivationExtractor(UNet(), "out")(torch.rand(1, 3, 90, 142))
    assert ActivationExtractor(UNet(), "out")(torch.rand(1, 3, 96, 160))["out"].shape[2:] == (
        48,
        80,
    )


def test_list_layers_lists_layers_before_a_failure():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(5, 4, 3))
    with pytest.warns(UserWarning, match="failed after the layers listed here: RuntimeError"):
        table = list_layers(network, (16, 16))
    assert list(table["name"]) == ["0"]


def test_an_in_place_first_layer_does_not_change_the_images():
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3))
    images = torch.randn(1, 3, 8, 8)
    before = images.clone()
    ActivationExtractor(network, "1")(images)
    assert torch.equal(images, before)


def test_the_meta_device_raises_an_error_before_weights_move():
    network = make_small_network()
    with pytest.raises(ValueError, match="meta device has no numbers"):
        ActivationExtractor(network, "2", device="meta")
    assert next(network.parameters()).device.type == "cpu"
    with pytest.raises(ValueError, match="meta device has no numbers"):
        ActivationExtractor(network.to("meta"), "2")


@pytest.fixture(scope="module")
def vit():
    return models.VisionTransformer(224, 32, 1, 2, 16, 32)


def test_weights_squash_images_to_the_only_size_of_a_network(vit):
    image, _ = plant(*PLACES[0])
    weights = models.ViT_B_16_Weights.IMAGENET1K_V1
    assert make_view(image, make_transform(weights, vit)).image.shape == (3, 224, 224)
    assert make_view(image, make_transform(weights)).image.shape == (3, 256, 403)


def test_a_wrong_size_for_a_network_with_one_size_raises_a_clear_error(vit):
    layer = "encoder.layers.encoder_layer_0"
    match = r"VisionTransformer was built for images of 224 x 224 and got 90 x 142"
    with pytest.raises(ValueError, match=match):
        LoCETransformer(vit, layer).fit_transform([plant(*PLACES[0])])
    with pytest.raises(ValueError, match=match):
        list_layers(vit, (90, 142))


def test_maxvit_accepts_one_size():
    network = models.MaxVit((64, 64), 8, 2, [8], [1], 8, 0.0)
    match = r"MaxVit was built for images of 64 x 64 and got 72 x 104.*weights of torchvision"
    with pytest.raises(ValueError, match=match):
        ActivationExtractor(network, "blocks.0")(torch.rand(1, 3, 72, 104))


def test_other_failures_are_not_explained_by_the_size(vit):
    layer = "encoder.layers.encoder_layer_0"
    with pytest.raises(RuntimeError, match="expected input"):
        ActivationExtractor(vit, layer)(torch.zeros(1, 4, 224, 224))


# torchvision's boxes, long after the layer, do not support half precision on every device.
@pytest.mark.filterwarnings("ignore:The network failed after the layers")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype):
    images = torch.rand(1, 3, 64, 96)
    for build, layer in [(models.squeezenet1_1, "features.4"), (DETECTOR, "backbone.body.1")]:
        torch.manual_seed(0)
        network = build().eval()
        exact = ActivationExtractor(network, layer)(images)[layer]
        half = ActivationExtractor(network.to(dtype), layer)(images)[layer]
        assert half.dtype == torch.float32
        assert (half - exact).norm() < 0.05 * exact.norm()


def test_channels_last_memory_changes_nothing_but_rounding():
    images = torch.rand(1, 3, 64, 96)
    network = models.squeezenet1_1().eval()
    exact = ActivationExtractor(network, "features.4")(images)["features.4"]
    network.to(memory_format=torch.channels_last)
    found = ActivationExtractor(network, "features.4")(images)["features.4"]
    torch.testing.assert_close(found, exact)
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (models.mobilenet_v3_large, "features.0.1"),
        (models.resnet18, "layer1.0.bn1"),
        (models.vgg11, "features.0"),
        (models.squeezenet1_1, "features.0"),
        (DETECTOR, "backbone.body.0.1"),
    ],
)
def test_activations_before_an_in_place_relu_keep_their_sign(build, layer):
    with ActivationExtractor(build(), layer) as extract:
        for _ in range(2):
            assert (extract(torch.rand(1, 3, 64, 96))[layer] < 0).any()
