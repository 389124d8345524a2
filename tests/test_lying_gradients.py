"""Networks whose gradients are not the slope of what they answer are told from those that are honest."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import goals
from advex.attacks import PGD, ClosedForm, Minimal
from advex.attacks.boundary_walk import BoundaryWalk, walk
from advex.attacks.slopes import compare_slopes
from advex.classifier import Classifier
from advex.contexts import averaged
from advex.data import open_dataset
from advex.data.dataset import Dataset
from advex.errors import SpecError
from advex.evaluation import evaluate, settings_from
from advex.record import Figure

Map = Callable[[Tensor], Tensor]


class Backward(torch.autograd.Function):
    """Any function with any backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Map, back: Map) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.back(gradients[0]), None, None


class Around(nn.Module):
    def __init__(self, network: nn.Module, before: Map, after: Map) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


def same(x: Tensor) -> Tensor:
    return x


def at_random(gradient: Tensor) -> Tensor:
    return torch.randn_like(gradient) * gradient.square().mean().sqrt()


def half_detached(x: Tensor) -> Tensor:
    even = torch.arange(x.shape[1]) % 2 == 0
    return torch.where(even, x, x.detach())


def rounded(x: Tensor) -> Tensor:
    return Backward.apply(x, lambda x: (255 * x).round() / 255, same)  # pyright: ignore


def uneven(gradient: Tensor) -> Tensor:
    return gradient * (1 + 2 * (torch.arange(gradient.shape[1]) % 2))


HONEST: dict[str, tuple[Any, Any]] = {
    "plain": (same, same),
    "logits times 0.001": (same, lambda logits: logits * 0.001),
    "logits times 100": (same, lambda logits: logits * 100),
    "a smooth function before": (torch.sin, same),
}
LIARS: dict[str, tuple[Any, Any]] = {
    "random": (lambda x: Backward.apply(x, torch.clone, at_random), same),
    "half of the pixels detached": (half_detached, same),
    "straight through": (rounded, same),
    "three times too large on a half": (lambda x: Backward.apply(x, torch.clone, uneven), same),
}
SHATTERED = (lambda x: x + 0.01 * torch.sin(300 * x), same)


def around(digits: SimpleNamespace, ways: tuple[Any, Any]) -> Classifier:
    return Classifier(Around(digits.classifier.network, *ways)).eval()


def changes(classifier: Classifier, digits: SimpleNamespace, n: int = 24) -> tuple[Tensor, goals.Misclassify, Tensor]:
    """Inputs, goal and the changes found, of rows where one was found and needed."""
    goal = goals.Misclassify(digits.y[:n])
    result = Minimal()(classifier, digits.x[:n], goal)
    kept = result.reached & (result.rmse > 0)
    return digits.x[:n][kept], goals.Misclassify(digits.y[:n][kept]), result.delta[kept]


@pytest.mark.parametrize("kind", HONEST)
def test_gradients_that_tell_the_truth(kind: str, digits: SimpleNamespace) -> None:
    classifier = around(digits, HONEST[kind])
    x, goal, delta = changes(classifier, digits)
    with classifier.frozen():
        slopes = compare_slopes(classifier, goal, x + delta)
        walked = walk(classifier, x, goal, delta, queries=100, seed=0)
    assert slopes.error.nanmedian() <= 0.1
    assert not slopes.constant.any()
    assert walked.size.sum() > 0.995 * classifier.norm("rmse").size(delta).sum()


@pytest.mark.parametrize("kind", LIARS)
def test_gradients_that_lie(kind: str, digits: SimpleNamespace) -> None:
    classifier = around(digits, LIARS[kind])
    x, goal, delta = changes(classifier, digits)
    with classifier.frozen():
        slopes = compare_slopes(classifier, goal, x + delta)
    assert slopes.error.nanmedian() >= 0.3
    assert bool(slopes.constant.double().mean() > 0.5) == (kind == "straight through")


def test_the_error_of_a_gradient_that_is_off_by_a_factor(toys: SimpleNamespace) -> None:
    """Of a linear network a gradient k times too large is off by |k - 1|, in every direction."""
    torch.manual_seed(0)
    linear = toys.affine(torch.randn(3, 50), torch.zeros(3))
    for factor in (1.0, 0.5, 3.0):
        twice = Around(linear.network, lambda x, k=factor: Backward.apply(x, torch.clone, lambda g: k * g), same)
        classifier, x = Classifier(twice).double(), torch.rand(8, 50).double()
        error = compare_slopes(classifier, goals.Misclassify(torch.zeros(8, dtype=torch.int64)), x).error
        assert error.tolist() == pytest.approx([abs(factor - 1)] * 8, abs=1e-6)


def test_nothing_is_said_where_there_are_no_digits_for_it(digits: SimpleNamespace) -> None:
    far = around(digits, (same, lambda logits: logits * 1e-4 + 1000))
    assert compare_slopes(far, goals.Misclassify(digits.y[:8]), digits.x[:8]).error.isnan().all()


def test_a_walk_cannot_beat_what_is_exact(toys: SimpleNamespace) -> None:
    """Of two classes and a linear network the nearest boundary is known: |margin| / |w| in L2."""
    torch.manual_seed(0)
    weight = torch.randn(2, 40)
    classifier, x = toys.affine(weight, torch.zeros(2)), 0.4 + 0.2 * torch.rand(6, 40).double()
    y = classifier(x).argmax(dim=1)
    far = ClosedForm(radius=0.3)(classifier, x, goals.Misclassify(y))
    with classifier.frozen():
        walked = walk(classifier, x, goals.Misclassify(y), far.delta, queries=1000, seed=0)
    logits = classifier(x)
    exact = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm() / math.sqrt(40)
    assert far.reached.all()
    assert (walked.size >= exact * (1 - 1e-9)).all()
    assert (walked.size <= exact * 1.03).all()


def test_the_walk_is_a_search_that_starts_where_another_ends(digits: SimpleNamespace) -> None:
    goal = goals.Misclassify(digits.y[:8])
    few = Minimal(gradients=5)(digits.classifier, digits.x[:8], goal)
    walked = BoundaryWalk(start="minimal:gradients=5", queries=200)(digits.classifier, digits.x[:8], goal)
    assert (walked.rmse <= few.rmse).all()
    assert walked.rmse.mean() < few.rmse.mean()
    assert torch.equal(walked.gradients, few.gradients)
    assert (walked.queries >= few.queries).all()


@pytest.fixture(scope="module")
def rechecked() -> Dataset:
    return open_dataset("digits", split="test").sample(24, seed=1)


def evaluated(classifier: Classifier, data: Dataset, out: Path) -> tuple[dict[str, str], dict[str, Figure]]:
    """Flags with their messages, and scores."""
    record = evaluate([("m", "m", classifier)], data, out, settings_from({"btr": None, "explanations": 0}))
    return {flag.code: flag.message for flag in record.flags}, record.models[0].scores


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_network_raises_no_flag(
    kind: str, digits: SimpleNamespace, rechecked: Dataset, tmp_path: Path
) -> None:
    flags, scores = evaluated(around(digits, HONEST[kind]), rechecked, tmp_path / "out")
    assert flags.keys() <= {"few_examples"}
    assert not {"attack_sample_ara", "attack_decisions_ara"} & scores.keys()


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        (LIARS["random"], {"gradients_disagree", "boundary_not_reached"}),
        (LIARS["straight through"], {"gradients_disagree"}),
        (SHATTERED, {"boundary_not_reached"}),
    ],
)
def test_a_liar_is_flagged_and_its_figure_by_decisions_stands_beside(
    ways: tuple[Any, Any], expected: set[str], digits: SimpleNamespace, rechecked: Dataset, tmp_path: Path
) -> None:
    flags, scores = evaluated(around(digits, ways), rechecked, tmp_path / "out")
    assert expected <= flags.keys()
    assert ("straight-through" in flags.get("gradients_disagree", "")) == (ways == LIARS["straight through"])
    sample, decisions = scores["attack_sample_ara"], scores["attack_decisions_ara"]
    assert sample.n == decisions.n == 24
    assert decisions.value <= sample.value
    if "boundary_not_reached" in expected:
        assert decisions.value < 0.98 * sample.value


def test_where_the_attack_fails_decisions_still_give_a_figure(
    digits: SimpleNamespace, rechecked: Dataset, tmp_path: Path
) -> None:
    """With a gradient of the wrong sign no search finds a change; a gradient that is NaN is no slope either."""
    for number, back in enumerate((lambda g: -g, lambda g: g * math.nan)):
        ways = (lambda x, back=back: Backward.apply(x, torch.clone, back), same)
        flags, scores = evaluated(around(digits, ways), rechecked, tmp_path / str(number))
        assert {"failures", "gradients_disagree"} <= flags.keys()
        assert scores["attack_sample_ara"].value > scores["attack_decisions_ara"].value
        assert scores["attack_decisions_ara"].value < 0.2


def test_answers_that_vary_are_not_taken_for_lies(digits: SimpleNamespace, rechecked: Dataset, tmp_path: Path) -> None:
    noisy = around(digits, (lambda x: x + 0.05 * torch.randn_like(x), same))
    flags, _ = evaluated(noisy, rechecked, tmp_path / "out")
    assert "stochastic" in flags
    assert not {"gradients_disagree", "boundary_not_reached"} & flags.keys()


def test_the_mean_of_many_answers_is_attacked(digits: SimpleNamespace) -> None:
    """A coin decides which of two linear networks answers: the mean of their confidences is known."""

    class Coin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weight = 4.0 if torch.rand(()) < 0.5 else -1.0
            return torch.stack([torch.zeros(len(x)), weight * (x.sum(dim=1) - 1)], dim=1)

    classifier, x = Classifier(Coin()).eval(), torch.full((1, 4), 0.1)
    goal = goals.Become(torch.tensor([1]))
    with averaged(classifier, 2000):
        mean = classifier.predict(x)[0, 1].item()
    expected = (torch.tensor([4.0, -1.0]) * (0.4 - 1)).sigmoid().mean().item()
    assert mean == pytest.approx(expected, abs=0.02)
    assert classifier.draws == 1
    # The mean is above a half beyond 1, where the one is surer of it than the other is of the contrary.
    for search in (Minimal(draws=64), PGD(norm="l2", radius=1.0, draws=64)):
        result = search(classifier, x, goal)
        assert result.reached.all()
        assert result.adversarial.sum() > 1
    with pytest.raises(SpecError):
        PGD(draws=0)
