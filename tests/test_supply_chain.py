"""Hostile images, masks and annotation files, under a memory limit."""

import json
import os
import signal
import socket
import struct
import sys
import time
import warnings
import zlib
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sklearn_loce import LoCETransformer, TorchModel
from sklearn_loce._solvers.resize import resize_masks
from sklearn_loce.datasets import from_detections, load_coco, load_masks, load_voc
from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter

from .conftest import make_small_network
from .dataset_trees import coco_content, files_of, make_coco_tree, make_voc_tree

HEIGHT, WIDTH = 6, 8
SECONDS = 20
MEGABYTES = 300
BOMB = 100_000  # pixels along each side of an image that nobody has
LARGE = 12_000  # between Pillow's limit, where it warns, and twice that, where it raises


@contextmanager
def _little_memory_and_time():
    """Limit the growth of the process to some megabytes, and fail if it takes long."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs RLIMIT_AS and /proc")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    start = time.process_time()  # whatever else the machine does
    resource.setrlimit(resource.RLIMIT_AS, (size + MEGABYTES * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - start < SECONDS


def test_the_memory_limit_works():
    with pytest.raises(MemoryError), _little_memory_and_time():
        np.ones((BOMB, BOMB), dtype=np.uint8)


def _image(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _samples(**cells):
    """Return three rows, the last with other cells."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[1:4, 2:6] = True
    rows = [{"image": _image(i), "mask": mask, "concept": "car"} for i in range(3)]
    return pd.DataFrame([*rows[:2], {**rows[2], **cells}])


def _transformer(**how):
    return LoCETransformer(TorchModel(make_small_network()), "2", **how)


@pytest.fixture(scope="module")
def loce():
    loce = _transformer().fit(_samples())
    loce.transform(_samples())
    return loce


def _from_coco(samples, folder):
    """Load the last row from a COCO file that claims the size of a small image."""
    content = coco_content()
    content["annotations"][0]["segmentation"] = samples["mask"].iloc[2]
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    load_coco(path, folder)


# Functions that read the masks of a table, called as read(fitted transformer, table, folder).
READERS = {
    "fit": lambda loce, X, folder: _transformer().fit(X.iloc[2:]),
    "transform": lambda loce, X, folder: loce.transform(X),
    "evaluate": lambda loce, X, folder: loce.evaluate(X),
    "project": lambda loce, X, folder: loce.project(X),
    "ConceptSegmenter": lambda loce, X, folder: ConceptSegmenter(_transformer()).fit(X),
    "ConceptSegmenter.evaluate": lambda loce, X, folder: (
        ConceptSegmenter(_transformer()).fit(_samples()).evaluate(X)
    ),
    "Net2VecSegmenter": lambda loce, X, folder: Net2VecSegmenter(
        _transformer(objective="net2vec")
    ).fit(X),
}
LOADERS = {
    "load_coco": lambda loce, X, folder: _from_coco(X, folder),
    "from_detections": lambda loce, X, folder: from_detections(
        [X["image"].iloc[2]], [[{"segmentation": X["mask"].iloc[2]}]], class_names="car"
    ),
    "from_detections, merged": lambda loce, X, folder: from_detections(
        [X["image"].iloc[2]],
        [[{"segmentation": X["mask"].iloc[2]}] * 2],
        class_names="car",
        mask="ellipse",
    ),
}

# Impossible sizes: (RLE, message).
ABSURD_SIZES = {
    "a terapixel": ({"size": [10**6, 10**6], "counts": [10**12]}, "larger than the limit"),
    "4 exapixels": ({"size": [2**31, 2**31], "counts": [2**62]}, "larger than the limit"),
    "beyond 64 bits": ({"size": [2**63, 2], "counts": [2**64]}, "larger than the limit"),
    "compressed": ({"size": [10**6, 10**6], "counts": "0PPPPPPPP1"}, "larger than the limit"),
    "a whole gigapixel": ({"size": [2**15, 2**15], "counts": [2**30]}, "larger than the limit"),
    "negative": ({"size": [-HEIGHT, -WIDTH], "counts": [48]}, "two positive integers"),
    "infinite": ({"size": [float("inf"), WIDTH], "counts": [48]}, "two positive integers"),
    "not a number": ({"size": [float("nan"), WIDTH], "counts": [48]}, "two positive integers"),
    "a fraction": ({"size": [6.5, WIDTH], "counts": [52]}, "two positive integers"),
    "one number": ({"size": [48], "counts": [48]}, "two positive integers"),
    "no list": ({"size": 48, "counts": [48]}, "two positive integers"),
    "words": ({"size": ["six", "8"], "counts": [48]}, "two positive integers"),
}
SIZE = [HEIGHT, WIDTH]
ABSURD_COUNTS = {
    "sum that overflows": ([2**63 - 1, 2**63 - 1, 2, 48], "must sum to 48"),
    "beyond 64 bits": ([2**70, 48], "integers of at least 0"),
    "negative": ([50, -2], "integers of at least 0"),
    "many empty runs": ([0] * 10**6 + [48], "counts of length 1000001"),
    "long text": ("0" * 10**7, "counts of length 10000000"),
    "huge number": ("o" * 13 + "0", "too large"),
    "huge difference": ("`1" + "oooooooooo?" * 20, "must sum to 48"),
    "negative difference": ("`1@@", "at least 0"),
    "unending number": ("P" * 7, "cut off"),
    "foreign": ("\x7f0", "invalid characters"),
    "not ASCII": ("\N{GREEK SMALL LETTER ALPHA}", "can't encode"),
    "nothing": (None, "integers of at least 0"),
}
RLES = {
    **{f"size, {name}": case for name, case in ABSURD_SIZES.items()},
    **{
        f"counts, {name}": ({"size": SIZE, "counts": counts}, match)
        for name, (counts, match) in ABSURD_COUNTS.items()
    },
}


EACH = [("transform", rle) for rle in RLES]
EACH += [
    (reader, rle)
    for reader in {**READERS, **LOADERS}
    for rle in ("size, a terapixel", "counts, huge number")
    if reader != "transform"
]


@pytest.mark.parametrize(("reader", "rle"), EACH)
def test_absurd_rles_raise_errors(loce, tmp_path, reader, rle):
    mask, match = RLES[rle]
    make_coco_tree(tmp_path)
    read = {**READERS, **LOADERS}[reader]
    with pytest.raises(ValueError, match=match) as error, _little_memory_and_time():
        read(loce, _samples(mask=mask), tmp_path)
    assert any(where in str(error.value) for where in ("row ", "annotation 11", "detections[0]"))


@pytest.mark.parametrize("reader", {**READERS, **LOADERS})
def test_masks_of_another_image_are_refused_before_they_are_decoded(loce, tmp_path, reader):
    """The runs are invalid, too, but are not read."""
    mask = {"size": [10_000, 12_000], "counts": "nonsense"}
    make_coco_tree(tmp_path)
    with (
        pytest.raises(ValueError, match=r"12000.* but (its|the) image") as error,
        _little_memory_and_time(),
    ):
        {**READERS, **LOADERS}[reader](loce, _samples(mask=mask), tmp_path)
    assert "counts" not in str(error.value)


def test_the_limit_of_masks_equals_that_of_pillow(monkeypatch):
    mask = {"size": SIZE, "counts": [0, 48]}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)
    from_detections([_image()], [[{"segmentation": mask}]], class_names="car")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23)
    with pytest.raises(ValueError, match="6 x 8 pixels is larger than the limit of 46"):
        from_detections([_image()], [[{"segmentation": mask}]], class_names="car")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    from_detections([_image()], [[{"segmentation": mask}]], class_names="car")


@pytest.mark.parametrize("mask", ["segmentation", "rectangle", "ellipse"])
@pytest.mark.parametrize("segmentation", [[], [[0, 0, 9, 0, 9, 9]], {"size": [1, 1], "counts": []}])
def test_coco_images_of_absurd_size_raise_an_error(tmp_path, mask, segmentation):
    content = coco_content()
    content["images"][0].update(height=10**6, width=10**6)
    content["annotations"][0]["segmentation"] = segmentation
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with (
        pytest.raises(ValueError, match=r"annotation 11 .*larger than the limit") as error,
        _little_memory_and_time(),
    ):
        load_coco(path, tmp_path, mask=mask)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "polygon",
    [
        [0, 0, 1e9, 0, 1e9, 1e9],
        [0, 0, -1e300, 0, 5, 5],
        [0, 0, 1e6, 0] * 100_000,
        [1e8, 1e8, 1e8 + 4, 1e8, 1e8 + 4, 1e8 + 4],
    ],
    ids=["far", "beyond integers", "there and back", "all of it far"],
)
def test_absurd_polygons_are_refused(tmp_path, polygon):
    make_coco_tree(tmp_path)
    with (
        pytest.raises(ValueError, match=r"annotation 11 can't be read: the outline"),
        _little_memory_and_time(),
    ):
        _from_coco(_samples(mask=[polygon]), tmp_path)


def test_the_longest_outline_needs_little_memory(tmp_path):
    make_coco_tree(tmp_path)
    with _little_memory_and_time():
        _from_coco(_samples(mask=[[0, 0, 2**19 - 8, 0, 2**19 - 8, 6, 0, 6]]), tmp_path)


def _from_box(box):
    output = {"boxes": np.array([box], dtype=float), "labels": np.array([0])}
    return from_detections([_image()], [output], class_names=["car"], mask="rectangle").data


@pytest.mark.parametrize("far", [20, 1e8, 1e12, 1e300])
def test_boxes_are_cut_at_the_borders_at_any_distance(far):
    with _little_memory_and_time():
        mask = coco_mask.decode(_from_box([-far, 2, 5, far])["mask"].iloc[0])
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[2:, :5] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_invalid_boxes_raise_errors(wrong):
    with pytest.raises(ValueError, match=r"detections\[0\]: a box must be four finite numbers"):
        _from_box([0, 0, wrong, 4])


def _chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _png(path, height, width, *extra):
    """Write a gray PNG that declares a size, with few pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = _chunk(b"IDAT", zlib.compress(bytes(1000)))
    content = b"".join([_chunk(b"IHDR", header), *extra, pixels, _chunk(b"IEND", b"")])
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def _refused(read, path, match):
    with pytest.raises(ValueError, match=match) as error, _little_memory_and_time():
        read()
    assert str(path) in str(error.value)


@pytest.mark.parametrize("cell", ["image", "mask"])
@pytest.mark.parametrize("reader", READERS)
def test_errors_name_decompression_bombs(loce, tmp_path, reader, cell):
    bomb = _png(tmp_path / "bomb.png", BOMB, BOMB)
    samples = _samples(**{cell: bomb})
    _refused(lambda: READERS[reader](loce, samples, tmp_path), bomb, f"row .* the {cell} .*bomb")


@pytest.mark.parametrize("reader", READERS)
def test_large_masks_of_small_images_are_refused_before_they_are_decoded(loce, tmp_path, reader):
    """Pillow only warns of these; decoded, they would need too much memory."""
    large = _png(tmp_path / "large.png", LARGE, LARGE)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _refused(
            lambda: READERS[reader](loce, _samples(mask=large), tmp_path),
            large,
            "12000 x 12000, but the image is 6 x 8",
        )
    assert Image.DecompressionBombWarning in {warning.category for warning in seen}


@pytest.mark.parametrize("cell", ["image", "mask"])
def test_errors_name_files_if_the_warning_of_pillow_is_an_error(loce, tmp_path, cell):
    large = _png(tmp_path / "large.png", LARGE, LARGE)
    read = lambda: loce.transform(_samples(**{cell: large}))  # noqa: E731
    _refused(read, large, rf"row 2: the {cell} .* exceeds limit")


def test_errors_name_index_masks_that_are_bombs(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    _png(tmp_path / "images" / "a.png", HEIGHT, WIDTH)
    bomb = tmp_path / "masks" / "a.png"
    for side in (BOMB, LARGE):
        _png(bomb, side, side)
        read = lambda: load_masks(tmp_path / "images", tmp_path / "masks", ["a"])  # noqa: E731
        _refused(read, bomb, "exceeds limit")


@pytest.mark.parametrize("cell", ["image", "mask"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_that_unpacks_to_much_more_raises_an_error(loce, tmp_path, cell, kind):
    text = zlib.compress(bytes(400 * 2**20), 1)
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    bomb = _png(tmp_path / "bomb.png", HEIGHT, WIDTH, _chunk(kind, head + text))
    read = lambda: loce.transform(_samples(**{cell: bomb}))  # noqa: E731
    _refused(read, bomb, f"row 2: the {cell} .*too large")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("cell", ["image", "mask"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".gif"])
def test_errors_name_truncated_files(loce, tmp_path, cell, share, suffix):
    path = tmp_path / f"a{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    row = {"image": pixels, "mask": pixels > 127, cell: path}
    _refused(lambda: loce.transform(_samples(**row)), path, f"row 2: the {cell}")


def _make_pipe(path):
    os.mkfifo(path)


def _make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _link_to(target):
    return lambda path: path.symlink_to(target)


NO_FILES = {
    "pipe": _make_pipe,
    "socket": _make_socket,
    "folder": lambda path: path.mkdir(),
    "endless device": _link_to("/dev/zero"),
    "empty device": _link_to("/dev/null"),
}


@contextmanager
def _at_once():
    """Fail if the block waits; an alarm interrupts it."""

    def wake(*_):
        raise TimeoutError("this waits")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
@pytest.mark.parametrize("cell", ["image", "mask"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_pipes_sockets_devices_and_folders_are_refused_at_once(
    loce, tmp_path, monkeypatch, kind, cell
):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    NO_FILES[kind]("a.png" if kind == "socket" else tmp_path / "a.png")
    samples, kept = _samples(**{cell: "a.png"}), _transformer(memory=tmp_path / "store")
    for read in (loce.transform, loce.evaluate, kept.fit_transform):
        with _at_once():
            _refused(lambda read=read: read(samples), "a.png", f"row 2: the {cell} .*not a file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
def test_pipes_in_folders_are_not_opened(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / folder / "a.png")
    folders = tmp_path / "images", tmp_path / "masks"
    _make_pipe(folders[1] / "b.png")
    with _at_once():
        assert len(load_masks(*folders, ["road"]).data) == 1
    _make_pipe(folders[1] / "a_instances.png")
    with (
        _at_once(),
        pytest.raises(ValueError, match=r"a_instances\.png can't be read .*not a file"),
    ):
        load_masks(*folders, ["road"], instance_suffix="_instances.png")


@pytest.mark.parametrize("cell", ["image", "mask"])
def test_postscript_is_not_run(loce, tmp_path, monkeypatch, cell):
    """Its suffix does not matter; Pillow would pass it to Ghostscript."""
    monkeypatch.setattr("subprocess.Popen", None)
    path = tmp_path / "a.png"
    path.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 {WIDTH} {HEIGHT}\n(x) run\n")
    read = lambda: loce.transform(_samples(**{cell: path}))  # noqa: E731
    _refused(read, path, f"row 2: the {cell} .*PostScript is a program")


def test_a_long_and_thin_mask_needs_little_memory():
    with _little_memory_and_time():
        assert resize_masks([np.ones((9_500, 1))], (100, 100)).min() == 1
    with pytest.raises(ValueError, match="side of 1000000 pixels"), _little_memory_and_time():
        resize_masks([np.ones((1, 10**6), dtype=bool)], (100, 100))


# Names with a special meaning in shells, databases, browsers, terminals and file systems.
NAMES = [
    "'; DROP TABLE rows; --",
    '" OR ""="',
    "$(touch pwned) `touch pwned` | touch pwned",
    "-rf *",
    "%s %n {0.__class__}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\windows",
    "two\nlines\r\ttab",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "nul\0byte",
    "",
    "\x1b[31mred",
    "\N{GRINNING FACE}" * 1000,
]


def test_concepts_may_have_any_name(tmp_path, monkeypatch):
    """Names stay unchanged, and no file is added to the folder."""
    monkeypatch.chdir(tmp_path)
    content = coco_content()
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    content["annotations"] = [
        {**content["annotations"][0], "id": i, "category_id": i} for i in range(len(NAMES))
    ]
    path = make_coco_tree(tmp_path, content)
    before = files_of(tmp_path)
    coco = load_coco(path, tmp_path)
    assert coco.target.tolist() == coco.target_names == NAMES
    segmenter = ConceptSegmenter(_transformer()).fit(coco.data)
    assert segmenter.concepts_.tolist() == sorted(NAMES)
    assert segmenter.evaluate(coco.data)["concept"].tolist() == NAMES
    with pytest.raises(ValueError, match="has no category") as error:
        load_coco(path, tmp_path, categories=["two\nlines\r", "\N{RIGHT-TO-LEFT OVERRIDE}gnp"])
    assert not {"\n", "\r", "\x1b", "\N{RIGHT-TO-LEFT OVERRIDE}"} & set(str(error.value))
    assert files_of(tmp_path) == before


FILE_NAMES = [
    "'; DROP TABLE rows; --.png",
    "$(touch pwned).png",
    "-rf.png",
    "%s {0}.png",
    "<img src=x onerror=alert(1)>.png",
    "two\nlines.png",
    "..\\..\\windows.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.png",
    "inside/../here.png",
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", FILE_NAMES)
def test_files_may_have_any_name(loce, tmp_path, name):
    (tmp_path / "inside").mkdir()
    content = coco_content()
    content["images"][0]["file_name"] = name
    path = make_coco_tree(tmp_path, content)
    before = files_of(tmp_path)
    table = load_coco(path, tmp_path).data
    plain = table.assign(image=[Image.open(image).copy() for image in table["image"]])
    np.testing.assert_array_equal(loce.transform(table), loce.transform(plain))
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "../../etc/passwd",
        "a/../../secret.png",
        "{outside}/secret.png",
        "/dev/zero",
    ],
)
def test_coco_files_outside_the_folder_are_refused(tmp_path, name):
    folder = tmp_path / "images"
    folder.mkdir()
    content = coco_content()
    path = make_coco_tree(folder, content)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "secret.png")
    content["images"][0]["file_name"] = name.format(outside=tmp_path)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is outside .*pass a folder that contains") as error:
        load_coco(path, folder)
    assert str(path) in str(error.value)
    # The remedy in the message.
    if "secret" in name:
        content["images"] = content["images"][:1]
        content["annotations"] = content["annotations"][:1]
        content["images"][0]["file_name"] = str(tmp_path / "secret.png")
        path.write_text(json.dumps(content))
        assert load_coco(path, tmp_path).data["image"].iloc[0] == str(tmp_path / "secret.png")


JSON = {
    "lists": b"[" * 200_000,
    "objects": b'{"images":' * 200_000,
    "closed": b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "latin-1": '{"images": "\N{LATIN SMALL LETTER E WITH ACUTE}"}'.encode("latin-1"),
    "utf-16": '{"images": []}'.encode("utf-16"),
    "bytes": b"\xff\xfe\x00" * 1000,
    "huge number": b'{"images": ' + b"9" * 1_000_000 + b"}",
    "zeros": b"\0" * 1_000_000,
}


@pytest.mark.parametrize("name", JSON)
def test_invalid_json_raises_an_error(tmp_path, name):
    path = tmp_path / "a.json"
    path.write_bytes(JSON[name])
    _refused(lambda: load_coco(path, tmp_path), path, "not a whole JSON file")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd"])
def test_voc_files_outside_the_tree_are_refused(tmp_path, name):
    blank = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    make_voc_tree(tmp_path / "VOC2012", {"a": (blank, blank)}, {"val": ["a", name]})
    with pytest.raises(ValueError, match="is outside") as error:
        load_voc(tmp_path, "val")
    assert "val.txt" in str(error.value)
