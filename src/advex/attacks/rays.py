"""Where a change just reaches its goal, along its own ray: in forward passes alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from advex.attacks.search import SearchResult
from advex.classifier import Classifier
from advex.geometry import Norm, per_row
from advex.goals import Aim, Goal
from advex.types import take
from advex.waits import asking_waits

# At the end of a search: factors at which the goal should not hold any more; after one in low precision: should again.
_INWARDS, _OUTWARDS, _PASSES = (0.99, 0.93, 0.75, 0.0), (1.02, 1.06, 1.15, 1.4), 2

_HAIR = 1e-5  # of its size: a change ends so far beyond the boundary, where confidences are not tied by rounding
_BEYOND = 1e-3  # of the far part: asked so much beyond the line's root, where rounding would decide


def crossing(
    ask: Callable[[Tensor, Tensor, Tensor], Aim],
    near: Tensor,
    far: Tensor,
    above: Tensor,
    below: Tensor,
    passes: int,
    close: float = 0.0,
) -> Tensor:
    """Scales [n] in (near, far] at which the goal holds, as near to where it begins to as that many passes can tell.

    ask: the goal at scales [m] of the changes of some rows [m] int64, and which of them [m] bool count. near, far: [n],
    the goal fails at the one and holds at the other. above, below: [n], the losses there. close: a row that was asked
    so close to its far end, as a share of it, is asked no more.

    By false position: the line through both losses says where to ask next, and the loss of an end that stays twice is
    halved (the Illinois rule; Dowell and Jarratt 1971). Only the goal's verdict moves an end, so losses that mislead
    (without a sign, or of another temperature) cost precision and never truth.
    """
    near, far, above, below = (each.clone() for each in (near, far, above, below))
    rows = torch.arange(len(near), device=near.device)
    held, lost = torch.zeros_like(near) > 0, torch.zeros_like(near) > 0
    counts = ~held  # where asking waits, rows that are asked no more stay among them
    for _ in range(passes):
        over, under, end = above[rows], below[rows], far[rows]
        share = over / (over - under)
        guides = (over > 0) & (under < 0) & torch.isfinite(share)
        share = torch.where(guides, share, 0.5)
        middle = near[rows] + (end - near[rows]) * (share + _BEYOND * (1 - share))
        aim = ask(middle, rows, counts)
        above[rows] = torch.where(aim.reached, torch.where(held[rows], over / 2, over), aim.loss)
        below[rows] = torch.where(aim.reached, aim.loss, torch.where(lost[rows], under / 2, under))
        held[rows], lost[rows] = aim.reached, ~aim.reached
        near[rows] = torch.where(aim.reached | ~counts, near[rows], middle)
        far[rows] = torch.where(aim.reached & counts, middle, end)
        counts = counts & (end - middle > close * end)
        if not asking_waits(near):
            rows, counts = rows[counts], counts[counts]
            if not len(rows):
                break
    return far


def drawn_in(
    classifier: Classifier, x: Tensor, goal: Goal, result: SearchResult, norm: Norm, worth: Tensor
) -> SearchResult:
    """Each change drawn in (or, after a search in low precision, out) along its ray to where the goal just holds.

    Asked in full precision; the size of a row becomes inf where that finds no success. worth: [n] bool, the rows to do
    so in. Those that arrived nowhere, and those that need no change, cost nothing.
    """
    rows = (torch.isfinite(result.size) & (result.size > 0) & worth).nonzero()[:, 0]
    if not len(rows):
        return result
    queries, change = result.queries.clone(), result.delta[rows]

    def ask(scale: Tensor, of: Tensor, counts: Tensor | int = 1) -> Aim:
        clean = x[rows[of]]
        queries[rows[of]] += counts
        changed = clean + classifier.box.confine(clean, change[of] * per_row(scale, clean))
        return take(goal, rows[of])(classifier, changed)

    with torch.no_grad(), classifier.accelerated():
        left = torch.arange(len(rows), device=x.device)
        scale = torch.ones_like(result.size[rows])
        aim = ask(scale, left)
        held, loss = aim.reached, aim.loss.clone()
        before, loss_before, turned = scale.clone(), loss.clone(), torch.zeros_like(held)
        for inwards, outwards in zip(_INWARDS, _OUTWARDS, strict=True):
            before[left], loss_before[left] = scale[left], loss[left]
            scale[left] = torch.where(held[left], inwards, outwards).to(scale)
            aim = ask(scale[left], left)
            loss[left] = aim.loss
            turned[left] = aim.reached != held[left]
            if not len(left := (~turned).nonzero()[:, 0]):
                break
        near, far = torch.where(held, scale, before), torch.where(held, before, scale)
        above, below = torch.where(held, loss, loss_before), torch.where(held, loss_before, loss)
        if len(left := turned.nonzero()[:, 0]):
            of = left  # the rows that `crossing` numbers
            far[of] = crossing(
                lambda scale, part, counts: ask(scale, of[part], counts),
                near[of],
                far[of],
                above[of],
                below[of],
                _PASSES,
            )
    delta, size = result.delta.clone(), result.size.clone()
    delta[rows] = classifier.box.confine(x[rows], change * per_row(far * (1 + _HAIR), change))
    size[rows] = torch.where(held | turned, classifier.norm(norm).size(delta[rows]), torch.inf)
    return replace(result, delta=delta, size=size, queries=queries)
