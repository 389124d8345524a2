"""Paired differences of maps, by every measure: model against model, and explainer against explainer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from advex.drawing.numbers import decimals, number
from advex.record import Figure, MeasureEntry, Record
from advex.report.cells import Cell, separated, turned


@dataclass(frozen=True)
class MeasuredRow:
    """A row of a table. index: of the model's colour, its place in the record. minus: what it is compared with."""

    index: int
    name: str
    cells: tuple[Cell, ...]
    minus: str = ""


@dataclass(frozen=True)
class RowGroup:
    """Rows under one heading. methods: how the explainer was made, one for all models or each with its own."""

    name: str
    rows: tuple[MeasuredRow, ...]
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """Paired differences along one axis. groups: those to the first of the axis; others: between all others.

    columns: (title, good direction) of the measures that were compared.
    """

    axis: str
    columns: tuple[tuple[str, str], ...]
    groups: tuple[RowGroup, ...]
    others: tuple[RowGroup, ...]


def titled(measure: MeasureEntry) -> str:
    """A measure's title with its unit."""
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def better(measure: MeasureEntry) -> str:
    """The good direction in words, empty for neither."""
    return {"high": "higher", "low": "lower"}.get(measure.better, "")


def digits_of(figures: Sequence[Figure]) -> int:
    """Digits after the point that some figures share."""
    return decimals(bound for figure in figures for bound in (figure.value, figure.high))


def figure_cell(key: str, figure: Figure, digits: int, note: str = "") -> Cell:
    """A figure with its interval."""
    bounds = () if math.isnan(figure.low) or math.isnan(figure.high) else (figure.low, figure.high)
    return Cell(key, number(figure.value, digits), *(number(bound, digits) for bound in bounds), note=note)


def models_compared(record: Record, explainers: Sequence[str], measures: Mapping[str, MeasureEntry]) -> Compared:
    """Model against model, a group for each explainer."""
    models = [model.name for model in record.models]
    return _compared(record, "model", models, {name: ("", f"{name}_") for name in explainers}, measures)


def explainers_compared(record: Record, explainers: Sequence[str], measures: Mapping[str, MeasureEntry]) -> Compared:
    """Explainer against explainer, a group for each model."""
    return _compared(record, "explainer", explainers, {one.name: (one.name, "") for one in record.models}, measures)


def _compared(
    record: Record, axis: str, names: Sequence[str], within: Mapping[str, tuple[str, str]],
    measures: Mapping[str, MeasureEntry],
) -> Compared:  # fmt: skip
    """All pairs of names. within: group -> `Difference.model`, and what stands before the measure's key there."""
    recorded = {(one.model, one.measure) for one in record.differences}
    known = {
        key: one for key, one in measures.items() if any((of, f"{p}{key}") in recorded for of, p in within.values())
    }
    groups = {name: list(_rows(record, names, *where, known)) for name, where in within.items()}
    to_first, others = (
        tuple(
            RowGroup(name, chosen)
            for name, rows in groups.items()
            if (chosen := tuple(row for row in rows if (row.minus == names[0]) == first))
        )
        for first in (True, False)
    )
    return Compared(axis, tuple((titled(one), better(one)) for one in known.values()), to_first, others)


def _rows(
    record: Record, names: Sequence[str], model: str, prefix: str, measures: Mapping[str, MeasureEntry]
) -> Iterator[MeasuredRow]:
    """Every name minus every earlier one (of models, by the Gini index: dG, Chalasani et al. 2020, Eq. 21-22)."""
    mine = [one for one in record.differences if one.model == model]
    figures = {(one.first, one.second, one.measure): one.figure for one in mine}
    figures |= {(one.second, one.first, one.measure): turned(one.figure) for one in mine}
    digits = {key: digits_of([one.figure for one in mine if one.measure == f"{prefix}{key}"]) for key in measures}
    colours = {one.name: at for at, one in enumerate(record.models)}
    for first, second in itertools.combinations(names, 2):
        cells = []
        for key, measure in measures.items():
            figure, name = figures.get((second, first, f"{prefix}{key}")), f"{prefix}{key}"
            note = "" if figure is None else _reading(figure, measure)
            cells.append(Cell(name, "–") if figure is None else figure_cell(name, figure, digits[key], note))
        if any(cell.text != "–" for cell in cells):
            yield MeasuredRow(colours[model or second], second, tuple(cells), first)


def _reading(figure: Figure, measure: MeasureEntry) -> str:
    """What the interval of a difference allows to say."""
    if math.isnan(figure.value):
        return "undefined"
    if not separated(figure):
        return "not separated"
    larger = figure.value > 0
    if measure.better == "neither":
        return "larger" if larger else "smaller"
    return "better" if larger == (measure.better == "high") else "worse"
