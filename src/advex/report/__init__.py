"""A record folder, or run folders, as one HTML file that needs nothing else: no network, no script, no second file.

Reads what an evaluation or a training wrote (`record`) and imports no model code.

    reading          the record folder and run folders, checked
    section          what a section is, and those that a record has something for
    sections/        one file for each section of a record's page, with its template beside it
    templates        templates and style of all pages
    pages/           whole pages: of a record, of runs, of a reproduction, of a study, of what was kept while exploring
    names            what the keys of scores and searches mean
    cells            figures as they stand in tables
    sentences        sentences whose names and figures can be told apart
    grids            explanations that share a scale, within the room that a page has
    explained        the explanations of one example
    mapped           maps of explained pictures
    mapped_rows      maps of a table's rows: a bar for each column
    row_values       values of a table's rows in digits
    training_curves  training curves, by epoch
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from advex.errors import ArtifactError
from advex.files import as_path, write_text
from advex.record import explored as kept
from advex.record.layer_study import NAME as STUDY
from advex.record.layer_study import read_study
from advex.record.reproduction import NAME, read_reproduction
from advex.report.pages import explored, layer_study, reproduction
from advex.report.pages.page import render, render_explored, render_layer_study, render_reproduction, render_runs
from advex.report.reading import read, read_runs
from advex.report.section import tables_of_sections

__all__ = ["InFolder", "write_report"]


class InFolder(Protocol):
    """What knows the folder that it was written into: what `advex.evaluate` and `advex.compare` return."""

    @property
    def folder(self) -> Path:
        """With the record in it."""
        ...


def write_report(
    folder: str | Path | InFolder | Sequence[str | Path | InFolder], out: str | Path | None = None
) -> Path:
    """Write the report of a record folder; returns the path of the HTML file.

    folder: what `advex.evaluate` or `advex.compare` returned; what an evaluation, a reproduction, a study or exploring
    left behind; or a run folder, finished or not, or several: how they were trained; several reproductions that differ
    by their seed: what holds on all networks. out: the file to write, `report.html` in the (first) folder if None. The
    same folder gives the same bytes. Raises ArtifactError for a folder that is neither a readable record nor a run, or
    a path that cannot be written.
    """
    several = folder if isinstance(folder, Sequence) and not isinstance(folder, str) else [folder]
    folders = [as_path(getattr(each, "folder", each), "The folder of a report") for each in several]
    path = as_path(out, "out") if out is not None else folders[0] / "report.html"
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; give a file name for the report, e.g. {path / 'report.html'}.")
    html = _html(folders)
    try:
        write_text(path, html)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}. Choose another file with --out.") from None
    return path


def _html(folders: Sequence[Path]) -> str:
    records = [folder for folder in folders if (folder / "record.json").exists()]
    if not records and all((folder / NAME).exists() for folder in folders):
        first, *others = map(read_reproduction, folders)
        return render_reproduction(reproduction.content(folders[0], first, others))
    if len(folders) == 1 and not records and (folders[0] / STUDY).exists():
        return render_layer_study(layer_study.content(read_study(folders[0])))
    if len(folders) == 1 and any(folders[0].glob(f"*/{kept.NAME}")):
        return render_explored(explored.content(folders[0]))
    if not records:
        return render_runs(read_runs(folders))
    if len(folders) > 1:
        raise ArtifactError(
            f"{records[0]} is a record: a report covers one record, or run folders. Combine several records "
            "with 'advex compare'."
        )
    return render(read(records[0], tables_of_sections()))
