"""What a forward pass shows on its way: the size it began with, and the grids that it made."""

from contextlib import contextmanager
from weakref import ref

import torch
from torch import nn

from ..exceptions import LayoutError
from .families import axes_of, decoders

# Behind these, a map of as many channels as the image has is not the image any more. Padding as a
# layer belongs to the convolution behind it.
_CONSUMERS = (nn.Conv2d, nn.Linear, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d)


class Trace:
    """A record of one forward pass.

    Parameters
    ----------
    n_images : int
    input_size : tuple of int
        (height, width) of what the network's first layer should see.
    n_channels : int, default=3
        Of the images.

    Attributes
    ----------
    grids : list of tuple of int
        (n_channels, height, width) of the grids that torch's own layers put out, in order.
    behind_decoder : bool
        Whether a decoder has begun to run.
    began : bool
        Whether a layer has finished.
    """

    def __init__(self, n_images, input_size, n_channels=3):
        self.n_images = n_images
        self.input_size = tuple(input_size)
        self.n_channels = n_channels
        self.grids = []
        self.behind_decoder = False
        self.began = False
        self._entered = False
        self._latest = None

    def note(self, layer, args, output):
        """Look at what a layer without layers in it got and gave."""
        self.began = True
        given = args[0] if args else None
        if not self._entered and _is_map(given):
            self._check_entrance(layer, given)
            self._entered = isinstance(layer, _CONSUMERS)
        if not _is_map(output) or len(output) != self.n_images:
            return
        axes = axes_of(layer)
        if axes is None and output.shape == getattr(given, "shape", None):
            axes = self.axes_of(given)
        if axes is not None:
            self._latest = ref(output), axes
            grid = output if axes == "first" else output.permute(0, 3, 1, 2)
            self.grids.append(tuple(grid.shape[1:]))

    def axes_of(self, tensor):
        """Tell where the channels of the latest grid are, if ``tensor`` is that; or ``None``.

        It must be the same object: what was done to it in between may have moved the axes.
        """
        if self._latest is None or self._latest[0]() is not tensor:
            return None
        return self._latest[1]

    def _check_entrance(self, layer, given):
        if given.shape[1] != self.n_channels or len(given) != self.n_images:
            return  # patches, or space moved to depth
        # A strided convolution may be given the cells at the lower and right rim whole.
        stride = layer.stride if isinstance(layer, nn.Conv2d) else (1, 1)
        size = tuple(given.shape[-2:])
        added = [seen - n for seen, n in zip(size, self.input_size, strict=True)]
        if any(not 0 <= n < step for n, step in zip(added, stride, strict=True)):
            raise LayoutError(
                f"The first layer sees {size[0]} x {size[1]} pixels of an image of "
                f"{self.input_size[0]} x {self.input_size[1]}: the network resizes or pads inside, "
                "so its grids can't be laid on the image. Pass TorchModel(network, forward=...) "
                "with a method frame, which says what the first layer sees."
            )


def _is_map(value):
    return isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point()


@contextmanager
def watching(module, trace):
    """Let a trace see what passes through a module."""

    def enter(decoder, args):
        trace.behind_decoder = True

    leaves = [child for child in module.modules() if not any(True for _ in child.children())]
    handles = []
    try:
        handles += [leaf.register_forward_hook(trace.note) for leaf in leaves]
        handles += [child.register_forward_pre_hook(enter) for child in decoders(module)]
        yield
    finally:
        for handle in handles:
            handle.remove()
