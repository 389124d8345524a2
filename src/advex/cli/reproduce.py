"""`advex reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advex import progress
from advex.cli import options, terminal
from advex.errors import SpecError

if TYPE_CHECKING:
    from advex.record.reproduction import Reproduction


def _papers() -> list[str]:
    """Bundled papers, found without a heavy import: for shell completion."""
    return sorted(path.stem for path in (Path(__file__).parents[1] / "papers").glob("*.yaml"))


@terminal.verb
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
            metavar="ID,...", help="Rows, or subsets of them; see --list. Default: all; at smoke some of each kind."
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(metavar="NAME", help="How much of it: smoke, cpu, full, or another that the paper's file has."),
    ] = "smoke",
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]DATA", help="Where the paper's data are. Default: what the table names."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write. Default: reproductions/PAPER-SCALE.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Say what would be run, with what changes, and stop.")] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    json_: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Train and evaluate the rows of a paper's tables, and set them beside what was published.

    A smaller scale shows directions, never the paper's values; what it changes is said with the figures. The same
    command goes on where it was stopped. Example: advex reproduce woods2019/I --rows psi-30,psi-220 --scale smoke
    """
    from advex import reproduction
    from advex.reproduction import work

    name, _, table = paper.partition("/") if not Path(paper).exists() else (paper, "", "")
    chosen = [each.strip() for text in rows or [] for each in text.split(",")]
    plan = reproduction.planned(
        name, table=table or None, rows=chosen, scale=scale, data=_data(data or []), seed=seed
    )  # fmt: skip
    if list_:
        work.show_plan(plan, json_)
        return
    folder = out or Path("reproductions") / f"{Path(name).stem}-{scale}"
    options.prepare_folder(folder, reproduction.OURS, overwrite=None)
    say = progress.Terminal(quiet=quiet)
    found = work.carry_out(plan, folder, say, options.device_named(device))
    written = work.write_pages(folder, found)
    _show(found, folder, written, json_)
    if any(row.state == "failed" for row in found.rows):
        raise typer.Exit(terminal.FAILED)


def _data(given: list[str]) -> dict[str, str]:
    """`PATH` and `NAME=PATH` -> where the data sets are; "" stands for every one. Raises SpecError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists() or ":" in name or "/" in name:
            name, path = "", text
        if name in found:
            raise SpecError(f"--data is given twice for {name or 'all rows'}: {found[name]} and {path}.")
        found[name] = path
    return found


def _show(found: Reproduction, folder: Path, written: list[Path], json_: bool) -> None:
    from advex.record.reproduction import as_plain
    from advex.reproduction import work

    if json_:
        values: dict[str, Any] = {**as_plain(found), "folder": str(folder), "files": [str(path) for path in written]}
        terminal.emit_json(values)
        return
    work.show(found)
    terminal.emit(str(folder / "report.html"))
