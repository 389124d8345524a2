"""Accuracy against change: a panel of curves per search (Woods et al. 2019, Fig. 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from advex.drawing.accuracy_curve import Backdrop, area, backdrop, line
from advex.drawing.numbers import percent
from advex.record import norm_title
from advex.registry import register
from advex.report.names import is_published, search_title
from advex.report.reading import Contents


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
class Panel:
    """The curves of all models under one search. norm: what the axis measures changes in."""

    search: str
    title: str
    norm: str
    published: bool
    backdrop: Backdrop
    top_text: str
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


@register("section", "curves")
class Curves:
    """Share of the examples that withstand every change found up to a size, for each search."""

    title, menu, place, tables = "Accuracy against change", "Curves", 40, ("examples",)

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        return {"panels": drawn} if (drawn := panels(contents)) else None


def panels(contents: Contents) -> tuple[Panel, ...]:
    """A panel per search of the record, those of the published protocol last."""
    names = sorted(contents.record.searches, key=is_published)
    made = (_panel(contents, name) for name in names)
    return tuple(panel for panel in made if panel is not None)


def _panel(contents: Contents, search: str) -> Panel | None:
    record, norm = contents.record, norm_title(contents.record.norm(search))
    measured = [
        (index, model.name, radii)
        for index, model in enumerate(record.models)
        if (radii := contents.radii(model.name, search)) is not None
    ]
    if not measured:
        return None
    all_radii, chance = [radii for _, _, radii in measured], record.data.chance
    on = backdrop(all_radii, chance, gutter=64 if any(np.isinf(radii).any() for radii in all_radii) else 0)
    curves = []
    for index, model, radii in measured:
        failed = float(np.isinf(radii).mean())
        curves.append(
            Curve(
                index, model, line(radii, on.top, on.frame), area(radii, on.top, chance, on.frame),
                int((np.isfinite(radii) & (radii > on.top)).sum()),
                failed, percent(failed, 0 if failed >= 0.1 else 1), on.frame.y(failed),
            )
        )  # fmt: skip
    searched = any((np.isfinite(radii) & (radii > 0)).any() for radii in all_radii)
    return Panel(
        search, search_title(search), norm, is_published(search), on, f"{on.top:.3g}",
        searched, _description(search, norm, measured), tuple(curves),
    )  # fmt: skip


def _description(search: str, norm: str, measured: list[tuple[int, str, np.ndarray]]) -> str:
    """The panel for those who do not see it: where each curve starts, and where it has halved."""
    parts = []
    for _, model, radii in measured:
        start, ordered = float((radii > 0).mean()), np.sort(radii)
        half = float(ordered[math.ceil(len(ordered) * (1 - start / 2)) - 1]) if start else 0.0
        falls = f"half of that at {norm} {half:.3g}" if math.isfinite(half) else "never down to half of that"
        parts.append(f"{model} starts at {percent(start)} and is {falls}")
    return f"Share of images against {norm} of the change, {search_title(search)}: {'; '.join(parts)}."
