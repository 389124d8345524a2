"""How far maps can be moved while the decision stays: the worst, the middle and the best example, and all in a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advex.drawing.boxes import BoxPlot, box_plot, common_axis
from advex.drawing.heat import reach_of, summed
from advex.drawing.numbers import number, percent, significant
from advex.drawing.pictures import (
    ShownPicture,
    SymmetricScale,
    change,
    picture_of,
    read_picture,
    show,
    show_change,
)
from advex.record import Figure, MeasureEntry, ModelEntry
from advex.registry import register
from advex.report.reading import Contents, Row

ATTACK, RANDOM = "_attack", "_random"  # beside the key of the worst that was met: by the search, and by chance
_CHANGE = 8  # so many times as large is a change of the picture drawn


@dataclass(frozen=True)
class MovedExample:
    """An example before and after. which: worst, middle or best of those shown. value: how far its map moved.

    pictures, maps: before, after, and the difference; the three maps have one scale, which ends at reach.
    """

    which: str
    id: str
    value: str
    pictures: tuple[ShownPicture, ...]
    maps: tuple[ShownPicture, ...]
    reach: str


@dataclass(frozen=True)
class ModelSteadiness:
    """One model's maps by one explainer. sentence: what was found, with its interval and what stands against it."""

    index: int
    name: str
    sentence: str
    examples: tuple[MovedExample, ...]


@dataclass(frozen=True)
class Steadiness:
    """One explainer under one measure. plot: of each model, by the search and by random points."""

    title: str
    spec: str
    explainer: str
    plot: BoxPlot | None
    models: tuple[ModelSteadiness, ...]


@register("section", "steady")
class Steady:
    """Whether another input, which looks the same and is decided alike, gets another map."""

    title, menu, place, tables = "Can this explanation be trusted?", "Stable?", 65, ("examples", "maps", "moved")

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        every = [
            _steadiness(contents, key, measure, explainer)
            for key, measure in _worst_cases(contents.record.measures)
            for explainer in dict.fromkeys(name for model in contents.record.models for name in model.maps)
        ]
        made = [each for each in every if each.models]
        return {"every": made, "times": _CHANGE} if made else None


def _worst_cases(measures: Mapping[str, MeasureEntry]) -> Iterator[tuple[str, MeasureEntry]]:
    """Those that have what the search met and what chance met beside the worst of both."""
    for key, measure in measures.items():
        beside = [measures.get(f"{key}{ending}") for ending in (ATTACK, RANDOM)]
        if all(other is not None and other.spec == measure.spec for other in beside):
            yield key, measure


def _steadiness(contents: Contents, key: str, measure: MeasureEntry, explainer: str) -> Steadiness:
    samples: list[tuple[int, str, np.ndarray]] = []
    models = []
    for index, model in enumerate(contents.record.models):
        rows = [row for row in contents.rows("maps") if (row["model"], row["explainer"]) == (model.name, explainer)]
        pairs = [(row[f"{key}{ATTACK}"], row[f"{key}{RANDOM}"]) for row in rows if _finite(row.get(key))]
        pairs = [pair for pair in pairs if all(map(_finite, pair))]
        if not pairs:
            continue
        attacked, chance = np.asarray(pairs, dtype=np.float64).T
        samples += [(index, f"{model.name}, attacked", attacked), (index, f"{model.name}, at random", chance)]
        examples = _examples(contents, key, model.name, explainer, rows)
        models.append(ModelSteadiness(index, model.name, _sentence(contents, key, model, explainer, pairs), examples))
    plot = None
    if samples:
        axis = common_axis([values for _, _, values in samples])
        plot = box_plot(explainer, samples, axis, f"{measure.title}, {explainer}")
    return Steadiness(measure.title, measure.spec, explainer, plot, tuple(models))


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _sentence(
    contents: Contents, key: str, model: ModelEntry, explainer: str, pairs: Sequence[tuple[float, float]]
) -> str:
    """What was found of a model, with accuracy and chance beside it: a network that has collapsed is steady too."""
    figures, total = model.maps[explainer].figures, contents.record.data.examples
    worst, attack, chance = (figures[name] for name in (key, f"{key}{ATTACK}", f"{key}{RANDOM}"))
    more = percent(sum(mine >= other for mine, other in pairs) / len(pairs), 0)
    accuracy = model.scores.get("accuracy")
    right = f" It classifies {percent(accuracy.value, 1)} correctly." if accuracy is not None else ""
    return (
        f"The map moves by {_figure(worst)} at the worst point found: by {_figure(attack)} at the best point of "
        f"the search, and by {_figure(chance)} at the worst of some random points within the same distance; the "
        f"search moved it at least as far in {more}. Counted: {worst.n:,} of {total:,}.{right}"
    )


def _figure(figure: Figure) -> str:
    return f"{number(figure.value, 2)} [{number(figure.low, 2)}, {number(figure.high, 2)}]"


# -- pictures ----------------------------------------------------------------------------------------------


def _examples(
    contents: Contents, key: str, model: str, explainer: str, rows: Sequence[Row]
) -> tuple[MovedExample, ...]:
    """The worst, the middle and the best of the examples whose moved input was kept."""
    shape = contents.record.data.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        return ()
    whose = model, explainer, key
    kept = {
        row["example"]: row
        for row in contents.rows("moved")
        if (row["model"], row["explainer"], row["measure"]) == whose
    }
    shown = [row for row in rows if row["example"] in kept and row["map"] is not None and _finite(row.get(key))]
    shown.sort(key=lambda row: -row[key])
    places = {0: "worst", len(shown) // 2: "middle", len(shown) - 1: "best"} if len(shown) > 2 else {0: "worst"}
    made = (_moved(contents, which, shown[k], kept[shown[k]["example"]], key) for k, which in places.items() if shown)
    return tuple(example for example in made if example is not None)


def _moved(contents: Contents, which: str, row: Row, moved: Row, key: str) -> MovedExample | None:
    """None where the input's picture is missing or anything is not finite."""
    shape = contents.record.data.shape
    known = next((each for each in contents.rows("examples") if each["example"] == row["example"]), None)
    picture = None if known is None else read_picture(contents.folder, known["picture"])
    if (
        known is None
        or picture is None
        or not len(row["map"]) == len(moved["map"]) == len(moved["x"]) == math.prod(shape)
    ):
        return None
    after = np.asarray(moved["x"]).reshape(shape).transpose(1, 2, 0)
    maps = [summed(np.asarray(values).reshape(shape)) for values in (row["map"], moved["map"])]
    maps.append(maps[1] - maps[0])
    if not all(np.isfinite(values).all() for values in (after, *maps)):
        return None
    changed = picture_of(np.rint(255 * after.clip(0, 1)).astype(np.uint8))
    difference = change(changed, picture)
    if difference is None:
        return None
    reach, scale = reach_of(maps[:2]), SymmetricScale(1 / _CHANGE)
    words = ("Map of the input.", "Map of the changed input.", "What the map gains and loses.")
    return MovedExample(
        which=which,
        id=str(known["id"]),
        value=number(row[key], 2),
        pictures=(
            show(picture, "The input."), show(changed, "The changed input, with the same decision."),
            show_change(difference, scale, f"What was changed, {_CHANGE} times as large."),
        ),
        maps=tuple(
            show_change(255 * values[:, :, None], SymmetricScale(reach or 1.0), alt)
            for values, alt in zip(maps, words, strict=True)
        ),
        reach=significant(reach, 2) if reach else "",
    )  # fmt: skip
