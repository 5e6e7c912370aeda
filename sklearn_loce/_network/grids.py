"""Places in the image, and grids of activations (n_images, n_channels, height, width).

The shape alone does not determine the meaning of a tensor's axes: 64 tokens may be 8 x 8 places, 64
groups, or the 64 best of 196 patches. So every tensor that comes from the image has a twin. The
twin contains the place of each number: a cell (row, column) of a grid over the whole image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import NamedTuple, NoReturn

import torch
from torch.nn import functional

from ..exceptions import LayoutError

LEARNED = (
    "it has no places in the image: it describes learned tokens, such as queries, groups and class "
    "tokens, or boxes, or the whole image"
)
POOLED = "it is pooled over the image, so no places are left"
MIXED = "it mixes over places, so none of its axes corresponds to places"

# A place is one number, so that one operation moves a twin. Its digits are image, grid, row and
# column. It is a float, because im2col takes no integers; float64 is exact up to 2**53.
_ROW, _GRID, _IMAGE = 2**16, 2**32, 2**42


class Places(NamedTuple):
    """The places of the numbers of a tensor.

    Parameters
    ----------
    codes : Tensor or None
        Codes of the places, in the shape of the tensor, on the CPU; -1 for a number without a
        place. ``None`` if no number has a place.
    lost : str
        The reason why there are no codes, or why the codes do not form a grid.
    is_map : bool
        Whether the tensor is known to be (n_images, n_channels, height, width), in order.
    """

    codes: torch.Tensor | None
    lost: str = ""
    is_map: bool = False


class Block(NamedTuple):
    """A rectangle of a map whose cells are rows and columns of a grid, in order.

    Parameters
    ----------
    start, shape : tuple of int
        The start of the rectangle in the map, and its (height, width).
    origin, size : tuple of int
        The (row, column) of its first cell in the grid, and the (height, width) of the grid.
    """

    start: tuple
    shape: tuple
    origin: tuple
    size: tuple


class Atlas:
    """The grids of one pass. All grids cover the whole image, so grids of one size are equal."""

    def __init__(self, n_images):
        self.n_images = n_images
        self.sizes = []
        self._codes = {}

    def number(self, size):
        """Return the number of a grid of (n_rows, n_columns)."""
        if size not in self.sizes:
            self.sizes.append(size)
        return self.sizes.index(size)

    def code(self, size):
        """Return the codes of a grid's cells in order, (n_images, n_rows, n_columns)."""
        size = tuple(size)
        if size not in self._codes:
            rows, columns = (torch.arange(n, dtype=torch.float64) for n in size)
            images = torch.arange(self.n_images, dtype=torch.float64)
            cells = rows[:, None] * _ROW + columns + self.number(size) * _GRID
            self._codes[size] = images[:, None, None] * _IMAGE + cells
        return self._codes[size]

    def lay(self, shape):
        """Return the places of a map (n_images, n_channels, height, width) over the whole image."""
        return Places(self.code(shape[2:])[:, None].expand(shape), is_map=True)

    def sizes_in(self, codes):
        """Return the sizes of the grids that codes belong to."""
        return [self.sizes[int(n)] for n in (codes % _IMAGE // _GRID).unique()]

    def merge(self, codes, axis, most_pooled):
        """Return the codes after a sum along an axis.

        There are two cases. All numbers along the axis have one place, or blocks of cells become
        one cell. Examples of blocks are the patches of an unfolded image, Swin's merging, and
        concatenated strided slices.

        Parameters
        ----------
        codes : Tensor
        axis : int
        most_pooled : int
            Maximum number of cells on a side that may become one; more is pooling.

        Returns
        -------
        Tensor, or str
            The codes, or the reason why there are none.
        """
        exact = exact_codes(codes, axis)
        if exact is not None:
            return exact
        shape = codes.select(axis, 0).shape
        merged = self._merge(compact(codes), axis, most_pooled)
        return merged if isinstance(merged, str) else merged.expand(shape)

    def _merge(self, codes, axis, most_pooled):
        valid, owners = codes >= 0, codes // _GRID
        known, sizes = valid.any(axis), self.sizes_in(codes[valid])
        owner = owners.amax(axis)[known]
        if (
            len(sizes) > 1
            or (torch.where(valid, owners, torch.inf).amin(axis)[known] != owner).any()
        ):
            return MIXED
        rows, columns = (
            torch.where(valid, part, torch.nan).nanmean(axis)[known] for part in _cells(codes)
        )
        places = self._number(rows, columns, owner, sizes[0], most_pooled)
        if isinstance(places, str):
            return places
        merged = torch.full(known.shape, -1.0, dtype=torch.float64)
        merged[known] = places
        return merged

    def _number(self, rows, columns, owners, size, most_pooled):
        """Return the codes of a coarser grid, from rows and columns of its cells in a finer one."""
        cells, shape = 0, []
        for part, step, n in zip((rows, columns), (_ROW, 1), size, strict=True):
            centers, number = part.unique(return_inverse=True)
            if len(centers) == 1 and n > most_pooled:
                return POOLED
            if not _are_blocks(centers, n):
                return MIXED
            cells = cells + number * step
            shape.append(len(centers))
        places = owners // (_IMAGE // _GRID) * _IMAGE + cells
        if len(places.unique()) != self.n_images * shape[0] * shape[1]:
            return MIXED
        return places + self.number(tuple(shape)) * _GRID

    def thin(self, codes):
        """Convert regularly spaced cells of a grid to the cells of a coarser grid.

        LeViT, for example, keeps every second token. Other codes are returned unchanged.
        """
        few = compact(codes)
        valid, sizes = few >= 0, self.sizes_in(few[few >= 0])
        if len(sizes) != 1 or torch.equal(few[valid].sort().values, self.code(sizes[0]).flatten()):
            return codes  # they belong to several grids, or are all cells of one
        rows, columns = _cells(few[valid])
        places = self._number(rows, columns, few[valid] // _GRID, sizes[0], 1)
        if isinstance(places, str):
            return codes
        thinned = torch.full(few.shape, -1.0, dtype=torch.float64)
        thinned[valid] = places
        return thinned.expand(codes.shape)

    def find_block(self, codes):
        """Find the block of a map's codes (n_images, height, width); ``None`` if it is none."""
        valid = (codes >= 0).any(0)
        if len(codes) != self.n_images or not valid.any():
            return None
        spans = [axis.nonzero()[[0, -1], 0].tolist() for axis in (valid.any(1), valid.any(0))]
        (top, bottom), (left, right) = spans
        block = codes[:, top : bottom + 1, left : right + 1]
        first, shape = int(block[0, 0, 0]), tuple(block.shape[1:])
        if first < 0:
            return None
        origin, size = (first % _GRID // _ROW, first % _ROW), self.sizes[first % _IMAGE // _GRID]
        expected = self.code(size)[:, origin[0] :, origin[1] :][:, : shape[0], : shape[1]]
        is_block = torch.equal(expected, block)
        return Block((top, left), shape, origin, size) if is_block else None


def compact(codes, kept=None):
    """Reduce each axis that is only expanded, such as channels, to one element."""
    for axis in range(codes.ndim):
        if codes.stride(axis) == 0 and axis != kept:
            codes = codes.narrow(axis, 0, 1)
    return codes


def exact_codes(codes, axis):
    """Return the common code along an axis; ``None`` if codes differ."""
    if codes.stride(axis) == 0 or codes.shape[axis] == 1:
        return codes.select(axis, 0)
    few = compact(codes)
    high = few.amax(axis)
    low = torch.where(few < 0, torch.inf, few).amin(axis)
    is_exact = bool(((high < 0) | (low == high)).all())
    return high.expand(codes.select(axis, 0).shape) if is_exact else None


def _cells(codes):
    return codes % _GRID // _ROW, codes % _ROW


def _are_blocks(centers, n):
    """Return whether the centers belong to blocks that cover n cells; the last may be cut.

    A sum over distant tokens, such as those of a dilated attention, has its centers in the middle
    of the image.
    """
    steps = centers.diff()
    if not len(steps):
        return True
    step = float(steps.max())
    return step < 2.1 * steps.min() and centers[0] <= step and centers[-1] >= n - 1 - step


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


def _find_cells(codes, trace):
    """Find channels, grid and order of cells that may be tokens, or explain why there is no grid.

    Returns
    -------
    tuple of (int, tuple of int, Tensor), or str
        The axis of the channels, the size of the grid, and the positions of its cells in order.
    """
    channels = _channel_axis(codes, trace.n_images)
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
    return channels, size, order


def _read(tensor, path, trace):
    """Return a :class:`Reading` of one tensor, or explain why it holds no grid."""
    places = trace.places_of(tensor)
    if places is None or places.lost or not (places.codes >= 0).any():
        return places.lost if places is not None and places.lost else LEARNED
    channels, size, order = 1, tuple(tensor.shape[2:]), None
    if not places.is_map:
        found = _find_cells(places.codes, trace)
        if isinstance(found, str):
            return found
        channels, size, order = found
    kind = "a map" if tensor.ndim == 4 else "tokens"
    place = "".join(f"[{key!r}]" for key in path) + ": " if path else ""
    how = f"{place}{size[0]} x {size[1]} cells, {kind} with the channels along axis {channels}"
    shape = trace.n_images, *size

    def make(output):
        part = reduce(getitem, path, output)
        if order is None:
            return part
        cells = part.movedim(channels, -1).flatten(0, -2)
        return cells[order.to(cells.device)].unflatten(0, shape).permute(0, 3, 1, 2)

    return Reading((path, channels), tensor.ndim, how, make)


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


def all_finite(tensor):
    """Return whether a tensor holds neither NaN nor infinity."""
    # A sum is ten times as fast as isfinite and needs no copy. It may overflow, so check again.
    return bool(torch.isfinite(tensor.sum()) or all(torch.isfinite(part).all() for part in tensor))
