"""Unpacking of valid, broken and hostile archives."""

import errno
import shutil
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest

from sklearn_loce.datasets import _archives, _download
from sklearn_loce.datasets._archives import unpack

from .dataset_trees import files_of

BLOB = np.random.default_rng(0).bytes(200_000)


def _make_archive(path, members):
    """Write members given as bytes, or as ("symlink", target), ("hardlink", target), ("fifo",)."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                info = zipfile.ZipInfo(name)
                if isinstance(content, tuple):
                    info.external_attr = 0o120777 << 16
                    content = content[1]
                file.writestr(info, content)
        return
    kinds = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = kinds[content[0]], (*content, "")[1]
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, BytesIO(content))


GOOD = {"a.txt": b"a" * 100, "b/c.txt": b"c" * 5000}
OUTSIDE = [
    *("../evil", "b/../../evil", "{absolute}/evil", "b/.."),
    *("..\\evil", "b\\..\\..\\evil", "\\evil", "C:\\evil", "C:evil", "c:/evil"),
    *("\\\\server\\share\\evil", "\\\\?\\C:\\evil", "//server/share/evil"),
]


@pytest.fixture
def data(tmp_path):
    """An empty folder inside another; both must stay unchanged."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def _refused(data, suffix, members, match):
    archive = data / f"x{suffix}"
    _make_archive(archive, members)
    with pytest.raises(ValueError, match=match) as error:
        unpack(archive, data / "target")
    assert str(archive) in str(error.value)
    assert list(data.parent.iterdir()) == [data]
    assert list(data.iterdir()) == [archive]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_an_archive_is_unpacked_completely_or_in_part(data, suffix):
    archive = data / f"x{suffix}"
    _make_archive(archive, GOOD)
    unpack(archive, data / "target")
    assert files_of(data / "target") == GOOD
    assert sorted(p.name for p in data.iterdir()) == ["target", f"x{suffix}"]
    unpack(archive, data / "some", only=("b/c.txt",))
    assert files_of(data / "some") == {"b/c.txt": GOOD["b/c.txt"]}
    with pytest.raises(OSError, match=r"lacks \['nothing'\]"):
        unpack(archive, data / "none", only=("nothing",))


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_outside_the_target_are_refused(data, suffix, name):
    name = name.format(absolute=data.parent)
    _refused(data, suffix, {**GOOD, name: b"evil"}, "leads out of the target")


@pytest.mark.parametrize(
    ("suffix", "member"),
    [
        (".zip", ("symlink", "/etc")),
        (".tar", ("symlink", "/etc")),
        (".tar", ("symlink", "a.txt")),
        (".tar", ("hardlink", "a.txt")),
        (".tar", ("fifo",)),
    ],
)
def test_links_and_devices_are_refused(data, suffix, member):
    _refused(data, suffix, {**GOOD, "link": member, "link/passwd": b"evil"}, "link or a device")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_device_files_are_refused(data, kind):
    archive = data / "x.tar"
    with tarfile.open(archive, "w") as file:
        info = tarfile.TarInfo("disk")
        info.type, info.devmajor, info.devminor = kind, 8, 0
        file.addfile(info)
    with pytest.raises(ValueError, match="'disk' is a link or a device"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


def _zip_of_zeros(path, size):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("zeros", bytes(size))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(data, suffix, monkeypatch):
    """The bound is tested with a limit of 20 MB."""
    archive = data / f"x{suffix}"
    _make_archive(archive, {"zeros": bytes(21 * 2**20)})
    if suffix == ".zip":
        _zip_of_zeros(archive, 21 * 2**20)
    unpack(archive, data / "honest")
    assert (data / "honest" / "zeros").stat().st_size == 21 * 2**20
    shutil.rmtree(data / "honest")
    monkeypatch.setattr(_archives, "_HARMLESS", 20 * 2**20)
    with pytest.raises(ValueError, match=r"refused: it would unpack to 22\.0 MB"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


@pytest.mark.parametrize("claimed", [10, 2**32 - 2])
def test_a_zip_member_with_a_false_size_is_refused(data, claimed):
    archive = data / "x.zip"
    _zip_of_zeros(archive, 2**20)
    content = archive.read_bytes()
    at = content.index((2**20).to_bytes(4, "little"), content.rindex(b"PK\x01\x02"))
    archive.write_bytes(content[:at] + claimed.to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises((ValueError, OSError), match=r"can't be unpacked: .*CRC|is refused"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


@pytest.mark.parametrize("size", [-1, -(10**12), 10**15])
def test_a_tar_member_with_a_false_size_is_refused(data, size):
    archive = data / "x.tar"
    info = tarfile.TarInfo("a")
    info.size = size
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT) + bytes(10 * 512))
    archive.write_bytes(raw)
    with pytest.raises((ValueError, OSError), match=r"x\.tar .*(can't be unpacked|refused)"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_a_truncated_archive_leaves_nothing(data, suffix, share):
    archive = data / f"x{suffix}"
    content = {f"{i}.bin": BLOB[i * 10000 : (i + 1) * 10000] for i in range(20)}
    _make_archive(archive, content)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(OSError, match=r"can't be unpacked|unexpected end"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


def test_a_damaged_member_leaves_nothing(data):
    archive = data / "x.zip"
    _make_archive(archive, {"a.bin": BLOB[:10000]})
    content = bytearray(archive.read_bytes())
    content[5000] ^= 1
    archive.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


def test_a_full_disk_during_unpacking_leaves_nothing(data, monkeypatch):
    archive = data / "x.zip"
    _make_archive(archive, GOOD)
    copy, seen = shutil.copyfileobj, []

    def copy_one(*args):
        if seen:
            raise OSError(errno.ENOSPC, "No space left on device")
        seen.append(args)
        copy(*args)

    monkeypatch.setattr(_archives.shutil, "copyfileobj", copy_one)
    with pytest.raises(OSError, match="No space left") as error:
        unpack(archive, data / "target")
    assert error.value.errno == errno.ENOSPC
    assert seen
    assert list(data.iterdir()) == [archive]


def test_too_little_disk_space_raises_an_error_before_unpacking(data, monkeypatch):
    archive = data / "x.tar"
    _make_archive(archive, GOOD)
    usage = shutil.disk_usage(data)
    monkeypatch.setattr(_download.shutil, "disk_usage", lambda _: usage._replace(free=5099))
    with pytest.raises(OSError, match="are needed"):
        unpack(archive, data / "target")
    monkeypatch.setattr(_download.shutil, "disk_usage", lambda _: usage._replace(free=5100))
    unpack(archive, data / "target")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "name",
    ["a.txt", "./a.txt", "A.TXT", "a.txt/c.txt", "b//c.txt", "b\\c.txt", "b", ".", "B/C.txt"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_that_overwrite_each_other_are_refused(data, suffix, name):
    archive = data / f"x{suffix}"
    _write_pairs(archive, [*GOOD.items(), (name, b"other")])
    problem = "('.*' occurs twice|the parent of '.*' is a file)"
    with pytest.raises(ValueError, match=rf"x\.\S+ is refused: {problem}"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


def _write_pairs(path, pairs):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in pairs:
                file.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, content in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, BytesIO(content))


def test_folders_may_be_listed_twice(data):
    archive = data / "x.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        _write_pairs(archive, [("b/", b""), ("b/", b""), *GOOD.items()])
    unpack(archive, data / "target")
    assert files_of(data / "target") == GOOD


def test_an_encrypted_archive_raises_an_error(data):
    archive = data / "x.zip"
    _make_archive(archive, GOOD)
    content = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    archive.write_bytes(content)
    with pytest.raises(OSError, match=r"x\.zip can't be unpacked: .*a\.txt.*encrypted"):
        unpack(archive, data / "target")
    assert list(data.iterdir()) == [archive]


def _compress(suffix, kind):
    content = {"a.txt": b"a" * 500, "b/c.bin": BLOB[:3000], "\xfc.txt": b"u"}
    buffer = BytesIO()
    if suffix == ".zip":
        with zipfile.ZipFile(buffer, "w", kind) as file:
            for name, data in content.items():
                file.writestr(name, data)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as file:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, BytesIO(data))
    return buffer.getvalue()


def _catch(archive, target):
    try:
        unpack(archive, target)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".zip", kind) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]
    + [(".zip", zipfile.ZIP_DEFLATED), *((".tar", kind) for kind in ("", "gz", "bz2", "xz"))],
)
def test_damage_anywhere_raises_an_error_for_the_archive(data, suffix, kind):
    """Any exception is converted; a tar archive is unpacked completely or not at all."""
    whole, rng = _compress(suffix, kind), np.random.default_rng(0)
    archive, target = data / f"x{suffix}", data / "target"
    archive.write_bytes(whole)
    unpack(archive, target)
    sound, n_refused = files_of(target), 0
    shutil.rmtree(target)
    for _ in range(60):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 2)] = rng.choice([0, 127, 255], 2)
        archive.write_bytes(damaged.tobytes())
        error = _catch(archive, target)
        if error is None:
            # Python does not check the declared size of a zip archive.
            missing = sorted(map(len, sound.values()))
            for content in files_of(target).values():
                missing.remove(len(content))
            assert not missing or suffix == ".zip"
            shutil.rmtree(target)
        else:
            assert type(error) in (OSError, ValueError)
            assert str(archive) in str(error)
            n_refused += 1
        assert list(data.iterdir()) == [archive]
    assert n_refused > 5
