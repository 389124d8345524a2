"""A record folder, or run folders, as one HTML file that needs nothing else: no network, no script, no second file.

Reads what an evaluation or a training wrote (`record`) and imports no model code.

    numbers     figures in digits
    reading     the record folder and run folders, checked
    names       what the keys of scores and searches mean
    figures     the tables: one row per model, differences, what the searches did
    findings    the figures in sentences
    certified   what is certain of the smoothed networks, beside the attack
    maps        how concise the models' maps are
    heat        maps as pictures
    rows        rows of tables: what would have had to be different, and how columns are spread
    row_maps    their maps: a bar for each column
    plots       accuracy-RMSE curves
    axes        linear and logarithmic axes for values of any size
    curves      training curves, by epoch
    training    what they come to in a sentence, and what one should see in them
    pictures    PNG as data URIs, differences, zoom
    sheets      one explained example: pictures, differences, confidences
    grids       all of them: grid, sweep and away, within 20 MB
    pairs       two columns of a paper's tables against each other
    reproduction   a paper's tables, published and measured
    answered    what was answered about images that its rows learn from
    explored    explanations that were kept while exploring a model
    several     the networks of several rows as one: grids and maps of a paper's page
    page        everything put into `page.html.j2`, `run.html.j2`, `reproduction.html.j2` or `explored.html.j2`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advex.errors import ArtifactError
from advex.files import write_text
from advex.record import explored as kept
from advex.record.reproduction import NAME, read_reproduction
from advex.report.pages import explored, reproduction
from advex.report.pages.page import render, render_explored, render_reproduction, render_runs
from advex.report.reading import read, read_runs


def write_report(folder: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of a record folder; returns the path of the HTML file.

    folder: what an evaluation, a reproduction or exploring left behind; or a run folder, finished or not, or
    several: how they were trained. out: the file to write, `report.html` in the (first) folder if None. The same folder
    gives the same bytes. Raises ArtifactError for a folder that is neither a readable record nor a run, or a path that
    cannot be written.
    """
    folders = [Path(folder)] if isinstance(folder, str | Path) else [Path(one) for one in folder]
    path = Path(out) if out is not None else folders[0] / "report.html"
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; name the file that the report shall be, e.g. {path / 'report.html'}.")
    html = _html(folders)
    try:
        write_text(path, html)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}. Choose another file with --out.") from None
    return path


def _html(folders: Sequence[Path]) -> str:
    records = [folder for folder in folders if (folder / "record.json").exists()]
    if len(folders) == 1 and not records and (folders[0] / NAME).exists():
        return render_reproduction(reproduction.content(folders[0], read_reproduction(folders[0])))
    if len(folders) == 1 and any(folders[0].glob(f"*/{kept.NAME}")):
        return render_explored(explored.content(folders[0]))
    if not records:
        return render_runs(read_runs(folders))
    if len(folders) > 1:
        raise ArtifactError(
            f"{records[0]} is a record: a report is of one record, or of run folders. 'advex compare' puts several "
            "records into one."
        )
    return render(read(records[0]))
