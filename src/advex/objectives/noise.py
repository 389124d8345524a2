"""Training on noisy examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from advex.errors import SpecError
from advex.objectives.step import Step
from advex.randomness import normal, uniform
from advex.registry import register

Distribution = Literal["normal", "uniform"]


@register("objective", "noise", cites="woods2019 Sec. IV-A15; cohen2019; dejorge2022")
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise of standard deviation `std`, in data space, on every example.

    distribution: normal, or uniform in [-sqrt(3) std, sqrt(3) std]. clip: cut the noisy example to the
    box, which an attack after this term needs. Randomised smoothing asks about noise that is not cut.
    """

    std: float = 0.05
    distribution: Distribution = "normal"
    clip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.std < math.inf:
            raise SpecError(f"The noise's std must be 0 or more, not {self.std}.")
        if self.distribution not in get_args(Distribution):
            raise SpecError(f"The noise's distribution is normal or uniform, not '{self.distribution}'.")

    def alter(self, step: Step) -> Tensor:
        # Drawn by the example as it came: what an attack has left may differ in a last digit from process to process.
        if self.distribution == "normal":
            noise = normal(step.batch.x, step.seed, "noise")
        else:
            noise = math.sqrt(3) * (2 * uniform(step.batch.x, step.seed, "noise") - 1)
        noise = self.std * noise
        return step.x + (step.classifier.box.confine(step.x, noise) if self.clip else noise)
