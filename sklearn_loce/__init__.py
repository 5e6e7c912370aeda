"""Local Concept Embeddings (LoCE) of vision networks, as scikit-learn estimators.

A LoCE is a vector with one component per channel of a network layer. It is optimized so that its
projection onto the activations of one image matches the mask of one concept (Mikriukov, Schwalbe
and Bade, IJCV 2025). A transformer turns a table of images and masks into an array of LoCEs. Every
tool of scikit-learn works on this array, also in a Pipeline:

>>> from sklearn.linear_model import LogisticRegression
>>> from sklearn.pipeline import make_pipeline
>>> from sklearn_loce import LoCETransformer, TorchModel
>>> from sklearn_loce.datasets import load_scene_model, make_scenes
>>> scenes = make_scenes(4, random_state=0)
>>> loce = LoCETransformer(TorchModel(load_scene_model), "features.5")
>>> probe = make_pipeline(loce, LogisticRegression()).fit(scenes.data, scenes.target)
>>> probe.predict(scenes.data.head(2)).tolist()
['sky', 'road']

The first use of a name imports its module. So ``import sklearn_loce`` imports neither torch nor
umap nor matplotlib.
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
