"""Which explanation of each model to believe: explainers by measures, beside controls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from advex.drawing.numbers import decimals, number
from advex.drawing.ranges import Ranges, ranges
from advex.record import ModelEntry, Record
from advex.registry import register
from advex.report.believed import Preference, judged, preferences
from advex.report.cells import BETTER, FigureCell, measured, p_of
from advex.report.maps_compared import digits_of, titled
from advex.report.names import words
from advex.report.reading import Contents

BEST, BESIDE = "best", "not significantly worse"


@dataclass(frozen=True)
class JudgedRow:
    """An explainer's values. control: it looks at no model. seconds: that a map took; "" where that is not known."""

    name: str
    control: bool
    cells: tuple[FigureCell, ...]
    seconds: str


@dataclass(frozen=True)
class JudgedModel:
    """The explainers of one model, and what each measure says of them."""

    index: int
    name: str
    columns: tuple[tuple[str, str, str], ...]
    rows: tuple[JudgedRow, ...]
    drawings: tuple[Ranges, ...]
    sentences: tuple[str, ...]

    @property
    def timed(self) -> bool:
        """Whether it is known how long some maps took."""
        return any(row.seconds for row in self.rows)


@register("section", "believe")
class Believe:
    """What each measure prefers; never one overall winner."""

    title, menu, place, tables = "Which explanation should I believe?", "Believe?", 28, ()

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        record = contents.record
        if not judged(record):
            return None
        models = [_judged(record, index, model) for index, model in enumerate(record.models)]
        return {"judged": [model for model in models if model.sentences]}


def _judged(record: Record, index: int, model: ModelEntry) -> JudgedModel:
    known = preferences(record, model)
    keys = {key: measure for key, measure in record.measures.items() if any(p.measure is measure for p in known)}
    by_key = dict(zip(keys, known, strict=True))
    digits = {key: digits_of(maps.figures[key] for maps in model.maps.values() if key in maps.figures) for key in keys}
    ordered = sorted(model.maps, key=lambda name: model.maps[name].control)
    rows = tuple(
        JudgedRow(
            name,
            model.maps[name].control,
            tuple(_cell(model, name, key, digits[key], by_key[key]) for key in keys),
            _seconds(model.maps[name].seconds),
        )  # fmt: skip
        for name in ordered
    )
    columns = tuple((titled(measure), BETTER[measure.better], measure.standing) for measure in keys.values())
    sentences = tuple(preference.told(words) for preference in known)
    return JudgedModel(index, model.name, columns, rows, tuple(_drawings(record, model)), sentences)


def _drawings(record: Record, model: ModelEntry) -> Iterator[Ranges]:
    """Of each measure that has baselines: its maps' values, the best first, beside lines at the baselines."""
    for key, measure in record.measures.items():
        figures = {name: maps.figures[key] for name, maps in model.maps.items() if key in maps.figures}
        figures = {name: figure for name, figure in figures.items() if math.isfinite(figure.value)}
        alike = [other for other, entry in record.measures.items() if entry.spec == measure.spec]
        lines = {other: record.measures[other].baseline for other in alike if record.measures[other].baseline}
        if key != alike[0] or not lines or not figures:
            continue
        sign = -1 if measure.better == "high" else 1
        ordered = sorted(figures, key=lambda name: sign * figures[name].value)
        values = [
            (words(name), model.maps[name].control, figure.value, (figure.low, figure.high))
            for name in ordered
            if (figure := figures[name])
        ]
        most = max(figures, key=lambda name: figures[name].n)  # some maps may have no value
        baselines = [(title, model.maps[most].figures[other].value) for other, title in lines.items()]
        yield ranges(titled(measure), values, baselines)


def _seconds(seconds: float | None) -> str:
    """In two digits that count, of a hundredth of a millisecond at least."""
    return "" if seconds is None else number(seconds, min(decimals([seconds]), 5))


def _cell(model: ModelEntry, name: str, key: str, digits: int, preference: Preference) -> FigureCell:
    figure = model.maps[name].figures.get(key)
    if figure is None:
        return FigureCell(key, "–", note="not measured")
    note = "" if preference.few else BEST if name == preference.best else BESIDE if name in preference.beside else ""
    count = sum(model.maps[name].undefined.get(key, {}).values())
    p = "" if preference.few else p_of(preference.p.get(name))
    notes = (note, p, f"{count:,} undefined" if count else "")
    return measured(key, figure, digits, ", ".join(filter(None, notes)))
