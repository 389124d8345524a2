"""The perceptual search (Elliott et al. 2021): by hand, beside torch's L-BFGS, and each error of text and code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import attacks, goals
from advex.attacks import Perceptual, perceptual
from advex.classifier import Classifier
from advex.errors import AdvexWarning, InputError, SpecError
from advex.goals import Misclassify, Suppress
from advex.types import concatenate, take

Objective = Callable[[Tensor, int], Tensor]


def convolutional(box: tuple[float, float] = (0.0, 1.0), activation: Any = nn.ReLU) -> Classifier:
    """A small random network with three ReLUs, channels of different ranges, and all classes frequent; float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), activation(), nn.Conv2d(8, 8, 3, padding=1, stride=2), activation(),
              nn.Flatten(), nn.Linear(72, 20), activation(), nn.Linear(20, 4)]  # fmt: skip
    network = nn.Sequential(*layers).double()
    classifier, head = Classifier(network, box=box, mean=[0.5, 0.4, 0.6], std=[0.3, 0.2, 0.25]).eval(), network[-1]
    with torch.no_grad():
        logits = classifier(torch.rand(500, 3, 6, 6, dtype=torch.float64))
        head.weight.mul_(2 / logits.std(dim=0)[:, None])  # pyright: ignore
        head.bias.zero_()  # pyright: ignore
        head.bias.sub_(classifier(torch.rand(500, 3, 6, 6, dtype=torch.float64)).mean(dim=0))  # pyright: ignore
    return classifier


@pytest.fixture
def problem() -> tuple[Classifier, Tensor, Tensor]:
    """(classifier, x [8, 3, 6, 6], its decisions), two of each class."""
    return of_all_classes(convolutional())


def of_all_classes(classifier: Classifier) -> tuple[Classifier, Tensor, Tensor]:
    x = torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = classifier.predict(x).argmax(dim=1)
    rows = torch.cat([(y == c).nonzero()[:2, 0] for c in range(4)])
    return classifier, x[rows], y[rows]


def in_the_authors_notation(
    classifier: Classifier, x: Tensor, y: Tensor, gamma: float, lam: float = 1.0, target: float = -2.0
) -> Objective:
    """f(u, i): the loss of image i at the normalised image u, by nn.MSELoss of each layer and of the image (P1, P2)."""
    network: Any = classifier.network
    relus = [module for module in network if isinstance(module, nn.ReLU | nn.SiLU)]
    normal = classifier.normalised(x)

    def features(u: Tensor) -> tuple[Tensor, list[Tensor]]:
        outs: list[Any] = []
        handles = [relu.register_forward_hook(lambda m, i, out: outs.append(out)) for relu in relus]
        logits = network(u)
        for handle in handles:
            handle.remove()
        return logits, outs

    first = [[out.detach() for out in features(normal[i : i + 1])[1]] for i in range(len(x))]
    mse = nn.MSELoss()

    def loss(u: Tensor, i: int) -> Tensor:
        response, outs = features(u)
        others = torch.cat([response[0, : y[i]], response[0, y[i] + 1 :]])  # classes 0 and last too (P4)
        margin = response[0, y[i]] - others.max()
        perceptual = sum(mse(out, before) for out, before in zip(outs, first[i], strict=True))
        return (margin - target) ** 2 + gamma * perceptual + lam * mse(u, normal[i : i + 1])

    return loss


def by_torch(loss: Objective, start: Tensor) -> tuple[Tensor, float]:
    """torch.optim.LBFGS as the authors call it: (its last point, the lowest loss that it saw)."""
    rows, best = [], []
    for i in range(len(start)):
        u, seen = start[i : i + 1].clone().requires_grad_(), []
        optimiser = torch.optim.LBFGS([u], max_iter=100)

        def closure(u: Tensor = u, i: int = i, seen: list[float] = seen, by: Any = optimiser) -> Tensor:
            by.zero_grad()
            value = loss(u, i)
            value.backward()
            seen.append(value.item())
            return value

        optimiser.step(closure)
        rows.append(u.detach())
        best.append(min(seen))
    return torch.cat(rows), sum(best) / len(best)


# -- by hand ---------------------------------------------------------------------------------------------------


def linear(std: list[float], seed: int = 0, scale: float = 1.0) -> tuple[Classifier, Tensor]:
    """A linear network of two classes whose first layer hears the normalised input itself; w of its margin, [d]."""
    weight = scale * torch.randn(2, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layer = nn.Linear(12, 2).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
    network = nn.Sequential(nn.LeakyReLU(1.0), nn.Flatten(), layer)
    return Classifier(network, mean=0.5, std=std).eval(), weight


def least(w: Tensor, margin: Tensor, mu: float, low: Tensor, high: Tensor, target: float) -> Tensor:
    """argmin (margin + w.d - T)^2 + mu |d|^2 in low <= d <= high, by bisection: d = cut(-c w), mu c = margin - T."""
    ends = torch.full_like(margin, -1e6), torch.full_like(margin, 1e6)
    for _ in range(200):
        c = (ends[0] + ends[1]) / 2
        d = torch.minimum(torch.maximum(-c[:, None] * w, low), high)
        above = margin + (d * w).sum(dim=1) - target > mu * c
        ends = torch.where(above, c, ends[0]), torch.where(above, ends[1], c)
    return d


@pytest.mark.parametrize("scale", ["mean", "sum"])
@pytest.mark.parametrize("walls", [False, True], ids=["far from the walls", "at the walls"])
@pytest.mark.parametrize("target", [-2.0, -0.5])
def test_a_quadratic_by_hand(scale: str, walls: bool, target: float) -> None:
    """(m + w.d - T)^2 + (lambda' + lambda) |d|^2, of means over d elements: in the box, and far from its walls."""
    std = [0.3, 0.1, 0.2] if walls else [0.03, 0.01, 0.02]
    classifier, weight = linear(std, scale=0.3)
    x = torch.rand(16, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x)) if walls else 0.4 + 0.2 * x
    y, lam, pixel = torch.arange(16) % 2, 0.3, 0.2
    per = torch.tensor(std).double()[None, :, None, None]
    w = torch.where(y[:, None] == 0, weight[0] - weight[1], weight[1] - weight[0])
    logits = classifier(x).detach()
    margin = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
    mu = (lam + pixel) / (12 if scale == "mean" else 1)
    low, high = (-x / per).flatten(1), ((1 - x) / per).flatten(1)
    exact = least(w, margin, mu, low, high, target)
    search = Perceptual(perceptual=lam, pixel=pixel, scale=scale, target=target, gradients=60)  # pyright: ignore
    result = search(classifier, x, Misclassify(y))
    assert torch.allclose((result.delta / per).flatten(1), exact, atol=1e-5)
    if walls:
        assert (exact == low).any()
        assert (exact == high).any()
    else:
        plain = -((margin - target) / (w.square().sum(dim=1) + mu))[:, None] * w
        assert torch.allclose(exact, plain, atol=1e-9)
    mask = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(5)) < 0.5
    kept = search(classifier, x, Misclassify(y), mask=mask)
    inside = mask.flatten()
    part = least(w * inside, margin, mu, low, high, target)
    assert torch.allclose((kept.delta / per).flatten(1), part, atol=1e-5)
    assert not kept.delta[:, ~mask].any()


def test_suppress_is_the_other_margin() -> None:
    """Eq. 2: the class's own output towards T; reached where it is below 0, whatever the other class says."""
    classifier, weight = linear([0.03, 0.01, 0.02])
    x, y = 0.4 + 0.2 * torch.rand(6, 3, 2, 2, dtype=torch.float64), torch.zeros(6, dtype=torch.int64)
    result = Perceptual(perceptual=0.1, pixel=0.0, gradients=60)(classifier, x, Suppress(y))
    own, w = classifier(x).detach()[:, 0], weight[0]
    expected = own - (own + 2) * w.square().sum() / (w.square().sum() + 0.1 / 12)
    assert torch.allclose(classifier.logits(result.adversarial).detach()[:, 0], expected, atol=1e-5)
    assert result.reached.all()


# -- beside torch's L-BFGS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1e4, 1e2, 1.0])
def test_half_the_gradients_come_as_low_as_torchs_search(gamma: float) -> None:
    """In a box so wide that it is in nobody's way, on a network without kinks, which both would meet by chance."""
    classifier, x, y = of_all_classes(convolutional((-20.0, 21.0), nn.SiLU))
    loss = in_the_authors_notation(classifier, x, y, gamma)
    start = classifier.normalised(x)
    _, best = by_torch(loss, start)
    result = Perceptual(perceptual=gamma)(classifier, x, Misclassify(y))
    assert result.gradients.max() <= 50
    u = classifier.normalised(result.adversarial)
    values = torch.stack([loss(u[i : i + 1], i) for i in range(len(x))]).detach()
    assert values.mean() <= 1.001 * best
    before = torch.stack([loss(start[i : i + 1], i) for i in range(len(x))]).detach()
    assert (values <= before).all()  # the lowest that was seen


class Hill(nn.Module):
    """The margin 4 exp(-(u / 20)^2 / 2) of the sum u of the normalised elements: concave near its top."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.LeakyReLU(1.0)

    def forward(self, u: Tensor) -> Tensor:
        margin = 4 * torch.exp(-((self.same(u).flatten(1).sum(dim=1) / 20) ** 2) / 2)
        return torch.stack([margin / 2, -margin / 2], dim=1)


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_a_way_without_upward_curvature_is_walked_in_longer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """From near a top no pair tells a curvature; steps of the first one's length would take long to leave it."""
    classifier = Classifier(Hill(), box=(-1000, 1000)).double()
    x, goal = torch.full((1, 1, 1, 2), 1.0, dtype=torch.float64), Misclassify(torch.tensor([0]))
    search = Perceptual(perceptual=0, pixel=1e-5, target=-0.1, gradients=15)
    margins = []
    for longer in (perceptual._LONGER, 1.0):
        monkeypatch.setattr(perceptual, "_LONGER", longer)
        margins.append(-classifier.logits(search(classifier, x, goal).adversarial).diff(dim=1).item())
    assert margins[0] < 0.3
    assert margins[1] > 3


@pytest.mark.parametrize("gamma", [1e4, 1e2])
def test_published_is_the_authors_code(problem: tuple[Classifier, Tensor, Tensor], gamma: float) -> None:
    """P1 means; P2 normalised and without a box; P4 all classes; P5 torch's L-BFGS, 100 iterations, its last point."""
    classifier, x, y = problem
    assert set(y.tolist()) == {0, 1, 2, 3}  # the first class and the last, at which the authors' code breaks
    last, _ = by_torch(in_the_authors_notation(classifier, x, y, gamma), classifier.normalised(x))
    result = attacks.build(f"perceptual:perceptual={gamma},published=true,scale=sum,gradients=3")(
        classifier, x, Misclassify(y)
    )
    assert torch.allclose(classifier.normalised(result.adversarial), last, atol=1e-8)
    moved = classifier.logits(result.adversarial).argmax(dim=1) != y
    assert torch.equal(result.reached, moved)
    assert result.gradients.min() > 50


def test_the_box_is_kept_but_by_the_published_search(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    """P2, P3: white pictures; the authors' search leaves the box, ours stops at either wall."""
    classifier, x, _ = problem
    x = (x > 0.5).double()
    goal = Misclassify(classifier.predict(x).argmax(dim=1))
    ours, theirs = (Perceptual(perceptual=1.0, published=way)(classifier, x, goal) for way in (False, True))
    assert ours.adversarial.min() >= 0
    assert ours.adversarial.max() <= 1
    assert theirs.adversarial.min() < -0.01
    assert theirs.adversarial.max() > 1.01
    assert ours.delta.any()


def test_sums_are_means_times_their_elements(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    """P1: of one layer with 72 elements and 108 of the picture."""
    classifier, x, y = problem
    means = Perceptual(layers="relu:1", perceptual=72.0, pixel=108.0)(classifier, x, Misclassify(y))
    sums = Perceptual(layers="relu:1", perceptual=1.0, pixel=1.0, scale="sum")(classifier, x, Misclassify(y))
    assert torch.allclose(means.delta, sums.delta, atol=1e-7)
    other = Perceptual(layers="relu:1", perceptual=1.0, pixel=1.0)(classifier, x, Misclassify(y))
    assert not torch.allclose(means.delta, other.delta, atol=1e-3)


class Watched(nn.Module):
    """Notes how many rows each pass has, and whether weights would take derivatives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows, self.trained = network, list[int](), False

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        self.trained |= any(parameter.requires_grad for parameter in self.parameters())
        return self.network(x)


def test_weights_take_no_derivatives_and_features_are_of_a_slice(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    """P8; and no pass is spent on the features of x: the first look hears them."""
    classifier, x, y = problem
    network = Watched(classifier.network)
    watched = Classifier(network, mean=classifier.mean.tolist(), std=classifier.std.tolist()).double()
    result = Perceptual(perceptual=100, gradients=5)(watched, x, Misclassify(y), max_batch=3)
    assert not network.trained
    assert all(parameter.grad is None and parameter.requires_grad for parameter in watched.parameters())
    a_slice = [5 * [size] + [size, size] for size in (3, 3, 2)]  # gradients, the last look, the verdict
    assert network.rows == [2, *(rows for each in a_slice for rows in (1, *each))]  # before all: are answers logits?
    assert result.gradients.tolist() == [5] * 8
    assert result.queries.tolist() == [1] * 8


# -- rows, weights, options --------------------------------------------------------------------------------------


def alike(first: Any, second: Any) -> None:
    assert torch.allclose(first.delta, second.delta, atol=1e-7)
    assert torch.equal(first.reached, second.reached)
    assert torch.equal(first.gradients, second.gradients)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    "spec", ["perceptual", "perceptual:perceptual=10000", "perceptual:perceptual=100,memory=1,gradients=20"]
)
def test_a_row_does_not_see_its_company(problem: tuple[Classifier, Tensor, Tensor], spec: str) -> None:
    classifier, x, y = problem
    search = attacks.build(spec)
    whole = search(classifier, x, Misclassify(y))
    alike(concatenate([search(classifier, x[i : i + 1], Misclassify(y[i : i + 1])) for i in range(8)]), whole)
    alike(search(classifier, x, Misclassify(y), max_batch=3), whole)
    order = torch.tensor([5, 0, 7, 2, 4, 1, 6, 3])
    alike(search(classifier, x[order], Misclassify(y[order])), take(whole, order))


def test_auto_is_the_largest_weight_that_takes_the_class_away(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    weights = (1e4, 1e3, 100.0, 10.0, 1.0)
    each = [Perceptual(perceptual=weight, gradients=20)(classifier, x, Misclassify(y)) for weight in weights]
    result = Perceptual(gradients=20)(classifier, x, Misclassify(y))
    assert result.weight is not None
    assert len(result.weight.unique()) > 1
    for i in range(len(x)):
        first = next((k for k, search in enumerate(each) if search.reached[i]), len(weights) - 1)
        assert result.weight[i] == weights[first]
        assert torch.allclose(result.delta[i], each[first].delta[i], atol=1e-7)
        assert result.gradients[i] == sum(search.gradients[i] for search in each[: first + 1])
        assert result.reached[i] == each[first].reached[i]


def test_where_no_weight_takes_the_class_away_the_last_one_counts() -> None:
    classifier, _ = linear([0.3, 0.1, 0.2], scale=0.01)
    with torch.no_grad():
        classifier.network[2].bias.copy_(torch.tensor([9.0, -9.0]))  # pyright: ignore
    x = torch.rand(3, 3, 2, 2, dtype=torch.float64)
    search = Perceptual(gradients=8)(classifier, x, Misclassify(torch.zeros(3, dtype=torch.int64)))
    last = Perceptual(gradients=8, perceptual=1)(classifier, x, Misclassify(torch.zeros(3, dtype=torch.int64)))
    assert not search.reached.any()
    assert search.size.isinf().all()
    assert search.weight is not None
    assert search.weight.tolist() == [1.0] * 3
    assert search.delta.any()
    assert torch.allclose(search.delta, last.delta)


def test_a_search_at_its_goal_stops() -> None:
    """At the minimum nothing falls any more: a row that stands costs no further gradients."""
    classifier, _ = linear([0.03, 0.01, 0.02])
    x, y = 0.4 + 0.2 * torch.rand(4, 3, 2, 2, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    result = Perceptual(perceptual=1, gradients=1000)(classifier, x, Misclassify(y))
    assert result.gradients.max() < 100


def test_a_compiled_search_runs_uncompiled_and_says_so(
    problem: tuple[Classifier, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        pytest.fail("the network was compiled")

    classifier, x, y = problem
    plain = Perceptual(perceptual=100, gradients=5)(classifier, x, Misclassify(y))
    monkeypatch.setattr(torch, "compile", never)
    with classifier.accelerated(compiled=True):
        with pytest.warns(AdvexWarning, match="runs uncompiled"):
            result = Perceptual(perceptual=100, gradients=5)(classifier, x, Misclassify(y))
        assert classifier.compiled
    alike(result, plain)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"perceptual": -1.0}, "perceptual: a weight must be 'auto' or a number of at least 0, not -1.0"),
        ({"perceptual": math.inf}, "'auto' or a number"),
        ({"perceptual": math.nan}, "'auto' or a number"),
        ({"perceptual": "high"}, "'auto' or a number"),
        ({"perceptual": True}, "'auto' or a number"),
        ({"pixel": -0.1}, "pixel must be at least 0"),
        ({"pixel": math.inf}, "pixel .*finite"),
        ({"target": 0.0}, "target must be below 0"),
        ({"target": 2.0}, "target must be below 0"),
        ({"target": -math.inf}, "target .*finite"),
        ({"memory": 0}, "memory must be at least 1"),
        ({"gradients": 0}, "gradients must be at least 1"),
        ({"scale": "average"}, "scale .*'mean' or 'sum'"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Perceptual(**options)


def test_layers_that_cannot_be_heard_are_refused(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    for layers, words in (("relu:1-3", "calls 3 activation modules"), ("nothing", "no layer 'nothing'")):
        with pytest.raises(InputError, match=words):
            Perceptual(layers=layers)(classifier, x, Misclassify(y))
    flat = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))).double()
    with pytest.raises(InputError, match="no activation module"):
        Perceptual()(flat, torch.rand(2, 3, 2, 2, dtype=torch.float64), Misclassify(y[:2] * 0))
    assert not any(module._forward_hooks for module in classifier.modules())


def test_goals_that_ask_the_network_more_than_once_are_refused(problem: tuple[Classifier, Tensor, Tensor]) -> None:
    classifier, x, y = problem
    goal = goals.at("scramble:explainer=smooth_grad", classifier, x, y)
    with pytest.raises(InputError, match="one forward pass, but the network was called"):
        Perceptual(perceptual=1.0, gradients=2)(classifier, x, goal)
