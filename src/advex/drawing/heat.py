"""Maps as pictures: signed values in the colours that differences have, beside the picture or over it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from advex.drawing.pictures import colour_map

PERCENTILE = 99  # of the sizes of all values drawn on one scale: where it ends
_GREY = (0.299, 0.587, 0.114)  # brightness of red, green and blue


def summed(values: np.ndarray) -> np.ndarray:
    """A value for each pixel, [height, width]: the sum over the channels of [channels, height, width]."""
    return values.astype(np.float64).sum(axis=0)


def reach_of(maps: Iterable[np.ndarray]) -> float:
    """Where the symmetric scale of some maps ends: the 99th percentile of all sizes.

    The largest where that is 0 (few pixels count at all), and 0 where nothing counts.

    >>> reach_of([np.array([[2.0, -2.0]])]), reach_of([np.zeros((2, 2))])
    (2.0, 0.0)
    """
    sizes = np.concatenate([np.abs(values).ravel() for values in maps])
    return float(np.percentile(sizes, PERCENTILE) or sizes.max())


def coloured(values: np.ndarray, reach: float) -> np.ndarray:
    """[height, width] as uint8 [height, width, 3]: blue counts against the class, orange for it, near white not at all.

    Values beyond the reach have the colour of its end.
    """
    return colour_map()[np.round((_relative(values, reach) + 1) * 127).astype(np.uint8)]


def over(picture: np.ndarray, values: np.ndarray, reach: float) -> np.ndarray:
    """The map over the grey picture, uint8 [height, width, 3]: what counts more hides more of it.

    picture: [channels, height, width] in [0, 1], 1 or 3 channels. values: [height, width].
    """
    weights = np.array(_GREY if len(picture) == 3 else (1.0,))
    grey = 255 * np.tensordot(weights, picture.astype(np.float64), axes=1)[:, :, None]
    share = np.abs(_relative(values, reach))[:, :, None]
    return np.round((1 - share) * grey + share * coloured(values, reach)).clip(0, 255).astype(np.uint8)


def framed(pixels: np.ndarray, boxes: Iterable[tuple[Sequence[float], int]], times: int = 5) -> np.ndarray:
    """Pixels [height, width, 3] enlarged by a whole factor, with boxes' edges of two pixels.

    boxes: (x0, y0, x1, y1 of the small picture, both ends included; their grey, 0 to 255).
    """
    large = pixels.repeat(times, axis=0).repeat(times, axis=1).copy()
    for (x0, y0, x1, y1), grey in boxes:
        left, top, right, bottom = (round(times * each) for each in (x0, y0, x1 + 1, y1 + 1))
        large[top : top + 2, left:right] = large[bottom - 2 : bottom, left:right] = grey
        large[top:bottom, left : left + 2] = large[top:bottom, right - 2 : right] = grey
    return large


def legend() -> tuple[tuple[tuple[int, int, int], str], ...]:
    """The colours of maps, and what they mean."""
    against, nothing, favour = (tuple(map(int, colour_map()[place])) for place in (40, 127, 205))
    return (favour, "counts for the class"), (against, "against it"), (nothing, "not at all")  # pyright: ignore


def _relative(values: np.ndarray, reach: float) -> np.ndarray:
    """Values from -1 to 1."""
    return np.clip(values / reach, -1, 1) if reach else np.zeros_like(values)
