"""Rows of several layers or models in the same order."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.utils import check_array

from .._validation import encode_concepts, match_rows
from ._exclusion import Exclusion, read_exclusion

# Metrics of projections: the column of `evaluate`, and its lowest value. The highest is 1.
OF_PROJECTIONS = {"iou": ("iou", 0), "heldout_iou": ("heldout_iou", 0), "iou_gain": ("gain", -1)}


@dataclass
class Rows:
    """Rows that all layers have, in the same order."""

    layers: dict
    concepts: np.ndarray
    codes: np.ndarray
    exclusion: Exclusion
    projections: dict  # by metric and layer; NaN is unknown

    @property
    def finite(self):
        """Whether each row is finite in every layer: (n_rows,)."""
        return np.all([np.isfinite(X).all(axis=1) for X in self.layers.values()], axis=0)


def align(layers, y, groups=None, exclude=None, iou=None):
    """Match the rows of all layers by index, or by position if a layer has no index."""
    check_layers(layers)
    if iou is not None and set(iou) != set(layers):
        raise ValueError(f"iou has the layers {list(iou)}, embeddings have {list(layers)}.")
    iou_tables = {f"iou of {name!r}": values for name, values in (iou or {}).items()}
    index = _common_index(layers, y, {"groups": groups, **iou_tables})
    concepts, codes = encode_concepts(_pick(y, "y", y, index))
    if groups is not None:
        groups = _pick(groups, "groups", y, index)
    exclusion = read_exclusion(len(codes), groups, exclude)
    matrices = {name: _matrix(_pick(X, name, y, index), name) for name, X in layers.items()}
    projections = _read_projections(iou or {}, y, index)
    return Rows(matrices, concepts, codes, exclusion, projections)


def check_layers(layers):
    if not layers:
        raise ValueError("layers is empty; pass embeddings by name, as in {'features.9': X}.")


def _common_index(layers, y, others):
    """Return the common index labels of y and all layers, or None to match by position."""
    tables = [y, *layers.values()]
    if not all(isinstance(table, pd.Series | pd.DataFrame) for table in tables):
        named = {f"embeddings of {name!r}": X for name, X in layers.items()}
        match_rows(**named, y=y, **others)  # raises an error if indexes disagree
        return None
    index = y.index
    for table in tables:
        if not table.index.is_unique:
            raise ValueError("Rows are matched by index, but an index repeats; call reset_index.")
        index = index[index.isin(table.index)]
    if index.empty:
        raise ValueError("The layers share no row; pass layers with a common index.")
    return index


def _pick(values, name, y, index):
    """Return the common rows, matched by index, or by position with y."""
    if index is not None and isinstance(values, pd.Series | pd.DataFrame):
        if (absent := index.difference(values.index)).size:
            raise ValueError(f"{name} has no row {absent[0]!r} ({absent.size} in all are absent).")
        if not values.index.is_unique:
            raise ValueError(f"The index of {name} repeats; rows can't be matched by it.")
        return values.loc[index].to_numpy()
    if len(values) != len(y):
        raise ValueError(
            f"{name} has {len(values)} rows and y has {len(y)}: inconsistent numbers of samples. "
            "To match rows by index, pass y as a Series and every layer as a DataFrame."
        )
    return values if index is None else np.asarray(values)[y.index.get_indexer(index)]


def _read_projections(iou, y, index):
    """Return the metrics of projections by metric and layer; NaN is unknown."""
    tables = {name: t if isinstance(t, pd.DataFrame) else {"iou": t} for name, t in iou.items()}
    found = {}
    for metric, (column, lowest) in OF_PROJECTIONS.items():
        having = [name for name in tables if column in tables[name]]
        if len(having) not in (0 if metric != "iou" else len(tables), len(tables)):
            lacking = next(name for name in tables if name not in having)
            raise ValueError(
                f"iou of {lacking!r} has no column {column!r} but {list(tables[lacking])}; pass "
                "results of evaluate with the same columns for all layers."
            )
        if having:
            found[metric] = {
                name: _read_values(table[column], f"{column} of {name!r}", lowest, y, index)
                for name, table in tables.items()
            }
    if "iou" in found:  # failed projections
        found["iou"] = {name: np.nan_to_num(values) for name, values in found["iou"].items()}
    return found


def _read_values(values, name, lowest, y, index):
    """Read a number per row."""
    values = _pick(values, name, y, index)
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has values that are not numbers: {values!r}.") from error
    if numbers.ndim != 1:
        raise ValueError(f"{name} has shape {numbers.shape}; pass one value per row.")
    if (bad := numbers[(numbers < lowest) | (numbers > 1)]).size:
        raise ValueError(f"{name} has {bad[0]}; values must be in [{lowest}, 1] or NaN.")
    return numbers


def _matrix(X, name):
    """Read the embeddings of one layer. Failed rows may have NaN."""
    return check_array(X, dtype=np.float64, ensure_all_finite=False, input_name=name)
