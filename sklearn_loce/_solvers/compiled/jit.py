"""Compiling with numba."""

from numba import njit


def jit(function):
    """Compile a function that releases the GIL."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # numba has no folder for the compiled code, so compile in every process.
        return njit(**options)(function)
