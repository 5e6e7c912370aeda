"""Image processors of Hugging Face as joint transforms of an image and its masks."""

import numpy as np
import torch
from torch.nn import functional

_LEVELS = 255


def _image_part(preprocess):
    """Give the image processor of a processor for several modalities, or the object itself."""
    return getattr(preprocess, "image_processor", preprocess)


def is_image_processor(preprocess):
    """Say whether ``preprocess`` is a processor of the ``transformers`` package."""
    kinds = type(_image_part(preprocess)).__mro__
    return any(kind.__name__ == "BaseImageProcessor" for kind in kinds)


def _ramp(length):
    return np.rint((np.arange(length) + 0.5) / length * _LEVELS).astype(np.uint8)


def _probe_image(height, width):
    """Draw an image whose channels tell the row, the column, and what is no padding."""
    rows, columns = np.meshgrid(_ramp(height), _ramp(width), indexing="ij")
    return torch.from_numpy(np.stack([rows, columns, np.full_like(rows, _LEVELS)]))


def _edges(values, inside):
    """Give where the original's first edge and last edge lie along one axis, in seen pixels.

    Processors resize by whole pixels and then pad: an edge within a pixel of where the padding
    begins is exactly there. It is elsewhere only if the processor crops.
    """
    seen = np.flatnonzero(inside)
    slope, start = np.polyfit(values[seen] / _LEVELS, seen + 0.5, 1)
    borders = np.array([seen[0], seen[-1] + 1.0])
    fitted = np.array([start, start + slope])
    return np.where(np.abs(fitted - borders) <= 1, borders, fitted)


def _sources(edges, length, size):
    """Give the original's pixel under each of ``size`` seen ones; -1 outside."""
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

    The centre crop is switched off. Where the processor puts the image is measured once for every
    size of images, on an image that holds its own coordinates.

    Parameters
    ----------
    processor : transformers image processor, or a processor that has one
    """

    def __init__(self, processor):
        self.processor = _image_part(processor)
        self._sources_of = {}

    def __repr__(self):
        return type(self.processor).__name__

    def __call__(self, image, masks):
        """Move image (3, height, width), uint8, and masks (n_masks, height, width) together."""
        image = image.as_subclass(torch.Tensor)
        pixels, size = self._process(image), tuple(image.shape[-2:])
        if size not in self._sources_of:
            self._sources_of[size] = self._measure(*size)
        rows, columns = self._sources_of[size]
        inside = (rows >= 0)[:, None] & (columns >= 0)
        return pixels, masks.as_subclass(torch.Tensor)[:, rows][:, :, columns] * inside

    def _process(self, image, **how):
        if getattr(self.processor, "do_center_crop", None):
            how["do_center_crop"] = False
        how |= {"return_tensors": "pt", "input_data_format": "channels_first"}
        pixels = torch.as_tensor(self.processor(images=image, **how)["pixel_values"])
        if pixels.ndim != 4 or len(pixels) != 1:
            raise ValueError(
                f"it must make one image of one, but makes pixel_values {tuple(pixels.shape)}"
            )
        return pixels[0]

    def _measure(self, height, width):
        seen = self._process(_probe_image(height, width), do_rescale=False, do_normalize=False)
        seen = seen.double().numpy()
        inside = seen[2] > _LEVELS / 2
        rows, columns = inside.any(1), inside.any(0)
        # The middle of the visible part: no resampling with the padding there.
        middle_row, middle_column = (int(np.median(np.flatnonzero(a))) for a in (rows, columns))
        row_edges = _edges(seen[0, :, middle_column], rows)
        column_edges = _edges(seen[1, middle_row], columns)
        return (
            _sources(row_edges, height, len(rows)),
            _sources(column_edges, width, len(columns)),
        )
