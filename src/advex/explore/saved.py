"""Explanations that are kept: a folder each, and one page that shows them all."""

from __future__ import annotations

from pathlib import Path

from advex import report
from advex.errors import SpecError
from advex.explore.requests import ExploreResponse
from advex.files import atomic_folder
from advex.record.explored import NAME, Explored, picture_name, read_explored


def check_folder(folder: Path) -> None:
    """Raise SpecError unless explanations can be kept there and nothing of anybody else's is overwritten."""
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file: choose another folder.")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    kept = {path.parent.name for path in folder.glob(f"*/{NAME}")}
    if others := [name for name in names if name not in kept and not (kept and name == "report.html")]:
        listed = ", ".join(others[:3])
        raise SpecError(f"{folder} contains {listed}, which is not a saved explanation: choose another folder.")


def save(folder: Path, key: str, response: ExploreResponse) -> tuple[str, int]:
    """Keep an explanation, and write the page anew. Returns the folder's name, and how many there are.

    key: of the explanation, which is kept once, however often it is saved. A folder appears under its name with all
    that belongs to it on the disk. Raises ArtifactError.
    """
    entry = Explored.model_validate(response.entry)
    name = f"{entry.created:%Y%m%d-%H%M%S}-{key[:8]}"
    if not (folder / name).exists():
        with atomic_folder(folder / name) as new:
            for which, png in response.pictures.items():
                (new / picture_name(which)).write_bytes(png)
            (new / NAME).write_text(entry.model_dump_json(indent=1) + "\n", encoding="utf-8")
    report.write_report(folder)
    return name, len(read_explored(folder))
