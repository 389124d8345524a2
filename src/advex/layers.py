"""What the layers of a network answer in a forward pass, and the one place that takes derivatives of what it yields."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from advex.errors import InputError, did_you_mean

Result = TypeVar("Result")

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
    raise InputError(f"The network has no layer '{name}': {did_you_mean(name, known)}")


def activations(network: nn.Module, run: Callable[[], object], names: Iterable[str]) -> list[tuple[str, Tensor]]:
    """(name, answer) of the named layers while `run()` makes its passes, in the order of the calls; see `listening`."""
    heard: list[tuple[str, Tensor]] = []
    with listening(network, lambda name, module, answer: heard.append((name, answer)), names):
        run()
    return heard


def derivatives(
    output: Tensor, by: Sequence[Tensor], *, create_graph: bool = False, keep: bool = False
) -> tuple[Tensor, ...]:
    """d(sum of output)/dt for each tensor t in `by` that took part in the pass; zero where it does not depend on t.

    create_graph: the derivatives can be differentiated. keep: the pass stays, for the derivatives of another output.
    """
    wanted = [t for t in by if t.requires_grad] if output.requires_grad else []
    if not wanted:
        return tuple(torch.zeros_like(t) for t in by)
    ones, kept = torch.ones_like(output), keep or create_graph
    slopes = torch.autograd.grad(
        output, wanted, ones, create_graph=create_graph, retain_graph=kept, materialize_grads=True
    )
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
    return gradient, result


def input_gradients(
    scores: Callable[[Tensor], Sequence[Tensor]], x: Tensor, *, create_graph: bool = False
) -> list[Tensor]:
    """d(sum of score)/dx of several scores of one pass: a list of [n, *shape]. See `input_gradient`."""
    if not x.requires_grad:
        x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        values = scores(x)
        return [derivatives(value, [x], create_graph=create_graph, keep=value is not values[-1])[0] for value in values]
