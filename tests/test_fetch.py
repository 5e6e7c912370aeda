"""Downloads from a server on this machine: complete, broken, resumed, wrong and missing ones."""

import errno
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from sklearn_loce.datasets import (
    _download,
    _fetch,
    fetch_coco_val2017,
    fetch_voc2012,
    load_coco,
    load_voc,
)
from sklearn_loce.datasets._download import download

from .dataset_trees import files_of, make_coco_tree, make_voc_tree, planted_voc_image

BLOB = np.random.default_rng(0).bytes(3_000_000)


def _md5(content):
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


class _Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``, with the faults that the test sets."""

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if not server.knows_ranges:
            start = 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and server.knows_ranges else 200)
        if wanted and server.knows_ranges:
            told = start + server.range_error
            self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if server.breaks:
            body = body[: server.breaks.pop(0)]
        server.gate.wait(60)
        server.sent += len(body)
        # A client with a full disk closes the connection.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def log_message(self, *args):
        """Log nothing."""


@pytest.fixture
def server(monkeypatch):
    """A server on the loopback interface, without a proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.files, server.requests, server.breaks, server.statuses = {}, [], [], []
        server.knows_ranges, server.range_error, server.sent = True, 0, 0
        server.gate = threading.Event()
        server.gate.set()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def blob(server, tmp_path):
    """Return a function that downloads a file of 3 MB, and its path."""
    server.files["/blob.bin"] = BLOB
    path = tmp_path / "blob.bin"

    def fetch(checksum=None, n_retries=0):
        checksum = checksum or _md5(BLOB)
        url = f"{server.url}/blob.bin"
        download(url, checksum, path, n_retries=n_retries, delay=0, verbose=0)

    return fetch, path


def _zip(files):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def coco(server, tmp_path, monkeypatch):
    """Publish a small COCO tree under the real paths; return the table of the original."""
    source = tmp_path / "source"
    source.mkdir()
    path = make_coco_tree(source)
    images = {f"val2017/{p.name}": p.read_bytes() for p in source.glob("*.jpg")}
    annotations = {
        "annotations/instances_val2017.json": path.read_bytes(),
        "annotations/instances_train2017.json": b"{}",
    }
    contents = [_zip({"val2017/": b"", **images}), _zip(annotations)]
    for archive, content in zip(_fetch._COCO_VAL2017, contents, strict=True):
        server.files[f"/{archive.path}"] = content
    archives = [
        replace(archive, checksum=_md5(content))
        for archive, content in zip(_fetch._COCO_VAL2017, contents, strict=True)
    ]
    monkeypatch.setattr(_fetch, "_COCO_VAL2017", archives)
    return load_coco(path, source)


@pytest.fixture
def voc(server, tmp_path, monkeypatch):
    """Publish a small VOC tree; return the table of the original."""
    source = tmp_path / "source"
    images = {"2007_000001": planted_voc_image()}
    make_voc_tree(source / "VOCdevkit" / "VOC2012", images, {"trainval": images, "val": images})
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.add(source / "VOCdevkit", "VOCdevkit")
    (archive,) = _fetch._VOC2012
    server.files[f"/{archive.path}"] = buffer.getvalue()
    archives = [replace(archive, checksum=_md5(buffer.getvalue()))]
    monkeypatch.setattr(_fetch, "_VOC2012", archives)
    return load_voc(source)


def _files_of(home):
    """Return the names of files that are not locks."""
    return {path: content for path, content in files_of(home).items() if ".lock" not in path}


def _same_table(got, expected):
    columns = [c for c in expected.data.columns if c != "image"]
    assert got.data[columns].to_dict("records") == expected.data[columns].to_dict("records")
    assert [Path(p).read_bytes() for p in got.data["image"]] == [
        Path(p).read_bytes() for p in expected.data["image"]
    ]


def test_fetch_coco_downloads_and_loads(coco, server, tmp_path, capsys):
    home = tmp_path / "home"
    _same_table(fetch_coco_val2017(data_home=home, base_url=server.url, verbose=0), coco)
    assert "unpacking" not in capsys.readouterr().err
    assert len(server.requests) == 2
    # The archives and unused members are removed.
    assert set(_files_of(home)) == {
        "coco_val2017/annotations/annotations/instances_val2017.json",
        "coco_val2017/images/val2017/000001.jpg",
        "coco_val2017/images/val2017/000002.jpg",
    }
    again = fetch_coco_val2017(data_home=home, download_if_missing=False, base_url=server.url)
    _same_table(again, coco)
    assert len(server.requests) == 2


def test_fetch_voc_shows_a_progress_bar(voc, server, tmp_path, capsys):
    home = tmp_path / "home"
    _same_table(fetch_voc2012(data_home=home, base_url=f"{server.url}/", verbose=1), voc)
    shown = capsys.readouterr().err
    assert "VOCtrainval_11-May-2012.tar" in shown
    assert "100%" in shown
    assert "unpacking" in shown
    assert sorted(p.name for p in (home / "voc2012").iterdir()) == [".lock", "trainval"]


def test_fetch_passes_its_parameters_to_the_loader(voc, server, tmp_path):
    data, target = fetch_voc2012(
        data_home=tmp_path / "home",
        base_url=server.url,
        verbose=0,
        split="val",
        categories=["person"],
        merge_instances=False,
        mask="rectangle",
        return_X_y=True,
    )
    assert target.tolist() == ["person", "person"]
    assert (data["n_instances"] == 1).all()


def test_the_default_folder_is_that_of_scikit_learn(coco, server, tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "elsewhere"))
    fetch_coco_val2017(base_url=server.url, verbose=0)
    assert (tmp_path / "elsewhere" / "coco_val2017" / "images").is_dir()


FETCH = """
import sys
from dataclasses import replace
from sklearn_loce.datasets import _fetch, fetch_voc2012
home, url, checksum = sys.argv[1:]
_fetch._VOC2012 = [replace(archive, checksum=checksum) for archive in _fetch._VOC2012]
print(len(fetch_voc2012(data_home=home, base_url=url, verbose=0).data))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", [False, True])
def test_processes_wait_for_a_download_of_another_process(voc, server, tmp_path, dies):
    command = [sys.executable, "-c", FETCH, str(tmp_path / "home"), server.url]
    command.append(_fetch._VOC2012[0].checksum)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server.gate.clear()
    with subprocess.Popen(command, **pipes) as first:
        while not server.requests:
            time.sleep(0.01)
        with subprocess.Popen(command, **pipes) as second:
            assert "Another process downloads to" in second.stderr.readline()
            assert len(server.requests) == 1
            if dies:
                first.kill()
                assert first.wait() != 0
            server.gate.set()
            assert second.communicate()[0] == f"{len(voc.data)}\n"
        if not dies:
            assert first.communicate()[0] == f"{len(voc.data)}\n"
    assert len(server.requests) == 1 + dies
    _same_table(fetch_voc2012(data_home=tmp_path / "home", download_if_missing=False), voc)


@pytest.mark.parametrize("fetch", [fetch_coco_val2017, fetch_voc2012])
def test_missing_data_without_download_raises_an_error(fetch, server, tmp_path):
    with pytest.raises(OSError, match=r"Data not found .*`download_if_missing` is False"):
        fetch(data_home=tmp_path, download_if_missing=False, base_url=server.url)
    assert not server.requests
    assert not list(tmp_path.iterdir())


def test_a_broken_connection_is_resumed(blob, server):
    fetch, path = blob
    server.breaks = [1_000_000, 700_001]
    with pytest.warns(UserWarning, match="Retry downloading"):
        fetch(n_retries=2)
    assert path.read_bytes() == BLOB
    # The received bytes are kept, except for less than one chunk of 64 KiB per interruption.
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [None, "bytes=983040-", "bytes=1638400-"]
    assert server.sent < len(BLOB) + 2 * _download._CHUNK
    assert os.listdir(path.parent) == ["blob.bin"]


def test_a_later_call_resumes(blob, server):
    fetch, path = blob
    server.breaks = [1_234_567]
    with pytest.raises(OSError, match=r"go on with the 1179648 bytes in .*blob\.bin\.part"):
        fetch()
    assert not path.exists()
    fetch()
    assert path.read_bytes() == BLOB
    assert server.requests[-1] == ("/blob.bin", "bytes=1179648-")
    assert server.sent < len(BLOB) + _download._CHUNK


def test_a_server_that_ignores_ranges_sends_the_whole_file(blob, server):
    fetch, path = blob
    server.knows_ranges, server.breaks = False, [1_000_000]
    with pytest.warns(UserWarning, match="Retry"):
        fetch(n_retries=1)
    assert path.read_bytes() == BLOB
    assert server.sent == 1_000_000 + len(BLOB)


def test_a_complete_partial_file_is_not_downloaded_again(blob, server):
    fetch, path = blob
    path.with_name("blob.bin.part").write_bytes(BLOB)
    fetch()
    assert path.read_bytes() == BLOB
    assert server.sent == 0


def test_a_partial_file_that_is_too_long_is_removed(blob, server):
    fetch, path = blob
    path.with_name("blob.bin.part").write_bytes(BLOB + b"more")
    with pytest.warns(UserWarning, match="does not fit"):
        fetch(n_retries=1)
    assert path.read_bytes() == BLOB


def test_a_wrong_range_is_not_used(blob, server):
    fetch, path = blob
    path.with_name("blob.bin.part").write_bytes(BLOB[:1000])
    server.range_error = 5
    with pytest.raises(OSError, match="instead of the bytes from 1000 on"):
        fetch()
    assert not path.exists()


def test_a_wrong_checksum_raises_an_error(blob, server):
    fetch, path = blob
    with pytest.raises(OSError, match=r"blob\.bin is not the published file: .*does not match"):
        fetch(checksum=_md5(b"something else"))
    assert not list(path.parent.iterdir())
    fetch()
    assert path.read_bytes() == BLOB


def test_a_partial_file_of_other_content_fails_once(blob, server):
    fetch, path = blob
    path.with_name("blob.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(OSError, match="not the published file"):
        fetch()
    fetch()
    assert path.read_bytes() == BLOB


def test_a_tree_with_the_wrong_checksum_is_not_unpacked(server, tmp_path):
    for archive in _fetch._COCO_VAL2017:
        server.files[f"/{archive.path}"] = _zip({"val2017/000001.jpg": b"not COCO"})
    with pytest.raises(OSError, match="not the published file"):
        fetch_coco_val2017(data_home=tmp_path, base_url=server.url, verbose=0)
    assert _files_of(tmp_path) == {}


def test_an_existing_file_is_not_downloaded(blob, server):
    fetch, path = blob
    path.write_bytes(BLOB)
    fetch()
    assert not server.requests


def test_a_missing_file_is_not_requested_again(blob, server):
    fetch, _ = blob
    server.files.clear()
    with pytest.raises(OSError, match="404"):
        fetch(n_retries=3)
    assert len(server.requests) == 1


def test_a_busy_server_is_requested_again(blob, server):
    fetch, path = blob
    server.statuses = [503]
    with pytest.warns(UserWarning, match="503"):
        fetch(n_retries=1)
    assert path.read_bytes() == BLOB


def test_a_missing_network_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with (
        pytest.warns(UserWarning, match="Retry") as record,
        pytest.raises(OSError, match=rf"{url}/zips/val2017.zip could not be downloaded"),
    ):
        fetch_coco_val2017(data_home=tmp_path, base_url=url, n_retries=2, delay=0, verbose=0)
    assert len(record) == 2
    assert _files_of(tmp_path) == {}


def test_too_little_disk_space_raises_an_error_before_the_download(blob, server, monkeypatch):
    fetch, path = blob
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(_download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"3\.0 MB are needed.*data_home may be on another") as error:
        fetch(n_retries=3)
    assert error.value.errno == errno.ENOSPC
    assert len(server.requests) == 1
    assert not list(path.parent.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_raises_an_error(blob, server):
    fetch, path = blob
    path.with_name("blob.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        fetch(n_retries=3)
    assert error.value.errno == errno.ENOSPC
    assert len(server.requests) == 1
    assert not path.exists()


def test_the_published_files_have_checksums():
    assert [archive.path for archive in _fetch._COCO_VAL2017] == [
        "zips/val2017.zip",
        "annotations/annotations_trainval2017.zip",
    ]
    checksums = [a.checksum for a in (*_fetch._COCO_VAL2017, *_fetch._VOC2012)]
    assert all(re.fullmatch("md5:[0-9a-f]{32}", checksum) for checksum in checksums)
