"""Boxes of pixels: their overlaps, those about a picture's centre, and those around the components of a map."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

NO_BOX = -1.0  # in the place of an IoU
# Shares of the picture's sides, of boxes about its centre that look at no map; the last is the whole picture.
SIDES = np.arange(1, 21) / 20


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[m, k]: intersection over union of boxes [m, 4] and [k, 4] as x0, y0, x1, y1, both ends included; disjoint: 0.

    >>> overlap(np.array([[0, 0, 9, 9]]), np.array([[0, 0, 9, 4], [22, 22, 31, 31]])).tolist()
    [[0.5, 0.0]]
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inside = (high - low + 1).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (first, second)]
    return inside / (areas[0][:, None] + areas[1] - inside)


def constant_boxes(size: tuple[int, int]) -> np.ndarray:
    """[k, 4]: boxes about the centre of a picture (height, width), with SIDES of its sides, of the pixels whose centres
    lie in them; the last is the whole picture.
    """
    height, width = size
    margins = np.round((1 - SIDES)[:, None] / 2 * [width, height], 9)
    first = np.minimum(np.ceil(margins - 0.5), [(width - 1) // 2, (height - 1) // 2]).astype(int)
    return np.concatenate([first, [width - 1, height - 1] - first], axis=1)


def overlaps(
    values: np.ndarray, thresholds: np.ndarray, truth: np.ndarray, *, connectivity: int = 8, every: bool = False
) -> np.ndarray:
    """[t] IoUs with the true boxes, the best of each, of the box around the largest component at each threshold.

    A pixel counts that is at least the threshold; NO_BOX where none does. All thresholds are labelled at once.

    values: [height, width]. thresholds: [t]. truth: [k, 4]. every: the best of all components' boxes.
    """
    ordered = np.sort(values, axis=None)
    counts = ordered.size - np.searchsorted(ordered, thresholds)
    # Thresholds between the same two values have the same pixels.
    distinct, place = np.unique(counts, return_inverse=True)
    best = np.full(len(distinct), NO_BOX)
    some = np.flatnonzero(distinct)
    if len(some):
        masks = values >= ordered[ordered.size - distinct[some]][:, None, None]
        level, boxes = components(masks, connectivity, every)
        np.maximum.at(best, some[level], overlap(boxes, truth).max(axis=1))
    return best[place]


def components(masks: np.ndarray, connectivity: int, every: bool) -> tuple[np.ndarray, np.ndarray]:
    """The components of masks [m, height, width], none empty: the mask of each, [c], and its box, [c, 4]; of each mask
    the largest alone unless every one is wanted.
    """
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[1] = ndimage.generate_binary_structure(2, 1 if connectivity == 4 else 2)
    answer: Any = ndimage.label(masks, structure)
    labels: np.ndarray = answer[0].reshape(len(masks), -1)
    kept = np.ones(answer[1] + 1, dtype=bool)
    kept[0] = False
    if not every:  # labels are numbered from the first mask to the last
        sizes, ends = np.bincount(labels.ravel()), labels.max(axis=1)
        kept[:] = False
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            kept[start + 1 + sizes[start + 1 : end + 1].argmax()] = True
    where = np.flatnonzero(kept[labels])
    if every:
        where = where[labels.ravel()[where].argsort(kind="stable")]
    edges = np.flatnonzero(np.diff(labels.ravel()[where], prepend=0))
    row, column = np.divmod(where % labels.shape[1], masks.shape[2])
    last = np.append(edges[1:], len(where)) - 1
    ends = np.minimum.reduceat(column, edges), row[edges], np.maximum.reduceat(column, edges), row[last]
    return where[edges] // labels.shape[1], np.stack(ends, axis=1)
