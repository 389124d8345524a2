"""Whatever touches a classifier leaves it as it was: after success, and after an error midway."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex import registry
from advex.classifier import Classifier
from advex.goals import Misclassify

SHAPE = (2, 6, 6)


class Fragile(nn.Module):
    """Batch norm, dropout, a shared layer, and an exception at the n-th call."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.again = self.body[0]  # a parameter that is reached by two names
        self.head = nn.Linear(4, 3)
        self.calls_left = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise OSError("the network broke")
        return self.head(self.body(x).mean(dim=(2, 3)))


@pytest.fixture
def classifier() -> Classifier:
    """In training mode but for one layer, partly frozen, with a gradient left in `.grad`, and with hooks.

    Batch norm would update its statistics, and dropout draw from the global generator, at every forward.
    """
    clf = Classifier(Fragile().double())
    with torch.no_grad():
        clf.network.head.weight.mul_(20)  # pyright: ignore
    clf.train()
    clf.network.body[2].eval()  # pyright: ignore
    clf.network.body[0].weight.requires_grad_(False)  # pyright: ignore
    clf.network.head.weight.grad = torch.full((3, 4), 7.0, dtype=torch.float64)  # pyright: ignore
    clf.network.head.register_forward_hook(lambda *_: None)  # pyright: ignore
    clf.network.body[2].register_full_backward_hook(lambda *_: None)  # pyright: ignore
    return clf


def snapshot(clf: Classifier) -> dict[str, Any]:
    """Everything of a module that something else could have changed."""
    state: dict[str, Any] = {
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": (clf._compiled, clf._autocast),
    }
    for name, value in clf.named_parameters(remove_duplicate=False):
        state[f"{name}"] = value.detach().clone()
        state[f"{name}.grad"] = None if value.grad is None else value.grad.clone()
        state[f"{name}.requires_grad"] = value.requires_grad
        state[f"{name} is"] = id(value)
    for name, value in clf.named_buffers():
        state[f"buffer {name}"] = value.clone()
    for name, module in clf.named_modules(remove_duplicate=False):
        state[f"{name} training"] = module.training
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            state[f"{name} {kind}"] = list(getattr(module, kind))
        state[f"{name} attributes"] = sorted(vars(module))
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what changed."""
    assert before.keys() == after.keys()

    def equal(was: Any, now: Any) -> bool:
        both = isinstance(was, Tensor) and isinstance(now, Tensor)
        return torch.equal(was, now) if both else was is now or (not isinstance(was, Tensor) and was == now)

    return [name for name, was in before.items() if not equal(was, after[name])]


def inputs() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(5, *SHAPE, generator=rng, dtype=torch.float64), torch.randint(3, (5,), generator=rng)


def test_a_search_changes_nothing(search: Callable[..., Any], classifier: Classifier) -> None:
    x, y = inputs()
    kept_x, kept_y, before = x.clone(), y.clone(), snapshot(classifier)
    result = search(classifier, x, Misclassify(y))
    assert differences(before, snapshot(classifier)) == []
    assert torch.equal(x, kept_x)
    assert torch.equal(y, kept_y)
    assert not x.requires_grad
    assert x.grad is None
    assert not result.delta.requires_grad
    assert result.delta.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("calls", [0, 1, 2, 7])
def test_a_search_changes_nothing_when_the_network_breaks(
    search: Callable[..., Any], classifier: Classifier, calls: int
) -> None:
    x, y = inputs()
    before = snapshot(classifier)
    classifier.network.calls_left = calls  # pyright: ignore
    with pytest.raises(OSError, match="the network broke"):
        search(classifier, x, Misclassify(y))
    assert differences(before, snapshot(classifier)) == []


def test_a_search_does_not_follow_gradients_of_its_input(search: Callable[..., Any], classifier: Classifier) -> None:
    """An input that is part of somebody's graph stays there, without receiving a gradient."""
    x, y = inputs()
    x.requires_grad_(True)
    result = search(classifier, x, Misclassify(y))
    assert x.requires_grad
    assert x.grad is None
    assert not result.adversarial.requires_grad


def test_a_search_works_where_gradients_are_off(search: Callable[..., Any], classifier: Classifier) -> None:
    x, y = inputs()
    outside = search(classifier, x, Misclassify(y))
    with torch.no_grad():
        inside = search(classifier, x, Misclassify(y))
        assert not torch.is_grad_enabled()
    assert torch.equal(inside.delta, outside.delta)


EXPLAINERS = registry.entries("explainer")


@pytest.mark.parametrize("name", list(EXPLAINERS))
@pytest.mark.parametrize("calls", [10**9, 0, 1, 3])
def test_an_explainer_changes_nothing(name: str, classifier: Classifier, calls: int) -> None:
    x, y = inputs()
    kept, before = x.clone(), snapshot(classifier)
    classifier.network.calls_left = calls  # pyright: ignore
    explainer = registry.make("explainer", name)
    if hasattr(explainer, "background"):
        explainer = dataclasses.replace(explainer, baseline=0.0)
    if calls == 0:
        with pytest.raises(OSError, match="the network broke"):
            explainer(classifier, x, y)
    else:
        with contextlib.suppress(OSError):  # some need but one pass, or two
            explainer(classifier, x, y)
    assert differences(before, snapshot(classifier)) == []
    assert torch.equal(x, kept)


def test_predict_changes_nothing(classifier: Classifier) -> None:
    before = snapshot(classifier)
    s = classifier.predict(inputs()[0])
    assert differences(before, snapshot(classifier)) == []
    assert torch.allclose(s.sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_the_snapshot_sees_every_kind_of_change(classifier: Classifier) -> None:
    """The instrument itself: each of these must be noticed."""
    network: Any = classifier.network
    changes: dict[str, Callable[[], Any]] = {
        "parameter": lambda: network.head.weight.data.add_(1e-9),
        "buffer": lambda: network.body[1].running_mean.add_(1e-9),
        "mode": network.body[3].eval,
        "flag": lambda: network.head.bias.requires_grad_(False),
        "grad": lambda: setattr(network.head.weight, "grad", None),
        "hook": lambda: network.body[0].register_forward_pre_hook(lambda *_: None),
        "generator": lambda: torch.rand(1),
        "attribute": lambda: setattr(network, "extra", 1),
    }
    for name, change in changes.items():
        before = snapshot(classifier)
        change()
        assert differences(before, snapshot(classifier)), name
