"""Accuracy on corrupted pictures: a row for each corruption and model, a column for each severity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advex.drawing.numbers import percent
from advex.record import ModelEntry
from advex.registry import register
from advex.report.cells import FigureCell, FigureRow, measured
from advex.report.reading import Contents


@dataclass(frozen=True)
class CorruptionGroup:
    """All models under a corruption."""

    title: str
    rows: tuple[FigureRow, ...]


@register("section", "corrupted")
class Corrupted:
    """What each model still classifies correctly in noise, blur, weather and after compression."""

    title, menu, place, tables = "Corrupted pictures", "Corrupted", 37, ()

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        record = contents.record
        entries = record.corruptions
        if not entries:
            return None
        severities = sorted({each for entry in entries.values() for each in entry.severities})
        models = list(enumerate(record.models))
        groups = tuple(
            CorruptionGroup(
                entry.title.replace("_", " "),
                tuple(_row(i, model, key, severities) for i, model in models if key in model.corrupted),
            )
            for key, entry in entries.items()
        )
        clean = tuple(FigureRow(i, each.name, (_cell("accuracy", each.scores["accuracy"]),)) for i, each in models)
        return {
            "groups": groups,
            "clean": clean,
            "severities": severities,
            "sides": sorted({entry.table for entry in entries.values()}),
            "generated": any(entry.title.endswith("*") for entry in entries.values()),
        }


def _row(index: int, model: ModelEntry, key: str, severities: list[int]) -> FigureRow:
    accuracy = model.corrupted[key].accuracy
    cells = (
        _cell(f"accuracy:{key}:{each}", accuracy[each]) if each in accuracy
        else FigureCell(f"accuracy:{key}:{each}", "–", note="not measured")
        for each in severities
    )  # fmt: skip
    return FigureRow(index, model.name, tuple(cells))


def _cell(key: str, figure: Any) -> FigureCell:
    return measured(key, figure, 1, write=percent)
