"""What is explained, as it is named on the command line, as inputs of a model."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from advex.data import Dataset
from advex.data.images import decode
from advex.data.source import Unreadable
from advex.errors import AdvexWarning, SpecError
from advex.explanation.rows import from_csv, from_table
from advex.explanation.subjects import Failure, Subject, check_pictures, from_data, from_pictures, in_folders
from advex.lookup import datasets
from advex.lookup.models import Opened
from advex.progress import Terminal


def shorter_side(
    files: Sequence[Path], data: str | None = None, split: str | None = None, size: str | None = None
) -> int | None:
    """Pixels of the shorter side of the first readable one of some picture files, or of a data set's pictures.

    size: as it was typed, instead. None without any, where none can be read, and for tables. Raises DataError,
    SpecError for data, folders and sizes that cannot be meant.
    """
    if size is not None:
        return min(datasets.shape_from(size)[-2:])
    if data is not None:
        shape = datasets.open_split(data, split, prefer=datasets.TEST, max_samples=1).x.shape[1:]
        return min(shape[-2:]) if len(shape) == 3 else None
    check_pictures(files)
    with decode.quiet():
        for file in in_folders(files):
            with contextlib.suppress(Unreadable):
                return min(decode.header(file).size)
    return None


@dataclass(frozen=True)
class Inputs:
    """What is explained, as typed: picture files, CSV files, or examples of a data set."""

    files: list[Path]
    data: str | None
    split: str | None
    index: str
    size: str | None
    say: Terminal

    def pictures(self, model: Opened) -> tuple[list[Subject | Failure], Dataset | None]:
        """Pictures of a model's size, and the data that they are of. Raises SpecError, DataError."""
        shape = model.input_shape if self.size is None else datasets.shape_from(self.size)
        if self.data is None and shape is None:
            raise SpecError(
                f"The input size of {model.name} is unknown, and is rarely the photo's own size: set it, e.g. "
                "--size 224 (or 3x224x224)."
            )
        if self.data is None:
            return from_pictures(self.files, model.classifier, shape, self.say), None
        datasets.numbers_from(self.index)
        examples = datasets.open_split(self.data, self.split, self.say, prefer=datasets.TEST, shape=shape)
        names = model.classifier.class_names
        if names is not None and set(names).isdisjoint(examples.class_names):
            sentence = f"{examples.name} has none of these classes, so the model answers with its own."
            warnings.warn(f"{model.name} knows {names[0]}, {names[-1]} and the like; {sentence}", AdvexWarning, 2)
        return [from_data(examples, number) for number in datasets.numbers_from(self.index, len(examples))], examples

    def rows(self, model: Opened) -> list[Subject | Failure]:
        """Rows of a table, by the columns of a model. Raises SpecError and DataError."""
        if self.size is not None:
            raise SpecError("--size applies to pictures only, not to a model for tables.")
        if self.data is not None:
            return from_table(self.data, self.split, self.index, model, self.say)
        return from_csv(self.files, model.classifier)
