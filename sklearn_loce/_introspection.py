"""What Python can tell of a value: its parts, the names its code uses, the bytes it holds."""

import copyreg
import functools
import hashlib
import sys
import types
from pickle import PickleError

import numpy as np
import torch
import xxhash
from torch.nn.parameter import is_lazy

# For structure, of which there is little.
new_hash = hashlib.sha256
# For weights, pixels and files, at the speed of memory: measured 10 GB/s on one core, next to 1.1
# of sha256. Its 128 bits keep accidents apart; nobody gains by forging a vector in his own store.
new_bulk_hash = xxhash.xxh3_128

# Code of these is told apart by its own text and the library's version. Where the code of anything
# else names a global, that is followed; here it would lead through half of torch.
LIBRARIES = sys.stdlib_module_names | {
    *("PIL", "cv2", "huggingface_hub", "joblib", "matplotlib", "numba", "numpy", "pandas"),
    *("scipy", "skimage", "sklearn", "timm", "torch", "torchvision", "transformers"),
}
_UNPICKLABLE = (TypeError, AttributeError, NotImplementedError, PickleError, RuntimeError)


def array_bytes(array):
    """Give the bytes of an array in C order, without a copy where it is in that order."""
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def tensor_digest(tensor):
    """Hash a tensor's dtype, shape and values, wherever it lies and in whatever memory format."""
    is_strided = not is_lazy(tensor) and tensor.layout == torch.strided
    if not is_strided or tensor.is_meta or tensor.is_quantized:
        raise no_content(tensor)
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    state = new_bulk_hash(f"{tensor.dtype}:{tuple(tensor.shape)}:".encode())
    if flat.numel():
        state.update(flat.view(torch.uint8).numpy())
    return state.digest()


def no_content(value):
    """Give the error for a value that can't be told from others."""
    return TypeError(
        f"{_short_repr(value)} of type {type(value).__module__}.{type(value).__qualname__} can't "
        "be told from others by its content. Give its class a method fingerprint() that returns a "
        "str in which all that matters about it is told, or compute without a store: memory=False."
    )


def _short_repr(value):
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def top_level(module):
    """Give the name of the package in which a module of this name lies."""
    return (module or "").partition(".")[0]


def version_of(module):
    """Give the version that the package of a module names; an empty str where it names none."""
    version = getattr(sys.modules.get(top_level(module)), "__version__", "")
    return str(version).partition("+")[0]  # 2.6.0+cpu and 2.6.0+cu126 are one version


def all_names(code):
    """Give all names that code loads by name, nested functions included."""
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names, *(name for inner in nested for name in all_names(inner))}


def named_values(names, namespace, prefix="", seen=None):
    """Yield what code finds under names in a namespace, and in the modules that it names."""
    seen = set() if seen is None else seen
    for name in sorted(names & namespace.keys()):
        value = namespace[name]
        yield prefix + name, value
        is_module = isinstance(value, types.ModuleType) and value.__name__ not in seen
        if is_module and top_level(value.__name__) not in LIBRARIES:
            seen.add(value.__name__)
            yield from named_values(names, vars(value), f"{prefix}{name}.", seen)


def reduce_value(value):
    """Take a value apart as pickle does, which knows how for nearly everything."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        return value.__reduce_ex__(4) if reduce is None else reduce(value)
    except _UNPICKLABLE as error:
        raise no_content(value) from error


def told_fingerprint(value, told):
    """Give what the method ``fingerprint`` of a value told, if it is a str."""
    if not isinstance(told, str):
        raise TypeError(
            f"The method fingerprint() of {_short_repr(value)} must return a str, got {told!r}."
        )
    return told


def without_caches(value, attributes):
    """Leave out what cached properties found: it is there after the first use only."""
    kind = type(value)
    return {
        name: attribute
        for name, attribute in attributes.items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }
