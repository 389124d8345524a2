"""One evaluation at work: its stages make pieces, and from the pieces tables, figures, flags and differences."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.examples import spread
from advex.evaluation.plan import Plan
from advex.evaluation.results import Results, parts_in, read_tables
from advex.evaluation.scores import Contrast, bounded
from advex.evaluation.shards import Maker, Piece, Shards, Unfinished
from advex.evaluation.tasks import standing_on
from advex.files import atomic
from advex.geometry import RMSE
from advex.record import Difference, Flag, ModelEntry, Table
from advex.record.tables import TABLES, columns_of

Progress = Callable[[dict[str, Any]], None]
Pieces = Generator[Sequence[Piece], None, None]
Blocks = Mapping[Table, Iterator[pa.Table]]


class Stage(Protocol):
    """A part of an evaluation: one file of this folder."""

    def pieces(self, work: Evaluation, model: str) -> Pieces:
        """What a model's results are made of: lists of pieces, each of one kind, to be made in this order.

        Whatever holds while the pieces are made (a faster network, say) is a context around the `yield`.
        """
        ...

    def tables(self, work: Evaluation, model: str) -> Blocks:
        """A model's rows of each table that this stage knows of, or its columns beside those of other stages."""
        ...

    def figures(self, work: Evaluation, entry: ModelEntry) -> ModelEntry:
        """A model's entry in the record with what this stage has to add, from the tables."""
        ...

    def flags(self, work: Evaluation, entry: ModelEntry) -> Iterable[Flag]:
        """Reasons to trust these figures less."""
        ...

    def differences(self, results: Results) -> Iterable[Contrast]:
        """Models, or explainers, against each other on the same examples."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation. stages: in their order; classifiers: by the models' names; the rest as in `evaluate`."""

    stages: Sequence[Stage]
    plan: Plan
    data: Dataset
    classifiers: Mapping[str, Classifier]
    shards: Shards
    progress: Progress
    stop: Callable[[], bool]

    @cached_property
    def spans(self) -> tuple[range, ...]:
        """The examples of each shard."""
        size, n = self.plan.settings.batch_size, len(self.data)
        return tuple(range(start, min(start + size, n)) for start in range(0, n, size))

    @cached_property
    def explained(self) -> tuple[int, ...]:
        """The examples that the report shows, by class; the same for every model."""
        return self.chosen(self.plan.settings.explanations)

    def chosen(self, count: int) -> tuple[int, ...]:
        """Some examples, spread over the classes, by class."""
        rows = spread(self.data.y, count, self.plan.settings.seed)
        return tuple(sorted(rows, key=lambda row: (int(self.data.y[row]), row)))

    # -- the work ----------------------------------------------------------------------------------------

    def pieces(self, model: str, kind: str, make: Callable[[range], pa.Table]) -> list[Piece]:
        """A piece for the examples of each shard."""
        return [
            Piece(model=model, kind=kind, index=index, examples=len(rows), make=partial(make, rows))
            for index, rows in enumerate(self.spans)
        ]

    def made(self, model: str, kind: str, count: int | None = None) -> Iterator[pa.Table]:
        """The finished pieces of a kind: `count` of them, or one for each shard."""
        indices = range(len(self.spans) if count is None else count)
        return (self.shards.read(model, kind, index) for index in indices)

    def pause(self) -> None:
        """Raise Interrupted once `stop` says so."""
        with self.shards.stoppable(self.stop):
            pass

    def complete(self) -> float:
        """Make all pieces that are missing. Returns the seconds of all. Raises Interrupted.

        What other processes are at, and what needs it, is passed over at first and waited for in the end.
        """
        maker = Maker(self.shards, self.progress, self.stop)
        tried = [self._tried(maker, model, stage) for model in self.classifiers for stage in self.stages]
        if not all(tried):
            for model in self.classifiers:
                for stage in self.stages:
                    with contextlib.closing(stage.pieces(self, model)) as phases:
                        for pieces in phases:
                            maker.finish(pieces)
        return maker.seconds

    def _tried(self, maker: Maker, model: str, stage: Stage) -> bool:
        """Make what a stage lacks of a model and nobody else is at; whether all of it is there."""
        try:
            with contextlib.closing(stage.pieces(self, model)) as phases:
                return not [piece for pieces in phases for piece in maker.tried(pieces)]
        except Unfinished:
            return False

    # -- what comes of it --------------------------------------------------------------------------------

    def write(self) -> None:
        """Write the tables of the record, block by block: no more than one is in memory."""
        blocks = {model: [stage.tables(self, model) for stage in self.stages] for model in self.classifiers}
        for name in TABLES:
            streams = [[tables[name] for tables in stages if name in tables] for stages in blocks.values()]
            if any(streams):
                schema = pa.schema(list(self._columns(name).items()))
                path = self.shards.folder / f"{name}.parquet"
                with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                    for parts in (parts for each in streams if each for parts in zip(*each, strict=True)):
                        columns = {column: part.column(column) for part in parts for column in part.column_names}
                        writer.write_table(pa.table({column: columns[column] for column in schema.names}).cast(schema))

    def _columns(self, table: Table) -> dict[str, pa.DataType]:
        searches = [task.name for task in self.plan.searches]
        corrupted = [(task.key, severity) for task in self.plan.corruptions for severity in task.severities]
        return columns_of(
            table, searches=searches, radii=[task.key for task in self.plan.radii], measures=self.plan.entries,
            corrupted=corrupted, certified=self.plan.certify is not None,
        )  # fmt: skip

    def figures(self, entry: ModelEntry) -> ModelEntry:
        """A model's entry with the figures of all stages."""
        for stage in self.stages:
            entry = stage.figures(self, entry)
        return entry

    def flags(self, entry: ModelEntry) -> list[Flag]:
        """The flags of all stages on one model."""
        return [flag for stage in self.stages for flag in stage.flags(self, entry)]

    @cached_property
    def written(self) -> Results:
        """The tables as they were written; figures are taken from them."""
        return Results(
            tables=read_tables(self.shards.folder, without=("map", "x")), chance=self.data.chance,
            seed=self.plan.settings.seed, searches={task.name: task.spec for task in self.plan.searches},
            norms={task.name: task.norm.name for task in self.plan.searches if task.norm is not RMSE},
            measures=standing_on(self.data.shape, self.plan.entries), parts=parts_in(self.shards.folder),
        )  # fmt: skip


def differences(stages: Sequence[Stage], results: Results) -> list[Difference]:
    """The differences of all stages: models pair by pair, then explainers."""
    lines = bounded([contrast for stage in stages for contrast in stage.differences(results)], results.seed)
    names = [entry.name for entry in results.entries]
    places = {pair: place for place, pair in enumerate((a, b) for a in names for b in names)}
    last = len(places)
    return sorted(lines, key=lambda line: places[line.first, line.second] if line.axis == "model" else last)
