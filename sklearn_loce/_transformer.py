"""LoCETransformer: from a table of images and masks to an array of LoCEs."""

import os
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import TransformerMixin
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torchvision.models import WeightsEnum

from ._network.handle import TorchModel
from ._projecting import ProjectingEmbedder
from ._samples.table import as_samples
from ._solvers.objectives import OBJECTIVES, SOLVERS
from ._solvers.optimize import INITS
from ._solvers.resize import MASK_RESIZE
from ._store.memory import MemoryStore, RowStore


class LoCETransformer(TransformerMixin, ProjectingEmbedder):
    """Turn image-concept pairs into Local Concept Embeddings.

    A LoCE is the 1x1 filter that, put on a layer's activations of one image, best redraws the mask
    of one concept in that image. Each row of the table of samples becomes one vector with a
    component per channel of the layer; it depends on that row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a :class:`TorchModel` where the estimator is cloned, as in a grid
        search: clones then share the weights instead of copying them.
    layer : str or list of str
        Dotted name of a layer, as :func:`list_layers` gives it. The LoCEs of several layers are
        optimised per layer and concatenated.
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
    objective : {"net2vec", "mse", "mae", "logistic", "jaccard", "dice"}, default="net2vec"
        What is minimised; see :func:`optimize_loces`. "net2vec" is the paper's. The last three have
        a bias and a ridge and are solved to convergence; "logistic" has one optimum.
    solver : {"auto", "adamw", "lbfgs"}, default="auto"
        How it is minimised: "adamw" for the first three, "lbfgs" for the others.
    learning_rate : float, default=0.1
        Of AdamW.
    max_iter : int, default=None
        Number of AdamW's steps, or the most iterations of L-BFGS; ``None`` means 50 and 500.
    alpha : float, default=1e-4
        Strength of the ridge of "logistic", "jaccard" and "dice"; one value means the same for all
        layers and scales of activations. More draws masks less sharply, and lets vectors of one
        concept come closer to each other: 1e-3 retrieves better.
    tol : float, default=1e-4
        Where L-BFGS ends; see :func:`optimize_loces`. A ``ConvergenceWarning`` tells how many rows
        did not get there.
    class_weight : {"sqrt", "balanced"} or None, default="sqrt"
        How "logistic" weighs pixels of concept and background; see :func:`optimize_loces`.
    append_bias : bool, default=False
        Whether the optimum's bias is a further feature of each layer, after its channels, for the
        three objectives that have one; ``project``, ``evaluate`` and ``score`` then draw with it.
        Where it is not, these choose for each row the bias that redraws its mask best, which the
        objective's own is not. What draws without a mask needs it: the segmenters of
        :mod:`sklearn_loce.segmentation` set it. A mask that covers all of the image, whose
        "logistic" LoCE is zero, has the bias 0, with which nothing is drawn.
    standardize : bool, default=False
        Whether channels are brought to mean 0 and variance 1 first. Both are learned in ``fit``
        over all cells of the table's images, with one forward pass more per image; images that
        fail, where rows may, are left out.
        Vectors, feature names and ``project`` are then of the standardised channels: a component
        is the weight of one standard deviation of its channel, comparable between channels, layers
        and networks, and embeddings that are projected must come from the same fit.
    init : {"zeros", "ones", "uniform", "normal"}, default="zeros"
        Start of the optimisation, the same for all rows; drawn in ``fit``.
    mask_size : tuple of int, default=(100, 100)
        (n_rows, n_columns) at which projection and mask are compared.
    mask_resize : {"gaussian", "area", "nearest", "bilinear"}, default="gaussian"
        How masks are brought to ``mask_size``; the vectors depend on it strongly.
    on_empty : {"raise", "nan"}, default="raise"
        What becomes of a row whose mask has no foreground, or loses it at ``mask_size``: an error
        that names the rows, or a vector of NaN that ``score`` leaves out. A mask that is smaller
        than a cell of the layer is not empty, as some cell's share in the projection always covers
        it; ``evaluate`` tells its area in cells.
    on_error : {"raise", "nan"}, default="raise"
        What becomes of a row that fails: because its image can't be read, its activations are not
        finite, or its mask is empty with ``on_empty="raise"``. All other rows are computed, and
        stored, first; then "raise" raises a :class:`~sklearn_loce.exceptions.FailedRowsError` that
        lists rows and causes, and "nan" warns and gives vectors of NaN. Without a store on disk,
        "raise" does not wait with what is seen to be wrong before the first image is decoded.
    batch_size : int or None, default=None
        Number of rows that are optimised at once, with their activations in memory. ``None`` means
        16, or 64 on a GPU, and those that complete an image, since rows of one image share its
        activations. Where a device runs out of memory it is halved, with a warning.
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
        Determines the start where ``init`` is drawn, and what random transforms in ``preprocess``
        do to an image, which depends on its content besides.
    verbose : int, default=0
        With 1 or more, a progress bar over the images.

    Attributes
    ----------
    layers_ : list of str
        The layers by name.
    n_channels_ : list of int
        Number of channels of each layer.
    inits_ : list of ndarray of shape (n_channels,)
        Start of the optimisation of each layer.
    mean_, scale_ : list of ndarray of shape (n_channels,), float64, or None
        Of each layer's channels, with ``standardize=True``; the scale of a constant channel is 1.
    n_iter_ : ndarray of shape (n_layers,), int
        Most iterations that a row of ``fit_transform`` took at each layer; 0 where all rows failed.
        There is none after ``fit``, which optimises nothing. For each row, see ``evaluate``.

    See Also
    --------
    optimize_loces : The optimisation on tensors.
    MaskedMeanTransformer : Averages of activations under the mask.
    sklearn_loce.datasets.load_coco : A table of samples from COCO annotations.

    Notes
    -----
    X is a DataFrame with one row per image-concept pair. Its column ``image`` holds paths, PIL
    images or uint8 arrays of shape (height, width, 3); ``mask`` holds COCO run-length encodings,
    boolean arrays of shape (height, width) or paths of mask images. Further columns are left
    alone. A list of ``(image, mask)`` pairs will do as well. Images are read when they are needed,
    each once, and one forward pass, stopped at the deepest layer, serves all its rows.

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
    >>> round(loce.score(scenes.data), 1)  # mean IoU of projections and masks
    0.7
    """

    _parameter_constraints = {  # noqa: RUF012 - the name and form are scikit-learn's
        "model": [nn.Module, TorchModel],
        "layer": [str, list, tuple],
        "preprocess": [None, WeightsEnum, callable],
        "reshape_transform": [None, callable],
        "objective": [StrOptions(set(OBJECTIVES))],
        "solver": [StrOptions(set(SOLVERS))],
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
        objective="net2vec",
        solver="auto",
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
        self.solver = solver
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

    def fit(self, X, y=None):
        """Check the parameters and the table, and look the layers up.

        One image is read and passed through the network. Nothing is learned from the rest, unless
        ``standardize=True``, which all images are passed for.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        self : LoCETransformer

        Raises
        ------
        ValueError
            If a parameter is out of range, the model lacks a layer, a layer's output is no grid, or
            the table lacks a column.
        TypeError, StoreError
            As ``transform``, of the store.
        """
        self._look_up_layers(X)
        vars(self).pop("n_iter_", None)  # of the last fit_transform
        return self

    def fit_transform(self, X, y=None):
        """Fit, and transform the same table; one forward pass per image serves both.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            As of ``transform``.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, StoreError
            As ``fit`` and ``transform``.
        """
        preview, identity = self._look_up_layers(X)
        result = self._run_over(as_samples(X), identity, preview=preview)
        self.n_iter_ = result.n_iter
        if self.n_iter_ is None:  # AdamW makes as many as it is told
            self.n_iter_ = np.full(len(self.layers_), self._method()["settings"].max_iter)
        return result.vectors

    def transform(self, X):
        """Optimise one LoCE per row, or take it from the store.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            The LoCEs; several layers side by side, in the order of ``layers_``.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If an image or mask can't be read, their sizes differ, a mask is empty and
            ``on_empty="raise"``, or activations hold NaN or infinity. Where other rows have been
            computed, it is a :class:`~sklearn_loce.exceptions.FailedRowsError` and has them.
        TypeError
            If a store was asked for, but ``model``, ``preprocess`` or ``reshape_transform`` can't
            be hashed.
        StoreError
            If the store is damaged, of another format, or another program's.
        """
        check_is_fitted(self)
        return self._run_over(as_samples(X), self._identify()).vectors
