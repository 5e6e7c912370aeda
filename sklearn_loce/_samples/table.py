"""The table of samples, with one row per image-concept pair, read on demand."""

import os
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pandas as pd
import xxhash
from PIL import UnidentifiedImageError

from .._validation import as_pandas
from .images import PATH, READ_ERRORS, read_image, size_of_image
from .masks import empty_rle, has_foreground, read_mask, size_of_mask

_SHOWN = 5
ANNOTATION = "annotation_id"  # column of the loaders with the ids of the source
POSITION = "__position__"  # position of a row in the table before a part was selected
_NAN_FOR_EMPTY = ", or set on_empty='nan' to get vectors of NaN for them, which score ignores"


def as_samples(X):
    """Convert a table or a sequence of pairs to a DataFrame with ``image`` and ``mask``."""
    X = as_pandas(X)
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
        hint = " Pass X.to_pandas()." if hasattr(pairs, "to_pandas") else ""
        if isinstance(pairs, dict):
            is_table = {"image", "mask"} <= pairs.keys()
            hint = f" Did you mean {'pandas.DataFrame(X)' if is_table else 'its attribute data'}?"
        raise TypeError(
            "X must be a DataFrame of pandas or polars with the columns 'image' and 'mask', or a "
            f"list of (image, mask) pairs, got {type(pairs).__name__}.{hint}"
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
    """Return an array of objects, because NumPy would stack images of one size."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def absolute_paths(samples):
    """Return the table with absolute paths, for processes in other working directories."""
    here = os.getcwd()
    absolute = {
        name: object_array(
            [os.path.join(here, cell) if isinstance(cell, PATH) else cell for cell in samples[name]]
        )
        for name in ("image", "mask")
    }
    return samples.assign(**absolute)


def part_of(samples, rows):
    """Select rows with the necessary columns. Messages keep their original positions."""
    read = [name for name in ("image", "mask", ANNOTATION) if name in samples]
    return samples[read].iloc[rows].assign(**{POSITION: rows})


def row_name(samples, i):
    """Describe a row by position, by a different index label, and by its annotations."""
    (label,) = samples.index[i : i + 1].tolist()  # numbers of Python, not of NumPy
    position = int(samples[POSITION].iloc[i]) if POSITION in samples else i
    is_position = isinstance(label, Integral) and label == position
    known = [] if is_position else [f"index {label!r}"]
    if ANNOTATION in samples:
        known += _name_annotations(samples[ANNOTATION].iloc[i])
    return f"row {position} ({', '.join(known)})" if known else f"row {position}"


def _name_annotations(cell):
    ids = [value for value in cell_values(cell) if not is_missing(value)]
    names = [repr(value) if isinstance(value, str) else str(value) for value in ids[:_SHOWN]]
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return [f"annotation{'s' * (len(ids) > 1)} {', '.join(names)}{more}"] if ids else []


def cell_values(cell):
    """Return the values of a cell as a tuple, with one value per merged instance."""
    if isinstance(cell, np.ndarray):  # a tuple after a round trip by parquet
        cell = cell.tolist()
    return tuple(cell) if isinstance(cell, tuple | list) else (cell,)


def is_missing(value):
    """Return whether a value is missing, such as None or NaN. A list is not missing."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def image_key(image):
    """Return a key that is equal for cells with the same image."""
    if isinstance(image, PATH):
        return os.fspath(image)
    array = np.ascontiguousarray(np.asarray(image))
    digest = xxhash.xxh3_128(array.reshape(-1).view(np.uint8))
    return f"{type(image).__name__}:{array.shape}:{array.dtype}:{digest.hexdigest()}"


def group_by_image(samples):
    """Return the row numbers of each image, images in the order of their first rows."""
    # All rows of an image usually share one object, whose pixels are hashed once. The list keeps
    # the objects alive, so ids are unique.
    images, keys, groups = samples["image"].tolist(), {}, {}
    for i, image in enumerate(images):
        if id(image) not in keys:
            try:
                keys[id(image)] = image_key(image)
            except READ_ERRORS:  # examine_rows reports the error
                keys[id(image)] = i
        groups.setdefault(keys[id(image)], []).append(i)
    return list(map(np.array, groups.values()))


def _read_cell(read, samples, i, what):
    """Read the image or the mask of row ``i``. Errors name the row and the file."""
    value = samples[what].iloc[i]
    try:
        return read(value)
    except READ_ERRORS as error:
        kind, problem = ValueError, f"can't be read: {error or type(error).__name__}"
        if isinstance(error, FileNotFoundError):
            kind, problem = FileNotFoundError, "does not exist"
        elif isinstance(error, UnidentifiedImageError):
            problem = "is not an image that Pillow can read"
        message = f"{row_name(samples, i)}: the {what}{_file_of(value)} {problem}"
        raise kind(message.rstrip(".")) from error


def _file_of(value):
    return f" {os.fspath(value)!r}" if isinstance(value, PATH) else ""


def read_sample_image(samples, i):
    """Read the image of row ``i``. Errors name the row and the file."""
    return _read_cell(read_image, samples, i, "image")


def read_sample_mask(samples, i, image_size, read=read_mask):
    """Read the mask of row ``i``. Raise an error if its size differs from ``image_size``."""
    size = _read_cell(size_of_mask, samples, i, "mask")
    if tuple(size) != tuple(image_size):
        image, mask = samples["image"].iloc[i], samples["mask"].iloc[i]
        raise ValueError(
            f"{row_name(samples, i)}: the mask{_file_of(mask)} is {size[0]} x {size[1]}, but the "
            f"image{_file_of(image)} is {image_size[0]} x {image_size[1]} "
            "(height x width, EXIF orientation applied)"
        )
    return _read_cell(read, samples, i, "mask")


def read_rows(samples, rows):
    """Read the common image of rows, and their masks (n_rows, height, width)."""
    image = read_sample_image(samples, rows[0])
    return image, np.stack([read_sample_mask(samples, i, image.shape[:2]) for i in rows])


def examine_rows(samples, groups):
    """Check images and masks, mostly without decoding them.

    Return which masks have foreground (False for invalid ones), and a dict of exceptions by invalid
    row. The rows of an invalid image share an exception.
    """
    problems, found = {}, np.zeros(len(samples), dtype=bool)
    for rows in groups:
        try:
            size = _read_cell(size_of_image, samples, rows[0], "image")
        except (OSError, ValueError) as error:
            problems.update(dict.fromkeys(map(int, rows), error))
            continue
        for i in rows:
            try:
                found[i] = read_sample_mask(samples, i, size, has_foreground)
            except (OSError, ValueError) as error:
                problems[int(i)] = error
    return found, problems


def check_rows(samples, groups):
    """Raise the errors of ``examine_rows``, and return which masks have foreground."""
    found, problems = examine_rows(samples, groups)
    raise_problems(problems)
    return found


def raise_problems(problems):
    """Raise the errors of ``examine_rows``, if there are any."""
    if problems:
        first = next(iter(problems.values()))
        raise type(first)(f"{enumerate_messages(problems.values())}.") from first


def raise_empty(samples, rows, remedy=_NAN_FOR_EMPTY):
    """Raise an error for rows with empty masks. ``remedy`` is an alternative to omitting them."""
    if len(rows):
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        names = ", ".join(row_name(samples, i) for i in rows[:_SHOWN])
        raise ValueError(
            f"The masks of {names}{more} have no foreground. Leave these rows out{remedy}."
        )


def enumerate_messages(messages):
    """Join up to five distinct messages."""
    messages = list(dict.fromkeys(str(message).rstrip(".") for message in messages))
    more = f"; and {len(messages) - _SHOWN} more" if len(messages) > _SHOWN else ""
    return "; ".join(messages[:_SHOWN]) + more


def blank_masks(samples):
    """Return an empty mask per row in the size of its image, for work without masks."""
    masks = np.empty(len(samples), dtype=object)
    for rows in group_by_image(samples):
        size = _read_cell(size_of_image, samples, rows[0], "image")
        masks[rows] = empty_rle(size)
    return masks
