"""ImageNet (ILSVRC 2012) as it lies on the disk: class folders by synset, and classes with readable names.

The paper's validation (Woods et al. 2019, Sec. III-I2): the shorter side scaled to 256 pixels, the central
224 x 224 cut out. A plain folder of class folders, opened with `size=224`, is scaled to 224 instead.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from advex.data.dataset import counted
from advex.data.evidence import Region
from advex.data.images import decode
from advex.data.images.boxes import region
from advex.data.published import boxes_xml, pictures
from advex.data.source import Anew, Encoded, Source, Split, Unreadable, files_below, shortened
from advex.documents import parse_json
from advex.errors import DataError
from advex.files import read_bytes
from advex.registry import register

_SPLITS = ("train", "val")
_MAPPINGS = ("LOC_synset_mapping.txt", "imagenet_class_index.json")
_SOLUTION = "LOC_val_solution.csv"
SYNSET = re.compile(r"n\d{8}")
_LARGEST = 2**26  # bytes of a table


@register("dataset", "imagenet", cites="Russakovsky et al. 2015; woods2019 Sec. III-I2")
def imagenet(*, root: str = "", side: int = 224, edge: int = 256) -> Source:
    """ILSVRC 2012 in class folders, `train/n01440764/*.JPEG` and `val/...`, with readable class names.

    root: the folder of `train` and `val`, or the one above `ILSVRC/Data/CLS-LOC`; left away, `imagenet` in the
    folder ADVEX_DATA. edge, side: a picture's shorter side is scaled to `edge` pixels, and the central
    `side` x `side` is the example, in colour.

    Classes are the synsets in ascending order: those of `LOC_synset_mapping.txt` or of
    `imagenet_class_index.json` in root, which also give the names, else those of the folders. Where two
    have one name, the synset follows it. A `val` without class folders takes its classes from
    `LOC_val_solution.csv` in root. Evidence are the boxes of a picture's class in `Annotations/CLS-LOC/SPLIT/*.xml`,
    else in `LOC_SPLIT_solution.csv`, where one of these is there: from 0, both ends inside. A picture of another size
    than its XML says is skipped and named. Raises DataError for what is not of this form, SpecError for impossible
    sizes.
    """
    pictures.check_cut("imagenet", side, edge)
    place = pictures.folder_of("imagenet", root)
    base = place / "ILSVRC" / "Data" / "CLS-LOC"
    base = base if base.is_dir() else place
    present = [split for split in _SPLITS if (base / split).is_dir()]
    if not present:
        raise DataError(f"{base} contains neither 'train' nor 'val'.")
    names = _readable(place) or _synsets([base / split for split in present])
    if not names:
        raise DataError(
            f"{base} contains no class folders such as train/n01440764, and {place} contains no "
            f"{' or '.join(_MAPPINGS)}."
        )
    index = {synset: number for number, synset in enumerate(names)}
    options = {"index": index, "side": side, "edge": edge}
    return Source(
        name=place.resolve().name,
        class_names=tuple(names.values()),
        splits={split: partial(_split, place, base, split, **options) for split in present},
        root=place,
    )


def _synsets(splits: Sequence[Path]) -> dict[str, str]:
    synsets = {path.name for split in splits for path in split.iterdir() if SYNSET.fullmatch(path.name)}
    return {synset: synset for synset in sorted(synsets)}


def _split(place: Path, base: Path, split: str, *, index: Mapping[str, int], side: int, edge: int) -> Split:
    files = files_below(base / split)
    images = [path for path in files if path.suffix.lower() in decode.SUFFIXES]
    flat = split == "val" and any(len(path.parts) == 1 for path in images)
    solution = _solution(place / _SOLUTION) if flat else {}
    synsets = [path.parts[0] if len(path.parts) > 1 else solution.get(path.stem, [""])[0] for path in images]
    kept = [number for number, synset in enumerate(synsets) if synset in index]
    lost = [str(path) for path, synset in zip(images, synsets, strict=True) if synset not in index]
    notes = [f"{counted(len(lost), 'image')} of no known class left out ({shortened(lost)})"] if lost else []
    if others := len(files) - len(images):
        notes.append(f"{counted(others, 'file')} left out because they are not image files by name")

    def file(row: int) -> Path:
        return base / split / images[kept[row]]

    def example(row: int) -> list[Encoded]:
        try:
            return [pictures.read_cut(file(row), edge=edge, side=side)]
        except Unreadable as error:
            return [error]

    def read(rows: Sequence[int]) -> Iterator[Encoded]:
        return pictures.ahead(example, rows)

    return Split(
        ids=[f"{split}/{images[number]}" for number in kept],
        labels=np.array([index[synsets[number]] for number in kept], dtype=np.int64),
        read=read,
        notes=tuple(notes),
        evidence=_evidence(place, split, [(images[number], synsets[number]) for number in kept]),
        anew=Anew(
            header=lambda row: decode.header(file(row)),
            cut=lambda row, crop: file(row) if crop.shorter else pictures.read_cut(file(row), edge=edge, side=side),
        ),
    )


# -- boxes ---------------------------------------------------------------------------------------------------


def _evidence(
    place: Path, split: str, examples: Sequence[tuple[PurePosixPath, str]]
) -> Callable[[int], Sequence[Region]] | None:
    """Row -> the boxes of its class; None where nothing says where things lie. examples: pictures and their synsets."""
    folders = [place / above / "Annotations" / "CLS-LOC" / split for above in ("ILSVRC", ".")]
    folder = next((each for each in folders if each.is_dir()), None)
    if folder is not None:
        return lambda row: _in_xml(folder, *examples[row])
    if not (table := place / f"LOC_{split}_solution.csv").is_file():
        return None
    boxes = _solution(table)

    def in_table(row: int) -> list[Region]:
        path, synset = examples[row]
        fields = boxes.get(path.stem, [])
        every = [fields[start : start + 5] for start in range(0, len(fields), 5)]
        return [region(box) for name, *box in every if name == synset]

    return in_table


def _in_xml(folder: Path, picture: PurePosixPath, synset: str) -> list[Region]:
    path = folder / synset / f"{picture.stem}.xml"
    path = path if path.is_file() else folder / f"{picture.stem}.xml"
    if not path.is_file():
        return []
    annotation = boxes_xml.read(path)
    things = [thing for thing in annotation.things if thing.name == synset]
    return [replace(region(thing.box), of=annotation.size) for thing in things]


# -- tables --------------------------------------------------------------------------------------------------


def text(path: Path) -> str:
    """Of a table of at most 64 MB. Raises DataError."""
    try:
        return read_bytes(path, _LARGEST, "such a table").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text.") from None


def _readable(place: Path) -> dict[str, str]:
    """Synset -> name, by ascending synset; empty where no table of names is there."""
    for name, parse in zip(_MAPPINGS, (_lines, _class_index), strict=True):
        if (path := place / name).is_file():
            names = parse(path, text(path))
            twice = Counter(names.values())
            return {
                synset: f"{names[synset]} ({synset})" if twice[names[synset]] > 1 else names[synset]
                for synset in sorted(names)
            }
    return {}


def _lines(path: Path, text: str) -> dict[str, str]:
    """`n01440764 tench, Tinca tinca` on each line: the first of the names is taken."""
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        synset, _, rest = line.strip().partition(" ")
        _add(names, f"{path}, line {number}", synset, rest.partition(",")[0])
    return names


def _class_index(path: Path, text: str) -> dict[str, str]:
    """`{"0": ["n01440764", "tench"], ...}`."""
    document = parse_json(text, str(path))
    names: dict[str, str] = {}
    for key, entry in document.items() if isinstance(document, dict) else [("", document)]:
        if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(each, str) for each in entry):
            raise DataError(f"{path}: '{str(key)[:20]}' is not a pair of a synset and a name.")
        _add(names, f"{path}, '{key[:20]}'", entry[0], entry[1].replace("_", " "))
    return names


def _add(names: dict[str, str], place: str, synset: str, name: str) -> None:
    name = name.strip()
    if not SYNSET.fullmatch(synset) or not name or not name.isprintable():
        raise DataError(f"{place}: expected a synset such as n01440764 and its name.")
    if synset in names:
        raise DataError(f"{place}: {synset} is listed twice.")
    names[synset] = name


def _solution(path: Path) -> dict[str, list[str]]:
    """File stem -> synset, x0, y0, x1, y1, synset, ...: below a header `ILSVRC2012_val_00048981,n03995372 85 1 ...`."""
    if not path.is_file():
        raise DataError(
            f"The pictures of 'val' are not in class folders, and {path}, which gives their classes, is missing."
        )
    boxes: dict[str, list[str]] = {}
    try:
        for row in csv.reader(text(path).splitlines(), strict=True):
            if len(row) == 2 and SYNSET.match(row[1]):
                if row[0] in boxes:
                    raise DataError(f"{path}: '{row[0][:80]}' is listed twice.")
                boxes[row[0]] = row[1].split()
    except csv.Error as error:
        raise DataError(f"{path} is damaged: {error}.") from None
    return boxes
