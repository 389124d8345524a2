"""Boxes in columns of tables: which of their orders is said, and which is taken for granted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from advex.data.evidence import Region
from advex.data.source import Unreadable
from advex.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BOXES = "bbox"  # a column that is read without being named
Order = Literal["xyxy", "xywh"]


def of_rows(rows: Sequence[tuple[str, Any]], column: str, order: Order | None) -> Callable[[int], Sequence[Region]]:
    """Row -> its boxes; raises Unreadable for a row that has one which is none.

    rows: each with its place, for a sentence. order: None where nobody said it, and it is taken to be xyxy: then boxes
    that deny it are a reason to refuse all of them (DataError), since the others may be misread.
    """
    boxes = [_listed(value, column) for _, value in rows]
    for (place, _), some in zip(rows, boxes if order is None else [[]] * len(rows), strict=True):
        for box in filter(_numbers, some):
            try:
                region(box)
            except Unreadable as error:
                raise DataError(
                    f"{place} of column '{column}': {error}. A box of '{BOXES}' must be x0, y0, x1, y1, both "
                    "ends included. If these are x, y, width, height, say so: "
                    f"parquet:root=...,boxes={BOXES},order=xywh. If the order is given, single invalid rows "
                    "are skipped."
                ) from None
    return lambda row: [region(box, order or "xyxy") for box in boxes[row]]


def found(schema: pa.Schema) -> tuple[str | None, str]:
    """The column of a table that is read as boxes though nobody named one; and what is said of those that are not."""
    import pyarrow as pa  # heavy: only when asked for

    kind = schema.field(BOXES).type if BOXES in schema.names else None
    if kind is not None and pa.types.is_nested(kind):
        return BOXES, ""
    if kind is not None:
        return None, f"'{BOXES}' is {kind}, which holds no boxes: it is not read"
    named = "boxes in 'objects' are only read if their order is given (parquet:boxes=objects.bbox,order=xywh)"
    return None, named if "objects" in schema.names else ""


def has(schema: pa.Schema, column: str) -> bool:
    """Whether a table has a column, or a field of its structs, or of those in its lists."""
    import pyarrow as pa  # heavy: only when asked for

    name, _, field = column.partition(".")
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    while field and not pa.types.is_struct(kind) and pa.types.is_nested(kind):
        kind = kind.value_type
    return not field or (pa.types.is_struct(kind) and kind.get_field_index(field) >= 0)


def _listed(value: Any, column: str) -> list[Any]:
    """The boxes of a row: it has one, a list of some, a list of structs that have one each, or none."""
    field = column.rpartition(".")[2]
    if isinstance(value, dict):
        return _listed(value[field], column) if field in value else [value]
    if not isinstance(value, list | tuple):
        return [] if value is None else [value]
    every = [each.get(field) if isinstance(each, dict) else each for each in value]
    return every if not every or every[0] is None or isinstance(every[0], list | tuple) else [every]


def region(box: Any, order: Order = "xyxy") -> Region:
    """Of x0, y0, x1, y1 with both ends inside, or of x, y, width, height; numbers from 0, or texts of such.

    Raises Unreadable for what is no box.
    """
    if (numbers := _numbers(box)) is None:
        raise Unreadable(f"not a box: expected four finite numbers, not {box!r:.80}")
    x0, y0, right, bottom = numbers
    right, bottom = (x0 + right, y0 + bottom) if order == "xywh" else (right + 1, bottom + 1)
    if right <= x0 or bottom <= y0:
        last = "" if order == "xywh" else " (both ends inside)"
        raise Unreadable(f"its box has no area: {', '.join(f'{each:g}' for each in numbers)} as {order}{last}")
    return Region(box=(x0, y0, right, bottom))


def _numbers(box: Any) -> list[float] | None:
    """Four finite ones; None of what is none."""
    try:
        numbers = [float(each) for each in box]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None
