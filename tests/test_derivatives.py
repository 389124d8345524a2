"""Penalties on input gradients: twice differentiated, compiled whole, and by finite differences."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advex import objectives
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.networks import half_huber_relu
from advex.objectives import Lipschitz, Natural, Objective, OutputZeroing, Step, derivatives
from advex.types import Batch

# What torch's compiler says about itself, and hides from users: no other warning may come of compiling.
OF_ITS_OWN = ("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor that is not a leaf")


def small(activation: str = "silu", **options: Any) -> Classifier:
    """A residual network with batch norm, in training mode, whose branches are not zero as in a fresh one."""
    torch.manual_seed(3)
    spec = f"preact_resnet:depth=8,widths=4-6-8,channels=2,classes=4,activation={activation}"
    clf = Classifier(spec, mean=[0.4, 0.5], std=[0.25, 0.3], **options).double().train()
    for parameter in clf.parameters():
        if parameter.ndim == 4 and not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return clf


def pictures(n: int = 6, dtype: torch.dtype = torch.float64) -> Batch:
    rng = torch.Generator().manual_seed(2)
    x = torch.rand(n, 2, 8, 8, generator=rng, dtype=torch.float64).to(dtype)
    return Batch(x=x, y=torch.arange(n) % 4, index=torch.arange(n))


def gradients(clf: Classifier, value: Tensor) -> Tensor:
    """All parameter gradients [numbers], in float64."""
    found = torch.autograd.grad(value, list(clf.parameters()), materialize_grads=True)
    return torch.cat([one.flatten().double() for one in found])


def part(clf: Classifier, batch: Batch, term: Lipschitz) -> tuple[float, Tensor]:
    """A term's own value and parameter gradient."""
    step = Step(classifier=clf, batch=batch, seed=5)
    with step.seeded():
        value, _, _ = term(step, term.start())
    return value.item(), gradients(clf, value)


def relative(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


# -- the compiled way --------------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything of a compiler but code generation: fast, and exact to the last digits."""
    compile_ = torch.compile

    def with_backend(function: Any, **options: Any) -> Any:
        return compile_(function, **{"backend": "aot_eager", **options})

    monkeypatch.setattr(torch, "compile", with_backend)
    monkeypatch.setattr(derivatives, "COMPILER", "aot_eager")
    yield
    torch.compiler.reset()


TERMS = {
    "lipschitz": {"outputs": 2, "zeta": 0.5, "tandem": "difference", "dead_zone": 0.01, "q": 1.0},
    "output_zeroing": {},
}


def side_by_side(terms: dict[str, Any], steps: int, **acceleration: Any) -> Iterator[tuple[Any, ...]]:
    """Steps of two copies of a network, plainly and accelerated: (classifier, loss, gradient) of each."""
    plain = small("half_huber", class_names=[*"abcd"])
    fast = copy.deepcopy(plain)
    objective = objectives.build(terms)
    state = objective.start()
    with fast.accelerated(**acceleration):
        for number in range(steps):
            results, after = [], state
            for clf in (plain, fast):
                rng = torch.Generator().manual_seed(number)
                loss, _, after = objective(clf, pictures(), state, rng=rng)
                results.append((clf, loss.item(), gradients(clf, loss)))
            yield tuple(results)
            state = after
            with torch.no_grad():
                for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
                    one.mul_(0.95)
                    other.mul_(0.95)


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_ITS_OWN)
def test_compiled_whole_it_is_the_same_and_steps_are_not_compiled_anew(traced: None) -> None:
    with torch._dynamo.config.patch(error_on_recompile=False):
        steps = side_by_side(TERMS, 3, compiled=True)
        both = [next(steps)]
    with torch._dynamo.config.patch(error_on_recompile=True):
        both += list(steps)
    for (plain, loss, gradient), (fast, same_loss, same_gradient) in both:
        assert same_loss == pytest.approx(loss, rel=1e-12)
        assert relative(same_gradient, gradient) < 1e-12
        for one, other in zip(plain.buffers(), fast.buffers(), strict=True):
            assert torch.allclose(one, other, rtol=1e-12)
        assert not any("notes" in vars(layer) or "forward" in vars(layer) for layer in fast.modules())


@pytest.mark.parametrize("d", [0.25, 1.0, 3.0])
def test_the_activation_that_is_compiled_is_the_usual_one(d: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, slope and second derivative, at the joints of its pieces too."""
    points = torch.cat([torch.linspace(-1, 4, 101, dtype=torch.float64), torch.tensor([0.0, 1 / (2 * d)]).double()])
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda answer=compiling: answer)
        x = points.clone().requires_grad_(True)
        value = half_huber_relu(x, d)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        found.append((value, slope, *torch.autograd.grad(slope.sum(), x)))
    for usual, composed in zip(*found, strict=True):
        inside = (points != 0) & (points != 1 / (2 * d))  # at a joint the second derivative is either side's
        assert torch.allclose(composed[inside], usual[inside], rtol=1e-12, atol=1e-15)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-12, atol=1e-15)


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_ITS_OWN)
def test_finite_differences_compile_too(traced: None) -> None:
    terms = {"lipschitz": {**TERMS["lipschitz"], "derivative": "finite_difference", "probe": 1e-4}}
    ((plain, loss, gradient), (fast, same_loss, same_gradient)) = next(side_by_side(terms, 1, compiled=True))
    assert same_loss == pytest.approx(loss, rel=1e-10)
    assert relative(same_gradient, gradient) < 1e-8  # rounding over the probe
    for one, other in zip(plain.buffers(), fast.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_ITS_OWN)
@pytest.mark.skipif(shutil.which("g++") is None or sys.platform == "win32", reason="needs a C++ compiler")
def test_generated_code_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real compiler, on the smallest network that has everything: batch norm and a half-Huber activation."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 3), nn.BatchNorm1d(3), small("half_huber").get_submodule("network.act"), nn.Linear(3, 3)
    )
    plain = Classifier(network, class_names=[*"abc"]).double().train()
    fast = copy.deepcopy(plain)
    batch = Batch(x=torch.rand(6, 4, dtype=torch.float64), y=torch.tensor([0, 1, 2, 0, 1, 2]))
    term = Lipschitz(zeta=0.5, tandem="difference")
    value, gradient = part(plain, batch, term)
    try:
        with fast.accelerated(compiled=True):
            same_value, same_gradient = part(fast, batch, term)
    finally:
        torch.compiler.reset()
    assert same_value == pytest.approx(value, rel=1e-12)
    assert relative(same_gradient, gradient) < 1e-12
    for one, other in zip(plain.buffers(), fast.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


class Square(torch.autograd.Function):
    """A rule of its own for its derivative. Compiled code would lose its second one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore
        return 2 * ctx.saved_tensors[0] * gradient


class Custom(nn.Module):
    """Linear, then whatever `bend` is."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.bend = nn.Linear(4, 3), bend

    def forward(self, x: Tensor) -> Tensor:
        return self.bend(self.layer(x))


def by_numpy(x: Tensor) -> Tensor:
    print(end="")  # nothing a compiler can trace
    return x * x


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_ITS_OWN)
@pytest.mark.parametrize(
    ("bend", "sentence"),
    [(Square.apply, "torch.autograd.Function, whose second derivative"), (by_numpy, "cannot be compiled together")],
)
def test_a_network_that_cannot_be_compiled_so_is_refused(traced: None, bend: Any, sentence: str) -> None:
    clf = Classifier(Custom(bend), class_names=[*"abc"]).double().train()
    batch = Batch(x=torch.rand(5, 4, dtype=torch.float64), y=torch.tensor([0, 1, 2, 0, 1]))
    with clf.accelerated(compiled=True), pytest.raises(SpecError, match=sentence) as refusal:
        part(clf, batch, Lipschitz())
    assert "compiled=false" in str(refusal.value)
    # As it says: both of these work.
    exact = part(clf, batch, Lipschitz())
    with clf.accelerated(compiled=True):
        by_difference = part(clf, batch, Lipschitz(derivative="finite_difference", probe=1e-6))
    assert relative(by_difference[1], exact[1]) < 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_ITS_OWN)
def test_a_compiled_dropout_drops_the_same_units_in_every_pass_of_a_step(traced: None) -> None:
    """Of a linear network a finite difference has no error, unless its two passes have different masks."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    clf = Classifier(network, class_names=[*"abc"]).double().train()
    batch = Batch(x=torch.rand(5, 12, dtype=torch.float64), y=torch.tensor([0, 1, 2, 0, 1]))
    exact = part(clf, batch, Lipschitz())
    term = Lipschitz(derivative="finite_difference")
    assert relative(part(clf, batch, term)[1], exact[1]) < 1e-10
    with clf.accelerated(compiled=True):
        assert relative(part(clf, batch, term)[1], part(clf, batch, Lipschitz(outputs=1))[1]) < 1e-10


# -- bfloat16 ----------------------------------------------------------------------------------------------


def test_bfloat16_is_near_the_truth_where_it_is_exact() -> None:
    clf = small("half_huber", class_names=[*"abcd"]).float()
    batch = pictures(16, torch.float32)
    value, gradient = part(clf, batch, Lipschitz())
    with clf.accelerated(bfloat16=True):
        coarse_value, coarse = part(clf, batch, Lipschitz())
    # Eight bits of mantissa in some ten layers, forwards and twice backwards.
    assert coarse_value == pytest.approx(value, rel=0.1)
    assert torch.cosine_similarity(coarse, gradient, dim=0) > 0.98
    assert coarse_value != value


@pytest.mark.slow
@pytest.mark.filterwarnings(*OF_ITS_OWN)
def test_bfloat16_compiles_and_records_moments_in_float32(traced: None) -> None:
    plain = small("half_huber", class_names=[*"abcd"]).float()
    fast, batch = copy.deepcopy(plain), pictures(16, torch.float32)
    with plain.accelerated(bfloat16=True), fast.accelerated(bfloat16=True, compiled=True):
        value, gradient = part(plain, batch, Lipschitz())
        same_value, same_gradient = part(fast, batch, Lipschitz())
    assert same_value == pytest.approx(value, rel=0.05)
    assert torch.cosine_similarity(same_gradient, gradient, dim=0) > 0.99
    stem, same_stem = plain.network.blocks[0].norm1, fast.network.blocks[0].norm1  # pyright: ignore
    assert torch.allclose(stem.running_var, same_stem.running_var, rtol=1e-5)


def test_finite_differences_refuse_bfloat16() -> None:
    clf = small(class_names=[*"abcd"]).float()
    with clf.accelerated(bfloat16=True), pytest.raises(SpecError, match="bfloat16 and TF32"):
        part(clf, pictures(6, torch.float32), Lipschitz(derivative="finite_difference"))
    objective = objectives.build("lipschitz:derivative=finite_difference")
    assert objective.needs_float32
    assert not objectives.build("lipschitz").needs_float32


# -- finite differences ------------------------------------------------------------------------------------

FORMS = [{}, {"z": 4.0}, {"outputs": 2, "zeta": 0.5, "tandem": "difference"}, {"z": 1.0, "q": 1.0}]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_error_of_a_finite_difference_halves_with_its_probe(options: dict[str, Any]) -> None:
    """First order in the probe, over six halvings; the value has no error at all."""
    clf, batch = small(class_names=[*"abcd"]), pictures()
    value, exact = part(clf, batch, Lipschitz(**options))
    errors = []
    for probe in (1e-3 * 0.5**k for k in range(7)):
        term = Lipschitz(derivative="finite_difference", probe=probe, **options)
        same_value, gradient = part(clf, batch, term)
        assert same_value == pytest.approx(value, rel=1e-12)
        errors.append(relative(gradient, exact))
    assert errors[-1] < 1e-3
    for one, half in zip(errors, errors[1:], strict=False):
        assert one / half == pytest.approx(2.0, rel=0.1)


def trained(activation: str) -> Classifier:
    """The papers' ResNet-14 in float32 after a few steps on pictures with stripes to tell apart."""
    torch.manual_seed(0)
    spec = f"preact_resnet:depth=14,channels=1,classes=4,activation={activation}"
    clf = Classifier(spec, class_names=[*"abcd"]).train()
    optimiser = torch.optim.SGD(clf.parameters(), lr=0.05, momentum=0.9)
    for number in range(12):
        batch = stripes(32, number)
        optimiser.zero_grad()
        cross_entropy(clf.logits(batch.x), batch.y).backward()
        optimiser.step()
    return clf


def stripes(n: int, seed: int, dtype: torch.dtype = torch.float32) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=rng)
    places = torch.arange(12) * (y[:, None] + 1) * 0.5
    x = 0.5 + 0.2 * places.cos()[:, None, None, :] + 0.1 * torch.randn(n, 1, 12, 12, generator=rng)
    return Batch(x=x.clamp(0, 1).to(dtype), y=y, index=torch.arange(n))


# A half-Huber unit's second derivative jumps: where the probe crosses a jump, the difference of the two
# ways does not shrink with rounding, and single units show in so small a network.
@pytest.mark.parametrize(("activation", "close"), [("silu", 0.005), ("gelu", 0.005), ("half_huber", 0.03)])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_in_float32_the_default_probe_is_near_the_exact_gradient(
    activation: str, close: float, options: dict[str, Any]
) -> None:
    """Which is taken in float64."""
    clf, exact_term = trained(activation), Lipschitz(**options)
    _, exact = part(copy.deepcopy(clf).double(), stripes(32, 99, torch.float64), exact_term)
    term = Lipschitz(derivative="finite_difference", **options)
    _, gradient = part(clf, stripes(32, 99), term)
    assert relative(gradient, exact) < close
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.999


def test_the_loss_is_taken_a_hair_beside_the_examples() -> None:
    """Two passes instead of three: cross-entropy is that of examples moved by at most the probe."""
    clf, batch = trained("half_huber").double(), stripes(32, 98, torch.float64)
    points: list[Tensor] = []
    clf.network.register_forward_pre_hook(lambda _, inputs: points.append(inputs[0].detach()))  # pyright: ignore
    term = Lipschitz(psi=1.0, derivative="finite_difference")
    objective = Objective({"natural": Natural(), "lipschitz": term})
    _, parts, _ = objective(clf, batch, objective.start(), rng=torch.Generator())
    assert len(points) == 2
    moved = (points[1] - points[0]).flatten(1).norm(dim=1)
    assert moved.amax().item() == pytest.approx(term.probe, rel=1e-6)
    plain = cross_entropy(clf.logits(batch.x), batch.y).item()
    assert parts["cross_entropy"] == pytest.approx(plain, rel=2e-3)
    assert parts["cross_entropy"] != plain


def test_a_choice_between_classes_is_made_once(toys: SimpleNamespace) -> None:
    """Of a linear network a finite difference has no error, also where the best other class changes on the way.

    Otherwise two passes would differ by whole parameter gradients, over a probe that is small.
    """
    weight = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    clf = toys.affine(weight, torch.zeros(3)).train()
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    x[0, 1] += 1e-9  # classes 1 and 2 are all but equal
    batch = Batch(x=x, y=torch.tensor([0]), index=torch.tensor([0]))
    options = {"zeta": 1.0, "tandem": "difference"}
    exact = part(clf, batch, Lipschitz(**options))
    for probe in (1e-6, 1e-3, 0.1):
        value, gradient = part(clf, batch, Lipschitz(derivative="finite_difference", probe=probe, **options))
        assert value == pytest.approx(exact[0])
        assert relative(gradient, exact[1]) < 1e-8


def test_nothing_is_penalised_inside_a_dead_zone() -> None:
    clf, batch = small(class_names=[*"abcd"]), pictures()
    for derivative in ("exact", "finite_difference"):
        term = Lipschitz(dead_zone=1e6, derivative=derivative)
        objective = Objective({"natural": Natural(), "lipschitz": term})
        loss, parts, _ = objective(clf, batch, objective.start(), rng=torch.Generator())
        assert parts["lipschitz"] == 0
        expected = gradients(clf, cross_entropy(clf.logits(batch.x), batch.y))
        assert relative(gradients(clf, loss), expected) < 1e-10


def test_gradients_too_small_for_float32_to_square_are_penalised_all_the_same() -> None:
    """|dy/dx| of 1e-9 to the fifth: its square has no float32."""
    clf = Classifier("mlp:features=6,classes=3,widths=5,activation=silu", class_names=[*"abc"]).train()
    with torch.no_grad():
        clf.network[-1].weight.mul_(1e-5)  # pyright: ignore
    batch = Batch(x=torch.rand(4, 6), y=torch.tensor([0, 1, 2, 0]))
    _, exact = part(clf, batch, Lipschitz(z=5.0))
    _, gradient = part(clf, batch, Lipschitz(z=5.0, derivative="finite_difference"))
    assert exact.norm() > 0
    assert relative(gradient, exact) < 0.02


def test_weights_that_are_frozen_stay_out() -> None:
    clf, batch = small(class_names=[*"abcd"]), pictures()
    clf.network.head.weight.requires_grad_(False)  # pyright: ignore
    clf.network.stem.requires_grad_(False)  # pyright: ignore
    found = []
    for derivative in ("exact", "finite_difference"):
        clf.zero_grad(set_to_none=True)
        objective = Objective({"n": Natural(), "l": Lipschitz(derivative=derivative, probe=1e-6)})
        objective(clf, batch, objective.start(), rng=torch.Generator())[0].backward()
        found.append({name: one.grad for name, one in clf.named_parameters() if one.grad is not None})
        assert not any(name.startswith(("network.stem", "network.head.weight")) for name in found[-1])
    assert found[0].keys() == found[1].keys()
    exact, by_difference = (torch.cat([one.flatten() for one in each.values()]) for each in found)
    assert relative(by_difference, exact) < 1e-4


# -- any function of input gradients -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flat:
    """The input gradient of cross-entropy, squared. `late`: without the attribute that puts it first."""

    derivative: Any = "exact"

    def start(self) -> dict[str, float]:
        return {}

    def __call__(self, step: Step, state: dict[str, float]) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        def score(logits: Tensor, at_x: Tensor) -> Tensor:
            return cross_entropy(logits, step.y, reduction="none")

        loss = derivatives.of_gradient(
            step, score, lambda gradient: gradient.square().sum(), derivative=self.derivative, probe=1e-6
        )
        return loss, {"flat": loss.item()}, state


@dataclasses.dataclass(frozen=True)
class Late:
    """A term that asks for an input gradient when the others have taken the recorded pass already."""

    def start(self) -> dict[str, float]:
        return {}

    def __call__(self, step: Step, state: dict[str, float]) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        return Flat()(step, state)


def test_any_function_of_an_input_gradient_can_be_penalised_beside_others() -> None:
    clf, batch = small(class_names=[*"abcd"]), pictures()

    def of(*terms: Any) -> Tensor:
        objective = Objective({str(number): term for number, term in enumerate(terms)})
        return gradients(clf, objective(clf, batch, objective.start(), rng=torch.Generator())[0])

    x = batch.x.clone().requires_grad_(True)
    losses = cross_entropy(clf.logits(x), batch.y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    by_hand = gradients(clf, losses.mean() + gradient.square().sum())
    assert relative(of(Natural(), Flat()), by_hand) < 1e-10
    assert relative(of(Natural(), Late()), by_hand) < 1e-10  # one pass more, and right
    assert relative(of(Natural(), Flat(derivative="finite_difference")), by_hand) < 1e-5
    # Two of them, one of each way, beside what reads the logits.
    others = (OutputZeroing(strength=0.1), Lipschitz(psi=1.0))
    two = of(Natural(), Flat(), *others)
    assert relative(of(Natural(), Flat(derivative="finite_difference"), *others), two) < 1e-5
    assert relative(of(Natural(), Late(), *others), two) < 1e-10


# -- memory ------------------------------------------------------------------------------------------------


def test_a_finite_difference_keeps_one_graph_at_a_time() -> None:
    """What autograd holds at the most, counted in saved bytes: that of a plain step, and the parameters' gradients."""
    clf, batch = small(class_names=[*"abcd"]), pictures(64)

    def most(*terms: Any) -> int:
        held, highest = 0, 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal held, highest
                self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
                held += self.size
                highest = max(highest, held)

            def __del__(self) -> None:
                nonlocal held
                held -= self.size

        objective = Objective({str(number): term for number, term in enumerate(terms)})
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            loss, _, _ = objective(clf, batch, objective.start(), rng=torch.Generator())
            loss.backward()
        return highest

    plain = most(Natural())
    own = sum(parameter.numel() * parameter.element_size() for parameter in clf.parameters())
    assert most(Natural(), Lipschitz(derivative="finite_difference")) < 1.05 * plain + 2 * own
    assert most(Natural(), Lipschitz()) > 1.8 * plain
