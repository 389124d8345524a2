"""Every explainer times every measure: values, reasons, differences along both axes, and what a plugin adds."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import advex
from advex import attacks, explainers, registry
from advex import record as schema
from advex.classifier import Classifier
from advex.data import Dataset, open_dataset
from advex.data.evidence import Evidence
from advex.errors import ArtifactError, SpecError
from advex.evaluation import Settings, evaluate, settings_from
from advex.evaluation.plan import plan_of
from advex.goals import Misclassify
from advex.measures.case import NO_EVIDENCE, UNDEFINED, Case, Measured, Value, measure
from advex.measures.intervals import bootstrap_mean
from advex.report.reading import read

QUICK: dict[str, Any] = {
    "attack": None, "btr": None, "explanations": 2, "pictures": (), "recheck": 0, "batch_size": 8,
    "maps": ("gradient", "input_x_gradient", "integrated_gradients:steps=3"),
}  # fmt: skip

ODD = "the class is odd"


@measure("test_halves")
class Halves:
    """Known values: sum and size of the map; odd classes have neither, and no size has what sums up below 0."""

    shift: float = 0.0

    values: ClassVar[dict[str, Value]] = {
        "sum": Value(title="Sum of the map", better="neither"),
        "size": Value(title="Size of the map", better="low", unit="logits"),
    }
    of: ClassVar[str] = "shape"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, case: Case) -> Measured:
        odd = case.explanation.target % 2 == 1
        total, size = case.maps.sum(dim=1) + self.shift, case.maps.abs().sum(dim=1)
        return Measured(
            value={"sum": total.masked_fill(odd, math.nan), "size": size.masked_fill(odd | (total < 0), math.nan)},
            undefined={ODD: odd},
        )


@measure("test_placed")
class Placed:
    """1 where the data say anything of where the thing lies."""

    title: ClassVar[str] = "Located"
    better: ClassVar[str] = "high"
    of: ClassVar[str] = "placed"
    needs: ClassVar[frozenset[str]] = frozenset({"evidence"})

    def __call__(self, case: Case) -> Tensor:
        assert case.evidence is not None
        return torch.tensor([float(len(boxes)) for boxes in case.evidence.boxes])


@measure("target")
class Target:
    """A measure that is called like a column of every table of maps: the class explained."""

    title: ClassVar[str] = "Class"
    better: ClassVar[str] = "neither"
    of: ClassVar[str] = "shape"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, case: Case) -> Tensor:
        return case.explanation.target.double()


def quick(**changes: Any) -> Settings:
    return settings_from({**QUICK, **changes})


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_dataset("digits", split="test").sample(20, seed=1)


@pytest.fixture(scope="module")
def models() -> list[tuple[str, str, Classifier]]:
    made = []
    for seed, name in enumerate("ab"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append((name, f"runs/{name}", Classifier("mlp:features=64,classes=10,widths=12").eval()))
    return made


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("measured") / "out"
    made = evaluate(models, data, folder, quick(measures=("gini", "test_halves", "test_halves:shift=2", "target")))
    return SimpleNamespace(folder=folder, record=made, rows=schema.read_rows(folder, "maps"))


KEYS = ["gini", "test_halves_sum", "test_halves_size", "test_halves-2_sum", "test_halves-2_size", "target-2"]


# -- values and reasons ------------------------------------------------------------------------------------


def test_the_record_says_what_each_column_is(done: SimpleNamespace) -> None:
    entries = done.record.measures
    assert list(entries) == KEYS
    assert list(done.rows[0])[:5] == ["model", "explainer", "example", "target", "method"]
    assert list(done.rows[0])[5:] == [*KEYS, "undefined", "change", "completeness", "map"]
    size = entries["test_halves-2_size"]
    assert size.title == "Size of the map (test_halves-2_size)"  # as two measures have this title
    assert (size.unit, size.better, size.of) == ("logits", "low", "shape")
    assert size.spec == "test_halves:shift=2.0"
    assert schema.read_record(done.folder).measures == entries
    assert read(done.folder).record.measures == entries
    for model in done.record.models:
        for maps in model.maps.values():
            assert set(maps.figures) - {"change", "completeness"} == set(KEYS)
            assert all(maps.figures[key].better == entries[key].better for key in KEYS)


def test_every_value_is_the_measures_own(done: SimpleNamespace, models: list, data: Dataset) -> None:
    """Each explainer's maps of each example alone, measured by hand."""
    for name, _, classifier in models:
        for spec in QUICK["maps"]:
            explainer = advex.explainers.build(spec)
            rows = [r for r in done.rows if (r["model"], r["explainer"]) == (name, spec.partition(":")[0])]
            assert [row["example"] for row in rows] == list(range(len(data)))
            for row in rows[::5]:
                x = data.x[row["example"]][None] / 255
                target = classifier.predict(x).argmax(dim=1)
                map = explainer(classifier, x, target).map.detach().double().flatten()
                assert row["target"] == row["target-2"] == int(target)
                assert row["gini"] == pytest.approx(float(advex.measures.gini(map[None])), abs=1e-5)
                odd, total = int(target) % 2 == 1, float(map.sum())
                for shift, key in ((0, "test_halves"), (2, "test_halves-2")):
                    expected = math.nan if odd else total + shift
                    assert row[f"{key}_sum"] == pytest.approx(expected, abs=1e-5, nan_ok=True)
                    sized = not odd and total + shift >= 0
                    size = float(map.abs().sum()) if sized else math.nan
                    assert row[f"{key}_size"] == pytest.approx(size, abs=1e-5, nan_ok=True)


def test_undefined_values_are_counted_by_their_reason(done: SimpleNamespace) -> None:
    assert {row["target"] % 2 for row in done.rows} == {0, 1}
    for model, explainer in itertools.product("ab", ("gradient", "input_x_gradient", "integrated_gradients")):
        rows = [row for row in done.rows if (row["model"], row["explainer"]) == (model, explainer)]
        counts: dict[str, dict[str, int]] = {}
        for row in rows:
            reasons = json.loads(row["undefined"]) if row["undefined"] else {}
            assert {key for key in KEYS if math.isnan(row[key])} == reasons.keys()
            for key, reason in reasons.items():
                # What the measure gives no reason for still gets one.
                assert reason == (ODD if row["target"] % 2 else UNDEFINED)
                counts.setdefault(key, {}).setdefault(reason, 0)
                counts[key][reason] += 1
        maps = next(entry for entry in done.record.models if entry.name == model).maps[explainer]
        assert maps.undefined == counts
        for key in KEYS:
            values = [row[key] for row in rows if not math.isnan(row[key])]
            figure = maps.figures[key]
            assert (figure.n, figure.failures) == (len(values), len(rows) - len(values))
            assert figure.value == pytest.approx(np.mean(values))


def test_much_that_is_undefined_is_flagged(done: SimpleNamespace) -> None:
    flagged = [flag for flag in done.record.flags if flag.code == "undefined_measure" and flag.model == "a"]
    maps = next(entry for entry in done.record.models if entry.name == "a").maps
    assert len(flagged) == sum(len(entry.undefined) for entry in maps.values()) > 0
    counted = maps["gradient"].undefined["test_halves_sum"][ODD]
    (flag,) = (flag for flag in flagged if "'test_halves_sum' of the maps by 'gradient'" in flag.message)
    assert f"{100 * counted / 20:.1f}\u202f%" in flag.message
    assert f"{ODD} ({counted})" in flag.message


def test_a_worst_case_of_maps_without_derivatives_is_undefined(models: list, data: Dataset, tmp_path: Path) -> None:
    some = data.take(slice(0, 4))
    asked = quick(maps=("occlusion", "input_x_gradient"), measures=("worst_case:search=(pgd:steps=2)",))
    made = evaluate(models[:1], some, tmp_path / "out", asked).models[0].maps
    keys = ("worst_case", "worst_case_attack", "worst_case_random", "worst_case_by_attack")
    assert made["occlusion"].undefined == dict.fromkeys(keys, {"the explainer gives maps without derivatives": 4})
    assert math.isnan(made["occlusion"].figures["worst_case"].value)
    assert made["input_x_gradient"].figures["worst_case"].n > 0


# -- both axes ---------------------------------------------------------------------------------------------


def slow_difference(rows: list[dict], first: tuple[str, str], second: tuple[str, str], key: str) -> list[float]:
    """Example by example, those of which both have the value."""
    values = {(row["model"], row["explainer"], row["example"]): row[key] for row in rows}
    pairs = [(values[(*first, example)], values[(*second, example)]) for example in range(20)]
    return [one - other for one, other in pairs if not (math.isnan(one) or math.isnan(other))]


def test_differences_along_both_axes_equal_a_slow_replica(done: SimpleNamespace) -> None:
    explainers = ["gradient", "input_x_gradient", "integrated_gradients"]
    expected = {
        ("model", "", "a", "b", f"{name}_{key}"): (("a", name), ("b", name), key) for name in explainers for key in KEYS
    } | {
        ("explainer", model, one, other, key): ((model, one), (model, other), key)
        for model in "ab"
        for one, other in itertools.combinations(explainers, 2)
        for key in KEYS
    }
    lines = {(line.axis, line.model, line.first, line.second, line.measure): line for line in done.record.differences}
    assert set(lines) == {*expected, ("model", "", "a", "b", "accuracy")}
    for name, (first, second, key) in expected.items():
        changes, figure = slow_difference(done.rows, first, second, key), lines[name].figure
        assert (figure.n, figure.failures) == (len(changes), 20 - len(changes))
        assert figure.better == done.record.measures[key].better
        if not changes:
            assert math.isnan(figure.value)
            continue
        assert figure.value == pytest.approx(sum(changes) / len(changes), abs=1e-9)
        if len(changes) == 20:
            _, low, high = bootstrap_mean(torch.tensor(changes, dtype=torch.float64), seed=0)
            assert figure.low <= low <= figure.value <= high <= figure.high
        # The intervals of one measure have joint coverage along each axis: no difference is counted that has no value.
        family = [other for other, (*_, of) in expected.items() if (other[0], of) == (name[0], key)]
        assert lines[name].comparisons == sum(not math.isnan(lines[other].figure.value) for other in family)


def test_maps_of_different_classes_are_not_compared(models: list, data: Dataset, tmp_path: Path) -> None:
    asked = quick(maps=("gradient@true", "input_x_gradient@true", "smooth_grad:samples=2@3"), measures=("gini",))
    made = evaluate(models[:1], data.take(slice(0, 5)), tmp_path / "out", asked)
    assert [(d.axis, d.first, d.second) for d in made.differences] == [("explainer", "gradient", "input_x_gradient")]


def test_what_an_explainer_chose_for_a_picture_is_in_its_row(data: Dataset, tmp_path: Path) -> None:
    """The perceptual weight that `auto` came to, picture by picture; of all the record says what was asked for."""
    torch.manual_seed(1)
    classifier = Classifier("mlp:features=64,classes=10,widths=12,activation=relu").eval()
    with torch.no_grad():
        list(classifier.parameters())[-2].mul_(8)
    made = evaluate([("a", "a", classifier)], data, tmp_path / "out", quick(maps=("perceptual:gradients=4",)))
    methods = [row["method"] for row in schema.read_rows(tmp_path / "out", "maps")]
    batch = data.batch(slice(None))
    change = attacks.Perceptual(gradients=4)(classifier, batch.x, Misclassify(classifier(batch.x).argmax(dim=1)))
    assert change.weight is not None
    assert len(set(change.weight.tolist())) > 1
    for method, weight in zip(methods, change.weight.tolist(), strict=True):
        assert explainers.build(method) == explainers.Perceptual(gradients=4, perceptual=weight)
    assert made.models[0].maps["perceptual"].method == registry.describe(explainers.Perceptual(gradients=4))


# -- evidence ----------------------------------------------------------------------------------------------


def test_evidence_reaches_the_measure_and_is_refused_before_any_work(
    models: list, data: Dataset, tmp_path: Path
) -> None:
    asked = quick(maps=("gradient",), measures=("gini", "test_placed"))
    with pytest.raises(SpecError, match="'test_placed' .*boxes"):
        evaluate(models, data, tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
    boxes = tuple(torch.tensor([[0, 0, 3, 3]] * (row % 3)).reshape(-1, 4) for row in range(len(data)))
    fields = {name: getattr(data, name) for name in ("name", "x", "y", "class_names", "ids")}
    located = Dataset(**fields, evidence=Evidence(boxes=boxes))
    made = evaluate(models[:1], located, tmp_path / "out", asked)
    values = [row["test_placed"] for row in schema.read_rows(tmp_path / "out", "maps")]
    assert values == pytest.approx([row % 3 or math.nan for row in range(20)], nan_ok=True)
    assert made.models[0].maps["gradient"].undefined == {"test_placed": {NO_EVIDENCE: 7}}
    # The evidence is part of the data: another one is another evaluation.
    moved = Dataset(**fields, evidence=Evidence(boxes=(boxes[1], *boxes[1:])))
    with pytest.raises(ArtifactError, match=r"data\.digest"):
        evaluate(models[:1], moved, tmp_path / "out", asked)


# -- settings ----------------------------------------------------------------------------------------------


def test_what_is_measured_decides_whose_a_folder_is(models: list, data: Dataset, tmp_path: Path) -> None:
    some = data.take(slice(0, 3))
    evaluate(models[:1], some, tmp_path / "out", quick(maps=("gradient",), measures=("gini",)))
    with pytest.raises(ArtifactError, match=r"settings\.measures\.entropy is missing there and entropy here"):
        evaluate(models[:1], some, tmp_path / "out", quick(maps=("gradient",), measures=("gini", "entropy")))
    # Without maps there is nothing to measure, and what would be measured decides nothing.
    plain = [plan_of(quick(maps=(), measures=measures)).identity() for measures in (("gini",), ("entropy",))]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"measures": ("ginni",)}, "did you mean 'gini'"),
        ({"measures": ("gini", "gini")}, "measure 'gini' is given twice"),
        ({"searches": ("minimal",)}, "'minimal' has no goal: write SPEC@GOAL"),
        ({"searches": ("minimal@misclasify",)}, "did you mean 'misclassify'"),
        ({"searches": ("pgd@misclassify", "pgd:steps=40@misclassify")}, "is given twice"),
        ({"pictures": ("gradient",)}, "'gradient' makes no pictures"),
        ({"pictures": ("toward", "toward:rho=0.1")}, "is given twice"),
        ({"attack": None, "certify": 0.25}, "certify needs an attack"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settings_from(values)


# -- searches ----------------------------------------------------------------------------------------------


def test_a_search_with_a_goal_is_the_default_one_and_any_other(models: list, data: Dataset, tmp_path: Path) -> None:
    spec = "algorithm1:steps=20"
    asked = Settings(
        attack=spec, btr=None, explanations=0, recheck=0, batch_size=8,
        searches=(f"{spec}@misclassify", f"{spec}@become:target=runner_up", "algorithm1:steps=4@become:target=3"),
    )  # fmt: skip
    made = evaluate(models[:1], data, tmp_path / "out", asked)
    names = ["attack", "algorithm1@misclassify", "algorithm1@become", "algorithm1@become-2"]
    assert list(made.searches) == names
    assert made.searches["algorithm1@become-2"].endswith("@become:target=3,temperature=0.0")
    rows, classifier = schema.read_rows(tmp_path / "out", "examples"), models[0][2]
    kinds = ("rmse", "reached", "gradients", "queries", "flat", "valid")
    for row in rows:
        assert [row[f"attack_{kind}"] for kind in kinds] == [row[f"algorithm1@misclassify_{kind}"] for kind in kinds]
    x, y = data.x.float() / 255, data.y
    runner_up = classifier.predict(x).argsort(dim=1, descending=True)[:, 1]
    for name, target, steps in (
        ("algorithm1@become", runner_up, 20),
        ("algorithm1@become-2", torch.full_like(y, 3), 4),
    ):
        search = advex.attacks.build(f"algorithm1:steps={steps}")
        by_hand = search(classifier, x, advex.goals.Become(target), seed=0)
        for kind in kinds[:5]:
            assert [row[f"{name}_{kind}"] for row in rows] == pytest.approx(getattr(by_hand, kind).tolist(), rel=1e-4)
        scores = made.models[0].scores
        assert scores[f"{name}_reached"].value == by_hand.reached.double().mean()
        assert f"{name}_ara" not in scores  # what is left at a radius is not the accuracy
    assert scores["algorithm1@misclassify_ara"] == scores["attack_ara"]


def test_an_evaluation_of_maps_alone(done: SimpleNamespace) -> None:
    examples = schema.read_rows(done.folder, "examples")
    assert list(examples[0]) == list(schema.TABLES["examples"])
    assert done.record.searches == {}
    assert list(done.record.models[0].scores) == ["accuracy"]
    assert schema.read_rows(done.folder, "explanations") == []
    kept = {row["example"] for row in done.rows if row["map"] is not None}
    assert len(kept) == 2


# -- plugins -----------------------------------------------------------------------------------------------

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from advex.attacks.attack import Search, attack
from advex.attacks.search import SearchResult
from advex.explainers.maps import Attribution, AttributionMethod, explainer
from advex.goals.goal import Aim, goal
from advex.measures.case import measure


@goal("dark")
@dataclass(frozen=True, kw_only=True)
class Dark:
    """A mean below a level."""

    level: torch.Tensor

    @classmethod
    def at(cls, classifier, x, y, *, level: float = 0.2):
        return cls(level=torch.full((len(x),), level))

    def __call__(self, classifier, x):
        loss = x.flatten(1).mean(dim=1) - self.level
        return Aim(loss=loss, reached=loss < 0)


@attack("halve")
class Halve(Search):
    """Half of the picture, whatever the goal."""

    def find(self, classifier, x, goal, mask, seed):
        count = torch.zeros(len(x), dtype=torch.int64)
        return SearchResult(
            delta=-x / 2, size=x.flatten(1).square().mean(dim=1).sqrt() / 2, gradients=count, queries=count + 1,
            flat=count.bool(),
        )


@measure("brightness")
class Brightness:
    """Mean of the picture where the map is positive."""

    title: ClassVar[str] = "Brightness under the map"
    better: ClassVar[str] = "neither"
    unit: ClassVar[str] = "shares of white"
    of: ClassVar[str] = "placed"
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, case):
        positive = (case.maps > 0).double()
        return (case.x.flatten(1).double() * positive).sum(dim=1) / positive.sum(dim=1)


@explainer("inverted", shows="change")
class Inverted(AttributionMethod):
    """The negative of the picture."""

    def attribute(self, request):
        return Attribution(map=1 - 2 * request.x, picture=1 - request.x)
'''


def test_a_plugin_reaches_the_record_without_another_line(tmp_path: Path, models: list) -> None:
    """A measure, an explainer of pictures, a search and a goal of an installed distribution, on the command line."""
    (tmp_path / "bright.py").write_text(PLUGIN)
    about = tmp_path / "bright-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bright\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[advex.plugins]\nbright = bright\n")
    advex.save(models[0][2], tmp_path / "net")
    command = [
        "evaluate", "--model", str(tmp_path / "net"), "--data", "digits", "--size", "1x8x8", "--max-samples", "6",
        "--attack", "none", "--btr", "none", "--search", "halve@dark:level=0.15",
        "--maps", "gradient,inverted", "--measures", "brightness",
        "--pictures", "inverted", "--explanations", "1", "--out", str(tmp_path / "out"), "--quiet",
    ]  # fmt: skip
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "advex", *command],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "Brightness under the map, shares of white" in run.stdout
    made = schema.read_record(tmp_path / "out")
    assert made.measures["brightness"].spec == "brightness"
    rows = schema.read_rows(tmp_path / "out", "maps")
    examples = {row["example"]: row for row in schema.read_rows(tmp_path / "out", "examples")}
    x = {data_id: picture for data_id, picture in _digits_by_id(row["id"] for row in examples.values()).items()}
    for row in rows:
        if row["explainer"] == "inverted":  # positive where the picture is darker than grey
            picture = x[examples[row["example"]]["id"]]
            assert row["brightness"] == pytest.approx(float(picture[picture < 0.5].mean()), abs=1e-6)
    for row in examples.values():
        mean, size = float(x[row["id"]].mean()), float(x[row["id"]].square().mean().sqrt())
        assert row["halve@dark_reached"] == (mean / 2 < 0.15)
        assert row["halve@dark_rmse"] == pytest.approx(size / 2 if mean / 2 < 0.15 else math.inf)
        assert (row["halve@dark_gradients"], row["halve@dark_queries"]) == (0, 1)
    assert len({row["halve@dark_reached"] for row in examples.values()}) == 2
    scores = made.models[0].scores
    assert scores["halve@dark_reached"].value == np.mean([row["halve@dark_reached"] for row in examples.values()])
    assert scores["halve@dark_queries"].value == 1
    pictures = schema.read_rows(tmp_path / "out", "explanations")
    assert {(row["explainer"], row["purpose"], row["rho"]) for row in pictures} == {("inverted", "grid", None)}
    reached = np.mean([row["png_prediction"] == row["target"] for row in pictures])
    assert made.models[0].rho_reached["grid_inverted"].value == pytest.approx(reached)
    assert (tmp_path / "out" / pictures[0]["picture"]).is_file()
    read(tmp_path / "out")


def _digits_by_id(ids: Any) -> dict[str, Tensor]:
    whole = open_dataset("digits", split="test")
    places = {data_id: place for place, data_id in enumerate(whole.ids)}
    return {data_id: whole.x[places[data_id]].double() / 255 for data_id in ids}


def test_two_measures_of_one_title_are_told_apart_by_their_keys() -> None:
    plan = plan_of(Settings(maps=("gradient",), measures=("ifia", "ifia:distance=kendall", "gini")))
    titles = [each.title for each in plan.entries.values()]
    assert len(set(titles)) == len(titles)
    assert "Map change, worst found (ifia-2)" in titles
