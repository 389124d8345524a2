"""Labels drawn at random: each by the seed and its number, trained on in the place of the data's own, and said."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

import advex
from advex.artifacts import weights_hash
from advex.cli import main
from advex.data.dataset import Dataset
from advex.errors import ArtifactError, SpecError
from advex.evaluation import Settings, evaluate
from advex.recipes import Recipe, recipe_from
from advex.training import run_folder, train
from advex.training.run import labelled

QUICK = {
    "network": "mlp:features=64,classes=10,widths=64", "epochs": 60, "batch_size": 20, "weight_decay": 0.0,
    "robust_every": 0, "validate_every": 60, "schedule": "constant", "learning_rate": 0.05,
}  # fmt: skip


def recipe(**changes: Any) -> Recipe:
    return recipe_from({**QUICK, **changes})


@pytest.fixture(scope="module")
def few() -> Dataset:
    return advex.open_dataset("digits", split="train", max_samples=60)


def test_every_class_is_drawn_as_often_by_the_seed_and_the_examples_number_alone(few: Dataset) -> None:
    many = dataclasses.replace(
        few, x=few.x[:1].expand(10_000, *few.shape), y=few.y[:1].expand(10_000), ids=tuple(map(str, range(10_000)))
    )
    drawn = labelled(recipe(labels="random:3"), many)
    assert isinstance(drawn, Dataset)
    test: Any = stats.chisquare(torch.bincount(drawn.y, minlength=10).numpy())
    assert test.pvalue > 0.001
    assert torch.equal(labelled(recipe(labels="random:3", seed=5), many.take(slice(0, 50))).y, drawn.y[:50])
    assert drawn.class_counts == tuple(torch.bincount(drawn.y).tolist())
    other: Any = stats.pearsonr(labelled(recipe(labels="random:4"), many).y, drawn.y)
    assert other.pvalue > 0.001
    assert labelled(recipe(), many) is many


def test_training_is_that_on_data_with_these_labels(few: Dataset, tmp_path: Path) -> None:
    made, lines = recipe(labels="random:3"), []
    classifier = train(made, few, tmp_path / "run", report=lines.append)
    given = train(recipe(), labelled(made, few), None)
    assert weights_hash(classifier) == weights_hash(given)
    assert weights_hash(classifier) != weights_hash(train(recipe(), few, None))
    answers = classifier.predict(few.batch(slice(None)).x).argmax(dim=1)
    assert (answers == labelled(made, few).y).double().mean() > 0.95, "memorised"
    last: Any = lines[-1]
    assert last["train_accuracy"] > 0.9, "the fit of the drawn labels"


def test_a_run_goes_on_with_its_labels_and_with_no_others(few: Dataset, tmp_path: Path) -> None:
    made, out = recipe(labels="random:3", epochs=2, validate_every=1), tmp_path / "run"
    run_folder.run(made, few, out)
    assert "labels: random:3\n" in (out / "recipe.yaml").read_text(encoding="utf-8")
    run_folder.run(made, few, out)  # finished: left as it is
    for other in ("given", "random:4"):
        with pytest.raises(ArtifactError, match=f"labels is 'random:3' there and '{other}' here"):
            run_folder.run(recipe(labels=other, epochs=2, validate_every=1), few, out)


@pytest.mark.parametrize("labels", ["random", "random:", "random:x", "random:-1", "shuffled", "given:1", ""])
def test_other_labels_are_refused(labels: str) -> None:
    with pytest.raises(SpecError, match=r"labels must be given .the default. or random:SEED"):
        recipe(labels=labels)


def test_the_verb_reports_the_fit_and_records_say_what_was_learnt(
    tmp_path: Path, few: Dataset, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["labels=random:3", "epochs=2", "validate_every=1", "--data", "digits", "--max-samples", "60"]
    monkeypatch.setattr(sys, "argv", ["advex", "train", "digits-ordinary", *words, "--out", "run", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capfd.readouterr().out
    assert "fit of the drawn labels" in said
    assert "accuracy (true labels)" in said
    models = [(name, name, advex.load("run")) for name in ("run", "ours")]
    settings = Settings(attack=None, btr=None, pictures=(), maps=())
    record = evaluate(models, few.take(slice(0, 20)), Path("record"), settings)
    assert [flag.model for flag in record.flags if flag.code == "drawn_labels"] == ["run"]
