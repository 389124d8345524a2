"""What goes between the server and the process that computes. Plain values: no tensors, no model code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

UPLOAD_BYTES = 10_000_000
UPLOAD_PIXELS = 40_000_000
LONGEST_NAME = 255  # characters of a file's name
LARGEST_RHO = 0.3  # of the slider
STEP_RHO = 0.005

# PNGs of an explanation.
Which = Literal["input", "changed", "difference", "map_input", "map_changed"]


@dataclass(frozen=True, kw_only=True)
class ExploreRequest:
    """What the owner wants to know about one picture.

    model: its place in the catalogue. picture: number of an example, or a PNG of the network's size. name, note: of a
    picture that is no example. target: class; None: the second likeliest. rho: RMSE of the change; None: as little as
    is needed. explainer: of the maps, a spec of the catalogue's.
    """

    model: int
    picture: int | bytes
    target: int | None
    rho: float | None
    explainer: str
    name: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ExploreResponse:
    """An explanation. entry: what `record.explored.Explored` holds, as plain values. summary: the same in words, for
    the page. pictures: PNGs by name."""

    entry: dict[str, Any]
    summary: dict[str, Any]
    pictures: dict[Which, bytes]


@dataclass(frozen=True, kw_only=True)
class FittedPicture:
    """A picture of the owner's own, as the networks take it. note: what was done to it; may be empty."""

    png: bytes
    name: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example of the data: its number, what it is called, and its class, if that is known."""

    number: int
    id: str
    label: int | None


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model, and the classes towards which a picture may be changed."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """A class of the data, and how many examples it has."""

    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class MapChoice:
    """An explainer whose maps are drawn: its spec, and how people call it."""

    spec: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What there is to choose from: models and classes by their place, maps by their spec.

    count: pictures. labels: none where the pictures' classes are not known.
    """

    data: str
    count: int
    models: tuple[ModelChoice, ...]
    labels: tuple[ClassCount, ...]
    explainers: tuple[MapChoice, ...]


class Refusal(Exception):
    """Why there is no answer, in a sentence. kind: `superseded`, `wrong` (the request's fault), `busy` or `broken`."""

    def __init__(self, kind: Literal["superseded", "wrong", "busy", "broken"], sentence: str) -> None:
        super().__init__(kind, sentence)
        self.kind, self.sentence = kind, sentence


class Explorer(Protocol):
    """What the process holds: see `study.Study`."""

    @property
    def catalogue(self) -> Catalogue:
        """What there is to choose from."""
        ...

    @property
    def quick(self) -> Mapping[str, Callable[..., Any]]:
        """What needs no model, by name: it is answered while one computes."""
        ...

    def explain(self, request: ExploreRequest, stop: Callable[[], bool]) -> ExploreResponse:
        """Raises Stopped soon after `stop` says so, InputError or SpecError for what cannot be asked."""
        ...


Load = Callable[[], Explorer]


def superseded() -> Refusal:
    """Of a request that a newer one of its page has replaced."""
    return Refusal("superseded", "A newer request from this page replaced this one.")
