"""UMAP as a step of a Pipeline that is fitted with labels."""

import warnings

with warnings.catch_warnings():
    # umap-learn says at its import that it has no TensorFlow, which this needs not.
    warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
    import umap


class UnsupervisedUMAP(umap.UMAP):
    """UMAP that leaves the labels of a Pipeline to the other steps and to its scorers.

    A Pipeline hands its ``y`` to every step. ``umap.UMAP`` takes numbers for supervision, so that
    the map shows what it was told, and refuses strings. This one ignores them; all parameters,
    attributes and methods are those of ``umap.UMAP``.

    See Also
    --------
    umap.UMAP : The parameters and attributes.

    References
    ----------
    .. [1] L. McInnes, J. Healy and J. Melville, "UMAP: Uniform Manifold Approximation and
       Projection for Dimension Reduction", arXiv 1802.03426, 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.utils import UnsupervisedUMAP
    >>> X = np.random.default_rng(0).normal(size=(30, 5))
    >>> umap = UnsupervisedUMAP(n_neighbors=5, init="random", random_state=0, n_jobs=1)
    >>> umap.fit_transform(X, ["car"] * 30).shape
    (30, 2)
    """

    def fit(self, X, y=None, *args, **kwargs):
        """Fit the map to X alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : object
            Ignored.
        *args, **kwargs : tuple, dict
            As for ``umap.UMAP.fit``.

        Returns
        -------
        UnsupervisedUMAP
            The fitted map itself.

        See Also
        --------
        umap.UMAP.fit : Supervised by ``y``.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_loce.utils import UnsupervisedUMAP
        >>> X = np.random.default_rng(0).normal(size=(30, 5))
        >>> umap = UnsupervisedUMAP(n_neighbors=5, init="random", random_state=0, n_jobs=1)
        >>> umap.fit(X, ["car"] * 30).embedding_.shape
        (30, 2)
        """
        return super().fit(X, None, *args, **kwargs)
