"""Measures of place and of removal: by hand, by slow loops, and by other libraries' solvers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from advex import registry
from advex.classifier import Classifier
from advex.data.evidence import Evidence
from advex.errors import SpecError
from advex.explainers.filling import filled
from advex.features import Feature, FeatureSpec
from advex.measures.case import Case, apply
from advex.measures.intervals import bootstrap
from advex.measures.paired_tests import sign_flips
from advex.measures.place import Pointing, Rank
from advex.measures.removal import Deletion, Insertion
from advex.measures.road import imputed
from advex.types import Explanation


def case(
    maps: Tensor, *, box: tuple[int, ...] = (), classifier: Classifier | None = None, x: Tensor | None = None
) -> Case:
    """maps: [n, height, width], or with channels."""
    maps = maps if maps.ndim == 4 else maps[:, None].expand(-1, 3, -1, -1)
    n = len(maps)
    given: Any = Explanation(map=maps, target=torch.zeros(n, dtype=torch.int64), method="given")
    nothing: Any = None
    return Case(
        classifier=classifier or Classifier(nn.Sequential(nn.Flatten(), nn.Linear(maps[0].numel(), 2))),
        x=torch.rand(maps.shape, generator=torch.Generator().manual_seed(0)).double() if x is None else x,
        y=given.target, explainer=nothing, explanation=given, evidence=evidence(box, n) if box else None,
    )  # fmt: skip


def evidence(box: tuple[int, ...], n: int) -> Evidence:
    return Evidence(boxes=(torch.tensor([box]),) * n)


def value(spec: str, about: Case, name: str = "") -> list[float]:
    return apply(registry.build("measure", spec), about).values[name].tolist()


def peak(row: int, column: int, side: int = 32) -> Tensor:
    maps = torch.zeros(1, side, side, dtype=torch.float64)
    maps[0, row, column] = 1
    return maps


# -- place --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "tolerance", "hit"),
    [
        ((10, 10), 0, 1),  # a corner of the box
        ((10, 9), 0, 0),
        ((10, 7), 3, 0),  # strictly nearer
        ((10, 7), 3.01, 1),
        ((7, 6), 5, 0),  # 3-4-5, across the corner
        ((7, 6), 5.01, 1),
        ((10, 8), "15@224", 1),  # 2 of 2.14
        ((10, 7), "15@224", 0),
    ],
)
def test_pointing_is_a_hit_nearer_than_the_tolerance(where: tuple[int, int], tolerance: object, hit: int) -> None:
    assert value(f"pointing:tolerance={tolerance}", case(peak(*where), box=(10, 10, 20, 15))) == [hit]


def test_of_several_strongest_pixels_pointing_is_the_share_that_hits() -> None:
    maps = peak(12, 12) + peak(0, 0) + peak(30, 30) + peak(13, 12)
    assert value("pointing:tolerance=0", case(maps, box=(10, 10, 20, 15))) == [0.5]


def test_mass_is_the_share_of_the_weight() -> None:
    maps = 3 * peak(12, 12) + peak(0, 0)
    assert value("mass", case(maps, box=(10, 10, 20, 15))) == [0.75]
    signed = torch.stack([3 * peak(12, 12), -peak(12, 12), -5 * peak(0, 0)], dim=1)
    assert value("mass:channels=sum", case(signed, box=(10, 10, 20, 15))) == [1.0], "what counts for the class"
    assert value("mass:channels=sum_abs", case(signed, box=(10, 10, 20, 15))) == [4 / 9]
    against = apply(registry.build("measure", "mass"), case(-maps, box=(10, 10, 20, 15)))
    assert "no pixel of the map counts for the class" in against.undefined


def test_rank_of_tied_pixels_is_what_is_expected_of_any_order() -> None:
    maps = torch.tensor([[[5.0, 1, 1], [1, 0, 0], [0, 0, 0]]])
    about = case(maps, box=(0, 0, 0, 1))  # the first column's upper two pixels
    flat, mask = maps.flatten().tolist(), about.evidence_mask.flatten().tolist()
    hits = []
    for order in itertools.permutations(range(9)):
        first = sorted(range(9), key=lambda pixel: (-flat[pixel], order[pixel]))[:2]
        hits.append(sum(mask[pixel] for pixel in first) / 2)
    assert math.isclose(apply(Rank(), about).values[""][0].item(), sum(hits) / len(hits))


def test_a_map_of_one_value_points_nowhere_and_is_counted() -> None:
    for spec in ("pointing", "mass", "rank", "deletion", "regions", "road"):
        measured = apply(registry.build("measure", spec), case(torch.full((2, 8, 8), 0.3), box=(1, 1, 3, 3)))
        assert all(each.isnan().all() for each in measured.values.values())
        assert list(measured.undefined) == ["the map is the same everywhere"]


@pytest.mark.parametrize("spec", ["pointing", "mass", "rank", "road", "localisation"])
def test_rows_have_no_places(spec: str) -> None:
    flat = case(torch.rand(2, 8, 8))
    given: Any = Explanation(map=torch.rand(2, 5), target=flat.y, method="given")
    about = Case(
        classifier=flat.classifier, x=torch.rand(2, 5), y=flat.y, explainer=flat.explainer, explanation=given,
    )  # fmt: skip
    with pytest.raises(SpecError, match="needs pictures"):
        registry.build("measure", spec)(about)


IMPOSSIBLE = (
    "pointing:tolerance=-1", "pointing:tolerance=3@0", "pointing:tolerance=x", "road:shares=0-50",
    "road:shares=10-100", "road:shares=x", "deletion:steps=0", "regions:side=0",
)  # fmt: skip


@pytest.mark.parametrize("spec", IMPOSSIBLE)
def test_impossible_options_are_refused(spec: str) -> None:
    with pytest.raises(SpecError):
        registry.build("measure", spec)


# -- removal ------------------------------------------------------------------------------------------------


def small_network(side: int = 8) -> Classifier:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(4 * side * side, 3)]
    return Classifier(nn.Sequential(*layers).double(), mean=(0.4, 0.5, 0.6), std=0.3).eval()


def test_curves_are_those_of_a_loop_over_pictures_and_steps() -> None:
    maps = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    about = case(maps, classifier=small_network())
    # As published, 8 pixels a step: a row of the picture has so many.
    of_rise = ((Deletion(published=True), False, 8), (Insertion(published=True), True, 8))
    mine = ((Deletion(fill="grey", steps=7), False, 7), (Insertion(fill="blur", steps=7), True, 7))
    for measure, back, steps in (*mine, *of_rise):
        empty = filled(about.classifier, about.x, measure.fill)
        expected = []
        for i in range(5):
            order = maps[i].abs().amax(dim=0).flatten().argsort(descending=True)
            points = []
            for k in range(steps + 1):
                gone = torch.zeros(64, dtype=torch.bool)
                gone[order[: round(k * 64 / steps)]] = True
                picture = torch.where(gone.reshape(8, 8) != back, empty[i], about.x[i])
                points.append(about.classifier.predict(picture[None])[0, 0].item())
            expected.append(np.trapezoid(points, [round(k * 64 / steps) / 64 for k in range(steps + 1)]))
        assert torch.allclose(apply(measure, about).values[""], torch.tensor(expected), atol=1e-12)


def test_of_a_linear_logit_the_areas_are_known() -> None:
    """Each pixel counts w: with all of one sign the curve falls by the sum of what has gone."""
    weight = torch.arange(1.0, 17, dtype=torch.float64).reshape(4, 4)
    layer = nn.Linear(48, 2).double()
    layer.weight.data, layer.bias.data = (
        torch.stack([weight.expand(3, 4, 4).flatten(), torch.zeros(48)]),
        torch.zeros(2),
    )
    classifier = Classifier(nn.Sequential(nn.Flatten(), layer)).eval()
    x = torch.full((1, 3, 4, 4), 0.25, dtype=torch.float64)
    about = case(weight[None], classifier=classifier, x=x)
    left = 0.75 * np.array([136 - sum(range(17 - k, 17)) for k in range(17)])
    best = np.trapezoid(left, dx=1 / 16)
    assert math.isclose(value("deletion:steps=16,output=logit", about)[0], best)
    upside_down = case(-weight[None], classifier=classifier, x=x)
    worst = np.trapezoid(0.75 * np.array([sum(range(k + 1, 17)) for k in range(17)]), dx=1 / 16)
    assert math.isclose(value("deletion:steps=16,output=logit", upside_down)[0], worst)
    assert math.isclose(value("insertion:steps=16,output=logit,fill=mean", about)[0], 0.75 * 136 - best)
    assert math.isclose(value("regions:side=1,fill=mean", about)[0], 1)
    assert math.isclose(value("regions:side=1,fill=mean", upside_down)[0], -1)
    assert math.isclose(value("regions:side=2,fill=mean", about)[0], 1)


def test_equal_pixels_go_in_an_order_by_chance_that_is_each_rows_own() -> None:
    maps = peak(3, 3, side=8).expand(40, -1, -1)
    about = case(maps, classifier=small_network())
    rows = torch.cat([apply(Deletion(), case(maps[:1], classifier=about.classifier, x=about.x[i : i + 1])).values[""]
                      for i in range(40)])  # fmt: skip
    assert torch.allclose(rows, apply(Deletion(), about).values[""], atol=1e-12)
    by_number = maps + 1e-9 * torch.arange(64).reshape(8, 8)
    up, down = (
        apply(Deletion(), case(each, classifier=about.classifier, x=about.x)).values[""].mean()
        for each in (by_number, maps - 1e-9 * torch.arange(64).reshape(8, 8))
    )
    assert (rows.mean() - (up + down) / 2).abs() < (up - down).abs(), "neither from the top nor from the bottom"


def test_the_blur_is_the_one_of_rise() -> None:
    classifier = small_network(side=32)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    kernel = np.zeros((11, 11))
    kernel[5, 5] = 1
    kernel = ndimage.gaussian_filter(kernel, 5)
    mean = np.array([0.4, 0.5, 0.6]).reshape(3, 1, 1)
    normalised = (x.numpy() - mean) / 0.3
    blurred = np.stack([[ndimage.convolve(c, kernel, mode="constant") for c in picture] for picture in normalised])
    assert np.allclose(filled(classifier, x, "blur").numpy(), blurred * 0.3 + mean, atol=1e-7)
    assert torch.equal(filled(classifier, x, "grey"), torch.full_like(x, 0.5))
    assert np.allclose(filled(classifier, x, "mean").numpy(), np.broadcast_to(mean, x.shape))


# -- road ---------------------------------------------------------------------------------------------------


def solved(picture: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Rong et al. 2022, Sec. 4.2: one sparse system for the pixels of one picture that are gone."""
    weights = {(0, 1): 1 / 6, (1, 0): 1 / 6, (0, -1): 1 / 6, (-1, 0): 1 / 6,
               (1, 1): 1 / 12, (1, -1): 1 / 12, (-1, 1): 1 / 12, (-1, -1): 1 / 12}  # fmt: skip
    height, width = holes.shape
    gone = list(zip(*np.nonzero(holes), strict=True))
    number = {place: i for i, place in enumerate(gone)}
    matrix, right = lil_matrix((len(gone), len(gone))), np.zeros((len(gone), len(picture)))
    for i, (row, column) in enumerate(gone):
        for (down, across), weight in weights.items():
            place = row + down, column + across
            if not (0 <= place[0] < height and 0 <= place[1] < width):
                continue
            matrix[i, i] += weight
            if place in number:
                matrix[i, number[place]] -= weight
            else:
                right[i] += weight * picture[:, place[0], place[1]]
    result = picture.copy()
    result[:, holes] = spsolve(matrix.tocsc(), right).reshape(len(gone), -1).T
    return result


def test_pixels_are_replaced_as_by_a_direct_solver_in_any_company() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 12, 10, generator=rng, dtype=torch.float64)
    holes = torch.rand(4, 1, 12, 10, generator=rng) < torch.tensor([0.1, 0.5, 0.9, 0.5]).reshape(4, 1, 1, 1)
    holes[3], holes[3, :, 2:9, 1:8] = False, True
    pictures, settled = imputed(x, holes)
    assert settled.all()
    for i in range(4):
        assert np.allclose(pictures[i].numpy(), solved(x[i].numpy(), holes[i, 0].numpy()), atol=1e-4)
        assert torch.allclose(imputed(x[i : i + 1], holes[i : i + 1])[0][0], pictures[i], atol=1e-12)


def test_road_is_the_answer_without_the_strongest_and_without_the_weakest() -> None:
    maps = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    about = case(maps, classifier=small_network())
    measured = apply(registry.build("measure", "road:shares=25-50,noise=0"), about).values
    for i in range(3):
        order = maps[i].abs().amax(dim=0).flatten().argsort(descending=True)
        answers = {}
        for most in (True, False):
            parts = []
            for count in (16, 32):
                holes = torch.zeros(64, dtype=torch.bool)
                holes[order[:count] if most else order[-count:]] = True
                picture = solved(about.x[i].numpy(), holes.reshape(8, 8).numpy())
                parts.append(about.classifier.predict(torch.from_numpy(picture)[None])[0, 0].item())
            answers[most] = sum(parts) / 2
        assert math.isclose(measured["most_first"][i].item(), answers[True], abs_tol=1e-5)
        assert math.isclose(measured["least_first"][i].item(), answers[False], abs_tol=1e-5)
        assert math.isclose(measured["combined"][i].item(), (answers[False] - answers[True]) / 2, abs_tol=1e-5)


def test_road_of_one_order_is_the_one_figure_at_half_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    about = case(torch.randn(3, 3, 8, 8, dtype=torch.float64), classifier=small_network())
    both = apply(registry.build("measure", "road:shares=25-50"), about).values
    asked: list[int] = []
    forward = about.classifier.network.forward
    monkeypatch.setattr(about.classifier.network, "forward", lambda x: asked.append(len(x)) or forward(x))
    for order, name in (("morf", "most_first"), ("lerf", "least_first")):
        asked.clear()
        one = apply(registry.build("measure", f"road:shares=25-50,order={order}"), about).values
        assert list(one) == [name]
        assert torch.equal(one[name], both[name])
        assert sum(asked) == 3 * 2
    with pytest.raises(SpecError):
        registry.build("measure", "road:order=strongest")


# -- the pointing game's subset and classes -------------------------------------------------------------------


def test_small_things_beside_others_are_the_subset() -> None:
    """Less than a quarter of the picture and another class beside it: by the rule, not by a list."""
    maps = peak(1, 1, side=8).expand(4, -1, -1)
    boxes = tuple(torch.tensor([box]) for box in ((0, 0, 3, 3), (0, 0, 3, 2), (0, 0, 3, 2), (4, 4, 6, 6)))
    about = case(maps, box=(0, 0, 3, 3))
    others = torch.tensor([True, True, False, True])
    known = Evidence(boxes=boxes, distractor=others)
    measured = apply(registry.build("measure", "pointing:subset=small,tolerance=0"), replace(about, evidence=known))
    assert measured.values[""].nan_to_num(-1).tolist() == [-1, 1, -1, 0]
    (reason,) = measured.undefined
    assert "quarter" in reason
    silent = replace(about, evidence=Evidence(boxes=boxes))
    (reason,) = apply(registry.build("measure", "pointing:subset=small"), silent).undefined
    assert "do not say" in reason
    told = replace(about, evidence=Evidence(boxes=boxes, distractor=others, share=torch.tensor([0.1, 0.5, 0.1, 0.1])))
    measured = apply(registry.build("measure", "pointing:subset=small,tolerance=0"), told)
    assert measured.values[""].nan_to_num(-1).tolist() == [1, -1, -1, 0], "the share is the picture's own"
    for data in (Evidence(boxes=boxes), known):
        measured = apply(
            registry.build("measure", "pointing:subset=quarter,tolerance=0"), replace(about, evidence=data)
        )
        assert measured.values[""].nan_to_num(-1).tolist() == [-1, 1, 1, 0], "whatever is beside them"
        assert "quarter of its picture or more" in next(iter(measured.undefined))


def test_removal_as_published_takes_no_other_settings() -> None:
    for spec in ("deletion:published=true,steps=4", "insertion:published=true,fill=grey,output=logit"):
        with pytest.raises(SpecError, match="already sets"):
            registry.build("measure", spec)


def test_the_mean_over_classes_is_of_those_that_have_examples() -> None:
    hits = torch.tensor([1, 0, 0, 1, 1, 1, 1])
    maps = torch.cat([peak(1, 1, side=8) if hit else peak(7, 7, side=8) for hit in hits])
    maps[6] = 0  # no value: it counts in no class, and its class, 5, has no other
    about = replace(case(maps, box=(0, 0, 2, 2)), y=torch.tensor([0, 0, 0, 0, 2, 2, 5]))
    measured = apply(registry.build("measure", "pointing:tolerance=0"), about)
    assert measured.values[""][:6].tolist() == hits[:6].tolist()
    assert measured.values["per_class"][:6].mean().item() == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert measured.values["per_class"][6].isnan()
    # The spread is that of the means of classes: of 2 hits of 4 and 2 of 2, (1 / 4) (1/2 1/2) / 4 and nothing.
    assert measured.parts is not None
    pointing, parts = Pointing(tolerance=0), measured.parts.repeat(100, 1)
    drawn = bootstrap(len(parts), lambda counts: pointing.resampled(parts, counts)["per_class"], 0)
    assert drawn.var().item() == pytest.approx(1 / 4 * 1 / 4 / 4 / 100, rel=0.1)
    assert drawn.amin() >= 0
    assert drawn.amax() <= 1
    counts = torch.tensor([[0, 3, 0, 1, 0, 0, 9], [1, 0, 0, 1, 2, 2, 0.0]]).double()
    again = pointing.resampled(measured.parts, counts)
    assert again["per_class"].tolist() == [1 / 4, 1], "of the classes that were drawn"
    assert again[""].tolist() == [1 / 4, 1]


def test_explainers_differ_by_class_where_their_hits_do() -> None:
    """Else an example in which both hit would speak for the one that is better elsewhere: 4 to 0 is no difference."""
    labels = torch.arange(24).fmod(4).double()
    hits = torch.ones(24, dtype=torch.float64)
    fewer = hits.index_fill(0, torch.tensor([0, 4, 12, 16]), 0.0)
    both = [Pointing().settle(torch.stack([each, labels], dim=1)).values["per_class"] for each in (hits, fewer)]
    changes = both[0] - both[1]
    assert (changes != 0).tolist() == (hits != fewer).tolist()
    assert float(sign_flips(changes[:, None], 0)) == pytest.approx(2 / 2**4, rel=0.1)


def test_what_lies_beside_the_picture_is_never_pointed_at() -> None:
    maps = 3 * peak(0, 4, side=8) + 2 * peak(3, 4, side=8)
    about = case(maps, box=(4, 3, 5, 4))
    assert about.evidence is not None
    boxed = replace(about.evidence, picture=torch.tensor([[0, 2, 7, 5]]))
    assert value("pointing:tolerance=0", about) == [0]
    assert value("pointing:tolerance=0", replace(about, evidence=boxed)) == [1]


# -- rows ---------------------------------------------------------------------------------------------------


def of_rows(maps: Tensor, x: Tensor, weight: Tensor, features: FeatureSpec | None = None) -> Case:
    """A linear network of rows, whose logit of class 0 is weight @ x, and of class 1 nothing."""
    linear = nn.Linear(len(weight), 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.stack([weight, torch.zeros_like(weight)]))
    classifier = Classifier(linear, box=(-9, 9)) if features is None else Classifier(linear, features=features)
    target = torch.zeros(len(x), dtype=torch.int64)
    given: Any = Explanation(map=maps, target=target, method="given")
    nothing: Any = None
    return Case(classifier=classifier, x=x, y=target, explainer=nothing, explanation=given)


def test_columns_go_and_come_one_after_the_other() -> None:
    """Of a linear logit whose columns are worth 6, 3 and -1: what is left after each, by the trapezoid."""
    x, weight = torch.tensor([[2.0, 1.0, 1.0]]).double(), torch.tensor([3.0, 3.0, -1.0]).double()
    about = of_rows(torch.tensor([[0.9, -0.5, 0.1]]).double(), x, weight)
    assert value("deletion:output=logit,steps=32", about) == pytest.approx([(8 / 2 + 2 - 1 + 0) / 3])
    assert value("insertion:output=logit,fill=mean", about) == pytest.approx([(0 + 6 + 9 + 8 / 2) / 3])
    assert value("deletion:output=logit,steps=1", about) == pytest.approx([4.0]), "all at once"
    effects, sizes = np.array([6.0, 3.0, -1.0]), np.array([0.9, 0.5, 0.1])
    assert value("regions", about) == pytest.approx([np.corrcoef(effects, sizes)[0, 1]])
    signed = np.corrcoef(effects, [0.9, -0.5, 0.1])[0, 1]
    assert value("regions:channels=sum", about) == pytest.approx([signed])


def test_steps_of_unequal_size_count_by_their_size() -> None:
    """33 columns in 32 steps, of which one takes two: all are worth 1, and what is left falls in a straight line."""
    x = torch.ones(1, 33).double()
    about = of_rows(torch.arange(33.0).double()[None] + 1, x, x[0])
    assert value("deletion:output=logit,steps=32", about) == pytest.approx([33 / 2])
    trace = apply(registry.build("measure", "deletion:output=logit,steps=32"), about).trace
    assert [float(key) for key in trace] == pytest.approx(
        [*(k / 33 for k in range(17)), *(k / 33 for k in range(18, 34))], abs=1e-4
    )


@pytest.mark.parametrize("spec", ["deletion", "insertion", "road", "regions"])
def test_a_loss_rises_with_what_speaks_against_the_class_and_is_refused(spec: str) -> None:
    with pytest.raises(SpecError, match="output"):
        registry.build("measure", f"{spec}:output=loss")


def test_a_category_goes_as_a_whole_and_its_elements_are_added_up() -> None:
    """Colour is worth 5, by its element of value 1; in the map its elements are 2 and -1.5, so that age comes first."""
    features = FeatureSpec(features=(
        Feature(name="colour", kind="category", values=("red", "blue")), Feature(name="age", low=-5, high=5),
    ))  # fmt: skip
    x, weight = torch.tensor([[0.0, 1.0, 2.0]]).double(), torch.tensor([7.0, 5.0, 1.0]).double()
    about = of_rows(torch.tensor([[2.0, -1.5, 0.6]]).double(), x, weight, features)
    assert value("deletion:output=logit", about) == pytest.approx([(7 / 2 + 5 + 0) / 2])
    assert value("insertion:output=logit,fill=mean", about) == pytest.approx([(0 + 2 + 7 / 2) / 2])
    assert value("regions", about) == pytest.approx([-1.0]), "two columns, of which the lighter one is worth more"


@pytest.mark.parametrize("spec", ["deletion:fill=grey", "deletion:fill=blur", "insertion"])
def test_rows_are_not_blurred(spec: str) -> None:
    about = of_rows(torch.ones(1, 3), torch.ones(1, 3), torch.ones(3))
    made = registry.build("measure", spec)
    with pytest.raises(SpecError, match="fill=mean"):
        made(about)
    with pytest.raises(SpecError, match="fill=mean"):
        made.check(about)
