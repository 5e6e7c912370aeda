"""From the output of a layer to a grid of activations (n_images, n_channels, height, width)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch.nn import functional

from ..exceptions import LayoutError
from .places import compact
from .trace import LEARNED


@dataclass(frozen=True)
class Reading:
    """One way to read an output of a layer as a grid.

    Parameters
    ----------
    key : tuple
        The part that is equal for all images: the path of the tensor in the output, and the axis of
        its channels.
    n_axes : int
        Number of axes of the tensor.
    how : str
        Description for messages.
    make : callable
        Converts an output of the same shapes to the grid.
    """

    key: tuple
    n_axes: int
    how: str
    make: Callable


def describe(output):
    """Describe the output of a layer in words."""
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    if isinstance(output, dict):
        return "a dict of " + ", ".join(f"{k!r}: {describe(v)}" for k, v in output.items())
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of " + ", ".join(map(describe, output))
    return f"an object of type {type(output).__name__}"


def _tensors_in(output, path=()):
    """Yield (path, tensor) for every tensor of floats that an output contains."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point() and output.numel():
            yield path, output
    elif isinstance(output, dict | tuple | list):
        items = output.items() if isinstance(output, dict) else enumerate(output)
        for key, value in items:
            yield from _tensors_in(value, (*path, key))


def _get(output, path):
    for key in path:
        output = output[key]
    return output


def _channel_axis(codes, n_images):
    """Find the axis along which places are constant, or explain why there is no such axis.

    ``None`` means that places differ along all axes.
    """
    few = compact(codes)
    fixed = [axis for axis in range(codes.ndim) if (few == few.narrow(axis, 0, 1)).all()]
    long = [axis for axis in fixed if codes.shape[axis] > 1]
    if len(long) > 1:
        lengths = " and ".join(str(codes.shape[axis]) for axis in long)
        return (
            f"besides its places it has axes of {lengths}, as part of an attention, such as its "
            "weights or heads; its block has the grid"
        )
    if long:
        return long[0]
    # There may be a single channel. With one image, the axis of images also has one element, and
    # it comes first.
    ones = fixed[1:] if n_images == 1 else fixed
    return ones[0] if ones else None


def _read(tensor, path, trace):
    """Return a :class:`Reading` of one tensor, or explain why it contains no grid."""
    places = trace.places_of(tensor)
    if places is None or places.lost or not (places.codes >= 0).any():
        return places.lost if places is not None and places.lost else LEARNED
    codes, channels = (
        places.codes,
        1 if places.is_map else _channel_axis(places.codes, trace.n_images),
    )
    if channels is None:
        # Neighbors were concatenated, as in Swin's merging of patches before its linear layer.
        channels = codes.ndim - 1
        merged = trace.atlas.merge(codes, channels, trace.most_pooled)
        codes = merged if isinstance(merged, str) else merged[..., None]
    for why in (channels, codes):
        if isinstance(why, str):
            return why
    codes = trace.atlas.thin(codes.movedim(channels, -1)[..., 0].flatten())
    size, *more = trace.atlas.sizes_in(codes[codes >= 0])
    if more:
        names = ", ".join(f"{rows} x {columns}" for rows, columns in (size, *more))
        return f"its tokens belong to several grids, of {names} cells"
    # In this order, other tokens such as class tokens and the padding of windows come first.
    order = codes.argsort(stable=True)[int((codes < 0).sum()) :]
    if not torch.equal(codes[order], trace.atlas.code(size).flatten()):
        return (
            f"it has {len(order)} tokens for the {size[0] * size[1] * trace.n_images} places of "
            f"{size[0]} x {size[1]} cells, and not one for each"
        )
    kind = "a map" if tensor.ndim == 4 else "tokens"
    place = "".join(f"[{key!r}]" for key in path) + ": " if path else ""
    how = f"{place}{size[0]} x {size[1]} cells, {kind} with the channels along axis {channels}"
    shape = trace.n_images, *size

    def make(output):
        part = _get(output, path)
        return part if places.is_map else _arrange(part, channels, order, shape)

    return Reading((path, channels), tensor.ndim, how, make)


def _arrange(tensor, channels, order, shape):
    """Sort the cells of a grid to (n_images, n_channels, height, width)."""
    cells = tensor.movedim(channels, -1).flatten(0, -2)
    return cells[order.to(cells.device)].unflatten(0, shape).permute(0, 3, 1, 2)


def _raise(output, layer, why, way_out="Choose another layer, or pass") -> NoReturn:
    raise LayoutError(
        f"The output of layer {layer!r} is {describe(output)}; {why}. {way_out} a "
        "reshape_transform that makes it a tensor of shape (n_images, n_channels, height, width)."
    )


def find_reading(output, layer, trace, expected=None):
    """Find how to read a layer's output as a grid of activations.

    Parameters
    ----------
    output : object
        The output of the layer.
    layer : str
    trace : Trace
        Trace of this pass up to the layer.
    expected : tuple, default=None
        Key of the reading of another image, which this reading must equal. ``None`` accepts any
        reading if there is only one.

    Returns
    -------
    Reading

    Raises
    ------
    LayoutError
        If there is no reading, or more than one. The message lists them.
    """
    # The same tensor may occur twice, for example as the last hidden state.
    tensors = {id(tensor): (path, tensor) for path, tensor in reversed([*_tensors_in(output)])}
    found = [_read(tensor, path, trace) for path, tensor in reversed(tensors.values())]
    # Hugging Face's Swin returns a stage's tokens together with the map before their merging.
    n_axes = 4 if any(isinstance(way, Reading) and way.n_axes == 4 for way in found) else None
    readings = [way for way in found if isinstance(way, Reading) and n_axes in (None, way.n_axes)]
    chosen = [reading for reading in readings if expected in (None, reading.key)]
    if len(chosen) == 1:
        return chosen[0]
    if not readings:
        _raise(output, layer, (*found, "no part of it is a tensor of floats")[0])
    ways = "; ".join(reading.how for reading in readings)
    if not chosen:
        _raise(output, layer, f"it can only be read as {ways}, unlike that of the probe image")
    way_out = "Choose a layer inside it, or"
    _raise(output, layer, f"it can be read in {len(readings)} ways: {ways}", way_out)


def check_reshaped(grid, output, layer):
    """Raise unless a ``reshape_transform`` returned a grid."""
    if not isinstance(grid, torch.Tensor) or grid.ndim != 4 or not grid.is_floating_point():
        raise LayoutError(
            f"The output of layer {layer!r} is {describe(output)}, which reshape_transform made "
            f"{describe(grid)}; it must make it a tensor of shape (n_images, n_channels, height, "
            "width)."
        )
    return grid


def root_mean_squares(grids):
    """Return the root mean square norm of the cells' activations; 1 if it is 0.

    The grids are a tensor (n_rows, n_channels, height, width), and the result has shape (n_rows,).
    """
    # Squares of large or small numbers may be outside the range of their dtype.
    largest = grids.abs().amax((1, 2, 3))
    largest = torch.where(largest > 0, largest, 1)
    shares = grids / largest[:, None, None, None]
    roots = largest * shares.square().mean((2, 3)).sum(1).sqrt()
    return torch.where(roots > 0, roots, 1)


def join_grids(grids):
    """Concatenate grids of the same images after scaling them to the same size and norm.

    Parameters
    ----------
    grids : list of Tensor of shape (n_images, n_channels, height, width)
        Their channels, heights and widths may differ.

    Returns
    -------
    Tensor of shape (n_images, sum of n_channels, greatest height, greatest width)
    """
    size = torch.Size(max(sides) for sides in zip(*(g.shape[2:] for g in grids), strict=True))
    scaled = [grid / root_mean_squares(grid)[:, None, None, None] for grid in grids]
    return torch.cat([_resize(grid, size) for grid in scaled], 1)


def _resize(grid, size):
    """Interpolate a grid if it has another size."""
    if grid.shape[2:] == size:
        return grid
    return functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)
