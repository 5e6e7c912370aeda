"""Rows whose label may be wrong, with the suggested concept."""

from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._samples.table import as_samples
from .._validation import match_rows
from ._drawing import (
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
from ._inputs import check_lengths
from ._style import SMALL_FONT_SIZE
from ._tiles import TILE_SIZE, check_positions, read_tiles

_N_COLUMNS = 4
_COLUMNS = ("row", "given", "suggested", "confidence")
_AS_WIDE = 0.85  # of a tile; digits are wider than the mean letter


class LabelIssuesDisplay:
    """Rows with their masks, their given concepts and the suggested concepts.

    The lines above each tile show the given concept and, after an arrow, the suggested one. If they
    differ, the given concept has an ✗ and the tile has a dashed frame. The lines below the tile
    show the confidence and, if the table has one, the id of the annotation.

    It is recommended to use :meth:`from_issues`. All parameters are stored as attributes.

    Parameters
    ----------
    issues : DataFrame
        Rows to show, as returned by :func:`sklearn_loce.outliers.label_issues`.
    tiles : list of Tile
        Thumbnail of each row, with the attributes ``image``, ``mask`` and ``projection``.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        Axes that was divided. None if an array of Axes was given.
    axes_ : ndarray of shape (n_lines, n_cols) of Axes
    figure_ : matplotlib Figure
    frames_ : list of Rectangle
    outlines_ : list of LineCollection

    See Also
    --------
    sklearn_loce.outliers.label_issues : Compute the table.
    OutlierDisplay : Rows that are farthest from the other rows of their concept.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> from sklearn_loce.datasets import make_scenes
    >>> from sklearn_loce.outliers import label_issues
    >>> from sklearn_loce.plotting import LabelIssuesDisplay
    >>> X = make_scenes(5, random_state=0).data
    >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
    >>> issues = label_issues(embeddings, X["concept"], groups=X["image_id"])
    >>> display = LabelIssuesDisplay.from_issues(issues, X, n_rows=6)
    >>> display.axes_.shape
    (2, 4)
    >>> plt.close(display.figure_)
    """

    def __init__(self, *, issues, tiles):
        self.issues = issues
        self.tiles = tiles

    @classmethod
    @validate_params(
        {
            "issues": [pd.DataFrame],
            "samples": "no_validation",
            "n_rows": [Interval(Integral, 1, None, closed="left")],
            "embeddings": ["array-like", None],
            "projector": "no_validation",
            "crop": ["boolean"],
            "tile_size": "no_validation",
        },
        prefer_skip_nested_validation=True,
    )
    def from_issues(
        cls,
        issues,
        samples,
        *,
        n_rows=12,
        embeddings=None,
        projector=None,
        crop=False,
        tile_size=TILE_SIZE,
        **plot_kw,
    ):
        """Plot the first rows of a table of issues.

        Parameters
        ----------
        issues : DataFrame
            Table of :func:`sklearn_loce.outliers.label_issues`, or some of its rows.
        samples : DataFrame or list of (image, mask) pairs
            Table of samples that was embedded. Rows are found by label if the index of the issues
            contains labels of the samples, and by position otherwise. Ambiguous indexes raise an
            error. Only the images of the rows shown are read.
        n_rows : int, default=12
            Number of rows to show.
        embeddings : array-like of shape (n_samples, n_features), default=None
            Embeddings of the samples, which a transformer projects. None optimizes LoCEs of the
            rows shown.
        projector : LoCETransformer, ConceptSegmenter or Net2VecSegmenter, default=None
            Fitted estimator that computes the projections of the tiles. None shows no projections.
        crop : bool, default=False
            Whether to show only the surroundings of the mask.
        tile_size : int, default=256
            Length of the longer side of stored thumbnails, in pixels.
        **plot_kw : dict
            Passed to :meth:`plot`.

        Returns
        -------
        LabelIssuesDisplay

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If the issues lack a column or are empty, a row is not among the samples, or an image
            cannot be read.

        See Also
        --------
        sklearn_loce.outliers.label_issues : Compute the table of issues.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.outliers import label_issues
        >>> from sklearn_loce.plotting import LabelIssuesDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> issues = label_issues(embeddings, X["concept"], groups=X["image_id"])
        >>> display = LabelIssuesDisplay.from_issues(issues, X, n_rows=3, crop=True)
        >>> len(display.tiles)
        3
        >>> plt.close("all")
        """
        if lacking := [name for name in _COLUMNS if name not in issues]:
            raise ValueError(f"issues lacks {lacking}; pass the table of label_issues.")
        if issues.empty:
            raise ValueError("issues has no rows, so there is nothing to plot.")
        issues = issues.iloc[:n_rows]
        samples, embeddings = match_rows(samples=as_samples(samples), embeddings=embeddings)
        check_lengths(len(samples), embeddings=embeddings)
        rows = _find_rows(issues, samples)
        how = {"projector": projector, "vectors": embeddings}
        tiles = read_tiles(samples, rows, size=tile_size, crop=crop, **how)
        return cls(issues=issues, tiles=[tiles[row] for row in rows]).plot(**plot_kw)

    @validate_params(
        {
            "self": "no_validation",
            "show": [StrOptions({"mask", "projection", "both"}), None],
            "n_cols": [Interval(Integral, 1, None, closed="left"), None],
            "ax": "no_validation",
            "contour_kw": [dict, None],
            "frame_kw": [dict, None],
        },
        prefer_skip_nested_validation=True,
    )
    def plot(self, *, show=None, n_cols=None, ax=None, contour_kw=None, frame_kw=None):
        """Plot a tile for each row.

        Parameters
        ----------
        show : {"mask", "projection", "both"}, default=None
            Parts of each tile beside the image: the white outline of the mask, the projection in
            orange, or both. None shows both if there are projections, and the mask otherwise.
        n_cols : int, default=None
            Number of columns of tiles. None uses up to 4.
        ax : Axes or array-like of Axes, default=None
            A single Axes is divided, best in a figure with ``layout="constrained"``;
            an array needs lines of `n_cols` Axes. None opens a figure.
        contour_kw : dict, default=None
            Keywords of the masks' :class:`matplotlib.collections.LineCollection`.
        frame_kw : dict, default=None
            Keywords of the :class:`matplotlib.patches.Rectangle` of all frames.

        Returns
        -------
        LabelIssuesDisplay
            The display, with all its attributes.

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, or `show` needs projections and
            no tile has one.

        See Also
        --------
        LabelIssuesDisplay.from_issues : Read the rows of a table of issues and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.datasets import make_scenes
        >>> from sklearn_loce.outliers import label_issues
        >>> from sklearn_loce.plotting import LabelIssuesDisplay
        >>> X = make_scenes(5, random_state=0).data
        >>> embeddings = np.random.RandomState(0).normal(size=(len(X), 3))
        >>> issues = label_issues(embeddings, X["concept"], groups=X["image_id"])
        >>> display = LabelIssuesDisplay.from_issues(issues, X, n_rows=6).plot(n_cols=3)
        >>> display.axes_.shape
        (2, 3)
        >>> plt.close("all")
        """
        show = choose_show(show, self.tiles)
        n_cols = n_cols or min(len(self.issues), _N_COLUMNS)
        layout = Layout(-(-len(self.issues) // n_cols), (("", n_cols),))
        self.outlines_, self.frames_ = [], []
        with open_grid(self, ax, layout) as (_, axes):
            for spare in axes.ravel()[len(self.issues) :]:
                spare.set_axis_off()
            issues = self.issues.to_dict("records")
            for tile_ax, tile, issue in zip(axes.ravel(), self.tiles, issues, strict=False):
                self._plot_tile(tile_ax, tile, issue, show, contour_kw, frame_kw)
        return self

    def _plot_tile(self, ax, tile, issue, show, contour_kw, frame_kw):
        is_wrong = issue["suggested"] != issue["given"]
        self.outlines_ += draw_tile(ax, tile, show, contour_kw)
        self.frames_.append(draw_frame(ax, WRONG if is_wrong else RIGHT, frame_kw))
        given = mark_name(False if is_wrong else None, issue["given"])
        texts = {"fontsize": SMALL_FONT_SIZE, "family": font_with_marks()}
        title = [fit_text(ax, text, n_lines=1) for text in (given, f"→ {issue['suggested']}")]
        ax.set_title("\n".join(title), pad=3, **texts)
        ax.set_xlabel("\n".join(_write_below(ax, issue)), labelpad=2, **texts)


def _write_below(ax, issue):
    """List the lines below a tile: the confidence and the id of the annotation."""
    confidence = issue["confidence"]
    lines = ["not judged" if np.isnan(confidence) else format_number(confidence)]
    if (name := issue.get("annotation_id")) is not None:
        name = ", ".join(map(str, name)) if isinstance(name, tuple) else name
        lines.append(fit_text(ax, name, n_lines=1, n_tiles=_AS_WIDE))
    return lines


def _find_rows(issues, samples):
    """Find the positions of issues in a table of samples, by label if it has their labels."""
    rows = check_positions(issues["row"], len(samples), "issues['row']")
    if not samples.index.is_unique:
        return rows
    found = samples.index.get_indexer(issues.index)
    if np.array_equal(issues.index, rows):
        # The index contains positions, or labels that are equal to positions.
        if not np.array_equal(found, rows) and samples.index.isin(range(len(samples))).all():
            raise ValueError(
                f"The index of samples contains 0 to {len(samples) - 1} in another order, so the "
                "numbers of the issues may be labels or positions. Sort the samples as the "
                "embeddings, and call reset_index(drop=True)."
            )
        return rows
    if not (found >= 0).any():
        return rows
    if (found < 0).any():
        absent = issues.index[found < 0][0]
        raise ValueError(
            f"samples has no row {absent!r} of the issues; pass the table that was embedded."
        )
    return found
