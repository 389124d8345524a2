"""What a search wants: goals on classes and on maps. Each is one file."""

from __future__ import annotations

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.errors import InputError
from advex.goals.become import Become
from advex.goals.below_chance import BelowChance
from advex.goals.confident import Confident
from advex.goals.goal import Aim, Goal, advantage, with_temperature, without_class
from advex.goals.mass_centre import MassCentre
from advex.goals.misaligned import Misaligned
from advex.goals.misclassify import Misclassify
from advex.goals.scramble import Scramble
from advex.goals.suppress import Suppress
from advex.goals.targets import targets
from advex.goals.toward_map import TowardMap
from advex.goals.unstable import Unstable
from advex.inputs import check_wrapped

__all__ = [
    "Aim",
    "Become",
    "BelowChance",
    "Confident",
    "Goal",
    "MassCentre",
    "Misaligned",
    "Misclassify",
    "Scramble",
    "Suppress",
    "TowardMap",
    "Unstable",
    "advantage",
    "at",
    "targets",
    "with_temperature",
    "without_class",
]


def at(spec: str, classifier: Classifier, x: Tensor, y: Tensor) -> Goal:
    """The goal of a spec string for inputs x [n, *shape] with labels y [n] int64, e.g. `"become:target=runner_up"`.

    `registry.build("goal", spec)` is the same goal before it is bound to rows: it checks the spec. Raises SpecError for
    the spec, InputError for inputs that the classifier refuses and for labels that do not fit them.
    """
    unbound = registry.build("goal", spec)
    check_wrapped(classifier, "A goal")
    classifier.check(x)
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise InputError(f"A goal needs one class index per input, int64 [{len(x)}], not {y.dtype} {list(y.shape)}.")
    return unbound.at(classifier, x, y)
