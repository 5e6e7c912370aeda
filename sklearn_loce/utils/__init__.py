"""Utilities for pipelines."""

__all__ = ["UnsupervisedUMAP"]


def __getattr__(name):
    # The import of umap takes seconds, so it is delayed until the first use.
    if name == "UnsupervisedUMAP":
        from ._umap import UnsupervisedUMAP

        return UnsupervisedUMAP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
