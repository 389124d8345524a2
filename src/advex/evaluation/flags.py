"""Reasons to trust a figure less, each with its remedy: what the stages share, and what concerns the data.

Flags become rows of the report. Those on a model are in the files of the stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from advex.data.dataset import Dataset
from advex.record import Flag

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


def flags_of_data(data: Dataset) -> Iterator[Flag]:
    """What makes every figure on this data less certain."""
    if len(data) < FEW_EXAMPLES:
        yield flag(
            DATA, "few_examples", "note",
            f"Only {len(data)} examples: the intervals are wide, and rare failures are not seen.",
            f"Evaluate at least {FEW_EXAMPLES} examples, better 1000.",
        )  # fmt: skip
    if data.skipped:
        first = data.skipped[0]
        yield flag(
            DATA, "skipped", "note",
            f"{len(data.skipped)} examples could not be read, e.g. {first.name}: {first.reason}",
            "Mend or remove these files; the record lists them all.",
        )  # fmt: skip
