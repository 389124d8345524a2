"""Data of other libraries: a torch `DataLoader` or data set, and what `datasets.load_dataset` of Hugging Face returns.

The latter is known by what it has (`column_names`, `features`), so that nothing of it has to be installed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from advex.data import Dataset, Skipped
from advex.data.dataset import counted, drawn
from advex.data.source import Encoded, Reading, Source, Split, Unreadable
from advex.errors import DataError, SpecError
from advex.notebook.pictures import encoded, is_float

# Where a row that is a dictionary has its picture and its class.
_PICTURES, _LABELS = ("pixel_values", "image", "img", "images", "x"), ("label", "labels", "target", "y", "fine_label")


class Columns(Protocol):
    """A data set of Hugging Face: named columns, and what each of them holds."""

    @property
    def column_names(self) -> Any:
        """Of all columns."""
        ...

    @property
    def features(self) -> Any:
        """Column -> what it holds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The rows of another library's data. picture: of a row's number, in whatever form. labels: None if there are none.

    class_names: None where the data do not say them; occurring: these are but the texts that occur as classes.
    problems: why rows could not be read when their classes were asked for. selected: as of a `Dataset`.
    """

    name: str
    count: int
    picture: Callable[[int], Any]
    labels: Sequence[int] | None
    class_names: tuple[str, ...] | None
    occurring: bool = False
    problems: Mapping[int, str] = field(default_factory=dict)
    selected: str = ""

    def sample(self, count: int | None, seed: int) -> Examples:
        """So many rows drawn by the seed, in their order; all where there are no more. None of them is read."""
        if count is None or count >= self.count:
            return self
        rows, labels = drawn(self.count, count, seed).sort().values.tolist(), self.labels
        chosen = None if labels is None else [labels[row] for row in rows]
        problems = {place: self.problems[row] for place, row in enumerate(rows) if row in self.problems}
        picture = self.picture
        return replace(self, count=count, picture=lambda row: picture(rows[row]), labels=chosen, problems=problems)

    def read(self, row: int) -> Any:
        """A row's picture, in whatever form; `Unreadable` where reading it fails."""
        try:
            return self.picture(row)
        except Exception as error:  # the other library's code may raise anything
            return Unreadable(f"row {row}: {type(error).__name__}: {error}")

    def encoded(self, row: int) -> Encoded:
        """A row's picture as the readers of files take it: a file, its bytes, or pixels [channels, height, width]."""
        value = self.read(row)
        return value if isinstance(value, Unreadable) else encoded(value)

    def dataset(self, how: Reading, class_names: Sequence[str] | None = None) -> Dataset:
        """As a data set of ours: pictures scaled and cut as files are, floats as they are.

        class_names: where the data say none. Raises SpecError for data without labels, DataError for data of which
        nothing can be read, and as files of pictures do.
        """
        if self.labels is None:
            raise SpecError(
                f"{self.name} yields pictures without classes, which are needed here: yield (picture, class "
                "index), or call the class column 'label'."
            )
        labels = np.array(list(self.labels), dtype=np.int64)
        if self.occurring and set(self.class_names or ()) <= set(class_names or ()):  # in the model's order
            numbers = np.array([list(class_names or ()).index(name) for name in self.class_names or ()])
            labels = np.where(labels < 0, labels, numbers[labels])
            names = tuple(class_names or ())
        else:
            names = tuple(self.class_names or class_names or map(str, range(int(labels.max(initial=0)) + 1)))
        ids = [f"{row:06d}" for row in range(self.count)]
        if any(is_float(value) for value in itertools.islice(self._readable(), 1)):
            made = self._of_floats(labels, names, ids)
        else:
            split = Split(ids=ids, labels=labels, read=lambda rows: map(self.encoded, rows))
            made = Source(name=self.name, class_names=names, splits={"": lambda: split}).read(how)
        known = {ids[row]: why for row, why in self.problems.items()}
        lost = tuple(replace(each, reason=known.get(each.name, each.reason)) for each in made.skipped)
        return replace(made, skipped=lost, selected=self.selected)

    def _readable(self) -> Iterator[Any]:
        """The rows that can be read, as they are given."""
        return (value for row in range(self.count) if not isinstance(value := self.read(row), Unreadable))

    def _of_floats(self, labels: np.ndarray, names: tuple[str, ...], ids: Sequence[str]) -> Dataset:
        rows: dict[int, torch.Tensor] = {}
        lost = []
        for row in range(self.count):
            value = self.read(row)
            if isinstance(value, Unreadable):
                lost.append(Skipped(ids[row], str(value)))
            elif not 0 <= labels[row] < len(names):
                lost.append(Skipped(ids[row], f"label {labels[row]} is not among the {len(names)} classes"))
            else:
                rows[row] = torch.as_tensor(value).detach().cpu().float()
        if not rows:
            why = f" The first one left out: {lost[0].reason}." if lost else ""
            raise DataError(f"{self.name}: no row has one of the {len(names)} classes.{why}")
        known, first = list(rows), next(iter(rows.values()))
        if shapes := {tuple(x.shape) for x in rows.values() if x.shape != first.shape}:
            raise DataError(f"{self.name} yields tensors of different shapes, {tuple(first.shape)} and {min(shapes)}.")
        return Dataset(
            name=self.name, x=torch.stack([rows[row] for row in known]), y=torch.from_numpy(labels[known]),
            class_names=names, ids=tuple(ids[row] for row in known), skipped=tuple(lost),
        )  # fmt: skip


def examples_of(given: Any, first: int | None = None) -> Examples | None:
    """What another library's data hold; None for all else. Rows are read when they are asked for.

    A loader is read once, from its first batch to its last, or until it has given so many rows.

    Raises SpecError for data of these libraries that cannot be read, saying what to give instead.
    """
    if isinstance(given, Examples):
        return given
    if isinstance(given, DataLoader):
        rows = list(itertools.islice(_rows_of(given), first))
        examples = _of_rows(rows, len(rows), "DataLoader", _names_of(given))
        if first is None or len(rows) < first or isinstance(given.sampler, RandomSampler):
            return examples
        said = f"These are the first {counted(first, 'example')} that the DataLoader gave, and no draw"
        return replace(examples, selected=f"{said}: of data in the order of their classes they are of few of these.")
    if isinstance(given, Mapping) and given and all(hasattr(each, "column_names") for each in given.values()):
        raise SpecError(
            f"The data set has the splits {', '.join(map(str, given))}: pass one of them, data[{next(iter(given))!r}]."
        )
    if hasattr(given, "column_names") and hasattr(given, "features"):
        return _of_columns(given)
    if isinstance(given, IterableDataset):
        raise SpecError("Pass an iterable data set through a loader: DataLoader(data, batch_size=64).")
    if isinstance(given, TorchDataset):
        try:
            count = len(given)  # pyright: ignore[reportArgumentType]
        except TypeError:
            raise SpecError(f"{type(given).__name__} has no length, which is needed.") from None
        return _of_rows(given, count, type(given).__name__, _names_of(given))
    return None


def _of_rows(rows: Any, count: int, name: str, class_names: tuple[str, ...] | None) -> Examples:
    """Rows that are pictures, pairs of a picture and a class, or dictionaries that have both."""
    if not count:
        raise SpecError(f"{name} is empty.")
    label = None
    for row in range(count):
        try:
            label = _parts(rows[row], name)[1]
            break
        except SpecError:
            raise
        except Exception as error:
            if row == count - 1:
                raise DataError(f"No row of {name} can be read: {type(error).__name__}: {error}") from None
    problems: dict[int, str] = {}
    return Examples(
        name=name, count=count, picture=lambda row: _parts(rows[row], name)[0], class_names=class_names,
        labels=None if label is None else _Labels(rows, count, name, problems), problems=problems,
    )  # fmt: skip


@dataclass(frozen=True)
class _Labels(Sequence[int]):
    """The classes of rows, each read when it is asked for: what a data set keeps beside may be others.

    problems: why a row could not be read, which then has -1.
    """

    rows: Any
    total: int
    name: str
    problems: dict[int, str]

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < self.total:
            raise IndexError(row)
        try:
            _, label = _parts(self.rows[row], self.name)
        except SpecError:
            raise
        except Exception as error:
            self.problems[row] = f"row {row}: {type(error).__name__}: {error}"
            return -1
        if label is None:
            raise SpecError(f"{self.name}: row {row} has no class, but others have one.")
        return label


def _parts(row: Any, name: str) -> tuple[Any, int | None]:
    if isinstance(row, Mapping):
        picture = next((row[key] for key in _PICTURES if key in row), None)
        label = next((row[key] for key in _LABELS if key in row), None)
        if picture is None:
            held = ", ".join(map(str, list(row)[:6]))
            raise SpecError(f"{name} yields {held}; pictures are expected under {', '.join(_PICTURES)}.")
    elif isinstance(row, tuple | list):
        picture, label = row[0], row[1] if len(row) > 1 else None
    else:
        picture, label = row, None
    if label is None:
        return picture, None
    array = np.asarray(label)
    if array.size != 1 or array.dtype.kind not in "iub":
        raise SpecError(f"{name} yields a class that is not an integer: {array.dtype} of shape {list(array.shape)}.")
    return picture, int(array.item())


def _rows_of(loader: DataLoader[Any]) -> Iterator[Any]:
    """The rows of all batches of a loader."""
    for batch in loader:
        if loader.batch_size is None and loader.batch_sampler is None:  # it gives rows
            yield batch
        elif isinstance(batch, Mapping):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
        elif isinstance(batch, list) and isinstance(batch[0], tuple | list | Mapping):
            yield from batch  # rows as they are: collate_fn=list
        elif isinstance(batch, tuple | list) and not isinstance(batch[0], Image.Image):
            yield from zip(*batch[:2], strict=True)
        else:
            yield from batch


def _names_of(data: Any) -> tuple[str, ...] | None:
    """The classes of what a loader reads, however many `Subset`s lie around it."""
    while data is not None:
        names = getattr(data, "class_names", None) or getattr(data, "classes", None)
        if isinstance(names, list | tuple) and all(isinstance(each, str) for each in names):
            return tuple(names)
        data = getattr(data, "dataset", None)
    return None


def _of_columns(given: Any) -> Examples:
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise SpecError(
            "This data set is a stream. Pass a part of it: datasets.Dataset.from_list(list(data.take(100)), "
            "features=data.features)."
        )
    if not len(given):
        raise SpecError("The data set has no rows.")
    features, held = dict(given.features or {}), list(given[0])
    pictures = [name for name in held if type(features.get(name)).__name__ == "Image"]
    pictures += [name for name in _PICTURES if name in held and name not in pictures]
    if not pictures:
        raise SpecError(
            f"None of the columns {', '.join(held)} contains pictures: cast one, data.cast_column(NAME, Image())."
        )
    classes = [name for name in features if hasattr(features[name], "names")]
    known = [name for name in _LABELS if name in features]
    label = next((name for name in known if name in classes), classes[0] if len(classes) == 1 else None)
    if label is None and len(classes) > 1:
        raise SpecError(f"Several columns contain classes, {', '.join(classes)}: rename the right one to 'label'.")
    label = label or next(iter(known), None)
    labels, names = (None, None) if label is None else _labels_of(given, label, features[label])
    info = getattr(given, "info", None)
    name = getattr(info, "dataset_name", None) or getattr(info, "builder_name", None) or "data"
    return Examples(
        name=str(name), count=len(given), picture=lambda row: given[row][pictures[0]], labels=labels, class_names=names,
        occurring=label is not None and not hasattr(features[label], "names") and names is not None,
    )  # fmt: skip


def _labels_of(given: Any, column: str, feature: Any) -> tuple[list[int], tuple[str, ...] | None]:
    """The classes of all rows, numbered, and their names; a missing one is -1, as is ours."""
    values = [-1 if value is None else value for value in given[column]]
    if any(isinstance(value, str) for value in values):
        names = sorted({value for value in values if isinstance(value, str)})
        return [names.index(value) if isinstance(value, str) else -1 for value in values], tuple(names)
    try:
        labels = [int(value) for value in values]
    except (TypeError, ValueError):
        labels = []
    if labels != values:
        raise SpecError(f"The column '{column}' does not contain classes: these must be integers or strings.")
    names = getattr(feature, "names", None)
    return labels, None if names is None else tuple(map(str, names))
