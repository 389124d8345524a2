"""One training loop: objective x optimiser x schedule, in a run folder that can be resumed."""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from advex import artifacts, processes
from advex.classifier import Classifier
from advex.data.dataset import Dataset, counted
from advex.data.digests import write_digests
from advex.data.images.streamed import Examples, Streamed
from advex.data.source import shortened
from advex.errors import AdvexWarning, ArtifactError, SpecError
from advex.ownership import owned
from advex.processes import ProcessLost as ProcessLost
from advex.progress import Interrupted, Stopped, each_pass, until
from advex.recipes import Recipe, fitted, learning_rate
from advex.training import checkpoints
from advex.training.divergence import watch, watch_weights
from advex.training.dry_run import rehearse
from advex.training.metrics_log import MetricsLog, board_writer
from advex.training.run import Run, begin, seen
from advex.training.steps import gradients, prepared
from advex.training.validation import due, look

Report = Callable[[dict[str, Any]], None]
CHECKPOINT_SECONDS = 600.0
_LONG_STEP = 0.5  # seconds: a shorter one is waited for


def train(
    recipe: Recipe,
    data: Examples,
    out: Path | None,
    *,
    validation: Dataset | None = None,
    device: str = "cpu",
    resume: bool = False,
    ready: Callable[[], None] = lambda: None,
    report: Report = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    tensorboard: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    threads: int | None = None,
) -> Classifier:
    """Train a classifier and leave it in the folder `out` (`advex.load(out)` opens it). None: nothing is written.

    What the network's spec leaves open (channels, features, classes) is taken from the data. Before
    anything is written one batch is rehearsed, so that what cannot work fails at once. ready: called
    after that. report: called with a dict of numbers after each step, and after each epoch (those have
    `epoch`). stop: asked after each step, and within long ones and validation before each pass of the
    network; when true the run writes a checkpoint and ends with `Interrupted`. resume: go on from the newest whole
    checkpoint in `out`, with the same result as without the break. Checkpoints are written after each epoch and, in
    long ones, every `checkpoint_seconds`. threads: so many read the next steps' examples, see `Run.reading`; the result
    does not depend on it. tensorboard: also write its event files. The process's random numbers are
    left as they were. Under `torchrun` (see `processes.joined`) each process takes its share of every batch;
    the first one writes, and it alone calls `ready`.

    Raises DataError for data that does not fit, ArtifactError when `out` holds another run or cannot be
    written, SpecError for what cannot be combined, Diverged when loss or weights are not finite or the
    loss explodes (the last checkpoint is kept), ProcessLost when another process ended.
    """
    if tensorboard and out is None:
        raise SpecError("TensorBoard files need a folder: set out=.")
    if not resume and checkpoints.checkpoints_in(out):
        raise ArtifactError(
            f"{out} contains checkpoints of a run: resume it with resume=True, or choose another folder."
        )
    first = processes.rank() == 0
    stop_within = stop if processes.count() == 1 else lambda: False  # of what all processes make together
    board = board_writer() if tensorboard and first else None
    owning = contextlib.nullcontext() if out is None or not first else owned(out)
    with owning, processes.lost_told():
        run = begin(fitted(recipe, data.shape, len(data.class_names)), data, out, device)
        validation = None if validation is None else seen(recipe, validation)
        _check_agreement(run)
        with prepared(run) as loss_of:
            with until(stop_within, "Stopped before the first step."):
                rehearse(run, loss_of, validation)
            if out is not None:
                checkpoints.restore(run)
            _check_agreement(run)
            if first:
                ready()
                if out is not None and not run.position.step:
                    write_digests(out, seen(recipe, data).x if isinstance(data, Dataset) else data)
            log = None if out is None else MetricsLog(out, board=board, step=run.position.step)
            with contextlib.nullcontext() if log is None else contextlib.closing(log):
                while run.position.epoch < recipe.epochs:
                    whole = _epoch(run, loss_of, report, stop, stop_within, checkpoint_seconds, threads)
                    whole = whole and _finish_epoch(run, validation, log if first else None, report, stop)
                    if processes.largest(float(not whole)):
                        kept = None if out is None else _keep(run)
                        processes.wait()  # when one process ends, torchrun ends the others: not before it is written
                        raise Interrupted(f"Stopped after step {run.position.step} of {run.steps}; {kept} is kept.")
        if first and out is not None:
            _save(run, out, {})
        processes.wait()  # until it is there
    return run.result.eval()


def _check_agreement(run: Run) -> None:
    """Raise SpecError unless all processes mean the same run and stand at the same step of it."""
    if not processes.same(json.dumps([run.identity, run.position.step])):
        raise SpecError(
            "The processes of this run do not agree on its recipe, its data or its checkpoint: start all of "
            f"them with the same command, on machines that can all read {run.out}."
        )


def _epoch(
    run: Run,
    loss_of: nn.Module,
    report: Report,
    stop: Callable[[], bool],
    stop_within: Callable[[], bool],
    checkpoint_seconds: float,
    threads: int | None,
) -> bool:
    """What is left of one pass over the data. False: asked to stop after a step, or within one."""
    position = run.position
    run.classifier.train()
    left = run.batches(position.epoch)[position.step - position.epoch * run.steps_per_epoch :]
    kept, seconds, alone = time.monotonic(), math.inf, processes.count() == 1

    def wish() -> dict[str, float]:
        """To stop; to keep a checkpoint, unless that of the epoch follows."""
        late = time.monotonic() - kept > checkpoint_seconds
        return {"stop": float(stop()), "keep": run.out is not None and late and position.step % run.steps_per_epoch > 0}

    wishes = {"stop": 0.0, "keep": 0.0}
    with run.reading(left, threads) as read:
        for index in left:
            began = time.perf_counter()
            try:
                with _stoppable(run, stop_within) if seconds > _LONG_STEP else contextlib.nullcontext():
                    numbers, wished = _step(run, loss_of, index, read, wishes)
            except Stopped:
                return False
            position.step += 1
            seconds = time.perf_counter() - began
            position.seconds += seconds
            for name, value in {**numbers, "seconds": seconds / len(index)}.items():
                total, count = position.sums.get(name, (0.0, 0))
                position.sums[name] = (total + value * len(index), count + len(index))
            report({"step": position.step, "steps": run.steps, **numbers, "rate": len(index) / seconds})
            # What one of several processes wishes all do, after the next step: it goes with the numbers of that.
            wished = wish() if alone else wished
            if wished["stop"]:
                return False
            if wished["keep"]:
                _keep(run)
                kept = time.monotonic()
            wishes = wishes if alone else wish()
    return alone or not processes.largest(float(stop()))


def _step(
    run: Run, loss_of: nn.Module, index: Tensor, read: Iterator[Tensor], wishes: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """One step of the optimiser on the examples `index`, which are read next: its numbers, and what all wish."""
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(run.recipe, run.position.step / run.steps)
    run.optimiser.zero_grad(set_to_none=True)
    loss, parts, state, wished = gradients(run, loss_of, index, read, wishes)
    watch(run, loss, parts)  # all judge by the same numbers
    run.position.objective = state
    run.optimiser.step()
    if run.average is not None:
        run.average.update_parameters(run.classifier)
    return {"loss": loss, **parts}, wished


@contextlib.contextmanager
def _stoppable(run: Run, stop: Callable[[], bool]) -> Iterator[None]:
    """A long step, which may be stopped between two passes of the network: the run is as it was before it."""
    buffers = [buffer.clone() for buffer in run.classifier.buffers()]  # the only thing that passes change

    def tick() -> None:
        if stop():
            raise Stopped

    try:
        with each_pass(tick):
            yield
    except Stopped:
        for buffer, kept in zip(run.classifier.buffers(), buffers, strict=True):
            buffer.copy_(kept)
        raise


def _finish_epoch(
    run: Run, validation: Dataset | None, log: MetricsLog | None, report: Report, stop: Callable[[], bool]
) -> bool:
    """Validation, a line of the log and a checkpoint. False: asked to stop before any of it."""
    watch_weights(run)
    _note_replaced(run)
    position, recipe, figures = run.position, run.recipe, dict[str, Any]()
    if log is not None and validation is not None:
        began = time.perf_counter()
        clean, robust = (due(run, every, position.epoch + 1) for every in (recipe.validate_every, recipe.robust_every))
        try:
            with until(stop, ""):
                figures |= look(run, validation, clean=clean, robust=robust)
        except Interrupted:
            return False
        position.seconds += time.perf_counter() - began
    means = {name: total / count for name, (total, count) in position.sums.items()}
    position.epoch += 1
    position.sums = {}
    if log is None:
        return True
    line: dict[str, Any] = {
        "epoch": position.epoch,
        "epochs": recipe.epochs,
        "step": position.step,
        "steps": run.steps,
        "loss": means.pop("loss"),
        "train_accuracy": means.pop("accuracy"),
        "learning_rate": learning_rate(recipe, (position.step - 1) / run.steps),
        "rate": 1 / means.pop("seconds"),
        "parts": means,
        "objective": position.objective,
    }
    score = figures.get(recipe.best_by)
    if score is not None and (position.best is None or score > position.best):
        position.best = score
        _save(run, run.folder / checkpoints.BEST, {"epoch": position.epoch, **figures})
        figures["best"] = True
    line |= {**figures, "seconds": position.seconds}
    line |= {"replaced": len(position.replaced)} if position.replaced else {}
    log.write(line)
    checkpoints.write(run)
    report(line)
    return True


def _keep(run: Run) -> Path | None:
    """Write a checkpoint, of the first process, unless the run has diverged. To be called in all of them."""
    watch_weights(run)
    _note_replaced(run)
    return checkpoints.write(run) if processes.rank() == 0 else run.out


def _note_replaced(run: Run) -> None:
    """Keep which pictures others have stood in for, in any process, and warn of those that are new."""
    if not isinstance(run.data, Streamed):
        return
    replaced = {name: by for each in processes.of_each(dict(run.data.replaced)) for name, by in each.items()}
    known = run.position.replaced
    if new := sorted(replaced.keys() - known.keys()):
        named = shortened([f"{name} by {replaced[name]}" for name in new])
        warnings.warn(
            f"{run.data.name}: damage inside {counted(len(new), 'file')} was met only now. The next example with the "
            f"same label is trained on instead, in this epoch and all others: {named}.",
            AdvexWarning,
            stacklevel=2,
        )
    run.position.replaced = dict(sorted((known | replaced).items()))


def _save(run: Run, folder: Path, more: dict[str, Any]) -> None:
    """Leave the network as it is now in a folder. more: of what its config says of the training."""
    parts = {"parts": run.data.provenance()} if isinstance(run.data, Dataset) and run.data.parts else {}
    replaced = {"replaced": run.position.replaced} if run.position.replaced else {}
    training = {**run.identity, "data": run.data.name, **parts, **replaced, **more}
    artifacts.save(run.result, folder, extra={"training": training, "input_shape": list(run.input_shape)})
