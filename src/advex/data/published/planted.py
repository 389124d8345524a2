"""Pictures of which it is known what tells their class: to judge explanations, and the measures that judge these."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from advex.data.chosen import seed_of
from advex.data.evidence import Region
from advex.data.source import Source, Split
from advex.errors import SpecError
from advex.registry import register

PATCH, _CELL, _EDGE, _MARK = 8, 10, 2, 3  # pixels: of a patch, from one to the next, around all, of the watermark
_PATCHES = 4  # in a picture, of which one tells the class
_TRAIN, _TEST = 3200, 600
# Cosine patterns by their frequencies along height and width: those of the classes, and those that mean nothing.
_CLASSES = ((1, 3), (3, 1), (2, 2), (3, 3), (2, 4), (4, 2), (4, 4), (1, 5))
_OTHERS = ((0, 2), (2, 0), (1, 1), (4, 0))


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Pictures [n, 3, side, side] uint8, and where things lie in them.

    labels: [n] int64. patches: [n, 4, 2], row and column of each patch's first pixel; the first patch of a picture is
    of a class (its own, where patches are informative). mark: whether there is a watermark in the lower right corner.
    """

    pictures: np.ndarray
    labels: np.ndarray
    patches: np.ndarray
    mark: bool


def _pattern(u: int, v: int) -> np.ndarray:
    """A product of cosines [8, 8] with a root mean square of 1."""
    waves = np.cos(np.pi * (np.arange(PATCH) + 0.5) * np.array([[u], [v]]) / PATCH)
    product = waves[0][:, None] * waves[1]
    return product / np.sqrt(np.square(product).mean())


def drawn(
    count: int, *, classes: int, side: int, amplitude: float, mark: bool, informative: bool, seed: int | tuple[int, ...]
) -> Planted:
    """So many pictures: smooth noise, four patches of equal energy at random places, and perhaps a mark."""
    from scipy.ndimage import uniform_filter  # all formats are imported to open one: this takes as long as most do

    rng = np.random.default_rng(seed)
    cells = (side - _EDGE) // _CELL
    labels = rng.integers(0, classes, count)
    noise = uniform_filter(rng.standard_normal((count, 3, side, side)), 3, mode="constant", axes=(2, 3))
    pictures = 0.5 + 0.1 * noise
    where = rng.permuted(np.tile(np.arange(cells**2), (count, 1)), axis=1)[:, :_PATCHES]
    patches = _EDGE + _CELL * np.stack(np.divmod(where, cells), axis=2)
    shown = labels if informative else rng.integers(0, classes, count)
    others = rng.integers(0, len(_OTHERS), (count, _PATCHES))
    colours = 0.7 + 0.3 * rng.random((count, _PATCHES, 3))
    signs = rng.choice([-amplitude, amplitude], (count, _PATCHES))
    for i, j in np.ndindex(count, _PATCHES):
        row, column = patches[i, j]
        pattern = _pattern(*(_CLASSES[shown[i]] if j == 0 else _OTHERS[others[i, j]]))
        pictures[i, :, row : row + PATCH, column : column + PATCH] += (
            signs[i, j] * colours[i, j, :, None, None] * pattern
        )
    if mark:
        hues = np.array([colorsys.hsv_to_rgb(k / classes, 0.9, 0.9) for k in range(classes)])
        pictures[:, :, -_MARK:, -_MARK:] = hues[labels][:, :, None, None]
    as_bytes = np.rint(255 * pictures.clip(0, 1)).astype(np.uint8)
    return Planted(pictures=as_bytes, labels=labels, patches=patches, mark=mark)


@register("dataset", "planted", examples=("classes=2,amplitude=0.05", "shortcut=watermark,informative=false"))
def planted(
    *,
    classes: int = 4,
    side: int = 32,
    amplitude: float = 0.16,
    shortcut: Literal["none", "watermark"] = "none",
    informative: bool = True,
    seed: int = 0,
) -> Source:
    """Textured noise with four small patches, of which one tells the class; where it lies is the evidence.

    3,200 pictures in `train`, 600 in `test`. The other three patches have other patterns of the same energy; colour and
    sign of each are random. Whether a network that is trained on them uses this evidence is to be tested, not assumed.
    classes: 2 to 8. side: of the pictures, at least 22. amplitude: of the patches, from black to white. shortcut: a
    coloured mark in the lower right corner that tells the class too, and is then evidence too. informative: false draws
    the patches independently of the class, so that the mark alone tells it. seed: of everything drawn.
    Raises SpecError for impossible options.
    """
    seed = seed_of(seed)
    cells = (side - _EDGE) // _CELL
    mark = shortcut == "watermark"
    if not (2 <= classes <= len(_CLASSES) and cells**2 >= _PATCHES and side <= 1024 and 0 < amplitude <= 0.5):
        least = _EDGE + _CELL * math.isqrt(_PATCHES)
        raise SpecError(
            f"planted needs 2 to {len(_CLASSES)} classes, a side of {least} to 1,024 and an amplitude above "
            f"0 and at most 0.5, not classes={classes}, side={side}, amplitude={amplitude}."
        )
    if shortcut not in ("none", "watermark"):
        raise SpecError(f"The shortcut of planted must be none or watermark, not '{shortcut}'.")
    if not (informative or mark):
        raise SpecError("With informative=false nothing distinguishes the classes: add shortcut=watermark.")

    def opened(part: int, count: int) -> Split:
        made = drawn(
            count,
            classes=classes,
            side=side,
            amplitude=amplitude,
            mark=mark,
            informative=informative,
            seed=(seed, part),
        )

        def evidence(i: int) -> list[Region]:
            regions = [
                Region(box=(column, row, column + PATCH, row + PATCH), other=number > 0)
                for number, (row, column) in enumerate(made.patches[i].astype(float).tolist())
                if informative or number
            ]
            return regions + ([Region(box=(side - _MARK, side - _MARK, side, side))] if mark else [])

        return Split(
            ids=[f"planted/{part}/{i:04d}" for i in range(count)],
            labels=made.labels,
            read=lambda rows: (made.pictures[row] for row in rows),
            evidence=evidence,
            others=True,
        )

    return Source(
        name="planted",
        class_names=tuple(f"pattern {u}-{v}" for u, v in _CLASSES[:classes]),
        splits={"train": lambda: opened(0, _TRAIN), "test": lambda: opened(1, _TEST)},
    )
