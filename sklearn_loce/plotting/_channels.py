"""Display of the channels that make up a concept or a cluster."""

import numpy as np
from sklearn.preprocessing import normalize
from sklearn.utils import check_array, check_consistent_length

from ._names import fit_names
from ._rows import embed, finite_rows, last_step
from ._style import COLORS, GRAY, merge_style, open_axes

_POSITIVE, _NEGATIVE = COLORS[0], COLORS[1]
# Inches: the distribution of all weights, the gap below it, and one channel.
_DISTRIBUTION, _BETWEEN, _CHANNEL = 0.62, 0.4, 0.155
_N_BINS = 60


class ChannelDisplay:
    """Distribution of the weights of a concept or cluster, and its channels of largest weight.

    The upper axes show the distribution of all weights. The lower axes show a box for each of the
    channels whose median weight is largest in absolute value. A box shows the median and the
    quartiles, and its whiskers reach from the 5 % to the 95 % quantile of the rows. A gray mark
    shows the median of all other rows. If it lies in the box, the channel is not specific to the
    concept.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    weights : array-like of shape (n_rows, n_features)
        Weights of the concept's or the cluster's rows.
    reference : array-like of shape (n_features,), default=None
        Median weights of all other rows.
    feature_names : array-like of shape (n_features,), default=None
        Names of the features. None uses their numbers.
    name : str, default=None
        Name of the concept or cluster.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.

    Attributes
    ----------
    channels_ : ndarray of shape (n_channels,), dtype int
        Features shown, sorted by the absolute value of their median, the largest first.
    boxes_ : dict of str to list of artists
        Boxes as returned by :meth:`matplotlib.axes.Axes.bxp`.
    reference_ : matplotlib PathCollection or None
        Marks of the other rows.
    histogram_ : matplotlib StepPatch
        Distribution: share of the weights in each bin.
    ax_ : matplotlib Axes
        Axes with the boxes.
    distribution_ax_ : matplotlib Axes
        Axes with the distribution.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    sklearn_loce.LoCETransformer : Its parameter `standardize` makes channels comparable.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) show such distributions of weights.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import ChannelDisplay
    >>> iris = load_iris(as_frame=True)
    >>> names = iris.target_names[iris.target]
    >>> display = ChannelDisplay.from_embeddings(iris.data, names, group="setosa", n_channels=2)
    >>> [display.feature_names[channel] for channel in display.channels_]
    ['sepal length (cm)', 'sepal width (cm)']
    >>> plt.close(display.figure_)
    """

    def __init__(self, weights, *, reference=None, feature_names=None, name=None, n_failed=0):
        self.weights = weights
        self.reference = reference
        self.feature_names = feature_names
        self.name = name
        self.n_failed = n_failed

    def plot(self, *, n_channels=10, ax=None, box_kw=None, reference_kw=None, histogram_kw=None):
        """Plot the distribution and the top channels.

        Parameters
        ----------
        n_channels : int, default=10
            Largest number of channels to show.
        ax : matplotlib Axes, default=None
            Axes to plot into. Their upper part becomes separate axes. None opens a figure.
        box_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.bxp`.
        reference_kw : dict, default=None
            Keywords of the marks, as of :meth:`matplotlib.axes.Axes.scatter`.
        histogram_kw : dict, default=None
            Keywords of the distribution, as of :meth:`matplotlib.axes.Axes.stairs`.

        Returns
        -------
        ChannelDisplay
            The display, with all its attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, or `n_channels` is below 1.

        See Also
        --------
        ChannelDisplay.from_estimator : Compute and plot.
        ChannelDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import ChannelDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = ChannelDisplay.from_embeddings(X, y, group=0)
        >>> display.plot(n_channels=2).channels_.tolist()
        [0, 1]
        >>> plt.close("all")
        """
        weights, names = self._check(n_channels)
        medians = np.median(weights, axis=0)
        self.channels_ = np.argsort(-np.abs(medians), kind="stable")[:n_channels]
        height = _DISTRIBUTION + _BETWEEN + _CHANNEL * len(self.channels_) + 0.4
        with open_axes(self, ax, height=height) as ax:
            self._split(ax, height)
            self.histogram_ = self._draw_distribution(weights, histogram_kw)
            self.boxes_ = self._draw_boxes(weights, names, box_kw)
            self.reference_ = self._draw_reference(reference_kw)
            others = "" if self.reference is None else ",\ngray mark: median of all other rows"
            # Aligned at the right, because long names make the axes narrower than this label.
            ax.set_xlabel(f"weight of a row (box: quartiles, line: 5 to 95 %{others})", loc="right")
            ax.set_ylim(len(self.channels_) - 0.4, -0.6)
            ax.axvline(0, color=GRAY, linewidth=0.6, zorder=0)
        return self

    def _check(self, n_channels):
        weights = check_array(self.weights, dtype=np.float64, input_name="weights")
        names = self.feature_names
        names = range(weights.shape[1]) if names is None else names
        check_consistent_length(weights.T, names, self.reference)
        if n_channels < 1:
            raise ValueError(f"n_channels={n_channels} must be 1 or more.")
        return weights, np.array([str(name) for name in names])

    def _split(self, ax, height):
        """Split the axes and use the upper part for the distribution."""
        grid = ax.get_subplotspec()
        if grid is None:
            raise ValueError("ax is not part of a grid; create it with plt.subplots.")
        share = (_DISTRIBUTION + 0.1) / height
        parts = grid.subgridspec(2, 1, height_ratios=[share, 1 - share])
        ax.set_subplotspec(parts[1])
        self.distribution_ax_ = self.figure_.add_subplot(parts[0], sharex=ax)
        self.distribution_ax_.tick_params(labelbottom=False)

    def _draw_distribution(self, weights, histogram_kw):
        from matplotlib.patches import StepPatch

        ax = self.distribution_ax_
        counts, edges = np.histogram(weights, bins=_N_BINS)
        style = merge_style(StepPatch, {"fill": True, "color": "#b0b0b0"}, histogram_kw)
        steps = ax.stairs(counts / weights.size, edges, **style)
        n_rows, n_features = weights.shape
        rows = f"{n_rows} {'row' if n_rows == 1 else 'rows'}"
        title = "" if self.name is None else f"{fit_names(ax, [self.name])[0]}: "
        ax.set_title(f"{title}{rows}, {n_features} channels", loc="right")
        ax.set(yticks=[], xlim=(edges[0], edges[-1]))
        ax.set_ylabel("weights")
        ax.axvline(0, color=GRAY, linewidth=0.6, zorder=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        return steps

    def _draw_boxes(self, weights, names, box_kw):
        quantiles = np.quantile(weights[:, self.channels_], (0.05, 0.25, 0.5, 0.75, 0.95), axis=0)
        keys = ("whislo", "q1", "med", "q3", "whishi")
        stats = [dict(zip(keys, column, strict=True)) for column in quantiles.T]
        line = {"linewidth": 0.7}
        look = {"showfliers": False, "patch_artist": True, "widths": 0.62, "showcaps": False}
        look |= {"medianprops": {"color": self.ax_.xaxis.label.get_color(), "linewidth": 1.2}}
        look |= {"boxprops": line, "whiskerprops": line, "orientation": "horizontal"}
        boxes = self.ax_.bxp(stats, positions=range(len(stats)), **(look | (box_kw or {})))
        for box, median in zip(boxes["boxes"], quantiles[2], strict=True):
            box.set_facecolor(_POSITIVE if median >= 0 else _NEGATIVE)
            box.set_alpha(0.55)
        self.ax_.set_yticks(range(len(stats)), fit_names(self.ax_, names[self.channels_]))
        self.ax_.tick_params(axis="y", length=0)
        self.ax_.spines[["top", "right", "left"]].set_visible(False)
        return boxes

    def _draw_reference(self, reference_kw):
        from matplotlib.collections import PathCollection

        if self.reference is None:
            return None
        shown = np.asarray(self.reference, dtype=np.float64)[self.channels_]
        look = {"marker": "|", "color": GRAY, "sizes": [45], "linewidths": 1.6, "zorder": 3}
        style = merge_style(PathCollection, look | {"label": "all other rows"}, reference_kw)
        style["s"] = style.pop("sizes") if "s" not in style else style["s"]
        return self.ax_.scatter(shown, range(len(shown)), **style)

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, group=None, **kwargs):
        """Transform rows and plot the channels of one concept or cluster.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_loce.LoCETransformer`, other transformer, or Pipeline. The
            final clusterer of a Pipeline is skipped. Feature names come from the transformer.
        X : DataFrame or array-like
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,), default=None
            Concept or cluster of each row.
        group : str or int, default=None
            Concept or cluster to plot. None plots all rows.
        **kwargs : dict
            Passed to :meth:`from_embeddings`.

        Returns
        -------
        ChannelDisplay

        Raises
        ------
        ValueError
            As in :meth:`from_embeddings`.
        TypeError
            If the estimator cannot transform rows.

        See Also
        --------
        ChannelDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.plotting import ChannelDisplay
        >>> scenes = make_scenes(4, random_state=0)
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(scenes.data)
        >>> display = ChannelDisplay.from_estimator(loce, scenes.data, scenes.target, group="sky")
        >>> display.feature_names[0]
        'features.2[0]'
        >>> plt.close(display.figure_)
        """
        names = {}
        model = estimator[:-1] if _ends_in_clusters(estimator) else estimator
        if hasattr(model, "get_feature_names_out"):
            names = {"feature_names": model.get_feature_names_out()}
        X, y = embed(estimator, X, y=y)
        return cls.from_embeddings(X, y, group=group, **(names | kwargs))

    @classmethod
    def from_embeddings(
        cls, X, y=None, *, group=None, feature_names=None, normalized=True, **kwargs
    ):
        """Plot the channels of one concept or cluster from embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows that are not finite are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,), default=None
            Concept or cluster of each row.
        group : str or int, default=None
            Concept or cluster to plot. None plots all rows.
        feature_names : array-like of shape (n_features,), default=None
            Names of the features, such as those of ``LoCETransformer.get_feature_names_out``. None
            uses the columns of a DataFrame, or numbers.
        normalized : bool, default=True
            Whether to L2-normalize rows, so that long vectors do not count more.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        ChannelDisplay

        Raises
        ------
        ValueError
            If no row is finite, no row belongs to the group, or X and y do not match.

        See Also
        --------
        ChannelDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce.plotting import ChannelDisplay
        >>> X = [[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]
        >>> display = ChannelDisplay.from_embeddings(X, ["car", "car", "sky"], group="car")
        >>> display.weights.tolist(), display.reference.tolist()
        ([[0.6, 0.8], [0.0, 1.0]], [1.0, 0.0])
        >>> plt.close(display.figure_)
        """
        if feature_names is None and hasattr(X, "columns"):
            feature_names = list(X.columns)
        X, y, _, n_failed = finite_rows(X, y)
        inside = _find_group(y, group, len(X))
        X = normalize(X) if normalized else X
        display = cls(
            X[inside],
            reference=None if inside.all() else np.median(X[~inside], axis=0),
            feature_names=feature_names,
            name=None if group is None else str(group),
            n_failed=n_failed,
        )
        return display.plot(**kwargs)


def _ends_in_clusters(estimator):
    return hasattr(estimator, "steps") and hasattr(last_step(estimator), "predict")


def _find_group(y, group, n_samples):
    """Return a mask of the rows of a group."""
    if group is None:
        return np.ones(n_samples, dtype=bool)
    names = [] if y is None else np.unique(y).tolist()
    if group not in names:
        raise ValueError(f"group={group!r} has no finite row; y contains {names or None}.")
    return y == group
