"""UMAP as a step of a Pipeline that is fitted with labels."""

import warnings

with warnings.catch_warnings():
    # umap-learn says at its import that it has no TensorFlow, which no test needs.
    warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
    import umap


class UnsupervisedUMAP(umap.UMAP):
    """UMAP that leaves the labels of a Pipeline to the other steps and to its scorers."""

    def fit(self, X, y=None, *args, **kwargs):
        return super().fit(X)
