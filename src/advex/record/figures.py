"""The figures of a record: a value with its interval, and what belongs to those of radii, certificates and maps."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

Better = Literal["high", "low", "neither"]


def norm_title(norm: str) -> str:
    """A norm as people write it.

    >>> norm_title("linf"), norm_title("mine")
    ('L∞', 'mine')
    """
    return {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0", "rmse": "RMSE"}.get(norm, norm)


class Strict(BaseModel):
    """What a JSON file of advex holds: no other fields; infinite and undefined numbers are words there."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Figure(Strict):
    """A measured value with its 95 % interval; `failures` examples had no value. Infinite values are allowed."""

    value: float
    low: float
    high: float
    n: int
    failures: int = 0
    better: Better = "high"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.n < 0 or self.failures < 0:
            raise ValueError(f"a figure of {self.n} examples and {self.failures} failures is impossible")
        if self.low > self.high:
            raise ValueError(f"a figure's interval is [{self.low:g}, {self.high:g}]: its low end is above its high end")
        return self


class CertificateFigures(Strict):
    """How a model's smoothed form was certified, and the network itself on the same examples.

    certified_accuracy and certified_ara are among the model's scores; the radii are in examples.parquet.
    sigma: of the noise, in data units. selection, samples: draws that chose a class and that bound its probability.
    alpha: the risk of each radius. largest: RMSE that no certificate of so many draws exceeds. examples: so many, drawn
    at random from all, were certified.
    accuracy, attack_ara: of the network. gap: attack_ara minus certified_ara, paired.
    abstained: examples without an answer. crossed: examples whose certified radius is above the change that the attack
    found. overclaimed: how many radii may be too large, at most, with 97.5 % certainty over the noise; least_ara: the
    certified area if these are the largest.
    """

    sigma: float
    selection: int
    samples: int
    alpha: float
    largest: float
    examples: int
    accuracy: Figure
    attack_ara: Figure
    gap: Figure
    abstained: int
    crossed: int
    overclaimed: int
    least_ara: float


class RadiusEntry(Strict):
    """A distance within which searches tried to move the examples, under one key of `Record.radii`.

    norm, radius: of the ball; the radius is a share of the box's width, or of changes as such shares. searches: name ->
    spec string, in their order, each on the examples that those before it had not moved; `attack` is that of
    `Record.searches`, whose changes are known already. alone: each was asked about all examples.
    """

    norm: str
    radius: float
    searches: dict[str, str]
    alone: bool = False


class RadiusFigures(Strict):
    """What a model withstands within a radius; robust_accuracy:KEY is among its scores.

    withstood: share of the examples that are right to begin with which no search moved. moved: by search, how many it
    moved of those that the ones before it had left; alone: how many of all, None unless it was asked about all.
    by_distance: the robust accuracy that the distances of the search `attack` alone would give, where these are of the
    norm. gradients, queries: per example right to begin with. accuracy: by search that was asked about all, the share
    of all examples that are right and that it did not move.
    """

    withstood: Figure
    accuracy: dict[str, Figure] = {}
    moved: dict[str, int]
    alone: dict[str, int] | None = None
    by_distance: Figure | None = None
    gradients: float
    queries: float


class CorruptionEntry(Strict):
    """A corruption of the examples, under its name in `Record.corruptions`.

    title: as figures are listed; a star says that they are not the published ones. spec: builds it, at the first of its
    severities. table: the side of the pictures that its parameters are for.
    """

    title: str
    spec: str
    severities: list[int]
    table: int


class CorruptedFigures(Strict):
    """A model's accuracy on examples that are corrupted, by severity; mean: over these, of records that have it."""

    accuracy: dict[int, Figure]
    mean: Figure | None = None


class TransferFigures(Strict):
    """What a model decides rightly once changes made on each model within a radius are added.

    accuracy: by the model that they were made on, itself among them unless it has no gradients. beyond: by each other
    model, the accuracy under its own changes minus that under the other's, paired; the intervals have joint coverage.
    """

    accuracy: dict[str, Figure]
    beyond: dict[str, Figure]


class MeasureEntry(Strict):
    """What is measured of every map, under one key of `Record.measures`.

    title: for people. better: the good direction. unit: "" where it has none. of: what the measure judges (placed,
    faithful, stable, shape or randomised). spec: builds the measure again; it may give several values, a key for each.
    standing: whether the measure was found to know the truth (validated, not validated, not about truth); "" where
    neither direction is good, and in records of before that was asked. baseline: it is what a box or picture that looks
    at no map has, under this name; "" where it is of maps.
    """

    title: str
    better: Better
    unit: str = ""
    of: str
    spec: str
    standing: str = ""
    baseline: str = ""


class MapFigures(Strict):
    """A model's maps by one explainer: means over all examples; the values of each example are in maps.parquet.

    method: the explainer, with what it chose by itself. target: the class explained: `predicted` (what the model
    answers), `true`, or a number. figures: by the keys of `Record.measures`; where the method promises a sum also
    `change`, the size of the change of output that the map is meant to add up to, and `completeness`, by how much the
    map misses it. undefined: by key, how many examples have no value for each reason; only keys with such examples.
    control: the explainer looks at no model, and stands beside the others to be better than. seconds: that a map took
    on average; None in records of before.
    """

    method: str
    target: str
    figures: dict[str, Figure]
    undefined: dict[str, dict[str, int]] = {}
    control: bool = False
    seconds: float | None = None
