"""Masks from maps, beside scikit-learn's average precision of all pixels and a loop over thresholds and pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

import advex
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.evaluation import evaluate, settings_from
from advex.measures.case import Case, apply, build
from advex.measures.paired_tests import sign_flips
from advex.measures.segmentation import Segmentation
from advex.record import read_rows
from advex.types import Explanation

N, SIDE = 12, 10


@pytest.fixture
def masks() -> Tensor:
    drawn = torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return drawn < torch.linspace(0.1, 0.6, N).reshape(-1, 1, 1)


def case(maps: Tensor, masks: Tensor | None, boxes: Any = (), right: Tensor | None = None) -> Case:
    n = len(maps)
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))).double()
    x = torch.rand(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    decided = classifier.predict(x).argmax(dim=1)
    given: Any = Explanation(map=maps[:, None], target=decided, method="given")
    nothing: Any = None
    held = (
        tuple(torch.tensor(each, dtype=torch.int64).reshape(-1, 4) for each in boxes)
        or (torch.zeros(0, 4, dtype=torch.int64),) * n
    )
    y = decided if right is None else torch.where(right, decided, 1 - decided)
    return Case(
        classifier=classifier, x=x, y=y, explainer=nothing, explanation=given,
        evidence=Evidence(boxes=held, outlines=masks),
    )  # fmt: skip


def measured(about: Case, spec: str = "segmentation") -> Any:
    return apply(build(spec), about)


def unit(maps: Tensor) -> np.ndarray:
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low)).numpy()


def test_pixel_average_precision_is_that_of_all_pixels_together(masks: Tensor) -> None:
    maps = torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).double() + 0.6 * masks
    for levels in (10, 100):
        pooled = np.floor(unit(maps) * levels).clip(0, levels - 1).ravel()
        expected = average_precision_score(masks.flatten().numpy(), pooled)
        values = measured(case(maps, masks), f"segmentation:levels={levels}").values["pxap"]
        assert float(values.mean()) == pytest.approx(expected, abs=1e-12)


def test_its_spread_is_that_of_the_figure_under_resampling(masks: Tensor) -> None:
    """The bootstrap of the whole figure, made anew on each resample, beside that of the mean of the values."""
    n, rng = 200, np.random.default_rng(0)
    drawn = torch.rand(n, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    masks = drawn < 0.1 + 0.8 * torch.rand(n, 1, 1, generator=torch.Generator().manual_seed(4))
    maps = torch.rand(n, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).double() + 0.6 * masks
    values = measured(case(maps, masks)).values["pxap"].numpy()
    scores, truth = np.floor(unit(maps) * 100).clip(0, 99), masks.flatten(1).numpy()
    figures, means = [], []
    for _ in range(150):
        rows = rng.integers(0, n, n)
        figures.append(average_precision_score(truth[rows].ravel(), scores[rows].ravel()))
        means.append(values[rows].mean())
    assert np.std(means) == pytest.approx(np.std(figures), rel=0.1)
    assert np.corrcoef(means, figures)[0, 1] > 0.98


def test_overlaps_are_those_of_a_loop_with_the_threshold_of_the_other_half(masks: Tensor) -> None:
    maps = torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).double() + 0.4 * masks
    right = torch.arange(N) % 3 > 0
    answer = measured(case(maps, masks, right=right), "segmentation:levels=20")
    draws = answer.parts[:, 0].numpy()
    first = draws.argsort()[: N // 2]
    second = np.setdiff1d(np.arange(N), first)
    every = np.zeros((N, 20))
    for i, k in np.ndindex(N, 20):
        strong, thing = unit(maps)[i] >= k / 20, masks[i].flatten().numpy()
        every[i, k] = (strong & thing).sum() / (strong | thing).sum()
    expected = np.zeros(N)
    for choosing, judged in ((first, second), (second, first)):
        expected[judged] = every[judged, every[choosing].mean(axis=0).argmax()]
    assert answer.values[""].numpy() == pytest.approx(expected)
    assert answer.values["top1"].numpy() == pytest.approx(1.0 * (expected >= 0.5) * right.numpy())
    assert 0 < answer.values["top1"].sum() < (expected >= 0.5).sum()
    lower = measured(case(maps, masks, right=right), "segmentation:levels=20,iou=0.2").values["top1"].numpy()
    assert lower == pytest.approx(1.0 * (expected >= 0.2) * right.numpy())
    assert answer.values["whole_picture"].numpy() == pytest.approx(masks.flatten(1).double().mean(dim=1).numpy())


def test_resampled_means_choose_anew_on_the_resampled_other_half(masks: Tensor) -> None:
    """Beside a loop over the drawn examples, and scikit-learn's precision of all their pixels."""
    maps = torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(6)).double() + 0.3 * masks
    right = torch.arange(N) % 3 > 0
    answer = measured(case(maps, masks, right=right), "segmentation:levels=20")
    parts = answer.parts.clone()
    parts[7] = math.nan
    drawn = torch.randint(N, (20, N), generator=torch.Generator().manual_seed(0))
    made: Any = build("segmentation:levels=20")
    made = made.resampled(parts, torch.stack([torch.bincount(each, minlength=N) for each in drawn]).double())
    order = [i for i in parts[:, 0].argsort().tolist() if i != 7]
    first, second = order[: (N - 1) // 2], order[(N - 1) // 2 :]
    levels = np.floor(unit(maps) * 20).clip(0, 19)
    thing = masks.flatten(1).numpy()
    every = np.array([[(s & t).sum() / (s | t).sum() for s in (row >= k for k in range(20))]
                      for row, t in zip(levels, thing, strict=True)])  # fmt: skip
    for row, rows in enumerate(drawn.tolist()):
        one, two = ([i for i in rows if i in half] for half in (first, second))
        values, rights, whole = [], [], []
        for choosing, judged in ((one, two), (two, one)):
            best = every[choosing].sum(axis=0).round(9).argmax()
            values += [every[i, best] for i in judged]
            rights += [float(every[i, best] >= 0.5) * float(right[i]) for i in judged]
            whole += [thing[i].mean() for i in judged]
        held = [i for i in rows if i != 7]
        precision = average_precision_score(thing[held].ravel(), levels[held].ravel())
        expected = {"": np.mean(values), "top1": np.mean(rights), "whole_picture": np.mean(whole), "pxap": precision}
        for name, value in expected.items():
            assert float(made[name][row]) == pytest.approx(value, abs=1e-9), name


def test_two_maps_differ_where_their_pixels_do(masks: Tensor) -> None:
    """Else pictures with equal maps would speak for one of them: of each, the change is that of trading the maps."""
    maps = torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).double() + 0.6 * masks
    others = maps.clone()
    others[:4] = torch.rand(4, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()
    first, second = (measured(case(each, masks)).parts for each in (maps, others))
    first[7], second[7] = math.nan, math.nan
    segmentation = Segmentation()
    adds = segmentation.paired(first, second)["pxap"]
    known = torch.arange(N) != 7
    assert (adds != 0)[known].tolist() == (torch.arange(N) < 4)[known].tolist()
    assert adds[7].isnan()
    means = [segmentation.settle(parts).values["pxap"].nanmean() for parts in (first, second)]
    assert float(adds.nanmean()) == pytest.approx(float(means[0] - means[1]), rel=0.05)
    for row in range(4):
        swapped = [parts.clone() for parts in (first, second)]
        swapped[0][row], swapped[1][row] = second[row], first[row]
        signs = torch.ones(N).index_fill(0, torch.tensor(row), -1.0)
        assert segmentation.paired(*swapped)["pxap"].numpy() == pytest.approx(
            (signs * adds).numpy(), rel=1e-9, nan_ok=True
        )


def test_few_pictures_whose_maps_differ_claim_no_more_than_their_signs(tmp_path: Path) -> None:
    data = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=12, seed=0)
    asked: dict[str, Any] = {
        "attack": None, "btr": None, "maps": ("gradient", "centre"), "measures": ("segmentation:levels=10",),
        "pictures": (), "recheck": 0,
    }  # fmt: skip
    folder = tmp_path / "record"
    record = evaluate([("net", "net", advex.load("builtin:planted"))], data, folder, settings_from(asked))
    (line,) = (line for line in record.differences if line.measure == "segmentation_pxap")
    parts = [torch.tensor([row["parts"] for row in read_rows(folder, "parts") if row["explainer"] == name])
             for name in (line.first, line.second)]  # fmt: skip
    adds = Segmentation(levels=10).paired(*(each.double() for each in parts))["pxap"]
    assert line.p == pytest.approx(float(sign_flips(adds[:, None], seed=0)), abs=1e-12)


def test_the_mask_itself_is_perfect_and_a_constant_map_finds_nothing(masks: Tensor) -> None:
    perfect = measured(case(masks.double(), masks))
    assert perfect.values[""].tolist() == [1] * N
    assert perfect.values["pxap"].numpy() == pytest.approx(np.ones(N))
    maps = masks.double()
    maps[3] = 0.7
    answer = measured(case(maps, masks))
    assert answer.values[""][3] == 0
    share = float(masks.double().mean())
    assert float(measured(case(torch.ones(N, SIDE, SIDE).double(), masks)).values["pxap"].mean()) == pytest.approx(
        share
    )


def test_without_an_outline_the_boxes_are_the_thing_and_without_either_there_is_no_value() -> None:
    boxes = [[[1, 1, 3, 4]]] * 4 + [[]]
    maps = torch.zeros(5, SIDE, SIDE).double()
    maps[:, 1:5, 1:4] = 1
    answer = measured(case(maps, None, boxes))
    assert answer.values[""][:4].tolist() == [1] * 4
    assert math.isnan(answer.values[""][4])
    assert math.isnan(answer.values["pxap"][4])


@pytest.mark.parametrize(("smooth", "filtered"), [("mean", 3), ("1.5", 1.5)])
def test_maps_are_smoothed_first_and_the_mask_that_is_kept_is_that_which_is_judged(
    masks: Tensor, smooth: str, filtered: float
) -> None:
    maps = torch.rand(N, SIDE, SIDE, generator=torch.Generator().manual_seed(7)).double() + 0.5 * masks
    maps[5] = 0.1  # nothing is strong in it, and smoothing puts nothing there
    spec = f"segmentation:levels=20,smooth={smooth}"
    answer, made = measured(case(maps, masks), spec), build(spec)
    by_hand = [
        ndimage.uniform_filter(each, 3) if smooth == "mean" else ndimage.gaussian_filter(each, filtered)
        for each in maps.numpy()
    ]
    kept: Any = made
    for row in range(N):
        mask = np.array(kept.mask_of(answer.parts, row, maps[row][None, None])).reshape(SIDE, SIDE)
        thing = masks[row].numpy()
        overlap = (mask & thing).sum() / (mask | thing).sum()
        assert answer.values[""][row] == pytest.approx(overlap)
        if row == 5:
            assert not mask.any()
        else:  # the strongest pixels of the map that was smoothed by hand
            strongest = np.sort(by_hand[row], axis=None)[-mask.sum()]
            assert (mask == (by_hand[row] >= strongest)).all()
