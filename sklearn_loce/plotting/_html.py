"""Function to_html: a map of LoCEs for the browser, in one file."""

import os
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_params

from .._distances import RowDistances, show_rows
from .._network.joined import Joined
from .._samples.table import as_samples, image_key
from .._validation import match_rows
from ..metrics import _exclusion
from ..metrics._exclusion import read_exclusion
from ..metrics._retrieval import rank_candidates
from ._html_columns import describe_columns
from ._html_page import (
    as_text,
    build_plot,
    mark_styles,
    number_colors,
    render_page,
    require_bokeh,
    rounded,
    write_whole,
)
from ._html_rows import draw_rows
from ._inputs import check_lengths
from ._map_parts import find_coordinates
from ._style import GRAY

_BLANK = "(no name)"
_PARAMETERS = {
    "embeddings": ["array-like"],
    "path": [str, os.PathLike],
    "coordinates": [StrOptions({"umap", "pca"}), "array-like"],
    "transformer": [HasMethods("project"), None],
    "layer": [str, Joined, None],
    "clusters": ["array-like", None],
    "iou": ["array-like", None],
    "n_neighbors": [Interval(Integral, 1, None, closed="left")],
    "metric": [str, callable],
    **_exclusion.PARAMETERS,
    "thumbnail_size": [Interval(Integral, 16, 512, closed="both")],
    "crop": ["boolean"],
    "title": [str],
    "columns": ["array-like", None],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


@validate_params(_PARAMETERS, prefer_skip_nested_validation=True)
def to_html(
    embeddings,
    samples,
    path,
    *,
    coordinates="umap",
    transformer=None,
    layer=None,
    clusters=None,
    iou=None,
    n_neighbors=10,
    metric="cosine",
    groups=None,
    exclude=None,
    thumbnail_size=160,
    crop=False,
    title="Concept map",
    columns=None,
    random_state=None,
    verbose=0,
):
    """Write a map of LoCEs to one HTML file, which works in a browser without a network.

    Every row is a point. Pointing at it shows its image with the outline of its mask and, with a
    transformer, its projection. Selecting it lists its nearest neighbors among the embeddings. A
    box, a lasso or a search selects many points and shows their images.

    Any column of the table can color and filter the points. Numbers are filtered by a range and
    texts by a list, or by a part of the text if a column has more than 200 texts. Selected or
    filtered points can be copied, or saved as CSV with the ids of their annotations. The map can be
    saved as PNG.

    Everything works with the keyboard. Instead of a box or a lasso, Space adds the current point to
    the selection, and Control+A selects all points that pass the filters. The address of the page
    stores its state.

    Parameters
    ----------
    embeddings : array-like of shape (n_samples, n_features)
        LoCEs. Rows that are not finite, such as those of empty masks, are left out and counted.
    samples : DataFrame or list of (image, mask) pairs
        Table of samples, with n_samples rows. Its column ``concept`` defines colors and markers;
        without it, all rows have the same concept. Its column ``image_id`` names the images;
        without it, the path or the number of an image is its name.
    path : str or path
        File to write. An existing file is replaced only if the new one is complete.
    coordinates : {"umap", "pca"} or array-like of shape (n_samples, 2), default="umap"
        Coordinates of the points: UMAP or the first two principal components, both computed as in
        :class:`ConceptMapDisplay`, or given. Rows whose coordinates are not finite are left out.
    transformer : LoCETransformer, default=None
        Fitted transformer, which projects the embeddings. None shows no projections.
    layer : str or Joined, default=None
        Layer to project if the transformer has several.
    clusters : array-like of shape (n_samples,), default=None
        Cluster of each row, as a further column.
    iou : array-like of shape (n_samples,), default=None
        IoU of each row in [0, 1] or NaN. None computes it with the transformer, as
        :meth:`LoCETransformer.evaluate` does.
    n_neighbors : int, default=10
        Number of neighbors that a point lists.
    metric : str or callable, default="cosine"
        Distance between embeddings, as in :func:`sklearn_loce.metrics.precision_at_k`.
    groups : array-like of shape (n_samples,) or (n_samples, n_columns), default=None
        Image or video sequence of each row. Neighbors of the same group are not listed, because
        they may show nearly the same picture.
    exclude : float or callable, default=None
        Another rule of rows not to list, as in :func:`sklearn_loce.metrics.precision_at_k`.
    thumbnail_size : int, default=160
        Longer side of the images in pixels, 16 to 512. The file size grows with its square.
    crop : bool, default=False
        Whether images show only the surroundings of the mask, which suits small objects. Each row
        then needs its own image, so the file is larger.
    title : str, default="Concept map"
        Heading of the page.
    columns : list of str, default=None
        Further columns of `samples` to show, search, save, filter and color by, such as
        ``annotation_id``. None uses all columns that contain texts, numbers, or tuples or arrays of
        these, unless their texts exceed 200 letters on average. ``[]`` uses none.
    random_state : int, RandomState instance or None, default=None
        Seed of UMAP. Pass an int to get the same file in every call.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    pathlib.Path
        Path of the file.

    Raises
    ------
    ImportError
        If Bokeh is not installed; the extra ``html`` installs it.
    FileNotFoundError
        If the folder of `path`, an image or a mask file does not exist.
    ValueError
        If lengths or indexes differ, no row is finite, all rows are equal or too few for UMAP or
        PCA, a column is missing or cannot be written as text, or an image or a mask cannot be read.

    See Also
    --------
    ConceptMapDisplay : The same map as a figure.
    LoCETransformer.project : Compute the projections.
    sklearn_loce.utils.UnsupervisedUMAP : UMAP as a transformer.

    Notes
    -----
    The file contains all scripts and pictures. Its security policy forbids to load anything else.
    Texts of the table are shown as text, never as HTML.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.plotting import to_html
    >>> scenes = make_scenes(3, random_state=0).data
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.2")
    >>> embeddings = loce.fit_transform(scenes)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "map.html"
    ...     path = to_html(embeddings, scenes, path, coordinates="pca", transformer=loce)
    ...     path.name, path.stat().st_size < 3e6
    ('map.html', True)
    """
    require_bokeh()
    path, places = _check_path(path), None if isinstance(coordinates, str) else coordinates
    given = {"coordinates": places, "clusters": clusters, "iou": iou, "groups": groups}
    embeddings, samples, places, clusters, iou, groups = match_rows(
        embeddings=embeddings, samples=as_samples(samples), **given
    )
    embeddings = check_array(embeddings, dtype=np.float64, ensure_all_finite=False)
    clusters = None if clusters is None else column_or_1d(clusters)
    given = {"clusters": clusters, "iou": iou}
    if places is not None:
        given["coordinates"] = _check_coordinates(places)
    check_lengths(len(samples), embeddings=embeddings, **given)
    exclusion = read_exclusion(len(samples), groups, exclude)
    kept = _placed_rows(embeddings, given.get("coordinates"))
    further = describe_columns(samples.iloc[kept], columns)
    places, caption = _place(embeddings, given.get("coordinates", coordinates), kept, random_state)
    project = _projector(transformer, layer, embeddings)
    with show_rows(len(kept), verbose) as bar:
        pictures = draw_rows(samples, kept, thumbnail_size, project, crop=crop, bar=bar)
    payload = {
        "caption": caption,
        "left_out": len(embeddings) - len(kept),
        "metric": metric if isinstance(metric, str) else "given",
        "iou": rounded(pictures.iou if iou is None else _check_iou(iou)[kept]),
        "row": kept.tolist(),
        "columns": further,
        "scale": number_colors(),
        "missing": GRAY,
        **_describe_labels(samples, clusters, kept),
        **pictures.as_payload(),
        **_rank_neighbors(embeddings[kept], exclusion.take(kept), n_neighbors, metric),
    }
    plot = build_plot(places, payload["concepts"])
    write_whole(path, render_page(as_text(title), plot, payload))
    return path


def _check_path(path):
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {str(path.parent)!r} does not exist; create it first.")
    if path.is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder; pass the path of a file.")
    return path


def _check_coordinates(coordinates):
    coordinates = check_array(coordinates, dtype=np.float64, ensure_all_finite=False)
    if coordinates.shape[1] != 2:
        raise ValueError(
            f"coordinates must have shape (n_samples, 2), got {coordinates.shape}; reduce them "
            "first, or use 'umap' or 'pca'."
        )
    return coordinates


def _check_iou(iou):
    iou = np.asarray(iou, dtype=np.float64)
    if iou.ndim != 1 or (iou < 0).any() or (iou > 1).any():
        raise ValueError("iou must have shape (n_samples,), with values in [0, 1] or NaN.")
    return iou


def _placed_rows(embeddings, coordinates):
    """Return the positions of the rows with finite embeddings and coordinates."""
    finite = np.isfinite(embeddings).all(axis=1)
    if coordinates is not None:
        finite &= np.isfinite(coordinates).all(axis=1)
    if not finite.any():
        raise ValueError(
            f"None of the {len(embeddings)} rows is finite. LoCEs of empty masks, for example, "
            "contain NaN."
        )
    return np.flatnonzero(finite)


def _place(embeddings, coordinates, kept, random_state):
    """Compute coordinates of shape (n_kept, 2) and the caption of the map."""
    if not isinstance(coordinates, str):
        return coordinates[kept], "Coordinates as given"
    places, names = find_coordinates(embeddings[kept], coordinates, random_state)
    return places, f"Axes: {', '.join(names)}"


def _projector(transformer, layer, embeddings):
    if transformer is None:
        return None

    def project(table, rows):
        return transformer.project(table, embeddings[rows], layer=layer, threshold=None)

    return project


def _describe_labels(samples, clusters, kept):
    """Describe concepts, clusters and image ids."""
    samples = samples.iloc[kept]
    concepts = samples["concept"] if "concept" in samples else ["all rows"] * len(samples)
    return {
        "concepts": _describe_groups(concepts),
        "clusters": None if clusters is None else _describe_groups(clusters[kept]),
        "ids": _describe_groups(_image_ids(samples)),
    }


def _image_ids(samples):
    if "image_id" in samples:
        return samples["image_id"].to_numpy()
    images = samples["image"]
    if all(isinstance(image, str | os.PathLike) for image in images):
        return np.array([os.fspath(image) for image in images], dtype=object)
    number_of = {}
    return np.array([number_of.setdefault(image_key(image), len(number_of)) for image in images])


def _visible(text):
    return text if text.strip() else _BLANK


def _describe_groups(labels):
    """Encode labels as codes, names and styles. Blank names, which label controls, are replaced."""
    codes, names = pd.factorize(np.asarray(labels), sort=True, use_na_sentinel=False)
    return {
        "codes": codes.tolist(),
        "names": [_visible(as_text(name)) for name in names],
        "styles": mark_styles(len(names)),
    }


def _rank_neighbors(X, exclusion, n_neighbors, metric):
    """List the nearest rows of each row, nearest first, with their distances."""
    space, neighbors, distances = RowDistances(X, metric), [[]] * len(X), [[]] * len(X)

    def use(rows, ranking, held):
        near = space.between(np.repeat(rows, ranking.shape[1]), ranking.ravel(), held.ravel())
        for row, found, values in zip(rows, ranking, near.reshape(ranking.shape), strict=True):
            neighbors[row], distances[row] = found.tolist(), rounded(values)

    n_left = exclusion.count(np.zeros(len(X), dtype=np.intp))[0]
    rank_candidates(space, exclusion, np.minimum(n_left, n_neighbors), use)
    return {"neighbors": neighbors, "distances": distances}
