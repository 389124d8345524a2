"""COCO's annotation files: JSON that is checked in every part before anything is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, NoReturn

import numpy as np

from advex.data.evidence import polygons
from advex.data.source import shortened
from advex.data.window import Window
from advex.errors import DataError, quoted
from advex.files import check_file

LARGEST = 2**31  # bytes of a file: the largest published one has 450 MB
# All else is dropped while the file is parsed, and outlines are packed.
_KEPT = frozenset(
    ("images", "annotations", "categories", "id", "image_id", "category_id", "bbox", "iscrowd", "file_name")
    + ("width", "height", "name")
)
_OUTLINES = frozenset(("segmentation", "counts", "size"))


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """An annotation file: m pictures and n boxes.

    class_names, category_ids: by ascending category id. files: [m] relative to the folder of the pictures.
    sizes: [m] (height, width). ids: [n] "image_id/annotation_id". labels: [n] int64, -1 for a category
    that is not listed. picture: [n] int64 into files, m for one that is not listed. bbox: [n, 4] float64,
    (x, y, width, height), NaN where it is not four finite numbers. crowd: [n] bool. outlines: [n] polygons, each [m, 2]
    float32 (x, y), or the runs of a mask, still encoded; None where there is none, or nobody asked. note: what else was
    met.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    files: list[str]
    sizes: list[tuple[int, int]]
    ids: list[str]
    labels: np.ndarray
    picture: np.ndarray
    bbox: np.ndarray
    crowd: np.ndarray
    outlines: list[Outline]
    note: str = ""


Outline = tuple[np.ndarray, ...] | dict[str, Any] | None


def read(path: Path, *, outlines: bool = False, largest: int = LARGEST) -> Boxes:
    """The boxes of an `instances_*.json`. outlines: those too. largest: bytes that the file may have.

    A file whose lists, ids or names are wrong is refused, with the entry: nothing in it can be trusted.
    What is wrong with one box alone is left to the reader of that box. Raises DataError.
    """
    document = _document(path, outlines, largest)
    names: dict[int, str] = {}
    listed: set[str] = set()
    for place, entry in _entries(path, document, "categories"):
        number, name = _whole(place, entry, "id"), entry.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{place} needs a 'name' that is a non-empty string.")
        if number in names or name in listed:
            raise DataError(f"{place}: the category {quoted(name)}, id {number}, is listed twice.")
        names[number] = name
        listed.add(name)
    category_ids = tuple(sorted(names))
    if not category_ids:
        raise DataError(f"{path} has no categories.")
    images: dict[int, int] = {}
    files, sizes = [], []
    for place, entry in _entries(path, document, "images"):
        number = _whole(place, entry, "id")
        if number in images:
            raise DataError(f"{place}: the image id {number} is listed twice.")
        images[number] = len(files)
        files.append(_file_name(place, entry))
        sizes.append((_whole(place, entry, "height", least=1), _whole(place, entry, "width", least=1)))
    annotations = [*_annotations(path, document)]
    label = {number: label for label, number in enumerate(category_ids)}
    unknown = sorted({str(category) for _, category, *_ in annotations if category not in label})
    ids = [identity for identity, *_ in annotations]
    return Boxes(
        class_names=tuple(names[number] for number in category_ids),
        category_ids=category_ids,
        files=files,
        sizes=sizes,
        ids=ids,
        labels=np.array([label.get(each[1], -1) for each in annotations], dtype=np.int64),
        picture=np.array([images.get(each[2], len(files)) for each in annotations], dtype=np.int64),
        bbox=np.array([each[3] for each in annotations], dtype=np.float64).reshape(-1, 4),
        crowd=np.array([each[4] for each in annotations], dtype=bool),
        outlines=[each[5] for each in annotations],
        note=f"boxes of unlisted categories are skipped (category_id {shortened(unknown)})" if unknown else "",
    )


def _document(path: Path, outlines: bool, largest: int) -> dict[str, Any]:
    try:
        check_file(path)
        if path.stat().st_size > largest:
            raise DataError(f"{path} is larger than {largest:,} bytes, the limit for a file of annotations.")
        document = json.loads(path.read_bytes(), object_pairs_hook=partial(_pruned, outlines), parse_constant=_refused)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise DataError(f"{path} cannot be read: its JSON is nested too deeply.") from None
    except DataError:
        raise
    except ValueError as error:  # also text that is no UTF-8, and numbers of thousands of digits
        raise DataError(f"{path} is truncated or is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} is not a COCO annotation file: it is not an object with 'images'.")
    return document


def _pruned(outlines: bool, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    kept = {key: value for key, value in pairs if key in _KEPT or (outlines and key in _OUTLINES)}
    if "segmentation" in kept:
        kept["segmentation"] = _packed(kept["segmentation"])
    elif isinstance(kept.get("counts"), list):
        kept["counts"] = _array(kept["counts"], np.int64)
    return kept


def _packed(outline: Any) -> Outline:
    """An outline in little memory: polygons as arrays, runs as they are; None for what is neither."""
    if isinstance(outline, dict):
        return outline
    if not isinstance(outline, list):
        return None
    polygons = [_array(polygon, np.float32) for polygon in outline]
    if any(each is None or len(each) < 6 or len(each) % 2 or not np.isfinite(each).all() for each in polygons):
        return None
    return tuple(each.reshape(-1, 2) for each in polygons if each is not None) or None


def _array(values: Any, kind: type[np.generic]) -> np.ndarray | None:
    if not isinstance(values, list) or not all(type(each) in (int, float) for each in values):
        return None
    try:
        return np.array(values, dtype=kind)
    except (OverflowError, ValueError):
        return None


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _entries(path: Path, document: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it is, entry) of one of the three lists."""
    entries = document.get(key)
    if not isinstance(entries, list):
        raise DataError(f"{path} is not a COCO annotation file: the list '{key}' is missing.")
    for number, entry in enumerate(entries):
        place = f"{path}, {key}[{number}]"
        if not isinstance(entry, dict):
            raise DataError(f"{place} is not an object.")
        yield place, entry


def _whole(place: str, entry: dict[str, Any], key: str, least: int = -(2**63)) -> int:
    value = entry.get(key)
    if type(value) is float and value.is_integer():  # pandas makes 7.0 of a 7
        value = int(value)
    if type(value) is not int or not least <= value < 2**63:
        given = quoted(repr(value)) if key in entry else "none"
        at_least = f" of at least {least}" if least > 0 else ""
        raise DataError(f"{place} needs an integer '{key}'{at_least}; got {given}.")
    return value


def _file_name(place: str, entry: dict[str, Any]) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.isprintable():
        raise DataError(f"{place} needs a 'file_name' that is a string without control characters.")
    if "\\" in name or PureWindowsPath(name).drive or {"", ".", ".."} & set(name.split("/")):
        raise DataError(
            f"{place}: the picture {quoted(name)} must be given as a path relative to the picture folder, "
            "with / between folders and without '..'."
        )
    return name


_Annotation = tuple[str, int, int, tuple[float, ...], bool, Outline]


def _annotations(path: Path, document: dict[str, Any]) -> Iterator[_Annotation]:
    """(id, category, image, bbox, is a crowd, outline) of each box."""
    seen: set[int] = set()
    for place, entry in _entries(path, document, "annotations"):
        number = _whole(place, entry, "id")
        if number in seen:
            raise DataError(f"{place}: the annotation id {number} is listed twice.")
        seen.add(number)
        crowd = entry.get("iscrowd", 0)
        if type(crowd) not in (int, bool, float) or crowd not in (0, 1):
            raise DataError(f"{place} needs an 'iscrowd' of 0 or 1; got {quoted(repr(crowd))}.")
        image = _whole(place, entry, "image_id")
        category, bbox = _whole(place, entry, "category_id"), _bbox(entry.get("bbox"))
        yield f"{image}/{number}", category, image, bbox, bool(crowd), entry.get("segmentation")


def _bbox(value: Any) -> tuple[float, ...]:
    """Four numbers, or four NaN."""
    if isinstance(value, list) and len(value) == 4 and all(type(each) in (int, float) for each in value):
        try:
            return tuple(map(float, value))
        except OverflowError:
            pass
    return (float("nan"),) * 4


# -- outlines ------------------------------------------------------------------------------------------------


def outlined(outline: Outline, size: tuple[int, int]) -> Callable[[Window], np.ndarray] | None:
    """The outline in a picture of that size (height, width), as `Region` has it; None where there is none."""
    if outline is None:
        return None
    if isinstance(outline, tuple):
        return polygons(outline)
    return lambda window: window.sampled(mask(outline, size))


def mask(outline: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """[height, width] bool of runs {counts: a list, or compressed text, size}, down one column after the other.

    size: what it must be, and the runs must fill it. Raises DataError.
    """
    counts = outline.get("counts")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    total = size[0] * size[1]
    if not isinstance(runs, np.ndarray) or outline.get("size") != list(size) or runs.min(initial=0) < 0:
        raise DataError(f"an outline is not a list of runs that fill {size[0]}x{size[1]}.")
    if len(runs) > total + 1 or runs.max(initial=0) > total or runs.sum() != total:
        raise DataError(f"the runs of an outline do not fill {size[0]}x{size[1]}.")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _decompressed(text: str) -> np.ndarray | None:
    """The runs in COCO's text: groups of five bits, the lowest first; from the fourth on, less the last but one."""
    runs: list[int] = []
    value = place = 0
    for byte in text.encode("latin-1", "replace"):
        bits = byte - 48
        if not 0 <= bits < 64 or place > 30:
            return None
        value |= (bits & 31) << place
        place += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << place
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = place = 0
    return None if place else np.array(runs, dtype=np.int64)
