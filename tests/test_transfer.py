"""Changes made on one model and judged by another, on linear networks, whose worst changes are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.data import Dataset
from advex.errors import SpecError
from advex.evaluation import Settings, evaluate, settings_from
from advex.evaluation.merge import merge
from advex.measures.intervals import wilson
from advex.record import all_figures, read_record, read_rows
from advex.report import write_report

N, RADIUS = 80, 0.05
BASE: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0, "suite": ("pgd:steps=5",), "transfer": True}


class Line(nn.Module):
    """Class 1 where w (x - 0.5) > 0; blind: rounding hides that slope, and a little of another one is left."""

    def __init__(self, w: Tensor, blind: bool = False) -> None:
        super().__init__()
        self.w, self.blind = nn.Parameter(w), blind

    def forward(self, x: Tensor) -> Tensor:
        above = (((1000 * x).round() / 1000 if self.blind else x).flatten(1) - 0.5) @ self.w
        if self.blind:
            above = above + 1e-6 * x.flatten(1) @ self.w.roll(5)
        return torch.stack([-above, above], dim=1)


@pytest.fixture(scope="module")
def first() -> Tensor:
    return torch.randn(16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(first: Tensor) -> list:
    second = first + torch.randn(16, generator=torch.Generator().manual_seed(1))
    networks = {"first": Line(first), "second": Line(second), "blind": Line(first.clone(), blind=True)}
    return [(name, name, Classifier(network)) for name, network in networks.items()]


@pytest.fixture(scope="module")
def data(first: Tensor) -> Dataset:
    x = 0.5 + 0.2 * (torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(2)) - 0.5)
    y = ((x.flatten(1) - 0.5) @ first > 0).long()
    return Dataset(name="lines", x=x, y=y, class_names=("below", "above"), ids=tuple(map(str, range(N))))


@pytest.fixture(scope="module")
def folder(models: list, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transfer") / "out"
    evaluate(models, data, out, Settings(**BASE, radius=(f"linf:{RADIUS}",), batch_size=32))
    return out


def test_accuracies_are_those_of_the_worst_changes(folder: Path, models: list, data: Dataset) -> None:
    """The worst change of a linear network has every element at the end of the ball, against its weight's sign."""
    batch, record = data.batch(slice(None)), read_record(folder)
    for source in ("first", "second"):
        w = next(classifier for name, _, classifier in models if name == source).network.w.detach()
        away = -(2 * batch.y[:, None] - 1) * w.sign() * RADIUS
        changed = (batch.x.flatten(1) + away).reshape(batch.x.shape)
        for name, _, classifier in models:
            right = (classifier.predict(changed).argmax(dim=1) == batch.y).sum().item()
            (model,) = [each for each in record.models if each.name == name]
            figure = model.transfer[f"linf:{RADIUS}"].accuracy[source]
            assert figure.value == pytest.approx(right / N, abs=1.5 / N)
            assert all_figures(model)[f"transferred:linf:{RADIUS}:{source}"] == figure
            assert (figure.low, figure.high) == wilson(round(figure.value * N), N)


def test_a_model_that_others_changes_move_more_often_is_flagged(folder: Path) -> None:
    """The blind network is the first one but for its gradients: its own changes are noise."""
    record = read_record(folder)
    assert [flag.model for flag in record.flags if flag.code == "transfer_beats_white_box"] == ["blind", "blind"]
    blind = next(model for model in record.models if model.name == "blind").transfer[f"linf:{RADIUS}"]
    for source, beyond in blind.beyond.items():
        assert beyond.value == pytest.approx(blind.accuracy["blind"].value - blind.accuracy[source].value)
        assert 0 < beyond.low <= beyond.value <= beyond.high
    first = next(model for model in record.models if model.name == "first").transfer[f"linf:{RADIUS}"]
    assert all(beyond.high <= 0.05 for beyond in first.beyond.values())


def test_rows_and_the_page_hold_every_pair(folder: Path, models: list) -> None:
    rows = read_rows(folder, "transfer")
    pairs = {(row["model"], row["judge"]) for row in rows}
    assert len(pairs) == len(models) ** 2
    assert len(rows) == N * len(pairs)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Changes made on other models" in page
    assert f'data-measure="transfer:linf:{RADIUS}:second"' in page
    assert "more than its own" in page


def test_pieces_are_taken_up_again(folder: Path, models: list, data: Dataset) -> None:
    before = read_record(folder)
    (folder / "record.json").unlink()
    next((folder / "shards").glob("second.transfer-*00001.parquet")).unlink()
    again = evaluate(models, data, folder, Settings(**BASE, radius=(f"linf:{RADIUS}",), batch_size=32))
    assert again.models == before.models


def test_records_that_are_put_together_have_none(models: list, data: Dataset, folder: Path, tmp_path: Path) -> None:
    merged = merge([folder, folder], tmp_path / "merged")
    assert all(not model.transfer for model in merged.models)
    assert not (tmp_path / "merged" / "transfer.parquet").exists()


def test_what_cannot_be_judged_is_refused(models: list, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs a radius"):
        settings_from(BASE)
    settings = Settings(**BASE, radius=("linf:0.1",))
    with pytest.raises(SpecError, match="at least two models"):
        evaluate(models[:1], data, tmp_path / "out", settings)
    wide = ("wide", "wide", Classifier(Line(torch.ones(16)), box=(-1, 1)))
    same = ("same", "same", Classifier(Line(torch.ones(16)), box=(torch.zeros(1, 4, 4), 1)))
    with pytest.raises(SpecError, match=r"first takes inputs in \[0, 1\] and wide in \[-1, 1\]. Wrap both"):
        evaluate([*models[:1], same, wide], data, tmp_path / "out", settings)
    functions = [(name, name, function(models[0][2])) for name in "ab"]
    with pytest.raises(SpecError, match="none of these models has"):
        evaluate(functions, data, tmp_path / "out", Settings(**SQUARE))
    assert not (tmp_path / "out").exists()


SQUARE: dict[str, Any] = {**BASE, "radius": ("linf:0.1",), "suite": ("square:queries=2",)}


def function(classifier: Classifier) -> Classifier:
    """Its answers without its gradients."""
    return Classifier.from_function(lambda x: classifier.predict(torch.as_tensor(x)).softmax(1).numpy(), classes=2)


def test_a_function_without_gradients_judges_the_changes_of_others(models: list, data: Dataset, tmp_path: Path) -> None:
    both = [models[0], ("box", "box", function(models[0][2]))]
    record = evaluate(both, data, tmp_path / "out", Settings(**SQUARE))
    first, box = (model.transfer["linf:0.1"] for model in record.models)
    assert first.accuracy == box.accuracy, "it is the same network"
    assert (first.accuracy.keys(), first.beyond, box.beyond) == ({"first"}, {}, {})
    assert not [flag for flag in record.flags if flag.code == "transfer_beats_white_box"]
    assert {(row["model"], row["judge"]) for row in read_rows(tmp_path / "out", "transfer")} == {
        ("first", "first"), ("first", "box"),
    }  # fmt: skip
    assert "Changes made on other models" in write_report(tmp_path / "out").read_text(encoding="utf-8")
