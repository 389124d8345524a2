"""What pages send and get, as JSON: the forms of the interface."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from advex.annotation.store import Progress, Shown

KEY, CLIENT = r"^[0-9a-f]{32}$", r"^[A-Za-z0-9_-]{8,64}$"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Body):
    """Why a request was refused, in a sentence."""

    error: str


class Token(_Body):
    """Of a personal link."""

    token: str = Field(max_length=200)


class Given(_Body):
    """An answer. client: made by the browser, one for each answer."""

    client: str = Field(pattern=CLIENT)
    image: str = Field(pattern=KEY)
    answer: Literal["unchanged", "unsure", "changed"]
    milliseconds: int | None = Field(None, ge=0, le=2**31 - 1)


class Undone(_Body):
    """Takes the answer with the client id `undoes` back."""

    client: str = Field(pattern=CLIENT)
    undoes: str = Field(pattern=CLIENT)


class Asked(_Body):
    """An image to judge."""

    key: str
    label: str

    @classmethod
    def of(cls, shown: Shown) -> Asked:
        """As the store says it."""
        return cls(key=shown.key, label=shown.label)


class Last(_Body):
    """The answer that an undo would take back."""

    client: str
    image: Asked


class State(_Body):
    """How far an annotator is."""

    answered: int
    left: int
    last: Last | None

    @classmethod
    def of(cls, found: Progress) -> State:
        """As the store says it."""
        last = None if found.last is None else Last(client=found.last[0], image=Asked.of(found.last[1]))
        return cls(answered=found.answered, left=found.left, last=last)


class Next(_Body):
    """The next images."""

    images: list[Asked]
    progress: State


class Kept(_Body):
    """It is kept for good."""

    kept: Literal[True] = True
