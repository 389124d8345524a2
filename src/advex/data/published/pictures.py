"""What the loaders of published data sets share: where a set lies, masks, and how pictures are cut in threads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from advex.data import threads
from advex.data.dataset import counted
from advex.data.evidence import Region
from advex.data.images import decode
from advex.data.source import Encoded, Unreadable, shortened
from advex.data.window import Cut, Window
from advex.errors import AdvexWarning, DataError, SpecError
from advex.files import at_home

Item = TypeVar("Item")
Result = TypeVar("Result")
Mask = Callable[[np.ndarray], np.ndarray]  # pixels [3, height, width] of a file -> [height, width] bool


def folder_of(name: str, root: str) -> Path:
    """The folder of a published set: `root`, or else `name` in the folder that ADVEX_DATA names. Raises DataError."""
    shared = os.environ.get("ADVEX_DATA")
    if not root and not shared:
        raise DataError(
            f"The folder of {name} is not known. Give it as '{name}:root=PATH', or set ADVEX_DATA to a "
            f"folder that contains '{name}'.",
            absent=True,
        )
    place = at_home(root) if root else Path(shared or "") / name
    if not place.is_dir():
        sentence = f"{place} is not a folder; expected {name} there. Give its folder as '{name}:root=PATH'."
        raise DataError(sentence, absent=not place.exists())
    return place


def empty_classes(labels: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    """A note on the classes that no label [n] is of, if there are any."""
    empty = [name for name, count in zip(names, np.bincount(labels, minlength=len(names)), strict=True) if not count]
    return (f"{counted(len(empty), 'class', 'classes')} without a picture ({shortened(empty)})",) if empty else ()


def check_cut(name: str, side: int, edge: int) -> None:
    """Raise SpecError unless a square of `side` can be cut from a picture whose shorter side is `edge`."""
    if side < 1 or edge < side:
        raise SpecError(
            f"{name}: side={side} and edge={edge} do not fit together: a square of `side` pixels is cut from "
            "a picture whose shorter side is `edge`."
        )
    most = Image.MAX_IMAGE_PIXELS  # no larger picture is read, either
    if most is not None and side * side > most:
        raise SpecError(f"{name}: side={side} is too large: a picture can have at most {most:,} pixels.")


def cut(pixels: np.ndarray, *, edge: int, side: int) -> Cut:
    """The central square of a picture that is scaled until its shorter side is `edge` pixels long.

    pixels: [channels, height, width] uint8, 1 or 3 channels; those of the result are [channels, side, side]. The square
    lies exactly in the middle (scaling first and cutting then moves it by up to half a pixel of the result).
    """
    return decode.scaled(pixels, Window.centred(pixels.shape[1:], (side, side), side / edge))


def read_cut(path: Path, *, edge: int, side: int) -> Cut:
    """As `cut`, of a file, in colour; what is not shown is never turned into pixels. Raises Unreadable."""
    return decode.decoded(path, channels=3, shown=lambda of: Window.centred(of, (side, side), side / edge))


def of_mask(path: Path, picture: Path, mask: Mask, what: str) -> list[Region]:
    """The outline of the thing that a file marks, and the tightest box about it.

    None, with a warning, where it marks nothing or is not a mask of that picture. what: the thing is called.
    """
    try:
        with decode.quiet():
            pixels, of = decode.pixels(path, channels=3), decode.header(picture).size
    except Unreadable as error:
        return _without(path, f"cannot be read as a mask: {error}")
    marked = mask(pixels)
    if not marked.any():
        colours = np.unique(pixels.reshape(3, -1), axis=1).T[:4].tolist()
        return _without(path, f"has no pixel of a {what} (colours: {colours})")
    if marked.shape != of:
        sizes = " and ".join(f"{height}x{width}" for height, width in (marked.shape, of))
        return _without(path, f"and its picture differ in size: {sizes}")
    (rows,), (columns,) = (np.nonzero(marked.any(axis=axis)) for axis in (1, 0))
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return [Region(box=box, outline=lambda window: window.sampled(marked))]


def _without(path: Path, reason: str) -> list[Region]:
    warnings.warn(f"{path} {reason}. Its picture gets no mask.", AdvexWarning, stacklevel=3)
    return []


def squares(paths: Iterable[Path], side: int) -> Iterator[Encoded]:
    """The files, or with a `side` their largest central squares, scaled to side x side pixels in colour."""

    def square(path: Path) -> list[Encoded]:
        try:
            return [read_cut(path, edge=side, side=side)]
        except Unreadable as error:
            return [error]

    return ahead(square, paths) if side else iter(paths)


def ahead(work: Callable[[Item], Iterable[Result]], items: Iterable[Item]) -> Iterator[Result]:
    """The results of `work` on each item, in order: computed in threads, a few items ahead of their use."""
    for results in threads.ahead(work, items):
        yield from results
