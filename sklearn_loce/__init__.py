"""Local Concept Embeddings (LoCE) of vision networks, as scikit-learn estimators.

A LoCE is the 1x1 filter that, put on a network layer's activations, best redraws the mask of one
concept in one image (Mikriukov, Schwalbe and Bade, IJCV 2025). Names are imported when they are
first used, so that ``import sklearn_loce`` loads neither torch nor umap nor matplotlib.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "ActivationExtractor": "_network.extract",
    "Joined": "_network.joined",
    "LoCETransformer": "_transformer",
    "MaskedMeanTransformer": "_mean_transformer",
    "RowStore": "_store.sqlite",
    "TorchModel": "_network.handle",
    "list_layers": "_network.extract",
    "optimize_loces": "_solvers.optimize",
    "project_loces": "_solvers.optimize",
}
_SUBMODULES = (
    "cluster",
    "corruptions",
    "datasets",
    "exceptions",
    "metrics",
    "mixture",
    "outliers",
    "paper",
    "plotting",
    "segmentation",
    "utils",
)

__all__ = [*_HOMES, *_SUBMODULES]


def __getattr__(name):
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
