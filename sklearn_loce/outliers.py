"""Rows that are unlike the other rows of their concept.

Recipes with scikit-learn's own detectors, in the settings of the paper, for one concept's rows:

>>> import numpy as np
>>> from sklearn.ensemble import IsolationForest
>>> from sklearn.neighbors import LocalOutlierFactor
>>> rng = np.random.RandomState(0)
>>> cars = rng.normal([5.0, 0.0, 0.0], 0.3, size=(60, 3))
>>> cars[7] = [-1.0, 4.0, 1.0]
>>> lof = LocalOutlierFactor(n_neighbors=20, metric="cosine", contamination=0.05)
>>> bool(lof.fit_predict(cars)[7] == -1)
True
>>> forest = IsolationForest(contamination=0.05, random_state=0)
>>> bool(forest.fit_predict(cars)[7] == -1)
True

and within each concept of a labeled matrix:

>>> import pandas as pd
>>> y = np.repeat(["bus", "car"], 30)
>>> labels = pd.Series(1, index=range(60))
>>> for concept, rows in labels.groupby(y).indices.items():
...     labels.iloc[rows] = lof.fit_predict(cars[rows])
>>> int(labels[7])
-1
"""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ._distances import RowDistances, show_rows, sums_within_concept
from ._validation import ConceptLabelsMixin, encode_concepts, match_rows

__all__ = ["ConceptOutlierDetector"]

# Sums of distances are exact to seven digits at least.
_SCORE_NOISE = 3e-7


class ConceptOutlierDetector(ConceptLabelsMixin, OutlierMixin, BaseEstimator):
    """Find the rows that lie farthest from the other rows of their own concept.

    Parameters
    ----------
    aggregate : {"sum", "mean"}, default="sum"
        Whether a row's distances to its concept's other rows are summed, as in the paper, or
        averaged, which makes the scores of concepts of different sizes comparable. Both find the
        same outliers, as the threshold is set within each concept.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances` but "precomputed", those for
        booleans, and "seuclidean" and "mahalanobis", which change with the rows compared.
    contamination : float in (0, 0.5], default=0.05
        Share of each concept's rows to call outliers.
    verbose : int, default=0
        With 1 or more, a progress bar over the rows.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), dtype int64
        -1 for outliers among the training rows, 1 for the others.
    training_scores_ : ndarray of shape (n_samples,), dtype float64
        Negated sum or mean of each training row's distances; the lower, the more unusual.
    concepts_ : ndarray of shape (n_concepts,)
        Sorted concepts; only where `fit` got y.
    offset_ : float, or ndarray of shape (n_concepts,), dtype float64
        Score below which a row is an outlier; per concept where `fit` got y. It is the
        `contamination` quantile of the concept's training scores, so among few rows the most
        unusual one is called an outlier even if it is hardly so. A concept with one row, or
        whose rows all score the same, has no outlier.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, where X had string names.

    See Also
    --------
    sklearn.neighbors.LocalOutlierFactor : Outliers by local density.
    sklearn.ensemble.IsolationForest : Outliers by random splits.

    Notes
    -----
    The outlier search of Mikriukov, Schwalbe and Bade (IJCV 2025), who also use local outlier
    factors and isolation forests: see the recipes at the top of :mod:`sklearn_loce.outliers`.

    Examples
    --------
    >>> from sklearn_loce.outliers import ConceptOutlierDetector
    >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.2]]
    >>> y = ["car", "car", "tree", "tree", "tree", "tree"]
    >>> ConceptOutlierDetector().fit_predict(X, y)
    array([ 1,  1,  1,  1,  1, -1])
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own form
        "aggregate": [StrOptions({"sum", "mean"})],
        "metric": [str, callable],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "verbose": ["verbose"],
    }

    def __init__(self, *, aggregate="sum", metric="cosine", contamination=0.05, verbose=0):
        self.aggregate = aggregate
        self.metric = metric
        self.contamination = contamination
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Score the training rows, and set each concept's threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings, at least two.
        y : array-like of shape (n_samples,), default=None
            Concept of each row; without, all rows are of one concept.

        Returns
        -------
        self : ConceptOutlierDetector
            The fitted estimator.

        Raises
        ------
        ValueError
            If X is not finite, has fewer than two rows or does not fit y, or if labels are missing
            or mix types.
        """
        X, y = match_rows(X=X, y=y)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        self._rows, self._codes = X.copy(), self._encode(X, y, learned=())
        counts = np.bincount(self._codes)
        with show_rows(len(X), self.verbose) as bar:
            sums = sums_within_concept(X, self._codes, len(counts), self.metric, bar=bar)
        self.training_scores_ = -sums / self._divisors(self._codes)
        offsets = np.array([self._threshold(code) for code in range(len(counts))])
        self.offset_ = float(offsets[0]) if y is None else offsets
        is_outlier = self.training_scores_ < offsets[self._codes]
        self.labels_ = np.where(is_outlier, -1, 1)
        return self

    def predict(self, X, y=None):
        """Tell outliers among new rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,), default=None
            Concept of each row; see `decision_function`.

        Returns
        -------
        ndarray of shape (n_samples,), dtype int64
            -1 for outliers, 1 for the others.

        Raises
        ------
        ValueError
            If y holds concepts that `fit` did not see.
        """
        return np.where(self.decision_function(X, y) < 0, -1, 1)

    def decision_function(self, X, y=None):
        """Find by how much each row's score exceeds its concept's threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,), default=None
            Concept of each row, among those of `fit`. Without, each row is judged by the concept
            in which it is the least unusual: an outlier is one for every concept.

        Returns
        -------
        ndarray of shape (n_samples,), dtype float64
            Negative for outliers.

        Raises
        ------
        ValueError
            If y holds concepts that `fit` did not see.
        """
        scores, codes = self._score(X, y)
        return scores - np.atleast_1d(self.offset_)[codes]

    def score_samples(self, X, y=None):
        """Find the negated sum or mean of each row's distances to a concept's training rows.

        A training row of the concept scores as in `training_scores_`, over the other rows. A new
        row has one distance more: its sum is scaled to as many as a training row has, its mean
        taken over all of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,), default=None
            Concept of each row; see `decision_function`.

        Returns
        -------
        ndarray of shape (n_samples,), dtype float64
            The lower, the more unusual.

        Raises
        ------
        ValueError
            If y holds concepts that `fit` did not see.
        """
        return self._score(X, y)[0]

    def _divisors(self, codes):
        """Return what each row's sum of distances is divided by."""
        if self.aggregate == "sum":
            return np.ones(len(codes))
        return np.maximum(np.bincount(self._codes)[codes] - 1, 1)

    def _threshold(self, code):
        """Contamination quantile of a concept's scores, less their rounding noise."""
        scores = self.training_scores_[self._codes == code]
        # Scores at the quantile come back from new matrix products with other last digits.
        return np.quantile(scores, self.contamination) - _SCORE_NOISE * np.abs(scores).max()

    def _score(self, X, y):
        """Scores, and the concept by which each row is scored."""
        check_is_fitted(self)
        X, y = match_rows(X=X, y=y)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        n_concepts = self._codes.max() + 1
        every = np.arange(n_concepts)
        scores = -self._distance_sums(X, n_concepts) / self._divisors(every)
        if y is None:
            codes = (scores - np.atleast_1d(self.offset_)).argmax(axis=1)
        else:
            codes = self._find_concepts(X, y)
        return scores[np.arange(len(X)), codes], codes

    def _distance_sums(self, X, n_concepts):
        """Sum of each new row's distances to the training rows of every concept."""
        trained, rows = np.arange(len(self._rows)), np.vstack([self._rows, X])
        _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        columns = trained[np.argsort(self._codes, kind="stable")]
        starts = np.searchsorted(self._codes[columns], np.arange(n_concepts))
        # Numbered as the training row that it equals, a row finds itself at distance 0.
        with show_rows(len(X), self.verbose) as bar:
            space = RowDistances(rows, self.metric, bar)
            blocks = space.blocks(first[which[len(trained) :]], columns)
            sums = np.concatenate([np.add.reduceat(D, starts, axis=1) for _, D in blocks])
        known = np.zeros((len(first), n_concepts), dtype=bool)
        known[which[: len(trained)], self._codes] = True
        counts = np.bincount(self._codes)
        shrinkage = np.maximum(counts - 1, 1) / counts
        return np.where(known[which[len(trained) :]], sums, sums * shrinkage)

    def _find_concepts(self, X, y):
        """Encode the concepts of new rows as `fit` did."""
        if not hasattr(self, "concepts_"):
            raise ValueError("y was given, but fit had no concepts; fit(X, y) with them first.")
        names, codes = encode_concepts(y)
        check_consistent_length(X, codes)
        if (unknown := np.setdiff1d(names, self.concepts_)).size:
            raise ValueError(
                f"y holds {unknown.tolist()[0]!r}, and the concepts of fit were {self.concepts_}; "
                "leave these rows out, or fit with them."
            )
        return np.searchsorted(self.concepts_, names)[codes]
