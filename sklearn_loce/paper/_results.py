"""A folder of tables and figures, which are computed once."""

import json
import os
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path

import pandas as pd


class Results:
    """Tables and figures in a folder. Existing files are not computed again.

    Parameters
    ----------
    folder : str or path
    settings : dict, default=None
        Settings that determine the tables, with types of JSON. ``None`` computes everything again.
    bar : tqdm, default=None
        Progress bar over tables and figures.

    Raises
    ------
    ValueError
        If the folder has tables of other settings.
    """

    def __init__(self, folder, settings=None, bar=None):
        self.folder, self.settings, self._bar = Path(folder), settings, bar
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            self._check_settings(self.folder / "settings.json")

    def _check_settings(self, path):
        # Settings without tables do not matter, as after a call with a wrong layer.
        if not path.exists() or not any(self.folder.glob("*.csv")):
            _write(path, json.dumps(self.settings, indent=1))
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in {*before, *self.settings} if _differ(k, before, self.settings))
        if changed:
            raise ValueError(
                f"{self.folder} has tables of other settings: {', '.join(changed)} changed. "
                "Choose another folder, or delete this one."
            )

    def table(self, name, compute):
        """Read a table, or compute it and write it as CSV and Markdown.

        Parameters
        ----------
        name : str
        compute : callable
            Function that returns a DataFrame.

        Returns
        -------
        DataFrame
            The table from the file, which is the same in every run.
        """
        path = self.folder / f"{name}.csv"
        with self._step(path) as is_missing:
            if is_missing:
                table = compute()
                _write(path.with_suffix(".md"), write_markdown(table))
                _write(path, table.to_csv(index=False))
        return pd.read_csv(path, keep_default_na=False, na_values=[""])

    def figure(self, name, draw):
        """Draw a figure unless its file exists, and write it as PDF.

        Parameters
        ----------
        name : str
        draw : callable
            Function that returns a matplotlib Figure.
        """
        import matplotlib.pyplot as plt

        path = self.folder / f"{name}.pdf"
        with self._step(path) as is_missing:
            if is_missing:
                figure, part = draw(), path.with_suffix(".part")
                # Without a date, equal figures have equal files.
                about = {"CreationDate": None}
                figure.savefig(part, format="pdf", bbox_inches="tight", metadata=about)
                plt.close(figure)
                os.replace(part, path)

    @contextmanager
    def _step(self, path):
        """Show a step in the bar, and return whether its file is missing."""
        if self._bar is not None:
            self._bar.set_description(f"{self.folder.name}: {path.stem}")
        yield self.settings is None or not path.exists()
        if self._bar is not None:
            self._bar.update()


def _differ(key, before, now):
    return before.get(key) != now.get(key)


def _write(path, text):
    """Write a file, and leave no partial file after an error."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_markdown(table):
    """Format a DataFrame as a Markdown table with three digits."""
    numeric = [table[name].dtype.kind in "biuf" for name in table]
    rule = ["---:" if is_number else "---" for is_number in numeric]
    rows = [map(_cell, row) for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [map(str, table), rule, *rows]) + "\n"


def _cell(value):
    if isinstance(value, Real) and not isinstance(value, Integral):
        return "" if value != value else f"{value:.3f}"
    return str(value).replace("|", "\\|")
