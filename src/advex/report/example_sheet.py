"""The first explained examples of a record as one picture."""

from __future__ import annotations

from pathlib import Path

from advex.drawing.contact_sheet import Cell, Row, draw
from advex.files import atomic
from advex.record import read_record, read_rows

_SHOWN = 3  # examples
_SIDE = 96  # of one picture there, in pixels


def draw_examples(folder: Path, out: Path) -> None:
    """The first explained examples of a record, a row per model: the input, then what would make it each class."""
    names = read_record(folder).data.class_names
    grid = [
        row for row in read_rows(folder, "explanations") if (row["purpose"], row["explainer"]) == ("grid", "toward")
    ]
    inputs = {row["example"]: row for row in read_rows(folder, "examples") if row["picture"]}
    rows = []
    for example in list(dict.fromkeys(row["example"] for row in grid))[:_SHOWN]:
        for model in dict.fromkeys(row["model"] for row in grid):
            picture = (folder / inputs[example]["picture"]).read_bytes()
            cells = [Cell((picture,), (model, names[inputs[example]["label"]]))]
            for row in grid:
                if (row["example"], row["model"]) == (example, model):
                    lines = (f"to {names[row['target']]}", _sure(row["png_after"][row["target"]]))
                    cells.append(Cell(((folder / row["picture"]).read_bytes(),), lines))
            rows.append(Row(tuple(cells)))
    with atomic(out) as temporary:
        draw(rows, side=_SIDE).save(temporary, "PNG")


def _sure(confidence: float) -> str:
    return ">99 % sure" if confidence > 0.99 else f"{100 * confidence:.0f} % sure"
