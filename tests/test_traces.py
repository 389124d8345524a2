"""What measures see on their way is kept of the explained examples: curves of removal, maps while layers are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import advex
from advex.evaluation import evaluate, settings_from
from advex.measures.case import build
from advex.measures.randomised import layers, randomised
from advex.record import read_rows
from advex.report import write_report
from advex.report.reading import read
from advex.report.section import tables_of_sections
from advex.report.sections.traces import HEIGHT, WIDTH, Traces

SETTINGS = {
    "attack": None, "btr": None, "pictures": (), "explanations": 3, "batch_size": 4,
    "maps": ("gradient", "edge"), "measures": ("deletion:steps=4", "randomised", "gini"),
}  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    data = advex.open_dataset("planted", split="test", max_samples=6, seed=0)
    classifier = advex.load("builtin:planted")
    evaluate([("planted", "builtin:planted", classifier)], data, folder, settings_from(SETTINGS))
    return folder


def test_curves_have_the_areas_that_the_measure_reports(record: Path) -> None:
    rows = [row for row in read_rows(record, "traces") if row["measure"] == "deletion"]
    areas = {(row["explainer"], row["example"]): row["deletion"] for row in read_rows(record, "maps")}
    assert len({row["example"] for row in rows}) == 3, "of the examples that the report explains"
    for explainer, example in {(row["explainer"], row["example"]) for row in rows}:
        mine = [row for row in rows if (row["explainer"], row["example"]) == (explainer, example)]
        steps, values = zip(*sorted((float(row["step"]), row["value"]) for row in mine), strict=True)
        assert steps == (0, 0.25, 0.5, 0.75, 1)
        area = sum((b - a) * (u + v) / 2 for a, b, u, v in zip(steps, steps[1:], values, values[1:], strict=False))
        assert area == pytest.approx(areas[explainer, example])


def test_maps_are_those_of_the_network_and_of_copies_layer_by_layer(record: Path) -> None:
    data = advex.open_dataset("planted", split="test", max_samples=6, seed=0)
    classifier = advex.load("builtin:planted")
    rows = [row for row in read_rows(record, "traces") if row["measure"] == "randomised_first"]
    example = rows[0]["example"]
    batch = data.batch(slice(example, example + 1))
    target = classifier.predict(batch.x).argmax(dim=1)
    explainer: Any = advex.explainers.build("gradient")
    downwards = layers(classifier, batch.x)[::-1]
    names = [names[0].removeprefix("network.") for names in downwards]
    mine = {row["step"]: row["map"] for row in rows if (row["explainer"], row["example"]) == ("gradient", example)}
    assert list(mine) == ["trained", *names]
    cascade: tuple[str, ...] = ()
    for step, copy in [("trained", classifier), *zip(names, downwards, strict=True)]:
        if step != "trained":
            cascade += copy
            copy = randomised(classifier, cascade, 0)
        expected = explainer(copy, batch.x, target).map.abs().amax(dim=1).flatten()
        assert np.allclose(mine[step], expected.numpy(), rtol=1e-4, atol=1e-6), step
    edges = [row["map"] for row in rows if (row["explainer"], row["example"]) == ("edge", example)]
    assert all(np.array_equal(each, edges[0]) for each in edges), "looks at no weights"


def test_the_page_draws_them(record: Path) -> None:
    shown: Any = Traces()(read(record, tables_of_sections()))
    (curves,) = shown["curves"]
    assert (curves.title, curves.examples) == ("Deletion", 3)
    assert [(curve.explainer, curve.control) for curve in curves.curves] == [("gradient", False), ("edge", True)]
    for curve in curves.curves:
        points = [tuple(map(float, point.split())) for point in curve.mean.removeprefix("M").split("L")]
        x, y = np.array(points).T
        shares, values = x / WIDTH, 1 - y / HEIGHT
        area = float((np.diff(shares) * (values[1:] + values[:-1]) / 2).sum())
        assert area == pytest.approx(float(curve.area), abs=0.003)
        assert len(curve.each) == 3
    assert len(shown["strips"]) == 3
    (steps,) = {strip.steps for strip in shown["strips"]}
    assert steps[0] == "trained"
    assert all(heat is not None for strip in shown["strips"] for _, maps in strip.lines for heat in maps)
    page = write_report(record).read_text(encoding="utf-8")
    assert page.count("data-strip=") == 6


def test_a_map_without_a_value_leaves_no_trace() -> None:
    """Of a measure that says it, in the order of the steps; no other measure keeps anything."""
    assert not getattr(build("gini"), "traces", False)
    assert all(getattr(build(spec), "traces", False) for spec in ("deletion", "insertion:fill=mean", "randomised"))
