"""A folder of tables and figures, each computed once."""

import json
import os
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path

import pandas as pd


class Results:
    """Tables and figures in a folder; what is there already is not computed again.

    Parameters
    ----------
    folder : str or path
    settings : dict, default=None
        What the tables depend on, of JSON's types; ``None`` computes everything anew.
    bar : tqdm, default=None
        Moves on with each table and figure.

    Raises
    ------
    ValueError
        If the folder holds tables of other settings.
    """

    def __init__(self, folder, settings=None, bar=None):
        self.folder, self.settings, self._bar = Path(folder), settings, bar
        self.folder.mkdir(parents=True, exist_ok=True)
        if settings is not None:
            self._check_settings(self.folder / "settings.json")

    def _check_settings(self, path):
        # A call that failed before its first table, for a wrong layer, is not in the way.
        if not path.exists() or not any(self.folder.glob("*.csv")):
            _write(path, json.dumps(self.settings, indent=1))
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in {*before, *self.settings} if _differ(k, before, self.settings))
        if changed:
            raise ValueError(
                f"{self.folder} holds tables of other settings: {', '.join(changed)} changed. "
                "Choose another folder, or delete this one."
            )

    def table(self, name, compute):
        """Read a table, or compute it and write it as CSV and Markdown.

        Parameters
        ----------
        name : str
        compute : callable
            Gives a DataFrame.

        Returns
        -------
        DataFrame
            As read from the file, so that it is the same in every run.
        """
        path = self.folder / f"{name}.csv"
        with self._step(path) as is_missing:
            if is_missing:
                table = compute()
                _write(path.with_suffix(".md"), write_markdown(table))
                _write(path, table.to_csv(index=False))
        return pd.read_csv(path, keep_default_na=False, na_values=[""])

    def figure(self, name, draw):
        """Draw a figure, unless it is there, and write it as PDF.

        Parameters
        ----------
        name : str
        draw : callable
            Gives a matplotlib Figure.
        """
        import matplotlib.pyplot as plt

        path = self.folder / f"{name}.pdf"
        with self._step(path) as is_missing:
            if is_missing:
                figure, part = draw(), path.with_suffix(".part")
                # Without the date, the same figure is the same file.
                about = {"CreationDate": None}
                figure.savefig(part, format="pdf", bbox_inches="tight", metadata=about)
                plt.close(figure)
                os.replace(part, path)

    @contextmanager
    def _step(self, path):
        """Name a step in the bar, and say whether its file is missing."""
        if self._bar is not None:
            self._bar.set_description(f"{self.folder.name}: {path.stem}")
        yield self.settings is None or not path.exists()
        if self._bar is not None:
            self._bar.update()


def _differ(key, before, now):
    return before.get(key) != now.get(key)


def _write(path, text):
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_markdown(table):
    """Write a DataFrame as a Markdown table, with three digits."""
    numeric = [table[name].dtype.kind in "biuf" for name in table]
    rule = ["---:" if is_number else "---" for is_number in numeric]
    rows = [map(_cell, row) for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [map(str, table), rule, *rows]) + "\n"


def _cell(value):
    if isinstance(value, Real) and not isinstance(value, Integral):
        return "" if value != value else f"{value:.3f}"
    return str(value).replace("|", "\\|")
