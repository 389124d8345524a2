"""One training loop: objective x optimiser x schedule, in a run folder that can be resumed."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from advex import artifacts, objectives
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.errors import ArtifactError, DataError, SpecError, did_you_mean
from advex.types import Batch


class Recipe(BaseModel):
    """Everything that decides a training run, but the data. See `docs/recipes.md`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str = "preact_resnet:depth=44"
    objective: str = "natural"
    objective_options: dict[str, Any] = Field(default_factory=dict)
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.25
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=2)
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["one_cycle", "constant", "step"] = "one_cycle"
    warm_up: float = Field(0.2, ge=0, lt=1)
    milestones: tuple[float, ...] = (0.85, 0.975)
    augment: Literal["none", "crop", "crop_flip"] = "none"
    pad: int = Field(4, ge=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    validate_every: int = Field(1, ge=1)
    seed: int = 0


def recipe_from(values: dict[str, Any], overrides: dict[str, str] | None = None, where: str = "recipe") -> Recipe:
    """A checked recipe from plain values and `key=value` overrides (`objective_options.share=1` goes inside).

    Raises SpecError, naming the key, for unknown keys (with a suggestion) and impossible values.
    """
    from advex.registry import parse_value

    values = dict(values)
    for key, text in (overrides or {}).items():
        outer, dot, inner = key.partition(".")
        if dot:
            values[outer] = {**values.get(outer, {}), inner: parse_value(text)}
        else:
            values[outer] = parse_value(text)
    for key in values:
        if key not in Recipe.model_fields:
            raise SpecError(f"{where}: there is no setting '{key}': {did_you_mean(key, Recipe.model_fields)}")
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{where}: {name} = {first.get('input')!r} is not possible: {first['msg']}.") from None
    objectives.make(recipe.objective, **recipe.objective_options)
    return recipe


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The rate after a share `progress` in [0, 1] of all steps.

    one_cycle: linear up from a tenth during `warm_up`, then a cosine to zero. step: the same warm-up,
    then a tenth of it after each milestone. constant: after the warm-up, constant.
    """
    peak = recipe.learning_rate
    if progress < recipe.warm_up:
        return peak * (0.1 + 0.9 * progress / recipe.warm_up)
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "step":
        return peak * 0.1 ** sum(progress >= milestone for milestone in recipe.milestones)
    return peak * (1 + math.cos(math.pi * (progress - recipe.warm_up) / (1 - recipe.warm_up))) / 2


def augment(recipe: Recipe, x: Tensor, index: Tensor, epoch: int, total: int) -> Tensor:
    """Shifted by up to `pad` pixels over replicated edges, and flipped left to right half of the time.

    Decided per example by (seed, epoch, its index), so it does not depend on the batch.
    """
    if recipe.augment == "none" or x.ndim != 4:
        return x
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    draws = torch.rand(total, 3, generator=rng)[index].to(x.device)
    n, channels, height, width = x.shape
    padded = nn.functional.pad(x, [recipe.pad] * 4, mode="replicate")
    top, left = (draws[:, :2] * (2 * recipe.pad + 1)).long().clamp_max(2 * recipe.pad).unbind(dim=1)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    if recipe.augment == "crop_flip":
        columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
    example = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[example, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclasses.dataclass
class _Position:
    """Where a run stands: written into its checkpoints."""

    epoch: int = 0
    step: int = 0
    objective: dict[str, float] = dataclasses.field(default_factory=dict)


Report = Callable[[dict[str, Any]], None]


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
) -> Classifier:
    """Train a classifier and leave it in the folder `out` (`advex.load(out)` opens it).

    report: called with a dict of numbers after each step and epoch. stop: asked after each step; when
    true the run ends at its last checkpoint (`resume=True` goes on from there). A checkpoint is
    written after each epoch. Raises DataError for data that does not fit, ArtifactError when `out`
    holds another run, FloatingPointError when the loss is not finite.
    """
    if len(data) < 2:
        raise DataError(f"{data.name}: training needs at least 2 examples, found {len(data)}.")
    torch.manual_seed(recipe.seed)  # of the initial weights; the run draws from its own generators
    classifier = Classifier(recipe.network, mean=recipe.mean, std=recipe.std, class_names=data.class_names).to(device)
    if recipe.channels_last and len(data.shape) == 3:
        classifier = classifier.to(memory_format=torch.channels_last)  # pyright: ignore
    classifier(data.batch(slice(0, 2), device).x)  # a network that does not fit the data says so now
    optimiser = _optimiser(recipe, classifier)
    objective = objectives.make(recipe.objective, **recipe.objective_options)
    position = _Position(objective=objective.start())
    out.mkdir(parents=True, exist_ok=True)
    identity = {"recipe": recipe.model_dump(mode="json"), "data": data.name, "examples": len(data)}
    if resume:
        position = _restore(out, classifier, optimiser, identity) or position
    total = recipe.epochs * math.ceil(len(data) / recipe.batch_size)
    while position.epoch < recipe.epochs:
        if not _epoch(recipe, data, classifier, optimiser, objective, position, total, device, report, stop):
            return classifier
        position.epoch += 1
        line: dict[str, Any] = {"epoch": position.epoch, "epochs": recipe.epochs, "step": position.step}
        if validation is not None and (position.epoch % recipe.validate_every == 0 or position.epoch == recipe.epochs):
            line["accuracy"] = accuracy(classifier, validation)
        with (out / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps({**line, "objective": position.objective}) + "\n")
        report(line)
        _checkpoint(out, classifier, optimiser, position, identity)
    classifier.eval()
    artifacts.save(classifier, out, extra={"training": identity})
    return classifier


def accuracy(classifier: Classifier, data: Dataset, batch_size: int = 512) -> float:
    """Share of right decisions on a data set."""
    right = 0
    for batch in data.batches(batch_size, classifier.device):
        right += int((classifier.predict(batch.x).argmax(dim=1) == batch.y).sum())
    return right / max(len(data), 1)


def _optimiser(recipe: Recipe, classifier: Classifier) -> torch.optim.Optimizer:
    if recipe.optimiser == "adam":
        return torch.optim.AdamW(classifier.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        classifier.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )


def _epoch(
    recipe: Recipe,
    data: Dataset,
    classifier: Classifier,
    optimiser: torch.optim.Optimizer,
    objective: objectives.Objective,
    position: _Position,
    total: int,
    device: str,
    report: Report,
    stop: Callable[[], bool],
) -> bool:
    """One pass over the data. False: asked to stop on the way."""
    rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + position.epoch)
    order = torch.randperm(len(data), generator=rng)
    classifier.train()
    for index in order.split(recipe.batch_size):
        if len(index) < 2:  # batch norm needs two
            continue
        began = time.perf_counter()
        batch = data.batch(index, device)
        x = augment(recipe, batch.x, index, position.epoch, len(data))
        if recipe.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, position.step / total)
        with classifier.accelerated(bfloat16=recipe.precision == "bfloat16"):
            loss, parts, position.objective = objective(classifier, Batch(x=x, y=batch.y), position.objective, rng=rng)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The loss became {loss.item()} at step {position.step} (epoch {position.epoch + 1}). The learning "
                f"rate {optimiser.param_groups[0]['lr']:.3g} is probably too high; the last checkpoint is kept."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        position.step += 1
        report({"step": position.step, "steps": total, "loss": loss.item(), **parts, "rate": len(index) / (time.perf_counter() - began)})
        if stop():
            return False
    return True


def _checkpoint(
    out: Path, classifier: Classifier, optimiser: torch.optim.Optimizer, position: _Position, identity: dict[str, Any]
) -> None:
    tensors = {f"model.{name}": value for name, value in classifier.state_dict().items()}
    names = [name for name, _ in classifier.named_parameters()]
    for number, memory in optimiser.state_dict()["state"].items():
        for key, value in memory.items():
            if value is not None:
                tensors[f"optimiser.{names[number]}.{key}"] = torch.as_tensor(value)
    artifacts.write_folder(
        out / "checkpoint",
        {"position": dataclasses.asdict(position), "identity": identity},
        {name: value.detach().contiguous().cpu() for name, value in tensors.items()},
    )


def _restore(
    out: Path, classifier: Classifier, optimiser: torch.optim.Optimizer, identity: dict[str, Any]
) -> _Position | None:
    folder = out / "checkpoint"
    if not folder.exists():
        return None
    described = artifacts.read_config(folder)
    if described.get("identity") != identity:
        raise ArtifactError(f"{folder} belongs to a run with another recipe or other data; choose another --out.")
    tensors = load_file(artifacts.checked_weights(folder, described))
    classifier.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    memory: dict[int, dict[str, Tensor]] = {}
    for number, (name, _) in enumerate(classifier.named_parameters()):
        start = f"optimiser.{name}."
        found = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        if found:
            memory[number] = found
    optimiser.load_state_dict({**optimiser.state_dict(), "state": memory})
    return _Position(**described["position"])
