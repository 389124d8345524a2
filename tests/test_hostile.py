"""Files made to harm whoever opens them: each is refused in a sentence, at once, and no run is lost by one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import advex
from advex.annotation import exchange
from advex.annotation.serving import _Visible
from advex.data import open_dataset, splits
from advex.documents import parse_json
from advex.errors import AdvexError, ArtifactError, DataError
from advex.explore.process import _outcome
from advex.recipes import recipe_from
from advex.record import run as record_run
from advex.record.parquet import read_parquet
from advex.report import write_report
from advex.training import run_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among its files")


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """What waits for ever fails."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)


# -- what is no file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.npz", "a.parquet", "mnist/train-images-idx3-ubyte", "cifar/data_batch_1.bin", "faces/train.parquet",
     "shots/metadata.csv", "answered/annotations.csv"],
)  # fmt: skip
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / name
    picture(path.parent / "x" / "a.png")
    if "mnist" in name:
        (path.parent / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 1) + b"\0")
    make(path)
    root = path if path.parent == tmp_path else path.parent
    with pytest.raises(DataError, match="is not a file"):
        open_dataset(root)


@pytest.mark.parametrize("ending", exchange.FORMS)
def test_tables_of_answers_and_of_records_are_files(tmp_path: Path, ending: str) -> None:
    os.mkfifo(path := tmp_path / f"pipe{ending}")
    with pytest.raises(DataError, match="is not a file"):
        exchange.read(path)
    with pytest.raises(ArtifactError, match="is not a file"):
        read_parquet(path)


# -- links -------------------------------------------------------------------------------------------------------------


def test_links_round_in_circles_and_into_a_web_come_to_an_end(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "web" / "c" / str(number)).mkdir(parents=True)
        for other in range(12):  # 12! paths
            os.symlink(f"../{other}", tmp_path / "web" / "c" / str(number) / f"to {other}")
    with pytest.raises(DataError, match="more than 64 chains"):
        splits(tmp_path / "web")
    for name in ("a", "b"):
        picture(tmp_path / "round" / name / "1.png")
        os.symlink("..", tmp_path / "round" / name / "up")
    os.symlink(tmp_path / "round" / "a", tmp_path / "round" / "c")  # the same again, as another class
    assert len(open_dataset(tmp_path / "round")) == 3


# -- arrays ------------------------------------------------------------------------------------------------------------


def archive(path: Path, **arrays: tuple[str, str, bytes]) -> Path:
    """An NPZ of arrays by type, shape and bytes, as its headers say, true or not."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, (dtype, shape, data) in arrays.items():
            header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data)
    return path


@pytest.mark.parametrize(
    ("shape", "labels", "reason"),
    [("(10, 8, 8)", ("<i8", "(1000000000,)", bytes(80)), "expected 8000000000 bytes, found 80"),
     ("(10, 8, 8)", ("<i8", "(-1, -10)", bytes(80)), "no array of shape"),
     ("(10, -8, -8)", ("<i8", "(10,)", bytes(80)), "no array of shape"),
     ("(10, 8, 8)", ("<U0", "(1000000000000,)", b""), "no array of shape"),
     ("(10, 8, 8)", ("|u1", "(10000001,)", bytes(10_000_001)), "the limit is 10,000,000 labels"),
     ("(10, 8, 8)", ("|O", "(10,)", bytes(80)), "Python objects")],
)  # fmt: skip
def test_archives_that_name_more_than_they_hold(tmp_path: Path, shape: str, labels: Any, reason: str) -> None:
    path = archive(tmp_path / "a.npz", x=("|u1", shape, bytes(640)), y=labels)
    with pytest.raises(DataError, match=reason):
        open_dataset(path)


def test_an_archive_of_many_names_is_told_in_a_few(tmp_path: Path) -> None:
    names = {f"{number}\x1b[31m": ("|u1", "(1,)", b"\0") for number in range(5000)}
    with pytest.raises(DataError, match="and 4988 more") as refused:
        open_dataset(archive(tmp_path / "a.npz", **names))
    assert "\x1b" not in str(refused.value)


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], dict[str, Any]]:
    """Goes on with the run in a folder, or begins one there."""
    few = open_dataset("digits", split="train", max_samples=64)
    recipe = recipe_from({"network": "linear", "epochs": 2, "batch_size": 32, "optimiser": "adam", "robust_every": 0})
    return lambda folder: run_folder.run(recipe, few, folder)


@pytest.fixture(scope="module")
def finished(run: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end."""
    folder = tmp_path_factory.mktemp("run") / "run"
    run(folder)
    return folder


@pytest.fixture(scope="module")
def begun(finished: Path) -> Path:
    """The same with one checkpoint, from which it can go on."""
    folder = Path(shutil.copytree(finished, finished.with_name("begun")))
    (folder / "config.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    return folder


def forged(folder: Path, change: Callable[[dict[str, Any]], Any], weights: bytes | None = None) -> None:
    """Change what a checkpoint says, and make its digests anew."""
    checkpoint = folder / "checkpoints" / "step-00000002"
    values = json.loads((checkpoint / "config.json").read_text())
    change(values)
    if weights is not None:
        (checkpoint / "model.safetensors").write_bytes(weights)
        values["sha256"] = hashlib.sha256(weights).hexdigest()
    state = {name: values.get(name) for name in ("position", "identity")}
    digest = hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()
    (checkpoint / "config.json").write_text(json.dumps({**values, "digest": digest}))


def test_a_checkpoint_forged_into_itself_goes_on(tmp_path: Path, begun: Path, run: Callable[[Path], Any]) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    forged(folder, lambda values: None)
    assert run(folder)["steps"] == 4


@pytest.mark.parametrize(
    "change",
    [{"position": None}, {"position": "x"}, {"position": [1, 2]}, {"identity": None}, {"identity": "x"}, {"step": "2"},
     {"step": 10**30}, {"step": -1}, {"epoch": -7}, {"epoch": 0.5}, {"epoch": 2}, {"sums": [1]},
     {"sums": {"loss": "x"}},
     {"sums": {"loss": [1.0, 0]}}, {"calm": {"cross_entropy": "x"}}, {"smooth": "x"}, {"objective": "x"},
     {"best": "x"}, {"seconds": [1]}, {"more": 1}],
)  # fmt: skip
def test_checkpoints_of_wrong_types_are_refused(
    tmp_path: Path, begun: Path, run: Callable[[Path], Any], change: dict[str, Any]
) -> None:
    def apply(values: dict[str, Any]) -> None:
        (values if change.keys() <= values.keys() else values["position"]).update(change)

    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    forged(folder, apply)
    with pytest.raises(ArtifactError, match=r"No checkpoint in .* is intact"):
        run(folder)


def rewritten(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A safetensors file with another header."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _first(header: dict[str, Any], start: str) -> str:
    return next(name for name in header if name.startswith(start) and len(header[name]["shape"]) == 2)


@pytest.mark.parametrize(
    "change",
    [lambda header: header.clear(),
     lambda header: header.update({"other": header.pop(_first(header, "model."))}),
     lambda header: header.update({"optimiser.more": header.pop(_first(header, "optimiser."))}),
     lambda header: header[_first(header, "optimiser.")]["shape"].reverse(),
     lambda header: header[_first(header, "model.")]["shape"].reverse(),
     lambda header: header[_first(header, "optimiser.")].update(dtype="I32"),
     lambda header: header[_first(header, "model.")].update(data_offsets=[0, 2**62]),
     lambda header: header[_first(header, "model.")].update(shape=[2**40, 2**40])],
)  # fmt: skip
def test_checkpoints_of_other_tensors_are_refused(
    tmp_path: Path, begun: Path, run: Callable[[Path], Any], change: Callable[[dict[str, Any]], Any]
) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    data = (folder / "checkpoints" / "step-00000002" / "model.safetensors").read_bytes()
    forged(folder, lambda values: None, rewritten(data, change))
    with pytest.raises(ArtifactError, match=r"No checkpoint in .* is intact"):
        run(folder)


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a":' * 100_000, b"", b"\x80\x02pickle"])
@pytest.mark.parametrize("length", [None, 2**62, 2**64 - 1])
def test_headers_of_weights_are_bounded(finished: Path, tmp_path: Path, header: bytes, length: int | None) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    weights = struct.pack("<Q", len(header) if length is None else length) + header
    (folder / "model.safetensors").write_bytes(weights)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "sha256": hashlib.sha256(weights).hexdigest()}))
    with pytest.raises(ArtifactError):
        advex.load(folder)


@pytest.mark.parametrize("line", [b"\xff\xfe\0", b"[" * 100_000, b'{"epoch": "x"}', b"[1]", b"7", b"null"])
def test_a_log_of_other_lines_does_not_lose_the_run(
    tmp_path: Path, begun: Path, run: Callable[[Path], Any], line: bytes
) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    (folder / "metrics.jsonl").write_bytes(line + b"\n")
    assert run(folder)["steps"] == 4


@pytest.mark.parametrize("training", ["x", [1], 7, {"recipe": [1]}, {"recipe": "x"}])
def test_a_finished_run_that_says_something_else_is_refused(
    tmp_path: Path, finished: Path, run: Callable[[Path], Any], training: Any
) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "training": training}))
    with pytest.raises(AdvexError):
        run(folder)


def test_a_run_without_its_command_has_a_report(tmp_path: Path, begun: Path) -> None:
    folder = Path(shutil.copytree(begun, tmp_path / "run"))
    (folder / "env.json").write_text(json.dumps({"schema_version": 1, "command": 7, "\x1b[31mk": "\x1b[2Jv"}))
    assert "\x1b" not in write_report([folder], tmp_path / "a.html").read_text()
    assert record_run.read_run(folder) is not None


# -- words -------------------------------------------------------------------------------------------------------------


def test_a_log_shows_no_control_characters_and_no_words_of_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    line = logging.LogRecord("a", logging.ERROR, "", 1, "%s", ("\x1b]0;x\x07folder",), None)
    assert _Visible("%(message)s").format(line) == "?]0;x?folder"

    def failing() -> None:
        raise RuntimeError("as " + "typed")

    _outcome(failing)
    assert "RuntimeError" in caplog.text
    assert "as typed" not in caplog.text


def test_nesting_is_bounded_wherever_json_is_read() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000):
        with pytest.raises(DataError) as refused:
            parse_json(text, "it")
        assert len(str(refused.value)) < 300


def test_devices_named_as_pictures_lose_no_other_picture(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "a" / f"{number}.png")
        picture(tmp_path / "b" / f"{number}.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "b" / "zero.png")
    data = open_dataset(tmp_path)
    assert np.bincount(data.y.numpy()).tolist() == [3, 3]
    assert sorted(each.name for each in data.skipped) == ["a/pipe.png", "b/zero.png"]
