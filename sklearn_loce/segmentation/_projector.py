"""Base class of the segmenters, which project vectors of concepts onto unseen images."""

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from .._embedding.embed import read_images
from .._embedding.measure import project_onto_image
from .._samples.masks import intersection_over_union
from .._samples.table import (
    ANNOTATION,
    as_samples,
    blank_masks,
    check_rows,
    group_by_image,
    object_array,
    read_sample_mask,
    row_name,
)
from .._solvers.objectives import LBFGS_OBJECTIVES
from .._validation import as_pandas, match_rows

_SHOWN = 5
_BY_COLUMN = (
    "cross_val_predict with method='predict_proba' numbers y: leave y out, so that the column "
    "'concept' counts."
)


class ConceptProjector(BaseEstimator):
    """Base class of estimators that project the same vectors onto all images.

    ``fit`` calls ``_fit_concepts`` to set ``loce_`` and ``concepts_``, and then sets
    ``embeddings_``. They contain one vector per concept, unless a subclass overrides
    ``_components``.
    """

    def predict(self, X):
        """Predict the mask of each row's concept in its image.

        Parameters
        ----------
        X : DataFrame
            A table with the columns ``image``, as for ``LoCETransformer``, and ``concept``. Masks
            are not needed. One forward pass per image serves all its rows.

        Returns
        -------
        ndarray of shape (n_samples,), object
            One mask per row, bool, of shape (height, width), at the size of its image.

        Raises
        ------
        FileNotFoundError
            If an image is missing. The message names the row.
        TypeError, ValueError
            If X is not a table, lacks a column, has a concept that was not in ``fit``, or an image
            cannot be read.

        See Also
        --------
        predict_proba : Probabilities instead of masks.
        segment : Masks of all concepts on an image.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> train, test = make_scenes(3, random_state=0).data, make_scenes(1, random_state=1).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce).fit(train)
        >>> mask = segmenter.predict(test[["image", "concept"]])[0]
        >>> mask.shape, mask.dtype
        ((120, 160), dtype('bool'))
        """
        return self._project(X, self.threshold)

    def predict_proba(self, X):
        """Predict the probability that a pixel shows the row's concept.

        Parameters
        ----------
        X : DataFrame
            A table with the columns ``image`` and ``concept``, as for ``predict``.

        Returns
        -------
        ndarray of shape (n_samples,), object
            One map per row, float32, of shape (height, width), at the size of its image. Parts of
            the image that ``preprocess`` cut off have probability 0.

        Raises
        ------
        FileNotFoundError, TypeError, ValueError
            As in ``predict``.

        See Also
        --------
        predict : Masks at the threshold.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> train, test = make_scenes(3, random_state=0).data, make_scenes(1, random_state=1).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce).fit(train)
        >>> probabilities = segmenter.predict_proba(test[["image", "concept"]])[0]
        >>> probabilities.shape, probabilities.dtype
        ((120, 160), dtype('float32'))
        """
        return self._project(X, None)

    def segment(self, images):
        """Predict the masks of all concepts in one or several images.

        Parameters
        ----------
        images : str, path, PIL image or ndarray of shape (height, width, 3), uint8
            An image, or a list, tuple or Series of images, which may differ in size.

        Returns
        -------
        dict of {concept: ndarray of shape (height, width), bool}, or list of these
            Masks of one image in the order of ``concepts_``, or a list in the order of the images.
            Masks may overlap, because concepts are projected independently.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no image, or an image is missing or cannot be read.

        See Also
        --------
        predict : Masks of one concept per row.
        sklearn_loce.plotting.SegmentationDisplay : Draw the masks in one color per concept.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> train, test = make_scenes(3, random_state=0).data, make_scenes(1, random_state=1).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce).fit(train)
        >>> masks = segmenter.segment(test["image"].iloc[0])
        >>> list(masks)[:3], masks["car"].shape
        (['bus', 'car', 'grass'], (120, 160))
        """
        check_is_fitted(self)
        is_one = not isinstance(images, list | tuple | pd.Series)
        images = object_array([images] if is_one else list(images))
        concepts = self.concepts_.tolist()
        table = pd.DataFrame(
            {"image": images.repeat(len(concepts)), "concept": concepts * len(images)}
        )
        masks = self.predict(table).reshape(len(images), len(concepts))
        found = [dict(zip(concepts, own, strict=True)) for own in masks]
        return found[0] if is_one else found

    @property
    def classes_(self):
        """Raise an error, because rows have maps and no probabilities of classes.

        Raises
        ------
        AttributeError
            Always.
        """
        raise AttributeError(f"{type(self).__name__} has no classes. {_BY_COLUMN}")

    def evaluate(self, X, y=None):
        """Compare the predicted masks with those of new samples.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. ``None`` uses the column ``concept``.

        Returns
        -------
        DataFrame
            One row per sample with the index of X:

            - ``concept``: the concept;
            - ``iou``: intersection over union of predicted and given mask at the size of the image;
              NaN for an empty mask;
            - ``failed``: whether the IoU is 0 or NaN;
            - ``annotation_id``: as in X, if X has this column.

        Raises
        ------
        FileNotFoundError
            If an image or a mask file is missing. The message names the rows.
        ValueError
            If a concept was not in ``fit``, concepts are missing, or an image or mask cannot be
            read.

        See Also
        --------
        score : The mean IoU.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> train, test = make_scenes(3, random_state=0).data, make_scenes(1, random_state=1).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce).fit(train)
        >>> segmenter.evaluate(test).columns.tolist()
        ['concept', 'iou', 'failed', 'annotation_id']
        """
        check_is_fitted(self)
        samples = as_samples(X)
        codes = self._encode(samples, y)
        iou = np.full(len(samples), np.nan)
        for i, probabilities in self._projections(samples, codes):
            mask = read_sample_mask(samples, i, probabilities.shape)
            if mask.any():
                iou[i] = intersection_over_union(probabilities > self.threshold, mask)
        facts = {"concept": self.concepts_[codes], "iou": iou, "failed": ~(iou > 0)}
        if ANNOTATION in samples:
            facts[ANNOTATION] = samples[ANNOTATION].array
        return pd.DataFrame(facts, index=samples.index)

    def score(self, X, y=None):
        """Return the mean IoU of the predicted masks with those of new samples.

        Parameters
        ----------
        X : DataFrame or list of (image, mask) pairs
            The table of samples.
        y : array-like of shape (n_samples,), default=None
            Concept of each row. ``None`` uses the column ``concept``.

        Returns
        -------
        float
            Mean over the rows whose mask is not empty.

        See Also
        --------
        evaluate : The IoU of each row.

        Examples
        --------
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> train, test = make_scenes(3, random_state=0).data, make_scenes(1, random_state=1).data
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce).fit(train)
        >>> segmenter.score(test) > 0.4
        True
        """
        return float(self.evaluate(X, y)["iou"].mean())

    def _fit_concepts(self, samples, y):
        """Fit ``loce_``, set ``concepts_``, and return the code of each row's concept."""
        labels = _concept_labels(samples, y)
        self.concepts_, codes = np.unique(labels, return_inverse=True)
        self.loce_ = clone(self.loce)
        if self.loce_.objective in LBFGS_OBJECTIVES:
            # Unseen images have no mask to choose a bias by. On them, the mean of the fitted biases
            # has a higher IoU than the mean of the best biases of single masks.
            self.loce_.append_bias = True
        self.loce_.fit(samples)
        if len(self.loce_.layers_) > 1:
            raise ValueError(
                "A segmenter projects on one layer, but its loce has "
                f"layer={self.loce_.layers_}. Fit one per layer, or join them by Joined."
            )
        return codes

    def _encode(self, samples, y):
        """Return the code of each row's concept."""
        labels = _concept_labels(samples, y)
        codes = pd.Index(self.concepts_).get_indexer(labels)
        unknown = np.flatnonzero(codes < 0)
        if len(unknown):
            known = ", ".join(map(repr, self.concepts_.tolist()))
            is_numbered = self.concepts_.dtype.kind in "iu" and isinstance(labels[unknown[0]], str)
            raise ValueError(
                f"{_enumerate(samples, unknown, labels)} not in fit. The known ones are {known}."
                f"{f' {_BY_COLUMN}' if is_numbered else ''}"
            )
        return codes

    def _project(self, X, threshold):
        """Return the masks of the rows, or probabilities without a threshold."""
        check_is_fitted(self)
        images = _as_images(X)
        codes = self._encode(images, None)
        samples = as_samples(images.assign(mask=blank_masks(images)))
        # An array of objects, so that results of folds with any image sizes can be joined.
        found = np.empty(len(samples), dtype=object)
        for i, maps in self._projections(samples, codes):
            found[i] = maps if threshold is None else maps > threshold
        return found

    def _projections(self, samples, codes):
        """Yield the number of each row and its probabilities at the size of the image."""
        components = [self._components(code) for code in range(len(self.concepts_))]
        images = group_by_image(samples)
        check_rows(samples, images)
        (layer,), size = self.loce_.layers_, self.loce_.mask_size
        for rows, activations in read_images(self.loce_, samples, images):
            for i in rows:
                weights, vectors, biases = components[codes[i]]
                pairs = zip(vectors, biases, strict=True)
                maps = [
                    project_onto_image(activations, layer, vector, bias, size)
                    for vector, bias in pairs
                ]
                yield i, np.tensordot(weights, maps, axes=1)

    def _components(self, code):
        """Return weights, vectors and biases of the projections that are averaged for a concept."""
        return self._with_biases(np.ones(1, dtype=np.float32), self.embeddings_[[code]])

    def _with_biases(self, weights, embeddings):
        if self.loce_._appends_bias:
            return weights, embeddings[:, :-1], embeddings[:, -1]
        return weights, embeddings, [None] * len(embeddings)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


def _as_images(X):
    """Check a table with images and concepts."""
    X = as_pandas(X)
    if not isinstance(X, pd.DataFrame):
        raise TypeError(
            "X must be a DataFrame of pandas or polars with the columns 'image' and 'concept', got "
            f"{type(X).__name__}. For all concepts on one image there is segment(image)."
        )
    if "image" not in X:
        raise ValueError(f"X lacks the column 'image'; it has {list(X.columns)}.")
    if len(X) == 0:
        raise ValueError("Found a table with 0 sample(s) while a minimum of 1 is required.")
    return X


def _concept_labels(samples, y):
    """Return y, or the column ``concept``, as an array without missing values."""
    if y is None:
        if "concept" not in samples:
            raise ValueError(
                f"There are no concepts: the table has the columns {list(samples.columns)}. Add "
                "the column 'concept', or pass y if the method accepts it."
            )
        y = samples["concept"]
    samples, y = match_rows(X=samples, y=y)
    labels = column_or_1d(y)
    check_consistent_length(samples, labels)
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        rows = ", ".join(row_name(samples, i) for i in missing[:_SHOWN])
        raise ValueError(f"The concept is missing in {len(missing)} row(s): {rows}.")
    return labels


def _enumerate(samples, rows, labels):
    """List up to five rows with an unknown concept."""
    names = labels[rows[:_SHOWN]].tolist()
    shown = [f"{name!r} of {row_name(samples, i)}" for name, i in zip(names, rows, strict=False)]
    more = f" and of {len(rows) - _SHOWN} more rows" if len(rows) > _SHOWN else ""
    return f"The concept {', '.join(shown)}{more} was"
