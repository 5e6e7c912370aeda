"""UMAP as a step of a Pipeline with labels."""

import warnings

with warnings.catch_warnings():
    # The import of umap-learn warns that TensorFlow is missing, which is not needed here.
    warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
    import umap


class UnsupervisedUMAP(umap.UMAP):
    """UMAP that ignores the labels of a Pipeline.

    A Pipeline passes its ``y`` to every step. ``umap.UMAP`` uses numbers in ``y`` for supervision,
    so the map shows the given labels, and raises an error for strings. This class ignores ``y``.
    All parameters, attributes and methods are those of ``umap.UMAP``.

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
        """Fit the map to X only.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : object
            Ignored.
        *args, **kwargs : tuple, dict
            Further arguments of ``umap.UMAP.fit``.

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
