"""Segment concepts in unseen images with one vector, or a few, per concept.

:class:`ConceptSegmenter` generalizes Local Concept Embeddings: the centroid of a concept's LoCEs is
its global vector (GloCE). :class:`Net2VecSegmenter` optimizes one vector per concept on all
training images at once, as the method of comparison in the paper.

This recipe compares both on images that neither has seen:

>>> from sklearn_loce import LoCETransformer, TorchModel
>>> from sklearn_loce.datasets import load_scene_model, make_scenes
>>> from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter
>>> train, test = make_scenes(4, random_state=0).data, make_scenes(2, random_state=1).data
>>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
>>> for segmenter in (ConceptSegmenter(loce), Net2VecSegmenter(loce)):
...     print(segmenter.fit(train).score(test) > 0.5)
True
True
"""

from dataclasses import replace
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_consistent_length, column_or_1d

from .._network.handle import as_module, resolve_device
from .._samples.table import as_samples
from .._solvers.objectives import ADAMW_OBJECTIVES, READ_BY
from .._transformer import LoCETransformer
from .._validation import match_rows
from .._warnings import warn_user
from ._net2vec import ConceptVectors, ImageStream, optimize_net2vec
from ._pooled import PooledRows
from ._projector import ConceptProjector

__all__ = ["ConceptSegmenter", "Net2VecSegmenter"]

# What only AdamW reads, and its default.
_OF_STEPS = {"learning_rate": 0.1, "batch_size": 16, "shuffle": True}


class ConceptSegmenter(ConceptProjector):
    """Segment concepts in unseen images with the centroids of their LoCEs (GloCE).

    ``fit`` computes one LoCE per training row and averages them: one centroid per concept, or one
    per cluster inside a concept. ``predict`` projects a concept's centroids onto new images.

    Parameters
    ----------
    loce : LoCETransformer
        Computes the LoCEs, on one layer. ``fit`` clones it: hold the network by a ``TorchModel``,
        so that the clone shares its weights. If its objective has a bias, the clone appends it to
        the vectors.
    clusterer : estimator with ``fit_predict``, default=None
        Finds clusters or mixture components among the LoCEs of one concept; a clone is fitted to
        each concept with two LoCEs or more. Rows that it labels -1 are left out as outliers.
        ``None`` makes one centroid per concept.
    threshold : float in [0, 1), default=0.5
        Pixels whose probability is above it belong to the concept.

    Attributes
    ----------
    loce_ : LoCETransformer
        The fitted clone of ``loce``.
    concepts_ : ndarray of shape (n_concepts,)
        The concepts, sorted.
    centroids_ : ndarray of shape (n_vectors, n_features), float64
        Means of L2-normalized LoCEs.
    embeddings_ : ndarray of shape (n_vectors, n_features), float32
        What is projected: each centroid times the mean L2 norm of its LoCEs.
    embedding_concepts_ : ndarray of shape (n_vectors,)
        The concept of each vector; the vectors of one concept stand together.
    weights_ : ndarray of shape (n_vectors,), float32
        The share of its concept's LoCEs that went into each vector.
    labels_ : ndarray of shape (n_samples,), int64
        The vector that each training row went into; -1 for rows left out.

    See Also
    --------
    Net2VecSegmenter : One vector per concept, optimised over all images.
    LoCETransformer : The LoCEs.

    Notes
    -----
    A projection is ``sigmoid(upsample(sum_c v_c A_c))``, so that the length of ``v`` decides how
    steep the probabilities are, and next to nothing about which are above 0.5. A centroid has at
    most length 1; times the mean norm of its LoCEs, it is as steep as these where they agree and
    flatter where they don't, and the centroid of a single LoCE is that LoCE.

    Where a concept has several vectors, its probabilities are the mean of theirs, weighted by
    ``weights_``, as in a mixture. The union of what they draw would be too large: outside the
    images that it comes from, a vector redraws many other things.

    References
    ----------
    .. [1] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025.

    Examples
    --------
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.segmentation import ConceptSegmenter
    >>> train, test = make_scenes(8, random_state=0), make_scenes(2, random_state=1)
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
    >>> segmenter = ConceptSegmenter(loce).fit(train.data)
    >>> masks = segmenter.predict(test.data[["image", "concept"]])
    >>> masks[0].shape
    (120, 160)
    >>> segmenter.score(test.data) > 0.5
    True
    """

    _parameter_constraints = {  # noqa: RUF012 - the name and form are scikit-learn's
        "loce": [LoCETransformer],
        "clusterer": [None, HasMethods("fit_predict")],
        "threshold": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, loce, *, clusterer=None, threshold=0.5):
        self.loce = loce
        self.clusterer = clusterer
        self.threshold = threshold

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, *, embeddings=None, cluster_labels=None):
        """Compute the LoCEs of the training rows and their centroids.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : array-like of shape (n_samples,), default=None
            Concepts; ``None`` takes the column ``concept``.
        embeddings : array-like of shape (n_samples, n_features), default=None
            LoCEs of these rows, as ``loce`` gave them, with ``append_bias=True`` if its objective
            has a bias; then only the probe image of ``loce.fit`` passes the network, and nothing is
            optimized. ``None`` computes them. Rows with NaN are left out.
        cluster_labels : array-like of shape (n_samples,), default=None
            Clusters or mixture components found elsewhere: every pair of concept and label gets a
            centroid. Rows labeled -1 are left out. Not together with ``clusterer``.

        Returns
        -------
        ConceptSegmenter
            The fitted segmenter itself.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If parameters are out of range, ``loce`` has several layers, concepts are missing, no
            LoCE of a concept is left, the clusterer fails, or shapes don't fit.
        RuntimeError, StoreError
            As ``LoCETransformer.transform``.

        See Also
        --------
        predict : Segment the concepts in other images.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> X = make_scenes(2, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce)
        >>> segmenter.fit(X).embeddings_.shape  # 96 channels and a bias
        (7, 97)
        """
        if self.clusterer is not None and cluster_labels is not None:
            raise ValueError("Pass cluster_labels, or set clusterer, but not both.")
        given = {"y": y, "embeddings": embeddings, "cluster_labels": cluster_labels}
        samples, y, embeddings, cluster_labels = match_rows(X=as_samples(X), **given)
        codes = self._fit_concepts(samples, y)
        if embeddings is None:
            embeddings = np.asarray(self.loce_.transform(samples))
        embeddings = self.loce_._check_embeddings(embeddings, samples).astype(np.float64)
        kept = np.isfinite(embeddings).all(axis=1)
        if cluster_labels is not None:
            clusters = _encode_clusters(cluster_labels, samples)
        else:
            clusters = self._cluster(embeddings, np.where(kept, codes, -1))
        self._average(embeddings, codes, clusters, kept & (clusters != -1))
        return self

    def _cluster(self, embeddings, codes):
        """Label the clusters inside each concept; rows of code -1 are not looked at."""
        labels = np.zeros(len(codes), dtype=np.int64)
        for code, concept in enumerate(self.concepts_.tolist()):
            rows = np.flatnonzero(codes == code)
            if self.clusterer is None or len(rows) < 2:
                continue
            try:
                labels[rows] = clone(self.clusterer).fit_predict(embeddings[rows])
            except ValueError as error:
                raise ValueError(
                    f"clusterer={self.clusterer!r} failed on the {len(rows)} LoCEs of the concept "
                    f"{concept!r}: {error}"
                ) from error
        return labels

    def _average(self, embeddings, codes, clusters, kept):
        """Set one vector per pair of concept and cluster."""
        empty = np.setdiff1d(np.arange(len(self.concepts_)), codes[kept])
        if len(empty):
            raise ValueError(
                f"No LoCE is left of the concepts {self.concepts_[empty].tolist()}: their rows "
                "hold NaN, which stands for an empty mask, or are labeled -1, for an outlier."
            )
        pairs = np.column_stack([codes, clusters])[kept]
        groups, members = np.unique(pairs, axis=0, return_inverse=True)
        self.labels_ = np.full(len(codes), -1, dtype=np.int64)
        self.labels_[kept] = members.ravel()
        self.embedding_concepts_ = self.concepts_[groups[:, 0]]
        sizes = np.bincount(members.ravel())
        self.weights_ = (sizes / np.bincount(groups[:, 0], sizes)[groups[:, 0]]).astype(np.float32)
        means = (self.labels_ == np.arange(len(groups))[:, None]) / sizes[:, None]
        embeddings = np.where(kept[:, None], embeddings, 0)
        self.centroids_ = means @ normalize(embeddings)
        norms = means @ np.linalg.norm(embeddings, axis=1)
        self.embeddings_ = (self.centroids_ * norms[:, None]).astype(np.float32)

    def _components(self, code):
        vectors = self.embedding_concepts_ == self.concepts_[code]
        return self._with_biases(self.weights_[vectors], self.embeddings_[vectors])


def _encode_clusters(cluster_labels, samples):
    """Return each label a number from 0; -1 stays what it is."""
    labels = column_or_1d(cluster_labels)
    check_consistent_length(samples, labels)
    is_outlier = labels == -1
    _, codes = np.unique(labels, return_inverse=True)
    return np.where(is_outlier, -1, codes)


class Net2VecSegmenter(ConceptProjector):
    """Segment concepts in unseen images with one vector per concept, as Net2Vec does.

    The vector of a concept is optimized over all its training rows at once, with the objective of
    the LoCEs: "net2vec", "mse" and "mae" by AdamW in minibatches; "logistic", "jaccard" and "dice",
    with a bias, by L-BFGS on all images, to the optimum of the mean over rows. Two images per
    thread are in memory besides the cache, whatever the number of images.

    Parameters
    ----------
    loce : LoCETransformer
        Says what is optimized where: model, one layer, preprocessing, mask size, objective with
        `alpha`, `tol` and `class_weight`, start and device are taken from it; its learning rate and
        number of steps have to be left at their defaults. ``fit`` clones it: hold the network by a
        ``TorchModel``, so that the clone shares its weights.
    learning_rate : float, default=0.1
        Learning rate of AdamW; not read by L-BFGS, for which it has to be left at its default.
    max_iter : int, default=None
        Number of epochs of AdamW, that is passes over the training images, or the most iterations
        of L-BFGS, each of which takes a pass or a few. None means 20 and 500.
    batch_size : int, default=16
        Number of images with a concept after which AdamW takes a step with its vector, by the mean
        gradient of its rows in them. What is left at the end of an epoch makes a step of its own.
        Not read by L-BFGS.
    shuffle : bool, default=True
        Whether the images come in a new random order in each epoch. Not read by L-BFGS.
    cache_size : float, default=200
        Size in megabytes of the cache for activations and masks. Images beyond it are read again
        and pass the network in each pass; the result is the same.
    threshold : float in [0, 1), default=0.5
        Pixels whose probability is above it belong to the concept.
    random_state : int, RandomState instance or None, default=None
        Determines the order of the images.

    Attributes
    ----------
    loce_ : LoCETransformer
        The fitted clone of ``loce``.
    concepts_ : ndarray of shape (n_concepts,)
        The concepts, sorted.
    embeddings_ : ndarray of shape (n_concepts, n_features), float32
        The vectors; the bias is the last feature, where the objective has one.
    n_iter_ : ndarray of shape (n_concepts,), int
        Number of epochs or iterations.
    loss_curve_ : ndarray of shape (n_iter, n_concepts), float64
        Mean loss of each concept's rows during each epoch, or where each iteration starts.

    See Also
    --------
    ConceptSegmenter : Centroids of LoCEs, which need one pass.

    Notes
    -----
    With L-BFGS, a concept's vector and bias minimize ``1/n sum_i loss(z_i, t_i) + alpha / 2 * s *
    ||v||^2`` over its n rows, with the losses of :func:`~sklearn_loce.optimize_loces` and the mean
    s of the rows' own. For a single row, that is its LoCE with the bias of the optimum.

    References
    ----------
    .. [1] R. Fong and A. Vedaldi, "Net2Vec: Quantifying and Explaining how Concepts are Encoded by
       Filters in Deep Neural Networks", CVPR, 2018.
    .. [2] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025: the comparison.

    Examples
    --------
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.segmentation import Net2VecSegmenter
    >>> train, test = make_scenes(8, random_state=0), make_scenes(2, random_state=1)
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5", objective="net2vec")
    >>> segmenter = Net2VecSegmenter(loce, batch_size=4, random_state=0).fit(train.data)
    >>> segmenter.embeddings_.shape
    (8, 96)
    >>> segmenter.score(test.data) > 0.5
    True
    """

    _parameter_constraints = {  # noqa: RUF012 - the name and form are scikit-learn's
        "loce": [LoCETransformer],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "cache_size": [Interval(Real, 0, None, closed="left")],
        "threshold": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        loce,
        *,
        learning_rate=0.1,
        max_iter=None,
        batch_size=16,
        shuffle=True,
        cache_size=200,
        threshold=0.5,
        random_state=None,
    ):
        self.loce = loce
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.cache_size = cache_size
        self.threshold = threshold
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Optimize one vector per concept.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : array-like of shape (n_samples,), default=None
            Concepts; ``None`` takes the column ``concept``.

        Returns
        -------
        Net2VecSegmenter
            The fitted segmenter itself.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If parameters are out of range or not read, ``loce`` has several layers, concepts are
            missing, a mask is empty and ``loce`` has ``on_empty="raise"``, or all masks of a
            concept are empty.
        RuntimeError
            If another thread runs a network that can't be copied.

        Warns
        -----
        ConvergenceWarning
            If L-BFGS ends before `tol` is reached.

        See Also
        --------
        predict : Segment the concepts in other images.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import Net2VecSegmenter
        >>> X = make_scenes(2, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = Net2VecSegmenter(loce)
        >>> segmenter.fit(X).embeddings_.shape  # 96 channels and a bias
        (7, 97)
        """
        samples = as_samples(X)
        self._check_loce()
        codes = self._fit_concepts(samples, y)
        images = ImageStream(self.loce_, samples, self.cache_size)
        if self.loce_.objective in ADAMW_OBJECTIVES:
            self._step_through(images, codes)
        else:
            self._minimize(images, codes)
        return self

    def _step_through(self, images, codes):
        """Take the steps of AdamW."""
        how = {"learning_rate": float(self.learning_rate), "max_iter": self.max_iter or 20}
        objective = replace(self.loce_._objective, **how)
        device = resolve_device(self.loce_.device, as_module(self.loce_.model))
        start = torch.as_tensor(self.loce_.inits_[0], dtype=torch.float32, device=device)
        vectors = ConceptVectors(len(self.concepts_), start, objective, self.batch_size)
        orders = self._orders(len(images), objective.max_iter)
        self.loss_curve_ = optimize_net2vec(images, codes, vectors, orders)
        self._check_masks(~np.isnan(self.loss_curve_[0]))
        self.embeddings_ = vectors.numpy()
        self.n_iter_ = np.full(len(self.concepts_), objective.max_iter)

    @torch.no_grad()
    def _minimize(self, images, codes):
        """Find the optima by L-BFGS."""
        objective = replace(self.loce_._objective, max_iter=self.max_iter or 500)
        problem = PooledRows(images, codes, len(self.concepts_), objective)
        self._check_masks(problem.n_rows.numpy() > 0)
        self.embeddings_, self.n_iter_, norm = problem.solve(self.loce_.inits_[0])
        self.loss_curve_ = np.reshape(problem.curve, (-1, len(self.concepts_)))
        late = self.concepts_[norm > objective.tol].tolist()
        if late:
            warn_user(
                f"The vectors of {late} did not converge to tol={objective.tol} in "
                f"max_iter={objective.max_iter} iterations. Raise max_iter, or alpha or tol of "
                "loce.",
                ConvergenceWarning,
            )

    def _check_masks(self, has_rows):
        if not has_rows.all():
            empty = self.concepts_[~has_rows].tolist()
            raise ValueError(f"All masks of the concepts {empty} are empty.")

    def _check_loce(self):
        """Check that nothing is left unread: the segmenter has steps of its own, or none."""
        steps = self.loce.objective in ADAMW_OBJECTIVES
        for name, default in (("learning_rate", READ_BY["learning_rate"][0]), ("max_iter", None)):
            value = getattr(self.loce, name)
            if value != default and (steps or name == "max_iter"):
                raise ValueError(
                    f"{name}={value!r} of its loce is not read by Net2VecSegmenter; leave it out "
                    f"there, and set {name} of the segmenter."
                )
        for name, default in _OF_STEPS.items():
            value = getattr(self, name)
            if value != default and not steps:
                raise ValueError(
                    f"{name}={value!r} is not read with objective={self.loce.objective!r} of its "
                    "loce, for which L-BFGS takes all images at once; leave it out, or choose "
                    f"one of {sorted(ADAMW_OBJECTIVES)}."
                )

    def _orders(self, n_images, n_epochs):
        rng = check_random_state(self.random_state)
        for _ in range(n_epochs):
            yield rng.permutation(n_images) if self.shuffle else np.arange(n_images)
