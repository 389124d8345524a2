"""Axes whose values are not known before: where they begin and end, linear or logarithmic, and their marks."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import number, percent, significant

WIDE = 50  # values whose largest is that many times their smallest ask for a logarithmic axis
DECADES = 6  # what lies further below the middle one of all values is drawn at the foot of the axis
_LARGEST = 1e300
_ROUND = tuple(float(f"{factor}e{power}") for power in range(-305, 306) for factor in (1, 2, 5))


@dataclass(frozen=True)
class Axis:
    """From low to high. marks: (value, text). sunk: a value lies below `low` and is drawn at the foot."""

    low: float
    high: float
    logarithmic: bool
    marks: tuple[tuple[float, str], ...]
    sunk: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the foot of the axis, 1 at its end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def fitting(values: Iterable[float]) -> Axis:
    """Linear from 0, or logarithmic where the values span much and none is negative."""
    known = _finite(values)
    positive = known[known > 0]
    if len(positive) and (known >= 0).all() and positive.max() / WIDE >= positive.min():
        return logarithmic(known)
    return linear(known)


def linear(values: Iterable[float]) -> Axis:
    """From 0, or a round number below the smallest where that is negative, to one above the largest.

    >>> [text for _, text in linear([0.3, 1.1]).marks], linear([-0.4, 0.1]).low
    (['0', '0.5', '1', '1.5'], -0.4)
    """
    known = _finite(values)
    least, most = (min(known.min(), 0.0), max(known.max(), 0.0)) if len(known) else (0.0, 1.0)
    if least == most:
        most = 1.0
    step = _ROUND[bisect.bisect_left(_ROUND, (most - least) / 5 * (1 - 1e-9))]
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    marks = [float(f"{place * step:.12g}") for place in range(first, last + 1)]
    return Axis(marks[0], marks[-1], False, tuple((mark, significant(mark)) for mark in marks))


def logarithmic(values: Iterable[float], floor: float = 0.0) -> Axis:
    """Between round numbers around the positive values; zeros, and values far below the rest, sink to its foot.

    floor: it begins no lower.

    >>> [text for _, text in logarithmic([0.012, 3.0, 800.0]).marks], [text for _, text in logarithmic([3.0, 8]).marks]
    (['0.01', '0.1', '1', '10', '100', '1,000'], ['2', '4', '6', '8', '10'])
    """
    known = _finite(values)
    positive = known[known > 0]
    if not len(positive):
        return linear(known)
    least = max(float(positive.min()), float(np.median(positive)) / 10**DECADES, floor)
    first = bisect.bisect_right(_ROUND, least * (1 + 1e-9)) - 1
    last = bisect.bisect_left(_ROUND, float(positive.max()) * (1 - 1e-9))
    low, high = _ROUND[first - (first == last)], _ROUND[last + (first == last)]
    if high / 40 > low:  # whole decades
        low, high = 10.0 ** math.floor(math.log10(low) + 1e-9), 10.0 ** math.ceil(math.log10(high) - 1e-9)
        powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
        marks = [10.0**power for power in powers[:: math.ceil(len(powers) / 6)]]
    else:
        # Up to fivefold, steps of the size of its foot; further, 1, 2, 5.
        even = [low * step for step in range(1, round(high / low) + 1)] if high / low < 5.5 else []
        marks = even or [mark for mark in _ROUND if low * 0.999 <= mark <= high * 1.001]
    return Axis(low, high, True, tuple((mark, significant(mark)) for mark in marks), bool((known < low).any()))


def shares(values: Iterable[float]) -> Axis:
    """In per cent up to 100, from 0, 50, 80 or 90: the largest that is below all values.

    >>> shares([0.83, 0.97]).marks[0], shares([0.1]).low
    ((0.8, '80\\u202f%'), 0.0)
    """
    known = _finite(values)
    low = max((bound for bound in (0.0, 0.5, 0.8, 0.9) if (known >= bound).all()), default=0.0) if len(known) else 0.0
    steps = {0.0: 4, 0.5: 5, 0.8: 4, 0.9: 5}[low]  # whole per cent
    marks = [low + (1 - low) * step / steps for step in range(steps + 1)]
    return Axis(low, 1.0, False, tuple((mark, percent(mark, 0)) for mark in marks))


def whole(top: int, about: int = 5) -> tuple[tuple[float, str], ...]:
    """Marks of an axis of counts from 0 to `top`.

    >>> [text for _, text in whole(200)], [text for _, text in whole(1)], [text for _, text in whole(7)]
    (['0', '50', '100', '150', '200'], ['0', '1'], ['0', '2', '4', '6'])
    """
    step = max(1, round(_ROUND[bisect.bisect_left(_ROUND, top / about * (1 - 1e-9))]))
    return tuple((float(mark), number(mark, 0)) for mark in range(0, top + 1, step))


def _finite(values: Iterable[float]) -> np.ndarray:
    """The finite ones; kept from the ends of their type, where the next round number is infinite or zero."""
    every = np.asarray(list(values), dtype=np.float64)
    known = np.clip(every[np.isfinite(every)], -_LARGEST, _LARGEST)
    return np.where(np.abs(known) < 1 / _LARGEST, 0.0, known)
