"""What the concept map in the browser shows of each row: image, contour, projection and IoU."""

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .._masks import intersection_over_union, resize_masks
from .._samples import group_by_image, part_of, read_rows

QUALITY = 70  # of WebP, where artefacts begin to show at twice the size
_FLOOR = 0.25  # brightness at probability 0, so that the surroundings stay visible
_SCALE = 10  # units of a contour per pixel of the thumbnail
_ROWS_AT_ONCE = 64  # projections at the images' size that are in memory together


@dataclass
class Pictures:
    """Pictures of rows, as text that a page can hold.

    Parameters
    ----------
    images : list of str
        Thumbnail of each image, base64 of WebP.
    sizes : list of [int, int]
        Width and height of each thumbnail in pixels.
    image_of : ndarray of shape (n_rows,), int
        Which image each row is of.
    contours : list of str
        Outline of each row's mask, as the path of an SVG in tenths of a pixel.
    projections : list of str or None
        Brightness by probability of each row, base64 of WebP.
    iou : ndarray of shape (n_rows,), float64
        IoU of projection > 0.5 and mask; NaN where there is no projection.
    """

    images: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    image_of: np.ndarray = None
    contours: list = None
    projections: list = None
    iou: np.ndarray = None

    def as_payload(self):
        """Give what the page's script reads."""
        return {
            "images": self.images,
            "sizes": self.sizes,
            "image_of": self.image_of.tolist(),
            "contours": self.contours,
            "projections": self.projections,
        }


def encode(array):
    """Give the base64 text of an array of uint8 as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "WEBP", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def fit_within(size, longest):
    """Give (height, width) of an image that is shrunk to a longest side; it is never enlarged."""
    share = min(1.0, longest / max(size))
    return tuple(max(1, round(n * share)) for n in size)


def shrink(image, size):
    """Resize an image of uint8 to (height, width)."""
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS))


def contour_path(mask, size):
    """Outline a mask at the size of its thumbnail.

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool
    size : tuple of int
        (height, width) of the thumbnail.

    Returns
    -------
    str
        Path of an SVG, in tenths of a pixel of the thumbnail; empty for an empty mask. A mask that
        is smaller than a pixel still has an outline.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._html_rows import contour_path
    >>> mask = np.zeros((4, 4), dtype=bool)
    >>> mask[1:3, 1:3] = True
    >>> contour_path(mask, (4, 4)).count("M")
    1
    """
    from contourpy import contour_generator

    soft = np.pad(resize_masks([mask], size, "area")[0], 1)
    level = min(0.5, soft.max() / 2)
    if level == 0:
        return ""
    lines = contour_generator(z=soft).lines(level)
    return "".join(_line_path(np.rint((line - 0.5) * _SCALE).astype(int)) for line in lines)


def _line_path(points):
    """Write points (x, y) as steps, which are short."""
    steps = np.diff(points, axis=0)
    steps = steps[steps.any(axis=1)]
    text = "".join(f"{x:+d}{y:+d}" for x, y in steps)
    return f"M{points[0, 0]} {points[0, 1]}l{text}z" if text else ""


def projection_picture(probabilities, size):
    """Light up what a projection covers, at (height, width), as base64 of WebP."""
    small = Image.fromarray(probabilities.astype(np.float32)).resize(
        size[::-1], Image.Resampling.BOX
    )
    bright = _FLOOR + (1 - _FLOOR) * np.clip(np.asarray(small), 0, 1)
    return encode(np.rint(255 * bright).astype(np.uint8))


def draw_rows(samples, rows, thumbnail_size, project=None):
    """Draw the pictures of rows; every image is decoded once for all its rows.

    Parameters
    ----------
    samples : DataFrame
        The table of samples.
    rows : ndarray of int
        Positions of the rows to draw.
    thumbnail_size : int
        Longest side in pixels.
    project : callable, default=None
        Takes a table and the positions of its rows in `samples`, gives their probabilities.

    Returns
    -------
    Pictures

    Raises
    ------
    FileNotFoundError, ValueError
        If an image or a mask can't be read, or their sizes differ. The message names the row.
    """
    table = part_of(samples, rows)
    pictures = Pictures(
        image_of=np.empty(len(rows), dtype=int),
        contours=[""] * len(rows),
        projections=[None] * len(rows),
        iou=np.full(len(rows), np.nan),
    )
    for groups in _batches(group_by_image(table)):
        masks = {}
        for group in groups:
            masks |= _draw_image(pictures, table, group, thumbnail_size)
        if project is not None:
            _draw_projections(pictures, table, rows, masks, project)
    return pictures


def _batches(groups):
    """Put whole images together until there are enough rows."""
    batch = []
    for group in groups:
        batch.append(group)
        if sum(map(len, batch)) >= _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _draw_image(pictures, table, group, longest):
    """Draw an image and its rows' contours; give {row: mask}."""
    image, masks = read_rows(table, group)
    size = fit_within(image.shape[:2], longest)
    pictures.image_of[group] = len(pictures.images)
    pictures.images.append(encode(shrink(image, size)))
    pictures.sizes.append([size[1], size[0]])
    for i, mask in zip(group, masks, strict=True):
        pictures.contours[i] = contour_path(mask, size)
    return dict(zip(group.tolist(), masks, strict=True))


def _draw_projections(pictures, table, rows, masks, project):
    drawn = list(masks)
    for i, probabilities in zip(
        drawn, project(table.iloc[drawn], np.asarray(rows)[drawn]), strict=True
    ):
        if probabilities is None:
            continue
        width, height = pictures.sizes[pictures.image_of[i]]
        # Activations are coarse: half the thumbnail's size shows all there is.
        size = (max(1, height // 2), max(1, width // 2))
        pictures.projections[i] = projection_picture(probabilities, size)
        if masks[i].any():
            pictures.iou[i] = intersection_over_union(probabilities > 0.5, masks[i])
