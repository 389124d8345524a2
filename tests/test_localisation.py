"""Boxes from maps: overlaps by hand, components by a slow search, thresholds chosen by exhaustive counting."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advex
from advex import registry
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.errors import SpecError
from advex.evaluation import evaluate, settings_from
from advex.measures.boxes import NO_BOX, SIDES, constant_boxes, overlap, overlaps
from advex.measures.case import Case, apply
from advex.measures.intervals import bootstrap, percentiles, simultaneous, wilson
from advex.measures.localisation import Localisation, as_numbers
from advex.record import read_rows
from advex.types import Explanation

Box = tuple[int, int, int, int]


def boxes(*every: Box) -> np.ndarray:
    return np.array(every)


# -- overlaps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        ((0, 0, 9, 9), (0, 0, 9, 9), 1),
        ((0, 0, 9, 9), (0, 0, 9, 4), 1 / 2),
        ((0, 0, 9, 9), (5, 5, 14, 14), 25 / 175),
        ((3, 3, 3, 3), (3, 3, 3, 3), 1),  # a degenerate box has one pixel
        ((3, 3, 3, 3), (2, 2, 4, 4), 1 / 9),
        ((0, 0, 9, 9), (10, 0, 19, 9), 0),  # side by side, no pixel shared
        ((0, 0, 9, 9), (9, 9, 18, 18), 1 / 199),
        ((0, 0, 9, 9), (22, 22, 31, 31), 0),  # singh2020's formula: 2.57, a hit
        ((22, 0, 31, 9), (0, 22, 9, 31), 0),
    ],
)
def test_overlaps_by_hand(first: Box, second: Box, iou: float) -> None:
    assert overlap(boxes(first), boxes(second))[0, 0] == pytest.approx(iou, abs=1e-15)
    assert overlap(boxes(second), boxes(first))[0, 0] == pytest.approx(iou, abs=1e-15)


def theirs(first: Box, second: Box) -> float:
    """The formula of singh2020's own code: two negative sides make an area."""
    across = min(first[2], second[2]) - max(first[0], second[0]) + 1
    down = min(first[3], second[3]) - max(first[1], second[1]) + 1
    areas = [(x1 - x0 + 1) * (y1 - y0 + 1) for x0, y0, x1, y1 in (first, second)]
    return across * down / (sum(areas) - across * down)


def test_where_boxes_overlap_the_formula_of_the_paper_says_the_same() -> None:
    assert theirs((0, 0, 9, 9), (22, 22, 31, 31)) == pytest.approx(2.5714, abs=1e-4)
    rng = np.random.default_rng(0)
    shared = 0
    for _ in range(300):
        ends = np.sort(rng.integers(0, 20, (2, 2, 2)), axis=1)  # box, low and high, x and y
        first, second = (tuple(map(int, (*low, *high))) for low, high in ends)
        inside = {(x, y) for x in range(first[0], first[2] + 1) for y in range(first[1], first[3] + 1)}
        other = {(x, y) for x in range(second[0], second[2] + 1) for y in range(second[1], second[3] + 1)}
        found = overlap(boxes(first), boxes(second))[0, 0]  # pyright: ignore[reportArgumentType]
        assert found == len(inside & other) / len(inside | other)
        if inside & other:
            shared += 1
            assert found == pytest.approx(theirs(first, second))  # pyright: ignore[reportArgumentType]
    assert shared > 100


def test_constant_boxes_lie_about_the_centre_and_end_with_the_whole() -> None:
    for size in ((64, 64), (5, 4), (1, 1), (33, 20)):
        every = constant_boxes(size)
        assert len(every) == len(SIDES)
        assert every[-1].tolist() == [0, 0, size[1] - 1, size[0] - 1]
        assert (every[:, :2] + every[:, 2:] == [size[1] - 1, size[0] - 1]).all(), (
            "as far from one edge as from the other"
        )
        assert (every[:, :2] <= every[:, 2:]).all()
    assert constant_boxes((64, 64))[15].tolist() == [6, 6, 57, 57]  # 0.8: 51.2 pixels from 6.4 to 57.6


# -- components ---------------------------------------------------------------------------------------------


def flooded(mask: np.ndarray, connectivity: int) -> list[set[tuple[int, int]]]:
    """The components, pixel by pixel, in the order of their first pixels."""
    left, made = {(int(r), int(c)) for r, c in zip(*mask.nonzero(), strict=True)}, []
    near = [(0, 1), (1, 0), (0, -1), (-1, 0), *([(1, 1), (1, -1), (-1, 1), (-1, -1)] if connectivity == 8 else [])]
    for start in sorted(left):
        if start not in left:
            continue
        component, todo = {start}, [start]
        left.discard(start)
        while todo:
            row, column = todo.pop()
            for down, across in near:
                if (pixel := (row + down, column + across)) in left:
                    left.discard(pixel)
                    component.add(pixel)
                    todo.append(pixel)
        made.append(component)
    return made


def around(component: set[tuple[int, int]]) -> Box:
    rows, columns = zip(*component, strict=True)
    return min(columns), min(rows), max(columns), max(rows)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("every", [False, True])
def test_all_thresholds_at_once_are_each_by_itself(connectivity: int, every: bool) -> None:
    rng = np.random.default_rng(connectivity)
    truth = boxes((2, 1, 6, 5), (8, 0, 9, 3))
    for k in range(40):
        values = rng.random((9, 11))
        values = np.round(values, 1) if k % 2 else values  # many equal values, many components of one size
        thresholds = np.concatenate([np.arange(1, 21) / 20, [0, 1.2, values[3, 4], -1]])
        found = overlaps(values, thresholds, truth, connectivity=connectivity, every=every)
        for threshold, value in zip(thresholds, found, strict=True):
            components = flooded(values >= threshold, connectivity)
            if not components:
                assert value == NO_BOX
                continue
            chosen = components if every else [max(components, key=len)]  # the first of the largest
            assert value == max(overlap(boxes(around(each)), truth).max() for each in chosen)


# -- thresholds ---------------------------------------------------------------------------------------------


def case(maps: Tensor, truth: list[list[Box]], *, seed: int = 0, right: bool = True) -> Case:
    """maps: [n, height, width]; truth: boxes of each example. The answer is always class 0, and y as `right` says."""
    n = len(maps)
    given: Any = Explanation(map=maps[:, None].double(), target=torch.zeros(n, dtype=torch.int64), method="given")
    nothing: Any = None
    layer = nn.Linear(maps[0].numel(), 2)
    layer.weight.data.zero_()
    layer.bias.data = torch.tensor([2.0, -1.0])
    return Case(
        classifier=Classifier(nn.Sequential(nn.Flatten(), layer)).eval(), explainer=nothing, explanation=given,
        seed=seed,
        x=torch.rand(n, 1, *maps.shape[1:], generator=torch.Generator().manual_seed(1)),
        y=torch.full((n,), 0 if right else 1),
        evidence=Evidence(boxes=tuple(torch.tensor(each).reshape(-1, 4) for each in truth)),
    )  # fmt: skip


def nested() -> Tensor:
    """16 x 16: 1 in 4 x 4 pixels, at least 0.5 in 8 x 8, at least 0.25 in 12 x 12, else 0."""
    values = torch.zeros(16, 16)
    values[2:14, 2:14], values[4:12, 4:12], values[6:10, 6:10] = 0.25, 0.5, 1.0
    return values


SQUARES = {0.25: (2, 2, 13, 13), 0.5: (4, 4, 11, 11), 1.0: (6, 6, 9, 9)}


@pytest.mark.parametrize(
    ("spec", "square"),
    [
        ("grid=0.2", 0.25), ("grid=0.25", 0.25), ("grid=0.26", 0.5), ("grid=0.5", 0.5), ("grid=0.51", 1.0),
        ("grid=1", 1.0),  # the strongest pixels are always in: a threshold is reached by what equals it
        # 16 of 256 pixels are the strongest 6.25 %; of 7 % the last is one of those at 0.5, and all of these are in.
        ("rule=percent,grid=0.0625", 1.0), ("rule=percent,grid=0.07", 0.5), ("rule=percent,grid=0.25", 0.5),
        ("rule=percent,grid=0.26", 0.25),
        # The mean is (16 + 48 / 2 + 80 / 4) / 256 = 0.234375.
        ("rule=mean,grid=1", 0.25), ("rule=mean,grid=1.2", 0.5), ("rule=mean,grid=2.1", 0.5),
        ("rule=mean,grid=2.2", 1.0), ("rule=mean,grid=4.26", 1.0),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (7.0, -3)])
def test_thresholds_by_hand(spec: str, square: float, scale: float, offset: float) -> None:
    maps = torch.stack([nested() * scale + offset] * 2)
    about = case(maps, [[SQUARES[square]]] * 2)
    measured = apply(registry.build("measure", f"localisation:channels=sum,{spec}"), about)
    assert measured.values["iou"].tolist() == [1, 1]
    assert measured.values["no_box"].tolist() == [0, 0]


def test_a_threshold_above_all_gives_no_box_which_is_a_miss_and_counted() -> None:
    about = case(torch.stack([nested()] * 2), [[SQUARES[1.0]]] * 2)
    measured = apply(Localisation(rule="mean", grid=4.3), about)  # 1 / 0.234375 = 4.27
    assert measured.values[""].tolist() == measured.values["iou"].tolist() == [0, 0]
    assert measured.values["no_box"].tolist() == [1, 1]


def test_maps_that_mark_nothing_are_misses_and_counted_apart() -> None:
    maps = torch.stack([nested(), torch.full((16, 16), 3.0), torch.zeros(16, 16), nested(), nested()])
    maps[3, 0, 0] = math.nan
    whole: Box = (0, 0, 15, 15)  # which a box around all pixels would hit
    measured = apply(Localisation(), case(maps, [[SQUARES[0.5]], [whole], [whole], [whole], [SQUARES[0.5]]]))
    assert measured.values[""].tolist() == [1, 0, 0, 0, 1]
    assert measured.values["no_box"].tolist() == [0, 1, 1, 1, 0]
    assert not measured.undefined


def test_one_of_several_boxes_is_enough_and_an_outline_has_one() -> None:
    about = case(torch.stack([nested()] * 2), [[(0, 0, 0, 0), SQUARES[0.5]], []])
    assert about.evidence is not None
    outlines = torch.zeros(2, 16, 16, dtype=torch.bool)
    outlines[1, 4:12, 5] = outlines[1, 8, 4:12] = True  # a cross
    object.__setattr__(about, "evidence", Evidence(boxes=about.evidence.boxes, outlines=outlines))
    assert apply(Localisation(grid=0.5), about).values["iou"].tolist() == [1, 1]


def test_top1_needs_a_right_answer() -> None:
    maps, truth = torch.stack([nested()] * 4), [[SQUARES[0.5]]] * 4
    for right in (True, False):
        measured = apply(Localisation(), case(maps, truth, right=right))
        assert measured.values[""].tolist() == [1] * 4
        assert measured.values["top1"].tolist() == [float(right)] * 4


def test_smoothing_and_clipping_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((9, 9))
    mirrored = np.pad(values, 1, mode="symmetric")
    mean = np.array([[mirrored[r : r + 3, c : c + 3].mean() for c in range(9)] for r in range(9)])
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    assert np.allclose(Localisation(smooth="mean")._unit(values), expected)  # pyright: ignore[reportArgumentType]
    wide = np.pad(values, 27, mode="symmetric")
    weight = np.exp(-(np.arange(-8, 9) ** 2) / 8)
    weight /= weight.sum()
    blurred = np.array(
        [[weight @ wide[27 + r - 8 : 27 + r + 9, 27 + c - 8 : 27 + c + 9] @ weight for c in range(9)] for r in range(9)]
    )
    expected = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    assert np.allclose(Localisation(smooth=2)._unit(values), expected)  # pyright: ignore[reportArgumentType]
    cut = values.clip(*np.percentile(values, [2, 98]))
    expected = (cut - cut.min()) / (cut.max() - cut.min())
    assert np.allclose(Localisation(clip=0.02)._unit(values), expected)  # pyright: ignore[reportArgumentType]
    single = np.zeros((9, 9))
    single[4, 4] = 1
    assert Localisation(clip=0.02)._unit(single) is None, "what is cut off may be all that there was"


def test_published_is_what_the_authors_code_does() -> None:
    """A square of 16 x 16 pixels, in two channels of opposite signs, and one pixel a thousand times as strong.

    Cut off at the 98th percentile, that pixel is no stronger than the square. Blurred by sigma 3, it is 1 / (2 pi 9) =
    0.02, and the square falls from (2 Phi(8 / 3) - 1)^2 = 0.985 in its middle to Phi(-2.5 / 3) = 0.20 of that three
    pixels beyond its edge and Phi(-3.5 / 3) = 0.12 four beyond: above 0.2 is a square of 22.
    """
    values = torch.zeros(40, 40)
    values[12:28, 12:28], values[2, 2] = 0.5, 500
    square, wide, corner = (12, 12, 27, 27), (9, 9, 30, 30), (2, 2, 2, 2)
    published = registry.build("measure", "localisation:published=true")

    def judged(measure: Localisation, box: Box) -> dict[str, float]:
        about = case(values[None], [[box]])
        channels = torch.cat([about.explanation.map, -about.explanation.map], dim=1)
        made = apply(
            measure, dataclasses.replace(about, explanation=dataclasses.replace(about.explanation, map=channels))
        )
        return {name: float(each) for name, each in made.values.items()}

    assert judged(published, wide)["iou"] == 1
    alone = judged(published, square)  # a threshold needs no other example, nor does the constant box
    assert (alone["iou"], alone["constant_box"], alone["no_box"]) == (pytest.approx(256 / 484), 1, 0)
    assert judged(Localisation(grid=0.2, chosen_on="same"), corner)["iou"] == 1, "unless it is cut off and blurred"
    assert judged(dataclasses.replace(published, published=False, clip=0.0), square)["iou"] < 0.5
    about = random_case(21)
    spelt = "localisation:clip=0.02,smooth=3,grid=0.2,chosen_on=same,channels=sum_abs"
    first, second = (apply(each, about).values for each in (published, registry.build("measure", spelt)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(SpecError, match="published=true sets smooth=3: omit smooth"):
        registry.build("measure", "localisation:published=true,smooth=mean")


# -- which threshold is chosen --------------------------------------------------------------------------------


def random_case(n: int, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    maps = torch.from_numpy(rng.random((n, 12, 12)))
    truth = []
    for row in maps:
        x, y, side = (int(each) for each in rng.integers(0, 6, 3))
        row[y : y + side + 2, x : x + side + 2] += 0.6
        truth.append([(x, y, x + side + 1, y + side + 1)])
    return case(maps, truth, seed=seed)


@pytest.mark.parametrize("spec", ["rule=value", "rule=best", "rule=mean,iou=0.3-0.5-0.7", "components=all"])
@pytest.mark.parametrize("on", ["same", "half"])
def test_the_threshold_is_the_one_with_most_hits_where_it_is_chosen(spec: str, on: str) -> None:
    about = random_case(21, seed=3)
    measured = apply(registry.build("measure", f"localisation:chosen_on={on},{spec}"), about)
    assert measured.parts is not None
    draws, table = measured.parts[:, 0], measured.parts[:, 2:].numpy()
    order = sorted(range(21), key=lambda i: float(draws[i]))
    halves = [range(21)] * 2 if on == "same" else [order[:10], order[10:]]
    levels = [0.3, 0.5, 0.7] if "0.7" in spec else [0.5]
    expected = {"": np.zeros(21), "iou": np.zeros(21), "constant_box": np.zeros(21)}
    for columns, names in ((table[:, 20:], ("", "iou")), (table[:, :20], ("constant_box", None))):
        for level in levels:
            for choosing, judged in (halves, halves[::-1]):
                hits = [sum(columns[i, k] >= level for i in choosing) for k in range(columns.shape[1])]
                means = [np.mean([max(columns[i, k], 0) for i in choosing]) for k in range(columns.shape[1])]
                best = max(range(len(hits)), key=lambda k: (hits[k], means[k], -k))
                for i in set(judged) if on == "half" else (judged if judged is halves[1] else ()):
                    share = 1 / len(levels) / (2 if on == "same" else 1)
                    expected[names[0]][i] += share * (columns[i, best] >= level)
                    if names[1]:
                        expected[names[1]][i] += share * max(columns[i, best], 0)
    for name, values in expected.items():
        assert np.allclose(measured.values[name].numpy(), values), name
    assert torch.allclose(measured.values["gain"], measured.values[""] - measured.values["constant_box"])
    assert np.array_equal(
        measured.values["whole_picture"].numpy(), np.mean([table[:, 19] >= level for level in levels], axis=0)
    )


def replica(parts: np.ndarray, halves: list[tuple[list[int], list[int]]], levels: list[float]) -> dict[str, float]:
    """The means over examples by their numbers, one that was drawn twice twice, thresholds chosen by counting."""
    made: dict[str, list[float]] = {}
    for least in levels:
        for choosing, judged in halves:
            best = []
            for columns in (parts[:, 22:], parts[:, 2:22]):
                hits = [sum(columns[i, k] >= least for i in choosing) for k in range(columns.shape[1])]
                means = [round(sum(max(columns[i, k], 0) for i in choosing), 8) for k in range(columns.shape[1])]
                best.append(max(range(len(hits)), key=lambda k, h=hits, m=means: (h[k], m[k], -k)))
            for i in judged if choosing else ():
                mine, fixed = parts[i, 22 + best[0]], parts[i, 2 + best[1]]
                values = {"": mine >= least, "iou": max(mine, 0), "gain": float(mine >= least) - float(fixed >= least),
                          "top1": (mine >= least) * parts[i, 1], "constant_box": fixed >= least,
                          "whole_picture": parts[i, 21] >= least, "no_box": mine == NO_BOX}  # fmt: skip
                for name, value in values.items():
                    made.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in made.items()}


@pytest.mark.parametrize("spec", ["rule=mean", "rule=best,iou=0.3-0.5", "chosen_on=same"])
def test_resampled_means_choose_anew_on_the_resampled_other_half(spec: str) -> None:
    """Beside a loop over the drawn examples; an example without evidence is drawn and counts for nothing."""
    measure: Any = registry.build("measure", f"localisation:{spec}")
    parts = apply(measure, random_case(13, seed=2)).parts
    assert parts is not None
    parts[:, 1] = torch.tensor([1.0, 0.0] * 7)[:13]
    parts[4] = math.nan
    drawn = torch.randint(13, (25, 13), generator=torch.Generator().manual_seed(0))
    drawn[0] = torch.arange(13)  # all of them, as they are
    drawn[1] = parts[:, 0].nan_to_num(2).argmin()  # one example alone: none of the other half
    counts = torch.stack([torch.bincount(each, minlength=13) for each in drawn]).double()
    made = measure.resampled(parts, counts)
    known = [i for i in sorted(range(13), key=lambda i: float(parts[i, 0])) if i != 4]
    first, second = (known, known) if "same" in spec else (known[:6], known[6:])
    levels = [0.3, 0.5] if "0.3" in spec else [0.5]
    for row, every in enumerate(drawn.tolist()):
        one, two = ([i for i in every if i in half] for half in (first, second))
        halves = [(known, one)] if "same" in spec else [(one or first, two), (two or second, one)]
        for name, value in replica(parts.numpy(), halves, levels).items():
            assert float(made[name][row]) == pytest.approx(value, abs=1e-12), (row, name)
    settled = measure.settle(parts)
    for name, values in settled.values.items():
        assert float(made[name][0]) == pytest.approx(float(values.nanmean()), abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_few_examples_have_an_interval_and_a_figure_lies_in_its_own(n: int) -> None:
    for spec, seed in itertools.product(("rule=mean", "rule=mean,chosen_on=same"), range(6)):
        measure: Any = registry.build("measure", f"localisation:{spec}")
        parts = apply(measure, random_case(n, seed=seed)).parts
        assert parts is not None
        values = measure.settle(parts).values
        drawn = bootstrap(n, lambda counts, m=measure, p=parts: torch.stack([*m.resampled(p, counts).values()], 1), 0)
        for own, estimates in zip(values.values(), drawn.T, strict=True):
            low, high = percentiles(estimates)
            assert -math.inf < low <= high < math.inf
            if "same" in spec:
                assert low - 1e-12 <= float(own.nanmean()) <= high + 1e-12


def test_a_threshold_chosen_on_the_same_examples_flatters() -> None:
    """Maps of noise: whatever is chosen on one half does not carry over; chosen on all it fits them."""
    maps = torch.rand(40, 16, 16, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    truth = []
    for _ in range(40):
        x, y = (int(each) for each in rng.integers(0, 12, 2))
        truth.append([(x, y, x + 3, y + 3)])
    about = case(maps, truth)
    same, half = (
        apply(Localisation(rule="best", iou=0.1, chosen_on=on), about).values[""].mean() for on in ("same", "half")
    )
    assert same > half


def test_an_example_alone_has_nobody_to_choose_its_threshold() -> None:
    measured = apply(Localisation(), case(nested()[None], [[SQUARES[0.5]]]))
    assert measured.values[""].isnan().all()
    assert list(measured.undefined) == ["no other example has a box, to choose the threshold on"]
    assert apply(Localisation(chosen_on="same"), case(nested()[None], [[SQUARES[0.5]]])).values[""].tolist() == [1]


def test_where_there_is_one_threshold_nothing_is_chosen() -> None:
    """But for the constant box, of which there are many."""
    measured = apply(Localisation(grid=0.5), case(nested()[None], [[SQUARES[0.5]]]))
    known = ("", "iou", "top1", "no_box", "whole_picture")
    assert {name: measured.values[name].item() for name in known} == dict(zip(known, (1, 1, 1, 0, 0), strict=True))
    assert measured.values["gain"].isnan().all()


def test_fine_thresholds_find_what_lies_between_two_of_the_papers() -> None:
    """A peaked map, whose object is where it exceeds 0.02: the lowest of the paper's thresholds is 0.05."""
    values = torch.zeros(16, 16)
    values[4:12, 4:12], values[7, 7] = 0.02, 1.0
    about = case(torch.stack([values] * 2), [[SQUARES[0.5]]] * 2)
    paper, fine = (apply(Localisation(grid=grid, chosen_on="same"), about).values[""] for grid in ("paper", "fine"))
    assert (paper.tolist(), fine.tolist()) == ([0, 0], [1, 1])
    assert as_numbers("1e-3-0.5") == (0.001, 0.5)


def test_of_small_things_alone_thresholds_are_chosen_on_small_things() -> None:
    """As if the data had no other: the others have no value, and the reason."""
    about = random_case(21, seed=3)
    assert about.evidence is not None
    small = about.covered < 1 / 4
    assert 5 < int(small.sum()) < 21
    kept = tuple(each if of else each[:0] for each, of in zip(about.evidence.boxes, small, strict=True))
    alone = dataclasses.replace(about, evidence=Evidence(boxes=kept))
    for spec in ("", "rule=best,"):
        made = apply(registry.build("measure", f"localisation:{spec}subset=quarter"), about)
        expected = apply(registry.build("measure", f"localisation:{spec}".rstrip(":,")), alone)
        for name, values in expected.values.items():
            assert torch.equal(made.values[name].isnan(), ~small), name
            assert torch.allclose(made.values[name][small], values[small]), name
        assert torch.equal(made.undefined["its object fills a quarter of its picture or more"], ~small)


def test_the_seed_draws_the_halves() -> None:
    first, again, other = (apply(Localisation(), random_case(21, seed=k)).parts for k in (3, 3, 4))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first[:, 0].argsort(), other[:, 0].argsort())


@pytest.mark.parametrize(
    "options",
    ["grid=0", "grid=0.5-0.2", "grid=x", "grid=1.5", "rule=best,grid=2", "iou=1.5", "iou=0", "smooth=-1", "smooth=much",
     "smooth=1e9", "clip=0.5", "connectivity=6", "rule=median", "chosen_on=all"],
)  # fmt: skip
def test_impossible_options_are_refused(options: str) -> None:
    with pytest.raises(SpecError):
        registry.build("measure", f"localisation:{options}")
    assert as_numbers("0.3-0.5") == (0.3, 0.5)


# -- in an evaluation -----------------------------------------------------------------------------------------


def test_in_a_record_thresholds_are_chosen_on_all_examples_of_the_data(tmp_path: Path) -> None:
    """Pieces of 7 examples, one all without evidence, are settled together, and say what one case of all says."""
    data = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=30, seed=0)
    assert data.evidence is not None
    known = tuple(each if i >= 7 and i % 5 else each[:0] for i, each in enumerate(data.evidence.boxes))
    data = dataclasses.replace(data, evidence=Evidence(boxes=known))
    spec = "localisation:iou=0.3"
    model = advex.load("builtin:planted")
    asked: dict[str, Any] = {
        "attack": None, "btr": None, "maps": ("gradient", "random"), "measures": (spec, "pointing"), "batch_size": 7,
        "explanations": 2, "pictures": (), "recheck": 0, "seed": 5,
    }  # fmt: skip
    record = evaluate([("net", "net", model)], data, tmp_path / "record", settings_from(asked))
    rows = [row for row in read_rows(tmp_path / "record", "maps") if row["explainer"] == "gradient"]
    batch = data.batch(slice(None))
    explainer: Any = registry.build("explainer", "gradient")
    target = model.predict(batch.x).argmax(dim=1)
    about = Case(
        classifier=model, x=batch.x, y=batch.y, explainer=explainer,
        explanation=explainer(model, batch.x, target, seed=5),
        evidence=data.evidence, seed=5,
    )  # fmt: skip
    whole = apply(registry.build("measure", spec), about)
    for name, values in whole.values.items():
        key = f"localisation_{name}".rstrip("_")
        mine = [math.nan if row[key] is None else row[key] for row in rows]
        assert np.allclose(mine, values.numpy(), equal_nan=True), name
    figures = record.models[0].maps["gradient"]
    assert figures.figures["localisation"].n == 19
    assert figures.undefined["localisation"] == {"the data do not locate the labelled object": 11}
    # Intervals are those of resamples that choose their thresholds anew, of a rate at least Wilson's.
    parts = {}
    for explainer in ("gradient", "random"):
        mine = {"explainer": explainer, "measure": record.measures["localisation"].spec.partition(":")[0]}
        kept = [row for row in read_rows(tmp_path / "record", "parts") if mine.items() <= row.items()]
        assert [row["example"] for row in kept] == list(range(30))
        parts[explainer] = torch.tensor([row["parts"] for row in kept if row["parts"]], dtype=torch.float64)
    measure: Any = registry.build("measure", spec)

    def means(counts: Tensor) -> Tensor:
        return torch.stack([measure.resampled(each, counts)["iou"] for each in parts.values()], dim=1)

    drawn = bootstrap(19, means, 5)
    iou = figures.figures["localisation_iou"]
    assert (iou.low, iou.high) == pytest.approx(percentiles(drawn[:, 0]))
    rates = figures.figures["localisation"]
    low, high = wilson(rates.value * rates.n, rates.n)
    assert rates.low <= low
    assert rates.high >= high
    (apart,) = (line for line in record.differences if line.measure == "localisation_iou")
    ends = simultaneous((drawn[:, 0] - drawn[:, 1])[:, None])
    assert (apart.figure.low, apart.figure.high) == pytest.approx(tuple(float(end) for end in ends))
    lines = {(line.first, line.second, line.measure): line.figure for line in record.differences}
    paired = lines["gradient", "random", "localisation"]
    assert paired.n == 19
    assert paired.value == pytest.approx(
        figures.figures["localisation"].value - record.models[0].maps["random"].figures["localisation"].value
    )
