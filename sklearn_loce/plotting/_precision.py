"""Display of precision at k, per concept or per layer."""

import numpy as np
import pandas as pd
from sklearn.utils import check_array, check_consistent_length, column_or_1d

from .._distances import RowDistances
from .._validation import average_concepts, match_rows
from ..metrics._exclusion import read_exclusion
from ..metrics._retrieval import average_queries, judge_queries, leave_out_lone_queries
from ..metrics._rows import align
from ._legend import add_legend
from ._names import literal
from ._rows import embed, finite_rows
from ._style import GRAY, concept_styles, lighten, merge_style, open_axes

# Values that the paper reports.
PAPER_K = (1, 5, 10, 20, 30, 40)
_MOST_NAMED = 24  # curves; more are gray, because their colors would be too similar


class PrecisionAtKDisplay:
    """Precision among the k nearest rows over k, per concept and on average, or per layer or model.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    precision : array-like of shape (n_concepts, n_k) or (n_spaces, n_concepts, n_k)
        Precision at k of each concept, in [0, 1], or NaN if there was nothing to find.
    k : array-like of shape (n_k,)
        Numbers of neighbors, ascending.
    chance : array-like of shape (n_concepts,)
        Precision of a random ranking.
    concepts : array-like of shape (n_concepts,)
        Names of the concepts.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.
    spaces : array-like of shape (n_spaces,), default=None
        Names of the layers or models. None if there is only one.

    Attributes
    ----------
    line_ : list of matplotlib Line2D
        One curve per concept, or the mean curve of each layer or model.
    band_ : list of matplotlib FillBetweenPolyCollection
        Bands of one standard deviation over the concepts, one per layer or model. Empty if there
        is only one.
    mean_line_ : matplotlib Line2D or None
        Mean over the concepts. None for a single concept, or for several layers or models.
    chance_line_ : matplotlib Line2D
        Mean chance level of the concepts.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    sklearn_loce.metrics.precision_at_k : Compute the precision.
    LayerComparisonDisplay : Precision at one k over layers, with its spread over draws of rows.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) call this "mAP@k". If a concept has m <= k rows, its
    precision cannot exceed ``(m - 1) / k``, so curves of rare concepts fall for large k. If there
    are more than 24 concepts, their curves are gray and have no names.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import PrecisionAtKDisplay
    >>> iris = load_iris()
    >>> names = iris.target_names[iris.target]
    >>> display = PrecisionAtKDisplay.from_embeddings(iris.data, names, k=[1, 10])
    >>> display.precision.round(2).tolist()
    [[1.0, 1.0], [0.96, 0.91], [0.92, 0.92]]
    >>> display.chance.round(2).tolist()
    [0.33, 0.33, 0.33]
    >>> plt.close(display.figure_)
    """

    def __init__(self, precision, *, k, chance, concepts, n_failed=0, spaces=None):
        self.precision = precision
        self.k = k
        self.chance = chance
        self.concepts = concepts
        self.n_failed = n_failed
        self.spaces = spaces

    def plot(
        self,
        *,
        ax=None,
        palette=None,
        line_kw=None,
        mean_kw=None,
        band_kw=None,
        chance_kw=None,
        legend=True,
    ):
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into. None opens a figure.
        palette : dict or sequence, default=None
            Colors of the curves. A dict maps a concept, or a tuple of concepts, to a color. Other
            concepts get unused colors. A sequence lists all concepts of a study: each concept then
            has the same color and marker in every figure. If curves are those of layers or models,
            the palette contains their names.
        line_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.plot` for the curves.
        mean_kw : dict, default=None
            Keywords of the curve of the mean over concepts.
        band_kw : dict, default=None
            Keywords of :meth:`matplotlib.axes.Axes.fill_between`.
        chance_kw : dict, default=None
            Keywords of the line of the chance level.
        legend : bool, default=True
            Whether to add a legend below the axes.

        Returns
        -------
        PrecisionAtKDisplay
            The display, with `ax_`, `figure_`, `line_`, `band_`, `mean_line_` and `chance_line_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If shapes do not match, or the palette has none of the names.

        See Also
        --------
        PrecisionAtKDisplay.from_estimator : Compute and plot.
        PrecisionAtKDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import PrecisionAtKDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = PrecisionAtKDisplay.from_embeddings(X, y)
        >>> display = display.plot(line_kw={"linewidth": 0.5}, legend=False)
        >>> len(display.line_)
        3
        >>> plt.close("all")
        """
        precision, k, chance = self._check()
        names = self.concepts if self.spaces is None else self.spaces
        n_named = len(names) if len(names) <= _MOST_NAMED else 1
        with open_axes(self, ax, height=2.4 + 0.05 * n_named * legend) as ax:
            self.band_, self.mean_line_, xlabel = [], None, "nearest rows k"
            if self.spaces is None:
                self.line_ = self._draw_lines(precision, k, names, palette, line_kw)
                if len(precision) > 1:
                    self.mean_line_ = self._draw_mean(precision, k, mean_kw)
            else:
                mean = _average(precision)
                self.line_ = self._draw_lines(mean, k, names, palette, line_kw)
                self.band_ = self._draw_bands(precision, k, band_kw)
                xlabel += "\nbands: one standard deviation over concepts"
            self.chance_line_ = self._draw_chance(chance, chance_kw)
            ax.set(xlabel=xlabel, ylabel="precision at k", ylim=(-0.02, 1.04))
            ax.set_xticks(k)
            # Ticks chosen by Matplotlib could become wider after the legend shrinks the axes.
            ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
            if legend:
                mean = [self.mean_line_] if self.mean_line_ else []
                add_legend(ax, [*self.line_[:n_named], *mean, self.chance_line_])
        return self

    def _check(self):
        precision = check_array(
            self.precision,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_2d=False,
            allow_nd=True,
            input_name="precision",
        )
        n_axes = 2 if self.spaces is None else 3
        if precision.ndim != n_axes:
            raise ValueError(f"precision has shape {precision.shape}, but needs {n_axes} axes.")
        k = column_or_1d(np.asarray(self.k, dtype=np.float64))
        chance = column_or_1d(np.asarray(self.chance, dtype=np.float64))
        check_consistent_length(precision.swapaxes(0, -2), chance, self.concepts)
        check_consistent_length(precision.T, k)
        if self.spaces is not None:
            check_consistent_length(precision, self.spaces)
        return precision, k, chance

    def _draw_lines(self, precision, k, names, palette, line_kw):
        from matplotlib.lines import Line2D

        lines = []
        styles = concept_styles(list(names), palette)
        look = {"linewidth": 0.9, "markersize": 3.2, "markeredgewidth": 0}
        for values, (name, (color, marker)) in zip(precision, styles.items(), strict=True):
            own = {"color": lighten(self.ax_, color), "marker": marker, "label": literal(name)}
            if len(names) > _MOST_NAMED:
                own = {"color": GRAY, "alpha": 0.4, "label": f"one of {len(names)}"}
            style = merge_style(Line2D, look | own, line_kw)
            lines += self.ax_.plot(k, values, **style)
        return lines

    def _draw_bands(self, precision, k, band_kw):
        """Draw the spread over concepts around each line."""
        from matplotlib.collections import PolyCollection

        bands = []
        for line, values in zip(self.line_, precision, strict=True):
            std = pd.DataFrame(values).std().to_numpy()
            own = {"color": line.get_color(), "alpha": 0.15, "linewidth": 0}
            style = merge_style(PolyCollection, own, band_kw)
            mean = line.get_ydata()
            bands.append(self.ax_.fill_between(k, mean - std, mean + std, **style))
        return bands

    def _draw_mean(self, precision, k, mean_kw):
        from matplotlib import rcParams
        from matplotlib.lines import Line2D

        defaults = {"color": rcParams["text.color"], "linewidth": 2.2, "label": "mean", "zorder": 3}
        mean = [average_concepts(values, "macro") for values in precision.T]
        return self.ax_.plot(k, mean, **merge_style(Line2D, defaults, mean_kw))[0]

    def _draw_chance(self, chance, chance_kw):
        from matplotlib.lines import Line2D

        defaults = {"color": GRAY, "linewidth": 1.2, "linestyle": ":", "label": "chance"}
        mean = average_concepts(chance, "macro")
        return self.ax_.axhline(mean, **merge_style(Line2D, defaults, chance_kw))

    @classmethod
    def from_estimator(cls, estimator, X, y, *, k=None, metric="cosine", groups=None, **kwargs):
        """Transform rows and plot their precision at k.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_loce.LoCETransformer`, other transformer, or Pipeline. The
            final clusterer of a Pipeline is skipped.
        X : DataFrame or array-like
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,)
            Concept of each row.
        k : array-like of int, default=None
            Numbers of neighbors. None uses those of 1, 5, 10, 20, 30 and 40 that are below the
            number of rows.
        metric : str or callable, default="cosine"
            Metric of the distances.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            Image or video sequence of each row; see :meth:`from_embeddings`.
        **kwargs : dict
            Passed to :meth:`from_embeddings`.

        Returns
        -------
        PrecisionAtKDisplay

        Raises
        ------
        ValueError
            If a k is not below the number of finite rows, or X and y do not match.
        TypeError
            If the estimator cannot transform rows.

        See Also
        --------
        PrecisionAtKDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.decomposition import PCA
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import PrecisionAtKDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = PrecisionAtKDisplay.from_estimator(PCA(2).fit(X), X, y, k=[1, 5])
        >>> plt.close(display.figure_)
        """
        X, y, groups = embed(estimator, X, y=y, groups=groups)
        return cls.from_embeddings(X, y, k=k, metric=metric, groups=groups, **kwargs)

    @classmethod
    def from_embeddings(cls, X, y, *, k=None, metric="cosine", groups=None, exclude=None, **kwargs):
        """Plot the precision at k of embeddings.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or dict of str to such arrays
            Embeddings with at least two rows, or those of several layers or models by name, which
            are matched as in :func:`~sklearn_loce.metrics.compare_layers`. Rows that are not finite
            in all of them are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,)
            Concept of each row.
        k : array-like of int, default=None
            Numbers of neighbors. None uses those of 1, 5, 10, 20, 30 and 40 for which every query
            has enough rows.
        metric : str or callable, default="cosine"
            Metric of the distances.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            Image or video sequence of each row. The ranking of a query leaves out rows of its own
            group, as in :func:`~sklearn_loce.metrics.precision_at_k`.
        exclude : float or callable, default=None
            Another rule of rows to leave out, as in that function.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        PrecisionAtKDisplay

        Raises
        ------
        ValueError
            If a query has fewer than k rows to find, or X, y and groups do not match.

        See Also
        --------
        PrecisionAtKDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce.plotting import PrecisionAtKDisplay
        >>> X = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]
        >>> y = ["car", "car", "tree", "tree"]
        >>> display = PrecisionAtKDisplay.from_embeddings(X, y, k=[1, 2])
        >>> display.precision.tolist()
        [[1.0, 0.5], [1.0, 0.5]]
        >>> plt.close(display.figure_)

        Two layers, each with its mean over concepts:

        >>> layers = {"early": [[0.0, 1.0], [1.0, 0.0], [0.1, 1.0], [1.0, 0.1]], "late": X}
        >>> display = PrecisionAtKDisplay.from_embeddings(layers, y, k=[1])
        >>> [line.get_ydata().tolist() for line in display.line_]
        [[0.0], [1.0]]
        >>> plt.close(display.figure_)
        """
        if isinstance(X, dict):
            rows = align(X, y, groups, exclude)
            exclusion, y, spaces = rows.exclusion, rows.concepts[rows.codes], list(X)
            ends = np.cumsum([own.shape[1] for own in rows.layers.values()])[:-1]
            X = np.hstack(list(rows.layers.values()))
        else:
            X, y, groups = match_rows(X=X, y=y, groups=groups)
            exclusion, spaces, ends = read_exclusion(len(X), groups, exclude), None, []
        X, y, kept, n_failed = finite_rows(X, y)
        concepts, codes = np.unique(y, return_inverse=True)
        exclusion = exclusion.take(kept)
        n_left, n_relevant = exclusion.count(codes)
        paper_k = [n for n in PAPER_K if n <= n_left.min()]
        k = np.array(paper_k if k is None else sorted(set(k)), dtype=int)
        if not len(k) or k[0] < 1:
            raise ValueError(
                f"k={k.tolist()} must contain numbers of at least 1, and two rows must be finite."
            )
        exclusion.check_candidates(n_left, k[-1])
        depths = np.full(len(kept), k[-1])
        if groups is not None:
            depths = leave_out_lone_queries(depths, n_relevant, concepts, codes)

        def judge(relevant, _):
            return np.cumsum(relevant, axis=1)[:, k - 1] / k

        def average(columns):
            return np.column_stack([average_queries(c, codes, len(concepts)) for c in columns.T])

        how = (codes, exclusion, depths, n_relevant, judge, k.shape)
        found = [
            average(judge_queries(RowDistances(own, metric), *how))
            for own in np.split(X, ends, axis=1)
        ]
        chance = average(np.where(depths > 0, n_relevant / n_left, np.nan)[:, None])[:, 0]
        display = cls(
            found[0] if spaces is None else np.stack(found),
            k=k,
            chance=chance,
            concepts=concepts,
            n_failed=n_failed,
            spaces=spaces,
        )
        return display.plot(**kwargs)


def _average(precision):
    """Average over concepts without NaN, to shape (n_spaces, n_k)."""
    return np.array([[average_concepts(v, "macro") for v in space.T] for space in precision])
