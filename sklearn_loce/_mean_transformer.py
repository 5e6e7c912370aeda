"""MaskedMeanTransformer: from a table of images and masks to averages of activations."""

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

    The usual alternative to LoCEs: nothing is optimized, and activations outside of the mask do not
    count. With the activations A_i of cell i and the share m_i of its area that the
    mask covers, a row's vector is ``sum_i m_i A_i / sum_i m_i``. A mask that is smaller than a cell
    still weighs what it covers. The vector depends on that row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a ``TorchModel`` where the estimator is cloned, as in a grid
        search: clones then share the weights instead of copying them.
    layer : str, Joined or list of these
        Dotted name of a layer, as ``list_layers`` gives it, or several :class:`Joined` as one. The
        averages of a list of layers are concatenated.
    preprocess : None, "paper", "auto", torchvision Weights, their ``.transforms()``, Hugging Face \
            image processor, or callable, default=None
        ``None`` scales pixels to [0, 1], and warns where the network tells that it was trained on
        normalized images. "paper" is what the published code does: Pillow's bicubic filter squashes
        images to 640 x 480, and then to the size of a network that takes no other; pixels are
        scaled to [0, 1], and DETR's processor normalizes them. "auto" takes what the network was
        trained with, where that is known; see :class:`TorchModel`. Of torchvision's weights and
        Hugging Face's processors the size, mean, standard deviation and padding are used, but not
        the center crop, which would cut the concept away; a processor that crops in another way is
        an error. Transforms of timm and of torchvision's first version are read in the same way.
        Images for a network that takes one size only are squashed to that. A
        ``torchvision.transforms.v2`` transform is applied to image and masks together; pixels that
        it leaves as integers are scaled to [0, 1] after it. Detectors that resize and pad inside
        need ``None``, "paper" or their weights.
    reshape_transform : callable, default=None
        Turns the raw output of a layer into a tensor (n_images, n_channels, height, width).
        ``None`` finds the grid by following a pass; see :class:`ActivationExtractor`.
    background : {"keep", "subtract"}, default="keep"
        Whether the average over the rest of the image is subtracted. A mask that covers the whole
        image then fails.
    standardize : bool, default=False
        Whether channels are brought to mean 0 and variance 1 first; see :class:`LoCETransformer`.
    on_empty : {"raise", "nan"}, default="raise"
        Result for a row whose mask has no foreground: an error that names the rows, or a vector of
        NaN.
    on_error : {"raise", "nan"}, default="raise"
        Result for a row that fails; see :class:`LoCETransformer`.
    batch_size : int or None, default=None
        Number of rows that are averaged at once, with their masks in memory; ``None`` means 64. On
        the CPU these are rows of one image.
    device : str or torch.device, default=None
        Where to compute. ``None`` means where the model is. A device that is not available is
        replaced by that, with a warning. The copy of the network is moved, and not the model.
    memory : None, False, str, path or RowStore, default=None
        Where vectors are kept, so that none is computed twice. A folder, or a
        :class:`RowStore`, keeps them on disk: for other processes, and for the next attempt where
        a run was killed. With ``None`` the clones of one :class:`TorchModel` share up to 128 MB in
        memory, so that a ``GridSearchCV`` computes each row and layer once; nothing is kept for a
        bare module, whose clones are copies. False keeps nothing. A vector is found again only if
        network, preprocessing, layer, settings, image and mask are the same in content, and the
        network gives the same activations for a probe image; see the notes.
    n_jobs : int, default=None
        Number of joblib workers, processes with one thread each, among which the images are
        divided; -1 means all processors. In ``joblib.parallel_config("dask")`` these are the
        workers of a cluster. With ``None``, threads of this process work on the images, as many as
        ``torch.get_num_threads()`` gives; on a GPU, one. On the CPU, the vectors are equal bit for
        bit for any number of workers and threads.
    random_state : int, RandomState instance or None, default=None
        Seeds random transforms in ``preprocess`` together with the image's content. With an
        integer, their vectors can be kept.
    verbose : int, default=0
        With 1 or more, a progress bar over the images.

    Attributes
    ----------
    layers_ : list of str
        The layers by name; joined layers as ``str(joined)``.
    n_channels_ : list of int
        Number of channels of each layer.
    mean_, scale_ : list of ndarray of shape (n_channels,), float64, or None
        Of each layer's channels, with ``standardize=True``; the scale of a constant channel is 1.

    See Also
    --------
    LoCETransformer : Vectors that redraw the mask.
    RowStore : Keeps vectors in a folder.

    Notes
    -----
    A copy of the network passes the images, with its own hooks and in evaluation mode; it shares
    the weights with the module, which is not touched. In ``fit``, a fixed image of 96 x 128 pixels
    (or of the size that the network takes) passes it twice. If the two passes differ, a warning
    says so, and no vector is kept. ``transform`` passes that image once if there is a store, or
    several threads or workers.

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
