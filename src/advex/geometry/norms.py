"""Norms: how far a change goes, what it can do within a size, and which lie within one."""

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
    if not isinstance(radius, Tensor):
        return delta.new_full((len(delta),), radius)  # not a tensor made here and sent: that waits for the device
    return radius.to(delta).expand(len(delta))


@dataclass(frozen=True, eq=False)
class Norm:
    """A way to measure a change, and what follows from it.

    size: delta [n, *shape] -> [n].
    project: (delta, radius) -> the nearest delta whose size is at most radius.
    steepest: gradient -> the step of size 1 that climbs fastest (zero where the gradient is zero).
    sample: (x, radius, seed) -> a delta drawn uniformly from the ball, per-row seeded.
    fill: (direction, radius [n], room) -> the delta of at most that size, and in no element larger than room, that
    follows the direction furthest. Only of norms whose steepest step moves so few elements that the box, which may not
    let it, has to be asked before.
    """

    name: str
    size: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor | float], Tensor]
    steepest: Callable[[Tensor], Tensor]
    sample: Callable[[Tensor, Tensor | float, int], Tensor]
    fill: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __repr__(self) -> str:
        return self.name

    def dual(self, gradient: Tensor) -> Tensor:
        """[n]: by how much a linear function of this gradient grows at most, per size of the change."""
        return (gradient * self.steepest(gradient)).flatten(1).sum(dim=1)

    def per(self, width: float) -> Norm:
        """This norm of changes in units of `width`: steps and samples of size 1 are of that length in data space."""
        if width == 1:
            return self
        fill = self.fill
        return Norm(
            self.name,
            lambda delta: self.size(delta / width),
            lambda delta, radius: self.project(delta / width, radius) * width,
            lambda gradient: self.steepest(gradient) * width,
            lambda x, radius, seed: self.sample(x, radius, seed) * width,
            fill and (lambda direction, radius, room: fill(direction, radius, room / width) * width),
        )


def _shrink(delta: Tensor, size: Tensor, radius: Tensor) -> Tensor:
    # A hair inside the ball, so that rounding cannot leave it; a sum over more elements rounds more.
    hair = (4 + math.prod(delta.shape[1:]) / 4096) * torch.finfo(delta.dtype).eps
    factor = radius / size.clamp_min(torch.finfo(delta.dtype).tiny) * (1 - hair)
    return delta * per_row(torch.where(size > radius, factor, 1.0), delta)


def _l2_size(delta: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_flat(delta), dim=1)


def _l2_project(delta: Tensor, radius: Tensor | float) -> Tensor:
    return _shrink(delta, _l2_size(delta), _radii(radius, delta))


def _l2_steepest(gradient: Tensor) -> Tensor:
    # The largest entry goes first: squares of tiny gradients underflow (a saturated softmax has them).
    largest = _linf_size(gradient)
    scaled = gradient / per_row(torch.where(largest > 0, largest, 1.0), gradient)
    return scaled / per_row(_l2_size(scaled).clamp_min(1.0), gradient)


def _l2_sample(x: Tensor, radius: Tensor | float, seed: int) -> Tensor:
    direction = _l2_steepest(randomness.normal(x, seed, "direction"))
    depth = randomness.uniform(_flat(x)[:, :1], seed, "depth").reshape(-1) if _flat(x).shape[1] else x.new_zeros(len(x))
    dimension = max(_flat(x).shape[1], 1)
    return _l2_project(direction * per_row(_radii(radius, x) * depth ** (1 / dimension), x), radius)


def _linf_size(delta: Tensor) -> Tensor:
    flat = _flat(delta).abs()  # not vector_norm, which takes 20 times as long on a CPU
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


def _l1_fill(direction: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """The elements of the largest slopes first, each as far as it has room, until the size is spent."""
    flat, room = _flat(direction), _flat(room)
    order = flat.abs().argsort(dim=1, descending=True)
    sorted_room = room.gather(1, order)
    spent = sorted_room.cumsum(dim=1) - sorted_room
    moved = torch.minimum((radius[:, None] - spent).clamp_min(0), sorted_room)
    return (torch.zeros_like(flat).scatter(1, order, moved) * flat.sign()).reshape(direction.shape)


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


def _l0_size(delta: Tensor) -> Tensor:
    return _flat(delta).count_nonzero(dim=1).to(delta)


L1 = Norm("l1", _l1_size, _l1_project, _l1_steepest, _l1_sample, _l1_fill)
L2 = Norm("l2", _l2_size, _l2_project, _l2_steepest, _l2_sample)
LINF = Norm("linf", _linf_size, _linf_project, torch.sign, _linf_sample)
# How many elements change. It has no ball to step or to draw in: of the rest it has what L1 has.
L0 = Norm("l0", _l0_size, _l1_project, _l1_steepest, _l1_sample)
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
        raise SpecError(f"A radius must be a number of at least 0 such as 0.03 or '8/255', not {value!r}.")
    return number
