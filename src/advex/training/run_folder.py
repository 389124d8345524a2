"""Run folders: training into one, and what is already in it.

recipe.yaml          the resolved recipe
env.json             versions, device, command
metrics.jsonl        one line per epoch
checkpoints/         where the run stands: the last few steps kept
best/                the best classifier so far, by validation
tensorboard/         with --tensorboard
examples.safetensors what it was trained on, as digests
added.csv            where pictures that were added come from
config.json, model.safetensors    the finished classifier: `advex.load` opens the folder
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from advex import processes, progress
from advex.artifacts import CONFIG, WEIGHTS, checked_weights, read_config
from advex.data import Dataset
from advex.data.digests import FILE as EXAMPLES
from advex.data.images.streamed import Examples
from advex.environment import environment, without_places
from advex.errors import AdvexWarning, ArtifactError, SpecError
from advex.files import write_text
from advex.lookup.folders import opened_folder
from advex.precision import NO_BFLOAT16, lacking
from advex.progress import QUIET, Terminal
from advex.recipes import Recipe, fitted
from advex.record.run import SCHEMA
from advex.training import checkpoints
from advex.training.checkpoints import BEST, CHECKPOINTS, METRICS
from advex.training.loop import train
from advex.training.metrics_log import TENSORBOARD, RunningNumbers, last_figures
from advex.training.run import completed, identity_of
from advex.training.steps import in_bfloat16

RECIPE, ENVIRONMENT, ADDED = "recipe.yaml", "env.json", "added.csv"
OURS = (CONFIG, WEIGHTS, CHECKPOINTS, BEST, METRICS, TENSORBOARD, RECIPE, ENVIRONMENT, ADDED, EXAMPLES)


def as_yaml(recipe: Recipe) -> str:
    """A recipe file that says everything."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def run(
    recipe: Recipe,
    data: Examples,
    folder: Path,
    *,
    say: Terminal = QUIET,
    validation: Dataset | None = None,
    device: str = "cpu",
    resume: bool = True,
    overwrite: bool = False,
    tensorboard: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """Train into a run folder, with a progress bar; options as of `train`. Returns the run's figures.

    A finished run of the same recipe and data is left as it is. Raises Interrupted when stopped.
    """
    recipe = fitted(recipe, data.shape, len(data.class_names))
    first = processes.rank() == 0
    with opened_folder(folder, OURS, overwrite) if first else contextlib.nullcontext():
        finished = first and _made_ready(recipe, data, folder, resume=resume, overwrite=overwrite)
        if processes.largest(float(finished)):
            say.note(f"{folder} already contains this run, finished.")
        else:
            more = {"validation": validation, "tensorboard": tensorboard, "threads": threads}
            _train(recipe, data, folder, say, device=device, **more)
        return {"run": str(folder), **last_figures(folder)}


def _train(recipe: Recipe, data: Examples, folder: Path, say: Terminal, *, device: str, **options: Any) -> None:
    """Begin a run, or go on with it, with a progress bar."""
    instead = lacking(in_bfloat16(recipe), device)
    if instead:
        say.note(NO_BFLOAT16)

    def describe() -> None:
        write_text(folder / RECIPE, as_yaml(recipe))
        about = environment(torch.device(device)) | instead
        about["command"] = without_places(progress.command_line())
        write_text(folder / ENVIRONMENT, json.dumps(about | {"schema_version": SCHEMA}, indent=1) + "\n")
        if isinstance(data, Dataset) and data.parts:
            write_text(folder / ADDED, _added(data))

    numbers = RunningNumbers()
    with progress.stopping() as stop, say.progress(f"train {folder.name}") as bar:

        def report(line: dict[str, Any]) -> None:
            numbers.add(line)
            bar(numbers.step, numbers.steps, *numbers.texts())

        train(recipe, data, folder, device=device, resume=True, ready=describe, report=report, stop=stop, **options)


def _added(data: Dataset) -> str:
    """Every example of the later parts of a data set: where it comes from, its label and its weight."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["part", "id", "source", "source_id", "label", "weight"])
    for row, origin in enumerate(data.origins):
        if origin.part != data.parts[0].name:
            weight = 1 if data.weights is None else float(data.weights[row])
            label = data.class_names[int(data.y[row])]
            writer.writerow([origin.part, origin.id, origin.source, origin.source_id, label, f"{weight:g}"])
    return file.getvalue()


# -- what a folder holds -----------------------------------------------------------------------------------


def _made_ready(recipe: Recipe, data: Examples, folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether a folder holds this run, finished; if not, it may be written into. Raises for what must stay."""
    held = _held(folder)
    if overwrite and (held is not None or (folder / RECIPE).is_file()):
        _forget(folder)
    elif held is not None:
        _compare(folder, held, identity_of(recipe, data))
        if not resume:
            raise SpecError(
                f"{folder} contains this run; --no-resume would discard it. Pass --overwrite, or choose another folder."
            )
        return (folder / CONFIG).is_file() and _has_weights(folder)
    return False


def _has_weights(folder: Path) -> bool:
    """Whether the weights of a finished run are there, and whole; if not it is finished again from its checkpoint."""
    try:
        checked_weights(folder, read_config(folder))
    except ArtifactError as error:
        warnings.warn(f"{error} The run is not finished: resuming it.", AdvexWarning, stacklevel=2)
        return False
    return True


def _held(folder: Path) -> dict[str, Any] | None:
    """What the run in a folder says it is; None where there is no run.

    Raises ArtifactError for a checkpoint or model of something else: not even --overwrite takes that away.
    """
    for checkpoint in checkpoints.checkpoints_in(folder):
        with contextlib.suppress(ArtifactError):  # a damaged one: training goes on from the one before it
            return checkpoints.described(checkpoint)["identity"]
    if (folder / BEST / CONFIG).exists():
        read_config(folder / BEST)
    held = read_config(folder).get("training", {}) if (folder / CONFIG).exists() else None
    if not isinstance(held, dict | None):
        raise ArtifactError(
            f"{folder / CONFIG} does not belong to a run: its 'training' is not an object. Choose another folder."
        )
    return held


def _compare(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ArtifactError, saying what differs, unless the folder holds the run that is wanted."""
    theirs, ours = completed(held).get("recipe"), wanted["recipe"]
    theirs = theirs if isinstance(theirs, dict) else {}
    differing = [
        f"{key} is {theirs.get(key)!r} there and {ours[key]!r} here" for key in ours if theirs.get(key) != ours[key]
    ]
    if any(held.get(key) != wanted[key] for key in ("examples", "content")):
        differing.append("it was trained on other data")
    if differing:
        raise ArtifactError(
            f"{folder} contains another run: {'; '.join(differing)}. Choose another folder, or pass --overwrite "
            "(in Python overwrite=True)."
        )


def _forget(folder: Path) -> None:
    """Make room for another run: what an earlier one left under our names, and nothing else."""
    inside = [*checkpoints.checkpoints_in(folder), folder / BEST]
    for path in [folder, *inside]:
        for name in (CONFIG, WEIGHTS, f".{WEIGHTS}.former"):
            (path / name).unlink(missing_ok=True)
    for events in (folder / TENSORBOARD).glob("events.out.tfevents.*"):
        events.unlink()
    for name in (METRICS, RECIPE, ENVIRONMENT, ADDED, EXAMPLES):
        (folder / name).unlink(missing_ok=True)
    for path in [*inside, folder / CHECKPOINTS, folder / TENSORBOARD]:
        with contextlib.suppress(OSError):  # somebody else's files are in it, or it is not there
            path.rmdir()
