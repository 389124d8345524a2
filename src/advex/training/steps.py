"""The gradients of one step: in parts where memory asks for it, each process its share."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advex import batch_norm, objectives, processes
from advex.classifier import Classifier
from advex.objectives.step import Parts, State
from advex.precision import has_bfloat16
from advex.recipes import Recipe
from advex.training.run import Run, generator
from advex.types import Batch


class Loss(nn.Module):
    """The objective as a module. All its passes lie inside one forward, so gradients are reduced once."""

    def __init__(self, classifier: Classifier, objective: objectives.Objective) -> None:
        super().__init__()
        self.classifier = classifier
        self._objective = objective

    def forward(self, batch: Batch, state: State, rng: torch.Generator) -> tuple[Tensor, objectives.Taken]:
        return self._objective.taken(self.classifier, batch, state, rng=rng)


@contextlib.contextmanager
def prepared(run: Run) -> Iterator[nn.Module]:
    """The loss as the recipe wants it computed: compiled, in bfloat16, over several processes."""
    loss_of: nn.Module = Loss(run.classifier, run.objective)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            run.classifier.accelerated(
                compiled=run.recipe.compiled,
                bfloat16=run.recipe.precision == "bfloat16" and has_bfloat16(run.classifier.device),
                tf32=not run.objective.needs_float32,
            )
        )
        if processes.count() > 1:
            # Running statistics are the same everywhere already: batch norm takes its moments over all processes.
            loss_of = DistributedDataParallel(loss_of, process_group=processes.line())
            loss_of.broadcast_buffers = False  # not as an argument: versions of torch differ in its name
            stack.enter_context(batch_norm.replaced(run.classifier, batch_norm.synchronised))
            stack.enter_context(warnings.catch_warnings())
            # Of weights with one input channel, whose two layouts are the same bytes.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield loss_of


def in_bfloat16(recipe: Recipe) -> bool:
    """Whether any of a training is to be computed in bfloat16."""
    terms = objectives.build(recipe.objective).terms.values()
    return recipe.precision == "bfloat16" or any(getattr(term, "bfloat16", False) for term in terms)


def gradients(
    run: Run, loss_of: nn.Module, index: Tensor, read: Iterator[Tensor], wishes: Mapping[str, float] | None = None
) -> tuple[float, Parts, State, dict[str, float]]:
    """Leave the gradients of the mean loss of the examples `index` in the parameters.

    loss_of: from `prepared`. read: from `Run.reading`, the pixels of their shares next. wishes: numbers that go with
    those of the step in their one exchange. Returns the loss of the whole step, its parts, the objective's state after
    it, and the wishes summed over the processes.
    """
    state, wished = run.position.objective, dict[str, float]()
    totals, counted = dict[str, float](), dict[str, int]()
    pieces = index.tensor_split(run.recipe.accumulate)
    for number, (own, piece) in enumerate(zip(run.shares(index), pieces, strict=True)):
        batch = dataclasses.replace(run.batch(own, next(read)), whole=len(piece))
        rng = generator(run.recipe, "step", f"{run.position.step}.{number}")
        waits = isinstance(loss_of, DistributedDataParallel) and number < len(pieces) - 1
        with loss_of.no_sync() if waits else contextlib.nullcontext():  # pyright: ignore
            value, taken = loss_of(batch, state, rng)
            # Gradients are averaged over processes; each counts by its number of examples.
            (value * (len(own) * processes.count() / len(index))).backward()
        more = {"loss": value.detach().double() * len(own), **(wishes or {})}
        parts, state, wished = run.objective.settled(taken, len(own), more)
        for name, part in {**parts, "loss": wished.pop("loss") / len(piece)}.items():
            totals[name] = totals.get(name, 0.0) + part * len(piece)
            counted[name] = counted.get(name, 0) + len(piece)
    means = {name: value / counted[name] for name, value in totals.items()}
    return means.pop("loss"), means, state, wished
