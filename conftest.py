"""Settings that must stand before SciPy is imported."""

import os
from importlib.util import find_spec

# scikit-learn skips its array API check without this, and reads it when SciPy is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

collect_ignore = []
if find_spec("sklearn_loce._transformer") is None:
    collect_ignore.append("tests/test_array_floor_on_loces.py")
