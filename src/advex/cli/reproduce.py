"""`advex reproduce`."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex import progress
from advex.cli import evaluate, options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.record import Figure
    from advex.record.reproduction import AnsweredEntry, ColumnEntry, Reproduction, RowEntry, TableEntry
    from advex.reproduction import Plan, Planned

_WIDTH = 100


def _papers() -> list[str]:
    """Bundled papers, found without a heavy import: for shell completion."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "papers").glob("*.yaml"))


@terminal.shared_verb
def reproduce(
    paper: Annotated[
        str,
        typer.Argument(
            metavar="PAPER[/TABLE]", help="A paper of `advex list paper`, or one of its tables.", autocompletion=_papers
        ),
    ],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID,...", help="Rows, or sets of rows; see --list. Default: all; at smoke some of each kind."
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(metavar="NAME", help="How much to run: smoke, cpu, full, or another scale from the paper's file."),
    ] = "smoke",
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]DATA", help="Data of the paper. Default: the data sets that the table names."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write. Default: reproductions/PAPER-SCALE.")
    ] = None,
    radius: evaluate.Radius = None,
    suite: evaluate.Suite = None,
    list_: Annotated[bool, typer.Option("--list", help="Show what would run and what differs from the paper.")] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    cache: options.Cache = None,
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train and evaluate the rows of a paper's tables, and compare them with the published values.

    A smaller scale shows trends, never the paper's values; its figures say what it changed. The same command resumes
    where it was stopped. Example: advex reproduce woods2019/I --rows psi-30,psi-220 --scale smoke
    """
    import torch

    from advex import reproduction
    from advex.lookup.devices import device_named
    from advex.lookup.folders import opened_folder
    from advex.registry import specs_from
    from advex.report import write_report
    from advex.reproduction.figures import write_figures

    name, _, table = paper.partition("/") if not Path(paper).exists() else (paper, "", "")
    chosen = [each.strip() for text in rows or [] for each in text.split(",")]
    if suite and not radius:
        raise SpecError("--suite needs --radius NORM:R: without it there is no distance.")
    within = {key: specs_from(texts) for key, texts in (("radius", radius), ("suite", suite)) if texts}
    plan = reproduction.planned(
        name,
        table=table or None,
        rows=chosen,
        scale=scale,
        data=reproduction.data_from(data or []),
        seed=seed,
        evaluation=within,
    )
    if list_:
        _show_plan(plan, json_)
        return
    folder = out or Path("reproductions") / f"{Path(name).stem}-{scale}"
    with opened_folder(folder, reproduction.OURS, overwrite=None, shared=True):
        say = progress.Terminal(quiet=quiet)
        if plan.settings.threads is not None:
            torch.set_num_threads(plan.settings.threads)
        work = reproduction.Work(device=device_named(device), seed=plan.seed, say=say)
        result = reproduction.carry_out(plan, folder, work, command=progress.command_line(), say=say)
        written = [*write_figures(folder, result), write_report(folder)]
    _show(result, folder, written, json_)
    if any(row.state == "failed" for row in result.rows):
        raise typer.Exit(terminal.FAILED)


def _show(result: Reproduction, folder: Path, written: list[Path], json_: bool) -> None:
    from advex.record.reproduction import as_plain

    if json_:
        values: dict[str, Any] = {**as_plain(result), "folder": str(folder), "files": [str(path) for path in written]}
        terminal.emit_json(values)
        return
    show(result)
    terminal.emit(str(folder / "report.html"))


# -- what would be run -------------------------------------------------------------------------------------


def _show_plan(plan: Plan, json_: bool) -> None:
    """The rows, what they would be run on, and what the scale changes."""
    if json_:
        terminal.emit_json(plan.plain)
        return
    columns = ["table", "row", "what", "published", "is run as"]
    terminal.table(columns, [_listed(planned, plan) for planned in plan.rows])
    terminal.emit(f"\nscale {plan.scale}: {plan.settings.summary}")
    if plan.changes:
        terminal.emit(_wrapped("changed in these rows: ", "; ".join(plan.changes)))
    networks = sum(not job.model for job in plan.jobs)
    terminal.emit(f"{networks} network{'' if networks == 1 else 's'} to train for {len(plan.rows)} rows")
    for name, rows in plan.paper.subsets.items():
        terminal.emit(_wrapped(f"--rows {name}: ", ", ".join(rows)))


def _listed(planned: Planned, plan: Plan) -> list[str]:
    row = planned.row
    digits = {key: column.digits for key, column in plan.paper.tables[planned.table].columns.items()}
    published = " ".join(f"{value:.{digits[key]}f}" for key, value in row.published.items())
    section = f"{planned.section}: " if planned.section else ""
    return [planned.table, row.id, f"{section}{row.label}", published, plan.how(planned)]


# -- side by side ------------------------------------------------------------------------------------------


def show(result: Reproduction) -> None:
    """Each table with published and measured values, what made them, and what was changed."""
    from advex.report.pages import orderings
    from advex.report.pages.reproduction import grouped

    protocol = any(row.by_protocol for row in result.rows)
    for table in result.tables:
        _show_table(table, protocol)
    for entry in result.answered:
        _show_answered(entry)
    if result.searches:
        terminal.emit("")
    for name, spec in [*result.searches.items(), *(("images", entry.search) for entry in result.answered)]:
        terminal.emit(f"{name}: {spec}")
    if result.changes:
        terminal.emit("")
        terminal.emit(_wrapped(f"scale {result.scale} differs from the paper: ", "; ".join(result.changes)))
    for note, ids in grouped((row.note, row) for row in result.rows if row.note):
        terminal.emit(_wrapped(f"{', '.join(ids)}: ", note))
    for reason, ids in grouped((row.reason, row) for row in result.rows if row.state in ("not run", "waiting")):
        said = f"{', '.join(ids)}: {reason}"
        terminal.emit(_wrapped("not run: " if not reason.startswith("not run") else "", said))
    orders = orderings.of([result])
    for sentence in orderings.sentences(orders) if orders else ():
        terminal.emit(_wrapped("", sentence))
    for row in result.rows:
        if row.state == "failed":
            terminal.warn(f"{row.id} failed: {row.reason}")


def _show_answered(entry: AnsweredEntry) -> None:
    """Who answered, which is nobody, and what."""
    from advex.report.pages.answers import sentences

    columns = ["annotator", "unchanged", "unsure", "changed", "errors", "learned from"]
    rows = [
        [
            annotator.name,
            *(str(annotator.answers[answer]) for answer in columns[1:4]),
            str(annotator.errors),
            str(annotator.unchanged),
        ]
        for annotator in entry.annotators
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


def _wrapped(start: str, text: str) -> str:
    return textwrap.fill(start + text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
