"""Every model's changes judged by every other: what each decides rightly once a change made on another is added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from advex.attacks.pgd import PGD
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.drawing.numbers import percent
from advex.errors import SpecError
from advex.evaluation import predictions
from advex.evaluation.columns import beside, table, tensor
from advex.evaluation.examples import batch_for
from advex.evaluation.flags import flag, without_gradients
from advex.evaluation.plan import Plan
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import Contrast, bounded, contrast, share
from advex.evaluation.tasks import RadiusTask
from advex.goals import Misclassify
from advex.networks.function import FunctionNetwork
from advex.record import Figure, Flag, ModelEntry, TransferFigures
from advex.record.tables import TRANSFER


def search(task: RadiusTask) -> PGD:
    """What makes the changes: 40 steps to the lowest margin, kept also where the model's own decision stays."""
    return PGD(norm=task.ball.norm.name, radius=task.ball.radius)


def check(plan: Plan, classifier: Classifier, data: Dataset) -> None:
    """Raise SpecError for a norm in which no such changes are made."""
    for task in plan.radii if plan.settings.transfer else ():
        search(task)


def check_together(plan: Plan, models: Mapping[str, Classifier]) -> None:
    """Raise SpecError for models of which none has gradients to make changes with, or whose inputs differ in range."""
    if not plan.settings.transfer:
        return
    if len(models) < 2:
        raise SpecError("Transfer tests the changes of each model on every other model: it needs at least two models.")
    if not any(map(_has_gradients, models.values())):
        raise SpecError(
            "Transfer makes changes by gradients, which none of these models has: they are functions that return "
            "outputs alone. Add a model with gradients, whose changes they can judge, or omit transfer."
        )
    (first, classifier), *others = models.items()
    for name, other in others:
        if not _same_box(classifier, other):
            raise SpecError(
                f"Transfer tries every change on every model, but {first} takes inputs in {_range(classifier)} and "
                f"{name} in {_range(other)}. Wrap both networks with the same box, or omit transfer."
            )


def _has_gradients(classifier: Classifier) -> bool:
    return not isinstance(classifier.network, FunctionNetwork) or classifier.network.pairs > 0


def _same_box(first: Classifier, second: Classifier) -> bool:
    pairs = ((getattr(each.box, end).cpu().double() for each in (first, second)) for end in ("lower", "upper"))
    return all(bool((low == high).all()) for low, high in pairs)


def _range(classifier: Classifier) -> str:
    return f"[{float(classifier.box.lower.min()):g}, {float(classifier.box.upper.max()):g}]"


def _kind(task: RadiusTask) -> str:
    return f"transfer-{task.kind}"


def pieces(work: Evaluation, model: str) -> Pieces:
    """A model's changes of all examples within every radius, and what all models say to them.

    A function without gradients makes none, and judges those of the others.
    """
    if work.plan.settings.transfer and _has_gradients(work.classifiers[model]):
        for task in work.plan.radii:
            yield work.pieces(model, _kind(task), partial(_judged, work, model, task))


def _judged(work: Evaluation, model: str, task: RadiusTask, rows: range) -> pa.Table:
    settings, classifier = work.plan.settings, work.classifiers[model]
    batch = batch_for(classifier, work.data, slice(rows.start, rows.stop))
    changed = search(task)(classifier, batch.x, Misclassify(batch.y), seed=settings.seed, max_batch="auto").adversarial
    blocks = []
    for judge, other in work.classifiers.items():
        answers = other.predict(changed.to(other.device, other.dtype), max_batch=settings.batch_size)
        silent = ~answers.isfinite().all(dim=1)
        answered = torch.where(silent, predictions.NO_ANSWER, answers.argmax(dim=1))
        n = len(rows)
        own = {name: kind for name, kind in TRANSFER.items() if name != "model"}
        blocks.append(table(own, radius=[task.key] * n, judge=[judge] * n, example=list(rows), prediction=answered))
    return pa.concat_tables(blocks)


def tables(work: Evaluation, model: str) -> Blocks:
    """The table `transfer`."""
    if not (work.plan.settings.transfer and _has_gradients(work.classifiers[model])):
        return {}
    made = (beside(block, model=model) for task in work.plan.radii for block in work.made(model, _kind(task)))
    return {"transfer": made}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """The accuracy under each model's changes, and how much more of it is lost than under the model's own."""
    if not work.plan.settings.transfer:
        return entry
    transfer = {task.key: _figures(work, entry.name, task.key) for task in work.plan.radii}
    return entry.model_copy(update={"transfer": transfer})


def _figures(work: Evaluation, judge: str, radius: str) -> TransferFigures:
    sources = [name for name, classifier in work.classifiers.items() if _has_gradients(classifier)]
    right = {source: _right(work, source, judge, radius) for source in sources}
    contrasts = [
        contrast(
            "transfer", (right[judge], held), "neither", work.plan.settings.seed,
            measure=radius, first=judge, second=source,
        )
        for source, held in right.items()
        if judge in right and source != judge
    ]  # fmt: skip
    beyond: dict[str, Figure] = {line.second: line.figure for line in bounded(contrasts)}
    return TransferFigures(accuracy={source: share(held) for source, held in right.items()}, beyond=beyond)


def _right(work: Evaluation, source: str, judge: str, radius: str) -> Tensor:
    """[n] bool: the judge decides rightly on the source's changes."""
    wanted = (pc.field("judge") == judge) & (pc.field("radius") == radius)
    rows = work.written.rows("transfer", source).filter(wanted)
    return tensor(rows, "prediction") == tensor(work.written.rows("examples", judge), "label")


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """A model that changes made on another move more often than its own: its gradients mislead."""
    for radius, transfer in entry.transfer.items():
        for source, beyond in transfer.beyond.items():
            if beyond.low > 0:
                yield flag(
                    entry.name, "transfer_beats_white_box", "warning",
                    f"Within {radius}, changes made on {source} leave {percent(transfer.accuracy[source].value)} "
                        "correct, but those made on the model itself leave "
                        f"{percent(transfer.accuracy[entry.name].value)}: {percent(beyond.value)} "
                        f"[{percent(beyond.low)}, {percent(beyond.high)}] more are lost to gradients that are not its "
                        "own, so its own are misleading.",
                    f"Search without gradients (--suite {without_gradients(work.data)}), with draws or another loss; "
                    "do not trust its radii.",
                )  # fmt: skip


def differences(results: Results) -> Iterator[Contrast]:
    """None: what is judged here are pairs already."""
    return iter(())
