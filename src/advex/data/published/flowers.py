"""The Oxford flowers: 102 categories and 17 categories, with masks where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from advex.data.dataset import counted
from advex.data.evidence import Region
from advex.data.published import matlab, pictures
from advex.data.published.pictures import Mask
from advex.data.source import Place, Source, Split
from advex.errors import DataError, SpecError
from advex.registry import register

_LABELS, _SETS, _DEALS = "imagelabels.mat", "setid.mat", "datasplits.mat"
_MOST = 100_000  # pictures; there are 8,189 and 1,360
_PER_CLASS = 80
# Pictures are cut out on blue, (0, 0, 254), and stored as JPEG, which moves every value a little.
_BLUE, _DARK = 238, 16
_FLOWER = (128, 0, 0)  # of the palette of trimaps


@register("dataset", "flowers102", cites="Nilsback and Zisserman 2008")
def flowers102(*, root: str = "") -> Source:
    """102 categories: `jpg/`, `imagelabels.mat`, `setid.mat`, and `segmim/` with the flowers cut out if it is there.

    root: their folder; left away, `flowers102` in the folder ADVEX_DATA. Splits are `train` (trnid), `validation`
    (valid) and `test` (tstid), classes the numbers of the labels, 1 to 102. Raises DataError.
    """
    place = pictures.folder_of("flowers102", root)
    if not ((place / _LABELS).is_file() and (place / _SETS).is_file()):
        raise DataError(f"{place} is not flowers102: expected {_LABELS} and {_SETS} there, next to the folder jpg.")
    labels = _numbers(place / _LABELS, "labels", 1, 10_000)
    sets = {
        split: _numbers(place / _SETS, key, 1, len(labels))
        for split, key in (("train", "trnid"), ("validation", "valid"), ("test", "tstid"))
    }
    return _source(place, labels, sets, 5, ("segmim", "segmim_{:05d}.jpg", _not_blue))


@register("dataset", "flowers17", cites="Nilsback and Zisserman 2006")
def flowers17(*, root: str = "", deal: int = 1, held_out: int = 0, side: int = 128) -> Source:
    """17 categories of 80 pictures: `jpg/`, `datasplits.mat`, and `trimaps/`, if present, for some pictures.

    root: their folder; left away, `flowers17` in the folder ADVEX_DATA. deal: which of the three published deals into
    `train`, `validation` and `test`; figures are usually means over all three. Classes are numbers, 1 to 17, in the
    order of the pictures.

    held_out: so many of each class, by chance (always alike), are `test`, and all others `train`, in place of the deals
    (singh2020 App. A.3.4: 8). side: of the square that is cut out of each picture's middle and scaled (the same place:
    128); 0: pictures as they are. Raises DataError, SpecError for what there is not.
    """
    pictures.check_cut("flowers17", side or 1, side or 1)
    if not 0 <= held_out < _PER_CLASS:
        raise SpecError(f"flowers17: held_out={held_out} is not valid; a class has {_PER_CLASS} pictures.")
    if deal not in (1, 2, 3):
        raise SpecError(f"flowers17: deal={deal} is not valid; the deals are 1, 2 and 3.")
    place = pictures.folder_of("flowers17", root)
    if not (place / _DEALS).is_file():
        raise DataError(f"{place} is not flowers17: expected {_DEALS} there, next to the folder jpg.")
    sets = {
        split: _numbers(place / _DEALS, f"{key}{deal}", 1, 17 * _PER_CLASS)
        for split, key in (("train", "trn"), ("validation", "val"), ("test", "tst"))
    }
    labels = np.arange(17 * _PER_CLASS) // _PER_CLASS + 1  # the 80th picture is still of the first class
    if held_out:
        order = np.random.default_rng(0).permuted(np.arange(1, len(labels) + 1).reshape(17, _PER_CLASS), axis=1)
        sets = {"train": np.sort(order[:, held_out:].flat), "test": np.sort(order[:, :held_out].flat)}
    return _source(place, labels, sets, 4, ("trimaps", "image_{:04d}.png", _dark_red), side)


@register("format", "flowers", cites="Nilsback and Zisserman 2006 and 2008")
@dataclass(frozen=True)
class Flowers:
    """The folder of either set of flowers."""

    reads: ClassVar[str] = "a folder of the Oxford flowers"
    order: ClassVar[int] = 43

    def find(self, place: Place) -> Source | None:
        """Splits `train`, `validation` and `test`; of 17 categories the first deal."""
        names = {str(path) for path in place.files if len(path.parts) == 1}
        if {_LABELS, _SETS} & names:  # with one alone it says what is missing
            return flowers102(root=str(place.path))
        return flowers17(root=str(place.path), side=0) if _DEALS in names else None


def _numbers(path: Path, key: str, low: int, high: int) -> np.ndarray:
    """[n] int64: a row of whole numbers from low to high. Raises DataError."""
    held = matlab.arrays(path)
    if key not in held:
        raise DataError(f"{path} has no array '{key}'; it contains {', '.join(sorted(held)) or 'none'}.")
    numbers, are_whole = matlab.whole_numbers(held[key].whole(_MOST).reshape(-1))
    if not len(numbers) or not are_whole.all() or numbers.min() < low or numbers.max() > high:
        raise DataError(f"{path}: '{key}' contains values other than integers from {low} to {high}.")
    return numbers


def _source(
    place: Path,
    labels: np.ndarray,
    sets: Mapping[str, np.ndarray],
    digits: int,
    masks: tuple[str, str, Mask],
    side: int = 0,
) -> Source:
    """labels, sets: counted from 1. masks: their folder, the form of their names, and what in one is flower."""
    seen: dict[int, str] = {}
    for split, numbers in sets.items():
        for number in numbers.tolist():
            if number in seen:
                where = f"twice in '{split}'" if seen[number] == split else f"in both '{seen[number]}' and '{split}'"
                raise DataError(f"{place}: picture {number} appears {where}.")
            seen[number] = split
    return Source(
        name=place.resolve().name,
        class_names=_names(labels),
        splits={split: partial(_split, place, labels, numbers, digits, masks, side) for split, numbers in sets.items()},
        root=place,
    )


def _names(labels: np.ndarray) -> tuple[str, ...]:
    return tuple(str(number) for number in range(1, int(labels.max()) + 1))


def _split(
    place: Path, labels: np.ndarray, numbers: np.ndarray, digits: int, masks: tuple[str, str, Mask], side: int
) -> Split:
    folder, form, flower = masks
    names = [f"image_{number:0{digits}d}.jpg" for number in numbers]
    present = {path.name for path in (place / folder).iterdir()} if (place / folder).is_dir() else set()
    masked = [form.format(number) if form.format(number) in present else None for number in numbers]
    lacking = masked.count(None)
    own = labels[numbers - 1] - 1
    notes = [*pictures.empty_classes(own, _names(labels))]
    if present and lacking:
        notes.append(f"{counted(lacking, 'picture')} of {len(names):,} without a mask")

    def evidence(row: int) -> Sequence[Region]:
        name = masked[row]
        if name is None:
            return []
        return pictures.of_mask(place / folder / name, place / "jpg" / names[row], flower, "flower")

    return Split(
        ids=names,
        labels=own,
        read=lambda rows: pictures.squares((place / "jpg" / names[row] for row in rows), side),
        notes=tuple(notes),
        evidence=evidence if present else None,
    )


# -- masks ---------------------------------------------------------------------------------------------------


def _not_blue(pixels: np.ndarray) -> np.ndarray:
    """[height, width]: what is not the blue of the ground, all three channels near it, as JPEG leaves it."""
    red, green, blue = pixels
    return ~((red <= _DARK) & (green <= _DARK) & (blue >= _BLUE))


def _dark_red(pixels: np.ndarray) -> np.ndarray:
    """[height, width]: flower, by the palette; ground, edges and what nobody labelled have other colours."""
    return (pixels == np.array(_FLOWER, np.uint8)[:, None, None]).all(axis=0)
