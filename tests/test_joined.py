"""JoinedLayers against hooks by hand and float64, and under everything that takes a network."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional
from torchvision import models

from sklearn_loce import (
    ActivationExtractor,
    JoinedLayers,
    LoCETransformer,
    MaskedMeanTransformer,
    RowStore,
    TorchModel,
    list_layers,
    optimize_loces,
)
from sklearn_loce.exceptions import LayoutError

from .conftest import make_small_network
from .counting import LAYERS, Counter, Counting, build_counting, draw_table

TWO = ("body.0", "body.4")


def taken_by_hand(network, layers, images):
    """Give the raw outputs of layers in float64, by a hook on each."""
    network, taken, handles = copy.deepcopy(network).double().eval(), {}, []
    for name in layers:

        def hook(module, args, output, name=name):
            taken[name] = output.detach().clone()

        handles.append(network.get_submodule(name).register_forward_hook(hook))
    with torch.no_grad():
        network(images.double())
    for handle in handles:
        handle.remove()
    return [taken[name] for name in layers]


def joined_by_hand(grids):
    """Scale, interpolate and concatenate, image by image."""
    size = max(g.shape[2] for g in grids), max(g.shape[3] for g in grids)
    images = []
    for k in range(len(grids[0])):
        parts = []
        for grid in grids:
            norms = [grid[k, :, i, j].norm() for i, j in np.ndindex(*grid.shape[2:])]
            root = np.sqrt(np.mean(np.square(norms)))
            scaled = grid[k] / root if root > 0 else grid[k]
            parts.append(functional.interpolate(scaled[None], size=size, mode="bilinear")[0])
        images.append(torch.cat(parts))
    return torch.stack(images)


def assert_as_by_hand(maps, expected):
    torch.testing.assert_close(maps.double(), expected, rtol=1e-4, atol=1e-5)


def draw_images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def joined():
    return JoinedLayers(build_counting(), TWO)


@pytest.mark.parametrize("layers", [["0"], ["1", "4"], ["5", "0", "2"], ("0", "2", "3")])
def test_it_is_what_hooks_and_float64_give(small_network, layers):
    module = JoinedLayers(small_network, layers)
    for size in [(16, 16), (17, 23), (16, 16), (9, 30)]:
        images = draw_images(2, 3, *size)
        assert_as_by_hand(
            module(images), joined_by_hand(taken_by_hand(small_network, layers, images))
        )


@pytest.mark.parametrize("factor", [1000, 1e25, 1e-25])  # whose squares float32 does not hold
def test_the_scale_of_a_layer_does_not_matter(joined, factor):
    images = draw_images(1, 3, 20, 20)
    before = joined(images)
    with torch.no_grad():
        for parameter in joined.network.body[4].parameters():
            parameter.mul_(factor)
    torch.testing.assert_close(joined(images), before)


def test_a_layer_of_zeros_stays_zero(joined):
    with torch.no_grad():
        for parameter in joined.network.body[4].parameters():
            parameter.zero_()
    maps = joined(draw_images(1, 3, 20, 20))
    assert torch.isfinite(maps).all()
    assert maps[:, :4].any()
    assert not maps[:, 4:].any()


def test_tokens_are_read_as_grids():
    torch.manual_seed(0)
    vit = models.VisionTransformer(64, 16, 2, 2, 16, 32).eval()
    layers = ["conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"]
    images = draw_images(2, 3, 64, 64)
    first, *tokens = taken_by_hand(vit, layers, images)
    grids = [first, *(t[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4) for t in tokens)]
    extract = ActivationExtractor(JoinedLayers(vit, layers), "joined")
    for _ in range(2):
        maps = extract(images)["joined"]
        assert_as_by_hand(maps, joined_by_hand(grids))


def first_half(output):
    return output[:, ::2]


def test_reshape_transform_is_called_on_every_layer(joined):
    images = draw_images(1, 3, 12, 12)
    grids = [first_half(g) for g in taken_by_hand(joined.network, TWO, images)]
    halved = JoinedLayers(joined.network, TWO, reshape_transform=first_half)
    assert_as_by_hand(halved(images), joined_by_hand(grids))


def test_half_precision_is_close(joined):
    images = draw_images(1, 3, 20, 20)
    before = joined(images)
    torch.testing.assert_close(joined.bfloat16()(images), before, rtol=0.05, atol=0.05)


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="one or more different layers"):
        JoinedLayers(build_counting(), [])
    with pytest.raises(ValueError, match=r"no layer 'body.44'.*'body.4'"):
        JoinedLayers(build_counting(), ["body.0", "body.44"])
    with pytest.raises(TypeError, match="got function"):
        JoinedLayers(build_counting, TWO)
    with pytest.raises(TypeError, match="reshape_transform"):
        JoinedLayers(build_counting(), TWO, reshape_transform=3)


def test_a_layer_without_places_is_a_clear_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(LayoutError, match="pooled"):
        JoinedLayers(network, ["0", "1"])(draw_images(1, 3, 16, 16))


class Tail(nn.Module):
    def __init__(self):
        super().__init__()
        self.counter = Counter()

    def forward(self, images):
        self.counter.n += 1
        return images


def test_the_network_stops_at_the_deepest_layer():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), Tail())
    with ActivationExtractor(JoinedLayers(network, ["1", "0"]), "joined") as extract:
        for _ in range(3):
            assert extract(draw_images(1, 3, 16, 16))["joined"].shape == (1, 8, 14, 14)
    assert network[2].counter.n == 1  # the first pass shows how often layers run


def count_hooks(module):
    return sum(
        len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules()
    )


def test_the_network_is_not_touched():
    network = make_small_network().train()
    network[3].eval()
    modes = [child.training for child in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    maps = JoinedLayers(network, ["1", "4"])(draw_images(2, 3, 16, 16))
    assert not maps.requires_grad
    assert [child.training for child in network.modules()] == modes
    assert count_hooks(network) == 0
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


@pytest.mark.parametrize("layers", [["network.body.0"], ["network.body.0", "joined"], TWO])
def test_an_early_stop_ends_only_its_own_pass(joined, layers):
    layers = [
        name if "joined" in name or "network" in name else f"network.{name}" for name in layers
    ]
    extract = ActivationExtractor(joined, layers)
    for size in [(16, 16), (16, 16), (12, 20), (16, 16)]:
        images = draw_images(1, 3, *size)
        taken = extract(images)
        inner = [name.removeprefix("network.") for name in layers if name != "joined"]
        for name, grid in zip(inner, taken_by_hand(joined.network, inner, images), strict=True):
            assert_as_by_hand(taken[f"network.{name}"], grid)
        if "joined" in layers:
            torch.testing.assert_close(taken["joined"], joined(images))
    assert count_hooks(joined) == 0


def test_joined_layers_can_be_joined(joined):
    outer = JoinedLayers(joined, ["joined", "network.body.2"])
    images = draw_images(1, 3, 16, 16)
    grids = [joined(images).double(), *taken_by_hand(joined.network, ["body.2"], images)]
    for _ in range(2):
        assert_as_by_hand(outer(images), joined_by_hand(grids))


def test_list_layers_names_it(joined):
    listed = list_layers(joined, (16, 20)).set_index("name")
    assert listed.loc["joined", "output_shape"] == (1, 12, 16, 20)
    assert listed.loc["joined", "n_calls"] == 1


def test_vectors_are_those_of_the_joined_grid(joined):
    X = draw_table(3)
    loce = LoCETransformer(TorchModel(joined), "joined", objective="logistic", alpha=1e-3)
    vectors = loce.fit_transform(X)
    images = [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in X["image"]]
    grids = [joined_by_hand(taken_by_hand(joined.network, TWO, image)) for image in images]
    how = {"objective": "logistic", "alpha": 1e-3}
    expected = optimize_loces(torch.cat(grids).float(), list(X["mask"]), **how).numpy()
    np.testing.assert_allclose(vectors, expected, atol=0.01 * np.abs(expected).max())
    assert vectors.shape == (len(X), 12)


def test_transformers_take_it_as_a_network(joined):
    X, model = draw_table(3), TorchModel(joined)
    loce = LoCETransformer(model, "joined", objective="logistic").fit(X)
    vectors = loce.transform(X)
    rows = loce.evaluate(X, vectors)
    assert rows["foreground_cells"].tolist() == [120] * len(X)  # as many cells as pixels
    assert rows["iou"].mean() == pytest.approx(loce.score(X), abs=0.02)
    maps = loce.project(X, vectors)
    assert [m.shape for m in maps] == [mask.shape for mask in X["mask"]]
    means = MaskedMeanTransformer(model, "joined").fit_transform(X)
    image = torch.from_numpy(X["image"][0]).permute(2, 0, 1)[None] / 255
    grid = joined_by_hand(taken_by_hand(joined.network, TWO, image))[0].numpy()
    np.testing.assert_allclose(means[0], grid[:, X["mask"][0]].mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_workers_give_the_same_vectors(joined):
    how = {"layer": "joined", "memory": False}
    X, make = draw_table(3), partial(LoCETransformer, TorchModel(joined), **how)
    alone = make().fit_transform(X)
    np.testing.assert_array_equal(make(n_jobs=2).fit_transform(X), alone)
    np.testing.assert_array_equal(make(batch_size=1).fit_transform(X), alone)


def test_a_store_keeps_lists_of_layers_apart(tmp_path):
    X, network, store = draw_table(2), build_counting(), RowStore(tmp_path)
    lists = [LAYERS[:2], LAYERS[1::-1], LAYERS[1:3], LAYERS[::3], LAYERS[:1]]

    def embed(layers, memory):
        model = TorchModel(JoinedLayers(network, layers))
        return LoCETransformer(model, "joined", memory=memory).fit_transform(X)

    found = [embed(layers, store) for layers in lists]
    n_images = network.n_images
    for i, layers in enumerate(lists):
        np.testing.assert_array_equal(found[i], embed(layers, store))
        assert not any(np.array_equal(found[i], other) for other in found[:i])
    assert network.n_images == n_images
    for i, layers in enumerate(lists):
        np.testing.assert_array_equal(found[i], embed(layers, False))


def test_a_search_over_models(joined):
    X = draw_table(4)
    candidates = [TorchModel(JoinedLayers(joined.network, layers)) for layers in (LAYERS[:1], TWO)]
    loce = LoCETransformer(candidates[0], "joined", objective="logistic")
    search = GridSearchCV(loce, {"model": candidates}, cv=2).fit(X)
    scores = [clone(loce).set_params(model=model).fit(X).score(X) for model in candidates]
    assert search.best_index_ == int(np.argmax(scores))
    assert search.best_params_["model"].module.network is joined.network


def call_plainly(module, images):
    return module(images)


def double_output(module, args, output):
    return 2 * output


def test_fingerprints_differ_where_activations_may(joined):
    network, hooked = joined.network, JoinedLayers(joined.network, TWO)
    hooked.joined.register_forward_hook(double_output)
    modules = [
        joined,
        hooked,
        network,
        JoinedLayers(network, TWO[::-1]),
        JoinedLayers(network, TWO[:1]),
        JoinedLayers(network, TWO, reshape_transform=first_half),
        JoinedLayers(TorchModel(network, forward=call_plainly), TWO),
        JoinedLayers(Counting(seed=1).eval(), TWO),
        JoinedLayers(JoinedLayers(network, TWO), ["joined"]),
    ]
    digests = [TorchModel(module).fingerprint() for module in modules]
    assert len(set(digests)) == len(digests)
    with torch.no_grad():
        network.body[0].weight[0] += 1
    assert TorchModel(joined).fingerprint() != digests[0]


def test_passes_copies_and_pickles_have_one_fingerprint():
    joined = JoinedLayers(make_small_network(), ["0", "2"])
    before, images = TorchModel(joined).fingerprint(), draw_images(1, 3, 16, 16)
    maps = joined(images)
    ActivationExtractor(joined, "joined")(images)
    for other in (joined, copy.deepcopy(joined), pickle.loads(pickle.dumps(joined))):
        assert TorchModel(other).fingerprint() == before
        assert torch.equal(other(images), maps)


def test_what_is_assigned_counts_at_once(joined):
    images = draw_images(1, 3, 16, 16)
    joined(images)
    joined.layers = ("body.2",)
    assert torch.equal(joined(images), JoinedLayers(joined.network, "body.2")(images))
    joined.network = Counting(seed=1).eval()
    assert torch.equal(joined(images), JoinedLayers(Counting(seed=1).eval(), "body.2")(images))


def call_by_keyword(module, images):
    return module(x=images)


def test_the_handle_says_how_the_network_is_called(joined):
    images = draw_images(1, 3, 16, 16)
    handle = TorchModel(joined.network, forward=call_by_keyword)
    assert torch.equal(JoinedLayers(handle, TWO)(images), joined(images))


@pytest.mark.parametrize("size", [(40, 60), (61, 33)])
def test_a_detector_has_its_frame(size):
    torch.manual_seed(0)
    build = models.detection.ssdlite320_mobilenet_v3_large
    detector = build(weights=None, weights_backbone=None, num_classes=2).eval()
    layers = ["backbone.features.0.3", "backbone.features.0.6"]
    alone, together = (
        ActivationExtractor(module, names)
        for module, names in [(detector, layers), (JoinedLayers(detector, layers), "joined")]
    )
    assert together.frame(size) == alone.frame(size)
    images = draw_images(1, 3, *size)
    expected = joined_by_hand([grid.double() for grid in alone(images).values()])
    for _ in range(2):
        maps = together(images)["joined"]
        assert_as_by_hand(maps, expected)


def test_a_network_of_one_size_says_so():
    joined = JoinedLayers(models.VisionTransformer(64, 16, 1, 2, 16, 32), "conv_proj")
    with pytest.raises(ValueError, match="VisionTransformer was built for images of 64 x 64"):
        ActivationExtractor(joined, "joined")(draw_images(1, 3, 32, 32))
    preset = models.ViT_B_16_Weights.IMAGENET1K_V1
    X = [(np.zeros((50, 90, 3), dtype=np.uint8), np.ones((50, 90), dtype=bool))]
    loce = LoCETransformer(TorchModel(joined), "joined", preprocess=preset).fit(X)
    assert loce.evaluate(X)["foreground_cells"].tolist() == [16]


def test_threads_may_share_a_network():
    network = make_small_network().train()
    images = [draw_images(1, 3, 16, 16 + 2 * k, seed=k) for k in range(10)]
    wrapped = [JoinedLayers(network, layers) for layers in (["0", "2"], ["1", "4"])]

    def take(module):
        return [ActivationExtractor(module, "joined")(image)["joined"] for image in images]

    expected = [take(copy.deepcopy(module)) for module in wrapped]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(take, wrapped))
    for maps, right in zip(found, expected, strict=True):
        assert all(map(torch.equal, maps, right))
    assert all(child.training for child in network.modules())
    assert count_hooks(network) == 0
