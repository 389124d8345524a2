"""Measures whose values are known once all examples are: their parts in the shards, and their columns in the table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from advex.evaluation.tasks import MeasureTask
from advex.measures.case import Measured


def settles(task: MeasureTask) -> bool:
    """Whether a measure's values hang on all examples together."""
    return hasattr(task.measure, "settle")


def column(task: MeasureTask) -> str:
    """Of a shard, with the parts of a measure."""
    return f"parts:{task.name}"


def parts(measured: Measured, count: int) -> list[list[float] | None]:
    """What a shard keeps of each of `count` examples; None of those that have nothing to say."""
    if measured.parts is None:
        return [None] * count
    known = ~measured.parts.isnan().any(dim=1)
    return [row if has else None for row, has in zip(measured.parts.tolist(), known.tolist(), strict=True)]


def added(blocks: Sequence[pa.Table], tasks: Sequence[MeasureTask]) -> Iterable[pa.Table]:
    """All shards of a kind with the values of their measures, and why there are none, in the place of their parts."""
    values: dict[str, Tensor] = {}
    reasons: list[dict[str, str]] = [{} for block in blocks for _ in range(len(block))]
    for task in tasks:
        chunks = [chunk for block in blocks for chunk in block.column(column(task)).chunks]
        values |= of_parts(task, pa.chunked_array(chunks, pa.list_(pa.float64())), reasons)
    start = 0
    for block in blocks:
        stop = start + len(block)
        known = [json.loads(text) if text else {} for text in block.column("undefined").to_pylist()]
        merged = [new | old for new, old in zip(reasons[start:stop], known, strict=True)]
        columns = {name: block.column(name) for name in block.column_names if not name.startswith("parts:")}
        columns["undefined"] = pa.array([json.dumps(each) if each else None for each in merged], pa.string())
        columns |= {key: pa.array(value[start:stop].numpy(), pa.float64()) for key, value in values.items()}
        yield pa.table(columns)
        start = stop


def of_parts(
    task: MeasureTask, column: pa.ChunkedArray, reasons: list[dict[str, str]] | None = None
) -> dict[str, Tensor]:
    """The values of all examples under a measure's keys, of their parts. reasons: see `note`."""
    rows = column.combine_chunks()
    known = rows.is_valid().to_numpy(zero_copy_only=False)
    if not known.any():
        return dict.fromkeys(task.keys.values(), torch.full((len(rows),), math.nan, dtype=torch.float64))
    kept = rows.flatten().to_numpy().reshape(known.sum(), -1)  # without rows that are null
    every = np.full((len(rows), kept.shape[1]), math.nan)
    every[known] = kept
    measured = task.measure.settle(torch.from_numpy(every))  # pyright: ignore
    values = {key: measured.values[name].double() for name, key in task.keys.items()}
    if reasons is not None:
        note(task, measured, values, reasons)
    return values


def note(task: MeasureTask, measured: Measured, values: dict[str, Tensor], reasons: list[dict[str, str]]) -> None:
    """Write into each row's `reasons` why it has no value under which of a measure's keys."""
    for reason, which in measured.undefined.items():
        for row in which.nonzero()[:, 0].tolist():
            reasons[row] |= {key: reason for key in task.keys.values() if values[key][row].isnan()}
