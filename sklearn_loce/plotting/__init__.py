"""Displays of LoCEs, which follow the convention of scikit-learn's displays.

A display stores numbers, and its method ``plot`` draws them. ``plot`` draws into ``ax`` if you pass
one, and otherwise opens a figure that fits a paper column of 3.3 inches. Text in such a figure
stays text in PDF and SVG files. In your own figures, set Matplotlib's ``svg.fonttype`` to "none".
The displays need Matplotlib: ``pip install sklearn-loce[examples]``.

If all arguments with one value per row have a pandas index with the same labels, rows are matched
by label, in the order of the first argument. Otherwise rows are matched by position.
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
