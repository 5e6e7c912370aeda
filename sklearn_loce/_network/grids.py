"""From what a layer puts out to a grid of activations (n_images, n_channels, height, width)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import torch

from ..exceptions import LayoutError
from .families import PREFIXES

_MOST_POOLED = 3  # cells on a side that a strided layer may take to one


@dataclass(frozen=True, eq=False)  # tensors can't say whether they are equal
class Reading:
    """One way to read a tensor as a grid.

    Parameters
    ----------
    tensor : Tensor
        The raw output, or a part of it.
    size : tuple of int
        (height, width) of the grid.
    key : tuple
        What stays the same from image to image: where the tensor is in the output, and how it is
        read.
    how : str
        What messages say about it.
    make : callable
        Turns the tensor into the grid.
    """

    tensor: torch.Tensor
    size: tuple
    key: tuple
    how: str
    make: Callable

    def grid(self):
        """Give the grid, (n_images, n_channels, height, width)."""
        return self.make(self.tensor)


def describe(output):
    """Say in words what a layer puts out."""
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, dict):
        return "a dict of " + ", ".join(f"{k!r}: {describe(v)}" for k, v in output.items())
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of " + ", ".join(map(describe, output))
    return f"an object of type {type(output).__name__}"


def token_grids(n_tokens, input_size, prefixes=PREFIXES):
    """Find the grids that tokens may stand for.

    Every stride from 1 up is tried, with cells at the rim that are cut off or completed, and every
    number of tokens in front of those of the grid. A square image has a square grid.

    Parameters
    ----------
    n_tokens : int
    input_size : tuple of int
        (height, width) of the network's input.
    prefixes : sequence of int, default=PREFIXES
        How many tokens may be in front.

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
    found = ((n_tokens - rows * columns, rows, columns) for rows, columns in _grids(*input_size))
    return sorted(grid for grid in found if grid[0] in prefixes)


@lru_cache(maxsize=64)
def _grids(height, width):
    """List the grids (n_rows, n_columns) that strides of whole pixels give."""
    return frozenset(
        (rows, columns)
        for stride in range(1, max(height, width) + 1)
        for rows in {height // stride, -(-height // stride)}
        for columns in {width // stride, -(-width // stride)}
        if rows and columns and (height != width or rows == columns)
    )


def _fits(size, input_size):
    """Say whether one stride, a real number, takes both sides to the grid's, to a cell each."""
    low = max(n / (cells + 1) for n, cells in zip(input_size, size, strict=True))
    high = min(n / max(cells - 1, 0.5) for n, cells in zip(input_size, size, strict=True))
    return low < high


def _shown(trace):
    """List the grids (n_channels, height, width) seen that lie on the image, latest first."""
    return [
        grid
        for grid in reversed(trace.grids)
        if grid[1:] != (1, 1) and _fits(grid[1:], trace.input_size)
    ]


def _comes_from(size, shown):
    """Say whether halving a grid that was shown gives this one; any will do if none was shown."""
    steps = [2**n for n in range(12)]
    return not shown or any(
        all(cells in (n // step, -(-n // step)) for cells, n in zip(size, grid[1:], strict=True))
        for grid in shown
        for step in steps
    )


def _is_pooled(size, trace):
    """Say whether a side of one cell is what is left of many."""
    latest = next((grid[1:] for grid in _shown(trace)), trace.input_size)
    most = _MOST_POOLED if _shown(trace) else 64  # the largest stride that is usual
    return any(cells == 1 and n > most for cells, n in zip(size, latest, strict=True))


def _is_pairwise(size, trace, others):
    """Say whether a map is one of tokens against tokens, as the weights of an attention are."""
    counts = {grid[1] * grid[2] + sum(other) for grid in _shown(trace) for other in others}
    return size[0] == size[1] and size[0] in counts


def _read_tokens(tokens, place, facts, trace):
    """List the ways to read (n_images, n_tokens, n_channels)."""
    _, n_tokens, n_channels = tokens.shape
    if n_channels == 1:
        return []
    shown = _shown(trace)
    grids = _tokens_shown(n_tokens, facts.others, shown)
    readings = [_as_tokens(tokens, place, *grid) for grid in grids]
    # A flattened grid (n_images, n_channels, n_cells): only of a convolution seen in this pass.
    if facts.axes == {"first"}:
        flat = [size for n, *size in shown if n == n_tokens and size[0] * size[1] == n_channels]
        readings += [_as_flat(tokens, place, *size) for size in flat[:1]]
    readings = readings or [
        _as_tokens(tokens, place, (front, behind), rows, columns)
        for front, behind in facts.others
        for _, rows, columns in token_grids(n_tokens - front - behind, trace.input_size, (0,))
        if _comes_from((rows, columns), shown)
    ]
    return [reading for reading in readings if not _is_pooled(reading.size, trace)]


def _tokens_shown(n_tokens, others, shown):
    """Give the latest grid of this pass that has as many cells as there are tokens."""
    for _, rows, columns in shown:
        for front, behind in others:
            if rows * columns + front + behind == n_tokens:
                return [((front, behind), rows, columns)]
    return []


def _as_tokens(tokens, place, others, rows, columns):
    front, behind = others

    def make(tokens):
        return tokens[:, front : front + rows * columns].mT.unflatten(2, (rows, columns))

    how = f"{rows} x {columns} cells behind {front} other tokens"
    how += f" and before {behind}" if behind else ""
    return Reading(tokens, (rows, columns), (place, "tokens", others), place + how, make)


def _as_flat(flat, place, rows, columns):
    def make(flat):
        return flat.unflatten(2, (rows, columns))

    how = f"{rows} x {columns} cells along the last axis"
    return Reading(flat, (rows, columns), (place, "flat"), place + how, make)


def _read_map(grid, place, facts, trace):
    """List the ways to read four axes, of which the channels are the second or the last."""
    _, first, second, third = grid.shape
    channels_first = Reading(
        grid,
        (second, third),
        (place, "first"),
        f"{place}{second} x {third} cells, channels first",
        _as_it_is,
    )
    channels_last = Reading(
        grid,
        (first, second),
        (place, "last"),
        f"{place}{first} x {second} cells, channels last",
        _channels_to_front,
    )
    readings = _choose_axes(channels_first, channels_last, trace.axes_of(grid), facts, trace)
    return [reading for reading in readings if not _is_pooled(reading.size, trace)]


def _choose_axes(channels_first, channels_last, axes, facts, trace):
    """Choose by the layer that made the map, the layers in it, and the input's size."""
    pairs = _is_pairwise(channels_first.size, trace, facts.others)
    if axes == "first":
        return [] if facts.in_attention and pairs else [channels_first]
    if facts.in_attention and facts.is_leaf and axes is None:
        return []
    either = [r for r in (channels_first, channels_last) if _is_likely(r.size, facts, trace)]
    if axes == "last":
        return [reading for reading in either if reading is channels_last]
    if (
        facts.axes == {"first"}
        and not pairs
        and _may_be_of_convolutions(channels_first.size, trace)
    ):
        return [channels_first]
    if facts.axes == {"last"} and channels_last in either:
        return [channels_last]
    return either


def _may_be_of_convolutions(size, trace):
    """Say whether convolutions, with whatever padding, may have made a map of this size."""
    return _fits(size, trace.input_size) or size in [grid[1:] for grid in trace.grids]


def _is_likely(size, facts, trace):
    """Say whether a map is as large as one that was shown, or half of it and so on."""
    shown = _shown(trace)
    is_half = size in _grids(*trace.input_size) and _comes_from(size, shown)
    is_grid = is_half or size in [grid[1:] for grid in shown]
    return is_grid and not _is_pairwise(size, trace, facts.others)


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


def _readings(output, facts, trace):
    """List the ways to read an output; tensors with four axes go before tokens."""
    for n_axes, read in ((4, _read_map), (3, _read_tokens)):
        found = [
            reading
            for place, tensor in _tensors_in(output)
            if tensor.ndim == n_axes and len(tensor) == trace.n_images
            for reading in read(tensor, f"{place}: " if place else "", facts, trace)
        ]
        if found:
            return found
    return []


def _raise(output, facts, why, way_out="Choose another layer, or pass") -> NoReturn:
    raise LayoutError(
        f"The output of layer {facts.name!r} is {describe(output)}; {why}. {way_out} a "
        "reshape_transform that makes it a tensor of shape (n_images, n_channels, height, width)."
    )


def _explain_none(output, facts, trace):
    tensors = [tensor for _, tensor in _tensors_in(output)]
    if tensors and all(t.ndim >= 3 and len(t) != trace.n_images for t in tensors):
        return (
            f"it is a batch of {len(tensors[0])} for {trace.n_images} image(s), as window "
            "attention and heads on boxes make it, so that places get lost; the block around it "
            "may hold the grid"
        )
    if any(1 in tensor.shape[1:] for tensor in tensors):
        return "it is pooled over the image, so that no places are left"
    if facts.in_attention and any(tensor.ndim == 4 for tensor in tensors):
        return "it is a part of an attention, such as its weights or heads; its block has the grid"
    height, width = trace.input_size
    return f"no part of it is a grid of cells over the network's input of {height} x {width} pixels"


def _explain_tokens(output, facts, trace):
    """Say why tokens can't be places, if that is known."""
    tokens = [tensor for _, tensor in _tensors_in(output) if tensor.ndim == 3]
    if not tokens:
        return None
    n_tokens = tokens[0].shape[1]
    if trace.behind_decoder:
        return f"its {n_tokens} tokens are queries of a decoder, not places"
    if any(n_tokens == behind > 0 for _, behind in facts.others):
        return f"its {n_tokens} tokens are detection tokens, not places"
    return facts.without_order


def find_reading(output, facts, trace, settled=None):
    """Find how to read a layer's output as a grid of activations.

    Parameters
    ----------
    output : object
        What the layer returned.
    facts : LayerFacts
    trace : Trace
        Of this pass, until now.
    settled : tuple, default=None
        Key of the reading of an earlier image.

    Returns
    -------
    Reading

    Raises
    ------
    LayoutError
        If there is no way or more than one to read it. The message says which.
    """
    if facts.without_frame:
        _raise(output, facts, facts.without_frame)
    readings = _readings(output, facts, trace)
    if all(reading.tensor.ndim == 3 for reading in readings):
        why = _explain_tokens(output, facts, trace)
        if why is not None:
            _raise(output, facts, why)
    if not readings:
        _raise(output, facts, _explain_none(output, facts, trace))
    readings = [r for r in readings if r.key == settled] or readings
    if len(readings) > 1:
        ways = "; ".join(dict.fromkeys(r.how for r in readings))
        inside = "" if facts.is_leaf else "a layer inside it, "
        way_out = f"Choose {inside}another input size, or"
        _raise(output, facts, f"it can be read in {len(readings)} ways: {ways}", way_out)
    if settled not in (None, readings[0].key):
        why = f"it can only be read as {readings[0].how}, unlike that of the first image"
        _raise(output, facts, why)
    return readings[0]


def check_reshaped(grid, output, layer):
    """Raise unless a ``reshape_transform`` made a grid."""
    if not isinstance(grid, torch.Tensor) or grid.ndim != 4 or not grid.is_floating_point():
        raise LayoutError(
            f"The output of layer {layer!r} is {describe(output)}, which reshape_transform made "
            f"{describe(grid)}; it must make it a tensor of shape (n_images, n_channels, height, "
            "width)."
        )
    return grid
