"""A paper's tables as data, checked: columns, rows with the published values, and how much of it is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from advex.errors import did_you_mean
from advex.papers import answers, choices, extras, sets
from advex.papers.answers import Learned, Simulated
from advex.papers.choices import Chosen
from advex.papers.extras import Extra, Making
from advex.papers.sets import DataSet

ALL = "all"  # every row, where a scale has a subset of its own
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$", max_length=60)]
Values = dict[str, float]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Column(_Model):
    """One column of a table.

    measure: the score of an evaluation's record that is compared with it, None where evaluations have none;
    by_protocol: the one by the published protocol. paired: the score less that of the row which a row is set against,
    example by example. {} in a measure stands for the row's explainer, {NAME} for another one of its `also`. factor,
    offset: the column's value is a score times this, and this more (of a paired one the factor alone). digits: after
    the point, as published.
    """

    title: str
    unit: str = ""
    digits: int = Field(ge=0, le=8)
    better: Literal["high", "low", "neither"] = "high"
    measure: str | None = None
    by_protocol: str | None = None
    paired: bool = False
    factor: float = 1.0
    offset: float = 0.0

    @model_validator(mode="after")
    def _by_examples(self) -> Column:
        if self.paired and (self.measure is None or self.by_protocol):
            raise ValueError(f"column {self.title}: paired columns have a measure, and no protocol")
        return self


class Row(_Model):
    """One row. published: values by column. mark: what the paper's figures call the network.

    recipe, overrides: how it is trained here. model: where one is that was trained so, and is only evaluated. same_as:
    the row of which this is a repetition. against: the row that paired columns compare it with. explainer: whose maps
    the row is of, as the evaluation names it; a repetition then, of the network's own row, and set against another of
    its explainers; also: others, for single columns, by name. needs: why this command does not run it, as the end of
    "not run: needs ...". answers: images that it learns from besides. data: instead of the table's. note: what must be
    said. chosen: the network is another row's, see `Chosen`.
    """

    id: Id
    label: str
    mark: Annotated[str, Field(pattern=r"^[\w .-]*$")] = ""  # names a model, beside where that is
    published: Values
    recipe: str | None = None
    overrides: tuple[Annotated[str, Field(pattern=r"^[\w.]+=.+$")], ...] = ()
    model: str = ""
    same_as: Id | None = None
    against: Id | None = None
    explainer: str = ""
    also: dict[str, str] = {}
    needs: str = ""
    answers: Learned | None = None
    data: str | None = None
    note: str = ""
    chosen: Chosen | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Row:
        if self.same_as and (self.recipe or self.overrides or self.needs):
            raise ValueError(
                f"row {self.id}: a repetition (same_as) takes recipe, overrides and needs from its original"
            )
        if not (self.same_as or self.recipe or self.needs or self.chosen):
            raise ValueError(f"row {self.id}: set recipe, same_as, or needs")
        if self.chosen and (self.same_as or self.recipe or self.needs):
            raise ValueError(f"row {self.id}: the network of a chosen row is another's: no recipe, same_as or needs")
        if self.explainer and not (self.same_as or self.needs):
            raise ValueError(f"row {self.id}: an explainer needs the network of another row (same_as)")
        for what, given in (("overrides", self.overrides), ("a model", self.model)):
            if given and not self.recipe:
                raise ValueError(f"row {self.id}: {what} without a recipe")
        answers.check_model(f"row {self.id}: the model", self.model, answers.BUILTIN)
        return self

    def measure(self, name: str | None) -> str | None:
        """A column's measure as it is of this row; None where the column is of explainers and the row is not."""
        if name is None:
            return None
        explainers = {"": self.explainer, **self.also}
        wanted = re.findall(r"\{(\w*)\}", name)
        if not all(explainers.get(each) for each in wanted):
            return None
        return re.sub(r"\{(\w*)\}", lambda match: explainers[match[1]], name)


class TableGroup(_Model):
    """Rows under a heading."""

    title: str = ""
    rows: tuple[Row, ...]


class Table(_Model):
    """One table. data: the data set it is on. images: how many the paper trained on, and tested on for the areas.

    together: the networks of each section are evaluated once more, all on the same examples, by the scale's settings of
    the table; each by its row's mark, and the rows repeat others. A network's column of changes made on another is then
    transferred:RADIUS:MARK.
    """

    title: str
    data: str
    train_images: int | None = None
    test_images: int | None = None
    together: bool = False
    columns: dict[str, Column]
    sections: tuple[TableGroup, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all sections."""
        return tuple(row for section in self.sections for row in section.rows)


class Other(_Model):
    """A published figure that is in no table. data: the set that it is on; source: where it stands."""

    id: Id
    label: str
    data: str
    published: Values
    source: str


class Claim(_Model):
    """What a paper says of a column in words: the row `first` is better than each of the others."""

    text: str
    table: str
    column: str
    first: Id
    others: tuple[Id, ...] = Field(min_length=1)


class Plot(_Model):
    """Two columns against each other, of some rows of the tables, or of all. zero: y begins at 0."""

    title: str
    tables: tuple[str, ...]
    rows: tuple[Id, ...] = ()
    x: str
    y: str
    zero: bool = True
    caption: str = ""


class Grid(_Model):
    """The same images explained by the networks of some rows."""

    title: str
    rows: tuple[Id, ...]
    caption: str = ""


class Maps(_Model):
    """Maps by the networks of some rows, how concise they are and how much more than those of the first row.

    boxes: keys of measures whose values are drawn as a box for each network.
    """

    title: str
    rows: tuple[Id, ...]
    caption: str = ""
    boxes: tuple[str, ...] = ()


class Budget(_Model):
    """How much is run. change: setting of the recipe -> value, or asked value -> value.

    `network.OPTION` and `objective.TERM.OPTION` reach inside; what a recipe does not have is left alone. data: by
    the paper's name of a set, or by table, the set that is used where none is named. rows: those that are run where
    none are named, or subsets. samples: images drawn; None: all. right_samples: of the test images so many that the
    network classifies correctly, the first after `skip_samples` of all. simulated: instead of the paper's. evaluation:
    settings of it. tables: by table, settings beside these of its rows' evaluations; of a table whose rows are
    evaluated together, all of them. extras: what makes each of the paper's, where it has it. threads: of the processor.
    """

    summary: str
    rows: tuple[str, ...] = ()
    data: dict[str, str] = {}
    threads: int | None = Field(default=None, ge=1)
    train_samples: int | None = Field(default=None, ge=2)
    test_samples: int | None = Field(default=None, ge=1)
    right_samples: int | None = Field(default=None, ge=1)
    skip_samples: int = Field(default=0, ge=0)
    simulated: Simulated | None = None
    change: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    tables: dict[Id, dict[str, Any]] = {}
    extras: dict[Id, Making] = {}


class Paper(_Model):
    """All of a paper's file."""

    title: str
    authors: str
    year: int
    venue: str
    tables: dict[Id, Table]
    sets: dict[str, DataSet] = {}
    others: tuple[Other, ...] = ()
    claims: tuple[Claim, ...] = ()
    plots: dict[Id, Plot] = {}
    maps: dict[Id, Maps] = {}
    grids: dict[Id, Grid] = {}
    extras: dict[Id, Extra] = {}
    subsets: dict[Id, Annotated[tuple[Id, ...], Field(min_length=1)]] = {}
    simulated: Simulated | None = None
    scales: dict[Id, Budget]

    @property
    def rows(self) -> dict[str, Row]:
        """All rows, by id."""
        return {row.id: row for table in self.tables.values() for row in table.rows}

    def table_of(self, row: str) -> str:
        """The id of the table that a row is in."""
        return next(name for name, table in self.tables.items() if any(each.id == row for each in table.rows))

    def original(self, row: Row) -> Row:
        """The row of which this one is a repetition, or itself."""
        return self.rows[row.same_as] if row.same_as else row

    @model_validator(mode="after")
    def _fits(self) -> Paper:
        for problem in _problems(self):
            raise ValueError(problem)
        return self


def _problems(paper: Paper) -> Iterator[str]:
    """What single entries cannot show."""
    ids = [row.id for table in paper.tables.values() for row in table.rows]
    yield from (f"two rows are called '{name}'" for name in sorted({row for row in ids if ids.count(row) > 1}))
    rows = paper.rows
    for name, table in paper.tables.items():
        for row in table.rows:
            if unknown := row.published.keys() - table.columns.keys():
                yield f"row {row.id} has a value for '{min(unknown)}', which is no column of table {name}"
            if row.against is not None and row.against not in rows:
                yield f"row {row.id} is set against '{row.against}': {did_you_mean(row.against, rows)}"
            if row.against == row.id:
                yield f"row {row.id} is set against itself"
            if row.same_as is None:
                continue
            if row.same_as not in rows:
                yield f"row {row.id} repeats '{row.same_as}': {did_you_mean(row.same_as, rows)}"
            elif rows[row.same_as].same_as is not None or rows[row.same_as].chosen is not None:
                yield f"row {row.id} repeats {row.same_as}, which is a repetition itself"
            elif not _agree(row, rows[row.same_as]):
                yield f"row {row.id} repeats {row.same_as}, and the published values differ"
    for kinds in (answers, choices, extras, sets):  # which follow the repetitions
        yield from kinds.problems(paper)
    for name, table in paper.tables.items():
        for section in table.sections if table.together else ():
            measured = [row for row in section.rows if not row.needs]
            if any(not row.same_as or not row.mark for row in measured):
                yield f"table {name}: rows that are evaluated together repeat others (same_as) and have a mark"
            if len({row.mark for row in measured}) < len(measured):
                yield f"table {name}: two rows of a section have one mark"
    named = [("subset", name, chosen) for name, chosen in paper.subsets.items()]
    named += [("grid", name, grid.rows) for name, grid in paper.grids.items()]
    named += [("plot", name, plot.rows) for name, plot in paper.plots.items()]
    named += [("maps", name, maps.rows) for name, maps in paper.maps.items()]
    for kind, name, chosen in named:
        for row in chosen:
            if row not in rows:
                yield f"{kind} {name} names the row '{row}': {did_you_mean(row, rows)}"
    for claim in paper.claims:
        table = paper.tables.get(claim.table)
        if table is None or claim.column not in table.columns:
            yield f"claim '{claim.text}': table {claim.table} is not there, or has no column {claim.column}"
            continue
        known = {row.id for row in table.rows if row.explainer and claim.column in row.published}
        for row in (claim.first, *claim.others):
            if row not in known:
                yield f"claim '{claim.text}': no explainer '{row}' with a value: {did_you_mean(row, known)}"
    yield from (f"'{name}' names a subset, and something else too" for name in paper.subsets if name in (*rows, ALL))
    for name, plot in paper.plots.items():
        for table in plot.tables:
            columns = paper.tables[table].columns if table in paper.tables else {}
            if not {plot.x, plot.y} <= columns.keys():
                yield f"plot {name}: table {table} is not there, or has no columns {plot.x} and {plot.y}"
    for name, scale in paper.scales.items():
        for each in set(scale.rows) - rows.keys() - paper.subsets.keys():
            yield f"scale {name}: there is no row or subset '{each}': {did_you_mean(each, [*rows, *paper.subsets])}"
        for table in (scale.data.keys() - sets.names(paper) | scale.tables.keys()) - paper.tables.keys():
            yield f"scale {name}: there is no table '{table}': {did_you_mean(table, paper.tables)}"


def _agree(row: Row, original: Row) -> bool:
    """Whether two rows have the same published values wherever both have one."""
    common = row.published.keys() & original.published.keys()
    return all(row.published[key] == original.published[key] for key in common)
