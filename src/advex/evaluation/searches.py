"""What a model says to each example, and how far it is from saying something else: one table per shard."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from advex.attacks import Search
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.settings import SearchTask, Settings
from advex.goals import Goal
from advex.types import Batch, Perturbation

PREDICTIONS = {
    "example": pa.int64(),
    "id": pa.string(),
    "label": pa.int64(),
    "prediction": pa.int64(),
    "confidence": pa.float64(),
    "label_confidence": pa.float64(),
}
SEARCHED = {
    "rmse": pa.float64(),
    "reached": pa.bool_(),
    "gradients": pa.int64(),
    "flat": pa.bool_(),
    "valid": pa.bool_(),
}
RECHECKED = {"example": pa.int64(), "rmse": pa.float64()}


def batch_for(classifier: Classifier, data: Dataset, index: Tensor | slice) -> Batch:
    """The chosen examples where the classifier is, in its precision."""
    batch = data.batch(index, classifier.device)
    return Batch(x=batch.x.to(classifier.dtype), y=batch.y)


def predictions(classifier: Classifier, data: Dataset, rows: range) -> pa.Table:
    """The decision and its confidence for each of some rows."""
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    confidences = classifier.predict(batch.x)
    confidence, prediction = confidences.max(dim=1)
    return table(
        PREDICTIONS,
        example=list(rows),
        id=data.ids[rows.start : rows.stop],
        label=batch.y,
        prediction=prediction,
        confidence=confidence,
        label_confidence=confidences.gather(1, batch.y[:, None])[:, 0],
    )


def searched(question: SearchTask, classifier: Classifier, data: Dataset, rows: range, seed: int) -> pa.Table:
    """One search over some rows. valid: the goal holds when the change is cut to the box."""
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    goal = question.goal(batch.y)
    found = question.search(classifier, batch.x, goal, seed=seed, max_batch="auto")
    return table(
        SEARCHED,
        rmse=found.rmse,
        reached=found.reached,
        gradients=found.gradients,
        flat=found.flat,
        valid=found.reached & _holds_inside(classifier, found, goal),
    )


def _holds_inside(classifier: Classifier, found: Perturbation, goal: Goal) -> Tensor:
    """Whether the goal is reached by a valid input. Searches that keep to the box have seen to that already."""
    confined = classifier.box.confine(found.clean, found.delta)
    with torch.no_grad(), classifier.frozen(), classifier.accelerated():
        return goal(classifier, found.clean + confined).reached


def rechecked(
    question: SearchTask, longer: Search, classifier: Classifier, data: Dataset, chosen: list[int], settings: Settings
) -> pa.Table:
    """A longer search on the chosen examples."""
    batch = batch_for(classifier, data, torch.tensor(chosen))
    found = longer(classifier, batch.x, question.goal(batch.y), seed=settings.seed, max_batch=settings.batch_size)
    return table(RECHECKED, example=chosen, rmse=found.rmse)


def doubled(search: Search) -> Search | None:
    """The same search with twice the gradients, if it has such a number."""
    assert dataclasses.is_dataclass(search)
    assert not isinstance(search, type)
    budget = next((name for name in ("gradients", "steps") if hasattr(search, name)), None)
    return dataclasses.replace(search, **{budget: 2 * getattr(search, budget)}) if budget else None


def table(schema: dict[str, pa.DataType], **columns: Any) -> pa.Table:
    """Columns as a table of that schema. Columns are tensors [n] or lists."""
    return pa.table({name: pa.array(_plain(columns[name]), type=kind) for name, kind in schema.items()})


def _plain(values: Any) -> Any:
    if not isinstance(values, Tensor):
        return values
    return (values.double() if values.is_floating_point() else values).detach().cpu().numpy()
