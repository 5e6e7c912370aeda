"""Crops around small objects, so that these fill more cells of a layer, and the way back."""

import os
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.utils._param_validation import Interval, validate_params
from xxhash import xxh3_128

from .._samples.table import (
    as_samples,
    check_rows,
    group_by_image,
    object_array,
    raise_empty,
    read_rows,
)
from .._validation import match_rows
from ._table import encode

_BOX = ("crop_top", "crop_left", "crop_height", "crop_width")
_SIZE = ("image_height", "image_width")


def _interval(places, length, limit):
    """Return start and length of an interval around ``places``, moved to lie in [0, limit)."""
    length = min(round(length), limit)
    start = (places[0] + places[-1] + 1 - length) // 2
    return int(np.clip(start, 0, limit - length)), length


def _box_around(mask, margin, min_size, aspect_ratio):
    """Return top, left, height and width of the crop around a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = (
        max((places[-1] + 1 - places[0]) * (1 + 2 * margin), min_size) for places in (rows, columns)
    )
    if aspect_ratio is None:
        aspect_ratio = mask.shape[1] / mask.shape[0]
    height, width = max(height, width / aspect_ratio), max(width, height * aspect_ratio)
    top, height = _interval(rows, height, mask.shape[0])
    left, width = _interval(columns, width, mask.shape[1])
    return top, left, height, width


def _write(image, folder):
    """Write an image without loss, under a name that tells its content."""
    content = f"{image.shape}:".encode() + image.tobytes()
    path = Path(folder) / f"{xxh3_128(content).hexdigest()}.png"
    Image.fromarray(image).save(path)
    return str(path)


def _crop_row(image, mask, box, folder):
    """Return image, mask, box and the image's size, as the columns have them."""
    top, left, height, width = box
    window = np.s_[top : top + height, left : left + width]
    crop = image[window].copy()  # a view would keep the whole image in memory
    return crop if folder is None else _write(crop, folder), encode(mask[window]), *box, *mask.shape


@validate_params(
    {
        "samples": [pd.DataFrame, "array-like"],
        "margin": [Interval(Real, 0, None, closed="left")],
        "min_size": [Interval(Integral, 1, None, closed="left")],
        "aspect_ratio": [None, Interval(Real, 0, None, closed="neither")],
        "folder": [None, str, os.PathLike],
    },
    prefer_skip_nested_validation=True,
)
def crop_samples(samples, *, margin=1.0, min_size=64, aspect_ratio=None, folder=None):
    """Cut each row's image and mask down to the surroundings of the concept.

    An object that covers a few cells of a layer leaves little to fit a filter to. Shown to the
    network alone and enlarged, by a ``preprocess`` that begins with a resize, it covers many.

    Parameters
    ----------
    samples : DataFrame or list of (image, mask) pairs
        The table of samples. Rows of single instances (``merge_instances=False`` of the loaders)
        profit most: a box around all instances of a concept is often the whole image.
    margin : float, default=1.0
        How much of the surroundings is kept on each side, in heights and widths of the mask's
        bounding box.
    min_size : int, default=64
        Pixels that each side of a crop has at least.
    aspect_ratio : float, default=None
        Width by height to which crops are widened, so that a resize to that shape does not distort
        them; ``None`` means that of the row's image.
    folder : str or path, default=None
        Where crops are written to as PNG files, named by their content; it is made if it is not
        there. The table then holds their paths, and images are in memory one at a time. ``None``
        keeps the crops in the table as arrays.

    Returns
    -------
    DataFrame
        The same rows with the same index and columns, of which ``image`` and ``mask`` are the
        crop's, the mask as COCO run-length encoding. Further columns are kept as they are, such as
        ``area``, which remains the share of the whole image. In pixels of the whole image, with
        its EXIF orientation applied, there come besides

        - ``crop_top``, ``crop_left``, ``crop_height``, ``crop_width``: the box;
        - ``image_height``, ``image_width``: the size of the whole.

    Raises
    ------
    ValueError
        If the table holds crops already, a mask is empty, or an image or a mask cannot be read. The
        message names the rows.
    FileNotFoundError
        If a file is missing.
    InvalidParameterError
        If a parameter is out of range.

    See Also
    --------
    paste_crops : Puts what was drawn on crops back into the whole images.

    Notes
    -----
    A box lies within its image: it is moved, not cut, at the borders, and is as large as the image
    where it would be larger; the aspect ratio then gives way. The whole mask is in its crop, so
    that an IoU on crops is the IoU on whole images of which all else counts as background.

    Crops are for redrawing small objects, not for finding them or for judging a layer: the box
    comes from the mask, and in a small crop there is little else to be told apart, so that nearly
    any shape is redrawn well, whether an object is there or not. Vectors of crops see all objects
    at about one size and with little around them, and are to be compared with vectors of crops
    only. Where a vector is to tell of the concept, enlarge whole images by ``preprocess`` first.

    Every row is an image of its own, which the network has to pass: the saving of one forward pass
    for all rows of an image is lost.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.datasets import crop_samples
    >>> image = np.zeros((90, 120, 3), dtype=np.uint8)
    >>> mask = np.zeros((90, 120), dtype=bool)
    >>> mask[40:44, 110:112] = True
    >>> crops = crop_samples([(image, mask)], min_size=30)
    >>> crops["image"].iloc[0].shape
    (30, 40, 3)
    >>> crops[["crop_top", "crop_left"]]
       crop_top  crop_left
    0        27         80
    """
    samples = as_samples(samples)
    taken = [name for name in (*_BOX, *_SIZE) if name in samples]
    if taken:
        raise ValueError(
            f"The table has the columns {taken}, as one of crops has. Crop the table of whole "
            "images, or rename them."
        )
    groups = group_by_image(samples)
    raise_empty(samples, np.flatnonzero(~check_rows(samples, groups)), remedy="")
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    cut = [None] * len(samples)
    for rows in groups:
        image, masks = read_rows(samples, rows)
        for i, mask in zip(rows, masks, strict=True):
            box = _box_around(mask, margin, min_size, aspect_ratio)
            cut[i] = _crop_row(image, mask, box, folder)
    images, masks, *places = zip(*cut, strict=True)
    named = dict(zip((*_BOX, *_SIZE), places, strict=True))
    return samples.assign(image=object_array(images), mask=object_array(masks), **named)


def paste_crops(maps, crops):
    """Put what was drawn on crops back into the whole images.

    Parameters
    ----------
    maps : list or Series of ndarray of shape (crop_height, crop_width) or None
        One per row, such as the projections that ``LoCETransformer.project`` gives for the crops;
        ``None`` stands for a row that failed.
    crops : DataFrame
        The table that ``crop_samples`` gave, or rows of it.

    Returns
    -------
    list of ndarray of shape (image_height, image_width) or None
        In the dtype of the maps; outside of the crop it is 0 or False.

    Raises
    ------
    ValueError
        If a column is missing, the numbers of maps and rows differ, or a map is not of its crop's
        size.

    See Also
    --------
    crop_samples : Makes the table of crops.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.datasets import crop_samples, paste_crops
    >>> mask = np.zeros((90, 120), dtype=bool)
    >>> mask[40:44, 110:112] = True
    >>> crops = crop_samples([(np.zeros((90, 120, 3), dtype=np.uint8), mask)], min_size=30)
    >>> [whole] = paste_crops([np.ones((30, 40), dtype=bool)], crops)
    >>> whole.shape, int(whole.sum())
    ((90, 120), 1200)
    """
    maps, crops = match_rows(maps=maps, crops=crops)
    missing = [name for name in (*_BOX, *_SIZE) if name not in crops]
    if missing:
        raise ValueError(f"The table lacks the columns {missing} that crop_samples gives.")
    if len(maps) != len(crops):
        raise ValueError(f"Got {len(maps)} maps, but the table of crops has {len(crops)} rows.")
    places = crops[[*_BOX, *_SIZE]].itertuples(index=False, name=None)
    return [_paste(*pair, i) for i, pair in enumerate(zip(maps, places, strict=True))]


def _paste(part, place, i):
    if part is None:
        return None
    top, left, height, width, *size = place
    part = np.asarray(part)
    if part.shape != (height, width):
        raise ValueError(f"Map {i} is of shape {part.shape}, but its crop is {height} x {width}.")
    whole = np.zeros(size, dtype=part.dtype)
    whole[top : top + height, left : left + width] = part
    return whole
