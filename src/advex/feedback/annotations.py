"""Annotated pictures as `advex train` takes them: annotated folders, and projects of `advex annotate`."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advex import data as sets
from advex.data import MAJORITY, AnnotationPolicy, Dataset
from advex.data.images.streamed import Examples
from advex.errors import AdvexWarning, SpecError, which_option
from advex.lookup.datasets import is_held_out
from advex.progress import QUIET, Terminal

_KEY = "annotations"
_OPTIONS = {"agree": str, "unsure": float, "database": str}


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The `annotations...=` among a recipe's changes. database: of the project, where it is not in its folder."""

    project: Path | None = None
    database: str | None = None
    policy: AnnotationPolicy = field(default_factory=AnnotationPolicy)

    @contextlib.contextmanager
    def folders(self, others: Sequence[Path]) -> Iterator[list[Path]]:
        """Annotated folders to train on: others, and after them the project as one, as long as the block lasts."""
        if self.project is None:
            yield list(others)
            return
        from advex.annotation import project
        from advex.feedback.folders import write_folder

        with tempfile.TemporaryDirectory() as scratch, project.opened(self.project, self.database) as store:
            folder = Path(scratch) / self.project.resolve().name
            write_folder(store, folder)
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
            raise SpecError(f"Unknown setting '{key}': {which_option(option, _OPTIONS)}")
    policy = AnnotationPolicy(**{name: given.pop(name) for name in ("agree", "unsure") if name in given})
    return Annotations(policy=policy, **given), others


def _value(key: str, kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise SpecError(f"{key}={text} is not a number.") from None


def with_annotated(
    examples: Examples,
    folders: Sequence[Path],
    say: Terminal = QUIET,
    *,
    source: str,
    trained: str | None,
    validation: str | None = None,
    policy: AnnotationPolicy = MAJORITY,
) -> Examples:
    """Training examples, and after them the pictures of annotated folders that count by a policy.

    source: the data that the examples are from; trained: their split of it. Raises DataError where a picture was made
    from an example of the validation split, or of one that is for tests by its name; warns where that cannot be told.
    SpecError for a folder that is not annotated.
    """
    held_out = {validation, *filter(is_held_out, sets.splits(source))} - {trained, None}
    ids = sets.ids(source, [trained, *sorted(held_out)]) if folders and held_out else {}
    for folder in folders:
        if not sets.is_annotated(str(folder)):
            raise SpecError(f"--add {folder} contains no {sets.TABLE}; see docs/annotated.md.")
        if not isinstance(examples, Dataset):
            raise SpecError(
                f"--add {folder}: annotated pictures can only be added to data in memory, but those of "
                f"{examples.name} are streamed. Use a recipe with streamed=false, and two factors or nothing "
                "for resize."
            )
        # Grey pictures among colour are the same in three channels; the other way round something is lost.
        channels = 3 if len(examples.shape) == 3 and examples.shape[0] == 3 else None
        with say.progress(f"read {folder}", brief=True) as bar:
            added = sets.open_dataset(folder, channels=channels, policy=policy, progress=bar)
        say.note(sets.describe(added))
        whole = sets.concatenate(examples, added)
        known = {str(split): names for split, names in ids.items() if split in held_out}
        untraced = sets.untraced(added, ids[trained], known) if held_out else []
        if untraced:
            warnings.warn(
                f"{added.name}: it is not known whether {len(untraced)} of {len(added)} pictures (e.g. "
                f"{untraced[0]}) were made from the {' or '.join(sorted(known))} split: their source_id "
                f"matches no example of {source}.",
                AdvexWarning,
                stacklevel=2,
            )
        answers = sum(sum(part.answers.values()) for part in added.parts)
        say.note(
            f"added to {examples.name}: {_counted(added)} of {added.name}, by {answers:,} answers; "
            f"{len(whole):,} examples to train on"
        )
        examples = whole
    return examples


def _counted(added: Dataset) -> str:
    light = 0 if added.weights is None else int((added.weights < 1).sum())
    undecided = f" and {light:,} undecided" if light else ""
    return f"{len(added) - light:,} unchanged{undecided} pictures"
