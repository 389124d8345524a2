"""Robust accuracy: what no search moved within a radius, which one moved how many, and the curve of all distances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from advex.drawing.accuracy_curve import Backdrop, backdrop, line
from advex.drawing.numbers import count, number, percent
from advex.record import ModelEntry, RadiusEntry, RadiusFigures
from advex.registry import register
from advex.report.cells import FigureCell, measured, show
from advex.report.names import norm_title, radius_title
from advex.report.reading import Contents

_SHADES = (1.0, 0.75, 0.55, 0.4)  # of searches, the first the darkest
_BESIDE = 7  # between dots of several models at one radius, in drawing units
_MEANING = {
    "linf": "no element of the input changes by more than {} of the range from black to white",
    "l2": "the Euclidean length of the change is at most {}, the range from black to white being 1",
    "l1": "the absolute changes add up to at most {}, the range from black to white being 1",
    "rmse": "the root mean square of the change is at most {} of the range from black to white",
}


@dataclass(frozen=True)
class Part:
    """A part of a bar. kind: stands, moved or wrong. start, width: in per cent of the bar. shade: of what is moved."""

    kind: str
    name: str
    examples: int
    start: float
    width: float
    shade: float


@dataclass(frozen=True)
class RadiusRow:
    """A model within a radius. cells: of the columns. words: the bar for those who do not see it.

    alone: how many examples each search moves by itself, where that is known.
    """

    index: int
    model: str
    cells: tuple[FigureCell, ...]
    parts: tuple[Part, ...]
    words: str
    alone: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class RadiusGroup:
    """All models within a radius. meaning: what that is. searches: (name, spec string)."""

    title: str
    meaning: str
    rows: tuple[RadiusRow, ...]
    searches: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Dot:
    """A model's robust accuracy on the curve. low, high: of its interval."""

    index: int
    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class DistancePanel:
    """The curves of the attack's distances in a norm, with the robust accuracies at the radii."""

    title: str
    norm: str
    backdrop: Backdrop
    curves: tuple[tuple[int, str, str], ...]
    dots: tuple[Dot, ...]
    description: str


@register("section", "robust")
class Robust:
    """What each model withstands within every radius that was asked for."""

    title, menu, place, tables = "Robust accuracy", "Robust accuracy", 35, ("examples",)

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        radii = contents.record.radii
        if not radii:
            return None
        groups = tuple(_group(contents, key, entry) for key, entry in radii.items())
        norms = dict.fromkeys(entry.norm for entry in radii.values() if "attack" in entry.searches)
        return {"groups": groups, "panels": tuple(_panel(contents, norm) for norm in norms), "columns": _COLUMNS}


_COLUMNS = (
    ("Robust accuracy", "higher"),
    ("Of those initially correct", "higher"),
    ("By the attack's distances alone", ""),
    ("Gradients per correct example", ""),
    ("Queries", ""),
)


def _group(contents: Contents, key: str, entry: RadiusEntry) -> RadiusGroup:
    models = [(index, model) for index, model in enumerate(contents.record.models) if key in model.radii]
    meaning = _MEANING.get(entry.norm, f"the change measures at most {{}} in {entry.norm}")
    meaning = meaning.format(f"{entry.radius:.4g}")
    rows = tuple(_row(contents, index, model, key) for index, model in models)
    return RadiusGroup(radius_title(key), meaning, rows, tuple(entry.searches.items()))


def _row(contents: Contents, index: int, model: ModelEntry, key: str) -> RadiusRow:
    figures, score = model.radii[key], f"robust_accuracy:{key}"
    alone = figures.by_distance
    cells = (
        show(score, model.scores[score], 1, contents.record),
        measured(f"withstood:{key}", figures.withstood, 1, "" if figures.withstood.n else "no examples", percent),
        FigureCell(f"alone:{key}", "–", note="of another norm") if alone is None
        else measured(f"alone:{key}", alone, 1, write=percent),
        FigureCell(f"gradients:{key}", number(figures.gradients, 0)),
        FigureCell(f"queries:{key}", number(figures.queries, 0)),
    )  # fmt: skip
    parts = _parts(figures, model.scores[score].n)
    words = ", ".join(f"{part.name} {part.examples:,}" for part in parts)
    words = f"Of {count(model.scores[score].n, 'example')}: {words}."
    return RadiusRow(index, model.name, cells, parts, words, tuple((figures.alone or {}).items()))


def _parts(figures: RadiusFigures, examples: int) -> tuple[Part, ...]:
    """The examples by what became of them, in one bar."""
    stands = figures.withstood.n - sum(figures.moved.values())
    whole = [("stands", "not moved", stands, 1.0)]
    for place, (name, moved) in enumerate(figures.moved.items()):
        whole.append(("moved", f"moved by {name}", moved, _SHADES[min(place, len(_SHADES) - 1)]))
    whole.append(("wrong", "initially wrong", examples - figures.withstood.n, 1.0))
    parts, start = [], 0.0
    for kind, name, those, shade in whole:
        width = 100 * those / max(examples, 1)
        parts.append(Part(kind, name, those, round(start, 3), round(width, 3), shade))
        start += width
    return tuple(parts)


def _panel(contents: Contents, norm: str) -> DistancePanel:
    """The attack's distances in a norm: every example that it moved, at every radius at once."""
    record = contents.record
    units = math.sqrt(max(math.prod(record.data.shape), 1)) if norm == "l2" else 1.0
    column = "attack_rmse" if norm in ("l2", "rmse") else "attack_size"
    radii = {model.name: contents.column(model.name, column) for model in record.models}
    known = {name: values * units for name, values in radii.items() if values is not None}
    within = {key: entry.radius for key, entry in record.radii.items() if entry.norm == norm}
    on = backdrop(list(known.values()), record.data.chance)
    within = {key: radius for key, radius in within.items() if radius <= on.top}  # what lies on the axis
    models = [(index, model) for index, model in enumerate(record.models) if model.name in known]
    curves = tuple((index, model.name, line(known[model.name], on.top, on.frame)) for index, model in models)
    dots = []
    for place, (index, model) in enumerate(models):
        for key, radius in within.items():
            figure = model.scores[f"robust_accuracy:{key}"]
            low, high, y = (on.frame.y(value) for value in (figure.low, figure.high, figure.value))
            x = on.frame.x(radius, on.top) + _BESIDE * (place - (len(models) - 1) / 2)
            dots.append(
                Dot(index, round(x, 2), y, low, high, f"{model.name}, {radius_title(key)}: {percent(figure.value)}")
            )
    title = norm_title(norm)
    what = f"Share of {contents.noun} that the attack did not move within a distance, and the robust accuracies"
    description = f"{what}: {'; '.join(dot.text for dot in dots)}."
    return DistancePanel(f"Every {title} distance", title, on, curves, tuple(dots), description)
