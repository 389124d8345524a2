"""Rows of tables: what would have had to be different for another answer, and how each column's values are spread.

A table's distributions are of the evaluated rows: the data that a model was trained on are not at hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from advex.attacks.counterfactual import FewFeatures
from advex.classifier import Classifier
from advex.data.dataset import Dataset
from advex.evaluation.scores import share
from advex.evaluation.searches import batch_for, table
from advex.features import Feature, FeatureSpec
from advex.record import Answered
from advex.registry import describe
from advex.tabular.answers import answer
from advex.tabular.sentences import Counterfactuals

KIND = "answers"
ALTERNATIVES = 3  # for each row, at most
BINS = 24  # of a number's histogram, at most
_SEARCH = FewFeatures()
_ENDS = (1, 99)  # percentiles of a number's values that its bins lie between: a few huge ones would hide the others

# The columns of answers.parquet after `model`; see `advex.record`.
ANSWERS = {
    "example": pa.int64(),
    "alternative": pa.int64(),
    "target": pa.int64(),
    "reached": pa.bool_(),
    "sentence": pa.string(),
    "changes": pa.string(),
    "row": pa.string(),
    "before": pa.list_(pa.float64()),
    "after": pa.list_(pa.float64()),
}
COLUMNS = {
    "name": pa.string(),
    "kind": pa.string(),
    "unit": pa.string(),
    "change": pa.string(),
    "step": pa.float64(),
    "values": pa.list_(pa.string()),
    "edges": pa.list_(pa.float64()),
    "counts": pa.list_(pa.int64()),
    "least": pa.float64(),
    "most": pa.float64(),
}


def answered(classifier: Classifier, data: Dataset, example: int) -> pa.Table:
    """The alternatives of one row, in sentences; one table row that says why where there is none.

    Asked about is the runner-up, or the label where the classifier answers something else.
    """
    spec = classifier.features
    assert spec is not None
    batch = batch_for(classifier, data, slice(example, example + 1))
    label = int(batch.y[0])
    says = int(classifier.predict(batch.x)[0].argmax())
    found = answer(classifier, batch.x[0], None if says == label else label, k=ALTERNATIVES, search=_SEARCH)
    count = max(len(found.alternatives), 1)
    return table(
        ANSWERS,
        example=[example] * count,
        alternative=list(range(count)),
        target=[found.target] * count,
        reached=[bool(found.alternatives)] * count,
        sentence=list(found.sentences[:count]),  # a sentence on what else was not found may come after them
        changes=_changes(found, spec),
        row=[json.dumps(spec.decode(batch.x)[0])] * count,
        before=[list(found.probabilities)] * count,
        after=[list(one.after) for one in found.alternatives] or [None],
    )


def _changes(found: Counterfactuals, spec: FeatureSpec) -> list[str]:
    """Each alternative's changes as JSON. moved: of a number, in units of its column's scale; of a category null."""
    scales = {feature.name: feature.scale for feature in spec.features if feature.kind == "number"}
    told = [
        [
            {
                "feature": one.feature,
                "before": one.before,
                "after": one.after,
                "moved": (float(one.after) - float(one.before)) / scales[one.feature]
                if one.feature in scales
                else None,
            }
            for one in each.changes
        ]
        for each in found.alternatives
    ]
    return [json.dumps(changes) for changes in told or [[]]]


def owned(found: pa.Table, model: str) -> pa.Table:
    """A shard's rows with whose they are."""
    return found.add_column(0, "model", pa.array([model] * len(found), type=pa.string()))


def entry(tables: Sequence[pa.Table]) -> Answered:
    """For how many rows a change was found. tables: one per row."""
    reached = [bool(found.column("reached")[0].as_py()) for found in tables]
    return Answered(
        method=describe(_SEARCH), alternatives=ALTERNATIVES, found=share(torch.tensor(reached), better="neither")
    )


# -- how values are spread ---------------------------------------------------------------------------------


def columns(spec: FeatureSpec, data: Dataset) -> pa.Table:
    """The table `columns`: a row per column of the data, with its histogram over all rows."""
    return pa.Table.from_pylist(
        [
            _spread(feature, data.x[:, where].double().numpy())
            for feature, where in zip(spec.features, spec.slices, strict=True)
        ],
        schema=pa.schema(list(COLUMNS.items())),
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
