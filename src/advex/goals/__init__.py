"""What a search wants: goals on classes and on maps. Each is one file."""

from __future__ import annotations

import torch
from torch import Tensor

from advex import registry
from advex.classifier import Classifier
from advex.errors import InputError
from advex.goals.become import Become as Become
from advex.goals.below_chance import BelowChance as BelowChance
from advex.goals.confident import Confident as Confident
from advex.goals.goal import Aim as Aim
from advex.goals.goal import Goal as Goal
from advex.goals.goal import advantage as advantage
from advex.goals.goal import with_temperature as with_temperature
from advex.goals.goal import without_class as without_class
from advex.goals.mass_centre import MassCentre as MassCentre
from advex.goals.misaligned import Misaligned as Misaligned
from advex.goals.misclassify import Misclassify as Misclassify
from advex.goals.scramble import Scramble as Scramble
from advex.goals.suppress import Suppress as Suppress
from advex.goals.targets import targets as targets
from advex.goals.toward_map import TowardMap as TowardMap
from advex.goals.unstable import Unstable as Unstable


def at(spec: str, classifier: Classifier, x: Tensor, y: Tensor) -> Goal:
    """The goal of a spec string for inputs x [n, *shape] with labels y [n] int64, e.g. `"become:target=runner_up"`.

    `registry.build("goal", spec)` is the same goal before it is bound to rows: it checks the spec. Raises SpecError for
    the spec, InputError for inputs that the classifier refuses and for labels that do not fit them.
    """
    unbound = registry.build("goal", spec)
    classifier.check(x)
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise InputError(f"A goal needs one class per input, int64 [{len(x)}], not {y.dtype} {list(y.shape)}.")
    return unbound.at(classifier, x, y)
