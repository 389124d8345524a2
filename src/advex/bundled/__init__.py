"""The networks that come with advex: each a saved classifier, with all that made it.

NAME/config.json, model.safetensors         the classifier: `advex.load("builtin:NAME")`
NAME/recipe.yaml, env.json, metrics.jsonl   how it was trained: the run folder's own files
NAME/figures.json                           what was measured of it, by which searches, on which images
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from advex import registry
from advex.errors import ArtifactError, SpecError, did_you_mean
from advex.record import Figure

__all__ = ["FIGURES", "KNOWS", "PREFIX", "Figures", "figures", "folder", "names", "nearest"]

PREFIX = "builtin:"
FIGURES = "figures.json"
KNOWS = {
    "builtin:photos-robust": "twenty kinds of animals and things (photos of 64x64 pixels)",
    "builtin:cifar10-robust": "ten kinds of animals and vehicles (CIFAR-10, 32x32 pixels)",
}  # the networks that are asked where none is named
_SMALL = 48  # pixels of the shorter side; below it a picture is nearer to 32 than to 64


class Figures(BaseModel):
    """What was measured of a bundled network. searches: name -> spec. scores: as in a record, by name.

    examples: images of `data`, on which scores and searches are. published: the scores by the papers' own
    protocol, on the first `published_examples` of them. training: on what, how long.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: str
    data: str
    examples: int
    searches: dict[str, str]
    scores: dict[str, Figure]
    published_examples: int = 0
    published: dict[str, Figure] = {}
    training: str


def names() -> dict[str, Path]:
    """The bundled classifiers: name -> folder."""
    return {path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob("*/config.json"))}


def folder(source: str) -> Path:
    """The folder of `builtin:NAME`. Raises SpecError, with a suggestion, where no such network is bundled."""
    name, known = source.removeprefix(PREFIX), names()
    if name not in known:
        raise SpecError(f"There is no bundled model '{name}': {did_you_mean(name, known)}")
    return known[name]


def nearest(side: int | None) -> str:
    """Of the networks that are asked where none is named, the one whose size is nearer to a picture's shorter side.

    side: in pixels; None, where it is not known, takes the one for photos.
    """
    photos, small = KNOWS
    return small if side is not None and side < _SMALL else photos


def figures(name: str) -> Figures:
    """What was measured of a bundled network. Raises SpecError for an unknown name, ArtifactError for a bad file."""
    path = folder(name) / FIGURES
    try:
        return Figures.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{path} does not contain the figures of a network: {str(error).splitlines()[0]}."
        ) from None


def _load(folder: Path) -> Any:
    from advex import artifacts

    return artifacts.load(folder)


for _name, _folder in names().items():
    _listing = registry.Listing(_folder, lambda name=_name: figures(name).summary)
    registry.register("builtin", _name, module=__name__, listing=_listing)(partial(_load, _folder))
