"""Training on noisy examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from advex.errors import SpecError
from advex.objectives.step import Step
from advex.randomness import normal
from advex.registry import register


@register("objective", "noise", cites="woods2019 Sec. IV-A15; cohen2019")
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise of standard deviation `std`, in data space, on every example.

    clip: cut the noisy example to the box. Randomised smoothing asks about noise that is not cut.
    """

    std: float = 0.05
    clip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise SpecError(f"The noise's std must be 0 or more, not {self.std}.")

    def alter(self, step: Step) -> Tensor:
        noise = self.std * normal(step.x, step.seed, "noise")
        return step.x + (step.classifier.box.confine(step.x, noise) if self.clip else noise)
