"""Queries with the rows that are nearest to them, and those that are farthest."""

from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

from .._distances import RowDistances, tie_tolerance
from .._samples.table import as_samples
from .._validation import match_rows
from ..metrics import _exclusion
from ..metrics._exclusion import read_exclusion
from ._captions import choose_captions, describe_tiles, read_captions, write_below
from ._drawing import (
    MARKS,
    NEUTRAL,
    RIGHT,
    WRONG,
    draw_frame,
    draw_outline,
    fit_text,
    font_with_marks,
    format_number,
    show_tile,
)
from ._grid import Layout, open_grid
from ._inputs import check_inputs
from ._style import SMALL_FONT_SIZE
from ._tiles import TILE_SIZE, check_positions, read_tiles


class RetrievalDisplay:
    """One line of tiles per query: the query, the best matches and the worst.

    A match is right where it shows the query's concept: solid frame and ✓. One that is wrong has
    a dashed frame in another color and ✗.

    Use :meth:`from_embeddings` or :meth:`from_estimator` to make one; parameters are stored as
    attributes.

    Parameters
    ----------
    queries : ndarray of shape (n_queries,), intp
        Positions of the queries.
    matches : ndarray of shape (n_queries, n_best + n_worst), intp
        Positions of their matches, by rising distance.
    distances : ndarray of shape (n_queries, n_best + n_worst), float64
        Distances of the matches from their queries.
    n_best : int
        How many of the matches are the nearest rows; the others are the farthest.
    tiles : dict of {int: Tile}
        Thumbnails by position, with the attributes ``image`` and ``mask``.
    relevant : ndarray of shape (n_queries, n_best + n_worst), bool, default=None
        Whether each match shows its query's concept. None draws no frames around matches.
    names : dict of {int: object}, default=None
        Concepts of the rows shown, by position.
    table : DataFrame of n_tiles rows, default=None
        The rows behind the tiles, in the order in which these are drawn, with the index of the
        table of samples: ``position``, ``query`` and ``distance``, which is NaN for the query
        itself, and the columns of the samples but ``mask``, and ``image`` where it is no path.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        The Axes that was divided; None where an array of Axes was given.
    axes_ : ndarray of shape (n_queries, 1 + n_best + n_worst) of Axes
        The query first.
    figure_ : matplotlib Figure
    frames_ : ndarray of shape (n_queries, 1 + n_best + n_worst) of Rectangle or None
    outlines_ : list of LineCollection
        Of all tiles, line by line.

    See Also
    --------
    sklearn_loce.metrics.precision_at_k : Share of right matches over all queries.

    Notes
    -----
    The retrieval of Mikriukov, Schwalbe and Bade (IJCV 2025). A query is left out of its own
    ranking by its position, so that its duplicates stay; distances that agree to 12 digits are
    ties, which go to the lower position.

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
        table=None,
    ):
        self.queries = queries
        self.matches = matches
        self.distances = distances
        self.n_best = n_best
        self.tiles = tiles
        self.relevant = relevant
        self.names = names
        self.table = table

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, groups=None, **kwargs):
        """Embed a table, and plot what queries find in it.

        Parameters
        ----------
        estimator : transformer
            Fitted, such as a ``LoCETransformer`` or a ``Pipeline`` that starts with one.
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : array-like of shape (n_samples,), default=None
            Concepts. None takes the column ``concept``, if there is one.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            Image or video sequence of each row; see :meth:`from_embeddings`.
        **kwargs : dict
            For :meth:`from_embeddings`; it needs ``queries``.

        Returns
        -------
        RetrievalDisplay

        Raises
        ------
        TypeError
            If the estimator can't transform.
        ValueError, FileNotFoundError
            As :meth:`from_embeddings` and the estimator's ``transform``.
        """
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} has no transform; pass a transformer of tables of "
                "samples, or embeddings to RetrievalDisplay.from_embeddings."
            )
        X, y, groups = match_rows(X=as_samples(X), y=y, groups=groups)
        return cls.from_embeddings(estimator.transform(X), X, y, groups=groups, **kwargs)

    @classmethod
    @validate_params(
        {
            "embeddings": ["array-like"],
            "samples": "no_validation",
            "y": ["array-like", None],
            "queries": [Integral, "array-like"],
            "n_best": [Interval(Integral, 1, None, closed="left")],
            "n_worst": [Interval(Integral, 0, None, closed="left")],
            "metric": [str, callable],
            **_exclusion.PARAMETERS,
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
        n_best=4,
        n_worst=2,
        metric="cosine",
        groups=None,
        exclude=None,
        crop=False,
        tile_size=TILE_SIZE,
        **plot_kw,
    ):
        """Rank all rows by their distance from queries, and plot both ends.

        Parameters
        ----------
        embeddings : array-like of shape (n_samples, n_features)
            Rows with NaN, which failed, are no matches.
        samples : DataFrame or list of (image, mask) pairs
            The table of samples. Only images of the rows shown are read.
        y : array-like of shape (n_samples,), default=None
            Concepts. None takes the column ``concept``, if there is one.
        queries : int or array-like of int
            Positions of the queries.
        n_best, n_worst : int, default=4 and 2
            How many of the nearest and of the farthest rows to show.
        metric : str or callable, default="cosine"
            As of :func:`sklearn_loce.metrics.precision_at_k`.
        groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
            Image or video sequence of each row. Rows of a query's own group are left out of its
            ranking, at both ends, as of :func:`sklearn_loce.metrics.precision_at_k`.
        exclude : float or callable, default=None
            Which rows are left out instead, as of that function.
        crop : bool, default=False
            Whether only the surroundings of the mask are shown.
        tile_size : int, default=256
            Longest side of the stored thumbnails in pixels.
        **plot_kw : dict
            For :meth:`plot`.

        Returns
        -------
        RetrievalDisplay

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If lengths or indexes differ, a query is out of range or NaN, there are too few rows, or
            an image can't be read.
        """
        found = check_inputs(embeddings, samples, y, groups=groups)
        embeddings, samples, names, kept, groups = found
        exclusion = read_exclusion(len(samples), groups, exclude).take(kept)
        queries = check_positions(queries, len(samples), "queries")
        _check_queries(queries, kept, n_best + n_worst)
        matches, distances = _rank(embeddings, kept, queries, n_best, n_worst, metric, exclusion)
        lines = np.column_stack([queries, matches])
        shown = np.unique(lines)
        display = cls(
            queries=queries,
            matches=matches,
            distances=distances,
            n_best=n_best,
            tiles=read_tiles(samples, shown, size=tile_size, crop=crop),
            relevant=None if names is None else names[matches] == names[queries][:, None],
            names=None if names is None else {int(i): names[i] for i in shown},
            table=describe_tiles(
                samples,
                lines.ravel(),
                names,
                query=np.repeat(queries, lines.shape[1]),
                distance=np.insert(distances, 0, np.nan, axis=1).ravel(),
            ),
        )
        return display.plot(**plot_kw)

    def plot(self, *, captions=None, ax=None, contour_kw=None, frame_kw=None):
        """Draw a line of tiles per query.

        Parameters
        ----------
        captions : str or list of str, default=None
            Columns of `table` whose values stand below each tile, one line each, such as
            ``["annotation_id", "score"]``. None writes none.
        ax : Axes or array-like of Axes, default=None
            An Axes is divided, best in a figure with ``layout="constrained"``;
            an array needs ``1 + n_best + n_worst`` Axes per query. None opens
            a figure.
        contour_kw : dict, default=None
            For the :class:`matplotlib.collections.LineCollection` of outlines.
        frame_kw : dict, default=None
            For the :class:`matplotlib.patches.Rectangle` of all frames.

        Returns
        -------
        self : RetrievalDisplay

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, or `table` lacks a column.
        """
        n_worst = self.matches.shape[1] - self.n_best
        groups = (("query", 1), ("nearest", self.n_best), ("farthest", n_worst))
        named = choose_captions(captions, self.table)
        texts = read_captions(named, self.table)
        layout = Layout(len(self.queries), groups[: 2 + (n_worst > 0)], n_captions=len(named))
        self.outlines_ = []
        with open_grid(self, ax, layout) as (_, axes):
            self.frames_ = np.full(axes.shape, None, dtype=object)
            for line, query in enumerate(self.queries):
                self._plot_tile(line, 0, int(query), next(texts), contour_kw)
                self.frames_[line, 0] = draw_frame(axes[line, 0], NEUTRAL, frame_kw)
                for k, match in enumerate(self.matches[line]):
                    self._plot_tile(line, k + 1, int(match), next(texts), contour_kw)
                    if self.relevant is not None:
                        style = RIGHT if self.relevant[line, k] else WRONG
                        self.frames_[line, k + 1] = draw_frame(axes[line, k + 1], style, frame_kw)
        return self

    def _plot_tile(self, line, column, row, captions, contour_kw):
        ax, tile = self.axes_[line, column], self.tiles[row]
        show_tile(ax, tile.image)
        self.outlines_.append(draw_outline(ax, tile.mask, contour_kw))
        title = self._title(ax, line, column, row)
        ax.set_title(title, fontsize=SMALL_FONT_SIZE, pad=3, family=font_with_marks())
        write_below(ax, [], captions, fontsize=SMALL_FONT_SIZE, labelpad=2)

    def _title(self, ax, line, column, row):
        name = f"row {row}" if self.names is None else self.names[row]
        if column == 0:
            return fit_text(ax, name)
        mark = "" if self.relevant is None else MARKS[bool(self.relevant[line, column - 1])] + " "
        name = fit_text(ax, f"{mark}{name}", n_lines=1)
        return f"{name}\n{format_number(self.distances[line, column - 1])}"


def _check_queries(queries, kept, n_matches):
    """Refuse queries that failed, and more matches than there are rows."""
    failed = np.setdiff1d(queries, kept)
    if failed.size:
        raise ValueError(
            f"queries holds {failed[0]}, whose embedding is not finite; choose a row that did not "
            "fail."
        )
    if not queries.size or len(kept) - 1 < n_matches:
        raise ValueError(
            f"{n_matches} matches of {queries.size} queries need at least one query and "
            f"{n_matches + 1} rows, and there are {len(kept)}; choose smaller n_best and n_worst."
        )


def _rank(embeddings, kept, queries, n_best, n_worst, metric, exclusion):
    """Give positions and distances of both ends of each query's ranking."""
    space, every = RowDistances(embeddings[kept], metric), np.arange(len(kept))
    matches, distances = [], []
    for rows, chunk in space.blocks(np.searchsorted(kept, queries), every):
        masks = (line for _, mask in exclusion.masks(rows) for line in mask)
        for row, values, is_out in zip(rows, chunk, masks, strict=True):
            others = np.flatnonzero(~is_out)
            if len(others) < n_best + n_worst:
                raise ValueError(
                    f"The query {kept[row]} has {len(others)} rows in other groups, and needs "
                    f"{n_best + n_worst} matches; choose smaller n_best and n_worst."
                )
            order = others[_order(values[others], metric)]
            order = np.r_[order[:n_best], order[len(order) - n_worst :]]
            matches.append(kept[order])
            distances.append(values[order])
    return np.array(matches), np.array(distances)


def _order(distances, metric):
    """Sort by distance; ties stay in order."""
    order = np.argsort(distances, kind="stable")
    ranked = distances[order]
    apart = np.diff(ranked) > tie_tolerance(ranked[1:], metric)
    return order[np.lexsort((order, np.concatenate([[0], np.cumsum(apart)])))]
