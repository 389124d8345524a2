"""From values per example to figures with intervals. Asks no model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advex import measures
from advex.measures.case import Value
from advex.measures.intervals import Z, paired_shares, percentiles, resampled_mean, widened, widening
from advex.measures.paired_tests import holm, sign_flips
from advex.measures.robustness import resampled_area
from advex.record import Better, Difference, Figure
from advex.types import Score


def share(holds: Tensor, better: Better = "high") -> Figure:
    """The share of [n] truths with its Wilson interval."""
    hits, n = int(holds.sum()), len(holds)
    low, high = measures.wilson(hits, n)
    return Figure(value=hits / n if n else math.nan, low=low, high=high, n=n, better=better)


def figure_of(score: Score) -> Figure:
    """A score as the record keeps it."""
    return Figure(
        value=score.value, low=score.low, high=score.high, n=score.n, failures=score.failures, better=score.better
    )


def mean(values: Tensor, better: Better, seed: int) -> Figure:
    """The mean over the examples [n] that have a value, with its bootstrap interval; the others are its failures."""
    value, low, high = measures.bootstrap_mean(values, seed=seed)
    failures = int(torch.isnan(values).sum())
    return Figure(value=value, low=low, high=high, n=len(values) - failures, failures=failures, better=better)


def rate(values: Tensor, better: Better) -> Figure:
    """The mean of hits [n], each from 0 to 1, with its Wilson interval; NaN are its failures.

    Hits that are parts vary less than whole ones, so that the interval is wide enough for them.
    """
    known = values[~values.isnan()]
    hits, n = float(known.sum()), len(known)
    low, high = measures.wilson(hits, n)
    value = hits / n if n else math.nan
    return Figure(value=value, low=low, high=high, n=n, failures=len(values) - n, better=better)


def value_figure(value: Value, values: Tensor, seed: int, estimates: Tensor | None = None) -> Figure:
    """The mean of a measure's values [n] with its interval.

    estimates: [RESAMPLES] means of resamples, where all is chosen and weighed anew on each. The interval is theirs,
    of a rate at least Wilson's.
    """
    figure = rate(values, value.better) if value.rate else mean(values, value.better, seed)
    if estimates is not None and figure.n:
        low, high = percentiles(estimates)
        low, high = (min(low, figure.low), max(high, figure.high)) if value.rate else (low, high)
        figure = figure.model_copy(update={"low": low, "high": high})
    return figure


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A difference before its interval is known.

    family: names the differences whose intervals have joint coverage. estimates: [RESAMPLES] of the difference. ratios:
    [RESAMPLES] of its ratio, where it has one. changes: [n] of which it is the mean, where it is one. counts: of two
    shares, how many examples only the first has, how many only the second, and of how many.
    """

    family: str
    difference: Difference
    estimates: Tensor
    ratios: Tensor | None = None
    changes: Tensor | None = None
    counts: tuple[int, int, int] | None = None


SCORES = "scores"  # one family: all pairs of models by accuracy, areas and what else is scored


def contrast(family: str, both: Iterable[Tensor], better: Better, seed: int, **whose: Any) -> Contrast:
    """The mean of the first less the second, [n] each of the same examples; NaN are its failures.

    0 and 1 alone are truths, and their means shares. Where few examples tell two shares apart, resamples vary too
    little: their interval is at least as wide as Tango's. whose: fields of `Difference`.
    """
    first, second = (each.double() for each in both)
    value, estimates = resampled_mean(changes := first - second, seed=seed)
    figure = _unbounded(value, int((~changes.isnan()).sum()), int(changes.isnan().sum()), better)
    difference, counts = Difference(figure=figure, **whose), None
    if all(bool(((each == 0) | (each == 1) | each.isnan()).all()) for each in (first, second)):
        counts = (int((changes > 0).sum()), int((changes < 0).sum()), figure.n)
    return Contrast(family=family, difference=difference, estimates=estimates, changes=changes, counts=counts)


def area_contrasts(measure: str, radii: Mapping[str, Tensor], chance: float, seed: int) -> Iterator[Contrast]:
    """Every two models' areas, paired. radii: by model, [n] each."""
    areas = {model: resampled_area(rmse, chance, seed=seed) for model, rmse in radii.items()}
    for first, second in itertools.combinations(radii, 2):
        (area, estimates), (second_area, minus) = areas[first], areas[second]
        n, failures = len(radii[first]), int((radii[first].isinf() | radii[second].isinf()).sum())
        ratio = (
            _unbounded(area / second_area, n, failures)
            if second_area and math.isfinite(area) and math.isfinite(second_area)
            else None
        )
        difference = Difference(
            first=first, second=second, measure=measure, figure=_unbounded(area - second_area, n, failures), ratio=ratio
        )
        yield Contrast(family=SCORES, difference=difference, estimates=estimates - minus, ratios=estimates / minus)


def _unbounded(value: float, n: int, failures: int, better: Better = "high") -> Figure:
    return Figure(value=value, low=math.nan, high=math.nan, n=n, failures=failures, better=better)


def bounded(contrasts: Sequence[Contrast], seed: int = 0) -> list[Difference]:
    """The differences with intervals of joint 95 % coverage within each family, and p values adjusted for it, too.

    A difference of two infinite areas is NaN: nothing is known about it, and it counts for nothing.
    """
    differences = [each.difference for each in contrasts]
    families: dict[str, list[int]] = {}
    for place, difference in enumerate(differences):
        if not math.isnan(difference.figure.value):
            families.setdefault(contrasts[place].family, []).append(place)
    for places in families.values():
        members = [contrasts[place] for place in places]
        estimates = torch.stack([each.estimates for each in members], dim=1)
        deviations = widening(estimates)
        ends = [*widened(estimates, deviations)]
        if any(each.ratios is not None for each in members):
            ratios = [torch.ones_like(each.estimates) if each.ratios is None else each.ratios for each in members]
            ends += (end.exp() for end in widened(torch.stack(ratios, dim=1).log(), deviations))
        for place, bounds in zip(places, torch.stack(ends, dim=1).tolist(), strict=True):
            counts, ends_of = contrasts[place].counts, bounds[:2]
            if counts is not None:
                low, high = paired_shares(*counts, max(deviations or 0.0, Z))
                ends_of = [max(-1.0, min(ends_of[0], low)), min(1.0, max(ends_of[1], high))]
            differences[place] = _bounded(differences[place], [*ends_of, *bounds[2:]], len(places))
        for place, p in zip(places, _tested(members, seed), strict=True):
            differences[place] = differences[place].model_copy(update={"p": p})
    return differences


def _tested(members: Sequence[Contrast], seed: int) -> Sequence[float | None]:
    """p of each difference of a family, adjusted by Holm; None where they are not all means of as many changes."""
    changes = [each.changes for each in members if each.changes is not None]
    if len(changes) < len(members) or len({len(each) for each in changes}) > 1:
        return [None] * len(members)
    return holm(sign_flips(torch.stack([each.detach().cpu().double() for each in changes], dim=1), seed).tolist())


def _bounded(difference: Difference, bounds: Sequence[float], comparisons: int) -> Difference:
    """With the ends of its interval, and of its ratio's."""
    figure = difference.figure.model_copy(update={"low": bounds[0], "high": bounds[1]})
    ratio = difference.ratio and difference.ratio.model_copy(update={"low": bounds[2], "high": bounds[3]})
    return difference.model_copy(update={"figure": figure, "ratio": ratio, "comparisons": comparisons})


def median(rmse: Tensor) -> Figure:
    """The middle radius (of two the smaller) and the order statistics that enclose the true one in 95 % of samples.

    The examples below the median number Binomial(n, 1/2); its 2.5 % point is the rank of the lower bound.
    Failed searches are infinite radii.
    """
    from scipy.stats import binom  # heavy: only here

    n = len(rmse)
    if not n:
        return Figure(value=math.nan, low=math.nan, high=math.nan, n=0)
    ordered = rmse.double().sort().values.tolist()
    rank = int(binom.ppf(0.025, n, 0.5))  # 0 where the sample is too small for a bound
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank else (0.0, math.inf)
    return Figure(value=ordered[(n - 1) // 2], low=low, high=high, n=n, failures=int(torch.isinf(rmse).sum()))
