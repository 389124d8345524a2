"""Rows of tables: what would have had to be different for another answer, and how each column's values are spread.

A table's distributions are of the evaluated rows: the data that a model was trained on are not at hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from advex.attacks.counterfactual import FewFeatures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.columns import beside, table
from advex.evaluation.examples import batch_for
from advex.evaluation.results import Results
from advex.evaluation.run import Blocks, Evaluation, Pieces
from advex.evaluation.scores import Contrast, share
from advex.evaluation.shards import Piece
from advex.features import Feature, FeatureSpec
from advex.record import Answered, Flag, ModelEntry
from advex.record.tables import ANSWER, COLUMN
from advex.registry import describe
from advex.tabular.search import counterfactuals
from advex.tabular.sentences import Counterfactuals

KIND = "answers"
ALTERNATIVES = 3  # for each row, at most
BINS = 24  # of a number's histogram, at most
_SEARCH = FewFeatures()
_ENDS = (1, 99)  # percentiles of a number's values that its bins lie between: a few huge ones would hide the others


def pieces(work: Evaluation, model: str) -> Pieces:
    """A piece for each explained row, of a model of a table."""
    classifier = work.classifiers[model]
    if classifier.features is not None:
        yield [
            Piece(
                model=model,
                kind=KIND,
                index=index,
                examples=1,
                make=partial(_answered, classifier, classifier.features, work.data, example),
            )
            for index, example in enumerate(work.explained)
        ]


def _answered(classifier: Classifier, spec: FeatureSpec, data: Dataset, example: int) -> pa.Table:
    """The alternatives of one row, in sentences; one table row that says why where there is none.

    The class is the runner-up, or the label where the classifier answers something else.
    """
    batch = batch_for(classifier, data, slice(example, example + 1))
    label = int(batch.y[0])
    decision = int(classifier.predict(batch.x)[0].argmax())
    answers = counterfactuals(
        classifier, batch.x[0], None if decision == label else label, k=ALTERNATIVES, search=_SEARCH
    )
    count = max(len(answers.alternatives), 1)
    return table(
        ANSWER, example=[example] * count, alternative=list(range(count)), target=[answers.target] * count,
        reached=[bool(answers.alternatives)] * count,
        sentence=list(answers.sentences[:count]),  # a sentence on what else was not found may come after them
        changes=_changes(answers, spec), row=[json.dumps(spec.decode(batch.x)[0])] * count,
        before=[list(answers.probabilities)] * count,
        after=[list(alternative.after) for alternative in answers.alternatives] or [None],
    )  # fmt: skip


def _changes(answers: Counterfactuals, spec: FeatureSpec) -> list[str]:
    """Each alternative's changes as JSON. share: see `Change`.

    moved: of a number, in units of its column's scale; of a category null.
    """
    scales = {feature.name: feature.scale for feature in spec.features if feature.kind == "number"}
    lists = [
        [
            {
                "feature": change.feature,
                "before": change.before,
                "after": change.after,
                "moved": (float(change.after) - float(change.before)) / scales[change.feature]
                if change.feature in scales
                else None,
                "share": change.share,
            }
            for change in alternative.changes
        ]
        for alternative in answers.alternatives
    ]
    return [json.dumps(changes) for changes in lists or [[]]]


def tables(work: Evaluation, model: str) -> Blocks:
    """The answers, and the columns of the data once."""
    spec = work.classifiers[model].features
    if spec is None:
        return {}
    blocks = (beside(block, model=model) for block in work.made(model, KIND, len(work.explained)))
    first = next(name for name, classifier in work.classifiers.items() if classifier.features is not None)
    return {"answers": blocks, **({"columns": iter([columns(spec, work.data)])} if model == first else {})}


def figures(work: Evaluation, entry: ModelEntry) -> ModelEntry:
    """For how many of the explained rows a change was found."""
    if work.classifiers[entry.name].features is None or not work.explained:
        return entry
    rows = work.written.rows("answers", entry.name).to_pylist()
    reached = [row["reached"] for row in rows if row["alternative"] == 0]
    answered = Answered(
        method=describe(_SEARCH), alternatives=ALTERNATIVES, found=share(torch.tensor(reached), better="neither")
    )
    return entry.model_copy(update={"answered": answered})


def flags(work: Evaluation, entry: ModelEntry) -> Iterator[Flag]:
    """None: a sentence says itself where nothing was found."""
    return iter(())


def differences(results: Results) -> Iterator[Contrast]:
    """None: what is shown is chosen, not a sample."""
    return iter(())


# -- how values are spread ---------------------------------------------------------------------------------


def columns(spec: FeatureSpec, data: Dataset) -> pa.Table:
    """The table `columns`: a row per column of the data, with its histogram over all rows."""
    return pa.Table.from_pylist(
        [
            _spread(feature, data.x[:, where].double().numpy())
            for feature, where in zip(spec.features, spec.slices, strict=True)
        ],
        schema=pa.schema(list(COLUMN.items())),
    )


def _spread(feature: Feature, encoded: np.ndarray) -> dict[str, object]:
    """encoded: [n, width] rows of one column."""
    about = {name: getattr(feature, name) for name in ("name", "kind", "unit", "change", "step")}
    if feature.kind == "category":
        counts = np.bincount(encoded.argmax(axis=1), minlength=feature.width)
        return {**about, "values": feature.values, "edges": [], "counts": counts.tolist(), "least": None, "most": None}
    raw = feature.center + feature.scale * encoded[:, 0]
    if feature.step is not None:  # without what single precision took away
        raw = feature.range[0] + feature.step * ((raw - feature.range[0]) / feature.step).round()
    edges = bin_edges(raw, feature.step)
    counts, _ = np.histogram(raw.clip(edges[0], edges[-1]), edges)
    ends = {"least": float(raw.min()), "most": float(raw.max())}
    return {**about, "values": [], "edges": edges.tolist(), "counts": counts.tolist(), **ends}


def bin_edges(values: np.ndarray, step: float | None = None) -> np.ndarray:
    """Edges [bins + 1] of a histogram of numbers; of what lies beyond, the end bins have to take care.

    step: what the values are multiples of, less an offset. Then every bin holds as many of them as any other: else
    some would look fuller for having more. There are about 2 n^(1/3) bins (the Rice rule), 24 at most.

    >>> bin_edges(np.array([1.0, 1, 2, 2, 2, 4, 4, 4]), 1.0).tolist()
    [0.5, 1.5, 2.5, 3.5, 4.5]
    """
    bins = min(math.ceil(2 * len(values) ** (1 / 3)), BINS)
    low, high = np.percentile(values, _ENDS, method="nearest").tolist()
    if low == high:
        low, high = float(values.min()), float(values.max())
    if step is not None:
        steps = round((high - low) / step) + 1
        each = math.ceil(steps / bins)
        return low - step / 2 + step * each * np.arange(math.ceil(steps / each) + 1)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)
