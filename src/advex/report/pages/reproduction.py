"""The page of a reproduction: a paper's tables with what was measured, its plots, the same images by its networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advex.drawing.axes import Axis, linear
from advex.drawing.numbers import number, significant
from advex.record import Figure
from advex.record.reproduction import (
    ColumnEntry,
    PlotEntry,
    Reproduction,
    RowEntry,
    TableEntry,
)
from advex.report.pages.answers import answered
from advex.report.pages.joined_records import grid_part, maps_part
from advex.report.pages.pairs import Mark, drawn, front, placed
from advex.report.sections.curves import Frame, Tick, path

FRAME = Frame(width=720, height=460, left=56, right=16, top=26, bottom=46)
_LETTER, _LINE = 5.7, 12.0  # of labels, in drawing units


@dataclass(frozen=True)
class Shown:
    """One value as shown. low, high: empty where there is no interval. note: what must be said with it."""

    text: str
    low: str = ""
    high: str = ""
    note: str = ""


@dataclass(frozen=True)
class PublishedLine:
    """A row of a table: for each column published, measured, and measured by the published protocol."""

    row: RowEntry
    cells: tuple[tuple[Shown, Shown, Shown | None], ...]


@dataclass(frozen=True)
class TablePart:
    """A table of the page. protocol: columns that have values by the published protocol. parts: (heading, lines)."""

    table: TableEntry
    protocol: tuple[bool, ...]
    parts: tuple[tuple[str, tuple[PublishedLine, ...]], ...]

    @property
    def width(self) -> int:
        """Columns beside the row's name."""
        return sum(3 if has else 2 for has in self.protocol)


@dataclass(frozen=True)
class Dot:
    """A mark of a plot, in drawing units. bars: SVG path data of its intervals. at: where its label stands."""

    mark: Mark
    x: float
    y: float
    bars: str
    at: tuple[float, float] | None
    told: str


@dataclass(frozen=True)
class Scatter:
    """A plot of the page. fronts: (measured, SVG path data)."""

    plot: PlotEntry
    frame: Frame
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    fronts: tuple[tuple[bool, str], ...]
    dots: tuple[Dot, ...]
    description: str


def content(folder: Path, found: Reproduction) -> dict[str, Any]:
    """What the template needs."""
    rows = found.rows
    return {
        "found": found,
        "title": f"{found.paper}, scale {found.scale}",
        "tables": [_table(table) for table in found.tables],
        "scatters": [_scatter(found, plot) for plot in found.plots if drawn(found, plot)],
        "grids": [part for grid in found.grids if (part := grid_part(folder, found, grid)) is not None],
        "mapped": [part for entry in found.maps if (part := maps_part(folder, found, entry)) is not None],
        "answered": [answered(folder, entry) for entry in found.answered],
        "areas": any(column.key.endswith("_ara") for table in found.tables for column in table.columns),
        "measured": sum(row.state == "measured" for row in rows),
        "reasons": _grouped((row.reason, row) for row in rows if row.state in ("not run", "waiting")),
        "failed": [row for row in rows if row.state == "failed"],
        "notes": _grouped((row.note, row) for row in rows if row.note),
        "flags": _grouped((flag, row) for row in rows for flag in row.flags if row.network == row.id),
        "others": [_other(found, one) for one in found.others],
    }


def _grouped(pairs: Any) -> list[tuple[str, list[str]]]:
    """(text, ids of the rows that share it), in order."""
    groups: dict[str, list[str]] = {}
    for text, row in pairs:
        groups.setdefault(text, []).append(row.id)
    return list(groups.items())


# -- tables ------------------------------------------------------------------------------------------------


def _table(table: TableEntry) -> TablePart:
    protocol = tuple(any(column.key in row.by_protocol for row in table.rows) for column in table.columns)
    parts: list[tuple[str, list[PublishedLine]]] = []
    for row in table.rows:
        if not parts or parts[-1][0] != row.section:
            parts.append((row.section, []))
        parts[-1][1].append(_line(row, table.columns, protocol))
    return TablePart(table, protocol, tuple((title, tuple(lines)) for title, lines in parts))


def _line(row: RowEntry, columns: Sequence[ColumnEntry], protocol: Sequence[bool]) -> PublishedLine:
    cells = []
    for column, has in zip(columns, protocol, strict=True):
        published = row.published.get(column.key, math.nan)
        measured = _figure(row.measured.get(column.key), column, row)
        by_protocol = _figure(row.by_protocol.get(column.key), column, row) if has else None
        cells.append((Shown(number(published, column.digits)), measured, by_protocol))
    return PublishedLine(row, tuple(cells))


def _figure(figure: Figure | None, column: ColumnEntry, row: RowEntry) -> Shown:
    if figure is None:
        return Shown("–" if row.state == "measured" else row.state)
    if math.isnan(figure.value):
        return Shown("–", note="undefined")
    value, low, high = (number(each, column.digits) for each in (figure.value, figure.low, figure.high))
    return Shown(value, low, high, f"{figure.failures:,} failed" if figure.failures else "")


def _other(found: Reproduction, other: Any) -> tuple[str, list[str], str, str]:
    """A figure that is in no table: label, a value per column of the first table, data, source."""
    values = [number(other.published.get(one.key, math.nan), one.digits) for one in found.tables[0].columns]
    return other.label, values, other.data, other.source


# -- plots -------------------------------------------------------------------------------------------------


def _scatter(found: Reproduction, plot: PlotEntry) -> Scatter:
    marks = drawn(found, plot)
    columns = {one.key: one for table in found.tables if table.id in plot.tables for one in table.columns}
    x, upright = _spanning([e for m in marks for e in m.x_range]), [e for m in marks for e in m.y_range]
    y = linear([0.0, *upright]) if plot.zero else _spanning(upright)
    points = [(_across(x, mark.x), _up(y, mark.y)) for mark in marks]
    f = FRAME
    places = placed(
        [(px - f.left, py - f.top, mark.label) for (px, py), mark in zip(points, marks, strict=True)],
        (f.end - f.left, f.base - f.top), letter=_LETTER, line=_LINE,
    )  # fmt: skip
    dots = tuple(
        Dot(
            mark, round(px, 2), round(py, 2), _bars(mark, x, y) if mark.measured else "",
            None if at is None else (round(at[0] + f.left, 2), round(at[1] + f.top, 2)),
            f"{mark.name}, {'measured' if mark.measured else 'published'}: {_said(columns, plot, mark)}",
        )
        for mark, (px, py), at in zip(marks, points, places, strict=True)
    )  # fmt: skip
    fronts = [(kind, front([mark for mark in marks if mark.measured == kind])) for kind in (False, True)]
    count = sum(mark.measured for mark in marks)
    return Scatter(
        plot, f, _titled(columns[plot.x]), _titled(columns[plot.y]),
        tuple(Tick(_across(x, mark), text) for mark, text in x.marks),
        tuple(Tick(_up(y, mark), text) for mark, text in y.marks),
        tuple((kind, _stairs(line, x, y)) for kind, line in fronts if line), dots,
        f"{plot.title}: {len(marks) - count} published and {count} measured networks. {_fronts_told(fronts)}",
    )  # fmt: skip


def _fronts_told(fronts: Sequence[tuple[bool, list[Mark]]]) -> str:
    names = ((kind, ", ".join(mark.name for mark in line)) for kind, line in fronts if line)
    return " ".join(f"{'Measured' if kind else 'Published'} front: {told}." for kind, told in names)


def _spanning(values: Sequence[float]) -> Axis:
    """A linear axis around values that need not reach down to zero."""
    low, high = min(values), max(values)
    step = linear([(high - low) or abs(high) or 1.0]).marks[1][0]
    first, last = math.floor(low / step), math.ceil(high / step)
    marks = [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]
    return Axis(marks[0], marks[-1], False, tuple((mark, significant(mark)) for mark in marks))


def _across(axis: Axis, value: float) -> float:
    return round(FRAME.left + (FRAME.end - FRAME.left) * axis.place(value), 2)


def _up(axis: Axis, value: float) -> float:
    return round(FRAME.y(axis.place(value)), 2)


def _bars(mark: Mark, x: Axis, y: Axis) -> str:
    here, there = _across(x, mark.x), _up(y, mark.y)
    across = path([(_across(x, mark.x_range[0]), there), (_across(x, mark.x_range[1]), there)])
    return f"{across} {path([(here, _up(y, mark.y_range[0])), (here, _up(y, mark.y_range[1]))])}"


def _stairs(line: Sequence[Mark], x: Axis, y: Axis) -> str:
    """The front: nothing lies right of and above it."""
    points = [(_across(x, line[0].x), _up(y, line[0].y))]
    for mark in line[1:]:
        points += [(points[-1][0], _up(y, mark.y)), (_across(x, mark.x), _up(y, mark.y))]
    return path(points)


def _titled(column: ColumnEntry) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _said(columns: dict[str, ColumnEntry], plot: PlotEntry, mark: Mark) -> str:
    values = ((columns[plot.x], mark.x), (columns[plot.y], mark.y))
    return ", ".join(f"{one.title} {number(value, one.digits)} {one.unit}".strip() for one, value in values)
