"""Warnings that point to the line of the user."""

import sys
import warnings

# Frames of these packages lie between the line of the user and ours: decorators, searches, pools.
_PASSED_OVER = {__name__.partition(".")[0], "sklearn", "joblib", "torch"}
_PASSED_OVER |= {"contextlib", "functools"}


def warn_user(message, category=UserWarning):
    """Warn at the innermost line that belongs to the user."""
    frame, stacklevel = sys._getframe(1), 2
    while frame.f_back is not None and _is_passed_over(frame):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, category, stacklevel=stacklevel)


def _is_passed_over(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_OVER
