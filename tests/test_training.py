"""Recipes, the training loop, and that a run can be broken off anywhere without a trace in its result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import advex
from advex import recipes, training
from advex.data.dataset import Dataset
from advex.errors import ArtifactError, DataError, InputError, SpecError
from advex.objectives import Natural
from advex.recipes import Recipe, recipe_from
from advex.training import Diverged, Interrupted, learning_rate, train

SMALL = {"network": "small_cnn:widths=4-8-8", "epochs": 3, "batch_size": 32, "seed": 1}


@pytest.fixture(scope="module")
def few() -> Dataset:
    """100 digits."""
    return advex.open_dataset("digits", split="train", max_samples=100)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# -- what training achieves --------------------------------------------------------------------------------


def test_digits_are_learned(tmp_path: Path) -> None:
    recipe = recipe_from(recipes.read("digits-ordinary"), {"epochs": "6"})
    lines: list[dict[str, Any]] = []
    test = advex.open_dataset("digits", split="test")
    train(recipe, advex.open_dataset("digits", split="train"), tmp_path / "run", validation=test, report=lines.append)
    classifier = advex.load(tmp_path / "run")
    batch = test.batch(slice(None))
    accuracy = (classifier(batch.x).argmax(dim=1) == batch.y).double().mean().item()
    assert accuracy > 0.9
    assert [line["accuracy"] for line in lines if "accuracy" in line][-1] == pytest.approx(accuracy)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 6 * math.ceil(1297 / 64) + 1))


def test_the_artifact_says_what_it_was_trained_on(tmp_path: Path, few: Dataset) -> None:
    train(recipe_from(SMALL), few, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["input_shape"] == [1, 8, 8]
    assert config["class_names"] == list("0123456789")
    assert config["training"]["data"] == "digits/train"
    assert config["training"]["recipe"]["network"] == "small_cnn:widths=4-8-8,classes=10,channels=1"


def test_a_step_is_nesterov_sgd_with_weight_decay(tmp_path: Path, few: Dataset) -> None:
    """Against the update rule written out: g = dL/dw + lambda w; v = m v + g; w = w - rate (g + m v)."""
    recipe = Recipe(
        network="linear", epochs=3, batch_size=100, learning_rate=0.05, momentum=0.8, weight_decay=0.01,
        schedule="constant", warm_up=0.0, mean=0.3, std=0.4,
    )  # fmt: skip
    train(recipe, few, tmp_path)
    found = weights(tmp_path)

    torch.manual_seed(recipe.seed)
    layer = torch.nn.Linear(64, 10)
    w = torch.cat([layer.weight.detach(), layer.bias.detach()[:, None]], dim=1).double()
    x = (few.batch(slice(None)).x.flatten(1).double() - 0.3) / 0.4
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    v = torch.zeros_like(w)
    for _ in range(3):
        wrong = (x @ w.T).softmax(dim=1) - torch.nn.functional.one_hot(few.y, 10)
        g = wrong.T @ x / len(x) + 0.01 * w
        v = 0.8 * v + g
        w = w - 0.05 * (g + 0.8 * v)
    # float32 training against float64: rounding of three steps.
    torch.testing.assert_close(found["1.weight"].double(), w[:, :-1], rtol=0, atol=2e-6)
    torch.testing.assert_close(found["1.bias"].double(), w[:, -1], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "small_cnn:widths=4-8-8,activation=relu"},
        {"objective": "adversarial"},
        {"objective_options": {"label_smoothing": 0.1}},
        {"mean": 0.4},
        {"std": 0.5},
        {"epochs": 2},
        {"batch_size": 25},
        {"optimiser": "adam"},
        {"learning_rate": 0.05},
        {"momentum": 0.5},
        {"weight_decay": 0.01},
        {"schedule": "constant"},
        {"schedule": "step"},
        {"warm_up": 0.0},
        {"augment": "crop"},
        {"augment": "crop_flip"},
        {"precision": "bfloat16"},
        {"seed": 2},
    ],
    ids=lambda change: "-".join(f"{key}={value}" for key, value in change.items()),
)
def test_every_setting_changes_the_weights(change: dict[str, Any], tmp_path: Path, few: Dataset) -> None:
    base = {**SMALL, "epochs": 1}
    train(recipe_from(base), few, tmp_path / "base")
    train(recipe_from({**base, **change}), few, tmp_path / "changed")
    assert not equal(weights(tmp_path / "base"), weights(tmp_path / "changed"))


def test_pad_and_milestones_matter_where_they_apply(tmp_path: Path, few: Dataset) -> None:
    for name, base, change in (
        ("pad", {"augment": "crop"}, {"pad": 1}),
        ("milestones", {"schedule": "step"}, {"milestones": (0.5,)}),
    ):
        train(recipe_from({**SMALL, **base}), few, tmp_path / name / "base")
        train(recipe_from({**SMALL, **base, **change}), few, tmp_path / name / "changed")
        assert not equal(weights(tmp_path / name / "base"), weights(tmp_path / name / "changed")), name


# -- repeating and resuming --------------------------------------------------------------------------------


def test_same_seed_same_weights_and_nothing_global_moves(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from({**SMALL, "objective": "adversarial", "augment": "crop_flip"})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(recipe, few, tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    train(recipe, few, tmp_path / "second")
    assert equal(weights(tmp_path / "first"), weights(tmp_path / "second"))


class Crash(Exception):
    pass


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_crash_costs_an_epoch_and_no_bit(optimiser: str, tmp_path: Path, few: Dataset) -> None:
    """Killed in the middle of epoch 2: resuming repeats that epoch, with the same end."""
    recipe = recipe_from({**SMALL, "objective": "adversarial", "augment": "crop", "optimiser": optimiser})
    whole = [line for line in _reports(recipe, few, tmp_path / "whole") if "epoch" in line]

    def crash(line: dict[str, Any]) -> None:
        if line.get("step") == 6:
            raise Crash

    with pytest.raises(Crash):
        train(recipe, few, tmp_path / "broken", report=crash)
    assert not (tmp_path / "broken" / "model.safetensors").exists()
    resumed = _reports(recipe, few, tmp_path / "broken", resume=True)
    assert resumed[0]["step"] == 5  # 4 steps per epoch
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))
    assert [line["epoch"] for line in whole] == [1, 2, 3]
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "broken" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("step", [1, 4, 6, 12])
def test_a_stop_costs_nothing(step: int, tmp_path: Path, few: Dataset) -> None:
    """Stopped after any step, also the last of an epoch and of the run: it goes on with the next one."""
    recipe = recipe_from({**SMALL, "objective": "adversarial", "augment": "crop"})
    train(recipe, few, tmp_path / "whole")
    seen: list[int] = []
    with pytest.raises(Interrupted, match=f"after step {step} of 12"):
        train(
            recipe, few, tmp_path / "broken", stop=lambda: len(seen) == step,
            report=lambda line: seen.append(line["step"]) if "loss" in line else None,
        )  # fmt: skip
    resumed = [line["step"] for line in _reports(recipe, few, tmp_path / "broken", resume=True) if "loss" in line]
    assert seen + resumed == list(range(1, 13))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def _reports(recipe: Recipe, data: Dataset, out: Path, resume: bool = False) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    train(recipe, data, out, resume=resume, report=lines.append)
    return lines


def test_metrics_of_an_epoch_that_is_repeated_are_not_doubled(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from(SMALL)
    steps: list[int] = []
    with pytest.raises(Interrupted):
        train(recipe, few, tmp_path, stop=lambda: len(steps) == 9, report=lambda line: steps.append(1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "step": 12}\n{"epo')  # written by a run that was killed before its checkpoint
    train(recipe, few, tmp_path, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]


def test_another_run_or_a_damaged_checkpoint_is_refused(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from(SMALL)
    train(recipe, few, tmp_path)
    with pytest.raises(ArtifactError, match="another recipe or other data"):
        train(recipe.model_copy(update={"momentum": 0.8}), few, tmp_path, resume=True)
    with pytest.raises(ArtifactError, match="another recipe or other data"):
        train(recipe, few.take(slice(0, 99)), tmp_path, resume=True)
    path = tmp_path / "checkpoint" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        train(recipe, few, tmp_path, resume=True)


# -- schedule and augmentation -----------------------------------------------------------------------------


def test_learning_rates_by_hand() -> None:
    one_cycle = Recipe(learning_rate=0.2, warm_up=0.2)
    # A tenth of the peak, linearly up to it, half a cosine down to nothing.
    down = 0.2 * (1 + math.sqrt(0.5)) / 2
    for progress, rate in ((0, 0.02), (0.1, 0.11), (0.2, 0.2), (0.4, down), (0.6, 0.1), (1, 0)):
        assert learning_rate(one_cycle, progress) == pytest.approx(rate, abs=1e-12)
    step = Recipe(learning_rate=0.2, warm_up=0.05, schedule="step", milestones=(0.85, 0.975))
    for progress, rate in ((0.025, 0.11), (0.05, 0.2), (0.84, 0.2), (0.85, 0.02), (0.975, 0.002), (1, 0.002)):
        assert learning_rate(step, progress) == pytest.approx(rate)
    constant = Recipe(learning_rate=0.2, warm_up=0.0, schedule="constant")
    assert [learning_rate(constant, progress) for progress in (0, 0.5, 1)] == [0.2, 0.2, 0.2]


def _augmented(x: Tensor, top: int, left: int, flip: bool, pad: int) -> Tensor:
    """One picture [c, h, w], pixel by pixel: shifted over replicated edges, then mirrored."""
    result = torch.empty_like(x)
    _, height, width = x.shape
    for row in range(height):
        for column in range(width):
            source = width - 1 - column if flip else column
            from_row = min(max(row + top - pad, 0), height - 1)
            from_column = min(max(source + left - pad, 0), width - 1)
            result[:, row, column] = x[:, from_row, from_column]
    return result


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_augmentation_shifts_over_replicated_edges_and_mirrors(kind: str) -> None:
    """400 copies of one picture: each becomes one of the (2 pad + 1)^2 (or twice as many) that the replica makes."""
    recipe, total = Recipe(augment=kind, pad=2, seed=3), 400
    x = torch.rand(1, 2, 5, 6)
    found = augment(recipe, x.expand(total, -1, -1, -1), torch.arange(total), epoch=4, total=total)
    flips = (False, True) if kind == "crop_flip" else (False,)
    options = [(top, left, flip) for top in range(5) for left in range(5) for flip in flips]
    replicas = torch.stack([_augmented(x[0], *option, pad=2) for option in options])
    same = (found[:, None] == replicas[None]).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    chosen = [options[number] for number in same.int().argmax(dim=1).tolist()]
    assert {option[:2] for option in chosen} == {option[:2] for option in options}  # every shift occurs
    if kind == "crop_flip":
        # Half are mirrored: 200 of 400, within four standard deviations of 10.
        assert 160 <= sum(flip for _, _, flip in chosen) <= 240


def test_augmentation_of_an_example_does_not_depend_on_its_batch() -> None:
    recipe = Recipe(augment="crop_flip")
    x = torch.rand(50, 3, 8, 8)
    index = torch.arange(50)
    whole = augment(recipe, x, index, epoch=1, total=50)
    order = torch.randperm(50)
    shuffled = augment(recipe, x[order], order, epoch=1, total=50)
    assert torch.equal(whole[order], shuffled)
    assert torch.equal(whole[7:8], augment(recipe, x[7:8], index[7:8], epoch=1, total=50))
    assert not torch.equal(whole, augment(recipe, x, index, epoch=2, total=50))


# -- what can go wrong -------------------------------------------------------------------------------------


def test_a_learning_rate_that_is_too_high_ends_the_run(tmp_path: Path, few: Dataset) -> None:
    recipe = recipe_from({**SMALL, "network": "mlp", "learning_rate": 1e30})
    with pytest.raises(Diverged, match=r"loss became (inf|nan) at step \d+ .* learning_rate=") as raised:
        train(recipe, few, tmp_path)
    assert isinstance(raised.value, FloatingPointError)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(
    tmp_path: Path, few: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in the middle of epoch 2: the run ends there, and goes on from the end of epoch 1 as if nothing had been."""
    recipe = recipe_from(SMALL)
    train(recipe, few, tmp_path / "whole")
    calls = []

    class Spoilt(Natural):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            loss, parts, state = super().__call__(*arguments, **options)
            calls.append(1)
            return (loss * math.nan if len(calls) == 6 else loss), parts, state

    with monkeypatch.context() as patch:
        patch.setattr(training.objectives, "make", lambda name, **options: Spoilt(**options))
        with pytest.raises(Diverged, match=r"nan at step 6 \(epoch 2\)"):
            train(recipe, few, tmp_path / "broken")
    train(recipe, few, tmp_path / "broken", resume=True)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "broken"))


def test_too_few_examples(tmp_path: Path, few: Dataset) -> None:
    with pytest.raises(DataError, match="at least 2 examples, found 1"):
        train(recipe_from(SMALL), few.take(slice(0, 1)), tmp_path)


def test_a_last_batch_of_one_example_is_left_out(tmp_path: Path, few: Dataset) -> None:
    """Batch norm cannot train on one example. 33 examples in batches of 32: one step per epoch."""
    lines = _reports(recipe_from(SMALL), few.take(slice(0, 33)), tmp_path)
    assert [(line["step"], line["steps"]) for line in lines if "loss" in line] == [(1, 3), (2, 3), (3, 3)]


def test_a_network_that_does_not_fit_says_so_before_training(tmp_path: Path, few: Dataset) -> None:
    with pytest.raises(InputError, match="7 outputs for 10 class names"):
        train(recipe_from({**SMALL, "network": "small_cnn:classes=7"}), few, tmp_path)
    with pytest.raises(InputError, match=r"does not take inputs of shape \(1, 8, 8\)"):
        train(recipe_from({**SMALL, "network": "mlp:features=10"}), few, tmp_path)
    with pytest.raises(InputError, match="the classifier's mean has 3"):
        train(recipe_from({**SMALL, "mean": [0.5, 0.5, 0.5]}), few, tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_what_a_spec_leaves_open_is_taken_from_the_data() -> None:
    def network(spec: str, shape: tuple[int, ...]) -> str:
        return recipes.fitted(Recipe(network=spec), shape, 7).network

    assert network("small_cnn", (3, 16, 16)) == "small_cnn:classes=7,channels=3"
    assert network("small_cnn:widths=8-8-8,channels=1", (3, 16, 16)) == "small_cnn:widths=8-8-8,channels=1,classes=7"
    assert network("mlp", (3, 4, 5)) == "mlp:features=60,classes=7"
    assert network("linear:features=60,classes=7", (60,)) == "linear:features=60,classes=7"
    with pytest.raises(SpecError, match="did you mean 'small_cnn'"):
        network("smal_cnn", (3, 4, 5))


# -- recipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(recipes.bundled()))
def test_bundled_recipes_are_valid_and_say_their_source(name: str) -> None:
    recipe = recipe_from(recipes.read(name), where=name)
    recipes.fitted(recipe, (3, 32, 32), 10)
    assert "Source:" in recipes.summary(recipes.bundled()[name])
    assert recipe_from(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


def test_overrides_as_typed() -> None:
    recipe = recipe_from(
        recipes.read("digits-robust"),
        {
            "epochs": "7", "learning_rate": "1e-2", "mean": "0.4,0.5,0.6", "milestones": "0.5,0.9",
            "network": "small_cnn:widths=8-16-32", "objective_options.share": "1", "channels_last": "false",
            "objective_options.attack": "pgd:norm=rmse,radius=8/255",
        },
    )  # fmt: skip
    assert (recipe.epochs, recipe.learning_rate, recipe.mean) == (7, 0.01, (0.4, 0.5, 0.6))
    assert (recipe.milestones, recipe.network, recipe.channels_last) == ((0.5, 0.9), "small_cnn:widths=8-16-32", False)
    assert recipe.objective_options == {"attack": "pgd:norm=rmse,radius=8/255", "share": 1}


@pytest.mark.parametrize(
    ("values", "overrides", "said"),
    [
        ({"epoch": 3}, {}, "no setting 'epoch': did you mean 'epochs'"),
        ({}, {"epoch": "3"}, "no setting 'epoch': did you mean 'epochs'"),
        ({}, {"objective_option.share": "1"}, "'objective_option.share': did you mean 'objective_options.share'"),
        ({}, {"epochs.x": "1"}, "no setting 'epochs.x'"),
        ({"epochs": 0}, {}, "epochs = 0 is not possible"),
        ({"epochs": "many"}, {}, "epochs = 'many' is not possible"),
        ({"schedule": "cosine"}, {}, "schedule = 'cosine' is not possible"),
        ({"objective": "adversarail"}, {}, "did you mean 'adversarial'"),
        ({"objective": "adversarial", "objective_options": {"shares": 1}}, {}, "did you mean 'share'"),
        ({"objective": "adversarial", "objective_options": {"attack": "l2min:step=3"}}, {}, "did you mean 'steps'"),
        ({"objective": "adversarial"}, {"objective_options.share": "2"}, r"share must lie in \[0, 1\]"),
    ],
)
def test_recipe_errors_name_the_setting(values: dict[str, Any], overrides: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        recipe_from(values, overrides)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"- a\n- b\n", "must hold lines of the form"),
        (b"epochs: [1, 2\n", "not a YAML file that can be read"),
        (b"\xff\xfe\x00", "not a YAML file that can be read"),
        (b"1: 2\n", "must hold lines of the form"),
        (b"", "must hold lines of the form"),
        (b"network: !!python/object/apply:os.system ['touch hostile']\n", "not a YAML file that can be read"),
        (b"#" * (2**20 + 1), "never that large"),
    ],
)
def test_files_that_are_no_recipes(content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=said):
        recipes.read("recipe.yaml")
    assert not Path("hostile").exists()


def test_a_recipe_that_does_not_exist_is_guessed() -> None:
    with pytest.raises(SpecError, match="no recipe 'digits-robst' .* did you mean 'digits-robust'"):
        recipes.read("digits-robst")


def test_identity_is_the_content_not_the_path(few: Dataset) -> None:
    import dataclasses

    recipe = recipe_from(SMALL)
    same = training.identity_of(recipe, dataclasses.replace(few, name="elsewhere"))
    assert same == training.identity_of(recipe, few)
    changed = few.x.clone()
    changed[0, 0, 0, 0] += 1
    assert training.identity_of(recipe, dataclasses.replace(few, x=changed)) != same
