"""MaskedMeanTransformer turns a table of images and masks into averages of activations."""

import os
from numbers import Integral

import torch
from sklearn.utils._param_validation import Interval, Options, StrOptions
from torch import nn
from torchvision.models import WeightsEnum

from ._base import SampleTransformer
from ._network.handle import TorchModel
from ._network.joined import Joined
from ._solvers.masked_mean import MaskedMean
from ._store.memory import MemoryStore
from ._store.sqlite import RowStore


class MaskedMeanTransformer(SampleTransformer):
    """Turn image-concept pairs into averages of activations under the mask.

    These averages are the usual alternative to LoCEs. Nothing is optimized, and activations outside
    the mask do not count. Let A_i be the activations of cell i, and m_i the share of its area that
    the mask covers. The vector of a row is ``sum_i m_i A_i / sum_i m_i``. So a mask that is smaller
    than a cell has a vector, too. The vector depends on this row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a :class:`TorchModel` if the estimator is cloned, as in a grid
        search. Clones then share the weights instead of copying them.
    layer : str, Joined or list of these
        Dotted name of a layer, as in :func:`list_layers`, or several layers as one
        :class:`Joined`. The averages of a list of layers are concatenated.
    preprocess : None, "paper", "auto", torchvision Weights, their ``.transforms()``, Hugging Face \
            image processor, or callable, default=None
        ``None`` scales pixels to [0, 1]. You get a warning if the network is known to expect
        normalized images. "paper" is the preprocessing of the published code: Pillow's bicubic
        filter squashes images to 640 x 480, and then to the size of a network that accepts no other
        size; pixels are scaled to [0, 1], and DETR's processor normalizes them. "auto" uses the
        preprocessing of the training if it is known, see :class:`TorchModel`. Weights of
        torchvision and processors of Hugging Face provide size, mean, standard deviation and
        padding. Their center crop is not applied, because it could remove the concept; another kind
        of crop is an error. Transforms of timm and of torchvision's first version are read in the
        same way. If the network accepts a single size only, images are squashed to this size. A
        ``torchvision.transforms.v2`` transform is applied to image and masks together; integer
        pixels are scaled to [0, 1] afterward. Detectors that resize and pad images themselves need
        ``None``, "paper" or their weights.
    reshape_transform : callable, default=None
        Function that reshapes the raw output of a layer into a tensor (n_images, n_channels,
        height, width). ``None`` finds the grid, see :class:`ActivationExtractor`.
    background : {"keep", "subtract"}, default="keep"
        Whether to subtract the average over the rest of the image. A row whose mask covers the
        whole image then fails.
    standardize : bool, default=False
        Whether to scale channels to mean 0 and variance 1 first, see :class:`LoCETransformer`.
    on_empty : {"raise", "nan"}, default="raise"
        Result for a row whose mask has no foreground: an error that names the rows, or a vector of
        NaN.
    on_error : {"raise", "nan"}, default="raise"
        Result for a row that fails, see :class:`LoCETransformer`.
    batch_size : int or None, default=None
        Number of rows that are averaged at once, with their masks in memory. ``None`` means 64. On
        the CPU, the rows of a batch belong to one image.
    device : str or torch.device, default=None
        Device of the computation. ``None`` uses the device of the model. If a device is not
        available, you get a warning, and the device of the model is used. Only a copy of the
        network is moved to the device.
    memory : None, False, str, path or RowStore, default=None
        Store of computed vectors, so that none is computed twice. A folder or a :class:`RowStore`
        keeps them on disk, for other processes and for a later run. With ``None``, the clones of
        one :class:`TorchModel` share up to 128 MB in memory, so a ``GridSearchCV`` computes each
        row and layer once. A bare module has no such store, because its clones are copies.
        ``False`` keeps nothing. A vector is found again only if network, preprocessing, layer,
        settings, image and mask have the same content. The network must also have the same
        activations for a probe image, see Notes.
    n_jobs : int, default=None
        Number of joblib workers that share the images. Each worker is a process with one thread; -1
        means all processors. Inside ``joblib.parallel_config("dask")``, the workers belong to a
        cluster. With ``None``, ``torch.get_num_threads()`` threads of this process share the
        images, or one thread on a GPU. On the CPU, the vectors are equal bit for bit for any number
        of workers and threads.
    random_state : int, RandomState instance or None, default=None
        Seed for random transforms in ``preprocess``, together with the content of the image. The
        store keeps vectors of random transforms only with an integer.
    verbose : int, default=0
        With 1 or more, show a progress bar over the images.

    Attributes
    ----------
    layers_ : list of str
        Names of the layers. The name of joined layers is ``str(joined)``.
    n_channels_ : list of int
        Number of channels of each layer.
    mean_, scale_ : list of ndarray of shape (n_channels,), float64, or None
        Mean and scale of each channel, with ``standardize=True``, otherwise ``None``. The scale of
        a constant channel is 1.

    See Also
    --------
    LoCETransformer : Vectors whose projections match the masks.
    RowStore : Keeps vectors in a folder.

    Notes
    -----
    A copy of the network processes the images, with its own hooks and in evaluation mode. It shares
    the weights of the module, which stays unchanged. In ``fit``, a fixed probe image of 96 x 128
    pixels (or of the size that the network accepts) passes it twice. If the two passes differ, you
    get a warning, and no vector is kept. ``transform`` passes the probe image once, and once more
    through the copy of each thread and worker.

    After ``set_params``, call ``fit`` again.

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
        "layer": [str, Joined, list, tuple],
        "preprocess": [None, StrOptions({"paper", "auto"}), WeightsEnum, callable],
        "reshape_transform": [None, callable],
        "background": [StrOptions({"keep", "subtract"})],
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
        background="keep",
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
        self.background = background
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
        return MaskedMean(self.background == "subtract")
