"""The paper's experiments, as one command.

``python -m sklearn_loce.paper --out FOLDER`` repeats the experiments of Mikriukov, Schwalbe and
Bade (IJCV 2025) on drawn scenes, in some minutes. ``--coco FOLDER`` takes COCO's validation set and
the paper's six networks, and downloads what is missing. The command writes tables as CSV and
Markdown, and figures as PDF. Where it was interrupted, the same command goes on.

The parts are here for scripts: the paper's concepts, its networks and layers, and
:func:`reproduce`, which takes any table of samples and any networks.
"""

from importlib import import_module

_HOMES = {
    "CONCEPTS": "_networks",
    "K": "_networks",
    "NETWORKS": "_networks",
    "Network": "_networks",
    "reproduce": "_reproduce",
}

__all__ = [*_HOMES]


def __getattr__(name):
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
