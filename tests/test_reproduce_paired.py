"""Rows of a paper that are set against another one: chosen with it, compared example by example, drawn side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from advex import papers, recipes
from advex.data import Dataset
from advex.errors import SpecError
from advex.record import DataEntry, Figure, MapFigures, MeasureEntry, ModelEntry, Record, read_record, write_record
from advex.report import write_report
from advex.reproduction import Job, carry_out, planned
from advex.reproduction.carry import Work
from advex.reproduction.figures import write_figures
from advex.reproduction.folder import Folder
from advex.reproduction.paired import Pair, values_of

PAPER: dict[str, Any] = {
    "title": "Sparse", "authors": "A. Author", "year": 2020, "venue": "Somewhere",
    "tables": {
        "1": {
            "title": "Sparseness", "data": "digits",
            "columns": {
                "dg": {"title": "dG", "digits": 3, "measure": "gradient_gini", "paired": True},
                "drop": {"title": "Drop", "unit": "points", "digits": 1, "measure": "accuracy", "paired": True,
                         "factor": -100, "better": "low"},
                "gini": {"title": "Gini", "digits": 3, "measure": "gradient_gini"},
            },
            "sections": [{"rows": [
                {"id": "natural", "label": "n", "published": {}, "recipe": "digits-ordinary"},
                {"id": "robust", "label": "a", "published": {"dg": 0.06, "drop": 0.8}, "recipe": "digits-robust",
                 "against": "natural"},
                {"id": "alone", "label": "x", "published": {}, "recipe": "digits-ordinary", "overrides": ["seed=5"]},
            ]}],
        }
    },
    "plots": {
        "front": {"title": "Front", "tables": ["1"], "rows": ["natural", "robust"], "x": "gini", "y": "drop"},
        "elsewhere": {"title": "Other rows", "tables": ["1"], "rows": ["alone"], "x": "gini", "y": "drop"},
    },
    "maps": {"both": {"title": "Side by side", "rows": ["natural", "robust"], "boxes": ["gini"]}},
    "scales": {"full": {"summary": "All."}},
}  # fmt: skip


def written(folder: Path, values: Any = PAPER) -> str:
    path = folder / "sparse.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(path)


def with_row(**changes: Any) -> dict[str, Any]:
    paper = json.loads(json.dumps(PAPER))
    paper["tables"]["1"]["sections"][0]["rows"][1] |= changes
    return paper


LABELS = [0, 1, 0, 1]
ANSWERS = {"natural": [0, 1, 0, 1], "robust": [0, 1, 1, 1], "alone": [1, 1, 1, 1]}
GINIS = {"natural": [0.5, 0.6, 0.7, 0.4], "robust": [0.6, 0.8, 0.7, math.nan], "alone": [0.1] * 4}


def record_of(name: str, folder: Path) -> Record:
    """A record of four examples, with the maps of one explainer, whose figures can be told by hand."""
    figure = Figure(value=0.5, low=0.4, high=0.6, n=4)
    concise = MapFigures(
        method="gradient:of=logit", target="predicted", figures=dict.fromkeys(("gini", "entropy", "effective"), figure)
    )
    score = Figure(value=sum(a == b for a, b in zip(ANSWERS[name], LABELS, strict=True)) / 4, low=0, high=1, n=4)
    made = Record(
        advex="0", created="2026-11-20T10:00:00+00:00", command="", seed=0, seconds=1.0, environment={}, settings={},
        searches={"attack": "minimal"},
        measures={
            name: MeasureEntry(title=title, better="high", of="shape", spec=name)
            for name, title in (("gini", "Gini index"), ("entropy", "Entropy"), ("effective", "Effective"))
        } | {"manipulated": MeasureEntry(title="Led", better="high", of="stable", spec="manipulated:wanted=edge")},
        models=[ModelEntry(name=name, source="", scores={"accuracy": score}, maps={"gradient": concise})],
        data=DataEntry(name="d", source="d", examples=4, shape=(1, 2, 2), class_names=("no", "yes"), chance=0.5),
    )  # fmt: skip
    folder.mkdir(parents=True)
    rows = range(4)
    examples = {
        "model": [name] * 4, "example": rows, "id": [f"e{row}" for row in rows], "label": LABELS,
        "prediction": ANSWERS[name], "confidence": [0.9] * 4, "label_confidence": [0.5] * 4,
        "attack_rmse": [0.1] * 4, "attack_reached": [True] * 4, "attack_gradients": [1] * 4,
        "attack_flat": [False] * 4, "attack_valid": [True] * 4,
    }  # fmt: skip
    pictures = pa.array([None] * 4, type=pa.string())
    pq.write_table(
        pa.table({key: list(value) for key, value in examples.items()} | {"picture": pictures}),
        folder / "examples.parquet",
    )
    explained = {
        "model": pa.string(), "example": pa.int64(), "purpose": pa.string(), "explainer": pa.string(),
        "target": pa.int64(), "rho": pa.float64(), "rmse": pa.float64(), "picture": pa.string(),
        "before": pa.list_(pa.float64()), "after": pa.list_(pa.float64()), "prediction": pa.int64(),
        "png_rmse": pa.float64(), "png_after": pa.list_(pa.float64()), "png_prediction": pa.int64(),
    }  # fmt: skip
    pq.write_table(pa.schema(list(explained.items())).empty_table(), folder / "explanations.parquet")
    maps = {
        "model": [name] * 4, "explainer": ["gradient"] * 4, "example": list(rows), "target": ANSWERS[name],
        "method": ["gradient:of=logit"] * 4, "gini": GINIS[name], "entropy": [1.0] * 4, "effective": [2.0] * 4,
        "change": pa.array([None] * 4, type=pa.float64()), "completeness": pa.array([None] * 4, type=pa.float64()),
        "map": pa.array([[1.0, -2.0, 0.0, 0.5]] + [None] * 3, type=pa.list_(pa.float32())),
    }  # fmt: skip
    pq.write_table(pa.table(maps | {"manipulated": [0.5] * 4}), folder / "maps.parquet")
    moved = {
        "model": [name], "explainer": ["gradient"], "example": [0], "measure": ["manipulated"],
        "x": pa.array([[0.0, 1.0, 0.5, 0.5]], type=pa.list_(pa.float32())),
        "map": pa.array([[1.0, 0.0, -2.0, 0.5]], type=pa.list_(pa.float32())),
        "wanted": pa.array([[0.0, 0.0, 1.0, 1.0]], type=pa.list_(pa.float32())),
    }  # fmt: skip
    pq.write_table(pa.table(moved), folder / "moved.parquet")
    write_record(folder, made)
    return made


class Worker(Work):
    """Trains nothing; its records are those of `record_of`."""

    def open(self, job: Job) -> tuple[Dataset, Dataset]:
        x = torch.zeros(2, 1, 2, 2)
        data = Dataset(x=x, y=torch.tensor([0, 1]), ids=("a", "b"), class_names=("no", "yes"), name=job.data)
        return data, data

    def answered(self, job: Job, data: Dataset, folder: Folder) -> Dataset | None:
        raise NotImplementedError  # no row of these papers learns from answers

    def train(self, job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        pass

    def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
        return record_of(job.name, record)


def test_a_row_brings_the_row_that_it_is_set_against(tmp_path: Path) -> None:
    paper = papers.read(written(tmp_path))
    assert papers.chosen(paper, None, ["robust"]) == ["natural", "robust"]
    assert papers.chosen(paper, None, ["alone"]) == ["alone"]
    assert [one.row.id for one in planned(written(tmp_path), rows=["robust"]).rows] == ["natural", "robust"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (with_row(against="natrual"), "row robust is set against 'natrual': did you mean 'natural'"),
        (PAPER | {"maps": {"both": {"title": "t", "rows": ["robst"]}}}, "maps both names the row 'robst'"),
        (
            PAPER | {"plots": {"front": {"title": "t", "tables": ["1"], "rows": ["x"], "x": "gini", "y": "drop"}}},
            "plot front names the row 'x'",
        ),
    ],
)
def test_what_is_named_must_be_there(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        papers.read(written(tmp_path, values))


def test_a_paired_column_needs_a_measure(tmp_path: Path) -> None:
    paper = json.loads(json.dumps(PAPER))
    del paper["tables"]["1"]["columns"]["dg"]["measure"]
    with pytest.raises(SpecError, match="paired columns have a measure"):
        papers.read(written(tmp_path, paper))


def test_differences_are_of_the_same_examples(tmp_path: Path) -> None:
    """dG by hand: (0.1 + 0.2 + 0) / 3, the example without a Gini index counted as such; one of four answers lost."""
    found = carry_out(planned(written(tmp_path)), tmp_path / "out", Worker())
    natural, robust, alone = found.rows
    assert set(natural.measured) == {"gini"} == set(alone.measured)
    assert robust.measured["dg"].value == pytest.approx(0.1)
    assert (robust.measured["dg"].n, robust.measured["dg"].failures) == (3, 1)
    assert robust.measured["dg"].low <= 0.1 <= robust.measured["dg"].high
    assert robust.measured["drop"].value == pytest.approx(25)
    low, high = robust.measured["drop"].low, robust.measured["drop"].high
    assert low <= 0 < 75 <= high  # 1 of 4, drawn again; wider where several shall hold together
    (gain,) = found.differences
    assert (gain.first, gain.second, gain.measure) == ("natural", "robust", "gradient_gini")
    assert gain.figure.value == pytest.approx(-0.1)


def test_a_column_may_be_what_a_distance_leaves_of_a_hundred(tmp_path: Path) -> None:
    """100 - 100 d, the ends of its interval exchanged; of two rows the difference, without the 100."""
    paper = json.loads(json.dumps(PAPER))
    paper["tables"]["1"]["columns"]["gini"] |= {"factor": -100, "offset": 100}
    paper["tables"]["1"]["columns"]["dg"] |= {"factor": -100, "offset": 100}
    natural, robust, _ = carry_out(planned(written(tmp_path, paper)), tmp_path / "out", Worker()).rows
    kept = natural.measured["gini"]
    assert (kept.value, kept.low, kept.high) == pytest.approx((50, 40, 60))
    assert robust.measured["dg"].value == pytest.approx(-10)


def test_a_repetition_may_have_values_of_other_columns(tmp_path: Path) -> None:
    """As in a second table of the same networks. What both have must agree."""
    paper = json.loads(json.dumps(PAPER))
    section = paper["tables"]["1"]["sections"][0]["rows"]
    section.append({"id": "again", "label": "a", "published": {"gini": 0.5, "drop": 0.8}, "same_as": "robust"})
    assert papers.read(written(tmp_path, paper)).rows["again"].published["gini"] == 0.5
    section[-1]["published"]["drop"] = 0.7
    with pytest.raises(SpecError, match="repeats robust, and the published values differ"):
        papers.read(written(tmp_path, paper))


def test_without_the_other_row_nothing_is_claimed(tmp_path: Path) -> None:
    class Stopped(Worker):
        def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
            if job.name == "robust":
                raise KeyboardInterrupt
            return super().evaluate(job, model, data, record)

    with pytest.raises(KeyboardInterrupt):
        carry_out(planned(written(tmp_path)), tmp_path / "out", Stopped())
    found = carry_out(planned(written(tmp_path)), tmp_path / "out", Worker())
    assert {row.state for row in found.rows} == {"measured"}
    assert found.rows[1].measured["dg"].n == 3


def test_a_pair_knows_only_what_both_have(tmp_path: Path) -> None:
    for name in ("natural", "robust"):
        record_of(name, tmp_path / name)
    (tmp_path / "robust" / "maps.parquet").unlink()
    assert Pair(values_of(tmp_path / "robust"), values_of(tmp_path / "natural")).measures == ["accuracy"]


def test_a_pair_has_every_measure_of_the_records(tmp_path: Path) -> None:
    for name in ("natural", "robust"):
        record_of(name, tmp_path / name)
    pair = Pair(values_of(tmp_path / "robust"), values_of(tmp_path / "natural"))
    measured = read_record(tmp_path / "natural").measures
    assert set(pair.measures) == {"accuracy", *(f"gradient_{name}" for name in measured)}
    assert pair.values("gradient_entropy").tolist() == [[1.0] * 4] * 2


def chosen_anew(folder: Path, ids: list[str]) -> None:
    """As if its four examples were others of the data."""
    path = folder / "examples.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("id"), "id", pa.array(ids)), path)


def test_networks_that_were_asked_of_other_pictures_are_paired_by_picture(tmp_path: Path) -> None:
    """e1 of robust, 0.6 in its first place, is set against e1 of natural, 0.6 in its second; e3 against e3."""
    for name in ("natural", "robust"):
        record_of(name, tmp_path / name)
    chosen_anew(tmp_path / "robust", ["e1", "e3", "e8", "e9"])
    pair = Pair(values_of(tmp_path / "robust"), values_of(tmp_path / "natural"))
    assert pair.values("gradient_gini").tolist() == [[0.6, 0.8], [0.6, 0.4]]
    assert pair.values("accuracy").tolist() == [[1, 1], [1, 1]]


def test_networks_without_a_picture_in_common_have_no_difference(tmp_path: Path) -> None:
    class Apart(Worker):
        def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
            made = super().evaluate(job, model, data, record)
            chosen_anew(record, [f"{job.name}{row}" for row in range(4)])
            return made

    found = carry_out(planned(written(tmp_path)), tmp_path / "out", Apart())
    assert {row.state for row in found.rows} == {"measured"}
    for key in ("dg", "drop"):
        figure = found.rows[1].measured[key]
        assert (math.isnan(figure.value), figure.n) == (True, 0)
    assert "robust" in write_report(tmp_path / "out").read_text()


def test_the_page_and_the_figures_show_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = carry_out(planned(written(tmp_path)), out, Worker())
    assert [plot.id for plot in found.plots] == ["front", "elsewhere"]
    names = {path.name for path in write_figures(out, found)}
    assert {"gains.svg", "maps-both.png", "boxes-both-gini.svg", "manipulated-both.png"} <= names
    boxes = (out / "figures/boxes-both-gini.svg").read_text()
    for words in ("Gini index, example by example", "natural, gradient", "robust, gradient", "0.55", "0.7"):
        assert words in boxes  # means of 0.5, 0.6, 0.7, 0.4, and of 0.6, 0.8, 0.7
    page = write_report(out).read_text()
    for words in ("Side by side", 'data-boxes="gradient"', "Gini index minus that of natural", "0.100"):
        assert words in page
    only = carry_out(planned(written(tmp_path), rows=["robust"]), tmp_path / "two", Worker())
    assert [plot.id for plot in only.plots] == ["front"]


# -- Chalasani et al. 2020 ---------------------------------------------------------------------------------------------

# Table 1, as printed: (row, dG by IG, dG by DeepSHAP, drop of accuracy in points).
TABLE_1 = [
    ("mnist-a-0.3", 0.06, 0.06, 0.8), ("mnist-l-0.01", 0.004, 0.007, 0.4),
    ("fashion-a-0.1", 0.06, 0.08, 4.7), ("fashion-l-0.01", 0.008, 0.003, 3.4),
    ("cifar10-a-1", 0.081, None, 0.57), ("cifar10-l-1e-5", 0.022, None, 1.51),
    ("mushroom-a-0.1", 0.06, None, 2.5), ("mushroom-l-0.02", 0.06, None, 2.6),
    ("spambase-a-0.1", 0.17, None, 0.9), ("spambase-l-0.02", 0.15, None, 0.1),
]  # fmt: skip


# Points of Fig. 3, as the authors' plotting script has them: accuracy (here in %) and Gini index.
# The 22 points on pictures that the authors' plotting script draws: accuracy in percent, Gini index.
FIG_3 = {
    "mnist-a-0.1": (99.47, 0.9148), "mnist-a-0.2": (98.91, 0.9443), "mnist-a-0.3": (98.15, 0.9695),
    "mnist-l-0.0001": (99.22, 0.9088), "mnist-l-0.001": (98.92, 0.9099), "mnist-l-0.01": (98.66, 0.9126),
    "mnist-l-0.1": (96.72, 0.9121), "mnist-l-0.3": (94.13, 0.9143), "mnist-l-0.5": (92.90, 0.9184),
    "mnist-l-1": (88.22, 0.9148),
    "fashion-a-first": (90.06, 0.8035), "fashion-a-0.1": (86.20, 0.8064), "fashion-a-third": (84.04, 0.8451),
    "fashion-a-fourth": (81.59, 0.9078), "fashion-a-fifth": (73.28, 0.9417),
    "fashion-l-first": (90.70, 0.7483), "fashion-l-second": (90.79, 0.7498), "fashion-l-0.01": (87.51, 0.7563),
    "fashion-l-fourth": (80.91, 0.7866), "fashion-l-fifth": (75.77, 0.7876), "fashion-l-sixth": (74.81, 0.7874),
    "fashion-l-seventh": (72.20, 0.7969),
}  # fmt: skip


def test_the_table_of_chalasani2020_is_whole() -> None:
    paper = papers.read("chalasani2020")
    points = {name: row.published for name, row in paper.rows.items() if row.published.keys() & {"accuracy", "gini"}}
    assert {name: (row["accuracy"], row["gini"]) for name, row in points.items()} == FIG_3
    assert len(FIG_3) == 22
    assert FIG_3.keys() <= {name for plot in ("fig3-mnist", "fig3-fashion-mnist") for name in paper.plots[plot].rows}
    keys = ("dg_ig", "dg_shap", "drop")
    for name, *printed in TABLE_1:
        row = paper.rows[name]
        assert [row.published.get(key) for key in keys] == printed, name
        assert row.against is not None
        assert row.against.endswith("natural")
    assert {name for name, row in paper.rows.items() if "drop" in row.published} == {name for name, *_ in TABLE_1}


def test_the_pictures_of_chalasani2020_are_trained_as_by_the_authors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """L1 is over all that is trained, L2 over weights alone. No number of test pictures is said to be the paper's."""
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)
    names = ["mnist-l-0.01", "cifar10-l-1e-5", "cifar10-a-1"]
    plan = planned("chalasani2020", rows=names, scale="full", available=lambda source: None)
    trained = {job.name: job.recipe for job in plan.jobs}
    l1 = {name: recipe.objective["l1"] for name, recipe in trained.items() if "l1" in recipe.objective}
    assert l1 == {
        "mnist-l-0.01": {"strength": 0.01 / 50, "all_parameters": True},
        "cifar10-l-1e-5": {"strength": 1e-5, "all_parameters": True},
    }
    assert {(one.weight_decay, one.decay, one.pad) for name, one in trained.items() if name.startswith("cifar10")} == {
        (2e-4, "weights", 2)
    }
    assert {one.changes for one in plan.rows} == {("1,000 test images",)}


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
def test_every_row_of_chalasani2020_can_be_planned(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_check", lambda recipe: None)  # building the networks takes long, and has its tests
    plan = planned("chalasani2020", rows=["all"], scale=scale, available=lambda source: None)
    without = {each.row.id for each in plan.rows if each.job is None}
    assert without == {name for name, row in papers.read("chalasani2020").rows.items() if row.needs}
    assert len({job.recipe.model_dump_json() + job.data for job in plan.jobs}) == len(plan.jobs) or scale == "smoke"


# -- rows of explainers ----------------------------------------------------------------------------------------------


EDGES = [0.3, 0.3, 0.9, 0.5]


class TwoExplainers(Worker):
    """The maps of a second explainer, `edge`, beside those of the gradient."""

    def evaluate(self, job: Job, model: str, data: Dataset, record: Path) -> Record:
        made = record_of(job.name, record)
        table = pq.read_table(record / "maps.parquet")
        edge = table.set_column(1, "explainer", pa.array(["edge"] * 4)).set_column(
            table.column_names.index("gini"), "gini", pa.array(EDGES)
        )
        pq.write_table(pa.concat_tables([table, edge]), record / "maps.parquet")
        maps = made.models[0].maps
        figures = {"gini": Figure(value=0.5, low=0.3, high=0.7, n=4)}
        edges = maps["gradient"].model_copy(update={"figures": figures})
        alone = made.models[0].model_copy(update={"maps": {**maps, "edge": edges}})
        made = made.model_copy(update={"models": [alone]})
        write_record(record, made)
        return made


def of_explainers(**changes: Any) -> dict[str, Any]:
    paper = json.loads(json.dumps(PAPER))
    paper["maps"], paper["plots"] = {}, {}
    paper["tables"]["2"] = {
        "title": "Explainers", "data": "digits",
        "columns": {
            "gini": {"title": "Gini", "digits": 2, "measure": "{}_gini"},
            "more": {"title": "More", "digits": 2, "measure": "{}_gini", "paired": True},
            "accuracy": {"title": "Accuracy", "digits": 2, "measure": "accuracy"},
        },
        "sections": [{"rows": [
            {"id": "by-gradient", "label": "g", "published": {"gini": 0.4}, "same_as": "natural",
             "explainer": "gradient", "against": "by-edge"},
            {"id": "by-edge", "label": "e", "published": {}, "same_as": "natural", "explainer": "edge"} | changes,
            {"id": "plain", "label": "p", "published": {}, "same_as": "natural"},
        ]}],
    }  # fmt: skip
    return paper


def test_rows_of_explainers_are_of_one_network_and_compared_example_by_example(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, of_explainers()), table="2", rows=["by-gradient", "plain"])
    assert [each.row.id for each in plan.rows] == ["by-gradient", "by-edge", "plain"]
    assert [job.name for job in plan.jobs] == ["natural"]
    outcome = carry_out(plan, tmp_path / "out", TwoExplainers())
    rows = {row.id: row.measured for row in outcome.tables[-1].rows}
    assert rows["by-gradient"]["gini"].value == rows["by-edge"]["gini"].value == 0.5
    assert rows["by-gradient"]["gini"].high == 0.6  # by their own figures
    assert rows["by-edge"]["gini"].high == 0.7
    more = [mine - theirs for mine, theirs in zip(GINIS["natural"], EDGES, strict=True)]
    assert rows["by-gradient"]["more"].value == pytest.approx(sum(more) / 4)
    assert rows["by-gradient"]["more"].low <= rows["by-gradient"]["more"].value <= rows["by-gradient"]["more"].high
    assert "more" not in rows["by-edge"]
    assert rows["plain"].keys() == {"accuracy"}  # columns of explainers are none of a network's row


def test_an_explainer_needs_the_network_of_another_row(tmp_path: Path) -> None:
    changed = of_explainers(same_as=None, recipe="digits-ordinary")
    with pytest.raises(SpecError, match="an explainer needs the network of another row"):
        papers.read(written(tmp_path, changed))
