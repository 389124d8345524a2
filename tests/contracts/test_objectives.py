"""Laws of every registered training objective."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advex import objectives, registry
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.types import Batch

OBJECTIVES = registry.entries("objective")
EVERY = pytest.mark.parametrize("objective", [objectives.make(name) for name in OBJECTIVES], ids=list(OBJECTIVES))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def clf() -> Classifier:
    """A convolutional network with batch norm, in training mode."""
    return Classifier("small_cnn:channels=2,classes=3,widths=4-4-4").double().train()


@pytest.fixture
def batch() -> Batch:
    return Batch(x=torch.rand(8, 2, 6, 6, dtype=torch.float64), y=torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))


@EVERY
def test_the_loss_reaches_every_weight(objective: Any, clf: Classifier, batch: Batch) -> None:
    loss, parts, _ = objective(clf, batch, objective.start(), rng=rng())
    assert loss.shape == ()
    loss.backward()
    for name, parameter in clf.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    assert all(isinstance(value, float) and value == value for value in parts.values())
    assert parts


@EVERY
def test_each_batch_is_counted_once_by_batch_norm(objective: Any, clf: Classifier, batch: Batch) -> None:
    objective(clf, batch, objective.start(), rng=rng())
    counted = [module.num_batches_tracked.item() for module in clf.modules() if isinstance(module, nn.BatchNorm2d)]
    assert counted == [1, 1, 1]
    assert clf.training
    assert all(parameter.requires_grad for parameter in clf.parameters())
    assert all(parameter.grad is None for parameter in clf.parameters())


@EVERY
def test_the_same_generator_gives_the_same_loss_and_nothing_hides_in_the_objective(
    objective: Any, clf: Classifier, batch: Batch
) -> None:
    kept, before = copy.deepcopy(objective), torch.get_rng_state()
    state = objective.start()
    first = objective(copy.deepcopy(clf), batch, dict(state), rng=rng(1))
    again = objective(copy.deepcopy(clf), batch, dict(state), rng=rng(1))
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:]
    assert objective == kept
    assert torch.equal(torch.get_rng_state(), before)


@EVERY
def test_descending_it_lowers_it(objective: Any, toys: SimpleNamespace, batch: Batch) -> None:
    clf = toys.mlp((2, 6, 6)).train()
    optimiser = torch.optim.SGD(clf.parameters(), lr=0.05)
    state, losses = objective.start(), []
    for _ in range(30):
        optimiser.zero_grad()
        loss, _, state = objective(clf, batch, state, rng=rng())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_natural_is_cross_entropy(clf: Classifier, batch: Batch) -> None:
    clf.eval()
    expected = cross_entropy(clf(batch.x), batch.y)
    loss, parts, _ = objectives.Natural()(clf, batch, {}, rng=rng())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert parts == {"cross_entropy": loss.item()}
    smoothed, _, _ = objectives.Natural(label_smoothing=0.3)(clf, batch, {}, rng=rng())
    log_s = clf(batch.x).log_softmax(dim=1)
    # The target has 1 - 0.3 on the label and 0.3 spread over all three classes.
    by_hand = -(0.7 * log_s.gather(1, batch.y[:, None])[:, 0] + 0.3 * log_s.mean(dim=1)).mean()
    assert smoothed.item() == pytest.approx(by_hand.item(), rel=1e-12)


def test_adversarial_without_a_share_is_natural_and_half_and_half_is_half(clf: Classifier, batch: Batch) -> None:
    clf.eval()
    attack = "pgd:norm=l2,radius=0.5,steps=5,random_start=false"
    natural, _, _ = objectives.Natural()(clf, batch, {}, rng=rng())
    losses: dict[float, Tensor] = {}
    for share in (0.0, 0.5, 1.0):
        losses[share], parts, _ = objectives.Adversarial(attack=attack, share=share)(clf, batch, {}, rng=rng())
        assert set(parts) == {0.0: {"clean"}, 0.5: {"clean", "adversarial"}, 1.0: {"adversarial"}}[share]
        weights = {"clean": 1 - share, "adversarial": share}
        assert sum(weights[name] * value for name, value in parts.items()) == pytest.approx(losses[share].item())
    assert losses[0.0].item() == pytest.approx(natural.item(), rel=1e-12)
    assert losses[0.0] < losses[0.5] < losses[1.0]


@pytest.mark.parametrize("options", [{"share": -0.1}, {"share": 1.5}, {"attack": "pgd:stpes=3"}, {"attack": ""}])
def test_impossible_adversaries_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        objectives.make("adversarial", **options)
