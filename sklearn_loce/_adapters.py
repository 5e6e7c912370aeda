"""How to call the networks of a family, and what they make of an image before their first layer."""

import inspect
from dataclasses import dataclass
from operator import attrgetter

import torch
from torchvision.models import VisionTransformer
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ._model import TorchModel, as_module

_SIZE_ATTRIBUTES = ("image_size", "patch_embed.img_size", "config.image_size")


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
        return Frame(tuple(size), tuple(size)) if own is None else Frame(*own(module, size))


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


def _is_detector(module):
    return isinstance(getattr(module, "transform", None), GeneralizedRCNNTransform)


def _is_transformers(module):
    return getattr(module, "main_input_name", None) == "pixel_values"


_FAMILIES = ((_is_detector, DetectionAdapter), (_is_transformers, TransformersAdapter))


def adapter_of(model):
    """Choose how to call a network: as its handle says, else by its family."""
    if isinstance(model, TorchModel) and model.forward is not None:
        return PlainAdapter(model.forward)
    module = as_module(model)
    return next((adapter() for fits, adapter in _FAMILIES if fits(module)), PlainAdapter())


def _as_size(value):
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return tuple(value) if is_pair and all(isinstance(n, int) for n in value) else None


def trained_size(module):
    """Read the input size that a network names as its own; ``None`` where it names none."""
    for attribute in _SIZE_ATTRIBUTES:
        try:
            return _as_size(attrgetter(attribute)(module))
        except AttributeError:
            continue
    return None


def only_size(module):
    """Give the one input size that a torchvision network takes; ``None`` where it takes others."""
    return trained_size(module) if isinstance(module, VisionTransformer) else None


def explain_size(module, size, error):
    """Make a clear error of one that a network raised at its door because of the input's size.

    Returns
    -------
    ValueError or None
        ``None`` where the size is the network's own, or it names none.
    """
    own = trained_size(module)
    if own is None or own == tuple(size):
        return None
    return ValueError(
        f"{type(module).__name__} was built for images of {own[0]} x {own[1]} and got "
        f"{size[0]} x {size[1]} ({error}). Resize them without a crop, as the paper does: "
        f"preprocess=torchvision.transforms.v2.Resize({own}), or torchvision's weights, which "
        "normalise too."
    )
