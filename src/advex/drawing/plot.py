"""Where a plot lies in its drawing: frame, marks of the axes, SVG path data. `plots.html.j2` draws what has these."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from advex.drawing.axes import Axis

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


def path(points: Sequence[Point]) -> str:
    """SVG path data through points of the drawing."""
    corners = (f"{_short(x)} {_short(y)}" for x, y in points)
    return "M" + " L".join(corner for corner, _ in itertools.groupby(corners))


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
