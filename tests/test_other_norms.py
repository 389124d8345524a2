"""Evaluations whose searches make other norms small: their curves and areas are in these, and are named so."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.cli import tables
from advex.data import Dataset, open_dataset
from advex.errors import ArtifactError, SpecError
from advex.evaluation import Settings, evaluate, settings_from
from advex.evaluation.merge import merge
from advex.record import Record, read_record, read_rows, summary
from advex.report import write_report

N = 40
BASE: dict[str, Any] = {"btr": None, "explanations": 0, "pictures": (), "recheck": 0}
L2, LINF, BY_DEFAULT = "minimal@misclassify", "attack", "minimal@misclassify-2"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_dataset("digits", split="test").sample(N, seed=1)


def linear(penalty: float) -> Classifier:
    """A linear network that answers the ridge regression of the classes."""
    train = open_dataset("digits", split="train").batch(slice(None))
    x = torch.cat([train.x.flatten(1), torch.ones(len(train), 1)], dim=1).double()
    target = nn.functional.one_hot(train.y, 10).double()
    solved = torch.linalg.solve(x.T @ x + penalty * torch.eye(65, dtype=torch.float64), x.T @ target).float()
    classifier = Classifier("linear:features=64,classes=10")
    layer: Any = next(module for module in classifier.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        layer.weight.copy_(10 * solved[:64].T)
        layer.bias.copy_(10 * solved[64])
    return classifier.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def models() -> list[tuple[str, str, Classifier]]:
    return [(f"line{seed}", f"runs/{seed}", linear(10.0**seed)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def done(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two linear networks: an attack in linf, and two more searches in l2 and RMSE."""
    folder = tmp_path_factory.mktemp("norms") / "out"
    searches = ("minimal:norm=l2@misclassify", "minimal@misclassify")
    made = evaluate(models, data, folder, Settings(**BASE, attack="minimal:norm=linf", searches=searches))
    return SimpleNamespace(folder=folder, record=made, rows=read_rows(folder, "examples"))


def exact_linf(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The smallest LINF change of a linear network's decisions inside the box, by bisection against each class."""
    layer: Any = next(module for module in classifier.modules() if isinstance(module, nn.Linear))
    distance = torch.full((len(x),), torch.inf)
    for other in range(10):
        way = (layer.weight[other] - layer.weight[y]).sign()
        low, high = torch.zeros(len(x)), torch.ones(len(x))
        for _ in range(30):
            middle = (low + high) / 2
            logits = classifier((x.flatten(1) + middle[:, None] * way).clamp(0, 1).reshape(x.shape))
            moved = logits[:, other] > logits.gather(1, y[:, None])[:, 0]
            low, high = torch.where(moved, low, middle), torch.where(moved, middle, high)
        distance = torch.where((other != y) & (high < 1), torch.minimum(distance, high), distance)
    return torch.where(classifier.predict(x).argmax(dim=1) == y, distance, 0.0)


def area(radii: np.ndarray, chance: float) -> float:
    """Of the step function of accuracy above chance, by a sum over a fine grid of radii."""
    grid = np.linspace(0, radii.max(), 200_001)
    accuracy = (radii[None, :] > grid[:, None]).mean(axis=1)
    return float(np.trapezoid(np.clip(accuracy - chance, 0, None), grid))


def test_areas_are_those_of_the_smallest_changes_in_their_norm(done: Any, models: list, data: Dataset) -> None:
    batch = data.batch(slice(None))
    for name, _, classifier in models:
        entry = next(each for each in done.record.models if each.name == name)
        rows = [row for row in done.rows if row["model"] == name]
        exact = exact_linf(classifier, batch.x, batch.y).numpy()
        found = np.array([row["attack_size"] for row in rows])
        assert np.allclose(found, exact, rtol=0.01)
        assert entry.scores["attack_ara:linf"].value == pytest.approx(area(exact, data.chance), rel=0.01)
        assert entry.scores["attack_ara:linf"].value == pytest.approx(area(found, data.chance), rel=1e-3)
        middle = np.sort(found[found > 0])
        assert entry.scores["attack_median:linf"].value == pytest.approx(middle[(len(middle) - 1) // 2])
        assert not {"attack_ara", "attack_rmse_median"} & entry.scores.keys()
        # Of 64 elements the Euclidean length is eight times the root mean square.
        l2, rmse = entry.scores[f"{L2}_ara:l2"].value, entry.scores[f"{BY_DEFAULT}_ara"].value
        assert l2 == pytest.approx(8 * rmse, rel=0.01)


def test_models_are_compared_in_one_norm_at_a_time(done: Any, data: Dataset) -> None:
    assert done.record.norms == {LINF: "linf", L2: "l2"}
    areas = {line.measure: line for line in done.record.differences if "_ara" in line.measure}
    assert set(areas) == {"attack_ara:linf", f"{L2}_ara:l2", f"{BY_DEFAULT}_ara"}
    for key, line in areas.items():
        first, second = (model.scores[key].value for model in done.record.models)
        assert line.figure.value == pytest.approx(first - second)
    printed = json.loads(summary(done.record, done.folder))
    assert (
        printed["models"]["line0"]["attack_ara:linf"]["value"] == done.record.models[0].scores["attack_ara:linf"].value
    )


def test_page_and_terminal_name_the_norm_and_no_other(
    models: list, data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = evaluate(models, data, tmp_path / "out", Settings(**BASE, attack="minimal:norm=linf,gradients=30"))
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>|<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert "RMSE" not in re.sub(r"<[^>]*>", " ", text)
    assert "RMSE" not in " ".join(re.findall(r'aria-label="([^"]*)"', text))
    assert ">L∞ of the change (0 none, 1 black to white)<" in text
    assert "ARA in L∞" in text
    assert "Median in L∞" in text
    assert "L∞ is the largest change of an element" in text
    tables.show(made)
    tables.show_differences(made)
    printed = capsys.readouterr().out
    assert "RMSE" not in printed
    assert "attack ARA, linf" in printed


def test_curves_of_several_norms_stand_side_by_side(done: Any) -> None:
    page = write_report(done.folder).read_text(encoding="utf-8")
    axes = [re.search(rf'data-search="{re.escape(name)}".*?>([^<>]*) of the change', page, re.DOTALL)
            for name in (LINF, L2, BY_DEFAULT)]  # fmt: skip
    assert [axis and axis.group(1) for axis in axes] == ["L∞", "L2", "RMSE"]


def test_more_gradients_are_said_to_help_in_the_norm_of_the_attack(models: list, data: Dataset, tmp_path: Path) -> None:
    few = Settings(**{**BASE, "recheck": N}, attack="minimal:norm=linf,gradients=3")
    made = evaluate(models[:1], data, tmp_path / "out", few)
    flags = {flag.code: flag.message for flag in made.flags}
    assert "the mean L∞ of" in flags["more_steps"]
    assert "RMSE" not in flags["more_steps"]


def test_the_recheck_by_decisions_is_in_the_norm_of_the_attack(data: Dataset, tmp_path: Path) -> None:
    """Half of the pixels' gradients are cut off: the walk comes nearer, in L2 by eight times what it does in RMSE."""

    class Half(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            seen = torch.arange(64).reshape(x.shape[1:]) % 2 == 0
            return self.inner(torch.where(seen, x, x.detach()))

    classifier = Classifier(Half(linear(1.0)), box=(0, 1))
    areas = {}
    for norm in ("l2", "rmse"):
        asked = Settings(**{**BASE, "recheck": N}, attack=f"minimal:norm={norm},gradients=40")
        made = evaluate([("half", "", classifier)], data, tmp_path / norm, asked)
        suffix = "" if norm == "rmse" else f":{norm}"
        areas[norm] = [made.models[0].scores[f"attack_{of}_ara{suffix}"].value for of in ("sample", "decisions")]
    assert areas["l2"] == pytest.approx([8 * value for value in areas["rmse"]], rel=0.02)
    assert areas["rmse"][1] < 0.9 * areas["rmse"][0]


def test_certificates_are_not_set_beside_another_norm() -> None:
    with pytest.raises(SpecError, match="Certificates hold in l2, but the attack 'minimal:norm=linf'"):
        settings_from({"attack": "minimal:norm=linf", "certify": 0.1})
    settings_from({"attack": "minimal:norm=l2", "certify": 0.1})


def test_records_from_before_are_in_rmse_and_not_merged_with_others(done: Any, tmp_path: Path) -> None:
    values = json.loads((done.folder / "record.json").read_text(encoding="utf-8"))
    del values["norms"]
    for name in ("examples.parquet",):
        (tmp_path / name).write_bytes((done.folder / name).read_bytes())
    (tmp_path / "record.json").write_text(json.dumps(values), encoding="utf-8")
    former = read_record(tmp_path)
    assert isinstance(former, Record)
    assert former.norm("attack") == "rmse"
    assert math.isfinite(former.models[0].scores["accuracy"].value)
    with pytest.raises(ArtifactError, match="the areas of their searches are in different norms"):
        merge([done.folder, tmp_path], tmp_path / "merged")
