"""Settings that must stand before SciPy is imported."""

import os

# scikit-learn skips its array API check without this, and reads it when SciPy is first imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
