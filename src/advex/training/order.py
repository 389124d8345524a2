"""In which order, and how often, the examples are trained on in an epoch."""

from __future__ import annotations

import torch
from torch import Tensor


def evened(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """[classes that have examples x per_class] numbers, as many of each class, in random order.

    Each example comes as often as the others of its class, or once more. Number mod n is the example; its k-th return
    has the number example + k n, by which it is altered in another way.

    labels: [n].
    """
    drawn = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        rounds = -(-per_class // len(rows))
        returns = [rows[torch.randperm(len(rows), generator=generator)] + k * len(labels) for k in range(rounds)]
        drawn.append(torch.cat(returns)[:per_class])
    numbers = torch.cat(drawn)
    return numbers[torch.randperm(len(numbers), generator=generator)]
