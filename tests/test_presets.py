"""The presets "paper" and "auto", and warnings of a missing normalization."""

import pickle
import socket
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from skimage.transform import resize
from sklearn.base import clone
from sklearn.metrics.pairwise import paired_distances
from torch import nn
from torch.nn import functional
from torchvision import models, transforms
from torchvision.transforms import v2

from sklearn_loce import (
    LoCETransformer,
    MaskedMeanTransformer,
    RowStore,
    TorchModel,
)
from sklearn_loce.datasets import make_scenes
from sklearn_loce.segmentation import ConceptSegmenter

from .planted import NORMALIZE

WEIGHTS = models.ResNet18_Weights.IMAGENET1K_V1
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Strided(nn.Sequential):
    """A network with random weights that takes images of any size."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2))


def build(weights=None):
    """Accept weights as builders of torchvision do, but download none."""
    torch.manual_seed(0)
    return Strided().eval()


@pytest.fixture(scope="module")
def scenes():
    """Four rows of two images that are not 4:3."""
    X = make_scenes(2, random_state=0).data
    X = X[X["area"] > 0.01].groupby("image_id").head(2)
    return pd.DataFrame(
        {
            "image": [Image.fromarray(np.asarray(image)[:, :130]) for image in X["image"]],
            "mask": [decode(mask)[:, :130] for mask in X["mask"]],
            "concept": X["concept"].to_numpy(),
        }
    )


def decode(mask):
    return coco_mask.decode(mask).astype(bool)


def paper_picture(image, *sizes):
    """Resize as the published code does."""
    for size in [(640, 480), *sizes]:
        image = image.convert("RGB").resize(size)  # bicubic is Pillow's default
    return image


def as_pixels(picture):
    return torch.from_numpy(np.asarray(picture, np.float32).transpose(2, 0, 1) / 255)[None]


def grid_of(network, layer, *images, **more):
    """Hook a layer, and put tokens behind ``n`` others in rows."""
    found = []
    hook = network.get_submodule(layer).register_forward_hook(lambda *a: found.append(a[2]))
    with torch.no_grad():
        network.eval()(*images, **more)
    hook.remove()
    return found[0][0] if isinstance(found[0], tuple) else found[0]


def paper_loce(grid, mask):
    """Optimize a vector as the published code does: all channels upsampled, autograd, AdamW."""
    target = torch.from_numpy(resize(mask.astype(float), (100, 100))).float()[None, None]
    maps = functional.interpolate(grid, size=(100, 100), mode="bilinear")
    weight = 1 - (target > 0).float().mean()
    vector = torch.zeros(1, grid.shape[1], 1, 1, requires_grad=True)
    optimizer = torch.optim.AdamW([vector], lr=0.1)
    for _ in range(50):
        drawn = torch.sigmoid((maps * vector).sum(1, keepdim=True))
        loss = -(weight * target * drawn + (1 - weight) * (1 - target) * (1 - drawn)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vector.detach().ravel()


def iou_of(grid, vector, mask):
    """Project at 100 x 100, as the published code does, and then at the size of the image."""
    drawn = torch.einsum("c,bchw->bhw", vector, grid)[None]
    drawn = functional.interpolate(drawn, size=(100, 100), mode="bilinear").sigmoid()
    drawn = functional.interpolate(drawn, size=mask.shape, mode="bilinear")[0, 0].numpy() > 0.5
    return (drawn & mask).sum() / (drawn | mask).sum()


def assert_near(found, expected):
    assert (1 - paired_distances(found, np.stack(expected), metric="cosine")).min() > 0.9999


def test_vectors_with_the_paper_preset_equal_its_formulas(scenes):
    scenes = scenes.iloc[::2]
    torch.manual_seed(0)
    network = models.mobilenet_v3_large(weights=None).eval()
    layers = ["features.6", "features.12"]
    loce = LoCETransformer(TorchModel(network), layers, preprocess="paper", objective="net2vec")
    found = loce.fit_transform(scenes)
    ious = loce.evaluate(scenes)["iou"].to_numpy().reshape(-1, 2)
    parts = np.split(found, [loce.n_channels_[0]], axis=1)
    for layer, part, of_layer in zip(layers, parts, ious.T, strict=True):
        grids = [
            grid_of(network, layer, as_pixels(paper_picture(image))) for image in scenes["image"]
        ]
        expected = [paper_loce(*row) for row in zip(grids, scenes["mask"], strict=True)]
        assert_near(part, expected)
        rows = zip(grids, expected, scenes["mask"], strict=True)
        np.testing.assert_allclose(of_layer, [iou_of(*row) for row in rows], atol=1e-3)


@pytest.mark.slow
def test_vectors_of_twenty_cars_equal_those_of_the_paper(camvid, camvid_network):
    cars = camvid.data[camvid.data["concept"] == "car"].head(20)
    layers = ["backbone.9", "backbone.13"]
    loce = LoCETransformer(camvid_network, layers, preprocess="paper", objective="net2vec")
    found, ious = loce.fit_transform(cars), loce.evaluate(cars)["iou"].to_numpy().reshape(-1, 2)
    masks = [decode(mask) for mask in cars["mask"]]
    parts = np.split(found, [loce.n_channels_[0]], axis=1)
    for layer, part, of_layer in zip(layers, parts, ious.T, strict=True):
        pictures = [paper_picture(Image.open(path)) for path in cars["image"]]
        grids = [grid_of(camvid_network.module, layer, as_pixels(p)) for p in pictures]
        expected = [paper_loce(*row) for row in zip(grids, masks, strict=True)]
        assert_near(part, expected)
        rows = zip(grids, expected, masks, strict=True)
        np.testing.assert_allclose(of_layer, [iou_of(*row) for row in rows], atol=1e-3)


def test_images_are_resized_to_the_only_size_after_that_of_the_paper(scenes):
    torch.manual_seed(0)
    sizes = {"patch_size": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 32}
    network = models.VisionTransformer(224, **sizes).eval()
    loce = LoCETransformer(
        TorchModel(network), "encoder.layers.encoder_layer_1", objective="net2vec"
    )
    found = loce.set_params(preprocess="paper").fit_transform(scenes)
    pictures = [paper_picture(image, (224, 224)) for image in scenes["image"]]
    grids = [grid_of(network, loce.layer, as_pixels(p))[:, 1:] for p in pictures]
    grids = [tokens.transpose(1, 2).unflatten(2, (7, 7)) for tokens in grids]
    assert_near(found, [paper_loce(*row) for row in zip(grids, scenes["mask"], strict=True)])


@pytest.mark.slow
def test_detr_gets_the_images_of_the_paper_through_its_processor(scenes):
    transformers = pytest.importorskip("transformers")
    from .test_planted_extras import build_detr

    torch.manual_seed(0)
    network = build_detr().eval()
    rows = scenes.iloc[:2]
    loce = LoCETransformer(
        TorchModel(network), "model.encoder.layers.0", preprocess="paper", objective="net2vec"
    )
    found = loce.fit_transform(rows)
    processor = transformers.DetrImageProcessor()
    for k, image in enumerate(rows["image"]):
        inputs = processor(images=paper_picture(image), return_tensors="pt")
        assert inputs["pixel_values"].shape == (1, 3, 800, 1066)
        tokens = grid_of(network, loce.layer, **inputs)
        grid = tokens.transpose(1, 2).unflatten(2, (25, 34))
        assert_near(found[k : k + 1], [paper_loce(grid, rows["mask"].iloc[k])])


def test_averages_use_the_images_of_the_paper(scenes):
    whole = scenes.assign(mask=[np.ones_like(mask) for mask in scenes["mask"]])
    network = build()
    averages = MaskedMeanTransformer(network, "2", preprocess="paper").fit_transform(whole)
    expected = [
        grid_of(network, "2", as_pixels(paper_picture(image)))[0].mean((1, 2)).numpy()
        for image in whole["image"]
    ]
    np.testing.assert_allclose(averages, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LoCETransformer, MaskedMeanTransformer])
def test_pickles_clones_and_workers_keep_the_paper_preset(scenes, kind):
    estimator = kind(TorchModel(build), "2", preprocess="paper")
    expected = estimator.fit_transform(scenes)
    assert not np.allclose(
        expected, clone(estimator).set_params(preprocess=None).fit_transform(scenes)
    )
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.transform(scenes), expected)
    others = clone(estimator).set_params(n_jobs=2, memory=False)
    np.testing.assert_array_equal(others.fit_transform(scenes), expected)
    others.set_params(model=TorchModel(build, weights=WEIGHTS), preprocess="auto")
    expected = kind(build(), "2", preprocess=WEIGHTS).fit_transform(scenes)
    np.testing.assert_array_equal(others.fit_transform(scenes), expected)


def test_projections_have_the_size_of_the_image(scenes):
    loce = LoCETransformer(TorchModel(build), "2", preprocess="paper", objective="logistic")
    assert [m.shape for m in loce.fit(scenes).project(scenes)] == [m.shape for m in scenes["mask"]]
    segmenter = ConceptSegmenter(loce).fit(scenes)
    assert segmenter.predict(scenes)[0].shape == scenes["mask"].iloc[0].shape


def test_vectors_are_stored_by_the_preprocessed_images(scenes, tmp_path):
    loce = LoCETransformer(TorchModel(build, weights=WEIGHTS), "2", memory=tmp_path)
    for preprocess in ("paper", "auto", "paper", WEIGHTS, "auto", v2.Resize((480, 640))):
        loce.set_params(preprocess=preprocess)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loce.fit_transform(scenes)
    # "auto" found the rows of the weights, and the last rows are new.
    rows = RowStore(tmp_path).to_frame()
    assert rows["preprocess"].value_counts().tolist() == [len(scenes)] * 3


AUTO = {
    "weights": partial(TorchModel, build, weights=WEIGHTS),
    "partial": lambda: TorchModel(partial(build, weights=WEIGHTS)),
    "said": lambda: TorchModel(build(), preprocess=WEIGHTS),
    "said of a builder": partial(TorchModel, build, preprocess=WEIGHTS.transforms()),
}


@pytest.mark.parametrize("name", AUTO)
def test_auto_equals_the_preprocessing_of_the_weights(scenes, name):
    model = AUTO[name]()
    expected = LoCETransformer(build(), "2", preprocess=WEIGHTS).fit_transform(scenes)
    for same in (model, clone(model), pickle.loads(pickle.dumps(model))):
        loce = LoCETransformer(same, "2", preprocess="auto", memory=False)
        np.testing.assert_array_equal(loce.fit_transform(scenes), expected)


def test_names_of_weights_are_resolved_before_the_network_is_built():
    assert TorchModel(models.resnet18, weights=WEIGHTS).preprocess is WEIGHTS
    for name in ("DEFAULT", "IMAGENET1K_V1"):
        assert TorchModel(partial(models.resnet18, weights=name)).preprocess is WEIGHTS
        assert TorchModel(partial(models.get_model, "resnet18", weights=name)).preprocess is WEIGHTS
    by_name = partial(models.get_model, name="resnet18", weights="DEFAULT")
    assert TorchModel(by_name).preprocess is WEIGHTS
    assert TorchModel(partial(models.get_model, "unknown", weights="DEFAULT")).preprocess is None
    assert TorchModel(partial(models.get_model, weights="DEFAULT")).preprocess is None
    assert TorchModel(partial(models.resnet18, weights=None)).preprocess is None
    assert TorchModel(partial(models.resnet18, weights="unknown")).preprocess is None
    assert TorchModel(partial(build, weights="DEFAULT")).preprocess is None


def timm_like(**changes):
    network = build()
    network.pretrained_cfg = {
        "input_size": (3, 60, 60),
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 0.6,
    } | changes
    return network


BICUBIC = transforms.InterpolationMode.BICUBIC


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 100),
        ({"crop_pct": None}, 60),
        ({"crop_mode": "squash"}, (100, 100)),
        ({"input_size": (3, 60, 90), "crop_pct": 1.0}, (60, 90)),
    ],
)
def test_auto_reads_the_configuration_of_timm(scenes, changes, size):
    steps = [transforms.Resize(size, BICUBIC), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    how = {"layer": "2", "memory": False}
    expected = LoCETransformer(build(), preprocess=transforms.Compose(steps), **how)
    found = LoCETransformer(timm_like(**changes), preprocess="auto", **how)
    np.testing.assert_array_equal(found.fit_transform(scenes), expected.fit_transform(scenes))


def test_auto_equals_the_transform_of_timm(scenes):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", depth=1)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    loce = LoCETransformer(TorchModel(network), "blocks.0", memory=False)
    expected = loce.set_params(preprocess=transform).fit_transform(scenes)
    found = loce.set_params(preprocess="auto").fit_transform(scenes)
    np.testing.assert_array_equal(found, expected)


def save_huggingface(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(image_size=64, intermediate_size=32, **sizes)
    transformers.ViTModel(config).save_pretrained(folder)
    how = {"size": {"height": 64, "width": 64}, "image_mean": [0.3] * 3, "image_std": [0.2] * 3}
    return transformers.ViTModel.from_pretrained(folder), transformers.ViTImageProcessor(**how)


@pytest.fixture
def no_internet(monkeypatch):
    """Record requests to the internet, because libraries catch the error."""
    asked = []

    def refuse(*address, **_):
        asked.append(address)
        raise OSError("there is no internet")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert asked == []


@pytest.mark.usefixtures("no_internet")
def test_auto_finds_the_processor_beside_a_network_of_hugging_face(scenes, tmp_path):
    network, processor = save_huggingface(tmp_path)
    loce = LoCETransformer(TorchModel(network), "layers.0", preprocess="auto", memory=tmp_path)
    with pytest.raises(ValueError, match="not known for ViTModel"):
        loce.fit(scenes)
    assert LoCETransformer(network, "layers.0", preprocess=v2.Resize((64, 64))).fit(scenes)
    processor.save_pretrained(tmp_path)
    found = loce.fit_transform(scenes)
    expected = clone(loce).set_params(preprocess=processor, memory=False).fit_transform(scenes)
    np.testing.assert_array_equal(found, expected)
    with pytest.warns(UserWarning, match=r"ViTModel was trained .* mean=\[0\.3, 0\.3, 0\.3\]"):
        loce.set_params(preprocess=v2.Resize((64, 64))).fit(scenes)
    for name in ("somebody/a-network-that-is-not-here", "a/folder/that/is/gone"):
        network.config.name_or_path = name
        with pytest.raises(ValueError, match="not known for ViTModel"):
            loce.set_params(preprocess="auto").fit(scenes)
    said = TorchModel(network, preprocess=processor)
    found = loce.set_params(model=said, memory=False).fit_transform(scenes)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("no_internet")
def test_auto_finds_the_processor_that_was_downloaded(scenes, tmp_path, monkeypatch):
    network, processor = save_huggingface(tmp_path / "elsewhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--somebody--network"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abc")
    processor.save_pretrained(kept / "snapshots" / "0123abc")
    network.config.name_or_path = "somebody/network"
    loce = LoCETransformer(network, "layers.0", preprocess="auto")
    expected = LoCETransformer(network, "layers.0", preprocess=processor).fit_transform(scenes)
    np.testing.assert_array_equal(loce.fit_transform(scenes), expected)


@pytest.mark.parametrize("model", [build(), TorchModel(build), TorchModel(build())])
def test_auto_raises_an_error_if_nothing_is_known(scenes, model):
    for kind in (LoCETransformer, MaskedMeanTransformer):
        with pytest.raises(
            ValueError, match=r"not known for Strided\. Pass it as TorchModel\(buil"
        ):
            kind(model, "2", preprocess="auto").fit(scenes)
    with pytest.raises(ValueError, match="must be None, a str among"):
        LoCETransformer(model, "2", preprocess="papr").fit(scenes)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (
            {"source": build(), "weights": WEIGHTS},
            "Strided is already built.*or preprocess=weights",
        ),
        ({"source": build, "weights": models.ResNet18_Weights}, "a member of a WeightsEnum"),
        ({"source": build, "weights": "DEFAULT"}, "a member of a WeightsEnum"),
        (
            {"source": build, "preprocess": "auto"},
            "preprocessing of the network's training.*'auto'",
        ),
    ],
)
def test_preprocess_without_information_on_the_training_raises_an_error(given, match):
    with pytest.raises(TypeError, match=match):
        TorchModel(**given)


KNOWN = AUTO | {"timm": timm_like}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(
    "preprocess",
    [None, v2.Resize((60, 70)), v2.RandomInvert(0.5), transforms.Resize(70)],
    ids=["none", "resized", "random", "first version"],
)
def test_a_missing_normalization_warns_once(scenes, name, preprocess):
    mean, std = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]) if name == "timm" else (MEAN, STD)
    loce = LoCETransformer(KNOWN[name](), "2", preprocess=preprocess, memory=False)
    with pytest.warns(UserWarning, match="was trained on images normalized with") as caught:
        loce.fit_transform(scenes)
    (message,) = [str(warning.message) for warning in caught]
    assert f"mean={mean} and std={std}" in message
    assert "'auto'" in message
    assert "'paper'" in message
    assert "Strided" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loce.transform(scenes)  # not again


def test_the_warning_reads_the_normalization_of_a_cropping_processor(scenes):
    transformers = pytest.importorskip("transformers")
    crops = transformers.ConvNextImageProcessor(size={"shortest_edge": 96})
    loce = LoCETransformer(TorchModel(build, preprocess=crops), "2", preprocess=NORMALIZE)
    loce.fit(scenes)
    with pytest.warns(UserWarning, match=r"mean=\[0\.5, 0\.5, 0\.5\]"):
        loce.set_params(preprocess=None).fit(scenes)


def build_detector(weights=None):
    sizes = {"weights_backbone": None, "num_classes": 2, "min_size": 64, "max_size": 96}
    return models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, **sizes)


SILENT = {
    "the paper's": (AUTO["weights"], "2", "paper"),
    "its own": (AUTO["weights"], "2", "auto"),
    "another normalization": (AUTO["weights"], "2", NORMALIZE),
    "nothing is known": (partial(TorchModel, build), "2", None),
    "a module": (build, "2", None),
    "trained without": (lambda: timm_like(mean=(0, 0, 0), std=(1, 1, 1)), "2", None),
    "said otherwise": (
        partial(TorchModel, build, weights=WEIGHTS, preprocess=v2.Identity()),
        "2",
        None,
    ),
    "a detector": (build_detector, "backbone.body.0", None),
    "a detector's own": (build_detector, "backbone.body.0", "auto"),
    "a detector's weights": (
        partial(TorchModel, build_detector, weights=models.detection.SSD300_VGG16_Weights.DEFAULT),
        "backbone.body.0",
        None,
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_correct_normalization_does_not_warn(scenes, name):
    make, layer, preprocess = SILENT[name]
    MaskedMeanTransformer(make(), layer, preprocess=preprocess).fit(scenes)
