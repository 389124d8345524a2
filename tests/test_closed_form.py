"""The closed-form adversary: exact where it promises to be, and a clear refusal everywhere else."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from advex import attacks, objectives
from advex.attacks.closed_form import ClosedForm, linear_layer
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.features import Feature, FeatureSpec
from advex.goals import Aim, Become, BelowChance, Misclassify
from advex.types import Batch

D = 4
CORNERS = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=D)), dtype=torch.float64)


def problem(toys: SimpleNamespace, classes: int) -> tuple[Classifier, Tensor, Tensor]:
    """(classifier, x, y) on D features in the unit box, some elements at its walls."""
    rng = torch.Generator().manual_seed(classes)
    weight = 3 * torch.randn(classes, D, generator=rng, dtype=torch.float64)
    x = (1.4 * torch.rand(40, D, generator=rng, dtype=torch.float64) - 0.2).clamp(0, 1)
    return toys.affine(weight, -weight.sum(dim=1) / 2), x, torch.randint(classes, (40,), generator=rng)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("clip", [True, False])
def test_no_corner_has_a_lower_margin(toys: SimpleNamespace, classes: int, clip: bool) -> None:
    """A margin is concave in x, so it is lowest at a corner of the cube, or of its part inside the box."""
    classifier, x, y = problem(toys, classes)
    goal, radius = Misclassify(y), 0.3
    found = ClosedForm(radius=radius, clip=clip)(classifier, x, goal)
    lowest = torch.full((40,), torch.inf, dtype=torch.float64)
    for corner in radius * CORNERS:
        moved = x + corner
        lowest = torch.minimum(lowest, goal(classifier, moved.clamp(0, 1) if clip else moved).loss.detach())
    assert torch.allclose(goal(classifier, found.adversarial).loss, lowest, rtol=1e-12)
    assert torch.equal(found.reached, lowest < 0)
    assert ((found.adversarial >= 0) & (found.adversarial <= 1)).all() == clip
    assert not found.gradients.any()


@pytest.mark.parametrize("make", [Misclassify, BelowChance, Become])
def test_of_two_classes_it_is_the_worst_case_of_every_goal(toys: SimpleNamespace, make: type) -> None:
    classifier, x, y = problem(toys, 2)
    goal = make(y)
    found = goal(classifier, ClosedForm(radius=0.2)(classifier, x, goal).adversarial).loss
    for corner in 0.2 * CORNERS:
        assert (found <= goal(classifier, (x + corner).clamp(0, 1)).loss + 1e-12).all()


def test_normalisation_changes_nothing(toys: SimpleNamespace) -> None:
    """Pixels of two channels, each with its own scale; the same function without normalisation has the same worst."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=rng, dtype=torch.float64)
    mean, std = torch.tensor([0.4, 0.6]).double(), torch.tensor([0.2, 3.0]).double()
    per_element = std.repeat_interleave(4)
    plain = toys.affine(weight / per_element, -(weight / per_element) @ mean.repeat_interleave(4))
    layer = toys.affine(weight, torch.zeros(3)).network
    normalised = Classifier(layer, mean=mean.tolist(), std=std.tolist()).eval()
    x, y = torch.rand(9, 2, 2, 2, generator=rng, dtype=torch.float64), torch.arange(9) % 3
    assert torch.allclose(normalised(x), plain(x))
    one, other = (ClosedForm(radius=0.1)(clf, x, Misclassify(y, temperature=1.0)) for clf in (normalised, plain))
    assert torch.equal(one.delta, other.delta)


def test_many_steps_of_pgd_find_the_same(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys, 2)
    goal = Misclassify(y, temperature=1.0)
    exact = ClosedForm(radius=0.1)(classifier, x, goal)
    found = attacks.PGD(norm="linf", radius=0.1, steps=30)(classifier, x, goal)
    assert torch.allclose(found.delta, exact.delta, atol=1e-12)


def test_a_mask_is_kept_to_and_the_rest_is_still_the_worst(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys, 2)
    mask = torch.tensor([True, False, True, True])
    found = ClosedForm(radius=0.2)(classifier, x, Misclassify(y), mask=mask)
    free = ClosedForm(radius=0.2)(classifier, x, Misclassify(y))
    assert torch.equal(found.delta, torch.where(mask, free.delta, 0.0))


def test_training_with_it_is_the_penalised_loss_of_equation_8(toys: SimpleNamespace) -> None:
    """Cross-entropy at the worst case = g(epsilon ||w||_1 - y <w, x>), w the difference of the rows."""
    classifier, x, y = problem(toys, 2)
    objective = objectives.build("adversarial:attack=(closed_form:radius=0.1,clip=false),share=1")
    loss, _, _ = objective(classifier, Batch(x=x, y=y), objective.start(), rng=torch.Generator())
    layer = linear_layer(classifier)
    w, b = layer.weight[1] - layer.weight[0], layer.bias[1] - layer.bias[0]
    sign = 2.0 * y - 1
    expected = nn.functional.softplus(0.1 * w.abs().sum() - sign * (x @ w + b)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


# -- what is one linear layer --------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A linear layer in a module of one's own, which could do anything with it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).abs()


class Bent(nn.Sequential):
    """Looks like layers in a row, and is not."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).abs()


def test_layers_in_a_row_are_looked_through() -> None:
    layer = nn.Linear(D, 2)
    for network in (layer, nn.Sequential(nn.Identity(), nn.Sequential(nn.Flatten(), layer))):
        assert linear_layer(Classifier(network)) is layer
    assert linear_layer(Classifier("linear:features=4,classes=2")).in_features == D


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ("mlp:features=4,classes=2", "HalfHuberReLU and Linear"),
        (nn.Sequential(nn.Linear(D, D), nn.Linear(D, 2)), "has Linear"),
        (Wrapped(), "has Wrapped"),
        (Bent(nn.Linear(D, 2)), "has Bent"),
        (nn.Sequential(), "has none"),
    ],
    ids=["mlp", "two layers", "wrapped", "bent", "empty"],
)
def test_every_other_network_is_refused(network: nn.Module | str, named: str) -> None:
    x, goal = torch.rand(3, D), Misclassify(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match=f"only for networks with a single linear layer.*{named}.*Use pgd"):
        ClosedForm()(Classifier(network), x, goal)


@dataclass(frozen=True)
class Nameless:
    """A goal about no class."""

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        return Aim(loss=classifier.logits(x).sum(dim=1), reached=x.flatten(1)[:, 0] > 0)


def test_a_goal_without_a_class_and_a_negative_radius_are_refused(toys: SimpleNamespace) -> None:
    classifier, x, y = problem(toys, 3)
    with pytest.raises(InputError, match="one class index per input"):
        ClosedForm()(classifier, x, Misclassify(y + 1))
    with pytest.raises(InputError, match=r"a goal that names a class.*Nameless\(\) names none"):
        ClosedForm()(classifier, x, Nameless())
    with pytest.raises(SpecError, match="radius"):
        ClosedForm(radius=-0.1)


def test_training_on_a_table_goes_between_its_valid_rows() -> None:
    """A one-hot column has no valid row within 0.1: a search by itself says so, and training withstands it still."""
    spec = FeatureSpec(features=(Feature(name="colour", kind="category", values=("red", "green", "blue")),))
    classifier = Classifier("linear:features=3,classes=2", features=spec).train()
    x, y = torch.eye(3), torch.tensor([0, 1, 0])
    assert not ClosedForm(radius=0.1)(classifier, x, Misclassify(y)).delta.any()
    losses = []
    for terms in ("natural", "adversarial:attack=(closed_form:radius=0.1),share=1"):
        objective = objectives.build(terms)
        losses.append(objective(classifier, Batch(x=x, y=y), {}, rng=torch.Generator())[0].item())
    assert losses[1] > losses[0]
    assert classifier.features is spec
