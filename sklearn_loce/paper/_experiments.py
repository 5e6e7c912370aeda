"""The paper's experiments on one network. Each returns a table."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.model_selection import GroupShuffleSplit

from .._network.handle import TorchModel
from .._network.presets import PaperTransform
from .._transformer import LoCETransformer
from ..cluster import ConceptAgglomerative
from ..corruptions import GaussianNoise, SaltAndPepperNoise
from ..datasets._shapes import draw_mask
from ..datasets._table import as_rle
from ..metrics import (
    category_separation,
    compare_layers,
    overlap_ratio,
    pairwise_separation,
    precision_at_k,
    purity_score,
)
from ..mixture import ConceptGaussianMixture
from ..segmentation import ConceptSegmenter, Net2VecSegmenter
from ..utils import UnsupervisedUMAP
from ._networks import K

SEED = 42  # seed of the published code
CLUSTERINGS = {
    "relaxed": ConceptAgglomerative(purity=0.8, size=0.05),
    "strict": ConceptAgglomerative(purity=0.9, size=0.025),
}
PERCENTS = (5, 10, 20)
ALL = "all"  # label of all concepts in a table
# Without labels, the published code drops no component.
_UNLABELED = {"per_concept": False, "min_weight": 0}


@dataclass(frozen=True)
class Case:
    """One network on one table of samples.

    Parameters
    ----------
    model : TorchModel
    layers : tuple of str
    samples : DataFrame
        With the columns ``image``, ``mask``, ``concept`` and ``image_id``, and an index from 0.
    n_draws : int
        Number of draws in the comparison of layers.
    n_rows : int
        Maximum number of rows of a concept in draws.
    others : dict
        Further parameters of the transformer, such as ``memory``.
    """

    model: TorchModel
    layers: tuple
    samples: pd.DataFrame
    n_draws: int
    n_rows: int
    others: dict

    def embedder(self, layer=None, preprocess="paper"):
        """Return the paper's transformer for one layer, or for all layers."""
        # A small mask may be empty at 100 x 100 pixels. Its LoCE counts as failed.
        how = {"objective": "net2vec", "preprocess": preprocess, "on_empty": "nan", **self.others}
        return LoCETransformer(self.model, list(self.layers) if layer is None else layer, **how)

    @cached_property
    def drawn(self):
        """Up to ``n_rows`` rows of each concept, for slow experiments."""
        mixed = self.samples.sample(frac=1, random_state=SEED)
        return mixed.groupby("concept", sort=False).head(self.n_rows).sort_index()

    @cached_property
    def rows(self):
        """The IoU of all rows at each layer."""
        return evaluate(self, self.samples)

    @cached_property
    def embeddings(self):
        """The vectors of all rows, as {layer: DataFrame}."""
        return _split(self.embedder().fit(self.samples), self.samples)

    def drawn_embeddings(self, layer):
        """Return vectors and concepts of the drawn rows, without those that failed."""
        found = self.embeddings[layer].loc[self.drawn.index].dropna()
        return found.to_numpy(), self.drawn["concept"].loc[found.index].to_numpy()

    def finite(self, layer):
        """Return vectors and concepts of all rows, without those that failed."""
        found = self.embeddings[layer].dropna()
        return found.to_numpy(), self.samples["concept"].loc[found.index].to_numpy()


def _split(loce, samples):
    """Transform rows, and return {layer: DataFrame of its features}."""
    parts = np.split(loce.transform(samples), np.cumsum(loce.n_channels_)[:-1], axis=1)
    frames = [pd.DataFrame(part, index=samples.index) for part in parts]
    return dict(zip(loce.layers_, frames, strict=True))


def evaluate(case, samples, preprocess="paper"):
    """Return the IoU of each row and layer, with its concept."""
    rows = case.embedder(preprocess=preprocess).fit(samples).evaluate(samples)
    return rows[["layer", "iou", "failed"]].join(samples["concept"])


def summarize(rows, *by):
    """Count failed LoCEs and average the IoU of each concept, and of all concepts."""
    rows = pd.concat([rows.assign(concept=ALL), rows])
    return rows.groupby([*by, "concept"], sort=False).agg(**_IOU_COLUMNS).reset_index()


def measure_optimization(case):
    """Measure failed LoCEs and IoU by layer and concept."""
    return summarize(case.rows, "layer")


_IOU_COLUMNS = {
    "n_rows": ("iou", "size"),
    "n_failed": ("failed", "sum"),
    "mean_iou": ("iou", "mean"),
    "std_iou": ("iou", "std"),
}


def rank_layers_by_iou(optimization):
    """Rank layers by failed LoCEs, by mean IoU, and by the sum of both ranks."""
    table = optimization[optimization["concept"] == ALL].drop(columns="concept")
    ranks = {
        "rank_failed": table["n_failed"].rank(),
        "rank_iou": table["mean_iou"].rank(ascending=False),
    }
    table = table.assign(**ranks, rank_sum=sum(ranks.values()))
    return table.sort_values(["rank_sum", "rank_iou"], kind="stable")


def measure_shapes(case):
    """Measure optimization with rectangles and ellipses in place of masks."""
    rows = [case.rows.loc[case.drawn.index].assign(mask="segmentation")]
    for shape in ("rectangle", "ellipse"):
        masks = [draw_mask(shape, as_rle(mask)) for mask in case.drawn["mask"]]
        rows.append(evaluate(case, case.drawn.assign(mask=masks)).assign(mask=shape))
    return summarize(pd.concat(rows), "mask", "layer")


def put_first(table, *names):
    """Move columns to the front."""
    return table[[*names, *table.columns.drop(list(names))]]


def measure_draws(case):
    """Compare the layers by both clusterings and precision on repeated draws."""
    how = {"n_repeats": case.n_draws, "rows_per_concept": case.n_rows, "random_state": SEED}
    how["k"] = max(1, min(10, case.n_rows - 1))
    tables = [
        compare_layers(case.embeddings, case.samples["concept"], clusterer=clusterer, **how).assign(
            clustering=name
        )
        for name, clusterer in CLUSTERINGS.items()
    ]
    # Only purity and the number of clusters depend on the clustering.
    table = pd.concat([tables[0], tables[1][tables[1]["metric"].isin(["purity", "n_clusters"])]])
    return put_first(table, "clustering")


def find_k(concepts):
    """Return the paper's numbers of neighbors that a concept can reach."""
    most = np.unique(concepts, return_counts=True)[1].max() - 1
    return [k for k in K if k <= most]


def measure_retrieval(case):
    """Measure precision at the paper's k, per concept and averaged over concepts."""
    tables = []
    for layer in case.layers:
        X, y = case.finite(layer)
        found = {str(k): precision_at_k(X, y, k, average=None) for k in find_k(y)}
        table = pd.DataFrame({"layer": layer, "concept": np.unique(y), **found})
        mean = {"layer": layer, "concept": ALL, **table[list(found)].mean()}
        tables += [pd.DataFrame([mean]), table]
    return pd.concat(tables, ignore_index=True)


def measure_separation(case):
    """Measure separation and overlap of each pair of concepts."""
    tables = []
    for layer in case.layers:
        X, y = case.finite(layer)
        names = np.unique(y)
        pairs = pd.MultiIndex.from_product([names, names], names=["concept", "other"])
        columns = {
            "layer": layer,
            "separation": pairwise_separation(X, y).ravel(),
            "overlap": overlap_ratio(X, y).ravel(),
        }
        table = pd.DataFrame(columns, index=pairs).reset_index()
        own = dict(zip(names, category_separation(X, y, average=None), strict=True))
        tables.append(
            put_first(table.assign(category_separation=table["concept"].map(own)), "layer")
        )
    return pd.concat(tables, ignore_index=True)


def make_map(case):
    """Map the drawn rows of each layer to the plane, by UMAP with 5 % of them as neighbors."""
    tables = []
    for layer in case.layers:
        X, y = case.drawn_embeddings(layer)
        umap = UnsupervisedUMAP(n_neighbors=max(2, len(X) // 20), random_state=SEED, n_jobs=1)
        coordinates = umap.fit_transform(X)
        table = {"layer": layer, "concept": y, "x": coordinates[:, 0], "y": coordinates[:, 1]}
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)


def make_mixture(max_components=5, **how):
    """Return the mixture of the published code, without a minimum of rows per component."""
    return ConceptGaussianMixture(max_components, rows_per_component=1, random_state=0, **how)


def measure_mixtures(maps):
    """Count the components in the plane, per concept and without labels."""
    tables = []
    for layer, rows in maps.groupby("layer", sort=False):
        U, y = rows[["x", "y"]].to_numpy(), rows["concept"].to_numpy()
        mixture = make_mixture().fit(U, y)
        own = pd.DataFrame({"concept": y, "is_outlier": mixture.labels_ < 0}).groupby("concept")
        table = own["is_outlier"].agg(n_rows="size", n_outliers="sum")
        table["n_components"] = [m.n_components for m in mixture.mixtures_]
        table["n_kept"] = pd.Series(mixture.component_concepts_).value_counts()
        joint = make_mixture(2 * len(table), **_UNLABELED).fit(U)
        together = {"n_rows": len(U), "n_outliers": 0, "n_components": joint.n_components_}
        together |= {"n_kept": joint.n_components_, "purity": purity_score(y, joint.labels_)}
        table = pd.concat([pd.DataFrame(together, index=[ALL]), table])
        tables.append(
            put_first(table.rename_axis("concept").reset_index().assign(layer=layer), "layer")
        )
    return pd.concat(tables, ignore_index=True)


def find_noises():
    """Return (name, percent, noise), with the percentages of the published code."""
    for percent in PERCENTS:
        yield "Gaussian", percent, GaussianNoise(percent)
        # The published code replaces pixels in three draws, some of them repeatedly.
        share = 100 * (1 - np.exp(-3 * percent / 100))
        yield "salt and pepper", percent, SaltAndPepperNoise(float(share))


def measure_noise(case):
    """Measure optimization under noise, and the cosine to LoCEs without noise."""
    clean = {layer: found.loc[case.drawn.index] for layer, found in case.embeddings.items()}
    rows = [case.rows.loc[case.drawn.index].assign(noise="none", percent=0, cosine=1.0)]
    for name, percent, noise in find_noises():
        preprocess = PaperTransform(case.model.module, noise)
        found = evaluate(case, case.drawn, preprocess).assign(noise=name, percent=percent)
        noisy = _split(case.embedder(preprocess=preprocess).fit(case.drawn), case.drawn)
        cosines = {layer: _median_cosine(clean[layer], noisy[layer]) for layer in case.layers}
        rows.append(found.assign(cosine=found["layer"].map(cosines)))
    return summarize(pd.concat(rows), "noise", "percent", "layer", "cosine")


def _median_cosine(first, second):
    known = (np.isfinite(first) & np.isfinite(second)).all(axis=1)
    return float(1 - np.median(paired_cosine_distances(first[known], second[known])))


def measure_segmentation(case, layer):
    """Compare GloCE and Net2Vec on a fifth of the images, without training on them."""
    split = GroupShuffleSplit(1, test_size=0.2, random_state=SEED)
    parts = next(split.split(case.drawn, groups=case.drawn["image_id"]))
    seen, unseen = (case.drawn.iloc[part] for part in parts)
    unseen = unseen[unseen["concept"].isin(seen["concept"])]
    loce = case.embedder(layer)
    net2vec = Net2VecSegmenter(loce, random_state=SEED)
    rows = [case.rows[case.rows["layer"] == layer].loc[unseen.index].assign(method="LoCE")]
    for name, method in {"GloCE": ConceptSegmenter(loce), "Net2Vec": net2vec}.items():
        found = method.fit(seen).evaluate(unseen)
        rows.append(found.assign(method=name, layer=layer))
    return summarize(pd.concat(rows), "method", "layer")
