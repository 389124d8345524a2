"""The command line: `advex VERB`. Verbs import what is heavy when they run: `--help` does not wait for torch."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from advex import progress
from advex._version import __version__
from advex.cli import (
    annotate,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    explore,
    generate,
    judge,
    report,
    reproduce,
    study,
    terminal,
    train,
)
from advex.cli.convert import convert
from advex.cli.list import list_

app = typer.Typer(
    name="advex",
    help="Train classifiers you can question, question them by attacking them, and measure whether the answers "
    "can be trusted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # Boxes and colours are for people at a terminal.
    rich_markup_mode=None if progress.plain(sys.stdout) or progress.plain(sys.stderr) else "rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"advex {__version__}")
        raise typer.Exit


@app.callback()
def _advex(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.command()(demo.demo)
app.command()(train.train)
app.command()(convert)
app.command()(explain.explain)
app.command()(explore.explore)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(judge.judge)
app.add_typer(study.app, name="study")
app.command()(generate.generate)
app.command()(report.report)
app.command()(reproduce.reproduce)
app.add_typer(annotate.app, name="annotate")
app.command()(doctor.doctor)
app.command(name="list")(list_)


def _typed() -> str:
    """The verb that was typed, with its group: `advex annotate serve`."""
    words, command = ["advex"], typer.main.get_command(app)
    for word in sys.argv[1:]:
        if (command := getattr(command, "commands", {}).get(word)) is None:
            break
        words.append(word)
    return " ".join(words)


def main() -> None:
    """Entry point of `advex` and `python -m advex`."""
    try:
        code = app(prog_name="advex", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's own: the command cannot be as it was typed
            raise
        terminal.refuse(error, _typed())
    sys.exit(code)
