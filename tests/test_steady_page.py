"""The page on whether an explanation can be trusted: worst inputs that were met, their maps, what is said of them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import advex
from advex import explainers, record
from advex.classifier import Classifier
from advex.data import Dataset
from advex.evaluation import evaluate, settings_from
from advex.report import write_report
from advex.report.reading import read
from advex.report.sections.steady import Steady

KEY, RADIUS = "worst_case", 0.1
SPEC = f"{KEY}:search=(pgd:radius={RADIUS},steps=3),distance=(top_k:k=10)"
SHOWN = 4


@pytest.fixture(scope="module")
def data() -> Dataset:
    return advex.open_dataset("digits", split="test").sample(12, seed=1)


@pytest.fixture(scope="module")
def networks() -> dict[str, Classifier]:
    made = {}
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        made[name] = Classifier("small_cnn:widths=4-4-4,activation=relu").eval()
    return made


@pytest.fixture(scope="module")
def folder(networks: dict[str, Classifier], data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steady") / "record"
    settings = settings_from({
        "attack": None, "btr": None, "explanations": SHOWN, "pictures": (), "recheck": 0, "batch_size": 5,
        "maps": ("gradient", "occlusion"), "measures": (SPEC,),
    })  # fmt: skip
    evaluate([(name, "given", network) for name, network in networks.items()], data, out, settings)
    return out


def test_the_inputs_at_which_the_maps_moved_are_kept_of_the_examples_shown(
    folder: Path, networks: dict[str, Classifier], data: Dataset
) -> None:
    rows = record.read_rows(folder, "moved")
    assert {row["explainer"] for row in rows} == {"gradient"}, "a map without derivatives is not attacked"
    assert {row["measure"] for row in rows} == {KEY}
    for name, network in networks.items():
        mine = [row for row in rows if row["model"] == name]
        assert len(mine) == SHOWN
        for row in mine:
            clean = data.batch(slice(row["example"], row["example"] + 1)).x
            moved = torch.tensor(row["x"]).reshape(clean.shape)
            assert ((moved >= 0) & (moved <= 1)).all()
            assert (moved - clean).abs().max() <= RADIUS + 1e-6
            decided = network.predict(clean).argmax(dim=1)
            assert torch.equal(network.predict(moved).argmax(dim=1), decided)
            expected = explainers.Gradient()(network, moved, decided).map
            assert torch.allclose(torch.tensor(row["map"]).reshape(clean.shape), expected, rtol=1e-3, atol=1e-5)


def test_the_page_shows_worst_middle_and_best_and_says_what_was_found(folder: Path) -> None:
    contents = read(folder)
    values = Steady()(contents)
    assert values is not None
    (gradient,) = values["every"]
    assert gradient.explainer == "gradient"
    rows = [row for row in contents.rows("maps") if row["explainer"] == "gradient"]
    kept = {(row["model"], row["example"]) for row in contents.rows("moved")}
    for model in gradient.models:
        moved = sorted(
            row[KEY] for row in rows if (row["model"], row["example"]) in kept and row["model"] == model.name
        )
        assert [example.which for example in model.examples] == ["worst", "middle", "best"]
        shown = [float(example.value) for example in model.examples]
        assert shown == pytest.approx([moved[-1], moved[len(moved) - 1 - len(moved) // 2], moved[0]], abs=0.006)
        assert all(len(example.pictures) == len(example.maps) == 3 for example in model.examples)
        figures = next(each for each in contents.record.models if each.name == model.name).maps["gradient"].figures
        numbers = [float(text) for text in re.findall(r"\d+\.\d+(?= \[)", model.sentence)]
        meant = [figures[f"{KEY}{ending}"].value for ending in ("", "_attack", "_random")]
        assert numbers == pytest.approx(meant, abs=0.006)
        assert "Counted: 12 of 12" in model.sentence
    assert gradient.plot is not None
    assert [box.name for box in gradient.plot.boxes] == [
        "first, attacked", "first, at random", "second, attacked", "second, at random",
    ]  # fmt: skip
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count('data-steady="worst"') == 2
    assert "Can this explanation be trusted?" in page


def test_a_record_without_worst_cases_has_no_such_section(
    networks: dict[str, Classifier], data: Dataset, tmp_path: Path
) -> None:
    settings = settings_from({
        "attack": None, "btr": None, "explanations": 1, "pictures": (), "recheck": 0, "maps": ("gradient",),
        "measures": ("gini",),
    })  # fmt: skip
    evaluate([("first", "given", networks["first"])], data, tmp_path / "record", settings)
    assert not (tmp_path / "record" / "moved.parquet").exists()
    contents = read(tmp_path / "record")
    assert Steady()(contents) is None
    assert not math.isnan(np.mean([row["gini"] for row in contents.rows("maps")]))
