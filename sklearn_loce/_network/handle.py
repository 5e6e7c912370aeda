"""The handle by which an estimator holds a network, and the replica that a run works on."""

import copy
import functools
import os
import threading
import types
from contextlib import contextmanager

import torch
from torch import nn

from .._warnings import warn_user
from .identity import digest_network


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
        """Hash the network as it is now.

        Returns
        -------
        str
            Hexadecimal digest of the bytes of weights and buffers, the classes of all modules,
            their plain attributes, hooks, the compiled code of your own classes, and ``forward``;
            equal in every process with the same version of Python.
        """
        return digest_network(self.module, self.forward).hex()

    def _shared_store(self, make):
        """Give the vectors in memory that the clones of this handle share; ``make`` makes them."""
        if self._cell.rows is None:
            with _BUILDING[-1]:
                self._cell.rows = make() if self._cell.rows is None else self._cell.rows
        return self._cell.rows

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
            with _BUILDING[-1]:
                self.built = self.built or self._build()
        return self.built

    def _build(self):
        module = self.builder()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"The builder {_name(self.builder)} must return a torch.nn.Module, got {module!r}."
            )
        if self.expected is not None and digest_network(module) != self.expected:
            raise ValueError(
                f"The builder {_name(self.builder)} gives another network than the one that was "
                "pickled: weights, classes or attributes differ. Let the builder make all of it, "
                "or wrap the module itself: TorchModel(module)."
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
        expected = self.expected if self.built is None else digest_network(self.built)
        return {"builder": self.builder, "built": None, "expected": expected, "rows": None}


# Threads that share a handle build its module once. The last lock counts: a child process takes a
# new one, since a thread that was not forked with it may have held the other.
_BUILDING = [threading.RLock()]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _BUILDING.append(threading.RLock()))


def _name(builder):
    builder = getattr(builder, "func", builder)
    return getattr(builder, "__qualname__", type(builder).__name__)


class WrappedNetwork(nn.Module):
    """A module that runs another one, its ``network``, and calls it as that requires.

    It has a ``forward(images, shown=None)``, and a method ``frame(size)`` that gives what its
    network makes of an image of ``size``; see :class:`PlainAdapter`.
    """


def innermost(module):
    """Give the network in a wrapped one; any other module as it is."""
    while isinstance(module, WrappedNetwork):
        module = module.network
    return module


def as_module(model):
    """Give the module of a handle, or the module itself; that inside where it is compiled."""
    module = model.module if isinstance(model, TorchModel) else model
    return getattr(module, "_orig_mod", module)


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
        warn_user(f"Device {str(device)!r} is not available ({reason}); using {str(here)!r}.")
        return here
    return device


# Buffers up to this many elements are copied: a network may count its passes in one.
_LARGE_BUFFER = 2**20


def replicate(module, device=None, runner=None):
    """Copy a network for a run; the weights stay in the memory where they are.

    Modules, modes, hooks and plain attributes are the replica's own: nothing that happens in a pass
    reaches the user's module, nor the pass of another thread. A replica's modules have a mark,
    ``_is_replica``, and need not be copied again.

    Parameters
    ----------
    module : torch.nn.Module
    device : torch.device, default=None
        Where the replica shall be; ``None`` leaves it where the module is.
    runner : callable, default=None
        What calls the module, if that is code of the user's.

    Returns
    -------
    torch.nn.Module or None
        In evaluation mode. ``None`` where the module can't be copied, or where its own code would
        run the original.
    """
    originals = list(module.modules())
    functions = [runner, *_added_functions(originals)]
    if any(_reaches(function, originals) for function in functions):
        return None
    # Where evaluation mode is more than a flag, such as merged weights, it needs weights to change.
    is_plain = not any(map(_has_own_modes, originals)) or not any(m.training for m in originals)
    memo = {}
    pairs = [(tensor, _alias(tensor, share=is_plain)) for tensor in _tensors_of(originals)]
    memo.update({id(tensor): twin for tensor, twin in pairs})
    try:
        replica = copy.deepcopy(module, memo)
    except Exception:  # a __deepcopy__ or __reduce__ may raise anything
        return None
    copies = list(replica.modules())
    if len(copies) != len(originals) or {*map(id, copies)} & {*map(id, originals)}:
        return None
    _run_eagerly(copies, memo)
    for child in copies:
        child._is_replica = True
    if any(child.training for child in copies):
        replica.eval()
    if not is_plain:
        _share_equal(pairs)
    return replica if device is None else replica.to(device)


def _tensors_of(modules):
    """Give the weights, the buffers, and the tensors among plain attributes."""
    held = [part for child in modules for part in vars(child).values()]
    tensors = []
    while held:
        value = held.pop()
        if isinstance(value, torch.Tensor):
            tensors.append(value)
        elif type(value) is dict or isinstance(value, list | tuple):
            held += value.values() if isinstance(value, dict) else value
    return list({id(tensor): tensor for tensor in tensors}.values())


def _alias(tensor, *, share):
    """Give a tensor of its own for the replica, over the same memory if that may be shared."""
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        return tensor  # a subclass, such as a quantized weight, may not survive a detach
    is_counter = not isinstance(tensor, nn.Parameter) and tensor.numel() <= _LARGE_BUFFER
    values = tensor.detach()
    values = values.clone() if is_counter or not share else values
    is_weight = isinstance(tensor, nn.Parameter)
    return nn.Parameter(values, requires_grad=False) if is_weight else values


def _share_equal(pairs):
    """Let weights that evaluation mode left as they were lie where the original's lie."""
    for original, twin in pairs:
        if isinstance(twin, nn.Parameter) and twin is not original and torch.equal(original, twin):
            twin.data = original.detach()


def _has_own_modes(module):
    kind = type(module)
    return kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


def _run_eagerly(modules, memo):
    """Leave compiled code out: hooks inside of it do not run."""
    for child in modules:
        if hasattr(child, "_orig_mod"):
            child.forward = child._orig_mod.__call__
        elif (plain := _uncompiled(vars(child).get("forward"))) is not None:
            child.forward = copy.deepcopy(plain, memo)


def _uncompiled(function):
    return getattr(function, "_torchdynamo_orig_callable", None)


def _added_functions(modules):
    """Yield the functions that were put on modules: hooks, and methods of single instances."""
    for child in modules:
        for hooks in (child._forward_pre_hooks, child._forward_hooks):
            yield from hooks.values()
        for name, value in vars(child).items():
            is_compiled = hasattr(child, "_orig_mod") or _uncompiled(value) is not None
            if callable(value) and not is_compiled and name != "_compiled_call_impl":
                yield value


def _reaches(function, modules, depth=3):
    """Say whether a function holds one of the modules where no copy can replace it."""
    while isinstance(function, functools.partial | types.MethodType):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    if not isinstance(function, types.FunctionType) or not depth:
        return False
    held = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    names = function.__code__.co_names
    held += [function.__globals__[name] for name in names if name in function.__globals__]
    owners = {id(getattr(value, "__self__", value)) for value in held}
    if owners & {*map(id, modules)}:
        return True
    return any(_reaches(value, modules, depth - 1) for value in held if callable(value))


def _is_filled(cell):
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


@contextmanager
def lend(module, device):
    """Lend out a module that can't be copied, in evaluation mode; give it back as it was."""
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
        module.train(modes[module])  # for modules whose train() does more than set a flag
        for child, training in modes.items():
            child.training = training
