"""The training loop: what a step does, by hand; what an epoch writes down; what every setting is for."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import advex
from advex import recipes, training
from advex.data.dataset import Dataset
from advex.errors import SpecError
from advex.progress import Terminal
from advex.recipes import Recipe, recipe_from
from advex.training import loop, metrics_log, run_folder, train, validation
from advex.training.run import Run, begin
from advex.training.steps import gradients, prepared

SMALL = {"network": "small_cnn:widths=4-8-8", "epochs": 3, "batch_size": 32, "seed": 1, "robust_every": 0}
# One layer on the whole batch, at a constant rate: a step can be written down.
LINEAR: dict[str, Any] = {
    "network": "linear", "epochs": 3, "batch_size": 100, "learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.01,
    "schedule": "constant", "warm_up": 0.0, "mean": 0.3, "std": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def few() -> Dataset:
    """100 digits."""
    return advex.open_dataset("digits", split="train", max_samples=100)


@pytest.fixture(scope="module")
def held_out() -> Dataset:
    """60 others."""
    return advex.open_dataset("digits", split="test", max_samples=60)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that `train` begins."""
    runs: list[Run] = []

    def noted(*arguments: Any) -> Run:
        runs.append(begin(*arguments))
        return runs[-1]

    monkeypatch.setattr(loop, "begin", noted)
    return runs


# -- what training achieves ----------------------------------------------------------------------------------


def test_digits_are_learned(tmp_path: Path) -> None:
    recipe = recipe_from(recipes.read("digits-ordinary"), {"epochs": "6"})
    lines: list[dict[str, Any]] = []
    test = advex.open_dataset("digits", split="test")
    train(recipe, advex.open_dataset("digits", split="train"), tmp_path / "run", validation=test, report=lines.append)
    classifier = advex.load(tmp_path / "run")
    batch = test.batch(slice(None))
    accuracy = (classifier(batch.x).argmax(dim=1) == batch.y).double().mean().item()
    assert accuracy > 0.9
    assert [line["accuracy"] for line in lines if "epoch" in line][-1] == pytest.approx(accuracy)
    assert [line["step"] for line in lines if "epoch" not in line] == list(range(1, 6 * math.ceil(1297 / 64) + 1))


def test_the_artifact_says_what_it_was_trained_on(tmp_path: Path, few: Dataset) -> None:
    train(recipe_from(SMALL), few, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["input_shape"] == [1, 8, 8]
    assert config["class_names"] == list("0123456789")
    assert config["training"]["data"] == "digits/train"
    assert config["training"]["recipe"]["network"] == "small_cnn:widths=4-8-8,classes=10,channels=1"


# -- a step, by hand -----------------------------------------------------------------------------------------


def by_hand(recipe: Recipe, few: Dataset, step: Callable[[Tensor, Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Three steps of `linear` in float64: w = step(w, dL/dw, k). Returns weights and biases."""
    torch.manual_seed(recipe.seed)
    layer = nn.Linear(64, 10)
    w = torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1).double()
    x = (few.batch(slice(None)).x.flatten(1).double() - 0.3) / 0.4
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    for k in range(1, 4):
        wrong = (x @ w.T).softmax(dim=1) - nn.functional.one_hot(few.y, 10)
        w = step(w, wrong.T @ x / len(x), k)
    return w[:, :-1], w[:, -1]


def check_by_hand(
    change: dict[str, Any], few: Dataset, folder: Path, step: Callable[[Tensor, Tensor, int], Tensor], atol: float
) -> None:
    recipe = recipe_from({**LINEAR, **change})
    train(recipe, few, folder)
    weight, bias = by_hand(recipe, few, step)
    torch.testing.assert_close(weights(folder)["1.weight"].double(), weight, rtol=0, atol=atol)
    torch.testing.assert_close(weights(folder)["1.bias"].double(), bias, rtol=0, atol=atol)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_momentum_with_or_without_nesterov(nesterov: bool, tmp_path: Path, few: Dataset) -> None:
    """g = dL/dw + lambda w; v = m v + g; w = w - rate (g + m v), or w - rate v."""
    velocity = torch.zeros(10, 65, dtype=torch.float64)

    def step(w: Tensor, g: Tensor, k: int) -> Tensor:
        g = g + 0.01 * w
        velocity.mul_(0.8).add_(g)
        return w - 0.05 * (g + 0.8 * velocity if nesterov else velocity)

    # float32 training against float64: rounding of three steps.
    check_by_hand({"nesterov": nesterov}, few, tmp_path, step, atol=2e-6)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_adam_and_adamw_differ_in_the_weight_decay(optimiser: str, tmp_path: Path, few: Dataset) -> None:
    """Kingma and Ba 2015, Algorithm 1, on dL/dw + lambda w; Loshchilov and Hutter 2019: w - rate lambda w instead."""
    first, second = (torch.zeros(10, 65, dtype=torch.float64) for _ in range(2))

    def step(w: Tensor, g: Tensor, k: int) -> Tensor:
        if optimiser == "adam":
            g = g + 0.1 * w
        else:
            w = w - 0.01 * 0.1 * w
        first.mul_(0.9).add_(0.1 * g)
        second.mul_(0.999).add_(0.001 * g**2)
        return w - 0.01 * (first / (1 - 0.9**k)) / ((second / (1 - 0.999**k)).sqrt() + 1e-8)

    # Pixels that are always black have hardly a gradient: there the quotient magnifies float32's rounding.
    check_by_hand({"optimiser": optimiser, "learning_rate": 0.01, "weight_decay": 0.1}, few, tmp_path, step, atol=1e-5)


def test_adagrad_is_ftrl_without_penalties(tmp_path: Path, few: Dataset) -> None:
    """McMahan et al. 2013, Algorithm 1, with beta = sqrt(0.1) inside the root and lambda_1 = lambda_2 = 0: its
    z and sigma cancel, and a step by the accumulated squares is left."""
    n = torch.full((10, 65), 0.1, dtype=torch.float64)

    def step(w: Tensor, g: Tensor, k: int) -> Tensor:
        sigma = ((n + g**2).sqrt() - n.sqrt()) / 0.05
        z = g - sigma * w - n.sqrt() / 0.05 * w  # z_t, with z_(t-1) as it is where w solves the former step
        n.add_(g**2)
        return -z / (n.sqrt() / 0.05)

    check_by_hand({"optimiser": "adagrad", "learning_rate": 0.05, "weight_decay": 0}, few, tmp_path, step, atol=1e-5)


@pytest.mark.parametrize(("decay", "decaying"), [("all", "12"), ("weights", "1"), ("biases", "2")])
def test_weight_decay_acts_on_what_it_is_said_to(decay: str, decaying: str, tmp_path: Path, few: Dataset) -> None:
    """One step without momentum: the difference that it makes is rate lambda w, for those parameters and no others."""
    base = {**SMALL, "epochs": 1, "batch_size": 100, "momentum": 0, "schedule": "constant", "warm_up": 0}
    torch.manual_seed(1)
    start = dict(advex.Classifier(recipes.fitted(recipe_from(base), few.shape, 10).network).network.named_parameters())
    for name, strength in (("without", 0.0), ("with", 0.5)):
        train(recipe_from({**base, "weight_decay": strength, "decay": decay}), few, tmp_path / name)
    without, with_decay = weights(tmp_path / "without"), weights(tmp_path / "with")
    for name, parameter in start.items():
        axes = "1" if parameter.ndim > 1 else "2"
        expected = 0.1 * 0.5 * parameter.detach() if axes in decaying else torch.zeros_like(parameter)
        # Rounding of weights of order 1.
        torch.testing.assert_close(without[name] - with_decay[name], expected, rtol=0, atol=5e-7)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path: Path, few: Dataset) -> None:
    """Parts of 8, 8, 7 and 7 of 30 examples, without batch norm: sums in another order, and nothing else."""
    found = {}
    for parts in (1, 4):
        recipe = recipe_from(
            {
                "network": "mlp:features=64,classes=10", "batch_size": 30, "accumulate": parts, "pad": 1,
                "objective": {"natural": {"label_smoothing": 0.1}, "l1": {}, "output_zeroing": {"strength": 0.1}},
            }
        )  # fmt: skip
        run = begin(recipe, few, tmp_path, "cpu")
        index = run.batches(0)[0]
        with prepared(run) as loss_of, run.reading([index]) as read:
            loss, told, *_ = gradients(run, loss_of, index, read)
        found[parts] = loss, told, [parameter.grad for parameter in run.classifier.parameters()]
    assert found[1][0] == pytest.approx(found[4][0], rel=1e-6)
    assert found[1][1] == pytest.approx(found[4][1], rel=1e-6)
    for whole, summed in zip(found[1][2], found[4][2], strict=True):
        assert whole is not None
        assert summed is not None
        torch.testing.assert_close(whole, summed, rtol=0, atol=30 * 6e-8 * whole.abs().max().item())


def test_the_average_is_of_weights_and_running_statistics(tmp_path: Path, few: Dataset, seen: list[Run]) -> None:
    """a = w after the first step; then a = d a + (1 - d) w, d = min(ema, (1 + n) / (10 + n)) after n steps."""
    states: list[dict[str, Tensor]] = []

    def note(line: dict[str, Any]) -> None:
        if "epoch" not in line:
            states.append(copy.deepcopy(seen[0].classifier.network.state_dict()))

    train(recipe_from({**SMALL, "epochs": 6, "ema": 0.6}), few, tmp_path, report=note)
    average = {name: value.double() for name, value in states[0].items()}
    shares = []
    for n, state in enumerate(states[1:], 1):
        shares.append(min(0.6, (1 + n) / (10 + n)))
        for name, value in state.items():
            kept = shares[-1] if value.is_floating_point() else 0.0
            average[name] = kept * average[name] + (1 - kept) * value.double()
    assert shares[0] < 0.6 == shares[-1]
    assert len(states) == 24
    for name, value in weights(tmp_path).items():
        # 24 times the rounding of values of order 1.
        atol = 24 * 6e-8 * average[name].abs().max().item()
        torch.testing.assert_close(value.double(), average[name], rtol=0, atol=atol)
    assert not equal(weights(tmp_path), states[-1])


# -- every setting -------------------------------------------------------------------------------------------

CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"network": "small_cnn:widths=4-8-8,activation=relu"}),
    ({}, {"objective": "adversarial"}),
    ({}, {"objective": {"natural": {"label_smoothing": 0.1}}}),
    ({"objective": "lipschitz"}, {"objective": {"lipschitz": {}, "adversarial": {}}}),
    ({}, {"mean": 0.4}),
    ({}, {"std": 0.5}),
    ({}, {"epochs": 2}),
    ({}, {"batch_size": 25}),
    ({}, {"accumulate": 2}),
    ({}, {"optimiser": "adam"}),
    ({"optimiser": "adam"}, {"optimiser": "adamw"}),
    ({}, {"learning_rate": 0.05}),
    ({}, {"momentum": 0.5}),
    ({}, {"nesterov": False}),
    ({}, {"weight_decay": 0.01}),
    ({}, {"decay": "weights"}),
    ({}, {"decay": "biases"}),
    ({}, {"ema": 0.5}),
    ({}, {"schedule": "constant"}),
    ({}, {"schedule": "step"}),
    ({}, {"warm_up": 0.0}),
    ({"schedule": "step"}, {"milestones": (0.5,)}),
    ({}, {"flip": True}),
    ({}, {"pad": 1}),
    ({"pad": 1}, {"padding": "reflect"}),
    ({}, {"resize": (0.8, 1.2)}),
    ({}, {"crop": 6}),
    ({}, {"affine": {"erase": 2}}),
    ({}, {"balanced": True}),
    ({}, {"per_class": 7}),
    ({}, {"labels": "random:1"}),
    ({}, {"start": "a network of another seed"}),
    ({}, {"precision": "bfloat16"}),
    ({}, {"seed": 2}),
]
# These change how fast a step is, or what is looked at and kept.
ELSEWHERE = {
    "compiled", "channels_last", "validate_every", "robust_every", "robust_attack", "robust_samples", "best_by", "keep",
    "streamed",
}  # fmt: skip


@pytest.mark.parametrize(
    ("base", "change"), CHANGES, ids=["-".join(f"{key}={value}" for key, value in each.items()) for _, each in CHANGES]
)
@pytest.mark.usefixtures("bfloat16")
def test_every_setting_changes_the_weights(
    base: dict[str, Any], change: dict[str, Any], tmp_path: Path, few: Dataset
) -> None:
    base = {**SMALL, "epochs": 1, **base}
    if "start" in change:
        train(recipe_from({**base, "seed": 2}), few, tmp_path / "other")
        change = {"start": str(tmp_path / "other")}
    train(recipe_from(base), few, tmp_path / "base")
    train(recipe_from({**base, **change}), few, tmp_path / "changed")
    assert not equal(weights(tmp_path / "base"), weights(tmp_path / "changed"))


def test_a_cpu_without_bfloat16_trains_in_float32_and_says_so(
    tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for user in ("precision", "training.steps", "objectives.adversarial"):
        monkeypatch.setattr(f"advex.{user}.has_bfloat16", lambda device: False)
    attacked = {"adversarial": {"attack": "pgd:norm=linf,radius=0.1,steps=1", "share": 1}, "natural": {}}
    for name, objective in {"plain": {"natural": {}}, "attacked": attacked}.items():
        exact = {**SMALL, "epochs": 1, "objective": objective}
        coarse: dict[str, Any] = {**exact, "precision": "bfloat16"}
        if name == "attacked":
            term = {**attacked["adversarial"], "bfloat16": True}
            coarse = {**exact, "objective": {**attacked, "adversarial": term}}
        for folder, recipe, notes in (("exact", exact, 0), ("coarse", coarse, 1)):
            run_folder.run(recipe_from(recipe), few, tmp_path / name / folder, say=Terminal())
            assert capsys.readouterr().err.count("This CPU has no instructions for bfloat16") == notes
            about = json.loads((tmp_path / name / folder / "env.json").read_text())
            assert about.get("bfloat16") == (None, "float32 in its place")[notes]
        assert equal(weights(tmp_path / name / "exact"), weights(tmp_path / name / "coarse"))


def test_no_setting_is_left_out() -> None:
    assert {name for _, change in CHANGES for name in change} | ELSEWHERE == set(Recipe.model_fields)


def test_looking_more_often_changes_nothing(tmp_path: Path, few: Dataset, held_out: Dataset) -> None:
    """Neither validation nor checkpoints, nor the memory layout of one-channel pictures, touch the training."""
    base = recipe_from({**SMALL, "network": "linear"})
    train(base, few, tmp_path / "base")
    looking = {"validate_every": 2, "robust_every": 1, "keep": 5, "channels_last": False, "best_by": "robust_accuracy"}
    train(base.model_copy(update=looking), few, tmp_path / "looked", validation=held_out, checkpoint_seconds=0)
    assert equal(weights(tmp_path / "base"), weights(tmp_path / "looked"))


# -- looks between epochs ------------------------------------------------------------------------------------


def test_looks_are_taken_when_they_are_due_and_at_the_end(tmp_path: Path, few: Dataset, held_out: Dataset) -> None:
    recipe = recipe_from({**SMALL, "epochs": 7, "validate_every": 2, "robust_every": 3, "robust_samples": 20})
    train(recipe, few, tmp_path, validation=held_out)
    lines = metrics(tmp_path)
    assert [line["epoch"] for line in lines if "accuracy" in line] == [2, 4, 6, 7]
    assert [line["epoch"] for line in lines if "robust_accuracy" in line] == [3, 6, 7]
    found = advex.load(tmp_path)
    assert training.accuracy(found, held_out) == lines[-1]["accuracy"]
    assert training.robust_accuracy(found, held_out, recipe.robust_attack, 20) == lines[-1]["robust_accuracy"]


@pytest.mark.parametrize(("best_by", "epoch"), [("accuracy", 2), ("robust_accuracy", 3)])
def test_the_best_is_chosen_by_what_is_said(
    best_by: str, epoch: int, tmp_path: Path, few: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the best, where several are equal."""
    for name, values in (("accuracy", [0.1, 0.5, 0.5, 0.2]), ("robust_accuracy", [0.2, 0.1, 0.4, 0.4])):
        sequence = iter([1.0, *values])  # the rehearsal looks too, before the first epoch
        monkeypatch.setattr(validation, name, lambda *a, sequence=sequence, **k: next(sequence))
    recipe = recipe_from({**SMALL, "epochs": 4, "robust_every": 1, "best_by": best_by})
    train(recipe, few, tmp_path, validation=held_out)
    kept = json.loads((tmp_path / "best" / "config.json").read_text())["training"]
    assert kept["epoch"] == epoch
    assert [line["epoch"] for line in metrics(tmp_path) if line.get("best")][-1] == epoch


def test_robust_accuracy_by_hand(toys: SimpleNamespace) -> None:
    """A linear decision at x1 = 1/2: of the right ones those farther than the radius from it stand."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    classifier = toys.affine(weight, torch.tensor([-0.5, 0.0], dtype=torch.float64))
    x1 = 0.015 + 0.01 * torch.arange(98, dtype=torch.float64)
    data = Dataset(
        name="lines", x=torch.stack([x1, torch.full_like(x1, 0.5)], dim=1), y=torch.zeros(98, dtype=torch.int64),
        class_names=("right", "left"), ids=tuple(map(str, range(98))),
    )  # fmt: skip
    found = training.robust_accuracy(classifier, data, "pgd:norm=l2,radius=0.2,steps=10,random_start=false", samples=98)
    assert found == pytest.approx((x1 > 0.7).double().mean().item())
    assert training.accuracy(classifier, data) == pytest.approx((x1 > 0.5).double().mean().item())


def test_the_examples_looked_at_are_of_all_classes_also_where_files_are_sorted(toys: SimpleNamespace) -> None:
    """Half of 400 examples, sorted, are of the one class that is always answered: some 25 of the 50 looked at."""
    classifier = toys.affine(torch.zeros(2, 1, dtype=torch.float64), torch.tensor([3.0, 0.0], dtype=torch.float64))
    data = Dataset(
        name="sorted", x=torch.full((400, 1), 0.5, dtype=torch.float64), y=torch.arange(400) // 200,
        class_names=("a", "b"), ids=tuple(map(str, range(400))),
    )  # fmt: skip
    looks = {training.robust_accuracy(classifier, data, "pgd:norm=l2,radius=0.1,steps=1", samples=50) for _ in range(3)}
    assert len(looks) == 1
    # Four standard deviations of 3.5 examples.
    assert 11 / 50 <= looks.pop() <= 39 / 50


# -- what is written down ------------------------------------------------------------------------------------


def test_a_line_of_metrics_holds_the_means_of_its_epoch(tmp_path: Path, few: Dataset) -> None:
    """Each step counts by its examples: three of 32 and one of 4."""
    lines: list[dict[str, Any]] = []
    recipe = recipe_from({**SMALL, "objective": {"lipschitz": {"psi": 3.0, "target": 1.0}}})
    train(recipe, few, tmp_path, report=lines.append)
    steps, epochs = [line for line in lines if "epoch" not in line], [line for line in lines if "epoch" in line]
    assert epochs == metrics(tmp_path)
    for number, line in enumerate(epochs):
        own = steps[4 * number : 4 * number + 4]
        for name, value in {"loss": line["loss"], "accuracy": line["train_accuracy"], **line["parts"]}.items():
            mean = sum(size * step[name] for size, step in zip((32, 32, 32, 4), own, strict=True)) / 100
            assert value == pytest.approx(mean), name
        assert line["step"] == 4 * number + 4
        assert line["learning_rate"] == training.learning_rate(recipe, (4 * number + 3) / 12)
        assert set(line["parts"]) == {"lipschitz", "psi", "cross_entropy"}
    assert steps[0]["loss"] == pytest.approx(steps[0]["cross_entropy"] + steps[0]["lipschitz"])
    assert epochs[-1]["objective"]["lipschitz.integral"] == 0
    assert epochs[0]["seconds"] < epochs[1]["seconds"]


def test_what_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    metrics_log.MetricsLog(tmp_path).write({"epoch": 1, "loss": math.inf, "parts": {"psi": math.nan, "clean": 0.5}})
    assert metrics(tmp_path) == [{"epoch": 1, "loss": None, "parts": {"psi": None, "clean": 0.5}}]


def test_tensorboard_is_told_the_same_numbers(
    tmp_path: Path, few: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a break: what was told of steps that are repeated is hidden."""
    told: list[tuple[str, float, int]] = []
    made: list[dict[str, Any]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            made.append({"folder": folder, "purge_step": purge_step, "closed": False})

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            made[-1]["closed"] = True

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # pyright: ignore
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    recipe, steps = recipe_from(SMALL), list[int]()
    with pytest.raises(training.Interrupted):
        train(
            recipe, few, tmp_path, validation=held_out, tensorboard=True, stop=lambda: steps[-1:] == [6],
            report=lambda line: steps.append(line["step"]),
        )  # fmt: skip
    train(recipe, few, tmp_path, validation=held_out, tensorboard=True, resume=True)
    folder = str(tmp_path / "tensorboard")
    assert made == [{"folder": folder, "purge_step": step, "closed": True} for step in (1, 7)]
    for line in metrics(tmp_path):
        found = {name: value for name, value, step in told if step == line["step"]}
        assert found["accuracy"] == line["accuracy"]
        assert found["loss"] == line["loss"]
        assert found["parts/cross_entropy"] == line["parts"]["cross_entropy"]


def test_tensorboard_that_is_not_there_is_told_before_anything(
    tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SpecError, match=r"not installed: .*run pip install -e '\.\[tensorboard\]'"):
        train(recipe_from(SMALL), few, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_identity_is_the_content_not_the_path(few: Dataset) -> None:
    import dataclasses

    recipe = recipe_from(SMALL)
    same = training.identity_of(recipe, dataclasses.replace(few, name="elsewhere"))
    assert same == training.identity_of(recipe, few)
    changed = few.x.clone()
    changed[0, 0, 0, 0] += 1
    assert training.identity_of(recipe, dataclasses.replace(few, x=changed)) != same


def test_a_last_batch_that_is_too_small_is_left_out(tmp_path: Path, few: Dataset) -> None:
    """Batch norm cannot train on one example. 33 examples in batches of 32: one step per epoch."""
    for examples, parts, steps in ((33, 1, 3), (34, 1, 6), (35, 2, 3), (36, 2, 6)):
        lines: list[dict[str, Any]] = []
        recipe = recipe_from({**SMALL, "network": "linear", "accumulate": parts})
        train(recipe, few.take(slice(0, examples)), tmp_path / str(examples), report=lines.append)
        assert [line["steps"] for line in lines if "epoch" not in line] == [steps] * steps
