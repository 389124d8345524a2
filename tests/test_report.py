"""The report of planted records: every figure and cell is there, coordinates are right, nothing is let in or out."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from advex import measures
from advex.errors import ArtifactError
from advex.record import DataEntry, Difference, Figure, Flag, ModelEntry, Record, read_record, write_record
from advex.report import write_report
from advex.report.findings import findings
from advex.report.grids import sections
from advex.report.page import render
from advex.report.pictures import colour_map, common_scale, read_picture, show_change
from advex.report.plots import Frame, area, axis_top, line, panels, steps
from advex.report.reading import read

RHOS = (0.0, 0.025, 0.05, 0.1, 0.2)
HOSTILE = "</style><script>alert(1)</script>\"><img src=x onerror=alert(1)>"


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
        reached = {
            f"{purpose}_toward": Figure(value=0.5 + 0.1 * place, low=0.4, high=0.8, n=plan.explained * plan.classes)
            for purpose, shown in (("grid", plan.explained), ("sweep", plan.swept))
            if shown
        }
        models.append(
            ModelEntry(
                name=model, source=f"runs/{model}", spec="cnn:widths=16-32,activation=half_huber", parameters=23_946,
                scores=scores, rho_reached=reached,
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
        "searches": {name: protocol if "published" in name else tight for name in searches},
        "models": models,
        "differences": differences,
    }  # fmt: skip
    return Record(**(fields | plan.changes))


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


def page(folder: Path, **options: int) -> Node:
    """The report of a record as a tree."""
    return Tree(render(read(folder), **options)).root


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
    for difference in record.differences:
        shown = root.one(
            "td", data_difference=difference.measure, data_first=difference.first, data_second=difference.second
        )
        agrees(shown.text, difference.figure, 100 if difference.measure == "accuracy" else 1)


def test_published_figures_stand_apart_and_footnotes_name_the_searches(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(published=True)))
    tight, published = root.all("table", class_="figures")[:2]
    assert not tight.all("span", class_="protocol")
    assert [node.text for node in published.all("span", class_="protocol")] == ["published protocol"] * 2
    assert published.all("td", data_measure="btr_ara_published")
    assert not tight.all("td", data_measure="btr_ara_published")
    notes = [node.text for node in root.one("section", id="figures").all("ol", class_="footnotes")]
    assert "attack minimal:gradients=100" in notes[0]
    assert "btr_published algorithm1:steps=450,published=true" in notes[1]


def test_counts_come_from_the_examples(record: Path) -> None:
    """Median RMSE of what is classified rightly, failures and their number: recomputed from the rows."""
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


# -- findings ----------------------------------------------------------------------------------------------------------


def sentences(folder: Path) -> list[str]:
    """The findings as plain text."""
    return ["".join(part.text for part in sentence) for sentence in findings(read(folder))]


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
    assert told[0] == (
        "robust bears 6.3 times the change that ordinary bears: attack ARA 0.0457 [0.0420, 0.0493] against "
        "0.0072 [0.0065, 0.0080]; paired difference 0.0385 [0.0350, 0.0420]."
    )


def test_a_difference_that_includes_zero_is_not_claimed(tmp_path: Path) -> None:
    told = planted(tmp_path, ara(0.040, 0.036, 0.045), ara(0.042, 0.037, 0.046), ara(-0.002, -0.005, 0.001))
    assert told[0] == (
        "The data do not separate robust and ordinary by attack ARA: 0.0420 [0.0370, 0.0460] against "
        "0.0400 [0.0360, 0.0450]; the paired difference 0.0020 [−0.0010, 0.0050] includes zero."
    )
    assert "times" not in told[0]


def test_nothing_is_claimed_beyond_what_is_known(tmp_path: Path) -> None:
    none = ara(0.0, 0.0, 0.0)
    told = planted(tmp_path / "a", none, ara(0.04, 0.03, 0.05), ara(-0.04, -0.05, -0.03))[0]
    assert "bears more change than ordinary, which bears none" in told
    infinite = Figure(value=math.inf, low=math.inf, high=math.inf, n=60, failures=30)
    told = planted(tmp_path / "b", none, infinite, ara(-math.inf, -math.inf, -math.inf))
    assert told[0].startswith("The attack ARA of robust is infinite: the search failed on 50\u202f% of the examples")
    assert not any("times" in sentence for sentence in told)


def test_saved_pictures_that_change_class_are_counted(record: Path) -> None:
    # Of 2 models, 2 examples, 11 targets and a sweep of 2 targets and 5 rhos: one turned for each example of the first.
    assert sentences(record)[-1].startswith("2 of 64 explanation pictures are decided differently")


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
    assert panel.top == axis_top([radii for radii in both if radii is not None]) == np.percentile(found, 98)
    assert panel.beyond == (found > panel.top).sum() > 0
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
    assert curve.failed_y == panel.frame.y(curve.failed)
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
    section = sections(read(record))[0]
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
    scale = sections(read(folder))[0].scale
    assert scale is not None
    assert f"drawn {scale.amplification:.1f} times as large" in root.one("section", id="explanations").text
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


# -- what may be missing -----------------------------------------------------------------------------------------------


def test_one_model_alone(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(models=("only",))))
    told = root.one("section", id="findings").text
    assert "only decides" in told
    assert "Its attack ARA is" in told
    assert "Paired differences" not in root.text


def test_no_explanations(tmp_path: Path) -> None:
    root = page(make_record(tmp_path, Plan(explained=0, swept=0)))
    assert "No example was explained in this evaluation." in root.text
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
    assert "there is no curve to draw" in root.text
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
    full, small = render(read(record)), render(read(record), picture_bytes=40_000)
    assert len(small) < len(full)
    told = Tree(small).root.one("section", id="explanations").text
    assert "1 of 2 explained examples are shown" in told
    assert "are shown, so that" not in Tree(full).root.text


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
    with pytest.raises(ArtifactError, match="holds no record.json"):
        write_report(tmp_path)
    with pytest.raises(ArtifactError, match="is a folder; name the file"):
        write_report(record, tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_report(record, tmp_path / "file" / "page.html")
    rows = pq.read_table(record / "examples.parquet").to_pylist()
    _parquet(record / "examples.parquet", [row | {"model": "stranger"} for row in rows])
    with pytest.raises(ArtifactError, match="'stranger', a model that record.json does not list"):
        write_report(record)
    _parquet(record / "examples.parquet", [{"model": "robust"} for _ in rows])
    with pytest.raises(ArtifactError, match="has no column example, id"):
        write_report(record)
    (record / "examples.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ArtifactError, match="cannot be read"):
        write_report(record)
    assert not (record / "report.html").exists()


def test_a_report_needs_no_torch(record: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from advex.report import write_report; "
        f"write_report(Path({str(record)!r})); print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
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
    source = (root / "src/advex/evaluation/trust.py").read_text(encoding="utf-8")
    codes = set(re.findall(r'(?:\.flag\(\s*|code=)"(\w+)"', source))
    assert len(codes) >= 12
    explained = set(re.findall(r"^\| `(\w+)` \|", (root / "docs/report.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert codes == explained


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
    style = (Path(sys.modules["advex.report"].__file__ or "").parent / "style.css").read_text(encoding="utf-8")
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: (light, dark)[theme] for name, light, dark in pairs}
    grounds = {name: colours[name] for name in ("ground", "raised")}
    for name in ("ink", "muted", "link", "warning", "note", *(f"m{i}" for i in range(6))):
        for ground in grounds.values():
            assert contrast(colours[name], ground) >= 4.5, (name, ground)
    for kind in ("warning", "note"):
        for name in (kind, "ink", "muted"):
            assert contrast(colours[name], colours[f"{kind}-ground"]) >= 4.5, (name, kind)
    assert contrast(colours["axis"], colours["ground"]) >= 3


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(tmp_path: Path) -> None:
    """No message, no request, no page wider than a phone; the choice of colours works; figures can be saved."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    flag = Flag(model="robust", code="more_steps", severity="warning", message="More.", remedy="Give more.")
    names = ("an uncommonly long class name that goes on and on", *(f"Klasse_{c}" * 6 for c in range(1, 10)))
    plan = Plan(models=("ordinary", "robust" * 12), class_names=names, published=True, changes={"flags": [flag]})
    path = write_report(make_record(tmp_path / "record", plan))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
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
            for width in (1280, 400):
                tab.set_viewport_size({"width": width, "height": 900})
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        finally:
            browser.close()
