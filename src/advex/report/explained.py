"""One explained example as a table: a row per model, a column per target (grid, away) or per rho (sweep)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import UNIT, confidence, number, short
from advex.drawing.pictures import Picture, ShownPicture, SymmetricScale, show, show_change
from advex.report.reading import Contents, Row


@dataclass(frozen=True)
class ExplanationCell:
    """One explanation. Shares are written out; `says` is the decision on the picture, `png_says` if that differs."""

    picture: ShownPicture | None
    difference: ShownPicture | None
    missing: bool
    before: str
    after: str
    png_after: str
    says: str
    agrees: bool
    png_says: str
    short_of: str


@dataclass(frozen=True)
class SeenInput:
    """The unchanged input as one model sees it."""

    picture: ShownPicture | None
    says: str
    confidence: str
    right: bool


@dataclass(frozen=True)
class ColumnHeading:
    """Heading of a column. mark: `label` where the target is the example's own class."""

    text: str
    mark: str


@dataclass(frozen=True)
class ModelExplanations:
    """A model's row."""

    index: int
    model: str
    input: SeenInput | None
    cells: tuple[ExplanationCell | None, ...]


@dataclass(frozen=True)
class ExplainedExample:
    """One example. hidden: targets that were explained and are not shown."""

    id: str
    label: str
    target: str
    columns: tuple[ColumnHeading, ...]
    lines: tuple[ModelExplanations, ...]
    hidden: int


def share_of(shares: Sequence[float] | None, target: int) -> float | None:
    """Confidence in a class; None where it was not recorded."""
    return float(shares[target]) if shares is not None and 0 <= target < len(shares) else None


@dataclass(frozen=True)
class Explained:
    """Makes a table of the explanations of one example.

    kind: `grid`, `sweep` or `away`. pictures: by file name; inputs: by example; changes: by file name.
    """

    contents: Contents
    kind: str
    pictures: dict[str, Picture | None]
    inputs: dict[object, Picture | None]
    changes: dict[str, np.ndarray]
    scale: SymmetricScale | None

    def __call__(self, rows: list[Row], keys: list[float], hidden: int) -> ExplainedExample:
        example = rows[0]["example"]
        seen = {row["model"]: row for row in self.contents.rows("examples") if row["example"] == example}
        about = next(iter(seen.values()), None)
        label = about["label"] if about else None
        at = "rho" if self.kind == "sweep" else "target"
        cells = {(row["model"], row[at]): self._cell(row, label) for row in rows}
        models = {row["model"] for row in rows}
        return ExplainedExample(
            str(about["id"]) if about else str(example),
            self.contents.class_name(label),
            self.contents.class_name(rows[0]["target"]),
            tuple(self._column(key, label) for key in keys),
            tuple(
                ModelExplanations(
                    index, model.name, self._input(seen.get(model.name), rows),
                    tuple(cells.get((model.name, key)) for key in keys),
                )
                for index, model in enumerate(self.contents.record.models)
                if model.name in models
            ),
            hidden,
        )  # fmt: skip

    def _column(self, key: float, label: int | None) -> ColumnHeading:
        if self.kind == "sweep":
            return ColumnHeading(short(key), "")
        return ColumnHeading(self.contents.class_name(int(key)), "label" if key == label else "")

    def _input(self, row: Row | None, rows: list[Row]) -> SeenInput | None:
        if row is None:
            return None
        picture = self.inputs[row["example"]]
        says = self.contents.class_name(row["prediction"])
        share = confidence(row["confidence"])
        if self.kind == "sweep":  # its caption is the confidence in the target, as in the other columns
            mine = next((other for other in rows if other["model"] == row["model"]), None)
            share = confidence(share_of(mine["before"], mine["target"])) if mine else "–"
        alt = f"Input {row['id']}, label {self.contents.class_name(row['label'])}; {row['model']} says {says}."
        shown = show(picture, alt) if picture is not None else None
        return SeenInput(shown, says, share, row["prediction"] == row["label"])

    def _cell(self, row: Row, label: int | None) -> ExplanationCell:
        name, target = row["picture"], row["target"]
        picture = self.pictures[name]
        to = self.contents.class_name(target)
        before, after = (confidence(share_of(row[column], target)) for column in ("before", "after"))
        png_after = confidence(share_of(row["png_after"], target))
        way = "away from" if self.kind == "away" else "towards"
        alt = (
            f"{row['model']}: the input, label {self.contents.class_name(label)}, changed {way} {to} by RMSE "
            f"{number(row['rmse'], 3)}. Confidence in {to}: {before} before, {after} after."
        )
        difference = None
        if self.scale is not None and name in self.changes:
            difference = show_change(self.changes[name], self.scale, f"What was changed {way} {to}.")
        differs = row["png_prediction"] is not None and row["png_prediction"] != row["prediction"]
        reached = row["rho"] is None or not math.isfinite(row["rmse"]) or row["rmse"] >= row["rho"] - 1e-3
        return ExplanationCell(
            show(picture, alt) if picture is not None else None,
            difference,
            name is not None and picture is None,
            before.removesuffix(UNIT), after, png_after,
            self.contents.class_name(row["prediction"]),
            (row["prediction"] == target) == (self.kind != "away"),
            self.contents.class_name(row["png_prediction"]) if differs else "",
            "" if reached else number(row["rmse"], 3),
        )  # fmt: skip
