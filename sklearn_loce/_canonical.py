"""Hashes of Python values by their content: equal in every process, of no address in memory."""

import copyreg
import functools
import hashlib
import sys
import types
import weakref
from collections import deque
from enum import Enum
from pathlib import PurePath
from pickle import PickleError

import numpy as np
import torch
from torch import nn

from ._model import TorchModel

# With the SHA instructions of today's processors the fastest function of hashlib: measured
# 1350 MB/s on one core, next to 1000 of blake2b and 730 of md5.
new_hash = hashlib.sha256

# Code of these is told apart by its own text and the library's version. Where the code of anything
# else names a global, that is followed; here it would lead through half of torch.
_LIBRARIES = sys.stdlib_module_names | {
    *("PIL", "cv2", "huggingface_hub", "joblib", "matplotlib", "numba", "numpy", "pandas"),
    *("scipy", "skimage", "sklearn", "timm", "torch", "torchvision", "transformers"),
}
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_BUILTIN_CALLABLES = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
_CODE_FIELDS = (
    *("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_exceptiontable"),
)
# What nn.Module itself keeps: training mode, hooks, and the three dicts that are hashed apart.
_MODULE_BOOKKEEPING = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
_UNPICKLABLE = (TypeError, AttributeError, NotImplementedError, PickleError, RuntimeError)


def digest(*values):
    """Hash values by their content.

    Parameters
    ----------
    *values : object
        Numbers, strings, paths, enum members, containers, arrays, tensors, functions, classes,
        modules, and instances of any class whose state can be told.

    Returns
    -------
    bytes of length 32
        Equal in every process for equal content.

    Raises
    ------
    TypeError
        If a value, or one within, has no content that can be told, such as an open file.

    Notes
    -----
    Types count: 1, 1.0, True and "1" have four digests, a list has another than a tuple of the
    same items, and a dict of another order another as well. A function counts by its code, its
    defaults, its closure and, unless it belongs to a large library, by the globals its code names;
    a class by its methods and plain attributes, and those of its bases. An object that has a
    method ``fingerprint()`` is taken at its word.

    Examples
    --------
    >>> from sklearn_loce._fingerprint import digest
    >>> digest(1) == digest(1.0)
    False
    >>> digest([1, "a"]) == digest([1, "a"])
    True
    """
    return Encoder().digest(values)


def array_bytes(array):
    """Give the bytes of an array in C order, without a copy where it is in that order."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def tensor_digest(tensor):
    """Hash a tensor's dtype, shape and values, wherever it lies and in whatever memory format."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        raise _no_content(tensor)
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    state = new_hash(f"{tensor.dtype}:{tuple(tensor.shape)}:".encode())
    if flat.numel():
        state.update(flat.view(torch.uint8).numpy())
    return state.digest()


def _no_content(value):
    return TypeError(
        f"{_short_repr(value)} of type {type(value).__module__}.{type(value).__qualname__} can't "
        "be told from others by its content. Give its class a method fingerprint() that returns a "
        "str in which all that matters about it is told, or compute without a store: memory=False."
    )


def _short_repr(value):
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _top_level(module):
    return (module or "").partition(".")[0]


def _version_of(module):
    version = getattr(sys.modules.get(_top_level(module)), "__version__", "")
    return str(version)


def _all_names(code):
    """Give all names that code loads by name, nested functions included."""
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names, *(name for inner in nested for name in _all_names(inner))}


def _named_values(names, namespace, prefix="", seen=None):
    """Yield what code finds under names in a namespace, and in the modules that it names."""
    seen = set() if seen is None else seen
    for name in sorted(names & namespace.keys()):
        value = namespace[name]
        yield prefix + name, value
        is_module = isinstance(value, types.ModuleType) and value.__name__ not in seen
        if is_module and _top_level(value.__name__) not in _LIBRARIES:
            seen.add(value.__name__)
            yield from _named_values(names, vars(value), f"{prefix}{name}.", seen)


class Encoder:
    """Writes values into a hash, in a form from which they could be read back.

    Instances, functions and classes are numbered when they are first met, and written by number
    after that, which ends cycles. Those that lie aside, as classes and globals do, wait in a queue.

    Parameters
    ----------
    tensor_digests : dict of {int: bytes}, default=None
        Digests of tensors by ``id``, where they were computed before.
    numbers : dict, default=None
        Objects that were met before, by ``id``, with their numbers.
    """

    def __init__(self, tensor_digests=None, numbers=None):
        self._tensor_digests = tensor_digests or {}
        # The objects are held with their numbers: an id may be used again after an object's end.
        self._numbers = dict(numbers or {})
        self._queue = deque()
        self._depths = {}
        self._state = new_hash()

    def digest(self, value):
        """Give the digest of one value."""
        self._encode(value)
        while self._queue:
            encode, queued = self._queue.popleft()
            encode(queued)
        return self._state.digest()

    def _write_aside(self, value):
        outer, self._state = self._state, new_hash()
        n_met, n_queued = len(self._numbers), len(self._queue)
        try:
            self._encode(value)
        except TypeError:
            # A global that the code only names, such as a lock: no reason to give up. What was met
            # on the way was not written.
            while len(self._numbers) > n_met:
                self._numbers.popitem()
            while len(self._queue) > n_queued:
                self._queue.pop()
            self._depths.clear()
            self._state = new_hash()
            self._put("kind", f"{type(value).__module__}.{type(value).__qualname__}")
        outer.update(self._state.digest())
        self._state = outer

    def _put(self, tag, payload=b""):
        if isinstance(payload, str):
            payload = payload.encode("utf-8", "surrogatepass")
        self._state.update(b"%s:%d:" % (tag.encode(), memoryview(payload).nbytes))
        self._state.update(payload)

    def _encode(self, value):
        kind = type(value)
        if kind in _ATOMS:
            return self._put(kind.__name__, value if kind in (str, bytes) else repr(value))
        if kind in _EXACT:
            return _EXACT[kind](self, value)
        for base, encode in _BY_BASE:
            if isinstance(value, base):
                return encode(self, value)
        return self._encode_instance(value)

    def _encode_all(self, tag, values):
        self._put(tag, str(len(values)))
        for value in values:
            self._encode(value)

    def _encode_container(self, value):
        if id(value) in self._depths:
            return self._put("up", str(len(self._depths) - self._depths[id(value)]))
        self._depths[id(value)] = len(self._depths)
        items = [part for item in value.items() for part in item] if type(value) is dict else value
        self._encode_all(type(value).__name__, items)
        del self._depths[id(value)]
        return None

    def _encode_set(self, value):
        # Each element by a hash of its own, for the order of a set says nothing.
        digests = [Encoder(self._tensor_digests, self._numbers).digest(item) for item in value]
        self._encode_all(type(value).__name__, sorted(digests))

    def _encode_array(self, value):
        self._put("array", f"{value.dtype.descr if value.dtype.fields else value.dtype.str}")
        self._put(type(value).__qualname__, str(value.shape))
        if value.dtype.hasobject:
            return self._encode(value.tolist())
        self._put("bytes", array_bytes(value))
        if vars_of := getattr(value, "__dict__", None):  # such as the mask of a masked array
            self._encode_attributes(vars_of)
        return None

    def _encode_tensor(self, value):
        is_plain = type(value) in (torch.Tensor, nn.Parameter)
        known = self._tensor_digests.get(id(value))
        self._put("tensor", "" if is_plain else type(value).__qualname__)
        self._put("content", tensor_digest(value) if known is None else known)

    def _encode_enum(self, value):
        self._put("enum", f"{type(value).__module__}.{type(value).__qualname__}.{value.name}")
        self._encode(value.value)

    def _encode_builtin(self, value):
        owner = getattr(value, "__self__", None)
        self._put("builtin", f"{getattr(value, '__module__', '')}.{value.__qualname__}")
        self._encode(None if isinstance(owner, types.ModuleType) else owner)

    def _is_met(self, value, what=""):
        """Write a value's number; say whether it had one."""
        key = what, id(value)
        is_met = key in self._numbers
        number, _ = self._numbers.setdefault(key, (len(self._numbers), value))
        self._put("number", str(number))
        return is_met

    def _encode_later(self, value, encode, what=""):
        if not self._is_met(value, what):
            self._queue.append((encode, value))

    def _encode_aside(self, value):
        """Write a global or an attribute of a class; what has no content counts by its type."""
        kind = type(value)
        if kind in _ATOMS or isinstance(value, types.FunctionType | type | types.ModuleType):
            self._encode(value)
        else:
            self._encode_later(value, self._write_aside, "aside")

    def _encode_function(self, value):
        self._encode_later(value, self._write_function)

    def _write_function(self, function):
        self._put("function", f"{function.__module__}.{function.__qualname__}")
        self._write_code(function.__code__)
        self._encode([function.__defaults__, function.__kwdefaults__])
        is_library = _top_level(function.__module__) in _LIBRARIES
        for cell in function.__closure__ or ():
            # What a library's decorators hold, such as a running generator, is the library's.
            self._write_cell(cell, self._encode_aside if is_library else self._encode)
        if is_library:
            return self._put("version", _version_of(function.__module__))
        self._encode_attributes(function.__dict__)
        for name, value in _named_values(_all_names(function.__code__), function.__globals__):
            self._put("global", name)
            self._encode_aside(value)
        return None

    def _write_cell(self, cell, encode):
        try:
            content = cell.cell_contents
        except ValueError:
            return self._put("empty cell")
        return encode(content)

    def _write_code(self, code):
        for field in _CODE_FIELDS:
            self._encode(getattr(code, field))
        self._encode_all("consts", code.co_consts)

    def _encode_class(self, value):
        self._encode_later(value, self._write_class)

    def _write_class(self, value):
        self._put("class", f"{value.__module__}.{value.__qualname__}")
        if _top_level(value.__module__) in sys.stdlib_module_names:
            return
        is_library = _top_level(value.__module__) in _LIBRARIES
        self._put("version", _version_of(value.__module__) if is_library else "")
        for name, attribute in sorted(vars(value).items()):
            is_code = isinstance(attribute, _CODE_IN_CLASSES)
            if is_code or not (is_library or name.startswith("__") or name == "_abc_impl"):
                self._put("attribute", name)
                self._encode_aside(attribute)
        self._encode_all("bases", value.__bases__)

    def _encode_attributes(self, attributes):
        # In the order of their names: that in which they were set says nothing.
        names = sorted(attributes)
        self._encode_all("attributes", names)
        for name in names:
            self._encode(attributes[name])

    def _encode_module(self, value):
        value = getattr(value, "_orig_mod", value)  # as torch.compile wraps it
        if callable(getattr(value, "fingerprint", None)):
            return self._encode_instance(value)
        if self._is_met(value):
            return None
        self._encode(type(value))
        for part in ("_parameters", "_buffers", "_modules"):
            self._encode(dict(getattr(value, part)))
        plain = {n: v for n, v in vars(value).items() if n not in _MODULE_BOOKKEEPING}
        return self._encode_attributes(_without_caches(value, plain))

    def _encode_instance(self, value):
        if self._is_met(value):
            return None
        own = getattr(value, "fingerprint", None)
        if callable(own):
            return self._put("fingerprint", _checked_fingerprint(value, own()))
        if isinstance(getattr(value, "py_func", None), types.FunctionType):
            # Numba's functions, which pickle gives a random number.
            return self._encode([type(value).__qualname__, value.py_func])
        self._encode(type(value))
        reduced = _reduce(value)
        if isinstance(reduced, str):
            return self._put("name", reduced)
        rebuild, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        self._encode([rebuild, arguments])
        self._write_state(value, state)
        return self._encode([list(items or ()), list(pairs or ())])

    def _write_state(self, value, state):
        if isinstance(state, dict) and all(isinstance(name, str) for name in state):
            return self._encode_attributes(_without_caches(value, state))
        return self._encode(state)


def _reduce(value):
    """Take a value apart as pickle does, which knows how for nearly everything."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        return value.__reduce_ex__(4) if reduce is None else reduce(value)
    except _UNPICKLABLE as error:
        raise _no_content(value) from error


def _checked_fingerprint(value, told):
    if not isinstance(told, str):
        raise TypeError(
            f"The method fingerprint() of {_short_repr(value)} must return a str, got {told!r}."
        )
    return told


def _without_caches(value, attributes):
    """Leave out what cached properties found: it is there after the first use only."""
    kind = type(value)
    return {
        name: attribute
        for name, attribute in attributes.items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }


_CODE_IN_CLASSES = (
    *(types.FunctionType, staticmethod, classmethod, property),
    *(functools.cached_property, functools.partialmethod),
)
_EXACT = {
    tuple: Encoder._encode_container,
    list: Encoder._encode_container,
    dict: Encoder._encode_container,
    set: Encoder._encode_set,
    frozenset: Encoder._encode_set,
    bytearray: lambda self, value: self._put("bytearray", value),
    types.FunctionType: Encoder._encode_function,
    types.CodeType: Encoder._write_code,
    types.MethodType: lambda self, value: self._encode([value.__func__, value.__self__]),
    types.ModuleType: lambda self, value: self._put(
        "module", f"{value.__name__} {_version_of(value.__name__)}"
    ),
    staticmethod: lambda self, value: self._encode(["static", value.__func__]),
    classmethod: lambda self, value: self._encode(["class", value.__func__]),
    property: lambda self, value: self._encode([value.fget, value.fset, value.fdel]),
    functools.cached_property: lambda self, value: self._encode(["cached", value.func]),
    weakref.ref: lambda self, value: self._encode(["weak", value()]),
    functools._lru_cache_wrapper: lambda self, value: self._encode(["lru", value.__wrapped__]),
}
_BY_BASE = (
    (Enum, Encoder._encode_enum),
    (PurePath, lambda self, value: self._put("path", str(value))),
    (np.generic, lambda self, value: self._encode(["scalar", np.asarray(value)])),
    (np.ndarray, Encoder._encode_array),
    (torch.Tensor, Encoder._encode_tensor),
    (nn.Module, Encoder._encode_module),
    (TorchModel, lambda self, value: self._encode([value.module, value.forward])),
    (type, Encoder._encode_class),
    (_BUILTIN_CALLABLES, Encoder._encode_builtin),
)
