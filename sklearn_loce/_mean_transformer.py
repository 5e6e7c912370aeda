"""MaskedMeanTransformer: from a table of images and masks to averages of activations."""

import os
from numbers import Integral

import torch
from sklearn.utils._param_validation import Interval, Options, StrOptions
from torch import nn
from torchvision.models import WeightsEnum

from ._base import SampleTransformer
from ._network.handle import TorchModel
from ._solvers.masked_mean import MaskedMean
from ._store.memory import MemoryStore
from ._store.sqlite import RowStore


class MaskedMeanTransformer(SampleTransformer):
    """Turn image-concept pairs into averages of activations under the mask.

    The common practice that LoCEs are compared with: nothing is optimised, and what lies outside of
    the mask has no say. With the activations A_i of cell i and the share m_i of its area that the
    mask covers, a row's vector is ``sum_i m_i A_i / sum_i m_i``. A mask that is smaller than a cell
    still weighs what it covers. The vector depends on that row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a ``TorchModel`` where the estimator is cloned, as in a grid
        search: clones then share the weights instead of copying them.
    layer : str or list of str
        Dotted name of a layer, as ``list_layers`` gives it. The averages of several layers
        are concatenated.
    preprocess : None, torchvision Weights, their ``.transforms()``, Hugging Face image processor, \
            or callable, default=None
        ``None`` scales pixels to [0, 1] and no more, the paper's setting. Of torchvision's weights
        and Hugging Face's processors the size, mean, standard deviation and padding are used, but
        not the centre crop, which would cut the concept away, and a processor that crops all the
        same is an error; images for a network that takes one size only are squashed to that. A
        ``torchvision.transforms.v2`` transform is applied to image and masks together; pixels that
        it leaves as integers are scaled to [0, 1] after it. Detectors that resize and pad inside
        need ``None`` or their weights.
    reshape_transform : callable, default=None
        Turns the raw output of a layer into a tensor (n_images, n_channels, height, width), where
        that is not found from the output itself; see :class:`ActivationExtractor`.
    standardize : bool, default=False
        Whether channels are brought to mean 0 and variance 1 first; see :class:`LoCETransformer`.
    on_empty : {"raise", "nan"}, default="raise"
        What becomes of a row whose mask has no foreground: an error that names the rows, or a
        vector of NaN.
    on_error : {"raise", "nan"}, default="raise"
        What becomes of a row that fails; see :class:`LoCETransformer`.
    batch_size : int or None, default=None
        Number of rows that are worked on at once, with their activations in memory. ``None`` means
        16, and those that complete an image.
    device : str or torch.device, default=None
        Where to compute. ``None`` means where the model is. A device that is not available is
        replaced by that, with a warning.
    memory : None, False, str, path or RowStore, default=None
        Where vectors are kept, so that none is computed twice. A folder, or a
        :class:`RowStore`, keeps them on disk: for other processes, and for the next attempt where
        a run was killed. With ``None`` the clones of one :class:`TorchModel` share up to 128 MB in
        memory, so that a ``GridSearchCV`` computes each row and layer once; nothing is kept for a
        bare module, whose clones are copies. False keeps nothing. A vector is found again only if
        weights, preprocessing, layer, settings, image and mask are the same in content.
    n_jobs : int, default=None
        Number of joblib workers, processes with one thread of torch each, among which the images
        are divided; -1 means all processors. In ``joblib.parallel_config("dask")`` these are the
        workers of a cluster. The vectors don't depend on it, to the last bit: here, too, the
        network runs on one thread, while others decode images and optimise.
    random_state : int, RandomState instance or None, default=None
        Determines what random transforms in ``preprocess`` do to an image, which depends on its
        content besides.
    verbose : int, default=0
        With 1 or more, a progress bar over the images.

    Attributes
    ----------
    layers_ : list of str
        The layers by name.
    n_channels_ : list of int
        Number of channels of each layer.
    mean_, scale_ : list of ndarray of shape (n_channels,), float64, or None
        Of each layer's channels, with ``standardize=True``; the scale of a constant channel is 1.

    See Also
    --------
    LoCETransformer : Vectors that redraw the mask.

    Examples
    --------
    >>> from sklearn_loce import MaskedMeanTransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> scenes = make_scenes(2, random_state=0)
    >>> averages = MaskedMeanTransformer(TorchModel(load_scene_model), "features.2")
    >>> averages.fit_transform(scenes.data).shape[0] == len(scenes.data)
    True
    """

    _parameter_constraints = {  # noqa: RUF012 - the name and form are scikit-learn's
        "model": [nn.Module, TorchModel],
        "layer": [str, list, tuple],
        "preprocess": [None, WeightsEnum, callable],
        "reshape_transform": [None, callable],
        "standardize": ["boolean"],
        "on_empty": [StrOptions({"raise", "nan"})],
        "on_error": [StrOptions({"raise", "nan"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "device": [None, str, torch.device],
        "memory": [None, Options(bool, {False}), str, os.PathLike, RowStore, MemoryStore],
        "n_jobs": [None, Integral],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model,
        layer,
        *,
        preprocess=None,
        reshape_transform=None,
        standardize=False,
        on_empty="raise",
        on_error="raise",
        batch_size=None,
        device=None,
        memory=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.model = model
        self.layer = layer
        self.preprocess = preprocess
        self.reshape_transform = reshape_transform
        self.standardize = standardize
        self.on_empty = on_empty
        self.on_error = on_error
        self.batch_size = batch_size
        self.device = device
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _make_objective(self):
        return MaskedMean()
