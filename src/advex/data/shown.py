"""How a data set looks in a notebook: its first pictures with their classes, or its first rows."""

from __future__ import annotations

import html
import io

from advex.data.dataset import Dataset, describe
from advex.data.images.png import encode_png
from advex.drawing.contact_sheet import Cell, Row, draw
from advex.drawing.pictures import data_uri

_PICTURES, _ROWS, _COLUMNS, _ACROSS = 16, 6, 12, 8


def html_of(data: Dataset) -> str:
    """A line about the data, and its first examples: pictures as one sheet, rows as a table. Texts are escaped."""
    line = f"<p>{html.escape(describe(data))}</p>"
    if data.features is not None:
        return line + _table(data)
    if len(data.shape) != 3 or data.shape[0] not in (1, 3) or not len(data):
        return line
    first = data.batch(slice(0, _PICTURES))
    if first.x.amin() < 0 or first.x.amax() > 1:
        return line
    cells = [Cell((encode_png(x),), (data.class_names[y],)) for x, y in zip(first.x, first.y.tolist(), strict=True)]
    rows = [Row(tuple(cells[start : start + _ACROSS])) for start in range(0, len(cells), _ACROSS)]
    held = io.BytesIO()
    draw(rows, 96).save(held, "PNG")
    alt = html.escape(", ".join(data.class_names[y] for y in first.y.tolist()), quote=True)
    return f'{line}<img alt="{alt}" style="max-width: 100%; background: white" src="{data_uri(held.getvalue())}">'


def _table(data: Dataset) -> str:
    assert data.features is not None
    columns = [feature.name for feature in data.features.features][:_COLUMNS]
    first = data.batch(slice(0, _ROWS))
    rows = [
        [data.class_names[y], *(row[name] if isinstance(row[name], str) else f"{row[name]:g}" for name in columns)]
        for row, y in zip(data.features.decode(first.x), first.y.tolist(), strict=True)
    ]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("class", *columns))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
