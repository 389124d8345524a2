"""Rows whose network is one of others': chosen by accuracy on examples that are neither learned from nor compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from advex.data import Dataset
from advex.errors import DataError
from advex.lookup import datasets
from advex.lookup.models import Opened, in_order_of, open_models
from advex.progress import Terminal
from advex.record.choices import ChoiceEntry
from advex.reproduction.jobs import Choice, Job
from advex.reproduction.plan import Plan

_ROWS = 256  # asked at a time


def unseen(job: Job, test: Dataset, say: Terminal, seed: int) -> Dataset:
    """A validation split that is not the one compared on, else the examples of that one that are not compared.

    test: those that are. Raises DataError where there are none.
    """
    first = datasets.split_to_judge(job.data)
    if first is None:
        raise DataError(f"{job.data} has no test or validation split: what is not compared may have been trained on.")
    split = next((name for name in datasets.held_out(job.data) if name != first), first)
    data = datasets.open_split(job.data, split, say, seed=seed, shape=test.shape, like=test)
    if split == first:
        compared = {*test.ids}
        rows = [row for row, name in enumerate(data.ids) if name not in compared]
        data = dataclasses.replace(
            data.take(torch.tensor(rows, dtype=torch.int64)), name=f"{data.name}, the rest of its split {first}"
        )
    if not len(data):
        raise DataError(f"All test examples of {job.data} are compared: none is left to choose on.")
    return data


def choose(choice: Choice, models: Mapping[str, str], data: Dataset, device: str) -> ChoiceEntry:
    """The accuracies of networks, by name, on `data`. models: where those of a choice are that could be trained."""
    opened = open_models([f"{name}={model}" for name, model in models.items()], device)
    accuracies = {model.name: _accuracy(model, data) for model in opened}
    return ChoiceEntry(
        like=choice.like.name, within=choice.within, data=data.name, examples=len(data), accuracies=accuracies,
        missing=[name for name in choice.jobs if name not in models],
    )  # fmt: skip


def _accuracy(model: Opened, data: Dataset) -> float:
    data = in_order_of([model], data)
    batches = data.batches(_ROWS, model.classifier.device)
    return sum(int((model.classifier.predict(each.x).argmax(dim=1) == each.y).sum()) for each in batches) / len(data)


def settled(plan: Plan, chosen: Mapping[str, ChoiceEntry]) -> Plan:
    """The plan with the rows of choices that were made as repetitions of what was chosen, which they then are."""
    jobs = {planned.row.id: planned for planned in plan.rows}
    rows = {}
    for name, entry in chosen.items():
        planned = jobs[name]
        note = f"{entry.sentence} {planned.row.note}".strip()
        if entry.chosen is None:
            rows[name] = dataclasses.replace(planned, reason=entry.reason, failed=True)
        else:
            row = planned.row.model_copy(update={"same_as": entry.chosen, "note": note})
            rows[name] = dataclasses.replace(jobs[entry.chosen], table=planned.table, section=planned.section, row=row)
    tables = {
        name: table.model_copy(
            update={
                "sections": tuple(
                    section.model_copy(
                        update={"rows": tuple(rows[row.id].row if row.id in rows else row for row in section.rows)}
                    )
                    for section in table.sections
                )
            }
        )
        for name, table in plan.paper.tables.items()
    }
    return dataclasses.replace(
        plan,
        paper=plan.paper.model_copy(update={"tables": tables}),
        rows=tuple(rows.get(planned.row.id, planned) for planned in plan.rows),
    )
