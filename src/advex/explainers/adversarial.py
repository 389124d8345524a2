"""Adversarial explanations (Woods et al. 2019): show what would have to change in the input.

On a robust network the change that raises (or lowers) a class most at a given distance shows the
features that the network holds for (or against) that class.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator

from advex.attacks.at_distance import AtDistance
from advex.classifier import input_gradient
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.geometry import as_radius, per_row
from advex.goals import Become, Goal, Misclassify
from advex.options import Count
from advex.types import take

# Kept as it is written, in the record too.
Radius = Annotated[float | str, AfterValidator(lambda rho: rho if as_radius(rho) >= 0 else rho)]


@explainer("toward", cites="woods2019 Eq. 4 (g_explain+)", shows="change")
class Toward(AttributionMethod):
    """The change of RMSE rho that raises the target class most.

    Exactly at rho, inside the box; never fails because a softmax saturated (it follows log-odds). Where no gradient
    reaches the input there is no change, and the explanation is `flat`.
    rho: RMSE, 0 = no change, 1 = black to white. steps: gradients.
    """

    rho: Radius = 0.1
    steps: Count = 35

    def attribute(self, request: AttributionRequest) -> Attribution:
        return _changed(self, request, Become(request.target, temperature=1.0))


@explainer("away", cites="woods2019 Sec. III-A2 (g_explain-)", shows="change")
class Away(AttributionMethod):
    """The change of RMSE rho that lowers the target class most.

    rho: RMSE, 0 = no change, 1 = black to white. steps: gradients. lowers: the change is meant to take the class away.
    """

    rho: Radius = 0.1
    steps: Count = 35
    lowers: ClassVar[bool] = True

    def attribute(self, request: AttributionRequest) -> Attribution:
        return _changed(self, request, Misclassify(request.target, temperature=1.0))


def _changed(explainer: Toward | Away, request: AttributionRequest, goal: Goal) -> Attribution:
    search, where = AtDistance(rho=explainer.rho, steps=explainer.steps), (request.classifier, request.x, goal)
    change = search(*where, seed=request.seed, mask=request.mask, max_batch=request.max_batch)
    flat = change.flat.clone()
    for i in flat.nonzero()[:, 0]:  # blind somewhere on the way; without a gradient at the input all of it is arbitrary
        at, of = request.x[i : i + 1], take(goal, slice(int(i), int(i) + 1))
        slope = input_gradient(lambda x, of=of: of(request.classifier, x), at)[0]
        flat[i] = not (slope.isfinite().all() and slope.any())
    delta = torch.where(per_row(flat, request.x), 0.0, change.delta)
    return Attribution(map=delta, picture=request.x + delta, flat=flat)
