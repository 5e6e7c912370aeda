"""Two reports side by side: the ratios that got better, and worse."""

import math
from dataclasses import dataclass

from benchmarks.page import write_cell


@dataclass(frozen=True)
class Change:
    """A ratio in two reports.

    Parameters
    ----------
    where : tuple of str
        Section, table, row and column.
    better : {"higher", "lower"}
    old, new : float or None
        ``None`` where a report lacks it.
    """

    where: tuple
    better: str
    old: float | None
    new: float | None

    @property
    def worsening(self):
        """The factor by which it got worse; ``None`` if it cannot be compared."""
        if self.old is None or self.new is None:
            return None
        high, low = (self.new, self.old) if self.better == "lower" else (self.old, self.new)
        return high / low if low else math.inf

    def exceeds(self, tolerance):
        """Return whether it got worse by more than a factor; NaN counts as worse."""
        return self.worsening is not None and not self.worsening <= tolerance


def ratios_of(section):
    """Return {(table, row, column): (better direction, ratio)} of a section."""
    return {
        (table["title"], row[0], column["name"]): (column["better"], cell)
        for table in section["tables"]
        for row in table["rows"]
        for cell, column in zip(row, table["columns"], strict=True)
        if column["better"] is not None
    }


def compare(old, new):
    """Compare the ratios of two reports.

    Parameters
    ----------
    old, new : dict
        As ``python -m benchmarks`` writes them to JSON.

    Returns
    -------
    list of Change
        For each ratio of the sections that ``new`` has; a section that it lacks was not asked for.
    """
    changes = []
    for name, section in new["sections"].items():
        after = ratios_of(section)
        before = ratios_of(old["sections"][name]) if name in old["sections"] else {}
        for where in [*after, *(where for where in before if where not in after)]:
            better = (after.get(where) or before[where])[0]
            values = [found.get(where, (None, None))[1] for found in (before, after)]
            changes.append(Change((name, *where), better, *values))
    return changes


def write_changes(changes, tolerance):
    """Write changes as a Markdown table."""
    lines = ["| section | table | row | ratio | old | new | worse by | |", "|---" * 8 + "|"]
    for change in changes:
        numbers = [write_cell(n, 2) for n in (change.old, change.new, change.worsening)]
        verdict = "**worse**" if change.exceeds(tolerance) else ""
        lines.append("| " + " | ".join([*change.where, *numbers, verdict]) + " |")
    return "\n".join(lines)


def different_settings(old, new):
    """List differences that make two reports hard to compare, such as other machines or threads."""
    names = ("processor", "cores", "threads", "samples", "images")
    pairs = ((name, old["about"].get(name), new["about"].get(name)) for name in names)
    return [f"{name}: {a} before, {b} now" for name, a, b in pairs if a != b]
