"""The handle by which an estimator holds a torch module."""

import hashlib
import threading
import warnings
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn


class TorchModel:
    """A handle on a torch module that clones share.

    scikit-learn's ``clone`` deep-copies the parameters of an estimator, and joblib can't hash a
    module. A ``TorchModel`` is cloned as a new handle on the same module, has a fingerprint of the
    weights, a short repr, and is pickled by its builder where it has one.

    Parameters
    ----------
    source : torch.nn.Module or callable
        The module, or a builder: a callable without arguments that returns it. A builder is called
        when the module is first needed. Make it an importable function, or a
        ``functools.partial`` of one, so that it can be pickled.
    forward : callable, default=None
        How to run the module: called as ``forward(module, images)`` with a tensor of shape
        (n_images, 3, height, width). ``None`` calls ``module(images)``; torchvision's detectors
        and the models of Hugging Face are recognised and called as they want it. A network that
        resizes or pads inside needs a ``forward`` with a method ``frame(module, size)``, which for
        images of ``size`` gives the (height, width) that the first layer sees, and the
        (height, width) of the image in the upper left corner of that.

    Attributes
    ----------
    module : torch.nn.Module
        The module itself, built on first use.
    forward : callable or None
        As given.
    has_builder : bool
        Whether ``source`` is a builder.

    Raises
    ------
    TypeError
        If ``source`` is neither, the builder returns something else than a module, or ``forward``
        can't be called.

    Notes
    -----
    A handle with a builder is pickled without weights. If its module was built before, the pickle
    carries the fingerprint, and the first use after loading raises a ``ValueError`` where the
    builder gives other weights.

    Examples
    --------
    >>> from functools import partial
    >>> from sklearn.base import clone
    >>> from torch import nn
    >>> from sklearn_loce import TorchModel
    >>> model = TorchModel(partial(nn.Conv2d, 3, 8, kernel_size=3))
    >>> model
    TorchModel(builder=Conv2d)
    >>> clone(model).module is model.module
    True
    >>> model
    TorchModel(Conv2d, 224 parameters)

    A network that wants a dict, and pads its images to the right and below so that both sides are
    multiples of 32. An instance of an importable class can be pickled; a lambda can't.

    >>> import torch
    >>> class PadTo32:
    ...     def __call__(self, module, images):
    ...         return module({"image": images})
    ...
    ...     def frame(self, module, size):
    ...         return tuple(-(-n // 32) * 32 for n in size), size
    >>> class Padding(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    ...
    ...     def forward(self, batch):
    ...         height, width = batch["image"].shape[-2:]
    ...         below_and_right = (0, -width % 32, 0, -height % 32)
    ...         return {"maps": self.body(nn.functional.pad(batch["image"], below_and_right))}
    >>> from sklearn_loce import ActivationExtractor
    >>> extract = ActivationExtractor(TorchModel(Padding(), forward=PadTo32()), "body")
    >>> extract(torch.zeros(1, 3, 50, 70))["body"].shape
    torch.Size([1, 8, 32, 48])
    """

    def __init__(self, source, *, forward=None):
        if isinstance(source, type) or not callable(source):
            raise TypeError(
                f"TorchModel takes a torch.nn.Module or a builder that returns one, got {source!r}."
            )
        if forward is not None and not callable(forward):
            raise TypeError(f"forward must be called as forward(module, images), got {forward!r}.")
        self._cell = _Cell(source)
        self.forward = forward

    @property
    def module(self):
        """The torch module, built on first use."""
        return self._cell.module()

    @property
    def has_builder(self):
        """Whether the module is built by a callable, and so can be built again elsewhere."""
        return self._cell.builder is not None

    def fingerprint(self):
        """Hash the architecture and the weights as they are now.

        Returns
        -------
        str
            Hexadecimal digest, equal in every process.
        """
        return fingerprint(self.module)

    def __sklearn_clone__(self):
        clone = type(self).__new__(type(self))
        clone._cell = self._cell
        clone.forward = self.forward
        return clone

    def __repr__(self):
        return f"TorchModel({self._cell.describe()})"


class _Cell:
    """What the clones of a handle share: builder, module once built, and vectors in memory."""

    def __init__(self, source):
        is_module = isinstance(source, nn.Module)
        self.builder = None if is_module else source
        self.built = source if is_module else None
        self.expected = None
        self.rows = None

    def module(self):
        if self.built is None:
            self.built = self._build()
        return self.built

    def _build(self):
        module = self.builder()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"The builder {_name(self.builder)} must return a torch.nn.Module, got {module!r}."
            )
        if self.expected is not None and fingerprint(module) != self.expected:
            raise ValueError(
                f"The builder {_name(self.builder)} gives other weights than the module that was "
                "pickled. Let the builder load the weights, or wrap the module itself: "
                "TorchModel(module)."
            )
        return module

    def describe(self):
        if self.built is None:
            return f"builder={_name(self.builder)}"
        n_parameters = sum(p.numel() for p in self.built.parameters())
        return f"{type(self.built).__name__}, {n_parameters:,} parameters"

    def __getstate__(self):
        if self.builder is None:
            return self.__dict__ | {"rows": None}
        expected = self.expected if self.built is None else fingerprint(self.built)
        return {"builder": self.builder, "built": None, "expected": expected, "rows": None}


def _name(builder):
    builder = getattr(builder, "func", builder)
    return getattr(builder, "__qualname__", type(builder).__name__)


def fingerprint(module):
    """Hash a module's architecture and weights, equal in every process."""
    digest = hashlib.sha256(repr(module).encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
            digest.update(raw.tobytes())
        else:
            digest.update(f"{name}:{value!r}:".encode())
    return digest.hexdigest()


class WrappedNetwork(nn.Module):
    """A module that runs another one, its ``network``, and calls it as that wants it.

    It has a ``forward(images, shown=None)``, and a method ``frame(size)`` that tells what its
    network makes of an image of ``size``; see :class:`PlainAdapter`.
    """


def innermost(module):
    """Give the network in a wrapped one; any other module as it is."""
    while isinstance(module, WrappedNetwork):
        module = module.network
    return module


def as_module(model):
    """Give the module of a handle, or the module itself."""
    return model.module if isinstance(model, TorchModel) else model


def device_of(module):
    """Give the device of a module's first parameter or buffer; the CPU where it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def dtype_of(module):
    """Give the dtype of a module's first floating parameter; float32 where it has none."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def _device_named(device):
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is no device of torch. Pass None to leave the network where it is, "
            "or a name such as 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error


def resolve_device(device, module):
    """Turn the parameter ``device`` into a device that is there.

    ``None`` leaves the module where it is; so does, with a warning, a device that is not
    available here. A name that torch does not know is a ``ValueError``, and so is the meta device,
    which has no numbers.
    """
    device = None if device is None else _device_named(device)
    if "meta" in (device_of(module).type, "cpu" if device is None else device.type):
        raise ValueError(
            "The meta device holds no numbers, so nothing can be computed there. Build the network "
            "with its weights on another device, and pass that or device=None."
        )
    if device is None:
        return device_of(module)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        here = device_of(module)
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"Device {str(device)!r} is not available ({reason}); using {str(here)!r}.",
            stacklevel=3,
        )
        return here
    return device


_LOCKS = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(module):
    # Wrapped or not, a network is one: its hooks would see the passes of another thread.
    module = innermost(module)
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(module, threading.RLock())


@contextmanager
def evaluating(module, device):
    """Lend out a module in evaluation mode on a device; give it back as it was.

    One thread has it at a time: clones share the module, and hooks and modes belong to it.
    """
    with _lock_of(module):
        yield from _lend(module, device)


def _lend(module, device):
    home = device_of(module)
    modes = {child: child.training for child in module.modules()}
    try:
        module.eval()
        if device != home:
            module.to(device)
        yield module
    finally:
        if device != home:
            module.to(home)
        for child, training in modes.items():
            child.training = training
