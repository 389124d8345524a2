"""A folder of changed pictures and of what people said about them: `annotations.csv` beside the pictures.

Woods et al. 2019 (Sec. III-H, IV-A17) train anew on the training set and on those of its adversarial
images that people called unchanged, with their original label. docs/annotated.md describes the folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advex.data.annotated import answers
from advex.data.annotated.answers import CHANGED, TIE, UNANSWERED, UNCHANGED, UNSURE, Annotation, Judged
from advex.data.annotated.policy import AnnotationPolicy
from advex.data.dataset import Dataset, Origin, Part, Skipped, content, counted
from advex.data.images.loader import load
from advex.data.images.png import decode_png, encode_png
from advex.data.source import Place, Reading, Source, Split, Unreadable, shortened
from advex.errors import DataError, did_you_mean, quoted
from advex.files import write_bytes, write_text
from advex.registry import register

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_MAKERS = 8  # that a part names; the table names all of them


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """An annotated folder: its table is read, its pictures are not. pictures: all, by file. policy: which count."""

    root: Path
    source: Source
    pictures: Mapping[str, Judged]
    policy: AnnotationPolicy

    @property
    def name(self) -> str:
        """The folder's."""
        return self.source.name

    @property
    def split_names(self) -> tuple[str, ...]:
        """None: it has no splits."""
        return self.source.split_names

    def ids(self, split: str | None) -> tuple[str, ...]:
        """Of all pictures that count. Raises DataError."""
        return self.source.ids(split)

    def dealt(self) -> None:
        """It is added to other data, which have a part that is held out."""

    def read(self, how: Reading) -> Dataset:
        """The pictures that count by the policy, with their original labels and weights.

        They are never scaled: neither the change nor what people said of it would survive it. Raises DataError.
        """
        _check_sizes(self, how.size)
        return _with_answers(self, _each_once(load(self.source, how)))


@register("format", "annotated")
@dataclass(frozen=True)
class AnnotatedFolder:
    """A folder of changed pictures whose `annotations.csv` says what people answered about them."""

    reads: ClassVar[str] = "a folder of annotated pictures"
    order: ClassVar[int] = 10

    def find(self, place: Place) -> Annotated | None:
        """The folder that holds the table."""
        answers.check_place(place.path)
        return find(place.path, place.files, place.policy)


def find(root: Path, files: Sequence[PurePosixPath], policy: AnnotationPolicy) -> Annotated | None:
    """The annotated folder `root`, if its `annotations.csv` says that it is one. Raises DataError.

    files: all below root, relative to it.
    """
    table_file = root / answers.TABLE
    if not table_file.is_file() or answers.is_foreign(table_file):
        return None
    table = answers.read(table_file)
    judged = answers.judge(table, str(table_file))
    pictures = {each.about.picture: each for each in judged}
    kept = [each.about for each in judged if policy.weight(each) > 0]
    class_names = tuple(sorted({each.label for each in kept}))
    index = {name: number for number, name in enumerate(class_names)}
    split = Split(
        ids=[each.picture for each in kept],
        labels=np.array([index[each.label] for each in kept], dtype=np.int64),
        read=partial(_encoded, root, [each.picture for each in kept]),
        notes=tuple(filter(None, (_tally(judged, policy), _unlisted(pictures, files), _unknown(table.unknown)))),
    )
    name = root.resolve().name
    return Annotated(
        root=root,
        source=Source(name=name, class_names=class_names, splits={"": lambda: split}),
        pictures=pictures,
        policy=policy,
    )


def _with_answers(annotated: Annotated, data: Dataset) -> Dataset:
    """The pictures with where they come from and how much each counts."""
    about = [annotated.pictures[name].about for name in data.ids]
    votes = sum((Counter(each.votes) for each in annotated.pictures.values()), Counter())
    made_by = Counter(f"{each.model}, {each.search}".strip(", ") for each in about).most_common()
    named, others = made_by[:_MOST_MAKERS], sum(number for _, number in made_by[_MOST_MAKERS:])
    part = Part(
        name=data.name,
        examples=len(data),
        content=content(data),
        answers={answer: votes[answer] for answer in answers.ANSWERS},
        made_by={**{maker or "unknown": number for maker, number in named}, **({"others": others} if others else {})},
    )
    origins = tuple(
        Origin(part=data.name, id=each.picture, source=each.source, source_id=each.source_id) for each in about
    )
    weights = torch.tensor([annotated.policy.weight(annotated.pictures[name]) for name in data.ids])
    weights = None if bool((weights == 1).all()) else weights
    return dataclasses.replace(data, parts=(part,), origins=origins, weights=weights)


def write_annotated(
    folder: str | Path,
    pictures: Mapping[str, Tensor | bytes],
    given: Iterable[Annotation],
    *,
    overwrite: bool = False,
) -> Path:
    """Write an annotated folder: the pictures, and last the table. Returns the folder.

    pictures: file name (relative, ending in .png) -> [channels, height, width], uint8 or float in [0, 1]
    (rounded to 8 bits), or the bytes of a PNG that people were shown. given: all answers; each is about one
    of `pictures` or of the folder's. overwrite: replace a table that is there; its pictures stay.

    Every file is written under another name and then renamed. A picture that is there is never
    replaced by another: the answers belong to the pixels that were seen. Raises DataError for that, for a
    table that is there, and for what could not be read again; InputError for what is no picture.
    """
    folder, given = Path(folder), list(given)
    table_file = folder / answers.TABLE
    if table_file.exists() and not overwrite:
        raise DataError(f"{table_file} already exists. Choose another folder, or replace it with overwrite=True.")
    text = answers.as_csv(given, str(table_file))
    answers.judge(answers.parse(text.encode(), str(table_file)), str(table_file))
    # The names of pictures without an answer are held to the same rules.
    answers.as_csv([Annotation(picture=name, label="any") for name in pictures], str(folder))
    encoded = {name: _png(picture) for name, picture in pictures.items()}
    for name, data in encoded.items():
        path = _inside(folder, name)
        if isinstance(path, Unreadable):
            raise DataError(f"{folder}: the picture {quoted(name)} {path}.")
        if path.exists() and not (path.is_file() and path.read_bytes() == data):
            raise DataError(f"{path} is a different picture. Answers belong to one picture: use another name.")
    for each in given:
        if each.picture not in encoded and not (folder / each.picture).is_file():
            known = f": {did_you_mean(each.picture, sorted(encoded)[:20])}" if encoded else "."
            raise DataError(f"There is an answer for {quoted(each.picture)}, which is not among the pictures{known}")
    for name, data in encoded.items():
        write_bytes(folder / name, data)
    write_text(table_file, text)
    return folder


# -- pictures ------------------------------------------------------------------------------------------------


def _png(picture: Tensor | bytes) -> bytes:
    if isinstance(picture, bytes):
        decode_png(picture)
        return picture
    return encode_png(picture)


def _inside(root: Path, name: str) -> Path | Unreadable:
    """The file of a picture, or why it is not opened: links may lead elsewhere."""
    try:
        path, real = root / name, os.path.realpath(root / name)
    except (OSError, ValueError) as error:
        return Unreadable(f"cannot be opened: {error}")
    if Path(os.path.realpath(root)) not in Path(real).parents:
        return Unreadable("leads out of the folder through a link")
    return path


def _encoded(root: Path, names: Sequence[str], rows: Sequence[int]) -> Iterator[Path | Unreadable]:
    for row in rows:
        path = _inside(root, names[row])
        yield path if isinstance(path, Unreadable) else _checked(path)


def _checked(path: Path) -> Path | Unreadable:
    head = _head(path)
    if not head:
        return Unreadable("the file does not exist or is empty")
    if not head.startswith(_SIGNATURE):
        return Unreadable("not a PNG file, despite its name: other formats may have changed the pixels")
    if (layout := _layout(head)) is not None and layout[2] > 8:
        return Unreadable(f"its pixels have {layout[2]} bits; pictures are shown and trained on with 8")
    return path


def _head(path: Path) -> bytes:
    """The signature of a PNG and its first chunk, IHDR; nothing where there is no plain file."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(33)
    except (OSError, ValueError):
        return b""


def _layout(head: bytes) -> tuple[int, int, int] | None:
    """(height, width, bits per channel) of a PNG; None for a damaged start, which the decoder will name."""
    if len(head) < 33 or not head.startswith(_SIGNATURE + b"\0\0\0\rIHDR"):
        return None
    width, height, bits = struct.unpack(">IIB", head[16:25])
    return (height, width, bits) if zlib.crc32(head[12:29]) == int.from_bytes(head[29:33]) else None


def _check_sizes(annotated: Annotated, size: tuple[int, int] | None) -> None:
    """Raise DataError unless the pictures that count have one size, and the one asked for."""
    sizes: dict[tuple[int, int], list[str]] = {}
    for name, judged in annotated.pictures.items():
        path = _inside(annotated.root, name)
        if isinstance(path, Unreadable) or annotated.policy.weight(judged) == 0:
            continue
        if layout := _layout(_head(path)):
            sizes.setdefault(layout[:2], []).append(name)
    listed = "; ".join(
        f"{height}x{width} ({len(names)}: {shortened(names)})"
        for (height, width), names in sorted(sizes.items(), key=lambda item: -len(item[1]))
    )
    why = "Pictures that people judged cannot be scaled, because the change would no longer be the same."
    if len(sizes) > 1:
        raise DataError(f"{annotated.root}: the pictures have several sizes (height x width): {listed}. {why}")
    if size is not None and sizes and size not in sizes:
        raise DataError(f"{annotated.root}: the pictures are {listed}, not {size[0]}x{size[1]}. {why}")


def _each_once(data: Dataset) -> Dataset:
    """Without pictures whose pixels are those of an earlier one. Raises DataError where their labels differ."""
    seen: dict[bytes, int] = {}
    kept: list[int] = []
    lost: list[Skipped] = []
    for row, picture in enumerate(data.x):
        first = seen.setdefault(hashlib.sha256(picture.numpy().tobytes()).digest(), row)
        if first == row:
            kept.append(row)
        elif data.y[first] == data.y[row]:
            lost.append(Skipped(data.ids[row], f"the same pixels as {data.ids[first]}"))
        else:
            labels = " and ".join(quoted(data.class_names[int(data.y[each])]) for each in (first, row))
            raise DataError(
                f"{data.name}: {quoted(data.ids[first])} and {quoted(data.ids[row])} have the same pixels "
                f"but the labels {labels}. Correct one, or remove its line."
            )
    if not lost:
        return data
    ids = tuple(data.ids[row] for row in kept)
    return dataclasses.replace(data, x=data.x[kept], y=data.y[kept], ids=ids, skipped=(*data.skipped, *lost))


# -- what is said of it --------------------------------------------------------------------------------------


def _tally(judged: Sequence[Judged], policy: AnnotationPolicy) -> str:
    """How many answers there were, and which pictures are left out for them."""
    votes = sum((Counter(each.votes) for each in judged), Counter())
    listed = ", ".join(f"{votes[answer]:,} {answer}" for answer in answers.ANSWERS)
    replaced = sum(each.replaced for each in judged)
    taken_back = f", {replaced:,} replaced by a later one of the same annotator" if replaced else ""
    sentences = [f"{counted(votes.total(), 'answer')} to {counted(len(judged), 'picture')} ({listed}{taken_back})"]
    weights = {each.about.picture: policy.weight(each) for each in judged}
    if light := [name for name, weight in weights.items() if 0 < weight < 1]:
        sentences.append(
            f"{counted(len(light), 'picture')} undecided, with weight {policy.unsure:g} ({shortened(light)})"
        )
    for verdict, why in (
        (UNCHANGED, "not called unchanged by all"),
        (CHANGED, "called changed by most"),
        (TIE, "a tie"),
        (UNSURE, "called unsure by all"),
        (UNANSWERED, "not answered yet"),
    ):
        if names := [
            each.about.picture for each in judged if each.verdict == verdict and not weights[each.about.picture]
        ]:
            sentences.append(f"{counted(len(names), 'picture')} left out: {why} ({shortened(names)})")
    return "; ".join(sentences)


def _unlisted(pictures: Mapping[str, Judged], files: Sequence[PurePosixPath]) -> str:
    loose = [str(path) for path in files if str(path) not in pictures and path.suffix.lower() == ".png"]
    names = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in loose]
    return f"{counted(len(names), 'PNG file')} left out: not in {answers.TABLE} ({shortened(names)})" if names else ""


def _unknown(columns: Sequence[str]) -> str:
    if not columns:
        return ""
    return f"{counted(len(columns), 'column')} of {answers.TABLE} not recognised ({shortened([*map(quoted, columns)])})"
