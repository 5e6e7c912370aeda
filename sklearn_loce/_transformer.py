"""LoCETransformer: from a table of images and masks to an array of LoCEs."""

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

    A LoCE is the 1x1 filter that, put on a layer's activations of one image, best redraws the mask
    of one concept in that image. Each row of the table of samples becomes one vector with a
    component per channel of the layer; it depends on that row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a :class:`TorchModel` where the estimator is cloned, as in a grid
        search: clones then share the weights instead of copying them.
    layer : str, Joined or list of these
        Dotted name of a layer, as :func:`list_layers` gives it, or several :class:`Joined` as one.
        The LoCEs of a list of layers are optimized per layer and concatenated.
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
    objective : {"logistic", "jaccard", "dice", "net2vec", "mse", "mae"}, default="logistic"
        What is minimized; see :func:`optimize_loces`. The first three have a bias and a ridge and
        are solved to convergence; "logistic" has one optimum. "net2vec" is the paper's. A parameter
        that the objective does not read has to be left at its default.
    learning_rate : float, default=0.1
        Learning rate of AdamW, which minimizes "net2vec", "mse" and "mae".
    max_iter : int, default=None
        Number of AdamW's steps, or the most iterations of L-BFGS; ``None`` means 50 and 500.
    alpha : float, default=1e-4
        Strength of the ridge of "logistic", "jaccard" and "dice"; one value means the same for all
        layers and scales of activations. With a larger value, projections are less sharp and
        vectors of one concept are closer to each other: 1e-3 retrieves better.
    tol : float, default=1e-4
        Where L-BFGS ends; see :func:`optimize_loces`. A ``ConvergenceWarning`` gives the number of
        rows that did not reach it.
    class_weight : {"sqrt", "balanced"} or None, default="sqrt"
        How "logistic" weights pixels of concept and background; see :func:`optimize_loces`.
    append_bias : bool, default=False
        Whether the fitted bias is a last feature of each layer, after its channels, for the three
        objectives that have one; ``project``, ``evaluate`` and ``score`` then use it. Otherwise
        these methods choose, for each row, the bias that redraws its mask best; this differs from
        the fitted bias. Needed when no mask is available, as in :mod:`sklearn_loce.segmentation`,
        whose segmenters set it. A mask that covers the whole image, whose "logistic" LoCE is zero,
        has the bias 0, with which no pixel is above 0.5.
    standardize : bool, default=False
        Whether channels are brought to mean 0 and variance 1 first. Both are learned in ``fit``
        over all cells of the table's images, with one more forward pass per image; images that
        fail are left out if rows may fail. Vectors, feature names and ``project`` then refer to the
        standardized channels: a component is the weight of one standard deviation of its channel,
        comparable between channels, layers and networks. Embeddings that are projected must come
        from the same fit.
    init : {"zeros", "ones", "uniform", "normal"}, default="zeros"
        Start of the optimization, the same for all rows; drawn in ``fit``.
    mask_size : tuple of int, default=(100, 100)
        (n_rows, n_columns) at which projection and mask are compared.
    mask_resize : {"gaussian", "area", "nearest", "bilinear"}, default="gaussian"
        How masks are resized to ``mask_size``; the vectors depend on it strongly.
    on_empty : {"raise", "nan"}, default="raise"
        Result for a row whose mask has no foreground, or loses it at ``mask_size``: an error that
        names the rows, or a vector of NaN that ``score`` leaves out. A mask that is smaller than a
        cell of the layer is not empty, because some cell always covers it in the projection;
        ``evaluate`` gives its area in cells.
    on_error : {"raise", "nan"}, default="raise"
        Result for a row that fails, because its image can't be read or ends its worker, its
        activations are not finite, or its mask is empty with ``on_empty="raise"``. All other rows
        are computed, and stored, first; then "raise" raises a
        :class:`~sklearn_loce.exceptions.FailedRowsError` that lists rows and causes, and "nan"
        warns and gives vectors of NaN. Without a folder as ``memory``, "raise" raises problems that
        are visible before decoding at once.
    batch_size : int or None, default=None
        Number of rows that are optimized at once, with their masks at ``mask_size``; ``None`` means
        64. On the CPU these are rows of one image. On a GPU, images are passed until they have so
        many rows, and where its memory runs out the number is halved, with a warning. On the CPU
        the vectors don't depend on it.
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
        Determines the start if ``init`` is drawn, and seeds random transforms in ``preprocess``
        together with the image's content. With an integer, their vectors can be kept.
    verbose : int, default=0
        With 1 or more, a progress bar over the images.

    Attributes
    ----------
    layers_ : list of str
        The layers by name; joined layers as ``str(joined)``.
    n_channels_ : list of int
        Number of channels of each layer.
    inits_ : list of ndarray of shape (n_channels,)
        Start of the optimization of each layer.
    mean_, scale_ : list of ndarray of shape (n_channels,), float64, or None
        Of each layer's channels, with ``standardize=True``; the scale of a constant channel is 1.
    n_iter_ : ndarray of shape (n_layers,), int
        Largest number of iterations of any row of ``fit_transform`` at each layer; 0 if all rows
        failed. Absent after ``fit``, which optimizes nothing. For each row, see ``evaluate``.

    See Also
    --------
    optimize_loces : The optimization on tensors.
    MaskedMeanTransformer : Averages of activations under the mask.
    Joined : Several layers as one.
    RowStore : Keeps vectors in a folder.
    sklearn_loce.datasets.load_coco : A table of samples from COCO annotations.

    Notes
    -----
    X is a DataFrame with one row per image-concept pair. Its column ``image`` holds paths, PIL
    images or uint8 arrays of shape (height, width, 3); ``mask`` holds COCO run-length encodings,
    boolean arrays of shape (height, width) or paths of mask images. Further columns are ignored. A
    list of ``(image, mask)`` pairs works as well. Images and masks are read when they are needed,
    and one forward pass per image serves all its rows.

    A copy of the network passes the images, with its own hooks and in evaluation mode; it shares
    the weights with the module, which is not touched. In ``fit``, a fixed image of 96 x 128 pixels
    (or of the size that the network takes) passes it twice. If the two passes differ, a warning
    says so, and no vector is kept. ``transform`` passes that image once if there is a store, or
    several threads or workers.

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

    def _appends_bias(self):
        return self.append_bias

    def _set_n_iter(self, table):
        n_iter = [self._objective.max_iter] * len(self.layers_)  # AdamW makes all of its steps
        if self._objective.has_bias:
            n_iter = [np.fmax.reduce(s.n_iter, initial=0) for s in table.solutions]
        self.n_iter_ = np.array(n_iter, dtype=int)
