"""Paired differences of maps, by every measure: model against model, and explainer against explainer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from advex.drawing.numbers import decimals
from advex.record import Difference, Figure, MeasureEntry, Record
from advex.report.cells import BETTER, FigureCell, FigureRow, measured, p_of, turned


@dataclass(frozen=True)
class RowGroup:
    """Rows under one heading."""

    name: str
    rows: tuple[FigureRow, ...]


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


def digits_of(figures: Iterable[Figure]) -> int:
    """Digits after the point that some figures share."""
    return decimals(bound for figure in figures for bound in (figure.value, figure.high))


def models_compared(record: Record, explainers: Sequence[str], measures: Mapping[str, MeasureEntry]) -> Compared:
    """Model against model, a group for each explainer."""
    models = [model.name for model in record.models]
    return _compared(record, "model", models, {name: ("", f"{name}_") for name in explainers}, measures)


def explainers_compared(record: Record, explainers: Sequence[str], measures: Mapping[str, MeasureEntry]) -> Compared:
    """Explainer against explainer, a group for each model."""
    models = {model.name: (model.name, "") for model in record.models}
    return _compared(record, "explainer", explainers, models, measures)


def _compared(
    record: Record, axis: str, names: Sequence[str], within: Mapping[str, tuple[str, str]],
    measures: Mapping[str, MeasureEntry],
) -> Compared:  # fmt: skip
    """All pairs of names. within: group -> `Difference.model`, and what stands before the measure's key there."""
    recorded = {(difference.model, difference.measure) for difference in record.differences}
    keys = [key for key in measures if any((model, prefix + key) in recorded for model, prefix in within.values())]
    known = {key: measures[key] for key in keys}
    groups = {group: list(_rows(record, names, model, prefix, known)) for group, (model, prefix) in within.items()}
    to_first, others = (
        tuple(
            RowGroup(group, chosen)
            for group, rows in groups.items()
            if (chosen := tuple(row for row in rows if (row.minus == names[0]) == first))
        )
        for first in (True, False)
    )
    columns = tuple((titled(measure), BETTER[measure.better]) for measure in known.values())
    return Compared(axis, columns, to_first, others)


def _rows(
    record: Record, names: Sequence[str], model: str, prefix: str, measures: Mapping[str, MeasureEntry]
) -> Iterator[FigureRow]:
    """Every name minus every earlier one (of models, by the Gini index: dG, Chalasani et al. 2020, Eq. 21-22)."""
    lines: dict[str, dict[tuple[str, str], Difference]] = {prefix + key: {} for key in measures}
    for each in record.differences:
        if each.model == model and each.measure in lines:
            pairs = lines[each.measure]
            pairs[each.first, each.second] = each
            pairs[each.second, each.first] = turned(each)
    digits = {name: digits_of(each.figure for each in pairs.values()) for name, pairs in lines.items()}
    colours = {entry.name: place for place, entry in enumerate(record.models)}
    for first, second in itertools.combinations(names, 2):
        cells = []
        for key, measure in measures.items():
            name = prefix + key
            line = lines[name].get((second, first))
            if line is None:
                cells.append(FigureCell(name, "–"))
            else:
                note = ", ".join(filter(None, (_reading(line, measure), p_of(line.p))))
                cells.append(measured(name, line.figure, digits[name], note))
        if any(cell.low for cell in cells):
            yield FigureRow(colours[model or second], second, tuple(cells), first)


def _reading(line: Difference, measure: MeasureEntry) -> str:
    """What the interval and the test of a difference allow to say."""
    if math.isnan(line.figure.value):
        return "undefined"
    if not line.separated:
        return "not significant"
    larger = line.figure.value > 0
    if measure.better == "neither":
        return "larger" if larger else "smaller"
    return "better" if larger == (measure.better == "high") else "worse"
