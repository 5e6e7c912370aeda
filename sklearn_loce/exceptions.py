"""Errors that have a meaning of their own."""

__all__ = ["LayoutError", "StoreError"]


class LayoutError(ValueError):
    """A layer's output can't be read as a grid of activations (B, C, h, w)."""


class StoreError(RuntimeError):
    """A store of computed LoCEs can't be used: another program's file, another format, damage."""
