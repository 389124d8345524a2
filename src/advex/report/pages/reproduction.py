"""The page of a reproduction: a paper's tables with what was measured, its plots, the same images by its networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advex.drawing.numbers import number
from advex.drawing.pictures import data_uri, read_picture
from advex.drawing.scatter import Mark, Scatter, front, scatter
from advex.errors import ArtifactError
from advex.record import CALIBRATION, Figure
from advex.record.generated import GENERATED, SHEET, read_generated, sentence
from advex.record.layer_study import NAME as STUDY
from advex.record.layer_study import read_study
from advex.record.reproduction import (
    ColumnEntry,
    ExtraEntry,
    PlotEntry,
    Reproduction,
    RowEntry,
    TableEntry,
)
from advex.report import section
from advex.report.cells import FigureCell, measured, together
from advex.report.pages import layer_study, orderings
from advex.report.pages.answers import answered
from advex.report.pages.joined_records import grid_part, maps_part
from advex.report.reading import read
from advex.report.sections.traces import Traces

LABELLED = 14  # measured rows up to which each one is named in a plot


# A row of a table, and for each column: published, measured, and measured by the published protocol.
PublishedRow = tuple[RowEntry, list[tuple[FigureCell, FigureCell, FigureCell | None]]]


@dataclass(frozen=True)
class TablePart:
    """A table of the page. protocol: columns that have values by the published protocol. parts: (heading, lines)."""

    table: TableEntry
    protocol: tuple[bool, ...]
    parts: tuple[tuple[str, list[PublishedRow]], ...]

    @property
    def width(self) -> int:
        """Columns beside the row's name."""
        return sum(3 if has else 2 for has in self.protocol)


def content(folder: Path, reproduction: Reproduction, others: Sequence[Reproduction] = ()) -> dict[str, Any]:
    """What the template needs. others: the same with other seeds, for the orders that hold on all networks.

    Raises ArtifactError for others of another paper or scale, or of a seed that is there already.
    """
    every = (reproduction, *others)
    if len({(each.paper, each.scale) for each in every}) > 1 or len({each.seed for each in every}) < len(every):
        raise ArtifactError(
            "Reproductions on one page must be of one paper at one scale, each with its own seed: "
            f"{', '.join(f'{each.paper} at {each.scale} with seed {each.seed}' for each in every)}."
        )
    rows = reproduction.rows
    keys = [column.key for table in reproduction.tables for column in table.columns]
    return {
        "reproduction": reproduction,
        "title": f"{reproduction.paper}, scale {reproduction.scale}",
        "tables": [_table(table) for table in reproduction.tables],
        "scatters": scatters(reproduction),
        "orderings": orderings.of(every),
        "signs": orderings.SIGNS,
        "grids": [part for grid in reproduction.grids if (part := grid_part(folder, reproduction, grid)) is not None],
        "mapped": [part for entry in reproduction.maps if (part := maps_part(folder, reproduction, entry)) is not None],
        "extras": [part for entry in reproduction.extras if (part := _extra(folder, entry)) is not None],
        "answered": [answered(folder, entry) for entry in reproduction.answered],
        "areas": any(key.endswith("_ara") for key in keys),
        "calibration": CALIBRATION if any(key.startswith("btr_") for key in keys) else "",
        "together": together(reproduction.differences),
        "count_measured": sum(row.state == "measured" for row in rows),
        "reasons": grouped((row.reason, row) for row in rows if row.state in ("not run", "waiting")),
        "failed": [row for row in rows if row.state == "failed"],
        "notes": grouped((row.note, row) for row in rows if row.note),
        "flags": grouped((flag, row) for row in rows for flag in row.flags if row.network == row.id),
        "others": [_other(reproduction, other) for other in reproduction.others],
    }


def _extra(folder: Path, entry: ExtraEntry) -> tuple[ExtraEntry, dict[str, Any] | None, Markup] | None:
    """An extra with what its heat maps show, or its strips and curves; None where it is not made."""
    at = folder / entry.record
    if (at / STUDY).is_file():
        return entry, layer_study.content(read_study(at)), Markup()
    if (at / GENERATED).is_file():
        return entry, None, _generated(at)
    if not (at / "record.json").is_file():
        return None
    traces, contents = Traces(), read(at, Traces.tables)
    values = traces(contents)
    if values is None:
        return None
    return entry, None, section.rendered(traces, values, record=contents.record, contents=contents)


def _generated(folder: Path) -> Markup:
    """The contact sheet of generated pictures, and how many the model takes for their class."""
    text = sentence(read_generated(folder))
    sheet = read_picture(folder, SHEET)
    if sheet is None:
        return Markup("<p>{}</p>").format(text)
    return Markup('<p>{}</p>\n<div class="scroll"><img src="{}" alt="{}"></div>').format(
        text, data_uri(sheet.png), "Seeds and the pictures that were made from them, by class."
    )


def grouped(pairs: Iterable[tuple[str, RowEntry]]) -> list[tuple[str, list[str]]]:
    """(text, ids of the rows that share it), in order."""
    groups: dict[str, list[str]] = {}
    for text, row in pairs:
        groups.setdefault(text, []).append(row.id)
    return list(groups.items())


# -- tables ------------------------------------------------------------------------------------------------


def _table(table: TableEntry) -> TablePart:
    protocol = tuple(any(column.key in row.by_protocol for row in table.rows) for column in table.columns)
    parts: list[tuple[str, list[PublishedRow]]] = []
    for row in table.rows:
        if not parts or parts[-1][0] != row.section:
            parts.append((row.section, []))
        cells = []
        for column, has in zip(table.columns, protocol, strict=True):
            published = FigureCell(column.key, number(row.published.get(column.key, math.nan), column.digits))
            by_protocol = _measured(row.by_protocol.get(column.key), column, row) if has else None
            cells.append((published, _measured(row.measured.get(column.key), column, row), by_protocol))
        parts[-1][1].append((row, cells))
    return TablePart(table, protocol, tuple(parts))


def _measured(figure: Figure | None, column: ColumnEntry, row: RowEntry) -> FigureCell:
    if figure is None:
        return FigureCell(column.key, "–" if row.state == "measured" else row.state)
    note = f"{figure.failures:,} failed" if figure.failures else ""
    if math.isnan(figure.value):
        note = f"undefined for all {figure.failures:,}" if figure.failures >= max(figure.n, 1) else "undefined"
    return measured(column.key, figure, column.digits, note)


def _other(reproduction: Reproduction, other: Any) -> tuple[str, list[str], str, str]:
    """A figure that is in no table: label, a value per column of the first table, data, source."""
    columns = reproduction.tables[0].columns
    values = [number(other.published.get(column.key, math.nan), column.digits) for column in columns]
    return other.label, values, other.data, other.source


# -- plots -------------------------------------------------------------------------------------------------


def scatters(reproduction: Reproduction) -> list[tuple[PlotEntry, Scatter]]:
    """The plots that there is something for."""
    plots = []
    for plot in reproduction.plots:
        tables = [table for table in reproduction.tables if table.id in plot.tables]
        columns = {column.key: column for table in tables for column in table.columns}
        if marks := marks_of(reproduction, plot, columns):
            titles = (_titled(columns[plot.x]), _titled(columns[plot.y]))
            plots.append((plot, scatter(marks, plot.title, *titles, zero=plot.zero)))
    return plots


def marks_of(reproduction: Reproduction, plot: PlotEntry, columns: Mapping[str, ColumnEntry]) -> list[Mark]:
    """The marks of a plot: every network once, as published and, where it was measured, as measured.

    Named are what the paper marks, the fronts, and what was measured where it is little.
    """
    marks = [Mark(_named(at.id, at.mark), at.x, at.y, (at.x, at.x), (at.y, at.y), False) for at in plot.published]
    rows = [row for table in reproduction.tables if table.id in plot.tables for row in table.rows]
    networks = {row.network: row for row in rows if not plot.rows or row.network in plot.rows}
    originals = {point.id: point.mark for point in plot.published}
    for name, row in networks.items():
        x, y = row.measured.get(plot.x), row.measured.get(plot.y)
        if x and y and math.isfinite(x.value) and math.isfinite(y.value):
            x_range, y_range = (x.low, x.high), (y.low, y.high)
            marks.append(Mark(_named(name, originals.get(name, "")), x.value, y.value, x_range, y_range, True))
    best = {
        (mark.name, mark.measured)
        for kind in (False, True)
        for mark in front([mark for mark in marks if mark.measured == kind])
    }
    best |= {(_named(point.id, point.mark), kind) for point in plot.published if point.mark for kind in (False, True)}
    few = sum(mark.measured for mark in marks) <= LABELLED
    return [
        replace(
            mark,
            label=mark.name if (mark.name, mark.measured) in best or (mark.measured and few) else "",
            text=f"{mark.name}, {'measured' if mark.measured else 'published'}: {_in_words(columns, plot, mark)}",
        )
        for mark in marks
    ]


def _named(name: str, mark: str) -> str:
    return f"{mark} {name}".strip()


def _titled(column: ColumnEntry) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _in_words(columns: Mapping[str, ColumnEntry], plot: PlotEntry, mark: Mark) -> str:
    values = ((columns[plot.x], mark.x), (columns[plot.y], mark.y))
    return ", ".join(f"{column.title} {number(at, column.digits)} {column.unit}".strip() for column, at in values)
