"""Measures whose values are known once all examples are: their parts in the shards, and their columns in the table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from advex.evaluation.columns import beside
from advex.evaluation.results import Results, read_parts
from advex.evaluation.tasks import MeasureTask
from advex.measures.case import Measure, Measured, values_of
from advex.measures.intervals import bootstrap


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


def kept(tasks: Sequence[MeasureTask], block: pa.Table) -> pa.Table:
    """The parts of a shard, as rows of their table, of measures whose intervals look at all anew."""
    made = [
        beside(block.select(["example", column(task)]).rename_columns(["example", "parts"]), measure=task.name)
        for task in tasks
        if resamples(task.measure)
    ]
    return pa.concat_tables(made)


def resamples(measure: object) -> bool:
    """Whether the intervals of a measure's figures choose and weigh anew what it does on all examples."""
    return hasattr(measure, "resampled")


def estimates(results: Results, model: str, explainer: str) -> dict[str, Tensor]:
    """By the measures' keys: means of resampled examples, [RESAMPLES], on each of which all is weighed anew.

    Only of measures that look at all together, and of records that have their parts; not of figures that meant
    something else when the record was made. The draws are the same for all maps.
    """
    if results.parts is None or (model, explainer) in results.estimates:
        return results.estimates.get((model, explainer), {})
    made = results.estimates.setdefault((model, explainer), {})
    rows = read_parts(results.parts, model, explainer)
    for name in rows.column("measure").unique().to_pylist():
        spec = results.measures[name].spec
        keys = [key for key, entry in results.measures.items() if entry.spec == spec]
        measure = results.measure(spec)
        parts = rows.filter(pc.field("measure") == name).column("parts")
        drawn = zip(keys, values_of(measure).values(), resampled(measure, parts, results.seed).values(), strict=False)
        made.update(
            (key, means)
            for key, is_now, means in drawn
            if results.measures[key].title.removesuffix(f" ({key})") == is_now.title
        )
    return made


def paired(results: Results, pair: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """By the measures' keys: what each example adds to the difference of a figure of two maps, [n], where that is not
    the difference of its values.

    pair: (model, explainer), twice. As of `estimates`, of records that have the measures' parts.
    """
    made: dict[str, Tensor] = {}
    known = estimates(results, *pair[0]).keys() & estimates(results, *pair[1]).keys()
    for spec in dict.fromkeys(results.measures[key].spec for key in known):
        measure = results.measure(spec)
        if results.parts is None or not hasattr(measure, "paired"):
            continue
        keys = [key for key, entry in results.measures.items() if entry.spec == spec]
        is_its = pc.field("measure").isin(keys)
        both = [parts_of(read_parts(results.parts, *owner).filter(is_its).column("parts")) for owner in pair]
        names = dict(zip(values_of(measure), keys, strict=False))
        made |= {names[name]: adds for name, adds in measure.paired(*both).items()}
    return made


def resampled(measure: Measure, column: pa.ChunkedArray, seed: int) -> dict[str, Tensor]:
    """[RESAMPLES] means of each value of a measure, of the parts of the examples that have any; none where none has."""
    parts, again, names = parts_of(column.drop_null()), getattr(measure, "resampled", None), list(values_of(measure))
    if parts is None or again is None:
        return {}

    def means(counts: Tensor) -> Tensor:
        made = again(parts, counts)
        return torch.stack([made[name] for name in names], dim=1)

    return dict(zip(names, bootstrap(len(parts), means, seed).T, strict=True))


def parts_of(column: pa.ChunkedArray) -> Tensor | None:
    """[n, k], NaN of examples that have none; None where no example has any."""
    rows = column.combine_chunks()
    known = rows.is_valid().to_numpy(zero_copy_only=False)
    if not known.any():
        return None
    kept = rows.flatten().to_numpy().reshape(known.sum(), -1)  # without rows that are null
    every = np.full((len(rows), kept.shape[1]), math.nan)
    every[known] = kept
    return torch.from_numpy(every)


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
    parts = parts_of(column)
    if parts is None:
        return dict.fromkeys(task.keys.values(), torch.full((len(column),), math.nan, dtype=torch.float64))
    measured = task.measure.settle(parts)  # pyright: ignore
    values = {key: measured.values[name].double() for name, key in task.keys.items()}
    if reasons is not None:
        note(task, measured, values, reasons)
    return values


def note(task: MeasureTask, measured: Measured, values: dict[str, Tensor], reasons: list[dict[str, str]]) -> None:
    """Write into each row's `reasons` why it has no value under which of a measure's keys."""
    for reason, which in measured.undefined.items():
        for row in which.nonzero()[:, 0].tolist():
            reasons[row] |= {key: reason for key in task.keys.values() if values[key][row].isnan()}
