"""CIFAR-10 and CIFAR-100 in their binary versions, as published: records of labels and 32 x 32 pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from advex.data.images.npz import numbered
from advex.data.source import Place, Source, Split, shortened
from advex.errors import DataError
from advex.files import check_file, read_bytes
from advex.registry import register

_PIXELS = 3 * 32 * 32
_CIFAR10 = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
_CIFAR100 = {"train": ["train.bin"], "test": ["test.bin"]}
_PICKLES = ({"data_batch_1", "test_batch", "batches.meta"}, {"train", "test", "meta"})


@register("format", "cifar", cites="Krizhevsky 2009")
@dataclass(frozen=True)
class CIFAR:
    """The folder of CIFAR-10's or CIFAR-100's binary version; of the Python version, pickles, the way to that one."""

    reads: ClassVar[str] = "a folder of CIFAR's binary files"
    order: ClassVar[int] = 35

    def find(self, place: Place) -> Source | None:
        """Splits `train` and `test`; CIFAR-100 has its fine labels."""
        names = {str(path) for path in place.files}
        if any(name in names for name in ("data_batch_1.bin", "test_batch.bin")):
            return _source(place.path, names, _CIFAR10, 1, "batches.meta.txt")
        if {"train.bin", "fine_label_names.txt"} <= names:
            return _source(place.path, names, _CIFAR100, 2, "fine_label_names.txt")
        if any(each <= names and _is_pickle(place.path / min(each)) for each in _PICKLES):
            raise DataError(
                f"{place.path} is the Python version of CIFAR, whose files are pickles: opening one can run "
                "code, so they are not read. Download the binary version, cifar-10-binary.tar.gz or "
                "cifar-100-binary.tar.gz, from the same page."
            )
        return None


def _is_pickle(path: Path) -> bool:
    check_file(path)
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _source(root: Path, names: set[str], splits: Mapping[str, Sequence[str]], labels: int, meta: str) -> Source:
    """labels: bytes before the pixels, of which the last is the class. meta: the file of the names of classes."""
    held = {split: [root / name for name in files if name in names] for split, files in splits.items()}
    held = {split: files for split, files in held.items() if files}
    values = {split: np.concatenate([_labels(path, labels) for path in files]) for split, files in held.items()}
    if meta in names:
        lines = read_bytes(root / meta, 2**16, "a list of classes").decode("utf-8", "replace").splitlines()
        class_names = tuple(line.strip() for line in lines if line.strip())
    else:
        class_names = numbered(str(root), max(int(each.max()) for each in values.values()))

    def opened(split: str) -> Split:
        lacking = [name for name in splits[split] if name not in names]
        return Split(
            ids=[f"{split}/{row:06d}" for row in range(len(values[split]))],
            labels=values[split],
            read=partial(_rows, held[split], labels),
            notes=(f"without {shortened(lacking)}, which is missing",) if lacking else (),
        )

    return Source(
        name=root.resolve().name, class_names=class_names, splits={split: partial(opened, split) for split in held}
    )


def _records(path: Path, labels: int) -> np.ndarray:
    """[n, labels + pixels] uint8, read as they are looked at. Raises DataError."""
    check_file(path)
    size = path.stat().st_size
    if not size or size % (labels + _PIXELS):
        raise DataError(
            f"{path} is damaged: {size:,} bytes is not a multiple of the record size, {labels + _PIXELS:,}."
        )
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, labels + _PIXELS)


def _labels(path: Path, labels: int) -> np.ndarray:
    return np.array(_records(path, labels)[:, labels - 1], dtype=np.int64)


def _rows(files: Sequence[Path], labels: int, rows: Sequence[int]) -> Iterator[np.ndarray]:
    wanted, start = np.asarray(rows), 0
    for path in files:
        records = _records(path, labels)
        for row in wanted[(wanted >= start) & (wanted < start + len(records))] - start:
            yield np.array(records[row, labels:]).reshape(3, 32, 32)
        start += len(records)
