"""Data sets from files made here, whole and broken, against the pixels that went into them."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from advex import registry
from advex.data import Dataset, Skipped, describe, open_dataset, open_streamed, splits
from advex.data.crops import Streaming
from advex.data.dataset import drawn
from advex.data.images.png import decode_png, encode_png, quantise
from advex.data.tables.table import in_folder
from advex.errors import DataError, InputError, SpecError
from advex.evaluation import settings_from


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def alone(tmp_path: Path, data: bytes, name: str = "a/x.png", **options: Any) -> np.ndarray:
    """[c, h, w] of a data set of one image file."""
    write(tmp_path / "alone" / name, data)
    data_set = open_dataset(tmp_path / "alone", **options)
    assert not data_set.skipped
    return data_set.x[0].numpy()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is larger than it is."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


# -- built in ------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_each_once() -> None:
    counts, labels = load_digits(return_X_y=True)
    seen: list[int] = []
    for split, size in (("train", 1297), ("test", 500)):
        data = open_dataset("digits", split=split)
        index = [int(each.removeprefix("digits/")) for each in data.ids]
        assert (len(data), data.shape, data.x.dtype) == (size, (1, 8, 8), torch.uint8)
        assert data.y.tolist() == labels[index].tolist()
        # 17 levels go to 17 bytes and back again
        assert np.array_equal(np.rint(data.x.numpy().reshape(size, 64) / 255 * 16), counts[index])
        shares = torch.bincount(data.y) / size - torch.bincount(torch.from_numpy(labels)) / len(labels)
        assert shares.abs().max() < 1 / size
        seen += index
    assert sorted(seen) == list(range(1797))


@pytest.mark.parametrize("seed", [-1, 10**20])
def test_seeds_that_do_not_fit_are_refused(seed: int) -> None:
    calls: list[Callable[[], object]] = [
        lambda: open_dataset("digits", split="test", seed=seed),
        lambda: open_dataset("digits", split="test").sample(3, seed=seed),
        lambda: open_dataset(f"digits:seed={seed}", split="test"),
        lambda: open_dataset(f"planted:seed={seed}", split="test"),
        lambda: settings_from({"seed": seed}),
    ]
    for call in calls:
        with pytest.raises(SpecError, match="seed"):
            call()


def test_digits_split_is_the_same_each_time_and_another_by_its_own_seed() -> None:
    first = open_dataset("digits", split="test", seed=0).ids
    assert open_dataset("digits", split="test", seed=5).ids == first
    assert open_dataset("digits:seed=1", split="test").ids != first


def test_digits_are_listed() -> None:
    assert "handwritten digits" in registry.entries("dataset")["digits"].summary


def test_a_built_in_name_that_is_a_folder_too_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))
    with pytest.raises(DataError, match="did you mean") as told:
        open_dataset("digit")
    assert str(told.value).count("'digits'") == 1


@pytest.mark.parametrize(
    ("source", "split", "words"),
    [
        ("digits", None, "has several splits: test, train"),
        ("digits", "tset", "did you mean 'test'"),
        ("digist", None, "did you mean 'digits'.*advex list dataset.*advex list format"),
        ("", None, "no data set ''"),
        ("digits", None, r"split='test' \(--split test\)"),
    ],
)
def test_a_wrong_name_or_split_is_explained(source: str, split: str | None, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(source, split=split)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (8, 8, 8)}, {"channels": 2}, {"max_samples": 0}])
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        open_dataset("digits", split="test", **options)


def test_size_and_channels_apply_to_the_built_in_data_too() -> None:
    data = open_dataset("digits", split="test", size=(12, 16), channels=3)
    assert data.shape == (3, 12, 16)
    assert torch.equal(data.x[:, 0], data.x[:, 2])


# -- folders -------------------------------------------------------------------------------------------------


def test_a_folder_is_read_whole_and_in_order(tmp_path: Path) -> None:
    root = tmp_path / "my data"
    images = {
        "Zebra/1.png": noise(1, 6, 5, 3),
        "a b/deep/er/ü 2.PNG": noise(2, 6, 5, 3),
        "a b/3.png": noise(3, 6, 5, 3),
        "été/☃.png": noise(4, 6, 5, 3),
    }
    for name, pixels in images.items():
        write(root / name, encoded(pixels))
    for name in (".hidden/x.png", "Zebra/.x.png", "__MACOSX/Zebra/x.png"):
        write(root / name, encoded(noise(0, 9, 9)))
    for name in ("Zebra/Thumbs.db", "labels.txt"):
        write(root / name, b"?")
    write(root / "loose.png", encoded(noise(0, 9, 9)))
    os.symlink(root, root / "Zebra" / "loop")
    data = open_dataset(root)
    assert data.name == "my data"
    assert data.class_names == ("Zebra", "a b", "été")
    assert data.ids == ("Zebra/1.png", "a b/3.png", "a b/deep/er/ü 2.PNG", "été/☃.png")
    assert data.y.tolist() == [0, 1, 1, 2]
    for pixels, name in zip(data.x.numpy(), data.ids, strict=True):
        assert np.array_equal(pixels.transpose(1, 2, 0), images[name])
    assert data.skipped == ()
    assert describe(data) == (
        "my data: 4 images, 6x5, 3 channels, 3 classes; 2 files are not image files and left out "
        "(Zebra/Thumbs.db, labels.txt); 1 file is not in a class folder and left out (loose.png)"
    )


def test_splits_share_their_classes(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/c/2.png", "test/b/3.png", "test/c/4.png"):
        write(tmp_path / "set" / name, encoded(noise(0, 4, 4)))
    train, test = (open_dataset(tmp_path / "set", split=split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert (train.y.tolist(), test.y.tolist()) == ([0, 2], [1, 2])
    assert (test.name, test.ids) == ("set/test", ("test/b/3.png", "test/c/4.png"))
    with pytest.raises(DataError, match="several splits: test, train"):
        open_dataset(tmp_path / "set")
    assert splits(tmp_path / "set") == ("test", "train")
    assert splits(tmp_path / "set" / "test") == ()
    os.symlink(tmp_path / "set" / "test", tmp_path / "set" / "val")
    linked = open_dataset(tmp_path / "set", split="val")
    assert (linked.ids, linked.y.tolist()) == (("val/b/3.png", "val/c/4.png"), [1, 2])
    with pytest.raises(DataError, match="has no splits"):
        open_dataset(tmp_path / "set" / "train", split="validation")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train/1.png", "plane/2.png"):
        write(tmp_path / name, encoded(noise(0, 4, 4)))
    assert open_dataset(tmp_path).class_names == ("plane", "train")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "contains no images"),
        (["a/readme.txt"], "contains no images.*a/readme.txt"),
        (["1.png", "2.png"], "2 images are not in class folders"),
        (["train/a/1.png", "test/a/1.png", "extra/a/1.png"], "look like splits, next to extra"),
        (["x.npz", "y.npz"], "choose one of them"),
    ],
)
def test_a_folder_that_is_no_data_set_says_why(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        write(tmp_path / name, encoded(noise(0, 4, 4)))
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a header but no rows"):
        open_dataset(write(tmp_path / "x.csv", b"a,b\n"))
    with pytest.raises(DataError, match=r"'\.pt' cannot be read"):
        open_dataset(write(tmp_path / "x.pt", b""))


# -- decoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "suffix", "options"),
    [
        ("PNG", "png", {}),
        ("BMP", "bmp", {}),
        ("WEBP", "webp", {"lossless": True}),
        ("TIFF", "tif", {}),
        ("TIFF", "tiff", {"compression": "tiff_lzw"}),
        ("PPM", "ppm", {}),
    ],
)
def test_lossless_formats_give_back_the_pixels(tmp_path: Path, form: str, suffix: str, options: dict[str, Any]) -> None:
    pixels = noise(0, 7, 9, 3)
    assert np.array_equal(alone(tmp_path, encoded(pixels, form, **options), f"a/x.{suffix}").transpose(1, 2, 0), pixels)


def test_lossy_formats_are_near(tmp_path: Path) -> None:
    slope = np.linspace(0, 255, 64).astype(np.uint8)[None].repeat(64, axis=0)
    assert np.abs(alone(tmp_path, encoded(slope, "JPEG", quality=95), "a/x.jpeg")[0].astype(int) - slope).max() <= 3
    assert np.array_equal(alone(tmp_path / "2", encoded(slope, "GIF"), "a/x.gif")[0], slope)  # 64 greys fit a palette


@pytest.mark.parametrize(
    ("orientation", "stored"),
    # How each orientation stores an upright image: what a camera held that way writes.
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda x: np.rot90(x, 1)),
        (7, lambda x: np.rot90(x, 2).T),
        (8, lambda x: np.rot90(x, -1)),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, stored: Any, form: str) -> None:
    upright = np.kron(np.array([[0, 80, 160], [240, 40, 120]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(stored(upright)), form, exif=exif)
    assert np.abs(alone(tmp_path, data, "a/x.jpg")[0].astype(int) - upright).max() <= 2


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    pixels = np.array([[0, 255, 256], [0x1234, 0x80FF, 65535]], dtype=np.uint16)
    for form in ("PNG", "TIFF"):
        assert alone(tmp_path / form, encoded(pixels, form)).tolist() == [[[0, 0, 1], [0x12, 0x80, 255]]]


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 4, 4), dtype=np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, [0, 51, 204, 255]
    # white * (1 - alpha) + colour * alpha, alpha = 0, 0.2, 0.8, 1
    red, blue = [255, 244, 211, 200], [255, 204, 51, 0]
    assert alone(tmp_path, encoded(rgba)).tolist() == [[red], [blue], [blue]]
    grey = Image.merge("LA", [Image.fromarray(rgba[..., 0].copy()), Image.fromarray(rgba[..., 3].copy())])
    assert alone(tmp_path / "grey", encoded(grey)).tolist() == [[red]]


def test_palettes_give_their_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "L")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert alone(tmp_path, encoded(image)).tolist() == [[[10, 40, 70]], [[20, 50, 80]], [[30, 60, 90]]]
    assert alone(tmp_path / "clear", encoded(image, transparency=1))[:, 0, 1].tolist() == [255, 255, 255]
    image.putpalette([5, 5, 5, 7, 7, 7, 9, 9, 9])
    assert alone(tmp_path / "grey", encoded(image)).tolist() == [[[5, 7, 9]]]


def test_other_modes_become_grey_or_colour(tmp_path: Path) -> None:
    bits = np.array([[True, False]])
    assert alone(tmp_path / "1", encoded(bits)).tolist() == [[[255, 0]]]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert np.abs(alone(tmp_path / "2", encoded(cmyk, "JPEG")).astype(int)[:, 0, 0] - [255, 0, 0]).max() <= 4


def test_channels_are_declared_or_follow_from_the_images(tmp_path: Path) -> None:
    grey, colour = noise(1, 4, 4), noise(2, 4, 4, 3)
    write(tmp_path / "a/1.png", encoded(grey))
    assert open_dataset(tmp_path).shape == (1, 4, 4)
    assert open_dataset(tmp_path, channels=3).x[0].tolist() == [grey.tolist()] * 3
    write(tmp_path / "a/2.png", encoded(colour))
    mixed = open_dataset(tmp_path).x.numpy()
    assert mixed[0].tolist() == [grey.tolist()] * 3
    assert np.array_equal(mixed[1].transpose(1, 2, 0), colour)
    declared = open_dataset(tmp_path, channels=1).x.numpy()
    assert np.array_equal(declared[0, 0], grey)
    assert np.abs(declared[1, 0] - colour @ np.array([0.299, 0.587, 0.114])).max() <= 1  # ITU-R BT.601


def test_several_sizes_need_one(tmp_path: Path) -> None:
    for name, shape in (("a/1.png", (40, 30)), ("a/2.png", (40, 30)), ("b/3.png", (24, 50))):
        write(tmp_path / name, encoded(noise(0, *shape)))
    with pytest.raises(DataError, match=r"40x30 \(2\), 24x50 \(1\).*size=24"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, size=24).shape == (1, 24, 24)
    assert open_dataset(tmp_path, size=(10, 20)).shape == (1, 10, 20)


def test_size_cuts_the_centre_and_does_not_alias(tmp_path: Path) -> None:
    bands = np.repeat(np.array([10, 100, 200], dtype=np.uint8), 20)[None].repeat(20, axis=0)
    assert (alone(tmp_path / "wide", encoded(bands), size=20) == 100).all()
    assert (alone(tmp_path / "tall", encoded(np.ascontiguousarray(bands.T)), size=20) == 100).all()
    board = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255  # every other pixel: all 0 or 255 if aliased
    small = alone(tmp_path / "board", encoded(board), size=8)
    assert np.abs(small[:, 1:-1, 1:-1].astype(float) - 127.5).max() < 8


# -- what cannot be read -------------------------------------------------------------------------------------


def test_every_broken_file_is_named_with_its_reason(tmp_path: Path) -> None:
    good = encoded(noise(0, 32, 32, 3))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x55
    broken = {
        "empty.png": (b"", "empty file"),
        "text.png": (b"hello", "not an image of a known format"),
        "truncated.png": (good[: len(good) // 2], "truncated file"),
        "truncated.jpg": (encoded(noise(0, 32, 32), "JPEG")[:-40], "truncated file"),
        "flipped.png": (bytes(flipped), "damaged: "),
        "other size, truncated.png": (encoded(noise(0, 90, 90))[:2000], "truncated file"),
        "bomb.png": (bomb(10_000, 10_000), "too many pixels"),  # where Pillow only warns
        "larger bomb.png": (bomb(100_000, 100_000), "too many pixels"),
        "float.tif": (encoded(Image.new("F", (32, 32), 0.5), "TIFF"), "no standard white"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n", "not an image of a known format"),
    }
    for name, (data, _) in broken.items():
        write(tmp_path / "a" / name, data)
    os.symlink(tmp_path / "nowhere", tmp_path / "a" / "link.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    write(tmp_path / "b" / "good.png", good)
    write(tmp_path / "b" / "really a jpeg.png", encoded(noise(0, 32, 32, 3), "JPEG"))
    filters = list(warnings.filters)
    data = open_dataset(tmp_path)
    assert list(warnings.filters) == filters
    assert data.ids == ("b/good.png", "b/really a jpeg.png")
    assert data.class_names == ("a", "b")
    assert np.array_equal(data.x[0].numpy().transpose(1, 2, 0), noise(0, 32, 32, 3))
    found = {each.name.removeprefix("a/"): each.reason for each in data.skipped}
    assert found.keys() == broken.keys() | {"link.png", "pipe.png"}
    for name, (_, reason) in broken.items():
        assert found[name].startswith(reason) or reason in found[name], (name, found[name])
    assert "12 could not be read (a/bomb.png: too many pixels" in describe(data)
    for path in (tmp_path / "b").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="none of the 12 images could be read"):
        open_dataset(tmp_path)


def test_links_that_cannot_be_followed_are_named(tmp_path: Path) -> None:
    root = tmp_path / "set" / "train"
    for name in "ab":
        write(root / name / "good.png", encoded(noise(0, 32, 32, 3)))
    for folder in (root, root / "a"):
        for name in ("loop", "long"):
            target = "x" * 300 if name == "long" else name  # longer than any name, or itself
            os.symlink(target, folder / name)
            os.symlink(f"{target}.png", folder / f"{name}.png")
    for data in (open_dataset(root.parent), open_streamed(root.parent, Streaming())):
        assert data is not None
        assert data.ids == ("train/a/good.png", "train/b/good.png")
        assert {each.name: each.reason for each in data.skipped} == {
            "train/a/long.png": "File name too long", "train/a/loop.png": "the file does not exist"
        }  # fmt: skip
        assert data.notes[:2] == (
            "4 files are not image files and left out (train/a/long, train/a/loop, train/long and 1 more)",
            "2 files are not in a class folder and left out (train/long.png, train/loop.png)",
        )
    assert not in_folder(root)  # of a folder of tables


def test_what_the_system_says_of_a_place_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(place: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(tmp_path / "a"))

    monkeypatch.setattr("advex.data._formats", lambda: [SimpleNamespace(find=lost)])
    with pytest.raises(DataError, match=f"^{tmp_path / 'a'} cannot be read: Stale file handle\\.$"):
        open_dataset(tmp_path)


@given(
    data=st.binary(max_size=60),
    at=st.integers(0, 300),
    form=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]),
)
def test_damage_anywhere_is_survived(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, form: str) -> None:
    whole = encoded(noise(0, 9, 9, 3), form)
    root = tmp_path_factory.mktemp("damage")
    write(root / "a/1.png", whole[:at] + data + whole[at + len(data) :])
    write(root / "a/2.png", encoded(noise(1, 9, 9, 3)))
    try:
        result = open_dataset(root, size=9)
    except DataError as error:  # only for a whole that makes no sense
        pytest.fail(str(error))
    assert len(result) + len(result.skipped) == 2


# -- sampling and memory -------------------------------------------------------------------------------------


def test_a_sample_is_drawn_before_anything_is_decoded(tmp_path: Path) -> None:
    chosen = drawn(40, 5, seed=3).tolist()
    for row in range(40):
        data = encoded(np.full((4, 4), row, dtype=np.uint8)) if row in chosen else b"never looked at"
        write(tmp_path / f"{'ab'[row >= 30]}/{row:02d}.png", data)
    data = open_dataset(tmp_path, max_samples=5, seed=3)
    assert data.skipped == ()
    assert data.x[:, 0, 0, 0].tolist() == chosen
    assert data.chance == 0.75  # of the whole set, not of the five


def test_a_broken_file_in_a_sample_is_named(tmp_path: Path) -> None:
    chosen = drawn(20, 6, seed=1).tolist()
    broken = chosen[2]
    for row in range(20):
        data = b"broken" if row == broken else encoded(np.full((4, 4), row, dtype=np.uint8))
        write(tmp_path / f"a/{row:02d}.png", data)
    data = open_dataset(tmp_path, max_samples=6, seed=1)
    assert [each.name for each in data.skipped] == [f"a/{broken:02d}.png"]
    assert data.x[:, 0, 0, 0].tolist() == [row for row in chosen if row != broken]


def test_a_sample_is_the_sample_of_the_whole() -> None:
    whole = open_dataset("digits", split="train")
    part, other = (open_dataset("digits", split="train", max_samples=50, seed=seed) for seed in (7, 8))
    expected = whole.sample(50, seed=7)
    assert torch.equal(part.x, expected.x)
    assert (part.ids, part.y.tolist(), part.chance) == (expected.ids, expected.y.tolist(), expected.chance)
    assert part.ids != other.ids
    assert open_dataset("digits", split="train", max_samples=5000).ids == whole.ids


def test_too_large_a_set_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((500, 3, 64, 64), np.uint8), y=np.zeros(500, int))
    steps: list[tuple[int, int]] = []
    with pytest.raises(
        DataError, match=r"500 images of 3 x 64 x 64 .* need 5\.9 MiB .* the limit of 1\.0 MiB.*max_samples=85"
    ):
        open_dataset(tmp_path / "x.npz", memory_limit=2**20, progress=lambda *step: steps.append(step))
    assert steps == []
    limited = open_dataset(
        tmp_path / "x.npz", memory_limit=2**20, max_samples=85, progress=lambda *step: steps.append(step)
    )
    assert len(limited) == 85
    assert steps[-1] == (85, 85)


def test_colour_among_grey_is_weighed_again(tmp_path: Path) -> None:
    for row in range(9):
        write(tmp_path / f"a/{row}.png", encoded(noise(0, 10, 10)))
    write(tmp_path / "a/9.png", encoded(noise(0, 10, 10, 3)))
    assert len(open_dataset(tmp_path, memory_limit=3000)) == 10
    with pytest.raises(DataError, match="more than the"):
        open_dataset(tmp_path, memory_limit=2999)


# -- Parquet -------------------------------------------------------------------------------------------------


def table(rows: list[bytes | None], labels: Any, names: list[str] | None = None, **columns: Any) -> pa.Table:
    """As Hugging Face writes it: image = struct(bytes, path), and metadata if the classes have names."""
    images = [{"bytes": each, "path": f"{row}.png"} for row, each in enumerate(rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    made = pa.table({"image": pa.array(images, kind), "label": labels, **columns})
    if names is None:
        return made
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save(path: Path, made: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, **options)
    return path


PIXELS = [noise(row, 5, 4) for row in range(6)]
ROWS: list[bytes | None] = [encoded(each) for each in PIXELS]


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    made = table(ROWS, [2, 0, 1, 1, 0, 2], ["x", "y", "z"], bbox=[[0.0] * 4] * 6)
    data = open_dataset(save(tmp_path / "things" / "test.parquet", made, row_group_size=4))
    assert (data.name, data.class_names) == ("things/test", ("x", "y", "z"))
    assert data.y.tolist() == [2, 0, 1, 1, 0, 2]
    assert data.ids == tuple(f"{row}.png" for row in range(6))
    assert np.array_equal(data.x[:, 0].numpy(), PIXELS)


def test_parquet_shards_come_in_order_and_splits_by_name(tmp_path: Path) -> None:
    for layout in ("data/{}-0000{}-of-00002-0a1b2c.parquet", "{}/000{}.parquet"):
        root = tmp_path / layout[:2]
        for shard in (1, 0):
            part = slice(3 * shard, 3 * shard + 3)
            save(root / layout.format("train", shard), table(ROWS[part], [0, 1, 2][::-1]))
        save(root / layout.format("test", 0), table(ROWS[:1], [0]))
        write(root / "README.md", b"?")
        train, test = (open_dataset(root, split=split) for split in ("train", "test"))
        assert np.array_equal(train.x[:, 0].numpy(), PIXELS)
        assert train.y.tolist() == [2, 1, 0, 2, 1, 0]
        # The file names are not unique over the shards, so the rows are numbered.
        assert train.ids == tuple(f"train/00000{row}" for row in range(6))
        assert train.class_names == test.class_names == ("0", "1", "2")
        with pytest.raises(DataError, match="several splits: test, train"):
            open_dataset(root)


def test_parquet_of_text_labels_has_the_same_classes_in_every_split(tmp_path: Path) -> None:
    save(tmp_path / "train.parquet", table(ROWS[:3], ["b", "c", "b"]))
    save(tmp_path / "test.parquet", table(ROWS[3:], pa.array(["c", "a", None])))
    train, test = (open_dataset(tmp_path, split=split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert (train.y.tolist(), test.y.tolist()) == ([1, 2, 1], [2, 0])
    assert [each.name for each in test.skipped] == ["2.png"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"img": ROWS, "fine_label": [0] * 6, "coarse_label": [1] * 6}, None),
        ({"photo": ROWS, "kind": pa.array(list("aabbcc")).dictionary_encode(), "width": [0.5] * 6}, None),
        ({"image": ROWS, "label": [0] * 6, "labels": [0] * 6}, "2 columns: label, labels, that may contain the labels"),
        ({"left": ROWS, "right": ROWS, "label": [0] * 6}, "2 columns: left, right, .* images .* label \\(int64\\)"),
        ({"image": ["a.png"] * 6, "label": [0] * 6}, "column 'image' is string"),
        ({"image": ROWS, "label": [0.5] * 6}, "column 'label' is double"),
        ({"image": ROWS}, "no columns that may contain the labels"),
        ({"image": ROWS, "label": [10**12] * 6}, "labels go up to 1000000000000"),
    ],
)
def test_parquet_columns_are_found_or_listed(tmp_path: Path, columns: dict[str, Any], words: str | None) -> None:
    path = save(tmp_path / "x.parquet", pa.table(columns))
    if words is None:
        assert np.array_equal(open_dataset(path).x[:, 0].numpy(), PIXELS)
    else:
        with pytest.raises(DataError, match=words):
            open_dataset(path)


def test_parquet_rows_without_image_or_label_are_reported(tmp_path: Path) -> None:
    labels = pa.array([0, 0, 1, 3, 2**63, 1], pa.uint64())
    made = table([ROWS[0], None, b"", ROWS[3], ROWS[4], ROWS[5]], labels, ["p", "q"])
    data = open_dataset(save(tmp_path / "x.parquet", made))
    assert data.ids == ("0.png", "5.png")
    assert np.array_equal(data.x[1, 0].numpy(), PIXELS[5])
    reasons = {each.name: each.reason for each in data.skipped}
    assert reasons.keys() == {"1.png", "2.png", "3.png", "4.png"}
    assert "only a path" in reasons["1.png"]
    assert reasons["2.png"] == "empty file"
    assert "label 3 is not among the 2 classes" in reasons["3.png"]
    assert "is not among" in reasons["4.png"]


def test_parquet_reads_only_the_row_groups_it_needs_and_survives_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "x.parquet", table(ROWS, [0] * 6), row_group_size=2, compression="zstd")
    wanted = int(drawn(6, 1, seed=0))
    group = pq.read_metadata(path).row_group((wanted // 2 + 1) % 3).column(0)
    damaged = bytearray(path.read_bytes())
    start = group.dictionary_page_offset or group.data_page_offset
    damaged[start : start + group.total_compressed_size] = bytes(group.total_compressed_size)
    path.write_bytes(damaged)
    whole, touched = pq.ParquetFile.iter_batches, []

    def watched(file: pq.ParquetFile, *, row_groups: list[int], **options: Any) -> Any:
        touched.extend(row_groups)
        return whole(file, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    one = open_dataset(path, max_samples=1, seed=0)
    assert touched == [wanted // 2]
    assert np.array_equal(one.x[0, 0].numpy(), PIXELS[wanted])
    assert one.skipped == ()
    rest = open_dataset(path)
    assert len(rest) == 4
    assert all("row group" in each.reason and "damaged" in each.reason for each in rest.skipped)


def test_parquet_that_is_none_or_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged or not a Parquet"):
        open_dataset(write(tmp_path / "1" / "x.parquet", b"PAR1 and so on"))
    with pytest.raises(DataError, match="contains no labelled images"):
        open_dataset(save(tmp_path / "2" / "x.parquet", table([], pa.array([], pa.int64()))))
    for part in ("one", "two"):
        save(tmp_path / "3" / part / "train.parquet", table(ROWS, [0] * 6))
    with pytest.raises(DataError, match="'train' .*one, two"):
        open_dataset(tmp_path / "3")
    for number, labels, names in ((4, [0] * 6, ["b", "a"]), (5, ["a"] * 6, ["a", "b"])):
        save(tmp_path / f"{number}" / "train.parquet", table(ROWS, [0] * 6, ["a", "b"]))
        save(tmp_path / f"{number}" / "test.parquet", table(ROWS, labels, names))
        with pytest.raises(DataError, match="class names differ"):
            open_dataset(tmp_path / f"{number}", split="test")


# -- NPZ -----------------------------------------------------------------------------------------------------


def npz(tmp_path: Path, **content: Any) -> Path:
    np.savez_compressed(tmp_path / "x.npz", **content)
    return tmp_path / "x.npz"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", ">f8"])
def test_npz_layouts_and_types_agree(tmp_path: Path, channels: int, last: bool, dtype: str) -> None:
    pixels = noise(0, 7, channels, 5, 4)
    x = pixels.transpose(0, 2, 3, 1) if last else pixels
    x = x if dtype == "u1" else (x / 255).astype(dtype)
    data = open_dataset(npz(tmp_path, images=x, labels=np.arange(7)[:, None], class_names=list("abcdefg")))
    assert data.class_names == tuple("abcdefg")
    assert data.y.tolist() == list(range(7))
    if dtype == "f2":  # too coarse to be bytes / 255: kept as it is
        assert np.array_equal(data.x.numpy(), (pixels / 255).astype("f2").astype("f4"))
    else:
        assert data.x.dtype == torch.uint8
        assert np.array_equal(data.x.numpy(), pixels)
    rows = drawn(7, 3, seed=1).tolist()
    assert torch.equal(open_dataset(tmp_path / "x.npz", max_samples=3, seed=1).x, data.x[rows])


def test_npz_splits_and_text_labels(tmp_path: Path) -> None:
    x = noise(0, 3, 6, 6)
    path = npz(tmp_path, x_train=x, y_train=np.array(["b", "c", "b"]), x_test=x[::-1], y_test=np.array(["a", "b", "a"]))
    data = open_dataset(path, split="test")
    assert (data.name, data.class_names, data.y.tolist()) == ("x/test", ("a", "b", "c"), [0, 1, 0])
    assert np.array_equal(data.x[:, 0].numpy(), x[::-1])
    with pytest.raises(DataError, match="several splits: test, train"):
        open_dataset(path)


def test_npz_floats_between_the_bytes_are_kept_exactly(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4, 1, 6, 6), dtype=np.float32)
    path = npz(tmp_path, x=x, y=[0, 1, 0, 1])
    assert np.array_equal(open_dataset(path, size=6, channels=1).x.numpy(), x)
    with pytest.raises(DataError, match="size= .*channels= .*8-bit"):
        open_dataset(path, size=8)


def test_npz_rows_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    x = np.full((3, 1, 4, 4), 0.2)
    x[1, 0, 2, 2] = np.nan
    data = open_dataset(npz(tmp_path, x=x, y=[0, 1, 2]))
    assert data.y.tolist() == [0, 2]
    assert data.skipped == (Skipped("x/000001", "contains values that are NaN or infinite"),)


GREY, ZEROS = np.zeros((3, 4, 4), np.uint8), np.zeros(3, int)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": GREY}, "needs arrays 'x' and 'y'.*it contains 'a'"),
        ({"x": np.zeros((3, 3, 4, 3), np.uint8), "y": ZEROS}, "may be first or last"),
        ({"x": np.zeros((3, 4, 4, 4), np.uint8), "y": ZEROS}, "with 1 or 3 channels"),
        ({"x": np.zeros((3, 16), np.uint8), "y": ZEROS}, "has shape"),
        ({"x": GREY.astype(int), "y": ZEROS}, "of type int64"),
        ({"x": GREY + 200.0, "y": ZEROS}, "Divide by 255"),
        ({"x": GREY - 2.0, "y": ZEROS}, "Undo the normalisation"),
        ({"x": GREY, "y": np.zeros(4, int)}, "3 images, but there are 4 labels"),
        ({"x": GREY, "y": np.eye(3)}, "For one-hot rows, save their argmax"),
        ({"x": np.asfortranarray(np.zeros((3, 4, 5), np.uint8)), "y": ZEROS}, "ascontiguousarray"),
        ({"x": GREY, "y": ZEROS, "class_names": ["a", "a"]}, "contains a class twice"),
    ],
)
def test_npz_that_cannot_be_understood_says_why(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_dataset(npz(tmp_path, **content))


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["x", "y", "class_names"])
def test_npz_with_objects_is_refused_and_runs_nothing(tmp_path: Path, key: str) -> None:
    sprung = tmp_path / "sprung"
    objects = np.empty(3, dtype=object)
    objects[:] = Trap(sprung)
    with pytest.raises(DataError, match=f"'{key}' contains Python objects"):
        open_dataset(npz(tmp_path, **{"x": GREY, "y": ZEROS, key: objects}))
    assert not sprung.exists()


def test_npz_that_is_damaged_or_lies_is_refused(tmp_path: Path) -> None:
    whole = npz(tmp_path, x=noise(0, 50, 16, 16), y=np.zeros(50, int)).read_bytes()
    for damaged in (b"", b"PK", whole[: len(whole) // 2], whole[:400] + bytes(200) + whole[600:]):
        with pytest.raises(DataError, match=r"x\.npz"):
            open_dataset(write(tmp_path / "x.npz", damaged))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 100, 100)})
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("x.npy", file.getvalue())
        archive.writestr("y.npy", file.getvalue())
    with pytest.raises(DataError, match="expected 10000000000000 bytes, found 0"):
        open_dataset(tmp_path / "y.npz")


# -- said of a data set --------------------------------------------------------------------------------------


def test_a_description_is_one_clean_line() -> None:
    lost = tuple(Skipped(f"{row}\x1b[2J\n.png", "truncated file") for row in range(1200))
    data = Dataset(
        name="set/test",
        x=torch.zeros(1, 3, 8, 9),
        y=torch.zeros(1, dtype=torch.int64),
        class_names=("a",),
        ids=("1",),
        skipped=lost,
    )
    assert describe(data, most=1) == (
        "set/test: 1 image, 8x9, 3 channels, 1 class; 1,200 could not be read (0?[2J?.png: truncated file; ...)"
    )


# -- pictures as PNG -----------------------------------------------------------------------------------------

shapes = st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


@given(pixels=shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape)))
def test_png_gives_back_every_byte(pixels: np.ndarray) -> None:
    x = torch.from_numpy(pixels)
    assert torch.equal(decode_png(encode_png(x)), x)
    assert torch.equal(decode_png(encode_png(x.float() / 255)), x)


@given(
    values=shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(0, 1))),
    double=st.booleans(),
)
def test_quantise_is_what_comes_back_from_png(values: np.ndarray, double: bool) -> None:
    x = torch.from_numpy(values) if double else torch.from_numpy(values).float()
    back = decode_png(encode_png(x)).to(x.dtype).div(255)
    assert torch.equal(quantise(x), back)
    assert torch.equal(quantise(back), back)
    assert (back - x).abs().max() <= 0.5 / 255 + 1e-7


@pytest.mark.parametrize(
    "x",
    [
        *(torch.full((1, 2, 2), value) for value in (1.1, -0.1, torch.nan)),
        torch.zeros(2, 4, 4),
        torch.zeros(4, 4),
        torch.zeros(1, 4, 4, dtype=torch.int64),
    ],
)
def test_what_is_no_picture_is_not_saved(x: torch.Tensor) -> None:
    with pytest.raises(InputError):
        encode_png(x)


@pytest.mark.parametrize("data", [b"", b"hello", encoded(noise(0, 4, 4), "JPEG"), bomb(100_000, 100_000)])
def test_what_is_no_png_is_not_decoded(data: bytes) -> None:
    with pytest.raises(DataError, match="PNG cannot be read"):
        decode_png(data)


# -- the development data ------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "shape", "classes"),
    [
        ("mnist", 10_000, (1, 28, 28), 10),
        ("cifar10", 10_000, (3, 32, 32), 10),
        ("gtsrb", 6_315, (3, 32, 32), 43),
        ("tiny-imagenet-20", 1_000, (3, 64, 64), 20),
    ],
)
@pytest.mark.usefixtures("development_data")
def test_development_data_opens(name: str, count: int, shape: tuple[int, ...], classes: int) -> None:
    data = open_dataset(name, split="test")
    assert (len(data), data.shape, len(data.class_names), data.skipped) == (count, shape, classes, ())
    assert len(set(data.ids)) == count
    assert len(data.y.unique()) == classes
    part = open_dataset(name, split="test", max_samples=20, seed=1)
    assert torch.equal(part.x, data.sample(20, seed=1).x)


@pytest.mark.data
def test_a_misspelt_folder_of_the_development_data_is_recognised(development_data: Path) -> None:
    with pytest.raises(DataError, match=rf"nor in ADVEX_DATA \({development_data}\): did you mean 'cifar10'"):
        open_dataset("cifar")


def test_a_data_set_is_a_sequence_of_examples_and_goes_into_a_loader() -> None:
    from torch.utils.data import DataLoader

    data = open_dataset("digits", split="test").take(slice(0, 10))
    x, y = data[3]
    assert torch.equal(x, data.batch(slice(3, 4)).x[0])
    assert y == int(data.y[3])
    assert torch.equal(data[-1][0], data[9][0])
    assert torch.equal(data[2:5].x, data.x[2:5])
    assert data[2:5].ids == data.ids[2:5]
    assert [y for _, y in data] == data.y.tolist()
    assert len(repr(data)) < 200
    loaded = list(DataLoader(data.to_torch(), batch_size=4))
    assert [len(each) for each, _ in loaded] == [4, 4, 2]
    assert torch.equal(torch.cat([each for each, _ in loaded]), data.batch(slice(None)).x)
    assert torch.equal(torch.cat([labels for _, labels in loaded]), data.y)
    for place in (10, -11):
        with pytest.raises(IndexError, match="10 examples, 0 to 9"):
            data[place]
