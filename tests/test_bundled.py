"""The bundled networks: they are what their recipes, logs and figures say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import advex
from advex import attacks, bundled, recipes
from advex.artifacts import read_config
from advex.attacks import Minimal
from advex.data import Dataset
from advex.errors import ArtifactError, SpecError
from advex.goals import BelowChance, Misclassify
from advex.measures import accuracy_robustness_area

KINDS = ("ordinary", "adversarial", "lipschitz", "robust")
NAMES = [*(f"cifar10-{kind}" for kind in KINDS), "photos-ordinary", "photos-robust"]
EACH = pytest.mark.parametrize("name", NAMES)
SIDES, CLASSES, TRAINED_ON, MEASURED_ON = (
    {"cifar10": 32, "photos": 64}, {"cifar10": 10, "photos": 20}, {"cifar10": 50_000, "photos": 10_000},
    {"cifar10": 1000, "photos": 300},
)  # fmt: skip


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return advex.open_dataset("cifar10-sample")


def test_all_are_there() -> None:
    assert set(NAMES) <= set(bundled.names())
    with pytest.raises(SpecError, match="'cifar10-robst'.*'cifar10-robust'"):
        advex.load("builtin:cifar10-robst")


@EACH
def test_a_network_is_small_and_opens(name: str) -> None:
    folder = bundled.names()[name]
    assert (folder / "model.safetensors").stat().st_size <= 3_000_000
    classifier = advex.load(f"builtin:{name}")
    group = name.partition("-")[0]
    assert len(classifier.class_names or ()) == CLASSES[group]
    assert classifier.class_names == advex.open_dataset(f"{group}-sample").class_names
    assert read_config(folder)["input_shape"] == [3, SIDES[group], SIDES[group]]


@EACH
def test_it_was_trained_by_the_recipe_of_that_name(name: str) -> None:
    """The run's resolved recipe is the bundled one, and the log ends where the recipe does."""
    folder = bundled.names()[name]
    meant = recipes.recipe_from(recipes.read(name.replace("cifar10-", "cifar10-fast-")))
    used = recipes.recipe_from(recipes.read(str(folder / "recipe.yaml")))
    group = name.partition("-")[0]
    assert used == recipes.fitted(meant, (3, SIDES[group], SIDES[group]), CLASSES[group])
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, meant.epochs + 1))
    assert read_config(folder)["training"]["examples"] == TRAINED_ON[group]
    assert "/" not in json.loads((folder / "env.json").read_text())["command"].replace("runs/", "")


@EACH
def test_figures_tell_what_made_them(name: str) -> None:
    figures = bundled.figures(name)
    assert figures.examples >= MEASURED_ON[name.partition("-")[0]]
    for spec in figures.searches.values():  # made by a search that can still be asked for, at its default budget
        search = attacks.build(spec)
        assert isinstance(search, Minimal)
        assert search.gradients == Minimal().gradients == 100
    assert figures.scores["accuracy"].n == figures.examples
    if name.startswith("cifar10"):
        assert figures.published["attack_published_ara"].n == figures.published_examples
    assert f"{100 * figures.scores['accuracy'].value:.1f} %" in figures.summary


def test_figures_stand_in_the_order_of_the_paper() -> None:
    """Table II: attack ARA ordinary < adversarial < both; BTR ARA: with the penalty well above without."""
    attack, btr = (
        {kind: bundled.figures(f"cifar10-{kind}").scores[f"{search}_ara"] for kind in KINDS}
        for search in ("attack", "btr")
    )
    assert attack["ordinary"].high < attack["adversarial"].low
    assert attack["adversarial"].value < attack["robust"].value
    assert min(btr["lipschitz"].low, btr["robust"].low) > btr["adversarial"].high


@pytest.mark.slow
def test_figures_are_not_only_on_paper(sample: Dataset) -> None:
    """Measured anew on 12 pictures: the robust ones bear several times what the ordinary one bears."""
    batch = sample.batch(slice(0, 24, 2))
    search = Minimal(gradients=30)
    area = {}
    for kind in KINDS:
        classifier = advex.load(f"builtin:cifar10-{kind}")
        right = classifier.predict(batch.x).argmax(dim=1) == batch.y
        assert right.double().mean() > 0.5
        for goal in (Misclassify, BelowChance):
            found = search(classifier, batch.x, goal(batch.y))
            assert found.reached.all()
            area[kind, goal] = accuracy_robustness_area(found.rmse, chance=0.1).value
    for kind in KINDS[1:]:
        assert area[kind, Misclassify] > 3 * area["ordinary", Misclassify]
    assert area["robust", BelowChance] > area["adversarial", BelowChance]


def test_a_file_of_figures_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundled, "names", lambda: {"broken": tmp_path})
    with pytest.raises(ArtifactError, match="does not contain the figures of a network"):
        bundled.figures("broken")
    (tmp_path / "figures.json").write_text('{"summary": 3}')
    with pytest.raises(ArtifactError, match="does not contain the figures of a network"):
        bundled.figures("broken")


# -- the pictures ------------------------------------------------------------------------------------------


def test_the_sample_has_every_class(sample: Dataset) -> None:
    assert sample.shape == (3, 32, 32)
    assert len(sample) == 24
    assert torch.bincount(sample.y).min() == 2
    assert torch.bincount(sample.y).max() == 3


@pytest.mark.data
def test_the_sample_is_of_the_test_split(sample: Dataset, development_data: Path) -> None:
    """Its ids are places there, and its pixels the same."""
    whole = advex.open_dataset(development_data / "cifar10", split="test", max_samples=None)
    for row, name in enumerate(sample.ids):
        place = int(Path(name).stem)
        theirs = whole.batch(slice(place, place + 1))
        ours = sample.batch(slice(row, row + 1))
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.y, theirs.y)
