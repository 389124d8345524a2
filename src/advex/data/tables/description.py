"""The YAML beside a table: what its columns are. Everything in it may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advex.data.tables.layout import Style
from advex.documents import read_yaml
from advex.errors import DataError, did_you_mean, quoted, why_impossible
from advex.features import FeatureSpec
from advex.features.typed import as_number, as_text

_NUMERIC = ("low", "high", "step", "center", "scale")


class ColumnDescription(BaseModel):
    """One column as described; what is left out is inferred from the data. See `advex.features.Feature`.

    missing_values: the texts that say that there is no value, in the place of the usual ones (`NA`, `?`, ...).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["number", "category", "ignore"] | None = None
    low: float | None = None
    high: float | None = None
    step: float | Literal["none"] | None = None
    values: tuple[str, ...] | None = None
    change: Literal["free", "never", "up", "down"] = "free"
    center: float | None = None
    scale: float | None = Field(default=None, gt=0)
    unit: str = ""
    missing_values: tuple[str, ...] | None = None

    @property
    def numeric(self) -> bool:
        """Whether something is said that only numbers have."""
        return self.kind == "number" or any(getattr(self, key) is not None for key in _NUMERIC)


class TableDescription(BaseModel):
    """A table as described.

    file: the CSV file or folder that is described; beside the YAML, or in ADVEX_DATA. target: the column that is
    predicted. classes: its values, in order, and what they are called. splits: shares of the rows of a single file,
    dealt out by `seed`. missing: what to do about values that are not there. scale: of numbers: `standard`
    (deviation of the training split, about its mean), `range` (0 to 1) or `none`. categorical: columns whose numbers
    are codes; all of them. columns: by name. encoding: of the CSV files, by its name in Python; decimal, thousands: the
    marks in their numbers. header: `first line` names the columns, whatever it looks like, or `none`: `names` does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    file: str | None = None
    target: str | None = None
    classes: dict[str, str] | None = Field(default=None, min_length=2)
    splits: dict[str, float] | None = Field(default=None, min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    missing: Literal["refuse", "drop", "impute"] = "refuse"
    scale: Literal["standard", "range", "none"] = "standard"
    categorical: Literal["all"] | tuple[str, ...] = ()
    columns: dict[str, ColumnDescription] = Field(default_factory=dict)
    encoding: str | None = None
    decimal: Literal[".", ","] | None = None
    thousands: str | None = Field(default=None, min_length=1, max_length=1)
    header: Literal["first line", "none"] | None = None
    names: tuple[str, ...] = ()

    def column(self, name: str) -> ColumnDescription:
        """What is said of a column; nothing, of one that is not described."""
        return self.columns.get(name, ColumnDescription())


def read_description(path: Path) -> TableDescription:
    """A description of a table, checked. Raises DataError, naming the key, for unknown keys and impossible values."""
    # All scalars as the texts that were typed: a class called `no`, or 01, is not false, or 1.
    values = read_yaml(path, "a description of a table", largest=2**22, typed=False)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise DataError(f"{path} must contain lines of the form 'target: income'; see docs/tables.md.")
    _known(path, "", values, TableDescription)
    columns = values.get("columns")
    for name, inside in columns.items() if isinstance(columns, dict) else ():
        if isinstance(inside, dict):
            _known(path, f"columns.{name}.", inside, ColumnDescription)
    try:
        description = TableDescription.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: {name} = {first.get('input')!r:.80} is not valid: {why_impossible(first['msg'])}."
        ) from None
    _check(path, description)
    return description


def _known(path: Path, before: str, values: dict[str, Any], model: type[BaseModel]) -> None:
    for key in values:
        if key not in model.model_fields:
            raise DataError(f"{path}: unknown key '{before}{key}': {did_you_mean(str(key), model.model_fields)}")


def _check(path: Path, said: TableDescription) -> None:
    if said.splits is not None:
        shares = list(said.splits.values())
        if min(shares) <= 0 or not 0.999 <= sum(shares) <= 1.001:
            raise DataError(f"{path}: splits must be fractions above 0 that add up to 1, not {shares}.")
    if said.classes is not None and len(set(said.classes.values())) < len(said.classes):
        raise DataError(f"{path}: two classes have the same name.")
    if said.names and (said.header != "none" or "" in said.names or len(set(said.names)) < len(said.names)):
        raise DataError(f"{path}: names must be those of the columns, each once, and need `header: none`.")
    if said.thousands is not None and (said.thousands.isalnum() or said.thousands == said.decimal):
        raise DataError(f"{path}: thousands = {quoted(said.thousands)} cannot separate digits.")
    if said.encoding is not None:
        try:
            "".encode(said.encoding)
        except (LookupError, UnicodeError):
            raise DataError(f"{path}: Python has no text encoding called {quoted(said.encoding)}.") from None
    for name, column in said.columns.items():
        kind = column.kind or ("category" if column.values is not None else "number")
        foreign = ("values",) if kind == "number" else _NUMERIC
        if wrong := [key for key in foreign if getattr(column, key) is not None]:
            raise DataError(f"{path}: columns.{name}.{wrong[0]} is not allowed for a column with kind: {kind}.")


def style_of(features: FeatureSpec | None, description: TableDescription | None = None) -> Style:
    """What is known of a CSV file before it is read. features: those of a trained model, if the rows are for one."""
    said = description or TableDescription()
    known = {name: column.values or () for name, column in said.columns.items()}
    known |= {feature.name: feature.values for feature in (features.features if features else ())}
    units = {name: column.unit for name, column in said.columns.items() if column.unit}
    units |= {feature.name: feature.unit for feature in (features.features if features else ()) if feature.unit}
    if said.target and said.classes:
        known[said.target] = tuple(said.classes)
    absent = {name: column.missing_values for name, column in said.columns.items()}
    return Style(
        # Read letter by letter: their categories are such as 01, which a number would not keep.
        texts={name for name, values in known.items() if any(map(_is_code, values))},
        values={name: frozenset(values) for name, values in known.items()},
        missing={name: frozenset(texts) for name, texts in absent.items() if texts is not None},
        units=units,
        encoding=said.encoding,
        decimal=said.decimal,
        thousands=said.thousands,
        header=said.header,
        names=said.names,
    )


def _is_code(text: str) -> bool:
    number = as_number(text)
    return number is not None and as_text(number) != text


def spec_to_yaml(spec: FeatureSpec, class_names: Sequence[str] = ()) -> str:
    """A description to start from: everything that was inferred, written down. Read again it gives the same spec."""
    columns: dict[str, dict[str, Any]] = {}
    for feature in spec.features:
        plain = {key: value for key, value in vars(feature).items() if key in ColumnDescription.model_fields}
        if feature.kind == "category":
            kept = {"kind": "category", "values": list(feature.values)}
        else:
            kept = {key: plain[key] for key in ("kind", "low", "high", "step", "center", "scale")}
            kept["step"] = "none" if feature.step is None else feature.step
        columns[feature.name] = kept | {"change": feature.change} | ({"unit": feature.unit} if feature.unit else {})
    said: dict[str, Any] = {"target": spec.target}
    if class_names:
        said["classes"] = {name: name for name in class_names}
    return yaml.safe_dump({**said, "columns": columns}, sort_keys=False, allow_unicode=True, default_flow_style=None)
