"""The charts of the study and the benchmarks, drawn when their pages are built."""

from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from benchmarks.study_page import MASKED_MEAN, PAPER, RECOMMENDED

WIDTH = 5.8  # inches, the width of the page's text
SMOOTH = "logistic, 1e-3"  # the default objective with a larger alpha
MAIN = (PAPER, MASKED_MEAN, RECOMMENDED, SMOOTH)
BLUE, ORANGE, GRAY, PURPLE, GREEN = "#1f5c7a", "#d66a00", "#8a8a8a", "#8e5ea2", "#2f9e6e"
STYLES = {
    PAPER: (ORANGE, "s"),
    MASKED_MEAN: (GRAY, "D"),
    RECOMMENDED: (BLUE, "o"),
    SMOOTH: ("#56b4e9", "^"),
}
_FAMILIES = {"paper": ORANGE, "masked mean": GRAY, "logistic": BLUE, "jaccard": PURPLE}
_VARIANTS = {
    "": "o",
    "3e-4": "v",
    "1e-3": "^",
    "balanced": "P",
    "unweighted": "X",
    "standardized": "s",
    "less background": "D",
    "both": "*",
}


def draw_main(quality):
    """Draw IoU against precision of the main settings; a line joins the single layers."""
    _, ax = plt.subplots(figsize=(WIDTH, 4.6), layout="constrained")
    for setting in MAIN:
        color, marker = STYLES[setting]
        found = [values["quality"] for values in quality[setting].values()]
        x, y = ([values[name] for values in found] for name in ("IoU", "P@10"))
        ax.plot(x[:-1], y[:-1], marker=marker, color=color, label=setting)
        ax.plot(x[-1], y[-1], marker="*", markersize=15, color=color)
        for at, layer in zip(zip(x, y, strict=True), quality[setting], strict=True):
            shift = (8, -4) if "+" in layer else (5, 5)
            ax.annotate(_abbreviate(layer), at, shift, textcoords="offset points", fontsize=8)
    star = Line2D([], [], marker="*", ls="", markersize=12, color="0.3", label="all layers, joined")
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], star], loc="lower right", frameon=False)
    ax.set(xlabel="IoU of projection and mask, best bias", ylabel="precision at 10")
    _clean(ax)


def draw_settings(quality):
    """Draw IoU against precision of all settings, a panel per layer."""
    figure, axes = _grid(3, 2, 8)
    for ax, layer in zip(axes.flat, quality[PAPER], strict=False):
        ax.set_title(_name(layer))
        for setting, found in quality.items():
            if layer in found:
                color, marker = _style(setting)
                values = found[layer]["quality"]
                ax.plot(values["IoU"], values["P@10"], marker, color=color, alpha=0.8)
        ax.grid(linewidth=0.4)
    _add_legend(figure, {setting: _style(setting) for setting in quality}, n_cols=2)
    axes.flat[-1].remove()
    figure.supxlabel("IoU, best bias", fontsize="medium")
    figure.supylabel("precision at 10", fontsize="medium")


def draw_scores(places):
    """Draw two scores against precision, a point per network, setting and layer."""
    networks = list(dict.fromkeys(place["network"] for place in places))
    colors = dict(zip(networks, (BLUE, ORANGE, "#e8b04a"), strict=False))
    markers = {setting: STYLES[setting][1] for setting in (PAPER, RECOMMENDED, SMOOTH)}
    figure, axes = _grid(1, 2, 3.6, sharex=False)
    for ax, name in zip(axes, ("held-out IoU", "IoU, best"), strict=True):
        for place in places:
            at = place["values"][name], place["values"]["P@10"]
            marker = markers.get(place["setting"], "o")
            ax.plot(*at, marker, color=colors[place["network"]], alpha=0.8)
        ax.set_xlabel(name)
    axes[0].set_ylabel("precision at 10")
    styles = {network: (color, "o") for network, color in colors.items()}
    styles |= {setting: ("0.3", marker) for setting, marker in markers.items()}
    _add_legend(figure, styles)


def draw_correlation(correlation):
    """Draw the rank correlation of each score with precision."""
    panels = {over: {"": found} for over, found in correlation.items()}
    draw_points(panels, {"": (BLUE, "o")}, "rank correlation with precision at 10", zero=True)


def draw_margins(above):
    """Draw the margin of the default over the paper's setting and random weights."""
    others = {"paper": STYLES[PAPER], "random 0": (GRAY, "o"), "random 1": ("0.3", "o")}
    measures = list(next(iter(above.values()))["paper"])
    panels = {
        measure: {
            other: {_name(k): found[other][measure] for k, found in above.items() if other in found}
            for other in others
        }
        for measure in measures
    }
    draw_points(panels, others, "margin of the default", zero=True)


def draw_candidates(choice):
    """Draw the candidates on the half that chose nothing: by number of layers and alpha."""
    colors = dict(zip((1, 2, 3, 4), (GRAY, "#56b4e9", BLUE, GREEN), strict=True))
    markers = {3e-5: "v", 1e-4: "o", 1e-3: "^", 3e-3: "s"}
    chosen = choice["chosen"][0]["setting"]
    _, ax = plt.subplots(figsize=(WIDTH, 4), layout="constrained")
    for one in choice["candidates"]:
        alpha, layer, average, _ = one["setting"]
        if average == "none":
            at = one["told"]["IoU"], one["told"]["P@10"]
            ax.plot(*at, markers[alpha], color=colors[layer.count("+") + 1])
        if one["setting"] == chosen:
            ax.plot(*at, "o", markersize=15, markerfacecolor="none", color=ORANGE)
    numbers = ("1 layer", "2 layers", "3 layers", "4 layers")
    styles = {name: (color, "o") for name, color in zip(numbers, colors.values(), strict=True)}
    styles |= {f"alpha={alpha:g}": ("0.3", marker) for alpha, marker in markers.items()}
    handles = _handles(styles)
    handles.append(
        Line2D([], [], ls="", marker="o", ms=13, mfc="none", color=ORANGE, label="chosen")
    )
    ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    ax.set(xlabel="IoU, later half", ylabel="precision at 10, later half")
    _clean(ax)


def draw_concepts(quality):
    """Draw the IoU of each concept at the last layer and at all layers joined."""
    layers = list(quality[PAPER])[-2:]
    best = quality[RECOMMENDED][layers[-1]]["concepts"]
    order = sorted(best, key=best.get, reverse=True)
    settings = MAIN[:3]
    panels = {
        _name(layer): {
            setting: {name: quality[setting][layer]["concepts"][name] for name in order}
            for setting in settings
        }
        for layer in layers
    }
    draw_points(panels, {setting: STYLES[setting] for setting in settings}, "IoU, best bias")


def draw_stability(*parts):
    """Draw the median cosine of each change, and a line down to the tenth percentile."""
    names = [(part, name) for part in parts for name in next(iter(part[PAPER].values()))]
    panels = {
        name: {
            setting: {
                _name(layer): (found[name][0], found[name][1], found[name][0])
                for layer, found in part[setting].items()
                if found.get(name) is not None
            }
            for setting in MAIN
        }
        for part, name in names
    }
    styles = {setting: STYLES[setting] for setting in MAIN}
    draw_points(panels, styles, "cosine before and after the change", n_cols=3)


def draw_parts(layers):
    """Draw how well sub-concepts are found, by clustering, layer and setting."""
    settings = list(next(iter(layers.values())))
    styles = {name: STYLES.get(name) or (_style(name)[0], "s") for name in settings}
    styles["logistic, 0.5 average beside it"] = (GREEN, "P")
    panels = {
        way: {
            setting: {
                _name(layer): found[setting][f"mean, {way}"] for layer, found in layers.items()
            }
            for setting in settings
        }
        for way in ("Ward", "HDBSCAN")
    }
    draw_points(panels, styles, "adjusted Rand index", zero=True)


def draw_scenes(scenes):
    """Draw how well planted sub-concepts are found, layer by layer."""
    figure, axes = _grid(1, 2, 3.6)
    styles = {setting: STYLES[setting] for setting in MAIN} | {"jaccard": (PURPLE, "X")}
    for ax, (name, found) in zip(axes, scenes.items(), strict=True):
        for setting, (color, marker) in styles.items():
            values = found[setting]
            ax.plot([_abbreviate(layer) for layer in values], values.values(), marker, color=color)
            ax.lines[-1].set_linestyle("-")
        ax.set(title=name, xlabel="layer features.n")
    axes[0].set_ylabel("adjusted Rand index")
    _add_legend(figure, styles)


def draw_cost(cost, evaluation):
    """Draw the time of settings over that of the paper's steps, and of scores over evaluate."""
    colors = dict(zip(cost, ("#440154", "#31688e", "#35b779", "#d9b400"), strict=True))
    panels = {
        "optimization / paper's": {
            layer: {name: value for name, value in found.items() if name != "ms per row"}
            for layer, found in cost.items()
        },
        "evaluation / evaluate(X)": {
            layer: {
                f"{setting}, {way.removeprefix('evaluate, ')}": value
                for setting, values in found.items()
                for way, value in values.items()
            }
            for layer, found in evaluation.items()
        },
    }
    styles = {layer: (color, "o") for layer, color in colors.items()}
    draw_points(panels, styles, "ratio of processor times", sharey=False, zero=True)


def draw_small(ways):
    """Draw the IoU of small objects and of the same shapes moved, and the time of a row."""
    names = [_name_way(way) for way in ways]
    styles = {"small objects": (BLUE, "o"), "moved at random": (GRAY, "D"), "time": (ORANGE, "s")}
    keys = {"small objects": "IoU", "moved at random": "IoU, moved", "time": "ms per row"}
    values = {
        label: dict(zip(names, (way["quality"][key] for way in ways), strict=True))
        for label, key in keys.items()
    }
    panels = {"IoU, best bias": values, "ms per row": {"time": values.pop("time")}}
    draw_points(panels, styles, "", sharex=False, zero=True)


def draw_solver(report):
    """Draw the times of the plain formulations over ours, and ours over the floor."""
    solver, floor = (report["sections"][name]["tables"][0] for name in ("solver", "floor"))
    panels = {
        "plain / ours": {name: _column(solver, f"{name} / ours") for name in ("product", "matmul")},
        "ours / floor": {"ours": _column(floor, "ours / floor")},
    }
    styles = {"product": (ORANGE, "s"), "matmul": (GRAY, "D"), "ours": (BLUE, "o")}
    draw_points(panels, styles, "ratio of times", sharex=False)
    left, right = plt.gcf().axes
    left.set_xscale("log")
    for ax in (left, right):
        ax.axvline(1, color="0.3", linewidth=0.8)
    right.set_xlim(left=0)  # afterward, so that the line is in view


def _column(table, name):
    place = [column["name"] for column in table["columns"]].index(name)
    return {row[0]: row[place] for row in table["rows"]}


def draw_points(panels, styles, label, *, n_cols=None, sharex=True, sharey=True, zero=False):
    """Draw points in rows, with a line from low to high where a value is (value, low, high).

    Parameters
    ----------
    panels : dict
        Values by panel, series and row.
    styles : dict
        Color and marker of each series.
    label : str
        What the points show.
    """
    n_cols = n_cols or len(panels)
    n_rows = -(-len(panels) // n_cols)
    rows = list(next(iter(next(iter(panels.values())).values())))
    height = 1.1 + n_rows * (0.5 + 0.16 * len(rows) * max(1.4, len(styles) ** 0.5))
    figure, axes = _grid(n_rows, n_cols, height, sharex=sharex, sharey=sharey)
    for ax, (title, series) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(ax, series, styles)
        ax.set_title(fill(title, 18))
    if zero:
        for ax in axes.flat:
            ax.set_xlim(left=min(0, ax.get_xlim()[0]))
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    figure.supxlabel(label, fontsize="medium")
    if len(styles) > 1:
        _add_legend(figure, styles)


def _draw_panel(ax, series, styles):
    rows = list(dict.fromkeys(row for values in series.values() for row in values))
    step = 0.7 / len(series)
    for k, (name, values) in enumerate(series.items()):
        color, marker = styles[name]
        for row, value in values.items():
            y = rows.index(row) + (k - (len(series) - 1) / 2) * step
            value, low, high = value if isinstance(value, list | tuple) else [value] * 3
            ax.plot([low, high], [y, y], color=color, linewidth=1.2)
            ax.plot(value, y, marker, color=color, markersize=5)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="x", linewidth=0.4)
    _clean(ax)


def _grid(n_rows, n_cols, height, *, sharex=True, sharey=True):
    how = {"sharex": sharex, "sharey": sharey, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(n_rows, n_cols, figsize=(WIDTH, height), **how)
    for ax in axes.flat:
        ax.title.set_fontsize("medium")
        _clean(ax)
    return figure, axes if n_rows > 1 else axes[0]


def _add_legend(figure, styles, n_cols=3):
    n_cols = len(styles) if len(styles) < 5 else n_cols
    how = {"loc": "outside upper center", "ncols": n_cols, "frameon": False}
    figure.legend(handles=_handles(styles), **how)


def _clean(ax):
    ax.spines[["top", "right"]].set_visible(False)


def _style(setting):
    """Return the color of a setting's family and the marker of its variant."""
    family, _, variant = setting.partition(", ")
    return _FAMILIES.get(family, GREEN), _VARIANTS.get(variant, "o")


def _handles(styles):
    return [
        Line2D([], [], ls="", marker=marker, color=color, label=name)
        for name, (color, marker) in styles.items()
    ]


def _name(layer):
    return layer if "+" not in layer else "all, joined"


def _abbreviate(layer):
    return layer.rpartition(".")[2] if "+" not in layer else "all"


def _name_way(way):
    layers = " + ".join(map(_abbreviate, way["layers"]))
    setting = "paper, " if way["objective"] == "net2vec" else ""
    shown = way["shown"].removeprefix("whole image").removesuffix(", as large as the image")
    return f"{setting}{layers}{', ' if shown and not shown.startswith(',') else ''}{shown}"
