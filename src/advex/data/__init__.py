"""Data sets: a built-in name, a folder, Parquet, NPZ or CSV -> `Dataset`, with an account of what was lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from advex import registry
from advex.data.annotated import folder as annotated
from advex.data.annotated.answers import TABLE
from advex.data.annotated.answers import Annotation as Annotation
from advex.data.annotated.folder import Annotated
from advex.data.annotated.folder import write_annotated as write_annotated
from advex.data.annotated.policy import MAJORITY as MAJORITY
from advex.data.annotated.policy import AnnotationPolicy as AnnotationPolicy
from advex.data.concatenation import concatenate as concatenate
from advex.data.concatenation import untraced as untraced
from advex.data.dataset import Dataset as Dataset
from advex.data.dataset import Origin as Origin
from advex.data.dataset import Part as Part
from advex.data.dataset import Skipped as Skipped
from advex.data.dataset import describe as describe
from advex.data.images import folders, npz, parquet, reading
from advex.data.published import coco, jsrt
from advex.data.source import Source, shortened
from advex.data.tables import table
from advex.data.tables.description import spec_to_yaml as spec_to_yaml
from advex.data.tables.inference import listed as listed
from advex.data.tables.table import Table
from advex.errors import DataError, SpecError, did_you_mean
from advex.features import FeatureSpec

FORMS = (
    "a folder of class folders, a Parquet file or a folder of them, an .npz file, a folder of annotated pictures, "
    "a table (CSV file, or a folder of them), or a built-in name"
)


def open_dataset(
    source: str | Path,
    *,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    memory_limit: int = 8 * 2**30,
    rule: AnnotationPolicy = MAJORITY,
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
    variable ADVEX_DATA. Where Parquet files are in a folder, other files there are not
    looked at.

    split: needed where there are several. size: (height, width), or the side of a square: images are
    scaled to cover it and their centre is cut out; needed where they differ. channels: 1 or 3; left
    away, 1 if all images are grey, else 3. Images are turned upright by their EXIF orientation,
    transparent parts lie on white, of 16-bit pixels the high byte is taken, of several frames the first.

    max_samples: decode only so many, drawn at random by `seed` (as `Dataset.sample` draws).
    memory_limit: bytes the images may take. rule: which annotated pictures count, and how
    much. progress: called with (done, total) as they are decoded.

    features, class_names: of table, those of a trained model (`Classifier.features`), by which rows are encoded and
    labelled; left away, they are as the YAML beside the table says, and inferred from the data where it says nothing.

    Images and rows that cannot be read, or have no label, are listed in `skipped`. Raises DataError for what
    cannot be read as a data set, SpecError for impossible options.
    """
    size = (size, size) if isinstance(size, int) else size
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise SpecError(f"size={size} is not a size: give a side, or (height, width), of at least 1.")
    if channels not in (None, 1, 3):
        raise SpecError(f"channels={channels}: images have 1 channel (grey) or 3 (colour).")
    if max_samples is not None and max_samples < 1:
        raise SpecError(f"max_samples={max_samples} leaves nothing; give at least 1.")
    options = {
        "split": split,
        "size": size,
        "channels": channels,
        "max_samples": max_samples,
        "seed": seed,
        "memory_limit": memory_limit,
        "progress": progress,
    }
    found = _find(str(source), rule)
    if isinstance(found, Table):
        del options["size"], options["channels"]
        return table.read(found, **options, features=features, class_names=class_names)
    return annotated.read(found, **options) if isinstance(found, Annotated) else reading.read(found, **options)


def splits(source: str | Path) -> tuple[str, ...]:
    """Names of a source's splits, sorted; none where it has no named ones. Raises DataError."""
    found = _find(str(source))
    return found.splits if isinstance(found, Table) else tuple(sorted(filter(None, _pictures(found).splits)))


def ids(source: str | Path, chosen: Iterable[str | None]) -> dict[str | None, tuple[str, ...]]:
    """The ids of all examples of the chosen splits, by split, without decoding one (`None`: the only split).

    Raises DataError.
    """
    found = _find(str(source))
    if isinstance(found, Table):
        raise DataError(f"{found.name} is a table: annotated pictures cannot be added to its rows.")
    found = _pictures(found)
    return {split: tuple(found.splits[found.choose(split)]().ids) for split in chosen}


def is_annotated(source: str | Path) -> bool:
    """Whether a source is a folder of annotated pictures. Raises DataError where there is none."""
    return isinstance(_find(str(source)), Annotated)


def is_table(source: str | Path) -> bool:
    """Whether a source is a table. Raises DataError where there is none."""
    return isinstance(_find(str(source)), Table)


def _pictures(found: Source | Annotated) -> Source:
    return found.source if isinstance(found, Annotated) else found


def _find(source: str, rule: AnnotationPolicy = MAJORITY) -> Source | Annotated | Table:
    """What a name or path means. Raises DataError."""
    builtin = registry.entries("dataset")
    name, _, _ = source.partition(":")
    if name in builtin:
        return registry.build("dataset", source)
    shared = Path(os.environ["ADVEX_DATA"]) if os.environ.get("ADVEX_DATA") else None
    places = [Path(source).expanduser(), *([shared / source] if shared else [])]
    for place in places if source else []:
        if place.is_dir():
            return _folder(place, rule)
        if place.exists():
            return _file(place)
    known = {*builtin, *(path.name for path in shared.glob("*/"))} if shared else builtin
    below = f", or the name of a folder in ADVEX_DATA ({shared})" if shared else ""
    raise DataError(f"There is no data set '{source}': {did_you_mean(name, known)} Data is {FORMS}{below}.")


def _folder(root: Path, rule: AnnotationPolicy) -> Source | Annotated | Table:
    files = folders.files_below(root)
    if found := annotated.find(root, files, rule):
        return found
    parquets = [root / path for path in files if path.suffix.lower() == ".parquet"]
    if parquets:
        return parquet.source(root.resolve().name, parquet.split_files(root, parquets))
    if coco.tables(root):
        return coco.coco(root=str(root))
    if jsrt.is_one(files):
        return jsrt.jsrt(root=str(root))
    if found := table.from_folder(root, files):
        return found
    archives = [str(path) for path in files if path.suffix.lower() == ".npz"]
    if archives and len(files) == len(archives):
        raise DataError(f"{root} is a folder of NPZ files ({shortened(archives)}): name one of them.")
    return folders.source(root, files)


def _file(path: Path) -> Source | Table:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return npz.source(path)
    if suffix == ".parquet":
        return parquet.source(path.resolve().parent.name, {parquet.split_name(path.parent, path): [path]})
    if path.name == TABLE:
        raise DataError(f"{path} is a table of answers: name its folder, {path.parent}.")
    if suffix == ".csv":
        return table.from_file(path)
    if suffix in (".yaml", ".yml"):
        return table.from_sheet(path)
    raise DataError(f"{path}: files of type '{suffix}' are not read as data. Data is {FORMS}.")
