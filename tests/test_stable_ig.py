"""The stable-IG term: the norm it adds, its gradient, the search for the worst neighbour, and what training does.

That it is adversarial training for one-layer models is in references/test_chalasani.py.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advex import attacks, objectives
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.goals import Unstable
from advex.objectives import Step
from advex.objectives.stable_ig import StableIG
from advex.types import Batch

ATTACK = "pgd:norm=linf,radius=0.1,steps=8,random_start=false"


def network(features: int = 3, classes: int = 3) -> Classifier:
    """Small, curved and steep, in float64 and training mode."""
    classifier = Classifier(f"mlp:features={features},classes={classes},widths=8,activation=silu").double().train()
    with torch.no_grad():
        classifier.network[-1].weight.mul_(6)  # pyright: ignore
    return classifier


def batch(n: int = 6, features: int = 3, classes: int = 3) -> Batch:
    x = 0.2 + 0.6 * torch.rand(n, features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Batch(x=x, y=torch.arange(n) % classes)


def value(term: StableIG, classifier: Classifier, at: Batch) -> Tensor:
    step = Step(classifier=classifier, batch=at, seed=0)
    with step.seeded():
        return term(step, term.start())[0]


def found(term: StableIG, classifier: Classifier, at: Batch) -> Tensor:
    """The x' of its search, [n, features]."""
    goal = Unstable(x=at.x, y=at.y, points=term.points)
    return attacks.build(term.attack)(classifier, at.x, goal, seed=0).adversarial


def norm_of_IG(classifier: Classifier, x: Tensor, to: Tensor, y: Tensor, points: int = 50) -> Tensor:
    """||IG^{L_y}(to, x)||_1 [n], row by row and point by point, with a graph to the parameters."""
    norms = []
    for row in range(len(x)):
        total = torch.zeros_like(x[row])
        for k in range(points):
            z = (x[row] + (k + 0.5) / points * (to[row] - x[row])).requires_grad_(True)
            loss = cross_entropy(classifier.logits(z[None]), y[row, None])
            total = total + torch.autograd.grad(loss, z, create_graph=True)[0] / points
        norms.append(((to[row] - x[row]) * total).abs().sum())
    return torch.stack(norms)


def test_it_is_the_mean_norm_at_what_the_search_found_and_so_is_its_gradient() -> None:
    classifier, at, term = network(), batch(), StableIG(attack=ATTACK, strength=0.7)
    loss = value(term, classifier, at)
    expected = 0.7 * norm_of_IG(classifier, at.x, found(term, classifier, at), at.y).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)  # 50 midpoints in the reference
    parameters = list(classifier.parameters())
    ours, theirs = (torch.autograd.grad(each, parameters, materialize_grads=True) for each in (loss, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
        assert one.any() or one.shape == (3,)  # biases of the outputs may cancel


def test_the_search_finds_the_largest_norm() -> None:
    """Against a grid of 5^3 points in the whole cube around each input, its corners among them."""
    classifier, at, term = network(), batch(), StableIG(attack=ATTACK)
    goal = Unstable(x=at.x, y=at.y, points=term.points)
    ours = goal.size(classifier, found(term, classifier, at)).detach()
    grid = torch.tensor(list(itertools.product(torch.linspace(-0.1, 0.1, 5).tolist(), repeat=3))).double()
    largest = torch.zeros(len(at), dtype=torch.float64)
    with torch.no_grad():
        for corner in grid:
            largest = torch.maximum(largest, goal.size(classifier, at.x + corner))
    share = ours / largest
    assert share.min() > 0.97  # one stands at the second best corner
    assert share.median() > 1 - 1e-6


def test_the_risk_is_never_below_the_loss_at_the_same_neighbour() -> None:
    """|sum of a map| is at most its L1 norm, in any network: CE(x) + ||IG||_1 >= CE(x')."""
    for classes in (2, 3):
        classifier, at = network(classes=classes), batch(classes=classes)
        goal = Unstable(x=at.x, y=at.y, points=20)
        for radius in (0.02, 0.1, 0.2):
            worst = attacks.PGD(norm="linf", radius=radius, steps=10)(classifier, at.x, goal).adversarial
            with torch.no_grad():
                before, after = (cross_entropy(classifier(x), at.y, reduction="none") for x in (at.x, worst))
                assert (before + goal.size(classifier, worst) >= after - 1e-9).all()


def test_at_the_worst_neighbour_loss_and_norm_are_both_taken_there_and_searched_together() -> None:
    """IG-SUM-NORM: the sum is above that at any random neighbour, and is what training minimises."""
    classifier, at = network(), batch()
    objective = objectives.make("stable_ig", attack=ATTACK, strength=0.3, at="worst", points=30)
    step = Step(classifier=classifier, batch=at, seed=0)
    moved = StableIG(attack=ATTACK, strength=0.3, at="worst", points=30).alter(step)

    def sums(x: Tensor) -> Tensor:
        return cross_entropy(classifier(x), at.y, reduction="none") + 0.3 * norm_of_IG(classifier, at.x, x, at.y)

    loss, parts, _ = objective(classifier, at, objective.start(), rng=torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(sums(moved).mean().item(), rel=1e-3)  # 50 midpoints in the reference
    assert parts["cross_entropy"] == pytest.approx(cross_entropy(classifier(moved), at.y).item(), rel=1e-9)
    rng = torch.Generator().manual_seed(4)
    noise = [at.x + 0.2 * torch.rand(at.x.shape, generator=rng, dtype=at.x.dtype) - 0.1 for _ in range(20)]
    assert (sums(moved) >= torch.stack([sums(x) for x in noise]).amax(dim=0)).all()


def linear(toys: SimpleNamespace, classes: int) -> Classifier:
    weight = 2 * torch.randn(classes, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return toys.affine(weight, torch.zeros(classes)).train()


def test_the_search_comes_to_the_closed_form(toys: SimpleNamespace) -> None:
    classifier, at = linear(toys, 2), batch(classes=2)
    exact = value(StableIG(attack="closed_form:radius=0.1"), classifier, at)
    searched = value(StableIG(attack="pgd:norm=linf,radius=0.1,steps=10,random_start=false"), classifier, at)
    assert searched.item() == pytest.approx(exact.item(), rel=1e-9)


def test_of_several_classes_a_linear_network_has_no_closed_form_of_the_norm(toys: SimpleNamespace) -> None:
    """Then the adversary's corners are only where the map is asked, and the norm is that of the map."""
    classifier, at, term = linear(toys, 3), batch(), StableIG(attack="closed_form:radius=0.1")
    expected = norm_of_IG(classifier, at.x, found(term, classifier, at), at.y).mean()
    assert value(term, classifier, at).item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_count_and_compiled_code_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: nn.Module, **_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", broken)
    classifier, at, term = network(), batch(2), StableIG(attack=ATTACK)
    weighted = Batch(x=at.x, y=at.y, weight=torch.tensor([0.5, 2.0], dtype=torch.float64))
    each = [value(term, classifier, Batch(x=at.x[i : i + 1], y=at.y[i : i + 1])) for i in range(2)]
    with classifier.accelerated(compiled=True):
        assert value(term, classifier, weighted).item() == pytest.approx((0.5 * each[0] + 2 * each[1]).item() / 2)


@pytest.mark.slow
def test_training_with_it_makes_attributions_stable() -> None:
    """One strong feature and 20 weak ones, which an ordinary network leans on."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(2, (256,), generator=rng)
    strength = torch.tensor([0.2] + [0.03] * 20)
    x = (0.5 + (2 * y - 1)[:, None] * strength + 0.1 * torch.randn(256, 21, generator=rng)).clamp(0, 1)
    data, held_out = Batch(x=x[:128], y=y[:128]), Batch(x=x[128:], y=y[128:])
    norms, right = [], []
    for terms in ("natural", "stable_ig:attack=(pgd:norm=linf,radius=0.05,steps=2,random_start=false),points=2"):
        torch.manual_seed(0)
        classifier = Classifier("mlp:features=21,classes=2,widths=8,activation=silu", mean=0.5, std=0.1).train()
        objective, optimiser = objectives.build(terms), torch.optim.Adam(classifier.parameters(), lr=0.02)
        for _ in range(50):
            optimiser.zero_grad()
            objective(classifier, data, objective.start(), rng=rng)[0].backward()
            optimiser.step()
        term = StableIG(attack="pgd:norm=linf,radius=0.05,steps=10,random_start=false")
        norms.append(value(term, classifier, held_out).item())
        right.append((classifier.predict(held_out.x).argmax(dim=1) == held_out.y).double().mean().item())
    assert norms[1] < 0.5 * norms[0]
    assert min(right) > 0.9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": -1.0}, "at least 0"),
        ({"points": 0}, "points"),
        ({"at": "worse"}, "worst"),
        ({"attack": "pdg"}, "did you mean 'pgd'"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        StableIG(**options)  # pyright: ignore
