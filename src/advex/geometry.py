"""Norms and the box: where a search may go, and how far it went.

Everything works row by row on [n, *shape] tensors; sizes and radii are [n].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advex import randomness, registry
from advex.errors import SpecError
from advex.registry import register


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """[n] -> [n, 1, ..., 1], to be broadcast over rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _flat(delta: Tensor) -> Tensor:
    return delta.flatten(1)  # unlike reshape(n, -1), also where there are no rows


def _radii(radius: Tensor | float, delta: Tensor) -> Tensor:
    return torch.as_tensor(radius, dtype=delta.dtype, device=delta.device).expand(len(delta))


@dataclass(frozen=True, eq=False)
class Norm:
    """A way to measure a change, and what follows from it.

    size: delta [n, *shape] -> [n].
    project: (delta, radius) -> the nearest delta whose size is at most radius.
    steepest: gradient -> the step of size 1 that climbs fastest (zero where the gradient is zero).
    sample: (x, radius, seed) -> a delta drawn uniformly from the ball, per-row seeded.
    """

    name: str
    size: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor | float], Tensor]
    steepest: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, Tensor | float, int], Tensor]

    def __repr__(self) -> str:
        return self.name

    def per(self, width: float) -> Norm:
        """This norm of changes in units of `width`: steps and samples of size 1 are of that length in data space."""
        if width == 1:
            return self
        return Norm(
            self.name,
            lambda delta: self.size(delta / width),
            lambda delta, radius: self.project(delta / width, radius) * width,
            lambda gradient: self.steepest(gradient) * width,
            lambda x, radius, seed: self.sample(x, radius, seed) * width,
        )


def _shrink(delta: Tensor, size: Tensor, radius: Tensor) -> Tensor:
    # A hair inside the ball, so that rounding cannot leave it; a sum over more elements rounds more.
    hair = (4 + math.prod(delta.shape[1:]) / 4096) * torch.finfo(delta.dtype).eps
    factor = radius / size.clamp_min(torch.finfo(delta.dtype).tiny) * (1 - hair)
    return torch.where(per_row(size > radius, delta), delta * per_row(factor, delta), delta)


def _l2_size(delta: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_flat(delta), dim=1)


def _l2_project(delta: Tensor, radius: Tensor | float) -> Tensor:
    return _shrink(delta, _l2_size(delta), _radii(radius, delta))


def _l2_steepest(gradient: Tensor) -> Tensor:
    # The largest entry goes first: squares of tiny gradients underflow (a saturated softmax has them).
    largest = per_row(_linf_size(gradient), gradient)
    scaled = torch.where(largest > 0, gradient / largest, 0.0)
    return scaled / per_row(_l2_size(scaled).clamp_min(1.0), gradient)


def _l2_sample(x: Tensor, radius: Tensor | float, seed: int) -> Tensor:
    direction = _l2_steepest(randomness.normal(x, seed, "direction"))
    depth = randomness.uniform(_flat(x)[:, :1], seed, "depth").reshape(-1) if _flat(x).shape[1] else x.new_zeros(len(x))
    dimension = max(_flat(x).shape[1], 1)
    return _l2_project(direction * per_row(_radii(radius, x) * depth ** (1 / dimension), x), radius)


def _linf_size(delta: Tensor) -> Tensor:
    flat = _flat(delta).abs()
    return flat.amax(dim=1) if flat.shape[1] else flat.sum(dim=1)


def _linf_project(delta: Tensor, radius: Tensor | float) -> Tensor:
    bound = per_row(_radii(radius, delta), delta)
    return torch.minimum(torch.maximum(delta, -bound), bound)


def _linf_sample(x: Tensor, radius: Tensor | float, seed: int) -> Tensor:
    return (2 * randomness.uniform(x, seed, "cube") - 1) * per_row(_radii(radius, x), x)


def _l1_size(delta: Tensor) -> Tensor:
    return _flat(delta).abs().sum(dim=1)


def _l1_project(delta: Tensor, radius: Tensor | float) -> Tensor:
    """Euclidean projection into the L1 ball: soft-thresholding (Duchi et al. 2008, Fig. 1)."""
    flat, radius = _flat(delta), _radii(radius, delta)
    ordered = flat.abs().sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - radius[:, None]
    count = torch.arange(1, flat.shape[1] + 1, device=flat.device)
    last = (ordered * count > excess).sum(dim=1).clamp_min(1)
    threshold = (excess.gather(1, last[:, None] - 1)[:, 0] / last).clamp_min(0)
    inside = (flat.sign() * (flat.abs() - threshold[:, None]).clamp_min(0)).reshape(delta.shape)
    projected = torch.where(per_row(_l1_size(delta) > radius, delta), inside, delta)
    return _shrink(projected, _l1_size(projected), radius)


def _l1_steepest(gradient: Tensor) -> Tensor:
    flat = _flat(gradient)
    if not flat.shape[1]:
        return gradient
    step = torch.zeros_like(flat)
    where = flat.abs().argmax(dim=1, keepdim=True)
    return step.scatter(1, where, flat.gather(1, where).sign()).reshape(gradient.shape)


def _l1_sample(x: Tensor, radius: Tensor | float, seed: int) -> Tensor:
    # Signed exponentials, normalised, are uniform on the L1 sphere; u^(1/d) fills the ball.
    u = randomness.uniform(x, seed, "simplex")
    weights = -torch.log1p(-u.abs())
    signs = torch.where(randomness.uniform(x, seed, "signs") < 0.5, -1.0, 1.0).to(x)
    direction = signs * weights / per_row(_l1_size(weights).clamp_min(torch.finfo(x.dtype).tiny), x)
    depth = randomness.uniform(_flat(x)[:, :1], seed, "depth").reshape(-1)
    inside = direction * per_row(_radii(radius, x) * depth ** (1 / max(_flat(x).shape[1], 1)), x)
    return _shrink(inside, _l1_size(inside), _radii(radius, x))


def _root(delta: Tensor) -> float:
    return math.sqrt(max(math.prod(delta.shape[1:]), 1))


def _rmse_size(delta: Tensor) -> Tensor:
    return _l2_size(delta) / _root(delta)


def _rmse_project(delta: Tensor, radius: Tensor | float) -> Tensor:
    return _shrink(delta, _rmse_size(delta), _radii(radius, delta))


L1 = Norm("l1", _l1_size, _l1_project, _l1_steepest, _l1_sample)
L2 = Norm("l2", _l2_size, _l2_project, _l2_steepest, _l2_sample)
LINF = Norm("linf", _linf_size, _linf_project, torch.sign, _linf_sample)
# Root mean square: the unit of Woods et al. (0 = no change, 1 = black to white), L2 / sqrt(elements).
RMSE = Norm(
    "rmse",
    _rmse_size,
    _rmse_project,
    lambda gradient: _l2_steepest(gradient) * _root(gradient),
    lambda x, radius, seed: _rmse_project(_l2_sample(x, radius, seed) * _root(x), radius),
)


@register("norm", "l1")
def _l1() -> Norm:
    """The sum of absolute changes."""
    return L1


@register("norm", "l2")
def _l2() -> Norm:
    """The root of the sum of squared changes: Euclidean length."""
    return L2


@register("norm", "linf")
def _linf() -> Norm:
    """The largest absolute change of an element."""
    return LINF


@register("norm", "rmse")
def _rmse() -> Norm:
    """The root of the mean squared change: L2 / sqrt(elements); 1 is black to white."""
    return RMSE


_OURS = {norm.name: norm for norm in (L1, L2, LINF, RMSE)}  # without a look at plugins, which may be loading
_OTHER_NAMES = {"inf": "linf", "l_inf": "linf", "2": "l2", "1": "l1", "rms": "rmse"}


def as_norm(value: str | Norm) -> Norm:
    """`"linf"`, `"inf"`, `"l2"`, `"2"`, ... or a Norm -> Norm.

    Raises SpecError for an unknown name.
    """
    if isinstance(value, Norm):
        return value
    name = str(value).lower()
    name = _OTHER_NAMES.get(name, name)
    return _OURS.get(name) or registry.build("norm", name)


def as_radius(value: float | str) -> float:
    """A radius as a share of the box's width: 0.03 or `"8/255"` -> float.

    Raises SpecError unless it is a finite number of at least 0.

    >>> round(as_radius("8/255"), 4)
    0.0314
    """
    try:
        above, slash, below = value.partition("/") if isinstance(value, str) else (value, "", "")
        number = float(above) / float(below) if slash else float(above)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise SpecError(f"A radius is a number of at least 0 such as 0.03 or '8/255', not {value!r}.")
    return number


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
        at = x + delta
        low, high = at <= self.lower, at >= self.upper
        if self.falls is not None:
            low = low | (~self.falls & (delta <= 0))
        if self.rises is not None:
            high = high | (~self.rises & (delta >= 0))
        return torch.where((low & (direction < 0)) | (high & (direction > 0)), 0.0, direction)

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
            return _flat(candidate).square().sum(dim=1)

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
            short = _flat(blend).square().sum(dim=1) < wanted
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return torch.lerp(start, far, per_row(high, x))
