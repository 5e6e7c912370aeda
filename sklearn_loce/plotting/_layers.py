"""Display of layers and models side by side."""

import re

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from ._legend import add_legend
from ._names import fit_names
from ._style import concept_styles, merge_style, open_axes, rim

_COLUMNS = ("model", "layer", "mean", "std")
# Share of the distance between two layers over which the models' points are spread.
_SPREAD = 0.3
# More layers, or longer names, are written slanted.
_MOST_CHARACTERS = 42


class LayerComparisonDisplay:
    """A metric per layer, with its standard deviation, of one model or several.

    It is recommended to use :meth:`from_search` or :meth:`from_table`. All parameters are stored as
    attributes.

    Parameters
    ----------
    scores : DataFrame
        One row per model and layer, with the columns `model`, `layer`, `mean` and `std`. Layers
        are drawn in the order in which they come; a `std` of NaN draws no bar.
    metric : str, default="score"
        What was measured.

    Attributes
    ----------
    errorbar_ : list of matplotlib ErrorbarContainer
        The points of each model, in the order in which models come.
    ax_ : matplotlib Axes
        Axes with the points.
    figure_ : matplotlib Figure
        Figure that holds them.

    See Also
    --------
    sklearn_loce.metrics.compare_layers : Repeated draws of embeddings of several layers.

    Notes
    -----
    Layers of the same name share a place on the axis; models with other layers lie side by side.

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

    def __init__(self, scores, *, metric="score"):
        self.scores = scores
        self.metric = metric

    def plot(self, *, ax=None, errorbar_kw=None, legend=True):
        """Plot the points of every model.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into; None opens a figure.
        errorbar_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.errorbar`.
        legend : bool, default=True
            Whether to name the models, where there are several.

        Returns
        -------
        self : LayerComparisonDisplay
            The display, with `ax_`, `figure_` and `errorbar_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `scores` lacks a column, is empty, or has a model's layer twice.
        """
        scores = self._check()
        layers = list(dict.fromkeys(scores["layer"]))
        models = dict.fromkeys(scores["model"])
        with open_axes(self, ax, height=2.3) as ax:
            styles = concept_styles(models)
            offsets = np.linspace(-_SPREAD, _SPREAD, len(models)) / 2 if len(models) > 1 else [0.0]
            self.errorbar_ = [
                self._draw(rows, layers, offset, styles[model], errorbar_kw)
                for (model, rows), offset in zip(
                    scores.groupby("model", sort=False), offsets, strict=True
                )
            ]
            self._name_layers(layers)
            if legend and len(models) > 1:
                add_legend(ax, self.errorbar_)
        return self

    def _check(self):
        absent = [name for name in _COLUMNS if name not in self.scores]
        if absent or not len(self.scores):
            raise ValueError(
                f"scores has {len(self.scores)} rows and the columns {list(self.scores)}; it needs "
                f"a row or more, with {', '.join(_COLUMNS)}."
            )
        repeated = self.scores[self.scores.duplicated(["model", "layer"])]
        if len(repeated):
            model, layer = repeated.iloc[0][["model", "layer"]]
            raise ValueError(
                f"scores has layer {layer!r} of model {model!r} more than once; keep one metric, "
                "and one row per model and layer."
            )
        return self.scores

    def _draw(self, rows, layers, offset, style, errorbar_kw):
        from matplotlib.lines import Line2D

        colour, marker = style
        look = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.0}
        bars = {"capsize": 2, "elinewidth": 0.9, "label": str(rows["model"].iloc[0])}
        style = merge_style(Line2D, look | bars, errorbar_kw)
        style.setdefault("path_effects", rim(self.ax_, style["color"], style["linewidth"]))
        places = np.array([layers.index(layer) for layer in rows["layer"]]) + offset
        return self.ax_.errorbar(places, rows["mean"], yerr=rows["std"].to_numpy(), **style)

    def _name_layers(self, layers):
        names = fit_names(self.ax_, layers)
        slanted = sum(map(len, names)) > _MOST_CHARACTERS
        turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        self.ax_.set_xticks(range(len(names)), names, **turn)
        self.ax_.set(xlabel="layer", ylabel=self.metric, xlim=(-0.5, len(names) - 0.5))
        self.ax_.grid(axis="y", linewidth=0.4, alpha=0.5)
        self.ax_.set_axisbelow(True)

    @classmethod
    def from_search(cls, search, *, layer=None, metric=None, **kwargs):
        """Plot the layers that a search tried.

        Where a layer was tried with several other settings, the one with the best mean counts.

        Parameters
        ----------
        search : search, or dict of str to search
            Fitted :class:`~sklearn.model_selection.GridSearchCV` or the like, or one per model by
            its name.
        layer : str, default=None
            Parameter that holds the layer, as "locetransformer__layer"; None means the only one
            that is called "layer", or ends in "__layer".
        metric : str, default=None
            Name of the scorer; needed where the search had several.
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
            If a search has no such parameter or metric, or several.

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
        tables = [_read_search(one, name, layer, metric) for name, one in searches.items()]
        scores = pd.concat(tables, ignore_index=True)
        return cls(scores, metric=_in_words(metric or "score")).plot(**kwargs)

    @classmethod
    def from_table(cls, table, metric, **kwargs):
        """Plot a table such as :func:`~sklearn_loce.metrics.compare_layers` gives.

        Parameters
        ----------
        table : DataFrame, or dict of str to DataFrame
            One row per layer and metric, with the columns `layer`, `metric`, `mean` and `std`, and
            `model` where there are several; or one such table per model by its name.
        metric : str
            Which metric to plot.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        LayerComparisonDisplay

        Raises
        ------
        ValueError
            If the table has no such column or metric.

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
        """
        tables = table if isinstance(table, dict) else {"": table}
        parts = [_read_table(one, name, metric) for name, one in tables.items()]
        return cls(pd.concat(parts, ignore_index=True), metric=_in_words(metric)).plot(**kwargs)


def _in_words(metric):
    """Write a metric's name as a paper does."""
    words = metric.replace("r_precision", "R-precision").replace("heldout", "held-out")
    words = words.replace("_", " ")
    return re.sub(r"\biou\b", "IoU", words)


def _read_table(table, model, metric):
    """Take one metric's rows of one model's table."""
    if absent := [name for name in ("layer", "metric", "mean", "std") if name not in table]:
        raise ValueError(
            f"The table has no column {absent[0]!r} but {list(table)}; pass what compare_layers "
            "returns, or a table with layer, metric, mean and std."
        )
    rows = table[table["metric"] == metric]
    if not len(rows):
        known = ", ".join(map(repr, dict.fromkeys(table["metric"])))
        raise ValueError(f"The table has no metric {metric!r}; it has {known}.")
    rows = rows if "model" in rows else rows.assign(model=model)
    return rows[list(_COLUMNS)]


def _read_search(search, model, layer, metric):
    """Take the best setting of each layer that one search tried."""
    check_is_fitted(search, "cv_results_")
    results = search.cv_results_
    parameter = f"param_{layer}" if layer else _find_layer(results)
    mean = f"mean_test_{metric or 'score'}"
    for name in (parameter, mean):
        if name not in results:
            known = ", ".join(key for key in results if key.startswith(name.split("_")[0] + "_"))
            raise ValueError(f"The search has no {name!r}; it has {known}.")
    rows = pd.DataFrame(
        {
            "model": model,
            "layer": [_name_layer(value) for value in results[parameter]],
            "mean": results[mean],
            "std": results[mean.replace("mean", "std", 1)],
        }
    )
    best = rows.sort_values("mean", ascending=False).drop_duplicates("layer")
    return rows.loc[rows.index.isin(best.index)]


def _find_layer(results):
    """Find the parameter that holds the layer."""
    found = [name for name in results if name == "param_layer" or name.endswith("__layer")]
    if len(found) != 1:
        known = ", ".join(name[6:] for name in results if name.startswith("param_"))
        raise ValueError(
            f"{len(found)} parameters of the search are called layer; name the one to plot as in "
            f'layer="locetransformer__layer", among {known}.'
        )
    return found[0]


def _name_layer(layer):
    """Name a layer, or several that are concatenated."""
    return ", ".join(map(str, layer)) if isinstance(layer, list | tuple) else str(layer)
