"""Values of a table's rows as they stand on the page."""

from __future__ import annotations

from decimal import Decimal

from advex.drawing.numbers import date_text, number

SHOWN_ROWS = 40  # rows of the table that are shown


def value_text(value: float | str, unit: str = "") -> str:
    """A value as it was typed, with all its digits; days as dates.

    >>> value_text(45000.0, "EUR"), value_text(-0.25), value_text("own house")
    ('45,000\\u202fEUR', '−0.25', 'own house')
    """
    if isinstance(value, str):
        return value
    digits = number(value, 0) if float(value).is_integer() else f"{Decimal(repr(value)):,f}".replace("-", "−")
    return date_text(value, unit) or digits + (f"\u202f{unit}" if unit else "")
