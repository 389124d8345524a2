"""Distances that forgive a pixel's place by a little: LENS (Kamath et al. 2024).

N(S) are the pixels of the squares of 2w + 1 about those of S, cut off at the border of the picture. With w = 0 each is
the plain distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from advex.distances.channels import per_pixel
from advex.distances.distance import IncomparableError, OfMaps, largest, rows, where_finite
from advex.distances.kendall import Kendall
from advex.distances.spearman import Spearman
from advex.distances.top_k import TopK
from advex.errors import SpecError
from advex.registry import register


@dataclass(frozen=True)
class _Near(OfMaps):
    w: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.w < 0:
            raise SpecError(f"w must be a number of pixels, 0, 1, 2, ..., not {self.w}.")

    def pixels(self, *maps: Tensor) -> list[Tensor]:
        """Pictures [n, c, height, width] of the absolute values that are compared. Raises InputError for rows."""
        rows(*maps)  # of other shapes is refused
        if maps[0].ndim != 4:
            raise IncomparableError(
                "LENS needs pictures [n, channels, height, width]: the values of a row "
                f"{list(maps[0].shape[1:])} have no neighbours. Use the plain distance: top_k, kendall or "
                "spearman."
            )
        height, width = maps[0].shape[2:]
        if self.w >= max(height, width):
            raise IncomparableError(
                f"With w={self.w} all pixels of a map of {height}x{width} are near each other: use a smaller w."
            )
        sizes = [per_pixel(each, self.channels).abs() for each in maps]
        return [each if each.ndim == 4 else each[:, None] for each in sizes]


class _NearTop(_Near, TopK):
    def smooth(self, first: Tensor, second: Tensor) -> Tensor:
        """The share of the second map that does not lie near the first's largest k pixels."""
        if self.w == 0:
            return super().smooth(first, second)
        a, b = self.pixels(first, second)
        size = b.flatten(1) / largest(b.flatten(1))
        total, near = size.sum(dim=1), self.around(self.chosen(a)).flatten(1)
        outside = 1 - (size * near).sum(dim=1) / torch.where(total > 0, total, 1.0)
        return torch.where(near.any(dim=1), outside, math.nan)

    def chosen(self, sizes: Tensor) -> Tensor:
        """[n, c, height, width] bool: the k largest, zeros never; of equal values by one order for all maps."""
        values = sizes.detach().flatten(1)
        if self.k > values.shape[1]:
            raise IncomparableError(
                f"A map of {values.shape[1]} values has no {self.k} largest values: use a smaller k."
            )
        order = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(0)).to(values.device)
        top = order[values[:, order].argsort(dim=1, descending=True, stable=True)[:, : self.k]]
        return (torch.zeros_like(values).scatter(1, top, 1.0).bool() & (values > 0)).reshape(sizes.shape)

    def around(self, chosen: Tensor) -> Tensor:
        """[n, c, height, width] bool: N of the chosen pixels."""
        return max_pool2d(chosen.float(), 2 * self.w + 1, stride=1, padding=self.w) > 0

    def apart(self, first: Tensor, second: Tensor, *, forgiven: str) -> Tensor:
        """1 - the share of the one's largest pixels that lie near the other's, of that whose square is forgiven."""
        if self.w == 0:
            return super().__call__(first, second)
        a, b = self.pixels(first, second)
        s, t = self.chosen(a), self.chosen(b)
        both, chosen = (self.around(s) & t, t) if forgiven == "first" else (s & self.around(t), s)
        share = both.flatten(1).sum(dim=1) / chosen.flatten(1).sum(dim=1).clamp_min(1)
        apart = torch.where(s.flatten(1).any(dim=1), 1 - share, math.nan)  # of zeros: nothing to compare with
        return where_finite(a.flatten(1), b.flatten(1), apart.to(b))


@register("distance", "lens_recall", cites="kamath2024")
@dataclass(frozen=True)
class LensRecall(_NearTop):
    """1 - |N(S) and S'| / k: how many of the second map's k largest pixels do not lie near the first's.

    k: how many pixels a reader looks at. Zeros are never among the largest: of a map with fewer others, k is those.
    w: how many pixels away is near. channels: see `Channels`. Of several equal values those count that come first
    in one order, the same for all maps.
    """

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return self.apart(first, second, forgiven="first")


@register("distance", "lens_precision", cites="kamath2024")
@dataclass(frozen=True)
class LensPrecision(_NearTop):
    """1 - |S and N(S')| / k: how many of the first map's k largest pixels do not lie near the second's.

    k: how many pixels a reader looks at. Zeros are never among the largest: of a map with fewer others, k is those.
    w: how many pixels away is near. channels: see `Channels`. Of several equal values those count that come first
    in one order, the same for all maps.
    """

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return self.apart(first, second, forgiven="second")


class _Averaged(_Near):
    def rows(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Sizes averaged over each pixel's square: [n, d] each."""
        size = 2 * self.w + 1
        a, b = (
            # In double precision the sums of a square's values are exact: what is equal stays so.
            avg_pool2d(each.double(), size, stride=1, padding=self.w, count_include_pad=False).to(each).flatten(1)
            for each in self.pixels(first, second)
        )
        return a, b


@register("distance", "lens_kendall", cites="kamath2024")
@dataclass(frozen=True)
class LensKendall(_Averaged, Kendall):
    """Kendall's distance of maps whose absolute values are averaged over a square around each pixel.

    w: how many pixels away the square ends. channels: see `Channels`.
    """


@register("distance", "lens_spearman", cites="kamath2024")
@dataclass(frozen=True)
class LensSpearman(_Averaged, Spearman):
    """Spearman's distance of maps whose absolute values are averaged over a square around each pixel.

    w: how many pixels away the square ends. channels: see `Channels`.
    """
