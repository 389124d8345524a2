"""Where in a picture the thing lies that its label names: boxes and outlines, as pixels of x."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
    distractor: [n] bool, a thing of another class is in the picture too; None where the data do not say. share: [n], of
    the picture's pixels in x those of the thing. picture: [n, 4] int64, what the picture fills of x, as a box; None
    where it fills all.
    """

    boxes: tuple[Tensor, ...]
    outlines: Tensor | None = None
    distractor: Tensor | None = None
    share: Tensor | None = None
    picture: Tensor | None = None

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

    def around(self, index: int) -> Tensor:
        """[k, 4]: the boxes of an example, else the one around its outline, else none."""
        if len(self.boxes[index]) or self.outlines is None or not bool(self.outlines[index].any()):
            return self.boxes[index]
        rows, columns = self.outlines[index].nonzero().T
        return torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])[None]

    def take(self, index: Sequence[int]) -> Evidence:
        """That of the chosen examples."""
        rows = torch.tensor(index, dtype=torch.int64)
        columns = {name: None if (all_ := getattr(self, name)) is None else all_[rows] for name in _COLUMNS}
        return Evidence(boxes=tuple(self.boxes[i] for i in index), **columns)

    @property
    def digest(self) -> str:
        """Changes with any box, any outline, and what else is said."""
        digest = hashlib.blake2b(repr([boxes.tolist() for boxes in self.boxes]).encode(), digest_size=16)
        if self.outlines is not None:
            digest.update(repr(tuple(self.outlines.shape)).encode())
            digest.update(np.packbits(self.outlines.cpu().numpy()).data)
        for values in (self.distractor, self.picture):
            digest.update(b"" if values is None else repr(values.tolist()).encode())
        return digest.hexdigest()


_COLUMNS = ("outlines", "distractor", "share", "picture")


def none_of(count: int) -> Evidence:
    """The evidence of so many examples of which nothing is known."""
    return Evidence(boxes=(torch.empty(0, 4, dtype=torch.int64),) * count)


def concatenate(parts: Sequence[Evidence], size: Sequence[int]) -> Evidence:
    """The evidence of several data sets, end to end. size: (height, width) of x.

    What only some of them say of distractors and shares is not known of the whole.
    """
    outlines = None
    if any(part.outlines is not None for part in parts):
        every = (torch.zeros(len(p), *size, dtype=torch.bool) if p.outlines is None else p.outlines for p in parts)
        outlines = torch.cat(list(every))
    joined = {"outlines": outlines}
    for name in ("distractor", "share"):
        every = [getattr(part, name) for part in parts]
        joined[name] = None if any(each is None for each in every) else torch.cat(every)
    if any(part.picture is not None for part in parts):
        whole = torch.tensor([0, 0, size[1] - 1, size[0] - 1])
        filled = [whole.expand(len(part), 4) if part.picture is None else part.picture for part in parts]
        joined["picture"] = torch.cat(filled)
    return Evidence(boxes=tuple(boxes for part in parts for boxes in part.boxes), **joined)


# -- from a picture to an example ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Region:
    """Where a thing lies in a picture, in the picture's pixels, before it is cut or scaled.

    box: its edges (left, top, right, bottom): the single pixel in column 3 of row 5 has 3, 5, 4, 6. outline: its pixels
    [height, width] bool in a window of the picture, if they are known; raises DataError where they cannot be read.
    other: it is a thing of another class, and so no evidence. of: the size (height, width) of the picture that the box
    was drawn in, where the source says it.
    """

    box: tuple[float, float, float, float]
    outline: Callable[[Window], np.ndarray] | None = None
    other: bool = False
    of: tuple[int, int] | None = None

    def beyond(self, of: tuple[int, int]) -> float:
        """By how many pixels the box reaches beyond a picture of a size (height, width); at most 0 if it does not."""
        left, top, right, bottom = self.box
        return max(-left, -top, right - of[1], bottom - of[0])


def placed(
    regions: Iterable[Sequence[Region]], windows: Sequence[Window], *, others: bool = False
) -> tuple[Evidence, tuple[str, ...]]:
    """The evidence of examples, and sentences about what was lost. regions: per example. windows: one of each example.
    others: things of other classes are among the regions, where there are any.

    A box is clipped to its picture. One of which less than half the area is left in the window is none, and its outline
    neither. A thing without an outline beside others that have one has its box among these. A pixel belongs to a box if
    its centre lies in it; a box between the centres has the nearest pixel.
    """
    boxes: list[Tensor] = []
    outlines: Tensor | None = None
    distractor = torch.zeros(len(windows), dtype=torch.bool)
    lost = unreadable = 0
    for row, (some, window) in enumerate(zip(regions, windows, strict=True)):
        kept, plain = [], []
        for region in some:
            if (box := _placed(region.box, window)) is None:
                continue
            if region.other:
                distractor[row] = True
                continue
            kept.append(box)
            try:
                mask = None if region.outline is None else torch.from_numpy(region.outline(window))
            except DataError:
                unreadable += 1
                mask = None
            if mask is None or not mask.any():
                plain.append(box)
                continue
            if outlines is None:
                outlines = torch.zeros(len(windows), *window.size, dtype=torch.bool)
            outlines[row] |= mask
        if outlines is not None and outlines[row].any():
            for x0, y0, x1, y1 in plain:
                outlines[row, y0 : y1 + 1, x0 : x1 + 1] = True
        lost += any(not region.other for region in some) and not kept
        boxes.append(torch.tensor(kept, dtype=torch.int64).reshape(-1, 4))
    notes = []
    if lost:
        notes.append(f"{lost:,} of {len(windows):,} without evidence: less than half of the box is inside the crop")
    if unreadable:
        notes.append(f"{unreadable:,} outlines cannot be read; their boxes are used instead")
    whole = [_filled_by(window) for window in windows]
    picture = torch.tensor(whole, dtype=torch.int64).reshape(-1, 4)
    if outlines is not None:
        for mask, (x0, y0, x1, y1) in zip(outlines, picture.tolist(), strict=True):
            mask[:y0], mask[y1 + 1 :], mask[:, :x0], mask[:, x1 + 1 :] = False, False, False, False
    known = Evidence(boxes=tuple(boxes), outlines=outlines)
    pixels = (picture[:, 2] - picture[:, 0] + 1) * (picture[:, 3] - picture[:, 1] + 1)
    area = torch.tensor([int(known.mask(row, window.size).sum()) for row, window in enumerate(windows)])
    padded = any(box != (0, 0, w.size[1] - 1, w.size[0] - 1) for box, w in zip(whole, windows, strict=True))
    return replace(
        known, distractor=distractor if others else None, share=area / pixels, picture=picture if padded else None
    ), tuple(notes)


def _filled_by(window: Window) -> tuple[int, int, int, int]:
    """The pixels of the example, as a box, that the picture fills."""
    low, high = window.moved(np.array([[0, 0], window.of[::-1]]))
    (x0, x1), (y0, y1) = (_between(*ends) for ends in zip(low.clip(0), high, window.size[::-1], strict=True))
    return x0, y0, min(x1, window.size[1] - 1), min(y1, window.size[0] - 1)


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
