"""Activations of named layers: hooks, early stop, and the layers there are."""

import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import NoReturn

import pandas as pd
import torch

from ..exceptions import LayoutError
from .adapters import adapter_of, explain_failure, explain_silence, refuse_unhookable
from .families import layer_facts
from .grids import check_reshaped, describe, find_reading
from .handle import as_module, device_of, dtype_of, evaluating, resolve_device
from .trace import Trace


class _Stop(BaseException):
    """Ends a forward pass; no ``except Exception`` inside a network may stop it.

    Its argument is the extractor that ends its pass: another one may run inside.
    """


class _ReachedDeepestLayer(_Stop):
    """Ends a pass in which all layers have run."""


def check_layers(module, layers):
    """Return the layers as a list of names, each of which the module has.

    Raises
    ------
    ValueError
        If there is none, one is named twice, or one is unknown: the message names the close ones.
    """
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"layer must name one or more different layers, got {layers!r}.")
    known = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    for name in names:
        if name not in known:
            close = get_close_matches(str(name), known, n=5, cutoff=0.4) or known[:5]
            raise ValueError(
                f"{type(module).__name__} has no layer {name!r}. Close names: "
                f"{', '.join(map(repr, close))}. list_layers(model, input_size) lists all."
            )
    return names


class _ReadOtherwise(_Stop):
    """Ends a pass in which a layer's output is not as it was for an input of the same size."""


class ActivationExtractor:
    """Take the activations of named layers, and compute no more than these need.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
    layers : str or list of str
        Dotted names, as in ``module.named_modules()``.
    reshape_transform : callable, default=None
        Turns the raw output of a layer into a tensor (n_images, n_channels, height, width). It is
        called with the output alone. ``None`` finds the grid, see the notes.
    device : str or torch.device, default=None
        Where to compute; ``None`` means where the model is.
    n_calls : dict of {str: int}, default=None
        How often each layer runs in one forward pass. With ``None`` the first call runs the whole
        network and counts.
    readings : dict of {str: tuple}, default=None
        How the outputs of layers are read as grids, as another extractor found it. ``None`` finds
        it on the first image.

    Attributes
    ----------
    n_calls : dict of {str: int}
        As given or counted.
    readings : dict of {str: tuple}
        As given or found.

    Raises
    ------
    ValueError
        If a layer's name is unknown (the message names close ones).
        Or the network only takes images of another size, which the message names.
    LayoutError
        If a layer's output holds no grid, can be read as more than one, or a layer did not run in
        the forward pass.

    Notes
    -----
    Outputs (n_images, n_channels, height, width) are taken as they are. Where the channels come
    last, as in Swin, they are moved; what the layers inside are tells, or the input's size. Tokens
    (n_images, n_tokens, n_channels), behind up to 5 others such as class tokens and registers,
    become the latest grid that a convolution put out in the same pass, or else the one that a
    stride over the input's size gives. Of a tuple or dict, the one tensor that is a grid is taken.
    Later images are read as the first was. Whatever is left open is an error that lists the
    possibilities; what has no places, such as a pooled vector or the weights of an attention, is
    one that says why.

    Of a layer that runs several times in one pass, such as a shared ReLU, the last output counts,
    as for any forward hook; with such a layer the pass is not stopped early. How
    often layers run is seen on the first image. Outputs are cloned, because a later in-place
    operation would change them. Hooks and modes are as before when the call or the ``with`` block
    ends, whatever happens; until then other threads wait for the module.

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

    def __init__(
        self, model, layers, *, reshape_transform=None, device=None, n_calls=None, readings=None
    ):
        self.module = as_module(model)
        self.adapter = adapter_of(model)
        self.layers = check_layers(self.module, layers)
        refuse_unhookable(self.module, self.layers)
        self.reshape_transform = reshape_transform
        self.device = resolve_device(device, self.module)
        self.n_calls = n_calls
        self.readings = dict(readings or {})
        self._facts = {layer: layer_facts(self.module, layer) for layer in self.layers}
        self._modes = None
        self._known = {}
        self._taken, self._seen = {}, Counter()

    def __enter__(self):
        modes = evaluating(self.module, self.device)
        modes.__enter__()
        self._modes = modes
        return self

    def __exit__(self, *exc_info):
        modes, self._modes = self._modes, None
        return modes.__exit__(*exc_info)

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
            Activations per layer, float32, detached, on the device of the computation.
        """
        if self._modes is None:
            with self:
                return self(images, shown)
        frame = self.frame(images.shape[-2:])
        # A copy, because the first layer may work in place.
        own = images.to(device=self.device, dtype=dtype_of(self.module), copy=True)
        self._taken, self._seen, trace = {}, Counter(), None
        try:
            with torch.no_grad(), self._hooks(own, frame) as trace:
                self._forward(own, shown)
        except _ReadOtherwise as stop:
            self._pass_on(stop)
            self._known.clear()
            return self(images, shown)
        except LayoutError:
            raise
        except Exception as error:
            self._explain(error, images.shape[-2:], trace)
        self._check_taken(images, shown)
        self.n_calls = self.n_calls or dict(self._seen)
        taken, self._taken = self._taken, {}  # not kept alive by the extractor
        return {layer: taken[layer] for layer in self.layers}

    def frame(self, size):
        """Tell what the network makes of an image of ``size`` before its first layer.

        Parameters
        ----------
        size : tuple of int
            (height, width)

        Returns
        -------
        Frame
        """
        if self._modes is None:
            with self:
                return self.frame(size)
        return self.adapter.frame(self.module, tuple(size))

    def _check_taken(self, images, shown):
        missing = [layer for layer in self.layers if layer not in self._taken]
        if missing:
            with _recording(self.module) as ran, torch.no_grad():
                own = images.to(device=self.device, dtype=dtype_of(self.module), copy=True)
                self.adapter(self.module, own, shown)
            raise LayoutError(explain_silence(self.module, missing, ran))
        for layer, grid in self._taken.items():
            if len(grid) != len(images):
                raise LayoutError(
                    f"reshape_transform made a batch of {len(grid)} for {len(images)} image(s) "
                    f"of the output of layer {layer!r}; it must keep the images apart."
                )

    def _pass_on(self, stop):
        """Raise what is to end the pass of an extractor around this one."""
        if stop.args[0] is not self:
            raise stop

    def _forward(self, images, shown):
        try:
            self.adapter(self.module, images, shown)
        except _ReachedDeepestLayer as stop:
            self._pass_on(stop)

    def _explain(self, error, size, trace):
        if self.n_calls or len(self._taken) < len(self.layers):
            began = trace is None or trace.began
            _raise_clear(self.module, size, error, began=began, adapter=self.adapter)
        warnings.warn(
            f"The network failed behind the layers {self.layers}, whose activations are not "
            f"affected: {error}",
            stacklevel=3,
        )

    @contextmanager
    def _hooks(self, images, frame):
        """Put hooks on the layers, and at first on all others, which tell how to read them.

        That follows from the input's size, so the next pass of this size goes untraced: hooks on
        every layer take as much time as small layers do.
        """
        known = self._known.setdefault((tuple(images.shape), frame), {})
        is_known = len(known) == len(self.layers) and self._run_once
        trace = None if is_known else Trace(images, frame)
        with ExitStack() as stack:
            if trace is not None:
                stack.enter_context(trace)
            for layer in self.layers:
                hook = self._make_hook(layer, trace, known)
                handle = self.module.get_submodule(layer).register_forward_hook(hook)
                stack.callback(handle.remove)
            yield trace

    @property
    def _run_once(self):
        """Whether every layer is known to run once in a pass."""
        return bool(self.n_calls) and set(self.n_calls.values()) == {1}

    def _make_hook(self, layer, trace, known):
        def hook(module, args, output):
            self._seen[layer] += 1
            grid = self._read(layer, output, trace, known)
            # A copy even where the cast makes one, for grids that a reshape_transform expands.
            grid = grid.detach().float()
            self._taken[layer] = grid.clone(memory_format=torch.contiguous_format)
            # A layer that runs more than once may do so more often for another image.
            if self._run_once and len(self._taken) == len(self.layers):
                raise _ReachedDeepestLayer(self)

        return hook

    def _read(self, layer, output, trace, known):
        """Read a layer's output as a grid, and note how, for the next pass of this size."""
        shape = output.shape if isinstance(output, torch.Tensor) else None
        if self.reshape_transform is not None:
            known[layer] = shape, None
            return check_reshaped(self.reshape_transform(output), output, layer)
        if trace is None:
            expected, read = known[layer]
            if shape != expected:
                raise _ReadOtherwise(self)
            return read(output)
        reading = find_reading(output, self._facts[layer], trace, self.readings.get(layer))
        self.readings[layer] = reading.key
        if shape is not None:
            known[layer] = shape, reading.make
        return reading.make(output)


def _raise_clear(module, size, error, *, began, adapter) -> NoReturn:
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
    device, dtype = device_of(module), dtype_of(module)
    image = torch.zeros(1, *size, device=device, dtype=dtype)
    with evaluating(module, device), _recording(module) as records, torch.no_grad():
        try:
            adapter_of(model)(module, image)
        except Exception as error:
            if not records:
                _raise_clear(module, size[1:], error, began=False, adapter=adapter_of(model))
            warnings.warn(
                "The network failed behind the layers listed here: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
    if not records and any(True for _ in module.children()):
        raise LayoutError(explain_silence(module, [], records))
    rows = [(name, *record) for name, record in records.items()]
    return pd.DataFrame(rows, columns=["name", "type", "output_shape", "n_calls"])
