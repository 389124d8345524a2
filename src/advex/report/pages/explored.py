"""Explanations that were kept while exploring, as one page; and what one of them says, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advex.drawing.numbers import confidence, number, short
from advex.drawing.pictures import Picture, ShownPicture, read_picture, show
from advex.record.explored import Explored, picture_name, read_explored
from advex.report.reading import PICTURE_BYTES

TITLES = {
    "input": "Original",
    "changed": "Changed",
    "difference": "Difference",
    "map_input": "Contributions in the original",
    "map_changed": "Contributions in the changed",
}
_CLASSES = 3  # of the largest confidences, before and after
_SHORT_OF = 1e-3  # of the RMSE asked for


@dataclass(frozen=True)
class Share:
    """Confidence in a class. size: of the one after the change, in per cent, for a bar."""

    name: str
    before: str
    after: str
    size: float
    target: bool


@dataclass(frozen=True)
class PicturePart:
    """A picture of an explanation, with the lines below it."""

    which: str
    title: str
    shown: ShownPicture
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """One explanation on the page. folder: its name."""

    folder: str
    entry: Explored
    target: str
    sentences: tuple[str, ...]
    shares: tuple[Share, ...]
    parts: tuple[PicturePart, ...]


def told(entry: Explored) -> tuple[str, ...]:
    """What came of it, in sentences: whether the class was reached, at what size, and whether 8 bits keep it."""
    if entry.doubt:
        return (f"There is no change to show: {entry.doubt}.",)
    return (_outcome(entry), *_size(entry), *_eight_bits(entry))


def _outcome(entry: Explored) -> str:
    before, after, _ = (entry.class_names[each] for each in entry.says)
    target = entry.class_names[entry.target]
    was, now = (confidence(each[entry.target]) for each in (entry.before, entry.after))
    if entry.rho is None and before == target:
        return f"The network says {target} already ({was}): nothing has to change."
    if entry.rho is None and not entry.reached:
        return f"No change was found that makes the network say {target}."
    if entry.rho is None:
        return f"This is enough for the network to say {target} ({was} → {now}); before it said {before}."
    if entry.rho == 0:
        return f"Nothing is changed: the network says {before}, and its confidence in {target} is {was}."
    change = f"Confidence in {target}: {was} → {now}."
    if entry.reached:
        return f"The network {'still' if before == target else 'now'} says {target}. {change}"
    says = f"the network {'still' if after == before else 'now'} says {after}"
    more = "" if _cramped(entry) else " A larger change may."
    return f"RMSE {short(entry.rho)} does not reach {target}: {says}. {change}{more}"


def _size(entry: Explored) -> tuple[str, ...]:
    return (f"Between black and white, the RMSE can be at most {number(entry.rmse, 3)}.",) if _cramped(entry) else ()


def _cramped(entry: Explored) -> bool:
    return entry.rho is not None and entry.rmse < entry.rho - _SHORT_OF


def _eight_bits(entry: Explored) -> tuple[str, ...]:
    if entry.rho == 0 or (entry.rho is None and not entry.rmse):
        return ()
    _, after, png = entry.says
    share = confidence(entry.png_after[entry.target])
    if after == png:
        return (f"An 8-bit PNG preserves this: {entry.class_names[entry.target]} has {share} there.",)
    return (f"An 8-bit PNG does not preserve this: for the file, the network says {entry.class_names[png]}.",)


def shares_of(entry: Explored) -> tuple[Share, ...]:
    """The classes worth showing: the largest before and after, and the target; the largest after the change first."""

    def largest(values: Sequence[float]) -> list[int]:
        return sorted(range(len(values)), key=lambda each: -values[each])[:_CLASSES]

    chosen = {*largest(entry.before), *largest(entry.after), entry.target}
    return tuple(
        Share(
            entry.class_names[each],
            confidence(entry.before[each]),
            confidence(entry.after[each]),
            round(100 * entry.after[each], 1),
            each == entry.target,
        )
        for each in sorted(chosen, key=lambda each: (-entry.after[each], each))
    )


def lines_of(entry: Explored) -> dict[str, tuple[str, ...]]:
    """What is written below each picture."""
    before, after, _ = (entry.class_names[each] for each in entry.says)
    target = entry.class_names[entry.target]
    ends = f"±{entry.reach:.2g}" if entry.reach else "nothing counts"
    return {
        "input": (f"says {before}, {confidence(max(entry.before))}",),
        "changed": (f"says {after}, {confidence(max(entry.after))}", f"RMSE {number(entry.rmse, 4)}"),
        "difference": ("nothing" if not entry.rmse else f"× {entry.gain:.2g}, grey is no change",),
        "map_input": (f"for {target}", ends),
        "map_changed": (f"for {target}", ends),
    }


def content(folder: Path, picture_bytes: int = PICTURE_BYTES) -> dict[str, Any]:
    """What the page of a folder shows: the newest, as many as there is room for. Raises ArtifactError."""
    entries = read_explored(folder)
    kept, room = [], picture_bytes
    for path, entry in entries:
        pictures = {which: read_picture(path, picture_name(which)) for which in TITLES}
        room -= sum(len(each.png) for each in pictures.values() if each is not None) * 4 // 3
        if room < 0 and kept:
            break
        kept.append(_kept(path, entry, pictures))
    return {"kept": kept, "total": len(entries), "models": sorted({entry.model for _, entry in entries})}


def _kept(path: Path, entry: Explored, pictures: dict[str, Picture | None]) -> Kept:
    lines = lines_of(entry)
    target = entry.class_names[entry.target]
    parts = tuple(
        PicturePart(which, TITLES[which], show(each, f"{TITLES[which]}, {', '.join(lines[which])}."), lines[which])
        for which, each in pictures.items()
        if each is not None
    )
    return Kept(path.name, entry, target, told(entry), shares_of(entry), parts)
