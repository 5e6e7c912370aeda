"""Measure everything side by side: ``python -m benchmarks``.

Without options it takes about half an hour and 10 GB of memory, and writes
``benchmarks/results.json`` and ``docs/benchmarks.md``. With ``--only`` or ``--compare``, files
are written only where ``--json`` and ``--markdown`` name them. ``--compare`` exits with 1 if a
ratio got worse. Compare reports of one machine: even ratios differ between machines.
"""

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

from benchmarks import end_to_end, floor, gpu, growth, machine, memory, solver
from benchmarks.comparison import compare, different_settings, write_changes
from benchmarks.inputs import Options
from benchmarks.page import render

SECTIONS = {
    "solver": solver.run,
    "floor": floor.run,
    "end_to_end": end_to_end.run,
    "memory": memory.run,
    "growth": growth.run,
    "gpu": gpu.run,
}
ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results.json", ROOT / "docs" / "benchmarks.md"


def _at_least_one(kind):
    def read(text):
        value = kind(text)
        if not value >= 1:
            raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
        return value

    return read


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count, factor = _at_least_one(int), _at_least_one(float)
    for name, default, text in (
        ("--repeats", 5, "runs of which to take medians"),
        ("--samples", 64, "samples of one batch"),
        ("--images", 99, "scenes from end to end"),
    ):
        parser.add_argument(name, type=count, default=default, help=f"{text} ({default})")
    names = ", ".join(SECTIONS)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=names)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--markdown", type=Path, help="where to write the page")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="numbers to compare with")
    tolerance = "factor by which a ratio may get worse (1.2)"
    parser.add_argument("--tolerance", type=factor, default=1.2, help=tolerance)
    return parser.parse_args(arguments)


def measure(options, names):
    """Run sections, and return the report."""
    about = machine.describe(options)
    if machine.is_busy(about):
        warnings.warn(
            f"The load average is {about['load_at_start']:.2f} on {about['cores']} cores: other "
            "work is running, and times will be off.",
            stacklevel=2,
        )
    sections = {}
    for name in names:
        start = time.perf_counter()
        print(f"{name} ...", end=" ", flush=True)
        sections[name] = asdict(SECTIONS[name](options))
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return {"about": {**about, "load_at_end": machine.load()}, "sections": sections}


def read_report(path):
    """Read an earlier report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(report, dict) or not {"about", "sections"} <= set(report):
        raise ValueError(f"{path} is no report of python -m benchmarks.")
    return report


def write_report(report, json_path, markdown_path):
    """Write a report to the given files."""
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if markdown_path is not None:
        markdown_path.write_text(render(report), encoding="utf-8")


def judge(old, new, tolerance):
    """Print the changes of ratios; return the exit status."""
    changes = compare(old, new)
    print("\n" + write_changes(changes, tolerance))
    for difference in different_settings(old, new):
        print(f"Hard to compare: {difference}")
    return int(any(change.exceeds(tolerance) for change in changes))


def main(arguments=None):
    """Measure, write and compare; return the exit status."""
    given = parse(arguments)
    old = None if given.compare is None else read_report(given.compare)
    options = Options(repeats=given.repeats, samples=given.samples, images=given.images)
    report = measure(options, given.only or SECTIONS)
    is_whole = given.only is None and old is None
    default_json, default_page = (RESULTS, PAGE) if is_whole else (None, None)
    write_report(report, given.json or default_json, given.markdown or default_page)
    print("\n" + render(report))
    return 0 if old is None else judge(old, report, given.tolerance)


if __name__ == "__main__":
    sys.exit(main())
