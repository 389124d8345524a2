"""Boxes from maps: whether the box around a map's strong pixels is that of the labelled thing."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import PlainValidator
from torch import Tensor

from advex import randomness
from advex.distances.channels import Channels
from advex.errors import SpecError
from advex.measures.boxes import NO_BOX, SIDES, components, constant_boxes, overlap, overlaps
from advex.measures.case import Case, Measured, Need, Of, Value, measure
from advex.measures.pixels import Smoothing, merged, pixels, smoothed
from advex.measures.place import NOT_QUARTER
from advex.options import Share

ALONE = "no other example has a box, to choose the threshold on"
_PUBLISHED = {"clip": 0.02, "smooth": 3, "grid": 0.2, "chosen_on": "same", "channels": "sum_abs"}  # of singh2020
_STEPS = {"value": 20, "percent": 20, "mean": 210}  # of 0.05 each, in the grid of elliott2021
_NAMED = {"paper": 1, "fine": 50}  # grids: thresholds in a step of the paper's


def as_numbers(text: object) -> tuple[float, ...]:
    """Numbers above 0 in ascending order, written with dashes between them. Raises SpecError.

    >>> as_numbers("0.3-0.5-0.7"), as_numbers(0.2)
    ((0.3, 0.5, 0.7), (0.2,))
    """
    try:
        numbers = tuple(float(each) for each in re.split(r"(?<![eE])-", str(text)))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < each < math.inf for each in numbers) or list(numbers) != sorted(set(numbers)):
        raise SpecError(f"Expected ascending numbers above 0, separated by dashes, not {text!r}.")
    return numbers


Grid = Annotated[str | float, PlainValidator(lambda value: (value in _NAMED or as_numbers(value)) and value)]
Overlap = Annotated[str | float, PlainValidator(lambda value: as_numbers(value) and value)]


@measure(
    "localisation",
    cites="elliott2021 Sec. 4.2; singh2020 Sec. 4.2; choe2020 (MaxBoxAcc)",
    examples=(
        "rule=best,components=all,iou=0.3-0.5-0.7,chosen_on=same",
        "grid=0.2,channels=sum_abs,smooth=mean,iou=0.3",
        "rule=percent,connectivity=4,smooth=3,clip=0.02",
        "published=true",
        "subset=quarter",
    ),
)
class Localisation:
    """1 if the box around the map's strong pixels and a box of the labelled object have the required IoU, else 0.

    The map, smoothed, runs from 0 to 1 in each picture. Strong is a pixel that is at least a threshold (rule=value),
    that is among a share of the strongest (percent; with those equal to the last), or at least a multiple of the
    picture's mean (mean); best: whichever of the three is best. Of the connected components of strong pixels the
    largest has the box; of equally large ones the first from the top.

    The threshold is that with most hits on other examples: of two halves drawn by the seed each chooses for the other
    (chosen_on=half), or on the same ones, as papers do (same). iou: the mean of the overlaps. gain: beyond the box
    about the picture's centre with the best side, chosen alike. top1: where the model's answer is right as well.
    constant_box, whole_picture: of boxes that look at no map. no_box: the map is the same everywhere, or no pixel is
    strong: a miss.

    rule: see above. grid: thresholds, shares or multiples, as 0.2 or 0.1-0.2-0.3; paper: 0.05 to 1 in steps of 0.05,
    of mean to 10.5; fine: the same in steps of 0.001. chosen_on: see above. connectivity: 4 or 8 neighbours. iou: that
    makes a hit; of several, as 0.3-0.5-0.7, each has a threshold and a hit is their mean. components: all: a hit is the
    best of all boxes.
    subset: quarter: of examples whose thing fills less than a quarter of its picture, among whom thresholds are chosen.
    channels: how those of a pixel become one value. smooth: none, mean (of 3 x 3 pixels), or the sigma of a Gaussian,
    in pixels; edges are mirrored. clip: the share of values that are cut off at either end before. published: the box
    as the code of singh2020 has it, with clip=0.02, smooth=3, grid=0.2 and chosen_on=same. It does not choose the map,
    which there is that of `gradient:of=loss` for the class that the model answers.
    """

    rule: Literal["value", "percent", "mean", "best"] = "value"
    grid: Grid = "paper"
    chosen_on: Literal["half", "same"] = "half"
    connectivity: Literal[4, 8] = 8
    iou: Overlap = 0.5
    components: Literal["largest", "all"] = "largest"
    subset: Literal["all", "quarter"] = "all"
    channels: Channels = "max_abs"
    smooth: Smoothing = "none"
    clip: Share = 0.0
    published: bool = False

    values: ClassVar[Mapping[str, Value]] = {
        "": Value(title="Localisation accuracy", better="high", rate=True),
        "iou": Value(title="IoU of the box and the object", better="high"),
        "gain": Value(title="Localisation accuracy, beyond the best constant box", better="high"),
        "top1": Value(title="Top-1 localisation accuracy", better="neither", rate=True),
        "constant_box": Value(
            title="Localisation accuracy of the best constant box",
            better="neither",
            rate=True,
            baseline="best constant box",
        ),
        "whole_picture": Value(
            title="Localisation accuracy of the whole picture", better="neither", rate=True, baseline="whole picture"
        ),
        "no_box": Value(title="Maps without a box", better="neither", rate=True),
    }
    of: ClassVar[Of] = "placed"
    needs: ClassVar[frozenset[Need]] = frozenset({"evidence", "model"})
    scale_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in _PUBLISHED.items() if self.published else ():
            if getattr(self, name) not in (value, getattr(Localisation, name)):
                raise SpecError(f"localisation: published=true sets {name}={value}: omit {name}.")
            object.__setattr__(self, name, value)
        shares = self.rule != "mean" and self.grid not in _NAMED
        if (shares and max(as_numbers(self.grid)) > 1) or max(as_numbers(self.iou)) > 1 or self.clip >= 0.5:
            raise SpecError(
                f"localisation: grid={self.grid}, iou={self.iou}, clip={self.clip}: thresholds of "
                f"{self.rule} and overlaps must be at most 1, and clip, the fraction cut off at either end, "
                "below 0.5."
            )

    def __call__(self, case: Case) -> Measured:
        maps, flawed = pixels(case, self.channels)
        usable = ~torch.stack([*flawed.values()]).any(dim=0).cpu()
        draws = randomness.uniform_for(randomness.numbers(case.x, case.seed), case.seed, "halves")[:, 0].cpu()
        right = (case.confidences.argmax(dim=1) == case.y).cpu()
        assert case.evidence is not None
        large = case.located & (case.covered >= 1 / 4) & (self.subset == "quarter")
        rows = (case.located & ~large).cpu().nonzero()[:, 0].tolist()
        truths = {i: case.evidence.around(i).cpu().numpy() for i in rows}
        reached = []
        for rule, _ in self._grids:  # which other localisations of these maps may ask as well
            alone = replace(self, rule=rule, chosen_on="half", iou=0.5, published=False)
            reached.append(case.shared(alone, partial(alone._reached, maps, usable, truths)))
        constant = constant_boxes((maps.shape[1], maps.shape[2]))
        parts = np.full((len(case), 2 + len(SIDES) + sum(each.shape[1] for each in reached)), math.nan)
        for i, truth in truths.items():
            facts = [float(draws[i]), float(right[i])], overlap(constant, truth).max(axis=1)
            parts[i] = np.concatenate([*facts, *(each[i] for each in reached)])
        measured = self.settle(torch.from_numpy(parts))
        return replace(measured, undefined={**measured.undefined, NOT_QUARTER: large.cpu()})

    def _reached(self, maps: Tensor, usable: Tensor, truths: Mapping[int, np.ndarray]) -> np.ndarray:
        """[n, t] IoUs at each threshold, of rows of which the thing's boxes are known. maps: one value per pixel."""
        reached = np.full((len(maps), sum(len(grid) for _, grid in self._grids)), NO_BOX)
        for i, truth in truths.items():
            values = self._unit(maps[i].cpu().numpy()) if usable[i] else None
            if values is not None:
                at, every = self._thresholds(values), self.components == "all"
                reached[i] = overlaps(values, at, truth, connectivity=self.connectivity, every=every)
        return reached

    def _unit(self, values: np.ndarray) -> np.ndarray | None:
        """[height, width], clipped, smoothed, and from 0 to 1; None where it is the same everywhere."""
        if self.clip:
            values = values.clip(*np.quantile(values, [self.clip, 1 - self.clip]))
        values = smoothed(values, self.smooth)
        low, high = values.min(), values.max()
        return (values - low) / (high - low) if high > low else None

    @property
    def _grids(self) -> Iterator[tuple[str, np.ndarray]]:
        """The grid of each rule that may be chosen."""
        for rule, steps in _STEPS.items():
            if self.rule in (rule, "best"):
                parts = _NAMED.get(str(self.grid), 0)
                yield rule, np.arange(1, parts * steps + 1) / parts / 20 if parts else np.array(as_numbers(self.grid))

    def _thresholds(self, values: np.ndarray) -> np.ndarray:
        """[t] least values of a strong pixel."""
        made = []
        for rule, grid in self._grids:
            if rule == "percent":
                count = np.ceil(np.round(grid * values.size, 9)).astype(int)
                grid = np.sort(values, axis=None)[values.size - count]
            made.append(grid * values.mean() if rule == "mean" else grid)
        return np.concatenate(made)

    def settle(self, parts: Tensor) -> Measured:
        """The values of all examples.

        parts: [n, 2 + sides + t]: a draw, whether the answer is right, IoUs of the constant boxes, and of the boxes at
        each threshold; NaN of an example without evidence.
        """
        known, halves = ~parts[:, 0].isnan(), halves_of(parts[:, 0], self.chosen_on)
        constant, mapped = parts[:, 2 : 2 + len(SIDES)], parts[:, 2 + len(SIDES) :]
        levels = as_numbers(self.iou)
        every: dict[str, list[Tensor]] = {}
        for least in levels:
            by_map, by_constant = (_chosen(each, halves, least) for each in (mapped, constant))
            hit, fixed, whole = (
                torch.where(each.isnan(), math.nan, (each >= least).double())
                for each in (by_map, by_constant, torch.where(by_map.isnan(), math.nan, constant[:, -1]))
            )
            none = torch.where(by_map.isnan(), math.nan, (by_map == NO_BOX).double())
            made = {
                "": hit, "iou": by_map.clamp(min=0), "gain": hit - fixed, "top1": hit * parts[:, 1],
                "constant_box": fixed, "whole_picture": whole, "no_box": none,
            }  # fmt: skip
            for name, value in made.items():
                every.setdefault(name, []).append(value)
        values = {name: torch.stack(each).mean(dim=0) for name, each in every.items()}
        return Measured(value=values, undefined={ALONE: known & values[""].isnan()}, parts=parts)

    def box_of(self, parts: Tensor, row: int, values: Tensor, truth: Tensor) -> list[int] | None:
        """The box by which `settle` judges a row, by the first of several overlaps; None where its map has none.

        parts: of all rows, see `settle`. values: the row's map [1, c, height, width]. truth: [k, 4], the thing's boxes.
        """
        maps, flawed = merged(values, self.channels)
        unit = None if any(bool(each.any()) for each in flawed.values()) else self._unit(maps[0].cpu().numpy())
        halves, mapped = halves_of(parts[:, 0], self.chosen_on), parts[:, 2 + len(SIDES) :]
        column = int(_columns(mapped, halves, as_numbers(self.iou)[0])[row])
        if unit is None or column < 0 or not (mask := unit >= self._thresholds(unit)[column]).any():
            return None
        _, boxes = components(mask[None], self.connectivity, self.components == "all")
        return boxes[overlap(boxes, truth.cpu().numpy()).max(axis=1).argmax()].tolist()

    def resampled(self, parts: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """The means of all values, [b] each, with thresholds and constant boxes chosen on the resampled other half.

        counts: [b, n], how often each example was drawn; it stays in its half. Where none of the other half was drawn,
        the threshold is that of all; so it is always where it is chosen on the examples that it judges, since a choice
        made anew would favour itself twice.
        """
        halves, counts = halves_of(parts[:, 0], self.chosen_on), counts * ~parts[:, 0].isnan()
        parts = parts.nan_to_num(0)
        constant, mapped = parts[:, 2 : 2 + len(SIDES)], parts[:, 2 + len(SIDES) :]
        whole, right, levels = constant[:, -1], parts[:, 1], as_numbers(self.iou)
        drawn = torch.zeros(len(counts), dtype=torch.float64)
        sums = dict.fromkeys(self.values, drawn)
        for least, (choosing, judged) in itertools.product(levels, halves):
            if not choosing.any():
                continue
            weight, again = counts * judged, counts * choosing
            again = again.where(again.any(dim=1, keepdim=True) & (self.chosen_on == "half"), choosing.double())
            by_map, by_constant = (each.T[_best(again, each, least)] for each in (mapped, constant))
            hit, fixed = (by_map >= least).double(), (by_constant >= least).double()
            made = {
                "": hit, "iou": by_map.clamp(min=0), "gain": hit - fixed, "top1": hit * right, "constant_box": fixed,
                "whole_picture": (whole >= least).double(), "no_box": (by_map == NO_BOX).double(),
            }  # fmt: skip
            sums = {name: sums[name] + (weight * value).sum(dim=1) for name, value in made.items()}
            drawn = drawn + weight.sum(dim=1)
        return {name: value / drawn for name, value in sums.items()}


def halves_of(draws: Tensor, chosen_on: str) -> list[tuple[Tensor, Tensor]]:
    """(choosing, judged), [n] bool each: the halves of the examples by their draws [n], NaN in none; all for `same`."""
    known = ~draws.isnan()
    if chosen_on == "same":
        return [(known, known)]
    first = torch.zeros_like(known)
    first[draws.argsort(stable=True)[: int(known.sum()) // 2]] = True  # NaN come last
    return [(known & first, known & ~first), (known & ~first, known & first)]


def _chosen(overlaps: Tensor, halves: list[tuple[Tensor, Tensor]], least: float) -> Tensor:
    """[n] of [n, k]: for each example of one half the column with most hits on the other.

    Of several that of the highest mean; NaN where there is nothing to choose on. halves: (choosing, judged), [n] bool.
    """
    columns = _columns(overlaps, halves, least)
    values = overlaps.gather(1, columns.clamp_min(0)[:, None])[:, 0].double()
    return torch.where(columns < 0, math.nan, values)


def _columns(overlaps: Tensor, halves: list[tuple[Tensor, Tensor]], least: float) -> Tensor:
    """[n] int64: the column chosen for each example, -1 where there is nothing to choose on. See `_chosen`."""
    result = torch.full((len(overlaps),), -1)
    for choosing, judged in halves:
        if choosing.any() or overlaps.shape[1] == 1:  # or there is nothing to choose
            result[judged] = int(_best(choosing[None].double(), overlaps.nan_to_num(0), least))
    return result


def _best(weights: Tensor, overlaps: Tensor, least: float) -> Tensor:
    """[b]: the column of overlaps [n, k] with most hits where examples count so often, weights [b, n].

    Of several that of the highest mean: it counts for less than one hit. What differs by rounding alone is equal.
    """
    mean = overlaps.clamp(min=0) / (1 + weights.sum(dim=1).max())
    return (weights @ ((overlaps >= least).double() + mean / 2)).round(decimals=9).argmax(dim=1)
