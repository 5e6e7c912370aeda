"""Tools beside the estimators."""

__all__ = ["UnsupervisedUMAP"]


def __getattr__(name):
    # umap is imported when it is asked for: it takes seconds.
    if name == "UnsupervisedUMAP":
        from ._umap import UnsupervisedUMAP

        return UnsupervisedUMAP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
