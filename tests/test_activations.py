import pytest
import torch
from torch import nn

from sklearn_loce import ActivationExtractor, TorchModel, list_layers
from sklearn_loce.exceptions import LayoutError

from .conftest import make_small_network
from .counting import Counter

IMAGES = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def _by_hand(network, images, depth):
    """Run the first ``depth`` modules one after the other, each on a copy."""
    with torch.no_grad():
        for child in list(network)[:depth]:
            images = child(images.clone())
    return images


def test_activations_equal_the_outputs_of_hooks(small_network):
    activations = ActivationExtractor(small_network, ["2", "0"])(IMAGES)
    assert list(activations) == ["2", "0"]
    assert torch.equal(activations["0"], _by_hand(small_network, IMAGES, 1))
    assert torch.equal(activations["2"], _by_hand(small_network, IMAGES, 3))


def test_later_in_place_operations_do_not_change_activations(small_network):
    with ActivationExtractor(small_network, ["0", "3"]) as extract:
        extract(IMAGES)
        activations = extract(IMAGES)
    assert (activations["0"] < 0).any()
    assert (activations["3"] < 0).any()


class Tail(nn.Module):
    def __init__(self):
        super().__init__()
        self.counter = Counter()

    def forward(self, x):
        self.counter.n += 1
        return x


def test_later_passes_of_a_size_stop_after_the_deepest_layer():
    tail = Tail()
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), tail)
    with ActivationExtractor(network, ["1", "0"]) as extract:
        for images, n_whole in [(IMAGES, 1), (IMAGES, 1), (IMAGES[..., :12], 2), (IMAGES, 2)]:
            found = extract(images)
            assert torch.equal(found["1"], _by_hand(network, images, 2))
            assert tail.counter.n == n_whole


class Inside(nn.Module):
    """Extracts a layer of a network with its own extractor, and processes the result."""

    def __init__(self, network):
        super().__init__()
        self.network, self.head = network, nn.Identity()

    def forward(self, images):
        return self.head(ActivationExtractor(self.network, "2")(images)["2"])


@pytest.mark.parametrize("layers", [["network.1"], ["network.1", "head"], ["network.2", "head"]])
def test_an_early_stop_ends_only_its_own_pass(layers):
    first = Tail()
    network = nn.Sequential(first, nn.Conv2d(3, 4, 1), nn.ReLU())
    depths = {"network.1": 2, "network.2": 3, "head": 3}
    with ActivationExtractor(Inside(network), layers) as extract:
        for images in (IMAGES, IMAGES, IMAGES[..., :12], IMAGES):
            n_passes = first.counter.n + 1
            found = extract(images)
            assert first.counter.n == n_passes
            for layer, grid in found.items():
                assert torch.equal(grid, _by_hand(network, images, depths[layer]))


class Reusing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(self.relu(x)) - 1)


def test_a_layer_that_runs_twice_gives_its_last_output():
    network = Reusing()
    with torch.no_grad():
        expected = network(IMAGES)
    with ActivationExtractor(network, "relu") as extract:
        assert torch.equal(extract(IMAGES)["relu"], expected)
        assert torch.equal(extract(IMAGES)["relu"], expected)


def _state(network):
    return (
        [child.training for child in network.modules()],
        [len(child._forward_hooks) for child in network.modules()],
    )


class Failing(nn.Module):
    def forward(self, x):
        raise RuntimeError("no memory left")


@pytest.mark.parametrize("where", [0, 4])
def test_the_module_is_unchanged_after_success_and_failure(where):
    network = make_small_network().train()
    network.insert(where, Failing())
    before = _state(network)
    with pytest.raises(RuntimeError, match="no memory left"):
        ActivationExtractor(network, ["1", "5"])(IMAGES)
    assert _state(network) == before
    with pytest.raises(KeyboardInterrupt), ActivationExtractor(network, ["1"]):
        raise KeyboardInterrupt
    assert _state(network) == before


def test_a_failure_after_the_layers_warns_once(small_network):
    small_network.append(Failing())
    with ActivationExtractor(small_network, "2") as extract:
        with pytest.warns(UserWarning, match="failed after the layers"):
            first = extract(IMAGES)
        assert torch.equal(extract(IMAGES)["2"], first["2"])


def test_results_have_no_autograd_graph(small_network):
    activations = ActivationExtractor(small_network, "2")(IMAGES.clone().requires_grad_())
    assert not activations["2"].requires_grad
    assert not activations["2"].is_inference()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_activations_are_float32(dtype):
    network = make_small_network().to(dtype)
    assert ActivationExtractor(network, "0")(IMAGES)["0"].dtype == torch.float32


def test_an_unknown_layer_raises_an_error_with_close_names():
    network = nn.Sequential()
    network.features = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(ValueError, match=r"no layer 'feature\.1'.*'features\.1'"):
        ActivationExtractor(TorchModel(network), "feature.1")


@pytest.mark.parametrize("layers", [[], ["0", "0"]])
def test_layers_must_not_be_empty_or_repeated(small_network, layers):
    with pytest.raises(ValueError, match="one or more different layers"):
        ActivationExtractor(small_network, layers)


class Pair(nn.Module):
    def forward(self, x):
        return x, {"half": x[:, :3]}


@pytest.mark.parametrize(
    ("tail", "match"),
    [
        (nn.Flatten(), r"layer '6' is a tensor of shape \(2, 720\)"),
        (Pair(), r"a tuple of a tensor of shape .*, a dict of 'half': a tensor of shape \(2, 3"),
    ],
)
def test_the_error_describes_an_output_without_a_grid(small_network, tail, match):
    small_network.append(tail)
    with pytest.raises(LayoutError, match=match):
        ActivationExtractor(small_network, "6")(IMAGES)


class Windows(nn.Module):
    def forward(self, x):
        return x.reshape(-1, *x.shape[1:-1], x.shape[-1] // 2)


def test_windows_in_the_batch_axis_raise_an_error(small_network):
    small_network.append(Windows())
    with pytest.raises(LayoutError, match=r"tokens for the .* places of .* and not one for each"):
        ActivationExtractor(small_network, "6")(IMAGES)


class Aliased(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.alias = self.conv

    def forward(self, x):
        return self.conv(x)


def test_a_layer_may_have_several_names():
    network = Aliased()
    by_name = [ActivationExtractor(network, name)(IMAGES)[name] for name in ("conv", "alias")]
    assert torch.equal(*by_name)


def test_reshape_transform_converts_tokens_to_a_grid():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(2))
    extract = ActivationExtractor(
        network, "1", reshape_transform=lambda tokens: tokens.reshape(-1, 4, 20, 24)
    )
    assert torch.equal(extract(IMAGES)["1"], _by_hand(network, IMAGES, 1))


def test_a_reshape_transform_without_a_grid_raises_an_error(small_network):
    extract = ActivationExtractor(small_network, "0", reshape_transform=torch.flatten)
    with pytest.raises(LayoutError, match="which reshape_transform made a tensor of shape"):
        extract(IMAGES)


def test_a_layer_that_does_not_run_raises_an_error_with_its_name(small_network):
    small_network.spare = nn.ReLU()
    small_network.forward = lambda x: small_network[0](x)
    with pytest.raises(LayoutError, match=r"\['spare'\] did not run"):
        ActivationExtractor(small_network, ["spare", "0"])(IMAGES)


def test_list_layers_lists_the_layers_that_ran(small_network):
    table = list_layers(TorchModel(small_network.train()), (20, 24))
    assert list(table.columns) == ["name", "type", "output_shape", "n_calls"]
    assert list(table["name"]) == ["0", "1", "2", "3", "4", "5"]
    assert table["output_shape"].iloc[2] == (1, 12, 10, 12)
    assert table["type"].iloc[3] == "BatchNorm2d"
    assert small_network.training
    assert not any(child._forward_hooks for child in small_network.modules())


def test_list_layers_counts_calls():
    table = list_layers(Reusing(), (8, 8)).set_index("name")
    assert table.loc["relu", "n_calls"] == 2


@pytest.mark.parametrize("size", [8, (8,), (0, 8), (1, 3, 8, 8), (8.5, 8)])
def test_list_layers_requires_height_and_width(small_network, size):
    with pytest.raises(ValueError, match=r"\(height, width\)"):
        list_layers(small_network, size)


class Branching(nn.Module):
    """Has grids whose size depends on the mean of the image."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 2, 2)
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(self.fine(x) if x.mean() > 0 else self.coarse(x))


def test_each_output_is_read_by_its_own_shape():
    network = Branching()
    bright, dark = torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)
    with ActivationExtractor(network, ["out"]) as extract:
        found = [extract(image)["out"] for image in (bright, dark, bright, bright, dark)]
    shapes = [tuple(grid.shape[2:]) for grid in found]
    assert shapes == [(8, 8), (4, 4), (8, 8), (8, 8), (4, 4)]
    torch.testing.assert_close(found[1], network.coarse(dark))
    torch.testing.assert_close(found[3], network.fine(bright))
