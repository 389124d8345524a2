"""Where a plot lies in its drawing: frame, marks of the axes, SVG path data. `plots.html.j2` draws what has these."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from advex.drawing.axes import Axis
from advex.drawing.numbers import number, percent

Point = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Where the plot lies in its drawing, in drawing units. gutter: width kept at the right for failures."""

    width: float = 460
    height: float = 300
    left: float = 46
    right: float = 12
    top: float = 26
    bottom: float = 46
    gutter: float = 0

    @property
    def end(self) -> float:
        """x where the axis ends."""
        return self.width - self.right - self.gutter

    @property
    def base(self) -> float:
        """y of share 0."""
        return self.height - self.bottom

    def x(self, value: float, top: float) -> float:
        """Place of a value on a horizontal axis from 0 to `top`."""
        return self.left + (self.end - self.left) * min(value, top) / top

    def y(self, share: float) -> float:
        """Place of a share on the vertical axis."""
        return self.base - (self.base - self.top) * share


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in drawing units, and its text."""

    at: float
    text: str


def across(frame: Frame, axis: Axis) -> tuple[Tick, ...]:
    """The marks of a horizontal axis."""
    return tuple(Tick(round(frame.x(axis.place(mark), 1.0), 2), text) for mark, text in axis.marks)


def upwards(frame: Frame, axis: Axis) -> tuple[Tick, ...]:
    """The marks of a vertical axis."""
    return tuple(Tick(round(frame.y(axis.place(mark)), 2), text) for mark, text in axis.marks)


def ticks(top: float, about: int = 5) -> list[float]:
    """Round numbers from 0 up to `top`, about that many.

    >>> ticks(0.23), ticks(1.0)
    ([0.0, 0.05, 0.1, 0.15, 0.2], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    power = 10 ** math.floor(math.log10(top / about))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= top / about * 0.9)
    return [round(place * step, 12) for place in range(int(top / step * (1 + 1e-9)) + 1)]


def value_ticks(top: float, frame: Frame) -> tuple[Tick, ...]:
    """Marks of a horizontal axis that ends at `top`, all with as many digits."""
    marks = ticks(top)
    digits = max((len(f"{mark:.10f}".rstrip("0").split(".")[1]) for mark in marks), default=0)
    return tuple(Tick(frame.x(mark, top), number(mark, digits)) for mark in marks)


def share_ticks(frame: Frame) -> tuple[Tick, ...]:
    """Marks of a vertical axis of shares."""
    return tuple(Tick(frame.y(share), percent(share, 0)) for share in (0, 0.25, 0.5, 0.75, 1))


def path(points: Sequence[Point]) -> str:
    """SVG path data through points of the drawing."""
    corners = (f"{_short(x)} {_short(y)}" for x, y in points)
    return "M" + " L".join(corner for corner, _ in itertools.groupby(corners))


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
