"""The record folder: what an evaluation leaves behind, and all that a report reads. Imports no model code.

    record.json            everything below `Record`
    examples.parquet       one row per model and example
    explanations.parquet   one row per model, example, explainer, target and rho
    maps.parquet           one row per model, explainer and example, of evaluations with maps
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

from pydantic import BaseModel, ConfigDict, model_validator

from advex.errors import ArtifactError
from advex.files import write_text
from advex.record.run import Training as Training
from advex.record.run import read_run as read_run
from advex.record.tables import TABLES as TABLES
from advex.record.tables import Table as Table
from advex.record.versions import Values, read_versioned

SCHEMA = 2
Better = Literal["high", "low", "neither"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Figure(_Model):
    """A measured value with its 95 % interval; `failures` examples had no value. Infinite values are allowed."""

    value: float
    low: float
    high: float
    n: int
    failures: int = 0
    better: Better = "high"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.n < 0 or self.failures < 0:
            raise ValueError(f"a figure of {self.n} examples and {self.failures} failures is impossible")
        if self.low > self.high:
            raise ValueError(f"a figure's interval is [{self.low:g}, {self.high:g}]: its low end is above its high end")
        return self


class CertificateFigures(_Model):
    """How a model's smoothed form was certified, and the network itself on the same examples.

    certified_accuracy and certified_ara are among the model's scores; the radii are in examples.parquet.
    sigma: of the noise, in data units. selection, samples: draws that chose a class and that bound its probability.
    alpha: the risk of each radius. largest: RMSE that no certificate of so many draws exceeds. examples: so many, drawn
    at random from all, were certified.
    accuracy, attack_ara: of the network. gap: attack_ara minus certified_ara, paired.
    abstained: examples without an answer. crossed: examples whose certified radius is above the change that the attack
    found. overclaimed: how many radii may be too large, at most, with 97.5 % certainty over the noise; least_ara: the
    certified area if these are the largest.
    """

    sigma: float
    selection: int
    samples: int
    alpha: float
    largest: float
    examples: int
    accuracy: Figure
    attack_ara: Figure
    gap: Figure
    abstained: int
    crossed: int
    overclaimed: int
    least_ara: float


class MeasureEntry(_Model):
    """What is measured of every map, under one key of `Record.measures`.

    title: for people. better: the good direction. unit: "" where it has none. of: what the measure judges (placed,
    faithful, stable, shape or randomised). spec: builds the measure again; it may give several values, a key for each.
    """

    title: str
    better: Better
    unit: str = ""
    of: str
    spec: str


class MapFigures(_Model):
    """A model's maps by one explainer: means over all examples; the values of each example are in maps.parquet.

    method: the explainer, with what it chose by itself. target: the class explained: `predicted` (what the model
    answers), `true`, or a number. figures: by the keys of `Record.measures`; where the method promises a sum also
    `change`, the size of the change of output that the map is meant to add up to, and `completeness`, by how much the
    map misses it. undefined: by key, how many examples have no value for each reason; only keys with such examples.
    """

    method: str
    target: str
    figures: dict[str, Figure]
    undefined: dict[str, dict[str, int]] = {}


class Answered(_Model):
    """How the explained rows of a table were: see answers.parquet.

    method: the search. alternatives: looked for, for each row. found: share of the rows for which there is one.
    """

    method: str
    alternatives: int
    found: Figure


class ModelEntry(_Model):
    """One evaluated model. name: short, unique. source: as asked for. spec: of the network, if known.

    training: how it was trained, where its source is a run folder; trained_on: how many of the examples are among those
    that it was trained on, None where that is not known. certified: None unless it was. maps: by the
    explainer's name. answered: of a table.
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
    certified: CertificateFigures | None = None
    maps: dict[str, MapFigures] = {}
    answered: Answered | None = None

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.certified is not None and not {"certified_accuracy", "certified_ara"} <= self.scores.keys():
            raise ValueError(f"the model '{self.name}' was certified, but its scores are missing")
        return self


class Difference(_Model):
    """first minus second on the same examples, paired bootstrap.

    comparisons: the intervals of so many differences hold together with 95 %, this one among them. ratio: first divided
    by second, of areas; its interval is widened as the difference's.

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
    ratio: Figure | None = None


class Flag(_Model):
    """A reason to trust a figure less. severity: `warning` or `note`. remedy: what to do about it."""

    model: str
    code: str
    severity: Literal["warning", "note"]
    message: str
    remedy: str


class DataEntry(_Model):
    """The data evaluated on. chance: accuracy of always answering the largest class."""

    name: str
    source: str
    examples: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    chance: float
    skipped: list[tuple[str, str]] = []


class Record(_Model):
    """All of `record.json`. searches: name -> spec string. measures: of maps; key -> what it is, in order.

    lowers: explainers of pictures that show what speaks against a class, not for it.
    command: what made it, to be typed again.
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
    measures: dict[str, MeasureEntry] = {}
    lowers: list[str] = []
    models: list[ModelEntry]
    differences: list[Difference] = []
    flags: list[Flag] = []


def write_record(folder: Path, record: Record) -> None:
    """Write `record.json`; it is written last, so a folder that has one is complete."""
    write_text(folder / "record.json", record.model_dump_json(indent=1) + "\n")


def read_record(folder: Path) -> Record:
    """The record of a folder. Raises ArtifactError when there is none, or it is not one."""
    path = folder / "record.json"
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no record.json: it is not a finished evaluation.")
    return read_versioned(path, Record, SCHEMA, {1: _described_measures}, "a record")


def _described_measures(values: Values) -> None:
    """Schema 1 to 2: the three measures of maps that there were become figures like any other, described beside them.

    The setting `away` became one of the explainers of pictures; searches and measures of other kinds there were none.
    """
    settings = values["settings"]
    if settings:
        explainers = ["toward", "away"] if settings.pop("away", True) else ["toward"]
        settings |= {"searches": [], "pictures": explainers, "measures": ["gini", "entropy", "effective"]}
    values["lowers"] = ["away"]
    entries = {
        "gini": {"title": "Gini index", "better": "high", "of": "shape", "spec": "gini"},
        "entropy": {"title": "Entropy", "better": "low", "unit": "nats", "of": "shape", "spec": "entropy"},
        "effective": {"title": "Elements that count", "better": "low", "of": "shape", "spec": "effective"},
    }
    mapped = [entry for model in values["models"] for entry in model.get("maps", {}).values()]
    for entry in mapped:
        former = {key: entry.pop(key, None) for key in (*entries, "change", "completeness")}
        entry["figures"] = {key: figure for key, figure in former.items() if figure is not None}
    if mapped:
        values["measures"] = entries


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
    """A model's scores, and after them the figures of its maps as EXPLAINER_MEASURE."""
    of_maps = {f"{name}_{key}": figure for name, maps in model.maps.items() for key, figure in maps.figures.items()}
    return model.scores | of_maps


def summary(record: Record, folder: Path) -> str:
    """What `--json` prints: the record's path and each model's figures, strict JSON."""
    models = {
        model.name: {
            name: {
                "value": plain(figure.value),
                "low": plain(figure.low),
                "high": plain(figure.high),
                "n": figure.n,
                "failures": figure.failures,
            }
            for name, figure in all_figures(model).items()
        }
        for model in record.models
    }
    return json.dumps({"record": str(folder), "models": models})
