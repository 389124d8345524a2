"""What is explained: pictures from files and examples of data sets, and the classes that are asked about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from advex.classifier import Classifier
from advex.data import Dataset
from advex.data.images import decode
from advex.data.source import Unreadable
from advex.data.tables.table import SUFFIXES
from advex.errors import AdvexError, DataError, InputError, SpecError
from advex.lookup.datasets import class_number
from advex.progress import QUIET, Terminal
from advex.registry import numbered

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)")  # of two letters at least: a drive has one


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One input to explain.

    x: [*shape] in data space. label: its class, if known, and y the number of it. note: what was done to it.
    """

    name: str
    x: Tensor
    label: str | None = None
    y: int | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input that cannot be explained, and why. The others are explained all the same."""

    name: str
    error: AdvexError


@dataclass(frozen=True)
class Target:
    """A class to ask about. meant: how it was asked for: `true`, `predicted`, `runner-up`, `all` or `named`."""

    number: int
    meant: tuple[str, ...]


def from_pictures(
    paths: Sequence[Path],
    classifier: Classifier,
    shape: tuple[int, ...] | None,
    say: Terminal = QUIET,
) -> list[Subject | Failure]:
    """Picture files, and those of folders, scaled and cut to the model's input where they differ (and said so).

    shape: (channels, height, width) or (height, width) of the model's input; None keeps each picture's size. Raises
    InputError for a model whose inputs are no pictures.
    """
    check_pictures(paths)
    return [_read(path.name, path, classifier, shape, say, place=str(path)) for path in in_folders(paths)]


def check_pictures(paths: Sequence[Path]) -> None:
    """Raise SpecError where one of them is a table, by its name, or a URL."""
    for path in paths:
        if not path.exists() and (url := _URL.match(path.as_posix())):  # of whose slashes a path has kept one
            raise SpecError(f"{url[1]}://{url[2]} is a URL: download it first, and pass the path of the file.")
    if tables := [path for path in paths if path.suffix.lower() in SUFFIXES]:
        raise SpecError(f"{tables[0]} is a table, which needs a model that was trained on its columns: --model RUN.")


def from_memory(
    pictures: Mapping[str, bytes], classifier: Classifier, shape: tuple[int, ...] | None
) -> list[Subject | Failure]:
    """Pictures that are encoded in memory, by name, as `from_pictures` reads files."""
    return [_read(name, held, classifier, shape, QUIET, place=name) for name, held in pictures.items()]


def _read(
    name: str, encoded: Path | bytes, classifier: Classifier, shape: tuple[int, ...] | None, say: Terminal, place: str
) -> Subject | Failure:
    """One picture. place: how it is called in sentences."""
    channels = shape[0] if shape is not None and len(shape) == 3 else None
    if channels is None and classifier.mean.ndim:
        channels = len(classifier.mean)
    if channels not in (None, 1, 3):
        raise InputError(f"The model needs {channels} channels, but picture files have 1 or 3.")
    try:
        with decode.quiet():
            pixels = decode.pixels(encoded, channels=channels)
            fitted = decode.pixels(encoded, channels=channels, size=None if shape is None else (shape[-2], shape[-1]))
    except Unreadable as error:
        absent = isinstance(encoded, Path) and not encoded.exists()
        return Failure(name=name, error=DataError(f"{place} cannot be read as a picture: {error}.", absent=absent))
    note = None
    if fitted.shape != pixels.shape:
        (_, height, width), (_, new_height, new_width) = pixels.shape, fitted.shape
        note = f"{width}x{height} pixels scaled to cover {new_width}x{new_height}, the centre cut out"
        say.note(f"{place}: {note}")
    return Subject(name=name, x=torch.from_numpy(fitted.copy()).float() / 255, note=note)


def in_folders(paths: Sequence[Path]) -> list[Path]:
    """The same, with the picture files of a folder (not of folders in it, nor hidden ones) in its place, by name.

    Raises DataError for a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        within = sorted(path.iterdir()) if path.is_dir() else []
        held = [each for each in within if each.suffix.lower() in decode.SUFFIXES and not each.name.startswith(".")]
        if path.is_dir() and not held:
            raise DataError(f"{path} contains no picture files ({', '.join(sorted(decode.SUFFIXES))}).")
        files += held or [path]
    return files


def from_data(data: Dataset, index: int) -> Subject:
    """An example of a data set, counted from 0. Raises SpecError for an index outside it."""
    if not 0 <= index < len(data):
        raise SpecError(f"{index}: {data.name} has {len(data)} examples, 0 to {len(data) - 1}.")
    batch = data.batch(slice(index, index + 1))
    y = int(batch.y[0])
    return Subject(name=data.ids[index], x=batch.x[0], label=data.class_names[y], y=y)


def targets_of(
    confidences: Tensor, names: Sequence[str], class_names: Sequence[str] | None, subject: Subject
) -> list[Target]:
    """The classes to ask about, each once.

    confidences: [classes]. names: of classes, their numbers, `predicted`, `runner-up`, `true` (the label) or `all`.
    Raises SpecError for what is none of these, and for `true` where the label is not known.
    """
    ranked = confidences.argsort(descending=True).tolist()
    words = {"predicted": ranked[:1], "runner-up": ranked[1:2], "all": sorted(ranked)}
    if subject.label is not None and subject.label in (class_names or ()):
        words["true"] = [class_number(subject.label, class_names, len(ranked))]
    elif subject.y is not None and subject.y < len(ranked):
        words["true"] = [subject.y]
    meant: dict[int, list[str]] = {}
    for name in names:
        word = name.replace("_", "-")
        if name == "true" and name not in words and name not in (class_names or ()):
            raise SpecError(
                f"The target 'true': the class of {subject.name} is not known; only examples of a data set have one."
            )
        for number in words.get(word) or [class_number(name, class_names, len(ranked))]:
            ways = meant.setdefault(number, [])
            ways += [way for way in (word if word in words else "named",) if way not in ways]
    return [Target(number, tuple(ways)) for number, ways in meant.items()]


def class_name(classifier: Classifier, number: int) -> str:
    """A class as people call it."""
    return str(number) if classifier.class_names is None else classifier.class_names[number]


def file_names(names: Sequence[str]) -> list[str]:
    """A safe, unique beginning for the names of each input's files."""
    return numbered([
        re.sub(r"[^\w.-]+", "_", name.removesuffix(Path(name).suffix)).strip("._")[:80] or "input" for name in names
    ])  # fmt: skip
