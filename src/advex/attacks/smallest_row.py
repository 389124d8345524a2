"""The smallest change of a table's rows that reaches a goal: what a search by gradients came to, made better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from advex.attacks.counterfactual import FewFeatures
from advex.attacks.rows import made_valid
from advex.attacks.search import SearchResult
from advex.classifier import Classifier
from advex.features import FeatureSpec
from advex.geometry import Norm, per_row
from advex.goals import Goal
from advex.types import take

_HALVINGS = 8
_MOST = 12  # columns that are changed at once where few do not do


def smallest_rows(
    classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, norm: Norm, result: SearchResult
) -> SearchResult:
    """The smallest, in a norm, of the valid rows that `result` leads to and that a search by columns finds.

    A relaxed row that reaches the goal may have no valid one on its way, or a far one. All are drawn in, column by
    column, as far as the goal still holds. Where there are none, more columns are changed at once.
    """
    features = classifier.features
    assert features is not None

    def judge(delta: Tensor) -> Tensor:
        with torch.no_grad(), classifier.accelerated():
            return goal(classifier, x + delta).reached

    few = FewFeatures()
    by_columns = _by_columns(few, classifier, x, goal, mask, torch.ones(len(x), dtype=torch.bool, device=x.device))
    best = replace(result, size=torch.full_like(result.size, math.inf), queries=result.queries + by_columns.queries)
    on_the_way = made_valid(features, x, result.delta, judge, torch.isfinite(result.size))
    lost = by_columns.size.isinf() & ~on_the_way[1]
    if lost.any():
        most = replace(few, features=max(min(_MOST, len(features.features)), few.features))
        wide = _by_columns(most, classifier, x, goal, mask, lost)
        by_columns = replace(_shorter(by_columns, wide), queries=wide.queries)
        best = replace(best, queries=best.queries + wide.queries)
    for delta, reached in (on_the_way, (by_columns.delta, by_columns.size.isfinite())):
        drawn, queries = _drawn_in(features, x, delta, reached, judge)
        size = torch.where(reached, classifier.norm(norm).size(drawn), math.inf)
        best = _shorter(replace(best, queries=best.queries + queries), replace(best, delta=drawn, size=size))
    return best


def _by_columns(
    search: FewFeatures, classifier: Classifier, x: Tensor, goal: Goal, mask: Tensor | None, wanted: Tensor
) -> SearchResult:
    """What a search by columns finds for the wanted rows [n] bool; of the others nothing, at no cost."""
    rows = wanted.nonzero()[:, 0]
    part = search.find(classifier, x[rows], take(goal, rows), None if mask is None else mask[rows], 0)
    nothing = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return SearchResult(
        delta=torch.zeros_like(x).index_copy_(0, rows, part.delta),
        size=x.new_full((len(x),), math.inf).index_copy_(0, rows, part.size),
        gradients=nothing,
        queries=nothing.index_copy(0, rows, part.queries),
        flat=nothing > 0,
    )


def _shorter(first: SearchResult, second: SearchResult) -> SearchResult:
    """The first, with the second's changes where they are smaller."""
    nearer = second.size < first.size
    delta = torch.where(per_row(nearer, first.delta), second.delta, first.delta)
    return replace(first, delta=delta, size=torch.where(nearer, second.size, first.size))


def _drawn_in(
    features: FeatureSpec, x: Tensor, delta: Tensor, reached: Tensor, judge: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Changes [n, d], where they reach the goal, with each column as near to x as the others let it be; queries [n].

    Column after column, in each row the farthest first: bisected, and back to where it was if that will do.
    """
    owner = features.owner.to(x.device)
    weight = x.new_zeros(len(x), len(features.features)).index_add_(1, owner, delta.square()) * reached[:, None]
    weight, order = weight.sort(dim=1, descending=True, stable=True)
    for rank in range(int((weight > 0).any(dim=0).sum())):
        moved = owner == order[:, rank, None]
        near, far, best = torch.zeros_like(weight[:, 0]), torch.ones_like(weight[:, 0]), delta
        for halving in range(_HALVINGS + 1):
            middle = (near + far) / 2 if halving else near
            tried = features.nearest(x + torch.where(moved, delta * middle[:, None], delta), x) - x
            holds = judge(tried) & reached
            best = torch.where(holds[:, None], tried, best)
            near, far = torch.where(holds, near, middle), torch.where(holds, middle, far)
        delta = best
    return delta, (weight > 0).sum(dim=1) * (_HALVINGS + 1)
