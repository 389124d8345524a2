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
        "judged": [_judged(study, key) for key in study.chief],
        "sentences": sentences(study),
        "settings": len(study.sigmas) * (len(study.ranges) - 1),
    }


def sentences(study: LayerStudy) -> list[str]:
    """What was found, in words: how many lose their class at each lambda', and what each measure prefers."""
    shares = (f"{percent(figure.value, 0)} at lambda' {weight}" for weight, figure in study.flips.items())
    held, examples = count(len(study.layers), "layer"), count(study.examples, "example")
    flips = f"The class is lost, with all {held} held, in so many of {examples}: {', '.join(shares)}."
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
    measure, digits = study.measures[key], _digits(study, key)
    cells = (cell for sigma in study.sigmas for cell in study.cells(key, sigma))
    known = [figure.value for entry, figure in cells if entry.first is not None and math.isfinite(figure.value)]
    ends = (min(known), max(known)) if known else (0.0, 0.0)
    worst_first = ends if measure.better == "high" else ends[::-1]
    best = study.best(key)
    heat_maps = tuple(
        HeatMap(
            sigma,
            tuple(
                _square(entry, figure.value, digits, worst_first, (entry, sigma) == best, len(study.layers))
                for entry, figure in study.cells(key, sigma)
                if entry.first is not None
            ),
            number(study.ranges[0].figures[sigma][key].value, digits),
        )
        for sigma in study.sigmas
    )
    better = {"high": "higher is better", "low": "lower is better"}[measure.better]
    return Judged(measure.title, better, _best(study, key), heat_maps)


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
