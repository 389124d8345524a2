"""What training minimises. State goes in and comes out; nothing hides in the objective."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.objectives.adversarial import Adversarial as Adversarial
from advex.objectives.natural import Natural as Natural
from advex.types import Batch


class Objective(Protocol):
    """start() -> state; (classifier, batch, state) -> (loss, its named parts, state)."""

    def start(self) -> dict[str, float]: ...

    def __call__(
        self, classifier: Classifier, batch: Batch, state: dict[str, float], *, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, float], dict[str, float]]: ...


def make(name: str, **options: Any) -> Objective:
    """An objective by name and options. Raises SpecError."""
    return registry.make("objective", name, **options)
