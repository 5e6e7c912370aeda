"""Segmentations of images without masks, with all concepts in one picture."""

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.utils._param_validation import validate_params

from .._samples.images import read_image
from .._samples.table import object_array
from ._drawing import show_tile
from ._grid import Layout, open_grid
from ._inputs import choose
from ._legend import add_figure_legend
from ._names import literal
from ._projection import count_columns, pair_axes
from ._style import COLORS, concept_styles
from ._tiles import TILE_SIZE

_TINT_SHARE = 0.65


class SegmentationDisplay:
    """Images, and their segmentations below them, with one color per concept.

    It is recommended to use :meth:`from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    images : list of ndarray of shape (height, width, 3), uint8
        Thumbnails.
    probabilities : list of ndarray of shape (n_concepts, height, width), float32
        Probability of each concept in each pixel of the thumbnails.
    concepts : list
        Concepts, at most 26.
    threshold : float, default=0.5
        Pixels have the color of their most probable concept if its probability is above it.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        Axes that was divided. None if an array of Axes was given.
    axes_ : ndarray of shape (n_lines, n_cols) of Axes
        Images in even lines, and their segmentations in the lines below.
    figure_ : matplotlib Figure
    legend_ : Legend or None
        Legend of the concepts.

    See Also
    --------
    ProjectionDisplay : One concept per picture, beside its mask.
    sklearn_loce.segmentation.ConceptSegmenter.segment : Masks at full size, which may overlap.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn_loce import LoCETransformer, TorchModel
    >>> from sklearn_loce.datasets import load_scene_model, make_scenes
    >>> from sklearn_loce.plotting import SegmentationDisplay
    >>> from sklearn_loce.segmentation import ConceptSegmenter
    >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
    >>> segmenter = ConceptSegmenter(loce).fit(make_scenes(4, random_state=0).data)
    >>> image = make_scenes(1, random_state=1).data["image"].iloc[0]
    >>> display = SegmentationDisplay.from_estimator(segmenter, [image], concepts=["sky", "road"])
    >>> display.probabilities[0].shape
    (2, 120, 160)
    >>> plt.close(display.figure_)
    """

    def __init__(self, *, images, probabilities, concepts, threshold=0.5):
        self.images = images
        self.probabilities = probabilities
        self.concepts = concepts
        self.threshold = threshold

    @classmethod
    def from_estimator(cls, estimator, images, *, concepts=None, tile_size=TILE_SIZE, **plot_kw):
        """Segment images and plot them.

        Parameters
        ----------
        estimator : ConceptSegmenter or Net2VecSegmenter
            Fitted segmenter.
        images : sequence of str, path, PIL image or ndarray of shape (height, width, 3), uint8
            Images, as in ``segment``.
        concepts : array-like, default=None
            Concepts to draw, at most 26. None draws all concepts.
        tile_size : int, default=256
            Length of the longer side of stored thumbnails, in pixels.
        **plot_kw : dict
            Passed to :meth:`plot`.

        Returns
        -------
        SegmentationDisplay

        Raises
        ------
        TypeError
            If the estimator is not a segmenter.
        ValueError, FileNotFoundError
            If there is no image, a concept is unknown, there are more than 26 concepts, or an image
            cannot be read.

        See Also
        --------
        ProjectionDisplay.from_estimator : Plot one concept per picture, beside its mask.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from sklearn_loce import LoCETransformer, TorchModel
        >>> from sklearn_loce.datasets import load_scene_model, make_scenes
        >>> from sklearn_loce.plotting import SegmentationDisplay
        >>> from sklearn_loce.segmentation import ConceptSegmenter
        >>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
        >>> segmenter = ConceptSegmenter(loce).fit(make_scenes(4, random_state=0).data)
        >>> images = make_scenes(2, random_state=1).data["image"].iloc[[0, -1]].tolist()
        >>> display = SegmentationDisplay.from_estimator(segmenter, images, concepts=["sky"])
        >>> display.axes_.shape
        (2, 2)
        >>> plt.close("all")
        """
        if not hasattr(estimator, "segment"):
            raise TypeError(
                f"{type(estimator).__name__} cannot segment; pass a fitted ConceptSegmenter or "
                "Net2VecSegmenter."
            )
        if not len(images):
            raise ValueError("images is empty; pass at least one image.")
        concepts = choose(concepts, estimator.concepts_.tolist(), "concepts")
        if len(concepts) > len(COLORS):
            raise ValueError(
                f"There are {len(concepts)} concepts, but only {len(COLORS)} colors; choose some, "
                f"as in concepts={concepts[:2]}."
            )
        shown = [_segment(estimator, image, concepts, tile_size) for image in images]
        pictures, probabilities = map(list, zip(*shown, strict=True))
        display = cls(
            images=pictures,
            probabilities=probabilities,
            concepts=concepts,
            threshold=estimator.threshold,
        )
        return display.plot(**plot_kw)

    @validate_params(
        {
            "self": "no_validation",
            "n_cols": "no_validation",
            "palette": "no_validation",
            "legend": ["boolean"],
            "ax": "no_validation",
        },
        prefer_skip_nested_validation=True,
    )
    def plot(self, *, n_cols=None, palette=None, legend=True, ax=None):
        """Plot images, and their segmentations below them.

        Parameters
        ----------
        n_cols : int, default=None
            Number of columns. None uses up to 4 in a figure with the width of a paper column, and
            8 in one with the width of a page.
        palette : dict or sequence, default=None
            Colors of concepts. A dict maps a concept, or a tuple of concepts, to a color. Other
            concepts get unused colors. A sequence lists all concepts of a study: each concept then
            has the same color in every figure.
        legend : bool, default=True
            Whether to add a legend. An array of Axes gets none.
        ax : Axes or array-like of Axes, default=None
            A single Axes is divided, best in a figure with ``layout="constrained"``; an array needs
            two lines for every `n_cols` images. None opens a figure.

        Returns
        -------
        SegmentationDisplay
            The display, with all its attributes.

        Raises
        ------
        ValueError
            If the number of Axes is wrong, `ax` was divided before, or the palette has none of the
            concepts.

        See Also
        --------
        SegmentationDisplay.from_estimator : Segment images and plot them.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> import numpy as np
        >>> from sklearn_loce.plotting import SegmentationDisplay
        >>> display = SegmentationDisplay(
        ...     images=[np.zeros((30, 40, 3), dtype=np.uint8)],
        ...     probabilities=[np.ones((1, 30, 40), dtype=np.float32)],
        ...     concepts=["sky"],
        ... )
        >>> display = display.plot(palette={"sky": "skyblue"}, legend=False)
        >>> plt.close("all")
        """
        n_images, self.legend_ = len(self.images), None
        n_cols = count_columns(n_images) if n_cols is None else n_cols
        n_names = legend * len(self.concepts)
        layout = Layout(2 * -(-n_images // n_cols), (("", n_cols),), n_names=n_names)
        styles = concept_styles(self.concepts, palette)
        colors = {name: color for name, (color, _) in styles.items()}
        with open_grid(self, ax, layout) as (_, axes):
            pairs = zip(self.images, self.probabilities, strict=True)
            for axes_of_image, pair in zip(pair_axes(axes, n_images), pairs, strict=True):
                show_tile(axes_of_image[0], pair[0])
                show_tile(axes_of_image[1], self._paint(*pair, list(colors.values())))
            if legend and np.ndim(ax) == 0:
                self._add_legend(colors)
        return self

    def _paint(self, image, probabilities, colors):
        """Return the image in gray, tinted in the colors of the concepts."""
        from matplotlib.colors import to_rgba_array

        gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
        tints = 255 * to_rgba_array(colors)[probabilities.argmax(axis=0), :3]
        tinted = (1 - _TINT_SHARE) * gray + _TINT_SHARE * tints
        is_drawn = probabilities.max(axis=0)[:, :, None] > self.threshold
        return np.where(is_drawn, tinted, gray).round().astype(np.uint8)

    def _add_legend(self, colors):
        from matplotlib.patches import Patch

        patches = [Patch(color=color, label=literal(name)) for name, color in colors.items()]
        self.legend_ = add_figure_legend(self.figure_, patches, handlelength=1.0)


def _segment(estimator, image, concepts, size):
    """Return an image and the probabilities of concepts at the size of a thumbnail."""
    table = pd.DataFrame({"image": object_array([image] * len(concepts)), "concept": concepts})
    maps = estimator.predict_proba(table)
    picture = Image.fromarray(np.ascontiguousarray(read_image(image)))
    scale = min(1.0, size / max(picture.size))
    shape = tuple(max(1, round(n * scale)) for n in picture.size)
    shrunk = [Image.fromarray(own).resize(shape, Image.Resampling.BOX) for own in maps]
    return np.asarray(picture.resize(shape, Image.Resampling.LANCZOS)), np.stack(shrunk)
