"""Where the data of a paper's rows are opened from: as the user named them, and as the paper had them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from advex import registry
from advex.errors import DataError, SpecError
from advex.files import at_home
from advex.papers import Paper

Available = Callable[[str], object]  # raises DataError for a source that is not there


def data_from(given: Sequence[str]) -> dict[str, str]:
    """`PATH` and `NAME=PATH` -> where the data sets are; "" stands for every one. Raises SpecError."""
    sources: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists() or ":" in name or "/" in name:
            name, path = "", text
        if name in sources:
            raise SpecError(f"--data is given twice for {name or 'all rows'}: {sources[name]} and {path}.")
        sources[name] = path
    return sources


def checked(paper: Paper, ids: Sequence[str], named: Mapping[str, str], available: Available) -> dict[str, str]:
    """Where the data sets are that the user named. Raises SpecError and DataError."""
    wanted = sorted({data_of(paper, row) for row in ids if not paper.original(paper.rows[row]).needs})
    if unknown := named.keys() - {"", *wanted}:
        raise SpecError(f"--data {min(unknown)}=...: the selected rows use {' and '.join(wanted) or 'no data'}.")
    if "" in named and len(wanted) > 1:
        example = " ".join(f"--data {name}=PATH" for name in wanted)
        raise SpecError(f"The selected rows use several data sets: give the location of each, {example}.")
    sources = {name: named[""] for name in wanted if "" in named} | {key: value for key, value in named.items() if key}
    for source in sources.values():
        available(source)
    return {name: as_published(paper, name, available, source) for name, source in sources.items()}


def data_of(paper: Paper, row: str) -> str:
    """The data set that a row is on, by the paper's name of it."""
    original = paper.original(paper.rows[row])
    return original.data or paper.tables[paper.table_of(original.id)].data


def as_published(paper: Paper, name: str, available: Available, named: str = "") -> str:
    """The source of a data set with the options that the paper has for it.

    named: by the user; a folder becomes the loader's root, unless it is in another form, and anything else says itself
    how it is opened.
    """
    options = paper.sets[name].options if name in paper.sets else {}
    if not options or (named not in ("", name) and not at_home(named).is_dir()):
        return named or name
    if named in ("", name):
        return registry.write(name, options)
    source = registry.write(name, {**options, "root": named})
    try:
        available(source)
    except DataError:
        return named
    return source
