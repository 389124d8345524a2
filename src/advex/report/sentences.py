"""Sentences whose names and figures can be told apart, and flags that belong together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from advex.record import Flag


@dataclass(frozen=True)
class Part:
    """A piece of a sentence. kind: `text`, `model` (a model's name) or `figure` (digits)."""

    text: str
    kind: str = "text"


Sentence = tuple[Part, ...]


def grouped(flags: Iterable[Flag]) -> list[tuple[tuple[str, str, str], list[Flag]]]:
    """The flags by (severity, code, remedy), warnings first: what several models share is said once."""
    groups: dict[tuple[str, str, str], list[Flag]] = {}
    for flag in sorted(flags, key=lambda flag: flag.severity != "warning"):
        groups.setdefault((flag.severity, flag.code, flag.remedy), []).append(flag)
    return list(groups.items())
