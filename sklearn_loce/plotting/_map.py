"""Display of LoCEs as points in a plane."""

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d

from .._validation import match_rows
from ._legend import add_legend
from ._map_mixture import FittedMixture, check_labels, fit_gaussians
from ._map_names import find_places, name_on_map, write_name, write_names
from ._map_parts import check_coordinates, fade, find_coordinates, find_extent
from ._names import literal
from ._rows import embed, finite_rows, last_step
from ._style import (
    COLUMN_WIDTH,
    GRAY,
    PAGE_WIDTH,
    concept_styles,
    even_size,
    find_ground,
    lighten,
    merge_style,
    open_axes,
)

_MOST_VECTORS = 2000
_COLUMN_NAMES = 24  # with more names, a map with a legend is as wide as a page
_LEGEND_MARK = 22  # size of a disk in the legend
_PALE = 0.22  # share of a concept's color in its region


class ConceptMapDisplay:
    """Map of LoCEs in a plane, with colors and markers for concepts and ellipses for mixtures.

    It is recommended to use :meth:`from_estimator` or :meth:`from_embeddings`. All parameters are
    stored as attributes.

    Parameters
    ----------
    coordinates : array-like of shape (n_samples, 2)
        Coordinates of each row.
    y : array-like of shape (n_samples,), default=None
        Concept of each row.
    means : array-like of shape (n_components, 2), default=None
        Means of Gaussians, in the plane of the map.
    covariances : array-like of shape (n_components, 2, 2), default=None
        Their covariances.
    component_concepts : array-like of shape (n_components,), default=None
        Concept of each Gaussian. None if the mixture has no concepts.
    component_names : array-like of shape (n_components,), default=None
        Names of Gaussians without concepts. None uses their numbers.
    component_majorities : array-like of shape (n_components,), default=None
        Most frequent concept of each Gaussian, which is written if it fits.
    regions : array-like of shape (n_rows, n_columns), default=None
        Most probable concept or component at each place. The first row is at the bottom.
    extent : tuple of float, default=None
        Left, right, bottom and top of the regions.
    axis_names : tuple of str, default=("", "")
        Labels of the axes.
    n_failed : int, default=0
        Number of rows left out because their LoCE failed.

    Attributes
    ----------
    scatter_ : dict of str to matplotlib PathCollection
        Points of each concept, or of all rows under the key None without `y`. More than 2000
        points become an image in PDF and SVG files.
    ellipses_ : list of matplotlib Ellipse
        One per Gaussian.
    text_ : list of matplotlib Text
        Names of the Gaussians without concepts.
    names_ : dict of str to matplotlib Text
        Names of concepts on the map.
    im_ : matplotlib AxesImage or None
        Regions.
    ax_ : matplotlib Axes
        Axes with the map. Units are equal in both directions.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    sklearn_loce.mixture.ConceptGaussianMixture : Find the sub-concepts of each concept.
    to_html : The same map for the browser, with images.

    Notes
    -----
    Mikriukov, Schwalbe and Bade (IJCV 2025) fit Gaussian mixtures to such maps by UMAP.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_loce.plotting import ConceptMapDisplay
    >>> iris = load_iris()
    >>> names = iris.target_names[iris.target]
    >>> display = ConceptMapDisplay.from_embeddings(
    ...     iris.data, names, embedding="pca", random_state=0
    ... )
    >>> display.coordinates.shape, len(display.scatter_)
    ((150, 2), 3)
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        coordinates,
        y=None,
        *,
        means=None,
        covariances=None,
        component_concepts=None,
        component_names=None,
        component_majorities=None,
        regions=None,
        extent=None,
        axis_names=("", ""),
        n_failed=0,
    ):
        self.coordinates = coordinates
        self.y = y
        self.means = means
        self.covariances = covariances
        self.component_concepts = component_concepts
        self.component_names = component_names
        self.component_majorities = component_majorities
        self.regions = regions
        self.extent = extent
        self.axis_names = axis_names
        self.n_failed = n_failed

    def plot(
        self,
        *,
        ax=None,
        palette=None,
        n_std=2.0,
        legend=True,
        scatter_kw=None,
        ellipse_kw=None,
        im_kw=None,
    ):
        """Plot the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to plot into. None opens a figure with the width of a paper column, or of a page if
            more than 24 concepts have names.
        palette : dict or sequence, default=None
            Colors of concepts. A dict maps a concept, or a tuple of concepts, to a color. Other
            concepts get unused colors. A sequence lists all concepts of a study: each concept then
            has the same color and marker in every figure, even if some concepts have no rows.
        n_std : float, default=2.0
            Radius of the ellipses in standard deviations. The default encloses 86 % of a Gaussian.
        legend : bool or "on map", default=True
            Whether to name the concepts below the axes. "on map" writes each name among the rows of
            its concept if it fits, and the other names below the axes.
        scatter_kw : dict, default=None
            Keywords of the points, as of :meth:`matplotlib.axes.Axes.scatter`.
        ellipse_kw : dict, default=None
            Keywords of the ellipses, :class:`matplotlib.patches.Ellipse`.
        im_kw : dict, default=None
            Keywords of the regions, as of :meth:`matplotlib.axes.Axes.imshow`.

        Returns
        -------
        ConceptMapDisplay
            The display, with all its attributes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If lengths or shapes do not match, `legend` is invalid, or the palette has none of the
            concepts.

        See Also
        --------
        ConceptMapDisplay.from_estimator : Compute and plot.
        ConceptMapDisplay.from_embeddings : Plot given embeddings.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn_loce.plotting import ConceptMapDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> display = ConceptMapDisplay.from_embeddings(X, y, embedding="pca", mixture=None)
        >>> display = display.plot(palette={0: "red", (1, 2): "blue"}, legend="on map")
        >>> sorted(display.names_)
        [0, 1, 2]
        >>> plt.close("all")
        """
        coordinates, y = self._check()
        self._styles = self._choose_styles(y, palette)
        if legend not in (True, False, "on map"):
            raise ValueError(f'legend={legend!r} is not True, False or "on map".')
        given, width, height = ax is not None, *self._choose_size(legend)
        with open_axes(self, ax, width=width, height=height) as ax:
            self._ground = find_ground(ax)
            self.im_ = None if self.regions is None else self._draw_regions(coordinates, im_kw)
            self.scatter_ = self._draw_points(coordinates, y, scatter_kw)
            self._draw_gaussians(n_std, ellipse_kw)
            self._frame(coordinates, "datalim" if given else "box")
            self._number_gaussians()
            self.names_ = self._name(coordinates, y, legend) if self.y is not None else {}
        # Layouts cannot foresee the size of a box, which follows from its limits.
        self.ax_.set_adjustable("datalim")
        return self

    def _choose_styles(self, y, palette):
        if self.y is not None:
            return concept_styles(np.unique(y).tolist(), palette)
        if palette is not None:
            raise ValueError("palette needs concepts; pass y.")
        return {None: (GRAY, "o")}

    def _choose_size(self, legend):
        """Return width and largest height of a figure."""
        if legend and len(self._styles) > _COLUMN_NAMES:
            return PAGE_WIDTH, 6.0 + 0.03 * len(self._styles)
        return COLUMN_WIDTH, 3.4 + 0.05 * len(self._styles) * (legend is True)

    def _name(self, coordinates, y, legend):
        """Write the names of concepts on the map or below it."""
        (_, mark), first = next(iter(self._styles.values())), next(iter(self.scatter_.values()))
        scale = (_LEGEND_MARK * even_size(mark) / first.get_sizes()[0]) ** 0.5
        style = {"markerscale": scale, "handlelength": 0.9}
        if legend == "on map":
            places = find_places(coordinates, y)
            texts = {name: literal(name) for name in places}
            return name_on_map(self.ax_, places, self.scatter_, texts, **style)
        if legend:
            add_legend(self.ax_, list(self.scatter_.values()), **style)
        return {}

    def _check(self):
        coordinates, y = match_rows(coordinates=self.coordinates, y=self.y)
        coordinates = check_coordinates(coordinates, len(coordinates))
        y = np.zeros(len(coordinates)) if y is None else column_or_1d(y)
        check_consistent_length(coordinates, y)
        if (self.means is None) != (self.covariances is None):
            raise ValueError("means and covariances need each other, but one of them is None.")
        if self.means is not None:
            check_consistent_length(self.means, self.covariances, self.component_concepts)
        return coordinates, y

    def _draw_points(self, coordinates, y, scatter_kw):
        from matplotlib.collections import PathCollection

        size = float(np.clip(6500 / len(coordinates), 3, 18))
        dense = {"rasterized": len(coordinates) > _MOST_VECTORS, "zorder": 2}
        look = {"linewidths": 0.25, "edgecolors": self._ground, "alpha": 0.85}
        points = {}
        for name, (color, marker) in self._styles.items():
            x = coordinates if name is None else coordinates[y == name]
            own = {"facecolors": lighten(self.ax_, color), "marker": marker}
            own["label"] = literal(name)
            own["sizes"] = [size * even_size(marker)]
            style = merge_style(PathCollection, look | dense | own, scatter_kw)
            style["s"] = style.pop("sizes") if "s" not in style else style["s"]
            points[name] = self.ax_.scatter(*x.T, **style)
        return points

    def _draw_gaussians(self, n_std, ellipse_kw):
        self.ellipses_ = []
        if self.means is None:
            return
        names = self.component_concepts
        parts = zip(np.asarray(self.means), np.asarray(self.covariances), strict=True)
        for i, (mean, covariance) in enumerate(parts):
            known = names is not None and names[i] in self._styles
            color = self._styles[names[i]][0] if known else self.ax_.xaxis.label.get_color()
            color = lighten(self.ax_, color)
            self.ellipses_.append(self._draw_ellipse(mean, covariance, n_std, color, ellipse_kw))

    def _draw_ellipse(self, mean, covariance, n_std, color, ellipse_kw):
        from matplotlib.patches import Ellipse
        from matplotlib.patheffects import withStroke

        variances, axes = np.linalg.eigh(covariance)
        width, height = 2 * n_std * np.sqrt(np.maximum(variances, 0.0))
        angle = np.degrees(np.arctan2(axes[1, 0], axes[0, 0]))
        halo = [withStroke(linewidth=1.8, foreground=self._ground)]
        look = {"edgecolor": color, "facecolor": "none", "linewidth": 0.9, "path_effects": halo}
        # Below the points, because the halo would hide some of them.
        style = merge_style(Ellipse, look | {"zorder": 1.5}, ellipse_kw)
        return self.ax_.add_patch(Ellipse(mean, width, height, angle=angle, **style))

    def _number_gaussians(self):
        """Write the names of Gaussians without concepts, with their majorities if these fit."""
        self.text_ = []
        if self.means is None or self.component_concepts is not None:
            return
        means = np.asarray(self.means)
        names = range(len(means)) if self.component_names is None else self.component_names
        most = self.component_majorities
        most = [""] * len(means) if most is None else most
        texts = [literal(f"{name} {own}".strip()) for name, own in zip(names, most, strict=True)]
        places = {i: [mean] for i, mean in enumerate(means)}
        written = write_names(self.ax_, places, dict(enumerate(texts)))
        for i, name in enumerate(names):
            self.text_.append(written.get(i) or write_name(self.ax_, means[i], literal(name)))

    def _draw_regions(self, coordinates, im_kw):
        """Draw pale regions, which fade far from the rows, and borders between them."""
        from matplotlib.colors import to_rgb, to_rgba_array
        from matplotlib.image import AxesImage

        names, codes = np.unique(np.asarray(self.regions), return_inverse=True)
        codes = codes.reshape(np.shape(self.regions))
        if self.component_concepts is None:
            colors, border = [self._ground] * len(names), GRAY
        else:
            colors, border = [self._styles[name][0] for name in names.tolist()], self._ground
        pale = (1 - _PALE) * np.array(to_rgb(self._ground)) + _PALE * to_rgba_array(colors)[:, :3]
        look = {"origin": "lower", "extent": self.extent, "interpolation": "nearest", "zorder": 0}
        opacity = fade(coordinates, codes.shape, self.extent)
        picture = np.dstack([pale[codes], opacity])
        image = self.ax_.imshow(picture, **merge_style(AxesImage, look, im_kw))
        line = {"levels": [0.5], "colors": border, "linewidths": 0.9, "zorder": 1}
        for code in range(len(names) * (len(names) > 1)):
            place = np.ma.masked_where(opacity == 0, codes == code)
            self.ax_.contour(place, extent=self.extent, origin="lower", **line)
        return image

    def _frame(self, coordinates, adjustable):
        """Set limits and equal units, and omit ticks."""
        from matplotlib.transforms import Bbox

        left, right, bottom, top = self.extent or find_extent(coordinates)
        box = Bbox.from_extents(left, bottom, right, top)
        if self.regions is None:
            ellipses = [e.get_path().get_extents(e.get_patch_transform()) for e in self.ellipses_]
            box = Bbox.union([box, *ellipses])
        self.ax_.set(xticks=[], yticks=[])
        # With fixed limits, Matplotlib would warn when it widens them.
        self.ax_.set_xlim(*box.intervalx, auto=None)
        self.ax_.set_ylim(*box.intervaly, auto=None)
        self.ax_.set_aspect("equal", adjustable=adjustable)
        self.ax_.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1])

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, embedding=None, mixture="auto", **kwargs):
        """Transform rows and plot them in a plane.

        Parameters
        ----------
        estimator : estimator
            Fitted :class:`~sklearn_loce.LoCETransformer`, other transformer, or Pipeline. The final
            clusterer or mixture of a Pipeline is skipped. If it is a mixture of two features, the
            map shows this mixture.
        X : DataFrame or array-like
            Rows as the estimator takes them.
        y : array-like of shape (n_samples,), default=None
            Concept of each row.
        embedding : {"umap", "pca"}, estimator, array-like or None, default=None
            See :meth:`from_embeddings`.
        mixture : "auto", mixture, array-like or None, default="auto"
            See :meth:`from_embeddings`.
        **kwargs : dict
            Passed to :meth:`from_embeddings`.

        Returns
        -------
        ConceptMapDisplay

        Raises
        ------
        ValueError
            As of :meth:`from_embeddings`.
        TypeError
            If the estimator cannot transform rows.

        See Also
        --------
        ConceptMapDisplay.from_embeddings : Plot embeddings that are computed already.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.decomposition import PCA
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn_loce.mixture import ConceptGaussianMixture
        >>> from sklearn_loce.plotting import ConceptMapDisplay
        >>> X, y = load_iris(return_X_y=True)
        >>> pipeline = make_pipeline(PCA(2), ConceptGaussianMixture(1)).fit(X, y)
        >>> display = ConceptMapDisplay.from_estimator(pipeline, X, y)
        >>> len(display.ellipses_) == pipeline[-1].n_components_
        True
        >>> plt.close(display.figure_)
        """
        X, y, embedding, mixture = _match(X, y, embedding, mixture)
        (X,) = embed(estimator, X)
        if isinstance(mixture, str) and embedding is None:
            model = last_step(estimator)
            if hasattr(model, "covariances_") and model.means_.shape[1] == 2:
                mixture = FittedMixture(model)
        return cls.from_embeddings(X, y, embedding=embedding, mixture=mixture, **kwargs)

    @classmethod
    def from_embeddings(
        cls,
        X,
        y=None,
        *,
        embedding=None,
        mixture="auto",
        regions=False,
        random_state=None,
        **kwargs,
    ):
        """Plot embeddings in a plane.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings. Rows that are not finite are left out, and counted in `n_failed`.
        y : array-like of shape (n_samples,), default=None
            Concept of each row.
        embedding : {"umap", "pca"}, estimator, array-like or None, default=None
            Projection to the plane: UMAP, PCA, a clone of an estimator with `fit_transform`, or
            coordinates of shape (n_samples, 2). None uses UMAP, or X itself if it has two columns.
        mixture : "auto", mixture, array-like or None, default="auto"
            Gaussians that the ellipses show, in the plane of the map. A mixture is cloned and
            fitted to the coordinates. Labels of shape (n_samples,), such as clusters, give means
            and covariances; rows with the label -1, and clusters of less than three rows, have no
            ellipse. "auto" fits a :class:`~sklearn_loce.mixture.ConceptGaussianMixture`, which has
            one mixture per concept. ``ConceptGaussianMixture(per_concept=False)`` ignores concepts
            and numbers its components.
        regions : bool, default=False
            Whether to color each place by its most probable concept. For a mixture without
            concepts, the borders of its components are drawn.
        random_state : int, RandomState instance or None, default=None
            Seed of UMAP and of the "auto" mixture. Given estimators have their own seeds.
        **kwargs : dict
            Passed to :meth:`plot`.

        Returns
        -------
        ConceptMapDisplay

        Raises
        ------
        ValueError
            If no row is finite, X and y do not match, coordinates are not two per row, all rows are
            equal or too few for UMAP or PCA, the mixture has no Gaussians, or `regions` is used
            without a mixture.

        See Also
        --------
        ConceptMapDisplay.from_estimator : Compute the embeddings and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn.datasets import make_blobs
        >>> from sklearn_loce.plotting import ConceptMapDisplay
        >>> X, parts = make_blobs([40] * 3, random_state=0, cluster_std=0.3)
        >>> y = [("car", "car", "tree")[part] for part in parts]
        >>> display = ConceptMapDisplay.from_embeddings(X, y, regions=True, random_state=0)
        >>> display.component_concepts.tolist(), len(display.ellipses_)
        (['car', 'car', 'tree'], 3)
        >>> plt.close(display.figure_)
        """
        n_samples = len(X)
        X, y, embedding, mixture = _match(X, y, embedding, mixture)
        X, y, kept, n_failed = finite_rows(X, y)
        if _has_rows(embedding):
            coordinates, names = check_coordinates(embedding, n_samples)[kept], ("", "")
        else:
            coordinates, names = find_coordinates(X, embedding, random_state)
        if _has_rows(mixture):
            mixture = check_labels(mixture, n_samples)[kept]
        found = fit_gaussians(mixture, coordinates, y, regions, random_state)
        display = cls(coordinates, y, axis_names=names, n_failed=n_failed, **found)
        return display.plot(**kwargs)


def _has_rows(value):
    """Return whether a value contains coordinates or labels of rows."""
    is_name = value is None or isinstance(value, str | FittedMixture)
    return not (is_name or hasattr(value, "fit") or hasattr(value, "fit_transform"))


def _match(X, y, embedding, mixture):
    """Match concepts, coordinates and labels with the rows of X."""
    rows = [value if _has_rows(value) else None for value in (embedding, mixture)]
    X, y, coordinates, labels = match_rows(X=X, y=y, embedding=rows[0], mixture=rows[1])
    embedding = embedding if coordinates is None else coordinates
    return X, y, embedding, mixture if labels is None else labels
