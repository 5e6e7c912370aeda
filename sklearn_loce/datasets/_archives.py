"""Unpack archives completely or not at all, and only into the target."""

import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm.auto import tqdm

from ._download import check_space

# Compression hardly shrinks photographs and masks. Text shrinks to a tenth.
_LARGEST_RATIO = 200
_HARMLESS = 100_000_000  # bytes, which may have shrunk to nothing

# Errors of Python for damaged or encrypted archives, collected by tests.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # encrypted, or of a version or compression that Python lacks
    ValueError,
    IndexError,
    struct.error,
    OverflowError,
    MemoryError,
)


@dataclass(frozen=True)
class _Member:
    """An entry of a zip or tar archive."""

    name: str
    size: int
    is_folder: bool
    is_plain: bool
    open: Callable


def _zip_members(file):
    for info in file.infolist():
        # Archives made on DOS or Windows have no file type in the mode.
        kind = stat.S_IFMT(info.external_attr >> 16)
        is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        opener = partial(file.open, info)
        yield _Member(info.filename, info.file_size, info.is_dir(), is_plain, opener)


def _tar_members(file):
    for info in file.getmembers():
        opener = partial(file.extractfile, info)
        yield _Member(info.name, info.size, info.isdir(), info.isdir() or info.isfile(), opener)


@contextmanager
def _open_members(archive):
    """Yield the list of members, which can be read while the context is open."""
    # Use the suffix, because a tar archive may end with a zip archive.
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as file:
            yield list(_zip_members(file))
    else:
        with tarfile.open(archive) as file:
            yield _read_tar(file)


def _read_tar(file):
    """List the members. Raise an error for a damaged header, where tarfile would stop."""
    members = list(_tar_members(file))
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {file.offset} is damaged")
    while file.fileobj.read(1 << 20):  # to the checksum of a compressed archive
        pass
    return members


@contextmanager
def _own_errors(archive):
    """Convert errors of an archive to an OSError that names it."""
    try:
        yield
    except _BROKEN as error:
        number = getattr(error, "errno", None)
        message = f"{archive} can't be unpacked: {error or type(error).__name__}"
        raise OSError(*([number] if number else []), message) from error


def _place_of(member):
    return PurePosixPath(member.name.replace("\\", "/"))


def _check_members(members, archive):
    """Raise an error for members outside the target, and for links."""
    for member in members:
        path = _place_of(member)
        if path.is_absolute() or PureWindowsPath(member.name).drive or ".." in path.parts:
            raise ValueError(f"{archive} is refused: {member.name!r} leads out of the target.")
        if not member.is_plain:
            raise ValueError(f"{archive} is refused: {member.name!r} is a link or a device.")
        if member.size < 0:
            raise ValueError(f"{archive} is refused: {member.name!r} has {member.size} bytes.")


def _check_unique(members, archive):
    """Raise an error if a member would overwrite another, also on disks that ignore case.

    A file must not also be a folder.
    """
    seen = set()
    for member in members:
        place = PurePosixPath(str(_place_of(member)).casefold())
        if not member.is_folder and (place in seen or not place.name):
            raise ValueError(f"{archive} is refused: {member.name!r} occurs twice or has no name.")
        if not member.is_folder:
            seen.add(place)
    for member in members:
        place = PurePosixPath(str(_place_of(member)).casefold())
        if (member.is_folder and place in seen) or not seen.isdisjoint(place.parents):
            raise ValueError(f"{archive} is refused: the parent of {member.name!r} is a file.")


def _check_total(members, archive, staging):
    """Raise an error for implausibly large contents, or if the disk has too little space."""
    total = sum(member.size for member in members)
    if total > max(_LARGEST_RATIO * archive.stat().st_size, _HARMLESS):
        raise ValueError(f"{archive} is refused: it would unpack to {total / 1e6:.1f} MB.")
    check_space(staging, total)


def _select(members, only, archive):
    if not only:
        return members
    kept = [member for member in members if member.name in only]
    missing = sorted(set(only) - {member.name for member in kept})
    if missing:
        raise OSError(f"{archive} lacks {missing}.")
    return kept


def _write(members, folder, verbose):
    for member in tqdm(members, desc="unpacking", unit="file", disable=not verbose):
        path = folder / member.name
        if member.is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, open(path, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)


def unpack(archive, target, *, only=(), verbose=0):
    """Unpack a zip or tar archive into a folder that exists only when it is complete.

    Parameters
    ----------
    archive : Path
        A zip archive with the suffix ".zip", or a tar archive, compressed or not.
    target : Path
        New folder in an existing folder.
    only : tuple of str, default=()
        Names of the members to unpack; an empty tuple means all.
    verbose : int, default=0
        With 1 or more, show a progress bar.

    Raises
    ------
    ValueError
        If the path of a member leaves the target, a member is a link, a device or repeated, or the
        members are implausibly large. Then nothing is written.
    OSError
        If the archive is damaged, encrypted or lacks a member, or the disk is full.
    """
    # The parent is on the same disk, so the last step is a single rename.
    folder = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    with folder as staging, ExitStack() as stack:
        content = Path(staging, "content")
        content.mkdir()
        with _own_errors(archive):
            members = stack.enter_context(_open_members(archive))
        _check_members(members, archive)
        _check_unique(members, archive)
        members = _select(members, only, archive)
        _check_total(members, archive, staging)
        with _own_errors(archive):
            _write(members, content, verbose)
        os.rename(content, target)
