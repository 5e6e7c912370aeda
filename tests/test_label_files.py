"""Masks with ids and colors in every form, compared with their arrays."""

import struct
import zlib
from contextlib import contextmanager, nullcontext
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce.datasets import load_masks, load_voc

from .dataset_trees import make_voc_tree, planted_voc_image

RNG = np.random.default_rng(0)
NAMES = [f"class {i}" for i in range(12)]
SHAPE = (24, 36)


def _draw(ids):
    """Return an image in blocks of the ids; later ids are rarer."""
    small = RNG.choice(ids, (6, 9))
    small.flat[: len(ids)] = ids
    return np.kron(small, np.ones((4, 4), dtype=int)).astype(np.uint8)


def _chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _png(samples, depth, palette=None, *extra, interlaced=False):
    """Write a PNG without Pillow: samples of some bits, which are gray or indexes of a palette."""
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    passes = [*starts, (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]
    rows = []
    for top, left, down, right in passes:
        for row in samples[top::down, left::right].tolist():
            bits = "".join(f"{value:0{depth}b}" for value in row)
            bits += "0" * (-len(bits) % 8)
            rows.append(b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big"))
    kind = 0 if palette is None else 3
    head = struct.pack(">IIBBBBB", *samples.shape[::-1], depth, kind, 0, 0, int(interlaced))
    chunks = [_chunk(b"IHDR", head)]
    if palette is not None:
        chunks.append(_chunk(b"PLTE", np.asarray(palette, dtype=np.uint8).tobytes()))
    chunks += [*extra, _chunk(b"IDAT", zlib.compress(b"".join(rows))), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _optimize(ids, colors):
    """Remove unused colors, and sort the others by frequency, as optimizers do."""
    used, counts = np.unique(ids, return_counts=True)
    order = used[np.argsort(-counts, kind="stable")]
    indexes = np.zeros(256, dtype=np.uint8)
    indexes[order] = np.arange(len(order))
    return indexes[ids], np.asarray(colors)[order]


def _gray(values):
    return np.repeat(np.reshape(values, (-1, 1)), 3, axis=1)


GRAY = _gray(np.arange(256))
VIVID = np.random.default_rng(1).permutation(2**24)[:256]
VIVID = np.stack([VIVID >> 16, VIVID >> 8 & 255, VIVID & 255], axis=1)


@pytest.fixture
def load(tmp_path):
    """Return a function that writes files of masks, or arrays of colors, and loads them."""

    def load(masks, names=None, suffix=".png", **how):
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for number, content in enumerate(masks if isinstance(masks, list) else [masks]):
            Image.new("RGB", SHAPE[::-1]).save(tmp_path / "images" / f"{number}.png")
            path = tmp_path / "masks" / f"{number}{suffix}"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content.save(path)
        folders = tmp_path / "images", tmp_path / "masks"
        return load_masks(*folders, names, mask_suffix=suffix, **how).data

    return load


def _is(data, truth):
    """Check a table of one image, pixel by pixel, against {name: mask}."""
    truth = {name: mask for name, mask in truth.items() if mask.any()}
    assert data["concept"].tolist() == list(truth)
    for rle, mask in zip(data["mask"], truth.values(), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(rle).astype(bool), mask)


def _by_id(ids, names=NAMES):
    return {name: ids == number for number, name in enumerate(names)}


def _with_palette(ids, colors):
    image = Image.fromarray(ids)
    image.putpalette(np.ravel(colors).tolist())
    return image


IDS = _draw([0, 3, 5, 11])
FORMS = {
    "gray of 8 bits": _png(IDS, 8),
    "gray of 16 bits": _png(IDS.astype(int), 16),
    "interlaced": _png(IDS, 8, interlaced=True),
    "gray with a transparent value": _png(IDS, 8, None, _chunk(b"tRNS", b"\0\3")),
    "palette": _png(IDS, 8, VIVID),
    "interlaced palette": _png(IDS, 4, VIVID[:12], interlaced=True),
    "palette of as many colors as classes": _png(IDS, 4, VIVID[:12]),
    "palette with transparency": _png(IDS, 8, VIVID, _chunk(b"tRNS", b"\0\1\2\3")),
    "gray palette": _png(IDS, 8, GRAY),
    "palette filled up with black": _png(IDS, 8, np.vstack([VIVID[:12], np.zeros((244, 3))])),
    "stretched gray palette": _png(IDS, 8, _gray(np.minimum(20 * np.arange(256), 255))),
    "RGB": Image.fromarray(np.stack([IDS] * 3, axis=2)),
    "RGBA": Image.fromarray(np.stack([IDS] * 3, axis=2)).convert("RGBA"),
    "gray and alpha": Image.fromarray(IDS).convert("LA"),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_read_in_every_form(load, form):
    """There is no warning, because pytest would raise it as an error."""
    _is(load(FORMS[form], NAMES), _by_id(IDS))


@pytest.mark.parametrize(
    ("suffix", "colors"),
    [*((s, c) for s in (".bmp", ".tif", ".tga") for c in (None, VIVID)), (".webp", None)],
)
def test_ids_are_read_in_other_formats(load, suffix, colors):
    image = Image.fromarray(IDS) if colors is None else _with_palette(IDS, colors)
    buffer, how = BytesIO(), {"lossless": True} if suffix == ".webp" else {}
    image.save(buffer, Image.registered_extensions()[suffix], **how)
    _is(load(buffer.getvalue(), NAMES, suffix), _by_id(IDS))


@contextmanager
def _told(is_told, suffix=r"\.png"):
    """Expect the warning that ids were read from colors or gray values, or no warning."""
    if not is_told:
        yield
        return
    with pytest.warns(
        UserWarning, match=rf"1 mask\(s\) store indexes that differ from their colors.*0{suffix}"
    ):
        yield


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_images_of_few_bits_contain_ids(load, depth):
    """PyPNG writes such files; Pillow scales 2 and 4 bits to the range of 8."""
    ids = _draw(range(min(2**depth, 12)))
    with _told(depth > 1):
        data = load(_png(ids, depth), NAMES)
    _is(data, _by_id(ids))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_images_of_few_bits_contain_scaled_ids(load, depth):
    """An optimizer has found that all values are multiples of 255, 85 or 17."""
    samples, factor = _draw(range(min(2**depth, 12))), 255 // (2**depth - 1)
    names = {factor * i: f"class {i}" for i in range(2**depth)}
    with _told(depth == 1):
        data = load(_png(samples, depth), names)
    _is(data, {name: factor * samples == value for value, name in names.items()})


@pytest.mark.parametrize(("depth", "void"), [(1, 255), (2, 85), (4, 17)])
def test_ambiguous_images_of_few_bits_raise_an_error(load, depth, void):
    samples = _draw([0, 1])
    with pytest.raises(ValueError, match=rf"0\.png may have the ids .*\[0, {void}\].*palette"):
        load(_png(samples, depth), NAMES, ignore=[void])
    data = load(_png(samples, depth), palette={"a": (0, 0, 0), "b": (void,) * 3})
    _is(data, {"a": samples == 0, "b": samples == 1})


@pytest.mark.parametrize("ids", [[0, 3, 5, 11], [11, 5, 3, 0], [3], [0, 7], [0, 2, 255]], ids=str)
@pytest.mark.parametrize("tool", ["optimizer", "GIF"])
def test_gray_values_undo_renumbering(load, ids, tool):
    truth = _draw(ids)
    indexes, kept = _optimize(truth, GRAY)
    content = Image.fromarray(truth) if tool == "GIF" else _png(indexes, 8, kept)
    suffix = ".gif" if tool == "GIF" else ".png"
    with _told(True, suffix):
        data = load(content, NAMES, suffix, ignore=[255])
    _is(data, _by_id(truth))


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_gray_values_may_equal_the_indexes(load, suffix):
    ids = _draw([0, 1, 2])
    content = Image.fromarray(ids) if suffix == ".gif" else _png(ids, 2, GRAY[:3])
    _is(load(content, NAMES, suffix), _by_id(ids))


@pytest.mark.parametrize("colors", [VIVID, _gray(np.minimum(20 * np.arange(256), 255))])
@pytest.mark.parametrize("ids", [[0, 3, 5, 11], [0, 1], [1, 0], list(range(12))], ids=str)
@pytest.mark.parametrize("tool", ["optimizer", "GIF"])
def test_renumbering_that_colors_cannot_undo_raises_an_error(load, ids, colors, tool):
    truth = _draw(ids)
    indexes, kept = _optimize(truth, colors)
    content = _with_palette(truth, colors) if tool == "GIF" else _png(indexes, 8, kept)
    suffix = ".gif" if tool == "GIF" else ".png"
    with pytest.raises(
        ValueError, match=rf"use every entry of their palettes.*0\{suffix}.*palette="
    ):
        load(content, NAMES, suffix)
    # The remedy in the message.
    palette = {name: colors[number] for number, name in enumerate(NAMES)}
    _is(load(content, None, suffix, palette=palette), _by_id(truth))


def test_unnamed_indexes_reveal_renumbering(load):
    truth = _draw([3, 5])
    indexes, kept = _optimize(truth, VIVID)
    with pytest.raises(ValueError, match="use every entry of their palettes"):
        load(_png(indexes, 8, kept), {3: "a", 5: "b"})


def test_a_palette_shared_by_other_masks_belongs_to_the_classes(load):
    """Two classes in two colors: the mask without the second shows that no color was removed."""
    both, one = _draw([0, 1]), _draw([0])
    masks = [_png(ids, 1, VIVID[:2]) for ids in (both, one)]
    data = load(masks, NAMES)
    _is(data[data["image_id"] == "0"], _by_id(both))
    with pytest.raises(ValueError, match=r"1 mask\(s\) use every entry.*0\.png"):
        load([masks[0], _png(one, 1, VIVID[2:4])], NAMES)


def test_the_colors_of_voc_confirm_the_indexes(load):
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    ids = _draw([0, 1, 2, 3])
    _is(load(_png(ids, 2, voc), NAMES), _by_id(ids))
    with pytest.raises(ValueError, match="use every entry"):
        load(_png(ids, 2, voc[::-1]), NAMES)


def test_a_stretched_palette_with_named_values_is_ambiguous(load):
    stretched = _gray(np.minimum(2 * np.arange(256), 255))
    with pytest.raises(ValueError, match=r"may have the ids \[0, 3, 5\] .*\[0, 6, 10\]"):
        load(_png(_draw([0, 3, 5]), 8, stretched), NAMES)


def test_black_and_white_mean_0_and_255_or_0_and_1(load):
    ids = _draw([0, 1])
    content = _png(ids, 1, [(0, 0, 0), (255, 255, 255)])
    with pytest.raises(ValueError, match=r"may have the ids \[0, 1\] .*\[0, 255\]"):
        load(content, NAMES, ignore=[255])


def test_an_index_without_a_color_raises_an_error(load):
    content = _png(_draw([0, 1, 3]), 8, VIVID[:3])
    for how in ({"names": NAMES}, {"palette": {"a": VIVID[0]}}):
        with pytest.raises(ValueError, match=r"0\.png uses entry 3 of a palette of 3 colors"):
            load(content, **how)


COLORS = {"road": (128, 64, 128), "car": (64, 0, 128), "sky": (128, 128, 128), "void": (0, 0, 0)}
PICTURE = np.array(list(COLORS.values()), dtype=np.uint8)
COLORED = {
    "RGB": Image.fromarray(PICTURE[_draw([0, 1, 2, 3])]),
}
COLORED["RGBA"] = COLORED["RGB"].convert("RGBA")
COLORED["palette"] = COLORED["RGB"].quantize(4)
COLORED["GIF"] = COLORED["RGB"].quantize(4)
COLORED["TIFF"] = COLORED["RGB"]
SUFFIXES = {"GIF": ".gif", "TIFF": ".tif"}


def _by_color(image):
    pixels = np.asarray(image.convert("RGB"))
    return {name: (pixels == color).all(axis=2) for name, color in COLORS.items() if name != "void"}


@pytest.mark.parametrize("form", COLORED)
@pytest.mark.parametrize("ignore", [[(0, 0, 0)], (0, 0, 0), ["#000000"], np.zeros((1, 3), int)])
def test_colored_masks_are_read(load, form, ignore):
    palette = {name: COLORS[name] for name in ("road", "car", "sky")}
    data = load(COLORED[form], suffix=SUFFIXES.get(form, ".png"), palette=palette, ignore=ignore)
    _is(data, _by_color(COLORED[form]))


def test_gray_colors_are_read_in_masks_with_one_channel(load):
    ids = _draw([0, 20, 40])
    palette = {"a": (0, 0, 0), "b": (20, 20, 20), "c": "#282828"}
    truth = {"a": ids == 0, "b": ids == 20, "c": ids == 40}
    _is(load(Image.fromarray(ids), palette=palette), truth)


def test_a_concept_may_have_several_colors(load):
    palette = {"way": [COLORS["road"], "#400080"], "sky": COLORS["sky"]}
    data = load(COLORED["RGB"], palette=palette, ignore=[(0, 0, 0)], keep=["color", "instance"])
    truth = _by_color(COLORED["RGB"])
    _is(data, {"way": truth["road"] | truth["car"], "sky": truth["sky"]})
    assert set(data["color"][1]) == {"#808080"}
    assert data["annotation_id"][1][0] == "0:#808080:1"
    split = load(
        COLORED["RGB"],
        palette=palette,
        ignore=[(0, 0, 0)],
        merge_instances=False,
        categories=["sky"],
        keep=["color"],
    )
    assert (split["color"] == "#808080").all()
    with pytest.raises(ValueError, match=r"no annotation has .*class_id.*\['color', 'instance'\]"):
        load(COLORED["RGB"], palette=palette, ignore=[(0, 0, 0)], keep=["class_id"])


def test_unnamed_colors_raise_an_error(load):
    n_black = (np.asarray(COLORED["RGB"]) == 0).all(axis=2).sum()
    palette = {name: COLORS[name] for name in ("road", "car", "sky")}
    match = rf"0\.png has the colors \['#000000'\] \({n_black} pixels; 1 in all\), which are not"
    with pytest.raises(ValueError, match=match) as error:
        load(COLORED["RGB"], palette=palette)
    assert "JPEG" not in str(error.value)


def test_the_error_explains_blurred_colors_and_ids(load):
    ids = Image.fromarray(20 * _draw(range(12)))
    for how in ({"palette": COLORS}, {"names": {20 * i: str(i) for i in range(12)}}):
        image = COLORED["RGB"] if "palette" in how else ids
        with pytest.raises(ValueError, match=r"0\.jpg has the .*JPEG compression or smooth"):
            load(image, suffix=".jpg", **how)


def test_transparent_pixels_have_no_color(load):
    image = COLORED["RGBA"].copy()
    image.putpixel((3, 4), (128, 64, 128, 254))
    for how in ({"palette": COLORS}, {"names": NAMES}):
        with pytest.raises(ValueError, match=r"0\.png has 1 transparent"):
            load(image, **how)


def test_colored_masks_without_a_palette_raise_an_error(load):
    with pytest.raises(ValueError, match=r"0\.png has colors, such as #.*palette="):
        load(COLORED["RGB"], NAMES)


@pytest.mark.parametrize("mode", ["F", "CMYK"])
def test_modes_without_ids_and_colors_raise_an_error(load, mode):
    for how in ({"palette": COLORS}, {"names": NAMES}):
        with pytest.raises(ValueError, match=rf"0\.tif is an image of mode {mode}"):
            load(Image.new(mode, SHAPE[::-1]), suffix=".tif", **how)


@pytest.mark.parametrize(
    ("palette", "match"),
    [
        ({"a": (0, 0, 256)}, r"palette\['a'\]: a color must be .* got \(0, 0, 256\)"),
        ({"a": (0, 0)}, "got \\(0, 0\\)"),
        ({"a": (0.0, 0.5, 1.0)}, "got \\(0.0, 0.5, 1.0\\)"),
        ({"a": "#12345"}, "got '#12345'"),
        ({"a": "#00000080"}, "got '#00000080'"),
        ({"a": 3}, r"palette\['a'\]"),
        ({"a": []}, "it has no color"),
        ({"a": "#010203", "b": (1, 2, 3)}, r"palette\['b'\]: \['#010203'\] are given elsewhere"),
        ({"a": (9, 9, 9)}, r"palette\['a'\]: \['#090909'\] are given elsewhere"),
    ],
)
def test_invalid_palettes_raise_errors(load, palette, match):
    with pytest.raises(ValueError, match=match):
        load(COLORED["RGB"], palette=palette, ignore=[(9, 9, 9)])


def test_names_and_a_palette_exclude_each_other(load):
    for how in ({}, {"names": NAMES, "palette": COLORS}):
        with pytest.raises(ValueError, match=r"either class_names, .* or palette"):
            load(COLORED["RGB"], **how)


@pytest.mark.parametrize("suffix", ["_n.gif", "_n.tif"])
def test_instances_may_be_numbered_by_colors_or_in_a_gif(load, tmp_path, suffix):
    numbers = np.repeat(np.repeat([[40, 7, 90]], 12, axis=1), SHAPE[0], axis=0).astype(np.uint8)
    colored = VIVID.astype(np.uint8)[numbers]
    (tmp_path / "masks").mkdir()
    Image.fromarray(numbers if suffix == "_n.gif" else colored).save(tmp_path / f"masks/0{suffix}")
    with _told(suffix == "_n.gif", suffix):
        data = load(
            _png(np.zeros(SHAPE, dtype=np.uint8), 1),
            NAMES,
            merge_instances=False,
            instance_suffix=suffix,
            keep=["instance"],
        )
    if suffix == "_n.gif":
        assert data["instance"].tolist() == [7, 40, 90]
    got = {coco_mask.decode(rle).tobytes("C") for rle in data["mask"]}
    assert got == {(numbers == number).astype(np.uint8).tobytes() for number in (7, 40, 90)}


def _voc_colors():
    """Build VOC's colors as its development kit does, bit by bit."""
    colors = []
    for number in range(256):
        color, rest = [0, 0, 0], number
        for place in range(8):
            for channel in range(3):
                color[channel] |= (rest >> channel & 1) << 7 - place
            rest >>= 3
        colors.append(color)
    return np.array(colors, dtype=np.uint8)


@pytest.mark.parametrize("form", ["published", "optimized", "RGB"])
def test_voc_trees_are_read_in_every_form(tmp_path, form):
    classes, objects = planted_voc_image()
    make_voc_tree(tmp_path, {"a": (classes, objects)}, {"val": ["a"]})
    expected = load_voc(tmp_path, "val").data
    for folder, ids in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        path = tmp_path / folder / "a.png"
        if form == "RGB":
            Image.fromarray(_voc_colors()[ids]).save(path)
            continue
        indexes, colors = (
            _optimize(ids, _voc_colors()) if form == "optimized" else (ids, _voc_colors())
        )
        path.write_bytes(_png(indexes, 8, colors))
    expectation = nullcontext()
    if form == "optimized":
        expectation = pytest.warns(UserWarning, match="store indexes that differ from their colors")
    with expectation:
        data = load_voc(tmp_path, "val").data
    assert data.to_dict("records") == expected.to_dict("records")


def test_voc_trees_with_unknown_ids_raise_an_error(tmp_path):
    classes, objects = planted_voc_image()
    make_voc_tree(tmp_path, {"a": (classes, objects)}, {"val": ["a"]})
    indexes, colors = _optimize(classes, VIVID)
    (tmp_path / "SegmentationClass" / "a.png").write_bytes(_png(indexes, 8, colors))
    with pytest.raises(ValueError, match="use every entry of their palettes"):
        load_voc(tmp_path, "val")
