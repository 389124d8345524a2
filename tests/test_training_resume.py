"""A run that is broken off anywhere ends as if it had not been: stopped, killed, damaged, on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import advex
from advex import training
from advex.data.dataset import Dataset
from advex.errors import AdvexWarning, ArtifactError
from advex.recipes import Recipe, recipe_from
from advex.training import Interrupted, checkpoints, checkpoints_in, train
from advex.training.run import begin

SMALL = {
    "network": "small_cnn:widths=4-8-8", "epochs": 3, "batch_size": 32, "seed": 1, "pad": 1, "robust_every": 0,
    "objective": {"adversarial": {"attack": "l2min:epsilon=0.3,steps=2"}},
}  # fmt: skip
PLAIN = {"network": "linear", "epochs": 3, "batch_size": 32, "seed": 1, "robust_every": 0}


@pytest.fixture(scope="module")
def few() -> Dataset:
    """100 digits: 4 steps per epoch."""
    return advex.open_dataset("digits", split="train", max_samples=100)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "rate")} for line in lines]


def reports(recipe: Recipe, data: Dataset, out: Path, **options: Any) -> list[dict[str, Any]]:
    """What a run says of its steps."""
    lines: list[dict[str, Any]] = []
    train(recipe, data, out, report=lines.append, **options)
    return [line for line in lines if "epoch" not in line]


# -- the same again ------------------------------------------------------------------------------------------


def test_same_seed_same_weights_and_nothing_global_moves(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from({**SMALL, "flip": True, "ema": 0.9})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(recipe, few, tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    train(recipe, few, tmp_path / "second")
    assert equal(weights(tmp_path / "first"), weights(tmp_path / "second"))


class Crash(Exception):
    pass


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "adagrad"])
def test_a_crash_costs_an_epoch_and_no_bit(optimiser: str, tmp_path: Path, few: Dataset) -> None:
    """In the middle of epoch 2: resuming repeats that epoch, with the same end."""
    recipe = recipe_from({**SMALL, "optimiser": optimiser})
    train(recipe, few, tmp_path / "whole")

    def crash(line: dict[str, Any]) -> None:
        if line["step"] == 6:
            raise Crash

    with pytest.raises(Crash):
        train(recipe, few, tmp_path / "broken", report=crash)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    assert reports(recipe, few, tmp_path / "broken", resume=True)[0]["step"] == 5
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")
    assert [line["epoch"] for line in metrics(tmp_path / "whole")] == [1, 2, 3]


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_a_stop_costs_nothing(step: int, tmp_path: Path, few: Dataset) -> None:
    """Stopped after any step, also the last of an epoch and of the run: it goes on with the next one."""
    recipe = recipe_from({**SMALL, "ema": 0.5})
    train(recipe, few, tmp_path / "whole")
    seen: list[int] = []
    with pytest.raises(Interrupted, match=f"step {step} of 12; .*step-{step:08d}"):
        train(
            recipe, few, tmp_path / "broken", stop=lambda: len(seen) == step,
            report=lambda line: None if "epoch" in line else seen.append(line["step"]),
        )  # fmt: skip
    resumed = [line["step"] for line in reports(recipe, few, tmp_path / "broken", resume=True)]
    assert seen + resumed == list(range(1, 13))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")


# -- killed --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `killed_run.py` tells."""
    command = [sys.executable, str(Path(__file__).with_name("killed_run.py")), str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("what", "least", "code"), [("steps", 12, -9), ("writes", 50, -9), ("rewrites", 25, -9), ("full", 6, 1)]
)
def test_a_run_that_dies_anywhere_ends_as_if_it_had_not(
    what: str, least: int, code: int, deaths: list[dict[str, Any]]
) -> None:
    """SIGKILL after each step and before each system call that changes a file; and files that cannot be written.

    Every file that is left is the same, bit for bit: the result, the best, checkpoints with weights, average,
    momentum and the objective's state. Of metrics and checkpoints' positions, all but times.
    """
    whole, count = None, 0
    for told in deaths:
        if told["what"] != what:
            continue
        if told["name"] == "whole":
            whole = told["left"]
            assert {"run/model.safetensors", "run/metrics.jsonl", "run/checkpoints/step-00000006"} <= whole.keys()
            continue
        count += 1
        assert (told["ended"], told["resumed"]) == (code, 0), told["name"]
        assert told["left"] == whole, told["name"]
    assert count >= least


# -- checkpoints ---------------------------------------------------------------------------------------------


def test_the_last_few_are_kept_and_the_best_although_it_is_older(tmp_path: Path, few: Dataset) -> None:
    """A training that gets worse from the first epoch on: its labels are wrong after that."""
    validation = advex.open_dataset("digits", split="test", max_samples=50)
    recipe = recipe_from({**PLAIN, "epochs": 6, "keep": 3, "schedule": "constant", "learning_rate": 0.02})
    spoilt = few.y.roll(1)
    honest = few.y.clone()

    def spoil(line: dict[str, Any]) -> None:
        few.y.copy_(spoilt if line["step"] >= 8 else honest)

    try:
        train(recipe, few, tmp_path, validation=validation, report=spoil)
    finally:
        few.y.copy_(honest)
    assert [path.name for path in checkpoints_in(tmp_path)] == [f"step-{step:08d}" for step in (24, 20, 16)]
    lines = metrics(tmp_path)
    best = max(lines, key=lambda line: line["accuracy"])
    assert [line["epoch"] for line in lines if line.get("best")][-1] == best["epoch"] < 4
    kept = json.loads((tmp_path / "best" / "config.json").read_text())["training"]
    assert (kept["epoch"], kept["accuracy"]) == (best["epoch"], best["accuracy"])
    assert training.accuracy(advex.load(tmp_path / "best"), validation) == best["accuracy"]
    assert training.accuracy(advex.load(tmp_path), validation) == lines[-1]["accuracy"] < best["accuracy"]


def test_checkpoints_inside_an_epoch_come_by_the_clock(tmp_path: Path, few: Dataset) -> None:
    seen: list[list[str]] = []
    train(
        recipe_from({**PLAIN, "epochs": 1, "keep": 9}), few, tmp_path, checkpoint_seconds=0.0,
        report=lambda line: seen.append([path.name[-1] for path in checkpoints_in(tmp_path)]),
    )  # fmt: skip
    assert seen == [[], ["1"], ["2", "1"], ["3", "2", "1"], ["4", "3", "2", "1"]]


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])


@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    how: str, name: str, tmp_path: Path, few: Dataset
) -> None:
    """Also where only one is kept from then on: the damaged ones do not count."""
    recipe = recipe_from({**PLAIN, "momentum": 0.8, "ema": 0.9, "keep": 3})
    train(recipe, few, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    for damaged in checkpoints_in(tmp_path / "broken")[:2]:
        spoil(damaged / name, how)
    with pytest.warns(AdvexWarning, match="step-00000004") as told:
        steps = reports(recipe, few, tmp_path / "broken", resume=True)
    assert ["step-00000012" in str(told[0].message), "step-00000008" in str(told[1].message)] == [True, True]
    assert steps[0]["step"] == 5
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")
    for first, second in zip(*map(checkpoints_in, (tmp_path / "whole", tmp_path / "broken")), strict=True):
        assert equal(weights(first), weights(second))


def test_damaged_checkpoints_are_not_counted_among_those_that_are_kept(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from({**PLAIN, "keep": 1})
    train(recipe, few, tmp_path)
    (newest,) = checkpoints_in(tmp_path)
    shutil.copytree(newest, newest.with_name("step-00000099"))
    spoil(newest.with_name("step-00000099") / "config.json", "cut")
    with pytest.warns(AdvexWarning, match="step-00000099"):
        train(recipe, few, tmp_path, resume=True)
    assert checkpoints_in(tmp_path) == [newest]


def test_no_byte_of_a_checkpoint_can_change_unseen(tmp_path: Path, few: Dataset) -> None:
    """Whatever bit of what it says is turned: it counts as damaged, or nothing that is read has changed."""
    recipe = recipe_from({**PLAIN, "epochs": 1})
    train(recipe, few, tmp_path)
    (folder,) = checkpoints_in(tmp_path)
    path = folder / "config.json"
    content, told = path.read_bytes(), training.checkpoint_described(folder)
    known, refused = [told["position"], told["identity"]], 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 2]) + content[place + 1 :])
        try:
            found = training.checkpoint_described(folder)
        except ArtifactError:
            refused += 1
        else:
            assert [found[name] for name in ("position", "identity")] == known, place
    assert refused > len(content) / 7 / 2


def test_without_a_whole_checkpoint_nothing_is_begun_anew(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from({**PLAIN, "keep": 2})
    train(recipe, few, tmp_path)
    for folder in checkpoints_in(tmp_path):
        spoil(folder / "model.safetensors", "changed")
    before = metrics(tmp_path)
    with pytest.raises(ArtifactError, match=r"No checkpoint in .* is intact: .* is damaged or was replaced"):
        train(recipe, few, tmp_path, resume=True)
    assert metrics(tmp_path) == before


def test_another_run_is_refused(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from(PLAIN)
    train(recipe, few, tmp_path)
    with pytest.raises(ArtifactError, match="another recipe or other data"):
        train(recipe.model_copy(update={"momentum": 0.8}), few, tmp_path, resume=True)
    with pytest.raises(ArtifactError, match="another recipe or other data"):
        train(recipe, few.take(slice(0, 99)), tmp_path, resume=True)
    with pytest.raises(ArtifactError, match="resume=True"):
        train(recipe, few, tmp_path)


def test_metrics_of_an_epoch_that_is_repeated_are_not_doubled(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from(PLAIN)
    steps: list[int] = []
    with pytest.raises(Interrupted):
        train(recipe, few, tmp_path, stop=lambda: 9 in steps, report=lambda line: steps.append(line["step"]))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 12}\n{"epo')  # written by a run that was killed before its checkpoint
    train(recipe, few, tmp_path, resume=True)
    assert [line["epoch"] for line in metrics(tmp_path)] == [1, 2, 3]


def test_what_others_have_put_beside_a_run_stays(tmp_path: Path, few: Dataset) -> None:
    """A killed run's unfinished folders go; what only looks like them does not."""
    out = tmp_path / "run"
    train(recipe_from(PLAIN), few, out)
    theirs = [tmp_path / ".run.notes", tmp_path / ".run.9-abcdefgh" / "mine", out / ".best.txt", out / ".best.abc.new"]
    theirs[1].mkdir(parents=True)
    for path in (theirs[0], theirs[2], theirs[3]):
        path.write_text("mine")
    ours = [
        out / ".recipe.yaml.7fffffff-12345678.new",
        out / ".best.7fffffff-12345678.new",
        out / "checkpoints" / ".step-00000004.7fffffff-12345678.new",
    ]
    for path in ours:
        path.mkdir(parents=True)
    with warnings.catch_warnings():
        train(recipe_from(PLAIN), few, out, resume=True)
    assert [path.exists() for path in theirs] == [True] * 4
    assert [path.exists() for path in ours] == [False] * 3


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third checkpoint meets a full disk: those before it are kept, and the same call goes on."""
    recipe = recipe_from(PLAIN)
    train(recipe, few, tmp_path / "whole")
    write, calls = checkpoints.artifacts.save_file, []

    def full(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.artifacts, "save_file", full)
        with pytest.raises(ArtifactError, match="step-00000012 .*No space left"):
            train(recipe, few, tmp_path / "broken")
    assert [path.name for path in checkpoints_in(tmp_path / "broken")] == ["step-00000008", "step-00000004"]
    train(recipe, few, tmp_path / "broken", resume=True)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_momentum_comes_back_in_the_layout_of_its_weights(tmp_path: Path, few: Dataset) -> None:
    """Arithmetic on another layout may round otherwise: a resumed run would differ in the last bit."""
    recipe = recipe_from({**SMALL, "channels_last": True})
    run = begin(training.fitted(recipe, few.shape, 10), few, tmp_path, "cpu")
    train(recipe, few, tmp_path)
    checkpoints.restore(run)
    layouts = set()
    for parameter, memory in run.optimiser.state.items():
        assert memory["momentum_buffer"].stride() == parameter.stride()
        layouts.add(parameter.is_contiguous())
    assert layouts == {True, False}
