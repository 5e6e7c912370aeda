"""What an estimator on a table of samples does behind its methods."""

from contextlib import closing
from copy import copy, deepcopy
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, _fit_context, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted

from ._embedding.run import Run, identify, noting_pass, settle_failures
from ._embedding.stream import Failure, Preview, pass_network
from ._embedding.worker import Job, Recipe, Worker
from ._network.extract import ActivationExtractor
from ._network.preprocess import make_transform, make_view
from ._samples.table import as_samples, check_rows, examine_rows, group_by_image, read_rows
from ._solvers.glued import GRADIENT_NORM, N_ITER, n_facts
from ._solvers.optimize import warn_unconverged
from ._store.fingerprint import digest
from .exceptions import LayoutError

_TRIES = 20  # images, where all fail


class RowEmbedder(BaseEstimator):
    """Looks layers up and runs over tables, for an estimator on a network's layers.

    What makes vectors of activations and masks is told by ``_method``, those fields of a Recipe;
    ``_method_facts``, what belongs to the keys of vectors for it; ``_check_method``, which raises
    where parameters don't go together; and ``_draw_starts``.
    """

    def _check_method(self):
        pass

    def _draw_starts(self, seed):
        pass

    @_fit_context(prefer_skip_nested_validation=True)
    def _look_up_layers(self, X):
        """Learn names and channels of the layers; give the Preview that this took, and Identity."""
        samples = as_samples(X)
        self._check_method()
        extract = ActivationExtractor(
            self.model, self.layer, reshape_transform=self.reshape_transform, device=self.device
        )
        self.layers_ = extract.layers
        self._seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        identity = self._identify()
        known = [identity and identity.store.n_channels(identity.source(x)) for x in self.layers_]
        needs_pass = not all(known)
        with noting_pass(identity if needs_pass else None, self.model):
            view, preview = self._look(samples, extract, needs_pass=needs_pass)
        self._is_random = view.random
        if preview is not None:
            known = [grid.shape[1] for grid in preview.activations.values()]
            self._keep_n_channels(identity, known)
        self.n_channels_ = known
        self._n_calls, self._readings = extract.n_calls, extract.readings
        is_fixed = isinstance(self.random_state, Integral)
        seed = self.random_state if is_fixed else self._seed  # the same for all layers
        self._draw_starts(seed)
        self._learn_scales(samples, preview, identity)
        return preview, identity

    def _look(self, samples, extract, *, needs_pass):
        """Give View and Preview of the first image; of the first that works, if rows may fail."""
        transform, errors = make_transform(self.preprocess, self.model), []
        for rows in group_by_image(samples):
            first = self._first_of(samples, rows)
            try:
                check_rows(samples, [first])
                view = make_view(*read_rows(samples, first), transform, self._seed)
                if not needs_pass:
                    return view, None
                activations = pass_network(view, extract)
            except Exception as error:
                errors.append(error)
                if not self._may_fail() or isinstance(error, LayoutError) or len(errors) == _TRIES:
                    break
            else:
                return view, Preview(frozenset(map(int, rows)), activations)
        raise errors[0]

    def _first_of(self, samples, rows):
        """Give the first row of an image; the first without a fault, if rows may fail."""
        problems = examine_rows(samples, [rows])[1] if self._may_fail() else {}
        k = next((k for k, i in enumerate(rows) if int(i) not in problems), 0)
        return rows[k : k + 1]

    def _keyed_seed(self):
        """Give the seed on which vectors may depend, which then belongs to their keys.

        Without a fixed one, vectors that depend on random numbers are not kept.
        """
        is_fixed = isinstance(self.random_state, Integral)
        deterministic = make_transform(self.preprocess, self.model).full_frame
        return self._seed if is_fixed and not deterministic else None

    def _may_fail(self):
        return self.on_error == "nan" or not (self.memory is None or self.memory is False)

    def _identify(self):
        return identify(self.memory, self.model, self.preprocess, self.reshape_transform)

    def _keep_n_channels(self, identity, n_channels):
        if identity is not None:
            for layer, n in zip(self.layers_, n_channels, strict=True):
                identity.store.save_n_channels(identity.source(layer), n)

    def _contexts(self, identity):
        """Give what the vectors of each layer depend on."""
        shared = self._method_facts() | {"seed": self._keyed_seed()}
        facts = [dict(shared) for _ in self.layers_]
        for k, start in enumerate(self._method().get("inits") or []):
            facts[k]["init"] = digest(start).hex()
        for k, scale in enumerate(self._scales() or []):
            facts[k]["standardize"] = digest(list(scale)).hex()
        layers = zip(self.layers_, facts, strict=True)
        return [identity.context(layer, settings) for layer, settings in layers]

    def _scales(self):
        # What the fit learned, whatever the parameter was set to since.
        return None if self.mean_ is None else list(zip(self.mean_, self.scale_, strict=True))

    def _worker(self, *, standardizes=True):
        """Give what works on rows with the parameters and the fit of now."""
        method = {"inits": None, "mask_size": None, "mask_resize": None} | self._method()
        recipe = Recipe(
            layers=self.layers_,
            n_channels=self.n_channels_,
            scales=self._scales() if standardizes else None,
            preprocess=self.preprocess,
            reshape_transform=self.reshape_transform,
            on_empty=self.on_empty,
            batch_size=self.batch_size,
            device=self.device,
            seed=self._seed,
            n_calls=self._n_calls,
            readings=self._readings,
            **method,
        )
        return Worker(self.model, recipe)

    def _learn_scales(self, samples, preview, identity):
        """Learn means and scales of channels over the cells of all images, each image once."""
        self.mean_ = self.scale_ = None
        if not self.standardize:
            return
        groups = group_by_image(samples)
        if not self._may_fail():
            check_rows(samples, groups)
        scalers = [StandardScaler() for _ in self.layers_]
        with noting_pass(identity, self.model):
            for row in self._first_rows(samples, groups, preview):
                for scaler, grid in zip(scalers, row.activations, strict=True):
                    scaler.partial_fit(grid.detach().double().cpu().flatten(1).T.numpy())
        self.mean_ = [scaler.mean_ for scaler in scalers]
        self.scale_ = [scaler.scale_ for scaler in scalers]

    def _first_rows(self, samples, groups, preview):
        """Yield the first Row of every image; leave those out that fail, if rows may fail."""
        first = [self._first_of(samples, rows) for rows in groups]
        how = {"preview": preview, "progress": bool(self.verbose)}
        job = Job.of_passes(samples, first, len(self.layers_), **how)
        failures = []
        with closing(self._worker(standardizes=False).stream(job)) as stream:
            for (item,) in stream:
                if not isinstance(item, Failure):
                    yield item
                    continue
                failures.append(item)
                if not self._may_fail() or len(failures) == len(groups):
                    failures[0].raise_failure()

    def _finish_over(self, samples, embeddings, finish):
        """Give what ``finish`` makes of each row with its vectors, given or optimised."""
        if embeddings is None:
            return self._run_over(samples, self._identify(), finish=finish).finished
        embeddings = self._completed(self._check_embeddings(embeddings, samples))
        return self._run_over(samples, None, embeddings=embeddings, finish=finish).finished

    def _run_over(self, samples, identity, **how):
        """Work on a table, and settle what failed as ``on_error`` wants it."""
        worker = self._worker()
        run = Run(
            worker,
            identity,
            self._contexts(identity) if identity else [],
            n_jobs=self.n_jobs,
            progress=bool(self.verbose),
            may_fail=self._may_fail(),
            keeps_random=self._keyed_seed() is not None,
        )
        result = run.over(samples, **how)
        self._settle_facts(result, worker.recipe)
        if result.failures:
            settle_failures(samples, result, self.on_error)
        return result

    def _settle_facts(self, result, recipe):
        """Warn of what the solver says of vectors, and take it off them."""
        settings = recipe.settings
        if not n_facts(settings) or not len(result.vectors):
            return
        parts = recipe.split(result.vectors)
        result.n_iter = np.array(
            [np.fmax.reduce(part[:, N_ITER], initial=0) for part in parts], int
        )
        norms = np.column_stack([part[:, GRADIENT_NORM] for part in parts])
        warn_unconverged(norms, settings)
        widths = zip(parts, self._widths_out(), strict=True)
        result.vectors = np.hstack([part[:, :width] for part, width in widths])

    def _widths_out(self):
        """How many features each layer has."""
        return [n + self._appends_bias() for n in self.n_channels_]

    def _appends_bias(self):
        return False

    def _completed(self, embeddings):
        """Put NaN where the solver's facts of given vectors would be."""
        n_added = n_facts(self._method()["settings"])
        parts = np.split(embeddings, np.cumsum(self._widths_out())[:-1], axis=1)
        full = []
        for part, n in zip(parts, self.n_channels_, strict=True):
            missing = np.full((len(part), n + n_added - part.shape[1]), np.nan, dtype=np.float32)
            full += [part, missing]
        return np.hstack(full)

    def _check_embeddings(self, embeddings, samples):
        embeddings = check_array(embeddings, dtype=np.float32, ensure_all_finite="allow-nan")
        expected = (len(samples), sum(self._widths_out()))
        if embeddings.shape != expected:
            raise ValueError(
                f"embeddings must be of shape (n_samples, n_features) = {expected}, got "
                f"{embeddings.shape}."
            )
        return embeddings

    def precompute(self, X, layers):
        """Fill the store for many layers in one forward pass per image.

        A search over layers that follows, such as a ``GridSearchCV``, finds every vector there.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        layers : str or list of str
            Dotted names. The parameter ``layer`` is left alone, and so is a fit.

        Returns
        -------
        self : object
            The transformer itself.

        Raises
        ------
        ValueError
            If there is no store to fill, see ``memory``, or ``preprocess`` is random and
            ``random_state`` no integer; and as ``fit`` and ``transform``.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> X = make_scenes(2, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
        >>> loce = loce.precompute(X, ["features.2", "features.4"])
        >>> loce.fit_transform(X).shape[0] == len(X)  # no forward pass
        True
        """
        worker = clone(self).set_params(layer=layers)
        preview, identity = worker._look_up_layers(X)
        if identity is None:
            raise ValueError(
                f"There is no store to fill with memory={self.memory!r} and a model of type "
                f"{type(self.model).__name__}. Set memory to a folder, or wrap the module in a "
                "TorchModel."
            )
        if worker._is_random and worker._keyed_seed() is None:
            raise ValueError(
                f"preprocess={self.preprocess!r} draws random numbers, so that with "
                f"random_state={self.random_state!r} no vector can be found again. Set an integer."
            )
        worker._run_over(as_samples(X), identity, preview=preview, keep=False)
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
            ``layer[channel]``, as in ``features.14[0]``, of standardised channels as of others;
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
        # For the same reason clone must not see the transform.
        shell = copy(self)
        shell.preprocess = None
        twin = super(RowEmbedder, shell).__sklearn_clone__()
        twin.preprocess = deepcopy(self.preprocess)
        return twin

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags
