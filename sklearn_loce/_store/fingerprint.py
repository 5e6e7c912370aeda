"""Fingerprints: what a LoCE depends on, told apart by content."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
from torch import nn

from .._network.handle import TorchModel, as_module
from .._samples.images import read_image
from .._samples.masks import compress_rle
from .canonical import Encoder, digest
from .introspection import array_bytes, hooks_of_all_modules, new_bulk_hash

__all__ = ["digest", "file_digest", "image_digest", "is_model", "mask_digest", "model_digest"]

# A file that is written twice within one tick of the clock of its file system shows the same times
# after both. git, which faces the same, calls such files racy. FAT ticks every 2 s, others faster:
# what was changed less than that ago is read again each time.
_RACY_NS = 2_000_000_000
_MAX_REMEMBERED = 2**16


class _Memo:
    """Digests of files by path and status; the least recently used go first."""

    def __init__(self):
        self._digests = OrderedDict()
        self.renew_lock()

    def renew_lock(self):
        self._lock = threading.Lock()

    def get(self, key):
        with self._lock:
            if key in self._digests:
                self._digests.move_to_end(key)
            return self._digests.get(key)

    def put(self, key, value):
        with self._lock:
            self._digests[key] = value
            while len(self._digests) > _MAX_REMEMBERED:
                self._digests.popitem(last=False)


_FILES = _Memo()
if hasattr(os, "register_at_fork"):
    # A thread that is not in the child may have held the lock when it was forked.
    os.register_at_fork(after_in_child=_FILES.renew_lock)


def _status(path, status):
    times = status.st_mtime_ns, status.st_ctime_ns
    return (os.fspath(path), status.st_dev, status.st_ino, status.st_size, *times)


def _is_racy(status, now):
    return now - max(status.st_mtime_ns, status.st_ctime_ns) <= _RACY_NS


def file_digest(path):
    """Hash the content of a file.

    It is read once per process as long as path, device, inode, size and both times stay the same.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    bytes of length 16

    Raises
    ------
    OSError
        If the file can't be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_loce._store.fingerprint import file_digest
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "note.txt")
    ...     _ = path.write_text("abc")
    ...     file_digest(path) == file_digest(path)
    True
    """
    known = _FILES.get(_status(path, os.stat(path)))
    if known is not None:
        return known
    with Path(path).open("rb") as file:
        now, before = time.time_ns(), os.fstat(file.fileno())
        content = hashlib.file_digest(file, new_bulk_hash).digest()
        after = os.fstat(file.fileno())
    if _status(path, before) == _status(path, after) and not _is_racy(before, now):
        _FILES.put(_status(path, before), content)
    return content


def _is_path(value):
    return isinstance(value, str | os.PathLike)


def _pixel_digest(what, array):
    if array.dtype.hasobject:
        return digest(what, array)
    state = new_bulk_hash(f"{what}:{array.dtype.str}:{array.shape}:".encode())
    state.update(array_bytes(array))
    return state.digest()


def image_digest(image):
    """Hash an image of the table of samples by what :func:`read_image` makes of it.

    Parameters
    ----------
    image : str, path, PIL image or ndarray
        A file counts by its bytes, and is not decoded.

    Returns
    -------
    bytes

    Raises
    ------
    OSError, ValueError
        If a file can't be read, or the cell holds no image.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_loce._store.fingerprint import image_digest
    >>> image = np.zeros((2, 3, 3), dtype=np.uint8)
    >>> image_digest(image) == image_digest(image.copy())
    True
    """
    if _is_path(image):
        return digest("image file", file_digest(image))
    # Of a PIL image the mode, palette, transparency and orientation matter: all that is in what
    # comes out, and whatever else a later Pillow may look at.
    return _pixel_digest("image", image if isinstance(image, np.ndarray) else read_image(image))


def mask_digest(mask):
    """Hash a mask of the table of samples.

    Parameters
    ----------
    mask : dict, ndarray of shape (height, width), PIL image, str or path
        A run-length encoding counts by its runs, in whatever form these are written; a file by its
        bytes; anything else by the array that it is.

    Returns
    -------
    bytes

    Raises
    ------
    OSError, ValueError
        If a file can't be read, or a run-length encoding is none.

    Examples
    --------
    >>> from sklearn_loce._store.fingerprint import mask_digest
    >>> rle = {"size": [2, 2], "counts": [1, 2, 1]}
    >>> mask_digest(rle) == mask_digest({"size": (2, 2), "counts": "121"})
    True
    """
    if isinstance(mask, dict):
        rle = compress_rle(mask)
        state = new_bulk_hash("mask runs:{}:{}:".format(*rle["size"]).encode())
        state.update(rle["counts"])
        return state.digest()
    if _is_path(mask):
        return digest("mask file", file_digest(mask))
    return _pixel_digest("mask", np.asarray(mask))


def is_model(value):
    """Say whether a value is a module or a handle on one."""
    return isinstance(value, nn.Module | TorchModel)


def model_digest(model):
    """Hash a model by all that its activations depend on, as it is now.

    Parameters
    ----------
    model : torch.nn.Module or TorchModel

    Returns
    -------
    bytes of length 32
        Of the weights and buffers, the classes of the modules with their code, their forward hooks
        and forward pre-hooks, their further attributes, and ``forward`` of the handle. Training
        mode, hooks that a forward pass does not run, device, memory format and ``requires_grad`` do
        not count.

    Raises
    ------
    TypeError
        If a module holds something, or has a forward hook, that can't be told from others by its
        content.

    Examples
    --------
    >>> from torch import nn
    >>> from sklearn_loce._store.fingerprint import model_digest
    >>> model = nn.Conv2d(3, 8, 1)
    >>> before = model_digest(model)
    >>> model.weight.data[0] += 1
    >>> model_digest(model) == before
    False
    """
    module = as_module(model)
    forward = model.forward if isinstance(model, TorchModel) else None
    return Encoder().digest([module, forward, hooks_of_all_modules()])
