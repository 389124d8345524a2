"""Accuracy-RMSE curves (Woods et al. 2019, Fig. 3) as coordinates; `plot.html.j2` draws them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import number, percent
from advex.report.names import is_published, search_title
from advex.report.reading import Contents

PERCENTILE = 98  # of all found changes: where the x axis ends


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

    def x(self, radius: float, top: float) -> float:
        """Place of a radius on an axis that ends at `top`."""
        return self.left + (self.end - self.left) * min(radius, top) / top

    def y(self, share: float) -> float:
        """Place of a share."""
        return self.base - (self.base - self.top) * share


@dataclass(frozen=True)
class Curve:
    """One model's curve. line, area: SVG path data. beyond: examples right of the axis' end. failed: share, and y."""

    index: int
    model: str
    line: str
    area: str
    beyond: int
    failed: float
    failed_text: str
    failed_y: float


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Panel:
    """The curves of all models under one search."""

    search: str
    title: str
    published: bool
    spec: str
    frame: Frame
    top: float
    top_text: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    chance_y: float
    chance_text: str
    chance_at: tuple[float, float]
    searched: bool
    description: str
    curves: tuple[Curve, ...]

    @property
    def beyond(self) -> int:
        """Examples whose change was found right of the axis' end."""
        return sum(curve.beyond for curve in self.curves)

    @property
    def failures(self) -> bool:
        """Whether any search failed."""
        return any(curve.failed > 0 for curve in self.curves)


def panels(contents: Contents) -> tuple[Panel, ...]:
    """A panel per search of the record, those of the published protocol last."""
    names = sorted(contents.record.searches, key=is_published)
    made = (_panel(contents, name) for name in names)
    return tuple(panel for panel in made if panel is not None)


def steps(radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The step function A(r) = share of examples whose smallest change exceeds r.

    radii: [n], inf where the search failed. Returns (r [k], A [k]): A holds from r[i] up to r[i + 1]; r[0] = 0.

    >>> [values.tolist() for values in steps(np.array([0.0, 0.2, 0.1, math.inf]))]
    [[0.0, 0.1, 0.2], [0.75, 0.5, 0.25]]
    """
    edges = np.unique(np.append(radii[np.isfinite(radii)], 0.0))
    above = len(radii) - np.searchsorted(np.sort(radii), edges, side="right")
    return edges, above / max(len(radii), 1)


def axis_top(found: list[np.ndarray]) -> float:
    """Where the x axis ends: the 98th percentile of all changes found that are larger than 0, one for all models."""
    finite = np.concatenate([radii[np.isfinite(radii) & (radii > 0)] for radii in found] or [np.empty(0)])
    return float(np.percentile(finite, PERCENTILE)) if len(finite) else 1.0


def ticks(top: float, about: int = 5) -> list[float]:
    """Round numbers from 0 up to `top`, about that many.

    >>> ticks(0.23), ticks(1.0)
    ([0.0, 0.05, 0.1, 0.15, 0.2], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    power = 10 ** math.floor(math.log10(top / about))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= top / about * 0.9)
    return [round(place * step, 12) for place in range(int(top / step * (1 + 1e-9)) + 1)]


def value_ticks(top: float, frame: Frame) -> tuple[Tick, ...]:
    """Marks of an axis of radii that ends at `top`."""
    marks = ticks(top)
    digits = max((len(f"{mark:.10f}".rstrip("0").split(".")[1]) for mark in marks), default=0)
    return tuple(Tick(frame.x(mark, top), number(mark, digits)) for mark in marks)


def share_ticks(frame: Frame) -> tuple[Tick, ...]:
    """Marks of the axis of shares."""
    return tuple(Tick(frame.y(share), percent(share, 0)) for share in (0, 0.25, 0.5, 0.75, 1))


def line(radii: np.ndarray, top: float, frame: Frame) -> str:
    """The curve as SVG path data, to the end of the axis."""
    points = corners(radii, top, frame)
    return path(points)


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


def corners(radii: np.ndarray, top: float, frame: Frame) -> list[tuple[float, float]]:
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


def path(points: list[tuple[float, float]]) -> str:
    """SVG path data through points of the drawing."""
    corners = (f"{_short(x)} {_short(y)}" for x, y in points)
    return "M" + " L".join(corner for corner, _ in itertools.groupby(corners))


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _panel(contents: Contents, search: str) -> Panel | None:
    record = contents.record
    found = [
        (index, model.name, radii)
        for index, model in enumerate(record.models)
        if (radii := contents.radii(model.name, search)) is not None
    ]
    if not found:
        return None
    top, chance = axis_top([radii for _, _, radii in found]), record.data.chance
    failures = any(np.isinf(radii).any() for _, _, radii in found)
    frame = Frame(gutter=64 if failures else 0)
    curves = []
    for index, model, radii in found:
        failed = float(np.isinf(radii).mean())
        beyond = int((np.isfinite(radii) & (radii > top)).sum())
        curves.append(
            Curve(
                index, model, line(radii, top, frame), area(radii, top, chance, frame), beyond,
                failed, percent(failed, 0 if failed >= 0.1 else 1), frame.y(failed),
            )
        )  # fmt: skip
    return Panel(
        search, search_title(search), is_published(search), record.searches[search], frame, top, f"{top:.3g}",
        value_ticks(top, frame), share_ticks(frame),
        frame.y(chance), f"chance {percent(chance)}", free_place([radii for _, _, radii in found], top, chance, frame),
        any((np.isfinite(radii) & (radii > 0)).any() for _, _, radii in found),
        _description(search, found), tuple(curves),
    )  # fmt: skip


def free_place(found: list[np.ndarray], top: float, chance: float, frame: Frame) -> tuple[float, float]:
    """Where the label of the chance line (right end, base line) meets no curve: above or below, right before left."""
    wide, high, level = 84, 15, frame.y(chance)
    for right in range(int(frame.end) - 4, int(frame.left) + wide, -24):
        for base in (level - 5, level + high - 2):
            if base + 3 < frame.base and not any(
                _crosses(radii, top, frame, (right - wide, right), (base - high, base + 5)) for radii in found
            ):
                return right, base
    return frame.end - 4, level - 5


def _crosses(
    radii: np.ndarray, top: float, frame: Frame, across: tuple[float, float], down: tuple[float, float]
) -> bool:
    """Whether a curve passes through a rectangle of the drawing."""
    left, right = ((x - frame.left) / (frame.end - frame.left) * top for x in across)
    highest, lowest = (frame.y(float((radii > radius).mean())) for radius in (left, right))
    return highest < down[1] and lowest > down[0]


def _description(search: str, found: list[tuple[int, str, np.ndarray]]) -> str:
    """The panel for those who do not see it: where each curve starts, and where it has halved."""
    parts = []
    for _, model, radii in found:
        start, ordered = float((radii > 0).mean()), np.sort(radii)
        half = float(ordered[math.ceil(len(ordered) * (1 - start / 2)) - 1]) if start else 0.0
        falls = f"half of that at RMSE {half:.3g}" if math.isfinite(half) else "never down to half of that"
        parts.append(f"{model} starts at {percent(start)} and is {falls}")
    return f"Share of images against RMSE of the change, {search_title(search)}: {'; '.join(parts)}."
