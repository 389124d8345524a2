"""Training on noisy examples."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from advex.objectives.step import Step, objective
from advex.options import AtLeast0
from advex.randomness import normal, uniform

Distribution = Literal["normal", "uniform"]


@objective(
    "noise",
    cites="woods2019 Sec. IV-A15; cohen2019; dejorge2022",
    examples=("std=0.1,distribution=uniform,clip=false",),
)
class Noise:
    """Noise of standard deviation `std`, in data space, on every example.

    distribution: normal, or uniform in [-sqrt(3) std, sqrt(3) std]. clip: cut the noisy example to the
    box, which an attack after this term needs. Randomised smoothing asks about noise that is not cut.
    """

    std: AtLeast0 = 0.05
    distribution: Distribution = "normal"
    clip: bool = True

    def alter(self, step: Step) -> Tensor:
        # Drawn by the example as it came: what an attack has left may differ in a last digit from process to process.
        if self.distribution == "normal":
            noise = normal(step.batch.x, step.seed, "noise")
        else:
            noise = math.sqrt(3) * (2 * uniform(step.batch.x, step.seed, "noise") - 1)
        noise = self.std * noise
        return step.x + (step.classifier.box.confine(step.x, noise) if self.clip else noise)
