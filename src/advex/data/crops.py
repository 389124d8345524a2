"""Which part of a picture is trained on: drawn anew each time from the seed, the epoch and the example's number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advex.data.window import Window
from advex.errors import SpecError
from advex.randomness import uniform_for


@dataclass(frozen=True)
class ShorterSide:
    """Pictures are scaled until their shorter side has a length drawn from `shorter`: pixels, both ends included.

    Raises SpecError for impossible ones.
    """

    shorter: tuple[int, int]

    def __post_init__(self) -> None:
        low, high = self.shorter
        if not 1 <= low <= high:
            raise SpecError(
                "resize: shorter must be a smallest and a largest number of pixels, such as [256, 480], not "
                f"[{low}, {high}]."
            )


def shorter_side(value: Any) -> Any:
    """A `ShorterSide` where a recipe says `{shorter: [LEAST, LARGEST]}`; whatever else it says. Raises ValueError."""
    if not isinstance(value, dict):
        return value
    pair = value.get("shorter")
    pair = pair if isinstance(pair, list | tuple) and len(value) == 1 else ()
    if len(pair) != 2 or not all(type(each) is int for each in pair):
        raise ValueError("it must be two factors, or {shorter: [LEAST, LARGEST]} in whole pixels")
    return ShorterSide((pair[0], pair[1]))


@dataclass(frozen=True)
class Crop:
    """One example at one time: three numbers in [0, 1), drawn for it, and the square that they choose.

    shorter: the lengths that the picture's shorter side may have (see `ShorterSide`), None where it is cut as always.
    side: of the square.
    """

    scale: float
    top: float
    left: float
    shorter: tuple[int, int] | None
    side: int

    def window(self, of: tuple[int, int]) -> Window:
        """The square in a picture of a (height, width): any place of the whole picture is as likely as any other.

        It is the one that scaling first and cutting then give, but that its place is no multiple of a pixel.
        """
        assert self.shorter is not None
        low, high = self.shorter
        span = min(of) * self.side / (low + int(self.scale * (high - low + 1)))
        (top, bottom), (left, right) = (
            (start := place * (length - span), min(start + span, length))
            for place, length in zip((self.top, self.left), of, strict=True)
        )
        return Window(of=of, left=left, top=top, right=right, bottom=bottom, size=(self.side, self.side))


@dataclass(frozen=True)
class Streaming:
    """How pictures are cut that are read anew each time that they are trained on; see `Crop`. Raises SpecError."""

    shorter: tuple[int, int] | None = None
    side: int = 0

    def __post_init__(self) -> None:
        if self.shorter is not None and not 1 <= self.side <= self.shorter[0]:
            raise SpecError(
                f"crop={self.side}: give the side of the square to cut from pictures whose shorter side has "
                f"at least {self.shorter[0]} pixels (resize), e.g. crop={self.shorter[0]}."
            )

    def crops(self, index: Tensor, *, seed: int, epoch: int) -> list[Crop]:
        """One per example. index: [n] int64, the examples' numbers in their data set: nothing else decides."""
        draws = uniform_for(index, seed, f"crop|{epoch}", columns=3).tolist()
        return [Crop(scale, top, left, self.shorter, self.side) for scale, top, left in draws]
