"""Papers' tables as data: what was published, and how each row is made here. The YAML files of this folder.

tables    columns with unit and format; rows with the published values, recipe and changes to it
sets      of what size the pictures of its data sets are, and how they are dealt
claims    what the paper says of orders in words
others    published figures that are in no table, to compare with
plots     two columns against each other; grids: explanations by the networks of several rows; maps: theirs side by side
subsets   names for some rows
simulated who answers about images where the paper asked people
scales    how much of it is run, and what is changed for that
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from advex import registry
from advex.documents import read_yaml
from advex.errors import SpecError, did_you_mean, why_impossible
from advex.papers.answers import Learned as Learned
from advex.papers.answers import Simulated as Simulated
from advex.papers.paper import ALL as ALL
from advex.papers.paper import Budget as Budget
from advex.papers.paper import Column as Column
from advex.papers.paper import Paper as Paper
from advex.papers.paper import Plot as Plot
from advex.papers.paper import Row as Row
from advex.papers.paper import Table as Table

__all__ = [
    "ALL", "Budget", "Column", "Learned", "Paper", "Plot", "Row", "Simulated", "Table", "chosen", "read",
    "register_files",
]  # fmt: skip


def register_files(package: str) -> None:
    """Register the YAML files beside a package's modules as papers, by their names: `register_files(__name__)`."""
    registry.register_files("paper", package, read, _summary, _facts)


def _summary(path: Path) -> str:
    paper = read(path)
    return f"{paper.authors} {paper.year}: {len(paper.rows)} rows, for advex reproduce"


def _facts(path: Path) -> dict[str, str]:
    """What may be asked for: tables, scales and subsets."""
    paper = read(path)
    names = {"tables": paper.tables, "scales": paper.scales, "subsets": paper.subsets}
    return {key: ",".join(values) for key, values in names.items()}


def read(name_or_path: str | Path) -> Paper:
    """A registered paper, or one of a YAML file of the same form.

    Raises SpecError when there is none, or the file is not one, naming the place.
    """
    path = registry.file_of("paper", name_or_path)
    values = read_yaml(path, "a file of a paper's tables", SpecError)
    if not isinstance(values, dict):
        raise SpecError(f"{path} does not describe a paper: it must be a mapping with title, tables and scales.")
    try:
        return Paper.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise SpecError(f"{path}: {place}: {why_impossible(first['msg']).rstrip('.')}.") from None


def chosen(paper: Paper, table: str | None, names: Sequence[str], usual: Sequence[str] = ()) -> list[str]:
    """The ids of the rows asked for, and of those that they cannot do without, in the order of the tables.

    table: its id, in any case; None: all. names: rows, subsets, or "all". Where there are none: those of `usual` that
    are in the table, or all of its rows. Raises SpecError, with a suggestion, for what is not there.
    """
    tables = {name.lower(): name for name in paper.tables}
    if table is not None and table.lower() not in tables:
        raise SpecError(f"There is no table '{table}': {did_you_mean(table, paper.tables)}")
    listed = [row.id for row in (paper.tables[tables[table.lower()]].rows if table else paper.rows.values())]
    usual = () if names else usual
    named = {row for name in usual for row in paper.subsets.get(name, (name,)) if row in listed}
    for name in names:
        rows = {name} if name in paper.rows else set(listed if name == ALL else paper.subsets.get(name, ()))
        if not rows:
            raise SpecError(f"There is no row or subset '{name}': {_near(name, paper)}")
        if not rows & set(listed):
            raise SpecError(f"'{name}' is not in table {table}, but in table {paper.table_of(min(rows))}.")
        named |= rows
    rows = [row for row in listed if row in named or not (named or names)]
    needed = _needed(paper, rows)
    return [row for row in paper.rows if row in needed]


def _needed(paper: Paper, rows: Sequence[str]) -> set[str]:
    """These, the rows that they are set against, and all without which there are none of these."""
    named = [row for name in rows for row in (paper.rows[name], paper.original(paper.rows[name]))]
    return _closed(paper, {*rows} | {row.against for row in named if row.against is not None})


def _closed(paper: Paper, rows: set[str]) -> set[str]:
    """With the rows that they start from, are chosen among, or are evaluated together with; and so on."""
    sections = [section for table in paper.tables.values() if table.together for section in table.sections]
    beside = {row.id for section in sections if {row.id for row in section.rows} & rows for row in section.rows}
    originals = [paper.original(paper.rows[row]) for row in rows]
    starts = {row.answers.start for row in originals if row.answers is not None}
    chosen = {name for row in originals if row.chosen is not None for name in (*row.chosen.of, row.chosen.like)}
    more = rows | beside | starts | chosen
    return rows if more == rows else _closed(paper, more)


def _near(name: str, paper: Paper) -> str:
    """The nearest rows and all subsets: a list of all rows would fill the screen."""
    words = set(re.split(r"[-.]", name.lower()))
    alike = sorted(paper.rows, key=lambda row: -len(words & set(re.split(r"[-.]", row))))[:6]
    near = difflib.get_close_matches(name, [*paper.rows, *paper.subsets], n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}Among the rows: {', '.join(alike)}; subsets: {', '.join(paper.subsets) or 'none'}; --list shows all."


register_files(__name__)
