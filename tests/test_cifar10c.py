"""CIFAR-10-C in the form of its files: which rows are which severity, and what is no such file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advex.data import open_dataset, splits
from advex.errors import AdvexError, DataError, SpecError

EACH = 4  # pictures of a severity, 10,000 as published


def write(folder: Path, labels: Any = np.int64, name: str = "fog") -> np.ndarray:
    """The pictures of a file [5 EACH, 32, 32, 3], beside labels 0 to 3 for every severity."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(0).integers(0, 256, (5 * EACH, 32, 32, 3), dtype=np.uint8)
    np.save(folder / f"{name}.npy", pictures)
    np.save(folder / "labels.npy", np.tile(np.arange(EACH), 5).astype(labels))
    return pictures


def spec(folder: Path, severity: int = 3, corruption: str = "fog") -> str:
    return f"cifar10c:corruption={corruption},severity={severity},root={folder}"


@pytest.mark.parametrize("labels", [np.uint8, np.int64])
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_severity_is_a_fifth_of_the_rows(tmp_path: Path, severity: int, labels: Any) -> None:
    pictures = write(tmp_path, labels)
    data = open_dataset(spec(tmp_path, severity), split="test")
    assert np.array_equal(data.x.numpy(), pictures[EACH * (severity - 1) : EACH * severity].transpose(0, 3, 1, 2))
    assert data.y.tolist() == [0, 1, 2, 3]
    assert data.class_names[3] == "cat"
    assert splits(spec(tmp_path, severity)) == ("test",)
    assert data.name == f"cifar10c-fog-{severity}/test"
    assert any("not 10,000" in note for note in data.notes)


def test_rows_of_a_severity_are_drawn_like_those_of_any_set(tmp_path: Path) -> None:
    """The same pictures of every severity: those that the test set would give."""
    write(tmp_path)
    ids = {open_dataset(spec(tmp_path, each), split="test", max_samples=2, seed=1).ids for each in range(1, 6)}
    assert len(ids) == 1


def test_the_folder_is_looked_for_in_the_shared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "CIFAR-10-C")
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))
    assert len(open_dataset("cifar10c:corruption=fog,severity=2", split="test")) == EACH


def test_it_is_not_for_training(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match="no split 'train'"):
        open_dataset(spec(tmp_path), split="train")
    with pytest.raises(DataError, match=r"cifar10c:corruption=fog,severity=3,root=.*for testing"):
        open_dataset(tmp_path)


class Trap:
    opened = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "opened", True)


def headed(text: str) -> bytes:
    """A file of this header and no pictures."""
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n" + bytes(61440)


def hostile(path: Path) -> dict[str, Any]:
    whole, huge = path.read_bytes(), b"(1000000000, 32, 32, 3), }"
    return {
        "truncated": lambda: path.write_bytes(whole[:-1000]),
        "cut at a severity": lambda: path.write_bytes(whole[: -EACH * 3072]),
        "header alone": lambda: path.write_bytes(whole[:64]),
        "empty": lambda: path.write_bytes(b""),
        "object array": lambda: np.save(path, np.array([Trap()] * 20, dtype=object), allow_pickle=True),
        "pickle": lambda: path.write_bytes(pickle.dumps(Trap())),
        "an archive": lambda: (
            np.savez(path.with_suffix(".npz"), x=np.zeros(3)),
            path.with_suffix(".npz").rename(path),
        ),
        "a deep header": lambda: path.write_bytes(whole[:8] + (9000).to_bytes(2, "little") + b"(" * 9000),
        **{
            f"header {name}": lambda text=text: path.write_bytes(headed(text))
            for name, text in {
                "no kind": "{'descr': (), 'fortran_order': False, 'shape': (20, 32, 32, 3)}",
                "half a kind": "{'descr': ('u1',), 'fortran_order': False, 'shape': (20, 32, 32, 3)}",
                "minus": "-" * 9000 + "1",
                "a kind of minus": f"{{'descr': {'-' * 3000}1, 'fortran_order': False, 'shape': ()}}",
                "keys": "{1: 2, 'a': 3}",
            }.items()
        },
        "no fifths": lambda: np.save(path, np.zeros((21, 32, 32, 3), np.uint8)),
        "channels first": lambda: np.save(path, np.zeros((20, 3, 32, 32), np.uint8)),
        "floats": lambda: np.save(path, np.zeros((20, 32, 32, 3), np.float32)),
        "one number": lambda: np.save(path, np.uint8(3)),
        "none": lambda: np.save(path, np.zeros((0, 32, 32, 3), np.uint8)),
        "declares 10^9": lambda: path.write_bytes(whole.replace(b"(20, 32, 32, 3), }" + b" " * 8, huge)),
        "another length": lambda: np.save(path, np.zeros((25, 32, 32, 3), np.uint8)),
        "a folder": lambda: (path.unlink(), path.mkdir()),
    }


@pytest.mark.parametrize("how", list(hostile(Path(__file__))))
def test_what_is_no_such_file_is_refused_with_a_sentence(tmp_path: Path, how: str) -> None:
    write(tmp_path)
    hostile(tmp_path / "fog.npy")[how]()
    with pytest.raises(DataError, match="fog.npy"):
        open_dataset(spec(tmp_path), split="test")
    assert not Trap.opened


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    wrong = [np.zeros(19, int), np.full(20, 10), np.full(20, -1), np.zeros(20), np.zeros((20, 1), int), None]
    for labels in wrong:
        write(tmp_path)
        np.save(tmp_path / "labels.npy", labels) if labels is not None else (tmp_path / "labels.npy").unlink()
        with pytest.raises(DataError, match="labels.npy"):
            open_dataset(spec(tmp_path), split="test")


def test_names_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path)
    refused: list[tuple[str, type[AdvexError], str]] = [
        (spec(tmp_path, 6), SpecError, "severities of CIFAR-10-C are 1 to 5"),
        (spec(tmp_path, 1, "fogg"), DataError, "no fogg.npy.*'fog'"),
        (spec(tmp_path, 1, "../fog"), DataError, "no ../fog.npy"),
        (spec(tmp_path / "nowhere"), DataError, "There is no folder"),
    ]
    for text, error, words in refused:
        with pytest.raises(error, match=words):
            open_dataset(text, split="test")
