"""Activations of named layers: hooks, early stop, and the list of layers."""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from threading import get_ident
from typing import NoReturn

import pandas as pd
import torch

from .._warnings import warn_user
from ..exceptions import LayoutError
from .adapters import (
    adapter_of,
    explain_failure,
    explain_silence,
    is_detector,
    refuse_unhookable,
)
from .grids import check_reshaped, describe, find_reading, join_grids
from .handle import as_module, dtype_of, lend_module, refuse_shared, replicate, resolve_device
from .joined import Joined
from .trace import Trace


class _Stop(BaseException):
    """Ends a forward pass; an ``except Exception`` inside a network must not catch it.

    Its argument is the extractor that ends its pass, because extractors may be nested.
    """


class _ReachedDeepestLayer(_Stop):
    """Ends a pass after all layers have run."""


def members_of(layer):
    """Return the name of a layer as a tuple, or the names of the layers that it joins."""
    return layer.layers if isinstance(layer, Joined) else (layer,)


def check_layers(module, layers):
    """Return the layers as a list of str and Joined, and check their names.

    Raises
    ------
    ValueError
        If there is no layer, or a layer is listed twice or unknown. The message lists close names.
    TypeError
        If a layer is neither a name nor Joined.
    """
    is_list = isinstance(layers, Iterable) and not isinstance(layers, str)
    asked = list(layers) if is_list else [layers]
    if not all(isinstance(layer, str | Joined) for layer in asked):
        raise TypeError(
            f"layer must be the name of a layer, Joined names, or a list of these, got {layers!r}."
        )
    if not asked or len({str(layer) for layer in asked}) < len(asked):
        raise ValueError(f"layer must name one or more different layers, got {layers!r}.")
    known = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    for name in _list_members(asked):
        if name not in known:
            raise ValueError(f"{type(module).__name__} has no layer {name!r}. {_hint(name, known)}")
    return asked


def _list_members(layers):
    """Return the names of all required layers, each once."""
    return list(dict.fromkeys(name for layer in layers for name in members_of(layer)))


def _hint(name, known):
    """Suggest names for an unknown one."""
    parts = name.split("+")  # tables use this name for joined layers
    if len(parts) > 1 and len(set(parts)) == len(parts) and set(parts) <= set(known):
        return f"To join layers, pass {Joined(*parts)!r}."
    close = get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]
    names = ", ".join(map(repr, close))
    return f"Close names: {names}. list_layers(model, input_size) lists all."


class _ReadOtherwise(_Stop):
    """Ends a pass in which the output of a layer differs in form from an input of equal size."""


class ActivationExtractor:
    """Compute the activations of named layers, and stop after the deepest of them.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network.
    layers : str, Joined or list of these
        Dotted names, as in ``module.named_modules()``. A :class:`Joined` is a layer of its own.
    reshape_transform : callable, default=None
        Function that reshapes the raw output of a layer into a tensor (n_images, n_channels,
        height, width). Its only argument is the output. ``None`` finds the grid, see Notes.
    device : str or torch.device, default=None
        Device of the computation. ``None`` uses the device of the model.
    readings : dict of {str: tuple}, default=None
        The ``readings`` of another extractor, which describe how to read outputs as grids.
        ``None`` finds them on the first images.

    Attributes
    ----------
    readings : dict of {str: tuple}
        The given or found readings.
    draws : bool
        Whether torch drew random numbers before all layers had run.
    is_lent : bool
        Whether the module itself runs, because it cannot be copied; see Notes.

    Raises
    ------
    ValueError
        If a layer's name is unknown, the network requires another size or number of channels, or
        hooks do not run in the layer, as in scripted, exported and statically quantized modules.
        The message names the remedy.
    LayoutError
        If a layer's output has no grid or several possible grids, or if a layer did not run in the
        forward pass.
    TypeError
        If a layer is neither a name nor a ``Joined``.
    RuntimeError
        If another thread ran a module that cannot be copied.

    See Also
    --------
    list_layers : The layers of a network.
    Joined : Several layers as one.
    LoCETransformer : Vectors from these activations and masks.

    Notes
    -----
    The first pass of each image size is traced, operation by operation, from the pixels to the
    layer. The trace finds the grid. It reads maps with channels first or last, and tokens in any
    order, with or without class tokens, in windows, or along the first axis. If the output is a
    tuple or dict, its only grid is used. An output without places in the image, such as a pooled
    vector, queries, or selected tokens, raises an error that explains why.

    Your network stays unchanged: a copy runs, with its own hooks and modes, and shares the memory
    of the weights. A module that cannot be copied is lent instead. Its state is restored when the
    call or the ``with`` block ends. Until then, a pass of another thread raises an error.

    If a layer runs several times in one pass, such as a shared ReLU, the last output counts, as for
    any forward hook. The first images of each size pass the whole network, to count the runs of
    each layer. Later passes stop at the deepest layer, under two conditions: each layer ran once,
    and the network read no number out of a tensor. Its control flow could depend on such a number.
    Outputs are cloned, because a later in-place operation would change them.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sklearn_loce import ActivationExtractor
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> with ActivationExtractor(network, ["0", "1"]) as extract:
    ...     activations = extract(torch.zeros(1, 3, 16, 16))
    >>> {name: tuple(a.shape) for name, a in activations.items()}
    {'0': (1, 8, 14, 14), '1': (1, 8, 14, 14)}
    """

    def __init__(self, model, layers, *, reshape_transform=None, device=None, readings=None):
        self.module = as_module(model)
        self.adapter = adapter_of(model)
        self.layers = check_layers(self.module, layers)
        self._members = _list_members(self.layers)
        refuse_unhookable(self.module, self._members)
        self.reshape_transform = reshape_transform
        self.device = resolve_device(device, self.module)
        self.readings = dict(readings or {})
        self._is_first = readings is None  # the first images determine the readings
        self._network = self._exits = self._pass = self._thread = None
        self._has_warned = False
        # How to read the layers by size of the images, which other extractors of a run may share.
        self.sizes = {}
        self.runs_once = False  # whether each layer runs once, for all image sizes
        self.draws = self.is_lent = False

    def __enter__(self):
        network = self.module
        if not getattr(network, "_is_replica", False):
            network = replicate(network, self.device, self.adapter.forward)
        with ExitStack() as exits:
            self._thread, self._is_disturbed, self._modes = get_ident(), False, None
            if network is None:  # there is no replica, so hooks are on the module itself
                network = exits.enter_context(lend_module(self.module, self.device))
                exits.enter_context(torch.no_grad())
                self.is_lent = True
                self._modes = [child.training for child in network.modules()]
                exits.callback(network.register_forward_pre_hook(self._note_thread).remove)
            for layer in self._members:
                hook = self._make_hook(layer)
                exits.callback(network.get_submodule(layer).register_forward_hook(hook).remove)
            self._network, self._exits = network, exits.pop_all()
        return self

    def __exit__(self, *exc_info):
        self._network = None
        return self._exits.__exit__(*exc_info)

    def __call__(self, images, shown=None):
        """Run the network on images, at most to the deepest layer.

        Parameters
        ----------
        images : Tensor of shape (n_images, 3, height, width)
        shown : Tensor of shape (n_images, height, width), bool, default=None
            Marks the pixels of the image, without padding, for networks that take such a mask.
            ``None`` means all pixels.

        Returns
        -------
        dict of {str: Tensor of shape (n_images, n_channels, height, width)}
            Activations by name of the layer, float32, detached, on the device of the computation.
            The name of joined layers is ``str(joined)``.
        """
        if self._network is None:
            with self:
                return self(images, shown)
        frame = self.frame(images.shape[-2:])
        try:
            grids = self._run(images, shown, frame, self.sizes.get((images.shape, frame)))
        except _ReadOtherwise as stop:
            self._check_owner(stop)
            grids = self._run(images, shown, frame, None)
        parts = {str(layer): [grids[name] for name in members_of(layer)] for layer in self.layers}
        return {name: join_grids(few) if few[1:] else few[0] for name, few in parts.items()}

    def frame(self, size):
        """Return the position of an image of ``size`` in the input of the first layer.

        Parameters
        ----------
        size : tuple of int
            (height, width) of the image.

        Returns
        -------
        Frame
            ``size`` is the (height, width) of the first layer's input, and ``content`` the (height,
            width) of the image in its upper left corner.

        See Also
        --------
        list_layers : The layers of a network.

        Examples
        --------
        >>> from torch import nn
        >>> from sklearn_loce import ActivationExtractor
        >>> extract = ActivationExtractor(nn.Sequential(nn.Conv2d(3, 8, 3)), "0")
        >>> extract.frame((16, 24))
        Frame(size=(16, 24), content=(16, 24))
        """
        if self._network is None:
            with self:
                return self.frame(size)
        return self.adapter.frame(self._network, tuple(size))

    def _run(self, images, shown, frame, known):
        """Pass images; with ``known`` readings, stop at the deepest layer."""
        # Pass a copy, because the first layer may work in place. Channels last would be faster, but
        # changes the last bits of activations, and so many vectors of "mae".
        own = images.to(device=self.device, dtype=dtype_of(self._network), copy=True)
        trace = Trace(own, frame) if known is None else None
        current = self._pass = _Pass(trace, known or {})
        try:
            with nullcontext() if trace is None else trace:
                self.adapter(self._network, own, shown)
        except _ReachedDeepestLayer as stop:
            self._check_owner(stop)
        except LayoutError:
            raise
        except Exception as error:
            self._pass = None  # disables the hooks in passes that look for the reason
            self._explain(error, images.shape[-2:], current)
        finally:
            self._pass = None
        self._check_pass(current, images, shown)
        if trace is not None:  # later passes of this size may stop at the deepest layer
            once = not trace.reads_values and set(current.n_calls.values()) == {1}
            # The control flow of a detector does not depend on the size, and its heads are slow.
            self.runs_once |= once and is_detector(self._network)
            if once and len(current.known) == len(self._members):
                self.sizes[images.shape, frame] = current.known
        return current.grids

    def _check_pass(self, current, images, shown):
        modes = [child.training for child in self._network.modules()] if self._modes else None
        if self._is_disturbed or modes != self._modes:
            refuse_shared(self.module)
        missing = [layer for layer in self._members if layer not in current.grids]
        if missing:
            with _recording(self._network) as ran:
                own = images.to(device=self.device, dtype=dtype_of(self._network), copy=True)
                self.adapter(self._network, own, shown)
            raise LayoutError(explain_silence(self.module, missing, ran))
        for layer, grid in current.grids.items():
            if len(grid) != len(images):
                raise LayoutError(
                    f"reshape_transform made a batch of {len(grid)} for {len(images)} image(s) "
                    f"of the output of layer {layer!r}; it must keep the images apart."
                )

    def _check_owner(self, stop):
        """Raise the stop again if it belongs to an extractor around this one."""
        if stop.args[0] is not self:
            raise stop

    def _explain(self, error, size, current):
        """Raise a clear error, or only warn if all layers ran before the network failed."""
        if len(current.grids) < len(self._members):
            began = current.trace is None or current.trace.began
            _raise_clear(self._network, size, error, began=began, adapter=self.adapter)
        if self._is_first and not self._has_warned:
            self._has_warned = True
            warn_user(
                f"The network failed after the layers {self.layers}, whose activations are not "
                f"affected: {error}"
            )

    def _note_thread(self, *_):
        self._is_disturbed |= get_ident() != self._thread

    def _make_hook(self, layer):
        # Not a partial: a network that copies itself would copy it together with the extractor.
        return lambda module, args, output: self._store_grid(layer, output)

    def _store_grid(self, layer, output):
        """Store a layer's output as a grid; end the pass after the last required output."""
        self._note_thread()
        current = self._pass
        if get_ident() != self._thread or current is None:
            return
        current.n_calls[layer] += 1
        grid = self._read(layer, output, current).detach().float()
        # Copy even if the cast copies, because a reshape_transform may return an expanded grid.
        current.grids[layer] = grid.clone(memory_format=torch.contiguous_format)
        self.draws |= current.trace is not None and current.trace.draws
        may_stop = current.trace is None or self.runs_once
        if may_stop and len(current.grids) == len(self._members):
            raise _ReachedDeepestLayer(self)

    def _read(self, layer, output, current):
        """Read a layer's output as a grid, and store the reading for this size."""
        shape = output.shape if isinstance(output, torch.Tensor) else None
        if self.reshape_transform is not None:
            if current.trace is not None:
                current.known[layer] = shape, None
            return check_reshaped(self.reshape_transform(output), output, layer)
        if current.trace is None:
            expected, read = current.known[layer]
            if shape != expected:
                raise _ReadOtherwise(self)
            return read(output)
        expected = self.readings.get(layer)
        reading = find_reading(output, layer, current.trace, expected)
        if self._is_first:
            self.readings[layer] = reading.key
        if shape is not None:
            current.known[layer] = shape, reading.make
        return reading.make(output)


@dataclass
class _Pass:
    """One forward pass: its readings, and the outputs of its hooks."""

    trace: Trace | None
    known: dict
    grids: dict = field(default_factory=dict)
    n_calls: Counter = field(default_factory=Counter)


def _raise_clear(module, size, error, *, began, adapter=None) -> NoReturn:
    """Raise an error that explains the network's error, or the latter without explanation."""
    clear = explain_failure(module, size, error, began=began, adapter=adapter)
    if clear is None:
        raise error
    raise clear from error


@contextmanager
def _recording(module):
    """Record every named submodule's output shape and number of calls, in order of execution."""
    records, handles = {}, []

    def hook_of(name):
        def hook(child, args, output):
            shape = tuple(output.shape) if isinstance(output, torch.Tensor) else describe(output)
            n_calls = records.get(name, (None, None, 0))[2] + 1
            records[name] = (type(child).__name__, shape, n_calls)

        return hook

    try:
        for name, child in module.named_modules():
            if name:
                handles.append(child.register_forward_hook(hook_of(name)))
        yield records
    finally:
        for handle in handles:
            handle.remove()


def list_layers(model, input_size):
    """List the layers of a network that run, in the order in which they finish.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network.
    input_size : tuple of int
        (height, width) of the images; (n_channels, height, width) for networks whose input does
        not have three channels.

    Returns
    -------
    DataFrame
        One row per layer: ``name`` (the value for ``layer=``), ``type``, ``output_shape`` (a tuple
        for a batch of one image, or a description if the output is not a tensor) and ``n_calls``
        (the number of calls; of several outputs the last one counts).

    Raises
    ------
    ValueError
        If ``input_size`` does not have two or three positive integers, or the network fails before
        its first layer. If it fails later, the result lists the layers that ran, with a warning.
    LayoutError
        If no layer runs, as in a network that calls a copy of itself.

    See Also
    --------
    ActivationExtractor : Activations of some of these layers.
    LoCETransformer : Accepts their names as ``layer``.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_loce import list_layers
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    >>> list_layers(network, (16, 16))
      name     type    output_shape  n_calls
    0    0   Conv2d  (1, 8, 14, 14)        1
    1    1     ReLU  (1, 8, 14, 14)        1
    2    2  Flatten       (1, 1568)        1
    """
    size = tuple(input_size) if isinstance(input_size, Iterable) else (input_size,)
    if len(size) not in (2, 3) or any(int(n) != n or n < 1 for n in size):
        raise ValueError(f"input_size must be (height, width), got {input_size!r}.")
    size = (3, *size) if len(size) == 2 else size
    module = as_module(model)
    device = resolve_device(None, module)
    image = torch.zeros(1, *size, device=device, dtype=dtype_of(module))
    replica = replicate(module, runner=adapter_of(model).forward)
    opened = lend_module(module, device) if replica is None else nullcontext(replica)
    with opened as network, _recording(network) as records, torch.no_grad():
        try:
            adapter_of(model)(network, image)
        except Exception as error:
            if not records:
                _raise_clear(network, size[1:], error, began=False, adapter=adapter_of(model))
            warn_user(
                f"The network failed after the layers listed here: {type(error).__name__}: {error}"
            )
    if not records and any(True for _ in module.children()):
        raise LayoutError(explain_silence(module, [], records))
    rows = [(name, *record) for name, record in records.items()]
    return pd.DataFrame(rows, columns=["name", "type", "output_shape", "n_calls"])
