"""`advex annotate export` and `advex annotate import`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from advex.cli import options, terminal
from advex.errors import AdvexError, SpecError


@terminal.verb
def export(
    project: options.Project,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A table (.parquet, .csv, .json), or a folder for advex train --add.")
    ],
    database: options.Database = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing table.")] = False,
    verbose: options.Verbose = False,
) -> None:
    """Write all answers to a table, or the current ones with their pictures to a folder."""
    from advex.annotation.project import opened
    from advex.feedback.folders import write_folder

    with opened(project, database) as store:
        from advex.annotation import exchange

        if out.suffix in exchange.FORMS:
            if out.exists() and not overwrite:
                raise SpecError(f"{out} already exists: choose another name, or pass --overwrite.")
            rows = exchange.rows_of(store)
            exchange.write(out, rows)
            number = sum(row.answer is not None for row in rows)
        else:
            number = write_folder(store, out, overwrite=overwrite)
    terminal.emit(f"{out}  {number:,} answers")


@terminal.verb
def import_(
    project: options.Project,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A table from advex annotate export, or a folder.")],
    votes: Annotated[int, typer.Option(min=1, help="How many people judge each image, in a new project.")] = 2,
    database: options.Database = None,
    verbose: options.Verbose = False,
) -> None:
    """Add the answers from a table or an annotated folder; answers that are already there stay as they are."""
    from advex.annotation.project import opened
    from advex.feedback.folders import read_folder

    is_new = not project.exists()
    try:
        with opened(project, database, new=True) as store:
            from advex.annotation import exchange, intake

            rows = read_folder(store, source) if source.is_dir() else exchange.read(source)
            about = {"source": source.name}
            store.create_project(project.resolve().name, votes=votes, seed=0, alone=False, about=about)
            images, answers = intake.take_in(store, rows)
    except (AdvexError, OSError):
        if is_new:  # of what is refused nothing is left
            shutil.rmtree(project, ignore_errors=True)
        raise
    terminal.emit(f"{project}  {images:,} images and {answers:,} answers added")
