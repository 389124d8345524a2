"""Two quantities against each other (Woods et al. 2019, Fig. 11): marks, the front of the best, room for labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from advex.drawing.axes import Axis, linear
from advex.drawing.numbers import significant
from advex.drawing.plot import Frame, Point, Tick, across, path, upwards

FRAME = Frame(width=720, height=460, left=56, right=16, top=26, bottom=46)
_LETTER, _LINE = 5.7, 12.0  # of labels, in drawing units


@dataclass(frozen=True)
class Mark:
    """One row, as published or as measured. label: empty where it is not named. text: shown when it is pointed at.

    x_range, y_range: 95 % intervals; one that is open above reaches as far as anything else in the plot.
    """

    name: str
    x: float
    y: float
    x_range: Point
    y_range: Point
    measured: bool
    label: str = ""
    text: str = ""


@dataclass(frozen=True)
class Dot:
    """A mark in drawing units. bars: SVG path data of its intervals. label_at: None without a label, or room for it."""

    mark: Mark
    x: float
    y: float
    bars: str
    label_at: Point | None


@dataclass(frozen=True)
class Scatter:
    """The whole plot. fronts: (measured, SVG path data). description: for those who do not see it."""

    title: str
    frame: Frame
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    fronts: tuple[tuple[bool, str], ...]
    dots: tuple[Dot, ...]
    description: str


def scatter(marks: Sequence[Mark], title: str, x_title: str, y_title: str, *, zero: bool) -> Scatter:
    """The plot of some marks. zero: the vertical axis begins at 0."""
    marks = _within(marks)
    upright = [end for mark in marks for end in mark.y_range]
    x = _around([end for mark in marks for end in mark.x_range])
    y = linear([0.0, *upright]) if zero else _around(upright)
    f = FRAME
    points = [(_x(x, mark.x), _y(y, mark.y)) for mark in marks]
    labels = placed(
        [(px - f.left, py - f.top, mark.label) for (px, py), mark in zip(points, marks, strict=True)],
        (f.end - f.left, f.base - f.top),
    )
    dots = tuple(
        Dot(mark, px, py, _bars(mark, x, y) if mark.measured else "",
            None if at is None else (round(at[0] + f.left, 2), round(at[1] + f.top, 2)))
        for mark, (px, py), at in zip(marks, points, labels, strict=True)
    )  # fmt: skip
    fronts = [(kind, front([mark for mark in marks if mark.measured == kind])) for kind in (False, True)]
    count = sum(mark.measured for mark in marks)
    names = ((kind, ", ".join(mark.name for mark in best)) for kind, best in fronts if best)
    in_words = " ".join(f"{'Measured' if kind else 'Published'} front: {best}." for kind, best in names)
    return Scatter(
        title, f, x_title, y_title, across(f, x), upwards(f, y),
        tuple((kind, _stairs(best, x, y)) for kind, best in fronts if best), dots,
        f"{title}: {len(marks) - count} published and {count} measured networks. {in_words}",
    )  # fmt: skip


def front(marks: Sequence[Mark]) -> list[Mark]:
    """Those that no other one surpasses in both x and y, by rising x (the Pareto front; higher is better).

    >>> points = (("a", 1, 3), ("b", 2, 2), ("c", 1.5, 1), ("d", 3, 2))
    >>> [mark.name for mark in front([Mark(name, x, y, (x, x), (y, y), True) for name, x, y in points])]
    ['a', 'd']
    """
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (-mark.x, -mark.y)):
        if not best or mark.y > best[-1].y:
            best.append(mark)
    return best[::-1]


def placed(
    marks: Sequence[tuple[float, float, str]], size: Point, *, letter: float = _LETTER, line: float = _LINE
) -> list[Point | None]:
    """Where each label stands (left end, middle of the line), free of marks and other labels; None: no room.

    marks: (x, y, label) in the units of `size`, upwards or downwards alike. letter, line: of the type, in them.
    """
    taken = [(x - line / 3, y - line / 3, x + line / 3, y + line / 3) for x, y, _ in marks]
    places: list[Point | None] = []
    for x, y, label in marks:
        width = letter * len(label)
        gap = 0.7 * line
        ways = [(gap, 0.0), (-gap - width, 0.0), (-width / 2, line), (-width / 2, -line), (gap, line), (gap, -line)]
        ways += [(-gap - width, line), (-gap - width, -line), (gap, 2 * line), (gap, -2 * line)]
        best = None
        for right, up in ways if label else []:
            box = (x + right, y + up - line / 2, x + right + width, y + up + line / 2)
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
            if inside and not any(_overlap(box, other) for other in taken):
                best = (x + right, y + up)
                taken.append(box)
                break
        places.append(best)
    return places


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _within(marks: Sequence[Mark]) -> list[Mark]:
    """The marks, their intervals cut where all that is finite ends."""
    right = max((end for mark in marks for end in (mark.x, *mark.x_range) if math.isfinite(end)), default=0.0)
    top = max((end for mark in marks for end in (mark.y, *mark.y_range) if math.isfinite(end)), default=0.0)
    return [
        replace(mark, x_range=(mark.x_range[0], min(mark.x_range[1], right)),
                y_range=(mark.y_range[0], min(mark.y_range[1], top)))
        for mark in marks
    ]  # fmt: skip


def _around(values: Sequence[float]) -> Axis:
    """A linear axis around values that need not reach down to zero."""
    low, high = min(values), max(values)
    step = linear([(high - low) or abs(high) or 1.0]).marks[1][0]
    first, last = math.floor(low / step), math.ceil(high / step)
    marks = [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]
    return Axis(marks[0], marks[-1], False, tuple((mark, significant(mark)) for mark in marks))


def _x(axis: Axis, value: float) -> float:
    return round(FRAME.x(axis.place(value), 1.0), 2)


def _y(axis: Axis, value: float) -> float:
    return round(FRAME.y(axis.place(value)), 2)


def _bars(mark: Mark, x: Axis, y: Axis) -> str:
    right, up = _x(x, mark.x), _y(y, mark.y)
    horizontal = path([(_x(x, mark.x_range[0]), up), (_x(x, mark.x_range[1]), up)])
    return f"{horizontal} {path([(right, _y(y, mark.y_range[0])), (right, _y(y, mark.y_range[1]))])}"


def _stairs(best: Sequence[Mark], x: Axis, y: Axis) -> str:
    """The front: nothing lies right of and above it."""
    points = [(_x(x, best[0].x), _y(y, best[0].y))]
    for mark in best[1:]:
        points += [(points[-1][0], _y(y, mark.y)), (_x(x, mark.x), _y(y, mark.y))]
    return path(points)
