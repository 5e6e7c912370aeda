"""The tables of the study as Markdown, for its page."""

import json
from pathlib import Path

import numpy as np

from benchmarks.page import write_table

RESULTS = Path(__file__).with_name("study.json")
RECOMMENDED, PAPER, MASKED_MEAN = "logistic", "paper", "masked mean"
_DIGITS = {"clusters": 0, "ms per row": 1}


def load_results(path=RESULTS):
    """Load the numbers of the study."""
    return json.loads(path.read_text(encoding="utf-8"))


def fold_table(results, name, title="Table"):
    """Write a table that opens at a click, for a cell of the page."""
    from IPython.display import Markdown

    table = make_tables(results)[name]
    n_columns = table.partition("\n")[0].count("|") - 1
    kind = "loce-table loce-upright" if n_columns >= 10 else "loce-table"
    return Markdown(f":::{{dropdown}} {title}\n:class-container: {kind}\n\n{table}\n:::")


def make_tables(results):
    """Write the tables of the parts that were measured, by name."""
    tables = {}
    if "quality" in results:
        quality = results["quality"]
        tables["compared"] = _compared(quality)
        for kind in ("quality", "concepts"):
            tables[kind] = _by_layer(quality, kind)
    for name in ("stability", "changes"):
        if name in results:
            tables[name] = _stability(results[name])
    if "cost" in results:
        tables["cost"] = _wide(results["cost"])
    if "evaluation" in results:
        tables["evaluation"] = _parts(results["evaluation"])
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
    if "scores" in results:
        tables |= _scores(results["scores"])
    if "choice" in results:
        tables |= _choice(results["choice"])
    if "parts" in results:
        tables["parts"] = _parts(results["parts"]["layers"])
    return tables


def _write(head, names, rows, digits=3):
    columns = [{"name": name, "digits": 0} for name in head]
    columns += [{"name": name, "digits": _DIGITS.get(name, digits)} for name in names]
    return write_table(columns, rows)


def _compared(quality):
    """Compare the default with the paper's setting and the masked mean at every layer."""
    measures, names = ("IoU", "P@10", "silhouette"), (RECOMMENDED, PAPER, MASKED_MEAN)
    rows = [
        [_shorten(layer), *(quality[n][layer]["quality"][m] for m in measures for n in names)]
        for layer in quality[RECOMMENDED]
    ]
    return _write(["layer"], [f"{m}, {n}" for m in measures for n in names], rows)


def _by_layer(quality, kind):
    """Write what was measured of all settings, those of one layer together."""
    layers, names = list(quality[PAPER]), list(quality[PAPER][next(iter(quality[PAPER]))][kind])
    rows = [
        [_shorten(layer), setting, *map(found[layer][kind].get, names)]
        for layer in layers
        for setting, found in quality.items()
        if layer in found
    ]
    return _write(["layer", "setting"], names, rows)


def _stability(found):
    """Write the median and the lowest tenth of the cosine by disturbance."""
    layers = list(found[PAPER])
    names = list(found[PAPER][layers[0]])
    rows = [
        [f"`{layer}`", setting, *(_write_cosine(cosines[layer].get(name)) for name in names)]
        for layer in layers
        for setting, cosines in found.items()
    ]
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


def _scores(found):
    """Write the scores of all places, their rank correlations, and what they tell of random."""
    names = list(found["places"][0]["values"])
    places = [
        [p["network"], _shorten(p["layer"]), p["setting"], *p["values"].values()]
        for p in found["places"]
    ]
    ranks = [[of, *map(_write_interval, s.values())] for of, s in found["correlation"].items()]
    above = [
        [_shorten(layer), network, *map(_write_interval, values.values())]
        for layer, networks in found["default above"].items()
        for network, values in networks.items()
    ]
    picks = [
        [
            *(p["setting"], p["among"]),
            *(f"{_shorten(layer)}, {precision:.3f}" for layer, precision in p["picks"].values()),
            p["best"],
        ]
        for p in found["picks"]
    ]
    compared = list(next(iter(next(iter(found["default above"].values())).values())))
    return {
        "scores": _write(["network", "layer", "setting"], names, places),
        "correlation": _write(["over"], list(next(iter(found["correlation"].values()))), ranks),
        "default above": _write(["layer", "above"], compared, above),
        "picks": _write(["setting", "among", *found["picks"][0]["picks"]], ["best P@10"], picks),
    }


def _choice(found):
    """Write the candidates with and without an average, and those that were chosen."""
    halves = ("chosen", "told")
    rows = [
        [
            *_name_candidate(one["setting"]),
            *(one[half][measure] for measure in ("IoU", "P@10") for half in halves),
            *map(_write_interval, one["above single"].values()),
        ]
        for one in found["candidates"]
        if one["setting"][-1] in (0, 0.5)
    ]
    chosen = [
        [
            half,
            *_name_candidate(one["setting"]),
            *map(_write_interval, one["above single"].values()),
        ]
        for half, one in zip(("earlier", "later"), found["chosen"], strict=True)
    ]
    head, above = ["layer", "alpha", "beside it"], ["IoU, above single", "P@10, above single"]
    measures = [
        f"{measure}, {half}" for measure in ("IoU", "P@10") for half in ("earlier", "later")
    ]
    return {
        "candidates": _write(head, [*measures, *above], rows),
        "chosen": _write(["chosen on", *head], above, chosen),
    }


def _parts(layers):
    """Write a row for each layer and setting."""
    rows = [
        [_shorten(layer), setting, *values.values()]
        for layer, settings in layers.items()
        for setting, values in settings.items()
    ]
    names = list(next(iter(next(iter(layers.values())).values())))
    return _write(["layer", "setting"], names, rows)


def _name_candidate(setting):
    alpha, layer, average, weight = setting
    beside = "-" if average == "none" else f"{weight:g} average, background {average}"
    return _shorten(layer), f"{alpha:g}", beside


def _shorten(layer):
    """Name joined layers: all of them in words."""
    layers = layer.split("+")
    return _join(layers) if len(layers) < 4 else "all, joined"


def _write_interval(found):
    value, low, high = found
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
