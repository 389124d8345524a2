"""Which class of an input is meant: the one decided for, the runner-up, the label, or a certain one."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Number
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data.dataset import counted
from advex.errors import InputError, SpecError
from advex.lookup.datasets import class_number

# A class of each example: [n] int64, or a list of numbers and names; or one number or name, of all of them. A goal's
# field of this type is a tensor once an attack runs: see `numbers_of`.
Classes: TypeAlias = Any
_ROWS = 512  # asked at a time
Target = int | Literal["predicted", "runner_up", "true"]


def targets(classifier: Classifier, x: Tensor, which: Target | str | Tensor, labels: Tensor | None = None) -> Tensor:
    """The class meant, one per example: [n] int64.

    which: "predicted", "runner_up" (the second most confident), "true" (`labels`, [n]), a class number, or [n]
    numbers. Raises InputError for anything else, and for "true" without labels.
    """
    if isinstance(which, Tensor):
        return which.to(x.device)
    if which == "true":
        if labels is None:
            raise InputError("The target is the true class, but no labels were given: use 'predicted', for example.")
        return labels.to(x.device)
    if which in ("predicted", "runner_up"):
        with torch.no_grad(), classifier.frozen():  # by logits: of confidences several may be 0 in float32
            parts = x.split(_ROWS) if isinstance(x, Tensor) and len(x) else [x]
            ranked = torch.cat([classifier(part) for part in parts]).argsort(dim=1, descending=True)
        return ranked[:, 0 if which == "predicted" else 1]
    if isinstance(which, int):
        return torch.full((len(x),), which, device=x.device)
    raise InputError(
        f"A target must be 'predicted', 'runner_up', a class number, one number per example, or 'true', not {which!r}."
    )


def numbers_of(classes: Classes, classifier: Classifier, x: Tensor, what: str) -> Tensor:
    """[n] int64, on x's device: the classes of x [n, *shape]. what: begins the sentence of an error.

    Raises InputError for what names no class of each example, once its number is known to be none.
    """
    if isinstance(classes, Tensor):
        if classes.is_floating_point() or classes.dtype == torch.bool or classes.ndim > 1:
            raise InputError(
                f"{what} needs class indices, int64 [{len(x)}], not {classes.dtype} {tuple(classes.shape)}."
            )
        return classes.to(x.device, torch.int64)
    several: Sequence[Any] = [classes] * len(x) if isinstance(classes, str | Number | None) else list(classes)
    if len(several) != len(x):
        raise InputError(f"{what} has {counted(len(several), 'class', 'classes')} for {counted(len(x), 'input')}.")
    count = classifier.predict(x[:1]).shape[1]
    try:
        numbers = [_number(each, classifier.class_names, count) for each in several]
    except SpecError as error:
        raise InputError(f"{what}: {error}") from None
    return torch.tensor(numbers, dtype=torch.int64, device=x.device)


def _number(named: Any, class_names: Sequence[str] | None, count: int) -> int:
    """A number is one, whatever classes are called; a text is a name, or the number of a class. Raises SpecError."""
    if isinstance(named, str):
        return class_number(named, class_names, count)
    if not isinstance(named, Integral) or isinstance(named, bool):
        raise SpecError(f"{named!r} is neither the name nor the number of a class.")
    if not 0 <= int(named) < count:
        raise SpecError(f"There is no class {named}: the model has {count} classes, 0 to {count - 1}.")
    return int(named)
