"""What all goals share: a goal's loss falls towards it, and `reached` says whether it holds.

Goals on classes follow one family of differences between a class and the others (`advantage`),

    y_c - tau * log sum_{j != c} exp(y_j / tau),

which is the margin to the runner-up as tau -> 0 and the log-odds of class c (the direction of
cross-entropy, without its saturation) at tau = 1. No single tau is best on every network, so
searches may ask for another one: `with_temperature`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.errors import InputError, SpecError, which_option
from advex.geometry import LINF
from advex.inputs import check_wrapped
from advex.registry import register


@dataclass(frozen=True, kw_only=True)
class Aim:
    """loss: [n], falls towards the goal. reached: [n] bool.

    score: [n], what the best of several points is the lowest by, where the loss is only what can be climbed instead
    (the share of the largest elements that stay, beside something with derivatives). None: the loss.
    """

    loss: Tensor
    reached: Tensor
    score: Tensor | None = None

    @property
    def rank(self) -> Tensor:
        """[n], without derivatives: the score, and the loss where there is none."""
        return (self.loss if self.score is None else self.score).detach()


class Goal(Protocol):
    """A frozen dataclass whose tensors have a row per example, so that searches can take some of its rows.

    Row i of the aim depends on row i of x, and of the goal's tensors, alone. A goal is reached where its loss is below
    0, unless it has the attribute `open_ended = True`: such a goal knows only more or less. One that has also
    `unreachable = True` never is, and `verify` does not ask it.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, classifier: Classifier, x: Tensor) -> Aim: ...


G = TypeVar("G")


def goal(name: str, *, cites: str = "", examples: Sequence[str] = ()) -> Callable[[G], G]:
    """Decorator: make a goal known by a name.

    Its class method `at(classifier, x, y, *, OPTIONS)` binds it to inputs x [n, *shape] with labels y [n]. What a spec
    string builds is the goal before that: a frozen dataclass of the options, with a method `at(classifier, x, y)`. The
    options are checked by the goal's own `__post_init__`, if it has one, which therefore may look at options alone.
    cites, examples: see `register`.
    """

    def add(made: Any) -> Any:
        options = [each for each in inspect.signature(made.at).parameters.values() if each.kind is each.KEYWORD_ONLY]
        members = {
            "__module__": made.__module__,
            "__doc__": made.__doc__,
            "__annotations__": {option.name: option.annotation for option in options},
            "at": lambda self, classifier, x, y: made.at(classifier, x, y, **vars(self)),
            **{option.name: option.default for option in options},
        }
        if "__post_init__" in vars(made):
            members["__post_init__"] = made.__post_init__
        unbound = dataclass(frozen=True, kw_only=True)(type(f"Unbound{made.__name__}", (), members))
        register("goal", name, cites=cites, examples=examples)(unbound)
        made.__init__, made.__call__ = _made_of(made), _asking(made)
        return made

    return add


def _made_of(made: Any) -> Callable[..., None]:
    """The goal's `__init__`, which says in a sentence what it needs."""
    usual = made.__init__

    @functools.wraps(usual)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        try:
            usual(self, *args, **options)
        except TypeError:
            known = [each.name for each in dataclasses.fields(made) if each.init]
            if unknown := next((option for option in options if option not in known), None):
                raise SpecError(f"{made.__name__} has no option '{unknown}': {which_option(unknown, known)}") from None
            needed = [each.name for each in dataclasses.fields(made) if each.default is each.default_factory]
            if len(args) > len(known) or {*known[: len(args)], *options} >= {*needed}:
                raise
            raise SpecError(f"{made.__name__} needs {' and '.join(needed)}: {_call(made, needed)}") from None

    return __init__


def _call(made: Any, needed: Sequence[str]) -> str:
    """How it is made, with what it cannot do without."""
    given = {each.name: each for each in dataclasses.fields(made)}
    call = f"{made.__name__}({', '.join(f'{name}=...' if given[name].kw_only else name for name in needed)})"
    classes = [name for name in needed if given[name].type == "Classes"]
    return call + (f", where {classes[0]} is a class, or one of each example: numbers or names." if classes else ".")


def _asking(made: Any) -> Callable[..., Aim]:
    """The goal's `__call__`, of a classifier alone."""
    usual = made.__call__

    @functools.wraps(usual)
    def __call__(self: Any, classifier: Classifier, x: Tensor) -> Aim:
        check_wrapped(classifier, made.__name__)
        return usual(self, classifier, x)

    return __call__


def with_temperature(goal: G, temperature: float | Tensor) -> G:
    """The same goal with another tau, if it has one; else the goal itself."""
    if hasattr(goal, "temperature"):
        return dataclasses.replace(goal, temperature=temperature)  # pyright: ignore[reportArgumentType]
    return goal


def without_class(goal: G, avoided: Tensor) -> G | None:
    """The same goal, pursued by way of other classes than `avoided` [n] or [n, k]; None if it knows no such detour.

    Searches use it to leave a local minimum. What counts as reached does not change.
    """
    if hasattr(goal, "avoided"):
        return dataclasses.replace(goal, avoided=avoided)  # pyright: ignore[reportArgumentType]
    return None


def advantage(
    logits: Tensor, classes: Tensor, temperature: float | Tensor = 0.0, avoided: Tensor | None = None
) -> Tensor:
    """How far `classes` [n] lie ahead of the others: [n], see the module's formula.

    temperature: tau, one or [n]. avoided: [n] or [n, k], classes of each row that the others do not include.
    """
    return ahead(logits, *own_and_others(logits, classes), temperature, avoided)


def lost(own: Tensor, others: Tensor) -> Tensor:
    """[n] bool: the decision is another one, or none is made (`logits.answered`). As `own_and_others` gives them."""
    own = own.detach()
    return ~((own - others.detach().amax(dim=1) >= 0) & (own < math.inf))  # what is not a number is not above 0


def ahead(
    logits: Tensor, own: Tensor, others: Tensor, temperature: float | Tensor = 0.0, avoided: Tensor | None = None
) -> Tensor:
    """`advantage`, from what `own_and_others` gives of the logits."""
    if avoided is not None:
        others = others.scatter(1, avoided.reshape(len(others), -1), -math.inf)
    if isinstance(temperature, Tensor):
        # A tau of nothing is the margin, up to rounding; how little that is goes by the size of small logits.
        size = LINF.size(logits.detach()).clamp(torch.finfo(logits.dtype).tiny * 1e6, 1.0)
        tau = torch.maximum(temperature, 1e-6 * size).reshape(-1, 1)
        return own - (tau * torch.logsumexp(others / tau, dim=1, keepdim=True))[:, 0]
    if temperature <= 0:
        return own - others.amax(dim=1)
    return own - temperature * torch.logsumexp(others / temperature, dim=1)


def own_and_others(values: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Of values [n, V]: those of the given `classes` [n], [n], and all with -inf in their place, [n, V].

    Raises InputError for classes that do not fit.
    """
    try:
        if classes.shape != values.shape[:1]:
            raise IndexError(f"got the shape {tuple(classes.shape)}")
        if classes.is_floating_point() or classes.dtype == torch.bool:
            raise IndexError(f"got {classes.dtype}; y.long() makes labels of it")
        own = values.gather(1, classes[:, None])[:, 0]
        return own, values.scatter(1, classes[:, None], -math.inf)
    except (IndexError, RuntimeError) as error:
        raise InputError(
            f"A goal needs one class index per input, int64 in [0, {values.shape[1]}), for {len(values)} "
            f"inputs: {error}"
        ) from None
