"""The most unusual rows of each concept, with their scores."""

from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_is_fitted

from ..outliers import ConceptOutlierDetector
from ._captions import choose_captions, describe_tiles, read_captions, write_below
from ._drawing import (
    MARKS,
    RIGHT,
    WRONG,
    choose_show,
    draw_frame,
    draw_tile,
    fit_text,
    font_with_marks,
    format_number,
    write_heading,
)
from ._grid import Layout, open_grid
from ._inputs import check_inputs, choose
from ._rows import last_step
from ._style import COLORS, FONT_SIZE, SMALL_FONT_SIZE, merge_style
from ._tiles import TILE_SIZE, read_tiles

_DISTANCE = "distance to the own concept"
_CHART_HEIGHT = 0.55, 0.16  # inches: base height, and height of each concept
_INLYING = RIGHT | {"linewidth": 0.8}
_MANY = 3000  # dots; more become an image in PDF and SVG files
_MOST_CONCEPTS = 5  # lines of tiles that fit on a page
_DOTS = {"marker": "o", "s": 9, "color": COLORS[0], "alpha": 0.7, "linewidths": 0}
_CROSSES = {"marker": "x", "s": 16, "color": COLORS[1], "linewidths": 1.1}
_LABEL_WIDTH = 0.35  # of the chart, for names of concepts
_NAME_WIDTH = 0.6  # of a line, for the name of a concept
_SPREAD = 0.6  # of the height of a strip, for its dots
_GOLDEN = 0.6180339887  # the fractional parts of its multiples are evenly spread
_PARAMETERS = {
    "estimator": "no_validation",
    "X": ["array-like"],
    "embeddings": ["array-like"],
    "samples": "no_validation",
    "y": ["array-like", None],
    "metric": [str, callable],
    "contamination": [Interval(Real, 0, 0.5, closed="right")],
}


class OutlierDisplay:
    """Scores of all rows with their thresholds, and the most and least unusual rows per concept.

    Outliers are crosses in the chart, and have tiles with a dashed frame and ✗.

    It is recommended to use :meth:`from_embeddings` or :meth:`from_estimator`. All parameters are
    stored as attributes.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,), float64
        Score of each row, as in ``score_samples``: low scores are unusual. Rows that failed have
        NaN. Chart and tiles show negated scores, so that higher is more unusual.
    concepts : list
        Concepts to show. ``[None]`` if all rows have one concept.
    thresholds : ndarray of shape (n_concepts,), float64
        Threshold of each concept. Rows with lower scores are outliers.
    members : list of ndarray of shape (n_members,), intp
        Positions of the rows of each concept, the most unusual first.
    tiles : dict of {int: Tile}
        Thumbnails of the rows to show, by position, with the attributes ``image``, ``mask`` and
        ``projection``.
    n_most, n_least : int, default=4 and 2
        Number of the most and of the least unusual rows to show of each concept.
    n_hidden : int, default=0
        Number of concepts that are left out; the title of the chart mentions them.
    score_name : str, default="outlier score"
        Label of the axis of the chart.
    table : DataFrame of n_tiles rows, default=None
        Rows that the tiles show, in drawing order, with the index of the table of samples. The
        columns are ``position``, ``outlier_score``, ``outlier``, and those of the samples without
        ``mask``, and without ``image`` unless it contains paths.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        Axes that was divided. None if an array of Axes was given.
    chart_ax_ : matplotlib Axes
        Axes of the scores.
    axes_ : ndarray of shape (n_concepts, n_most + n_least) of Axes
        Axes of the tiles.
    figure_ : matplotlib Figure
    frames_ : ndarray of shape (n_concepts, n_most + n_least) of Rectangle or None
    outlines_ : list of LineCollection
        Outlines of masks and projections, tile by tile.

    See Also
    --------
    sklearn_loce.outliers.ConceptOutlierDetector : The detector of :meth:`from_embeddings`.
    LabelIssuesDisplay : Rows whose label may be wrong.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) search outliers in this way.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from sklearn_loce.datasets import make_scenes
    >>> from sklearn_loce.plotting import OutlierDisplay
    >>> X = make_scenes(5, random_state=0).data
    >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
    >>> display = OutlierDisplay.from_embeddings(
    ...     embeddings, X, concepts=["sky", "tree"], n_most=2, n_least=1
    ... )
    >>> display.axes_.shape
    (2, 3)
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        *,
        scores,
        concepts,
        thresholds,
        members,
        tiles,
        n_most=4,
        n_least=2,
        n_hidden=0,
        score_name="outlier score",
        table=None,
    ):
        self.scores = scores
        self.concepts = concepts
        self.thresholds = thresholds
        self.members = members
        self.tiles = tiles
        self.n_most = n_most
        self.n_least = n_least
        self.n_hidden = n_hidden
        self.score_name = score_name
        self.table = table

    @classmethod
    @validate_params(
        {name: _PARAMETERS[name] for name in ("estimator", "X", "samples", "y")},
        prefer_skip_nested_validation=True,
    )
    def from_estimator(cls, estimator, X, samples, y=None, **kwargs):
        """Plot the scores of a fitted outlier detector.

        Parameters
        ----------
        estimator : outlier detector
            Fitted :class:`~sklearn_loce.outliers.ConceptOutlierDetector`, or a detector of
            scikit-learn with ``score_samples`` and ``offset_``, which has one threshold for all
            concepts. A ``LocalOutlierFactor`` without ``novelty`` scores only its training rows.
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows with NaN, which failed, are left out.
        samples : DataFrame or list of (image, mask) pairs
            Table of samples of the embeddings. Only images of the rows shown are read.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. None uses the column ``concept`` if the table has one.
        **kwargs : dict
            ``concepts``, ``n_most``, ``n_least``, ``projector``, ``crop`` and ``tile_size`` as in
            :meth:`from_embeddings`, and parameters of :meth:`plot`.

        Returns
        -------
        OutlierDisplay

        Raises
        ------
        TypeError
            If the estimator has no scores or no threshold.
        ValueError, FileNotFoundError
            As in :meth:`from_embeddings` and in ``score_samples`` of the estimator.

        See Also
        --------
        OutlierDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn.ensemble import IsolationForest
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import OutlierDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> model = IsolationForest(random_state=0).fit(embeddings)
        >>> display = OutlierDisplay.from_estimator(model, embeddings, X, concepts=["sky"])
        >>> display.score_name
        'outlier score'
        >>> plt.close("all")
        """
        check_is_fitted(estimator)
        X, samples, names, kept = check_inputs(X, samples, y)
        own = getattr(estimator, "concepts_", None)
        if own is not None and names is None:
            raise ValueError(
                f"{type(estimator).__name__} was fitted with concepts; pass y, or a table with the "
                "column 'concept'."
            )
        scores = np.full(len(X), np.nan)
        scores[kept] = _score(estimator, X, kept, None if own is None else names)
        known = [None] if names is None else np.unique(names[kept]).tolist()
        offsets = np.ravel(estimator.offset_)
        if own is not None:
            offsets = offsets[np.searchsorted(own, known)]
        thresholds = dict(zip(known, np.broadcast_to(offsets, len(known)), strict=True))
        if isinstance(last_step(estimator), ConceptOutlierDetector):
            kwargs = {"score_name": _DISTANCE} | kwargs
        return cls._from_scores(scores, thresholds, samples, names, X, **kwargs)

    @classmethod
    @validate_params(
        {
            name: _PARAMETERS[name]
            for name in ("embeddings", "samples", "y", "metric", "contamination")
        },
        prefer_skip_nested_validation=True,
    )
    def from_embeddings(
        cls, embeddings, samples, y=None, *, metric="cosine", contamination=0.05, **kwargs
    ):
        """Score each row by its mean distance to the other rows of its concept, and plot.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_features)
            Embeddings. Rows that failed, which contain NaN, are left out.
        samples : DataFrame or list of (image, mask) pairs
            Table of samples. Only the images of the rows shown are read.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. None uses the column ``concept`` if the table has one, and one
            concept for all rows otherwise.
        metric : str or callable, default="cosine"
            As in :class:`~sklearn_loce.outliers.ConceptOutlierDetector`.
        contamination : float in (0, 0.5], default=0.05
            Share of outliers among the rows of each concept.
        **kwargs : dict
            Further parameters, and those of :meth:`plot`:

            - ``concepts=None``: concepts to show, in this order. None shows all concepts, sorted,
              or the five with the most unusual rows if there are more, because these fit on a page.
            - ``n_most=4`` and ``n_least=2``: number of the most and of the least unusual rows.
            - ``projector=None``: fitted transformer of one layer, which projects the embeddings, or
              fitted segmenter.
            - ``crop=False``: whether to show only the surroundings of the mask.
            - ``tile_size=256``: length of the longer side of stored thumbnails, in pixels.

        Returns
        -------
        OutlierDisplay

        Raises
        ------
        ValueError, FileNotFoundError
            If lengths differ, a concept is unknown, there are fewer than two rows, or an image
            cannot be read.

        See Also
        --------
        OutlierDisplay.from_estimator : Plot what a fitted estimator finds.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import OutlierDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> display = OutlierDisplay.from_embeddings(
        ...     embeddings, X, concepts=["sky", "tree"], n_most=2, n_least=0, contamination=0.2
        ... )
        >>> display.table["outlier"].tolist()
        [True, False, True, False]
        >>> plt.close("all")
        """
        X, samples, names, kept = check_inputs(embeddings, samples, y)
        detector = ConceptOutlierDetector(metric=metric, contamination=contamination)
        detector.fit(X[kept], None if names is None else names[kept])
        scores = np.full(len(X), np.nan)
        scores[kept] = detector.training_scores_
        known = getattr(detector, "concepts_", np.array([None])).tolist()
        thresholds = dict(zip(known, np.ravel(detector.offset_), strict=True))
        kwargs = {"score_name": _DISTANCE} | kwargs
        return cls._from_scores(scores, thresholds, samples, names, X, **kwargs)

    @classmethod
    @validate_params(
        {
            "scores": "no_validation",
            "thresholds": "no_validation",
            "samples": "no_validation",
            "names": "no_validation",
            "embeddings": "no_validation",
            "concepts": ["array-like", None],
            "n_most": [Interval(Integral, 1, None, closed="left")],
            "n_least": [Interval(Integral, 0, None, closed="left")],
            "projector": "no_validation",
            "crop": ["boolean"],
            "tile_size": "no_validation",
            "score_name": [str],
        },
        prefer_skip_nested_validation=True,
    )
    def _from_scores(
        cls,
        scores,
        thresholds,
        samples,
        names,
        embeddings,
        *,
        concepts=None,
        n_most=4,
        n_least=2,
        projector=None,
        crop=False,
        tile_size=TILE_SIZE,
        score_name="outlier score",
        **plot_kw,
    ):
        """Rank the rows of each concept, read the tiles of both ends, and plot."""
        n_hidden = 0
        if concepts is None and len(thresholds) > _MOST_CONCEPTS:
            n_hidden = len(thresholds) - _MOST_CONCEPTS
            concepts = _choose_unusual(scores, thresholds, names)
        concepts = choose(concepts, list(thresholds), "concepts")
        order = np.argsort(scores, kind="stable")
        order = order[~np.isnan(scores[order])]
        members = [
            order if concept is None else order[names[order] == concept] for concept in concepts
        ]
        display = cls(
            scores=scores,
            concepts=concepts,
            thresholds=np.array([thresholds[concept] for concept in concepts]),
            members=members,
            tiles={},
            n_most=n_most,
            n_least=n_least,
            n_hidden=n_hidden,
            score_name=score_name,
        )
        lines = [[row for row in display._shown(k) if row is not None] for k in range(len(members))]
        rows = np.concatenate(lines)
        how = {"size": tile_size, "crop": crop, "projector": projector}
        display.tiles = read_tiles(samples, rows, vectors=embeddings, **how)
        is_outlier = [display._is_outlier(k, line) for k, line in enumerate(lines)]
        display.table = describe_tiles(
            samples, rows, names, outlier_score=scores[rows], outlier=np.concatenate(is_outlier)
        )
        return display.plot(**plot_kw)

    def plot(
        self,
        *,
        show=None,
        captions=None,
        ax=None,
        contour_kw=None,
        frame_kw=None,
        scatter_kw=None,
    ):
        """Plot the scores, and a line of tiles for each concept below them.

        Parameters
        ----------
        show : {"mask", "projection", "both"}, default=None
            Parts of each tile beside the image: the white outline of the mask, the projection in
            orange, or both. None shows both if there are projections, and the mask otherwise.
        captions : str or list of str, default=None
            Columns of `table` to write below each tile, one line each, such as
            ``["annotation_id", "score"]``.
        ax : Axes or array-like of Axes, default=None
            A single Axes is divided, best in a figure with ``layout="constrained"``;
            an array needs one Axes for the scores, and ``n_most + n_least`` Axes per concept. None
            opens a figure.
        contour_kw : dict, default=None
            Keywords of the masks' :class:`matplotlib.collections.LineCollection`.
        frame_kw : dict, default=None
            Keywords of the :class:`matplotlib.patches.Rectangle` of all frames.
        scatter_kw : dict, default=None
            Keywords of ``Axes.scatter`` for the dots and crosses.

        Returns
        -------
        OutlierDisplay
            The display, with all its attributes.

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, `table` lacks a column, or
            `show` needs projections and no tile has one.

        See Also
        --------
        OutlierDisplay.from_estimator : Compute and plot.
        OutlierDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import OutlierDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> display = OutlierDisplay.from_embeddings(embeddings, X, concepts=["sky"])
        >>> display = display.plot(captions=["annotation_id"], frame_kw={"linewidth": 1})
        >>> display.frames_.shape
        (1, 6)
        >>> plt.close("all")
        """
        show = choose_show(show, self.tiles.values())
        n_lines = len(self.concepts)
        groups = (("most outlying", self.n_most), ("least outlying", self.n_least))
        base, more = _CHART_HEIGHT
        named = choose_captions(captions, self.table)
        texts, chart_height = read_captions(named, self.table), base + more * n_lines
        layout = Layout(n_lines, groups[: 1 + (self.n_least > 0)], chart_height, len(named))
        self.outlines_ = []
        with open_grid(self, ax, layout) as (chart, axes):
            self.chart_ax_, self.frames_ = chart, np.full(axes.shape, None, dtype=object)
            self._plot_scores(chart, scatter_kw)
            for line in range(n_lines):
                for column, row in enumerate(self._shown(line)):
                    if row is None:
                        axes[line, column].set_axis_off()
                        continue
                    self._plot_tile(line, column, row, show, contour_kw, frame_kw)
                    self._write_score(axes[line, column], line, row, next(texts))
                write_heading(axes[line, 0], self._title(axes[line, 0], line))
        return self

    def _shown(self, line):
        """Return the row of each tile of a line, None for missing rows."""
        members = self.members[line].tolist()
        most = members[: self.n_most]
        least = members[len(most) :][::-1][: self.n_least]
        pad = [None]
        return most + pad * (self.n_most - len(most)) + least + pad * (self.n_least - len(least))

    def _is_outlier(self, line, rows):
        return self.scores[rows] < self.thresholds[line]

    def _plot_scores(self, ax, scatter_kw):
        """Draw a strip of dots and a threshold for each concept."""
        ink = ax.xaxis.label.get_color()
        for line, members in enumerate(self.members):
            heights = line + _SPREAD * ((np.arange(len(members)) * _GOLDEN) % 1 - 0.5)
            outlying = self._is_outlier(line, members)
            for which, defaults in ((~outlying, _DOTS), (outlying, _CROSSES)):
                _scatter(ax, -self.scores[members[which]], heights[which], defaults, scatter_kw)
            ax.vlines(-self.thresholds[line], line - 0.42, line + 0.42, colors=ink, lw=1.2)
        names = ["" if concept is None else concept for concept in self.concepts]
        names = [fit_text(ax, name, n_lines=1, n_tiles=_LABEL_WIDTH) for name in names]
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(labelsize=SMALL_FONT_SIZE)
        ax.spines[["top", "right", "left"]].set_visible(False)
        meaning = f"higher is more unusual; {MARKS[False]} outlier, | threshold"
        label = f"{self.score_name}\n({meaning})"
        if self.n_hidden:
            n_all = self.n_hidden + len(self.concepts)
            title = f"{len(self.concepts)} of {n_all} concepts: those with the most unusual rows"
            ax.set_title(title, fontsize=FONT_SIZE)
        # Aligned at the right, because long names make the chart narrower than this label.
        ax.set_xlabel(label, loc="right", fontsize=FONT_SIZE, family=font_with_marks())

    def _plot_tile(self, line, column, row, show, contour_kw, frame_kw):
        ax = self.axes_[line, column]
        self.outlines_ += draw_tile(ax, self.tiles[row], show, contour_kw)
        outlying = bool(self._is_outlier(line, row))
        self.frames_[line, column] = draw_frame(ax, WRONG if outlying else _INLYING, frame_kw)

    def _write_score(self, ax, line, row, captions):
        mark = f"{MARKS[False]} " * bool(self._is_outlier(line, row))
        style = {"fontsize": SMALL_FONT_SIZE, "labelpad": 2, "family": font_with_marks()}
        write_below(ax, [mark + format_number(-self.scores[row])], captions, **style)

    def _title(self, ax, line):
        members, concept = self.members[line], self.concepts[line]
        n_outliers = int(self._is_outlier(line, members).sum())
        count = f"{n_outliers} outlier{'' if n_outliers == 1 else 's'} in {len(members)} rows"
        if concept is None:
            return count
        width = _NAME_WIDTH * (self.n_most + self.n_least)
        return f"{fit_text(ax, concept, size=FONT_SIZE, n_lines=1, n_tiles=width)}: {count}"


def _choose_unusual(scores, thresholds, names):
    """Choose the concepts whose rows are farthest beyond their thresholds."""
    beyond = {c: t - np.nanmin(scores[names == c]) for c, t in thresholds.items()}
    chosen = sorted(beyond, key=beyond.get, reverse=True)[:_MOST_CONCEPTS]
    return [concept for concept in thresholds if concept in chosen]


def _scatter(ax, scores, heights, defaults, scatter_kw):
    from matplotlib.collections import PathCollection

    style = merge_style(PathCollection, defaults, scatter_kw)
    ax.scatter(scores, heights, **{"rasterized": len(scores) > _MANY} | style)


def _score(estimator, X, kept, names):
    """Return the scores of a detector."""
    if not hasattr(estimator, "offset_"):
        raise TypeError(f"{type(estimator).__name__} has no offset_; pass an outlier detector.")
    if hasattr(estimator, "score_samples"):
        given = [] if names is None else [names[kept]]
        return estimator.score_samples(X[kept], *given)
    scores = getattr(estimator, "negative_outlier_factor_", None)
    if scores is None or len(scores) != len(kept):
        raise TypeError(
            f"{type(estimator).__name__} cannot score these {len(kept)} rows: it has no "
            "score_samples. Pass the rows on which it was fitted, or set novelty=True."
        )
    return scores
