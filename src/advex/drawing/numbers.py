"""Figures in digits: as many as they carry, aligned in their column, and honest about infinity and NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime

DAYS = "days since 1970-01-01"  # the unit of a column of dates
EPOCH, _LAST = datetime(1970, 1, 1).toordinal(), datetime.max.toordinal()
UNIT = "\u202f%"  # a narrow no-break space keeps it with its number
_MINUS = "\u2212"
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def decimals(values: Iterable[float]) -> int:
    """Digits after the point for a column: three that count for its largest value, two for its smallest.

    >>> decimals([0.0457, 0.0072]), decimals([342.7, 87.5]), decimals([])
    (4, 0, 2)
    """
    sizes = [abs(value) for value in values if math.isfinite(value) and value != 0]
    if not sizes:
        return 2
    wanted = max(2 - math.floor(math.log10(max(sizes))), 1 - math.floor(math.log10(min(sizes))))
    return min(max(wanted, 0), 6) if max(sizes) < 1000 else 0


def number(value: float, digits: int) -> str:
    """A number with that many digits after the point, a true minus, and words for what is no number.

    >>> number(-0.01234, 3), number(math.inf, 3), number(math.nan, 3), number(-0.0001, 2), number(12345.0, 0)
    ('−0.012', 'infinite', '–', '0.00', '12,345')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "infinite" if value > 0 else f"{_MINUS}infinite"
    text = f"{value:,.{digits}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.removeprefix("-")
    return text.replace("-", _MINUS)


def date_text(value: float, unit: str) -> str:
    """A number of days as the date that it stands for; empty for another unit, and for days of no calendar.

    >>> date_text(11356.0, DAYS), date_text(-1.0, DAYS), date_text(5.0, "kg"), date_text(1e9, DAYS)
    ('2001-02-03', '1969-12-31', '', '')
    """
    day = EPOCH + math.floor(value)
    return datetime.fromordinal(day).date().isoformat() if unit == DAYS and 1 <= day <= _LAST else ""


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.9636), percent(1.0), percent(math.nan)
    ('96.4\\u202f%', '100.0\\u202f%', '–')
    """
    text = number(100 * share, digits)
    return text if math.isnan(share) or math.isinf(share) else text + UNIT


def confidence(share: float | None) -> str:
    """A confidence in whole per cent; the ends are never rounded into certainty.

    >>> confidence(0.974), confidence(0.9999), confidence(0.0), confidence(1.0), confidence(None)
    ('97\\u202f%', '>99\\u202f%', '<1\\u202f%', '>99\\u202f%', '–')
    """
    if share is None or not math.isfinite(share):
        return "–"
    if share > 0.99:
        return f">99{UNIT}"
    if share < 0.01:
        return f"<1{UNIT}"
    return f"{round(100 * share)}{UNIT}"


def percentages(before: float, after: float) -> tuple[str, str]:
    """Two probabilities, each in the fewest digits that tell it from the other and from an even chance.

    >>> percentages(0.22, 0.61), percentages(0.4996, 0.5004), percentages(0.001, 0.9999), percentages(0.219, 0.5006)
    (('22 %', '61 %'), ('49.96 %', '50.04 %'), ('<1 %', '>99 %'), ('22 %', '50.1 %'))
    """
    return _told_apart(before, after), _told_apart(after, before)


def _told_apart(share: float, other: float) -> str:
    for digits in range(4):
        text = _percentage(share, digits)
        if text != _percentage(other, digits) and (float(share) == 0.5 or round(100 * share, digits) != 50):
            break
    return text  # pyright: ignore[reportPossiblyUnboundVariable]


def _percentage(share: float, digits: int) -> str:
    finest, rounded = 10.0**-digits, round(100 * share, digits)
    if rounded == 0 < share:
        return f"<{finest:.{digits}f} %"
    if rounded == 100 > 100 * share:
        return f">{100 - finest:.{digits}f} %"
    return f"{rounded:.{digits}f} %"


def short(value: float) -> str:
    """A setting such as rho or chance, with no needless digits.

    >>> short(0.1), short(0.05), short(1.0)
    ('0.1', '0.05', '1')
    """
    return f"{value:.4g}".replace("-", _MINUS)


def significant(value: float, digits: int = 3) -> str:
    """A number of any size by the digits that count.

    >>> significant(0.41), significant(220.46), significant(12345.0), significant(1.2e-7), significant(1e6)
    ('0.41', '220', '12,300', '1.2 × 10⁻⁷', '10⁶')
    >>> significant(0.0), significant(-0.5), significant(math.nan)
    ('0', '−0.5', '–')
    """
    if not math.isfinite(value) or value == 0:
        return number(value, 0)
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if -4 < power < 5:
        text = number(float(f"{mantissa}e{exponent}"), max(digits - 1 - power, 0))
        return text.rstrip("0").rstrip(".") if "." in text else text
    times = f"{mantissa.rstrip('0').rstrip('.')} × ".replace("-", _MINUS)
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{'' if times == '1 × ' else times}10{raised}"


def duration(seconds: float) -> str:
    """A time span in words.

    >>> duration(12.4), duration(192.0), duration(7384.0)
    ('12 s', '3 min 12 s', '2 h 3 min')
    """
    if not math.isfinite(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def date(text: str) -> str:
    """An ISO time as a person writes it; unreadable text is given back as it is.

    >>> date("2026-11-20T09:57:03+00:00"), date("yesterday")
    ('20 November 2026, 09:57 UTC', 'yesterday')
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {at.tzname()}" if at.tzname() else ""
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M}{zone}"


def joined(words: Iterable[str]) -> str:
    """Words as a sentence lists them.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    words = list(words)
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""


def count(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "image"), count(1200, "image"), count(2, "class", "classes")
    ('1 image', '1,200 images', '2 classes')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
