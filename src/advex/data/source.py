"""What every kind of data set turns into before an image is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advex.data.evidence import Region
from advex.data.window import Cut
from advex.errors import DataError, did_you_mean


class Unreadable(Exception):
    """One image cannot be read; the message is the reason, in a few words."""


# A file, the bytes of one, pixels [c, h, w] that need no decoding, or are cut out of a picture, or why there are none.
Encoded = Path | bytes | np.ndarray | Cut | Unreadable


@dataclass(frozen=True, kw_only=True)
class Split:
    """The examples of one split, not yet decoded.

    ids: one per example, unique. labels: [n] int64 into the source's class names; one outside them
    marks an example without a class. read: rows in ascending order -> one encoded image each, in
    that order. notes: what else was met, as sentences. evidence: row -> where in its (upright) picture the thing lies
    that its label names; None where the source does not say.
    """

    ids: Sequence[str]
    labels: np.ndarray
    read: Callable[[Sequence[int]], Iterator[Encoded]]
    notes: tuple[str, ...] = ()
    evidence: Callable[[int], Sequence[Region]] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that was found: its classes, the same for every split, and how to open each split.

    A source without splits has one, named "".
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Callable[[], Split]]

    def choose(self, split: str | None) -> str:
        """The split asked for, or the only one. Raises DataError, naming those there are."""
        named = sorted(filter(None, self.splits))
        if split is None:
            if len(self.splits) > 1:
                raise DataError(
                    f"{self.name} has several splits: {', '.join(named)}. Name one, e.g. split='{named[0]}' "
                    f"(--split {named[0]})."
                )
            return next(iter(self.splits))
        if not named:
            raise DataError(f"{self.name} has no splits, and '{split}' was asked for. Leave split away.")
        if split not in named:
            raise DataError(f"{self.name} has no split '{split}': {did_you_mean(split, named)}")
        return split


def shortened(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
