"""Values with their intervals, one per line, beside baselines as vertical lines through all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advex.drawing.axes import linear
from advex.drawing.numbers import decimals, number
from advex.drawing.plot import Frame, Point, Tick, across

_ROOM, _LINE = 22, 15  # of a value and of a baseline's label, in drawing units
_LETTER = 7.6  # of the widest type that plots have, on phones


@dataclass(frozen=True)
class Range:
    """A line of the plot. at, low, high: places of the value and of the ends of its interval. text: in digits."""

    name: str
    control: bool
    y: float
    at: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Baseline:
    """A vertical line. label_at: where its label begins, or ends where it is `left` of the line. text: its label."""

    at: float
    label_at: Point
    left: bool
    text: str


@dataclass(frozen=True)
class Ranges:
    """The whole plot. description: for those who do not see it."""

    title: str
    frame: Frame
    ticks: tuple[Tick, ...]
    rows: tuple[Range, ...]
    baselines: tuple[Baseline, ...]
    description: str


def ranges(
    title: str, values: Sequence[tuple[str, bool, float, Point]], baselines: Sequence[tuple[str, float]]
) -> Ranges:
    """A line for each value: (name, whether it is a control, value, its interval), all finite; and for each baseline:
    (name, value).
    """
    digits = decimals([abs(value) for _, _, value, _ in values])
    axis = linear(
        [end for _, _, value, (low, high) in values for end in (low, value, high)] + [v for _, v in baselines]
    )
    room = _LETTER * max(len(name) for name, *_ in values) + 14
    top = 8 + _LINE * len(baselines)
    frame = Frame(height=_ROOM * len(values) + top + 46, left=room, right=26, top=top)

    def x(value: float) -> float:
        return round(frame.x(axis.place(value), 1.0), 1)

    rows = tuple(
        Range(
            name, control, top + _ROOM * (line + 0.5), x(value), x(low), x(high),
            f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]",
        )
        for line, (name, control, value, (low, high)) in enumerate(values)
    )  # fmt: skip
    lines = []
    for line, (name, value) in enumerate(baselines):
        left = x(value) > (frame.left + frame.end) / 2
        label = (x(value) + (-4 if left else 4), 12.0 + _LINE * line)
        lines.append(Baseline(x(value), label, left, f"{name} {number(value, digits)}"))
    said = "; ".join([*(f"{row.name} {row.text}" for row in rows), *(line.text for line in lines)])
    return Ranges(title, frame, across(frame, axis), rows, tuple(lines), f"{title}: {said}.")
