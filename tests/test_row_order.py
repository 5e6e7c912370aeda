"""Rows of several pandas objects are matched by index in every function."""

import inspect
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import FunctionTransformer

from sklearn_loce import LoCETransformer, MaskedMeanTransformer, TorchModel, metrics, plotting
from sklearn_loce.cluster import ConceptAgglomerative
from sklearn_loce.datasets import crop_samples, load_scene_model, make_scenes, paste_crops
from sklearn_loce.mixture import ConceptGaussianMixture
from sklearn_loce.outliers import ConceptOutlierDetector, label_issues
from sklearn_loce.plotting._tiles import Tile
from sklearn_loce.segmentation import ConceptSegmenter, Net2VecSegmenter

pytestmark = pytest.mark.usefixtures("no_figure_stays")

MODEL = TorchModel(load_scene_model)
LOCE = LoCETransformer(MODEL, "features.2")
MEANS = MaskedMeanTransformer(MODEL, "features.2")
STEPPED = Net2VecSegmenter(
    LoCETransformer(MODEL, "features.2", objective="net2vec"), max_iter=2, random_state=0
)
IDENTITY = FunctionTransformer()
DETECTOR, TREE = ConceptOutlierDetector(), ConceptAgglomerative()
MIXTURE = ConceptGaussianMixture(2, random_state=0)


@cache
def rows():
    """All kinds of input for 21 rows, by name, with one index."""
    table = make_scenes(3, image_size=(48, 64), random_state=0).data
    table.index = [f"r{i}" for i in range(len(table))]
    y, index, rng = table["concept"].to_numpy(), table.index, np.random.RandomState(0)
    X = pd.DataFrame(rng.normal(size=(len(table), 4)), index).add_prefix("f")
    crops = crop_samples(table, min_size=8)
    maps = [np.full(crop.shape[:2], i) for i, crop in enumerate(crops["image"])]
    numbers = {"labels": rng.randint(3, size=len(y)), "iou": rng.uniform(size=len(y))}
    return {
        "table": table,
        # Concepts from a column of the table would always match.
        "bare": table.drop(columns="concept"),
        "X": X,
        "Y": X @ rng.normal(size=(4, 3)),
        "y": pd.Series(np.where(np.isin(y, ["sky", "road"]), "far", "near"), index),
        "groups": table["image_id"],
        "coordinates": X.iloc[:, :2],
        "crops": crops,
        "maps": pd.Series(maps, index, dtype=object),
        **{name: pd.Series(values, index) for name, values in numbers.items()},
        "loces": pd.DataFrame(LOCE.fit_transform(table), index),
        "biased": pd.DataFrame(
            LoCETransformer(MODEL, "features.2", append_bias=True).fit_transform(table), index
        ),
        "means": pd.DataFrame(MEANS.fit_transform(table), index),
    }


def plain(X, y):
    """Pass embeddings and concepts in one order to fit."""
    return rows()[X], rows()[y].to_numpy()


def arrays():
    """Pass the same as arrays, as a display does."""
    return rows()["X"].to_numpy(), rows()["y"].to_numpy()


@dataclass
class Case:
    """A call, and the names of its inputs; the others follow the order of the first."""

    covers: str
    names: tuple
    call: object


CASES = {}


def case(covers, *names):
    def add(call):
        CASES[f"{covers}({', '.join(names)})"] = Case(covers, names, call)
        return call

    return add


for function in (
    metrics.category_separation,
    metrics.pairwise_separation,
    metrics.overlap_ratio,
    metrics.pairwise_silhouette,
):
    case(function.__name__, "X", "y")(function)
for function in (metrics.precision_at_k, metrics.mean_average_precision_at_k):
    case(function.__name__, "X", "y", "groups")(
        lambda X, y, groups, function=function: function(X, y, 2, groups=groups, average=None)
    )
case("r_precision", "X", "y", "groups")(
    lambda X, y, groups: metrics.r_precision(X, y, groups=groups, exclude=np.equal)
)
case("linear_cka", "X", "Y")(metrics.linear_cka)
case("compare_similarity", "X", "Y")(lambda X, Y: metrics.compare_similarity({"a": X, "b": Y}))
for function in (metrics.purity_score, metrics.penalized_purity_score, metrics.cluster_composition):
    case(function.__name__, "y", "labels")(function)
case("confused_concepts", "X", "y", "labels", "groups")(
    lambda X, y, labels, groups: metrics.confused_concepts(X, y, clusters=labels, components=groups)
)
case("sub_concepts", "X", "y", "labels")(metrics.sub_concepts)
case("label_issues", "X", "y", "groups")(lambda X, y, groups: label_issues(X, y, groups=groups))
for scorer in (metrics.get_scorer("precision_at_1"), metrics.get_scorer(["r_precision"])):
    case(f"{type(scorer).__name__}.__call__", "X", "y", "groups")(
        lambda X, y, groups, scorer=scorer: scorer(IDENTITY, X, y, groups=groups)
    )
case("ConceptScorer.__call__", "X", "y")(
    lambda X, y: metrics.get_scorer("purity")(TREE.fit(X, y), X, y)
)
case("paste_crops", "maps", "crops")(paste_crops)
COMPARED = {"k": 1, "n_repeats": 2, "rows_per_concept": 12, "random_state": 0}


@case("compare_layers", "y", "X", "Y", "groups", "iou")
def compare(y, X, Y, groups, iou):
    iou = {"a": iou, "b": iou / 2}
    return metrics.compare_layers({"a": X, "b": Y}, y, groups=groups, iou=iou, **COMPARED)


@case("compare_layers", "table", "y", "groups")
def compare_estimator(table, y, groups):
    how = {"layers": ["features.1", "features.2"], "metrics": ["separation", "purity"]}
    return metrics.compare_layers(MEANS, table, y, groups=groups, **how, **COMPARED)


for estimator in (DETECTOR, TREE, MIXTURE):
    name = type(estimator).__name__
    case(f"{name}.fit", "X", "y")(lambda X, y, e=estimator: vars(e.fit(X, y)).copy())
    case(f"{name}.fit_predict", "X", "y")(lambda X, y, e=estimator: e.fit_predict(X, y))
for method in ("score_samples", "decision_function", "predict"):
    case(f"ConceptOutlierDetector.{method}", "X", "y")(
        lambda X, y, method=method: getattr(DETECTOR.fit(*plain("X", "y")), method)(X + 0.1, y)
    )

for loce, name in ((LOCE, "loces"), (MEANS, "means")):
    for method in ("evaluate", "project"):
        case(f"{type(loce).__name__}.{method}", "table", name)(
            lambda table, vectors, loce=loce, method=method: getattr(
                loce.fit(rows()["table"]), method
            )(table, vectors)
        )


@case("ConceptSegmenter.fit", "bare", "y", "biased", "labels")
def segment(table, y, embeddings, labels):
    segmenter = ConceptSegmenter(LOCE)
    return segmenter.fit(table, y, embeddings=embeddings, cluster_labels=labels).embeddings_


@cache
def segmenter_of(kind):
    model = ConceptSegmenter(LOCE) if kind is ConceptSegmenter else STEPPED
    return model.fit(*plain("bare", "y"))


case("Net2VecSegmenter.fit", "bare", "y")(lambda table, y: STEPPED.fit(table, y).embeddings_)
for kind in (ConceptSegmenter, Net2VecSegmenter):
    for method in ("evaluate", "score"):
        case(f"{kind.__name__}.{method}", "bare", "y")(
            lambda table, y, kind=kind, method=method: getattr(segmenter_of(kind), method)(table, y)
        )

for display in (
    plotting.CentroidDistanceDisplay,
    plotting.ChannelDisplay,
    plotting.DendrogramDisplay,
    plotting.OverlapDisplay,
    plotting.SeparationDisplay,
):
    case(f"{display.__name__}.from_embeddings", "X", "y")(display.from_embeddings)
for display in (
    plotting.CentroidDistanceDisplay,
    plotting.ChannelDisplay,
    plotting.OverlapDisplay,
    plotting.SeparationDisplay,
):
    case(f"{display.__name__}.from_estimator", "X", "y")(
        lambda X, y, display=display: display.from_estimator(IDENTITY, X, y)
    )
case("DendrogramDisplay.from_estimator", "X", "y")(
    lambda X, y: plotting.DendrogramDisplay.from_estimator(TREE.fit(*plain("X", "y")), X, y)
)
case("PrecisionAtKDisplay.from_embeddings", "X", "y", "groups")(
    lambda X, y, groups: plotting.PrecisionAtKDisplay.from_embeddings(X, y, k=[1], groups=groups)
)
case("PrecisionAtKDisplay.from_estimator", "X", "y", "groups")(
    lambda X, y, groups: plotting.PrecisionAtKDisplay.from_estimator(
        FunctionTransformer(np.asarray), X, y, k=[1], groups=groups
    )
)
case("ConceptMapDisplay.from_embeddings", "X", "y", "coordinates", "labels")(
    lambda X, y, coordinates, labels: plotting.ConceptMapDisplay.from_embeddings(
        X, y, embedding=coordinates, mixture=labels
    )
)
case("ConceptMapDisplay.from_estimator", "X", "y", "coordinates", "labels")(
    lambda X, y, coordinates, labels: plotting.ConceptMapDisplay.from_estimator(
        FunctionTransformer(np.asarray), X, y, embedding=coordinates, mixture=labels
    )
)
case("ConceptMapDisplay.__init__", "coordinates", "y")(
    lambda coordinates, y: {
        name: points.get_offsets().data
        for name, points in plotting.ConceptMapDisplay(coordinates, y).plot().scatter_.items()
    }
)
case("DendrogramDisplay.__init__", "labels", "y")(
    lambda labels, y: (
        plotting.DendrogramDisplay(TREE.fit(*plain("X", "y")).linkage_matrix_, labels, y=y)
        .plot()
        .purity_
    )
)
case("ClusterGalleryDisplay.from_embeddings", "X", "bare", "labels", "y")(
    plotting.ClusterGalleryDisplay.from_embeddings
)
case("ClusterGalleryDisplay.from_embeddings", "X", "table", "labels")(
    plotting.ClusterGalleryDisplay.from_embeddings
)
case("ClusterGalleryDisplay.from_estimator", "X", "bare", "y")(
    lambda X, table, y: plotting.ClusterGalleryDisplay.from_estimator(
        TREE.fit(*arrays()), X, table, y
    )
)
case("OutlierDisplay.from_embeddings", "X", "bare", "y")(plotting.OutlierDisplay.from_embeddings)
case("OutlierDisplay.from_estimator", "X", "bare", "y")(
    lambda X, table, y: plotting.OutlierDisplay.from_estimator(DETECTOR.fit(*arrays()), X, table, y)
)
case("RetrievalDisplay.from_embeddings", "X", "bare", "y", "groups")(
    lambda X, table, y, groups: plotting.RetrievalDisplay.from_embeddings(
        X, table, y, queries=[0, 9], groups=groups
    )
)
case("RetrievalDisplay.from_estimator", "bare", "y", "groups")(
    lambda table, y, groups: plotting.RetrievalDisplay.from_estimator(
        MEANS.fit(rows()["bare"]), table, y, queries=[0, 9], groups=groups
    )
)
case("LabelIssuesDisplay.from_issues", "table", "loces")(
    lambda table, vectors: plotting.LabelIssuesDisplay.from_issues(
        label_issues(rows()["X"], rows()["y"]),
        table,
        n_rows=3,
        embeddings=vectors,
        projector=LOCE.fit(rows()["table"]),
    )
)
case("ProjectionDisplay.from_estimator", "bare", "loces", "y")(
    lambda table, vectors, y: plotting.ProjectionDisplay.from_estimator(
        LOCE.fit(rows()["bare"]), table, vectors, y=y, rows=[2, 5]
    )
)


@case("to_html", "loces", "table", "coordinates", "labels", "iou", "groups")
def write_page(X, table, coordinates, labels, iou, groups, folder=[]):  # noqa: B006 - set below
    how = {
        "clusters": labels,
        "iou": iou,
        "groups": groups,
        "transformer": LOCE.fit(rows()["bare"]),
    }
    path = folder[0] / "map.html"
    return plotting.to_html(X, table, path, coordinates=coordinates, **how).read_text()


# Functions with several inputs by row that are not matched, with the reason.
EXEMPT = {
    **dict.fromkeys(("fit", "fit_transform", "score"), "y is ignored"),
    "precompute": "layers are no rows",
    "__init__": "thumbnails, which from_estimator makes",
    "set_fit_request": "asks for names",
}
MODULES = ("", ".metrics", ".outliers", ".cluster", ".mixture", ".plotting", ".segmentation")
ROW_NAMES = {"X", "Y", "y", "embeddings", "samples", "groups", "labels", "clusters", "components"}
ROW_NAMES |= {
    "maps",
    "crops",
    "iou",
    "spaces",
    "layers",
    "coordinates",
    "cluster_labels",
    "embedding",
    "mixture",
}


def public_functions():
    """Yield the name and the parameters of every public function and method."""
    for suffix in (*MODULES, ".utils", ".datasets", ".corruptions", ".paper"):
        module = import_module(f"sklearn_loce{suffix}")
        for name in module.__all__:
            found = getattr(module, name)
            members = {name: found}
            if inspect.isclass(found):
                names = [m for m in dir(found) if m in ("__init__", "__call__") or m[0] != "_"]
                members = {f"{name}.{m}": getattr(found, m) for m in names}
            for full_name, member in members.items():
                if callable(member) and not inspect.isclass(member):
                    yield full_name, set(inspect.signature(member).parameters)


def test_every_function_of_several_rows_has_a_case():
    covered = {case.covers for case in CASES.values()}
    ignoring = ("LoCETransformer", "MaskedMeanTransformer", "UnsupervisedUMAP", "ConceptGaussian")
    found = set()
    for name, parameters in public_functions():
        owner, _, method = name.rpartition(".")
        is_exempt = method in EXEMPT and (
            owner.startswith(ignoring) or EXEMPT[method] != "y is ignored"
        )
        if len(parameters & ROW_NAMES) > 1 and not (is_exempt and name not in covered):
            found.add(name)
    assert found - covered == set()
    assert len(covered) > 50


def comparable(value):
    """Convert the result of a call to values that NumPy can compare."""
    if isinstance(value, pd.DataFrame | pd.Series):
        return [*value.index.tolist(), *value.reset_index().to_dict("list").items()]
    if isinstance(value, Tile):
        return value.image, value.mask
    if isinstance(value, dict):
        # Attributes that end with an underscore are artists, or follow from the others.
        # A table of tiles has the index of the samples.
        return {
            name: comparable(own.reset_index(drop=True) if isinstance(own, pd.DataFrame) else own)
            for name, own in value.items()
        }
    if isinstance(value, list | tuple):
        return [comparable(own) for own in value]
    if type(value).__module__.startswith("sklearn_loce.plotting"):
        stored = {name: own for name, own in vars(value).items() if not name.endswith("_")}
        return comparable(
            {name: np.asarray(own) if name == "y" else own for name, own in stored.items()}
        )
    if hasattr(value, "get_params"):
        return comparable({name: own for name, own in vars(value).items() if name.endswith("_")})
    return value


@cache
def expected(name):
    case = CASES[name]
    return comparable(case.call(*(rows()[name] for name in case.names)))


@pytest.fixture(autouse=True)
def page_folder(tmp_path):
    write_page.__defaults__[0][:] = [tmp_path]


@pytest.fixture(autouse=True)
def nothing_drawn(request, monkeypatch):
    """Skip the drawing, which takes a second, because the tests compare stored numbers."""
    if "Display.from" in request.node.name:
        for name in plotting.__all__:
            if name.endswith("Display"):
                monkeypatch.setattr(getattr(plotting, name), "plot", lambda self: self)


def differing(name):
    """Yield the rows of a case, each of them once in another order."""
    names = CASES[name].names
    order = np.random.RandomState(1).permutation(len(rows()["y"]))
    for changed in names[1:]:
        given = [rows()[name] for name in names]
        given[names.index(changed)] = given[names.index(changed)].iloc[order]
        yield given


@pytest.mark.parametrize("name", CASES)
def test_rows_in_another_order_are_matched_by_index(name):
    for given in differing(name):
        np.testing.assert_equal(comparable(CASES[name].call(*given)), expected(name))


@pytest.mark.parametrize("name", CASES)
def test_rows_of_unrelated_indexes_are_matched_by_position(name):
    case = CASES[name]
    if case.covers.startswith("compare"):  # which joins tables by index
        return
    first, *others = (rows()[name] for name in case.names)
    renamed = [table.set_axis(range(7, 7 + len(table))) for table in others]
    np.testing.assert_equal(comparable(case.call(first, *renamed)), expected(name))
    plain = [table if "mask" in table else table.to_numpy() for table in others]
    np.testing.assert_equal(comparable(case.call(first, *plain)), expected(name))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if len(case.names) > 2])
def test_input_without_labels_beside_different_orders_raises_an_error(name):
    case = CASES[name]
    if "Y" in case.names:  # which joins tables by index
        return
    first, *middle, last = next(differing(name))
    if "mask" in last:
        return
    for lone in (last.to_numpy(), last.set_axis(range(len(last)))):
        with pytest.raises(
            ValueError, match=r"same labels in another order, but .* no such labels"
        ):
            case.call(first, *middle, lone)


@pytest.mark.parametrize("name", CASES)
def test_repeated_labels_are_matched_only_in_the_same_order(name):
    case = CASES[name]
    halves = [f"r{i // 2}" for i in range(len(rows()["y"]))]
    first, *others = (rows()[name].set_axis(halves) for name in case.names)
    if not case.covers.startswith("compare"):
        case.call(first, *others)
    with pytest.raises(ValueError, match="repeat"):
        case.call(first, *(table.iloc[::-1] for table in others))
