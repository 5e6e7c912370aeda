"""Display that compares layers and models."""

import re
from contextlib import contextmanager
from textwrap import fill

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from ._legend import add_legend
from ._names import fit_names, literal
from ._style import FONT_SIZE, GRAY, concept_styles, lighten, merge_style, open_axes

_STD = "one standard deviation"
_COLUMNS = ("model", "layer", "mean", "std")
_DIFFERENCES = ("difference", "difference_low", "difference_high")
_HEIGHT, _PANEL_HEIGHT = 2.3, 1.5  # inches of a figure with one metric, and of each further one
_SLANT = 0.5  # inches of slanted names of layers
_LETTER = 0.62  # width of a letter of a label over the font size, with a margin
# Share of the distance between two layers over which the points of models are spread.
_SPREAD = 0.3
# With more letters in total, the names of layers are slanted.
_MOST_CHARACTERS = 42


class LayerComparisonDisplay:
    """Metrics of the layers of one or several models, with their spread, in one panel per metric.

    It is recommended to use :meth:`from_search` or :meth:`from_table`. All parameters are stored as
    attributes.

    Parameters
    ----------
    scores : DataFrame
        One row per model and layer, with the columns `model`, `layer`, `mean` and `std`. Layers
        are drawn in the order of the table. A `std` of NaN draws no bar. Several metrics need one
        row each, and the column `metric`. Differences need the columns `difference`,
        `difference_low` and `difference_high`.
    metric : str or list of str, default="score"
        Name of the metric. Several names select rows by the column `metric`.
    bars : str, default="one standard deviation"
        Meaning of the bars.

    Attributes
    ----------
    errorbar_ : list of matplotlib ErrorbarContainer
        Points of each model, in the order of the table, panel by panel.
    ax_ : matplotlib Axes or None
        Axes with the points, or the divided Axes. None if an array of Axes was given.
    axes_ : ndarray of shape (n_metrics,) of Axes
        One per metric, from top to bottom.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    sklearn_loce.metrics.compare_layers : Compute metrics of layers on repeated draws of rows.
    PrecisionAtKDisplay : Precision over k, also of several layers or models.

    Notes
    -----
    Layers with the same name share a place on the axis. A model has the same color in all displays
    of a figure.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import pandas as pd
    >>> from sklearn_loce.plotting import LayerComparisonDisplay
    >>> scores = pd.DataFrame(
    ...     {
    ...         "model": ["VGG16", "VGG16"],
    ...         "layer": ["features.14", "features.28"],
    ...         "mean": [0.7, 0.8],
    ...         "std": [0.02, 0.03],
    ...     }
    ... )
    >>> display = LayerComparisonDisplay(scores, metric="precision at 10").plot()
    >>> display.ax_.get_ylabel()
    'precision at 10'
    >>> plt.close(display.figure_)
    """

    def __init__(self, scores, *, metric="score", bars=_STD):
        self.scores = scores
        self.metric = metric
        self.bars = bars

    def plot(self, *, kind="mean", ax=None, palette=None, errorbar_kw=None, legend=True):
        """Plot the points of each model.

        Parameters
        ----------
        kind : {"mean", "difference"}, default="mean"
            Values to draw. "difference" draws paired differences from the reference layer with
            their 95 % intervals, as in :func:`~sklearn_loce.metrics.compare_layers`. If an interval
            contains 0, the layers may differ by chance.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to plot into. With several metrics, a single Axes is divided, and an array needs
            one Axes per metric. None opens a figure.
        palette : dict or sequence, default=None
            Colors of models. A dict maps a model, or a tuple of models, to a color. Other models
            get unused colors. A sequence lists all models of a study: each model then has the same
            color and marker in every figure.
        errorbar_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.errorbar`.
        legend : bool, default=True
            Whether to add a legend below the last panel if there are several models.

        Returns
        -------
        LayerComparisonDisplay
            The display, with `ax_`, `axes_`, `figure_` and `errorbar_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `scores` lacks a column, is empty, or contains a layer of a model twice, `kind` is
            unknown, the number of Axes is wrong, or the palette has none of the models.

        See Also
        --------
        LayerComparisonDisplay.from_search : Plot the layers that a search tried.
        LayerComparisonDisplay.from_table : Plot a table of layers.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import pandas as pd
        >>> from sklearn_loce.plotting import LayerComparisonDisplay
        >>> models = {"model": ["VGG16", "DETR"], "layer": "last", "mean": [0.7, 0.8], "std": 0.1}
        >>> display = LayerComparisonDisplay(pd.DataFrame(models))
        >>> display = display.plot(palette={"DETR": "black"})
        >>> [bar[0].get_color() for bar in display.errorbar_]
        ['#0072B2', '#000000']
        >>> plt.close("all")
        """
        scores = self._check(kind)
        layers = list(dict.fromkeys(scores["layer"]))
        names = self._metrics()
        self.errorbar_ = []
        slanted = sum(len(str(layer)) for layer in layers) > _MOST_CHARACTERS
        with _open_panels(self, ax, len(names), _HEIGHT + _SLANT * slanted) as axes:
            styles = concept_styles([*_find_models(self.figure_), *scores["model"]], palette)
            for panel, name in zip(axes, names, strict=True):
                rows = scores if len(names) == 1 else scores[scores["metric"] == name]
                self.errorbar_ += self._draw_panel(panel, rows, layers, kind, styles, errorbar_kw)
                _name_layers(panel, layers)
            self._name_axis(axes, scores, kind)
            models = _list_models(axes)
            if legend and len(models) > 1:
                add_legend(axes[-1], models)
            self._write_labels(axes, scores, names, kind)
        return self

    def _metrics(self):
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    def _check(self, kind):
        needed = {"mean": _COLUMNS, "difference": (*_COLUMNS, *_DIFFERENCES)}
        if kind not in needed:
            raise ValueError(f"kind={kind!r} is not 'mean' or 'difference'.")
        several = ["metric"] if len(self._metrics()) > 1 else []
        needed = [*needed[kind], *several]
        if not set(needed) <= set(self.scores) or not len(self.scores):
            raise ValueError(
                f"scores has {len(self.scores)} rows and the columns {list(self.scores)}; it needs "
                f"at least one row, and the columns {', '.join(needed)}."
            )
        repeated = self.scores[self.scores.duplicated(["model", "layer", *several])]
        if len(repeated):
            model, layer = repeated.iloc[0][["model", "layer"]]
            raise ValueError(
                f"scores has layer {layer!r} of model {model!r} more than once; keep one row per "
                "model and layer of one metric."
            )
        return self.scores

    def _draw_panel(self, ax, scores, layers, kind, styles, errorbar_kw):
        """Draw the points of all models, side by side."""
        groups = scores.groupby("model", sort=False)
        offsets = np.linspace(-_SPREAD, _SPREAD, len(groups)) / 2 if len(groups) > 1 else [0.0]
        if kind == "difference":
            ax.axhline(0, color=GRAY, linewidth=0.8, linestyle=":")
        return [
            _draw_model(ax, rows, layers, offset, kind, styles[model], errorbar_kw)
            for (model, rows), offset in zip(groups, offsets, strict=True)
        ]

    def _write_labels(self, axes, scores, names, kind):
        """Label the vertical axis of each panel, in lines that fit its height."""
        figure = self.figure_.canvas.figure
        figure.draw_without_rendering()
        for ax, name in zip(axes, names, strict=True):
            label = _in_words(name)
            if kind == "difference":
                rows = scores if len(names) == 1 else scores[scores["metric"] == name]
                label = f"{label}, minus that of {_find_reference(rows)}"
            points = ax.get_window_extent().height * 72 / figure.dpi
            n_letters = max(12, int(points / (_LETTER * FONT_SIZE)))
            lines = [fill(line, n_letters) for line in label.split("\n")]
            ax.set_ylabel(literal("\n".join(lines)))
        if len(axes) > 1:
            figure.align_ylabels(axes)

    def _name_axis(self, axes, scores, kind):
        """Label the horizontal axis of the last panel, and explain the bars."""
        for ax in axes[:-1]:
            ax.tick_params(labelbottom=False)
        if kind == "difference":
            bars = "intervals of 95 %"
        else:
            bars = self.bars if np.isfinite(scores["std"].astype(float)).any() else ""
        axes[-1].set_xlabel(f"layer\nbars: {bars}" if bars else "layer")

    @classmethod
    def from_search(cls, search, *, layer=None, metric=None, **kwargs):
        """Plot the layers that a search tried.

        If a layer was tried with several settings, the setting with the best mean is plotted.

        Parameters
        ----------
        search : search, or dict of str to search
            Fitted :class:`~sklearn.model_selection.GridSearchCV` or a similar search, or one search
            per model, by name.
        layer : str, default=None
            Parameter of the layer, such as "locetransformer__layer". None uses the only parameter
            with the name "layer" or the ending "__layer".
        metric : str or list of str, default=None
            Name of one or several scorers. Required if the search has several.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        LayerComparisonDisplay

        Raises
        ------
        NotFittedError
            If a search is not fitted.
        ValueError
            If a search lacks the parameter or the metric, or several parameters are possible.

        See Also
        --------
        LayerComparisonDisplay.from_table : Plot a table of layers.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.model_selection import GridSearchCV
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.plotting import LayerComparisonDisplay
        >>> scenes = make_scenes(4, random_state=0)
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.0")
        >>> search = GridSearchCV(loce, {"layer": ["features.0", "features.2"]}, cv=2)
        >>> search = search.fit(scenes.data)
        >>> display = LayerComparisonDisplay.from_search(search)
        >>> display.scores["layer"].tolist()
        ['features.0', 'features.2']
        >>> plt.close(display.figure_)
        """
        searches = search if isinstance(search, dict) else {"": search}
        metric = "score" if metric is None else metric
        tables = [
            _read_search(one, name, layer, own)
            for own in np.atleast_1d(metric).tolist()
            for name, one in searches.items()
        ]
        scores = pd.concat(tables, ignore_index=True)
        return cls(scores, metric=metric, bars=f"{_STD} over folds").plot(**kwargs)

    @classmethod
    def from_table(cls, table, metric, **kwargs):
        """Plot a table of metrics, such as that of :func:`~sklearn_loce.metrics.compare_layers`.

        Parameters
        ----------
        table : DataFrame, or dict of str to DataFrame
            One row per layer and metric, with the columns `layer`, `metric`, `mean` and `std`, and
            `model` if there are several; or one such table per model, by name.
        metric : str or list of str
            Metric to plot, or several metrics, each in a panel.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        LayerComparisonDisplay

        Raises
        ------
        ValueError
            If the table lacks a column or the metric.

        See Also
        --------
        LayerComparisonDisplay.from_search : Plot the layers that a search tried.
        sklearn_loce.metrics.compare_layers : Compute such a table.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.metrics import compare_layers
        >>> from sklearn_loce.plotting import LayerComparisonDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> layers = {"sepals": X[:, :2], "petals": X[:, 2:]}
        >>> table = compare_layers(layers, y, n_repeats=5, random_state=0)
        >>> display = LayerComparisonDisplay.from_table(table, "precision_at_10")
        >>> display.scores["mean"].round(2).tolist()
        [0.65, 0.71]
        >>> plt.close(display.figure_)

        Purity and the number of clusters, and differences with their intervals:

        >>> display = LayerComparisonDisplay.from_table(table, ["purity", "n_clusters"])
        >>> plt.close(display.figure_)
        >>> display = LayerComparisonDisplay.from_table(
        ...     table, "precision_at_10", kind="difference"
        ... )
        >>> " ".join(display.ax_.get_ylabel().split())
        'precision at 10, minus that of petals'
        >>> plt.close(display.figure_)
        """
        tables = table if isinstance(table, dict) else {"": table}
        parts = [
            _read_table(one, name, own)
            for own in np.atleast_1d(metric).tolist()
            for name, one in tables.items()
        ]
        draws = all("n_repeats" in one for one in tables.values())
        bars = f"{_STD} over draws" if draws else _STD
        return cls(pd.concat(parts, ignore_index=True), metric=metric, bars=bars).plot(**kwargs)


@contextmanager
def _open_panels(display, ax, n_panels, height):
    """Set `ax_`, `axes_` and `figure_` of a display, with one Axes per metric."""
    if np.ndim(ax) > 0:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) != n_panels:
            raise ValueError(
                f"ax contains {len(axes)} Axes, but {n_panels} are needed, one per metric."
            )
        display.ax_, display.axes_, display.figure_ = None, axes, axes[0].figure
        yield axes
        return
    with open_axes(display, ax, height=height + _PANEL_HEIGHT * (n_panels - 1)) as bounds:
        axes = [bounds]
        if n_panels > 1:
            bounds.set_axis_off()
            grid = bounds.get_subplotspec().subgridspec(n_panels, 1)
            axes = [display.figure_.add_subplot(cell) for cell in grid]
        display.axes_ = np.array(axes, dtype=object)
        yield display.axes_


def _find_models(figure):
    """List the models that a figure already shows, so that they keep their colors."""
    return [str(handle.get_label()) for handle in _list_models(figure.axes)]


def _list_models(axes):
    """List one artist of each model in some Axes."""
    from matplotlib.container import ErrorbarContainer

    drawn = [bar for ax in axes for bar in ax.containers if isinstance(bar, ErrorbarContainer)]
    return list({bar.get_label(): bar for bar in drawn}.values())


def _draw_model(ax, rows, layers, offset, kind, style, errorbar_kw):
    """Draw the points of one model."""
    from matplotlib.lines import Line2D

    color, marker = style
    look = {"color": lighten(ax, color), "marker": marker, "markersize": 4, "linewidth": 1.0}
    bars = {"capsize": 2, "elinewidth": 0.9, "label": str(rows["model"].iloc[0])}
    style = merge_style(Line2D, look | bars, errorbar_kw)
    places = np.array([layers.index(layer) for layer in rows["layer"]]) + offset
    ends = rows["std"].to_numpy()
    if kind == "difference":
        low, high = rows["difference_low"], rows["difference_high"]
        ends = np.array([rows["difference"] - low, high - rows["difference"]])
    return ax.errorbar(places, rows[kind], yerr=ends, **style)


def _find_reference(scores):
    """Return the name of the reference layer if all models share it."""
    found = [
        rows.loc[rows["difference"] == 0, "layer"].tolist() for _, rows in scores.groupby("model")
    ]
    return str(found[0][0]) if all(own == found[0][:1] for own in found) else "the reference"


def _name_layers(ax, layers):
    names = fit_names(ax, layers)
    slanted = sum(map(len, names)) > _MOST_CHARACTERS
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    ax.set_xticks(range(len(names)), names, **turn)
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.grid(axis="y", linewidth=0.4, alpha=0.5)
    ax.set_axisbelow(True)


_WORDS = {
    "iou": "mean IoU",
    "failed_share": "share of failed rows",
    "n_clusters": "number of clusters",
}


def _in_words(metric):
    """Write the name of a metric as in a paper."""
    words = _WORDS.get(metric, metric)
    words = words.replace("r_precision", "R-precision").replace("heldout", "held-out")
    words = words.replace("_", " ")
    return re.sub(r"\biou\b", "IoU", words)


def _read_table(table, model, metric):
    """Select the rows of one metric from the table of one model."""
    if absent := [name for name in ("layer", "metric", "mean", "std") if name not in table]:
        raise ValueError(
            f"The table has no column {absent[0]!r} but {list(table)}; pass the table of "
            "compare_layers, or one with the columns layer, metric, mean and std."
        )
    rows = table[table["metric"] == metric]
    if not len(rows):
        known = ", ".join(map(repr, dict.fromkeys(table["metric"])))
        raise ValueError(f"The table has no metric {metric!r}; it has {known}.")
    rows = rows if "model" in rows else rows.assign(model=model)
    return rows[[name for name in ("metric", *_COLUMNS, *_DIFFERENCES) if name in rows]]


def _read_search(search, model, layer, metric):
    """Select the best setting of each layer of one search."""
    check_is_fitted(search, "cv_results_")
    results = search.cv_results_
    parameter = f"param_{layer}" if layer else _find_layer(results)
    mean = f"mean_test_{metric}"
    for name in (parameter, mean):
        if name not in results:
            known = ", ".join(key for key in results if key.startswith(name.split("_")[0] + "_"))
            raise ValueError(f"The search has no {name!r}; it has {known}.")
    rows = pd.DataFrame(
        {
            "metric": metric,
            "model": model,
            "layer": [_name_layer(value) for value in results[parameter]],
            "mean": results[mean],
            "std": results[mean.replace("mean", "std", 1)],
        }
    )
    best = rows.sort_values("mean", ascending=False).drop_duplicates("layer")
    return rows.loc[rows.index.isin(best.index)]


def _find_layer(results):
    """Find the parameter of the layer."""
    found = [name for name in results if name == "param_layer" or name.endswith("__layer")]
    if len(found) != 1:
        known = ", ".join(name[6:] for name in results if name.startswith("param_"))
        raise ValueError(
            f"{len(found)} parameters of the search have the name layer; pass one, as in "
            f'layer="locetransformer__layer". The search has {known}.'
        )
    return found[0]


def _name_layer(layer):
    """Return the name of a layer, or of several concatenated layers."""
    return ", ".join(map(str, layer)) if isinstance(layer, list | tuple) else str(layer)
