"""Published and measured values side by side, in the units of the paper's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advex._version import __version__
from advex.environment import without_places
from advex.evaluation.scores import Contrast, bounded, contrast
from advex.papers import Paper, Plot, Row, Table
from advex.record import Better, Difference, Figure, Record, all_figures
from advex.record.reproduction import (
    AnsweredEntry,
    ColumnEntry,
    ExtraEntry,
    GridEntry,
    MapsEntry,
    OrderingEntry,
    OtherEntry,
    PlotEntry,
    PointEntry,
    Reproduction,
    RowEntry,
    TableEntry,
)
from advex.reproduction.folder import RECORDS
from advex.reproduction.jobs import Job
from advex.reproduction.orderings import claims, orderings
from advex.reproduction.paired import Pair, Values, values_of
from advex.reproduction.plan import Plan, Planned

Paired = Mapping[tuple[str, str], Difference]  # by row and measure


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
    values = _values(plan, outcomes)
    tables, paired = [], _paired(plan, values)
    for name, table in paper.tables.items():
        entries = [_row(planned, table, plan, outcomes, paired) for planned in plan.rows if planned.table == name]
        if entries:
            columns = [
                ColumnEntry(key=key, title=column.title, unit=column.unit, digits=column.digits, better=column.better)
                for key, column in table.columns.items()
            ]
            tables.append(TableEntry(id=name, title=table.title, data=table.data, columns=columns, rows=entries))
    records = [outcome.record for outcome in outcomes.values() if outcome.record is not None]
    shown, shown_data = {table.id for table in tables}, {table.data for table in tables}
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
        data=_drawn(plan.jobs),
        environment=records[-1].environment if records else {},
        searches=records[-1].searches if records else {},
        changes=list(plan.changes),
        tables=tables,
        others=[OtherEntry(**other.model_dump()) for other in paper.others if other.data in shown_data],
        plots=[
            _plot(paper, key, plot)
            for key, plot in paper.plots.items()
            if shown & set(plot.tables) and (not plot.rows or set(plot.rows) & {each.row.id for each in plan.rows})
        ],
        grids=[GridEntry(id=key, **grid.model_dump()) for key, grid in paper.grids.items()],
        maps=[MapsEntry(id=key, **maps.model_dump()) for key, maps in paper.maps.items()],
        differences=_gains(paired),
        answered=_answered(plan, answered),
        orderings=list(_orderings(plan, values)),
        claims=claims(paper, shown),
        extras=[
            ExtraEntry(
                id=each.name,
                title=paper.extras[each.name].title,
                caption=paper.extras[each.name].caption,
                record=f"{RECORDS}/{each.name}",
            )
            for each in plan.extras
        ],
    )


def _values(plan: Plan, outcomes: Mapping[str, Outcome]) -> Mapping[str, Values]:
    """What the networks say example by example that are compared with another one, or whose explainers are."""
    needed = set()
    for row in (planned.row for planned in plan.rows):
        original = plan.paper.original(row)
        against = row.against if row.explainer else original.against
        needed |= {original.id} if row.explainer or against else set()
        needed |= {plan.paper.original(plan.paper.rows[against]).id} if against else set()
    folders = {name: outcome.folder for name, outcome in outcomes.items() if name in needed}
    return {name: values_of(folder) for name, folder in folders.items() if folder is not None}


def _orderings(plan: Plan, values: Mapping[str, Values]) -> Iterator[OrderingEntry]:
    return orderings(plan.paper, values, {planned.row.id for planned in plan.rows}, plan.seed)


def _answered(plan: Plan, answered: Callable[[str], AnsweredEntry | None]) -> list[AnsweredEntry]:
    """What was answered about the images of each network, and the rows that learned from how many annotators."""
    learning: dict[str, dict[str, int]] = {}
    for job in plan.jobs:
        if job.feedback is not None:
            learning.setdefault(job.feedback.start, {})[job.name] = job.feedback.annotators
    entries = ((rows, answered(start)) for start, rows in learning.items())
    return [entry.model_copy(update={"rows": rows}) for rows, entry in entries if entry is not None]


def _plot(paper: Paper, name: str, plot: Plot) -> PlotEntry:
    every = [row for table in plot.tables for row in paper.tables[table].rows if row.same_as is None]
    rows = [row for row in every if not plot.rows or row.id in plot.rows]
    points = [
        PointEntry(id=row.id, mark=row.mark, x=row.published[plot.x], y=row.published[plot.y])
        for row in rows
        if {plot.x, plot.y} <= row.published.keys()
    ]
    return PlotEntry(id=name, **plot.model_dump(), published=points)


def _paired(plan: Plan, values: Mapping[str, Values]) -> Paired:
    """Every network less the one that it is set against: what is drawn or stands in a table, all of it one family.

    So are the rows of explainers: each less another of the same network's.
    """
    columns = [column for table in plan.paper.tables.values() for column in table.columns.values() if column.paired]
    shown = {column.measure for column in columns}
    contrasts = dict(_of_explainers(plan, values))
    for row in {row.id: row for row in (plan.paper.original(planned.row) for planned in plan.rows)}.values():
        pair = _pair(plan.paper, row, values)
        for measure in pair.measures if pair else ():
            if pair is not None and (measure in shown or measure.endswith("_gini")):
                names: dict[str, Any] = {"first": row.id, "second": row.against or "", "measure": measure}
                contrasts[row.id, measure] = contrast("rows", pair.values(measure), "high", plan.seed, **names)
    return dict(zip(contrasts, bounded(list(contrasts.values()), plan.seed), strict=True))


def _of_explainers(plan: Plan, values: Mapping[str, Values]) -> Iterator[tuple[tuple[str, str], Contrast]]:
    for row in (planned.row for planned in plan.rows if planned.row.explainer):
        pair = _pair(plan.paper, row, values)
        table = plan.paper.tables[plan.paper.table_of(row.id)]
        for column in table.columns.values() if pair is not None and row.against else ():
            mine, theirs = (each.measure(column.measure) for each in (row, plan.paper.rows[row.against or ""]))
            if column.paired and pair is not None and mine in pair.mine and theirs in pair.theirs:
                names: dict[str, Any] = {"first": row.id, "second": row.against, "measure": column.measure}
                both = pair.values(mine or "", theirs)
                yield (row.id, column.measure or ""), contrast("rows", both, "high", plan.seed, **names)


def _gains(paired: Paired) -> list[Difference]:
    """Of every network that is set against another one: the other's Gini indices minus its own, by explainer."""
    return [
        gain.model_copy(update={"first": gain.second, "second": gain.first, "figure": _scaled(gain.figure, -1, "low")})
        for (_, measure), gain in paired.items()
        if measure.endswith("_gini")
    ]


def _pair(paper: Paper, row: Row, values: Mapping[str, Values]) -> Pair | None:
    """A network and the one that it is set against, example by example; None where they are not there."""
    against = row.against if row.explainer else paper.original(row).against
    if against is None:
        return None
    mine, theirs = (values.get(paper.original(each).id) for each in (row, paper.rows[against]))
    return None if mine is None or theirs is None else Pair(mine, theirs)


def _drawn(jobs: Sequence[Job]) -> dict[str, str]:
    """How many examples are used, by data set: to train on where any network is trained on it."""
    trained = {job.data for job in jobs if not job.model}

    def said(job: Job) -> str:
        learned = f"{job.train_samples or 'all'} training and " if job.data in trained else ""
        return f"{learned}{job.test_samples or 'all'} test images"

    return {without_places(job.data): said(job) for job in jobs}


def _row(planned: Planned, table: Table, plan: Plan, outcomes: Mapping[str, Outcome], paired: Paired) -> RowEntry:
    row, job = planned.row, planned.job
    entry = RowEntry(
        id=row.id, label=row.label, section=planned.section, mark=row.mark, network=row.same_as or row.id,
        published=row.published, state="not run", reason=planned.reason, note=row.note,
        changes=list(planned.changes),
    )  # fmt: skip
    if job is None:
        waiting = row.id in {each.name for each in plan.choices}
        return entry.model_copy(update={"state": "failed" if planned.failed else "waiting"}) if waiting else entry
    together = planned.together and planned.together[0]
    entry = entry.model_copy(update={"together": f"{RECORDS}/{together}" if together else None})
    outcome = outcomes.get(together or job.name)
    if outcome is None:
        return entry.model_copy(update={"state": "waiting", "reason": "not run yet"})
    if outcome.record is None:
        return entry.model_copy(update={"state": "failed", "reason": outcome.failure})
    record = outcome.record
    scores = all_figures(next(each for each in record.models if each.name == (row.mark if together else job.name)))
    return entry.model_copy(
        update={
            "state": "measured",
            "measured": _figures(table, row, scores, protocol=False)
            | _differences(table, row if row.explainer else plan.paper.original(row), paired),
            "by_protocol": _figures(table, row, scores, protocol=True),
            "record": None if together else f"{RECORDS}/{job.name}",
            "seconds": record.seconds,
            "flags": [flag.message for flag in record.flags if flag.severity == "warning"],
        }
    )


def _figures(table: Table, row: Row, scores: Mapping[str, Figure], *, protocol: bool) -> dict[str, Figure]:
    """The scores that belong to a table's columns, in their units."""
    figures = {}
    for key, column in table.columns.items():
        name = row.measure(column.by_protocol if protocol else column.measure)
        if name is not None and name in scores and not column.paired:
            figures[key] = _scaled(scores[name], column.factor, offset=column.offset)
    return figures


def _differences(table: Table, row: Row, paired: Paired) -> dict[str, Figure]:
    """The paired columns of a row that is set against another one."""
    return {
        key: _scaled(difference.figure, column.factor, column.better)
        for key, column in table.columns.items()
        if column.paired and (difference := paired.get((row.id, column.measure or ""))) is not None
    }


def _scaled(figure: Figure, factor: float, better: Better | None = None, offset: float = 0.0) -> Figure:
    value, *ends = (getattr(figure, name) * factor + offset for name in ("value", "low", "high"))
    return figure.model_copy(
        update={"value": value, "low": min(ends), "high": max(ends), "better": better or figure.better}
    )
