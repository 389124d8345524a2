"""Layers are heard in the order of their calls and left as they were; derivatives of several outputs of one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advex.layers import derivatives, listening


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
