"""Hugging Face's image processors as joint transforms of an image and its masks."""

import numpy as np
import torch
from torch.nn import functional

_LEVELS = 255


class ProcessorError(ValueError):
    """An image processor cannot be used for images with masks."""


def _image_part(preprocess):
    """Return the image processor of a processor for several modalities, or the object itself."""
    return getattr(preprocess, "image_processor", preprocess)


def is_image_processor(preprocess):
    """Return whether ``preprocess`` is a processor of the ``transformers`` package."""
    kinds = type(_image_part(preprocess)).__mro__
    return any(kind.__name__ == "BaseImageProcessor" for kind in kinds)


def _ramp(length):
    return np.rint((np.arange(length) + 0.5) / length * _LEVELS).astype(np.uint8)


def _probes(height, width):
    """Make gray images: black, white, and two whose levels encode the row and the column."""
    levels = np.zeros((4, height, width), dtype=np.uint8)
    levels[1] = _LEVELS
    levels[2] = _ramp(height)[:, None]
    levels[3] = _ramp(width)
    return [torch.from_numpy(level).expand(3, -1, -1).contiguous() for level in levels]


def _edges(shares, inside, length):
    """Return the positions of the original's first and last edge along one axis of the output.

    Parameters
    ----------
    shares : ndarray of shape (n_seen,)
        Source of each output pixel, as a share of the original's side.
    inside : ndarray of shape (n_seen,), bool
        Whether each output pixel is not padding.
    length : int
        The original's side in pixels.

    Returns
    -------
    edges : ndarray of shape (2,)
        Positions in output pixels. Processors resize to whole pixels and then pad, so an edge close
        to the start of the padding is exactly there. Otherwise, the processor crops.
    crops : bool
        Whether the processor crops.
    """
    seen = np.flatnonzero(inside)
    borders = np.array([seen[0], seen[-1] + 1.0])
    if min(length, len(seen)) == 1:
        return borders, False  # a single pixel allows no measurement
    # Levels are rounded, and nearest-neighbor sampling is off by half a pixel of the original.
    allowed = 1 + len(seen) / _LEVELS + len(seen) / length / 2
    start, slope = _fit_line(shares[seen], seen + 0.5, length, allowed)
    fitted = np.array([start, start + slope])
    overhang = (borders - fitted) * [1, -1]
    return np.where(np.abs(overhang) <= allowed, borders, fitted), (overhang > allowed).any()


def _fit_line(shares, positions, length, allowed):
    # Upsampling repeats the original's first and last pixel beyond their centers.
    margin = 0.5 / length + 1 / _LEVELS
    inner = (shares > margin) & (shares < 1 - margin)
    inner = inner if np.count_nonzero(inner) > 1 else slice(None)
    shares, positions = shares[inner], positions[inner]
    if np.ptp(shares) > 0:
        slope, start = np.polyfit(shares, positions, 1)
        if slope > 0 and np.abs(start + slope * shares - positions).max() <= allowed:
            return start, slope
    raise ProcessorError(
        "it does more than resize, pad and crop an upright image, so masks cannot follow"
    )


def _sources(edges, length, size):
    """Return the original's pixel for each of ``size`` output pixels; -1 outside."""
    if (edges == np.rint(edges)).all() and edges[0] >= 0 and edges[1] <= size:
        start, stop = edges.astype(int)
        pixels = torch.arange(float(length))[None, None]
        seen = functional.interpolate(pixels, size=int(stop - start), mode="nearest-exact")
        return functional.pad(seen[0, 0].long(), (int(start), int(size - stop)), value=-1)
    share = (np.arange(size) + 0.5 - edges[0]) / (edges[1] - edges[0])
    inside = (share >= 0) & (share < 1)
    return torch.from_numpy(np.where(inside, np.floor(share * length), -1).astype(int))


class ProcessorTransform:
    """Apply a Hugging Face processor to an image, and the same geometry to its masks.

    The center crop is disabled. The position of the image in the output is measured once per image
    size, with images that encode their own coordinates. A processor raises an error if it still
    crops the image, or moves pixels in other ways than resizing and padding.

    Parameters
    ----------
    processor : transformers image processor, or a processor that has one
    size : tuple of int, default=None
        (height, width) to which images are squashed, for networks that accept only this size.
    """

    def __init__(self, processor, size=None):
        self.processor = _image_part(processor)
        self.size = size
        self._measured = {}

    def __repr__(self):
        return type(self.processor).__name__

    def __call__(self, image, masks):
        """Transform an image (3, height, width), uint8, and masks (n_masks, height, width)."""
        image, size = image.as_subclass(torch.Tensor), tuple(image.shape[-2:])
        try:
            if size not in self._measured:
                self._measured[size] = self._measure(*size)
            settings, rows, columns = self._measured[size]
            pixels = self.process(image, settings)
        except Exception as error:
            raise ProcessorError(
                f"preprocess={self!r} can't be used for images with masks: {error}. A "
                "torchvision.transforms.v2 transform, which moves both, can be passed instead."
            ) from error
        inside = (rows >= 0)[:, None] & (columns >= 0)
        return pixels, masks.as_subclass(torch.Tensor)[:, rows][:, :, columns] * inside

    def process(self, image, settings=()):
        """Process an image (3, height, width), uint8; ``settings`` override the processor's."""
        how = {"return_tensors": "pt", "input_data_format": "channels_first", **dict(settings)}
        pixels = torch.as_tensor(self.processor(images=image, **how)["pixel_values"])
        if pixels.ndim != 4 or len(pixels) != 1:
            raise ProcessorError(
                f"it must make one image of one, but makes pixel_values {tuple(pixels.shape)}"
            )
        return pixels[0]

    def _measure(self, height, width):
        """Find settings without a crop, and measure the sources of pixels with them."""
        settings = self._settings(height, width)
        edges, size, crops = self._locate(height, width, settings)
        if crops and getattr(self.processor, "crop_pct", None) is not None:
            settings["crop_pct"] = 1.0
            edges, size, crops = self._locate(height, width, settings)
        if crops:
            raise ProcessorError(
                f"it crops images of {height} x {width} pixels, and concepts at the rim with them; "
                "choose settings with which it does not, as ConvNextImageProcessor does not with "
                "size={'shortest_edge': 384} or more"
            )
        return settings, _sources(edges[0], height, size[0]), _sources(edges[1], width, size[1])

    def _settings(self, height, width):
        crops = getattr(self.processor, "do_center_crop", None)
        settings = {"do_center_crop": False} if crops else {}
        if self.size is not None:
            black, *_ = _probes(height, width)
            if self.process(black, settings).shape[-2:] != self.size:
                settings["size"] = dict(zip(("height", "width"), self.size, strict=True))
        return settings

    def _locate(self, height, width, settings):
        """Measure the positions of the original's edges, and whether they are outside."""
        # Gray images keep the order of their channel means under any normalization.
        probes = [self.process(probe, settings) for probe in _probes(height, width)]
        black, white, rows, columns = (p.double().mean(0).numpy() for p in probes)
        span = white - black
        inside = span > span.max() / 2
        if not inside.any():
            raise ProcessorError("it makes black and white images equal")
        along = inside.any(1), inside.any(0)
        # Measure in the middle of the visible part, where padding does not affect resampling.
        row, column = (int(np.median(np.flatnonzero(axis))) for axis in along)
        span = np.where(inside, span, np.inf)
        row_edges, cuts_rows = _edges(
            ((rows - black) / span)[:, column], along[0] & inside[:, column], height
        )
        column_edges, cuts_columns = _edges(
            ((columns - black) / span)[row], along[1] & inside[row], width
        )
        return (row_edges, column_edges), span.shape, cuts_rows or cuts_columns
