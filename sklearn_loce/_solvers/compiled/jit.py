"""Compiling with numba."""

from numba import njit


def jit(function):
    """Compile a function that lets other Python threads run meanwhile."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder that numba could write the compiled code to: compile in every process.
        return njit(**options)(function)
