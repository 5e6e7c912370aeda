"""Base class of the estimators whose X is a table of samples."""

from copy import copy, deepcopy
from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_array, check_is_fitted

from ._embedding.embed import pass_images
from ._embedding.measure import Evaluation, Projection
from ._embedding.network import keyed_seed, look_up_layers
from ._embedding.table import (
    check_shares,
    embed_table,
    find_store,
    join_layers,
    may_fail,
    report_failures,
    warn_missed,
)
from ._embedding.threads import ended_by_interrupt
from ._network.extract import check_layers
from ._network.handle import as_module
from ._network.preprocess import make_transform, make_view, warn_unnormalized
from ._samples.table import (
    ANNOTATION,
    as_samples,
    check_rows,
    examine_rows,
    group_by_image,
    read_sample_image,
)
from ._solvers.objectives import LBFGS_OBJECTIVES, warn_unconverged
from ._solvers.solution import Solution
from ._validation import match_rows
from ._warnings import warn_user
from .exceptions import LayoutError

_MOST_TRIED = 20  # images that fit tries if all of them fail
_BIASES = {"auto", "best", "own", "none"}
# Reasons why a row with an IoU lacks another number.
_CAUSES = {
    "heldout_iou": "a fold leaves no pixel of the mask to fit, or a vector did not stay finite",
    "gain": "more than half of the mask stays in its place when it is turned upside down",
}


class SampleTransformer(TransformerMixin, BaseEstimator):
    """Transformer from rows of a table of samples to vectors of the layers of a network.

    Subclasses define ``_make_objective()``. The objective computes vectors from activations and
    masks. They may override ``_make_starts(seed)``, which returns one start of the optimization per
    layer.
    """

    def _make_starts(self, seed):
        return [None] * len(self.layers_)

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, samples):
        """Find the layers, and record the activations of the probe image."""
        self._objective = self._make_objective()
        self._appends_bias = getattr(self, "append_bias", False)
        self._auto_bias = "own" if self._appends_bias else self._objective.default_bias
        self._seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        image_size = self._view_first_image(samples)
        self._records = look_up_layers(self, image_size)
        warn_unnormalized(self.preprocess, self.model, image_size, self._seed)
        # All layers use one seed. An integer is used as it is, for searches over layers.
        seed = self.random_state if isinstance(self.random_state, int) else self._seed
        self._starts = self._make_starts(seed)
        self.mean_ = self.scale_ = None
        if self.standardize:
            self._learn_scales(samples)

    def _view_first_image(self, samples):
        """Preprocess the first valid image, and return its size."""
        transform, errors = make_transform(self.preprocess, self.model), []
        for rows in group_by_image(samples):
            first = self._first_of(samples, rows)
            try:
                check_rows(samples, [first])
                image = read_sample_image(samples, first[0])
                self._is_random = make_view(image, transform, self._seed).random
            except Exception as error:
                errors.append(error)
                if not may_fail(self) or isinstance(error, LayoutError):
                    break
                if len(errors) == _MOST_TRIED:
                    break
            else:
                return image.shape[:2]
        raise errors[0]

    def _first_of(self, samples, rows):
        """Return the first row of an image, or its first valid row if rows may fail."""
        problems = examine_rows(samples, [rows])[1] if may_fail(self) else {}
        k = next((k for k, i in enumerate(rows) if int(i) not in problems), 0)
        return rows[k : k + 1]

    def _learn_scales(self, samples):
        """Learn the mean and scale of each channel over the cells of all images."""
        images = group_by_image(samples)
        if not may_fail(self):
            check_rows(samples, images)
        first = [self._first_of(samples, rows) for rows in images]
        scalers, failures = [StandardScaler() for _ in self.layers_], []
        for _, activations, error in pass_images(self, samples, first, self._records):
            if error is not None:
                failures.append(error)
                if not may_fail(self) or len(failures) == len(images):
                    raise failures[0]
                continue
            for scaler, grid in zip(scalers, activations.grids.values(), strict=True):
                scaler.partial_fit(grid.double().cpu().flatten(1).T.numpy())
        self.mean_ = [scaler.mean_ for scaler in scalers]
        self.scale_ = [scaler.scale_ for scaler in scalers]

    def fit(self, X, y=None):
        """Check the parameters and the first image, and find the layers.

        A fixed probe image passes the network twice. The first image of the table is preprocessed.
        Only ``standardize=True`` learns from the table; it passes all images.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        object
            The fitted transformer itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, ``preprocess="auto"`` does not know the preprocessing of
            the training, the model lacks a layer, the output of a layer is not a grid, the network
            does not accept such images, the table lacks a column, or the first image cannot be
            read.
        FileNotFoundError
            If the first image is missing.
        TypeError
            If ``X`` is not a table, or a layer is neither a name nor a ``Joined``.
        RuntimeError
            If another thread runs a network that cannot be copied.

        See Also
        --------
        fit_transform : Fit, and compute the vectors of the same table.
        precompute : Compute the vectors of many layers in one pass per image.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> loce.layers_, loce.n_channels_
        (['features.2'], [48])
        """
        self._fit(as_samples(X))
        vars(self).pop("n_iter_", None)  # from an earlier fit_transform
        return self

    def fit_transform(self, X, y=None):
        """Fit, and transform the same table.

        ``fit_transform``, ``transform`` and ``precompute`` project each new vector as ``evaluate``
        does by default, unless this uses the best bias. If more than half of the projections miss
        their masks, you get a warning.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            The vectors, as ``transform`` returns them.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As in ``fit`` and ``transform``.

        Warns
        -----
        UserWarning
            If the projections of more than half of the new vectors miss their masks.

        See Also
        --------
        transform : Compute the vectors of other rows.
        evaluate : Compare the projection of each vector with its mask.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
        >>> loce.fit_transform(X).shape
        (7, 48)
        """
        samples = as_samples(X)
        self._fit(samples)
        table = self._embed(samples, probed=True)
        self._set_n_iter(table)
        return table.matrix(self._appends_bias)

    def _set_n_iter(self, table):
        pass

    def transform(self, X):
        """Compute one vector per row, or read it from the store.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            The vectors. The features of several layers are concatenated in the order of
            ``layers_``.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If an image or mask cannot be read, their sizes differ, a mask is empty and
            ``on_empty="raise"``, or activations contain NaN or infinity. If other rows were
            computed, the error is a :class:`~sklearn_loce.exceptions.FailedRowsError` that contains
            them.
        RuntimeError
            If a worker died or has another network than this process, or if another thread ran a
            network that cannot be copied.
        StoreError
            If the store is malformed, has another format, or belongs to another program.

        See Also
        --------
        evaluate : Compare the projection of each vector with its mask.
        project : Project the vectors onto their images.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> loce.transform(X[X["concept"] == "road"]).shape
        (1, 48)
        """
        check_is_fitted(self)
        return self._embed(as_samples(X)).matrix(self._appends_bias)

    def _embed(self, samples, **how):
        """Embed a table. Raise an error or a warning if rows failed."""
        with ended_by_interrupt(self.n_jobs):
            table = embed_table(self, samples, **how)
        if self._objective.has_bias and how.get("given") is None:
            norms = np.column_stack([s.gradient_norm for s in table.solutions])
            warn_unconverged(norms, self._objective)
        report_failures(self, table)
        warn_missed(self, table)
        return table

    def _finish(self, samples, embeddings, finish):
        """Return the results of ``finish`` for all rows, and the vectors, given or computed."""
        given = None
        if embeddings is not None:
            given = self._as_solutions(self._check_embeddings(embeddings, samples))
        table = self._embed(samples, given=given, finish=finish)
        rows = [table.finished.get(i) for i in range(len(samples))]
        return rows, table.matrix(self._appends_bias)

    def evaluate(
        self, X, embeddings=None, *, cv=None, flip=None, bias="auto", return_embeddings=False
    ):
        """Compare the projection of each vector with its mask.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            Vectors of these rows, as ``transform`` returned them. A DataFrame with the labels of X
            in another order is matched by index. ``None`` computes the vectors.
        cv : int, default=None
            Number of folds of the held-out IoU, at least 2. ``None`` skips the held-out IoU. The
            cells of a layer are divided into square blocks. Their side is a sixth of the grid's
            shorter side, at least two cells. The blocks are divided into folds. Two folds form a
            checkerboard, shifted so that each fold contains about half of the mask. For each fold,
            a vector is optimized on the pixels outside, and projected inside.
        flip : bool, default=None
            Whether to measure the gain. ``None`` measures it if ``cv`` is given.
        bias : {"auto", "best", "own", "none"}, default="auto"
            Bias that is added before the sigmoid. "best" is the bias with the largest Jaccard index
            of projection and mask at ``mask_size``, on the pixels of the optimization. "own" is the
            bias at the optimum of the objective; for ``embeddings`` without biases it is fitted
            again. "none" adds nothing, as in the paper. "auto" means "own" with
            ``append_bias=True``, "none" for "net2vec", "mse" and "mae", and "best" otherwise.
        return_embeddings : bool, default=False
            Whether to return the vectors, too. Each image then passes once for both results.

        Returns
        -------
        evaluation : DataFrame
            One row per sample and layer. Samples keep their order, and the index of X is repeated:

            - ``layer``: name of the layer;
            - ``iou``: intersection over union of mask and projection > 0.5, at the size of the
              image; NaN for an empty mask. The vector was optimized on this mask: with many
              channels or cells, a layer reproduces any mask;
            - ``heldout_iou``, only with ``cv``: the IoU of the joint projection, in which the
              vector of each fold fills its own fold; NaN if a fold leaves no pixel of the mask to
              optimize on;
            - ``gain``, only with ``flip``: difference between ``iou`` and the IoU of a second
              vector, optimized on the mask turned upside down; NaN if more than half of the mask
              coincides with its mirror image;
            - ``loss``: value of the objective at ``mask_size``, with the optimal intercept or, with
              ``append_bias=True``, the appended one; NaN for an empty mask and for a vector of NaN.
              Averages of activations have no loss;
            - ``foreground_cells``: area of the mask in cells of the layer, which may be below 1;
            - ``failed``: whether the IoU is 0 or NaN;
            - ``n_iter``, ``gradient_norm``: iterations of the optimization, and the norm that
              ``tol`` bounds, only for "logistic", "jaccard" and "dice"; NaN for given
              ``embeddings``;
            - ``annotation_id``: as in X, if X has this column.
        embeddings : ndarray of shape (n_samples, n_features), float32
            The vectors, only with ``return_embeddings=True``.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As in ``transform``, and if ``embeddings`` do not have one row per sample, ``cv`` is
            below 2, or the objective has no bias for ``bias="own"``.

        Warns
        -----
        UserWarning
            If rows with an IoU lack the requested held-out IoU or gain.

        See Also
        --------
        score : Mean held-out IoU.
        project : The projections themselves.
        sklearn_loce.metrics.rank_layers : Rank layers by such scores.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> evaluation = loce.evaluate(X, cv=2, flip=False)
        >>> evaluation.columns[:4].tolist()
        ['layer', 'iou', 'heldout_iou', 'loss']
        >>> bool((evaluation["heldout_iou"] <= evaluation["iou"]).all())
        True
        """
        check_is_fitted(self)
        validate_parameter_constraints(
            {
                "cv": [Interval(Integral, 2, None, closed="left"), None],
                "flip": ["boolean", None],
                "bias": [StrOptions(_BIASES)],
                "return_embeddings": ["boolean"],
            },
            {"cv": cv, "flip": flip, "bias": bias, "return_embeddings": return_embeddings},
            caller_name="evaluate",
        )
        evaluation = Evaluation(
            self._find_bias(bias), cv or 0, flips=cv is not None if flip is None else flip
        )
        frame, vectors = self._evaluate(as_samples(X), embeddings, evaluation)
        return (frame, vectors) if return_embeddings else frame

    def _evaluate(self, samples, embeddings, evaluation):
        rows, vectors = self._finish(samples, embeddings, evaluation)
        columns = evaluation.columns(self._objective)
        unknown = np.full((len(self.layers_), len(columns)), np.nan)
        facts = np.concatenate([unknown if row is None else row for row in rows])
        frame = pd.DataFrame(facts, columns=columns)
        for name, cause in _CAUSES.items():
            n_rows = (frame[name].isna() & frame["iou"].notna()).sum() if name in frame else 0
            if n_rows:
                warn_user(f"{n_rows} of {len(frame)} values of {name} are NaN: {cause}.")
        frame.insert(0, "layer", self.layers_ * len(samples))
        place = frame.columns.get_loc("foreground_cells") + 1
        frame.insert(place, "failed", ~(frame["iou"] > 0))
        if ANNOTATION in samples:
            frame[ANNOTATION] = samples[ANNOTATION].repeat(len(self.layers_)).array
        return frame.set_index(samples.index.repeat(len(self.layers_))), vectors

    def _find_bias(self, bias):
        """Return the rule that chooses the biases."""
        if bias == "auto":
            return self._auto_bias
        if bias == "own" and not self._objective.has_bias:
            raise ValueError(
                f"bias='own' needs an objective with a bias, {sorted(LBFGS_OBJECTIVES)}, got "
                f"{self._objective.name!r}. Use 'best' or 'none'."
            )
        return bias

    def score(self, X, y=None):
        """Return the mean held-out IoU with two folds.

        A vector is optimized on one half of each mask, by blocks of cells, and projected in the
        other half. The plain IoU measures whether a layer can reproduce masks, and random weights
        do this well. The held-out IoU measures whether a vector finds the concept where it was not
        optimized. See ``evaluate``.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        float
            Mean of ``evaluate(X, cv=2)["heldout_iou"]`` over samples and layers, without NaN.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As in ``transform``.

        See Also
        --------
        evaluate : The held-out IoU of each row and layer.
        sklearn_loce.metrics.get_scorer : Other scorers for a search.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> round(loce.score(X), 1)
        0.8
        """
        return float(self.evaluate(X, cv=2, flip=False)["heldout_iou"].mean())

    def project(self, X, embeddings=None, *, layer=None, threshold=0.5, bias="auto"):
        """Project each vector onto the activations of its image.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            One vector per row, such as LoCEs or centroids of clusters, matched as in ``evaluate``.
            ``None`` computes the LoCEs.
        layer : str or Joined, default=None
            Layer of the projection. ``None`` is allowed if there is only one layer.
        threshold : float or None, default=0.5
            Pixels above the threshold belong to the concept. ``None`` returns probabilities.
        bias : {"auto", "best", "own", "none"}, default="auto"
            Bias that is added before the sigmoid, as in ``evaluate``.

        Returns
        -------
        list of ndarray of shape (height, width)
            One projection per row at the size of its image: bool, or float32 probabilities. Parts
            of the image that ``preprocess`` cut off have probability 0. The projection of a vector
            of NaN, the vector of an empty mask, is False or NaN everywhere. A row that failed with
            ``on_error="nan"`` has ``None``.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As in ``transform``, and if ``layer`` is missing or unknown, ``embeddings`` do not have
            one row per sample, or the objective has no bias for ``bias="own"``.

        See Also
        --------
        evaluate : Compare the projections with the masks.
        sklearn_loce.project_loces : The same on tensors.
        sklearn_loce.plotting.ProjectionDisplay : Draw projections on their images.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> projection = loce.project(X)[0]
        >>> projection.shape, projection.dtype
        ((120, 160), dtype('bool'))
        """
        check_is_fitted(self)
        validate_parameter_constraints(
            {"bias": [StrOptions(_BIASES)]}, {"bias": bias}, caller_name="project"
        )
        projection = Projection(self._check_layer(layer), threshold, self._find_bias(bias))
        return self._finish(as_samples(X), embeddings, projection)[0]

    def _check_layer(self, layer):
        if layer is None and len(self.layers_) == 1:
            return self.layers_[0]
        if layer not in self._layers and layer not in self.layers_:
            raise ValueError(f"layer must be one of {self.layers_}, got {layer!r}.")
        return str(layer)

    def _widths(self):
        """Return the number of features of each layer."""
        return [n + self._appends_bias for n in self.n_channels_]

    def _as_solutions(self, embeddings):
        """Split vectors (n_rows, n_features) into one Solution per layer."""
        solutions = []
        ends = np.cumsum(self._widths())[:-1]
        for part, n in zip(np.split(embeddings, ends, axis=1), self.n_channels_, strict=True):
            solution = Solution.unknown(len(part), n, has_facts=self._objective.has_bias)
            solution.vectors[:] = part[:, :n]
            if self._appends_bias:
                solution.intercept[:] = part[:, n]
            solutions.append(solution)
        return solutions

    def _check_embeddings(self, embeddings, samples):
        samples, embeddings = match_rows(X=samples, embeddings=embeddings)
        embeddings = check_array(embeddings, dtype=np.float32, ensure_all_finite="allow-nan")
        expected = (len(samples), sum(self._widths()))
        if embeddings.shape != expected:
            hint = " With append_bias=True, the bias is the last feature of a layer."
            raise ValueError(
                f"embeddings must be of shape (n_samples, n_features) = {expected}, got "
                f"{embeddings.shape}.{hint if self._appends_bias else ''}"
            )
        return embeddings

    def precompute(self, X, layers=None, *, beside=()):
        """Fill the store in one forward pass per image, for many layers and several transformers.

        Later calls find every vector there, such as a ``GridSearchCV`` over layers or a
        ``FeatureUnion`` of the transformers.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        layers : str, Joined or list of these, default=None
            Layers of all transformers. ``None`` means the parameter ``layer`` of each transformer.
            This parameter and fitted attributes do not change.
        beside : list of LoCETransformer and MaskedMeanTransformer, default=()
            Other transformers with the same network, preprocessing and store. The same passes
            compute their vectors. They do not change either. Each fit with ``standardize=True``
            needs another pass.

        Returns
        -------
        object
            The transformer itself.

        Raises
        ------
        ValueError
            If there is no store, see ``memory``; if ``preprocess`` is random and ``random_state``
            is not an integer; or with ``beside``, if a transformer has other activations or another
            store, or if there are workers, see ``n_jobs``.
        FileNotFoundError, TypeError, RuntimeError, StoreError
            As in ``fit`` and ``transform``.

        See Also
        --------
        transform : Read the vectors from the store.
        sklearn_loce.RowStore : A store in a folder.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(2, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
        >>> loce = loce.precompute(X, ["features.2", "features.4"])
        >>> loce.fit_transform(X).shape[0] == len(X)  # no forward pass of an image
        True

        The same pass serves LoCEs and averages of activations.

        >>> from sklearn.pipeline import FeatureUnion
        >>> averages = MaskedMeanTransformer(loce.model, "features.4")
        >>> loce = loce.precompute(X, beside=[averages])
        >>> FeatureUnion([("loce", loce), ("average", averages)]).fit_transform(X).shape
        (14, 144)
        """
        samples, parts = as_samples(X), [clone(part) for part in (self, *beside)]
        check_shares(self, beside)
        for part in parts:
            part.layer = part.layer if layers is None else layers
            check_layers(as_module(self.model), part.layer)
        if find_store(self.memory, self.model) is None:
            raise ValueError(
                f"There is no store to fill with memory={self.memory!r} and a model of type "
                f"{type(self.model).__name__}. Set memory to a folder, or wrap the module in a "
                "TorchModel."
            )
        for part in parts:
            part._fit(samples)
        if parts[0]._is_random and keyed_seed(parts[0]) is None:
            raise ValueError(
                f"preprocess={self.preprocess!r} is random, so no vector can be found again with "
                f"random_state={self.random_state!r}. Set random_state to an integer."
            )
        passing = join_layers(parts, samples) if beside else parts[0]
        with ended_by_interrupt(self.n_jobs):
            shared = parts if beside else ()
            table = embed_table(passing, samples, probed=True, keeps=False, shared=shared)
        report_failures(passing, table)
        warn_missed(passing, table)
        return self

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features.

        Parameters
        ----------
        input_features : None
            Ignored; here for scikit-learn's API.

        Returns
        -------
        ndarray of shape (n_features,), object
            Names such as ``features.14[0]``, with layer and channel. With ``append_bias=True``, the
            channels of each layer are followed by ``features.14[bias]``.

        See Also
        --------
        transform : Compute the vectors.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> loce.get_feature_names_out()[:2].tolist()
        ['features.2[0]', 'features.2[1]']
        """
        check_is_fitted(self)
        names = [
            f"{layer}[{channel}]"
            for layer, n_channels in zip(self.layers_, self.n_channels_, strict=True)
            for channel in [*range(n_channels), *["bias"] * self._appends_bias]
        ]
        return np.array(names, dtype=object)

    def get_params(self, deep=True):
        """Return the parameters.

        Parameters
        ----------
        deep : bool, default=True
            Ignored, because no parameter is an estimator.

        Returns
        -------
        dict of {str: object}
            The parameters by name.

        See Also
        --------
        sklearn.base.clone : Copy an estimator with its parameters.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
        >>> loce.get_params()["alpha"]
        0.0001
        """
        # Some torchvision transforms have a get_params with another meaning.
        return super().get_params(deep=False)

    def __sklearn_clone__(self):
        # For the same reason, clone must not see the transform.
        shell = copy(self)
        shell.preprocess = None
        other = super(SampleTransformer, shell).__sklearn_clone__()
        other.preprocess = deepcopy(self.preprocess)
        return other

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
