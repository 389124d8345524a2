"""How a picture was cut and scaled on its way into a data set, so that what is known of its places can follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a picture that became an example, and the size that it was scaled to.

    of: (height, width) of the picture. left, top, right, bottom: the edges of the part, in pixels of the picture; the
    whole of it has 0, 0, width, height. What lies beyond these is no picture. size: (height, width) of the example.
    """

    of: tuple[int, int]
    left: float
    top: float
    right: float
    bottom: float
    size: tuple[int, int]

    @classmethod
    def whole(cls, of: tuple[int, int]) -> Window:
        """All of a picture, as it is."""
        return cls(of=of, left=0, top=0, right=of[1], bottom=of[0], size=of)

    @classmethod
    def cut(cls, of: tuple[int, int], left: int, top: int, right: int, bottom: int) -> Window:
        """A part of a picture, at the size that it has there."""
        return cls(of=of, left=left, top=top, right=right, bottom=bottom, size=(bottom - top, right - left))

    @classmethod
    def centred(cls, of: tuple[int, int], size: tuple[int, int], share: float = 1.0) -> Window:
        """The largest part about the centre that has the shape of `size`; of its sides only `share`.

        >>> Window.centred((40, 30), (10, 10)).top
        5.0
        """
        height, width = of
        ratio = size[1] / size[0]
        across, down = (ratio * height, float(height)) if width / height >= ratio else (float(width), width / ratio)
        left, top = (width - share * across) * 0.5, (height - share * down) * 0.5
        return cls(of=of, left=left, top=top, right=left + share * across, bottom=top + share * down, size=size)

    @classmethod
    def letterbox(cls, of: tuple[int, int], side: int) -> Window:
        """All of a picture in the middle of a square, whose side its longer side has; the rest is no picture.

        >>> window = Window.letterbox((20, 40), 10)
        >>> window.moved(np.array([[0, 0], [40, 20]])).tolist()
        [[0.0, 2.0], [10.0, 7.0]]
        """
        height, width = (max(round(side * each / max(of)), 1) for each in of)
        across, down = of[1] / width, of[0] / height
        left, top = -((side - width) // 2) * across, -((side - height) // 2) * down
        return cls(of=of, left=left, top=top, right=left + side * across, bottom=top + side * down, size=(side, side))

    def then(self, other: Window) -> Window:
        """The window of a window: both steps as one. other: of the example that this one gives."""
        across, down = (self.right - self.left) / self.size[1], (self.bottom - self.top) / self.size[0]
        return Window(
            of=self.of,
            left=self.left + other.left * across,
            top=self.top + other.top * down,
            right=self.left + other.right * across,
            bottom=self.top + other.bottom * down,
            size=other.size,
        )

    def moved(self, points: np.ndarray) -> np.ndarray:
        """[m, 2] float64: where points (x, y) of the picture lie in the example."""
        corner = np.array([self.left, self.top])
        scale = np.array([self.size[1] / (self.right - self.left), self.size[0] / (self.bottom - self.top)])
        return np.round((np.asarray(points, np.float64) - corner) * scale, 9)

    def sampled(self, mask: np.ndarray) -> np.ndarray:
        """[height, width] of the example: the mask [height, width] of the picture at the centre of each pixel."""
        height, width = self.size
        rows = self.top + (np.arange(height) + 0.5) * (self.bottom - self.top) / height
        columns = self.left + (np.arange(width) + 0.5) * (self.right - self.left) / width
        rows, columns = (np.floor(np.round(centres, 9)).astype(int) for centres in (rows, columns))
        inside = [(at >= 0) & (at < count) for at, count in zip((rows, columns), mask.shape, strict=True)]
        taken = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
        return taken & inside[0][:, None] & inside[1]


@dataclass(frozen=True, eq=False)
class Cut:
    """pixels: [channels, height, width] of an example. window: which part of its picture they are."""

    pixels: np.ndarray
    window: Window
