"""Papers' tables: their files, what is planned of them, going on, and published beside measured."""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import advex
from advex import objectives, recipes
from advex.cli import reproduce
from advex.data import Dataset
from advex.data.images.streamed import Examples
from advex.drawing.scatter import Mark, front, placed
from advex.errors import ArtifactError, DataError, SpecError
from advex.evaluation import settings_from
from advex.evaluation.judging import NoneRight
from advex.files import write_text
from advex.lookup.models import open_models
from advex.papers import chosen, read
from advex.progress import QUIET
from advex.recipes import Recipe
from advex.record import DataEntry, Difference, Figure, Flag, ModelEntry, Record, read_rows, write_record
from advex.record.choices import ChoiceEntry
from advex.record.reproduction import as_plain, read_reproduction
from advex.report import write_report
from advex.report.pages import reproduction
from advex.reproduction import Job, Together, carry, carry_out, planned
from advex.reproduction.carry import Work
from advex.reproduction.choices import choose, unseen
from advex.reproduction.figures import write_figures
from advex.reproduction.folder import Folder
from advex.reproduction.jobs import Choice, Further
from advex.reproduction.scaling import changes, scaled
from advex.training import Diverged

# -- the file of a paper -----------------------------------------------------------------------------------------------

# A small paper: three rows, one of which repeats another and one that this command cannot run.
SMALL: dict[str, Any] = {
    "title": "Small",
    "authors": "A and B",
    "year": 2020,
    "venue": "Nowhere",
    "tables": {
        "I": {
            "title": "One table",
            "data": "cifar10",
            "train_images": 1000,
            "columns": {
                "accuracy": {"title": "Accuracy", "unit": "%", "digits": 1, "measure": "accuracy", "factor": 100},
                "area": {
                    "title": "Area", "digits": 4, "measure": "attack_ara", "by_protocol": "attack_published_ara"
                },
                "drop": {"title": "Drop", "unit": "points", "digits": 2, "better": "low"},
            },
            "sections": [
                {
                    "rows": [
                        {"id": "plain", "label": "Plain", "mark": "P1", "published": {"accuracy": 90, "area": 0.01},
                         "recipe": "digits-ordinary"},
                        {"id": "long", "label": "Long", "published": {"accuracy": 91, "area": 0.02, "drop": -1.5},
                         "recipe": "digits-ordinary", "overrides": ["epochs=80", "seed=1"]},
                    ]
                },
                {
                    "title": "Again",
                    "rows": [
                        {"id": "plain-again", "label": "Plain", "published": {"accuracy": 90, "area": 0.01},
                         "same_as": "plain"},
                        {"id": "people", "label": "People", "published": {"accuracy": 95}, "needs": "people"},
                    ],
                },
            ],
        }
    },
    "plots": {"figure": {"title": "Plot", "tables": ["I"], "x": "accuracy", "y": "area"}},
    "grids": {"pictures": {"title": "Grid", "rows": ["plain", "long"]}},
    "subsets": {"both": ["plain", "people"]},
    "scales": {
        "tiny": {
            "summary": "Tiny.",
            "data": {"I": "digits"},
            "threads": 1,
            "train_samples": 96,
            "test_samples": 12,
            "change": {"network": "linear", "epochs": {40: 1, 20: 1, 80: 2}, "batch_size": 32, "robust_every": 0},
            "evaluation": {"attack": "minimal:gradients=3", "btr": "minimal:gradients=4", "sweep": 0,
                           "explanations": 1, "recheck": 0, "steps": 2},
        },
        "full": {"summary": "All of it.", "evaluation": {"published": True}},
    },
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """The small paper with one value put elsewhere (`...` removes it)."""
    paper = json.loads(json.dumps(SMALL))
    *outer, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    inside: Any = paper
    for part in outer:
        inside = inside[part]
    if value is ...:
        del inside[last]
    else:
        inside[last] = value
    return paper


def written(folder: Path, values: Any = SMALL) -> str:
    path = folder / "small.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return str(path)


ROWS = "tables/I/sections/0/rows"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("tables: [", "is not valid YAML"),
        ("- a\n- b\n", "does not describe a paper"),
        ("x: 1\n", "small.yaml: title: it is missing"),
        (changed(f"{ROWS}/1/id", "plain"), "two rows are called 'plain'"),
        (changed(f"{ROWS}/1/published/arae", 1), "row long has a value for 'arae', which is no column of table I"),
        (changed("tables/I/sections/1/rows/0/same_as", "plane"), "repeats 'plane': did you mean 'plain'"),
        (changed("tables/I/sections/1/rows/0/published/area", 0.02), "repeats plain, and the published values differ"),
        (changed("tables/I/sections/1/rows/0/recipe", "digits-robust"), "takes recipe, overrides and needs from its"),
        (changed(f"{ROWS}/0/recipe", ...), "row plain: set recipe, same_as, or needs"),
        (changed(f"{ROWS}/1/overrides", ["epochs 80"]), "overrides.0"),
        (changed(f"{ROWS}/1/overides", ["epochs=80"]), "overides: there is no such setting"),
        (changed("subsets/both", []), "subsets.both: it must have at least 1"),
        (changed(f"{ROWS}/1/against", "long"), "row long is set against itself"),
        (changed("subsets/both", ["plian"]), "subset both names the row 'plian': did you mean 'plain'"),
        (changed("subsets/plain", ["long"]), "'plain' names a subset, and something else too"),
        (changed("plots/figure/y", "aera"), "plot figure: table I is not there, or has no columns accuracy and aera"),
        (changed("scales/full/rows", ["bth"]), "scale full: there is no row or subset 'bth': did you mean 'both'"),
        (changed("scales/full/data", {"II": "digits"}), "scale full: there is no table 'II'"),
        (changed(f"{ROWS}/1/model", "builtin:planted,mine:network"), "a file names no code"),
        (changed(f"{ROWS}/1/mark", "mine:network,m"), "mark"),
        (changed(f"{ROWS}/1/model", "mine:network"), "the model mine:network is not builtin:NAME or a run folder"),
        (changed(f"{ROWS}/0", {"id": "plain", "label": "P", "published": {}, "model": "builtin:x", "needs": "x"}),
         "row plain: a model without a recipe"),
        (changed("sets", {"cifr10": {"size": 8}}), "sets: no row is on 'cifr10': did you mean 'cifar10'"),
        (changed("sets", {"cifar10": {"size": 0}}), "sets.cifar10.size: it must be at least 1"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_paper_says_where_and_why(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)) as error:
        read(written(tmp_path, values))
    assert not str(error.value).endswith("..")


def test_an_unknown_paper() -> None:
    with pytest.raises(SpecError, match="'wods2019'.*'woods2019'"):
        read("wods2019")


@pytest.mark.parametrize(
    ("table", "names", "rows"),
    [
        (None, [], ["plain", "long", "plain-again", "people"]),
        ("i", ["people", "plain"], ["plain", "people"]),
        ("I", ["both", "long"], ["plain", "long", "people"]),
        (None, ["all"], ["plain", "long", "plain-again", "people"]),
    ],
)
def test_rows_are_chosen_by_name_and_subset(tmp_path: Path, table: str, names: list[str], rows: list[str]) -> None:
    assert chosen(read(written(tmp_path)), table, names) == rows


@pytest.mark.parametrize(
    ("table", "names", "said"),
    [
        ("IV", [], "There is no table 'IV': "),
        (None, ["psi-200"], "There is no row or subset 'psi-200': did you mean 'psi-220'?"),
        (None, ["teling"], "did you mean 'telling'?"),
        ("I", ["tandem"], "'tandem' is not in table I, but in table II."),
    ],
)
def test_an_unknown_row_is_told_with_a_suggestion(table: str | None, names: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        chosen(read("woods2019"), table, names)


# -- Woods et al. 2019 -------------------------------------------------------------------------------------------------


def test_the_tables_of_woods2019_are_whole() -> None:
    paper = read("woods2019")
    assert {name: len(table.rows) for name, table in paper.tables.items()} == {
        "I": 33,
        "II": 45,
        "hitl": 3,
        "III": 17,
        "README": 4,
    }
    # Sums of the columns as the paper's text prints them: a slip of one digit anywhere changes one of them.
    sums = {
        name: [round(sum(row.published[key] for row in table.rows), 4) for key in ("accuracy", "attack_ara", "btr_ara")]
        for name, table in paper.tables.items()
    }
    assert sums == {
        "I": [2570.8, 0.3041, 0.6344],
        "II": [3549.4, 0.585, 1.2421],
        "hitl": [247.8, 0.039, 0.0867],
        "III": [694.5, 0.0563, 0.4179],
        "README": [315.75, 0.0443, 0.0981],
    }
    assert {row.mark: row.id for row in paper.rows.values() if row.mark} == {
        "N1": "traditional", "N2": "at-l2-0.01", "N3": "both-hhat-l2min-0.1", "N4": "tandem-1.5"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "tables"), [("smoke", ["I", "II", "hitl"]), ("cpu", ["I", "II", "hitl"]), ("full", [None])]
)
def test_every_row_can_be_planned_at_every_scale(
    scale: str, tables: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check, seen = recipes._check, set[str]()

    def check_once(recipe: Recipe) -> None:  # building a network takes long: each one once
        objectives.build(recipe.objective)
        if recipe.network not in seen:
            seen.add(recipe.network)
            check(recipe)

    monkeypatch.setattr(recipes, "_check", check_once)
    for table in tables:
        plan = planned("woods2019", table=table, rows=["all"], scale=scale, available=lambda source: None)
        for one in plan.rows:
            original = plan.paper.original(one.row)
            assert (one.job is None) == bool(original.needs), one.row.id
            assert one.job is None or one.job.name == original.id
        # What is told apart in the paper is told apart here.
        asked = [f"{job.recipe.model_dump_json()} {job.feedback}" for job in plan.jobs]
        same = len(asked) - len(set(asked))
        assert same == 0 or scale != "full", f"{same} networks are trained twice"


def test_the_smoke_of_woods2019_needs_no_data_and_says_so() -> None:
    def nothing_there(source: str) -> None:
        if source != "digits":
            raise DataError("not there")

    plan = planned("woods2019", scale="smoke", available=nothing_there)
    assert {one.job.data for one in plan.rows if one.job} == {"digits"}
    told = "; ".join(plan.changes)
    for words in ("data digits instead of cifar10", "depth 8 instead of 44", "4 epochs instead of 200",
                  "400 training images instead of 50,000", "40 test images instead of 1,000"):  # fmt: skip
        assert words in told
    third = planned(
        "woods2019", table="III", rows=["coco-at", "imagenet-standard"], scale="full", available=nothing_there
    )
    assert [one.reason for one in third.rows] == ["needs --data imagenet=PATH", "needs --data coco=PATH"]
    assert not planned("woods2019", rows=["psi-220"], scale="full", available=lambda source: None).rows[0].changes


# -- scales ------------------------------------------------------------------------------------------------------------

ASKED = Recipe(
    network="preact_resnet:depth=170,activation=relu",
    objective={"lipschitz": {"psi": 30}, "natural": {}},
    epochs=400,
)  # fmt: skip


def test_a_scale_changes_what_is_there_and_nothing_else() -> None:
    change = {
        "network.depth": {44: 8, 170: 14},
        "network.widths": {"16-32-64": (4, 8, 8)},
        "network.stride": 7,  # no option of this network
        "objective.lipschitz.derivative": "finite_difference",
        "objective.adversarial.share": 0.25,  # no term of this objective
        "epochs": {200: 1, 400: 2},
        "batch_size": 64,
        "robust_every": 0,
    }
    run = scaled(ASKED, change, "here")
    assert run.network == "preact_resnet:depth=14,activation=relu,widths=4-8-8"
    assert run.objective == {"lipschitz": {"psi": 30, "derivative": "finite_difference"}, "natural": {}}
    assert (run.epochs, run.batch_size, run.robust_every, run.learning_rate) == (2, 64, 0, ASKED.learning_rate)
    assert changes(ASKED, run) == [
        "depth 14 instead of 170",
        "widths 4-8-8 instead of 16-32-64",
        "lipschitz.derivative finite_difference instead of exact",
        "2 epochs instead of 400",
        "batches of 64 instead of 128",
    ]  # fmt: skip  (nothing of robust_every, which decides nothing)


def test_a_scale_that_does_not_know_a_value_says_so() -> None:
    with pytest.raises(
        SpecError, match=re.escape("here: network.depth = 170: the scale lists 44, 50, but not this one")
    ):
        scaled(ASKED, {"network.depth": {44: 8, 50: 8}}, "here")


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_network_that_is_trained_already_is_only_evaluated(tmp_path: Path) -> None:
    paper, out, worker = changed(f"{ROWS}/1/model", "builtin:planted"), tmp_path / "out", Opener()
    plan = planned(written(tmp_path, paper), rows=["plain", "long"], scale="tiny")
    assert plan.how(plan.rows[1]) == "builtin:planted"
    assert [row.plain["model"] for row in plan.rows] == [None, "builtin:planted"]
    assert plan.rows[1].changes == (
        "data digits instead of cifar10", "12 test images", "builtin:planted as it is",
    )  # fmt: skip
    carry_out(plan, out, worker)
    assert worker.log == ["train plain", f"evaluate {out}/runs/plain", "evaluate builtin:planted"]
    other = planned(written(tmp_path, changed(f"{ROWS}/1/model", "runs/mine")), rows=["long"], scale="tiny")
    with pytest.raises(ArtifactError, match="long: model is 'builtin:planted' there and 'runs/mine' here"):
        carry_out(other, out, worker)


def test_a_model_whose_weights_have_changed_is_another(tmp_path: Path) -> None:
    """What was measured of the former ones is not taken for theirs."""
    run, out = tmp_path / "mine", tmp_path / "out"
    classifier = advex.load("builtin:planted")
    advex.save(classifier, run)
    plan = planned(written(tmp_path, changed(f"{ROWS}/1/model", str(run))), rows=["long"], scale="tiny")
    carry_out(plan, out, Opener())
    again = Opener()
    carry_out(plan, out, again)
    assert again.log == []
    with torch.no_grad():
        next(classifier.network.parameters()).mul_(2)
    advex.save(classifier, run)
    with pytest.raises(ArtifactError, match="long: weights is"):
        carry_out(plan, out, Opener())


def test_a_model_that_cannot_be_evaluated_is_the_failure_of_its_row(tmp_path: Path) -> None:
    """Of another shape, or not there: it is named, and the other rows are run."""
    paper = changed(f"{ROWS}/1/model", "builtin:planted")
    paper["tables"]["I"]["sections"][0]["rows"].append(
        {"id": "lost", "label": "L", "published": {}, "recipe": "digits-ordinary", "model": str(tmp_path / "nowhere")}
    )
    plan = planned(written(tmp_path, paper), rows=["plain", "long", "lost"], scale="tiny")
    found = carry_out(plan, tmp_path / "out", Work())
    plain, wrong, lost = found.rows[:3]
    assert plain.state == "measured"
    assert "builtin:planted cannot be evaluated" in wrong.reason
    assert f"{tmp_path / 'nowhere'} cannot be evaluated" in lost.reason
    assert list(found.data.values()) == ["96 training and 12 test images"]


def test_what_is_said_of_data_that_nothing_is_trained_on(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, changed(f"{ROWS}/1/model", "builtin:x")), rows=["long"], scale="tiny")
    assert list(carry_out(plan, tmp_path / "out", Opener()).data.values()) == ["12 test images"]


def test_a_model_that_knows_the_classes_in_another_order_is_right_all_the_same(tmp_path: Path) -> None:
    data = advex.open_dataset("planted", split="test", max_samples=12, seed=0)
    names = tuple(sorted(data.class_names))
    assert names != data.class_names
    other = dataclasses.replace(
        data, class_names=names, y=torch.tensor([names.index(name) for name in data.class_names])[data.y]
    )
    models = open_models(["builtin:planted"], "cpu")
    right = [carry.rightly_decided(models, each, 8, QUIET).ids for each in (data, other)]
    assert right[0] == right[1]
    plan = planned(written(tmp_path, with_choice()), rows=["equal"], scale="tiny")
    made = [
        choose(plan.choices[0], {"plain": "builtin:planted", "weak": "builtin:planted"}, each, "cpu").accuracies
        for each in (data, other)
    ]
    assert made[0] == made[1]


def test_a_repetition_is_the_network_of_its_original(tmp_path: Path) -> None:
    plan = planned(written(tmp_path), scale="tiny")
    jobs = {one.row.id: one.job and one.job.name for one in plan.rows}
    assert jobs == {"plain": "plain", "long": "long", "plain-again": "plain", "people": None}
    assert [job.name for job in plan.jobs] == ["plain", "long"]
    assert plan.jobs[0].recipe.seed == 0
    assert planned(written(tmp_path), scale="tiny", seed=5).jobs[1].recipe.seed == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": "tny"}, "no scale 'tny': did you mean 'tiny'"),
        ({"data": {"cifar": "digits"}}, "--data cifar=...: the selected rows use cifar10"),
        ({"data": {"": "nowhere-at-all"}}, "no data set 'nowhere-at-all'"),
    ],
)
def test_what_cannot_be_planned(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises((SpecError, DataError), match=re.escape(said)):
        planned(written(tmp_path), **{"scale": "tiny", **given})


def test_settings_of_the_evaluation_may_be_added() -> None:
    """As those of robust accuracy within a radius; what the scale says stays."""
    plain, more = (
        planned("woods2019", scale="smoke", evaluation=added).jobs for added in ({}, {"radius": ("linf:8/255",)})
    )
    assert plain
    for before, after in zip(plain, more, strict=True):
        assert after.evaluation == before.evaluation.model_copy(update={"radius": ("linf:8/255",)})
    with pytest.raises(SpecError, match="no setting 'radios'"):
        planned("woods2019", scale="smoke", evaluation={"radios": ("linf:8/255",)})


def test_named_data_are_used_at_any_scale_and_must_be_told_apart() -> None:
    plan = planned("woods2019", rows=["psi-30"], scale="smoke", data={"": "digits:seed=1"})
    assert plan.jobs[0].data == "digits:seed=1"
    with pytest.raises(
        SpecError, match=re.escape("several data sets: give the location of each, --data cifar10=PATH --data coco")
    ):
        planned("woods2019", rows=["psi-30", "coco-at"], scale="full", data={"": "digits"})


# -- doing it ----------------------------------------------------------------------------------------------------------


class Worker(Work):
    """Invents figures: accuracy 0.5, an area of the number of the call. log: what it was asked to do."""

    def __init__(self, *, diverges: str = "", stops_at: str = "") -> None:
        self.log: list[str] = []
        self.diverges, self.stops_at, self.shift = diverges, stops_at, 0.0

    def open(self, job: Job) -> tuple[Dataset, Dataset]:
        x = torch.zeros(2, 1, 2, 2) + self.shift
        data = Dataset(x=x, y=torch.tensor([0, 1]), ids=("a", "b"), class_names=("no", "yes"), name=job.data)
        return data, data

    def answered(self, job: Job, data: Dataset, folder: Folder) -> Dataset | None:
        raise NotImplementedError  # no row of these papers learns from answers

    def train(self, job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        self.log.append(f"train {job.name}")
        if job.name == self.stops_at:
            raise KeyboardInterrupt
        if job.name == self.diverges:
            raise Diverged("The loss became nan.")

    def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
        self.log.append(f"evaluate {job.name}")
        area = Figure(value=0.0123, low=0.01, high=math.inf, n=40, failures=1)
        scores = {"accuracy": Figure(value=0.5, low=0.35, high=0.65, n=40), "attack_ara": area,
                  "attack_published_ara": Figure(value=0.02, low=0.01, high=0.03, n=40)}  # fmt: skip
        made = Record(
            advex="0", created="2026-11-20T10:00:00+00:00", command="", seed=0, seconds=1.0, environment={"cpu": "x"},
            settings={}, searches={"attack": "minimal"}, models=[ModelEntry(name=job.name, source="", scores=scores)],
            data=DataEntry(name="d", source="d", examples=40, shape=(1, 2, 2), class_names=("no", "yes"), chance=0.5),
            flags=[Flag(model=job.name, code="few", severity="warning", message="Few.", remedy="More.")],
        )  # fmt: skip
        write_record(record, made)
        return made


class Opener(Worker):
    """Says what it would open."""

    def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
        made = super().evaluate(job, model, data, record)
        self.log[-1] = f"evaluate {model}"
        return made


class Both(Worker):
    """Of networks together: the accuracy of each is the number of letters of its mark, in tenths."""

    def together(self, group: Together, models: Mapping[str, str], data: Dataset, record: Path) -> Record:
        self.log.append(f"together {' '.join(f'{mark}={Path(model).name}' for mark, model in models.items())}")
        made = super().evaluate(next(iter(group.jobs.values())), "", data, record)
        del self.log[-1]
        scores = {mark: Figure(value=len(mark) / 10, low=0, high=1, n=40) for mark in models}
        entries = [ModelEntry(name=mark, source="", scores={"accuracy": each}) for mark, each in scores.items()]
        write_record(record, made.model_copy(update={"models": entries}))
        return made.model_copy(update={"models": entries})


def together() -> dict[str, Any]:
    """The small paper with a table whose networks are evaluated together."""
    column = {"title": "Accuracy", "digits": 1, "measure": "accuracy", "factor": 100}
    rows = [
        {"id": f"{name}-both", "label": name, "mark": mark, "published": {}, "same_as": name}
        for name, mark in (("plain", "abc"), ("long", "abcde"))
    ]
    table = {"title": "Together", "data": "cifar10", "together": True, "columns": {"shared": column}}
    paper = changed("tables/VI", {**table, "sections": [{"title": "Both", "rows": rows}]})
    paper["scales"]["tiny"] |= {"data": {"I": "digits"}, "tables": {"VI": {"attack": None, "btr": None}}}
    return paper


def test_networks_are_evaluated_together_once_each_is_done(tmp_path: Path) -> None:
    paper, out, worker = written(tmp_path, together()), tmp_path / "out", Both()
    found = carry_out(planned(paper, rows=["plain-both", "long-both"], scale="tiny"), out, worker)
    assert worker.log == [
        "train plain", "evaluate plain", "train long", "evaluate long", "together abc=plain abcde=long",
    ]  # fmt: skip
    assert {row.id: row.measured["shared"].value for row in found.rows if "shared" in row.measured} == {
        "plain-both": pytest.approx(30), "long-both": pytest.approx(50),
    }  # fmt: skip
    assert {row.id: row.record for row in found.rows} == {"plain-both": None, "long-both": None}
    again = Both()
    alone = planned(paper, rows=["plain-both"], scale="tiny")
    assert [each.row.id for each in alone.rows] == ["plain-both", "long-both"], "one row brings those beside it"
    assert carry_out(alone, out, again).rows == found.rows
    assert again.log == []


def test_without_one_of_them_nothing_is_said_of_any(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, together()), rows=["plain-both", "long-both"], scale="tiny")
    found = carry_out(plan, tmp_path / "out", Both(diverges="long"))
    assert {row.state for row in found.rows} == {"failed"}
    assert found.rows[0].reason == "There is no long, which it is evaluated together with."
    everywhere: Any = {"scale": "full", "available": lambda source: None}
    reason = planned(written(tmp_path, together()), rows=["plain-both"], **everywhere).rows[0].reason
    assert reason == "needs another scale: full has no settings of its table"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("mark", "", "repeat others (same_as) and have a mark"),
        ("mark", "abcde", "two rows of a section have one mark"),
    ],
)
def test_marks_tell_networks_apart(tmp_path: Path, path: str, value: str, said: str) -> None:
    paper = together()
    paper["tables"]["VI"]["sections"][0]["rows"][0][path] = value
    with pytest.raises(SpecError, match=re.escape(said)):
        read(written(tmp_path, paper))


class Extras(Worker):
    """Of an extra: the record of an evaluation, or an empty study."""

    def further(self, extra: Further, model: str, train: Examples, data: Dataset, record: Path) -> None:
        self.log.append(f"extra {extra.name} of {Path(model).name}")
        if extra.study is None:
            super().evaluate(extra.job, model, data, record)
            del self.log[-1]
        else:
            record.mkdir(parents=True)
            (record / "study.json").write_text("{}")


def with_extras() -> dict[str, Any]:
    """The small paper with an evaluation and a study of the first network's own."""
    paper = changed("extras", {name: {"title": name, "row": "plain"} for name in ("strips", "layers", "elsewhere")})
    study = {"explainer": "perceptual:gradients=2", "judges": ["gini"], "sigmas": [0, 1], "first": 3}
    paper["scales"]["tiny"] |= {"extras": {
        "strips": {"samples": 2, "evaluation": {"attack": None, "maps": ["gradient"], "measures": ["gini"]}},
        "layers": {"study": study},
    }}  # fmt: skip
    return paper


def test_extras_are_made_once_their_network_is_there_and_not_twice(tmp_path: Path) -> None:
    paper, out, worker = written(tmp_path, with_extras()), tmp_path / "out", Extras()
    plan = planned(paper, scale="tiny")
    assert [(each.name, each.samples, each.study and each.study.sigmas) for each in plan.extras] == [
        ("layers", None, (0, 1)), ("strips", 2, None),
    ]  # fmt: skip
    found = carry_out(plan, out, worker)
    extras = ["extra layers of plain", "extra strips of plain"]
    assert [line for line in worker.log if line.startswith("extra")] == extras
    assert worker.log.index(extras[0]) > worker.log.index("evaluate plain")
    assert [(each.id, each.record) for each in found.extras] == [
        ("layers", "records/layers"), ("strips", "records/strips"),
    ]  # fmt: skip
    again = Extras()
    carry_out(plan, out, again)
    assert again.log == []

    class NeverRight(Extras):
        def further(self, extra: Further, model: str, train: Examples, data: Dataset, record: Path) -> None:
            if extra.study is None:
                raise NoneRight("no example is classified correctly")
            super().further(extra, model, train, data, record)

    carry_out(plan, tmp_path / "left", NeverRight())  # ends, though one of them cannot be made
    assert (tmp_path / "left" / "records" / "layers").is_dir()
    assert not (tmp_path / "left" / "records" / "strips").exists()
    failed = Extras(diverges="plain")
    carry_out(plan, tmp_path / "failed", failed)
    assert not [line for line in failed.log if line.startswith("extra")]
    assert planned(paper, rows=["plain-again"], scale="tiny").extras == (), "of the network's own row alone"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("extras/strips/row", "plan", "extra strips names the row 'plan'"),
        ("scales/tiny/extras/lines", {"samples": 2}, "scale tiny: there is no extra 'lines'"),
        ("extras/plain", {"title": "x", "row": "plain"}, "'plain' names an extra, and a row too"),
    ],
)
def test_extras_that_fit_nothing_are_refused(tmp_path: Path, path: str, value: Any, said: str) -> None:
    paper = with_extras()
    *parents, last = path.split("/")
    inner = paper
    for name in parents:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(SpecError, match=re.escape(said)):
        read(written(tmp_path, paper))


def test_pictures_of_each_class_are_an_extra_in_figures_and_on_the_page(tmp_path: Path) -> None:
    paper, out = with_extras(), tmp_path / "out"
    paper["grids"] = {}
    paper["scales"]["tiny"]["extras"] = {"strips": {"generation": {"count": 2, "radius": 3, "steps": 4}}}
    plan = planned(written(tmp_path, paper), rows=["plain"], scale="tiny")
    data = advex.open_dataset("planted", split="test", max_samples=40, seed=0)

    class Painter(Worker):
        def open(self, job: Job) -> tuple[Dataset, Dataset]:
            return data, data.take(slice(0, 1))  # a class has no test picture, and all have some to learn from

        def further(self, extra: Further, model: str, train: Examples, data: Dataset, record: Path) -> None:
            Work().further(extra, "builtin:planted", train, data, record)

    found = carry_out(plan, out, Painter())
    generated = json.loads((out / "records" / "strips" / "generated.json").read_text())
    assert [each["label"] for each in generated["inputs"]] == [name for name in data.class_names for _ in range(2)]
    assert all(each["generated"]["l2"] <= 3.01 for each in generated["inputs"])
    reached = sum(each["generated"]["says"] == each["label"] for each in generated["inputs"])
    (file,) = [path for path in write_figures(out, found) if path.name == "strips.png"]
    assert file.read_bytes() == (out / "records" / "strips" / "sheet.png").read_bytes()
    page = write_report(out).read_text()
    assert f"takes {reached} of {len(generated['inputs'])} pictures for their class" in page
    assert base64.b64encode(file.read_bytes()).decode() in page
    assert Folder(out).made("strips")


# -- a network that is chosen among others -----------------------------------------------------------------------------


def with_choice() -> dict[str, Any]:
    """The small paper with two more networks, and a row that is of one of them."""
    paper = changed("grids", {})
    row = {"label": "x", "recipe": "digits-ordinary"}
    paper["tables"]["I"]["sections"][0]["rows"] += [
        {"id": "weak", **row, "published": {}, "overrides": ["seed=2"]},
        {"id": "strong", **row, "published": {}, "overrides": ["seed=3"]},
        {"id": "equal", "label": "Equal", "published": {}, "chosen": {"of": ["weak", "strong"], "like": "plain"},
         "note": "Said anyway."},
    ]  # fmt: skip
    return paper


class Chooser(Worker):
    """Its networks have these accuracies on what is not compared."""

    accuracies = {"plain": 0.80, "weak": 0.89, "strong": 0.75}

    def choose(self, choice: Choice, models: Mapping[str, str], test: Dataset) -> ChoiceEntry:
        self.log.append(f"choose among {' '.join(models)}")
        known = {name: self.accuracies[name] for name in models}
        missing = [name for name in choice.jobs if name not in models]
        about = {"like": choice.like.name, "within": choice.within, "data": "rest", "examples": 99}
        return ChoiceEntry(**about, accuracies=known, missing=missing)


def test_a_chosen_row_is_the_network_with_the_nearest_accuracy_once_all_are_there(tmp_path: Path) -> None:
    paper, out = written(tmp_path, with_choice()), tmp_path / "out"
    plan = planned(paper, rows=["equal"], scale="tiny")
    assert [each.row.id for each in plan.rows] == ["plain", "weak", "strong", "equal"], "one row brings the others"
    first = Chooser(stops_at="strong")
    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, out, first)
    waiting = read_reproduction(out).rows[-1]
    assert (waiting.state, waiting.reason) == (
        "waiting", "needs these first: it is the network of weak, strong with about the accuracy of plain",
    )  # fmt: skip
    second = Chooser()
    found = carry_out(plan, out, second)
    assert second.log == ["train strong", "evaluate strong", "choose among plain weak strong"]
    row = found.rows[-1]
    assert (row.id, row.network, row.state) == ("equal", "strong", "measured")
    assert row.measured == found.rows[2].measured
    assert row.note == (
        "Chosen is strong, -5.00 points from plain (which is no fair match: not within 1), by accuracy on 99 pictures "
        "that are neither trained on nor compared (rest): plain 80.00 %, weak 89.00 %, strong 75.00 %. Said anyway."
    )
    assert "Chosen is strong" in write_report(out).read_text()
    third = Chooser()
    assert carry_out(plan, out, third).rows == found.rows
    assert third.log == []
    chosen = out / "records" / "equal" / "choice.json"
    foreign = json.loads(chosen.read_text()) | {"accuracies": {"plain": 0.5, "other": 0.5}}
    for text, said in (("{}", "cannot be read as a choice"), (json.dumps(foreign), "has other, which is not one of")):
        chosen.write_text(text)
        with pytest.raises(ArtifactError, match=said):
            carry_out(plan, out, Chooser())


def test_a_row_that_is_set_against_a_chosen_one_brings_what_that_is_chosen_among(tmp_path: Path) -> None:
    paper = with_choice()
    against = {"id": "beside", "label": "B", "published": {}, "recipe": "digits-ordinary", "against": "equal"}
    paper["tables"]["I"]["sections"][0]["rows"].append(against)
    plan = planned(written(tmp_path, paper), rows=["beside"], scale="tiny")
    assert [each.row.id for each in plan.rows] == ["plain", "weak", "strong", "equal", "beside"]


def test_a_choice_within_another_distance_is_another(tmp_path: Path) -> None:
    paper, out = with_choice(), tmp_path / "out"
    carry_out(planned(written(tmp_path, paper), rows=["equal"], scale="tiny"), out, Chooser())
    paper["tables"]["I"]["sections"][0]["rows"][-1]["chosen"]["within"] = 6
    with pytest.raises(ArtifactError, match=r"equal: within is 1\.0 there and 6\.0 here"):
        carry_out(planned(written(tmp_path, paper), rows=["equal"], scale="tiny"), out, Chooser())


def test_what_diverges_is_not_chosen_and_without_its_match_nothing_is(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, with_choice()), rows=["equal"], scale="tiny")
    row = carry_out(plan, tmp_path / "one", Chooser(diverges="strong")).rows[-1]
    assert row.network == "weak"
    assert "weak 89.00 %; there is no strong to choose." in row.note
    row = carry_out(plan, tmp_path / "none", Chooser(diverges="plain")).rows[-1]
    assert (row.state, row.reason) == ("failed", "There is no plain, to choose by.")
    assert not (tmp_path / "none" / "records" / "equal").exists()


def test_choices_are_made_on_what_is_neither_learned_from_nor_compared(tmp_path: Path) -> None:
    paper = with_choice()
    paper["scales"]["tiny"]["data"] = {"cifar10": "planted:amplitude=0.05"}  # by the name of the set
    plan = planned(written(tmp_path, paper), rows=["equal"], scale="tiny")
    (choice,) = plan.choices
    whole = advex.open_dataset(choice.like.data, split="test")
    test = whole.sample(12, seed=0)
    rest = unseen(choice.like, test, QUIET, 0)
    assert sorted((*rest.ids, *test.ids)) == sorted(whole.ids)
    (opened,) = open_models(["builtin:planted"], "cpu")
    batch = rest.batch(slice(None))
    right = (opened.classifier.predict(batch.x).argmax(dim=1) == batch.y).double().mean().item()
    made = Work().choose(choice, {"plain": "builtin:planted", "weak": "builtin:planted"}, test)
    assert made.accuracies == {"plain": pytest.approx(right), "weak": pytest.approx(right)}
    assert (made.examples, made.chosen) == (588, "weak")
    assert 0.3 < right < 1
    with pytest.raises(DataError, match="All test examples of planted.* are compared"):
        unseen(choice.like, whole, QUIET, 0)


def test_data_without_splits_are_dealt_before_they_are_learned_from_and_chosen_on(tmp_path: Path) -> None:
    for number in range(40):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 5 * number).save(file)
    (choice,) = planned(written(tmp_path, with_choice()), rows=["equal"], scale="tiny").choices
    job = dataclasses.replace(choice.like, data=str(tmp_path / "data"), train_samples=None, test_samples=3)
    train, test = Work().open(job)
    rest = unseen(job, test, QUIET, 0)
    assert (len(train), len(test), len(rest)) == (32, 3, 5)
    assert isinstance(train, Dataset)
    assert len({*train.ids, *test.ids, *rest.ids}) == 40
    shutil.move(tmp_path / "data", tmp_path / "train")
    (tmp_path / "whole").mkdir()
    shutil.move(tmp_path / "train", tmp_path / "whole" / "train")
    learned = dataclasses.replace(job, data=str(tmp_path / "whole"))
    with pytest.raises(DataError, match="no test or validation split"):
        unseen(learned, test, QUIET, 0)
    with pytest.raises(DataError, match="has no part that is held out"):
        Work().open(learned)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"chosen": {"of": ["weak", "strng"], "like": "plain"}}, "row equal is chosen by 'strng': did you mean"),
        ({"chosen": {"of": ["weak", "strong"], "like": "plain-again"}}, "which has no recipe of its own"),
        ({"chosen": {"of": ["weak", "strong", "weak"], "like": "plain"}}, "row equal is chosen by weak twice"),
        ({"chosen": {"of": ["weak", "strong"], "like": "strong"}}, "row equal is chosen by strong twice"),
        ({"recipe": "digits-ordinary"}, "row equal: the network of a chosen row is another's"),
    ],
)
def test_choices_that_fit_nothing_are_refused(tmp_path: Path, value: dict[str, Any], said: str) -> None:
    paper = with_choice()
    paper["tables"]["I"]["sections"][0]["rows"][-1] |= value
    with pytest.raises(SpecError, match=re.escape(said)):
        read(written(tmp_path, paper))


def test_masks_of_maps_are_drawn_from_what_networks_say_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fig. 7 and Top-1 Seg of singh2020 as its scale `smoke` has them, with one network in the place of all three."""
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)  # building the networks takes long, and has its tests
    plan = planned("singh2020", rows=["masks"], scale="smoke")
    (group,) = plan.groups
    assert {mark: job.name for mark, job in group.jobs.items()} == {
        "natural": "flower-natural", "pgd": "flower-pgd-7", "art": "flower-art",
    }  # fmt: skip
    assert {job.data for job in plan.jobs} == {"planted"}

    class Planted(Worker):
        def open(self, job: Job) -> tuple[Dataset, Dataset]:
            test = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=8, seed=0)
            return test, test

        def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
            little = settings_from({"attack": None, "btr": None, "explanations": 0, "sweep": 0, "recheck": 0})
            return Work().evaluate(dataclasses.replace(job, evaluation=little), "builtin:planted", data, record)

        def together(self, group: Together, models: Mapping[str, str], data: Dataset, record: Path) -> Record:
            quicker = {"maps": ("integrated_gradients:steps=2", "gradient", "centre")}
            group = dataclasses.replace(group, evaluation=group.evaluation.model_copy(update=quicker))
            return Work().together(group, dict.fromkeys(models, "builtin:planted"), data, record)

    found = carry_out(plan, tmp_path, Planted())
    rows = [row for row in found.rows if row.together]
    assert [row.measured.keys() >= {"ig", "gradient", "ig_iou", "whole", "gaussian"} for row in rows] == [True] * 3
    assert rows[0].published == {"ig": 33.7, "gradient": 24.4}
    places = read_rows(tmp_path / "records" / "table-7-1", "places")
    kept = {(row["example"], row["explainer"]): row for row in places if row["model"] == "art"}
    maps = read_rows(tmp_path / "records" / "table-7-1", "maps")
    assert len(kept) == 2 * 3
    for row in maps:  # what is drawn is what was judged
        if row["model"] == "art" and (at := kept.get((row["example"], row["explainer"]))):
            mask, thing = np.array(at["mask"]), np.array(at["outline"])
            assert row["segmentation"] == pytest.approx((mask & thing).sum() / (mask | thing).sum())
            assert thing.sum() == 64  # a patch of 8 x 8
    assert [path.name for path in write_figures(tmp_path, found) if "masks" in path.name] == ["masks-7-1.png"]


def test_a_network_is_judged_on_the_first_that_it_classifies_correctly_after_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = advex.open_dataset("planted:amplitude=0.05", split="test", max_samples=30, seed=0)
    (opened,) = open_models(["builtin:planted"], "cpu")
    batch, judged = data.batch(slice(None)), []
    right = opened.classifier.predict(batch.x).argmax(dim=1) == batch.y
    monkeypatch.setattr(carry, "open_models", lambda *given: [opened])
    monkeypatch.setattr(carry, "evaluate", lambda models, data, *rest: judged.append(data.ids))
    (job,) = planned(written(tmp_path), rows=["plain"], scale="tiny").jobs
    for most, skip in ((None, 0), (4, 0), (4, 11), (99, 11)):
        Work().evaluate(dataclasses.replace(job, right_samples=most, skip_samples=skip), "", data, tmp_path)
        expected = [i for i in range(skip, 30) if most is None or right[i]][:most]
        assert list(judged[-1]) == [data.ids[i] for i in expected]


def test_what_is_done_is_read_and_the_rest_is_done(tmp_path: Path) -> None:
    paper, out, first = written(tmp_path), tmp_path / "out", Worker(stops_at="long")
    with pytest.raises(KeyboardInterrupt):
        carry_out(planned(paper, scale="tiny"), out, first)
    assert first.log == ["train plain", "evaluate plain", "train long"]
    states = {row.id: row.state for row in read_reproduction(out).rows}
    assert states == {"plain": "measured", "long": "waiting", "plain-again": "measured", "people": "not run"}
    second = Worker()
    found = carry_out(planned(paper, scale="tiny"), out, second)
    assert second.log == ["train long", "evaluate long"]
    assert found.model_dump(exclude={"created"}) == read_reproduction(out).model_dump(exclude={"created"})
    assert {row.id: row.state for row in found.rows}["long"] == "measured"
    third = Worker()
    carry_out(planned(paper, scale="tiny"), out, third)
    assert third.log == []


OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from types import SimpleNamespace
from test_reproduce import Worker
from advex.reproduction import carry_out, planned
carry_out(planned(sys.argv[2], scale="tiny"), Path(sys.argv[3]), Worker(), say=SimpleNamespace(note=print))
"""


def test_copies_take_a_network_each_and_wait_for_each_other(tmp_path: Path) -> None:
    paper, out, worker = written(tmp_path), tmp_path / "out", Worker()
    others: list[subprocess.Popen[bytes]] = []
    train = worker.train

    def train_beside_another(job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        train(job, data, validation, run)
        command = [sys.executable, "-c", OTHER, str(Path(__file__).parent), str(paper), str(out)]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for _ in range(600):
            if Folder(out).finished("long") is not None:
                break
            time.sleep(0.1)
        assert others[0].poll() is None  # it waits for the network that this one is at

    worker.train = train_beside_another
    result = carry_out(planned(paper, scale="tiny"), out, worker)
    said, _ = others[0].communicate(timeout=60)
    assert others[0].returncode == 0
    assert b"waiting for other processes, which are at plain" in said
    assert worker.log == ["train plain", "evaluate plain"]
    assert {row.id: row.state for row in result.rows if row.state != "measured"} == {"people": "not run"}
    assert not list(out.rglob(".*.lock"))


@pytest.mark.filterwarnings("ignore:.*has no locks")
def test_without_locks_a_copy_begins_with_a_network_that_no_other_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    plan, out, worker, other = planned(written(tmp_path), scale="tiny"), tmp_path / "out", Worker(), Worker()
    train = worker.train

    def train_beside_another(job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        if not other.log:
            carry_out(plan, out, other)
        train(job, data, validation, run)

    worker.train = train_beside_another
    carry_out(plan, out, worker)
    assert [line for line in other.log if "train" in line] == ["train long", "train plain"]  # it does not wait for it


def test_rows_may_be_added_later(tmp_path: Path) -> None:
    paper, out = written(tmp_path), tmp_path / "out"
    carry_out(planned(paper, rows=["plain"], scale="tiny"), out, Worker())
    worker = Worker()
    carry_out(planned(paper, rows=["long"], scale="tiny"), out, worker)
    assert worker.log == ["train long", "evaluate long"]
    worker = Worker()
    assert len(carry_out(planned(paper, scale="tiny"), out, worker).rows) == 4
    assert worker.log == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"scale": "full"}, "scale is 'tiny' there and 'full' here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
    ],
)
def test_a_folder_of_other_settings_is_refused(tmp_path: Path, other: dict[str, Any], said: str) -> None:
    paper, out = written(tmp_path), tmp_path / "out"
    carry_out(planned(paper, rows=["plain"], scale="tiny"), out, Worker())
    before = (out / "plan.json").read_bytes()
    plan = planned(paper, rows=["plain"], available=lambda source: None, **{"scale": "tiny", **other})
    with pytest.raises(ArtifactError, match=re.escape(said)) as refused:
        carry_out(plan, out, Worker())
    assert "Choose another folder" in str(refused.value)
    assert (out / "plan.json").read_bytes() == before


def test_a_row_made_otherwise_and_other_examples_are_refused(tmp_path: Path) -> None:
    paper, out = written(tmp_path), tmp_path / "out"
    carry_out(planned(paper, rows=["plain"], scale="tiny"), out, Worker())
    changed_paper = written(tmp_path, changed(f"{ROWS}/0/overrides", ["weight_decay=0.5"]))
    with pytest.raises(ArtifactError, match="plain: recipe: weight_decay is 0.0005 there and 0.5 here"):
        carry_out(planned(changed_paper, rows=["plain"], scale="tiny"), out, Worker())
    other = Worker()
    other.shift = 0.5
    with pytest.raises(ArtifactError, match="training examples of digits"):
        carry_out(planned(written(tmp_path), rows=["long"], scale="tiny"), out, other)
    (out / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match="does not describe a reproduction"):
        Folder(out).claim(planned(written(tmp_path), scale="tiny"))


def test_a_folder_from_before_a_setting_was_added_goes_on(tmp_path: Path) -> None:
    """What is written down of evaluation and recipe grows with them; `away` has become an explainer of pictures."""
    paper, out = written(tmp_path), tmp_path / "out"
    carry_out(planned(paper, scale="tiny"), out, Worker())
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    for network in plan["networks"].values():
        for name in ("pictures", "searches", "measures"):
            del network["evaluation"][name]
        network["evaluation"]["away"] = True
        del network["recipe"]["balanced"]
    (out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    worker = Worker()
    carry_out(planned(paper, scale="tiny"), out, worker)
    assert worker.log == []
    plan["networks"]["plain"]["evaluation"]["away"] = False
    (out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"plain: evaluation: pictures is \['toward'\] there"):
        carry_out(planned(paper, scale="tiny"), out, worker)


def test_figures_are_in_the_units_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, out = planned(written(tmp_path, changed("grids", {})), scale="tiny"), tmp_path / "out"
    found = carry_out(plan, out, Worker(diverges="long"), command="advex reproduce")
    plain, long, again, people = found.rows
    assert (plain.measured["accuracy"].value, plain.measured["accuracy"].low) == (50.0, 35.0)
    assert plain.measured["area"].value == 0.0123
    assert plain.by_protocol == {"area": Figure(value=0.02, low=0.01, high=0.03, n=40)}
    assert "drop" not in plain.measured
    assert again.measured == plain.measured
    assert (again.network, people.reason, plain.flags) == ("plain", "needs people", ["Few."])
    assert (long.state, long.reason) == ("failed", "The loss became nan.")
    strict = json.loads(json.dumps(as_plain(found), allow_nan=False))
    assert strict["tables"][0]["rows"][0]["measured"]["area"]["high"] is None
    assert strict["tables"][0]["rows"][0]["published"] == {"accuracy": 90.0, "area": 0.01}

    reproduce.show(found)
    told = capsys.readouterr()
    words = " ".join(told.out.split())
    line = next(line for line in told.out.splitlines() if line.startswith("plain (P1)"))
    assert re.split(r"  +", line.strip()) == [
        "plain (P1)", "90.0", "50.0 [35.0, 65.0]", "0.0100", "0.0123 [0.0100, inf], 1 failed",
        "0.0200 [0.0100, 0.0300]", "–", "–",
    ]  # fmt: skip
    assert "plain-again = plain" in told.out
    assert "not run: people: needs people" in told.out
    assert "scale tiny differs from the paper: data digits instead of cifar10; 96 training images" in words
    assert "warning: long failed: The loss became nan." in told.err

    page = write_report(out).read_text(encoding="utf-8")
    assert page.count("[35.0, 65.0]") == 2
    for words in ("96 training images instead of 1,000", "Table I: One table", "needs people", "The loss became nan."):
        assert words in page
    assert "<script" not in page


def test_a_figure_that_no_picture_has_is_neither_a_failure_nor_an_interval(tmp_path: Path) -> None:
    found = carry_out(planned(written(tmp_path), scale="tiny"), tmp_path / "out", Worker())
    table, rows = found.tables[0], list(found.tables[0].rows)
    nothing = Figure(value=math.nan, low=0.0, high=100.0, n=0, failures=500)
    rows[0] = rows[0].model_copy(update={"measured": {**rows[0].measured, "area": nothing}})
    part = reproduction._table(table.model_copy(update={"rows": rows}))
    cells = {cell.key: cell for _, cell, _ in part.parts[0][1][0][1]}
    assert (cells["area"].text, cells["area"].low, cells["area"].note) == ("–", "", "undefined for all 500")


def test_what_is_not_finite_is_null_wherever_it_stands(tmp_path: Path) -> None:
    found = carry_out(planned(written(tmp_path), scale="tiny"), tmp_path / "out", Worker())
    undefined = Figure(value=math.nan, low=-math.inf, high=math.inf, n=0)
    gain = Difference(first="plain", second="long", measure="gradient_gini", figure=undefined)
    (told,) = as_plain(found.model_copy(update={"differences": [gain]}))["differences"]
    assert [told["figure"][name] for name in ("value", "low", "high")] == [None, None, None]


def test_a_file_has_its_old_text_until_the_disk_has_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "plan.json", []
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda file: seen.append((path.read_text(), os.fstat(file).st_size)))
    write_text(path, "newer")
    assert seen == [("old", 5)]
    assert path.read_text() == "newer"


# -- the plot ----------------------------------------------------------------------------------------------------------


def test_every_published_network_is_in_the_plot_once_and_measured_ones_beside_it(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, changed("grids", {})), rows=["plain-again"], scale="tiny")
    found = carry_out(plan, tmp_path / "out", Worker())
    ((_, scatter),) = reproduction.content(tmp_path / "out", found)["scatters"]
    marks = [dot.mark for dot in scatter.dots]
    assert [(mark.name, mark.measured, mark.x, mark.y) for mark in marks] == [
        ("P1 plain", False, 90.0, 0.01), ("long", False, 91.0, 0.02), ("P1 plain", True, 50.0, 0.0123)
    ]  # fmt: skip
    assert marks[2].x_range == (35.0, 65.0)
    # The measured area's interval is open above. It ends with the plot, and the plot with what is finite.
    assert marks[2].y_range == (0.01, 0.02)
    assert [tick.text for tick in scatter.y_ticks] == ["0", "0.005", "0.01", "0.015", "0.02"]


def test_the_front_and_room_for_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(40, 2, generator=generator).tolist()
    marks = [Mark(str(n), x, y, (x, x), (y, y), True) for n, (x, y) in enumerate(points)]
    best = {one.name for one in marks if not any(o.x >= one.x and o.y >= one.y and o is not one for o in marks)}
    assert {mark.name for mark in front(marks)} == best
    places = placed(
        [(400 * x, 300 * y, f"label {n}") for n, (x, y) in enumerate(points)], (400, 300), letter=5, line=10
    )
    boxes = [(at[0], at[1] - 5, at[0] + 5 * len(f"label {n}"), at[1] + 5) for n, at in enumerate(places) if at]
    assert len(boxes) > 15
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 400 and box[3] <= 300 for box in boxes)
    apart = [a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for a in boxes for b in boxes if a is not b]
    assert all(apart)
    assert placed([(5.0, 5.0, "")], (400, 300), letter=5, line=10) == [None]


# -- as a user ---------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "advex", "reproduce", *arguments]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("ADVEX_DATA", "FORCE_COLOR")}
    return {**kept, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def stopped(arguments: list[str], cwd: Path, begun: Callable[[], bool]) -> int:
    """Begin, and send SIGTERM once something is there. Returns the exit code."""
    process = subprocess.Popen(arguments, cwd=cwd, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 100
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert b"resume with: advex reproduce" in said or process.returncode == -signal.SIGTERM, said
    return process.returncode


def test_a_reproduction_is_stopped_resumed_and_repeated(tmp_path: Path) -> None:
    paper = written(tmp_path, changed("scales/tiny/change/epochs", {40: 1, 20: 1, 80: 60}))
    begin = command(paper, "--scale", "tiny", "--out", "out")
    journal = tmp_path / "out" / "runs" / "long" / "metrics.jsonl"
    assert stopped(begin, tmp_path, journal.is_file) == 128 + signal.SIGTERM
    first = (tmp_path / "out" / "records" / "plain" / "record.json").read_bytes()
    assert not (tmp_path / "out" / "records" / "long" / "record.json").exists()
    done = subprocess.run(
        [*begin, "--json"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "records" / "plain" / "record.json").read_bytes() == first
    told = json.loads(done.stdout)
    assert [row["state"] for row in told["tables"][0]["rows"]] == ["measured", "measured", "measured", "not run"]
    assert told["files"] == ["out/figures/figure.svg", "out/figures/pictures.png", "out/report.html"]
    assert all((tmp_path / file).stat().st_size > 5000 for file in told["files"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count('data-model="P1 plain"') >= 10  # the grid: towards every class
    assert len(journal.read_text().splitlines()) == 60  # the run went on, and was not begun anew twice over


def test_rows_of_woods2019_run_as_a_user_runs_them(tmp_path: Path) -> None:
    arguments = command("woods2019/II", "--rows", "both-hhat-l2min-0.1,hitl-448", "--scale", "smoke", "--out", "out")
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = read_reproduction(tmp_path / "out")
    assert [row.state for row in found.rows] == ["measured", "not run"]
    assert found.rows[0].measured["accuracy"].value > 40  # of ten classes
    assert 0 < found.rows[0].measured["attack_ara"].value < found.rows[0].measured["btr_ara"].value
    assert "both-hhat-l2min-0.1 (N3)   68.4" in done.stdout
    assert "differs from the paper" in done.stdout


def test_a_list_says_what_would_be_run(tmp_path: Path) -> None:
    arguments = command("woods2019/III", "--scale", "full", "--list")
    done = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"imagenet-standard .*65\.6 0\.0004 0\.0013 +not run: needs --data imagenet=PATH", done.stdout)
    assert not list(tmp_path.iterdir())
