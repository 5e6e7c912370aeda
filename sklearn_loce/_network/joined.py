"""Several layers of a network as one, for one filter over all of their channels."""

import torch
from torch import nn
from torch.nn import functional

from .extract import ActivationExtractor, check_layers
from .families import Grid
from .grids import root_mean_squares
from .handle import TorchModel, WrappedNetwork, as_module


def _scaled(grid):
    """Divide each image's grid by the root of the mean squared norm of its cells."""
    return grid / root_mean_squares(grid)[:, None, None, None]


def _resized(grid, size):
    """Interpolate a grid where it is not of that size."""
    if grid.shape[-2:] == size:
        return grid
    return functional.interpolate(grid, size=size, mode="bilinear", align_corners=False)


class JoinedLayers(WrappedNetwork):
    """Several layers of a network side by side, as one layer named ``"joined"``.

    Shallow layers locate edges, and deep layers identify objects. One filter over the channels of
    both redraws masks better than a filter on either, most of all those of small objects. Each
    layer's activations are divided by the root of the mean squared norm of their cells, image by
    image, so that no layer outweighs the others. Then they are interpolated to the finest grid and
    concatenated.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Its weights are shared, not copied.
    layers : str or list of str
        Dotted names of layers, as ``list_layers(model, input_size)`` gives them.
    reshape_transform : callable, default=None
        Turns the raw output of each of these layers into a tensor (n_images, n_channels, height,
        width). ``None`` finds the grid by following a pass; see :class:`ActivationExtractor`.

    Attributes
    ----------
    network : torch.nn.Module
        The network itself.
    layers : tuple of str
        As given.
    joined : torch.nn.Module
        The layer whose output the joined activations are.

    Raises
    ------
    ValueError
        If there is no layer, one is named twice or is unknown; the message names close ones.
    TypeError
        If ``model`` is neither a module nor a ``TorchModel``, or ``reshape_transform`` can't be
        called.

    See Also
    --------
    LoCETransformer : Takes it as ``model``, with ``layer="joined"``.

    Notes
    -----
    With the activations A_l of layer l in one image, of n_l cells, its channels in the joined layer
    are the bilinear interpolation of ``A_l / sqrt(sum(A_l ** 2) / n_l)``; of a layer that is zero
    everywhere they are zero. This is not the vectors of several layers side by side, which
    ``layer=["features.1", "features.4"]`` gives: each of those redraws the mask alone.

    A copy of the network runs, in evaluation mode, which shares the weights. The output has no
    gradient.

    Examples
    --------
    >>> from sklearn_loce import JoinedLayers, LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> X = make_scenes(2, random_state=0).data
    >>> model = TorchModel(JoinedLayers(load_scene_model(), ["features.1", "features.4"]))
    >>> loce = LoCETransformer(model, "joined", objective="logistic")
    >>> alone = LoCETransformer(model.module.network, "features.4", objective="logistic")
    >>> loce.fit(X).score(X) > alone.fit(X).score(X)
    True
    """

    def __init__(self, model, layers, *, reshape_transform=None):
        super().__init__()
        if not isinstance(model, nn.Module | TorchModel):
            raise TypeError(
                f"JoinedLayers takes a torch.nn.Module or a TorchModel, got {type(model).__name__}."
            )
        if reshape_transform is not None and not callable(reshape_transform):
            raise TypeError(f"reshape_transform must be callable or None: {reshape_transform!r}.")
        self.network = as_module(model)
        self.layers = tuple(check_layers(self.network, layers))
        self.reshape_transform = reshape_transform
        self.joined = Grid()
        self._how = model.forward if isinstance(model, TorchModel) else None
        self._extract = None

    def forward(self, images, shown=None):
        """Compute the joined activations.

        Parameters
        ----------
        images : Tensor of shape (n_images, 3, height, width)
        shown : Tensor of shape (n_images, height, width), bool, default=None
            Which pixels are image and not padding; ``None`` means all.

        Returns
        -------
        Tensor of shape (n_images, n_channels, grid_height, grid_width), float32
            The channels of the layers in their order, over as many rows and columns as the finest
            of their grids have.

        Raises
        ------
        ValueError, LayoutError
            As :class:`ActivationExtractor`.
        """
        grids = list(self._extractor()(images, shown).values())
        size = torch.Size(max(sides) for sides in zip(*(g.shape[2:] for g in grids), strict=True))
        return self.joined(torch.cat([_resized(_scaled(g), size) for g in grids], 1))

    def frame(self, size):
        """Give what the network makes of an image of ``size`` before its first layer.

        Parameters
        ----------
        size : tuple of int
            (height, width)

        Returns
        -------
        Frame
        """
        return self._extractor().frame(size)

    def extra_repr(self):
        """Name the layers.

        Returns
        -------
        str
        """
        return f"layers={self.layers}"

    def _handle(self):
        return TorchModel(self.network, forward=self._how)

    def _extractor(self):
        """Give what takes the layers; in a replica, that of the passes before."""
        if self._extract is not None:
            return self._extract
        how = {"reshape_transform": self.reshape_transform, "readings": {}}
        extract = ActivationExtractor(self._handle(), self.layers, **how)
        if getattr(self, "_is_replica", False):
            self._extract = extract.__enter__()  # its hooks end with the replica
        return extract
