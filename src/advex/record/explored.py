"""explored/: explanations that somebody kept while exploring a model. A folder each; reports read them.

FOLDER/explanation.json   `Explored`
FOLDER/input.png, changed.png, difference.png and, where they could be drawn, map-input.png, map-changed.png
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from advex.record.versions import read_versioned

NAME = "explanation.json"
SCHEMA = 1


class Explored(BaseModel):
    """One explanation: how to make it again, and what came of it.

    source: the model as it was named. weights: SHA-256 of what decides its answers. data, example, label: of an
    example; None for a picture of one's own. name: what the picture is called. note: what was done to it. target: the
    class asked about. rho: RMSE of the change, None: as little as is needed. search: a spec, `none` at rho 0.
    command: gives the same of input.png; may be empty. before, after: confidences by class. reached: the decision is
    the target. png_rmse, png_after: of the decoded 8-bit PNG. gain: by how much the difference is drawn larger than it
    is. explainer: of the maps, a spec. reach: where their common scale ends; 0: nothing counts. no_maps: why there are
    none. doubt: why there is no change either.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")
    schema_version: int = SCHEMA
    advex: str
    created: datetime
    model: str
    source: str
    weights: str
    data: str | None
    example: int | None
    name: str
    label: str | None
    note: str = ""
    class_names: list[str]
    target: int
    rho: float | None
    search: str
    seed: int
    command: str = ""
    before: list[float]
    after: list[float]
    rmse: float
    reached: bool
    png_rmse: float
    png_after: list[float]
    gain: float
    explainer: str
    reach: float
    no_maps: str = ""
    doubt: str = ""
    seconds: float

    @property
    def says(self) -> tuple[int, int, int]:
        """The decision before, after, and on the decoded 8-bit PNG."""
        shares = (self.before, self.after, self.png_after)
        before, after, png = (max(range(len(each)), key=each.__getitem__) for each in shares)
        return before, after, png


def picture_name(which: str) -> str:
    """The file of a picture: `map_input` -> `map-input.png`."""
    return f"{which.replace('_', '-')}.png"


def read_explored(folder: Path) -> list[tuple[Path, Explored]]:
    """What is kept in a folder, the newest first. Raises ArtifactError for what is not of this form."""
    kept = []
    for path in folder.glob(f"*/{NAME}"):
        if path.parent.name.startswith("."):  # being written
            continue
        kept.append((path.parent, read_versioned(path, Explored, SCHEMA, {}, "an explanation that was kept")))
    return sorted(kept, key=lambda each: (each[1].created, each[0].name), reverse=True)
