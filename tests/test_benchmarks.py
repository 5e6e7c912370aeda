"""The benchmarks: reports, comparisons, and a run of every section, without timing."""

import json
import math
import os
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from benchmarks import __main__ as command
from benchmarks import end_to_end, floor, gpu, growth, machine, measure, memory, solver
from benchmarks.comparison import compare, different_settings, write_changes
from benchmarks.inputs import SHAPES, SIZES, Options
from benchmarks.page import render
from benchmarks.plain import plain_loces
from benchmarks.report import Column, Section, Table

TINY = Options(
    repeats=1,
    samples=2,
    images=1,
    shapes={"small": (12, 6, 8), "odd": (5, 3, 4)},
    memory_shape=(8, 6, 8),
    sizes=dict.fromkeys(SIZES, (2, 4)),
    plain_rows=1,
    batch_sizes=(1,),
    layers=("backbone.2", "backbone.3"),
)
ABOUT = {
    "date": "2026-01-02 03:04 UTC",
    "processor": "Abacus",
    "cores": 2,
    "memory_gb": 25.04,
    "system": "Linux",
    "versions": {"python": "3.11.7", "torch": "2.6.0"},
    "threads": 2,
    "repeats": 5,
    "samples": 64,
    "images": 20,
    "load_at_start": 0.1,
    "load_at_end": 1.9,
}


def _section(**ratios):
    """Make a section whose rows have a time and a ratio of each kind, as in a report."""
    columns = [
        Column("layer"),
        Column("ms", 1),
        Column("speed", 2, better="higher"),
        Column("cost", 2, better="lower"),
    ]
    rows = [[name, 1234.56, *pair] for name, pair in ratios.items()]
    return asdict(Section("Planted", "What it is.", [Table("All", columns, rows)]))


def _report(**sections):
    return {"about": ABOUT, "sections": sections}


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Replace the sections, the load average and the output files; return the files."""
    ratios = Table("All", [Column("layer"), Column("speed", better="higher")], [["a", 10.0]])
    sections = {
        "first": lambda options: Section("Planted", "What it is.", [ratios]),
        "second": lambda options: Section("Not here", "Text.", skipped="there is none."),
    }
    monkeypatch.setattr(machine, "load", lambda: 0.0)
    monkeypatch.setattr(command, "SECTIONS", sections)
    files = tmp_path / "results.json", tmp_path / "page.md"
    monkeypatch.setattr(command, "RESULTS", files[0])
    monkeypatch.setattr(command, "PAGE", files[1])
    return files


def test_the_page_in_the_docs_equals_the_output_of_the_command():
    assert command.PAGE.read_text(encoding="utf-8") == render(command.read_report(command.RESULTS))


def test_committed_results_are_complete():
    report = command.read_report(command.RESULTS)
    assert list(report["sections"]) == list(command.SECTIONS)
    for table in ("One image per sample", "11 concepts of one image"):
        tables = {t["title"]: t for t in report["sections"]["solver"]["tables"]}
        assert [row[0] for row in tables[table]["rows"]] == list(SHAPES)


def test_the_page_shows_planted_numbers():
    skipped = asdict(Section("GPU", "What it is.", skipped="there is none."))
    page = render(_report(gpu=skipped, first=_section(a=(10.0, 2.0), b=(None, math.nan))))
    assert "## GPU\n\nWhat it is.\n\nNot measured: there is none.\n" in page
    assert "| Memory | 25.0 GB |" in page
    assert "| Load average | 0.10 at the start, 1.90 at the end |" in page
    assert page.endswith(
        """\
## Planted

What it is.

### All

| layer | ms | speed | cost |
|---|---:|---:|---:|
| a | 1,234.6 | 10.00 | 2.00 |
| b | 1,234.6 | n/a | n/a |
"""
    )


@pytest.mark.parametrize(("load", "warned"), [(0.9, False), (1.1, True), (None, False)])
def test_the_page_warns_of_other_work(load, warned):
    report = {"about": ABOUT | {"load_at_start": load}, "sections": {}}
    assert ("Other work was running" in render(report)) is warned


@pytest.mark.parametrize(
    ("old", "new", "worsening"),
    [
        ((10.0, 2.0), (10.0, 2.0), (1.0, 1.0)),
        ((10.0, 2.0), (5.0, 2.0), (2.0, 1.0)),
        ((10.0, 2.0), (20.0, 3.0), (0.5, 1.5)),
        ((10.0, 2.0), (0.0, 1.0), (math.inf, 0.5)),
    ],
)
def test_worsening_is_a_factor_in_the_worse_direction(old, new, worsening):
    changes = compare(_report(first=_section(a=old)), _report(first=_section(a=new)))
    assert [change.where[2:] for change in changes] == [("a", "speed"), ("a", "cost")]
    assert tuple(change.worsening for change in changes) == worsening


def test_ratios_beyond_the_tolerance_are_marked_as_worse():
    old = _report(first=_section(a=(12.0, 2.0)))
    changes = compare(old, _report(first=_section(a=(10.0, 2.5))))
    assert [change.exceeds(1.2) for change in changes] == [False, True]
    assert compare(old, _report(first=_section(a=(math.nan, 2.0))))[0].exceeds(100)
    lines = write_changes(changes, 1.2).splitlines()
    assert lines[2] == "| first | All | a | speed | 12.00 | 10.00 | 1.20 |  |"
    assert lines[3] == "| first | All | a | cost | 2.00 | 2.50 | 1.25 | **worse** |"


def test_ratios_missing_in_one_report_are_listed_without_a_verdict():
    skipped = asdict(Section("Planted", "What it is.", skipped="there is none."))
    whole = _section(a=(1.0, 1.0))
    old = _report(first=_section(a=(1.0, 1.0), gone=(1.0, 1.0)), other=whole, skipped=whole)
    new = _report(first=whole, added=whole, skipped=skipped)
    changes = {change.where: change for change in compare(old, new)}
    assert changes["first", "All", "gone", "cost"].new is None
    assert changes["added", "All", "a", "cost"].old is None
    assert not any(change.exceeds(1.2) for change in changes.values())
    assert {where[0] for where in changes} == {"first", "added", "skipped"}
    assert "| added | All | a | cost | n/a | 1.00 | n/a |  |" in write_changes(
        changes.values(), 1.2
    )


def test_different_settings_are_listed():
    other = {"about": ABOUT | {"cores": 8, "date": "later"}, "sections": {}}
    assert different_settings(_report(), _report()) == []
    assert different_settings(_report(), other) == ["cores: 2 before, 8 now"]


def test_the_command_writes_both_files(planted, capsys):
    results, page = planted
    assert command.main(["--repeats", "3"]) == 0
    report = json.loads(results.read_text())
    assert list(report["sections"]) == ["first", "second"]
    assert report["about"]["repeats"] == 3
    assert page.read_text() == render(report)
    assert render(report) in capsys.readouterr().out


def test_a_part_is_written_only_to_given_files(planted, tmp_path):
    assert command.main(["--only", "second"]) == 0
    assert list(tmp_path.iterdir()) == []
    elsewhere = tmp_path / "part.json"
    assert command.main(["--only", "second", "--json", str(elsewhere)]) == 0
    assert list(json.loads(elsewhere.read_text())["sections"]) == ["second"]


@pytest.mark.parametrize(
    ("old", "tolerance", "status"), [(10.0, "1.2", 0), (15.0, "1.2", 1), (15.0, "1.5", 0)]
)
def test_a_worse_ratio_sets_the_exit_status(planted, tmp_path, capsys, old, tolerance, status):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(_report(first=_section(a=(old, 2.0)))))
    given = ["--only", "first", "--compare", str(path), "--tolerance", tolerance]
    assert command.main(given) == status
    output = capsys.readouterr().out
    assert ("**worse**" in output) == bool(status)
    assert "Hard to compare: processor: Abacus before" in output
    assert not planted[0].exists()
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"old\.json is no report"):
        command.main(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "solver", "speed"], "invalid choice: 'speed'"),
        (["--repeats", "0"], "must be 1 or more, got 0"),
        (["--tolerance", "nan"], "must be 1 or more, got nan"),
    ],
)
def test_bad_arguments_raise_errors(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.parse(arguments)
    assert message in capsys.readouterr().err


def test_a_busy_machine_causes_a_warning(planted, monkeypatch):
    monkeypatch.setattr(machine, "load", lambda: 0.6 * os.cpu_count())
    with pytest.warns(UserWarning, match="other work is running"):
        report = command.measure(TINY, ["second"])
    assert "Other work was running" in render(report)


def test_functions_run_in_turn():
    calls = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.in_turn(sides, 3, at_most={"b": 1})
    assert "".join(calls) == "abaa"
    assert {name: len(runs) for name, runs in times.items()} == {"a": 3, "b": 1}


def test_the_median_ratio_is_the_median_over_single_runs():
    assert measure.median_ratio([2, 30, 4], [1, 10, 1]) == 3
    assert measure.median_ratio([6], [2, 100, 100]) == 3


def test_the_slope_equals_the_exponent():
    sizes = np.array([1, 2, 4, 8])
    assert measure.slope(sizes, 5 * sizes**1.5) == pytest.approx(1.5)


@pytest.mark.skipif(not measure.has_memory_counters(), reason="needs Linux")
def test_memory_growth_is_measured_at_the_peak():
    grown = measure.memory_growth(lambda: np.ones(2**23).sum())
    assert 60 < grown < 80  # 64 MB, which are free again at the end


def test_plain_forms_compute_the_same_function():
    activations, masks = torch.rand(2, 7, 5, 6).double(), (torch.rand(2, 20, 30) > 0.5).double()
    product, matmul = (
        plain_loces(activations, masks, max_iter=3, form=form) for form in ("product", "matmul")
    )
    torch.testing.assert_close(product, matmul)


def test_the_floor_projects_and_computes_gradients():
    activations = torch.rand(3, 7, 5, 6)
    weights = torch.full((3, 7), 1e-3, requires_grad=True)
    grid = torch.einsum("nc,nchw->nhw", weights, activations)[:, None]
    full = functional.interpolate(grid, size=(100, 100), mode="bilinear")
    functional.softplus(full).sum().backward()  # whose slope is the sigmoid
    gradient = floor.allocate_floor(activations)()[:, :, 0]
    torch.testing.assert_close(gradient, weights.grad, rtol=1e-4, atol=1e-3)


def test_all_variants_of_the_floor_compute_the_same_gradient(monkeypatch):
    done = []
    monkeypatch.setattr(floor, "allocate_floor", lambda part: partial(done.append, part))
    activations = torch.arange(10.0)[:, None, None, None]
    with measure.threads(2):
        ways = floor.ways_to_run(activations)
        assert list(ways) == ["1", "1 per thread", "8", "8 per thread", "10"]
        for run in ways.values():
            done.clear()
            run()
            assert sorted(torch.cat(done).flatten().tolist()) == list(range(10))
        assert torch.get_num_threads() == 2


def test_the_roofline_equals_a_count_by_hand():
    # 1 x 2 x 3: 24 operations on activations, 8 x (2 x 100 + 100 x 100) on maps, and the sigmoid.
    count = 50 * (24 + 8 * 10_200 + 100_000)
    assert gpu.operations((1, 2, 3)) == count
    assert gpu.roofline((1, 2, 3), 1e30, 1e6) == pytest.approx(1e6 / count)
    assert gpu.roofline((1, 2, 3), 48, 1e30) == pytest.approx(2)


def _check(section, titles):
    """Check that the tables are rectangular, finite and can be written."""
    assert section.skipped is None
    assert [table.title for table in section.tables] == titles
    for table in section.tables:
        assert table.rows
        for row in table.rows:
            assert len(row) == len(table.columns)
            assert all(isinstance(cell, str) or math.isfinite(cell) for cell in row)
        assert len({row[0] for row in table.rows}) == len(table.rows)
    as_json = json.loads(json.dumps(asdict(section), allow_nan=False))
    assert render(_report(any=as_json)) == render(_report(any=asdict(section)))


@pytest.mark.slow
def test_the_solver_section_runs():
    section = solver.run(TINY)
    _check(section, ["One image per sample", "11 concepts of one image"])
    assert [row[:2] for row in section.tables[0].rows] == [
        ["small", "(12, 6, 8)"],
        ["odd", "(5, 3, 4)"],
    ]
    assert all(row[-1] >= 0.9999 for row in section.tables[0].rows)


def test_the_floor_section_runs():
    section = floor.run(TINY)
    _check(section, ["Per layer"])
    assert all(row[3] in ("1", "1 per thread", "2") for row in section.tables[0].rows)


@pytest.fixture
def in_this_process(monkeypatch):
    """Run the function in this process, because a new one would load torch again."""
    for module in (memory, growth):
        monkeypatch.setattr(module, "in_own_process", lambda function, *a: function(*a))


@pytest.mark.skipif(not measure.has_memory_counters(), reason="needs Linux")
def test_the_memory_section_runs(in_this_process):
    _check(memory.run(TINY), ["Peak over the inputs"])


@pytest.mark.skipif(not measure.has_memory_counters(), reason="needs Linux")
def test_the_growth_section_runs(in_this_process):
    section = growth.run(TINY)
    _check(section, ["Time", "Peak memory"])
    assert [row[0] for row in section.tables[0].rows] == list(SIZES)


@pytest.mark.slow
def test_the_end_to_end_section_runs(camvid, camvid_network):
    section = end_to_end.run(TINY)
    _check(section, ["Ratios", "Times", "Bare forward, ms/image"])
    ratios = section.tables[0].rows[0]
    seconds = {row[0]: row[1] for row in section.tables[1].rows}
    assert ratios[2] == pytest.approx(seconds["transform"] / seconds["forward + decoding"])
    assert ratios[3] == pytest.approx(seconds["transform"] / seconds["fastest bare forward"])
    bare = [1e-3 * time for row in section.tables[2].rows for time in row[1:]]
    assert seconds["fastest bare forward"] == pytest.approx(min(bare))


class Counting(nn.Module):
    """Count the images that pass, also in replicas."""

    passed = 0

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        Counting.passed += len(x)
        return self.convolution(x)


def test_every_variant_passes_all_images_with_the_same_weights():
    images, network = [torch.rand(1, 3, 8, 8) for _ in range(5)], Counting()
    subject = SimpleNamespace(network=network, images=images, options=Options(batch_sizes=(1, 4)))
    with measure.threads(2):
        ways = end_to_end.bare_ways(subject)
        assert len(ways) == 2 * 3
        for way in ways.values():
            Counting.passed = 0
            way()
            assert Counting.passed == 5
        assert torch.get_num_threads() == 2
    replica = end_to_end.share_weights(network)
    assert replica is not network
    assert replica.convolution.weight is network.convolution.weight


def test_the_end_to_end_section_needs_the_scenes(tmp_path):
    section = end_to_end.run(Options(camvid=tmp_path / "camvid", weights=tmp_path / "network"))
    assert section.skipped == "it needs camvid and network, which are missing."
    assert section.tables == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_section_runs():
    _check(gpu.run(TINY), ["Per layer"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_the_gpu_section_is_skipped_without_a_gpu():
    assert gpu.run(TINY).skipped == "torch finds no CUDA device."
