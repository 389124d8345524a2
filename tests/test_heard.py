"""Layers are chosen by name or by the number of their call, heard as they were, and left without hooks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from advex.classifier import Classifier
from advex.errors import AdvexWarning, InputError
from advex.layers import heard, hearing
from advex.networks.activations import HalfHuberReLU


class Twice(nn.Module):
    """One activation called twice, another kind of it between, a layer that is never called; fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.again, self.between = nn.ReLU(), HalfHuberReLU()
        self.broken = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.first(self.again(self.first(x))))
        if self.broken:
            raise OSError("the network broke")
        return self.second(self.again(self.second(x)))


def hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(Twice(), mean=0.5, std=0.25).eval()


def by_hand(network: Twice, x: Tensor) -> dict[str, Tensor]:
    a = network.first(x)
    b = a.clamp_min(0)
    c = network.first(b)
    d = network.between(c)
    e = network.second(d)
    f = e.clamp_min(0)
    return {
        "first 0": a,
        "again 0": b,
        "first 1": c,
        "between": d,
        "second 0": e,
        "again 1": f,
        "second 1": network.second(f),
    }


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("relu:all", ["again 0", "between", "again 1"]),
        ("relu:0-1", ["again 0", "between"]),
        ("relu:1-2", ["between", "again 1"]),
        ("relu:2", ["again 1"]),
        ("relu:0-1+relu:1-2", ["again 0", "between", "again 1"]),
        ("first", ["first 0", "first 1"]),
        ("network.second+relu:0", ["again 0", "second 0", "second 1"]),
        ("again+relu:2", ["again 0", "again 1"]),
    ],
)
def test_layers_are_heard_by_name_and_by_call(classifier: Classifier, which: str, expected: list[str]) -> None:
    x = torch.rand(4, 3)
    values = by_hand(classifier.network, (x - 0.5) / 0.25)  # pyright: ignore[reportArgumentType]
    answers = heard(classifier, x, which)
    assert [name for name, _ in answers] == [f"network.{each.split()[0]}" for each in expected]
    for (_, answer), name in zip(answers, expected, strict=True):
        assert torch.allclose(answer, values[name])
    assert hooks(classifier) == 0


def test_both_ends_are_included_as_in_the_authors_example() -> None:
    """Elliott et al. say "from 4 to 9" of VGG19-bn; their example hears its modules 16, 19, 22, 25, 29 and 32."""
    layers: list[nn.Module] = []
    for repeats in (2, 2, 4, 4, 4):
        for _ in range(repeats):
            layers += [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
    classifier = Classifier(nn.Sequential(*layers, nn.Flatten())).eval()
    answers = heard(classifier, torch.rand(2, 3, 32, 32), "relu:4-9")
    assert [name for name, _ in answers] == [f"network.{number}" for number in (16, 19, 22, 25, 29, 32)]
    assert len(heard(classifier, torch.rand(1, 3, 32, 32), "relu:all")) == 16


def test_an_answer_that_is_written_into_is_heard_as_it_was() -> None:
    """Batch norm before a ReLU that works in place; and what the network answers stays the same."""
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.SiLU(), nn.Linear(6, 2))
    classifier, x = Classifier(network).eval(), torch.rand(5, 4)
    with torch.no_grad():
        expected = network[1](network[0](x))
        assert (expected < 0).any()
        ((_, answer),) = heard(classifier, x, "1")
        assert torch.equal(answer, expected)
        before = classifier(x)
        with hearing(classifier, "1+relu:all"):
            assert torch.equal(classifier.logits(x), before)


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("relu:1-3", r"calls 3 activation modules.*0 'network.again', 1 'network.between', 2 'network.again'"),
        ("relu:3", "calls 3 activation modules"),
        ("relu:2-1", "calls 3 activation modules"),
        ("frist", "no layer 'frist': .*network.first"),
        ("relu:x", "no layer 'relu:x'"),
        ("", "no layer ''"),
        ("relu:all+", "no layer ''"),
        ("unused", "'network.unused' is not called"),
    ],
)
def test_what_cannot_be_heard_is_refused(classifier: Classifier, which: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        heard(classifier, torch.rand(2, 3), which)
    assert hooks(classifier) == 0


def test_a_network_without_activations_has_nothing_to_hear() -> None:
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    for which in ("relu:all", "relu:0"):
        with pytest.raises(InputError, match=r"no activation module.*network\.0, network\.1"):
            heard(classifier, torch.rand(2, 4), which)


def test_no_hook_stays_when_a_pass_fails(classifier: Classifier) -> None:
    with pytest.raises(InputError, match="no layer"):
        heard(classifier, torch.rand(2, 3), "relu:all+nothing")
    classifier.network.broken = True  # pyright: ignore[reportArgumentType]
    with pytest.raises(OSError, match="broke"), hearing(classifier, "relu:all+first"):
        classifier.logits(torch.rand(2, 3))
    assert hooks(classifier) == 0


def test_a_second_pass_is_refused(classifier: Classifier) -> None:
    x = torch.rand(2, 3)
    with pytest.raises(InputError, match="called 2 times"), hearing(classifier, "relu:all"):
        _ = classifier.logits(x), classifier.logits(x)


class Functions(nn.Module):
    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        for function in self.functions:
            x = function(self.first(x))
        return self.last(x)


def test_activations_called_as_functions_are_named() -> None:
    classifier, x = Classifier(Functions(relu, gelu)).eval(), torch.rand(2, 3)
    with pytest.warns(AdvexWarning, match="calls the function gelu, the function relu, whose outputs cannot be read"):
        answers = heard(classifier, x, "relu:all")
    assert [name for name, _ in answers] == ["network.act"]
    heard(classifier, x, "act+last")  # who names layers knows what is heard
    heard(Classifier(Functions()).eval(), x, "relu:all")
