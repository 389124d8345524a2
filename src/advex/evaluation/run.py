"""One evaluation at work: what pieces it has, and the tables that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation import certificates, maps, searches
from advex.evaluation import pictures as explain
from advex.evaluation import rows as answering
from advex.evaluation.settings import MapTask, SearchTask, Settings, certification, map_questions
from advex.evaluation.shards import Piece, Shards, complete
from advex.files import atomic
from advex.measures.certified import Certificate, Certify

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation. questions: the searches of every example; the rest as in `evaluate`."""

    shards: Shards
    data: Dataset
    settings: Settings
    questions: Sequence[SearchTask]
    progress: Progress
    stop: Callable[[], bool]

    @property
    def spans(self) -> list[range]:
        """The examples of each shard."""
        size, n = self.settings.batch_size, len(self.data)
        return [range(start, min(start + size, n)) for start in range(0, n, size)]

    def explained(self, purpose: explain.Purpose) -> list[int]:
        """The examples explained for a purpose, by class; the same for every model."""
        count, few = self.settings.explanations, self.settings.sweep
        chosen = explain.choose(self.data.y, min(count, few) if purpose == "sweep" else count, self.settings.seed)
        return sorted(chosen, key=lambda row: (int(self.data.y[row]), row))

    @property
    def purposes(self) -> list[explain.Purpose]:
        """The purposes for which there are examples."""
        both: tuple[explain.Purpose, ...] = ("grid", "sweep") if self.settings.sweep_rhos else ("grid",)
        return [purpose for purpose in both if self.explained(purpose)]

    @property
    def certify(self) -> Certify | None:
        """How examples are certified, if they are."""
        return certification(self.settings)

    @cached_property
    def certified(self) -> list[int]:
        """The examples that are certified, the same for every model."""
        if self.certify is None:
            return []
        return certificates.sampled(len(self.data), self.settings.certify_examples, self.settings.seed)

    @cached_property
    def maps(self) -> tuple[MapTask, ...]:
        """The explainers whose maps are measured."""
        return map_questions(self.settings)

    # -- the work ----------------------------------------------------------------------------------------

    def complete(self, model: str, classifier: Classifier) -> float:
        """Make all of one model's pieces that are not there yet. Returns their seconds. Raises Interrupted."""
        seconds = self._work(self._predictions(model, classifier))
        with classifier.accelerated(compiled=self.settings.compiled, bfloat16=self.settings.bfloat16):
            for question in self.questions:
                seconds += self._work(self._searches(model, classifier, question))
            seconds += self._work(self._recheck(model, classifier))
        for purpose in self.purposes:
            seconds += self._work(self._explanations(model, classifier, purpose))
        for asked in self.maps:
            seconds += self._work(self._maps(model, classifier, asked))
        seconds += self._work(self._answers(model, classifier))
        return seconds + self._work(self._certificates(model, classifier))

    def _work(self, pieces: Sequence[Piece]) -> float:
        return complete(self.shards, pieces, self.progress, self.stop)

    def _pieces(self, model: str, kind: str, make: Callable[[range], pa.Table]) -> list[Piece]:
        return [
            Piece(model=model, kind=kind, index=index, examples=len(rows), make=partial(make, rows))
            for index, rows in enumerate(self.spans)
        ]

    def _predictions(self, model: str, classifier: Classifier) -> list[Piece]:
        return self._pieces(model, "predictions", partial(searches.predictions, classifier, self.data))

    def _searches(self, model: str, classifier: Classifier, question: SearchTask) -> list[Piece]:
        search = partial(searches.searched, question, classifier, self.data, seed=self.settings.seed)
        return self._pieces(model, question.name, search)

    def _recheck(self, model: str, classifier: Classifier) -> list[Piece]:
        question = self.questions[0]
        longer = searches.doubled(question.search)
        chosen = explain.choose(self.data.y, self.settings.recheck, self.settings.seed)
        if longer is None or not chosen:
            return []
        make = partial(searches.rechecked, question, longer, classifier, self.data, chosen, self.settings)
        return [Piece(model=model, kind="recheck", index=0, examples=len(chosen), make=make)]

    def _explanations(self, model: str, classifier: Classifier, purpose: explain.Purpose) -> list[Piece]:
        chosen = self.explained(purpose)
        task = explain.Task(
            model=model,
            classifier=classifier,
            data=self.data,
            chosen=chosen,
            purpose=purpose,
            settings=self.settings,
            folder=self.shards.folder,
        )
        make = partial(explain.explanations, task)
        return [Piece(model=model, kind=purpose, index=0, examples=len(chosen), make=make)]

    def _maps(self, model: str, classifier: Classifier, asked: MapTask) -> list[Piece]:
        shown = frozenset(self.explained("grid"))
        make = partial(maps.mapped, asked, classifier, self.data, self.settings, shown)
        return self._pieces(model, maps.kind(asked), make)

    def _answers(self, model: str, classifier: Classifier) -> list[Piece]:
        if classifier.features is None:
            return []
        return [
            Piece(
                model=model,
                kind=answering.KIND,
                index=index,
                examples=1,
                make=partial(answering.answered, classifier, self.data, example),
            )
            for index, example in enumerate(self.explained("grid"))
        ]

    def _certificates(self, model: str, classifier: Classifier) -> list[Piece]:
        certify = self.certify
        if certify is None:
            return []
        make = partial(certificates.certified, certify, classifier, self.data, seed=self.settings.seed)
        return [
            Piece(model=model, kind=certificates.KIND, index=index, examples=len(rows), make=partial(make, rows))
            for index, rows in enumerate(certificates.spans(certify, self.certified))
        ]

    def certificate(self, model: str) -> Certificate | None:
        """A model's finished certificate; None where nothing was certified. Rows: those of `certified`."""
        certify = self.certify
        if certify is None:
            return None
        return certificates.certificate(certify, self.shards, model, len(certificates.spans(certify, self.certified)))

    # -- the tables --------------------------------------------------------------------------------------

    def write_examples(self, models: Mapping[str, Classifier]) -> None:
        """examples.parquet, shard by shard: no more than one is in memory."""
        schema = {"model": pa.string(), **searches.PREDICTIONS, "picture": pa.string()}
        for question in self.questions:
            schema |= {f"{question.name}_{name}": kind for name, kind in searches.SEARCHED.items()}
        if self.certify is not None:
            schema |= {f"{certificates.KIND}_{name}": kind for name, kind in certificates.CERTIFIED.items()}
        self._write("examples", pa.schema(list(schema.items())), self._examples(models, list(schema)))

    def _examples(self, models: Mapping[str, Classifier], names: list[str]) -> Iterator[pa.Table]:
        shown = set(self.explained("grid"))
        for model, classifier in models.items():
            pictures = explain.has_pictures(classifier, self.data.shape)
            certified = self._certified_rows(model)
            for index, rows in enumerate(self.spans):
                base = self.shards.read(model, "predictions", index)
                columns: dict[str, Any] = {name: base.column(name) for name in searches.PREDICTIONS}
                columns["model"] = [model] * len(rows)
                columns["picture"] = [explain.input_picture(row) if pictures and row in shown else None for row in rows]
                for question in self.questions:
                    found = self.shards.read(model, question.name, index)
                    columns |= {f"{question.name}_{name}": found.column(name) for name in searches.SEARCHED}
                for name in certificates.CERTIFIED if self.certify is not None else ():
                    columns[f"{certificates.KIND}_{name}"] = [certified.get(row, {}).get(name) for row in rows]
                yield pa.table({name: columns[name] for name in names})

    def _certified_rows(self, model: str) -> dict[int, dict[str, Any]]:
        """What is certain of each certified example."""
        certify = self.certify
        if certify is None:
            return {}
        count = len(certificates.spans(certify, self.certified))
        tables = (self.shards.read(model, certificates.KIND, index) for index in range(count))
        return {row["example"]: row for one in tables for row in one.to_pylist()}

    def write_explanations(self, models: Mapping[str, Classifier]) -> None:
        """explanations.parquet."""
        tables = (table for model in models for table in self.explanations(model))
        self._write("explanations", pa.schema(list(explain.EXPLAINED.items())), tables)

    def explanations(self, model: str) -> list[pa.Table]:
        """A model's explanations, one table per purpose."""
        return [self.shards.read(model, purpose) for purpose in self.purposes]

    def write_maps(self, models: Mapping[str, Classifier]) -> None:
        """maps.parquet, where maps were asked for."""
        if self.maps:
            tables = (self._mapped(model, asked, index) for model in models for asked, index in self._map_shards())
            self._write("maps", pa.schema(list(maps.COLUMNS.items())), tables)

    def _map_shards(self) -> Iterator[tuple[MapTask, int]]:
        return ((asked, index) for asked in self.maps for index in range(len(self.spans)))

    def _mapped(self, model: str, asked: MapTask, index: int) -> pa.Table:
        return maps.owned(self.shards.read(model, maps.kind(asked), index), model, asked.name)

    def measured_maps(self, model: str) -> pa.Table | None:
        """A model's rows of maps.parquet, less the maps themselves; None without any."""
        parts = [self._mapped(model, asked, index).drop(["map"]) for asked, index in self._map_shards()]
        return pa.concat_tables(parts) if parts else None

    def write_rows(self, models: Mapping[str, Classifier]) -> None:
        """answers.parquet and columns.parquet, where a model is of a table."""
        spec = next((one.features for one in models.values() if one.features is not None), None)
        if spec is not None:
            told = (
                answering.owned(one, name)
                for name, classifier in models.items()
                for one in self.answers(name, classifier)
            )
            self._write(answering.KIND, pa.schema([("model", pa.string()), *answering.ANSWERS.items()]), told)
            self._write(
                "columns", pa.schema(list(answering.COLUMNS.items())), iter([answering.columns(spec, self.data)])
            )

    def answers(self, model: str, classifier: Classifier) -> list[pa.Table]:
        """A model's answers, one table per explained row; none where it is of no table."""
        count = 0 if classifier.features is None else len(self.explained("grid"))
        return [self.shards.read(model, answering.KIND, index) for index in range(count)]

    def _write(self, name: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        with atomic(self.shards.folder / f"{name}.parquet") as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))

    def probe(self, classifier: Classifier) -> torch.Tensor:
        """A few inputs, spread over the classes."""
        chosen = explain.choose(self.data.y, min(32, self.settings.batch_size), self.settings.seed)
        return searches.batch_for(classifier, self.data, torch.tensor(chosen)).x
