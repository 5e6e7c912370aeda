"""Places in the image, as codes that follow the numbers of a tensor.

The shape alone does not determine the meaning of a tensor's axes: 64 tokens may be 8 x 8 places, 64
groups, or the 64 best of 196 patches. So every tensor that comes from the image has a twin. The
twin contains the place of each number: a cell (row, column) of a grid over the whole image.
"""

from typing import NamedTuple

import torch

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
            self._codes[size] = self._code(size)
        return self._codes[size]

    def _code(self, size):
        rows, columns = (torch.arange(n, dtype=torch.float64) for n in size)
        images = torch.arange(self.n_images, dtype=torch.float64)
        cells = rows[:, None] * _ROW + columns + self.number(size) * _GRID
        return images[:, None, None] * _IMAGE + cells

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
