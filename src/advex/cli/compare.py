"""`advex compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advex import progress
from advex.cli import options, terminal
from advex.cli.evaluate import Request
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.record import Record

Records = Annotated[list[Path] | None, typer.Argument(metavar="RECORD", help="Finished records to combine.")]


@terminal.shared_verb
@options.gathered(Request, model=[], data="")
def compare(records: Records = None, *, request: Request) -> None:
    """Compare two or more models on the same examples, or combine finished records, and write the report.

    Examples: advex compare --model runs/ordinary,runs/robust --data digits --out records/both;
    advex compare records/ordinary records/robust --out records/both
    """
    from advex.cli import tables
    from advex.report import write_report

    if records:
        if request.model or request.data:
            raise SpecError("Compare either finished records, or --model A,B on --data: not both.")
        record, folder, path = _merged(records, request.out, request.overwrite)
    else:
        if not request.model or not request.data:
            raise SpecError("Give record folders to compare, or --model A,B with --data.")
        record, folder = request.run(least=2)
        path = write_report(folder)
    if request.json_:
        from advex.record import summary

        terminal.emit_json({**json.loads(summary(record, folder)), "report": str(path)})
        return
    tables.show(record)
    tables.show_differences(record)
    terminal.emit(str(path))


def _merged(records: Sequence[Path], out: Path | None, overwrite: bool) -> tuple[Record, Path, Path]:
    """One record of several finished ones, its folder and its report. Raises ArtifactError."""
    from advex.evaluation.folder import opened
    from advex.evaluation.merge import merge
    from advex.report import write_report

    if len(records) < 2:
        raise SpecError("A comparison needs at least two records.")
    folder = out or Path("records") / "-".join(path.name for path in records)
    if any(folder.resolve() == path.resolve() for path in records):
        raise SpecError(f"--out {folder} is one of the records to compare; name a new folder.")
    with opened(folder, overwrite, ours=()):
        return merge(records, folder, command=progress.command_line()), folder, write_report(folder)
