"""Whether squares of a picture that weigh more in the map are those that the answer loses more by."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from advex.distances.channels import Channels
from advex.explainers.filling import Fill, filled
from advex.explainers.outputs import Rising as Output
from advex.measures.case import Better, Case, Measured, Need, Of, measure
from advex.measures.pixels import outputs, over, places
from advex.options import Count

ALL_ALIKE = "all squares weigh the same in the map, or the answer loses the same by each"


@measure("regions", cites="bhatt2020 (faithfulness correlation), of squares one at a time", examples=("side=2",))
class Regions:
    """Correlation (Pearson) of how much the output falls without each square with the square's share of the map.

    side: of the squares in pixels, at most half the picture's; those at the right and at the bottom may be smaller; of
    rows each column is a square. fill: what stands in the square's place: grey, the colour that the network is
    normalised by (mean; of rows always), or the blurred picture. output: probability or logit. channels: how
    those of a pixel become one value.
    """

    side: Count = 8
    fill: Fill = "grey"
    output: Output = "logit"
    channels: Channels = "max_abs"

    title: ClassVar[str] = "Faithfulness correlation, squares"
    better: ClassVar[Better] = "high"
    of: ClassVar[Of] = "faithful"
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    scale_free: ClassVar[bool] = True

    def __call__(self, case: Case) -> Measured:
        values, undefined = places(case, self.channels)
        square = self._squares(values[0] if len(values) else values.new_zeros(values.shape[1:]))
        count = int(square.max()) + 1
        empty = filled(case.classifier, case.x, self._fill(case))

        def points(i: Tensor, k: Tensor) -> Tensor:  # the first one is whole
            gone = over(case, square == (k - 1).reshape(-1, *[1] * square.ndim))
            return torch.where(gone, empty[i], case.x[i])

        answers = outputs(case, points, count + 1, self.output)
        lost = answers[:, :1] - answers[:, 1:]
        weight = values.new_zeros(len(values), count).index_add_(1, square.flatten(), values.flatten(1))
        (lost, size), (weight, heavy) = _centred(lost), _centred(weight)
        alike = ((size == 0) | (heavy == 0)) & ~torch.stack([*undefined.values()]).any(dim=0)
        return Measured(value=(lost * weight).sum(dim=1) / (size * heavy), undefined=undefined | {ALL_ALIKE: alike})

    def _fill(self, case: Case) -> Fill:
        return self.fill if case.x.ndim == 4 else "mean"

    def _squares(self, values: Tensor) -> Tensor:
        """Like the places [height, width] or [columns], the number of the square that each belongs to."""
        if values.ndim == 1:
            return torch.arange(len(values), device=values.device)
        height, width = values.shape
        side = min(self.side, math.ceil(max(height, width) / 2))
        rows, columns = (torch.arange(size, device=values.device) // side for size in (height, width))
        return rows[:, None] * (int(columns[-1]) + 1) + columns


def _centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values [n, k] less their means, exactly 0 where all are equal, and their norms [n]."""
    alike = (values == values[:, :1]).all(dim=1, keepdim=True)
    centred = torch.where(alike, 0.0, values - values.mean(dim=1, keepdim=True))
    return centred, centred.norm(dim=1)
