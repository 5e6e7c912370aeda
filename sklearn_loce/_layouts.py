"""From what a layer puts out to a grid of activations (n_images, n_channels, height, width)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from .exceptions import LayoutError

PREFIXES = (0, 1, 2, 5)  # none; class; class and distillation; class and four registers

# What torch defines about the axes of the outputs of its own layers. Subclasses may do otherwise,
# as torchvision's LayerNorm2d does.
_CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)

_WITHOUT_FRAME = {
    "RoIHeads": "it describes regions of interest one by one, which share no grid with the image"
}


@dataclass(frozen=True)
class LayerFacts:
    """What is known about a layer before it runs.

    Parameters
    ----------
    name : str
    axes : frozenset of {"first", "last"}
        Where torch's own layers in it, or in the closest module around it, put the channels.
    without_frame : str or None
        Why its output can't be laid on the image.
    """

    name: str
    axes: frozenset
    without_frame: str | None


@dataclass(frozen=True)
class Reading:
    """One way to read a tensor as a grid.

    Parameters
    ----------
    tensor : Tensor
        The raw output, or a part of it.
    size : tuple of int
        (height, width) of the grid.
    how : str
        What messages say about it.
    make : callable
        Turns the tensor into the grid.
    """

    tensor: torch.Tensor
    size: tuple
    how: str
    make: Callable


def _axes_in(module):
    axes = set()
    for child in module.modules():
        if isinstance(child, _CHANNELS_FIRST):
            axes.add("first")
        elif type(child) in _CHANNELS_LAST:
            axes.add("last")
    return frozenset(axes)


def layer_facts(module, name):
    """Look up what is known about a layer from its place in the network."""
    parts = name.split(".")
    around = [module.get_submodule(".".join(parts[:n])) for n in range(len(parts), 0, -1)]
    axes = next((found for child in around if (found := _axes_in(child))), frozenset())
    reasons = [_WITHOUT_FRAME.get(type(child).__name__) for child in around]
    return LayerFacts(name, axes, next(filter(None, reasons), None))


def decoders(module):
    """Give the decoders of a network: what has tokens behind them are queries, not places."""
    return [
        child
        for name, child in module.named_modules()
        if "decoder" in name.rpartition(".")[2].lower() or "Decoder" in type(child).__name__
        if child is not module
    ]


def describe(output):
    """Say in words what a layer puts out."""
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, dict):
        return "a dict of " + ", ".join(f"{k!r}: {describe(v)}" for k, v in output.items())
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of " + ", ".join(map(describe, output))
    return f"an object of type {type(output).__name__}"


def token_grids(n_tokens, input_size):
    """Find the grids that tokens may stand for.

    Every stride from 1 up is tried, with cells at the rim that are cut off or completed, and every
    number of tokens in ``PREFIXES`` in front of those of the grid.

    Parameters
    ----------
    n_tokens : int
    input_size : tuple of int
        (height, width) of the network's input.

    Returns
    -------
    list of tuple of int
        (n_prefix_tokens, grid_height, grid_width), sorted.

    Examples
    --------
    >>> token_grids(197, (224, 224))
    [(1, 14, 14)]
    >>> token_grids(9, (96, 96))
    [(0, 3, 3), (5, 2, 2)]
    """
    height, width = input_size
    found = set()
    for stride in range(1, max(input_size) + 1):
        for rows in {height // stride, -(-height // stride)}:
            for columns in {width // stride, -(-width // stride)}:
                prefix = n_tokens - rows * columns
                squeezed = height == width and rows != columns
                if rows and columns and prefix in PREFIXES and not squeezed:
                    found.add((prefix, rows, columns))
    return sorted(found)


def _fits(grid_size, input_size):
    """Say whether one stride, a real number, takes both sides to the grid's, to a cell each."""
    low = max(n / (cells + 1) for n, cells in zip(input_size, grid_size, strict=True))
    high = min(n / max(cells - 1, 0.5) for n, cells in zip(input_size, grid_size, strict=True))
    return low < high


def _read_tokens(tokens, input_size, axes):
    """List the ways to read (n_images, n_tokens, n_channels)."""

    def reading(prefix, rows, columns):
        def make(tokens):
            return tokens[:, prefix:].mT.unflatten(2, (rows, columns))

        how = f"{rows} x {columns} cells behind {prefix} other tokens"
        return Reading(tokens, (rows, columns), how, make)

    readings = [reading(*grid) for grid in token_grids(tokens.shape[1], input_size)]
    if axes == {"first"}:
        # Among convolutions, a flattened grid (n_images, n_channels, n_cells) is as likely.
        readings += [
            Reading(
                tokens, size, f"{size[0]} x {size[1]} cells along the last axis", _unflatten(size)
            )
            for prefix, *size in token_grids(tokens.shape[2], input_size)
            if prefix == 0
        ]
    return readings


def _unflatten(size):
    def make(flat):
        return flat.unflatten(2, tuple(size))

    return make


def _read_spatial(grid, input_size, axes):
    """List the ways to read four axes, of which the channels are the second or the last."""
    _, first, second, third = grid.shape
    channels_first = Reading(
        grid, (second, third), f"{second} x {third} cells, channels first", _as_it_is
    )
    channels_last = Reading(
        grid, (first, second), f"{first} x {second} cells, channels last", _channels_to_front
    )
    if axes == {"first"}:
        return [channels_first]
    if axes == {"last"} and _fits(channels_last.size, input_size):
        return [channels_last]
    return [r for r in (channels_first, channels_last) if _fits(r.size, input_size)]


def _as_it_is(grid):
    return grid


def _channels_to_front(grid):
    return grid.permute(0, 3, 1, 2)


def _tensors_in(output, place=""):
    """Yield (place, tensor) for every tensor of floats that an output holds."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.numel():
            yield place, output
    elif isinstance(output, dict | tuple | list):
        items = output.items() if isinstance(output, dict) else enumerate(output)
        for key, value in items:
            yield from _tensors_in(value, f"{place}[{key!r}]")


def _readings(output, facts, n_images, input_size):
    """List the ways to read an output; tensors with four axes go before tokens."""
    for n_axes, read in ((4, _read_spatial), (3, _read_tokens)):
        found = [
            replace(reading, how=f"{place}: {reading.how}" if place else reading.how)
            for place, tensor in _tensors_in(output)
            if tensor.ndim == n_axes and len(tensor) == n_images
            for reading in read(tensor, input_size, facts.axes)
        ]
        if found:
            return found
    return []


def _raise(output, facts, why, way_out="Choose another layer, or pass"):
    raise LayoutError(
        f"The output of layer {facts.name!r} is {describe(output)}; {why}. {way_out} a "
        "reshape_transform that makes it a tensor of shape (n_images, n_channels, height, width)."
    )


def _explain_none(output, n_images, input_size):
    tensors = [tensor for _, tensor in _tensors_in(output)]
    if tensors and all(t.ndim >= 3 and len(t) != n_images for t in tensors):
        return (
            f"it is a batch of {len(tensors[0])} for {n_images} image(s), as window attention and "
            "heads on boxes make it, so that places get lost; the block around it may hold the grid"
        )
    height, width = input_size
    return f"no part of it is a grid of cells over the network's input of {height} x {width} pixels"


def to_grid(output, facts, *, n_images, input_size, behind_decoder=False):
    """Read a layer's output as a grid of activations.

    Parameters
    ----------
    output : object
        What the layer returned.
    facts : LayerFacts
    n_images : int
    input_size : tuple of int
        (height, width) of what the network's first layer saw.
    behind_decoder : bool, default=False
        Whether a decoder has begun to run before this layer finished.

    Returns
    -------
    Tensor of shape (n_images, n_channels, height, width)

    Raises
    ------
    LayoutError
        If there is no way or more than one to read it. The message says which.
    """
    if facts.without_frame:
        _raise(output, facts, facts.without_frame)
    readings = _readings(output, facts, n_images, input_size)
    if behind_decoder and all(r.tensor.ndim == 3 for r in readings):
        shapes = [tuple(t.shape) for _, t in _tensors_in(output) if t.ndim == 3]
        if shapes:
            _raise(output, facts, f"its {shapes[0][1]} tokens are queries of a decoder, not places")
    if len(readings) == 1:
        return readings[0].make(readings[0].tensor)
    if not readings:
        _raise(output, facts, _explain_none(output, n_images, input_size))
    ways = "; ".join(dict.fromkeys(r.how for r in readings))
    why = f"it can be read in {len(readings)} ways: {ways}"
    return _raise(output, facts, why, "Choose a layer inside it, another input size, or")


def check_reshaped(grid, output, layer):
    """Raise unless a ``reshape_transform`` made a grid."""
    if not isinstance(grid, torch.Tensor) or grid.ndim != 4 or not grid.is_floating_point():
        raise LayoutError(
            f"The output of layer {layer!r} is {describe(output)}, which reshape_transform made "
            f"{describe(grid)}; it must make it a tensor of shape (n_images, n_channels, height, "
            "width)."
        )
    return grid
