"""What an attack is: a formula that finds a change, and around it what all attacks share.

`attack` registers a class that has the formula and gives it its `__call__`. `run_search` checks the input, freezes
the classifier, slices the batch and verifies what was found.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform

import torch
from torch import Tensor

from advex.attacks.rows import made_valid
from advex.attacks.search import SearchResult
from advex.classifier import Classifier
from advex.contexts import averaged, ordinary
from advex.errors import AdvexWarning, InputError
from advex.geometry import RMSE, Norm, as_norm, per_row
from advex.goals import Goal
from advex.goals.targets import numbers_of
from advex.inputs import check_wrapped
from advex.logits import out_of_memory
from advex.options import with_options
from advex.registry import register
from advex.types import Perturbation, concatenate, take

Made = TypeVar("Made", bound=type)

# What an attack is after: the smallest change that reaches the goal; that which changes the fewest elements; the
# smallest of the changes that it tries; or the lowest loss within a distance, or at it.
Promise = Literal["smallest", "fewest", "smallest tried", "lowest"]


class Search(Protocol):
    """(classifier, x, goal) -> Perturbation. Row i of the result depends on row i of x and goal alone.

    Any callable of this form is one. The body is that of the classes that `attack` registers.
    """

    def __call__(
        self: Any,
        classifier: Classifier,
        x: Tensor,
        goal: Goal,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        max_batch: int | str | None = None,
    ) -> Perturbation:
        """Search for a change of each row of x [n, *shape] that reaches the goal.

        seed: of everything random. mask: bool, broadcastable to x, True where the input may change. max_batch: rows
        at a time; "auto" starts with all and halves when memory runs out; None: all at once.
        Raises InputError for inputs that the classifier refuses, and for goals and masks that do not fit them.
        """

        def find(x: Tensor, goal: Any, mask: Tensor | None) -> SearchResult:
            return self.find(classifier, x, goal, mask, seed)

        clip, norm = getattr(self, "clip", True), as_norm(getattr(self, "norm", RMSE))
        lengthen = 8 if clip and self.promises in ("smallest", "fewest") else 0
        with averaged(classifier, getattr(self, "draws", 1)):
            return run_search(
                find, classifier, x, goal, norm=norm, mask=mask, max_batch=max_batch, clip=clip, lengthen=lengthen
            )


@dataclass_transform(frozen_default=True, kw_only_default=True)
def attack(
    name: str,
    *,
    cites: str = "",
    promises: Promise = "lowest",
    exact_for: Literal["linear"] | None = None,
    examples: Sequence[str] = (),
) -> Callable[[Made], Made]:
    """Class decorator: register a search by name. The class has its options as fields (see `options`), and

        def find(self, classifier, x, goal, mask, seed) -> SearchResult

    for rows x [n, *shape] that have been checked, on a frozen classifier; mask is bool like x, or None. Its `norm`, a
    field or a class attribute, measures the result (RMSE where it has none). Where its `clip` is False, changes may
    leave the box.

    Its `draws`, where it has such an option, says of how many answers the mean is attacked, of networks whose answers
    vary.

    promises: what it is after; a small change that fails by a rounding error is made longer (see `verify`).
    exact_for: the only networks that it is for. examples: see `registry.register`.
    """

    def add(made: Made) -> Made:
        made = with_options(made)
        made.promises, made.exact_for = promises, exact_for
        made.__call__ = _checked
        return register("attack", name, cites=cites, examples=examples)(made)

    return add


@functools.wraps(Search.__call__)
def _checked(self: Any, classifier: Any = None, x: Any = None, goal: Any = None, **options: Any) -> Perturbation:
    """`Search.__call__`, once what it is given is of the right kinds. Raises InputError with the right word."""
    name = type(self).__name__
    check_wrapped(classifier, name)
    if goal is None or isinstance(goal, Tensor | str | int | list | tuple):
        given = "none" if goal is None else f"the text {goal!r}" if isinstance(goal, str) else "only class indices"
        target = repr(goal) if isinstance(goal, str) else "target"
        raise InputError(
            f"{name} needs a goal, but got {given}: pass Misclassify(labels) or Become({target}) of advex.goals, "
            f"as in {name}()(classifier, x, Misclassify(labels))."
        )
    return Search.__call__(self, classifier, x, goal, **options)


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
    """Run `find(x, goal, mask)` slice by slice on a frozen classifier and verify what it finds.

    mask: bool, broadcastable to x, True where the input may change. max_batch: rows per slice;
    "auto" starts with all rows and halves on running out of memory (and says so); None: all at once.
    Raises InputError for inputs that the classifier refuses and masks that do not fit.
    """
    if mask is not None:
        try:
            mask = mask.to(device=x.device, dtype=torch.bool).expand(x.shape)
        except RuntimeError:
            shapes = f"{tuple(mask.shape)} does not broadcast to inputs {tuple(x.shape)}"
            raise InputError(f"The mask of shape {shapes}.") from None
        mask = mask if classifier.features is None else classifier.features.whole(mask)
    if not (is_dataclass(goal) and callable(goal)) or isinstance(goal, type):
        raise InputError(
            "A goal is Misclassify(labels) or Become(target) of advex.goals, the result of goals.at, or a frozen "
            f"dataclass of your own whose tensors have one row per example; got {goal!r:.200}."
        )
    classifier.check(x)
    for part in fields(goal):
        value = getattr(goal, part.name)
        if part.type == "Classes" and not isinstance(value, Tensor):
            value = numbers_of(value, classifier, x, f"{type(goal).__name__}'s {part.name}")
            goal = replace(goal, **{part.name: value})
        if isinstance(value, Tensor) and value.ndim and len(value) != len(x):
            raise InputError(f"The goal's {part.name} has {len(value)} rows for {len(x)} inputs.")
    with classifier.frozen():
        x, goal = ordinary(x.detach().to(classifier.dtype)), ordinary(goal)
        with torch.no_grad():
            classifier.answers(x[:2])  # a wrong output, or probabilities, are named once, before the work

        def run(rows: slice) -> Perturbation:
            part, aim = x[rows], take(goal, rows)
            result = find(part, aim, None if mask is None else mask[rows])
            return verify(classifier, part, result, aim, norm, clip=clip, lengthen=lengthen)

        return concatenate(list(in_slices(run, len(x), max_batch)))


def verify(
    classifier: Classifier,
    x: Tensor,
    result: SearchResult,
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
        if getattr(goal, "unreachable", False):
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with torch.no_grad(), classifier.accelerated():
            return goal(classifier, x + delta).reached

    delta = classifier.box.confine(x, result.delta) if clip else result.delta
    believed = torch.isfinite(result.size)
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
    size, rmse = (classifier.norm(each).size(delta) for each in (norm, RMSE))
    return Perturbation(
        clean=x,
        delta=delta,
        reached=reached,
        size=torch.where(reached, size, math.inf),
        rmse=torch.where(reached, rmse, math.inf),
        gradients=result.gradients,
        queries=result.queries,
        flat=result.flat,
        weight=result.weight,
    )


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
            warnings.warn(f"Out of memory: continuing with max_batch={size}.", AdvexWarning, stacklevel=2)
            continue
        done += max(size, 1)
