"""Contact sheets of explained inputs: each input, and beside it what belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from advex.data.images.png import encode_png
from advex.drawing import contact_sheet
from advex.drawing.contact_sheet import SIDE
from advex.files import atomic

ACROSS = 8  # cells side by side, next to the input
LINES = 24  # of cells, per sheet


@dataclass(frozen=True)
class Cell:
    """A picture [channels, height, width] in [0, 1], and what to write below it."""

    picture: Tensor
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """An input, and what belongs to it. More cells than go side by side continue on the next line."""

    first: Cell
    cells: tuple[Cell, ...]


def write(rows: list[Row], folder: Path, side: int = SIDE) -> list[Path]:
    """Write the rows as `sheet.png` (`sheet-2.png`, ... where there are many); returns the files. side: see `SIDE`."""
    lines = [line for row in rows for line in _lines(row)]
    paths = []
    for start in range(0, len(lines), LINES):
        path = folder / ("sheet.png" if start == 0 else f"sheet-{start // LINES + 1}.png")
        with atomic(path) as temporary:
            draw(lines[start : start + LINES], side).save(temporary, "PNG")
        paths.append(path)
    return paths


def draw(lines: Sequence[Sequence[Cell]], side: int = SIDE) -> Image.Image:
    """Lines of cells as one picture. side: see `SIDE`."""
    return contact_sheet.draw([contact_sheet.Row(tuple(map(_drawn, line))) for line in lines], side)


def _drawn(cell: Cell) -> contact_sheet.Cell:
    return contact_sheet.Cell((encode_png(cell.picture.detach().float().cpu()),), cell.lines)


def _lines(row: Row) -> list[list[Cell]]:
    blank = Cell(torch.ones_like(row.first.picture), ())
    starts = range(0, len(row.cells), ACROSS)
    return [[blank if start else row.first, *row.cells[start : start + ACROSS]] for start in starts]
