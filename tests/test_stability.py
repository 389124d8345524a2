"""How far maps move: distances known by hand, models whose worst case is known, and the definitions read out slowly."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex.attacks import PGD, AtDistance
from advex.classifier import Classifier, input_gradient
from advex.errors import InputError, SpecError
from advex.explainers import Gradient, IntegratedGradients
from advex.features import Feature, FeatureSpec
from advex.geometry import L2, RMSE
from advex.goals import Scramble
from advex.measures import (
    Case,
    Cosine,
    Neighbours,
    RandomStability,
    RelativeL2,
    Spearman,
    TopK,
    WorstCase,
    apply,
    build,
    neighbours,
    random_stability,
    relative_input_stability,
    relative_output_stability,
    relative_representation_stability,
    representation,
    worst_case_stability,
)
from advex.measures.worst_change import NO_POINT, worst_around
from advex.networks import HalfHuberReLU
from advex.types import Explanation, concatenate

DISTANCES = [RelativeL2(), Cosine(), Spearman(), TopK(2)]
EVERY = pytest.mark.parametrize("distance", DISTANCES, ids=lambda distance: type(distance).__name__)


@dataclass(frozen=True)
class Slope:
    """The plainest map: the gradient of the target's logit, times the input if asked."""

    times_input: bool = False
    differentiable: ClassVar[bool] = True

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed=0,
        mask=None,
        max_batch=None,
        create_graph=False,
    ) -> Explanation:
        def logit(x: Tensor) -> Tensor:
            return classifier.logits(x).gather(1, target[:, None])[:, 0]

        with classifier.frozen():
            gradient, _ = input_gradient(logit, x, create_graph=create_graph)
        return Explanation(map=gradient * x if self.times_input else gradient, target=target, method="slope")


@dataclass(frozen=True)
class Opaque:
    """A map that cannot be differentiated: the input's sign pattern about one half."""

    def __call__(self, classifier: Classifier, x: Tensor, target: Tensor, *, seed=0, mask=None, max_batch=None):
        return Explanation(map=(x > 0.5).to(x), target=target, method="opaque")


class Bowl(nn.Module):
    """Logits (offset + sum_i s_i x_i^2 / 2, 0): the first one's gradient is s_i x_i."""

    def __init__(self, steepness: list[float], offset: float = 100.0) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(steepness, dtype=torch.float64))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        value = self.offset + (self.steepness * x.square()).sum(dim=1) / 2
        return torch.stack([value, torch.zeros_like(value)], dim=1)


STEEPNESS = [3.0, 1.0, 0.5, 2.0]
WIDTH = 20.0  # of the bowl's box: radii are shares of it


def bowl(offset: float = 100.0) -> Classifier:
    return Classifier(Bowl(STEEPNESS, offset), box=(-WIDTH / 2, WIDTH / 2)).eval()


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def draws(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


# -- random changes -----------------------------------------------------------------------------------------


def test_neighbours_are_in_the_ball_and_in_the_box(toys: SimpleNamespace) -> None:
    x = draws(4, 3, 2, 2)
    around = neighbours(Slope(), toys.mlp(), x, classes(4), norm="l2", radius=0.5, samples=6)
    assert around.near.shape == around.maps.shape == (4, 6, 3, 2, 2)
    assert around.near_logits.shape == (4, 6, 3)
    for k in range(6):
        size = L2.size(around.near[:, k] - x)
        assert ((size > 0) & (size <= 0.5)).all()
    assert around.near.amin() >= 0
    assert around.near.amax() <= 1


def test_it_is_the_mean_and_the_maximum_over_points_that_keep_the_decision() -> None:
    classifier, x = bowl(offset=-0.6), draws(8, 4)
    around = neighbours(Slope(), classifier, x, classes(8), radius=0.4 / WIDTH, samples=12)
    change = random_stability(around)
    s = np.array(STEEPNESS)
    for i in range(8):
        decision = classifier(x[i : i + 1]).argmax().item()
        apart = []
        for point in around.near[i].numpy():
            value = -0.6 + (s * point**2).sum() / 2
            if (0 if value >= 0 else 1) == decision:
                apart.append(np.linalg.norm(s * (point - x[i].numpy())) / np.linalg.norm(s * x[i].numpy()))
        assert change.points[i] == len(apart)
        if apart:
            assert change.mean[i].item() == pytest.approx(np.mean(apart))
            assert change.largest[i].item() == pytest.approx(max(apart))
    assert 0 < change.points.sum() < 8 * 12


def test_no_point_that_keeps_the_decision_is_no_stability() -> None:
    around = by_hand(near=[[3.0, 4.0]], maps=[[9.0, 9.0]], near_logits=[[0.0, 5.0]])
    change = random_stability(around)
    assert change.points.tolist() == [0]
    assert change.mean.isnan().all()
    assert change.largest.isnan().all()
    assert relative_input_stability(around).isnan().all()
    assert relative_output_stability(around).isnan().all()
    assert change.score().failures == 1


def test_random_stability_follows_from_the_row_and_the_seed_alone(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(5, 3, 2, 2)
    together = neighbours(Slope(), classifier, x, classes(5), samples=3)
    alone = concatenate([neighbours(Slope(), classifier, x[i : i + 1], classes(1), samples=3) for i in range(5)])
    assert torch.equal(alone.near, together.near)
    assert torch.allclose(random_stability(alone).mean, random_stability(together).mean, rtol=1e-9)
    more = neighbours(Slope(), classifier, x, classes(5), samples=4)
    assert torch.equal(more.near[:, :3], together.near)
    other = neighbours(Slope(), classifier, x, classes(5), samples=3, seed=1)
    assert not any(torch.equal(a, b) for a in other.near.unbind(dim=1) for b in more.near.unbind(dim=1))


def test_maps_too_small_for_a_distance_have_a_reason(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(2, 3, 2, 2)
    case = Case(
        classifier=classifier, x=x, y=classes(2), explainer=Slope(), explanation=Slope()(classifier, x, classes(2))
    )
    made = apply(build("random_stability:samples=2,distance=(top_k:k=1000)"), case)
    assert isinstance(made.value, dict)
    assert all(each.isnan().all() for each in made.value.values())
    assert any("use a smaller k" in reason for reason in made.undefined)


def test_random_stability_needs_no_derivatives() -> None:
    around = neighbours(Opaque(), bowl(), rows([0.7, 0.2, 0.6, 0.1]), classes(1), radius=0.05 / WIDTH)
    assert random_stability(around, Cosine()).largest.tolist() == [0]


def test_points_near_a_tables_row_are_rows_of_it() -> None:
    features = FeatureSpec(
        features=(
            Feature(name="age", low=0, high=10, step=1),
            Feature(name="born", low=0, high=10, change="never"),
            Feature(name="colour", kind="category", values=("red", "blue")),
        )
    )
    network = nn.Linear(features.width, 2).double()
    x = features.encode([{"age": 3, "born": 2.5, "colour": "red"}]).double()
    around = neighbours(Slope(), Classifier(network, features=features).eval(), x, classes(1), radius=2.2, samples=20)
    points = around.near[0]
    assert torch.equal(points[:, 0], points[:, 0].round())
    assert len(points[:, 0].unique()) > 1
    assert (points[:, 1] == x[0, 1]).all()
    assert torch.equal(points[:, 2:].sum(dim=1), torch.ones(20, dtype=torch.float64))


# -- worst case ---------------------------------------------------------------------------------------------


def test_the_worst_case_of_a_bowl_in_l2() -> None:
    """The map moves by s * delta: at most by radius * max s, along the steepest axis."""
    x = draws(6, 4) + 0.5
    search = PGD(norm="l2", radius=0.3 / WIDTH, steps=60, step=3 / WIDTH)
    change = worst_case_stability(Slope(), bowl(), x, classes(6), search=search)
    expected = 0.3 * 3.0 / (torch.tensor(STEEPNESS) * x).norm(dim=1)
    # Steps much longer than the radius are a power iteration; each takes what lies across from 1 to (2/3)^2.
    assert torch.allclose(change.distance, expected, rtol=1e-6)
    assert (change.distance <= expected * (1 + 1e-9)).all()
    assert not change.flat.any()
    assert (change.gradients == 60).all()


def test_the_worst_case_of_a_bowl_in_linf_is_a_corner() -> None:
    x = draws(6, 4) + 0.5
    change = worst_case_stability(Slope(), bowl(), x, classes(6), search=PGD(norm="linf", radius=0.3 / WIDTH, steps=20))
    s = torch.tensor(STEEPNESS, dtype=torch.float64)
    assert torch.allclose(change.distance, 0.3 * s.norm() / (s * x).norm(dim=1), rtol=1e-9)
    assert torch.allclose(change.delta.abs(), torch.full((6, 4), 0.3, dtype=torch.float64))


def test_a_random_point_without_a_map_hides_none_of_the_others() -> None:
    x = draws(5, 4) + 0.5
    around = neighbours(Slope(), bowl(), x, classes(5), radius=0.1, samples=3)
    maps = around.maps.clone()
    maps[:, 0], maps[4] = math.nan, math.nan
    worst = worst_around(
        replace(around, maps=maps), Slope(), bowl(), classes(5), search=Idle(loses=True), distance="relative_l2",
        soften=None, restarts=1, climb=Slope(), seed=0, max_batch=None,
    )  # fmt: skip
    shown = torch.stack([RelativeL2()(around.map, each) for each in around.maps[:, 1:].unbind(dim=1)]).amax(dim=0)
    assert torch.equal(worst.distance[:4], shown[:4])
    assert not worst.by_attack[:4].any()
    assert worst.undefined[NO_POINT].tolist() == [False] * 4 + [True]


@EVERY
def test_the_worst_is_the_worse_of_search_and_random_points(distance, toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(6, 3, 2, 2)
    around = neighbours(Slope(), classifier, x, classes(6), radius=0.1, samples=20)
    worst = worst_case_stability(
        Slope(), classifier, x, classes(6), distance=distance, search=PGD(radius=0.1), samples=20
    )
    random = random_stability(around, distance)
    assert torch.equal(worst.random, random.largest)
    assert torch.equal(worst.distance, torch.maximum(worst.attack, worst.random))
    assert torch.equal(worst.by_attack, worst.attack >= worst.random)
    # A search that climbs something smooth in place of a step function can miss a step: it is so in the mean.
    assert worst.attack.mean() > random.mean.mean()
    # The change that is given leads to what is claimed, whoever met it.
    moved = Slope()(classifier, x + worst.delta, classes(6)).map
    assert torch.allclose(distance(around.map, moved), worst.distance, rtol=1e-9)


@dataclass(frozen=True)
class Idle:
    """A search that finds nothing, and one that loses the decision."""

    radius: float = 0.1
    norm: str = "linf"
    loses: bool = False

    def __call__(self, classifier, x, goal, *, seed=0, mask=None, max_batch=None) -> Any:
        found = PGD(radius=0.1, steps=1)(classifier, x, goal, seed=seed)
        return replace(found, delta=0 * found.delta, reached=found.reached & (not self.loses), flat=found.flat & False)


def test_what_a_weak_search_misses_random_points_may_show() -> None:
    x = draws(5, 4) + 0.5
    idle, lost = (
        worst_case_stability(Slope(), bowl(), x, classes(5), search=search, samples=3)
        for search in (Idle(), Idle(loses=True))
    )
    assert (idle.attack == 0).all()
    assert lost.attack.isnan().all()
    for change in (idle, lost):
        assert not change.by_attack.any()
        assert torch.equal(change.distance, change.random)
        assert (change.delta != 0).any(dim=1).all()
        assert not any(rows.any() for rows in change.undefined.values())
    measured = apply(WorstCase(search=Idle(), samples=3), case_of(Slope(), bowl(), x))  # pyright: ignore
    assert torch.equal(measured.values[""], idle.random)
    assert (measured.values["by_attack"] == 0).all()
    assert (measured.values["attack"] == 0).all()


def test_more_starts_find_no_less(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(6, 3, 2, 2)
    few, many = (
        worst_case_stability(Slope(), classifier, x, classes(6), search=PGD(radius=0.1, steps=10), restarts=restarts)
        for restarts in (1, 6)
    )
    assert (many.attack >= few.attack).all()
    assert (many.attack > few.attack).any()
    assert torch.equal(many.gradients, 6 * few.gradients)


@dataclass(frozen=True)
class Walk:
    """A slope that is the mean of several; it counts them."""

    steps: int = 50
    differentiable: ClassVar[bool] = True

    def __call__(self, classifier, x, target, *, create_graph=False, **options) -> Explanation:
        STEPS.append((self.steps, create_graph))
        return Slope()(classifier, x, target, create_graph=create_graph)


STEPS: list[tuple[int, bool]] = []


def test_a_long_path_is_climbed_by_few_points_and_measured_by_all() -> None:
    for points, climbed in ((10, 10), (None, 50), (80, 50)):
        STEPS.clear()
        worst_case_stability(Walk(), bowl(), draws(1, 4) + 0.5, classes(1), search=PGD(steps=3), points=points)
        assert {steps for steps, graph in STEPS if graph} == {climbed}
        assert STEPS[0] == STEPS[-1] == (50, False)


def test_the_worst_case_keeps_the_decision(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(40, 3, 2, 2, seed=4)
    decision = classifier(x).argmax(dim=1)
    change = worst_case_stability(Slope(), classifier, x, decision, search=PGD(radius=0.3))
    settled = ~change.distance.isnan()
    assert settled.sum() >= 38
    assert torch.equal(classifier(x + change.delta).argmax(dim=1)[settled], decision[settled])
    # Without that condition many would have lost it: the test is about something.
    corners = (x + 0.3 * change.delta.sign()).clamp(0, 1)
    assert (classifier(corners).argmax(dim=1) != decision).any()


def test_where_the_decision_is_lost_the_goal_leads_back_to_it() -> None:
    classifier = bowl(offset=-2.0)  # class 0 outside an ellipse
    x, inside = rows([2.0, 0, 0, 0]), rows([0.1, 0, 0, 0])
    goal = Scramble(
        explainer=Slope(), reference=rows([6.0, 0, 0, 0]), target=classes(1), decision=classes(1), distance=RelativeL2()
    )
    gradient, aim = input_gradient(lambda x: goal(classifier, x), inside)
    assert not aim.reached.any()
    assert aim.loss.item() > 0
    assert gradient[0, 0] < 0  # downhill is outwards
    assert goal(classifier, x).reached.all()
    assert goal(classifier, x).loss.item() == 0


def test_rows_do_not_mix_in_the_worst_case(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(4, 3, 2, 2)
    together = worst_case_stability(Slope(), classifier, x, classes(4), search=PGD(steps=5))
    alone = [worst_case_stability(Slope(), classifier, x[i : i + 1], classes(1), search=PGD(steps=5)) for i in range(4)]
    sliced = worst_case_stability(Slope(), classifier, x, classes(4), search=PGD(steps=5), max_batch=3)
    # Matrix products of other shapes round otherwise.
    assert torch.allclose(concatenate(alone).distance, together.distance, rtol=1e-9)
    assert torch.allclose(sliced.distance, together.distance, rtol=1e-9)


def test_where_a_map_cannot_move_nothing_is_claimed(toys: SimpleNamespace) -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, 0.2]])
    change = worst_case_stability(Slope(), toys.affine(weight, torch.zeros(2)), draws(3, 3), classes(3))
    assert change.flat.all()
    assert change.distance.isnan().all()  # undefined, not 0: the search could not know
    assert change.score().failures == 3


def relu() -> Classifier:
    torch.manual_seed(1)
    return Classifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()).eval()


def test_relu_networks_blind_a_search_that_is_not_softened_and_it_says_so() -> None:
    classifier, x = relu(), draws(8, 4)
    decision = classifier(x).argmax(dim=1)
    change = worst_case_stability(Slope(), classifier, x, decision, search=PGD(radius=0.3, steps=10), soften=None)
    assert change.flat.all()  # the gradient of a logit is constant, piece by piece
    assert change.reached.all()
    assert change.distance.isnan().all()


def test_a_softened_map_is_climbed_and_the_networks_own_is_measured() -> None:
    """What is found holds of the ReLU network, map and decision, and comes near to the worst of all its pieces."""
    classifier, x = relu(), draws(8, 4)
    decision = classifier(x).argmax(dim=1)
    change = worst_case_stability(
        Slope(), classifier, x, decision, search=PGD(radius=0.3, steps=20), restarts=3, samples=1
    )
    assert not change.flat.any()
    at = x + change.delta
    assert torch.equal(classifier(at).argmax(dim=1), decision)
    first, moved = (Slope()(classifier, points, decision).map for points in (x, at))
    assert torch.allclose(RelativeL2()(first, moved), change.distance, rtol=1e-12)
    near = (x + 0.3 * (2 * draws(20000, 1, 4, seed=7) - 1)).clamp(0, 1)
    kept = classifier(near.reshape(-1, 4)).argmax(dim=1).reshape(20000, 8) == decision
    maps = Slope()(classifier, near.reshape(-1, 4), decision.repeat(20000)).map.reshape(20000, 8, 4)
    apart = torch.stack([RelativeL2()(first, each) for each in maps])
    worst = torch.where(kept, apart, 0.0).amax(dim=0)
    assert change.distance.mean() >= 0.9 * worst.mean()


def test_what_has_slopes_is_climbed_as_it_is() -> None:
    """Half-Huber's maps have slopes of their own, and a softplus has others: both give the same search."""
    torch.manual_seed(1)
    layers = (nn.Linear(4, 8), HalfHuberReLU(), nn.Linear(8, 3))
    classifier, x = Classifier(nn.Sequential(*layers).double()).eval(), draws(8, 4)
    soft, plain = (
        worst_case_stability(Slope(), classifier, x, classes(8), search=PGD(radius=0.3, steps=5), soften=soften)
        for soften in (50.0, None)
    )
    assert torch.equal(soft.delta, plain.delta)
    assert (soft.distance > 0).any()


def test_a_sharp_half_huber_is_softened_as_the_relu_that_it_nearly_is() -> None:
    x, search = draws(8, 4), PGD(radius=0.3, steps=20)
    change = {}
    for activation in (nn.ReLU(), HalfHuberReLU(1e6)):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(4, 8), activation, nn.Linear(8, 3)).double()
        change[type(activation)] = worst_case_stability(
            Slope(), Classifier(network).eval(), x, classes(8), search=search
        ).distance
    assert torch.allclose(change[nn.ReLU], change[HalfHuberReLU], atol=1e-3)
    assert change[nn.ReLU].isfinite().all()


@pytest.mark.parametrize("distance", ["top_k:k=1", "top_k:k=1,channels=relu", "lens_recall:k=1,w=1"])
def test_a_search_that_found_all_that_can_be_is_not_blind(distance: str) -> None:
    """Where nothing of the first map is left among the strongest, the climbed distance has no slope any more."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    network[1].weight.data = torch.stack([torch.ones(16), torch.zeros(16)]).double()
    network[1].bias.data = torch.tensor([5.0, 0.0]).double()
    x = 0.1 + 0.01 * draws(6, 1, 4, 4)
    x[:, 0, 0, 0] = torch.linspace(0.13, 0.2, 6)  # the strongest, so far; a pixel far away will be
    change = worst_case_stability(
        Slope(times_input=True), Classifier(network).eval(), x, classes(6), search=PGD(radius=0.15, steps=20),
        distance=distance,
    )  # fmt: skip
    assert change.attack.tolist() == [1.0] * 6
    assert change.distance.tolist() == [1.0] * 6
    assert not any(rows.any() for rows in change.undefined.values())


def test_no_pass_of_the_network_has_more_inputs_than_max_batch() -> None:
    classifier, rows = relu(), list[int]()
    classifier.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    worst_case_stability(
        IntegratedGradients(steps=4), classifier, draws(7, 4), classes(7), search=PGD(steps=2), max_batch=3
    )
    assert max(rows) == 3 * 4  # a path is climbed as a whole


def test_another_explainers_maps_may_be_climbed() -> None:
    STEPS.clear()
    options: dict[str, Any] = {"search": PGD(steps=3), "climb": "integrated_gradients:steps=2"}
    change = worst_case_stability(Walk(), bowl(), draws(1, 4) + 0.5, classes(1), **options)
    assert not any(graph for _, graph in STEPS)  # what is measured is not climbed
    assert change.attack.isfinite().all()
    measured = apply(WorstCase(**options), case_of(Walk(), bowl(), draws(1, 4) + 0.5))
    assert torch.equal(measured.values["attack"], change.attack)
    with pytest.raises(SpecError, match="Lime gives maps without derivatives"):
        build("worst_case:climb=lime")


def test_a_coarse_path_that_is_only_climbed_warns_nobody() -> None:
    """Its sum misses the change of output by far; what is measured is another path."""
    exact, x, coarse = IntegratedGradients(steps=50), draws(1, 4) + 0.5, "integrated_gradients:steps=1,rule=right"
    change = worst_case_stability(exact, bowl(), x, classes(1), search=PGD(steps=3), climb=coarse)
    assert change.attack.isfinite().all()


def test_a_network_that_cannot_be_softened_is_told_from_a_stable_one() -> None:
    class ByFunction(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[1](torch.relu(self[0](x)))

    torch.manual_seed(1)
    classifier, x = Classifier(ByFunction(nn.Linear(4, 8), nn.Linear(8, 3)).double()).eval(), draws(3, 4)
    with pytest.raises(InputError, match="as a function.*cannot be softened"):
        worst_case_stability(Slope(), classifier, x, classes(3))
    measured = apply(WorstCase(), case_of(Slope(), classifier, x))
    ((reason, rows),) = measured.undefined.items()
    assert "cannot be softened" in reason
    assert rows.all()
    plain = worst_case_stability(Slope(times_input=True), classifier, x, classes(3), soften=None)
    assert (plain.distance > 0).all()


def test_a_search_that_starts_at_the_input_is_blind_there() -> None:
    change = worst_case_stability(Slope(), bowl(), draws(2, 4) + 0.5, classes(2), search=PGD(random_start=False))
    assert change.flat.all()
    assert change.distance.isnan().all()


def test_maps_without_derivatives_have_no_worst_case() -> None:
    with pytest.raises(SpecError, match="Opaque gives maps without derivatives"):
        worst_case_stability(Opaque(), bowl(), draws(1, 4), classes(1))


def test_nothing_to_compare_with_is_nan() -> None:
    change = worst_case_stability(Slope(), bowl(), torch.zeros(2, 4, dtype=torch.float64), classes(2))
    assert change.distance.isnan().all()  # the bottom of the bowl has a gradient of zeros
    score = change.score()
    assert (score.n, score.failures) == (0, 2)


def test_any_search_may_climb_that_leaves_the_input_without_a_slope(toys: SimpleNamespace) -> None:
    x = draws(2, 3, 2, 2)
    change = worst_case_stability(Slope(), toys.mlp(), x, classes(2), search=AtDistance(rho=0.05))
    assert torch.allclose(RMSE.size(change.delta), torch.full((2,), 0.05, dtype=torch.float64))
    random = random_stability(neighbours(Slope(), toys.mlp(), x, classes(2), norm="rmse", radius=0.05))
    assert (change.distance > random.largest).all()


def test_scores_have_intervals(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(20, 3, 2, 2)
    random = random_stability(neighbours(Slope(), classifier, x, classes(20), radius=0.1)).score("largest")
    worst = worst_case_stability(Slope(), classifier, x, classes(20), search=PGD(radius=0.1, steps=10)).score()
    for score in (random, worst):
        assert score.low < score.value < score.high
        assert (score.n, score.better) == (20, "low")
    assert worst.value > random.value


def test_the_model_is_left_as_it_was(toys: SimpleNamespace) -> None:
    classifier = toys.mlp().train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    neighbours(Slope(), classifier, draws(2, 3, 2, 2), classes(2), samples=2)
    worst_case_stability(Slope(), classifier, draws(2, 3, 2, 2), classes(2), search=PGD(steps=2))
    assert all(module.training for module in classifier.modules())
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


# -- relative stability -------------------------------------------------------------------------------------


def by_hand(
    x: tuple[float, float] = (2.0, 4.0),
    near: list[list[float]] | None = None,
    maps: list[list[float]] | None = None,
    near_logits: list[list[float]] | None = None,
) -> Neighbours:
    """One input with the map (1, -2) and the logits (3, 0)."""
    return Neighbours(
        x=rows(list(x)),
        map=rows([1, -2]),
        logits=rows([3, 0]),
        near=rows(*(near or [[3, 4], [2, 5]]))[None],
        maps=rows(*(maps or [[1.5, -1], [100, 100]]))[None],
        near_logits=rows(*(near_logits or [[6, 4], [0, 1]]))[None],
    )


def test_relative_stability_by_hand() -> None:
    # The second point has another decision. At the first, the map's changes are (-1/2, 1/2), the input's (-1/2, 0),
    # the logits' (-3, -4).
    assert relative_input_stability(by_hand()).item() == pytest.approx(math.sqrt(1 / 2) / 0.5)
    assert relative_output_stability(by_hand()).item() == pytest.approx(math.sqrt(1 / 2) / 5)
    assert relative_input_stability(by_hand(), p=1).item() == pytest.approx(1 / 0.5)
    assert relative_output_stability(by_hand(), p=1).item() == pytest.approx(1 / 7)
    assert relative_output_stability(by_hand(), p=math.inf).item() == pytest.approx(0.5 / 4)


def test_epsilon_min_stands_in_for_no_change_and_for_zero() -> None:
    still = by_hand(near=[[2, 4]], maps=[[1.5, -1]], near_logits=[[3, 0]])
    assert relative_input_stability(still, epsilon_min=0.01).item() == pytest.approx(math.sqrt(1 / 2) / 0.01)
    assert relative_output_stability(still, epsilon_min=0.01).item() == pytest.approx(math.sqrt(1 / 2) / 0.01)
    zero = by_hand(x=(0, 4), near=[[0.3, 4]], maps=[[1.5, -1]], near_logits=[[3, 0]])
    assert relative_input_stability(zero, epsilon_min=0.01).item() == pytest.approx(math.sqrt(1 / 2) / 30)


def test_relative_stability_of_linear_networks_is_one_or_zero(toys: SimpleNamespace) -> None:
    """Gradient x input moves with the input, element by element; the gradient does not move."""
    classifier = toys.affine(torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, 0.2]]), torch.tensor([9.0, 0.0]))
    x = draws(5, 3) * 0.8 + 0.1
    moving = neighbours(Slope(times_input=True), classifier, x, classes(5))
    assert torch.allclose(relative_input_stability(moving), torch.ones(5, dtype=torch.float64))
    assert relative_input_stability(neighbours(Slope(), classifier, x, classes(5))).tolist() == [0] * 5


def test_relative_stability_is_the_papers(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(6, 3, 2, 2)
    around = neighbours(Slope(), classifier, x, classes(6), radius=0.2, samples=5)
    ris, ros = relative_input_stability(around), relative_output_stability(around)
    norm, epsilon_min = np.linalg.norm, 1e-6
    dropped = 0
    for i in range(6):
        e_x, h_x, candidates = around.map[i].numpy().ravel(), classifier(x[i : i + 1])[0].detach().numpy(), []
        for x_near in around.near[i]:
            e_near = Slope()(classifier, x_near[None], classes(1)).map.numpy().ravel()
            h_near = classifier(x_near[None])[0].detach().numpy()
            if h_near.argmax() != h_x.argmax():
                dropped += 1
                continue
            change = norm((e_x - e_near) / e_x)
            x_change = norm(((x[i] - x_near) / x[i]).numpy().ravel())
            candidates.append((change / max(x_change, epsilon_min), change / max(norm(h_x - h_near), epsilon_min)))
        expected = tuple(map(max, zip(*candidates, strict=True))) or (math.nan, math.nan)
        assert (ris[i].item(), ros[i].item()) == pytest.approx(expected, nan_ok=True)
    assert 0 < dropped < 20


def test_relative_stability_ignores_the_scale_of_maps(toys: SimpleNamespace) -> None:
    around = neighbours(Slope(), toys.mlp(), draws(4, 3, 2, 2), classes(4))
    larger = replace(around, map=around.map * 1e9, maps=around.maps * 1e9)
    for measure in (relative_input_stability, relative_output_stability):
        assert torch.allclose(measure(larger), measure(around), rtol=1e-9)


def test_relative_representation_stability_by_hand() -> None:
    # The layer's changes are the input's, times ten: relative to its own values they are as large.
    around = by_hand()
    ratio = relative_representation_stability(around, 10 * around.x, 10 * around.near)
    assert ratio.item() == pytest.approx(math.sqrt(1 / 2) / 0.5)
    still = relative_representation_stability(around, around.x, around.x[:, None].expand(1, 2, 2), epsilon_min=0.01)
    assert still.item() == pytest.approx(math.sqrt(1 / 2) / 0.01)


def test_the_representation_is_what_the_last_linear_layer_is_given(toys: SimpleNamespace) -> None:
    first, last = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    classifier = Classifier(nn.Sequential(first, nn.SiLU(), last, nn.Identity()), mean=0.5, std=0.2).eval()
    x = draws(5, 3)
    hidden = first((x - 0.5) / 0.2)
    assert torch.allclose(representation(classifier, x), nn.functional.silu(hidden))
    assert torch.allclose(representation(classifier, x, max_batch=2), nn.functional.silu(hidden))
    assert torch.allclose(representation(classifier, x, "0"), hidden)
    with pytest.raises(InputError, match="no layer 'head'"):
        representation(classifier, x, "head")
    flat = toys.affine(torch.ones(2, 12), torch.zeros(2))
    assert torch.equal(representation(flat, draws(2, 3, 2, 2)), draws(2, 3, 2, 2).flatten(1))


# -- as measures of a case ----------------------------------------------------------------------------------


def case_of(explainer, classifier: Classifier, x: Tensor, **options) -> Case:
    target = classifier.predict(x).argmax(dim=1)
    explanation = explainer(classifier, x, target)
    return Case(classifier=classifier, x=x, y=target, explainer=explainer, explanation=explanation, **options)


def test_the_measures_say_what_the_functions_say(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(6, 3, 2, 2)
    case = case_of(Slope(), classifier, x, seed=3)
    around = neighbours(Slope(), classifier, x, case.y, norm="l2", radius=0.3, samples=4, seed=3)
    ball = "norm=l2,radius=0.3,samples=4"
    random = random_stability(around, TopK(3))
    measured = apply(build(f"random_stability:{ball},distance=(top_k:k=3)"), case).values
    assert torch.equal(measured["mean"], random.mean)
    assert torch.equal(measured["largest"], random.largest)
    ratios = apply(build(f"relative_stability:{ball},p=1"), case).values
    assert torch.equal(ratios["input"], relative_input_stability(around, p=1))
    assert torch.equal(ratios["output"], relative_output_stability(around, p=1))
    layers = [representation(classifier, points) for points in (x, *around.near.unbind(dim=1))]
    expected = relative_representation_stability(around, layers[0], torch.stack(layers[1:], dim=1), p=1)
    assert torch.equal(ratios["representation"], expected)
    worst = worst_case_stability(Slope(), classifier, x, case.y, search=PGD(steps=5), distance=Cosine(), seed=3)
    searched = apply(build("worst_case:search=(pgd:steps=5),distance=cosine"), case).values[""]
    assert torch.allclose(searched, worst.distance, rtol=0, atol=0, equal_nan=True)


def test_measures_of_one_ball_share_their_points(toys: SimpleNamespace) -> None:
    calls = []

    @dataclass(frozen=True)
    class Counted(Slope):
        def __call__(self, classifier, x, target, **options) -> Explanation:
            calls.append(len(x))
            return super().__call__(classifier, x, target, **options)

    case = case_of(Counted(), toys.mlp(), draws(2, 3, 2, 2))
    for spec in (
        "random_stability:samples=3",
        "random_stability:samples=3,distance=cosine",
        "relative_stability:samples=3",
    ):
        apply(build(spec), case)
    assert len(calls) == 1 + 3  # the case's maps, and those of each point
    apply(build("random_stability:samples=4"), case)
    assert len(calls) == 4 + 4


def test_a_worst_case_that_was_not_seen_is_undefined_and_the_reason_is_given(toys: SimpleNamespace) -> None:
    blind = apply(WorstCase(search=PGD(radius=0.3, steps=10), soften=None), case_of(Slope(), relu(), draws(8, 4)))
    assert blind.values[""].isnan().all()
    assert {reason: int(rows.sum()) for reason, rows in blind.undefined.items()} == {
        "the search was blind: the derivative of the map vanished": 8
    }
    opaque = apply(WorstCase(), case_of(Opaque(), bowl(), draws(2, 4)))
    assert {reason: int(rows.sum()) for reason, rows in opaque.undefined.items()} == {
        "the explainer gives maps without derivatives": 2
    }
    bottom = apply(WorstCase(), case_of(Slope(), bowl(), torch.zeros(2, 4, dtype=torch.float64)))
    assert {reason: int(rows.sum()) for reason, rows in bottom.undefined.items()} == {
        "the map at the input is constant": 2
    }
    broken = case_of(Slope(), bowl(), draws(2, 4))
    maps = broken.explanation.map.clone()
    maps[1, 0] = math.nan
    measured = apply(WorstCase(), replace(broken, explanation=replace(broken.explanation, map=maps)))
    assert {reason: rows.tolist() for reason, rows in measured.undefined.items()} == {
        "the map at the input is not finite": [False, True]
    }
    edge = worst_case_stability(
        Slope(), bowl(offset=-1e-12), 0 * draws(1, 4) + 1e-7, classes(1), search=PGD(radius=0.1)
    )
    assert [reason for reason, rows in edge.undefined.items() if rows.any()] == [
        "no point was met that keeps the decision"
    ]


def test_an_input_without_a_neighbour_of_its_decision_is_undefined_and_says_so() -> None:
    # At the bottom of the bowl alone the decision is the other one; the point is measured, not the neighbourhood.
    classifier = bowl(offset=-1e-12)
    measured = apply(RandomStability(radius=0.1), case_of(Slope(), classifier, torch.zeros(1, 4, dtype=torch.float64)))
    assert list(measured.undefined) == ["no random point near the input kept the decision"]
    assert all(value.isnan().all() for value in measured.values.values())


def test_what_a_distance_cannot_compare_is_undefined_and_says_so(toys: SimpleNamespace) -> None:
    pictures, rows_of_a_table = case_of(Slope(), toys.mlp(), draws(2, 3, 2, 2)), case_of(Slope(), bowl(), draws(2, 4))
    for case, distance, words in (
        (pictures, "(top_k:k=5)", "A map of 4 values has no 5 largest"),
        (rows_of_a_table, "lens_kendall", "have no neighbours"),
    ):
        measured = apply(build(f"worst_case:distance={distance}"), case)
        ((reason, refused),) = measured.undefined.items()
        assert words in reason
        assert refused.all()
        assert all(value.isnan().all() for value in measured.values.values())


def test_grey_pictures_and_rows_have_a_worst_case_for_every_distance() -> None:
    bowls = Classifier(nn.Sequential(nn.Flatten(), Bowl(STEEPNESS)), box=(-WIDTH / 2, WIDTH / 2)).eval()
    grey, row = draws(1, 1, 2, 2) + 0.5, draws(1, 4) + 0.5
    for spec in ("cosine", "relative_l2", "spearman", "kendall", "top_k:k=2", "lens_recall:k=1,w=0"):
        values = [
            worst_case_stability(Slope(), bowls, x, classes(1), distance=spec, search=PGD(steps=3)).distance
            for x in (grey, row)
        ]
        assert all(value.isfinite().all() for value in values), spec


# -- what is refused ----------------------------------------------------------------------------------------


def test_no_rows_are_no_error(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(0, 3, 2, 2)
    around = neighbours(Slope(), classifier, x, classes(0), samples=2)
    change = worst_case_stability(Slope(), classifier, x, classes(0), search=PGD(steps=2))
    for values in (random_stability(around).mean, relative_input_stability(around), change.distance):
        assert values.shape == (0,)
    assert change.score().n == 0


def test_what_cannot_be_measured_is_refused(toys: SimpleNamespace) -> None:
    classifier, x = toys.mlp(), draws(2, 3, 2, 2)
    with pytest.raises(SpecError, match="at least 1, not"):
        neighbours(Slope(), classifier, x, classes(2), samples=0)
    with pytest.raises(SpecError, match="no norm"):
        neighbours(Slope(), classifier, x, classes(2), norm="l7")
    with pytest.raises(InputError, match="box"):
        neighbours(Slope(), classifier, x + 3, classes(2))
    with pytest.raises(InputError, match="box"):
        worst_case_stability(Slope(), classifier, x + 3, classes(2))
    for wrong in (7, -1):
        with pytest.raises(InputError, match=r"class index in \[0, "):
            worst_case_stability(Gradient(), classifier, x, classes(2) + wrong)
    with pytest.raises(InputError, match="has no 5 largest"):
        worst_case_stability(Slope(), classifier, x, classes(2), distance=TopK(5))  # of 4 pixels
    with pytest.raises(InputError, match="a row .* have no neighbours"):
        worst_case_stability(Slope(), bowl(), draws(2, 4), classes(2), distance="lens_recall:k=1")
    for options in ({"restarts": 0}, {"points": 0}, {"samples": 0}):
        with pytest.raises(SpecError, match="at least 1"):
            worst_case_stability(Slope(), classifier, x, classes(2), **options)  # pyright: ignore[reportArgumentType]
    for spec in ("worst_case:search=minimal", "worst_case:soften=0", "ifia:points=0", "ifia:search=(pgd:radius=0)"):
        with pytest.raises(SpecError, match="has no .radius|soften|points|above 0"):
            build(spec)
    for options in ({"epsilon_min": 0}, {"p": 0.5}, {"epsilon_min": math.nan}):
        for measure in (relative_input_stability, relative_output_stability):
            with pytest.raises(SpecError, match="epsilon_min .*p "):
                measure(by_hand(), **options)


def test_the_published_k_is_a_share_of_smaller_pictures_unless_it_is_named() -> None:
    classifier, x = bowl(), draws(2, 4)
    search = "pgd:norm=l2,radius=0.1,steps=3"
    of_four = apply(build(f"ifia:search=({search})"), case_of(Slope(), classifier, x))  # k is 1, of 4 values
    named = apply(build(f"worst_case:search=({search}),distance=(top_k:k=1)"), case_of(Slope(), classifier, x))
    assert torch.equal(of_four.values["attack"], named.values["attack"])
    refused = apply(build(f"ifia:search=({search}),distance=(top_k:k=100)"), case_of(Slope(), classifier, x))
    assert any("no 100 largest" in reason for reason in refused.undefined)


def test_published_holds_the_factor_of_the_map_and_is_for_integrated_gradients() -> None:
    """Of a quadratic logit s x^2 / 2 the map is s x^2 c: the half of its slope that the points of the path have."""
    classifier, x = bowl(), draws(2, 4)
    slopes = []
    for hold in (False, True):
        at = x.clone().requires_grad_(True)
        explain = IntegratedGradients(steps=7, rule="right", hold_factor=hold)
        maps = explain(classifier, at, torch.zeros(2, dtype=torch.int64), create_graph=True).map
        slopes.append(torch.autograd.grad(maps.sum(), at)[0])
    assert torch.allclose(slopes[1], slopes[0] / 2)
    search = "search=(pgd:norm=l2,radius=0.1,steps=3)"
    judged = IntegratedGradients(rule="trapezoid", steps=101)
    climb = "integrated_gradients:steps=100,rule=right,hold_factor=true"
    case = case_of(judged, classifier, x)
    short, long = (apply(build(f"ifia:{search},{each}"), case) for each in ("published=true", f"climb=({climb})"))
    assert torch.equal(short.values["attack"], long.values["attack"])
    assert short.values["attack"].isfinite().all()
    refused = apply(build(f"ifia:{search},published=true"), case_of(Slope(), classifier, x))
    assert list(refused.undefined) == ["published=true attacks integrated gradients, but these are other maps"]
    with pytest.raises(SpecError, match="omit climb"):
        build(f"ifia:published=true,climb=({climb})")


# -- the page about them ------------------------------------------------------------------------------------


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture) -> None:
    page = (Path(__file__).parent.parent / "docs/sparsity-and-stability.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "sparsity-and-stability.md", "exec"), names)  # noqa: S102
    assert names["worst"].values[""].isfinite().all()  # a smooth network does not blind the search
