"""Sentences whose names and figures stand out, escaped; and flags that belong together."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from advex.record import Flag


def say(words: str, *parts: object) -> Markup:
    """A sentence: `words` with `{}` for each part, which is escaped unless it is of `name` or `figure`."""
    return Markup(words).format(*parts)


def name(text: str) -> Markup:
    """A model's name in a sentence."""
    return say('<span class="name">{}</span>', text)


def figure(text: str) -> Markup:
    """Digits in a sentence."""
    return say('<span class="figure">{}</span>', text)


def grouped(flags: Iterable[Flag]) -> list[tuple[tuple[str, str, str], list[Flag]]]:
    """The flags by (severity, code, remedy), warnings first: what several models share is said once."""
    groups: dict[tuple[str, str, str], list[Flag]] = {}
    for flag in sorted(flags, key=lambda flag: flag.severity != "warning"):
        groups.setdefault((flag.severity, flag.code, flag.remedy), []).append(flag)
    return list(groups.items())
