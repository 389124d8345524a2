"""Boxes in XML as Pascal VOC writes them: bounded, and without whatever XML may do besides holding text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from advex.data.source import Unreadable
from advex.errors import DataError, quoted
from advex.files import read_bytes

LARGEST, DEEPEST = 2**20, 10  # bytes of a file, and elements within elements
_OBJECT, _SIZE = ("annotation", "object"), ("annotation", "size")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object of a picture. name: its class. box: xmin, ymin, xmax, ymax as written. difficult: marked so."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """A picture's size (height, width) and its objects."""

    size: tuple[int, int]
    things: tuple[Thing, ...]


def read(path: Path) -> Annotation:
    """The boxes of one picture. Raises Unreadable for what is no such file, or cannot be believed."""
    try:
        data = read_bytes(path, LARGEST, "an annotation file")
    except DataError as error:
        raise Unreadable(str(error).removesuffix(".")) from None
    size, objects = _fields(data)
    sides = [_number(size, key, "the size of its picture") for key in ("height", "width")]
    if not all(side >= 1 and side.is_integer() for side in sides):
        raise Unreadable("its XML does not give the size of its picture")
    things = tuple(_thing(fields, f"object {number}") for number, fields in enumerate(objects, 1))
    return Annotation(size=(int(sides[0]), int(sides[1])), things=things)


Fields = dict[str, str]


def _fields(data: bytes) -> tuple[Fields, list[Fields]]:
    """The texts of the size, and of each object: those of its direct children, and of its box's.

    An object's parts have boxes of their own, which are not its. Raises Unreadable.
    """
    size: Fields = {}
    objects: list[Fields] = []
    path: list[str] = []
    text: list[str] = []

    def start(name: str, attributes: object) -> None:
        path.append(name)
        text.clear()
        if len(path) > DEEPEST:
            raise Unreadable(f"its XML is nested deeper than {DEEPEST} levels")
        if path[0] != "annotation":
            raise Unreadable(f"its XML contains {quoted(path[0], 20)}, not an annotation")
        if tuple(path) == _OBJECT:
            objects.append({})

    def end(name: str) -> None:
        within, value = tuple(path[:-1]), "".join(text).strip()
        text.clear()
        path.pop()
        into = size if within == _SIZE else objects[-1] if within in (_OBJECT, (*_OBJECT, "bndbox")) else None
        if into is None:
            return
        if name in into and name != "part":
            raise Unreadable(f"its XML has two of {quoted(name, 20)} where one is expected")
        into[name] = value

    def refuse(*_: object) -> None:
        raise Unreadable("its XML has a DOCTYPE, which may define entities: such files are not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise Unreadable(f"its XML is not well formed: line {error.lineno}, {reason}") from None
    except (ValueError, LookupError) as error:  # of encodings that are none
        raise Unreadable(f"its XML cannot be decoded: {error}") from None
    return size, objects


def _thing(fields: Fields, place: str) -> Thing:
    name = fields.get("name", "")
    if not name or not name.isprintable():
        raise Unreadable(f"{place} of its XML has no name")
    x0, y0, x1, y1 = (_number(fields, side, f"the box of {place}") for side in _SIDES)
    if x1 < x0 or y1 < y0:
        raise Unreadable(f"the box of {place} runs from x = {x0:g} to {x1:g} and from y = {y0:g} to {y1:g}")
    return Thing(name=name, box=(x0, y0, x1, y1), difficult=fields.get("difficult", "0") not in ("", "0"))


def _number(fields: Fields, key: str, of: str) -> float:
    try:
        value = float(fields[key])
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise Unreadable(f"its XML has no number '{key}' for {of}")
    return value
