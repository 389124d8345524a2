"""Cross-entropy of the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from advex.objectives.step import Parts, State, Step, objective
from advex.options import ShareBelow1


@objective("natural", examples=("label_smoothing=0.3",))
class Natural:
    """Mean cross-entropy, on the examples as the other terms have changed them. label_smoothing: in [0, 1).

    Where the batch has weights (a recipe's `balanced`), each example's is multiplied by its own before the mean.
    """

    label_smoothing: ShareBelow1 = 0.0

    def start(self) -> State:
        return {}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        smoothing = self.label_smoothing
        losses = step.cross_entropy if smoothing == 0 else step.smoothed_cross_entropy(smoothing)
        right = (step.logits.detach().argmax(dim=1) == step.y).float()
        loss, parts = losses.mean(), dict[str, float | Tensor]()
        if step.altered:
            altered = (step.x != step.batch.x).flatten(1).any(dim=1)
            some = altered.any() & ~altered.all()
            for name, rows in {"clean": ~altered & some, "altered": altered & some}.items():
                parts[name] = torch.stack([torch.where(rows, losses, 0.0).sum().detach(), rows.sum()])
        return loss, {"cross_entropy": loss.detach(), "accuracy": right.mean(), **parts}, state
