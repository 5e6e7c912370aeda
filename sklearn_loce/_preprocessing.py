"""Joint geometry of image and masks: from pixels to what the network sees, and back."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.models import WeightsEnum
from torchvision.transforms import v2

_SCALE = v2.ToDtype(torch.float32, scale=True)


@dataclass(frozen=True)
class View:
    """An image and its masks as the network sees them.

    Parameters
    ----------
    image : Tensor of shape (3, height, width), float32
    masks : ndarray of shape (n_masks, height, width), bool
    original_size : tuple of int
        (height, width) of the image before preprocessing.
    affine : ndarray of shape (2, 3) or None
        Takes a pixel position (row, column) of the original to one of ``image``, both as shares of
        the side. ``None`` where ``image`` shows the original from edge to edge.
    """

    image: torch.Tensor
    masks: np.ndarray
    original_size: tuple
    affine: np.ndarray | None

    def to_original(self, maps):
        """Bring maps over the network's view, (n, H, W), to the original image's pixels."""
        if self.affine is None:
            size = self.original_size
            return functional.interpolate(maps[None], size=size, mode="bilinear")[0]
        grid = torch.from_numpy(self._sampling_grid()).to(maps)
        return functional.grid_sample(maps[None], grid[None], align_corners=False)[0]

    def _sampling_grid(self):
        rows, columns = ((np.arange(n) + 0.5) / n for n in self.original_size)
        positions = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        seen = positions @ self.affine[:, :2].T + self.affine[:, 2]
        # torch counts (x, y) from -1 to 1.
        return 2 * seen[..., ::-1].astype(np.float32) - 1


def _without_crop(preset):
    """Rebuild a torchvision preset with its size, mean and std, and without its centre crop."""
    steps = [_SCALE]
    if preset.resize_size is not None:
        how = {"interpolation": preset.interpolation, "antialias": preset.antialias}
        steps.insert(0, v2.Resize(preset.resize_size, **how))
    return v2.Compose([*steps, v2.Normalize(preset.mean, preset.std)])


def make_transform(preprocess):
    """Turn the parameter ``preprocess`` into a joint transform of an image and its masks.

    Raises
    ------
    ValueError
        If a torchvision preset is for another task than single images.
    """
    if preprocess is None:
        return _SCALE
    if isinstance(preprocess, WeightsEnum):
        preprocess = preprocess.transforms()
    if not type(preprocess).__module__.startswith("torchvision.transforms._presets"):
        return preprocess
    kind = type(preprocess).__name__
    if kind == "ObjectDetection":
        return _SCALE
    if kind in ("ImageClassification", "SemanticSegmentation"):
        return _without_crop(preprocess)
    raise ValueError(f"preprocess={kind} is not for single images; pass a transforms.v2 transform.")


def _positions(height, width):
    """Give every pixel its own (row, column), counted from 1, for 0 is what padding fills in."""
    rows, columns = torch.arange(1.0, height + 1), torch.arange(1.0, width + 1)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def _fit_affine(positions, original_size):
    """Fit the map from original to seen pixel positions to where the pixels went."""
    seen_size = positions.shape[1:]
    inside = (positions > 0).all(0)
    if inside.sum() < 3:
        raise ValueError("preprocess leaves less than three pixels of the image.")
    seen = (torch.nonzero(inside).double().numpy() + 0.5) / seen_size
    original = (positions[:, inside].T.double().numpy() - 0.5) / original_size
    design = np.column_stack([original, np.ones(len(original))])
    solution, *_ = np.linalg.lstsq(design, seen, rcond=None)
    error = np.abs(design @ solution - seen).max(0) * seen_size
    # Nearest-neighbour sampling puts a pixel at most one source pixel off, seen at its new size.
    allowed = 1.5 + 1.5 * np.divide(seen_size, original_size)
    if (error > allowed).any():
        raise ValueError(
            "preprocess moves pixels in a way that is not affine (it may shear and bend), so "
            "projections can't be brought back to the image."
        )
    return solution.T


def _is_full_frame(affine, original_size):
    """Say whether the corners of the image are the corners of the view, to a pixel."""
    corners = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
    moved = np.abs(corners @ affine.T - corners[:, :2])
    return bool((moved <= 1.0 / np.array(original_size)).all())


def _apply(transform, parts):
    try:
        moved = transform(*parts)
    except Exception as error:
        raise ValueError(
            f"preprocess={transform!r} failed on an image with its masks: {error}. It must be a "
            "torchvision.transforms.v2 transform, which moves images and masks together."
        ) from error
    is_joint = isinstance(moved, tuple | list) and len(moved) == len(parts)
    if not is_joint or not all(isinstance(part, torch.Tensor) for part in moved):
        raise ValueError(
            f"preprocess={transform!r} must return one tensor per input (image, masks), as the "
            "transforms of torchvision.transforms.v2 do."
        )
    if len({tuple(part.shape[-2:]) for part in moved}) != 1 or moved[0].shape[0] != 3:
        shapes = [tuple(part.shape) for part in moved]
        raise ValueError(
            f"preprocess={transform!r} must keep three channels, and image and masks at one size, "
            f"but returned the shapes {shapes}."
        )
    return moved


def make_view(image, masks, transform, *, keep_geometry):
    """Preprocess one image together with its masks.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    masks : ndarray of shape (n_masks, height, width), bool
    transform : callable
        From ``make_transform``.
    keep_geometry : bool
        Whether the way back to the original will be needed.

    Returns
    -------
    View
    """
    size = image.shape[:2]
    parts = [
        tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))),
        tv_tensors.Mask(torch.from_numpy(masks.astype(np.uint8))),
    ]
    if keep_geometry and transform is not _SCALE:
        parts.append(tv_tensors.Mask(_positions(*size)))
    moved = [part.as_subclass(torch.Tensor) for part in _apply(transform, parts)]
    affine = None
    if len(moved) == 3:
        affine = _fit_affine(moved[2], size)
        affine = None if _is_full_frame(affine, size) else affine
    pixels = moved[0] if moved[0].is_floating_point() else _SCALE(tv_tensors.Image(moved[0]))
    return View(pixels.as_subclass(torch.Tensor), moved[1].numpy() > 0, size, affine)
