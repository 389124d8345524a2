"""What measures saw on their way: maps while layers become random, and the answer while pixels go or come back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from advex.drawing.heat import coloured, reach_of
from advex.drawing.numbers import number
from advex.drawing.pictures import ShownPicture, picture_of, read_picture, show
from advex.registry import register
from advex.report.reading import Contents, Row

STRIPS = 3  # examples whose maps are shown
WIDTH, HEIGHT = 150, 84  # of the drawing of a curve


@dataclass(frozen=True)
class Strip:
    """One example's maps by each explainer, step by step. lines: (explainer, its maps; None: not finite)."""

    index: int
    model: str
    id: str
    label: str
    input: ShownPicture | None
    steps: tuple[str, ...]
    lines: tuple[tuple[str, tuple[ShownPicture | None, ...]], ...]


@dataclass(frozen=True)
class Curve:
    """The answer to an explainer's examples step by step: SVG path data of each, and of their mean. area: below it."""

    explainer: str
    control: bool
    each: tuple[str, ...]
    mean: str
    area: str


@dataclass(frozen=True)
class Curves:
    """All explainers of a model by one measure. examples: so many are shown. ends: the answers at bottom and top."""

    index: int
    model: str
    title: str
    examples: int
    ends: tuple[str, str]
    curves: tuple[Curve, ...]


@register("section", "traces")
class Traces:
    """Maps while layers become random, and the answer while pixels go."""

    title, menu, place, tables = "Step by step", "Steps", 62, ("examples", "traces")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        if not contents.rows("traces"):
            return None
        return {
            "strips": list(_strips(contents)), "curves": list(_curves(contents)), "width": WIDTH, "height": HEIGHT,
        }  # fmt: skip


def _by_owner(contents: Contents, kind: str) -> Iterator[tuple[int, str, str, list[Row]]]:
    """(index of the model, its name, measure, rows) of traces that have a value, or a map."""
    rows = [row for row in contents.rows("traces") if row[kind] is not None]
    for index, model in enumerate(contents.record.models):
        mine = [row for row in rows if row["model"] == model.name]
        for key in dict.fromkeys(row["measure"] for row in mine):
            yield index, model.name, key, [row for row in mine if row["measure"] == key]


def _strips(contents: Contents) -> Iterator[Strip]:
    shape = contents.record.data.shape
    if len(shape) != 3:
        return
    for index, model, _, rows in _by_owner(contents, "map"):
        for example in list(dict.fromkeys(row["example"] for row in rows))[:STRIPS]:
            mine = [row for row in rows if row["example"] == example]
            steps = tuple(dict.fromkeys(row["step"] for row in mine))
            at = {(row["explainer"], row["step"]): row["map"] for row in mine}
            names = dict.fromkeys(row["explainer"] for row in mine)
            lines = tuple(
                (name, tuple(_heat(at.get((name, step)), shape[1:], name, step) for step in steps)) for name in names
            )
            known = next((row for row in contents.rows("examples") if row["example"] == example), None)
            picture = None if known is None else read_picture(contents.folder, known["picture"])
            label = contents.class_name(None if known is None else known["label"])
            drawn = None if picture is None else show(picture, "The input.")
            yield Strip(index, model, "" if known is None else str(known["id"]), label, drawn, steps, lines)


def _heat(values: list[float] | None, size: Any, name: str, step: str) -> ShownPicture | None:
    if values is None or len(values) != math.prod(size) or not np.isfinite(values).all():
        return None
    pixels = np.asarray(values, dtype=np.float64).reshape(size)
    return show(picture_of(coloured(pixels, reach_of([pixels]))), f"Map of {name}: {step}.")


def _curves(contents: Contents) -> Iterator[Curves]:
    for index, model, key, rows in _by_owner(contents, "value"):
        entry, curves = contents.record.models[index], []
        values = [row["value"] for row in rows]
        ends = min(0.0, *values), max(1.0, *values)  # confidences; logits and losses need more room
        for name in dict.fromkeys(row["explainer"] for row in rows):
            by_example: dict[object, list[tuple[float, float]]] = {}
            for row in rows:
                if row["explainer"] == name:
                    by_example.setdefault(row["example"], []).append((float(row["step"]), row["value"]))
            lines = [sorted(points) for points in by_example.values()]
            steps, means = np.array([points for points in lines if len(points) == len(lines[0])]).mean(axis=0).T
            area = float((np.diff(steps) * (means[1:] + means[:-1])).sum() / 2)
            mean = list(zip(steps.tolist(), means.tolist(), strict=True))
            maps = entry.maps.get(name)
            each = tuple(_path(points, ends) for points in lines)
            curves.append(Curve(name, bool(maps and maps.control), each, _path(mean, ends), number(area, 3)))
        curves.sort(key=lambda curve: curve.control)
        examples = len({row["example"] for row in rows})
        low, high = (number(end, 0 if end in (0, 1) else 1) for end in ends)
        yield Curves(index, model, contents.record.measures[key].title, examples, (low, high), tuple(curves))


def _path(points: list[tuple[float, float]], ends: tuple[float, float]) -> str:
    """Of shares and values between the ends, within the drawing."""
    low, high = ends
    places = (f"{WIDTH * x:.1f} {HEIGHT * (high - y) / (high - low):.1f}" for x, y in points)
    return "M" + "L".join(places)
