"""Maps of explained pictures: a table for each example, with a row per model and a column per explainer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.heat import reach_of, summed
from advex.drawing.numbers import number, significant
from advex.drawing.pictures import ShownPicture, SymmetricScale, read_picture, show, show_change
from advex.record import Record
from advex.report.reading import Contents, Row

MAP_BYTES = 1_500_000  # of the page that maps may take


@dataclass(frozen=True)
class Frames:
    """Boxes over a map, each as x, y, width, height in its pixels. size: its width and height. box: the map's own."""

    size: tuple[int, int]
    things: tuple[tuple[float, float, float, float], ...]
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Heat:
    """One map as a picture. reach: the value at the ends of its scale. value: of the first measure."""

    shown: ShownPicture
    reach: str
    value: str
    frames: Frames | None


@dataclass(frozen=True)
class ModelMaps:
    """A model's maps of an example, one per explainer. target: the class that they are of."""

    index: int
    model: str
    target: str
    heats: tuple[Heat | None, ...]


@dataclass(frozen=True)
class MappedExample:
    """The maps of an example."""

    id: str
    label: str
    input: ShownPicture | None
    lines: tuple[ModelMaps, ...]


def mapped_pictures(
    contents: Contents, explainers: Sequence[str], measure: str, most: int | None = None
) -> tuple[tuple[MappedExample, ...], int]:
    """Every example whose maps were kept, as many as there is room for, and how many there are.

    measure: the key of the one that stands under each map. most: so many of them.
    """
    shape = contents.record.data.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        return (), 0
    by_example: dict[object, list[Row]] = {}
    for row in contents.rows("maps"):
        if row["map"] is not None and len(row["map"]) == math.prod(shape):
            by_example.setdefault(row["example"], []).append(row)
    examples, spent = [], 0
    for example, rows in itertools.islice(by_example.items(), most):
        mapped = _example(contents, example, rows, explainers, measure)
        spent += sum(len(heat.shown.uri) for line in mapped.lines for heat in line.heats if heat is not None)
        if examples and spent > MAP_BYTES:
            break
        examples.append(mapped)
    return tuple(examples), len(by_example)


def _example(
    contents: Contents, example: object, rows: list[Row], explainers: Sequence[str], measure: str
) -> MappedExample:
    known = next((row for row in contents.rows("examples") if row["example"] == example), None)
    picture = None if known is None else read_picture(contents.folder, known["picture"])
    lines = []
    for index, model in enumerate(contents.record.models):
        mine = {row["explainer"]: row for row in rows if row["model"] == model.name}
        if mine:
            target = contents.class_name(next(iter(mine.values()))["target"])
            heats = tuple(_heat(contents, mine[name], measure) if name in mine else None for name in explainers)
            lines.append(ModelMaps(index, model.name, target, heats))
    return MappedExample(
        id="" if known is None else str(known["id"]),
        label=contents.class_name(None if known is None else known["label"]),
        input=None if picture is None else show(picture, "The input."),
        lines=tuple(lines),
    )


def _heat(contents: Contents, row: Row, measure: str) -> Heat | None:
    """None for a map that is not finite: no colour stands for that."""
    pixels = summed(np.asarray(row["map"]).reshape(contents.record.data.shape))
    if not np.isfinite(pixels).all():
        return None
    reach = reach_of([pixels])
    placed = places_of(contents, row)
    frames = None if placed is None else _frames(placed, contents.record.data.shape)
    alt = f"Map of {row['explainer']} by {row['model']} for {contents.class_name(row['target'])}."
    shown = show_change(255 * pixels[:, :, None], SymmetricScale(reach or 1.0), alt)
    return Heat(shown, significant(reach, 2) if reach else "", value_of(row, measure), frames)


def places_of(contents: Contents, row: Row) -> Row | None:
    """What the first measure that has boxes says of a map."""
    owner = (row["model"], row["explainer"], row["example"])
    places = (each for each in contents.rows("places") if each["things"])
    return next((each for each in places if (each["model"], each["explainer"], each["example"]) == owner), None)


def _frames(placed: Row, shape: Sequence[int]) -> Frames:
    def framed(box: Sequence[float]) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = box
        return x0, y0, x1 + 1 - x0, y1 + 1 - y0

    box = None if placed["box"] is None else framed(placed["box"])
    return Frames((shape[2], shape[1]), tuple(framed(each) for each in placed["things"]), box)


def first_measure(record: Record) -> tuple[str, str]:
    """Key and title of the measure that stands with each map: the first that the record declares, if any."""
    return next(((key, measure.title) for key, measure in record.measures.items()), ("", ""))


def value_of(row: Row, measure: str) -> str:
    """A measure of one map, in digits."""
    value = row.get(measure)
    return number(math.nan if value is None else value, 3)
