"""One step of training as its terms see it, and what a term is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Protocol, TypeVar, dataclass_transform, runtime_checkable

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn.functional import cross_entropy

from advex import attacks, batch_norm, processes
from advex.classifier import Classifier
from advex.options import with_options
from advex.registry import register
from advex.types import Batch

Made = TypeVar("Made", bound=type)
State = dict[str, Any]  # numbers, and tensors until they are settled: see `Regulariser`
Parts = dict[str, Any]
# The spec string of a search; refused where it builds none.
AttackSpec = Annotated[str, AfterValidator(lambda spec: spec if attacks.build(spec) else spec)]


@dataclass(eq=False, kw_only=True)
class Step:
    """The examples of a step and the network's logits for them, taken once for all terms.

    x: [n, *shape], what the loss is taken at: the batch's examples until a term alters them. point: where
    the pass of the loss is made; x, or so little beside it that the loss is the same. seed: of everything
    random in this step. altered: a term may have changed examples. The pass that gives `logits` is the only one that
    batch norm records.
    """

    classifier: Classifier
    batch: Batch
    seed: int
    altered: bool = False
    x: Tensor = dataclasses.field(init=False)
    point: Tensor | None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        self.x = self.batch.x.detach()

    @property
    def y(self) -> Tensor:
        """Labels [n]."""
        return self.batch.y

    @property
    def index(self) -> Tensor:
        """The examples' numbers [n] in their data set; in the batch, where they have none."""
        return torch.arange(len(self.y), device=self.y.device) if self.batch.index is None else self.batch.index

    @cached_property
    def rows(self) -> int:
        """How many examples the step has in all processes together."""
        return self.batch.whole or round(processes.sums([float(len(self.y))])[0])

    @cached_property
    def classes(self) -> int:
        """How many outputs the network has."""
        if self.classifier.class_names is not None:
            return len(self.classifier.class_names)
        with torch.no_grad(), self.classifier.frozen(), self.classifier.accelerated():
            return self.classifier.logits(self.batch.x[:1]).shape[1]

    @cached_property
    def logits(self) -> Tensor:
        """[n, classes] of this step's one recorded pass."""
        return self.ask(self.x if self.point is None else self.point)

    @property
    def has_logits(self) -> bool:
        """Whether that pass has been made."""
        return "logits" in self.__dict__

    @cached_property
    def cross_entropy(self) -> Tensor:
        """[n], without label smoothing: the classification loss, in which each example has its weight."""
        return self.smoothed_cross_entropy(0.0)

    def smoothed_cross_entropy(self, smoothing: float) -> Tensor:
        """[n], with label smoothing."""
        losses = cross_entropy(self.logits, self.y, label_smoothing=smoothing, reduction="none")
        return losses if self.batch.weight is None else self.batch.weight * losses

    def ask(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of a pass that batch norm records."""
        self.rewind()
        return self.classifier.logits(x)

    def glance(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of a pass that leaves no trace in the running statistics."""
        with batch_norm.unrecorded(self.classifier):
            return self.ask(x)

    def rewind(self) -> None:
        """Before each pass, inside `seeded`: every pass of a step drops the same units."""
        torch.manual_seed(self.seed)

    def seeded(self) -> torch.random.fork_rng:  # pyright: ignore
        """A context in which the global generators may be seeded; they are as before afterwards."""
        device = self.classifier.device
        return torch.random.fork_rng([device] if device.type == "cuda" else [])


@runtime_checkable
class InputTransform(Protocol):
    """A term that changes the examples before the loss is taken at them."""

    def alter(self, step: Step) -> Tensor:
        """The new x [n, *shape]; `step.x` is what earlier terms have left."""
        ...


@runtime_checkable
class Regulariser(Protocol):
    """A term that adds to the loss. A part is a number that is shown and written down, by its name. What the term adds
    is the part with the name of the term (of `natural`: `cross_entropy`).

    Parts are means over the examples: numbers, or tensors [] without derivatives, which are on their device still: no
    term waits for them, the step does so once for all. A tensor [2] is a sum and of how many examples it is, where it
    is of some; of none, there is no such part. Tensors [] in the state are summed over all processes; a term that has
    any has `advanced(state, rows) -> State`, which makes of the sums, of so many examples, what it remembers.

    A regulariser that has an attribute `derivative` (see `derivatives.of_gradient`) comes before all others:
    it takes the pass that they share with respect to x too, or passes of its own whose graphs are gone
    before that one is made.
    """

    def start(self) -> State:
        """What it remembers from step to step; in checkpoints."""
        ...

    def __call__(self, step: Step, state: State) -> tuple[Tensor, Parts, State]:
        """The loss to add [], its parts, and the state after this step."""
        ...


@dataclass_transform(frozen_default=True, kw_only_default=True)
def objective(name: str, *, cites: str = "", examples: Sequence[str] = ()) -> Callable[[Made], Made]:
    """Class decorator: register a term by name. The class has its options as fields (see `options`), and the methods of
    an `InputTransform` or of a `Regulariser`. examples: see `registry.register`.
    """

    return lambda made: register("objective", name, cites=cites, examples=examples)(with_options(made))
