"""Pixels that are decoded once: mapped from a file that all runs and processes share."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import advex
from advex.cli import main
from advex.data import dataset
from advex.data.dataset import content
from advex.data.images import decode
from advex.data.published import pictures
from advex.errors import ArtifactError, DataError


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


def alike(first: advex.Dataset, second: advex.Dataset) -> None:
    """The same examples, whatever they lie in."""
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.y, second.y)
    assert (first.ids, first.skipped, first.counts) == (second.ids, second.skipped, second.counts)
    assert content(first) == content(second)


def opened(photos: Path, **options: Any) -> advex.Dataset:
    return advex.open_dataset(photos, size=16, **options)


def test_what_is_cached_is_what_is_decoded(photos: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVEX_CACHE")
    held = opened(photos)
    monkeypatch.setenv("ADVEX_CACHE", str(cached))
    first = opened(photos)
    monkeypatch.setattr(decode, "decoded", lambda *_, **__: pytest.fail("decoded again"))
    monkeypatch.setattr("advex.data.images.loader._attempt", lambda *_, **__: pytest.fail("decoded again"))
    second = opened(photos)
    assert len(second.skipped) == 1
    for data in (first, second):
        alike(held, data)
    assert {path.suffix for path in cached.iterdir()} >= {".pixels", ".json", ".digests"}
    second.x[0] = 0  # of this process alone
    assert torch.equal(opened(photos).x, held.x)


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
    (cached / f".{name}.{os.getpid() + 1:x}.new").write_bytes(b"x")
    opened(photos)
    assert {path.name for path in cached.iterdir()} == {f"{name}.pixels", f"{name}.json"}


SCRIPT = """
import sys
from advex.data.images import loader
import advex
loader.LEAST = 1
decoded, attempt = [], loader._attempt
loader._attempt = lambda *args, **kwargs: decoded.append(1) or attempt(*args, **kwargs)
print("ready", flush=True)
sys.stdin.readline()
data = advex.open_dataset(sys.argv[1], size=16)
print(len(decoded), int(data.x.sum()))
"""


def test_of_two_processes_one_decodes(photos: Path, cached: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(photos)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [tuple(map(int, process.communicate()[0].split())) for process in both]
    assert sorted(min(count, 2) for count, _ in said) in ([0, 2], [1, 2])  # the other the first at most, for its size
    assert len({total for _, total in said}) == 1


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


def test_the_memory_limit_names_the_cache(photos: Path) -> None:
    with pytest.raises(DataError, match="ADVEX_CACHE"):
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
