"""Fingerprints of models: what activations depend on, told apart by content."""

from torch import nn

from .._network.handle import TorchModel, as_module
from .canonical import Encoder, digest
from .introspection import hooks_of_all_modules

__all__ = ["digest", "is_model", "model_digest"]


def is_model(value):
    """Say whether a value is a module or a handle on one."""
    return isinstance(value, nn.Module | TorchModel)


def model_digest(model):
    """Hash a model by all that its activations depend on, as it is now.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel

    Returns
    -------
    bytes of length 32
        Of the weights and buffers, the classes of the modules with their code, their forward hooks
        and forward pre-hooks, their further attributes, and ``forward`` of the handle. Training
        mode, hooks that a forward pass does not run, device, memory format and ``requires_grad`` do
        not count.

    Raises
    ------
    TypeError
        If a module holds something, or has a forward hook, that can't be told from others by its
        content.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_loce._store.fingerprint import model_digest
    >>> model = nn.Conv2d(3, 8, 1)
    >>> before = model_digest(model)
    >>> model.weight.data[0] += 1
    >>> model_digest(model) == before
    False
    """
    module = as_module(model)
    forward = model.forward if isinstance(model, TorchModel) else None
    return Encoder().digest([module, forward, hooks_of_all_modules()])
