"""Evaluate the layers of an estimator in one pass per image."""

from itertools import chain

import numpy as np
import pandas as pd
from sklearn.base import clone

from ._rows import OF_PROJECTIONS
from ._scorers import evaluate_columns


def name_members(spaces, layers):
    """Return the layers of each space by name. Embeddings have names only."""
    if isinstance(spaces, dict):
        if layers is not None:
            raise ValueError(
                f"layers={layers!r} needs an estimator; the keys of a dict are its layers."
            )
        return dict.fromkeys(spaces)
    members = {name_space(layer): _list_members(layer) for layer in layers or ()}
    if len(members) < 2:
        raise ValueError(
            f"layers={layers!r} has {len(members)}, but a comparison needs two or more, as in "
            "layers=['features.9', 'features.16']."
        )
    return members


def evaluate_layers(estimator, X, members, iou, metrics):
    """Return the embeddings of every space, and the evaluation of its projections."""
    if iou is not None:
        raise ValueError("An estimator measures iou itself; leave it out.")
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
    """Return the name of a layer, or of several layers with concatenated vectors."""
    return ", ".join(map(str, _list_members(layer)))


def _average_layers(evaluation, layers, index):
    """Average the evaluation of each row over some layers; NaN if a layer has no value."""
    columns = [column for column, _ in OF_PROJECTIONS.values() if column in evaluation]
    parts = [evaluation.loc[evaluation["layer"] == layer, columns] for layer in layers]
    return pd.DataFrame(np.mean(parts, axis=0), columns=columns, index=index)


def read_column(X, values, name):
    """Return a column of a table by its name, or other values unchanged."""
    if not isinstance(values, str):
        return values
    columns = list(X) if isinstance(X, pd.DataFrame) else []
    if values not in columns:
        raise ValueError(
            f"{name}={values!r} is not a column of X, which has {columns}; pass an array with one "
            "value per row, or the name of another column."
        )
    return X[values]
