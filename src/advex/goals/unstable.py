"""An attribution of the loss, from where the search began, that is as large as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex import registry
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.goals.goal import Aim, goal
from advex.networks import second_derivatives


@goal("unstable", cites="chalasani2020 Eq. 17; chen2019 (IG-SUM-NORM)", examples=("strength=0.5,loss=1",))
@dataclass(frozen=True, kw_only=True)
class Unstable:
    """The attribution of the loss, from x, as large as possible: ||IG^{L_y}(x', x)||_1. It is never reached.

    x: [n, *shape], the inputs that the search starts from. y: [n] int64, their labels. points: of each path
    (Gauss-Legendre). strength, loss: what the norm, and the cross-entropy added to it, are multiplied by.
    """

    open_ended: ClassVar[bool] = True
    unreachable: ClassVar[bool] = True

    x: Tensor
    y: Tensor
    points: int
    strength: float = 1.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if self.points < 1:
            raise SpecError(f"points must be at least 1, not {self.points}.")

    @classmethod
    def at(
        cls, classifier: Classifier, x: Tensor, y: Tensor, *, points: int = 5, strength: float = 1.0, loss: float = 0.0
    ) -> Unstable:
        return cls(x=x.detach(), y=y, points=points, strength=strength, loss=loss)

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        size = self.strength * self.size(classifier, x)
        if self.loss:
            size = size + self.loss * cross_entropy(classifier.logits(x), self.y, reduction="none")
        return Aim(loss=-size, reached=torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def size(self, classifier: Classifier, x: Tensor) -> Tensor:
        """The norm ||IG^{L_y}(x', self.x)||_1 [n] for x' = x; differentiable where gradients are on."""
        explain = registry.make(
            "explainer", "integrated_gradients", of="loss", baseline=self.x, steps=self.points, rule="gauss_legendre"
        )
        with second_derivatives.cheap(classifier.network):
            values = explain(classifier, x, self.y, create_graph=torch.is_grad_enabled()).map.flatten(1)
        # |z| with the slope 1 at z = 0: at x itself, where the whole map is 0, the way that raises the loss leads on.
        return torch.where(values < 0, -values, values).sum(dim=1)
