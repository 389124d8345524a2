"""Maps of a reproduction as PNG: how much sparser they are, example by example, and the maps themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advex.drawing.heat import coloured, reach_of, summed
from advex.record.reproduction import Reproduction
from advex.report.pages.joined_records import joined, mapped_rows
from advex.report.reading import Contents
from advex.report.sections.maps import WHISKERS
from advex.reproduction.pair_figures import put

_EXAMPLES = 5  # pictures in a sheet
_COLOURS = ("#0a66b7", "#b3541e", "#4b7f3a", "#7a4fa3")


def contents_of(folder: Path, found: Reproduction) -> dict[str, Contents]:
    """The joined records of every entry of maps that something was measured for, by its id."""
    all_of = {entry.id: joined(folder, found, mapped_rows(found, entry)) for entry in found.maps}
    return {name: contents for name, contents in all_of.items() if contents is not None and contents.maps}


def gains(found: Reproduction, entries: dict[str, Contents]) -> Any | None:
    """A box for each row and explainer: its Gini index less that of the row it is set against; None without any."""
    from matplotlib.figure import Figure

    lines = [line for contents in entries.values() for line in _lines(contents)]
    if not lines:
        return None
    explainers = list(dict.fromkeys(explainer for _, explainer, _ in lines))
    figure = Figure(figsize=(8.5, 0.34 * len(lines) + 1.3))
    axes = figure.subplots()
    for place, (_, explainer, values) in enumerate(lines):
        colour = _COLOURS[explainers.index(explainer) % len(_COLOURS)]
        drawn = axes.boxplot(
            values, positions=[-place], widths=0.6, orientation="horizontal", whis=WHISKERS, showfliers=False,
            patch_artist=True, medianprops={"color": "black"},
        )  # fmt: skip
        drawn["boxes"][0].set(facecolor=colour, alpha=0.55, edgecolor=colour)
        axes.plot([values.mean()], [-place], "o", color="black", ms=3, label="_")
    for explainer, colour in zip(explainers, _COLOURS, strict=False):
        axes.plot([], [], "s", color=colour, alpha=0.55, label=explainer.replace("_", " "))
    axes.axvline(0, color="#82878c", lw=0.8, zorder=0)
    axes.set_yticks([-place for place in range(len(lines))], [name for name, _, _ in lines])
    axes.set_xlabel("Gini index minus that of natural training, example by example")
    axes.set_title(f"{found.paper}, scale {found.scale}: box, whiskers at 5 and 95 %, dot at the mean", loc="left")
    axes.legend(frameon=False, loc="best")
    return figure


def _lines(contents: Contents) -> list[tuple[str, str, np.ndarray]]:
    """(row, explainer, differences [n]) of every model but the first."""
    ginis: dict[tuple[str, str], dict[int, float]] = {}
    for row in contents.maps:
        ginis.setdefault((row["model"], row["explainer"]), {})[row["example"]] = row["gini"]
    first, *others = [model.name for model in contents.record.models]
    lines = []
    for (model, explainer), found in ginis.items():
        base = ginis.get((first, explainer), {})
        values = np.array([found[one] - base[one] for one in found if one in base], dtype=np.float64)
        if model in others and np.isfinite(values).any():
            lines.append((model, explainer, values[np.isfinite(values)]))
    return lines


def sheet(found: Reproduction, contents: Contents, title: str) -> Any | None:
    """Pictures and the maps of each model side by side, a line per explainer; None where nothing is a picture."""
    from matplotlib.figure import Figure

    shape, models = contents.record.data.shape, [model.name for model in contents.record.models]
    kept = [row for row in contents.maps if row["map"] is not None and len(shape) == 3]
    examples = list(dict.fromkeys(row["example"] for row in kept))[:_EXAMPLES]
    explainers = list(dict.fromkeys(row["explainer"] for row in kept))
    if not examples:
        return None
    columns = 1 + len(models) * len(explainers)
    figure = Figure(figsize=(1.35 * columns, 1.45 * len(examples) + 0.9))
    cells = figure.subplots(len(examples), columns, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.22})
    at = {(row["example"], row["model"], row["explainer"]): row for row in kept}
    names = [(model, explainer) for explainer in explainers for model in models]
    for line, example in zip(cells, examples, strict=True):
        for cell in line:
            cell.set(xticks=[], yticks=[], frame_on=False)
        _put_picture(line[0], contents, example)
        for cell, (model, explainer) in zip(line[1:], names, strict=True):
            row = at.get((example, model, explainer))
            if row is not None:
                _put_map(cell, row, shape)
    for cell, (model, explainer) in zip(cells[0][1:], names, strict=True):
        cell.set_title(f"{model}\n{explainer.replace('_', ' ')}\n" + cell.get_title(), fontsize=7)
    figure.suptitle(f"{title}: {found.paper}, scale {found.scale}", fontsize=9, x=0.01, ha="left")
    return figure


def _put_picture(cell: Any, contents: Contents, example: int) -> None:
    row = next((one for one in contents.examples if one["example"] == example), None)
    put(cell, contents.folder, None if row is None else row["picture"])


def _put_map(cell: Any, row: dict[str, Any], shape: Sequence[int]) -> None:
    pixels = summed(np.asarray(row["map"]).reshape(tuple(shape)))
    if np.isfinite(pixels).all():  # no colour stands for what is not
        cell.imshow(coloured(pixels, reach_of([pixels])), interpolation="nearest")
    gini = row["gini"]
    cell.set_title("" if math.isnan(gini) else f"Gini {gini:.3f}", fontsize=7, pad=2)
