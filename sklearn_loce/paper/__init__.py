"""Repeat the experiments of the paper, by one command or one function.

``python -m sklearn_loce.paper --out FOLDER`` repeats the experiments of Mikriukov, Schwalbe and
Bade (IJCV 2025) on drawn scenes, in a few minutes. ``--coco FOLDER`` uses the validation set of
COCO and the six networks of the paper, and downloads what is missing. The command writes tables as
CSV and Markdown, and figures as PDF. After an interruption, the same command continues.

Scripts call :func:`reproduce` with any table of samples and any networks. ``CONCEPTS`` are the 19
concepts of the paper. ``NETWORKS`` maps the names of its networks to a :class:`Network` with its
layers. ``K`` are its numbers of neighbors.
"""

from importlib import import_module

_CONSTANTS = ("CONCEPTS", "K", "NETWORKS")
_HOMES = {"Network": "_networks", "reproduce": "_reproduce"} | dict.fromkeys(
    _CONSTANTS, "_networks"
)

__all__ = ["Network", "reproduce"]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOMES])
