"""Attributional robustness: explanations that lie along the input, at the examples where they do least."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from advex import attacks, batch_norm
from advex.attacks import PGD
from advex.classifier import Classifier
from advex.contexts import in_modes
from advex.distances.channels import Channels
from advex.distances.cosine import cosine
from advex.errors import SpecError
from advex.goals import Misaligned, Misclassify
from advex.goals.goal import Aim
from advex.goals.misaligned import Anchor, Form, Negative
from advex.objectives.step import AttackSpec, Parts, State, Step, objective
from advex.options import AtLeast0, Count

# The search of the paper's text and that of its authors' code.
PRINTED = "pgd:norm=linf,radius=8/255,steps=3,step=1.5/255,keep=last"
PUBLISHED = "pgd:norm=linf,radius=8/255,steps=3,step=5/255,keep=last"


@objective(
    "attributional",
    cites="singh2020 Eq. 5, 6 and Alg. 1",
    examples=(
        "inner=both,negative=least,anchor=raw,channels=mean_abs,statistics=running",
        "inner=loss,form=cosine",
        "form=direct,attack=(pgd:norm=l2,radius=0.5,steps=2),beta=10,anchor=mixed",
        "inner=none,form=l2,beta=0",
        "strength=0",
        "published=true,elements=20",
    ),
)
class Attributional:
    """Cross-entropy and strength times L_attr, both at the neighbour x' of each example at which L_attr is largest.

    L_attr is small where the gradient of the true class's logit lies along the input: more than that of the runner-up
    (form `triplet`). See `goals.misaligned` for form, negative, anchor, channels and beta.

    attack: spec string of the search for x'; null: that of the paper, of its code where `published`. inner: what it
    raises: L_attr (`attributional`), the cross-entropy (`loss`), their sum (`both`); `none`: x' is the example.
    strength: lambda; 0: the search alone, whose x' the cross-entropy is taken at. statistics: batch norm's in the pass
    of L_attr, which it never records: those of the `batch`, or the `running` ones. The search runs in evaluation mode.

    published: as the authors' code has it. The search, a `pgd` in training mode, steps by 5/255 and sees the `elements`
    alone in which the gradient of the network as it is is largest where the search begins; the gradient there is with
    respect to raw x. L_attr is taken at examples and neighbours in one pass, at each by the worse of both gradients.

    Search and L_attr run eagerly and in full precision, whatever the rest of the step does: compiled code cannot be
    differentiated twice. Where the batch has weights, each example's L_attr is multiplied by its own.
    """

    attack: AttackSpec | None = None
    inner: Literal["attributional", "loss", "both", "none"] = "attributional"
    strength: AtLeast0 = 0.5
    form: Form = "triplet"
    negative: Negative = "runner_up"
    anchor: Anchor = "normalised"
    channels: Channels = "none"
    beta: AtLeast0 = 50.0
    statistics: Literal["batch", "running"] = "batch"
    published: bool = False
    elements: Count = 1000

    def __post_init__(self) -> None:
        usual = {"inner": "attributional", "form": "triplet", "anchor": "normalised", "statistics": "batch"}
        others = [name for name, value in usual.items() if getattr(self, name) != value]
        if self.published and others:
            raise SpecError(f"published=true sets {others[0]}={usual[others[0]]}: omit {others[0]}.")
        if self.published and not isinstance(self._search, PGD):
            raise SpecError(f"published=true needs the attack pgd, not {self.attack}.")

    @property
    def _search(self) -> Any:
        return attacks.build(self.attack or (PUBLISHED if self.published else PRINTED))

    def start(self) -> State:
        return {}

    def alter(self, step: Step) -> Tensor:
        if self.inner == "none":
            return step.x
        with step.classifier.accelerated():
            if self.inner == "loss":
                goal = Misclassify(step.y, temperature=1.0)
            elif self.published:
                goal = self._as_trained(step)
            else:
                with step.classifier.frozen():
                    goal = self._goal(step, loss=float(self.inner == "both")).away_from(step.classifier, step.x)
            return self._search(step.classifier, step.x, goal, seed=step.seed).adversarial

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        if self.strength == 0:
            return step.x.new_zeros(()), {"attributional": 0.0}, state
        running = self.statistics == "running"
        with (
            step.classifier.accelerated(),
            batch_norm.by_running_statistics(step.classifier) if running else contextlib.nullcontext(),
        ):
            if self.published:
                sizes = self._mined(step)
            else:
                goal = self._goal(step).away_from(step.classifier, step.batch.x, step.glance)
                sizes = goal.size(step.classifier, step.x.detach(), step.glance)
        if step.batch.weight is not None:
            sizes = step.batch.weight.repeat(len(sizes) // len(step.y)) * sizes
        loss = self.strength * sizes.mean()
        return loss, {"attributional": loss.detach()}, state

    def _goal(self, step: Step, loss: float = 0.0) -> Misaligned:
        return Misaligned(
            y=step.y, form=self.form, negative=self.negative, anchor=self.anchor, channels=self.channels,
            beta=self.beta, loss=loss,
        )  # fmt: skip

    def _as_trained(self, step: Step) -> Misaligned:
        """The goal of the published search, with the elements that it sees."""
        modes = [(module, module.training) for module in step.classifier.modules()]
        options = {**vars(self._goal(step)), "anchor": "mixed", "step": step, "modes": modes}
        sharp = _AsTrained(**{**options, "beta": 0.0, "form": "cosine"})
        with step.classifier.frozen(), in_modes(modes):
            start = step.x + self._search.begin(step.classifier, step.x, seed=step.seed)
            size = sharp.gradients(step.classifier, start, step.glance)[0].detach().abs()
        largest = size.topk(min(self.elements, size.shape[1]), dim=1).indices
        return _AsTrained(**{**options, "elements": torch.zeros_like(size).scatter(1, largest, 1.0).bool()})

    def _mined(self, step: Step) -> Tensor:
        """L_attr [2n] at examples and neighbours, at each by whichever of its pair's gradients makes it larger."""
        n, pairs = len(step.y), torch.cat([step.batch.x, step.x]).detach()
        goal = dataclasses.replace(self._goal(step), y=step.y.repeat(2))
        anchor = goal.anchors(step.classifier, pairs)
        near = [
            (cosine(gradient, anchor), cosine(gradient.roll(n, 0), anchor))
            for gradient in goal.gradients(step.classifier, pairs, step.glance)
        ]
        return softplus(torch.maximum(*near[1]) - torch.minimum(*near[0]))


@dataclass(frozen=True, kw_only=True)
class _AsTrained(Misaligned):
    """The same goal, asked of the network in the modes that it has in training: rows are no longer by themselves."""

    step: Step
    modes: list[tuple[nn.Module, bool]]

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim:
        with in_modes(self.modes):
            size = self.size(classifier, x, self.step.glance)
        return Aim(loss=-size, reached=torch.zeros(len(x), dtype=torch.bool, device=x.device))
