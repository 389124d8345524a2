"""Rows that learn from answers to adversarial images; and who answers here, where no people do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from advex.bundled import PREFIX as BUILTIN
from advex.errors import did_you_mean

if TYPE_CHECKING:
    from advex.papers.paper import Paper, Row

RECIPE = "recipe:"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Learned(_Model):
    """What a row learns from besides the training set: images of `start`'s network that were called unchanged.

    start: an earlier row. annotators: how many of them count, from the first.
    """

    start: str
    annotators: int = Field(ge=1)


class Simulated(_Model):
    """Annotators that are none: a network's answers, some of them errors. See `advex.feedback.simulated_annotators`.

    judge: the network: `builtin:NAME`, a run folder, or `recipe:NAME`, trained first on the whole training split, with
    `overrides`. judged: images by annotator; shared: of these, how many are also the one's before. error: share of the
    answers that are drawn from the other two. sure: a class is certain that is so far ahead of the next, in confidence.
    """

    judge: str
    overrides: tuple[str, ...] = ()
    judged: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    shared: int = Field(ge=0)
    error: float = Field(ge=0, le=1)
    sure: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> Simulated:
        if self.shared > min(self.judged):
            raise ValueError(f"shared={self.shared} images are more than one annotator judges")
        check_model("the judge", self.judge, BUILTIN, RECIPE)
        if self.overrides and not self.judge.startswith(RECIPE):
            raise ValueError(f"the judge {self.judge} is trained already: overrides belong to {RECIPE}NAME")
        return self


def check_model(what: str, model: str, *known: str) -> None:
    """Raise ValueError for a model that is neither a run folder nor of one of the known kinds: by prefixes."""
    if "," in model or (":" in model and not model.startswith(known)):  # a comma would begin another model
        kinds = ", ".join(f"{each}NAME" for each in known)
        raise ValueError(f"{what} {model} is not {kinds} or a run folder: a file names no code")


def _ready_made(row: Row) -> bool:
    return row.recipe is None or bool(row.model or row.needs)


def problems(paper: Paper) -> Iterator[str]:
    """What is wrong with the rows that learn from answers."""
    seen: set[str] = set()
    for row in paper.rows.values():
        if row.answers is not None:
            if paper.simulated is None:
                yield f"row {row.id} learns from answers, but nobody gives them: set simulated"
            elif row.answers.annotators > len(paper.simulated.judged):
                yield f"row {row.id} learns from more annotators than there are"
            if row.recipe is None or row.model:
                yield f"row {row.id} learns from answers without a recipe, or with a model that is trained already"
            if row.answers.start not in paper.rows:
                yield f"row {row.id} starts from '{row.answers.start}': {did_you_mean(row.answers.start, paper.rows)}"
            elif row.answers.start not in seen or paper.original(paper.rows[row.answers.start]).answers is not None:
                yield f"row {row.id} starts from {row.answers.start}, which must come before it and know no answers"
            elif _ready_made(paper.original(paper.rows[row.answers.start])):
                yield f"row {row.id} starts from {row.answers.start}, which is no network that is trained here for it"
        seen.add(row.id)
    if paper.simulated is not None:
        for name, scale in paper.scales.items():
            if scale.simulated is not None and len(scale.simulated.judged) != len(paper.simulated.judged):
                yield f"scale {name} has another number of simulated annotators than the paper"
