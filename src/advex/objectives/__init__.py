"""What training minimises: terms, freely combined. State goes in and comes out; nothing hides in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advex import processes, registry
from advex.classifier import Classifier
from advex.contexts import Refused, in_training
from advex.errors import InputError, SpecError
from advex.objectives.adversarial import Adversarial
from advex.objectives.alignment import Alignment
from advex.objectives.attributional import Attributional
from advex.objectives.l1 import L1
from advex.objectives.lipschitz import Lipschitz
from advex.objectives.natural import Natural
from advex.objectives.noise import Noise
from advex.objectives.output_zeroing import OutputZeroing, guideline
from advex.objectives.r2et import R2ET
from advex.objectives.stable_ig import StableIG
from advex.objectives.step import InputTransform, Parts, Regulariser, State, Step
from advex.types import Batch
from advex.waits import on_host


@dataclass(frozen=True)
class Taken:
    """What a step has come to besides its loss, on its device still. refused: see `contexts.refuse`."""

    parts: Parts
    state: State
    refused: Refused


def _named(kind: str, numbers: Mapping[str, float]) -> list[str]:
    return [name.removeprefix(f"{kind} ") for name in numbers if name.startswith(f"{kind} ")]


__all__ = [
    "L1",
    "R2ET",
    "Adversarial",
    "Alignment",
    "Attributional",
    "InputTransform",
    "Lipschitz",
    "Natural",
    "Noise",
    "Objective",
    "OutputZeroing",
    "Regulariser",
    "StableIG",
    "Step",
    "Taken",
    "build",
    "guideline",
    "make",
]


@dataclass(frozen=True)
class Objective:
    """The sum of its terms, by name. Input transforms act in the order given, before the loss is taken.

    start() -> state; (classifier, batch, state, *, rng) -> (loss [], its named parts, state).
    """

    terms: Mapping[str, InputTransform | Regulariser]

    @property
    def needs_float32(self) -> bool:
        """Whether a term takes finite differences, whose small steps bfloat16 and TF32 would round away."""
        return any(getattr(term, "derivative", None) == "finite_difference" for term in self.terms.values())

    def start(self) -> State:
        """The state before the first step: what each term remembers, as `term.key`."""
        begun = {name: term.start() for name, term in self.terms.items() if isinstance(term, Regulariser)}
        return {f"{name}.{key}": value for name, state in begun.items() for key, value in state.items()}

    def __call__(
        self, classifier: Classifier, batch: Batch, state: State, *, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, float], dict[str, float]]:
        """One step's loss, a scalar to call `backward` on. Leaves the global generators as they were.

        Raises InputError for a batch without examples, and what its terms raise.
        """
        loss, taken = self.taken(classifier, batch, state, rng=rng)
        parts, after, _ = self.settled(taken, len(batch))
        return loss, parts, after

    def taken(
        self, classifier: Classifier, batch: Batch, state: State, *, rng: torch.Generator
    ) -> tuple[Tensor, Taken]:
        """The loss of a step, and all else for `settled`: a GPU is not waited for, so that `backward` can begin."""
        if not len(batch):
            raise InputError("A loss needs at least one example, but the batch is empty.")
        step = Step(classifier=classifier, batch=batch, seed=int(torch.randint(2**31, (), generator=rng)))
        losses, parts, after = [], {}, {}
        with step.seeded(), classifier.between_rows(), in_training() as refused:
            for term in self.terms.values():
                if isinstance(term, InputTransform):
                    step.x, step.altered = term.alter(step), True
            for name, term in self._regularisers():
                own = {key: state[f"{name}.{key}"] for key in term.start()}
                loss, own_parts, own = term(step, own)
                losses.append(loss)
                parts |= own_parts
                after |= {f"{name}.{key}": value for key, value in own.items()}
        return torch.stack(losses).sum(), Taken(parts, after, refused)

    def settled(
        self, taken: Taken, rows: int, more: Mapping[str, float | Tensor] | None = None
    ) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Parts and state as numbers, of the rows of all processes: one wait for the device, and one exchange.

        rows: of this process. more: further numbers, which are summed over the processes and come back as the last.
        Raises what was refused on the way.
        """
        numbers: dict[str, float | Tensor] = {"rows": float(rows)}
        for name, value in taken.parts.items():
            some = isinstance(value, Tensor) and value.ndim > 0
            numbers[f"part {name}"], numbers[f"rows {name}"] = value.unbind() if some else (value, float(rows))
        numbers |= {f"state {key}": value for key, value in taken.state.items() if isinstance(value, Tensor)}
        numbers |= {f"more {key}": value for key, value in (more or {}).items()}
        numbers |= {f"wrong {number}": wrong for number, (wrong, _) in enumerate(taken.refused)}
        known = on_host(numbers)
        for number, (_, error) in enumerate(taken.refused):
            if known.pop(f"wrong {number}"):
                raise error()
        for name, value in taken.parts.items():
            if not (isinstance(value, Tensor) and value.ndim):
                known[f"part {name}"] *= rows
        known = processes.totals(known)
        parts = {
            name: known[f"part {name}"] / count for name in _named("part", known) if (count := known[f"rows {name}"])
        }
        sums = {key: known[f"state {key}"] for key in _named("state", known)}
        state = self._advanced({**taken.state, **sums}, round(known["rows"])) if sums else dict(taken.state)
        return parts, state, {key: known[f"more {key}"] for key in _named("more", known)}

    def _advanced(self, state: State, rows: int) -> State:
        after = {}
        for name, term in self._regularisers():
            own = {key.partition(".")[2]: value for key, value in state.items() if key.partition(".")[0] == name}
            own = getattr(term, "advanced", lambda own, rows: own)(own, rows)
            after |= {f"{name}.{key}": value for key, value in own.items()}
        return after

    def _regularisers(self) -> list[tuple[str, Regulariser]]:
        named = [(name, term) for name, term in self.terms.items() if isinstance(term, Regulariser)]
        return sorted(named, key=lambda pair: not hasattr(pair[1], "derivative"))


def build(terms: str | Mapping[str, Mapping[str, Any] | None]) -> Objective:
    """An objective from a spec string of one term, or from {name: options} of several.

    Cross-entropy (`natural`) is always among them. Raises SpecError.
    """
    if isinstance(terms, str):
        name, options = registry.parse(terms)
        terms = {name: options}
    made = {name: registry.make("objective", name, **(options or {})) for name, options in terms.items()}
    if not all(isinstance(term, InputTransform | Regulariser) for term in made.values()):
        raise SpecError(f"A term must alter examples or add to the loss; one of {', '.join(made)} does neither.")
    return Objective({"natural": Natural()} | made)


def make(name: str, **options: Any) -> Objective:
    """An objective of cross-entropy and one more term. Raises SpecError."""
    return build({name: options})
