"""What goes between the server and the process that computes. Plain values: no tensors, no model code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

UPLOAD_BYTES = 10_000_000
UPLOAD_PIXELS = 40_000_000
LARGEST_RHO = 0.3  # of the slider
STEP_RHO = 0.005

# PNGs of an explanation.
Which = Literal["input", "changed", "difference", "map_input", "map_changed"]


@dataclass(frozen=True, kw_only=True)
class ExploreRequest:
    """What is asked of one picture.

    model: its place in the catalogue. picture: number of an example, or a PNG of the network's size. name, note: of a
    picture that is no example. target: class. rho: RMSE of the change; None: as little as is needed. explainer: of the
    maps, a spec of the catalogue's.
    """

    model: int
    picture: int | bytes
    target: int
    rho: float | None
    explainer: str
    name: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ExploreResponse:
    """What was found. entry: what `record.explored.Explored` holds, as plain values. told: the same in words, for the
    page. pictures: PNGs by name."""

    entry: dict[str, Any]
    told: dict[str, Any]
    pictures: dict[Which, bytes]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A picture of the owner's own, as the networks take it. note: what was done to it; may be empty."""

    png: bytes
    name: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What there is to choose from.

    models: name and class names of each. labels: names of the examples' classes, with the number of examples of each.
    """

    data: str
    models: tuple[tuple[str, tuple[str, ...]], ...]
    labels: tuple[tuple[str, int], ...]
    explainers: tuple[str, ...]

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(count for _, count in self.labels)


class Refusal(Exception):
    """Why there is no answer, in a sentence. kind: `superseded`, `wrong` (the question's fault), `busy` or `broken`."""

    def __init__(self, kind: Literal["superseded", "wrong", "busy", "broken"], sentence: str) -> None:
        super().__init__(kind, sentence)
        self.kind, self.sentence = kind, sentence


class Stopped(Exception):
    """Raised between two passes of a network: nobody waits for the answer any more."""


class Answering(Protocol):
    """What the process holds: see `study.Study`."""

    @property
    def catalogue(self) -> Catalogue:
        """What there is to choose from."""
        ...

    @property
    def quick(self) -> dict[str, Callable[..., Any]]:
        """What needs no model, by name: it is answered while one computes."""
        ...

    def explain(self, question: ExploreRequest, stop: Callable[[], bool]) -> ExploreResponse:
        """Raises Stopped soon after `stop` says so, InputError or SpecError for what cannot be asked."""
        ...


Load = Callable[[], Answering]


def superseded() -> Refusal:
    """Of a question that a newer one of its page has replaced."""
    return Refusal("superseded", "A newer request of this page took the place of this one.")
