"""Data sets as named on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from advex import data as sets
from advex.classifier import Classifier
from advex.data import Dataset, Streaming
from advex.data.dealing import LEARN
from advex.data.images.streamed import Examples
from advex.errors import SpecError
from advex.progress import QUIET, Terminal

# The splits to take where none is named, the first of them that a data set has.
TRAIN, TEST, VALIDATION = ("train",), ("test",), ("test", "validation", "val")
# Splits that nobody trains on by mistake; any other may be for training.
_HELD_OUT = frozenset(("test", "testing", "val", "valid", "validation", "dev"))


def open_split(
    source: str,
    split: str | None,
    say: Terminal = QUIET,
    *,
    prefer: Sequence[str] = (),
    max_samples: int | None = None,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    like: Examples | Classifier | None = None,
) -> Dataset:
    """A split, decoded with a progress bar, and a line about what was read and what was lost.

    split: its name; None: the first of `prefer` that the data have, else their only one. shape: (channels, height,
    width) or (height, width) wanted; None takes the pictures' own. like: of tables, the data or the classifier whose
    columns and classes these have too; without it they are shown as they are understood. Raises SpecError for a
    classifier of a table and data that are none.
    """
    features = None if like is None else like.features
    if isinstance(like, Classifier) and features is not None and not sets.is_table(source):
        raise SpecError(f"{source} is not a table, but the model needs rows of one.")
    wanted = shape if shape is not None and len(shape) in (2, 3) else ()
    size = (wanted[-2], wanted[-1]) if wanted else None
    channels = wanted[0] if len(wanted) == 3 else None
    with say.progress(f"read {source}", brief=True) as bar:
        data = sets.open_dataset(
            source, split=preferred(source, split, *prefer), max_samples=max_samples, seed=seed, size=size,
            channels=channels, progress=bar, features=features,
            class_names=None if like is None or features is None else like.class_names,
        )  # fmt: skip
    say.note(sets.describe(data))
    if data.features is not None and features is None:
        say.note("\n".join(aligned(sets.listed(data.features))))
    return data


def open_examples(
    source: str,
    split: str | None,
    say: Terminal = QUIET,
    *,
    streaming: Streaming | None = None,
    shape: Sequence[int] | None = None,
    **draw: Any,
) -> Examples:
    """Examples to train on: as `open_split`, or, where pictures are to be streamed and are files, their heads alone.

    draw: `prefer`, `max_samples` and `seed` as of `open_split`.
    """
    if streaming is not None:
        split = preferred(source, split, *draw.pop("prefer", ()))
        with say.progress(f"look at {source}", brief=True) as bar:
            size = None if shape is None else (shape[-2], shape[-1])
            data = sets.open_streamed(source, streaming, split=split, size=size, progress=bar, **draw)
        if data is not None:
            say.note(sets.describe(data))
            return data
    return open_split(source, split, say, shape=shape, **draw)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines, column under column; control characters from files do not reach the terminal."""
    clean = [["".join(c if c.isprintable() else "?" for c in cell)[:60] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return [f"  {'  '.join(map(str.ljust, row, widths))}".rstrip() for row in clean]


def split_to_learn(source: str, split: str | None) -> str | None:
    """The split to learn from: the one that is named, else `train`, which undivided data are dealt for."""
    return preferred(source, split, *TRAIN) or (LEARN if sets.is_dealt(source) else None)


def split_to_judge(source: str) -> str | None:
    """The first of the data's own splits that are held out, else `test`, which undivided data are dealt for."""
    return next(iter(held_out(source)), TEST[0] if sets.is_dealt(source) else None)


def held_out(source: str) -> list[str]:
    """The data's own splits that nobody trains on by mistake: `test` first, then those to validate on."""
    known = [name for name in sets.splits(source) if is_held_out(name)]
    return sorted(known, key=lambda name: [*VALIDATION, name.lower()].index(name.lower()))


def open_training(
    source: str,
    split: str | None = None,
    validation: str | None = None,
    say: Terminal = QUIET,
    *,
    shape: Sequence[int] | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    streaming: Streaming | None = None,
) -> tuple[Examples, Dataset | None, tuple[str | None, str | None]]:
    """The examples to train on, those to validate on between epochs (None where nothing is held out), and both splits.

    split, validation: see `split_to_learn`; without `validation` the first of the data's own that are held out. Those
    have the shape of the others, or (height, width) of `shape` where it says nothing of these (see `open_examples`).
    """
    trained = split_to_learn(source, split)
    draw = {"max_samples": max_samples, "seed": seed}
    examples = open_examples(source, trained, say, streaming=streaming, shape=shape, **draw)
    if validation is None and trained is not None and trained.lower() == LEARN:
        validation = split_to_judge(source)
    kept = None
    if validation is None:
        say.note(
            f"No part of {source} is held out, so it is not known how the network does on new data. Evaluate "
            "it on other data, or hold a part out (--validation SPLIT)."
        )
    else:
        seen = examples.shape if shape is None or isinstance(examples, Dataset) else (examples.shape[0], *shape[-2:])
        kept = open_split(source, validation, say, shape=seen, like=examples, **draw)
    return examples, kept, (trained, validation)


def is_held_out(split: str) -> bool:
    """Whether a split is, by its name, not to be learned from."""
    return split.lower() in _HELD_OUT


def preferred(source: str, split: str | None, *names: str) -> str | None:
    """The split, where one is named, else the first of `names` that the data have, else None: the only one.

    Data may write them in capitals: `Train` is `train`, unless they have both.
    """
    known = sets.splits(source)
    written = {name.lower(): name for name in known} | {name: name for name in known}
    return split or next((written[name] for name in names if name in written), None)


def shape_from(text: str) -> tuple[int, ...]:
    """`32`, `32x48` or `3x32x48` -> (height, width) or (channels, height, width). Raises SpecError."""
    pieces = text.lower().split("x")
    if not 1 <= len(pieces) <= 3 or not all(piece.isdecimal() and int(piece) > 0 for piece in pieces):
        raise SpecError(f"'{text}' is not a size; write 32, 32x48 (height x width) or 3x32x48 (with channels).")
    numbers = tuple(int(piece) for piece in pieces)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    most = Image.MAX_IMAGE_PIXELS  # no larger picture is read, either
    if most is not None and numbers[-2] * numbers[-1] > most:
        raise SpecError(f"'{text}' is too large: a picture can have at most {most:,} pixels.")
    return numbers


def numbers_from(text: str, n: int | None = None) -> list[int]:
    """`3,5`, `0-9` (both ends included), `-1` (the last) -> numbers of examples, each once, in their order.

    n: how many examples there are; without it only the form is checked. Raises SpecError.

    >>> numbers_from("0-2,-1,1", 10)
    [0, 1, 2, 9]
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise SpecError(
                f"--index '{text}' must be whole numbers or ranges separated by commas, e.g. 3,5 or 0-9,-1."
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or (match[2] and first < 0):
            raise SpecError(
                f"--index '{text}': '{part.strip()}' is not a range; write the smaller number first, e.g. 0-9."
            )
        if n is None:
            continue
        for end in (first, last):
            if not -n <= end < n:
                raise SpecError(f"--index {end}: there are {n:,} examples, 0 to {n - 1}.")
        numbers += [number % n for number in range(first, last + 1)]
    return list(dict.fromkeys(numbers))


def class_number(name: str, class_names: Sequence[str] | None, classes: int) -> int:
    """A class by its name, or by its number where no class has that name. Raises SpecError."""
    from advex.errors import did_you_mean

    if class_names is not None and name in class_names:
        return list(class_names).index(name)
    if name.isdecimal() and int(name) < classes:
        return int(name)
    if class_names is None:
        raise SpecError(f"There is no class '{name}': the model has {classes} classes, 0 to {classes - 1}.")
    raise SpecError(f"There is no class '{name}': {did_you_mean(name, class_names)}")
