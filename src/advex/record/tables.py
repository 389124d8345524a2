"""The tables of a record folder: their names, and the columns that every one of a name has.

Searches, certificates and measures add columns of their own; see `examples_of` and `maps_of`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pyarrow as pa

Table = Literal[
    "examples", "explanations", "maps", "moved", "traces", "places", "parts", "answers", "columns", "transfer"
]
Columns = dict[str, pa.DataType]

_TEXT, _COUNT, _NUMBER, _NUMBERS = pa.string(), pa.int64(), pa.float64(), pa.list_(pa.float64())

PREDICTION: Columns = {
    "example": _COUNT, "id": _TEXT, "label": _COUNT, "prediction": _COUNT, "confidence": _NUMBER,
    "label_confidence": _NUMBER,
}  # fmt: skip

# Of each search NAME, as NAME_rmse (inf: failed), ... size: in the search's own norm. queries: of the goal without its
# gradient. valid: the goal still holds once the change is cut to the box.
SEARCH: Columns = {
    "rmse": _NUMBER, "size": _NUMBER, "reached": pa.bool_(), "gradients": _COUNT, "queries": _COUNT, "flat": pa.bool_(),
    "valid": pa.bool_(),
}  # fmt: skip

# Where examples were certified, as certify_prediction (-1: abstained), ... null for the examples that were not.
# rmse: the radius as RMSE, 0 unless correct.
CERTIFICATE: Columns = {
    "prediction": _COUNT, "correct": pa.bool_(), "radius_l2": _NUMBER, "rmse": _NUMBER, "candidate": _COUNT,
    "hits": _COUNT, "lower": _NUMBER,
}  # fmt: skip

# Within each radius KEY, as within_KEY_by: the search that moved an example, "" where none did, null where the example
# was not right to begin with; ... distance: of the smallest change known, in the norm of the radius, by the search
# `nearest` (inf, and ""). gradients, queries: of the searches that this radius took. flat: one of them was blind.
# alone: all searches that move the example, null unless each was asked about every one.
RADIUS: Columns = {
    "by": _TEXT, "nearest": _TEXT, "distance": _NUMBER, "gradients": _COUNT, "queries": _COUNT, "flat": pa.bool_(),
    "alone": pa.list_(_TEXT),
}  # fmt: skip

# before, after: confidences, those after at the picture as floats; png_*: of the decoded 8-bit PNG.
# purpose: grid | sweep. rho: null where the explainer has no such size.
EXPLANATION: Columns = {
    "example": _COUNT, "purpose": _TEXT, "explainer": _TEXT, "target": _COUNT, "rho": _NUMBER, "rmse": _NUMBER,
    "picture": _TEXT, "before": _NUMBERS, "after": _NUMBERS, "prediction": _COUNT, "png_rmse": _NUMBER,
    "png_after": _NUMBERS, "png_prediction": _COUNT,
}  # fmt: skip

# change: what the map is meant to add up to; completeness: by how much it adds up to more; both null where the method
# promises nothing. map: all values of the map, in the order of the input's elements, of the examples that a report
# shows; null for the others.
MAP: Columns = {
    "example": _COUNT, "target": _COUNT, "method": _TEXT, "change": _NUMBER, "completeness": _NUMBER,
    "map": pa.list_(pa.float32()),
}  # fmt: skip

# Where measures that move the input moved it, of the examples that a report shows. measure: its key. x, map: all values
# of the input at which it has its value, and of the map there; wanted: of the map that was wanted there, else null.
_VALUES = pa.list_(pa.float32())
MOVED: Columns = {"example": _COUNT, "measure": _TEXT, "x": _VALUES, "map": _VALUES, "wanted": _VALUES}

# What measures saw on their way, of the examples that a report shows. measure: its key. step: its name, in order.
# value, or map of one value per pixel: what was seen there.
TRACE: Columns = {
    "example": _COUNT, "measure": _TEXT, "step": _TEXT, "value": _NUMBER, "map": pa.list_(pa.float32()),
}  # fmt: skip

# Boxes of the examples that a report shows, as x0, y0, x1, y1 of pixels, both ends included. measure: its key. things:
# of what the label names. box: of the map, at the threshold that was chosen; null where it has none. outline, mask: of
# measures of masks, which have no boxes, the pixels of the thing and the strong ones of the map, line by line.
_MASK = pa.list_(pa.bool_())
PLACE: Columns = {
    "example": _COUNT, "measure": _TEXT, "things": pa.list_(_NUMBERS), "box": _NUMBERS, "outline": _MASK, "mask": _MASK,
}  # fmt: skip

# What is known of each example by measures that choose something on all of them: intervals choose it anew.
PART: Columns = {"example": _COUNT, "measure": _TEXT, "parts": _NUMBERS}

# Of tables. sentence: what would have had to be different for the class `target`, or that nothing was found (reached
# false; after null). changes: JSON list of {feature, before, after, moved}; moved is in units of the column's scale,
# null for categories. row: the row as it is, JSON, column -> value. before, after: confidences.
ANSWER: Columns = {
    "example": _COUNT, "alternative": _COUNT, "target": _COUNT, "reached": pa.bool_(), "sentence": _TEXT,
    "changes": _TEXT, "row": _TEXT, "before": _NUMBERS, "after": _NUMBERS,
}  # fmt: skip

# Of tables: counts of the evaluated rows, per category in `values`, or per bin between `edges`; the end bins hold what
# lies beyond as well, and least and most are the ends of all values.
COLUMN: Columns = {
    "name": _TEXT, "kind": _TEXT, "unit": _TEXT, "change": _TEXT, "step": _NUMBER, "values": pa.list_(_TEXT),
    "edges": _NUMBERS, "counts": pa.list_(_COUNT), "least": _NUMBER, "most": _NUMBER,
}  # fmt: skip

# What each model (judge) says to the changes that were made on `model` within a radius; prediction -1: no answer.
TRANSFER: Columns = {"model": _TEXT, "radius": _TEXT, "judge": _TEXT, "example": _COUNT, "prediction": _COUNT}

_MODEL: Columns = {"model": _TEXT}
TABLES: dict[Table, Columns] = {
    "examples": {**_MODEL, **PREDICTION, "picture": _TEXT},
    "explanations": {**_MODEL, **EXPLANATION},
    "maps": {**_MODEL, "explainer": _TEXT, **MAP},
    "moved": {**_MODEL, "explainer": _TEXT, **MOVED},
    "traces": {**_MODEL, "explainer": _TEXT, **TRACE},
    "places": {**_MODEL, "explainer": _TEXT, **PLACE},
    "parts": {**_MODEL, "explainer": _TEXT, **PART},
    "answers": {**_MODEL, **ANSWER},
    "columns": COLUMN,
    "transfer": TRANSFER,
}

# Everything that an evaluation leaves in its folder, but the file that says whose the folder is.
OWN_FILES = ("record.json", *(f"{name}.parquet" for name in TABLES), "shards", "pictures")


def in_norm(key: str, norm: str) -> str:
    """The key of a figure of distances. `attack_ara` and `attack_rmse_median` are, in linf, `attack_ara:linf` and
    `attack_median:linf`.
    """
    return key if norm == "rmse" else f"{key.replace('rmse_', '')}:{norm}"


def distance_column(search: str, norm: str) -> str:
    """The column of a search's distances in the norm that it makes small (see `Record.norms`)."""
    return f"{search}_{'rmse' if norm == 'rmse' else 'size'}"


def corrupted_column(corruption: str, severity: int) -> str:
    """The column of predictions for corrupted examples; -1: no answer."""
    return f"corrupted_{corruption}_{severity}"


def columns_of(
    table: Table,
    *,
    searches: Iterable[str] = (),
    radii: Iterable[str] = (),
    measures: Iterable[str] = (),
    corrupted: Iterable[tuple[str, int]] = (),
    certified: bool = False,
) -> Columns:
    """All columns of a table, in order. searches, radii, measures: the keys of these in `Record`.

    corrupted: corruptions' keys with their severities.
    """
    columns = dict(TABLES[table])
    if table == "examples":
        columns |= {f"{search}_{name}": kind for search in searches for name, kind in SEARCH.items()}
        columns |= {f"within_{radius}_{name}": kind for radius in radii for name, kind in RADIUS.items()}
        columns |= {corrupted_column(key, severity): _COUNT for key, severity in corrupted}
        columns |= {f"certify_{name}": kind for name, kind in CERTIFICATE.items() if certified}
    return maps_of(measures) if table == "maps" else columns


def maps_of(measures: Iterable[str]) -> Columns:
    """All columns of maps.parquet, in order: one for each key of `Record.measures`.

    undefined: JSON, key of a measure -> why this map has no such value; null where it has all of them.
    """
    head = {name: kind for name, kind in TABLES["maps"].items() if name not in ("change", "completeness", "map")}
    return {**head, **dict.fromkeys(measures, _NUMBER), "undefined": _TEXT, **TABLES["maps"]}
