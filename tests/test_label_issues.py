"""Wrong labels: their ranking compared with loops, closed forms and planted wrong labels."""

import json
import math
import shutil
import tracemalloc
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context

from sklearn_loce import LoCETransformer
from sklearn_loce.datasets import load_coco
from sklearn_loce.outliers import ConceptOutlierDetector, label_issues

from . import brute_force
from .conftest import SHARED
from .embeddings import CASES, planted_parts
from .planted import NORMALIZE
from .test_metrics_inputs import BAD


def by_row(issues):
    return issues.sort_values("row")


def brute_issues(X, y, metric, k, is_out=lambda i, j: False):
    """Confidence and the distance to every concept, by their definitions; None if unknown."""
    D, concepts = brute_force.matrix(X, metric), brute_force.rows_of(y)
    n, near = len(X), {}
    for i in range(n):
        for concept, rows in concepts.items():
            found = sorted(D[i, j] for j in rows if j != i and not is_out(i, j))[:k]
            near[i, concept] = sum(found) / len(found) if found else None
    own = {
        concept: [near[i, concept] for i in rows if near[i, concept] is not None]
        for concept, rows in concepts.items()
    }
    widths = {concept: median(values) for concept, values in own.items() if values}
    missing, widest = median(widths.values()), max(widths.values())
    widths = {c: max(widths.get(c, missing), 0.01 * widest) for c in concepts}
    usual = median(widths.values())
    scale = {c: (width / usual) ** 0.25 if usual else 1 for c, width in widths.items()}
    near = {(i, c): None if d is None else d / scale[c] for (i, c), d in near.items()}
    confidence = []
    for i in range(n):
        others = [near[i, c] for c in concepts if c != str(y[i]) and near[i, c] is not None]
        if near[i, str(y[i])] is None or not others:
            confidence.append(math.nan)
            continue
        gap = near[i, str(y[i])] - min(others)
        confidence.append(gap / (abs(gap) + usual) if gap else 0.0)
    return np.array(confidence), near


def check(issues, X, y, metric, k, is_out=lambda i, j: False):
    """Compare a table with the double loops."""
    confidence, near = brute_issues(X, y, metric, k, is_out)
    rows = by_row(issues)
    assert_array_equal(rows["row"], np.arange(len(X)))
    assert_array_equal(rows["given"], y)
    assert_allclose(rows["confidence"], confidence, rtol=1e-6, atol=1e-6)
    for i, (suggested, value) in enumerate(zip(rows["suggested"], rows["confidence"], strict=True)):
        known = {c: d for (j, c), d in near.items() if j == i and d is not None}
        assert known[str(suggested)] <= min(known.values()) * (1 + 1e-5) + 1e-12
        if not math.isnan(value):
            assert (suggested != y[i]) == (value > 0)
    ranked = issues["confidence"].to_numpy()
    n_known = np.count_nonzero(~np.isnan(ranked))
    assert (np.diff(ranked[:n_known]) <= 0).all()
    assert np.isnan(ranked[n_known:]).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "cityblock"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "one row in a concept"])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_every_row_is_ranked_by_its_definition(case, metric, k):
    X, y = CASES[case]()
    check(label_issues(X, y, k=k, metric=metric), X, y, metric, k)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [2, 10])
def test_rows_of_the_same_group_are_excluded(metric, k):
    X, y = CASES["random"]()
    groups = np.array(list("abcde"))[np.random.RandomState(1).randint(5, size=31)]
    issues = label_issues(X, y, groups=groups, k=k, metric=metric)
    check(issues, X, y, metric, k, lambda i, j: groups[i] == groups[j])
    frames = np.arange(31)
    issues = label_issues(X, y, groups=frames, exclude=3, k=k, metric=metric)
    check(issues, X, y, metric, k, lambda i, j: abs(i - j) <= 3)
    issues = label_issues(
        X, y, groups=frames, exclude=lambda a, b: (a - b) % 4 == 0, k=k, metric=metric
    )
    check(issues, X, y, metric, k, lambda i, j: (i - j) % 4 == 0)


def test_the_result_does_not_depend_on_the_chunk_size():
    X, y = CASES["random"]()
    whole = label_issues(X, y, groups=np.arange(31) // 3)
    with config_context(working_memory=0.001):
        pd.testing.assert_frame_equal(label_issues(X, y, groups=np.arange(31) // 3), whole)


def test_confidences_equal_a_closed_form():
    # On a line: cars at 0, 1, 3; trees at 10, 11, 13; and a car at 2 with the label tree.
    X, y = [[0.0], [1.0], [3.0], [10.0], [11.0], [13.0], [2.0]], [*["car"] * 3, *["tree"] * 4]
    issues = label_issues(X, y, k=2, metric="euclidean")
    # The widths: cars have 2, 1.5 and 2.5 to cars; trees have 2, 1.5, 2.5 and 8.5 to trees.
    usual = (2 + 2.25) / 2
    gap = 8.5 / (2.25 / usual) ** 0.25 - 1 / (2 / usual) ** 0.25
    first = issues.iloc[0]
    assert first[["row", "given", "suggested"]].tolist() == [6, "tree", "car"]
    assert first["confidence"] == pytest.approx(gap / (gap + usual))
    assert first["distance"] == pytest.approx((8 + 9 + 11) / 3)
    assert (issues["confidence"].iloc[1:] < 0).all()
    assert_array_equal(issues["suggested"].iloc[1:], issues["given"].iloc[1:])


def test_distances_equal_those_of_the_outlier_detector():
    X, y = CASES["random"]()
    issues = by_row(label_issues(X, y, groups=np.arange(31) // 3))
    assert_allclose(issues["distance"], -ConceptOutlierDetector().fit(X, y).training_scores_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_planted_wrong_labels_rank_first_with_the_right_suggestion(dtype):
    X, y, _ = planted_parts(n_rows=20)
    wrong, truth = [3, 50, 90, 110], y.copy()
    y[wrong] = ["car", "bus", "bus", "car"]
    assert (y[wrong] != truth[wrong]).all()
    issues = label_issues(X.astype(dtype), y)
    assert sorted(issues["row"][:4]) == wrong
    assert_array_equal(issues["suggested"], truth[issues["row"]])


def test_rows_of_a_rare_concept_are_not_flagged_for_their_number():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(304, 4))
    X[300:, 0] += 6
    y = np.repeat(["road", "pole"], [300, 4])
    y[7] = "pole"
    issues = label_issues(X, y, metric="euclidean")
    assert issues.iloc[0][["row", "suggested"]].tolist() == [7, "road"]
    assert (issues["suggested"] == issues["given"]).iloc[1:].all()


def test_ties_keep_the_given_label_and_the_order_of_the_rows():
    X = np.repeat([[1.0, 0.0], [0.0, 1.0]], 4, axis=0)
    y = ["car", "tree", "car", "tree"] * 2
    issues = label_issues(X, y, k=1)
    assert_array_equal(issues["confidence"], 0)
    assert_array_equal(issues["given"], issues["suggested"])
    assert_array_equal(issues["row"], np.arange(8))


def test_for_equal_confidences_the_farther_row_ranks_first():
    X, y = [[5.0], [5.0], [0.0], [0.0], [-30.0]], ["tree", "tree", "car", "car", "car"]
    issues = label_issues(X, y, k=1, metric="euclidean")
    assert_array_equal(issues["confidence"], -1)
    assert_array_equal(issues["row"], [4, 2, 3, 0, 1])


class TestTable:
    def test_the_table_has_index_and_position(self):
        X, y = CASES["random"]()
        names = [f"image {i}" for i in range(31)]
        plain = label_issues(X, y)
        assert_array_equal(plain.index, plain["row"])
        assert "annotation_id" not in plain
        for how in (
            (pd.DataFrame(X, index=names), y),
            (X, pd.Series(y, index=names)),
            (pd.DataFrame(X, index=names), pd.Series(y, index=names)),
        ):
            issues = label_issues(*how)
            assert issues.index.tolist() == [f"image {i}" for i in plain["row"]]
            assert_array_equal(issues.to_numpy(), plain.to_numpy())

    @pytest.mark.parametrize(
        ("ids", "expected"),
        [
            ([11, 12, 13, 14], [11, 12, 13, 14]),
            (["a:1", "a:2", None, "b"], ["a:1", "a:2", None, "b"]),
            ([(1,), (2, 3), (4, 5), ("x", 6)], [(1,), (2, 3), (4, 5), ("x", 6)]),
            ([np.array([1]), np.array([2, 3]), [4], 5], [(1,), (2, 3), (4,), 5]),
            (pd.Series([1, 2, 3, 4], index=list("abcd")), [1, 2, 3, 4]),
        ],
    )
    def test_the_table_has_annotation_ids(self, ids, expected):
        X, y = [[0.0], [1.0], [5.0], [6.0]], ["car", "car", "tree", "tree"]
        found = by_row(label_issues(X, y, metric="euclidean", annotation_ids=ids))
        assert found["annotation_id"].tolist() == expected

    @pytest.mark.parametrize("y", [[1, 1, 2, 2], [1.5, 1.5, 2.0, 2.0], [True, True, False, False]])
    def test_labels_may_have_any_type(self, y):
        issues = label_issues([[0.0], [1.0], [5.0], [6.0]], y, metric="euclidean")
        assert_array_equal(by_row(issues)["suggested"], y)
        assert issues["given"].dtype == issues["suggested"].dtype == np.asarray(y).dtype


class TestRowsThatCanNotBeJudged:
    def test_rows_of_a_concept_in_one_group_are_not_judged(self):
        X, y = CASES["random"]()
        groups = np.where(y == "sky", 0, 1 + np.arange(31) % 3)
        with pytest.warns(UserWarning, match=r"rows of 'sky' can't be judged"):
            issues = label_issues(X, y, groups=groups)
        check(issues, X, y, "cosine", 10, lambda i, j: groups[i] == groups[j])
        unjudged = issues["confidence"].isna()
        assert_array_equal(unjudged, issues["given"] == "sky")
        assert (issues["suggested"] != "sky")[unjudged].all()

    def test_a_single_row_of_a_concept_is_not_judged(self):
        X, y = CASES["one row in a concept"]()
        with pytest.warns(UserWarning, match="1 rows of 'car' can't be judged"):
            issues = label_issues(X, y)
        check(issues, X, y, "cosine", 10)
        assert issues.iloc[-1]["row"] == 6
        assert np.isnan(issues.iloc[-1]["distance"])

    def test_concepts_in_one_group_each_raise_an_error(self):
        X, y = CASES["random"]()
        with pytest.raises(ValueError, match="No row can be judged"):
            label_issues(X, y, groups=y)

    def test_one_group_raises_an_error(self):
        X, y = CASES["random"]()
        with pytest.raises(ValueError, match="pass rows of more groups"):
            label_issues(X, y, groups=[0] * 31)


@pytest.mark.parametrize("message", BAD)
def test_bad_input_raises_errors(message):
    X, y, metric = BAD[message]
    with pytest.raises(ValueError, match=message):
        label_issues(X, y, metric=metric)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"k": 0}, "'k' parameter"),
        ({"k": 2.5}, "'k' parameter"),
        ({"groups": [1, 2]}, "inconsistent numbers of samples"),
        ({"groups": [1, 2, 3, None]}, "groups has no label in row 3"),
        ({"exclude": 3}, "groups is None"),
        ({"annotation_ids": [1, 2]}, "annotation_ids has 2 values, but X has 4 rows"),
        ({"annotation_ids": "annotation_id"}, "'annotation_ids' parameter"),
        ({"y": pd.Series([1, 1, 2, 2])[::-1], "annotation_ids": pd.Series(range(4))}, "indexes"),
        ({"y": ["car"] * 4}, "At least 2 concepts"),
    ],
)
def test_invalid_parameters_raise_errors(how, message):
    X, y = [[0.0], [1.0], [5.0], [6.0]], ["car", "car", "tree", "tree"]
    with pytest.raises(ValueError, match=message):
        label_issues(X, **({"y": y} | how))


def test_memory_is_linear_in_the_number_of_rows():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(4000, 8)), rng.randint(5, size=4000)
    tracemalloc.start()
    with config_context(working_memory=4):
        label_issues(X, y, groups=np.arange(4000) // 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32e6


def test_verbose_shows_progress(capsys):
    X, y = CASES["random"]()
    quiet = label_issues(X, y)
    assert capsys.readouterr().err == ""
    pd.testing.assert_frame_equal(label_issues(X, y, verbose=1), quiet)
    assert "100%|██████████| 31/31" in capsys.readouterr().err


# The concept of an annotation, and its wrong name in the copy.
MISTAKES = {"building": "bicyclist", "car": "fence", "sky": "car", "tree": "pedestrian"}


def plant(content):
    """Return the largest annotation of each concept a wrong name, in images without this name."""
    ids, planted = {c["name"]: c["id"] for c in content["categories"]}, {}
    for truth, wrong in MISTAKES.items():
        taken = {a["image_id"] for a in content["annotations"] if a["category_id"] == ids[wrong]}
        annotations = [
            a
            for a in content["annotations"]
            if a["category_id"] == ids[truth] and a["image_id"] not in taken
        ]
        largest = max(annotations, key=lambda a: a["area"])
        largest["category_id"] = ids[wrong]
        planted[largest["id"]] = truth
    return planted


@pytest.mark.slow
def test_wrong_labels_in_a_file_are_found_and_corrected(camvid_network, tmp_path):
    if not (SHARED / "camvid").is_dir():
        pytest.skip(f"needs the CamVid scenes in {SHARED / 'camvid'}")
    shutil.copytree(SHARED / "camvid" / "images", tmp_path / "images")
    file, original = tmp_path / "a.json", (SHARED / "camvid" / "annotations.json").read_text()
    content = json.loads(original)
    planted = plant(content)
    file.write_text(json.dumps(content))

    X = load_coco(file, tmp_path / "images", min_area=0.001).data
    embeddings = LoCETransformer(camvid_network, "backbone.16", preprocess=NORMALIZE).fit_transform(
        X
    )
    sequences = X["image"].map(lambda path: Path(path).stem.split("_")[0])
    issues = label_issues(
        embeddings, X["concept"], groups=sequences, annotation_ids=X["annotation_id"]
    )
    found = issues.iloc[:10].set_index("annotation_id")["suggested"]
    confirmed = {name: truth for (name, *_), truth in found.items() if name in planted}
    assert confirmed == planted

    content, ids = json.loads(file.read_text()), {c["name"]: c["id"] for c in content["categories"]}
    for annotation in content["annotations"]:
        if annotation["id"] in confirmed:
            annotation["category_id"] = ids[confirmed[annotation["id"]]]
    assert content == json.loads(original)
