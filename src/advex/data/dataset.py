"""The one shape of data: pixels held as bytes, given out as batches in data space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advex.errors import DataError
from advex.types import Batch


@dataclass(frozen=True)
class Skipped:
    """An example that could not be read. name: file or row; reason: a sentence."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled examples in memory.

    name: how it was asked for. x: [n, channels, height, width] uint8, or [n, *shape] float in data
    space. y: [n] int64. class_names: one per class. ids: one per example, unique (file name or row).
    skipped: what could not be read; never silently dropped. counts: examples per class in the whole
    set that this one was drawn from; None if this is the whole set.
    """

    name: str
    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) == len(self.ids):
            raise DataError(f"{self.name}: {len(self.x)} inputs, {len(self.y)} labels and {len(self.ids)} ids.")
        if len(self.y) and not (int(self.y.min()) >= 0 and int(self.y.max()) < len(self.class_names)):
            raise DataError(
                f"{self.name}: labels run from {int(self.y.min())} to {int(self.y.max())}, for "
                f"{len(self.class_names)} classes (0 to {len(self.class_names) - 1})."
            )

    def __len__(self) -> int:
        return len(self.y)

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
        x = self.x[index].to(device)
        return Batch(x=x.float().div_(255) if x.dtype == torch.uint8 else x, y=self.y[index].to(device))

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """All examples in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size), device)

    def take(self, index: Tensor | slice) -> Dataset:
        """The chosen examples as a data set; it remembers the class counts of the whole."""
        chosen = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        ids = tuple(self.ids[i] for i in chosen)
        return replace(self, x=self.x[index], y=self.y[index], ids=ids, counts=self.class_counts)

    def sample(self, count: int | None, seed: int) -> Dataset:
        """`count` examples at random without replacement, in random order; all of them if count is None or too many."""
        if count is None or count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[:count])
