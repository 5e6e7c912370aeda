"""Layers of an estimator, each image passed once for all of them."""

from itertools import chain

import numpy as np
import pandas as pd
from sklearn.base import clone

from ._rows import OF_PROJECTIONS
from ._scorers import evaluate_columns


def name_members(spaces, layers):
    """Return the layers of each space by its name; those of embeddings have only their names."""
    if isinstance(spaces, dict):
        if layers is not None:
            raise ValueError(f"layers={layers!r} are an estimator's; a dict names its own.")
        return dict.fromkeys(spaces)
    members = {name_space(layer): _list_members(layer) for layer in layers or ()}
    if len(members) < 2:
        raise ValueError(
            f"layers={layers!r} names {len(members)}, and a comparison needs two or more, as in "
            "layers=['features.9', 'features.16']."
        )
    return members


def evaluate_layers(estimator, X, members, iou, metrics):
    """Return the embeddings of every space, and what is known of the projections of its rows."""
    if iou is not None:
        raise ValueError("iou is measured where an estimator is given; leave it out.")
    loce = clone(estimator).set_params(layer=list(dict.fromkeys(chain(*members.values()))))
    columns = {column for metric, (column, _) in OF_PROJECTIONS.items() if metric in metrics}
    evaluation, vectors = evaluate_columns(loce.fit(X), columns, X, return_embeddings=True)
    owners = np.array([name.rpartition("[")[0] for name in loce.get_feature_names_out()])
    index = X.index if isinstance(X, pd.DataFrame) else None
    spaces, tables = {}, {}
    for name, own in members.items():
        own = [str(layer) for layer in own]
        spaces[name] = vectors[:, np.isin(owners, own)]
        tables[name] = _average_layers(evaluation, own, index)
    return spaces, tables


def _list_members(layer):
    return layer if isinstance(layer, list | tuple) else [layer]


def name_space(layer):
    """Name a layer, or several whose vectors lie side by side."""
    return ", ".join(map(str, _list_members(layer)))


def _average_layers(evaluation, layers, index):
    """Average what `evaluate` gives of each row over some layers; NaN where one lacks it."""
    columns = [column for column, _ in OF_PROJECTIONS.values() if column in evaluation]
    parts = [evaluation.loc[evaluation["layer"] == layer, columns] for layer in layers]
    return pd.DataFrame(np.mean(parts, axis=0), columns=columns, index=index)


def read_column(X, values, name):
    """Return a column of a table of samples by its name, or values as they are."""
    if not isinstance(values, str):
        return values
    columns = list(X) if isinstance(X, pd.DataFrame) else []
    if values not in columns:
        raise ValueError(
            f"{name}={values!r} is no column of X, which has {columns}; pass an array of one value "
            "per row, or the name of another column."
        )
    return X[values]
