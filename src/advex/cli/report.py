"""`advex report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from advex.cli import options, terminal


@terminal.verb
def report(
    folder: Annotated[
        list[Path], typer.Argument(metavar="RECORD|RUN...", help="Record folder of an evaluation, or run folders.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file to write. Default: report.html in the first folder.")
    ] = None,
    json_: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Write the report of a record folder: one HTML file that works offline.

    For a run folder, during or after training: its curves. Examples: advex report records/both;
    advex report runs/ordinary runs/robust --out curves.html
    """
    from advex.report import write_report

    path = write_report(folder, out)
    if json_:
        terminal.emit_json({"report": str(path)})
    else:
        terminal.emit(str(path))
