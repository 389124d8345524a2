"""The tables of a record as figures and differences are taken from them: of one evaluation, or of several merged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from advex import registry
from advex.evaluation.columns import tensor
from advex.record import MeasureEntry, ModelEntry, Table
from advex.record.parquet import read_parquet
from advex.record.tables import TABLES


@dataclass(frozen=True, kw_only=True)
class Results:
    """The tables of a record.

    entries: its models, once their figures are known; searches, norms, measures: as in `Record`. chance: accuracy of
    always answering the largest class. seed: of every bootstrap. parts: the file of what measures that settle need of
    each example, which is too much to be held; None where there is none. estimates: see `settled.estimates`. made: see
    `measure`.
    """

    tables: Mapping[Table, pa.Table]
    chance: float
    seed: int
    searches: Mapping[str, str]
    norms: Mapping[str, str]
    measures: Mapping[str, MeasureEntry]
    entries: Sequence[ModelEntry] = ()
    parts: Path | None = None
    estimates: dict[tuple[str, str], dict[str, Tensor]] = field(default_factory=dict, repr=False)
    made: dict[str, Any] = field(default_factory=dict, repr=False)

    def measure(self, spec: str) -> Any:
        """The measure of a spec string, made once: thousands of pairs are compared by it."""
        if spec not in self.made:
            self.made[spec] = registry.build("measure", spec)
        return self.made[spec]

    def rows(self, table: Table, model: str, explainer: str | None = None) -> pa.Table:
        """The rows of one model (and one explainer), in file order."""
        wanted = pc.field("model") == model
        return self.tables[table].filter(wanted if explainer is None else wanted & (pc.field("explainer") == explainer))

    def column(self, model: str, name: str) -> Tensor:
        """A column of a model's examples: [n], NaN where a number is null."""
        return tensor(self.rows("examples", model), name)

    @property
    def pairs(self) -> Iterator[tuple[ModelEntry, ModelEntry]]:
        """Every two models."""
        return itertools.combinations(self.entries, 2)


def read_tables(folder: Path, *, without: Sequence[str] = ()) -> dict[Table, pa.Table]:
    """The tables that a record folder has but `parts`, less some columns.

    Raises ArtifactError for one that cannot be read.
    """
    paths: dict[Table, Path] = {name: folder / f"{name}.parquet" for name in TABLES if name != "parts"}
    return {name: read_parquet(path, without=without) for name, path in paths.items() if path.exists()}


def read_parts(path: Path, model: str, explainer: str) -> pa.Table:
    """The parts of one explainer's maps of a model. Raises ArtifactError as `read_parquet`."""
    return read_parquet(path, where=(pc.field("model") == model) & (pc.field("explainer") == explainer))


def parts_in(folder: Path) -> Path | None:
    """A record folder's file of parts, where it has one."""
    path = folder / "parts.parquet"
    return path if path.exists() else None
