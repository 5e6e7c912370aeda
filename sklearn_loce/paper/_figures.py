"""Draw the figures of the paper's experiments from their tables."""

from contextlib import contextmanager

import numpy as np

from ..plotting import (
    ConceptMapDisplay,
    DendrogramDisplay,
    LayerComparisonDisplay,
    OverlapDisplay,
    PrecisionAtKDisplay,
    SeparationDisplay,
)
from ..plotting._style import COLUMN_WIDTH, PAPER_STYLE, concept_styles
from ._experiments import ALL, find_k, make_mixture


@contextmanager
def _open_axes(xlabel, ylabel):
    """Return the axes of a figure in the width of a column."""
    import matplotlib.pyplot as plt

    with plt.rc_context(PAPER_STYLE):
        figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 2.3), layout="constrained")
        ax.set(xlabel=xlabel, ylabel=ylabel)
        yield ax
        figure.legend(loc="outside lower center", ncols=2, frameon=False, handlelength=3)


def draw_map(maps, layer):
    """Draw rows in the plane, with the mixture of each concept."""
    rows = maps[maps["layer"] == layer]
    U = rows[["x", "y"]].to_numpy()
    # Pass them as coordinates, because features would have other labels.
    display = ConceptMapDisplay.from_embeddings(
        U, rows["concept"], embedding=U, mixture=make_mixture()
    )
    return display.figure_


def draw_tree(case, layer, clusterer):
    """Draw the tree of the drawn rows."""
    return DendrogramDisplay.from_embeddings(
        *case.drawn_embeddings(layer), clusterer=clusterer
    ).figure_


def draw_precision(case, layer):
    """Draw precision over the numbers of neighbors."""
    X, y = case.finite(layer)
    return PrecisionAtKDisplay.from_embeddings(X, y, k=find_k(y)).figure_


def draw_separation(case, layer):
    """Draw separation of pairs of concepts."""
    return SeparationDisplay.from_embeddings(*case.finite(layer)).figure_


def draw_overlap(case, layer):
    """Draw overlap of pairs of concepts."""
    return OverlapDisplay.from_embeddings(*case.finite(layer)).figure_


def draw_layers(tables, metric):
    """Draw a metric of all layers. ``tables`` has mean and std by network."""
    return LayerComparisonDisplay.from_table(tables, metric).figure_


def compare_iou(optimization):
    """Return {network: table of mean and std of the IoU by layer}."""
    rows = optimization[optimization["concept"] == ALL]
    rows = rows.rename(columns={"mean_iou": "mean", "std_iou": "std"}).assign(metric="IoU")
    return dict(iter(rows.groupby("network", sort=False)))


def compare_draws(draws):
    """Return {network and clustering: table of compare_layers}."""
    groups = draws.groupby(["network", "clustering"], sort=False)
    return {f"{network}, {clustering}": table for (network, clustering), table in groups}


def draw_noise(noise, best):
    """Draw the mean IoU of each network's best layer over the strength of noise."""
    styles, noise = concept_styles(best), noise[noise["concept"] == ALL]
    with _open_axes("noise (percent)", "mean IoU") as ax:
        for network, layer in best.items():
            rows = noise[(noise["network"] == network) & (noise["layer"] == layer)]
            for name, line in (("Gaussian", "-"), ("salt and pepper", "--")):
                curve = rows[rows["noise"].isin(["none", name])].sort_values("percent")
                color, marker = styles[network]
                how = {"color": color, "marker": marker, "linestyle": line, "markersize": 3}
                ax.plot(curve["percent"], curve["mean_iou"], label=f"{network}, {name}", **how)
    return ax.figure


def draw_segmentation(segmentation):
    """Draw the mean IoU on unseen images of each network, by method."""
    rows = segmentation[segmentation["concept"] == ALL]
    table = rows.pivot_table("mean_iou", "network", "method", sort=False)
    places, width = np.arange(len(table)), 0.8 / len(table.columns)
    styles = concept_styles(table.columns)
    with _open_axes("", "mean IoU on unseen images") as ax:
        for i, method in enumerate(table):
            shift = (i - (len(table.columns) - 1) / 2) * width
            color = styles[method][0]
            ax.bar(places + shift, table[method], 0.9 * width, label=method, color=color)
        ax.set_xticks(places, table.index, rotation=20 if len(table) > 2 else 0)
    return ax.figure
