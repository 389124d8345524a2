"""Contact sheets: pictures in rows, enlarged without smoothing, with lines of text below each."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from advex.data.images.png import encode_png
from advex.files import atomic

SIDE = 128  # pixels of the longer side of a cell, about, where the picture is smaller
ACROSS = 8  # cells side by side, next to the input
LINES = 24  # of cells, per sheet
_GAP, _LINE, _PAPER, _INK = 10, 17, "white", "black"


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


def _lines(row: Row) -> list[list[Cell]]:
    blank = Cell(torch.ones_like(row.first.picture), ())
    starts = range(0, len(row.cells), ACROSS)
    return [[blank if start else row.first, *row.cells[start : start + ACROSS]] for start in starts]


def draw(rows: list[list[Cell]], side: int = SIDE) -> Image.Image:
    """Lines of cells as one picture. side: see `SIDE`."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 12)
    pictures = [[_enlarged(cell.picture, side) for cell in row] for row in rows]
    texts = [
        [[_fitted(line, font, drawn.width) for line in cell.lines] for cell, drawn in zip(row, side, strict=True)]
        for row, side in zip(rows, pictures, strict=True)
    ]
    heights = [
        max(picture.height + _LINE * len(lines) for picture, lines in zip(drawn, text, strict=True))
        for drawn, text in zip(pictures, texts, strict=True)
    ]
    width = max(sum(picture.width + _GAP for picture in drawn) for drawn in pictures) + _GAP
    page = Image.new("RGB", (width, sum(heights) + _GAP * (len(rows) + 1)), _PAPER)
    pen, top = ImageDraw.Draw(page), _GAP
    for drawn, text, height in zip(pictures, texts, heights, strict=True):
        left = _GAP
        for picture, lines in zip(drawn, text, strict=True):
            page.paste(picture, (left, top))
            for number, line in enumerate(lines):
                pen.text((left, top + picture.height + 2 + number * _LINE), line, fill=_INK, font=font)
            left += picture.width + _GAP
        top += height + _GAP
    return page


def _enlarged(picture: Tensor, side: int) -> Image.Image:
    with Image.open(io.BytesIO(encode_png(picture.detach().float().cpu()))) as image:
        times = max(round(side / max(image.size)), 1)
        return image.convert("RGB").resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def _fitted(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The line, shortened until it fits."""
    line = "".join(character if character.isprintable() else "?" for character in line)
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
