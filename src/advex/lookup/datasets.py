"""Data sets as named on the command line."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from advex import data as sets
from advex.classifier import Classifier
from advex.data import MAJORITY, AnnotationPolicy, Dataset
from advex.errors import AdvexWarning, SpecError
from advex.progress import Terminal

# Splits that nobody trains on by mistake; any other may be there to be learned from.
_HELD_OUT = frozenset(("test", "testing", "val", "valid", "validation", "dev"))


def open_split(
    source: str,
    split: str | None,
    say: Terminal,
    *,
    max_samples: int | None = None,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    like: Dataset | None = None,
    model: Classifier | None = None,
) -> Dataset:
    """A split, decoded with a progress bar, and a line about what was read and what was lost.

    shape: (channels, height, width) or (height, width) wanted; None takes the pictures' own. like, model: of tables,
    the data or the classifier whose columns and classes these are, too; without one they are shown as they are
    understood. Raises SpecError for a model of a table and data that are none.
    """
    known = like or model
    if model is not None and model.features is not None and not sets.is_table(source):
        raise SpecError(f"{source} is not a table, and the model takes rows of one.")
    wanted = shape if shape is not None and len(shape) in (2, 3) else ()
    size = (wanted[-2], wanted[-1]) if wanted else None
    channels = wanted[0] if len(wanted) == 3 else None
    with say.progress(f"read {source}", brief=True) as bar:
        found = sets.open_dataset(
            source, split=split, max_samples=max_samples, seed=seed, size=size, channels=channels, progress=bar,
            features=None if known is None else known.features,
            class_names=None if known is None or known.features is None else known.class_names,
        )  # fmt: skip
    say.note(sets.describe(found))
    if found.features is not None and (known is None or known.features is None):
        say.note("\n".join(aligned(sets.listed(found.features))))
    return found


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of texts as lines, column under column; control characters from files do not reach the terminal."""
    clean = [["".join(c if c.isprintable() else "?" for c in cell)[:60] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return [f"  {'  '.join(map(str.ljust, row, widths))}".rstrip() for row in clean]


def with_annotated(
    examples: Dataset,
    folders: Sequence[Path],
    say: Terminal,
    *,
    source: str,
    trained: str | None,
    validation: str | None = None,
    rule: AnnotationPolicy = MAJORITY,
) -> Dataset:
    """Training examples, and after them the pictures of annotated folders that count by a rule.

    source: the data that the examples are from; trained: their split of it. Raises DataError where a
    picture was made from an example of the validation split, or of one that is for tests by its name;
    warns where that cannot be told. SpecError for a folder that is not annotated.
    """
    held_out = {each for each in sets.splits(source) if each.lower() in _HELD_OUT or each == validation} - {trained}
    ids = sets.ids(source, [trained, *sorted(held_out)]) if held_out else {}
    for folder in folders:
        if not sets.is_annotated(str(folder)):
            raise SpecError(f"--add {folder}: there is no {sets.TABLE} of answers in it; see docs/annotated.md.")
        # Grey pictures among colour are the same in three channels; the other way round something is lost.
        channels = 3 if len(examples.shape) == 3 and examples.shape[0] == 3 else None
        with say.progress(f"read {folder}", brief=True) as bar:
            added = sets.open_dataset(folder, channels=channels, rule=rule, progress=bar)
        say.note(sets.describe(added))
        joined = sets.concatenate(examples, added)
        known = {str(split): of for split, of in ids.items() if split in held_out}
        unknown = sets.untraced(added, ids[trained], known) if held_out else []
        if unknown:
            warnings.warn(
                f"{added.name}: of {len(unknown)} of {len(added)} pictures (e.g. {unknown[0]}) nobody can tell whether "
                f"they were made from the {' or '.join(sorted(known))} split: their source_id names no example of "
                f"{source}.",
                AdvexWarning,
                stacklevel=2,
            )
        answers = sum(sum(part.answers.values()) for part in added.parts)
        say.note(
            f"added to {examples.name}: {_counted(added)} of {added.name}, by {answers:,} answers; "
            f"{len(joined):,} examples to train on"
        )
        examples = joined
    return examples


def _counted(added: Dataset) -> str:
    light = 0 if added.weights is None else int((added.weights < 1).sum())
    undecided = f" and {light:,} undecided" if light else ""
    return f"{len(added) - light:,} unchanged{undecided} pictures"


def is_held_out(split: str) -> bool:
    """Whether a split is, by its name, not to be learned from."""
    return split.lower() in _HELD_OUT


def preferred(source: str, asked: str | None, *names: str) -> str | None:
    """The split asked for, else the first of `names` that the data has, else None: the only one."""
    there = sets.splits(source)
    return asked or next((name for name in names if name in there), None)


def shape_from(text: str) -> tuple[int, ...]:
    """`32`, `32x48` or `3x32x48` -> (height, width) or (channels, height, width). Raises SpecError."""
    pieces = text.lower().split("x")
    if not 1 <= len(pieces) <= 3 or not all(piece.isdecimal() and int(piece) > 0 for piece in pieces):
        raise SpecError(f"'{text}' is not a size; write 32, 32x48 (height x width) or 3x32x48 (with channels).")
    numbers = tuple(int(piece) for piece in pieces)
    numbers = numbers * 2 if len(numbers) == 1 else numbers
    most = Image.MAX_IMAGE_PIXELS  # no larger picture is read, either
    if most is not None and numbers[-2] * numbers[-1] > most:
        raise SpecError(f"'{text}' is too large a size: a picture has at most {most:,} pixels.")
    return numbers


def class_number(name: str, class_names: Sequence[str] | None, classes: int) -> int:
    """A class by its name, or by its number where no class has that name. Raises SpecError."""
    from advex.errors import did_you_mean

    if class_names is not None and name in class_names:
        return list(class_names).index(name)
    if name.isdecimal() and int(name) < classes:
        return int(name)
    if class_names is None:
        raise SpecError(f"There is no class '{name}': the model has {classes} classes, 0 to {classes - 1}.")
    raise SpecError(f"There is no class '{name}': {did_you_mean(name, class_names)}")
