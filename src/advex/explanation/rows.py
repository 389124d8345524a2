"""Rows of tables explained in sentences: what would have had to be different for another answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advex import data as sets
from advex import progress
from advex._version import __version__
from advex.classifier import Classifier
from advex.data.source import shortened
from advex.data.tables.csv_file import Column, read_csv
from advex.environment import without_places
from advex.errors import DataError, SpecError, did_you_mean
from advex.explanation.pictures import FIGURES, Subject, class_name, from_data, targets_of
from advex.features import FeatureSpec
from advex.files import write_text
from advex.lookup import datasets
from advex.lookup.models import Opened
from advex.registry import describe
from advex.tabular.answers import FEW_FEATURES, answer

_MOST_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class RowQuestion:
    """What to ask of every row. targets: see `explaining.targets_of`. alternatives: sentences for each, at most."""

    targets: tuple[str, ...]
    alternatives: int = 3


def from_csv(path: Path, classifier: Classifier) -> list[Subject]:
    """The rows of a CSV file; the column that is predicted may be there (then it is the label) or not.

    Raises DataError, naming row and column, for what the model has not learned to read.
    """
    spec = _features(classifier, path.name)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    frame = read_csv(path, texts={one.name for one in spec.features if one.kind == "category"} | {spec.target})
    names = [feature.name for feature in spec.features]
    unknown = [name for name in frame.columns if name not in (*names, spec.target, "")]
    missing = [name for name in names if name not in frame.columns]
    if unknown:
        near = did_you_mean(unknown[0], (missing or names)[:20])
        raise DataError(f"{path}: the model knows no column {shortened([repr(name[:40]) for name in unknown])}: {near}")
    if missing:
        raise DataError(f"{path} has no column {shortened([repr(name) for name in missing])}, which the model needs.")
    if frame.rows > _MOST_ROWS:
        raise DataError(f"{path} has {frame.rows:,} rows; at most {_MOST_ROWS:,} are explained at once.")
    labels = [str(one) for one in _texts(frame.columns[spec.target])] if spec.target in frame.columns else None
    columns = {name: _texts(frame.columns[name]) for name in names}
    found = []
    for number in range(frame.rows):
        name = path.name if frame.rows == 1 else f"{path.name} row {number + 1}"
        try:
            x = spec.encode([{column: values[number] for column, values in columns.items()}])[0]
        except DataError as error:
            reason = str(error).partition(": ")[2]
            raise DataError(
                f"{path}, row {number + 1}: {reason} Correct the row, or train a model on data that has such values."
            ) from None
        found.append(Subject(name=name, x=x, label=labels[number] or None if labels else None))
    return found


def from_table(
    source: str, split: str | None, index: list[int], model: Opened, say: progress.Terminal
) -> list[Subject]:
    """Rows of a data set by their numbers, read by the model's own columns. Raises DataError, SpecError."""
    classifier = model.classifier
    spec = _features(classifier, source)
    if not sets.is_table(source):
        raise SpecError(f"{model.name} answers rows of a table, and {source} is none: name a CSV file.")
    with say.progress(f"read {source}", brief=True) as bar:
        data = sets.open_dataset(
            source,
            split=datasets.preferred(source, split, "test"),
            features=spec,
            class_names=classifier.class_names,
            progress=bar,
        )
    say.note(sets.describe(data))
    return [from_data(data, number) for number in index]


def explain(
    question: RowQuestion, model: Opened, subjects: list[Subject], folder: Path, say: progress.Terminal
) -> dict[str, Any]:
    """Search, verify and tell; write `explanations.json` and return what it holds."""
    classifier = model.classifier
    answers = []
    with say.progress(f"explain with {model.name}") as bar:
        for number, subject in enumerate(subjects, start=1):
            answers.append(_explain_one(classifier, subject, question))
            bar(number, len(subjects))
    result = {
        "advex": __version__,
        "command": without_places(progress.command_line()),
        "model": model.name,
        "source": without_places(model.source),
        "class_names": None if classifier.class_names is None else list(classifier.class_names),
        "explainer": "counterfactual",
        "methods": [describe(FEW_FEATURES)],
        "inputs": answers,
        "sheets": [],
    }
    write_text(folder / FIGURES, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _explain_one(classifier: Classifier, subject: Subject, question: RowQuestion) -> dict[str, Any]:
    spec = _features(classifier, subject.name)
    x = subject.x.to(classifier.device, classifier.dtype)
    confidences = classifier.predict(x[None])[0]
    told: dict[str, Any] = {
        "name": subject.name,
        "label": subject.label,
        "note": subject.note,
        "says": class_name(classifier, int(confidences.argmax())),
        "confidences": confidences.tolist(),
        "row": spec.decode(subject.x[None])[0],
        "explanations": [],
    }
    for target in targets_of(confidences, question.targets, classifier.class_names, subject):
        found = answer(classifier, x, target.number, k=question.alternatives)
        told["explanations"].append({
            "target": found.target,
            "target_name": found.target_name,
            "meant": list(target.meant),
            "sentences": list(found.sentences),
            "counterfactuals": [one.plain() for one in found.alternatives],
            "searched": list(found.searched),
            "held": list(found.held),
            "at_most": found.at_most,
        })  # fmt: skip
    return told


def _features(classifier: Classifier, name: str) -> FeatureSpec:
    if classifier.features is None:
        raise SpecError(f"{name} is to be read as a row of a table, and the model was not trained on one.")
    return classifier.features


def _texts(column: Column) -> list[str | float]:
    """A column's values as they were typed; "" where there is none."""
    if column.texts is None:
        return ["" if gap else value for value, gap in zip(column.numbers.tolist(), column.missing, strict=True)]
    return ["" if code < 0 else column.texts[code] for code in column.codes.tolist()]
