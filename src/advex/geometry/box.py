"""The box: where inputs may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advex.geometry.norms import per_row


@dataclass(frozen=True, eq=False)
class Box:
    """The valid range of each input element: lower and upper broadcast against [*shape].

    rises, falls: [*shape] bool, whether an element may become larger, or smaller, than it was before any change;
    None: all may. (Columns of tables may be immutable or go one way alone.)
    """

    lower: Tensor
    upper: Tensor
    rises: Tensor | None = None
    falls: Tensor | None = None

    def to(self, like: Tensor) -> Box:
        """The same box with the type and on the device of `like`."""
        rises, falls = (None if part is None else part.to(like.device) for part in (self.rises, self.falls))
        return Box(self.lower.to(like), self.upper.to(like), rises, falls)

    def _walls(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest (at most 0) and the highest (at least 0) change of x that the box allows."""
        down, up = self.lower - x, self.upper - x
        # What these lead to is rounded once more: one place nearer, where that would be outside.
        down = torch.where(x + down < self.lower, torch.nextafter(down, torch.zeros_like(down)), down)
        up = torch.where(x + up > self.upper, torch.nextafter(up, torch.zeros_like(up)), up)
        if self.falls is not None:
            down = torch.where(self.falls, down, 0.0)
        if self.rises is not None:
            up = torch.where(self.rises, up, 0.0)
        return down, up

    def confine(self, x: Tensor, delta: Tensor) -> Tensor:
        """delta, cut where x + delta would leave the box. Never longer than before: x lies in the box."""
        down, up = self._walls(x)
        return torch.minimum(torch.maximum(delta, down), up)

    def free(self, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
        """`direction` where x + delta can still follow it, 0 where the box is in the way."""
        down, up = self._walls(x)  # not x + delta against the box, which rounding may move off the wall
        return torch.where(((delta <= down) & (direction < 0)) | ((delta >= up) & (direction > 0)), 0.0, direction)

    def room(self, x: Tensor, direction: Tensor) -> Tensor:
        """How far each element of x can follow `direction`."""
        down, up = self._walls(x)
        return torch.where(direction > 0, up, -down)

    def farthest(self, x: Tensor) -> Tensor:
        """The change that leads to the corner of the box farthest from x."""
        down, up = self._walls(x)
        return torch.where(-down > up, down, up).expand_as(x)

    def to_distance(self, x: Tensor, delta: Tensor, rmse: float, mask: Tensor | None = None) -> Tensor:
        """delta rescaled so that, cut to the box, its root mean square is exactly `rmse`.

        Where the whole box corner that delta points at is nearer than that, the corner is blended
        towards the farthest one; where the box itself is too small, the farthest corner is returned.
        """
        wanted = rmse * rmse * math.prod(x.shape[1:])

        def reach(candidate: Tensor) -> Tensor:
            return candidate.flatten(1).square().sum(dim=1)

        # |cut(s * delta)|^2 is piecewise quadratic and rising in s: solve for s on the elements that
        # are not cut, until no further element is.
        # From 0 the solutions rise to the right one; from beyond it everything could be cut at once.
        scale = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for _ in range(64):
            scaled = delta * per_row(scale, delta)
            cut = self.confine(x, scaled)
            inside = cut == scaled
            held = reach(torch.where(inside, 0.0, cut))
            slope = reach(torch.where(inside, delta, 0.0))
            solved = ((wanted - held).clamp_min(0) / slope.clamp_min(torch.finfo(x.dtype).tiny)).sqrt()
            step = torch.where((slope > 0) & torch.isfinite(solved), solved, scale)
            if torch.allclose(step, scale, rtol=1e-7, atol=0):
                break
            scale = step
        result = self.confine(x, delta * per_row(scale, delta))
        short = reach(result) < wanted * (1 - 1e-6)
        if short.any():
            result = torch.where(per_row(short, x), self._blend(x, result, delta, wanted, mask), result)
        return result

    def _blend(self, x: Tensor, start: Tensor, delta: Tensor, wanted: float, mask: Tensor | None) -> Tensor:
        far = self.farthest(x)
        if mask is not None:
            far = far * mask
        low, high = x.new_zeros(len(x)), x.new_ones(len(x))
        for _ in range(40):
            middle = (low + high) / 2
            blend = torch.lerp(start, far, per_row(middle, x))
            short = blend.flatten(1).square().sum(dim=1) < wanted
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return torch.lerp(start, far, per_row(high, x))
