"""Networks whose kinks are smooth for a while: formulas by NumPy, curvature by hand, and nothing left behind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from advex.classifier import Classifier, input_gradient
from advex.errors import InputError
from advex.networks import HalfHuberReLU

BETA = 7.0


def ramp(x: np.ndarray, beta: float = BETA) -> np.ndarray:
    return np.logaddexp(0, beta * x) / beta


def per_channel() -> nn.PReLU:
    module = nn.PReLU(5).double()
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-0.5, 0.5, 5))
    return module


# Each activation, what it is when it is smooth, and how far that is from itself at most, times beta.
LN2 = math.log(2)
FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[np.ndarray], np.ndarray], float]] = {
    "relu": (nn.ReLU, ramp, LN2),
    "relu in place": (lambda: nn.ReLU(inplace=True), ramp, LN2),
    "leaky": (lambda: nn.LeakyReLU(0.2), lambda x: 0.2 * x + 0.8 * ramp(x), 0.8 * LN2),
    "leaky in place": (lambda: nn.LeakyReLU(0.2, inplace=True), lambda x: 0.2 * x + 0.8 * ramp(x), 0.8 * LN2),
    "prelu": (
        per_channel,
        lambda x: (a := np.linspace(-0.5, 0.5, 5)) * x + (1 - a) * ramp(x),
        1.5 * LN2,
    ),
    "relu6": (nn.ReLU6, lambda x: ramp(x) - ramp(x - 6), LN2),
    "hardtanh in place": (
        lambda: nn.Hardtanh(-1.0, 2.0, inplace=True),
        lambda x: -1 + ramp(x + 1) - ramp(x - 2),
        LN2,
    ),
    "hard sigmoid": (nn.Hardsigmoid, lambda x: (ramp(x + 3) - ramp(x - 3)) / 6, LN2 / 6),
    "soft shrink": (lambda: nn.Softshrink(0.3), lambda x: ramp(x - 0.3) - ramp(-x - 0.3), LN2),
    # 8d = 32 is above beta. In its middle the quadratic part is 1/(16d) above a ramp, which a softplus is less.
    "half huber": (lambda: HalfHuberReLU(4.0), lambda x: ramp(x - 1 / 16), LN2),
    # 8d = 4 is below beta.
    "flat half huber": (lambda: HalfHuberReLU(0.5), lambda x: ramp(x - 0.5, 4.0), BETA * (LN2 / 4)),
}
EVERY = pytest.mark.parametrize("name", FORMS)


class Body(nn.Module):
    """Logits second(act(first(x))), 4 inputs, 5 units, 3 classes, of which something is heard on the way."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.second = nn.Linear(4, 5).double(), act, nn.Linear(5, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(3 * self.first(x)))


class ByFunction(nn.Module):
    """An activation that is no module, beside one that may be one."""

    def __init__(self, function: Callable[[Tensor], Tensor], act: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.first, self.act = function, nn.Linear(4, 3).double(), act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.function(self.first(x)))


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network, box=(-1.0, 1.0)).eval()


def draws(n: int = 30) -> Tensor:
    return 2 * torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1


def by_hand(body: Any, x: Tensor, act: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    first, second = body.first, body.second
    units = 3 * (x.numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy())
    return act(units) @ second.weight.detach().numpy().T + second.bias.detach().numpy()


@EVERY
def test_every_kink_is_a_softplus_inside_and_itself_outside(name: str) -> None:
    make, smooth, gap = FORMS[name]
    body, x = Body(make()), draws()
    network = classifier(body)
    before = network(x)
    with network.softened(BETA) as count:
        inside = network(x)
    assert count == 1
    assert np.allclose(inside.detach(), by_hand(body, x, smooth), rtol=1e-12)
    assert torch.equal(network(x), before)
    units = np.linspace(-9, 9, 2001)[:, None] * np.ones(5)
    itself = make().double()(torch.tensor(units)).detach().numpy()
    assert np.abs(smooth(units) - itself).max() <= gap / BETA + 1e-12


@pytest.mark.parametrize("name", [name for name in FORMS if "huber" not in name])
def test_the_sharper_the_nearer(name: str) -> None:
    network, x = classifier(Body(FORMS[name][0]())), draws()
    for beta in (10.0, 1e3, 1e5):
        with network.softened(beta):
            assert torch.allclose(network(x), network_outside(network, x), atol=20 / beta)


def network_outside(network: Classifier, x: Tensor) -> Tensor:
    """What a copy of it, made from its weights alone, says."""
    fresh = copy.deepcopy(network)
    for module in fresh.modules():
        module.__dict__.pop("forward", None)
    return fresh(x)


def test_a_map_of_a_relu_network_has_a_slope_inside() -> None:
    """The gradient g of a logit is constant outside; inside, dg/dx = W' diag(v beta s (1 - s) 3^2) W."""
    body, x = Body(nn.ReLU()), draws(1)
    network = classifier(body)

    def gradient(x: Tensor) -> Tensor:
        return input_gradient(lambda at: network.logits(at)[:, 1], x, create_graph=True)[0]

    def slope() -> Tensor:
        rows = gradient(x.requires_grad_(True))[0]
        return torch.stack([input_slope(row, x) for row in rows])

    def input_slope(row: Tensor, x: Tensor) -> Tensor:
        got = torch.autograd.grad(row, x, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
        return got[0]

    assert (slope() == 0).all()
    with network.softened(BETA):
        inside = slope()
    w, v = body.first.weight.detach().numpy(), body.second.weight.detach().numpy()[1]
    s = 1 / (1 + np.exp(-BETA * 3 * (x.detach().numpy()[0] @ w.T + body.first.bias.detach().numpy())))
    assert np.allclose(inside, w.T @ np.diag(9 * v * BETA * s * (1 - s)) @ w, rtol=1e-9)


def test_in_place_means_in_place_inside_too() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act = nn.Linear(4, 3).double(), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            units = self.first(x)
            self.act(units)  # nobody takes what it returns
            return 2 * units

    body, x = Shortcut(), draws().requires_grad_(True)
    network = classifier(body)
    with network.softened(BETA):
        inside = network(x)
        (gradient,) = torch.autograd.grad(inside[:, 0].sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.sum(), x)
    assert torch.allclose(inside, 2 * functional.softplus(body.first(x), beta=BETA))
    assert (curvature != 0).any()


def test_the_innermost_counts_and_each_ends_where_it_began() -> None:
    body, x = Body(nn.ReLU()), draws()
    network = classifier(body)
    with network.softened(BETA):
        outer = network(x)
        with network.softened(50.0):
            assert np.allclose(network(x).detach(), by_hand(body, x, lambda units: ramp(units, 50.0)))
        assert torch.equal(network(x), outer)


class BreaksError(Exception):
    pass


def test_nothing_is_left_behind_after_an_error_either() -> None:
    body = Body(nn.ReLU())
    heard: list[Any] = []
    body.act.register_forward_hook(lambda module, inputs, answer: heard.append(answer))

    def its_own(x: Tensor) -> Tensor:
        return x.abs()

    body.act.forward = its_own
    network, x = classifier(body), draws()
    before = {name: dict(module.__dict__) for name, module in network.named_modules()}
    outside = network(x)

    def breaks() -> None:
        with network.softened(BETA), network.softened(50.0):
            network(x)
            raise BreaksError

    with pytest.raises(BreaksError):
        breaks()
    assert {name: dict(module.__dict__) for name, module in network.named_modules()} == before
    assert torch.equal(network(x), outside)
    assert len(heard) == 3
    assert torch.equal(heard[0], heard[2])
    assert not torch.equal(heard[0], heard[1])  # hooks hear what goes on


@pytest.mark.parametrize("act", [nn.SiLU(), nn.GELU(), nn.Softplus(), nn.Tanh(), nn.Identity()], ids=repr)
def test_without_kinks_nothing_happens(act: nn.Module) -> None:
    network, x = classifier(Body(act)), draws()
    with network.softened(BETA) as count:
        inside = network(x)
    assert count == 0
    assert torch.equal(inside, network(x))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "relu method": lambda x: x.relu(),
    "relu in place": torch.relu_,
    "leaky": functional.leaky_relu,
    "relu6": functional.relu6,
    "threshold": lambda x: functional.threshold(x, 0.0, 0.0),
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": lambda x: x.clamp_(0.0),
    "least": lambda x: torch.clamp_min(x, 0),
    "least, a tensor": lambda x: torch.clamp(x, min=torch.zeros((), dtype=x.dtype)),
    "maximum": lambda x: torch.maximum(x, torch.zeros((), dtype=x.dtype)),
    "maximum of the same size": lambda x: torch.max(x, torch.zeros_like(x)),
    "hard sigmoid": functional.hardsigmoid,
    "soft shrink": lambda x: functional.softshrink(x, 0.1),
    "hard shrink": lambda x: functional.hardshrink(x, 0.1),
    "exported graph": torch.ops.aten.relu.default,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("beside", [None, nn.ReLU()], ids=["alone", "beside a module"])
def test_kinks_in_functions_are_refused_with_the_remedy(name: str, beside: nn.Module | None) -> None:
    network, x = classifier(ByFunction(FUNCTIONS[name], beside)), draws()
    outside = network(x)
    for ask in (network, network.logits, network.predict):
        with pytest.raises(InputError, match=r"as a function.*module \(nn.ReLU.*of=probability"), network.softened(50):
            ask(x)
    assert torch.equal(network(x), outside)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.normalize(x, dim=1),
        lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-6),
        lambda x: x.clamp(max=0.5),
        lambda x: x.clamp(-1.0, 1.0),
        lambda x: torch.maximum(x, 2 * x + 1),
    ],
)
def test_what_is_no_relu_is_let_through(function: Callable[[Tensor], Tensor]) -> None:
    network, x = classifier(ByFunction(function, nn.ReLU())), draws()
    with network.softened(50) as count:
        assert network(x).isfinite().all()
    assert count == 1


def test_an_operation_without_a_second_derivative_is_named() -> None:
    network, x = classifier(Body(nn.Hardsigmoid())), draws().requires_grad_()
    slope, _ = input_gradient(lambda x: network.logits(x)[:, 0], x, create_graph=True)
    with pytest.raises(InputError, match="no second derivative of 'hardsigmoid'.*square, spsa"):
        input_gradient(lambda _: slope.sum(dim=1), x)


def test_inside_nothing_is_compiled_whichever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: partial(function))
    network = classifier(Body(nn.ReLU()))

    def function(x: Tensor) -> Tensor:
        return x

    with network.softened(BETA), network.accelerated(compiled=True):
        assert network.fast(function) is function
        assert not network.compiled
    with network.accelerated(compiled=True):
        with network.softened(BETA):
            assert network.fast(function) is function
            assert not network.compiled
        assert network.compiled
        assert network.fast(function) is not function


def test_what_is_smooth_enough_may_be_spared() -> None:
    """A half-Huber that is no sharper than the softplus; a kink beside it that is no module is refused all the same."""
    x = draws()
    for d, count in ((0.5, 0), (BETA / 8, 0), (BETA, 1)):
        network = classifier(Body(HalfHuberReLU(d)))
        outside = network(x)
        with network.softened(BETA, sharper_only=True) as replaced:
            assert replaced == count
            assert torch.equal(network(x), outside) == (count == 0)
    network = classifier(ByFunction(functional.relu, HalfHuberReLU()))
    with pytest.raises(InputError, match="as a function"), network.softened(50, sharper_only=True):
        network(x)


@pytest.mark.parametrize("beta", [0, -1.0, math.inf, math.nan, True, "50", None])
def test_a_beta_that_cannot_be_meant_is_refused(beta: Any) -> None:
    with pytest.raises(InputError, match="finite beta above 0"), classifier(Body(nn.ReLU())).softened(beta):
        pass
    with pytest.raises(InputError, match="with 'softplus', not with 'swish'"):
        classifier(Body(nn.ReLU())).softened(5.0, "swish").__enter__()  # pyright: ignore


def test_derivatives_of_any_order_and_kind_are_torchs() -> None:
    """Of the softplus alone, backwards up to the third, and by the transforms of torch.func."""
    network, x = classifier(Body(nn.ReLU())), draws(3)

    def first(score: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        return torch.autograd.grad(score(at).sum(), at, create_graph=True)[0]

    def up_to_the_third(score: Callable[[Tensor], Tensor]) -> list[Tensor]:
        at = x.clone().requires_grad_(True)
        one = first(score, at)
        two = torch.autograd.grad(one.square().sum(), at, create_graph=True)[0]
        jacobians = torch.func.vmap(torch.func.jacrev(lambda row: score(row[None])[0]))(x)
        return [one, two, torch.autograd.grad(two.square().sum(), at)[0], jacobians]

    def by_torch(x: Tensor) -> Tensor:
        body: Any = network.network
        return body.second(functional.softplus(3 * body.first(x), beta=BETA))

    with network.softened(BETA):
        ours = up_to_the_third(network.network)
    for mine, theirs in zip(ours, up_to_the_third(by_torch), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-9)
