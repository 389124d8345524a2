"""The number of a classifier's answer that a map explains."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from advex.classifier import Classifier
from advex.errors import InputError
from advex.logits import out_of_memory

# Which output of the class is explained: its logit, its softmax confidence, or the cross-entropy against it.
Of = Literal["logit", "probability", "loss"]
# Those that rise with what speaks for the class: what an answer loses or gains is measured by them.
Rising = Literal["logit", "probability"]


def output(classifier: Classifier, x: Tensor, target: Tensor, of: Of) -> Tensor:
    """The explained number of each row, [n], for x [n, *shape] and classes target [n]. Checks no box: see `logits`."""
    return chosen_output(classifier.logits(x), target, of)


def every_output(logits: Tensor, of: Of) -> Tensor:
    """The number that `of` names for every class: [n, classes] from logits [n, classes]."""
    if of == "logit":
        return logits
    return logits.softmax(dim=1) if of == "probability" else -logits.log_softmax(dim=1)


def chosen_output(logits: Tensor, target: Tensor, of: Of) -> Tensor:
    """The number that `of` names for each row's own class: [n]. Raises InputError where there is no such class."""
    if logits.ndim != 2 or len(logits) != len(target):
        raise InputError(f"The network must return logits [{len(target)}, classes], not {tuple(logits.shape)}.")
    try:
        return every_output(logits, of).gather(1, target[:, None])[:, 0]
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise InputError(f"A target must be a class index in [0, {logits.shape[1]}): {error}") from None
