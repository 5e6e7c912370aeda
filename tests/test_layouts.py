"""Grids are read by the places of their numbers, for any order of axes."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models, ops
from torchvision.models import maxvit

from sklearn_loce import ActivationExtractor, list_layers
from sklearn_loce.exceptions import LayoutError


class Then(nn.Module):
    """Patches by a convolution, a function of the map or its tokens, and a layer on its result."""

    def __init__(self, function, stride=16, n_channels=24):
        super().__init__()
        self.patches = nn.Conv2d(3, n_channels, stride, stride)
        self.function = function
        self.seen = nn.Identity()

    def forward(self, x):
        return self.seen(self.function(self.patches(x)))


def take(network, layer, *size, n_images=1):
    images = torch.rand(n_images, 3, *size, generator=torch.Generator().manual_seed(0))
    return ActivationExtractor(network.eval(), layer)(images)


def tokens_of(grid):
    return grid.flatten(2).mT


CLASS = torch.full((1, 1, 24), 7.0)


def behind(tokens, n):
    return torch.cat([*[CLASS.expand(len(tokens), -1, -1)] * n, tokens], 1)


def windows(grid, side=2):
    rows = grid.unfold(2, side, side).unfold(3, side, side)  # (n, C, h, w, side, side)
    return rows.permute(0, 2, 3, 4, 5, 1).reshape(-1, side**2, grid.shape[1])


def unfolded(grid):
    """Lay out (n_images, n_channels, pixels of a patch, patches), as MobileViTv2."""
    return functional.unfold(grid, 2, stride=2).unflatten(1, (grid.shape[1], 4))


LAYOUTS = {
    "map": lambda grid: grid.clone(),
    "channels last": lambda grid: grid.permute(0, 2, 3, 1),
    "width before height": lambda grid: grid.mT,
    "tokens": tokens_of,
    "flattened": lambda grid: grid.flatten(2),
    "behind a class token": lambda grid: behind(tokens_of(grid), 1),
    "behind registers": lambda grid: behind(tokens_of(grid), 9),
    "before other tokens": lambda grid: behind(tokens_of(grid), 3).flip(1).flip(1).roll(-3, 1),
    "tokens first": lambda grid: tokens_of(grid).transpose(0, 1),
    "windows": windows,
    "pixels of patches": unfolded,
    "in the order of units": lambda grid: tokens_of(grid)[:, torch.arange(24).view(6, 4).T.ravel()],
    "in a tuple": lambda grid: (tokens_of(grid), None),
    "in a dict": lambda grid: {"a": torch.ones(3), "b": [grid]},
    "rolled": lambda grid: grid.roll((1, 2), (2, 3)),
    "twice": lambda grid: [grid, (grid,)],
}


@pytest.mark.parametrize("n_images", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_grid(name, n_images):
    network = Then(LAYOUTS[name])
    grids = take(network, ["patches", "seen"], 64, 96, n_images=n_images)
    assert grids["patches"].shape == (n_images, 24, 4, 6)
    assert torch.equal(grids["seen"], grids["patches"])


def attend(queries, keys):
    return functional.scaled_dot_product_attention(queries, keys, keys)


def pooled_by_learned_maps(grid):
    weights = torch.ones(1, 24, 24).softmax(-1)
    return (weights @ tokens_of(grid)).softmax(-1)


def pruned(grid):
    tokens = tokens_of(grid)
    best = tokens.norm(dim=2).topk(16, dim=1).indices
    return tokens.gather(1, best[..., None].expand(-1, -1, 24))


def shuffled(grid):
    tokens = tokens_of(grid)
    order = torch.rand(tokens.shape[:2]).argsort(1)
    return tokens.gather(1, order[..., None].expand(-1, -1, 24))


def merged(grid):
    tokens = tokens_of(grid)
    pairs = (tokens[:, :12] @ tokens[:, 12:].mT).argmax(2)
    index = pairs[..., None].expand(-1, -1, 24)
    return tokens[:, 12:].scatter_reduce(1, index, tokens[:, :12], "mean")


def cross_covariance(grid):
    channels = grid.flatten(2)
    return (channels @ channels.mT).softmax(-1)


CHOSEN, LEARNED = "selected, merged or sorted", "learned tokens, such as queries"
NO_PLACES = {
    # There are 24 of each, the number of places.
    "queries": (lambda grid: attend(torch.ones(1, 24, 24), tokens_of(grid)), LEARNED),
    "queries with a residual": (
        lambda grid: attend(torch.ones(1, 24, 24), tokens_of(grid)) + torch.ones(1, 24, 24),
        LEARNED,
    ),
    "learned tokens": (lambda grid: torch.ones(1, 24, 24), LEARNED),
    "tokens of learned maps": (pooled_by_learned_maps, "no places in the image|mixes over places"),
    "groups": (lambda grid: attend(CLASS.expand(1, 24, 24), tokens_of(grid)), LEARNED),
    "class attention": (lambda grid: behind(tokens_of(grid), 1)[:, :1], LEARNED),
    "best tokens": (pruned, CHOSEN),
    "shuffled tokens": (shuffled, CHOSEN),
    "merged tokens": (merged, CHOSEN),
    "channels by channels": (cross_covariance, "no places in the image"),
    "weights": (lambda grid: tokens_of(grid) @ grid.flatten(2), "attention weights between places"),
    "heads": (lambda grid: tokens_of(grid).unflatten(2, (3, 8)).transpose(1, 2), "axes of 3 and 8"),
    "first tokens": (lambda grid: tokens_of(grid)[:, :16], "16 tokens for the 24 places"),
    "repeated tokens": (lambda grid: tokens_of(grid).repeat(1, 2, 1), "48 tokens for the 24"),
    "mean": (lambda grid: grid.mean((2, 3), keepdim=True), "pooled over the image"),
    "mean of rows": (lambda grid: grid.mean(3, keepdim=True), "pooled over the image"),
    "mixed places": (lambda grid: grid.flatten(2) @ torch.ones(24, 24), "mixes over places"),
    "frequencies": (lambda grid: torch.fft.rfft2(grid).real, "operation aten._fft_r2c"),
    "vector": (lambda grid: grid.flatten(1) @ torch.ones(576, 9), "mixes over places|pooled"),
    "padded": (
        lambda grid: functional.conv2d(functional.pad(grid, (0, 6, 0, 6)), torch.ones(1, 24, 3, 3)),
        "padded or cropped",
    ),
    "cropped": (
        lambda grid: functional.conv2d(grid[:, :, :, 3:], torch.ones(1, 24, 1, 2)),
        "padded or cropped",
    ),
    "integers": (lambda grid: grid.argmax(1), "no part of it is a tensor of floats"),
}


@pytest.mark.parametrize("name", NO_PLACES)
def test_errors_explain_outputs_without_places(name):
    function, why = NO_PLACES[name]
    with pytest.raises(LayoutError, match=why) as caught:
        take(Then(function), "seen", 64, 96)
    assert "reshape_transform" in str(caught.value)


def test_the_error_lists_several_grids():
    network = Then(lambda grid: {"high": grid, "low": [functional.avg_pool2d(grid, 2)]})
    match = r"2 ways: \['high'\]: 4 x 6 cells, .*; \['low'\]\[0\]: 2 x 3 cells"
    with pytest.raises(LayoutError, match=match):
        take(network, "seen", 64, 96)


def test_the_error_lists_tokens_of_several_levels():
    def join(grid):
        return torch.cat([tokens_of(grid), tokens_of(functional.avg_pool2d(grid, 2))], 1)

    with pytest.raises(LayoutError, match="several grids, of 4 x 6, 2 x 3 cells"):
        take(Then(join), "seen", 64, 96)


def test_reshape_transform_overrides_everything():
    extract = ActivationExtractor(
        Then(pruned), "seen", reshape_transform=lambda x: x.mT.unflatten(2, (4, 4))
    )
    assert extract(torch.rand(1, 3, 64, 96))["seen"].shape == (1, 24, 4, 4)


RESIZED = {
    "merged patches": lambda grid: (
        torch.cat([grid[..., m::2, n::2] for n in (0, 1) for m in (0, 1)], 1).permute(0, 2, 3, 1)
        @ torch.ones(96, 5)
    ),
    "space to depth": lambda grid: functional.conv2d(
        functional.pixel_unshuffle(grid, 2), torch.ones(5, 96, 1, 1)
    ),
    "every second token": lambda grid: tokens_of(grid[..., ::2, ::2]),
    "means of windows": lambda grid: windows(grid).mean(1).unflatten(0, (-1, 6)),
    "strided convolution": lambda grid: functional.conv2d(
        grid, torch.ones(5, 24, 3, 3), None, 2, 1
    ),
    "interpolation": lambda grid: functional.interpolate(grid, scale_factor=2),
    "pixel shuffle": lambda grid: functional.pixel_shuffle(grid, 2),
    "transposed": lambda grid: functional.conv_transpose2d(grid, torch.ones(24, 5, 2, 2), stride=2),
}


@pytest.mark.parametrize("name", RESIZED)
def test_grids_may_become_coarser_and_finer(name):
    size = (8, 12) if name in ("interpolation", "pixel shuffle", "transposed") else (2, 3)
    assert take(Then(RESIZED[name]), "seen", 64, 96)["seen"].shape[2:] == size


@pytest.mark.parametrize(
    "size", [(96, 96), (160, 240), (480, 320), (100, 144), (97, 131), (56, 80)]
)
def test_patches_of_an_unfolded_image_are_found_at_any_size(size):
    network = nn.Sequential(nn.Unfold(8, stride=8), nn.Flatten(2))
    network.append(Then(lambda x: x).seen)
    linear = nn.Linear(3 * 64, 8)

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            return self.linear(functional.unfold(x, 8, stride=8).mT)

    images = torch.rand(1, 3, *size)
    grid = ActivationExtractor(Patches(), "linear")(images)["linear"]
    exact = functional.conv2d(images, linear.weight.view(8, 3, 8, 8), linear.bias, 8)
    torch.testing.assert_close(grid, exact.detach())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("n_images", [1, 3])
def test_encoders_of_torch_are_read_with_tokens_or_images_first(batch_first, n_images):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 16, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).permute(*((0, 2, 1) if batch_first else (2, 0, 1)))
            return self.encoder(tokens)

    torch.manual_seed(0)
    network = Encoder().eval()
    images = torch.rand(n_images, 3, 48, 80)
    grid = ActivationExtractor(network, "encoder")(images)["encoder"]
    with torch.no_grad():
        tokens = network(images)
    tokens = tokens if batch_first else tokens.transpose(0, 1)
    torch.testing.assert_close(grid.flatten(2).mT, tokens)
    assert grid.shape == (n_images, 16, 3, 5)


class Detector(nn.Module):
    """An encoder, and a decoder with nine queries."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 32, 32)
        self.queries = nn.Parameter(torch.ones(1, 9, 8))
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.decoder(self.queries, tokens_of(self.patches(x)))


def test_queries_are_not_mistaken_for_places():
    with pytest.raises(LayoutError, match=LEARNED):
        take(Detector(), "decoder", 96, 96)


PAPER = (
    (models.mobilenet_v3_large, ["features.9", "features.11", "features.14"], (16, 16, 32)),
    (models.efficientnet_b0, ["features.5.2", "features.6.2", "features.7.0"], (16, 32, 32)),
    (models.swin_t, ["features.3", "features.5", "features.7"], (8, 16, 32)),
    (models.vit_b_16, [f"encoder.layers.encoder_layer_{n}" for n in (3, 7, 11)], (16, 16, 16)),
)


@pytest.mark.parametrize(("build", "layers", "strides"), PAPER)
def test_the_layers_of_the_paper_are_read(build, layers, strides):
    grids = take(build(), layers, 224, 224)
    for (name, grid), stride in zip(grids.items(), strides, strict=True):
        assert grid.shape[2:] == (224 // stride, 224 // stride), name


@pytest.mark.parametrize("size", [(100, 144), (97, 131)])
def test_swin_is_read_at_any_size_and_in_windows(size):
    rows, columns = (-(-(n // 4) // 2) for n in size)
    network = models.SwinTransformer([4, 4], 24, [1, 2], [2, 2], [7, 7])
    grids = take(network, ["features.2.reduction", "features.3", "features.3.1.attn"], *size)
    assert {grid.shape for grid in grids.values()} == {(1, 48, rows, columns)}


def test_windows_of_maxvit_are_merged_into_a_grid():
    layer = maxvit.PartitionAttentionLayer(
        16, 8, 7, "grid", (56, 56), 2, nn.GELU, nn.LayerNorm, 0, 0, 0
    )
    network = nn.Sequential(nn.Conv2d(3, 16, 4, 4), layer)
    grids = take(network, ["0", "1.partition_swap", "1"], 224, 224)
    assert grids["1"].shape == (1, 16, 56, 56)
    assert torch.equal(grids["1.partition_swap"], grids["0"])


@pytest.mark.parametrize("layer", ["avgpool", "fc1", "activation", "fc2"])
def test_pooled_vectors_have_no_places(layer):
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ops.SqueezeExcitation(8, 4))
    with pytest.raises(LayoutError, match="pooled over the image, so no places are left"):
        take(network, f"1.{layer}", 64, 64)
    assert take(network, "1", 64, 64)["1"].shape == (1, 8, 16, 16)


@pytest.mark.parametrize(
    "function",
    [nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU],
)
@pytest.mark.parametrize("inplace", [True, False])
def test_activation_functions_keep_places(function, inplace):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), function(inplace=inplace))
    assert take(network, "1", 32, 48)["1"].shape == (1, 4, 16, 24)


def test_a_single_cell_for_a_small_image_is_a_grid():
    assert take(nn.Sequential(nn.Conv2d(3, 4, 32, 32)), "0", 32, 32)["0"].shape == (1, 4, 1, 1)
    deep = take(models.mobilenet_v3_large(), "features.14", 32, 32)["features.14"]
    assert deep.shape == (1, 160, 1, 1)


def test_a_linear_layer_on_a_map_mixes_the_places_of_a_row():
    network = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.Linear(64, 64))
    with pytest.raises(LayoutError, match="mixes over places"):
        take(network, "1", 128, 128)


class Skips(nn.Module):
    """A U-Net whose upsampled map is padded to the size of the other map."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        skip = self.down(x)
        up = self.up(functional.max_pool2d(skip, 2)[:, :, : skip.shape[2] // 2])
        missing = [a - b for a, b in zip(skip.shape[2:], up.shape[2:], strict=True)]
        return self.out(torch.cat([skip, functional.pad(up, (0, missing[1], 0, missing[0]))], 1))


@pytest.mark.parametrize("size", [(32, 48), (33, 49)])
def test_concatenated_maps_of_a_u_net_are_grids(size):
    assert take(Skips(), "out", *size)["out"].shape == (1, 3, *size)


@pytest.mark.parametrize(("kernel", "size"), [(21, (32, 200)), (9, (64, 64))])
def test_convolutions_without_padding_are_grids(kernel, size):
    grid = take(nn.Sequential(nn.Conv2d(3, 8, kernel), nn.ReLU()), "1", *size)["1"]
    assert grid.shape[2:] == (size[0] - kernel + 1, size[1] - kernel + 1)


def test_list_layers_describes_outputs_that_are_not_tensors():
    table = list_layers(Then(lambda grid: {"a": grid}), (32, 32))
    assert table["output_shape"].iloc[-1] == "a dict of 'a': a tensor of shape (1, 24, 2, 2)"


def test_averaged_attention_weights_are_not_mistaken_for_a_grid():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.attend = nn.Conv2d(3, 24, 16, 16), nn.MultiheadAttention(24, 3)

        def forward(self, x):
            tokens = self.patches(x).flatten(2).permute(2, 0, 1)
            return self.attend(tokens, tokens, tokens)

    assert take(Attention(), "attend", 64, 96)["attend"].shape == (1, 24, 4, 6)


def test_networks_in_inference_mode_are_traced():
    class Inference(Then):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    network = Inference(lambda grid: functional.linear(grid.movedim(1, 3), torch.eye(24)))
    grids = take(network, ["patches", "seen"], 64, 96)
    torch.testing.assert_close(grids["seen"], grids["patches"])
