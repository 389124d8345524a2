"""What pages send and get, as JSON: the forms of the interface."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

KEY, CLIENT = r"^[0-9a-f]{32}$", r"^[A-Za-z0-9_-]{8,64}$"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Body):
    """Why a request was refused, in a sentence."""

    error: str


class Token(_Body):
    """The token of a personal link."""

    token: str = Field(max_length=200)


class NewAnswer(_Body):
    """An answer. client: made by the browser, one for each answer."""

    client: str = Field(pattern=CLIENT)
    image: str = Field(pattern=KEY)
    answer: Literal["unchanged", "unsure", "changed"]
    milliseconds: int | None = Field(default=None, ge=0, le=2**31 - 1)


class Retraction(_Body):
    """Takes the answer with the client id `undoes` back."""

    client: str = Field(pattern=CLIENT)
    undoes: str = Field(pattern=CLIENT)


class AssignedImage(_Body):
    """All that an annotator learns of an image to judge."""

    key: str
    label: str


class LastAnswer(_Body):
    """The answer that an undo would take back. client: the id that the browser gave it."""

    client: str
    image: AssignedImage


class Progress(_Body):
    """How far an annotator is. left: images that may still be asked."""

    answered: int
    left: int
    last: LastAnswer | None


class NextImages(_Body):
    """The images that an annotator is asked about next."""

    images: list[AssignedImage]
    progress: Progress


class Acknowledgement(_Body):
    """The answer is committed."""

    kept: Literal[True] = True
