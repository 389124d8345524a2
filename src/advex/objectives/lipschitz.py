"""The stochastic Lipschitz penalty: small derivatives of the outputs with respect to the inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from advex.errors import InputError, SpecError
from advex.objectives.derivatives import Derivative, Score, of_gradient
from advex.objectives.step import Parts, State, Step, objective
from advex.options import Above0, AtLeast0, Count, Share
from advex.randomness import uniform_for

Tandem = Literal["none", "difference", "sum"]


@objective(
    "lipschitz",
    cites="woods2019 Eq. 4, 9, 15",
    examples=(
        "derivative=finite_difference",
        "outputs=2,zeta=0.5,tandem=difference,target=1.0,z=1,q=1",
        "outputs=2,zeta=0.5,tandem=sum,derivative=finite_difference",
    ),
)
class Lipschitz:
    """L_adv = psi / (K N) sum_k sum_j |dy_vk/dx_j|^z: mean over the batch; N inputs, K outputs v_k of each image.

    psi: strength; with a target the least strength. outputs: K, drawn per image without replacement.
    z: power; q: each image's term is multiplied by (sum_j |dy_vk/dx_j|)^q. Each is 0 or at least 1, and
    not both are 0. dead_zone: sigma, |dy/dx| counts from there on. zeta: how often the first output
    drawn is the true class for certain. tandem: there, take the `difference` of the true class to the
    best other one, or their `sum`, instead of the true class's output alone.

    target: L_target, adapts psi (Eq. 15, in the form of the authors' code): psi exp(rate I), where I
    grows by clip(ln(target / L), -worse, better) for each example of cross-entropy L, and is never
    below zero. rate: per example, hence the same for every batch size (the authors': 0.02 per batch of 128).

    derivative, probe: see `derivatives.of_gradient`.
    """

    psi: AtLeast0 = 220.0
    outputs: Count = 1
    z: AtLeast0 = 2.0
    q: AtLeast0 = 0.0
    dead_zone: AtLeast0 = 0.0
    zeta: Share = 0.0
    tandem: Tandem = "none"
    target: Above0 | None = None
    rate: AtLeast0 = 0.02 / 128
    worse: AtLeast0 = 0.01
    better: AtLeast0 = 1.0
    derivative: Derivative = "exact"
    probe: Above0 = 0.002

    def __post_init__(self) -> None:
        # Powers between 0 and 1 have an infinite slope where the gradient is zero.
        if any(0 < power < 1 for power in (self.z, self.q)) or self.z + self.q == 0:
            raise SpecError(f"z and q must be 0 or at least 1, and not both 0; got z={self.z}, q={self.q}.")

    def start(self) -> State:
        return {"integral": 0.0}

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        # A target that is never met drives psi up for ever: then the loss says so (inf), not an overflow here.
        psi = self.psi * math.exp(min(self.rate * state["integral"], 700.0))
        value = sum(self._share(step, score) for score in self._scores(step))
        assert isinstance(value, Tensor)
        after = state if self.target is None else {**state, "loss": step.cross_entropy.detach().sum()}
        return psi * value, {"lipschitz": psi * value.detach().double(), "psi": psi}, after

    def _share(self, step: Step, score: Score) -> Tensor:
        """One of the K terms, without psi: the mean over the batch's images."""

        def penalty(gradient: Tensor) -> Tensor:
            size = gradient.flatten(1).abs()
            if self.dead_zone > 0:
                size = (size - self.dead_zone).clamp_min(0.0)
            terms = size.pow(self.z).sum(dim=1)
            if self.q > 0:
                terms = terms * size.sum(dim=1).pow(self.q)
            return terms.mean() / (self.outputs * size.shape[1])

        return of_gradient(step, score, penalty, derivative=self.derivative, probe=self.probe)

    def _scores(self, step: Step) -> list[Score]:
        """Of each image K functions of its logits, whose input gradients are penalised."""
        y, classes = step.y, step.classes
        if self.outputs > classes:
            raise InputError(f"The Lipschitz penalty cannot draw outputs={self.outputs} of {classes} classes.")
        draws = uniform_for(step.index, step.seed, "lipschitz", classes + 1)
        order, certain = draws[:, :classes], draws[:, classes] < self.zeta
        order = torch.where(certain[:, None] & (torch.arange(classes, device=y.device) == y[:, None]), -1.0, order)
        drawn = order.argsort(dim=1, stable=True)  # stable: two equal draws are ordered alike everywhere
        sign = {"none": 0.0, "difference": -1.0, "sum": 1.0}[self.tandem]
        first = _score(drawn[:, 0], certain, sign)
        return [first, *(_score(drawn[:, k], certain, 0.0) for k in range(1, self.outputs))]

    def advanced(self, state: Mapping[str, float], rows: int) -> State:
        """The integral after a step of so many examples, whose losses add up to `loss`."""
        if self.target is None:
            return dict(state)
        # Above zero, so that a loss of exactly zero counts as much better than the target.
        ahead = math.log(self.target / max(state["loss"] / rows, 1e-30))
        growth = min(max(ahead, -self.worse), self.better) * rows
        return {"integral": max(0.0, state["integral"] + growth)}


def _score(drawn: Tensor, together: Tensor, sign: float) -> Score:
    """y_drawn; in rows `together` y_drawn + sign times the best of the others."""

    def score(logits: Tensor, at_x: Tensor) -> Tensor:
        chosen = logits.gather(1, drawn[:, None])[:, 0]
        if sign == 0:
            return chosen
        best = at_x.scatter(1, drawn[:, None], -math.inf).argmax(dim=1)
        return torch.where(together, chosen + sign * logits.gather(1, best[:, None])[:, 0], chosen)

    return score
