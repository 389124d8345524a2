"""Hugging Face-style Parquet: a column of encoded images, a column of labels, one file or many."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from advex.data.evidence import Region
from advex.data.images.boxes import Order, found, has, of_rows
from advex.data.images.npz import numbered
from advex.data.source import Encoded, Place, Source, Split, Unreadable, shortened
from advex.errors import DataError
from advex.files import check_file
from advex.registry import register

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
_ROWS = 256  # rows decoded at a time: images may be large
_SHARD = re.compile(r"(?P<split>.+?)-\d+-of-\d+(-[0-9a-f]+)?")


@register("format", "parquet")
@dataclass(frozen=True)
class Parquet:
    """Hugging Face-style Parquet files; other files in their folder are not looked at."""

    reads: ClassVar[str] = "a Parquet file or a folder of them"
    order: ClassVar[int] = 20

    def find(self, place: Place) -> Source | None:
        """A file alone is a split; those of a folder are shards of its splits."""
        path = place.path
        if place.suffix == ".parquet":
            return source(path.resolve().parent.name, {split_name(path.parent, path): [path]}, root=path)
        files = [path / each for each in place.files if each.suffix.lower() == ".parquet"]
        return source(path.resolve().name, split_files(path, files), root=path) if files else None


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Where images, their paths, labels and boxes are; None where there are none. text: labels are text."""

    images: str
    paths: str | None
    label: str
    text: bool
    boxes: str | None
    note: str
    class_names: tuple[str, ...] | None


def source(
    name: str, splits: Mapping[str, Sequence[Path]], *, root: Path | None = None, boxes: str = "",
    order: Order | None = None,
) -> Source:  # fmt: skip
    """The data set in Parquet files, by split. root: the one file, or a folder of all.

    boxes, order: see `published.parquet`; left away, `bbox` if it is there. Raises DataError.
    """
    files = [path for shards in splits.values() for path in shards]
    columns = _columns(files[0])
    for path in files if boxes else ():
        if not has(_schema(path), boxes):
            listed = ", ".join(f"{field.name} ({field.type})" for field in _schema(path))
            raise DataError(f"{path} has no column '{boxes}' with boxes. Its columns: {listed}.")
    for path in files[1:]:
        if _columns(path) != columns:
            raise DataError(f"{path} does not match {files[0]}: their columns or class names differ.")
    where = boxes or columns.boxes
    labels = {split: [_column(path, columns.label) for path in shards] for split, shards in splits.items()}
    class_names = columns.class_names
    if class_names is None:
        class_names = _found_classes(files[0], [values for shards in labels.values() for values in shards])
    index = {each: number for number, each in enumerate(class_names)}

    def number(label: Any) -> int:
        if isinstance(label, str):
            return index.get(label, -1)
        return -1 if label is None or label >= 2**63 else label

    def opened(split: str) -> Split:
        return Split(
            evidence=_evidence(splits[split], where, order) if where else None,
            ids=_ids(split or name, splits[split], columns, sum(map(len, labels[split]))),
            labels=np.array([number(value) for values in labels[split] for value in values], dtype=np.int64),
            read=partial(_images, splits[split], columns.images),
            notes=(columns.note,) if columns.note else (),
        )

    opening = {split: partial(opened, split) for split in splits}
    return Source(name=name, class_names=class_names, splits=opening, root=root)


def split_files(root: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files below root by split: `train.parquet`, `data/train-00000-of-00002.parquet`, `train/0000.parquet`.

    Raises DataError when one split's files lie in several folders: those are several data sets.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted(files):
        splits.setdefault(split_name(root, path), []).append(path)
    for split, shards in splits.items():
        if len(folders := sorted({str(path.parent.relative_to(root)) for path in shards})) > 1:
            raise DataError(
                f"{root} contains several data sets: '{split}' is in the folders {shortened(folders)}. Open "
                "one of them."
            )
    return splits


def split_name(root: Path, path: Path) -> str:
    """The split a file belongs to by its name, or by its folder's where its own is a number."""
    if shard := _SHARD.fullmatch(path.stem):
        return shard["split"]
    if path.stem.isdigit() and path.parent != root:
        return path.parent.name
    return path.stem


# -- what is where -------------------------------------------------------------------------------------------


def _opened(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq  # heavy: only when asked for

    check_file(path)
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except _damage() as error:
        raise _told(f"{path} is damaged or not a Parquet file", error) from None


def _damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file can raise."""
    import pyarrow as pa

    return pa.ArrowException, OSError, ValueError


def _told(damage: str, error: Exception) -> DataError:
    """What is said of a damaged file. Where memory ran out, that is raised on: it says nothing of the file."""
    if isinstance(error, MemoryError):
        raise error
    return DataError(f"{damage}: {error}")


def _schema(path: Path) -> pa.Schema:
    with _opened(path) as file:
        try:
            return file.schema_arrow
        except _damage() as error:
            raise _told(f"{path}: its schema is damaged", error) from None


def _columns(path: Path) -> _Columns:
    import pyarrow as pa

    schema = _schema(path)
    features = _features(schema)
    encoded = [field.name for field in schema if _is_image(field.type)]
    countable = [field.name for field in schema if _is_label(field.type)]
    named = [name for name in countable if _names(features.get(name)) is not None]
    images = _one_of(path, schema, IMAGES, encoded, "images (a struct with 'bytes', or binary)")
    label = _one_of(path, schema, LABELS, named or countable, "labels (whole numbers or text)")
    kind = schema.field(images).type
    if label not in countable:
        raise DataError(f"{path}: labels must be integers or text; column '{label}' is {schema.field(label).type}.")
    if images not in encoded:
        raise DataError(f"{path}: images must be a struct with 'bytes', or binary; column '{images}' is {kind}.")
    struct, (boxes, note) = pa.types.is_struct(kind), found(schema)
    return _Columns(
        images=f"{images}.bytes" if struct else images,
        paths=f"{images}.path" if struct and kind.get_field_index("path") >= 0 else None,
        label=label,
        text=not pa.types.is_integer(_values(schema.field(label).type)),
        boxes=boxes,
        note=note,
        class_names=_names(features.get(label)),
    )


def _is_image(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_label(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = _values(kind)
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _values(kind: pa.DataType) -> pa.DataType:
    """The type of the values behind a dictionary."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _one_of(path: Path, schema: pa.Schema, usual: Sequence[str], fitting: Sequence[str], what: str) -> str:
    """The one column with a usual name, else the only fitting one. Raises DataError."""
    candidates = [name for name in schema.names if name in usual] or fitting
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise DataError(
        f"{path} has {len(candidates) or 'no'} columns{f': {shortened(candidates)},' if candidates else ''} "
        f"that may contain the {what}. Exactly one is needed, preferably called '{usual[0]}'. Its columns: "
        f"{columns}."
    )


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the `huggingface` metadata says of the columns; empty where it says nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _names(feature: Any) -> tuple[str, ...] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _found_classes(path: Path, shards: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    """Class names from the labels of all splits: the texts sorted, or the numbers from 0."""
    values = {value for shard in shards for value in shard if value is not None}
    texts = {value for value in values if isinstance(value, str)}
    return tuple(sorted(texts)) if texts else numbered(str(path), max(values, default=0))


def _ids(name: str, shards: Sequence[Path], columns: _Columns, total: int) -> Sequence[str]:
    """The paths in the file where they tell the rows apart, else the row numbers."""
    if columns.paths is not None:
        paths = [path for shard in shards for path in _column(shard, columns.paths)]
        if all(isinstance(path, str) for path in paths) and len(set(paths)) == total:
            return paths
    return [f"{name}/{row:06d}" for row in range(total)]


# -- reading -------------------------------------------------------------------------------------------------


def _column(path: Path, column: str, *, whole: bool = False) -> list[Any]:
    """All values of one small column (`struct.field` for a field of a struct). whole: structs as they are."""
    with _opened(path) as file:
        try:
            values = file.read(columns=[column]).column(0)
            return (values if whole else _leaf(values, column)).to_pylist()
        except _damage() as error:
            raise _told(f"{path}: column '{column}' is damaged", error) from None


def _leaf(values: Any, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    field = column.rpartition(".")[2]
    # Not values.field(): that forgets which structs are null.
    return pc.struct_field(values, [field]) if pa.types.is_struct(values.type) else values  # pyright: ignore


def _evidence(shards: Sequence[Path], column: str, order: Order | None) -> Callable[[int], Sequence[Region]]:
    """Row -> its boxes. order: see `boxes.of_rows`."""
    whole = column.partition(".")[0]
    rows = [(f"{path}: row {k}", value) for path in shards for k, value in enumerate(_column(path, whole, whole=True))]
    return of_rows(rows, column, order)


def _images(shards: Sequence[Path], column: str, rows: Sequence[int]) -> Iterator[Encoded]:
    """The chosen rows of all shards together, ascending. Row groups that hold none are not touched."""
    wanted, start = np.asarray(rows), 0
    for path in shards:
        with _opened(path) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                inside = wanted[(wanted >= start) & (wanted < start + count)] - start
                start += count
                if len(inside):
                    yield from _of_group(path, file, group, column, inside)


def _of_group(path: Path, file: pq.ParquetFile, group: int, column: str, rows: np.ndarray) -> Iterator[Encoded]:
    import pyarrow as pa

    start = given = 0
    damage = "it has fewer rows than its metadata says"
    try:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
            inside = rows[(rows >= start) & (rows < start + len(batch))] - start
            start += len(batch)
            for data in _leaf(batch.column(0), column).take(pa.array(inside)).to_pylist():
                given += 1
                yield Unreadable("the row has no image data, only a path or nothing") if data is None else data
            if given == len(rows):
                return
    except _damage() as error:
        damage = str(_told("", error)).removeprefix(": ")
    for _ in range(len(rows) - given):
        yield Unreadable(f"row group {group} of {path.name} is damaged: {damage}")
