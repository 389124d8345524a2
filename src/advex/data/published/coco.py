"""COCO as a problem of classification: each annotated box is an example (Woods et al. 2019, Sec. III-I3).

The paper cuts out "the bounding box of each annotated object"; to validate it scales the shorter side to 108
pixels and takes the central 96 x 96. Where it is silent, docs/loaders.md says what is done here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np

from advex.data.crops import Crop
from advex.data.dataset import counted, drawn
from advex.data.evidence import Region
from advex.data.images import decode
from advex.data.published import coco_json, pictures
from advex.data.published.coco_json import Boxes
from advex.data.source import Anew, Encoded, Header, Place, Source, Split, Unreadable, shortened
from advex.data.window import Cut, Window
from advex.errors import DataError, SpecError
from advex.registry import register

BESIDE = "_annotations.coco.json"  # as some tools write it, in the folder of the pictures
_UNLISTED = "its picture is not listed under images in the file"
Shown = Callable[[tuple[int, int]], Window]  # (height, width) of what is cut out -> what becomes the example
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Which boxes become examples, and what of them: the options of `coco`."""

    side: int
    edge: int
    margin: float
    square: bool
    crowd: bool
    min_side: int
    per_class: int
    seed: int

    def shown(self, of: tuple[int, int]) -> Window:
        """The central square of what is cut out."""
        return Window.centred(of, (self.side, self.side), self.side / self.edge)


@register("dataset", "coco", cites="Lin et al. 2014; woods2019 Sec. III-I3")
def coco(
    *,
    root: str = "",
    side: int = 96,
    edge: int = 108,
    margin: float = 0.0,
    square: bool = False,
    crowd: bool = False,
    min_side: int = 1,
    per_class: int = 0,
    outlines: bool = True,
    seed: int = 0,
) -> Source:
    """COCO's annotated boxes, one example each, in the splits of its files `instances_SPLIT.json`.

    root: the folder that holds `annotations/instances_val2017.json` and the pictures, `val2017/` or
    `images/val2017/`, or `val/_annotations.coco.json` beside them; left away, `coco` in the folder ADVEX_DATA.
    edge, side: the shorter side of what is cut out is scaled to `edge` pixels, and the central `side` x `side` is the
    example, in colour.

    margin: so much of the box's width and height is added at each side. square: the shorter side of the box is
    extended to the longer. Both end at the edge of the picture. crowd: keep the boxes around crowds.
    min_side: leave out boxes whose shorter side has fewer pixels. per_class: at most so many boxes of each
    class, drawn by `seed`, as if that were the whole set; 0: all. outlines: read those too, a byte per pixel.

    An example's evidence is all that the picture holds of its class, but for crowds and boxes that cannot be believed:
    the boxes, of which at least half lies in what is cut out, and their outlines.

    Classes are the categories by ascending id; an example's id is `image_id/annotation_id`. Boxes
    without an area, with numbers that are none, or that reach more than a pixel beyond their picture
    are skipped and named, as are those whose picture is missing, damaged or of another size than the
    file says. Raises DataError for a file that is not of this form, SpecError for impossible options.
    """
    pictures.check_cut("coco", side, edge)
    if not 0 <= margin <= 10 or min_side < 1 or per_class < 0:
        raise SpecError(
            f"coco: margin={margin}, min_side={min_side}, per_class={per_class}: margin must be a fraction "
            "from 0 to 10, min_side at least 1 pixel, and per_class 0 (all) or a number of boxes."
        )
    choice = _Choice(
        side=side,
        edge=edge,
        margin=margin,
        square=square,
        crowd=crowd,
        min_side=min_side,
        per_class=per_class,
        seed=seed,
    )
    place = pictures.folder_of("coco", root)
    files = tables(place)
    if not files:
        raise DataError(f"{place} contains no COCO annotations: expected annotations/instances_SPLIT.json there.")
    # All splits have the same classes: learn them from the file that is read most quickly.
    first = min(files, key=lambda split: files[split].stat().st_size)
    known = {first: coco_json.read(files[first], outlines=outlines)}
    class_names = known[first].class_names

    def opened(split: str) -> Split:
        boxes = known[split] if split in known else coco_json.read(files[split], outlines=outlines)
        if boxes.class_names != class_names or boxes.category_ids != known[first].category_ids:
            raise DataError(f"{files[split]} does not match {files[first]}: their categories differ.")
        return _split(boxes, _pictures(place, split, boxes.files), choice)

    return Source(
        name=place.resolve().name,
        class_names=class_names,
        splits={split: partial(opened, split) for split in files},
        root=place,
    )


@register("format", "coco")
@dataclass(frozen=True)
class COCO:
    """A folder that holds COCO's annotation files, or one of those."""

    reads: ClassVar[str] = "a folder of COCO annotations"
    order: ClassVar[int] = 30

    def find(self, place: Place) -> Source | None:
        """The boxes with the usual options."""
        return coco(root=str(place.path)) if place.path.is_dir() and tables(place.path) else None


def tables(root: Path) -> dict[str, Path]:
    """Split -> annotation file; empty where none is.

    `instances_SPLIT.json` in `root/annotations` or in root itself, or `SPLIT/_annotations.coco.json`; in root itself
    such a file has no split.
    """
    files = {path.stem.removeprefix("instances_"): path for path in sorted(root.glob("instances_*.json"))}
    files |= {path.stem.removeprefix("instances_"): path for path in sorted(root.glob("annotations/instances_*.json"))}
    if not files:
        files = {path.parent.name: path for path in sorted(root.glob(f"*/{BESIDE}"))}
    if not files and (root / BESIDE).is_file():
        files = {"": root / BESIDE}
    return {split: path for split, path in files.items() if path.is_file()}


def _pictures(root: Path, split: str, files: Sequence[str]) -> Path:
    """The folder that the files of an annotation file are named from: the first that has one of them."""
    usual = (root / split, root / "images" / split, root / "images")
    places = [place for place in (*usual, root, root.parent) if place.is_dir()]
    for place in places:
        if any((place / name).is_file() for name in files[:100]):
            return place
    if places[0] == root and split:
        raise DataError(f"{root} contains no pictures for '{split}': expected them in {usual[0]} or {usual[1]}.")
    return places[0]


# -- which boxes ---------------------------------------------------------------------------------------------


def _split(boxes: Boxes, folder: Path, choice: _Choice) -> Split:
    chosen, notes = _chosen(boxes, choice)
    picture = boxes.picture[chosen]
    # All boxes of a picture one after another: it is then decoded once.
    order = np.argsort(picture, kind="stable")
    chosen, picture = chosen[order], picture[order]

    def read(rows: Sequence[int]) -> Iterator[Encoded]:
        groups = (list(group) for _, group in itertools.groupby(rows, key=picture.__getitem__))
        return pictures.ahead(lambda group: _examples(boxes, folder, chosen[group], choice, choice.shown), groups)

    header = lru_cache(1024)(decode.header)  # of the next box in the same picture, too

    def headed(row: int) -> Header:
        number = int(picture[row])
        if number == len(boxes.files):
            raise Unreadable(_UNLISTED)
        window = _window(boxes.bbox[chosen[row]], boxes.sizes[number], choice)
        if isinstance(window, Unreadable):
            raise window
        path = folder / boxes.files[number]
        known = _read(path, boxes.sizes[number], lambda: header(path), lambda known: known.size)
        return Header(size=known.size, grey=False, stamp=(*known.stamp, *window))

    def cut(row: int, crop: Crop) -> Encoded:
        shown = crop.window if crop.shorter else choice.shown
        return _examples(boxes, folder, chosen[[row]], choice, shown)[0]

    def evidence(row: int) -> list[Region]:
        number, label = picture[row], boxes.labels[chosen[row]]
        return [
            Region(
                box=(x, y, x + across, y + down),
                outline=coco_json.outlined(boxes.outlines[each], boxes.sizes[number]),
                other=boxes.labels[each] != label,
            )
            for each in of_picture[ends[number] : ends[number + 1]]
            if not boxes.crowd[each]
            for x, y, across, down in [boxes.bbox[each]]
            if not isinstance(_window(boxes.bbox[each], boxes.sizes[number], choice), Unreadable)
        ]

    of_picture = np.argsort(boxes.picture, kind="stable")
    ends = np.searchsorted(boxes.picture[of_picture], np.arange(len(boxes.files) + 1))
    return Split(
        ids=[boxes.ids[box] for box in chosen],
        labels=boxes.labels[chosen],
        read=read,
        notes=notes,
        evidence=evidence,
        others=True,
        anew=Anew(header=headed, cut=cut),
    )


def _chosen(boxes: Boxes, choice: _Choice) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers of the boxes that become examples, and sentences about the others."""
    notes = [boxes.note] if boxes.note else []
    keep = np.ones(len(boxes.ids), dtype=bool)
    if not choice.crowd and boxes.crowd.any():
        keep &= ~boxes.crowd
        notes.append(f"{counted(int(boxes.crowd.sum()), 'box', 'boxes')} around crowds left out")
    shorter = boxes.bbox[:, 2:].min(axis=1)  # NaN for what is no box: kept, to be named as such
    small = keep & (shorter > 0) & (shorter < choice.min_side)
    if small.any():
        keep &= ~small
        notes.append(f"{counted(int(small.sum()), 'box', 'boxes')} smaller than {choice.min_side} pixels left out")
    rows = np.flatnonzero(keep)
    if not choice.per_class:
        return rows, tuple(notes)
    parts, fewer = [], []
    for label, name in enumerate(boxes.class_names):
        mine = rows[boxes.labels[rows] == label]
        parts.append(mine[drawn(len(mine), choice.per_class, choice.seed).numpy()])
        if len(mine) < choice.per_class:
            fewer.append(f"{name} {len(mine):,}")
    notes.append(f"{choice.per_class:,} boxes of each class were drawn from {len(rows):,}")
    if fewer:
        notes.append(f"{counted(len(fewer), 'class has', 'classes have')} fewer ({shortened(fewer)})")
    return np.sort(np.concatenate([rows[:0], *parts])), tuple(notes)


# -- cutting -------------------------------------------------------------------------------------------------


def _examples(boxes: Boxes, folder: Path, chosen: np.ndarray, choice: _Choice, shown: Shown) -> list[Encoded]:
    """The chosen boxes, all of one picture: what is cut out of it, or why nothing is."""
    number = int(boxes.picture[chosen[0]])
    if number == len(boxes.files):
        return [Unreadable(_UNLISTED)] * len(chosen)
    size = boxes.sizes[number]
    windows = [_window(boxes.bbox[box], size, choice) for box in chosen]
    if all(isinstance(window, Unreadable) for window in windows):
        return [*windows]  # pyright: ignore[reportReturnType]
    path = folder / boxes.files[number]
    try:
        pixels = _read(path, size, lambda: decode.pixels(path, channels=3), lambda pixels: pixels.shape[1:])
    except Unreadable as error:
        pixels = error
    return [_cut(pixels, window, shown) for window in windows]


def _read(path: Path, size: tuple[int, int], read: Callable[[], T], size_of: Callable[[T], tuple[int, ...]]) -> T:
    """A picture or its header, of the size that the annotations say. Raises Unreadable."""
    try:
        known = read()
    except Unreadable as error:
        raise Unreadable(f"its picture {path.name}: {error}") from None
    if size_of(known) != size:
        actual, expected = ("x".join(map(str, each)) for each in (size_of(known), size))
        raise Unreadable(f"its picture {path.name} is {actual} (height x width), but {expected} in the annotations")
    return known


def _window(bbox: np.ndarray, size: tuple[int, int], choice: _Choice) -> tuple[int, int, int, int] | Unreadable:
    """Left, top, right and bottom of the smallest window of whole pixels around a box [x, y, width, height]."""
    x, y, width, height = map(float, bbox)
    if not all(map(math.isfinite, (x, y, width, height))):
        return Unreadable("its bbox is not four finite numbers")
    if width <= 0 or height <= 0:
        return Unreadable(f"its box has no area: {width:g} x {height:g}")
    beyond = max(-x, -y, x + width - size[1], y + height - size[0])
    if beyond > 1:
        return Unreadable(f"its box reaches {beyond:g} pixels beyond its picture of {size[0]}x{size[1]}")
    across, down = width / 2 + choice.margin * width, height / 2 + choice.margin * height
    if choice.square:
        across = down = max(across, down)
    left, top = (max(math.floor(middle), 0) for middle in (x + width / 2 - across, y + height / 2 - down))
    right = min(math.ceil(x + width / 2 + across), size[1])
    bottom = min(math.ceil(y + height / 2 + down), size[0])
    if right <= left or bottom <= top:
        return Unreadable("its box contains no pixel of its picture")
    return left, top, right, bottom


def _cut(
    pixels: np.ndarray | Unreadable, window: tuple[int, int, int, int] | Unreadable, shown: Shown
) -> Cut | Unreadable:
    if isinstance(window, Unreadable) or isinstance(pixels, Unreadable):
        return window if isinstance(window, Unreadable) else pixels  # pyright: ignore[reportReturnType]
    left, top, right, bottom = window
    part = Window.cut(pixels.shape[1:], *window)
    example = decode.scaled(pixels[:, top:bottom, left:right], shown((bottom - top, right - left)))
    return Cut(example.pixels, part.then(example.window))
