"""What a training run consists of: made from a recipe and data, the same in every process."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from advex import objectives, processes, randomness
from advex.classifier import Classifier
from advex.data.augmentation.plain import centre, standardised
from advex.data.dataset import Dataset, content, in_data_space
from advex.data.images import decode
from advex.data.images.streamed import Examples, Streamed, cut
from advex.data.threads import THREADS, ahead
from advex.errors import DataError, SpecError
from advex.recipes import Recipe, fitted, seen_shape
from advex.training.order import evened
from advex.training.start import begin_from
from advex.types import Batch
from advex.waits import sent


@dataclass
class Position:
    """Where a run stands: written into its checkpoints.

    objective: the state of the objective. sums: of this epoch's numbers, each times its examples, and
    how many these were. smooth: running mean of cross-entropy; calm: the numbers of the step at which it
    was lowest. seconds: spent training. best: the best score so far, by `recipe.best_by`. replaced: as of `Streamed`.
    """

    epoch: int = 0
    step: int = 0
    objective: dict[str, float] = dataclasses.field(default_factory=dict)
    sums: dict[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    smooth: float | None = None
    calm: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    best: float | None = None
    replaced: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """position, classifier, optimiser and average move; identity is what a checkpoint must agree with.

    weights: [classes] of the recipe's `balanced`; a function of the labels of all data, so they are the same in
    every process and after every break.
    """

    recipe: Recipe
    data: Examples
    out: Path | None
    device: str
    classifier: Classifier
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    objective: objectives.Objective
    position: Position
    identity: dict[str, Any]
    weights: Tensor | None

    def shares(self, index: Tensor) -> list[Tensor]:
        """This process's examples [n] of each of the parts in which a step's examples go through the network."""
        return [part[processes.share()] for part in index.tensor_split(self.recipe.accumulate)]

    @contextlib.contextmanager
    def reading(self, steps: Sequence[Tensor], threads: int | None = None) -> Iterator[Iterator[Tensor]]:
        """What `pixels` gives of each of the `shares` of these steps in turn, read in threads before it is needed.

        threads: None: several where pictures are decoded, and one beside a GPU, for the copying.
        """
        streamed = isinstance(self.data, Streamed)
        few = 1 if self.device.startswith("cuda") else 0
        threads = (THREADS if streamed else few) if threads is None else threads
        parts = (own for index in steps for own in self.shares(index))
        read = ahead(self.pixels, parts, threads=threads, waiting=max(threads, 2))
        with decode.quiet() if streamed else contextlib.nullcontext(), contextlib.closing(read):
            yield read

    def pixels(self, index: Tensor) -> Tensor:
        """[n, *shape], bytes or floats: the examples with these numbers, as they are cut in this epoch."""
        recipe, epoch, rule = self.recipe, self.position.epoch, self.recipe.streaming
        if isinstance(self.data, Streamed):
            return self.data.pixels(index, seed=recipe.seed, epoch=epoch)
        x = self.data.x[index % len(self.data)]
        if rule is None or rule.shorter is None or x.ndim != 4:
            return x
        return cut(x, rule.crops(index, seed=recipe.seed, epoch=epoch))

    def batch(self, index: Tensor, pixels: Tensor) -> Batch:
        """The examples with these numbers as they are trained on in this epoch, on the run's device. pixels: theirs."""
        x, rows = in_data_space(pixels, self.device), index % len(self.data)
        number, y = (sent(each, self.device) for each in (index, self.data.y[rows]))
        for augmentation in self.recipe.augmentations:
            x = augmentation(x, number, seed=self.recipe.seed, epoch=self.position.epoch)
        if self.recipe.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        weight = None if self.data.weights is None else sent(self.data.weights[rows], self.device)
        if self.weights is not None:
            weight = self.weights[y] if weight is None else weight * self.weights[y]
        weight = None if weight is None else weight.to(x.dtype)
        return Batch(x=x, y=y, index=number, weight=weight)

    def batches(self, epoch: int) -> list[Tensor]:
        """The examples' numbers [batch] of each step of an epoch; those that come back have others (`order.evened`)."""
        rng = generator(self.recipe, "order", epoch)
        if self.recipe.per_class:
            order = evened(self.data.y, self.recipe.per_class, rng)
        else:
            order = torch.randperm(len(self.data), generator=rng)
        return list(order.split(self.recipe.batch_size)[: self.steps_per_epoch])

    @property
    def folder(self) -> Path:
        """Where it is kept; of a run that is kept."""
        assert self.out is not None
        return self.out

    @cached_property
    def epoch_examples(self) -> int:
        """How many examples an epoch has."""
        return examples_of(self.recipe, self.data)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of what the network sees of an example."""
        return seen_shape(self.recipe, self.data.shape)

    @property
    def steps_per_epoch(self) -> int:
        """A last batch too small to give each share of it two examples (batch norm needs them) is left out."""
        full, rest = divmod(self.epoch_examples, self.recipe.batch_size)
        return full + (rest >= 2 * self.recipe.accumulate * processes.count())

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def piece(self) -> int:
        """How many examples are in memory at once."""
        return max(1, self.recipe.batch_size // (self.recipe.accumulate * processes.count()))

    @property
    def result(self) -> Classifier:
        """What is measured and kept: the averaged weights where there are some."""
        return self.classifier if self.average is None else self.average.module  # pyright: ignore


def begin(recipe: Recipe, data: Examples, out: Path | None, device: str) -> Run:
    """A run before its first step. recipe: fitted to the data. Leaves the global generator as it was.

    Raises DataError for too little data, SpecError for what the processes cannot do or a start of another network,
    InputError for a network or normalisation that does not fit the data.
    """
    _check(recipe, data)
    with torch.random.fork_rng([torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(recipe.seed)  # of the initial weights
        classifier = Classifier(
            recipe.network, mean=recipe.mean, std=recipe.std, class_names=data.class_names, features=data.features
        )
    if recipe.start:
        begin_from(classifier, recipe.start)
    classifier = classifier.to(device)
    if recipe.channels_last and len(data.shape) == 3:
        classifier = classifier.to(memory_format=torch.channels_last)  # pyright: ignore
    with torch.no_grad():  # a network that does not fit the data says so now
        classifier.eval()(seen(recipe, data.take(slice(0, 2))).batch(slice(0, 2), device).x)
    objective, identity, data = objectives.build(recipe.objective), identity_of(recipe, data), labelled(recipe, data)
    return Run(
        recipe=recipe,
        data=data,
        out=out,
        device=device,
        classifier=classifier,
        average=_average(recipe, classifier),
        optimiser=_optimiser(recipe, classifier),
        objective=objective,
        position=Position(objective=objective.start()),
        identity=identity,
        weights=class_weights(data).to(device) if recipe.balanced else None,
    )


def seen(recipe: Recipe, data: Dataset) -> Dataset:
    """What the network sees of pictures when it is measured: of larger ones the centre, standardised as in training."""
    if len(data.shape) != 3:
        return data
    x = centre(data.x, recipe.window)
    if recipe.affine is not None and recipe.affine.standardise:
        x = standardised(x.float().div(255) if x.dtype == torch.uint8 else x)
    return data if x is data.x else dataclasses.replace(data, x=x)


def labelled(recipe: Recipe, data: Examples) -> Examples:
    """The data with the labels that are trained on: their own, or ones drawn by the recipe (Zhang et al. 2017).

    Each is one of the classes, all alike, by the seed and the example's number alone.
    """
    if recipe.label_seed is None:
        return data
    classes = len(data.class_names)
    drawn = randomness.uniform_for(torch.arange(len(data)), recipe.label_seed, "labels")[:, 0].double() * classes
    return dataclasses.replace(data, y=drawn.long().clamp(max=classes - 1), counts=None)


def examples_of(recipe: Recipe, data: Examples) -> int:
    """How many examples an epoch has."""
    return recipe.per_class * len(data.y.unique()) if recipe.per_class else len(data)


def class_weights(data: Examples) -> Tensor:
    """[classes] float64: what each class's cross-entropy is multiplied by where classes are balanced.

    "The classification loss for each label was divided by the percentage of that label" (Woods et al. 2019,
    Sec. IV-C): N / (V n_c), for n_c of the N examples to train on and the V classes that have any. The paper's
    division leaves out V, or takes V / 100 if it means percent; with it the weights are 1 on average, so that
    learning rate and psi mean what they mean without weights. A class without examples has the weight 0.
    """
    counts = torch.bincount(data.y, minlength=len(data.class_names)).double()
    return torch.where(counts > 0, len(data) / (int((counts > 0).sum()) * counts.clamp_min(1)), 0.0)


def _check(recipe: Recipe, data: Examples) -> None:
    """Raise unless there is enough data for a step that can be cut as is wanted, and the processes can share one."""
    rule = recipe.streaming
    if rule and rule.shorter and isinstance(data, Dataset) and len(data.shape) == 3 and data.x.dtype != torch.uint8:
        raise SpecError(
            f"resize: {data.name} contains floats, but only 8-bit pictures can be scaled to a shorter side."
        )
    shares = recipe.accumulate * processes.count()
    parts = f" in each of {shares} parts of a batch" if shares > 1 else ""
    if len(data) < 2 * shares:
        raise DataError(f"{data.name}: training needs at least 2 examples{parts}, found {len(data)}.")
    if recipe.batch_size < 2 * shares:
        raise SpecError(f"batch_size={recipe.batch_size} is too small: there must be at least 2 examples{parts}.")
    rest = examples_of(recipe, data) % recipe.batch_size
    if 2 * recipe.accumulate <= rest < 2 * shares:
        raise SpecError(
            f"The last batch of each epoch, of {rest} examples, is too small: there must be at least "
            f"2{parts}. Choose another batch_size, or fewer processes."
        )
    if recipe.compiled and processes.count() > 1:
        raise SpecError("compiled=true works only in one process; omit it under torchrun.")


def identity_of(recipe: Recipe, data: Examples) -> dict[str, Any]:
    """What makes two runs the same run: the recipe fitted to the data, and the data's content (not its path)."""
    recipe = fitted(recipe, data.shape, len(data.class_names))
    return {"recipe": recipe.model_dump(mode="json"), "examples": len(data), "content": content(data)}


def completed(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as it was written down, with the settings that recipes have had only since: at their defaults."""
    recipe = identity.get("recipe")
    defaults = Recipe.model_validate({}).model_dump(mode="json")
    return {**identity, "recipe": {**defaults, **recipe}} if isinstance(recipe, dict) and recipe else identity


def generator(recipe: Recipe, purpose: str, number: int | str) -> torch.Generator:
    """Random numbers for one purpose at one epoch or step: the same wherever the run was resumed."""
    digest = hashlib.blake2b(f"{recipe.seed}|{purpose}|{number}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _optimiser(recipe: Recipe, classifier: Classifier) -> torch.optim.Optimizer:
    decays: Callable[[Tensor], bool] = {
        "all": lambda parameter: True,
        "weights": lambda parameter: parameter.ndim > 1,
        "biases": lambda parameter: parameter.ndim <= 1,
    }[recipe.decay]
    parameters = list(classifier.parameters())
    groups = [
        {"params": [parameter for parameter in parameters if decays(parameter)], "weight_decay": recipe.weight_decay},
        {"params": [parameter for parameter in parameters if not decays(parameter)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups, lr=recipe.learning_rate)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    if recipe.optimiser == "adagrad":  # what FTRL-proximal (McMahan et al. 2013) is where it has no penalties itself
        return torch.optim.Adagrad(groups, lr=recipe.learning_rate, initial_accumulator_value=0.1)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov)


def _average(recipe: Recipe, classifier: Classifier) -> AveragedModel | None:
    """Exponential moving average of weights and running statistics, quicker in the first steps."""
    if recipe.ema == 0:
        return None

    def follow(averages: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(recipe.ema, (1 + int(count)) / (10 + int(count)))  # the count is on the CPU
        pairs = [pair for pair in zip(averages, values, strict=True) if pair[0].is_floating_point()]
        if pairs:
            torch._foreach_lerp_([average for average, _ in pairs], [value for _, value in pairs], weight)  # pyright: ignore[reportPrivateImportUsage]
        for average, value in zip(averages, values, strict=True):
            if not average.is_floating_point():
                average.copy_(value)

    return AveragedModel(classifier, multi_avg_fn=torch.no_grad()(follow), use_buffers=True)  # pyright: ignore
