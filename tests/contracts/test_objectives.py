"""Laws of every registered term of a training objective, alone and together."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advex import objectives, registry
from advex.classifier import Classifier
from advex.errors import InputError, SpecError
from advex.objectives import Adversarial, InputTransform, Natural, Noise, Objective, Regulariser, Step
from advex.types import Batch

TERMS = registry.entries("objective")
SPECS = [spec for name, entry in TERMS.items() for spec in (name, *(f"{name}:{each}" for each in entry.examples))]
EVERY = pytest.mark.parametrize("term", SPECS)


def transforms(term: object) -> bool:
    """Whether a term changes examples."""
    return isinstance(term, InputTransform)


REGULARISERS = [name for name in TERMS if isinstance(registry.make("objective", name), Regulariser)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """Convolution, batch norm, dropout. `calls_left` passes succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        )
        self.head = nn.Linear(4, 3)
        self.calls_left = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise OSError("the network broke")
        return self.head(torch.tanh(self.body(x)).square().mean(dim=(2, 3)))


@pytest.fixture
def clf() -> Classifier:
    """In training mode; its class names are not known."""
    return Classifier(Net().double()).train()


@pytest.fixture
def batch() -> Batch:
    return Batch(
        x=torch.rand(8, 2, 6, 6, dtype=torch.float64),
        y=torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]),
        index=torch.arange(100, 108),
    )


def loss_of(objective: Objective, clf: Classifier, batch: Batch, seed: int = 0) -> tuple[Tensor, dict[str, float]]:
    return objective(clf, batch, objective.start(), rng=rng(seed))[:2]


# -- each alone --------------------------------------------------------------------------------------------


@EVERY
def test_the_loss_reaches_every_weight(term: str, clf: Classifier, batch: Batch) -> None:
    loss, parts = loss_of(objectives.build(term), clf, batch)
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    loss.backward()
    for name, parameter in clf.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    assert parts
    assert all(isinstance(value, float) and value == value for value in parts.values())
    assert batch.x.grad is None
    assert not batch.x.requires_grad


@EVERY
def test_batch_norm_records_one_pass_with_its_own_moments(term: str, clf: Classifier, batch: Batch) -> None:
    recorded: list[tuple[nn.Module, Tensor]] = []

    def look(layer: Any, inputs: tuple[Tensor]) -> None:
        if layer.training and layer.track_running_stats:
            recorded.append((layer, inputs[0].detach()))

    layers: list[Any] = [layer for layer in clf.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    loss_of(objectives.build(term), clf, batch)
    for hook in hooks:
        hook.remove()
    assert [layer for layer, _ in recorded] == layers
    for layer, (_, values) in zip(layers, recorded, strict=True):
        variance, mean = torch.var_mean(values, dim=(0, 2, 3))
        assert layer.num_batches_tracked.item() == 1
        assert torch.allclose(layer.running_mean, 0.1 * mean, rtol=1e-12)
        assert torch.allclose(layer.running_var, 0.9 + 0.1 * variance, rtol=1e-12)


@pytest.mark.parametrize(
    "term", [spec for spec in SPECS if not isinstance(registry.build("objective", spec), InputTransform)]
)
def test_running_statistics_are_those_of_a_plain_pass(term: str, clf: Classifier, batch: Batch) -> None:
    """For terms that change no examples. A finite difference takes its loss a hair beside them."""
    clf.network.body[3].eval()  # pyright: ignore  # dropout
    plain = copy.deepcopy(clf)
    loss_of(objectives.build(term), clf, batch)
    plain.network(batch.x)
    close = 1e-2 if "finite_difference" in term else 1e-12
    for buffer, other in zip(clf.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(buffer, other, rtol=close)


def snapshot(clf: Classifier) -> dict[str, Any]:
    """What a term may not change, successful or not."""
    state: dict[str, Any] = {"rng": torch.get_rng_state().tolist(), "grad mode": torch.is_grad_enabled()}
    for name, parameter in clf.named_parameters():
        state[name] = (id(parameter), parameter.tolist(), parameter.requires_grad, parameter.grad is None)
    for name, module in clf.named_modules():
        kept = {key: value for key, value in vars(module).items() if key not in ("calls_left", "_buffers")}
        state[f"{name} attributes"] = {key: repr(value) for key, value in kept.items()}
    return state


@EVERY
@pytest.mark.parametrize("calls", [10**9, 0, 1, 2, 3])
def test_nothing_else_changes_also_when_the_network_breaks(
    term: str, calls: int, clf: Classifier, batch: Batch
) -> None:
    """Modes, flags, attributes, gradients, the global generator; the class of a frozen weight too."""
    clf.network.head.bias.requires_grad_(False)  # pyright: ignore
    clf.network.body[0].eval()  # pyright: ignore
    clf.network.calls_left = calls  # pyright: ignore
    objective, before, kept = objectives.build(term), snapshot(clf), batch.x.clone()
    if calls == 10**9:
        loss_of(objective, clf, batch)
    else:
        with contextlib.suppress(OSError):  # how many passes a term makes is its own affair: some are done by then
            loss_of(objective, clf, batch)
    assert snapshot(clf) == before
    assert torch.equal(batch.x, kept)


@EVERY
def test_the_same_generator_gives_the_same_loss_and_nothing_hides_in_the_terms(
    term: str, clf: Classifier, batch: Batch
) -> None:
    objective = objectives.build(term)
    kept, state = copy.deepcopy(objective), objective.start()
    first = objective(copy.deepcopy(clf), batch, dict(state), rng=rng(1))
    again = objective(copy.deepcopy(clf), batch, dict(state), rng=rng(1))
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert objective == kept
    assert state == objective.start()


@EVERY
def test_an_example_is_treated_alike_wherever_it_stands(term: str, clf: Classifier, batch: Batch) -> None:
    """Draws belong to examples. Both halves are shuffled within themselves: `share` attacks the first."""
    clf.network.body[3].eval()  # pyright: ignore  # dropout belongs to positions
    objective = objectives.build(term)
    order = torch.tensor([2, 0, 3, 1, 7, 4, 6, 5])
    assert batch.index is not None
    shuffled = Batch(x=batch.x[order], y=batch.y[order], index=batch.index[order])
    loss, parts = loss_of(objective, copy.deepcopy(clf), batch)
    other, same_parts = loss_of(objective, copy.deepcopy(clf), shuffled)
    assert other.item() == pytest.approx(loss.item(), rel=1e-9)  # sums in another order
    assert same_parts == pytest.approx(parts, rel=1e-9)


@pytest.mark.slow
@EVERY
def test_descending_it_lowers_it(term: str, toys: SimpleNamespace, batch: Batch) -> None:
    clf = toys.mlp((2, 6, 6)).train()
    objective = objectives.build(term)
    optimiser = torch.optim.SGD(clf.parameters(), lr=0.05)
    state, losses = objective.start(), []
    for _ in range(40):
        optimiser.zero_grad()
        loss, _, state = objective(clf, batch, state, rng=rng())
        loss.backward()
        nn.utils.clip_grad_norm_(clf.parameters(), 1.0)  # the default psi is strong for so steep a network
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# -- odd batches and networks ------------------------------------------------------------------------------


@EVERY
def test_names_of_classes_make_no_difference(term: str, clf: Classifier, batch: Batch) -> None:
    named = Classifier(copy.deepcopy(clf.network), class_names=[*"abc"]).train()
    assert loss_of(objectives.build(term), named, batch)[1] == loss_of(objectives.build(term), clf, batch)[1]


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_a_table_and_a_single_example(term: str, dtype: torch.dtype) -> None:
    clf = Classifier("mlp:features=5,classes=3,widths=6", box=(-3.0, 3.0)).to(dtype).train()
    for n in (1, 4):
        batch = Batch(x=torch.randn(n, 5, dtype=dtype).clamp(-3, 3), y=torch.arange(n) % 3)
        loss, parts = loss_of(objectives.build(term), clf, batch)
        loss.backward()
        assert loss.dtype == dtype
        assert torch.isfinite(loss)
        assert all(value == value for value in parts.values())


@EVERY
def test_a_batch_of_one_picture(term: str, clf: Classifier, batch: Batch) -> None:
    loss, _ = loss_of(objectives.build(term), clf, Batch(x=batch.x[:1], y=batch.y[:1]))
    loss.backward()
    assert torch.isfinite(loss)


@EVERY
def test_an_empty_batch_is_refused(term: str, clf: Classifier, batch: Batch) -> None:
    with pytest.raises(InputError, match="the batch is empty"):
        loss_of(objectives.build(term), clf, Batch(x=batch.x[:0], y=batch.y[:0]))


@EVERY
def test_a_weight_that_is_not_a_number_shows_in_the_loss(term: str, clf: Classifier, batch: Batch) -> None:
    """Nothing on the way takes it for zero: the loop must see it. The loss says it, and no warning (an error here)."""
    with torch.no_grad():
        clf.network.body[4].weight[0, 0, 0, 0] = torch.nan  # pyright: ignore
    assert loss_of(objectives.build(term), clf, batch)[0].isnan()


# -- together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", list(itertools.combinations(TERMS, 2)), ids="-".join)
def test_two_terms_combine_in_either_order_and_add_up(names: tuple[str, str], clf: Classifier, batch: Batch) -> None:
    for order in (names, names[::-1]):
        loss, parts = loss_of(objectives.build(dict.fromkeys(order)), clf, batch)
        added = [parts[name] for name in names if name in REGULARISERS and name != "natural"]
        assert loss.item() == pytest.approx(sum(added) + parts["cross_entropy"], rel=1e-12)
        loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in clf.parameters())


def test_each_regulariser_is_what_it_is_alone(clf: Classifier, batch: Batch) -> None:
    adding = [name for name in REGULARISERS if not transforms(registry.make("objective", name))]
    alone = [loss_of(objectives.build(name), copy.deepcopy(clf), batch)[1] for name in adding]
    _, together = loss_of(objectives.build(dict.fromkeys(adding)), clf, batch)
    for parts in alone:
        assert {name: together[name] for name in parts} == pytest.approx(parts, rel=1e-12)


@dataclasses.dataclass(frozen=True)
class Seen:
    """An input transform that changes nothing and keeps what it sees."""

    seen: list[Tensor]

    def alter(self, step: Step) -> Tensor:
        self.seen.append(step.x.clone())
        return step.x


def test_input_transforms_act_in_the_order_given(clf: Classifier, batch: Batch) -> None:
    seen: list[Tensor] = []
    noise, attack = Noise(std=0.05, clip=True), Adversarial(attack="pgd:norm=linf,radius=0.1,steps=3", share=0.5)
    for terms in ({"noise": noise, "adversarial": attack}, {"adversarial": attack, "noise": noise}):
        first, second = terms.values()
        objective = Objective({"before": Seen(seen), "one": first, "x": Seen(seen), "two": second, "y": Seen(seen)})
        with pytest.raises(RuntimeError):  # nothing is added to the loss
            loss_of(objective, clf, batch)
    clean, noisy, both, clean_again, attacked, other = seen
    assert torch.equal(clean, batch.x)
    assert torch.equal(clean_again, batch.x)
    assert (noisy != clean).flatten(1).any(dim=1).all()
    assert (attacked != clean).flatten(1).any(dim=1).tolist() == [True] * 4 + [False] * 4
    assert (attacked - clean).abs().amax() <= 0.1 + 1e-9
    assert (both - noisy).abs().amax() <= 0.1 + 1e-9  # around the noisy example
    assert torch.equal(both[4:], noisy[4:])
    assert not torch.equal(other, both)


def test_a_term_of_ones_own_needs_no_registration(clf: Classifier, batch: Batch) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Confidence:
        strength: float = 0.5

        def start(self) -> dict[str, float]:
            return {"steps": 0.0}

        def __call__(self, step: Step, state: dict[str, float]) -> tuple[Tensor, dict[str, float], dict[str, float]]:
            loss = self.strength * step.logits.softmax(dim=1).amax(dim=1).mean()
            return loss, {"confidence": loss.item()}, {"steps": state["steps"] + 1}

    assert isinstance(Confidence(), Regulariser)
    assert isinstance(Seen([]), InputTransform)
    objective = Objective({"natural": Natural(), "mine": Confidence(), "again": Confidence(strength=1.0)})
    state = objective.start()
    assert state == {"mine.steps": 0.0, "again.steps": 0.0}
    loss, parts, state = objective(clf, batch, state, rng=rng())
    assert state == {"mine.steps": 1.0, "again.steps": 1.0}
    assert loss.item() == pytest.approx(parts["cross_entropy"] + 1.5 * parts["confidence"])
    assert json.loads(json.dumps(state)) == state


# -- each term by hand -------------------------------------------------------------------------------------


def test_natural_is_cross_entropy(clf: Classifier, batch: Batch) -> None:
    clf.eval()
    loss, parts = loss_of(objectives.make("natural"), clf, batch)
    assert loss.item() == pytest.approx(cross_entropy(clf(batch.x), batch.y).item(), rel=1e-12)
    right = (clf(batch.x).argmax(dim=1) == batch.y).double().mean().item()
    assert parts == pytest.approx({"cross_entropy": loss.item(), "accuracy": right}, rel=1e-6)
    smoothed, _ = loss_of(objectives.make("natural", label_smoothing=0.3), clf, batch)
    log_s = clf(batch.x).log_softmax(dim=1)
    # The target has 1 - 0.3 on the label and 0.3 spread over all three classes.
    by_hand = -(0.7 * log_s.gather(1, batch.y[:, None])[:, 0] + 0.3 * log_s.mean(dim=1)).mean()
    assert smoothed.item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_adversarial_without_a_share_is_natural_and_half_and_half_is_half(clf: Classifier, batch: Batch) -> None:
    clf.eval()
    attack = "pgd:norm=l2,radius=0.5,steps=5,random_start=false"
    natural, _ = loss_of(objectives.make("natural"), clf, batch)
    losses: dict[float, Tensor] = {}
    for share in (0.0, 0.5, 1.0):
        losses[share], parts = loss_of(objectives.make("adversarial", attack=attack, share=share), clf, batch)
        assert ({"clean", "altered"} <= set(parts)) == (share == 0.5)
        if share == 0.5:
            assert (parts["clean"] + parts["altered"]) / 2 == pytest.approx(losses[share].item(), rel=1e-12)
    assert losses[0.0].item() == pytest.approx(natural.item(), rel=1e-12)
    assert losses[0.0] < losses[0.5] < losses[1.0]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_only_the_attacked_share_costs_passes(share: float, clf: Classifier, batch: Batch) -> None:
    rows: list[int] = []
    clf.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))  # pyright: ignore
    loss_of(objectives.make("adversarial", attack="l2min:epsilon=0.05,steps=7", share=share), clf, batch)
    attacked = round(8 * share)
    # Two rows are looked at before; seven gradients and one look at the end; one more to verify; then the loss.
    assert sum(rows) == (min(2, attacked) + (7 + 1 + 1) * attacked if attacked else 0) + 8


def test_the_search_inside_sees_the_evaluated_network(clf: Classifier, batch: Batch) -> None:
    """Frozen batch norm: what the search looks at moves neither the statistics nor with its neighbours."""
    modes: list[bool] = []
    clf.network.body[1].register_forward_pre_hook(lambda layer, _: modes.append(layer.training))  # pyright: ignore
    loss_of(objectives.make("adversarial"), clf, batch)
    assert modes[-1] is True
    assert not any(modes[:-1])
    assert len(modes) > 1


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_noise_has_its_deviation_and_stays_in_the_box_where_it_is_cut(distribution: Any) -> None:
    clf = Classifier("linear:features=4000,classes=2").double()
    x = torch.full((4, 4000), 0.5, dtype=torch.float64)
    x[2:] = 0.0
    step = Step(classifier=clf, batch=Batch(x=x, y=torch.zeros(4, dtype=torch.int64)), seed=1)
    noise = Noise(std=0.1, distribution=distribution, clip=False).alter(step) - x
    # Standard errors of 16,000 draws: of a deviation at most 0.1 / sqrt(32,000), of a mean 0.1 / sqrt(16,000).
    assert noise.std().item() == pytest.approx(0.1, abs=4 * 0.1 / 32_000**0.5)
    assert noise.mean().item() == pytest.approx(0.0, abs=4 * 0.1 / 16_000**0.5)
    # Two in three normal draws lie within a deviation; of uniform ones 1 / sqrt(3), and none beyond sqrt(3).
    inside = (noise.abs() < 0.1).double().mean().item()
    assert inside == pytest.approx({"normal": 0.6827, "uniform": 3**-0.5}[distribution], abs=4 * 0.5 / 16_000**0.5)
    assert (noise.abs().amax() <= 0.1 * 3**0.5) == (distribution == "uniform")
    cut = Noise(std=0.1, distribution=distribution).alter(step)
    assert cut.amin() >= 0
    assert torch.equal(cut, (x + noise).clamp(0, 1))


def test_noise_that_leaves_the_box_cannot_be_attacked(clf: Classifier, batch: Batch) -> None:
    objective = objectives.build({"noise": {"std": 0.5, "clip": False}, "adversarial": None})
    with pytest.raises(SpecError, match="noise.clip=true"):
        loss_of(objective, clf, batch)


def test_output_zeroing_and_l1_by_hand(clf: Classifier, batch: Batch) -> None:
    clf.eval()
    _, parts = loss_of(objectives.build({"output_zeroing": {"strength": 0.3}, "l1": {"strength": 0.02}}), clf, batch)
    y = clf(batch.x)
    assert parts["output_zeroing"] == pytest.approx(
        0.3 * sum(y[i, c].item() ** 2 for i in range(8) for c in range(3)) / 8
    )
    weights = [clf.network.body[0].weight, clf.network.body[4].weight, clf.network.head.weight]  # pyright: ignore
    assert parts["l1"] == pytest.approx(
        0.02 * sum(abs(value) for weight in weights for value in weight.flatten().tolist())
    )


def test_the_guideline_is_the_papers() -> None:
    """Eq. 14 at s_t = 0.8; the paper rounds these to 0.01, 1e-3 and 6e-5."""
    assert objectives.guideline(10) == pytest.approx(0.00997, abs=5e-6)
    assert objectives.guideline(80) == pytest.approx(0.001034, abs=5e-7)
    assert objectives.guideline(1000) == pytest.approx(6.005e-5, abs=5e-9)


@pytest.mark.parametrize("confidence", [0.8, 0.5, 0.95])
def test_the_guideline_balances_the_two_forces(confidence: float) -> None:
    """Eq. 14: the pull of cross-entropy on y_t at s_t is that of output zeroing, counted over all examples."""
    classes, s = 10, confidence
    y = torch.zeros(1, classes, dtype=torch.float64)
    y[0, 0] = torch.tensor(s * (classes - 1) / (1 - s)).log()
    y.requires_grad_(True)
    assert y.softmax(dim=1)[0, 0].item() == pytest.approx(s, rel=1e-6)
    (pull,) = torch.autograd.grad(cross_entropy(y, torch.tensor([0])), y)
    (push,) = torch.autograd.grad(objectives.guideline(classes, s) * y.square().sum(), y)
    often = 1 / classes + (classes - 1) / classes * (1 - s)  # how often an output is large
    assert -pull[0, 0].item() / classes == pytest.approx(push[0, 0].item() * often, rel=1e-6)


@pytest.mark.parametrize("arguments", [(1, 0.8), (10, 0.1), (10, 0.05), (10, 1.0), (2, 0.5)])
def test_guidelines_that_do_not_exist_are_refused(arguments: tuple[int, float]) -> None:
    with pytest.raises(SpecError, match="guideline"):
        objectives.guideline(*arguments)


# -- what cannot be ----------------------------------------------------------------------------------------

IMPOSSIBLE = [
    "adversarial:share=-0.1",
    "adversarial:share=1.5",
    "adversarial:attack=(pgd:stpes=3)",
    "l1:strength=-1",
    "natural:label_smoothing=1",
    "noise:std=-0.1",
    "noise:distribution=cauchy",
    "output_zeroing:strength=-1",
    "lipschitz:outputs=0",
    "lipschitz:z=0.5",
    "lipschitz:z=0",
    "lipschitz:q=0.5",
    "lipschitz:zeta=1.1",
    "lipschitz:psi=-1",
    "lipschitz:dead_zone=-1",
    "lipschitz:target=0",
    "lipschitz:probe=0",
    "lipschitz:tandem=both",
    "lipschitz:derivative=none",
    "lipshitz",
    "",
]


@pytest.mark.parametrize("term", IMPOSSIBLE)
def test_impossible_terms_are_refused(term: str) -> None:
    with pytest.raises(SpecError):
        objectives.build(term)


def test_more_outputs_than_classes_are_refused_when_the_network_is_known(clf: Classifier, batch: Batch) -> None:
    loss_of(objectives.make("lipschitz", outputs=3), clf, batch)
    with pytest.raises(InputError, match="outputs=4 of 3 classes"):
        loss_of(objectives.make("lipschitz", outputs=4), clf, batch)


@pytest.mark.usefixtures("bfloat16")
def test_a_search_alone_may_compute_in_bfloat16(clf: Classifier, batch: Batch) -> None:
    """The passes of the search do, that of the loss does not; and the loss still tells the search's examples apart."""
    said: list[tuple[bool, torch.dtype]] = []
    layer = clf.network.get_submodule("body.0")
    clf.float()
    batch = dataclasses.replace(batch, x=batch.x.float())
    hook = layer.register_forward_hook(lambda m, i, out: said.append((m.training, out.dtype)))
    term = Adversarial(attack="pgd:norm=linf,radius=0.1,steps=3,random_start=false", share=1, bfloat16=True)
    loss, _, _ = Objective({"adversarial": term, "natural": Natural()})(clf, batch, {}, rng=rng())
    hook.remove()
    assert {kind for training, kind in said if training} == {torch.float32}
    searching = [kind for training, kind in said if not training]
    assert searching.count(torch.bfloat16) >= 3  # `verify`, too, looks in full precision
    assert loss.dtype == torch.float32
