"""What annotators read before they begin: a small part of Markdown as HTML, in which nothing of the file is code."""

from __future__ import annotations

import re
from pathlib import Path

from markupsafe import Markup, escape

from advex.errors import SpecError
from advex.files import read_bytes

FILE = "instructions.md"  # in a project's folder
_MOST = 2**16  # bytes


def read(path: Path) -> str:
    """A file of instructions. Raises SpecError where there is none, for one that is too large, and for no text."""
    if not path.is_file():
        raise SpecError(f"The instructions file {path} does not exist.")
    try:
        text = read_bytes(path, _MOST, "an instructions file", SpecError).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not UTF-8 text.") from None
    if not text.strip():
        raise SpecError(f"{path} is empty: instructions tell annotators what to look at.")
    return text


def of_project(folder: Path) -> Markup | None:
    """The instructions of a project as HTML; None where it has none, or they cannot be read any more."""
    try:
        return html(read(folder / FILE))
    except SpecError:
        return None


def html(text: str) -> Markup:
    """Headings (#), lists (- or 1.), paragraphs, **bold** and *emphasis*; everything else is text.

    >>> html("# Look\\nat the **shape**\\n- <b>\\n- *2*")
    Markup('<h2>Look</h2>\\n<p>at the <b>shape</b></p>\\n<ul><li>&lt;b&gt;</li><li><em>2</em></li></ul>')
    """
    blocks: list[tuple[str, list[str]]] = []  # (tag, its paragraphs or points)
    goes_on = False
    for line in map(str.strip, text.splitlines()):
        point = re.match(r"([-*]|\d+[.)])\s+(.*)", line)
        if heading := re.match(r"#+\s*(.*)", line):
            blocks.append(("h2", [heading[1]]))
        elif point:
            kind = "ul" if point[1] in "-*" else "ol"
            if not blocks or blocks[-1][0] != kind:
                blocks.append((kind, []))
            blocks[-1][1].append(point[2])
        elif line and goes_on:
            blocks[-1][1][-1] += f" {line}"
        elif line:
            blocks.append(("p", [line]))
        goes_on = bool(line) and not heading
    return Markup("\n").join(_block(*block) for block in blocks)


def _block(tag: str, parts: list[str]) -> Markup:
    inside = Markup("").join(map(_inline, parts))
    if tag in ("ul", "ol"):
        inside = Markup("").join(Markup("<li>{}</li>").format(_inline(each)) for each in parts)
    return Markup(f"<{tag}>{{}}</{tag}>").format(inside)


def _inline(text: str) -> Markup:
    safe = str(escape(" ".join(text.split())))
    safe = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", safe)
    return Markup(re.sub(r"\*(.+?)\*", r"<em>\1</em>", safe))
