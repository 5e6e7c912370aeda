"""How to call the networks of a family, and what they make of an image before their first layer."""

import inspect
import re
from dataclasses import dataclass
from numbers import Integral
from operator import gt

import torch

from .families import explain_size, is_detector, is_transformers, only_size
from .handle import TorchModel, as_module


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

        ``shown``, (n_images, height, width) bool, marks the pixels that are image and not padding.
        """
        return module(images) if self.forward is None else self.forward(module, images)

    def frame(self, module, size):
        """Return what becomes of an image of ``size`` inside the network."""
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
        """Call the detector's own transform on a tensor that has a size but no pixels."""
        batch, _ = module.transform([torch.empty(3, *size, device="meta")])
        return Frame(tuple(batch.tensors.shape[-2:]), tuple(batch.image_sizes[0]))


class TransformersAdapter(PlainAdapter):
    """Call a Hugging Face model by keyword, with a mask of the padding if it takes one."""

    def __call__(self, module, images, shown=None):
        """Run the model on ``pixel_values``, and ``pixel_mask`` where there is one."""
        inputs = {module.main_input_name: images}
        if shown is not None and "pixel_mask" in inspect.signature(module.forward).parameters:
            inputs["pixel_mask"] = shown.to(images.device).long()
        return module(**inputs)


_ADAPTERS = (
    (is_detector, DetectionAdapter),
    (is_transformers, TransformersAdapter),
)


def adapter_of(model):
    """Choose how to call a network: as its handle says, else by its family."""
    if isinstance(model, TorchModel) and model.forward is not None:
        return PlainAdapter(model.forward)
    module = as_module(model)
    return next((adapter() for fits, adapter in _ADAPTERS if fits(module)), PlainAdapter())


# The usual strides of networks, and the patches of 14 pixels of DINOv2.
_DIVISORS = (2, 4, 8, 14, 16, 28, 32, 64)


def explain_failure(module, size, error, *, began, adapter=None):
    """Make a clear error of one that a network raised because of how it was called.

    Parameters
    ----------
    module : torch.nn.Module
    size : tuple of int
        (height, width) of the images.
    error : Exception
    began : bool
        Whether a layer had run by then.
    adapter : PlainAdapter, default=None
        Calls the network, to try other sizes. ``None`` tries none.

    Returns
    -------
    ValueError or None
        ``None`` where the failure is of another kind.
    """
    name, reason = type(module).__name__, f"{type(error).__name__}: {error}"
    n_channels = None if began else _asked_channels(module, error)
    if n_channels is not None:
        return ValueError(f"{name} {_explain_channels(n_channels)} ({reason})")
    # Behind its first layers, a network that takes several sizes fails for other reasons.
    about_size = None if began and only_size(module) is None else explain_size(module, size)
    about_size = about_size or _explain_divisor(module, size, error, adapter)
    if about_size is not None:
        return ValueError(f"{name} {about_size}. ({reason})")
    if not began and isinstance(error, TypeError | ValueError | LookupError | AttributeError):
        return ValueError(
            f"{name} failed on a tensor of images before its first layer ({reason}). If it takes "
            "a list, a dict or more than images, say how to call it: TorchModel(network, "
            "forward=...)."
        )
    return None


def _asked_channels(module, error):
    """Read how many channels a network takes that failed on three; ``None`` if that is not why."""
    found = re.search(r"to have (\d+) channels, but got 3 channels", str(error))
    asked = int(found[1]) if found else getattr(getattr(module, "config", None), "num_channels", 3)
    return asked if asked != 3 and ("channel" in str(error)) else None


def _explain_channels(n_channels):
    call = "images.mean(1, keepdim=True)"
    if n_channels > 3:
        call = f"torch.nn.functional.pad(images, (0, 0, 0, 0, 0, {n_channels - 3}))"
    return (
        f"takes images with {n_channels} channel{'s' * (n_channels > 1)}, and images here have 3. "
        "Say how to make those: TorchModel(network, forward=lambda module, images: "
        f"module({call})). To run in other processes, use a function that can be imported."
    )


def _explain_divisor(module, size, error, adapter):
    """Return which size a network takes, by trying it on zeros; ``None`` if none is found."""
    is_of_size = isinstance(error, RuntimeError | ValueError | AssertionError)
    if adapter is None or not is_of_size or isinstance(error, torch.OutOfMemoryError):
        return None
    parameter = next(module.parameters(), torch.empty(0))
    for divisor in _DIVISORS:
        near = tuple(-(-n // divisor) * divisor for n in size)
        if near != tuple(size) and _takes(module, adapter, parameter.new_zeros(1, 3, *near)):
            return (
                f"failed on images of {size[0]} x {size[1]}, and takes {near[0]} x {near[1]}, "
                f"whose sides are multiples of {divisor}. Resize them without a crop, as in "
                f"preprocess=torchvision.transforms.v2.Resize({near}), and normalize as in the "
                "network's training"
            )
    return None


def _takes(module, adapter, images):
    try:
        with torch.no_grad():
            adapter(module, images)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def refuse_unhookable(module, layers):
    """Raise if layers are in a module whose layers are no Python modules that are called.

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
            "is statically quantized, and puts out integers: pass the network that it was made "
            "of, or quantize that dynamically"
        )
    return None


def _calls(graph_module, path):
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_module"]
    return any(path == t or path.startswith(f"{t}.") or t.startswith(f"{path}.") for t in targets)


def explain_silence(module, missing, ran):
    """Say why layers did not run in a pass that succeeded.

    Parameters
    ----------
    module : torch.nn.Module
    missing : list of str
        The layers; may be empty where the module as a whole is in question.
    ran : collection of str
        Names of all layers that ran.

    Returns
    -------
    str or None
        ``None`` where some layers ran and none is missing.
    """
    if not ran:
        return (
            f"No layer of {type(module).__name__} ran, although the pass succeeded: it calls "
            "another module than those that it shows, such as a copy of itself, or compiled code. "
            "Pass the inner module that runs."
        )
    if not missing:
        return None
    return (
        f"The layers {missing} did not run in the forward pass. Choose layers that "
        "list_layers(model, input_size) shows."
    )
