"""One batch before the first: what validation of the recipe cannot see fails now, not after an hour."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advex.data.dataset import Dataset
from advex.data.images.streamed import Examples
from advex.errors import DataError, SpecError
from advex.logits import out_of_memory
from advex.objectives.step import Parts
from advex.recipes import Recipe, fitted
from advex.training.run import Run, begin, seen
from advex.training.steps import gradients, prepared
from advex.training.validation import due, look


def rehearse(run: Run, loss_of: nn.Module, validation: Dataset | None) -> Parts:
    """Take one step's gradients and a look at a few validation examples, and undo all of it.

    loss_of: from `steps.prepared`. Returns the step's parts, its `loss` and its `seconds`. Raises
    DataError for validation data that is not like the training data, SpecError, with what to change,
    when memory does not suffice, and whatever the step itself raises.
    """
    if validation is not None:
        _alike(run, validation)
    buffers = {name: buffer.clone() for name, buffer in run.classifier.named_buffers()}
    try:
        run.classifier.train()
        began = time.perf_counter()
        index = run.batches(run.position.epoch)[0]
        with run.reading([index], threads=0) as read:
            loss, parts, *_ = gradients(run, loss_of, index, read)
        seconds = time.perf_counter() - began
        if validation is not None:
            look(run, validation.sample(2, seed=0), clean=True, robust=run.recipe.robust_every > 0)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise SpecError(_too_large(run.recipe)) from error
    finally:
        run.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in run.classifier.named_buffers():
                buffer.copy_(buffers[name])
    return {"loss": loss, **parts, "seconds": seconds}


def dry_run(
    recipe: Recipe, data: Examples, *, validation: Dataset | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """What a run would be, from one step of it. Writes nothing.

    Returns the step's `loss` and `parts`, its `seconds`, the number of `steps`, and the `duration` of the
    run in seconds: all steps and the looks at validation data. Raises what `train` would before its first step.
    """
    run = begin(fitted(recipe, data.shape, len(data.class_names)), data, Path(), device)
    validation = None if validation is None else seen(recipe, validation)
    with prepared(run) as loss_of:
        rehearse(run, loss_of, validation)  # the first step of a process is a slow one
        parts = rehearse(run, loss_of, None)
    loss, seconds = parts.pop("loss"), parts.pop("seconds")
    looks = 0.0 if validation is None else _looking(run, validation)
    duration = run.steps * seconds + looks
    return {"loss": loss, "parts": parts, "seconds": seconds, "steps": run.steps, "duration": duration}


def _looking(run: Run, validation: Dataset) -> float:
    """Seconds that all looks of a run at its validation data take, from one at a few examples."""
    recipe, total = run.recipe, 0.0
    few = validation.sample(run.piece, seed=0)
    for name, every, examples in (
        ("clean", recipe.validate_every, len(validation)),
        ("robust", recipe.robust_every, min(recipe.robust_samples, len(validation))),
    ):
        looks = sum(due(run, every, epoch) for epoch in range(1, recipe.epochs + 1))
        began = time.perf_counter()
        look(run, few, clean=looks > 0 and name == "clean", robust=looks > 0 and name == "robust")
        total += looks * (time.perf_counter() - began) * examples / min(examples, len(few))
    return total


def _alike(run: Run, validation: Dataset) -> None:
    data = run.data
    if validation.shape != run.input_shape:
        raise DataError(
            f"Validation inputs have shape {validation.shape}, but training inputs have shape {run.input_shape}."
        )
    if validation.class_names != data.class_names:
        raise DataError(
            f"The classes of the validation data ({', '.join(validation.class_names[:5])}, ...) differ from "
            f"those of the training data ({', '.join(data.class_names[:5])}, ...)."
        )
    if not len(validation):
        raise DataError(f"{validation.name}: there is no example to validate on.")


def _too_large(recipe: Recipe) -> str:
    """Out of memory, as a sentence."""
    parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
    smaller = "use a smaller network, or smaller pictures."
    if recipe.batch_size >= 4 * recipe.accumulate:
        smaller = f"try accumulate={2 * recipe.accumulate} (the same batch, in more parts), or a smaller batch_size."
    return f"A batch of {recipe.batch_size}{parts} does not fit into memory: {smaller}"
