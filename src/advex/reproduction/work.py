"""What `advex reproduce` does and says: the rows' work with the verbs' own tools, and the tables side by side."""

from __future__ import annotations

import math
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch

from advex import progress, reproduction
from advex.cli import evaluating, terminal
from advex.data import Dataset
from advex.drawing.numbers import count
from advex.lookup import datasets
from advex.lookup.models import Wrapping, open_models
from advex.record import Figure, Record
from advex.record.reproduction import AnsweredEntry, ColumnEntry, Reproduction, RowEntry, TableEntry
from advex.report import write_report
from advex.report.pages.answers import sentences
from advex.reproduction import Job, Plan, Planned
from advex.reproduction.figures import write_figures
from advex.reproduction.folder import Folder
from advex.training import run_folder

_WIDTH = 100


@dataclass(frozen=True)
class _Work:
    """Training and evaluating as `advex train` and `advex evaluate` do it."""

    say: progress.Terminal
    device: str
    seed: int

    def open(self, job: Job) -> tuple[Dataset, Dataset]:
        train = datasets.open_split(
            job.data,
            datasets.preferred(job.data, None, "train"),
            self.say,
            max_samples=job.train_samples,
            seed=self.seed,
        )
        held_out = datasets.preferred(job.data, None, "test", "validation", "val")
        test = datasets.open_split(
            job.data, held_out, self.say, max_samples=job.test_samples, seed=self.seed, shape=train.shape, like=train
        )
        return train, test

    def answered(self, job: Job, data: Dataset, folder: Folder) -> Dataset | None:
        from advex.reproduction.simulation import Simulation  # needs the extra `annotate`

        assert job.feedback is not None
        return Simulation(job, job.feedback, folder, self.say, self.device, self.seed).added_to(data)

    def train(self, job: Job, data: Dataset, validation: Dataset, run: Path) -> None:
        run_folder.run(job.recipe, data, run, say=self.say, validation=validation, device=self.device)

    def evaluate(self, job: Job, run: Path, data: Dataset, record: Path) -> Record:
        opened = open_models([f"{job.name}={run}"], self.device, Wrapping())
        return evaluating.evaluate(opened, data, record, job.evaluation, self.say)


def carry_out(plan: Plan, folder: Path, say: progress.Terminal, device: str) -> Reproduction:
    """All that is not done yet, with progress on stderr."""
    if plan.settings.threads is not None:
        torch.set_num_threads(plan.settings.threads)

    def told(number: int, count: int, job: Job) -> None:
        say.note(f"{job.name}: network {number} of {count}")

    work = _Work(say, device, plan.seed)
    return reproduction.carry_out(plan, folder, work, command=progress.command_line(), told=told)


def write_pages(folder: Path, found: Reproduction) -> list[Path]:
    """The paper's figures as PNG, and the report."""
    return [*write_figures(folder, found), write_report(folder)]


# -- what would be run -------------------------------------------------------------------------------------


def show_plan(plan: Plan, json_: bool) -> None:
    """The rows, what they would be run on, and what the scale changes."""
    if json_:
        rows = [_as_json(one) for one in plan.rows]
        terminal.emit_json({"paper": plan.name, "scale": plan.scale, "changes": list(plan.changes), "rows": rows})
        return
    columns = ["table", "row", "what", "published", "is run as"]
    terminal.table(columns, [_listed(one, plan) for one in plan.rows])
    terminal.emit(f"\nscale {plan.scale}: {plan.settings.summary}")
    if plan.changes:
        terminal.emit(_wrapped("changed in these rows: ", "; ".join(plan.changes)))
    networks = len(plan.jobs)
    terminal.emit(f"{networks} network{'' if networks == 1 else 's'} to train for {len(plan.rows)} rows")
    for name, rows in plan.paper.subsets.items():
        terminal.emit(_wrapped(f"--rows {name}: ", ", ".join(rows)))


def _as_json(one: Planned) -> dict[str, object]:
    return {
        "table": one.table, "id": one.row.id, "label": one.row.label, "section": one.section, "mark": one.row.mark,
        "published": one.row.published, "network": one.job.name if one.job else None,
        "data": one.job.data if one.job else None, "reason": one.reason, "changes": list(one.changes),
        "recipe": one.job.recipe.model_dump(mode="json") if one.job else None,
        "answers": _feedback_as_json(one.job) if one.job else None,
    }  # fmt: skip


def _feedback_as_json(job: Job) -> dict[str, object] | None:
    """Whose images the network learns from besides, and who answers about them: no people."""
    of = job.feedback
    if of is None:
        return None
    return {"start": of.start, "annotators": of.annotators, "simulated": of.simulated.model_dump(mode="json")}


def _listed(one: Planned, plan: Plan) -> list[str]:
    digits = {key: column.digits for key, column in plan.paper.tables[one.table].columns.items()}
    published = " ".join(f"{value:.{digits[key]}f}" for key, value in one.row.published.items())
    if one.job is None:
        run = f"not run: {one.reason}"
    elif one.job.name != one.row.id:
        run = f"the network of {one.job.name}"
    else:
        run = " ".join([one.row.recipe or "", *one.row.overrides])
    if one.job is not None and one.job.feedback is not None:
        of = one.job.feedback
        run += f", and on images of {of.start} by the answers of {count(of.annotators, 'simulated annotator')}"
    return [one.table, one.row.id, f"{one.section + ': ' if one.section else ''}{one.row.label}", published, run]


# -- side by side ------------------------------------------------------------------------------------------


def show(found: Reproduction) -> None:
    """Each table with published and measured values, what made them, and what was changed."""
    protocol = any(row.by_protocol for row in found.rows)
    for table in found.tables:
        _show_table(table, protocol)
    for entry in found.answered:
        _show_answered(entry)
    if found.searches:
        terminal.emit("")
    for name, spec in [*found.searches.items(), *(("images", entry.search) for entry in found.answered)]:
        terminal.emit(f"{name}: {spec}")
    if found.changes:
        terminal.emit("")
        terminal.emit(_wrapped(f"scale {found.scale}, which is not what the paper did: ", "; ".join(found.changes)))
    for note, ids in _grouped([(row.note, row.id) for row in found.rows if row.note]):
        terminal.emit(_wrapped(f"{ids}: ", note))
    for reason, ids in _grouped([(row.reason, row.id) for row in found.rows if row.state in ("not run", "waiting")]):
        terminal.emit(_wrapped("not run: " if not reason.startswith("not run") else "", f"{ids}: {reason}"))
    for row in found.rows:
        if row.state == "failed":
            print(f"warning: {row.id} failed: {row.reason}", file=sys.stderr)


def _show_answered(entry: AnsweredEntry) -> None:
    """Who answered, which is nobody, and what."""
    columns = ["annotator", "unchanged", "unsure", "changed", "errors", "learned from"]
    rows = [
        [one.name, *(str(one.answers[answer]) for answer in columns[1:4]), str(one.errors), str(one.unchanged)]
        for one in entry.annotators
    ]
    terminal.emit("")
    terminal.table(columns, rows, title=f"Answers about images made with {entry.network}")
    for sentence in sentences(entry):
        terminal.emit(_wrapped("", sentence))


def _show_table(table: TableEntry, protocol: bool) -> None:
    columns = ["row"]
    for column in table.columns:
        unit = f" {column.unit}" if column.unit else ""
        columns += [f"{column.title}{unit}: published", "measured [95 %]"]
        columns += ["by published protocol"] if protocol and _by_protocol(table, column) else []
    rows = [[_named(row), *_cells(table, row, protocol)] for row in table.rows]
    terminal.table(columns, rows, title=f"Table {table.id}: {table.title}")


def _by_protocol(table: TableEntry, column: ColumnEntry) -> bool:
    return any(column.key in row.by_protocol for row in table.rows)


def _named(row: RowEntry) -> str:
    mark = f" ({row.mark})" if row.mark else ""
    same = f" = {row.network}" if row.network != row.id else ""
    return f"{row.id}{mark}{same}"


def _cells(table: TableEntry, row: RowEntry, protocol: bool) -> list[str]:
    cells = []
    for column in table.columns:
        published = row.published.get(column.key)
        cells.append("–" if published is None else f"{published:.{column.digits}f}")
        cells.append(_figure(row.measured.get(column.key), column.digits) if row.measured else row.state)
        if protocol and _by_protocol(table, column):
            cells.append(_figure(row.by_protocol.get(column.key), column.digits))
    return cells


def _figure(figure: Figure | None, digits: int) -> str:
    if figure is None or math.isnan(figure.value):
        return "–"
    failed = f", {figure.failures} failed" if figure.failures else ""
    value, low, high = (f"{value:.{digits}f}" for value in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]{failed}"


def _grouped(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """(text, the ids that share it)."""
    found: dict[str, list[str]] = {}
    for text, name in pairs:
        found.setdefault(text, []).append(name)
    return [(text, ", ".join(names)) for text, names in found.items()]


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(start + text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
