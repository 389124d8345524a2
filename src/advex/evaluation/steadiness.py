"""When a figure of stability says little: constant maps, an ignorant network, a search that is worse than noise."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa

from advex.drawing.numbers import percent
from advex.evaluation.columns import tensor
from advex.evaluation.flags import LARGE_SHARE, flag
from advex.evaluation.plan import MeasureTask
from advex.evaluation.run import Evaluation
from advex.measures.case import CONSTANT_MAPS
from advex.record import Flag, ModelEntry


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """Of a model whose maps' stability is measured, what makes its figures doubtful."""
    tasks = [task for task in work.plan.measures if task.measure.of == "stable"] if entry.maps else []
    if not tasks:
        return
    yield from _accuracy(work, entry, tasks)
    for name in entry.maps:
        rows = work.written.rows("maps", entry.name, name)
        yield from _constant(entry, name, rows, tasks)
        for task in tasks:
            if "by_attack" in task.keys:
                yield from _weak(entry, name, rows, task)


def _accuracy(work: Evaluation, entry: ModelEntry, tasks: list[MeasureTask]) -> Iterator[Flag]:
    """A network that answers all alike has the stablest maps. Of two classes, twice chance would be all."""
    accuracy, chance = entry.scores["accuracy"].value, work.data.chance
    if accuracy < min(2 * chance, (1 + chance) / 2):
        yield flag(
            entry.name, "stable_by_chance", "warning",
            f"The accuracy, {percent(accuracy)}, is not far above chance, {percent(chance)}: maps of a network that "
                f"has learned little are stable anyway, so {_listed(tasks)} mean little here.",
            "Compare stability only among networks of similar accuracy.",
        )  # fmt: skip


def _constant(entry: ModelEntry, name: str, rows: pa.Table, tasks: list[MeasureTask]) -> Iterator[Flag]:
    keys = {key for task in tasks for key in task.keys.values()}
    undefined = [json.loads(text) for text in rows.column("undefined").drop_null().to_pylist()]
    constant = sum(any(reason in CONSTANT_MAPS for key, reason in row.items() if key in keys) for row in undefined)
    if constant > LARGE_SHARE * len(rows):
        yield flag(
            entry.name, "constant_maps", "warning",
            f"{constant} of {len(rows)} maps by '{name}' are constant: their stability is undefined, and "
                f"{_listed(tasks)} are over the others.",
            "Check whether the network has collapsed, or its outputs are saturated (explain the logit).",
        )  # fmt: skip


def _weak(entry: ModelEntry, name: str, rows: pa.Table, task: MeasureTask) -> Iterator[Flag]:
    by_attack = tensor(rows, task.keys["by_attack"])
    known = int((~by_attack.isnan()).sum())
    lost = int((by_attack == 0).sum())
    if lost > LARGE_SHARE * known:
        yield flag(
            entry.name, "weak_map_attack", "warning",
            f"For {lost} of {known} examples the search of '{task.name}' moved the map by '{name}' less than random "
            "points did: the worst case is likely to be worse.",
            "Give it more steps, more starts (restarts=5), or another soften; compare networks with the same search.",
        )  # fmt: skip


def _listed(tasks: list[MeasureTask]) -> str:
    return ", ".join(f"'{task.name}'" for task in tasks)
