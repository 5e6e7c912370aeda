"""Activations of named layers: hooks, early stop, and the layers there are."""

from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from difflib import get_close_matches
from threading import get_ident
from typing import NoReturn

import pandas as pd
import torch

from .._warnings import warn_user
from ..exceptions import LayoutError
from .adapters import adapter_of, explain_failure, explain_silence, refuse_unhookable
from .families import is_detector
from .grids import check_reshaped, describe, find_reading, join_grids
from .handle import as_module, dtype_of, lend, refuse_shared, replicate, resolve_device
from .joined import Joined, members_of
from .trace import Trace


class _Stop(BaseException):
    """Ends a forward pass; no ``except Exception`` inside a network may stop it.

    Its argument is the extractor that ends its pass: another one may run inside.
    """


class _ReachedDeepestLayer(_Stop):
    """Ends a pass in which all layers have run."""


def check_layers(module, layers):
    """Return the layers as a list of str and Joined, whose names the module has.

    Raises
    ------
    ValueError
        If there is none, one is named twice, or one is unknown: the message names the close ones.
    TypeError
        If one is neither a name nor Joined.
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
    """List the names of all layers that are needed, each once."""
    return list(dict.fromkeys(name for layer in layers for name in members_of(layer)))


def _hint(name, known):
    """Return which names may have been meant."""
    parts = name.split("+")  # as tables name joined layers
    if len(parts) > 1 and len(set(parts)) == len(parts) and set(parts) <= set(known):
        return f"To join layers, pass {Joined(*parts)!r}."
    close = get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]
    names = ", ".join(map(repr, close))
    return f"Close names: {names}. list_layers(model, input_size) lists all."


class _ReadOtherwise(_Stop):
    """Ends a pass in which a layer's output is not as it was for an input of the same size."""


class ActivationExtractor:
    """Take the activations of named layers, and compute no more than these need.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
    layers : str, Joined or list of these
        Dotted names, as in ``module.named_modules()``. A :class:`Joined` is one layer of its own.
    reshape_transform : callable, default=None
        Turns the raw output of a layer into a tensor (n_images, n_channels, height, width). It is
        called with the output alone. ``None`` finds the grid, see the notes.
    device : str or torch.device, default=None
        Where to compute; ``None`` means where the model is.
    readings : dict of {str: tuple}, default=None
        How the outputs of layers are read as grids, as another extractor found it. ``None`` finds
        it on the first images.

    Attributes
    ----------
    readings : dict of {str: tuple}
        As given or found.
    draws : bool
        Whether torch has drawn random numbers before the layers were done.
    is_lent : bool
        Whether the module itself runs, because it can't be copied; see Notes.

    Raises
    ------
    ValueError
        If a layer's name is unknown, the network only takes images of another size or number of
        channels, or hooks do not run in the layer, as in scripted, exported and statically
        quantized modules. The message names the way out.
    LayoutError
        If a layer's output holds no grid, can be read as more than one, or a layer did not run in
        the forward pass.
    TypeError
        If a layer is neither a name nor a ``Joined``.
    RuntimeError
        If another thread ran a module that can't be copied.

    See Also
    --------
    list_layers : The layers of a network.
    Joined : Several layers as one.
    LoCETransformer : Vectors of these activations and masks.

    Notes
    -----
    A grid is found by following where the numbers come from: the first pass of each size is traced,
    operation by operation, from the pixels to the layer. Maps are read with their channels first or
    last, tokens in whatever order, behind class tokens or not, in windows, or along the first axis.
    Of a tuple or dict, the one tensor that is a grid is taken. What has no places of its own, such
    as a pooled vector, queries, or chosen tokens, is an error that says why.

    The network is not touched: a copy of it runs, with hooks and modes of its own, whose weights
    lie in the same memory. A module that can't be copied is lent instead, and is as before when the
    call or the ``with`` block ends; a pass of another thread through it is an error meanwhile.

    If a layer runs several times in one pass, such as a shared ReLU, the last output counts, as for
    any forward hook. The first images of each size pass the whole network, which shows how often
    layers run. Later ones stop at the deepest of the layers, if each ran once and the network read
    no number out of a tensor, on which its flow could depend. Outputs are cloned, because a later
    in-place operation would change them.

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
        self._is_first = readings is None  # whose images settle how all are read
        self._network = self._exits = self._pass = self._thread = None
        self._known, self._has_warned = {}, False
        self.runs_once = False  # each layer, whatever the size of the image
        self.draws = self.is_lent = False

    def __enter__(self):
        network = self.module
        if not getattr(network, "_is_replica", False):
            network = replicate(network, self.device, self.adapter.forward)
        self._open(network)
        return self

    def _open(self, network):
        """Put hooks on a replica, or on the module itself where there is none."""
        with ExitStack() as exits:
            self._thread, self._is_disturbed, self._modes = get_ident(), False, None
            if network is None:
                network = exits.enter_context(lend(self.module, self.device))
                exits.enter_context(torch.no_grad())
                self.is_lent = True
                self._modes = [child.training for child in network.modules()]
                exits.callback(network.register_forward_pre_hook(self._note_thread).remove)
            for layer in self._members:
                hook = self._make_hook(layer)
                exits.callback(network.get_submodule(layer).register_forward_hook(hook).remove)
            self._network, self._exits = network, exits.pop_all()

    def __exit__(self, *exc_info):
        self._network = None
        return self._exits.__exit__(*exc_info)

    def __call__(self, images, shown=None):
        """Run the network on images as far as the layers need.

        Parameters
        ----------
        images : Tensor of shape (n_images, 3, height, width)
        shown : Tensor of shape (n_images, height, width), bool, default=None
            Which pixels are image and not padding, for networks that ask for it. ``None`` means
            all.

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
            taken = self._run(images, shown, frame, self._known.get((images.shape, frame)))
        except _ReadOtherwise as stop:
            self._pass_on(stop)
            taken = self._run(images, shown, frame, None)
        return {str(layer): self._give(layer, taken) for layer in self.layers}

    def _give(self, layer, taken):
        """Return the grid of a layer, or join those of several."""
        if isinstance(layer, Joined):
            return join_grids([taken[name] for name in layer.layers])
        return taken[layer]

    def frame(self, size):
        """Return what the network makes of an image of ``size`` before its first layer.

        Parameters
        ----------
        size : tuple of int
            (height, width)

        Returns
        -------
        Frame
        """
        if self._network is None:
            with self:
                return self.frame(size)
        return self.adapter.frame(self._network, tuple(size))

    def _run(self, images, shown, frame, known):
        """Pass images; with ``known``, how layers are read, no further than the deepest layer."""
        # A copy, because the first layer may work in place.
        own = images.to(device=self.device, dtype=dtype_of(self._network), copy=True)
        trace = Trace(own, frame) if known is None else None
        current = self._pass = _Pass(trace, known or {})
        try:
            with nullcontext() if trace is None else trace:
                self.adapter(self._network, own, shown)
        except _ReachedDeepestLayer as stop:
            self._pass_on(stop)
        except LayoutError:
            raise
        except Exception as error:
            self._pass = None  # hooks are idle from here on, for passes that look for the reason
            self._explain(error, images.shape[-2:], current)
        finally:
            self._pass = None
        self._check_pass(current, images, shown)
        if trace is not None:
            self._learn((images.shape, frame), current)
        return current.taken

    def _learn(self, key, current):
        """Note how layers are read, and whether later passes of this size may stop early."""
        once = not current.trace.reads_values and set(current.n_calls.values()) == {1}
        # The flow of a detector does not depend on the size, and its heads take long.
        self.runs_once |= once and is_detector(self._network)
        if once and len(current.known) == len(self._members):
            self._known[key] = current.known

    def _check_pass(self, current, images, shown):
        modes = [child.training for child in self._network.modules()] if self._modes else None
        if self._is_disturbed or modes != self._modes:
            refuse_shared(self.module)
        missing = [layer for layer in self._members if layer not in current.taken]
        if missing:
            with _recording(self._network) as ran:
                own = images.to(device=self.device, dtype=dtype_of(self._network), copy=True)
                self.adapter(self._network, own, shown)
            raise LayoutError(explain_silence(self.module, missing, ran))
        for layer, grid in current.taken.items():
            if len(grid) != len(images):
                raise LayoutError(
                    f"reshape_transform made a batch of {len(grid)} for {len(images)} image(s) "
                    f"of the output of layer {layer!r}; it must keep the images apart."
                )

    def _pass_on(self, stop):
        """Raise what is to end the pass of an extractor around this one."""
        if stop.args[0] is not self:
            raise stop

    def _explain(self, error, size, current):
        """Raise a clear error; or warn where the layers had run before the network failed."""
        if len(current.taken) < len(self._members):
            began = current.trace is None or current.trace.began
            _raise_clear(self._network, size, error, began=began, adapter=self.adapter)
        if self._is_first and not self._has_warned:
            self._has_warned = True
            warn_user(
                f"The network failed behind the layers {self.layers}, whose activations are not "
                f"affected: {error}"
            )

    def _note_thread(self, *_):
        self._is_disturbed |= get_ident() != self._thread

    def _make_hook(self, layer):
        def hook(module, args, output):
            self._note_thread()
            if get_ident() == self._thread and self._pass is not None:
                self._keep(layer, output, self._pass)

        return hook

    def _keep(self, layer, output, current):
        """Keep a layer's output as a grid; end the pass if there is nothing more to see."""
        current.n_calls[layer] += 1
        grid = self._read(layer, output, current).detach().float()
        # A copy even where the cast makes one, for grids that a reshape_transform expands.
        current.taken[layer] = grid.clone(memory_format=torch.contiguous_format)
        self.draws |= current.trace is not None and current.trace.draws
        may_stop = current.trace is None or self.runs_once
        if may_stop and len(current.taken) == len(self._members):
            raise _ReachedDeepestLayer(self)

    def _read(self, layer, output, current):
        """Read a layer's output as a grid, and note how, for the next pass of this size."""
        shape = output.shape if isinstance(output, torch.Tensor) else None
        if self.reshape_transform is not None:
            current.known[layer] = shape, None
            return check_reshaped(self.reshape_transform(output), output, layer)
        if current.trace is None:
            expected, read = current.known[layer]
            if shape != expected:
                raise _ReadOtherwise(self)
            return read(output)
        settled = self.readings.get(layer)
        reading = find_reading(output, layer, current.trace, settled)
        if self._is_first:
            self.readings[layer] = reading.key
        if shape is not None:
            current.known[layer] = shape, reading.make
        return reading.make(output)


class _Pass:
    """One forward pass: how layers are read in it, and what hooks have seen."""

    def __init__(self, trace, known):
        self.trace, self.known = trace, known
        self.taken, self.n_calls = {}, Counter()


def _raise_clear(module, size, error, *, began, adapter=None) -> NoReturn:
    """Raise an error that explains the network's own, or that where there is no explanation."""
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
    input_size : tuple of int
        (height, width) of the images; (n_channels, height, width) for networks whose input does
        not have three channels.

    Returns
    -------
    DataFrame
        One row per layer: ``name`` (what ``layer=`` takes), ``type``, ``output_shape`` (a tuple for
        a batch of one image, or a description where the output is no tensor) and ``n_calls`` (how
        often it ran; of several outputs the last counts).

    Raises
    ------
    ValueError
        If ``input_size`` does not have two or three positive integers, or the network fails before
        its first layer. If it fails behind that, the layers that ran are listed, with a warning.
    LayoutError
        If no layer runs, as in a network that calls a copy of itself.

    See Also
    --------
    ActivationExtractor : Activations of some of these layers.
    LoCETransformer : Takes their names as ``layer``.

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
    borrowed = lend(module, device) if replica is None else nullcontext(replica)
    with borrowed as network, _recording(network) as records, torch.no_grad():
        try:
            adapter_of(model)(network, image)
        except Exception as error:
            if not records:
                _raise_clear(network, size[1:], error, began=False, adapter=adapter_of(model))
            warn_user(
                f"The network failed behind the layers listed here: {type(error).__name__}: {error}"
            )
    if not records and any(True for _ in module.children()):
        raise LayoutError(explain_silence(module, [], records))
    rows = [(name, *record) for name, record in records.items()]
    return pd.DataFrame(rows, columns=["name", "type", "output_shape", "n_calls"])
