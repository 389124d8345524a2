"""Pictures that are read when they are needed: the same bits as from memory, drawn by seed, epoch and number alone."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

import advex
from advex import artifacts
from advex.data import Annotation, Streaming, open_dataset, open_streamed, write_annotated
from advex.data.crops import Crop
from advex.data.dataset import Dataset
from advex.data.images import decode
from advex.data.images.streamed import Streamed, cut
from advex.data.source import Unreadable
from advex.data.threads import ahead
from advex.errors import AdvexWarning, DataError, SpecError
from advex.evaluation import Settings, evaluate, trained_on
from advex.feedback.annotations import with_annotated
from advex.lookup import datasets
from advex.recipes import fitted, recipe_from
from advex.training import Interrupted, checkpoints_in, train
from advex.training.run import begin

SHORTER = Streaming((18, 26), 16)
SMALL = {"network": "small_cnn:widths=4-8-8", "epochs": 2, "batch_size": 6, "flip": True, "pad": 1, "robust_every": 0}


def photo(number: int) -> np.ndarray:
    """[height, width, 3]: no two of one size."""
    return np.random.default_rng(number).integers(0, 256, (19 + number % 7, 24 + number, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of ten photos, every third a JPEG."""
    for number in range(20):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(number)).save(path)
    return tmp_path / "photos"


def streamed(source: Path | str, rule: Streaming = SHORTER, **options: Any) -> Streamed:
    data = open_streamed(source, rule, **options)
    assert data is not None
    return data


def pixels(data: Streamed, index: list[int] | None = None, *, seed: int = 0, epoch: int = 0) -> Tensor:
    with decode.quiet():
        return data.pixels(torch.tensor(range(len(data)) if index is None else index), seed=seed, epoch=epoch)


def weights(classifier: advex.Classifier) -> bytes:
    return b"".join(value.contiguous().numpy().tobytes() for value in classifier.state_dict().values())


# -- the same as from memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"size": 16}, {"size": (12, 20), "max_samples": 9, "seed": 3}])
def test_of_one_size_they_are_what_is_held_in_memory(photos: Path, options: dict[str, Any]) -> None:
    held, data = open_dataset(photos, **options), streamed(photos, Streaming(), **options)
    assert torch.equal(pixels(data), held.x)
    assert torch.equal(pixels(data, epoch=3), held.x)
    assert torch.equal(data.y, held.y)
    assert (data.shape, data.ids, data.class_names, data.counts) == (
        held.shape,
        held.ids,
        held.class_names,
        held.counts,
    )


def test_grey_pictures_are_grey_and_beside_colour_they_are_colour(tmp_path: Path) -> None:
    for number, form in enumerate(("L", "1", "P", "LA")):
        path = tmp_path / "grey" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(photo(7)[..., 0])
        (grey.convert("RGB").quantize(8) if form == "P" else grey.convert(form)).save(path)
    for _ in range(2):
        held, data = open_dataset(tmp_path / "grey", size=16), streamed(tmp_path / "grey", Streaming(), size=16)
        assert torch.equal(pixels(data), held.x)
        Image.fromarray(photo(7)).save(tmp_path / "grey" / "a" / "colour.png")
    assert data.shape[0] == 3


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_network_learns_the_same_bits(photos: Path, threads: int) -> None:
    recipe = recipe_from({**SMALL, "accumulate": 2})
    held = train(recipe, open_dataset(photos, size=16), None)
    assert weights(train(recipe, streamed(photos, Streaming(), size=16), None, threads=threads)) == weights(held)
    assert weights(train(recipe, open_dataset(photos, size=16), None, threads=threads)) == weights(held)


def test_what_memory_holds_is_cut_in_the_same_way(tmp_path: Path) -> None:
    """Pictures of one size, as files and as a data set."""
    for number in range(6):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photo(3 + 7 * number)[:20, :27]).save(path)
    data, held = streamed(tmp_path), open_dataset(tmp_path)
    recipe = recipe_from({**SMALL, "resize": {"shorter": [18, 26]}, "crop": 16})
    run = begin(fitted(recipe, held.shape, 2), held, None, "cpu")
    run.position.epoch = 2
    assert torch.equal(run.pixels(torch.arange(6)), pixels(data, epoch=2))
    assert weights(train(recipe, data, None)) == weights(train(recipe, held, None))


# -- what is drawn -------------------------------------------------------------------------------------------


def test_a_crop_depends_on_seed_epoch_and_number_alone(photos: Path) -> None:
    data = streamed(photos)
    whole = pixels(data, seed=5, epoch=1)
    assert whole.shape == (20, 3, 16, 16)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(pixels(data, order, seed=5, epoch=1), whole[order])
    assert torch.equal(pixels(data, [7], seed=5, epoch=1), whole[[7]])
    for other in (pixels(data, seed=6, epoch=1), pixels(data, seed=5, epoch=2)):
        assert not (other == whole).flatten(1).all(dim=1).any()


def test_an_example_that_comes_back_in_an_epoch_is_cut_otherwise(photos: Path) -> None:
    """As `per_class` has it: number 23 of 20 is the fourth again."""
    first, again = pixels(streamed(photos), [3, 23])
    assert not torch.equal(first, again)
    fixed = streamed(photos, Streaming(), size=16)
    assert torch.equal(*pixels(fixed, [3, 23]))
    recipe = recipe_from({**SMALL, "per_class": 13})
    assert weights(train(recipe, fixed, None)) == weights(train(recipe, open_dataset(photos, size=16), None))


def test_every_length_and_every_place_is_drawn() -> None:
    """Lengths 18 to 26 alike (chi squared), windows inside, and their place uniform from end to end (moments)."""
    crops = SHORTER.crops(torch.arange(9000), seed=1, epoch=0)
    of = (40, 100)
    windows = [crop.window(of) for crop in crops]
    lengths = np.array([16 / (window.bottom - window.top) * 40 for window in windows])
    assert np.abs(lengths - lengths.round()).max() < 1e-9
    counts = np.bincount(lengths.round().astype(int))
    assert counts[:18].sum() == 0
    assert ((counts[18:] - 1000) ** 2 / 1000).sum() < 26.1  # 0.999 of chi squared with 8 degrees
    assert len(counts) == 27
    for low, high, length in (("top", "bottom", 40), ("left", "right", 100)):
        starts, ends = (np.array([getattr(window, name) for window in windows]) for name in (low, high))
        assert starts.min() >= 0
        assert ends.max() <= length
        place = starts / (length - (ends - starts))
        assert abs(place.mean() - 1 / 2) < 0.01
        assert abs(place.var() - 1 / 12) < 0.004


def test_a_window_is_scaling_and_cutting(tmp_path: Path) -> None:
    """Of a slope, of which each pixel says where it is: what is scaled shows the places that the window has."""
    rows, columns = np.indices((50, 80))
    slope = np.stack([2 * rows, 2 * columns, 0 * rows], axis=2).astype(np.uint8)
    crop = Crop(0.5, 0.25, 0.75, (20, 30), 16)  # shorter side 25: half of the picture's
    x = cut(torch.from_numpy(slope).permute(2, 0, 1)[None], [crop])[0]
    # 16 of 25 x 40 pixels: 32 of 50 x 80. A quarter of the 18 rows left over, three quarters of the 48 columns.
    top, left = 0.25 * 18, 0.75 * 48
    expected = [2 * (start + 2 * np.arange(16) + 1 - 0.5) for start in (top, left)]
    assert np.abs(x[0, :, 8].numpy() - expected[0])[1:-1].max() <= 1
    assert np.abs(x[1, 8].numpy() - expected[1])[1:-1].max() <= 1


# -- files that cannot be read -------------------------------------------------------------------------------


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(number)).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_what_cannot_be_read_is_named_before_the_first_step(photos: Path) -> None:
    (photos / "a" / "empty.jpg").touch()
    (photos / "a" / "none.png").write_bytes(b"no picture at all")
    (photos / "b" / "short.jpg").write_bytes(jpeg(1)[:-200])  # its head is whole
    (photos / "b" / "tail.jpg").write_bytes(jpeg(2) + b"more" * 600)  # which Pillow does not mind
    (photos / "b" / "float.tif").write_bytes(b"")
    Image.fromarray(np.zeros((20, 20), np.float32)).save(photos / "b" / "float.tif")
    held, data = open_dataset(photos, size=16), streamed(photos, Streaming(), size=16)
    assert data.skipped == held.skipped
    assert {Path(each.name).name for each in data.skipped} == {"empty.jpg", "none.png", "short.jpg", "float.tif"}
    assert data.ids == held.ids


FORMS = [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
FORMS += [
    ("JPEG", "L"),
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("BMP", "RGB"),
    ("WEBP", "RGB"),
    ("GIF", "L"),
    ("TIFF", "L"),
]


@pytest.mark.parametrize(("form", "mode"), FORMS)
@pytest.mark.parametrize("orientation", [None, 3, 6])
def test_a_head_says_what_decoding_shows(tmp_path: Path, form: str, mode: str, orientation: int | None) -> None:
    """Height, width and whether it is grey."""
    image = Image.fromarray(photo(5)[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(photo(5))
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"x.{form.lower()}"
    (image if mode == "I;16" else image.convert(mode)).save(path, form, exif=exif)
    header, shown = decode.header(path), decode.pixels(path)
    assert (header.size, header.grey) == (shown.shape[1:], len(shown) == 1)
    assert header.stamp == (path.stat().st_size,)


WRITTEN: list[tuple[str, dict[str, Any]]] = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {})]
WRITTEN += [("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("PPM", {}), ("AVIF", {})]
WRITTEN += [("JPEG2000", {"no_jp2": bare}) for bare in (False, True)]
WRITTEN += [("TIFF", {"compression": each}) for each in ("raw", "tiff_lzw", "jpeg")]


@pytest.mark.parametrize(("form", "options"), WRITTEN)
def test_a_file_that_breaks_off_is_known_without_decoding_the_rest(
    tmp_path: Path, form: str, options: dict[str, Any]
) -> None:
    """Wherever: what decoding cannot read the head and the end have told, and nothing else."""
    path = tmp_path / "x"
    rows, columns = np.indices((40, 30))
    smooth = np.stack([6 * rows, 8 * columns, 3 * (rows + columns)], axis=2).astype(np.uint8)
    Image.fromarray(smooth).save(path, form, **options)
    whole, refused = path.read_bytes(), set[bool]()
    for length in {*range(0, len(whole), len(whole) // 40), *range(len(whole) - 9, len(whole) + 1)}:
        path.write_bytes(whole[:length])
        assert fails(decode.header, path) == fails(decode.pixels, path), length
        refused.add(fails(decode.header, path))
    assert refused == {True, False}


def test_a_tiff_that_does_not_tell_its_lengths_is_decoded_to_see(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(photo(5)).save(path, "TIFF", compression="raw")
    held = path.read_bytes()
    tag = (279).to_bytes(2, "little")
    assert held.count(tag) == 1
    path.write_bytes(held.replace(tag, (280).to_bytes(2, "little")))
    assert not fails(decode.header, path)
    assert not fails(decode.pixels, path)


def fails(read: Any, path: Path) -> bool:
    try:
        read(path)
    except Unreadable:
        return True
    return False


def damage(path: Path) -> None:
    """Within a PNG: as long as before, with its head and end."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


REPLACED = {"a/04.png": "a/06.jpg", "a/14.png": "a/16.png", "b/05.png": "b/07.png"}
SHORT = {**SMALL, "resize": {"shorter": [18, 26]}, "crop": 16}


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_in_place_of_a_damaged_file_the_next_of_its_class_is_trained_on(
    photos: Path, tmp_path: Path, threads: int
) -> None:
    """The same as if it were a copy of that; and all is told, once."""
    recipe, copy = recipe_from({**SHORT, "ema": 0.9}), tmp_path / "copy"
    shutil.copytree(photos, copy)
    for name, by in REPLACED.items():  # none of those that are decoded at the beginning
        damage(photos / name)
        shutil.copy(copy / by, copy / name)
    expected = weights(train(recipe, streamed(copy), None))
    data, out = streamed(photos), tmp_path / "run"
    assert not data.skipped
    with pytest.warns(AdvexWarning, match=r"inside 3 files .*: a/04.png by a/06.jpg \(damaged: .*b/05.png by b/07.png"):
        assert weights(train(recipe, data, out, threads=threads)) == expected
    replaced = json.loads((out / artifacts.CONFIG).read_text())["training"]["replaced"]
    assert {name: by.partition(" ")[0] for name, by in replaced.items()} == REPLACED
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["replaced"] for line in lines] == [len(replaced)] * 2


def test_a_run_with_a_damaged_file_goes_on_as_if_it_had_not_stopped(photos: Path, tmp_path: Path) -> None:
    damage(photos / "b" / "05.png")
    recipe, out, steps = recipe_from(SHORT), tmp_path / "run", list[int]()
    with pytest.warns(AdvexWarning, match="inside 1 file was"):
        unbroken = weights(train(recipe, streamed(photos), None))
    with pytest.warns(AdvexWarning), pytest.raises(Interrupted):
        train(
            recipe, streamed(photos), out, report=lambda line: steps.append(line["step"]),
            stop=lambda: len(steps) >= 6, threads=4,
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it has been told
        assert weights(train(recipe, streamed(photos), out, resume=True)) == unbroken
    checkpoint = checkpoints_in(out)[0] / artifacts.CONFIG
    kept = json.loads(checkpoint.read_text())["position"]["replaced"]
    assert {name: by.partition(" ")[0] for name, by in kept.items()} == {"b/05.png": "b/07.png"}


def test_the_next_of_a_class_is_whole_and_after_the_last_comes_the_first(photos: Path) -> None:
    data, numbers = streamed(photos), [17, 18, 19]
    for name in ("b/17.png", "b/19.png"):
        damage(photos / name)
    seen = pixels(data, numbers, epoch=2)
    assert {name: by.partition(" ")[0] for name, by in data.replaced.items()} == dict.fromkeys(
        ("b/17.png", "b/19.png"), "b/01.png"
    )
    for name in ("b/17.png", "b/19.png"):
        shutil.copy(photos / "b" / "01.png", photos / name)
    assert torch.equal(seen, pixels(data, numbers, epoch=2))


def test_a_class_of_damaged_files_ends_the_run(photos: Path) -> None:
    data = streamed(photos)
    for path in (photos / "b").iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"b/01.png cannot be read: not an image .* Put the file back as it was"):
        pixels(data, [10])  # whose head is another now
    rest = dataclasses.replace(data, unchanged=lambda number: True)
    with pytest.raises(DataError, match=r"b/01.png cannot be read .*neither can the other 9 examples of b"):
        pixels(rest, [10])


def test_what_the_next_try_may_read_stands_for_itself(photos: Path) -> None:
    """A disk that fails for a moment changes no result: the run ends."""
    data = streamed(photos)

    def failing(number: int, crop: Crop) -> np.ndarray:
        if number == 2:
            error = Unreadable("damaged: Input/output error")
            error.passing = True
            raise error
        return data.example(number, crop)

    with pytest.raises(DataError, match=r"a/04.png cannot be read: .* Put the file back as it was"):
        pixels(dataclasses.replace(data, example=failing))


@pytest.mark.parametrize("part", ["header", "decoded"])
def test_what_the_next_try_may_read_is_not_left_out_at_the_start(
    photos: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A run without that picture would be of other data, and could not be gone on with."""
    real = getattr(decode, part)

    def failing(encoded: Any, **options: Any) -> Any:
        if Path(encoded).name == "13.png":
            error = Unreadable("Input/output error")
            error.passing = True
            raise error
        return real(encoded, **options)

    monkeypatch.setattr(decode, part, failing)
    with pytest.raises(DataError, match=r"b/13.png cannot be read: Input/output error. Run the same command again"):
        streamed(photos)


def test_a_file_that_vanishes_is_named_and_mended_the_run_goes_on(photos: Path, tmp_path: Path) -> None:
    recipe = recipe_from(SHORT)
    unbroken = train(recipe, streamed(photos), None)
    data, path = streamed(photos), photos / "b" / "13.png"
    whole = path.read_bytes()

    def vanish(line: dict[str, Any]) -> None:
        if line.get("epoch") == 1:
            path.unlink()

    with pytest.raises(DataError, match=r"b/13.png cannot be read: the file does not exist\. Put the file back as it "):
        train(recipe, data, tmp_path / "run", report=vanish, threads=1)
    path.write_bytes(whole)
    assert weights(train(recipe, streamed(photos), tmp_path / "run", resume=True)) == weights(unbroken)


def test_a_folder_of_nothing_that_can_be_read(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no")
    with pytest.raises(DataError, match="none of the 2 images could be read"):
        open_streamed(tmp_path, SHORTER)


def test_several_sizes_need_one(photos: Path) -> None:
    with pytest.raises(DataError, match="several sizes"):
        open_streamed(photos, Streaming())


# -- going on, and how much is held --------------------------------------------------------------------------


def test_a_run_that_stops_within_an_epoch_ends_as_if_it_had_not(photos: Path, tmp_path: Path) -> None:
    recipe = recipe_from({**SHORT, "ema": 0.9})
    unbroken = train(recipe, streamed(photos), None, threads=1)
    steps: list[int] = []
    with pytest.raises(Interrupted):
        train(
            recipe, streamed(photos), tmp_path / "run", threads=4,
            report=lambda line: steps.append(line["step"]), stop=lambda: len(steps) >= 2,
        )  # fmt: skip
    assert [path.name for path in checkpoints_in(tmp_path / "run")] == ["step-00000002"]  # of 4 in an epoch
    assert weights(train(recipe, streamed(photos), tmp_path / "run", resume=True, threads=0)) == weights(unbroken)


def test_no_more_is_read_ahead_than_was_said() -> None:
    lock, begun, used = threading.Lock(), 0, 0

    def work(item: int) -> int:
        nonlocal begun
        with lock:
            begun += 1
        return item

    for item in ahead(work, range(200), threads=4, waiting=5):
        assert item == used
        used += 1
        assert begun - used <= 5
    assert used == 200


def test_a_run_is_known_by_names_labels_sizes_and_cut(photos: Path, tmp_path: Path) -> None:
    first = streamed(photos).content
    assert streamed(photos).content == first
    assert streamed(photos.rename(tmp_path / "elsewhere")).content == first
    photos = tmp_path / "elsewhere"
    others = [streamed(photos, Streaming((18, 27), 16)), streamed(photos, Streaming((18, 26), 15))]
    others += [streamed(photos, max_samples=19), streamed(photos, Streaming(), size=16)]
    (photos / "a" / "02.png").write_bytes((photos / "a" / "02.png").read_bytes() + b"\0")
    others.append(streamed(photos))
    (photos / "a" / "02.png").rename(photos / "b" / "02.png")
    others.append(streamed(photos))
    assert len({first, *(each.content for each in others)}) == 7


# -- which data, which recipes -------------------------------------------------------------------------------


def test_what_is_no_file_of_its_own_is_held(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    for source in (tmp_path / "data.npz", "digits"):
        assert open_streamed(source, SHORTER, split="train") is None
    floats = Dataset(
        name="floats", x=torch.rand(4, 3, 20, 20), y=torch.arange(4) % 2, class_names=("a", "b"), ids=tuple("0123")
    )
    with pytest.raises(SpecError, match="floats contains floats"):
        train(recipe_from({**SMALL, "resize": {"shorter": [18, 26]}, "crop": 16}), floats, None)


def test_undivided_folders_are_dealt_as_ever(photos: Path) -> None:
    held = open_dataset(photos, split="train", size=16)
    assert streamed(photos, split="train").ids == held.ids
    assert torch.equal(pixels(streamed(photos, Streaming(), split="train", size=16)), held.x)


def test_a_recipe_says_it_in_pixels() -> None:
    recipe = recipe_from({"crop": 16}, {"resize.shorter": "18,26"})
    assert recipe.streaming == SHORTER
    assert recipe_from(recipe.model_dump(mode="json")) == recipe
    assert recipe.model_dump(mode="json")["resize"] == {"shorter": [18, 26]}
    assert recipe_from({}).streaming is None
    assert recipe_from({"streamed": True}).streaming == Streaming()


@pytest.mark.parametrize(("shape", "seen"), [(None, (3, 16, 16)), ((20, 20), (3, 20, 20))])
def test_validation_pictures_are_held_at_the_size_that_is_said(
    photos: Path, shape: tuple[int, int] | None, seen: tuple[int, ...]
) -> None:
    examples, held_out, splits = datasets.open_training(str(photos), shape=shape, streaming=SHORTER)
    assert splits == ("train", "test")
    assert held_out is not None
    assert (examples.shape, held_out.shape) == ((3, 16, 16), seen)
    expected = open_dataset(photos, split="test", size=seen[1])
    assert torch.equal(held_out.x, expected.x)
    recipe = recipe_from({**SMALL, "resize": {"shorter": [18, 26]}, "crop": 16, "epochs": 1})
    train(recipe, examples, None, validation=held_out)
    answers = [Annotation(picture="0.png", label="a")]
    answered = write_annotated(photos.parent / "answered", {"0.png": held_out.x[0]}, answers)
    with pytest.raises(SpecError, match="can only be added to data in memory, but those of photos/train are streamed"):
        with_annotated(examples, [answered], source=str(photos), trained="train")


@pytest.mark.parametrize(
    ("values", "changes", "said"),
    [
        ({"resize": {"shorter": [256, 480]}}, {}, "crop=0: give the side of the square"),
        ({"resize": {"shorter": [256, 480]}, "crop": 257}, {}, "crop=257: give the side"),
        ({"crop": 9}, {"resize.shorter": "480,256"}, r"a smallest and a largest number of pixels.*\[480, 256\]\.$"),
        ({"crop": 9}, {"resize.shorter": "256"}, r"resize = .* is not valid.*\{shorter: \[LEAST, LARGEST\]\}"),
        ({"crop": 9}, {"resize.shorter": "0.5,1.5"}, "in whole pixels"),
        ({"resize": {"longer": [1, 2]}}, {}, "it must be two factors"),
        ({"resize": 2}, {}, "resize = 2 is not valid"),
    ],
)
def test_impossible_sizes_are_refused(values: dict[str, Any], changes: dict[str, str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        recipe_from(values, changes)


def test_from_python_with_one_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["network=small_cnn:widths=4-8-8", "resize.shorter=18,26", "crop=16", "epochs=1", "batch_size=6"]
    classifier = advex.train("digits-ordinary", photos, *changes, out=tmp_path / "run", device="cpu")
    config = json.loads((tmp_path / "run" / artifacts.CONFIG).read_text())
    assert config["input_shape"] == [3, 16, 16]
    assert classifier(torch.rand(2, 3, 16, 16)).shape == (2, 2)
    assert "decoded when needed" in capsys.readouterr().err
    # Of the undivided data those are known that were trained on, so that an evaluation leaves them out.
    parts = {split: open_dataset(photos, split=split, size=16) for split in ("train", "test", "all")}
    rows = {split: trained_on(str(tmp_path / "run"), data) for split, data in parts.items()}
    assert all(each is not None and each.by_name for each in rows.values())
    assert {split: int(each.rows.sum()) for split, each in rows.items() if each is not None} == {
        "train": len(parts["train"]), "test": 0, "all": len(parts["train"]),
    }  # fmt: skip
    model: Any = [("run", str(tmp_path / "run"), classifier)]
    settings = Settings(attack=None, btr=None, pictures=(), maps=())
    for split, share in (("train", "warning"), ("test", "note")):
        record = evaluate(model, parts[split], tmp_path / split, settings)
        (flag,) = (flag for flag in record.flags if flag.code in ("trained_on", "known_by_name"))
        assert (flag.code, flag.severity) == ("known_by_name", share)
        assert (
            f"{len(parts['train']) if split == 'train' else 0} of the {len(parts[split])} examples have" in flag.message
        )
        assert record.models[0].trained_on is None
