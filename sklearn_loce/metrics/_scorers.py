"""Scorers ``(estimator, X, y)`` for model selection, as in ``GridSearchCV(scoring=...)``."""

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
    """A scorer that says to scikit-learn's metadata routing whether it takes groups."""

    _groups = None

    def _check_takes_groups(self):
        if not self._takes_groups:
            raise ValueError(f"{self!r} takes no groups; retrieval measures do.")

    def set_score_request(self, *, groups):
        """Ask searches to pass the groups of rows on, with metadata routing enabled.

        Parameters
        ----------
        groups : bool, None or str
            True and False as in scikit-learn; None means that groups, if passed to this scorer, are
            an error; a string is the name under which they are passed, such as "sequences", where
            the splitter takes others.

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
    """Score a fitted estimator by its embeddings, its clusters, or the masks they redraw.

    Built by :func:`make_embedding_scorer`, :func:`make_cluster_scorer` and :func:`get_scorer`.

    Parameters
    ----------
    score_func : callable
        ``score_func(embeddings, y, **kwargs)``, ``score_func(y, labels, **kwargs)``, or
        ``score_func(evaluation, **kwargs)`` of what ``evaluate`` gives.
    response : {"embeddings", "clusters", "evaluation"}
        What `score_func` judges.
    sign : {1, -1}
        -1 where a low score is a good one.
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
        """Columns that an evaluation has to have."""
        return {self.kwargs["column"]} if self.response == "evaluation" else set()

    def _judge(self, responses, y, groups=None):
        """Score responses that other scorers may share."""
        if self.response == "evaluation":
            return self.sign * float(self.score_func(responses.evaluation, **self.kwargs))
        if y is None:
            raise ValueError(
                f"{self!r} compares with concepts, and y is None; pass them, as in fit(X, y)."
            )
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

    scikit-learn's own ``scoring={...}`` runs these once per scorer, which is what costs the time
    where embeddings come from a network. Built by :func:`get_scorer` from a list of names.

    Parameters
    ----------
    scorers : dict of str to ConceptScorer
        Scorers by the name their value gets.

    See Also
    --------
    get_scorer : Build one from a list of names.
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
            If there are groups, and no measure takes them.
        """
        if groups is not None:
            self._check_takes_groups()
        X, y, groups = match_rows(X=X, y=y, groups=groups)
        columns = set().union(*(scorer._columns for scorer in self.scorers.values()))
        responses = Responses(estimator, X, columns)
        # Evaluations come first: they give the vectors too, so that images pass once for both.
        names = sorted(self.scorers, key=lambda name: self.scorers[name].response != "evaluation")
        scores = {name: self.scorers[name]._judge(responses, y, groups) for name in names}
        return {name: scores[name] for name in self.scorers}

    def __repr__(self):
        return f"MultiConceptScorer({list(self.scorers)})"


def evaluate_columns(estimator, columns, *args, **kwargs):
    """Call `evaluate` so that it measures these columns, and nothing else that takes time."""
    how = {"cv": 2 if "heldout_iou" in columns else None, "flip": "gain" in columns}
    return estimator.evaluate(*args, **how, **kwargs)


def has_evaluation(estimator):
    """Return whether an estimator makes vectors that it can draw; segmenters evaluate no vectors."""
    return hasattr(estimator, "evaluate") and hasattr(estimator, "transform")


class Responses:
    """What an estimator makes of X, each computed once and when first asked for."""

    _vectors = None  # of the first step, where an evaluation has computed them

    def __init__(self, estimator, X, columns=frozenset()):
        # A search is what it found best; its own transform may be that of a clusterer.
        while hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        self.estimator = estimator
        self.X = X
        self.columns = columns

    @cached_property
    def _steps(self):
        """What makes the embeddings, if anything, and what clusters them, if anything."""
        if not hasattr(self.estimator, "steps"):
            clusters = is_clusterer(self.estimator) or not hasattr(self.estimator, "transform")
            return (None, self.estimator) if clusters else (self.estimator, None)
        if not hasattr(self.estimator, "predict"):
            return self.estimator, None
        before = self.estimator[:-1]
        return (before if len(before) else None), self.estimator[-1]

    @cached_property
    def embeddings(self):
        """Rows as a clusterer or mixture gets them."""
        before, last = self._steps
        if before is not None:
            return self._transform(before)
        if hasattr(last, "predict"):
            return self.X
        raise TypeError(
            f"{type(self.estimator).__name__} has no transform, so there are no embeddings to "
            "score; put it behind a transformer in a Pipeline, or choose a scorer of clusters."
        )

    def _transform(self, before):
        """Transform the rows, from the vectors of the first step where they are known."""
        if self._vectors is None:
            return before.transform(self.X)
        rest = getattr(before, "steps", ())[1:]
        return before[1:].transform(self._vectors) if rest else self._vectors

    @property
    def _first(self):
        """What takes the table of samples."""
        return self.estimator[0] if hasattr(self.estimator, "steps") else self.estimator

    @cached_property
    def evaluation(self):
        """Which masks the first step's vectors redraw, a table of rows and layers."""
        if not has_evaluation(self._first):
            raise TypeError(
                f"{type(self._first).__name__} has no evaluate of vectors, so there is no IoU to "
                "score; pass a LoCETransformer or MaskedMeanTransformer, or a Pipeline that begins "
                "with one."
            )
        first = self._first
        evaluation, vectors = evaluate_columns(first, self.columns, self.X, return_embeddings=True)
        # As transform gives them, with set_output: later steps may have seen names in fit.
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
            "score; use one that has, as ConceptAgglomerative, ConceptGaussianMixture or KMeans."
        )


def make_embedding_scorer(score_func, *, greater_is_better=True, **kwargs):
    """Make a scorer of embeddings from a metric of ``(X, y)``.

    Parameters
    ----------
    score_func : callable
        ``score_func(X, y, **kwargs) -> float``, as :func:`precision_at_k` or scikit-learn's
        ``silhouette_score``.
    greater_is_better : bool, default=True
        With False the score is negated.
    **kwargs : dict
        Keyword arguments of `score_func`, such as ``exclude=30``, a window of the frame numbers
        that are passed as groups. What there is of each row goes to the scorer itself, as groups.

    Returns
    -------
    ConceptScorer
        Takes a transformer, whose output it scores; a clusterer or mixture, of which it scores the
        rows it gets; a Pipeline, by the same rule for its last step; or a fitted search, by its
        best estimator.

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
        ``score_func(y, labels, **kwargs) -> float``, as :func:`purity_score` or scikit-learn's
        ``v_measure_score``.
    greater_is_better : bool, default=True
        With False the score is negated.
    **kwargs : dict
        Keyword arguments of `score_func`.

    Returns
    -------
    ConceptScorer
        Takes a clusterer or mixture with `predict`, or a Pipeline that ends in one.

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
    """Mean category separation over the concepts that have a finite one.

    A fold in which a concept has one row, or rows that all coincide, still gets a score; NaN
    where no concept is left.
    """
    values = category_separation(X, y, quantile=quantile, average=None)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def silhouette(X, y):
    """Mean silhouette of all concepts, as scikit-learn has it, with labels checked as here."""
    X, _, codes = check_embeddings(X, y, min_concepts=2)
    return silhouette_score(X, codes)


def n_clusters(y, labels):
    """Count clusters; -1 is none."""
    return np.setdiff1d(labels, [NOISE]).size


def mean_of(evaluation, *, column):
    """Average a column of what `evaluate` gives over samples and layers; NaN is left out."""
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
        Sorted.

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
        One of :func:`get_scorer_names`, or several for multi-metric scoring. Scorers of
        embeddings ("separation", "robust_separation", "silhouette", "r_precision",
        "precision_at_*", "mean_average_precision_at_*") take a transformer or a Pipeline; scorers
        of clusters ("purity", "penalized_purity", "neg_n_clusters") take a clusterer or mixture
        with `predict`, or a Pipeline that ends in one. "heldout_iou", "iou_gain" and "iou" take a
        LoCETransformer or MaskedMeanTransformer, or a Pipeline that begins with one, and no y: they
        are means of columns of its ``evaluate(X, cv=2)``, where NaN is left out.

    Returns
    -------
    ConceptScorer or MultiConceptScorer
        To pass as ``scoring=`` to ``GridSearchCV`` or ``cross_validate``; with several, name one
        of them in ``refit=``. The separations leave out concepts that have no finite one.

    Raises
    ------
    ValueError
        If a name is unknown, or there is none.

    See Also
    --------
    sklearn_loce.LoCETransformer.evaluate : What held-out IoU and gain are.

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
            raise ValueError(
                f"scoring={scoring!r} names no scorer; choose from get_scorer_names()."
            )
        return MultiConceptScorer({name: get_scorer(name) for name in scoring})
    if scoring in _SCORERS:
        return copy(_SCORERS[scoring])  # whose requests may be set
    close = get_close_matches(scoring, _SCORERS, n=3, cutoff=0.4) or get_scorer_names()
    raise ValueError(f"{scoring!r} is no scorer; did you mean {', '.join(map(repr, close))}?")
