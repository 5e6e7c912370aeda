"""Find the sub-concepts of each concept with Gaussian mixtures.

A mixture needs few dimensions, so this recipe reduces the embeddings first. It then reports the
sub-concepts with their typical rows:

>>> from sklearn.datasets import make_blobs
>>> from sklearn.decomposition import PCA
>>> from sklearn_loce.metrics import sub_concepts
>>> from sklearn_loce.mixture import ConceptGaussianMixture
>>> X, parts = make_blobs([60, 40, 50], n_features=8, random_state=0)
>>> y = [("car", "car", "tree")[part] for part in parts]
>>> U = PCA(2, random_state=0).fit_transform(X)
>>> components = ConceptGaussianMixture(random_state=0).fit_predict(U, y)
>>> sub_concepts(U, y, components)[["concept", "size", "share"]]
  concept  size  share
0     car    60    0.6
1     car    40    0.4
2    tree    50    1.0
"""

from numbers import Integral, Real
from warnings import catch_warnings, filterwarnings

import numpy as np
from sklearn import config_context
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from ._validation import ConceptLabelsMixin, check_range, match_rows

__all__ = ["ConceptGaussianMixture"]

# With fewer rows, a component fits its rows so closely that BIC prefers it even on noise.
_ROWS_PER_MOMENT = 3
_COMPONENT_ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_cholesky_")


class ConceptGaussianMixture(ConceptLabelsMixin, DensityMixin, BaseEstimator):
    """Gaussian mixture per concept, without light components and with their number set by BIC.

    With labels, every concept has its own mixture, and the components are its sub-concepts. Without
    labels, one mixture describes all rows, and components that mix concepts reveal confusion. In
    both cases, the number of components from 1 to `max_components` has the lowest BIC. All mixtures
    together form one density. The weight of a mixture is its concept's share of rows.

    Parameters
    ----------
    max_components : int, default=5
        Maximum number of components of a mixture. A mixture has fewer components, but at least one,
        if few of its rows are distinct, or if `rows_per_component` does not allow more.
    min_weight : float in [0, 1), default=0.1
        Components of at most this weight in their mixture are dropped, because they fit outliers.
        The heaviest component of a mixture is never dropped.
    rows_per_component : int or "auto", default="auto"
        Minimum number of rows per component of a mixture. "auto" means ``3 * (n_features + 1)`` for
        full covariances and 9 otherwise. With fewer rows, BIC rewards components that shrink to a
        point. 1 sets no bound, as in the published code. After UMAP to two dimensions, the
        difference matters for concepts with fewer than 45 rows.
    per_concept : bool, default=True
        Whether every concept has its own mixture if y is passed to `fit`. With False, y is ignored,
        as in a Pipeline whose scorer needs y.
    covariance_type : {"full", "diag", "spherical"}, default="full"
        Type of the covariances, as in :class:`sklearn.mixture.GaussianMixture`.
    reg_covar : float, default=1e-6
        Value that is added to the diagonals of the covariances.
    n_init : int, default=1
        Number of starts for each number of components. The best result is kept.
    max_iter : int, default=100
        Maximum number of EM iterations.
    tol : float, default=1e-3
        EM stops if the mean log-likelihood gains less than this.
    random_state : int, RandomState instance or None, default=None
        Seed for the starts and for `sample`.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), dtype int64
        Component of each training row in the mixture of its own concept; -1 if the component was
        dropped.
    n_components_ : int
        Number of components of all mixtures, without dropped ones.
    weights_ : ndarray of shape (n_components,), dtype float64
        Weights of the components in the density of all rows. They sum to 1.
    means_ : ndarray of shape (n_components, n_features), dtype float64
        Means of the components.
    covariances_ : ndarray of shape (n_components, ...), dtype float64
        Covariances of the components. The shape depends on `covariance_type`.
    concepts_ : ndarray of shape (n_concepts,)
        Sorted concepts, if each concept has a mixture.
    component_concepts_ : ndarray of shape (n_components,)
        Concept of each component, if each concept has a mixture.
    concept_weights_ : ndarray of shape (n_mixtures,), dtype float64
        Share of the rows that each mixture was fitted on.
    mixtures_ : list of GaussianMixture, of length n_mixtures
        The mixture of each concept, including dropped components. Without labels, the list has one
        mixture.
    bic_curves_ : ndarray of shape (n_mixtures, max_components), dtype float64
        BIC for 1, 2, ... components; NaN for more components than distinct rows.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string names.

    See Also
    --------
    sklearn.mixture.GaussianMixture : One mixture with a given number of components.
    sklearn.mixture.BayesianGaussianMixture : One mixture that leaves components empty.
    sklearn_loce.metrics.sub_concepts : Describe the components of each concept.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) fit these mixtures after UMAP to two dimensions. Any
    other reduction to few dimensions works as well. In many dimensions, the penalty of BIC for a
    full covariance is so high that one component always wins. A concept with a single row has one
    component at this row, with covariance `reg_covar`.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn_loce.mixture import ConceptGaussianMixture
    >>> X, parts = make_blobs([40] * 3, random_state=0, cluster_std=0.3)
    >>> y = [("car", "car", "tree")[part] for part in parts]
    >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X, y)
    >>> mixture.component_concepts_.tolist()
    ['car', 'car', 'tree']
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own form
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "min_weight": [Interval(Real, 0, 1, closed="left")],
        "rows_per_component": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "per_concept": ["boolean"],
        "covariance_type": [StrOptions({"full", "diag", "spherical"})],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        max_components=5,
        *,
        min_weight=0.1,
        rows_per_component="auto",
        per_concept=True,
        covariance_type="full",
        reg_covar=1e-6,
        n_init=1,
        max_iter=100,
        tol=1e-3,
        random_state=None,
    ):
        self.max_components = max_components
        self.min_weight = min_weight
        self.rows_per_component = rows_per_component
        self.per_concept = per_concept
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Fit one mixture per concept, or a single one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings, at least two.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. Without concepts, or with ``per_concept=False``, all rows share
            one mixture.

        Returns
        -------
        ConceptGaussianMixture
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If X is not finite, has fewer than two rows or differs from y in length, or if labels
            are missing or mix types.

        See Also
        --------
        bic : Compare settings by their BIC.
        sklearn_loce.metrics.sub_concepts : Describe the components of each concept.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> mixture.n_components_
        2
        """
        X, y = match_rows(X=X, y=y)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        check_range(X)
        codes = self._encode(X, y if self.per_concept else None, learned=("component_concepts_",))
        self.concept_weights_ = np.bincount(codes) / len(codes)
        # X is a NumPy array here, and GaussianMixture refuses a k-means start under dispatch.
        with config_context(array_api_dispatch=False):
            chosen = [self._choose(X[codes == code]) for code in range(codes.max() + 1)]
        self.mixtures_ = [mixture for mixture, _ in chosen]
        self.bic_curves_ = np.array([bics for _, bics in chosen])
        self._join()
        self.labels_ = np.empty(len(X), dtype=np.int64)
        for code, (mixture, new) in enumerate(zip(self.mixtures_, self._new_labels, strict=True)):
            self.labels_[codes == code] = new[mixture.predict(X[codes == code])]
        return self

    def predict(self, X):
        """Find the most probable component of each row, over all concepts.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        ndarray of shape (n_samples,), dtype int64
            Components; -1 if a dropped component is the most probable one.

        See Also
        --------
        predict_proba : The probabilities of all components.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> len(set(mixture.predict(X)))
        2
        """
        X = self._validate(X)
        return np.concatenate(self._new_labels)[self._all.predict(X)]

    def predict_proba(self, X):
        """Find the posterior probability of each component, without dropped ones.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_components), dtype float64
            Rows sum to 1, even if `predict` returns -1.

        See Also
        --------
        predict : The most probable component.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> mixture.predict_proba(X).shape
        (80, 2)
        """
        X = self._validate(X)
        return self._kept.predict_proba(X)

    def score_samples(self, X):
        """Find the log-density of each row, without dropped components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        ndarray of shape (n_samples,), dtype float64
            Natural logarithms of the densities.

        See Also
        --------
        score : The mean over the rows.
        sklearn_loce.outliers.ConceptOutlierDetector : Outliers of each concept by distance.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> near, far = mixture.score_samples([X[0], X[0] + 100])
        >>> bool(near > far)
        True
        """
        X = self._validate(X)
        return self._kept.score_samples(X)

    def score(self, X, y=None):
        """Find the mean log-density of the rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : None
            Ignored.

        Returns
        -------
        float
            Mean of `score_samples`.

        See Also
        --------
        score_samples : The log-density of each row.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> bool(mixture.score(X) > mixture.score(X + 100))
        True
        """
        return float(self.score_samples(X).mean())

    def bic(self, X):
        """Find the Bayesian information criterion, without dropped components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.

        Returns
        -------
        float
            The BIC. Lower is better.

        See Also
        --------
        score : Mean log-density, without a penalty for components.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> single = ConceptGaussianMixture(max_components=1).fit(X)
        >>> mixture.bic(X) < single.bic(X)
        True
        """
        X = self._validate(X)
        return float(self._kept.bic(X))

    def sample(self, n_samples=1):
        """Draw random rows from the density, without dropped components.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features), dtype float64
            Rows, grouped by component.
        components : ndarray of shape (n_samples,), dtype int64
            Component of each row.

        See Also
        --------
        score_samples : The log-density of given rows.

        Examples
        --------
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> X, parts = make_blobs([40] * 2, random_state=0, cluster_std=0.3)
        >>> mixture = ConceptGaussianMixture(max_components=3, random_state=0).fit(X)
        >>> rows, components = mixture.sample(5)
        >>> rows.shape, components.shape
        ((5, 2), (5,))
        """
        check_is_fitted(self)
        return self._kept.sample(n_samples)

    def _validate(self, X):
        check_is_fitted(self)
        return validate_data(self, X, dtype=np.float64, reset=False)

    def _choose(self, X):
        """Fit 1 to `max_components` components, and return the mixture with the lowest BIC."""
        bics = np.full(self.max_components, np.nan)
        best = None
        most = self._most_components(X)
        # EM needs two rows. Two copies of a row have the same mean as the row.
        X = np.repeat(X, 2, axis=0) if len(X) == 1 else X
        for n_components in range(1, most + 1):
            mixture = self._fit_one(X, n_components)
            if mixture is None:
                break
            bics[n_components - 1] = mixture.bic(X)
            if best is None or bics[n_components - 1] < best[0]:
                best = bics[n_components - 1], mixture
        return best[1], bics

    def _most_components(self, X):
        """Return the largest number of components for which X has enough distinct rows."""
        rows_each = self.rows_per_component
        if rows_each == "auto":
            rows_each = _ROWS_PER_MOMENT * (X.shape[1] + 1 if self.covariance_type == "full" else 3)
        distinct = len(np.unique(X, axis=0))
        return max(1, min(self.max_components, distinct, len(X) // rows_each))

    def _fit_one(self, X, n_components):
        """Fit `n_components` components. Return None if the rows are too similar for k-means."""
        with catch_warnings():
            filterwarnings("error", "Number of distinct clusters", ConvergenceWarning)
            try:
                return self._build(n_components).fit(X)
            except ConvergenceWarning:
                return None

    def _build(self, n_components):
        return GaussianMixture(
            n_components,
            covariance_type=self.covariance_type,
            reg_covar=self.reg_covar,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=self.random_state,
        )

    def _join(self):
        """Join the mixtures into two densities: with and without dropped components."""
        kept = [self._heavy(mixture.weights_) for mixture in self.mixtures_]
        self._all = self._assemble([np.ones_like(heavy) for heavy in kept])
        self._kept = self._assemble(kept)
        self.n_components_ = self._kept.n_components
        for name in ("weights_", "means_", "covariances_"):
            setattr(self, name, getattr(self._kept, name))
        numbers = np.where(np.concatenate(kept), np.cumsum(np.concatenate(kept)) - 1, -1)
        self._new_labels = np.split(numbers, np.cumsum([len(heavy) for heavy in kept])[:-1])
        if hasattr(self, "concepts_"):
            self.component_concepts_ = np.repeat(self.concepts_, [heavy.sum() for heavy in kept])

    def _heavy(self, weights):
        """Return which components of a mixture are kept."""
        return (weights > self.min_weight) | (np.arange(len(weights)) == weights.argmax())

    def _assemble(self, chosen):
        """Build one mixture from the chosen components of all mixtures."""
        parts = list(zip(self.mixtures_, chosen, strict=True))
        joint = self._build(int(sum(part.sum() for part in chosen)))
        for name in _COMPONENT_ATTRIBUTES:
            setattr(joint, name, np.concatenate([getattr(m, name)[part] for m, part in parts]))
        sums = [m.weights_[part].sum() for m, part in parts]
        factors = np.repeat(self.concept_weights_ / sums, [part.sum() for part in chosen])
        joint.weights_ = joint.weights_ * factors
        joint.n_features_in_ = self.n_features_in_
        joint.converged_ = all(mixture.converged_ for mixture in self.mixtures_)
        return joint
