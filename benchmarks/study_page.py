"""The tables of the study as Markdown, put where its page marks their places."""

import re
from pathlib import Path

import numpy as np

from benchmarks.page import write_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "study.md"
RECOMMENDED, PAPER, MASKED_MEAN = "logistic", "paper", "masked mean"
_DIGITS = {"clusters": 0, "ms per row": 1}


def fill_page(page, results):
    """Put the tables of all parts that were measured into a page.

    Raises
    ------
    ValueError
        If the page has no place for a table.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in make_tables(results).items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"{page} has no place {begin} ... {end} for its table.")
        text = place.sub(lambda _, new=f"{begin}\n{table}\n{end}": new, text)
    page.write_text(text, encoding="utf-8")


def make_tables(results):
    """Write the tables of the parts that were measured, by name."""
    tables = {}
    if "quality" in results:
        quality = results["quality"]
        tables["bars"] = _bars(quality)
        for kind in ("quality", "concepts"):
            tables[kind] = _by_layer(quality, kind)
        tables["stability"] = _stability(quality)
    if "cost" in results:
        tables["cost"] = _wide(results["cost"])
    if "convergence" in results:
        layers = results["convergence"]["layers"]
        tables["convergence"] = _distances(layers)
        counts = {layer: found["unconverged"] for layer, found in layers.items()}
        tables["unconverged"] = _wide(counts, digits=0)
    for name, found in results.get("scenes", {}).items():
        tables[f"scenes, {name}"] = _scenes(found)
    if "small" in results:
        tables["small"] = _small(results["small"]["ways"])
    if "masks" in results:
        tables["masks"] = _masks(results["masks"])
    return tables


def _write(head, names, rows, digits=3):
    columns = [{"name": name, "digits": 0} for name in head]
    columns += [{"name": name, "digits": _DIGITS.get(name, digits)} for name in names]
    return write_table(columns, rows)


def _bars(quality):
    """Compare the recommended setting with what it has to reach at every layer."""
    names = ["IoU", "paper's + 0.15", "P@10", "best baseline's - 0.01", "silhouette", "paper's"]
    rows = []
    for layer, ours in quality[RECOMMENDED].items():
        paper, mean = (quality[name][layer]["quality"] for name in (PAPER, MASKED_MEAN))
        bars = {
            "IoU": paper["IoU"] + 0.15,
            "P@10": max(paper["P@10"], mean["P@10"]) - 0.01,
            "silhouette": paper["silhouette"],
        }
        pairs = [[ours["quality"][name], bar] for name, bar in bars.items()]
        rows.append([f"`{layer}`", *np.ravel(pairs).tolist()])
    return _write(["layer"], names, rows)


def _by_layer(quality, kind):
    """Write what was measured of all settings, those of one layer together."""
    layers, names = list(quality[PAPER]), list(quality[PAPER][next(iter(quality[PAPER]))][kind])
    rows = []
    for layer in layers:
        for setting, found in quality.items():
            values = found[layer][kind]
            if values:
                rows.append([f"`{layer}`", setting, *map(values.get, names)])
    return _write(["layer", "setting"], names, rows)


def _stability(quality):
    """Write the median and the lowest tenth of the cosine by disturbance."""
    layers = list(quality[PAPER])
    names = list(quality[PAPER][layers[0]]["stability"])
    rows = []
    for layer in layers:
        for setting, found in quality.items():
            cosines = [found[layer]["stability"].get(name) for name in names]
            rows.append([f"`{layer}`", setting, *map(_write_cosine, cosines)])
    return _write(["layer", "setting"], names, rows)


def _write_cosine(found):
    if found is None:
        return "-"
    median, tenth, n_lost = found
    return f"{median:.3f}, {tenth:.3f}" + (f" ({n_lost} lost)" if n_lost else "")


def _wide(found, digits=3):
    """Write a row for each layer, a column for each of its values."""
    names = list(next(iter(found.values())))
    rows = [[f"`{layer}`", *map(values.get, names)] for layer, values in found.items()]
    return _write(["layer"], names, rows, digits)


def _distances(layers):
    """Write the median and the largest distance from the optimum, in percent, by tolerance."""
    percents = {
        layer: {
            f"`tol={tol}`, {name}": 100 * value
            for tol, spread in found["distance"].items()
            for name, value in zip(("median", "worst"), spread, strict=True)
        }
        for layer, found in layers.items()
    }
    return _wide(percents)


def _scenes(found):
    names = list(next(iter(found.values())))
    rows = [
        [setting, *map(values.get, names), float(np.mean(list(values.values())))]
        for setting, values in found.items()
    ]
    return _write(["setting"], [*names, "mean"], rows)


def _small(ways):
    names = list(dict.fromkeys(name for way in ways for name in way["quality"]))
    rows = []
    for way in ways:
        setting = PAPER if way["objective"] == "net2vec" else way["objective"]
        values = map(way["quality"].get, names)
        rows.append([setting, _join(way["layers"]), way["shown"], *values])
    return _write(["setting", "layer", "the network sees"], names, rows)


def _masks(found):
    names = list(found[0]["quality"])
    rows = [
        [_join(one["layers"]), "{} x {}".format(*one["mask_size"]), *one["quality"].values()]
        for one in found
    ]
    return _write(["layer", "masks"], names, rows)


def _join(layers):
    return " + ".join(f"`{layer}`" for layer in layers)
