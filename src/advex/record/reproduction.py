"""reproduction.json: a paper's rows as published and as measured. Written after each row; reports read it.

The folder of a reproduction also holds `runs/ROW` and `records/ROW` (a run folder and a record folder for each
network), `projects/ROW` (what was answered about images made with its network; `answered.json` in it tells what it came
to) and `figures/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from advex.errors import ArtifactError
from advex.files import write_text
from advex.record import RISK, Difference, Figure, plain
from advex.record.versions import read_versioned

NAME, ANSWERED = "reproduction.json", "answered.json"
SCHEMA = 1


Verdict = Literal["holds", "reversed", "not separable", "no values"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class ColumnEntry(_Model):
    """A column of a table, see `advex.papers.Column`. better: the good direction."""

    key: str
    title: str
    unit: str = ""
    digits: int = 4
    better: Literal["high", "low", "neither"] = "high"


class RowEntry(_Model):
    """One row: published values, and measured figures in the same units, by column.

    network: the id of the row whose network it is, another one's for a repetition. by_protocol: measured by the
    published protocol. reason: why there are no figures. changes: what was run otherwise than the paper did.
    record: folder of the evaluation, within that of the reproduction; None where it is not the row's own. together: of
    that with other rows' networks, where the row has one. flags: warnings of the evaluation.
    """

    id: str
    label: str
    section: str = ""
    mark: str = ""
    network: str
    published: dict[str, float]
    state: Literal["measured", "waiting", "not run", "failed"]
    reason: str = ""
    note: str = ""
    measured: dict[str, Figure] = {}
    by_protocol: dict[str, Figure] = {}
    changes: list[str] = []
    record: str | None = None
    together: str | None = None
    seconds: float | None = None
    flags: list[str] = []


class TableEntry(_Model):
    """One table of the paper, with the rows that were asked for."""

    id: str
    title: str
    data: str
    columns: list[ColumnEntry]
    rows: list[RowEntry]


class OtherEntry(_Model):
    """A published figure that is in no table."""

    id: str
    label: str
    data: str
    published: dict[str, float]
    source: str


class PointEntry(_Model):
    """A row of the paper in a plot, whether it was asked for or not."""

    id: str
    mark: str = ""
    x: float
    y: float


class PlotEntry(_Model):
    """Two columns of some tables against each other. rows: only these, if any. zero: y begins at 0. published: each
    network once."""

    id: str
    title: str
    caption: str
    tables: list[str]
    rows: list[str] = []
    x: str
    y: str
    zero: bool = True
    published: list[PointEntry] = []


class GridEntry(_Model):
    """Explanations by the networks of some rows. rows: those that the paper shows."""

    id: str
    title: str
    caption: str
    rows: list[str]


class MapsEntry(_Model):
    """Maps by the networks of some rows, the first of which the others are compared with. boxes: keys of measures."""

    id: str
    title: str
    caption: str
    rows: list[str]
    boxes: tuple[str, ...] = ()

    @field_validator("boxes", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """One key, as it was written before there were several."""
        return ((value,) if value else ()) if isinstance(value, str) else value


class ExtraEntry(_Model):
    """What was made of a network beside its row: a study of layers or a record, in the folder `record`."""

    id: str
    title: str
    caption: str
    record: str


class OrderingEntry(_Model):
    """Two rows that a column of the paper puts in order: `first` is the better one there.

    lead: by how much it is better here, in the column's units (of n examples; negative: it is worse). p: of a paired
    test, adjusted for all comparisons of its column (Holm).
    """

    table: str
    column: str
    first: str
    second: str
    n: int
    lead: float
    p: float

    @property
    def verdict(self) -> Verdict:
        """Whether the order holds on this network."""
        if not self.n:
            return "no values"
        return "not separable" if not self.p < RISK else "holds" if self.lead > 0 else "reversed"


class ClaimEntry(_Model):
    """What the paper says of a column in words: the row `first` is better than each of the others."""

    text: str
    table: str
    column: str
    first: str
    others: list[str]


class AnnotatorEntry(_Model):
    """One who answered. answers: how many of each. errors: of these, not what the judge says. unchanged: images that
    are learned from if this one's answers count and those of the ones before."""

    name: str
    answers: dict[str, int]
    errors: int
    unchanged: int


class JudgedEntry(_Model):
    """An image that was judged. original, changed: PNG files, within the folder of the reproduction. verdict: what the
    answers, by annotator, come to."""

    id: str
    label: str
    target: str
    rmse: float
    original: str
    changed: str
    answers: dict[str, str]
    verdict: str


class AnsweredEntry(_Model):
    """What was answered about images made with a row's network. No person answered: annotators are simulated.

    rows: by row that learned from it, how many annotators counted. judge: the network that they ask; accuracy: its own
    on the test split; originals: on what the images were made from. error, sure: see `advex.papers.Simulated`. search:
    what made the images; outcomes: how many; wanted: how many were to be judged, images: how many there were. shared:
    by two or more; agreement: percent, cohen, fleiss, alpha of these. pairs: some of the images, drawn by the seed.
    """

    schema_version: int = SCHEMA
    network: str
    rows: dict[str, int] = {}
    judge: str
    accuracy: Figure
    originals: Figure
    error: float
    sure: float
    search: str
    outcomes: dict[str, int]
    wanted: int
    images: int
    shared: int
    annotators: list[AnnotatorEntry]
    agreement: dict[str, Figure]
    pairs: list[JudgedEntry]


class Reproduction(_Model):
    """All of reproduction.json. searches: what made the measured figures, by name. changes: of all
    rows; each says of what, and so in which of them. differences: of the Gini indices of maps, the row that another one
    is set against minus that one. answered: about images that rows learn from.
    orderings: every two explainers that a column of the paper puts in order; claims: what it says of them in words."""

    schema_version: int = SCHEMA
    advex: str
    created: str
    command: str
    paper: str
    title: str
    citation: str
    scale: str
    summary: str
    seed: int
    data: dict[str, str] = {}
    environment: dict[str, str] = {}
    searches: dict[str, str] = {}
    changes: list[str] = []
    tables: list[TableEntry]
    others: list[OtherEntry] = []
    plots: list[PlotEntry] = []
    grids: list[GridEntry] = []
    maps: list[MapsEntry] = []
    differences: list[Difference] = []
    answered: list[AnsweredEntry] = []
    orderings: list[OrderingEntry] = []
    claims: list[ClaimEntry] = []
    extras: list[ExtraEntry] = []

    @property
    def rows(self) -> list[RowEntry]:
        """The rows of all tables."""
        return [row for table in self.tables for row in table.rows]


def write_reproduction(folder: Path, reproduction: Reproduction) -> None:
    """Write reproduction.json, completely or not at all."""
    write_text(folder / NAME, reproduction.model_dump_json(indent=1) + "\n")


def read_reproduction(folder: Path) -> Reproduction:
    """What a folder's reproduction.json holds. Raises ArtifactError when there is none, or it is not one."""
    path = folder / NAME
    if not path.is_file():
        sentence = f"{folder} contains no {NAME}: it is not a reproduction folder."
        raise ArtifactError(
            sentence if folder.exists() else f"There is no folder {folder}.", absent=not folder.is_file()
        )
    return read_versioned(path, Reproduction, SCHEMA, {}, "a reproduction")


def read_answered(folder: Path) -> AnsweredEntry | None:
    """What a project's answered.json holds; None where there is none yet. Raises ArtifactError."""
    path = folder / ANSWERED
    if not path.is_file():
        return None
    return read_versioned(path, AnsweredEntry, SCHEMA, {}, "an account of what was answered")


def as_plain(model: BaseModel) -> dict[str, Any]:
    """For strict JSON: null where a figure is not finite."""
    return _strict(model.model_dump())


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return plain(value) if isinstance(value, float) else value
