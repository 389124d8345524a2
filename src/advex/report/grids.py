"""Explanations of a record as groups that share a scale; as many examples as the page has room for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advex.drawing.numbers import short
from advex.drawing.pictures import (
    Picture,
    ShownPicture,
    SymmetricScale,
    change,
    common_scale,
    locate,
    read_picture,
    show_scale,
)
from advex.report.explained import Explained, ExplainedExample, share_of
from advex.report.reading import Contents, Row

TARGETS = 20  # columns of a grid at most
_CELL_BYTES = 1_500  # of HTML around a picture and its difference
_SHARES = {"grid": 0.6, "sweep": 0.25, "away": 0.15}  # of the page's room for pictures


@dataclass(frozen=True)
class Grid:
    """Examples that share explainer, rho and scale of differences. total: examples explained in the record."""

    kind: str
    explainer: str
    rho: str
    scale: SymmetricScale | None
    scale_bar: ShownPicture | None
    colours: bool
    sheets: tuple[ExplainedExample, ...]
    total: int

    @property
    def columns(self) -> int:
        """Columns of the widest sheet, beside the input."""
        return max((len(sheet.columns) for sheet in self.sheets), default=0)


@dataclass(frozen=True)
class _Example:
    """What a sheet is made of. keys: what its columns stand for. hidden: targets left out; rows holds none of them."""

    rows: list[Row]
    keys: list[float]
    hidden: int


def grids(contents: Contents, kind: str) -> tuple[Grid, ...]:
    """The explanations of one kind: towards classes (`grid`), growing (`sweep`), `away` from a class.

    `away` are the explainers that lower a class, `grid` all others.
    """
    lowers = contents.record.lowers
    rows = [row for row in contents.rows("explanations") if _kind(row, lowers) == kind]
    made, spent = [], 0
    for explainer, rho, mine in _by_explainer(rows, kind):
        examples = [_columns(contents, sheet, kind) for sheet in _by_sheet(mine, kind)]
        chosen, spent = _within(contents, examples, spent, _SHARES[kind] * contents.picture_bytes)
        made.append(_grid(contents, kind, explainer, rho, chosen, len(examples)))
    return tuple(made)


def seen(contents: Contents, models: Sequence[str]) -> Grid | None:
    """One example changed towards one class, for these models: the first one explained that all of them decide rightly.

    The class is the one that the last of the models holds likeliest, beside the label. None without such explanations,
    and of rows of tables, which are told in sentences.
    """
    if contents.rows("answers"):
        return None
    lowers = contents.record.lowers
    rows = [row for row in contents.rows("explanations") if _kind(row, lowers) == "grid" and row["model"] in models]
    about = {(row["model"], row["example"]): row for row in contents.rows("examples")}
    for explainer, rho, mine in _by_explainer(rows, "grid"):
        sheets = [[row for row in sheet if row["target"] != _label(about, row)] for sheet in _by_sheet(mine, "grid")]
        whole = [sheet for sheet in sheets if {row["model"] for row in sheet} == set(models)]
        right = [sheet for sheet in whole if all(_right(about, row) for row in sheet)]
        moved = [sheet for sheet in right or whole if any(row["rmse"] and row["rmse"] > 0 for row in sheet)]
        for sheet in moved[:1]:
            held = {
                row["target"]: share_of(row["before"], row["target"]) or 0.0
                for row in sheet
                if row["model"] == models[-1]
            }
            target = max(held, key=lambda each: (held[each], -each))
            chosen = [row for name in models for row in sheet if row["model"] == name and row["target"] == target]
            if len(chosen) == len(models):
                return _grid(contents, "grid", explainer, rho, [_Example(chosen, [target], 0)], 1)
    return None


def _label(about: Mapping[tuple[str, object], Row], row: Row) -> int | None:
    mine = about.get((row["model"], row["example"]))
    return None if mine is None else mine["label"]


def _right(about: Mapping[tuple[str, object], Row], row: Row) -> bool:
    mine = about.get((row["model"], row["example"]))
    return mine is not None and mine["prediction"] == mine["label"]


def _kind(row: Row, lowers: Collection[str]) -> str:
    if row["purpose"] == "sweep":
        return "sweep"
    return "away" if row["explainer"] in lowers else "grid"


def _by_explainer(rows: list[Row], kind: str) -> Iterable[tuple[str, float | None, list[Row]]]:
    """Rows that belong together: one explainer, and (but in a sweep) one rho."""
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        name = str(row["explainer"])
        rho = None if kind == "sweep" or row["rho"] is None else float(row["rho"])
        key = (name.partition(":")[0] if kind == "sweep" else name, rho)
        groups.setdefault(key, []).append(row)
    for (explainer, rho), mine in groups.items():
        yield explainer, rho, mine


def _by_sheet(rows: list[Row], kind: str) -> list[list[Row]]:
    """The rows of each example; of each example and target in a sweep."""
    groups: dict[object, dict[object, list[Row]]] = {}
    for row in rows:
        target = row["target"] if kind == "sweep" else None
        groups.setdefault(row["example"], {}).setdefault(target, []).append(row)
    return [sheet for by_target in groups.values() for sheet in by_target.values()]


def _columns(contents: Contents, rows: list[Row], kind: str) -> _Example:
    """The columns of a sheet (rho in a sweep, else target) in rising order, and the rows that fill them.

    Of too many targets the label stays, and those the models hold likeliest.
    """
    if kind == "sweep":  # rho = 0 is the input, which every sheet starts with
        return _Example(rows, sorted({float(row["rho"]) for row in rows if row["rho"] > 0}), 0)
    targets = sorted({row["target"] for row in rows})
    if len(targets) <= TARGETS:
        return _Example(rows, targets, 0)
    label = next((row["label"] for row in contents.rows("examples") if row["example"] == rows[0]["example"]), None)
    held = dict.fromkeys(targets, 0.0)
    for row in rows:
        held[row["target"]] = max(held[row["target"]], share_of(row["before"], row["target"]) or 0.0)
    ranked = sorted(targets, key=lambda target: (target != label, -held[target], target))
    kept = sorted(ranked[:TARGETS])
    return _Example([row for row in rows if row["target"] in kept], kept, len(targets) - TARGETS)


def _within(contents: Contents, examples: list[_Example], spent: int, limit: float) -> tuple[list[_Example], int]:
    """As many examples, in order, as the page has room for; the first one always."""
    chosen = []
    for example in examples:
        size = sum(_weight(contents, row) for row in example.rows)
        if chosen and spent + size > limit:
            break
        chosen.append(example)
        spent += size
    return chosen, spent


def _weight(contents: Contents, row: Row) -> int:
    """About how many bytes of the page an explanation takes: its picture and difference, base64."""
    path = locate(contents.folder, row["picture"])
    return _CELL_BYTES + (path.stat().st_size * 8 // 3 if path is not None else 0)


def _grid(
    contents: Contents, kind: str, explainer: str, rho: float | None, examples: list[_Example], total: int
) -> Grid:
    rows = [row for example in examples for row in example.rows]
    pictures = {name: read_picture(contents.folder, name) for name in dict.fromkeys(row["picture"] for row in rows)}
    inputs = {example: _input_picture(contents, example) for example in dict.fromkeys(row["example"] for row in rows)}
    changes = _changes(rows, pictures, inputs)
    scale = common_scale(changes.values()) if changes and kind != "sweep" else None
    colours = any(values.shape[2] == 3 for values in changes.values())
    make = Explained(contents, kind, pictures, inputs, changes, scale)
    return Grid(
        kind, explainer, "" if rho is None else short(rho),
        scale, None if scale is None else show_scale(scale, colours), colours,
        tuple(make(example.rows, example.keys, example.hidden) for example in examples), total,
    )  # fmt: skip


def _input_picture(contents: Contents, example: object) -> Picture | None:
    name = next((row["picture"] for row in contents.rows("examples") if row["example"] == example), None)
    return read_picture(contents.folder, name)


def _changes(
    rows: list[Row], pictures: dict[str, Picture | None], inputs: dict[object, Picture | None]
) -> dict[str, np.ndarray]:
    """What each picture changes in its input, by file name; without those that cannot be compared."""
    changes = {}
    for row in rows:
        picture, clean = pictures[row["picture"]], inputs[row["example"]]
        values = change(picture, clean) if picture is not None and clean is not None else None
        if values is not None:
            changes[row["picture"]] = values
    return changes
