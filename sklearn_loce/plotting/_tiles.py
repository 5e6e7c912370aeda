"""Thumbnails of samples with their masks, which are decoded only for the rows shown."""

from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from PIL import Image

from .._samples.table import as_samples, group_by_image, part_of, read_rows

# Pixels of the longer side of a tile: 1.1 inches at 233 dots per inch.
TILE_SIZE = 256

_CROP_MARGIN = 1.6  # sides of the crop over those of the bounding box of the mask
_LEAST_CROP = 0.2  # smallest share of the sides of the image


@dataclass(frozen=True, eq=False)
class Tile:
    """Image and mask of one row at the size of a thumbnail.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
        RGB.
    mask : ndarray of shape (height, width), float32
        Share of each pixel that the mask covers, in [0, 1].
    box : tuple of int
        Part of the image that is shown, in its pixels: left, upper, right, lower.
    projection : ndarray of shape (height, width), float32, default=None
        Share of each pixel that the projection covers. None if there is no projection.
    """

    image: np.ndarray
    mask: np.ndarray
    box: tuple
    projection: np.ndarray | None = None

    def shrink(self, layer):
        """Crop and shrink a map of the whole image to this tile.

        Parameters
        ----------
        layer : ndarray of shape (image_height, image_width), bool or float

        Returns
        -------
        ndarray of shape (height, width), float32
            Averages. NaN where the map has NaN.
        """
        return _average(layer, self.box, self.mask.shape)

    def project(self, projection):
        """Return this tile with a projection of the whole image.

        Parameters
        ----------
        projection : ndarray of shape (image_height, image_width), bool

        Returns
        -------
        Tile
        """
        return replace(self, projection=self.shrink(projection))


def read_tile(samples, row, *, size=TILE_SIZE, crop=False):
    """Read the thumbnail of a row with its mask.

    Parameters
    ----------
    samples : DataFrame or list of (image, mask) pairs
        The table of samples.
    row : int
        Position of the row.
    size : int, default=256
        Length of the longer side in pixels. Smaller images keep their size.
    crop : bool, default=False
        Whether to show only the surroundings of the mask, with the aspect ratio of the image.

    Returns
    -------
    Tile

    Raises
    ------
    FileNotFoundError
        If the image or the mask file is missing. The message names the row.
    ValueError, TypeError
        If the row is out of range, or its image or mask cannot be read.

    Examples
    --------
    >>> from sklearn_loce.datasets import make_scenes
    >>> from sklearn_loce.plotting._tiles import read_tile
    >>> tile = read_tile(make_scenes(1, random_state=0).data, 0, size=80)
    >>> tile.image.shape, tile.mask.shape
    ((60, 80, 3), (60, 80))
    """
    (tile,) = read_tiles(samples, [row], size=size, crop=crop).values()
    return tile


def read_tiles(samples, rows, *, size=TILE_SIZE, crop=False, projector=None, vectors=None):
    """Read the thumbnails of rows with their masks. A shared image is decoded once.

    Parameters
    ----------
    samples : DataFrame or list of (image, mask) pairs
        The table of samples.
    rows : array-like of int
        Positions of rows, which may repeat.
    size : int, default=256
        Length of the longer side in pixels. Smaller images keep their size.
    crop : bool, default=False
        Whether to show only the surroundings of the mask, with the aspect ratio of the image.
    projector : LoCETransformer, ConceptSegmenter or Net2VecSegmenter, default=None
        Fitted estimator that computes projections. None computes none.
    vectors : ndarray of shape (n_samples, n_features), default=None
        Vectors that a transformer projects; None optimizes LoCEs. A segmenter has its own vectors.

    Returns
    -------
    dict of {int: Tile}
        Tiles by position, sorted.

    Raises
    ------
    FileNotFoundError
        If an image or a mask file is missing. The message names the row.
    ValueError, TypeError
        If a row is out of range, or an image or mask cannot be read.
    """
    samples = as_samples(samples)
    rows = np.unique(check_positions(rows, len(samples)))
    part, tiles = part_of(samples, rows), {}
    for group in group_by_image(part) if len(rows) else []:
        image, masks = read_rows(part, group)
        for i, mask in zip(group, masks, strict=True):
            tiles[int(rows[i])] = make_tile(image, mask, size=size, crop=crop)
    tiles = dict(sorted(tiles.items()))
    if projector is None:
        return tiles
    is_used = vectors is not None and hasattr(projector, "project")
    vectors = np.asarray(vectors)[rows] if is_used else None
    drawn = project_rows(projector, samples.iloc[rows], vectors)
    threshold = getattr(projector, "threshold", 0.5)
    return {
        row: tile if probabilities is None else tile.project(probabilities > threshold)
        for (row, tile), probabilities in zip(tiles.items(), drawn, strict=True)
    }


def project_rows(projector, samples, vectors=None, layer=None):
    """Project rows by a transformer, or by the concepts of a segmenter.

    Parameters
    ----------
    projector : LoCETransformer, ConceptSegmenter or Net2VecSegmenter
        Fitted.
    samples : DataFrame
        The rows.
    vectors : ndarray of shape (n_rows, n_features), default=None
        Vectors that a transformer projects. None optimizes LoCEs.
    layer : str or Joined, default=None
        Layer of a transformer.

    Returns
    -------
    sequence of ndarray of shape (height, width), float32, or None
        Probabilities at the sizes of the images.

    Raises
    ------
    TypeError
        If the estimator cannot project.
    ValueError
        If vectors or a layer are passed with a segmenter.
    """
    if hasattr(projector, "project"):
        return projector.project(samples, vectors, layer=layer, threshold=None)
    if not hasattr(projector, "segment"):
        raise TypeError(
            f"{type(projector).__name__} cannot project; pass a fitted LoCETransformer, "
            "ConceptSegmenter or Net2VecSegmenter."
        )
    if vectors is not None or layer is not None:
        raise ValueError(
            f"{type(projector).__name__} uses its own vectors; do not pass embeddings or a layer."
        )
    return projector.predict_proba(samples)


def make_tile(image, mask, *, size=TILE_SIZE, crop=False):
    """Shrink an image and its mask.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    mask : ndarray of shape (height, width), bool
    size : int, default=256
        Length of the longer side in pixels. Smaller images keep their size.
    crop : bool, default=False
        Whether to show only the surroundings of the mask, with the aspect ratio of the image.

    Returns
    -------
    Tile

    Raises
    ------
    ValueError
        If the size is not a positive integer.
    """
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(f"The size of a tile must be a positive integer, got {size!r}.")
    box = _box_around(mask) if crop else (0, 0, mask.shape[1], mask.shape[0])
    width, height = box[2] - box[0], box[3] - box[1]
    scale = min(1.0, size / max(width, height))
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    shrunk = Image.fromarray(image).resize(shape[::-1], Image.Resampling.LANCZOS, box=box)
    return Tile(np.asarray(shrunk), _average(mask, box, shape), box)


def _average(layer, box, shape):
    whole = Image.fromarray(np.asarray(layer, dtype=np.float32))
    return np.asarray(whole.resize(shape[::-1], Image.Resampling.BOX, box=box))


def _box_around(mask):
    """Find a box around a mask, inside the image and with its aspect ratio."""
    if not mask.any():
        return (0, 0, mask.shape[1], mask.shape[0])
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] + (0, 1) for axis in (1, 0)]
    spans = [(last - first) / n for (first, last), n in zip(ends, mask.shape, strict=True)]
    share = np.clip(_CROP_MARGIN * max(spans), _LEAST_CROP, 1.0)
    starts, stops = [], []
    for (first, last), n in zip(ends, mask.shape, strict=True):
        length = max(1, round(share * n))
        start = int(np.clip(round((first + last - length) / 2), 0, n - length))
        starts.append(start)
        stops.append(start + length)
    return (starts[1], starts[0], stops[1], stops[0])


def trace_outline(mask, level=None):
    """Trace the outlines of a mask.

    Parameters
    ----------
    mask : ndarray of shape (height, width), float or bool
        Covered share of each pixel, as in :class:`Tile`.
    level : float, default=None
        Share at which the lines lie. None uses half of a pixel, or half of the largest share if it
        is smaller, as for a thin pole.

    Returns
    -------
    list of ndarray of shape (n_points, 2), float64
        Closed lines of (x, y) in pixels. Centers of pixels are whole numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._tiles import trace_outline
    >>> (line,) = trace_outline(np.ones((2, 3)))
    >>> line.min(axis=0), line.max(axis=0)
    (array([-0.5, -0.5]), array([2.5, 1.5]))
    """
    from contourpy import contour_generator

    if not mask.any():
        return []
    # With a margin of background, lines at the border of the image are closed.
    padded = np.pad(np.asarray(mask, dtype=np.float64), 1)
    x, y = (np.arange(-1, n + 1) for n in (mask.shape[1], mask.shape[0]))
    level = min(0.5, padded.max() / 2) if level is None else level
    return contour_generator(x, y, padded).lines(level)


def check_positions(rows, n_samples, name="rows"):
    """Check positions of rows.

    Parameters
    ----------
    rows : int or array-like of int
    n_samples : int
        Number of rows.
    name : str, default="rows"
        Name for error messages.

    Returns
    -------
    ndarray of shape (n_rows,), intp

    Raises
    ------
    TypeError, ValueError
        If positions are not integers, or out of range.
    """
    rows = np.atleast_1d(np.asarray(rows))
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(
            f"{name} must be positions of rows, integers from 0 to {n_samples - 1}, got an array "
            f"of shape {rows.shape} and dtype {rows.dtype}; convert a boolean mask by "
            "np.flatnonzero(mask)."
        )
    outside = rows[(rows < 0) | (rows >= n_samples)]
    if outside.size:
        raise ValueError(
            f"{name} contains {outside[0]}, but the positions of {n_samples} row(s) range from 0 "
            f"to {n_samples - 1}."
        )
    return rows.astype(np.intp)
