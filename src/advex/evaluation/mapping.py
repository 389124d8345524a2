"""Which explainers' maps are made together: of those that share what is dear, it is made once for each shard."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.columns import beside
from advex.evaluation.examples import batch_for, laid_out
from advex.evaluation.plan import Plan
from advex.evaluation.run import Evaluation
from advex.evaluation.tasks import MapTask
from advex.explainers.background import with_background
from advex.explainers.maps import started
from advex.explainers.request import rows_of_a_pass
from advex.measures.case import Case

Group = tuple[MapTask, ...]


def groups(tasks: Sequence[MapTask]) -> tuple[Group, ...]:
    """The tasks, those together whose explainers share what is dear (their `part`) about the same class."""
    grouped: dict[Hashable, list[MapTask]] = {}
    for task in tasks:
        maker: Any = task.explainer
        shared = (type(maker), maker.part) if hasattr(maker, "finish") and hasattr(maker, "part") else task.name
        grouped.setdefault((task.target, shared), []).append(task)
    return tuple(map(tuple, grouped.values()))


def kind(group: Group) -> str:
    """The kind of shard that holds the maps of a group."""
    return f"map_{group[0].name}" if len(group) == 1 else f"maps_{group[0].name}"


@contextlib.contextmanager
def cases(
    group: Sequence[MapTask], classifier: Classifier, data: Dataset, plan: Plan, rows: range
) -> Iterator[Iterator[tuple[MapTask, Case, float]]]:
    """The maps of some rows, of the class that the plan says, one task after the other, and the seconds that they took.

    Each is what its explainer makes alone; what they share is made once. Its seconds count for each of them in full, as
    if its explainer had been alone. Row i depends on example i alone. Inside, the classifier is held as suits the
    pictures, for whoever measures a map.
    """
    with laid_out(classifier, data):
        yield _cases(group, classifier, data, plan, rows)


def _cases(
    group: Sequence[MapTask], classifier: Classifier, data: Dataset, plan: Plan, rows: range
) -> Iterator[tuple[MapTask, Case, float]]:
    settings, (first, *_) = plan.settings, group
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    target = batch.y
    if first.target == "predicted":
        target = classifier.predict(batch.x, max_batch=settings.batch_size).argmax(dim=1)
    elif first.target != "true":
        target = torch.full_like(batch.y, int(first.target))
    # The rows of a shard go through the network in passes that suit the machine.
    most = min(settings.batch_size, rows_of_a_pass(batch.x))
    options: dict[str, Any] = {"seed": settings.seed, "max_batch": most}
    began = time.perf_counter()
    explainers = [with_background(task.explainer, data, settings.seed) for task in group]
    if len(group) == 1:
        made = iter([explainers[0](classifier, batch.x, target, **options)])
    else:
        shared = started(explainers[0], classifier, batch.x, target, **options)
        made = (shared.finished(explainer) for explainer in explainers)
    dear, began = time.perf_counter() - began, time.perf_counter()
    for task, explainer, explanation in zip(group, explainers, made, strict=True):
        explanation.map.sum().item()  # waits for a device that is still at it
        yield task, Case(
            classifier=classifier, x=batch.x, y=batch.y, explainer=explainer, explanation=explanation,
            evidence=None if data.evidence is None else data.evidence.take(rows), seed=settings.seed, max_batch=most,
        ), dear + time.perf_counter() - began  # fmt: skip
        began = time.perf_counter()


def together(made: Iterable[tuple[MapTask, pa.Table]]) -> pa.Table:
    """A shard of the tables of a group's tasks."""
    tables = [(task.name, rows) for task, rows in made]
    return tables[0][1] if len(tables) == 1 else pa.concat_tables(beside(rows, explainer=name) for name, rows in tables)


def made_of(work: Evaluation, model: str, task: MapTask) -> Iterator[pa.Table]:
    """The finished shards of one task, of a model."""
    (group,) = (group for group in groups(work.plan.maps) if task in group)
    for block in work.made(model, kind(group)):
        yield block.filter(pc.field("explainer") == task.name).drop_columns("explainer") if len(group) > 1 else block
