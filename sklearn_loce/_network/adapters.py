"""How to call the networks of a family, and what they make of an image before their first layer."""

import inspect
from dataclasses import dataclass
from numbers import Integral
from operator import gt

import torch

from .families import explain_size, is_detector, is_transformers, only_size
from .handle import TorchModel, WrappedNetwork, as_module


@dataclass(frozen=True)
class Frame:
    """Where an image lies in what the first layer of a network sees.

    Parameters
    ----------
    size : tuple of int
        (height, width) of the first layer's input.
    content : tuple of int
        (height, width) of the image in its upper left corner; the rest is padding.
    """

    size: tuple
    content: tuple


class PlainAdapter:
    """Call a network on a tensor of images, or through the user's own ``forward``.

    Parameters
    ----------
    forward : callable, default=None
        Called as ``forward(module, images)``. Where the network resizes or pads inside, it has a
        method ``frame(module, size)`` as this class has one.
    """

    def __init__(self, forward=None):
        self.forward = forward

    def __call__(self, module, images, shown=None):
        """Run the network on images (n_images, 3, height, width).

        ``shown``, (n_images, height, width) bool, tells which pixels are image and not padding.
        """
        return module(images) if self.forward is None else self.forward(module, images)

    def frame(self, module, size):
        """Tell what becomes of an image of ``size`` inside the network."""
        own = getattr(self.forward, "frame", None)
        return Frame(tuple(size), tuple(size)) if own is None else _checked(own(module, size))


def _checked(frame):
    """Make a frame of what a user's method ``frame`` gives."""
    is_pair = isinstance(frame, tuple | list) and len(frame) == 2
    if not is_pair or not all(map(_is_size, frame)) or any(map(gt, frame[1], frame[0])):
        raise ValueError(
            "frame must give two pairs of positive integers, the (height, width) that the first "
            "layer sees and the (height, width) of the image in its upper left corner, which is "
            f"not larger; got {frame!r}."
        )
    size, content = frame
    return Frame(tuple(map(int, size)), tuple(map(int, content)))


def _is_size(value):
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return is_pair and all(isinstance(n, Integral) and n > 0 for n in value)


class DetectionAdapter(PlainAdapter):
    """Call a torchvision detector, which takes a list and resizes and pads inside."""

    def __call__(self, module, images, shown=None):
        """Run the detector on a list of images."""
        return module(list(images))

    def frame(self, module, size):
        """Let the detector's own transform tell, on a tensor that has a size but no pixels."""
        batch, _ = module.transform([torch.empty(3, *size, device="meta")])
        return Frame(tuple(batch.tensors.shape[-2:]), tuple(batch.image_sizes[0]))


class TransformersAdapter(PlainAdapter):
    """Call a Hugging Face model by keyword, and tell it what is padding if it takes that."""

    def __call__(self, module, images, shown=None):
        """Run the model on ``pixel_values``, and ``pixel_mask`` where there is one."""
        inputs = {module.main_input_name: images}
        if shown is not None and "pixel_mask" in inspect.signature(module.forward).parameters:
            inputs["pixel_mask"] = shown.to(images.device).long()
        return module(**inputs)


class WrappedAdapter(PlainAdapter):
    """Let a wrapped network be called by what it is wrapped in."""

    def __call__(self, module, images, shown=None):
        """Run the wrapper, which passes on what is padding."""
        return module(images, shown)

    def frame(self, module, size):
        """Let the wrapper tell."""
        return module.frame(size)


def _is_wrapped(module):
    return isinstance(module, WrappedNetwork)


_ADAPTERS = (
    (is_detector, DetectionAdapter),
    (is_transformers, TransformersAdapter),
    (_is_wrapped, WrappedAdapter),
)


def adapter_of(model):
    """Choose how to call a network: as its handle says, else by its family."""
    if isinstance(model, TorchModel) and model.forward is not None:
        return PlainAdapter(model.forward)
    module = as_module(model)
    return next((adapter() for fits, adapter in _ADAPTERS if fits(module)), PlainAdapter())


def explain_failure(module, size, error, *, began):
    """Make a clear error of one that a network raised because of how it was called.

    Parameters
    ----------
    module : torch.nn.Module
    size : tuple of int
        (height, width) of the images.
    error : Exception
    began : bool
        Whether a layer had run by then.

    Returns
    -------
    ValueError or None
        ``None`` where the failure is of another kind.
    """
    if _is_wrapped(module):
        return None  # the wrapper explained it already
    name, reason = type(module).__name__, f"{type(error).__name__}: {error}"
    # Behind its first layers, a network that takes several sizes fails for other reasons.
    about_size = None if began and only_size(module) is None else explain_size(module, size)
    if about_size is not None:
        return ValueError(f"{name} {about_size}. ({reason})")
    if not began and isinstance(error, TypeError | ValueError | LookupError | AttributeError):
        return ValueError(
            f"{name} failed on a tensor of images before its first layer ({reason}). If it takes "
            "a list, a dict or more than images, say how to call it: TorchModel(network, "
            "forward=...)."
        )
    return None
