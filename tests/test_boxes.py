"""Boxes and outlines in people's files: VOC's XML, ImageNet's, Tiny-ImageNet's lists, columns of Parquet."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from advex.data import Dataset, open_dataset, splits
from advex.data.published import boxes_xml
from advex.data.published.tiny_imagenet import TinyImageNet
from advex.data.source import Place, Unreadable
from advex.errors import DataError, SpecError

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 from 0, both ends inside


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def lit(size: tuple[int, int], *boxes: Box, form: str = "PNG") -> bytes:
    """A black picture (height, width) with white pixels in some boxes: what it shows is where they lie."""
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0 : y1 + 1, x0 : x1 + 1] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def white(data: Dataset, i: int) -> np.ndarray:
    return data.x[i].numpy().mean(axis=0) > 192


def mask(data: Dataset, i: int) -> np.ndarray:
    assert data.evidence is not None
    return data.evidence.mask(i, (data.shape[-2], data.shape[-1])).numpy()


def reasons(data: Dataset) -> dict[str, str]:
    return {each.name: each.reason for each in data.skipped}


# -- VOC -----------------------------------------------------------------------------------------------------


def thing(name: str, box: Any, *, difficult: str = "", part: bool = False) -> str:
    """As VOC writes it: pixels count from 1. box: from 0, or four texts that are written as they are."""
    ends = [each + 1 for each in box] if all(isinstance(each, int) for each in box) else box
    sides = "".join(f"<{side}>{end}</{side}>" for side, end in zip(("xmin", "ymin", "xmax", "ymax"), ends, strict=True))
    head = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    mark = f"<difficult>{difficult}</difficult>" if difficult else ""
    parts = head * 2 if part else ""
    return f"<object><name>{name}</name><pose>Left</pose>{mark}<bndbox>{sides}</bndbox>{parts}</object>"


def annotation(size: tuple[int, int], *things: str) -> str:
    height, width = size
    shape = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2007</folder><filename>x.jpg</filename>{shape}{''.join(things)}</annotation>"


def folder(root: Path, pictures: Mapping[str, tuple[bytes, str | bytes]], split: str = "test") -> Path:
    """VOC's layout: pictures by name, each with its XML. Pictures are PNG inside, so that no pixel is blurred."""
    for name, (picture, xml) in pictures.items():
        write(root / "JPEGImages" / f"{name}.jpg", picture)
        write(root / "Annotations" / f"{name}.xml", xml)
    write(root / "ImageSets/Main" / f"{split}.txt", "".join(f"{name}\n" for name in pictures))
    return root


SIZE = (20, 20)
DOG, CAT, SECOND = (3, 2, 8, 9), (12, 11, 19, 19), (0, 15, 4, 18)


def test_each_class_of_a_picture_is_an_example_with_the_union_of_its_boxes(tmp_path: Path) -> None:
    pictures = {
        "000001": (lit(SIZE, DOG, SECOND), annotation(SIZE, thing("dog", DOG, part=True), thing("dog", SECOND))),
        "000002": (lit(SIZE, CAT), annotation(SIZE, thing("dog", DOG, difficult="0"), thing("cat", CAT))),
    }
    root = folder(tmp_path / "VOCdevkit" / "VOC2007", pictures)
    data = open_dataset(f"voc:root={tmp_path},side=20", split="test")
    assert data.ids == ("000001/dog", "000002/cat", "000002/dog")
    assert [data.class_names[k] for k in data.y.tolist()] == ["dog", "cat", "dog"]
    assert len(data.class_names) == 20
    assert np.array_equal(mask(data, 0), white(data, 0)), "from 1, both ends inside; a part's box is not its own"
    assert np.array_equal(mask(data, 1), white(data, 1))
    assert data.evidence is not None
    assert data.evidence.distractor is not None
    assert data.evidence.distractor.tolist() == [False, True, True]
    assert splits(f"voc:root={root}") == ("test",)


def test_pairs_whose_boxes_are_all_difficult_are_left_out_and_others_keep_theirs(tmp_path: Path) -> None:
    both = annotation(SIZE, thing("dog", DOG), thing("dog", SECOND, difficult="1"), thing("cat", CAT, difficult="1"))
    folder(tmp_path, {"a": (lit(SIZE, DOG, SECOND), both)})
    data = open_dataset(f"voc:root={tmp_path},side=20", split="test")
    assert data.ids == ("a/dog",)
    assert any("1 pair of picture and class left out" in note for note in data.notes)
    assert np.array_equal(mask(data, 0), white(data, 0))
    assert data.evidence is not None
    assert data.evidence.distractor is not None
    assert data.evidence.distractor.tolist() == [True], "what is difficult is there all the same"


def test_decimals_are_rounded_outwards(tmp_path: Path) -> None:
    xml = annotation(SIZE, thing("dog", ("4.70", "3.2", "8.30", "9.01")))
    folder(tmp_path, {"a": (lit(SIZE, (3, 2, 8, 9)), xml)})
    data = open_dataset(f"voc:root={tmp_path},side=20", split="test")
    assert np.array_equal(mask(data, 0), white(data, 0))


@pytest.mark.parametrize("size", [(10, 20), (20, 10), (7, 20), (20, 20)])
def test_a_letterbox_shows_all_and_its_edges_are_no_evidence(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    whole: Box = (0, 0, width - 1, height - 1)
    folder(tmp_path, {"a": (lit(size, whole), annotation(size, thing("dog", whole)))})
    data = open_dataset(f"voc:root={tmp_path},side=20,fit=letterbox", split="test")
    assert data.shape == (3, 20, 20)
    assert np.array_equal(mask(data, 0), white(data, 0))
    assert (data.x[0].permute(1, 2, 0)[~torch.from_numpy(white(data, 0))] == 128).all()
    assert data.evidence is not None
    assert data.evidence.share is not None
    assert data.evidence.share.tolist() == [1]
    assert (data.evidence.picture is None) == (size == (20, 20))
    half = open_dataset(f"voc:root={tmp_path},side=10,fit=letterbox", split="test")
    assert np.array_equal(mask(half, 0), white(half, 0))
    cut = open_dataset(f"voc:root={tmp_path},side=7", split="test")
    assert mask(cut, 0).all() == (2 * min(size) >= max(size)), "of the longest less than half is left"


HOSTILE = {
    "bomb": '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
    "external": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><folder>&x;</folder></annotation>',
    "hidden": "<!DOCTYPE annotation><annotation></annotation>".encode("utf-16"),
    "parameter": '<!DOCTYPE a SYSTEM "http://nowhere.invalid/a.dtd"><annotation/>',
    "cut off": annotation(SIZE, thing("dog", DOG))[:-20],
    "entity": "<annotation>&undefined;</annotation>",
    "other": "<html><body/></html>",
    "empty": b"",
    "bytes": b"\xff\xfe\x00\x01<annotation>",
    "encoding": b'<?xml version="1.0" encoding="no-such"?><annotation/>',
    "deep": "<annotation>" + "<a>" * 5000 + "</a>" * 5000 + "</annotation>",
    "long": annotation(SIZE, thing("dog", DOG)) + " " * 2**20,
    "no size": "<annotation>" + thing("dog", DOG) + "</annotation>",
    "size 0": annotation((0, 20), thing("dog", DOG)),
    "odd size": annotation(SIZE, thing("dog", DOG)).replace("<width>20", "<width>many"),
    "no box": annotation(SIZE, "<object><name>dog</name></object>"),
    "nan": annotation(SIZE, thing("dog", ("nan", "1", "3", "4"))),
    "words": annotation(SIZE, thing("dog", ("left", "1", "3", "4"))),
    "swapped": annotation(SIZE, thing("dog", (9, 2, 3, 9))),
    "beyond": annotation(SIZE, thing("dog", (3, 2, 21, 9))),
    "no name": annotation(SIZE, thing("", DOG)),
    "two boxes": annotation(SIZE, thing("dog", DOG).replace("<xmax>", "<xmax>3</xmax><xmax>")),
    "another size": annotation((10, 20), thing("dog", (3, 2, 8, 9))),
}


def test_what_cannot_be_believed_is_skipped_with_its_reason_and_nothing_is_expanded(tmp_path: Path) -> None:
    good = annotation(SIZE, thing("dog", DOG))
    pictures: dict[str, Any] = {name.replace(" ", "_"): (lit(SIZE, DOG), xml) for name, xml in HOSTILE.items()}
    folder(tmp_path, {"good": (lit(SIZE, DOG), good), **pictures})
    (tmp_path / "Annotations/good.xml").write_text(good)
    with (tmp_path / "ImageSets/Main/test.txt").open("a") as file:
        file.write("gone\n")
    data = open_dataset(f"voc:root={tmp_path},side=20", split="test")
    assert data.ids == ("good/dog",)
    lost = reasons(data)
    assert {name.partition("/")[0] for name in lost} == {*pictures, "gone"}
    for name in ("bomb", "external", "hidden", "parameter"):
        assert "DOCTYPE" in lost[name]
    assert not any("root:" in reason or "haha" in reason for reason in lost.values())
    words = {
        "cut_off": "not well formed", "deep": "nested", "long": "larger than", "no_size": "height", "size_0": "size of",
        "nan": "no number 'xmin'", "no_box": "no number 'xmin'", "swapped": "runs from", "beyond": "2 pixels beyond",
        "no_name": "no name", "two_boxes": "two of 'xmax'", "gone": "cannot be read", "other": "not an annotation",
    }  # fmt: skip
    for name, text in words.items():
        assert text in lost[name], (name, lost[name])
    assert "its picture is 20x20" in lost["another_size/dog"]
    assert all("\n" not in reason and len(reason) < 300 for reason in lost.values())


def test_a_list_of_pictures_as_windows_writes_it(tmp_path: Path) -> None:
    folder(tmp_path, {"one": (lit(SIZE, DOG), annotation(SIZE, thing("dog", DOG)))})
    (tmp_path / "ImageSets/Main/test.txt").write_bytes(b"\xef\xbb\xbfone\r\n")
    assert open_dataset(f"voc:root={tmp_path},side=20", split="test").ids == ("one/dog",)


def test_a_box_may_leave_its_picture_by_a_pixel_of_rounding(tmp_path: Path) -> None:
    edge = thing("dog", ("0", "1", "21", "5"))
    folder(tmp_path, {"a": (lit(SIZE, (0, 0, 19, 4)), annotation(SIZE, edge))})
    data = open_dataset(f"voc:root={tmp_path},side=20", split="test")
    assert np.array_equal(mask(data, 0), white(data, 0))


def palette(size: tuple[int, int], values: dict[Box, int]) -> bytes:
    """An outline as VOC has it: numbers of classes with a palette of colours."""
    numbers = np.zeros(size, dtype=np.uint8)
    for (x0, y0, x1, y1), value in values.items():
        numbers[y0 : y1 + 1, x0 : x1 + 1] = value
    image = Image.fromarray(numbers, mode="P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tolist())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_outlines_are_numbers_of_classes_and_void_belongs_to_nobody(tmp_path: Path) -> None:
    inner: Box = (5, 4, 6, 7)
    picture = lit(SIZE, inner), annotation(SIZE, thing("dog", DOG), thing("cat", CAT))
    root = folder(tmp_path, {"a": picture, "b": picture, "c": picture, "d": picture})
    dog, void = 12, 255  # dog is the twelfth of the twenty
    write(root / "SegmentationClass/a.png", palette(SIZE, {DOG: void, inner: dog, (0, 0, 1, 1): 8}))
    write(root / "SegmentationClass/c.png", palette((10, 10), {}))
    write(root / "SegmentationClass/d.png", lit(SIZE, inner))
    data = open_dataset(f"voc:root={tmp_path},side=20,outlines=true", split="test")
    assert data.ids == ("a/cat", "a/dog", "b/cat", "b/dog")
    assert np.array_equal(mask(data, 1), white(data, 1))
    assert mask(data, 0)[:2, :2].all(), "eight is cat"
    assert np.array_equal(mask(data, 3), mask(open_dataset(f"voc:root={tmp_path},side=20", split="test"), 1))
    assert "differs in size" in reasons(data)["c/dog"]
    assert "colours" in reasons(data)["d/dog"]
    assert open_dataset(f"voc:root={tmp_path},side=20", split="test").evidence.outlines is None  # pyright: ignore


def test_years_splits_and_other_classes(tmp_path: Path) -> None:
    for year in ("2007", "2012"):
        folder(tmp_path / f"VOC{year}", {year: (lit(SIZE, DOG), annotation(SIZE, thing("robot", DOG)))}, split="val")
    with pytest.raises(DataError, match="several years: 2007, 2012"):
        splits(f"voc:root={tmp_path}")
    with pytest.raises(DataError, match="no year 2008"):
        splits(f"voc:root={tmp_path},year=2008")
    data = open_dataset(f"voc:root={tmp_path},year=2012", split="val")
    assert (data.ids, data.class_names, data.shape) == (("2012/robot",), ("robot",), (3, 224, 224))
    write(tmp_path / "VOC2012/ImageSets/Main/val.txt", "../2007\n")
    with pytest.raises(DataError, match="not the name of a picture"):
        splits(f"voc:root={tmp_path},year=2012")
    with pytest.raises(SpecError):
        splits(f"voc:root={tmp_path},fit=squash")
    with pytest.raises(DataError, match="no folder 'Annotations'"):
        splits(f"voc:root={write(tmp_path / 'empty/x', '').parent}")


def test_xml_is_read_as_text_of_direct_children(tmp_path: Path) -> None:
    """Line breaks, attributes, comments, character entities and a BOM are what XML allows without a DOCTYPE."""
    xml = '\ufeff<?xml version="1.0"?><!-- a --><annotation verified="no">'
    xml += "<size><height> 20 </height><width>20</width></size>"
    xml += "<object><name>b&amp;w &#100;og</name><bndbox>\n<ymin>3</ymin><xmin>4</xmin><xmax>9</xmax><ymax>10</ymax>\n"
    made = boxes_xml.read(write(tmp_path / "a.xml", xml + "</bndbox></object></annotation>"))
    assert made.size == (20, 20)
    (one,) = made.things
    assert (one.name, one.box, one.difficult) == ("b&w dog", (4, 3, 9, 10), False)
    with pytest.raises(Unreadable, match="cannot be read"):
        boxes_xml.read(tmp_path / "none.xml")


# -- ImageNet ------------------------------------------------------------------------------------------------

TENCH, CRANE = "n01440764", "n02012849"


def imagenet(root: Path, boxes: dict[str, list[Box]]) -> Path:
    for name, some in boxes.items():
        write(root / "val" / TENCH / f"{name}.JPEG", lit((40, 40), *some))
    write(root / "train" / CRANE / "x.JPEG", lit((40, 40)))
    return root


def test_imagenets_boxes_are_read_from_xml_and_from_its_table(tmp_path: Path) -> None:
    boxes = {"a_1": [(4, 6, 20, 30)], "a_2": [(0, 0, 9, 9), (30, 5, 39, 39)], "a_3": [(0, 0, 39, 39)]}
    spec = f"imagenet:root={imagenet(tmp_path, boxes)},side=40,edge=40"
    assert open_dataset(spec, split="val").evidence is None
    lines = [
        f"{name},{' '.join(f'{TENCH} {x0} {y0} {x1} {y1}' for x0, y0, x1, y1 in some)} "
        for name, some in boxes.items()
        if name != "a_3"
    ]
    table = "ImageId,PredictionString\n" + "\n".join(lines)
    write(tmp_path / "LOC_val_solution.csv", table.replace("30 5 39 39", "30 5 40 40"))
    data = open_dataset(spec, split="val")
    assert data.evidence is not None
    assert [len(each) for each in data.evidence.boxes] == [1, 2, 0], "of the third the table says nothing"
    assert all(np.array_equal(mask(data, i), white(data, i)) for i in (0, 1)), "from 0; the edge is clipped"
    xml = annotation((40, 40), thing(TENCH, ("4", "6", "20", "30")), thing(CRANE, ("0", "0", "5", "5")))
    write(tmp_path / "Annotations/CLS-LOC/val/a_1.xml", xml)  # its file name has no ending, as published
    smaller = annotation((20, 20), thing(TENCH, ("1", "1", "2", "2")))
    write(tmp_path / f"Annotations/CLS-LOC/val/{TENCH}/a_2.xml", smaller)
    write(tmp_path / "Annotations/CLS-LOC/val/a_3.xml", HOSTILE["bomb"])
    data = open_dataset(spec, split="val")
    assert np.array_equal(mask(data, 0), white(data, 0)), "boxes of its own class alone"
    lost = reasons(data)
    assert "for a picture of 20x20, but the picture is 40x40" in lost[f"val/{TENCH}/a_2.JPEG"]
    assert "DOCTYPE" in lost[f"val/{TENCH}/a_3.JPEG"]


def test_imagenets_boxes_follow_the_cut(tmp_path: Path) -> None:
    write(tmp_path / "val" / TENCH / "a.JPEG", lit((40, 80), (30, 10, 49, 29)))
    write(tmp_path / "val" / CRANE / "b.JPEG", lit((40, 80), (0, 0, 9, 9)))
    table = f"ImageId,PredictionString\na,{TENCH} 30 10 49 29\nb,{CRANE} 0 0 9 9\n"
    write(tmp_path / "LOC_val_solution.csv", table)
    data = open_dataset(f"imagenet:root={tmp_path},side=20,edge=20", split="val")
    assert data.evidence is not None
    assert [each.tolist() for each in data.evidence.boxes] == [[[5, 5, 14, 14]], []]
    assert (mask(data, 0) != white(data, 0)).sum() == 0


# -- Tiny-ImageNet -------------------------------------------------------------------------------------------


def tiny(root: Path) -> Path:
    write(root / "wnids.txt", f"{CRANE}\n{TENCH}\n")
    write(root / "words.txt", f"{TENCH}\ttench, Tinca tinca\n{CRANE}\tcrane\nn00000001\tentity\n")
    for number, synset in enumerate((TENCH, CRANE)):
        lines = []
        for k, box in enumerate([(0, 10, 63, 40), (number, 5, 20, 6)]):
            name = f"{synset}_{k}.JPEG"
            write(root / "train" / synset / "images" / name, lit((64, 64), box))
            lines.append("\t".join(map(str, (name, *box))))
        write(root / "train" / synset / f"{synset}_boxes.txt", "\n".join(lines) + "\n")
    grey = io.BytesIO()
    Image.fromarray(np.full((64, 64), 7, dtype=np.uint8)).save(grey, "JPEG")
    write(root / "val/images/val_0.JPEG", lit((64, 64), (1, 2, 30, 40)))
    write(root / "val/images/val_1.JPEG", grey.getvalue())
    write(root / "val/val_annotations.txt", f"val_1.JPEG\t{TENCH}\t0\t0\t63\t63\nval_0.JPEG\t{CRANE}\t1\t2\t30\t40\n")
    write(root / "test/images/test_0.JPEG", lit((64, 64)))
    return root


def test_tiny_imagenet_is_read_as_it_is_published(tmp_path: Path) -> None:
    root = tiny(tmp_path / "tiny-imagenet-200")
    assert splits(root) == splits(f"tiny-imagenet:root={root}") == ("train", "val")
    train, val = (open_dataset(root, split=split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("tench", "crane")
    assert (train.y.tolist(), val.y.tolist()) == ([0, 0, 1, 1], [0, 1])
    assert train.ids[0] == f"train/{TENCH}/images/{TENCH}_0.JPEG"
    assert val.ids == ("val/images/val_1.JPEG", "val/images/val_0.JPEG")
    assert val.shape == (3, 64, 64), "a grey picture among colour"
    assert all(np.array_equal(mask(train, i), white(train, i)) for i in range(4)), "from 0, both ends inside"
    assert mask(val, 0).all()
    assert np.array_equal(mask(val, 1), white(val, 1))


def test_tiny_imagenet_with_rows_that_are_wrong(tmp_path: Path) -> None:
    root = tiny(tmp_path)
    boxes = root / "train" / TENCH / f"{TENCH}_boxes.txt"
    write(boxes, f"{TENCH}_0.JPEG\t0\t10\t66\t40\n")
    data = open_dataset(f"tiny-imagenet:root={root}", split="train")
    lost = reasons(data)
    assert "3 pixels beyond" in lost[f"train/{TENCH}/images/{TENCH}_0.JPEG"]
    assert "no box in the table" in lost[f"train/{TENCH}/images/{TENCH}_1.JPEG"]
    short, elsewhere = f"{TENCH}_0.JPEG\t0\t10\n", "../../x\t0\t1\t2\t3\n"
    for text, words in ((short, "line 1: expected 5 columns"), (elsewhere, "not a file name")):
        write(boxes, text)
        with pytest.raises(DataError, match=words):
            open_dataset(f"tiny-imagenet:root={root}", split="train")
    assert TinyImageNet().find(Place(tmp_path / "train")) is None
    table = root / "val/val_annotations.txt"
    write(table, table.read_text() + f"val_1.JPEG\t{CRANE}\t0\t0\t5\t5\n")
    with pytest.raises(DataError, match=r"'?val_1.JPEG'? has two classes"):
        open_dataset(f"tiny-imagenet:root={root}", split="val")
    write(root / "wnids.txt", "tench\n")
    with pytest.raises(DataError, match="not a synset"):
        splits(f"tiny-imagenet:root={root}")


# -- columns of Parquet --------------------------------------------------------------------------------------

PLACES: list[Box] = [(3, 2, 7, 8), (2, 0, 13, 11), (8, 8, 10, 10)]


def parquet(path: Path, column: str, values: list[Any], kind: pa.DataType | None = None) -> Path:
    pictures = [{"bytes": lit((12, 16), box), "path": f"{i}.png"} for i, box in enumerate(PLACES)]
    columns = {"image": pa.array(pictures), "label": pa.array([0, 1, 0]), column: pa.array(values, kind)}
    pq.write_table(pa.table(columns), path)
    return path


def sized(box: Box) -> list[int]:
    return [box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1]


@pytest.mark.parametrize(
    ("column", "values", "options"),
    [
        ("where", [list(box) for box in PLACES], "boxes=where"),
        ("where", [sized(box) for box in PLACES], "boxes=where,order=xywh"),
        ("bbox", [sized(box) for box in PLACES], "order=xywh"),
        ("objects", [{"bbox": [sized(box)], "id": [1]} for box in PLACES], "boxes=objects.bbox,order=xywh"),
        ("objects", [[{"bbox": list(box), "id": 1}] for box in PLACES], "boxes=objects.bbox"),
        ("thing", [{"box": list(box)} for box in PLACES], "boxes=thing.box"),
    ],
)
def test_boxes_of_any_column_in_the_order_that_is_said(
    tmp_path: Path, column: str, values: list[Any], options: str
) -> None:
    path = parquet(tmp_path / "a.parquet", column, values)
    for root in (path, tmp_path):
        data = open_dataset(f"parquet:root={root},{options}")
        assert all(np.array_equal(mask(data, i), white(data, i)) for i in range(3))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([9.0, 2, 3, 9], "no area"), ([1.0, 2, 3, 4, 5], "four finite numbers"),
        ([1.0, 2, float("nan"), 4], "four finite"),
        ([0.0, 0, 17, 5], "2 pixels beyond"), ([-3.0, 0, 4, 5], "3 pixels beyond"), ([1.0, 2], "four finite numbers"),
    ],
)  # fmt: skip
def test_a_row_whose_box_is_wrong_is_skipped_where_the_order_is_said(
    tmp_path: Path, wrong: list[float], words: str
) -> None:
    values = [list(map(float, PLACES[0])), wrong, None]
    path = parquet(tmp_path / "a.parquet", "where", values, pa.list_(pa.float64()))
    data = open_dataset(f"parquet:root={path},boxes=where")
    assert data.ids == ("0.png", "2.png")
    assert words in reasons(data)["1.png"]
    assert data.evidence is not None
    assert data.evidence.located.tolist() == [True, False]


@pytest.mark.parametrize(
    "wrong", [[1.0, 2, float("nan"), 4], [1.0, 2, 3, 4, 5], [math.inf, 0, 3, 4], [1.0, 2, 3, None]]
)
def test_what_is_no_box_says_nothing_of_the_order(tmp_path: Path, wrong: list[float]) -> None:
    """Its row alone is skipped; a box with its ends exchanged makes all of them doubtful."""
    values = [list(map(float, PLACES[0])), wrong, None]
    path = parquet(tmp_path / "a.parquet", "bbox", values, pa.list_(pa.float64()))
    data = open_dataset(path)
    assert data.ids == ("0.png", "2.png")
    assert "four finite numbers" in reasons(data)["1.png"]
    parquet(path, "bbox", [values[0], [9.0, 2, 3, 9], None], pa.list_(pa.float64()))
    with pytest.raises(DataError, match="If these are x, y, width, height, say so"):
        open_dataset(path)


def test_a_column_of_another_kind_is_no_silent_lack_of_boxes(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", "bbox", ["1 2 3 4"] * 3)
    data = open_dataset(path)
    assert data.evidence is None
    assert "'bbox' is string, which holds no boxes: it is not read" in data.notes
    path = parquet(tmp_path / "b.parquet", "bbox", [dict(zip(("x0", "y0", "x1", "y1"), PLACES[0], strict=True))] * 3)
    with pytest.raises(DataError, match="expected four finite numbers, not .*x0"):
        open_dataset(path)


def test_columns_and_orders_that_are_not_there(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", "where", [list(box) for box in PLACES])
    with pytest.raises(DataError, match=r"no column 'box' with boxes\. Its columns: image .*, label \(int64\), where"):
        splits(f"parquet:root={path},boxes=box")
    with pytest.raises(DataError, match=r"no column 'image\.box'"):
        splits(f"parquet:root={path},boxes=image.box")
    with pytest.raises(SpecError, match="'xyxy' or 'xywh'"):
        splits(f"parquet:root={path},boxes=where,order=yxyx")
    zero = [[3, 2, 0, 4]] + [sized(box) for box in PLACES[1:]]
    path = parquet(tmp_path / "b.parquet", "where", zero)
    assert "no area" in reasons(open_dataset(f"parquet:root={path},boxes=where,order=xywh"))["0.png"]
