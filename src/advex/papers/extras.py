"""What is made of a row's network beside its row: studies of layers, and evaluations by settings of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from advex.errors import did_you_mean

if TYPE_CHECKING:
    from advex.papers.paper import Paper


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Extra(_Model):
    """A figure made of one row's network by work of its own, of which each scale says what it is."""

    title: str
    row: str
    caption: str = ""


class Study(_Model):
    """Every range of layers that a perceptual search may hold, see `advex.evaluation.layer_study.LayerStudy`."""

    explainer: str
    judges: tuple[str, ...]
    sigmas: tuple[float, ...]
    first: int = Field(ge=1)
    above: dict[str, float] = {}


class Generation(_Model):
    """`count` pictures of each class, `steps` gradients from a seed within an L2 ball, see `advex generate`."""

    count: int = Field(ge=1)
    radius: float = Field(gt=0)
    steps: int = Field(ge=1)


class Making(_Model):
    """What makes an extra: a study of layers, pictures of each class, or an evaluation by settings of its own, of the
    first `samples` of the test images that the network classifies correctly.
    """

    study: Study | None = None
    generation: Generation | None = None
    evaluation: dict[str, Any] = {}
    samples: int | None = Field(default=None, ge=1)


def problems(paper: Paper) -> Iterator[str]:
    """What is wrong with a paper's extras."""
    for name, extra in paper.extras.items():
        if extra.row not in paper.rows:
            yield f"extra {name} names the row '{extra.row}': {did_you_mean(extra.row, paper.rows)}"
        if name in paper.rows:
            yield f"'{name}' names an extra, and a row too"
    for name, scale in paper.scales.items():
        for extra in scale.extras.keys() - paper.extras.keys():
            yield f"scale {name}: there is no extra '{extra}': {did_you_mean(extra, paper.extras)}"
