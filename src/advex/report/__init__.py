"""A record folder as one HTML file that needs nothing else: no network, no script, no second file.

Reads what an evaluation wrote (`record.py`) and imports no model code.

    numbers     figures in digits
    reading     the record folder, checked
    names       what the keys of scores and searches mean
    figures     the tables: one row per model, differences, what the searches did
    findings    the figures in sentences
    plots       accuracy-RMSE curves
    pictures    PNG as data URIs, differences, zoom
    sheets      one explained example: pictures, differences, confidences
    grids       all of them: grid, sweep and away, within 20 MB
    page        everything put into `page.html.j2`
"""

from __future__ import annotations

from pathlib import Path

from advex.errors import ArtifactError
from advex.record import write_text
from advex.report.page import render
from advex.report.reading import read


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a record folder; returns the path of the HTML file.

    folder: what an evaluation left behind. out: the file to write, `report.html` in the folder if None.
    The same record gives the same bytes. Raises ArtifactError for a folder that is no readable record,
    or a path that cannot be written.
    """
    folder = Path(folder)
    path = Path(out) if out is not None else folder / "report.html"
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder; name the file that the report shall be, e.g. {path / 'report.html'}.")
    html = render(read(folder))
    try:
        write_text(path, html)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}. Choose another file with --out.") from None
    return path
