"""What surrounds a call of a network: contexts of the caller do not reach in, and parameters are held still."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, nn

from advex.errors import AdvexWarning

# Of what is wrong, and the error that says so; see `refuse`.
Refused = list[tuple[Tensor, Callable[[], Exception]]]

_refused: ContextVar[Refused | None] = ContextVar("refused", default=None)
_silent: ContextVar[bool] = ContextVar("silent", default=False)
Rows = TypeVar("Rows")


def ordinary(value: Rows) -> Rows:
    """A tensor, or a dataclass of tensors, through which derivatives can go even if it was made in inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value  # pyright: ignore[reportReturnType]
    tensors = {name: part for name, part in vars(value).items() if isinstance(part, Tensor) and part.is_inference()}
    return dataclasses.replace(value, **{name: part.clone() for name, part in tensors.items()}) if tensors else value  # pyright: ignore


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Inside, neither inference mode nor autocast of the caller is on; whether derivatives are taken stays as it is."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))  # which turns derivatives on ...
            stack.enter_context(torch.no_grad())  # ... where they were off
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def by_default(dtype: torch.dtype) -> Iterator[None]:
    """Inside, new floating tensors are of this type unless another is named."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter takes part in derivatives."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def in_modes(modes: Iterable[tuple[nn.Module, bool]]) -> Iterator[None]:
    """Inside, each module is in training mode, or is not, as its pair says; outside it is as it was."""
    wanted = list(modes)
    before = [(module, module.training) for module, _ in wanted]
    try:
        for module, training in wanted:  # not train(), which exported modules refuse
            module.training = training
        yield
    finally:
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def averaged(classifier: nn.Module, draws: int) -> Iterator[None]:
    """Inside, a classifier whose answers vary gives the mean of so many: the logarithm of its mean confidences."""
    before = classifier.__dict__["draws"]
    classifier.__dict__["draws"] = draws
    try:
        yield
    finally:
        classifier.__dict__["draws"] = before


@contextlib.contextmanager
def pixelwise(classifier: nn.Module) -> Iterator[None]:
    """Inside, a classifier's network holds pictures pixel by pixel (channels last): faster where they are large.

    Nothing else changes but rounding: its inputs and their gradients are laid out as they were.
    """
    kept = [(parameter, parameter.data) for parameter in classifier.parameters() if parameter.ndim == 4]
    before = classifier.__dict__["pixelwise"]
    try:
        for parameter, values in kept:
            parameter.data = values.contiguous(memory_format=torch.channels_last)
        classifier.__dict__["pixelwise"] = True
        yield
    finally:
        classifier.__dict__["pixelwise"] = before
        for parameter, values in kept:
            parameter.data = values


@contextlib.contextmanager
def in_training() -> Iterator[Refused]:
    """Inside, there are no doubts: a training step shows its own by the loss alone.

    Gives the list that `refuse` fills; whoever looks at the step's numbers looks at it too.
    """
    token = _refused.set(refused := [])
    try:
        with without_doubts():
            yield refused
    finally:
        _refused.reset(token)


@contextlib.contextmanager
def without_doubts() -> Iterator[None]:
    """Inside, nobody is warned of doubts about answers and maps."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def doubts() -> bool:
    """Whether somebody is to be warned of doubts: nothing has to be known of them elsewhere."""
    return not _silent.get()


def refuse(wrong: Tensor, error: Callable[[], Exception]) -> None:
    """Raise error() where wrong [] is true: at once; in training with the step's numbers, lest a GPU be waited for."""
    refused = _refused.get()
    if refused is not None:
        refused.append((wrong, error))
    elif wrong:
        raise error()


def warn_of_doubt(text: str, stacklevel: int) -> None:
    """An AdvexWarning about an answer or a map that somebody is given. stacklevel: as if the caller warned."""
    if doubts():
        warnings.warn(text, AdvexWarning, stacklevel=stacklevel + 1)
