"""Where in a picture the thing lies that its label names: boxes and outlines, as pixels of x."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from advex.data.window import Window
from advex.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One entry per example; an example may have none.

    boxes: per example [k, 4] int64, k >= 0, as x0, y0, x1, y1: pixels of the picture as it is in x, both ends
    included. outlines: [n, height, width] bool, all False where there is none; None where the data have none at all.
    """

    boxes: tuple[Tensor, ...]
    outlines: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def located(self) -> Tensor:
        """[n] bool: something is known of where the example's thing lies."""
        boxed = torch.tensor([len(boxes) > 0 for boxes in self.boxes], dtype=torch.bool)
        return boxed if self.outlines is None else boxed | self.outlines.flatten(1).any(dim=1)

    def mask(self, index: int, size: tuple[int, int]) -> Tensor:
        """[height, width] bool: the outline of an example, else the union of its boxes. size: (height, width) of x."""
        if self.outlines is not None and bool(self.outlines[index].any()):
            return self.outlines[index]
        mask = torch.zeros(size, dtype=torch.bool)
        for x0, y0, x1, y1 in self.boxes[index].tolist():
            mask[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)] = True
        return mask

    def take(self, index: Sequence[int]) -> Evidence:
        """That of the chosen examples."""
        outlines = None if self.outlines is None else self.outlines[torch.tensor(index, dtype=torch.int64)]
        return Evidence(boxes=tuple(self.boxes[i] for i in index), outlines=outlines)

    @property
    def digest(self) -> str:
        """Changes with any box and any outline."""
        digest = hashlib.blake2b(repr([boxes.tolist() for boxes in self.boxes]).encode(), digest_size=16)
        if self.outlines is not None:
            digest.update(repr(tuple(self.outlines.shape)).encode())
            digest.update(np.packbits(self.outlines.cpu().numpy()).data)
        return digest.hexdigest()


def none_of(count: int) -> Evidence:
    """The evidence of so many examples of which nothing is known."""
    return Evidence(boxes=(torch.empty(0, 4, dtype=torch.int64),) * count)


def concatenate(parts: Sequence[Evidence], size: Sequence[int]) -> Evidence:
    """The evidence of several data sets, end to end. size: (height, width) of x."""
    outlines = None
    if any(part.outlines is not None for part in parts):
        every = (torch.zeros(len(p), *size, dtype=torch.bool) if p.outlines is None else p.outlines for p in parts)
        outlines = torch.cat(list(every))
    return Evidence(boxes=tuple(boxes for part in parts for boxes in part.boxes), outlines=outlines)


# -- from a picture to an example ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Region:
    """Where a thing lies in a picture, in the picture's pixels, before it is cut or scaled.

    box: its edges (left, top, right, bottom): the single pixel in column 3 of row 5 has 3, 5, 4, 6. outline: its pixels
    [height, width] bool in a window of the picture, if they are known; raises DataError where they cannot be read.
    """

    box: tuple[float, float, float, float]
    outline: Callable[[Window], np.ndarray] | None = None


def placed(regions: Iterable[Sequence[Region]], windows: Sequence[Window]) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence of examples, and sentences about what was lost. regions: per example. windows: one of each example.

    A box is clipped to its picture. One of which less than half the area is left in the window is none, and its outline
    neither. A pixel belongs to a box if its centre lies in it; a box between the centres has the nearest pixel.
    """
    boxes: list[Tensor] = []
    outlines: Tensor | None = None
    lost = unreadable = 0
    for row, (some, window) in enumerate(zip(regions, windows, strict=True)):
        kept = []
        for region in some:
            if (box := _placed(region.box, window)) is None:
                continue
            kept.append(box)
            if region.outline is None:
                continue
            try:
                mask = torch.from_numpy(region.outline(window))
            except DataError:
                unreadable += 1
                continue
            if outlines is None:
                outlines = torch.zeros(len(windows), *window.size, dtype=torch.bool)
            outlines[row] |= mask
        lost += bool(some) and not kept
        boxes.append(torch.tensor(kept, dtype=torch.int64).reshape(-1, 4))
    notes = []
    if lost:
        notes.append(f"{lost:,} of {len(windows):,} without evidence: less than half of the box was cut out")
    if unreadable:
        notes.append(f"{unreadable:,} outlines cannot be read, their boxes are taken")
    return Evidence(boxes=tuple(boxes), outlines=outlines), tuple(notes)


def _placed(box: Sequence[float], window: Window) -> tuple[int, int, int, int] | None:
    """Inclusive pixels of the example; None where less than half of the box is left."""
    height, width = window.of
    left, top, right, bottom = np.clip(box, 0, [width, height, width, height])
    inside = max(left, window.left), max(top, window.top), min(right, window.right), min(bottom, window.bottom)
    area, rest = ((b[2] - b[0]) * (b[3] - b[1]) for b in ((left, top, right, bottom), inside))
    if right <= left or bottom <= top or inside[2] <= inside[0] or inside[3] <= inside[1] or 2 * rest < area:
        return None
    (x0, y0), (x1, y1) = window.moved(np.reshape(inside, (2, 2)))
    (x0, x1), (y0, y1) = (_between(*ends, most) for *ends, most in ((x0, x1, window.size[1]), (y0, y1, window.size[0])))
    return x0, y0, x1, y1


def _between(low: float, high: float, count: int) -> tuple[int, int]:
    """The first and the last of `count` pixels whose centres lie in [low, high); if none does, the nearest pixel."""
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5)) - 1
    if last < first:
        first = last = min(int((low + high) / 2), count - 1)
    return first, last


def polygons(points: Sequence[np.ndarray]) -> Callable[[Window], np.ndarray]:
    """The outline of polygons, each [m, 2] (x, y) edges in a picture: the pixels whose centres lie in one of them."""
    return partial(_filled, points)


def _filled(points: Sequence[np.ndarray], window: Window) -> np.ndarray:
    mask = np.zeros(window.size, dtype=bool)
    for polygon in points:
        mask |= _inside(window.moved(polygon), *window.size)
    return mask


def _inside(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """[height, width] bool: pixels whose centres lie in a polygon, by the even-odd rule."""
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    middle = np.arange(height)[:, None] + 0.5
    crossed = (y0 <= middle) != (y1 <= middle)  # [height, m]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = np.where(crossed, x0 + (middle - y0) / (y1 - y0) * (x1 - x0), np.inf)
    # The first pixel to the right of each crossing; between an odd one and the next the polygon lies.
    first = np.clip(np.ceil(at - 0.5), 0, width).astype(int)
    flips = np.zeros((height, width + 1), dtype=int)
    np.add.at(flips, (np.arange(height)[:, None].repeat(first.shape[1], axis=1), first), 1)
    return (flips[:, :width].cumsum(axis=1) % 2).astype(bool)
