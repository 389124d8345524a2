"""The box: where inputs may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advex.geometry.norms import per_row
from advex.waits import asking_waits

# Passes over the elements by which a length within the box is found: at most, and where nobody asks whether it is.
_ASKED, _UNASKED = 64, 8


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

    def walls(self, x: Tensor) -> Walls:
        """How far each element of x may go, for those who ask more than once."""
        down, up = self.lower - x, self.upper - x
        # What these lead to is rounded once more: one place nearer, where that would be outside.
        down = torch.where(x + down < self.lower, torch.nextafter(down, torch.zeros_like(down)), down)
        up = torch.where(x + up > self.upper, torch.nextafter(up, torch.zeros_like(up)), up)
        if self.falls is not None:
            down = torch.where(self.falls, down, 0.0)
        if self.rises is not None:
            up = torch.where(self.rises, up, 0.0)
        return Walls(down, up)

    def confine(self, x: Tensor, delta: Tensor) -> Tensor:
        """delta, cut where x + delta would leave the box. Never longer than before: x lies in the box."""
        return self.walls(x).confine(delta)

    def free(self, x: Tensor, delta: Tensor, direction: Tensor) -> Tensor:
        """`direction` where x + delta can still follow it, 0 where the box is in the way."""
        return self.walls(x).free(delta, direction)

    def room(self, x: Tensor, direction: Tensor) -> Tensor:
        """How far each element of x can follow `direction`."""
        return self.walls(x).room(direction)

    def farthest(self, x: Tensor) -> Tensor:
        """The change that leads to the corner of the box farthest from x."""
        return self.walls(x).farthest().expand_as(x)

    def to_distance(self, x: Tensor, delta: Tensor, rmse: float, mask: Tensor | None = None) -> Tensor:
        """As `Walls.to_distance`."""
        return self.walls(x).to_distance(delta, rmse, mask)


@dataclass(frozen=True, eq=False)
class Walls:
    """The changes of an input that its box allows, element by element. down: [n, *shape], at most 0. up: at least 0."""

    down: Tensor
    up: Tensor

    def confine(self, delta: Tensor) -> Tensor:
        """As `Box.confine`."""
        return torch.minimum(torch.maximum(delta, self.down), self.up)

    def free(self, delta: Tensor, direction: Tensor) -> Tensor:
        """As `Box.free`."""
        return -self.free_gradient(delta, -direction)

    def free_gradient(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """`gradient`, 0 where the box does not let x + delta follow it downhill."""
        # Not x + delta against the box, which rounding may move off the wall.
        lowest = torch.where(delta >= self.up, 0.0, -math.inf).to(gradient)
        highest = torch.where(delta <= self.down, 0.0, math.inf).to(gradient)
        return gradient.clamp(lowest, highest)

    def room(self, direction: Tensor) -> Tensor:
        """As `Box.room`."""
        return torch.where(direction > 0, self.up, -self.down)

    def farthest(self) -> Tensor:
        """As `Box.farthest`."""
        return torch.where(-self.down > self.up, self.down, self.up)

    def to_distance(self, delta: Tensor, rmse: float, mask: Tensor | None = None) -> Tensor:
        """delta rescaled so that, cut to the box, its root mean square is exactly `rmse`.

        Where the whole box corner that delta points at is nearer than that, the corner is blended
        towards the farthest one; where the box itself is too small, the farthest corner is returned.
        """
        wanted, waits = rmse * rmse * math.prod(delta.shape[1:]), asking_waits(delta)
        # |cut(s * delta)|^2 is piecewise quadratic and rising in s: solve for s on the elements that
        # are not cut, until no further element is.
        # From 0 the solutions rise to the right one; from beyond it everything could be cut at once.
        scale, size, room = delta.new_zeros(len(delta)), delta.abs(), self.room(delta)
        cut_squares, squares = room.square(), delta.square()
        for _ in range(_UNASKED if waits else _ASKED):
            inside = size * per_row(scale, size) <= room
            held = torch.where(inside, 0.0, cut_squares).flatten(1).sum(dim=1)
            slope = torch.where(inside, squares, 0.0).flatten(1).sum(dim=1)
            solved = ((wanted - held).clamp_min(0) / slope.clamp_min(torch.finfo(delta.dtype).tiny)).sqrt()
            step = torch.where((slope > 0) & (solved < math.inf), solved, scale)
            if not waits and torch.allclose(step, scale, rtol=1e-7, atol=0):
                break
            scale = step
        result = self.confine(delta * per_row(scale, delta))
        short = result.flatten(1).square().sum(dim=1) < wanted * (1 - 1e-6)
        if waits or short.any():
            result = torch.where(per_row(short, delta), self._blend(result, wanted, mask), result)
        return result

    def _blend(self, start: Tensor, wanted: float, mask: Tensor | None) -> Tensor:
        """From start so far towards the farthest corner that the squares add up to `wanted`, or all the way."""
        far = self.farthest().expand_as(start)
        if mask is not None:
            far = far * mask
        # |start + t way|^2 is a quadratic that rises from below `wanted` at 0: of its roots the one above 0.
        way = far - start
        a, b, c = (pair.flatten(1).sum(dim=1) for pair in (way * way, start * way, start * start))
        c = c - wanted
        root = (b * b - a * c).clamp_min(0).sqrt()
        share = torch.where(b > 0, -c / (b + root), (root - b) / a)
        return torch.lerp(start, far, per_row(torch.where(share < 1, share, 1.0), start))
