"""Gaussians in the plane of a map, and their decision regions."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import clone
from sklearn.utils import check_consistent_length, column_or_1d

from ..metrics import cluster_composition
from ..mixture import ConceptGaussianMixture
from ._map_parts import find_extent, place_cells

# Cells on the longer side of a map of decision regions.
_GRID = 240


@dataclass
class Gaussians:
    """Gaussians in the plane of a map.

    Parameters
    ----------
    means : ndarray of shape (n_components, 2)
    covariances : ndarray of shape (n_components, 2, 2)
    concepts : ndarray of shape (n_components,) or None
        Concept of each Gaussian, or None if the mixture has no concepts.
    numbers : list
        Label of each Gaussian.
    """

    means: np.ndarray
    covariances: np.ndarray
    concepts: np.ndarray | None
    numbers: list


@dataclass
class FittedMixture:
    """A mixture that is already fitted.

    Parameters
    ----------
    model : estimator
        Fitted on two features.
    """

    model: object


def fit_gaussians(mixture, coordinates, y, regions, random_state):
    """Compute the parameters of a map that describe a mixture.

    Parameters
    ----------
    mixture : "auto", mixture, FittedMixture, ndarray of shape (n_samples,) or None
        As in :class:`ConceptMapDisplay`.
    coordinates : ndarray of shape (n_samples, 2)
    y : ndarray of shape (n_samples,) or None
    regions : bool
    random_state : int, RandomState instance or None

    Returns
    -------
    dict
        Parameters of :class:`ConceptMapDisplay`.

    Raises
    ------
    ValueError
        If the mixture is invalid, or regions are requested without a mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._map_mixture import fit_gaussians
    >>> X = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    >>> found = fit_gaussians(np.array([0, 0, 0]), X, None, False, None)
    >>> found["means"].tolist()
    [[1.0, 1.0]]
    """
    if isinstance(mixture, str):
        mixture = _automatic(mixture, len(coordinates), random_state)
    if regions and not (hasattr(mixture, "fit") or isinstance(mixture, FittedMixture)):
        raise ValueError("regions=True needs a mixture; pass one, or regions=False.")
    if mixture is None:
        return {}
    if isinstance(mixture, np.ndarray):
        return _as_parameters(measure_gaussians(coordinates, mixture), mixture, y)
    fitted = isinstance(mixture, FittedMixture)
    model = mixture.model if fitted else clone(mixture).fit(coordinates, y)
    found = _as_parameters(read_gaussians(model), model.predict(coordinates), y)
    if regions:
        found["regions"], found["extent"] = find_regions(model, coordinates)
    return found


def _automatic(name, n_samples, random_state):
    """Build the "auto" mixture. A single row has none."""
    if name != "auto":
        raise ValueError(f'mixture={name!r} is not "auto", None, a mixture, or labels of rows.')
    return ConceptGaussianMixture(random_state=random_state) if n_samples > 1 else None


def _as_parameters(gaussians, labels, y):
    return {
        "means": gaussians.means,
        "covariances": gaussians.covariances,
        "component_concepts": gaussians.concepts,
        **({} if gaussians.concepts is not None else _name_components(gaussians, labels, y)),
    }


def _name_components(gaussians, labels, y):
    """Name Gaussians without concepts, and find the most frequent concept of each."""
    if y is None:
        return {"component_names": gaussians.numbers}
    most = cluster_composition(y, labels).idxmax(axis=1).to_dict()
    majorities = [most.get(number, "") for number in gaussians.numbers]
    return {"component_names": gaussians.numbers, "component_majorities": majorities}


def check_labels(labels, n_samples):
    """Check the labels of rows.

    Parameters
    ----------
    labels : array-like of shape (n_samples,)
    n_samples : int

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    labels = column_or_1d(np.asarray(labels))
    check_consistent_length(labels, range(n_samples))
    return labels


def read_gaussians(mixture):
    """Read the Gaussians of a fitted mixture with any type of covariances.

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
        If it has no means and covariances of two features.

    Examples
    --------
    >>> from sklearn.mixture import GaussianMixture
    >>> from sklearn_loce.plotting._map_mixture import read_gaussians
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
    concepts = getattr(mixture, "component_concepts_", None)
    return Gaussians(means, covariances, concepts, list(range(len(means))))


def measure_gaussians(coordinates, labels):
    """Compute mean and covariance of each cluster.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, 2)
    labels : ndarray of shape (n_samples,)
        Cluster of each row, -1 for none.

    Returns
    -------
    Gaussians
        Gaussians of the clusters with at least three rows, which span an ellipse.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce.plotting._map_mixture import measure_gaussians
    >>> X = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0], [9.0, 9.0]])
    >>> measure_gaussians(X, np.array([0, 0, 0, 1])).means.tolist()
    [[1.0, 1.0]]
    """
    clusters, counts = np.unique(labels, return_counts=True)
    kept = [c for c, n in zip(clusters.tolist(), counts, strict=True) if c != -1 and n >= 3]
    parts = [coordinates[labels == cluster] for cluster in kept]
    means = np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2)
    covariances = np.array([np.cov(part.T, bias=True) for part in parts]).reshape(-1, 2, 2)
    return Gaussians(means, covariances, None, kept)


def find_regions(mixture, coordinates):
    """Find the most probable concept or component at each place of the map.

    Parameters
    ----------
    mixture : estimator
        Fitted on two features, with `predict_proba`.
    coordinates : ndarray of shape (n_samples, 2)
        Coordinates of the rows.

    Returns
    -------
    regions : ndarray of shape (n_rows, n_columns)
        Concept of each place, or component if the mixture has no concepts. The first row is at the
        bottom.
    extent : tuple of float
        Left, right, bottom, top.
    """
    left, right, bottom, top = extent = find_extent(coordinates)
    longer = max(right - left, top - bottom)
    columns, rows = (round(_GRID * side / longer) for side in (right - left, top - bottom))
    probabilities = mixture.predict_proba(place_cells((rows, columns), extent))
    names = getattr(mixture, "component_concepts_", np.arange(probabilities.shape[1]))
    names, codes = np.unique(names, return_inverse=True)
    together = probabilities @ np.eye(len(names))[codes]
    return names[together.argmax(axis=1)].reshape(rows, columns), extent
