"""Boxes and outlines through scaling, cutting, sampling and joining, against exact arithmetic and outside encodings."""

from __future__ import annotations

import inspect
import io
import json
import re
from collections.abc import Sequence
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from advex import registry
from advex.data import Dataset, concatenate, open_dataset
from advex.data.dataset import content, fingerprint
from advex.data.evidence import Evidence, Region, none_of, placed, polygons
from advex.data.images import decode
from advex.data.published import coco_json
from advex.data.window import Cut, Window
from advex.errors import DataError
from advex.evaluation.maps import LOCATED

Box = tuple[int, int, int, int]
sides = st.integers(1, 40)


@st.composite
def boxes_in(draw: Any) -> tuple[tuple[int, int], Box]:
    """A size (height, width) and an inclusive box x0, y0, x1, y1 in it."""
    height, width = draw(sides), draw(sides)
    (x0, x1), (y0, y1) = (
        sorted(draw(st.tuples(st.integers(0, s - 1), st.integers(0, s - 1)))) for s in (width, height)
    )
    return (height, width), (x0, y0, x1, y1)


def region(box: Sequence[float]) -> Region:
    x0, y0, x1, y1 = box
    return Region(box=(x0, y0, x1 + 1, y1 + 1))


def mask_of(window: Window, *regions: Region) -> np.ndarray:
    evidence, _ = placed([regions], [window])
    return evidence.mask(0, window.size).numpy()


def exact(of: tuple[int, int], size: tuple[int, int], box: Box) -> np.ndarray:
    """The box, rasterised in the picture and scaled by nearest to cover `size`, pixel by pixel, in fractions."""
    height, width = of
    ratio = Fraction(size[1], size[0])
    across, down = (ratio * height, height) if width >= ratio * height else (width, width / ratio)
    left, top = Fraction(width - across) / 2, Fraction(height - down) / 2
    inside = np.zeros(size, dtype=bool)
    for row in range(size[0]):
        for column in range(size[1]):
            x = floor(left + Fraction(2 * column + 1, 2) * across / size[1])
            y = floor(top + Fraction(2 * row + 1, 2) * down / size[0])
            inside[row, column] = box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return inside


def left_of(of: tuple[int, int], size: tuple[int, int], box: Box) -> Fraction:
    """The share of a box's area in what is cut out."""
    ratio = Fraction(size[1], size[0])
    across, down = (ratio * of[0], of[0]) if of[1] >= ratio * of[0] else (of[1], of[1] / ratio)
    share: Any = Fraction(1)
    for low, high, side, kept in ((box[0], box[2] + 1, of[1], across), (box[1], box[3] + 1, of[0], down)):
        start = Fraction(side - kept) / 2
        share *= Fraction(max(0, min(high, start + kept) - max(low, start))) / (high - low)
    return share


# -- scaling and cutting -------------------------------------------------------------------------------------


@given(boxes_in(), st.tuples(sides, sides))
def test_a_box_covers_the_pixels_that_nearest_scaling_gives_it(drawn: tuple[tuple[int, int], Box], size: Any) -> None:
    of, box = drawn
    mask, share = mask_of(Window.centred(of, size), region(box)), left_of(of, size, box)
    if share < Fraction(1, 2):
        assert not mask.any()
        return
    expected = exact(of, size, box)
    assume(share != Fraction(1, 2))
    if expected.any():
        assert np.array_equal(mask, expected)
    else:  # smaller than a pixel of the example: the one where it lies
        assert mask.any()
        assert 1 in (mask.any(axis=0).sum(), mask.any(axis=1).sum())


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((0, 0, 3, 3), 8, (0, 0, 7, 7)),
        ((1, 2, 2, 2), 8, (2, 4, 5, 5)),
        ((2, 0, 3, 1), 2, (1, 0, 1, 0)),
        ((3, 3, 3, 3), 4, (3, 3, 3, 3)),
        ((0, 0, 0, 0), 1, (0, 0, 0, 0)),
        ((-5, -5, 1, 1), 4, (0, 0, 1, 1)),  # clipped to the picture
        ((2, 1, 99, 99), 4, (2, 1, 3, 3)),
    ],
)
def test_tiny_pictures_by_hand(box: Box, size: int, expected: Box) -> None:
    evidence, notes = placed([[region(box)]], [Window.centred((4, 4), (size, size))])
    assert evidence.boxes[0].tolist() == [list(expected)]
    assert notes == ()


def test_a_box_of_which_less_than_half_is_left_is_none() -> None:
    window = Window.centred((4, 8), (4, 4))  # the columns 2 to 5
    found, notes = placed([[region((0, 0, 3, 3))], [region((0, 0, 2, 3))], [region((9, 0, 9, 0))]], [window] * 3)
    assert [boxes.tolist() for boxes in found.boxes] == [[[0, 0, 1, 3]], [], []]
    assert found.located.tolist() == [True, False, False]
    assert "2 of 3 without evidence" in notes[0]


@given(boxes_in(), st.data())
def test_cutting_twice_is_cutting_once(drawn: tuple[tuple[int, int], Box], data: Any) -> None:
    of, box = drawn

    def part(of: tuple[int, int]) -> Box:
        (x0, x1), (y0, y1) = (sorted(data.draw(st.tuples(st.integers(0, s), st.integers(0, s)))) for s in of[::-1])
        assume(x0 < x1 and y0 < y1)
        return x0, y0, x1, y1

    picture = np.arange(of[0] * of[1]).reshape(of)
    left, top, right, bottom = part(of)
    first = Window.cut(of, left, top, right, bottom)
    second = Window.cut(first.size, *part(first.size))
    once = Window.cut(
        of,
        *(
            int(a + b)
            for a, b in zip((left, top) * 2, (second.left, second.top, second.right, second.bottom), strict=True)
        ),
    )
    assert first.then(second) == once
    assert np.array_equal(once.sampled(picture), second.sampled(first.sampled(picture)))
    assert np.array_equal(mask_of(first.then(second), region(box)), mask_of(once, region(box)))


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.tuples(sides, sides))
def test_the_window_of_a_window_is_the_way_through_both(of: Any, between: Any, size: Any) -> None:
    first = Window.centred(of, between)
    both = first.then(Window.centred(between, size, share=0.5))
    points = np.array([[0.0, 0.0], [of[1], of[0]], [of[1] / 3, of[0] / 5]])
    np.testing.assert_allclose(
        both.moved(points), Window.centred(between, size, share=0.5).moved(first.moved(points)), atol=1e-6
    )


@pytest.mark.parametrize(("of", "size"), [((9, 15), (3, 3)), ((4, 7), (4, 7)), ((4, 8), (4, 4)), ((6, 6), (18, 18))])
def test_a_mirrored_picture_has_mirrored_boxes(of: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    window = Window.centred(of, size)
    for _ in range(50):
        x0, y0 = (int(rng.integers(0, side - 3)) for side in of[::-1])
        x1, y1 = (int(rng.integers(low + 2, side)) for low, side in zip((x0, y0), of[::-1], strict=True))
        plain = mask_of(window, region((x0, y0, x1, y1)))
        mirrored = mask_of(window, region((of[1] - 1 - x1, y0, of[1] - 1 - x0, y1)))
        assert np.array_equal(mirrored, plain[:, ::-1])


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(0, 2**32 - 1))
def test_the_decoder_tells_what_it_did(of: Any, size: Any, seed: int) -> None:
    """What is told is what was done: the same part, taken from the picture by itself, gives the same pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, *of), dtype=np.uint8)
    told = decode.decoded(pixels, size=size)
    assert told.window.of == of
    assert told.window.size == told.pixels.shape[1:] == size
    assert np.array_equal(decode.scaled(pixels, told.window).pixels, told.pixels) or of == size
    again = decode.decoded(Cut(pixels, Window.cut((100, 100), 10, 20, 10 + of[1], 20 + of[0])), size=size)
    assert np.array_equal(again.pixels, told.pixels)
    assert (again.window.left, again.window.top) == (told.window.left + 10, told.window.top + 20)


# -- outlines ------------------------------------------------------------------------------------------------


def test_a_thing_without_an_outline_beside_one_that_has_one_has_its_box() -> None:
    def damaged(window: Window) -> np.ndarray:
        raise DataError("no outline")

    outlined = Region(box=(0, 0, 4, 4), outline=polygons([np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])]))
    nowhere = polygons([np.array([[7.1, 0.1], [7.2, 0.1], [7.2, 0.2]])])  # between the pixels' centres
    for outline in (None, damaged, nowhere):
        other = Region(box=(6, 0, 8, 3), outline=outline)
        known, notes = placed([[outlined, other], [other]], [Window.whole((8, 10))] * 2)
        masks = [known.mask(row, (8, 10)) for row in range(2)]
        assert [int(mask.sum()) for mask in masks] == [4 + 6, 6]
        assert masks[0][:3, 6:8].all()
        assert len(notes) == (outline is damaged)


@given(boxes_in(), st.tuples(sides, sides))
def test_the_outline_of_a_rectangle_is_its_box(drawn: tuple[tuple[int, int], Box], size: Any) -> None:
    of, (x0, y0, x1, y1) = drawn
    corners = np.array([[x0, y0], [x1 + 1, y0], [x1 + 1, y1 + 1], [x0, y1 + 1]], dtype=np.float32)
    found = polygons([corners])(Window.centred(of, size))
    assert np.array_equal(found, exact(of, size, (x0, y0, x1, y1)))


def test_polygons_are_filled_at_the_centres_of_pixels() -> None:
    triangle = np.array([[0, 0], [6, 0], [0, 6]])
    star = np.array([[2, 0], [3.2, 4], [0, 1.5], [4, 1.5], [0.8, 4]])
    rows, columns = np.indices((6, 6)) + 0.5
    assert np.array_equal(polygons([triangle])(Window.whole((6, 6))), rows + columns < 6)
    # By the even-odd rule the middle of a pentagram is outside; by hand, at four times the size.
    inside = polygons([star * 4])(Window.whole((16, 16)))
    assert inside[3, 8]
    assert not inside[8, 8]
    two = polygons([triangle, triangle + 3])(Window.whole((9, 9)))
    rows, columns = np.indices((9, 9)) + 0.5
    assert np.array_equal(two, (rows + columns < 6) | ((rows > 3) & (columns > 3) & (rows + columns < 12)))


def test_runs_are_read_as_the_outside_library_wrote_them() -> None:
    """The texts are pycocotools' 2.0 of these masks."""
    block = np.zeros((9, 11), dtype=bool)
    block[2:7, 3:9] = True
    block[4, 5] = False
    packed = {"size": [9, 11], "counts": "m05400MM0330000`0"}
    assert np.array_equal(coco_json.mask(packed, (9, 11)), block)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], block.T.ravel().astype(int)])))
    runs = np.diff(np.concatenate([[0], ends, [block.size]]))
    assert np.array_equal(coco_json.mask({"size": [9, 11], "counts": runs}, (9, 11)), block)
    rows, columns = np.mgrid[:60, :80]
    ellipse = ((rows - 30) / 20.0) ** 2 + ((columns - 40) / 26.0) ** 2 < 1
    assert np.array_equal(coco_json.mask({"size": [60, 80], "counts": ELLIPSE}, (60, 80)), ellipse)


ELLIPSE = "ml0;_14L4M2N2N2N2N2N2O0O2O0O2O0O2O000O2O00000000000000000000000000000001N10001N101N101N101N2N2N2N2N2N3L4Lai0"


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [9, 11], "counts": "m05400MM0330000"},
        {"size": [9, 11], "counts": "o"},
        {"size": [9, 11], "counts": "\u2603" * 9},
        {"size": [9, 11], "counts": "o" * 1000},
        {"size": [9, 11], "counts": np.array([-1, 100])},
        {"size": [9, 11], "counts": np.array([2**62, 2**62, 2**62, 2**62, 99])},
        {"size": [11, 9], "counts": np.array([99])},
        {"size": None, "counts": np.array([99])},
        {"size": [9, 11], "counts": None},
        {},
    ],
)
def test_runs_that_do_not_fill_their_picture_are_refused(outline: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="outline"):
        coco_json.mask(outline, (9, 11))


# -- data sets -----------------------------------------------------------------------------------------------


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def parquet(path: Path, boxes: list[Any], *, of: tuple[int, int] = (12, 16), kind: Any = None) -> Path:
    """A Parquet file of pictures in which a bright rectangle lies in each (first) box."""
    pictures = []
    for box in boxes:
        pixels = np.zeros(of, dtype=np.uint8)
        for x0, y0, x1, y1 in [box] if box and not isinstance(box[0], list) else box or []:
            pixels[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = 255
        pictures.append({"bytes": png(pixels)})
    kind = kind or pa.list_(pa.float32())
    columns = {"image": pictures, "label": [i % 2 for i in range(len(boxes))], "bbox": pa.array(boxes, kind)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def lit(data: Dataset) -> list[list[list[bool]]]:
    """[n, height, width]: where the rectangles are seen."""
    return (data.x[:, 0] > 127).tolist()


def masks(data: Dataset) -> list[list[list[bool]]]:
    assert data.evidence is not None
    return [data.evidence.mask(i, data.shape[1:]).tolist() for i in range(len(data))]  # pyright: ignore


@pytest.mark.parametrize("size", [None, 12, (4, 4), (36, 36)])
def test_boxes_lie_on_what_they_name_however_it_is_scaled(tmp_path: Path, size: Any) -> None:
    path = parquet(tmp_path / "a.parquet", [[3, 2, 7, 8], [2, 0, 13, 11], [8, 8, 10, 10]])
    data = open_dataset(path, size=size)
    assert data.evidence is not None
    for mask, seen in zip(np.array(masks(data)), np.array(lit(data)), strict=True):
        # Scaled pixels are blurred at their edges by at most one pixel of either.
        assert mask.any()
        assert (mask != seen).sum() <= (0 if size in (None, 12) else 0.25 * seen.size)
    if size in (None, 12):
        assert masks(data) == lit(data)


def test_examples_keep_their_evidence(tmp_path: Path) -> None:
    boxes = [[i, i, i + 2, i + 3] for i in range(8)]
    path = parquet(tmp_path / "a.parquet", [*boxes, None, []])
    data = open_dataset(path)
    assert data.evidence is not None
    assert [each.tolist() for each in data.evidence.boxes] == [*([box] for box in boxes), [], []]
    assert masks(data) == lit(data)
    for part in (data.take(torch.tensor([9, 3, 0])), data.take(slice(2, 5)), data.sample(4, 1), data.sample(99, 1)):
        assert masks(part) == lit(part)
    drawn = open_dataset(path, max_samples=5, seed=3)
    assert drawn.ids == data.sample(5, 3).ids
    assert masks(drawn) == lit(drawn)
    bare = Dataset(name="bare", x=data.x[:2], y=data.y[:2], class_names=data.class_names, ids=("p", "q"))
    both = concatenate(bare, data, bare)
    assert both.evidence is not None
    assert both.evidence.located.tolist() == [False] * 2 + [True] * 8 + [False] * 4
    assert masks(both)[2:10] == lit(data)[:8]
    assert concatenate(bare, bare).evidence is None


def test_several_boxes_are_one_place(tmp_path: Path) -> None:
    many = [[[0, 0, 2, 2], [5, 5, 9, 6]], [], [[1, 1, 1, 1]]]
    data = open_dataset(parquet(tmp_path / "a.parquet", many, kind=pa.list_(pa.list_(pa.float32()))))
    assert data.evidence is not None
    assert [len(each) for each in data.evidence.boxes] == [2, 0, 1]
    assert masks(data) == lit(data)


@pytest.mark.parametrize("box", [[10, 3, 4, 5], [1, 9, 4, 5]])
def test_what_cannot_be_corners_is_refused(tmp_path: Path, box: list[Any]) -> None:
    path = parquet(tmp_path / "a.parquet", [[0, 0, 3, 3], [0, 0, 1, 1]])
    table = pq.read_table(path).set_column(2, "bbox", pa.array([[0, 0, 3, 3], box], pa.list_(pa.float32())))
    pq.write_table(table, path)
    with pytest.raises(DataError, match="row 1 of column 'bbox'"):
        open_dataset(path)


def test_boxes_among_objects_are_not_guessed(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [[0, 0, 3, 3], [0, 0, 1, 1]])
    objects = pa.array([{"bbox": [[1.0, 2, 3, 4]]}, {"bbox": []}])
    pq.write_table(pq.read_table(path).drop(["bbox"]).append_column("objects", objects), path)
    data = open_dataset(path)
    assert data.evidence is None
    assert "'objects' are only read if" in data.notes[0]


def test_what_is_learned_from_does_not_change_with_evidence_and_what_is_measured_does(tmp_path: Path) -> None:
    first, second = (parquet(tmp_path / name / "a.parquet", [[1, 1, 4, 4], []]) for name in "ab")
    table = pq.read_table(second).set_column(2, "bbox", pa.array([[1, 1, 4, 5], []], pa.list_(pa.float32())))
    pq.write_table(table, second)
    one, other = open_dataset(first), open_dataset(second)
    assert content(one) == content(other)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(open_dataset(first))
    assert fingerprint(one) != fingerprint(one.take(torch.tensor([1, 0])))


def test_evidence_that_does_not_fit_is_refused() -> None:
    x = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    plain: dict[str, Any] = {
        "name": "a",
        "x": x,
        "y": torch.tensor([0, 1]),
        "class_names": ("p", "q"),
        "ids": ("1", "2"),
    }
    with pytest.raises(DataError, match="evidence for 3"):
        Dataset(**plain, evidence=none_of(3))
    with pytest.raises(DataError, match="outlines of"):
        Dataset(**plain, evidence=Evidence(boxes=none_of(2).boxes, outlines=torch.zeros(2, 4, 5, dtype=torch.bool)))


# -- COCO ----------------------------------------------------------------------------------------------------


def coco(root: Path, annotations: list[dict[str, Any]], pixels: np.ndarray, where: str = "val2017") -> Path:
    """A folder with one picture, number 7, and these annotations of it."""
    document = {
        "images": [{"id": 7, "file_name": "7.png", "height": pixels.shape[0], "width": pixels.shape[1]}],
        "annotations": [{"id": i, "image_id": 7, "iscrowd": 0, **each} for i, each in enumerate(annotations)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (root / where).mkdir(parents=True)
    (root / where / "7.png").write_bytes(png(pixels))
    (root / "annotations").mkdir()
    (root / "annotations" / f"instances_{where}.json").write_text(json.dumps(document))
    return root


def test_coco_has_boxes_and_outlines_of_the_class_in_the_cut(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    runs = [10 * 40 + 10, 3, 37, 3, 40 * 60 - 10 * 40 - 53]  # two columns of three pixels, from (10, 10)
    annotations = [
        {"category_id": 1, "bbox": [8.0, 8.0, 12.0, 12.0], "segmentation": {"counts": runs, "size": [40, 60]}},
        {"category_id": 1, "bbox": [14.0, 14.0, 4.0, 4.0], "segmentation": [[14.0, 14.0, 18, 14, 18, 18, 14, 18]]},
        {"category_id": 3, "bbox": [8.0, 8.0, 4.0, 4.0], "segmentation": [[8.0, 8, 12, 8, 12, 12]]},
        {
            "category_id": 1,
            "bbox": [9.0, 9.0, 2.0, 2.0],
            "iscrowd": 1,
            "segmentation": {"counts": [2400], "size": [40, 60]},
        },
        {"category_id": 1, "bbox": [40.0, 20.0, 8.0, 8.0], "segmentation": {"counts": "broken", "size": [40, 60]}},
    ]
    root = coco(tmp_path, annotations, pixels)
    data = open_dataset(f"coco:root={root},side=12,edge=12")
    assert data.ids == ("7/0", "7/1", "7/2", "7/4")
    assert data.evidence is not None
    assert data.evidence.outlines is not None
    first = data.evidence
    assert first.boxes[0].tolist() == [[0, 0, 11, 11], [6, 6, 9, 9]]  # its own, and the other dog's; no crowd, no cat
    expected = np.zeros((12, 12), dtype=bool)
    expected[2:5, 2:4] = True
    expected[6:10, 6:10] = True
    assert np.array_equal(first.mask(0, (12, 12)), expected)
    assert first.boxes[1].tolist() == [[0, 0, 11, 11]]  # of the large box less than half is left in the small one's cut
    assert first.mask(1, (12, 12)).all()
    assert first.outlines is not None
    assert not first.outlines[3].any()
    assert first.mask(3, (12, 12)).all()  # its outline cannot be read: the box
    assert "1 outlines cannot be read; their boxes are used instead" in data.notes
    bare = open_dataset(f"coco:root={root},side=12,edge=12,outlines=false")
    assert bare.evidence is not None
    assert bare.evidence.outlines is None
    assert torch.equal(bare.x, data.x)
    half = open_dataset(f"coco:root={root},side=12,edge=12", size=6)
    assert half.evidence is not None
    assert half.evidence.boxes[0].tolist() == [[0, 0, 5, 5], [3, 3, 4, 4]]


def test_a_crowd_has_no_evidence_of_its_own(tmp_path: Path) -> None:
    crowd = {"category_id": 1, "bbox": [0.0, 0, 10, 10], "iscrowd": 1}
    data = open_dataset(f"coco:root={coco(tmp_path, [crowd], np.zeros((20, 20, 3), np.uint8))},crowd=true")
    assert data.evidence is not None
    assert not data.evidence.located.any()


@pytest.mark.parametrize("file_name", ["7.png", "valid/7.png"])
def test_coco_as_other_tools_write_it(tmp_path: Path, file_name: str) -> None:
    """A file beside its pictures, names that begin with the folder, and whole numbers that have become floats."""
    document = {
        "images": [{"id": 7.0, "file_name": file_name, "height": 20.0, "width": 20.0}],
        "annotations": [{"id": 1.0, "image_id": 7.0, "category_id": 1.0, "bbox": [0, 0, 10, 10], "iscrowd": 0.0}],
        "categories": [{"id": 0, "name": "animals"}, {"id": 1.0, "name": "dog"}],
    }
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "7.png").write_bytes(png(np.zeros((20, 20, 3), np.uint8)))
    (tmp_path / "valid" / "_annotations.coco.json").write_text(json.dumps(document))
    data = open_dataset(tmp_path, split="valid")
    assert (data.ids, data.class_names, data.y.tolist()) == (("7/1",), ("animals", "dog"), [1])
    assert open_dataset(tmp_path / "valid").ids == ("7/1",)


# -- what else is in the picture -----------------------------------------------------------------------------


def test_the_share_and_what_is_beside_a_thing_are_of_what_was_cut_out() -> None:
    window = Window.centred((8, 16), (8, 8))  # the columns 4 to 11
    thing, inside, outside = ((4, 0, 7, 1), (9, 3, 10, 4), (0, 0, 5, 5))
    other = [Region(box=region(box).box, other=True) for box in (inside, outside)]
    evidence, notes = placed([[region(thing), other[0]], [region(thing), other[1]]], [window] * 2, others=True)
    assert evidence.distractor is not None
    assert evidence.share is not None
    assert evidence.distractor.tolist() == [True, False], "less than half of the second is in the picture"
    assert evidence.share.tolist() == [8 / 64] * 2
    assert evidence.boxes[0].tolist() == [[0, 0, 3, 1]], "things of other classes are no evidence"
    assert evidence.picture is None
    assert not notes
    silent, _ = placed([[region(thing)]], [window])
    assert silent.distractor is None, "a source that does not tell of others says nothing"
    some = evidence.take([1, 0, 0])
    assert some.distractor is not None
    assert some.share is not None
    assert some.distractor.tolist() == [False, True, True]
    assert len({each.digest for each in (evidence, evidence.take([1, 0]), silent)}) == 3


@given(st.tuples(sides, sides), st.integers(1, 24), st.data())
def test_a_letterbox_holds_the_whole_picture_and_nothing_beside_it_is_evidence(of: Any, side: int, data: Any) -> None:
    window = Window.letterbox(of, side)
    height, width = (max(round(side * each / max(of)), 1) for each in of)
    huge = [Region(box=(-9, -9, 99, 99), outline=polygons([np.array([[-9, -9], [99, -9], [99, 99], [-9, 99]])]))]
    evidence, _ = placed([huge], [window])
    rows, columns = evidence.mask(0, (side, side)).numpy().nonzero()
    assert (len(set(rows)), len(set(columns)), len(rows)) == (height, width, height * width)
    assert abs((rows.min() + rows.max()) - (side - 1)) <= 1
    assert abs((columns.min() + columns.max()) - (side - 1)) <= 1, "in the middle"
    assert evidence.share is not None
    assert evidence.share.tolist() == [1]
    assert window.sampled(np.ones(of, dtype=bool)).sum() == height * width
    whole = data.draw(st.tuples(st.integers(0, of[1] - 1), st.integers(0, of[0] - 1)))
    (point,) = window.moved(np.array([whole], dtype=float) + 0.5)
    assert columns.min() <= point[0] <= columns.max() + 1
    assert rows.min() <= point[1] <= rows.max() + 1


def test_joined_sets_say_of_each_what_it_said() -> None:
    square, wide = Window.centred((4, 4), (4, 4)), Window.letterbox((2, 4), 4)
    plain = [region((0, 0, 1, 1))]
    first, second = placed([plain], [square], others=True)[0], placed([plain], [wide], others=True)[0]
    from advex.data import evidence as module

    joined = module.concatenate([first, second], (4, 4))
    assert joined.picture is not None
    assert joined.share is not None
    assert joined.picture.tolist() == [[0, 0, 3, 3], [0, 1, 3, 2]]
    assert joined.share.tolist() == [4 / 16, 4 / 8]
    assert module.concatenate([first, placed([plain], [square])[0]], (4, 4)).distractor is None


def test_coco_tells_of_other_classes_and_believes_no_box_beyond_its_picture(tmp_path: Path) -> None:
    dog, near, far = [8.0, 8.0, 12.0, 12.0], [10.0, 10.0, 4.0, 4.0], [40.0, 20.0, 8.0, 8.0]
    annotations = [
        {"category_id": 1, "bbox": dog},
        {"category_id": 1, "bbox": far},
        {"category_id": 3, "bbox": near, "segmentation": [[10.0, 10, 14, 10]]},  # two points are no outline
        {"category_id": 1, "bbox": [15.0, 10.0, 99.0, 4.0]},
        {"category_id": 1, "bbox": [42.0, 22.0, 4.0, 4.0], "segmentation": [[30.0, 10, 90, 10, 90, 70, 30, 70]]},
    ]
    root = coco(tmp_path, annotations, np.zeros((40, 60, 3), np.uint8))
    data = open_dataset(f"coco:root={root},side=12,edge=12")
    assert data.ids == ("7/0", "7/1", "7/2", "7/4")
    assert data.evidence is not None
    assert data.evidence.distractor is not None
    assert data.evidence.distractor.tolist() == [True, False, False, False], (
        "of the dog's box not half lies in the cat's"
    )
    assert data.evidence.boxes[0].tolist() == [[0, 0, 11, 11]], "not the one that is skipped itself"
    assert data.evidence.mask(3, (12, 12)).all(), "an outline beyond the picture ends at its edge"
    assert data.evidence.share is not None
    assert data.evidence.share.tolist() == [1, 1, 1, 1]


def test_where_evidence_is_lacking_every_data_set_that_has_some_is_named() -> None:
    for name, entry in registry.entries("dataset").items():
        source = Path(inspect.getfile(entry.make)).read_text(encoding="utf-8")
        if "evidence" in source or name == "photos-sample":  # whose file has boxes
            assert re.search(rf"\b{name}\b", LOCATED), name
