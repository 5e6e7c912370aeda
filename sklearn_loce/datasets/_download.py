"""Downloads that resume after an interruption."""

import errno
import os
import shutil
import time
import warnings
from pathlib import Path

import pooch
import requests
from tqdm.auto import tqdm

_CHUNK = 1 << 16  # bytes; an interruption loses at most one chunk
_TIMEOUT = (10, 60)  # seconds to connect, and between two packets
# Errors that may not occur at the next attempt.
_PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


def check_space(folder, needed):
    """Raise an error unless the disk of a folder has enough free bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e6:.1f} MB are needed in {folder}, but only {free / 1e6:.1f} MB are free; "
            "data_home may be on another disk",
        )


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _check_status(response, start):
    """Raise an error for a response without content. Server errors may be temporary."""
    if response.status_code >= 500:
        raise requests.ConnectionError(f"the server answered {response.status_code}")
    response.raise_for_status()
    answered = response.headers.get("Content-Range", "")
    if response.status_code == 206 and not answered.startswith(f"bytes {start}-"):
        raise OSError(f"the server sent {answered!r} instead of the bytes from {start} on")


class ResumingDownloader:
    """A downloader for pooch that keeps received data and requests the rest.

    Parameters
    ----------
    part : Path
        File for received data until the download is complete.
    n_retries : int
        Number of retries after a temporary failure.
    delay : float
        Seconds between two attempts.
    verbose : int
        With 1 or more, show a progress bar.
    """

    def __init__(self, part, *, n_retries, delay, verbose):
        self.part = part
        self.n_retries = n_retries
        self.delay = delay
        self.verbose = verbose

    def __call__(self, url, output_file, pooch):
        """Download ``url`` to ``output_file``, with the signature of pooch."""
        for left in range(self.n_retries, -1, -1):
            try:
                self._receive(url)
                break
            except _PASSING as error:
                if left == 0:
                    raise
                warnings.warn(f"Retry downloading from {url}: {error}", stacklevel=2)
                time.sleep(self.delay)
        os.replace(self.part, output_file)

    def _receive(self, url):
        """Append missing data to the part, or start again if the server cannot resume."""
        start = _size(self.part)
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable and start:
                if response.headers.get("Content-Range") == f"bytes */{start}":
                    return
                # The part is longer than the file, so it belongs to another file.
                self.part.unlink()
                raise requests.ConnectionError(f"{self.part} does not fit the file")
            _check_status(response, start)
            self._write(response, start if response.status_code == 206 else 0)

    def _write(self, response, start):
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        if total is not None:
            check_space(self.part.parent, total - start)
        bar = tqdm(
            desc=self.part.stem,
            initial=start,
            total=total,
            unit="B",
            unit_scale=True,
            disable=not self.verbose,
        )
        with bar, open(self.part, "ab" if start else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and _size(self.part) != total:
            raise requests.ConnectionError(f"{_size(self.part)} of {total} bytes have arrived")


def download(url, checksum, path, *, n_retries, delay, verbose):
    """Download a file unless it exists, and verify it.

    Parameters
    ----------
    url : str
    checksum : str
        Checksum with its algorithm, as in "md5:6cd6...".
    path : Path
        Path of the file. Until it is complete, it has the suffix ".part".
    n_retries : int
    delay : float
    verbose : int

    Raises
    ------
    OSError
        If the server cannot be reached, the file is not the published one or the disk is full.
    """
    part = path.with_name(f"{path.name}.part")
    how = {"n_retries": n_retries, "delay": delay, "verbose": verbose}
    downloader = ResumingDownloader(Path(part), **how)
    try:
        pooch.retrieve(url, checksum, fname=path.name, path=path.parent, downloader=downloader)
    except OSError as error:
        message = (
            f"{url} could not be downloaded: {error}. Call again to go on with the {_size(part)} "
            f"bytes in {part}, or put the whole file at {path}"
        )
        raise OSError(*([error.errno] if error.errno else []), message) from error
    except ValueError as error:
        # Pooch raises this error for a wrong checksum, after it has deleted the file.
        raise OSError(f"{url} is not the published file: {error}") from error
