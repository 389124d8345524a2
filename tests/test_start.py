"""Training that goes on from weights that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import advex
from advex.data.dataset import Dataset
from advex.errors import ArtifactError, SpecError
from advex.recipes import recipe_from
from advex.training import train

QUICK: dict[str, Any] = {
    "network": "mlp:features=64,widths=16", "epochs": 2, "batch_size": 20, "robust_every": 0, "validate_every": 2,
    "schedule": "constant", "learning_rate": 0.05,
}  # fmt: skip
STILL = {**QUICK, "epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0, "momentum": 0.0}


@pytest.fixture(scope="module")
def few() -> Dataset:
    return advex.open_dataset("digits", split="train", max_samples=60)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return advex.load(folder).network.state_dict()


def test_a_run_begins_with_the_weights_of_another(few: Dataset, tmp_path: Path) -> None:
    train(recipe_from({**QUICK, "seed": 3}), few, tmp_path / "first")
    train(recipe_from({**STILL, "seed": 5, "start": str(tmp_path / "first")}), few, tmp_path / "second")
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_of_other_classes_all_but_the_head_is_taken(few: Dataset, tmp_path: Path) -> None:
    train(recipe_from({**QUICK, "seed": 3}), few, tmp_path / "ten")
    kept = few.take((few.y < 4).nonzero()[:, 0])
    four = type(few)(**{**vars(kept), "class_names": few.class_names[:4]})
    train(recipe_from({**STILL, "seed": 5}), four, tmp_path / "random")
    train(recipe_from({**STILL, "seed": 5, "start": str(tmp_path / "ten")}), four, tmp_path / "four")
    ten, drawn, started = (weights(tmp_path / name) for name in ("ten", "random", "four"))
    head = [name for name in ten if ten[name].shape != started[name].shape]
    assert len(head) == 2, "weights and biases of the classes"
    for name, value in started.items():
        assert torch.allclose(value, (drawn if name in head else ten)[name], atol=1e-20), name


def test_networks_of_other_values_and_folders_without_one_are_refused(few: Dataset, tmp_path: Path) -> None:
    train(recipe_from(QUICK), few, tmp_path / "first")
    wide = {**QUICK, "network": "mlp:features=64,widths=32", "start": str(tmp_path / "first")}
    with pytest.raises(SpecError, match=r"widths=16.* does not match the network being trained"):
        train(recipe_from(wide), few, None)
    with pytest.raises(ArtifactError):
        train(recipe_from({**QUICK, "start": str(tmp_path / "nothing")}), few, None)


def test_a_factory_is_not_imported_from_a_recipe(few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArtifactError):
        train(recipe_from({**QUICK, "start": "evil:make"}), few, None)
