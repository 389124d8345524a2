"""Maps of a table's rows: a bar for each column, its categories together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import number, percent, significant
from advex.report.reading import Contents, Row
from advex.report.sections.rows import SHEETS, value_text

_WEIGHTS = 10  # bars of a map


@dataclass(frozen=True)
class Weight:
    """What a column counts. value: the row's. x, width: per cent of the drawing, whose middle is 0."""

    feature: str
    value: str
    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Chart:
    """The columns that count most in one map. others: columns left out; share: their part of the weight."""

    explainer: str
    gini: str
    weights: tuple[Weight, ...]
    others: int
    share: str


@dataclass(frozen=True)
class RowMapLine:
    """A model's maps of a row, for the class `target`."""

    index: int
    model: str
    target: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class RowMaps:
    """The maps of one row of the table."""

    id: str
    label: str
    lines: tuple[RowMapLine, ...]


def row_maps(contents: Contents) -> tuple[tuple[RowMaps, ...], int]:
    """The maps of rows as bars, as many as the page has room for, and how many there are; none without columns."""
    ends = np.cumsum([len(column["values"]) or 1 for column in contents.columns])
    if not len(ends) or contents.record.data.shape != (int(ends[-1]),):
        return (), 0
    by_example: dict[object, list[Row]] = {}
    for row in contents.maps:
        if row["map"] is not None and len(row["map"]) == ends[-1]:
            by_example.setdefault(row["example"], []).append(row)
    starts = [0, *ends[:-1].tolist()]
    return tuple(_row(contents, rows, starts) for rows in list(by_example.values())[:SHEETS]), len(by_example)


def _row(contents: Contents, rows: list[Row], starts: Sequence[int]) -> RowMaps:
    example = rows[0]["example"]
    known = next((row for row in contents.examples if row["example"] == example), {})
    told = next((row for row in contents.answers if row["example"] == example), None)
    values = {} if told is None else json.loads(told["row"])
    lines = []
    for index, model in enumerate(contents.record.models):
        mine = [row for row in rows if row["model"] == model.name]
        if mine:
            charts = tuple(_chart(contents.columns, row, starts, values) for row in mine)
            lines.append(RowMapLine(index, model.name, contents.class_name(mine[0]["target"]), charts))
    return RowMaps(str(known.get("id", "")), contents.class_name(known.get("label")), tuple(lines))


def _chart(columns: Sequence[Row], row: Row, starts: Sequence[int], values: dict[str, float | str]) -> Chart:
    sums = np.add.reduceat(np.asarray(row["map"], dtype=np.float64), starts)
    sizes = np.abs(sums)
    reach, whole = float(sizes.max()), float(sizes.sum())
    order = [place for place in np.argsort(-sizes, kind="stable").tolist() if sizes[place] > 0]
    weights = []
    for place in order[:_WEIGHTS] if math.isfinite(whole) else []:
        column, half = columns[place], 50 * float(sizes[place]) / reach
        value = values.get(column["name"])
        weights.append(
            Weight(
                feature=column["name"],
                value="" if value is None else value_text(value, column["unit"]),
                x=round(50 - half if sums[place] < 0 else 50.0, 2),
                width=round(half, 2),
                text=significant(float(sums[place]), 2),
            )
        )
    rest = order[_WEIGHTS:]
    share = percent(float(sizes[rest].sum()) / whole, 0) if rest else ""
    return Chart(row["explainer"], number(row["gini"], 3), tuple(weights), len(rest), share)
