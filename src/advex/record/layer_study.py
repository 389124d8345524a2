"""study.json: what every range of layers is good for that a perceptual search holds. Imports no model code."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from advex.files import write_text
from advex.record.figures import Figure, MeasureEntry, Strict
from advex.record.migrations import renamed_measures
from advex.record.versions import read_versioned

NAME = "study.json"
SCHEMA = 2


class RangeEntry(Strict):
    """One range of layers. first, last: both included; None: without a perceptual term.

    flips: share of the examples that lose their class. weights: how many of them had which lambda', where each has its
    own. figures: by sigma, as written, and by the keys of `LayerStudy.measures`.
    """

    first: int | None
    last: int | None
    flips: Figure
    weights: dict[str, int] = {}
    figures: dict[str, dict[str, Figure]]


class LayerStudy(Strict):
    """A study of one model. layers: names of those that are heard, in the order of their calls.

    examples: so many are studied, of the `first` of the data. explainer: spec, whose layers and sigma are those of each
    range. above: by the key of a measure, the value from which on a blur counts as good. flips: share of the examples
    that lose their class, by lambda', where all layers are held.
    """

    schema_version: int = SCHEMA
    advex: str
    created: str
    command: str
    seconds: float
    seed: int
    model: str
    source: str
    data: str
    first: int
    examples: int
    explainer: str
    layers: list[str]
    sigmas: list[str]
    measures: dict[str, MeasureEntry]
    flips: dict[str, Figure]
    ranges: list[RangeEntry]
    above: dict[str, float] = {}

    def good(self, entry: RangeEntry, key: str) -> float:
        """The share of the sigmas at which a range's figure is at least as good as `above` says."""
        sign = -1 if self.measures[key].better == "low" else 1
        values = [sign * entry.figures[sigma][key].value for sigma in self.sigmas]
        return sum(value >= sign * self.above[key] for value in values) / len(values)

    @property
    def chief(self) -> dict[str, MeasureEntry]:
        """The first value of each measure that has a good direction, by key: what is drawn."""
        first: dict[str, str] = {}
        for key, measure in self.measures.items():
            first.setdefault(measure.spec, key)
        return {key: self.measures[key] for key in first.values() if self.measures[key].better != "neither"}

    def cells(self, key: str, sigma: str) -> Iterator[tuple[RangeEntry, Figure]]:
        """Each range with its figure of one measure at one sigma."""
        return ((entry, entry.figures[sigma][key]) for entry in self.ranges)

    def best(self, key: str) -> tuple[RangeEntry, str] | None:
        """The range of layers and sigma that a measure prefers; None where it has no value, or no good direction."""
        sign = {"high": 1, "low": -1}.get(self.measures[key].better, 0)
        known = [
            (sign * figure.value, entry, sigma)
            for sigma in self.sigmas
            for entry, figure in self.cells(key, sigma)
            if entry.first is not None and math.isfinite(figure.value)
        ]
        return max(known, key=lambda each: each[0])[1:] if known and sign else None


def write_study(folder: Path, study: LayerStudy) -> None:
    """Write study.json, completely or not at all."""
    write_text(folder / NAME, study.model_dump_json(indent=1) + "\n")


def read_study(folder: Path) -> LayerStudy:
    """What a folder's study.json holds. Raises ArtifactError when it is not one."""
    return read_versioned(folder / NAME, LayerStudy, SCHEMA, {1: renamed_measures}, "a study of layers")
