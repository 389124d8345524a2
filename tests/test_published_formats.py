"""Data in the files that people have: CIFAR's and MNIST's own, tables of labels, picture formats old and new."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advex.data import Dataset, describe, open_dataset, splits
from advex.data.images import decode
from advex.errors import DataError


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


# -- CIFAR ---------------------------------------------------------------------------------------------------

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def records(labels: list[tuple[int, ...]], seed: int) -> tuple[bytes, np.ndarray]:
    """As the page of the data set describes them: the labels, then 1,024 red, green and blue bytes, row by row."""
    pixels = noise(seed, len(labels), 3, 32, 32)
    return b"".join(bytes(label) + image.tobytes() for label, image in zip(labels, pixels, strict=True)), pixels


@pytest.fixture
def cifar(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """CIFAR-10's binary version with three images in each file; its folder, and the pixels of all."""
    files = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    pixels = []
    for number, name in enumerate(files):
        data, some = records([(number,), (9 - number,), (1,)], number)
        write(tmp_path / "cifar-10-batches-bin" / name, data)
        pixels.append(some)
    write(tmp_path / "cifar-10-batches-bin" / "batches.meta.txt", "\n".join(CLASSES) + "\n\n")
    write(tmp_path / "cifar-10-batches-bin" / "readme.html", "<html>")
    return tmp_path / "cifar-10-batches-bin", np.concatenate(pixels)


def test_cifar_10_is_read_as_it_is_published(cifar: tuple[Path, np.ndarray]) -> None:
    root, pixels = cifar
    assert splits(root) == ("test", "train")
    train, test = open_dataset(root, split="train"), open_dataset(root, split="test")
    assert train.class_names == test.class_names == CLASSES
    assert np.array_equal(train.x, pixels[:15])
    assert np.array_equal(test.x, pixels[15:])
    assert train.y.tolist() == [0, 9, 1, 1, 8, 1, 2, 7, 1, 3, 6, 1, 4, 5, 1]
    assert (test.y.tolist(), test.ids[0], train.ids[-1]) == ([5, 4, 1], "test/000000", "train/000014")
    some = open_dataset(root, split="train", max_samples=4, seed=1)
    assert torch.equal(some.x, train.sample(4, 1).x)


def test_cifar_10_without_a_file_or_a_list_of_classes(cifar: tuple[Path, np.ndarray]) -> None:
    root, pixels = cifar
    (root / "data_batch_2.bin").unlink()
    (root / "batches.meta.txt").unlink()
    train = open_dataset(root, split="train")
    assert (len(train), train.class_names) == (12, tuple("0123456789"))
    assert "without data_batch_2.bin" in describe(train)
    assert np.array_equal(train.x[3:], pixels[6:15])
    (root / "data_batch_3.bin").write_bytes((root / "data_batch_3.bin").read_bytes()[:-1])
    with pytest.raises(DataError, match="data_batch_3.bin is damaged"):
        open_dataset(root, split="train")


def test_cifar_100_has_its_fine_labels(tmp_path: Path) -> None:
    train, pixels = records([(1, 0), (0, 2)], 0)
    write(tmp_path / "train.bin", train)
    write(tmp_path / "test.bin", records([(1, 1)], 1)[0])
    write(tmp_path / "fine_label_names.txt", "apple\nbear\ncup\n")
    write(tmp_path / "coarse_label_names.txt", "a\nb\n")
    data = open_dataset(tmp_path, split="train")
    assert (data.class_names, data.y.tolist()) == (("apple", "bear", "cup"), [0, 2])
    assert np.array_equal(data.x, pixels)


def test_the_python_version_is_refused_with_the_way_to_the_binary_one(tmp_path: Path) -> None:
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        write(tmp_path / name, pickle.dumps({b"data": 1}))
    with pytest.raises(DataError, match="pickles.*cifar-10-binary.tar.gz"):
        open_dataset(tmp_path, split="train")
    with pytest.raises(DataError, match="is an archive: unpack it"):
        open_dataset(write(tmp_path / "cifar-10-binary.tar.gz", b"\x1f\x8b"))


# -- MNIST ---------------------------------------------------------------------------------------------------


def idx(*arrays: np.ndarray) -> list[bytes]:
    """The format as its page describes it: two zeros, 8 for bytes, the number of axes, their lengths, the bytes."""
    return [
        bytes((0, 0, 8, array.ndim)) + b"".join(struct.pack(">I", side) for side in array.shape) + array.tobytes()
        for array in arrays
    ]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dots", [False, True])
def test_mnist_is_read_as_it_is_published(tmp_path: Path, packed: bool, dots: bool) -> None:
    arrays = {"train": (noise(0, 5, 6, 4), [3, 1, 4, 1, 5]), "t10k": (noise(1, 2, 6, 4), [9, 2])}
    for part, (pixels, labels) in arrays.items():
        both = idx(pixels, np.array(labels, np.uint8))
        for data, what, axes in zip(both, ("images", "labels"), (3, 1), strict=True):
            name = f"{part}-{what}{'.' if dots else '-'}idx{axes}-ubyte" + (".gz" if packed else "")
            write(tmp_path / "mnist" / name, gzip.compress(data) if packed else data)
    assert splits(tmp_path / "mnist") == ("test", "train")
    for split, part in (("train", "train"), ("test", "t10k")):
        data = open_dataset(tmp_path / "mnist", split=split)
        assert np.array_equal(data.x[:, 0], arrays[part][0])
        assert data.y.tolist() == arrays[part][1]
        assert data.class_names == tuple("0123456789")
    some = open_dataset(tmp_path / "mnist", split="train", max_samples=3, seed=2)
    assert np.array_equal(some.x[:, 0], arrays["train"][0][[int(name[-6:]) for name in some.ids]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images, labels: (images[:-1], labels), "ends before image 4"),
        (lambda images, labels: (images, labels[:-1]), "does not contain the 5 labels"),
        (lambda images, labels: (images, labels + b"\0"), "does not contain the 5 labels"),
        (lambda images, labels: (images[:4] + b"\0\0\0\7" + images[8:], labels), "7 images, but there are 5 labels"),
        (lambda images, labels: (b"\0\0\x0d\3" + images[4:], labels), "not an idx file of bytes with 3 axes"),
        (lambda images, labels: (images[:9], labels), "not an idx file"),
        (lambda images, labels: (images, b"\0\0\x08\1\xff\xff\xff\xff"), "does not contain the 4,294,967,295 labels"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    images, labels = change(*idx(noise(0, 5, 6, 4), np.arange(5, dtype=np.uint8)))
    write(tmp_path / "train-images-idx3-ubyte", images)
    write(tmp_path / "train-labels-idx1-ubyte", labels)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_one_idx_file_is_not_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "train-images-idx3-ubyte.gz", gzip.compress(idx(noise(0, 5, 6, 4))[0]))
    with pytest.raises(DataError, match="no label file next to it"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="give the folder"):
        open_dataset(path)
    write(tmp_path / "train-labels-idx1-ubyte.gz", b"\x1f\x8b\x08broken")
    with pytest.raises(DataError, match="is damaged"):
        open_dataset(tmp_path)


# -- tables of labels ----------------------------------------------------------------------------------------


def pictures(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        write(root / name, encoded(noise(number, 4, 4, 3)))


def seen(data: Dataset) -> dict[str, str]:
    return {name: data.class_names[label] for name, label in zip(data.ids, data.y.tolist(), strict=True)}


@pytest.mark.parametrize(
    ("table", "files"),
    [
        ("metadata.csv", ["file_name,label\n0001.png,cat\n0002.png,dog\n", ""]),
        ("labels.csv", ["id,breed\n0001,cat\n0002,dog\n", "train/"]),
        ("train.csv", ["\ufeffimage;category\nimages/0001.png;cat\nimages/0002.png;dog\n", "images/"]),
        ("labels.csv", ["label,width,filename\ncat,4,0001.png\ndog,4,0002.png\n", "images/"]),
    ],
)
def test_a_table_says_the_classes_of_pictures(tmp_path: Path, table: str, files: list[str]) -> None:
    text, folder = files
    write(tmp_path / table, text)
    pictures(tmp_path, f"{folder}0001.png", f"{folder}0002.png", f"{folder}0003.png")
    data = open_dataset(tmp_path)
    assert seen(data) == {f"{folder}0001.png": "cat", f"{folder}0002.png": "dog"}
    assert f"1 picture not listed in it and left out ({folder}0003.png)" in describe(data)


def test_tables_in_split_folders(tmp_path: Path) -> None:
    for split, labels in (("train", "10 9"), ("test", "9 2")):
        rows = "".join(f"{number}.png,{label}\n" for number, label in enumerate(labels.split()))
        write(tmp_path / split / "metadata.csv", f"file_name,label\n{rows}")
        pictures(tmp_path / split, "0.png", "1.png")
    train, test = (open_dataset(tmp_path, split=split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("2", "9", "10")
    assert seen(train) == {"train/0.png": "10", "train/1.png": "9"}
    assert seen(test) == {"test/0.png": "9", "test/1.png": "2"}


def test_rows_without_a_picture_or_a_label_are_named(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "id,label\na,cat\nb,dog\nc,cat\nd,\n")
    pictures(tmp_path, "a.png", "b.png", "d.png")
    data = open_dataset(tmp_path)
    assert set(data.ids) == {"a.png", "b.png"}
    assert {each.name: each.reason for each in data.skipped} == {
        "c": "the picture does not exist", "d.png": "label -1 is not among the 2 classes",
    }  # fmt: skip
    write(tmp_path / "labels.csv", "id,label\na,cat\nb,dog\na.png,cat\n")
    with pytest.raises(DataError, match="lists 'a.png' twice"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "text", ["a,b,c\n1,2,3\n", "file_name,text\nz.png,hello\n", "file,width,height\na/0.png,4,4\nb/1.png,4,4\n", ""]
)
def test_other_tables_leave_class_folders_as_they_are(tmp_path: Path, text: str) -> None:
    write(tmp_path / "metadata.csv", text)
    pictures(tmp_path, "a/0.png", "b/1.png")
    assert seen(open_dataset(tmp_path)) == {"a/0.png": "a", "b/1.png": "b"}


# -- folders and picture formats -----------------------------------------------------------------------------


def test_class_folders_without_an_image_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, "train/a/0.png", "train/b/1.png", "test/a/2.png")
    (tmp_path / "test" / "b").mkdir()
    (tmp_path / "test" / "c").mkdir()
    data = open_dataset(tmp_path, split="test")
    assert data.class_names == ("a", "b")
    assert "1 class folder without images left out ('c')" in data.notes
    assert not open_dataset(tmp_path, split="train").notes


@pytest.mark.parametrize(("form", "suffix"), [("AVIF", "avif"), ("JPEG2000", "jp2"), ("JPEG2000", "j2k")])
def test_newer_formats_are_read(tmp_path: Path, form: str, suffix: str) -> None:
    slope = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, axis=0)
    colour = np.stack([slope, slope.T, slope[::-1].copy()], axis=2)
    options: dict[str, Any] = {"quality": 95} if form == "AVIF" else {"irreversible": False}
    write(tmp_path / "a" / f"0.{suffix}", encoded(colour, form, **options))
    found = open_dataset(tmp_path).x[0].permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - colour).max() <= (12 if form == "AVIF" else 0)


def test_pictures_in_other_formats_are_named_with_those_that_are_read(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(40)
    write(tmp_path / "a" / "0.heic", heic)
    with pytest.raises(DataError, match="HEIC cannot be read .supported: PNG, JPEG.*AVIF"):
        open_dataset(tmp_path)
    pictures(tmp_path, "a/1.png", "b/2.png")
    write(tmp_path / "b" / "3.dng", b"?")
    data = open_dataset(tmp_path)
    assert any(
        note.startswith("2 pictures left out: HEIC, raw cannot be read (supported: PNG, JPEG") for note in data.notes
    )
    write(tmp_path / "b" / "4.jpg", heic)  # as telephones send it
    data = open_dataset(tmp_path)
    assert [each.name for each in data.skipped] == ["b/4.jpg"]
    assert data.skipped[0].reason.startswith("a HEIC picture, which is not supported: save it as one of PNG, JPEG")
    with decode.quiet(), pytest.raises(Exception, match="HEIC"):
        decode.pixels(tmp_path / "a" / "0.heic")
