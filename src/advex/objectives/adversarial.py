"""Training on what a search finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex import attacks
from advex.classifier import Classifier
from advex.errors import SpecError
from advex.goals import Misclassify
from advex.registry import register
from advex.types import Batch


@register("objective", "adversarial", cites="madry2018; woods2019 Sec. III-G")
@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Mean cross-entropy where the first `share` of each (shuffled) batch is attacked.

    attack: spec string of a search. share: 1 is adversarial training; 0.5 is half-half (HHAT): half
    of each batch is attacked, and only that half costs gradients. The search runs in evaluation mode,
    so batch-norm statistics see each batch once.
    """

    attack: str = "l2min:epsilon=0.1"
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise SpecError(f"share must lie in [0, 1], not {self.share}.")
        attacks.build(self.attack)

    def start(self) -> dict[str, float]:
        return {}

    def __call__(
        self, classifier: Classifier, batch: Batch, state: dict[str, float], *, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        count = round(self.share * len(batch))
        seed = int(torch.randint(2**31, (), generator=rng))
        x, y = batch.x[:count], batch.y[:count]
        found = attacks.build(self.attack)(classifier, x, Misclassify(y, temperature=1.0), seed=seed)
        losses = cross_entropy(
            classifier.logits(torch.cat([found.adversarial, batch.x[count:]])), batch.y, reduction="none"
        )
        parts = {"adversarial": losses[:count].mean().item(), "clean": losses[count:].mean().item()}
        return losses.mean(), {name: value for name, value in parts.items() if value == value}, state
