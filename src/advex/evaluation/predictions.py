"""What a model says to each example: its decisions and how sure it is of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from advex import measures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.drawing.numbers import percent
from advex.errors import InputError
from advex.evaluation.columns import beside, table, tensor
from advex.evaluation.examples import batch_for, spread
from advex.evaluation.flags import flag, more_examples
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import SCORES, Contrast, contrast, figure_of
from advex.logits import returns_probabilities, varies
from advex.record import Flag, ModelEntry
from advex.record.tables import PREDICTION

KIND = "predictions"
PROBE = 32  # inputs that are asked twice
NO_ANSWER = -1  # as a prediction: the network answered NaN or infinity, which is wrong whatever the label is


def pieces(work: Evaluation, model: str) -> Pieces:
    """The decisions, a piece for each shard."""
    yield work.pieces(model, KIND, partial(_predicted, work.classifiers[model], work.data))


def _predicted(classifier: Classifier, data: Dataset, rows: range) -> pa.Table:
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    confidences = classifier.predict(batch.x)
    silent = ~confidences.isfinite().all(dim=1)
    confidences = torch.where(silent[:, None], 0.0, confidences)
    confidence, prediction = confidences.max(dim=1)
    prediction = torch.where(silent, NO_ANSWER, prediction)
    return table(
        PREDICTION, example=list(rows), id=data.ids[rows.start : rows.stop], label=batch.y, prediction=prediction,
        confidence=confidence, label_confidence=confidences.gather(1, batch.y[:, None])[:, 0],
    )  # fmt: skip


def tables(work: Evaluation, model: str) -> Blocks:
    """Columns of the examples."""
    return {"examples": (beside(block, model=model) for block in work.made(model, KIND))}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """The accuracy."""
    rows = work.written.rows("examples", entry.name)
    accuracy = figure_of(measures.accuracy(tensor(rows, "prediction"), tensor(rows, "label")))
    return entry.model_copy(update={"scores": {**entry.scores, "accuracy": accuracy}})


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """What is wrong with the answers themselves."""
    classifier, data = work.classifiers[entry.name], work.data
    rows = spread(data.y, min(PROBE, work.plan.settings.batch_size), work.plan.settings.seed)
    probe = batch_for(classifier, data, torch.tensor(rows)).x
    with torch.no_grad(), classifier.frozen(), classifier.accelerated():
        once, again = classifier.logits(probe), classifier.logits(probe)
    if pairs := getattr(classifier.network, "pairs", 0):
        yield flag(
            entry.name, "estimated_gradients", "note",
            f"Its gradients are estimates, each from {pairs} pairs of outputs: searches that follow them "
                "find larger changes, so radii are too large. The function has been called on "
                f"{classifier.network.asked:,} rows.",
            "Use more pairs, or a search that uses only decisions "
                f"({'hop_skip_jump' if data.features is None else 'counterfactual'}).",
        )  # fmt: skip
    if returns_probabilities(once):
        yield flag(
            entry.name, "probabilities", "warning",
            "The network returns probabilities instead of logits: its gradients vanish where it is confident, searches "
            "stall, and it looks more robust than it is. Its confidences are wrong, too.",
            "Remove the final softmax or sigmoid and return logits.",
        )  # fmt: skip
    if varies(once, again):
        yield flag(
            entry.name, "stochastic", "warning",
            "Two outputs for the same input differ: noise misleads searches, and no figure can be reproduced.",
            "Switch the noise off in evaluation mode, or attack the mean of many outputs, e.g. minimal:draws=16.",
        )  # fmt: skip
    elif (mixing := _mixing(classifier, probe, once)) is not None:
        yield flag(
            entry.name, "rows_mix", "warning",
            f"The network's output for an example depends on the rest of the batch{mixing}: accuracies, "
                "radii and maps depend on which examples are evaluated together.",
            "Give batch norm running statistics, or use no batch statistics in evaluation mode.",
        )  # fmt: skip
    if silent := int((tensor(work.written.rows("examples", entry.name), "prediction") == NO_ANSWER).sum()):
        yield flag(
            entry.name, "no_answer", "warning",
            f"The network returns NaN or infinity for {silent} of {len(data)} examples: these count as "
                "wrong, with a radius of 0.",
            "Look for overflow, division by zero or logarithms of zero; a wider type (float32) may help.",
        )  # fmt: skip
    names = classifier.class_names
    if names is not None and names != data.class_names:
        differing = [pair for pair in zip(names, data.class_names, strict=True) if pair[0] != pair[1]]
        yield flag(
            entry.name, "class_names", "warning",
            f"{len(differing)} of the model's class names differ from those of the data, e.g. "
                f"'{differing[0][0]}' is called '{differing[0][1]}' there: the classes may be in a different "
                "order.",
            "Compare the two lists; name or order the data's classes as in training.",
        )  # fmt: skip
    accuracy = entry.scores["accuracy"]
    if accuracy.low <= data.chance:
        yield flag(
            entry.name, "low_accuracy", "warning",
            f"The accuracy, {percent(accuracy.value)}, is not clearly above that of always predicting the most "
                f"frequent class, {percent(data.chance)}: robustness areas and explanations say little.",
            f"Check the normalisation and the order of classes, or train longer. {more_examples(data)}",
        )  # fmt: skip


def _mixing(classifier: Classifier, probe: Tensor, together: Tensor) -> str | None:
    """Where rows of a batch alter each other's answers: "" or the modules known for it; None where they do not.

    Probes are asked alone, in another order and in smaller batches. probe: [n, *shape]; together: their logits.
    """
    few_digits = classifier.reduced_precision or classifier.network_dtype != classifier.dtype
    near = 2e-2 if few_digits else 1e-4  # what a sum in another order may differ by
    with torch.no_grad(), classifier.frozen(), classifier.accelerated():
        try:
            ways = [
                torch.cat([classifier.logits(row) for row in probe[:8].split(1)]),
                classifier.logits(probe.flip(0)).flip(0),
                torch.cat([classifier.logits(part) for part in probe.split(max(len(probe) // 3, 1))]),
            ]
            bound = near * (1 + together.nan_to_num(posinf=0, neginf=0).abs().amax(dim=1))
            mixed = any(((way - together[: len(way)]).abs().amax(dim=1) > bound[: len(way)]).any() for way in ways)
        except InputError:  # a batch of one has no statistics
            mixed = True
    if not mixed:
        return None
    statistics = [
        name
        for name, module in classifier.network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    return f" (batch norm without running statistics: {', '.join(statistics[:3])})" if statistics else ""


def differences(results: Results) -> Iterator[Contrast]:
    """Every two models' accuracy."""

    def right(model: str) -> torch.Tensor:
        return results.column(model, "prediction") == results.column(model, "label")

    for first, second in results.pairs:
        both, names = (right(first.name), right(second.name)), {"first": first.name, "second": second.name}
        yield contrast(SCORES, both, "high", results.seed, measure="accuracy", **names)
