"""Pixels that are decoded once: mapped from a file that all runs and processes share."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import advex
from advex import claims, ownership
from advex.cli import main
from advex.data import dataset
from advex.data.dataset import content
from advex.data.digests import digests
from advex.data.images import decode
from advex.data.published import pictures
from advex.errors import ArtifactError, DataError
from advex.files import beside


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of five colour photos of several sizes, and a broken file."""
    draw = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "a" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "photos"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that takes data of any size."""
    monkeypatch.setenv("ADVEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("advex.data.images.loader.LEAST", 1)
    return tmp_path / "cache"


@pytest.fixture(params=["locks", "no locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system has locks. Whoever waits for a lock in this process waits for ever."""
    if request.param == "no locks":
        monkeypatch.setattr(ownership, "_taken", lambda *_, **__: False)
    waits = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: pytest.fail("waits for itself"))
    monkeypatch.setattr(claims, "time", waits)
    return request.param == "locks"


@pytest.fixture
def mixed(photos: Path) -> Path:
    """The same photos behind two grey ones."""
    draw = np.random.default_rng(1)
    for number in range(2):
        Image.fromarray(draw.integers(0, 256, (20, 30), dtype=np.uint8)).save(photos / "a" / f"-{number}.png")
    return photos


def in_memory(photos: Path, **options: Any) -> advex.Dataset:
    """The data as they are without a cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("ADVEX_CACHE", raising=False)
        return opened(photos, **options)


def alike(first: advex.Dataset, second: advex.Dataset) -> None:
    """The same examples, whatever they lie in."""
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert (first.ids, first.skipped, first.counts) == (second.ids, second.skipped, second.counts)
    assert content(first) == content(second)


def opened(photos: Path, **options: Any) -> advex.Dataset:
    return advex.open_dataset(photos, size=16, **options)


def test_what_is_cached_is_what_is_decoded(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = in_memory(photos)
    first = opened(photos)
    monkeypatch.setattr(decode, "decoded", lambda *_, **__: pytest.fail("decoded again"))
    monkeypatch.setattr("advex.data.images.loader._attempt", lambda *_, **__: pytest.fail("decoded again"))
    second = opened(photos)
    assert len(second.skipped) == 1
    for data in (first, second):
        alike(expected, data)
    assert {path.suffix for path in cached.iterdir()} >= {".pixels", ".json", ".digests"}
    second.x[0] = 0  # of this process alone
    assert torch.equal(opened(photos).x, expected.x)


def test_other_questions_and_changed_files_are_decoded_anew(photos: Path, cached: Path) -> None:
    asked = [{}, {"max_samples": 4}, {"max_samples": 4, "seed": 1}, {"channels": 1}, {"split": "train"}]
    for number, options in enumerate(asked, 1):
        opened(photos, **options)
        assert len(list(cached.glob("*.pixels"))) == number
    whole = opened(photos)
    path = photos / "a" / "0.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    changed = opened(photos)
    assert changed.x[0].max() == 0
    assert whole.x[0].max() > 0


def test_a_cache_inside_the_data_is_not_of_them(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advex.data.images.loader.LEAST", 1)
    monkeypatch.setenv("ADVEX_CACHE", str(photos / "cache"))
    first = opened(photos)
    for _ in range(2):
        alike(first, opened(photos))
    assert len(list((photos / "cache").glob("*.pixels"))) == 1


@pytest.mark.parametrize("where", [".", "..", "../.."])
def test_a_cache_above_the_data_sees_their_files_change(
    photos: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or where they are: only its own files are none of them."""
    monkeypatch.setattr("advex.data.images.loader.LEAST", 1)
    monkeypatch.setenv("ADVEX_CACHE", str((photos / where).resolve()))
    alike(opened(photos), opened(photos))
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photos / "a" / "0.png")
    assert opened(photos).x[0].max() == 0


def test_another_decoder_decodes_anew(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(photos)
    monkeypatch.setattr(PIL, "__version__", "0.0")
    opened(photos)
    assert len(list(cached.glob("*.pixels"))) == 2


def test_a_file_in_the_place_of_the_cache_is_told(photos: Path, tmp_path: Path, cached: Path) -> None:
    cached.write_text("a file")
    with pytest.raises(ArtifactError, match=r"cache is no folder, and the cache needs one\. .*ADVEX_CACHE"):
        opened(photos)


def test_what_is_not_whole_is_decoded_anew(photos: Path, cached: Path) -> None:
    first = opened(photos)
    first = dataclasses.replace(first, x=first.x.clone())  # its file is cut off below
    pixels = next(cached.glob("*.pixels"))
    os.truncate(pixels, 100)
    alike(first, opened(photos))
    next(cached.glob("*.json")).unlink()
    alike(first, opened(photos))
    next(cached.glob("*.json")).write_text("{")
    alike(first, opened(photos))


def replaced(path: Path, old: str, new: str) -> None:
    """Other words in a file, as somebody or something has left them."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".json", lambda path: path.write_text('{"shape": "abc"}')),
        (".json", lambda path: path.write_text('{"digest": "", "values": {"shape": "abc"}}')),
        (".json", lambda path: path.write_text("[3]")),
        (".json", lambda path: path.write_text("3")),
        (".json", lambda path: path.write_bytes(b"\xff\0")),
        (".json", lambda path: replaced(path, "[10, 3, 16, 16]", "[-10, -3, 16, 16]")),
        (".json", lambda path: replaced(path, "[10, 3, 16, 16]", "[5, 6, 16, 16]")),
        (".json", lambda path: replaced(path, "[10, 3, 16, 16]", "[10, 3, 8, 32]")),
        (".json", lambda path: replaced(path, '"skipped"', '"lost"')),
        (".json", lambda path: replaced(path, "known format", "format")),
        (".digests", lambda path: path.write_text("[3]")),
        (".digests", lambda path: path.write_text('{"a": 3}')),
        (".digests", lambda path: path.write_bytes(b"\xff\0")),
        (".digests", lambda path: (path.unlink(), path.mkdir())),
    ],
)
def test_an_entry_that_cannot_be_believed_is_made_anew(
    photos: Path, cached: Path, suffix: str, damage: Callable[[Path], Any]
) -> None:
    alike(in_memory(photos), opened(photos))
    path = next(cached.glob(f"*{suffix}"))
    whole = path.read_bytes()
    damage(path)
    alike(in_memory(photos), opened(photos))
    assert path.is_dir() or path.read_bytes() == whole


def test_a_digest_that_was_changed_is_not_believed(photos: Path, cached: Path) -> None:
    expected = content(opened(photos))
    path = next(cached.glob("*.digests"))
    replaced(path, expected, expected[::-1])
    assert content(opened(photos)) == expected


@pytest.mark.parametrize("suffix", [".pixels", ".json"])
def test_a_folder_in_the_place_of_a_file_is_named_before_decoding(
    photos: Path, cached: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(photos)
    path = next(cached.glob(f"*{suffix}"))
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match=f"{path} is a folder, .* remove it.* --cache, .* ADVEX_CACHE"):
        opened(photos)
    assert not [path for path in cached.iterdir() if path.name.startswith(".")]


def test_a_cache_that_is_read_only_serves(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(photos)
    before = sorted(cached.iterdir())

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("advex.files.open", refused, raising=False)
    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr(os, "replace", refused)
    alike(in_memory(photos), opened(photos))
    assert sorted(cached.iterdir()) == before


def test_grey_pictures_before_the_first_colour_one(mixed: Path, cached: Path, locks: bool) -> None:
    expected = in_memory(mixed)
    assert expected.shape == (3, 16, 16)
    for _ in range(2):
        alike(expected, opened(mixed))
    assert not list(cached.glob(".*"))


def test_grey_pictures_that_take_less_than_is_cached(
    mixed: Path, cached: Path, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canvas is in memory until it is widened."""
    monkeypatch.setattr("advex.data.images.loader.LEAST", 13 * 3 * 16 * 16)
    for _ in range(2):
        alike(in_memory(mixed), opened(mixed))
    assert len(list(cached.iterdir())) == 3


def test_a_full_disk_is_a_sentence(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        opened(photos)
    assert not list(cached.iterdir())


def test_digests_are_kept_with_the_pixels(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(photos)
    known = content(first)
    seen: list[int] = []
    whole = dataset._digest
    monkeypatch.setattr(dataset, "_digest", lambda *parts: seen.append(parts[2].numel()) or whole(*parts))  # pyright: ignore
    second = opened(photos)
    assert content(second) == known
    assert seen == [4]  # of the shape, not of the pixels
    strided = second.take(slice(0, 8, 2))
    assert content(strided) != content(second.take(slice(0, 4)))
    part = second.take(slice(0, 4))
    assert content(part) == whole(repr(part.class_names), "", part.x, part.y)


def test_digests_of_rows_are_kept_too(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, first = in_memory(photos), opened(photos)
    assert np.array_equal(digests(first.x), digests(held.x))
    assert digests(first.x).dtype == digests(held.x).dtype == np.int64
    second = opened(photos)
    read: list[Any] = []
    monkeypatch.setattr("advex.data.digests._plain", lambda row: read.append(row) or row.tobytes())
    assert np.array_equal(digests(second.x), digests(first.x))
    assert not read
    assert np.array_equal(digests(second.x[:3]), digests(held.x[:3]))
    second.x[1] = 0
    assert not np.array_equal(digests(second.x), digests(first.x))


def test_the_digest_of_changed_pixels_is_theirs(photos: Path, cached: Path) -> None:
    data = opened(photos)
    before = content(data)
    data.x[0] = 0
    assert content(data) != before
    assert content(opened(photos)) == before


def test_a_passing_failure_is_not_kept(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upright, failed = decode._upright, []

    def once(encoded: Any, formats: Any) -> Any:
        if not failed:
            failed.append(encoded)
            raise OSError(errno.EIO, "Input/output error")
        return upright(encoded, formats)

    monkeypatch.setattr(decode, "_upright", once)
    first, second = opened(photos), opened(photos)
    assert (len(first), len(second)) == (9, 10)
    assert len(list(cached.glob("*.pixels"))) == 1  # of the second
    assert not list(cached.glob(".*"))
    assert first.x.sum() > 0  # still there


def test_a_link_that_leads_nowhere_is_named(photos: Path, cached: Path) -> None:
    (photos / "a" / "gone.png").symlink_to(photos / "nothing")
    for _ in range(2):
        assert [(each.name, each.reason) for each in opened(photos).skipped if "gone" in each.name] == [
            ("a/gone.png", "the file does not exist")
        ]
    assert len(list(cached.glob("*.json"))) == 1


def test_small_data_leave_the_cache_alone(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("ADVEX_CACHE", str(tmp_path / "file"))
    assert len(opened(photos)) == 10
    monkeypatch.setattr("advex.data.images.loader.LEAST", 1)
    with pytest.raises(ArtifactError, match="ADVEX_CACHE"):
        opened(photos)
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_killed_process_left_is_taken_away(photos: Path, cached: Path) -> None:
    opened(photos)
    (name,) = (path.stem for path in cached.glob("*.pixels"))
    (cached / f"{name}.json").unlink()
    others = [cached / f"{number:032x}.pixels" for number in range(3)]
    left = [beside(path) for path in (cached / f"{name}.pixels", *others, cached / "metrics.csv")]
    for path in left:
        path.write_bytes(b"x")
    with claims.claimed(cached, others[0].stem):  # by a process that decodes
        opened(photos)
    assert {path.name for path in cached.iterdir()} == {
        f"{name}.pixels", f"{name}.json", left[1].name, left[4].name
    }  # fmt: skip


def test_without_locks_nothing_of_others_is_taken_away(
    photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_taken", lambda *_, **__: False)
    opened(photos)
    (path,) = cached.glob("*.pixels")
    path.unlink()
    other = beside(path)
    assert other.name != beside(path).name  # of a process with the same number on another host
    other.write_bytes(b"x")
    opened(photos)
    assert other.exists()


SCRIPT = """
import sys
from advex import ownership
from advex.data.images import loader
import advex
from advex.data.dataset import content
loader.LEAST = 1
if "no locks" in sys.argv:
    ownership._taken = lambda *_, **__: False
decoded, attempt = [], loader._attempt
loader._attempt = lambda *args, **kwargs: decoded.append(1) or attempt(*args, **kwargs)
print("ready", flush=True)
sys.stdin.readline()
data = advex.open_dataset(sys.argv[1], size=16)
print(len(decoded), content(data))
"""


@pytest.mark.parametrize("locks", ["locks", "no locks"])
def test_of_two_processes_one_decodes(mixed: Path, cached: Path, locks: str) -> None:
    """Without locks both do, and neither disturbs the other."""
    command = [sys.executable, "-c", SCRIPT, str(mixed), locks]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=60)[0].split() for process in both]
    finally:
        for process in both:
            process.kill()
    most = sorted(min(int(count), 2) for count, _ in said)
    assert most in ([0, 2], [1, 2]) or locks == "no locks"  # the other the first at most, for its size
    alike(in_memory(mixed), opened(mixed))
    assert {digest for _, digest in said} == {content(in_memory(mixed))}
    assert not list(cached.glob(".*"))


def test_boxes_are_cut_alike(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a picture was cut is kept with its pixels."""
    draw = np.random.default_rng(0)
    folder = tmp_path / "tiny" / "val" / "images"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(draw.integers(0, 256, (64, 48, 3), dtype=np.uint8)).save(folder / f"val_{number}.JPEG")
    (tmp_path / "tiny" / "wnids.txt").write_text("n00000001\nn00000002\n")
    lines = [f"val_{number}.JPEG\tn0000000{number % 2 + 1}\t4\t5\t20\t30" for number in range(4)]
    (folder.parent / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    source = f"tiny-imagenet:root={tmp_path / 'tiny'}"
    first, second = (advex.open_dataset(source, split="val", size=32) for _ in range(2))
    monkeypatch.delenv("ADVEX_CACHE")
    held = advex.open_dataset(source, split="val", size=32)
    assert held.evidence is not None
    for data in (first, second):
        alike(held, data)
        assert data.evidence is not None
        assert data.evidence.digest == held.evidence.digest


@pytest.mark.parametrize("named", ["folder", "file", "dataset"])
def test_parquet_is_decoded_once_too(
    photos: Path, tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """With boxes, a row that is no picture, and a file that changes."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    files = sorted(photos.rglob("*.png"))

    def write(path: Path, shown: list[Path]) -> None:
        rows = {
            "image": pa.array([{"bytes": each.read_bytes(), "path": each.name} for each in shown]),
            "label": pa.array([number % 2 for number in range(len(shown))]),
            "bbox": pa.array([[2.0, 3.0, 12.0, 15.0]] * len(shown)),
        }
        pq.write_table(pa.table(rows), path, row_group_size=3)

    write(folder / "train-00000-of-00002.parquet", files[:7])
    write(folder / "train-00001-of-00002.parquet", files[7:])
    write(folder / "test.parquet", files[2:6])
    source, split = {
        "folder": (str(folder), "test"),
        "file": (str(folder / "test.parquet"), "test"),
        "dataset": (f"parquet:root={folder},order=xyxy", "train"),
    }[named]
    held = in_memory(Path(source), split=split) if named != "dataset" else None
    first = advex.open_dataset(source, split=split, size=16)
    with monkeypatch.context() as patched:
        patched.setattr("advex.data.images.loader._attempt", lambda *_, **__: pytest.fail("decoded again"))
        second = advex.open_dataset(source, split=split, size=16)
    assert len(list(cached.glob("*.pixels"))) == 1
    for data in (first, second):
        alike(held or first, data)
        assert data.evidence is not None
        assert first.evidence is not None
        assert data.evidence.digest == first.evidence.digest
    write(folder / "test.parquet", files[1:5])
    write(folder / "train-00001-of-00002.parquet", files[6:])
    advex.open_dataset(source, split=split, size=16)
    assert len(list(cached.glob("*.pixels"))) == 2


def test_a_window_of_a_file_is_that_of_its_pixels(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number, size in enumerate([(30, 44, 3), (51, 30, 3), (40, 40)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(path)
        read, cut = (
            pictures.read_cut(path, edge=24, side=16),
            pictures.cut(decode.pixels(path, channels=3), edge=24, side=16),
        )
        assert np.array_equal(read.pixels, cut.pixels)
        assert read.window == cut.window


def test_the_memory_limit_names_the_cache_where_that_helps(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 1, 16, 16), np.uint8), y=np.zeros(4, np.int64))
    for source in (photos, tmp_path / "x.npz"):  # too little, and without files of its own
        with pytest.raises(DataError, match=r"make them smaller \(size=\), or raise the limit \(memory_limit=\)\.$"):
            opened(source, memory_limit=10)
        monkeypatch.setattr("advex.data.images.loader.LEAST", 1)
    with pytest.raises(DataError, match=r"or cache them in a folder \(--cache, .* ADVEX_CACHE\)\.$"):
        opened(photos, memory_limit=10)


def test_the_command_line_names_the_folder_too(
    photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADVEX_CACHE", str(cached))  # put back as it was, afterwards
    arguments = ["train", "digits-ordinary", "--data", str(photos), "--size", "16", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["advex", *arguments, "--cache", str(tmp_path / "there")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert len(list((tmp_path / "there").glob("*.pixels"))) == 2  # to train on, and to validate
    assert not cached.exists()


@pytest.mark.parametrize("verb", [["reproduce", "woods2019/I", "--list"], ["annotate", "prepare"]])
def test_all_that_decodes_for_long_takes_the_folder(
    verb: list[str], tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["advex", *verb, "--cache", str(tmp_path / "there")])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["ADVEX_CACHE"] == str(tmp_path / "there")


def test_an_empty_name_is_refused(cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["advex", "train", "digits-ordinary", "--cache", ""])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: --cache: it must name a folder, and is empty. See ")
    assert os.environ["ADVEX_CACHE"] == str(cached)
