"""Where in a picture the thing lies that its label names: boxes and outlines, as pixels of x."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One entry per example; an example may have none.

    boxes: per example [k, 4] int64, k >= 0, as x0, y0, x1, y1: pixels of the picture as it is in x, both ends
    included. outlines: [n, height, width] bool, all False where there is none; None where the data have none at all.
    """

    boxes: tuple[Tensor, ...]
    outlines: Tensor | None = None
