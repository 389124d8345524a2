"""The gradients of one step: in parts where memory asks for it, each process its share."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advex import batch_norm, objectives, processes
from advex.classifier import Classifier
from advex.objectives.step import Parts, State
from advex.training.run import Run, generator
from advex.types import Batch


class Loss(nn.Module):
    """The objective as a module. All its passes lie inside one forward, so gradients are reduced once."""

    def __init__(self, classifier: Classifier, objective: objectives.Objective) -> None:
        super().__init__()
        self.classifier = classifier
        self._objective = objective

    def forward(self, batch: Batch, state: State, rng: torch.Generator) -> tuple[Tensor, Parts, State]:
        return self._objective(self.classifier, batch, state, rng=rng)


@contextlib.contextmanager
def prepared(run: Run) -> Iterator[nn.Module]:
    """The loss as the recipe wants it computed: compiled, in bfloat16, over several processes."""
    loss_of: nn.Module = Loss(run.classifier, run.objective)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            run.classifier.accelerated(
                compiled=run.recipe.compiled,
                bfloat16=run.recipe.precision == "bfloat16",
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


def gradients(run: Run, loss_of: nn.Module, index: Tensor, read: Iterator[Tensor]) -> tuple[float, Parts, State]:
    """Leave the gradients of the mean loss of the examples `index` in the parameters.

    loss_of: from `prepared`. read: from `Run.reading`, the pixels of their shares next. Returns the loss of the
    whole step, its parts (of this process's share alone, but the accuracy) and the objective's state after it.
    """
    state = run.position.objective
    loss, totals, counted = 0.0, dict[str, float](), dict[str, int]()
    shares = run.shares(index)
    for number, own in enumerate(shares):
        batch = run.batch(own, next(read))
        rng = generator(run.recipe, "step", f"{run.position.step}.{number}")
        waits = isinstance(loss_of, DistributedDataParallel) and number < len(shares) - 1
        with loss_of.no_sync() if waits else contextlib.nullcontext():  # pyright: ignore
            value, parts, state = loss_of(batch, state, rng)
            # Gradients are averaged over processes; each counts by its number of examples.
            (value * (len(own) * processes.count() / len(index))).backward()
        loss += value.item() * len(own) / len(index)
        for name, part in parts.items():
            totals[name] = totals.get(name, 0.0) + part * len(own)
            counted[name] = counted.get(name, 0) + len(own)
    parts = {name: value / counted[name] for name, value in totals.items()}
    loss, right = processes.sums([loss, totals.get("accuracy", 0.0)])
    return loss, {**parts, "accuracy": right / len(index)}, state
