"""Layers are heard in the order of their calls and left as they were; derivatives of several outputs of one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.errors import InputError
from advex.layers import activations, derivatives, listening


class Twice(nn.Module):
    """Calls its second layer first, its first layer twice, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.broken = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.second(x))
        if self.broken:
            raise OSError("the network broke")
        return self.first(x)


def hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) for layer in module.modules())


def test_answers_come_by_name_in_the_order_of_the_calls() -> None:
    classifier, x = Classifier(Twice()), torch.rand(2, 3)
    network = classifier.network
    heard = activations(classifier, lambda: classifier(x), ["first", "network.second"])
    assert [name for name, _ in heard] == ["network.second", "network.first", "network.first"]
    expected = network.second(x)  # pyright: ignore[reportCallIssue]
    assert torch.equal(heard[0][1], expected)
    assert torch.equal(heard[1][1], network.first(expected))  # pyright: ignore[reportCallIssue]
    assert torch.equal(heard[2][1], classifier(x))
    assert hooks(classifier) == 0


def test_hooks_go_also_when_a_pass_fails() -> None:
    network = Twice()
    network.broken = True
    with pytest.raises(OSError, match="broke"):
        activations(network, lambda: network(torch.rand(2, 3)), ["first"])
    assert hooks(network) == 0
    with pytest.raises(InputError, match="'frist'.*did you mean 'first'"):
        activations(network, lambda: None, ["second", "frist"])
    assert hooks(network) == 0


def test_an_answer_may_be_replaced() -> None:
    network, x = Twice(), torch.rand(2, 3)
    with listening(network, lambda name, layer, answer: torch.zeros_like(answer), ["second"]):
        replaced = network(x)
    assert torch.equal(replaced, network.first(network.first(torch.zeros(2, 3))))


def test_derivatives_of_several_outputs_of_one_pass() -> None:
    """f = x^2 w and g = 3 x: df/dx = 2 x w, df/dw = sum x^2, dg/dx = 3, dg/dw = 0; and of f again, twice."""
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    w, apart = torch.tensor(5.0, requires_grad=True), torch.tensor([7.0])
    f, g = x.square() * w, 3 * x
    by_x, by_w, by_nothing = derivatives(f, [x, w, apart], keep=True)
    assert (by_x.tolist(), by_w.item(), by_nothing.tolist()) == ([10.0, -20.0], 5.0, [0.0])
    assert [slope.tolist() for slope in derivatives(g, [x, w])] == [[3.0, 3.0], 0.0]
    (slope,) = derivatives(f, [x], create_graph=True)
    assert derivatives(slope, [x, w])[0].tolist() == [10.0, 10.0]
    assert derivatives(torch.ones(2), [x])[0].tolist() == [0.0, 0.0]
