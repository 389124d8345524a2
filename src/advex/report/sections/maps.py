"""How concise the models' maps are: figures, the differences example by example, and the maps themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.axes import Axis, linear
from advex.drawing.heat import PERCENTILE, reach_of, summed
from advex.drawing.numbers import decimals, number, percent, significant
from advex.drawing.pictures import ChangeScale, Shown, read_picture, show_change, show_scale
from advex.drawing.pictures import show as show_picture
from advex.record import Figure, MapFigures, ModelEntry, Record
from advex.report.reading import Contents, Row
from advex.report.sections.curves import Frame, Tick
from advex.report.sections.figures import Cell, show
from advex.report.sections.row_maps import RowMaps, row_maps

MAP_BYTES = 1_500_000  # of the page that maps may take
WHISKERS = (5, 95)  # percentiles
_ROOM, _BOX = 34, 9  # of a box in drawing units: from one to the next, half its height


@dataclass(frozen=True)
class MapLine:
    """A model's figures. index: its place in the record, which is its colour."""

    index: int
    model: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """One explainer, a line per model. methods: how it was made, one for all models or each with its own."""

    explainer: str
    methods: tuple[str, ...]
    lines: tuple[MapLine, ...]


@dataclass(frozen=True)
class Box:
    """A model's differences to the first: places of the 5th, 25th, 50th, 75th and 95th percentile, and the mean's."""

    index: int
    model: str
    y: float
    places: tuple[float, ...]
    mean: float
    text: str
    above: str


@dataclass(frozen=True)
class BoxPanel:
    """The boxes of one explainer."""

    explainer: str
    frame: Frame
    zero: float
    ticks: tuple[Tick, ...]
    boxes: tuple[Box, ...]
    half: float
    description: str


@dataclass(frozen=True)
class Heat:
    """One map as a picture. reach: the value at the ends of its scale. gini: of all its values."""

    shown: Shown
    reach: str
    gini: str


@dataclass(frozen=True)
class MapSheetLine:
    """A model's maps of an example, one per explainer. target: the class that they are of."""

    index: int
    model: str
    target: str
    heats: tuple[Heat | None, ...]


@dataclass(frozen=True)
class MapSheet:
    """The maps of an example."""

    id: str
    label: str
    input: Shown | None
    lines: tuple[MapSheetLine, ...]


@dataclass(frozen=True)
class MapsSection:
    """All of it. target: whose class. first: the model that the others are compared with, empty for one alone.

    sheets, rows: the maps themselves, of pictures or of a table's rows; total: how many there are.
    """

    target: str
    first: str
    titles: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]
    panels: tuple[BoxPanel, ...]
    explainers: tuple[str, ...]
    sheets: tuple[MapSheet, ...]
    rows: tuple[RowMaps, ...]
    total: int
    scale_bar: Shown
    percentile: int = PERCENTILE


def maps_section(contents: Contents) -> MapsSection | None:
    """What is known of the models' maps; None where none were asked for."""
    models = contents.record.models
    names = tuple(dict.fromkeys(name for model in models for name in model.maps))
    if not names:
        return None
    first = models[0].name if len(models) > 1 else ""
    rules = {found.target for model in models for found in model.maps.values()}
    sheets, total = _sheets(contents, names)
    rows, of_rows = row_maps(contents)
    return MapsSection(
        target=_whose(contents, rules),
        first=first,
        titles=_titles(first),
        groups=tuple(_group(contents.record, name) for name in names),
        panels=_panels(contents, names) if first else (),
        explainers=names,
        sheets=sheets,
        rows=rows,
        total=total + of_rows,
        scale_bar=show_scale(ChangeScale(1.0), colours=False),
    )


def _whose(contents: Contents, rules: set[str]) -> str:
    """The class that the maps are of, in words."""
    named = {"true": "the right class", "predicted": "the class that the model answers"}
    told = [named.get(rule) or f"the class {contents.class_name(int(rule))}, whatever the answer" for rule in rules]
    return told[0] if len(told) == 1 else "a class (by explainer: " + "; ".join(sorted(told)) + ")"


# -- figures -----------------------------------------------------------------------------------------------


def _titles(first: str) -> tuple[tuple[str, str], ...]:
    compared = ((f"dG, minus {first}", "higher"),) if first else ()
    return (("Gini index", "higher"), *compared, ("Elements that count", "lower"), ("Completeness error", "lower"))


def _group(record: Record, name: str) -> Group:
    found = [(index, model, model.maps[name]) for index, model in enumerate(record.models) if name in model.maps]
    methods = [mapped.method for _, _, mapped in found]
    named = [f"{model.name}: {mapped.method}" for _, model, mapped in found]
    digits = {
        key: decimals([bound for _, _, one in found if key in one.figures for bound in _bounds(one.figures[key])])
        for key in ("gini", "effective", "completeness")
    }
    lines = tuple(MapLine(index, model.name, _cells(record, name, model, one, digits)) for index, model, one in found)
    return Group(name, tuple(methods[:1] if len(set(methods)) == 1 else named), lines)


def _bounds(figure: Figure) -> tuple[float, float]:
    return figure.value, figure.high


def _cells(record: Record, name: str, model: ModelEntry, found: MapFigures, digits: dict[str, int]) -> tuple[Cell, ...]:
    cells = [_cell(record, name, "gini", found.figures["gini"], digits["gini"])]
    if len(record.models) > 1:
        gain = _gain(record, name, model.name)
        key = f"{name}_dg"
        cells.append(Cell(key, "–") if gain is None else _cell(record, name, "dg", gain, max(digits["gini"], 3)))
    effective = _cell(record, name, "effective", found.figures["effective"], digits["effective"])
    cells.append(
        Cell(effective.key, effective.text, effective.low, effective.high, f"of {math.prod(record.data.shape):,}")
    )
    if not {"change", "completeness"} <= found.figures.keys():
        return (*cells, Cell(f"{name}_completeness", "–", note="promises no sum"))
    error = _cell(record, name, "completeness", found.figures["completeness"], digits["completeness"])
    change = found.figures["change"].value
    share = found.figures["completeness"].value / change if change else math.nan
    note = "" if math.isnan(share) else f"{percent(share, 2 if share < 0.01 else 1)} of the change"
    return (*cells, Cell(error.key, error.text, error.low, error.high, note))


def _cell(record: Record, name: str, key: str, figure: Figure, digits: int) -> Cell:
    return show(f"{name}_{key}", figure, digits, record)


def _gain(record: Record, name: str, model: str) -> Figure | None:
    """dG (Chalasani et al. 2020, Eq. 21-22): a model's Gini index less that of the first model, paired."""
    first = record.models[0].name
    for one in record.differences:
        if (one.first, one.second, one.measure) == (first, model, f"{name}_gini"):
            value, low, high = -one.figure.value, -one.figure.high, -one.figure.low
            return one.figure.model_copy(update={"value": value, "low": low, "high": high})
    return None


# -- differences example by example ------------------------------------------------------------------------


def _panels(contents: Contents, names: Sequence[str]) -> tuple[BoxPanel, ...]:
    """A panel per explainer, all on one scale (Chalasani et al. 2020, Fig. 2)."""
    models = [model.name for model in contents.record.models]
    gains = {name: [(model, _gains(contents, name, models[0], model)) for model in models[1:]] for name in names}
    known = {name: [(model, values) for model, values in pairs if len(values)] for name, pairs in gains.items()}
    ends = [np.percentile(values, WHISKERS) for pairs in known.values() for _, values in pairs]
    if not ends:
        return ()
    axis = linear(np.concatenate(ends))
    return tuple(_panel(name, pairs, axis, models) for name, pairs in known.items() if pairs)


def _gains(contents: Contents, name: str, first: str, model: str) -> np.ndarray:
    """The Gini index of a model's map less that of the first model's, of every example that has both."""
    ginis = [
        {row["example"]: row["gini"] for row in contents.maps if (row["model"], row["explainer"]) == (one, name)}
        for one in (first, model)
    ]
    values = np.array([ginis[1][example] - gini for example, gini in ginis[0].items() if example in ginis[1]])
    return values[np.isfinite(values)] if len(values) else values


def _panel(name: str, pairs: list[tuple[str, np.ndarray]], axis: Axis, models: list[str]) -> BoxPanel:
    frame = Frame(height=_ROOM * len(pairs) + 56, left=26, right=26, top=8)

    def x(value: float) -> float:
        return round(frame.left + (frame.end - frame.left) * axis.place(value), 1)

    boxes = []
    for place, (model, values) in enumerate(pairs):
        quantiles = tuple(x(value) for value in np.percentile(values, (WHISKERS[0], 25, 50, 75, WHISKERS[1])))
        mean, above = float(values.mean()), percent(float((values > 0).mean()), 0)
        y = frame.top + _ROOM * (place + 0.5)
        boxes.append(Box(models.index(model), model, y, quantiles, x(mean), number(mean, 3), above))
    told = "; ".join(f"{box.model} {box.text} on average, above zero for {box.above}" for box in boxes)
    description = f"Differences of the Gini index to {models[0]}, example by example, {name}: {told}."
    ticks = tuple(Tick(x(value), text) for value, text in axis.marks)
    return BoxPanel(name, frame, x(0.0), ticks, tuple(boxes), _BOX, description)


# -- the maps themselves -----------------------------------------------------------------------------------


def _sheets(contents: Contents, names: tuple[str, ...]) -> tuple[tuple[MapSheet, ...], int]:
    """A sheet per example whose maps were kept, as many as there is room for, and how many there are."""
    shape = contents.record.data.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        return (), 0
    by_example: dict[object, list[Row]] = {}
    for row in contents.maps:
        if row["map"] is not None and len(row["map"]) == math.prod(shape):
            by_example.setdefault(row["example"], []).append(row)
    sheets, spent = [], 0
    for example, rows in by_example.items():
        sheet = _sheet(contents, example, rows, names)
        spent += sum(len(heat.shown.uri) for line in sheet.lines for heat in line.heats if heat is not None)
        if sheets and spent > MAP_BYTES:
            break
        sheets.append(sheet)
    return tuple(sheets), len(by_example)


def _sheet(contents: Contents, example: object, rows: list[Row], names: tuple[str, ...]) -> MapSheet:
    known = next((row for row in contents.examples if row["example"] == example), None)
    picture = None if known is None else read_picture(contents.folder, known["picture"])
    lines = []
    for index, model in enumerate(contents.record.models):
        mine = {row["explainer"]: row for row in rows if row["model"] == model.name}
        if mine:
            target = contents.class_name(next(iter(mine.values()))["target"])
            heats = tuple(_heat(contents, mine[name]) if name in mine else None for name in names)
            lines.append(MapSheetLine(index, model.name, target, heats))
    return MapSheet(
        id="" if known is None else str(known["id"]),
        label=contents.class_name(None if known is None else known["label"]),
        input=None if picture is None else show_picture(picture, "The input."),
        lines=tuple(lines),
    )


def _heat(contents: Contents, row: Row) -> Heat | None:
    """None for a map that is not finite: no colour stands for that."""
    pixels = summed(np.asarray(row["map"]).reshape(contents.record.data.shape))
    if not np.isfinite(pixels).all():
        return None
    reach = reach_of([pixels])
    alt = f"Map of {row['explainer']} by {row['model']} for {contents.class_name(row['target'])}."
    shown = show_change(255 * pixels[:, :, None], ChangeScale(reach or 1.0), alt)
    return Heat(shown, significant(reach, 2) if reach else "", number(row["gini"], 3))
