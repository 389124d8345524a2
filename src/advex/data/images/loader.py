"""From a source to a data set: sample first, then decode in threads, and keep account of every loss."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np
import torch

from advex.data.dataset import Dataset, Skipped, drawn
from advex.data.evidence import Region, placed
from advex.data.images import decode
from advex.data.images.cache import LEAST, Cache, Ready
from advex.data.source import Encoded, Passing, Reading, Source, Split, Unreadable, shortened
from advex.data.threads import THREADS
from advex.data.window import Cut, Window
from advex.errors import DataError

Progress = Callable[[int, int], None]

_CHUNK, _CHUNK_BYTES = 512, 2**26  # images under way at a time, and what they may take decoded


def load(source: Source, how: Reading) -> Dataset:
    """The split of a source as a data set. Raises DataError."""
    name, examples, order, counts, skipped = chosen(source, how)
    windows: dict[int, Window] = {}
    cache = Cache.of(source, source.choose(how.split), how, order)
    with contextlib.nullcontext() if cache is None else cache:
        canvas = _Canvas(name, len(order), how, cache, cacheable=source.root is not None)
        cached = None if cache is None else cache.read()
        try:
            if cached is None:
                _fill(canvas, examples, order, skipped, windows, how.progress)
        except Ready as ready:  # decoded by another process, meanwhile
            cached = ready.decoded
        if cached is not None:  # of rows without a class, too
            skipped, windows = cached.skipped, cached.windows
        regions = _regions(examples, order, windows, skipped)
        kept = [slot for slot, row in enumerate(order) if row not in skipped]
        if not kept:
            raise none_left(name, examples, skipped)
        x = canvas.tensor(kept, skipped, windows) if cached is None else cached.x
    lost = tuple(Skipped(examples.ids[row], skipped[row]) for row in sorted(skipped))
    rows: list[int] = order[kept].tolist()
    evidence, notes = None, ()
    if examples.evidence is not None:
        cuts = [windows[row] for row in rows]
        evidence, notes = placed([regions[row] for row in rows], cuts, others=examples.others)
    return Dataset(
        name=name,
        x=x,
        y=torch.from_numpy(examples.labels[rows].astype(np.int64)),
        class_names=source.class_names,
        ids=tuple(examples.ids[row] for row in rows),
        skipped=(*examples.lost, *lost),
        counts=counts,
        notes=(*examples.notes, *notes),
        evidence=evidence,
    )


Chosen = tuple[str, Split, np.ndarray, tuple[int, ...] | None, dict[int, str]]


def chosen(source: Source, how: Reading) -> Chosen:
    """What is to be read of a source: its name, the split, its rows in their order, the class counts of the whole split
    where that is more, and by row why some are left out. Raises DataError where there is nothing."""
    split = source.choose(how.split)
    name = f"{source.name}/{split}" if split else source.name
    examples = source.splits[split]()
    if not len(examples.labels):
        reasons = [*examples.notes, *(f"{each.name}: {each.reason}." for each in examples.lost[:3])]
        raise DataError(f"{name} contains no labelled images. {' '.join(reasons)}".rstrip())
    order = drawn(len(examples.labels), how.max_samples, how.seed).numpy()
    counts = None
    if len(order) < len(examples.labels):
        usable = examples.labels[_known(examples.labels, source)]
        counts = tuple(np.bincount(usable, minlength=len(source.class_names)).tolist())
    known = _known(examples.labels[order], source)
    skipped = {
        row: f"label {examples.labels[row]} is not among the {len(source.class_names)} classes" for row in order[~known]
    }
    return name, examples, order[known], counts, skipped


def none_left(name: str, examples: Split, skipped: dict[int, str]) -> DataError:
    """What is said where no image of those chosen can be read."""
    shown = shortened([f"{examples.ids[row]}: {skipped[row]}" for row in sorted(skipped)])
    return DataError(f"{name}: none of the {len(skipped)} images could be read ({shown}).")


def several_sizes(name: str, sizes: Counter[tuple[int, ...]], seen: int, count: int) -> DataError:
    """What is said of images that must have one size, and have several: (height, width) -> how many, of those seen."""
    listed = [f"{height}x{width} ({number})" for (height, width), number in sizes.most_common()]
    side = min(min(each) for each in sizes)
    return DataError(
        f"{name}: the images have several sizes (height x width): {shortened(listed, 8)}, among the first "
        f"{seen} of {count}. Set one, e.g. size={side} (--size {side}): each image is then scaled to cover "
        f"{side}x{side} and cropped at the centre."
    )


def _regions(
    examples: Split, order: np.ndarray, windows: dict[int, Window], skipped: dict[int, str]
) -> dict[int, Sequence[Region]]:
    """By row, where its things lie. A row whose evidence cannot be believed is skipped, with the reason."""
    regions: dict[int, Sequence[Region]] = {}
    evidence = examples.evidence
    for row in order:
        if row in skipped or evidence is None:
            continue
        try:
            regions[row] = evidence(int(row))
            _check(regions[row], windows[row].of)
        except Unreadable as error:
            skipped[row] = str(error)
    return regions


def _check(regions: Sequence[Region], of: tuple[int, int]) -> None:
    """Raise Unreadable unless boxes lie in their picture of that size, but for a pixel of rounding."""
    height, width = of
    for region in regions:
        if region.of not in (None, of):
            said = "x".join(map(str, region.of or ()))
            raise Unreadable(f"its box is for a picture of {said}, but the picture is {height}x{width}")
        if not region.other and (beyond := region.beyond(of)) > 1:
            raise Unreadable(f"a box reaches {beyond:g} pixels beyond its picture of {height}x{width}")


def _known(labels: np.ndarray, source: Source) -> np.ndarray:
    """[n] bool: the label is one of the classes."""
    return (labels >= 0) & (labels < len(source.class_names))


def _fill(
    canvas: _Canvas,
    examples: Split,
    order: np.ndarray,
    skipped: dict[int, str],
    windows: dict[int, Window],
    progress: Progress,
) -> None:
    """Decode the rows `order` into the slots of the canvas, in the order in which they lie on the disk.

    skipped, windows: by row, why it could not be read, and which part of its picture was taken.
    """
    slots = np.argsort(order)
    rows = order[slots]
    encoded = examples.read(rows.tolist())
    done = 0
    with decode.quiet(), ThreadPoolExecutor(THREADS) as pool:
        # One alone first: it fixes the size of the rest, and is weighed before memory is spent on them.
        while chunk := list(islice(encoded, canvas.chunk)):
            for result in _decoded(pool, chunk, canvas):
                if isinstance(result, str):
                    skipped[rows[done]] = result
                elif isinstance(result, Cut):
                    canvas.put(slots[done], result.pixels)
                    if examples.evidence is not None:
                        windows[rows[done]] = result.window
                else:
                    canvas.other_sizes[result] += 1
                done += 1
            canvas.check_sizes(done)
            progress(done, len(rows))


def _decoded(pool: ThreadPoolExecutor, chunk: list[Encoded], canvas: _Canvas) -> Iterator[_Result]:
    expected = canvas.shape[1:] if canvas.shape else None
    attempt = partial(_attempt, size=canvas.size, channels=canvas.channels, expected=expected)
    if all(isinstance(each, np.ndarray) for each in chunk):  # nothing to decode: threads would only cost
        yield from map(attempt, chunk)
        return
    # Several to a job: small images take less time than handing them to a thread.
    step = max(1, len(chunk) // (4 * THREADS))
    jobs = [chunk[start : start + step] for start in range(0, len(chunk), step)]
    for results in pool.map(lambda part: [attempt(each) for each in part], jobs):
        yield from results


_Result = Cut | str | tuple[int, ...]


def _attempt(
    encoded: Encoded, *, size: tuple[int, int] | None, channels: int | None, expected: tuple[int, ...] | None
) -> _Result:
    """The pixels, or why there are none, or their size where it is not the expected one."""
    try:
        cut = decode.decoded(encoded, size=size, channels=channels)
    except Unreadable as error:
        return Passing(error) if error.passing else str(error)
    shape = cut.pixels.shape[1:]
    return cut if expected in (None, shape) else shape


class _Canvas:
    """Room for n images of one size, made when the first is known. cacheable: a cache would take them, if large."""

    def __init__(self, name: str, count: int, how: Reading, cache: Cache | None, *, cacheable: bool) -> None:
        self.name, self.count, self.size, self.channels = name, count, how.size, how.channels
        self.limit, self.cache, self.cacheable = how.memory_limit, cache, cacheable
        self.shape: tuple[int, ...] | None = None
        self.other_sizes: Counter[tuple[int, ...]] = Counter()
        self.filled = 0

    @property
    def chunk(self) -> int:
        """How many images to decode at a time: one until their size is known."""
        if self.shape is None:
            return 1
        return min(_CHUNK, max(THREADS, _CHUNK_BYTES // self.pixels[:1].nbytes))

    def put(self, slot: int, array: np.ndarray) -> None:
        """Pixels [c, h, w] into a slot. The first colour image among grey ones widens the canvas."""
        if self.shape is None:
            self._check_float(array)
            self.pixels = self._room(array.shape, array.dtype)
        elif array.shape[0] > self.shape[0]:
            wider = self._room(array.shape, array.dtype)
            wider[:] = self.pixels
            self.pixels = wider
        self.pixels[slot] = array
        self.filled += 1

    def tensor(self, kept: list[int], skipped: dict[int, str], windows: dict[int, Window]) -> torch.Tensor:
        """The images of the kept slots, moved together in place. Floats that are bytes / 255 become bytes."""
        if len(kept) < self.count:
            for to, slot in enumerate(kept):
                self.pixels[to] = self.pixels[slot]
        pixels = self.pixels[: len(kept)]
        if self.cache is not None and isinstance(pixels, np.memmap):
            return self.cache.keep(pixels, skipped, windows)
        if pixels.dtype != np.uint8 and all(_on_grid(part) for part in _parts(pixels)):
            pixels = np.concatenate([np.rint(part * 255).astype(np.uint8) for part in _parts(pixels)])
        return torch.from_numpy(pixels)

    def check_sizes(self, seen: int) -> None:
        """Raise DataError if the images so far have several sizes."""
        if not self.other_sizes or self.shape is None:
            return
        raise several_sizes(self.name, Counter({self.shape[1:]: self.filled}) + self.other_sizes, seen, self.count)

    def _room(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        need = self.count * int(np.prod(shape)) * dtype.itemsize
        cacheable = self.cacheable and need >= LEAST and dtype == np.uint8
        if self.cache is not None and cacheable:
            self.shape = shape
            return self.cache.room((self.count, *shape))
        if need > self.limit:
            fitting = self.limit * self.count // need
            part = f"some of them (max_samples={fitting})" if fitting else "fewer"
            ways = [f"Use {part}", "make them smaller (size=)", "raise the limit (memory_limit=)"]
            ways += ["cache them in a folder (--cache, or the environment variable ADVEX_CACHE)"] if cacheable else []
            raise DataError(
                f"{self.name}: {self.count:,} images of {' x '.join(map(str, shape))} (channels x height x "
                f"width) need {_bytes(need)} of memory, more than the limit of {_bytes(self.limit)}. "
                f"{', '.join(ways[:-1])}, or {ways[-1]}."
            )
        self.shape = shape
        return np.empty((self.count, *shape), dtype)

    def _check_float(self, array: np.ndarray) -> None:
        wrong = self.channels not in (None, array.shape[0]) or self.size not in (None, array.shape[1:])
        if array.dtype != np.uint8 and wrong:
            raise DataError(
                f"{self.name}: float images of shape {array.shape} are kept unchanged; size= and channels= "
                "work on 8-bit images only. Save them as uint8 first."
            )


def _parts(pixels: np.ndarray) -> list[np.ndarray]:
    return np.array_split(pixels, max(1, len(pixels) // _CHUNK))


def _on_grid(pixels: np.ndarray) -> bool:
    """Whether floats are bytes / 255, up to the rounding of float32."""
    return bool((np.abs(pixels * 255 - np.rint(pixels * 255)) < 1e-4).all())


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"
