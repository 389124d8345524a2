"""Attributional robustness training: the loss of the paper, its derivative, the search within, what surrounds both."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advex import attacks, objectives, open_dataset, training
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.geometry import LINF
from advex.goals import Misaligned
from advex.objectives import Attributional, Step
from advex.randomness import draw
from advex.recipes import recipe_from
from advex.types import Batch

EPSILON, ALPHA, STEPS, BETA, LAMBDA = 0.1, 0.05, 3, 10.0, 0.5
ATTACK = f"pgd:norm=linf,radius={EPSILON},steps={STEPS},step={ALPHA},keep=last"


def network(activation: str = "relu", classes: int = 4) -> Classifier:
    """An MLP in float64 and training mode, with a normalisation."""
    torch.manual_seed(1)
    return (
        Classifier(f"mlp:features=6,classes={classes},widths=9-7,activation={activation}", mean=0.375, std=0.25)
        .double()
        .train()
    )


def batch(n: int = 5, features: int = 6) -> Batch:
    rng = torch.Generator().manual_seed(2)
    return Batch(x=torch.rand(n, features, generator=rng, dtype=torch.float64), y=torch.arange(n) % 4)


def value(term: Attributional, classifier: Classifier, at: Batch, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(L_attr as it is added to the loss, x')."""
    step = Step(classifier=classifier, batch=at, seed=seed)
    with step.seeded():
        step.x = term.alter(step)
        return term(step, term.start())[0], step.x


def gradients_differ(loss: Tensor, other: Tensor, parameters: list[Tensor]) -> float:
    """The length of the difference of two parameter gradients, as a share of the second's."""
    first, second = (
        torch.cat([slope.flatten() for slope in torch.autograd.grad(each, parameters, materialize_grads=True)])
        for each in (loss, other)
    )
    return ((first - second).norm() / second.norm()).item()


# -- the paper, in its own notation --------------------------------------------------------------------------


def softplus(x: Tensor) -> Tensor:
    return torch.log1p((BETA * x).exp()) / BETA


def f(theta: list[Tensor], x: Tensor, phi: Any) -> Tensor:
    """Logits of one picture x, as the network sees it."""
    (W1, b1, W2, b2, W3, b3) = theta
    return W3 @ phi(W2 @ phi(W1 @ x + b1) + b2) + b3


def g(theta: list[Tensor], x: Tensor, i: int) -> Tensor:
    """The gradient of logit i, with softplus for ReLU."""
    return torch.autograd.grad(f(theta, x, softplus)[i], x, create_graph=True)[0]


def d(g: Tensor, x: Tensor) -> Tensor:
    return 1 - (g @ x) / ((g @ g).sqrt() * (x @ x).sqrt())


def L_attr(theta: list[Tensor], x: Tensor, y: int, negative: str) -> Tensor:
    """Eq. 5."""
    others = {i: float(value) for i, value in enumerate(f(theta, x, softplus).detach()) if i != y}
    i_star = max(others, key=others.__getitem__) if negative == "runner_up" else min(others, key=others.__getitem__)
    return (1 + (-(d(g(theta, x, i_star), x) - d(g(theta, x, y), x))).exp()).log()


def algorithm_1(theta: list[Tensor], x: Tensor, start: Tensor, y: int, negative: str) -> Tensor:
    """The perturbed picture, in data space; the box is [0, 1]."""
    x_tilde = x + start
    for _ in range(STEPS):
        z = ((x_tilde - 0.375) / 0.25).requires_grad_(True)
        (slope,) = torch.autograd.grad(L_attr([p.detach() for p in theta], z, y, negative), z)
        x_tilde = x_tilde + ALPHA * slope.sign()
        x_tilde = torch.minimum(torch.maximum(x_tilde, x - EPSILON), x + EPSILON).clamp(0, 1)
    return x_tilde.detach()


@pytest.mark.parametrize("negative", ["runner_up", "least"])
def test_it_is_the_paper_row_by_row(negative: Any) -> None:
    """Algorithm 1 and Eq. 6: the neighbour, the loss and its parameter gradient."""
    classifier, at = network(), batch()
    theta: list[Tensor] = list(classifier.parameters())
    objective = objectives.make("attributional", attack=ATTACK, beta=BETA, strength=LAMBDA, negative=negative)
    loss, parts, _ = objective(classifier, at, objective.start(), rng=torch.Generator().manual_seed(0))
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(0)))
    start = classifier.box.confine(at.x, LINF.sample(at.x, EPSILON, draw(seed, 0)))
    ce, attr = [], []
    for x, delta, y in zip(at.x, start, at.y.tolist(), strict=True):
        z = ((algorithm_1(theta, x, delta, y, negative) - 0.375) / 0.25).requires_grad_(True)
        ce.append(-f(theta, z, torch.relu).log_softmax(dim=0)[y])
        attr.append(L_attr(theta, z, y, negative))
    theirs = torch.stack(ce).mean() + LAMBDA * torch.stack(attr).mean()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-9)
    assert parts["attributional"] == pytest.approx(LAMBDA * torch.stack(attr).mean().item(), rel=1e-9)
    for one, other in zip(
        *(torch.autograd.grad(each, theta, materialize_grads=True) for each in (loss, theirs)), strict=True
    ):
        assert (one - other).norm() <= 1e-9 * other.norm()


# -- the authors' code, in its own notation ------------------------------------------------------------------


class Batchwise:
    """Two networks that share their weights and batch norm, one with ReLU (0) and one with softplus (1)."""

    def __init__(self) -> None:
        torch.manual_seed(4)
        first, norm, last = nn.Linear(30, 12).double(), nn.BatchNorm1d(12).double(), nn.Linear(12, 4).double()
        self.classifier = Classifier(nn.Sequential(first, norm, nn.ReLU(), last), mean=0.375, std=0.25).train()
        self.forward = self.classifier.network, nn.Sequential(first, norm, nn.Softplus(beta=BETA), last)
        self.theta: list[Tensor] = [*first.parameters(), *norm.parameters(), *last.parameters()]

    def g(self, x: Tensor, at: Tensor, kind: int, i: Tensor) -> Tensor:
        """d/d at of the logits i of x, which is made of `at`."""
        scores = self.forward[kind](x).gather(1, i[:, None]).mean()
        return torch.autograd.grad(scores, at, create_graph=True)[0]

    def i_star(self, x: Tensor, kind: int, y: Tensor) -> Tensor:
        """The highest class but y."""
        logits = self.forward[kind](x).detach()
        return torch.tensor([max((i for i in range(4) if i != k), key=row.__getitem__)
                             for row, k in zip(logits.tolist(), y.tolist(), strict=True)])  # fmt: skip


def normalize(x: Tensor) -> Tensor:
    return (x - 0.375) / 0.25


def k_top_attack(net: Batchwise, images: Tensor, adv: Tensor, y: Tensor, k_top: int) -> Tensor:
    """From the start `adv`: the elements are chosen there, by the ReLU network, once."""
    adv = adv.clone().requires_grad_(True)
    order = net.g(normalize(adv), adv, 0, y).abs().argsort(dim=1, descending=True)[:, :k_top]
    for _ in range(STEPS):
        adv = adv.detach().requires_grad_(True)
        x = normalize(adv)
        g1, g2 = net.g(x, adv, 1, y), net.g(x, adv, 1, net.i_star(x, 1, y))
        losses = []
        for row in range(len(y)):
            k = order[row]
            losses.append((1 + (d(g1[row, k], x[row, k]) - d(g2[row, k], x[row, k])).exp()).log())
        (slope,) = torch.autograd.grad(torch.stack(losses).mean(), adv)
        adv = adv + 5 / 255 * slope.sign()
        adv = torch.minimum(torch.maximum(adv, images - EPSILON), images + EPSILON).clamp(0, 1)
    return adv.detach()


def exemplar_loss(net: Batchwise, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """Through the whole matrix of 2B x 2B distances; of each row those to its own pair count, the worse of two."""
    z, y_ = normalize(torch.cat([x, x_adv])).requires_grad_(True), torch.cat([y, y])
    g1, g2 = net.g(z, z, 1, y_), net.g(z, z, 1, net.i_star(z, 1, y_))
    z, pair, losses = z.detach(), torch.arange(len(y)).repeat(2), []
    matrix_p, matrix_n = ([[d(g[j], z[i]) for j in range(len(z))] for i in range(len(z))] for g in (g1, g2))
    for i in range(len(z)):
        mine = [j for j in range(len(z)) if pair[j] == pair[i]]
        dist_ap = max((matrix_p[i][j] for j in mine), key=lambda t: t.item())
        dist_an = min((matrix_n[i][j] for j in mine), key=lambda t: t.item())
        losses.append((1 + (-(dist_an - dist_ap)).exp()).log())
    return torch.stack(losses).mean()


def test_published_is_the_authors_code() -> None:
    """Neighbours, loss and parameter gradient, with fewer elements than there are."""
    net, at = Batchwise(), batch(n=6, features=30)
    attack = f"pgd:norm=linf,radius={EPSILON},steps={STEPS},step=5/255,keep=last"
    loss, parts, _ = objectives.make("attributional", published=True, elements=8, attack=attack, beta=BETA)(
        net.classifier, at, {}, rng=torch.Generator().manual_seed(0)
    )
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(0)))
    start = at.x + net.classifier.box.confine(at.x, LINF.sample(at.x, EPSILON, draw(seed, 0)))
    x_adv = k_top_attack(net, at.x, start, at.y, k_top=8)
    exemplar = exemplar_loss(net, at.x, x_adv, at.y)
    theirs = cross_entropy(net.forward[0](normalize(x_adv)), at.y) + 0.5 * exemplar
    assert parts["attributional"] == pytest.approx(0.5 * exemplar.item(), rel=1e-9)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-9)
    assert gradients_differ(loss, theirs, net.theta) < 1e-9
    # Each of its departures from the text counts: without one the neighbours or the loss are others.
    for changed in ({"published": False}, {"elements": 30}, {"negative": "least"}):
        options = {"published": True, "elements": 8, "attack": attack, "beta": BETA, **changed}
        other = objectives.make("attributional", **options)(
            net.classifier, at, {}, rng=torch.Generator().manual_seed(0)
        )
        assert abs(other[0].item() - loss.item()) > 1e-6, changed


def test_published_steps_as_the_code_does() -> None:
    assert Attributional(published=True)._search.step == pytest.approx(5 / 255)
    assert Attributional()._search.step == pytest.approx(1.5 / 255)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"form": "l2"}, "published=true sets form=triplet"),
        ({"inner": "loss"}, "inner=attributional"),
        ({"anchor": "raw"}, "anchor=normalised"),
        ({"statistics": "running"}, "statistics=batch"),
        ({"attack": "apgd:steps=3"}, "needs the attack pgd"),
    ]
    for options, said in cases:
        with pytest.raises(SpecError, match=said):
            Attributional(published=True, **options)


# -- other forms, where the gradients are known --------------------------------------------------------------


def cos(a: Tensor, b: Tensor) -> float:
    return ((a @ b) / (a.norm() * b.norm())).item()


@pytest.mark.parametrize("anchor", ["raw", "normalised"])
def test_forms_on_a_linear_network_by_hand(anchor: Any) -> None:
    """There the gradient of logit i is row i of the weights, over std in data space."""
    mean, std = torch.tensor([0.4, 0.5]), torch.tensor([0.2, 0.3])
    W = torch.randn(3, 2 * 4, dtype=torch.float64)
    layer = nn.Linear(8, 3).double()
    with torch.no_grad():
        layer.weight.copy_(W)
    classifier = Classifier(nn.Sequential(nn.Flatten(), layer), mean=mean.tolist(), std=std.tolist())
    x, y = torch.rand(4, 2, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    scale = std.double().reshape(2, 1, 1).expand(2, 2, 2).flatten()
    for row in range(4):
        seen = ((x[row] - mean.double().reshape(2, 1, 1)) / std.double().reshape(2, 1, 1)).flatten()
        a = seen if anchor == "normalised" else x[row].flatten()
        G = W if anchor == "normalised" else W / scale
        others = [i for i in (W @ seen + layer.bias.detach()).argsort(descending=True).tolist() if i != y[row]]

        def size(row: int = row, **options: Any) -> float:
            goal = Misaligned(y=y[row : row + 1], anchor=anchor, **options)
            return goal.size(classifier, x[row : row + 1]).item()

        def triplet(j: int, G: Tensor = G, a: Tensor = a, own: Tensor = G[y[row]]) -> float:
            return math.log1p(math.exp(cos(G[j], a) - cos(own, a)))

        own = G[y[row]]
        assert size() == pytest.approx(triplet(others[0]))
        assert size(negative="least") == pytest.approx(triplet(others[-1]))
        assert size(form="cosine") == pytest.approx(1 - cos(own, a))
        assert size(form="l2") == pytest.approx((own - a).norm().item())
        assert size(form="direct", reference=(own + 1)[None]) == pytest.approx(math.sqrt(8))
        over = [values.reshape(2, 4).abs().mean(dim=0) for values in (own, a)]
        assert size(form="cosine", channels="mean_abs") == pytest.approx(1 - cos(*over))


def test_direct_leads_away_from_the_gradient_at_the_example() -> None:
    """Eq. 2, with both gradients trained: without a path from the second one the derivative would be another."""
    classifier, at = network("silu"), batch()
    loss, moved = value(Attributional(attack=ATTACK, form="direct", strength=1.0), classifier, at)

    def own(x: Tensor) -> Tensor:
        x = ((x - 0.375) / 0.25).requires_grad_(True)
        return torch.autograd.grad(classifier.network(x).gather(1, at.y[:, None]).sum(), x, create_graph=True)[0]

    theirs = (own(moved) - own(at.x)).norm(dim=1).mean()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-9)
    parameters = list(classifier.parameters())
    for one, other in zip(
        *(torch.autograd.grad(each, parameters, materialize_grads=True) for each in (loss, theirs)), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["triplet", "cosine", "l2", "direct"])
def test_a_network_whose_gradient_is_zero_has_a_loss_and_a_derivative(form: Any) -> None:
    classifier = Classifier("linear:features=6,classes=4,zero=true").double().train()
    loss, _ = value(Attributional(attack=ATTACK, form=form), classifier, batch())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in classifier.parameters())


# -- the derivative ------------------------------------------------------------------------------------------


def residual(activation: str = "relu") -> Classifier:
    torch.manual_seed(3)
    spec = f"preact_resnet:depth=8,widths=4-6-8,channels=2,classes=4,activation={activation}"
    classifier = Classifier(spec, mean=[0.4, 0.5], std=[0.25, 0.3]).double().train()
    for parameter in classifier.parameters():
        if parameter.ndim == 4 and not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    for layer in classifier.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1), layer.running_var.uniform_(0.5, 2)  # pyright: ignore
    return classifier


def pictures(n: int = 6) -> Batch:
    x = torch.rand(n, 2, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Batch(x=x, y=torch.arange(n) % 4, index=torch.arange(n))


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("beta", [10.0, 50.0])
def test_its_parameter_gradient_is_the_slope_of_its_value(statistics: Any, beta: float) -> None:
    """Central differences along random directions of all weights, in both modes of batch norm."""
    classifier, at = residual(), pictures()
    term = Attributional(inner="none", statistics=statistics, beta=beta, strength=1.0)
    loss, _ = value(term, classifier, at)
    parameters = list(classifier.parameters())
    slopes = torch.autograd.grad(loss, parameters, materialize_grads=True)
    for seed in range(3):
        rng = torch.Generator().manual_seed(seed)
        way = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
        ends = []
        for h in (1e-6, -1e-6):
            moved = copy.deepcopy(classifier)
            with torch.no_grad():
                for p, v in zip(moved.parameters(), way, strict=True):
                    p.add_(h * v)
            ends.append(value(term, moved, at)[0].item())
        expected = sum((slope * v).sum().item() for slope, v in zip(slopes, way, strict=True))
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-4)


def test_a_relu_network_has_a_slope_for_the_search_only_when_softened() -> None:
    """The gradient of its logits is constant piece by piece; what is left is that the anchor moves."""
    classifier, at = residual().eval(), pictures()
    search = attacks.build("pgd:norm=linf,radius=0.03,steps=5,random_start=false")
    found = {}
    for beta in (0.0, 50.0):
        goal = Misaligned.at(classifier, at.x, at.y, form="direct", beta=beta)
        found[beta] = search(classifier, at.x + 1e-3, goal)
    assert found[0.0].flat.all()
    assert not found[50.0].flat.any()


# -- the search ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["attributional", "both", "loss"])
def test_the_search_raises_what_it_says(inner: Any) -> None:
    """More than at random points of the ball; the network of the search is in evaluation mode."""
    classifier, at = residual("silu"), pictures(16)
    term = Attributional(attack="pgd:norm=linf,radius=0.05,steps=8,step=0.01,keep=best", inner=inner)
    modes = []
    hook = classifier.network.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    step = Step(classifier=classifier, batch=at, seed=0)
    with step.seeded():
        moved = term.alter(step)
    hook.remove()
    assert not any(modes)
    assert (moved - at.x).abs().amax() <= 0.05 + 1e-9

    def rises(x: Tensor) -> Tensor:
        with classifier.frozen():
            size, loss = Misaligned(y=at.y).size(classifier, x), cross_entropy(classifier(x), at.y, reduction="none")
        return {"attributional": size, "both": size + loss, "loss": loss}[inner].detach()

    noise = [(at.x + 0.05 * torch.empty_like(at.x).uniform_(-1, 1)).clamp(0, 1) for _ in range(30)]
    assert (rises(moved) > torch.stack([rises(x) for x in noise]).amax(dim=0)).all()


def test_without_a_strength_the_search_is_all() -> None:
    """Cross-entropy at the same neighbours; nothing else."""
    classifier, at = network(), batch()
    whole, bare = (
        objectives.make("attributional", attack=ATTACK, strength=strength)(
            classifier, at, {}, rng=torch.Generator().manual_seed(0)
        )
        for strength in (0.5, 0)
    )
    assert bare[0].item() == pytest.approx(whole[1]["cross_entropy"], rel=1e-12)
    assert bare[1] == {**whole[1], "attributional": 0.0}


def test_without_a_search_nothing_is_altered() -> None:
    at = batch()
    assert torch.equal(value(Attributional(inner="none"), network(), at)[1], at.x)


# -- what surrounds it ---------------------------------------------------------------------------------------


def test_weights_count_and_compiled_code_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: nn.Module, **_: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", broken)
    classifier, at, term = network(), batch(2), Attributional(attack=ATTACK)
    weighted = Batch(x=at.x, y=at.y, weight=torch.tensor([0.5, 2.0], dtype=torch.float64))
    each = [value(term, classifier, Batch(x=at.x[i : i + 1], y=at.y[i : i + 1]))[0] for i in range(2)]
    with classifier.accelerated(compiled=True):
        assert value(term, classifier, weighted)[0].item() == pytest.approx((0.5 * each[0] + 2 * each[1]).item() / 2)


def test_activations_that_are_functions_are_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)))

    classifier = Classifier(Functional().double()).train()
    with pytest.raises(InputError, match="module"):
        value(Attributional(attack=ATTACK), classifier, batch())
    assert torch.isfinite(value(Attributional(attack=ATTACK, beta=0), classifier, batch())[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strength": -1.0}, "at least 0"),
        ({"beta": -1.0}, "at least 0"),
        ({"attack": "pdg"}, "did you mean 'pgd'"),
        ({"form": "tripled"}, "triplet"),
        ({"inner": "attribution"}, "attributional"),
        ({"statistics": "none"}, "running"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Attributional(**options)


@pytest.mark.slow
def test_training_with_it_turns_gradients_towards_the_input(toys: SimpleNamespace) -> None:
    """L_attr on held-out rows is lower than after ordinary training, and the answers are as right."""
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(2, (256,), generator=rng)
    x = (0.5 + (2 * y - 1)[:, None] * 0.15 + 0.15 * torch.randn(256, 12, generator=rng)).clamp(0, 1)
    data, held_out = Batch(x=x[:128], y=y[:128]), Batch(x=x[128:], y=y[128:])
    sizes, right = [], []
    for terms in ("natural", "attributional:strength=2,attack=(pgd:norm=linf,radius=0.03,steps=2)"):
        torch.manual_seed(0)
        classifier = Classifier("mlp:features=12,classes=2,widths=16,activation=relu", mean=0.5, std=0.2).train()
        objective, optimiser = objectives.build(terms), torch.optim.Adam(classifier.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            objective(classifier, data, objective.start(), rng=rng)[0].backward()
            optimiser.step()
        sizes.append(Misaligned(y=held_out.y).size(classifier, held_out.x).mean().item())
        right.append((classifier.predict(held_out.x).argmax(dim=1) == held_out.y).double().mean().item())
    assert sizes[1] < 0.8 * sizes[0]
    assert min(right) > 0.95


def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The random start belongs to step and example."""
    data = open_dataset("digits", split="train", max_samples=64)
    recipe = recipe_from(
        {
            "network": "small_cnn:widths=4-4-4,activation=relu", "epochs": 2, "batch_size": 32, "robust_every": 0,
            "objective": "attributional:attack=(pgd:norm=linf,radius=8/255,steps=1,keep=last)",
        }
    )  # fmt: skip
    training.train(recipe, data, tmp_path / "whole")
    seen: list[int] = []
    with pytest.raises(training.Interrupted):
        training.train(
            recipe, data, tmp_path / "broken", stop=lambda: len(seen) == 3,
            report=lambda line: None if "epoch" in line else seen.append(line["step"]),
        )  # fmt: skip
    training.train(recipe, data, tmp_path / "broken", resume=True)
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(tensor, broken[name]) for name, tensor in whole.items())
