"""A doubt known inside reaches every result; what networks answer and raise is looked at; callers' contexts are not.

Most networks here are one network with something done around it: the right value is that of the plain one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import registry
from advex.attacks import Minimal
from advex.classifier import Classifier
from advex.contexts import by_default
from advex.errors import AdvexWarning, InputError
from advex.explainers import DeepLift, Gradient, IntegratedGradients, Toward
from advex.goals import Become, BelowChance, Misclassify
from advex.logits import out_of_memory

N = 6


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Softplus(), nn.Linear(16, 5))


class Around(nn.Module):
    def __init__(self, do: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.do = network(), do

    def forward(self, x: Tensor) -> Any:
        return self.do(self.inner, x)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 3, 2, 2)


@pytest.fixture
def y(x: Tensor) -> Tensor:
    return Classifier(network()).predict(x).argmax(dim=1)


def radii(module: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return Minimal()(Classifier(module, **options), x, Misclassify(y)).rmse


# -- explanations without a gradient -------------------------------------------------------------------------


@torch.no_grad()
def without_grad(inner: nn.Module, x: Tensor) -> Tensor:
    return inner(x)


DEAF = {
    "detached": lambda n, x: n(x.detach()),
    "without derivatives": without_grad,
    "rounded": lambda n, x: n((8 * x).round() / 8),
    "an endless slope": lambda n, x: (
        n(x - x.detach() + x.detach()) + 0 * (x - x.detach()).abs().sqrt().sum((1, 2, 3))[:, None]
    ),
}


@pytest.mark.parametrize("around", DEAF.values(), ids=DEAF)
@pytest.mark.parametrize("explain", [Gradient(), IntegratedGradients(steps=4), Toward(steps=4)], ids=str)
def test_where_no_gradient_reaches_the_input_nothing_is_explained(
    around: Callable[[nn.Module, Tensor], Tensor], explain: Any, x: Tensor, y: Tensor
) -> None:
    with pytest.warns(AdvexWarning, match=f"{N} of {N} maps .*no gradient"):
        explanation = explain(Classifier(Around(around)), x, y)
    assert explanation.flat.all()
    if explanation.picture is not None:  # never a random picture
        assert torch.equal(explanation.picture, x)
        assert not explanation.rmse.any()


def test_only_the_rows_without_a_gradient_are_flat(x: Tensor, y: Tensor) -> None:
    x[:, 0, 0, 0] = torch.tensor([0.9, 0.1] * 3)
    half = Around(lambda n, x: n(torch.where(x[:, :1, :1, :1] > 0.5, x.detach(), x)))
    plain = Toward()(Classifier(network()), x, y)
    with pytest.warns(AdvexWarning, match=f"3 of {N} maps"):
        explanation = Toward()(Classifier(half), x, y)
    assert explanation.flat is not None
    assert plain.flat is not None
    assert explanation.flat.tolist() == [True, False] * 3
    assert not plain.flat.any()


def test_completeness_is_judged_against_the_change(x: Tensor, y: Tensor) -> None:
    """x^2 in five elements, and beside it a detached half of the same: the map holds half of the change."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            s = x.flatten(1).square()
            return torch.stack([s.sum(1) + s.detach().sum(1), 0 * s.sum(1)], dim=1)

    with pytest.warns(AdvexWarning, match="misses the change of output"):
        explanation = IntegratedGradients(steps=50)(Classifier(Half()), x, torch.zeros(N, dtype=torch.int64))
    assert explanation.incomplete is not None
    assert explanation.flat is not None
    assert explanation.completeness is not None
    assert explanation.incomplete.all()
    assert not explanation.flat.any()
    assert torch.allclose(explanation.completeness, -x.flatten(1).square().sum(1), rtol=1e-3)


# -- what a network answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("no_answer", [torch.nan, torch.inf])
@pytest.mark.parametrize("goal", [Misclassify, BelowChance])
def test_no_answer_is_a_wrong_one_and_leaves_the_other_rows_alone(
    no_answer: float, goal: Any, x: Tensor, y: Tensor
) -> None:
    silent = torch.tensor([True, False, False, True, False, False])
    x[:, 0, 0, 0] = torch.where(silent, 1.0, 0.0)
    # Of the first element alone, which no search may change: whether there is an answer.
    mask = torch.ones_like(x[:1], dtype=torch.bool)
    mask[0, 0, 0, 0] = False
    around = Classifier(Around(lambda n, x: torch.where(x[:, :1, 0, 0] > 0.5, no_answer, n(x))))
    with pytest.warns(AdvexWarning, match="returns NaN or infinity"):
        result = Minimal()(around, x, goal(y), mask=mask)
    assert not result.rmse[silent].any()
    assert result.reached[silent].all()
    alone = Minimal()(around, x[~silent], goal(y[~silent]), mask=mask)
    assert torch.equal(result.rmse[~silent], alone.rmse)
    assert torch.equal(result.delta[~silent], alone.delta)
    with pytest.warns(AdvexWarning, match="returns NaN or infinity"):
        assert not Minimal()(around, x[silent], Become(y[silent]), mask=mask).reached.any()


@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e6])
def test_a_scale_of_logits_changes_no_radius(scale: float, x: Tensor, y: Tensor) -> None:
    scaled = radii(Around(lambda n, x: n(x.double()) * scale).double(), x.double(), y)
    assert torch.allclose(scaled, radii(network().double(), x.double(), y), rtol=2e-3)


@pytest.mark.parametrize("far", [-1e3, -1e9, -torch.inf])
def test_classes_far_off_decide_nothing(far: float, x: Tensor, y: Tensor) -> None:
    for count in (1, 20):
        masked = Around(lambda n, x, count=count: torch.cat([n(x), torch.full((len(x), count), far)], dim=1))
        assert torch.allclose(radii(masked, x, y), radii(network(), x, y), rtol=2e-3)


# -- precision and contexts of the caller --------------------------------------------------------------------


@contextlib.contextmanager
def deterministic() -> Any:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64 by default": lambda: by_default(torch.float64),
    "deterministic": deterministic,
}
SEARCHES = [name for name, entry in registry.entries("attack").items() if entry.make.exact_for is None]
EXPLAINERS = list(registry.entries("explainer"))
# Controls ask nothing of the network, and draw by the bytes of the input.
ASKING = [
    name for name, entry in registry.entries("explainer").items() if getattr(entry.make, "shows", "") != "control"
]


class WithPlaces(nn.Sequential):
    def __init__(self, name: str) -> None:
        torch.manual_seed(4)
        pooled = name in EXPLAINERS and registry.entries("explainer")[name].make.looks_at == "pool"
        layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), *([nn.AdaptiveAvgPool2d(1)] if pooled else []), nn.Flatten()]
        super().__init__(*layers, nn.Linear(4 if pooled else 16, 3))


def budget(made: Any) -> Any:
    """With few steps, and with a background that is named."""
    few: dict[str, Any] = {"gradients": 30, "steps": 8, "queries": 300}
    if hasattr(made, "searches"):  # of a suite: that of each
        few |= {"searches": "apgd:steps=8,minimal:gradients=30,square:queries=100"}
    if hasattr(made, "attribute"):
        few |= {"samples": 40, "masks": 40}
    if hasattr(made, "background"):
        few |= {"baseline": 0.0}
    return dataclasses.replace(made, **{name: value for name, value in few.items() if hasattr(made, name)})


def undisturbed(name: str) -> tuple[Classifier, Tensor, Tensor]:
    classifier, x = Classifier(WithPlaces(name)), torch.rand(N, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return classifier, x, classifier.predict(x).argmax(dim=1)


def result(name: str, classifier: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    if name in SEARCHES:
        change = budget(registry.build("attack", name))(classifier, x, Misclassify(y))
        return change.delta, change.reached
    explanation = budget(registry.build("explainer", name))(classifier, x, y)
    return explanation.map, explanation.flat


@functools.cache
def expected(name: str) -> tuple[Tensor, ...]:
    return result(name, *undisturbed(name))


@pytest.mark.filterwarnings("ignore:.*misses the change")
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", [*SEARCHES, *EXPLAINERS])
def test_contexts_of_the_caller_do_not_reach_in(name: str, context: str) -> None:
    classifier, x, y = undisturbed(name)
    plain = expected(name)
    with CONTEXTS[context]():
        made = result(name, classifier, x + 0, y + 0)
    for a, b in zip(plain, made, strict=True):  # float32; the linear model of Lime is fitted in float64
        assert torch.allclose(a, b, atol=1e-5) if name == "lime" else torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:.*misses the change")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*SEARCHES, *ASKING])
def test_networks_of_every_precision(name: str, dtype: torch.dtype, x: Tensor) -> None:
    """Asked in their own precision, settled in float32: near what the same weights say in float64."""
    classifier = Classifier(WithPlaces(name).to(dtype), mean=0.5, std=0.25)
    x = x.to(dtype)
    confidences = classifier.predict(x)
    assert confidences.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(confidences, classifier.predict(x.to(classifier.dtype)))
    y = confidences.argmax(dim=1)
    if name in SEARCHES:
        change = budget(registry.build("attack", name))(classifier, x, Misclassify(y))
        assert change.delta.dtype == classifier.dtype
        confidences = classifier.predict(change.adversarial)
        first, second = confidences.topk(2, dim=1).values.unbind(dim=1)
        clear = first - second > 1e-6  # nearer to the boundary, the rounding of a pass of other rows decides
        assert torch.equal((confidences.argmax(dim=1) != y)[clear], change.reached[clear])
        assert change.reached[~clear].all()
    else:
        explain = budget(registry.build("explainer", name))
        values = explain(classifier, x, y).map
        exact = explain(Classifier(WithPlaces(name).to(dtype).double(), mean=0.5, std=0.25), x.double(), y).map
        assert torch.nn.functional.cosine_similarity(values.double().flatten(), exact.flatten(), dim=0) > 0.9


def test_what_becomes_of_the_normalisation_is_checked() -> None:
    for std in (1e-300, 1e-40):
        with pytest.raises(InputError, match="std must be above 0 in float32"):
            Classifier(network(), std=std)
    Classifier(network().double(), std=1e-300)
    with pytest.raises(InputError, match="mean is infinite in float32"):
        Classifier(network(), mean=1e300)
    assert (
        Classifier(network().half(), mean=0.4914).mean.item() == torch.tensor(0.4914).item()
    )  # not the nearest float16


# -- networks as people have them ----------------------------------------------------------------------------


def test_outputs_of_other_forms_are_read_as_logits(x: Tensor, y: Tensor) -> None:
    plain = radii(network(), x, y)
    forms = {
        "tuple": (lambda n, x: (n(x), x), {"logits": lambda output: output[0]}),
        "dictionary": (lambda n, x: {"logits": n(x)}, {}),
        "squeezed": (lambda n, x: n(x).squeeze(), {}),
    }
    for around, options in forms.values():
        assert torch.equal(radii(Around(around), x, y, **options), plain)
    compiled: Any = torch.compile(network(), backend="eager")
    assert torch.equal(radii(compiled, x, y), plain)
    completeness = DeepLift()(Classifier(compiled), x, y).completeness
    assert completeness is not None
    assert completeness.abs().max() < 1e-5
    exported = torch.export.export(network().eval(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    assert torch.allclose(radii(exported, x, y), plain)


def test_one_output_is_two_classes_where_that_is_said(x: Tensor) -> None:
    """The distance to the plane w x + b = 0 is |w x + b| / |w|, as RMSE that over sqrt(12)."""
    torch.manual_seed(0)
    linear = nn.Linear(12, 1)
    with torch.no_grad():
        linear.bias.copy_(-linear.weight.sum() / 2)  # through the centre of the inputs
    score = linear(x.flatten(1))[:, 0].detach()
    truth = score.abs() / linear.weight.norm().item() / 12**0.5 / 18  # of the box's width
    for shape in (nn.Identity(), nn.Flatten(0)):
        classifier = Classifier(nn.Sequential(nn.Flatten(), linear, shape), box=(-9, 9), binary=True)
        assert torch.allclose(classifier(x)[:, 1] - classifier(x)[:, 0], score)
        assert torch.allclose(Minimal()(classifier, x, Misclassify((score > 0).long())).rmse, truth, rtol=1e-2)


def boom(inner: nn.Module, x: Tensor) -> Tensor:
    raise RuntimeError("the cache is cold")


def purified(inner: nn.Module, x: Tensor) -> Tensor:
    z = x.detach().requires_grad_()
    return inner(x - 0.1 * torch.autograd.grad(inner(z).logsumexp(1).sum(), z)[0])


def test_errors_of_a_network_are_told_in_its_own_words(x: Tensor) -> None:
    with pytest.raises(InputError, match=r"test_doubts.py:\d+ in boom\): the cache is cold\.$"):
        Classifier(Around(boom)).predict(x)
    with pytest.raises(InputError, match="computes gradients itself"):
        Classifier(Around(purified)).predict(x)
    with pytest.raises(InputError, match="Grey and colour"):
        Classifier(network()).predict(torch.rand(2, 1, 2, 2))
    with pytest.raises(InputError, match="several inputs"):
        Classifier(nn.Bilinear(3, 3, 2)).predict(torch.rand(2, 3))
    with pytest.raises(InputError, match="embeddings"):
        Classifier(nn.Embedding(9, 2)).predict(torch.randint(9, (2, 3)))


def test_running_out_of_memory_is_known_by_its_words() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert out_of_memory(error.value)
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("the cache is cold"))


def test_kernel_shap_is_exact_where_every_set_can_be_asked(x: Tensor) -> None:
    """Shapley values as the mean gain over all orders, by a slow replica."""
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double())
    rows = torch.rand(2, 5, dtype=torch.float64)
    target = torch.tensor([1, 2])
    values = registry.build("explainer", "kernel_shap:samples=32")(classifier, rows, target).map
    truth = torch.zeros_like(rows)
    orders = list(itertools.permutations(range(5)))
    for n, row in enumerate(rows):
        for order in orders:
            at = torch.zeros_like(row)
            for i in order:
                before = classifier(at[None])[0, target[n]]
                at = at.clone()
                at[i] = row[i]
                truth[n, i] += (classifier(at[None])[0, target[n]] - before).detach() / len(orders)
    assert torch.allclose(values, truth, atol=1e-9)
