"""Images, contours, projections and IoU of the concept map in the browser."""

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .._samples.masks import intersection_over_union
from .._samples.table import group_by_image, part_of, read_rows
from ._tiles import make_tile, trace_outline

QUALITY = 70  # of WebP; lower values show artifacts at twice the size
_FLOOR = 0.25  # brightness at probability 0, which keeps the surroundings visible
_SCALE = 10  # units of a contour per pixel of the thumbnail
_TOLERANCE = 0.1  # pixels that a contour may move for each dropped point
_PASSES = 5  # over a contour, each of which can halve it
_LEAST_POINTS = 12  # shorter contours are not thinned
_ROWS_AT_ONCE = 64  # projections at the images' size that are in memory together


@dataclass
class Pictures:
    """Pictures of rows, encoded as text.

    Parameters
    ----------
    images : list of str
        Thumbnail of each image, or of each row if they are cropped, as WebP in base64.
    sizes : list of [int, int]
        Width and height of each thumbnail in pixels.
    image_of : ndarray of shape (n_rows,), int
        Image of each row.
    contours : list of str
        Outline of each mask, as an SVG path in tenths of a pixel.
    projections : list of str or None
        Probabilities of each row as brightness, as WebP in base64.
    iou : ndarray of shape (n_rows,), float64
        IoU of projection > 0.5 and mask, NaN without a projection.
    """

    images: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    image_of: np.ndarray = None
    contours: list = None
    projections: list = None
    iou: np.ndarray = None

    def as_payload(self):
        """Return the data that the script of the page reads."""
        return {
            "images": self.images,
            "sizes": self.sizes,
            "image_of": self.image_of.tolist(),
            "contours": self.contours,
            "projections": self.projections,
        }


def encode(array):
    """Encode an array of uint8 as WebP in base64."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "WEBP", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def contour_path(mask):
    """Write the outline of a mask as an SVG path.

    Parameters
    ----------
    mask : ndarray of shape (height, width), float
        Covered share of each pixel.

    Returns
    -------
    str
        Path in tenths of a pixel, empty for an empty mask.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._html_rows import contour_path
    >>> contour_path(np.ones((1, 2)))
    'M+0+5l+5-5+10+0+5+5-5+5-10+0-5-5z'
    """
    # The outline has the center of the first pixel at 0, half a pixel from the border.
    return "".join(_line_path(_thin(line) + 0.5) for line in trace_outline(mask))


def _thin(line):
    """Drop points near the line between their neighbors; the line moves by half a pixel at most."""
    for _ in range(_PASSES):
        if len(line) < _LEAST_POINTS:
            break
        before, point, after = line[0:-2:2], line[1:-1:2], line[2::2]
        along, aside = after - before, point - before
        area = np.abs(along[:, 0] * aside[:, 1] - along[:, 1] * aside[:, 0])
        is_near = area <= _TOLERANCE * np.hypot(*along.T)
        line = np.delete(line, 1 + 2 * np.flatnonzero(is_near), axis=0)
    return line


def _line_path(points):
    """Write points (x, y) as relative steps, which are shorter."""
    points = np.rint(points * _SCALE).astype(int)
    steps = np.diff(points, axis=0)
    steps = steps[steps.any(axis=1)].tolist()
    text = "".join([f"{x:+d}{y:+d}" for x, y in steps])
    return f"M{points[0, 0]:+d}{points[0, 1]:+d}l{text}z" if text else ""


def projection_picture(probabilities):
    """Encode a projection as brightness, as WebP in base64."""
    bright = _FLOOR + (1 - _FLOOR) * np.clip(np.nan_to_num(probabilities), 0, 1)
    return encode(np.rint(255 * bright).astype(np.uint8))


def draw_rows(samples, rows, thumbnail_size, project=None, *, crop=False, bar):
    """Draw the pictures of rows, and decode each image once.

    Parameters
    ----------
    samples : DataFrame
        The table of samples.
    rows : ndarray of int
        Positions of the rows.
    thumbnail_size : int
        Longer side in pixels.
    project : callable, default=None
        Function of a table and the positions of its rows, which returns probabilities.
    crop : bool, default=False
        Whether each row has its own image, which shows the surroundings of its mask.
    bar : tqdm
        Progress bar over rows.

    Returns
    -------
    Pictures

    Raises
    ------
    FileNotFoundError, ValueError
        If an image or a mask cannot be read, or their sizes differ. The message names the row.
    """
    table = part_of(samples, rows)
    pictures = Pictures(
        image_of=np.empty(len(rows), dtype=int),
        contours=[""] * len(rows),
        projections=[None] * len(rows),
        iou=np.full(len(rows), np.nan),
    )
    for groups in _batches(group_by_image(table)):
        drawn = {}
        for group in groups:
            drawn |= _draw_image(pictures, table, group, thumbnail_size, crop)
        if project is not None:
            _draw_projections(pictures, table, rows, drawn, project)
        bar.update(len(drawn))
    return pictures


def _batches(groups):
    """Collect groups of rows that share an image into batches."""
    batch = []
    for group in groups:
        batch.append(group)
        if sum(map(len, batch)) >= _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _draw_image(pictures, table, group, size, crop):
    """Draw an image and the contours of its rows, and return {row: (mask, tile)}."""
    image, masks = read_rows(table, group)
    tiles = [make_tile(image, mask, size=size, crop=crop) for mask in masks]
    for i, tile in zip(group, tiles, strict=True):
        if crop or i == group[0]:
            pictures.images.append(encode(tile.image))
            pictures.sizes.append(list(tile.mask.shape[::-1]))
        pictures.image_of[i] = len(pictures.images) - 1
        pictures.contours[i] = contour_path(tile.mask)
    return dict(zip(group.tolist(), zip(masks, tiles, strict=True), strict=True))


def _draw_projections(pictures, table, rows, drawn, project):
    """Draw the projections of rows and compute their IoU."""
    positions = list(drawn)
    projections = project(table.iloc[positions], rows[positions])
    for i, probabilities in zip(positions, projections, strict=True):
        if probabilities is None:
            continue
        mask, tile = drawn[i]
        pictures.projections[i] = projection_picture(tile.shrink(probabilities))
        if mask.any():
            pictures.iou[i] = intersection_over_union(probabilities > 0.5, mask)
