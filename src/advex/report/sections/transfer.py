"""Every model's changes judged by every other: a matrix of accuracies for each radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from advex.drawing.numbers import percent
from advex.record import ModelEntry, Record
from advex.registry import register
from advex.report.cells import FigureCell, FigureRow, measured
from advex.report.names import radius_title
from advex.report.reading import Contents


@dataclass(frozen=True)
class TransferMatrix:
    """Within a radius, a row for each model that judges, a cell for each that the changes were made on."""

    title: str
    rows: tuple[FigureRow, ...]


@register("section", "transfer")
class Transfer:
    """What each model decides rightly once changes made on each are added."""

    title, menu, place, tables = "Changes made on other models", "Transfer", 36, ()

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        record = contents.record
        keys = [key for key in record.radii if any(key in model.transfer for model in record.models)]
        if not keys:
            return None
        matrices = tuple(
            TransferMatrix(
                radius_title(key),
                tuple(_row(record, i, model, key) for i, model in enumerate(record.models) if key in model.transfer),
            )
            for key in keys
        )
        return {"matrices": matrices}


def _row(record: Record, index: int, model: ModelEntry, key: str) -> FigureRow:
    transfer = model.transfer[key]
    cells = []
    for source in record.models:
        figure, beyond = transfer.accuracy.get(source.name), transfer.beyond.get(source.name)
        note = "its own" if source is model else "more than its own" if beyond and beyond.low > 0 else ""
        name = f"transfer:{key}:{source.name}"
        cells.append(FigureCell(name, "–") if figure is None else measured(name, figure, 1, note, percent))
    return FigureRow(index, model.name, tuple(cells))
