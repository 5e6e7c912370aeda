"""LoCETransformer turns a table of images and masks into an array of LoCEs."""

import os
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, Options, StrOptions
from torch import nn
from torchvision.models import WeightsEnum

from ._base import SampleTransformer
from ._network.handle import TorchModel
from ._network.joined import Joined
from ._solvers.objectives import OBJECTIVES, check_read, make_objective
from ._solvers.optimize import INITS, initial_vector
from ._solvers.resize import MASK_RESIZE
from ._store.memory import MemoryStore
from ._store.sqlite import RowStore


class LoCETransformer(SampleTransformer):
    """Turn image-concept pairs into Local Concept Embeddings.

    A LoCE is a vector with one component per channel of a layer. It is optimized so that its
    projection onto the activations of one image matches the mask of one concept. Each row of the
    table of samples becomes one vector, which depends on this row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a :class:`TorchModel` if the estimator is cloned, as in a grid
        search. Clones then share the weights instead of copying them.
    layer : str, Joined or list of these
        Dotted name of a layer, as in :func:`list_layers`, or several layers as one
        :class:`Joined`. The LoCEs of a list of layers are optimized per layer and concatenated.
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
    objective : {"logistic", "jaccard", "dice", "net2vec", "mse", "mae"}, default="logistic"
        Objective that is minimized, see :func:`optimize_loces`. The first three have a bias and a
        ridge and are optimized until convergence; "logistic" has a single optimum. "net2vec" is the
        objective of the paper. Parameters that the objective does not use must keep their defaults.
    learning_rate : float, default=0.1
        Learning rate of AdamW, which minimizes "net2vec", "mse" and "mae".
    max_iter : int, default=None
        Number of steps of AdamW, or maximum number of iterations of L-BFGS. ``None`` means 50
        and 500.
    alpha : float, default=1e-4
        Strength of the ridge of "logistic", "jaccard" and "dice". One value means the same for all
        layers and scales of activations. With a larger value, projections are less sharp, and
        vectors of one concept are closer to each other: 1e-3 retrieves better.
    tol : float, default=1e-4
        Tolerance of L-BFGS, see :func:`optimize_loces`. A ``ConvergenceWarning`` reports the number
        of rows that did not reach it.
    class_weight : {"sqrt", "balanced"} or None, default="sqrt"
        Weight of pixels of concept and background in "logistic", see :func:`optimize_loces`.
    append_bias : bool, default=False
        Whether to append the fitted bias to the features of each layer, for objectives with a bias.
        ``project``, ``evaluate`` and ``score`` then use it. Otherwise these methods choose, for
        each row, the bias whose projection matches the mask best; it differs from the fitted bias.
        The fitted bias is needed if no mask is available, as in :mod:`sklearn_loce.segmentation`,
        whose segmenters set this parameter. If a mask covers the whole image, its "logistic" LoCE
        and bias are zero, so no pixel is above 0.5.
    standardize : bool, default=False
        Whether to scale channels to mean 0 and variance 1 before the optimization. ``fit`` learns
        mean and variance over all cells of all images, with one more forward pass per image. Images
        that fail are omitted if rows may fail. Vectors, feature names and ``project`` then refer to
        standardized channels. A component is the weight of one standard deviation of its channel,
        so components of different channels, layers and networks are comparable. Embeddings can only
        be projected by the transformer whose fit computed them.
    init : {"zeros", "ones", "uniform", "normal"}, default="zeros"
        Start of the optimization, the same for all rows. ``fit`` draws a random start.
    mask_size : tuple of int, default=(100, 100)
        Size (n_rows, n_columns) at which projection and mask are compared.
    mask_resize : {"gaussian", "area", "nearest", "bilinear"}, default="gaussian"
        Method that resizes masks to ``mask_size``. The vectors depend on it strongly.
    on_empty : {"raise", "nan"}, default="raise"
        Result for a row whose mask has no foreground, also if only at ``mask_size``: an error that
        names the rows, or a vector of NaN that ``score`` ignores. A mask that is smaller than a
        cell of the layer is not empty, because a cell covers it in the projection; ``evaluate``
        returns its area in cells.
    on_error : {"raise", "nan"}, default="raise"
        Result for a row that fails. A row fails if its image cannot be read or ends its worker, its
        activations are not finite, or its mask is empty with ``on_empty="raise"``. All other rows
        are computed and stored first. Then "raise" raises a
        :class:`~sklearn_loce.exceptions.FailedRowsError` that lists rows and causes, and "nan"
        warns and returns vectors of NaN. Without a folder as ``memory``, problems that are visible
        before decoding raise immediately.
    batch_size : int or None, default=None
        Number of rows that are optimized at once, with their masks at ``mask_size``. ``None`` means
        64. On the CPU, the rows of a batch belong to one image, and the vectors do not depend on
        the batch size. On a GPU, a batch contains rows of several images. If the memory of the GPU
        is exhausted, you get a warning, and the batch size is halved.
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
        Seed for a random ``init``, and for random transforms in ``preprocess``, together with the
        content of the image. The store keeps vectors of random transforms only with an integer.
    verbose : int, default=0
        With 1 or more, show a progress bar over the images.

    Attributes
    ----------
    layers_ : list of str
        Names of the layers. The name of joined layers is ``str(joined)``.
    n_channels_ : list of int
        Number of channels of each layer.
    inits_ : list of ndarray of shape (n_channels,)
        Start of the optimization of each layer.
    mean_, scale_ : list of ndarray of shape (n_channels,), float64, or None
        Mean and scale of each channel, with ``standardize=True``, otherwise ``None``. The scale of
        a constant channel is 1.
    n_iter_ : ndarray of shape (n_layers,), int
        Largest number of iterations of any row of ``fit_transform`` at each layer; 0 if all rows
        failed. ``fit`` alone does not set it. ``evaluate`` returns the number of each row.

    See Also
    --------
    optimize_loces : The optimization on tensors.
    MaskedMeanTransformer : Averages of activations under the mask.
    Joined : Several layers as one.
    RowStore : Keeps vectors in a folder.
    sklearn_loce.datasets.load_coco : A table of samples from COCO annotations.

    Notes
    -----
    X is a DataFrame with one row per image-concept pair. The column ``image`` contains paths, PIL
    images or uint8 arrays of shape (height, width, 3). The column ``mask`` contains COCO run-length
    encodings, boolean arrays of shape (height, width) or paths of mask images. Other columns are
    ignored. X may also be a list of ``(image, mask)`` pairs. Images and masks are read when they
    are needed. One forward pass per image serves all its rows.

    A copy of the network processes the images, with its own hooks and in evaluation mode. It shares
    the weights of the module, which stays unchanged. In ``fit``, a fixed probe image of 96 x 128
    pixels (or of the size that the network accepts) passes it twice. If the two passes differ, you
    get a warning, and no vector is kept. ``transform`` passes the probe image once, and once more
    through the copy of each thread and worker.

    After ``set_params``, call ``fit`` again.

    References
    ----------
    .. [1] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025.

    Examples
    --------
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> scenes = make_scenes(2, random_state=0)
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
    >>> embeddings = loce.fit_transform(scenes.data)
    >>> embeddings.shape
    (14, 48)
    >>> round(loce.score(scenes.data), 1)  # mean held-out IoU
    0.8
    """

    _parameter_constraints = {  # noqa: RUF012 - the name and form are scikit-learn's
        "model": [nn.Module, TorchModel],
        "layer": [str, Joined, list, tuple],
        "preprocess": [None, StrOptions({"paper", "auto"}), WeightsEnum, callable],
        "reshape_transform": [None, callable],
        "objective": [StrOptions(set(OBJECTIVES))],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "class_weight": [StrOptions({"balanced", "sqrt"}), None],
        "append_bias": ["boolean"],
        "standardize": ["boolean"],
        "init": [StrOptions(set(INITS))],
        "mask_size": [tuple, list],
        "mask_resize": [StrOptions(set(MASK_RESIZE))],
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
        objective="logistic",
        learning_rate=0.1,
        max_iter=None,
        alpha=1e-4,
        tol=1e-4,
        class_weight="sqrt",
        append_bias=False,
        standardize=False,
        init="zeros",
        mask_size=(100, 100),
        mask_resize="gaussian",
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
        self.objective = objective
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.alpha = alpha
        self.tol = tol
        self.class_weight = class_weight
        self.append_bias = append_bias
        self.standardize = standardize
        self.init = init
        self.mask_size = mask_size
        self.mask_resize = mask_resize
        self.on_empty = on_empty
        self.on_error = on_error
        self.batch_size = batch_size
        self.device = device
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _make_objective(self):
        check_read(self.objective, append_bias=self.append_bias)
        return make_objective(
            self.objective,
            learning_rate=self.learning_rate,
            max_iter=self.max_iter,
            alpha=self.alpha,
            tol=self.tol,
            class_weight=self.class_weight,
            mask_size=self.mask_size,
            mask_resize=self.mask_resize,
        )

    def _make_starts(self, seed):
        self.inits_ = [initial_vector(self.init, n, seed) for n in self.n_channels_]
        return self.inits_

    def _set_n_iter(self, table):
        n_iter = [self._objective.max_iter] * len(self.layers_)  # AdamW makes all of its steps
        if self._objective.has_bias:
            n_iter = [np.fmax.reduce(s.n_iter, initial=0) for s in table.solutions]
        self.n_iter_ = np.array(n_iter, dtype=int)
