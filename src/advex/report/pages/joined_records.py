"""The networks of several rows of a reproduction as if they were one evaluation's: grids and maps of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from advex.record.reproduction import GridEntry, MapsEntry, Reproduction, RowEntry
from advex.report import section
from advex.report.grids import Grid, grids
from advex.report.reading import Contents, Row, read
from advex.report.sections.maps import Maps

GRID_ROWS = 4  # networks of a grid, where those that the paper shows were not measured


@dataclass(frozen=True)
class GridPart:
    """A grid of the page. replaced: other networks stand for those that the paper shows."""

    grid: GridEntry
    contents: Contents
    grids: tuple[Grid, ...]
    replaced: bool


@dataclass(frozen=True)
class MapsPart:
    """Maps by the networks of some rows."""

    entry: MapsEntry
    html: Markup


def shown_rows(reproduction: Reproduction, grid: GridEntry) -> list[RowEntry]:
    """The rows whose networks a grid shows: the paper's where two or more were measured, else the first measured."""
    once = {row.network: row for row in reproduction.rows if row.record is not None}
    wanted = [once[name] for name in grid.rows if name in once]
    return wanted if len(wanted) > 1 else list(once.values())[:GRID_ROWS]


def joined(folder: Path, reproduction: Reproduction, rows: Sequence[RowEntry]) -> Contents | None:
    """The records of several rows as if they were one: those of the examples of the first. None: there is none."""
    marks = {point.id: point.mark for plot in reproduction.plots for point in plot.published}
    parts: list[tuple[str, str, Contents]] = []
    for row in rows:
        if row.record is None:
            continue
        name = f"{marks.get(row.network, '')} {row.network}".strip()
        contents = read(folder / row.record)
        if not parts or _examples(contents) == _examples(parts[0][2]):
            parts.append((name, row.record, contents))
    if not parts:
        return None
    models = [contents.record.models[0].model_copy(update={"name": name}) for name, _, contents in parts]
    names = {record: name for name, record, _ in parts}
    known = {row.network: names[row.record] for row in rows if row.record in names}
    differences = [
        each.model_copy(update={"first": known[each.first], "second": known[each.second]})
        for each in reproduction.differences
        if {each.first, each.second} <= known.keys()
    ]
    differences += [
        each.model_copy(update={"model": name})
        for name, _, contents in parts
        for each in contents.record.differences
        if each.axis == "explainer"
    ]
    tables = {
        table: tuple(_moved(row, name, record) for name, record, contents in parts for row in contents.rows(table))
        for table in ("examples", "explanations", "maps", "moved", "traces", "places")
    }
    record = parts[0][2].record.model_copy(update={"models": models, "differences": differences})
    return Contents(folder, record, tables)


def _examples(contents: Contents) -> list[tuple[Any, Any, Any]]:
    return [(row["example"], row["id"], row["label"]) for row in contents.rows("examples") if row["picture"]]


def _moved(row: Row, model: str, record: str) -> Row:
    """A row of a record as one of a folder in which that record is."""
    moved = {"picture": f"{record}/{row['picture']}"} if row.get("picture") else {}
    return {**row, "model": model, **moved}


def grid_part(folder: Path, reproduction: Reproduction, grid: GridEntry) -> GridPart | None:
    """A grid with its explanations; None where nothing was measured for it."""
    rows = shown_rows(reproduction, grid)
    contents = joined(folder, reproduction, rows)
    if contents is None or not contents.rows("explanations"):
        return None
    made = tuple(each for kind in ("grid", "sweep", "away") for each in grids(contents, kind))
    return GridPart(grid, contents, made, {row.network for row in rows} != set(grid.rows)) if made else None


def mapped_rows(reproduction: Reproduction, entry: MapsEntry) -> list[RowEntry]:
    """The rows of an entry whose networks were measured."""
    once = {row.network: row for row in reproduction.rows if row.record is not None}
    return [once[name] for name in entry.rows if name in once]


def maps_part(folder: Path, reproduction: Reproduction, entry: MapsEntry) -> MapsPart | None:
    """An entry of maps with what is known of them; None where nothing was measured for it."""
    rows = mapped_rows(reproduction, entry)
    contents = joined(folder, reproduction, rows) if rows else None
    maps = Maps()
    values = None if contents is None else maps(contents)
    if contents is None or values is None:
        return None
    return MapsPart(entry, section.rendered(maps, values, record=contents.record, contents=contents))
