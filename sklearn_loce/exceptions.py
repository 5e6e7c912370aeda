"""Errors that have a meaning of their own."""

__all__ = ["LayoutError"]


class LayoutError(ValueError):
    """A layer's output can't be read as a grid of activations (B, C, h, w)."""
