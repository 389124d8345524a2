"""A run's state on disk: complete or not at all, the last few kept, and going on from the newest that is whole."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from advex import artifacts, processes
from advex.errors import AdvexWarning, ArtifactError
from advex.record import write_text
from advex.training.run import Position, Run

METRICS, CHECKPOINTS, BEST = "metrics.jsonl", "checkpoints", "best"
_NAME = re.compile(r"step-(\d{8,})")


def found(out: Path) -> list[Path]:
    """The checkpoints of a run folder, the newest first."""
    folder = out / CHECKPOINTS
    if not folder.is_dir():
        return []
    named = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, reverse=True)]


def write(run: Run) -> Path:
    """Keep where the run stands; then drop checkpoints older than the last `recipe.keep`."""
    folder = run.out / CHECKPOINTS / f"step-{run.position.step:08d}"
    if not folder.exists():
        artifacts.write_folder(
            folder,
            {"position": dataclasses.asdict(run.position), "identity": run.identity},
            {name: value.detach().contiguous().cpu() for name, value in _tensors(run).items()},
        )
    for old in found(run.out)[run.recipe.keep :]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def restore(run: Run) -> Path | None:
    """Go on from the newest whole checkpoint of the same run, if there is one. Says which were damaged.

    Raises ArtifactError when the folder holds checkpoints and none of them can be used.
    """
    first = processes.rank() == 0
    run.out.mkdir(parents=True, exist_ok=True)
    for left_over in (run.out / CHECKPOINTS).glob(".*") if first else ():  # of one that was killed while it wrote
        shutil.rmtree(left_over, ignore_errors=True)
    damaged = []
    for folder in found(run.out):
        try:
            described = artifacts.read_config(folder)
            tensors = load_file(artifacts.checked_weights(folder, described))
        except ArtifactError as error:
            damaged.append(str(error))
            continue
        if described.get("identity") != run.identity:
            raise ArtifactError(f"{folder} belongs to a run with another recipe or other data; choose another --out.")
        for sentence in damaged:
            warnings.warn(f"{sentence} Going on from {folder.name}, the one before it.", AdvexWarning, stacklevel=2)
        _put(run, tensors, described["position"])
        if first:
            _forget_metrics_after(run.out / METRICS, run.position.epoch)
        return folder
    if damaged:
        raise ArtifactError(f"No checkpoint in {run.out / CHECKPOINTS} is whole: {damaged[0]} --overwrite starts anew.")
    if first:
        (run.out / METRICS).unlink(missing_ok=True)
    return None


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value for name, value in run.classifier.state_dict().items()}
    if run.average is not None:
        tensors |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    for name, memory in zip(_names(run), _memories(run), strict=True):
        for key, value in memory.items():
            if value is not None:
                tensors[f"optimiser.{name}.{key}"] = torch.as_tensor(value)
    # A copy each: an averaged model may share its constants with the model.
    return {name: value.clone() for name, value in tensors.items()}


def _names(run: Run) -> list[str]:
    """Names of the parameters in the optimiser's order."""
    names = {id(parameter): name for name, parameter in run.classifier.named_parameters()}
    return [names[id(parameter)] for group in run.optimiser.param_groups for parameter in group["params"]]


def _memories(run: Run) -> list[dict[str, Any]]:
    state = run.optimiser.state_dict()["state"]
    return [state.get(number, {}) for number in range(len(_names(run)))]


def _part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def _put(run: Run, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
    run.classifier.load_state_dict(_part(tensors, "model."))
    if run.average is not None:
        run.average.load_state_dict(_part(tensors, "average."))
    memory = {number: _part(tensors, f"optimiser.{name}.") for number, name in enumerate(_names(run))}
    memory = {number: found for number, found in memory.items() if found}
    run.optimiser.load_state_dict({**run.optimiser.state_dict(), "state": memory})
    for field in dataclasses.fields(Position):
        setattr(run.position, field.name, position[field.name])


def _forget_metrics_after(path: Path, epoch: int) -> None:
    """Drop lines of epochs that the checkpoint does not hold: they will be written again."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["epoch"] <= epoch:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a crash
    write_text(path, "".join(lines))
