"""Run folders: training into one, and what is already there.

recipe.yaml          the resolved recipe
env.json             versions, device, command
metrics.jsonl        one line per epoch
checkpoints/         where the run stands: the last few steps kept
best/                the best classifier so far, by validation
tensorboard/         with --tensorboard
added.csv            where pictures that were added come from
config.json, model.safetensors    the finished classifier: `advex.load` opens the folder
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
import yaml

from advex import processes, progress, training
from advex.artifacts import CONFIG, WEIGHTS, read_config
from advex.data import Dataset
from advex.documents import parse_json
from advex.environment import environment, without_places
from advex.errors import ArtifactError, SpecError
from advex.files import write_text
from advex.lookup.folders import prepare_folder
from advex.recipes import Recipe
from advex.record.run import SCHEMA
from advex.training import BEST, CHECKPOINTS, METRICS, TENSORBOARD

RECIPE, ENVIRONMENT, ADDED = "recipe.yaml", "env.json", "added.csv"
OURS = (CONFIG, WEIGHTS, CHECKPOINTS, BEST, METRICS, TENSORBOARD, RECIPE, ENVIRONMENT, ADDED)
_WIDTH = 44  # of the numbers beside a bar that has the rest of 100 columns
_SMOOTHING = 0.9


def as_yaml(recipe: Recipe) -> str:
    """A recipe file that says everything."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def run(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    say: progress.Terminal,
    validation: Dataset | None = None,
    device: str = "cpu",
    resume: bool = True,
    overwrite: bool = False,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train into a run folder, with a progress bar. Returns the run's figures.

    A finished run of the same recipe and data is left as it is. Raises Interrupted when stopped.
    """
    recipe = training.fitted(recipe, data.shape, len(data.class_names))
    finished = processes.rank() == 0 and _made_ready(recipe, data, folder, resume=resume, overwrite=overwrite)
    if processes.largest(float(finished)):
        say.note(f"{folder} already holds this run, finished.")
        return _figures(folder)

    def describe() -> None:
        write_text(folder / RECIPE, as_yaml(recipe))
        about = environment(torch.device(device)) | {"command": without_places(progress.command_line())}
        about |= {"schema_version": SCHEMA}
        write_text(folder / ENVIRONMENT, json.dumps(about, indent=1) + "\n")
        if data.parts:
            write_text(folder / ADDED, _added(data))

    with progress.stopping() as stop, say.progress(f"train {folder.name}") as bar:
        told: dict[str, Any] = {}

        def report(line: dict[str, Any]) -> None:
            _tell(told, line)
            bar(told["step"], told["steps"], _said(told))

        training.train(
            recipe, data, folder, validation=validation, device=device, resume=True, ready=describe,
            report=report, stop=stop, tensorboard=tensorboard,
        )  # fmt: skip
    return _figures(folder)


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


def rehearse(
    recipe: Recipe, data: Dataset, *, say: progress.Terminal, validation: Dataset | None = None, device: str = "cpu"
) -> str:
    """Try one step of a run and say what the whole would be, on stderr. Returns the recipe as it would be run."""
    told = training.dry_run(recipe, data, validation=validation, device=device)
    parts = ", ".join(f"{name} {_short(value)}" for name, value in told["parts"].items())
    say.note(
        f"one step: loss {_short(told['loss'])} ({parts}), {told['seconds']:.3g} s\n"
        f"{told['steps']:,} steps and the looks between epochs: about {_duration(told['duration'])}"
    )
    return as_yaml(training.fitted(recipe, data.shape, len(data.class_names)))


def _duration(seconds: float) -> str:
    """`0:42`, `3:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# -- what the bar says -------------------------------------------------------------------------------------


def _tell(told: dict[str, Any], line: dict[str, Any]) -> None:
    """Take a report of the loop into the numbers of the moment: those of steps smoothed, of epochs as they are."""
    told.update(step=line["step"], steps=line["steps"])
    if "epoch" in line:
        told["looks"] = {**told.get("looks", {}), **{name: line[name] for name in _LOOKS if name in line}}
        return
    before = told.get("numbers", {})
    told["numbers"] = {
        name: _SMOOTHING * before[name] + (1 - _SMOOTHING) * value if name in before else value
        for name, value in line.items()
        if name not in ("step", "steps")
    }


def _said(told: dict[str, Any]) -> str:
    """The numbers of the moment, in short lines: beside a bar, or below a plain line of progress."""
    numbers, looks = dict(told.get("numbers", {})), told.get("looks", {})
    first = [f"loss {_short(numbers.pop('loss'))}", f"{numbers.pop('rate'):,.0f} examples/s"] if numbers else []
    shares = {"accuracy": numbers.pop("accuracy", None), **{_LOOKS[name]: value for name, value in looks.items()}}
    last = [f"{name} {100 * share:.1f} %" for name, share in shares.items() if share is not None]
    psi = [f"psi {_short(numbers.pop('psi'))}"] if "psi" in numbers else []
    # A loss of one part is that part.
    parts = [f"{name} {_short(value)}" for name, value in numbers.items()] if len(numbers) > 1 else []
    beside = not progress.plain(sys.stderr)
    lines = [", ".join(first)]
    for group in (parts + psi, last):
        lines += textwrap.wrap(", ".join(group), _WIDTH if beside else 98, break_on_hyphens=False)
    return ("\n" if beside else "\n  ").join(lines)


_LOOKS = {"accuracy": "validation", "robust_accuracy": "robust"}


def _short(value: float) -> str:
    return f"{value:.3f}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"


# -- what a folder holds -----------------------------------------------------------------------------------


def _made_ready(recipe: Recipe, data: Dataset, folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether a folder holds this run, finished; if not, it may be written into. Raises for what must stay."""
    prepare_folder(folder, OURS, overwrite)
    held = _held(folder)
    if overwrite and (held is not None or (folder / RECIPE).is_file()):
        _forget(folder)
    elif held is not None:
        _compare(folder, held, training.identity_of(recipe, data))
        if not resume:
            raise SpecError(
                f"{folder} holds this run; --no-resume would lose it. Say --overwrite, or choose another --out."
            )
        return (folder / CONFIG).is_file()
    return False


def _held(folder: Path) -> dict[str, Any] | None:
    """What the run in a folder says it is; None where there is no run.

    Raises ArtifactError for a checkpoint or model of something else: not even --overwrite takes that away.
    """
    for kept in training.checkpoints_in(folder):
        with contextlib.suppress(ArtifactError):  # a damaged one: training goes on from the one before it
            return training.checkpoint_described(kept)["identity"]
    if (folder / BEST / CONFIG).exists():
        read_config(folder / BEST)
    return read_config(folder).get("training", {}) if (folder / CONFIG).exists() else None


def _compare(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ArtifactError, saying what differs, unless the folder holds the run that is wanted."""
    there, here = training.completed(held).get("recipe") or {}, wanted["recipe"]
    differing = [
        f"{key} is {there.get(key)!r} there and {here[key]!r} here" for key in here if there.get(key) != here[key]
    ]
    if any(held.get(key) != wanted[key] for key in ("examples", "content")):
        differing.append("it was trained on other data")
    if differing:
        raise ArtifactError(
            f"{folder} holds another run: {'; '.join(differing)}. Choose another --out, or say --overwrite."
        )


def _forget(folder: Path) -> None:
    """Make room for another run: what an earlier one left under our names, and nothing else."""
    inside = [*training.checkpoints_in(folder), folder / BEST]
    for path in [folder, *inside]:
        for name in (CONFIG, WEIGHTS, f".{WEIGHTS}.former"):
            (path / name).unlink(missing_ok=True)
    for events in (folder / TENSORBOARD).glob("events.out.tfevents.*"):
        events.unlink()
    for name in (METRICS, RECIPE, ENVIRONMENT, ADDED):
        (folder / name).unlink(missing_ok=True)
    for path in [*inside, folder / CHECKPOINTS, folder / TENSORBOARD]:
        with contextlib.suppress(OSError):  # somebody else's files are in it, or it is not there
            path.rmdir()


def _figures(folder: Path) -> dict[str, Any]:
    lines = []
    if (folder / METRICS).is_file():
        text = (folder / METRICS).read_text(encoding="utf-8")
        lines = [parse_json(line, METRICS, ArtifactError) for line in text.splitlines()]
    last = lines[-1] if lines else {}
    return {
        "run": str(folder),
        "accuracy": last.get("accuracy"),
        "robust_accuracy": last.get("robust_accuracy"),
        "best_epoch": next((line["epoch"] for line in reversed(lines) if line.get("best")), None),
        "epochs": last.get("epoch"),
        "steps": last.get("step"),
    }
