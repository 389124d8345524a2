"""Values of a table as people type them."""

from __future__ import annotations

import math
import re

# Texts that say that a value is missing, in lower case. What is infinite was not measured either.
MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "inf", "-inf", "+inf"))
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")


def as_number(value: object) -> float | None:
    """A finite number, or a text that is one (with commas between thousands, too); None for anything else.

    >>> as_number("45,000"), as_number(" 4.5 "), as_number("4,5"), as_number("inf")
    (45000.0, 4.5, None, None)
    """
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if isinstance(text, str) and "_" in text:  # Python reads 1_000; no table means that
        return None
    try:
        number = float(text)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: object) -> str:
    """A category as typed: 1, 1.0 and " 1 " are all "1".

    >>> as_text(1.0), as_text(" red "), as_text(True)
    ('1', 'red', 'True')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def is_missing(value: object) -> bool:
    """Whether a value is missing: None, NaN, or a text such as "", "?" or "NA"."""
    return value is None or as_text(value).lower() in MISSING
