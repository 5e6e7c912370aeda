"""Errors and their contents, for code that handles them."""

__all__ = ["FailedRowsError", "LayoutError", "StoreError"]


class LayoutError(ValueError):
    """The output of a layer is not a grid of activations (B, C, h, w), or no layer ran.

    See Also
    --------
    sklearn_loce.LoCETransformer : ``reshape_transform`` turns an output into a grid.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from sklearn_loce import ActivationExtractor
    >>> from sklearn_loce.exceptions import LayoutError
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> try:
    ...     ActivationExtractor(network, "2")(torch.zeros(1, 3, 16, 16))
    ... except LayoutError:
    ...     print("A pooled vector has no grid.")
    A pooled vector has no grid.
    """


class FailedRowsError(ValueError):
    """Some rows could not be embedded; the vectors of the others are kept.

    Parameters
    ----------
    message : str
        Text of the error.
    failures : DataFrame
        One line per failed row.
    embeddings : ndarray of shape (n_samples, n_features), default=None
        Vectors of all rows.

    Attributes
    ----------
    failures : DataFrame
        One line per failed row, with its index in X: ``position`` (from 0), ``cause`` (str), and
        ``annotation_id`` where X has that column.
    embeddings : ndarray of shape (n_samples, n_features), float32, or None
        The result of ``transform``, with NaN in the failed rows; ``None`` for methods that return
        another kind of result.

    See Also
    --------
    sklearn_loce.LoCETransformer : ``on_error`` decides between this error and NaN.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.exceptions import FailedRowsError
    >>> X = make_scenes(2, random_state=0).data
    >>> X.loc[X["image_id"] == 1, "image"] = "missing.png"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loce = LoCETransformer(TorchModel(load_scene_model), "features.2", memory=folder)
    ...     try:
    ...         loce.fit_transform(X)
    ...     except FailedRowsError as error:
    ...         print(len(error.failures), error.embeddings.shape)
    7 (14, 48)
    """

    def __init__(self, message, failures, embeddings=None):
        super().__init__(message)
        self.failures = failures
        self.embeddings = embeddings

    def __reduce__(self):
        return type(self), (str(self), self.failures, self.embeddings)


class StoreError(RuntimeError):
    """A file is not a store, has another format version, or is damaged.

    See Also
    --------
    sklearn_loce.RowStore : Raises this error.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn_loce import RowStore
    >>> from sklearn_loce.exceptions import StoreError
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     try:
    ...         RowStore(file.name)
    ...     except StoreError:
    ...         print("A file is not a folder.")
    A file is not a folder.
    """
