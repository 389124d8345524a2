"""Training on what a search finds."""

from __future__ import annotations

import contextlib
from functools import partial

import torch
from torch import Tensor

from advex import attacks, processes
from advex.contexts import refuse
from advex.errors import SpecError
from advex.goals import Misclassify
from advex.objectives.step import AttackSpec, Step, objective
from advex.options import Share
from advex.precision import has_bfloat16


@objective(
    "adversarial",
    cites="madry2018; woods2019 Sec. III-G",
    examples=("attack=(pgd:norm=linf,radius=8/255,steps=2),share=1", "bfloat16=true"),
)
class Adversarial:
    """Adversarial training: the first `share` of each (shuffled) batch is attacked.

    attack: spec string of a search. share: 1 is adversarial training; 0.5 is half-half (HHAT): half
    of each batch is attacked, and only that half costs gradients. The search runs in evaluation mode,
    so batch-norm statistics see each batch once. Terms before this one must leave examples in the box.
    bfloat16: the search alone computes in it, where the other terms need all digits (a finite difference).
    """

    attack: AttackSpec = "l2min:epsilon=0.1"
    share: Share = 0.5
    bfloat16: bool = False

    def alter(self, step: Step) -> Tensor:
        # Rows are dealt out to processes one by one: the first of the whole batch are each process's first.
        count = len(range(round(self.share * step.rows))[processes.share()])
        if count == 0:
            return step.x
        x, y = step.x[:count], step.y[:count]
        box = step.classifier.box
        outside = box.confine(x, torch.zeros_like(x)).abs().amax()
        refuse(
            outside > 1e-6 * (1 + box.upper.abs().amax()),  # more than a rounding error
            lambda: SpecError(
                "Examples are outside the box before the attack: clip the noise (noise.clip=true), or put "
                "`adversarial` before it."
            ),
        )
        faster = partial(step.classifier.accelerated, compiled=step.classifier.compiled, bfloat16=True)
        with faster() if self.bfloat16 and has_bfloat16(x.device) else contextlib.nullcontext():
            attacked = attacks.build(self.attack)(step.classifier, x, Misclassify(y, temperature=1.0), seed=step.seed)
        return torch.cat([attacked.adversarial, step.x[count:]])
