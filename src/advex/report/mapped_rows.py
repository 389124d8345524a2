"""Maps of a table's rows: a bar for each column, its categories together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import percent, significant
from advex.report.mapped import value_of
from advex.report.reading import Contents, Row
from advex.report.row_values import SHOWN_ROWS, value_text

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
    """The columns that count most in one map. value: of the measure that stands with it.

    others: columns left out; share: their part of the weight.
    """

    explainer: str
    value: str
    weights: tuple[Weight, ...]
    others: int
    share: str


@dataclass(frozen=True)
class ModelCharts:
    """A model's maps of a row, for the class `target`."""

    index: int
    model: str
    target: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class MappedRow:
    """The maps of one row of the table."""

    id: str
    label: str
    lines: tuple[ModelCharts, ...]


def mapped_rows(contents: Contents, measure: str) -> tuple[tuple[MappedRow, ...], int]:
    """The maps of rows as bars, as many as the page has room for, and how many there are; none without columns.

    measure: the key of the one that stands with each map.
    """
    ends = np.cumsum([len(column["values"]) or 1 for column in contents.rows("columns")])
    if not len(ends) or contents.record.data.shape != (int(ends[-1]),):
        return (), 0
    by_example: dict[object, list[Row]] = {}
    for row in contents.rows("maps"):
        if row["map"] is not None and len(row["map"]) == ends[-1]:
            by_example.setdefault(row["example"], []).append(row)
    starts = [0, *ends[:-1].tolist()]
    shown = list(by_example.values())[:SHOWN_ROWS]
    return tuple(_row(contents, rows, starts, measure) for rows in shown), len(by_example)


def _row(contents: Contents, rows: list[Row], starts: Sequence[int], measure: str) -> MappedRow:
    example = rows[0]["example"]
    known = next((row for row in contents.rows("examples") if row["example"] == example), {})
    answer = next((row for row in contents.rows("answers") if row["example"] == example), None)
    values = {} if answer is None else json.loads(answer["row"])
    lines = []
    for index, model in enumerate(contents.record.models):
        mine = [row for row in rows if row["model"] == model.name]
        if mine:
            charts = tuple(_chart(contents.rows("columns"), row, starts, values, measure) for row in mine)
            lines.append(ModelCharts(index, model.name, contents.class_name(mine[0]["target"]), charts))
    return MappedRow(str(known.get("id", "")), contents.class_name(known.get("label")), tuple(lines))


def _chart(
    columns: Sequence[Row], row: Row, starts: Sequence[int], values: dict[str, float | str], measure: str
) -> Chart:
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
    return Chart(row["explainer"], value_of(row, measure), tuple(weights), len(rest), share)
