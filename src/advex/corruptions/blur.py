"""Blur: out of focus, by motion, by zooming, and through frosted glass."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from advex.corruptions import filters
from advex.corruptions.corruption import Corruption, Fields, Size, corruption, uniform


@corruption(
    "defocus_blur",
    {
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    },
)
class DefocusBlur(Corruption):
    """A disk in the place of each pixel.

    severity: 1 to 5.
    """

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        kernel = _disk(x, *self.parameters(x.shape))
        channels = filters.padded(x, len(kernel) // 2, filters.MIRROR).flatten(0, 1)[:, None]
        return conv2d(channels, kernel[None, None]).reshape(x.shape)


def _disk(x: Tensor, radius: float, sigma: float) -> Tensor:
    """An even disk on a grid of pixels [2k + 1, 2k + 1], its edge smoothed by a Gaussian of 3 or 5 pixels."""
    grid, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    place = torch.arange(-grid, grid + 1, device=x.device)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).double()
    offset = torch.arange(-taps, taps + 1, dtype=torch.float64, device=x.device)
    smooth = torch.exp(-0.5 * (offset / sigma) ** 2)[None]
    smooth /= smooth.sum()
    around = filters.padded(disk / disk.sum(), taps, filters.MIRROR)[None, None]
    disk = conv2d(around, (smooth.T @ smooth)[None, None])[0, 0]
    reach = int(place[disk.amax(dim=0) > 0].abs().max())  # zeros around it would cost time
    return disk[grid - reach : grid + reach + 1, grid - reach : grid + reach + 1].to(x)


@corruption(
    "motion_blur",
    {
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    },
)
class MotionBlur(Corruption):
    """Along a line of random direction, from -45 to 45 degrees.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"angle": 90 * uniform(seeds, "motion_blur", 1)[:, 0] - 45}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        radius, sigma = self.parameters(x.shape)
        return filters.moved(x, radius, sigma, fields["angle"])


_ENDS = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))


@corruption(
    "zoom_blur",
    {32: _ENDS, 64: _ENDS, 224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))},
)
class ZoomBlur(Corruption):
    """The mean of the picture and of enlarged ones.

    severity: 1 to 5.
    """

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        end, step = self.parameters(x.shape)
        height, width = x.shape[2:]
        factors = np.arange(1, end, step).tolist()  # rounding adds a factor to some: so the published data were made
        total = x.clone()
        for factor in factors:
            rows = filters.zoom_matrix(x, height, factor)[:height]
            total += filters.separable(x, rows, filters.zoom_matrix(x, width, factor)[:width])
        return total / (len(factors) + 1)


@corruption(
    "glass_blur",
    {
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    },
)
class GlassBlur(Corruption):
    """Neighbouring pixels mixed up between two blurs.

    severity: 1 to 5. glass: `copy`, as the published data were made: a pixel takes its neighbour's value, and the
    neighbour keeps it; `swap`, as it was meant: they change places.
    """

    glass: Literal["copy", "swap"] = "copy"

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        _, reach, rounds = self.parameters(size)
        return {"shift": (2 * reach * uniform(seeds, "glass_blur", rounds, 2, *size[1:])).floor().long() - reach}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        """fields: `shift` [n, rounds, 2, height, width], to the right and down, from -reach to reach - 1."""
        sigma, reach, rounds = self.parameters(x.shape)
        levels = (255 * filters.gaussian(x, sigma) + 1e-3).floor() / 255
        height, width = x.shape[2:]
        place = torch.arange(height * width, device=x.device)
        row, column = place // width, place % width
        mixed = (row > reach) & (row <= height - reach) & (column > reach) & (column <= width - reach)
        held = place.expand(len(x), -1)  # the pixel whose value is at each place
        for k in range(rounds):
            right, down = fields["shift"][:, k].flatten(2).unbind(dim=1)
            other = torch.where(mixed, place + down * width + right, place)
            if self.glass == "copy":
                held = held.gather(1, _copied(other, mixed))
            else:
                held = _swapped(held, other, mixed, 2 * reach * row + column)
        held = held[:, None].expand(-1, x.shape[1], -1)
        return filters.gaussian(levels.flatten(2).gather(2, held).reshape(x.shape), sigma)


def _copied(other: Tensor, mixed: Tensor) -> Tensor:
    """Which place's value each place has once all have taken their other's value in turn, from the last to the first.

    An other that comes later in the row has had its turn by then, so its value is its own other's: a chain that ends
    where an other has not had its turn. All chains at once, each twice as long with every pass. other: [n, places].
    """
    place = torch.arange(other.shape[1], device=other.device)
    end = torch.where((other > place) & mixed[other], other, place)
    while not torch.equal(farther := end.gather(1, end), end):
        end = farther
    return other.gather(1, end)


def _swapped(held: Tensor, other: Tensor, mixed: Tensor, turn: Tensor) -> Tensor:
    """What each place holds once all have changed places with their other, from the last to the first.

    turn: [places]; those of one turn lie so far apart that they do not meet, and later ones that they may meet have
    lower turns.
    """
    held = held.clone()
    places = mixed.nonzero()[:, 0]
    order = turn[places].argsort(descending=True, stable=True)
    counts = torch.unique_consecutive(turn[places][order], return_counts=True)[1]
    for now in places[order].split(counts.tolist()):
        others = other[:, now]
        mine, theirs = held[:, now], held.gather(1, others)
        held[:, now] = theirs
        held.scatter_(1, others, mine)
    return held
