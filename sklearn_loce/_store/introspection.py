"""What Python can tell of a value: its parts, the names its code uses, the bytes it holds."""

import copyreg
import functools
import hashlib
import sys
import types

import numpy as np
import torch
import xxhash
from torch.nn.modules import module as _torch_module
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


def no_content(value, reason=""):
    """Give the error for a value that can't be told from others."""
    return TypeError(
        f"{_short_repr(value)} of type {type(value).__module__}.{type(value).__qualname__} can't "
        f"be told from others by its content{reason}. Give its class a method fingerprint() that "
        "returns a str in which all that matters about it is told, or compute without a store: "
        "memory=False."
    )


def _short_repr(value):
    try:
        text = repr(value)
    except Exception:  # the error that is on its way tells more than one of the repr
        text = object.__repr__(value)
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
    """Take a value apart as pickle does, which knows how for nearly everything.

    Returns
    -------
    str or tuple of (callable, tuple, object, list, list)
        A global name; or how to build it, from what, with what state, items and pairs.
    """
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return reduced
        rebuild, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
        return rebuild, arguments, state, list(items or ()), list(pairs or ())
    except RecursionError:
        raise  # tells of the depth at which the value lies, not of the value
    except Exception as error:  # such as the ValueError of a pointer of ctypes
        raise no_content(value) from error


def told_fingerprint(value):
    """Give what the method ``fingerprint`` of a value tells, if it is a str."""
    told = value.fingerprint()
    if not isinstance(told, str):
        raise TypeError(
            f"The method fingerprint() of {_short_repr(value)} must return a str, got {told!r}."
        )
    return told


def forward_hooks(module):
    """Give what runs before and after a module's forward, in order, and how it is called."""
    before, after = module._forward_pre_hooks, module._forward_hooks
    with_kwargs = module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs
    always = module._forward_hooks_always_called
    return [
        [(hook, number in with_kwargs[0]) for number, hook in before.items()],
        [(hook, number in with_kwargs[1], number in always) for number, hook in after.items()],
    ]


def hooks_of_all_modules():
    """Give what was registered to run before and after the forward of any module, in order."""
    before, after = _torch_module._global_forward_pre_hooks, _torch_module._global_forward_hooks
    return [list(before.values()), list(after.values())]


def split_caches(value, attributes):
    """Give two dicts: plain attributes, and those that have the names of cached properties."""
    kind = type(value)
    plain, cached = {}, {}
    for name, attribute in attributes.items():
        is_cached = isinstance(getattr(kind, name, None), functools.cached_property)
        (cached if is_cached else plain)[name] = attribute
    return plain, cached
