"""SVHN, GTSRB, the Oxford flowers and CUB: small files of the forms in which they are published, and hostile ones."""

from __future__ import annotations

import io
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from advex.data import Dataset, describe, ids, open_dataset, source, splits
from advex.errors import AdvexWarning, DataError, SpecError


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    file = io.BytesIO()
    form = {".png": "PNG", ".jpg": "JPEG", ".ppm": "PPM"}[path.suffix]
    Image.fromarray(pixels).save(file, form, **options)
    return write(path, file.getvalue())


def labels(data: Dataset) -> dict[str, str]:
    return {name: data.class_names[label] for name, label in zip(data.ids, data.y.tolist(), strict=True)}


def boxes(data: Dataset) -> list[list[list[int]]]:
    assert data.evidence is not None
    return [each.tolist() for each in data.evidence.boxes]


# -- SVHN ----------------------------------------------------------------------------------------------------


def element(order: str, kind: int, data: bytes, length: int | None = None) -> bytes:
    """As the format's description has it: type, length, data filled up to eight bytes."""
    return struct.pack(f"{order}II", kind, len(data) if length is None else length) + data + bytes(-len(data) % 8)


def array(order: str, name: str, shape: tuple[int, ...], data: bytes, length: int | None = None) -> bytes:
    """A matrix of bytes. length: that its numbers claim to have."""
    inside = element(order, 6, struct.pack(f"{order}II", 9, 0))
    inside += element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape)) + element(order, 1, name.encode())
    inside += element(order, 2, data, length)
    return element(order, 14, inside)


def mat(*elements: bytes, order: str = "<", text: bytes = b"MATLAB 5.0 MAT-file") -> bytes:
    return text.ljust(124) + struct.pack(f"{order}HH", 0x0100, 0x4D49) + b"".join(elements)


def digits(root: Path, split: str, y: Any, seed: int, **options: Any) -> np.ndarray:
    """A file as SVHN's are; returns its pictures [n, 3, 32, 32]."""
    x = noise(seed, 32, 32, 3, len(y))
    root.mkdir(exist_ok=True)
    savemat(root / f"{split}_32x32.mat", {"X": x, "y": np.reshape(y, (-1, 1))}, **options)
    return np.stack([x[..., i].transpose(2, 0, 1) for i in range(len(y))])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_svhn_is_read_as_it_is_published(tmp_path: Path, packed: bool, kind: Any) -> None:
    root = tmp_path / "svhn"
    train = digits(root, "train", np.array([1, 10, 9, 2, 10], kind), 0, do_compression=packed)
    digits(root, "extra", np.array([3], kind), 1, do_compression=packed)
    assert splits(root) == ("extra", "train")
    data = open_dataset(root, split="train")
    assert data.class_names == tuple("0123456789")
    assert data.y.tolist() == [1, 0, 9, 2, 0]
    np.testing.assert_array_equal(data.x, train)
    x = loadmat(root / "train_32x32.mat")["X"]  # the same, by SciPy and the axes that its page describes
    assert int(data.x[3, 2, 7, 30]) == x[7, 30, 2, 3]
    some = open_dataset(root, split="train", max_samples=2, seed=1)
    assert torch.equal(some.x, data.sample(2, 1).x)
    assert open_dataset(root / "extra_32x32.mat").y.tolist() == [3]


def test_svhn_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits(tmp_path / "svhn", "test", [10, 4], 0)
    assert open_dataset(f"svhn:root={tmp_path / 'svhn'}", split="test").y.tolist() == [0, 4]
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))
    assert open_dataset("svhn", split="test").y.tolist() == [0, 4]
    (tmp_path / "svhn" / "test_32x32.mat").unlink()
    with pytest.raises(DataError, match="does not contain the files of SVHN"):
        splits("svhn")


def test_files_in_the_other_order_of_bytes(tmp_path: Path) -> None:
    x = noise(0, 32, 32, 3, 2)
    parts = array(">", "X", x.shape, x.tobytes(order="F")), array(">", "y", (2, 1), bytes([10, 5]))
    write(tmp_path / "test_32x32.mat", mat(*parts, order=">"))
    data = open_dataset(tmp_path)
    assert data.y.tolist() == [0, 5]
    np.testing.assert_array_equal(data.x, x.transpose(3, 2, 0, 1))


def test_nothing_but_numbers_of_a_file_is_built(tmp_path: Path) -> None:
    """Structures, cells, texts and complex numbers beside them are passed over."""
    x = noise(0, 32, 32, 3, 1)
    cell = np.array([{"a": 1}, "text"], dtype=object)
    beside = {"s": {"deep": {"a": cell}}, "c": cell, "t": "hello", "z": np.array([1j])}
    savemat(tmp_path / "test_32x32.mat", {**beside, "X": x, "y": np.array([[7]], np.uint8)})
    assert open_dataset(tmp_path).y.tolist() == [7]
    savemat(tmp_path / "test_32x32.mat", {"X": cell, "y": np.array([[7]])})
    with pytest.raises(DataError, match="must contain the arrays X and y; it contains y"):
        open_dataset(tmp_path)


def test_labels_that_are_no_digits_are_left_out(tmp_path: Path) -> None:
    digits(tmp_path, "test", [1, 11, 2, np.nan, 2.5, -1, np.inf, 0], 0)
    data = open_dataset(tmp_path)
    assert (data.y.tolist(), [int(each.name[-1]) for each in data.skipped]) == ([1, 2, 0], [1, 3, 4, 5, 6])
    assert "label 11 is not among the 10 classes" in [each.reason for each in data.skipped]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"MATLAB 7.3 MAT-file, HDF5".ljust(512) + b"\x89HDF\r\n", "MATLAB 7.3 .* '-v7'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "MATLAB 7.3"),
        (bytes(200), "not a MATLAB file of level 5"),
        (b"", "not a MATLAB file of level 5"),
        (mat(), "it contains none"),
        (mat(element("<", 15, zlib.compress(b"x" * 99)[:-9])), "it contains none|damaged"),
        (mat(element("<", 15, b"not packed")), "damaged"),
        (mat(array("<", "X", (32, 32, 3, 1), bytes(3072)), array("<", "y", (2, 1), b"\1\2")), "does not match the 1"),
        (mat(array("<", "X", (3, 32, 32, 1), bytes(3072)), array("<", "y", (1, 1), b"\1")), "shape .3, 32, 32, 1"),
        (mat(array("<", "X", (32, 32, 3, -1), b"")), "damaged"),
        (mat(array("<", "X" * 300, (1,), b"\1")), "damaged"),
        (mat(element("<", 14, element("<", 6, bytes([9] + [0] * 7)) + element("<", 5, bytes(7)))), "damaged.* length"),
        (mat(element("<", 14, element("<", 6, bytes(2)))), "damaged.* length"),
    ],
)
def test_damaged_and_foreign_matlab_files_are_refused(tmp_path: Path, data: bytes, words: str) -> None:
    write(tmp_path / "test_32x32.mat", data)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    for packed, most in ((True, 3000), (False, 128 + 6 * 3072)):
        digits(tmp_path, "test", [1] * 8, 0, do_compression=packed)
        path = tmp_path / "test_32x32.mat"
        whole = path.read_bytes()
        for keep in (130, 140, 190, most, len(whole) - 4):
            path.write_bytes(whole[:keep])
            with pytest.raises(DataError):
                open_dataset(tmp_path)


def test_what_a_file_declares_takes_no_memory(tmp_path: Path) -> None:
    """A thousand million pictures in a file of few bytes; a million labels, and one of as many pictures."""
    many, million = (32, 32, 3, 10**9), (32, 32, 3, 10**6)
    length, ones = 3072 * 10**6, b"\1" * 10**6
    packed = element("<", 15, zlib.compress(array("<", "X", million, bytes(3072), length)))
    cases = [
        (mat(array("<", "X", many, b"", 2**32 - 8)), {}, "would take 3,072,000,000,000 bytes"),
        (mat(array("<", "y", (10**9, 1), b"", 10**9), array("<", "X", (32, 32, 3, 1), bytes(3072))), {}, "."),
        (mat(array("<", "y", (10**6, 1), ones), array("<", "X", million, bytes(3072), length)), {}, "ends too early"),
        (mat(array("<", "y", (10**6, 1), ones), packed), {"memory_limit": 10**9}, "more than the limit of 953.7 MiB"),
        (mat(array("<", "y", (10**6, 1), ones), packed), {"max_samples": 5}, "ends before picture"),
    ]  # fmt: skip
    for data, options, words in cases:
        write(tmp_path / "train_32x32.mat", data)
        del data
        tracemalloc.start()
        with pytest.raises(DataError, match=words):
            open_dataset(tmp_path, **options)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**28  # the pictures would take 3 GB; ids of a million labels that are there take their part


def test_whole_pictures_are_told_from_cropped_ones(tmp_path: Path) -> None:
    write(tmp_path / "train" / "digitStruct.mat", b"MATLAB 7.3 MAT-file")
    picture(tmp_path / "train" / "1.png", noise(0, 20, 40, 3))
    with pytest.raises(DataError, match="format 1.*Download format 2.*train_32x32.mat"):
        open_dataset(tmp_path)


# -- GTSRB ---------------------------------------------------------------------------------------------------

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2"


@pytest.fixture
def signs(tmp_path: Path) -> Path:
    """Ten tracks of three frames of classes 0 and 10, and two test pictures with the table that lacks classes."""
    root = tmp_path / "GTSRB"
    for label in (0, 10):
        folder, rows = root / "Final_Training" / "Images" / f"{label:05d}", []
        for track in range(10):
            for frame in range(3):
                name = f"{track:05d}_{frame:05d}.ppm"
                picture(folder / name, noise(100 * label + 3 * track + frame, 20, 30, 3))
                rows.append(f"{name};30;20;5;6;24;14;{label}")
        write(folder / f"GT-{label:05d}.csv", "\r\n".join([f"{HEADER};ClassId", *rows]) + "\r\n")
    for number in range(2):
        picture(root / "Final_Test" / "Images" / f"{number:05d}.ppm", noise(number, 18, 16, 3))
    rows = [f"{number:05d}.ppm;16;18;1;2;14;15" for number in range(2)]
    write(root / "Final_Test" / "Images" / "GT-final_test.test.csv", "\n".join([HEADER, *rows]))
    return tmp_path


def with_classes(signs: Path, folder: str) -> None:
    lines = [f"{HEADER.lower()};classid", "00000.ppm; 16; 18; 1; 2; 14; 15; 10", "00001.ppm;16;18;1;2;14;15;0"]
    write(signs / folder / "GT-final_test.csv", "\n".join(lines))


@pytest.mark.parametrize("above", [True, False])
def test_traffic_signs_are_read_as_published(signs: Path, above: bool) -> None:
    root = signs if above else signs / "GTSRB"
    assert splits(root) == ("test", "train")
    data = open_dataset(root, split="train", size=20)
    assert len(data) == 60
    assert (data.class_names[0], data.class_names[10], data.class_names[-1]) == ("00", "10", "42")
    assert data.y.tolist() == [0] * 30 + [10] * 30
    assert "41 classes without a picture (01, 02, 03 and 38 more)" in describe(data)
    # Of 30x20 pixels columns 5 to 24 are shown; the sign, 5 to 24 and 6 to 14 with both ends, is all of them.
    assert boxes(data)[0] == [[0, 6, 19, 14]]
    assert all(each == [[0, 6, 19, 14]] for each in boxes(data))


@pytest.mark.parametrize("folder", ["", "GTSRB", "GTSRB/Final_Test", "GTSRB/Final_Test/Images"])
def test_test_pictures_need_the_table_of_their_classes(signs: Path, folder: str) -> None:
    with pytest.raises(DataError, match=r"GT-final_test.csv, with the column ClassId.*separate archive"):
        open_dataset(signs, split="test")
    with_classes(signs, folder)
    data = open_dataset(signs, split="test")
    assert [data.class_names[label] for label in data.y] == ["10", "00"]
    assert data.ids == tuple(f"GTSRB/Final_Test/Images/0000{number}.ppm" for number in range(2))
    assert boxes(data) == [[[1, 2, 14, 15]]] * 2


def test_a_validation_part_parts_no_track(signs: Path) -> None:
    name = f"gtsrb:root={signs},validation=true"
    assert splits(name) == ("test", "train", "validation")
    held = ids(name, ["train", "validation"])
    tracks = {
        part: {(path[-21:-16], path.split("/")[-2], path.split("/")[-1][:5]) for path in held[part]} for part in held
    }
    assert not tracks["train"] & tracks["validation"]
    assert set(held["train"]) | set(held["validation"]) == set(ids(signs, ["train"])["train"])
    data = open_dataset(name, split="validation", size=20)
    assert torch.bincount(data.y).tolist() == [6] + [0] * 9 + [6]  # two of ten tracks of each
    kept = (
        "'validation' is a random fifth of the pictures of each class, with those of one track kept together (seed 0)"
    )
    assert kept in describe(data)
    assert "'test'" not in describe(data)  # that is another part
    assert ids(name, ["validation"])["validation"] == held["validation"]


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("Final_Training/Images/00010/GT-00010.csv", (";10\r\n", ";0\r\n"), "is of class 0, but its folder is 00010"),
        ("Final_Training/Images/00010/GT-00010.csv", (";24;14;", ";2;14;"), "do not form a box"),
        ("Final_Training/Images/00010/GT-00010.csv", ("00000_00001", "00000_00000"), "lists a picture twice"),
        ("Final_Training/Images/00010/GT-00010.csv", ("Width", "ClassId"), "has two columns 'classid'"),
        ("Final_Training/Images/00010/GT-00010.csv", (";5;6;", ";5;"), "line 2: 7 cells for 8 columns"),
        ("Final_Training/Images/00010/GT-00010.csv", ("Roi.X1", "left"), "has no column 'roi.x1'"),
        ("Final_Training/Images/00010/GT-00010.csv", (";5;6;", ";-5;6;"), "contains '-5'"),
        ("GT-final_test.csv", ("00001", "00000"), "00000.ppm twice"),
        ("GT-final_test.csv", ("00001", "../../00001"), "not a file in its folder"),
        ("GT-final_test.csv", ("15;0", "15;43"), "integer from 0 to 42"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(signs: Path, file: str, change: Any, words: str) -> None:
    with_classes(signs, "GTSRB")
    path = signs / "GTSRB" / file
    write(path, path.read_bytes().decode().replace(change[0], change[1], 1))
    with pytest.raises(DataError, match=words):
        open_dataset(signs, split="test" if "final" in file else "train", size=20)


def test_a_picture_of_another_size_than_its_table_says_has_no_box_to_believe(signs: Path) -> None:
    with_classes(signs, "GTSRB")
    picture(signs / "GTSRB" / "Final_Test" / "Images" / "00001.ppm", noise(1, 36, 32, 3))  # made twice as large
    data = open_dataset(signs, split="test", size=16)
    assert labels(data) == {"GTSRB/Final_Test/Images/00000.ppm": "10"}
    assert [each.reason for each in data.skipped] == ["its box is for a picture of 18x16, but the picture is 36x32"]


def test_test_pictures_that_their_table_lacks_are_told(signs: Path) -> None:
    """As where the table was cut off."""
    with_classes(signs, "GTSRB")
    picture(signs / "GTSRB" / "Final_Test" / "Images" / "00002.ppm", noise(2, 18, 16, 3))
    data = open_dataset(signs, split="test")
    assert len(data) == 2
    assert "1 picture of GTSRB/Final_Test/Images left out: not in its table (00002.ppm)" in describe(data)


def test_digits_of_other_scripts_are_no_class(signs: Path) -> None:
    for name in ("²²²²²", "٠٠٠٠٠"):
        (signs / "GTSRB" / "Final_Training" / "Images" / name).mkdir()
    assert len(open_dataset(signs, split="train", size=20)) == 60


def test_the_line_of_a_table_is_that_of_the_file(signs: Path) -> None:
    with_classes(signs, "GTSRB")
    path = signs / "GTSRB" / "GT-final_test.csv"
    lines = path.read_text().splitlines()
    write(path, "\n".join([lines[0], "", "", lines[1], "one;two"]))
    with pytest.raises(DataError, match="GT-final_test.csv, line 5: 2 cells for 8 columns"):
        open_dataset(signs, split="test")


def test_a_picture_that_is_missing_and_a_table_that_is(signs: Path) -> None:
    with_classes(signs, "GTSRB")
    (signs / "GTSRB" / "Final_Test" / "Images" / "00000.ppm").unlink()
    data = open_dataset(signs, split="test")
    assert [each.reason for each in data.skipped] == ["the file does not exist"]
    assert labels(data) == {"GTSRB/Final_Test/Images/00001.ppm": "00"}
    (signs / "GTSRB" / "Final_Training" / "Images" / "00000" / "GT-00000.csv").unlink()
    train = open_dataset(signs, split="train", size=20)
    assert boxes(train)[:30] == [[]] * 30
    assert boxes(train)[30] == [[0, 6, 19, 14]]
    (signs / "GTSRB" / "Final_Training" / "Images" / "00010" / "00003_00001.ppm").unlink()
    train = open_dataset(signs, split="train", size=20)
    assert [each.name[-27:] for each in train.skipped] == ["Images/00010/00003_00001.ppm"[-27:]]


def test_the_training_archive_of_the_competition(signs: Path) -> None:
    """The same class folders, in `GTSRB/Training`."""
    (signs / "GTSRB" / "Final_Training" / "Images").rename(signs / "GTSRB" / "Training")
    data = open_dataset(signs, split="train", size=20)
    assert (len(data), data.ids[0]) == (60, "GTSRB/Training/00000/00000_00000.ppm")
    assert boxes(data)[59] == [[0, 6, 19, 14]]


def test_kaggles_edition(tmp_path: Path) -> None:
    header = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path"
    for track in range(10):
        for frame in range(2):
            picture(tmp_path / "Train" / "20" / f"00020_{track:05d}_{frame:05d}.png", noise(track, 12, 12, 3))
    rows = [
        f"12,12,1,1,10,9,20,Train/20/00020_{track:05d}_{frame:05d}.png" for track in range(10) for frame in range(2)
    ]
    write(tmp_path / "Train.csv", "\n".join([header, *rows]))
    write(tmp_path / "Test.csv", f"{header}\n12,12,2,2,9,9,3,Test/00000.png\n")
    picture(tmp_path / "Test" / "00000.png", noise(0, 12, 12, 3))
    data = open_dataset(tmp_path, split="train")
    assert data.y.tolist() == [20] * 20
    assert boxes(data)[0] == [[1, 1, 10, 9]]
    assert labels(open_dataset(tmp_path, split="test")) == {"Test/00000.png": "03"}
    held = ids(f"gtsrb:root={tmp_path},validation=true", ["validation"])["validation"]
    assert len(held) == 4
    assert len({name[:-10] for name in held}) == 2


def test_the_name_also_opens_another_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "gtsrb" / "07" / "a.png", noise(0, 8, 8, 3))
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))
    assert labels(open_dataset("gtsrb")) == {"07/a.png": "07"}
    with pytest.raises(DataError, match="not in the original form of GTSRB"):
        open_dataset("gtsrb:validation=true")


# -- flowers -------------------------------------------------------------------------------------------------


@pytest.fixture
def flowers102(tmp_path: Path) -> Path:
    """Six pictures of three classes; a bright disc, and the same cut out on blue, as JPEG with its noise."""
    root = tmp_path / "flowers102"
    row, column = np.mgrid[:40, :48]
    disc = (row - 18) ** 2 + (column - 20) ** 2 <= 100
    for number in range(1, 7):
        pixels = noise(number, 40, 48, 3) // 2
        pixels[disc] = [20 * number, 90, 250 - 20 * number]
        picture(root / "jpg" / f"image_{number:05d}.jpg", pixels)
        if number != 5:
            pixels[~disc] = [0, 0, 254]
            picture(root / "segmim" / f"segmim_{number:05d}.jpg", pixels, quality=90)
    savemat(root / "imagelabels.mat", {"labels": np.array([[3, 1, 2, 3, 1, 2]], np.uint8)}, do_compression=True)
    sets = {"trnid": [[1, 2]], "valid": [[6]], "tstid": [[3, 4, 5]]}
    savemat(root / "setid.mat", {key: np.array(value, np.uint16) for key, value in sets.items()})
    return root


def test_flowers_of_102_kinds_count_from_1(flowers102: Path) -> None:
    assert splits(flowers102) == ("test", "train", "validation")
    data = {split: open_dataset(flowers102, split=split) for split in splits(flowers102)}
    assert labels(data["train"]) == {"image_00001.jpg": "3", "image_00002.jpg": "1"}
    assert labels(data["validation"]) == {"image_00006.jpg": "2"}
    assert labels(data["test"]) == {"image_00003.jpg": "2", "image_00004.jpg": "3", "image_00005.jpg": "1"}
    assert data["test"].class_names == ("1", "2", "3")
    assert "1 picture of 3 without a mask" in describe(data["test"])


def test_a_flower_is_what_is_not_blue_though_jpeg_has_moved_the_blue(flowers102: Path) -> None:
    data = open_dataset(flowers102, split="test")
    assert data.evidence is not None
    assert data.evidence.outlines is not None
    row, column = np.mgrid[:40, :48]
    distance = np.sqrt((row - 18) ** 2 + (column - 20) ** 2)
    mask = data.evidence.outlines[0].numpy()
    assert not mask[distance > 14].any()  # JPEG's blocks are eight pixels wide, and colour is halved
    assert mask[distance < 9].all()
    assert boxes(data)[2] == []
    blue = np.asarray(Image.open(flowers102 / "segmim" / "segmim_00003.jpg")).reshape(-1, 3)[distance.ravel() > 14]
    assert (blue != [0, 0, 254]).any()  # equality would have found flower everywhere
    x0, y0, x1, y1 = boxes(data)[0][0]
    assert np.flatnonzero(mask.any(axis=0))[[0, -1]].tolist() == [x0, x1]
    assert np.flatnonzero(mask.any(axis=1))[[0, -1]].tolist() == [y0, y1]


def test_dark_and_saturated_petals_are_flower(flowers102: Path) -> None:
    """A test of each channel by itself, joined by or, would cut these out."""
    pixels = np.zeros((40, 48, 3), np.uint8) + np.array([0, 0, 254], np.uint8)
    pixels[4:12, 4:12], pixels[20:28, 20:28] = [0, 0, 0], [254, 0, 254]
    picture(flowers102 / "segmim" / "segmim_00003.jpg", pixels, quality=100, subsampling=0)
    assert boxes(open_dataset(flowers102, split="test"))[0] == [[4, 4, 27, 27]]


def test_masks_that_are_damaged_empty_or_of_another_size(flowers102: Path) -> None:
    write(flowers102 / "segmim" / "segmim_00003.jpg", b"nothing")
    picture(flowers102 / "segmim" / "segmim_00004.jpg", np.full((40, 48, 3), [0, 0, 254], np.uint8))
    with pytest.warns(AdvexWarning) as told:
        data = open_dataset(flowers102, split="test")
    assert ["cannot be read as a mask" in str(each.message) for each in told] == [True, False]
    assert "no pixel of a flower (colours: [[" in str(told[1].message)
    assert boxes(data) == [[], [], []]
    picture(flowers102 / "segmim" / "segmim_00001.jpg", noise(0, 20, 24, 3) // 2)
    with pytest.warns(AdvexWarning, match="segmim_00001.jpg and its picture differ in size: 20x24 and 40x48"):
        train = open_dataset(flowers102, split="train")
    assert train.ids == ("image_00001.jpg", "image_00002.jpg")
    assert boxes(train)[0] == []  # a box of the mask's pixels would lie elsewhere in the picture


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[7]]}, "integers from 1 to 6"),
        ("setid.mat", {"trnid": [[0]], "valid": [[2]], "tstid": [[3]]}, "integers from 1 to 6"),
        ("setid.mat", {"trnid": [[1.5]], "valid": [[2]], "tstid": [[3]]}, "integers from 1 to 6"),
        ("setid.mat", {"trnid": [[np.nan]], "valid": [[2]], "tstid": [[3]]}, "integers from 1 to 6"),
        ("setid.mat", {"trnid": [[1, 1]], "valid": [[2]], "tstid": [[3]]}, "twice in 'train'"),
        (
            "setid.mat",
            {"trnid": [[1, 2]], "valid": [[2]], "tstid": [[3]]},
            "2 appears in both 'train' and 'validation'",
        ),
        ("setid.mat", {"trnid": [[1]], "valid": [[2]]}, "no array 'tstid'; it contains trnid, valid"),
        ("imagelabels.mat", {"labels": np.ones((1, 200_000), np.uint8)}, "expected at most 100,000"),
    ],
)
def test_flowers_tables_that_cannot_be(flowers102: Path, file: str, values: Any, words: str) -> None:
    savemat(flowers102 / file, {key: np.array(value) for key, value in values.items()}, do_compression=True)
    with pytest.raises(DataError, match=words):
        open_dataset(flowers102, split="train")


@pytest.mark.parametrize("missing", ["setid.mat", "imagelabels.mat"])
def test_flowers_without_a_table_are_not_two_class_folders(flowers102: Path, missing: str) -> None:
    (flowers102 / missing).unlink()
    with pytest.raises(DataError, match="is not flowers102: expected imagelabels.mat and setid.mat"):
        splits(flowers102)


def test_kinds_of_flowers_without_a_picture_are_counted(flowers102: Path) -> None:
    assert "1 class without a picture (2)" in describe(open_dataset(flowers102, split="train"))


@pytest.fixture
def flowers17(tmp_path: Path) -> Path:
    """The pictures that the three deals name, and a trimap of one: dark red, green edge, grey unlabelled."""
    root = tmp_path / "flowers17"
    deals = {}
    for deal, numbers in enumerate(([80, 81, 1360], [1, 81, 2], [160, 1, 2]), 1):
        for key, number in zip(("trn", "val", "tst"), numbers, strict=True):
            deals[f"{key}{deal}"] = np.array([[number]])
            picture(root / "jpg" / f"image_{number:04d}.jpg", noise(number, 10, 12, 3))
    savemat(root / "datasplits.mat", deals)
    trimap = Image.new("P", (12, 10), 2)
    trimap.putpalette([128, 0, 0, 0, 128, 0, 128, 128, 128])
    for row in range(3, 7):
        for column in range(2, 9):
            trimap.putpixel((column, row), 1 if column in (2, 8) else 0)
    (root / "trimaps").mkdir()
    trimap.save(root / "trimaps" / "image_0080.png")
    return root


def test_flowers_of_17_kinds_are_80_each(flowers17: Path) -> None:
    """The 80th picture is still of the first class, the 81st of the second."""
    first = {split: labels(open_dataset(flowers17, split=split)) for split in ("train", "validation", "test")}
    assert first == {
        "train": {"image_0080.jpg": "1"}, "validation": {"image_0081.jpg": "2"}, "test": {"image_1360.jpg": "17"},
    }  # fmt: skip
    third = open_dataset(f"flowers17:root={flowers17},deal=3", split="train")
    assert labels(third) == {"image_0160.jpg": "2"}
    assert third.shape == (3, 128, 128)
    with pytest.raises(SpecError, match=r"side=1000000 is too large: a picture can have at most 89,478,485 pixels"):
        splits(f"flowers17:root={flowers17},side=1000000")
    with pytest.raises(SpecError, match="deals are 1, 2 and 3"):
        splits(f"flowers17:root={flowers17},deal=4")


def test_flowers_held_back_of_each_kind(flowers17: Path) -> None:
    """72 of each kind and 8, always the same; the pictures that are not there are named."""
    name = f"flowers17:root={flowers17},held_out=8"
    held = ids(name, ["train", "test"])
    kinds = {part: np.bincount([(int(each[6:10]) - 1) // 80 for each in names]) for part, names in held.items()}
    assert (kinds["train"].tolist(), kinds["test"].tolist()) == ([72] * 17, [8] * 17)
    assert not set(held["train"]) & set(held["test"])
    assert ids(name, ["test"])["test"] == held["test"]
    with pytest.raises(SpecError, match="held_out=80"):
        splits(f"flowers17:root={flowers17},held_out=80")


def test_a_mask_follows_the_square(flowers17: Path) -> None:
    """Of 12 x 10 pixels the middle columns 1 to 10 are shown, at ten times the size."""
    data = open_dataset(f"flowers17:root={flowers17},side=100", split="train")
    assert data.evidence is not None
    assert data.evidence.outlines is not None
    assert boxes(data) == [[[20, 30, 69, 69]]]
    assert data.evidence.outlines[0].nonzero().tolist()[0] == [30, 20]
    assert int(data.evidence.outlines.sum()) == 20 * 100


def test_trimaps_have_their_flower_in_dark_red(flowers17: Path) -> None:
    train = open_dataset(flowers17, split="train")
    assert train.evidence is not None
    assert train.evidence.outlines is not None
    assert boxes(train) == [[[3, 3, 7, 6]]]
    assert int(train.evidence.outlines.sum()) == 5 * 4
    assert "1 picture of 1 without a mask" in describe(open_dataset(flowers17, split="test"))
    shutil.rmtree(flowers17 / "trimaps")
    assert open_dataset(flowers17, split="train").evidence is None


# -- CUB -----------------------------------------------------------------------------------------------------

TABLES = {
    "images.txt": "1 001.Black_footed_Albatross/a.jpg\n2 001.Black_footed_Albatross/b.jpg\n3 003.Sooty_Tern/c d.jpg\n",
    "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n3 003.Sooty_Tern\n",
    "image_class_labels.txt": "1 1\n2 1\n3 3\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n",
    "bounding_boxes.txt": "1 3.0 2.0 6.0 4.0\n2 1.0 1.0 5.0 5.0\n3 4.6 0.0 7.7 8.3\n",
}


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    root = tmp_path / "cub" / "CUB_200_2011"
    for name, text in TABLES.items():
        write(root / name, text)
    for number, name in enumerate(("a", "b")):
        picture(root / "images" / "001.Black_footed_Albatross" / f"{name}.jpg", noise(number, 8, 12, 3))
    picture(root / "images" / "003.Sooty_Tern" / "c d.jpg", noise(2, 8, 12))  # a grey one
    return tmp_path / "cub"


@pytest.mark.parametrize("above", [True, False])
def test_birds_are_read_as_published(birds: Path, above: bool) -> None:
    root = birds if above else birds / "CUB_200_2011"
    assert splits(root) == ("test", "train")
    train, test = open_dataset(root, split="train"), open_dataset(root, split="test")
    assert train.class_names == ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Tern")
    assert labels(train) == {
        "001.Black_footed_Albatross/a.jpg": "001.Black_footed_Albatross", "003.Sooty_Tern/c d.jpg": "003.Sooty_Tern",
    }  # fmt: skip
    assert labels(test) == {"001.Black_footed_Albatross/b.jpg": "001.Black_footed_Albatross"}
    assert "1 class without a picture (002.Laysan_Albatross)" in describe(train)
    assert train.shape == (3, 8, 12)
    grey = np.asarray(Image.open(birds / "CUB_200_2011" / "images" / "003.Sooty_Tern" / "c d.jpg"))
    np.testing.assert_array_equal(train.x[1], grey[None].repeat(3, axis=0))
    # x, y, width, height; the second box leaves the picture of 12 x 8 by 0.3 each way.
    assert boxes(train) == [[[3, 2, 8, 5]], [[5, 0, 11, 7]]]


def test_boxes_and_masks_of_birds_follow_a_cut(birds: Path) -> None:
    votes = np.zeros((8, 12), np.uint8)
    votes[2:6, 3:9], votes[3, 4] = 200, 127  # of five people four and two
    picture(birds / "segmentations" / "001.Black_footed_Albatross" / "a.png", votes)
    data = open_dataset(birds, split="train", size=4)  # columns 2 to 9, halved
    assert data.evidence is not None
    assert data.evidence.outlines is not None
    assert boxes(data)[0] == [[0, 1, 2, 2]]  # x from 0.5 to 3.5, whose centres are 0.5, 1.5 and 2.5; y from 1 to 3
    whole = open_dataset(birds, split="train")
    assert whole.evidence is not None
    assert whole.evidence.outlines is not None
    np.testing.assert_array_equal(whole.evidence.outlines[0], votes > 127)
    assert "1 picture of 2 without a mask" in describe(whole)
    write(birds / "segmentations" / "001.Black_footed_Albatross" / "a.png", b"nothing")
    broken = open_dataset(birds, split="train")
    assert "1 outlines cannot be read; their boxes are used" in describe(broken)
    assert boxes(broken) == boxes(whole)


def test_masks_of_birds_are_evidence_without_boxes(birds: Path) -> None:
    """The box is the tightest one around the mask; a broken mask is none, with a warning."""
    (birds / "CUB_200_2011" / "bounding_boxes.txt").unlink()
    votes = np.zeros((8, 12), np.uint8)
    votes[2:6, 3:9], votes[3, 4] = 200, 127
    mask = picture(birds / "segmentations" / "001.Black_footed_Albatross" / "a.png", votes)
    data = open_dataset(birds, split="train")
    assert data.evidence is not None
    assert data.evidence.outlines is not None
    assert boxes(data) == [[[3, 2, 8, 5]], []]
    np.testing.assert_array_equal(data.evidence.outlines[0], votes > 127)
    assert "1 picture of 2 without a mask" in describe(data)
    assert open_dataset(birds, split="test").evidence is None  # of its only picture there is no mask
    write(mask, b"nothing")
    with pytest.warns(AdvexWarning, match="a.png cannot be read as a mask"):
        assert boxes(open_dataset(birds, split="train")) == [[], []]


def test_birds_whose_tables_are_empty(birds: Path) -> None:
    for name in TABLES:
        write(birds / "CUB_200_2011" / name, "")
    for read in (splits, open_dataset):
        with pytest.raises(DataError, match="cub has no examples: its files and tables list none"):
            read(birds)


def test_birds_without_boxes_or_names(birds: Path) -> None:
    (birds / "CUB_200_2011" / "bounding_boxes.txt").unlink()
    (birds / "CUB_200_2011" / "classes.txt").unlink()
    data = open_dataset(birds, split="train")
    assert (data.evidence, data.class_names) == (None, ("1", "3"))


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("images.txt", ("2 001", "1 001"), "line 2: the id '1' is listed twice"),
        ("images.txt", ("b.jpg", "a.jpg"), "a picture under two ids"),
        (
            "images.txt",
            ("2 001.Black_footed_Albatross/b.jpg", "2 ./001.Black_footed_Albatross//a.jpg"),
            "under two ids",
        ),
        ("images.txt", ("003.Sooty", "../003.Sooty"), "not a file in its folder"),
        ("images.txt", ("003.Sooty", "/003.Sooty"), "not a file in its folder"),
        ("images.txt", ("3 003.Sooty_Tern/c d.jpg\n", ""), "only one of them has the ids 3"),
        ("image_class_labels.txt", ("3 3", "3 4"), "the class 4 of picture 3 is not in classes.txt"),
        ("image_class_labels.txt", ("3 3", "4 3"), "only one of them has the ids 3, 4"),
        ("train_test_split.txt", ("3 1", "3 2"), "integer from 0 to 1"),
        ("bounding_boxes.txt", ("7.7 8.3", "7.7"), "line 3: 4 cells; expected an id and 4 more"),
        ("bounding_boxes.txt", ("7.7", "nan"), "has no area"),
        ("bounding_boxes.txt", ("7.7", "-7.7"), "has no area"),
        ("bounding_boxes.txt", ("7.7", "wide"), "is not four numbers"),
        ("classes.txt", ("002.Laysan_Albatross", "003.Sooty_Tern"), "lists a class twice"),
    ],
)
def test_birds_tables_that_contradict_each_other(birds: Path, table: str, change: Any, words: str) -> None:
    write(birds / "CUB_200_2011" / table, TABLES[table].replace(*change))
    with pytest.raises(DataError, match=words):
        splits(birds)


@pytest.mark.parametrize("missing", ["image_class_labels.txt", "train_test_split.txt"])
@pytest.mark.parametrize("above", [True, False])
def test_birds_without_a_table_are_no_class_folders(birds: Path, missing: str, above: bool) -> None:
    (birds / "CUB_200_2011" / missing).unlink()
    with pytest.raises(DataError, match=f"is not cub: expected.*{missing}"):
        splits(birds if above else birds / "CUB_200_2011")


@pytest.mark.parametrize("name", ["flowers102", "flowers17", "cub"])
def test_they_are_opened_by_name_where_their_folder_is(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = request.getfixturevalue({"cub": "birds"}.get(name, name))
    monkeypatch.setenv("ADVEX_DATA", str(root.parent))
    by_name, by_folder = open_dataset(name, split="train"), open_dataset(root, split="train")
    assert by_name.ids == by_folder.ids == open_dataset(f"{name}:root={root}", split="train").ids
    with pytest.raises(DataError, match=f"is not {name}"):
        splits(f"{name}:root={root / 'jpg' if name != 'cub' else root / 'CUB_200_2011' / 'images'}")


@pytest.mark.parametrize("name", ["svhn", "gtsrb", "flowers17", "flowers102", "cub", "cifar10c"])
def test_a_strangers_folder_is_not_walked_and_the_sentence_says_what_is_expected(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "picture.png").write_bytes(b"")
    monkeypatch.setattr(source, "files_below", lambda root: pytest.fail(f"{root} was walked"))
    expected = r"(\.mat|Final_Training|\.npy|images\.txt)"
    with pytest.raises(DataError, match=expected) as error:
        open_dataset(f"{name}:root={tmp_path}")
    assert not error.value.absent
    with pytest.raises(DataError) as error:
        open_dataset(f"{name}:root={tmp_path / 'nothere'}")
    assert error.value.absent
