"""The paper's plots, grids, maps and judged images as PNG, drawn from reproduction.json and the records beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from advex.files import atomic
from advex.record.reproduction import GridEntry, PlotEntry, Reproduction
from advex.report.pages.joined_records import joined, shown_rows
from advex.report.pages.pairs import Mark, drawn, front, placed
from advex.report.reading import Contents
from advex.reproduction import map_figures, pair_figures
from advex.reproduction.folder import FIGURES

_PUBLISHED, _MEASURED, _INK = "#82878c", "#0a66b7", "#1d2125"
_EXAMPLES = 3  # images in a grid


def write_figures(folder: Path, found: Reproduction) -> list[Path]:
    """Write every plot, grid and sheet that something was measured for; returns the files, `figures/ID.png`."""
    import matplotlib as mpl

    paths = []
    with mpl.rc_context({"font.size": 9, "savefig.dpi": 160, "axes.spines.top": False, "axes.spines.right": False}):
        for plot in found.plots:
            if marks := drawn(found, plot):
                paths.append(_save(_scatter(found, plot, marks), folder / FIGURES / f"{plot.id}.png"))
        for grid in found.grids:
            contents = joined(folder, found, shown_rows(found, grid))
            if contents is not None and any(row["picture"] for row in contents.explanations):
                paths.append(_save(_explanations(contents, found, grid), folder / FIGURES / f"{grid.id}.png"))
        mapped = map_figures.contents_of(folder, found)
        for entry in found.answered:
            if (one := pair_figures.sheet(folder, entry)) is not None:
                paths.append(_save(one, folder / FIGURES / f"answers-{entry.network}.png"))
        drawn_maps = {"gains": map_figures.gains(found, mapped)}
        for entry in found.maps:
            if entry.id in mapped:
                drawn_maps[f"maps-{entry.id}"] = map_figures.sheet(found, mapped[entry.id], entry.title)
        paths += [_save(one, folder / FIGURES / f"{name}.png") for name, one in drawn_maps.items() if one is not None]
    return paths


def _save(figure: Any, path: Path) -> Path:
    image = io.BytesIO()
    figure.savefig(image, format="png", facecolor="white", bbox_inches="tight", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_bytes(image.getvalue())
    return path


def _axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure that no window belongs to."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def _scatter(found: Reproduction, plot: PlotEntry, marks: list[Mark]) -> Any:
    from matplotlib.patheffects import withStroke

    figure, axes = _axes(8.5, 5.5)
    for measured, colour, style in ((False, _PUBLISHED, "--"), (True, _MEASURED, "-")):
        mine = [mark for mark in marks if mark.measured == measured]
        if not mine:
            continue
        line = front(mine)
        axes.step(
            [mark.x for mark in line], [mark.y for mark in line], style, where="pre", color=colour, lw=1, zorder=1
        )
        for mark in mine:
            if measured:
                axes.plot(mark.x_range, [mark.y] * 2, color=colour, lw=0.8, alpha=0.6, zorder=2)
                axes.plot([mark.x] * 2, mark.y_range, color=colour, lw=0.8, alpha=0.6, zorder=2)
        face = {"color": colour} if measured else {"facecolors": "none", "edgecolors": colour}
        name = f"measured, scale {found.scale}, with 95 % intervals" if measured else "published"
        axes.scatter([mark.x for mark in mine], [mark.y for mark in mine], s=26, label=name, zorder=3, **face)
    columns = {column.key: column for table in found.tables if table.id in plot.tables for column in table.columns}
    for key, put in ((plot.x, axes.set_xlabel), (plot.y, axes.set_ylabel)):
        put(f"{columns[key].title}{' (' + columns[key].unit + ')' if columns[key].unit else ''}")
    if plot.zero:
        axes.set_ylim(bottom=min(0.0, *(mark.y_range[0] for mark in marks)))
    axes.margins(x=0.06)
    axes.set_title(f"{plot.title}: {found.paper}, {' and '.join(f'Table {name}' for name in plot.tables)}", loc="left")
    axes.legend(frameon=False, loc="best")
    figure.canvas.draw()
    size = axes.get_window_extent()
    across, up = (axes.get_xlim(), axes.get_ylim())
    scale = (size.width / (across[1] - across[0]), size.height / (up[1] - up[0]))
    places = placed(
        [((mark.x - across[0]) * scale[0], (mark.y - up[0]) * scale[1], mark.label) for mark in marks],
        (size.width, size.height), letter=5.4, line=10.0,
    )  # fmt: skip
    for mark, at in zip(marks, places, strict=True):
        if at is not None:
            x, y = at[0] / scale[0] + across[0], at[1] / scale[1] + up[0]
            colour = _MEASURED if mark.measured else "#596068"
            text = axes.text(x, y, mark.label, fontsize=7, color=colour, va="center", zorder=4)
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    return figure


def _explanations(contents: Contents, found: Reproduction, grid: GridEntry) -> Any:
    """A line per image and network: the input, towards each class, away from the label."""
    from matplotlib.figure import Figure

    rows = [row for row in contents.explanations if row["purpose"] == "grid"]
    examples = list(dict.fromkeys(row["example"] for row in rows))[:_EXAMPLES]
    models = [model.name for model in contents.record.models]
    inputs = {(row["model"], row["example"]): row for row in contents.examples if row["picture"]}
    label = {example: row["label"] for (_, example), row in inputs.items()}
    columns: list[tuple[str, int | None]] = [("toward", target) for target in _targets(rows, examples)]
    columns.append(("away", None))
    lines = [(example, model) for example in examples for model in models]
    height = 1.02 * len(lines) + 0.7
    figure = Figure(figsize=(0.95 * (len(columns) + 1) + 1.6, height))
    cells = figure.subplots(len(lines), len(columns) + 1, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.1})
    figure.subplots_adjust(left=0.13, right=0.995, bottom=0.01, top=1 - 0.6 / height)
    at = {(row["example"], row["model"], row["explainer"], row["target"]): row for row in rows}
    for line, (example, model) in zip(cells, lines, strict=True):
        for cell in line:
            cell.set(xticks=[], yticks=[], frame_on=False)
        shown = inputs.get((model, example))
        pair_figures.put(line[0], contents.folder, None if shown is None else shown["picture"])
        line[0].set_ylabel(_split(model), rotation=0, ha="right", va="center", fontsize=8)
        for cell, (explainer, target) in zip(line[1:], columns, strict=True):
            row = at.get((example, model, explainer, label.get(example) if target is None else target))
            pair_figures.put(cell, contents.folder, None if row is None else row["picture"])
    names = ["input", *(f"to {contents.class_name(target)}" for _, target in columns[:-1]), "from label"]
    for cell, name in zip(cells[0], names, strict=True):
        cell.set_title(name, fontsize=8)
    rho = rows[0]["rho"] if rows else 0.0
    title = f"{grid.title}: {found.paper}, scale {found.scale}; each change has an RMSE of {rho:g}"
    figure.suptitle(title, fontsize=10, x=0.01, y=1 - 0.1 / height, ha="left", va="top", color=_INK)
    return figure


def _split(name: str) -> str:
    """A long name in lines."""
    pieces, lines = name.split("-"), [""]
    for piece in pieces:
        joined_to = f"{lines[-1]}-{piece}" if lines[-1] else piece
        if len(joined_to) > 14 and lines[-1]:
            lines[-1] += "-"
            lines.append(piece)
        else:
            lines[-1] = joined_to
    return "\n".join(lines)


def _targets(rows: list[dict[str, Any]], examples: list[int]) -> list[int]:
    """The classes that every image is explained towards, at most ten."""
    each = [
        {row["target"] for row in rows if row["example"] == one and row["explainer"] == "toward"} for one in examples
    ]
    return sorted(set.intersection(*each) if each else set())[:10]
