"""Maps of how much each input element counts: how concise they are, a table per shard, and the figures that follow.

Every example is mapped; of the examples that a report shows, the values of the map are kept as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from advex import measures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.scores import figure_of, mean
from advex.evaluation.searches import batch_for, table
from advex.evaluation.settings import MapTask, Settings
from advex.evaluation.shards import tensor
from advex.record import Difference, MapFigures, MeasureEntry
from advex.record.tables import maps_of
from advex.types import Explanation

WHOSE = {"model": pa.string(), "explainer": pa.string()}
MEASURES = {
    "gini": MeasureEntry(title="Gini index", better="high", of="shape", spec="gini"),
    "entropy": MeasureEntry(title="Entropy", better="low", unit="nats", of="shape", spec="entropy"),
    "effective": MeasureEntry(title="Elements that count", better="low", of="shape", spec="effective"),
}
COLUMNS = maps_of(MEASURES)
MAPPED = {name: kind for name, kind in COLUMNS.items() if name not in WHOSE}


def kind(question: MapTask) -> str:
    """The kind of shard that holds an explainer's maps."""
    return f"map_{question.name}"


@dataclass(frozen=True, kw_only=True)
class Conciseness:
    """How the weight of maps is spread over their elements, channels and all: [n] each, see `measures.sparsity`."""

    gini: Tensor
    entropy: Tensor
    effective: Tensor


def conciseness(values: Tensor) -> Conciseness:
    """The measures of maps [n, *shape], in float64."""
    flat = values.detach().double()
    entropy = measures.entropy(flat)
    return Conciseness(gini=measures.gini(flat), entropy=entropy, effective=entropy.exp())


def explained(question: MapTask, classifier: Classifier, data: Dataset, rows: range, how: Settings) -> Explanation:
    """The maps of some rows, of the class that the settings ask for. Row i depends on example i alone."""
    batch = batch_for(classifier, data, slice(rows.start, rows.stop))
    target = batch.y
    if question.target == "predicted":
        target = classifier.predict(batch.x, max_batch=how.batch_size).argmax(dim=1)
    elif question.target != "true":
        target = torch.full_like(batch.y, int(question.target))
    return question.explainer(classifier, batch.x, target, seed=how.seed, max_batch=how.batch_size)


def mapped(
    question: MapTask, classifier: Classifier, data: Dataset, how: Settings, shown: Collection[int], rows: range
) -> pa.Table:
    """What is measured of the maps of some rows. shown: the examples whose values are kept."""
    found = explained(question, classifier, data, rows, how)
    flat, none = found.map.detach().flatten(1), [None] * len(rows)
    how_concise = conciseness(found.map)
    change = None if found.completeness is None else flat.double().sum(dim=1) - found.completeness
    return table(
        MAPPED,
        example=list(rows),
        target=found.target,
        method=[found.method] * len(rows),
        gini=how_concise.gini,
        entropy=how_concise.entropy,
        effective=how_concise.effective,
        undefined=none,
        change=none if change is None else change,
        completeness=none if found.completeness is None else found.completeness.detach(),
        map=[values.float().tolist() if row in shown else None for row, values in zip(rows, flat, strict=True)],
    )


def owned(found: pa.Table, model: str, explainer: str) -> pa.Table:
    """A shard's rows with whose they are."""
    whose = {"model": [model] * len(found), "explainer": [explainer] * len(found)}
    columns = {name: pa.array(values, type=WHOSE[name]) for name, values in whose.items()}
    return pa.table(columns | {name: found.column(name) for name in MAPPED})


def entry(found: pa.Table, target: str, seed: int) -> MapFigures:
    """The figures of one explainer's maps by one model. found: its rows of all examples."""
    sums = found.column("completeness").null_count < len(found)
    figures = {key: mean(tensor(found, key), one.better, seed) for key, one in MEASURES.items()}
    for name, better in (("change", "neither"), ("completeness", "low")) if sums else ():
        figures[name] = mean(tensor(found, name).abs(), better, seed)
    return MapFigures(method=found.column("method")[0].as_py(), target=target, figures=figures)


def ginis(found: pa.Table) -> dict[str, dict[str, Tensor]]:
    """The Gini index [n] of every example by explainer and model, of the rows of maps.parquet."""
    values: dict[str, dict[str, Tensor]] = {}
    for explainer, model in itertools.product(*(found.column(name).unique().to_pylist() for name in reversed(WHOSE))):
        rows = found.filter((pc.field("model") == model) & (pc.field("explainer") == explainer))
        values.setdefault(explainer, {})[model] = tensor(rows, "gini")
    return values


def differences(values: Mapping[str, Mapping[str, Tensor]], models: Sequence[str], seed: int) -> list[Difference]:
    """The gain dG between every two models, paired: the Gini index of the first minus that of the second (Eq. 19-22).

    values: see `ginis`; row i of every model is of the same example.
    """
    return [
        Difference(
            first=first,
            second=second,
            measure=f"{explainer}_gini",
            figure=figure_of(measures.compare_ginis(of[first], of[second], seed=seed)),
        )
        for first, second in itertools.combinations(models, 2)
        for explainer, of in values.items()
    ]
