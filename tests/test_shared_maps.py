"""Explainers that differ in what they do to a finished search make that search once: the same maps, fewer gradients."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

import advex
from advex import record
from advex.attacks.perceptual import Perceptual as Search
from advex.classifier import Classifier
from advex.errors import InputError
from advex.evaluation import evaluate, settings_from
from advex.evaluation.mapping import groups
from advex.evaluation.tasks import MapTask
from advex.explainers import build
from advex.explainers.maps import started
from advex.lookup.models import open_models

SEARCH = "perceptual:perceptual=100,gradients=4"
SHARING = (SEARCH, f"{SEARCH},sigma=2", f"{SEARCH},sigma=2,guided=true", f"{SEARCH},guided=true")
LARGER = (f"{SEARCH},resize=1.5", f"{SEARCH},resize=1.5,sigma=1")
SETTINGS: dict[str, Any] = {
    "attack": None, "btr": None, "pictures": (), "recheck": 0, "explanations": 5, "batch_size": 3,
    "measures": ("gini", "pointing", "localisation"),
}  # fmt: skip


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose map is compared bit by bit."""
    return {key: value.tobytes() if isinstance(value, np.ndarray) else value for key, value in row.items()}


@pytest.fixture(scope="module")
def planted() -> tuple[Any, Any]:
    (model,) = open_models(["builtin:planted"], "cpu")
    return model, advex.open_dataset("planted", split="test", max_samples=5, seed=0)


def judged(planted: Any, maps: tuple[str, ...], folder: Path) -> tuple[dict[str, list[Any]], Any, int]:
    """The rows of each explainer in their order, the record, and how many searches it took."""
    model, data = planted
    searched, find = [], Search.find
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "find", lambda self, *rest: searched.append(1) or find(self, *rest))
        made = evaluate([("m", "m", model.classifier)], data, folder, settings_from({**SETTINGS, "maps": maps}))
    rows = record.read_rows(folder, "maps")
    names = list(dict.fromkeys(row["explainer"] for row in rows))
    return {name: [row for row in rows if row["explainer"] == name] for name in names}, made, len(searched)


def test_blurs_and_guides_of_one_search_are_made_of_it_once_and_equal_those_made_alone(
    planted: Any, tmp_path: Path
) -> None:
    """Two shards: a search each, and one on a single example to see that all fits; for either size of the picture."""
    rows, made, searches = judged(planted, (*SHARING, "gradient", *LARGER), tmp_path / "together")
    assert searches == 2 * (2 + 1)
    separate = [judged(planted, (spec,), tmp_path / f"alone{i}") for i, spec in enumerate((*SHARING, "gradient"))]
    assert sum(count for _, _, count in separate) == 4 * (2 + 1)
    for (name, ours), (theirs, alone, _) in zip(rows.items(), separate, strict=False):
        ((own, others),) = theirs.items()
        assert [plain({**row, "explainer": own}) for row in ours] == [plain(row) for row in others], name
        assert made.models[0].maps[name].figures == alone.models[0].maps[own].figures
        assert made.models[0].maps[name].method == alone.models[0].maps[own].method
    maps = made.models[0].maps
    assert maps["perceptual-4"].figures != maps["perceptual"].figures


def test_seconds_count_the_search_for_each_as_if_it_were_alone(
    planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on by a second whenever somebody looks: search and finishing lie between two looks each."""
    clock = itertools.count()
    monkeypatch.setattr("advex.evaluation.mapping.time.perf_counter", lambda: float(next(clock)))
    _, made, _ = judged(planted, SHARING[:3], tmp_path)
    assert [maps.seconds for maps in made.models[0].maps.values()] == pytest.approx([2 * (1 + 1) / 5] * 3)


@pytest.mark.parametrize("spec", [*SHARING, *LARGER])
def test_maps_of_another_class_or_search_are_not_made_together(spec: str) -> None:
    first = MapTask(name="first", explainer=build(spec), target="predicted")
    others = [MapTask(name=name, explainer=build(spec.replace(old, new)), target=target) for name, old, new, target in (
        ("class", "", "", "true"), ("weight", "=100", "=10", "predicted"), ("length", "=4", "=5", "predicted"),
        ("layers", "perceptual=", "layers=relu:0,perceptual=", "predicted"),
        ("term", "perceptual=100", "perceptual=0", "predicted"), ("size", ":", ":pixel=2,", "predicted"),
    )]  # fmt: skip
    alike = MapTask(name="alike", explainer=build(f"{spec.split(',sigma')[0].split(',guided')[0]},sigma=9"))
    assert [tuple(task.name for task in group) for group in groups([first, *others, alike])] == [
        ("first", "alike"), *((task.name,) for task in others),
    ]  # fmt: skip


def test_what_only_looks_as_if_it_shared_something_is_made_alone() -> None:
    """An option of that name, and two kinds of explainers with equal parts."""
    finish = {"finish": lambda self, request, values: values}
    first, second, third = cast(list[Any], [type(name, (), {"part": 1, **how})() for name, how in (
        ("First", finish), ("Second", finish), ("Third", {}),
    )])  # fmt: skip
    tasks = [MapTask(name=str(i), explainer=each) for i, each in enumerate((first, second, third, third, first))]
    assert [[task.name for task in group] for group in groups(tasks)] == [["0", "4"], ["1"], ["2"], ["3"]]


def test_rows_refuse_a_blur_whoever_made_the_search() -> None:
    """What has no places is not blurred; a guide needs none."""
    classifier = Classifier("mlp:features=6,classes=2,widths=5").eval()
    x, target = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2
    shared = started(build(SEARCH), classifier, x, target)
    guided: Any = build(f"{SEARCH},guided=true")
    assert torch.equal(shared.finished(guided).map, guided(classifier, x, target).map)
    with pytest.raises(InputError, match="need pictures"):
        shared.finished(build(f"{SEARCH},sigma=1"))
