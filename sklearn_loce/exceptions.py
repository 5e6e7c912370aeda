"""Errors that have a meaning of their own."""

__all__ = ["FailedRowsError", "LayoutError", "StoreError"]


class LayoutError(ValueError):
    """A layer's output can't be read as a grid of activations (B, C, h, w), or no layer ran."""


class FailedRowsError(ValueError):
    """Some rows could not be embedded; the vectors of the others are kept.

    Parameters
    ----------
    message : str
    failures : DataFrame
        One line per failed row.
    embeddings : ndarray of shape (n_samples, n_features), default=None
        As below.

    Attributes
    ----------
    failures : DataFrame
        One line per failed row, with its index in X: ``position`` (from 0), ``cause`` (str), and
        ``annotation_id`` where X has that column.
    embeddings : ndarray of shape (n_samples, n_features), float32, or None
        What ``transform`` would have returned, with NaN in the failed rows; ``None`` for methods
        that return something else.
    """

    def __init__(self, message, failures, embeddings=None):
        super().__init__(message)
        self.failures = failures
        self.embeddings = embeddings

    def __reduce__(self):
        return type(self), (str(self), self.failures, self.embeddings)


class StoreError(RuntimeError):
    """A store can't be used: another program's file, another format version, or damage."""
