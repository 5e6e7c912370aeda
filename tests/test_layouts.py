import pytest
import torch
from torch import nn
from torchvision import models, ops
from torchvision.models import maxvit

from sklearn_loce import ActivationExtractor, list_layers
from sklearn_loce._network.families import layer_facts


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
@pytest.mark.parametrize("prefix", range(6))
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


def test_strides_of_one_pixel_and_square_grids():
    assert token_grids(48, (6, 8)) == [(0, 6, 8)]
    # Of 100 pixels, patches of 28 make 3 or 4 cells; but not 3 of the rows and 4 of the columns.
    assert token_grids(12, (100, 100), [0]) == []
    assert token_grids(12, (100, 101), [0]) == [(0, 3, 4), (0, 4, 3)]


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
    network = models.SwinTransformer([4, 4], 24, [1, 1], [2, 2], [7, 7])
    grid = ActivationExtractor(network, "features.3")(torch.rand(1, 3, *size))
    assert grid["features.3"].shape == (1, 48, rows, columns)


def test_list_layers_describes_what_is_no_tensor():
    table = list_layers(nn.Sequential(Put({"a": _counted(1, 2)})), (8, 8))
    assert table["output_shape"].iloc[-1] == "a dict of 'a': a tensor of shape (1, 2)"


class Tokens(nn.Module):
    """Patches of 32 pixels, by a convolution or by an unfolding that shows no grid, and a layer."""

    def __init__(self, patches):
        super().__init__()
        self.patches = patches
        self.layer = nn.LazyLinear(8)

    def forward(self, x):
        return self.layer(self.patches(x).flatten(2).mT)


def _by_convolution():
    return Tokens(nn.Conv2d(3, 8, 32, 32))


def _by_unfolding():
    return Tokens(nn.Unfold(32, stride=32))


def _take(network, layer, *sizes):
    """Read a layer on images of several sizes, by one extractor."""
    with ActivationExtractor(network.eval(), layer) as extract:
        return [extract(torch.rand(1, 3, *size))[layer] for size in sizes]


def test_tokens_take_the_grid_that_a_convolution_has_shown():
    sizes = [(480, width) for width in range(320, 641, 9)]
    cells = [(15, width // 32) for _, width in sizes]
    open_ones = [
        size
        for size, n in zip(sizes, cells, strict=True)
        if len(token_grids(n[0] * n[1], size)) > 1
    ]
    assert open_ones, "the sizes test nothing"
    network = _by_convolution()
    with torch.no_grad():
        network.layer.weight = nn.Parameter(torch.eye(8))
        network.layer.bias = nn.Parameter(torch.zeros(8))
    for size, n in zip(sizes, cells, strict=True):
        with ActivationExtractor(network, ["patches", "layer"]) as extract:
            grids = extract(torch.rand(1, 3, *size))
        assert grids["layer"].shape[-2:] == n
        torch.testing.assert_close(grids["layer"], grids["patches"])


def test_later_images_are_read_as_the_first():
    with pytest.raises(LayoutError, match="2 ways"):
        _take(_by_unfolding(), "layer", (96, 96))
    grids = _take(_by_unfolding(), "layer", (128, 128), (96, 96))
    assert [tuple(grid.shape[-2:]) for grid in grids] == [(4, 4), (3, 3)]


def test_an_image_that_can_only_be_read_otherwise_raises():
    network = nn.Sequential(Put(torch.zeros(1, 16, 3)))
    with ActivationExtractor(network, "0") as extract:
        extract(torch.zeros(1, 3, 64, 64))
        network[0].output = torch.zeros(1, 17, 3)
        with pytest.raises(LayoutError, match="unlike that of the first image"):
            extract(torch.zeros(1, 3, 64, 64))


def test_tokens_come_from_a_grid_that_was_shown():
    # 36 tokens would be 6 x 6 cells of 96 x 96 pixels, but the patches were 3 x 3.
    class More(Tokens):
        def forward(self, x):
            super().forward(x)
            return self.more(torch.zeros(1, 36, 5))

    network = More(nn.Conv2d(3, 8, 32, 32))
    network.more = nn.LazyLinear(4)
    with pytest.raises(LayoutError, match="no part of it is a grid"):
        _take(network, "more", (96, 96))


class PatchEmbed(nn.Module):
    """A convolution whose output has its channels moved to the end."""

    def __init__(self, n_channels):
        super().__init__()
        self.proj = nn.Conv2d(3, n_channels, 16, 16)
        self.norm = nn.Identity()

    def forward(self, x):
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("layer", ["0", "0.norm"])
def test_convolutions_may_be_followed_by_channels_last(layer):
    network = nn.Sequential(PatchEmbed(40))
    extract = ActivationExtractor(network, ["0.proj", layer])
    grids = extract(torch.rand(1, 3, 240, 320))
    assert grids[layer].shape == (1, 40, 15, 20)
    assert torch.equal(grids[layer], grids["0.proj"])


def test_layers_without_weights_keep_the_axes_of_what_they_got():
    network = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    convolved, rectified, mixed, last = (
        _take(network, str(n), (128, 128))[0] for n in range(4) for _ in [torch.manual_seed(0)]
    )
    assert torch.equal(rectified, convolved.relu())
    assert torch.equal(last, mixed.relu())
    exact = network[2](rectified).permute(0, 3, 1, 2)
    torch.testing.assert_close(mixed, exact)


def test_a_leaf_whose_axes_are_open_has_no_layers_inside_to_choose():
    class Moved(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 64, 3, 2, 1), nn.Linear(64, 64)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.linear(self.conv(x)).permute(0, 3, 1, 2) + 1)

    with pytest.raises(LayoutError, match=r"2 ways: .*\. Choose another input size, or a resh"):
        _take(Moved(), "act", (128, 128))


def test_flattened_grids_are_those_of_convolutions():
    flat = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Flatten(2))
    grids = ActivationExtractor(flat, ["0", "1"])(torch.rand(1, 3, 64, 96))
    assert torch.equal(grids["0"], grids["1"])

    class Heads(nn.Module):
        # 91 classes are 7 x 13 cells, as many as the convolution made.
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 32, 32)

        def forward(self, x):
            self.conv(x)
            return torch.zeros(1, 201, 91)

    with pytest.raises(LayoutError, match="no part of it is a grid"):
        _take(nn.Sequential(Heads()), "0", (224, 416))


@pytest.mark.parametrize("layer", ["avgpool", "fc1", "activation", "fc2"])
def test_pooled_vectors_have_no_places(layer):
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ops.SqueezeExcitation(8, 4))
    with pytest.raises(LayoutError, match="pooled over the image, so that no places are left"):
        _take(network, f"1.{layer}", (64, 64))
    assert _take(network, "1", (64, 64))[0].shape == (1, 8, 16, 16)


@pytest.mark.parametrize(
    ("output", "size"),
    [
        (torch.zeros(1, 1024, 1), (224, 224)),  # 32 x 32 channels of a pooler
        (torch.zeros(1, 1, 64), (224, 224)),  # a class token
        (torch.zeros(1, 8, 14, 1), (224, 224)),  # rows
    ],
)
def test_what_is_left_of_pooling_says_so(output, size):
    with pytest.raises(LayoutError, match="pooled over the image"):
        _grid(output, size)


def test_a_cell_for_an_image_of_one_stride_is_a_grid():
    assert _take(nn.Sequential(nn.Conv2d(3, 4, 32, 32)), "0", (32, 32))[0].shape == (1, 4, 1, 1)
    deep = _take(models.mobilenet_v3_large(), "features.14", (32, 32))[0]
    assert deep.shape == (1, 160, 1, 1)


class SelfAttention(nn.Module):
    """One head per 8 channels, with the layers that users see inside attentions."""

    def __init__(self, n_channels=24):
        super().__init__()
        self.q_norm = nn.LayerNorm(8)
        self.softmax = nn.Softmax(-1)
        self.attn_drop = nn.Identity()
        self.proj = nn.Linear(n_channels, n_channels)

    def forward(self, tokens):
        heads = self.q_norm(tokens.unflatten(2, (-1, 8)).transpose(1, 2))
        weights = self.attn_drop(self.softmax(heads @ heads.mT))
        return self.proj((weights @ heads).transpose(1, 2).flatten(2)), weights


@pytest.mark.parametrize("side", [64, 128, 224])
def test_parts_of_an_attention_are_no_grids(side):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.attn = nn.Conv2d(3, 24, 16, 16), SelfAttention()

        def forward(self, x):
            return self.attn(self.patches(x).flatten(2).mT)[0]

    for part in ("q_norm", "softmax", "attn_drop"):
        with pytest.raises(LayoutError, match="part of an attention, such as its weights or heads"):
            _take(Block(), f"attn.{part}", (side, side))
    # Of the attention's tuple the tokens are the grid, and not the weights.
    cells = side // 16
    for layer in ("attn", "attn.proj"):
        assert _take(Block(), layer, (side, side))[0].shape == (1, 24, cells, cells)


def test_windows_of_maxvit_say_where_they_are():
    network = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4),
        maxvit.PartitionAttentionLayer(
            16, 8, 7, "grid", (56, 56), 2, nn.GELU, nn.LayerNorm, 0, 0, 0
        ),
    )
    for part in ("partition_op", "partition_swap", "attn_layer"):
        with pytest.raises(LayoutError, match="inside a partition of the image into windows"):
            _take(network, f"1.{part}", (224, 224))
    assert _take(network, "1", (224, 224))[0].shape == (1, 16, 56, 56)


def test_encoder_decoders_are_no_decoders():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder_decoder = _by_convolution()

        def forward(self, x):
            return self.encoder_decoder(x)

    grid = _take(Both(), "encoder_decoder.layer", (96, 160))[0]
    assert grid.shape == (1, 8, 3, 5)


class Inside(nn.Module):
    """Convolutions that show grids, and a layer of an attention that sees a given map."""

    def __init__(self, strides, layer, heads):
        super().__init__()
        channels = [3] + [24] * len(strides)
        self.convs = nn.Sequential(
            *(nn.Conv2d(c, 24, n, n) for c, n in zip(channels, strides, strict=False))
        )
        self.attention = nn.Sequential(layer)
        self.heads = heads

    def forward(self, x):
        self.convs(x)
        return self.attention(self.heads)


@pytest.mark.parametrize("layer", [nn.Softmax(-1), nn.Conv2d(2, 2, 1)])
@pytest.mark.parametrize("strides", [[16], [4, 4]])
def test_weights_of_tokens_for_tokens_are_no_grid(layer, strides):
    # 16 tokens of 4 x 4 cells; 16 x 16 cells may have been seen before.
    network = Inside(strides, layer, torch.rand(1, 2, 16, 16))
    with pytest.raises(LayoutError, match="part of an attention"):
        _take(network, "attention.0", (64, 64))


def test_weights_inside_a_window_are_no_grid_either():
    # The one window of 4 x 4 tokens was merged from 16 x 16 cells by no layer that shows it.
    network = Inside([4], nn.Softmax(-1), torch.rand(1, 2, 16, 16))
    with pytest.raises(LayoutError, match="part of an attention"):
        _take(network, "attention.0", (64, 64))


def test_of_tokens_and_weights_the_tokens_are_the_grid():
    network = Inside([4, 4], SelfAttention(), torch.rand(1, 16, 24))
    assert _take(network, "attention", (64, 64))[0].shape == (1, 24, 4, 4)


class Without(nn.Module):
    """A convolution without padding, and a sum that no layer makes."""

    def __init__(self, kernel, *others):
        super().__init__()
        self.conv, self.others = nn.Conv2d(3, 8, kernel), nn.ModuleList(others)

    def forward(self, x):
        return self.conv(x) + 1


@pytest.mark.parametrize(
    ("network", "size", "grid"),
    [(Without(21), (32, 200), (12, 180)), (Without(9, nn.Linear(1, 1)), (64, 64), (56, 56))],
)
def test_sizes_that_no_stride_gives_are_grids_where_a_convolution_made_them(network, size, grid):
    assert _take(nn.Sequential(network), "0", size)[0].shape == (1, 8, *grid)
