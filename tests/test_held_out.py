"""What is held out of data without splits, and what is evaluated though it was learned from."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

import advex
from advex.cli import main
from advex.data import Dataset, open_dataset
from advex.data.dealing import dealt
from advex.data.digests import FILE, digests, known, write_digests
from advex.errors import ArtifactError
from advex.evaluation import trained_on
from advex.lookup import datasets


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60))
def test_a_fifth_of_each_class_is_held_out(labels: list[int]) -> None:
    y = np.array(labels)
    train, test = (dealt(y)[part] for part in ("train", "test"))
    assert sorted([*train, *test]) == list(range(len(y))), "every row is in one part"
    assert len(test)
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()
    wanted = {label: round(0.2 * count) for label, count in zip(*np.unique(y, return_counts=True), strict=True)}
    if any(wanted.values()):
        assert {label: int((y[test] == label).sum()) for label in wanted} == wanted


@given(st.integers(0, 10**6))
def test_rows_of_one_group_are_never_parted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, y = rng.integers(0, 30, 300), rng.integers(0, 3, 300)
    parts = dealt(y, groups)
    assert not set(groups[parts["train"]]) & set(groups[parts["test"]])
    assert sorted([*parts["train"], *parts["test"]]) == list(range(300))
    assert abs(len(parts["test"]) - 60) <= np.bincount(groups).max()
    for label in range(3):
        assert 0.05 < (y[parts["test"]] == label).sum() / (y == label).sum() < 0.35


@pytest.mark.parametrize(
    ("splits", "learned", "held"),
    [
        (("train", "test", "val"), "train", ["test", "val"]), (("train", "valid"), "train", ["valid"]),
        (("Train", "Test"), "Train", ["Test"]), (("train", "dev"), "train", ["dev"]), (("train",), "train", []),
        (("Train", "train"), "train", []),
    ],
)  # fmt: skip
def test_what_is_held_out_is_known_by_its_name(
    splits: tuple[str, ...], learned: str, held: list[str], tmp_path: Path
) -> None:
    for split in splits:
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (4, 4), 9).save(tmp_path / split / name / "1.png")
    assert datasets.split_to_learn(str(tmp_path), None) == learned
    assert datasets.held_out(str(tmp_path)) == held
    assert datasets.split_to_judge(str(tmp_path)) == next(iter(held), None)
    examples, validation, chosen = datasets.open_training(str(tmp_path))
    assert (len(examples), validation and len(validation)) == (2, 2 if held else None)
    assert chosen == (learned, next(iter(held), None))


def test_rows_are_known_again_whatever_their_order_and_form() -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (40, 1, 3, 3)).astype(np.uint8))
    learned = np.unique(digests(pixels[:25]))
    shuffled = torch.from_numpy(rng.permutation(40))
    expected = shuffled.numpy() < 25
    assert (np.isin(digests(pixels[shuffled]), learned) == expected).all()
    assert (np.isin(digests(pixels[shuffled].float() / 255), learned) == expected).all(), (
        "bytes / 255 are the same pictures"
    )
    assert not np.isin(digests(pixels.transpose(1, 2).reshape(40, 3, 3, 1)), learned).any(), (
        "another shape is another input"
    )
    rows = torch.tensor([[0.5, -0.0], [0.5, 0.0], [0.5, 1e-7], [2.0, 3.0]])
    assert len(set(digests(rows)[:2])) == 1
    assert len(set(digests(rows))) == 3


def test_a_list_of_few_examples_is_believed(tmp_path: Path) -> None:
    """Digests are spread over all 64-bit numbers: the difference of two may not be one."""
    pixels = torch.arange(40, dtype=torch.uint8).reshape(20, 1, 1, 2)
    for pair in pixels.split(2):
        write_digests(tmp_path, pair)
        data = Dataset(name="two", x=pair, y=torch.tensor([0, 1]), class_names=("a", "b"), ids=("0", "1"))
        learned = known(data, tmp_path)
        assert learned is not None
        assert learned.rows.all()


def table(path: Path, *, rows: int = 200, per_patient: int = 4) -> Path:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, rows))
    words = np.where(a + b > 0, "yes", "no")
    lines = [f"{100 + i // per_patient},{a[i]:.6f},{b[i]:.6f},{words[i]}" for i in range(rows)]
    path.write_text("patient_id,a,b,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("network: linear\nepochs: 2\n")
    return tmp_path


def advex_cli(*words: str) -> None:
    """The command line in this process; it ends well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advex", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code


def entry(record: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one model of a record, and the record's flags by code."""
    values = json.loads(Path(record, "record.json").read_text())
    return values["models"][0], {flag["code"]: flag for flag in values["flags"]}


def evaluate(out: str, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    few = ("--attack", "none", "--btr", "none", "--explanations", "0")
    advex_cli("evaluate", "--model", "run", "--out", out, *few, *words)
    return entry(out)


def test_a_table_is_dealt_by_patient_and_evaluated_on_what_was_held_out(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(workplace / "t.csv")
    advex_cli("train", "recipe.yaml", "--data", "t.csv", "--out", "run")
    assert "those of one patient_id kept together" in capsys.readouterr().err
    train, test, whole = (open_dataset("t.csv", split=split) for split in ("train", "test", "all"))
    assert (len(train) + len(test), whole.ids) == (200, open_dataset("t.csv").ids)
    assert [feature.name for feature in train.features.features] == ["a", "b"]  # pyright: ignore
    patients = [{100 + int(name.split("/")[1]) // 4 for name in part.ids} for part in (train, test)]
    assert not patients[0] & patients[1]
    model, flags = evaluate("held", "--data", "t.csv")
    assert (model["trained_on"], model["scores"]["accuracy"]["n"]) == (0, len(test))
    assert "trained_on" not in flags
    model, flags = evaluate("whole", "--data", "t.csv", "--split", "all")
    assert model["trained_on"] == len(train)
    assert flags["trained_on"]["severity"] == "warning"
    assert f"{len(train)} of the 200 examples" in flags["trained_on"]["message"]


def test_the_share_of_examples_that_were_trained_on_is_flagged(workplace: Path) -> None:
    """30 of 50 pictures are among those trained on: counted whatever the file is, and the other 20 apart."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (90, 4, 4)).astype(np.uint8), np.arange(90) % 2
    np.savez("trained.npz", x_train=x[:70], y_train=y[:70])
    np.savez("asked.npz", x=x[40:] / 255, y=y[40:])
    advex_cli("train", "recipe.yaml", "--data", "trained.npz", "--out", "run")
    trained = load_file(Path("run") / FILE)["digests"]
    assert len(trained) == 70
    model, flags = evaluate("record", "--data", "asked.npz", "--split", "all")
    classifier = advex.load("run")
    right = classifier.predict(torch.from_numpy(x[70:, None] / 255).float()).argmax(dim=1).numpy() == y[70:]
    assert model["trained_on"] == 30
    assert "30 of the 50 examples (60.0\u202f%)" in flags["trained_on"]["message"]
    assert f"Of the other 20 it classifies {100 * right.mean():.1f}\u202f% correctly" in flags["trained_on"]["message"]
    np.savez("new.npz", x=x[70:], y=y[70:])
    model, flags = evaluate("new", "--data", "new.npz")
    assert model["trained_on"] == 0
    assert "trained_on" not in flags


@pytest.mark.parametrize("form", ["npz", "folder"])
def test_pictures_without_splits_are_dealt(form: str, workplace: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 4, 4)).astype(np.uint8), np.arange(40) % 2
    name = "set.npz" if form == "npz" else "set"
    if form == "npz":
        np.savez("set.npz", x=x, y=y)
    for number, (pixels, label) in enumerate(zip(x, y, strict=True) if form == "folder" else ()):
        (workplace / "set" / f"c{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(workplace / "set" / f"c{label}" / f"{number:02d}.png")
    train, test, whole = (open_dataset(name, split=split) for split in ("train", "test", None))
    assert [torch.bincount(part.y).tolist() for part in (train, test)] == [[16, 16], [4, 4]]
    rows = {name: row for row, name in enumerate(whole.ids)}
    assert sorted([*train.ids, *test.ids]) == sorted(whole.ids)
    assert all(torch.equal(part.x[i], whole.x[rows[part.ids[i]]]) for part in (train, test) for i in range(len(part)))
    advex_cli("train", "recipe.yaml", "--data", name, "--out", "run")
    model, _ = evaluate("record", "--data", name)
    assert (model["trained_on"], model["scores"]["accuracy"]["n"]) == (0, 8)


def test_training_says_that_nothing_is_held_out(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(workplace / "t.csv")
    advex_cli("train", "recipe.yaml", "--data", "t.csv", "--split", "all", "--out", "run")
    assert "No part of t.csv is held out" in capsys.readouterr().err


def test_a_damaged_list_of_examples_is_refused(workplace: Path) -> None:
    table(workplace / "t.csv")
    advex_cli("train", "recipe.yaml", "--data", "t.csv", "--out", "run")
    whole = Path("run", FILE).read_bytes()
    for damaged in (b"", whole[:-9], b"\x80\x04cos\nsystem\n", whole.replace(b"digests", b"another")):
        Path("run", FILE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=FILE):
            known(open_dataset("digits", split="test", max_samples=2), Path("run"))


@pytest.mark.parametrize("name", ["cifar10-ordinary", "cifar10-robust"])
def test_a_bundled_network_is_known_to_have_learned_the_training_part_it_names(name: str) -> None:
    data = replace(open_dataset("digits", split="test"), name="cifar10/train")
    learned = trained_on(f"builtin:{name}", data)
    assert learned is not None
    assert len(learned.rows) == len(data)
    assert learned.rows.all()
    assert not learned.by_name
    assert trained_on(f"builtin:{name}", replace(data, name="cifar10/test")) is None
