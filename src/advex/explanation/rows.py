"""Rows of tables explained in sentences: what would have had to be different for another answer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from advex import data as sets
from advex.classifier import Classifier
from advex.data.source import shortened
from advex.data.tables.columns import Column
from advex.data.tables.csv_file import read_csv
from advex.data.tables.description import style_of
from advex.drawing.contact_sheet import SIDE, Legend, Row
from advex.errors import AdvexWarning, DataError, SpecError, did_you_mean, quoted
from advex.explanation.subjects import Failure, Subject, class_name, from_data, targets_of
from advex.features import Feature, FeatureSpec
from advex.lookup import datasets
from advex.lookup.models import Opened
from advex.progress import QUIET, Terminal
from advex.registry import describe
from advex.tabular.search import FEW_FEATURES, counterfactuals

_MOST_ROWS = 10_000


def from_csv(paths: Sequence[Path], classifier: Classifier) -> list[Subject | Failure]:
    """The rows of CSV files; the column that is predicted may be in them (then it is the label) or not.

    A file or a row that the model has not learned to read is a Failure, which names file, row and column. Raises
    SpecError for a classifier of something else than a table.
    """
    subjects: list[Subject | Failure] = []
    for path in paths:
        spec = _features(classifier, path.name)
        try:
            subjects += _from_csv(path, spec)
        except DataError as error:
            subjects.append(Failure(name=path.name, error=error))
    return subjects


def _from_csv(path: Path, spec: FeatureSpec) -> Iterator[Subject | Failure]:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.", absent=True)
    categories = {feature.name for feature in spec.features if feature.kind == "category"}
    frame = read_csv(path, style=replace(style_of(spec), texts=categories | {spec.target}))
    names = [feature.name for feature in spec.features]
    unknown = [name for name in frame.columns if name not in (*names, spec.target, "")]
    missing = [name for name in names if name not in frame.columns]
    passed = shortened([quoted(name, 40) for name in unknown])
    if missing:
        near = f" The model has no column {passed}: {did_you_mean(unknown[0], missing[:20])}" if unknown else ""
        raise DataError(
            f"{path} has no column {shortened([quoted(name) for name in missing])}, which the model needs.{near}"
        )
    if unknown:
        warnings.warn(f"{path}: ignored, because the model was not trained on it: {passed}", AdvexWarning, stacklevel=2)
    if frame.rows > _MOST_ROWS:
        raise DataError(f"{path} has {frame.rows:,} rows; at most {_MOST_ROWS:,} are explained at once.")
    labels = _texts(frame.columns[spec.target]) if spec.target in frame.columns else [""] * frame.rows
    columns = {feature.name: _typed(frame.columns[feature.name], feature) for feature in spec.features}
    for number in range(frame.rows):
        name = path.name if frame.rows == 1 else f"{path.name} row {number + 1}"
        try:
            x = spec.encode([{column: values[number] for column, values in columns.items()}])[0]
        except DataError as error:
            reason = str(error).partition(": ")[2]
            sentence = f"{reason} Correct the row, or train a model on data that has such values."
            yield Failure(name=name, error=DataError(f"{path}, row {number + 1}: {sentence}"))
        else:
            yield Subject(name=name, x=x, label=str(labels[number]) or None)


def from_table(
    source: str, split: str | None, index: str, model: Opened, say: Terminal = QUIET
) -> list[Subject | Failure]:
    """Rows of a data set by their numbers (see `numbers_from`), read by the model's own columns.

    Raises DataError, SpecError.
    """
    classifier = model.classifier
    _features(classifier, source)
    if not sets.is_table(source):
        raise SpecError(f"{model.name} needs rows of a table, but {source} is not a table: give a CSV file.")
    data = datasets.open_split(source, split, say, prefer=datasets.TEST, like=classifier)
    return [from_data(data, number) for number in datasets.numbers_from(index, len(data))]


@dataclass(frozen=True, kw_only=True)
class RowRequest:
    """What to ask about every row. targets: see `targets_of`. alternatives: sentences for each, at most."""

    targets: tuple[str, ...] = ("runner-up",)
    alternatives: int = 3
    side: int = SIDE

    @property
    def legend(self) -> Legend:
        """None: rows have no contact sheet."""
        return ()

    def about(self) -> dict[str, Any]:
        """What decides the answers, but for the targets, as `explanations.json` holds it."""
        return {"explainer": "counterfactual", "methods": [describe(FEW_FEATURES)]}

    def answer(
        self, classifier: Classifier, subject: Subject, confidences: Tensor, folder: Path, prefix: str
    ) -> dict[str, Any]:
        """Search, verify and tell, for all targets. Raises SpecError for a target that is no class."""
        x = subject.x.to(classifier.device, classifier.dtype)
        explanations = []
        for target in targets_of(confidences, self.targets, classifier.class_names, subject):
            result = counterfactuals(classifier, x, target.number, k=self.alternatives)
            explanations.append({
                "target": result.target,
                "target_name": class_name(classifier, result.target),
                "meant": list(target.meant),
                "sentences": list(result.sentences),
                "counterfactuals": [counterfactual.plain() for counterfactual in result.alternatives],
                "searched": list(result.searched),
                "held": list(result.held),
                "at_most": result.at_most,
            })  # fmt: skip
        row = _features(classifier, subject.name).decode(subject.x[None])[0]
        return {"row": row, "explanations": explanations}

    def sheet_rows(self, answer: dict[str, Any], folder: Path) -> list[Row]:
        """None: rows are told in sentences."""
        return []


def _features(classifier: Classifier, name: str) -> FeatureSpec:
    if classifier.features is None:
        raise SpecError(f"{name} is a row of a table, but the model was not trained on a table.")
    return classifier.features


def _typed(column: Column, feature: Feature) -> list[str | float]:
    """A column's values as the model reads them: dates as days, where it learned days."""
    return _texts(column.as_numbers() if feature.kind == "number" and column.is_date else column)


def _texts(column: Column) -> list[str | float]:
    """A column's values as they were typed; "" where there is none."""
    if column.texts is None:
        return ["" if gap else value for value, gap in zip(column.numbers.tolist(), column.missing, strict=True)]
    return ["" if code < 0 else column.texts[code] for code in column.codes.tolist()]
