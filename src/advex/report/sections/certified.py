"""What randomised smoothing makes certain, beside what the attack left on the same examples: a table and curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from advex.drawing.accuracy_curve import Backdrop, backdrop, corners
from advex.drawing.numbers import count, number, percent
from advex.drawing.plot import path
from advex.record import CertificateFigures, ModelEntry, Record
from advex.registry import register
from advex.report.cells import CERTIFIED, FigureCell, digits_for, show
from advex.report.reading import Contents

_ACCURACY, _AREA = CERTIFIED


@dataclass(frozen=True)
class Enclosure:
    """A model between what is certain and what an attack reached. interval: both areas, in digits. notes: of them."""

    index: int
    model: str
    interval: str
    note: str
    cells: tuple[FigureCell, ...]


@dataclass(frozen=True)
class Band:
    """The two curves of one model. attacked, certain, between: SVG path data. others: (of another model, certain)."""

    index: int
    model: str
    backdrop: Backdrop
    attacked: str
    certain: str
    between: str
    others: tuple[tuple[str, bool], ...]
    attack_area: str
    certain_area: str
    note: str
    description: str


# Of the columns after the interval: title, and what is better.
_TITLES = (
    ("Certified ARA, smoothed", "higher"),
    ("Attack ARA, network", "higher"),
    ("Attack minus certified", "lower"),
    ("Certified accuracy, smoothed", "higher"),
    ("Accuracy, network", "higher"),
    ("Abstained", ""),
    ("Certified above attack", ""),
)


@register("section", "certified")
class Certified:
    """What is certain of the smoothed form of each model, where examples were certified."""

    title, menu, place, tables = "What is certain", "Certified", 50, ("examples",)

    def __call__(self, contents: Contents) -> dict[str, Any] | None:
        record = contents.record
        models = [(index, model, model.certified) for index, model in enumerate(record.models)]
        known = [(index, model, entry) for index, model, entry in models if entry is not None]
        if not known:
            return None
        lines = tuple(_enclosure(index, model, entry, record) for index, model, entry in known)
        return {
            "words": " ".join(dict.fromkeys(_words(entry, record) for _, _, entry in known)),
            "overclaimed": _overclaimed(known, record),
            "titles": _TITLES,
            "lines": lines,
            "bands": _bands(contents, lines),
        }


def _words(entry: CertificateFigures, record: Record) -> str:
    """How examples were certified."""
    examples = count(entry.examples, "example")
    drawn = f"all {examples}" if entry.examples >= record.data.examples else f"{examples} drawn at random"
    return (
        f"Here the noise is Gaussian, its standard deviation {entry.sigma:g} in every element of the input "
        f"(sigma, in units of the data). For each of {drawn}, {entry.selection:,} noisy copies choose a "
        f"class and {entry.samples:,} others (n) count how often it is predicted. The resulting radius holds "
        f"with probability {100 * (1 - entry.alpha):g} % over the noise (alpha is {entry.alpha:g}). With so "
        f"many copies none can exceed an RMSE of {entry.largest:.3g}."
    )


def _overclaimed(known: list[tuple[int, ModelEntry, CertificateFigures]], record: Record) -> str:
    entry, digits = known[0][2], digits_for(_AREA, record)
    least = ", ".join(f"{number(entry.least_ara, digits)} for {model.name}" for _, model, entry in known)
    radii = "radius" if entry.overclaimed == 1 else "radii"
    if not entry.overclaimed:
        return ""
    return (
        "The intervals are over images and treat the radii as exact. With 97.5\u202f% confidence, the noise made at "
        f"most {entry.overclaimed} {radii} too large; with the largest set to 0, the certified ARA is {least}."
    )


def _enclosure(index: int, model: ModelEntry, entry: CertificateFigures, record: Record) -> Enclosure:
    area, accuracy = model.scores[_AREA], model.scores[_ACCURACY]
    digits = digits_for(_AREA, record)
    ends = (number(value, digits) for value in (area.value, entry.attack_ara.value))
    crossed = f"of {entry.examples:,}"
    cells = (
        show(_AREA, area, digits, record),
        show("certified:attack_ara", entry.attack_ara, digits, record),
        show("certified:gap", entry.gap, digits, record),
        show(_ACCURACY, accuracy, 1, record),
        show("certified:accuracy", entry.accuracy, 1, record),
        FigureCell("certified:abstained", f"{entry.abstained:,}", note=crossed),
        FigureCell("certified:crossed", f"{entry.crossed:,}", note=crossed),
    )
    turned = area.value > entry.attack_ara.value
    note = "the smoothed classifier withstands more than the network" if turned else ""
    return Enclosure(index, model.name, f"[{', '.join(ends)}]", note, cells)


# -- curves ------------------------------------------------------------------------------------------------


def _bands(contents: Contents, lines: tuple[Enclosure, ...]) -> tuple[Band, ...]:
    """A panel per model, all on one scale, the other models' curves behind it."""
    radii = {line.model: contents.certified(line.model) for line in lines}
    known = {model: pair for model, pair in radii.items() if pair is not None}
    if not known:
        return ()
    on = backdrop([values for pair in known.values() for values in pair], contents.record.data.chance)
    return tuple(_band(line, known, on) for line in lines if line.model in known)


def _band(line: Enclosure, radii: dict[str, tuple[np.ndarray, np.ndarray]], on: Backdrop) -> Band:
    certain, attacked = (corners(values, on.top, on.frame) for values in radii[line.model])
    others = tuple(
        (path(corners(values, on.top, on.frame)), is_certain)
        for model, pair in radii.items()
        if model != line.model
        for values, is_certain in zip(pair, (True, False), strict=True)
    )
    failed = float(np.isinf(radii[line.model][1]).mean())
    share = percent(failed, 0 if failed >= 0.1 else 1)
    return Band(
        line.index, line.model, on, path(attacked), path(certain), f"{path([*attacked, *reversed(certain)])} Z", others,
        line.cells[1].text, line.cells[0].text,
        f"For {share} of the examples the attack found nothing." if failed else "",
        _description(line, radii[line.model]),
    )  # fmt: skip


def _description(line: Enclosure, radii: tuple[np.ndarray, np.ndarray]) -> str:
    """The panel for those who do not see it."""
    certain, attacked = (percent(float((values > 0).mean())) for values in radii)
    return (
        f"Share of images against RMSE, {line.model}: the network under the attack starts at {attacked}, what is "
        f"certain of its smoothed form at {certain}; the areas [certified, attacked] are {line.interval}."
    )
