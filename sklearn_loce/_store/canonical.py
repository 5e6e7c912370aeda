"""Hashes of Python values by their content: equal in every process, of no address in memory."""

import functools
import math
import random
import sys
import types
import weakref
from collections import deque
from enum import Enum
from pathlib import PurePath

import numpy as np
import torch
from torch import nn

from .._network.handle import TorchModel
from .introspection import (
    LIBRARIES,
    all_names,
    array_bytes,
    forward_hooks,
    named_values,
    new_hash,
    no_content,
    reduce_value,
    split_caches,
    tensor_digest,
    told_fingerprint,
    top_level,
    version_of,
)

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
_CODES = {}  # digests by id, with the code objects: an id may be used again after an object's end
_MAX_CODES = 2**14
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
# What tells of the present run only: numbers of threads, states of queues, names of files.
_OF_THE_RUN = {
    *("concurrent.futures.process", "concurrent.futures.thread", "multiprocessing.pool"),
    *("multiprocessing.process", "queue", "socket", "subprocess", "tempfile", "threading"),
}
# What nn.Module itself keeps: training mode; hooks and three dicts, which are hashed apart; and
# what torch.compile leaves behind.
_MODULE_BOOKKEEPING = {*vars(nn.Module()), "_compiled_call_impl", "_is_torch_compile"}


def _is_plain(value):
    """Say whether the repr of a value tells all of it, types included."""
    parts = value if type(value) in (tuple, list) else [value]
    return all(type(part) in _ATOMS for part in parts)


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
        If a value, or one within, has no content that can be told, such as an open file, or is
        nested too deeply.

    Notes
    -----
    Types count: 1, 1.0, True and "1" have four digests, a list has another than a tuple of the
    same items, and a dict of another order another as well. A function counts by its code, its
    defaults, its closure and, unless it belongs to a large library, by the globals its code names;
    a class by its methods and plain attributes, and those of its bases. In what code only names, a
    part without content counts by its type. An object that has a method ``fingerprint()`` is taken
    at its word.

    Examples
    --------
    >>> from sklearn_loce._store.fingerprint import digest
    >>> digest(1) == digest(1.0)
    False
    >>> digest([1, "a"]) == digest([1, "a"])
    True
    """
    return Encoder().digest(values)


class Encoder:
    """Writes values into a hash, in a form from which they could be read back.

    Functions and classes are numbered when they are first met, written by number, and wait in a
    queue for their code to be written. Of anything else that holds values the hash is written, so
    that it makes no difference whether two places hold one object or equal ones. A cycle is closed
    by telling how many levels up it leads.
    """

    def __init__(self):
        # All three by id, with the objects: an id may be used again after an object's end. What is
        # done counts in code otherwise than as an argument.
        self._numbers = {}
        self._done = {}
        self._depths = {}
        self._highest = math.inf  # level to which the cycles within the present object lead
        self._queue = deque()
        self._is_aside = False  # whether the present value is only named by code
        self._state = new_hash()

    def digest(self, value):
        """Give the digest of one value."""
        try:
            return self._digest(value)
        except RecursionError as error:
            raise no_content(value, ", for it is nested too deeply") from error

    def _digest(self, value):
        self._encode(value)
        while self._queue:
            write, queued, self._is_aside = self._queue.popleft()
            write(queued)
        return self._state.digest()

    def _within(self):
        """Give an encoder that has met what this one has met, and tells nothing back."""
        encoder = Encoder()
        encoder._numbers, encoder._done = self._numbers.copy(), self._done.copy()
        encoder._depths, encoder._is_aside = self._depths.copy(), self._is_aside
        return encoder

    def _nest(self, value, write):
        """Write the hash of what an object holds, computed once."""
        key = id(value), self._is_aside
        if key in self._done:
            return self._put(*self._done[key][0])
        depth = len(self._depths)
        if id(value) in self._depths:
            level, _ = self._depths[id(value)]
            self._highest = min(self._highest, level)
            return self._put("up", str(depth - level))
        state, highest = self._state, self._highest
        self._state, self._highest = new_hash(), math.inf
        self._depths[id(value)] = depth, value
        write(self, value)
        del self._depths[id(value)]
        content, leads_up = self._state.digest(), self._highest < depth
        # What leads up has another hash on another way to it: it is known by a number from now on.
        known = ("open", str(len(self._done))) if leads_up else ("nested", content)
        self._done[key] = known, value
        self._state = state
        self._highest = min(highest, self._highest) if leads_up else highest
        return self._put("nested", content)

    def _put(self, tag, payload=b""):
        if isinstance(payload, str):
            payload = payload.encode("utf-8", "surrogatepass")
        if isinstance(payload, bytes):
            return self._state.update(b"%s:%d:%s" % (tag.encode(), len(payload), payload))
        self._state.update(b"%s:%d:" % (tag.encode(), memoryview(payload).nbytes))
        return self._state.update(payload)

    def _encode(self, value):
        kind = type(value)
        if kind in _ATOMS:
            return self._put(kind.__name__, value if kind in (str, bytes) else repr(value))
        if kind in _EXACT:
            return _EXACT[kind](self, value)
        for base, encode in _BY_BASE:
            if isinstance(value, base):
                return encode(self, value)
        return self._nest(value, Encoder._write_instance)

    def _encode_all(self, tag, values):
        self._put(tag, str(len(values)))
        for value in values:
            self._encode(value)

    def _write_items(self, value):
        items = [part for item in value.items() for part in item] if type(value) is dict else value
        self._encode_all(type(value).__name__, items)

    def _write_set(self, value):
        # Each element by a hash of its own, for the order of a set says nothing.
        encoders = [(self._within(), element) for element in value]
        digests = [encoder._digest(element) for encoder, element in encoders]
        self._highest = min([self._highest, *(encoder._highest for encoder, _ in encoders)])
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
        self._put("tensor", "" if is_plain else type(value).__qualname__)
        self._put("content", self._found(tensor_digest, value) or b"")

    def _encode_enum(self, value):
        self._put("enum", f"{type(value).__module__}.{type(value).__qualname__}.{value.name}")
        self._encode(value.value)

    def _encode_builtin(self, value):
        owner = getattr(value, "__self__", None)
        self._put("builtin", f"{getattr(value, '__module__', '')}.{value.__qualname__}")
        self._encode(None if isinstance(owner, types.ModuleType) else owner)

    def _encode_later(self, value, write):
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._numbers), value
            self._queue.append((write, value, self._is_aside))
        self._put("number", str(self._numbers[id(value)][0]))

    def _encode_aside(self, value):
        """Write a global or an attribute of a class; parts without content count by their type.

        A lock that the code only names is no reason to give up.
        """
        was_aside, self._is_aside = self._is_aside, True
        self._encode(value)
        self._is_aside = was_aside

    def _found(self, find, value):
        """Give what a function finds of a value; ``None`` where nothing is, in what code names."""
        try:
            return find(value)
        except TypeError:
            if not self._is_aside:
                raise
            return None

    def _encode_function(self, value):
        self._encode_later(value, self._write_function)

    def _write_function(self, function):
        self._put("function", f"{function.__module__}.{function.__qualname__}")
        self._write_code(function.__code__)
        is_library = top_level(function.__module__) in LIBRARIES
        # What decorators of others hold, such as a running generator, is no concern of the user's.
        encode = self._encode_aside if is_library or self._is_aside else self._encode
        encode([function.__defaults__, function.__kwdefaults__])
        for cell in function.__closure__ or ():
            self._write_cell(cell, encode)
        if is_library:
            return self._put("version", version_of(function.__module__))
        for name, value in sorted(function.__dict__.items()):
            self._put("attribute", name)
            encode(value)
        for name, value in named_values(all_names(function.__code__), function.__globals__):
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
        # Code never changes, and is most of what there is to hash in a network besides its weights.
        known, _ = _CODES.get(id(code), (None, None))
        if known is None:
            encoder = Encoder()
            for field in _CODE_FIELDS:
                encoder._encode(getattr(code, field))
            known = encoder._digest(list(code.co_consts))
            if len(_CODES) >= _MAX_CODES:  # as where a notebook compiles its cells again and again
                _CODES.clear()
            _CODES[id(code)] = known, code
        self._put("code", known)

    def _encode_class(self, value):
        self._encode_later(value, self._write_class)

    def _write_class(self, value):
        self._put("class", f"{value.__module__}.{value.__qualname__}")
        if top_level(value.__module__) in sys.stdlib_module_names:
            return
        is_library = top_level(value.__module__) in LIBRARIES
        self._put("version", version_of(value.__module__) if is_library else "")
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

    def _write_module(self, value):
        value = getattr(value, "_orig_mod", value)  # as torch.compile wraps it
        if callable(getattr(value, "fingerprint", None)):
            return self._write_instance(value)
        self._encode(type(value))
        for part in ("_parameters", "_buffers", "_modules"):
            self._encode_all(part, [x for item in getattr(value, part).items() for x in item])
        self._encode(forward_hooks(value))
        own = {n: v for n, v in vars(value).items() if n not in _MODULE_BOOKKEEPING}
        plain = sorted((n, v) for n, v in own.items() if _is_plain(v))
        self._put("plain", repr(plain))  # three quarters of what there is, in one go
        return self._write_state(value, {n: own[n] for n in own.keys() - {n for n, _ in plain}})

    def _write_instance(self, value):
        if callable(getattr(value, "fingerprint", None)):
            told = self._found(told_fingerprint, value)
            if told is not None:
                return self._put("fingerprint", told)
        is_of_the_run = type(value).__module__ in _OF_THE_RUN
        if self._is_aside and (is_of_the_run or isinstance(value, _GENERATORS)):
            # One that code draws from has another state after each draw.
            return self._put("kind", type(value).__qualname__)
        if isinstance(getattr(value, "py_func", None), types.FunctionType):
            # Numba's functions, which pickle gives a random number.
            return self._encode([type(value).__qualname__, value.py_func])
        self._encode(type(value))
        reduced = self._found(reduce_value, value)
        if reduced is None:
            return self._write_state(value, getattr(value, "__dict__", None))
        if isinstance(reduced, str):
            return self._put("name", reduced)
        rebuild, arguments, state, items, pairs = reduced
        self._encode([rebuild, arguments])
        self._write_state(value, state)
        return self._encode([items, pairs])

    def _write_state(self, value, state):
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            return self._encode(state)
        plain, cached = split_caches(value, state)
        self._encode_attributes(plain)
        # Set by the user or found by the property: both have a say in what comes out. But nobody
        # who wrote a property has to care whether what it finds has content.
        return self._encode_aside(sorted(cached.items())) if cached else None


_CODE_IN_CLASSES = (
    *(types.FunctionType, staticmethod, classmethod, property),
    *(functools.cached_property, functools.partialmethod),
)
_EXACT = {
    tuple: lambda self, value: self._nest(value, Encoder._write_items),
    list: lambda self, value: self._nest(value, Encoder._write_items),
    dict: lambda self, value: self._nest(value, Encoder._write_items),
    set: lambda self, value: self._nest(value, Encoder._write_set),
    frozenset: lambda self, value: self._nest(value, Encoder._write_set),
    bytearray: lambda self, value: self._put("bytearray", value),
    types.FunctionType: Encoder._encode_function,
    types.CodeType: Encoder._write_code,
    types.MethodType: lambda self, value: self._encode([value.__func__, value.__self__]),
    types.ModuleType: lambda self, value: self._put(
        "module", f"{value.__name__} {version_of(value.__name__)}"
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
    (nn.Module, lambda self, value: self._nest(value, Encoder._write_module)),
    (TorchModel, lambda self, value: self._encode([value.module, value.forward])),
    (type, Encoder._encode_class),
    (_BUILTIN_CALLABLES, Encoder._encode_builtin),
)
