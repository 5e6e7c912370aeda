"""Find rows that are unlike their concept, and rows that may have a wrong label.

These recipes use scikit-learn's own detectors, in the settings of the paper, for the rows of one
concept:

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

A loop applies a detector inside each concept:

>>> import pandas as pd
>>> y = np.repeat(["bus", "car"], 30)
>>> labels = pd.Series(1, index=range(60))
>>> for concept, rows in labels.groupby(y).indices.items():
...     labels.iloc[rows] = lof.fit_predict(cars[rows])
>>> int(labels[7])
-1
"""

from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import check_is_fitted, validate_data

from ._distances import RowDistances, show_rows, sums_within_concept
from ._validation import ConceptLabelsMixin, check_embeddings, encode_concepts, match_rows
from ._warnings import warn_user
from .metrics import _exclusion
from .metrics._exclusion import read_exclusion

__all__ = ["ConceptOutlierDetector", "label_issues"]

# Sums of distances are exact to at least seven digits.
_SCORE_NOISE = 3e-7
# Two concepts are equally near if their distances differ by at most this share.
_TIE = 1e-6
# Minimum width of a concept, as a share of the largest width. Pure duplicates have width 0.
_NARROWEST = 0.01
# Power of the width that divides distances. On CamVid, with 0, most rows of a rare concept count as
# wrong; with 0.5 and more, wrong labels rank lower.
_SMOOTHING = 0.25


class ConceptOutlierDetector(ConceptLabelsMixin, OutlierMixin, BaseEstimator):
    """Find the rows that lie farthest from the other rows of their own concept.

    Parameters
    ----------
    aggregate : {"mean", "sum"}, default="mean"
        Whether to average or to sum the distances of a row to the other rows of its concept. With
        the mean, scores of concepts of different sizes are comparable. The paper uses the sum. Both
        find the same outliers, because each concept has its own threshold.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
    contamination : float in (0, 0.5], default=0.05
        Share of outliers among the rows of each concept.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), dtype int64
        -1 for outliers among the training rows, 1 for the others.
    training_scores_ : ndarray of shape (n_samples,), dtype float64
        Negated mean or sum of the distances of each training row. Lower is more unusual.
    concepts_ : ndarray of shape (n_concepts,)
        Sorted concepts, if y was passed to `fit`.
    offset_ : float, or ndarray of shape (n_concepts,), dtype float64
        Score below which a row is an outlier, per concept if y was passed to `fit`. It is the
        `contamination` quantile of the concept's training scores. So the most unusual of few rows
        is always an outlier. A concept has no outlier if it has one row, or if all its rows have
        the same score.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if X had string names.

    See Also
    --------
    label_issues : Rows that lie nearer to another concept.
    sklearn.neighbors.LocalOutlierFactor : Outliers by local density.
    sklearn.ensemble.IsolationForest : Outliers by random splits.

    Notes
    -----
    This is the outlier search of Mikriukov, Schwalbe and Bade (IJCV 2025). They also use local
    outlier factors and isolation forests, see the recipes in :mod:`sklearn_loce.outliers`.

    Examples
    --------
    >>> from sklearn_loce.outliers import ConceptOutlierDetector
    >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.2]]
    >>> y = ["car", "car", "tree", "tree", "tree", "tree"]
    >>> ConceptOutlierDetector().fit_predict(X, y)
    array([ 1,  1,  1,  1,  1, -1])
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own form
        "aggregate": [StrOptions({"mean", "sum"})],
        "metric": [str, callable],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "verbose": ["verbose"],
    }

    def __init__(self, *, aggregate="mean", metric="cosine", contamination=0.05, verbose=0):
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
            Concept of each row. Without concepts, all rows belong to one concept.

        Returns
        -------
        ConceptOutlierDetector
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If X is not finite, has fewer than two rows or differs from y in length, or if labels
            are missing or mix types.

        See Also
        --------
        fit_predict : Fit, and return the labels of the training rows.

        Examples
        --------
        >>> from sklearn_loce.outliers import ConceptOutlierDetector
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]]
        >>> ConceptOutlierDetector().fit(X).labels_
        array([ 1,  1,  1, -1])
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
        """Find the outliers among new rows.

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
            If y has concepts that were not in `fit`.

        See Also
        --------
        decision_function : The distance to the threshold.

        Examples
        --------
        >>> from sklearn_loce.outliers import ConceptOutlierDetector
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]]
        >>> ConceptOutlierDetector().fit(X).predict([[1.0, 0.05], [-1.0, 0.0]])
        array([ 1, -1])
        """
        return np.where(self.decision_function(X, y) < 0, -1, 1)

    def decision_function(self, X, y=None):
        """Return the difference between the score of each row and the threshold of its concept.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,), default=None
            Concept of each row, among the concepts of `fit`. Without concepts, each row is judged
            by the concept in which it is least unusual. So an outlier is unusual in every concept.

        Returns
        -------
        ndarray of shape (n_samples,), dtype float64
            Negative for outliers.

        Raises
        ------
        ValueError
            If y has concepts that were not in `fit`.

        See Also
        --------
        predict : Labels of outliers.
        score_samples : Scores without a threshold.

        Examples
        --------
        >>> from sklearn_loce.outliers import ConceptOutlierDetector
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]]
        >>> detector = ConceptOutlierDetector().fit(X)
        >>> usual, unusual = detector.decision_function([[1.0, 0.05], [-1.0, 0.0]])
        >>> bool(usual > 0 > unusual)
        True
        """
        scores, codes = self._score(X, y)
        return scores - np.atleast_1d(self.offset_)[codes]

    def score_samples(self, X, y=None):
        """Return the negated mean or sum of each row's distances to the rows of a concept.

        A training row has the score of `training_scores_`, over the other training rows. A new row
        has one more distance. Its mean includes all distances, and its sum is scaled to the number
        of distances of a training row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,), default=None
            Concept of each row; see `decision_function`.

        Returns
        -------
        ndarray of shape (n_samples,), dtype float64
            The scores. Lower is more unusual.

        Raises
        ------
        ValueError
            If y has concepts that were not in `fit`.

        See Also
        --------
        decision_function : Scores relative to the threshold.

        Examples
        --------
        >>> from sklearn_loce.outliers import ConceptOutlierDetector
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0]]
        >>> detector = ConceptOutlierDetector().fit(X)
        >>> usual, unusual = detector.score_samples([[1.0, 0.05], [-1.0, 0.0]])
        >>> bool(usual > unusual)
        True
        """
        return self._score(X, y)[0]

    def _divisors(self, codes):
        """Return the divisor of each row's sum of distances."""
        if self.aggregate == "sum":
            return np.ones(len(codes))
        return np.maximum(np.bincount(self._codes)[codes] - 1, 1)

    def _threshold(self, code):
        """Return the contamination quantile of a concept's scores, minus rounding noise."""
        scores = self.training_scores_[self._codes == code]
        # A new matrix product changes the last digits of a score at the quantile.
        return np.quantile(scores, self.contamination) - _SCORE_NOISE * np.abs(scores).max()

    def _score(self, X, y):
        """Return the score of each row, and the concept by which it is scored."""
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
        """Sum the distances of each new row to the training rows of every concept."""
        trained, rows = np.arange(len(self._rows)), np.vstack([self._rows, X])
        _, first, which = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        which = which.reshape(-1)
        columns = trained[np.argsort(self._codes, kind="stable")]
        starts = np.searchsorted(self._codes[columns], np.arange(n_concepts))
        # A row that equals a training row has the same number, and so distance 0 to it.
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
            raise ValueError("y was passed, but fit had no concepts; call fit(X, y) first.")
        names, codes = encode_concepts(y)
        check_consistent_length(X, codes)
        if (unknown := np.setdiff1d(names, self.concepts_)).size:
            raise ValueError(
                f"y contains {unknown.tolist()[0]!r}, but the concepts of fit were "
                f"{self.concepts_}; drop these rows, or fit with them."
            )
        return np.searchsorted(self.concepts_, names)[codes]


@validate_params(
    {
        "X": ["array-like"],
        "y": ["array-like"],
        **_exclusion.PARAMETERS,
        "annotation_ids": ["array-like", None],
        "k": [Interval(Integral, 1, None, closed="left")],
        "metric": [str, callable],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def label_issues(
    X, y, *, groups=None, exclude=None, annotation_ids=None, k=10, metric="cosine", verbose=0
):
    """Rank rows by how much nearer they are to another concept than to their own.

    A row is compared with rows of other groups only, so other images judge its label. Its distance
    to a concept is the mean distance to the k nearest rows of the concept.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Annotated concept of each row, with at least two concepts.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Group of each row, such as its image or video sequence. Rows of the same group are never
        neighbors: they may be nearly the same picture, and may have the same error. With `exclude`,
        the values that it compares.
    exclude : float or callable, default=None
        Rule that replaces the comparison of groups, as in
        :func:`sklearn_loce.metrics.precision_at_k`.
    annotation_ids : array-like of shape (n_samples,), default=None
        Annotation of each row, such as the column `annotation_id` of a table of samples. A value
        may be a tuple or an array of several ids.
    k : int, default=10
        Number of nearest rows of each concept. A concept with fewer rows uses all of them.
    metric : str or callable, default="cosine"
        Any metric of :func:`sklearn.metrics.pairwise_distances`, except "precomputed", metrics for
        booleans, and "seuclidean" and "mahalanobis", which depend on all rows.
    verbose : int, default=0
        With 1 or more, show a progress bar over the rows.

    Returns
    -------
    DataFrame of n_samples rows
        All rows, the most suspicious first. The index is that of X, or else of y, if they are
        pandas objects. Otherwise it contains positions.

        - `row`: position in X.
        - `given`: the concept in y.
        - `suggested`: the nearest concept, or the given concept if no other is nearer.
        - `confidence`: how much nearer the suggested concept is, in [-1, 1]. It is above 0 only if
          the suggested and given concepts differ. Let a be the distance to the given concept, b the
          distance to the nearest other concept, and w the width of a typical concept. The
          confidence is ``(a - b) / (abs(a - b) + w)``, so it is 0.5 if ``a - b`` equals w.
        - `distance`: mean distance to all other rows of the given concept, of any group, as in
          ConceptOutlierDetector; NaN if there are none. It orders rows of equal confidence.
        - `annotation_id`: the values of `annotation_ids`, several ids as a tuple, if they are
          passed.

        A row cannot be judged if all other rows of its concept, or of all other concepts, belong to
        its group. Then its confidence is NaN, it comes last, and a warning names its concept.

    Raises
    ------
    ValueError
        If there are fewer than two concepts, a row has no rows in other groups, no row can be
        judged, X is not finite, labels are missing or mix types, lengths or indexes differ, or
        `exclude` does not match the groups.

    See Also
    --------
    ConceptOutlierDetector : Rows that are far from their own concept.
    sklearn_loce.plotting.LabelIssuesDisplay : The first rows with images and masks.

    Notes
    -----
    A frequent concept would outvote a rare one among k neighbors of any concept, so each concept
    has its own k neighbors. The width of a concept is the median distance of its rows to it. A
    dense concept is near to everything. So the distance to a concept is divided by the fourth root
    of its relative width. The relative width is the ratio to the median width of all concepts. This
    is the contextual dissimilarity of [1]_, with one neighborhood per concept.

    The vector of a mask that covers few cells of the layer is uncertain. It may rank high without
    an error. Drop small masks, for example with ``min_area`` of the loaders.

    References
    ----------
    .. [1] H. Jégou, H. Harzallah and C. Schmid, "A contextual dissimilarity measure for accurate
       and efficient image search", CVPR 2007.

    Examples
    --------
    >>> from sklearn_loce.outliers import label_issues
    >>> X = [[1.0, 0.0], [1.0, 0.1], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0], [0.1, 0.9]]
    >>> y = ["car", "car", "tree", "tree", "tree", "tree"]
    >>> issues = label_issues(X, y, annotation_ids=[11, 12, 13, 14, 15, 16])
    >>> issues.loc[issues["confidence"] > 0, ["given", "suggested", "annotation_id"]]
      given suggested  annotation_id
    2  tree       car             13
    """
    X, y, groups, annotation_ids = match_rows(
        X=X, y=y, groups=groups, annotation_ids=annotation_ids
    )
    matrix, concepts, codes = check_embeddings(X, y, min_concepts=2)
    exclusion = read_exclusion(len(matrix), groups, exclude)
    exclusion.check_candidates(exclusion.count(codes)[0], 1)
    with show_rows(len(matrix), verbose) as bar:
        near, distance = _distances_to_concepts(matrix, codes, exclusion, k, metric, bar)
    suggested, confidence = _suggest(near, codes)
    _warn_of_unjudged(confidence, concepts[codes])
    issues = pd.DataFrame(
        {
            "row": np.arange(len(matrix)),
            "given": concepts[codes],
            "suggested": concepts[suggested],
            "confidence": confidence,
            "distance": distance,
        },
        index=next((t.index for t in (X, y) if isinstance(t, pd.Series | pd.DataFrame)), None),
    )
    if annotation_ids is not None:
        issues["annotation_id"] = _read_ids(annotation_ids, len(matrix)).set_axis(issues.index)
    return issues.sort_values(["confidence", "distance"], ascending=False, kind="stable")


def _distances_to_concepts(X, codes, exclusion, k, metric, bar):
    """Average distances to the k nearest candidates of every concept, and to the own concept.

    The former, of shape (n_rows, n_concepts), are infinite if there is no candidate.
    """
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(codes.max() + 2))
    exclusion, space = exclusion.take(order), RowDistances(X[order], metric, bar)
    near, own, every = np.empty((len(X), len(bounds) - 1)), np.empty(len(X)), np.arange(len(X))

    def reduce(D, start):
        rows = every[start : start + len(D)]
        D[rows - start, rows] = 0.0
        D = space.finish(D, rows, every)
        for first, last in pairwise(bounds):
            inside = rows[(rows >= first) & (rows < last)]
            means = D[inside - start, first:last].sum(axis=1) / max(last - first - 1, 1)
            own[order[inside]] = means if last - first > 1 else np.nan
        for part, mask in exclusion.masks(rows):
            D[part][mask] = np.inf
        for concept, (first, last) in enumerate(pairwise(bounds)):
            near[order[rows], concept] = _average_nearest(D[:, first:last], k)

    for _ in space.chunks(reduce):
        pass
    return near, own


def _average_nearest(D, k):
    """Average the k smallest finite values of every row, or all if there are fewer."""
    if k < D.shape[1]:
        D = np.partition(D, k - 1, axis=1)[:, :k]
    counts = np.isfinite(D).sum(axis=1)
    sums = np.where(np.isfinite(D), D, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def _suggest(near, codes):
    """Find the nearest concept of every row, and the confidence, NaN if it is unknown."""
    rows, widths = np.arange(len(codes)), _widths(near, codes)
    usual = np.median(widths)
    scaled = near / (widths / usual) ** _SMOOTHING if usual else near
    given = scaled[rows, codes]
    others = scaled.copy()
    others[rows, codes] = np.inf
    best = others.min(axis=1)
    nearest = (others <= (1 + _TIE) * best[:, np.newaxis]).argmax(axis=1)
    judged = np.isfinite(given) & np.isfinite(best)
    gap, confidence = given[judged] - best[judged], np.full(len(codes), np.nan)
    confidence[judged] = gap / np.maximum(np.abs(gap) + usual, np.finfo(np.float64).tiny)
    is_given = given <= (1 + _TIE) * best
    confidence[is_given] = np.minimum(confidence[is_given], 0.0)
    return np.where(is_given, codes, nearest), confidence


def _widths(near, codes):
    """Return the median distance of the rows of each concept to it, or a default if unknown."""
    own = pd.Series(near[np.arange(len(codes)), codes])
    widths = own[np.isfinite(own)].groupby(codes[np.isfinite(own)]).median()
    if widths.empty:
        raise ValueError(
            "No row can be judged, because all rows of each concept belong to one group. Pass rows "
            "of more groups, or smaller groups."
        )
    widths = widths.reindex(range(near.shape[1]), fill_value=widths.median()).to_numpy()
    return np.maximum(widths, _NARROWEST * widths.max())


def _warn_of_unjudged(confidence, given):
    """Warn of concepts with rows that cannot be judged."""
    if (unjudged := np.isnan(confidence)).any():
        names = ", ".join(map(repr, np.unique(given[unjudged]).tolist()))
        warn_user(
            f"{unjudged.sum()} rows of {names} can't be judged, because all other rows of their "
            "concept, or of all other concepts, belong to their group or are excluded. Their "
            "confidence is NaN."
        )


def _read_ids(annotation_ids, n_rows):
    """Return the ids of each row. Several ids become a tuple, even if Parquet stored an array."""
    ids = [value.tolist() if isinstance(value, np.ndarray) else value for value in annotation_ids]
    ids = [tuple(value) if isinstance(value, list) else value for value in ids]
    if len(ids) != n_rows:
        raise ValueError(
            f"annotation_ids has {len(ids)} values, but X has {n_rows} rows; pass one per row."
        )
    return pd.Series(ids, dtype=object)
