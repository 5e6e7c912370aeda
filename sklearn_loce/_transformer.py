"""LoCETransformer: from a table of images and masks to an array of LoCEs."""

from copy import copy, deepcopy
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_array, check_is_fitted
from torch import nn
from torchvision.models import WeightsEnum

from ._activations import ActivationExtractor
from ._masks import MASK_RESIZE, check_mask_size, resize_masks
from ._measure import measure_row, project_row
from ._model import TorchModel
from ._optimization import INITS, OBJECTIVES, Settings, initial_vector, solve_rows
from ._preprocessing import make_transform
from ._samples import as_samples, check_rows, group_by_image, read_rows, row_name
from ._stream import batched, look, stream_rows


class LoCETransformer(TransformerMixin, BaseEstimator):
    """Turn image-concept pairs into Local Concept Embeddings.

    A LoCE is the 1x1 filter that, put on a layer's activations of one image, best redraws the mask
    of one concept in that image. Each row of the table of samples becomes one vector with a
    component per channel of the layer; it depends on that row alone.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel
        The network. Wrap it in a ``TorchModel`` where the estimator is cloned, as in a grid
        search: clones then share the weights instead of copying them.
    layer : str or list of str
        Dotted name of a layer, as ``list_layers`` gives it. The LoCEs of several layers are
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
    objective : {"net2vec", "mse", "mae"}, default="net2vec"
        What is minimised; see :func:`optimize_loces`.
    solver : {"adamw"}, default="adamw"
        How it is minimised.
    learning_rate : float, default=0.1
    max_iter : int, default=50
        Number of AdamW steps.
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
    batch_size : int, default=16
        Number of rows whose activations are held at once; bounds the memory.
    device : str or torch.device, default=None
        Where to compute. ``None`` means where the model is. A device that is not available is
        replaced by that, with a warning.
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

    See Also
    --------
    optimize_loces : The optimisation on tensors.
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
    >>> len(embeddings) == len(scenes.data)
    True
    """

    _parameter_constraints = {  # noqa: RUF012 - the name and form are scikit-learn's
        "model": [nn.Module, TorchModel],
        "layer": [str, list, tuple],
        "preprocess": [None, WeightsEnum, callable],
        "reshape_transform": [None, callable],
        "objective": [StrOptions(set(OBJECTIVES))],
        "solver": [StrOptions({"adamw"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(set(INITS))],
        "mask_size": [tuple, list],
        "mask_resize": [StrOptions(set(MASK_RESIZE))],
        "on_empty": [StrOptions({"raise", "nan"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [None, str, torch.device],
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
        solver="adamw",
        learning_rate=0.1,
        max_iter=50,
        init="zeros",
        mask_size=(100, 100),
        mask_resize="gaussian",
        on_empty="raise",
        batch_size=16,
        device=None,
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
        self.init = init
        self.mask_size = mask_size
        self.mask_resize = mask_resize
        self.on_empty = on_empty
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the parameters and the table, and look the layers up.

        One image is read and passed through the network. Nothing is learned from the rest.

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
        """
        samples = as_samples(X)
        check_mask_size(self.mask_size)
        check_rows(samples.iloc[[0]], [[0]])
        image, masks = read_rows(samples, [0])
        with self._make_extractor(self.layer) as extract:
            transform = make_transform(self.preprocess, self.model)
            _, activations = look(image, masks, extract, transform)
        self.layers_ = list(activations)
        self.n_channels_ = [grid.shape[1] for grid in activations.values()]
        self.inits_ = [initial_vector(self.init, n, self.random_state) for n in self.n_channels_]
        self._n_calls = extract.n_calls
        self._seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        return self

    def transform(self, X):
        """Optimise one LoCE per row.

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
            ``on_empty="raise"``, or activations hold NaN or infinity.
        """
        check_is_fitted(self)
        samples = as_samples(X)
        embeddings = np.empty((len(samples), sum(self.n_channels_)), dtype=np.float32)
        for batch in self._batches(samples):
            embeddings[[row.position for row in batch]] = self._solve(batch)
        return embeddings

    def evaluate(self, X, embeddings=None):
        """Measure how well each LoCE redraws its mask.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            LoCEs of these rows, as ``transform`` gave them. ``None`` optimises them.

        Returns
        -------
        DataFrame
            One row per sample and layer, samples in order, with the index of X repeated:

            - ``layer``: its name;
            - ``iou``: intersection over union of projection > 0.5 and mask, at the image's own
              size; NaN for an empty mask;
            - ``loss``: the objective's value, at ``mask_size``; NaN for a vector of NaN;
            - ``foreground_cells``: area of the mask in cells of the layer, which may be below 1;
            - ``failed``: whether the IoU is 0 or there is none.

        Raises
        ------
        ValueError, FileNotFoundError
            As ``transform``; and if ``embeddings`` do not have one row per sample.
        """
        check_is_fitted(self)
        samples = as_samples(X)
        facts = np.empty((len(samples), len(self.layers_), 3))
        for row, vectors in self._rows_with_vectors(samples, embeddings):
            target, objective = self._targets([row]), OBJECTIVES[self.objective]
            facts[row.position] = [
                measure_row(row, grid, vector, target, objective)
                for grid, vector in zip(row.activations, vectors, strict=True)
            ]
        frame = pd.DataFrame(facts.reshape(-1, 3), columns=["iou", "loss", "foreground_cells"])
        frame.insert(0, "layer", self.layers_ * len(samples))
        frame["failed"] = ~(frame["iou"] > 0)
        return frame.set_index(samples.index.repeat(len(self.layers_)))

    def score(self, X, y=None):
        """Give the mean IoU of the projections with the masks.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        float
            Mean over samples and layers; rows with an empty mask are left out.
        """
        return float(self.evaluate(X)["iou"].mean())

    def project(self, X, embeddings=None, *, layer=None, threshold=0.5):
        """Redraw the masks: put each LoCE on its image's activations.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            One vector per row, such as LoCEs or centroids of clusters. ``None`` optimises LoCEs.
        layer : str, default=None
            Which layer to project; may be left out where there is one.
        threshold : float or None, default=0.5
            Pixels above it belong to the concept; ``None`` gives the probabilities.

        Returns
        -------
        list of ndarray of shape (height, width)
            One projection per row at the size of its image: bool, or float32 probabilities. Parts
            of the image that ``preprocess`` cut off have probability 0. A vector of NaN, which
            stands for an empty mask, gives False and NaN.

        Raises
        ------
        ValueError, FileNotFoundError
            As ``transform``; and if ``layer`` is missing or unknown, or ``embeddings`` do not have
            one row per sample.
        """
        check_is_fitted(self)
        samples = as_samples(X)
        which = self._position_of(layer)
        projections = [None] * len(samples)
        for row, vectors in self._rows_with_vectors(samples, embeddings):
            image_map = project_row(row, row.activations[which], vectors[which], self.mask_size)
            projections[row.position] = image_map if threshold is None else image_map > threshold
        return projections

    def get_feature_names_out(self, input_features=None):
        """Name the components of a LoCE.

        Parameters
        ----------
        input_features : None
            Ignored; here for scikit-learn's API.

        Returns
        -------
        ndarray of shape (n_features,), object
            ``layer[channel]``, as in ``features.14[0]``.
        """
        check_is_fitted(self)
        names = [
            f"{layer}[{channel}]"
            for layer, n_channels in zip(self.layers_, self.n_channels_, strict=True)
            for channel in range(n_channels)
        ]
        return np.array(names, dtype=object)

    def _make_extractor(self, layers, n_calls=None):
        return ActivationExtractor(
            self.model,
            layers,
            reshape_transform=self.reshape_transform,
            device=self.device,
            n_calls=n_calls,
        )

    def _check_table(self, samples, *, solving):
        """Check images and masks; give the row numbers of each image."""
        groups = group_by_image(samples)
        has_foreground = check_rows(samples, groups)
        if solving and self.on_empty == "raise":
            empty = np.flatnonzero(~has_foreground)
            _raise_empty([row_name(samples, i) for i in empty], "have no foreground")
        return groups

    def _stream(self, samples, groups):
        """Yield the rows of these images with their activations."""
        return stream_rows(
            samples,
            groups,
            self._make_extractor(self.layers_, self._n_calls),
            make_transform(self.preprocess, self.model),
            n_channels=self.n_channels_,
            seed=self._seed,
            verbose=self.verbose,
        )

    def _batches(self, samples, *, solving=True):
        """Yield lists of rows with their activations, after a check of the whole table."""
        groups = self._check_table(samples, solving=solving)
        return batched(self._stream(samples, groups), self.batch_size)

    def _rows_with_vectors(self, samples, embeddings):
        """Yield rows with a vector per layer: those given, or newly optimised ones."""
        solving = embeddings is None
        if not solving:
            embeddings = self._check_embeddings(embeddings, samples)
        for batch in self._batches(samples, solving=solving):
            positions = [row.position for row in batch]
            vectors = self._solve(batch) if solving else embeddings[positions]
            parts = np.split(vectors, np.cumsum(self.n_channels_)[:-1], axis=1)
            yield from zip(batch, zip(*parts, strict=True), strict=True)

    def _solve(self, batch):
        """Optimise the LoCEs of a batch, (n_rows, n_features); NaN for empty masks."""
        targets, kept = self._kept_targets(batch)
        vectors = np.full((len(batch), sum(self.n_channels_)), np.nan, dtype=np.float32)
        if len(kept):
            settings = Settings(OBJECTIVES[self.objective], self.learning_rate, self.max_iter)
            parts = [
                solve_rows([batch[i].activations[k] for i in kept], targets[kept], init, settings)
                for k, init in enumerate(self.inits_)
            ]
            vectors[kept] = torch.hstack(parts).numpy()
            self._check_vectors(batch, vectors, kept)
        return vectors

    def _check_vectors(self, batch, vectors, kept):
        broken = [batch[i].name for i in kept if not np.isfinite(vectors[i]).all()]
        if broken:
            raise ValueError(
                f"The LoCEs of {_some(broken)} did not stay finite with learning_rate="
                f"{self.learning_rate}. Lower it, or bring the activations to a smaller scale."
            )

    def _kept_targets(self, rows):
        """Give the masks at ``mask_size``, and the positions of those that have foreground."""
        targets = self._targets(rows)
        kept = np.flatnonzero((targets > 0).any((1, 2)))
        if len(kept) < len(rows) and self.on_empty == "raise":
            names = [row.name for i, row in enumerate(rows) if i not in kept]
            _raise_empty(names, f"lose their foreground at mask_size={self.mask_size}")
        return targets, kept

    def _targets(self, rows):
        return resize_masks([row.view_mask for row in rows], self.mask_size, self.mask_resize)

    def _check_embeddings(self, embeddings, samples):
        embeddings = check_array(embeddings, dtype=np.float32, ensure_all_finite="allow-nan")
        expected = (len(samples), sum(self.n_channels_))
        if embeddings.shape != expected:
            raise ValueError(
                f"embeddings must be of shape (n_samples, n_features) = {expected}, got "
                f"{embeddings.shape}."
            )
        return embeddings

    def _position_of(self, layer):
        if layer is None and len(self.layers_) == 1:
            return 0
        if layer not in self.layers_:
            raise ValueError(f"layer must be one of {self.layers_}, got {layer!r}.")
        return self.layers_.index(layer)

    def get_params(self, deep=True):
        """Get the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Ignored; no parameter is an estimator.

        Returns
        -------
        dict of {str: object}
        """
        # Some torchvision transforms have a get_params of their own, of another meaning.
        return super().get_params(deep=False)

    def __sklearn_clone__(self):
        # For the same reason clone must not see the transform.
        shell = copy(self)
        shell.preprocess = None
        twin = super(LoCETransformer, shell).__sklearn_clone__()
        twin.preprocess = deepcopy(self.preprocess)
        return twin

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


def _raise_empty(names, what):
    if names:
        raise ValueError(
            f"The masks of {_some(names)} {what}. Leave these rows out, or set on_empty='nan' to "
            "get vectors of NaN for them, which score ignores."
        )


def _some(names):
    """Name up to five rows, and count the others."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
