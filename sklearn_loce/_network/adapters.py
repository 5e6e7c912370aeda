"""Families of networks: how they are called, which sizes they accept, and why calls fail."""

import inspect
import re
from dataclasses import dataclass
from numbers import Integral
from operator import attrgetter, gt

import torch
from torchvision.models import MaxVit, VisionTransformer
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from .handle import TorchModel, as_module

_SIZE_ATTRIBUTES = (
    "image_size",
    "patch_embed.img_size",
    "stem.img_size",
    "config.image_size",
    "config.vision_config.image_size",
)


def is_detector(module):
    """Return whether a network is one of torchvision's detectors."""
    return isinstance(getattr(module, "transform", None), GeneralizedRCNNTransform)


def is_transformers(module):
    """Return whether a network is a vision model of Hugging Face."""
    return getattr(module, "main_input_name", None) == "pixel_values"


def is_detr(module):
    """Return whether a network is Hugging Face's DETR, the original one."""
    return any(kind.__name__ == "DetrPreTrainedModel" for kind in type(module).__mro__)


def _attribute(module, path):
    """Follow dotted attributes; ``None`` if one is missing."""
    try:
        return attrgetter(path)(module)
    except AttributeError:
        return None


def trained_size(module):
    """Read the input size that a network declares; ``None`` if it declares none."""
    if isinstance(module, MaxVit):
        return tuple(4 * n for n in module.blocks[0].grid_size)
    found = (_as_size(_attribute(module, path)) for path in _SIZE_ATTRIBUTES)
    return next(filter(None, found), None)


def _as_size(value):
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return tuple(value) if is_pair and all(isinstance(n, int) for n in value) else None


def only_size(module):
    """Return the only input size that a network accepts; ``None`` if it accepts others."""
    if isinstance(module, VisionTransformer | MaxVit) or _has_fixed_positions(module):
        return trained_size(module)
    return None


def _has_fixed_positions(module):
    """Return whether positions were learned for one size and are not interpolated by default."""
    if is_transformers(module):
        asks = "interpolate_pos_encoding" in inspect.signature(module.forward).parameters
        return asks and any("position_embedding" in name for name, _ in module.named_parameters())
    return _attribute(module, "patch_embed.strict_img_size") is True  # timm


def explain_size(module, size):
    """Explain which sizes a network accepts and the remedy, if ``size`` may be the problem.

    Returns
    -------
    str or None
        ``None`` if the network declares this size or none.
    """
    own, size = trained_size(module), tuple(size)
    if own is None or own == size:
        return None
    got = f"and got {size[0]} x {size[1]}"
    patch = _as_size(_attribute(module, "patch_embed.patch_size"))
    if patch is not None and _attribute(module, "patch_embed.strict_img_size") is False:
        return (
            f"takes images whose sides are multiples of its patches of {patch[0]} x {patch[1]}, "
            f"{got}. Resize them, as in preprocess=torchvision.transforms.v2.Resize({own})"
        )
    if is_transformers(module):
        other = "the model's own image processor, which normalizes too"
    else:
        other = "weights of torchvision, which normalize too"
    return (
        f"was built for images of {own[0]} x {own[1]} {got}. Resize them without a crop: "
        f"preprocess='paper' or torchvision.transforms.v2.Resize({own}), or {other}"
    )


@dataclass(frozen=True)
class Frame:
    """The position of an image in the input of a network's first layer.

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
        Called as ``forward(module, images)``. If the network resizes or pads images itself, it
        needs a method ``frame(module, size)`` like that of this class.
    """

    def __init__(self, forward=None):
        self.forward = forward

    def __call__(self, module, images, shown=None):
        """Run the network on images (n_images, 3, height, width).

        ``shown``, (n_images, height, width) bool, marks the pixels of the image, without padding.
        """
        return module(images) if self.forward is None else self.forward(module, images)

    def frame(self, module, size):
        """Return the Frame of an image of ``size`` inside the network."""
        own = getattr(self.forward, "frame", None)
        return Frame(tuple(size), tuple(size)) if own is None else _checked(own(module, size))


def _checked(frame):
    """Make a Frame from the result of a user's method ``frame``."""
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
    """Call a torchvision detector, which takes a list, and resizes and pads images itself."""

    def __call__(self, module, images, shown=None):
        """Run the detector on a list of images."""
        return module(list(images))

    def frame(self, module, size):
        """Call the detector's own transform on a tensor with a size but without pixels."""
        batch, _ = module.transform([torch.empty(3, *size, device="meta")])
        return Frame(tuple(batch.tensors.shape[-2:]), tuple(batch.image_sizes[0]))


class TransformersAdapter(PlainAdapter):
    """Call a Hugging Face model by keyword, with a mask of the padding if it takes one."""

    def __call__(self, module, images, shown=None):
        """Run the model on ``pixel_values``, and on ``pixel_mask`` if it takes one."""
        inputs = {module.main_input_name: images}
        if shown is not None and "pixel_mask" in inspect.signature(module.forward).parameters:
            inputs["pixel_mask"] = shown.to(images.device).long()
        return module(**inputs)


def adapter_of(model):
    """Choose the adapter of a network: that of its handle, otherwise that of its family."""
    if isinstance(model, TorchModel) and model.forward is not None:
        return PlainAdapter(model.forward)
    module = as_module(model)
    if is_detector(module):
        return DetectionAdapter()
    return TransformersAdapter() if is_transformers(module) else PlainAdapter()


# Usual strides of networks, and the patch size 14 of DINOv2.
_DIVISORS = (2, 4, 8, 14, 16, 28, 32, 64)


def explain_failure(module, size, error, *, began, adapter=None):
    """Make a clear error from an error of a network that was called in a wrong way.

    Parameters
    ----------
    module : torch.nn.Module
    size : tuple of int
        (height, width) of the images.
    error : Exception
    began : bool
        Whether a layer ran before the error.
    adapter : PlainAdapter, default=None
        Calls the network with other sizes. ``None`` tries no other size.

    Returns
    -------
    ValueError or None
        ``None`` if the error has another cause.
    """
    name, reason = type(module).__name__, f"{type(error).__name__}: {error}"
    n_channels = None if began else _required_channels(module, error)
    if n_channels is not None:
        return ValueError(f"{name} {_explain_channels(n_channels)} ({reason})")
    # After its first layers, a network that accepts several sizes fails for other reasons.
    about_size = None if began and only_size(module) is None else explain_size(module, size)
    about_size = about_size or _explain_divisor(module, size, error, adapter)
    if about_size is not None:
        return ValueError(f"{name} {about_size}. ({reason})")
    if not began and isinstance(error, TypeError | ValueError | LookupError | AttributeError):
        return ValueError(
            f"{name} failed on a tensor of images before its first layer ({reason}). If it takes "
            "a list, a dict or further arguments, pass a function that calls it: "
            "TorchModel(network, forward=...)."
        )
    return None


def _required_channels(module, error):
    """Read the required number of channels from an error; ``None`` for another error."""
    found = re.search(r"to have (\d+) channels, but got 3 channels", str(error))
    required = (
        int(found[1]) if found else getattr(getattr(module, "config", None), "num_channels", 3)
    )
    return required if required != 3 and ("channel" in str(error)) else None


def _explain_channels(n_channels):
    call = "images.mean(1, keepdim=True)"
    if n_channels > 3:
        call = f"torch.nn.functional.pad(images, (0, 0, 0, 0, 0, {n_channels - 3}))"
    return (
        f"takes images with {n_channels} channel{'s' * (n_channels > 1)}, and images here have 3. "
        "Convert the images: TorchModel(network, forward=lambda module, images: "
        f"module({call})). To run in other processes, use an importable function."
    )


def _explain_divisor(module, size, error, adapter):
    """Explain which size a network accepts, by trying sizes on zeros; ``None`` if none works."""
    is_of_size = isinstance(error, RuntimeError | ValueError | AssertionError)
    if adapter is None or not is_of_size or isinstance(error, torch.OutOfMemoryError):
        return None
    parameter = next(module.parameters(), torch.empty(0))
    for divisor in _DIVISORS:
        near = tuple(-(-n // divisor) * divisor for n in size)
        if near != tuple(size) and _accepts(module, adapter, parameter.new_zeros(1, 3, *near)):
            return (
                f"failed on images of {size[0]} x {size[1]}, and takes {near[0]} x {near[1]}, "
                f"whose sides are multiples of {divisor}. Resize them without a crop, as in "
                f"preprocess=torchvision.transforms.v2.Resize({near}), and normalize as in the "
                "network's training"
            )
    return None


def _accepts(module, adapter, images):
    try:
        with torch.no_grad():
            adapter(module, images)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def refuse_unhookable(module, layers):
    """Raise if layers are in a module that does not call its layers as Python modules.

    Parameters
    ----------
    module : torch.nn.Module
    layers : list of str

    Raises
    ------
    ValueError
    """
    for layer in layers:
        parts, child = layer.split("."), module
        for n in range(len(parts) + 1):
            path, inside = ".".join(parts[:n]), ".".join(parts[n:])
            # Not get_submodule, which scripted modules refuse.
            child = getattr(child, parts[n - 1]) if n else child
            why = _why_unhookable(child, inside)
            if why is not None:
                name = f"The module {path!r}" if path else "The network"
                raise ValueError(f"{name} {why}, so that layer {layer!r} can't be read.")


def _why_unhookable(child, inside):
    if isinstance(child, torch.jit.ScriptModule):
        return (
            "is scripted (torch.jit), and hooks do not run in it: pass the module that was "
            "scripted or traced"
        )
    if isinstance(child, torch.fx.GraphModule) and inside and not _calls(child, inside):
        return (
            "is an exported program (torch.export), which has weights but no layers that run: "
            "pass torch.export.unflatten(program), or the module that was exported"
        )
    if re.match(r"torch\.ao\.nn\.(intrinsic\.)?quantized(?!\.dynamic)", type(child).__module__):
        return (
            "is statically quantized, and its outputs are integers: pass the original network, or "
            "quantize it dynamically"
        )
    return None


def _calls(graph_module, path):
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_module"]
    return any(path == t or path.startswith(f"{t}.") or t.startswith(f"{path}.") for t in targets)


def explain_silence(module, missing, ran):
    """Explain why layers did not run in a successful pass.

    Parameters
    ----------
    module : torch.nn.Module
    missing : list of str
        The layers; empty to explain the module as a whole.
    ran : collection of str
        Names of all layers that ran.

    Returns
    -------
    str or None
        ``None`` if some layers ran and no layer is missing.
    """
    if not ran:
        return (
            f"No layer of {type(module).__name__} ran, although the pass succeeded: it calls "
            "a module that is not one of its submodules, such as a copy of itself, or compiled "
            "code. Pass the inner module that runs."
        )
    if not missing:
        return None
    return (
        f"The layers {missing} did not run in the forward pass. Choose layers that "
        "list_layers(model, input_size) shows."
    )
