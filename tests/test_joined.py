"""Joined compared with hooks in float64, and in all places that accept a layer."""

import copy
import pickle
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional
from torchvision import models

from sklearn_loce import (
    ActivationExtractor,
    Joined,
    LoCETransformer,
    MaskedMeanTransformer,
    RowStore,
    TorchModel,
    optimize_loces,
)
from sklearn_loce.exceptions import LayoutError
from sklearn_loce.plotting import LayerComparisonDisplay, ProjectionDisplay, to_html
from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter

from .counting import LAYERS, Counter, build_counting, draw_table

TWO = Joined("body.0", "body.4")


def taken_by_hand(network, layers, images):
    """Return the raw outputs of layers in float64, by a hook on each."""
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


def extract_joined(network, *layers, images, **how):
    joined = Joined(*layers)
    return ActivationExtractor(network, joined, **how)(images)[str(joined)]


def assert_as_by_hand(maps, expected):
    torch.testing.assert_close(maps.double(), expected, rtol=1e-4, atol=1e-5)


def draw_images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def grids_by_hand(network, X, layers=TWO.layers):
    """Return the joined grid of each image of a table, in float64."""
    images = [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in X["image"]]
    return torch.cat([joined_by_hand(taken_by_hand(network, layers, image)) for image in images])


def make_joining(network=None, layer=TWO, **how):
    how = {"objective": "logistic", "alpha": 1e-3} | how
    return LoCETransformer(TorchModel(network or build_counting()), layer, **how)


# The value


def test_joined_layers_are_compared_by_value():
    assert Joined("a", "b") == Joined("a", "b")
    others = {Joined("b", "a"), Joined("a", "b", "c"), Joined("a", "b.c"), "a+b", ("a", "b")}
    assert Joined("a", "b") not in others
    assert len({Joined("a", "b"), Joined("a", "b")}) == 1
    assert Joined("a", "b+c") != Joined("a+b", "c")
    assert repr(Joined("a.0", "b")) == "Joined('a.0', 'b')"
    assert str(Joined("a.0", "b")) == "a.0+b"
    assert Joined("a", "b").layers == ("a", "b")
    assert repr(Joined(*np.array(["a", "b"]))) == "Joined('a', 'b')"
    with pytest.raises(AttributeError):
        Joined("a", "b").layers = ("c",)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, partial(clone, safe=False), lambda value: value]
)
def test_copies_and_pickles_are_equal(copied):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        other = pickle.loads(pickle.dumps(copied(TWO), protocol))
        assert (other, hash(other), repr(other)) == (TWO, hash(TWO), repr(TWO))


@pytest.mark.parametrize("layers", [(), ("a",), ("a", "a"), ("a", "b", "a")])
def test_fewer_than_two_different_layers_raise_an_error(layers):
    with pytest.raises(ValueError, match=r"two or more different layers, got \["):
        Joined(*layers)


@pytest.mark.parametrize("layers", [("a", 1), (None, "a"), (["a", "b"],), (TWO, "a")])
def test_layers_must_be_names(layers):
    with pytest.raises(TypeError, match=r"one by one, as in Joined\(.*got"):
        Joined(*layers)


def test_unknown_layers_raise_an_error_with_close_names():
    network = build_counting()
    for layer in (Joined("body.0", "body.44"), ["body.0", Joined("body.2", "body.44")]):
        with pytest.raises(ValueError, match=r"no layer 'body.44'.*'body.4'"):
            ActivationExtractor(network, layer)
        with pytest.raises(ValueError, match=r"no layer 'body.44'.*'body.4'"):
            make_joining(layer=layer).fit(draw_table(1))
        with pytest.raises(ValueError, match=r"no layer 'body.44'.*'body.4'"):
            make_joining().precompute(draw_table(1), layer)


def test_the_error_for_a_name_from_a_table_suggests_joined():
    with pytest.raises(
        ValueError, match=r"no layer 'body.0\+body.4'.*Joined\('body.0', 'body.4'\)"
    ):
        make_joining(layer="body.0+body.4").fit(draw_table(1))
    with pytest.raises(ValueError, match=r"no layer 'body.0\+body.9'.*Close names"):
        make_joining(layer="body.0+body.9").fit(draw_table(1))


def test_a_repeated_layer_raises_an_error():
    with pytest.raises(ValueError, match="different layers"):
        ActivationExtractor(build_counting(), [TWO, "body.0", Joined(*TWO.layers)])
    for layers in ([3], [["body.0", "body.4"]], [None, TWO]):
        with pytest.raises(TypeError, match="layer must be the name of a layer, Joined names, or"):
            ActivationExtractor(build_counting(), layers)


# The activations


@pytest.mark.parametrize("layers", [("0", "2"), ("1", "4"), ("5", "0", "2"), ("0", "2", "3")])
def test_the_joined_grid_equals_that_of_hooks_in_float64(small_network, layers):
    with ActivationExtractor(small_network, Joined(*layers)) as extract:
        for size in [(16, 16), (17, 23), (16, 16), (9, 30)]:
            images = draw_images(2, 3, *size)
            expected = joined_by_hand(taken_by_hand(small_network, layers, images))
            found = extract(images)
            assert list(found) == ["+".join(layers)]
            assert_as_by_hand(found["+".join(layers)], expected)


def test_members_may_be_requested_alone(small_network):
    asked = ["2", Joined("0", "2"), Joined("2", "0"), "4"]
    images = draw_images(2, 3, 16, 16)
    with ActivationExtractor(small_network, asked) as extract:
        for _ in range(2):
            found = extract(images)
            assert list(found) == ["2", "0+2", "2+0", "4"]
            zero, two, four = taken_by_hand(small_network, ["0", "2", "4"], images)
            expected = [two, joined_by_hand([zero, two]), joined_by_hand([two, zero]), four]
            for grid, right in zip(found.values(), expected, strict=True):
                assert_as_by_hand(grid, right)


@pytest.mark.parametrize("factor", [1000, 1e25, 1e-25])  # whose squares float32 does not hold
def test_the_scale_of_a_layer_does_not_matter(factor):
    network, images = build_counting(), draw_images(1, 3, 20, 20)
    before = extract_joined(network, *TWO.layers, images=images)
    with torch.no_grad():
        for parameter in network.body[4].parameters():
            parameter.mul_(factor)
    torch.testing.assert_close(extract_joined(network, *TWO.layers, images=images), before)


def test_a_layer_of_zeros_stays_zero():
    network = build_counting()
    with torch.no_grad():
        for parameter in network.body[4].parameters():
            parameter.zero_()
    maps = extract_joined(network, *TWO.layers, images=draw_images(1, 3, 20, 20))
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
    assert_as_by_hand(extract_joined(vit, *layers, images=images), joined_by_hand(grids))


def first_half(output):
    return output[:, ::2]


def test_reshape_transform_is_called_on_every_layer():
    network, images = build_counting(), draw_images(1, 3, 12, 12)
    grids = [first_half(g) for g in taken_by_hand(network, TWO.layers, images)]
    halved = extract_joined(network, *TWO.layers, images=images, reshape_transform=first_half)
    assert_as_by_hand(halved, joined_by_hand(grids))


def test_half_precision_is_close():
    network, images = build_counting(), draw_images(1, 3, 20, 20)
    before = extract_joined(network, *TWO.layers, images=images)
    half = extract_joined(network.bfloat16(), *TWO.layers, images=images)
    torch.testing.assert_close(half, before, rtol=0.05, atol=0.05)


def test_a_layer_without_places_raises_a_clear_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(LayoutError, match=r"layer '1'.*pooled"):
        extract_joined(network, "0", "1", images=draw_images(1, 3, 16, 16))


class Shared(nn.Module):
    """Runs its activation function twice, and never its last layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, stride=2)
        self.relu, self.idle = nn.ReLU(), nn.ReLU()

    def forward(self, images):
        return self.relu(self.second(self.relu(self.first(images))))


def test_a_layer_that_runs_twice_gives_its_last_output():
    network, images = Shared().eval(), draw_images(2, 3, 16, 16)
    expected = joined_by_hand(taken_by_hand(network, ["relu", "first"], images))
    with ActivationExtractor(network, Joined("relu", "first")) as extract:
        for _ in range(2):
            assert_as_by_hand(extract(images)["relu+first"], expected)


def test_a_layer_that_does_not_run_raises_a_clear_error():
    with pytest.raises(LayoutError, match=r"\['idle'\] did not run"):
        extract_joined(Shared(), "first", "idle", images=draw_images(1, 3, 16, 16))


class Tail(nn.Module):
    def __init__(self):
        super().__init__()
        self.counter = Counter()

    def forward(self, images):
        self.counter.n += 1
        return images


def test_the_pass_stops_at_the_deepest_layer():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), Tail())
    with ActivationExtractor(network, Joined("1", "0")) as extract:
        for _ in range(3):
            assert extract(draw_images(1, 3, 16, 16))["1+0"].shape == (1, 8, 14, 14)
    assert network[2].counter.n == 1  # the first pass shows how often layers run


@pytest.mark.parametrize("size", [(40, 60), (61, 33)])
def test_a_detector_uses_its_frame(size):
    torch.manual_seed(0)
    build = models.detection.ssdlite320_mobilenet_v3_large
    detector = build(weights=None, weights_backbone=None, num_classes=2).eval()
    layers = ["backbone.features.0.3", "backbone.features.0.6"]
    extract = ActivationExtractor(detector, [*layers, Joined(*layers)])
    assert extract.frame(size) == ActivationExtractor(detector, layers).frame(size)
    images = draw_images(1, 3, *size)
    for _ in range(2):
        *alone, together = extract(images).values()
        assert_as_by_hand(together, joined_by_hand([grid.double() for grid in alone]))


# The estimators


def test_vectors_equal_those_of_the_joined_grid():
    X, network = draw_table(3), build_counting()
    vectors = make_joining(network).fit_transform(X)
    grids, how = grids_by_hand(network, X), {"objective": "logistic", "alpha": 1e-3}
    expected = optimize_loces(grids.float(), list(X["mask"]), **how).numpy()
    np.testing.assert_allclose(vectors, expected, atol=0.01 * np.abs(expected).max())
    assert vectors.shape == (len(X), 12)


def test_a_list_may_mix_joined_and_single_layers():
    X, network = draw_table(3), build_counting()
    loce = make_joining(network, ["body.4", TWO]).fit(X)
    alone = [
        make_joining(network, layer, memory=False).fit_transform(X) for layer in ("body.4", TWO)
    ]
    np.testing.assert_array_equal(loce.transform(X), np.hstack(alone))
    assert loce.layers_ == ["body.4", "body.0+body.4"]
    assert loce.n_channels_ == [8, 12]
    names = [f"body.4[{c}]" for c in range(8)] + [f"body.0+body.4[{c}]" for c in range(12)]
    assert loce.get_feature_names_out().tolist() == names
    rows = loce.evaluate(X)
    assert rows["layer"].tolist() == loce.layers_ * len(X)
    cells = rows.set_index("layer")["foreground_cells"]
    assert (cells["body.0+body.4"] == 120).all()  # as many cells as pixels
    assert (cells["body.4"] == 30).all()


def test_project_accepts_the_value_or_its_name():
    X, network = draw_table(2), build_counting()
    loce = make_joining(network, ["body.4", TWO]).fit(X)
    vectors = loce.transform(X)
    alone = make_joining(network, memory=False).fit(X)
    right = alone.project(X, vectors[:, 8:])
    for layer in (TWO, "body.0+body.4"):
        drawn = loce.project(X, vectors, layer=layer)
        assert all(map(np.array_equal, drawn, right))
        assert [d.shape for d in drawn] == [mask.shape for mask in X["mask"]]
    assert all(map(np.array_equal, alone.project(X, vectors[:, 8:], layer=TWO), right))
    for layer in (None, "body.0", Joined("body.4", "body.0")):
        with pytest.raises(ValueError, match=r"one of \['body.4', 'body.0\+body.4'\], got"):
            loce.project(X, vectors, layer=layer)


def test_means_under_the_mask_equal_those_of_the_joined_grid():
    X, network = draw_table(2), build_counting()
    means = MaskedMeanTransformer(TorchModel(network), TWO).fit_transform(X)
    grids = grids_by_hand(network, X).numpy()
    expected = [grid[:, mask].mean(1) for grid, mask in zip(grids, X["mask"], strict=True)]
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-5)


def test_channels_are_standardized_after_joining():
    X, network = draw_table(3, n_concepts=1), build_counting()
    loce = MaskedMeanTransformer(TorchModel(network), ["body.0", TWO], standardize=True).fit(X)
    cells = grids_by_hand(network, X).permute(0, 2, 3, 1).reshape(-1, 12).numpy()
    scaler = StandardScaler().fit(cells)
    np.testing.assert_allclose(loce.mean_[1], scaler.mean_, atol=1e-5)
    np.testing.assert_allclose(loce.scale_[1], scaler.scale_, rtol=1e-4)


@pytest.mark.slow
def test_workers_return_the_same_vectors():
    how = {
        "layer": ["body.2", TWO],
        "objective": "net2vec",
        "alpha": 1e-4,
        "max_iter": 5,
        "memory": False,
    }
    X, make = draw_table(3), partial(make_joining, **how)
    alone = make().fit_transform(X)
    np.testing.assert_array_equal(make(n_jobs=2).fit_transform(X), alone)
    np.testing.assert_array_equal(make(batch_size=1).fit_transform(X), alone)


def test_fitted_estimators_can_be_pickled():
    X = draw_table(2)
    loce = make_joining(layer=["body.2", TWO]).fit(X)
    other = pickle.loads(pickle.dumps(loce))
    np.testing.assert_array_equal(other.transform(X), loce.transform(X))
    assert clone(loce).layer == ["body.2", TWO]


# The store


def test_a_store_distinguishes_lists_of_layers(tmp_path):
    X, network, store = draw_table(2), build_counting(), RowStore(tmp_path)
    a, b, c, d = LAYERS
    lists = [Joined(a, b), Joined(b, a), Joined(b, c), Joined(a, d), Joined(a, b, c), a, b]

    def embed(layer, memory):
        how = {"objective": "net2vec", "alpha": 1e-4, "max_iter": 5, "memory": memory}
        return make_joining(network, layer, **how).fit_transform(X)

    found = [embed(layer, store) for layer in lists]
    n_images = network.n_images
    for i, layer in enumerate(lists):
        np.testing.assert_array_equal(found[i], embed(layer, store))
        assert not any(np.array_equal(found[i], other) for other in found[:i])
    assert network.n_images == n_images
    for i, layer in enumerate(lists):
        np.testing.assert_array_equal(found[i], embed(layer, False))
    assert set(store.to_frame()["layer"]) == set(map(str, lists))
    assert store.prune(layer=Joined(a, b)) == store.prune(layer=f"{b}+{a}") == len(X)


class Plus(nn.Module):
    """Has a layer whose name equals that of two joined layers."""

    def __init__(self):
        super().__init__()
        names = ["a", "b", "a+b"]
        self.layers = nn.ModuleDict({name: nn.Conv2d(3, 3, 3, padding=1) for name in names})
        self.a, self.b = self.layers["a"], self.layers["b"]
        self.add_module("a+b", self.layers["a+b"])

    def forward(self, images):
        for layer in self.layers.values():
            images = layer(images)
        return images


def test_a_layer_with_that_name_has_another_key(tmp_path):
    X, model = draw_table(1), TorchModel(Plus().eval())
    make = partial(MaskedMeanTransformer, model, memory=tmp_path)
    first, second = (make(layer).fit_transform(X) for layer in ("a+b", Joined("a", "b")))
    assert (first.shape[1], second.shape[1]) == (3, 6)
    np.testing.assert_array_equal(make("a+b").fit_transform(X), first)
    np.testing.assert_array_equal(make(Joined("a", "b")).fit_transform(X), second)
    with pytest.raises(ValueError, match="different layers"):
        make(["a+b", Joined("a", "b")]).fit(X)


def test_a_search_over_layers_shares_passes_and_the_store(tmp_path):
    X, network = draw_table(4), build_counting()
    layers = ["body.0", TWO, ["body.2", TWO]]
    loce = make_joining(network, memory=tmp_path)
    loce.precompute(X, ["body.0", TWO, "body.2"])
    assert network.n_images == 4
    # A search that scores by the IoU needs the activations again.
    for layer in layers:
        clone(loce).set_params(layer=layer).fit_transform(X)
    assert network.n_images == 4
    search = GridSearchCV(loce, {"layer": layers}, cv=2).fit(X)
    folds = [(slice(4, 8), slice(0, 4)), (slice(0, 4), slice(4, 8))]
    scores = [
        np.mean([clone(loce).set_params(layer=layer).fit(X[a]).score(X[b]) for a, b in folds])
        for layer in layers
    ]
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], scores)
    assert search.best_params_ == {"layer": layers[int(np.argmax(scores))]}
    shown = LayerComparisonDisplay.from_search(search).scores["layer"].tolist()
    assert shown == ["body.0", "body.0+body.4", "body.2, body.0+body.4"]


# Above the estimators


def test_segmenters_project_onto_joined_layers():
    X, network = draw_table(4), build_counting()
    segmenter = ConceptSegmenter(make_joining(network)).fit(X)
    vectors = make_joining(network, append_bias=True).fit_transform(X)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    means = [unit[X["concept"] == concept].mean(0) for concept in segmenter.concepts_]
    np.testing.assert_allclose(segmenter.centroids_, means, rtol=1e-4, atol=1e-6)
    assert [mask.shape for mask in segmenter.predict(X)] == [mask.shape for mask in X["mask"]]
    paper = make_joining(network, objective="net2vec", alpha=1e-4)
    net2vec = Net2VecSegmenter(paper, max_iter=1).fit(X)
    assert net2vec.embeddings_.shape == (2, 12)
    with pytest.raises(ValueError, match="or join them by Joined"):
        ConceptSegmenter(make_joining(network, ["body.0", TWO])).fit(X)


def test_displays_accept_the_value_or_its_name(tmp_path):
    X = draw_table(2)
    loce = make_joining(layer=["body.4", TWO]).fit(X)
    vectors = loce.transform(X)
    shown = [
        ProjectionDisplay.from_estimator(loce, X, vectors, layer=layer)
        for layer in (TWO, "body.0+body.4", "body.4")
    ]
    ious = [display.iou for display in shown]
    np.testing.assert_array_equal(ious[0], ious[1])
    assert not np.array_equal(ious[0], ious[2])
    plt.close("all")
    pages = [
        to_html(vectors, X, tmp_path / "map.html", coordinates="pca", transformer=loce, layer=layer)
        for layer in (TWO, "body.0+body.4")
    ]
    assert all(page.is_file() for page in pages)
