"""The page of a study of layers: for every measure the ranges of layers as heat maps, one for each blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advex.drawing.numbers import count, decimals, number, percent, significant
from advex.record.layer_study import LayerStudy, RangeEntry

SIDE = 38  # of a cell of a heat map, in pixels
LABELLED = 12  # layers up to which each cell has its value written into it
_SINGLE = 6  # sigmas up to which each one has a heat map
_FAINT, _FULL = 0.05, 0.6  # how strongly the worst and the best cell are coloured: text on them stays readable


@dataclass(frozen=True)
class Square:
    """A range of layers in a heat map. x, y: its corner; strength: of its colour; said: in words."""

    x: int
    y: int
    text: str
    strength: float
    best: bool
    said: str


@dataclass(frozen=True)
class HeatMap:
    """A measure's figures at one sigma, the first layer downwards and the last to the right. none: without layers."""

    sigma: str
    squares: tuple[Square, ...]
    none: str


@dataclass(frozen=True)
class Judged:
    """What one measure says. best: its preference in words."""

    title: str
    better: str
    best: str
    heat_maps: tuple[HeatMap, ...]


def content(study: LayerStudy) -> dict[str, Any]:
    """What the template needs."""
    return {
        "study": study,
        "side": SIDE,
        "size": SIDE * len(study.layers),
        "judged": [*(_judged(study, key) for key in study.chief), *(_steady(study, key) for key in study.above)],
        "sentences": sentences(study),
        "settings": len(study.sigmas) * (len(study.ranges) - 1),
    }


def sentences(study: LayerStudy) -> list[str]:
    """What was found, in words: how many lose their class at each lambda', and what each measure prefers."""
    shares = (f"{percent(figure.value, 0)} at lambda' {weight}" for weight, figure in study.flips.items())
    held, examples = count(len(study.layers), "layer"), count(study.examples, "example")
    flips = f"With all {held} kept, the class is lost in these shares of {examples}: {', '.join(shares)}."
    best = (f"{measure.title}: {said}" for key, measure in study.chief.items() if (said := _best(study, key)))
    return [flips, *best]


def _best(study: LayerStudy, key: str) -> str:
    preferred = study.best(key)
    if preferred is None:
        return ""
    entry, sigma = preferred
    digits = _digits(study, key)
    figure, none = entry.figures[sigma][key], study.ranges[0].figures[sigma][key]
    low, high, value, without = (number(each, digits) for each in (figure.low, figure.high, figure.value, none.value))
    if not (none.value < figure.value if study.measures[key].better == "high" else none.value > figure.value):
        return f"no range is better than no perceptual term, which has {without} with sigma {sigma}."
    alike = sum(cell.value == figure.value for sigma in study.sigmas for _, cell in study.cells(key, sigma)) - 1
    shared = f" and {count(alike, 'other setting')}" if alike else ""
    return (
        f"best {value} [{low}, {high}] with {named(entry)}, sigma {sigma}{shared}; without a perceptual term {without} "
        "there. The best of many settings looks better than it is: judge it on other examples."
    )


def named(entry: RangeEntry) -> str:
    """A range in words."""
    if entry.first is None:
        return "no layer"
    return f"layer {entry.first}" if entry.first == entry.last else f"layers {entry.first} to {entry.last}"


def _digits(study: LayerStudy, key: str) -> int:
    figures = [figure for sigma in study.sigmas for _, figure in study.cells(key, sigma)]
    return min(decimals(figure.value for figure in figures if math.isfinite(figure.value)), 3)


def _judged(study: LayerStudy, key: str) -> Judged:
    """A heat map for each sigma; of many sigmas one of the best of them, as in the paper."""
    measure, digits, sign = study.measures[key], _digits(study, key), -1 if study.measures[key].better == "low" else 1
    shown: dict[str, list[float]] = {
        sigma: [figure.value for _, figure in study.cells(key, sigma)] for sigma in study.sigmas
    }
    best = study.best(key)
    framed = None if best is None else (study.ranges.index(best[0]), best[1])
    if len(study.sigmas) > _SINGLE:
        every = zip(*shown.values(), strict=True)
        known = ([sign * value for value in values if math.isfinite(value)] for values in every)
        label = f"best of {study.sigmas[0]} to {study.sigmas[-1]}"
        shown = {label: [sign * max(values, default=math.nan) for values in known]}
        framed = None if framed is None else (framed[0], label)
    heat_maps = _heat_maps(study, shown, digits, measure.better == "high", framed)
    better = {"high": "higher is better", "low": "lower is better"}[measure.better]
    return Judged(measure.title, better, _best(study, key), heat_maps)


def _steady(study: LayerStudy, key: str) -> Judged:
    """For how large a share of the blurs each range is good."""
    shares = {f"{study.sigmas[0]} to {study.sigmas[-1]}": [study.good(entry, key) for entry in study.ranges]}
    bound = "at most" if study.measures[key].better == "low" else "at least"
    title = f"{study.measures[key].title}: share of {len(study.sigmas)} blurs with {bound} {study.above[key]:g}"
    said = "how little a range depends on the blur."
    return Judged(title, "higher is better", said, _heat_maps(study, shares, 2, True, None))


def _heat_maps(
    study: LayerStudy, shown: dict[str, list[float]], digits: int, high: bool, framed: tuple[int, str] | None
) -> tuple[HeatMap, ...]:
    """shown: by the heat map's name, a value of each range. framed: the range, by its number, and map of the best."""
    known = [value for values in shown.values() for value in values[1:] if math.isfinite(value)]
    ends = (min(known), max(known)) if known else (0.0, 0.0)
    ends = ends if high else ends[::-1]
    return tuple(
        HeatMap(
            name,
            tuple(
                _square(entry, value, digits, ends, (number_, name) == framed, len(study.layers))
                for number_, (entry, value) in enumerate(zip(study.ranges, values, strict=True))
                if entry.first is not None
            ),
            number(values[0], digits),
        )
        for name, values in shown.items()
    )


def _square(entry: RangeEntry, value: float, digits: int, ends: Sequence[float], best: bool, layers: int) -> Square:
    worst, top = ends
    share = (value - worst) / (top - worst) if top != worst and math.isfinite(value) else 0.0
    text = number(value, digits)
    short = text.replace("0.", ".", 1) if text.startswith(("0.", "\u22120.")) else text
    said = f"{named(entry)}: {text}; {percent(entry.flips.value, 0)} lose their class"
    if entry.weights:
        said += "; lambda' " + ", ".join(f"{weight} for {times}" for weight, times in entry.weights.items())
    strength = _FAINT + (_FULL - _FAINT) * share if math.isfinite(value) else 0.0
    x, y = SIDE * (entry.last or 0), SIDE * (entry.first or 0)
    return Square(x, y, short if layers <= LABELLED else "", float(significant(strength)), best, said)
