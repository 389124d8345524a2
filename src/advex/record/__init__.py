"""The record folder: what an evaluation leaves behind, and all that a report reads. Imports no model code.

    record.json            everything below `Record`
    examples.parquet       one row per model and example (`EXAMPLE_COLUMNS`, plus those of each search)
    explanations.parquet   one row per model, example, target and rho (`EXPLANATION_COLUMNS`)
    maps.parquet           one row per model, explainer and example (`MAP_COLUMNS`), where maps were asked for
    answers.parquet        of tables: one row per model, explained row and alternative (`ANSWER_COLUMNS`)
    columns.parquet        of tables: one row per column, with its distribution (`COLUMN_COLUMNS`)
    pictures/              8-bit PNG: <example>.png and one per explanation
    shards/                finished pieces, so that an interrupted evaluation goes on

`run` reads the other folder that a report can be made of: that of a training run.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from advex.errors import ArtifactError
from advex.files import write_text
from advex.record.run import Training as Training
from advex.record.run import read_run as read_run

SCHEMA = 1
Table = Literal["examples", "explanations", "maps", "answers", "columns"]

# examples.parquet: per search NAME of `Record.searches` also NAME_rmse (inf: failed), NAME_reached,
# NAME_gradients, NAME_flat, NAME_valid (the goal still holds once cut to the box). Where examples were certified also
# certify_prediction (-1: abstained), _correct, _radius_l2, _rmse (0 unless correct), _candidate, _hits and _lower, null
# for the others.
EXAMPLE_COLUMNS = ("model", "example", "id", "label", "prediction", "confidence", "label_confidence", "picture")

# explanations.parquet: `before` and `after` are lists of confidences, in the float picture; `png_*` is what
# the classifier says to the decoded 8-bit PNG. purpose: grid | sweep.
EXPLANATION_COLUMNS = (
    "model", "example", "purpose", "explainer", "target", "rho", "rmse", "picture", "before", "after",
    "prediction", "png_rmse", "png_after", "png_prediction",
)  # fmt: skip

# maps.parquet: change is what the map is meant to add up to, completeness by how much it adds up to more; both null
# where the method promises nothing. map: all values of the map, in the order of the input's elements, of the examples
# that a report shows; null for the others.
MAP_COLUMNS = (
    "model", "explainer", "example", "target", "method", "gini", "entropy", "effective", "change", "completeness",
    "map",
)  # fmt: skip

# answers.parquet: sentence says what would have had to be different for the answer `target`, or that nothing was found
# (reached false; after null). changes: JSON list of {feature, before, after, moved}; moved is in units of the column's
# scale, null for categories. row: the row as it is, JSON, column -> value. before, after: confidences.
ANSWER_COLUMNS = (
    "model", "example", "alternative", "target", "reached", "sentence", "changes", "row", "before", "after",
)  # fmt: skip

# columns.parquet: counts of the evaluated rows, per category in `values`, or per bin between `edges`; the end bins hold
# what lies beyond as well, and least and most are the ends of all values.
COLUMN_COLUMNS = ("name", "kind", "unit", "change", "step", "values", "edges", "counts", "least", "most")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Figure(_Model):
    """A measured value with its 95 % interval; `failures` examples had no value. Infinite values are allowed."""

    value: float
    low: float
    high: float
    n: int
    failures: int = 0
    better: Literal["high", "low", "neither"] = "high"


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


class MapFigures(_Model):
    """How concise a model's maps by one explainer are, on average over all examples; each one's are in maps.parquet.

    method: the explainer, with what it chose by itself. target: the class explained: `predicted` (what the model
    answers), `true`, or a number. gini: 0 where all elements count alike, near 1 where few do. entropy: of the
    shares, in nats. effective: number of elements that count. change: size of the change of output that the map is
    meant to add up to; completeness: by how much it misses that; both None where the method promises nothing.
    """

    method: str
    target: str
    gini: Figure
    entropy: Figure
    effective: Figure
    change: Figure | None = None
    completeness: Figure | None = None

    def figures(self) -> dict[str, Figure]:
        """Its figures by name, those that there are."""
        found = {name: getattr(self, name) for name in ("gini", "entropy", "effective", "change", "completeness")}
        return {name: figure for name, figure in found.items() if figure is not None}


class Answered(_Model):
    """How the explained rows of a table were: see answers.parquet.

    method: the search. alternatives: looked for, for each row. found: share of the rows for which there is one.
    """

    method: str
    alternatives: int
    found: Figure


class ModelEntry(_Model):
    """One evaluated model. name: short, unique. source: as asked for. spec: of the network, if known.

    training: how it was trained, where its run folder told. certified: where it was asked for. maps: by the name of the
    explainer, those that were asked for. answered: of a table.
    """

    name: str
    source: str
    spec: str | None = None
    parameters: int = 0
    box: tuple[float, float] = (0.0, 1.0)
    scores: dict[str, Figure] = {}
    rho_reached: dict[str, Figure] = {}
    training: Training | None = None
    certified: CertificateFigures | None = None
    maps: dict[str, MapFigures] = {}
    answered: Answered | None = None

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.certified is not None and not {"certified_accuracy", "certified_ara"} <= self.scores.keys():
            raise ValueError(f"the model '{self.name}' was certified, but its scores are missing")
        return self


class Difference(_Model):
    """first minus second on the same images, paired bootstrap. measure: a key of both models' scores."""

    first: str
    second: str
    measure: str
    figure: Figure


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
    """All of `record.json`. searches: name -> spec string. command: what made it, to be typed again."""

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
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not a record of this version: {str(error).splitlines()[0]}.") from None


def read_rows(folder: Path, table: Table) -> list[dict[str, Any]]:
    """The rows of a record's table (maps as arrays). Raises ArtifactError."""
    import pyarrow
    import pyarrow.parquet

    path = folder / f"{table}.parquet"
    try:
        found = pyarrow.parquet.read_table(path)
        if "map" not in found.column_names:
            return found.to_pylist()
        arrays = [one.values.to_numpy() if one.is_valid else None for one in found.column("map")]
        return [row | {"map": values} for row, values in zip(found.drop(["map"]).to_pylist(), arrays, strict=True)]
    except (OSError, pyarrow.ArrowException) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def plain(value: float) -> float | None:
    """A number for strict JSON: None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def all_figures(model: ModelEntry) -> dict[str, Figure]:
    """A model's scores, and after them the figures of its maps as EXPLAINER_MEASURE."""
    of_maps = {f"{name}_{key}": one for name, found in model.maps.items() for key, one in found.figures().items()}
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
