"""Remove and debias: what the answer is once pixels are replaced by what their neighbours tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import PlainValidator
from torch import Tensor
from torch.nn.functional import conv2d

from advex import randomness
from advex.distances.channels import Channels
from advex.errors import SpecError
from advex.explainers.outputs import Rising as Output
from advex.measures.case import Case, Measured, Need, Of, Value, measure
from advex.measures.pixels import check_places, outputs, pixels, ranks
from advex.options import AtLeast0

UNSETTLED = "the replaced pixels could not be solved for"
_WEIGHTS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))  # of a pixel's eight neighbours
_TOLERANCE, _MOST = 1e-5, 1000  # residual of an equation, and steps


def as_shares(percent: object) -> tuple[float, ...]:
    """Shares of the pixels, from percentages. Raises SpecError.

    >>> as_shares((10, 30, 50))
    (0.1, 0.3, 0.5)
    """
    given = percent if isinstance(percent, tuple) else (percent,)
    shares = tuple(each / 100 for each in given if isinstance(each, int | float))
    if len(shares) < len(given) or not shares or not all(0 < share < 1 for share in shares):
        raise SpecError(f"percent must be percentages above 0 and below 100, such as 10-30-50, not {percent!r}.")
    return shares


_ORDERS = {"morf": "most_first", "lerf": "least_first"}
_FIGURES = {
    "most_first": Value(title="ROAD, most relevant pixels removed", better="low"),
    "least_first": Value(title="ROAD, least relevant pixels removed", better="high"),
    "combined": Value(title="ROAD", better="high"),
}
Shares = Annotated[int | tuple[int, ...], PlainValidator(lambda value: as_shares(value) and value)]


@measure(
    "road",
    cites="rong2022 (remove and debias)",
    examples=("shares=50,noise=0,output=logit", "order=morf", "order=lerf,shares=20"),
)
class Road:
    """The output after a share of the pixels is replaced by weighted means of their neighbours, with a little noise.

    most_first: with the map's strongest pixels gone. least_first: with its weakest gone. combined: half the difference.
    Each is the mean over the shares. shares: of the pixels, in per cent. order: the strongest first (morf) or the
    weakest first (lerf), which gives the one figure at half the cost, or both. noise: its standard deviation, in units
    of the network's normalisation. output: probability or logit. channels: how those of a pixel become one value.
    """

    shares: Shares = (10, 30, 50)
    order: Literal["morf", "lerf", "both"] = "both"
    noise: AtLeast0 = 0.01
    output: Output = "probability"
    channels: Channels = "max_abs"

    of: ClassVar[Of] = "faithful"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    scale_free: ClassVar[bool] = True

    def check(self, case: Case) -> None:
        """Raise SpecError for inputs whose elements have no neighbours."""
        check_places(case)

    @property
    def values(self) -> Mapping[str, Value]:
        """The figures that the order gives."""
        return _FIGURES if self.order == "both" else {name: _FIGURES[name] for name in [_ORDERS[self.order]]}

    def __call__(self, case: Case) -> Measured:
        values, undefined = pixels(case, self.channels)
        rank, size = ranks(case, values), values[0].numel() if len(values) else 1
        counts = [round(share * size) for share in as_shares(self.shares)]
        first = [rank < count for count in counts] if self.order != "lerf" else []
        last = [rank >= size - count for count in counts] if self.order != "morf" else []
        gone = torch.stack([*first, *last], dim=1)
        noise = randomness.normal(case.x, case.seed, "road") * self.noise * case.classifier.std.reshape(-1, 1, 1)
        unsettled = torch.zeros(len(values), dtype=torch.bool, device=values.device)

        def points(i: Tensor, k: Tensor) -> Tensor:
            x, holes = case.x[i], gone[i, k][:, None]
            picture, settled = imputed(x, holes)
            unsettled[i[~settled]] = True
            return x + case.classifier.box.confine(x, picture + noise[i] * holes - x)

        answers = outputs(case, points, gone.shape[1], self.output)
        most, least = (answers[:, part].mean(dim=1) for part in (slice(len(first)), slice(len(first), None)))
        every = {"most_first": most, "least_first": least, "combined": (least - most) / 2}
        bad = torch.stack([*undefined.values()]).any(dim=0)
        return Measured(
            value={name: every[name] for name in self.values},
            undefined=undefined | {UNSETTLED: unsettled & ~bad},
        )


def imputed(x: Tensor, holes: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [n, c, height, width] in which each pixel of the holes [n, 1, height, width] is a weighted mean.

    Of its neighbours: directly beside it they count twice as much as across a corner, beyond the edge not at all. These
    linear equations (Rong et al. 2022, Sec. 4.2) are solved in all pictures at once by conjugate gradients with
    Jacobi's preconditioner, each picture until its largest residual is below 1e-5. Also returns [n] bool, which are.
    """
    given, x = x, x.float() if x.element_size() < 4 else x
    kernel = torch.tensor(_WEIGHTS, dtype=x.dtype, device=x.device).expand(x.shape[1], 1, 3, 3)

    def around(v: Tensor) -> Tensor:
        return conv2d(v, kernel, padding=1, groups=v.shape[1])

    holes = holes.to(x)
    known = x * (1 - holes)
    weights = around(torch.ones_like(x[:1]))  # less at the edges
    value = holes * known.sum(dim=(2, 3), keepdim=True) / (1 - holes).sum(dim=(2, 3), keepdim=True).clamp_min(1)
    residual = holes * (around(known) - weights * value + around(value))
    ahead = residual / weights
    direction, product = ahead, (residual * ahead).sum(dim=(2, 3), keepdim=True)
    for _ in range(_MOST):
        open = (residual.abs().amax(dim=(1, 2, 3)) >= _TOLERANCE).reshape(-1, 1, 1, 1)
        if not open.any():
            break
        applied = holes * (weights * direction - around(direction))
        length = product / (direction * applied).sum(dim=(2, 3), keepdim=True).clamp_min(1e-30) * open
        value, residual = value + length * direction, residual - length * applied
        ahead = residual / weights
        product, before = (residual * ahead).sum(dim=(2, 3), keepdim=True), product
        direction = ahead + product / before.clamp_min(1e-30) * direction
    return (known + value).to(given), residual.abs().amax(dim=(1, 2, 3)) < _TOLERANCE
