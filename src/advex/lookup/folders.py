"""Folders as named on the command line, to write into."""

from __future__ import annotations

from pathlib import Path

from advex.errors import SpecError
from advex.files import is_temporary


def prepare_folder(folder: Path, ours: tuple[str, ...], overwrite: bool | None) -> Path:
    """See that a folder may be written into. Raises SpecError when it holds only files that are not `ours`.

    A file that a killed process left unfinished is always ours (`files.is_temporary`).
    overwrite: the verb's option, which allows such a folder too; None where the verb has no such option.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; --out needs a folder.")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if names and not overwrite and not any(name in ours or is_temporary(name) for name in names):
        refusal = f"{folder} is not empty and not ours (it holds {', '.join(names[:3])}): choose another --out"
        if overwrite is None:
            raise SpecError(f"{refusal}.")
        raise SpecError(f"{refusal}, or say --overwrite to write into it. Other files there are left alone.")
    return folder
