"""Where the tests keep compiled code."""

import tempfile
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "sklearn_loce"


def cache_folder():
    """Give a folder of its own to each state of the functions that others inline.

    numba's cache does not see that such a function has changed.
    """
    inlined = b"".join(PACKAGE.joinpath(name).read_bytes() for name in ("_jit.py", "_simd.py"))
    name = f"sklearn_loce-{sha256(inlined).hexdigest()[:16]}"
    return str(Path(tempfile.gettempdir(), name))
