"""What a model says to the examples once noise, blur, weather or compression have changed them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.corruptions.corruption import check as check_pictures
from advex.data.dataset import Dataset
from advex.errors import InputError
from advex.evaluation import predictions
from advex.evaluation.columns import table, tensor
from advex.evaluation.examples import batch_for
from advex.evaluation.plan import Plan
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import SCORES, Contrast, contrast, mean, share
from advex.evaluation.tasks import CorruptionTask
from advex.record import CorruptedFigures, Flag, ModelEntry
from advex.record.tables import corrupted_column

ERROR = "mean_corruption_error"


def kind(task: CorruptionTask) -> str:
    """Of its pieces."""
    return f"corrupted-{task.key}"


def check(plan: Plan, classifier: Classifier, data: Dataset) -> None:
    """Raise InputError for inputs that are no pictures from 0 to 1."""
    if plan.corruptions and classifier.features is not None:
        raise InputError(f"Corruptions need pictures, but {data.name} has rows of a table. Omit --corruptions.")
    if plan.corruptions:
        check_pictures(batch_for(classifier, data, slice(0, 2)).x)


def pieces(work: Evaluation, model: str) -> Pieces:
    """Every corruption, at all of its severities, of all examples."""
    for task in work.plan.corruptions:
        yield work.pieces(model, kind(task), partial(_predicted, task, work.classifiers[model], work))


def _predicted(task: CorruptionTask, classifier: Classifier, work: Evaluation, rows: range) -> pa.Table:
    """A column of predictions for each severity; a network that answers nothing is wrong."""
    x = batch_for(classifier, work.data, slice(rows.start, rows.stop)).x
    columns = {}
    for severity, each in task.severities.items():
        answers = classifier.predict(each(x, seed=work.plan.settings.seed), max_batch=work.plan.settings.batch_size)
        silent = ~answers.isfinite().all(dim=1)
        columns[severity] = torch.where(silent, predictions.NO_ANSWER, answers.argmax(dim=1))
    names = {corrupted_column(task.key, severity): values for severity, values in columns.items()}
    return table(dict.fromkeys(names, pa.int64()), **names)


def tables(work: Evaluation, model: str) -> Blocks:
    """Columns of the examples, corrupted_KEY_SEVERITY."""

    def blocks() -> Iterator[pa.Table]:
        for parts in zip(*(work.made(model, kind(task)) for task in work.plan.corruptions), strict=True):
            yield pa.table({name: part.column(name) for part in parts for name in part.column_names})

    return {"examples": blocks()} if work.plan.corruptions else {}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """The accuracy at each severity of each corruption, and the score mean_corruption_error."""
    rows, seed = work.written.rows("examples", entry.name), work.plan.settings.seed
    if not work.plan.corruptions:
        return entry
    severities = {task.key: list(task.severities) for task in work.plan.corruptions}
    label = tensor(rows, "label")
    corrupted = {}
    for key, several in severities.items():
        right = {each: tensor(rows, corrupted_column(key, each)) == label for each in several}
        over_severities = mean(torch.stack([*right.values()]).double().mean(dim=0), "high", seed)
        corrupted[key] = CorruptedFigures(
            accuracy={each: share(holds) for each, holds in right.items()}, mean=over_severities
        )
    scores = {**entry.scores, ERROR: mean(_errors(rows, severities), "low", seed)}
    return entry.model_copy(update={"corrupted": corrupted, "scores": scores})


def _errors(rows: pa.Table, severities: dict[str, list[int]]) -> Tensor:
    """How often each example is decided wrongly, [n]: the mean over corruptions of the mean over severities."""
    label = tensor(rows, "label")
    wrong = [
        torch.stack([(tensor(rows, corrupted_column(key, each)) != label).double() for each in several]).mean(dim=0)
        for key, several in severities.items()
    ]
    return torch.stack(wrong).mean(dim=0)


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """None: which table was taken is said with the figures."""
    return iter(())


def differences(results: Results) -> Iterator[Contrast]:
    """Every two models' mean corruption error."""
    errors = {
        entry.name: _errors(
            results.rows("examples", entry.name), {key: list(each.accuracy) for key, each in entry.corrupted.items()}
        )
        for entry in results.entries
        if entry.corrupted
    }
    for first, second in results.pairs:
        if {first.name, second.name} <= errors.keys():
            yield contrast(
                SCORES, (errors[first.name], errors[second.name]), "low", results.seed,
                measure=ERROR, first=first.name, second=second.name,
            )  # fmt: skip
