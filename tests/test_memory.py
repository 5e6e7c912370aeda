"""Nothing is computed twice, no computed row is lost, and no stale row is returned."""

import gc
import io
import itertools
import multiprocessing
import os
import resource
import signal
import sqlite3
import threading
import time
import tracemalloc
import warnings
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer
from torchvision.transforms import v2

from sklearn_loce import ActivationExtractor, Joined, MaskedMeanTransformer, RowStore, TorchModel
from sklearn_loce._solvers.objectives import AdamWObjective, LBFGSObjective
from sklearn_loce._store import database
from sklearn_loce.exceptions import FailedRowsError, StoreError

from .counting import LAYERS, Counting, build_counting, draw_table, make_loce, write_images


@pytest.fixture
def table():
    return draw_table(6)


def computed(table, **how):
    """Return the vectors without a store."""
    return make_loce(memory=False, **how).fit_transform(table)


def n_passes(loce):
    return loce.model.module.n_images


@pytest.mark.parametrize("kind", ["shared", "path", "store"])
def test_a_second_call_computes_nothing(kind, table, tmp_path):
    memory = {"shared": None, "path": str(tmp_path / "a"), "store": RowStore(tmp_path)}[kind]
    loce = make_loce(memory=memory, layer=LAYERS[:2])
    first = loce.fit_transform(table)
    assert n_passes(loce) == 6
    for again in (loce, clone(loce)):
        np.testing.assert_array_equal(again.fit_transform(table), first)
        np.testing.assert_array_equal(again.fit(table).transform(table[::-1]), first[::-1])
    assert n_passes(loce) == 6
    np.testing.assert_array_equal(first, computed(table, layer=LAYERS[:2]))


def test_bare_modules_and_memory_false_store_nothing(table):
    for how in ({"model": build_counting()}, {"memory": False}):
        loce = make_loce(**how)
        loce.fit_transform(table)
        loce.transform(table)
        assert getattr(loce.model, "module", loce.model).n_images == 12


def test_another_process_finds_the_rows(table, tmp_path):
    make_loce(memory=tmp_path / "store").fit_transform(table)
    other = make_loce(memory=tmp_path / "store")  # a module of its own, equal in content
    np.testing.assert_array_equal(other.fit_transform(table), computed(table))
    assert n_passes(other) == 0


# The first of these projects with the bias that fits best, and the others look at each projection.
OBJECTIVES = [{}, {"objective": "net2vec"}, {"append_bias": True}]


def count_solved(monkeypatch):
    """Return a list, to which each solver call appends its number of rows, channels and grids."""
    solved = []

    def counting(plain):
        def solve(self, activations, *args, **kwargs):
            n_grids = len({grid.data_ptr() for grid in activations})
            solved.append((len(activations), len(activations[0]), n_grids))
            return plain(self, activations, *args, **kwargs)

        return solve

    for kind in (AdamWObjective, LBFGSObjective):
        monkeypatch.setattr(kind, "solve", counting(kind.solve))
    return solved


@pytest.mark.parametrize("how", OBJECTIVES)
def test_each_row_and_layer_is_computed_once(how, table, tmp_path, monkeypatch):
    solved = count_solved(monkeypatch)
    one = make_loce(memory=tmp_path, layer="body.0", **how).fit(table)
    one.transform(table[:5])
    both = make_loce(memory=tmp_path, layer=["body.0", "body.2"], **how)
    twice = pd.concat([table, table[::-1]])
    found = both.fit_transform(twice)
    n_rows = {c: sum(n for n, channels, _ in solved if channels == c) for c in (4, 6)}
    assert n_rows == {4: len(table), 6: len(table)}
    np.testing.assert_array_equal(found, computed(twice, layer=["body.0", "body.2"], **how))


@pytest.mark.parametrize("how", OBJECTIVES)
def test_a_layer_whose_vectors_are_stored_needs_no_activations(how, table):
    loce = make_loce(layer="body.0", **how)
    first = loce.fit_transform(table)
    found = make_loce(model=loce.model, layer=["body.0", "body.2"], **how).fit_transform(table)
    n_features = first.shape[1]
    np.testing.assert_array_equal(found[:, :n_features], first)
    np.testing.assert_array_equal(found[:, n_features:], computed(table, layer="body.2", **how))


def search(loce, table, **how):
    """Search four layers and three settings of a classifier in three folds."""
    pipeline = make_pipeline(loce, KNeighborsClassifier())
    grid = {"locetransformer__layer": LAYERS, "kneighborsclassifier__n_neighbors": [1, 2, 3]}
    found = GridSearchCV(pipeline, grid, cv=GroupKFold(3), error_score="raise", **how)
    return found.fit(table, table["concept"], groups=table["image_id"])


@pytest.mark.slow
def test_a_grid_search_after_precompute_costs_one_pass_per_image(table, tmp_path):
    loce = make_loce(memory=tmp_path)
    loce.precompute(table, LAYERS)
    assert n_passes(loce) == 6
    found = search(loce, table)
    assert n_passes(loce) == 6
    slow = search(make_loce(memory=False), table)
    np.testing.assert_array_equal(
        found.cv_results_["mean_test_score"], slow.cv_results_["mean_test_score"]
    )


def test_averages_after_precompute_need_no_pass(table, tmp_path):
    means = MaskedMeanTransformer(TorchModel(build_counting), "body.2", memory=tmp_path)
    assert means.precompute(table, LAYERS) is means
    assert n_passes(means) == 6
    found = means.fit_transform(table)
    assert n_passes(means) == 6
    means = MaskedMeanTransformer(TorchModel(build_counting), "body.2", memory=False)
    np.testing.assert_array_equal(means.fit_transform(table), found)


def make_union(loce, **how):
    """Return LoCEs beside averages of the same network, and the averages."""
    averages = MaskedMeanTransformer(loce.model, "body.4", **{"memory": loce.memory} | how)
    parts = [("loce", make_pipeline(loce, Normalizer())), ("average", averages)]
    return FeatureUnion(parts, transformer_weights={"average": 0.7}), averages


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("how", OBJECTIVES)
def test_a_union_after_precompute_costs_one_pass_per_image(how, on_disk, table, tmp_path):
    loce = make_loce(memory=tmp_path if on_disk else None, **how)
    union, averages = make_union(loce)
    assert loce.precompute(table, beside=[averages]) is loce
    assert n_passes(loce) == 6
    found = union.fit_transform(table)
    np.testing.assert_array_equal(clone(union).fit(table).transform(table[::-1]), found[::-1])
    loce.precompute(table, beside=[averages])
    assert n_passes(loce) == 6
    plain, _ = make_union(make_loce(memory=False, **how))
    np.testing.assert_array_equal(plain.fit_transform(table), found)


def test_without_precompute_each_part_of_a_union_passes_the_images(table):
    loce = make_loce()
    make_union(loce)[0].fit_transform(table)
    assert n_passes(loce) == 12


@pytest.mark.parametrize("how", OBJECTIVES)
def test_stored_vectors_of_one_part_are_not_computed_again(how, table, tmp_path):
    loce = make_loce(memory=tmp_path, **how)
    union, averages = make_union(loce)
    loce.fit_transform(table[:6])  # three of the six images
    averages.fit_transform(table[:4])  # two of them
    assert n_passes(loce) == 5
    loce.precompute(table, beside=[averages])
    assert n_passes(loce) == 5 + 4
    union.fit_transform(table)
    assert n_passes(loce) == 9


def test_standardization_needs_its_own_pass(table, tmp_path):
    loce = make_loce(memory=tmp_path)
    union, averages = make_union(loce, standardize=True)
    loce.precompute(table, beside=[averages])
    assert n_passes(loce) == 12
    found = union.fit_transform(table)
    assert n_passes(loce) == 18
    plain, _ = make_union(make_loce(memory=False), standardize=True)
    np.testing.assert_array_equal(plain.fit_transform(table), found)


@pytest.mark.parametrize("how", OBJECTIVES)
def test_rows_of_an_image_share_standardized_activations(how, table, monkeypatch):
    solved = count_solved(monkeypatch)
    loce = make_loce(layer="body.0", standardize=True, **how)
    other = make_loce(model=loce.model, layer="body.4", standardize=True, **how)
    loce.precompute(table, beside=[other])
    # Two rows of each image at a layer of four channels, and at one of eight.
    assert sorted(solved) == [(2, 4, 1)] * 6 + [(2, 8, 1)] * 6
    for part in (loce, other):
        alone = computed(table, layer=part.layer, standardize=True, **how)
        np.testing.assert_array_equal(part.fit_transform(table), alone)


def test_precompute_accepts_several_transformers_at_several_layers(table, tmp_path):
    loce = make_loce(memory=tmp_path, layer=Joined("body.0", "body.4"))
    _, averages = make_union(loce)
    other = make_loce(model=loce.model, memory=tmp_path, alpha=1e-2)
    layers = ["body.0", Joined("body.2", "body.6")]
    loce.precompute(pd.concat([table, table]), layers, beside=[averages, other])
    assert n_passes(loce) == 6
    for part in (loce, averages, other):
        found = clone(part).set_params(layer=layers).fit_transform(table)
        plain = clone(part).set_params(layer=layers, memory=False)
        assert n_passes(loce) == 6
        expected = plain.set_params(model=TorchModel(build_counting)).fit_transform(table)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"model": TorchModel(build_counting)}, "model"),
        ({"preprocess": "paper"}, "preprocess"),
        ({"memory": "other"}, "memory"),
        ({"random_state": 1}, "random_state"),
    ],
)
def test_precompute_refuses_transformers_with_other_inputs(how, name, table, tmp_path):
    loce = make_loce(memory=tmp_path)
    other = clone(loce).set_params(**how)
    with pytest.raises(ValueError, match=rf"beside\[0\] has {name}=.*one after the other"):
        loce.precompute(table, beside=[other])
    assert n_passes(loce) == 0


def test_workers_do_not_share_passes(table, tmp_path):
    loce = make_loce(memory=tmp_path, n_jobs=2)
    with pytest.raises(ValueError, match=r"n_jobs=2: workers do not share passes"):
        loce.precompute(table, beside=[clone(loce)])


def test_a_failed_row_of_one_part_is_named_and_others_are_stored(table, tmp_path):
    full = np.ones((24, 32), dtype=bool)
    broken = table.assign(mask=[full, *table["mask"][1:]])
    loce = make_loce(memory=tmp_path)
    _, averages = make_union(loce, background="subtract")
    with pytest.raises(FailedRowsError, match="may cover the whole image"):
        loce.precompute(broken, beside=[averages])
    for part in (loce, averages):
        part.fit(broken).transform(broken[1:])
    assert n_passes(loce) == 6


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_plain_grid_search_computes_each_layer_once(on_disk, table, tmp_path):
    loce = make_loce(memory=tmp_path if on_disk else None)
    search(loce, table, refit=False)
    # In fit, only the first training image passes.
    assert n_passes(loce) == 6 * len(LAYERS)


def test_precompute_needs_a_store_and_known_layers(table):
    with pytest.raises(ValueError, match=r"no store to fill with memory=False"):
        make_loce(memory=False).precompute(table, LAYERS)
    with pytest.raises(ValueError, match=r"has no layer 'body\.9'"):
        make_loce(memory=False).precompute(table, ["body.9"])


# Nothing stale.


def change_weight(loce, table):
    loce.model.module.body[0].weight.data[0, 0, 0, 0] += 0.5


def change_attribute(loce, table):
    loce.model.module.body[0].padding = (0, 0)


def change_pixel(loce, table):
    table["image"].iloc[0][3, 4, 1] ^= 128  # in place, in all rows of the image


def change_mask(loce, table):
    table["mask"].iloc[0][:12, :12] ^= True


def change(**how):
    def apply(loce, table):
        loce.set_params(**how)

    return apply


def brighter(image, masks):
    return image.float() / 128, masks


# These settings matter for the paper's objective, and not for the default.
STEPPED = {"learning_rate", "max_iter"}
CHANGES = {
    "weight": change_weight,
    "attribute": change_attribute,
    "pixel": change_pixel,
    "mask": change_mask,
    "learning_rate": change(learning_rate=0.2),
    "max_iter": change(max_iter=6),
    "objective": change(objective="mse"),
    "alpha": change(alpha=1e-3),
    "tol": change(tol=1e-3),
    "class_weight": change(class_weight="balanced"),
    "init": change(init="ones"),
    "random start": change(init="normal", random_state=0),
    "mask_size": change(mask_size=(100, 99)),
    "mask_resize": change(mask_resize="area"),
    "layer": change(layer="body.0"),
    "preprocess": change(preprocess=v2.ToDtype(torch.float32)),
    "preprocess function": change(preprocess=brighter),
    "reshape": change(reshape_transform=torch.Tensor.abs),
}


@pytest.mark.parametrize("kind", ["shared", "disk"])
@pytest.mark.parametrize("what", CHANGES)
def test_changed_settings_are_computed_again(what, kind, table, tmp_path):
    loce = make_loce(memory=None if kind == "shared" else tmp_path)
    if what in STEPPED:
        loce.set_params(objective="net2vec")
    before = loce.fit_transform(table)
    CHANGES[what](loce, table)
    after = loce.fit_transform(table)
    fresh = clone(loce).set_params(memory=False).fit_transform(table)
    np.testing.assert_array_equal(after, fresh)
    assert before.shape != after.shape or not np.array_equal(before, after)


def test_a_rewritten_image_file_is_read_again(table, tmp_path):
    (tmp_path / "images").mkdir()
    files = write_images(table, tmp_path / "images")
    loce = make_loce(memory=tmp_path / "store")
    before = loce.fit_transform(files)
    write_images(draw_table(6, seed=1), tmp_path / "images")
    after = loce.fit_transform(files)
    np.testing.assert_array_equal(after, computed(files))
    assert not np.array_equal(after, before)


def test_random_transforms_are_stored_by_their_seed(table, tmp_path):
    crop = v2.RandomHorizontalFlip()
    known = make_loce(memory=tmp_path, preprocess=crop, random_state=0)
    first = known.fit_transform(table)
    np.testing.assert_array_equal(known.fit_transform(table), first)
    assert n_passes(known) == 6
    other = clone(known).set_params(random_state=1).fit_transform(table)
    fresh = computed(table, preprocess=crop, random_state=1)
    np.testing.assert_array_equal(other, fresh)
    n_rows = RowStore(tmp_path).info()["n_rows"]
    unseeded = clone(known).set_params(random_state=None)
    draws = [unseeded.fit_transform(table) for _ in range(5)]
    assert any(not np.array_equal(draw, draws[0]) for draw in draws)
    assert RowStore(tmp_path).info()["n_rows"] == n_rows  # what can't be found again is not kept
    with pytest.raises(ValueError, match="found again with random_state=None"):
        unseeded.precompute(table, "body.0")


SETTINGS = st.fixed_dictionaries(
    {
        "objective": st.sampled_from(["net2vec", "mse"]),
        "learning_rate": st.sampled_from([0.1, 0.2]),
        "max_iter": st.integers(1, 2),
        "init": st.sampled_from(["zeros", "ones", "normal"]),
        "mask_size": st.sampled_from([(10, 10), (10, 11)]),
        "mask_resize": st.sampled_from(["gaussian", "area"]),
        "layer": st.sampled_from(["body.0", "body.2"]),
        "preprocess": st.sampled_from([None, v2.ToDtype(torch.float32)]),
    }
)
TINY = draw_table(1, n_concepts=1)


MODULE = TorchModel(build_counting())


@pytest.mark.slow
@given(SETTINGS, SETTINGS)
@settings(max_examples=40)
def test_different_settings_do_not_share_rows(tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("store")
    for how in (first, second):
        make_loce(model=MODULE, memory=folder, random_state=0, **how).fit_transform(TINY)
    assert RowStore(folder).info()["n_rows"] == (1 if first == second else 2)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_selection_of_rows_gives_the_same_vectors(tmp_path, chosen):
    table = draw_table(4)
    expected = make_loce(memory=tmp_path).fit_transform(table)
    loce = make_loce(memory=False).fit(table)
    np.testing.assert_array_equal(loce.transform(table.iloc[chosen]), expected[chosen])
    stored = make_loce(memory=tmp_path).fit(table)
    np.testing.assert_array_equal(stored.transform(table.iloc[chosen]), expected[chosen])


# Rows that fail.


def break_rows(table, folder):
    """Make a missing file, a truncated one, and a mask of another size of images 1, 3 and 4."""
    files = write_images(table, folder)
    Path(folder, "1.png").unlink()
    content = Path(folder, "3.png").read_bytes()
    Path(folder, "3.png").write_bytes(content[: len(content) // 2])
    files["mask"] = [
        np.ones((3, 3), bool) if i == 8 else mask for i, mask in enumerate(files["mask"])
    ]
    return files


def test_failed_rows_do_not_affect_others(table, tmp_path):
    (tmp_path / "images").mkdir()
    broken = break_rows(table, tmp_path / "images").set_index(np.arange(12) + 100)
    loce = make_loce(memory=tmp_path / "store")
    bad = [2, 3, 6, 7, 8]
    with pytest.raises(FailedRowsError, match=r"5 of 12 rows failed.*row 2 .*does not exist") as e:
        loce.fit_transform(broken)
    assert e.value.failures["position"].tolist() == bad
    assert e.value.failures.index.tolist() == [102, 103, 106, 107, 108]
    assert e.value.failures["cause"].str.contains("exist|read|3 x 3").all()
    good = np.setdiff1d(np.arange(12), bad)
    expected = computed(table)
    np.testing.assert_array_equal(e.value.embeddings[good], expected[good])
    assert np.isnan(e.value.embeddings[bad]).all()
    with pytest.warns(UserWarning, match="5 of 12 rows failed"):
        marked = loce.set_params(on_error="nan").fit_transform(broken)
    np.testing.assert_array_equal(marked, e.value.embeddings)
    assert n_passes(loce) == 4
    assert RowStore(tmp_path / "store").info()["n_rows"] == 7


def test_without_a_store_errors_are_raised_before_any_pass(table, tmp_path):
    loce = make_loce(memory=False).fit(table)
    with pytest.raises(FileNotFoundError, match=r"row 2: the image .* does not exist"):
        loce.transform(break_rows(table, tmp_path))
    assert n_passes(loce) == 0


@pytest.mark.parametrize("first_is_broken", [True, False])
def test_evaluate_and_project_mark_failed_rows(first_is_broken, table, tmp_path):
    files = break_rows(table, tmp_path)
    files = files.iloc[2:] if first_is_broken else files
    loce = make_loce(on_error="nan", memory=False)
    loce.fit(files)
    with pytest.warns(UserWarning, match="rows failed"):
        frame = loce.evaluate(files)
    bad = [i for i, k in enumerate(files.index) if k in (2, 3, 6, 7, 8)]
    assert np.flatnonzero(frame["iou"].isna()).tolist() == bad
    assert frame["failed"].iloc[bad].all()
    with pytest.warns(UserWarning, match="rows failed"):
        drawn = loce.project(files)
    assert [i for i, mask in enumerate(drawn) if mask is None] == bad


def test_activations_that_are_not_finite_affect_one_image(table, tmp_path):
    class Overflowing(Counting):
        def forward(self, x):
            return super().forward(x / (x.mean() > 0.01))  # a black image divides by zero

    table = table.assign(
        image=[
            i * 0 if k == 4 else i for i, k in zip(table["image"], table["image_id"], strict=True)
        ]
    )
    loce = make_loce(model=TorchModel(Overflowing().eval()), memory=tmp_path)
    with pytest.raises(FailedRowsError, match=r"row 8: the activations .* NaN") as caught:
        loce.fit_transform(table)
    assert caught.value.failures["position"].tolist() == [8, 9]
    assert RowStore(tmp_path).info()["n_rows"] == 10


def test_empty_masks_are_stored_as_empty(table, tmp_path):
    table["mask"] = [mask & (i != 5) for i, mask in enumerate(table["mask"])]
    loce = make_loce(memory=tmp_path, on_empty="nan")
    vectors = loce.fit_transform(table)
    assert np.flatnonzero(np.isnan(vectors).all(1)).tolist() == [5]
    np.testing.assert_array_equal(loce.fit_transform(table), vectors)
    assert n_passes(loce) == 6
    with pytest.raises(FailedRowsError, match="mask of row 5 has no foreground"):
        loce.set_params(on_empty="raise").fit_transform(table)


class Picky(Counting):
    """Fails on images of one width."""

    def forward(self, x):
        if x.shape[-1] == 40:
            raise RuntimeError("not of that width")
        return super().forward(x)


@pytest.mark.parametrize("place", ["first", "last"])
def test_an_image_that_the_network_refuses_does_not_affect_others(place, table, tmp_path):
    wide = draw_table(1, size=(24, 40))
    parts = [wide, table] if place == "first" else [table, wide]
    mixed = pd.concat(parts, ignore_index=True)
    loce = make_loce(model=TorchModel(Picky().eval()), memory=tmp_path)
    with pytest.raises(FailedRowsError, match=r"row .*not of that width") as caught:
        loce.fit_transform(mixed)
    bad = [0, 1] if place == "first" else [12, 13]
    assert caught.value.failures["position"].tolist() == bad
    np.testing.assert_array_equal(np.delete(caught.value.embeddings, bad, 0), computed(table))


def test_failures_keep_no_activations(monkeypatch):
    alive, plain = [], ActivationExtractor.__call__

    def poisoned(self, images, shown=None):
        grids = plain(self, images, shown)
        for grid in grids.values():
            grid.fill_(np.nan)
            alive.append(weakref.ref(grid))
        return grids

    monkeypatch.setattr(ActivationExtractor, "__call__", poisoned)
    loce = make_loce(memory=False, on_error="nan").fit(draw_table(1))
    with pytest.warns(UserWarning, match="40 of 40 rows failed"):
        loce.transform(draw_table(20))
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 0


def test_each_failed_row_has_its_own_cause(tmp_path, table):
    images = [Image.fromarray(image) for image in table["image"]]
    images[0] = images[0].convert("F")
    content = io.BytesIO()
    images[2].save(content, format="PNG")
    images[2] = Image.open(io.BytesIO(content.getvalue()[:200]))
    broken = table.iloc[:6].assign(image=pd.Series(images[:6], dtype=object))
    with pytest.raises(FailedRowsError) as caught:
        make_loce(memory=tmp_path).fit_transform(broken)
    causes = caught.value.failures.set_index("position")["cause"]
    assert "floating-point" in causes[0]
    assert "truncated" in causes[2]


def test_a_file_that_changes_during_the_run_is_not_stored(table, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    files = write_images(table, tmp_path / "images")
    loce = make_loce(memory=tmp_path / "store").fit(files)
    plain, last = LBFGSObjective.solve, tmp_path / "images" / "5.png"
    original = last.read_bytes()

    def racing(self, *args, **kwargs):
        Image.fromarray(255 - table["image"].iloc[10]).save(last)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(LBFGSObjective, "solve", racing)
    with pytest.raises(FailedRowsError, match="row 10: the image or a mask changed"):
        loce.transform(files)
    monkeypatch.undo()
    last.write_bytes(original)
    np.testing.assert_array_equal(loce.transform(files), computed(files))


# Interrupted.


class Interrupting(Counting):
    """Is interrupted after a number of images."""

    def forward(self, x):
        if self.counter.n == 4:
            self.counter.n = 100
            raise KeyboardInterrupt
        return super().forward(x)


def test_a_call_after_an_interrupt_computes_only_the_rest(tmp_path):
    table = draw_table(6)
    loce = make_loce(model=TorchModel(Interrupting().eval()), memory=tmp_path)
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        loce.fit_transform(table)
    assert torch.get_num_threads() == threads
    assert not any(module._forward_hooks for module in loce.model.module.modules())
    kept = RowStore(tmp_path).info()["n_rows"]
    assert kept >= 2
    found = loce.fit_transform(table)
    assert n_passes(loce) <= 100 + 6 - kept // 2 + 1
    np.testing.assert_array_equal(found, computed(table))


N_IMAGES, BATCH_SIZE, LONG_LAYERS = 100, 5, ["body.0", "body.2"]
N_KILLS, MOST_SOLVED = 20, 4  # batches of one layer, in a run that is to be killed


def long_run(store, log, result, waits=None):
    """Embed 300 rows at two layers, and log the number of optimized rows.

    A run that is to be killed waits for that before it has done all, and sets the event ``waits``.
    """
    torch.set_num_threads(1)
    plain, n_solved = LBFGSObjective.solve, itertools.count()

    def logging(self, activations, *args, **kwargs):
        if waits is not None and next(n_solved) == MOST_SOLVED:
            waits.set()
            threading.Event().wait()
        with open(log, "a") as file:
            file.write(f"{len(activations)}\n")
        return plain(self, activations, *args, **kwargs)

    LBFGSObjective.solve = logging
    loce = make_loce(memory=store, layer=LONG_LAYERS, batch_size=BATCH_SIZE)
    np.save(result, loce.fit_transform(draw_table(N_IMAGES, n_concepts=3)))


def kill_when_rows_are_there(process, store, n_rows, waits):
    """Kill a process with SIGKILL when the store has this number of rows."""
    while process.is_alive() and count_rows(store) < n_rows and not waits.is_set():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def count_rows(store):
    return RowStore(store).info()["n_rows"] if Path(store, "loces.sqlite").exists() else 0


@pytest.mark.slow
def test_killed_runs_lose_at_most_a_batch_each(tmp_path):
    """Twenty times SIGKILL at a random moment of one run of 300 rows at two layers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    store, log, result = tmp_path / "store", tmp_path / "log", tmp_path / "matrix.npy"
    for n_more in np.random.default_rng(0).integers(0, MOST_SOLVED * BATCH_SIZE, N_KILLS):
        waits = context.Event()
        process = context.Process(target=long_run, args=(store, log, result, waits))
        n_rows = count_rows(store) + n_more
        process.start()
        kill_when_rows_are_there(process, store, n_rows, waits)
        if count_rows(store):
            assert len(RowStore(store).verify()) == 0
    process = context.Process(target=long_run, args=(store, log, result))
    process.start()
    process.join()
    assert process.exitcode == 0
    table = draw_table(N_IMAGES, n_concepts=3)
    np.testing.assert_array_equal(np.load(result), computed(table, layer=LONG_LAYERS))
    n_solved = sum(map(int, log.read_text().split()))
    assert n_solved <= 2 * (len(table) + N_KILLS * BATCH_SIZE)


def fill(store, seed):
    table = draw_table(40)
    order = np.random.default_rng(seed).permutation(len(table))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_loce(memory=store, batch_size=4).fit_transform(table.iloc[order])


@pytest.mark.slow
def test_four_processes_fill_one_store_at_once(tmp_path):
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=fill, args=(tmp_path / "store", i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    table = draw_table(40)
    reader = make_loce(memory=tmp_path / "store")
    np.testing.assert_array_equal(reader.fit_transform(table), computed(table))
    assert n_passes(reader) == 0
    assert RowStore(tmp_path / "store").info()["n_rows"] == len(table)


# Damage.


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_a_damaged_store_never_returns_a_wrong_vector(tmp_path):
    table = draw_table(3)
    expected = make_loce(memory=tmp_path).fit_transform(table)
    file = tmp_path / "loces.sqlite"
    sound = file.read_bytes()
    outcomes = []
    for position in np.random.default_rng(0).integers(0, len(sound), 25):
        file.write_bytes(sound)
        flip(file, position)
        loce = make_loce(memory=tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = loce.fit_transform(table)
            except StoreError as error:
                outcomes.append(str(error))
            else:
                np.testing.assert_array_equal(found, expected)
    assert len(outcomes) < 20
    assert all(str(tmp_path) in message for message in outcomes)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits on the size of files")
def test_a_full_disk_does_not_affect_the_result(tmp_path):
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=fill_with_little_space, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = np.load(tmp_path / "matrix.npy")
    np.testing.assert_array_equal(found, computed(draw_table(60)))
    assert len(RowStore(tmp_path / "store").verify()) == 0


def fill_with_little_space(folder):
    """Embed with a limit on the size of files that is enough for the first rows."""
    make_loce(memory=folder / "store").fit_transform(draw_table(1))
    size = Path(folder, "store", "loces.sqlite").stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, resource.RLIM_INFINITY))
    loce = make_loce(memory=folder / "store", batch_size=4)
    with pytest.warns(UserWarning, match="store"):
        found = loce.fit_transform(draw_table(60))
    assert 0 < RowStore(folder / "store").info()["n_rows"] < 120
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    np.save(folder / "matrix.npy", found)


# Memory of the device, and of the machine.


def test_batches_that_do_not_fit_into_memory_are_halved(table, monkeypatch):
    sizes, plain = [], LBFGSObjective.solve

    def cramped(self, activations, *args, **kwargs):
        sizes.append(len(activations))
        if len(activations) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, activations, *args, **kwargs)

    monkeypatch.setattr(LBFGSObjective, "solve", cramped)
    many = pd.concat([table[:2]] * 3)
    with pytest.warns(UserWarning, match="out of memory with 6 rows at once, .* Set batch_size=3"):
        found = make_loce(memory=False).fit_transform(many)
    assert sizes == [6, 3, 3]
    monkeypatch.undo()
    np.testing.assert_array_equal(found, computed(many))


def test_a_row_that_does_not_fit_into_memory_fails(table, monkeypatch):
    def cramped(self, activations, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LBFGSObjective, "solve", cramped)
    with pytest.raises(MemoryError, match="cpu"):
        make_loce(memory=False).fit_transform(table[:1])


@pytest.mark.parametrize("n_images", [10, 40])
def test_memory_does_not_grow_with_the_table(n_images, monkeypatch):
    alive, most, plain = [], [0], ActivationExtractor.__call__

    def counting(self, images, shown=None):
        activations = plain(self, images, shown)
        alive[:] = [ref for ref in alive if ref() is not None]
        alive.extend(weakref.ref(grid) for grid in activations.values())
        most[0] = max(most[0], len(alive))
        return activations

    monkeypatch.setattr(ActivationExtractor, "__call__", counting)
    make_loce(memory=False).fit_transform(draw_table(n_images))
    assert most[0] <= 2 * torch.get_num_threads()


def test_masks_of_an_image_are_decoded_one_by_one():
    rng, rows = np.random.default_rng(0), []
    image = rng.integers(0, 255, (400, 600, 3), dtype=np.uint8)
    for _ in range(200):
        mask = np.zeros((400, 600), dtype=np.uint8, order="F")
        top, left = rng.integers(0, 300, 2)
        mask[top : top + 80, left : left + 90] = 1
        rows.append((image, coco_mask.encode(mask)))
    table = pd.DataFrame(rows, columns=["image", "mask"])
    loce = make_loce(memory=False, objective="net2vec").fit(table)
    loce.transform(table[:2])
    tracemalloc.start()
    try:
        loce.transform(table)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50 * mask.size  # all masks at once are 200 times that


@pytest.mark.slow
def test_a_lock_of_another_program_causes_one_wait_and_a_warning_per_call(table, tmp_path):
    """Six images are saved one by one; every save would wait."""
    make_loce(memory=tmp_path, layer="body.0").fit_transform(table[:2])
    other = sqlite3.connect(tmp_path / "loces.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    loce, expected = make_loce(memory=tmp_path).fit(table), computed(table)
    for timeout in (4.0, 0.1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(database, "TIMEOUT", timeout)  # for a user it is 30 s
            start = time.monotonic()
            with pytest.warns(UserWarning, match="can't be written") as caught:
                found = loce.transform(table)
        assert time.monotonic() - start < 4 * 4  # a wait for each image would take 24 s
        assert [Path(w.filename) for w in caught] == [Path(__file__)]
        np.testing.assert_array_equal(found, expected)
    other.close()
    np.testing.assert_array_equal(loce.transform(table), expected)
    assert RowStore(tmp_path).info()["n_rows"] == 2 + len(table)
