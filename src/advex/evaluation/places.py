"""Where measures saw the labelled thing and the map's box or mask, of the examples that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from advex.data.dataset import Dataset
from advex.evaluation import settled
from advex.evaluation.tasks import MeasureTask
from advex.record.tables import PLACE


def places(measure: object) -> bool:
    """Whether a measure has a box or a mask of a map."""
    return hasattr(measure, "box_of") or hasattr(measure, "mask_of")


def rows(blocks: Sequence[pa.Table], tasks: Sequence[MeasureTask], data: Dataset) -> pa.Table:
    """A row per example that is shown and has evidence, and measure: what `PLACE` has.

    blocks: the shards of one explainer's maps of one model.
    """
    shape, evidence, made = data.shape, data.evidence, []
    assert evidence is not None
    whole = pa.concat_tables(blocks)
    kept = zip(whole.column("example").to_pylist(), whole.column("map").to_pylist(), strict=True)
    shown = {place: (row, values) for place, (row, values) in enumerate(kept) if values is not None}
    for task in tasks:
        measure: Any = task.measure
        parts = settled.parts_of(whole.column(settled.column(task)))
        for place, (row, values) in shown.items() if parts is not None else ():
            things, given = evidence.around(row), torch.tensor(values).reshape(1, *shape)
            if not len(things):
                continue
            if hasattr(measure, "box_of"):
                where = {"things": things.tolist(), "box": measure.box_of(parts, place, given, things)}
            else:
                outline = evidence.mask(row, (shape[1], shape[2])).flatten().tolist()
                where = {"things": [], "outline": outline, "mask": measure.mask_of(parts, place, given)}
            made.append({"example": row, "measure": task.name, **where})
    return pa.Table.from_pylist(made, pa.schema(PLACE))
