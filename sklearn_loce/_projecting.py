"""What estimators share whose vectors can be put back on the image."""

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from ._base import RowEmbedder
from ._embedding.measure import Draw, Measure
from ._samples.table import as_samples
from ._solvers.glued import FACTS, N_ITER, n_facts
from ._solvers.objectives import LBFGS_OBJECTIVES, make_objective
from ._solvers.optimize import initial_vector


class ProjectingEmbedder(RowEmbedder):
    """Optimises vectors, measures how well they redraw masks, and draws them."""

    def _check_method(self):
        self._settings()
        if self.append_bias and self.objective not in LBFGS_OBJECTIVES:
            raise ValueError(
                f"append_bias=True needs an objective with a bias, {sorted(LBFGS_OBJECTIVES)}, got "
                f"objective={self.objective!r}."
            )

    def _draw_starts(self, seed):
        self.inits_ = [initial_vector(self.init, n, seed) for n in self.n_channels_]

    def _settings(self):
        return make_objective(
            self.objective,
            solver=self.solver,
            learning_rate=self.learning_rate,
            max_iter=self.max_iter,
            alpha=self.alpha,
            tol=self.tol,
            class_weight=self.class_weight,
            mask_size=self.mask_size,
            mask_resize=self.mask_resize,
        )

    def _method(self):
        return {
            "settings": self._settings(),
            "inits": self.inits_,
            "mask_size": tuple(self.mask_size),
            "mask_resize": self.mask_resize,
        }

    def _method_facts(self):
        return self._settings().key()

    def _appends_bias(self):
        return self.append_bias

    def evaluate(self, X, embeddings=None):
        """Measure how well each LoCE redraws its mask.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        embeddings : array-like of shape (n_samples, n_features), default=None
            LoCEs of these rows, as ``transform`` gave them. ``None`` optimises them. Biases are
            chosen as by ``project``.

        Returns
        -------
        DataFrame
            One row per sample and layer, samples in order, with the index of X repeated:

            - ``layer``: its name;
            - ``iou``: intersection over union of projection > 0.5 and mask, at the image's own
              size; NaN for an empty mask;
            - ``loss``: the objective's value, at ``mask_size``, with the intercept that makes it
              least, or with ``append_bias=True`` that which the vectors hold; NaN for an empty
              mask and for a vector of NaN;
            - ``foreground_cells``: area of the mask in cells of the layer, which may be below 1;
            - ``failed``: whether the IoU is 0 or there is none;
            - ``n_iter``, ``gradient_norm``: of the optimisation, the norm as ``tol`` bounds it; NaN
              for ``embeddings`` that were given. These two only for "logistic", "jaccard" and
              "dice".

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, StoreError
            As ``transform``; and if ``embeddings`` do not have one row per sample.
        """
        check_is_fitted(self)
        samples = as_samples(X)
        settings = self._settings()
        measure = Measure(settings, tuple(self.mask_size), self.mask_resize, self.append_bias)
        rows = self._finish_over(samples, embeddings, measure)
        columns = ["iou", "loss", "foreground_cells", *FACTS[N_ITER:][: n_facts(settings)]]
        unknown = np.full((len(self.layers_), len(columns)), np.nan)
        facts = np.concatenate([unknown if row is None else row for row in rows])
        frame = pd.DataFrame(facts, columns=columns)
        frame.insert(0, "layer", self.layers_ * len(samples))
        frame.insert(4, "failed", ~(frame["iou"] > 0))
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
            With an objective that has a bias, the one is taken that redraws the row's mask best,
            at the largest Jaccard index at ``mask_size``; with ``append_bias=True`` the one that
            the vectors hold.
        layer : str, default=None
            Which layer to project; may be left out where there is one.
        threshold : float or None, default=0.5
            Pixels above it belong to the concept; ``None`` gives the probabilities.

        Returns
        -------
        list of ndarray of shape (height, width)
            One projection per row at the size of its image: bool, or float32 probabilities. Parts
            of the image that ``preprocess`` cut off have probability 0. A vector of NaN, which
            stands for an empty mask, gives False and NaN; a row that failed with
            ``on_error="nan"`` gives ``None``.

        Raises
        ------
        ValueError, FileNotFoundError, TypeError, StoreError
            As ``transform``; and if ``layer`` is missing or unknown, or ``embeddings`` do not have
            one row per sample.
        """
        check_is_fitted(self)
        draw = Draw(
            self._position_of(layer),
            tuple(self.mask_size),
            threshold,
            self._settings(),
            self.mask_resize,
            self.append_bias,
        )
        return self._finish_over(as_samples(X), embeddings, draw)

    def _position_of(self, layer):
        if layer is None and len(self.layers_) == 1:
            return 0
        if layer not in self.layers_:
            raise ValueError(f"layer must be one of {self.layers_}, got {layer!r}.")
        return self.layers_.index(layer)
