"""What a map of LoCEs is drawn from: coordinates, Gaussians and decision regions."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.utils import check_array

# Cells on the longer side of a map of decision regions.
_GRID = 240
# Room around the points, and least height by width, as shares of the longer side.
_ROOM, _LEAST = 0.06, 0.6


@dataclass
class Gaussians:
    """Gaussians in the plane of a map.

    Parameters
    ----------
    means : ndarray of shape (n_components, 2)
    covariances : ndarray of shape (n_components, 2, 2)
    concepts : ndarray of shape (n_components,) or None
        Concept of each, or None where they know of no concepts.
    """

    means: np.ndarray
    covariances: np.ndarray
    concepts: np.ndarray | None


def find_coordinates(X, embedding, random_state):
    """Lay embeddings out in a plane.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite embeddings.
    embedding : {"umap", "pca"}, estimator or None
        As :class:`ConceptMapDisplay` takes it, but no coordinates.
    random_state : int, RandomState instance or None

    Returns
    -------
    coordinates : ndarray of shape (n_samples, 2), dtype float64
    axis_names : tuple of str

    Raises
    ------
    ValueError
        If the name is unknown, or the estimator gives other than two columns.

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
    model = _choose_embedding(embedding or "umap", len(X), random_state)
    coordinates = check_coordinates(model.fit_transform(X), len(X))
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    name = {"UnsupervisedUMAP": "UMAP"}.get(type(last).__name__, type(last).__name__)
    shares = getattr(last, "explained_variance_ratio_", (None, None))
    notes = ["" if share is None else f" ({share:.0%})".replace("%", " %") for share in shares]
    return coordinates, tuple(f"{name} {i + 1}{notes[i]}" for i in range(2))


def _choose_embedding(embedding, n_samples, random_state):
    """Build the estimator that a name stands for, or clone the one that is given."""
    if hasattr(embedding, "fit_transform"):
        return clone(embedding)
    if embedding == "pca":
        return PCA(2, random_state=random_state)
    if embedding != "umap":
        raise ValueError(
            f'embedding={embedding!r} is none; choose "umap", "pca", an estimator with '
            "fit_transform, or coordinates of shape (n_samples, 2)."
        )
    # Importing UMAP takes seconds.
    from ..utils import UnsupervisedUMAP

    few = n_samples <= 15
    return UnsupervisedUMAP(
        n_neighbors=max(2, min(15, n_samples - 1)),
        init="random" if few else "spectral",
        random_state=random_state,
        n_jobs=-1 if random_state is None else 1,
    )


def check_coordinates(coordinates, n_samples):
    """Read two coordinates per row.

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
            f"The map has coordinates of shape {coordinates.shape}, and ({n_samples}, 2) are "
            "needed: two per row."
        )
    return coordinates


def read_gaussians(mixture):
    """Take the Gaussians of a fitted mixture, whatever the form of its covariances.

    Parameters
    ----------
    mixture : ConceptGaussianMixture or sklearn.mixture.GaussianMixture
        Fitted on two features.

    Returns
    -------
    Gaussians

    Raises
    ------
    ValueError
        If it has no means and covariances, or not of two features.

    Examples
    --------
    >>> from sklearn.mixture import GaussianMixture
    >>> from sklearn_loce.plotting._map_parts import read_gaussians
    >>> X = [[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, -1.0]]
    >>> read_gaussians(GaussianMixture(covariance_type="spherical").fit(X)).covariances.round(2)
    array([[[0.5, 0. ],
            [0. , 0.5]]])
    """
    if not hasattr(mixture, "covariances_") or mixture.means_.shape[1] != 2:
        raise ValueError(
            f"{type(mixture).__name__} has no means_ and covariances_ of two features; pass a "
            "ConceptGaussianMixture, a GaussianMixture, or labels."
        )
    given, means = mixture.covariances_, mixture.means_
    covariances = {
        "full": lambda: given,
        "tied": lambda: np.broadcast_to(given, (len(means), 2, 2)),
        "diag": lambda: given[:, :, np.newaxis] * np.eye(2),
        "spherical": lambda: given[:, np.newaxis, np.newaxis] * np.eye(2),
    }[mixture.covariance_type]()
    return Gaussians(means, covariances, getattr(mixture, "component_concepts_", None))


def measure_gaussians(coordinates, labels):
    """Take mean and covariance of each cluster.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)
    labels : ndarray of shape (n_samples,)
        -1 for no cluster.

    Returns
    -------
    Gaussians
        Of the clusters of at least three rows, the fewest that span an ellipse.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._map_parts import measure_gaussians
    >>> X = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0], [9.0, 9.0]])
    >>> measure_gaussians(X, np.array([0, 0, 0, 1])).means.tolist()
    [[1.0, 1.0]]
    """
    clusters, counts = np.unique(labels, return_counts=True)
    kept = [c for c, n in zip(clusters.tolist(), counts, strict=True) if c != -1 and n >= 3]
    parts = [coordinates[labels == cluster] for cluster in kept]
    means = np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2)
    covariances = np.array([np.cov(part.T, bias=True) for part in parts]).reshape(-1, 2, 2)
    return Gaussians(means, covariances, None)


def find_regions(mixture, coordinates):
    """Decide for every place of the map which concept, or component, is the most probable.

    Parameters
    ----------
    mixture : estimator
        Fitted on two features, with `predict_proba`.
    coordinates : ndarray of shape (n_samples, 2)
        What the map has to hold.

    Returns
    -------
    regions : ndarray of shape (n_rows, n_columns)
        Concept of each place where the mixture knows concepts, else its component. The first row
        is at the bottom.
    extent : tuple of float
        Left, right, bottom, top.
    """
    left, right, bottom, top = extent = find_extent(coordinates)
    longer = max(right - left, top - bottom)
    columns, rows = (round(_GRID * side / longer) for side in (right - left, top - bottom))
    x = left + (np.arange(columns) + 0.5) / columns * (right - left)
    y = bottom + (np.arange(rows) + 0.5) / rows * (top - bottom)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    probabilities = mixture.predict_proba(grid)
    names = getattr(mixture, "component_concepts_", np.arange(probabilities.shape[1]))
    names, codes = np.unique(names, return_inverse=True)
    together = probabilities @ np.eye(len(names))[codes]
    return names[together.argmax(axis=1)].reshape(rows, columns), extent


def find_extent(coordinates):
    """Find the limits of a map: room around the points, and not too narrow.

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
