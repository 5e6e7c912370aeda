"""Crop images around small objects, and paste results into whole images."""

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
    """Return start and length of an interval around ``places``, moved into [0, limit)."""
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
    """Write an image without loss. Its name is a digest of its content."""
    content = f"{image.shape}:".encode() + image.tobytes()
    path = Path(folder) / f"{xxh3_128(content).hexdigest()}.png"
    Image.fromarray(image).save(path)
    return str(path)


def _crop_row(image, mask, box, folder):
    """Return image, mask, box and size of the image, in the order of the columns."""
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
    """Crop the image and mask of each row around the concept.

    A small object covers few cells of a layer, too few to optimize a vector. A crop covers many
    cells if ``preprocess`` starts with a resize that enlarges it.

    Parameters
    ----------
    samples : DataFrame or list of (image, mask) pairs
        The table of samples. Rows of single instances (``merge_instances=False`` of the loaders)
        benefit most, because a box around all instances of a concept often covers the whole image.
    margin : float, default=1.0
        Margin on each side, in heights and widths of the bounding box of the mask.
    min_size : int, default=64
        Minimum length of each side of a crop in pixels.
    aspect_ratio : float, default=None
        Width divided by height of the crops, so that a resize to this shape does not distort them.
        ``None`` uses the aspect ratio of the image.
    folder : str or path, default=None
        Folder for crops as PNG files, named by their content. It is created if necessary. The table
        then has their paths, and one image is in memory at a time. ``None`` keeps the crops in the
        table as arrays.

    Returns
    -------
    DataFrame
        The same rows with the same index and columns. ``image`` and ``mask`` contain the crop, with
        the mask as COCO run-length encoding. Other columns do not change, so ``area`` is still the
        share of the whole image. The new columns are in pixels of the whole image, with its EXIF
        orientation applied:

        - ``crop_top``, ``crop_left``, ``crop_height``, ``crop_width``: the box;
        - ``image_height``, ``image_width``: the size of the whole image.

    Raises
    ------
    ValueError
        If the table has crops already, a mask is empty, or an image or a mask cannot be read. The
        message names the rows.
    FileNotFoundError
        If a file is missing.
    InvalidParameterError
        If a parameter is out of range.

    See Also
    --------
    paste_crops : Paste projections of crops into the whole images.

    Notes
    -----
    A box lies within its image. At a border, it is moved, not clipped. A box that is larger than
    the image is reduced to the size of the image, and then has another aspect ratio. The whole mask
    is inside its crop. So an IoU on crops equals the IoU on whole images if everything outside the
    crop counts as background.

    Use crops to project onto small objects, not to find objects or to compare layers. The box comes
    from the mask, and a small crop contains few other things. So the projection matches nearly any
    shape, with or without an object. In crops, all objects have a similar size and little context.
    Compare vectors of crops with vectors of crops only. For vectors that describe the concept,
    enlarge whole images by ``preprocess`` instead.

    Every crop needs its own forward pass, also if several rows share an image.

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
            f"The table has the columns {taken} of a table of crops. Crop the table of whole "
            "images, or rename these columns."
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
    """Paste projections of crops into the whole images.

    Parameters
    ----------
    maps : list or Series of ndarray of shape (crop_height, crop_width) or None
        One map per row, such as the projections of ``LoCETransformer.project``. ``None`` is the
        projection of a row that failed.
    crops : DataFrame
        A result of ``crop_samples``, or rows of it.

    Returns
    -------
    list of ndarray of shape (image_height, image_width) or None
        Maps of whole images in the dtype of the crops, with 0 or False outside the crop.

    Raises
    ------
    ValueError
        If a column is missing, the numbers of maps and rows differ, or a map and its crop differ
        in size.

    See Also
    --------
    crop_samples : Make the table of crops.
    sklearn_loce.LoCETransformer.project : Project vectors onto the crops.

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
        raise ValueError(f"The table lacks the columns {missing} of crop_samples.")
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
