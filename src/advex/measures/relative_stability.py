"""Relative stability (Agarwal et al. 2022): how far an explanation moves for each change of what it explains.

With e the map and x' the points near x that keep the decision,

    RIS = max_{x'} ||(e_x - e_x') / e_x||_p / max(||(x - x') / x||_p, epsilon_min)          per change of the input
    ROS = max_{x'} ||(e_x - e_x') / e_x||_p / max(||h(x) - h(x')||_p, epsilon_min)          of the logits h
    RRS = max_{x'} ||(e_x - e_x') / e_x||_p / max(||(L(x) - L(x')) / L(x)||_p, epsilon_min) of an inner layer L

Lower is stabler. Changes are relative to the element's value at the input (those of the logits are not). An element
that is 0 there has no relative change: as is usual it is divided by epsilon_min instead, so that a few such elements
can rule the ratio. On pictures with black pixels, and of layers behind a ReLU, `random_stability` says more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.errors import SpecError
from advex.layers import listening
from advex.measures.case import Case, Measured, Need, Of, Value, measure
from advex.measures.nearby import Neighbours, neighbours_of
from advex.options import Above0, AtLeast1, Count, NormOption, RadiusOption

EPSILON_MIN = 1e-6
AUTO = "auto"


def relative_input_stability(around: Neighbours, *, p: float = 2, epsilon_min: float = EPSILON_MIN) -> Tensor:
    """RIS of each row, [n] float64; NaN where no point keeps the decision.

    Raises SpecError unless epsilon_min is above 0 and p at least 1.
    """
    _check(p, epsilon_min)
    return _largest_ratio(around, _relative_change(around.x, around.near, p, epsilon_min), p, epsilon_min)


def relative_output_stability(around: Neighbours, *, p: float = 2, epsilon_min: float = EPSILON_MIN) -> Tensor:
    """ROS of each row, [n] float64; NaN where no point keeps the decision.

    Raises SpecError unless epsilon_min is above 0 and p at least 1.
    """
    _check(p, epsilon_min)
    change = around.logits[:, None].double() - around.near_logits.double()
    return _largest_ratio(around, torch.linalg.vector_norm(change, ord=p, dim=2), p, epsilon_min)


def relative_representation_stability(
    around: Neighbours, layer: Tensor, near_layer: Tensor, *, p: float = 2, epsilon_min: float = EPSILON_MIN
) -> Tensor:
    """RRS of each row, [n] float64; NaN where no point keeps the decision.

    layer: [n, *], what an inner layer answers at x. near_layer: [n, m, *], at the points; see `representation`.
    Raises SpecError unless epsilon_min is above 0 and p at least 1.
    """
    _check(p, epsilon_min)
    return _largest_ratio(around, _relative_change(layer, near_layer, p, epsilon_min), p, epsilon_min)


@torch.no_grad()
def representation(classifier: Classifier, x: Tensor, layer: str = AUTO, *, max_batch: int = 512) -> Tensor:
    """[n, k]: what an inner layer answers at x [n, *shape], flattened.

    layer: a name among `classifier.network.named_modules()`; where it is called several times, the last answer counts.
    "auto": the answer before that of the last linear layer, or x if there is none.
    Raises InputError for a name that the network has not.
    """
    parts = []
    for part in x.split(max_batch):
        answers = [part]

        def hear(name: str, module: nn.Module, answer: Tensor, answers: list[Tensor] = answers) -> None:
            if layer != AUTO:
                answers[0] = answer
            elif isinstance(module, nn.Linear):
                answers[0] = answers[-1]
            answers[1:] = [answer]

        with classifier.frozen(), listening(classifier.network, hear, None if layer == AUTO else [layer]):
            classifier.logits(part)
        parts.append(answers[0].flatten(1))
    return torch.cat(parts)


@measure("relative_stability", cites="agarwal2022", examples=("norm=rmse,radius=0.03,samples=3,p=1",))
class RelativeStability:
    """RIS, ROS and RRS: the largest change of the map per change of the input, the logits and an inner layer.

    norm, radius: of the ball around the input, cut to the box. samples: points drawn from it. p: of the norms in the
    ratios. epsilon_min: the least divisor. layer: the inner layer's name, or auto: the one before the last linear one.
    """

    norm: NormOption = "linf"
    radius: RadiusOption = "8/255"
    samples: Count = 10
    p: AtLeast1 = 2
    epsilon_min: Above0 = EPSILON_MIN
    layer: str = AUTO

    of: ClassVar[Of] = "stable"
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "explainer"})
    scale_free: ClassVar[bool] = True
    values: ClassVar[Mapping[str, Value]] = {
        "input": Value(title="Relative input stability", better="low"),
        "output": Value(title="Relative output stability", better="low"),
        "representation": Value(title="Relative representation stability", better="low"),
    }

    def __call__(self, case: Case) -> Measured:
        around = neighbours_of(case, self.norm, self.radius, self.samples)
        layer, *near_layer = (
            representation(case.classifier, points, self.layer) for points in (around.x, *around.near.unbind(dim=1))
        )
        ratios = {"p": self.p, "epsilon_min": self.epsilon_min}
        values = {
            "input": relative_input_stability(around, **ratios),
            "output": relative_output_stability(around, **ratios),
            "representation": relative_representation_stability(
                around, layer, torch.stack(near_layer, dim=1), **ratios
            ),
        }
        return Measured(value=values, undefined=around.undefined)


def _largest_ratio(around: Neighbours, change: Tensor, p: float, epsilon_min: float) -> Tensor:
    maps = _relative_change(around.map, around.maps, p, epsilon_min)
    return around.largest(maps / change.clamp_min(epsilon_min))


def _relative_change(clean: Tensor, near: Tensor, p: float, epsilon_min: float) -> Tensor:
    """||(clean - near) / clean||_p. clean: [n, *shape]; near: [n, m, *shape]; returns [n, m] float64."""
    own, others = clean.flatten(1)[:, None].double(), near.flatten(2).double()
    return torch.linalg.vector_norm((own - others) / torch.where(own == 0, epsilon_min, own), ord=p, dim=2)


def _check(p: float, epsilon_min: float) -> None:
    if not epsilon_min > 0 or not p >= 1:
        raise SpecError(f"Relative stability needs epsilon_min above 0 and p of at least 1, not {epsilon_min} and {p}.")
