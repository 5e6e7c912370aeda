"""The paper's experiments, as one command.

``python -m sklearn_loce.paper --out FOLDER`` repeats the experiments of Mikriukov, Schwalbe and
Bade (IJCV 2025) on drawn scenes, in some minutes. ``--coco FOLDER`` takes COCO's validation set and
the paper's six networks, and downloads what is missing. The command writes tables as CSV and
Markdown, and figures as PDF. Where it was interrupted, the same command goes on.

For scripts, :func:`reproduce` takes any table of samples and any networks. ``CONCEPTS`` are the
paper's 19 concepts of COCO, ``NETWORKS`` its networks and layers by name, each a :class:`Network`,
and ``K`` its numbers of neighbors.
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
