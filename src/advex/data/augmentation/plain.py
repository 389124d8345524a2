"""Augmentation for training: mirrored, shifted, resized and cut pictures, all of a batch at once.

A picture is changed along its rows and its columns separately. Each pixel of the window that is cut
from the (scaled, padded) picture is a copy of one source pixel or, where the picture is resized, a
convex combination of a few. So the box is never left, and a shift by whole pixels is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from advex.errors import InputError, SpecError, did_you_mean
from advex.randomness import uniform_for

Padding = Literal["replicate", "reflect"]
SPREAD = 4.0  # standard deviations on both sides of the mean that a standardised picture's values reach


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What may happen to a picture before it is trained on. By default nothing does.

    flip: mirrored left to right, half of the time.
    pad: shifted by up to so many pixels each way.
    padding: what lies beyond the edges. replicate: the pixel at the edge; reflect: the picture,
        mirrored about the centres of its outermost pixels (which are not repeated), and again where
        that does not reach far enough.
    resize: the picture is first scaled by a factor drawn uniformly from [low, high], to whole pixels.
        Where it is then larger than before, a window of the original size is cut at a place drawn
        uniformly; where it is smaller, it lies at such a place, and the padding fills the rest. `pad`
        moves the window up to so many pixels further. Interpolation is bilinear between the centres
        of pixels, and averages over 1 / factor pixels where the picture shrinks (no aliasing):
        torch's `interpolate(mode="bilinear", antialias=True)`.
    crop: side of the square window; 0: of the picture's own size.

    What is random is drawn independently, so switching one on leaves the others' draws alone.

    Raises SpecError for impossible values.
    """

    flip: bool = False
    pad: int = 0
    padding: Padding = "replicate"
    resize: tuple[float, float] | None = None
    crop: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise SpecError(f"Augmentation: flip must be true or false, not {self.flip!r}.")
        for name in ("pad", "crop"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SpecError(f"Augmentation: {name} must be a number of pixels, 0 or more, not {value!r}.")
        if self.padding not in get_args(Padding):
            hint = did_you_mean(str(self.padding), get_args(Padding))
            raise SpecError(f"Augmentation: unknown padding '{self.padding}': {hint}")
        if self.resize is not None:
            object.__setattr__(self, "resize", _factors(self.resize))

    def __call__(self, x: Tensor, index: Tensor, *, seed: int, epoch: int) -> Tensor:
        """The pictures as they look in this epoch, in x's type, device and memory format, and its shape but for `crop`.

        x: [n, channels, height, width] float in data space; anything with other than four dimensions
        comes back as it is. index: [n] integers, the examples' numbers in the data set.

        Row i depends on (seed, epoch, index[i]) and on x[i] alone: not on the batch, its order, the
        number of processes or the device. Raises InputError for what is not such a batch, and for
        pictures that are smaller than `crop`, or too small to be shifted by `pad` over reflected edges.
        """
        if x.ndim != 4:
            return x
        self._check(x, index)
        if not (self.flip or self.pad or self.resize) and self.crop in (0, x.shape[2]) and self.crop in (0, x.shape[3]):
            return x
        if not x.numel():
            return centre(x, self.crop)
        flip, top, left, factor = uniform_for(index, seed, f"augmentation|{epoch}", columns=4).to(x.device).unbind(1)
        rows, columns = self._axis(x.shape[2], top, factor), self._axis(x.shape[3], left, factor)
        if self.flip:
            columns = columns.mirrored(flip < 0.5)
        result = columns.blend(rows.blend(x.contiguous(), dim=2), dim=3)
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            result = result.contiguous(memory_format=torch.channels_last)
        return result

    def _check(self, x: Tensor, index: Tensor) -> None:
        if not x.is_floating_point():
            raise InputError(f"Augmentation needs pictures in data space (float), not {x.dtype}: divide bytes by 255.")
        if index.shape != x.shape[:1] or index.is_floating_point() or index.dtype == torch.bool:
            raise InputError(
                f"Augmentation needs one integer per picture: got {len(x)} pictures and an index of shape "
                f"{tuple(index.shape)} and dtype {index.dtype}."
            )
        smallest = min(x.shape[2:])
        if self.crop:
            _check_window(x, self.crop)
        if self.padding == "reflect" and self.pad and self.pad >= smallest:
            raise InputError(
                f"Pictures of {x.shape[2]}x{x.shape[3]} pixels cannot be shifted by {self.pad} with "
                f"reflected edges: use a pad below {smallest}, or padding 'replicate'."
            )

    def _axis(self, side: int, place: Tensor, factor: Tensor) -> _Axis:
        """Where the window's pixels are taken from along an axis of `side` pixels. place, factor: [n] in [0, 1)."""
        size = torch.full_like(place, side, dtype=torch.int64)
        taps = 1
        if self.resize is not None:
            low, high = self.resize
            least, most = (max(math.floor(side * bound + 0.5), 1) for bound in self.resize)
            scaled = (factor * (high - low) + low) * side
            size = (scaled + 0.5).floor().to(torch.int64).clamp(least, most)
            # The triangle of width 2 (in pixels of the coarser grid) covers at most so many source pixels.
            taps = math.ceil(2 * max(1.0, side / least))
        window = self.crop or side
        excess = size - window
        first, last = excess.clamp_max(0) - self.pad, excess.clamp_min(0) + self.pad
        start = first + (place * (last - first + 1)).to(torch.int64)  # 24 bits: no product is rounded up to the end
        at = start[:, None] + torch.arange(window, device=place.device)
        size = size[:, None]
        if self.padding == "reflect":
            period = (2 * size - 2).clamp_min(1)
            at = at.remainder(period)
            at = at.minimum(period - at)
        return _resampled(at.clamp_min(0).minimum(size - 1), size, side, taps)


def centre(x: Tensor, side: int) -> Tensor:
    """The central `side` x `side` pixels of pictures x [n, channels, height, width]; all of them where side is 0.

    What is looked at where nothing is drawn at random. Raises InputError for pictures that are smaller.
    """
    if not side or x.ndim != 4:
        return x
    _check_window(x, side)
    top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
    return x[:, :, top : top + side, left : left + side]


def standardised(x: Tensor) -> Tensor:
    """Pictures x [n, ...], float: of each the mean becomes 0.5 and the standard deviation 1/8, cut off at 4 deviations.

    A `Classifier` with mean=0.5, std=0.125 gives its network zero mean and unit variance from them. A picture of one
    value has no deviation: all of it becomes 0.5.
    """
    axes = tuple(range(1, x.ndim))
    deviation, mean = torch.std_mean(x, dim=axes, correction=0, keepdim=True)
    flat = x.amax(dim=axes, keepdim=True) == x.amin(dim=axes, keepdim=True)
    z = (x - mean) / deviation.where(~flat, 1)
    return (0.5 + z / (2 * SPREAD)).clamp(0, 1).where(~flat, 0.5)


def _check_window(x: Tensor, side: int) -> None:
    if min(x.shape[2:]) < side:
        raise InputError(
            f"Pictures of {x.shape[2]}x{x.shape[3]} pixels are smaller than the crop of {side}x{side}: open "
            "the data with larger pictures, or set a smaller window (crop)."
        )


def _factors(resize: object) -> tuple[float, float]:
    """The two factors of `resize`, lowest first, checked. Also taken as a list. Raises SpecError."""
    pair = tuple(resize) if isinstance(resize, list | tuple) else ()
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in pair)
    if len(pair) != 2 or not numbers or not 0 < pair[0] <= pair[1] < math.inf:
        raise SpecError(
            f"Augmentation: resize must be a lowest and a highest factor above 0, such as (0.75, 1.25), not {resize!r}."
        )
    return float(pair[0]), float(pair[1])


@dataclass(frozen=True)
class _Axis:
    """Of which source pixels each of the window's pixels along one axis is made.

    taps, weights: [n, window] int64 each, the nearest source pixel first, its weight the largest.
    """

    taps: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def mirrored(self, rows: Tensor) -> _Axis:
        """The same, back to front in the rows where `rows` [n] is true."""

        def turned(values: Tensor) -> Tensor:
            return torch.where(rows[:, None], values.flip(1), values)

        return _Axis(tuple(map(turned, self.taps)), tuple(map(turned, self.weights)))

    def blend(self, x: Tensor, dim: int) -> Tensor:
        """x [n, c, h, w], contiguous, resampled along its rows (dim 2) or columns (dim 3).

        A running mean: each tap's share of it is 1/2 at most, so rounding never leaves the range of what
        is combined. Every operation rounds once, on every device: how a batch is vectorised is no matter.
        """
        result, total = _taken(x, self.taps[0], dim), self.weights[0]
        dtype = torch.promote_types(x.dtype, torch.float32)
        for tap, weight in zip(self.taps[1:], self.weights[1:], strict=True):
            total = total + weight
            share = (weight.to(dtype) / total.to(dtype)).to(x.dtype)[:, None]
            result += _taken(x, tap, dim).sub_(result).mul_(share.unsqueeze(3 if dim == 2 else 2))
        return result


def _resampled(at: Tensor, size: Tensor, side: int, taps: int) -> _Axis:
    """What the pixels `at` [n, m] of pictures scaled from `side` to `size` [n, 1] pixels are made of.

    Pixel i covers [i, i + 1], so the centre of pixel j of `size` lies at (2 j + 1) side / (2 size) in
    the source. Everything is multiplied by 2 size: distances, and the weights of the triangle filter
    (radius: a pixel of the coarser grid), are then whole numbers, and their quotients the only rounding.
    """
    if taps == 1:
        return _Axis((at,), (torch.ones_like(at),))
    centre, pixel = (2 * at + 1) * side, 2 * size
    radius = pixel.clamp_min(2 * side)
    nearest = centre // pixel  # always inside the picture
    towards = torch.where(centre < (2 * nearest + 1) * size, -1, 1)
    chosen, weights = [], []
    for number in range(taps):  # by turns on both sides, outwards: no weight is above the one before it
        away = (number + 1) // 2
        source = nearest + towards * (away if number % 2 else -away)
        weight = (radius - (centre - (2 * source + 1) * size).abs()).clamp_min(0)
        weights.append(weight * ((source >= 0) & (source < side)))
        chosen.append(source.clamp(0, side - 1))
    return _Axis(tuple(chosen), tuple(weights))


def _taken(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """Of each picture of x [n, c, h, w], contiguous, its own rows (dim 2) or columns (dim 3): index [n, window]."""
    n, channels, height, width = x.shape
    if dim == 3:
        return x.gather(3, index[:, None, None, :].expand(-1, channels, height, -1))
    first = torch.arange(0, n * channels * height, height, device=x.device).reshape(n, channels, 1)
    taken = x.reshape(-1, width).index_select(0, (first + index[:, None, :]).flatten())
    return taken.reshape(n, channels, index.shape[1], width)
