"""One training loop: objective x optimiser x schedule, in a run folder that can be resumed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advex import artifacts, batch_norm, objectives, processes
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.errors import AdvexError, ArtifactError, DataError, SpecError
from advex.objectives.step import Parts, State
from advex.recipes import Recipe, fitted, learning_rate
from advex.training import checkpoints, scores
from advex.training.journal import Journal
from advex.training.rehearsal import rehearse
from advex.training.run import Run, begin
from advex.training.steps import LossOf, gradients
from advex.training.watch import watch, watch_weights
from advex.types import Batch

Report = Callable[[dict[str, Any]], None]
CHECKPOINT_SECONDS = 600.0


class Interrupted(Exception):
    """A run was asked to stop. Its checkpoint is kept, and it can be resumed."""


class ProcessLost(AdvexError, ConnectionError):
    """Another process of the same run has ended."""


def train(
    recipe: Recipe,
    data: Dataset,
    out: Path,
    *,
    validation: Dataset | None = None,
    device: str = "cpu",
    resume: bool = False,
    report: Report = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    tensorboard: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Classifier:
    """Train a classifier and leave it in the folder `out` (`advex.load(out)` opens it).

    What the network's spec leaves open (channels, features, classes) is taken from the data. Before the
    first step one batch is rehearsed, so that what cannot work fails at once. report: called with a dict
    of numbers after each step and epoch. stop: asked after each step; when true the run writes a
    checkpoint and ends with `Interrupted`. resume: go on from the newest checkpoint in `out`, with the
    same result as without the break. Checkpoints are written after each epoch and, in long ones, every
    `checkpoint_seconds`. tensorboard: also write its event files. The process's random numbers are left
    as they were. Under `torchrun` (see `processes.joined`) each process takes its share of every batch
    and the first one writes.

    Raises DataError for data that does not fit, ArtifactError when `out` holds another run, SpecError
    for what cannot be combined, Diverged when loss or weights are not finite or the loss explodes (the
    last checkpoint is kept), ProcessLost when another process ended.
    """
    if len(data) < 2:
        raise DataError(f"{data.name}: training needs at least 2 examples, found {len(data)}.")
    if recipe.compiled and processes.count() > 1:
        raise SpecError("compiled=true works in one process alone; leave it out under torchrun.")
    if not resume and checkpoints.found(out):
        raise ArtifactError(f"{out} holds checkpoints of a run: go on with resume=True, or choose another folder.")
    recipe = fitted(recipe, data.shape, len(data.class_names))
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []), _together():
        run = begin(recipe, data, out, device)
        checkpoints.restore(run)
        rehearse(run, validation)
        first = processes.rank() == 0
        journal = Journal(out, tensorboard=tensorboard) if first else None
        with _prepared(run) as loss_of:
            while run.position.epoch < recipe.epochs:
                if not _epoch(run, loss_of, report, stop, checkpoint_seconds):
                    kept = checkpoints.write(run) if first else out
                    raise Interrupted(f"Stopped after step {run.position.step} of {run.steps}; {kept} is kept.")
                _finish_epoch(run, validation, journal, report)
        result = run.result.eval()
        if first:
            extra = {"training": {**run.identity, "data": data.name}, "input_shape": list(data.shape)}
            artifacts.save(result, out, extra=extra)
    return result


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """What a process sees when another one is gone, as a sentence."""
    try:
        yield
    except RuntimeError as error:
        lost = ("peer", "gloo", "nccl", "connection", "timed out")
        if processes.count() > 1 and any(word in str(error).lower() for word in lost):
            raise ProcessLost(
                "Another process of this run has ended or cannot be reached, so this one ends too. The last checkpoint "
                f"is kept: the same command goes on from there. ({str(error).splitlines()[0]})"
            ) from error
        raise


class _Loss(nn.Module):
    """The objective as a module. All its passes lie inside one forward, so gradients are reduced once."""

    def __init__(self, classifier: Classifier, objective: objectives.Objective) -> None:
        super().__init__()
        self.classifier = classifier
        self._objective = objective

    def forward(self, batch: Batch, state: State, rng: torch.Generator) -> tuple[Tensor, Parts, State]:
        return self._objective(self.classifier, batch, state, rng=rng)


@contextlib.contextmanager
def _prepared(run: Run) -> Iterator[LossOf]:
    """The loss as the recipe wants it computed: compiled, in bfloat16, over several processes."""
    loss_of: nn.Module = _Loss(run.classifier, run.objective)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            run.classifier.accelerated(compiled=run.recipe.compiled, bfloat16=run.recipe.precision == "bfloat16")
        )
        if processes.count() > 1:
            # Running statistics are the same everywhere already: batch norm takes its moments over all processes.
            loss_of = DistributedDataParallel(loss_of, broadcast_buffers=False)
            stack.enter_context(batch_norm.replaced(run.classifier, batch_norm.synchronised))
        yield loss_of


def _epoch(run: Run, loss_of: LossOf, report: Report, stop: Callable[[], bool], checkpoint_seconds: float) -> bool:
    """What is left of one pass over the data. False: asked to stop on the way."""
    position = run.position
    batches = run.batches(position.epoch)
    run.classifier.train()
    kept = time.monotonic()
    for index in batches[position.step - position.epoch * run.steps_per_epoch :]:
        began = time.perf_counter()
        numbers = _step(run, loss_of, index)
        position.step += 1
        seconds = time.perf_counter() - began
        position.seconds += seconds
        for name, value in {**numbers, "seconds": seconds}.items():
            total, count = position.sums.get(name, (0.0, 0))
            position.sums[name] = (total + value, count + 1)
        report({"step": position.step, "steps": run.steps, **numbers, "rate": len(index) / seconds})
        if processes.largest(float(stop())):
            return False
        if processes.rank() == 0 and time.monotonic() - kept > checkpoint_seconds:
            watch_weights(run)
            checkpoints.write(run)
            kept = time.monotonic()
    return True


def _step(run: Run, loss_of: LossOf, index: Tensor) -> Parts:
    """One step of the optimiser on the examples `index`."""
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(run.recipe, run.position.step / run.steps)
    run.optimiser.zero_grad(set_to_none=True)
    loss, parts, state = gradients(run, loss_of, index)
    watch(run, loss, parts)
    run.position.objective = state
    run.optimiser.step()
    if run.average is not None:
        run.average.update_parameters(run.classifier)
    return {"loss": loss, **parts}


def _finish_epoch(run: Run, validation: Dataset | None, journal: Journal | None, report: Report) -> None:
    watch_weights(run)
    position, recipe = run.position, run.recipe
    means = {name: total / count for name, (total, count) in position.sums.items()}
    examples = sum(len(index) for index in run.batches(position.epoch))
    position.epoch += 1
    position.sums = {}
    line: dict[str, Any] = {
        "epoch": position.epoch,
        "epochs": recipe.epochs,
        "step": position.step,
        "steps": run.steps,
        "loss": means.pop("loss"),
        "train_accuracy": means.pop("accuracy"),
        "learning_rate": run.optimiser.param_groups[0]["lr"],
        "rate": examples / (means.pop("seconds") * run.steps_per_epoch),
        "seconds": position.seconds,
        "parts": means,
        "objective": position.objective,
    }
    if journal is None:
        return
    if validation is not None:
        line |= _validated(run, validation)
    journal.write(line)
    checkpoints.write(run)
    report(line)


def _validated(run: Run, data: Dataset) -> dict[str, Any]:
    """Accuracy and robust accuracy, in the epochs in which they are due; the best network so far is kept."""
    position, recipe = run.position, run.recipe

    def due(every: int) -> bool:
        return every > 0 and (position.epoch % every == 0 or position.epoch == recipe.epochs)

    found: dict[str, Any] = {}
    with run.classifier.accelerated():
        if due(recipe.validate_every):
            found["accuracy"] = scores.accuracy(run.result, data)
        if due(recipe.robust_every):
            found["robust_accuracy"] = scores.robust_accuracy(
                run.result, data, recipe.robust_attack, recipe.robust_samples
            )
    score = found.get(recipe.best_by)
    if score is not None and (position.best is None or score > position.best):
        position.best = score
        extra = {"training": {**run.identity, "data": run.data.name, "epoch": position.epoch, **found}}
        artifacts.save(run.result, run.out / checkpoints.BEST, extra={**extra, "input_shape": list(run.data.shape)})
        found["best"] = True
    return found
