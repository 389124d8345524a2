"""Judged images as PNG, the original beside the changed one, with the answers: after Woods et al. 2019, Fig. S5."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advex.drawing.pictures import read_picture
from advex.record.reproduction import AnsweredEntry, JudgedEntry
from advex.report.pages.answers import VERDICTS, sentences

_ACROSS = 5  # pairs in a line
_LINES = 2  # of a verdict


def sheet(folder: Path, entry: AnsweredEntry) -> Any | None:
    """Some pairs of each verdict, under a sentence that says who answered; None where there are none."""
    from matplotlib.figure import Figure

    lines = list(_lines(entry))
    if not lines:
        return None
    height = 0.9 + 1.35 * len(lines)
    figure = Figure(figsize=(8.5, height))
    cells = figure.subplots(
        len(lines), 3 * _ACROSS, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 0.3] * _ACROSS, "wspace": 0.06,
        "hspace": 0.75, "top": 1 - 0.75 / height, "bottom": 0.35 / height, "left": 0.01, "right": 0.99},
    )  # fmt: skip
    for cell in cells.flat:
        cell.set_axis_off()
    for row, (title, pairs) in zip(cells, lines, strict=True):
        row[0].set_title(title, loc="left", fontsize=8, fontweight="bold", pad=4)
        for place, pair in enumerate(pairs):
            put(row[3 * place], folder, pair.original)
            put(row[3 * place + 1], folder, pair.changed)
            said = "\n".join(f"{name}: {answer}" for name, answer in pair.answers.items())
            row[3 * place].text(
                0, -0.06, f"{pair.label}\n{said}", fontsize=6, va="top", transform=row[3 * place].transAxes
            )
    figure.text(0.01, 1 - 0.1 / height, textwrap.fill(sentences(entry)[0], 120), fontsize=8, va="top")
    return figure


def _lines(entry: AnsweredEntry) -> Iterator[tuple[str, list[JudgedEntry]]]:
    """Pairs of one verdict, so many in a line; the first line of a verdict has its title."""
    for verdict, title in VERDICTS.items():
        mine = [pair for pair in entry.pairs if pair.verdict == verdict][: _ACROSS * _LINES]
        for start in range(0, len(mine), _ACROSS):
            yield ("" if start else title), mine[start : start + _ACROSS]


def put(cell: Any, folder: Path, name: str | None) -> None:
    """A picture of a record in a cell of a figure; nothing where it is missing."""
    picture = read_picture(folder, name)
    if picture is not None:
        pixels = picture.pixels[:, :, 0] if picture.pixels.shape[2] == 1 else picture.pixels
        cell.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
