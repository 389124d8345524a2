"""One training loop: objective x optimiser x schedule, in a run folder that can be resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from advex import artifacts, objectives
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.errors import AdvexError, ArtifactError, DataError
from advex.recipes import Recipe as Recipe
from advex.recipes import fitted
from advex.recipes import learning_rate as learning_rate
from advex.recipes import recipe_from as recipe_from
from advex.record import write_text
from advex.types import Batch

METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint"


class Interrupted(Exception):
    """A run was asked to stop. Its checkpoint is kept, and it can be resumed."""


class Diverged(AdvexError, FloatingPointError):
    """The loss became infinite or NaN."""


def augment(recipe: Recipe, x: Tensor, index: Tensor, epoch: int, total: int) -> Tensor:
    """Shifted by up to `pad` pixels over replicated edges, and flipped left to right half of the time.

    Decided per example by (seed, epoch, its index), so it does not depend on the batch.
    """
    if recipe.augment == "none" or x.ndim != 4:
        return x
    draws = torch.rand(total, 3, generator=_generator(recipe, "augment", epoch))[index].to(x.device)
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


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run consists of. position moves; identity is what a checkpoint must agree with."""

    recipe: Recipe
    data: Dataset
    out: Path
    device: str
    classifier: Classifier
    optimiser: torch.optim.Optimizer
    objective: objectives.Objective
    position: _Position
    identity: dict[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        full, rest = divmod(len(self.data), self.recipe.batch_size)
        return full + (rest >= 2)  # batch norm needs two examples: a single last one waits for the next epoch

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch


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

    What the network's spec leaves open (channels, features, classes) is taken from the data. report:
    called with a dict of numbers after each step and epoch. stop: asked after each step; when true the
    run writes a checkpoint and ends with `Interrupted` (`resume=True` goes on at the next step, with
    the same result as without the break). A checkpoint is also written after each epoch. The process's
    random numbers are left as they were.

    Raises DataError for data that does not fit, ArtifactError when `out` holds another run, Diverged
    when the loss is not finite (the last checkpoint is kept).
    """
    if len(data) < 2:
        raise DataError(f"{data.name}: training needs at least 2 examples, found {len(data)}.")
    recipe = fitted(recipe, data.shape, len(data.class_names))
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        run = _start(recipe, data, out, device)
        if resume:
            _restore(run)
        else:
            (out / METRICS).unlink(missing_ok=True)
        while run.position.epoch < recipe.epochs:
            if not _epoch(run, report, stop):
                _checkpoint(run)
                raise Interrupted(f"Stopped after step {run.position.step} of {run.steps}; {out / CHECKPOINT} is kept.")
            _finish_epoch(run, validation, report)
    run.classifier.eval()
    extra = {"training": {**run.identity, "data": data.name}, "input_shape": list(data.shape)}
    artifacts.save(run.classifier, out, extra=extra)
    return run.classifier


def accuracy(classifier: Classifier, data: Dataset, batch_size: int = 512) -> float:
    """Share of right decisions on a data set."""
    right = 0
    for batch in data.batches(batch_size, classifier.device):
        right += int((classifier.predict(batch.x).argmax(dim=1) == batch.y).sum())
    return right / max(len(data), 1)


def identity_of(recipe: Recipe, data: Dataset) -> dict[str, Any]:
    """What makes two runs the same run: the recipe fitted to the data, and the data's content (not its path)."""
    content = hashlib.blake2b(repr(data.class_names).encode(), digest_size=16)
    for tensor in (data.x, data.y):
        content.update(tensor.cpu().contiguous().flatten().numpy().data)
    recipe = fitted(recipe, data.shape, len(data.class_names))
    return {"recipe": recipe.model_dump(mode="json"), "examples": len(data), "content": content.hexdigest()}


def _generator(recipe: Recipe, purpose: str, number: int) -> torch.Generator:
    """Random numbers for one purpose at one epoch or step: the same wherever the run was resumed."""
    digest = hashlib.blake2b(f"{recipe.seed}|{purpose}|{number}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _start(recipe: Recipe, data: Dataset, out: Path, device: str) -> _Run:
    torch.manual_seed(recipe.seed)  # of the initial weights
    classifier = Classifier(recipe.network, mean=recipe.mean, std=recipe.std, class_names=data.class_names).to(device)
    if recipe.channels_last and len(data.shape) == 3:
        classifier = classifier.to(memory_format=torch.channels_last)  # pyright: ignore
    with torch.no_grad():
        classifier.eval()(data.batch(slice(0, 2), device).x)  # a network that does not fit the data says so now
    objective = objectives.make(recipe.objective, **recipe.objective_options)
    out.mkdir(parents=True, exist_ok=True)
    return _Run(
        recipe=recipe,
        data=data,
        out=out,
        device=device,
        classifier=classifier,
        optimiser=_optimiser(recipe, classifier),
        objective=objective,
        position=_Position(objective=objective.start()),
        identity=identity_of(recipe, data),
    )


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


def _epoch(run: _Run, report: Report, stop: Callable[[], bool]) -> bool:
    """What is left of one pass over the data. False: asked to stop on the way."""
    position = run.position
    order = torch.randperm(len(run.data), generator=_generator(run.recipe, "order", position.epoch))
    batches = order.split(run.recipe.batch_size)[: run.steps_per_epoch]
    run.classifier.train()
    for index in batches[position.step - position.epoch * run.steps_per_epoch :]:
        began = time.perf_counter()
        numbers = _step(run, index)
        position.step += 1
        rate = len(index) / (time.perf_counter() - began)
        report({"step": position.step, "steps": run.steps, **numbers, "rate": rate})
        if stop():
            return False
    return True


def _step(run: _Run, index: Tensor) -> dict[str, float]:
    """One step of the optimiser on the examples `index`."""
    recipe, position = run.recipe, run.position
    rng = _generator(recipe, "step", position.step)
    torch.manual_seed(rng.initial_seed())  # of dropout, in networks that have it
    batch = run.data.batch(index, run.device)
    x = augment(recipe, batch.x, index, position.epoch, len(run.data))
    if recipe.channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(recipe, position.step / run.steps)
    with run.classifier.accelerated(bfloat16=recipe.precision == "bfloat16"):
        loss, parts, state = run.objective(run.classifier, Batch(x=x, y=batch.y), position.objective, rng=rng)
    if not torch.isfinite(loss):
        raise Diverged(
            f"The loss became {loss.item()} at step {position.step + 1} (epoch {position.epoch + 1}). The learning "
            f"rate, {run.optimiser.param_groups[0]['lr']:.3g} there, is probably too high: try learning_rate="
            f"{recipe.learning_rate / 4:.2g}. The last checkpoint is kept."
        )
    position.objective = state
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    run.optimiser.step()
    return {"loss": loss.item(), **parts}


def _finish_epoch(run: _Run, validation: Dataset | None, report: Report) -> None:
    position, recipe = run.position, run.recipe
    position.epoch += 1
    line: dict[str, Any] = {"epoch": position.epoch, "epochs": recipe.epochs, "step": position.step}
    if validation is not None and (position.epoch % recipe.validate_every == 0 or position.epoch == recipe.epochs):
        line["accuracy"] = accuracy(run.classifier, validation)
    with (run.out / METRICS).open("a", encoding="utf-8") as metrics:
        metrics.write(json.dumps({**line, "objective": position.objective}) + "\n")
    _checkpoint(run)
    report(line)


def _checkpoint(run: _Run) -> None:
    tensors = {f"model.{name}": value for name, value in run.classifier.state_dict().items()}
    names = [name for name, _ in run.classifier.named_parameters()]
    for number, memory in run.optimiser.state_dict()["state"].items():
        for key, value in memory.items():
            if value is not None:
                tensors[f"optimiser.{names[number]}.{key}"] = torch.as_tensor(value)
    artifacts.write_folder(
        run.out / CHECKPOINT,
        {"position": dataclasses.asdict(run.position), "identity": run.identity},
        {name: value.detach().contiguous().cpu() for name, value in tensors.items()},
    )


def _restore(run: _Run) -> None:
    """Go on from the checkpoint of the same run, if there is one."""
    folder = run.out / CHECKPOINT
    if not folder.exists():
        (run.out / METRICS).unlink(missing_ok=True)
        return
    described = artifacts.read_config(folder)
    if described.get("identity") != run.identity:
        raise ArtifactError(f"{folder} belongs to a run with another recipe or other data; choose another --out.")
    tensors = load_file(artifacts.checked_weights(folder, described))
    run.classifier.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
    memory: dict[int, dict[str, Tensor]] = {}
    for number, (name, _) in enumerate(run.classifier.named_parameters()):
        start = f"optimiser.{name}."
        found = {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
        if found:
            memory[number] = found
    run.optimiser.load_state_dict({**run.optimiser.state_dict(), "state": memory})
    for field, value in described["position"].items():
        setattr(run.position, field, value)
    _forget_metrics_after(run.out / METRICS, run.position.epoch)


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
