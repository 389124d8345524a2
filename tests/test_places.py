"""The boxes of the labelled thing and of the map: those that the figure judges, kept of shown examples, on the page."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import advex
from advex.classifier import Classifier
from advex.errors import AdvexWarning, ArtifactError
from advex.evaluation import evaluate, settings_from, settled
from advex.evaluation.merge import merge
from advex.measures.boxes import overlap
from advex.record import read_rows
from advex.report import write_report

MEASURES = (
    "localisation", "localisation:rule=mean,components=all,smooth=mean", "localisation:rule=percent,connectivity=4",
    "localisation:published=true", "gini",
)  # fmt: skip
SETTINGS = {
    "attack": None, "btr": None, "pictures": (), "explanations": 4, "batch_size": 5,
    "maps": ("gradient", "grad_cam"), "measures": MEASURES,
}  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placed")
    data = advex.open_dataset("planted", split="test", max_samples=12, seed=0)
    evaluate([("planted", "builtin:planted", advex.load("builtin:planted"))], data, folder, settings_from(SETTINGS))
    return folder


def test_the_boxes_are_those_of_the_figure(record: Path) -> None:
    """The overlap of the two boxes is the value that the table has for the example, by every rule."""
    data = advex.open_dataset("planted", split="test", max_samples=12, seed=0)
    assert data.evidence is not None
    rows = read_rows(record, "places")
    assert len(rows) == 2 * 4 * 4  # explainers, shown examples, measures with boxes
    overlaps = {(row["explainer"], row["example"]): row for row in read_rows(record, "maps")}
    boxed = 0
    for row in rows:
        assert row["things"] == data.evidence.boxes[row["example"]].tolist()
        expected = overlaps[row["explainer"], row["example"]][f"{row['measure']}_iou"]
        if row["box"] is None:
            assert expected == 0
        else:
            boxed += 1
            found = overlap(np.array([row["box"]]), np.array(row["things"])).max()
            assert found == pytest.approx(expected, abs=1e-12)
    assert boxed > 24


def test_the_page_frames_the_thing_and_the_map(record: Path) -> None:
    page = write_report(record).read_text(encoding="utf-8")
    first = [row for row in read_rows(record, "places") if row["measure"] == "localisation"]
    assert page.count('<rect class="thing"') == 1 + sum(len(row["things"]) for row in first)  # one explains the line
    drawn = re.findall(r'<rect class="own" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"/>', page)
    boxes = [row["box"] for row in first if row["box"] is not None]
    expected = sorted((x0, y0, x1 + 1 - x0, y1 + 1 - y0) for x0, y0, x1, y1 in boxes)
    assert sorted(tuple(map(float, each)) for each in drawn)[: len(expected) + 1] == sorted([*expected, (2, 2, 22, 12)])
    assert "where the labelled object is" in page


def test_without_a_measure_of_boxes_there_is_none(tmp_path: Path) -> None:
    data = advex.open_dataset("planted", split="test", max_samples=2, seed=0)
    settings = {"attack": None, "btr": None, "pictures": (), "explanations": 1, "maps": ("gradient",)}
    evaluate([("planted", "builtin:planted", advex.load("builtin:planted"))], data, tmp_path, settings_from(settings))
    assert not (tmp_path / "places.parquet").exists()
    assert "where the labelled object is" not in write_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize("turned", [False, True])
def test_a_record_from_before_boxes_were_kept_is_compared_with_one_of_today(
    record: Path, tmp_path: Path, turned: bool
) -> None:
    old = tmp_path / "old"
    shutil.copytree(record, old)
    for name in ("places", "parts"):
        (old / f"{name}.parquet").unlink()
    merged = merge([old, record] if turned else [record, old], tmp_path / "both")
    assert len(merged.models) == 2
    assert not (tmp_path / "both" / "places.parquet").exists()
    assert any(line.measure == "gradient_localisation_iou" for line in merged.differences)


def test_a_figure_that_meant_something_else_is_not_compared_nor_drawn_anew(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two such records are compared, by intervals of the examples' own values."""
    key, old = "localisation_iou", tmp_path / "old"
    shutil.copytree(record, old)
    held = json.loads((old / "record.json").read_text())
    assert key in held["measures"]
    held["measures"][key]["title"] = "Something else"
    (old / "record.json").write_text(json.dumps(held))
    with pytest.raises(ArtifactError, match=f"{key} is '.*' there and 'Something else' here"):
        merge([record, old], tmp_path / "none")
    drawn, estimates = list[set[str]](), settled.estimates
    monkeypatch.setattr(settled, "estimates", lambda *of: drawn.append({*estimates(*of)}) or estimates(*of))
    anew = []
    for folder in (record, old):
        drawn.clear()
        differences = merge([folder, folder], tmp_path / folder.name / "both").differences
        assert {line.figure.value for line in differences if line.measure == f"gradient_{key}"} == {0}
        anew.append(set.union(*drawn))
    assert anew[0] - anew[1] == {key}


def test_an_evaluation_of_before_is_finished_from_its_shards(record: Path, tmp_path: Path) -> None:
    """Its shards do not say how long a map took; nor does the record then."""
    old = tmp_path / "old"
    shutil.copytree(record, old)
    (old / "record.json").unlink()
    stripped = 0
    for path in (old / "shards").rglob("*.parquet"):
        table = pq.read_table(path)
        if "seconds" in table.column_names:
            stripped += 1
            pq.write_table(table.drop_columns(["seconds"]), path)
    assert stripped
    data = advex.open_dataset("planted", split="test", max_samples=12, seed=0)
    models = [("planted", "builtin:planted", advex.load("builtin:planted"))]
    finished = evaluate(models, data, old, settings_from(SETTINGS), resume=True)
    assert finished.models[0].maps["gradient"].seconds is None
    assert (old / "maps.parquet").read_bytes() == (record / "maps.parquet").read_bytes()


class Rounding(nn.Module):
    """No gradient reaches an input whose first pixel is dark; the others reach the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        dark = (x[:, :1, :1, :1] < x[:, :1, :1, :1].median()).expand_as(x)
        return self.network(torch.where(dark, x.detach(), x))


def test_maps_that_no_gradient_reached_are_no_misses(tmp_path: Path) -> None:
    trained = advex.load("builtin:planted")
    data = advex.open_dataset("planted", split="test", max_samples=12, seed=0)
    mean, std = trained.mean.flatten().tolist(), trained.std.flatten().tolist()
    blind = Classifier(Rounding(trained.network), mean=mean, std=std, class_names=trained.class_names)
    settings = {**SETTINGS, "maps": ("gradient", "random"), "measures": ("localisation", "mass"), "batch_size": 12}
    with pytest.warns(AdvexWarning, match="no gradient reached the input"):
        record = evaluate([("blind", "blind", blind.eval())], data, tmp_path, settings_from(settings))
    rows = {row["example"]: row for row in read_rows(tmp_path, "maps") if row["explainer"] == "gradient"}
    flat = {example for example, row in rows.items() if row["mass"] is None or math.isnan(row["mass"])}
    assert 0 < len(flat) < 12
    assert {example for example, row in rows.items() if math.isnan(row["localisation"])} == flat
    figures = record.models[0].maps["gradient"]
    assert figures.figures["localisation"].n == figures.figures["mass"].n == 12 - len(flat)
    assert figures.undefined["localisation"] == figures.undefined["mass"]
    (apart,) = (line for line in record.differences if line.measure == "localisation_iou")
    assert apart.figure.n == 12 - len(flat)
    assert -1 <= apart.figure.low <= apart.figure.value <= apart.figure.high <= 1
