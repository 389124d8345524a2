"""What a report claims of several models: no more, taken together, than 95 % intervals may claim."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advex.evaluation.scores import SCORES, area_contrasts, bounded, contrast
from advex.measures import intervals
from advex.measures.intervals import paired_shares
from advex.record import Difference, Figure
from advex.report.cells import doubt, inverse, turned, verdict

N = 30


def compared(right: dict[str, Tensor], radii: dict[str, Tensor]) -> list[Difference]:
    """The differences of an evaluation's scores: accuracy and area of every two models. Values are [n] by model."""
    pairs = itertools.combinations(right, 2)
    accuracies = [
        contrast(SCORES, (right[a], right[b]), "high", 0, first=a, second=b, measure="accuracy") for a, b in pairs
    ]
    return bounded(accuracies + list(area_contrasts("attack_ara", radii, 0.1, seed=0)))


def drawn(models: int, rng: np.random.Generator, n: int = N) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Models that are equally right and equally robust, on examples that are hard or easy for all."""
    common = rng.exponential(0.02, n)
    radii = np.where(rng.random((models, n)) < 0.1, 0, common * np.exp(0.5 * rng.normal(size=(models, n))))
    by_model = {f"m{number}": torch.from_numpy(row) for number, row in enumerate(radii)}
    return {name: (row > 0).double() for name, row in by_model.items()}, by_model


@pytest.mark.parametrize(("models", "tables"), [(2, 400), (4, 400), (8, 200)])
def test_equal_models_are_rarely_said_to_differ(models: int, tables: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few examples, where percentiles widened about their medians claim something in 8 to 10 % of tables."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)  # for speed
    rng = np.random.default_rng(models)
    false = [any(one.separated for one in compared(*drawn(models, rng))) for _ in range(tables)]
    assert np.mean(false) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tables)


def test_a_clear_difference_is_still_found_among_many() -> None:
    """Seven equal models and one that bears three times the change: all of its comparisons are claimed."""
    right, radii = drawn(8, np.random.default_rng(0), 80)
    radii["m7"] = 3 * radii["m0"]
    right["m7"] = right["m0"]
    found = [one for one in compared(right, radii) if one.measure == "attack_ara" and one.second == "m7"]
    assert len(found) == 7
    assert all(one.comparisons == 56 and one.figure.high < 0 for one in found)
    assert found[0].ratio is not None
    ratio = inverse(found[0].ratio)  # of m7 to m0: all that differs is the factor, so it is known exactly
    assert ratio.low == pytest.approx(ratio.high) == pytest.approx(3, rel=1e-9)
    assert all(inverse(one.ratio).low > 1 for one in found if one.ratio is not None)


def test_models_that_say_the_same_cost_the_others_nothing() -> None:
    rng = np.random.default_rng(3)
    right, radii = drawn(2, rng)
    alone = bounded(list(area_contrasts("attack_ara", radii, 0.1, seed=0)))
    same: dict[str, Tensor] = dict.fromkeys(("a", "b"), right["m0"])
    (equal, area) = compared(same, dict(zip(same, radii.values(), strict=True)))
    assert (equal.figure.low, equal.figure.high) == pytest.approx(paired_shares(0, 0, N))
    assert (area.figure.low, area.figure.high) == (alone[0].figure.low, alone[0].figure.high)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"n": -1}, "-1 examples"), ({"failures": -2}, "-2 failures"), ({"low": 0.7}, "low end is above its high end")],
)
def test_a_figure_that_contradicts_itself_is_refused(changes: dict[str, float], said: str) -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    assert Figure.model_validate(figure).n == 4
    with pytest.raises(ValueError, match=said):
        Figure.model_validate(figure | changes)


def test_nothing_is_known_of_two_infinite_areas() -> None:
    infinite = torch.full((20,), math.inf)
    (difference,) = bounded(list(area_contrasts("attack_ara", {"a": infinite, "b": infinite}, 0.1, seed=0)))
    figure = difference.figure
    assert all(math.isnan(value) for value in (figure.value, figure.low, figure.high))
    assert difference.ratio is None
    assert not difference.separated


def test_no_difference_of_shares_is_thought_larger_than_all() -> None:
    """Of few examples, or widened for many comparisons, an interval would go beyond what two shares can differ by."""
    rng = np.random.default_rng(0)
    changes = [torch.from_numpy(rng.choice([1.0, 1.0, 1.0, -1.0], 4)) for _ in range(20)]
    names: dict[str, Any] = {"first": "a", "second": "b", "measure": "accuracy"}
    half = torch.full((4,), 0.5)  # no truths, of the same differences
    wide = bounded([contrast("f", (change + half, half), "high", 0, **names) for change in changes])
    held = bounded([contrast("f", (change > 0, change < 0), "high", 0, **names) for change in changes])
    assert any(each.figure.high > 1 for each in wide)
    for free, cut in zip(wide, held, strict=True):
        assert cut.figure.value == free.figure.value
        assert -1 <= cut.figure.low <= cut.figure.value <= cut.figure.high <= 1


@pytest.mark.parametrize(("difference", "n"), [(0.01, 24), (0.01, 100), (0.005, 300), (0.0, 40)])
def test_few_examples_that_tell_two_models_apart_are_no_certainty(difference: float, n: int) -> None:
    """Resamples of no or of two discordant examples hardly vary: alone they would hold the truth in 21 to 77 %."""
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {"first": "a", "second": "b", "measure": "accuracy"}
    held = []
    for _ in range(200):
        chances = [difference + 0.002, 1 - difference - 0.004, 0.002]
        change = torch.from_numpy(rng.choice([1.0, 0.0, -1.0], n, p=chances))
        (made,) = bounded([contrast("f", (change > 0, change < 0), "high", 0, **names)])
        held.append(made.figure.low <= difference <= made.figure.high)
    assert np.mean(held) >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 24), (4, 0, 24), (9, 23, 150), (1, 0, 5), (7, 7, 20)])
def test_the_interval_of_two_shares_is_where_the_score_test_stops(gained: int, lost: int, n: int) -> None:
    """At both ends the counts are 1.96 deviations off, by the most likely shares of that difference (of a grid)."""
    low, high = paired_shares(gained, lost, n)
    for end, off in ((low, 1.96), (high, -1.96)):
        shares = np.linspace(max(0.0, -end), (1 - end) / 2, 200_001)[1:-1]  # of those lost; of those gained end more
        logarithm = gained * np.log(shares + end + 1e-300) + lost * np.log(shares)
        logarithm += (n - gained - lost) * np.log(np.clip(1 - 2 * shares - end, 1e-300, None))
        share = shares[np.argmax(logarithm)]
        spread = math.sqrt(n * (2 * share + end - end * end))
        assert (gained - lost - n * end) / spread == pytest.approx(off, abs=2e-3)
    assert paired_shares(lost, gained, n) == pytest.approx((-high, -low))


def test_two_that_are_always_right_are_not_known_to_be_equal() -> None:
    """Values of 0 and 1 are truths wherever they come from: a table's changes that were reached, boxes that hit."""
    names: dict[str, Any] = {"first": "a", "second": "b", "measure": "attack_reached"}
    for ones in (torch.ones(24), torch.ones(24, dtype=torch.bool)):
        (made,) = bounded([contrast("f", (ones, ones), "neither", 0, **names)])
        assert (made.figure.low, made.figure.high) == pytest.approx((-0.138, 0.138), abs=5e-4)
    (made,) = bounded([contrast("f", (torch.ones(24) / 2, torch.ones(24) / 2), "neither", 0, **names)])
    assert (made.figure.low, made.figure.high) == (0, 0), "no share, and the same of every example"


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        (0.1, 0.3, None, "a has the larger value"),
        (0.1, 0.3, 0.01, "a has the larger value"),
        (0.1, 0.3, 0.06, "not significant: p\u202f=\u202f0.06"),
        (-0.1, 0.3, 0.01, "not significant: the interval includes zero"),
        (-0.1, 0.3, 0.4, "not significant: the interval includes zero"),
    ],
)
def test_what_the_interval_and_the_test_both_say_is_said(low: float, high: float, p: float | None, said: str) -> None:
    figure = Figure(value=0.2, low=low, high=high, n=40)
    made = Difference(first="a", second="b", measure="accuracy", figure=figure, p=p, ratio=None)
    other = turned(made)
    assert verdict(made).startswith(said)
    assert verdict(other) == verdict(made)
    assert (other.first, other.second, other.figure.value, other.figure.low) == ("b", "a", -0.2, -high)
    assert bool(doubt(made)) != made.separated
