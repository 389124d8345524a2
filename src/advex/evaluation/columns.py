"""Tensors as columns of tables, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor


def table(schema: Mapping[str, pa.DataType], **columns: Any) -> pa.Table:
    """Columns as a table of that schema. Columns are tensors [n] or lists."""
    return pa.table({name: pa.array(_plain(columns[name]), type=kind) for name, kind in schema.items()})


def _plain(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    return (values.double() if values.is_floating_point() else values).detach().cpu().numpy()


def tensor(rows: pa.Table, name: str) -> Tensor:
    """A column of numbers or truths as a tensor [n]; NaN where a number is null."""
    return torch.tensor(rows.column(name).to_numpy())


def beside(rows: pa.Table, **values: str) -> pa.Table:
    """The rows with columns before them that hold one text each."""
    columns = {name: pa.array([value] * len(rows), type=pa.string()) for name, value in values.items()}
    return pa.table(columns | {name: rows.column(name) for name in rows.column_names})


def without(block: pa.Table, *names: str) -> pa.Table:
    """A table without some columns, of which older shards may lack one."""
    return block.drop_columns([name for name in names if name in block.column_names])


def mean_over(blocks: Iterable[pa.Table], name: str) -> float | None:
    """A column's mean over the rows of all blocks, 0 without any; None where a block lacks it."""
    total, count = 0.0, 0
    for block in blocks:
        if name not in block.column_names:
            return None
        total, count = total + float(tensor(block, name).sum()), count + len(block)
    return total / max(count, 1)
