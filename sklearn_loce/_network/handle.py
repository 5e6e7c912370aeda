"""The handle through which an estimator holds a network, and the replica that a run uses."""

import copy
import functools
import os
import threading
import types
import weakref
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin
from torchvision.models import WeightsEnum, get_model, get_model_weights

from .._warnings import warn_user
from .identity import digest_network, global_names, is_library


class TorchModel:
    """A handle on a torch module that clones share.

    scikit-learn's ``clone`` deep-copies the parameters of an estimator, and joblib cannot hash a
    module. A clone of a ``TorchModel`` is a new handle on the same module. A ``TorchModel`` has a
    fingerprint and a short repr. If it has a builder, it is pickled without the module. The module
    stays unchanged: estimators run a copy of it that shares the weights.

    Parameters
    ----------
    source : torch.nn.Module or callable
        The module, or a builder: a callable without arguments that returns it. A builder is called
        when the module is first needed. Make it an importable function, or a
        ``functools.partial`` of one, so that it can be pickled.
    weights : torchvision WeightsEnum, default=None
        Passed to the builder as ``weights=``, such as ``ResNet50_Weights.DEFAULT``. They also
        define the preprocessing of the training; ``weights`` of a ``functools.partial`` do so, too.
    preprocess : torchvision Weights, their ``.transforms()``, Hugging Face image processor or \
            callable, default=None
        The preprocessing of the training, for ``preprocess="auto"`` of the estimators. ``None``
        uses ``weights``. Without weights, it is read from networks of timm, and from networks of
        Hugging Face whose processor is on this machine. Nothing is downloaded.
    forward : callable, default=None
        Function that runs the module, called as ``forward(module, images)``. ``images`` is a tensor
        of shape (n_images, 3, height, width), and ``module`` is the copy. ``None`` calls
        ``module(images)``; torchvision's detectors are called with a list, and models of Hugging
        Face by keyword. A network that resizes or pads images itself needs a ``forward`` with a
        method ``frame(module, size)``. For images of ``size``, the method returns the (height,
        width) of the first layer's input, and the (height, width) of the image in the upper left
        corner of this input.

    Attributes
    ----------
    module : torch.nn.Module
        The module itself, built on first use.
    preprocess : WeightsEnum, callable or None
        The parameter ``preprocess``, or the weights if it is None.
    forward : callable or None
        The parameter ``forward``.
    has_builder : bool
        Whether ``source`` is a builder.

    Raises
    ------
    TypeError
        If ``source`` is neither a module nor a callable, the builder does not return a module,
        ``weights`` are not a member of a ``WeightsEnum`` or are given with a module, or
        ``preprocess`` or ``forward`` is not callable.

    See Also
    --------
    LoCETransformer : Accepts a handle as ``model``.
    list_layers : The layers of a network.

    Notes
    -----
    A handle with a builder is pickled without weights. If its module was already built, the pickle
    contains a digest of the module. The first use after loading raises a ``ValueError`` if the
    builder returns a different network, with other weights, classes or attributes.

    Clones share up to 128 MB of computed vectors. A pickle does not include them.

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

    The preprocessing of the training is known before the network is built.

    >>> from torchvision.models import ResNet50_Weights, resnet50
    >>> TorchModel(resnet50, weights=ResNet50_Weights.IMAGENET1K_V2).preprocess
    ResNet50_Weights.IMAGENET1K_V2

    The next network takes a dict, and pads its images to the right and below until both sides are
    multiples of 32. An instance of an importable class can be pickled; a lambda cannot.

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

    def __init__(self, source, *, weights=None, preprocess=None, forward=None):
        if isinstance(source, type) or not callable(source):
            raise TypeError(
                f"TorchModel takes a torch.nn.Module or a builder that returns one, got {source!r}."
            )
        if forward is not None and not callable(forward):
            raise TypeError(f"forward must be called as forward(module, images), got {forward!r}.")
        if not (preprocess is None or isinstance(preprocess, WeightsEnum) or callable(preprocess)):
            raise TypeError(
                "preprocess must be the preprocessing of the network's training: torchvision's "
                f"weights, an image processor or a transform; got {preprocess!r}."
            )
        source = source if weights is None else _with_weights(source, weights)
        self._cell = _Cell(source)
        self.preprocess = _weights_of(source) if preprocess is None else preprocess
        self.forward = forward

    @property
    def module(self):
        """The torch module, built on first use."""
        cell = self._cell
        if cell.built is None:
            with _BUILDING[-1]:
                cell.built = cell.built or cell.build()
        return cell.built

    @property
    def has_builder(self):
        """Whether a callable builds the module, so that other processes can build it, too."""
        return self._cell.builder is not None

    def fingerprint(self):
        """Hash the present state of the network.

        Returns
        -------
        str
            Hexadecimal digest of the bytes of weights and buffers, the classes of all modules,
            their plain attributes, hooks, the compiled code of your own classes, and ``forward``.
            It is equal in every process with the same version of Python. It does not include
            globals, settings of other modules and patched functions of libraries. For these,
            estimators also compare the activations of a probe image.

        See Also
        --------
        RowStore : Uses such a digest as part of its keys.

        Examples
        --------
        >>> from torch import nn
        >>> from sklearn_loce import TorchModel
        >>> network = nn.Conv2d(3, 8, 3)
        >>> model = TorchModel(network)
        >>> before = model.fingerprint()
        >>> _ = nn.init.zeros_(network.weight)
        >>> model.fingerprint() == before
        False
        """
        return digest_model(self).hex()

    def _shared_store(self, make):
        """Return the store in memory that the clones of this handle share; ``make`` creates it."""
        if self._cell.rows is None:
            with _BUILDING[-1]:
                self._cell.rows = make() if self._cell.rows is None else self._cell.rows
        return self._cell.rows

    def __sklearn_clone__(self):
        clone = type(self).__new__(type(self))
        clone._cell = self._cell
        clone.preprocess = self.preprocess
        clone.forward = self.forward
        return clone

    def __repr__(self):
        return f"TorchModel({self._cell.describe()})"


class _Cell:
    """The shared part of a handle's clones: builder, built module, and vectors in memory."""

    def __init__(self, source):
        is_module = isinstance(source, nn.Module)
        self.builder = None if is_module else source
        self.built = source if is_module else None
        self.expected = None
        self.rows = None

    def build(self):
        module = self.builder()
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"The builder {_name(self.builder)} must return a torch.nn.Module, got {module!r}."
            )
        if self.expected is not None and digest_network(module) != self.expected:
            raise ValueError(
                f"The builder {_name(self.builder)} returns another network than the pickled "
                "one: weights, classes or attributes differ. Let the builder make all of it, or "
                "wrap the module itself: TorchModel(module)."
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


# Threads that share a handle build its module once. The last lock is in use: a child process
# appends a new one, because the old lock may be held by a thread that does not exist in the child.
_BUILDING = [threading.RLock()]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _BUILDING.append(threading.RLock()))


def _with_weights(builder, weights):
    """Return a builder that builds with weights."""
    if not isinstance(weights, WeightsEnum):
        raise TypeError(
            "weights must be a member of a WeightsEnum of torchvision, such as "
            f"ResNet50_Weights.DEFAULT, got {weights!r}."
        )
    if isinstance(builder, nn.Module):
        raise TypeError(
            f"weights={weights} need a builder, but {type(builder).__name__} is already built. "
            "Pass the function that builds it, or preprocess=weights if it has these weights."
        )
    return functools.partial(builder, weights=weights)


def _torchvision_function(builder):
    """Return the function of a partial; of ``get_model``, the name that it builds by."""
    if builder.func is not get_model:
        return builder.func
    return builder.keywords.get("name") or builder.args[0]


def _weights_of(builder):
    """Return the torchvision weights of a partial; ``None`` for other builders."""
    weights = getattr(builder, "keywords", {}).get("weights")
    if isinstance(weights, str):
        try:
            return get_model_weights(_torchvision_function(builder)).verify(weights)
        # torchvision 0.21 raises AttributeError if ``weights`` of a function has no annotation.
        except (ValueError, KeyError, IndexError, AttributeError):
            return None  # not a function of torchvision, or its call will raise an error
    return weights if isinstance(weights, WeightsEnum) else None


def _name(builder):
    builder = getattr(builder, "func", builder)
    return getattr(builder, "__qualname__", type(builder).__name__)


def as_module(model):
    """Return the module of a handle, or the module itself; the original of a compiled module."""
    module = model.module if isinstance(model, TorchModel) else model
    return getattr(module, "_orig_mod", module)


def digest_model(model):
    """Hash the network of a handle together with its ``forward``, or a module itself."""
    forward = model.forward if isinstance(model, TorchModel) else None
    return digest_network(as_module(model), forward)


def device_of(module):
    """Return the device of a module's first parameter or buffer; the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def dtype_of(module):
    """Return the dtype of a module's first floating parameter; float32 if it has none."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


def weight_versions(module):
    """Return torch's counts of writes to the weights."""
    return [p._version for p in module.parameters() if not p.is_inference()]


def _device_named(device):
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a device of torch. Pass None to leave the network where "
            "it is, or a name such as 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error


def resolve_device(device, module):
    """Convert the parameter ``device`` to an available device.

    ``None`` means the device of the module. A device that is not available also means that device,
    with a warning. A name that torch does not know raises a ``ValueError``, and so does the meta
    device, which has no numbers.
    """
    device = None if device is None else _device_named(device)
    tensors = [*module.parameters(), *module.buffers()]
    if any(isinstance(tensor, UninitializedTensorMixin) for tensor in tensors):
        raise ValueError(
            "Weights of the network are not initialized yet, for example those of torch's lazy "
            "modules before their first pass. Pass an image through it once, or load its weights."
        )
    if "meta" in (device_of(module).type, "cpu" if device is None else device.type):
        raise ValueError(
            "The meta device has no numbers, so nothing can be computed there. Build the network "
            "with its weights on another device, and pass this device or device=None."
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


# Buffers and weights of up to this many elements are copied: a network may count its passes in one.
_LARGE_BUFFER, _SMALL_WEIGHT = 2**20, 2**6
_COPYING = {f"__{name}__" for name in ("deepcopy", "reduce", "reduce_ex", "getstate", "slots")}


def replicate(module, device=None, runner=None):
    """Copy a network for a run; the copy shares the memory of the weights.

    The replica has its own modules, modes, hooks and plain attributes. So a pass changes neither
    the user's module nor the pass of another thread. The modules of a replica have the attribute
    ``_is_replica``, and need not be copied again.

    Parameters
    ----------
    module : torch.nn.Module
    device : torch.device, default=None
        Device of the replica; ``None`` means the device of the module.
    runner : callable, default=None
        The user's function that calls the module, if there is one.

    Returns
    -------
    torch.nn.Module or None
        The replica in evaluation mode. ``None`` if the module cannot be copied, or if its own code
        would run the original.
    """
    originals = list(module.modules())
    held = list(_reach([module], _parts_of))
    if _runs_originals(runner, originals, held):
        return None
    # If evaluation mode changes weights, such as merged ones, it needs its own copies.
    is_plain = not any(child.training for child in originals) or all(
        kind.train is nn.Module.train and kind.eval is nn.Module.eval
        for kind in map(type, originals)
    )
    tensors = [part for part in held if isinstance(part, torch.Tensor)]
    pairs = [(tensor, _alias(tensor, share=is_plain)) for tensor in tensors]
    memo = {id(tensor): twin for tensor, twin in pairs}
    try:
        replica = copy.deepcopy(module, memo)
    except Exception:  # a __deepcopy__ or __reduce__ may raise anything
        return None
    copies = list(replica.modules())
    if len(copies) != len(originals) or {*map(id, copies)} & {*map(id, originals)}:
        return None
    # A class of the user may be copied by its own code, which may omit parts.
    own = {base for child in originals for base in type(child).__mro__ if not is_library(base)}
    has_own_copying = any(not _COPYING.isdisjoint(vars(base)) for base in own)
    if has_own_copying and digest_network(replica) != digest_network(module):
        return None
    _run_eagerly(copies, memo)
    for child in copies:
        child._is_replica = True
    if any(child.training for child in copies):
        replica.eval()
    if not is_plain:
        _share_equal(pairs)
    return replica if device is None else replica.to(device)


# Attributes of a module from torch.compile, and of a module that was compiled in place.
_COMPILED = ("forward", "dynamo_ctx", "_compiled_call_impl")


def _parts_of(value):
    """Return the parts of an object that its deep copy replaces."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [*value]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, (type, types.ModuleType, types.FunctionType, torch.Tensor, np.ndarray)):
        return []
    attributes = getattr(value, "__dict__", {})
    if not isinstance(value, nn.Module):
        return [*attributes.values()]
    left_out = _COMPILED if hasattr(value, "_orig_mod") else ("_compiled_call_impl",)
    parts = [part for name, part in attributes.items() if name not in left_out]
    return [_uncompiled(part) or part for part in parts]


def _parts_of_code(value):
    """Return the parts of an object, including those of functions and weak references."""
    if isinstance(value, weakref.ref):
        return [value()]
    if not isinstance(value, types.FunctionType):
        return _parts_of(value)
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    defaults = [value.__defaults__, value.__kwdefaults__, getattr(value, "__wrapped__", None)]
    names = () if is_library(value) else global_names(value.__code__)
    known = [value.__globals__[name] for name in names if name in value.__globals__]
    return cells + defaults + known


_MOST_REACHED = 50_000  # objects; the limit keeps a hook that holds a data set at milliseconds


def _reach(roots, parts_of):
    """Yield the roots and all their parts, direct or indirect, each once."""
    seen, left = {}, [*roots]
    while left and len(seen) < _MOST_REACHED:
        value = left.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type(None))):
            continue
        seen[id(value)] = value
        yield value
        left += parts_of(value)


def _runs_originals(runner, originals, held):
    """Return whether code holds an original module where a deep copy cannot replace it."""
    kinds = {kind for child in originals for kind in type(child).__mro__ if not is_library(kind)}
    held = [*held, *(part for kind in kinds for part in vars(kind).values())]
    fixed = [part for part in held if isinstance(part, types.FunctionType | weakref.ref)]
    own = {*map(id, originals)}
    return any(id(part) in own for part in _reach([runner, *fixed], _parts_of_code))


def _alias(tensor, *, share):
    """Return a new tensor for the replica, over the same memory if it may be shared."""
    is_weight = isinstance(tensor, nn.Parameter)
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        if not _is_plain(tensor):
            return tensor  # for example a quantized weight, which detach may break
        tensor = tensor.as_subclass(torch.Tensor)
    is_counter = tensor.numel() <= (_SMALL_WEIGHT if is_weight else _LARGE_BUFFER)
    values = tensor.detach()
    values = values.clone() if is_counter or not share else values
    return nn.Parameter(values, requires_grad=False) if is_weight else values


_SPECIAL = ("__torch_function__", "__torch_dispatch__", "__tensor_flatten__")


def _is_plain(tensor):
    """Return whether a subclass of Tensor computes like Tensor, so that it may be replaced."""
    own = [vars(kind) for kind in type(tensor).__mro__ if not is_library(kind)]
    is_special = any(name in kind for kind in own for name in _SPECIAL)
    return bool(own) and not is_special and vars(tensor).keys() <= {"_is_param"}


def _share_equal(pairs):
    """Share the memory of the weights that evaluation mode did not change."""
    for original, twin in pairs:
        if isinstance(twin, nn.Parameter) and twin is not original and torch.equal(original, twin):
            twin.data = original.detach()


def _run_eagerly(modules, memo):
    """Replace compiled code by the original code, because hooks do not run in compiled code."""
    for child in modules:
        for name, value in [*vars(child).items()]:
            if (plain := _uncompiled(value)) is not None:
                vars(child)[name] = copy.deepcopy(plain, memo)
        if hasattr(child, "_orig_mod"):
            child.forward = child._orig_mod.__call__


def _uncompiled(function):
    is_function = isinstance(function, types.FunctionType)
    return getattr(function, "_torchdynamo_orig_callable", None) if is_function else None


def _is_filled(cell):
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


# The thread of each lent module. A child process starts with an empty dict: it has no such threads.
_LENT, _LENDING = {}, [threading.Lock()]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: (_LENT.clear(), _LENDING.append(threading.Lock())))


def refuse_shared(module):
    """Raise because a second thread uses a lent module."""
    raise RuntimeError(
        f"Another thread uses {type(module).__name__} during a run. It can't be copied, so only "
        "one thread may use it at a time. Pass a network that copy.deepcopy can copy, or do not "
        "use it in other threads."
    )


@contextmanager
def lend_module(module, device):
    """Use a module that cannot be copied, in evaluation mode; restore its state afterward."""
    home, me = device_of(module), threading.get_ident()
    modes = {child: child.training for child in module.modules()}
    with _LENDING[-1]:
        if any(_LENT.get(id(child), me) != me for child in modes):
            refuse_shared(module)
        newly = [id(child) for child in modes if id(child) not in _LENT]
        _LENT.update(dict.fromkeys(newly, me))
    try:
        module.eval()
        if device != home:
            module.to(device)
        yield module
    finally:
        if device != home:
            module.to(home)
        module.train(modes[module])  # needed if train() does more than set a flag
        for child, training in modes.items():
            child.training = training
        for key in newly:
            _LENT.pop(key, None)
