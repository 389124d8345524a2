"""Maps of how much each element counts: every measure that the record declares, compared along both axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advex.drawing.boxes import BoxPlot, box_plot, common_axis
from advex.drawing.heat import PERCENTILE
from advex.drawing.numbers import percent
from advex.drawing.pictures import SymmetricScale, show_scale
from advex.record import MapFigures, MeasureEntry, Record
from advex.registry import register
from advex.report.cells import BETTER, FigureCell, FigureRow, measured, together
from advex.report.mapped import first_measure, mapped_pictures
from advex.report.mapped_rows import mapped_rows
from advex.report.maps_compared import (
    Compared,
    RowGroup,
    digits_of,
    explainers_compared,
    models_compared,
    titled,
)  # fmt: skip
from advex.report.reading import Contents

# What a measure judges: a heading, and how to read it.
JUDGED = {
    "shape": (
        "Concise",
        "A map is concise when a few elements account for most of it. Concise does not mean right: scattered specks "
        "can be as concise as an outline, so look at the maps too.",
    ),
    "faithful": ("Faithful", "Whether the map marks the elements that the model's output depends on."),
    "placed": ("Well placed", "Whether the map marks the labelled object, as located by the data."),
    "stable": ("Stable", "How much a map changes when the input changes slightly."),
    "randomised": ("Sensitive to the model", "How much a map changes when the network's weights are randomised."),
}


@dataclass(frozen=True)
class Judgement:
    """The measures that judge the same thing.

    columns: (title, good direction). undefined: reason -> of which maps. standing: which measures were found to know
    the truth, in a sentence.
    """

    title: str
    text: str
    columns: tuple[tuple[str, str], ...]
    groups: tuple[RowGroup, ...]
    undefined: tuple[tuple[str, str], ...]
    compared: tuple[Compared, ...]
    together: str
    standing: str


@dataclass(frozen=True)
class Distribution:
    """Differences of one measure, example by example."""

    title: str
    panels: tuple[tuple[str, BoxPlot], ...]


@register("section", "maps")
class Maps:
    """What was measured of the models' maps, and the maps of the explained examples."""

    title, menu, place, tables = "Maps", "Maps", 60, ("examples", "maps", "places", "answers", "columns")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        record = contents.record
        explainers = tuple(dict.fromkeys(name for model in record.models for name in model.maps))
        if not explainers:
            return None
        key, measure = first_measure(record)
        pictures, total = mapped_pictures(contents, explainers, key)
        rows, total_rows = mapped_rows(contents, key)
        return {
            "target": _target(contents),
            "elements": math.prod(record.data.shape),
            "judgements": _judgements(record, explainers),
            "distributions": _distributions(contents),
            "explainers": explainers,
            "measure": measure,
            "pictures": pictures,
            "rows": rows,
            "total": total + total_rows,
            "boxed": next(
                (record.measures[row["measure"]].title for row in contents.rows("places") if row["things"]), ""
            ),
            "scale_bar": show_scale(SymmetricScale(1.0), colours=False),
            "percentile": PERCENTILE,
        }


def _target(contents: Contents) -> str:
    """The class that the maps are of, in words."""
    rules = {figures.target for model in contents.record.models for figures in model.maps.values()}
    named = {"true": "the right class", "predicted": "the predicted class"}
    words = [named.get(rule) or f"the class {contents.class_name(int(rule))}, whatever the answer" for rule in rules]
    return words[0] if len(words) == 1 else "a class (by explainer: " + "; ".join(sorted(words)) + ")"


# -- figures -----------------------------------------------------------------------------------------------


def _judgements(record: Record, explainers: Sequence[str]) -> tuple[Judgement, ...]:
    """A table for each thing that is judged, in the order of `JUDGED`; what a plugin's measure judges, last."""
    judged = dict.fromkeys([*JUDGED, *(measure.of for measure in record.measures.values())])
    made = []
    for of in judged:
        measures = {key: measure for key, measure in record.measures.items() if measure.of == of}
        if measures:
            made.append(_judgement(record, explainers, of, measures, sums=not made))
    return tuple(made)


def _judgement(
    record: Record, explainers: Sequence[str], of: str, measures: Mapping[str, MeasureEntry], *, sums: bool
) -> Judgement:
    """sums: whether a column says how exactly maps add up to what they promise to add up to."""
    title, text = JUDGED.get(of, (of.capitalize(), ""))
    columns = [(titled(measure), BETTER[measure.better]) for measure in measures.values()]
    sums = sums and any("completeness" in mapped.figures for model in record.models for mapped in model.maps.values())
    shown = [*measures, *(["completeness"] if sums else [])]
    every = [maps.figures for model in record.models for maps in model.maps.values()]
    digits = {key: digits_of(figures[key] for figures in every if key in figures) for key in shown}
    groups = tuple(_group(record, name, tuple(measures), digits) for name in explainers)
    undefined: dict[str, list[str]] = {}
    for model in record.models:
        for name, mapped in model.maps.items():
            for key, reason, count in _undefined(mapped):
                if key in measures:
                    undefined.setdefault(reason, []).append(f"{measures[key].title}, {name}, {model.name}: {count:,}")
    compared = (models_compared(record, explainers, measures), explainers_compared(record, explainers, measures))
    known = tuple(each for each in compared if each.groups)
    starts = ("", *(f"{name}_" for name in explainers))
    keys = {f"{start}{key}" for start in starts for key in measures}
    return Judgement(
        title, text, (*columns, *((("Completeness error", "lower"),) if sums else ())), groups,
        tuple((reason, "; ".join(where)) for reason, where in undefined.items()), known,
        together([each for each in record.differences if each.measure in keys], " by one measure along one axis"),
        _standing(measures),
    )  # fmt: skip


def _standing(measures: Mapping[str, MeasureEntry]) -> str:
    """Which measures were found to know the truth, in sentences; nothing of those that do not claim to."""
    titles: dict[str, list[str]] = {}
    for measure in measures.values():
        titles.setdefault(measure.standing, []).append(measure.title)
    words = {"validated": "Rise with the truth on planted evidence", "not validated": "Not shown to do so"}
    return " ".join(f"{text}: {', '.join(titles[key])}." for key, text in words.items() if key in titles)


def _undefined(mapped: MapFigures) -> Iterator[tuple[str, str, int]]:
    """(measure, reason, how many examples have no value for that reason)."""
    for key, reasons in mapped.undefined.items():
        yield from ((key, reason, count) for reason, count in reasons.items())


def _group(record: Record, explainer: str, keys: Sequence[str], alike: Mapping[str, int]) -> RowGroup:
    """The values of all models' maps by one explainer.

    alike: digits after the point of all explainers' figures; where these have none, each explainer has its own.
    """
    models = [(place, model) for place, model in enumerate(record.models) if explainer in model.maps]
    every = [model.maps[explainer] for _, model in models]
    digits = {
        key: digits or digits_of(mapped.figures[key] for mapped in every if key in mapped.figures)
        for key, digits in alike.items()
    }
    rows = []
    for (index, model), mapped in zip(models, every, strict=True):
        cells = [_value(explainer, key, mapped, digits[key]) for key in keys]
        cells += [_sum_error(explainer, mapped, digits["completeness"])] if "completeness" in digits else []
        rows.append(FigureRow(index, model.name, tuple(cells)))
    return RowGroup(explainer, tuple(rows))


def _value(explainer: str, key: str, mapped: MapFigures, digits: int) -> FigureCell:
    """A measure of one model's maps; how many of them it is undefined for is said with it."""
    figure, count = mapped.figures.get(key), sum(mapped.undefined.get(key, {}).values())
    note = f"{count:,} undefined" if count else ""
    if figure is not None and math.isnan(figure.value):
        note = note or "undefined"
    if figure is None:
        return FigureCell(f"{explainer}_{key}", "–", note=note or "not measured")
    return measured(f"{explainer}_{key}", figure, digits, note)


def _sum_error(explainer: str, mapped: MapFigures, digits: int) -> FigureCell:
    key = f"{explainer}_completeness"
    if not {"change", "completeness"} <= mapped.figures.keys():
        return FigureCell(key, "–", note="no completeness property")
    error, change = mapped.figures["completeness"], mapped.figures["change"].value
    share = error.value / change if change else math.nan
    note = "" if math.isnan(share) else f"{percent(share, 2 if share < 0.01 else 1)} of the change"
    return measured(key, error, digits, note)


# -- differences example by example ------------------------------------------------------------------------


def _distributions(contents: Contents) -> tuple[Distribution, ...]:
    """For each measure a panel per explainer, all on one scale: what every model has more than the first one."""
    first = contents.record.models[0].name
    made = []
    for key, measure in contents.record.measures.items():
        if samples := gains(contents, key):
            axis = common_axis([values for each in samples.values() for _, _, values in each])
            describe = f"Differences to {first} example by example, {measure.title}"
            panels = ((name, box_plot(name, each, axis, f"{describe}, {name}")) for name, each in samples.items())
            made.append(Distribution(titled(measure), tuple(panels)))
    return tuple(made)


def gains(contents: Contents, key: str) -> dict[str, list[tuple[int, str, np.ndarray]]]:
    """By explainer: (index, model, its values of a measure minus those of the first model [n]).

    Of every example for which both are defined; without explainers that have none.
    """
    values: dict[str, dict[str, dict[object, float]]] = {}
    for row in contents.rows("maps"):
        value = row.get(key)
        if value is not None and math.isfinite(value):
            values.setdefault(row["explainer"], {}).setdefault(row["model"], {})[row["example"]] = value
    samples: dict[str, list[tuple[int, str, np.ndarray]]] = {}
    models = [model.name for model in contents.record.models]
    for explainer, by_model in values.items():
        base = by_model.get(models[0], {})
        for index, model in enumerate(models[1:], start=1):
            mine = by_model.get(model, {})
            if shared := [mine[example] - value for example, value in base.items() if example in mine]:
                samples.setdefault(explainer, []).append((index, model, np.array(shared)))
    return samples
