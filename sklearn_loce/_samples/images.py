"""Read the images of the table of samples as RGB, from files, PIL images and arrays."""

import os
import stat
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps

from .._warnings import warn_user

PATH = (str, os.PathLike)
# Errors of Pillow for damaged files, collected from all of its decoders.
READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    AssertionError,  # from a closed image of Pillow
    OverflowError,
    RuntimeError,  # from AVIF files
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # if warnings are errors
)
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # values of the tag that swap width and height
_PROGRAMS = ("EPS",)  # formats that Pillow reads by running an interpreter on them
_BITS_PER_SAMPLE = 258  # the TIFF tag


def check_is_file(path):
    """Raise an error for a pipe or device, because opening it could wait forever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is a folder, pipe, socket or device, not a file")


@contextmanager
def open_image(path):
    """Open an image file as a PIL image; Pillow decodes the pixels on demand."""
    check_is_file(path)
    with Image.open(path) as image:
        if image.format in _PROGRAMS:
            raise ValueError("PostScript is a program, not pixels; save it as PNG")
        yield image


def read_image(image):
    """Read a file, PIL image or array as RGB, an array (height, width, 3) of uint8.

    Gray images become three equal channels. An alpha channel is dropped, 16-bit values are scaled
    to 8 bits, and an EXIF orientation is applied. A TIFF file contains the number of bits. For
    other images that use at most 12 of 16 bits, you get a warning.
    """
    if isinstance(image, PATH):
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


def _pil_to_rgb(image):
    n_bits, is_cut = _count_bits(image), _is_cut_to_bytes(image)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known scale; save the image as 8 or 16 bit")
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError("integer pixels must be in [0, 65535]")
        return _array_to_rgb(array.astype(np.uint16), n_bits)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    rgb = np.asarray(image.convert("RGB"))
    if is_cut:
        _warn_if_dark(int(rgb.max()) << 8 | 255)
    return rgb


def _count_bits(image):
    """Return the number of bits of the pixels of a TIFF. Pillow unpacks 12 bits to 16."""
    return min(16, *getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,)))


def _is_cut_to_bytes(image):
    """Return whether Pillow drops the lower 8 of 16 bits, as for colors in a file."""
    tiles = getattr(image, "tile", ())
    return not image.mode.startswith("I") and any(";16" in str(tile[3]) for tile in tiles)


def _warn_if_dark(largest):
    n_bits = int(largest).bit_length()
    if 0 < n_bits <= 12:
        warn_user(
            f"A 16-bit image uses only the lower {n_bits} bits, so it is read as nearly black. If "
            f"its values have {n_bits} bits, scale them first: image * {2 ** (16 - n_bits)}."
        )


def _array_to_rgb(array, n_bits=16):
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        if n_bits == 16:
            _warn_if_dark(array.max(initial=0))
        # 65535 becomes 255, and halves are rounded up.
        largest = 2**n_bits - 1
        array = ((array.astype(np.uint32) * 255 + largest // 2 + 1) // largest).astype(np.uint8)
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


def size_of_image(image):
    """Return (height, width) of an image, mostly without decoding pixels."""
    if isinstance(image, PATH):
        with open_image(image) as opened:
            return size_of_image(opened)
    if isinstance(image, Image.Image) and image.getexif().get(_ORIENTATION) not in _TURNED:
        return image.size[::-1]
    # For some formats, Pillow applies the orientation to the size itself. Only pixels are reliable.
    return read_image(image).shape[:2]
