"""Pascal VOC as it lies on the disk: of each picture, each of its classes is an example (the pointing game)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from advex.data.dataset import Skipped, counted
from advex.data.evidence import Region
from advex.data.images import decode
from advex.data.published import boxes_xml, pictures
from advex.data.published.boxes_xml import Annotation, Thing
from advex.data.source import Encoded, Source, Split, Unreadable
from advex.data.window import Cut, Window
from advex.errors import DataError, SpecError, did_you_mean
from advex.files import read_bytes
from advex.registry import register

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = ("train", "val", "trainval", "test")
_GREY = 128  # of the letterbox
Fit = Literal["cut", "letterbox"]


@register("dataset", "voc", cites="Everingham et al. 2010; fong2019 (the pointing game)", examples=("fit=letterbox",))
def voc(*, root: str = "", year: str | int = "", side: int = 224, fit: Fit = "cut", outlines: bool = False) -> Source:
    """Pascal VOC: an example for each picture and each class that it holds, in the splits of `ImageSets/Main`.

    root: the folder of `Annotations`, `ImageSets` and `JPEGImages`, or one that holds `VOC2007` and the like; left
    away, `voc` in the folder ADVEX_DATA. year: which of several. side: of the example, in colour. fit: cut scales the
    shorter side and cuts the centre out, letterbox the longer and leaves grey about the picture, which is never
    evidence and never pointed at. outlines: those of `SegmentationClass` too, where a picture has them.

    Evidence of an example are the boxes of its class, those marked difficult too; a thing of another class is a
    distractor. Where all its boxes are difficult it is left out, and counted. An example's id is `000001/dog`. Classes
    are VOC's twenty, or of other data in this form those of their objects. A picture whose XML cannot be read or
    believed is skipped and named. Raises DataError for what is not of this form, SpecError for impossible options.
    """
    if side < 1:
        raise SpecError(f"voc: side={side}: the side of a picture must be at least 1 pixel.")
    place = _year(pictures.folder_of("voc", root), str(year))
    lists = {split: place / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    lists = {split: path for split, path in lists.items() if path.is_file()}
    if not lists:
        raise DataError(f"{place} has no list of its pictures: ImageSets/Main/train.txt, val.txt or test.txt.")
    files = _Files(place, outlines)
    names = {split: _ids(path) for split, path in lists.items()}
    for name in {name for some in names.values() for name in some}:
        files.read(name)
    seen = {thing.name for each in files.annotations.values() for thing in each.things}
    classes = CLASSES if seen <= set(CLASSES) else tuple(sorted(seen))
    if not seen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(files.lost.items())[:3])
        raise DataError(f"{place} contains no objects. {reasons}".rstrip())
    splits = {split: partial(_split, files, some, classes, side, fit) for split, some in names.items()}
    return Source(name=place.resolve().name, class_names=classes, splits=splits, indivisible=True, root=place)


def _year(root: Path, year: str) -> Path:
    """The folder of one year. Raises DataError."""
    root = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
    if (root / "Annotations").is_dir() and not year:
        return root
    years = sorted(path.name.removeprefix("VOC") for path in root.glob("VOC*") if (path / "Annotations").is_dir())
    if not year and len(years) == 1:
        year = years[0]
    if year not in years:
        if not years:
            raise DataError(f"{root} has no folder 'Annotations', and no subfolder such as VOC2007 that has one.")
        what = f"no year {year}: {did_you_mean(year, years)}" if year else f"several years: {', '.join(years)}."
        raise DataError(f"{root} has {what} Choose one: voc:year={years[0]}.")
    return root / f"VOC{year}"


def _ids(path: Path) -> list[str]:
    try:
        lines = read_bytes(path, boxes_xml.LARGEST, "a list of pictures").decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text.") from None
    names = [line.split()[0] for line in lines if line.strip()]
    for name in names:
        if "/" in name or "\\" in name or name.startswith(".") or not name.isprintable():
            raise DataError(f"{path} lists {name[:40]!r}, which is not the name of a picture.")
    return list(dict.fromkeys(names))


class _Files:
    """The annotations of a folder by picture, each read once; `lost`: why one cannot be."""

    def __init__(self, place: Path, outlines: bool) -> None:
        self.place, self.outlines = place, outlines
        self.annotations: dict[str, Annotation] = {}
        self.lost: dict[str, str] = {}

    def read(self, name: str) -> None:
        try:
            annotation = boxes_xml.read(self.place / "Annotations" / f"{name}.xml")
            for thing in annotation.things:
                if (beyond := region(thing).beyond(annotation.size)) > 1:
                    raise Unreadable(f"a box of '{thing.name}' reaches {beyond:g} pixels beyond its picture")
            self.annotations[name] = annotation
        except Unreadable as error:
            self.lost[name] = str(error)

    def picture(self, name: str) -> np.ndarray:
        """[3, height, width] uint8. Raises Unreadable; so it does for one of another size than its XML says."""
        pixels = decode.pixels(self.place / "JPEGImages" / f"{name}.jpg", channels=3)
        if pixels.shape[1:] != self.annotations[name].size:
            actual, said = ("x".join(map(str, each)) for each in (pixels.shape[1:], self.annotations[name].size))
            raise Unreadable(f"its picture is {actual} (height x width), but {said} in its XML")
        return pixels

    @cached_property
    def outlined(self) -> frozenset[str]:
        """The pictures that have outlines."""
        return frozenset(path.stem for path in (self.place / "SegmentationClass").glob("*.png") if self.outlines)

    def classes(self, name: str) -> np.ndarray:
        """[height, width] of a picture: 1 and more for the twenty classes, 0 for what is none, 255 for what is void.

        Colours are those of a palette: its numbers are read, not its colours. Raises Unreadable.
        """
        path = self.place / "SegmentationClass" / f"{name}.png"
        try:
            with Image.open(path, formats=("PNG",)) as image:
                if image.mode not in ("P", "L"):
                    raise Unreadable(f"its outline {path.name} has colours instead of classes ({image.mode})")
                if image.size[::-1] != self.annotations[name].size:
                    raise Unreadable(f"its outline {path.name} differs in size from its picture")
                return np.asarray(image)
        except (OSError, ValueError, SyntaxError):
            raise Unreadable(f"its outline {path.name} is damaged") from None


def region(thing: Thing) -> Region:
    """VOC's pixels count from 1, and both ends are inside; some files hold decimals."""
    x0, y0, x1, y1 = thing.box
    return Region(box=(math.floor(x0) - 1, math.floor(y0) - 1, math.ceil(x1), math.ceil(y1)))


@dataclass(frozen=True)
class _Pair:
    name: str
    label: int


def _split(files: _Files, names: Sequence[str], classes: Sequence[str], side: int, fit: Fit) -> Split:
    pairs: list[_Pair] = []
    difficult = 0
    for name in names:
        things = files.annotations[name].things if name in files.annotations else ()
        for label, of in enumerate(classes):
            mine = [thing for thing in things if thing.name == of]
            if mine and all(thing.difficult for thing in mine):
                difficult += 1
            elif mine:
                pairs.append(_Pair(name, label))

    def read(rows: Sequence[int]) -> Iterator[Encoded]:
        groups = (list(group) for _, group in itertools.groupby(rows, key=lambda row: pairs[row].name))
        return pictures.ahead(lambda group: _examples(files, pairs[group[0]].name, len(group), side, fit), groups)

    def evidence(row: int) -> list[Region]:
        pair, of = pairs[row], classes[pairs[row].label]
        annotation = files.annotations[pair.name]
        known = pair.name in files.outlined and of in CLASSES
        mask = files.classes(pair.name) == CLASSES.index(of) + 1 if known else np.zeros(1, dtype=bool)
        outline = (lambda window: window.sampled(mask)) if mask.any() else None
        return [
            Region(box=region(thing).box, other=thing.name != of, outline=outline if thing.name == of else None)
            for thing in annotation.things
        ]

    note = f"{counted(difficult, 'pair')} of picture and class left out, because all their boxes are difficult"
    return Split(
        ids=[f"{pair.name}/{classes[pair.label]}" for pair in pairs],
        labels=np.array([pair.label for pair in pairs], dtype=np.int64),
        read=read,
        notes=(note,) if difficult else (),
        evidence=evidence,
        others=True,
        lost=tuple(Skipped(name, files.lost[name]) for name in names if name in files.lost),
    )


def _examples(files: _Files, name: str, count: int, side: int, fit: Fit) -> list[Encoded]:
    """A picture, cut or boxed, as often as it has classes that are wanted; or why there is none."""
    try:
        pixels = files.picture(name)
    except Unreadable as error:
        return [error] * count
    if fit == "cut":
        return [pictures.cut(pixels, edge=side, side=side)] * count
    window = Window.letterbox(pixels.shape[1:], side)
    (left, top), (right, bottom) = np.rint(window.moved(np.array([[0, 0], pixels.shape[:0:-1]]))).astype(int).tolist()
    whole = Window(of=pixels.shape[1:], left=0, top=0, right=pixels.shape[2], bottom=pixels.shape[1],
                   size=(bottom - top, right - left))  # fmt: skip
    boxed = np.full((3, side, side), _GREY, dtype=np.uint8)
    boxed[:, top:bottom, left:right] = decode.scaled(pixels, whole).pixels
    return [Cut(boxed, window)] * count
