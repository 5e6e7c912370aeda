"""Joint geometry of image and masks: from pixels to the input of the network, and back."""

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.models import WeightsEnum
from torchvision.transforms import v2
from xxhash import xxh3_64

from .._warnings import warn_user
from .adapters import only_size
from .handle import as_module
from .presets import PaperTransform, find_training_preprocess
from .processors import ProcessorError, ProcessorTransform, is_image_processor

_SCALE = v2.ToDtype(torch.float32, scale=True)
# Transforms that treat every pixel alike without random numbers: places need not be measured.
_READABLE = ("Resize", "CenterCrop", "ToTensor", "MaybeToTensor", "Normalize")
_POINTWISE = (v2.Identity, v2.ToImage, v2.ToDtype, v2.Normalize)


@dataclass(frozen=True)
class View:
    """The input of the network for one image, with its geometry.

    Parameters
    ----------
    image : Tensor of shape (3, height, width), float32
    original_size : tuple of int
        (height, width) of the image before preprocessing.
    full_frame : bool
        Whether ``image`` shows the original from edge to edge, upright.
    affine : ndarray of shape (2, 3) or None
        Maps a position (row, column) in the original to a position in ``image``, both as shares of
        the side. ``None`` if it is not needed, or if the map is not affine.
    shown : Tensor of shape (height, width), bool, or None
        Marks the pixels of ``image`` that are not padding; ``None`` if there is no padding.
    random : bool
        Whether the transform drew random numbers.
    sources : tuple of ndarray of shape (height, width), int64, or None
        The row and the column in the original of each pixel; ``None`` if ``full_frame``.
    share : ndarray of shape (2,) or None
        The share of each side of the frame that the image takes, if the network pads it.
    """

    image: torch.Tensor
    original_size: tuple
    full_frame: bool = True
    affine: np.ndarray | None = None
    shown: torch.Tensor | None = None
    random: bool = False
    sources: tuple | None = None
    share: np.ndarray | None = None

    def see(self, mask):
        """Return a mask over the field of view of the network.

        Parameters
        ----------
        mask : ndarray of shape (height, width), bool
            The mask at the size of the original image.

        Returns
        -------
        ndarray of shape (mask_height, mask_width), bool
            The mask, not always at the size of ``image``: if the whole frame is kept, the mask is
            resampled only once, to the size at which LoCEs are optimized.
        """
        if self.sources is not None:
            mask = mask[self.sources]  # filled pixels do not show the concept
            mask = mask if self.shown is None else mask & self.shown.numpy()
        if self.share is None:
            return mask
        missing = np.rint(mask.shape / self.share).astype(int) - mask.shape
        return np.pad(mask, [(0, n) for n in missing])

    def within(self, frame):
        """Return the view for a network that pads the image itself, at the bottom and the right.

        Parameters
        ----------
        frame : Frame

        Returns
        -------
        View
            Its ``affine`` refers to the whole frame. A network that only resizes does not change
            it, because positions are shares of the sides.
        """
        if frame.content == frame.size:
            return self
        share = np.divide(frame.content, frame.size)
        affine = np.eye(2, 3) if self.full_frame else self.affine
        affine = None if affine is None else share[:, None] * affine
        return replace(self, full_frame=False, affine=affine, share=share)

    def to_original(self, maps):
        """Resample maps over the view of the network, (n, H, W), to the original image's pixels."""
        if self.full_frame:
            size = self.original_size
            return functional.interpolate(maps[None], size=size, mode="bilinear")[0]
        if self.affine is None:
            raise ValueError(
                "preprocess moves pixels in a way that is not affine, so projections can't be "
                "brought back to the image."
            )
        grid = torch.from_numpy(self._sampling_grid()).to(maps)
        how = {"padding_mode": "border", "align_corners": False}
        inside = (grid.abs() <= 1).all(-1)
        return functional.grid_sample(maps[None], grid[None], **how)[0] * inside

    def _sampling_grid(self):
        rows, columns = ((np.arange(n) + 0.5) / n for n in self.original_size)
        positions = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        seen = positions @ self.affine[:, :2].T + self.affine[:, 2]
        # torch's coordinates (x, y) run from -1 to 1.
        return 2 * seen[..., ::-1].astype(np.float32) - 1


@dataclass(frozen=True)
class JointTransform:
    """The joint transform of image and masks for the parameter ``preprocess``.

    Parameters
    ----------
    apply : callable
        Takes and returns (image, masks). There are two masks: the row and column of each pixel.
    full_frame : bool
        Whether it is known to keep the whole frame; otherwise this is measured.
    """

    apply: Callable
    full_frame: bool

    @property
    def is_plain(self):
        """Whether the transform only scales pixels to [0, 1]."""
        return self.apply is _SCALE


def _call_class(preprocess):
    """Call ``weights.transforms`` if it was passed without parentheses."""
    kind = getattr(preprocess, "func", preprocess)
    if issubclass(kind, WeightsEnum):
        raise TypeError(f"preprocess={kind.__name__} must be a member of it, such as DEFAULT.")
    return preprocess()


class _Settings(NamedTuple):
    """Settings of a preset, or of a transform that takes only an image."""

    resize_size: int | list | None = None
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BILINEAR
    antialias: bool = True
    mean: list | None = None
    std: list | None = None


def _without_crop(settings, size):
    """Make a transform with a size, mean and std, and without a center crop."""
    steps = [_SCALE]
    size = settings.resize_size if size is None else size
    if size is not None:
        how = {"interpolation": settings.interpolation, "antialias": settings.antialias}
        steps.insert(0, v2.Resize(size, **how))
    if settings.mean is not None:
        steps.append(v2.Normalize(torch.as_tensor(settings.mean), torch.as_tensor(settings.std)))
    return v2.Compose(steps)


def _takes_images_alone(preprocess):
    """Return whether a transform is a first-version torchvision or timm one, without masks."""
    package = type(preprocess).__module__
    return package == "torchvision.transforms.transforms" or package.startswith("timm.data")


def _read_settings(preprocess):
    """Read size, interpolation, mean and std of a transform that takes only an image."""
    steps = list(getattr(preprocess, "transforms", [preprocess]))
    names = [type(step).__name__ for step in steps]
    unknown = [name for name in names if name not in _READABLE]
    twice = [name for name in ("Resize", "Normalize") if names.count(name) > 1]
    if unknown or twice or getattr(_step(steps, names, "Resize"), "max_size", None):
        raise ValueError(
            f"preprocess={preprocess!r} takes images without masks. Such a transform may have one "
            "Resize without max_size, CenterCrop (which is left out), ToTensor and one Normalize, "
            f"but it has {', '.join(unknown or twice or ['max_size'])}. Pass a "
            "torchvision.transforms.v2 transform, which moves images and masks together."
        )
    settings = _Settings()
    if resize := _step(steps, names, "Resize"):
        how = {"interpolation": resize.interpolation, "antialias": bool(resize.antialias)}
        settings = settings._replace(resize_size=resize.size, **how)
    if normalize := _step(steps, names, "Normalize"):
        settings = settings._replace(mean=normalize.mean, std=normalize.std)
    return settings


def _step(steps, names, name):
    return steps[names.index(name)] if name in names else None


def _only_size(model):
    return None if model is None else only_size(as_module(model))


def _is_pointwise(preprocess):
    """Return whether a transform is pointwise (no subclass), or a composition of such."""
    if type(preprocess) in (v2.Compose, nn.Sequential):
        steps = getattr(preprocess, "transforms", preprocess)
        return all(_is_pointwise(step) for step in steps)
    return type(preprocess) in _POINTWISE


def resolve_preprocess(preprocess, model):
    """Replace "auto" by the preprocessing of the training; return other values unchanged."""
    if not (isinstance(preprocess, str) and preprocess == "auto"):
        return preprocess
    found = None if model is None else find_training_preprocess(model)
    if found is None:
        raise ValueError(
            "preprocess='auto' uses the preprocessing of the network's training, which is not "
            f"known for {_network_name(model)}. Pass it as TorchModel(builder, weights=...) or "
            "TorchModel(network, preprocess=...), or as preprocess."
        )
    return found


def _network_name(model):
    return type(model if model is None else as_module(model)).__name__


def make_transform(preprocess, model=None):
    """Convert the parameter ``preprocess`` to a joint transform of an image and its masks.

    Parameters
    ----------
    preprocess : None, "paper", "auto", WeightsEnum, torchvision preset, Hugging Face image \
            processor or callable
        First-version torchvision transforms and timm transforms take no masks, so only their
        settings are used.
    model : torch.nn.Module or TorchModel, default=None
        If the network accepts only one size, presets and processors squash images to this size.

    Returns
    -------
    JointTransform

    Raises
    ------
    ValueError
        If a torchvision preset is not for single images, a transform without masks has unknown
        settings, or the preprocessing for "auto" is unknown.
    """
    preprocess = resolve_preprocess(preprocess, model)
    if isinstance(preprocess, str) and preprocess == "paper":
        module = None if model is None else as_module(model)
        return JointTransform(PaperTransform(module), full_frame=True)
    if isinstance(preprocess, PaperTransform):
        return JointTransform(preprocess, full_frame=True)
    if preprocess is None:
        return JointTransform(_SCALE, full_frame=True)
    if isinstance(preprocess, WeightsEnum):
        preprocess = preprocess.transforms
    if isinstance(getattr(preprocess, "func", preprocess), type):
        preprocess = _call_class(preprocess)
    if is_image_processor(preprocess):
        return JointTransform(ProcessorTransform(preprocess, _only_size(model)), full_frame=False)
    if _takes_images_alone(preprocess):
        settings = _read_settings(preprocess)
        return JointTransform(_without_crop(settings, _only_size(model)), full_frame=True)
    if not type(preprocess).__module__.startswith("torchvision.transforms._presets"):
        return JointTransform(preprocess, full_frame=_is_pointwise(preprocess))
    kind = type(preprocess).__name__
    if kind == "ObjectDetection":
        return JointTransform(_SCALE, full_frame=True)
    if kind in ("ImageClassification", "SemanticSegmentation"):
        return JointTransform(_without_crop(preprocess, _only_size(model)), full_frame=True)
    raise ValueError(f"preprocess={kind} is not for single images; pass a transforms.v2 transform.")


# Positions start here, so that padding has smaller values. float32 holds them exactly.
_FIRST = 2**16
_WIDE = (torch.float32, torch.float64, torch.int32, torch.int64)


def _positions(height, width):
    """Return the (row, column) of every pixel, counted from ``_FIRST``."""
    rows, columns = (torch.arange(_FIRST, _FIRST + n).float() for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def _shown(positions):
    """Return which pixels show the image; the other pixels are padding."""
    return (positions > _FIRST - 0.5).all(0)


def _fit_affine(positions, original_size):
    """Fit the affine map from original to transformed positions; ``None`` if it is not affine."""
    seen_size = positions.shape[1:]
    inside = _shown(positions)
    seen = (torch.nonzero(inside).double().numpy() + 0.5) / seen_size
    original = (positions[:, inside].T.double().numpy() - _FIRST + 0.5) / original_size
    design = np.column_stack([original, np.ones(len(original))])
    solution, _, rank, _ = np.linalg.lstsq(design, seen, rcond=None)
    error = np.abs(design @ solution - seen).max(0, initial=0) * seen_size
    # With nearest-neighbor sampling, a pixel is off by at most one source pixel at its new size.
    allowed = 1.5 + 1.5 * np.divide(seen_size, original_size)
    return solution.T if rank == 3 and (error <= allowed).all() else None


def _is_full_frame(positions, original_size):
    """Return whether the positions are exactly those of a plain resize."""
    start, size = _positions(*original_size), positions.shape[1:]
    if size == original_size:
        return torch.equal(start, positions)
    return any(
        torch.equal(functional.interpolate(start[None], size=size, mode=mode)[0], positions)
        for mode in ("nearest", "nearest-exact")
    )


def _call(transform, *parts):
    """Call a transform, with a clear error if it fails."""
    try:
        return transform(*parts)
    except ProcessorError:
        raise
    except Exception as error:
        raise ValueError(
            f"preprocess={transform!r} failed on an image with its masks: {error}. It must be a "
            "torchvision.transforms.v2 transform, which moves images and masks together."
        ) from error


def _apply(transform, image, positions):
    """Transform image and positions together, as image and mask, and check the result."""
    moved = _call(transform, tv_tensors.Image(image), tv_tensors.Mask(positions))
    is_pair = isinstance(moved, tuple | list) and len(moved) == 2
    if not is_pair or not all(isinstance(part, torch.Tensor) for part in moved):
        raise ValueError(
            f"preprocess={transform!r} must return the two tensors (image, masks), as the "
            "transforms of torchvision.transforms.v2 do."
        )
    image, positions = (part.as_subclass(torch.Tensor) for part in moved)
    if image.shape[0] != 3 or positions.shape != (2, *image.shape[-2:]):
        raise ValueError(
            f"preprocess={transform!r} must keep three channels, and image and masks at one size, "
            f"but returned the shapes {tuple(image.shape)} and {tuple(positions.shape)}."
        )
    if positions.dtype not in _WIDE:
        raise ValueError(
            f"preprocess={transform!r} turns masks into {positions.dtype}, which can't hold the "
            "positions of pixels that are sent through it as a mask. Leave the dtype of masks out."
        )
    return image, positions.float()


def _sources(positions):
    """Return the row and column in the original of every pixel; (0, 0) for padding."""
    return tuple(torch.where(_shown(positions), positions.round().long() - _FIRST, 0).numpy())


# All threads draw from one generator. A child process gets its own lock, because the old lock may
# be held by a thread that does not exist in the child.
_DRAWING = [threading.Lock()]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _DRAWING.append(threading.Lock()))


@contextmanager
def _own_randomness(image, seed):
    """Seed random transforms by the image and a seed, independent of earlier images."""
    digest = xxh3_64(str(seed).encode())
    digest.update(np.ascontiguousarray(image))
    with _DRAWING[-1]:
        before = torch.get_rng_state()
        # torch.manual_seed would also seed the generators of other devices.
        torch.default_generator.manual_seed(digest.intdigest())
        try:
            yield
        finally:
            torch.set_rng_state(before)


def make_view(image, transform, seed=0):
    """Preprocess one image.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    transform : JointTransform
    seed : int, default=0
        Seed of torchvision's random transforms, together with the content of the image.

    Returns
    -------
    View

    Raises
    ------
    ValueError
        If the transform fails or does not return an image and its masks.
    """
    size = image.shape[:2]
    pixels = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
    if transform.full_frame:
        return View(_as_float(_call(transform.apply, tv_tensors.Image(pixels))), size)
    # Transform the positions as masks, to measure the geometry.
    with _own_randomness(image, seed):
        start = torch.get_rng_state()
        pixels, positions = _apply(transform.apply, pixels, _positions(*size))
        random = not torch.equal(start, torch.get_rng_state())
    pixels = _as_float(pixels)
    if _is_full_frame(positions, size):
        return View(pixels, size, random=random)
    affine, shown = _fit_affine(positions, size), _shown(positions)
    return View(pixels, size, False, affine, shown, random, _sources(positions))


def _as_float(image):
    """Scale integers to [0, 1]; leave floats as they are."""
    if not image.is_floating_point():
        image = _SCALE(tv_tensors.Image(image))
    return image.as_subclass(torch.Tensor).float()


def _measure_normalization(transform, size, seed):
    """Measure mean and std of a normalization; ``None`` if pixels stay in [0, 1]."""
    seen = []
    for level in (0, 255):
        if isinstance(transform.apply, ProcessorTransform):  # a cropping processor has no view
            pixels = transform.apply.process(torch.full((3, *size), level, dtype=torch.uint8))
        else:
            image = np.full((*size, 3), level, dtype=np.uint8)
            pixels = make_view(image, transform, seed).image
        # Measure in the center, without padding.
        seen.append(pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].double())
    black, white = seen
    if min(black.min(), white.min()) >= 0 and max(black.max(), white.max()) <= 1:
        return None
    return -black / (white - black), 1 / (white - black)


def warn_unnormalized(preprocess, model, size, seed=0):
    """Warn if a network was trained on normalized images, but gets images in [0, 1].

    Parameters
    ----------
    preprocess : object
        The parameter. "paper" causes no warning: it omits the normalization on purpose.
    model : torch.nn.Module or TorchModel
    size : tuple of int
        (height, width) of an image.
    seed : int, default=0
        Seed of random transforms.
    """
    is_known = isinstance(preprocess, str | PaperTransform)
    trained_with = None if is_known else find_training_preprocess(model)
    if trained_with is None:
        return
    if _measure_normalization(make_transform(preprocess, model), size, seed) is not None:
        return
    expected = _measure_normalization(make_transform(trained_with, model), size, seed)
    if expected is None:
        return
    mean, std = (str([round(n, 3) for n in part.tolist()]) for part in expected)
    warn_user(
        f"With preprocess={preprocess!r} pixels are in [0, 1], but {_network_name(model)} was "
        f"trained on images normalized with mean={mean} and std={std}. Set preprocess='auto' for "
        "the preprocessing of its training, or preprocess='paper' for the images of the paper, "
        "which are not normalized."
    )
