"""Weather: fog, frost and snow."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from advex.corruptions import filters
from advex.corruptions.corruption import Corruption, Fields, Size, corruption, normal, uniform
from advex.data.images import decode
from advex.data.source import Unreadable
from advex.errors import SpecError
from advex.files import at_home

_LUMA = (0.299, 0.587, 0.114)


@corruption(
    "fog",
    {
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    },
)
class Fog(Corruption):
    """A fractal cloud, added so that the brightest value stays what it was.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"cloud": 2 * uniform(seeds, "fog", _side(size) ** 2 - 1) - 1}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        strength, decay = self.parameters(x.shape)
        cloud = plasma(fields["cloud"], _side(x.shape), decay)[:, None, : x.shape[2], : x.shape[3]]
        brightest = x.amax(dim=(1, 2, 3), keepdim=True)
        return (x + strength * cloud) * brightest / (brightest + strength)


def _side(size: tuple[int, ...]) -> int:
    """The power of two that is no less than a picture's sides."""
    return 1 << (max(size[-2:]) - 1).bit_length()


def plasma(draws: Tensor, side: int, decay: float) -> Tensor:
    """A fractal height map [n, side, side] from 0 to 1, by diamonds and squares.

    draws: [n, side^2 - 1] in [-1, 1), in the order in which places get their height. side: a power of two. decay: of
    the roughness, at every halving of the distance.
    """
    heights, step, rough, taken = draws.new_zeros(len(draws), side, side), side, 100.0, 0
    while step >= 2:
        half, count = step // 2, side // step

        def settled(total: Tensor, rough: float = rough, count: int = count) -> Tensor:
            nonlocal taken
            drawn = draws[:, taken : taken + count * count].reshape(-1, count, count)
            taken += count * count
            return total / 4 + rough * rough * drawn

        corner = heights[:, ::step, ::step]
        pairs = corner + corner.roll(-1, 1)
        centre = settled(pairs + pairs.roll(-1, 2))
        heights[:, half::step, half::step] = centre
        heights[:, ::step, half::step] = settled(centre + centre.roll(1, 1) + corner + corner.roll(-1, 2))
        heights[:, half::step, ::step] = settled(centre + centre.roll(1, 2) + corner + corner.roll(-1, 1))
        step, rough = half, rough / decay
    heights = heights - heights.amin(dim=(1, 2), keepdim=True)
    return heights / heights.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)


@corruption(
    "snow",
    {
        32: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        64: (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    },
)
class Snow(Corruption):
    """Flakes that fall from -135 to -45 degrees, on a picture that is brighter and paler.

    severity: 1 to 5.
    """

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        return {"flakes": normal(seeds, "snow", *size[1:]), "angle": 90 * uniform(seeds, "snow: angle", 1)[:, 0] - 135}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        mean, std, zoom, least, radius, sigma, mix = self.parameters(x.shape)
        height, width = x.shape[2:]
        rows, columns = (filters.zoom_matrix(x, side, zoom) for side in (height, width))
        flakes = filters.separable((mean + std * fields["flakes"])[:, None], rows, columns)
        flakes = filters.moved(torch.where(flakes < least, 0.0, flakes.clamp(0, 1)), radius, sigma, fields["angle"])
        flakes = (255 * flakes).round()[:, :, :height, :width] / 255
        grey = x if x.shape[1] == 1 else (x * x.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        pale = mix * x + (1 - mix) * torch.maximum(x, 1.5 * grey + 0.5)
        return pale + flakes + flakes.flip((2, 3))


@corruption(
    "frost",
    {
        32: ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        64: ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        224: ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    },
)
class Frost(Corruption):
    """Ice on the window: a part of a picture of frost, added.

    severity: 1 to 5. frost: a folder of such pictures, the first 64 by name; empty: a texture is generated, and the
    figures are listed as `frost*`, since they are not those of the published pictures.
    """

    frost: str = ""

    def __post_init__(self) -> None:
        if self.frost:
            _pictures(self.frost)  # refuses a folder without any

    @property
    def title(self) -> str:
        """With a star where the texture is generated."""
        return self.name if self.frost else f"{self.name}*"

    @property
    def digest(self) -> str:
        """Of the pictures of the folder."""
        return hashlib.sha256(b"".join(map(_bytes, _pictures(self.frost)))).hexdigest() if self.frost else ""

    def draw(self, size: Size, seeds: Tensor) -> Fields:
        """`place`: which picture, and where in it; `ice`: the texture, where no folder is given."""
        if not self.frost:
            side = _side(size)
            return {"ice": 2 * uniform(seeds, "frost: ice", 2, side * side - 1) - 1}
        return {"place": uniform(seeds, "frost", 3)}

    def apply(self, x: Tensor, fields: Fields) -> Tensor:
        picture, frost = self.parameters(x.shape)
        ice = self._cut(x, fields["place"]) if self.frost else _texture(fields["ice"], x)
        return picture * x + frost * (ice if x.shape[1] == 3 else ice.mean(dim=1, keepdim=True))

    def _cut(self, x: Tensor, place: Tensor) -> Tensor:
        """Parts [n, 3, height, width] of the folder's pictures."""
        height, width = x.shape[2:]
        pictures, shrunk = _pictures(self.frost), _SHRUNK[self.table(x.shape)]
        parts = []
        for which, down, right in place.tolist():
            path = pictures[int(which * len(pictures))]
            changed = path.stat().st_mtime_ns if path.is_file() else 0
            frost = _scaled(path, changed, shrunk, height, width)
            top, left = int(down * (frost.shape[1] - height + 1)), int(right * (frost.shape[2] - width + 1))
            parts.append(frost[:, top : top + height, left : left + width])
        return torch.stack(parts).to(x) / 255 if parts else x.new_zeros(0, 3, height, width)


_SHRUNK = {32: 0.2, 64: 0.3, 224: 1.0}  # pictures of frost, before a part is cut out
_MOST = 64  # pictures of a folder
_ICE = (0.80, 0.90, 1.0)


def _pictures(folder: str) -> tuple[Path, ...]:
    root = at_home(folder)
    pictures = sorted(path for path in root.glob("*") if path.suffix.lower() in decode.SUFFIXES)
    if not pictures:
        raise SpecError(f"frost={folder} is not a folder of pictures: give one, or omit frost.")
    return tuple(pictures[:_MOST])


def _bytes(path: Path) -> bytes:
    """A digest of a picture. Raises SpecError for what cannot be read, or is none."""
    try:
        with decode.quiet():
            decode.header(path)
        return hashlib.sha256(path.read_bytes()).digest()
    except (OSError, Unreadable) as error:
        reason = error if isinstance(error, Unreadable) else error.strerror
        raise SpecError(f"The frost picture {path} cannot be read: {reason}.") from None


@lru_cache(maxsize=_MOST)
def _scaled(path: Path, changed: int, shrunk: float, height: int, width: int) -> Tensor:
    """A picture of frost [3, at least height, at least width] uint8, as it was when it was last changed.

    Raises SpecError for what cannot be read.
    """
    try:
        with decode.quiet():
            picture = torch.from_numpy(np.array(decode.pixels(path, channels=3)))
    except Unreadable as error:
        raise SpecError(f"The frost picture {path} cannot be read: {error}.") from None
    sides, least = picture.shape[1:], (height, width)
    shrunk = max(shrunk, *(few / side for few, side in zip(least, sides, strict=True)))
    size = [max(round(side * shrunk), few) for few, side in zip(least, sides, strict=True)]
    if size == list(sides):
        return picture
    # Between the nearest four pixels, however many are left out: so the published data were made.
    return interpolate(picture[None].float(), size, mode="bilinear")[0].round().byte()


def _texture(draws: Tensor, x: Tensor) -> Tensor:
    """Needles of ice [n, 3, height, width]: ridges of one height map, thicker where another one is high."""
    side = _side(x.shape)
    ridge, thick = (plasma(each, side, 1.6)[:, None, : x.shape[2], : x.shape[3]] for each in draws.unbind(dim=1))
    needles = 1 - (torch.sin(4 * torch.pi * ridge)).abs()
    ice = (0.25 + 0.5 * thick + 0.5 * needles**3).clamp(0, 1)
    return ice * x.new_tensor(_ICE)[:, None, None]
