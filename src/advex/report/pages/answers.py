"""What was answered about adversarial images, by whom, and some of them: pairs as in Woods et al. 2019, Fig. S5."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from advex.drawing.numbers import count, number
from advex.drawing.pictures import ShownPicture, read_picture, show
from advex.record import Figure
from advex.record.reproduction import AnsweredEntry, JudgedEntry

# A verdict, and what a group of pairs with it is called.
VERDICTS = {
    "unchanged": "Unchanged: used in training",
    "changed": "Changed",
    "unsure": "Unsure",
    "tie": "A tie of unchanged and changed",
    "unanswered": "Not judged",
}
_AGREEMENT = {
    "percent": "agreement",
    "cohen": "Cohen's kappa",
    "fleiss": "Fleiss' kappa",
    "alpha": "Krippendorff's alpha",
}


@dataclass(frozen=True)
class JudgedPair:
    """An image as it was and as it was changed. said: (annotator, answer)."""

    entry: JudgedEntry
    original: ShownPicture | None
    changed: ShownPicture | None
    rmse: str
    said: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Answered:
    """What is told of one network's images. sentences: who answered, and how well. groups: pairs by verdict."""

    entry: AnsweredEntry
    sentences: tuple[str, ...]
    groups: tuple[tuple[str, tuple[JudgedPair, ...]], ...]


def answered(folder: Path, entry: AnsweredEntry) -> Answered:
    """The part of the page. folder: of the reproduction. Pictures that are missing are left out."""
    groups = [
        (title, tuple(_pair(folder, each) for each in entry.pairs if each.verdict == verdict))
        for verdict, title in VERDICTS.items()
    ]
    return Answered(entry, sentences(entry), tuple(each for each in groups if each[1]))


def sentences(entry: AnsweredEntry) -> tuple[str, ...]:
    """Who answered, and what it came to: for every place where answers or what was learned from them are shown.

    The first is that no person did.
    """
    names = " and ".join(each.name for each in entry.annotators)
    per_cent = f"{100 * entry.error:.3g} %"
    least = (
        f", and {entry.images:,} of the {entry.wanted:,} requested images are judged"
        if entry.images < entry.wanted
        else ""
    )
    return (
        f"No people answered. {names} ask a network, {entry.judge}, and {per_cent} of its answers are errors "
        "drawn at random from the seed.",
        f"The network is right on {_share(entry.accuracy)} of the {entry.accuracy.n:,} test images, and on "
        f"{_share(entry.originals)} of the images before they were changed. Unchanged means that the "
        f"original class leads every other class by {entry.sure:g} or more, changed that another class leads "
        "by as much.",
        f"Of {sum(entry.outcomes.values()):,} training pictures tried, {entry.outcomes['made']:,} have a "
        f"change that survives 8-bit rounding and makes the network of {entry.network} confident of another "
        f"class{least}.",
        f"On the {count(entry.shared, 'image')} that more than one judged: "
        + ", ".join(f"{_AGREEMENT[name]} {_share(each, name)}" for name, each in entry.agreement.items())
        + ".",
    )


def _share(figure: Figure, name: str = "percent") -> str:
    if math.isnan(figure.value):
        return "undefined"
    factor, digits, unit = (100, 1, " %") if name == "percent" else (1, 2, "")
    value, low, high = (number(factor * each, digits) for each in (figure.value, figure.low, figure.high))
    return f"{value}{unit}" if math.isnan(figure.low) else f"{value}{unit} [{low}, {high}]"


def _pair(folder: Path, entry: JudgedEntry) -> JudgedPair:
    rmse = number(entry.rmse, 3)
    return JudgedPair(
        entry,
        _shown(folder, entry.original, f"Original, class {entry.label}."),
        _shown(folder, entry.changed, f"Changed by RMSE {rmse}, so that the network says {entry.target}."),
        rmse,
        tuple(entry.answers.items()),
    )


def _shown(folder: Path, name: str, alt: str) -> ShownPicture | None:
    picture = read_picture(folder, name)
    return None if picture is None else show(picture, alt)
