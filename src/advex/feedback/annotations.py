"""What people said, as `advex train` takes it: annotated folders, and projects of `advex annotate`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advex.data import AnnotationPolicy
from advex.errors import SpecError, did_you_mean

_KEY = "annotations"
_OPTIONS = {"agree": str, "unsure": float, "database": str}


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The `annotations...=` among a recipe's changes. database: of the project, where it is not in its folder."""

    project: Path | None = None
    database: str | None = None
    rule: AnnotationPolicy = field(default_factory=AnnotationPolicy)

    @contextlib.contextmanager
    def folders(self, others: Sequence[Path]) -> Iterator[list[Path]]:
        """Annotated folders to train on: others, and after them the project as one, as long as the block lasts."""
        if self.project is None:
            yield list(others)
            return
        from advex.annotation import project as projects
        from advex.feedback import folders as answers

        with tempfile.TemporaryDirectory() as scratch, projects.opened(self.project, self.database) as store:
            folder = Path(scratch) / self.project.resolve().name
            answers.write_folder(store, folder)
            yield [*others, folder]


def annotations_in(changes: Sequence[str]) -> tuple[Annotations, list[str]]:
    """What `annotations=PROJECT`, `annotations.agree=all`, `annotations.unsure=0.5` say, and the other changes.

    Raises SpecError.
    """
    given: dict[str, Any] = {}
    others = []
    for change in changes:
        key, _, value = change.partition("=")
        name, _, option = key.strip().partition(".")
        if name != _KEY:
            others.append(change)
        elif not option:
            given["project"] = Path(value.strip())
        elif option in _OPTIONS:
            given[option] = _value(key.strip(), _OPTIONS[option], value.strip())
        else:
            raise SpecError(f"There is no '{key}': {did_you_mean(option, _OPTIONS)}")
    rule = AnnotationPolicy(**{name: given.pop(name) for name in ("agree", "unsure") if name in given})
    return Annotations(rule=rule, **given), others


def _value(key: str, kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SpecError(f"{key}={text} is not a number.") from None
