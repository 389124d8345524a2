"""Run folders: training into one, and what is already there.

recipe.yaml          the resolved recipe
env.json             versions, device, command
metrics.jsonl        one line per epoch
checkpoints/         where the run stands: the last few steps kept
best/                the best classifier so far, by validation
tensorboard/         with --tensorboard
config.json, model.safetensors    the finished classifier: `advex.load` opens the folder
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from advex import training
from advex.artifacts import CONFIG, WEIGHTS, read_config
from advex.cli import options, terminal
from advex.data import Dataset
from advex.errors import ArtifactError, SpecError
from advex.evaluation.environment import environment, without_places
from advex.recipes import Recipe
from advex.record import write_text
from advex.training import BEST, CHECKPOINTS, METRICS, TENSORBOARD

OURS = (CONFIG, WEIGHTS, CHECKPOINTS, BEST, METRICS, TENSORBOARD, "recipe.yaml", "env.json")


def as_yaml(recipe: Recipe) -> str:
    """A recipe file that says everything."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def run(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    say: terminal.Terminal,
    validation: Dataset | None = None,
    device: str = "cpu",
    resume: bool = True,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train into a run folder, with a progress bar, until done or stopped. Returns the run's figures.

    A finished run of the same recipe and data is left as it is.
    """
    options.prepare_folder(folder, OURS, overwrite)
    recipe = training.fitted(recipe, data.shape, len(data.class_names))
    held = _held(folder)
    if overwrite and held is not None:
        _forget(folder)
    elif held is not None:
        _compare(folder, held, training.identity_of(recipe, data))
        if not resume:
            raise SpecError(
                f"{folder} holds this run; --no-resume would lose it. Say --overwrite, or choose another --out."
            )
        if (folder / CONFIG).is_file():
            say.note(f"{folder} already holds this run, finished.")
            return _figures(folder)
    write_text(folder / "recipe.yaml", as_yaml(recipe))
    about = environment(torch.device(device)) | {"command": without_places(terminal.command_line())}
    write_text(folder / "env.json", json.dumps(about, indent=1) + "\n")
    with terminal.stopping() as stop, say.progress(f"train {folder.name}") as bar:
        told: dict[str, Any] = {}

        def report(line: dict[str, Any]) -> None:
            smooth = {key: 0.9 * told[key] + 0.1 * line[key] for key in ("loss", "rate") if key in told and key in line}
            told.update(line | smooth)
            if "steps" in told:
                bar(told["step"], told["steps"], _said(told))

        try:
            training.train(
                recipe, data, folder, validation=validation, device=device, resume=True, report=report, stop=stop
            )
        except training.Interrupted as interrupted:
            stop.resume_later(str(interrupted))
    return _figures(folder)


def _said(told: dict[str, Any]) -> str:
    """The numbers of the moment: loss, accuracy, rate."""
    parts = [f"loss {told['loss']:.3f}"]
    if "accuracy" in told:
        parts.append(f"accuracy {100 * told['accuracy']:.1f} % (epoch {told['epoch']})")
    return ", ".join([*parts, f"{told['rate']:,.0f} examples/s"])


def _held(folder: Path) -> dict[str, Any] | None:
    """What the run in a folder says it is; None where there is no run.

    Raises ArtifactError for a checkpoint or model of something else: not even --overwrite takes that away.
    """
    for kept in training.checkpoints_in(folder):
        with contextlib.suppress(ArtifactError):  # a damaged one: training goes on from the one before it
            return read_config(kept).get("identity", {})
    if (folder / CONFIG).exists():
        return read_config(folder).get("training", {})
    return None


def _compare(folder: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ArtifactError, saying what differs, unless the folder holds the run that is wanted."""
    there, here = held.get("recipe") or {}, wanted["recipe"]
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
    for name in OURS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _figures(folder: Path) -> dict[str, Any]:
    last: dict[str, Any] = {}
    path = folder / METRICS
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1]) if lines else {}
    return {
        "run": str(folder),
        "accuracy": last.get("accuracy"),
        "epochs": last.get("epoch"),
        "steps": last.get("step"),
    }
