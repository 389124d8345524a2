"""What the layers of a network answer in a forward pass, and the one place that takes derivatives of what it yields."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from advex.contexts import constant
from advex.errors import AdvexWarning, InputError, did_you_mean
from advex.networks.softening import NotTwiceError
from advex.reach import is_activation, reach

if TYPE_CHECKING:
    from advex.classifier import Classifier

Result = TypeVar("Result")

_NOT_TWICE = re.compile(r"derivative for (?:aten::)?(\w+?)(?:_backward)? is not implemented")
# (layer's name, layer, its answer) -> what the network goes on with in the answer's place; None: the answer.
Hear = Callable[[str, nn.Module, Tensor], Tensor | None]


@contextlib.contextmanager
def listening(network: nn.Module, hear: Hear, names: Iterable[str] | None = None) -> Iterator[None]:
    """Inside, `hear` is called with each tensor that a named layer answers, in the order of the calls.

    names: among `network.named_modules()`, where a leading `network.` may be left out; None: all layers. A layer that
    is called twice is heard twice; answers that are no tensors are not heard. Raises InputError for unknown names.
    """
    known = {name: module for name, module in network.named_modules() if name}
    layers = known if names is None else {_full(name, known): known[_full(name, known)] for name in names}

    def hook(name: str, module: nn.Module, inputs: object, answer: object) -> Tensor | None:
        return hear(name, module, answer) if isinstance(answer, Tensor) else None

    with contextlib.ExitStack() as hooks:
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(partial(hook, name)).remove)
        yield


def _full(name: str, known: Iterable[str]) -> str:
    for candidate in (name, f"network.{name}"):
        if candidate in known:
            return candidate
    raise InputError(f"The network has no layer '{name}': {did_you_mean(name, known)}", absent=True)


@contextlib.contextmanager
def hearing(classifier: Classifier, which: str) -> Iterator[list[tuple[str, Tensor]]]:
    """Inside, a list that fills with (name, answer) of the chosen layers, in the order of their calls, in one pass.

    which: as of `heard`, with its errors, raised at the end; and an InputError where the network was called more than
    once. An answer that the network writes into afterwards is heard as it was.
    """
    modules = {name: module for name, module in classifier.named_modules() if name}
    ranges: list[tuple[int, float]] = []
    names: set[str] = set()
    for part in which.split("+"):
        if match := re.fullmatch(r"relu:(?:(all)|(\d+)(?:-(\d+))?)", part.strip()):
            every, first, last = match.groups()
            ranges.append((0, math.inf) if every else (int(first), int(last or first)))
        else:
            names.add(_full(part.strip(), modules))
    counted = {name for name, module in modules.items() if ranges and is_activation(module)}
    heard: list[tuple[str, Tensor]] = []
    calls: list[str] = []
    passes = []

    def hear(name: str, module: nn.Module, answer: Tensor) -> Tensor:
        number = len(calls)
        if name in counted:
            calls.append(name)
        if name in names or (name in counted and any(first <= number <= last for first, last in ranges)):
            heard.append((name, answer))
            return answer.clone()
        return answer

    begins = classifier.network.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    with begins, listening(classifier, hear, counted | names):
        yield heard
    if len(passes) > 1:
        raise InputError(
            f"Layer outputs must come from one forward pass, but the network was called {len(passes)} times."
        )
    if silent := sorted(names - {name for name, _ in heard}):
        raise InputError(f"Layer '{silent[0]}' is not called in the forward pass, or its output is not a tensor.")
    if any(first > last or (last if math.isfinite(last) else first) >= len(calls) for first, last in ranges):
        raise InputError(_beyond(which, calls, modules))


def _beyond(which: str, calls: list[str], modules: Iterable[str]) -> str:
    if not calls:
        return (
            f"The layers '{which}' do not exist: the network calls no activation module such as nn.ReLU. "
            f"Name layers instead, joined by '+': {', '.join(list(modules)[1:9]) or 'it has none'}."
        )
    each = ", ".join(f"{number} '{name}'" for number, name in enumerate(calls))
    return (
        f"The layers '{which}' are out of range: the network calls {len(calls)} activation modules per pass, "
        f"and a range gives the first and the last of them: {each}."
    )


def heard(classifier: Classifier, x: Tensor, which: str) -> list[tuple[str, Tensor]]:
    """(name, answer [n, ...]) of the chosen layers in a forward pass of x [n, *shape], in the order of the calls.

    which: `relu:all`, all activation modules (nn.ReLU, and what acts number by number in its place: leaky, half-Huber,
    GELU, SiLU, ...); `relu:4-9`, the fifth to the tenth of their calls (both ends included, counted from 0 by the call:
    a module that is called twice counts twice), `relu:4` one of them; the name of a layer, of which all calls are heard
    (a leading `network.` may be left out); or several of these, joined by `+`.

    No hook stays, also where the pass fails. Warns of activations that are called as functions, or of a kind that is
    not known, which `relu:` does not hear. Raises InputError where nothing is heard, for ranges that are empty or go
    beyond the last call (with their number and names), and for unknown names.
    """
    warn_of_unheard(classifier, x, which)
    with hearing(classifier, which) as answers:
        classifier.logits(x)
    return answers


def warn_of_unheard(classifier: Classifier, x: Tensor, which: str) -> None:
    """An AdvexWarning that names the activations that `relu:` does not hear in a pass of x [n, *shape], n >= 1."""
    if "relu:" in which and len(x):
        with constant(classifier):  # else a product with a weight is none that is linear in x
            unheard = reach(classifier, x[:1], classifier.logits, is_activation).activations
        if unheard:
            warnings.warn(
                f"The layers '{which}' are modules, but this network also calls "
                f"{', '.join(unheard[:4])}{' and others' * (len(unheard) > 4)}, whose outputs cannot be "
                "read. Make them modules (nn.ReLU), or name the layers.",
                AdvexWarning,
                stacklevel=3,
            )


def derivatives(
    output: Tensor, by: Sequence[Tensor], *, create_graph: bool = False, keep: bool = False
) -> tuple[Tensor, ...]:
    """d(sum of output)/dt for each tensor t in `by` that took part in the pass; zero where it does not depend on t.

    create_graph: the derivatives can be differentiated. keep: the pass stays, for the derivatives of another output.
    """
    wanted = [t for t in by if t.requires_grad] if output.requires_grad else []
    if not wanted:
        return tuple(torch.zeros_like(t) for t in by)
    with torch.enable_grad():
        total = output.sum()  # given ones to start from, torch would import its compiler's shapes: 0.4 s
    try:
        slopes = torch.autograd.grad(
            total, wanted, create_graph=create_graph, retain_graph=keep or create_graph, materialize_grads=True
        )
    except RuntimeError as error:
        if (missing := _NOT_TWICE.search(str(error))) is None:
            raise
        raise NotTwiceError(
            f"torch has no second derivative of '{missing[1]}', which the network uses: replace it, or search "
            "without gradients (square, spsa)."
        ) from None
    slope_of = dict(zip(map(id, wanted), slopes, strict=True))
    return tuple(slope_of[id(t)] if id(t) in slope_of else torch.zeros_like(t) for t in by)


def input_gradient(
    score: Callable[[Tensor], Result], x: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Result]:
    """d(sum of score)/dx, and what score returned.

    score: maps x [n, *shape] to a tensor [n], or to an object whose `loss` is one (a goal's `Aim`).
    create_graph: keep the gradient differentiable, for objectives and maps that are trained on.
    Returns (gradient [n, *shape], the result of score). The gradient is zero where the score does not
    depend on x. Rows do not mix as long as the score's rows do not.
    """
    if not x.requires_grad:
        x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        result = score(x)
        values: Tensor = result if isinstance(result, Tensor) else result.loss  # pyright: ignore[reportAttributeAccessIssue]
        (gradient,) = derivatives(values, [x], create_graph=create_graph)
    # A network may hold pictures in another order than its input: what is done with the gradient goes by that of x.
    return gradient.contiguous() if x.is_contiguous() else gradient, result


def input_gradients(
    scores: Callable[[Tensor], Sequence[Tensor]], x: Tensor, *, create_graph: bool = False
) -> list[Tensor]:
    """d(sum of score)/dx of several scores of one pass: a list of [n, *shape]. See `input_gradient`."""
    if not x.requires_grad:
        x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        values = scores(x)
        return [derivatives(value, [x], create_graph=create_graph, keep=value is not values[-1])[0] for value in values]
