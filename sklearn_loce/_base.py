"""What estimators on a table of samples share."""

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
from ._embedding.identify import keyed_seed, look_up_layers
from ._embedding.measure import Evaluation, Projection
from ._embedding.parallel import ended_by_interrupt
from ._embedding.share import check_shares, join_layers
from ._embedding.table import embed_table, find_store, may_fail, report_failures, warn_missed
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
from ._solvers.objectives import LBFGS_OBJECTIVES
from ._solvers.optimize import warn_unconverged
from ._solvers.solution import Solution
from ._validation import match_rows
from ._warnings import warn_user
from .exceptions import LayoutError

_MOST_TRIED = 20  # images in fit, where all fail
_BIASES = {"auto", "best", "own", "none"}
# Why a row that has an IoU lacks another number.
_CAUSES = {
    "heldout_iou": "a fold leaves no pixel of the mask to fit, or a vector did not stay finite",
    "gain": "more than half of the mask stays in its place when it is turned upside down",
}


class SampleTransformer(TransformerMixin, BaseEstimator):
    """Turns rows of a table of samples into vectors, by a network's layers.

    A subclass gives ``_make_objective()``, which makes vectors of activations and masks, and
    ``_make_starts(seed)``, the start of the optimization for each layer.
    """

    def _make_starts(self, seed):
        return [None] * len(self.layers_)

    def _appends_bias(self):
        return False

    @_fit_context(prefer_skip_nested_validation=True)
    def _fit(self, samples):
        """Learn what the layers are, and what the network gives for the probe."""
        self._objective = self._make_objective()
        self._seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        image_size = self._view_first_image(samples)
        self._records = look_up_layers(self, image_size)
        warn_unnormalized(self.preprocess, self.model, image_size, self._seed)
        # The same for all layers; a fixed one is taken as it is, for searches over layers.
        seed = self.random_state if isinstance(self.random_state, int) else self._seed
        self._starts = self._make_starts(seed)
        self.mean_ = self.scale_ = None
        if self.standardize:
            self._learn_scales(samples)

    def _view_first_image(self, samples):
        """Preprocess the first image, or the first that works if rows may fail; give its size."""
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
        """Give the first row of an image; the first without a fault, if rows may fail."""
        problems = examine_rows(samples, [rows])[1] if may_fail(self) else {}
        k = next((k for k, i in enumerate(rows) if int(i) not in problems), 0)
        return rows[k : k + 1]

    def _learn_scales(self, samples):
        """Learn means and scales of channels over the cells of all images, each image once."""
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
        """Check the parameters and the first image, and look the layers up.

        A fixed probe image passes the network twice, and the first image of the table is
        preprocessed. Nothing is learned from the table, unless ``standardize=True``, for which all
        images pass.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range, ``preprocess="auto"`` and nothing is known of the
            network's training, the model lacks a layer, a layer's output is no grid, the network
            does not take such images, the table lacks a column, or the first image can't be read.
        FileNotFoundError
            If the first image is missing.
        TypeError
            If ``X`` is no table, or a layer is neither a name nor ``Joined``.
        RuntimeError
            If another thread runs a network that can't be copied.
        """
        self._fit(as_samples(X))
        vars(self).pop("n_iter_", None)  # of the last fit_transform
        return self

    def fit_transform(self, X, y=None):
        """Fit, and transform the same table.

        Each vector that is optimized here, and not found in the store, is drawn as ``evaluate``
        does without further arguments, unless that is with the best bias: a warning says if more
        than half of them draw nothing on their masks. So it is in ``transform`` and ``precompute``.

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
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As ``fit`` and ``transform``.

        Warns
        -----
        UserWarning
            If more than half of the vectors that are new draw nothing on their masks.
        """
        samples = as_samples(X)
        self._fit(samples)
        table = self._embed(samples, probed=True)
        self._set_n_iter(table)
        return table.matrix(self._appends_bias())

    def _set_n_iter(self, table):
        pass

    def transform(self, X):
        """Compute one vector per row, or take it from the store.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            The vectors; several layers side by side, in the order of ``layers_``.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If an image or mask can't be read, their sizes differ, a mask is empty and
            ``on_empty="raise"``, or activations hold NaN or infinity. Where other rows have been
            computed, it is a :class:`~sklearn_loce.exceptions.FailedRowsError` and has them.
        RuntimeError
            If workers have another network than this process, or die; or if another thread ran a
            network that can't be copied.
        StoreError
            If the store is damaged, of another format, or another program's.
        """
        check_is_fitted(self)
        return self._embed(as_samples(X)).matrix(self._appends_bias())

    def _embed(self, samples, **how):
        """Work on a table; raise what failed, or warn of it."""
        with ended_by_interrupt(self.n_jobs):
            table = embed_table(self, samples, **how)
        if self._objective.has_bias and how.get("given") is None:
            norms = np.column_stack([s.gradient_norm for s in table.solutions])
            warn_unconverged(norms, self._objective)
        report_failures(self, table)
        warn_missed(self, table)
        return table

    def _finish(self, samples, embeddings, finish):
        """Give what ``finish`` makes of each row with its vectors, given or computed, and these."""
        given = None
        if embeddings is not None:
            given = self._as_solutions(self._check_embeddings(embeddings, samples))
        table = self._embed(samples, given=given, finish=finish)
        rows = [table.finished.get(i) for i in range(len(samples))]
        return rows, table.matrix(self._appends_bias())

    def evaluate(
        self, X, embeddings=None, *, cv=None, flip=None, bias="auto", return_embeddings=False
    ):
        """Measure how well each vector redraws its mask.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            Vectors of these rows, as ``transform`` gave them; a DataFrame with the labels of X in
            another order is matched by index. ``None`` computes them.
        cv : int, default=None
            Number of folds of the held-out IoU, 2 or more; ``None`` leaves it out. The cells of a
            layer are divided into square blocks, a sixth of the grid's shorter side and two cells
            at least, and the blocks into folds: with 2, a checkerboard, shifted so that each holds
            half of the mask, as nearly as cells can. For each fold, a vector is fitted to the
            pixels that read no cell of it, and drawn in its cells.
        flip : bool, default=None
            Whether to measure the gain; ``None`` means with ``cv``.
        bias : {"auto", "best", "own", "none"}, default="auto"
            What is added before the sigmoid. "best" is the one whose positive pixels have the
            largest Jaccard index with the mask at ``mask_size``, chosen on the pixels that the
            vector is fitted to. "own" is that of the objective's optimum, where it has one; for
            ``embeddings`` without biases it is fitted again. "none" adds nothing, as in the paper.
            "auto" is "own" with ``append_bias=True``, "none" for "net2vec", "mse" and "mae", and
            "best" for the others.
        return_embeddings : bool, default=False
            Whether to return the vectors too, so that images pass once for both.

        Returns
        -------
        evaluation : DataFrame
            One row per sample and layer, samples in order, with the index of X repeated:

            - ``layer``: its name;
            - ``iou``: intersection over union of projection > 0.5 and mask, at the image's own
              size; NaN for an empty mask. The vector was fitted to this mask: a layer with many
              channels or cells redraws any mask;
            - ``heldout_iou``, with ``cv``: the same of what the vectors of all folds draw, each in
              its own fold; NaN where a fold leaves no pixel of the mask to fit;
            - ``gain``, with ``flip``: ``iou`` less that of the mask turned upside down, for which a
              vector of its own is fitted; NaN where more than half of the mask stays in its place;
            - ``loss``: the objective's value, at ``mask_size``, with the intercept that makes it
              least, or with ``append_bias=True`` that which the vectors hold; NaN for an empty
              mask and for a vector of NaN. Averages have none;
            - ``foreground_cells``: area of the mask in cells of the layer, which may be below 1;
            - ``failed``: whether the IoU is 0 or there is none;
            - ``n_iter``, ``gradient_norm``: of the optimization, the norm as ``tol`` bounds it; NaN
              for ``embeddings`` that were given. These two only for "logistic", "jaccard" and
              "dice";
            - ``annotation_id``: as in X, where X has that column.
        embeddings : ndarray of shape (n_samples, n_features), float32
            As of ``transform``; only with ``return_embeddings=True``.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As ``transform``; and if ``embeddings`` do not have one row per sample, ``cv`` is below
            2, or ``bias="own"`` is asked of an objective without one.

        Warns
        -----
        UserWarning
            If there are rows with an IoU and without a held-out IoU or a gain that was asked for.
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
        """Give the rule by which biases are chosen."""
        if bias == "auto":
            return "own" if self._appends_bias() else self._objective.default_bias
        if bias == "own" and not self._objective.has_bias:
            raise ValueError(
                f"bias='own' needs an objective with a bias, {sorted(LBFGS_OBJECTIVES)}, got "
                f"{self._objective.name!r}. Use 'best' or 'none'."
            )
        return bias

    def score(self, X, y=None):
        """Give the mean held-out IoU, with two folds.

        A vector is fitted to one half of each mask, by blocks of cells, and drawn in the other.
        The plain IoU says how many masks a layer can redraw, which random weights do well; this one
        measures whether the concept is found where no vector was fitted. See ``evaluate``.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : object
            Ignored; here for scikit-learn's API.

        Returns
        -------
        float
            Mean over samples and layers of ``evaluate(X, cv=2)["heldout_iou"]``; NaN is left out.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As ``transform``.
        """
        return float(self.evaluate(X, cv=2, flip=False)["heldout_iou"].mean())

    def project(self, X, embeddings=None, *, layer=None, threshold=0.5, bias="auto"):
        """Project each vector onto its image's activations, which redraws the mask.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            One vector per row, such as LoCEs or centroids of clusters, matched as in ``evaluate``.
            ``None`` computes them.
        layer : str or Joined, default=None
            Which layer to project; may be left out if there is only one.
        threshold : float or None, default=0.5
            Pixels above it belong to the concept; ``None`` gives the probabilities.
        bias : {"auto", "best", "own", "none"}, default="auto"
            As of ``evaluate``.

        Returns
        -------
        list of ndarray of shape (height, width)
            One projection per row at the size of its image: bool, or float32 probabilities. Parts
            of the image that ``preprocess`` cut off have probability 0. A vector of NaN, which
            stands for an empty mask, gives False and NaN; a row that failed with
            ``on_error="nan"`` gives ``None``.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As ``transform``; and if ``layer`` is missing or unknown, ``embeddings`` do not have
            one row per sample, or ``bias="own"`` is asked of an objective without one.
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
        """How many features each layer has."""
        return [n + self._appends_bias() for n in self.n_channels_]

    def _as_solutions(self, embeddings):
        """Cut vectors (n_rows, n_features) into one Solution per layer."""
        solutions = []
        ends = np.cumsum(self._widths())[:-1]
        for part, n in zip(np.split(embeddings, ends, axis=1), self.n_channels_, strict=True):
            solution = Solution.unknown(len(part), n, has_facts=self._objective.has_bias)
            solution.vectors[:] = part[:, :n]
            if self._appends_bias():
                solution.intercept[:] = part[:, n]
            solutions.append(solution)
        return solutions

    def _check_embeddings(self, embeddings, samples):
        samples, embeddings = match_rows(X=samples, embeddings=embeddings)
        embeddings = check_array(embeddings, dtype=np.float32, ensure_all_finite="allow-nan")
        expected = (len(samples), sum(self._widths()))
        if embeddings.shape != expected:
            hint = " The bias is the last feature of a layer, as append_bias=True gives it."
            raise ValueError(
                f"embeddings must be of shape (n_samples, n_features) = {expected}, got "
                f"{embeddings.shape}.{hint if self._appends_bias() else ''}"
            )
        return embeddings

    def precompute(self, X, layers=None, *, beside=()):
        """Fill the store in one forward pass per image, for many layers and several transformers.

        What follows finds every vector there: a search over layers, such as a ``GridSearchCV``, or
        a ``FeatureUnion`` of the transformers.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        layers : str, Joined or list of these, default=None
            Layers of all transformers. ``None`` means those that each has. The parameter ``layer``
            and fitted attributes do not change.
        beside : list of LoCETransformer and MaskedMeanTransformer, default=()
            Other transformers of the same network, preprocessing and store, whose vectors come from
            the same passes. They don't change either. Only ``standardize=True`` takes a pass of its
            own, in every fit.

        Returns
        -------
        self : object
            The transformer itself.

        Raises
        ------
        ValueError
            If there is no store to fill, see ``memory``; ``preprocess`` is random and
            ``random_state`` no integer; or with ``beside``, if a transformer sees other activations
            or has another store, or there are workers, see ``n_jobs``.
        ValueError, FileNotFoundError, TypeError, RuntimeError, StoreError
            As ``fit`` and ``transform``.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(2, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
        >>> loce = loce.precompute(X, ["features.2", "features.4"])
        >>> loce.fit_transform(X).shape[0] == len(X)  # no forward pass of an image
        True

        LoCEs beside averages:

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
                f"preprocess={self.preprocess!r} draws random numbers, so that with "
                f"random_state={self.random_state!r} no vector can be found again. Set an integer."
            )
        passing = join_layers(parts, samples) if beside else parts[0]
        with ended_by_interrupt(self.n_jobs):
            shared = parts if beside else ()
            table = embed_table(passing, samples, probed=True, keeps=False, shared=shared)
        report_failures(passing, table)
        warn_missed(passing, table)
        return self

    def get_feature_names_out(self, input_features=None):
        """Name the components of a vector.

        Parameters
        ----------
        input_features : None
            Ignored; here for scikit-learn's API.

        Returns
        -------
        ndarray of shape (n_features,), object
            ``layer[channel]``, as in ``features.14[0]``, of standardized channels as of others;
            where there is a bias among the features, ``layer[bias]`` after the layer's channels.
        """
        check_is_fitted(self)
        names = [
            f"{layer}[{channel}]"
            for layer, n_channels in zip(self.layers_, self.n_channels_, strict=True)
            for channel in [*range(n_channels), *["bias"] * self._appends_bias()]
        ]
        return np.array(names, dtype=object)

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
        # For the same reason clone must not get the transform.
        shell = copy(self)
        shell.preprocess = None
        other = super(SampleTransformer, shell).__sklearn_clone__()
        other.preprocess = deepcopy(self.preprocess)
        return other

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
