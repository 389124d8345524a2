"""Opening the projects of `advex annotate`. Imports no model code: the server starts at once and stays small."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from advex.annotation import FILE, PICTURES
from advex.errors import SpecError, install_extra
from advex.files import writing

if TYPE_CHECKING:
    from advex.annotation.store import Store

DATABASE = "ADVEX_ANNOTATION_DATABASE"


@contextlib.contextmanager
def opened(folder: Path, database: str | None = None, *, new: bool = False) -> Iterator[Store]:
    """The store of a project. new: create it if there is none. Raises SpecError without a project or the extra."""
    try:
        from advex.annotation.store import Store
    except ModuleNotFoundError as error:
        raise SpecError(f"advex annotate needs {error.name}: {install_extra('annotate')}") from None
    url = database or os.environ.get(DATABASE)
    if not new and not (folder / PICTURES).is_dir():
        raise SpecError(f"{folder} is not a project: make one with advex annotate prepare --out {folder}.")
    if not new and not url and not (folder / FILE).is_file():
        raise SpecError(f"{folder} has no {FILE}: give its database with --database, or in {DATABASE}.")
    if new:
        with writing(folder):
            (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    store = Store(folder, url)
    try:
        if not new:
            store.project()
        yield store
    finally:
        store.close()
