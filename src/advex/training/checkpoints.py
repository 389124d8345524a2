"""A run's state on disk: complete or not at all, the last few kept, and going on from the newest that is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from advex import artifacts, processes
from advex.documents import parse_json
from advex.errors import AdvexWarning, ArtifactError, quoted
from advex.files import read_bytes, write_text
from advex.training.run import Position, Run, completed

METRICS, CHECKPOINTS, BEST = "metrics.jsonl", "checkpoints", "best"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_MEMORIES = {"sgd": ("momentum_buffer",), "adam": _MOMENTS, "adamw": _MOMENTS, "adagrad": ("step", "sum")}
_POSITION = TypeAdapter(Position)
_LARGEST = 2**28  # bytes of a log
_NAME = re.compile(r"step-(\d{8,})")


def checkpoints_in(out: Path | None) -> list[Path]:
    """The checkpoints of a run folder, the newest first; none without a folder."""
    folder = None if out is None else out / CHECKPOINTS
    if folder is None or not folder.is_dir():
        return []
    named = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(named, reverse=True)]


def described(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: `position` and `identity`. Raises ArtifactError when it is damaged."""
    config = artifacts.read_config(folder)
    if config.get("digest") != _digest({name: config.get(name) for name in ("position", "identity")}):
        raise ArtifactError(f"{folder / artifacts.CONFIG} is damaged or does not belong to a checkpoint.")
    try:
        _POSITION.validate_json(json.dumps(config["position"]), strict=True)
        completed(config["identity"]).items()
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ArtifactError(f"{folder / artifacts.CONFIG} has an invalid training position.") from None
    return config


def write(run: Run) -> Path:
    """Keep where the run stands; then drop checkpoints older than the last `recipe.keep`.

    Raises ArtifactError when it cannot be written; those before it are kept then.
    """
    folder = run.folder / CHECKPOINTS / f"step-{run.position.step:08d}"
    state = {"position": dataclasses.asdict(run.position), "identity": run.identity}
    tensors = {name: value.detach().contiguous().cpu() for name, value in _tensors(run).items()}
    artifacts.write_folder(folder, {**state, "digest": _digest(state)}, tensors)
    _drop_old(run)
    return folder


def _drop_old(run: Run) -> None:
    for old in checkpoints_in(run.folder)[run.recipe.keep :]:
        shutil.rmtree(old, ignore_errors=True)


def restore(run: Run) -> Path | None:
    """Go on from the newest whole checkpoint of the same run, if there is one. Says which were damaged.

    Clears away damaged checkpoints, and lines of epochs that will be repeated.
    Raises ArtifactError when the folder holds checkpoints and none of them can be used.
    """
    damaged: dict[Path, ArtifactError] = {}
    for folder in checkpoints_in(run.folder):
        try:
            config = described(folder)
            weights = artifacts.checked_weights(folder, config)
            tensors = load_file(weights)
            position = {"replaced": {}, **config["position"]}  # which earlier versions did not write
            if completed(config["identity"]) == run.identity:
                _check(run, folder, position, tensors)
        except (ArtifactError, SafetensorError) as error:
            damaged[folder] = error if isinstance(error, ArtifactError) else ArtifactError(f"{folder}: {error}.")
            continue
        if completed(config["identity"]) != run.identity:
            raise ArtifactError(f"{folder} belongs to a run with another recipe or other data; choose another folder.")
        for error in damaged.values():
            warnings.warn(f"{error} Resuming from {folder.name}, the previous one.", AdvexWarning, stacklevel=2)
        _put(run, tensors, position)
        if processes.rank() == 0:
            needed = {folder / artifacts.CONFIG, folder / artifacts.WEIGHTS, weights}
            _clear(run, [*damaged, *(path for path in folder.iterdir() if path not in needed)])
        return folder
    if damaged:
        reason = next(iter(damaged.values()))
        raise ArtifactError(
            f"No checkpoint in {run.folder / CHECKPOINTS} is intact: {reason} Remove them, or pass "
            "--overwrite, to start over."
        )
    if processes.rank() == 0:
        _clear(run, [])
    return None


def _digest(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


# -- what a checkpoint holds -------------------------------------------------------------------------------


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value for name, value in run.classifier.state_dict().items()}
    if run.average is not None:
        tensors |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    state = run.optimiser.state_dict()["state"]
    for number, (name, _) in enumerate(_parameters(run)):
        for key, value in state.get(number, {}).items():
            if value is not None:
                tensors[f"optimiser.{name}.{key}"] = torch.as_tensor(value)
    # A copy each: safetensors refuses two names for one memory.
    return {name: value.clone() for name, value in tensors.items()}


def _parameters(run: Run) -> list[tuple[str, Tensor]]:
    """Names and parameters in the optimiser's order."""
    names = {id(parameter): name for name, parameter in run.classifier.named_parameters()}
    return [(names[id(parameter)], parameter) for group in run.optimiser.param_groups for parameter in group["params"]]


def _part(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def _check(run: Run, folder: Path, position: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raise ArtifactError unless position and tensors are such as the run itself may have written."""
    epoch, step, counts = position["epoch"], position["step"], [count for _, count in position["sums"].values()]
    begun = epoch * run.steps_per_epoch
    whole = position.keys() == {field.name for field in dataclasses.fields(Position)}
    if not (whole and 0 <= begun <= step <= min(begun + run.steps_per_epoch, run.steps) and all(n > 0 for n in counts)):
        raise ArtifactError(f"{folder} gives its position as step {step} in epoch {epoch}, which is impossible.")
    known = {f"model.{name}": value for name, value in run.classifier.state_dict().items()}
    if run.average is not None:
        known |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    memories = _MEMORIES[run.recipe.optimiser]
    held = {}
    for name, parameter in _parameters(run):
        mine = {f"optimiser.{name}.{key}": parameter.new_zeros(()) if key == "step" else parameter for key in memories}
        held |= mine if any(key in tensors for key in mine) else {}
    for name in sorted(tensors.keys() | known.keys() | held.keys()):
        value, like = tensors.get(name), known.get(name, held.get(name))
        if value is None or like is None or value.shape != like.shape or value.dtype != like.dtype:
            raise ArtifactError(
                f"{folder} does not match its run: the tensor {quoted(name)} is missing, unknown, or has "
                "another shape or dtype."
            )


def _put(run: Run, tensors: dict[str, Tensor], position: dict[str, Any]) -> None:
    run.classifier.load_state_dict(_part(tensors, "model."))
    if run.average is not None:
        run.average.load_state_dict(_part(tensors, "average."))
    memories = {}
    for number, (name, parameter) in enumerate(_parameters(run)):
        memory = _part(tensors, f"optimiser.{name}.")
        if memory:
            memories[number] = {key: _laid_out(value, parameter) for key, value in memory.items()}
    run.optimiser.load_state_dict({**run.optimiser.state_dict(), "state": memories})
    for field in dataclasses.fields(Position):
        setattr(run.position, field.name, position[field.name])


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """In the parameter's memory layout, as in a run without a break: another one may round otherwise."""
    return value if value.shape != parameter.shape else torch.empty_like(parameter).copy_(value)


# -- what a killed run has left ----------------------------------------------------------------------------


def _clear(run: Run, useless: list[Path]) -> None:
    for path in useless:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    _drop_old(run)
    if (run.folder / METRICS).exists():
        _forget_after(run.folder / METRICS, run.position.epoch)


def _forget_after(path: Path, epoch: int) -> None:
    """Drop lines of epochs that the checkpoint does not hold: they will be written again."""
    lines = []
    held = read_bytes(path, _LARGEST, "a log of epochs", ArtifactError).decode("utf-8", "replace")
    for line in held.splitlines(keepends=True):
        try:
            if parse_json(line, METRICS)["epoch"] <= epoch:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a crash
    write_text(path, "".join(lines))
