"""Sections of a report: tables of numbers with their explanation."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name : str
    digits : int, default=2
        Behind the decimal point.
    better : {"higher", "lower"} or None, default=None
        Of ratios of one run, which way is better: these are what two reports are compared by.
    """

    name: str
    digits: int = 2
    better: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers; the first cell of a row is its name.

    Parameters
    ----------
    title : str
    columns : list of Column
    rows : list of list
    """

    title: str
    columns: list
    rows: list


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Parameters
    ----------
    title : str
    text : str
        What was measured, and how.
    tables : list of Table
    skipped : str or None, default=None
        Why there are no tables.
    """

    title: str
    text: str
    tables: list = field(default_factory=list)
    skipped: str | None = None
