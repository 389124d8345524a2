"""What measures of place and of removal share: maps as one value per pixel, in order, and answers at many points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from pydantic import PlainValidator
from scipy import ndimage
from torch import Tensor

from advex import randomness
from advex.distances.channels import Channels, per_pixel
from advex.errors import SpecError
from advex.explainers.outputs import Of, output
from advex.explainers.request import AttributionRequest
from advex.measures.case import Case

NOT_FINITE = "the map is not finite"
CONSTANT = "the map is the same everywhere"


def _smoothing(value: object) -> object:
    known = value in ("none", "mean") or (isinstance(value, int | float) and 0 < value <= 1000)
    if isinstance(value, bool) or not known:
        raise SpecError(
            "The smoothing of a map must be none, mean or the sigma of a Gaussian in pixels, at most 1,000, not "
            f"{value!r}."
        )
    return value


Smoothing = Annotated[str | float, PlainValidator(_smoothing)]


def smoothed(values: np.ndarray, how: Smoothing) -> np.ndarray:
    """A map [height, width] by how: none, mean (of 3 x 3 pixels), or the sigma of a Gaussian; edges are mirrored."""
    if how == "none":
        return values
    return ndimage.uniform_filter(values, 3) if how == "mean" else ndimage.gaussian_filter(values, float(how))


def pixels(case: Case, channels: Channels) -> tuple[Tensor, dict[str, Tensor]]:
    """([n, height, width] float64, one value per pixel; reason -> [n] bool, the maps that put no pixel before another).

    A map that has one value in all channels of a pixel keeps it, with its sign. One that is not finite is 0 in the
    values. channels: see `per_pixel`; for `none` as for sum_abs, since a place has one value.
    Raises SpecError for inputs without places.
    """
    check_places(case)
    return merged(case.explanation.map, channels)


def check_places(case: Case) -> None:
    """Raise SpecError for inputs without places."""
    if case.x.ndim != 4:
        shape = tuple(case.x.shape[1:])
        raise SpecError(
            f"This measure needs pictures, not inputs of shape {shape}: omit it. For the columns of a table "
            "use deletion, insertion:fill=mean or regions."
        )


def places(case: Case, channels: Channels) -> tuple[Tensor, dict[str, Tensor]]:
    """As `pixels`; of rows one value per column, the elements of a category added up: [n, columns]."""
    if case.x.ndim != 2:
        return pixels(case, channels)
    owner = columns_of(case)
    maps = case.explanation.map.detach().double()
    summed = maps.new_zeros(len(maps), int(owner[-1]) + 1).index_add_(1, owner, maps)
    return merged(summed, channels)


def over(case: Case, which: Tensor) -> Tensor:
    """Truths of places [rows, *places] as they are of inputs: of a pixel for all channels, of a column's elements."""
    return which[:, None] if case.x.ndim == 4 else which[:, columns_of(case)]


def columns_of(case: Case) -> Tensor:
    """[d] int64: the column that each element of a row belongs to."""
    features = case.classifier.features
    owner = torch.arange(case.x.shape[1]) if features is None else features.owner
    return owner.to(case.x.device)


def merged(maps: Tensor, channels: Channels) -> tuple[Tensor, dict[str, Tensor]]:
    """Maps [n, c, height, width] as `pixels` has them; maps of rows [n, d] as one value per element: [n, d]."""
    maps = maps.detach().double()
    finite = maps.flatten(1).isfinite().all(dim=1)
    maps = torch.where(finite.reshape(-1, *[1] * (maps.ndim - 1)), maps, 0.0)
    if maps.ndim == 4:
        agree = (maps == maps[:, :1]).flatten(1).all(dim=1).reshape(-1, 1, 1)
        values = torch.where(agree, maps[:, 0], per_pixel(maps, "sum_abs" if channels == "none" else channels))
    else:
        values = per_pixel(maps, channels) if channels in ("sum", "relu") else maps.abs()
    flat = values.flatten(1)
    return values, {NOT_FINITE: ~finite, CONSTANT: finite & (flat == flat[:, :1]).all(dim=1)}


def ranks(case: Case, values: Tensor) -> Tensor:
    """The place of each pixel when the strongest comes first: like values [n, height, width], int64 from 0.

    Pixels of equal value come in an order drawn for the row from the case's seed: that of their numbers would be a map
    of its own.
    """
    flat = values.flatten(1)
    chance = randomness.uniform_for(randomness.numbers(case.x, case.seed), case.seed, "ties", flat.shape[1])
    mixed = chance.argsort(dim=1)
    order = mixed.gather(1, flat.gather(1, mixed).argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1).reshape(values.shape)


@torch.no_grad()
def outputs(case: Case, points: Callable[[Tensor, Tensor], Tensor], count: int, of: Of) -> Tensor:
    """The output of the class explained at `count` points for each example: [n, count] float64.

    points: (i, k), both [rows] int64 -> [rows, *shape], the k-th point of example i; they exist pass by pass only.
    """
    n, target = len(case), case.explanation.target
    values = torch.zeros(n * count, dtype=torch.float64, device=case.x.device)
    request = AttributionRequest(classifier=case.classifier, x=case.x, target=target, max_batch=case.max_batch)

    def run(rows: slice) -> None:
        row = torch.arange(rows.start, min(rows.stop, n * count), device=case.x.device)
        i = row // count
        values[row] = output(case.classifier, points(i, row % count), target[i], of).double()

    with case.classifier.frozen():
        request.passes(run, n * count)
    return values.reshape(n, count)
