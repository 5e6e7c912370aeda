"""The folder of compiled code for the tests."""

import tempfile
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "sklearn_loce"


def cache_folder():
    """Return a separate folder for each state of the solvers.

    numba's cache does not see that an inlined function has changed, or a class has moved.
    """
    files = sorted((PACKAGE / "_solvers").rglob("*.py"))
    inlined = b"".join(path.read_bytes() for path in files)
    name = f"sklearn_loce-{sha256(inlined).hexdigest()[:16]}"
    return str(Path(tempfile.gettempdir(), name))
