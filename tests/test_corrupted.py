"""Accuracy on corrupted pictures, on data where it follows from the tables of parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advex.classifier import Classifier
from advex.data import Dataset
from advex.errors import AdvexError, ArtifactError, InputError, SpecError
from advex.evaluation import Settings, evaluate, settings_from
from advex.evaluation.merge import merge
from advex.evaluation.plan import plan_of
from advex.measures.intervals import wilson
from advex.record import Record, all_figures, read_record, read_rows, summary
from advex.registry import describe
from advex.report import write_report

BASE: dict[str, Any] = {"attack": None, "btr": None, "explanations": 0}
N = 20


class Bright(nn.Module):
    """Class 1 where the mean of a picture is above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        above = x.mean(dim=(1, 2, 3)) - self.threshold
        return 20 * torch.stack([-above, above], dim=1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Even pictures of 32 x 32: class 0 at 82/255 = 0.32, class 1 at 153/255 = 0.6."""
    y = torch.arange(N) % 2
    x = torch.where(y.reshape(-1, 1, 1, 1) == 0, 82, 153).expand(N, 3, 32, 32).to(torch.uint8).clone()
    return Dataset(name="even", x=x, y=y, class_names=("dark", "bright"), ids=tuple(map(str, range(N))))


MODELS = [("half", "half", Classifier(Bright(0.5))), ("high", "high", Classifier(Bright(0.65)))]


def asked(*corruptions: str, **more: Any) -> Settings:
    return Settings(**{**BASE, **more}, corruptions=corruptions)


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corrupted") / "out"
    evaluate(MODELS, data, out, asked("brightness", "contrast:5", "contrast:2"))
    return out


def test_accuracies_follow_from_the_table(folder: Path) -> None:
    """Brightness adds 0.05, 0.1, 0.15, 0.2, 0.3: 0.32 crosses 0.5 at severity 4; 0.6 is above 0.65 from severity 2 on.

    Contrast does nothing to an even picture. Of the second network, class 1 is wrong at 0.6 and at severity 1 (0.65 is
    just not reached in 8 bits), and class 0 never.
    """
    record = read_record(folder)
    half, high = record.models
    brightness = [half.corrupted["brightness"].accuracy[each].value for each in range(1, 6)]
    assert brightness == [1, 1, 1, 0.5, 0.5]
    assert [high.corrupted["brightness"].accuracy[each].value for each in range(1, 6)] == [0.5, 1, 1, 1, 1]
    assert {each: figure.value for each, figure in half.corrupted["contrast"].accuracy.items()} == {2: 1, 5: 1}
    assert {each: figure.value for each, figure in high.corrupted["contrast"].accuracy.items()} == {2: 0.5, 5: 0.5}
    figure = half.corrupted["brightness"].accuracy[4]
    assert (figure.low, figure.high, figure.n) == (*wilson(N // 2, N), N)
    over_severities = all_figures(half)["accuracy:brightness"]
    assert over_severities.value == pytest.approx(0.8)
    assert over_severities.low < 0.8 < over_severities.high, "half of the pictures lose two severities"
    assert half.scores["mean_corruption_error"].value == pytest.approx((0.2 + 0) / 2)
    assert high.scores["mean_corruption_error"].value == pytest.approx((0.1 + 0.5) / 2)
    assert half.scores["mean_corruption_error"].better == "low"
    entry = record.corruptions["contrast"]
    assert (entry.title, entry.severities, entry.table) == ("contrast", [2, 5], 32)


def test_pairs_differ_by_the_examples(folder: Path) -> None:
    (line,) = [each for each in read_record(folder).differences if each.measure == "mean_corruption_error"]
    assert line.figure.value == pytest.approx(0.1 - 0.3)
    assert line.figure.low < line.figure.value < line.figure.high < 0


def test_rows_hold_what_was_answered(folder: Path) -> None:
    rows = [row for row in read_rows(folder, "examples") if row["model"] == "half"]
    assert [row["corrupted_brightness_5"] for row in rows] == [1] * N
    assert [row["corrupted_contrast_2"] for row in rows] == [row["label"] for row in rows]


def test_what_is_printed_and_shown(folder: Path) -> None:
    figures = json.loads(summary(read_record(folder), folder))["models"]["half"]
    assert figures["accuracy:brightness:4"]["value"] == 0.5
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Corrupted pictures" in page
    assert 'data-measure="accuracy:contrast:5"' in page
    assert "published for the nearest size of picture, a side of 32" in page


def test_it_goes_on_where_it_was_stopped(data: Dataset, tmp_path: Path) -> None:
    """Whatever the size of the pieces and whichever were there, the figures are the same."""
    settings = asked("gaussian_noise", "glass_blur:2", batch_size=7)
    whole = evaluate(MODELS[:1], data, tmp_path / "a", settings)
    pieces = sorted((tmp_path / "a" / "shards").glob("*corrupted-gaussian_noise*"))
    assert len(pieces) == 3
    pieces[1].unlink()
    (tmp_path / "a" / "record.json").unlink()
    again = evaluate(MODELS[:1], data, tmp_path / "a", settings)
    other = evaluate(MODELS[:1], data, tmp_path / "b", asked("gaussian_noise", "glass_blur:2", batch_size=20))
    assert again.models[0].corrupted == whole.models[0].corrupted == other.models[0].corrupted
    with pytest.raises(ArtifactError, match="belongs to another evaluation"):
        evaluate(MODELS[:1], data, tmp_path / "a", asked("gaussian_noise", batch_size=7))


def test_records_apart_are_put_together(data: Dataset, folder: Path, tmp_path: Path) -> None:
    specs = ("brightness", "contrast:5", "contrast:2")
    for model in MODELS:
        evaluate([model], data, tmp_path / model[0], asked(*specs))
    merged = merge([tmp_path / "half", tmp_path / "high"], tmp_path / "merged")
    together = read_record(folder)
    assert merged.models == together.models
    assert merged.differences == together.differences
    evaluate([MODELS[1]], data, tmp_path / "other", asked("brightness"))
    with pytest.raises(ArtifactError, match="corruptions is"):
        merge([tmp_path / "half", tmp_path / "other"], tmp_path / "none")


def test_a_record_of_before_has_none(folder: Path) -> None:
    values = json.loads((folder / "record.json").read_text())
    del values["corruptions"], values["settings"]["corruptions"]
    for model in values["models"]:
        del model["corrupted"]
    assert Record.model_validate(values).corruptions == {}


def test_what_is_typed() -> None:
    every = plan_of(asked("all")).corruptions
    assert len(every) == 16
    assert all(list(task.severities) == [1, 2, 3, 4, 5] for task in every)
    swapped = plan_of(asked("glass_blur:severity=4,glass=swap", "fog:5", "fog:1")).corruptions
    assert [(task.key, list(task.severities)) for task in swapped] == [("glass_blur", [4]), ("fog", [1, 5])]
    assert describe(swapped[0].severities[4]) == "glass_blur:severity=4,glass=swap"
    refused = {
        "fgo": "There is no corruption 'fgo'.*fog", "fog:much": "option=value", "none": "omit corruptions",
        "fog:6": "severity is a whole number from 1 to 5, as in fog:3", "all:6": "as in all:3",
        "fog:2.5": "a severity is", "fog:-1": "a severity is",
        "fog:severity=6": "severity must be", "all:glass=swap": "has no option 'glass'",
        "fog:strength=2": "has no option 'strength'", "frost:frost=/nowhere": "not a folder of pictures",
    }  # fmt: skip
    for spec, words in refused.items():
        with pytest.raises(AdvexError, match=words):
            settings_from({**BASE, "corruptions": (spec,)})
    for pair, words in {("fog", "fog:3"): "'fog' and 'fog:3'", ("fog:3", "all"): "'fog:3' and 'all'"}.items():
        with pytest.raises(SpecError, match=f"'fog:3' is given twice: {words} both contain it"):
            settings_from({**BASE, "corruptions": pair})
    with pytest.raises(SpecError, match="'fog:3' is given twice.$"):
        settings_from({**BASE, "corruptions": ("fog:3", "fog:3")})
    for text in ("all:3", "all:severity=3"):
        assert {tuple(task.severities) for task in plan_of(asked(text)).corruptions} == {(3,)}
        assert len(plan_of(asked(text)).corruptions) == len(plan_of(asked("all")).corruptions)
    with pytest.raises(SpecError, match="'glass_blur' is given with different options"):
        settings_from({**BASE, "corruptions": ("glass_blur:severity=1,glass=swap", "glass_blur:2")})


def test_what_is_no_picture_is_refused_before_the_work(tmp_path: Path) -> None:
    rows = Dataset(
        name="rows", x=torch.rand(4, 5), y=torch.tensor([0, 1, 0, 1]), class_names=("a", "b"), ids=("1", "2", "3", "4")
    )
    with pytest.raises(InputError, match="Corruptions need pictures"):
        evaluate([("a", "a", Classifier(nn.Linear(5, 2)))], rows, tmp_path / "out", asked("fog"))
