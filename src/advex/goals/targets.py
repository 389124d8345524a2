"""Which class of an input is meant: the one decided for, the runner-up, the label, or a certain one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.errors import InputError

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
            raise InputError("The true classes are the target, but no labels were given: choose 'predicted', say.")
        return labels.to(x.device)
    if which in ("predicted", "runner_up"):
        ranked = classifier.predict(x).argsort(dim=1, descending=True)
        return ranked[:, 0 if which == "predicted" else 1]
    if isinstance(which, int):
        return torch.full((len(x),), which, device=x.device)
    raise InputError(
        f"A target is 'predicted', 'runner_up', a class number, one number per example, or 'true', not {which!r}."
    )
