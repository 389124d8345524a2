"""Goals against their definitions (Woods et al. 2019), computed slowly from the softmax."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex import explainers, goals
from advex.attacks import PGD, Minimal
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.explainers import Gradient
from advex.goals import Become, BelowChance, Confident, Misclassify, Suppress, advantage, with_temperature
from advex.goals.targets import numbers_of
from advex.measures import Case

# The network is the identity: an input is its own logits.
IDENTITY = Classifier(nn.Identity(), box=(-1e4, 1e4)).double()


def cases(n: int = 400, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits from uniform to saturated, and a class for each row."""
    rng = torch.Generator().manual_seed(0)
    scale = 10.0 ** (4 * torch.rand(n, 1, generator=rng, dtype=torch.float64) - 1.5)
    logits = torch.randn(n, classes, generator=rng, dtype=torch.float64) * scale
    return logits, torch.randint(classes, (n,), generator=rng)


def softmax(logits: list[float]) -> list[float]:
    """s_j = exp(y_j) / sum_k exp(y_k)."""
    top = max(logits)
    powers = [math.exp(y - top) for y in logits]
    return [power / math.fsum(powers) for power in powers]


def misclassify(s: list[float], t: int) -> bool:
    """Eq. 2, attack: s_t - max_{j != t} s_j < 0."""
    return s[t] - max(s_j for j, s_j in enumerate(s) if j != t) < 0


def below_chance(s: list[float], t: int) -> bool:
    """Eq. 3, BTR: s_t < 1 / V."""
    return s[t] < 1 / len(s)


def become(s: list[float], c: int) -> bool:
    """The decision is c."""
    return all(s[c] > s_j for j, s_j in enumerate(s) if j != c)


def confident(s: list[float], t: int, margin: float) -> bool:
    """Sec. III-H: max_j (s_j; j != t) - max_q (s_q; q != j) > margin."""
    s_j, j = max((s_j, j) for j, s_j in enumerate(s) if j != t)
    return s_j - max(s_q for q, s_q in enumerate(s) if q != j) > margin


def judged(definition: object, logits: Tensor, classes: Tensor, *options: float) -> list[bool]:
    return [
        definition(softmax(row), int(c), *options)  # pyright: ignore
        for row, c in zip(logits.tolist(), classes.tolist(), strict=True)
    ]


def test_misclassify_is_equation_2() -> None:
    logits, t = cases()
    aim = Misclassify(t)(IDENTITY, logits)
    assert aim.reached.tolist() == judged(misclassify, logits, t)
    assert aim.reached.tolist() == (aim.loss < 0).tolist()


def test_below_chance_is_equation_3() -> None:
    logits, t = cases()
    aim = BelowChance(t)(IDENTITY, logits)
    assert aim.reached.tolist() == judged(below_chance, logits, t)
    assert aim.reached.tolist() == (aim.loss < 0).tolist()
    # The loss is logit(s_t) - logit(1 / V), where the softmax is not yet saturated.
    s = logits.softmax(dim=1).gather(1, t[:, None])[:, 0]
    fair = (s > 1e-6) & (s < 1 - 1e-6)
    assert torch.allclose(aim.loss[fair], (torch.logit(s) + math.log(5 - 1))[fair], rtol=1e-8)


def test_become_is_the_decision() -> None:
    logits, c = cases()
    aim = Become(c)(IDENTITY, logits)
    assert aim.reached.tolist() == judged(become, logits, c)
    assert aim.reached.tolist() == (aim.loss < 0).tolist()
    assert aim.reached.tolist() == (logits.argmax(dim=1) == c).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_classes_that_are_no_whole_numbers_are_refused(dtype: torch.dtype) -> None:
    logits, t = cases()
    with pytest.raises(InputError, match=rf"got {dtype}; y.long\(\) makes labels of it"):
        Misclassify(t.to(dtype))(IDENTITY, logits)


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 0.9])
def test_confident_is_section_3h(margin: float) -> None:
    logits, t = cases()
    aim = Confident(t, margin)(IDENTITY, logits)
    assert aim.reached.tolist() == judged(confident, logits, t, margin)
    assert aim.reached.tolist() == (aim.loss < 0).tolist()


@pytest.mark.parametrize("margin", [-0.1, 1.0, math.nan])
def test_a_margin_that_no_confidence_can_have_is_refused(margin: float) -> None:
    with pytest.raises(SpecError, match=r"margin.*\[0, 1\)"):
        Confident(torch.tensor([0]), margin)


def test_a_margin_of_zero_does_not_make_the_loss_infinite() -> None:
    logits = torch.tensor([[0.0, 900.0, 0.0], [900.0, 0.0, 0.0]], requires_grad=True)  # e^-900 is 0 even in float64
    aim = Confident(torch.tensor([0, 0]), 0.0)(Classifier(nn.Identity(), box=(-1e4, 1e4)), logits)
    (gradient,) = torch.autograd.grad(aim.loss.sum(), logits)
    assert torch.isfinite(aim.loss).all()
    assert torch.isfinite(gradient).all()
    assert aim.reached.tolist() == [True, False]


def test_exact_ties_are_not_yet_a_change_of_decision() -> None:
    tie = torch.zeros(1, 4, dtype=torch.float64)
    first = torch.tensor([0])
    for goal in (Misclassify(first), Become(first), BelowChance(first), Confident(first, 0.0)):
        assert not goal(IDENTITY, tie).reached.item(), goal


def test_temperature_leads_from_the_margin_to_the_log_odds() -> None:
    logits, t = cases()
    own = logits.gather(1, t[:, None])[:, 0]
    margins = torch.stack([own - logits[:, j] for j in range(5)], dim=1).scatter(1, t[:, None], math.inf)
    assert torch.equal(advantage(logits, t, 0.0), margins.amin(dim=1))
    assert torch.allclose(advantage(logits, t, 1e-6), advantage(logits, t, 0.0), atol=1e-5)
    mild = logits.abs().amax(dim=1) < 20
    s = logits.softmax(dim=1).gather(1, t[:, None])[:, 0]
    assert torch.allclose(advantage(logits, t, 1.0)[mild], torch.logit(s)[mild], rtol=1e-6)


def test_at_temperature_one_the_descent_is_that_of_cross_entropy() -> None:
    logits, t = cases()
    logits = logits[logits.abs().amax(dim=1) < 20]  # where cross-entropy itself is not saturated
    t = t[: len(logits)]
    y = logits.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(Misclassify(t, temperature=1.0)(IDENTITY, y).loss.sum(), y)
    (theirs,) = torch.autograd.grad(torch.nn.functional.cross_entropy(y, t, reduction="sum"), y)
    cosine = torch.cosine_similarity(ours, -theirs)
    assert cosine.min() > 1 - 1e-9


def test_each_row_may_have_its_own_temperature() -> None:
    logits, t = cases()
    taus = torch.tensor([0.0, 0.3, 1.0, 2.5], dtype=torch.float64).repeat(100)
    together = advantage(logits, t, taus)
    for tau in taus.unique().tolist():
        rows = taus == tau
        # At 0 the sum of exponentials is taken at a tau of 1e-6 instead, which is off by at most 1e-6 log 4.
        assert torch.allclose(together[rows], advantage(logits[rows], t[rows], tau), rtol=1e-12, atol=1.4e-6)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_temperature_changes_the_way_but_not_the_verdict(temperature: float) -> None:
    logits, t = cases()
    for goal in (Misclassify(t), Become(t)):
        other = with_temperature(goal, temperature)
        assert torch.equal(other(IDENTITY, logits).reached, goal(IDENTITY, logits).reached)
    assert with_temperature(BelowChance(t), temperature)(IDENTITY, logits).loss.equal(
        BelowChance(t)(IDENTITY, logits).loss
    )


def test_suppress_is_equation_2_of_elliott() -> None:
    """M_c = C_c: the class's own logit, whatever the others are; an answer that is none has lost the class."""
    logits, c = cases()
    aim = Suppress(c)(IDENTITY, logits)
    assert aim.loss.tolist() == [row[int(k)] for row, k in zip(logits.tolist(), c.tolist(), strict=True)]
    assert aim.reached.tolist() == [row[int(k)] < 0 for row, k in zip(logits.tolist(), c.tolist(), strict=True)]
    assert not torch.equal(aim.reached, Misclassify(c)(IDENTITY, logits).reached)
    broken = torch.tensor([[2.0, math.nan], [2.0, 1.0]], dtype=torch.float64)
    assert Suppress(torch.zeros(2, dtype=torch.int64))(IDENTITY, broken).reached.tolist() == [True, False]


def test_a_linear_detector_is_suppressed_at_the_distance_to_its_plane() -> None:
    """The smallest change has the length C_c / |w_c|, though no decision changes on the way."""
    rng = torch.Generator().manual_seed(2)
    weight = torch.randn(3, 8, generator=rng, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(16, 8, generator=rng, dtype=torch.float64)
    layer = nn.Linear(8, 3).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(0.3 - weight @ x.mean(dim=0))
    detector, c = Classifier(layer), torch.arange(16) % 3
    own = detector(x).detach().gather(1, c[:, None])[:, 0]
    result = Minimal(norm="l2")(detector, x, Suppress(c))
    distance = (own / weight[c].norm(dim=1)).clamp_min(0)
    assert (own > 0).sum() > 8
    assert result.reached.all()
    assert (result.size >= distance * (1 - 1e-9)).all()
    assert result.size.tolist() == pytest.approx(distance.tolist(), rel=3e-3)
    after = detector(result.adversarial)
    assert (after.argmax(dim=1) == detector(x).argmax(dim=1)).any()


# -- classes by name -------------------------------------------------------------------------------------------


@pytest.fixture
def named() -> Classifier:
    """Three classes with names."""
    torch.manual_seed(0)
    return Classifier("linear:features=4,classes=3", class_names=("cat", "dog", "7")).eval()


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ("dog", [1, 1]),
        (1, [1, 1]),
        ("7", [2, 2]),
        (["cat", 2], [0, 2]),
        ((1, 0), [1, 0]),
        (torch.tensor([2, 1]), [2, 1]),
    ],
)
def test_a_class_may_be_named(named: Classifier, given: Any, numbers: list[int]) -> None:
    x, meant = torch.rand(2, 4), torch.tensor(numbers)
    attack = PGD(radius=0.5, steps=3)
    for goal in (Become, Misclassify):
        expected = attack(named, x, goal(meant))
        assert torch.equal(attack(named, x, goal(given)).delta, expected.delta)
    gradient = explainers.build("gradient")
    assert torch.equal(gradient(named, x, given).map, gradient(named, x, meant).map)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("dgo", "Become's c: There is no class 'dgo': did you mean 'dog'"),
        (["cat"], "has 1 class for 2 inputs"),
        (9, "no class 9: the model has 3 classes, 0 to 2"),
        (-1, "no class -1"),
        ([True, 1], "True is neither"),
        (["cat", "x"], "no class 'x'"),
    ],
)
def test_a_class_that_is_none_is_said(named: Classifier, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        PGD()(named, torch.rand(2, 4), Become(given))
    with pytest.raises(InputError, match=said.removeprefix("Become's c: ")):
        explainers.build("gradient")(named, torch.rand(2, 4), given)


@pytest.mark.parametrize("given", [1.5, None])
def test_what_is_no_class_is_said(named: Classifier, given: Any) -> None:
    with pytest.raises(InputError, match=f"{given} is neither the name nor the number of a class"):
        PGD()(named, torch.rand(2, 4), Become(given))


def test_a_number_is_one_whatever_classes_are_called() -> None:
    classifier = Classifier("linear:features=4,classes=3", class_names=("1", "2", "0")).eval()
    x, meant = torch.rand(3, 4), torch.tensor([1, 2, 0])
    for given in ([1, 2, 0], np.array([1, 2, 0]), meant):
        assert torch.equal(numbers_of(given, classifier, x, "It"), meant)
    assert numbers_of(1, classifier, x, "It").tolist() == [1, 1, 1]
    assert numbers_of("1", classifier, x, "It").tolist() == [0, 0, 0]  # a name


def test_what_people_write_first_is_answered_with_the_right_word(named: Classifier) -> None:
    x: Any = torch.rand(2, 4)
    with pytest.raises(InputError, match=r"wrap it with advex.Classifier\(network"):
        PGD()(named.network, x, Misclassify(torch.tensor([0, 1])))  # pyright: ignore[reportArgumentType]
    bare: Any = named.network
    y = torch.tensor([0, 1])
    for ask in (
        lambda: Gradient()(bare, x, y),
        lambda: Misclassify(y)(bare, x),
        lambda: goals.at("misclassify", bare, x, y),
        lambda: Case(classifier=bare, x=x, y=y, explainer=Gradient(), explanation=Gradient()(named, x, y)),
    ):
        with pytest.raises(InputError, match=r"wrap it with advex.Classifier\(network"):
            ask()
    for make, words in ((Misclassify, r"Misclassify needs y: Misclassify\(y\)"), (goals.TowardMap, "TowardMap needs")):
        with pytest.raises(SpecError, match=words):
            cast("Any", make)()
    with pytest.raises(InputError, match=r"got the text 'dog': pass .*Become\('dog'\)"):
        PGD()(named, x, cast("Any", "dog"))
    for wrong in ((), (torch.tensor([0, 1]),), ([0, 1],)):
        with pytest.raises(InputError, match=r"Misclassify\(labels\)"):
            PGD()(named, x, *wrong)  # pyright: ignore
    for option, ours in (("eps", "radius"), ("epsilon", "radius"), ("n_steps", "steps"), ("alpha", "step")):
        with pytest.raises(SpecError, match=f"no option '{option}': it is called '{ours}'"):
            PGD(**{option: 1})  # pyright: ignore[reportArgumentType]
    for option, words in (("steps", "it is called 'gradients'"), ("eps", "choose from draws, gradients")):
        with pytest.raises(SpecError, match=f"no option '{option}': {words}"):
            Minimal(**{option: 1})  # pyright: ignore[reportArgumentType]
