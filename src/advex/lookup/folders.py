"""Folders as named on the command line, to write into."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from advex.errors import SpecError
from advex.files import is_temporary
from advex.ownership import owned


@contextlib.contextmanager
def opened_folder(
    folder: Path, ours: tuple[str, ...], overwrite: bool | None, *, shared: bool = False
) -> Iterator[Path]:
    """A folder to write into, of this process (or, shared, its copies) alone until the block ends: see `owned`.

    Raises SpecError when it holds only files that are not `ours`; what a killed process left unfinished always is.
    ArtifactError when another process has it, or it cannot be written.
    overwrite: the verb's option, which allows other files too; None where the verb has no such option.
    """
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file: choose another folder.")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if names and not overwrite and not any(name in ours or is_temporary(name) for name in names):
        whose = " and not ours" if ours else ""
        refusal = f"{folder} is not empty{whose} (it contains {', '.join(names[:3])}): choose another folder"
        if overwrite is None:
            raise SpecError(f"{refusal}.")
        raise SpecError(
            f"{refusal}, or pass --overwrite (in Python overwrite=True) to write into it. Other files there are kept."
        )
    with owned(folder, ours, shared=shared):
        yield folder
