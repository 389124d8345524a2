"""Contact sheets: pictures in rows, enlarged without smoothing, with lines of text below each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 128  # pixels of the longer side of a cell, about, where the picture is smaller
_GAP, _NEAR, _LINE, _SWATCH, _PAPER, _INK = 10, 4, 17, 10, "white", "black"


@dataclass(frozen=True)
class Cell:
    """PNG pictures side by side, and what to write below them. Without any picture, room for one."""

    pictures: tuple[bytes, ...]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Cells side by side. heading: above them."""

    cells: tuple[Cell, ...]
    heading: str = ""


Colour = tuple[int, int, int]
Legend = Sequence[tuple[Colour, str]]


def draw(rows: Sequence[Row], side: int = SIDE, title: str = "", legend: Legend = ()) -> Image.Image:
    """The rows as one picture. side: see `SIDE`.

    title: above all, broken into lines where it says so. legend: below it, colours and what they mean.
    """
    font = _font()
    pictures = [[_picture(cell, side) for cell in row.cells] for row in rows]
    above = [_LINE + _NEAR if row.heading else 0 for row in rows]
    heights = [
        up + max(picture.height + _LINE * len(cell.lines) for picture, cell in zip(drawn, row.cells, strict=True))
        for up, drawn, row in zip(above, pictures, rows, strict=True)
    ]
    width = max(sum(picture.width + _GAP for picture in drawn) for drawn in pictures) + _GAP
    keys = _placed(legend, font, width)
    lines = len(title.splitlines()) + (keys[-1][1] + 1 if keys else 0)
    top = _GAP + _LINE * lines + (_NEAR if lines else 0)
    page = Image.new("RGB", (width, top + sum(heights) + _GAP * len(rows)), _PAPER)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(title.splitlines()):
        pen.text((_GAP, _GAP + number * _LINE), _fitted(line, font, width - 2 * _GAP), fill=_INK, font=font)
    for (left, line), (colour, text) in zip(keys, legend, strict=True):
        above_it = _GAP + (len(title.splitlines()) + line) * _LINE
        pen.rectangle((left, above_it + 3, left + _SWATCH, above_it + 3 + _SWATCH), fill=colour, outline="grey")
        pen.text(
            (left + _SWATCH + _NEAR, above_it), _fitted(text, font, width - left - _SWATCH - 2 * _NEAR), _INK, font
        )
    for row, drawn, up, height in zip(rows, pictures, above, heights, strict=True):
        pen.text((_GAP, top), row.heading, fill=_INK, font=font)
        left = _GAP
        for cell, picture in zip(row.cells, drawn, strict=True):
            page.paste(picture, (left, top + up))
            for number, line in enumerate(cell.lines):
                below = top + up + picture.height + 2 + number * _LINE
                pen.text((left, below), _fitted(line, font, picture.width), fill=_INK, font=font)
            left += picture.width + _GAP
        top += height + _GAP
    return page


def _placed(legend: Legend, font: ImageFont.FreeTypeFont, width: int) -> list[tuple[int, int]]:
    """(left, number of the line) of each key, as many on a line as fit."""
    places, left, line = [], _GAP, 0
    for _, text in legend:
        needed = _SWATCH + _NEAR + round(font.getlength(text))
        if left > _GAP and left + needed > width - _GAP:
            left, line = _GAP, line + 1
        places.append((left, line))
        left += needed + 2 * _GAP
    return places


def _font() -> ImageFont.FreeTypeFont:
    """A font with the letters of most languages."""
    import matplotlib as mpl

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 12)


def _picture(cell: Cell, side: int) -> Image.Image:
    """The pictures of a cell as one."""
    enlarged = [_enlarged(png, side) for png in cell.pictures] or [Image.new("RGB", (side, side), _PAPER)]
    if len(enlarged) == 1:
        return enlarged[0]
    width = sum(each.width for each in enlarged) + _NEAR * (len(enlarged) - 1)
    whole, left = Image.new("RGB", (width, max(each.height for each in enlarged)), _PAPER), 0
    for each in enlarged:
        whole.paste(each, (left, 0))
        left += each.width + _NEAR
    return whole


def _enlarged(png: bytes, side: int) -> Image.Image:
    with Image.open(io.BytesIO(png)) as image:
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
