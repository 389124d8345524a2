"""Numbers as the world writes them: decimal commas, groups of thousands, signs of percent and currency.

A column is read as numbers only if all of its texts are, in one style. Where its numbers contradict each other it is
refused with the remedy, and never taken for as many categories as there are values.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from advex.errors import DataError, quoted

_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"))
# A sign, what stands before the digits, the digits with whatever is between them, an exponent, what stands behind.
_SHAPE = re.compile(
    r"(?P<sign>[+-]?) ?(?P<before>[^\d\s.,+-][^\d.,+-]*)?(?P<inner>[+-]?)"
    r"(?P<body>(?:\d[\d.,'\u2019 _]*)?[.,]?\d[.,]?)(?P<power>[eE][+-]?\d+)? ?(?P<after>\D*)"
)
_GROUPS = re.compile(r"\d{1,3}(?P<by>[.,'\u2019 _])\d{3}((?P=by)\d{3})*|\d{1,2}(,\d{2})+,\d{3}")
_SPACES = re.compile(r"\s+")
_BRACKETS = re.compile(r"\((.*)\)")
_CURRENCIES = frozenset(re.findall("...", "AUDBRLCADCHFCNYCZKDKKEURGBPHUFINRJPYKRWMXNNOKNZDPLNSEKUSDZAR"))
_MAGNITUDES = frozenset(
    ("k", "K", "m", "M", "b", "B", "bn", "Bn", "mn", "Mn", "mio", "Mio", "mrd", "Mrd", "tsd", "Tsd")
)
_FEW = 20  # so many different texts may be names and not amounts: 1A, 2A, <5, 65+


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """The numbers of a column, text by text, and the sign that all of them have ("%", "$"), empty where none has.

    decimals: the marks of decimals that surely are some.
    """

    values: list[float]
    unit: str
    decimals: frozenset[str]


@dataclass(frozen=True)
class _Parts:
    text: str
    sign: str
    body: str
    power: str
    affix: str
    behind: bool


def is_amount(text: str) -> bool:
    """Whether a text is a number in some style.

    >>> [is_amount(text) for text in ("1.000,50", "$5", "20 %", "12 kg", "A1", "2001-02-03")]
    [True, True, True, False, False, False]
    """
    parts = _parts(text)
    if parts is None or (parts.affix and not _is_sign(parts.affix)):
        return False
    return _value(parts, "," if decimal_mark(text) == "," else ".", None) is not None


def decimal_mark(text: str) -> str:
    """The decimal mark of a number: "," or "."; "?" where either may be meant, "" where there is none.

    >>> [decimal_mark(text) for text in ("1.000,50", "12.5", "1,234", "1.234.567", "7")]
    [',', '.', '?', ',', '']
    """
    parts = _parts(text)
    body = parts.body if parts else ""
    marks = [character for character in body if character in ",."]
    if len(set(marks)) == 2:
        return marks[-1]
    if len(marks) > 1:  # several of one kind group digits, and the other is the decimal mark
        return "." if marks[0] == "," else ","
    if not marks:
        return ""
    whole, mark, rest = body.partition(marks[0])
    return "?" if len(rest) == 3 and re.fullmatch(r"[1-9]\d{0,2}", whole) else mark


def amounts(
    name: str, texts: Collection[str], *, decimal: str, sure: bool, thousands: str | None = None, unit: str = ""
) -> Amounts | None:
    """The numbers that all texts of a column are; None where they are no numbers, or codes with leading zeros.

    decimal: the mark that is meant where the texts do not tell ("1,234"); sure: it was said, and no other is.
    thousands: the only character that may group digits; None: any usual one. unit: what stands beside the digits, if
    that was said. Raises DataError for numbers that contradict each other.
    """
    parts = [part for text in texts if (part := _parts(text)) is not None]
    if not parts or len(parts) < len(texts) or any(re.fullmatch(r"0\d+", part.body) for part in parts):
        return None
    votes = [decimal if sure else decimal_mark(part.text) for part in parts]
    if {",", ".", "?"} <= set(votes):
        shown = [quoted(parts[votes.index(vote)].text) for vote in ",.?"]
        raise DataError(
            f"column '{name}' has decimal commas and decimal points ({shown[0]}, {shown[1]}), and {shown[2]} "
            'may be either: correct it, or set `decimal: ","` or `decimal: .` in the YAML beside the table.'
        )
    common = next((vote for vote in votes if vote and vote in ",."), decimal)
    marks = [common if vote in ("?", "") else vote for vote in votes]
    values = [_value(part, mark, thousands) for part, mark in zip(parts, marks, strict=True)]
    known = [value for value in values if value is not None]
    shared = _shared(name, parts, values, unit)
    if shared is None or (len(known) < len(values) and (len(values) <= _FEW or 2 * len(known) < len(values))):
        return None
    if len(known) < len(values):
        strange = quoted(parts[values.index(None)].text)
        raise DataError(
            f"column '{name}' contains numbers in an unknown style {strange}: correct it, or set `decimal:` "
            "and `thousands:` in the YAML beside the table, or `kind: category` for the column."
        )
    return Amounts(values=known, unit=shared, decimals=frozenset(votes) & {",", "."})


def _parts(text: str) -> _Parts | None:
    plain = _SPACES.sub(" ", unicodedata.normalize("NFKC", text.translate(_MINUS))).strip()
    inside = _BRACKETS.fullmatch(plain)  # as accountants write what is below zero
    match = _SHAPE.fullmatch(inside[1] if inside else plain)
    if match is None or bool(match["sign"]) + bool(match["inner"]) + bool(inside) > 1:
        return None
    before, after = (match["before"] or "").strip(), match["after"].strip()
    if (before and after) or len(before) + len(after) > 12:
        return None
    sign = "-" if inside else match["sign"] or match["inner"]
    if after == "-" and not sign:  # as accounting programs write what is below zero
        sign, after = "-", ""
    return _Parts(text, sign, match["body"].strip(), match["power"] or "", before or after, bool(after))


def _value(part: _Parts, decimal: str, thousands: str | None) -> float | None:
    whole, _, rest = part.body.rpartition(decimal) if decimal in part.body else (part.body, "", "")
    if whole and not whole.isdigit():
        by = next(each for each in whole if not each.isdigit())
        if by == decimal or not _GROUPS.fullmatch(whole) or (thousands is not None and by != thousands):
            return None
        whole = re.sub(r"\D", "", whole)
    if not (whole or rest) or (rest and not rest.isdigit()):
        return None
    number = float(f"{part.sign}{whole or 0}.{rest or 0}{part.power}")
    return number if abs(number) < float("inf") else None


def _is_sign(affix: str) -> bool:
    """Whether it is a sign of percent, degrees or currency."""
    return affix in _CURRENCIES or any(each in "%\u2030\u00b0" or unicodedata.category(each) == "Sc" for each in affix)


def _shared(name: str, parts: Sequence[_Parts], values: Sequence[float | None], unit: str) -> str | None:
    """The sign that all numbers have; None where the texts are not amounts. A zero may stand without it."""
    signs = {part.affix for part, value in zip(parts, values, strict=True) if part.affix or value != 0}
    if signs <= {"", unit}:
        return unit if unit in signs else ""
    many = len(parts) > _FEW
    if len(signs) == 1:
        (sign,) = signs
        amount = _is_sign(sign) or (many and sign.isalpha() and all(part.behind for part in parts))
        return sign if amount else None
    if not many or not (any(map(_is_sign, signs)) or signs - {""} <= _MAGNITUDES):
        return None
    shown = ", ".join(quoted(next(part.text for part in parts if part.affix == sign)) for sign in sorted(signs)[:3])
    raise DataError(
        f"column '{name}' contains numbers in several units ({shown}). Convert them to one, or set `kind: "
        "category` or `kind: ignore` in the YAML beside the table."
    )
