"""Queries with their nearest and farthest rows."""

from dataclasses import replace
from numbers import Integral
from textwrap import wrap

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

from .._distances import RowDistances, tie_tolerance
from .._samples.table import as_samples
from .._validation import match_rows
from ..metrics import _exclusion
from ..metrics._exclusion import read_exclusion
from ._captions import choose_captions, describe_tiles, read_captions, write_below
from ._drawing import (
    NEUTRAL,
    RIGHT,
    WRONG,
    choose_show,
    draw_frame,
    draw_tile,
    fit_text,
    font_with_marks,
    format_number,
    mark_name,
)
from ._grid import Layout, open_grid
from ._inputs import check_inputs
from ._queries import Rows, is_table, read_queries
from ._style import FONT_SIZE, SMALL_FONT_SIZE
from ._tiles import TILE_SIZE, check_positions, read_tiles

_LETTER = 0.56  # mean width of a letter over the font size


class RetrievalDisplay:
    """One line of tiles per query: the query, its nearest rows and its farthest rows.

    Near rows with the concept of the query are right, and have a solid frame and ✓. Other near rows
    are wrong, and have a dashed frame and ✗. Far rows have no frame.

    It is recommended to use :meth:`from_embeddings` or :meth:`from_estimator`. All parameters are
    stored as attributes.

    Parameters
    ----------
    queries : ndarray of shape (n_queries,), intp
        Positions of the queries. Queries from another table have positions after the last sample.
    matches : ndarray of shape (n_queries, n_best + n_worst), intp
        Positions of the matches, sorted by distance.
    distances : ndarray of shape (n_queries, n_best + n_worst), float64
        Distances of the matches from their queries.
    n_best : int
        Number of nearest rows among the matches. The others are the farthest rows.
    tiles : dict of {int: Tile}
        Thumbnails by position, with the attributes ``image``, ``mask`` and ``projection``.
    relevant : ndarray of shape (n_queries, n_best + n_worst), bool, default=None
        Whether each match has the concept of its query. None draws no frames around matches.
    names : dict of {int: object}, default=None
        Known concepts of the rows shown, by position.
    metric : str, default=None
        Name of the metric, for the heading.
    table : DataFrame of n_tiles rows, default=None
        Rows that the tiles show, in drawing order, with the index of the table of samples. The
        columns are ``position``, ``query``, ``distance`` (NaN for the query itself), and those of
        the samples without ``mask``, and without ``image`` unless it contains paths.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        Axes that was divided. None if an array of Axes was given.
    axes_ : ndarray of shape (n_queries, 1 + n_best + n_worst) of Axes
        Axes of the tiles, that of the query first.
    figure_ : matplotlib Figure
    frames_ : ndarray of shape (n_queries, 1 + n_best + n_worst) of Rectangle or None
    outlines_ : list of LineCollection
        Outlines of masks and projections, tile by tile.

    See Also
    --------
    sklearn_loce.metrics.precision_at_k : Share of right matches over all queries.
    PrecisionAtKDisplay : Share of right matches over k.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) show such retrievals. A query is left out of its own
    ranking by its position, so that its duplicates stay. Distances that agree to 12 digits are
    ties, which are sorted by position.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from sklearn_loce.datasets import make_scenes
    >>> from sklearn_loce.plotting import RetrievalDisplay
    >>> X = make_scenes(3, random_state=0).data
    >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
    >>> display = RetrievalDisplay.from_embeddings(embeddings, X, queries=[0, 5], n_best=2)
    >>> display.matches.shape
    (2, 4)
    >>> plt.close(display.figure_)

    A query from another table:

    >>> other = make_scenes(1, random_state=1).data.iloc[[0]]
    >>> display = RetrievalDisplay.from_embeddings(
    ...     embeddings, X, queries=other, query_embeddings=embeddings[[0]], n_worst=0
    ... )
    >>> int(display.matches[0, 0])
    0
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        *,
        queries,
        matches,
        distances,
        n_best,
        tiles,
        relevant=None,
        names=None,
        metric=None,
        table=None,
    ):
        self.queries = queries
        self.matches = matches
        self.distances = distances
        self.n_best = n_best
        self.tiles = tiles
        self.relevant = relevant
        self.names = names
        self.metric = metric
        self.table = table

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, groups=None, **kwargs):
        """Embed a table and plot the matches of queries.

        Parameters
        ----------
        estimator : transformer
            Fitted transformer, such as a ``LoCETransformer``, or a ``Pipeline`` with one.
        X : DataFrame or list of (image, mask) pairs
            Table of samples.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. None uses the column ``concept`` if the table has one.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            Image or video sequence of each row, as in :meth:`from_embeddings`.
        **kwargs : dict
            Passed to :meth:`from_embeddings`, which requires ``queries``. A table of queries is
            embedded too. If `show` requests projections, the transformer computes them.

        Returns
        -------
        RetrievalDisplay

        Raises
        ------
        TypeError
            If the estimator has no ``transform``.
        ValueError, FileNotFoundError
            As in :meth:`from_embeddings` and in ``transform`` of the estimator.

        See Also
        --------
        RetrievalDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce import MaskedMeanTransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.plotting import RetrievalDisplay
        >>> X = make_scenes(4, random_state=0).data
        >>> means = MaskedMeanTransformer(TorchModel(load_scene_model), "features.5").fit(X)
        >>> display = RetrievalDisplay.from_estimator(means, X, queries=[0], groups=X["image_id"])
        >>> display.relevant[0, 0]
        np.True_
        >>> plt.close("all")
        """
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} has no transform; pass a transformer of tables of "
                "samples, or embeddings to RetrievalDisplay.from_embeddings."
            )
        X, y, groups = match_rows(X=as_samples(X), y=y, groups=groups)
        if is_table(kwargs.get("queries")):
            kwargs.setdefault("query_embeddings", estimator.transform(kwargs["queries"]))
        if kwargs.get("show") in ("projection", "both") and hasattr(estimator, "project"):
            kwargs.setdefault("projector", estimator)
        return cls.from_embeddings(estimator.transform(X), X, y, groups=groups, **kwargs)

    @classmethod
    @validate_params(
        {
            "embeddings": ["array-like"],
            "samples": "no_validation",
            "y": ["array-like", None],
            "queries": "no_validation",
            "query_embeddings": ["array-like", None],
            "query_groups": ["array-like", None],
            "n_best": [Interval(Integral, 1, None, closed="left")],
            "n_worst": [Interval(Integral, 0, None, closed="left")],
            "metric": [str, callable],
            **_exclusion.PARAMETERS,
            "projector": "no_validation",
            "crop": ["boolean"],
            "tile_size": "no_validation",
        },
        prefer_skip_nested_validation=True,
    )
    def from_embeddings(
        cls,
        embeddings,
        samples,
        y=None,
        *,
        queries,
        query_embeddings=None,
        n_best=4,
        n_worst=2,
        metric="cosine",
        groups=None,
        query_groups=None,
        exclude=None,
        projector=None,
        crop=False,
        tile_size=TILE_SIZE,
        **plot_kw,
    ):
        """Rank all rows by their distance from queries and plot both ends.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_features)
            Embeddings. Rows that failed, which contain NaN, are no matches.
        samples : DataFrame or list of (image, mask) pairs
            Table of samples. Only the images of the rows shown are read.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. None uses the column ``concept`` if the table has one.
        queries : int, array-like of int or DataFrame
            Positions of the queries, or another table of samples with the queries. Concepts of such
            a table are in its column ``concept``; without it, matches are neither right nor wrong.
        query_embeddings : array-like of shape (n_queries, n_features), default=None
            Embeddings of a table of queries.
        n_best, n_worst : int, default=4 and 2
            Number of nearest and of farthest rows to show.
        metric : str or callable, default="cosine"
            Metric, as in :func:`sklearn_loce.metrics.precision_at_k`.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            Image or video sequence of each row. The ranking of a query leaves out rows of its own
            group, as in :func:`sklearn_loce.metrics.precision_at_k`.
        query_groups : array-like of shape (n_queries,) or (n_queries, n_columns), default=None
            Groups of a table of queries.
        exclude : float or callable, default=None
            Another rule of rows to leave out, as in that function.
        projector : LoCETransformer, ConceptSegmenter or Net2VecSegmenter, default=None
            Fitted estimator that computes the projections of the tiles. A transformer of one layer
            projects `embeddings`; a segmenter uses its own vectors. None shows no projections.
        crop : bool, default=False
            Whether to show only the surroundings of the mask.
        tile_size : int, default=256
            Length of the longer side of stored thumbnails, in pixels.
        **plot_kw : dict
            Passed to :meth:`plot`.

        Returns
        -------
        RetrievalDisplay

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If lengths or indexes differ, a query is out of range or failed, a table of queries has
            no embeddings or groups, there are too few rows, or an image cannot be read.

        See Also
        --------
        RetrievalDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import RetrievalDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> display = RetrievalDisplay.from_embeddings(
        ...     embeddings, X, queries=[0, 3], groups=X["image_id"], n_best=3, n_worst=0
        ... )
        >>> bool((display.table["image_id"].iloc[1:4] != X["image_id"].iloc[0]).all())
        True
        >>> plt.close("all")
        """
        rows = Rows(*check_inputs(embeddings, samples, y, groups=groups))
        n_rows = len(rows.samples)
        if is_table(queries):
            rows = rows.append(read_queries(queries, query_embeddings, query_groups, rows))
            queries = np.arange(n_rows, len(rows.samples))
        elif query_embeddings is not None or query_groups is not None:
            raise ValueError(
                "query_embeddings and query_groups are those of a table of queries, and queries "
                "contains positions; pass a DataFrame as queries, or leave them out."
            )
        queries = check_positions(queries, len(rows.samples), "queries")
        exclusion = read_exclusion(len(rows.samples), rows.groups, exclude).take(rows.kept)
        among = np.searchsorted(rows.kept, n_rows)  # candidates come before these queries
        _check_queries(queries, rows.kept, among - (queries < n_rows).any(), n_best + n_worst)
        depths = n_best, n_worst
        matches, distances = _rank(rows, queries, np.arange(among), depths, metric, exclusion)
        lines = np.column_stack([queries, matches])
        how = {"size": tile_size, "crop": crop, "projector": projector}
        display = cls(
            queries=queries,
            matches=matches,
            distances=distances,
            n_best=n_best,
            tiles=read_tiles(rows.samples, lines.ravel(), vectors=rows.embeddings, **how),
            relevant=rows.compare(queries, matches),
            names=rows.name(lines),
            metric=metric if isinstance(metric, str) else None,
            table=describe_tiles(
                rows.samples,
                lines.ravel(),
                rows.names,
                query=np.repeat(queries, lines.shape[1]),
                distance=np.insert(distances, 0, np.nan, axis=1).ravel(),
            ),
        )
        return display.plot(**plot_kw)

    def plot(self, *, show=None, captions=None, ax=None, contour_kw=None, frame_kw=None):
        """Plot a line of tiles for each query.

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
            an array needs ``1 + n_best + n_worst`` Axes per query. None opens a figure.
        contour_kw : dict, default=None
            Keywords of the masks' :class:`matplotlib.collections.LineCollection`.
        frame_kw : dict, default=None
            Keywords of the :class:`matplotlib.patches.Rectangle` of all frames.

        Returns
        -------
        RetrievalDisplay
            The display, with all its attributes.

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, `table` lacks a column, or
            `show` needs projections and no tile has one.

        See Also
        --------
        RetrievalDisplay.from_estimator : Compute and plot.
        RetrievalDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.plotting import RetrievalDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> display = RetrievalDisplay.from_embeddings(embeddings, X, queries=0)
        >>> display = display.plot(captions="image_id", contour_kw={"color": "yellow"})
        >>> len(display.outlines_)
        7
        >>> plt.close("all")
        """
        show = choose_show(show, self.tiles.values())
        named = choose_captions(captions, self.table)
        texts = read_captions(named, self.table)
        self.outlines_ = []
        with open_grid(self, ax, self._lay_out(ax, len(named))) as (_, axes):
            self.frames_ = np.full(axes.shape, None, dtype=object)
            for line, query in enumerate(self.queries):
                for column, row in enumerate([query, *self.matches[line]]):
                    self._plot_tile(line, column, int(row), next(texts), show, contour_kw)
                    if (style := self._choose_frame(line, column)) is not None:
                        frame = draw_frame(axes[line, column], style, frame_kw)
                        self.frames_[line, column] = frame
        return self

    def _lay_out(self, ax, n_captions):
        """Lay out the query, the near and the far rows, with the metric above the near rows."""
        n_worst = self.matches.shape[1] - self.n_best
        groups = (("query", 1), ("nearest", self.n_best), ("farthest", n_worst))
        layout = Layout(len(self.queries), groups[: 2 + (n_worst > 0)], n_captions=n_captions)
        if self.metric is None or np.ndim(ax):
            return layout
        width = layout.width if ax is None else ax.get_window_extent().width / ax.figure.dpi
        letters = int(width * 72 * self.n_best / layout.n_columns / (_LETTER * FONT_SIZE))
        heading = "\n".join(wrap(f"nearest ({self.metric} distance)", max(10, letters)))
        return replace(layout, groups=(groups[0], (heading, self.n_best), *layout.groups[2:]))

    def _plot_tile(self, line, column, row, captions, show, contour_kw):
        ax = self.axes_[line, column]
        self.outlines_ += draw_tile(ax, self.tiles[row], show, contour_kw)
        title = self._title(ax, line, column, row)
        ax.set_title(title, fontsize=SMALL_FONT_SIZE, pad=3, family=font_with_marks())
        write_below(ax, [], captions, fontsize=SMALL_FONT_SIZE, labelpad=2)

    def _is_right(self, line, column):
        """Return whether a near row has the concept of the query, or None for other tiles."""
        if self.relevant is None or not 0 < column <= self.n_best:
            return None
        return bool(self.relevant[line, column - 1])

    def _choose_frame(self, line, column):
        if column == 0:
            return NEUTRAL
        return {True: RIGHT, False: WRONG, None: None}[self._is_right(line, column)]

    def _title(self, ax, line, column, row):
        name = (self.names or {}).get(row, f"row {row}")
        if column == 0:
            return fit_text(ax, name)
        name = fit_text(ax, mark_name(self._is_right(line, column), name), n_lines=1)
        return f"{name}\n{format_number(self.distances[line, column - 1])}"


def _check_queries(queries, kept, n_candidates, n_matches):
    """Check that queries did not fail, and that there are enough rows."""
    failed = np.setdiff1d(queries, kept)
    if failed.size:
        raise ValueError(
            f"queries contains {failed[0]}, whose embedding is not finite; choose a row that did "
            "not fail."
        )
    if not queries.size or n_candidates < n_matches:
        raise ValueError(
            f"{n_matches} matches of {queries.size} queries need at least one query and "
            f"{n_matches} other rows, but there are {n_candidates}; choose smaller n_best and "
            "n_worst."
        )


def _rank(rows, queries, candidates, depths, metric, exclusion):
    """Return positions and distances of both ends of each ranking."""
    kept, (n_best, n_worst) = rows.kept, depths
    space = RowDistances(rows.embeddings[kept], metric)
    matches, distances = [], []
    for part, chunk in space.blocks(np.searchsorted(kept, queries), candidates):
        masks = (line for _, mask in exclusion.masks(part) for line in mask)
        for row, values, is_out in zip(part, chunk, masks, strict=True):
            others = np.flatnonzero(~is_out[: len(candidates)])
            if not len(others):
                raise ValueError(
                    f"The query {kept[row]} has no row to find: groups or exclude leave out all "
                    "rows. Choose another query, or smaller groups."
                )
            if len(others) < n_best + n_worst:
                raise ValueError(
                    f"The query {kept[row]} has {len(others)} rows in other groups, but needs "
                    f"{n_best + n_worst} matches; choose smaller n_best and n_worst."
                )
            order = others[_order(values[others], metric)]
            order = np.r_[order[:n_best], order[len(order) - n_worst :]]
            matches.append(kept[order])
            distances.append(values[order])
    return np.array(matches), np.array(distances)


def _order(distances, metric):
    """Sort by distance, and keep the order of ties."""
    order = np.argsort(distances, kind="stable")
    ranked = distances[order]
    apart = np.diff(ranked) > tie_tolerance(ranked[1:], metric)
    return order[np.lexsort((order, np.concatenate([[0], np.cumsum(apart)])))]
