"""What an estimator on a table of samples does behind its methods."""

from copy import copy, deepcopy
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array

from ._activations import ActivationExtractor
from ._embedding import Recipe, Worker
from ._fingerprint import digest
from ._masks import check_mask_size
from ._optimization import OBJECTIVES, Settings, initial_vector
from ._preprocessing import make_transform, make_view
from ._run import Run, identify, noting_pass, settle_failures
from ._samples import as_samples, check_rows, group_by_image, read_rows
from ._stream import Preview, pass_network
from .exceptions import LayoutError

_TRIES = 20  # images, where all fail


class RowEmbedder(BaseEstimator):
    """Looks layers up and runs over tables, for an estimator with LoCETransformer's parameters."""

    @_fit_context(prefer_skip_nested_validation=True)
    def _look_up_layers(self, X):
        """Learn names and channels of the layers; give the Preview that this took, and Identity."""
        samples = as_samples(X)
        check_mask_size(self.mask_size)
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
        self.inits_ = [initial_vector(self.init, n, seed) for n in known]
        return preview, identity

    def _look(self, samples, extract, *, needs_pass):
        """Give View and Preview of the first image; of the first that works, if rows may fail."""
        transform, errors = make_transform(self.preprocess, self.model), []
        for rows in group_by_image(samples):
            try:
                check_rows(samples, [rows[:1]])
                view = make_view(*read_rows(samples, rows[:1]), transform, self._seed)
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
        shared = {
            "objective": self.objective,
            "solver": self.solver,
            "learning_rate": float(self.learning_rate),
            "max_iter": int(self.max_iter),
            "mask_size": [int(n) for n in self.mask_size],
            "mask_resize": self.mask_resize,
            "seed": self._keyed_seed(),
        }
        return [
            identity.context(layer, shared | {"init": digest(start).hex()})
            for layer, start in zip(self.layers_, self.inits_, strict=True)
        ]

    def _worker(self):
        """Give what works on rows with the parameters and the fit of now."""
        recipe = Recipe(
            layers=self.layers_,
            n_channels=self.n_channels_,
            inits=self.inits_,
            settings=Settings(OBJECTIVES[self.objective], self.learning_rate, self.max_iter),
            preprocess=self.preprocess,
            reshape_transform=self.reshape_transform,
            mask_size=tuple(self.mask_size),
            mask_resize=self.mask_resize,
            on_empty=self.on_empty,
            batch_size=self.batch_size,
            device=self.device,
            seed=self._seed,
            n_calls=self._n_calls,
            readings=self._readings,
        )
        return Worker(self.model, recipe)

    def _finish_over(self, samples, embeddings, finish):
        """Give what ``finish`` makes of each row with its vectors, given or optimised."""
        if embeddings is None:
            return self._run_over(samples, self._identify(), finish=finish).finished
        embeddings = self._check_embeddings(embeddings, samples)
        return self._run_over(samples, None, embeddings=embeddings, finish=finish).finished

    def _run_over(self, samples, identity, **how):
        """Work on a table, and settle what failed as ``on_error`` wants it."""
        run = Run(
            self._worker(),
            identity,
            self._contexts(identity) if identity else [],
            n_jobs=self.n_jobs,
            progress=bool(self.verbose),
            may_fail=self._may_fail(),
            keeps_random=self._keyed_seed() is not None,
        )
        result = run.over(samples, **how)
        if result.failures:
            settle_failures(samples, result, self.on_error)
        return result

    def _check_embeddings(self, embeddings, samples):
        embeddings = check_array(embeddings, dtype=np.float32, ensure_all_finite="allow-nan")
        expected = (len(samples), sum(self.n_channels_))
        if embeddings.shape != expected:
            raise ValueError(
                f"embeddings must be of shape (n_samples, n_features) = {expected}, got "
                f"{embeddings.shape}."
            )
        return embeddings

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
