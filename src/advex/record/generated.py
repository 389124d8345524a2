"""generated.json: pictures of classes that a model made from seeds, beside them and their contact sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advex.documents import read_json
from advex.errors import ArtifactError

GENERATED, SHEET = "generated.json", "sheet.png"


def read_generated(folder: Path) -> dict[str, Any]:
    """What a folder's generated.json holds. Raises ArtifactError where it is none."""
    held = read_json(folder / GENERATED, "a list of generated pictures", ArtifactError)
    try:
        sentence(held)
    except (KeyError, TypeError):
        raise ArtifactError(f"{folder / GENERATED} holds no list of generated pictures.") from None
    return held


def sentence(generated: dict[str, Any]) -> str:
    """How many of the pictures the model takes for their class, beside how many of the seeds."""
    inputs = generated["inputs"]
    reached = sum(each["generated"]["says"] == each["label"] for each in inputs)
    before = sum(each["says"] == each["label"] for each in inputs)
    return (
        f"{generated['model']} takes {reached} of {len(inputs)} pictures for their class, and {before} of their seeds. "
        f"Search: {generated['search']}."
    )
