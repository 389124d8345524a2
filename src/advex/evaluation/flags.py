"""Reasons to trust a figure less, each with its remedy: what the stages share, and what concerns the data.

Flags become rows of the report. Those on a model are in the files of the stages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from advex.data.dataset import Dataset
from advex.drawing.numbers import percent
from advex.record import Flag
from advex.record.run import Training

FEW_EXAMPLES = 100
LARGE_SHARE = 0.05  # below it a share of doubtful examples is a note, from it on a warning
DATA = ""  # `Flag.model` of what concerns the data, and so every model

Severity = Literal["warning", "note"]


def severity(share: float) -> Severity:
    """How serious it is that this share of the examples is doubtful."""
    return "warning" if share >= LARGE_SHARE else "note"


def flag(model: str, code: str, severity: Severity, message: str, remedy: str) -> Flag:
    """A flag on a model."""
    return Flag(model=model, code=code, severity=severity, message=message, remedy=remedy)


def flags_of_training(model: str, known: Tensor, right: Tensor, *, by_name: bool = False) -> Iterator[Flag]:
    """That a model is evaluated on what it was trained on. known, right: [n] bool, of each example.

    by_name: known are names alone, as of streamed pictures.
    """
    count = int(known.sum())
    if by_name:
        yield flag(
            model, "known_by_name", severity(count / len(known)),
            f"{count:,} of the {len(known):,} examples have the names of pictures that it was trained on. "
                "Streamed pictures are compared by data and file names only: other pictures with these names "
                "count, the same pictures under other names do not.",
            "Make sure that these examples are not from the split it was trained on.",
        )  # fmt: skip
    elif count:
        others = len(known) - count
        accuracy = float(right[~known].double().mean())
        apart = f" Of the other {others:,} it classifies {percent(accuracy)} correctly." if others else ""
        yield flag(
            model, "trained_on", severity(count / len(known)),
            f"{count:,} of the {len(known):,} examples ({percent(count / len(known))}) are in its training data "
                "and may be memorised, so accuracy, radii and confidences are too optimistic for new "
                f"data.{apart}",
            "Evaluate on data not used in training (--split test, if a part is held out).",
        )  # fmt: skip


def flags_of_labels(model: str, training: Training | None) -> Iterator[Flag]:
    """That a model was trained on labels drawn at random: its answers do not mean the classes of the data."""
    drawn = None if training is None else re.search(r"^labels: (random:\d+)$", training.recipe, re.MULTILINE)
    if drawn:
        yield flag(
            model, "drawn_labels", "warning",
            f"It was trained on random labels (labels: {drawn[1]}), so its outputs do not correspond to the "
                "classes, and its accuracy should be at chance.",
            "Use its maps as a control: an explainer that shows what a network learned gives different maps "
                "for a network trained on the true labels.",
        )  # fmt: skip


def more_examples(data: Dataset) -> str:
    """What to do where the examples are few: take more, where the data have them."""
    whole = sum(data.class_counts)
    if whole > len(data) + data.left_out:
        return f"Evaluate more of the {whole:,} examples in the data (--max-samples)."
    if data.left_out:
        return "The data have no more examples of this selection: read the intervals, or include the others (--all)."
    return "The data have no more examples: read the intervals, and compare models on the same examples."


def without_gradients(data: Dataset) -> str:
    """Name of a search that asks such data for decisions alone."""
    return "square" if data.features is None else "counterfactual"


def flags_of_data(data: Dataset) -> Iterator[Flag]:
    """What makes every figure on this data less certain."""
    if data.selected:
        yield flag(
            DATA, "selected", "note",
            data.selected,
            "Evaluate all examples if accuracy matters: this is the accuracy on the selection.",
        )  # fmt: skip
    if len(data) < FEW_EXAMPLES:
        yield flag(
            DATA, "few_examples", "note",
            f"Only {len(data)} examples: the intervals are wide, and rare failures are not seen.",
            more_examples(data),
        )  # fmt: skip
    if data.skipped:
        first = data.skipped[0]
        yield flag(
            DATA, "skipped", "note",
            f"{len(data.skipped)} examples could not be read, e.g. {first.name}: {first.reason}",
            f"Repair or remove these {'files' if data.features is None else 'rows'}; the record lists them all.",
        )  # fmt: skip
