"""The one shape of data: pixels held as bytes, given out as batches in data space."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor
from torch.utils.data import Subset

from advex.data.chosen import number_of, rows_of, seed_of
from advex.data.evidence import Evidence
from advex.data.kept import remembered
from advex.errors import DataError
from advex.features import FeatureSpec
from advex.types import Batch
from advex.waits import sent

if TYPE_CHECKING:
    import numpy as np

    from advex.data.images.streamed import Streamed

__all__ = [
    "Dataset",
    "Origin",
    "Part",
    "Skipped",
    "content",
    "counted",
    "describe",
    "drawn",
    "fingerprint",
    "in_data_space",
]


@dataclass(frozen=True)
class Skipped:
    """An example that could not be read. name: file or row; reason: a sentence."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the sets that a data set was put together from.

    name: unique among the parts. examples: how many it had. content: their digest (`content`). answers:
    what people said of its pictures, and how often. made_by: what made its pictures, and how many.
    """

    name: str
    examples: int
    content: str
    answers: Mapping[str, int] = field(default_factory=dict)
    made_by: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an example comes from.

    part, id: the part of the data set, and the example's id there. source, source_id: the data set
    (`Dataset.name`) and the id of the example that it was made from by a change; empty for one that was
    not, or where that is not known.
    """

    part: str
    id: str
    source: str = ""
    source_id: str = ""


@dataclass(frozen=True, kw_only=True, repr=False)
class Dataset:
    """Labelled examples in memory.

    name: how it was asked for. x: [n, channels, height, width] uint8, or [n, *shape] float in data
    space. y: [n] int64. class_names: one per class. ids: one per example, unique (file name or row).
    skipped: what could not be read; never silently dropped. counts: examples per class in the whole
    set that this one was drawn from; None if this is the whole set. notes: what else was met in
    reading it, as sentences. parts: what the whole set was put together from; none if it is of one
    piece. origins: one per example; none if the set is of one piece and nothing in it was made from
    another example. features: of a table, what its columns are; x holds its rows, encoded. weights: [n] float, what the
    cross-entropy of each is multiplied by in training; None: all count the same. evidence: where in each picture the
    thing lies that its label names; None where the data do not say. selected: by what its examples were chosen, as a
    sentence, where that was no chance; "" where it was. left_out: how many others were not chosen.
    """

    name: str
    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    counts: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    origins: tuple[Origin, ...] = ()
    features: FeatureSpec | None = None
    weights: Tensor | None = None
    evidence: Evidence | None = None
    selected: str = ""
    left_out: int = 0

    def __post_init__(self) -> None:
        if not all(isinstance(each, Tensor) for each in (self.x, self.y)) or self.y.is_floating_point():
            raise DataError(f"{self.name}: x and y must be tensors, and y of whole numbers, the classes.")
        if not len(self.x) == len(self.y) == len(self.ids):
            raise DataError(f"{self.name}: got {len(self.x)} inputs, {len(self.y)} labels and {len(self.ids)} ids.")
        if self.origins and len(self.origins) != len(self.ids):
            raise DataError(f"{self.name}: got {len(self.ids)} examples and {len(self.origins)} origins.")
        if self.weights is not None and self.weights.shape != self.y.shape:
            raise DataError(
                f"{self.name}: got {len(self.ids)} examples and weights of shape {tuple(self.weights.shape)}."
            )
        outlines = None if self.evidence is None else self.evidence.outlines
        if self.evidence is not None and len(self.evidence) != len(self.ids):
            raise DataError(f"{self.name}: got {len(self.ids)} examples and evidence for {len(self.evidence)}.")
        if outlines is not None and outlines.shape != (len(self.x), *self.shape[1:]):
            raise DataError(
                f"{self.name}: got inputs of shape {self.shape} and outlines of shape {tuple(outlines.shape[1:])}."
            )
        if len(self.y) and not (int(self.y.min()) >= 0 and int(self.y.max()) < len(self.class_names)):
            raise DataError(
                f"{self.name}: labels range from {int(self.y.min())} to {int(self.y.max())}, but there are "
                f"{len(self.class_names)} classes (0 to {len(self.class_names) - 1})."
            )

    def __len__(self) -> int:
        return len(self.y)

    @overload
    def __getitem__(self, place: int) -> tuple[Tensor, int]: ...
    @overload
    def __getitem__(self, place: slice | Sequence[int] | Tensor | np.ndarray) -> Dataset: ...
    def __getitem__(self, place: Any) -> tuple[Tensor, int] | Dataset:
        """An example: (x [*shape] in data space, the number of its class). Negative places count from the end.

        Of a slice, several numbers or a mask [n] the data set of these examples, as `take`. Raises SpecError.
        """
        if (number := number_of(place)) is None:
            return self.take(place)
        if not -len(self) <= number < len(self):  # what ends a loop over them
            raise IndexError(f"{self.name} has {len(self)} examples, 0 to {len(self) - 1}, not {number}.")
        batch = self.batch([number % len(self)])
        return batch.x[0], int(batch.y[0])

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"<Dataset {describe(self)}>"

    def _repr_html_(self) -> str:
        from advex.data.shown import html_of  # draws: only where it is shown

        return html_of(self)

    def to_torch(self) -> Subset[tuple[Tensor, int]]:
        """The same examples as a data set of torch, for a `DataLoader`: each an input in data space and its class."""
        return Subset(self, range(len(self)))  # pyright: ignore[reportArgumentType]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.x.shape[1:])

    @property
    def chance(self) -> float:
        """Accuracy of always answering the largest class of the whole set (Woods et al. 2019: "naive")."""
        counts = self.class_counts
        return max(counts) / sum(counts) if sum(counts) else 1.0

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Examples per class in the whole set that this one was drawn from."""
        return self.counts or tuple(torch.bincount(self.y, minlength=len(self.class_names)).tolist())

    def batch(self, index: Tensor | slice | Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The chosen examples in data space (bytes / 255), on a device."""
        index = index if isinstance(index, slice | Tensor) else rows_of(index, len(self), self.name)
        weight = None if self.weights is None else sent(self.weights[index], device)
        return Batch(x=in_data_space(self.x[index], device), y=sent(self.y[index], device), weight=weight)

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """All examples in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size), device)

    def take(self, index: Tensor | np.ndarray | slice | Sequence[int]) -> Dataset:
        """The chosen examples as a data set; it remembers the class counts of the whole. See `rows_of`."""
        rows = index if isinstance(index, slice) else rows_of(index, len(self), self.name)
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        ids = tuple(self.ids[i] for i in chosen)
        origins = tuple(self.origins[i] for i in chosen) if self.origins else ()
        weights = None if self.weights is None else self.weights[rows]
        evidence = None if self.evidence is None else self.evidence.take(chosen)
        return dataclasses.replace(
            self, x=self.x[rows], y=self.y[rows], ids=ids, origins=origins, counts=self.class_counts, weights=weights,
            evidence=evidence,
        )  # fmt: skip

    def sample(self, count: int | None, seed: int) -> Dataset:
        """`count` examples at random without replacement, in random order; all of them if count is None or too many."""
        if count is None or count >= len(self):
            return self
        return self.take(drawn(len(self), count, seed))

    def provenance(self) -> list[dict[str, Any]]:
        """The parts as plain JSON values, to be kept with what is made from the data."""
        parts = self.parts or (Part(name=self.name, examples=len(self), content=content(self)),)
        return [{key: value for key, value in dataclasses.asdict(part).items() if value != {}} for part in parts]


def in_data_space(x: Tensor, device: torch.device | str) -> Tensor:
    """Inputs as they are held, on a device: bytes are moved as such, and then divided by 255."""
    x = sent(x, device)
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def content(data: Dataset | Streamed) -> str:
    """A digest of what is learned from: inputs, labels, weights, names of classes, columns; whatever the set's name."""
    if not isinstance(data, Dataset):
        return data.content
    weights = () if data.weights is None else (data.weights,)
    features = "" if data.features is None else json.dumps(data.features.plain())

    def digest(x: Tensor) -> str:
        return _digest(repr(data.class_names), features, x, data.y, *weights)

    return remembered(data.x, lambda: digest(torch.tensor(data.x.shape)), lambda: digest(data.x))


def _digest(*parts: str | Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part.cpu().contiguous().flatten().numpy().data)
    return digest.hexdigest()


def fingerprint(data: Dataset) -> str:
    """A digest of all that an evaluation's figures depend on: `content`, and ids, class counts and evidence."""
    said = [content(data), data.ids, data.class_counts, data.evidence and data.evidence.digest]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def drawn(total: int, count: int | None, seed: int) -> Tensor:
    """[count] int64: rows of `total` at random without replacement; all, in order, if count is None or too many.

    One seed's smaller draw is the beginning of its larger ones.

    >>> drawn(5, 2, seed=0).tolist() == drawn(5, 4, seed=0)[:2].tolist()
    True
    """
    if count is None or count >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed_of(seed)))[:count]


def describe(data: Dataset | Streamed, *, most: int = 3) -> str:
    """One line for the user: what was read, and what could not be.

    most: how many of the skipped examples are named.

    >>> grey = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    >>> data = Dataset(name="a", x=grey, y=torch.tensor([0, 1]), class_names=("p", "q"), ids=("1", "2"))
    >>> describe(dataclasses.replace(data, skipped=(Skipped("3", "empty file"),)))
    'a: 2 images, 8x8, 1 channel, 2 classes; 1 could not be read (3: empty file)'
    """
    if len(data.shape) == 3:
        channels, height, width = data.shape
        shape = f"{counted(len(data), 'image')}, {height}x{width}, {counted(channels, 'channel')}"
    elif data.features is not None:
        columns = counted(len(data.features.features), "column")
        shape = f"{counted(len(data), 'row')}, {columns} (encoded: {data.features.width:,})"
    else:
        shape = f"{counted(len(data), 'example')} of shape {'x'.join(map(str, data.shape))}"
    parts = [f"{data.name}: {shape}, {counted(len(data.class_names), 'class', 'classes')}"]
    if data.skipped:
        named = "; ".join(f"{each.name}: {each.reason}" for each in data.skipped[:most])
        more = "; ..." if len(data.skipped) > most else ""
        parts.append(f"{len(data.skipped):,} could not be read ({named}{more})")
    # Names come from files: none of their control characters may reach a terminal.
    return "".join(c if c.isprintable() else "?" for c in "; ".join([*parts, *data.notes]))


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A number and its noun.

    >>> counted(1, "class", "classes"), counted(1200, "image")
    ('1 class', '1,200 images')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
