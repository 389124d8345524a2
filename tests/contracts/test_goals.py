"""Laws of every registered goal: one aim per row, a loss that leads there and does not saturate."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from advex import goals, registry
from advex.attacks import PGD
from advex.classifier import Classifier, input_gradient
from advex.errors import InputError, SpecError
from advex.types import take

GOALS = registry.entries("goal")
SPECS = [spec for name, entry in GOALS.items() for spec in (name, *(f"{name}:{form}" for form in entry.examples))]
EVERY = pytest.mark.parametrize("form", SPECS)


def open_ended(goal: Any) -> bool:
    """Whether the goal knows only more or less: see `goals.Goal`."""
    return getattr(goal, "open_ended", False)


@pytest.fixture
def linear(toys: SimpleNamespace) -> Classifier:
    """Four classes on eight features, in a wide box."""
    return toys.affine(torch.randn(4, 8), torch.randn(4), box=(-50.0, 50.0))


def problem(n: int = 12) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(n, 8, generator=rng, dtype=torch.float64), torch.randint(4, (n,), generator=rng)


def moved(x: Tensor) -> Tensor:
    """Inputs near those that a goal was bound to: there every goal, on maps too, has something to say."""
    return x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)


@EVERY
def test_one_loss_and_one_verdict_per_row(form: str, linear: Classifier) -> None:
    x, y = problem()
    for n in (12, 1, 0):
        aim = goals.at(form, linear, x[:n], y[:n])(linear, moved(x)[:n])
        assert aim.loss.shape == aim.reached.shape == (n,)
        assert aim.reached.dtype == torch.bool


@EVERY
def test_a_goal_is_a_frozen_dataclass_with_a_row_per_example(form: str, linear: Classifier) -> None:
    goal = goals.at(form, linear, *problem())
    assert dataclasses.is_dataclass(goal)
    with pytest.raises(dataclasses.FrozenInstanceError):
        goal.anything = 1  # pyright: ignore[reportAttributeAccessIssue]
    tensors = [value for value in vars(goal).values() if isinstance(value, Tensor) and value.ndim]
    assert tensors
    assert {len(value) for value in tensors} == {12}


@EVERY
def test_rows_do_not_mix(form: str, linear: Classifier) -> None:
    """Neither when the goal is bound to them, nor when rows of it are taken."""
    x, y = problem()
    goal, near = goals.at(form, linear, x, y), moved(x)
    together = goal(linear, near)
    for i in range(len(x)):
        row = slice(i, i + 1)
        for alone in (take(goal, row), goals.at(form, linear, x[row], y[row])):
            aim = alone(linear, near[row])
            assert aim.loss.item() == pytest.approx(together.loss[i].item(), rel=1e-9)
            assert aim.reached.item() == together.reached[i].item()
    order = torch.randperm(len(x))
    permuted = take(goal, order)(linear, near[order])
    assert torch.allclose(permuted.loss, together.loss[order], rtol=1e-12)
    assert torch.equal(permuted.reached, together.reached[order])


@EVERY
def test_a_second_pass_gives_the_same_verdict(form: str, toys: SimpleNamespace) -> None:
    """With and without derivatives, and as the search reports that it settled."""
    classifier, x = toys.mlp(), torch.rand(10, 3, 2, 2, dtype=torch.float64)
    goal = goals.at(form, classifier, x, classifier.predict(x).argmax(dim=1))
    result = PGD(radius=0.2, steps=5)(classifier, x, goal)
    aim = goal(classifier, result.adversarial)
    _, again = input_gradient(lambda at: goal(classifier, at), result.adversarial)
    assert torch.equal(aim.reached, result.reached)
    assert torch.equal(again.reached, aim.reached)
    assert torch.allclose(again.loss, aim.loss, rtol=1e-9)
    if not open_ended(goal):
        assert torch.equal(aim.reached, aim.loss < 0)


@pytest.mark.slow
@EVERY
def test_going_downhill_lowers_the_loss_and_reaches_the_goal(form: str, linear: Classifier) -> None:
    """On a linear network a small step against the gradient lowers every loss, and enough of them succeed."""
    x, y = problem()
    goal, at = goals.at(form, linear, x, y), moved(x)
    begun = best = goal(linear, at).loss
    looks = []
    for _ in range(400):
        gradient, aim = input_gradient(lambda at: goal(linear, at), at)
        if aim.reached.all() and not open_ended(goal):
            break
        step = 0.02 * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
        after = goal(linear, at - step)
        # Loss goes down by about the step; where two classes swap the lead it may stand still for one step.
        # A goal without an end may have a condition, which a step can lose.
        counts = (after.reached == aim.reached) if open_ended(goal) else ~aim.reached
        looks.append((aim.loss, after.loss, 0.02 * gradient.norm(dim=1), counts))
        at, best = (at - step).detach(), torch.minimum(best, after.loss)
    before, after, fall, counts = (torch.stack(values) for values in zip(*looks, strict=True))
    # Who is nearer to the bottom than a step leads may step over it.
    counts &= (before - fall >= best) | (not open_ended(goal))
    assert (after <= before + 1e-9)[counts].double().mean() > 0.9
    assert (best < begun)[~goal(linear, moved(x)).reached | open_ended(goal)].all()
    if not open_ended(goal):
        assert goal(linear, at).reached.all()
        assert (goal(linear, at).loss < 0).all()


@EVERY
def test_the_loss_does_not_saturate(form: str, toys: SimpleNamespace) -> None:
    """Logits of size 1000, where every softmax is exactly 0 or 1, still tell the way to those who need it."""
    x, y = problem(64)
    for dtype in (torch.float32, torch.float64):
        huge = toys.affine(torch.randn(4, 8) * 1e3, torch.randn(4), box=(-50.0, 50.0)).to(dtype)
        goal, near = goals.at(form, huge, x.to(dtype), y), moved(x).to(dtype)
        gradient, aim = input_gradient(lambda at: goal(huge, at), near)  # noqa: B023
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(aim.loss).all()
        if not open_ended(goal):
            lost = ~aim.reached
            assert lost.sum() >= 8
            assert (gradient[lost] != 0).any(dim=1).all()


@EVERY
def test_labels_that_do_not_fit_are_named(form: str, linear: Classifier) -> None:
    x, y = problem(3)
    for wrong in (y[:2], y.double(), y[:, None]):
        with pytest.raises(InputError, match=r"int64 \[3\], not"):
            goals.at(form, linear, x, wrong)
    right = goals.at(form, linear, x, y)(linear, x)
    for wrong in (y + 4, y - 5):  # of a class that is none, or the goal does not ask for labels
        try:
            aim = goals.at(form, linear, x, wrong)(linear, x)
        except InputError as error:
            named = str(error)
        else:
            assert torch.equal(aim.loss, right.loss)
            continue
        assert "[0, 4)" in named or "[0, classes)" in named


@EVERY
def test_inputs_that_the_classifier_refuses_are_refused(form: str, linear: Classifier) -> None:
    x, y = problem(3)
    with pytest.raises(InputError, match="box"):
        goals.at(form, linear, x + 100, y)


@EVERY
def test_a_verdict_carries_no_gradient(form: str, linear: Classifier) -> None:
    x, y = problem()
    aim = goals.at(form, linear, x, y)(linear, moved(x).requires_grad_(True))
    assert aim.loss.requires_grad
    assert not aim.reached.requires_grad


@EVERY
def test_an_option_given_in_a_spec_is_that_of_the_goal(form: str, linear: Classifier) -> None:
    """What is bound has the options of what is built, by the same names, where it has such a field."""
    unbound = registry.build("goal", form)
    goal = goals.at(form, linear, *problem())
    for option in GOALS[form.partition(":")[0]].options():
        if not isinstance(getattr(goal, option, None), Tensor | None):
            assert getattr(goal, option) == getattr(unbound, option), option


def test_a_spec_says_which_class_is_wanted(linear: Classifier) -> None:
    x, y = problem()
    ranked = linear.predict(x).argsort(dim=1, descending=True)
    for target, expected in (("runner_up", ranked[:, 1]), ("true", y), ("predicted", ranked[:, 0]), ("2", y * 0 + 2)):
        goal = goals.at(f"become:target={target},temperature=0.5", linear, x, y)
        assert torch.equal(goal.c, expected)  # pyright: ignore[reportAttributeAccessIssue]
        assert goal.temperature == 0.5  # pyright: ignore[reportAttributeAccessIssue]


def test_a_spec_says_which_maps_are_scrambled_and_how_they_are_compared(toys: SimpleNamespace) -> None:
    """The loss is minus the share of the changed map that is off the k largest elements of the first."""
    classifier, x = toys.mlp(), torch.rand(5, 3, 2, 2, dtype=torch.float64)
    y = classifier.predict(x).argmax(dim=1)
    goal = goals.at("scramble:explainer=(gradient),distance=(top_k:k=3,channels=none),target=1", classifier, x, y)
    near = (x + 1e-3).clamp(max=1)
    explain = registry.build("explainer", "gradient")
    first, second = (explain(classifier, at, torch.ones_like(y)).map.flatten(1).abs() for at in (x, near))
    loss = goal(classifier, near).loss
    for i in range(5):
        top = first[i].argsort(descending=True)[:3]
        assert loss[i].item() == pytest.approx((second[i][top].sum() / second[i].sum() - 1).item())


@pytest.mark.parametrize("search", [registry.build("attack", name) for name in registry.entries("attack")])
def test_a_search_refuses_what_is_no_goal(search: Any, linear: Classifier) -> None:
    x, y = problem()
    unbound, goal = registry.build("goal", "misclassify"), goals.Misclassify(y)
    for wrong in (unbound, goals.Misclassify, goal.__call__):
        with pytest.raises(InputError, match="frozen dataclass"):
            search(linear, x, wrong)
    for wrong in (None, y, y.tolist(), "misclassify"):
        with pytest.raises(InputError, match=r"needs a goal, but got .*Misclassify\(labels\)"):
            search(linear, x, wrong)


def test_what_is_no_spec_of_a_goal_is_refused(linear: Classifier) -> None:
    for wrong, sentence in (("misclasify", "did you mean 'misclassify'"), (3, "A spec must be a string")):
        with pytest.raises(SpecError, match=sentence):
            goals.at(wrong, linear, *problem())  # pyright: ignore[reportArgumentType]
