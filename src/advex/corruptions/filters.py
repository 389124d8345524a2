"""Filters that corruptions share: along rows and columns by matrices, along a line, and borders."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEAREST, REFLECT, MIRROR = "nearest", "reflect", "mirror"  # a|abcd|d, a|abcd|d mirrored about edges, and about pixels


def inside(index: Tensor, side: int, border: str) -> Tensor:
    """Places of a row of `side` pixels that stand for places beyond its ends, in scipy's names of borders."""
    if border == NEAREST:
        return index.clamp(0, side - 1)
    period = 2 * side if border == REFLECT else max(2 * side - 2, 1)
    index = index.remainder(period)
    return torch.where(index < side, index, period - index - int(border == REFLECT))


def padded(x: Tensor, margin: int, border: str) -> Tensor:
    """x [..., height, width] with `margin` more pixels on each side."""
    for dim in (-2, -1):
        side = x.shape[dim]
        index = torch.arange(-margin, side + margin, device=x.device)
        x = x.index_select(dim, inside(index, side, border))
    return x


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x [..., height, width] filtered by matrices [new height, height] and [new width, width]."""
    return rows @ x @ columns.T


def gaussian_matrix(x: Tensor, side: int, sigma: float, border: str, truncate: float) -> Tensor:
    """[side, side]: a Gaussian filter of a row, cut off at `truncate` standard deviations. On x's device."""
    reach = int(truncate * sigma + 0.5)
    offset = torch.arange(-reach, reach + 1, device=x.device)
    weight = torch.exp(-0.5 * (offset.double() / sigma) ** 2)
    index = inside(torch.arange(side, device=x.device)[:, None] + offset, side, border)
    matrix = torch.zeros(side, side, dtype=torch.float64, device=x.device)
    return matrix.scatter_add_(1, index, (weight / weight.sum()).expand(side, -1)).to(x)


def gaussian(x: Tensor, sigma: float, border: str = NEAREST, truncate: float = 4.0) -> Tensor:
    """x [..., height, width], blurred."""
    rows, columns = (gaussian_matrix(x, side, sigma, border, truncate) for side in x.shape[-2:])
    return separable(x, rows, columns)


def zoom_matrix(x: Tensor, side: int, factor: float) -> Tensor:
    """[new side, side]: the middle of a row of pixels, ends on ends, linearly enlarged to at least the old side."""
    part = math.ceil(side / factor)
    new = round(part * factor)
    at = torch.arange(new, dtype=torch.float64, device=x.device) * ((part - 1) / max(new - 1, 1))
    lower = at.floor().clamp_max(part - 1).long()
    start, share = (side - part) // 2, (at - lower)[:, None]
    matrix = torch.zeros(new, side, dtype=torch.float64, device=x.device)
    matrix.scatter_add_(1, (start + lower)[:, None], 1 - share)
    return matrix.scatter_add_(1, (start + (lower + 1).clamp_max(part - 1))[:, None], share).to(x)


def moved(x: Tensor, radius: int, sigma: float, angle: Tensor) -> Tensor:
    """x [n, channels, height, width] along a line: weights of half a Gaussian over 2 radius + 1 pixels.

    angle: [n], in degrees. Edges are repeated.
    """
    count, (height, width) = 2 * radius + 1, x.shape[2:]
    step = torch.arange(count, dtype=torch.float64, device=x.device)
    weight = torch.exp(-0.5 * (step / sigma) ** 2)
    turn = torch.deg2rad(angle.double())[:, None]
    down, right = (-(step * part - 0.5).ceil().long() for part in (turn.sin(), turn.cos()))  # [n, count]
    weights = (weight / weight.sum()).tolist()
    row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    blurred = torch.zeros_like(x)
    for k in range(count):
        rows = (row - down[:, k, None]).clamp(0, height - 1)
        columns = (column - right[:, k, None]).clamp(0, width - 1)
        place = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        blurred += weights[k] * x.flatten(2).gather(2, place).reshape(x.shape)
    return blurred
