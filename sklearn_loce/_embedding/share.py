"""Passes of images that several estimators share."""

from sklearn.base import clone

from .._network.handle import as_module
from .._network.identity import digest
from .._network.preprocess import resolve_preprocess
from .table import find_store
from .threads import runs_here

# The passes, and the place where vectors are stored, depend on these parameters.
_SHARED = ("model", "preprocess", "reshape_transform", "device", "random_state", "memory")


def check_shares(loce, beside):
    """Raise unless the same passes and the same store serve other transformers."""
    if beside and not runs_here(loce.n_jobs):
        raise ValueError(
            f"n_jobs={loce.n_jobs}: workers do not share passes among transformers. Set "
            "n_jobs=None, or precompute one transformer after the other."
        )
    for i, other in enumerate(beside):
        for name, (own, its) in _compare_passes(loce, other).items():
            if own != its:
                raise ValueError(
                    f"beside[{i}] has {name}={getattr(other, name)!r}, and this transformer "
                    f"{getattr(loce, name)!r}: one pass can't serve both. Give both the same, "
                    "or precompute one after the other."
                )


def _compare_passes(first, second):
    """Return {parameter: (first, second)}; transformers with equal pairs can share passes."""
    pairs = zip(_describe_passes(first), _describe_passes(second), strict=True)
    return dict(zip(_SHARED, pairs, strict=True))


def _describe_passes(loce):
    """Return values to compare for the parameters in _SHARED."""
    store = id(find_store(None, loce.model)) if loce.memory is None else loce.memory
    return (
        id(as_module(loce.model)),
        digest(resolve_preprocess(loce.preprocess, loce.model)),
        digest(loce.reshape_transform),
        loce.device,
        loce.random_state,
        store,
    )


def join_layers(parts, samples):
    """Make a fitted transformer with all layers of others, which passes images for them."""
    layers = {str(layer): layer for part in parts for layer in part._layers}
    passing = clone(parts[0]).set_params(layer=list(layers.values()), standardize=False)
    passing._fit(samples)
    return passing
