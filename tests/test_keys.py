"""Images and masks are identified by content, in every form.

Their digests are private: with a transformer, each line would take a run.
"""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce._samples.table import as_samples
from sklearn_loce._store.keys import sample_digests

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
MASK = np.zeros((6, 5), dtype=bool)


def digest_of(image=PICTURE, mask=MASK):
    (digest,) = sample_digests(as_samples([(image, mask)]), [0])
    return digest


def n_distinct(name, cells):
    return len({digest_of(**{name: cell}) for cell in cells})


def test_a_file_is_hashed_by_its_present_bytes(tmp_path, monkeypatch):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(MASK).save(first)
    second.write_bytes(first.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda path: pytest.fail("decoded"))
        for name in ("image", "mask"):
            assert n_distinct(name, [first, second, str(first)]) == 1
        # The new file has the same size and times.
        status, before = first.stat(), digest_of(first)
        first.write_bytes(first.read_bytes()[:-1] + b"!")
        os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert digest_of(first) != before
    with pytest.raises(FileNotFoundError):
        digest_of(tmp_path / "c.png")


def test_images_are_hashed_by_their_pixels():
    turned = Image.fromarray(PICTURE)
    turned.getexif()[0x0112] = 6
    changed = PICTURE.copy()
    changed[3, 2, 1] ^= 1
    same = [PICTURE, Image.fromarray(PICTURE), np.asfortranarray(PICTURE)]
    others = [turned, Image.fromarray(PICTURE).convert("L"), PICTURE[::-1], PICTURE[:, :, :1]]
    assert n_distinct("image", same) == 1
    assert n_distinct("image", [PICTURE, changed, *others]) == 6


def test_palettes_change_the_digest():
    image = Image.fromarray(PICTURE[:, :, 0] % 3).convert("P")
    images = [image.copy() for _ in range(3)]
    images[0].putpalette([0, 0, 0, 9, 9, 9, 5, 5, 5])
    images[1].putpalette([0, 0, 0, 9, 9, 9, 5, 5, 6])
    assert n_distinct("image", images) == 3


@pytest.mark.parametrize("cell", [3, None, [1, 2]])
def test_the_error_names_files_that_are_not_images(cell):
    with pytest.raises(ValueError, match="an image must be a path"):
        digest_of(cell)


@settings(max_examples=30)
@given(npst.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_all_forms_of_run_lengths_have_one_digest(mask):
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    flat = mask.ravel(order="F")
    runs = np.diff(np.r_[0, np.flatnonzero(np.diff(np.r_[False, flat])), flat.size])
    forms = [runs.tolist(), runs, text, text.decode()]
    size = list(mask.shape)
    assert n_distinct("mask", [{"size": size, "counts": counts} for counts in forms]) == 1


def test_masks_with_other_values_shapes_and_sizes_have_other_digests():
    runs = [{"size": size, "counts": [30]} for size in ([6, 5], [5, 6])]
    cells = [MASK, ~MASK, MASK.T, MASK.reshape(3, 10), MASK.astype(np.uint8), *runs]
    assert n_distinct("mask", cells) == len(cells)
    assert n_distinct("mask", [cells[4], Image.fromarray(cells[4])]) == 1
    with pytest.raises(ValueError, match="must sum to"):
        digest_of(mask={"size": [2, 2], "counts": [3]})
    with pytest.raises(ValueError, match="the mask contains Python objects"):
        digest_of(mask=np.full((2, 2), None))


def test_rows_of_one_image_have_different_digests():
    table = pd.DataFrame({"image": [PICTURE] * 3, "mask": [MASK, ~MASK, MASK]})
    first, second, third = sample_digests(table, [0, 1, 2])
    assert first == third == digest_of()
    assert second == digest_of(mask=~MASK)
