"""Spec strings: `pgd:norm=linf,radius=8/255`, a name and its options. The one place that reads and writes them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from advex.errors import SpecError, quoted


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """`"pgd:norm=linf,radius=8/255"` -> `("pgd", {"norm": "linf", "radius": "8/255"})`.

    Values are YAML scalars; a list is written with dashes (`widths=16-32-64`), a value that has commas
    itself in brackets (`adversarial:attack=(pgd:norm=l2,radius=1),share=1`).
    Raises SpecError for a malformed spec.
    """
    if not isinstance(spec, str):
        raise SpecError(f"A spec must be a string such as 'pgd:norm=l2,radius=0.5', not {spec!r}.")
    name, _, rest = spec.strip().partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in _split(rest))):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"In '{spec}', '{part}' is not of the form option=value.")
        if key.strip() in options:
            raise SpecError(f"In '{spec}', option '{key.strip()}' is given twice.")
        value = value.strip()
        bracketed = value.startswith("(") and value.endswith(")")
        options[key.strip()] = value[1:-1] if bracketed else parse_value(value)
    return name, options


def _split(text: str) -> list[str]:
    """Pieces between the commas that are not in brackets. Raises SpecError when brackets do not match."""
    pieces, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += character
    if depth:
        raise SpecError(f"The brackets in '{text}' do not match.")
    return pieces


def specs_from(texts: Sequence[str]) -> tuple[str, ...]:
    """Spec strings as typed, of which one text may hold several with commas between them.

    A piece `option=value` belongs to the spec before it, as does whatever is within its brackets.

    >>> specs_from(["integrated_gradients:steps=50,rule=trapezoid,grad_cam", "gradient"])
    ('integrated_gradients:steps=50,rule=trapezoid', 'grad_cam', 'gradient')
    """
    specs: list[str] = []
    for text in texts:
        pieces: list[str] = []
        for piece in text.split(","):
            inside = bool(pieces) and pieces[-1].count("(") > pieces[-1].count(")")
            option = bool(pieces) and "=" in piece and ":" not in piece.partition("=")[0]
            if inside or option:
                pieces[-1] += f",{piece}"
            else:
                pieces.append(piece.strip())
        specs += pieces
    return tuple(specs)


@functools.lru_cache(maxsize=4096)
def parse_value(text: str) -> Any:
    """A value as typed by a user: a YAML scalar, or whole numbers joined by dashes (a tuple).

    Raises SpecError.

    >>> parse_value("16-32-64"), parse_value("0.1"), parse_value("8/255")
    ((16, 32, 64), 0.1, '8/255')
    """
    from advex.documents import parse_yaml  # yaml takes 40 ms, and is not needed for `advex --help`

    if "-" in text and all(piece.isdigit() for piece in text.split("-")):
        return tuple(int(piece) for piece in text.split("-"))
    value = parse_yaml(text, f"The value {quoted(text)}", SpecError)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value):
        return float(value)  # YAML 1.1 takes 1e-4, without a point, for a word
    if isinstance(value, dict | list):
        raise SpecError(f"The value {quoted(text)} must be a number, a word, true, false or null.")
    return value


def write(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `parse`.

    >>> write("adversarial", {"attack": "pgd:norm=l2,radius=1", "share": 1.0})
    'adversarial:attack=(pgd:norm=l2,radius=1),share=1.0'
    """
    return name + (":" if options else "") + ",".join(f"{key}={write_value(value)}" for key, value in options.items())


def write_value(value: Any) -> str:
    """The text of an option's value. Brackets keep a word that would be read as something else, or as several.

    >>> [write_value(value) for value in (None, True, (16, 32), "8/255", "a,b", "null")]
    ['null', 'true', '16-32', '8/255', '(a,b)', '(null)']
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"({value})" if isinstance(value, str) and _needs_brackets(value) else str(value)


def _needs_brackets(word: str) -> bool:
    try:
        return "," in word or word.startswith("(") or str(parse_value(word)) != word
    except SpecError:
        return True
