"""Figures as they stand in tables and sentences: digits, interval, and what must be said with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from advex.drawing.numbers import decimals, number, percent
from advex.record import Difference, Figure, Record
from advex.report.names import is_share

BETTER = {"high": "higher", "low": "lower", "neither": ""}  # `Figure.better` as people say it
CERTIFIED = ("certified_accuracy", "certified_ara")  # scores that have a section of their own


@dataclass(frozen=True)
class FigureCell:
    """One figure as shown. low, high: empty when there is no interval. note: what must be said with it."""

    key: str
    text: str
    low: str = ""
    high: str = ""
    note: str = ""


@dataclass(frozen=True)
class FigureRow:
    """A row of a table. index: of the model's colour, its place in the record. minus: what it is compared with."""

    index: int
    name: str
    cells: tuple[FigureCell, ...]
    minus: str = ""


def show(key: str, figure: Figure, digits: int, record: Record) -> FigureCell:
    """A figure with its interval, and a note where searches failed or there is no value."""
    note = ""
    if figure.failures:
        share = figure.failures / max(figure.n, 1)
        note = f"{percent(share, 0 if share >= 0.1 else 1)} not found"
    elif math.isnan(figure.value):
        note = "no examples" if not figure.n else "undefined"
    return measured(key, figure, digits, note, percent if is_share(key, record) else number)


def measured(
    key: str, figure: Figure, digits: int, note: str = "", write: Callable[[float, int], str] = number
) -> FigureCell:
    """A figure with its interval, where that says something."""
    nowhere = math.isinf(figure.low) and figure.low == figure.high
    known = not (any(map(math.isnan, (figure.value, figure.low, figure.high))) or nowhere)
    low, high = (write(figure.low, digits), write(figure.high, digits)) if known else ("", "")
    return FigureCell(key, write(figure.value, digits), low, high, note)


def digits_for(key: str, record: Record) -> int:
    """Digits after the point that all models' figures of one score share."""
    figures = [model.scores[key] for model in record.models if key in model.scores]
    if is_share(key, record):
        return 1
    return decimals([abs(value) for figure in figures for value in (figure.value, figure.high)])


def is_scored(difference: Difference, record: Record) -> bool:
    """Whether a difference is of scores; others are of maps, which have a section of their own."""
    return any(difference.measure in model.scores for model in record.models)


def together(differences: Sequence[Difference], which: str = "") -> str:
    """How far the intervals of some differences may be trusted at once; empty where there is one difference.

    which: are compared with one another, after "comparisons".
    """
    counts = {difference.comparisons for difference in differences}
    if len(differences) < 2:
        return ""
    if counts == {1}:
        return "Each interval has 95 % coverage on its own: of many, about one in twenty excludes zero by chance."
    words = " and of ".join(f"{k:,}" for k in sorted(counts))
    return f"The intervals of {words} comparisons{which} have joint 95 % coverage."


def inverse(ratio: Figure) -> Figure:
    """A ratio the other way round: second divided by first."""
    value, low, high = (1 / end if end else math.inf for end in (ratio.value, ratio.high, ratio.low))
    return ratio.model_copy(update={"value": value, "low": low, "high": high})


def turned(difference: Difference) -> Difference:
    """The same the other way round: second minus first."""
    figure, ratio = difference.figure, difference.ratio and inverse(difference.ratio)
    figure = figure.model_copy(update={"value": -figure.value, "low": -figure.high, "high": -figure.low})
    names = {"first": difference.second, "second": difference.first}
    return difference.model_copy(update={**names, "figure": figure, "ratio": ratio})


def paired(key: str, figure: Figure, record: Record) -> FigureCell:
    """A difference of two models; of two shares in percentage points."""
    if is_share(key, record):
        return points(key, figure)
    return show(key, figure, decimals([figure.value, figure.low, figure.high]), record)


def points(key: str, figure: Figure) -> FigureCell:
    """A difference of two shares, in percentage points."""
    value, low, high = (number(100 * bound, 1) for bound in (figure.value, figure.low, figure.high))
    return FigureCell(key, f"{value} points", low, high)


def in_words(figure: Figure, digits: int) -> str:
    """A figure with its interval, in running text."""
    return f"{number(figure.value, digits)} [{number(figure.low, digits)}, {number(figure.high, digits)}]"


def share_in_words(figure: Figure) -> str:
    """A share with its interval, in per cent."""
    return f"{percent(figure.value)} [{number(100 * figure.low, 1)}, {number(100 * figure.high, 1)}]"


def p_of(p: float | None) -> str:
    """A p value; empty where there is none.

    >>> p_of(0.0312), p_of(0.0001), p_of(None)
    ('p\u202f=\u202f0.031', 'p\u202f<\u202f0.001', '')
    """
    return "" if p is None else "p\u202f<\u202f0.001" if p < 0.001 else f"p\u202f=\u202f{number(p, 3)}"


def doubt(difference: Difference) -> str:
    """Why a difference is not significant; empty where it is."""
    if difference.separated:
        return ""
    figure = difference.figure
    return p_of(difference.p) if figure.low > 0 or figure.high < 0 else "the interval includes zero"


def verdict(difference: Difference) -> str:
    """What the interval and the test of a difference allow to say."""
    figure = difference.figure
    if math.isnan(figure.value) or math.isinf(figure.value):
        return "no statement: too many searches failed" if figure.failures else "no statement"
    if why := doubt(difference):
        return f"not significant: {why}"
    return f"{difference.first if figure.value > 0 else difference.second} has the larger value"
