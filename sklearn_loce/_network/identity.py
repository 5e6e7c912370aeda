"""Digests of networks: weights, classes, plain attributes, own code.

The digests do not include globals, settings of modules and context variables. The activations of
the probe image depend on these.
"""

import copyreg
import dis
import functools
import hashlib
import types
from enum import Enum
from pathlib import PurePath

import numpy as np
import torch
import xxhash
from torch import nn

# Classes and functions of these libraries are hashed by name; the probe covers their behavior.
_LIBRARIES = {
    *("builtins", "PIL", "numpy", "sklearn", "sklearn_loce", "timm", "torch", "torchvision"),
    *("transformers", "functools", "collections", "torchao", "peft", "accelerate"),
}
_ATOMS = (type(None), bool, int, float, complex, str, bytes)
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype)
_CODE = (types.FunctionType, property, staticmethod, classmethod, functools.cached_property)
_MANY = 100  # a global list with more items is data, not a setting
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_STATE = ("_parameters", "_buffers", "_modules")
# A run has its own modes, and does not use compiled calls.
_BOOKKEEPING = {
    *vars(nn.Module()),
    "_compiled_call_impl",
    "_is_torch_compile",
    "_is_hf_initialized",
}


def digest(*values):
    """Hash values by content.

    Parameters
    ----------
    *values : object
        Numbers, strings, containers, arrays, tensors, functions, classes, modules and instances
        of any class. Other objects are hashed by type only.

    Returns
    -------
    bytes of length 32
        Equal in every process for equal content.

    Examples
    --------
    >>> from sklearn_loce._network.identity import digest
    >>> digest(1) == digest(1.0)
    False
    >>> digest([1, "a"]) == digest([1, "a"])
    True
    """
    writer = _Writer()
    for value in values:
        writer.write(value)
    return writer.state.digest()


def digest_network(module, forward=None):
    """Hash a network together with its ``forward``; see :func:`digest`."""
    return digest("network", module, forward)


def is_library(kind):
    """Return whether a class or function belongs to a library and is hashed by name."""
    return (getattr(kind, "__module__", None) or "builtins").partition(".")[0] in _LIBRARIES


@functools.lru_cache(maxsize=4096)
def global_names(code):
    """Return the globals that code, including nested functions, reads and does not set."""
    done = {"LOAD_GLOBAL": set(), "STORE_GLOBAL": set()}
    for step in dis.get_instructions(code):
        done.get(step.opname, set()).add(step.argval)
    nested = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    names = done["LOAD_GLOBAL"].union(*map(global_names, nested))
    return sorted(names - done["STORE_GLOBAL"])


class _Writer:
    """Writes values into a hash; an object with parts is written as the hash of its parts."""

    def __init__(self):
        self.state = hashlib.sha256()
        # By id. Keep the objects, because an id may be used again after an object is deleted.
        self._done = {}

    def put(self, tag, payload=b""):
        payload = payload.encode("utf-8", "surrogatepass") if isinstance(payload, str) else payload
        self.state.update(b"%s:%d:" % (tag.encode(), len(payload)))
        self.state.update(payload)

    def write(self, value):
        if isinstance(value, Enum):
            self.put("enum", f"{type(value).__qualname__}.{value.name}")
        elif isinstance(value, _ATOMS):
            self.put(type(value).__name__, value if isinstance(value, bytes) else repr(value))
        elif isinstance(value, (*_NAMED, PurePath)):
            self.put("named", str(value))
        elif isinstance(value, torch.Tensor):
            self._write_tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._write_array(np.asarray(value))
        else:
            self._nest(value)

    def _nest(self, value):
        """Write the hash of an object's parts; a cycle ends where it began."""
        known, _ = self._done.get(id(value), (None, None))
        if known is None:
            self._done[id(value)] = b"cycle", value
            outer, self.state = self.state, hashlib.sha256()
            self._write_parts(value)
            known, self.state = self.state.digest(), outer
            self._done[id(value)] = known, value
        self.put("nested", known)

    def _write_parts(self, value):
        if isinstance(value, dict):
            self._write_all(type(value).__name__, [part for item in value.items() for part in item])
        elif isinstance(value, list | tuple):
            self._write_all(type(value).__name__, value)
        elif isinstance(value, set | frozenset):  # their order has no meaning
            self._write_all("set", sorted(digest(element) for element in value))
        elif isinstance(value, nn.Module):
            self._write_module(getattr(value, "_orig_mod", value))  # torch.compile wraps modules
        elif isinstance(value, types.CodeType):
            # Not the text of the file, which may have changed since the import.
            self.write([value.co_code, value.co_names, value.co_consts, value.co_freevars])
        elif isinstance(value, type):
            self._write_class(value)
        else:
            self._write_object(value)

    def _write_all(self, tag, values):
        self.put(tag, str(len(values)))
        for value in values:
            self.write(value)

    def _write_module(self, module):
        self.write(type(module))
        for part in (*_STATE, *_HOOKS):
            items = vars(module)[part]
            self._write_all(part, [*items] if part in _STATE else [])
            self._write_all(part, [*items.values()])
        own = _attributes(module).items()
        self._write_attributes({name: part for name, part in own if name not in _BOOKKEEPING})

    def _write_attributes(self, attributes):
        for name in sorted(attributes):  # the order of assignment has no meaning
            self.put("attribute", name)
            self.write(attributes[name])

    def _write_tensor(self, tensor):
        kind = "" if type(tensor) in (torch.Tensor, nn.Parameter) else type(tensor).__qualname__
        self.put("tensor", f"{kind}:{tensor.dtype}:{tuple(tensor.shape)}")
        try:
            if hasattr(tensor, "__tensor_flatten__"):  # for example torchao's quantized weights
                names, facts = tensor.__tensor_flatten__()
                self.write([repr(facts), *(getattr(tensor, name) for name in names)])
            elif tensor.is_quantized:
                self.write([repr(tensor.qscheme()), tensor.int_repr(), tensor.dequantize()])
            elif tensor.layout != torch.strided:
                self.write(tensor.to_dense())
            else:
                plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
                raw = plain.view(torch.uint8).numpy() if plain.numel() else b""
                self.put("bytes", xxhash.xxh3_128(raw).digest())
        except (RuntimeError, TypeError, NotImplementedError, AttributeError):
            self.put("opaque")  # for example a tensor on the meta device

    def _write_array(self, array):
        self.put("array", f"{array.dtype.str}:{array.shape}")
        if array.dtype.hasobject:
            self.write(array.tolist())
        else:
            raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self.put("bytes", xxhash.xxh3_128(raw).digest())

    def _write_class(self, kind):
        self.put("class", f"{kind.__module__}.{kind.__qualname__}")
        if is_library(kind):
            return
        own = {n: v for n, v in vars(kind).items() if isinstance(v, (*_CODE, *_ATOMS, tuple))}
        names = [n for n in own if not n.startswith("__") or isinstance(own[n], _CODE)]
        self._write_attributes({name: own[name] for name in names})
        self._write_all("bases", kind.__bases__)

    def _write_object(self, value):
        if isinstance(value, types.FunctionType):
            self.put("function", f"{value.__module__}.{value.__qualname__}")
            if not is_library(value):
                cells = [_content(cell) for cell in value.__closure__ or ()]
                self.write([value.__code__, value.__defaults__, value.__kwdefaults__, cells])
                # These globals may matter only for images that are larger than the probe.
                found = {n: value.__globals__.get(n) for n in global_names(value.__code__)}
                self._write_attributes({n: v for n, v in found.items() if _is_setting(v)})
        elif isinstance(value, types.MethodType):
            self.write([value.__func__, value.__self__])
        elif isinstance(value, functools.partial):
            self.write([value.func, value.args, value.keywords])
        elif isinstance(value, property):
            self.write([value.fget, value.fset])
        elif isinstance(value, staticmethod | classmethod):
            self.write(value.__func__)
        elif isinstance(value, torch.ScriptObject) and hasattr(value, "__getstate__"):
            self.write(value.__getstate__())  # the packed weights of quantized layers
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType):
            self.put("name", value.__name__)
        else:
            self.write(type(value))
            self._write_attributes(_attributes(value))


def _is_setting(value):
    """Return whether a global is a number, a string, or a tuple or list of such."""
    if isinstance(value, tuple | list):
        return len(value) < _MANY and all(map(_is_setting, value))
    return isinstance(value, _ATOMS) and value is not None


def _attributes(value):
    """Return the attributes of an instance, including those in slots."""
    # Include slots unless the class has its own code that defines its state.
    is_plain = type(value).__reduce__ is object.__reduce__
    names = copyreg._slotnames(type(value)) if is_plain else []
    slots = [name for name in names if hasattr(value, name)]
    return {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # the cell is not filled yet
        return None
