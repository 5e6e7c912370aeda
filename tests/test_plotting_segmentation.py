"""The display of segmentations, against what the segmenter draws at full size."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce.plotting import SegmentationDisplay
from sklearn_loce.segmentation import ConceptSegmenter

from .conftest import make_small_network

pytestmark = pytest.mark.usefixtures("no_figure_stays")


@pytest.fixture
def segmenter(boxes):
    loce = LoCETransformer(TorchModel(make_small_network), "2")
    return ConceptSegmenter(loce, threshold=0.4).fit(boxes)


def test_pixels_have_the_color_of_their_most_probable_concept(boxes, segmenter):
    images = boxes["image"].iloc[[0, 2, 4]]
    display = SegmentationDisplay.from_estimator(segmenter, images, n_cols=2)
    names = [text.get_text() for text in display.legend_.get_texts()]
    colors = [to_rgb(patch.get_facecolor()) for patch in display.legend_.get_patches()]
    assert names == ["bar", "box"]
    assert display.axes_.shape == (4, 2)
    assert not any(ax.axison for ax in display.axes_[2:, 1])
    pairs = [display.axes_[line : line + 2, column] for line, column in ((0, 0), (0, 1), (2, 0))]
    for (upper, ax), image in zip(pairs, images, strict=True):
        np.testing.assert_array_equal(upper.images[0].get_array(), image)
        maps = segmenter.predict_proba(
            boxes.iloc[:2].assign(image=[image, image], concept=names)[["image", "concept"]]
        )
        gray = image.astype(float).mean(axis=2)
        shown = np.asarray(ax.images[0].get_array(), dtype=float)
        for i, j in np.ndindex(gray.shape):
            values = [own[i, j] for own in maps]
            expected = np.full(3, gray[i, j])
            if max(values) > 0.4:
                tint = 255 * np.array(colors[int(np.argmax(values))])
                expected = 0.35 * expected + 0.65 * tint
            np.testing.assert_allclose(shown[i, j], expected, atol=0.51)


def test_thumbnails_are_small_and_concepts_are_selected(boxes, segmenter):
    display = SegmentationDisplay.from_estimator(
        segmenter, boxes["image"].tolist()[:1], concepts=["box"], tile_size=20, legend=False
    )
    assert display.concepts == ["box"]
    assert max(display.images[0].shape) == 20
    assert display.probabilities[0].shape == (1, *display.images[0].shape[:2])
    assert display.legend_ is None
    assert display.threshold == 0.4


def test_invalid_segmentations_raise(boxes, segmenter):
    images = boxes["image"].tolist()
    with pytest.raises(TypeError, match="LoCETransformer cannot segment"):
        SegmentationDisplay.from_estimator(segmenter.loce_, images)
    with pytest.raises(ValueError, match="images is empty"):
        SegmentationDisplay.from_estimator(segmenter, [])
    with pytest.raises(ValueError, match="concepts contains 'tree'"):
        SegmentationDisplay.from_estimator(segmenter, images, concepts=["tree"])
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        SegmentationDisplay.from_estimator(segmenter, ["gone.png"])
    many = ConceptSegmenter(segmenter.loce).fit(boxes.iloc[[0, 1, 2] * 9], y=range(27))
    with pytest.raises(ValueError, match="There are 27 concepts, but only 26 colors; choose some"):
        SegmentationDisplay.from_estimator(many, images)
