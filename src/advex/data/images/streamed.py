"""Pictures that are decoded when they are needed, and never held: all that training asks of data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advex.data.crops import Crop, Streaming
from advex.data.dataset import Dataset, Skipped
from advex.data.images import decode
from advex.data.images.loader import chosen, none_left, several_sizes
from advex.data.source import Anew, Header, Reading, Source, Split, Unreadable
from advex.data.threads import ahead
from advex.errors import DataError

_CHUNK = 64  # headers to a job
_FEW = 16  # examples that are decoded before the first step
_MOST_REPLACED = 1_000  # damaged files
_LOOKED_AT = 20  # examples by which it is seen whether each is a file


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Streamed:
    """Labelled pictures, each of which is read from its file whenever it is trained on.

    name, y, class_names, ids, skipped, counts, notes: as of `Dataset`. shape: of one example, as it is cut. content: a
    digest of the names of classes, ids and labels, of each file's size, and of the pixels of 16 examples. rule: how
    they are cut. example: number and crop -> pixels [*shape]; raises Unreadable. unchanged: whether the head of its
    file is what it was; raises Unreadable. replaced: the ids of examples whose files turned out to be damaged, and
    which stood in for them, and why (see `pixels`).
    """

    name: str
    shape: tuple[int, ...]
    y: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    counts: tuple[int, ...] | None
    notes: tuple[str, ...]
    content: str
    rule: Streaming
    example: Callable[[int, Crop], np.ndarray]
    unchanged: Callable[[int], bool]
    replaced: dict[str, str] = field(default_factory=dict)

    features: ClassVar[None] = None
    weights: ClassVar[None] = None
    parts: ClassVar[tuple[()]] = ()

    def __len__(self) -> int:
        return len(self.y)

    def pixels(self, index: Tensor, *, seed: int, epoch: int) -> Tensor:
        """[n, *shape] uint8, or float in data space: examples as they are cut in an epoch.

        index: [n] int64; numbers from the length on name the same examples again, cut otherwise. Row i depends on
        (seed, epoch, index[i]) and its file alone. To be called inside `decode.quiet()`.

        Where a file is damaged within, which its head and end do not show, the next example with its label is cut in
        its place: a function of the files, too, so that nothing else about a run changes. `replaced` says so. Raises
        DataError, naming the file, where it has changed or vanished, where reading it may succeed at the next try, and
        where no other has its label.
        """
        crops = self.rule.crops(index, seed=seed, epoch=epoch)
        return torch.from_numpy(
            np.stack([self._example(*each) for each in zip((index % len(self)).tolist(), crops, strict=True)])
        )

    def _example(self, number: int, crop: Crop) -> np.ndarray:
        try:
            pixels = self.example(number, crop)
        except Unreadable as error:
            number, pixels = self._in_place_of(number, crop, error)
        if pixels.shape != self.shape:
            actual, expected = ("x".join(map(str, shape[1:])) for shape in (pixels.shape, self.shape))
            raise DataError(f"{self.name}: {self.ids[number]} is {actual} (height x width), but others are {expected}.")
        return pixels

    def _in_place_of(self, number: int, crop: Crop, why: Unreadable) -> tuple[int, np.ndarray]:
        """The next example with the same label, its number and how it is cut, for one whose file is damaged."""
        self._check_damaged(number, why)
        alike = torch.nonzero(self.y == self.y[number])[:, 0]
        for other in alike.roll(-1 - int(torch.searchsorted(alike, number))).tolist()[:-1]:
            try:
                pixels = self.example(other, crop)
            except Unreadable as error:
                self._check_damaged(other, error)
            else:
                self.replaced[self.ids[number]] = f"{self.ids[other]} ({why})"
                if len(self.replaced) > _MOST_REPLACED:
                    raise DataError(
                        f"{self.name}: more than {_MOST_REPLACED:,} files are damaged inside, {self.ids[number]} among "
                        "them. Copy the data again, and start training over."
                    )
                return other, pixels
        raise DataError(
            f"{self.name}: {self.ids[number]} cannot be read ({why}), and neither can the other {len(alike) - 1} "
            f"examples of {self.class_names[int(self.y[number])]}. Copy the data again, and start training over."
        )

    def _check_damaged(self, number: int, why: Unreadable) -> None:
        """Raise DataError unless a file that cannot be read is the one that the run began with, and will stay so."""
        try:
            damaged = not why.passing and self.unchanged(number)
        except Unreadable:
            damaged = False
        if not damaged:
            raise DataError(
                f"{self.name}: {self.ids[number]} cannot be read: {why}. Put the file back as it was, and run the same "
                "command again to resume from the last checkpoint; without the file, training must start over."
            )

    def take(self, index: slice) -> Dataset:
        """The chosen examples, decoded, as they are cut in epoch 0 by seed 0."""
        numbers = torch.arange(len(self))[index]
        with decode.quiet():
            x = self.pixels(numbers, seed=0, epoch=0)
        ids = tuple(self.ids[number] for number in numbers.tolist())
        return Dataset(name=self.name, x=x, y=self.y[numbers], class_names=self.class_names, ids=ids)


Examples = Dataset | Streamed


def cut(x: Tensor, crops: Sequence[Crop]) -> Tensor:
    """[n, channels, side, side] uint8: of pictures in memory, [n, channels, height, width] uint8, what crops choose."""
    pairs = zip(x.numpy(), crops, strict=True)
    cuts = [decode.scaled(pixels, crop.window((pixels.shape[1], pixels.shape[2]))).pixels for pixels, crop in pairs]
    return torch.from_numpy(np.stack(cuts))


def stream(source: Source, how: Reading, rule: Streaming) -> Streamed | None:
    """The split of a source, read when it is needed; None where its pictures are not files of their own.

    The head of each file is read once, and those that have none are skipped and named. Raises DataError.
    """
    name, examples, order, counts, skipped = chosen(source, how)
    anew = examples.anew or _of_files(examples, order)
    if anew is None:
        return None
    heads: dict[int, Header] = {}
    with decode.quiet():
        for done, (row, header) in enumerate(zip(order.tolist(), _headers(anew, order), strict=True), 1):
            if isinstance(header, Header):
                heads[row] = header
            else:
                skipped[row] = _lasting(name, examples.ids[int(row)], header)
            if done % _CHUNK == 0 or done == len(order):
                how.progress(done, len(order))
    sizes = Counter(header.size for header in heads.values())
    scaled = how.size is not None or rule.shorter is not None
    if examples.anew is None and not scaled and len(sizes) > 1:
        raise several_sizes(name, sizes, len(order), len(order))
    channels = how.channels
    if examples.anew is None and channels is None:
        channels = 1 if all(header.grey for header in heads.values()) else 3

    def example(row: int, crop: Crop) -> np.ndarray:
        encoded = anew.cut(row, crop)
        if rule.shorter is None:
            return decode.decoded(encoded, size=how.size, channels=channels).pixels
        shown = crop.window if isinstance(encoded, Path) else None
        return decode.decoded(encoded, channels=channels, shown=shown).pixels

    few = torch.linspace(0, len(heads) - 1, min(_FEW, len(heads))).round().long()
    pixels: list[np.ndarray] = []
    with decode.quiet():
        for row, crop in zip([list(heads)[each] for each in few], rule.crops(few, seed=0, epoch=0), strict=True):
            try:
                pixels.append(example(row, crop))
            except Unreadable as error:
                skipped[row] = _lasting(name, examples.ids[row], error)
                del heads[row]
    if not pixels:
        raise none_left(name, examples, skipped)
    shape = pixels[0].shape
    if rule.shorter is not None and shape[1:] != (rule.side, rule.side):
        raise DataError(f"{name}: its examples are not crops of whole pictures; use two factors for resize.")
    rows = list(heads)
    ids, labels = tuple(examples.ids[row] for row in rows), examples.labels[rows].astype(np.int64)
    said = [source.class_names, ids, labels.tolist(), [header.stamp for header in heads.values()]]
    digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=16)
    for each in pixels:
        digest.update(np.ascontiguousarray(each).data)
    return Streamed(
        name=name,
        shape=shape,
        y=torch.from_numpy(labels),
        class_names=source.class_names,
        ids=ids,
        skipped=(*examples.lost, *(Skipped(examples.ids[row], skipped[row]) for row in sorted(skipped))),
        counts=counts,
        notes=(*examples.notes, "decoded when needed"),
        content=digest.hexdigest(),
        rule=rule,
        example=lambda number, crop: example(rows[number], crop),
        unchanged=lambda number: anew.header(rows[number]) == heads[rows[number]],
    )


def _lasting(name: str, example: str, why: Unreadable) -> str:
    """Why an example is left out: for as long as its file is as it is. Raises DataError where the next try may end
    otherwise: a run without it would be of other data."""
    if why.passing:
        raise DataError(
            f"{name}: {example} cannot be read: {why}. Run the same command again; if that does not help, put another "
            "copy of the file in its place."
        )
    return str(why)


def _of_files(examples: Split, order: np.ndarray) -> Anew | None:
    """Of a split whose pictures are files; None where they are not."""
    first = np.sort(order)[:_LOOKED_AT].tolist()
    if not any(isinstance(each, Path) for each in examples.read(first)):
        return None

    def file(row: int) -> Path:
        (path,) = examples.read([row])
        if not isinstance(path, Path):
            raise path if isinstance(path, Unreadable) else Unreadable("it is not a separate file")
        return path

    return Anew(header=lambda row: decode.header(file(row)), cut=lambda row, crop: file(row))


def _headers(anew: Anew, order: np.ndarray) -> Iterator[Header | Unreadable]:
    """Of each row in turn, its header, or why there is none."""

    def attempt(row: int) -> Header | Unreadable:
        try:
            return anew.header(row)
        except Unreadable as error:
            return error

    chunks = (order[start : start + _CHUNK].tolist() for start in range(0, len(order), _CHUNK))
    for headers in ahead(lambda rows: [attempt(row) for row in rows], chunks):
        yield from headers
