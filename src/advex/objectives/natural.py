"""Cross-entropy on the examples as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex.classifier import Classifier
from advex.registry import register
from advex.types import Batch


@register("objective", "natural")
@dataclass(frozen=True, kw_only=True)
class Natural:
    """Mean cross-entropy. label_smoothing: in [0, 1)."""

    label_smoothing: float = 0.0

    def start(self) -> dict[str, float]:
        return {}

    def __call__(
        self, classifier: Classifier, batch: Batch, state: dict[str, float], *, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        loss = cross_entropy(classifier.logits(batch.x), batch.y, label_smoothing=self.label_smoothing)
        return loss, {"cross_entropy": loss.item()}, state
