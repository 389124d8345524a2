"""Outputs that stay near zero unless the data asks for more."""

from __future__ import annotations

import math

from torch import Tensor

from advex.errors import SpecError
from advex.objectives.step import Parts, State, Step, objective
from advex.options import AtLeast0


def guideline(classes: int, confidence: float = 0.8) -> float:
    """k_out at which output zeroing balances cross-entropy at a confidence s_t of the true class.

    k_out = (1 - s_t) / (2 y_t (1 + (V - 1)(1 - s_t))) with the output y_t = ln(s_t (V - 1) / (1 - s_t))
    that gives s_t when the other V - 1 outputs are zero (Woods et al. 2019, Eq. 13 and 14). For
    s_t = 0.8: 0.00997 of 10 classes, 6.0e-5 of 1,000. Raises SpecError where there is no such balance.
    """
    if classes < 2 or not 1 / classes < confidence < 1:
        raise SpecError(
            f"A guideline needs at least 2 classes and a confidence between chance and 1, not {confidence}."
        )
    s = confidence
    y = math.log(s * (classes - 1) / (1 - s))
    return (1 - s) / (2 * y * (1 + (classes - 1) * (1 - s)))


@objective("output_zeroing", cites="woods2019 Eq. 12")
class OutputZeroing:
    """L_out = k_out sum_i y_i^2, mean over the batch. strength: k_out; `guideline` gives a value."""

    strength: AtLeast0 = 0.01

    def start(self) -> State:
        return {}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        loss = self.strength * step.logits.square().sum(dim=1).mean()
        return loss, {"output_zeroing": loss.detach()}, state
