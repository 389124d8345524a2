"""The record folder: what an evaluation leaves behind, and all that a report reads. Imports no model code.

    record.json            everything below `Record`
    examples.parquet       one row per model and example
    explanations.parquet   one row per model, example, explainer, target and rho
    maps.parquet           one row per model, explainer and example, of evaluations with maps
    traces.parquet         one row per step of a measure, of the explained examples, of measures that say what they see
    places.parquet         boxes of the labelled things and of maps, of the explained examples
    parts.parquet          what measures that look at all examples together know of each of them
    transfer.parquet       one row per radius, model, judging model and example, of evaluations with transfer
    answers.parquet        of tables: one row per model, explained row and alternative
    columns.parquet        of tables: one row per column, with its distribution
    pictures/              8-bit PNG: <example>.png and one per explanation
    shards/                finished pieces, so that an interrupted evaluation goes on

`tables` has the columns of each table, `versions` the rule for files of another schema. `run` reads the other folder
that a report can be made of: that of a training run.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from advex.errors import ArtifactError
from advex.files import write_text
from advex.record.figures import Better as Better
from advex.record.figures import CertificateFigures as CertificateFigures
from advex.record.figures import CorruptedFigures as CorruptedFigures
from advex.record.figures import CorruptionEntry as CorruptionEntry
from advex.record.figures import Figure as Figure
from advex.record.figures import MapFigures as MapFigures
from advex.record.figures import MeasureEntry as MeasureEntry
from advex.record.figures import RadiusEntry as RadiusEntry
from advex.record.figures import RadiusFigures as RadiusFigures
from advex.record.figures import Strict
from advex.record.figures import TransferFigures as TransferFigures
from advex.record.figures import norm_title as norm_title
from advex.record.migrations import STEPS
from advex.record.run import Training as Training
from advex.record.run import read_run as read_run
from advex.record.tables import TABLES as TABLES
from advex.record.tables import Table as Table
from advex.record.versions import read_versioned

__all__ = [
    "CALIBRATION", "RISK", "SCHEMA", "TABLES", "Answered", "Better", "CertificateFigures", "CorruptedFigures",
    "CorruptionEntry", "DataEntry", "Difference", "Figure", "Flag", "MapFigures", "MeasureEntry", "ModelEntry",
    "RadiusEntry", "RadiusFigures", "Record", "Table", "Training", "TransferFigures", "all_figures", "norm_title",
    "plain", "read_record", "read_rows", "read_run", "summary", "write_record", "written_at",
]  # fmt: skip

SCHEMA = 3
RISK = 0.05  # of claiming some difference, of many, where there is none
# Said wherever figures of "better than random" stand.
CALIBRATION = (
    "BTR depends on confidences, so calibration alone changes it: multiplying the logits by a constant "
    "changes BTR, but no decision."
)


class Answered(Strict):
    """How the explained rows of a table were: see answers.parquet.

    method: the search. alternatives: looked for, for each row. found: share of the rows for which there is one.
    """

    method: str
    alternatives: int
    found: Figure


class ModelEntry(Strict):
    """One evaluated model. name: short, unique. source: as asked for. spec: of the network, if known.

    training: how it was trained, where its source is a run folder; trained_on: how many of the examples are among those
    that it was trained on, None where that is not known. radii: by the keys of `Record.radii`. corrupted: by those of
    `Record.corruptions`. transfer: by those of `radii`, where models were evaluated together. certified: None unless
    it was. maps: by the explainer's name. answered: of a table.
    """

    name: str
    source: str
    spec: str | None = None
    parameters: int = 0
    box: tuple[float, float] = (0.0, 1.0)
    scores: dict[str, Figure] = {}
    rho_reached: dict[str, Figure] = {}
    training: Training | None = None
    trained_on: int | None = None
    radii: dict[str, RadiusFigures] = {}
    corrupted: dict[str, CorruptedFigures] = {}
    transfer: dict[str, TransferFigures] = {}
    certified: CertificateFigures | None = None
    maps: dict[str, MapFigures] = {}
    answered: Answered | None = None

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.certified is not None and not {"certified_accuracy", "certified_ara"} <= self.scores.keys():
            raise ValueError(f"the model '{self.name}' was certified, but its scores are missing")
        return self


class Difference(Strict):
    """first minus second on the same examples, paired bootstrap.

    comparisons: the intervals of so many differences have joint 95 % coverage, this one among them. p: of the test that
    flips the signs of the examples' differences, so that of the same comparisons none with p below 0.05 is false, with
    95 % (Holm); None where they are not all means, and in records of before. ratio: first divided by second, of areas;
    its interval is widened as the difference's.

    axis `model`: two models, and measure is a key of `all_figures` of both, such as `attack_ara` or `gradient_gini`.
    axis `explainer`: two explainers of the maps of `model`, and measure is a key of `Record.measures`.
    """

    axis: Literal["model", "explainer"] = "model"
    model: str = ""
    first: str
    second: str
    measure: str
    figure: Figure
    comparisons: int = 1
    p: float | None = None
    ratio: Figure | None = None

    @property
    def separated(self) -> bool:
        """Whether the interval lies on one side of zero, and the test agrees, where there is one."""
        return (self.figure.low > 0 or self.figure.high < 0) and (self.p is None or self.p < RISK)


class Flag(Strict):
    """A reason to trust a figure less. severity: `warning` or `note`. remedy: what to do about it."""

    model: str
    code: str
    severity: Literal["warning", "note"]
    message: str
    remedy: str


class DataEntry(Strict):
    """The data evaluated on. chance: accuracy of always answering the largest class."""

    name: str
    source: str
    examples: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    chance: float
    skipped: list[tuple[str, str]] = []


class Record(Strict):
    """All of `record.json`. searches: name -> spec string. norms: what the distances of a search, their median and area
    are in, where it is not RMSE; such figures have keys as attack_ara:linf. radii: by keys such as linf:8/255.
    corruptions: by name. measures: of maps; key -> what it is, in order. lowers: explainers of pictures that show what
    speaks against a class, not for it. command: what made it, to be typed again.
    """

    schema_version: int = SCHEMA
    advex: str
    created: str
    command: str
    seed: int
    seconds: float
    environment: dict[str, str]
    settings: dict[str, Any]
    data: DataEntry
    searches: dict[str, str]
    norms: dict[str, str] = {}
    radii: dict[str, RadiusEntry] = {}
    corruptions: dict[str, CorruptionEntry] = {}
    measures: dict[str, MeasureEntry] = {}
    lowers: list[str] = []
    models: list[ModelEntry]
    differences: list[Difference] = []
    flags: list[Flag] = []

    def norm(self, search: str) -> str:
        """What the distances of a search are in."""
        return self.norms.get(search, "rmse")


def write_record(folder: Path, record: Record) -> None:
    """Write `record.json`; it is written last, so a folder that has one is complete."""
    write_text(folder / "record.json", record.model_dump_json(indent=1) + "\n")


def written_at(folder: Path) -> tuple[int, int] | None:
    """By what it is seen that the record of a folder was written anew; None where there is none."""
    path = folder / "record.json"
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.is_file() else None


def read_record(folder: Path) -> Record:
    """The record of a folder. Raises ArtifactError when there is none, or it is not one."""
    path = folder / "record.json"
    if not path.is_file():
        sentence = f"{folder} contains no record.json: it is not a finished evaluation."
        raise ArtifactError(
            sentence if folder.exists() else f"There is no folder {folder}.", absent=not folder.is_file()
        )
    return read_versioned(path, Record, SCHEMA, STEPS, "a record")


def read_rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """The rows of a record's table (maps as arrays). Raises ArtifactError."""
    from advex.record.parquet import read_parquet

    rows = read_parquet(folder / f"{table}.parquet")
    if "map" not in rows.column_names:
        return rows.to_pylist()
    arrays = [cell.values.to_numpy() if cell.is_valid else None for cell in rows.column("map")]
    return [row | {"map": values} for row, values in zip(rows.drop(["map"]).to_pylist(), arrays, strict=True)]


def plain(value: float) -> float | None:
    """A number for strict JSON: None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def all_figures(model: ModelEntry) -> dict[str, Figure]:
    """A model's scores, and after them what it withstands as withstood:RADIUS and, of searches that were asked about
    all examples, accuracy:RADIUS:SEARCH; its accuracy on corrupted examples as accuracy:CORRUPTION:SEVERITY and, the
    mean of these, accuracy:CORRUPTION; under changes made on a model transferred:RADIUS:MODEL; its maps as
    EXPLAINER_MEASURE.
    """
    of_radii = {f"withstood:{key}": radius.withstood for key, radius in model.radii.items()}
    of_radii |= {f"accuracy:{key}:{name}": figure for key, radius in model.radii.items()
                 for name, figure in radius.accuracy.items()}  # fmt: skip
    transferred = {
        f"transferred:{key}:{name}": figure
        for key, transfer in model.transfer.items()
        for name, figure in transfer.accuracy.items()
    }
    of_maps = {f"{name}_{key}": figure for name, maps in model.maps.items() for key, figure in maps.figures.items()}
    corrupted = {
        f"accuracy:{key}:{severity}": figure
        for key, each in model.corrupted.items()
        for severity, figure in each.accuracy.items()
    }
    corrupted |= {f"accuracy:{key}": each.mean for key, each in model.corrupted.items() if each.mean is not None}
    return model.scores | of_radii | corrupted | transferred | of_maps


def summary(record: Record, folder: Path) -> str:
    """What `--json` prints: the record's path, each model's figures, how those of radii came about, the seconds that a
    map takes, and the paired differences; strict JSON.
    """

    def ends(figure: Figure) -> dict[str, Any]:
        return {"value": plain(figure.value), "low": plain(figure.low), "high": plain(figure.high), "n": figure.n}

    models = {
        model.name: {name: ends(figure) | {"failures": figure.failures} for name, figure in all_figures(model).items()}
        for model in record.models
    }
    said: dict[str, Any] = {"record": str(folder), "models": models}
    if record.radii:
        kept = {"moved", "alone", "gradients", "queries"}
        said["radii"] = {
            model.name: {key: radius.model_dump(include=kept) for key, radius in model.radii.items()}
            for model in record.models
        }
    if any(model.maps for model in record.models):
        said["seconds"] = {
            model.name: {name: maps.seconds for name, maps in model.maps.items()} for model in record.models
        }
    if record.differences:
        said["differences"] = [
            {**({"model": line.model} if line.axis == "explainer" else {}), "first": line.first, "second": line.second,
             "measure": line.measure, **ends(line.figure), "comparisons": line.comparisons, "p": line.p}
            for line in record.differences
        ]  # fmt: skip
    return json.dumps(said)
