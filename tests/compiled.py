"""Where the tests keep compiled code."""

import tempfile
from hashlib import sha256
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "sklearn_loce"


# What compiled functions inline, and where the classes live that their caches name.
MODULES = ("_jit", "_simd", "_walks", "_adamw_steps", "_lbfgs_steps", "_ridge_steps")


def cache_folder():
    """Give a folder of its own to each state of these modules.

    numba's cache does not see that an inlined function has changed, or a class has moved.
    """
    inlined = b"".join(PACKAGE.joinpath(f"{name}.py").read_bytes() for name in MODULES)
    name = f"sklearn_loce-{sha256(inlined).hexdigest()[:16]}"
    return str(Path(tempfile.gettempdir(), name))
