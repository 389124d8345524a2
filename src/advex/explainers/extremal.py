"""Extremal perturbations (Fong et al. 2019): of all smooth masks of one area, the one that keeps most of the class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import PlainValidator
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, unfold

from advex import randomness
from advex.errors import SpecError
from advex.explainers.filling import blurred, pictures
from advex.explainers.maps import Attribution, AttributionMethod, AttributionRequest, explainer
from advex.explainers.outputs import output
from advex.layers import derivatives
from advex.options import Count

# The authors' settings for pictures of 224 pixels a side, in shares of the longer side.
_STEP, _SIGMA, _BLUR = 7 / 224, 21 / 224, 20 / 224
_LEVELS, _COLDNESS = 8, 20
# Values of a mask nearer than this are in an order by chance: at the start all are equal, and no side is favoured.
_TIE = 1e-6
# What the strongest blur changes of the logit that it changes most: gains are scaled to it, for networks of any logits.
_CHANGE = 60
# Numbers of a mask's parts that are in memory at once: what a core's cache holds; a GPU is sooner done with many.
_ROOM, _ROOM_ON_GPU = 2**19, 2**27
# Of the climb, for 800 steps.
_RATE, _MOMENTUM, _WEIGHT, _GROWTH = 0.01, 0.9, 300, 1.0035**800


def as_areas(value: object) -> float | tuple[float, ...]:
    """Shares of the picture above 0 and below 1, as typed or in Python: one number, or several. Raises SpecError.

    >>> as_areas("0.05-0.2"), as_areas(0.1)
    ((0.05, 0.2), 0.1)
    """
    pieces = value.split("-") if isinstance(value, str) else value if isinstance(value, tuple) else (value,)
    areas = [_number(piece) for piece in pieces]
    if not areas or not all(0 < area < 1 for area in areas):
        raise SpecError(
            f"Areas must be fractions of the picture above 0 and below 1, such as 0.1 or 0.05-0.2, not {value!r}."
        )
    return tuple(areas) if len(areas) > 1 else areas[0]


def _number(piece: Any) -> float:
    try:
        return float(piece)
    except (TypeError, ValueError):
        return math.nan


@explainer("extremal", cites="fong2019", shows="regions", examples=("areas=0.05-0.3,variant=dual", "variant=delete"))
class Extremal(AttributionMethod):
    """A smooth mask of a given area such that the picture, sharp inside and blurred outside, has the highest logit.

    areas: of the mask, as a share of the picture with its margin; of several the masks' mean is the map. steps:
    gradients per mask, in which the weight of the area grows 16-fold; every other one sees the picture mirrored.
    variant: preserve what raises the logit, delete what lowers it once it is blurred, or dual, the difference of both.
    Widths of masks and blurs are those of the paper at 224 pixels, in proportion; logits count in units of what the
    strongest blur changes.
    """

    areas: Annotated[float | str | tuple[float, ...], PlainValidator(as_areas)] = 0.1
    steps: Count = 800
    variant: Literal["preserve", "delete", "dual"] = "preserve"

    def attribute(self, request: AttributionRequest) -> Attribution:
        x = pictures(self, request)
        areas = x.new_tensor(self.areas).reshape(-1)
        masks = x.new_zeros(len(x) * len(areas), *x.shape[2:])

        def run(rows: slice) -> None:
            row = torch.arange(rows.start, min(rows.stop, len(masks)), device=x.device)
            i = row // len(areas)
            masks[row] = self._climbed(request, x[i], request.target[i], areas[row % len(areas)])

        request.passes(run, len(masks))
        values = masks.reshape(len(x), len(areas), 1, *x.shape[2:]).mean(dim=1).expand(x.shape)
        return Attribution(map=values, flat=request.blind(torch.ones_like(request.target, dtype=torch.bool)))

    def _climbed(self, request: AttributionRequest, x: Tensor, target: Tensor, area: Tensor) -> Tensor:
        """The masks [rows, height, width] after all steps: momentum on logit - weight |sorted mask - ideal|^2."""
        levels, smooth = blurs(x), Smooth(x)
        size = math.prod(smooth.size)
        chance = randomness.uniform_for(target.new_zeros(1), request.seed, "extremal", size).to(x)
        ideal = (torch.arange(size, device=x.device) >= (size * (1 - area)).long()[:, None]).to(
            x
        )  # 0, ..., 0, 1, ..., 1
        logits = request.logits(x)
        change = (logits - request.logits(levels[:, 0])).abs().amax(dim=1)
        change = change.maximum(0.05 * (logits.amax(dim=1) - logits.amin(dim=1)))  # else rounding is all that is scaled
        unit = torch.where(change > 0, _CHANGE / change, 0.0)
        values, velocity, mask = x.new_ones(len(x), *smooth.grid), None, x
        for step in range(self.steps):
            values = values.detach().requires_grad_(True)
            weight = _WEIGHT * _GROWTH ** (step / self.steps)
            with torch.enable_grad():
                whole = smooth(values)
                mask = smooth.inside(whole)
                order = (whole.detach().flatten(1) + _TIE * chance).argsort(dim=1)
                away = (whole.flatten(1).gather(1, order) - ideal).square().mean(dim=1)
                gain = torch.zeros_like(away)
                for sign, kept in ((1, mask), (-1, 1 - mask)):
                    if self.variant in ("dual", {1: "preserve", -1: "delete"}[sign]):
                        shown = between(levels, kept)
                        shown = shown.flip(3) if step % 2 == 0 else shown
                        gain = gain + sign * output(request.classifier, shown, target, "logit")
                (slope,) = derivatives(gain * unit - weight * away, [values])
            velocity = slope if velocity is None else _MOMENTUM * velocity + (1 - _MOMENTUM) * slope
            values = (values.detach() + _RATE * velocity).clamp(0, 1)
        return mask.detach()


def blurs(x: Tensor) -> Tensor:
    """Pictures from blurred beyond recognition to as they are: [n, levels, channels, height, width]."""
    sigmas = [_BLUR * (1 - level / (_LEVELS - 1)) for level in range(_LEVELS)]
    return torch.stack([blurred(x.flatten(0, 1), sigma).reshape(x.shape) for sigma in sigmas], dim=1)


def between(levels: Tensor, mask: Tensor) -> Tensor:
    """Pictures [n, channels, height, width] at the levels that a mask [n, height, width] says: 0 first, 1 last."""
    at = mask[:, None, None] * (_LEVELS - 1)
    k = at.detach().floor().clamp(max=_LEVELS - 2)
    index = k.long().expand(-1, -1, *levels.shape[2:])
    low, high = levels.gather(1, index), levels.gather(1, index + 1)
    return (low + (at - k) * (high - low))[:, 0]


class Smooth:
    """Masks from values on a grid: m(u) = max_i k(|u - u_i| / sigma) v_i, the maximum a soft one.

    grid: of the values, a step apart, from the first pixel on. size: of masks with a margin of sigma on each side. A
    pixel belongs to the cell of the grid's point at or before it, and sees the same points as the others of its cell.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape, longer = x.shape[2:], max(x.shape[2:])
        step, sigma = max(1, round(_STEP * longer)), _SIGMA * longer
        self.margin, self.step = round(sigma), step
        self.grid = [math.ceil(side / step) for side in self.shape]
        self.size = [side + 2 * self.margin for side in self.shape]
        reach, before = 1 + math.ceil(sigma / step), math.ceil(self.margin / step)  # before: cells of the first margin
        self.cells = [before + math.ceil((side + self.margin) / step) for side in self.shape]
        self.padding = [
            edge for points, cells in zip(reversed(self.grid), reversed(self.cells), strict=True)
            for edge in (reach + before, reach + cells - before - points)
        ]  # fmt: skip
        self.first = before * step - self.margin  # of the pixels in the cells
        near, inner = (torch.arange(*ends, device=x.device) for ends in ((-reach, reach + 1), (0, step)))
        along = (inner - step * near[:, None]).square()  # [near, step]
        apart = (along[:, None, :, None] + along[None, :, None, :]).double().sqrt() / sigma
        bells = (-2 * (apart - 0.5).clamp_min(0).square()).exp().to(x)
        self.kernel = bells.flatten(2).flatten(0, 1)  # [points, pixels of a cell]

    def __call__(self, values: Tensor) -> Tensor:
        """[n, *size] in [0, 1] from values [n, *grid] in [0, 1]."""
        near = unfold(pad(values[:, None], self.padding), math.isqrt(len(self.kernel)))  # [n, points, cells]
        # Sums round by how the rows lie in memory, and a climb from equal values makes much of it: each row for itself.
        rows = near.split(1 if near.device.type == "cpu" else len(near))
        parts = [_SoftMaximum.apply(each.transpose(0, 1).flatten(1), self.kernel) for each in rows]
        made = torch.cat(parts, dim=1).unflatten(1, (len(values), *self.cells)).unflatten(0, (self.step, self.step))
        whole = made.permute(2, 3, 0, 4, 1).flatten(3).flatten(1, 2)
        return whole[:, self.first : self.first + self.size[0], self.first : self.first + self.size[1]]

    def inside(self, whole: Tensor) -> Tensor:
        """The part of masks with their margin that lies on the picture."""
        return whole[:, self.margin : self.margin + self.shape[0], self.margin : self.margin + self.shape[1]]


class _SoftMaximum(torch.autograd.Function):
    """sum_i w_i e^(c w_i) / sum_i e^(c w_i) of w_i = k_i v_i, over the points i near each cell; c: the coldness.

    Some points at a time, in both directions: memory for all of many pictures costs more time than the exponentials.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: Tensor) -> Tensor:
        """[pixels of a cell, cells] from values [points, cells] in [0, 1] and kernel [points, pixels of a cell]."""
        above = values.new_zeros(kernel.shape[1], values.shape[1])
        below = torch.zeros_like(above)
        for _, _, weighted, heat in _some(values, kernel):
            below += heat.sum(dim=0)
            above += heat.mul_(weighted).sum(dim=0)
        maximum = above.div_(below)
        ctx.save_for_backward(values, kernel, below, maximum)
        return maximum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """d maximum / d w_i = e^(c w_i) (1 + c (w_i - maximum)) / sum_j e^(c w_j)."""
        values, kernel, below, maximum = ctx.saved_tensors
        share = slope / below
        constant, factor = share * (1 - _COLDNESS * maximum), share * _COLDNESS
        made = torch.empty_like(values)
        for points, k, weighted, heat in _some(values, kernel):
            made[points] = heat.mul_(weighted.mul_(factor).add_(constant)).mul_(k).sum(dim=1)
        return made, None


def _some(values: Tensor, kernel: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Of some points at a time: which, their k [points, pixels of a cell, 1], w = k v and e^(c w)."""
    room = _ROOM if values.device.type == "cpu" else _ROOM_ON_GPU
    count = max(1, room // (kernel.shape[1] * values.shape[1]))
    for first in range(0, len(values), count):
        points = slice(first, first + count)
        k = kernel[points, :, None]
        weighted = k * values[points, None]
        yield points, k, weighted, (_COLDNESS * weighted).exp_()
