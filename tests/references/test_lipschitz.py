"""The stochastic Lipschitz penalty (Woods et al. 2019, Eq. 9, Sec. III-B) once more, slowly, in the paper's symbols."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.objectives import Lipschitz, Step
from advex.randomness import uniform_for
from advex.types import Batch
from advex.waits import on_host

V = 4


def mixed(dtype: torch.dtype = torch.float64) -> Classifier:
    """Batch norm in training mode: the outputs of one image depend on the pixels of all."""
    network = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Tanh(),
        nn.Linear(5, V),
    )  # fmt: skip
    return Classifier(network.to(dtype), mean=[0.4, 0.5], std=[0.5, 0.3], class_names=[*"abcd"]).train()


def separate(dtype: torch.dtype = torch.float64) -> Classifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.SiLU(), nn.Linear(6, V))
    return Classifier(network.to(dtype), mean=0.4, std=0.5, class_names=[*"abcd"]).train()


@pytest.fixture
def batch() -> Batch:
    return Batch(
        x=torch.rand(5, 2, 3, 3, dtype=torch.float64), y=torch.tensor([0, 3, 1, 1, 2]), index=torch.arange(40, 45)
    )


def draws(index: int, t: int, seed: int, K: int, zeta: float) -> tuple[list[int], bool]:
    """v_1..v_K without replacement; with probability zeta the true class t comes first, for certain."""
    u = uniform_for(torch.tensor([index]), seed, "lipschitz", V + 1)[0].tolist()
    v = sorted(range(V), key=lambda c: u[c])
    certain = u[V] < zeta
    if certain:
        v.remove(t)
        v.insert(0, t)
    return v[:K], certain


def L_adv(f: Classifier, batch: Batch, seed: int, options: dict[str, Any]) -> Tensor:
    """psi / (K N) sum_k sum_j (sum_l |dy/dx_l|)^q |dy/dx_j|^z, mean over images; loops over images, k and j.

    The output of an image is moved by the pixels of all images where batch norm mixes them; what is
    penalised is how a pixel moves the sum of all chosen outputs.
    """
    usual = {"psi": 220.0, "outputs": 1, "z": 2.0, "q": 0.0, "dead_zone": 0.0, "zeta": 0.0, "tandem": "none"}
    o = SimpleNamespace(**usual | options)
    assert batch.index is not None
    n, K, N = len(batch), o.outputs, batch.x[0].numel()
    x = batch.x.clone().requires_grad_(True)
    y = f.logits(x)
    # dy[i][c] is [n, N]: how output c of image i follows each pixel of each image.
    dy = [[torch.autograd.grad(y[i, c], x, create_graph=True)[0].reshape(n, N) for c in range(V)] for i in range(n)]
    drawn = [draws(int(batch.index[i]), int(batch.y[i]), seed, K, o.zeta) for i in range(n)]
    L = torch.zeros((), dtype=x.dtype)
    for k in range(K):
        follows = torch.zeros(n, N, dtype=x.dtype)
        for i in range(n):
            v, certain = drawn[i]
            follows = follows + dy[i][v[k]]
            if k == 0 and certain and o.tandem != "none":
                t = int(batch.y[i])
                best = max((c for c in range(V) if c != t), key=lambda c: y[i, c].item())
                follows = follows + {"difference": -1, "sum": 1}[o.tandem] * dy[i][best]
        for i in range(n):
            steep = [max(abs(follows[i, j].item()) - o.dead_zone, 0.0) for j in range(N)]
            kept = [(follows[i, j].abs() - o.dead_zone) if steep[j] > 0 else torch.zeros(()) for j in range(N)]
            everything = sum(kept, start=torch.zeros(()))
            for j in range(N):
                power = kept[j] ** o.z if o.z else torch.ones(())
                L = L + o.psi / (K * N) * (everything**o.q if o.q else 1.0) * power / n
    return L


FORMS = [
    {},
    {"z": 1.0},
    {"z": 5.0, "psi": 0.55},
    {"z": 0.0, "q": 2.0},
    {"z": 1.0, "q": 1.0},
    {"z": 2.0, "q": 2.0},
    {"dead_zone": 0.05},
    {"dead_zone": 0.05, "z": 1.0, "q": 1.0},
    {"zeta": 0.5},
    {"zeta": 1.0},
    {"outputs": 2},
    {"outputs": V},
    {"outputs": 3, "zeta": 0.6, "tandem": "difference"},
    {"zeta": 0.6, "tandem": "difference"},
    {"zeta": 0.6, "tandem": "sum"},
    {"outputs": V, "zeta": 1.0, "tandem": "difference", "z": 4.0, "q": 1.0, "dead_zone": 0.01},
]


@pytest.mark.parametrize("options", FORMS, ids=lambda form: ",".join(f"{key}={value}" for key, value in form.items()))
@pytest.mark.parametrize("make", [separate, mixed])
def test_value_and_parameter_gradient_are_the_papers(make: Any, options: dict[str, Any], batch: Batch) -> None:
    f, seed = make(), 7
    step = Step(classifier=f, batch=batch, seed=seed)
    with step.seeded():
        loss, parts, _ = Lipschitz(**options)(step, {"integral": 0.0})
    slow = L_adv(f, batch, seed, options)
    # Sums of the same numbers in another order.
    assert loss.item() == pytest.approx(slow.item(), rel=1e-10)
    assert parts["lipschitz"] == pytest.approx(slow.item(), rel=1e-10)
    assert slow > 0
    parameters = list(f.parameters())
    ours, papers = (torch.autograd.grad(value, parameters, materialize_grads=True) for value in (loss, slow))
    largest = max(gradient.abs().amax() for gradient in papers)
    for one, other in zip(ours, papers, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10 * largest.item())


def test_the_parameter_gradient_is_that_of_the_value(batch: Batch) -> None:
    """No second derivative of torch's is trusted: the replica's value is taken at moved parameters."""
    f, options = mixed(), {"outputs": 2, "zeta": 0.5, "tandem": "difference", "z": 3.0}
    step = Step(classifier=f, batch=batch, seed=7)
    with step.seeded():
        loss, _, _ = Lipschitz(**options)(step, {"integral": 0.0})
    parameters = list(f.parameters())
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    h = 1e-5
    for _ in range(3):
        ways = [torch.randn_like(parameter) for parameter in parameters]
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, way in zip(parameters, ways, strict=True):
                    parameter.add_(sign * h * way)
            values.append(L_adv(f, batch, 7, options).item())
            with torch.no_grad():
                for parameter, way in zip(parameters, ways, strict=True):
                    parameter.sub_(sign * h * way)
        slope = sum((gradient * way).sum().item() for gradient, way in zip(gradients, ways, strict=True))
        # Central differences: an error of h^2 times a third derivative, and rounding over h.
        assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-6)


# -- known answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [1.0, 2.0, 3.0])
def test_of_a_linear_network_it_is_the_weights_norm(z: float, toys: SimpleNamespace) -> None:
    """Sec. III-C: dy/dx is the weight matrix, so with K = V outputs L_adv = psi / (V N) sum |w|^z."""
    weight = torch.randn(V, 12, dtype=torch.float64)
    f = toys.affine(weight, torch.randn(V))
    batch = Batch(x=torch.rand(3, 3, 2, 2, dtype=torch.float64), y=torch.tensor([0, 1, 2]))
    step = Step(classifier=f, batch=batch, seed=0)
    loss, _, _ = Lipschitz(psi=7.0, outputs=V, z=z)(step, {"integral": 0.0})
    assert loss.item() == pytest.approx(7.0 / (V * 12) * weight.abs().pow(z).sum().item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, f.network[1].weight)
    assert torch.allclose(gradient, 7.0 / (V * 12) * z * weight.abs().pow(z - 1) * weight.sign(), rtol=1e-10)


class Bowls(nn.Module):
    """y_c = a_c |x|^2 / 2, so that dy_c/dx_j = a_c x_j."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(dim=1, keepdim=True) / 2 * self.a


@pytest.mark.parametrize("derivative", ["exact", "finite_difference"])
def test_of_a_quadratic_network_it_is_known(derivative: Any) -> None:
    """L_adv = psi / (V N) sum_c a_c^2 |x|^2, and its derivative by a_c is 2 psi a_c |x|^2 / (V N)."""
    network = Bowls()
    f = Classifier(network).train()
    x = torch.rand(6, 10, dtype=torch.float64)
    step = Step(classifier=f, batch=Batch(x=x, y=torch.arange(6) % V), seed=0)
    term = Lipschitz(psi=3.0, outputs=V, derivative=derivative, probe=1e-7)
    loss, _, _ = term(step, {"integral": 0.0})
    square = x.square().sum(dim=1).mean()
    assert loss.item() == pytest.approx((3.0 / (V * 10) * network.a.square().sum() * square).item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, network.a)
    # A finite difference is off by about its probe, and by rounding over it.
    close = 1e-10 if derivative == "exact" else 1e-6
    assert torch.allclose(gradient, 2 * 3.0 / (V * 10) * network.a.detach() * square, rtol=close)


def test_n_counts_input_elements_and_the_batch_is_averaged(toys: SimpleNamespace) -> None:
    """The same image twice, or twice as many pixels of the same slope: the same loss."""
    row = torch.full((2, 3), 0.5, dtype=torch.float64)
    narrow, wide = toys.affine(row, torch.zeros(2)), toys.affine(torch.cat([row, row], dim=1), torch.zeros(2))
    losses = []
    for f, shape in ((narrow, (1, 3)), (narrow, (5, 3)), (wide, (5, 6))):
        batch = Batch(x=torch.rand(shape, dtype=torch.float64), y=torch.zeros(shape[0], dtype=torch.int64))
        losses.append(Lipschitz(psi=8.0)(Step(classifier=f, batch=batch, seed=0), {"integral": 0.0})[0].item())
    assert losses == pytest.approx([8.0 * 0.25] * 3)


# -- draws -------------------------------------------------------------------------------------------------

MANY = 20_000


def drawn_by(term: Lipschitz, classes: int, y: Tensor, seed: int = 0) -> Tensor:
    """The outputs that the scores read, [n, K]; `together` counts are in their values, see `tandem`."""
    f = Classifier("linear:features=2", class_names=[str(c) for c in range(classes)])
    step = Step(classifier=f, batch=Batch(x=torch.zeros(len(y), 2), y=y, index=torch.arange(len(y))), seed=seed)
    logits = torch.arange(float(classes)).expand(len(y), classes)
    return torch.stack([score(logits, logits) for score in term._scores(step)], dim=1)


def within(count: Tensor | int, probability: float, n: int = MANY) -> bool:
    """Whether a count lies within 4.5 standard deviations of its binomial distribution (one in 150,000 does not)."""
    return abs(int(count) - n * probability) <= 4.5 * math.sqrt(n * probability * (1 - probability))


@pytest.mark.parametrize("zeta", [0.0, 0.2, 0.8])
def test_the_first_output_is_the_true_class_zeta_of_the_time_and_else_uniform(zeta: float) -> None:
    """ "(including the correct label) the rest of the time": P(v_1 = t) = zeta + (1 - zeta) / V."""
    for t in (0, 3):
        first = drawn_by(Lipschitz(zeta=zeta), 5, torch.full((MANY,), t))[:, 0]
        for c in range(5):
            assert within((first == c).sum(), (zeta if c == t else 0) + (1 - zeta) / 5), (t, c)


def test_outputs_are_drawn_without_replacement_and_pairs_are_equally_frequent() -> None:
    drawn = drawn_by(Lipschitz(outputs=3), 4, torch.zeros(MANY, dtype=torch.int64))
    assert all(len(set(row)) == 3 for row in drawn[:2000].tolist())
    for first, second in itertools.permutations(range(4), 2):
        assert within(((drawn[:, 0] == first) & (drawn[:, 1] == second)).sum(), 1 / 12)


def test_all_outputs_are_drawn_once_when_k_is_v() -> None:
    drawn = drawn_by(Lipschitz(outputs=4, zeta=0.5), 4, torch.ones(500, dtype=torch.int64))
    assert torch.equal(drawn.sort(dim=1).values, torch.arange(4.0).expand(500, 4))


def test_steps_draw_anew_and_one_from_the_other_tells_nothing() -> None:
    y = torch.zeros(MANY, dtype=torch.int64)
    first, second = (drawn_by(Lipschitz(), 4, y, seed)[:, 0] for seed in (1, 2))
    for a, b in itertools.product(range(4), repeat=2):
        assert within(((first == a) & (second == b)).sum(), 1 / 16)


@pytest.mark.parametrize(("tandem", "sign"), [("difference", -1), ("sum", 1)])
def test_tandem_acts_on_rows_whose_true_class_is_certain_alone(tandem: Any, sign: int) -> None:
    """Logits 0..4 and t = 2: y_t alone is 2, with the best of the others, 4, it is 2 + sign 4."""
    values = drawn_by(Lipschitz(zeta=0.3, tandem=tandem), 5, torch.full((MANY,), 2))[:, 0]
    assert within((values == 2 + 4 * sign).sum(), 0.3)
    assert within((values == 2).sum(), 0.7 / 5)
    best = drawn_by(Lipschitz(zeta=1.0, tandem=tandem), 5, torch.full((3,), 4))[:, 0]
    assert best.tolist() == [4 + 3 * sign] * 3  # t itself is the best: 3 is the best of the others


# -- adaptive psi ------------------------------------------------------------------------------------------


class Answer(nn.Module):
    """The same logits for every input; their weight is in the graph."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = nn.Parameter(torch.tensor(margin, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.margin + 0 * x[:, 0], 0 * x[:, 0]], dim=1)


def margin_of(loss: float) -> float:
    """The logit difference at which the cross-entropy of two classes is `loss`."""
    return -math.log(math.expm1(loss)) if loss else math.inf


def psi_after(losses: list[float], batch_size: int, term: Lipschitz) -> list[float]:
    """psi at each step, when the cross-entropy of the steps is `losses`."""
    state, told = term.start(), []
    for loss in [*losses, 1.0]:
        f = Classifier(Answer(margin_of(loss) if loss else 1e9)).train()
        batch = Batch(x=torch.rand(batch_size, 2, dtype=torch.float64), y=torch.zeros(batch_size, dtype=torch.int64))
        step = Step(classifier=f, batch=batch, seed=0)
        with step.seeded():
            _, parts, after = term(step, state)
        state = term.advanced(on_host(after), batch_size)
        told.append(parts["psi"])
    return told


def controller(losses: list[float], target: float, psi_0: float = 220.0) -> list[float]:
    """The authors': psi = psi_0 exp(0.02 sum), sum += clip(-ln(L / L_target), -0.01, +1), never below 0; per batch."""
    total, told = 0.0, [psi_0]
    for loss in losses:
        step = min(max(-math.log(loss / target), -0.01), 1.0) if loss else 1.0
        total = max(0.0, total + step)
        told.append(psi_0 * math.exp(0.02 * total))
    return told


LOSSES = [2.3, 1.2, 0.9, 0.2, 0.05, 0.0, 5.0, 1.007, 1.5, 0.8, 0.8, 3.0]


def test_psi_follows_the_authors_controller_at_their_batch_size() -> None:
    term = Lipschitz(target=1.007)
    assert psi_after(LOSSES, 128, term) == pytest.approx(controller(LOSSES, 1.007), rel=1e-9)


def test_psi_by_hand() -> None:
    """A loss of a third: ln 3 is cut to 1, psi grows by e^0.02; at the target it stays; ten times it, by e^-0.0002."""
    told = psi_after([1 / 3, 1.0, 10.0], 128, Lipschitz(psi=220.0, target=1.0))
    assert told == pytest.approx([220.0, 220 * 1.02020134, 220 * 1.02020134, 220 * 1.02020134 * 0.99980002], rel=1e-8)


@pytest.mark.parametrize("batch_size", [1, 32, 256])
def test_psi_after_an_epoch_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    """256 examples at one loss: growth per example, however many a step has."""
    term = Lipschitz(target=1.0)
    told = psi_after([0.6] * (256 // batch_size), batch_size, term)
    assert told[-1] == pytest.approx(220 * math.exp(0.02 * 2 * math.log(1 / 0.6)), rel=1e-9)


def test_psi_is_never_below_its_start() -> None:
    assert psi_after([50.0] * 5, 8, Lipschitz(psi=3.0, target=0.1)) == [3.0] * 6


def test_without_a_target_psi_stays_and_the_state_too() -> None:
    assert psi_after([0.01] * 3, 8, Lipschitz(psi=3.0)) == [3.0] * 4


def test_the_state_goes_on_where_it_was() -> None:
    term = Lipschitz(target=1.0)
    whole = psi_after(LOSSES, 16, term)
    f = Classifier(Answer(margin_of(0.4))).train()
    state = {"integral": 128 * math.log(whole[5] / 220) / 0.02}
    step = Step(classifier=f, batch=Batch(x=torch.rand(16, 2).double(), y=torch.zeros(16).long()), seed=0)
    _, parts, _ = term(step, state)
    assert parts["psi"] == pytest.approx(whole[5], rel=1e-9)


def test_a_target_that_is_never_met_ends_in_an_infinite_loss_not_in_an_overflow(toys: SimpleNamespace) -> None:
    f = toys.affine(torch.ones(2, 3, dtype=torch.float64), torch.zeros(2))
    step = Step(classifier=f, batch=Batch(x=torch.rand(4, 3).double(), y=torch.zeros(4).long()), seed=0)
    loss, _, _ = Lipschitz(psi=1e10, target=100.0)(step, {"integral": 1e9})
    assert loss.isinf()
