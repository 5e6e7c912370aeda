"""Displays of LoCEs: scikit-learn's convention, for numbers that this package computes.

A display stores numbers, and draws them with ``plot``: into ``ax`` where one is given, else into a
figure of its own that fits a paper column of 3.3 inches. Such a figure keeps text as text in PDF
and SVG; for one of your own, set matplotlib's ``svg.fonttype`` to "none". Names are imported when
they are first used, and matplotlib when something is drawn: ``pip install sklearn-loce[examples]``.

Where all that is given row by row has an index of pandas, with the same labels in another order,
rows are matched by it, in the order of the first argument. Otherwise positions count.
"""

from importlib import import_module

_HOMES = {
    "CentroidDistanceDisplay": "_pairs",
    "ChannelDisplay": "_channels",
    "ClusterGalleryDisplay": "_gallery",
    "ConceptMapDisplay": "_map",
    "DendrogramDisplay": "_dendrogram",
    "LabelIssuesDisplay": "_label_issues",
    "LayerComparisonDisplay": "_layers",
    "OutlierDisplay": "_outliers",
    "OverlapDisplay": "_pairs",
    "PrecisionAtKDisplay": "_precision",
    "ProjectionDisplay": "_projection",
    "RetrievalDisplay": "_retrieval",
    "SegmentationDisplay": "_segmentation",
    "SeparationDisplay": "_pairs",
    "to_html": "_html",
}

__all__ = [*_HOMES]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
