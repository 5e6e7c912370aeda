"""Projections of vectors, beside the masks."""

import numpy as np
from sklearn.utils._param_validation import StrOptions, validate_params

from .._samples.table import as_samples, part_of, read_rows
from .._validation import match_rows
from ..metrics import mask_iou
from ._captions import choose_captions, describe_tiles, read_captions, write_below
from ._drawing import TINT, draw_outline, fit_text, show_tile, tint
from ._grid import Layout, open_grid
from ._inputs import check_lengths, concept_names
from ._style import SMALL_FONT_SIZE, merge_style
from ._tiles import TILE_SIZE, Tile, check_positions, make_tile, project_rows

_MOST_ROWS = 40  # which fit on a page
_MAX_COLUMNS = (4, 8)  # of a figure with the width of a column, and of a page
_TINT_SHARE = 0.65
_LEVEL = "#D55E00"  # of the threshold; it is visible on all colors of the map
_LEVEL_STYLE = {"linewidth": 0.6, "path_effects": []}
_COUNTS = ("iou", "n_hit", "n_missed", "n_spilled")
_UNKNOWN = (np.nan,) * len(_COUNTS)  # of a row without a projection
# Distinct for color-blind readers, and in gray.
_ERRORS = {"hit": "#56B4E9", "missed": "#D55E00", "spilled": "#F0E442"}


class ProjectionDisplay:
    """Images with the outlines of their masks, and projections of vectors below them.

    It is recommended to use :meth:`from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    images : list of ndarray of shape (height, width, 3), uint8
        Thumbnails of the rows.
    masks : list of ndarray of shape (height, width), float
        Masks: the covered share of each pixel.
    projections : list of ndarray of shape (height, width), float, or None
        Probabilities. NaN for a vector of NaN, None for a row that failed.
    iou : array-like of shape (n_rows,)
        Intersection over union of mask and projection, at the size of the image.
    names : array-like of shape (n_rows,), default=None
        Concepts.
    threshold : float, default=0.5
        Pixels above it belong to the projection.
    table : DataFrame of n_rows rows, default=None
        Rows shown, with the index of the table of samples. The columns are ``position``, ``iou``,
        the numbers of pixels ``n_hit`` (in mask and projection), ``n_missed`` (only in the mask)
        and ``n_spilled`` (only in the projection), and those of the samples without ``mask``, and
        without ``image`` unless it contains paths.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        Axes that was divided. None if an array of Axes was given.
    axes_ : ndarray of shape (n_lines, n_cols) of Axes
        Images in even lines, and their projections in the lines below.
    figure_ : matplotlib Figure
    outlines_ : list of LineCollection
        Outlines of the masks, on the image and on the projection of each row in turn.
    levels_ : list of LineCollection
        Lines of the threshold on each map of probabilities.
    colorbar_ : Colorbar or None
        Scale of the probabilities, or of hit, missed and spilled pixels.

    See Also
    --------
    sklearn_loce.LoCETransformer.project : Compute the projections at full size.
    RetrievalDisplay, ClusterGalleryDisplay, OutlierDisplay : Tiles with projections.

    Notes
    -----
    IoU and numbers of pixels refer to the size of the image; pictures have the size of the
    thumbnails. Mikriukov, Schwalbe and Bade (IJCV 2025) show masks beside projections in this way.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.plotting import ProjectionDisplay
    >>> X = make_scenes(1, random_state=0).data
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
    >>> display = ProjectionDisplay.from_estimator(loce, X, rows=[0, 3])
    >>> counts = display.table[["n_hit", "n_missed", "n_spilled"]]
    >>> bool((display.iou == counts["n_hit"] / counts.sum(axis=1)).all())
    True
    >>> plt.close(display.figure_)
    """

    def __init__(self, *, images, masks, projections, iou, names=None, threshold=0.5, table=None):
        self.images = images
        self.masks = masks
        self.projections = projections
        self.iou = iou
        self.names = names
        self.threshold = threshold
        self.table = table

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        embeddings=None,
        *,
        y=None,
        rows=None,
        layer=None,
        crop=False,
        tile_size=TILE_SIZE,
        **plot_kw,
    ):
        """Project vectors of some rows and plot them.

        Parameters
        ----------
        estimator : LoCETransformer, ConceptSegmenter or Net2VecSegmenter
            Fitted estimator. A segmenter uses the vector of each row's concept, in the column
            ``concept``.
        X : DataFrame or list of (image, mask) pairs
            Table of samples. Only the images of the rows shown are read.
        embeddings : array-like of shape (n_samples, n_features), default=None
            One vector per row of X, such as LoCEs or centroids. None optimizes LoCEs.
        y : array-like of shape (n_samples,), default=None
            Concepts for the titles. None uses the column ``concept`` if the table has one.
        rows : int or array-like of int, default=None
            Positions of the rows to show. None shows all rows, at most 40.
        layer : str or Joined, default=None
            Layer to project. Optional if there is only one.
        crop : bool, default=False
            Whether to show only the surroundings of the mask.
        tile_size : int, default=256
            Length of the longer side of stored thumbnails, in pixels.
        **plot_kw : dict
            Passed to :meth:`plot`.

        Returns
        -------
        ProjectionDisplay

        Raises
        ------
        TypeError
            If the estimator cannot project.
        ValueError, FileNotFoundError
            If a row is out of range, lengths differ, or a row cannot be read or projected.

        See Also
        --------
        ProjectionDisplay.plot : Draw the same projections in another way.
        sklearn_loce.LoCETransformer.project : Compute the projections at full size.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.plotting import ProjectionDisplay
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> display = ProjectionDisplay.from_estimator(loce, X, rows=[0, 3], crop=True)
        >>> display.axes_.shape
        (2, 2)
        >>> plt.close("all")
        """
        samples, embeddings, y = match_rows(X=as_samples(X), embeddings=embeddings, y=y)
        names = concept_names(y, samples)
        check_lengths(len(samples), embeddings=embeddings)
        rows = _choose(rows, len(samples))
        vectors = None if embeddings is None else np.asarray(embeddings)[rows]
        drawn = project_rows(estimator, samples.iloc[rows], vectors, layer)
        threshold = getattr(estimator, "threshold", 0.5)
        shown = [
            _shrink(part_of(samples, [row]), probabilities, threshold, crop, tile_size)
            for row, probabilities in zip(rows, drawn, strict=True)
        ]
        tiles, projections, *counts = zip(*shown, strict=True)
        display = cls(
            images=[tile.image for tile in tiles],
            masks=[tile.mask for tile in tiles],
            projections=list(projections),
            iou=np.array(counts[0]),
            names=None if names is None else names[rows],
            threshold=threshold,
            table=describe_tiles(samples, rows, names, **dict(zip(_COUNTS, counts, strict=True))),
        )
        return display.plot(**plot_kw)

    @validate_params(
        {
            "self": "no_validation",
            "kind": [StrOptions({"probability", "mask", "errors"})],
            "n_cols": "no_validation",
            "colorbar": ["boolean"],
            "captions": "no_validation",
            "ax": "no_validation",
            "contour_kw": [dict, None],
            "level_kw": [dict, None],
            "image_kw": [dict, None],
        },
        prefer_skip_nested_validation=True,
    )
    def plot(
        self,
        *,
        kind="probability",
        n_cols=None,
        colorbar=True,
        captions=None,
        ax=None,
        contour_kw=None,
        level_kw=None,
        image_kw=None,
    ):
        """Plot images, and their projections below them.

        Parameters
        ----------
        kind : {"probability", "mask", "errors"}, default="probability"
            How to draw projections: as maps of probabilities with a line at the threshold of the
            IoU; as gray images with pixels above the threshold in color; or as gray images with
            three colors for hit, missed and spilled pixels.
        n_cols : int, default=None
            Number of columns. None uses up to 4 in a figure with the width of a paper column, and
            8 in one with the width of a page.
        colorbar : bool, default=True
            Whether to add a scale of the colors. An array of Axes gets none.
        captions : str or list of str, default=None
            Columns of `table` to write below each projection, one line each, such as
            ``["annotation_id", "score"]``.
        ax : Axes or array-like of Axes, default=None
            A single Axes is divided, best in a figure with ``layout="constrained"``;
            an array needs two lines for every `n_cols` rows. None opens a figure.
        contour_kw : dict, default=None
            Keywords of the masks' :class:`matplotlib.collections.LineCollection`.
        level_kw : dict, default=None
            Keywords of the same for the lines of the threshold.
        image_kw : dict, default=None
            Keywords of ``imshow`` for maps of probabilities, such as ``{"cmap": "viridis"}``.

        Returns
        -------
        ProjectionDisplay
            The display, with all its attributes.

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, or `table` lacks a column.

        See Also
        --------
        ProjectionDisplay.from_estimator : Project rows and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.plotting import ProjectionDisplay
        >>> X = make_scenes(1, random_state=0).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2").fit(X)
        >>> display = ProjectionDisplay.from_estimator(loce, X, rows=[0, 3])
        >>> display = display.plot(kind="errors", captions=["n_hit", "n_missed"])
        >>> plt.close("all")
        """
        n_rows = len(self.images)
        n_cols = count_columns(n_rows) if n_cols is None else n_cols
        has_bar = colorbar and kind != "mask" and np.ndim(ax) == 0
        n_lines = 2 * -(-n_rows // n_cols)
        named = choose_captions(captions, self.table)
        texts = read_captions(named, self.table)
        layout = Layout(n_lines, (("", n_cols),), n_captions=len(named))
        self.outlines_, self.levels_, self.colorbar_ = [], [], None
        style = {"kind": kind, "contour_kw": contour_kw, "level_kw": level_kw}
        with open_grid(self, ax, layout) as (_, axes):
            pairs = pair_axes(axes, n_rows)
            maps = [
                self._plot_row(i, *pair, **style, image_kw=image_kw or {})
                for i, pair in enumerate(pairs)
            ]
            for lower, lines in zip(pairs[:, 1], texts, strict=False):
                write_below(lower, [], lines, fontsize=SMALL_FONT_SIZE, labelpad=2)
            if has_bar and kind == "errors":
                self._name_errors()
            elif has_bar and any(maps):
                self._add_colorbar(next(filter(None, maps)))
        return self

    def _plot_row(self, i, image_ax, projection_ax, kind, contour_kw, level_kw, image_kw):
        """Draw the image and the projection of a row, and return a map of probabilities or None."""
        from matplotlib.collections import LineCollection

        show_tile(image_ax, self.images[i])
        image_ax.set_title(self._title(image_ax, i), fontsize=SMALL_FONT_SIZE, pad=2)
        self.outlines_.append(draw_outline(image_ax, self.masks[i], contour_kw))
        probabilities = self.projections[i]
        if probabilities is None or not np.isfinite(probabilities).any():
            show_tile(projection_ax, np.full_like(self.images[i], 235))
            what = {"ha": "center", "va": "center", "fontsize": SMALL_FONT_SIZE}
            projection_ax.text(0.5, 0.5, "none", transform=projection_ax.transAxes, **what)
            return None
        if kind == "errors":
            show_tile(projection_ax, self._tint_errors(i))
            return None
        if kind == "mask":
            show_tile(projection_ax, self._tint_drawn(i))
            shown = None
        else:
            style = {"cmap": "cividis", "vmin": 0.0, "vmax": 1.0} | image_kw
            shown = show_tile(projection_ax, probabilities, **style)
        self.outlines_.append(draw_outline(projection_ax, self.masks[i], contour_kw))
        if shown:  # On top, because the line of the mask is wider.
            style = merge_style(LineCollection, {"color": _LEVEL} | _LEVEL_STYLE, level_kw)
            level = draw_outline(projection_ax, probabilities, style, level=self.threshold)
            self.levels_.append(level)
        return shown

    def _title(self, ax, i):
        iou = f"IoU {self.iou[i]:.2f}" if np.isfinite(self.iou[i]) else "no IoU"
        return iou if self.names is None else f"{fit_text(ax, self.names[i])}\n{iou}"

    def _tint_drawn(self, i):
        """Return the image in gray, with the projection in color."""
        return tint(self._gray(i), [TINT], [_TINT_SHARE * (self.projections[i] > self.threshold)])

    def _tint_errors(self, i):
        """Return the image in gray, with hit, missed and spilled shares of pixels in color."""
        drawn, mask = self.projections[i] > self.threshold, self.masks[i]
        shares = [mask * drawn, mask * ~drawn, (1 - mask) * drawn]
        return tint(self._gray(i), list(_ERRORS.values()), [_TINT_SHARE * part for part in shares])

    def _gray(self, i):
        return np.repeat(self.images[i].mean(axis=2, keepdims=True), 3, axis=2)

    def _add_colorbar(self, shown):
        self._draw_bar(shown, f"probability, with a line at {self.threshold:g}")
        self.colorbar_.set_ticks(sorted({0.0, self.threshold, 1.0}))
        self.colorbar_.ax.axvline(self.threshold, color=_LEVEL, linewidth=1)

    def _name_errors(self):
        """Add a scale of three colors, which names the errors."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import BoundaryNorm, ListedColormap

        places = np.arange(len(_ERRORS))
        norm = BoundaryNorm([*places, len(places)], len(places))
        self._draw_bar(ScalarMappable(norm, ListedColormap(list(_ERRORS.values()))))
        self.colorbar_.set_ticks(places + 0.5, labels=list(_ERRORS))
        self.colorbar_.ax.tick_params(length=0)

    def _draw_bar(self, shown, label=""):
        where = {"location": "bottom", "aspect": 40, "shrink": 0.8, "pad": 0.01}
        self.colorbar_ = self.figure_.colorbar(shown, ax=list(self.axes_.ravel()), **where)
        self.colorbar_.set_label(label, fontsize=SMALL_FONT_SIZE)
        self.colorbar_.ax.tick_params(labelsize=SMALL_FONT_SIZE)


def count_columns(n_pairs):
    """Choose the number of columns of images with projections below them.

    Parameters
    ----------
    n_pairs : int

    Returns
    -------
    int
    """
    narrow, wide = _MAX_COLUMNS
    return min(n_pairs, narrow if n_pairs <= 3 * narrow else wide)


def pair_axes(axes, n_pairs):
    """Return the Axes of each image and of its projection, and empty the others.

    Parameters
    ----------
    axes : ndarray of shape (n_lines, n_cols) of Axes
        Images in even lines.
    n_pairs : int

    Returns
    -------
    ndarray of shape (n_pairs, 2) of Axes
    """
    pairs = axes.reshape(-1, 2, axes.shape[1]).transpose(0, 2, 1).reshape(-1, 2)
    for spare in pairs[n_pairs:].ravel():
        spare.set_axis_off()
    return pairs[:n_pairs]


def _choose(rows, n_samples):
    if rows is not None:
        rows = check_positions(rows, n_samples)
    elif n_samples <= _MOST_ROWS:
        rows = np.arange(n_samples)
    else:
        raise ValueError(
            f"X has {n_samples} rows, which are too many to plot; choose some, as in rows=[0, 7]."
        )
    if not len(rows):
        raise ValueError("rows is empty; pass the positions of the rows to plot.")
    return rows


def _shrink(row, probabilities, threshold, crop, tile_size):
    """Return the tile of a single row, its projection at that size, the IoU and the counts."""
    if probabilities is None:
        return _tile_of_failed(tile_size), None, *_UNKNOWN
    image, (mask,) = read_rows(row, np.array([0]))
    tile = make_tile(image, mask, size=tile_size, crop=crop)
    projection = tile.shrink(probabilities)
    if not mask.any() or np.isnan(probabilities).any():
        return tile, projection, *_UNKNOWN
    drawn = probabilities > threshold
    counts = [np.count_nonzero(part) for part in (mask & drawn, mask & ~drawn, drawn & ~mask)]
    return tile, projection, mask_iou(mask, drawn), *counts


def _tile_of_failed(size):
    """Return a gray tile, because the image of a failed row may be unreadable."""
    shape = round(0.75 * size), size
    gray = np.full((*shape, 3), 235, dtype=np.uint8)
    return Tile(gray, np.zeros(shape, dtype=np.float32), (0, 0, *shape[::-1]))
