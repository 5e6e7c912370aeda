"""A report as a Markdown page."""

import math
from numbers import Number

from benchmarks.machine import BUSY, is_busy

_HEAD = """\
---
file_format: mystnb
kernelspec:
  name: python3
---

# Benchmarks

How fast is the optimization, how much memory does it need, and how do both grow? Compared with the
plain formulation of the published method, the optimization is faster at every layer of the chart.

```{code-cell} python
:tags: [remove-input]

from benchmarks import charts
from benchmarks.study_page import RESULTS, load_results

charts.draw_solver(load_results(RESULTS.with_name("results.json")))
```

Left: the time of two plain formulations over that of `optimize_loces`. Right: the time of
`optimize_loces` over the floor, the least work of 50 steps in torch calls. The vertical lines mark
equal times. [Solver](#solver) and [Distance to the floor](#distance-to-the-floor) explain both.

`python -m benchmarks` measures all figures of this page in one run and writes the page. The
numbers are in `benchmarks/results.json`. The two sides of each ratio were timed alternately in one
process, and every figure is the median of its runs. Unless stated otherwise, LoCEs are optimized
with the paper's objective, `objective="net2vec"`.

Absolute times are valid for this machine only. Ratios carry over better, but also compare them on
one machine only: `python -m benchmarks --compare benchmarks/results.json` measures again, and
fails if a ratio is worse."""


def render(report):
    """Write a report as Markdown.

    Parameters
    ----------
    report : dict
        The content of the JSON file that ``python -m benchmarks`` writes.

    Returns
    -------
    str
    """
    parts = [_HEAD, _machine(report["about"])]
    parts += [_section(section) for section in report["sections"].values()]
    return "\n\n".join(parts) + "\n"


def _load(value):
    return "unknown" if value is None else f"{value:.2f}"


def _machine(about):
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    load = f"{_load(about['load_at_start'])} at the start, {_load(about['load_at_end'])} at the end"
    facts = {
        "Date": about["date"],
        "Processor": f"{about['processor']}, {about['cores']} cores",
        "Memory": f"{about['memory_gb']:.1f} GB",
        "System": about["system"],
        "Versions": versions,
        "Threads of torch": about["threads"],
        "Load average": load,
        "Runs": f"{about['repeats']}, {about['samples']} samples, {about['images']} images",
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items())]
    if is_busy(about):
        lines += [
            "",
            f"**Other work was running: the load at the start was over {BUSY} per core. Do not "
            "trust the times; ratios suffer less.**",
        ]
    return "\n".join(lines)


def _section(section):
    parts = [f"## {section['title']}", section["text"]]
    if section["skipped"] is not None:
        parts.append(f"Not measured: {section['skipped']}")
    for table in section["tables"]:
        parts += [f"### {table['title']}", write_table(table["columns"], table["rows"])]
    return "\n\n".join(parts)


def write_table(columns, rows):
    """Write a table, with text aligned to the left and numbers to the right.

    Parameters
    ----------
    columns : list of dict
        The ``name`` and ``digits`` of each column.
    rows : list of list
        Text and numbers; None or NaN if a value is missing.

    Returns
    -------
    str
    """
    numeric = [all(isinstance(row[k], Number | None) for row in rows) for k in range(len(columns))]
    head = [column["name"] for column in columns]
    rule = ["---:" if is_number else "---" for is_number in numeric]
    body = [
        [write_cell(cell, column["digits"]) for cell, column in zip(row, columns, strict=True)]
        for row in rows
    ]
    lines = [_line(head), "|" + "|".join(rule) + "|", *map(_line, body)]
    return "\n".join(lines)


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def write_cell(cell, digits):
    """Write text unchanged, and a number with the given digits."""
    if isinstance(cell, str):
        return cell
    if cell is None or math.isnan(cell):
        return "n/a"
    return f"{cell:,.{digits}f}"
