"""Data sets: a built-in name or a path -> `Dataset`, with an account of what was lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from advex import registry
from advex.data import dealing
from advex.data.annotated.answers import TABLE, Annotation
from advex.data.annotated.folder import Annotated, write_annotated
from advex.data.annotated.policy import MAJORITY, AnnotationPolicy
from advex.data.concatenation import concatenate, untraced
from advex.data.crops import Streaming
from advex.data.dataset import Dataset, Origin, Part, Skipped, describe
from advex.data.evidence import Evidence
from advex.data.source import Format, Opened, Place, Reading, Source
from advex.data.tables.description import spec_to_yaml
from advex.data.tables.inference import listed
from advex.data.tables.table import Table
from advex.errors import DataError, did_you_mean
from advex.features import FeatureSpec
from advex.files import as_path, at_home
from advex.options import by_option

if TYPE_CHECKING:
    from advex.data.images.streamed import Streamed

__all__ = [
    "MAJORITY",
    "TABLE",
    "Annotation",
    "AnnotationPolicy",
    "Dataset",
    "Evidence",
    "Origin",
    "Part",
    "Skipped",
    "Streaming",
    "concatenate",
    "describe",
    "ids",
    "is_annotated",
    "is_dealt",
    "is_table",
    "listed",
    "open_dataset",
    "open_streamed",
    "opened",
    "spec_to_yaml",
    "splits",
    "untraced",
    "write_annotated",
]

_FORMS = "advex list format names the files and folders that can be read."
_PACKED = frozenset((".zip", ".gz", ".tgz", ".tar", ".xz", ".bz2", ".7z", ".rar", ".zst"))


@by_option()
def open_dataset(
    source: str | Path,
    *,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    memory_limit: int = 8 * 2**30,
    policy: AnnotationPolicy = MAJORITY,
    progress: Callable[[int, int], None] = lambda done, total: None,
    features: FeatureSpec | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """A data set, decoded and in memory.

    source: a built-in name (`digits`; `./digits` is a folder of that name); a folder `root/class/image`
    or `root/split/class/image`, classes sorted by name; a Hugging Face-style Parquet file, or a folder
    of such; an NPZ file with `x` and `y`; a folder of annotated pictures (`annotations.csv`, see
    `annotated`), of which those called unchanged are read; a table, i.e. a CSV file with a header, a folder of
    such, or a YAML that describes one (docs/tables.md); or a folder of the folder named by the environment
    variable ADVEX_DATA. `advex list format` names all formats, those of plugins too.

    split: needed where there are several. Undivided data are read whole; their splits `train` and `test` are dealt by
    chance, always alike, with a fifth of each class in `test`; of a table, rows of one group (a column such as
    `patient_id`) stay together. size: (height, width), or the side of a square: images are
    scaled to cover it and their centre is cut out; needed where they differ. channels: 1 or 3; left
    away, 1 if all images are grey, else 3. Images are turned upright by their EXIF orientation,
    transparent parts lie on white, of 16-bit pixels the high byte is taken, of several frames the first.

    max_samples: decode only so many, drawn at random by `seed` (as `Dataset.sample` draws).
    memory_limit: bytes the images may take. policy: which annotated pictures count, and how
    much. progress: called with (done, total) as they are decoded.

    features, class_names: of table, those of a trained model (`Classifier.features`), by which rows are encoded and
    labelled; left away, they are as the YAML beside the table says, and inferred from the data where it says nothing.

    Images and rows that cannot be read, or have no label, are listed in `skipped`. Raises DataError for what
    cannot be read as a data set, SpecError for impossible options.
    """
    how = Reading(
        source=str(as_path(source, "What advex.open_dataset opens")),
        split=split,
        size=size if isinstance(size, tuple | list | None) else (size, size),
        channels=channels,
        max_samples=max_samples,
        seed=seed,
        memory_limit=memory_limit,
        progress=progress,
        features=features,
        class_names=class_names,
    )
    opened, part = _part(_find(str(source), policy), split)
    return opened.read(replace(how, split=part))


def open_streamed(
    source: str | Path,
    rule: Streaming,
    *,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Streamed | None:
    """The examples of `open_dataset`, to be trained on without being held; None where each is no file of its own.

    rule: what of each picture is trained on; with lengths of a shorter side, `size` says nothing. Only heads and
    ends of the files are read; those that break off are skipped and named. Raises DataError and SpecError.
    """
    from advex.data.images.streamed import stream

    opened, part = _part(_find(str(source)), split)
    if not isinstance(opened, Source):
        return None
    how = Reading(
        source=str(source), split=part, size=(size, size) if isinstance(size, int) else size, max_samples=max_samples,
        seed=seed, progress=progress,
    )  # fmt: skip
    return stream(opened, how, rule)


def splits(source: str | Path) -> tuple[str, ...]:
    """Names of a source's splits, sorted; none where it has no named ones. Raises DataError."""
    return _find(str(source)).split_names


def ids(source: str | Path, chosen: Iterable[str | None]) -> dict[str | None, tuple[str, ...]]:
    """The ids of all examples of the chosen splits, by split, without decoding one (`None`: the only split).

    Raises DataError.
    """
    opened = _find(str(source))
    parts = {split: _part(opened, split) for split in chosen}
    return {split: part.ids(name) for split, (part, name) in parts.items()}


def is_dealt(source: str | Path) -> bool:
    """Whether a source has no splits of its own and is dealt into `train` and `test`. Raises DataError."""
    return _find(str(source)).dealt() is not None


def is_annotated(source: str | Path) -> bool:
    """Whether a source is a folder of annotated pictures. Raises DataError where there is none."""
    return isinstance(_find(str(source)), Annotated)


def is_table(source: str | Path) -> bool:
    """Whether a source is a table. Raises DataError where there is none."""
    return isinstance(_find(str(source)), Table)


def _part(opened: Opened, split: str | None) -> tuple[Opened, str | None]:
    """What a split is to be read from, and as which: undivided data are dealt where `train` or `test` is asked for."""
    divided = opened.dealt() if split in (dealing.LEARN, dealing.TEST, dealing.ALL) else None
    if divided is None:
        return opened, split
    return (opened, None) if split == dealing.ALL else (divided, split)


def _find(source: str, policy: AnnotationPolicy = MAJORITY) -> Opened:
    """What a name or path means. Raises DataError."""
    builtin = registry.entries("dataset")
    name, _, _ = source.partition(":")
    if name in builtin:
        return registry.build("dataset", source)
    shared = Path(os.environ["ADVEX_DATA"]) if os.environ.get("ADVEX_DATA") else None
    for path in (at_home(source), *([shared / source] if shared else [])) if source else ():
        if path.exists():
            return opened(Place(path, policy))
    known = {*builtin, *(path.name for path in shared.glob("*/"))} if shared else builtin
    below = f", nor in ADVEX_DATA ({shared})" if shared else ""
    near = did_you_mean(name, known, "advex list dataset")
    sentence = f"There is no data set '{source}', nor a file or folder of that name{below}: {near} {_FORMS}"
    raise DataError(sentence, absent=True)


def _formats() -> list[Format]:
    """All formats, in the order in which they are asked."""
    formats: list[Format] = [registry.build("format", name) for name in registry.entries("format")]
    return sorted(formats, key=lambda each: each.order)


def opened(place: Place) -> Opened:
    """What lies at a place, by the first format that knows it. Raises DataError."""
    try:
        for each in _formats():
            if (opened := each.find(place)) is not None:
                return opened
    except OSError as error:  # a link into a folder that is not there any more, say
        raise DataError(f"{error.filename or place.path} cannot be read: {error.strerror or error}.") from None
    if place.suffix in _PACKED:
        raise DataError(f"{place.path} is an archive: unpack it and name the folder.")
    raise DataError(f"{place.path}: files of type '{place.suffix}' cannot be read as data. {_FORMS}")
