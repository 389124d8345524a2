"""`advex annotate prepare|serve|agreement|export|import`."""

from __future__ import annotations

import typer

from advex.cli.annotate import agreement, answers, prepare, serve

app = typer.Typer(
    help="Ask people whether changed pictures still show their class.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(prepare.prepare)
app.command()(serve.serve)
app.command()(agreement.agreement)
app.command()(answers.export)
app.command(name="import")(answers.import_)
