"""One batch before the first: what validation of the recipe cannot see fails now, not after an hour."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from advex.classifier import out_of_memory
from advex.data.dataset import Dataset
from advex.errors import DataError, SpecError
from advex.objectives.step import Parts
from advex.recipes import Recipe, fitted
from advex.training import scores
from advex.training.run import Run, begin
from advex.training.steps import gradients


def rehearse(run: Run, validation: Dataset | None) -> Parts:
    """Take one step's gradients and a look at two validation examples, and undo all of it.

    Returns the step's parts and its `seconds`. Raises what the step raises; SpecError, with what to
    change, when memory does not suffice.
    """
    if validation is not None and validation.shape != run.data.shape:
        raise DataError(f"Validation inputs have shape {validation.shape}, training inputs {run.data.shape}.")
    buffers = {name: buffer.clone() for name, buffer in run.classifier.named_buffers()}
    precise = run.recipe.precision == "bfloat16"
    try:
        with run.classifier.accelerated(bfloat16=precise):
            run.classifier.train()
            began = time.perf_counter()
            index = run.batches(run.position.epoch)[0]
            loss, parts, _ = gradients(
                run, lambda batch, state, rng: run.objective(run.classifier, batch, state, rng=rng), index
            )
            seconds = time.perf_counter() - began
        if validation is not None:
            few = validation.take(torch.arange(min(2, len(validation))))
            scores.accuracy(run.result, few)
            if run.recipe.robust_every:
                scores.robust_accuracy(run.result, few, run.recipe.robust_attack, 2)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise SpecError(
            f"A batch of {run.recipe.batch_size} does not fit into memory: try accumulate={2 * run.recipe.accumulate} "
            f"(the same batch, in parts) or batch_size={run.recipe.batch_size // 2}."
        ) from error
    finally:
        run.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in run.classifier.named_buffers():
                buffer.copy_(buffers[name])
    return {"loss": loss, **parts, "seconds": seconds}


def dry_run(recipe: Recipe, data: Dataset, *, validation: Dataset | None = None, device: str = "cpu") -> dict[str, Any]:
    """What one step of a run would be: its loss and parts, seconds, and the number of steps. Writes nothing."""
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        run = begin(fitted(recipe, data.shape, len(data.class_names)), data, Path(), device)
        return {**rehearse(run, validation), "steps": run.steps}
