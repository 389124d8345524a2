"""One column of a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, cast, get_args

import numpy as np

from advex.errors import DataError, did_you_mean
from advex.features.typed import as_number, as_text, is_missing

Kind = Literal["number", "category"]
Change = Literal["free", "never", "up", "down"]

_MOST_STEPS = 2**22  # from the centre: beyond that float32 cannot tell neighbouring steps apart


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column. low, high, step, center and scale are in the column's own units.

    low, high: the range of a number; needed. step: its values are low + k step (1: whole numbers); None: any.
    values: the categories, in order. change: what a search may do to it: `never` holds it fast, `up` and `down`
    let it go one way (of categories: to later or earlier ones). center, scale: a number is encoded as
    (raw - center) / scale. unit: of a number, for people.

    Raises DataError for values that contradict each other.
    """

    name: str
    kind: Kind = "number"
    low: float | None = None
    high: float | None = None
    step: float | None = None
    values: tuple[str, ...] = ()
    change: Change = "free"
    center: float = 0.0
    scale: float = 1.0
    unit: str = ""

    def __post_init__(self) -> None:
        for field, kinds in {"kind": Kind, "change": Change}.items():
            if (given := getattr(self, field)) not in get_args(kinds):
                raise DataError(f"Column '{self.name}': {field} '{given}': {did_you_mean(str(given), get_args(kinds))}")
        self._check_category() if self.kind == "category" else self._check_number()

    def _check_category(self) -> None:
        if any(value is not None for value in (self.low, self.high, self.step)):
            raise DataError(f"Column '{self.name}' contains categories: low, high and step are for numbers.")
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise DataError(f"Column '{self.name}' needs at least two different categories, not {list(self.values)}.")

    def _check_number(self) -> None:
        if self.values:
            raise DataError(f"Column '{self.name}' contains numbers: values are for kind: category.")
        if self.low is None or self.high is None:
            raise DataError(f"Column '{self.name}' needs its range: low and high.")
        if not all(map(math.isfinite, (self.low, self.high, self.step or 1, self.center, self.scale))):
            raise DataError(f"Column '{self.name}': low, high, step, center and scale must be finite.")
        if self.low >= self.high or self.scale <= 0 or (self.step is not None and self.step <= 0):
            raise DataError(
                f"Column '{self.name}': low {self.low:g} must be below high {self.high:g}, and step and scale above 0."
            )
        reach = max(abs(self.low - self.center), abs(self.high - self.center))
        if self.step is not None and reach > _MOST_STEPS * self.step:
            raise DataError(
                f"Column '{self.name}': steps of {self.step:g} from {self.low:g} to {self.high:g} cannot be "
                "distinguished in single precision: omit step, or use a larger one."
            )

    @property
    def width(self) -> int:
        """Elements that it takes in an encoded row."""
        return len(self.values) if self.kind == "category" else 1

    def raw(self, value: object) -> float:
        """A number as typed (45000, "45,000", " 4.5e4 "), in the column's units.

        Raises DataError for what is missing or no number, outside the range, or between the steps.
        """
        low, high = self.range
        number = as_number(value)
        if number is None:
            raise DataError(
                f"'{self.name}' is missing."
                if is_missing(value)
                else f"'{self.name}' is {value!r:.80}, which is not a number."
            )
        if not low <= number <= high:
            raise DataError(f"'{self.name}' is {number:g}, outside its range of {low:g} to {high:g}.")
        if self.step is not None and abs(_snapped(self, number) - number) > 1e-6 * self.step:
            raise DataError(f"'{self.name}' is {number:g}, which is not {low:g} plus whole steps of {self.step:g}.")
        return number

    def category(self, value: object) -> int:
        """The number of a category as typed. Raises DataError for what is missing or unknown."""
        text = as_text(value)
        if text in self.values:
            return self.values.index(text)
        if is_missing(value):
            raise DataError(f"'{self.name}' is missing.")
        raise DataError(f"'{self.name}' is {text!r:.80}, an unknown category: {did_you_mean(text, self.values)}")

    @property
    def range(self) -> tuple[float, float]:
        """Of a number: (low, high)."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    def encoded(self, raw: np.ndarray) -> np.ndarray:
        """Numbers [n] float64 in the column's units -> [n] float32, the nearest valid ones."""
        raw = np.clip(raw, *self.range)
        if self.step is not None:
            raw = _snapped(self, raw)
        return ((raw - self.center) / self.scale).astype(np.float32)

    def tidy(self, element: float) -> float:
        """The number with the fewest digits that is encoded as `element` (a float32), in the column's units.

        So what was typed comes back as it was typed, and what is shown is, typed in, the very same input.
        """
        low, high = self.range
        raw = self.center + self.scale * element
        if self.step is not None:
            low_, step = Decimal(repr(float(low))), Decimal(repr(float(self.step)))
            return float(low_ + _steps(self, raw) * step)
        wanted = self.encoded(np.array([raw]))[0]
        for digits in range(1, 17):
            candidate = min(max(float(f"{raw:.{digits}g}"), low), high)
            if self.encoded(np.array([candidate]))[0] == wanted:
                return candidate
        return min(max(raw, low), high)


def _steps(feature: Feature, raw: float) -> int:
    return int(round((_snapped(feature, raw) - feature.range[0]) / cast(float, feature.step)))


def _snapped(feature: Feature, raw: Any) -> Any:
    """The nearest of low, low + step, ... that is not above high."""
    (low, high), step = feature.range, cast(float, feature.step)
    return low + step * np.clip(np.rint((raw - low) / step), 0, math.floor((high - low) / step + 1e-6))
