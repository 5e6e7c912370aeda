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

# Parameters that only AdamW uses, and their defaults.
_OF_STEPS = {"learning_rate": 0.1, "batch_size": 16, "shuffle": True}


class ConceptSegmenter(ConceptProjector):
    """Segment concepts in unseen images with the centroids of their LoCEs (GloCE).

    ``fit`` computes one LoCE per training row, and averages them to one centroid per concept or per
    cluster inside a concept. ``predict`` projects the centroids of a concept onto new images.

    Parameters
    ----------
    loce : LoCETransformer
        Transformer for the LoCEs of one layer. ``fit`` clones it, so wrap the network in a
        ``TorchModel``: the clone then shares its weights. If the objective has a bias, the clone
        appends it to the vectors.
    clusterer : estimator with ``fit_predict``, default=None
        Estimator that finds clusters or mixture components among the LoCEs of one concept. A clone
        is fitted on each concept with at least two LoCEs. Rows labeled -1 are excluded as outliers.
        ``None`` computes one centroid per concept.
    threshold : float in [0, 1), default=0.5
        Pixels whose probability is above the threshold belong to the concept.

    Attributes
    ----------
    loce_ : LoCETransformer
        The fitted clone of ``loce``.
    concepts_ : ndarray of shape (n_concepts,)
        The concepts, sorted.
    centroids_ : ndarray of shape (n_vectors, n_features), float64
        Means of L2-normalized LoCEs.
    embeddings_ : ndarray of shape (n_vectors, n_features), float32
        The projected vectors: each centroid times the mean L2 norm of its LoCEs.
    embedding_concepts_ : ndarray of shape (n_vectors,)
        The concept of each vector. Vectors of one concept are adjacent.
    weights_ : ndarray of shape (n_vectors,), float32
        The share of its concept's LoCEs that each vector averages.
    labels_ : ndarray of shape (n_samples,), int64
        The vector that averages each training row, or -1 for excluded rows.

    See Also
    --------
    Net2VecSegmenter : One vector per concept, optimized over all images.
    sklearn_loce.LoCETransformer : The LoCEs.

    Notes
    -----
    A projection is ``sigmoid(upsample(sum_c v_c A_c))``. The length of ``v`` determines how steep
    the probabilities are. It hardly changes which pixels are above 0.5. A centroid has at most
    length 1, so it is scaled by the mean norm of its LoCEs. The projection of the scaled centroid
    is as steep as those of the LoCEs if these agree, and flatter otherwise. A concept with a single
    LoCE has this LoCE as its vector.

    If a concept has several vectors, their probabilities are averaged with ``weights_``, as in a
    mixture. The union of their masks would be too large, because a vector also covers other objects
    in images that it was not optimized on.

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
            Concept of each row. ``None`` uses the column ``concept``.
        embeddings : array-like of shape (n_samples, n_features), default=None
            LoCEs of these rows from ``loce``, with ``append_bias=True`` if its objective has a
            bias. Then only the probe image of ``loce.fit`` passes the network, and nothing is
            optimized. ``None`` computes the LoCEs. Rows with NaN are excluded.
        cluster_labels : array-like of shape (n_samples,), default=None
            Given clusters or mixture components. Every pair of concept and label has a centroid.
            Rows labeled -1 are excluded. ``clusterer`` must be None.

        Returns
        -------
        ConceptSegmenter
            The fitted segmenter itself.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If parameters are out of range, ``loce`` has several layers, concepts are missing, all
            LoCEs of a concept are excluded, the clusterer fails, or shapes do not match.
        RuntimeError, StoreError
            As in ``LoCETransformer.transform``.

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
        """Label the clusters inside each concept. Rows with code -1 are ignored."""
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
        """Compute one vector per pair of concept and cluster."""
        empty = np.setdiff1d(np.arange(len(self.concepts_)), codes[kept])
        if len(empty):
            raise ValueError(
                f"No LoCE is left of the concepts {self.concepts_[empty].tolist()}: all their rows "
                "are NaN, because their masks are empty, or have the label -1 of outliers. Drop "
                "these concepts, or pass other rows or labels."
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
    """Encode labels as numbers from 0, and keep -1."""
    labels = column_or_1d(cluster_labels)
    check_consistent_length(samples, labels)
    is_outlier = labels == -1
    _, codes = np.unique(labels, return_inverse=True)
    return np.where(is_outlier, -1, codes)


class Net2VecSegmenter(ConceptProjector):
    """Segment concepts in unseen images with one vector per concept, as in Net2Vec.

    The vector of a concept is optimized over all its training rows at once, with the objective of
    the LoCEs. AdamW minimizes "net2vec", "mse" and "mae" in minibatches. L-BFGS minimizes the mean
    of "logistic", "jaccard" or "dice", with a bias, on all images. The memory contains the cache
    and two images per thread, for any number of images.

    Parameters
    ----------
    loce : LoCETransformer
        Transformer that defines model, layer, preprocessing, mask size, start, device, and the
        objective with `alpha`, `tol` and `class_weight`. It must have one layer, and its
        `learning_rate` and `max_iter` must keep their defaults. ``fit`` clones it, so wrap the
        network in a ``TorchModel``: the clone then shares its weights.
    learning_rate : float, default=0.1
        Learning rate of AdamW. It must keep its default for L-BFGS.
    max_iter : int, default=None
        Number of epochs of AdamW, or maximum number of iterations of L-BFGS. An epoch is one pass
        over the training images, and an iteration needs one pass or more. ``None`` means 20
        and 500.
    batch_size : int, default=16
        Number of images with a concept per step of AdamW. A step uses the mean gradient of the
        concept's rows in these images. The last step of an epoch may have fewer images. L-BFGS does
        not use it.
    shuffle : bool, default=True
        Whether to shuffle the images in each epoch. L-BFGS does not use it.
    cache_size : float, default=200
        Size of the cache for activations and masks in megabytes. Images that do not fit are read
        and passed again in each epoch. The result is the same.
    threshold : float in [0, 1), default=0.5
        Pixels whose probability is above the threshold belong to the concept.
    random_state : int, RandomState instance or None, default=None
        Seed for the order of the images.

    Attributes
    ----------
    loce_ : LoCETransformer
        The fitted clone of ``loce``.
    concepts_ : ndarray of shape (n_concepts,)
        The concepts, sorted.
    embeddings_ : ndarray of shape (n_concepts, n_features), float32
        The vectors. If the objective has a bias, it is the last feature.
    n_iter_ : ndarray of shape (n_concepts,), int
        Number of epochs or iterations.
    loss_curve_ : ndarray of shape (n_iter, n_concepts), float64
        Mean loss of each concept's rows during each epoch, or at the start of each iteration.

    See Also
    --------
    ConceptSegmenter : Centroids of LoCEs, which need a single pass.

    Notes
    -----
    With L-BFGS, the vector and bias of a concept minimize ``1/n sum_i loss(z_i, t_i) + alpha / 2 *
    s * ||v||^2`` over its n rows. The losses are those of :func:`~sklearn_loce.optimize_loces`, and
    s is the mean of its s over the rows. For a single row, the result is its LoCE with the fitted
    bias.

    References
    ----------
    .. [1] R. Fong and A. Vedaldi, "Net2Vec: Quantifying and Explaining how Concepts are Encoded by
       Filters in Deep Neural Networks", CVPR, 2018.
    .. [2] G. Mikriukov, G. Schwalbe and K. Bade, "Local Concept Embeddings for Analysis of Concept
       Distributions in Vision DNN Feature Spaces", IJCV, 2025.

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
            Concept of each row. ``None`` uses the column ``concept``.

        Returns
        -------
        Net2VecSegmenter
            The fitted segmenter itself.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If parameters are out of range or not used, ``loce`` has several layers, concepts are
            missing, a mask is empty and ``loce`` has ``on_empty="raise"``, or all masks of a
            concept are empty.
        RuntimeError
            If another thread runs a network that cannot be copied.

        Warns
        -----
        ConvergenceWarning
            If L-BFGS stops before it reaches `tol`.

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
        """Optimize the vectors by AdamW."""
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
        """Optimize the vectors by L-BFGS."""
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
        """Raise an error if a parameter has no effect."""
        steps = self.loce.objective in ADAMW_OBJECTIVES
        for name, default in (("learning_rate", READ_BY["learning_rate"][0]), ("max_iter", None)):
            value = getattr(self.loce, name)
            if value != default and (steps or name == "max_iter"):
                raise ValueError(
                    f"{name}={value!r} of its loce is not used by Net2VecSegmenter; leave it out "
                    f"there, and set {name} of the segmenter."
                )
        for name, default in _OF_STEPS.items():
            value = getattr(self, name)
            if value != default and not steps:
                raise ValueError(
                    f"{name}={value!r} is not used with objective={self.loce.objective!r} of its "
                    "loce, for which L-BFGS takes all images at once; leave it out, or choose "
                    f"one of {sorted(ADAMW_OBJECTIVES)}."
                )

    def _orders(self, n_images, n_epochs):
        rng = check_random_state(self.random_state)
        for _ in range(n_epochs):
            yield rng.permutation(n_images) if self.shuffle else np.arange(n_images)
