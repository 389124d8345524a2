"""What every kind of data set turns into before an image is decoded, and what each format says of itself."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol

import numpy as np

from advex.data import dealing
from advex.data.annotated.policy import MAJORITY, AnnotationPolicy
from advex.data.chosen import number_of, seed_of
from advex.data.crops import Crop
from advex.data.dataset import Dataset, Skipped
from advex.data.evidence import Region
from advex.data.window import Cut
from advex.errors import DataError, SpecError, did_you_mean
from advex.features import FeatureSpec


class Unreadable(Exception):
    """One image cannot be read; the message is the reason, in a few words. passing: the next try may end otherwise."""

    passing: bool = False


class Passing(str):
    """The reason of such a one that is passing."""


# A file, the bytes of one, pixels [c, h, w] that need no decoding, or are cut out of a picture, or why there are none.
Encoded = Path | bytes | np.ndarray | Cut | Unreadable


@dataclass(frozen=True)
class Header:
    """What is known of a picture before it is decoded. size: (height, width), upright. stamp: changes with its file."""

    size: tuple[int, int]
    grey: bool
    stamp: tuple[float, ...]


@dataclass(frozen=True)
class Anew:
    """How a split's examples are cut each time that they are trained on, if none is held (`images.streamed`).

    header: of a row; raises Unreadable where that is enough to know. cut: of a row what the crop chooses, in pixels, or
    the picture's file, from which the crop is then cut.
    """

    header: Callable[[int], Header]
    cut: Callable[[int, Crop], Encoded]


_MOST_WAYS = 64  # in which links may lead to one folder


@dataclass(frozen=True, kw_only=True)
class Split:
    """The examples of one split, not yet decoded.

    ids: one per example, unique. labels: [n] int64 into the source's class names; one outside them
    marks an example without a class. read: rows in ascending order -> one encoded image each, in
    that order. notes: what else was met, as sentences. evidence: row -> where in its (upright) picture the thing lies
    that its label names, and things of other classes if `others`; None where the source does not say. It raises
    Unreadable for an example of which nothing can be believed. lost: what could not become an example, and why. anew:
    where an example is a part of what its file shows; None of whole files, and of what has no files of its own.
    """

    ids: Sequence[str]
    labels: np.ndarray
    read: Callable[[Sequence[int]], Iterator[Encoded]]
    notes: tuple[str, ...] = ()
    evidence: Callable[[int], Sequence[Region]] | None = None
    others: bool = False
    lost: tuple[Skipped, ...] = ()
    anew: Anew | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a data set is read: the options of `open_dataset`. Raises SpecError for impossible ones.

    source: as it was named, with its options.
    """

    source: str = ""
    split: str | None = None
    size: tuple[int, int] | None = None
    channels: int | None = None
    max_samples: int | None = None
    seed: int = 0
    memory_limit: int = 8 * 2**30
    progress: Callable[[int, int], None] = lambda done, total: None
    features: FeatureSpec | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        numbers = [self.channels, self.max_samples, self.seed, *(self.size or ())]
        if wrong := [each for each in numbers if each is not None and number_of(each) is None]:
            raise SpecError(f"size, channels, max_samples and seed must be whole numbers, not {wrong[0]!r}.")
        seed_of(self.seed)
        if not isinstance(self.split, str | None):
            raise SpecError(f"split={self.split!r} must be the name of a split, such as 'test'.")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise SpecError(f"size={self.size} is not valid: give a side, or (height, width), of at least 1.")
        if self.channels not in (None, 1, 3):
            raise SpecError(f"channels={self.channels}: images must have 1 channel (grey) or 3 (colour).")
        if self.max_samples is not None and self.max_samples < 1:
            raise SpecError(f"max_samples={self.max_samples} is not valid: give at least 1.")


class Opened(Protocol):
    """A data set that was found; nothing of it is decoded."""

    @property
    def name(self) -> str:
        """What it is called in messages and in records."""
        ...

    @property
    def split_names(self) -> tuple[str, ...]:
        """Sorted; none where there is but one split without a name."""
        ...

    def ids(self, split: str | None) -> tuple[str, ...]:
        """Of all examples of a split, None for the only one. Raises DataError."""
        ...

    def read(self, how: Reading) -> Dataset:
        """A split as a data set. Raises DataError."""
        ...

    def dealt(self) -> Opened | None:
        """The same with the splits `train` and `test`, where it has none and can be dealt out (`dealing`)."""
        ...


@dataclass(frozen=True)
class Place:
    """A file or folder that may hold data. policy: which annotated pictures count, and how much."""

    path: Path
    policy: AnnotationPolicy = MAJORITY

    @cached_property
    def files(self) -> Sequence[PurePosixPath]:
        """All files below a folder, relative to it and sorted; none of a file. Raises DataError."""
        return files_below(self.path) if self.path.is_dir() else ()

    @property
    def suffix(self) -> str:
        """Of a file, with the dot, in lower case; of a folder empty."""
        return "" if self.path.is_dir() else self.path.suffix.lower()


class Format(Protocol):
    """A registered dataclass (kind "format", no options): one way in which data lie on a disk.

    reads: what, in words for a person. order: formats are asked in its order; those that know their files by special
    names come before those that take any file of a kind.
    """

    reads: ClassVar[str]
    order: ClassVar[int]

    def find(self, place: Place) -> Opened | None:
        """The data set there, or None where it is of another format. Raises DataError for a damaged one."""
        ...


def files_below(root: Path) -> list[PurePosixPath]:
    """All files below a folder, relative to it and sorted; hidden ones left out, links followed.

    Raises DataError for a folder that cannot be listed, and for links that lead to one folder by more than 64 ways.
    """
    return list(_walk(root, PurePosixPath(), (), Counter()))


def _walk(folder: Path, within: PurePosixPath, above: tuple[str, ...], ways: Counter[str]) -> Iterator[PurePosixPath]:
    real = os.path.realpath(folder)
    if real in above:  # a link that leads round in a circle
        return
    ways[real] += 1
    if ways[real] > _MOST_WAYS:  # a dozen folders that all link to each other have millions of paths
        raise DataError(f"{folder}: more than {_MOST_WAYS} chains of links lead to this folder. Remove some of them.")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.") from None
    for entry in entries:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link to itself, say: what reads it says that it cannot be read
            is_folder = False
        if is_folder:
            yield from _walk(folder / entry.name, within / entry.name, (*above, real), ways)
        else:
            yield within / entry.name


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set of pictures: its classes, the same for every split, and how to open each split.

    A source without splits has one, named "". indivisible: it is never dealt into parts, being one already. root: the
    folder or file that all of it is read from, by which it is seen whether it has changed; None where that is not said.
    Raises DataError where there is no split at all.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Callable[[], Split]]
    indivisible: bool = False
    root: Path | None = None

    def __post_init__(self) -> None:
        if not self.splits:
            raise DataError(f"{self.root or self.name} has no examples: its files and tables list none.")

    @property
    def split_names(self) -> tuple[str, ...]:
        """Sorted; none where there is but one split without a name."""
        return tuple(sorted(filter(None, self.splits)))

    def ids(self, split: str | None) -> tuple[str, ...]:
        """Of all examples of a split, without decoding one. Raises DataError."""
        return tuple(self.splits[self.choose(split)]().ids)

    def read(self, how: Reading) -> Dataset:
        """A split as a data set. Raises DataError."""
        from advex.data.images.loader import load  # which needs this module

        return load(self, how)

    def dealt(self) -> Source | None:
        """The same with a part that is held out, where it is undivided."""
        if set(self.splits) != {""} or self.indivisible:
            return None

        def part(name: str) -> Split:
            whole = self.splits[""]()
            rows = dealing.dealt(whole.labels)[name]
            evidence, anew = whole.evidence, whole.anew
            return Split(
                ids=[whole.ids[int(row)] for row in rows],
                labels=whole.labels[rows],
                read=lambda chosen: whole.read(rows[list(chosen)].tolist()),
                notes=(*whole.notes, dealing.described("images")),
                evidence=None if evidence is None else lambda row: evidence(int(rows[row])),
                others=whole.others,
                lost=whole.lost if name == dealing.LEARN else (),
                anew=None
                if anew is None
                else Anew(
                    header=lambda row: anew.header(int(rows[row])),
                    cut=lambda row, crop: anew.cut(int(rows[row]), crop),
                ),
            )

        return replace(self, splits={name: partial(part, name) for name in (dealing.LEARN, dealing.TEST)})

    def choose(self, split: str | None) -> str:
        """The split that is wanted, or the only one. Raises DataError, naming those there are."""
        named = self.split_names
        if split is None:
            if len(self.splits) > 1:
                raise DataError(
                    f"{self.name} has several splits: {', '.join(named)}. Choose one, e.g. "
                    f"split='{named[0]}' (--split {named[0]})."
                )
            return next(iter(self.splits))
        if not named:
            raise DataError(f"{self.name} has no splits, so '{split}' does not exist. Omit the split.", absent=True)
        if split not in named:
            raise DataError(f"{self.name} has no split '{split}': {did_you_mean(split, named)}", absent=True)
        return split


def shortened(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
