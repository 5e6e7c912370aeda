"""Scorers ``(estimator, X, y)`` for model selection, such as ``GridSearchCV(scoring=...)``."""

from copy import copy
from difflib import get_close_matches
from functools import cached_property
from inspect import signature

import numpy as np
from sklearn import get_config
from sklearn.base import is_clusterer
from sklearn.metrics import silhouette_score
from sklearn.utils._set_output import _wrap_data_with_container
from sklearn.utils.metadata_routing import MetadataRequest

from .._validation import check_embeddings, match_rows
from ._clusters import NOISE, penalized_purity_score, purity_score
from ._retrieval import mean_average_precision_at_k, precision_at_k, r_precision
from ._separation import category_separation


class _GroupsRouter:
    """A scorer that requests groups by scikit-learn's metadata routing."""

    _groups = None

    def _check_takes_groups(self):
        if not self._takes_groups:
            raise ValueError(f"{self!r} takes no groups; only measures of retrieval do.")

    def set_score_request(self, *, groups):
        """Request the groups of rows from searches, with metadata routing enabled.

        Parameters
        ----------
        groups : bool, None or str
            True and False have the same meaning as in scikit-learn. With None, groups that are
            passed to this scorer are an error. A string is the name of the groups in the call of
            ``fit``, such as "sequences", if the splitter uses other groups.

        Returns
        -------
        ConceptScorer or MultiConceptScorer
            The scorer itself, changed in place like scikit-learn's scorers.

        Raises
        ------
        RuntimeError
            If metadata routing is not enabled.
        ValueError
            If no measure of the scorer takes groups.

        See Also
        --------
        precision_at_k : Leaves out rows of the query's group.

        Examples
        --------
        >>> from sklearn import config_context
        >>> from sklearn_loce.metrics import get_scorer
        >>> with config_context(enable_metadata_routing=True):
        ...     scorer = get_scorer("precision_at_1").set_score_request(groups=True)
        >>> scorer.get_metadata_routing()
        {'score': {'groups': True}}
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "Requests for groups need metadata routing: call "
                "sklearn.set_config(enable_metadata_routing=True) first."
            )
        self._check_takes_groups()
        self._groups = groups
        return self

    def get_metadata_routing(self):
        """Return the metadata that the scorer requests.

        Returns
        -------
        MetadataRequest
            The request for groups, if the measure takes groups.

        See Also
        --------
        set_score_request : Request groups.

        Examples
        --------
        >>> from sklearn_loce.metrics import get_scorer
        >>> get_scorer("precision_at_1").get_metadata_routing()
        {'score': {'groups': None}}
        """
        request = MetadataRequest(owner=repr(self))
        if self._takes_groups:
            request.score.add_request(param="groups", alias=self._groups)
        return request


class ConceptScorer(_GroupsRouter):
    """Score a fitted estimator by its embeddings, its clusters or its projections.

    :func:`make_embedding_scorer`, :func:`make_cluster_scorer` and :func:`get_scorer` build such
    scorers.

    Parameters
    ----------
    score_func : callable
        Function ``score_func(embeddings, y, **kwargs)``, ``score_func(y, labels, **kwargs)`` or
        ``score_func(evaluation, **kwargs)``, where `evaluation` is a result of ``evaluate``.
    response : {"embeddings", "clusters", "evaluation"}
        Input of `score_func`.
    sign : {1, -1}
        Use -1 if lower scores are better.
    kwargs : dict
        Keyword arguments of `score_func`.

    See Also
    --------
    get_scorer : Scorers by name.
    MultiConceptScorer : Several scorers at once.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_loce.metrics import get_scorer
    >>> X, y = [[0.0], [1.0], [4.0], [5.0]], ["car", "car", "bus", "bus"]
    >>> get_scorer("separation")(StandardScaler(with_std=False).fit(X), X, y)
    3.0
    """

    def __init__(self, score_func, response, sign, kwargs):
        self.score_func = score_func
        self.response = response
        self.sign = sign
        self.kwargs = kwargs

    @property
    def _takes_groups(self):
        return "groups" in signature(self.score_func).parameters

    def __call__(self, estimator, X, y=None, groups=None):
        """Score `estimator` on the rows `X` with concepts `y`.

        Parameters
        ----------
        estimator : estimator
            Fitted transformer, clusterer, mixture or Pipeline.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,), default=None
            Concepts; an evaluation needs none.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            As `score_func` takes them, such as :func:`precision_at_k`.

        Returns
        -------
        float
            Higher is better.
        """
        if groups is not None:
            self._check_takes_groups()
        X, y, groups = match_rows(X=X, y=y, groups=groups)
        return self._judge(Responses(estimator, X, self._columns), y, groups)

    @property
    def _columns(self):
        """Required columns of an evaluation."""
        return {self.kwargs["column"]} if self.response == "evaluation" else set()

    def _judge(self, responses, y, groups=None):
        """Score responses, which other scorers may share."""
        if self.response == "evaluation":
            return self.sign * float(self.score_func(responses.evaluation, **self.kwargs))
        if y is None:
            raise ValueError(f"{self!r} needs concepts, but y is None; pass them, as in fit(X, y).")
        if self.response == "embeddings":
            own = {} if groups is None or not self._takes_groups else {"groups": groups}
            score = self.score_func(responses.embeddings, y, **own, **self.kwargs)
        else:
            score = self.score_func(y, responses.clusters, **self.kwargs)
        return self.sign * float(score)

    def __repr__(self):
        options = "".join(f", {name}={value!r}" for name, value in self.kwargs.items())
        name = getattr(self.score_func, "__name__", repr(self.score_func))
        return f"ConceptScorer({name} of {self.response}{options})"


class MultiConceptScorer(_GroupsRouter):
    """Score a fitted estimator by several scorers that share one transform or `evaluate`.

    scikit-learn's own ``scoring={...}`` repeats these calls for each scorer, which is slow if a
    network computes the embeddings. :func:`get_scorer` builds such a scorer from a list of names.

    Parameters
    ----------
    scorers : dict of str to ConceptScorer
        Scorers by name. A score has the name of its scorer.

    See Also
    --------
    get_scorer : Build such a scorer from a list of names.
    ConceptScorer : A single scorer.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_loce.metrics import get_scorer
    >>> X, y = [[0.0], [1.0], [4.0], [5.0]], ["car", "car", "bus", "bus"]
    >>> scorer = get_scorer(["separation", "precision_at_1"])
    >>> scorer(StandardScaler(with_std=False).fit(X), X, y)
    {'separation': 3.0, 'precision_at_1': 1.0}
    """

    def __init__(self, scorers):
        self.scorers = scorers

    @property
    def _takes_groups(self):
        return any(scorer._takes_groups for scorer in self.scorers.values())

    def __call__(self, estimator, X, y=None, groups=None):
        """Score `estimator` on the rows `X` with concepts `y`.

        Parameters
        ----------
        estimator : estimator
            Fitted transformer, clusterer, mixture or Pipeline.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,), default=None
            Concepts; scorers of an evaluation need none.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            For the scorers whose measures take them.

        Returns
        -------
        dict of str to float
            Higher is better.

        Raises
        ------
        ValueError
            If groups are passed, but no measure takes them.
        """
        if groups is not None:
            self._check_takes_groups()
        X, y, groups = match_rows(X=X, y=y, groups=groups)
        columns = set().union(*(scorer._columns for scorer in self.scorers.values()))
        responses = Responses(estimator, X, columns)
        # Evaluations come first, because they also return the vectors: images then pass once.
        names = sorted(self.scorers, key=lambda name: self.scorers[name].response != "evaluation")
        scores = {name: self.scorers[name]._judge(responses, y, groups) for name in names}
        return {name: scores[name] for name in self.scorers}

    def __repr__(self):
        return f"MultiConceptScorer({list(self.scorers)})"


def evaluate_columns(estimator, columns, *args, **kwargs):
    """Call `evaluate` for these columns, without slow measurements of others."""
    how = {"cv": 2 if "heldout_iou" in columns else None, "flip": "gain" in columns}
    return estimator.evaluate(*args, **how, **kwargs)


def has_evaluation(estimator):
    """Return whether an estimator evaluates vectors. Segmenters evaluate masks only."""
    return hasattr(estimator, "evaluate") and hasattr(estimator, "transform")


class Responses:
    """Embeddings, clusters and evaluation of X by an estimator, each computed once on demand."""

    _vectors = None  # from the first step, if an evaluation has computed them

    def __init__(self, estimator, X, columns=frozenset()):
        # Use the best estimator of a search: the transform of a search may be that of a clusterer.
        while hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        self.estimator = estimator
        self.X = X
        self.columns = columns

    @cached_property
    def _steps(self):
        """The steps that compute the embeddings and that cluster them; either may be None."""
        if not hasattr(self.estimator, "steps"):
            clusters = is_clusterer(self.estimator) or not hasattr(self.estimator, "transform")
            return (None, self.estimator) if clusters else (self.estimator, None)
        if not hasattr(self.estimator, "predict"):
            return self.estimator, None
        before = self.estimator[:-1]
        return (before if len(before) else None), self.estimator[-1]

    @cached_property
    def embeddings(self):
        """Rows in the form that a clusterer or mixture receives."""
        before, last = self._steps
        if before is not None:
            return self._transform(before)
        if hasattr(last, "predict"):
            return self.X
        raise TypeError(
            f"{type(self.estimator).__name__} has no transform, so there are no embeddings to "
            "score; put it after a transformer in a Pipeline, or choose a scorer of clusters."
        )

    def _transform(self, before):
        """Transform the rows, or the vectors of the first step if they are known."""
        if self._vectors is None:
            return before.transform(self.X)
        rest = getattr(before, "steps", ())[1:]
        return before[1:].transform(self._vectors) if rest else self._vectors

    @property
    def _first(self):
        """The step that receives the table of samples."""
        return self.estimator[0] if hasattr(self.estimator, "steps") else self.estimator

    @cached_property
    def evaluation(self):
        """The result of `evaluate` of the first step, a table of rows and layers."""
        if not has_evaluation(self._first):
            raise TypeError(
                f"{type(self._first).__name__} has no evaluate of vectors, so there is no IoU to "
                "score; pass a LoCETransformer or MaskedMeanTransformer, or a Pipeline that begins "
                "with one."
            )
        first = self._first
        evaluation, vectors = evaluate_columns(first, self.columns, self.X, return_embeddings=True)
        # Wrap them like the result of transform: later steps may have seen names in fit.
        self._vectors = _wrap_data_with_container("transform", vectors, self.X, first)
        return evaluation

    @cached_property
    def clusters(self):
        """Cluster of each row."""
        last = self._steps[1]
        if hasattr(last, "predict"):
            return last.predict(self.embeddings)
        raise TypeError(
            f"{type(self.estimator).__name__} has no predict, so new rows have no cluster to "
            "score; use ConceptAgglomerative, ConceptGaussianMixture or KMeans."
        )


def make_embedding_scorer(score_func, *, greater_is_better=True, **kwargs):
    """Make a scorer of embeddings from a metric of ``(X, y)``.

    Parameters
    ----------
    score_func : callable
        Function ``score_func(X, y, **kwargs) -> float``, such as :func:`precision_at_k` or
        scikit-learn's ``silhouette_score``.
    greater_is_better : bool, default=True
        With False, the score is negated.
    **kwargs : dict
        Keyword arguments of `score_func`, such as ``exclude=30`` for a window of frame numbers.
        Arguments with one value per row, such as groups, are passed to the scorer itself.

    Returns
    -------
    ConceptScorer
        The scorer. It scores the output of a transformer, or the input of a clusterer or mixture.
        For a Pipeline, the last step decides. For a fitted search, the best estimator is scored.

    See Also
    --------
    make_cluster_scorer : The same for predicted clusters.
    get_scorer : Ready scorers by name.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_loce.metrics import make_embedding_scorer, precision_at_k
    >>> scorer = make_embedding_scorer(precision_at_k, k=1, metric="euclidean")
    >>> X, y = [[0.0], [1.0], [4.0], [5.0]], ["car", "car", "bus", "bus"]
    >>> scorer(StandardScaler().fit(X), X, y)
    1.0
    """
    return ConceptScorer(score_func, "embeddings", 1 if greater_is_better else -1, kwargs)


def make_cluster_scorer(score_func, *, greater_is_better=True, **kwargs):
    """Make a scorer of predicted clusters from a metric of ``(y, labels)``.

    Parameters
    ----------
    score_func : callable
        Function ``score_func(y, labels, **kwargs) -> float``, such as :func:`purity_score` or
        scikit-learn's ``v_measure_score``.
    greater_is_better : bool, default=True
        With False, the score is negated.
    **kwargs : dict
        Keyword arguments of `score_func`.

    Returns
    -------
    ConceptScorer
        The scorer, for a clusterer or mixture with `predict`, or a Pipeline that ends with one.

    See Also
    --------
    make_embedding_scorer : The same for embeddings.
    get_scorer : Ready scorers by name.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.metrics import v_measure_score
    >>> from sklearn_loce.metrics import make_cluster_scorer
    >>> X, y = [[0.0], [1.0], [4.0], [5.0]], ["car", "car", "bus", "bus"]
    >>> kmeans = KMeans(n_clusters=2, random_state=0).fit(X)
    >>> make_cluster_scorer(v_measure_score)(kmeans, X, y)
    1.0
    """
    return ConceptScorer(score_func, "clusters", 1 if greater_is_better else -1, kwargs)


def finite_separation(X, y, *, quantile=0.0):
    """Average the category separation over concepts with a finite value.

    So a fold has a score even if a concept has one row or coinciding rows. It is NaN if no concept
    has a finite value.
    """
    values = category_separation(X, y, quantile=quantile, average=None)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def silhouette(X, y):
    """Compute scikit-learn's mean silhouette of all concepts, with checked labels."""
    X, _, codes = check_embeddings(X, y, min_concepts=2)
    return silhouette_score(X, codes)


def n_clusters(y, labels):
    """Count clusters, without -1."""
    return np.setdiff1d(labels, [NOISE]).size


def mean_of(evaluation, *, column):
    """Average a column of an evaluation over samples and layers, without NaN."""
    return evaluation[column].mean()


_SCORERS = {
    **{
        name: ConceptScorer(mean_of, "evaluation", 1, {"column": column})
        for name, column in (("iou", "iou"), ("heldout_iou", "heldout_iou"), ("iou_gain", "gain"))
    },
    "separation": make_embedding_scorer(finite_separation),
    "robust_separation": make_embedding_scorer(finite_separation, quantile=0.05),
    "silhouette": make_embedding_scorer(silhouette),
    "r_precision": make_embedding_scorer(r_precision),
    **{f"precision_at_{k}": make_embedding_scorer(precision_at_k, k=k) for k in (1, 5, 10)},
    **{
        f"mean_average_precision_at_{k}": make_embedding_scorer(mean_average_precision_at_k, k=k)
        for k in (5, 10)
    },
    "purity": make_cluster_scorer(purity_score),
    "penalized_purity": make_cluster_scorer(penalized_purity_score),
    "neg_n_clusters": make_cluster_scorer(n_clusters, greater_is_better=False),
}


def get_scorer_names():
    """List the names that :func:`get_scorer` accepts.

    Returns
    -------
    list of str
        The sorted names.

    See Also
    --------
    get_scorer : Get one of these scorers.

    Examples
    --------
    >>> from sklearn_loce.metrics import get_scorer_names
    >>> "penalized_purity" in get_scorer_names()
    True
    """
    return sorted(_SCORERS)


def get_scorer(scoring):
    """Get a scorer by name, or several that share one transform or `evaluate`.

    Parameters
    ----------
    scoring : str or list of str
        One of :func:`get_scorer_names`, or several names for multi-metric scoring. Scorers of
        embeddings ("separation", "robust_separation", "silhouette", "r_precision",
        "precision_at_*", "mean_average_precision_at_*") accept a transformer or a Pipeline. Scorers
        of clusters ("purity", "penalized_purity", "neg_n_clusters") accept a clusterer or mixture
        with `predict`, or a Pipeline that ends with one. "heldout_iou", "iou_gain" and "iou" accept
        a LoCETransformer or MaskedMeanTransformer, or a Pipeline that starts with one. They need no
        y, and average columns of ``evaluate(X, cv=2)`` without NaN.

    Returns
    -------
    ConceptScorer or MultiConceptScorer
        The scorer, for ``scoring=`` of ``GridSearchCV`` or ``cross_validate``. With several names,
        set ``refit=`` to one of them. The separations ignore concepts without a finite value.

    Raises
    ------
    ValueError
        If a name is unknown, or there is no name.

    See Also
    --------
    get_scorer_names : The known names.
    make_embedding_scorer : A scorer from any metric of embeddings.
    sklearn_loce.LoCETransformer.evaluate : The definitions of held-out IoU and gain.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV, StratifiedKFold
    >>> from sklearn_loce.metrics import get_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scoring = get_scorer(["robust_separation", "precision_at_10"])
    >>> search = GridSearchCV(
    ...     PCA(),
    ...     {"n_components": [1, 2]},
    ...     scoring=scoring,
    ...     refit="precision_at_10",
    ...     cv=StratifiedKFold(3),
    ... )
    >>> search.fit(X, y).best_params_
    {'n_components': 2}
    """
    if not isinstance(scoring, str):
        if scoring is None or not len(scoring):
            raise ValueError(f"scoring={scoring!r} has no scorer; choose from get_scorer_names().")
        return MultiConceptScorer({name: get_scorer(name) for name in scoring})
    if scoring in _SCORERS:
        return copy(_SCORERS[scoring])  # requests of the copy may be set
    close = get_close_matches(scoring, _SCORERS, n=3, cutoff=0.4) or get_scorer_names()
    raise ValueError(f"{scoring!r} is not a scorer; did you mean {', '.join(map(repr, close))}?")
