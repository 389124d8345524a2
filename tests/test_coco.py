"""COCO boxes and ImageNet folders, from small files in exactly the published forms, whole and broken."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from advex.data import Dataset, Streaming, open_dataset, open_streamed, splits
from advex.data.images import decode
from advex.data.published.coco import coco
from advex.data.published.coco_json import read
from advex.data.published.imagenet import imagenet
from advex.data.published.pictures import ahead, cut
from advex.errors import AdvexError, DataError, SpecError

CATEGORIES = [(44, "bottle"), (1, "person"), (18, "dog")]  # not in order, and with gaps, as in COCO


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def places(height: int, width: int) -> np.ndarray:
    """[height, width, 3]: each pixel says where it is."""
    rows, columns = np.indices((height, width), dtype=np.uint8)
    return np.stack([rows, columns, rows ^ columns], axis=2)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def annotation(number: int, image: Any, category: Any, bbox: Any, **more: Any) -> dict[str, Any]:
    """An entry as COCO has it, with an outline and an area that nobody asks for."""
    return {
        "segmentation": [[1.5, 2.5, 3.5, 4.5, 5.5, 6.5]],
        "area": 12.5,
        "iscrowd": 0,
        "image_id": image,
        "bbox": bbox,
        "category_id": category,
        "id": number,
        **more,
    }


def document(images: list[tuple[int, str, int, int]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """images: (id, file, height, width)."""
    return {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [{"url": "a", "id": 1, "name": "b"}],
        "images": [
            {"license": 1, "file_name": file, "height": height, "width": width, "id": number, "coco_url": "c"}
            for number, file, height, width in images
        ],
        "annotations": annotations,
        "categories": [{"supercategory": "x", "id": number, "name": name} for number, name in CATEGORIES],
    }


def made(
    root: Path, pictures: dict[int, np.ndarray], annotations: list[dict[str, Any]], split: str = "val2017"
) -> Path:
    """A COCO folder with these pictures by id."""
    for number, pixels in pictures.items():
        write(root / split / f"{number:012}.png", encoded(pixels))
    images = [(number, f"{number:012}.png", *pixels.shape[:2]) for number, pixels in pictures.items()]
    write(root / "annotations" / f"instances_{split}.json", json.dumps(document(images, annotations)))
    return root


def one(root: Path, pixels: np.ndarray, bbox: list[float], **options: Any) -> np.ndarray:
    """[height, width, 3] of the only example of a folder with one box."""
    data = open_dataset(f"coco:root={made(root, {7: pixels}, [annotation(1, 7, 1, bbox)])}" + spec(options))
    assert not data.skipped
    return data.x[0].permute(1, 2, 0).numpy()


def spec(options: dict[str, Any]) -> str:
    return "".join(f",{key}={str(value).lower()}" for key, value in options.items())


# -- boxes ---------------------------------------------------------------------------------------------------


def test_each_box_is_an_example(tmp_path: Path) -> None:
    first, second = noise(1, 60, 80), noise(2, 50, 50)
    boxes = [
        annotation(900, 139, 18, [0, 0, 12, 12]),
        annotation(3, 25, 44, [38, 38, 12, 12]),
        annotation(11, 139, 1, [68.0, 48.0, 12.0, 12.0]),
    ]
    data = open_dataset(f"coco:root={made(tmp_path / 'coco', {139: first, 25: second}, boxes)},side=12,edge=12")
    assert data.class_names == ("person", "dog", "bottle")  # by id: 1, 18, 44
    assert data.name == "coco/val2017"
    assert data.ids == ("139/900", "139/11", "25/3")  # all boxes of a picture together, pictures as in the file
    assert data.y.tolist() == [1, 0, 2]
    expected = [first[:12, :12], first[48:, 68:], second[38:, 38:]]
    assert np.array_equal(data.x.permute(0, 2, 3, 1), expected)
    assert (data.skipped, data.notes, data.counts) == ((), (), None)


@pytest.mark.parametrize(
    ("bbox", "options", "rows", "columns"),
    [
        ([10, 20, 4, 4], {}, (20, 24), (10, 14)),
        ([10.5, 20.5, 3, 3], {}, (20, 24), (10, 14)),  # whole pixels around it
        ([10, 20, 4, 4], {"margin": 0.5}, (18, 26), (8, 16)),
        ([10, 20, 8, 4], {"square": True}, (18, 26), (10, 18)),
        ([10, 20, 4, 8], {"square": True}, (20, 28), (8, 16)),
        ([0, 0, 4, 4], {"margin": 0.5}, (0, 6), (0, 6)),  # ends at the picture's edge
        ([76, 56, 4, 4.5], {}, (56, 60), (76, 80)),  # half a pixel beyond it is rounding
    ],
)
def test_the_window_around_a_box(
    tmp_path: Path, bbox: list[float], options: dict[str, Any], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    side = rows[1] - rows[0]
    pixels = places(60, 80)
    found = one(tmp_path, pixels, bbox, side=side, edge=side, **options)
    assert np.array_equal(found, pixels[slice(*rows), slice(*columns)])


def test_the_papers_cut_against_scaling_first_and_cutting_then(tmp_path: Path) -> None:
    # 54 x 81 pixels: the shorter side to 108 is a factor of 2, and the 96 of 108 and 162 begin at 6 and 33.
    pixels = noise(0, 54, 81)
    whole = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    scaled = functional.interpolate(whole, (108, 162), mode="bilinear", antialias=True)[0, :, 6:102, 33:129]
    found = one(tmp_path, pixels, [0, 0, 81, 54])
    # Pillow rounds after each of two passes, this replica not at all: at most one level and a bit.
    assert np.abs(found.transpose(2, 0, 1) - scaled.numpy()).max() <= 1.01


@pytest.mark.parametrize(("height", "width"), [(40, 200), (200, 40), (150, 170)])
def test_a_slope_keeps_its_values_where_it_is_cut(height: int, width: int) -> None:
    slope = np.broadcast_to(np.arange(width, dtype=np.uint8), (1, height, width))
    found = cut(slope, edge=108, side=96).pixels[0].astype(float)
    step = min(height, width) / 108  # pixels of the source for one of the result
    expected = width / 2 + (np.arange(96) - 47.5) * step - 0.5
    inner = slice(4, -4)  # the filter reaches over the edge of the picture elsewhere
    assert np.abs(found[:, inner] - expected[inner]).max() <= 0.51  # the rounding to whole levels


def test_grey_pictures_become_colour_and_jpegs_are_read(tmp_path: Path) -> None:
    grey = np.full((30, 30), 90, dtype=np.uint8)
    made(tmp_path, {5: noise(0, 30, 30)}, [annotation(1, 5, 1, [3, 3, 20, 20])])
    write(tmp_path / "val2017" / f"{5:012}.png", encoded(grey, "JPEG", quality=95))
    data = open_dataset(tmp_path)
    assert data.shape == (3, 96, 96)
    assert (data.x.int() - 90).abs().max() <= 1


def test_other_sizes_are_scaled_again(tmp_path: Path) -> None:
    made(tmp_path, {5: noise(0, 30, 30)}, [annotation(1, 5, 1, [3, 3, 20, 20])])
    assert open_dataset(tmp_path, size=32, channels=1).shape == (1, 32, 32)


# -- read when they are needed -------------------------------------------------------------------------------


def test_streamed_boxes_are_those_in_memory(tmp_path: Path) -> None:
    """The same rows, the same left out for the same reasons, the same pixels."""
    boxes = [annotation(number, 5 + number % 3, 1, [number, 3, 30, 20 + number]) for number in range(8)]
    boxes += [
        annotation(20, 5, 1, [0, 0, 0, 9]),
        annotation(21, 99, 1, [0, 0, 9, 9]),
        annotation(22, 6, 18, [90, 0, 9, 9]),
    ]
    root = made(tmp_path, {number: noise(number, 60, 80) for number in (5, 6, 7)}, boxes)
    (root / "val2017" / f"{7:012}.png").unlink()
    write(root / "val2017" / f"{6:012}.png", encoded(noise(0, 50, 80)))
    held, data = open_dataset(root), open_streamed(root, Streaming())
    assert data is not None
    assert (data.ids, data.skipped, data.shape) == (held.ids, held.skipped, held.shape)
    assert len(data.skipped) == 8
    with decode.quiet():
        assert torch.equal(data.pixels(torch.arange(len(data)), seed=0, epoch=1), held.x)


def test_the_place_is_drawn_over_the_whole_box(tmp_path: Path) -> None:
    """A box of 20 x 160 pixels in a larger picture: both its ends are seen, and nothing that lies beyond them."""
    pixels = np.full((60, 200, 3), 255, np.uint8)
    pixels[10:30, 20:180] = np.arange(160)[None, :, None]
    root = made(tmp_path, {7: pixels}, [annotation(number, 7, 1, [20, 10, 160, 20]) for number in range(60)])
    data = open_streamed(root, Streaming((96, 120), 96))
    assert data is not None
    with decode.quiet():
        first, second = (data.pixels(torch.arange(60), seed=0, epoch=epoch) for epoch in (0, 1))
    assert first.shape == (60, 3, 96, 96)
    assert first.max() <= 160
    starts, ends = first[:, 0, 48, 0].int(), first[:, 0, 48, -1].int()
    spans = ends - starts  # 20 pixels or 16 at the largest scale; 95 of 96 of these lie between the centres
    assert spans.min() >= 15
    assert spans.max() <= 20
    assert starts.min() <= 8
    assert ends.max() >= 151
    assert not (first == second).flatten(1).all(dim=1).any()


# -- which boxes ---------------------------------------------------------------------------------------------


def crowded(root: Path) -> Path:
    """30 persons, 12 dogs and 3 bottles in 9 pictures, 5 boxes each."""
    labels = [1] * 30 + [18] * 12 + [44] * 3
    boxes = [annotation(number, number % 9, label, [number, 1, 9, 9]) for number, label in enumerate(labels)]
    return made(root, {number: noise(number, 64, 64) for number in range(9)}, boxes)


def test_a_sample_is_drawn_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, opened = crowded(tmp_path), []
    original = decode.pixels
    monkeypatch.setattr(
        "advex.data.published.coco.decode.pixels",
        lambda path, **options: opened.append(path) or original(path, **options),
    )
    data = open_dataset(root, max_samples=2, seed=3)
    pictures = {each.partition("/")[0] for each in data.ids}
    files = [path for path in opened if isinstance(path, Path)]
    assert (len(data), {str(int(path.stem)) for path in files}) == (2, pictures)
    assert data.class_counts == (30, 12, 3)
    assert data.chance == 30 / 45
    assert open_dataset(root, max_samples=4, seed=3).ids[:2] == data.ids  # a smaller draw begins the larger
    opened.clear()
    whole = open_dataset(root)
    files = [path for path in opened if isinstance(path, Path)]
    assert (len(whole), len(files)) == (45, 9)  # each picture once, for all of its boxes


def test_classes_can_be_drawn_equally(tmp_path: Path) -> None:
    root = crowded(tmp_path)
    data = open_dataset(f"coco:root={root},per_class=3")
    assert data.class_counts == (3, 3, 3)
    assert data.notes == ("3 boxes of each class were drawn from 45",)
    assert open_dataset(f"coco:root={root},per_class=3").ids == data.ids
    assert open_dataset(f"coco:root={root},per_class=3,seed=1").ids != data.ids
    more = open_dataset(f"coco:root={root},per_class=10")
    assert more.class_counts == (10, 10, 3)
    assert set(data.ids) < set(more.ids)
    assert more.notes[1] == "1 class has fewer (bottle 3)"


def test_crowds_and_small_boxes_are_left_out_and_counted(tmp_path: Path) -> None:
    boxes = [
        annotation(1, 7, 1, [0, 0, 20, 20]),
        annotation(2, 7, 1, [0, 0, 20, 20], iscrowd=1, segmentation={"counts": [1, 2], "size": [3, 4]}),
        annotation(3, 7, 1, [0, 0, 20, 4.5]),
    ]
    root = made(tmp_path, {7: noise(0, 40, 40)}, boxes)
    plain = open_dataset(root)
    assert (plain.ids, plain.notes[:1]) == (("7/1", "7/3"), ("1 box around crowds left out",))
    assert open_dataset(f"coco:root={root},crowd=true").ids == ("7/1", "7/2", "7/3")
    large = open_dataset(f"coco:root={root},min_side=5")
    assert (large.ids, large.notes[1]) == (("7/1",), "1 box smaller than 5 pixels left out")


def test_what_is_wrong_with_one_box_is_told_of_it(tmp_path: Path) -> None:
    wrong = {
        1: ([5, 5, 0, 9], "no area: 0 x 9"),
        2: ([5, 5, 9, -1], "no area: 9 x -1"),
        3: ([70, 5, 20, 9], "reaches 10 pixels beyond its picture of 60x80"),
        4: ([-3, 5, 20, 9], "reaches 3 pixels beyond"),
        5: ([500, 500, 9, 9], "pixels beyond"),
        6: (["5", 5, 9, 9], "not four finite numbers"),
        7: ([5, 5, 9], "not four finite numbers"),
        8: (None, "not four finite numbers"),
        9: ([True, 5, 9, 9], "not four finite numbers"),
        10: ([10**400, 5, 9, 9], "not four finite numbers"),
        11: ([5, 5, 1e308, 1e308], "beyond its picture"),
        12: ([80, 5, 1, 9], "no pixel of its picture"),
    }
    boxes = [annotation(number, 7, 1, bbox) for number, (bbox, _) in wrong.items()]
    boxes += [
        annotation(20, 8, 1, [0, 0, 9, 9]),  # the picture is truncated
        annotation(21, 9, 1, [0, 0, 9, 9]),  # missing
        annotation(22, 10, 1, [0, 0, 9, 9]),  # of another size
        annotation(23, 99, 1, [0, 0, 9, 9]),  # not listed
        annotation(24, 7, 2**62, [0, 0, 9, 9]),  # of a category that is not listed
        annotation(30, 7, 1, [0, 0, 9, 9]),
    ]
    root = made(tmp_path, {number: noise(number, 60, 80) for number in (7, 8, 9, 10)}, boxes)
    folder = root / "val2017"
    path = folder / f"{8:012}.png"
    path.write_bytes(path.read_bytes()[:5000])
    (folder / f"{9:012}.png").unlink()
    write(folder / f"{10:012}.png", encoded(noise(0, 80, 60)))
    data = open_dataset(root)
    assert data.ids == ("7/30",)
    reasons = {each.name: each.reason for each in data.skipped}
    assert len(reasons) == 17
    for number, (_, words) in wrong.items():
        assert words in reasons[f"7/{number}"]
    assert "truncated file" in reasons["8/20"]
    assert "the file does not exist" in reasons["9/21"]
    assert "is 80x60 (height x width), but 60x80 in the annotations" in reasons["10/22"]
    assert "not listed under images" in reasons["99/23"]
    assert "not among the 3 classes" in reasons["7/24"]
    assert data.notes == (f"boxes of unlisted categories are skipped (category_id {2**62})",)


def test_a_picture_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    root = made(tmp_path, {7: noise(0, 20, 20), 8: noise(0, 20, 20)}, [])
    boxes = [annotation(1, 7, 1, [0, 0, 9, 9]), annotation(2, 8, 1, [0, 0, 9, 9])]
    images = [(7, f"{7:012}.png", 20, 20), (8, f"{8:012}.png", 10_000, 10_000)]
    write(root / "annotations/instances_val2017.json", json.dumps(document(images, boxes)))
    header = encoded(np.zeros((10_000, 10_000), dtype=np.bool_))  # a good file of 12 kB: 100 million pixels
    write(root / "val2017" / f"{8:012}.png", header)
    (lost,) = open_dataset(root).skipped
    assert (lost.name, "too many pixels" in lost.reason) == ("8/2", True)


# -- files that cannot be believed ---------------------------------------------------------------------------

GOOD = document([(7, "a.png", 20, 20)], [annotation(1, 7, 1, [0, 0, 9, 9])])


def with_change(key: str, number: int, **change: Any) -> dict[str, Any]:
    entries = [dict(each) for each in GOOD[key]]
    entries[number].update(change)
    return {**GOOD, key: entries}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(GOOD)[:-40], "truncated or is not JSON"),
        ("", "truncated or is not JSON"),
        (json.dumps(GOOD).replace("12.5", "NaN"), "NaN is not a JSON number"),
        (json.dumps(GOOD).replace("12.5", "9" * 5000), "truncated or is not JSON"),
        (b'{"images": "\xff\xfe\xfa"}', "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not an object"),
        (json.dumps({**GOOD, "annotations": {}}), "the list 'annotations' is missing"),
        (json.dumps({**GOOD, "categories": []}), "has no categories"),
        (json.dumps({**GOOD, "images": [3]}), r"images\[0\] is not an object"),
        (json.dumps(with_change("annotations", 0, id="1")), r"annotations\[0\] needs an integer 'id'.*'1'"),
        (json.dumps(with_change("annotations", 0, image_id=7.5)), "integer 'image_id'"),
        (json.dumps(with_change("annotations", 0, category_id=True)), "integer 'category_id'"),
        (json.dumps(with_change("annotations", 0, id=2**70)), "integer 'id'"),
        (json.dumps(with_change("annotations", 0, iscrowd=2)), "'iscrowd' of 0 or 1"),
        (json.dumps({**GOOD, "annotations": GOOD["annotations"] * 2}), "annotation id 1 is listed twice"),
        (json.dumps({**GOOD, "images": GOOD["images"] * 2}), "image id 7 is listed twice"),
        (json.dumps(with_change("categories", 1, id=44)), "'person', id 44, is listed twice"),
        (json.dumps(with_change("categories", 1, name="bottle")), "is listed twice"),
        (json.dumps(with_change("categories", 1, name=" ")), "needs a 'name'"),
        (json.dumps(with_change("images", 0, width=0)), "'width' of at least 1"),
        (json.dumps(with_change("images", 0, file_name=None)), "needs a 'file_name'"),
        (json.dumps(with_change("images", 0, file_name="a\x00.png")), "needs a 'file_name'"),
        *(
            (json.dumps(with_change("images", 0, file_name=name)), "must be given as a path relative")
            for name in ("../a.png", "/etc/a.png", "b/../../a.png", "C:a.png", "..\\a.png", "", "b//a.png")
        ),
    ],
)
def test_a_file_that_cannot_be_believed_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path / "instances_x.json", text))


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "instances_x.json", json.dumps(GOOD))
    assert read(path, largest=path.stat().st_size).ids == ["7/1"]
    with pytest.raises(DataError, match="larger than 100 bytes"):
        read(path, largest=100)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    key=st.sampled_from(["images", "annotations", "categories"]),
    field=st.sampled_from(["id", "image_id", "category_id", "bbox", "iscrowd", "file_name", "width", "height", "name"]),
    value=JSON,
)
def test_no_value_does_worse_than_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, key: str, field: str, value: Any
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    write(root / "x/a.png", encoded(noise(0, 20, 20)))
    write(root / "annotations/instances_x.json", json.dumps(with_change(key, 0, **{field: value})))
    with contextlib.suppress(DataError):
        found = open_dataset(root)
        assert found.shape == (3, 96, 96)


# -- where it lies -------------------------------------------------------------------------------------------


def test_places_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made(tmp_path / "coco", {7: noise(0, 20, 20)}, [annotation(1, 7, 1, [0, 0, 9, 9])])
    made(root, {8: noise(1, 20, 20)}, [annotation(2, 8, 18, [0, 0, 9, 9])], split="train2017")
    write(root / "annotations/captions_val2017.json", "{}")
    assert splits(root) == ("train2017", "val2017")
    (root / "images").mkdir()
    (root / "train2017").rename(root / "images/train2017")
    assert open_dataset(root, split="train2017").ids == ("8/2",)
    with pytest.raises(DataError, match="several splits: train2017, val2017"):
        open_dataset(root)
    monkeypatch.delenv("ADVEX_DATA", raising=False)
    with pytest.raises(AdvexError, match=r"The folder of coco is not known.*coco:root=PATH.*ADVEX_DATA"):
        open_dataset("coco")
    monkeypatch.setenv("ADVEX_DATA", str(tmp_path))
    assert open_dataset("coco", split="val2017").ids == ("7/1",)
    (root / "val2017").rename(root / "elsewhere")
    (root / "images").rename(root / "pictures")
    with pytest.raises(DataError, match=r"no pictures for 'val2017'.*coco/val2017 or .*images/val2017"):
        open_dataset("coco", split="val2017")


def test_splits_of_other_categories_do_not_go_together(tmp_path: Path) -> None:
    root = made(tmp_path, {7: noise(0, 20, 20)}, [annotation(1, 7, 1, [0, 0, 9, 9])])
    other = document([(8, "b.png", 20, 20)], [annotation(number, 8, 1, [0, 0, 9, 9]) for number in range(9)])
    other["categories"][0]["name"] = "vase"
    write(root / "annotations/instances_train2017.json", json.dumps(other))
    with pytest.raises(DataError, match="their categories differ"):
        open_dataset(root, split="train2017")
    assert len(open_dataset(root, split="val2017")) == 1


@pytest.mark.parametrize("options", ["side=0", "edge=90", "margin=-0.1", "min_side=0", "per_class=-1"])
def test_impossible_options_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(SpecError, match=options.partition("=")[0]):
        open_dataset(f"coco:root={tmp_path},{options}")


def test_a_folder_without_annotations_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations/instances_SPLIT\.json"):
        coco(root=str(tmp_path))
    with pytest.raises(DataError, match="is not a folder.*coco:root=PATH"):
        coco(root=str(tmp_path / "none"))


def test_work_ahead_keeps_order_and_bounds_itself() -> None:
    asked = []

    def items() -> Any:
        for number in range(1000):
            asked.append(number)
            yield number

    results: Any = ahead(lambda number: [number, -number], items())
    assert [next(results) for _ in range(6)] == [0, 0, 1, -1, 2, -2]
    assert len(asked) < 50
    results.close()
    assert [*ahead(lambda number: [number], range(100))] == [*range(100)]


# -- ImageNet ------------------------------------------------------------------------------------------------

SYNSETS = ("n01440764", "n02012849", "n03126707")
MAPPING = "n01440764 tench, Tinca tinca\nn03126707 crane\nn02012849 crane\n"


def imagenet_folder(root: Path, base: str = "") -> Path:
    for number, synset in enumerate(SYNSETS):
        write(root / base / "train" / synset / f"{synset}_{number}.JPEG", encoded(noise(number, 300, 400), "JPEG"))
    return root


def test_imagenet_has_readable_names_and_the_papers_cut(tmp_path: Path) -> None:
    root = imagenet_folder(tmp_path / "imagenet")
    pixels = noise(5, 256, 300)
    write(root / "val" / SYNSETS[2] / "x.JPEG", encoded(pixels))
    write(root / "LOC_synset_mapping.txt", MAPPING)
    train, val = (open_dataset(f"imagenet:root={root}", split=split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("tench", "crane (n02012849)", "crane (n03126707)")
    assert (train.shape, train.y.tolist()) == ((3, 224, 224), [0, 1, 2])
    assert (val.ids, val.y.tolist()) == (("val/n03126707/x.JPEG",), [2])
    assert np.array_equal(val.x[0].permute(1, 2, 0), pixels[16:240, 38:262])  # 256 is the shorter side already


def test_imagenet_as_published_on_kaggle(tmp_path: Path) -> None:
    root = imagenet_folder(tmp_path, "ILSVRC/Data/CLS-LOC")
    for name in ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002", "ILSVRC2012_val_00000003"):
        write(root / f"ILSVRC/Data/CLS-LOC/val/{name}.JPEG", encoded(noise(0, 300, 500), "JPEG"))
    write(root / "LOC_synset_mapping.txt", MAPPING)
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv, which gives their classes"):
        open_dataset(f"imagenet:root={root}", split="val")
    solution = "ImageId,PredictionString\nILSVRC2012_val_00000002,n03126707 85 1 499 272 \n"
    write(root / "LOC_val_solution.csv", solution + "ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8 \n")
    data = open_dataset(f"imagenet:root={root}", split="val")
    assert data.ids == ("val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
    assert data.y.tolist() == [0, 2]
    assert data.notes[0] == "1 image of no known class left out (ILSVRC2012_val_00000003.JPEG)"
    assert data.evidence is not None
    assert data.evidence.located.tolist() == [False, True], "of the first nothing is left in the cut"


def test_imagenet_names_by_index_or_by_folder(tmp_path: Path) -> None:
    root = imagenet_folder(tmp_path)
    assert imagenet(root=str(root)).class_names == SYNSETS
    index = {"0": ["n01440764", "tench"], "134": ["n02012849", "crane"], "517": ["n03126707", "crane_machine"]}
    write(root / "imagenet_class_index.json", json.dumps(index))
    assert imagenet(root=str(root)).class_names == ("tench", "crane", "crane machine")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("LOC_synset_mapping.txt", "n01440764 tench\nn0144 crane\n", "line 2: expected a synset"),
        ("LOC_synset_mapping.txt", "n01440764 tench\nn01440764 crane\n", "line 2: n01440764 is listed twice"),
        ("LOC_synset_mapping.txt", "n01440764\n", "line 1: expected a synset"),
        ("imagenet_class_index.json", '{"0": ["n01440764", "ten', "truncated or is not JSON"),
        ("imagenet_class_index.json", '{"0": ["n01440764", 3]}', "'0' is not a pair"),
        ("imagenet_class_index.json", "[1]", "is not a pair"),
    ],
)
def test_tables_of_names_are_checked(tmp_path: Path, name: str, text: str, words: str) -> None:
    root = imagenet_folder(tmp_path)
    write(root / name, text)
    with pytest.raises(DataError, match=words):
        imagenet(root=str(root))


def test_a_plain_folder_is_scaled_to_the_size_itself(tmp_path: Path) -> None:
    """What `open_dataset(folder, size=224)` does with pictures of any size: the shorter side becomes 224."""
    pixels = noise(0, 224, 300)
    write(tmp_path / "n01440764/x.JPEG", encoded(pixels))
    write(tmp_path / "n02012849/y.JPEG", encoded(noise(1, 500, 375), "JPEG"))
    data: Dataset = open_dataset(tmp_path, size=224)
    assert data.shape == (3, 224, 224)
    assert np.array_equal(data.x[0].permute(1, 2, 0), pixels[:, 38:262])


def test_a_broken_picture_of_imagenet_is_named(tmp_path: Path) -> None:
    root = imagenet_folder(tmp_path)
    path = root / "train" / SYNSETS[1] / f"{SYNSETS[1]}_1.JPEG"
    path.write_bytes(path.read_bytes()[:4000])
    (lost,) = open_dataset(f"imagenet:root={root}").skipped
    assert (lost.name, lost.reason) == (f"train/{SYNSETS[1]}/{SYNSETS[1]}_1.JPEG", "truncated file")


def test_imagenet_is_cut_anywhere_in_the_whole_picture(tmp_path: Path) -> None:
    root = imagenet_folder(tmp_path)
    held = open_dataset(f"imagenet:root={root}", split="train")
    fixed, drawn = (open_streamed(f"imagenet:root={root}", rule) for rule in (Streaming(), Streaming((256, 480), 224)))
    assert fixed is not None
    assert drawn is not None
    slope = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (64, 250, 3))  # four times as wide as high
    write(root / "train" / SYNSETS[0] / f"{SYNSETS[0]}_0.JPEG", encoded(slope))
    with decode.quiet():
        assert torch.equal(fixed.pixels(torch.tensor([1, 2]), seed=0, epoch=4), held.x[1:])
        left = [int(drawn.pixels(torch.tensor([0]), seed=0, epoch=epoch)[0, 0, 112, 0]) for epoch in range(40)]
    assert min(left) < 30  # the centre alone would be at 97 and more
    assert max(left) > 160
