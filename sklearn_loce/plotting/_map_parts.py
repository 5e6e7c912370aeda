"""Coordinates and limits of a map of LoCEs."""

import numpy as np
from scipy.spatial import KDTree
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.utils import check_array

# Margin around the points, and smallest ratio of height and width, over the longer side.
_ROOM, _LEAST = 0.06, 0.6
# Distances from a row up to which regions are opaque and visible, over the longer side. Regions end
# before the margin does.
_FULL, _SHOWN = 0.02, 0.05
_FEWEST = {"umap": (3, 1), "pca": (2, 2)}  # rows and features


def find_coordinates(X, embedding, random_state):
    """Project embeddings to a plane.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite embeddings.
    embedding : {"umap", "pca"}, estimator or None
        As in :class:`ConceptMapDisplay`, without coordinates.
    random_state : int, RandomState instance or None

    Returns
    -------
    coordinates : ndarray of shape (n_samples, 2), dtype float64
    axis_names : tuple of str

    Raises
    ------
    ValueError
        If the name is unknown, there are too few rows or features, all rows are equal, or the
        estimator does not return two columns.

    Examples
    --------
    >>> from sklearn_loce.plotting._map_parts import find_coordinates
    >>> coordinates, names = find_coordinates([[0.0, 0.0], [1.0, 1.0]], "pca", 0)
    >>> coordinates.shape, names
    ((2, 2), ('PCA 1 (100 %)', 'PCA 2 (0 %)'))
    """
    X = np.asarray(X)
    if embedding is None and X.shape[1] == 2:
        return X, ("feature 1", "feature 2")
    model = _choose_embedding(embedding or "umap", X, random_state)
    coordinates = check_coordinates(model.fit_transform(X), len(X))
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    name = type(last).__name__
    if name == "UnsupervisedUMAP":
        # UMAP has no preferred direction, so the map is rotated to be wider than high.
        coordinates, name = PCA(2).fit_transform(coordinates), "UMAP"
    shares = getattr(last, "explained_variance_ratio_", (None, None))
    notes = ["" if share is None else f" ({share:.0%})".replace("%", " %") for share in shares]
    return coordinates, tuple(f"{name} {i + 1}{notes[i]}" for i in range(2))


def _choose_embedding(embedding, X, random_state):
    """Build the estimator of a name, or clone a given estimator."""
    if hasattr(embedding, "fit_transform"):
        return clone(embedding)
    if embedding not in _FEWEST:
        raise ValueError(
            f'embedding={embedding!r} is not "umap", "pca", an estimator with fit_transform, or '
            "coordinates of shape (n_samples, 2)."
        )
    _check_spread(embedding, X)
    n_samples, n_features = X.shape
    if embedding == "pca":
        # Solvers without random numbers give the same map without a random_state.
        return PCA(2, svd_solver="covariance_eigh" if n_samples > n_features else "full")
    # Importing UMAP takes seconds.
    from ..utils import UnsupervisedUMAP

    # With a start from PCA and a large min_dist, islands stay close and large enough.
    return UnsupervisedUMAP(
        n_neighbors=min(15, n_samples - 1),
        min_dist=0.5,
        init="pca" if min(n_samples - 1, n_features) > 2 else "random",
        random_state=random_state,
        n_jobs=-1 if random_state is None else 1,
    )


def _check_spread(embedding, X):
    """Check that there are enough different rows for a named embedding."""
    n_rows, n_features = _FEWEST[embedding]
    if X.shape[0] < n_rows or X.shape[1] < n_features:
        raise ValueError(
            f"A map by {embedding!r} needs at least {n_rows} finite rows and {n_features} "
            f"feature{'s' * (n_features > 1)}, got {X.shape[0]} and {X.shape[1]}; pass more rows, "
            "or coordinates of shape (n_samples, 2)."
        )
    if not np.ptp(X, axis=0).any():
        raise ValueError(
            f"A map by {embedding!r} needs different rows, but the {len(X)} finite rows are equal; "
            "pass other rows, or coordinates of shape (n_samples, 2)."
        )


def check_coordinates(coordinates, n_samples):
    """Check the coordinates of rows.

    Parameters
    ----------
    coordinates : array-like of shape (n_samples, 2)
    n_samples : int

    Returns
    -------
    ndarray of shape (n_samples, 2), dtype float64
    """
    coordinates = check_array(coordinates, dtype=np.float64, input_name="coordinates")
    if coordinates.shape != (n_samples, 2):
        raise ValueError(
            f"The map has coordinates of shape {coordinates.shape}, but needs two per row, "
            f"({n_samples}, 2)."
        )
    return coordinates


def find_extent(coordinates):
    """Compute the limits of a map, with a margin and a limited aspect ratio.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)

    Returns
    -------
    tuple of float
        Left, right, bottom, top.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._map_parts import find_extent
    >>> [round(float(side), 2) for side in find_extent(np.array([[0.0, 0.0], [10.0, 0.0]]))]
    [-0.6, 10.6, -3.6, 3.6]
    """
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    longer = (high - low).max() or 1.0
    half = np.maximum(high - low, _LEAST * longer) / 2 + _ROOM * longer
    middle = (low + high) / 2
    return tuple(np.stack([middle - half, middle + half], axis=1).ravel().tolist())


def place_cells(shape, extent):
    """Compute the centers of the cells of a grid.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    extent : tuple of float
        Left, right, bottom, top.

    Returns
    -------
    ndarray of shape (n_rows * n_columns, 2)
        Centers, row by row from the bottom.

    Examples
    --------
    >>> from sklearn_loce.plotting._map_parts import place_cells
    >>> place_cells((1, 2), (0.0, 4.0, 0.0, 2.0)).tolist()
    [[1.0, 1.0], [3.0, 1.0]]
    """
    (rows, columns), (left, right, bottom, top) = shape, extent
    x = left + (np.arange(columns) + 0.5) / columns * (right - left)
    y = bottom + (np.arange(rows) + 0.5) / rows * (top - bottom)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def fade(coordinates, shape, extent):
    """Compute the opacity of the cells of a grid, which fade far from the rows.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)
    shape : tuple of int
        Rows and columns.
    extent : tuple of float
        Left, right, bottom, top.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        Opacity from 0, far from all rows, to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._map_parts import fade
    >>> fade(np.array([[5.0, 5.0]]), (1, 4), (0.0, 40.0, 0.0, 10.0)).tolist()
    [[1.0, 0.0, 0.0, 0.0]]
    """
    distances, _ = KDTree(coordinates).query(place_cells(shape, extent))
    longer = max(extent[1] - extent[0], extent[3] - extent[2])
    opacity = (_SHOWN - distances / longer) / (_SHOWN - _FULL)
    return np.clip(opacity, 0, 1).reshape(shape)
