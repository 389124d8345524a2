"""Relative stability (Agarwal et al. 2022): how much an explanation changes for each change of input or of output.

A map may change where the model does. These ratios so ask not how far the map moved but whether it moved further than
what it explains. Every change is counted element by element, relative to the element's value at the input. Elements
that are 0 there have no relative change; as is usual they are divided by epsilon_min, so that a few such elements can
rule the ratio: on pictures with black pixels `random_stability` says more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advex.errors import SpecError
from advex.measures.stability import Neighbours, largest_kept

EPSILON_MIN = 1e-6


def relative_input_stability(around: Neighbours, *, p: float = 2, epsilon_min: float = EPSILON_MIN) -> Tensor:
    """RIS: the largest relative change of the map per relative change of the input, [n] float64; lower is stabler.

        RIS = max_{x'} ||(e_x - e_x') / e_x||_p / max(||(x - x') / x||_p, epsilon_min)

    over the points x' near x that keep the decision; NaN where there are none.
    Raises SpecError unless epsilon_min is above 0 and p at least 1.
    """
    _check(p, epsilon_min)
    inputs = _relative_change(around.x, around.near, p, epsilon_min)
    return _largest_ratio(around, inputs, p, epsilon_min)


def relative_output_stability(around: Neighbours, *, p: float = 2, epsilon_min: float = EPSILON_MIN) -> Tensor:
    """ROS: the largest relative change of the map per change of the logits h, [n] float64; lower is stabler.

        ROS = max_{x'} ||(e_x - e_x') / e_x||_p / max(||h(x) - h(x')||_p, epsilon_min)

    over the points x' near x that keep the decision; NaN where there are none. The logits' change is not relative.
    Raises SpecError unless epsilon_min is above 0 and p at least 1.
    """
    _check(p, epsilon_min)
    outputs = around.logits[:, None].double() - around.near_logits.double()
    return _largest_ratio(around, torch.linalg.vector_norm(outputs, ord=p, dim=2), p, epsilon_min)


def _largest_ratio(around: Neighbours, change: Tensor, p: float, epsilon_min: float) -> Tensor:
    maps = _relative_change(around.map, around.maps, p, epsilon_min)
    return largest_kept(maps / change.clamp_min(epsilon_min), around.kept)


def _relative_change(clean: Tensor, near: Tensor, p: float, epsilon_min: float) -> Tensor:
    """||(clean - near) / clean||_p. clean: [n, *shape]; near: [n, m, *shape]; returns [n, m] float64."""
    own, others = clean.flatten(1)[:, None].double(), near.flatten(2).double()
    return torch.linalg.vector_norm((own - others) / torch.where(own == 0, epsilon_min, own), ord=p, dim=2)


def _check(p: float, epsilon_min: float) -> None:
    if not epsilon_min > 0 or not p >= 1:
        raise SpecError(f"Relative stability needs epsilon_min above 0 and p of at least 1, not {epsilon_min} and {p}.")
