"""Box plots of differences example by example (Chalasani et al. 2020, Fig. 2), a box per line, all on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.axes import Axis, linear
from advex.drawing.numbers import percent, significant
from advex.drawing.plot import Frame, Tick, across

WHISKERS = (5, 95)  # percentiles
_ROOM, HALF = 34, 9  # of a box in drawing units: from one to the next, half its height


@dataclass(frozen=True)
class Box:
    """A line of the plot. index: of its colour. places: of the 5th, 25th, 50th, 75th and 95th percentile.

    mean: place of the mean; text: the mean in digits. above: share of the values above zero, in digits.
    """

    index: int
    name: str
    y: float
    places: tuple[float, ...]
    mean: float
    text: str
    above: str


@dataclass(frozen=True)
class BoxPlot:
    """Boxes above one axis. zero: place of the line at 0. description: for those who do not see it."""

    title: str
    frame: Frame
    zero: float
    ticks: tuple[Tick, ...]
    boxes: tuple[Box, ...]
    description: str
    half: float = HALF


def common_axis(samples: Sequence[np.ndarray]) -> Axis:
    """An axis for the whiskers of all samples, and for 0."""
    return linear(np.concatenate([np.percentile(values, WHISKERS) for values in samples]))


def box_plot(title: str, samples: Sequence[tuple[int, str, np.ndarray]], axis: Axis, description: str) -> BoxPlot:
    """A box for each sample: (index of its colour, name, finite values [n], n > 0)."""
    frame = Frame(height=_ROOM * len(samples) + 56, left=26, right=26, top=8)

    def x(value: float) -> float:
        return round(frame.x(axis.place(value), 1.0), 1)

    boxes = tuple(
        Box(
            index, name, frame.top + _ROOM * (line + 0.5),
            tuple(x(value) for value in np.percentile(values, (WHISKERS[0], 25, 50, 75, WHISKERS[1]))),
            x(float(values.mean())), significant(float(values.mean())), percent(float((values > 0).mean()), 0),
        )
        for line, (index, name, values) in enumerate(samples)
    )  # fmt: skip
    lines = "; ".join(f"{box.name} {box.text} on average, above zero for {box.above}" for box in boxes)
    return BoxPlot(title, frame, x(0.0), across(frame, axis), boxes, f"{description}: {lines}.")
