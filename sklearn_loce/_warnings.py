"""Warnings that point at the line of the user."""

import contextlib
import os
import sys
import warnings

import joblib
import sklearn

# scikit-learn wraps `transform` to set its output, and its searches call it; contextlib calls the
# ends of `with` blocks.
_INNER = (
    os.path.dirname(__file__) + os.sep,
    *(os.path.dirname(library.__file__) + os.sep for library in (sklearn, joblib)),
    contextlib.__file__,
)


def warn_user(message, category=UserWarning):
    """Warn at the first line outside this package and the libraries that call it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
