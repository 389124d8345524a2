"""Records and runs that contradict themselves are refused, or finished, by what contradicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import advex
from advex.cli import main
from advex.data import Dataset, open_dataset
from advex.data.images import decode
from advex.errors import AdvexWarning, ArtifactError
from advex.evaluation import evaluate, settings_from
from advex.evaluation.results import read_tables
from advex.recipes import recipe_from
from advex.record import parquet, read_run
from advex.report.reading import read
from advex.training import run_folder


@pytest.fixture
def record(tmp_path: Path) -> Path:
    x = torch.arange(54, dtype=torch.uint8).reshape(6, 1, 3, 3)
    names = ("a", "b")
    data = Dataset(name="d", x=x, y=torch.arange(6) % 2, class_names=names, ids=tuple(map(str, range(6))))
    classifier = advex.Classifier("linear:features=9,classes=2")
    settings = settings_from({"attack": "l2min:steps=2", "btr": None, "pictures": (), "explanations": 0, "sweep": 0})
    evaluate([("m", "m", classifier)], data, tmp_path / "record", settings)
    return tmp_path / "record"


def rewritten(folder: Path, change: Any) -> None:
    path = folder / "examples.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def with_column(name: str, values: pa.Array) -> Any:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.slice(0, 5), "5 rows of 'm', 5 of them different, .* 6 examples"),
        (lambda table: pa.concat_tables([table, table.slice(2, 1)]), "7 rows of 'm', 6 of them different"),
        (lambda table: pa.concat_tables([table.slice(0, 5), table.slice(2, 1)]), "6 rows of 'm', 5 of them different"),
        (with_column("label", pa.array(list("abcdef"))), "'label' contains string, but should contain int64"),
        (with_column("confidence", pa.array([True] * 6)), "'confidence' contains bool"),
        (with_column("attack_rmse", pa.array(["0.1"] * 6)), "'attack_rmse' contains string, but should contain double"),
        (with_column("attack_reached", pa.array([1.0] * 6)), "'attack_reached' contains double"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(record: Path, change: Any, said: str) -> None:
    assert len(read(record).rows("examples")) == 6
    rewritten(record, change)
    with pytest.raises(ArtifactError, match=said):
        read(record)


def test_no_more_is_read_than_there_may_be(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes stand for a million rows: the file's own account is looked at before a row is read."""
    rewritten(record, lambda table: pa.concat_tables([table] * 20_000).combine_chunks())
    monkeypatch.setattr(parquet, "MOST_ROWS", 100_000)
    for reader in (read, read_tables):
        with pytest.raises(ArtifactError, match="claims to have 120,000 rows; at most 100,000"):
            reader(record)
    monkeypatch.setattr(parquet, "MOST_ROWS", 10**6)
    monkeypatch.setattr(parquet, "MOST_VALUES", 100_000)
    with pytest.raises(ArtifactError, match="'model' has 120,000 values"):
        read_tables(record)


@pytest.mark.parametrize("damage", ["missing", "cut", "exchanged"])
def test_a_run_without_whole_weights_is_not_finished(damage: str, tmp_path: Path) -> None:
    recipe = recipe_from({"network": "linear", "epochs": 1, "robust_every": 0})
    data = open_dataset("digits", split="train", max_samples=40)
    run_folder.run(recipe, data, tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    whole = weights.read_bytes()
    run = read_run(tmp_path / "run")
    assert run is not None
    assert run.finished
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(whole[:-5] if damage == "cut" else whole[:-4] + b"\0\0\0\0")
    if damage != "exchanged":  # that takes a digest of the whole file, which a page does not ask for
        run = read_run(tmp_path / "run")
        assert run is not None
        assert not run.finished
        assert any("not finished" in note for note in run.notes)
    with pytest.warns(AdvexWarning, match="not finished"):
        run_folder.run(recipe, data, tmp_path / "run")
    assert weights.read_bytes() == whole
    run = read_run(tmp_path / "run")
    assert run is not None
    assert run.finished


def test_a_lack_of_memory_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("L", (4, 4), 90).save(tmp_path / "set" / name)

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode, "_upright", exhausted)
    with pytest.raises(MemoryError):
        open_dataset(tmp_path / "set")
    monkeypatch.setattr(sys, "argv", ["advex", "train", "digits-robust", "--data", str(tmp_path / "set"), "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "error: out of memory" in capsys.readouterr().err
