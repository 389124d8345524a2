"""The one search loop. A search is a rule for the next step; everything else is here.

`run_search` checks the input, freezes the classifier, slices the batch and settles. `iterate` asks the
goal, remembers the best row by row, lets the rule step, keeps to the box and the mask, and drops
rows that are finished, so that they stop costing gradients.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from advex.attacks.rows import made_valid
from advex.classifier import Classifier, input_gradient, out_of_memory
from advex.errors import AdvexWarning, InputError
from advex.geometry import RMSE, Norm, per_row
from advex.goals import Goal
from advex.types import Perturbation, concatenate, take


@dataclass
class SearchState:
    """Where the active rows are. Tensors are [n, ...]; `rows` maps them back to the whole batch.

    x, mask: the clean input, and which of its elements may change. delta: the present change, inside
    the box. loss, reached, gradient, size: what the goal said there (gradient is 0 where the mask is).
    best, best_size, best_loss, best_reached: the best change so far in the rule's sense.
    memory: the rule's own tensors. flat: the gradient vanished at some step. done: the rule finished
    the row; it may stay on board for a while, but nothing that happens to it then counts.
    """

    classifier: Classifier
    norm: Norm
    x: Tensor
    goal: Any
    mask: Tensor | None
    delta: Tensor
    rows: Tensor
    best: Tensor
    best_size: Tensor
    best_loss: Tensor
    best_reached: Tensor
    gradients: Tensor
    flat: Tensor
    done: Tensor
    loss: Tensor = field(default_factory=lambda: torch.empty(0))
    reached: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    size: Tensor = field(default_factory=lambda: torch.empty(0))
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))
    memory: dict[str, Tensor] = field(default_factory=dict)

    def confine(self, delta: Tensor) -> Tensor:
        """delta on the mask and inside the box."""
        return self.classifier.box.confine(self.x, delta if self.mask is None else delta * self.mask)

    @property
    def free_gradient(self) -> Tensor:
        """The gradient, 0 where the box does not let the row go downhill."""
        return -self.classifier.box.free(self.x, self.delta, -self.gradient)


class Rule(Protocol):
    """How a search steps. `state.memory` holds what it must remember from step to step."""

    def start(self, state: SearchState) -> None: ...

    def step(self, state: SearchState, k: int) -> Tensor:
        """The change to try next, [n, *shape]; `iterate` cuts it to the mask and the box."""
        ...

    def better(self, state: SearchState) -> Tensor:
        """[n] bool: the present change beats the best so far."""
        ...

    def finished(self, state: SearchState, k: int) -> Tensor | None:
        """[n] bool: rows that need no further step, or None."""
        ...


def smallest(state: SearchState) -> Tensor:
    """Better is: reached, by a smaller change."""
    return state.reached & (state.size < state.best_size)


def deepest(state: SearchState) -> Tensor:
    """Better is: reached first of all, then a lower loss."""
    return (state.reached & ~state.best_reached) | (
        (state.reached == state.best_reached) & (state.loss < state.best_loss)
    )


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search brings home, before it is settled. Rows as the input's; size is inf where nothing was found."""

    delta: Tensor
    size: Tensor
    gradients: Tensor
    flat: Tensor


def iterate(
    rule: Rule,
    classifier: Classifier,
    x: Tensor,
    goal: Goal,
    *,
    norm: Norm,
    steps: int,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    clip: bool = True,
) -> SearchResult:
    """Step `steps` times (one gradient each), look once more without a gradient, and return the best.

    start: the first change (zero if not given). clip=False leaves the box (only for published protocols).
    """
    n = len(x)
    whole = SearchResult(
        delta=torch.zeros_like(x),
        size=x.new_full((n,), math.inf),
        gradients=torch.zeros(n, dtype=torch.int64, device=x.device),
        flat=torch.zeros(n, dtype=torch.bool, device=x.device),
    )
    at = SearchState(
        classifier=classifier,
        norm=norm,
        x=x,
        goal=goal,
        mask=mask,
        delta=torch.zeros_like(x) if start is None else start,
        rows=torch.arange(n, device=x.device),
        best=whole.delta,
        best_size=whole.size,
        best_loss=x.new_full((n,), math.inf),
        best_reached=torch.zeros(n, dtype=torch.bool, device=x.device),
        gradients=whole.gradients,
        flat=whole.flat,
        done=torch.zeros(n, dtype=torch.bool, device=x.device),
    )
    rule.start(at)
    for k in range(steps + 1):
        _look(at, gradient=k < steps)
        _remember(at, rule.better(at))
        if k == steps:
            break
        finished = rule.finished(at, k)
        if finished is not None:
            at.done = at.done | finished
            if (at := _compact(at, whole)).rows.numel() == 0:
                break
        delta = rule.step(at, k)
        at.delta = at.confine(delta) if clip else delta
    _write_back(at, whole)
    return whole


def _look(at: SearchState, *, gradient: bool) -> None:
    """Ask the goal at the present change."""

    def ask(changed: Tensor) -> Any:
        return at.goal(at.classifier, changed)

    if gradient:
        raw, aim = input_gradient(ask, at.x + at.delta)
        # What is not finite cannot be followed: stand still there rather than spread NaN, and say so.
        finite = torch.isfinite(raw)
        at.gradient = torch.where(finite if at.mask is None else finite & at.mask, raw, 0.0)
        at.gradients = at.gradients + ~at.done
        blind = ~finite.flatten(1).all(dim=1) | ~(at.gradient != 0).flatten(1).any(dim=1)
        at.flat = at.flat | (blind & ~at.done)
    else:
        with torch.no_grad():
            aim = ask(at.x + at.delta)
    at.loss, at.reached = aim.loss.detach(), aim.reached
    at.size = at.norm.size(at.delta)


def _remember(at: SearchState, better: Tensor) -> None:
    better = better & ~at.done
    at.best = torch.where(per_row(better, at.x), at.delta, at.best)
    at.best_size = torch.where(better, torch.where(at.reached, at.size, math.inf), at.best_size)
    at.best_loss = torch.where(better, at.loss, at.best_loss)
    at.best_reached = torch.where(better, at.reached, at.best_reached)


def _write_back(at: SearchState, whole: SearchResult) -> None:
    whole.delta[at.rows], whole.size[at.rows] = at.best, at.best_size
    whole.gradients[at.rows], whole.flat[at.rows] = at.gradients, at.flat


def _compact(at: SearchState, whole: SearchResult) -> SearchState:
    """Drop finished rows once an eighth of the batch is finished; when compiled, at a half and a quarter alone."""
    active = int((~at.done).sum())
    wanted = active
    if at.classifier.compiled and active:  # each batch size is compiled anew
        wanted = max(1 << (active - 1).bit_length(), 1 << (len(whole.size) - 1).bit_length() >> 2)
    if active and wanted > len(at.done) * 7 // 8:
        return at
    _write_back(at, whole)
    # Active rows first; in a compiled search some finished rows fill up to the size.
    keep = at.done.to(torch.int8).argsort(stable=True)[: min(wanted, len(at.done))].sort().values
    kept = {name: value[keep] for name, value in vars(at).items() if isinstance(value, Tensor) and value.ndim}
    return SearchState(
        **{
            **vars(at),
            **kept,
            "goal": take(at.goal, keep),
            "memory": {name: value[keep] for name, value in at.memory.items()},
        }
    )


def verify(
    classifier: Classifier,
    x: Tensor,
    found: SearchResult,
    goal: Goal,
    norm: Norm,
    *,
    clip: bool = True,
    lengthen: int = 0,
) -> Perturbation:
    """The only place where a search's success is established: cut to the box, ask again in full precision.

    lengthen: how often a change that the search believed in, but that fails this check by a rounding
    error, may be made 0.1 % longer (minimal searches stand right on the boundary).
    """

    def judge(delta: Tensor) -> Tensor:
        with torch.no_grad(), classifier.accelerated():
            return goal(classifier, x + delta).reached

    delta = classifier.box.confine(x, found.delta) if clip else found.delta
    believed = torch.isfinite(found.size)
    if clip and classifier.features is not None:
        delta, reached = made_valid(classifier.features, x, delta, judge, believed if lengthen else None)
    else:
        reached = judge(delta)
    for _ in range(lengthen if classifier.features is None else 0):
        if not (lost := believed & ~reached).any():
            break
        longer = classifier.box.confine(x, delta * 1.001)
        delta = torch.where(per_row(lost, x), longer, delta)
        reached = judge(delta)
    size, rmse = norm.size(delta), RMSE.size(delta)
    return Perturbation(
        clean=x,
        delta=delta,
        reached=reached,
        size=torch.where(reached, size, math.inf),
        rmse=torch.where(reached, rmse, math.inf),
        gradients=found.gradients,
        flat=found.flat,
    )


def run_search(
    find: Callable[[Tensor, Any, Tensor | None], SearchResult],
    classifier: Classifier,
    x: Tensor,
    goal: Goal,
    *,
    norm: Norm,
    mask: Tensor | None = None,
    max_batch: int | str | None = None,
    clip: bool = True,
    lengthen: int = 0,
) -> Perturbation:
    """Run `find(x, goal, mask)` slice by slice on a frozen classifier and verify what it found.

    mask: bool, broadcastable to x, True where the input may change. max_batch: rows per slice;
    "auto" starts with all rows and halves on running out of memory (and says so); None: all at once.
    Raises InputError for inputs that the classifier refuses and masks that do not fit.
    """
    if mask is not None:
        try:
            mask = mask.to(device=x.device, dtype=torch.bool).expand(x.shape)
        except RuntimeError:
            shapes = f"{tuple(mask.shape)} does not broadcast to inputs {tuple(x.shape)}"
            raise InputError(f"A mask of shape {shapes}.") from None
        mask = mask if classifier.features is None else classifier.features.whole(mask)
    for part in fields(goal):  # pyright: ignore[reportArgumentType]
        value = getattr(goal, part.name)
        if isinstance(value, Tensor) and value.ndim and len(value) != len(x):
            raise InputError(f"The goal's {part.name} has {len(value)} rows for {len(x)} inputs.")
    with classifier.frozen():
        classifier.check(x)
        x = x.detach()
        with torch.no_grad():
            classifier(x[:2])  # a wrong output, or probabilities, are told once and before the work

        def run(rows: slice) -> Perturbation:
            part, aim = x[rows], take(goal, rows)
            found = find(part, aim, None if mask is None else mask[rows])
            return verify(classifier, part, found, aim, norm, clip=clip, lengthen=lengthen)

        return concatenate(list(in_slices(run, len(x), max_batch)))


def in_slices(run: Callable[[slice], Any], n: int, max_batch: int | str | None) -> Iterator[Any]:
    """run(slice) over all n rows. "auto" halves the slice whenever memory runs out, and says so."""
    size = n if max_batch in (None, "auto") else max_batch
    if not isinstance(size, int) or (size < 1 and n):
        raise InputError(f"max_batch must be at least 1, 'auto' or None, not {max_batch!r}.")
    done = 0
    while done < n or (n == 0 and done == 0):
        try:
            yield run(slice(done, done + size))
        except RuntimeError as error:
            if not (out_of_memory(error) and max_batch == "auto" and size > 1):
                raise
            size = (size + 1) // 2
            warnings.warn(f"Out of memory: going on with max_batch={size}.", AdvexWarning, stacklevel=2)
            continue
        done += max(size, 1)
