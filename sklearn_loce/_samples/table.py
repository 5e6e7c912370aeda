"""The table of samples: one row per image-concept pair, read only when it is needed."""

import os
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pandas as pd
import xxhash
from PIL import Image, ImageOps, UnidentifiedImageError
from pycocotools import mask as coco_mask

from .masks import compress_rle, open_image, read_mask, rle_size

_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # its values that swap width and height
_SHOWN = 5
POSITION = "__position__"  # of a row in the table of which a part was cut out


def as_samples(X):
    """Bring X to a DataFrame with the columns ``image`` and ``mask``.

    Parameters
    ----------
    X : DataFrame or sequence of (image, mask) pairs

    Returns
    -------
    DataFrame
        X itself where it is one.

    Raises
    ------
    ValueError, TypeError
        If a column is missing, X is empty, or a row is no pair.
    """
    if not isinstance(X, pd.DataFrame):
        X = _frame_of_pairs(X)
    missing = {"image", "mask"} - set(X.columns)
    if missing:
        raise ValueError(
            f"The table of samples lacks the columns {sorted(missing)}; it has {list(X.columns)}."
        )
    if len(X) == 0:
        raise ValueError("Found a table with 0 sample(s) while a minimum of 1 is required.")
    return X


def _frame_of_pairs(pairs):
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Sequence | np.ndarray):
        hint = ""
        if isinstance(pairs, dict):
            is_table = {"image", "mask"} <= pairs.keys()
            hint = f" Did you mean {'pandas.DataFrame(X)' if is_table else 'its attribute data'}?"
        raise TypeError(
            "X must be a pandas DataFrame with the columns 'image' and 'mask', or a list of "
            f"(image, mask) pairs, got {type(pairs).__name__}.{hint}"
        )
    for i, pair in enumerate(pairs):
        is_row = isinstance(pair, np.ndarray) and pair.dtype == object
        if not (isinstance(pair, tuple | list) or is_row) or len(pair) != 2:
            length = f" of length {len(pair)}" if isinstance(pair, tuple | list) else ""
            raise TypeError(
                f"Row {i} of X must be an (image, mask) pair, got {type(pair).__name__}{length}. "
                "Pass [(image, mask)] for one pair, list(zip(images, masks)) for several, or a "
                "DataFrame with the columns 'image' and 'mask'."
            )
    images, masks = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return pd.DataFrame({"image": object_array(images), "mask": object_array(masks)})


def object_array(values):
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def row_name(samples, i):
    """Name a row by position, and by index label where that differs."""
    (label,) = samples.index[i : i + 1].tolist()  # numbers of Python's, not of NumPy's
    i = int(samples[POSITION].iloc[i]) if POSITION in samples else i
    is_position = isinstance(label, Integral) and label == i
    return f"row {i}" if is_position else f"row {i} (index {label!r})"


def part_of(samples, rows):
    """Cut rows out of a table, with the columns that are read; messages name them as before."""
    return samples.iloc[rows][["image", "mask"]].assign(**{POSITION: rows})


def _is_path(value):
    return isinstance(value, str | os.PathLike)


def image_key(image):
    """Give a key that two cells of the column ``image`` share when they hold the same image."""
    if _is_path(image):
        return os.fspath(image)
    array = np.ascontiguousarray(np.asarray(image))
    digest = xxhash.xxh3_128(array.reshape(-1).view(np.uint8))
    return f"{type(image).__name__}:{array.shape}:{array.dtype}:{digest.hexdigest()}"


def _key_or_own(image, i):
    try:
        return image_key(image)
    except READ_ERRORS:
        return f"unreadable:{i}"  # examine_rows will say so


def group_by_image(samples):
    """Give the row numbers of each image, images in the order of their first rows."""
    images = list(samples["image"])
    # One object usually serves all rows of an image: hash its pixels once. The list keeps the
    # objects alive, so that no two have the same id.
    first = {id(image): i for i, image in reversed(list(enumerate(images)))}
    key_of = {key: _key_or_own(images[i], i) for key, i in first.items()}
    codes, _ = pd.factorize(np.array([key_of[id(image)] for image in images], dtype=object))
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _sixteen_to_eight(array):
    """Scale 16-bit values so that 65535 becomes 255."""
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _pil_to_rgb(image):
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known scale; save the image as 8 or 16 bit")
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("integer pixels must be in [0, 65535]")
        return _array_to_rgb(array.astype(np.uint16))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _array_to_rgb(array):
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _sixteen_to_eight(array)
    if array.dtype != np.uint8:
        raise ValueError(
            f"pixels must be uint8 or uint16, got {array.dtype}; scale them first, as "
            "in (255 * image).round().astype('uint8')"
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; pass image.transpose(1, 2, 0)" if channels_first else ""
        raise ValueError(f"an image must be of shape (height, width, 3), got {array.shape}{hint}")
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]


def read_image(image):
    """Read an image as RGB.

    Grey images get three equal channels, an alpha channel is dropped, 16-bit values are scaled to
    8 bits, and an EXIF orientation is applied.

    Parameters
    ----------
    image : str, path, PIL image or ndarray of shape (height, width[, n_channels])

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    if _is_path(image):
        with open_image(image) as opened:
            return _pil_to_rgb(opened)
    if isinstance(image, Image.Image):
        return _pil_to_rgb(image)
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    hint = "; of a tensor, pass image.permute(1, 2, 0).numpy()" if hasattr(image, "permute") else ""
    raise ValueError(
        "an image must be a path, a PIL image or an array of shape (height, width, 3), got "
        f"{type(image).__name__}{hint}"
    )


def size_of_image(image):
    """Give (height, width) without decoding the pixels."""
    if _is_path(image):
        with open_image(image) as opened:
            return size_of_image(opened)
    if isinstance(image, Image.Image):
        if image.getexif().get(_ORIENTATION) in _TURNED:
            # Pillow turns the size of some formats itself, so look at the pixels.
            return _pil_to_rgb(image).shape[:2]
        return image.size[::-1]
    return read_image(image).shape[:2]


def _mask_size(mask):
    """Give (height, width) of a mask without decoding it."""
    if isinstance(mask, dict):
        return rle_size(mask)
    if _is_path(mask):
        with open_image(mask) as opened:
            return opened.size[::-1]
    if isinstance(mask, Image.Image):
        return mask.size[::-1]
    shape = () if isinstance(mask, list) else np.shape(mask)
    return shape if len(shape) == 2 else read_mask(mask).shape


def _has_foreground(mask):
    if isinstance(mask, dict):
        return bool(coco_mask.area(compress_rle(mask)) > 0)
    return bool(read_mask(mask).any())


def _file_of(value):
    return f" {os.fspath(value)!r}" if _is_path(value) else ""


def _explain(error):
    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image that Pillow can read"
    return f"can't be read: {error or type(error).__name__}"


_NAN_FOR_EMPTY = ", or set on_empty='nan' to get vectors of NaN for them, which score ignores"

# What Pillow raises of damaged files; its decoders have found each of these.
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AssertionError,  # Pillow's, of a closed image
    OverflowError,
    RuntimeError,  # AVIF
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # where the user has made warnings errors
)


def _read_or_name(reader, value, what, samples, i):
    """Read a cell; a failure names the row and the file."""
    try:
        return reader(value)
    except READ_ERRORS as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        message = f"{row_name(samples, i)}: the {what}{_file_of(value)} {_explain(error)}"
        raise kind(message.rstrip(".")) from error


def _read_sized(reader, mask, samples, i, image_size):
    """Read a row's mask, unless its size already says that it belongs to another image."""
    _check_sizes(samples, i, _read_or_name(_mask_size, mask, "mask", samples, i), image_size)
    return _read_or_name(reader, mask, "mask", samples, i)


def _check_sizes(samples, i, size, image_size):
    if tuple(size) != tuple(image_size):
        mask = samples["mask"].iloc[i]
        raise ValueError(
            f"{row_name(samples, i)}: the mask{_file_of(mask)} is {size[0]} x {size[1]}, but the "
            f"image{_file_of(samples['image'].iloc[i])} is {image_size[0]} x {image_size[1]} "
            "(height x width, EXIF orientation applied)"
        )


def examine_rows(samples, groups):
    """Find what is wrong with images and masks before any pixel is decoded.

    Returns
    -------
    has_foreground : ndarray of shape (n_rows,), bool
        Whether each mask has foreground; False where that can't be told.
    problems : dict of {int: Exception}
        By row, what is wrong; the rows of a broken image share an exception.
    """
    problems, has_foreground = {}, np.zeros(len(samples), dtype=bool)
    images, masks = samples["image"].tolist(), samples["mask"].tolist()
    for rows in groups:
        try:
            size = _read_or_name(size_of_image, images[rows[0]], "image", samples, rows[0])
        except (OSError, ValueError) as error:
            problems.update(dict.fromkeys(map(int, rows), error))
            continue
        for i in rows:
            try:
                has_foreground[i] = _read_sized(_has_foreground, masks[i], samples, i, size)
            except (OSError, ValueError) as error:
                problems[int(i)] = error
    return has_foreground, problems


def enumerate_messages(messages):
    """Put messages into one, five at most; equal ones count once."""
    messages = list(dict.fromkeys(str(message).rstrip(".") for message in messages))
    more = f"; and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return "; ".join(messages[:_SHOWN]) + more


def raise_problems(problems):
    """Raise what ``examine_rows`` found, if anything."""
    if problems:
        first = next(iter(problems.values()))
        raise type(first)(f"{enumerate_messages(problems.values())}.") from first


def raise_empty(samples, rows, remedy=_NAN_FOR_EMPTY):
    """Raise if there are rows whose masks are empty; ``remedy`` is another than to omit them."""
    if len(rows):
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        names = ", ".join(row_name(samples, i) for i in rows[:_SHOWN])
        raise ValueError(
            f"The masks of {names}{more} have no foreground. Leave these rows out{remedy}."
        )


def check_rows(samples, groups):
    """Raise what is wrong with images and masks before any pixel is decoded.

    Returns
    -------
    ndarray of shape (n_rows,), bool
        Whether each mask has foreground.

    Raises
    ------
    FileNotFoundError, ValueError
        Names up to five rows with what is wrong, and the number of the others.
    """
    has_foreground, problems = examine_rows(samples, groups)
    raise_problems(problems)
    return has_foreground


def blank_masks(samples):
    """Give every row an empty mask of its image's size, for work in which masks play no part.

    Returns
    -------
    ndarray of shape (n_rows,), object
        COCO run-length encodings, shared by the rows of an image.

    Raises
    ------
    FileNotFoundError, ValueError
        If an image can't be read; the message names its first row.
    """
    masks = np.empty(len(samples), dtype=object)
    for rows in group_by_image(samples):
        image = samples["image"].iloc[rows[0]]
        size = _read_or_name(size_of_image, image, "image", samples, rows[0])
        blank = compress_rle({"size": size, "counts": [size[0] * size[1]]})
        for i in rows:
            masks[i] = blank
    return masks


def read_rows(samples, rows):
    """Read the image that rows share, and their masks.

    Returns
    -------
    image : ndarray of shape (height, width, 3), uint8
    masks : ndarray of shape (n_rows, height, width), bool
    """
    first = samples["image"].iloc[rows[0]]
    image = _read_or_name(read_image, first, "image", samples, rows[0])
    masks = [
        _read_sized(read_mask, samples["mask"].iloc[i], samples, i, image.shape[:2]) for i in rows
    ]
    return image, np.stack(masks)
