"""What a run says when it goes wrong, and what is found out before its first step."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import advex
from advex import objectives, training
from advex.data.dataset import Dataset
from advex.errors import DataError, InputError, SpecError
from advex.objectives import Natural
from advex.recipes import recipe_from
from advex.training import Diverged, checkpoints_in, dry_run, loop, train, validation
from advex.training import run as runs

dry_run_module = sys.modules["advex.training.dry_run"]  # the package has the function of that name

SMALL = {"network": "small_cnn:widths=4-8-8", "epochs": 3, "batch_size": 32, "seed": 1, "robust_every": 0}
ATTACKED = {"adversarial": {"attack": "pgd:norm=l2,radius=8,steps=3", "share": 1.0}}


@pytest.fixture(scope="module")
def few() -> Dataset:
    """100 digits: 4 steps per epoch."""
    return advex.open_dataset("digits", split="train", max_samples=100)


@pytest.fixture(scope="module")
def held_out() -> Dataset:
    """20 others."""
    return advex.open_dataset("digits", split="test", max_samples=20)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# -- divergence ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"network": "mlp", "learning_rate": 1e30},
            r"loss became (inf|nan) \(cross_entropy\) at step \d+ .* learning_rate=2.5e\+29\.",
        ),
        ({"network": "mlp", "learning_rate": 50}, r"The cross-entropy grew to .* try learning_rate=12\. There is no"),
        ({"network": "mlp", "learning_rate": 50, "precision": "bfloat16"}, "learning_rate=12, or precision=float32"),
        (
            {"network": "mlp", "objective": {"lipschitz": {"psi": 1e4}}},
            r"penalty 'lipschitz', [\d.]+e\+03 times .* is probably too strong: try objective.lipschitz.psi=\d",
        ),
        (
            {"network": "mlp", "objective": {"l1": {"strength": 100.0}, "lipschitz": {"psi": 1e-3}}},
            r"penalty 'l1', .* try objective.l1.strength=0.00\d",
        ),
        (
            {"network": "mlp", "objective": {"output_zeroing": {"strength": 1000.0}}},
            r"penalty 'output_zeroing', .* try objective.output_zeroing.strength=",
        ),
        (
            {"network": "mlp", "epochs": 9, "objective": {"lipschitz": {"psi": 0.1, "target": 2.0, "rate": 1.0}}},
            r"psi has grown from 0.1 to .* try objective.lipschitz.rate=0.25, or a lower objective.lipschitz.target",
        ),
    ],
)  # fmt: skip
def test_each_cause_is_named_with_a_remedy(change: dict[str, Any], said: str, tmp_path: Path, few: Dataset) -> None:
    with pytest.raises(Diverged, match=said) as raised:
        train(recipe_from({**SMALL, **change}), few, tmp_path)
    assert isinstance(raised.value, FloatingPointError)
    assert not (tmp_path / "model.safetensors").exists()


def test_an_explosion_ends_a_run_long_before_it_is_infinite(tmp_path: Path, few: Dataset) -> None:
    """Batch norm keeps the loss of a network finite whose weights are beyond all use."""
    losses: list[float] = []
    with pytest.raises(Diverged, match=r"cross-entropy grew to .* at step \d+"):
        train(
            recipe_from({**SMALL, "learning_rate": 100, "epochs": 20}), few, tmp_path,
            report=lambda line: losses.append(line["loss"]),
        )  # fmt: skip
    assert max(losses) < 1e6
    assert len(losses) < 40


# Runs that are bad, or look it, and go on: what they reach is theirs to show.
BAD: dict[str, dict[str, Any]] = {
    "a linear network at an absurd rate": {"network": "linear", "learning_rate": 100},
    "inputs scaled a thousandfold": {"network": "linear", "std": 0.001},
    "a network that dies": {"network": "mlp", "learning_rate": 1},
    "an attack that cannot be withstood": {"objective": ATTACKED},
    "the same on a network without batch norm": {"network": "mlp", "objective": ATTACKED},
    "noise that hides everything": {"objective": {"noise": {"std": 10.0}}},
    "a penalty that allows hardly anything": {"objective": {"lipschitz": {"psi": 1e3}}, "learning_rate": 0.05},
    "Adam at a rate of 1": {"network": "mlp", "optimiser": "adam", "learning_rate": 1},
}


@pytest.mark.parametrize("change", BAD.values(), ids=list(BAD))
def test_bad_runs_are_no_divergence(change: dict[str, Any], tmp_path: Path, few: Dataset) -> None:
    train(recipe_from({**SMALL, "epochs": 15, **change}), few, tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("network", ["linear", "mlp", "small_cnn:widths=4-8-8"])
def test_two_classes_under_attack_are_no_divergence(network: str, tmp_path: Path) -> None:
    """Zeros and ones, so strongly attacked that each looks like the other."""
    digits = advex.open_dataset("digits", split="train", max_samples=400)
    chosen = digits.take((digits.y < 2).nonzero()[:, 0])
    data = dataclasses.replace(chosen, class_names=("0", "1"), counts=None)
    train(recipe_from({**SMALL, "epochs": 15, "network": network, "objective": ATTACKED}), data, tmp_path)
    assert (tmp_path / "model.safetensors").exists()


def replaced(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Tensor, Tensor], Tensor]) -> None:
    """From now on, cross-entropy is change(number of the call, loss, a weight)."""
    calls: list[int] = []

    class Changed(Natural):
        def __call__(self, step: Any, state: Any) -> Any:
            loss, parts, state = super().__call__(step, state)
            calls.append(1)
            return change(len(calls), loss, next(step.classifier.parameters())), parts, state

    monkeypatch.setattr(runs.objectives, "build", lambda terms: objectives.Objective({"natural": Changed()}))


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(
    tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in the middle of epoch 2: the run ends there, and goes on from the end of epoch 1 as if nothing had been."""
    recipe = recipe_from(SMALL)
    train(recipe, few, tmp_path / "whole")
    with monkeypatch.context() as patch:
        # The first call is the rehearsal's.
        replaced(patch, lambda call, loss, weight: loss * math.nan if call == 1 + 6 else loss)
        last = r"The last good checkpoint is .*step-00000004\.$"
        with pytest.raises(Diverged, match=rf"became nan at step 6 \(epoch 2\)\. .* {last}"):
            train(recipe, few, tmp_path / "broken")
    train(recipe, few, tmp_path / "broken", resume=True)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


@pytest.mark.parametrize("when", ["at the end of an epoch", "by the clock", "when stopped"])
def test_weights_that_are_not_finite_never_become_a_checkpoint(
    when: str, tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finite loss with an infinite derivative (a root at zero) in step 8, or in step 6 of epoch 2."""
    step = 8 if when == "at the end of an epoch" else 6
    root = lambda loss, weight: loss + (weight.sum() * 0).sqrt() * 0  # noqa: E731
    replaced(monkeypatch, lambda call, loss, weight: root(loss, weight) if call == 1 + step else loss)
    seen: list[int] = []
    options: dict[str, Any] = {"report": lambda line: seen.append(line["step"])}
    if when == "by the clock":
        options["checkpoint_seconds"] = 0
    if when == "when stopped":
        options["stop"] = lambda: seen[-1:] == [step]
    with pytest.raises(Diverged, match=r"'network\.\S+' .*step \d+ .*learning_rate="):
        train(recipe_from(SMALL), few, tmp_path, **options)
    assert max(seen) == step
    kept = checkpoints_in(tmp_path)
    assert kept
    for folder in kept:
        assert all(torch.isfinite(value).all() for value in load_file(folder / "model.safetensors").values())


# -- before the first step -----------------------------------------------------------------------------------


def test_the_rehearsal_leaves_no_trace(
    tmp_path: Path, few: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, running statistics and metrics with and without it are the same, bit for bit; so are all generators."""
    recipe = recipe_from(
        {
            **SMALL, "objective": {"lipschitz": {"psi": 3, "target": 2}, "adversarial": {}}, "ema": 0.9,
            "accumulate": 2, "robust_every": 1, "robust_samples": 10, "pad": 1,
        }
    )  # fmt: skip
    before = torch.get_rng_state()
    run = runs.begin(training.fitted(recipe, few.shape, 10), few, tmp_path, "cpu")
    state = {name: value.clone() for name, value in run.classifier.state_dict().items()}
    position = dataclasses.replace(run.position)
    with loop.prepared(run) as loss_of:
        told = dry_run_module.rehearse(run, loss_of, held_out)
    assert told["loss"] == pytest.approx(told["cross_entropy"] + told["lipschitz"])
    assert equal(state, run.classifier.state_dict())
    assert run.position == position
    assert all(parameter.grad is None for parameter in run.classifier.parameters())
    assert not run.optimiser.state
    train(recipe, few, tmp_path / "with", validation=held_out)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(loop, "rehearse", lambda *arguments: {})
    train(recipe, few, tmp_path / "without", validation=held_out)
    assert equal(weights(tmp_path / "with"), weights(tmp_path / "without"))
    assert equal(weights(tmp_path / "with" / "best"), weights(tmp_path / "without" / "best"))


def refused(
    said: str,
    error: type[Exception],
    tmp_path: Path,
    change: dict[str, Any],
    data: Dataset,
    validation: Dataset | None = None,
) -> None:
    """Training and a dry run say the same, and write nothing."""
    recipe = recipe_from({**SMALL, **change})
    ready: list[int] = []
    with pytest.raises(error, match=said):
        train(recipe, data, tmp_path / "run", validation=validation, ready=lambda: ready.append(1))
    with pytest.raises(error, match=said):
        dry_run(recipe, data, validation=validation)
    assert not ready
    assert not list(tmp_path.iterdir())


def test_validation_data_of_another_kind(tmp_path: Path, few: Dataset, held_out: Dataset) -> None:
    larger = dataclasses.replace(held_out, x=torch.zeros(20, 1, 9, 9, dtype=torch.uint8))
    refused(
        r"Validation inputs have shape \(1, 9, 9\), but training inputs have shape \(1, 8, 8\)",
        DataError,
        tmp_path,
        {},
        few,
        larger,
    )
    other = dataclasses.replace(held_out, class_names=tuple("abcdefghij"))
    refused(
        r"\(a, b, c, d, e, \.\.\.\) differ from those of the training data \(0, 1,", DataError, tmp_path, {}, few, other
    )
    refused("no example to validate on", DataError, tmp_path, {}, few, held_out.take(slice(0, 0)))


def test_a_network_that_does_not_fit(tmp_path: Path, few: Dataset) -> None:
    refused("7 outputs for 10 class names", InputError, tmp_path, {"network": "small_cnn:classes=7"}, few)
    shape = r"does not take inputs of shape \(1, 8, 8\)"
    refused(shape, InputError, tmp_path, {"network": "mlp:features=10"}, few)
    refused("the classifier's mean has 3", InputError, tmp_path, {"mean": [0.5, 0.5, 0.5]}, few)
    refused("std must be above 0", InputError, tmp_path, {"std": 0.0}, few)


def test_terms_that_do_not_fit_the_data(tmp_path: Path, few: Dataset) -> None:
    change = {"objective": {"lipschitz": {"outputs": 11}}}
    refused("cannot draw outputs=11 of 10 classes", InputError, tmp_path, change, few)
    change = {"pad": 8, "padding": "reflect"}
    refused("cannot be shifted by 8 with reflected edges", InputError, tmp_path, change, few)


def test_an_attack_that_cannot_run(
    tmp_path: Path, few: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would first be used after the fifth epoch."""

    def broken(*arguments: Any, **options: Any) -> Any:
        raise InputError("This search takes no pictures.")

    monkeypatch.setattr(validation.attacks, "build", lambda spec: broken)
    refused("takes no pictures", InputError, tmp_path, {"robust_every": 5, "epochs": 10}, few, held_out)
    train(recipe_from({**SMALL, "robust_every": 0}), few, tmp_path, validation=held_out)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, r"A batch of 32 does not fit into memory: try accumulate=2 \(the same batch, in more parts\)"),
        ({"accumulate": 4}, r"A batch of 32 in 4 parts does not fit into memory: try accumulate=8"),
        ({"accumulate": 16}, r"A batch of 32 in 16 parts does not fit into memory: use a smaller network"),
    ],
)
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("not enough memory: you tried to allocate 1")]
)
def test_a_batch_that_does_not_fit_into_memory(
    change: dict[str, Any], said: str, error: Exception, tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(dry_run_module, "gradients", full)
    refused(said, SpecError, tmp_path, change, few)


def test_too_few_examples(tmp_path: Path, few: Dataset) -> None:
    said = "digits/train: training needs at least 2 examples, found 1"
    refused(said, DataError, tmp_path, {}, few.take(slice(0, 1)))
    said = "needs at least 2 examples in each of 4 parts of a batch, found 7"
    refused(said, DataError, tmp_path, {"accumulate": 4}, few.take(slice(0, 7)))


def test_a_dry_run_tells_a_step_and_how_long_all_will_take(
    few: Dataset, held_out: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that a step advances by 2 s, a look by 3 s, and one under attack by 5 s."""
    now = [0.0]
    monkeypatch.setattr(dry_run_module.time, "perf_counter", lambda: now[0])
    step, clean, robust = dry_run_module.gradients, validation.accuracy, validation.robust_accuracy

    def slow(of: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def work(*arguments: Any) -> Any:
            now[0] += seconds
            return of(*arguments)

        return work

    monkeypatch.setattr(dry_run_module, "gradients", slow(step, 2.0))
    monkeypatch.setattr(validation, "accuracy", slow(clean, 3.0))
    monkeypatch.setattr(validation, "robust_accuracy", slow(robust, 5.0))
    recipe = recipe_from(
        {**SMALL, "epochs": 7, "batch_size": 10, "validate_every": 2, "robust_every": 3, "robust_samples": 5}
    )
    told = dry_run(recipe, few, validation=held_out)
    assert (told["seconds"], told["steps"]) == (2.0, 70)
    # 4 looks at 20 examples, timed with 10; 3 under attack at the 5 they were timed with.
    assert told["duration"] == 70 * 2 + 4 * 2 * 3 + 3 * 5
    assert told["loss"] == pytest.approx(told["parts"]["cross_entropy"])
    assert dry_run(recipe, few)["duration"] == 70 * 2
