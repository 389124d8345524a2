"""Published and measured values side by side, in the units of the paper's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from advex._version import __version__
from advex.environment import without_places
from advex.papers import Column, Paper, Plot, Row, Table
from advex.record import Difference, Figure, Record, all_figures
from advex.record.reproduction import (
    AnsweredEntry,
    ColumnEntry,
    GridEntry,
    MapsEntry,
    OtherEntry,
    PlotEntry,
    PointEntry,
    Reproduction,
    RowEntry,
    TableEntry,
)
from advex.reproduction.folder import RECORDS
from advex.reproduction.paired import Pair
from advex.reproduction.plan import Plan, Planned


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a network: its record and the folder of that, or why there is none."""

    record: Record | None = None
    folder: Path | None = None
    failure: str = ""


def compared(
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    *,
    command: str = "",
    answered: Callable[[str], AnsweredEntry | None] = lambda name: None,
) -> Reproduction:
    """The rows of a plan with what was measured so far. outcomes, answered: by the network's name."""
    paper, scale = plan.paper, plan.settings
    tables = []
    for name, table in paper.tables.items():
        entries = [_row(one, table, plan, outcomes) for one in plan.rows if one.table == name]
        if entries:
            columns = [
                ColumnEntry(key=key, title=one.title, unit=one.unit, digits=one.digits, better=one.better)
                for key, one in table.columns.items()
            ]
            tables.append(TableEntry(id=name, title=table.title, data=table.data, columns=columns, rows=entries))
    records = [one.record for one in outcomes.values() if one.record is not None]
    shown = {table.id for table in tables}
    return Reproduction(
        advex=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=without_places(command),
        paper=plan.name,
        title=paper.title,
        citation=f"{paper.authors}: {paper.title}. {paper.venue}.",
        scale=plan.scale,
        summary=scale.summary,
        seed=plan.seed,
        data={without_places(job.data): _drawn(job.train_samples, job.test_samples) for job in plan.jobs},
        environment=records[-1].environment if records else {},
        searches=records[-1].searches if records else {},
        changes=list(plan.changes),
        tables=tables,
        others=[OtherEntry(**one.model_dump()) for one in paper.others if one.data in {table.data for table in tables}],
        plots=[
            _plot(paper, key, one)
            for key, one in paper.plots.items()
            if shown & set(one.tables) and (not one.rows or set(one.rows) & {each.row.id for each in plan.rows})
        ],
        grids=[GridEntry(id=key, **one.model_dump()) for key, one in paper.grids.items()],
        maps=[MapsEntry(id=key, **one.model_dump()) for key, one in paper.maps.items()],
        differences=_gains(plan, outcomes),
        answered=_answered(plan, answered),
    )


def _answered(plan: Plan, answered: Callable[[str], AnsweredEntry | None]) -> list[AnsweredEntry]:
    """What was answered about the images of each network, and the rows that learned from how many annotators."""
    learning: dict[str, dict[str, int]] = {}
    for job in plan.jobs:
        if job.feedback is not None:
            learning.setdefault(job.feedback.start, {})[job.name] = job.feedback.annotators
    found = ((rows, answered(start)) for start, rows in learning.items())
    return [entry.model_copy(update={"rows": rows}) for rows, entry in found if entry is not None]


def _plot(paper: Paper, name: str, plot: Plot) -> PlotEntry:
    every = [row for table in plot.tables for row in paper.tables[table].rows if row.same_as is None]
    rows = [row for row in every if not plot.rows or row.id in plot.rows]
    points = [
        PointEntry(id=row.id, mark=row.mark, x=row.published[plot.x], y=row.published[plot.y])
        for row in rows
        if {plot.x, plot.y} <= row.published.keys()
    ]
    return PlotEntry(id=name, **plot.model_dump(), published=points)


def _gains(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Difference]:
    """Of every network that is set against another one: the other's Gini indices minus its own, by explainer."""
    found = {}
    for row in (plan.paper.original(one.row) for one in plan.rows):
        pair = _pair(plan.paper, row, outcomes)
        for measure in pair.measures if pair else ():
            if measure.endswith("_gini") and pair is not None:
                figure = pair.figure(measure, factor=-1, better="low", seed=plan.seed)
                found[row.id, measure] = Difference(
                    first=row.against or "", second=row.id, measure=measure, figure=figure
                )
    return list(found.values())


def _pair(paper: Paper, row: Row, outcomes: Mapping[str, Outcome]) -> Pair | None:
    """A network and the one that it is set against, example by example; None where they are not there."""
    original = paper.original(row)
    if original.against is None:
        return None
    both = (original.id, paper.original(paper.rows[original.against]).id)
    mine, theirs = (outcomes[name].folder if name in outcomes else None for name in both)
    return Pair.of(mine, theirs) if mine is not None and theirs is not None else None


def _drawn(train: int | None, test: int | None) -> str:
    """How many examples of a data set are used."""
    return f"{train or 'all'} training and {test or 'all'} test images"


def _row(one: Planned, table: Table, plan: Plan, outcomes: Mapping[str, Outcome]) -> RowEntry:
    row, job = one.row, one.job
    entry = RowEntry(
        id=row.id, label=row.label, section=one.section, mark=row.mark, network=row.same_as or row.id,
        published=row.published, state="not run", reason=one.reason, note=row.note,
        changes=list(one.changes),
    )  # fmt: skip
    if job is None:
        return entry
    outcome = outcomes.get(job.name)
    if outcome is None:
        return entry.model_copy(update={"state": "waiting", "reason": "not run yet"})
    if outcome.record is None:
        return entry.model_copy(update={"state": "failed", "reason": outcome.failure})
    record = outcome.record
    scores = all_figures(record.models[0])
    return entry.model_copy(
        update={
            "state": "measured",
            "measured": _figures(table, scores, protocol=False) | _differences(table, row, plan, outcomes),
            "by_protocol": _figures(table, scores, protocol=True),
            "record": f"{RECORDS}/{job.name}",
            "seconds": record.seconds,
            "flags": [flag.message for flag in record.flags if flag.severity == "warning"],
        }
    )


def _figures(table: Table, scores: Mapping[str, Figure], *, protocol: bool) -> dict[str, Figure]:
    """The scores that belong to a table's columns, in their units."""
    found = {}
    for key, column in table.columns.items():
        name = column.by_protocol if protocol else column.measure
        if name is not None and name in scores and not column.paired:
            found[key] = _in_units(scores[name], column)
    return found


def _differences(table: Table, row: Row, plan: Plan, outcomes: Mapping[str, Outcome]) -> dict[str, Figure]:
    """The paired columns of a row that is set against another one."""
    pair = _pair(plan.paper, row, outcomes)
    return {
        key: pair.figure(column.measure, factor=column.factor, better=column.better, seed=plan.seed)
        for key, column in table.columns.items()
        if column.paired and pair is not None and column.measure in pair.measures
    }


def _in_units(figure: Figure, column: Column) -> Figure:
    value, *ends = (getattr(figure, name) * column.factor for name in ("value", "low", "high"))
    return figure.model_copy(update={"value": value, "low": min(ends), "high": max(ends)})
