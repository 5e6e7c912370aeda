import pytest
import torch
from torch import nn
from torchvision import models

from sklearn_loce import ActivationExtractor, list_layers
from sklearn_loce._families import layer_facts
from sklearn_loce._layouts import find_reading, token_grids
from sklearn_loce._trace import Trace
from sklearn_loce.exceptions import LayoutError

SIZES = (
    (224, 224),
    (256, 256),
    (384, 384),
    (448, 448),
    (480, 640),
    (640, 480),
    (518, 518),
    (800, 1333),
)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize("stride", [4, 8, 14, 16, 32])
def test_the_grid_is_that_of_the_stride(size, prefix, stride):
    floor = tuple(n // stride for n in size)  # patches without padding
    ceil = tuple(-(-n // stride) for n in size)  # convolutions with padding
    for rows, columns in {floor, ceil}:
        assert token_grids(rows * columns + prefix, size) == [(prefix, rows, columns)]


@pytest.mark.parametrize(
    ("n_tokens", "size", "grids"),
    [
        (9, (96, 96), [(0, 3, 3), (5, 2, 2)]),
        (40, (160, 240), [(0, 5, 8), (5, 5, 7)]),
        (221, (800, 1066), [(0, 13, 17), (5, 12, 18)]),
    ],
)
def test_ambiguous_tokens_raise_with_the_candidates(n_tokens, size, grids):
    assert token_grids(n_tokens, size) == grids
    facts = layer_facts(nn.Sequential(nn.Identity()), "0")
    with pytest.raises(LayoutError, match="can be read in 2 ways") as caught:
        find_reading(torch.zeros(1, n_tokens, 3), facts, Trace(1, size))
    for prefix, rows, columns in grids:
        assert f"{rows} x {columns} cells behind {prefix} other tokens" in str(caught.value)
    assert "reshape_transform" in str(caught.value)


class Put(nn.Module):
    """Returns what it was given, whatever the input."""

    def __init__(self, output, *children):
        super().__init__()
        self.inner = nn.Sequential(*children)
        self.output = output

    def forward(self, x):
        return self.output


def _grid(output, size, *children):
    network = nn.Sequential(Put(output, *children))
    return ActivationExtractor(network, "0")(torch.zeros(1, 3, *size))["0"]


def _counted(*shape):
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def test_tokens_are_laid_row_by_row_behind_the_prefix():
    tokens = _counted(1, 14 * 21 + 1, 5)
    grid = _grid(tokens, (224, 336))
    assert grid.shape == (1, 5, 14, 21)
    assert torch.equal(grid[0, :, 2, 3], tokens[0, 1 + 2 * 21 + 3])


def test_channels_last_is_told_by_the_size():
    values = _counted(1, 6, 9, 24)
    grid = _grid(values, (48, 72))
    assert torch.equal(grid, values.permute(0, 3, 1, 2))
    values = _counted(1, 24, 6, 9)
    assert torch.equal(_grid(values, (48, 72)), values)


def test_channels_that_fit_both_ways_raise_unless_the_layers_tell():
    values = _counted(1, 8, 8, 8)
    with pytest.raises(LayoutError, match=r"channels first; 8 x 8 cells, channels last.*reshape"):
        _grid(values, (64, 64))
    with pytest.raises(LayoutError, match="2 ways"):
        _grid(values, (64, 64), nn.Conv2d(1, 1, 1), nn.Linear(1, 1))
    assert torch.equal(_grid(values, (64, 64), nn.Conv2d(1, 1, 1)), values)
    assert torch.equal(_grid(values, (64, 64), nn.Linear(1, 1)), values.permute(0, 3, 1, 2))


def test_reshape_transform_overrides_everything():
    network = nn.Sequential(Put(_counted(1, 8, 8, 8)))
    extract = ActivationExtractor(network, "0", reshape_transform=lambda x: x.permute(0, 3, 1, 2))
    grid = extract(torch.zeros(1, 3, 64, 64))["0"]
    assert torch.equal(grid, _counted(1, 8, 8, 8).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    "output",
    [
        (_counted(1, 5, 4, 6), None),
        {"features": _counted(1, 5, 4, 6), "mask": torch.ones(1, 4, 6, dtype=torch.bool)},
        [(_counted(1, 24, 7), [_counted(1, 5, 4, 6)])],
    ],
)
def test_the_one_grid_of_a_nested_output_is_taken(output):
    assert torch.equal(_grid(output, (64, 96)), _counted(1, 5, 4, 6))


def test_several_grids_are_named():
    output = {"high": _counted(1, 17, 8, 12), "low": [_counted(1, 5, 4, 6)]}
    match = r"\['high'\]: 8 x 12 cells, channels first; \['low'\]\[0\]: 4 x 6 cells"
    with pytest.raises(LayoutError, match=match):
        _grid(output, (64, 96))


@pytest.mark.parametrize(
    ("output", "match"),
    [
        (_counted(1, 10), "no part of it is a grid of cells over .* 64 x 96 pixels"),
        (_counted(6, 16, 5), "batch of 6 for 1 image"),
        (_counted(1, 2, 25, 25), "no part of it is a grid"),
        (_counted(1, 3, 4, 6, 7), "no part of it is a grid"),
        ([[_counted(1, 3, 4, 6, 7)]], "a list of a list of a tensor of shape"),
    ],
)
def test_what_is_no_grid_says_why(output, match):
    with pytest.raises(LayoutError, match=match):
        _grid(output, (64, 96))


class Detector(nn.Module):
    """An encoder, a decoder with nine queries, and a head on these."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(8, 8)
        self.decoder = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.patches = nn.Conv2d(3, 8, 32, 32)

    def forward(self, x):
        tokens = self.encoder(self.patches(x).flatten(2).mT)
        return self.head(self.decoder(tokens[:, :9]))


@pytest.mark.parametrize("side", [96, 160])
def test_queries_are_told_from_places_by_the_decoder(side):
    images = torch.rand(1, 3, side, side)
    network = Detector()
    grid = ActivationExtractor(network, "patches")(images)["patches"]
    assert grid.shape == (1, 8, side // 32, side // 32)
    for layer in ("decoder", "head"):
        with pytest.raises(LayoutError, match="9 tokens are queries of a decoder"):
            ActivationExtractor(network, layer)(images)
    assert not network.decoder._forward_pre_hooks


PAPER = (
    (models.mobilenet_v3_large, ["features.9", "features.11", "features.14"], (80, 112, 160)),
    (models.efficientnet_b0, ["features.5.2", "features.6.2", "features.7.0"], (112, 192, 320)),
    (models.swin_t, ["features.3", "features.5", "features.7"], (192, 384, 768)),
    (
        models.vit_b_16,
        [f"encoder.layers.encoder_layer_{n}" for n in (3, 7, 11)],
        (768, 768, 768),
    ),
)


@pytest.mark.parametrize(("build", "layers", "channels"), PAPER)
def test_layers_of_the_paper(build, layers, channels):
    strides = {models.mobilenet_v3_large: (16, 16, 32), models.efficientnet_b0: (16, 32, 32)}
    strides |= {models.swin_t: (8, 16, 32), models.vit_b_16: (16, 16, 16)}
    grids = ActivationExtractor(build(), layers)(torch.rand(1, 3, 224, 224))
    for (name, grid), n, stride in zip(grids.items(), channels, strides[build], strict=True):
        assert grid.shape == (1, n, 224 // stride, 224 // stride), name


@pytest.mark.parametrize("size", [(100, 144), (97, 131)])
def test_swin_is_read_at_any_size(size):
    rows, columns = (-(-(n // 4) // 2) for n in size)
    grid = ActivationExtractor(models.swin_t(), "features.3")(torch.rand(1, 3, *size))
    assert grid["features.3"].shape == (1, 192, rows, columns)


def test_list_layers_describes_what_is_no_tensor():
    table = list_layers(nn.Sequential(Put({"a": _counted(1, 2)})), (8, 8))
    assert table["output_shape"].iloc[-1] == "a dict of 'a': a tensor of shape (1, 2)"
