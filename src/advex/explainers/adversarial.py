"""Adversarial explanations (Woods et al. 2019): show what would have to change in the input.

On a robust network the change that raises (or lowers) a class most at a given distance shows the
features that the network holds for (or against) that class.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advex.attacks.at_distance import AtDistance
from advex.classifier import Classifier
from advex.errors import InputError
from advex.geometry import RMSE
from advex.goals import Become, Goal, Misclassify
from advex.registry import describe, register
from advex.types import Explanation


@register("explainer", "toward", cites="woods2019 Eq. 4 (g_explain+)")
@dataclass(frozen=True, kw_only=True)
class Toward:
    """The change of RMSE rho that raises the target class most.

    Exactly at rho, inside the box; never fails because a softmax saturated (it follows log-odds).
    rho: RMSE, 0 = no change, 1 = black to white. steps: gradients.
    """

    rho: float | str = 0.1
    steps: int = 35

    def __post_init__(self) -> None:
        AtDistance(rho=self.rho, steps=self.steps)  # refuses what cannot be

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        return _explain(self, Become(target, temperature=1.0), classifier, x, target, seed, mask, max_batch)


@register("explainer", "away", cites="woods2019 Sec. III-A2 (g_explain-)")
@dataclass(frozen=True, kw_only=True)
class Away:
    """The change of RMSE rho that lowers the target class most.

    rho: RMSE, 0 = no change, 1 = black to white. steps: gradients.
    """

    rho: float | str = 0.1
    steps: int = 35

    def __post_init__(self) -> None:
        AtDistance(rho=self.rho, steps=self.steps)

    def __call__(
        self,
        classifier: Classifier,
        x: Tensor,
        target: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Explanation:
        return _explain(self, Misclassify(target, temperature=1.0), classifier, x, target, seed, mask, max_batch)


def _explain(
    explainer: Toward | Away,
    goal: Goal,
    classifier: Classifier,
    x: Tensor,
    target: Tensor,
    seed: int,
    mask: Tensor | None,
    max_batch: int | str | None,
) -> Explanation:
    if target.shape != (len(x),):
        raise InputError(f"The target needs one class per example, [{len(x)}], not {tuple(target.shape)}.")
    search = AtDistance(rho=explainer.rho, steps=explainer.steps)
    found = search(classifier, x, goal, seed=seed, mask=mask, max_batch=max_batch)
    slice_size = max_batch if isinstance(max_batch, int) else 512
    return Explanation(
        map=found.delta,
        target=target,
        method=describe(explainer),
        picture=found.adversarial,
        before=classifier.predict(x, max_batch=slice_size),
        after=classifier.predict(found.adversarial, max_batch=slice_size),
        rmse=RMSE.size(found.delta),
    )
