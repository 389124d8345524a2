"""The rule of versions: earlier schemas are read, shown and merged, later ones refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import advex
from advex import record as schema
from advex import registry
from advex.classifier import Classifier
from advex.data import Dataset, open_dataset
from advex.errors import ArtifactError
from advex.evaluation import Settings, evaluate
from advex.evaluation.merge import merge
from advex.measures.case import build, values_of
from advex.record.explored import read_explored
from advex.record.migrations import TITLES
from advex.record.reproduction import read_reproduction
from advex.registry import describe
from advex.report import write_report

# A record as it was written before schema 2: of the network `linear(0)` below on `digits`, by `SETTINGS`.
OLD = Path(__file__).parent / "references" / "record_of_schema_1"
SETTINGS = Settings(
    attack="algorithm1:steps=3", btr="algorithm1:steps=3", explanations=2, pictures=("toward",), targets="runner_up",
    sweep=0, steps=2, recheck=0, batch_size=8, maps=("input_x_gradient", "integrated_gradients:steps=7"),
    certify=0.25, certify_samples=20, certify_examples=4,
)  # fmt: skip


def linear(seed: int) -> Classifier:
    classifier = Classifier("mlp:features=64,classes=10,widths=1,activation=relu")
    layer = torch.nn.Linear(64, 10)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    classifier.network = torch.nn.Sequential(torch.nn.Flatten(), layer)
    return classifier.eval()


@pytest.fixture(scope="module")
def digits12() -> Dataset:
    return open_dataset("digits", split="test").sample(12, seed=1)


@pytest.fixture(scope="module")
def new(digits12: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Today's evaluations: of both networks at once, and of the second alone."""
    folder = tmp_path_factory.mktemp("new")
    models = [(name, f"runs/{name}", linear(seed)) for seed, name in enumerate(("first", "second"))]
    both = evaluate(models, digits12, folder / "both", SETTINGS)
    evaluate(models[1:], digits12, folder / "second", SETTINGS)
    return SimpleNamespace(folder=folder, both=both)


def same(one: Any, other: Any) -> None:
    """Equal but for how sums of floats are rounded, and for times."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            same(one[key], other[key])
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=2e-6, nan_ok=True)
    else:
        assert one == other


# -- earlier schemas ---------------------------------------------------------------------------------------


def test_an_old_record_is_read_as_what_is_written_today(new: SimpleNamespace) -> None:
    assert json.loads((OLD / "record.json").read_text())["schema_version"] == 1
    old = schema.read_record(OLD)
    assert old.schema_version == schema.SCHEMA
    first = new.both.models[0]
    same(old.models[0].model_dump(), first.model_dump())
    assert old.measures == new.both.measures
    assert (old.searches, old.data) == (new.both.searches, new.both.data)
    # Explainers as one may write them: what is typed is kept.
    assert old.settings == json.loads(new.both.model_dump_json())["settings"]
    # What a measure of maps is called is known to the file that has it, and here to the migration.
    for key, entry in old.measures.items():
        measure = build(key)
        (value,) = values_of(measure).values()
        assert (entry.title, entry.better, entry.unit) == (value.title, value.better, value.unit)
        assert (entry.of, entry.spec) == (measure.of, describe(measure))


def test_the_report_of_an_old_record_shows_its_figures(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    page = write_report(tmp_path / "old").read_text(encoding="utf-8")
    for maps in schema.read_record(OLD).models[0].maps.values():
        assert f"{maps.figures['gini'].value:.2f}" in page


def test_old_and_new_records_are_merged_to_what_one_evaluation_gives(new: SimpleNamespace, tmp_path: Path) -> None:
    merged = merge([OLD, new.folder / "second"], tmp_path / "merged")
    assert schema.read_record(tmp_path / "merged").model_dump_json() == merged.model_dump_json()
    for mine, once in zip(merged.models, new.both.models, strict=True):
        same(mine.model_dump(), once.model_dump())
    assert len(merged.differences) == len(new.both.differences)
    for mine, once in zip(merged.differences, new.both.differences, strict=True):
        same(mine.model_dump(), once.model_dump())
    rows, once = (schema.read_rows(at, "maps") for at in (tmp_path / "merged", new.folder / "both"))
    np.testing.assert_allclose([row["gini"] for row in rows], [row["gini"] for row in once], rtol=1e-5)
    assert all(row["undefined"] is None for row in rows)
    assert {row["attack_queries"] for row in schema.read_rows(tmp_path / "merged", "examples")} > {None}
    write_report(tmp_path / "merged")


def test_figures_of_schema_2_have_the_names_that_they_have_today(new: SimpleNamespace, tmp_path: Path) -> None:
    about = {"better": "high", "of": "placed"}
    titles = {  # under a key: before, and today
        "pointing": ("Points at the thing (pointing)", "Pointing game (pointing)"),
        "pointing-2": ("Points at the thing (pointing-2)", "Pointing game (pointing-2)"),
        "mass": ("Weight on the thing", "Relevance mass accuracy"),
        "segmentation": ("Overlap of strong pixels and thing (IoU)", "Segmentation IoU"),
        "own": ("My own (IoU)", "My own (IoU)"),
    }
    values = json.loads(new.both.model_dump_json()) | {"schema_version": 2}
    values["measures"] = {key: {"title": before, "spec": key, **about} for key, (before, _) in titles.items()}
    (tmp_path / "record.json").write_text(json.dumps(values))
    read = schema.read_record(tmp_path)
    assert read.schema_version == schema.SCHEMA
    assert {key: entry.title for key, entry in read.measures.items()} == {key: now for key, (_, now) in titles.items()}
    today = {value.title for name in registry.entries("measure") for value in values_of(build(name)).values()}
    assert not today & TITLES.keys(), "a former name is in use again"
    assert set(TITLES.values()) <= today


def test_a_record_of_a_version_that_cannot_be_is_none(tmp_path: Path) -> None:
    values = json.loads((OLD / "record.json").read_text())
    for version in (0, -1, "1", 1.5, True, None):
        (tmp_path / "record.json").write_text(json.dumps(values | {"schema_version": version}))
        with pytest.raises(ArtifactError, match=r"record\.json has an invalid schema version"):
            schema.read_record(tmp_path)
    for broken in ({"models": 3}, {"models": [3]}, {"models": [{"maps": [1]}]}, {"settings": "none"}):
        (tmp_path / "record.json").write_text(json.dumps(values | broken))
        with pytest.raises(ArtifactError, match=r"record\.json is not a record"):
            schema.read_record(tmp_path)


# -- later schemas -----------------------------------------------------------------------------------------


def later_record(folder: Path) -> Callable[[], Any]:
    shutil.copy(OLD / "record.json", folder)
    return lambda: schema.read_record(folder)


def later_run(folder: Path) -> Callable[[], Any]:
    (folder / "recipe.yaml").write_text("epochs: 2\n")
    (folder / "env.json").write_text('{"advex": "0.1.0"}')
    assert schema.read_run(folder) is not None
    return lambda: schema.read_run(folder)


def later_classifier(folder: Path) -> Callable[[], Any]:
    advex.save(Classifier("linear:features=4,classes=2"), folder)
    return lambda: advex.load(folder)


def later_reproduction(folder: Path) -> Callable[[], Any]:
    (folder / "reproduction.json").write_text('{"advex": "0.1.0"}')
    return lambda: read_reproduction(folder)


def later_explanation(folder: Path) -> Callable[[], Any]:
    (folder / "kept").mkdir()
    (folder / "kept" / "explanation.json").write_text('{"advex": "0.1.0"}')
    return lambda: read_explored(folder)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (later_record, "record.json"),
        (later_run, "env.json"),
        (later_classifier, "config.json"),
        (later_reproduction, "reproduction.json"),
        (later_explanation, "kept/explanation.json"),
    ],
)
def test_what_a_later_version_wrote_is_refused_by_name(
    write: Callable[[Path], Callable[[], Any]], name: str, tmp_path: Path
) -> None:
    read = write(tmp_path)
    path = tmp_path / name
    values = json.loads(path.read_text()) | {"schema_version": 99, "advex": "7.0", "new": "unheard of"}
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError) as refused:
        read()
    message = str(refused.value)
    assert message.startswith(f"{path} was written by a newer advex")
    assert all(part in message for part in ("newer advex", "schema 99", "reads up to", "7.0"))


def test_a_run_says_its_version(tmp_path: Path) -> None:
    """What training writes is what reading expects."""
    from advex.progress import Terminal
    from advex.recipes import recipe_from
    from advex.record.run import SCHEMA
    from advex.training.run_folder import run

    recipe = recipe_from({"network": "linear:features=64,classes=10", "epochs": 1})
    run(recipe, open_dataset("digits", split="train").sample(32, seed=0), tmp_path / "run", say=Terminal(quiet=True))
    assert json.loads((tmp_path / "run" / "env.json").read_text())["schema_version"] == SCHEMA
    training = schema.read_run(tmp_path / "run")
    assert training is not None
    assert "schema_version" not in training.environment
