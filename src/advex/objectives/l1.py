"""Sparse weights."""

from __future__ import annotations

from torch import Tensor

from advex.objectives.step import Parts, State, Step, objective
from advex.options import AtLeast0


@objective("l1", cites="chalasani2020 Sec. 6")
class L1:
    """strength times the sum of |w| over all weights: not over biases, nor over batch norm's parameters.

    all_parameters: over these too, as in the authors' code for images. Its MNIST loss is a sum over batches of 50,
    where ours is a mean: their lambda is a strength of lambda / 50.
    """

    strength: AtLeast0 = 1e-5
    all_parameters: bool = False

    def start(self) -> State:
        return {}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        counted = [p for p in step.classifier.parameters() if self.all_parameters or p.ndim > 1]
        loss = self.strength * sum((weight.abs().sum() for weight in counted), start=step.x.new_zeros(()))
        return loss, {"l1": loss.detach()}, state
