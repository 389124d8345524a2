"""Two columns against each other (Woods et al. 2019, Fig. 11): marks, the front of the best, room for labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from advex.record.reproduction import PlotEntry, Reproduction

LABELLED = 14  # measured rows up to which each one is named


@dataclass(frozen=True)
class Mark:
    """One row, as published or as measured. label: empty where it is not named.

    x_range, y_range: 95 % intervals; one that is open above reaches as far as anything else in the plot.
    """

    name: str
    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    measured: bool
    label: str = ""


def drawn(found: Reproduction, plot: PlotEntry) -> list[Mark]:
    """The marks of a plot: every network once, as published and, where it was measured, as measured.

    Named are what the paper marks, the fronts, and what was measured where it is little.
    """
    marks = []
    for point in plot.published:
        here = _named(point.id, point.mark)
        marks.append(Mark(here, point.x, point.y, (point.x, point.x), (point.y, point.y), False))
    rows = [row for table in found.tables if table.id in plot.tables for row in table.rows]
    once = {row.network: row for row in rows if not plot.rows or row.network in plot.rows}
    originals = {point.id: point.mark for point in plot.published}
    for name, row in once.items():
        x, y = row.measured.get(plot.x), row.measured.get(plot.y)
        if x and y and math.isfinite(x.value) and math.isfinite(y.value):
            x_range, y_range = (x.low, x.high), (y.low, y.high)
            marks.append(Mark(_named(name, originals.get(name, "")), x.value, y.value, x_range, y_range, True))
    marks = _within(marks)
    fronts = [front([mark for mark in marks if mark.measured == kind]) for kind in (False, True)]
    best = {(mark.name, mark.measured) for line in fronts for mark in line}
    best |= {(_named(point.id, point.mark), kind) for point in plot.published if point.mark for kind in (False, True)}
    few = sum(mark.measured for mark in marks) <= LABELLED
    return [
        replace(mark, label=mark.name) if (mark.name, mark.measured) in best or (mark.measured and few) else mark
        for mark in marks
    ]


def _within(marks: Sequence[Mark]) -> list[Mark]:
    """The marks, their intervals cut where all that is finite ends."""
    right = max((end for mark in marks for end in (mark.x, *mark.x_range) if math.isfinite(end)), default=0.0)
    top = max((end for mark in marks for end in (mark.y, *mark.y_range) if math.isfinite(end)), default=0.0)
    return [
        replace(mark, x_range=(mark.x_range[0], min(mark.x_range[1], right)),
                y_range=(mark.y_range[0], min(mark.y_range[1], top)))
        for mark in marks
    ]  # fmt: skip


def _named(name: str, mark: str) -> str:
    return f"{mark} {name}".strip()


def front(marks: Sequence[Mark]) -> list[Mark]:
    """Those that no other one surpasses in both x and y, by rising x (the Pareto front; higher is better).

    >>> found = (("a", 1, 3), ("b", 2, 2), ("c", 1.5, 1), ("d", 3, 2))
    >>> [mark.name for mark in front([Mark(name, x, y, (x, x), (y, y), True) for name, x, y in found])]
    ['a', 'd']
    """
    found: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (-mark.x, -mark.y)):
        if not found or mark.y > found[-1].y:
            found.append(mark)
    return found[::-1]


def placed(
    marks: Sequence[tuple[float, float, str]], size: tuple[float, float], *, letter: float, line: float
) -> list[tuple[float, float] | None]:
    """Where each label stands (left end, middle of the line), free of marks and other labels; None: no room.

    marks: (x, y, label) in the units of `size`, upwards or downwards alike. letter, line: of the type, in them.
    """
    taken = [(x - line / 3, y - line / 3, x + line / 3, y + line / 3) for x, y, _ in marks]
    found: list[tuple[float, float] | None] = []
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
        found.append(best)
    return found


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
