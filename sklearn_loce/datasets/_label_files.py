"""Read files of labels, with the class id or the color of each pixel.

Label tools store ids as the indexes of a palette image. Lossless optimizers and GIF writers
preserve the colors of an image, but not its indexes: they remove unused colors and sort the others.
"""

import numpy as np
import pandas as pd
from PIL import ImageColor

from .._samples.images import READ_ERRORS, open_image
from .._warnings import warn_user

_NUMBERS = ("I", "I;16", "I;16B", "I;16L")
_COLORS = ("LA", "PA", "RGB", "RGBA")
# Pillow scales gray of 2 and 4 bits to the range of 8 bits, as in PNG.
_FACTORS = {"L;2": 85, "L;4": 17}
_WAY_OUT = "Pass the color of each concept: load_masks(..., palette={name: (r, g, b)})"


def distinct(labels):
    """Return the sorted distinct values of an image of labels, without sorting its pixels."""
    return np.sort(pd.unique(labels.ravel(order="K")))


def pack_color(color):
    """Pack a color into one integer: red in the lowest byte, then green and blue.

    Parameters
    ----------
    color : str or sequence of three ints
        A string of Pillow's ``ImageColor``, such as "#804080", or the three values.

    Raises
    ------
    ValueError
        If it is not a color, or has an alpha channel.
    """
    try:
        values = ImageColor.getrgb(color) if isinstance(color, str) else np.array(color).tolist()
        red, green, blue = map(bytes, zip(values))  # a byte each, or an error
        return int.from_bytes(red + green + blue, "little")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a color must be three integers in [0, 255] or a string as '#804080', got {color!r}"
        ) from error


def write_color(label):
    """Write a packed color as hexadecimal digits of red, green and blue."""
    return f"#{int(label).to_bytes(3, 'little').hex()}"


def _pack(colors):
    """Pack an array of red, green, blue and alpha, (..., 4)."""
    return colors.view("<u4")[..., 0] & 0xFFFFFF


def _make_voc_colors():
    """Pack the colors of VOC: the lowest bits of an id are the highest of red, green and blue."""
    ids = np.arange(256)
    colors = np.zeros((256, 4), dtype=np.uint8)
    for channel in range(3):
        for place in range(3):
            colors[:, channel] |= ((ids >> (3 * place + channel) & 1) << (7 - place)).astype("u1")
    return _pack(colors)


VOC_COLORS = _make_voc_colors()


def _raw_mode(arguments):
    """Return the mode of the pixels in a file, from the arguments of the decoder."""
    return arguments[0] if isinstance(arguments, tuple | list) and arguments else str(arguments)


def _load(path):
    """Return the decoded image, and the factor by which Pillow scales its numbers."""
    try:
        with open_image(path) as image:
            factors = [_FACTORS.get(_raw_mode(tile[3]), 1) for tile in image.tile]
            image.load()
            return image, max(factors, default=1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"The mask {path} does not exist.") from error
    except READ_ERRORS as error:
        raise ValueError(f"{path} can't be read as an image: {error}") from error


def _read_palette(image, path):
    """Return the packed colors of a palette image. Each index must have a color."""
    entries = np.reshape(image.getpalette(), (-1, 3))
    last = image.getextrema()[1]
    if last >= len(entries):
        raise ValueError(f"{path} uses entry {last} of a palette of {len(entries)} colors.")
    return _pack(np.pad(entries.astype(np.uint8), [(0, 0), (0, 1)]))


def _pack_pixels(image, path):
    if image.mode not in ("1", "L", "P", *_COLORS):
        raise ValueError(
            f"{path} is an image of mode {image.mode}, which is neither of ids (L, P or I) nor of "
            "colors (RGB)."
        )
    if image.mode == "P":
        _read_palette(image, path)
    pixels = np.array(image.convert("RGBA"))
    hidden = np.count_nonzero(pixels[..., 3] < 255)
    if hidden:
        raise ValueError(
            f"{path} has {hidden} transparent pixel(s), whose colors are unknown. Save it without "
            "transparency, as by image.convert('RGB')."
        )
    return np.asfortranarray(_pack(pixels))


def read_colors(path):
    """Read an image that codes classes by colors.

    Returns
    -------
    ndarray of shape (height, width), uint32
        Packed colors in column order, for run-length encoding.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, cannot be read, or has pixels without a color.
    """
    return _pack_pixels(_load(path)[0], path)


class IdReader:
    """Read images of ids, and restore ids that optimizers or GIF writers have changed.

    Parameters
    ----------
    known : set of int, or None
        The valid ids. ``None`` accepts any numbers of instances.
    standard : ndarray of packed colors, or None
        The color of each id, for a dataset with a fixed palette.
    """

    def __init__(self, known, standard=None):
        self.known = known
        self.standard = (
            None if standard is None else {c: i for i, c in enumerate(standard.tolist())}
        )
        self.class_palettes = set()
        self.doubtful = {}
        self.undone = []

    def read(self, path):
        """Read one image.

        Returns
        -------
        ndarray of shape (height, width)
            Integers in column order, for run-length encoding.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, cannot be read, shows colors, or may be read in two ways.
        """
        image, factor = _load(path)
        if image.mode in _NUMBERS:
            return np.array(image, order="F")
        if image.mode == "P":
            return self._read_indexes(image, path)
        if image.mode not in ("1", "L"):
            return self._read_shown(image, path)
        pixels = np.array(image, dtype=np.uint8, order="F")
        used = distinct(pixels)
        # An optimizer has reduced 0 and 255 to one bit. Other tools store ids directly.
        other = used.astype(int) * 255 if image.mode == "1" else used // factor
        return self._choose(pixels, used, other, path)

    def finish(self):
        """Raise an error if ids are still uncertain, and warn of restored ids."""
        for palette, paths in self.doubtful.items():
            if palette not in self.class_palettes:
                _raise_doubt(paths, palette)
        if self.undone:
            warn_user(
                f"{len(self.undone)} mask(s) store indexes that differ from their colors, as after "
                "an optimizer or a GIF writer. The ids that have names are used: "
                f"{_enumerate(self.undone)}."
            )

    def _fits(self, ids):
        return self.known is None or self.known.issuperset(ids.tolist())

    def _choose(self, pixels, used, other, path):
        """Choose between stored and other numbers, by their names."""
        if np.array_equal(used, other) or not self._fits(other) or self.known is None:
            return pixels
        if self._fits(used):
            raise ValueError(
                f"{path} may have the ids {used.tolist()} or {other.tolist()}: its indexes and its "
                f"colors differ, and both have names. {_WAY_OUT}."
            )
        return self._replace(pixels, used, other, path)

    def _replace(self, pixels, used, ids, path):
        self.undone.append(path)
        table = np.zeros(256, dtype=ids.dtype)
        table[used] = ids
        return np.asfortranarray(table[pixels])

    def _decode(self, colors):
        """Return the ids that the colors determine, or None."""
        if self.standard is not None and self.standard.keys() >= set(colors.tolist()):
            return np.array([self.standard[color] for color in colors.tolist()])
        gray = colors & 255
        return gray if np.array_equal(colors, gray * 0x010101) else None

    def _read_shown(self, image, path):
        pixels = _pack_pixels(image, path)
        colors = distinct(pixels)
        ids = self._decode(colors)
        if ids is None and self.known is None:
            return pixels
        if ids is None:
            vivid = next(color for color in colors.tolist() if color != (color & 255) * 0x010101)
            raise ValueError(
                f"{path} has colors, such as {write_color(vivid)}, but no ids. {_WAY_OUT}."
            )
        return np.asfortranarray(ids[np.searchsorted(colors, pixels)])

    def _read_indexes(self, image, path):
        palette, pixels = _read_palette(image, path), np.array(image, order="F")
        used, shown = distinct(pixels), self._decode(palette)
        # Equal colors are ambiguous.
        if shown is not None and len(set(shown[used].tolist())) == len(used):
            shown = shown[used]
        else:
            shown = None
        if not _may_be_sorted_anew(image.format, palette, used):
            self.class_palettes.add(palette.tobytes())
            return self._choose(pixels, used, used if shown is None else shown, path)
        return self._undo(pixels, used, shown, palette, path)

    def _undo(self, pixels, used, shown, palette, path):
        """Return the ids of an image whose indexes cannot be confirmed."""
        if shown is not None and self._fits(shown):
            if np.array_equal(used, shown):
                return pixels
            # Black and white may also represent 0 and 1.
            is_plain = set(shown.tolist()) == {0, 255}
            return (self._choose if is_plain else self._replace)(pixels, used, shown, path)
        if self.known is not None:
            self.doubtful.setdefault(palette.tobytes(), []).append(path)
            if not self._fits(used):
                _raise_doubt([path], palette.tobytes())
        return pixels


def _may_be_sorted_anew(form, palette, used):
    """Return whether a palette may have lost entries, because an image uses all of them."""
    n_used = len(used)
    if used[-1] != n_used - 1 or np.array_equal(palette[:n_used], VOC_COLORS[:n_used]):
        return False
    # GIF pads to powers of two.
    return len(palette) <= (max(4, 2 * n_used) if form == "GIF" else n_used)


def _enumerate(items):
    items = list(map(str, items))
    return ", ".join(items[:3]) + (", ..." if len(items) > 3 else "")


def _raise_doubt(paths, palette):
    colors = map(write_color, np.frombuffer(palette, dtype=np.uint32))
    raise ValueError(
        f"{len(paths)} mask(s) use every entry of their palettes, so an optimizer or GIF writer "
        f"may have changed the ids, and the colors {_enumerate(colors)} do not show them: "
        f"{_enumerate(paths)}. {_WAY_OUT}."
    )
