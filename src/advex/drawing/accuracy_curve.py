"""Accuracy-RMSE curves (Woods et al. 2019, Fig. 3) as coordinates: the share of examples that withstand a change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.axes import linear, shares
from advex.drawing.numbers import percent
from advex.drawing.plot import Frame, Point, Tick, path, upwards

PERCENTILE = 98  # of all found changes: where the x axis ends


@dataclass(frozen=True)
class Backdrop:
    """What the curves of a panel are drawn on. top: where the x axis ends. chance_at: of its label."""

    frame: Frame
    top: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    chance_y: float
    chance_text: str
    chance_at: Point


def backdrop(curves: Sequence[np.ndarray], chance: float, gutter: float = 0) -> Backdrop:
    """For curves of these radii, each [n]. gutter: width at the right for what was not found."""
    top, frame = axis_top(curves), Frame(gutter=gutter)
    ticks = (Tick(frame.x(mark, top), text) for mark, text in linear([top]).marks if mark <= top)
    return Backdrop(
        frame, top, tuple(ticks), upwards(frame, shares([0.0])),
        frame.y(chance), f"chance {percent(chance)}", _free_place(curves, top, chance, frame),
    )  # fmt: skip


def steps(radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step function A(r) = share of examples whose smallest change exceeds r.

    radii: [n], inf where the search failed. Returns (r [k], A [k]): A holds from r[i] up to r[i + 1]; r[0] = 0.

    >>> [values.tolist() for values in steps(np.array([0.0, 0.2, 0.1, np.inf]))]
    [[0.0, 0.1, 0.2], [0.75, 0.5, 0.25]]
    """
    edges = np.unique(np.append(radii[np.isfinite(radii)], 0.0))
    above = len(radii) - np.searchsorted(np.sort(radii), edges, side="right")
    return edges, above / max(len(radii), 1)


def axis_top(curves: Sequence[np.ndarray]) -> float:
    """Where the x axis ends: the 98th percentile of all changes found that are larger than 0, one for all models."""
    finite = np.concatenate([radii[np.isfinite(radii) & (radii > 0)] for radii in curves] or [np.empty(0)])
    return float(np.percentile(finite, PERCENTILE)) if len(finite) else 1.0


def line(radii: np.ndarray, top: float, frame: Frame) -> str:
    """The curve as SVG path data, to the end of the axis."""
    return path(corners(radii, top, frame))


def area(radii: np.ndarray, top: float, chance: float, frame: Frame) -> str:
    """What lies between the curve and chance, where the curve is above it; empty if it never is."""
    level = frame.y(chance)
    above = [(x, y) for x, y in corners(radii, top, frame) if y < level]
    if not above:
        return ""
    # The curve only falls: the area ends where it meets chance, or with the axis.
    edges, share = steps(radii)
    below = edges[share <= chance]
    end = frame.x(float(below[0]), top) if len(below) else frame.end
    return f"{path([(frame.left, level), *above, (end, above[-1][1]), (end, level)])} Z"


def corners(radii: np.ndarray, top: float, frame: Frame) -> list[Point]:
    """Corners of the step curve, none closer than a tenth of a unit: the drawing stays small for any n."""
    edges, share = steps(radii)
    points = [(frame.left, frame.y(float(share[0])))]
    for radius, height in zip(edges[1:], share[1:], strict=True):
        if radius > top:
            break
        x, y = frame.x(float(radius), top), frame.y(float(height))
        if x - points[-1][0] < 0.1 and len(points) > 1:
            points[-1] = (points[-1][0], y)
        else:
            points += [(x, points[-1][1]), (x, y)]
    return [*points, (frame.end, points[-1][1])]


def _free_place(curves: Sequence[np.ndarray], top: float, chance: float, frame: Frame) -> Point:
    """Where the label of the chance line (right end, base line) meets no curve: above or below, right before left.

    curves: the radii of each, [n].
    """
    wide, high, level = 84, 15, frame.y(chance)
    for right in range(int(frame.end) - 4, int(frame.left) + wide, -24):
        for base in (level - 5, level + high - 2):
            if base + 3 < frame.base and not any(
                _crosses(radii, top, frame, (right - wide, right), (base - high, base + 5)) for radii in curves
            ):
                return right, base
    return frame.end - 4, level - 5


def _crosses(radii: np.ndarray, top: float, frame: Frame, across: Point, down: Point) -> bool:
    """Whether a curve passes through a rectangle of the drawing."""
    left, right = ((x - frame.left) / (frame.end - frame.left) * top for x in across)
    highest, lowest = (frame.y(float((radii > radius).mean())) for radius in (left, right))
    return highest < down[1] and lowest > down[0]
