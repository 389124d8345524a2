"""The report of planted records: every figure and cell is there, coordinates are right, nothing is let in or out."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import strategies as st
from jinja2 import UndefinedError
from PIL import Image

from advex import measures
from advex.drawing.accuracy_curve import area, axis_top, line, steps
from advex.drawing.axes import fitting, linear, logarithmic, shares
from advex.drawing.pictures import colour_map, common_scale, read_picture, show_change
from advex.drawing.plot import Frame
from advex.errors import ArtifactError
from advex.record import (
    CertificateFigures,
    DataEntry,
    Difference,
    Figure,
    Flag,
    MapFigures,
    MeasureEntry,
    ModelEntry,
    Record,
    Training,
    read_record,
    read_run,
    write_record,
)
from advex.record.repeats import without_repeats
from advex.record.run import EPOCHS
from advex.report import maps_compared, write_report
from advex.report.cells import turned
from advex.report.grids import grids
from advex.report.pages.page import render, render_runs
from advex.report.reading import TrainingHistory, read, read_runs
from advex.report.sections.certified import Certified
from advex.report.sections.curves import panels
from advex.report.sections.findings import findings
from advex.report.sections.training import flags, overfitting, sentence
from advex.report.templates import style
from advex.report.training_curves import FRAME, curve_panels, shared_axes

RHOS = (0.0, 0.025, 0.05, 0.1, 0.2)
HOSTILE = '</style><script>alert(1)</script>"><img src=x onerror=alert(1)>'


# -- records with planted figures --------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Plan:
    """What a planted record holds. hard: how many times the change of the first model each model bears."""

    models: tuple[str, ...] = ("ordinary", "robust")
    hard: tuple[float, ...] = (1.0, 6.0, 4.0, 2.0)
    classes: int = 10
    class_names: tuple[str, ...] = ()
    examples: int = 60
    shape: tuple[int, int, int] = (8, 8, 1)
    images: np.ndarray | None = None  # [examples, *shape] uint8
    labels: np.ndarray | None = None
    explained: int = 2
    swept: int = 1
    published: bool = False
    failing: float = 0.0  # share of the searches that fail, for the last model
    pictures: bool = True
    rho: float = 0.1
    certified: int = 0  # examples with certified radii: every other one, half of the attack's
    changes: dict[str, Any] = field(default_factory=dict)  # of fields of the Record

    @property
    def names(self) -> tuple[str, ...]:
        return self.class_names or tuple(str(c) for c in range(self.classes))


def make_record(folder: Path, plan: Plan | None = None) -> Path:
    """Write a record folder as an evaluation does, with planted radii and pictures."""
    plan = plan or Plan()
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = rng.integers(40, 216, (plan.examples, *plan.shape), dtype=np.uint8) if plan.images is None else plan.images
    labels = np.arange(plan.examples) % plan.classes if plan.labels is None else plan.labels
    searches = ["attack", "btr", *(["attack_published", "btr_published"] if plan.published else [])]
    rows, radii = [], {}
    for place, model in enumerate(plan.models):
        right = rng.random(plan.examples) > 0.04
        prediction = np.where(right, labels, (labels + 1) % plan.classes)
        confidence = rng.uniform(0.5, 0.9999, plan.examples)
        for search in searches:
            size = plan.hard[place] * 0.008 * rng.lognormal(0, 0.5, plan.examples) * (3 if "btr" in search else 1)
            size[~right & np.array("attack" in search)] = 0.0
            size[rng.random(plan.examples) < plan.failing * (place == len(plan.models) - 1)] = np.inf
            radii[model, search] = size
        for i in range(plan.examples):
            row = {
                "model": model, "example": i, "id": f"test/{i:05d}.png", "label": int(labels[i]),
                "prediction": int(prediction[i]), "confidence": confidence[i],
                "label_confidence": confidence[i] if right[i] else 0.1,
                "picture": f"pictures/{i}.png" if plan.pictures and i < plan.explained else None,
            }  # fmt: skip
            for search in searches:
                size = float(radii[model, search][i])
                found = bool(np.isfinite(size))
                row |= {f"{search}_rmse": size, f"{search}_reached": found, f"{search}_gradients": 40 + i % 7}
                row |= {f"{search}_flat": False, f"{search}_valid": found}
            if plan.certified:
                found = i % 2 == 0 and i // 2 < plan.certified
                size = min(float(radii[model, "attack"][i]), 1.0) / 2
                row |= {
                    "certify_rmse": size if found else None,
                    "certify_prediction": int(labels[i]) if found else None,
                }
            rows.append(row)
    for i in range(plan.explained if plan.pictures else 0):
        _save(folder / f"pictures/{i}.png", images[i])
    _parquet(folder / "examples.parquet", rows)
    explanations = _explanations(folder, plan, images, labels, rng)
    if explanations:
        _parquet(folder / "explanations.parquet", explanations)
    write_record(folder, _record(plan, rows, radii, searches))
    return folder


def _record(plan: Plan, rows: list[dict], radii: dict, searches: list[str]) -> Record:
    chance = 1 / plan.classes
    right = {
        model: torch.tensor([row["prediction"] == row["label"] for row in rows if row["model"] == model])
        for model in plan.models
    }
    area = {key: torch.tensor(values) for key, values in radii.items()}
    models = []
    for place, model in enumerate(plan.models):
        all_right = torch.ones(plan.examples, dtype=torch.long)
        scores = {"accuracy": _figure(measures.accuracy(right[model].long(), all_right))}
        for search in searches:
            goal, _, published = search.partition("_")
            key = f"{goal}_ara_{published}" if published else f"{goal}_ara"
            score = measures.accuracy_robustness_area(area[model, search], chance, published=bool(published))
            scores[key] = _figure(score)
            scores[f"{search}_gradients"] = Figure(value=42.9, low=42.4, high=43.4, n=plan.examples, better="neither")
        certified, more = _certified(rows, model, chance) if plan.certified else (None, {})
        scores |= more
        reached = {
            f"{purpose}_toward": Figure(value=0.5 + 0.1 * place, low=0.4, high=0.8, n=plan.explained * plan.classes)
            for purpose, shown in (("grid", plan.explained), ("sweep", plan.swept))
            if shown
        }
        models.append(
            ModelEntry(
                name=model, source=f"runs/{model}", spec="cnn:widths=16-32,activation=half_huber", parameters=23_946,
                scores=scores, rho_reached=reached, certified=certified,
            )
        )  # fmt: skip
    differences = []
    for i, first in enumerate(plan.models):
        for second in plan.models[i + 1 :]:
            value, low, high = measures.bootstrap_mean(right[first].double() - right[second].double())
            figure = Figure(value=value, low=low, high=high, n=plan.examples)
            differences.append(Difference(first=first, second=second, measure="accuracy", figure=figure))
            for search in ("attack", "btr"):
                figure = _figure(measures.compare_areas(area[first, search], area[second, search], chance))
                differences.append(Difference(first=first, second=second, measure=f"{search}_ara", figure=figure))
    tight, protocol = "minimal:gradients=100", "algorithm1:steps=450,published=true"
    fields: dict[str, Any] = {
        "advex": "0.1.0",
        "created": "2026-11-20T09:57:03+00:00",
        "command": "advex evaluate --model " + ",".join(f"runs/{model}" for model in plan.models) + " --out records/a",
        "seed": 7,
        "seconds": 192.4,
        "environment": {"python": "3.11.7", "torch": "2.13.0", "platform": "Linux", "threads": "2"},
        "settings": {"rho": plan.rho, "explanations": plan.explained, "sweep_rhos": list(RHOS), "away": True},
        "data": DataEntry(
            name="digits", source="digits", examples=plan.examples, shape=(plan.shape[2], *plan.shape[:2]),
            class_names=plan.names, chance=chance,
        ),
        "lowers": ["away"],
        "searches": {name: protocol if "published" in name else tight for name in searches},
        "models": models,
        "differences": differences,
    }  # fmt: skip
    return Record(**(fields | plan.changes))


def _certified(rows: list[dict], model: str, chance: float) -> tuple[CertificateFigures, dict[str, Figure]]:
    held = [row for row in rows if row["model"] == model and row["certify_rmse"] is not None]
    certain, attacked = (torch.tensor([row[name] for row in held]) for name in ("certify_rmse", "attack_rmse"))
    right = torch.tensor([row["prediction"] == row["label"] for row in held]).long()
    entry = CertificateFigures(
        sigma=0.25, selection=100, samples=1000, alpha=0.001, largest=0.077, examples=len(held),
        accuracy=_figure(measures.accuracy(right, torch.ones_like(right))),
        attack_ara=_figure(measures.accuracy_robustness_area(attacked, chance)),
        gap=_figure(measures.compare_areas(attacked, certain, chance)).model_copy(update={"better": "low"}),
        abstained=3, crossed=2, overclaimed=1, least_ara=0.0021,
    )  # fmt: skip
    scores = {
        "certified_accuracy": _figure(measures.accuracy((certain > 0).long(), torch.ones_like(right))),
        "certified_ara": _figure(measures.accuracy_robustness_area(certain, chance)),
    }
    return entry, scores


def _figure(score) -> Figure:
    return Figure(
        value=score.value, low=score.low, high=score.high, n=score.n, failures=score.failures, better=score.better
    )


def _explanations(folder: Path, plan: Plan, images: np.ndarray, labels: np.ndarray, rng) -> list[dict]:
    """Towards every class as the mean image of it (from the first model as noise), away from the label, and a sweep."""
    of_class = [images[labels == c] if (labels == c).any() else images[:1] for c in range(plan.classes)]
    means = np.stack([members.mean(axis=0) for members in of_class])
    rows = []
    for place, model in enumerate(plan.models):
        for i in range(plan.explained):
            asked = [("grid", "toward", target, plan.rho) for target in range(plan.classes)]
            asked += [("grid", "away", int(labels[i]), plan.rho)]
            if i < plan.swept:
                asked += [("sweep", "toward", target, rho) for target in (1, 2) for rho in RHOS]
            for purpose, explainer, target, rho in asked:
                way = means[target] - images[i] if explainer == "toward" else images.mean(axis=0) - images[i]
                way = way + (1e-9 + 255 * rng.normal(size=way.shape)) * (1.0 if place == 0 else 0.12)
                delta = 255 * rho * way / max(np.sqrt(np.square(way).mean()), 1e-9)
                name = f"pictures/{i}.{place}.{purpose}.{explainer}.{target}.{rho:g}.png"
                if plan.pictures:
                    _save(folder / name, np.clip(np.round(images[i] + delta), 0, 255).astype(np.uint8))
                before = rng.dirichlet(np.full(plan.classes, 0.3))
                share = min(0.02 + rho * 9, 0.9984) if explainer == "toward" else 0.04
                after = np.full(plan.classes, (1 - share) / (plan.classes - 1))
                after[target] = share
                png_after = after * 0.98
                turned = purpose == "grid" and place == 0 and target == 3 and explainer == "toward"
                rows.append({
                    "model": model, "example": i, "purpose": purpose, "explainer": explainer, "target": target,
                    "rho": rho, "rmse": rho, "picture": name if plan.pictures else None,
                    "before": before.tolist(), "after": after.tolist(), "prediction": int(after.argmax()),
                    "png_rmse": rho if plan.pictures else None,
                    "png_after": png_after.tolist() if plan.pictures else None,
                    "png_prediction": (5 % plan.classes if turned else int(after.argmax())) if plan.pictures else None,
                })  # fmt: skip
    return rows


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
    path.write_bytes(file.getvalue())


def _parquet(path: Path, rows: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Two models, two explained digits-like pictures of ten classes, one sweep."""
    return make_record(tmp_path / "record")


# -- the page, read as a browser reads it ------------------------------------------------------------------------------


class Node:
    """An element: its tag, attributes, children and text."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        """All text inside, white space collapsed, elements apart."""
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return re.sub(r"[ \t\r\n]+", " ", " ".join(parts)).strip()  # a narrow space is not white space

    def all(self, tag: str = "", **attributes: str) -> list[Node]:
        """Elements below with that tag and those attributes (data_model means data-model), in order."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if tag in ("", child.tag) and all(child.attributes.get(k) == v for k, v in wanted.items()):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> Node:
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} elements {tag} {attributes}"
        return found[0]


class Tree(HTMLParser):
    """Builds nodes, and checks that what is opened is closed."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root], f"left open: {[node.tag for node in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def page(folder: Path, **options: Any) -> Node:
    """The report of a record as a tree. No class of a cell, by itself, makes something else of it than a cell."""
    root = Tree(render(read(folder, **options))).root
    displayed = set(re.findall(r"^\.([\w-]+) \{[^}]*\bdisplay:", style(), re.MULTILINE))
    for cell in (*root.all("td"), *root.all("th")):
        assert not displayed & set(cell.attributes.get("class", "").split())
    return root


def numbers_in(text: str) -> list[float]:
    """The numbers of a text, as written by the report."""
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def agrees(shown: str, figure: Figure, factor: float = 1.0) -> None:
    """The text holds value, low and high of the figure, as precisely as it is written."""
    values = numbers_in(shown)[:3]
    step = 10.0 ** -len(re.findall(r"\d+\.(\d+)", shown)[0])
    expected = [factor * value for value in (figure.value, figure.low, figure.high)]
    assert values == pytest.approx(expected, abs=0.5001 * step), shown


# -- figures -----------------------------------------------------------------------------------------------------------


def test_every_figure_of_the_record_appears_with_its_interval(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(models=("a", "b", "c"), published=True))
    record, root = read_record(folder), page(folder)
    for model in record.models:
        for key, figure in model.scores.items():
            shown = root.one("td", data_model=model.name, data_measure=key)
            agrees(shown.text, figure, 100 if key == "accuracy" else 1)
        for key, figure in model.rho_reached.items():
            agrees(root.one("td", data_model=model.name, data_reached=key).text, figure, 100)
    for difference in record.differences:  # a triangle: the later model minus the earlier one
        later, sooner = difference.second, difference.first
        shown = root.one("td", data_difference=difference.measure, data_first=later, data_second=sooner)
        agrees(shown.text, turned(difference).figure, 100 if difference.measure == "accuracy" else 1)
        left_out = difference.figure.low > 0 or difference.figure.high < 0
        assert ("significant" in shown.attributes["class"].split()) == left_out


def test_the_headline_repeats_the_figures_and_says_what_each_means(record: Path) -> None:
    root = page(record)
    for key in ("accuracy", "attack_ara", "btr_ara"):
        for model in ("ordinary", "robust"):
            cell = root.one("td", data_model=model, data_headline=key)
            assert cell.text == root.one("td", data_model=model, data_measure=key).text
    headings = [node.text for node in root.one("table", class_="figures headline").all("th", class_="number")]
    assert headings == [
        "Accuracy share of the unchanged inputs that it classifies correctly",
        "Attack ARA how much change it withstands before its decision changes, on average",
        "BTR ARA how much change it withstands before its confidence falls below chance, on average",
    ]


def test_of_two_classes_the_area_below_chance_is_not_said_twice(tmp_path: Path) -> None:
    """Half a confidence of two classes is where the decision changes."""
    folder = make_record(tmp_path, Plan(classes=2, explained=0, swept=0))
    values = json.loads((folder / "record.json").read_text())
    for spec, shown in ((values["searches"]["attack"], False), ("minimal:gradients=7", True)):
        values["searches"]["btr"] = spec
        (folder / "record.json").write_text(json.dumps(values))
        root = page(folder)
        assert not root.all("td", data_headline="btr_ara")
        assert "confidence falls below chance" not in root.one("section", id="findings").text
        assert bool(root.all("td", data_measure="btr_ara")) is shown
        assert ("BTR" in root.text) is shown
    record = read_record(folder)
    size = len(record.differences)
    counted = [each.model_copy(update={"comparisons": size}) for each in record.differences]
    of_maps = counted[0].model_copy(update={"measure": "gradient_gini"})
    counted += [of_maps, counted[0].model_copy(update={"comparisons": 1})]  # another family; and an undefined one
    searches = {**record.searches, "btr": record.searches["attack"]}
    kept = without_repeats(record.model_copy(update={"searches": searches, "differences": counted})).differences
    assert [each.measure for each in kept] == [name for each in counted if "btr" not in (name := each.measure)]
    left = sum("btr" not in each.measure for each in record.differences)
    assert 1 < left < size
    assert [each.comparisons for each in kept] == [*[left] * left, size, 1]


def test_of_two_classes_no_flag_is_about_a_search_that_is_not_shown(tmp_path: Path) -> None:
    record = read_record(make_record(tmp_path, Plan(classes=2, explained=0, swept=0)))
    flags = [
        Flag(model="a", code="search_failed", severity="warning", message=message, remedy="Look.")
        for message in ("btr_ara is infinite", "The search 'btr' found nothing.", "The search 'attack' found nothing.")
    ]
    searches = {**record.searches, "btr": record.searches["attack"]}
    kept = without_repeats(record.model_copy(update={"searches": searches, "flags": flags}))
    assert kept.flags == flags[2:]


def test_the_page_begins_with_one_picture_of_the_worst_and_the_best_model(tmp_path: Path) -> None:
    """The first explained example that both decide rightly, towards the class that the best holds likeliest."""
    folder = make_record(tmp_path, Plan(models=("a", "b", "c"), explained=4))
    record, rows = read_record(folder), pq.read_table(folder / "examples.parquet").to_pylist()
    areas = {model.name: model.scores["attack_ara"].value for model in record.models}
    worst, best = min(areas, key=lambda name: areas[name]), max(areas, key=lambda name: areas[name])
    right = {(row["model"], row["example"]) for row in rows if row["prediction"] == row["label"]}
    example = next(i for i in range(4) if {(worst, i), (best, i)} <= right)
    label = next(row["label"] for row in rows if row["example"] == example)
    held = {
        row["target"]: row["before"][row["target"]]
        for row in pq.read_table(folder / "explanations.parquet").to_pylist()
        if row["model"] == best and row["example"] == example and row["purpose"] == "grid" and row["target"] != label
    }
    target = max(held, key=lambda each: held[each])
    shown = page(folder).one("div", class_="seen")
    assert [node.text for node in shown.all("span", class_="name")] == [worst, best]
    assert [node.text for node in shown.all("span", class_="class")] == [str(label), str(target)]
    assert len(shown.all("img")) == 5  # the input, and of each model the picture and the change
    assert shown.one("td", class_="input").text.split().count("says") == 2, "of the input, what each model says"


def test_without_explanations_the_page_begins_with_its_sentences(tmp_path: Path) -> None:
    assert not page(make_record(tmp_path, Plan(explained=0, swept=0))).all("div", class_="seen")


def test_published_figures_stand_apart_and_searches_are_named_once_at_the_end(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(published=True)))
    tight, published = root.one("section", id="figures").all("table", class_="figures")[:2]
    assert not tight.all("span", class_="protocol")
    assert [node.text for node in published.all("span", class_="protocol")] == ["published protocol"] * 2
    assert published.all("td", data_measure="btr_ara_published")
    assert not tight.all("td", data_measure="btr_ara_published")
    for search in ("minimal:gradients=100", "algorithm1:steps=450,published=true"):
        assert search in root.one("section", id="made").text
        assert not any(
            search in section.text for section in root.all("section") if section.attributes.get("id") != "made"
        )


def test_counts_come_from_the_examples(record: Path) -> None:
    """Median RMSE of what is classified correctly, failures and their number: recomputed from the rows."""
    rows = [row for row in pq.read_table(record / "examples.parquet").to_pylist() if row["model"] == "robust"]
    right = [row["attack_rmse"] for row in rows if row["prediction"] == row["label"]]
    root = page(record)
    shown = root.one("td", data_model="robust", data_measure="attack:median").text
    assert numbers_in(shown) == pytest.approx([float(np.median(right))], abs=5e-5)
    assert root.all("td", data_model="robust", data_measure="attack:failed")[0].text == "0 of 60"


def test_infinite_and_undefined_figures_are_said_in_words(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(failing=1.0))
    record = read_record(folder)
    assert math.isinf(record.models[1].scores["attack_ara"].value)
    record.models[0].scores["attack_ara"] = Figure(value=math.nan, low=math.nan, high=math.nan, n=0)
    del record.models[0].scores["btr_ara"]
    write_record(folder, record)
    root = page(folder)
    assert root.one("td", data_model="robust", data_measure="attack_ara").text.startswith("infinite")
    assert "100\u202f% not found" in root.one("td", data_model="robust", data_measure="attack_ara").text
    assert root.one("td", data_model="ordinary", data_measure="attack_ara").text == "– no examples"
    assert root.one("td", data_model="ordinary", data_measure="btr_ara").text == "– not measured"
    assert "The attack ARA of robust is infinite" in root.one("section", id="findings").text
    spelled = "ARA (accuracy-robustness area) is the area between a model's accuracy curve and chance"
    assert spelled in root.one("section", id="findings").text
    assert not re.search(r"\b(nan|inf)\b", root.one("section", id="figures").text)


def test_all_figures_can_be_saved_from_the_page(record: Path) -> None:
    files = {
        node.attributes["download"]: base64.b64decode(node.attributes["href"].partition("base64,")[2]).decode()
        for node in page(record).all("a")
        if "download" in node.attributes
    }
    assert Record.model_validate_json(files["figures.json"]) == read_record(record)
    assert json.loads(page(record).one("pre", class_="json").text) == json.loads(files["figures.json"])
    table = list(csv.DictReader(io.StringIO(files["figures.csv"])))
    ara = next(row for row in table if (row["model"], row["measure"]) == ("robust", "attack_ara"))
    assert float(ara["value"]) == read_record(record).models[1].scores["attack_ara"].value
    rows = pq.read_table(record / "explanations.parquet").to_pylist()
    saved = list(csv.DictReader(io.StringIO(files["explanations.csv"])))
    assert [float(row["after"]) for row in saved] == [row["after"][row["target"]] for row in rows]


def plain(sentence: str) -> str:
    """A sentence without its marks."""
    return unescape(re.sub(r"<[^>]+>", "", sentence))


# -- findings ----------------------------------------------------------------------------------------------------------


def sentences(folder: Path) -> list[str]:
    """The findings as plain text."""
    return [plain(sentence) for sentence in findings(read(folder))]


def planted(folder: Path, first: Figure, second: Figure, difference: Figure) -> list[str]:
    """Findings on two attack ARAs and their paired difference."""
    record = read_record(make_record(folder))
    record.models[0].scores, record.models[1].scores = {"attack_ara": first}, {"attack_ara": second}
    pair = Difference(first="ordinary", second="robust", measure="attack_ara", figure=difference)
    write_record(folder, record.model_copy(update={"differences": [pair]}))
    return sentences(folder)


def ara(value: float, low: float, high: float) -> Figure:
    """A robustness area of 60 examples."""
    return Figure(value=value, low=low, high=high, n=60)


def test_a_separated_difference_is_told_as_a_ratio(tmp_path: Path) -> None:
    told = planted(tmp_path, ara(0.0072, 0.0065, 0.008), ara(0.0457, 0.042, 0.0493), ara(-0.0385, -0.042, -0.035))
    assert told[0] == "robust withstands changes 6.3 times larger than ordinary before its decision changes."


def test_a_difference_that_includes_zero_is_not_claimed(tmp_path: Path) -> None:
    told = planted(tmp_path, ara(0.040, 0.036, 0.045), ara(0.042, 0.037, 0.046), ara(-0.002, -0.005, 0.001))
    assert told[0] == (
        "robust does not differ significantly from ordinary by attack ARA (the paired difference "
        "0.0020 [−0.0010, 0.0050] includes zero)."
    )
    assert "times" not in told[0]


def test_nothing_is_claimed_beyond_what_is_known(tmp_path: Path) -> None:
    none = ara(0.0, 0.0, 0.0)
    told = planted(tmp_path / "a", none, ara(0.04, 0.03, 0.05), ara(-0.04, -0.05, -0.03))[0]
    assert told == "robust withstands some change before its decision changes, and ordinary none."
    infinite = Figure(value=math.inf, low=math.inf, high=math.inf, n=60, failures=30)
    told = planted(tmp_path / "b", none, infinite, ara(-math.inf, -math.inf, -math.inf))
    assert told[0].startswith("The attack ARA of robust is infinite: the search failed on 50\u202f% of the examples")
    assert not any("times" in sentence for sentence in told)


def test_models_in_between_are_told_apart_only_where_they_differ(tmp_path: Path) -> None:
    """Three models: each beside the least, and the pair of the others that no interval separates."""
    record = read_record(make_record(tmp_path, Plan(models=("a", "b", "c"))))
    areas = {"a": ara(0.01, 0.009, 0.011), "b": ara(0.04, 0.03, 0.05), "c": ara(0.05, 0.04, 0.06)}
    for model in record.models:
        model.scores = {"attack_ara": areas[model.name]}
    pairs = {("a", "b"): (-0.03, -0.04, -0.02), ("a", "c"): (-0.04, -0.05, -0.03), ("b", "c"): (-0.01, -0.02, 0.001)}
    differences = [Difference(first=f, second=s, measure="attack_ara", figure=ara(*v)) for (f, s), v in pairs.items()]
    write_record(tmp_path, record.model_copy(update={"differences": differences}))
    assert sentences(tmp_path)[:3] == [
        "c withstands changes 5.0 times larger than a before its decision changes.",
        "b withstands changes 4.0 times larger than a before its decision changes.",
        "No significant difference of attack ARA between c and b.",
    ]


def test_saved_pictures_that_change_class_are_counted(record: Path) -> None:
    # Of 2 models, 2 examples, 11 targets and a sweep of 2 targets and 5 rhos: one turned for each example of the first.
    assert sentences(record)[-1].startswith("2 of 64 explanation pictures are classified differently")


# -- curves ------------------------------------------------------------------------------------------------------------


def test_curve_coordinates_by_hand() -> None:
    """A frame of 100 x 100 units: x = 10 + 100 r / top, y = 110 - 100 A."""
    frame = Frame(width=110, height=120, left=10, right=0, top=10, bottom=10)
    radii = np.array([0.0, 0.2, 0.1, 0.1])
    edges, share = steps(radii)
    assert (edges.tolist(), share.tolist()) == ([0.0, 0.1, 0.2], [0.75, 0.25, 0.0])
    assert line(radii, 0.25, frame) == "M10 35 L50 35 L50 85 L90 85 L90 110 L110 110"
    # Above chance 0.1 until the step at 0.2 takes the curve below it.
    assert area(radii, 0.25, 0.1, frame) == "M10 100 L10 35 L50 35 L50 85 L90 85 L90 100 Z"
    # Above chance 0.5 only before the first step.
    assert area(radii, 0.25, 0.5, frame) == "M10 60 L10 35 L50 35 L50 60 Z"
    assert area(radii, 0.25, 0.8, frame) == ""
    # The axis may end before the curve does: the line stops there, at the height it has.
    assert line(radii, 0.15, frame) == "M10 35 L76.67 35 L76.67 85 L110 85"


def test_the_shaded_area_is_the_robustness_area() -> None:
    """Area of the drawn polygon, in units of the axes, against the measure."""
    rng = np.random.default_rng(1)
    radii = np.concatenate([np.zeros(5), rng.gamma(2.0, 0.02, 60), [math.inf] * 3])
    frame = Frame(width=1000, height=1000, left=0, right=0, top=0, bottom=0)
    top = float(radii[np.isfinite(radii)].max())
    corners = np.array([[float(v) for v in pair.split()] for pair in area(radii, top, 0.1, frame)[1:-2].split(" L")])
    x, y = corners.T / 1000
    drawn = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) * top
    exact = measures.accuracy_robustness_area(torch.tensor(radii), 0.1).value
    assert drawn == pytest.approx(exact, rel=2e-3)  # corners are rounded to a hundredth, close ones joined


def test_the_axis_ends_at_the_98th_percentile_of_all_models_and_says_so(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(failing=0.2))
    contents = read(folder)
    panel = next(panel for panel in panels(contents) if panel.search == "attack")
    both = [contents.radii(model, "attack") for model in ("ordinary", "robust")]
    found = np.concatenate([radii[np.isfinite(radii) & (radii > 0)] for radii in both if radii is not None])
    assert panel.backdrop.top == axis_top([radii for radii in both if radii is not None]) == np.percentile(found, 98)
    assert panel.beyond == (found > panel.backdrop.top).sum() > 0
    text = page(folder).one("figure", data_search="attack").text
    assert f"{panel.beyond} examples lie beyond" in text
    assert "of the searches found nothing" in text


def test_both_panels_share_the_scale_of_shares_and_draw_every_model(record: Path) -> None:
    root = page(record)
    places = []
    for search in ("attack", "btr"):
        svg = root.one("figure", data_search=search).one("svg")
        assert [node.attributes["data-model"] for node in svg.all("path") if "data-model" in node.attributes] == [
            "ordinary", "robust",
        ]  # fmt: skip
        assert svg.attributes["aria-label"].startswith("Share of images against RMSE")
        places.append([node.attributes["d"].partition("H")[0] for node in svg.one("g", class_="gridlines").all("path")])
        assert "chance 10.0\u202f%" in svg.text
    assert places[0] == places[1]


def test_failures_are_drawn_at_their_share(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(failing=0.3))
    panel = panels(read(folder))[0]
    curve = panel.curves[1]
    radii = read(folder).radii("robust", "attack")
    assert radii is not None
    assert curve.failed == np.isinf(radii).mean() > 0
    assert curve.failed_y == panel.backdrop.frame.y(curve.failed)
    failed = page(folder).one("figure", data_search="attack").one("path", data_failed="robust")
    assert f" {curve.failed_y}H" in failed.attributes["d"]


# -- pictures ----------------------------------------------------------------------------------------------------------


def pixels(uri: str) -> np.ndarray:
    """The pixels of an embedded PNG."""
    assert uri.startswith("data:image/png;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(image.convert("RGB") if image.mode == "P" else image)


def test_every_example_and_target_has_its_cell_with_the_recorded_picture(record: Path) -> None:
    root = page(record)
    ids = {row["example"]: row["id"] for row in pq.read_table(record / "examples.parquet").to_pylist()}
    rows = pq.read_table(record / "explanations.parquet").to_pylist()
    places = {"toward": root.one("section", id="explanations"), "away": root.one("section", id="away")}
    grid = [row for row in rows if row["purpose"] == "grid"]
    assert len(grid) == 2 * 2 * 11
    for row in grid:
        place = places[row["explainer"]]
        cell = place.one(
            "td", data_model=row["model"], data_example=ids[row["example"]], data_column=str(row["target"])
        )
        picture, difference = cell.all("img")
        file = (record / row["picture"]).read_bytes()
        assert base64.b64decode(picture.attributes["src"].partition(",")[2]) == file
        assert pixels(difference.attributes["src"]).shape == (8, 8, 3)
        assert int(picture.attributes["width"]) >= 72
        assert picture.attributes["class"] == "crisp"
        assert f"{100 * row['after'][row['target']]:.0f}" in cell.one("span", class_="shift").text
        assert cell.one("span", class_="png").text.startswith("PNG")


def test_pictures_whose_saved_form_changes_class_are_marked_and_no_others(record: Path) -> None:
    marked = [node for node in page(record).all("td") if any(n.text.startswith("⚠") for n in node.all("span"))]
    places = [(node.attributes["data-model"], node.attributes["data-column"]) for node in marked]
    assert places == [("ordinary", "3")] * 2
    assert all("⚠ PNG says 5" in node.text for node in marked)


def test_sweeps_rise_in_rho_from_the_input(record: Path) -> None:
    sheet = page(record).one("section", id="sweep").all("article")[0]
    assert [node.text for node in sheet.all("th") if node.attributes.get("scope") == "col"] == [
        "RMSE 0", "0.025", "0.05", "0.1", "0.2",
    ]  # fmt: skip
    assert len(sheet.all("img")) == 2 * 5
    shares = [numbers_in(node.text)[0] for node in sheet.all("td", data_model="robust")]
    assert shares[1:] == sorted(shares[1:])


def test_differences_share_one_symmetric_scale() -> None:
    """+d and -d are drawn equally far from no change; beyond the scale's end all is drawn at the end."""
    step = np.array([[[-60], [60], [0], [-30], [30], [120]]])
    scale = common_scale([np.repeat(step[:, :5], 1000, axis=0)])
    assert scale.reach == 60 / 255
    colours = colour_map()
    drawn = pixels(show_change(step, scale, "").uri)[0]
    # 30 is half of 60: 63.5 places from the middle of 127; halves round to even.
    assert drawn.tolist() == [colours[place].tolist() for place in (0, 254, 127, 64, 190, 254)]
    colour = pixels(show_change(np.repeat(step, 3, axis=2), scale, "").uri)[0]
    assert colour[:, 0].tolist() == [0, 254, 127, 64, 190, 254]
    assert scale.amplification == pytest.approx(0.5 * 255 / 60)


def test_the_scale_of_a_section_holds_for_all_its_models_and_is_printed(record: Path) -> None:
    section = grids(read(record), "grid")[0]
    rows = pq.read_table(record / "explanations.parquet").to_pylist()
    sizes = []
    for row in rows:
        if (row["purpose"], row["explainer"]) == ("grid", "toward"):
            after, before = read_picture(record, row["picture"]), read_picture(record, f"pictures/{row['example']}.png")
            assert after is not None
            assert before is not None
            sizes.append(np.abs(after.pixels.astype(int) - before.pixels.astype(int)).ravel())
    ordered = np.sort(np.concatenate(sizes))
    assert section.scale is not None
    assert section.scale.reach == ordered[math.ceil(0.995 * len(ordered)) - 1] / 255
    bar = page(record).one("section", id="explanations").one("div", class_="scale")
    assert bar.text.startswith(f"−{section.scale.reach:.2f} +{section.scale.reach:.2f}")


def test_colour_pictures_are_amplified_around_mid_grey_and_the_factor_is_printed(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(shape=(32, 32, 3), explained=1, swept=0))
    root = page(folder)
    scale = grids(read(folder), "grid")[0].scale
    assert scale is not None
    assert f"amplified {scale.amplification:.1f} times" in root.one("section", id="explanations").text
    cell = root.one("section", id="explanations").one("td", data_model="robust", data_column="4")
    picture, difference = (pixels(image.attributes["src"]).astype(float) for image in cell.all("img"))
    clean = pixels(root.all("td", data_model="robust", data_input="")[0].one("img").attributes["src"]).astype(float)
    expected = 127 + 127 * np.clip((picture - clean) / (255 * scale.reach), -1, 1)
    assert np.abs(difference - expected).max() <= 0.5001


def test_too_many_targets_keep_the_label_and_say_so(tmp_path: Path) -> None:
    names = tuple(f"class number {c}" for c in range(100))
    folder = make_record(tmp_path, Plan(classes=100, class_names=names, examples=120, explained=1, swept=0))
    article = page(folder).one("section", id="explanations").one("article")
    shown = [node.text for node in article.all("th") if node.attributes.get("scope") == "col"][1:]
    assert len(shown) == 20
    assert "class number 0 label" in shown
    assert "20 of 100 targets are shown" in article.text


# -- training ----------------------------------------------------------------------------------------------------------

RECIPE = """\
network: small_cnn
objective:
  adversarial:
    attack: "l2min:epsilon=0.5,steps=7"
    share: 0.5
  lipschitz: {psi: 220, tandem: none, nested: [[1]]}
epochs: 10
robust_attack: "pgd:norm=l2,radius=0.5"
robust_samples: 256
"""


def noted(epoch: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl, of a run of 10 epochs in which all goes well."""
    entropy, penalty = 2.0 * 0.7**epoch, 0.3 * 0.9**epoch
    line = {
        "epoch": epoch, "epochs": 10, "step": 20 * epoch, "steps": 200, "loss": entropy + penalty,
        "parts": {"cross_entropy": entropy, "lipschitz": penalty, "psi": 0.02 * 10 ** (epoch / 2.5)},
        "train_accuracy": 1 - 0.5 * 0.8**epoch, "learning_rate": 0.1 - 0.01 * epoch, "rate": 512.0,
        "seconds": 20.0 * epoch, "accuracy": 0.9 - 0.4 * 0.7**epoch,
    }  # fmt: skip
    if epoch % 5 == 0:
        line["robust_accuracy"] = 0.6 - 0.3 * 0.7**epoch
    return line | changes


def make_run(folder: Path, lines: Sequence[dict[str, Any] | str] | None = None, *, finished: bool = True) -> Path:
    """A run folder as training leaves it. lines: of metrics.jsonl; a text stands as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [noted(epoch) for epoch in range(1, 11)] if lines is None else lines
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    about = {"device": "cpu", "command": "advex train digits-robust --data digits"}
    (folder / "env.json").write_text(json.dumps(about), encoding="utf-8")
    if finished:
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")  # no tensors, and whole
    return folder


def known(folder: Path) -> Training:
    """What a run folder tells; it does tell."""
    training = read_run(folder)
    assert training is not None
    return training


def run_of(**curves: Sequence[float | None]) -> TrainingHistory:
    """A run with given curves, one value per epoch."""
    length = len(next(iter(curves.values())))
    return TrainingHistory(0, "net", Training(epoch=list(range(1, length + 1)), curves=curves, finished=True))  # pyright: ignore


def told(run: TrainingHistory) -> str:
    """The sentence on a run."""
    return plain(sentence(run))


def codes(run: TrainingHistory) -> list[str]:
    """The codes of a run's flags."""
    return [flag.code for flag in flags(run)]


def test_a_run_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    lines = [noted(epoch) for epoch in range(1, 11)]
    lines[3] |= {"loss": None, "best": True}  # not finite
    lines[5]["parts"]["noise"] = 0.5  # from here on
    training = known(make_run(tmp_path, lines))
    assert training.epoch == list(range(1, 11))
    for name in ("train_accuracy", "accuracy", "learning_rate", "seconds", "rate"):
        assert training.curves[name] == [line[name] for line in lines]
    assert training.curves["robust_accuracy"] == [None] * 4 + [lines[4]["robust_accuracy"]] + [None] * 4 + [
        lines[9]["robust_accuracy"]
    ]
    loss = training.curves["loss"]
    assert math.isnan(loss[3] or 0)
    assert loss[:3] == [line["loss"] for line in lines[:3]]
    assert training.parts["psi"] == [line["parts"]["psi"] for line in lines]
    assert training.parts["noise"] == [None] * 5 + [0.5] + [None] * 4
    assert (training.epochs, training.best, training.taken, training.finished) == (10, 4, None, True)
    assert training.objective == (
        "adversarial:attack=(l2min:epsilon=0.5,steps=7),share=0.5 + lipschitz:psi=220,tandem=none"
    )
    assert training.attack == "pgd:norm=l2,radius=0.5 on 256 examples"
    assert (training.recipe, training.environment["device"], training.notes) == (RECIPE, "cpu", [])
    again = Training.model_validate_json(training.model_dump_json())
    assert again.model_dump_json() == training.model_dump_json()


def test_older_recipes_and_runs_have_less(tmp_path: Path) -> None:
    old = {"epoch": 1, "epochs": 3, "step": 5, "accuracy": 0.5, "objective": {}}
    folder = make_run(tmp_path, [old])
    (folder / "env.json").unlink()
    text = "objective: adversarial\nobjective_options: {share: 0.5, same: true}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    training = known(folder)
    assert training.objective == "adversarial:share=0.5,same=true"
    assert training.curves == {"accuracy": [0.5], "step": [5.0]}
    assert (training.parts, training.environment, training.attack) == ({}, {}, "")
    (folder / "recipe.yaml").unlink()
    assert known(folder).objective == ""
    (folder / "metrics.jsonl").unlink()
    assert read_run(folder) is None
    assert read_run(Path("x" * 5000)) is read_run(Path("a\0b")) is None


def test_the_best_epoch_s_model_is_told_from_the_last(tmp_path: Path) -> None:
    best = make_run(tmp_path / "run", [noted(1), noted(2, best=True), noted(3)]) / "best"
    best.mkdir()
    (best / "config.json").write_text('{"training": {"epoch": 2}}', encoding="utf-8")
    assert (known(best).taken, known(tmp_path / "run").taken) == (2, None)
    assert known(best).curves == known(tmp_path / "run").curves
    (run,) = read_runs([best])
    assert run.name == "run/best"
    assert "; the model is that of epoch 2." in told(run)
    assert "; the network of epoch 2 is kept as the best." in told(read_runs([tmp_path / "run"])[0])


def test_damaged_lines_are_skipped_and_named(tmp_path: Path) -> None:
    whole = [json.dumps(noted(epoch)) for epoch in range(1, 8)]
    broken = [whole[0], whole[1][:50], "", "[1]", '{"epoch": true}', '{"epoch": 0}', '{"epoch": 1e400}', "[" * 9999]
    folder = make_run(tmp_path, [*broken, *whole[4:]], finished=False)
    training = known(folder)
    assert training.epoch == [1, 5, 6, 7]
    assert training.notes == ["Lines 2, 4, 5, 6, 7, ... of metrics.jsonl are damaged and were skipped."]
    text = "\n".join([whole[0], whole[1][:50], whole[6][:50]])
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")  # the last one is being written
    assert known(folder).notes == [
        "The last line of metrics.jsonl, line 3, is incomplete: it is still being written, or was cut off. "
        "It was skipped.",
        "Line 2 of metrics.jsonl is damaged and was skipped.",
    ]
    # An epoch that was made again counts as it was made last; the order is that of the epochs.
    again = json.dumps(noted(1, loss=9.0))
    (folder / "metrics.jsonl").write_text(f"{whole[2]}\n{whole[0]}\n{again}\n", encoding="utf-8")
    assert (known(folder).epoch, known(folder).curves["loss"][0]) == ([1, 3], 9.0)


@hypothesis.given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.dictionaries(
                st.sampled_from(["epoch", "epochs", "loss", "accuracy", "parts", "best", "seconds"]),
                st.recursive(
                    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.lists(inner, max_size=2),
                    max_leaves=4,
                ),
            ).map(lambda line: json.dumps({"epoch": 1} | line).encode()),
        ),
        max_size=6,
    ),
    recipe=st.binary(max_size=40),
)
def test_whatever_a_run_folder_holds_it_can_be_recorded_and_shown(lines: list[bytes], recipe: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics.jsonl").write_bytes(b"\n".join(lines))
        (folder / "recipe.yaml").write_bytes(recipe)
        (folder / "env.json").write_bytes(recipe)
        training = known(folder)
        text = training.model_dump_json()
        text.encode("utf-8")
        assert Training.model_validate_json(text).model_dump_json() == text
        html = render_runs(read_runs([folder]))
        assert not re.search(r'\b(?:d|cx|cy|x|y)="[^"]*(?:nan|inf)', html)
        Tree(html)


def test_what_is_too_much_is_left_out_and_said(tmp_path: Path) -> None:
    long = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in range(1, 2 * EPOCHS + 2)]
    training = known(make_run(tmp_path, long))
    assert training.epoch == list(range(2 * EPOCHS + 1, 0, -3))[::-1]
    assert training.notes == ["Of 10,001 epochs, one in 3 is kept."]
    names = {**{f"part {i}": 1.0 for i in range(30)}, "x" * 81: 1.0, "\ud800": 1.0, "": 1.0}
    training = known(make_run(tmp_path, [noted(1, parts=names)]))
    assert list(training.parts) == [f"part {i}" for i in range(24)]
    assert training.notes == ["9 parts of the loss were left out: too many, or names too long."]
    (tmp_path / "recipe.yaml").write_text("x" * 70_000, encoding="utf-8")
    assert known(tmp_path).notes[0].startswith("recipe.yaml is 70,000 bytes long")


def test_a_link_out_of_the_run_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("network: secret", encoding="utf-8")
    folder = make_run(tmp_path / "run")
    (folder / "recipe.yaml").unlink()
    (folder / "recipe.yaml").symlink_to(tmp_path / "secret")
    training = known(folder)
    assert training.recipe == ""
    assert training.notes == ["recipe.yaml is a link out of the run folder and was not followed."]


def test_axes_by_hand() -> None:
    axis = linear([0.3, 1.9])
    assert (axis.low, axis.high, axis.place(0.5), axis.place(9.0)) == (0.0, 2.0, 0.25, 1.0)
    axis = logarithmic([0.02, 0.0, 180.0])
    assert (axis.low, axis.high, axis.logarithmic, axis.sunk) == (0.01, 1000.0, True, True)
    assert [axis.place(value) for value in (0.1, 10.0, 0.0)] == pytest.approx([0.2, 0.6, 0.0])
    assert not logarithmic([0.02, 180.0]).sunk
    assert [fitting([1.0, most]).logarithmic for most in (49.0, 50.0)] == [False, True]
    assert not fitting([-1.0, 1.0, 100.0]).logarithmic
    assert [shares([least, 0.99]).low for least in (0.49, 0.5, 0.8, 0.95)] == [0.0, 0.5, 0.8, 0.9]
    # One value that has shrunk to nothing does not squeeze all others; one that explodes is seen.
    assert logarithmic([1.0, 2.0, 3.0, 1e-30]).low == 1e-6
    assert logarithmic([1.0, 2.0, 3.0, 1e30]).high == 1e30
    for values in ([], [0.0], [5.0], [1e308, 1e-320], [-1e308, 1e308], [math.inf, math.nan]):
        for make in (fitting, linear, logarithmic, shares):
            axis = make(values)
            assert math.isfinite(axis.low) and axis.low < axis.high  # noqa: PT018
            assert all(0 <= axis.place(value) <= 1 for value, _ in axis.marks)


def test_training_curves_by_hand() -> None:
    """Epochs 0 to 4 from left to right, 0 to 1 from the foot to the top."""
    run = run_of(loss=[1.0, None, 0.5, math.nan, 0.25], step=[1, 2, 3, 4, 5])
    (panel,) = curve_panels(run, shared_axes([run]))
    (trace,) = panel.traces
    places = [(FRAME.x(epoch, 5), FRAME.y(value)) for epoch, value in ((1, 1.0), (3, 0.5), (5, 0.25))]
    (x1, y1), (x3, y3), _ = places
    assert trace.line == f"M{x1:g} {y1:g} L{x3:g} {y3:g}"  # over the epoch without a value, not over the NaN
    assert trace.dots == tuple((round(x, 2), round(y, 2)) for x, y in places)
    assert (trace.name, trace.last) == ("loss", "0.25")
    assert panel.description == "Loss of net over 5 epochs: loss 1 at epoch 1, 0.25 at epoch 5."
    many = run_of(loss=[1.0] * 20 + [math.nan, 1.0, math.nan] + [1.0] * 20)
    (panel,) = curve_panels(many, shared_axes([many]))
    assert panel.traces[0].dots == ((round(FRAME.x(22, 43), 2), round(FRAME.y(1.0), 2)),)  # it is in no line
    assert panel.traces[0].line.count("M") == 2


def test_the_part_that_is_all_of_the_loss_stands_for_it(tmp_path: Path) -> None:
    lines = [noted(epoch, parts={"clean": 0.1, "cross_entropy": noted(epoch)["loss"]}) for epoch in (1, 2)]
    run = TrainingHistory(0, "net", known(make_run(tmp_path, lines)))
    traces = curve_panels(run, shared_axes([run]))[0].traces
    assert [(trace.name, trace.style) for trace in traces] == [("cross entropy", "main"), ("clean", "t0")]


def test_models_share_the_scales_of_what_is_the_same(tmp_path: Path) -> None:
    small = make_run(tmp_path / "small")
    lines = [noted(epoch, loss=40.0, parts={"cross_entropy": 40.0}, epochs=20) for epoch in range(1, 21)]
    large = make_run(tmp_path / "large", lines)
    root = Tree(render_runs(read_runs([small, large]))).root
    first, second = (root.one("article", data_course=name) for name in ("small", "large"))
    assert [node.attributes["data-quantity"] for node in first.all("figure")] == [
        "loss", "accuracy", "learning_rate", "psi",
    ]  # fmt: skip
    assert not second.all("figure", data_quantity="psi")
    for quantity in ("loss", "accuracy", "learning_rate"):
        panels_of = (course.one("figure", data_quantity=quantity) for course in (first, second))
        one, other = (panel.one("g", class_="axis").text for panel in panels_of)
        assert one == other
        assert one.split()[:5] == ["0", "5", "10", "15", "20"]
    assert "The same quantity has the same scale in every model." in root.text
    longer = make_run(tmp_path / "longer", [noted(epoch) for epoch in range(1, 42)])
    root = Tree(render_runs(read_runs([small, longer]))).root
    ticks = [node.one("g", class_="axis").text.split()[:2] for node in root.all("figure", data_quantity="loss")]
    assert ticks == [["0", "2"], ["0", "10"]]
    assert "the epoch axes differ, because the runs differ too much in length" in root.text


def test_learning_rates_of_two_optimisers_are_both_seen() -> None:
    steep, gentle = run_of(learning_rate=[0.1, 0.05, 0.0]), run_of(learning_rate=[1e-3, 5e-4, 1e-9])
    shared = shared_axes([steep, gentle])
    axis = shared.axes["learning_rate"]
    assert (axis.logarithmic, axis.low, axis.high) == (True, 1e-5, 0.1)
    (panel,) = curve_panels(gentle, shared)
    assert panel.note == "Logarithmic axis; what is smaller than its foot, such as 0, is drawn there."
    assert not shared_axes([steep]).axes["learning_rate"].logarithmic


def test_the_training_in_a_sentence(tmp_path: Path) -> None:
    run = read_runs([make_run(tmp_path / "whole")])[0]
    assert told(run) == (
        "10 epochs, 3 min 20 s at 512 examples per second; validation accuracy 88.9\u202f% at the end, its best; "
        "robust accuracy 59.2\u202f% at the end, its best."
    )
    lines = [noted(1, accuracy=0.786), noted(2, accuracy=0.781), noted(3, accuracy=math.nan)]
    for one in lines:
        del one["seconds"], one["rate"]
    run = read_runs([make_run(tmp_path / "part", lines)])[0]
    assert told(run) == "3 of 10 epochs; validation accuracy 78.1\u202f% at epoch 2, best 78.6\u202f% at epoch 1."
    assert told(run_of(loss=[1.0])) == "1 epoch; the accuracy on validation data was not measured."
    assert told(TrainingHistory(0, "net", Training())) == "No epoch has been recorded yet: there is no curve to draw."


def test_a_fall_of_the_accuracy_is_flagged_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(60) / 60

    def run(course: np.ndarray, noise: float, learnt: np.ndarray = x) -> TrainingHistory:
        values = course + rng.normal(0, noise, len(course))
        return run_of(accuracy=values.tolist(), train_accuracy=learnt.tolist())

    falls, collapse = 0.8 - 0.1 * np.abs(x - 0.4), np.where(x < 0.5, 0.5 + 0.3 * x, 0.0)
    assert codes(run(falls, 0.004)) == ["overfitting"]
    assert codes(run(collapse, 0.004)) == ["overfitting"]
    assert codes(run(falls, 0.004, 1 - x)) == []  # all falls: that is something else
    assert codes(run(0.8 - 0.01 * x, 0.0001)) == []  # less than two points
    message = flags(run(falls, 0.0))[0].message
    assert message == (
        "The validation accuracy fell from 80.0\u202f% at epoch 25 to 75.1\u202f% (median of the last 12), "
        "while the training accuracy rose by 49.2 points."
    )
    robust = run_of(accuracy=[0.8] * 60, robust_accuracy=falls.tolist(), train_accuracy=x.tolist())
    assert [flag.message[:23] for flag in flags(robust)] == ["The robust accuracy fel"]
    # A plateau under any noise: the best of many is chance. 4 in 100 are promised, 200 are too few to count on less.
    flat = [run(np.full(n, 0.8), 0.02, np.arange(n) / n) for n in (8, 15, 60) for _ in range(200)]
    assert sum(overfitting(one, "accuracy") is not None for one in flat) < 0.05 * len(flat)
    assert codes(run_of(accuracy=[0.9, 0.5, 0.5], train_accuracy=[0.1, 0.2, 0.3])) == []  # too short to tell


def test_a_loss_that_still_falls_is_flagged_and_one_that_has_settled_is_not() -> None:
    epochs = np.arange(1, 41)
    rng = np.random.default_rng(0)
    assert codes(run_of(loss=(2 - 0.04 * epochs).tolist())) == ["still_falling"]
    assert codes(run_of(loss=(2 * np.exp(-epochs / 4)).tolist())) == []  # halves yet, but of what is nothing
    assert codes(run_of(loss=(0.5 + 2 * np.exp(-epochs / 4)).tolist())) == []
    assert codes(run_of(loss=(2 - 0.04 * epochs)[:7].tolist())) == []  # too short to tell
    noise = [run_of(loss=(1 + rng.normal(0, 0.2, 40)).tolist()) for _ in range(100)]
    assert sum(bool(codes(run)) for run in noise) <= 3
    flag = flags(run_of(loss=(2 - 0.04 * epochs).tolist()))[0]
    assert flag.message == "The loss was still falling at the end: by 0.04 per epoch over the last 8 epochs, to 0.4."


def test_a_run_that_is_not_whole_is_flagged(tmp_path: Path) -> None:
    lines = [noted(epoch, accuracy=0.5, robust_accuracy=0.1) for epoch in range(1, 8)]
    assert codes(read_runs([make_run(tmp_path / "a", lines, finished=False)])[0]) == ["interrupted"]
    assert codes(read_runs([make_run(tmp_path / "b", lines)])[0]) == ["ended_early", "robust_gap"]
    lines = [noted(epoch) for epoch in range(1, 11)]
    assert codes(read_runs([make_run(tmp_path / "c", lines)])[0]) == []
    lines[2]["loss"], lines[3]["loss"], lines[7]["parts"]["psi"] = None, None, math.inf
    (flag,) = flags(read_runs([make_run(tmp_path / "d", [*lines[:5], "{", *lines[5:]])])[0])[1:]
    assert flag.message == "Not finite: loss in epoch 3 and 1 other and psi in epoch 8. The lines have gaps there."


def test_a_quick_attack_that_turns_most_decisions_is_flagged() -> None:
    def gap(robust: list[float | None]) -> list[str]:
        return codes(run_of(accuracy=[0.5, 0.8, 0.8], robust_accuracy=robust))

    assert gap([0.5, 0.41, None]) == []
    assert gap([0.5, 0.39, None]) == ["robust_gap"]
    assert gap([0.1, 0.39, 0.5]) == []


def trained(record: Path, folder: Path) -> Path:
    """A record whose second model comes from a run folder."""
    made = read_record(record)
    made.models[1].training = known(make_run(folder))
    write_record(record, made)
    return record


def test_a_record_shows_how_its_models_were_trained(record: Path, tmp_path: Path) -> None:
    assert not page(record).all("section", id="training")
    assert not page(record).all("a", href="#training")
    root = page(trained(record, tmp_path / "run"))
    (course,) = root.one("section", id="training").all("article")
    assert course.attributes["data-course"] == "robust"
    assert "m1" in course.attributes["class"]  # its colour everywhere
    assert root.one("a", href="#training").text == "Training"
    assert course.one("p", class_="objective").text.startswith("adversarial:attack=(l2min")
    assert course.one("pre").text.startswith("network: small_cnn objective:")
    accuracy = course.one("figure", data_quantity="accuracy")
    assert [node.text for node in accuracy.all("li")] == [
        "training 94.6\u202f%", "validation 88.9\u202f%", "validation, attacked 59.2\u202f%",
    ]  # fmt: skip
    assert "Attacked by pgd:norm=l2,radius=0.5 on 256 examples." in accuracy.text
    assert accuracy.one("svg", role="img").attributes["aria-label"].startswith("Accuracy of robust over 10 epochs")
    assert course.one("figure", data_quantity="psi").text.endswith("epoch Logarithmic axis.")
    (text,) = root.one("pre", class_="json").one("code").children
    assert Record.model_validate_json(str(text)) == read_record(record)


def test_every_noted_value_can_be_saved(record: Path, tmp_path: Path) -> None:
    for root in (page(trained(record, tmp_path / "run")), Tree(render_runs(read_runs([tmp_path / "run"]))).root):
        (link,) = (node for node in root.all("a") if node.attributes.get("download") == "training.csv")
        text = base64.b64decode(link.attributes["href"].partition("base64,")[2]).decode()
        saved = {(int(row["epoch"]), row["quantity"]): float(row["value"]) for row in csv.DictReader(io.StringIO(text))}
        for epoch in range(1, 11):
            told = noted(epoch)
            expected = {f"parts.{name}": value for name, value in told["parts"].items()}
            expected |= {name: told[name] for name in told.keys() - {"epoch", "epochs", "steps", "parts"}}
            assert {name: value for (at, name), value in saved.items() if at == epoch} == expected


def test_a_run_alone_can_be_looked_at_while_it_trains(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "night", [noted(1), noted(2)], finished=False)
    path = write_report(folder)
    assert path == folder / "report.html"
    first = path.read_bytes()
    assert write_report(folder, tmp_path / "again.html").read_bytes() == first
    root = Tree(first.decode()).root
    assert root.one("h1").text == "Training of night"
    assert root.one("p", class_="told").text.startswith("2 of 10 epochs , 40 s at 512 examples per second")
    assert [node.text for node in root.all("code")][1:2] == ["interrupted"]
    assert root.one("pre", class_="command").text == "advex train digits-robust --data digits"
    anchors = {node.attributes["href"][1:] for node in root.all("a") if node.attributes["href"].startswith("#")}
    assert anchors == {"training", "made"}
    (folder / "metrics.jsonl").unlink()  # the first epoch is not over
    root = Tree(write_report(folder).read_text(encoding="utf-8")).root
    assert "No epoch has been recorded yet" in root.text
    assert not root.all("figure")


def test_reports_of_several_folders_are_of_runs(record: Path, tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    root = Tree(write_report([one, other]).read_text(encoding="utf-8")).root
    assert [node.attributes["data-course"] for node in root.all("article")] == ["a/run", "b/run"]
    with pytest.raises(ArtifactError, match="is a record: "):
        write_report([one, record])
    with pytest.raises(ArtifactError, match="There is no folder .*nowhere"):
        write_report([one, tmp_path / "nowhere"])
    with pytest.raises(ArtifactError, match="a contains no record.json.*no metrics.jsonl"):
        write_report([one, tmp_path / "a"])


def test_hostile_runs_are_shown_as_text(tmp_path: Path) -> None:
    lines = [noted(1, parts={HOSTILE: 1.0, "psi": 2.0})]
    folder = make_run(tmp_path / HOSTILE.replace("/", "-"), lines)
    (folder / "recipe.yaml").write_text(f"objective: {json.dumps(HOSTILE)}\nrobust_attack: {json.dumps(HOSTILE)}\n")
    (folder / "env.json").write_text(json.dumps({HOSTILE: HOSTILE, "command": HOSTILE}))
    html = render_runs(read_runs([folder]))
    assert "<script" not in html
    assert "<img" not in html
    root = Tree(html).root
    assert all(not name.startswith("on") and name != "style" for node in root.all() for name in node.attributes)
    assert root.text.count(HOSTILE) >= 5


# -- what may be missing -----------------------------------------------------------------------------------------------


# -- certificates ------------------------------------------------------------------------------------------------------


def test_a_certified_model_is_an_interval_of_areas(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(models=("a", "b", "c"), certified=20))
    record, root = read_record(folder), page(folder)
    section = root.one("section", id="certified")
    for model in record.models:
        entry, scores = model.certified, model.scores
        assert entry is not None
        shown = {cell.attributes["data-measure"]: cell.text for cell in section.all("td", data_model=model.name)}
        assert not root.one("section", id="figures").all("td", data_model=model.name, data_measure="certified_ara")
        for key, figure, factor in (
            ("certified_ara", scores["certified_ara"], 1), ("certified:attack_ara", entry.attack_ara, 1),
            ("certified:gap", entry.gap, 1), ("certified_accuracy", scores["certified_accuracy"], 100),
            ("certified:accuracy", entry.accuracy, 100),
        ):  # fmt: skip
            agrees(shown[key], figure, factor)
        ends = [numbers_in(shown[key])[0] for key in ("certified_ara", "certified:attack_ara")]
        assert numbers_in(shown["enclosure"]) == ends
        assert shown["enclosure"][0] == "["
        assert (shown["certified:abstained"], shown["certified:crossed"]) == ("3 of 20", "2 of 20")
    told = section.text
    for said in (
        "another classifier than the one attacked", "holds for the smoothed classifier", "standard deviation 0.25",
        "20 examples drawn at random", "100 noisy copies", "1,000 others", "99.9\u202f%", "alpha is 0.001",
        "RMSE of 0.077", "1 radius too large",
    ):  # fmt: skip
        assert said in told, said
    assert any("smoothed form of a, a different classifier" in each for each in sentences(folder))
    assert root.one("a", href="#certified").text == "Certified"
    saved = root.one("a", download="figures.csv").attributes["href"]
    rows = list(csv.reader(io.StringIO(base64.b64decode(saved.partition(",")[2]).decode("utf-8"))))
    assert {row[1] for row in rows if row[0] == "a"} >= {"certified_ara", "certified_attack_ara", "certified_gap"}


def test_a_certificate_above_the_attack_is_said(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(models=("a",), certified=30))
    record = read_record(folder)
    model = record.models[0]
    scores = model.scores | {"certified_ara": ara(0.5, 0.4, 0.6)}
    write_record(folder, record.model_copy(update={"models": [model.model_copy(update={"scores": scores})]}))
    cell = page(folder).one("td", data_measure="enclosure")
    assert "the smoothed classifier withstands more than the network" in cell.text
    assert "bears more" not in page(make_record(tmp_path / "b", Plan(models=("a",), certified=30))).text


def corners_of(data: str) -> list[tuple[float, float]]:
    values = [float(number) for number in re.findall(r"-?[\d.]+", data)]
    return list(zip(values[::2], values[1::2], strict=True))


def test_certified_and_attacked_curves_share_one_scale(tmp_path: Path) -> None:
    folder = make_record(tmp_path, Plan(models=("a", "b"), certified=30, failing=0.1))
    contents = read(folder)
    made = Certified()(contents)
    assert made is not None
    bands = {band.model: band for band in made["bands"]}
    assert list(bands) == ["a", "b"]
    assert bands["a"].backdrop == bands["b"].backdrop
    frame = bands["a"].backdrop.frame
    rows = [row for row in contents.rows("examples") if row["certify_rmse"] is not None]
    assert len(rows) == 60
    known = [row[name] for row in rows for name in ("certify_rmse", "attack_rmse")]
    top = float(np.percentile([value for value in known if 0 < value < math.inf], 98))
    for model, band in bands.items():
        for curve, name in ((band.certain, "certify_rmse"), (band.attacked, "attack_rmse")):
            radii = np.array([row[name] for row in rows if row["model"] == model])
            for x, y in corners_of(curve)[1:-1:2]:  # where each step ends
                radius = (x - frame.left) / (frame.end - frame.left) * top
                share = (frame.base - y) / (frame.base - frame.top)
                slack = 0.11 / (frame.end - frame.left) * top
                assert np.mean(radii > radius + slack) - 1e-3 <= share <= np.mean(radii > radius - slack) + 1e-3
    assert {line for line, _ in bands["a"].others} == {bands["b"].attacked, bands["b"].certain}
    assert [certain for _, certain in bands["a"].others] == [True, False]
    around = [*corners_of(bands["a"].attacked), *corners_of(bands["a"].certain)[::-1]]
    assert corners_of(bands["a"].between) == [corner for corner, _ in itertools.groupby(around)]
    failed = np.mean([math.isinf(row["attack_rmse"]) for row in rows if row["model"] == "b"])
    assert bands["b"].note.startswith(f"For {100 * failed:.{0 if failed >= 0.1 else 1}f}")
    assert bands["a"].note == ""
    drawn = page(folder).one("figure", data_band="b")
    assert drawn.one("path", data_curve="certified").attributes["class"] == "line certain"
    assert drawn.one("path", data_curve="attacked").attributes["class"] == "line"


def test_a_page_without_certificates_says_nothing_of_them(record: Path) -> None:
    assert Certified()(read(record)) is None
    root = page(record)
    assert not root.all(id="certified")
    assert not root.all("a", href="#certified")
    assert "ertified" not in root.one("nav").text + root.one("section", id="findings").text


def test_one_model_alone(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(models=("only",))))
    told = root.one("section", id="findings").text
    assert "only classifies" in told
    assert "Its attack ARA is" in told
    assert "Paired differences" not in root.text


def test_no_explanations(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(explained=0, swept=0)))
    assert not root.all("section", id="explanations")
    assert not root.all("section", id="sweep")
    assert not root.all("a", href="#away")


def test_zero_examples(tmp_path: Path) -> None:
    empty = Figure(value=math.nan, low=math.nan, high=math.nan, n=0)
    changes = {
        "data": DataEntry(name="d", source="d", examples=0, shape=(1, 8, 8), class_names=("a", "b"), chance=0.5),
        "models": [ModelEntry(name="m", source="m", scores={"accuracy": empty, "attack_ara": empty})],
        "differences": [],
    }
    folder = make_record(tmp_path, Plan(models=("m",), explained=0, swept=0, changes=changes))
    table = pq.read_table(folder / "examples.parquet")
    pq.write_table(table.slice(0, 0), folder / "examples.parquet")
    root = page(folder)
    assert "No examples were evaluated" in root.text
    assert not root.all("section", id="curves")
    assert root.one("td", data_measure="accuracy").text == "– no examples"


def test_inputs_that_are_no_pictures(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(pictures=False)))
    section = root.one("section", id="explanations")
    assert not section.all("img")
    assert "missing" not in section.text
    assert len([node for node in section.all("td", data_model="robust") if "data-column" in node.attributes]) == 2 * 10
    assert "92\u202f%" in section.text


def test_a_lost_picture_is_said_and_one_outside_the_record_is_never_read(tmp_path: Path) -> None:
    folder = make_record(tmp_path / "record")
    (tmp_path / "secret.png").write_bytes((folder / "pictures/0.png").read_bytes())
    table = pq.read_table(folder / "explanations.parquet").to_pylist()
    (folder / table[0]["picture"]).unlink()
    (folder / table[1]["picture"]).write_bytes(b"GIF89a, and no PNG")
    (folder / table[2]["picture"]).unlink()
    (folder / table[2]["picture"]).symlink_to(tmp_path / "secret.png")
    table[3]["picture"] = "../secret.png"
    table[4]["picture"] = str(tmp_path / "secret.png")
    _parquet(folder / "explanations.parquet", table)
    section = page(folder).one("section", id="explanations")
    assert section.text.count("The picture is missing from the record.") == 5


def test_skipped_files_and_flags_are_listed(tmp_path: Path) -> None:
    flag = Flag(model="robust", code="more_steps", severity="warning", message="More steps help.", remedy="Give more.")
    note = Flag(model="", code="few_examples", severity="note", message="Few examples.", remedy="Take more.")
    plan = Plan(changes={"flags": [note, flag, flag.model_copy(update={"model": "ordinary"})]})
    folder = make_record(tmp_path, plan)
    record = read_record(folder)
    record.data.skipped.extend([(f"broken-{i}.png", "truncated") for i in range(60)])
    write_record(folder, record)
    root = page(folder)
    flags = [node.text for node in root.one("section", id="trust").all("li")]
    assert flags == [
        "Warning more_steps robust: More steps help. ordinary: More steps help. What to do: Give more.",
        "Note few_examples Few examples. What to do: Take more.",
    ]
    assert root.one("section", id="figures").all("a", class_="warned")[1].text == "1 warning"
    made = root.one("section", id="made")
    assert "60 files could not be read" in made.text
    assert len(made.one("ul", class_="skipped").all("li")) == 50
    assert "No flags" in page(make_record(tmp_path / "calm")).one("section", id="trust").text


def test_fewer_examples_where_the_page_would_grow_too_large(record: Path) -> None:
    full, small = render(read(record)), render(read(record, picture_bytes=40_000))
    assert len(small) < len(full)
    told = Tree(small).root.one("section", id="explanations").text
    assert "1 of 2 explained examples are shown" in told
    assert "are shown, so that" not in Tree(full).root.text


# -- sections of others ------------------------------------------------------------------------------------------------

SECTION = """
from advex.registry import register


@register("section", "largest")
class Largest:
    \'\'\'The largest change of every model, and a note that a plugin wrote into the record.\'\'\'

    title, menu, place, tables = "Largest <change>", "Largest", 15, ("examples", "notes")

    def __call__(self, contents):
        names = [model.name for model in contents.record.models]
        sizes = {name: max(contents.column(name, "attack_rmse")) for name in names}
        return {"sizes": sizes, "notes": [row["note"] for row in contents.rows("notes")], "badge": len(sizes)}


@register("section", "nothing")
class Nothing:
    \'\'\'Has nothing to say of any record.\'\'\'

    title, menu, place, tables = "Nothing", "Nothing", 16, ()

    def __call__(self, contents):
        return None
"""
FAILING = """
from advex.registry import register


@register("section", "failing")
class Failing:
    \'\'\'Fails.\'\'\'

    title, menu, place, tables = "Failing", "Failing", 35, ()

    def __call__(self, contents):
        raise KeyError("<no such thing>")


@register("section", "unclear")
class Unclear:
    \'\'\'Its template asks for what is not there; and it says nothing of itself.\'\'\'

    def __call__(self, contents):
        return {}
"""


def test_a_section_of_a_plugin_is_one_file_and_its_template(record: Path, tmp_path: Path) -> None:
    """Installed as a package, it stands where it says; ones that fail are told, and all else is as without them."""
    plain = Tree(write_report(record).read_text(encoding="utf-8")).root
    place = tmp_path / "site"
    files = {
        "their_sections/__init__.py": "",
        "their_sections/largest.py": SECTION.replace("\\'", "'"),
        "their_sections/largest.html.j2": "{% from 'parts.html.j2' import swatch %}{{ swatch(0) }}"
        '{% for name, size in sizes.items() %}<p data-largest="{{ name }}">{{ size | short }}</p>{% endfor %}'
        "<b>{{ notes | join }}, {{ record.seed }}</b>",
        "their_sections/failing.py": FAILING.replace("\\'", "'"),
        "their_sections/failing.html.j2": "{{ what_nobody_gave }}",
        "theirs-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n",
        "theirs-1.0.dist-info/entry_points.txt": "[advex.report_sections]\ntheirs = their_sections\n",
    }
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    _parquet(record / "notes.parquet", [{"note": HOSTILE}])
    code = (
        "import sys; from pathlib import Path; from advex.report import write_report; "
        f"write_report(Path({str(record)!r})); print('torch' in sys.modules)"
    )
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")
    root = Tree((record / "report.html").read_text(encoding="utf-8")).root
    sections = {node.attributes["id"]: node for node in root.all("section") if "id" in node.attributes}
    ours = [node.attributes["id"] for node in plain.all("section") if "id" in node.attributes]
    assert list(sections) == [
        *ours[:1], "largest", *ours[1:6], "failing", *ours[6:], "unclear",
    ]  # fmt: skip
    assert [node.attributes["href"][1:] for node in root.one("nav").all("a")] == list(sections)
    assert root.one("nav").one("a", href="#largest").text == "Largest 2"
    rows = pq.read_table(record / "examples.parquet").to_pylist()
    for name in ("ordinary", "robust"):
        largest = max(row["attack_rmse"] for row in rows if row["model"] == name)
        assert numbers_in(sections["largest"].one("p", data_largest=name).text) == pytest.approx([largest], rel=1e-3)
    assert sections["largest"].one("h2").text == "Largest <change>"
    assert sections["largest"].one("b").text == f"{HOSTILE}, 7"
    assert sections["failing"].one("p").text == (
        "The section 'failing' of theirs 1.0 could not be made (KeyError: '<no such thing>'). "
        "The rest of this page is complete."
    )
    assert "'unclear' of theirs 1.0 could not be made (UndefinedError" in sections["unclear"].text
    for name in ours:
        assert sections[name].text == plain.one("section", id=name).text


def test_a_fault_in_a_section_of_ours_is_not_hidden(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Certified, "__call__", lambda self, contents: {})
    with pytest.raises(UndefinedError, match="'words' is undefined"):
        render(read(record))


# -- measures of maps --------------------------------------------------------------------------------------------------


def test_the_digits_of_a_column_are_counted_once_and_not_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    names, counted = [f"explainer {number}" for number in range(12)], []
    differences = [
        Difference(
            first=first, second=second, measure="gini", axis="explainer", model="m",
            figure=Figure(value=0.1, low=-0.2, high=0.25, n=8),
        )
        for first, second in itertools.combinations(names, 2)
    ]  # fmt: skip
    record: Any = SimpleNamespace(models=[SimpleNamespace(name="m")], differences=differences)
    entry = MeasureEntry(title="Gini", better="high", of="shape", spec="gini")
    once = maps_compared.digits_of
    monkeypatch.setattr(maps_compared, "digits_of", lambda figures: counted.append(1) or once(figures))
    compared = maps_compared.explainers_compared(record, names, {"gini": entry})
    rows = [row for group in (*compared.groups, *compared.others) for row in group.rows]
    assert len(rows) == len(differences)
    assert {row.cells[0].text for row in rows} == {"\u22120.100"}  # every name minus every earlier one
    assert len(counted) == 1


def test_every_declared_measure_of_maps_is_shown_and_compared_along_both_axes(tmp_path: Path) -> None:
    """Three measures nobody knows, of two kinds, by two explainers: values, reasons, differences, boxes."""
    folder = make_record(tmp_path, Plan(models=("a", "b", "c")))
    record = read_record(folder)
    declared = {
        "zig": MeasureEntry(title="Zig", better="low", unit="rad", of="faithful", spec="zig"),
        "zag": MeasureEntry(title="Zag", better="neither", of="faithful", spec="zag"),
        "zug": MeasureEntry(title="Zug", better="high", of="of a plugin's own", spec="zug:n=3"),
    }
    explainers, values = ("one", "two"), {}
    rng = np.random.default_rng(0)
    rows = []
    for m, model in enumerate(record.models):
        for e, explainer in enumerate(explainers):
            mine = {key: rng.normal(m + 10 * e, 1, 60) for key in declared}
            mine["zag"][:5] = np.nan
            values[model.name, explainer] = mine
            figures = {key: _mean(array[np.isfinite(array)]) for key, array in mine.items()}
            undefined = {"zag": {"the search was blind": 3, "not defined for this map": 2}}
            model.maps[explainer] = MapFigures(
                method=f"{explainer}:of={model.name if explainer == 'two' else 'logit'}",
                target="true", figures=figures, undefined=undefined,
            )  # fmt: skip
            rows += [
                {"model": model.name, "explainer": explainer, "example": i, "target": 0, "method": explainer,
                 "change": None, "completeness": None, "map": None, **{key: float(mine[key][i]) for key in mine}}
                for i in range(60)
            ]  # fmt: skip
    pairs = [("", f"{e}_", (a, e), (b, e)) for e in explainers for a, b in itertools.combinations("abc", 2)]
    pairs += [(m, "", (m, "one"), (m, "two")) for m in "abc"]
    record.differences.clear()
    for (model, prefix, first, second), key in itertools.product(pairs, declared):
        change = values[first][key] - values[second][key]
        at = 1 if model else 0
        record.differences.append(
            Difference(
                axis="explainer" if model else "model", model=model, first=first[at], second=second[at],
                measure=f"{prefix}{key}", figure=_mean(change[np.isfinite(change)]),
            )
        )  # fmt: skip
    write_record(folder, record.model_copy(update={"measures": declared}))
    pq.write_table(pa.Table.from_pylist(rows), folder / "maps.parquet")
    root = page(folder)
    section, made = root.one("section", id="maps"), root.one("section", id="made")
    assert ":of=" not in section.text
    for spec in ("one:of=logit", "a: two:of=a", "b: two:of=b", "c: two:of=c"):
        assert [node.text for node in made.all("code")].count(spec) == 1
    assert [node.text for node in section.all("h3")[:2]] == ["Faithful", "Of a plugin's own"]
    assert [node.text for node in section.all("table")[0].one("thead").all("th")] == [
        "Model", "Zig (rad) lower is better", "Zag",
    ]  # fmt: skip
    for (model, explainer), mine in values.items():
        for key, array in mine.items():
            cell = section.one("td", data_model=model, data_measure=f"{explainer}_{key}")
            agrees(cell.text, _mean(array[np.isfinite(array)]))
            assert ("5 undefined" in cell.text) == (key == "zag")
    blind = next(node.text for node in section.all("p") if "blind" in node.text)
    assert "Zag, one, a: 3; Zag, two, a: 3; Zag, one, b: 3" in blind
    for difference in record.differences:
        within = difference.model or difference.measure.rpartition("_")[0]
        wanted = {"data_minus": difference.first, "data_within": within, "data_difference": difference.measure}
        cell = section.one("td", **{f"data_{difference.axis}": difference.second}, **wanted)
        figure = difference.figure.model_copy(
            update={"value": -difference.figure.value, "low": -difference.figure.high, "high": -difference.figure.low}
        )
        agrees(cell.text, figure)
        key = difference.measure.rpartition("_")[2]
        reading = {("zig", True): "worse", ("zig", False): "better", ("zug", True): "better", ("zug", False): "worse",
                   ("zag", True): "larger", ("zag", False): "smaller"}[key, figure.value > 0]  # fmt: skip
        separated = figure.low > 0 or figure.high < 0
        assert cell.text.endswith(reading if separated else "not significant")
    boxes = section.one("figure", data_boxes="two", data_measure="Zag").one("svg", role="img")
    assert [node.attributes["data-box"] for node in boxes.all("g") if "data-box" in node.attributes] == ["b", "c"]
    figures_table = page(folder).one("section", id="figures")
    assert not figures_table.all("td", data_difference="one_zig")


def _mean(values: np.ndarray) -> Figure:
    half = 1.96 * values.std() / math.sqrt(len(values))
    return Figure(value=values.mean(), low=values.mean() - half, high=values.mean() + half, n=len(values))


# -- one file, safe and the same every time ----------------------------------------------------------------------------


def test_the_page_asks_for_nothing_and_runs_nothing(record: Path) -> None:
    root = page(record)
    for node in root.all():
        assert node.tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in node.attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href", "srcset", "action", "xlink:href"):
                assert value.startswith(("data:", "#")), value
    assert all(node.attributes["alt"].strip() for node in root.all("img"))
    anchors = {node.attributes["href"][1:] for node in root.all("a") if node.attributes["href"].startswith("#")}
    assert anchors <= {node.attributes["id"] for node in root.all() if "id" in node.attributes}


def test_the_policy_allows_exactly_the_page_s_own_style(record: Path) -> None:
    root = page(record)
    (style,) = root.all("style")
    digest = base64.b64encode(hashlib.sha256("".join(map(str, style.children)).encode()).digest()).decode()
    policies = [node.attributes["content"] for node in root.all("meta") if "http-equiv" in node.attributes]
    assert policies == [
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]
    assert "url(" not in style.text
    assert "@import" not in style.text


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    names = tuple(f"{HOSTILE}{c}" for c in range(3))
    models = (f"a{HOSTILE}", "b' onmouseover='alert(1)")
    plan = Plan(models=models, classes=3, class_names=names)
    folder = make_record(tmp_path, plan)
    record = read_record(folder)
    flag = Flag(model=models[0], code=HOSTILE, severity="note", message=HOSTILE, remedy=HOSTILE)
    data = record.data.model_copy(update={"name": HOSTILE, "source": HOSTILE, "skipped": [(HOSTILE, HOSTILE)]})
    hostile = {
        "command": HOSTILE, "settings": {HOSTILE: HOSTILE, "list": [HOSTILE]}, "environment": {HOSTILE: HOSTILE},
        "flags": [flag], "data": data, "created": HOSTILE, "advex": HOSTILE,
        "searches": record.searches | {"attack": HOSTILE},
    }  # fmt: skip
    write_record(folder, record.model_copy(update=hostile))
    for table in ("examples", "explanations"):
        rows = pq.read_table(folder / f"{table}.parquet").to_pylist()
        named = [row | ({"id": f"{HOSTILE}{row['example']}"} if "id" in row else {}) for row in rows]
        _parquet(folder / f"{table}.parquet", named)
    html = render(read(folder))
    assert "<script" not in html
    assert "<img src=x" not in html
    root = Tree(html).root
    assert all(not name.startswith("on") for node in root.all() for name in node.attributes)
    assert root.text.count(HOSTILE) > 20
    assert root.one("section", id="figures").all("td", data_model=models[1])


def test_the_same_record_gives_the_same_bytes(record: Path, tmp_path: Path) -> None:
    shutil.copytree(record, tmp_path / "copy")
    first, second = write_report(record), write_report(tmp_path / "copy", tmp_path / "new" / "page.html")
    assert first == record / "report.html"
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob("**/.*.new"))


def test_what_is_no_record_is_refused_by_name(record: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="contains no record.json"):
        write_report(tmp_path)
    with pytest.raises(ArtifactError, match="is a folder; give a file name"):
        write_report(record, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_report(record, tmp_path / "file" / "page.html")
    rows = pq.read_table(record / "examples.parquet").to_pylist()
    _parquet(record / "examples.parquet", [row | {"model": "stranger"} for row in rows])
    with pytest.raises(ArtifactError, match="'stranger'.*record.json"):
        write_report(record)
    _parquet(record / "examples.parquet", [{"model": "robust"} for _ in rows])
    with pytest.raises(ArtifactError, match="has no column example, id"):
        write_report(record)
    (record / "examples.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ArtifactError, match="cannot be read"):
        write_report(record)
    assert not (record / "report.html").exists()


def test_a_report_needs_no_torch(record: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from advex.report import write_report; "
        f"write_report(Path({str(record)!r})); write_report(Path({str(run)!r})); "
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_real_evaluation_can_be_reported(tmp_path: Path) -> None:
    """All that an evaluation writes today appears: no score is lost between the two."""
    from advex import Classifier
    from advex.data import Dataset
    from advex.evaluation import evaluate, settings_from

    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, 1, 6, 6), generator=rng, dtype=torch.uint8)
    y = torch.arange(12) % 3
    data = Dataset(name="noise", x=x, y=y, class_names=("a", "b", "c"), ids=tuple(map(str, range(12))))
    models = [(f"m{width}", "here", Classifier(f"mlp:features=36,classes=3,widths={width}").eval()) for width in (8, 9)]
    settings = settings_from({
        "attack": "minimal:gradients=5", "btr": "minimal:gradients=5", "explanations": 2, "sweep": 1,
        "steps": 3, "recheck": 0, "sweep_rhos": (0.0, 0.1),
    })  # fmt: skip
    record = evaluate(models, data, tmp_path, settings)
    root = page(tmp_path)
    for model in record.models:
        for key in model.scores:
            assert root.one("td", data_model=model.name, data_measure=key).text
    assert len(root.one("section", id="explanations").all("img", class_="crisp change")) == 2 * 2 * 3
    assert "missing" not in root.one("main").text


def test_every_flag_is_explained_in_the_documentation() -> None:
    root = Path(__file__).parents[1]
    source = "".join(path.read_text(encoding="utf-8") for path in (root / "src/advex/evaluation").glob("*.py"))
    of_figures = set(re.findall(r'\bflag\(\s*[\w.]+,\s*"(\w+)"', source))
    source = (root / "src/advex/report/sections/training.py").read_text(encoding="utf-8")
    of_training = set(re.findall(r'_flag\(\s*run, "(\w+)"', source))
    assert len(of_figures) >= 12
    assert len(of_training) == 7
    explained = set(re.findall(r"^\| `(\w+)` \|", (root / "docs/report.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert of_figures | of_training == explained


# -- seen --------------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours (WCAG 2), at least 1."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast_reaches_wcag_aa_in_both_themes(theme: int) -> None:
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style())
    colours = {name: (light, dark)[theme] for name, light, dark in pairs}
    grounds = {name: colours[name] for name in ("ground", "raised")}
    for name in ("ink", "muted", "link", "warning", "note", *(f"m{i}" for i in range(6))):
        for ground in grounds.values():
            assert contrast(colours[name], ground) >= 4.5, (name, ground)
    for kind in ("warning", "note"):
        for name in (kind, "ink", "muted"):
            assert contrast(colours[name], colours[f"{kind}-ground"]) >= 4.5, (name, kind)
    assert contrast(colours["axis"], colours["ground"]) >= 3


def test_no_two_curves_of_a_panel_are_drawn_alike() -> None:
    dashes = re.findall(r"\.(t\d|robust)\.trace path, [^{]*\{ stroke-dasharray: ([\d. ]+);", style())
    assert [name for name, _ in dashes] == ["t1", "t2", "t3", "t4", "t5", "robust"]  # t0 is solid
    assert len({dash for _, dash in dashes}) == len(dashes)


# Words of models' names that stand on more than one line although they would fit on one of their own.
_BROKEN = """[...document.querySelectorAll('.headline .name, .figures .name, .plain .name')].flatMap(name => {
  const node = document.createTreeWalker(name, NodeFilter.SHOW_TEXT).nextNode();
  return [...(node?.data ?? '').matchAll(/[A-Za-z0-9]{1,20}(?=-|$)/g)].filter(word => {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    return new Set([...range.getClientRects()].map(box => box.top)).size > 1;
  }).map(word => word[0]);
})"""


_FOLDED = "[...document.querySelectorAll('details')].map(each => each.lastElementChild.getBoundingClientRect().height)"


@pytest.mark.browser
def test_names_are_broken_at_hyphens_alone(tmp_path: Path, browser: Any) -> None:
    plan = Plan(models=("cifar10-adversarial", "cifar10-ordinary", "lipschitz"))
    path = write_report(make_record(tmp_path / "record", plan))
    tab = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    tab.goto(path.as_uri())
    for width in (1400, 820, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate(_BROKEN) == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    tab.emulate_media(media="print")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 718
    heights = tab.evaluate(_FOLDED)
    assert heights
    assert min(heights) > 0  # paper cannot be unfolded


@pytest.mark.browser
def test_in_a_browser(tmp_path: Path, browser: Any) -> None:
    """No message, no request, no page wider than a phone; the choice of colours works; figures can be saved."""
    flag = Flag(model="robust", code="more_steps", severity="warning", message="More.", remedy="Give more.")
    names = ("an uncommonly long class name that goes on and on", *(f"Klasse_{c}" * 6 for c in range(1, 10)))
    plan = Plan(models=("ordinary", "robust" * 12), class_names=names, published=True, changes={"flags": [flag]})
    path = write_report(make_record(tmp_path / "record", plan))
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.check("#theme-dark")
    dark = tab.evaluate(ground)
    tab.check("#theme-auto")
    assert (light, dark) == ("rgb(251, 250, 248)", "rgb(20, 23, 26)")
    assert tab.evaluate(ground) == light
    tab.emulate_media(color_scheme="dark")
    assert tab.evaluate(ground) == dark
    tab.check("#theme-light")
    assert tab.evaluate(ground) == light
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    with tab.expect_download() as download:
        tab.click("text=figures.csv")
    assert download.value.suggested_filename == "figures.csv"
    for width, height, lowest in ((1400, 900, 600), (1280, 900, 700), (400, 900, 900)):
        tab.set_viewport_size({"width": width, "height": height})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.querySelector('main img').getBoundingClientRect().top + scrollY") <= lowest
    widths = tab.evaluate("[...document.querySelectorAll('.input .shift')].map(each => each.scrollWidth)")
    assert 0 < max(widths) <= 160  # a long name goes on below, not over the next picture
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.browser
def test_training_in_a_browser(tmp_path: Path, browser: Any) -> None:
    """No message, no request, nothing wider than a phone; the drawings of a row stand on one line."""
    lines = [noted(epoch, parts=noted(epoch)["parts"] | {"name" * 20: 0.1}) for epoch in range(1, 11)]
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / ("robust" * 20), lines)]
    path = write_report(runs, tmp_path / "page.html")
    tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("request", lambda request: said.append(request.url))
    tab.goto(path.as_uri())
    boxes = tab.evaluate(
        "[...document.querySelectorAll('.course')].map(course => [...course.querySelectorAll('.small > svg')]"
        ".map(svg => { const box = svg.getBoundingClientRect(); return [box.left, box.top, box.width]; }))"
    )
    for course in boxes:
        assert len(course) == 4
        assert len({top for _, top, _ in course}) == len({width for _, _, width in course}) == 1
    assert [left for left, _, _ in boxes[0]] == [left for left, _, _ in boxes[1]]
    for width in (1280, 820, 400):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert said == [path.as_uri()]
