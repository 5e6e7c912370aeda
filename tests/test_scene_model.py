"""load_scene_model: the file, the network, the training script, and LoCEs."""

from importlib import resources

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from safetensors import safe_open

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.datasets import _train_scene_model as training
from sklearn_loce.datasets import load_scene_model, make_scenes

CLASSES = ("background", "sky", "road", "grass", "tree", "house", "bus", "car", "taxi")
SHAPES = {
    "features.0": (24, 60, 80),
    "features.1": (48, 30, 40),
    "features.2": (48, 30, 40),
    "features.3": (64, 15, 20),
    "features.4": (96, 15, 20),
    "features.5": (96, 15, 20),
}


@pytest.fixture(scope="module")
def model():
    return load_scene_model()


def as_input(images):
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2) / 255


def test_the_weights_file_is_valid(model):
    path = resources.files("sklearn_loce.datasets") / "data" / "scene_model.safetensors"
    assert path.stat().st_size < 500_000
    with safe_open(path, framework="numpy") as weights:
        metadata = weights.metadata()
        stored = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    assert metadata["classes"].split(",") == list(CLASSES)
    assert stored.keys() == model.state_dict().keys()
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values.numpy(), stored[name])


def test_the_model_is_in_evaluation_mode(model):
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert load_scene_model() is not model


def test_the_model_has_its_layers(model):
    shapes = {}
    for name in SHAPES:
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: output.shape[1:]}),
        )
    with torch.no_grad():
        assert model(torch.rand(2, 3, 120, 160)).shape == (2, 9, 120, 160)
    assert shapes == SHAPES
    for module in model.modules():
        module._forward_hooks.clear()


@pytest.mark.parametrize("size", [(16, 16), (97, 131), (240, 320)])
def test_the_model_accepts_any_image_size(model, size):
    with torch.no_grad():
        assert model(torch.rand(1, 3, *size)).shape == (1, 9, *size)


def test_the_model_segments_unseen_scenes(model):
    scenes = make_scenes(n_samples=40, random_state=99)
    per_image = scenes.data.drop_duplicates("image_id")["image"]
    with torch.no_grad():
        predicted = model(as_input(per_image)).argmax(1).numpy()
    hits, union = np.zeros(9), np.zeros(9)
    for (_, row), concept in zip(scenes.data.iterrows(), scenes.target, strict=True):
        k = CLASSES.index(concept)
        hits[k] += (rle.decode(row["mask"]).astype(bool) & (predicted[row["image_id"]] == k)).sum()
        union[k] += rle.decode(row["mask"]).sum()
    for k in range(1, 9):
        union[k] += (predicted == k).sum() - hits[k]
    iou = hits[1:] / union[1:]
    assert iou.mean() > 0.92
    assert iou.min() > 0.85


def test_projections_of_loces_match_their_masks(model):
    loce = LoCETransformer(TorchModel(model), "features.2")
    scenes = make_scenes(n_samples=60, random_state=20)
    quality = loce.fit(scenes.data).evaluate(scenes.data)
    per_concept = quality["iou"].groupby(scenes.target).mean()
    assert per_concept.min() > 0.55
    assert per_concept[["sky", "road"]].min() > 0.85
    assert quality["iou"].mean() > 0.72
    assert not quality["failed"].any()


def test_training_is_seeded_and_keeps_the_global_generator():
    state = torch.get_rng_state()
    first, again = (training.train(n_steps=2, seed=5).state_dict() for _ in range(2))
    other = training.train(n_steps=2, seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.0.0.weight"], other["features.0.0.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_training_scenes_differ_from_those_of_make_scenes():
    images, labels = training.draw_batch(training.TRAINING, range(2))
    assert images.shape == (2, 3, 120, 160)
    assert labels.shape == (2, 120, 160)
    assert np.iinfo(np.int32).max < training.TRAINING
    assert training.VALIDATION != training.TRAINING


def test_the_script_writes_a_file_with_its_settings(tmp_path):
    out = tmp_path / "weights.safetensors"
    training.main(["--steps", "2", "--seed", "3", "--validation-scenes", "2", "--out", str(out)])
    with safe_open(out, framework="numpy") as weights:
        assert weights.metadata().keys() == {"classes", "mean_iou", "seed", "steps"}
        assert weights.metadata()["seed"] == "3"
        assert weights.get_tensor("features.0.0.weight").dtype == np.float16
